//! Plans that compute everything in f32: `naive` and `batched` differ in their kernel for products.

use touchstone_reference::{
    Case, DType, Tensors,
    recurrent::{Cell, Layer, gru::Reset, layer},
};

use super::{Extent, Layout, Operand, THREADS, Target, blocks, mode, product_args, tiles};
use crate::{
    plan::{Arg, BufferId, Plan, kind_of},
    variant::Unsupported,
};

const MODULE: &str = "recurrent_naive";

/// The kernel for products and for the biases' gradients.
pub(super) struct Products {
    module: &'static str,
    tiled: bool,
}

/// An output a thread.
pub(super) static NAIVE: Products = Products { module: MODULE, tiled: false };

/// Tiles of 64 x 64 in shared memory.
pub(super) static TILED: Products = Products { module: "recurrent_gemm", tiled: true };

/// A plan in the making.
struct Builder<'a> {
    plan: Plan,
    inputs: &'a Tensors,
    layout: Layout,
    products: &'a Products,
    /// Outputs computed in f32 that are to be stored in 16 bits.
    narrowed: Vec<(BufferId, BufferId, usize)>,
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
    held: Option<BufferId>,
}

/// Plan of an operation, either direction.
pub(super) fn plan(
    case: &Case,
    inputs: &Tensors,
    products: &Products,
) -> Result<Plan, Unsupported> {
    let (layer, backward) = layer(case)?;
    let layout = Layout::new(layer, backward);
    layout.check()?;
    let mut builder = Builder { plan: Plan::new(), inputs, layout, products, narrowed: Vec::new() };
    if backward {
        let y = builder.scratch("y", &layer.y_shape());
        let run = builder.forward(y)?;
        builder.backward(&run)?;
    } else {
        let y = builder.output("y", &layer.y_shape());
        let run = builder.forward(y)?;
        builder.last_states(&run)?;
    }
    builder.finish()
}

impl Builder<'_> {
    fn scratch(&mut self, name: &str, shape: &[usize]) -> BufferId {
        self.plan.scratch(name, DType::F32, shape)
    }

    fn launch(&mut self, symbol: String, count: usize, args: &[Arg]) -> Result<(), Unsupported> {
        let grid = blocks(count.div_ceil(THREADS))?;
        self.plan.launch(MODULE, symbol, grid, [THREADS, 1, 1], 0, args);
        Ok(())
    }

    /// Launches a kernel with a thread for each unit of every sequence and direction.
    fn units(&mut self, symbol: &str, buffers: &[Arg], rest: &[usize]) -> Result<(), Unsupported> {
        let mut args = buffers.to_vec();
        args.extend(self.layout.args());
        args.extend(rest.iter().map(|&n| Arg::from(n)));
        let count = self.layout.layer.state_shape().iter().product();
        self.launch(symbol.into(), count, &args)
    }

    /// An input as f32.
    fn input(&mut self, name: &str) -> Result<BufferId, Unsupported> {
        let given = self.plan.input(self.inputs, name);
        let tensor = self.inputs.tensor(name);
        if tensor.dtype() == DType::F32 {
            return Ok(given);
        }
        let (count, shape) = (tensor.len(), tensor.shape().to_vec());
        let wide = self.scratch(&format!("{name} in f32"), &shape);
        let symbol = format!("widen_{}", tensor.dtype().name());
        self.launch(symbol, count, &[given.into(), wide.into(), count.into()])?;
        Ok(wide)
    }

    /// A buffer of f32 for an output, which [`Builder::finish`] stores as the operation's type.
    fn output(&mut self, name: &str, shape: &[usize]) -> BufferId {
        let dtype = self.layout.layer.dtype;
        let out = self.plan.output(name, dtype, shape);
        if dtype == DType::F32 {
            return out;
        }
        let wide = self.scratch(&format!("{name} in f32"), shape);
        self.narrowed.push((wide, out, shape.iter().product()));
        wide
    }

    fn finish(mut self) -> Result<Plan, Unsupported> {
        let symbol = format!("narrow_{}", self.layout.layer.dtype.name());
        for (wide, out, count) in std::mem::take(&mut self.narrowed) {
            self.launch(symbol.clone(), count, &[wide.into(), out.into(), count.into()])?;
        }
        Ok(self.plan)
    }

    fn product(
        &mut self,
        a: Operand,
        b: Operand,
        c: Target,
        extent: Extent,
    ) -> Result<(), Unsupported> {
        let args = product_args(a, b, c, extent, [4, 4]);
        let Products { module, tiled } = *self.products;
        let (grid, threads) = if tiled {
            (tiles(extent, 64)?, 256)
        } else {
            let [x, ..] = blocks(extent.rows * extent.columns.div_ceil(THREADS))?;
            ([x, 1, extent.batches], THREADS)
        };
        self.plan.launch(module, "product_f32", grid, [threads, 1, 1], 0, &args);
        Ok(())
    }

    /// How values that are kept are rounded.
    fn storage(&self) -> usize {
        kind_of(self.layout.layer.dtype) as usize
    }

    fn forward(&mut self, y: BufferId) -> Result<Run, Unsupported> {
        let layout = self.layout;
        let Layer { cell, batch, seq_len, input, hidden, directions, ragged, .. } = layout.layer;
        let (rows, keeps, storage) = (layout.layer.rows(), layout.keeps, self.storage());
        let x = self.input("x")?;
        let lengths = ragged.then(|| self.plan.input(self.inputs, "lengths"));
        let (w_ih, w_hh) = (self.input("W_ih")?, self.input("W_hh")?);
        let (b_ih, b_hh) = (self.input("b_ih")?, self.input("b_hh")?);
        let h0 = self.input("h0")?;
        let c0 = if cell == Cell::Lstm { Some(self.input("c0")?) } else { None };
        let gates = self.scratch("gates", &layout.gates());
        let states = self.scratch("states", &layout.states());
        let cells = c0.map(|_| self.scratch("cells", &layout.cells()));
        let side = (cell == Cell::Gru(Reset::After) && keeps)
            .then(|| self.scratch("side", &layout.steps(hidden)));
        let held = (cell == Cell::Gru(Reset::Before))
            .then(|| self.scratch("held", &layout.steps(layout.stride())));
        let part = self.scratch("h_part", &[directions, batch, rows]);

        let args = [h0.into(), c0.into(), states.into(), cells.into()];
        self.units("begin", &args, &[])?;
        self.product(
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
        )?;
        for step in 0..seq_len {
            let (offset, second) = layout.before(step);
            let stride = layout.stride();
            let state =
                Operand { buffer: states, offset, batch: second, repeat: 0, row: stride, k: 1 };
            let biases = [gates.into(), part.into(), b_ih.into(), b_hh.into(), states.into()];
            if let Some(held) = held {
                self.hidden_part(state, w_hh, part, 0..2 * hidden)?;
                let args: Vec<Arg> = biases.into_iter().chain([held.into()]).collect();
                self.units("reset", &args, &[step, storage])?;
                let (offset, second) = layout.step(step, stride);
                let held =
                    Operand { buffer: held, offset, batch: second, repeat: 0, row: stride, k: 1 };
                self.hidden_part(held, w_hh, part, 2 * hidden..rows)?;
            } else {
                self.hidden_part(state, w_hh, part, 0..rows)?;
            }
            let rest = [cells.into(), side.into(), lengths.into(), y.into()];
            let args: Vec<Arg> = biases.into_iter().chain(rest).collect();
            self.units("cell", &args, &[step, mode(cell), storage])?;
        }
        Ok(Run { x, w_ih, w_hh, lengths, gates, states, cells, side, held })
    }

    /// What a state gives to some of the gates.
    fn hidden_part(
        &mut self,
        state: Operand,
        w_hh: BufferId,
        part: BufferId,
        gates: std::ops::Range<usize>,
    ) -> Result<(), Unsupported> {
        let Layer { batch, hidden, directions, .. } = self.layout.layer;
        let rows = self.layout.layer.rows();
        let first = gates.start * hidden;
        self.product(
            state,
            Operand {
                buffer: w_hh,
                offset: first,
                batch: rows * hidden,
                repeat: 0,
                row: hidden,
                k: 1,
            },
            Target { buffer: part, offset: gates.start, batch: batch * rows, row: rows },
            Extent {
                batches: directions,
                rows: batch,
                columns: gates.len(),
                depth: hidden,
                repeats: 1,
            },
        )
    }

    fn last_states(&mut self, run: &Run) -> Result<(), Unsupported> {
        let shape = self.layout.layer.state_shape();
        let h_n = self.output("h_n", &shape);
        let c_n = run.cells.map(|_| self.output("c_n", &shape));
        self.units("end", &[run.states.into(), run.cells.into(), h_n.into(), c_n.into()], &[])
    }

    fn backward(&mut self, run: &Run) -> Result<(), Unsupported> {
        let layout = self.layout;
        let Layer { cell, seq_len, .. } = layout.layer;
        let (shape, storage) = (layout.layer.state_shape(), self.storage());
        let units: usize = shape.iter().product();
        let (dy, dh_n) = (self.input("dy")?, self.input("dh_n")?);
        let dc_n = if run.cells.is_some() { Some(self.input("dc_n")?) } else { None };
        let dpx = self.scratch("dpx", &layout.gradients());
        let dph = run.side.map(|_| self.scratch("dph", &layout.gradients()));
        let (direct, through) = (self.scratch("direct", &shape), self.scratch("through", &shape));
        let dc = dc_n.map(|_| self.scratch("dc", &shape));
        let of_held = run.held.map(|_| self.scratch("of_held", &shape));

        let carried = [Arg::from(direct), through.into(), dc.into()];
        let mut args = vec![dh_n.into(), dc_n.into()];
        args.extend(carried);
        args.push(units.into());
        self.launch("begin_back".into(), units, &args)?;
        for step in (0..seq_len).rev() {
            let mut args: Vec<Arg> = vec![run.gates.into(), run.states.into(), run.cells.into()];
            args.extend([Arg::from(run.side), run.lengths.into(), dy.into()]);
            args.extend(carried);
            args.extend([Arg::from(dpx), dph.into()]);
            self.units("cell_back", &args, &[step, mode(cell), storage])?;
            let rows = layout.layer.rows();
            if let Some(of_held) = of_held {
                let gates = 2 * layout.layer.hidden;
                self.through(step, dpx, run.w_hh, of_held, gates..rows)?;
                let args =
                    [run.gates.into(), run.states.into(), run.lengths.into(), of_held.into()];
                let args: Vec<Arg> = args.into_iter().chain([direct.into(), dpx.into()]).collect();
                self.units("reset_back", &args, &[step, storage])?;
                self.through(step, dpx, run.w_hh, through, 0..gates)?;
            } else {
                self.through(step, dph.unwrap_or(dpx), run.w_hh, through, 0..rows)?;
            }
        }
        let dh0 = self.output("dh0", &shape);
        let dc0 = dc.map(|_| self.output("dc0", &shape));
        let mut args = carried.to_vec();
        args.extend([Arg::from(dh0), dc0.into(), units.into()]);
        self.launch("end_back".into(), units, &args)?;
        self.gather(run, dpx, dph.unwrap_or(dpx))
    }

    /// Gradients of a step, of some gates, through W_hh to the state before it.
    fn through(
        &mut self,
        step: usize,
        d: BufferId,
        w_hh: BufferId,
        to: BufferId,
        gates: std::ops::Range<usize>,
    ) -> Result<(), Unsupported> {
        let Layer { batch, hidden, directions, .. } = self.layout.layer;
        let (rows, stride) = (self.layout.layer.rows(), self.layout.gradient_stride());
        let (offset, second) = self.layout.step(step, stride);
        let first = gates.start * hidden;
        self.product(
            Operand {
                buffer: d,
                offset: offset + gates.start,
                batch: second,
                repeat: 0,
                row: stride,
                k: 1,
            },
            Operand {
                buffer: w_hh,
                offset: first,
                batch: rows * hidden,
                repeat: 0,
                row: 1,
                k: hidden,
            },
            Target { buffer: to, offset: 0, batch: batch * hidden, row: hidden },
            Extent {
                batches: directions,
                rows: batch,
                columns: hidden,
                depth: gates.len(),
                repeats: 1,
            },
        )
    }

    /// Gradients of x, weights and biases, over all steps.
    fn gather(&mut self, run: &Run, dpx: BufferId, dph: BufferId) -> Result<(), Unsupported> {
        let layer = self.layout.layer;
        let dx = self.output("dx", &layer.x_shape());
        let (dw_ih, dw_hh) = (
            self.output("dW_ih", &layer.input_weights()),
            self.output("dW_hh", &layer.hidden_weights()),
        );
        let sums =
            Sums { layout: self.layout, x: run.x, w_ih: run.w_ih, states: run.states, dpx, dph };
        for (a, b, c, extent) in sums.products(dx, dw_ih, dw_hh, run.held) {
            self.product(a, b, c, extent)?;
        }
        let (rows, stride) = (layer.rows(), self.layout.gradient_stride());
        for (name, d) in [("db_ih", dpx), ("db_hh", dph)] {
            let out = self.output(name, &[layer.directions, rows]);
            let grid = [rows.div_ceil(THREADS), 1, layer.directions];
            let sizes = [self.layout.tokens(), rows, stride].map(Arg::from);
            let args: Vec<Arg> = [d.into(), out.into()].into_iter().chain(sizes).collect();
            self.plan.launch(MODULE, "sum_rows", grid, [THREADS, 1, 1], 0, &args);
        }
        Ok(())
    }
}

/// What gradients that gather over all steps are made of.
pub(super) struct Sums {
    pub(super) layout: Layout,
    pub(super) x: BufferId,
    pub(super) w_ih: BufferId,
    pub(super) states: BufferId,
    pub(super) dpx: BufferId,
    pub(super) dph: BufferId,
}

impl Sums {
    /// The products that make dx, dW_ih and dW_hh; `held` is what the GRU that resets before multiplies
    /// its candidate's weights with.
    pub(super) fn products(
        &self,
        dx: BufferId,
        dw_ih: BufferId,
        dw_hh: BufferId,
        held: Option<BufferId>,
    ) -> Vec<(Operand, Operand, Target, Extent)> {
        let layout = self.layout;
        let Layer { batch, input, hidden, directions, .. } = layout.layer;
        let (rows, tokens) = (layout.layer.rows(), layout.tokens());
        let (stride, state_stride) = (layout.gradient_stride(), layout.stride());
        let plain = |buffer, row, k| Operand { buffer, offset: 0, batch: 0, repeat: 0, row, k };
        let of_gates =
            |buffer, offset| Operand { offset, batch: tokens * stride, ..plain(buffer, 1, stride) };
        let gathered = |rows, columns| Extent {
            batches: directions,
            rows,
            columns,
            depth: tokens,
            repeats: 1,
        };
        let state = Operand {
            batch: (layout.slots + 1) * batch * state_stride,
            ..plain(self.states, 1, state_stride)
        };
        let target = |buffer, gate: usize, columns: usize| Target {
            buffer,
            offset: gate * columns,
            batch: rows * columns,
            row: columns,
        };
        let mut all = vec![
            (
                Operand { repeat: tokens * stride, ..plain(self.dpx, stride, 1) },
                Operand { repeat: rows * input, ..plain(self.w_ih, 1, input) },
                Target { buffer: dx, offset: 0, batch: 0, row: input },
                Extent {
                    batches: 1,
                    rows: tokens,
                    columns: input,
                    depth: rows,
                    repeats: directions,
                },
            ),
            (
                of_gates(self.dpx, 0),
                plain(self.x, 1, input),
                target(dw_ih, 0, input),
                gathered(rows, input),
            ),
        ];
        let of_state = if held.is_some() { 2 * hidden } else { rows };
        all.push((
            of_gates(self.dph, 0),
            state,
            target(dw_hh, 0, hidden),
            gathered(of_state, hidden),
        ));
        if let Some(held) = held {
            all.push((
                of_gates(self.dph, of_state),
                Operand { batch: tokens * state_stride, ..plain(held, 1, state_stride) },
                target(dw_hh, of_state, hidden),
                gathered(rows - of_state, hidden),
            ));
        }
        all
    }
}
