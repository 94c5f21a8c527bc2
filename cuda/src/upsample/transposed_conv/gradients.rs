//! Plans of `upsample.transposed_conv_backward` on tensor cores.

use touchstone_reference::{Case, DType, Tensors, upsample::transposed_conv::Params};

use super::{
    TILE, gradients,
    products::{DEPTH, Line, OUTS, SHARED_BYTES, TENSOR_CORE, Twins, WARPGROUP, twin},
};
use crate::{
    plan::{Arg, MAX_GRID, Plan},
    upsample::{countable, kind_of, threads},
    variant::Unsupported,
};

const BACKWARD: Twins = [
    "upsample_transposed_conv_backward_tensor_core",
    "upsample_transposed_conv_backward_tensor_core.f16",
];
/// Threads of a block.
const BLOCK: [usize; 3] = [256, 1, 1];

/// The line of d_output with its phases side by side as channels, and of the input beside it.
struct GradientLine<'a> {
    p: &'a Params,
    line: Line,
    /// Rows and columns of the patch between places.
    taps: usize,
    /// Channels of a phase and of the input, multiples of 8.
    outs: usize,
    ins: usize,
    /// Tiles of d_input's places, and blocks that take them in turn.
    tiles: usize,
    blocks: usize,
}

impl<'a> GradientLine<'a> {
    fn of(p: &'a Params) -> Result<Self, Unsupported> {
        let taps = p.kernel.div_ceil(p.stride);
        let (pitch, rows) = (p.width + taps - 1, p.height + taps - 1);
        let (outs, ins) = (p.out_channels.next_multiple_of(8), p.in_channels.next_multiple_of(8));
        let (length, used) = match p.batch * p.height * p.width {
            0 => (0, 0),
            _ => (p.batch * rows * pitch, ((p.batch - 1) * rows + p.height - 1) * pitch + p.width),
        };
        let channels = (p.stride * p.stride * outs).next_multiple_of(DEPTH);
        let line = Line {
            pitch,
            rows,
            length,
            used,
            channels,
            outs: p.in_channels.next_multiple_of(OUTS),
        };
        let (tiles, blocks) = line.tiles(1)?;
        countable(line.length * ins, "pixels and zeros between them")?;
        countable(taps * taps * line.outs * channels + TILE, "rounded weights")?;
        countable(taps * taps * p.in_channels * channels + TILE, "sums of a share")?;
        if p.stride * p.stride > MAX_GRID[2] || ins / TILE >= MAX_GRID[1] {
            return Err(Unsupported(format!("{ins} channels exceed a grid")));
        }
        Ok(Self { p, line, taps, outs, ins, tiles, blocks })
    }

    /// Rows of the line, a block each.
    fn spread(&self) -> usize {
        if self.line.length == 0 { 0 } else { self.p.batch * self.line.rows }
    }

    /// Sizes as the kernels of gradients take them.
    fn sizes(&self) -> Vec<Arg> {
        let (p, line) = (self.p, &self.line);
        let [batch, out, out_h, out_w] = p.output();
        let sizes = [batch, p.in_channels, out, p.height, p.width, out_h, out_w]
            .into_iter()
            .chain([p.kernel, p.stride, p.padding, line.pitch, line.rows, line.length])
            .chain([self.taps, self.outs, line.channels, self.ins]);
        sizes.map(Arg::from).collect()
    }

    /// Sizes as the forward kernels take them: a layer of stride 1 from `channels` to the input's, `rows` of weights.
    fn layer(&self, channels: usize, rows: usize) -> Vec<Arg> {
        let (p, line) = (self.p, &self.line);
        let layer = [p.batch, p.in_channels, p.height, p.width, p.height, p.width];
        let patch = [self.taps, 1, self.taps - 1];
        let of_line = [line.pitch, line.rows, channels, rows, line.length, self.tiles];
        layer.into_iter().chain(patch).chain(of_line).map(Arg::from).collect()
    }

    /// Launches what computes d_input of the `gradients`, which it arranges: a transposed convolution of stride 1 with
    /// the last tap first.
    fn d_input(&self, plan: &mut Plan, [module, kernel]: [&'static str; 2], gradients: Arg) {
        let (p, line) = (self.p, &self.line);
        let [d_output, weight, d_input]: [Arg; 3] =
            ["d_output", "weight", "d_input"].map(|name| plan.buffer_named(name).into());
        let rows = self.taps * self.taps * line.outs;
        let weights: Arg = plan.scratch("weights", p.dtype, &[rows, line.channels]).into();
        let biases: Arg = plan.scratch("biases", DType::F32, &[line.outs]).into();
        let args = [&[d_output, gradients], &self.sizes()[..]].concat();
        let grid = [self.spread(), (self.outs + DEPTH).div_ceil(TILE), p.stride * p.stride];
        plan.launch(module, "arrange_gradients", grid, BLOCK, 0, &args);
        let args = [&[weight, line.outs.into(), weights, biases], &self.sizes()[..]].concat();
        let (grid, _) = threads((line.outs * line.channels).max(line.outs));
        plan.launch(module, "arrange_weights", grid, BLOCK, 0, &args);
        let layer = self.layer(line.channels, line.outs);
        let args = [&[gradients, weights, biases, d_input], &layer[..]].concat();
        plan.launch(kernel, "forward", [self.blocks, 1, 1], BLOCK, SHARED_BYTES, &args);
    }

    /// Launches what computes d_weight of the arranged `gradients`, and d_bias with it.
    fn d_weight(
        &self,
        plan: &mut Plan,
        [forward, module]: [&'static str; 2],
        gradients: Arg,
    ) -> Result<(), Unsupported> {
        /// Channels of a tile, places of its steps, its stages, as in the kernel.
        const TILE_CHANNELS: usize = 128;
        const STEP: usize = 32;
        const SHARED: usize = 4 * (2 * STEP + 2) * TILE_CHANNELS * 2;
        /// Blocks that fill the device once.
        const RESIDENT: usize = 132;
        let (p, line) = (self.p, &self.line);
        let across = line.channels.div_ceil(TILE_CHANNELS);
        let down = p.in_channels.div_ceil(TILE_CHANNELS);
        let tiles = self.taps * self.taps.div_ceil(2) * across * down;
        if tiles > MAX_GRID[1] {
            return Err(Unsupported(format!("{tiles} tiles exceed a grid")));
        }
        // Shares of the places, of at least eight steps.
        let steps = line.length.div_ceil(STEP);
        let most = (RESIDENT / tiles.max(1)).min(steps / 8).max(1);
        let each = steps.div_ceil(most);
        let shares = if steps == 0 { 0 } else { steps.div_ceil(each) };
        let [d_output, input, d_weight, d_bias]: [Arg; 4] =
            ["d_output", "input", "d_weight", "d_bias"].map(|name| plan.buffer_named(name).into());
        let parts = self.taps * self.taps * p.in_channels * line.channels;
        let pixels: Arg = plan.scratch("pixels", p.dtype, &[line.length, self.ins]).into();
        let sums: Arg = plan.scratch("parts", DType::F32, &[shares, parts]).into();
        let planes: Arg = plan.scratch("planes", DType::F32, &[p.out_channels, p.batch]).into();

        let layer = self.layer(self.ins, self.ins);
        let args = [&[input, p.in_channels.into(), pixels], &layer[..]].concat();
        let grid = [self.spread(), self.ins.div_ceil(TILE), 1];
        plan.launch(forward, "arrange_pixels", grid, BLOCK, 0, &args);
        let args = [&[pixels, gradients, sums, each.into()], &self.sizes()[..]].concat();
        plan.launch(module, "d_weight", [shares, tiles, 1], BLOCK, SHARED, &args);
        let [batch, out, out_h, out_w] = p.output();
        let (plane, kind) = (out_h * out_w, Arg::I32(kind_of(p.dtype)));
        let args = [d_output, planes, batch.into(), out.into(), plane.into(), kind];
        plan.launch(module, "sum_planes", [batch * out, 1, 1], BLOCK, 0, &args);
        let args = [&[sums, shares.into(), planes, d_weight, d_bias], &self.sizes()[..]].concat();
        plan.launch(module, "sum_parts", threads(parts.max(out)).0, BLOCK, 0, &args);
        Ok(())
    }
}

/// The gradients as products; that of the input by one of the forward kernels.
fn products(case: &Case, inputs: &Tensors, kernels: Twins) -> Result<Plan, Unsupported> {
    let p: Params = case.params()?;
    let twin = twin(p.dtype)?;
    let [forward, module, kernel] = [TENSOR_CORE, BACKWARD, kernels].map(|twins| twins[twin]);
    let of = GradientLine::of(&p)?;
    let (mut plan, _) = gradients(&p, inputs)?;
    let shape = [of.line.length, of.line.channels];
    let arranged: Arg = plan.scratch("gradients", p.dtype, &shape).into();
    of.d_input(&mut plan, [module, kernel], arranged);
    of.d_weight(&mut plan, [forward, module], arranged)?;
    Ok(plan)
}

pub(in crate::upsample) fn tensor_core_backward(
    case: &Case,
    inputs: &Tensors,
) -> Result<Plan, Unsupported> {
    products(case, inputs, TENSOR_CORE)
}

pub(in crate::upsample) fn warpgroup_backward(
    case: &Case,
    inputs: &Tensors,
) -> Result<Plan, Unsupported> {
    products(case, inputs, WARPGROUP)
}
