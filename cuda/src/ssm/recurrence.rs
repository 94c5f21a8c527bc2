//! Plans of the linear recurrence and its gradients.

use touchstone_reference::{
    Case, DType, Tensors,
    ssm::recurrence::{Field, Params},
};

use super::{THREADS, blocks};
use crate::{
    plan::{Arg, Plan},
    variant::Unsupported,
};

/// A kernel file of the recurrence: all have a `forward_*` and a `backward_*` kernel of one signature.
pub(super) struct Kernel {
    module: &'static str,
    /// Threads of a block: x over channels, y over parts of a tile's time.
    block: [usize; 3],
    tiling: Tiling,
}

enum Tiling {
    /// One thread a channel.
    Columns,
    /// One block a sequence and 32 channels.
    Chains,
    /// One block a tile of 32 channels and, for 4-byte numbers forward, 128 steps; otherwise 64.
    Tiles,
    /// One block a sequence and 32 words of a row: 32 numbers, or 64 of bf16.
    Words,
}

pub(super) const SEQUENTIAL: Kernel =
    Kernel { module: "ssm_recurrence_sequential", block: [THREADS, 1, 1], tiling: Tiling::Columns };
pub(super) const BLOCK_SCAN: Kernel =
    Kernel { module: "ssm_recurrence_block_scan", block: [32, 16, 1], tiling: Tiling::Chains };
pub(super) const LOOKBACK: Kernel =
    Kernel { module: "ssm_recurrence_lookback", block: [32, 8, 1], tiling: Tiling::Tiles };

pub(super) const STAGED: Kernel =
    Kernel { module: "ssm_recurrence_staged", block: [32, 16, 1], tiling: Tiling::Words };

/// Warps of a staged kernel's block, each with eight steps of a tile, and how many tiles are under way or scanned.
fn staged_shape(params: &Params, direction: &str) -> (usize, usize) {
    match (params.field, params.dtype, direction) {
        (Field::Complex, ..) => (8, 3),
        (_, DType::Bf16, "forward") => (4, 6),
        _ => (16, 3),
    }
}

/// Bytes that a lane of the staged kernel has of a row: a number, or two of bf16.
fn word(params: &Params) -> usize {
    if params.field == Field::Complex { 8 } else { 4 }
}

/// What the staged kernel keeps in shared memory: tiles of a and x, and backward of h, and two buffers of the
/// warps' sums, a factor and a value a lane.
fn staged_bytes(params: &Params, direction: &str) -> usize {
    let streams = if direction == "forward" { 2 } else { 3 };
    let number = if params.dtype == DType::Bf16 { 8 } else { word(params) };
    let (warps, stages) = staged_shape(params, direction);
    32 * warps * (stages * streams * 8 * word(params) + 4 * number)
}

/// Suffix of the kernels for these numbers.
fn suffix(params: &Params) -> &'static str {
    if params.field == Field::Complex { "c64" } else { params.dtype.name() }
}

/// Adds the launch, with the sizes and whatever scratch the tiling needs after `args`.
fn launch(
    plan: &mut Plan,
    kernel: &Kernel,
    params: &Params,
    direction: &str,
    mut args: Vec<Arg>,
) -> Result<(), Unsupported> {
    args.extend([params.batch, params.seq_len, params.channels].map(Arg::from));
    let chains = params.batch * params.channels.div_ceil(32);
    let (mut shared, mut block) = (0, kernel.block);
    let grid = match kernel.tiling {
        Tiling::Columns => blocks((params.batch * params.channels).div_ceil(THREADS))?,
        Tiling::Chains => blocks(chains)?,
        Tiling::Words => {
            let row = params.channels * params.parts() * params.dtype.bytes();
            if !row.is_multiple_of(16) {
                return Err(Unsupported(format!("a row of {row} bytes is no multiple of 16")));
            }
            shared = staged_bytes(params, direction);
            block[1] = staged_shape(params, direction).0;
            blocks(params.batch * (row / word(params)).div_ceil(32))?
        }
        Tiling::Tiles => {
            let steps = if direction == "forward" && params.parts() == 1 { 128 } else { 64 };
            let tiles = params.seq_len.div_ceil(steps);
            let ticket = plan.scratch("ticket", DType::U32, &[1]);
            let status = plan.scratch("status", DType::U32, &[tiles, chains]);
            plan.fill(ticket, 0);
            plan.fill(status, 0);
            args.extend([Arg::from(ticket), status.into()]);
            for name in ["sum_factor", "sum_value", "state"] {
                let shape = [tiles, chains, 32, params.parts()];
                args.push(plan.scratch(name, DType::F32, &shape).into());
            }
            blocks(tiles * chains)?
        }
    };
    let symbol = format!("{direction}_{}", suffix(params));
    plan.launch(kernel.module, symbol, grid, block, shared, &args);
    Ok(())
}

/// Plan of `ssm.recurrence`.
pub(super) fn forward(case: &Case, inputs: &Tensors, kernel: &Kernel) -> Result<Plan, Unsupported> {
    let params: Params = case.params()?;
    let mut plan = Plan::new();
    let (a, x) = (plan.input(inputs, "a"), plan.input(inputs, "x"));
    let initial = params.initial_state.then(|| plan.input(inputs, "initial_state"));
    let h = plan.output("h", params.dtype, &params.shape());
    let args = vec![a.into(), x.into(), initial.into(), h.into()];
    launch(&mut plan, kernel, &params, "forward", args)?;
    Ok(plan)
}

/// Plan of `ssm.recurrence_backward`.
pub(super) fn backward(
    case: &Case,
    inputs: &Tensors,
    kernel: &Kernel,
) -> Result<Plan, Unsupported> {
    let params: Params = case.params()?;
    let mut plan = Plan::new();
    let (a, h) = (plan.input(inputs, "a"), plan.input(inputs, "h"));
    let initial = params.initial_state.then(|| plan.input(inputs, "initial_state"));
    let dh = plan.input(inputs, "dh");
    let dx = plan.output("dx", params.dtype, &params.shape());
    let da = plan.output("da", params.dtype, &params.shape());
    let dinitial = params
        .initial_state
        .then(|| plan.output("dinitial_state", DType::F32, &params.state_shape()));
    // No step writes the gradient of an empty sequence's state.
    if let (Some(dinitial), 0) = (dinitial, params.seq_len) {
        plan.fill(dinitial, 0);
    }
    let args =
        vec![a.into(), h.into(), initial.into(), dh.into(), dx.into(), da.into(), dinitial.into()];
    launch(&mut plan, kernel, &params, "backward", args)?;
    Ok(plan)
}
