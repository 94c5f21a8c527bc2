//! Elman's recurrent cell.

use serde::{Deserialize, Serialize};

use super::{
    Backward, Cell, CellParams, Forward, Layer, Lengths,
    approx::Approx,
    sequence::{Back, Step, Weights},
};
use crate::tensor::DType;

/// The function that makes the new state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Nonlinearity {
    /// tanh.
    Tanh,
    /// max(·, 0).
    Relu,
}

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
    /// The function that makes the new state.
    pub nonlinearity: Nonlinearity,
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
    const FORWARD: [&'static str; 2] =
        ["recurrent.rnn", "Elman's recurrent cell over a sequence, tanh or relu"];
    const BACKWARD: [&'static str; 2] =
        ["recurrent.rnn_backward", "gradients of Elman's cell through time"];

    fn layer(&self) -> Layer {
        Layer {
            cell: Cell::Rnn(self.nonlinearity),
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

/// `recurrent.rnn`: h_t = f(W_ih·x_t + b_ih + W_hh·h_{t−1} + b_hh), f = tanh or relu.
///
/// Inputs, outputs and work: see [the module](super). Source: Elman, Finding structure in time (1990),
/// with PyTorch's two biases.
pub type Rnn = Forward<Params>;

/// `recurrent.rnn_backward`: gradients of Σ dy·y + Σ dh_n·h_n.
///
/// Backward through time: dp_t = f'(p_t)·dh_t; dh_{t−1} = W_hhᵀ·dp_t + dy_{t−1}; dW_hh = Σ dp_t·h_{t−1}ᵀ.
/// The slope of relu at 0 is 0. Inputs, outputs and work: see [the module](super).
pub type RnnBackward = Backward<Params>;

/// One step; its gate is p, before f.
pub(super) fn step(f: Nonlinearity, weights: &Weights<'_>, px: &[Approx], h: &[Approx]) -> Step {
    let ph = weights.hidden_part(0..1, h);
    let p: Vec<Approx> = px.iter().zip(ph).map(|(&px, ph)| px + ph).collect();
    let apply = |p: &Approx| match f {
        Nonlinearity::Tanh => p.tanh(),
        Nonlinearity::Relu => p.relu(),
    };
    Step { h: p.iter().map(apply).collect(), gates: p, ..Step::default() }
}

/// Gradients of one step.
pub(super) fn back(f: Nonlinearity, weights: &Weights<'_>, step: &Step, dh: &[Approx]) -> Back {
    let passed = |((&dh, &p), &h): ((&Approx, &Approx), &Approx)| match f {
        Nonlinearity::Tanh => dh * (h * h).complement(),
        Nonlinearity::Relu => dh.through_relu(p),
    };
    let dp: Vec<Approx> = dh.iter().zip(&step.gates).zip(&step.h).map(passed).collect();
    let dp = weights.stored(dp);
    Back { dh: weights.hidden_back(0..1, &dp), dpx: dp.clone(), dph: dp, dc: Vec::new() }
}

#[cfg(test)]
mod tests {
    use crate::{Case, Expected, Tensor, Tensors, operation, tensor::DType};

    #[test]
    fn two_steps_and_their_gradients_are_as_computed_by_hand() {
        let real = |shape: &[usize], v: &[f64]| Tensor::from_real(DType::F32, shape, v);
        let params = "batch=1,seq_len=2,input=1,hidden=1,nonlinearity=relu,dtype=f32,seed=0";
        let case: Case = format!("recurrent.rnn_backward:{params}").parse().unwrap();
        let inputs = Tensors::new()
            .with("x", real(&[2, 1, 1], &[1.0, 2.0]))
            .with("W_ih", real(&[1, 1, 1], &[3.0]))
            .with("W_hh", real(&[1, 1, 1], &[0.5]))
            .with("b_ih", real(&[1, 1], &[0.0]))
            .with("b_hh", real(&[1, 1], &[1.0]))
            .with("h0", real(&[1, 1, 1], &[2.0]))
            .with("dy", real(&[2, 1, 1], &[1.0, 0.0]))
            .with("dh_n", real(&[1, 1, 1], &[2.0]));
        // h = 3 + 1 + 1 = 5, then 6 + 2.5 + 1 = 9.5; dp = 2 for the second step, 1 + 2/2 = 2 for the first.
        let outputs = operation(&case).unwrap().reference(&case, &inputs).unwrap();
        let of = |name: &str| outputs.output(name).values();
        assert_eq!(of("dx"), [6.0, 6.0]);
        assert_eq!((of("dW_ih"), of("dW_hh")), (vec![6.0], vec![14.0]));
        assert_eq!((of("db_ih"), of("db_hh"), of("dh0")), (vec![4.0], vec![4.0], vec![1.0]));
    }

    #[test]
    fn a_bound_stays_of_the_size_of_its_errors_over_many_steps() {
        let case = "recurrent.rnn:batch=1,seq_len=300,input=8,hidden=64,nonlinearity=tanh,dtype=bf16,seed=1";
        let case: Case = case.parse().unwrap();
        let operation = operation(&case).unwrap();
        let inputs = operation.inputs(&case).unwrap();
        let outputs = operation.reference(&case, &inputs).unwrap();
        let Expected::Real(y) = outputs.output("y") else { panic!("y is real") };
        assert!(
            y.bound.iter().all(|&bound| bound < 0.2),
            "{:?}",
            y.bound.iter().fold(0.0, |a: f64, &b| a.max(b))
        );
    }
}
