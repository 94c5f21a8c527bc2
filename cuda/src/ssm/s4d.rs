//! Plans of S4D: as a scan, and as a convolution by FFT.

use touchstone_reference::{Case, DType, Tensor, Tensors, ssm::s4d::Params};

use super::{blocks, within};
use crate::{
    plan::{Arg, BufferId, Plan},
    variant::Unsupported,
};

struct Buffers {
    plan: Plan,
    u: BufferId,
    lambda: BufferId,
    w: BufferId,
    d: BufferId,
    y: BufferId,
}

fn buffers(params: &Params, inputs: &Tensors) -> Buffers {
    let mut plan = Plan::new();
    let [u, lambda, w, d] = ["u", "lambda", "w", "D"].map(|name| plan.input(inputs, name));
    let y = plan.output("y", DType::F32, &params.shape());
    Buffers { plan, u, lambda, w, d, y }
}

/// One warp a channel of a sequence.
pub(super) fn scan(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let params: Params = case.params()?;
    within(params.state, DType::F32, 64, &[DType::F32])?;
    let Buffers { mut plan, u, lambda, w, d, y } = buffers(&params, inputs);
    let &Params { batch, channels, seq_len, state } = &params;
    let given = [u, lambda, w, d, y].map(Arg::from);
    let sizes = [batch, channels, seq_len, state].map(Arg::from);
    let args: Vec<Arg> = given.into_iter().chain(sizes).collect();
    let grid = blocks((batch * channels).div_ceil(4))?;
    plan.launch("ssm_s4d_scan", "scan", grid, [128, 1, 1], 0, &args);
    Ok(plan)
}

/// exp(−2πik/points) for k < points/2.
fn twiddles(points: usize) -> Tensor {
    let angle = |k: usize| -std::f64::consts::TAU * k as f64 / points as f64;
    let parts: Vec<f64> = (0..points / 2).flat_map(|k| [angle(k).cos(), angle(k).sin()]).collect();
    Tensor::from_real(DType::F32, &[points / 2, 2], &parts)
}

/// The kernel's transform, then two sequences of a channel a block.
pub(super) fn fft(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    const MODULE: &str = "ssm_s4d_fft";
    const LONGEST: usize = 8192;
    let params: Params = case.params()?;
    let &Params { batch, channels, seq_len, state } = &params;
    if seq_len > LONGEST {
        return Err(Unsupported(format!("{seq_len} steps are more than {LONGEST}")));
    }
    let Buffers { mut plan, u, lambda, w, d, y } = buffers(&params, inputs);
    let points = (2 * seq_len).next_power_of_two().max(2);
    let table = plan.table("twiddles", twiddles(points));
    let spectrum = plan.scratch("spectrum", DType::F32, &[channels, points, 2]);
    let (bytes, count) = (points * 8, Arg::from(points as i32));
    let block = [(points / 8).clamp(32, 1024), 1, 1];

    let mut args: Vec<Arg> = [lambda, w, table, spectrum].map(Arg::from).into();
    args.extend([channels, seq_len, state].map(Arg::from));
    args.push(count);
    plan.launch(MODULE, "spectrum", blocks(channels)?, block, bytes, &args);

    let mut args: Vec<Arg> = [u, spectrum, table, d, y].map(Arg::from).into();
    args.extend([batch, channels, seq_len].map(Arg::from));
    args.push(count);
    let grid = blocks(channels * batch.div_ceil(2))?;
    plan.launch(MODULE, "convolve", grid, block, bytes, &args);
    Ok(plan)
}
