//! Retention: linear attention that forgets at a fixed rate.

use serde::{Deserialize, Serialize};

use super::{
    View,
    matrix::{Problem, Sizes},
};
use crate::{
    algorithm::{Algorithm, Work},
    draw::Draw,
    expected::Outputs,
    tensor::{DType, Tensors},
};

/// Which problem, of retention and of gated linear attention.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Sequences.
    pub batch: usize,
    /// Time steps.
    pub seq_len: usize,
    /// Heads.
    pub heads: usize,
    /// Elements of a query and of a key.
    pub key_dim: usize,
    /// Elements of a value.
    pub value_dim: usize,
    /// Element type of all but γ.
    pub dtype: DType,
    /// Whether the first step follows a given state instead of zero.
    #[serde(default)]
    pub initial_state: bool,
}

impl Params {
    pub(super) fn sizes(&self) -> Sizes {
        let &Self { batch, seq_len, heads, key_dim, value_dim, .. } = self;
        Sizes { batch, seq_len, heads, head_dim: value_dim, groups: heads, state: key_dim }
    }

    /// Factor of the scores.
    pub(super) fn scale(&self) -> f64 {
        1.0 / (self.key_dim.max(1) as f64).sqrt()
    }

    pub(super) fn validate(&self) -> Result<(), String> {
        self.dtype.check_activation()?;
        if self.heads == 0 { Err("no heads".into()) } else { Ok(()) }
    }

    /// Standard normal q, k and v, and the state.
    pub(super) fn draw(&self, draw: &mut Draw) -> Tensors {
        let (dtype, sizes) = (self.dtype, self.sizes());
        let mut inputs = Tensors::new()
            .with("q", draw.normal(dtype, &sizes.projections(), 1.0))
            .with("k", draw.normal(dtype, &sizes.projections(), 1.0))
            .with("v", draw.normal(dtype, &sizes.values(), 1.0));
        if self.initial_state {
            inputs.insert("initial_state", draw.normal(dtype, &sizes.states(), 1.0));
        }
        inputs
    }
}

/// `ssm.retention`: the retention of RetNet, by its recurrent definition and without its group norm.
///
/// For every sequence and head, from S_0 = `initial_state` or 0:
///
/// S_t = γ·S_{t−1} + v_t·k_tᵀ,  o_t = S_t·q_t / √key_dim
///
/// | input | shape | dtype | meaning |
/// |---|---|---|---|
/// | `q`, `k` | batch, seq_len, heads, key_dim | dtype | queries and keys |
/// | `v` | batch, seq_len, heads, value_dim | dtype | values |
/// | `gamma` | heads | f32 | decay of a step, in (0, 1\] |
/// | `initial_state` | batch, heads, value_dim, key_dim | dtype | S_0 (`initial_state`) |
///
/// | output | shape | dtype | meaning |
/// |---|---|---|---|
/// | `o` | batch, seq_len, heads, value_dim | dtype | the answer |
/// | `last_state` | batch, heads, value_dim, key_dim | dtype | S after the last step; S_0 for an empty sequence |
///
/// Source: Sun et al., *Retentive Network: A Successor to Transformer for Large Language Models* (2023),
/// section 2.1; the state is the transpose of theirs. With γ = 1 it is linear attention (Katharopoulos et
/// al. 2020).
#[derive(Debug)]
pub struct Retention;

impl Algorithm for Retention {
    const NAME: &'static str = "ssm.retention";
    const SUMMARY: &'static str =
        "RetNet's retention: linear attention that forgets at a fixed rate";
    const ITEMS: &'static str = "tokens";
    type Params = Params;

    fn validate(params: &Params) -> Result<(), String> {
        params.validate()
    }

    /// γ = 1 − 2^(−5−h) as in the paper's section 2.1, spread over 5 to 12 whatever the number of heads.
    fn inputs(params: &Params, draw: &mut Draw) -> Tensors {
        let heads = params.heads;
        let exponent = |h: usize| 5.0 + 7.0 * h as f64 / (heads - 1).max(1) as f64;
        let gamma: Vec<f64> = (0..heads).map(|h| 1.0 - (-exponent(h)).exp2()).collect();
        let gamma = crate::Tensor::from_real(DType::F32, &[heads], &gamma);
        params.draw(draw).with("gamma", gamma)
    }

    fn reference(params: &Params, inputs: &Tensors) -> Outputs {
        let gamma = View(inputs.tensor("gamma"));
        let problem = Problem {
            sizes: params.sizes(),
            dtype: params.dtype,
            names: ["v", "k", "q"],
            step: Box::new(move |_, _, h, _| (1.0, gamma.get(h).ln())),
            skip: None,
            scale: params.scale(),
            by_column: false,
        };
        problem.outputs(inputs, "o")
    }

    /// flops = batch·seq_len·heads·value_dim·(5·key_dim + 1): decay 1, v·k and S·q 2 a state each, and
    /// the scale. bytes = inputs + o + last_state. items = batch·seq_len.
    fn work(params: &Params, inputs: &Tensors) -> Work {
        params.sizes().work(params.dtype, inputs, 5 * params.key_dim + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Tensor;

    #[test]
    fn two_steps_by_hand() {
        let params = Params {
            batch: 1,
            seq_len: 2,
            heads: 1,
            key_dim: 4,
            value_dim: 1,
            dtype: DType::F32,
            initial_state: false,
        };
        let real = |shape: &[usize], values: &[f64]| Tensor::from_real(DType::F64, shape, values);
        let inputs = Tensors::new()
            .with("q", real(&[1, 2, 1, 4], &[1.0, 1.0, 0.0, 0.0, 2.0, 0.0, 0.0, 2.0]))
            .with("k", real(&[1, 2, 1, 4], &[3.0, 5.0, 0.0, 0.0, 0.0, 0.0, 0.0, 7.0]))
            .with("v", real(&[1, 2, 1, 1], &[10.0, -1.0]))
            .with("gamma", real(&[1], &[0.5]));
        let outputs = Retention::reference(&params, &inputs);
        // o_1 = 10·8/2; S_2 = (15, 25, 0, −7), o_2 = (30 − 14)/2.
        for (got, want) in outputs.output("o").values().iter().zip([40.0, 8.0]) {
            assert!((got - want).abs() < 1e-12, "{got}");
        }
    }
}
