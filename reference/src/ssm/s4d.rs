//! S4D: a diagonal state space that does not depend on the input, so that it is also a convolution.

use num_complex::Complex64;
use serde::{Deserialize, Serialize};

use super::{
    Term, View, expected, hippo,
    recurrence::{Field, Number},
    sample,
};
use crate::{
    algorithm::{Algorithm, Work},
    draw::Draw,
    expected::Outputs,
    tensor::{DType, Tensor, Tensors},
};

/// Which problem.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Sequences.
    pub batch: usize,
    /// Channels; each has states of its own.
    pub channels: usize,
    /// Time steps.
    pub seq_len: usize,
    /// Complex states of a channel, each standing for itself and its conjugate.
    pub state: usize,
}

impl Params {
    /// Shape of u and y.
    pub fn shape(&self) -> [usize; 3] {
        [self.batch, self.channels, self.seq_len]
    }
}

/// `ssm.s4d`: the diagonal state space of S4D after discretization, f32.
///
/// For every sequence and channel, from h_0 = 0:
///
/// h_t\[n\] = λ\[n\]·h_{t−1}\[n\] + u_t,  y_t = 2·Re Σ_n w\[n\]·h_t\[n\] + D·u_t,
///
/// which is the convolution of u with K_l = 2·Re Σ_n w\[n\]·λ\[n\]^l.
///
/// | input | shape | dtype | meaning |
/// |---|---|---|---|
/// | `u` | batch, channels, seq_len | f32 | the sequence |
/// | `lambda` | channels, state, 2 | f32 | exp(Δ·A): factors, real and imaginary part |
/// | `w` | channels, state, 2 | f32 | C·B̄ |
/// | `D` | channels | f32 | skip weight |
///
/// | output | shape | dtype | meaning |
/// |---|---|---|---|
/// | `y` | batch, channels, seq_len | f32 | the answer |
///
/// # Error model
/// The recurrence's is that of the scans. A convolution by FFT errs by norms: a radix-2 FFT of n points by at
/// most 4·log₂n·U of its norm (a complex product √5, an addition 1, a twiddle 1; Higham, section 24.1). With
/// the transforms of K and u and the one back, |error of y| ≤ U·(8·log₂n·‖K‖₂ + (4·log₂n + 3)·‖K‖₁)·‖u‖₂ by
/// Cauchy and Schwarz and by Young. Two sequences may share a complex transform: ‖u‖₂ is √2 of the largest of the
/// channel. Powers of λ by repeated products err as the recurrence does.
///
/// Source: Gu et al., *On the Parameterization and Initialization of Diagonal State Space Models* (2022),
/// sections 3 and 4.
#[derive(Debug)]
pub struct S4d;

/// State updates a reference computes before it samples channels.
const MOST_UPDATES: usize = 1 << 22;

impl Algorithm for S4d {
    const NAME: &'static str = "ssm.s4d";
    const SUMMARY: &'static str = "S4D's diagonal state space: a scan, or a convolution";
    const ITEMS: &'static str = "tokens";
    type Params = Params;

    fn validate(_: &Params) -> Result<(), String> {
        Ok(())
    }

    /// A of S4D-Lin, Δ log-uniform in 0.001..0.1 by channel, C normal, zero-order hold.
    fn inputs(params: &Params, draw: &mut Draw) -> Tensors {
        let &Params { channels, state, .. } = params;
        let (mut lambda, mut w) = (Vec::new(), Vec::new());
        for _ in 0..channels {
            let dt = 0.001 * (100f64.ln() * draw.unit()).exp();
            for n in 0..state {
                let (factor, input) = hippo::zero_order_hold(hippo::s4d_lin(n), dt);
                let c = Complex64::new(draw.standard_normal(), draw.standard_normal());
                let weight = c * input;
                lambda.extend([factor.re, factor.im]);
                w.extend([weight.re, weight.im]);
            }
        }
        let of_states =
            |values: &[f64]| Tensor::from_real(DType::F32, &[channels, state, 2], values);
        Tensors::new()
            .with("u", draw.normal(DType::F32, &params.shape(), 1.0))
            .with("lambda", of_states(&lambda))
            .with("w", of_states(&w))
            .with("D", draw.normal(DType::F32, &[channels], 1.0))
    }

    fn reference(params: &Params, inputs: &Tensors) -> Outputs {
        let &Params { batch, channels, seq_len, state } = params;
        let [u, lambda, w, d] = ["u", "lambda", "w", "D"].map(|name| View(inputs.tensor(name)));
        let at = |b: usize, c: usize| (b * channels + c) * seq_len;
        let norm = |b: usize, c: usize| {
            (at(b, c)..at(b, c) + seq_len).map(|i| u.get(i).powi(2)).sum::<f64>().sqrt()
        };
        let mut y = Vec::new();
        let lines = MOST_UPDATES / (seq_len * state).max(1);
        for line in sample(batch * channels, lines) {
            let (b, c) = (line / channels, line % channels);
            let states = c * state..(c + 1) * state;
            let read = |view, i| Number::read(view, Field::Complex, i);
            let factors: Vec<Number> = states.clone().map(|i| read(lambda, i)).collect();
            let weights: Vec<Number> = states.map(|i| read(w, i)).collect();
            let largest = (0..batch).map(|b| norm(b, c)).fold(0.0, f64::max);
            let by_fft = 2f64.sqrt() * largest * fft_error(&factors, &weights, seq_len);
            let mut h = vec![Number::default(); state];
            for t in 0..seq_len {
                let input = u.get(at(b, c) + t);
                let mut sum = Term::default();
                for ((h, &factor), &weight) in h.iter_mut().zip(&factors).zip(&weights) {
                    *h = factor.times(*h).plus(Number::real(input));
                    sum.accumulate(weight.times(h.scanned()).real_part().times(Term::exact(2.0)));
                }
                sum.accumulate(Term::exact(d.get(c)).times(Term::exact(input)));
                let mut sum = sum.summed(state as f64 + 2.0);
                sum.error += by_fft;
                y.push((at(b, c) + t, sum));
            }
        }
        Outputs::new().with("y", expected(&params.shape(), y, DType::F32))
    }

    /// flops = batch·channels·seq_len·(12·state + 2), the scan's: a complex product and sum 8 a state, the
    /// real part of a product 4; the skip. bytes = inputs + y. items = batch·seq_len.
    fn work(params: &Params, inputs: &Tensors) -> Work {
        let steps = params.batch * params.channels * params.seq_len;
        Work {
            flops: (steps * (12 * params.state + 2)) as f64,
            bytes: (inputs.bytes() + steps * 4) as f64,
            items: (params.batch * params.seq_len) as f64,
            matrix: false,
            eight_bit: false,
        }
    }
}

/// What a convolution by FFT may err by, in units of [`super::U`] and for a signal of norm 1; see [`S4d`].
fn fft_error(factors: &[Number], weights: &[Number], seq_len: usize) -> f64 {
    let complex = |n: &Number| Complex64::new(n.re, n.im);
    let mut powers: Vec<Complex64> = weights.iter().map(complex).collect();
    let (mut sum, mut squares) = (0.0, 0.0);
    for _ in 0..seq_len {
        let k = 2.0 * powers.iter().map(|p| p.re).sum::<f64>();
        (sum, squares) = (sum + k.abs(), squares + k * k);
        powers.iter_mut().zip(factors).for_each(|(p, factor)| *p *= complex(factor));
    }
    let stages = (2.0 * seq_len.max(1) as f64).log2().ceil();
    8.0 * stages * squares.sqrt() + (4.0 * stages + 3.0) * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_steps_by_hand() {
        let params = Params { batch: 1, channels: 1, seq_len: 2, state: 1 };
        let real = |shape: &[usize], values: &[f64]| Tensor::from_real(DType::F32, shape, values);
        let inputs = Tensors::new()
            .with("u", real(&[1, 1, 2], &[3.0, 1.0]))
            .with("lambda", real(&[1, 1, 2], &[0.0, 0.5]))
            .with("w", real(&[1, 1, 2], &[1.0, 2.0]))
            .with("D", real(&[1], &[10.0]));
        let outputs = S4d::reference(&params, &inputs);
        // h_1 = 3, h_2 = 1 + 1.5i: 2·Re(w·h) = 6 and 2·(1 − 3).
        assert_eq!(outputs.output("y").values(), [36.0, 6.0]);
    }
}
