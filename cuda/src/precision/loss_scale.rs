//! Plans of `precision.loss_scale`.

use touchstone_reference::{Case, DType, Tensors, precision::loss_scale::Params};

use super::{kind_of, threads};
use crate::{
    plan::{Arg, Plan},
    variant::Unsupported,
};

/// The operation's buffers as arguments.
struct Buffers {
    gradients: Arg,
    scale: Arg,
    streak: Arg,
    unscaled: Arg,
    /// `skip`, `next_scale`, `next_streak`.
    next: [Arg; 3],
    /// The rule: interval, growth, backoff.
    rule: [Arg; 3],
}

fn start(case: &Case, inputs: &Tensors) -> Result<(Params, Plan, Buffers), Unsupported> {
    let p: Params = case.params()?;
    let mut plan = Plan::new();
    let [gradients, scale, streak] =
        ["gradients", "scale", "streak"].map(|name| plan.input(inputs, name).into());
    let unscaled = plan.output("unscaled", DType::F32, &[p.elements]).into();
    let next = [("skip", DType::I32), ("next_scale", DType::F32), ("next_streak", DType::I32)]
        .map(|(name, dtype)| plan.output(name, dtype, &[1]).into());
    let rule = [Arg::I32(p.interval), Arg::F32(p.growth as f32), Arg::F32(p.backoff as f32)];
    Ok((p, plan, Buffers { gradients, scale, streak, unscaled, next, rule }))
}

pub(super) fn naive(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    const MODULE: &str = "precision_loss_scale_naive";
    let (p, mut plan, b) = start(case, inputs)?;
    let found = plan.scratch("found", DType::I32, &[1]);
    plan.fill(found, 0);
    let found = found.into();
    let (grid, block) = threads(p.elements);
    let args =
        [b.gradients, b.scale, b.unscaled, found, p.elements.into(), Arg::I32(kind_of(p.dtype))];
    plan.launch(MODULE, "unscale", grid, block, 0, &args);
    let args = [&[found, b.scale, b.streak][..], &b.next, &b.rule].concat();
    plan.launch(MODULE, "update", [1; 3], [1; 3], 0, &args);
    Ok(plan)
}

pub(super) fn fused(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let (p, mut plan, b) = start(case, inputs)?;
    /// Gradients of a block, as in the kernel.
    const BLOCK: usize = 256 * 4 * 2;
    let state = plan.scratch("state", DType::U64, &[1]);
    plan.fill(state, 0);
    let args = [
        &[b.gradients, b.scale, b.streak, b.unscaled, state.into()][..],
        &b.next,
        &[p.elements.into(), Arg::I32(kind_of(p.dtype))],
        &b.rule,
    ];
    // Without any gradients, a block still moves the scale.
    let grid = [p.elements.div_ceil(BLOCK).max(1), 1, 1];
    plan.launch("precision_loss_scale_fused", "loss_scale", grid, [256, 1, 1], 0, &args.concat());
    Ok(plan)
}
