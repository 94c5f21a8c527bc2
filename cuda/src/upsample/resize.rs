//! Plans of the interpolations and their transposes.

use touchstone_reference::{
    Case, DType, Tensor, Tensors,
    upsample::resize::{Coordinates, Interpolation, Params, position},
};

use super::{countable, kind_of, lanes, threads};
use crate::{
    plan::{Arg, BufferId, Plan},
    variant::Unsupported,
};

/// Sizes as every kernel here takes them: planes, input, output.
fn sizes(p: &Params) -> [Arg; 5] {
    [p.batch * p.channels, p.in_h, p.in_w, p.out_h, p.out_w].map(Arg::from)
}

/// What a kernel that computes positions itself needs: the steps, and (o + half) · step − shift.
fn positions(p: &Params) -> [Arg; 4] {
    let (half, shift) = match p.coordinates {
        Coordinates::Floor | Coordinates::AlignCorners => (0.0, 0.0),
        Coordinates::Centre => (0.5, 0.0),
        Coordinates::HalfPixel => (0.5, 0.5),
    };
    [p.step(p.in_h, p.out_h), p.step(p.in_w, p.out_w), half, shift].map(Arg::F32)
}

fn pixels(p: &Params) -> (usize, usize) {
    let planes = p.batch * p.channels;
    (planes * p.in_h * p.in_w, planes * p.out_h * p.out_w)
}

/// Both ends of a forward resize: parameters, plan, input and output.
fn forward(case: &Case, inputs: &Tensors) -> Result<(Params, Plan, [Arg; 2]), Unsupported> {
    let p: Params = case.params()?;
    let mut plan = Plan::new();
    let input = plan.input(inputs, "input");
    let output = plan.output("output", p.dtype, &[p.batch, p.channels, p.out_h, p.out_w]);
    Ok((p, plan, [input.into(), output.into()]))
}

/// Both ends of a backward resize.
fn backward(
    case: &Case,
    inputs: &Tensors,
) -> Result<(Params, Plan, BufferId, BufferId), Unsupported> {
    let p: Params = case.params()?;
    let mut plan = Plan::new();
    let d_output = plan.input(inputs, "d_output");
    let d_input = plan.output("d_input", p.dtype, &[p.batch, p.channels, p.in_h, p.in_w]);
    Ok((p, plan, d_output, d_input))
}

pub(super) fn naive<I: Interpolation>(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let (p, mut plan, ends) = forward(case, inputs)?;
    let (_, outputs) = pixels(&p);
    countable(outputs, "pixels")?;
    let mut args = ends.to_vec();
    args.extend(sizes(&p));
    args.extend(positions(&p));
    args.extend([Arg::I32(I::TAPS as i32), Arg::I32(kind_of(p.dtype))]);
    let (grid, block) = threads(outputs);
    plan.launch("upsample_resize_naive", "resize", grid, block, 0, &args);
    Ok(plan)
}

pub(super) fn vectorized<I: Interpolation>(
    case: &Case,
    inputs: &Tensors,
) -> Result<Plan, Unsupported> {
    /// Output pixels of a thread along a row, as in the kernel.
    const WORD: usize = 4;
    /// Rows of a thread, as in the kernel.
    const RUN: usize = 8;
    let (p, mut plan, ends) = forward(case, inputs)?;
    if !p.out_w.is_multiple_of(WORD) {
        return Err(Unsupported(format!("rows of {} pixels are not whole words of four", p.out_w)));
    }
    let units = p.batch * p.channels * p.out_h.div_ceil(RUN);
    countable(units, "runs of rows")?;
    let lanes = lanes(p.out_w / WORD);
    let mut args = ends.to_vec();
    args.extend(sizes(&p));
    args.extend(positions(&p));
    args.extend([Arg::I32(lanes as i32), Arg::I32(kind_of(p.dtype))]);
    let what = if p.dtype == DType::F32 { "f32" } else { "half" };
    let blocks = if p.out_w == 0 { 0 } else { units.div_ceil(256 / lanes) };
    let symbol = format!("resize_{what}_{}", I::TAPS);
    plan.launch("upsample_resize_vectorized", symbol, [blocks, 1, 1], [256, 1, 1], 0, &args);
    Ok(plan)
}

/// Refuses rows that are not whole words of 16 bytes.
fn check_wide_words(p: &Params) -> Result<usize, Unsupported> {
    let bytes = p.out_w * p.dtype.bytes();
    match bytes.is_multiple_of(16) {
        true => Ok(bytes / 16),
        false => Err(Unsupported(format!("rows of {bytes} bytes are not whole words of 16"))),
    }
}

/// Most input rows that a tile of so many output rows reads.
fn held_rows<I: Interpolation>(p: &Params, rows: usize) -> usize {
    let step = p.step(p.in_h, p.out_h);
    // The first row an output row reads, as `taps` of upsample.cuh has it.
    let base = |y: usize| match I::TAPS {
        4 => position(y, step, p.coordinates).floor() as i64 - 1,
        _ => (position(y, step, p.coordinates).max(0.0).floor() as i64).min(p.in_h as i64 - 1),
    };
    let tile = |from: usize| base(p.out_h.min(from + rows) - 1) - base(from);
    let most = (0..p.out_h).step_by(rows).map(tile).max();
    most.map_or(0, |most| most as usize + I::TAPS)
}

pub(super) fn staged<I: Interpolation>(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    /// Rows and columns of a tile, as in the kernel.
    const TILE: [usize; 2] = [64, 128];
    /// Shared memory for the rows, beside the taps: what a block has without asking for more.
    const MOST_SHARED: usize = 46 << 10;
    let (p, mut plan, ends) = forward(case, inputs)?;
    check_wide_words(&p)?;
    let [down, across] = [p.out_h.div_ceil(TILE[0]), p.out_w.div_ceil(TILE[1])];
    let tiles = p.batch * p.channels * down * across;
    countable(tiles, "tiles")?;
    let shared = held_rows::<I>(&p, TILE[0]) * TILE[1] * DType::F32.bytes();
    if shared > MOST_SHARED {
        return Err(Unsupported(format!("a tile reads more rows than {MOST_SHARED} bytes hold")));
    }
    let mut args = ends.to_vec();
    args.extend(sizes(&p));
    args.extend(positions(&p));
    args.extend([across, down].map(Arg::from));
    let symbol = format!("staged_{}_{}", p.dtype.name(), I::TAPS);
    plan.launch("upsample_resize_staged", symbol, [tiles, 1, 1], [256, 1, 1], shared, &args);
    Ok(plan)
}

pub(super) fn copied(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    /// Rows of a thread, as in the kernel.
    const RUN: usize = 8;
    let (p, mut plan, ends) = forward(case, inputs)?;
    let words = check_wide_words(&p)?;
    let units = p.batch * p.channels * p.out_h.div_ceil(RUN);
    countable(units, "runs of rows")?;
    let lanes = lanes(words);
    let mut args = ends.to_vec();
    args.extend(sizes(&p));
    args.extend(positions(&p));
    args.push(Arg::I32(lanes as i32));
    let blocks = if words == 0 { 0 } else { units.div_ceil(256 / lanes) };
    let symbol = format!("nearest_{}", p.dtype.bytes());
    plan.launch("upsample_nearest_copied", symbol, [blocks, 1, 1], [256, 1, 1], 0, &args);
    Ok(plan)
}

pub(super) fn naive_backward<I: Interpolation>(
    case: &Case,
    inputs: &Tensors,
) -> Result<Plan, Unsupported> {
    let (p, mut plan, d_output, d_input) = backward(case, inputs)?;
    let (elements, outputs) = pixels(&p);
    countable(elements.max(outputs), "pixels")?;
    let mut args: Vec<Arg> = vec![d_output.into(), d_input.into()];
    args.extend(sizes(&p));
    args.extend(positions(&p));
    args.extend([Arg::I32(I::TAPS as i32), Arg::I32(kind_of(p.dtype))]);
    let (grid, block) = threads(elements);
    plan.launch("upsample_resize_backward_naive", "resize", grid, block, 0, &args);
    Ok(plan)
}

/// The readers of every pixel of an axis, as two tables: `ranges` [input, 3] with the first output that
/// reads the pixel, how many do, and where their weights begin in `weights`.
fn readers<I: Interpolation>(p: &Params, input: usize, output: usize) -> (Vec<i64>, Vec<f64>) {
    let step = p.step(input, output);
    let mut of: Vec<Vec<(usize, f64)>> = vec![Vec::new(); input];
    for o in 0..output {
        for tap in I::taps(position(o, step, p.coordinates), input) {
            match of[tap.at].last_mut() {
                // Taps that fall together at a border are one reader.
                Some((reader, weight)) if *reader == o => *weight += tap.weight,
                _ => of[tap.at].push((o, tap.weight)),
            }
        }
    }
    let (mut ranges, mut weights) = (Vec::new(), Vec::new());
    for readers in of {
        let first = readers.first().map_or(0, |&(o, _)| o);
        ranges.extend([first as i64, readers.len() as i64, weights.len() as i64]);
        weights.extend(readers.into_iter().map(|(_, weight)| weight));
    }
    (ranges, weights)
}

pub(super) fn gather<I: Interpolation>(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let (p, mut plan, d_output, d_input) = backward(case, inputs)?;
    let (elements, _) = pixels(&p);
    countable(elements, "pixels")?;
    let mut args: Vec<Arg> = vec![d_output.into()];
    for (axis, input, output) in [("y", p.in_h, p.out_h), ("x", p.in_w, p.out_w)] {
        let (ranges, weights) = readers::<I>(&p, input, output);
        let ranges = Tensor::from_integers(DType::I32, &[input, 3], &ranges);
        let weights = Tensor::from_real(DType::F32, &[weights.len()], &weights);
        args.push(plan.table(&format!("{axis}_ranges"), ranges).into());
        args.push(plan.table(&format!("{axis}_weights"), weights).into());
    }
    args.push(d_input.into());
    args.extend(sizes(&p));
    args.push(Arg::I32(kind_of(p.dtype)));
    let (grid, block) = threads(elements);
    plan.launch("upsample_resize_backward_gather", "resize", grid, block, 0, &args);
    Ok(plan)
}

pub(super) fn atomic<I: Interpolation>(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let (p, mut plan, d_output, d_input) = backward(case, inputs)?;
    let (elements, outputs) = pixels(&p);
    countable(outputs, "pixels")?;
    let sums = match p.dtype {
        DType::F32 => d_input,
        _ => plan.scratch("sums", DType::F32, &[elements]),
    };
    plan.fill(sums, 0);
    let mut args: Vec<Arg> = vec![d_output.into(), sums.into()];
    args.extend(sizes(&p));
    args.extend(positions(&p));
    args.extend([Arg::I32(I::TAPS as i32), Arg::I32(kind_of(p.dtype))]);
    let (grid, block) = threads(outputs);
    plan.launch("upsample_resize_backward_atomic", "resize", grid, block, 0, &args);
    if p.dtype != DType::F32 {
        let (grid, block) = threads(elements);
        let args = [sums.into(), d_input.into(), elements.into(), Arg::I32(kind_of(p.dtype))];
        plan.launch("upsample_resize_backward_atomic", "round_off", grid, block, 0, &args);
    }
    Ok(plan)
}
