//! Plans of `upsample.transposed_conv` and its gradients.

use touchstone_reference::{Case, DType, Tensors, upsample::transposed_conv::Params};

use super::{countable, kind_of, threads};
use crate::{
    plan::{Arg, MAX_GRID, Plan},
    variant::Unsupported,
};

const NAIVE: &str = "upsample_transposed_conv_naive";
const TILED: &str = "upsample_transposed_conv_tiled";
const REGISTERS: &str = "upsample_transposed_conv_registers";
const TENSOR_CORE: &str = "upsample_transposed_conv_tensor_core";
const TENSOR_CORE_F16: &str = "upsample_transposed_conv_tensor_core.f16";
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

/// Places and output channels of a block of `tensor_core`, channels of its steps, as in the kernel.
const PLACES: usize = 256;
const OUTS: usize = 64;
const DEPTH: usize = 64;
/// Its stages, of two taps' weights of two phases and the pixels they read, and its staged results.
const SHARED_BYTES: usize = 2 * (4 * OUTS + PLACES + 8) * DEPTH * 2 + 2 * OUTS * (PLACES + 8) * 2;
/// Blocks of its persistent grid: one a multiprocessor of an H100 or H200. On another number they share or idle.
const PERSISTENT_BLOCKS: usize = 132;

/// Pixels on one line, with zeros behind rows and images: every tap is then one distance along the line.
struct Line {
    /// Places from row to row, rows from image to image, places in all.
    pitch: usize,
    rows: usize,
    length: usize,
    /// Places up to the last that holds results.
    used: usize,
    /// Input and output channels, rounded up.
    channels: usize,
    outs: usize,
}

impl Line {
    fn of(p: &Params) -> Self {
        let [batch, out, out_h, out_w] = p.output();
        let (pitch, columns) = Self::axis(p, p.width, out_w);
        let (rows, lines) = Self::axis(p, p.height, out_h);
        let last = (batch * rows + lines).saturating_sub(rows + 1) * pitch + columns;
        let used = if batch * lines * columns == 0 { 0 } else { last };
        Self {
            pitch,
            rows,
            length: batch * rows * pitch,
            used,
            channels: p.in_channels.next_multiple_of(DEPTH),
            outs: out.next_multiple_of(OUTS),
        }
    }

    /// Along an axis: pixels and the zeros behind them, and results of a phase.
    fn axis(p: &Params, input: usize, output: usize) -> (usize, usize) {
        let results = output.div_ceil(p.stride);
        let (mut before, mut behind) = (0, 0);
        for phase in 0..p.stride {
            let first = (phase + p.padding) / p.stride;
            let taps = p.kernel.saturating_sub((phase + p.padding) % p.stride).div_ceil(p.stride);
            behind = behind.max(first);
            before = before.max(taps.saturating_sub(first + 1));
        }
        ((input + before).max(results + behind), results)
    }
}

pub(super) fn tensor_core(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    products(case, inputs, [TENSOR_CORE, TENSOR_CORE_F16])
}

pub(super) fn warpgroup(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    products(
        case,
        inputs,
        ["upsample_transposed_conv_warpgroup", "upsample_transposed_conv_warpgroup.f16"],
    )
}

/// Pixels and weights in the products' order, then the products, by the kernel of a module or its twin for f16.
fn products(
    case: &Case,
    inputs: &Tensors,
    kernels: [&'static str; 2],
) -> Result<Plan, Unsupported> {
    let p: Params = case.params()?;
    let (module, kernel) = match p.dtype {
        DType::F16 => (TENSOR_CORE_F16, kernels[1]),
        DType::Bf16 => (TENSOR_CORE, kernels[0]),
        other => return Err(Unsupported(format!("products of {other:?} need more than 16 bits"))),
    };
    sizes(&p)?;
    let line = Line::of(&p);
    let tiles = line.used.div_ceil(PLACES);
    let parts = match p.stride {
        1 => line.outs.div_ceil(2 * OUTS),
        s => s * s.div_ceil(2) * (line.outs / OUTS),
    };
    let weights = p.kernel * p.kernel * line.outs;
    countable((line.length + PLACES) * line.channels.max(1), "pixels with zeros between them")?;
    countable((weights * line.channels).max(line.outs) + TILE, "rounded weights")?;
    countable(tiles * parts + PERSISTENT_BLOCKS, "tiles")?;
    if line.channels / TILE >= MAX_GRID[1] {
        return Err(Unsupported(format!("{} channels are more than a grid takes", p.in_channels)));
    }

    let mut plan = Plan::new();
    let [input, weight, bias]: [Arg; 3] =
        ["input", "weight", "bias"].map(|name| plan.input(inputs, name).into());
    let output: Arg = plan.output("output", p.dtype, &p.output()).into();
    let pixels: Arg = plan.scratch("pixels", p.dtype, &[line.length, line.channels]).into();
    let arranged: Arg = plan.scratch("weights", p.dtype, &[weights, line.channels]).into();
    let biases: Arg = plan.scratch("biases", DType::F32, &[line.outs]).into();
    let [batch, out, out_h, out_w] = p.output();
    let of_layer = [batch, out, p.height, p.width, out_h, out_w, p.kernel, p.stride, p.padding];
    let of_line = [line.pitch, line.rows, line.channels, line.outs, line.length, tiles];
    let sizes: Vec<Arg> = of_layer.into_iter().chain(of_line).map(Arg::from).collect();
    let with_sizes = |args: &[Arg]| [args, &sizes[..]].concat();

    let (channels, kind) = (p.in_channels.into(), Arg::I32(kind_of(p.dtype)));
    let (grid, block) = threads((line.outs * line.channels).max(line.outs));
    let args = with_sizes(&[weight, bias, channels, arranged, biases, kind]);
    plan.launch(module, "arrange_weights", grid, block, 0, &args);
    let grid = [p.batch * line.rows, line.channels.div_ceil(TILE), 1];
    plan.launch(module, "arrange_pixels", grid, block, 0, &with_sizes(&[input, channels, pixels]));
    let grid = [PERSISTENT_BLOCKS.min(tiles * parts), 1, 1];
    let args = with_sizes(&[pixels, arranged, biases, output]);
    plan.launch(kernel, "forward", grid, block, SHARED_BYTES, &args);
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

/// The line of d_output with its phases side by side as channels, and of the input beside it.
struct GradientLine {
    line: Line,
    /// Rows and columns of the patch between places.
    taps: usize,
    /// Channels of a phase and of the input, multiples of 8.
    outs: usize,
    ins: usize,
}

impl GradientLine {
    fn of(p: &Params) -> Self {
        let taps = p.kernel.div_ceil(p.stride);
        let (pitch, rows) = (p.width + taps - 1, p.height + taps - 1);
        let outs = p.out_channels.next_multiple_of(8);
        let empty = p.batch * p.height * p.width == 0;
        let (length, used) = match empty {
            true => (0, 0),
            false => {
                (p.batch * rows * pitch, ((p.batch - 1) * rows + p.height - 1) * pitch + p.width)
            }
        };
        let line = Line {
            pitch,
            rows,
            length,
            used,
            channels: (p.stride * p.stride * outs).next_multiple_of(DEPTH),
            outs: p.in_channels.next_multiple_of(OUTS),
        };
        Self { line, taps, outs, ins: p.in_channels.next_multiple_of(8) }
    }
}

pub(super) fn tensor_core_backward(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    /// Channels of a tile of d_weight, places of its steps, its stages, as in the kernel.
    const BLOCK: usize = 128;
    const STEP: usize = 32;
    const SHARED: usize = 4 * (2 * STEP + 2) * BLOCK * 2;
    let p: Params = case.params()?;
    let [forward, module] = match p.dtype {
        DType::F16 => [TENSOR_CORE_F16, "upsample_transposed_conv_backward_tensor_core.f16"],
        DType::Bf16 => [TENSOR_CORE, "upsample_transposed_conv_backward_tensor_core"],
        other => return Err(Unsupported(format!("products of {other:?} need more than 16 bits"))),
    };
    let GradientLine { line, taps, outs, ins } = GradientLine::of(&p);
    let (patches, phases) = (taps * taps, p.stride * p.stride);
    let steps = line.length.div_ceil(STEP);
    let tiles =
        taps * taps.div_ceil(2) * p.in_channels.div_ceil(BLOCK) * line.channels.div_ceil(BLOCK);
    // As many shares of the places as fill the device once, of at least eight steps.
    let shares = (PERSISTENT_BLOCKS / tiles.max(1)).min(steps / 8).max(1);
    let steps_each = steps.div_ceil(shares);
    let shares = if steps == 0 { 0 } else { steps.div_ceil(steps_each) };
    let parts = patches * p.in_channels * line.channels;
    countable(
        (line.length + PLACES) * line.channels.max(ins),
        "gradients with zeros between them",
    )?;
    countable(patches * line.outs * line.channels + TILE, "rounded weights")?;
    countable(parts + TILE, "sums of a share")?;
    let result_tiles = line.used.div_ceil(PLACES);
    let columns = line.outs.div_ceil(2 * OUTS);
    countable(result_tiles * columns + PERSISTENT_BLOCKS, "tiles")?;
    if [tiles, phases, outs / TILE + 1, ins / TILE + 1].into_iter().any(|n| n > MAX_GRID[1]) {
        return Err(Unsupported(format!("{tiles} tiles of {phases} phases exceed a grid")));
    }

    let (mut plan, _) = gradients(&p, inputs)?;
    let [d_output, input, weight, d_input, d_weight, d_bias]: [Arg; 6] =
        ["d_output", "input", "weight", "d_input", "d_weight", "d_bias"]
            .map(|name| plan.buffer_named(name).into());
    let arranged: Arg = plan.scratch("gradients", p.dtype, &[line.length, line.channels]).into();
    let pixels: Arg = plan.scratch("pixels", p.dtype, &[line.length, ins]).into();
    let weights: Arg =
        plan.scratch("weights", p.dtype, &[patches * line.outs, line.channels]).into();
    let biases: Arg = plan.scratch("biases", DType::F32, &[line.outs]).into();
    let sums: Arg = plan.scratch("parts", DType::F32, &[shares, parts]).into();
    let planes: Arg = plan.scratch("planes", DType::F32, &[p.out_channels, p.batch]).into();
    let kind = Arg::I32(kind_of(p.dtype));
    let [batch, out, out_h, out_w] = p.output();
    let place = [line.pitch, line.rows];
    let own = [
        &[
            batch,
            p.in_channels,
            out,
            p.height,
            p.width,
            out_h,
            out_w,
            p.kernel,
            p.stride,
            p.padding,
        ],
        &place[..],
        &[line.length, taps, outs, line.channels, ins],
    ];
    let own: Vec<Arg> = own.concat().into_iter().map(Arg::from).collect();
    let with_own = |args: &[Arg]| [args, &own[..]].concat();
    let spread = if line.length == 0 { 0 } else { p.batch * line.rows };

    // d_input: a transposed convolution of stride 1 with the last tap first.
    let grid = [spread, (outs + DEPTH).div_ceil(TILE), phases];
    let (_, block) = threads(0);
    plan.launch(module, "arrange_gradients", grid, block, 0, &with_own(&[d_output, arranged]));
    let (grid, _) = threads((line.outs * line.channels).max(line.outs));
    let args = with_own(&[weight, line.outs.into(), weights, biases]);
    plan.launch(module, "arrange_weights", grid, block, 0, &args);
    let as_layer = |channels: usize, rows: usize| -> Vec<Arg> {
        let layer = [batch, p.in_channels, p.height, p.width, p.height, p.width, taps, 1, taps - 1];
        let of_line = [line.pitch, line.rows, channels, rows, line.length, result_tiles];
        layer.into_iter().chain(of_line).map(Arg::from).collect()
    };
    let args = [&[arranged, weights, biases, d_input], &as_layer(line.channels, line.outs)[..]];
    let grid = [PERSISTENT_BLOCKS.min(result_tiles * columns), 1, 1];
    plan.launch(forward, "forward", grid, block, SHARED_BYTES, &args.concat());

    // d_weight, and d_bias with it.
    let args = [&[input, p.in_channels.into(), pixels], &as_layer(ins, ins)[..]].concat();
    plan.launch(forward, "arrange_pixels", [spread, ins.div_ceil(TILE), 1], block, 0, &args);
    let args = with_own(&[pixels, arranged, sums, steps_each.into()]);
    plan.launch(module, "d_weight", [shares, tiles, 1], block, SHARED, &args);
    let plane = out_h * out_w;
    let args = [d_output, planes, batch.into(), out.into(), plane.into(), kind];
    plan.launch(module, "sum_planes", [batch * out, 1, 1], block, 0, &args);
    let (grid, _) = threads(parts.max(out));
    let args = with_own(&[sums, shares.into(), planes, d_weight, d_bias]);
    plan.launch(module, "sum_parts", grid, block, 0, &args);
    Ok(plan)
}
