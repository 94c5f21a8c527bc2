//! RWKV-7: a state that takes back what a key once gave it.

use super::{Term, View, exp_error, expected, retention::Params, sample};
use crate::{
    algorithm::{Algorithm, Work},
    draw::Draw,
    expected::Outputs,
    tensor::{DType, Tensor, Tensors},
};

/// `ssm.rwkv7`: the time mixing of RWKV-7, a delta rule with a decay and a rate for every key dimension.
///
/// For every sequence and head, from S_0 = `initial_state` or 0:
///
/// S_t = S_{t−1}·(diag(exp w_t) + a_t·b_tᵀ) + v_t·k_tᵀ,  o_t = S_t·r_t
///
/// | input | shape | dtype | meaning |
/// |---|---|---|---|
/// | `r`, `k` | batch, seq_len, heads, key_dim | dtype | receptances (queries) and keys |
/// | `v` | batch, seq_len, heads, value_dim | dtype | values |
/// | `w` | batch, seq_len, heads, key_dim | dtype | logarithms of the decays, at most 0 |
/// | `a`, `b` | batch, seq_len, heads, key_dim | dtype | −κ̂ and κ̂∘(rate): what is taken, and where from |
/// | `initial_state` | batch, heads, value_dim, key_dim | dtype | S_0 (`initial_state`) |
///
/// | output | shape | dtype | meaning |
/// |---|---|---|---|
/// | `o` | batch, seq_len, heads, value_dim | dtype | the answer |
/// | `last_state` | batch, heads, value_dim, key_dim | dtype | S after the last step; S_0 for an empty sequence |
///
/// # Error model
/// A row s of the state passes through M_t = diag(exp w) + a·bᵀ, which mixes its elements, so the error is
/// bounded by its Euclidean norm: e_t = ‖M_t‖·e_{t−1} + ‖what the step rounds‖, and an element errs by e_t at
/// most. Bounds by element would grow with ‖|M_t|‖ > 1 although the error does not.
///
/// Source: Peng et al., *RWKV-7 "Goose" with Expressive Dynamic State Evolution* (2025), equations 16 to 18;
/// the layout of flash-linear-attention's `rwkv7`.
#[derive(Debug)]
pub struct Rwkv7;

/// State updates a reference computes before it samples rows of states.
const MOST_UPDATES: usize = 1 << 22;

/// One head of one sequence: [seq_len, key_dim] each.
struct Head {
    width: usize,
    r: Vec<f64>,
    k: Vec<f64>,
    w: Vec<f64>,
    a: Vec<f64>,
    b: Vec<f64>,
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    // Not `sum`: that of nothing is −0.
    x.iter().zip(y).fold(0.0, |sum, (x, y)| sum + x * y)
}

fn norm(x: &[f64]) -> f64 {
    dot(x, x).sqrt()
}

impl Head {
    fn new(params: &Params, inputs: &Tensors, b: usize, h: usize) -> Self {
        let &Params { seq_len, heads, key_dim, .. } = params;
        let rows = |name: &str| {
            let view = View(inputs.tensor(name));
            let at = |t: usize| ((b * seq_len + t) * heads + h) * key_dim;
            (0..seq_len).flat_map(|t| (at(t)..at(t) + key_dim).map(move |i| view.get(i))).collect()
        };
        Self {
            width: key_dim,
            r: rows("r"),
            k: rows("k"),
            w: rows("w"),
            a: rows("a"),
            b: rows("b"),
        }
    }

    fn at<'a>(&self, array: &'a [f64], t: usize) -> &'a [f64] {
        &array[t * self.width..][..self.width]
    }

    /// s·M_t.
    fn passed(&self, s: &[f64], t: usize) -> Vec<f64> {
        let taken = dot(s, self.at(&self.a, t));
        let (w, b) = (self.at(&self.w, t), self.at(&self.b, t));
        s.iter().zip(w).zip(b).map(|((s, w), b)| s * w.exp() + taken * b).collect()
    }

    /// ‖M_t‖ by power iteration with M_t·M_tᵀ, which falls short of it by less than the 1 % added.
    fn norm(&self, t: usize) -> f64 {
        if self.width == 0 {
            return 0.0;
        }
        let (w, a, b) = (self.at(&self.w, t), self.at(&self.a, t), self.at(&self.b, t));
        let mut x: Vec<f64> = (0..self.width).map(|i| 1.0 + 0.1 * (i as f64).sin()).collect();
        let mut size = 0.0;
        for _ in 0..24 {
            let scale = norm(&x);
            let y = self.passed(&x, t);
            size = norm(&y) / scale;
            let taken = dot(&y, b);
            x = y
                .iter()
                .zip(w)
                .zip(a)
                .map(|((y, w), a)| (y * w.exp() + taken * a) / scale)
                .collect();
        }
        1.01 * size
    }

    /// Follows one row of the state, whose value at step t is `v[t]`: answers, and the last row.
    fn line(&self, v: &[f64], norms: &[f64], mut s: Vec<f64>) -> (Vec<Term>, Vec<Term>) {
        let n = self.width as f64;
        let (mut error, mut out) = (0.0, Vec::new());
        for (t, &v) in v.iter().enumerate() {
            let (w, a, b, k) = (
                self.at(&self.w, t),
                self.at(&self.a, t),
                self.at(&self.b, t),
                self.at(&self.k, t),
            );
            let taken: f64 = s.iter().zip(a).map(|(s, a)| (s * a).abs()).sum();
            // The decay and its product; the sum that is taken and its product; v·k; two additions.
            let rounded: Vec<f64> = (0..self.width)
                .map(|i| {
                    let decayed = (s[i] * w[i].exp()).abs() * (exp_error(w[i]) + 3.0);
                    decayed + taken * b[i].abs() * (n + 3.0) + 3.0 * (v * k[i]).abs()
                })
                .collect();
            error = norms[t] * error + norm(&rounded);
            s = self.passed(&s, t);
            s.iter_mut().zip(k).for_each(|(s, k)| *s += v * k);
            let r = self.at(&self.r, t);
            let magnitude: f64 = s.iter().zip(r).map(|(s, r)| (s * r).abs()).sum();
            out.push(Term::with_error(dot(&s, r), norm(r) * error + n * magnitude));
        }
        (out, s.into_iter().map(|s| Term::with_error(s, error)).collect())
    }
}

impl Algorithm for Rwkv7 {
    const NAME: &'static str = "ssm.rwkv7";
    const SUMMARY: &'static str = "RWKV-7's time mixing: a gated delta rule";
    const ITEMS: &'static str = "tokens";
    type Params = Params;

    fn validate(params: &Params) -> Result<(), String> {
        params.validate()
    }

    /// Decays exp(−e^(−1/2)·σ(z)) and rates σ(z) with z standard normal, κ̂ a random direction, as the
    /// paper's equations 4 to 8 give them.
    fn inputs(params: &Params, draw: &mut Draw) -> Tensors {
        let (dtype, shape) = (params.dtype, params.sizes().projections());
        let sigmoid = |d: &mut Draw| 1.0 / (1.0 + (-d.standard_normal()).exp());
        let drawn = params.draw(draw);
        let mut kappa = draw.normal(DType::F64, &shape, 1.0).to_f64();
        for row in kappa.chunks_mut(params.key_dim.max(1)) {
            let size = norm(row);
            row.iter_mut().for_each(|x| *x /= size);
        }
        let rate = draw.real(DType::F64, &shape, sigmoid).to_f64();
        let a: Vec<f64> = kappa.iter().map(|x| -x).collect();
        let b: Vec<f64> = kappa.iter().zip(&rate).map(|(x, rate)| x * rate).collect();
        let mut inputs = Tensors::new()
            .with("r", drawn.tensor("q").clone())
            .with("k", drawn.tensor("k").clone())
            .with("v", drawn.tensor("v").clone())
            .with("w", draw.real(dtype, &shape, |d| -(-0.5f64).exp() * sigmoid(d)))
            .with("a", Tensor::from_real(dtype, &shape, &a))
            .with("b", Tensor::from_real(dtype, &shape, &b));
        if let Some(initial) = drawn.get("initial_state") {
            inputs.insert("initial_state", initial.clone());
        }
        inputs
    }

    fn reference(params: &Params, inputs: &Tensors) -> Outputs {
        let &Params { batch, seq_len, heads, key_dim, value_dim, dtype, .. } = params;
        let (v, initial) = (View(inputs.tensor("v")), inputs.get("initial_state").map(View));
        let lines = (MOST_UPDATES / (seq_len * key_dim).max(1)).max(1);
        let all = batch * heads * value_dim <= lines;
        let (mut o, mut last) = (Vec::new(), Vec::new());
        for index in sample(batch * heads, if all { usize::MAX } else { 1 }) {
            let (b, h) = (index / heads, index % heads);
            let head = Head::new(params, inputs, b, h);
            let norms: Vec<f64> = (0..seq_len).map(|t| head.norm(t)).collect();
            for p in sample(value_dim, if all { usize::MAX } else { (lines / 2).max(1) }) {
                let at = |t: usize| ((b * seq_len + t) * heads + h) * value_dim + p;
                let values: Vec<f64> = (0..seq_len).map(|t| v.get(at(t))).collect();
                let first = (index * value_dim + p) * key_dim;
                let start = (first..first + key_dim).map(|i| initial.map_or(0.0, |s| s.get(i)));
                let (out, row) = head.line(&values, &norms, start.collect());
                o.extend(out.into_iter().enumerate().map(|(t, term)| (at(t), term)));
                last.extend(row.into_iter().enumerate().map(|(n, term)| (first + n, term)));
            }
        }
        Outputs::new()
            .with("o", expected(&params.sizes().values(), o, dtype))
            .with("last_state", expected(&params.sizes().states(), last, dtype))
    }

    /// flops = batch·seq_len·heads·key_dim·(9·value_dim + 1): decay 1, and 2 each for s·a, its product with
    /// b, v·k and s·r; an exponential for every decay. bytes = inputs + o + last_state. items =
    /// batch·seq_len. These are no matrix products: each step waits for the one before.
    fn work(params: &Params, inputs: &Tensors) -> Work {
        let work = params.sizes().work(params.dtype, inputs, 9 * params.key_dim);
        let decays: usize = params.sizes().projections().iter().product();
        Work { flops: work.flops + decays as f64, matrix: false, ..work }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_step_by_hand() {
        let params = Params {
            batch: 1,
            seq_len: 1,
            heads: 1,
            key_dim: 2,
            value_dim: 1,
            dtype: DType::F32,
            initial_state: true,
        };
        let real = |shape: &[usize], values: &[f64]| Tensor::from_real(DType::F64, shape, values);
        let row = |values: &[f64]| real(&[1, 1, 1, 2], values);
        let inputs = Tensors::new()
            .with("r", row(&[1.0, 10.0]))
            .with("k", row(&[3.0, 4.0]))
            .with("v", real(&[1, 1, 1, 1], &[2.0]))
            .with("w", row(&[0.0, -(2f64.ln())]))
            .with("a", row(&[-1.0, 0.0]))
            .with("b", row(&[0.5, 0.25]))
            .with("initial_state", real(&[1, 1, 1, 2], &[8.0, 6.0]));
        let outputs = Rwkv7::reference(&params, &inputs);
        // (8, 3) − 8·(0.5, 0.25) + 2·(3, 4) = (10, 9).
        for (got, want) in outputs.output("last_state").values().iter().zip([10.0, 9.0]) {
            assert!((got - want).abs() < 1e-12, "{got}");
        }
        assert!((outputs.output("o").values()[0] - 100.0).abs() < 1e-12);
    }

    #[test]
    fn the_norm_of_a_step_is_that_of_its_matrix() {
        // diag(1/2, 1/2) − (1, 0)ᵀ(1, 0): eigenvalues −1/2 and 1/2.
        let log_half = -(2f64.ln());
        let head = Head {
            width: 2,
            r: vec![],
            k: vec![],
            w: vec![log_half, log_half],
            a: vec![-1.0, 0.0],
            b: vec![1.0, 0.0],
        };
        assert!((head.norm(0) - 0.505).abs() < 1e-9);
    }
}
