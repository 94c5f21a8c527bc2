//! Plans of the interpolations and their transposes.

use touchstone_reference::{
    Case, DType, Tensor, Tensors,
    upsample::resize::{Coordinates, Interpolation, Params, position},
};

use super::{countable, kind_of, lanes, threads};
use crate::{
    plan::{Arg, BufferId, MAX_GRID, Plan},
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

/// Words of 16 bytes of a row of so many pixels; refuses rows that are not whole ones.
fn wide_words(p: &Params, pixels: usize) -> Result<usize, Unsupported> {
    let bytes = pixels * p.dtype.bytes();
    match bytes.is_multiple_of(16) {
        true => Ok(bytes / 16),
        false => Err(Unsupported(format!("rows of {bytes} bytes are not whole words of 16"))),
    }
}

/// Columns of a tile: rows of so many pixels cut into equal parts of whole words of 16 bytes, at most `most` wide.
fn tile_width(p: &Params, pixels: usize, most: usize) -> Result<usize, Unsupported> {
    let words = wide_words(p, pixels)?;
    Ok(words.div_ceil(pixels.div_ceil(most).max(1)).max(1) * (16 / p.dtype.bytes()))
}

/// Shared memory of a tile's input: so many rows, raw in words of 16 bytes, and interpolated along x in f32.
fn tile_bytes(rows: usize, width: usize, words: usize) -> Result<usize, Unsupported> {
    /// Two blocks must fit on a multiprocessor.
    const MOST: usize = 100 << 10;
    let bytes = rows * (width * DType::F32.bytes() + words * 16);
    match bytes <= MOST {
        true => Ok(bytes),
        false => Err(Unsupported(format!("a tile reads {bytes} bytes, more than {MOST}"))),
    }
}

/// Grid of tiles: those of a row, rows of tiles, planes.
fn tiles(p: &Params, down: usize, across: usize) -> Result<[usize; 3], Unsupported> {
    let planes = p.batch * p.channels;
    match down <= MAX_GRID[1] && planes <= MAX_GRID[2] {
        true => Ok([across, down, planes]),
        false => {
            Err(Unsupported(format!("{planes} planes of {down} rows of tiles exceed CUDA's grids")))
        }
    }
}

/// An axis of a forward resize: pixels of the input and of the output.
struct Axis<'a> {
    p: &'a Params,
    input: usize,
    output: usize,
}

impl Axis<'_> {
    /// The first pixel that output `o` reads, before those beyond the border become the border's: `taps` of upsample.cuh.
    fn base<I: Interpolation>(&self, o: usize) -> i64 {
        let at = position(o, self.p.step(self.input, self.output), self.p.coordinates);
        match I::TAPS {
            4 => at.floor() as i64 - 1,
            _ => (at.max(0.0).floor() as i64).min(self.input as i64 - 1),
        }
    }

    /// First and last pixel that each tile of so many outputs reads.
    fn reach<I: Interpolation>(&self, tile: usize) -> impl Iterator<Item = (i64, i64)> {
        (0..self.output).step_by(tile).map(move |from| {
            let last = self.output.min(from + tile) - 1;
            (self.base::<I>(from), self.base::<I>(last) + I::TAPS as i64 - 1)
        })
    }
}

pub(super) fn staged<I: Interpolation>(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    /// Rows and most columns of a tile, as in the kernel.
    const TILE: [usize; 2] = [64, 128];
    let (p, mut plan, ends) = forward(case, inputs)?;
    let width = tile_width(&p, p.out_w, TILE[1])?;
    let grid = tiles(&p, p.out_h.div_ceil(TILE[0]), p.out_w.div_ceil(width))?;
    let y = Axis { p: &p, input: p.in_h, output: p.out_h };
    let rows = y.reach::<I>(TILE[0]).map(|(first, last)| (last - first + 1) as usize).max();
    let per_word = 16 / p.dtype.bytes() as i64;
    let word = |pixel: i64| pixel.clamp(0, (p.in_w as i64 - 1).max(0)) / per_word;
    let x = Axis { p: &p, input: p.in_w, output: p.out_w };
    let words =
        x.reach::<I>(width).map(|(first, last)| (word(last) - word(first) + 1) as usize).max();
    let [rows, words] = [rows, words].map(Option::unwrap_or_default);
    let shared = tile_bytes(rows, width, words)?;
    let mut args = ends.to_vec();
    args.extend(sizes(&p));
    args.extend(positions(&p));
    args.extend([words, rows].map(Arg::from));
    let symbol = format!("staged_{}_{}", p.dtype.name(), I::TAPS);
    plan.launch("upsample_resize_staged", symbol, grid, [width, 2, 1], shared, &args);
    Ok(plan)
}

pub(super) fn copied(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    /// Rows of a thread, as in the kernel.
    const RUN: usize = 8;
    let (p, mut plan, ends) = forward(case, inputs)?;
    let words = wide_words(&p, p.out_w)?;
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

pub(super) fn doubled<I: Interpolation>(
    case: &Case,
    inputs: &Tensors,
) -> Result<Plan, Unsupported> {
    /// Threads of a block, and input rows of a thread, as in the kernel.
    const THREADS: usize = 128;
    let run = if I::TAPS == 4 { 4 } else { 2 };
    let (p, mut plan, ends) = forward(case, inputs)?;
    if p.coordinates == Coordinates::AlignCorners {
        return Err(Unsupported("aligned corners make another scale of 2".to_owned()));
    }
    for (input, output) in [(p.in_h, p.out_h), (p.in_w, p.out_w)] {
        if output != 2 * input || p.step(input, output) != 0.5 {
            return Err(Unsupported(format!("{input} pixels to {output} is not a scale of 2")));
        }
    }
    let units = p.batch * p.channels * p.in_h.div_ceil(run) * wide_words(&p, p.out_w)?;
    countable(units, "threads")?;
    let mut args = ends.to_vec();
    args.extend([p.batch * p.channels, p.in_h, p.in_w].map(Arg::from));
    let of = if I::TAPS == 1 { p.dtype.bytes().to_string() } else { p.dtype.name().to_string() };
    let (symbol, blocks) = (format!("doubled_{of}_{}", I::TAPS), units.div_ceil(THREADS));
    plan.launch("upsample_resize_doubled", symbol, [blocks, 1, 1], [THREADS, 1, 1], 0, &args);
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

/// The outputs that read each pixel of an axis: neighbours all.
struct Readers {
    /// The first output that reads a pixel, and the weights of it and of those after it.
    of: Vec<(usize, Vec<f64>)>,
}

impl Readers {
    fn new<I: Interpolation>(p: &Params, input: usize, output: usize) -> Self {
        let step = p.step(input, output);
        let mut of: Vec<(usize, Vec<f64>)> = vec![(0, Vec::new()); input];
        for o in 0..output {
            for tap in I::taps(position(o, step, p.coordinates), input) {
                let (first, weights) = &mut of[tap.at];
                if weights.is_empty() {
                    *first = o;
                }
                // Taps that fall together at a border are one reader.
                match weights.len() == o - *first {
                    true => weights.push(tap.weight),
                    false => *weights.last_mut().expect("a reader") += tap.weight,
                }
            }
        }
        Self { of }
    }

    /// As two tables: `ranges` [input, 3] with the first output that reads the pixel, how many do, and where their
    /// weights begin in `weights`.
    fn tables(&self) -> [Tensor; 2] {
        let (mut ranges, mut all) = (Vec::new(), Vec::new());
        for (first, weights) in &self.of {
            ranges.extend([*first, weights.len(), all.len()].map(|n| n as i64));
            all.extend(weights);
        }
        let ranges = Tensor::from_integers(DType::I32, &[self.of.len(), 3], &ranges);
        [ranges, Tensor::from_real(DType::F32, &[all.len()], &all)]
    }

    /// First output, and how many, that the readers of each tile of so many pixels span.
    fn spans(&self, tile: usize) -> Vec<(usize, usize)> {
        let span = |pixels: &[(usize, Vec<f64>)]| {
            let read = pixels.iter().filter(|(_, weights)| !weights.is_empty());
            let first = read.clone().map(|(first, _)| *first).min().unwrap_or(0);
            (first, read.map(|(first, weights)| first + weights.len()).max().unwrap_or(0) - first)
        };
        self.of.chunks(tile).map(span).collect()
    }
}

/// The readers of both axes, y first, and their tables as arguments.
fn both_readers<I: Interpolation>(p: &Params, plan: &mut Plan) -> ([Readers; 2], Vec<Arg>) {
    let readers = [(p.in_h, p.out_h), (p.in_w, p.out_w)].map(|(i, o)| Readers::new::<I>(p, i, o));
    let mut args = Vec::new();
    for (axis, readers) in ["y", "x"].iter().zip(&readers) {
        let [ranges, weights] = readers.tables();
        args.push(plan.table(&format!("{axis}_ranges"), ranges).into());
        args.push(plan.table(&format!("{axis}_weights"), weights).into());
    }
    (readers, args)
}

pub(super) fn gather<I: Interpolation>(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let (p, mut plan, d_output, d_input) = backward(case, inputs)?;
    let (elements, _) = pixels(&p);
    countable(elements, "pixels")?;
    let mut args: Vec<Arg> = vec![d_output.into()];
    args.extend(both_readers::<I>(&p, &mut plan).1);
    args.push(d_input.into());
    args.extend(sizes(&p));
    args.push(Arg::I32(kind_of(p.dtype)));
    let (grid, block) = threads(elements);
    plan.launch("upsample_resize_backward_gather", "resize", grid, block, 0, &args);
    Ok(plan)
}

pub(super) fn staged_backward<I: Interpolation>(
    case: &Case,
    inputs: &Tensors,
) -> Result<Plan, Unsupported> {
    /// Rows and most columns of a tile, as in the kernel.
    const TILE: [usize; 2] = [32, 64];
    let (p, mut plan, d_output, d_input) = backward(case, inputs)?;
    let width = tile_width(&p, p.in_w, TILE[1])?;
    let grid = tiles(&p, p.in_h.div_ceil(TILE[0]), p.in_w.div_ceil(width))?;
    let mut args: Vec<Arg> = vec![d_output.into()];
    let (readers, tables) = both_readers::<I>(&p, &mut plan);
    args.extend(tables);
    let [y_spans, x_spans] = [readers[0].spans(TILE[0]), readers[1].spans(width)];
    for (name, spans) in [("y_tiles", &y_spans), ("x_tiles", &x_spans)] {
        let pairs: Vec<i64> =
            spans.iter().flat_map(|&(first, n)| [first as i64, n as i64]).collect();
        args.push(
            plan.table(name, Tensor::from_integers(DType::I32, &[spans.len(), 2], &pairs)).into(),
        );
    }
    let rows = y_spans.iter().map(|&(_, rows)| rows).max().unwrap_or(0);
    let per_word = 16 / p.dtype.bytes();
    let words = |&(first, n): &(usize, usize)| (first + n).div_ceil(per_word) - first / per_word;
    let words = x_spans.iter().map(words).max().unwrap_or(0);
    let shared = tile_bytes(rows, width, words)?;
    args.push(d_input.into());
    args.extend(sizes(&p));
    args.extend([words, rows].map(Arg::from));
    let symbol = format!("staged_{}", p.dtype.name());
    plan.launch("upsample_resize_backward_staged", symbol, grid, [width, 4, 1], shared, &args);
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
