//! Plans of `upsample.pixel_shuffle` and its inverse.

use touchstone_reference::{Case, Tensors, upsample::shuffle::Params};

use super::{countable, lanes, threads};
use crate::{
    plan::{Arg, Plan},
    variant::Unsupported,
};

/// Which way the pixels go.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Forward,
    Backward,
}

impl Way {
    fn symbol(self) -> &'static str {
        match self {
            Self::Forward => "shuffle",
            Self::Backward => "unshuffle",
        }
    }
}

fn start(case: &Case, inputs: &Tensors, way: Way) -> Result<(Params, Plan, [Arg; 2]), Unsupported> {
    let p: Params = case.params()?;
    let mut plan = Plan::new();
    let ends = match way {
        Way::Forward => [plan.input(inputs, "input"), plan.output("output", p.dtype, &p.large())],
        Way::Backward => {
            [plan.input(inputs, "d_output"), plan.output("d_input", p.dtype, &p.small())]
        }
    };
    Ok((p, plan, ends.map(Arg::from)))
}

fn simple(case: &Case, inputs: &Tensors, way: Way) -> Result<Plan, Unsupported> {
    let (p, mut plan, ends) = start(case, inputs, way)?;
    let pixels = p.large().iter().product();
    countable(pixels, "pixels")?;
    let sizes = [p.batch * p.channels, p.height, p.width, p.factor];
    let args = [&ends[..], &sizes.map(Arg::from)].concat();
    let (grid, block) = threads(pixels);
    let symbol = format!("{}_{}", way.symbol(), p.dtype.bytes());
    plan.launch("upsample_shuffle_naive", symbol, grid, block, 0, &args);
    Ok(plan)
}

fn wide(case: &Case, inputs: &Tensors, way: Way) -> Result<Plan, Unsupported> {
    /// Large rows of a thread, as in the kernel.
    const ROWS: usize = 1;
    let (p, mut plan, ends) = start(case, inputs, way)?;
    if ![2, 4].contains(&p.factor) {
        return Err(Unsupported(format!("a factor of {}, not 2 or 4", p.factor)));
    }
    let [images, channels, large_h, large_w] = p.large();
    let row = large_w * p.dtype.bytes();
    if !row.is_multiple_of(16) {
        return Err(Unsupported(format!("a row of {row} bytes is not whole 16-byte words")));
    }
    let (rows, words) = (images * channels * large_h, row / 16);
    countable(rows + 1024, "rows")?;
    countable(p.height * words, "words of a plane")?;
    let lanes = lanes(words);
    let args = [&ends[..], &[rows, p.height, words].map(Arg::from), &[Arg::I32(lanes as i32)]];
    let blocks = if words == 0 { 0 } else { rows.div_ceil(256 / lanes * ROWS) };
    let symbol = format!("{}_r{}_{}", way.symbol(), p.factor, p.dtype.bytes());
    let module = "upsample_shuffle_vectorized";
    plan.launch(module, symbol, [blocks, 1, 1], [256, 1, 1], 0, &args.concat());
    Ok(plan)
}

pub(super) fn naive(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    simple(case, inputs, Way::Forward)
}

pub(super) fn naive_backward(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    simple(case, inputs, Way::Backward)
}

pub(super) fn vectorized(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    wide(case, inputs, Way::Forward)
}

pub(super) fn vectorized_backward(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    wide(case, inputs, Way::Backward)
}
