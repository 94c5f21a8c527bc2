//! Long short-term memory.

use serde::{Deserialize, Serialize};

use super::{
    Backward, Cell, CellParams, Forward, Layer, Lengths,
    approx::Approx,
    sequence::{Back, Step, Weights},
};
use crate::tensor::DType;

/// Which problem.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Sequences.
    pub batch: usize,
    /// Steps of the longest sequence there may be.
    pub seq_len: usize,
    /// Size of x at one step.
    pub input: usize,
    /// Size of the state.
    pub hidden: usize,
    /// Element type of all real inputs and outputs.
    pub dtype: DType,
    /// Whether a second layer runs from the end to the start.
    #[serde(default)]
    pub bidirectional: bool,
    /// How long the sequences are.
    #[serde(default)]
    pub lengths: Lengths,
}

impl CellParams for Params {
    const FORWARD: [&'static str; 2] = ["recurrent.lstm", "long short-term memory over a sequence"];
    const BACKWARD: [&'static str; 2] =
        ["recurrent.lstm_backward", "gradients of the LSTM through time"];

    fn layer(&self) -> Layer {
        Layer {
            cell: Cell::Lstm,
            batch: self.batch,
            seq_len: self.seq_len,
            input: self.input,
            hidden: self.hidden,
            directions: 1 + usize::from(self.bidirectional),
            ragged: self.lengths == Lengths::Ragged,
            dtype: self.dtype,
        }
    }
}

/// `recurrent.lstm`: long short-term memory without peepholes.
///
/// With p = W_ih·x_t + b_ih + W_hh·h_{t−1} + b_hh: i = σ(p_i), f = σ(p_f), g = tanh(p_g), o = σ(p_o);
/// c_t = f·c_{t−1} + i·g; h_t = o·tanh(c_t).
///
/// Inputs, outputs and work: see [the module](super). Source: Hochreiter and Schmidhuber, Long short-term
/// memory (1997), with the forget gate of Gers et al. (2000) and PyTorch's order i, f, g, o.
pub type Lstm = Forward<Params>;

/// `recurrent.lstm_backward`: gradients of Σ dy·y + Σ dh_n·h_n + Σ dc_n·c_n.
///
/// At each step, from the last: dc += dh·o·(1 − tanh²c_t); dp_i = dc·g·i(1 − i), dp_f = dc·c_{t−1}·f(1 − f),
/// dp_g = dc·i·(1 − g²), dp_o = dh·tanh(c_t)·o(1 − o); on to dc_{t−1} = dc·f and
/// dh_{t−1} = W_hhᵀ·dp + dy_{t−1}. Inputs, outputs and work: see [the module](super).
pub type LstmBackward = Backward<Params>;

/// One step.
pub(super) fn step(weights: &Weights<'_>, px: &[Approx], h: &[Approx], c: &[Approx]) -> Step {
    let units = c.len();
    let ph = weights.hidden_part(0..4, h);
    let p = |gate: usize, unit: usize| px[gate * units + unit] + ph[gate * units + unit];
    let mut step = Step::default();
    for gate in 0..4 {
        let apply = if gate == 2 { Approx::tanh } else { Approx::sigmoid };
        step.gates.extend((0..units).map(|unit| apply(p(gate, unit))));
    }
    for (unit, &c) in c.iter().enumerate() {
        let [i, f, g, o] = step.unit_gates(units, unit);
        let c = f * c + i * g;
        step.c.push(c);
        step.h.push(o * c.tanh());
    }
    step
}

/// Gradients of one step.
pub(super) fn back(weights: &Weights<'_>, step: &Step, dh: &[Approx], dc: &[Approx]) -> Back {
    let units = dh.len();
    let mut dp = vec![Approx::default(); 4 * units];
    let mut passed = Vec::new();
    for unit in 0..units {
        let [i, f, g, o] = step.unit_gates::<4>(units, unit);
        let (c, before, dh) = (step.c[unit].tanh(), step.c_before[unit], dh[unit]);
        let dc = dc[unit] + dh * o * (c * c).complement();
        let slope = |gate: Approx| gate * gate.complement();
        let of_gates = [
            dc * g * slope(i),
            dc * before * slope(f),
            dc * i * (g * g).complement(),
            dh * c * slope(o),
        ];
        for (gate, d) in of_gates.into_iter().enumerate() {
            dp[gate * units + unit] = d;
        }
        passed.push(dc * f);
    }
    let dp = weights.stored(dp);
    Back { dh: weights.hidden_back(0..4, &dp), dpx: dp.clone(), dph: dp, dc: passed }
}

#[cfg(test)]
mod tests {
    use crate::{Case, Tensor, Tensors, operation, tensor::DType};

    #[test]
    fn one_step_of_one_unit_is_as_computed_by_hand() {
        let real = |shape: &[usize], v: &[f64]| Tensor::from_real(DType::F32, shape, v);
        let case = "recurrent.lstm:batch=1,seq_len=1,input=1,hidden=1,dtype=f32,seed=0";
        let case: Case = case.parse().unwrap();
        let inputs = Tensors::new()
            .with("x", real(&[1, 1, 1], &[1.0]))
            .with("W_ih", real(&[1, 4, 1], &[0.0, 0.0, 1.0, 0.0]))
            .with("W_hh", real(&[1, 4, 1], &[0.0, 0.0, 2.0, 0.0]))
            .with("b_ih", real(&[1, 4], &[0.0; 4]))
            .with("b_hh", real(&[1, 4], &[0.0; 4]))
            .with("h0", real(&[1, 1, 1], &[0.5]))
            .with("c0", real(&[1, 1, 1], &[3.0]));
        let outputs = operation(&case).unwrap().reference(&case, &inputs).unwrap();
        // i = f = o = 1/2; g = tanh(1 + 2/2) = tanh 2; c = 3/2 + tanh(2)/2; h = tanh(c)/2.
        let c = 1.5 + 2f64.tanh() / 2.0;
        assert!((outputs.output("c_n").values()[0] - c).abs() < 1e-15);
        assert!((outputs.output("y").values()[0] - c.tanh() / 2.0).abs() < 1e-15);
    }
}
