//! Plans of `upsample.transposed_conv` on tensor cores.

use touchstone_reference::{Case, DType, Tensors, upsample::transposed_conv::Params};

use super::{TILE, sizes};
use crate::{
    plan::{Arg, MAX_GRID, Plan},
    upsample::{countable, kind_of, threads},
    variant::Unsupported,
};

/// A module for bf16 and its twin for f16.
pub(super) type Twins = [&'static str; 2];

pub(super) const TENSOR_CORE: Twins =
    ["upsample_transposed_conv_tensor_core", "upsample_transposed_conv_tensor_core.f16"];
pub(super) const WARPGROUP: Twins =
    ["upsample_transposed_conv_warpgroup", "upsample_transposed_conv_warpgroup.f16"];
/// Places and output channels of a block of `tensor_core`, channels of its steps, as in the kernel.
pub(super) const PLACES: usize = 256;
pub(super) const OUTS: usize = 64;
pub(super) const DEPTH: usize = 64;
/// Its stages, of two taps' weights of two phases and the pixels they read, and its staged results.
pub(super) const SHARED_BYTES: usize =
    2 * (4 * OUTS + PLACES + 8) * DEPTH * 2 + 2 * OUTS * (PLACES + 8) * 2;
/// Blocks of its persistent grid: one a multiprocessor of an H100 or H200. On another number they share or idle.
pub(super) const PERSISTENT_BLOCKS: usize = 132;

/// Pixels on one line, with zeros behind rows and images: every tap is then one distance along the line.
pub(super) struct Line {
    /// Places from row to row, rows from image to image, places in all.
    pub(super) pitch: usize,
    pub(super) rows: usize,
    pub(super) length: usize,
    /// Places up to the last that holds results.
    pub(super) used: usize,
    /// Input and output channels, rounded up.
    pub(super) channels: usize,
    pub(super) outs: usize,
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

    /// Tiles of places, and blocks that take these times all phases and channels in turn.
    pub(super) fn tiles(&self, stride: usize) -> Result<(usize, usize), Unsupported> {
        let tiles = self.used.div_ceil(PLACES);
        let parts = match stride {
            1 => self.outs.div_ceil(2 * OUTS),
            s => s * s.div_ceil(2) * (self.outs / OUTS),
        };
        countable((self.length + PLACES) * self.channels.max(1), "pixels and zeros between them")?;
        countable(tiles * parts + PERSISTENT_BLOCKS, "tiles")?;
        if self.channels / TILE >= MAX_GRID[1] {
            return Err(Unsupported(format!("{} channels exceed a grid", self.channels)));
        }
        Ok((tiles, PERSISTENT_BLOCKS.min(tiles * parts)))
    }
}

pub(in crate::upsample) fn tensor_core(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    products(case, inputs, TENSOR_CORE)
}

pub(in crate::upsample) fn warpgroup(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    products(case, inputs, WARPGROUP)
}

/// Which of the twins a type takes.
pub(super) fn twin(dtype: DType) -> Result<usize, Unsupported> {
    match dtype {
        DType::Bf16 => Ok(0),
        DType::F16 => Ok(1),
        other => Err(Unsupported(format!("products of {other:?} need more than 16 bits"))),
    }
}

/// Pixels and weights in the products' order, then the products, by one of the kernels.
fn products(case: &Case, inputs: &Tensors, kernels: Twins) -> Result<Plan, Unsupported> {
    let p: Params = case.params()?;
    let (module, kernel) = twin(p.dtype).map(|twin| (TENSOR_CORE[twin], kernels[twin]))?;
    sizes(&p)?;
    let line = Line::of(&p);
    let (tiles, blocks) = line.tiles(p.stride)?;
    let weights = p.kernel * p.kernel * line.outs;
    countable((weights * line.channels).max(line.outs) + TILE, "rounded weights")?;

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
    let grid = [blocks, 1, 1];
    let args = with_sizes(&[pixels, arranged, biases, output]);
    plan.launch(kernel, "forward", grid, block, SHARED_BYTES, &args);
    Ok(plan)
}
