//! Recurrent cells: a launch or two a step, or one launch for all of them.

use touchstone_reference::{
    Case, Tensors,
    recurrent::{Cell, Layer, gru::Reset, rnn::Nonlinearity},
};

use crate::{
    plan::{Arg, BufferId, Plan, blocks},
    variant::{Unsupported, Variant},
};

mod fused;
mod plain;

/// A rung that every operation of this vertical has.
const fn rung(
    op: &'static str,
    name: &'static str,
    idea: &'static str,
    plan: fn(&Case, &Tensors) -> Result<Plan, Unsupported>,
) -> Variant {
    Variant { op, name, idea, deterministic: true, plan }
}

macro_rules! ladder {
    ($($op:literal),*) => {
        &[$(
            rung(
                $op,
                "naive",
                "a launch for the product and one for the cell a step, an output a thread, in f32",
                |case, inputs| plain::plan(case, inputs, &plain::NAIVE),
            ),
            rung(
                $op,
                "batched",
                "x and the weights' gradients as tiled products over all steps at once, in f32",
                |case, inputs| plain::plan(case, inputs, &plain::TILED),
            ),
            rung(
                $op,
                "fused",
                "product and cell of a step in one launch, on tensor cores",
                |case, inputs| fused::plan(case, inputs, fused::Rung::Fused),
            ),
            rung(
                $op,
                "persistent",
                "one launch for all steps forward, weights kept in shared memory",
                |case, inputs| fused::plan(case, inputs, fused::Rung::Persistent),
            ),
            rung(
                $op,
                "warpgroups",
                "persistent, and the product of x with its weights by warpgroups",
                |case, inputs| fused::plan(case, inputs, fused::Rung::Warpgroups),
            ),
        )*]
    };
}

/// The variants of this vertical, in ladder order.
pub static VARIANTS: &[Variant] = ladder!(
    "recurrent.rnn",
    "recurrent.rnn_backward",
    "recurrent.lstm",
    "recurrent.lstm_backward",
    "recurrent.gru",
    "recurrent.gru_backward"
);

/// Threads of a block where a kernel gives every output element one thread.
const THREADS: usize = 128;

/// The number a kernel knows a cell by.
fn mode(cell: Cell) -> usize {
    match cell {
        Cell::Rnn(Nonlinearity::Tanh) => 0,
        Cell::Rnn(Nonlinearity::Relu) => 1,
        Cell::Lstm => 2,
        Cell::Gru(Reset::After) => 3,
        Cell::Gru(Reset::Before) => 4,
    }
}

/// Where states and gradients lie; see `recurrent.cuh`.
#[derive(Clone, Copy)]
struct Layout {
    layer: Layer,
    /// Whether every state is kept, for the way back.
    keeps: bool,
    /// Slots of states: two in turn, or all.
    slots: usize,
}

impl Layout {
    fn new(layer: Layer, keeps: bool) -> Self {
        Self { layer, keeps, slots: if keeps { layer.seq_len + 1 } else { 2 } }
    }

    /// Distance of two sequences' states.
    fn stride(&self) -> usize {
        self.layer.hidden.next_multiple_of(8)
    }

    /// Distance of two sequences' gradients before the nonlinearities.
    fn gradient_stride(&self) -> usize {
        self.layer.rows().next_multiple_of(8)
    }

    /// Sequences times steps.
    fn tokens(&self) -> usize {
        self.layer.seq_len * self.layer.batch
    }

    fn states(&self) -> [usize; 4] {
        [self.layer.directions, self.slots, self.layer.batch, self.stride()]
    }

    fn cells(&self) -> [usize; 4] {
        [self.layer.directions, self.slots, self.layer.batch, self.layer.hidden]
    }

    fn gates(&self) -> [usize; 3] {
        [self.layer.directions, self.tokens(), self.layer.rows()]
    }

    fn gradients(&self) -> [usize; 3] {
        [self.layer.directions, self.tokens(), self.gradient_stride()]
    }

    /// Something a step of all sequences, of `width` each.
    fn steps(&self, width: usize) -> [usize; 3] {
        [self.layer.directions, self.tokens(), width]
    }

    /// The time of the `s`-th step of a direction.
    fn time(&self, direction: usize, s: usize) -> usize {
        if direction == 0 { s } else { self.layer.seq_len - 1 - s }
    }

    /// Elements before the states that each direction reads in its `s`-th step, and how far the second
    /// direction's are behind the first's.
    fn before(&self, s: usize) -> (usize, usize) {
        let of = |direction: usize| {
            let number = self.time(direction, s) + direction;
            let slot = if self.slots == 2 { number % 2 } else { number };
            (direction * self.slots + slot) * self.layer.batch * self.stride()
        };
        (of(0), if self.layer.directions == 2 { of(1) - of(0) } else { 0 })
    }

    /// Likewise of an array over steps: elements before the `s`-th step.
    fn step(&self, s: usize, width: usize) -> (usize, usize) {
        let row = |d: usize| d * self.tokens() + self.time(d, s) * self.layer.batch;
        let second = if self.layer.directions == 2 { row(1) - row(0) } else { 0 };
        (row(0) * width, second * width)
    }

    /// batch, seq_len, hidden, slots, directions: as every kernel takes them.
    fn args(&self) -> [Arg; 5] {
        let Layer { batch, seq_len, hidden, directions, .. } = self.layer;
        [batch, seq_len, hidden, self.slots, directions].map(Arg::from)
    }

    /// Kernels count units of a batch in 32 bits.
    fn check(&self) -> Result<(), Unsupported> {
        let units: usize = self.layer.state_shape().iter().product();
        if units * self.layer.gates() > i32::MAX as usize {
            return Err(Unsupported(format!("{units} units of states are too many")));
        }
        Ok(())
    }
}

/// One operand of a product: element (z, r, row, k) of a buffer at `offset + z·batch + r·repeat +
/// row·row + k·k`, in elements; either `row` or `k` is 1.
#[derive(Clone, Copy)]
struct Operand {
    buffer: BufferId,
    offset: usize,
    batch: usize,
    repeat: usize,
    row: usize,
    k: usize,
}

/// The result of a product: element (z, m, n) at `offset + z·batch + m·row + n`.
#[derive(Clone, Copy)]
struct Target {
    buffer: BufferId,
    offset: usize,
    batch: usize,
    row: usize,
}

/// Sizes of a product.
#[derive(Clone, Copy)]
struct Extent {
    batches: usize,
    rows: usize,
    columns: usize,
    depth: usize,
    repeats: usize,
}

/// What the kernels of all products take first.
fn product_args(a: Operand, b: Operand, c: Target, extent: Extent, bytes: [usize; 2]) -> Vec<Arg> {
    let [operand_bytes, target_bytes] = bytes;
    let mut args = Vec::new();
    for side in [a, b] {
        args.push(Arg::Buffer(side.buffer, side.offset * operand_bytes));
        args.extend([side.batch, side.repeat, side.row, side.k].map(Arg::from));
    }
    args.push(Arg::Buffer(c.buffer, c.offset * target_bytes));
    let Extent { rows, columns, depth, repeats, .. } = extent;
    args.extend([c.batch, c.row, rows, columns, depth, repeats].map(Arg::from));
    args
}

/// The grid of a tiled product: columns first, so that blocks side by side share rows.
fn tiles(extent: Extent, tile: usize) -> Result<[usize; 3], Unsupported> {
    let grid = [extent.columns.div_ceil(tile), extent.rows.div_ceil(tile), extent.batches];
    if grid[1] > 65_535 {
        return Err(Unsupported(format!("{} rows are more than a grid takes", extent.rows)));
    }
    Ok(grid)
}
