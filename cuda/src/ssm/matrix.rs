//! Plans of the recurrences with a matrix-valued state: SSD, retention, gated linear attention, RWKV-7.

use touchstone_reference::{
    Case, DType, Tensor, Tensors,
    ssm::{retention::Params as RetentionParams, ssd::Params as SsdParams},
};

use super::{blocks, within};
use crate::{
    plan::{Arg, BufferId, Plan, kind_of},
    variant::Unsupported,
};

/// Largest state that the kernels hold.
const LARGEST_STATE: usize = 128;

/// A kernel that walks chunks of 64 steps.
struct Chunked {
    module: &'static str,
    kernel: &'static str,
    /// Shared memory without gates: tiles of C and B and of x, the scores, and some numbers a step.
    bytes: usize,
}

const CHUNKED: Chunked = Chunked {
    module: "ssm_matrix_chunked",
    kernel: "chunked_bf16",
    bytes: 2 * 64 * 128 * 2 + 2 * 64 * 64 * 2 + 3 * 64 * 4,
};

/// Tiles of two chunks at once.
const WARPGROUP: Chunked = Chunked {
    module: "ssm_matrix_warpgroup",
    kernel: "warpgroup_bf16",
    bytes: 2 * (2 * 64 * 128 * 2 + 64 * 64 * 2) + 64 * 64 * 2 + 4 * 64 * 4,
};

/// A plan whose buffers are there and whose launch is not: what the kernels of this kind take.
pub(super) struct Problem {
    plan: Plan,
    x: BufferId,
    b: BufferId,
    c: BufferId,
    dt: Option<BufferId>,
    rate: Option<BufferId>,
    gates: Option<BufferId>,
    /// What a delta rule takes, and where from.
    delta: Option<[BufferId; 2]>,
    skip: Option<BufferId>,
    initial: Option<BufferId>,
    y: BufferId,
    last: BufferId,
    dtype: DType,
    batch: usize,
    seq_len: usize,
    heads: usize,
    head_dim: usize,
    groups: usize,
    state: usize,
    scale: f32,
}

/// The buffers of `ssm.ssd`.
pub(super) fn ssd(case: &Case, inputs: &Tensors) -> Result<Problem, Unsupported> {
    let SsdParams { batch, seq_len, heads, head_dim, groups, state, dtype, .. } = case.params()?;
    let mut plan = Plan::new();
    let [x, dt, rate, b, c] = ["x", "dt", "A", "B", "C"].map(|name| plan.input(inputs, name));
    let mut optional = |name| inputs.get(name).is_some().then(|| plan.input(inputs, name));
    let (skip, initial) = (optional("D"), optional("initial_state"));
    let y = plan.output("y", dtype, &[batch, seq_len, heads, head_dim]);
    let last = plan.output("last_state", dtype, &[batch, heads, head_dim, state]);
    Ok(Problem {
        plan,
        x,
        b,
        c,
        dt: Some(dt),
        rate: Some(rate),
        gates: None,
        delta: None,
        skip,
        initial,
        y,
        last,
        dtype,
        batch,
        seq_len,
        heads,
        head_dim,
        groups,
        state,
        scale: 1.0,
    })
}

/// The buffers of the operations with queries, keys and values of these names, and whatever decays there are.
fn attention(
    case: &Case,
    inputs: &Tensors,
    names: [&str; 3],
    gates: &str,
) -> Result<Problem, Unsupported> {
    let RetentionParams { batch, seq_len, heads, key_dim, value_dim, dtype, .. } = case.params()?;
    let mut plan = Plan::new();
    let [c, b, x] = names.map(|name| plan.input(inputs, name));
    let mut optional = |name| inputs.get(name).is_some().then(|| plan.input(inputs, name));
    let (gates, initial) = (optional(gates), optional("initial_state"));
    let y = plan.output("o", dtype, &[batch, seq_len, heads, value_dim]);
    let last = plan.output("last_state", dtype, &[batch, heads, value_dim, key_dim]);
    Ok(Problem {
        plan,
        x,
        b,
        c,
        dt: None,
        rate: None,
        gates,
        delta: None,
        skip: None,
        initial,
        y,
        last,
        dtype,
        batch,
        seq_len,
        heads,
        head_dim: value_dim,
        groups: heads,
        state: key_dim,
        scale: 1.0 / (key_dim.max(1) as f32).sqrt(),
    })
}

/// The buffers of `ssm.retention`; γ becomes a table of its logarithms.
pub(super) fn retention(case: &Case, inputs: &Tensors) -> Result<Problem, Unsupported> {
    let mut problem = attention(case, inputs, ["q", "k", "v"], "")?;
    let logs: Vec<f64> = inputs.tensor("gamma").to_f64().iter().map(|g| g.ln()).collect();
    let logs = Tensor::from_real(DType::F32, &[problem.heads], &logs);
    problem.rate = Some(problem.plan.table("log_gamma", logs));
    Ok(problem)
}

/// The buffers of `ssm.gated_linear_attention`.
pub(super) fn gated(case: &Case, inputs: &Tensors) -> Result<Problem, Unsupported> {
    attention(case, inputs, ["q", "k", "v"], "g")
}

/// The buffers of `ssm.rwkv7`.
pub(super) fn rwkv7(case: &Case, inputs: &Tensors) -> Result<Problem, Unsupported> {
    let mut problem = attention(case, inputs, ["r", "k", "v"], "w")?;
    problem.delta = Some(["a", "b"].map(|name| problem.plan.input(inputs, name)));
    problem.scale = 1.0;
    Ok(problem)
}

impl Problem {
    /// Sizes as the kernels take them, and the scale.
    fn sizes(&self) -> Vec<Arg> {
        let &Self { batch, seq_len, heads, head_dim, groups, state, .. } = self;
        let sizes = [batch, seq_len, heads, head_dim, groups, state].map(Arg::from);
        sizes.into_iter().chain([Arg::from(self.scale)]).collect()
    }

    /// One warp a row of the state.
    pub(super) fn sequential(mut self) -> Result<Plan, Unsupported> {
        let dtypes = [DType::F32, DType::F16, DType::Bf16];
        within(self.state, self.dtype, LARGEST_STATE, &dtypes)?;
        let given = [Some(self.x), Some(self.b), Some(self.c), self.dt, self.rate, self.gates];
        let delta = [0, 1].map(|i| Arg::from(self.delta.map(|d| d[i])));
        let kept = [self.skip, self.initial, Some(self.y), Some(self.last)].map(Arg::from);
        let mut args: Vec<Arg> =
            given.map(Arg::from).into_iter().chain(delta).chain(kept).collect();
        args.extend(self.sizes());
        args.push(kind_of(self.dtype).into());
        let grid = blocks((self.batch * self.heads * self.head_dim).div_ceil(4))?;
        self.plan.launch("ssm_matrix_sequential", "sequential", grid, [128, 1, 1], 0, &args);
        Ok(self.plan)
    }

    /// Refuses what kernels that copy 16 bytes of bf16 at a time are not built for.
    fn in_words_of_bf16(&self, largest_state: usize) -> Result<(), Unsupported> {
        let &Self { state, head_dim, dtype, .. } = self;
        within(state, dtype, largest_state, &[DType::Bf16])?;
        if !state.is_multiple_of(8) || !head_dim.is_multiple_of(8) {
            return Err(Unsupported(format!("{state} or {head_dim} is no multiple of 8")));
        }
        Ok(())
    }

    /// A block for every head and 64 of its channels.
    fn grid(&self) -> Result<[usize; 3], Unsupported> {
        blocks(self.batch * self.heads * self.head_dim.div_ceil(64))
    }

    /// One block a head and 64 of its channels.
    pub(super) fn chunked(self, inputs: &Tensors) -> Result<Plan, Unsupported> {
        self.in_chunks(inputs, &CHUNKED)
    }

    /// The same with products of whole warpgroups.
    pub(super) fn warpgroup(self, inputs: &Tensors) -> Result<Plan, Unsupported> {
        self.in_chunks(inputs, &WARPGROUP)
    }

    fn in_chunks(mut self, inputs: &Tensors, by: &Chunked) -> Result<Plan, Unsupported> {
        /// What the logarithms of a column's decays may add up to over a chunk.
        const LOWEST: f64 = -80.0;
        self.in_words_of_bf16(LARGEST_STATE)?;
        let mut bytes = by.bytes;
        if self.gates.is_some() {
            let least = least_sum(inputs.tensor("g"), self.seq_len, self.heads * self.state);
            if least < LOWEST {
                let least = least.floor();
                return Err(Unsupported(format!("gates add up to {least} within 64 steps")));
            }
            bytes += 64 * 128 * 2;
        }
        let given = [Some(self.x), Some(self.b), Some(self.c), self.dt, self.rate, self.gates];
        let kept = [self.skip, self.initial, Some(self.y), Some(self.last)];
        let mut args: Vec<Arg> = given.into_iter().chain(kept).map(Arg::from).collect();
        args.extend(self.sizes());
        let grid = self.grid()?;
        self.plan.launch(by.module, by.kernel, grid, [128, 1, 1], bytes, &args);
        Ok(self.plan)
    }

    /// One block a head, its state in registers, for the delta rule of RWKV-7.
    pub(super) fn staged(mut self) -> Result<Plan, Unsupported> {
        const LARGEST_STATE: usize = 64;
        self.in_words_of_bf16(LARGEST_STATE)?;
        let [a, b] = self.delta.expect("a delta rule");
        let given = [self.c, self.b, self.x].map(Some).into_iter().chain([self.gates]);
        let given = given.chain([Some(a), Some(b), self.initial, Some(self.y), Some(self.last)]);
        let sizes = [self.batch, self.seq_len, self.heads, self.state, self.head_dim];
        let args: Vec<Arg> = given.map(Arg::from).chain(sizes.map(Arg::from)).collect();
        let grid = self.grid()?;
        self.plan.launch("ssm_rwkv7_staged", "staged_bf16", grid, [64, 1, 1], 0, &args);
        Ok(self.plan)
    }
}

/// The least sum of a column of gates (.., seq_len, columns) over a chunk of 64 steps.
fn least_sum(gates: &Tensor, seq_len: usize, columns: usize) -> f64 {
    let values = gates.to_f64();
    let mut least = 0f64;
    for sequence in values.chunks((seq_len * columns).max(1)) {
        for chunk in sequence.chunks(64 * columns.max(1)) {
            let mut sums = vec![0.0; columns];
            for step in chunk.chunks(columns.max(1)) {
                sums.iter_mut().zip(step).for_each(|(sum, gate)| *sum += gate);
            }
            least = sums.into_iter().fold(least, f64::min);
        }
    }
    least
}
