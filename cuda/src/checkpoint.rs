//! checkpoint: CUDA variants of this vertical, one for each policy of what is kept.

use touchstone_reference::{
    Case, DType, Tensors,
    checkpoint::{
        chain_backward::Params,
        schedule::{Action, Policy, Schedule},
    },
};

use crate::{
    plan::{Arg, BufferId, Plan, Prediction},
    variant::{Unsupported, Variant},
};

/// The variants of this vertical: all run the same kernels on the same bits.
pub static VARIANTS: &[Variant] = &[
    Variant {
        op: "checkpoint.chain_backward",
        name: "keep_all",
        idea: "every state is kept, nothing is computed twice",
        deterministic: true,
        plan: |case, inputs| plan(case, inputs, |_| Policy::KeepAll),
    },
    Variant {
        op: "checkpoint.chain_backward",
        name: "recompute_all",
        idea: "no state is kept, each is computed anew from the input",
        deterministic: true,
        plan: |case, inputs| plan(case, inputs, |_| Policy::RecomputeAll),
    },
    Variant {
        op: "checkpoint.chain_backward",
        name: "every_sqrt",
        idea: "every √n-th state is kept, those between are computed a second time",
        deterministic: true,
        plan: |case, inputs| plan(case, inputs, |_| Policy::EverySqrt),
    },
    Variant {
        op: "checkpoint.chain_backward",
        name: "selective",
        idea: "outputs of costly layers are kept, cheap layers are computed again",
        deterministic: true,
        plan: |case, inputs| plan(case, inputs, |_| Policy::Selective),
    },
    Variant {
        op: "checkpoint.chain_backward",
        name: "binomial",
        idea: "so many slots, at the best places for layers of equal cost",
        deterministic: true,
        plan: |case, inputs| plan(case, inputs, |p| Policy::Binomial(p.slots)),
    },
    Variant {
        op: "checkpoint.chain_backward",
        name: "optimal",
        idea: "so many slots, at the best places by dynamic programming over the layers' costs",
        deterministic: true,
        plan: |case, inputs| plan(case, inputs, |p| Policy::Optimal(p.slots)),
    },
];

const MODULE: &str = "checkpoint_layers";
/// Rows and columns of a block's tile, as in the kernel.
const TILE: usize = 32;
/// Launches of a plan at most: beyond, a run takes too long to be asked.
const MOST_LAUNCHES: usize = 200_000;

/// What the kernel does with the sums of a product.
#[derive(Clone, Copy)]
enum Epilogue {
    Forward,
    Dz,
    Dx,
    Dw,
}

/// A product C [m, n] = A · B over `depth`, with the strides of its operands.
struct Product {
    a: Arg,
    b: Arg,
    sizes: [usize; 3],
    /// Of A by row and depth, of B by depth and column.
    strides: [usize; 4],
}

/// The plan's buffers and the chain's sizes.
struct Chain {
    p: Params,
    plan: Plan,
    x: BufferId,
    weight: BufferId,
    scale: BufferId,
    bias: BufferId,
    d_output: BufferId,
    d_input: BufferId,
    d_weight: BufferId,
    d_scale: BufferId,
    d_bias: BufferId,
    dz: BufferId,
    /// Gradients between layers, written in turn.
    between: [BufferId; 2],
    /// Slots of states; slot s is `slots[s - 1]`.
    slots: Vec<BufferId>,
}

fn plan(case: &Case, inputs: &Tensors, policy: fn(&Params) -> Policy) -> Result<Plan, Unsupported> {
    let p: Params = case.params()?;
    let policy = policy(&p);
    let prediction = prediction(&p, &policy);
    let schedule = Schedule::new(&policy, &p.costs());
    if 4 * schedule.actions.len() > MOST_LAUNCHES {
        return Err(Unsupported(format!("{} steps are too many", schedule.actions.len())));
    }
    let mut chain = Chain::new(p, inputs, schedule.slots);
    for action in &schedule.actions {
        match *action {
            Action::Advance { layer, from, to } => chain.advance(layer, from, to),
            Action::Backward { layer, from } => chain.backward(layer, from),
        }
    }
    chain.plan.prediction = Some(prediction);
    Ok(chain.plan)
}

/// States that every policy needs beside the chain's: dz and the gradients of two layers.
const WORKING_STATES: usize = 3;

/// Backward each layer is evaluated once more for the slope of its tanh, and its gradients cost two such evaluations:
/// to that the policy's own evaluations are added.
fn prediction(p: &Params, policy: &Policy) -> Prediction {
    let costs = p.costs();
    let predicted = policy.predicted(&costs);
    let state = p.rows * p.width;
    let backward = 3 * costs.iter().sum::<u64>();
    Prediction {
        scratch_bytes: ((predicted.slots + WORKING_STATES) * state * DType::F32.bytes()) as f64,
        flops: (predicted.cost + backward) as f64 * state as f64,
    }
}

impl Chain {
    fn new(p: Params, inputs: &Tensors, slots: usize) -> Self {
        let mut plan = Plan::new();
        let [x, weight, scale, bias, d_output] =
            ["x", "weight", "scale", "bias", "d_output"].map(|name| plan.input(inputs, name));
        let [d_input, d_weight, d_scale, d_bias] =
            [("d_input", "x"), ("d_weight", "weight"), ("d_scale", "scale"), ("d_bias", "bias")]
                .map(|(name, like)| plan.output(name, DType::F32, inputs.tensor(like).shape()));
        let state = [p.rows, p.width];
        let dz = plan.scratch("dz", DType::F32, &state);
        let between = ["d_even", "d_odd"].map(|name| plan.scratch(name, DType::F32, &state));
        let slots = (1..=slots).map(|s| plan.scratch(&format!("state_{s}"), DType::F32, &state));
        let slots = slots.collect();
        Self {
            p,
            plan,
            x,
            weight,
            scale,
            bias,
            d_output,
            d_input,
            d_weight,
            d_scale,
            d_bias,
            dz,
            between,
            slots,
        }
    }

    fn state(&self, slot: usize) -> Arg {
        if slot == 0 { self.x.into() } else { self.slots[slot - 1].into() }
    }

    /// Gradient of state `index`: the input's and the output's have buffers of their own.
    fn gradient(&self, index: usize) -> Arg {
        match index {
            0 => self.d_input.into(),
            last if last == self.p.layers => self.d_output.into(),
            between => self.between[between % 2].into(),
        }
    }

    /// Row `index` of a buffer with rows of so many f32.
    fn row(buffer: BufferId, index: usize, width: usize) -> Arg {
        Arg::Buffer(buffer, index * width * DType::F32.bytes())
    }

    fn layer_bias(&self, layer: usize) -> Arg {
        Self::row(self.bias, layer, self.p.width)
    }

    /// Where a layer's weight, or its scale, begins in a buffer shaped like `weight` or `scale`.
    fn own(&self, layer: usize, weight: BufferId, scale: BufferId) -> Arg {
        let (dense, w) = (self.p.dense_before(layer), self.p.width);
        match self.p.is_dense(layer) {
            true => Self::row(weight, dense, w * w),
            false => Self::row(scale, layer - dense, w),
        }
    }

    fn product(&mut self, product: Product, rest: [Arg; 3], out: Arg, epilogue: Epilogue) {
        let [m, n, _] = product.sizes;
        let [bias, x, dy] = rest;
        let mut args = vec![product.a, product.b, bias, x, dy, out];
        args.extend(product.sizes.map(Arg::from));
        args.extend(product.strides.map(Arg::from));
        args.extend([Arg::F32(self.p.share()), Arg::I32(epilogue as i32)]);
        let grid = [n.div_ceil(TILE), m.div_ceil(TILE), 1];
        self.plan.launch(MODULE, "product", grid, [256, 1, 1], 0, &args);
    }

    fn each_element(&mut self, symbol: &str, pointers: &[Arg]) {
        let n = self.p.rows * self.p.width;
        let sizes = [n.into(), self.p.width.into(), Arg::F32(self.p.share())];
        let args = [pointers, &sizes].concat();
        self.plan.launch(MODULE, symbol, [n.div_ceil(256), 1, 1], [256, 1, 1], 0, &args);
    }

    fn column_sums(&mut self, x: Arg, out: Arg) {
        let (rows, width) = (self.p.rows, self.p.width);
        let args = [x, self.dz.into(), out, rows.into(), width.into()];
        self.plan.launch(MODULE, "column_sums", [width.div_ceil(32), 1, 1], [32, 32, 1], 0, &args);
    }

    /// x · w of a dense layer.
    fn along(&self, x: Arg, w: Arg) -> Product {
        let (rows, width) = (self.p.rows, self.p.width);
        Product { a: x, b: w, sizes: [rows, width, width], strides: [width, 1, width, 1] }
    }

    fn advance(&mut self, layer: usize, from: usize, to: usize) {
        let (x, y) = (self.state(from), self.state(to));
        let (own, bias) = (self.own(layer, self.weight, self.scale), self.layer_bias(layer));
        if self.p.is_dense(layer) {
            let product = self.along(x, own);
            self.product(product, [bias, x, Arg::Null], y, Epilogue::Forward);
        } else {
            self.each_element("scale_forward", &[x, own, bias, y]);
        }
    }

    fn backward(&mut self, layer: usize, from: usize) {
        let (rows, width) = (self.p.rows, self.p.width);
        let (x, dy, dx) = (self.state(from), self.gradient(layer + 1), self.gradient(layer));
        let (own, bias) = (self.own(layer, self.weight, self.scale), self.layer_bias(layer));
        let (d_own, dz) = (self.own(layer, self.d_weight, self.d_scale), Arg::from(self.dz));
        if self.p.is_dense(layer) {
            let product = self.along(x, own);
            self.product(product, [bias, Arg::Null, dy], dz, Epilogue::Dz);
            let sizes = [rows, width, width];
            let product = Product { a: dz, b: own, sizes, strides: [width, 1, 1, width] };
            self.product(product, [Arg::Null, Arg::Null, dy], dx, Epilogue::Dx);
            let sizes = [width, width, rows];
            let product = Product { a: x, b: dz, sizes, strides: [1, width, width, 1] };
            self.product(product, [Arg::Null; 3], d_own, Epilogue::Dw);
        } else {
            self.each_element("scale_backward", &[x, own, bias, dy, dz, dx]);
            self.column_sums(x, d_own);
        }
        self.column_sums(Arg::Null, Self::row(self.d_bias, layer, width));
    }
}
