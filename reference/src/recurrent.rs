//! Recurrent cells: a state that passes through weights once a step, forward and backward through time.
//!
//! | operation | what it computes |
//! |---|---|
//! | `recurrent.rnn`, `recurrent.rnn_backward` | Elman's cell, tanh or relu, and its gradients |
//! | `recurrent.lstm`, `recurrent.lstm_backward` | long short-term memory and its gradients |
//! | `recurrent.gru`, `recurrent.gru_backward` | gated recurrent unit, reset before or after the product, and its gradients |
//!
//! One layer, in one or both directions. With G gates (1, 4, 3), D directions and `hidden` units:
//!
//! | input | shape | dtype | meaning |
//! |---|---|---|---|
//! | `x` | seq_len, batch, input | dtype | the sequences, padded |
//! | `lengths` | batch | i32 | steps of each sequence, 0..=seq_len (`lengths = ragged`) |
//! | `W_ih` | D, G·hidden, input | dtype | weights of x, gate by gate |
//! | `W_hh` | D, G·hidden, hidden | dtype | weights of the state, gate by gate |
//! | `b_ih`, `b_hh` | D, G·hidden | dtype | their biases |
//! | `h0` | D, batch, hidden | dtype | state before the first step |
//! | `c0` | D, batch, hidden | dtype | cell before the first step (LSTM) |
//! | `dy` | seq_len, batch, D·hidden | dtype | gradient of y (backward) |
//! | `dh_n`, `dc_n` | D, batch, hidden | dtype | gradients of h_n and c_n (backward; `dc_n` LSTM) |
//!
//! | output | shape | dtype | meaning |
//! |---|---|---|---|
//! | `y` | seq_len, batch, D·hidden | dtype | the state after each step, forward direction first; 0 in the padding |
//! | `h_n`, `c_n` | D, batch, hidden | dtype | state and cell after the last step (`c_n` LSTM) |
//! | `dx`, `dW_ih`, `dW_hh`, `db_ih`, `db_hh`, `dh0`, `dc0` | as the inputs | dtype | gradients (backward) |
//!
//! Gates stand in PyTorch's order: i, f, g, o of the LSTM and r, z, n of the GRU. The second direction runs
//! from the last step of each sequence (not of the padding) to its first. A sequence without steps hands
//! its state on.
//!
//! # Storage
//! Products accumulate in f32; gates and the LSTM's cell are f32. The state is *stored* in dtype after every
//! step, and the next step reads it so; likewise, on the way back, the gradients before the
//! nonlinearities, which enter products, are stored in dtype. The references compute without these
//! roundings and carry their bounds; see [`approx`].
//!
//! # Work
//! flops: 2·steps·D·G·hidden·(input + hidden), steps = Σ lengths; three times that backward, which
//! computes the gates once more, then passes gradients to inputs and to weights. bytes: every input and
//! output once. items: tokens, Σ lengths.

use std::marker::PhantomData;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    algorithm::{Algorithm, Operation, Work},
    case::{Case, CaseError},
    draw::Draw,
    expected::Outputs,
    tensor::{DType, Tensors},
};

mod approx;
pub mod gru;
pub mod lstm;
pub mod rnn;
mod sequence;

/// The operations of this vertical.
pub const OPERATIONS: &[Operation] = &[
    Operation::of::<rnn::Rnn>(),
    Operation::of::<rnn::RnnBackward>(),
    Operation::of::<lstm::Lstm>(),
    Operation::of::<lstm::LstmBackward>(),
    Operation::of::<gru::Gru>(),
    Operation::of::<gru::GruBackward>(),
];

/// How long the sequences of a batch are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lengths {
    /// All `seq_len`.
    #[default]
    Full,
    /// Each from 0 to `seq_len`, given in `lengths`.
    Ragged,
}

/// The cell of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    /// One gate.
    Rnn(rnn::Nonlinearity),
    /// Four gates: i, f, g, o.
    Lstm,
    /// Three gates: r, z, n.
    Gru(gru::Reset),
}

/// A recurrent layer: what the parameters of all six operations say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The cell.
    pub cell: Cell,
    /// Sequences.
    pub batch: usize,
    /// Steps of the longest sequence there may be.
    pub seq_len: usize,
    /// Size of x at one step.
    pub input: usize,
    /// Size of the state.
    pub hidden: usize,
    /// 1, or 2 if bidirectional.
    pub directions: usize,
    /// Whether there is an input `lengths`.
    pub ragged: bool,
    /// Element type of all real inputs and outputs.
    pub dtype: DType,
}

/// What tells the operations of one cell from those of another; all else they share.
pub trait CellParams: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Name and summary of the operation that runs the layer.
    const FORWARD: [&'static str; 2];
    /// Name and summary of the operation that gives its gradients.
    const BACKWARD: [&'static str; 2];

    /// The layer they describe.
    fn layer(&self) -> Layer;
}

/// A layer over its sequences.
#[derive(Debug)]
pub struct Forward<P>(PhantomData<P>);

/// Gradients of a layer through time.
#[derive(Debug)]
pub struct Backward<P>(PhantomData<P>);

impl<P: CellParams> Algorithm for Forward<P> {
    const NAME: &'static str = P::FORWARD[0];
    const SUMMARY: &'static str = P::FORWARD[1];
    const ITEMS: &'static str = "tokens";
    type Params = P;

    fn validate(params: &P) -> Result<(), String> {
        params.layer().dtype.check_activation()
    }

    fn inputs(params: &P, draw: &mut Draw) -> Tensors {
        params.layer().inputs(draw, false)
    }

    fn reference(params: &P, inputs: &Tensors) -> Outputs {
        sequence::forward(&params.layer(), inputs)
    }

    fn work(params: &P, inputs: &Tensors) -> Work {
        params.layer().work(inputs, false)
    }
}

impl<P: CellParams> Algorithm for Backward<P> {
    const NAME: &'static str = P::BACKWARD[0];
    const SUMMARY: &'static str = P::BACKWARD[1];
    const ITEMS: &'static str = "tokens";
    type Params = P;

    fn validate(params: &P) -> Result<(), String> {
        params.layer().dtype.check_activation()
    }

    fn inputs(params: &P, draw: &mut Draw) -> Tensors {
        params.layer().inputs(draw, true)
    }

    fn reference(params: &P, inputs: &Tensors) -> Outputs {
        sequence::backward(&params.layer(), inputs)
    }

    fn work(params: &P, inputs: &Tensors) -> Work {
        params.layer().work(inputs, true)
    }
}

/// The layer of a case of any of the operations, and whether it asks for the gradients.
///
/// # Errors
/// If the parameters are not the operation's.
pub fn layer(case: &Case) -> Result<(Layer, bool), CaseError> {
    let backward = case.op().ends_with("_backward");
    let layer = match case.op().trim_end_matches("_backward") {
        rnn::Rnn::NAME => case.params::<rnn::Params>()?.layer(),
        lstm::Lstm::NAME => case.params::<lstm::Params>()?.layer(),
        _ => case.params::<gru::Params>()?.layer(),
    };
    Ok((layer, backward))
}

impl Layer {
    /// Gates of the cell.
    pub fn gates(&self) -> usize {
        match self.cell {
            Cell::Rnn(_) => 1,
            Cell::Lstm => 4,
            Cell::Gru(_) => 3,
        }
    }

    /// Rows of the weights of one direction.
    pub fn rows(&self) -> usize {
        self.gates() * self.hidden
    }

    /// Shape of x.
    pub fn x_shape(&self) -> [usize; 3] {
        [self.seq_len, self.batch, self.input]
    }

    /// Shape of y.
    pub fn y_shape(&self) -> [usize; 3] {
        [self.seq_len, self.batch, self.directions * self.hidden]
    }

    /// Shape of h0, c0, h_n and c_n.
    pub fn state_shape(&self) -> [usize; 3] {
        [self.directions, self.batch, self.hidden]
    }

    /// Shape of W_ih.
    pub fn input_weights(&self) -> [usize; 3] {
        [self.directions, self.rows(), self.input]
    }

    /// Shape of W_hh.
    pub fn hidden_weights(&self) -> [usize; 3] {
        [self.directions, self.rows(), self.hidden]
    }

    /// Draws the inputs.
    ///
    /// Weights of the state are sparse with a weak dense rest: a row has about four of size 0.1 to 0.25
    /// and others of up to 0.5/hidden, so its absolute values add up to somewhat less than 1. Then the
    /// state matters to the next one, while errors fade as fast as the state does and a bound that
    /// follows them stays of their size. (With every weight of size 1/√hidden, as layers are commonly
    /// initialized, absolute values add up to √hidden/2: a guaranteed bound would grow 16-fold a step
    /// at 1024 units, although errors, which have random signs, would not.)
    fn inputs(&self, draw: &mut Draw, backward: bool) -> Tensors {
        let Self { batch, seq_len, input, hidden, directions, dtype, .. } = *self;
        let mut inputs = Tensors::new().with("x", draw.normal(dtype, &self.x_shape(), 1.0));
        if self.ragged {
            let length = |d: &mut Draw| d.below(seq_len + 1) as i64;
            inputs.insert("lengths", draw.integers(DType::I32, &[batch], length));
        }
        let width = 1.5 / (input.max(1) as f64).sqrt();
        inputs.insert("W_ih", draw.uniform(dtype, &self.input_weights(), -width, width));
        let strong = (4.0 / hidden.max(1) as f64).min(1.0);
        let weights = draw.real(dtype, &self.hidden_weights(), |d| {
            let sign = if d.below(2) == 0 { -1.0 } else { 1.0 };
            let size = d.unit();
            sign * if d.unit() < strong { 0.1 + 0.15 * size } else { size * 0.5 / hidden as f64 }
        });
        inputs.insert("W_hh", weights);
        let rows = [directions, self.rows()];
        for name in ["b_ih", "b_hh"] {
            inputs.insert(name, draw.uniform(dtype, &rows, -0.5, 0.5));
        }
        inputs.insert("h0", draw.uniform(dtype, &self.state_shape(), -0.9, 0.9));
        let lstm = self.cell == Cell::Lstm;
        if lstm {
            inputs.insert("c0", draw.normal(dtype, &self.state_shape(), 1.0));
        }
        if backward {
            inputs.insert("dy", draw.normal(dtype, &self.y_shape(), 1.0));
            inputs.insert("dh_n", draw.normal(dtype, &self.state_shape(), 1.0));
            if lstm {
                inputs.insert("dc_n", draw.normal(dtype, &self.state_shape(), 1.0));
            }
        }
        inputs
    }

    /// The work; see the module.
    fn work(&self, inputs: &Tensors, backward: bool) -> Work {
        let steps = match inputs.get("lengths") {
            Some(lengths) => lengths.to_i64().iter().sum::<i64>() as f64,
            None => (self.seq_len * self.batch) as f64,
        };
        let weights = self.directions * self.rows() * (self.input + self.hidden);
        let states = if self.cell == Cell::Lstm { 2 } else { 1 };
        let state: usize = states * self.state_shape().iter().product::<usize>();
        let outputs = if backward {
            let biases = 2 * self.directions * self.rows();
            self.x_shape().iter().product::<usize>() + weights + biases + state
        } else {
            self.y_shape().iter().product::<usize>() + state
        };
        Work {
            flops: if backward { 6.0 } else { 2.0 } * steps * weights as f64,
            bytes: (inputs.bytes() + outputs * self.dtype.bytes()) as f64,
            items: steps,
            matrix: true,
            eight_bit: false,
        }
    }
}
