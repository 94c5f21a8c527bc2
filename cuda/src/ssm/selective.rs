//! Plans of the selective scan.

use touchstone_reference::{Case, DType, Tensors, ssm::selective::Params};

use super::{THREADS, blocks, within};
use crate::{
    plan::{Arg, BufferId, Plan, kind_of},
    variant::Unsupported,
};

/// A kernel file whose `selective_*` kernels compute the whole operation.
pub(super) struct Kernel {
    module: &'static str,
    /// Largest state.
    state: usize,
    dtypes: &'static [DType],
    tiling: Tiling,
}

enum Tiling {
    /// One thread a (sequence, channel).
    Threads,
    /// One block a (sequence, channel).
    Blocks,
    /// One block as many channels of a group as there are threads, over the threads of a channel.
    Staged(usize),
}

pub(super) const SEQUENTIAL: Kernel = Kernel {
    module: "ssm_selective_sequential",
    state: usize::MAX,
    dtypes: &[DType::F32, DType::F16, DType::Bf16],
    tiling: Tiling::Threads,
};
pub(super) const BLOCK_SCAN: Kernel = Kernel {
    module: "ssm_selective_block_scan",
    state: 256,
    dtypes: &[DType::F32, DType::F16, DType::Bf16],
    tiling: Tiling::Blocks,
};
pub(super) const STAGED: Kernel = Kernel {
    module: "ssm_selective_staged",
    state: 16,
    dtypes: &[DType::F32, DType::Bf16],
    tiling: Tiling::Staged(1),
};
pub(super) const SPLIT: Kernel = Kernel {
    module: "ssm_selective_split",
    state: 16,
    dtypes: &[DType::F32, DType::F16, DType::Bf16],
    tiling: Tiling::Staged(4),
};

/// Blocks of a staged kernel with `lanes` threads a channel.
pub(super) fn staged_blocks(params: &Params, lanes: usize) -> usize {
    let tiles = (params.channels / params.groups).div_ceil(THREADS / lanes);
    params.batch * params.groups * tiles
}

/// Shared memory of a staged kernel: two buffers of three tiles of 32 steps at a pitch of 36, and B and C
/// of 32 steps.
pub(super) fn staged_bytes(params: &Params, lanes: usize) -> usize {
    2 * 3 * (THREADS / lanes) * 36 * params.dtype.bytes() + 2 * 32 * 16 * 4
}

/// Types and states of the kernels that prepare elements before they scan.
pub(super) fn within_prepared(params: &Params) -> Result<(), Unsupported> {
    within(params.state, params.dtype, 16, &[DType::F32, DType::Bf16])
}

/// The sizes and the type, which end the arguments of the kernels that prepare elements.
pub(super) fn prepared_sizes(params: &Params) -> Vec<Arg> {
    let mut args = sizes(params);
    args.push(kind_of(params.dtype).into());
    args
}

/// Shared memory of a forward scan of 32 channels that prepares its elements, with or without an output:
/// tiles of 32 steps at a pitch of 36, of u, delta and z twice, and of what they become and y; B and C of
/// 32 steps twice; bias and skip. Without an output there is neither z, y nor C.
pub(super) const fn prepared_bytes(output: bool) -> usize {
    let (tiles, projections) = if output { (2 * 3 + 3, 2 * 2) } else { (2 * 2 + 2, 2) };
    tiles * 32 * 36 * 4 + projections * 32 * 16 * 4 + 32 * 8
}

/// Plan of `prepared`.
pub(super) fn prepared(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let params: Params = case.params()?;
    within_prepared(&params)?;
    let mut plan = Plan::new();
    let inputs = Inputs::new(&mut plan, inputs);
    let (y, last) = outputs(&mut plan, &params);
    let mut args = inputs.args();
    args.extend([Arg::from(inputs.initial), y.into(), last.into()]);
    args.extend(prepared_sizes(&params));
    let grid = blocks(staged_blocks(&params, 4))?;
    let bytes = prepared_bytes(true);
    plan.launch("ssm_selective_prepared", "selective", grid, [THREADS, 1, 1], bytes, &args);
    Ok(plan)
}

/// Buffers of the inputs both directions have.
pub(super) struct Inputs {
    pub(super) u: BufferId,
    pub(super) delta: BufferId,
    pub(super) a: BufferId,
    pub(super) b: BufferId,
    pub(super) c: BufferId,
    pub(super) d: Option<BufferId>,
    pub(super) z: Option<BufferId>,
    pub(super) bias: Option<BufferId>,
    pub(super) initial: Option<BufferId>,
}

impl Inputs {
    pub(super) fn new(plan: &mut Plan, inputs: &Tensors) -> Self {
        let mut optional = |name| inputs.get(name).is_some().then(|| plan.input(inputs, name));
        let (d, z, bias) = (optional("D"), optional("z"), optional("delta_bias"));
        let initial = optional("initial_state");
        let mut input = |name| plan.input(inputs, name);
        let (u, delta) = (input("u"), input("delta"));
        Self { u, delta, a: input("A"), b: input("B"), c: input("C"), d, z, bias, initial }
    }

    /// Arguments u, delta, A, B, C, D, z, delta_bias.
    pub(super) fn args(&self) -> Vec<Arg> {
        let Self { u, delta, a, b, c, d, z, bias, .. } = *self;
        let required = [u, delta, a, b, c].map(Arg::from);
        required.into_iter().chain([d, z, bias].map(Arg::from)).collect()
    }

    /// Arguments u, delta, A, B, delta_bias: all that the states depend on.
    pub(super) fn state_args(&self) -> Vec<Arg> {
        [self.u, self.delta, self.a, self.b]
            .map(Arg::from)
            .into_iter()
            .chain([self.bias.into()])
            .collect()
    }
}

/// The sizes that end every kernel's arguments.
pub(super) fn sizes(params: &Params) -> Vec<Arg> {
    let &Params { batch, channels, seq_len, state, groups, softplus, .. } = params;
    let sizes = [batch, channels, seq_len, state, groups].map(Arg::from);
    sizes.into_iter().chain([Arg::from(i32::from(softplus))]).collect()
}

fn outputs(plan: &mut Plan, params: &Params) -> (BufferId, BufferId) {
    let y = plan.output("y", params.dtype, &params.activation_shape());
    let shape = [params.batch, params.channels, params.state];
    (y, plan.output("last_state", DType::F32, &shape))
}

/// Plan of the variants that are one launch.
pub(super) fn plan(case: &Case, inputs: &Tensors, kernel: &Kernel) -> Result<Plan, Unsupported> {
    let params: Params = case.params()?;
    within(params.state, params.dtype, kernel.state, kernel.dtypes)?;
    let mut plan = Plan::new();
    let inputs = Inputs::new(&mut plan, inputs);
    let (y, last) = outputs(&mut plan, &params);
    let rows = params.batch * params.channels;
    let (count, bytes) = match kernel.tiling {
        Tiling::Threads => (rows.div_ceil(THREADS), 0),
        Tiling::Blocks => (rows, 0),
        Tiling::Staged(lanes) => (staged_blocks(&params, lanes), staged_bytes(&params, lanes)),
    };
    let mut args = inputs.args();
    args.extend([Arg::from(inputs.initial), y.into(), last.into()]);
    args.extend(sizes(&params));
    let symbol = format!("selective_{}", params.dtype.name());
    plan.launch(kernel.module, symbol, blocks(count)?, [THREADS, 1, 1], bytes, &args);
    Ok(plan)
}

/// Blocks that fill a large device: four on each of 132 multiprocessors.
const ENOUGH_BLOCKS: usize = 528;

/// Plan of `chunked`: chunks as long as still gives [`ENOUGH_BLOCKS`], and 128 steps at least.
pub(super) fn chunked(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    const MODULE: &str = "ssm_selective_chunked";
    let params: Params = case.params()?;
    within(params.state, params.dtype, 16, &[DType::F32, DType::Bf16])?;
    let mut plan = Plan::new();
    let inputs = Inputs::new(&mut plan, inputs);
    let (y, last) = outputs(&mut plan, &params);
    let &Params { batch, channels, seq_len, state, dtype, .. } = &params;
    let [columns, ..] = blocks(staged_blocks(&params, 4))?;
    let wanted = ENOUGH_BLOCKS.div_ceil(columns.max(1)).min(seq_len.div_ceil(128)).max(1);
    let chunk_len = seq_len.div_ceil(wanted).next_multiple_of(32).max(32);
    let chunks = seq_len.div_ceil(chunk_len).max(1);
    let rows = batch * channels;
    let sums = plan.scratch("sums", DType::F32, &[chunks - 1, rows]);
    let states = plan.scratch("states", DType::F32, &[chunks, rows, state]);
    let bytes = staged_bytes(&params, 4);

    let mut args = inputs.state_args();
    args.extend([Arg::from(sums), states.into()]);
    args.extend(sizes(&params));
    args.push(chunk_len.into());
    let grid = [columns, chunks - 1, 1];
    let symbol = format!("summarize_{}", dtype.name());
    plan.launch(MODULE, symbol, grid, [THREADS, 1, 1], bytes, &args);

    let args = [
        inputs.a.into(),
        inputs.initial.into(),
        sums.into(),
        states.into(),
        rows.into(),
        channels.into(),
        state.into(),
        chunks.into(),
    ];
    let grid = blocks((rows * state).div_ceil(THREADS))?;
    plan.launch(MODULE, "carry", grid, [THREADS, 1, 1], 0, &args);

    let mut args = inputs.args();
    args.extend([Arg::from(states), y.into(), last.into()]);
    args.extend(sizes(&params));
    args.push(chunk_len.into());
    let symbol = format!("selective_{}", dtype.name());
    plan.launch(MODULE, symbol, [columns, chunks, 1], [THREADS, 1, 1], bytes, &args);
    Ok(plan)
}
