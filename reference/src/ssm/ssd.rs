//! State-space duality: Mamba-2's scan.

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

/// Which problem.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Sequences.
    pub batch: usize,
    /// Time steps.
    pub seq_len: usize,
    /// Heads, each with one decay a step.
    pub heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// Groups of adjacent heads that share their B and C; divides `heads`.
    #[serde(default = "super::one")]
    pub groups: usize,
    /// States of a channel.
    pub state: usize,
    /// Element type of x, B, C, y and the states.
    pub dtype: DType,
    /// Whether there is the skip weight D.
    #[serde(default = "super::yes")]
    pub skip: bool,
    /// Whether the scan starts from a given state instead of zero.
    #[serde(default)]
    pub initial_state: bool,
}

impl Params {
    fn sizes(&self) -> Sizes {
        let &Self { batch, seq_len, heads, head_dim, groups, state, .. } = self;
        Sizes { batch, seq_len, heads, head_dim, groups, state }
    }
}

/// `ssm.ssd`: the scan of Mamba-2, whose states decay by one number a head and step.
///
/// For every sequence and head, from S_0 = `initial_state` or 0:
///
/// S_t = exp(dt_t·A)·S_{t−1} + dt_t·x_t·B_tᵀ,  y_t = S_t·C_t + D·x_t
///
/// | input | shape | dtype | meaning |
/// |---|---|---|---|
/// | `x` | batch, seq_len, heads, head_dim | dtype | the sequence |
/// | `dt` | batch, seq_len, heads | f32 | step sizes, positive (after bias and softplus) |
/// | `A` | heads | f32 | decay rates, negative |
/// | `B`, `C` | batch, seq_len, groups, state | dtype | into and out of the state |
/// | `D` | heads | f32 | skip weight (`skip`) |
/// | `initial_state` | batch, heads, head_dim, state | dtype | S_0 (`initial_state`) |
///
/// | output | shape | dtype | meaning |
/// |---|---|---|---|
/// | `y` | batch, seq_len, heads, head_dim | dtype | the answer |
/// | `last_state` | batch, heads, head_dim, state | dtype | S after the last step; S_0 for an empty sequence |
///
/// Source: Dao and Gu, *Transformers are SSMs: Generalized Models and Efficient Algorithms Through
/// Structured State Space Duality* (2024), equation 2 and section 7.
#[derive(Debug)]
pub struct Ssd;

impl Algorithm for Ssd {
    const NAME: &'static str = "ssm.ssd";
    const SUMMARY: &'static str = "Mamba-2's scan: matrix states with one decay a head";
    const ITEMS: &'static str = "tokens";
    type Params = Params;

    fn validate(params: &Params) -> Result<(), String> {
        params.dtype.check_activation()?;
        params.sizes().validate()
    }

    /// Step sizes log-uniform in 0.001..0.1 and rates uniform in −16..−1, as Mamba-2 initializes them. B
    /// and C have variance 1/√state, so that scores have variance 1.
    fn inputs(params: &Params, draw: &mut Draw) -> Tensors {
        let (dtype, sizes) = (params.dtype, params.sizes());
        let &Params { batch, seq_len, heads, state, .. } = params;
        let sd = (state.max(1) as f64).powf(-0.25);
        let step = |d: &mut Draw| 0.001 * (100f64.ln() * d.unit()).exp();
        let mut inputs = Tensors::new()
            .with("x", draw.normal(dtype, &sizes.values(), 1.0))
            .with("dt", draw.real(DType::F32, &[batch, seq_len, heads], step))
            .with("A", draw.uniform(DType::F32, &[heads], -16.0, -1.0))
            .with("B", draw.normal(dtype, &sizes.projections(), sd))
            .with("C", draw.normal(dtype, &sizes.projections(), sd));
        if params.skip {
            inputs.insert("D", draw.normal(DType::F32, &[heads], 1.0));
        }
        if params.initial_state {
            inputs.insert("initial_state", draw.normal(dtype, &sizes.states(), 1.0));
        }
        inputs
    }

    fn reference(params: &Params, inputs: &Tensors) -> Outputs {
        let (dt, a) = (View(inputs.tensor("dt")), View(inputs.tensor("A")));
        let &Params { seq_len, heads, .. } = params;
        let problem = Problem {
            sizes: params.sizes(),
            dtype: params.dtype,
            names: ["x", "B", "C"],
            step: Box::new(move |b, t, h, _| {
                let dt = dt.get((b * seq_len + t) * heads + h);
                (dt, dt * a.get(h))
            }),
            skip: inputs.get("D").map(crate::Tensor::to_f64),
            scale: 1.0,
            by_column: false,
        };
        problem.outputs(inputs, "y")
    }

    /// flops = batch·seq_len·heads·head_dim·(6·state + 3): decay, dt·x·B and C·S take 2 a state each, dt·x
    /// and the skip 3 a channel. bytes = inputs + y + last_state. items = batch·seq_len.
    fn work(params: &Params, inputs: &Tensors) -> Work {
        params.sizes().work(params.dtype, inputs, 6 * params.state + 3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Tensor;

    fn params(seq_len: usize) -> Params {
        Params {
            batch: 1,
            seq_len,
            heads: 1,
            head_dim: 1,
            groups: 1,
            state: 2,
            dtype: DType::F32,
            skip: true,
            initial_state: true,
        }
    }

    /// A = −ln 2 and dt = 1 halve the state, dt = 2 quarters it.
    #[test]
    fn two_steps_by_hand() {
        let real = |shape: &[usize], values: &[f64]| Tensor::from_real(DType::F64, shape, values);
        let inputs = Tensors::new()
            .with("x", real(&[1, 2, 1, 1], &[3.0, -1.0]))
            .with("dt", real(&[1, 2, 1], &[1.0, 2.0]))
            .with("A", real(&[1], &[-(2f64.ln())]))
            .with("B", real(&[1, 2, 1, 2], &[2.0, 1.0, 4.0, 0.0]))
            .with("C", real(&[1, 2, 1, 2], &[1.0, 10.0, 1.0, 2.0]))
            .with("D", real(&[1], &[0.5]))
            .with("initial_state", real(&[1, 1, 1, 2], &[8.0, -4.0]));
        let outputs = Ssd::reference(&params(2), &inputs);
        // S_1 = (4, −2) + 3·(2, 1) = (10, 1); S_2 = (2.5, 0.25) − 2·(4, 0) = (−5.5, 0.25).
        let want = [20.0 + 1.5, -5.5 + 0.5 - 0.5];
        for (got, want) in outputs.output("y").values().iter().zip(want) {
            assert!((got - want).abs() < 1e-12, "{got}");
        }
        for (got, want) in outputs.output("last_state").values().iter().zip([-5.5, 0.25]) {
            assert!((got - want).abs() < 1e-12, "{got}");
        }
    }

    #[test]
    fn an_empty_sequence_returns_its_initial_state() {
        let params = params(0);
        let inputs = Ssd::inputs(&params, &mut Draw::new(1));
        let outputs = Ssd::reference(&params, &inputs);
        assert!(outputs.output("y").values().is_empty());
        assert_eq!(outputs.output("last_state").values(), inputs.tensor("initial_state").to_f64());
    }
}
