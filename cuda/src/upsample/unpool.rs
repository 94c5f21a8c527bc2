//! Plans of `upsample.unpool` and its gradient.

use touchstone_reference::{
    Case, Tensors,
    upsample::unpool::{Params, Places},
};

use super::{countable, threads};
use crate::{
    plan::{Arg, Plan},
    variant::Unsupported,
};

/// Planes, pixels of a small plane, pixels of a large one.
fn sizes(p: &Params) -> [usize; 3] {
    let [batch, channels, height, width] = p.small();
    [batch * channels, height * width, height * width * p.window * p.window]
}

pub(super) fn naive(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let p: Params = case.params()?;
    let mut plan = Plan::new();
    let (input, indices) = (plan.input(inputs, "input"), plan.input(inputs, "indices"));
    let output = plan.output("output", p.dtype, &p.large());
    plan.fill(output, 0);
    let mut args: Vec<Arg> = vec![input.into(), indices.into(), output.into()];
    args.extend(sizes(&p).map(Arg::from));
    let (grid, block) = threads(p.small().iter().product());
    let symbol = format!("unpool_{}", p.dtype.bytes());
    plan.launch("upsample_unpool_naive", symbol, grid, block, 0, &args);
    Ok(plan)
}

pub(super) fn windows(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let p: Params = case.params()?;
    if p.places != Places::Windows {
        return Err(Unsupported("maxima outside their own windows".into()));
    }
    if p.window != 2 {
        return Err(Unsupported(format!("windows of {}, not 2", p.window)));
    }
    let values = p.small().iter().product();
    countable(values, "values")?;
    let mut plan = Plan::new();
    let (input, indices) = (plan.input(inputs, "input"), plan.input(inputs, "indices"));
    let output = plan.output("output", p.dtype, &p.large());
    let args = [
        input.into(),
        indices.into(),
        output.into(),
        (p.batch * p.channels).into(),
        p.height.into(),
        p.width.into(),
    ];
    let (grid, block) = threads(values);
    let symbol = format!("unpool_k{}_{}", p.window, p.dtype.bytes());
    plan.launch("upsample_unpool_windows", symbol, grid, block, 0, &args);
    Ok(plan)
}

/// The gradient by kernel `fetch` of a module, with so many values a thread.
fn fetch(
    case: &Case,
    inputs: &Tensors,
    module: &'static str,
    per_thread: usize,
) -> Result<Plan, Unsupported> {
    let p: Params = case.params()?;
    let values: usize = p.small().iter().product();
    countable(values + 1024, "values")?;
    let mut plan = Plan::new();
    let (d_output, indices) = (plan.input(inputs, "d_output"), plan.input(inputs, "indices"));
    let d_input = plan.output("d_input", p.dtype, &p.small());
    let mut args: Vec<Arg> = vec![d_output.into(), indices.into(), d_input.into()];
    args.extend(sizes(&p).map(Arg::from));
    let (grid, block) = threads(values.div_ceil(per_thread));
    let symbol = format!("fetch_{}", p.dtype.bytes());
    plan.launch(module, symbol, grid, block, 0, &args);
    Ok(plan)
}

pub(super) fn naive_backward(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    fetch(case, inputs, "upsample_unpool_naive", 1)
}

pub(super) fn in_flight(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    fetch(case, inputs, "upsample_unpool_windows", 4)
}
