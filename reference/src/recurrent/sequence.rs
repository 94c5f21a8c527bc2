//! The way of a batch through time, forward and backward, for any cell.

use std::ops::Range;

use super::{
    Cell, Layer,
    approx::{Approx, margins, product, product_transposed},
    gru, lstm, rnn,
};
use crate::{
    draw::Draw,
    expected::{Expected, Outputs, Tolerance},
    tensor::{DType, Tensors},
};

/// Multiply-adds of weights that a reference does before it samples sequences, and steps of one sequence
/// where one is too many.
const MOST_PRODUCTS: usize = 1 << 29;

/// What one step of one sequence computes. Vectors go over units, `gates` over gates and units.
#[derive(Clone, Debug, Default)]
pub(super) struct Step {
    /// The gates' values; the RNN's before its nonlinearity.
    pub(super) gates: Vec<Approx>,
    /// What the GRU keeps beside its gates.
    pub(super) side: Vec<Approx>,
    /// The new state, before it is stored.
    pub(super) h: Vec<Approx>,
    /// The new cell (LSTM).
    pub(super) c: Vec<Approx>,
    /// State and cell before the step.
    pub(super) h_before: Vec<Approx>,
    pub(super) c_before: Vec<Approx>,
}

impl Step {
    /// The gates of one unit.
    pub(super) fn unit_gates<const G: usize>(&self, units: usize, unit: usize) -> [Approx; G] {
        std::array::from_fn(|gate| self.gates[gate * units + unit])
    }
}

/// Gradients of one step: of what x and the state gave to the gates (stored), of the state before the
/// step and of the cell before it.
#[derive(Clone, Debug)]
pub(super) struct Back {
    pub(super) dpx: Vec<Approx>,
    pub(super) dph: Vec<Approx>,
    pub(super) dh: Vec<Approx>,
    pub(super) dc: Vec<Approx>,
}

/// The weights of one direction.
pub(super) struct Weights<'a> {
    layer: &'a Layer,
    ih: &'a [f64],
    hh: &'a [f64],
    b_ih: &'a [f64],
    b_hh: &'a [f64],
}

impl Weights<'_> {
    /// W_ih·x + b_ih.
    fn input_part(&self, x: &[Approx]) -> Vec<Approx> {
        let products = product(self.ih, self.layer.rows(), x);
        products.into_iter().zip(self.b_ih).map(|(p, &b)| p + Approx::exact(b)).collect()
    }

    /// W_hh·v + b_hh of some gates.
    pub(super) fn hidden_part(&self, gates: Range<usize>, v: &[Approx]) -> Vec<Approx> {
        let units = self.layer.hidden;
        let rows = gates.start * units..gates.end * units;
        let products = product(&self.hh[rows.start * units..], rows.len(), v);
        products.into_iter().zip(&self.b_hh[rows]).map(|(p, &b)| p + Approx::exact(b)).collect()
    }

    /// W_hhᵀ·d of some gates.
    pub(super) fn hidden_back(&self, gates: Range<usize>, d: &[Approx]) -> Vec<Approx> {
        let units = self.layer.hidden;
        product_transposed(&self.hh[gates.start * units * units..], units, d)
    }

    /// The values as stored in dtype.
    pub(super) fn stored(&self, values: Vec<Approx>) -> Vec<Approx> {
        values.into_iter().map(|v| v.stored(self.layer.dtype)).collect()
    }

    fn step(&self, px: &[Approx], h: &[Approx], c: &[Approx]) -> Step {
        let mut step = match self.layer.cell {
            Cell::Rnn(f) => rnn::step(f, self, px, h),
            Cell::Lstm => lstm::step(self, px, h, c),
            Cell::Gru(reset) => gru::step(reset, self, px, h),
        };
        (step.h_before, step.c_before) = (h.to_vec(), c.to_vec());
        step
    }

    fn back(&self, step: &Step, dh: &[Approx], dc: &[Approx]) -> Back {
        match self.layer.cell {
            Cell::Rnn(f) => rnn::back(f, self, step, dh),
            Cell::Lstm => lstm::back(self, step, dh, dc),
            Cell::Gru(reset) => gru::back(reset, self, step, dh),
        }
    }
}

/// Inputs as f64.
struct Problem<'a> {
    layer: &'a Layer,
    x: Vec<f64>,
    lengths: Vec<usize>,
    weights: [Vec<f64>; 4],
    h0: Vec<f64>,
    c0: Vec<f64>,
}

impl<'a> Problem<'a> {
    fn new(layer: &'a Layer, inputs: &Tensors) -> Self {
        let real = |name: &str| inputs.get(name).map_or_else(Vec::new, |t| t.to_f64());
        let lengths = match inputs.get("lengths") {
            Some(lengths) => lengths.to_i64().iter().map(|&n| n as usize).collect(),
            None => vec![layer.seq_len; layer.batch],
        };
        let weights = ["W_ih", "W_hh", "b_ih", "b_hh"].map(real);
        Self { layer, x: real("x"), lengths, weights, h0: real("h0"), c0: real("c0") }
    }

    fn weights(&self, direction: usize) -> Weights<'_> {
        let part =
            |all: &'_ [f64], len: usize| direction * len..direction * len + all.len().min(len);
        let Layer { input, hidden, .. } = *self.layer;
        let rows = self.layer.rows();
        let [ih, hh, b_ih, b_hh] = &self.weights;
        Weights {
            layer: self.layer,
            ih: &ih[part(ih, rows * input)],
            hh: &hh[part(hh, rows * hidden)],
            b_ih: &b_ih[part(b_ih, rows)],
            b_hh: &b_hh[part(b_hh, rows)],
        }
    }

    /// The time of the step that a direction does as its `s`-th.
    fn time(&self, direction: usize, s: usize) -> usize {
        if direction == 0 { s } else { self.layer.seq_len - 1 - s }
    }

    /// Index of the first unit of a sequence's state.
    fn state_at(&self, direction: usize, row: usize) -> usize {
        (direction * self.layer.batch + row) * self.layer.hidden
    }

    /// Index in y of the first unit of a direction.
    fn y_at(&self, direction: usize, t: usize, row: usize) -> usize {
        let Layer { batch, directions, hidden, .. } = *self.layer;
        ((t * batch + row) * directions + direction) * hidden
    }

    /// x of one step.
    fn x(&self, t: usize, row: usize) -> Vec<Approx> {
        let input = self.layer.input;
        let at = (t * self.layer.batch + row) * input;
        self.x[at..at + input].iter().map(|&x| Approx::exact(x)).collect()
    }

    /// A sequence's row of a state-shaped array; empty where there is none.
    fn state(&self, all: &[f64], direction: usize, row: usize) -> Vec<Approx> {
        let units = if all.is_empty() { 0 } else { self.layer.hidden };
        let at = if units == 0 { 0 } else { self.state_at(direction, row) };
        all[at..at + units].iter().map(|&v| Approx::exact(v)).collect()
    }

    /// The first `steps` steps that a direction does of a sequence, in its order; `None` in the padding.
    /// Also the state, as stored, and the cell after them.
    fn run(
        &self,
        direction: usize,
        row: usize,
        steps: usize,
    ) -> (Vec<Option<Step>>, [Vec<Approx>; 2]) {
        let weights = self.weights(direction);
        let mut h = self.state(&self.h0, direction, row);
        let mut c = self.state(&self.c0, direction, row);
        let mut done = Vec::new();
        for s in 0..steps {
            let t = self.time(direction, s);
            done.push((t < self.lengths[row]).then(|| {
                let px = weights.input_part(&self.x(t, row));
                let step = weights.step(&px, &h, &c);
                h = weights.stored(step.h.clone());
                c.clone_from(&step.c);
                step
            }));
        }
        (done, [h, c])
    }

    /// Multiply-adds of one step of one sequence, in all directions.
    fn step_cost(&self) -> usize {
        let Layer { input, hidden, directions, .. } = *self.layer;
        directions * self.layer.rows() * (input + hidden)
    }

    /// The sequences that a reference computes, each costing `cost`.
    fn rows(&self, cost: usize) -> Vec<usize> {
        sample(self.layer.batch, MOST_PRODUCTS / cost.max(1))
    }
}

/// The numbers `0..count`, or a fixed random sample of `at_most` of them, at least one, ascending.
fn sample(count: usize, at_most: usize) -> Vec<usize> {
    let at_most = at_most.max(1);
    if count <= at_most {
        return (0..count).collect();
    }
    let mut draw = Draw::new(count as u64);
    let mut chosen: Vec<usize> = (0..at_most).map(|_| draw.below(count)).collect();
    chosen.sort_unstable();
    chosen.dedup();
    chosen
}

/// Known elements of an output.
#[derive(Default)]
struct Known(Vec<(usize, Approx)>);

impl Known {
    fn extend(&mut self, at: usize, values: impl IntoIterator<Item = Approx>) {
        self.0.extend(values.into_iter().enumerate().map(|(i, value)| (at + i, value)));
    }

    /// The output: all of it, or a sample. The errors were carried with the values, so a bound is the
    /// error and the rounding on storing.
    fn expected(mut self, shape: &[usize], storage: DType) -> Expected {
        self.0.sort_unstable_by_key(|k| k.0);
        let tolerance = Tolerance { relative: 1.0, storage };
        let known: Vec<_> = self.0.iter().map(|&(i, v)| (i, v.value, v.error)).collect();
        Expected::sampled(shape, &known, tolerance)
    }
}

/// y, h_n and c_n. Where one whole sequence is too much work, its first steps (of each direction) stand
/// for it and its last state is left open.
pub(super) fn forward(layer: &Layer, inputs: &Tensors) -> Outputs {
    let problem = Problem::new(layer, inputs);
    let per_step = problem.step_cost().max(1);
    let rows = problem.rows(per_step * layer.seq_len);
    let steps = layer.seq_len.min((MOST_PRODUCTS / per_step).max(1));
    let [mut y, mut h_n, mut c_n] = [const { Known(Vec::new()) }; 3];
    for (&row, direction) in rows.iter().flat_map(|r| (0..layer.directions).map(move |d| (r, d))) {
        let (done, [h, c]) = problem.run(direction, row, steps);
        for (s, step) in done.into_iter().enumerate() {
            let at = problem.y_at(direction, problem.time(direction, s), row);
            y.extend(at, step.map_or_else(|| vec![Approx::default(); layer.hidden], |step| step.h));
        }
        if steps == layer.seq_len {
            let at = problem.state_at(direction, row);
            h_n.extend(at, h);
            c_n.extend(at, c);
        }
    }
    let outputs = Outputs::new()
        .with("y", y.expected(&layer.y_shape(), layer.dtype))
        .with("h_n", h_n.expected(&layer.state_shape(), layer.dtype));
    match layer.cell {
        Cell::Lstm => outputs.with("c_n", c_n.expected(&layer.state_shape(), layer.dtype)),
        _ => outputs,
    }
}

/// Gradient of one direction's weights: values and errors, row-major.
struct WeightGradient {
    columns: usize,
    value: Vec<f64>,
    error: Vec<f64>,
}

impl WeightGradient {
    fn zero(rows: usize, columns: usize) -> Self {
        Self { columns, value: vec![0.0; rows * columns], error: vec![0.0; rows * columns] }
    }

    /// Adds d·vᵀ to the rows from `first`, one of `terms` such products. The error of a term is
    /// |v|·(that of d and the sum's share) + (|d| + that of d)·(that of v).
    fn add(&mut self, first: usize, d: &[Approx], v: &[Approx], terms: usize) {
        let margin = margins(d, terms);
        for (r, (d, margin)) in d.iter().zip(margin).enumerate() {
            let at = (first + r) * self.columns;
            let size = d.value.abs() + d.error;
            let sums = self.value[at..].iter_mut().zip(&mut self.error[at..]);
            for (v, (sum, error)) in v.iter().zip(sums) {
                *sum += d.value * v.value;
                *error += margin * v.value.abs() + size * v.error;
            }
        }
    }

    fn known(self, direction: usize, known: &mut Known) {
        let at = direction * self.value.len();
        let both = self.value.into_iter().zip(self.error);
        known.extend(at, both.map(|(value, error)| Approx { value, error }));
    }
}

/// Gradients that gather over the batch, of one direction.
struct Gathered {
    ih: WeightGradient,
    hh: WeightGradient,
    b_ih: WeightGradient,
    b_hh: WeightGradient,
}

impl Gathered {
    fn zero(layer: &Layer) -> Self {
        let zero = |columns| WeightGradient::zero(layer.rows(), columns);
        Self { ih: zero(layer.input), hh: zero(layer.hidden), b_ih: zero(1), b_hh: zero(1) }
    }

    fn add(&mut self, layer: &Layer, x: &[Approx], step: &Step, back: &Back) {
        let terms = layer.seq_len * layer.batch;
        let one = [Approx::exact(1.0)];
        self.ih.add(0, &back.dpx, x, terms);
        self.b_ih.add(0, &back.dpx, &one, terms);
        self.b_hh.add(0, &back.dph, &one, terms);
        if layer.cell == Cell::Gru(gru::Reset::Before) {
            let (gates, candidate) = back.dph.split_at(2 * layer.hidden);
            self.hh.add(0, gates, &step.h_before, terms);
            self.hh.add(2 * layer.hidden, candidate, &step.side, terms);
        } else {
            self.hh.add(0, &back.dph, &step.h_before, terms);
        }
    }
}

/// All gradients. Where the batch is too much work, gradients of x and of the first states are known for
/// a sample of sequences, and those of weights, which gather over all, are left open.
pub(super) fn backward(layer: &Layer, inputs: &Tensors) -> Outputs {
    let problem = Problem::new(layer, inputs);
    let real = |name: &str| inputs.get(name).map_or_else(Vec::new, |t| t.to_f64());
    let (dy, dh_n, dc_n) = (real("dy"), real("dh_n"), real("dc_n"));
    let rows = problem.rows(3 * problem.step_cost() * layer.seq_len);
    let mut gathered: Vec<Gathered> = if rows.len() == layer.batch {
        (0..layer.directions).map(|_| Gathered::zero(layer)).collect()
    } else {
        Vec::new()
    };
    let [mut dx, mut dh0, mut dc0] = [const { Known(Vec::new()) }; 3];
    for &row in &rows {
        let mut of_x = vec![vec![Approx::default(); layer.input]; layer.seq_len];
        for direction in 0..layer.directions {
            let weights = problem.weights(direction);
            let (done, _) = problem.run(direction, row, layer.seq_len);
            let mut dh = problem.state(&dh_n, direction, row);
            let mut dc = problem.state(&dc_n, direction, row);
            for (s, step) in done.iter().enumerate().rev() {
                let Some(step) = step else { continue };
                let t = problem.time(direction, s);
                let dy = &dy[problem.y_at(direction, t, row)..];
                let total: Vec<_> =
                    dh.iter().zip(dy).map(|(&dh, &dy)| dh + Approx::exact(dy)).collect();
                let back = weights.back(step, &total, &dc);
                let passed = product_transposed(weights.ih, layer.input, &back.dpx);
                for (sum, term) in of_x[t].iter_mut().zip(passed) {
                    *sum = *sum + term;
                }
                if let Some(gathered) = gathered.get_mut(direction) {
                    gathered.add(layer, &problem.x(t, row), step, &back);
                }
                (dh, dc) = (back.dh, back.dc);
            }
            let at = problem.state_at(direction, row);
            dh0.extend(at, dh);
            dc0.extend(at, dc);
        }
        for (t, of_x) in of_x.into_iter().enumerate() {
            dx.extend((t * layer.batch + row) * layer.input, of_x);
        }
    }
    let [mut dw_ih, mut dw_hh, mut db_ih, mut db_hh] = [const { Known(Vec::new()) }; 4];
    for (direction, gathered) in gathered.into_iter().enumerate() {
        gathered.ih.known(direction, &mut dw_ih);
        gathered.hh.known(direction, &mut dw_hh);
        gathered.b_ih.known(direction, &mut db_ih);
        gathered.b_hh.known(direction, &mut db_hh);
    }
    let bias = [layer.directions, layer.rows()];
    let outputs = Outputs::new()
        .with("dx", dx.expected(&layer.x_shape(), layer.dtype))
        .with("dW_ih", dw_ih.expected(&layer.input_weights(), layer.dtype))
        .with("dW_hh", dw_hh.expected(&layer.hidden_weights(), layer.dtype))
        .with("db_ih", db_ih.expected(&bias, layer.dtype))
        .with("db_hh", db_hh.expected(&bias, layer.dtype))
        .with("dh0", dh0.expected(&layer.state_shape(), layer.dtype));
    match layer.cell {
        Cell::Lstm => outputs.with("dc0", dc0.expected(&layer.state_shape(), layer.dtype)),
        _ => outputs,
    }
}
