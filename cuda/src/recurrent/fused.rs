//! Plans on tensor cores: `fused`, a launch a step, `persistent`, one launch for all steps forward, and
//! `warpgroups`, which also has Hopper's own products for what x gives to the gates.

use touchstone_reference::{
    Case, DType, Tensors,
    recurrent::{Cell, Layer, gru::Reset, layer},
};

use super::{Extent, Layout, Operand, Target, mode, plain::Sums, product_args, tiles};
use crate::{
    plan::{Arg, BufferId, Plan},
    variant::Unsupported,
};

const MODULE: &str = "recurrent_fused";
const PRODUCTS: &str = "recurrent_gemm";
const CONVERSIONS: &str = "recurrent_naive";

/// Sequences and units of a block, and its threads and warps; see `recurrent_step.cuh`.
const ROWS: usize = 32;
const UNITS: usize = 16;
const THREADS: usize = 256;
const WARPS: usize = 8;

/// Shared memory of the tiled product: three stages of two operands.
const PRODUCT_BYTES: usize = 3 * 2 * 10_240;

/// Blocks of the persistent kernel, which wait for each other and so must all be on the device at once:
/// one a multiprocessor, of which every device that has the shared memory for them has at least as many
/// (132 on an H100, of which some are left).
const MOST_RESIDENT: usize = 128;

/// Shared memory a persistent block may take.
const MOST_SHARED: usize = 168 << 10;

/// Sums of a block's tile in shared memory, in bytes.
fn sum_bytes(gates: usize) -> usize {
    4 * ROWS * (gates * UNITS + 8) * 4
}

/// The rungs that this module plans; each keeps what the one before has.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rung {
    Fused,
    Persistent,
    Warpgroups,
}

/// A plan in the making.
struct Builder<'a> {
    plan: Plan,
    inputs: &'a Tensors,
    layout: Layout,
    rung: Rung,
}

/// Buffers of the way forward that the way back reads.
struct Run {
    x: BufferId,
    w_ih: BufferId,
    w_hh: BufferId,
    lengths: Option<BufferId>,
    gates: BufferId,
    states: BufferId,
    cells: Option<BufferId>,
    side: Option<BufferId>,
}

/// Plan of an operation, either direction.
pub(super) fn plan(case: &Case, inputs: &Tensors, rung: Rung) -> Result<Plan, Unsupported> {
    let (layer, backward) = layer(case)?;
    if !matches!(layer.dtype, DType::F16 | DType::Bf16) {
        return Err(Unsupported(format!(
            "{} does not run on tensor cores here",
            layer.dtype.name()
        )));
    }
    if layer.cell == Cell::Gru(Reset::Before) {
        return Err(Unsupported("a reset before the product splits the step in two".into()));
    }
    let layout = Layout::new(layer, backward);
    layout.check()?;
    if layer.batch.div_ceil(ROWS) > 65_535 {
        return Err(Unsupported(format!("batch {} is more than a grid takes", layer.batch)));
    }
    let mut builder = Builder { plan: Plan::new(), inputs, layout, rung };
    if rung >= Rung::Persistent {
        builder.check_resident()?;
    }
    if rung == Rung::Warpgroups {
        builder.check_products()?;
    }
    if backward {
        let y = builder.plan.scratch("y", layer.dtype, &layer.y_shape());
        let run = builder.forward(y)?;
        builder.backward(&run)?;
    } else {
        let y = builder.plan.output("y", layer.dtype, &layer.y_shape());
        let run = builder.forward(y)?;
        builder.last_states(&run);
    }
    Ok(builder.plan)
}

impl Builder<'_> {
    fn bf16(&self) -> usize {
        usize::from(self.layout.layer.dtype == DType::Bf16)
    }

    /// Blocks over units, sequences and directions.
    fn grid(&self) -> [usize; 3] {
        let Layer { batch, hidden, directions, .. } = self.layout.layer;
        [hidden.div_ceil(UNITS), batch.div_ceil(ROWS), directions]
    }

    /// Chunks of 32 of a warp's eighth of a depth.
    fn chunks(depth: usize) -> usize {
        depth.div_ceil(256)
    }

    /// Weights that a block keeps, in bytes.
    fn kept_bytes(&self) -> usize {
        let Layer { hidden, .. } = self.layout.layer;
        WARPS * Self::chunks(hidden) * 2 * self.layout.layer.gates() * 32 * 16
    }

    fn check_resident(&self) -> Result<(), Unsupported> {
        let count: usize = self.grid().iter().product();
        if count > MOST_RESIDENT {
            return Err(Unsupported(format!(
                "{count} blocks are above the {MOST_RESIDENT} that can wait for each other"
            )));
        }
        let bytes = self.kept_bytes() + sum_bytes(self.layout.layer.gates());
        if bytes > MOST_SHARED {
            return Err(Unsupported(format!(
                "a block's weights and sums, {bytes} bytes, are above {MOST_SHARED}"
            )));
        }
        Ok(())
    }

    /// Rows of x and of its weights are copied 16 bytes at a time.
    fn check_products(&self) -> Result<(), Unsupported> {
        match self.layout.layer.input {
            input if input.is_multiple_of(8) => Ok(()),
            input => Err(Unsupported(format!("{input} inputs are not whole words of 16 bytes"))),
        }
    }

    /// gates = x · W_ih for all steps at once, by warpgroups.
    fn gates_by_warpgroups(
        &mut self,
        x: BufferId,
        w_ih: BufferId,
        gates: BufferId,
    ) -> Result<(), Unsupported> {
        /// Three stages of two operands of 128 rows of 128 bytes, and what aligns them.
        const SHARED: usize = 3 * 2 * 128 * 128 + 1024;
        let Layer { input, directions, dtype, .. } = self.layout.layer;
        let (rows, columns) = (self.layout.tokens(), self.layout.layer.rows());
        let extent = Extent { batches: directions, rows, columns, depth: input, repeats: 1 };
        let args: Vec<Arg> = [x.into(), w_ih.into(), gates.into()]
            .into_iter()
            .chain([rows, columns, input].map(Arg::from))
            .collect();
        let (module, symbol) = match dtype {
            DType::F16 => ("recurrent_products.f16", "gates_f16"),
            _ => ("recurrent_products", "gates_bf16"),
        };
        self.plan.launch(module, symbol, tiles(extent, 128)?, [256, 1, 1], SHARED, &args);
        Ok(())
    }

    fn product(
        &mut self,
        (a, b, c, extent): (Operand, Operand, Target, Extent),
        into_f32: bool,
    ) -> Result<(), Unsupported> {
        let mut args = product_args(a, b, c, extent, [2, if into_f32 { 4 } else { 2 }]);
        args.extend([usize::from(into_f32), self.bf16()].map(Arg::from));
        let grid = tiles(extent, 128)?;
        self.plan.launch(PRODUCTS, "product_16", grid, [256, 1, 1], PRODUCT_BYTES, &args);
        Ok(())
    }

    /// Weights in the order of `recurrent_step.cuh`: `strides` are those of gate, unit and k in W_hh.
    fn arrange(
        &mut self,
        name: &str,
        w_hh: BufferId,
        strides: [usize; 3],
        gates: usize,
        depth: usize,
    ) -> BufferId {
        let Layer { hidden, directions, dtype, .. } = self.layout.layer;
        let grid = [hidden.div_ceil(UNITS), WARPS * Self::chunks(depth), directions];
        let tiles = 2 * gates;
        let arranged = self.plan.scratch(name, dtype, &[directions, grid[0], grid[1], tiles * 256]);
        let mut args = vec![Arg::from(w_hh), arranged.into()];
        args.push((self.layout.layer.rows() * hidden).into());
        args.extend(strides.map(Arg::from));
        args.extend([gates, hidden, depth].map(Arg::from));
        self.plan.launch(MODULE, "arrange", grid, [256, 1, 1], 0, &args);
        arranged
    }

    /// Launches `begin` or `end`, which copy states and cells at the ends of time.
    fn ends(&mut self, symbol: &str, buffers: [Arg; 4]) {
        let Layer { batch, hidden, directions, .. } = self.layout.layer;
        let mut args = buffers.to_vec();
        args.extend(self.layout.args());
        args.push(self.bf16().into());
        let grid = [hidden.div_ceil(128), batch.min(1024), directions];
        self.plan.launch(MODULE, symbol, grid, [128, 1, 1], 0, &args);
    }

    fn forward(&mut self, y: BufferId) -> Result<Run, Unsupported> {
        let layout = self.layout;
        let Layer { cell, seq_len, input, hidden, directions, ragged, dtype, .. } = layout.layer;
        let (rows, gate_count) = (layout.layer.rows(), layout.layer.gates());
        let keeps = layout.keeps;
        let inputs = self.inputs;
        let mut given = |name| self.plan.input(inputs, name);
        let (x, w_ih, w_hh) = (given("x"), given("W_ih"), given("W_hh"));
        let (b_ih, b_hh, h0) = (given("b_ih"), given("b_hh"), given("h0"));
        let lengths = ragged.then(|| given("lengths"));
        let c0 = (cell == Cell::Lstm).then(|| given("c0"));
        let gates = self.plan.scratch("gates", DType::F32, &layout.gates());
        let states = self.plan.scratch("states", dtype, &layout.states());
        let cells = c0.map(|_| self.plan.scratch("cells", DType::F32, &layout.cells()));
        let side = (gate_count == 3 && keeps)
            .then(|| self.plan.scratch("side", DType::F32, &layout.steps(hidden)));
        let arranged =
            self.arrange("arranged", w_hh, [hidden * hidden, hidden, 1], gate_count, hidden);
        let grid = self.grid();
        let arrived = (self.rung >= Rung::Persistent)
            .then(|| self.plan.scratch("arrived", DType::U32, &[directions, grid[1], WARPS * 32]));

        // Products read whole groups of eight.
        if layout.stride() != hidden {
            self.plan.fill(states, 0);
        }
        self.ends("begin", [h0.into(), c0.into(), states.into(), cells.into()]);
        let product = (
            Operand { buffer: x, offset: 0, batch: 0, repeat: 0, row: input, k: 1 },
            Operand { buffer: w_ih, offset: 0, batch: rows * input, repeat: 0, row: input, k: 1 },
            Target { buffer: gates, offset: 0, batch: layout.tokens() * rows, row: rows },
            Extent {
                batches: directions,
                rows: layout.tokens(),
                columns: rows,
                depth: input,
                repeats: 1,
            },
        );
        match self.rung {
            Rung::Warpgroups => self.gates_by_warpgroups(x, w_ih, gates)?,
            _ => self.product(product, true)?,
        }
        let mut buffers: Vec<Arg> = vec![arranged.into(), gates.into(), b_ih.into(), b_hh.into()];
        buffers.extend([Arg::from(states), cells.into(), side.into(), lengths.into(), y.into()]);
        buffers.push(arrived.into());
        buffers.extend(layout.args());
        buffers.push(usize::from(keeps).into());
        let symbol = match gate_count {
            1 => "steps_rnn",
            3 => "steps_gru",
            _ => "steps_lstm",
        };
        let relu = usize::from(mode(cell) == 1);
        let mut shared = sum_bytes(gate_count);
        let launch = |builder: &mut Self, from: usize, to: usize, shared: usize| {
            let rest =
                [from, to, usize::from(builder.rung >= Rung::Persistent), builder.bf16(), relu];
            let args: Vec<Arg> = buffers.iter().copied().chain(rest.map(Arg::from)).collect();
            builder.plan.launch(MODULE, symbol, grid, [THREADS, 1, 1], shared, &args);
        };
        if let Some(arrived) = arrived {
            shared += self.kept_bytes();
            self.plan.fill(arrived, 0);
            launch(self, 0, seq_len, shared);
        } else {
            (0..seq_len).for_each(|step| launch(self, step, step + 1, shared));
        }
        Ok(Run { x, w_ih, w_hh, lengths, gates, states, cells, side })
    }

    fn last_states(&mut self, run: &Run) {
        let (shape, dtype) = (self.layout.layer.state_shape(), self.layout.layer.dtype);
        let h_n = self.plan.output("h_n", dtype, &shape);
        let c_n = run.cells.map(|_| self.plan.output("c_n", dtype, &shape));
        self.ends("end", [run.states.into(), run.cells.into(), h_n.into(), c_n.into()]);
    }

    /// Copies between f32 and the stored type.
    fn convert(&mut self, symbol: &str, from: BufferId, to: BufferId, count: usize) {
        let symbol = format!("{symbol}_{}", self.layout.layer.dtype.name());
        let args = [from.into(), to.into(), count.into()];
        self.plan.launch(CONVERSIONS, symbol, [count.div_ceil(128), 1, 1], [128, 1, 1], 0, &args);
    }

    fn backward(&mut self, run: &Run) -> Result<(), Unsupported> {
        let layout = self.layout;
        let Layer { cell, seq_len, hidden, directions, dtype, .. } = layout.layer;
        let (rows, shape) = (layout.layer.rows(), layout.layer.state_shape());
        let units: usize = shape.iter().product();
        let inputs = self.inputs;
        let (dy, dh_n) = (self.plan.input(inputs, "dy"), self.plan.input(inputs, "dh_n"));
        let dc_n = run.cells.map(|_| self.plan.input(inputs, "dc_n"));
        let d = self.plan.scratch("d", dtype, &layout.gradients());
        let d_hidden = (layout.layer.gates() == 3)
            .then(|| self.plan.scratch("d_hidden", dtype, &layout.gradients()));
        let direct = self.plan.scratch("direct", DType::F32, &shape);
        let dc = dc_n.map(|_| self.plan.scratch("dc", DType::F32, &shape));
        let dh0 = self.plan.output("dh0", dtype, &shape);
        let arranged = self.arrange("arranged back", run.w_hh, [0, 1, hidden], 1, rows);
        if layout.gradient_stride() != rows {
            self.plan.fill(d, 0);
            d_hidden.into_iter().for_each(|d| self.plan.fill(d, 0));
        }
        self.convert("widen", dh_n, direct, units);
        if let (Some(dc_n), Some(dc)) = (dc_n, dc) {
            self.convert("widen", dc_n, dc, units);
        }
        let mut buffers: Vec<Arg> = vec![arranged.into(), run.gates.into(), run.states.into()];
        buffers.extend([Arg::from(run.cells), run.side.into(), run.lengths.into(), dy.into()]);
        buffers.extend([Arg::from(direct), dc.into(), d.into(), d_hidden.into(), dh0.into()]);
        buffers.extend(layout.args());
        for step in (-1..seq_len as i64).rev() {
            let mut args = buffers.clone();
            args.extend([Arg::from(step), mode(cell).into(), self.bf16().into()]);
            let (grid, shared) = (self.grid(), sum_bytes(1));
            self.plan.launch(MODULE, "back", grid, [THREADS, 1, 1], shared, &args);
        }
        if let Some(dc) = dc {
            let dc0 = self.plan.output("dc0", dtype, &shape);
            self.convert("narrow", dc, dc0, units);
        }

        let dx = self.plan.output("dx", dtype, &layout.layer.x_shape());
        let dw_ih = self.plan.output("dW_ih", dtype, &layout.layer.input_weights());
        let dw_hh = self.plan.output("dW_hh", dtype, &layout.layer.hidden_weights());
        let dph = d_hidden.unwrap_or(d);
        let (x, w_ih, states) = (run.x, run.w_ih, run.states);
        let sums = Sums { layout, x, w_ih, states, dpx: d, dph };
        for product in sums.products(dx, dw_ih, dw_hh, None) {
            self.product(product, false)?;
        }
        for (name, d) in [("db_ih", d), ("db_hh", dph)] {
            let out = self.plan.output(name, dtype, &[directions, rows]);
            let sizes = [layout.tokens(), rows, layout.gradient_stride(), self.bf16()];
            let args: Vec<Arg> =
                [d.into(), out.into()].into_iter().chain(sizes.map(Arg::from)).collect();
            let grid = [rows.div_ceil(32), 1, directions];
            self.plan.launch(PRODUCTS, "sum_rows_16", grid, [32, 32, 1], 0, &args);
        }
        Ok(())
    }
}
