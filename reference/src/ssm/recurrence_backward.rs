//! Gradients of the diagonal linear recurrence.

use super::{
    View,
    recurrence::{Field, Number, Params, Recurrence},
};
use crate::{
    algorithm::{Algorithm, Work},
    draw::Draw,
    expected::Outputs,
    tensor::{DType, Tensor, Tensors},
};

/// `ssm.recurrence_backward`: gradients of [`Recurrence`] for a given gradient of h.
///
/// Backwards in time g_t = dh_t + conj(a_{t+1})·g_{t+1}; then dx_t = g_t, da_t = g_t·conj(h_{t−1}), and
/// with `initial_state` dinitial_state = conj(a_1)·g_1. The gradient of a real loss by a complex number
/// is ∂/∂re + i·∂/∂im, the direction of steepest ascent.
///
/// Inputs: `a` and `initial_state` as forward, `h` the states as the forward pass stored them, `dh`;
/// all but the state have the shape and dtype of `h`.
///
/// | output | shape | dtype | meaning |
/// |---|---|---|---|
/// | `dx`, `da` | batch, seq_len, channels (, 2) | dtype | gradients of x and a |
/// | `dinitial_state` | batch, channels (, 2) | f32 | gradient of h_0 (`initial_state`); zero for an empty sequence |
///
/// Source: the derivative of the recurrence; itself a recurrence run backwards (Martin and Cundy,
/// *Parallelizing Linear Recurrent Neural Nets Over Sequence Length*, 2018, section 2.2).
#[derive(Debug)]
pub struct RecurrenceBackward;

/// The states as a forward pass in f64 gives them, rounded to the dtype.
fn states(params: &Params, inputs: &Tensors) -> Tensor {
    let parts = params.parts();
    let (a, x) = (View(inputs.tensor("a")), View(inputs.tensor("x")));
    let mut h = vec![0.0; params.shape().iter().product()];
    let mut state = match params.initial_state {
        true => inputs.tensor("initial_state").to_f64(),
        false => vec![0.0; params.batch * params.channels * parts],
    };
    for (row, out) in h.chunks_exact_mut((params.channels * parts).max(1)).enumerate() {
        let column = row / params.seq_len * params.channels * parts;
        for (c, out) in out.chunks_exact_mut(parts).enumerate() {
            let state = &mut state[column + c * parts..][..parts];
            let at = (row * params.channels + c) * parts;
            match (params.field, &mut *state) {
                (Field::Real, [re]) => *re = a.get(at) * *re + x.get(at),
                (Field::Complex, [re, im]) => {
                    let (p, q) = (a.get(at), a.get(at + 1));
                    (*re, *im) = (p * *re - q * *im + x.get(at), p * *im + q * *re + x.get(at + 1));
                }
                _ => unreachable!("a number has one part or two"),
            }
            out.copy_from_slice(state);
        }
    }
    Tensor::from_real(params.dtype, &params.shape(), &h)
}

impl Algorithm for RecurrenceBackward {
    const NAME: &'static str = "ssm.recurrence_backward";
    const SUMMARY: &'static str = "Gradients of the diagonal linear recurrence, real or complex";
    const ITEMS: &'static str = "tokens";
    type Params = Params;

    fn validate(params: &Params) -> Result<(), String> {
        params.validate()
    }

    fn inputs(params: &Params, draw: &mut Draw) -> Tensors {
        let forward = Recurrence::inputs(params, draw);
        let mut inputs = Tensors::new().with("a", forward.tensor("a").clone());
        inputs.insert("h", states(params, &forward));
        if let Some(initial) = forward.get("initial_state") {
            inputs.insert("initial_state", initial.clone());
        }
        inputs.with("dh", draw.normal(params.dtype, &params.shape(), 1.0))
    }

    fn reference(params: &Params, inputs: &Tensors) -> Outputs {
        let view = |name| View(inputs.tensor(name));
        let (a, h, dh) = (view("a"), view("h"), view("dh"));
        let initial = params.initial_state.then(|| view("initial_state"));
        let read = |view, index| Number::read(view, params.field, index);
        let (mut dx, mut da, mut first) = (Vec::new(), Vec::new(), Vec::new());
        for column in params.columns() {
            let (b, c) = (column / params.channels, column % params.channels);
            let mut carried = Number::default();
            for t in (0..params.seq_len).rev() {
                let at = params.at(b, t, c);
                let g = read(dh, at).plus(carried);
                carried = read(a, at).conj().times(g);
                let before = match t {
                    0 => initial.map_or(Number::default(), |view| read(view, column)),
                    _ => read(h, params.at(b, t - 1, c)),
                };
                dx.push((at, g.scanned()));
                da.push((at, g.scanned().times(before.conj())));
            }
            first.push((column, carried.scanned()));
        }
        let mut outputs = Outputs::new()
            .with("dx", params.expected(&params.shape(), &dx, params.dtype))
            .with("da", params.expected(&params.shape(), &da, params.dtype));
        if params.initial_state {
            let known = params.expected(&params.state_shape(), &first, DType::F32);
            outputs = outputs.with("dinitial_state", known);
        }
        outputs
    }

    /// flops = 3·n for n real numbers, 14·n for complex ones. bytes = inputs + outputs. items =
    /// batch·seq_len.
    fn work(params: &Params, inputs: &Tensors) -> Work {
        let numbers = params.batch * params.seq_len * params.channels;
        let flops = if params.field == Field::Real { 3 } else { 14 };
        let state =
            usize::from(params.initial_state) * params.batch * params.channels * params.parts();
        let outputs = 2 * numbers * params.parts() * params.dtype.bytes() + 4 * state;
        Work {
            flops: (flops * numbers) as f64,
            bytes: (inputs.bytes() + outputs) as f64,
            items: (params.batch * params.seq_len) as f64,
            matrix: false,
            eight_bit: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_real_steps_by_hand() {
        let params = Params {
            batch: 1,
            seq_len: 2,
            channels: 1,
            field: Field::Real,
            dtype: DType::F32,
            initial_state: true,
        };
        let real = |shape: &[usize], values: &[f64]| Tensor::from_real(DType::F32, shape, values);
        let inputs = Tensors::new()
            .with("a", real(&[1, 2, 1], &[0.5, 2.0]))
            .with("h", real(&[1, 2, 1], &[3.0, 7.0]))
            .with("initial_state", real(&[1, 1], &[4.0]))
            .with("dh", real(&[1, 2, 1], &[1.0, 10.0]));
        let outputs = RecurrenceBackward::reference(&params, &inputs);
        // g_2 = 10, g_1 = 1 + 2·10 = 21.
        assert_eq!(outputs.output("dx").values(), [21.0, 10.0]);
        assert_eq!(outputs.output("da").values(), [84.0, 30.0]);
        assert_eq!(outputs.output("dinitial_state").values(), [10.5]);
    }
}
