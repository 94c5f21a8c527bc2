//! The laws of recurrent cells, over the references.

#[path = "cases/recurrent.rs"]
mod cases;
mod laws;

use cases::Sizes;
use ndarray::{ArrayD, Axis, Slice};
use proptest::{prelude::*, sample::select};
use touchstone_reference::{
    Case, DType, Outputs, Tensor, Tensors, operation,
    recurrent::{Lengths, gru::Reset, rnn::Nonlinearity},
};

/// A layer whose inputs are f64, so that they can be cut and changed without rounding.
#[derive(Clone, Debug)]
struct Problem {
    cell: Cell,
    sizes: Sizes,
    backward: bool,
    inputs: Tensors,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Cell {
    Rnn(Nonlinearity),
    Lstm,
    Gru(Reset),
}

const CELLS: [Cell; 5] = [
    Cell::Rnn(Nonlinearity::Tanh),
    Cell::Rnn(Nonlinearity::Relu),
    Cell::Lstm,
    Cell::Gru(Reset::After),
    Cell::Gru(Reset::Before),
];

impl Problem {
    fn new(cell: Cell, sizes: &Sizes, backward: bool, seed: u64) -> Self {
        let empty = Self { cell, sizes: sizes.clone(), backward, inputs: Tensors::new() };
        let case = empty.case(seed);
        let drawn = operation(&case).unwrap().inputs(&case).unwrap();
        let mut inputs = Tensors::new();
        for (name, tensor) in drawn.iter() {
            let real = |t: &Tensor| Tensor::from_real(DType::F64, t.shape(), &t.to_f64());
            inputs.insert(name, if name == "lengths" { tensor.clone() } else { real(tensor) });
        }
        Self { inputs, ..empty }
    }

    fn case(&self, seed: u64) -> Case {
        let suffix = if self.backward { "_backward" } else { "" };
        match self.cell {
            Cell::Rnn(f) => Case::new(&format!("recurrent.rnn{suffix}"), &self.sizes.rnn(f), seed),
            Cell::Lstm => Case::new(&format!("recurrent.lstm{suffix}"), &self.sizes.lstm(), seed),
            Cell::Gru(reset) => {
                Case::new(&format!("recurrent.gru{suffix}"), &self.sizes.gru(reset), seed)
            }
        }
    }

    fn with(mut self, name: &str, change: impl Fn(usize, f64) -> f64) -> Self {
        let Some(tensor) = self.inputs.get(name) else { return self };
        let values = tensor.to_f64().into_iter().enumerate();
        let values: Vec<f64> = values.map(|(i, v)| change(i, v)).collect();
        let changed = Tensor::from_real(DType::F64, tensor.shape(), &values);
        self.inputs.insert(name, changed);
        self
    }

    /// The same with each input of those names replaced by `change` of it.
    fn map(mut self, names: &[&str], change: impl Fn(&ArrayD<f64>) -> ArrayD<f64>) -> Self {
        for name in names {
            if let Some(tensor) = self.inputs.get(name) {
                let changed = change(&array(tensor));
                self.inputs.insert(name, tensor_of(&changed));
            }
        }
        self
    }

    fn without_lengths(mut self) -> Self {
        let mut inputs = Tensors::new();
        for (name, tensor) in self.inputs.iter().filter(|(name, _)| *name != "lengths") {
            inputs.insert(name, tensor.clone());
        }
        self.inputs = inputs;
        self.sizes.lengths = Lengths::Full;
        self
    }

    fn outputs(&self) -> Outputs {
        let case = self.case(0);
        operation(&case).unwrap().reference(&case, &self.inputs).unwrap()
    }

    fn output(&self, name: &str) -> ArrayD<f64> {
        let outputs = self.outputs();
        let expected = outputs.output(name);
        ArrayD::from_shape_vec(expected.shape(), expected.values()).unwrap()
    }

    fn input(&self, name: &str) -> ArrayD<f64> {
        array(self.inputs.tensor(name))
    }

    /// Names of the outputs forward, each with its axis of the batch.
    fn forward_outputs(&self) -> Vec<&'static str> {
        if self.cell == Cell::Lstm { vec!["y", "h_n", "c_n"] } else { vec!["y", "h_n"] }
    }
}

fn array(tensor: &Tensor) -> ArrayD<f64> {
    ArrayD::from_shape_vec(tensor.shape(), tensor.to_f64()).unwrap()
}

fn tensor_of(array: &ArrayD<f64>) -> Tensor {
    Tensor::from_real(DType::F64, array.shape(), &array.iter().copied().collect::<Vec<_>>())
}

fn cut(array: &ArrayD<f64>, axis: usize, range: std::ops::Range<usize>) -> ArrayD<f64> {
    array.slice_axis(Axis(axis), Slice::from(range)).to_owned()
}

fn close(a: &ArrayD<f64>, b: &ArrayD<f64>, tolerance: f64) -> Result<(), TestCaseError> {
    prop_assert_eq!(a.shape(), b.shape());
    for (&a, &b) in a.iter().zip(b) {
        prop_assert!((a - b).abs() <= tolerance * (1.0 + a.abs()), "{} is not {}", a, b);
    }
    Ok(())
}

fn small(directions: bool, ragged: bool) -> impl Strategy<Value = Sizes> {
    let (bidirectional, lengths) = (any::<bool>(), any::<bool>());
    (1usize..4, 1usize..7, 1usize..5, 1usize..6, bidirectional, lengths).prop_map(
        move |(batch, seq_len, input, hidden, both, lengths)| Sizes {
            batch,
            seq_len,
            input,
            hidden,
            dtype: DType::F32,
            bidirectional: directions && both,
            lengths: if ragged && lengths { Lengths::Ragged } else { Lengths::Full },
        },
    )
}

fn forward(directions: bool, ragged: bool) -> impl Strategy<Value = Problem> {
    (select(CELLS.to_vec()), small(directions, ragged), 0u64..1000)
        .prop_map(|(cell, sizes, seed)| Problem::new(cell, &sizes, false, seed))
}

/// Sets the biases of one gate.
fn bias(problem: Problem, gate: usize, value: f64) -> Problem {
    let (hidden, gates) = (problem.sizes.hidden, problem.input("b_ih").shape()[1]);
    let of_gate = move |i: usize| i % gates / hidden == gate;
    problem.with("b_ih", move |i, v| if of_gate(i) { value } else { v })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_generated_case_has_valid_inputs(index in 0usize..6, seed in any::<u64>()) {
        laws::case_has_valid_inputs(cases::strategies(), index, seed)?;
    }

    #[test]
    fn zero_weights_leave_what_the_gates_at_rest_leave(problem in forward(true, false)) {
        let zero = ["W_ih", "W_hh", "b_ih", "b_hh"]
            .into_iter()
            .fold(problem, |problem, name| problem.with(name, |_, _| 0.0));
        // Gates at rest are 1/2, and tanh(0) = 0: a GRU halves its state, an LSTM its cell.
        let half = 0.5f64.powi(zero.sizes.seq_len as i32);
        let expected = match zero.cell {
            Cell::Rnn(_) => zero.input("h0") * 0.0,
            Cell::Lstm => (zero.input("c0") * half).mapv(|c| 0.5 * c.tanh()),
            Cell::Gru(_) => zero.input("h0") * half,
        };
        close(&zero.output("h_n"), &expected, 1e-14)?;
    }

    #[test]
    fn a_sequence_split_at_any_point_gives_the_same(problem in forward(false, false), at in 0.0..1.0) {
        let at = (at * problem.sizes.seq_len as f64) as usize;
        let part = |range: std::ops::Range<usize>, h0: &ArrayD<f64>, c0: Option<&ArrayD<f64>>| {
            let mut part = problem.clone().map(&["x"], |x| cut(x, 0, range.clone()));
            part.sizes.seq_len = range.len();
            part.inputs.insert("h0", tensor_of(h0));
            if let Some(c0) = c0 {
                part.inputs.insert("c0", tensor_of(c0));
            }
            part
        };
        let lstm = problem.cell == Cell::Lstm;
        let c0 = lstm.then(|| problem.input("c0"));
        let first = part(0..at, &problem.input("h0"), c0.as_ref());
        let c = lstm.then(|| first.output("c_n"));
        let second = part(at..problem.sizes.seq_len, &first.output("h_n"), c.as_ref());
        let joined = ndarray::concatenate(
            Axis(0), &[first.output("y").view(), second.output("y").view()],
        ).unwrap();
        close(&problem.output("y"), &joined, 1e-13)?;
        for state in &problem.forward_outputs()[1..] {
            close(&problem.output(state), &second.output(state), 1e-13)?;
        }
    }

    #[test]
    fn a_permuted_batch_permutes_the_outputs(problem in forward(true, false), first in 0usize..4) {
        let batch = problem.sizes.batch;
        let order: Vec<usize> = (0..batch).map(|i| (i + first) % batch).collect();
        let turned = problem.clone().map(&["x", "h0", "c0"], |a| a.select(Axis(1), &order));
        for name in problem.forward_outputs() {
            close(&turned.output(name), &problem.output(name).select(Axis(1), &order), 1e-14)?;
        }
    }

    #[test]
    fn two_directions_are_two_runs_of_one(problem in forward(true, false)) {
        if problem.sizes.bidirectional {
            let hidden = problem.sizes.hidden;
            for direction in 0..2 {
                let names = ["W_ih", "W_hh", "b_ih", "b_hh", "h0", "c0"];
                let mut one = problem.clone().map(&names, |a| cut(a, 0, direction..direction + 1));
                one.sizes.bidirectional = false;
                let reversed = |a: &ArrayD<f64>| {
                    let mut a = a.clone();
                    a.invert_axis(Axis(0));
                    a.as_standard_layout().into_owned()
                };
                if direction == 1 {
                    one = one.map(&["x"], reversed);
                }
                let y = if direction == 1 { reversed(&one.output("y")) } else { one.output("y") };
                let range = direction * hidden..(direction + 1) * hidden;
                close(&cut(&problem.output("y"), 2, range), &y, 1e-14)?;
                for state in &problem.forward_outputs()[1..] {
                    let both = cut(&problem.output(state), 0, direction..direction + 1);
                    close(&both, &one.output(state), 1e-14)?;
                }
            }
        }
    }

    #[test]
    fn a_shorter_sequence_is_as_if_it_were_alone(problem in forward(true, true)) {
        if problem.sizes.lengths == Lengths::Ragged {
            for (row, length) in problem.inputs.tensor("lengths").to_i64().into_iter().enumerate() {
                let length = length as usize;
                let mut alone = problem.clone().without_lengths()
                    .map(&["x", "h0", "c0"], |a| cut(a, 1, row..row + 1))
                    .map(&["x"], |x| cut(x, 0, 0..length));
                (alone.sizes.batch, alone.sizes.seq_len) = (1, length);
                let y = cut(&problem.output("y"), 1, row..row + 1);
                close(&cut(&y, 0, 0..length), &alone.output("y"), 1e-14)?;
                prop_assert!(cut(&y, 0, length..problem.sizes.seq_len).iter().all(|&v| v == 0.0));
                for state in &problem.forward_outputs()[1..] {
                    close(&cut(&problem.output(state), 1, row..row + 1), &alone.output(state), 1e-14)?;
                }
            }
        }
    }

    #[test]
    fn a_saturated_forget_gate_keeps_the_cell(sizes in small(true, true), seed in 0u64..1000) {
        let problem = Problem::new(Cell::Lstm, &sizes, false, seed);
        let kept = bias(bias(problem, 0, -200.0), 1, 200.0);
        close(&kept.output("c_n"), &kept.input("c0"), 1e-14)?;
    }

    #[test]
    fn conventions_of_the_gru_agree_when_it_resets_nothing(sizes in small(true, true), seed in 0u64..1000) {
        let [before, after] = [Reset::Before, Reset::After]
            .map(|reset| bias(Problem::new(Cell::Gru(reset), &sizes, false, seed), 0, 200.0));
        close(&before.output("y"), &after.output("y"), 1e-14)?;
    }

    #[test]
    fn conventions_of_the_gru_differ_otherwise(sizes in small(false, false), seed in 0u64..1000) {
        let sizes = Sizes { hidden: sizes.hidden.max(2), ..sizes };
        let [before, after] = [Reset::Before, Reset::After]
            .map(|reset| Problem::new(Cell::Gru(reset), &sizes, false, seed).output("y"));
        prop_assert!(before.iter().zip(&after).any(|(a, b)| (a - b).abs() > 1e-6));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn gradients_are_those_of_finite_differences(
        cell in select(CELLS.to_vec()), sizes in small(true, true), seed in 0u64..1000, pick in 0.0..1.0,
    ) {
        let problem = Problem::new(cell, &sizes, true, seed);
        let loss = |problem: &Problem| {
            let mut forward = problem.clone();
            forward.backward = false;
            let weighted = |output: &str, by: &str| {
                (forward.output(output) * problem.input(by)).sum()
            };
            let states = weighted("y", "dy") + weighted("h_n", "dh_n");
            if cell == Cell::Lstm { states + weighted("c_n", "dc_n") } else { states }
        };
        let inputs = ["x", "W_ih", "W_hh", "b_ih", "b_hh", "h0", "c0"];
        for name in inputs.into_iter().filter(|name| problem.inputs.get(name).is_some()) {
            let gradient = problem.output(&format!("d{name}"));
            let chosen = (pick * gradient.len() as f64) as usize;
            let step = 1e-6;
            let moved = |by: f64| {
                let moved = problem.clone().with(name, |i, v| if i == chosen { v + by } else { v });
                loss(&moved)
            };
            let slope = (moved(step) - moved(-step)) / (2.0 * step);
            let exact = *gradient.iter().nth(chosen).unwrap();
            prop_assert!((slope - exact).abs() <= 1e-6 * (1.0 + exact.abs()), "d{}: {} is not {}", name, exact, slope);
        }
    }
}
