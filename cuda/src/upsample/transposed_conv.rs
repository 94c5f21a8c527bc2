//! Plans of `upsample.transposed_conv` and its gradients.

mod gradients;
mod products;

pub(super) use gradients::{tensor_core_backward, warpgroup_backward};
pub(super) use products::{tensor_core, warpgroup};
use touchstone_reference::{Case, DType, Tensors, upsample::transposed_conv::Params};

use super::{countable, kind_of, threads};
use crate::{
    plan::{Arg, MAX_GRID, Plan},
    variant::Unsupported,
};

const NAIVE: &str = "upsample_transposed_conv_naive";
const TILED: &str = "upsample_transposed_conv_tiled";
const REGISTERS: &str = "upsample_transposed_conv_registers";
/// Rows and columns of a block's tile, as in the kernel.
const TILE: usize = 64;

/// Sizes as every kernel here takes them, which count in 32 bits.
fn sizes(p: &Params) -> Result<Vec<Arg>, Unsupported> {
    for shape in [p.input(), p.output(), p.weight()] {
        countable(shape.iter().product(), "elements")?;
    }
    let [batch, out, out_h, out_w] = p.output();
    let sizes =
        [batch, p.in_channels, out, p.height, p.width, out_h, out_w, p.kernel, p.stride, p.padding];
    Ok(sizes.map(Arg::from).into_iter().chain([Arg::I32(kind_of(p.dtype))]).collect())
}

fn elements(shape: [usize; 4]) -> usize {
    shape.iter().product()
}

/// The grid of tiles of an `m` × `n` result; refuses what it cannot number.
fn tiles(m: usize, n: usize, depth: usize, phases: usize) -> Result<[usize; 3], Unsupported> {
    countable(n + TILE, "columns")?;
    countable(depth + TILE, "terms")?;
    if m > 65_535 * TILE {
        return Err(Unsupported(format!("{m} channels are more than a grid takes")));
    }
    Ok([n.div_ceil(TILE), m.div_ceil(TILE), phases])
}

/// Input, weight, bias and output of the forward operation, with its sizes.
fn forward(p: &Params, inputs: &Tensors) -> Result<(Plan, Vec<Arg>), Unsupported> {
    let mut plan = Plan::new();
    let mut args: Vec<Arg> =
        ["input", "weight", "bias"].map(|name| plan.input(inputs, name).into()).to_vec();
    args.push(plan.output("output", p.dtype, &p.output()).into());
    args.extend(sizes(p)?);
    Ok((plan, args))
}

pub(super) fn naive(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let p: Params = case.params()?;
    let (mut plan, args) = forward(&p, inputs)?;
    let (grid, block) = threads(elements(p.output()));
    plan.launch(NAIVE, "forward", grid, block, 0, &args);
    Ok(plan)
}

pub(super) fn tiled(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let p: Params = case.params()?;
    let (mut plan, args) = forward(&p, inputs)?;
    let [batch, out, out_h, out_w] = p.output();
    let (s, patch) = (p.stride, p.kernel.div_ceil(p.stride));
    let pixels = batch * out_h.div_ceil(s) * out_w.div_ceil(s);
    let grid = tiles(out, pixels, p.in_channels * patch * patch, s * s)?;
    plan.launch(TILED, "forward", grid, [256, 1, 1], 0, &args);
    Ok(plan)
}

pub(super) fn registers(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    /// Output channels and pixels of a block; channels of its steps, as in the kernel.
    const BLOCK: usize = 128;
    const STEP: usize = 16;
    let p: Params = case.params()?;
    if p.dtype != DType::F32 {
        return Err(Unsupported("16 bits are for tensor cores".into()));
    }
    let [batch, out, out_h, out_w] = p.output();
    let (channels, outs) = (p.in_channels.next_multiple_of(STEP), out.next_multiple_of(BLOCK));
    let pixels = batch * out_h.div_ceil(p.stride) * out_w.div_ceil(p.stride);
    let blocks = pixels.div_ceil(BLOCK) * p.stride * p.stride;
    let taps = p.kernel * p.kernel;
    countable(pixels + BLOCK, "pixels")?;
    countable(taps * channels * outs + BLOCK, "rounded weights")?;
    if blocks > MAX_GRID[0] || outs / BLOCK > MAX_GRID[1] {
        return Err(Unsupported(format!(
            "{out} channels of {pixels} pixels are more than a grid takes"
        )));
    }

    let mut sizes = sizes(&p)?;
    sizes.pop();
    sizes.extend([channels, outs].map(Arg::from));
    let mut plan = Plan::new();
    let [input, weight, bias]: [Arg; 3] =
        ["input", "weight", "bias"].map(|name| plan.input(inputs, name).into());
    let output: Arg = plan.output("output", p.dtype, &p.output()).into();
    let weights: Arg = plan.scratch("weights", p.dtype, &[taps, channels, outs]).into();
    let (grid, block) = threads(channels * outs);
    let args = [&[weight, weights], &sizes[..]].concat();
    plan.launch(REGISTERS, "arrange_weights", grid, block, 0, &args);
    let args = [&[input, weights, bias, output], &sizes[..]].concat();
    plan.launch(REGISTERS, "forward", [blocks, outs / BLOCK, 1], block, 0, &args);
    Ok(plan)
}

/// A kernel's symbol and arguments.
type Kernel = (&'static str, Vec<Arg>);

/// The buffers of the gradients and their kernels.
fn gradients(p: &Params, inputs: &Tensors) -> Result<(Plan, [Kernel; 3]), Unsupported> {
    let mut plan = Plan::new();
    let [d_output, input, weight]: [Arg; 3] =
        ["d_output", "input", "weight"].map(|name| plan.input(inputs, name).into());
    let d_input: Arg = plan.output("d_input", p.dtype, &p.input()).into();
    let d_weight: Arg = plan.output("d_weight", p.dtype, &p.weight()).into();
    let d_bias: Arg = plan.output("d_bias", p.dtype, &[p.out_channels]).into();
    let sizes = sizes(p)?;
    let with_sizes = |pointers: &[Arg]| [pointers, &sizes[..]].concat();
    let kernels = [
        ("d_input", with_sizes(&[d_output, weight, d_input])),
        ("d_weight", with_sizes(&[d_output, input, d_weight])),
        ("d_bias", with_sizes(&[d_output, d_bias])),
    ];
    Ok((plan, kernels))
}

pub(super) fn naive_backward(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let p: Params = case.params()?;
    let (mut plan, kernels) = gradients(&p, inputs)?;
    let counts = [elements(p.input()), elements(p.weight()), p.out_channels];
    for ((symbol, args), count) in kernels.into_iter().zip(counts) {
        let (grid, block) = threads(count);
        plan.launch(NAIVE, symbol, grid, block, 0, &args);
    }
    Ok(plan)
}

pub(super) fn tiled_backward(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let p: Params = case.params()?;
    let (mut plan, kernels) = gradients(&p, inputs)?;
    let (patch, pixels) = (p.out_channels * p.kernel * p.kernel, p.batch * p.height * p.width);
    let grids = [
        tiles(p.in_channels, pixels, patch, 1)?,
        tiles(p.in_channels, patch, pixels, 1)?,
        [p.out_channels, 1, 1],
    ];
    for ((symbol, args), grid) in kernels.into_iter().zip(grids) {
        plan.launch(TILED, symbol, grid, [256, 1, 1], 0, &args);
    }
    Ok(plan)
}
