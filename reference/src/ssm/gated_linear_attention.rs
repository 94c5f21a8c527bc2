//! Gated linear attention: every key dimension forgets at a rate of its own that the input decides.

use super::{View, matrix::Problem, retention::Params};
use crate::{
    algorithm::{Algorithm, Work},
    draw::Draw,
    expected::Outputs,
    tensor::Tensors,
};

/// `ssm.gated_linear_attention`: gated linear attention by its recurrent definition.
///
/// For every sequence and head, from S_0 = `initial_state` or 0:
///
/// S_t = S_{t−1}·diag(exp g_t) + v_t·k_tᵀ,  o_t = S_t·q_t / √key_dim
///
/// | input | shape | dtype | meaning |
/// |---|---|---|---|
/// | `q`, `k` | batch, seq_len, heads, key_dim | dtype | queries and keys |
/// | `v` | batch, seq_len, heads, value_dim | dtype | values |
/// | `g` | batch, seq_len, heads, key_dim | dtype | logarithms of the decays, at most 0 |
/// | `initial_state` | batch, heads, value_dim, key_dim | dtype | S_0 (`initial_state`) |
///
/// | output | shape | dtype | meaning |
/// |---|---|---|---|
/// | `o` | batch, seq_len, heads, value_dim | dtype | the answer |
/// | `last_state` | batch, heads, value_dim, key_dim | dtype | S after the last step; S_0 for an empty sequence |
///
/// Source: Yang et al., *Gated Linear Attention Transformers with Hardware-Efficient Training* (2024),
/// equation 3; the state is the transpose of theirs.
#[derive(Debug)]
pub struct GatedLinearAttention;

impl Algorithm for GatedLinearAttention {
    const NAME: &'static str = "ssm.gated_linear_attention";
    const SUMMARY: &'static str =
        "Gated linear attention: a decay for every key dimension and step";
    const ITEMS: &'static str = "tokens";
    type Params = Params;

    fn validate(params: &Params) -> Result<(), String> {
        params.validate()
    }

    /// Gates are log σ(z)/16 with z standard normal, as in the paper's section 4.4.
    fn inputs(params: &Params, draw: &mut Draw) -> Tensors {
        let inputs = params.draw(draw);
        let gate = |d: &mut Draw| -(-d.standard_normal()).exp().ln_1p() / 16.0;
        inputs.with("g", draw.real(params.dtype, &params.sizes().projections(), gate))
    }

    fn reference(params: &Params, inputs: &Tensors) -> Outputs {
        let g = View(inputs.tensor("g"));
        let &Params { seq_len, heads, key_dim, .. } = params;
        let at = move |b: usize, t: usize, h: usize, n: usize| {
            ((b * seq_len + t) * heads + h) * key_dim + n
        };
        let problem = Problem {
            sizes: params.sizes(),
            dtype: params.dtype,
            names: ["v", "k", "q"],
            step: Box::new(move |b, t, h, n| {
                (1.0, if key_dim > 0 { g.get(at(b, t, h, n)) } else { 0.0 })
            }),
            skip: None,
            scale: params.scale(),
            by_column: true,
        };
        problem.outputs(inputs, "o")
    }

    /// flops = batch·seq_len·heads·(value_dim·(5·key_dim + 1) + key_dim): as retention, and an exponential
    /// for every gate. bytes = inputs + o + last_state. items = batch·seq_len.
    fn work(params: &Params, inputs: &Tensors) -> Work {
        let work = params.sizes().work(params.dtype, inputs, 5 * params.key_dim + 1);
        let gates: usize = params.sizes().projections().iter().product();
        Work { flops: work.flops + gates as f64, ..work }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, tensor::Tensor};

    #[test]
    fn two_steps_by_hand() {
        let params = Params {
            batch: 1,
            seq_len: 2,
            heads: 1,
            key_dim: 1,
            value_dim: 2,
            dtype: DType::F32,
            initial_state: true,
        };
        let real = |shape: &[usize], values: &[f64]| Tensor::from_real(DType::F64, shape, values);
        let inputs = Tensors::new()
            .with("q", real(&[1, 2, 1, 1], &[1.0, 2.0]))
            .with("k", real(&[1, 2, 1, 1], &[3.0, 4.0]))
            .with("v", real(&[1, 2, 1, 2], &[1.0, -1.0, 0.5, 0.0]))
            .with("g", real(&[1, 2, 1, 1], &[0.0, -(2f64.ln())]))
            .with("initial_state", real(&[1, 1, 2, 1], &[7.0, 1.0]));
        let outputs = GatedLinearAttention::reference(&params, &inputs);
        // S_1 = (10, −2), S_2 = (5 + 2, −1).
        for (got, want) in outputs.output("o").values().iter().zip([10.0, -2.0, 14.0, -2.0]) {
            assert!((got - want).abs() < 1e-12, "{got}");
        }
    }
}
