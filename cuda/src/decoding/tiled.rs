//! The tiled product of f32 heads, by what is done with its sums.

use crate::{
    plan::{Arg, BufferId, Plan},
    variant::Unsupported,
};

const MODULE: &str = "decoding_tiled";
const TILE: usize = 128;

/// c [batches, rows, columns] of a [batches or shared, rows, depth] and w [batches, columns, depth].
#[derive(Clone, Copy)]
pub(super) struct Tiled {
    pub(super) a: Arg,
    pub(super) w: Arg,
    pub(super) c: Arg,
    pub(super) batches: usize,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) depth: usize,
    /// Whether all batches read the same a.
    pub(super) a_shared: bool,
}

/// Where the targets of rows stand.
#[derive(Clone, Copy)]
pub(super) struct Targets {
    pub(super) tokens: BufferId,
    pub(super) seq_len: usize,
    pub(super) ahead: usize,
}

/// Columns of which the loss keeps a maximum and a sum.
pub(super) const STRETCH: usize = 64;

/// What the kernel takes beside the product.
#[derive(Default)]
struct Rest {
    add: Option<BufferId>,
    add_batch: usize,
    bias: Option<BufferId>,
    targets: Option<Targets>,
    mode: i32,
}

fn launch(plan: &mut Plan, t: Tiled, rest: &Rest) -> Result<(), Unsupported> {
    if !t.depth.is_multiple_of(4) {
        return Err(Unsupported(format!("{} values are no whole 16-byte words", t.depth)));
    }
    let grid = [t.rows.div_ceil(TILE), t.columns.div_ceil(TILE), t.batches];
    if grid[1].max(grid[2]) > 65_535 {
        return Err(Unsupported(format!("{} columns are more than a grid takes", t.columns)));
    }
    let a_batch = if t.a_shared { 0 } else { t.rows * t.depth };
    let mut args = vec![t.a, a_batch.into(), t.w, (t.columns * t.depth).into()];
    args.extend([t.c, Arg::from(t.rows * t.columns)]);
    args.extend([Arg::from(rest.add), rest.add_batch.into(), rest.bias.into()]);
    args.push(rest.targets.map(|targets| targets.tokens).into());
    args.push(Arg::I32(rest.targets.map_or(1, |targets| targets.seq_len as i32)));
    args.push(Arg::I32(rest.targets.map_or(0, |targets| targets.ahead as i32)));
    args.extend([t.rows, t.columns, t.depth].map(Arg::from));
    args.push(rest.mode.into());
    plan.launch(MODULE, "product", grid, [256, 1, 1], 0, &args);
    Ok(())
}

/// c.
pub(super) fn store(plan: &mut Plan, t: Tiled) -> Result<(), Unsupported> {
    launch(plan, t, &Rest::default())
}

/// add + c, which may be the same.
pub(super) fn add(plan: &mut Plan, t: Tiled, add: BufferId) -> Result<(), Unsupported> {
    launch(
        plan,
        t,
        &Rest { add: Some(add), add_batch: t.rows * t.columns, mode: 1, ..Rest::default() },
    )
}

/// x + SiLU(c + bias), with one x for all batches.
pub(super) fn head(
    plan: &mut Plan,
    t: Tiled,
    x: BufferId,
    bias: BufferId,
) -> Result<(), Unsupported> {
    launch(plan, t, &Rest { add: Some(x), bias: Some(bias), mode: 2, ..Rest::default() })
}

/// −ln softmax of each row's target into `losses`, c being scratch [rows, ⌈columns / 64⌉, 2] and `logit` [rows].
pub(super) fn loss(
    plan: &mut Plan,
    t: Tiled,
    targets: Targets,
    logit: BufferId,
    losses: Arg,
) -> Result<(), Unsupported> {
    let rest = Rest { add: Some(logit), targets: Some(targets), mode: 3, ..Rest::default() };
    launch(plan, t, &rest)?;
    let mut args = vec![t.c, logit.into(), targets.tokens.into(), losses];
    let stretches = t.columns.div_ceil(STRETCH);
    args.extend([targets.seq_len as i32, targets.ahead as i32].map(Arg::from));
    args.extend([t.rows, stretches].map(Arg::from));
    plan.launch(MODULE, "losses", [t.rows.div_ceil(4), 1, 1], [128, 1, 1], 0, &args);
    Ok(())
}
