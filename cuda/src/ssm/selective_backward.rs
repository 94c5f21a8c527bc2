//! Plans of the selective scan's gradients.

use touchstone_reference::{Case, DType, Tensors, ssm::selective::Params};

use super::{
    THREADS, blocks,
    selective::{
        Inputs, prepared_bytes, prepared_sizes, sizes, staged_blocks, staged_bytes, within_prepared,
    },
    sum, within,
};
use crate::{
    plan::{Arg, BufferId, Plan},
    variant::Unsupported,
};

/// What all variants have: buffers, and the sums that follow the kernel.
struct Backward {
    params: Params,
    plan: Plan,
    inputs: Inputs,
    dy: BufferId,
    du: BufferId,
    ddelta: BufferId,
    dz: Option<BufferId>,
    /// Shares of dB and dC: a sequence and group, by share, state and time.
    parts_b: BufferId,
    parts_c: BufferId,
    /// Shares of dA, dD and ddelta_bias, by sequence.
    parts_a: BufferId,
    parts_d: BufferId,
    parts_bias: BufferId,
    /// Shares of dB and dC that a group has.
    shares: usize,
}

impl Backward {
    fn new(params: Params, tensors: &Tensors, shares: usize) -> Self {
        let mut plan = Plan::new();
        let inputs = Inputs::new(&mut plan, tensors);
        let dy = plan.input(tensors, "dy");
        let &Params { batch, channels, seq_len, state, groups, dtype, .. } = &params;
        let mut rows = |name| plan.output(name, dtype, &params.activation_shape());
        let (du, ddelta, dz) = (rows("du"), rows("ddelta"), params.gate.then(|| rows("dz")));
        let mut scratch = |name, shape: &[usize]| plan.scratch(name, DType::F32, shape);
        let shape = [batch * groups, shares, state, seq_len];
        let (parts_b, parts_c) = (scratch("parts_B", &shape), scratch("parts_C", &shape));
        let parts_a = scratch("parts_A", &[batch, channels, state]);
        let parts_d = scratch("parts_D", &[batch, channels]);
        let parts_bias = scratch("parts_bias", &[batch, channels]);
        Self {
            params,
            plan,
            inputs,
            dy,
            du,
            ddelta,
            dz,
            parts_b,
            parts_c,
            parts_a,
            parts_d,
            parts_bias,
            shares,
        }
    }

    /// Arguments but the sizes of a kernel that computes the gradients by row and the shares; `scratch` ends
    /// them.
    fn args(&self, scratch: BufferId) -> Vec<Arg> {
        let mut args = self.inputs.args();
        args.extend([Arg::from(self.dy), self.du.into(), self.ddelta.into(), self.dz.into()]);
        let parts = [self.parts_b, self.parts_c, self.parts_a, self.parts_d, self.parts_bias];
        args.extend(parts.map(Arg::from));
        args.push(scratch.into());
        args
    }

    /// Adds the shares up.
    fn finish(mut self) -> Result<Plan, Unsupported> {
        let &Params { batch, channels, seq_len, state, groups, .. } = &self.params;
        let sizes = [batch * groups, self.shares, state * seq_len];
        for (name, parts) in [("dB", self.parts_b), ("dC", self.parts_c)] {
            let out = self.plan.output(name, DType::F32, &self.params.projection_shape());
            sum(&mut self.plan, parts.into(), out.into(), sizes)?;
        }
        let out = self.plan.output("dA", DType::F32, &[channels, state]);
        sum(&mut self.plan, self.parts_a.into(), out.into(), [1, batch, channels * state])?;
        let of_channels = [
            ("dD", self.parts_d, self.params.skip),
            ("ddelta_bias", self.parts_bias, self.params.bias),
        ];
        for (name, parts, _) in of_channels.into_iter().filter(|(.., wanted)| *wanted) {
            let out = self.plan.output(name, DType::F32, &[channels]);
            sum(&mut self.plan, parts.into(), out.into(), [1, batch, channels])?;
        }
        Ok(self.plan)
    }
}

/// Plan of `sequential`: a share of dB and dC for every channel.
pub(super) fn sequential(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let params: Params = case.params()?;
    let (rows, state) = (params.batch * params.channels, params.state);
    let symbol = format!("backward_{}", params.dtype.name());
    let in_group = params.channels / params.groups;
    let mut backward = Backward::new(params, inputs, in_group);
    let carried = backward.plan.scratch("carried", DType::F32, &[rows, state]);
    let mut args = backward.args(carried);
    args.extend(sizes(&backward.params));
    let grid = blocks(rows.div_ceil(THREADS))?;
    const MODULE: &str = "ssm_selective_backward_sequential";
    backward.plan.launch(MODULE, symbol, grid, [THREADS, 1, 1], 0, &args);
    backward.finish()
}

/// Plan of `checkpoint`: a share of dB and dC for every 32 channels.
pub(super) fn checkpoint(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    const MODULE: &str = "ssm_selective_backward_checkpoint";
    const LANES: usize = 4;
    let params: Params = case.params()?;
    within(params.state, params.dtype, 16, &[DType::F32, DType::Bf16])?;
    let grid = blocks(staged_blocks(&params, LANES))?;
    let bytes = staged_bytes(&params, LANES);
    let rows = params.batch * params.channels;
    let shape = [rows, params.seq_len.div_ceil(8), 16];
    let name = params.dtype.name();
    let tiles = (params.channels / params.groups).div_ceil(THREADS / LANES);
    let mut backward = Backward::new(params, inputs, tiles);
    let checkpoints = backward.plan.scratch("checkpoints", DType::F32, &shape);

    let mut args = backward.inputs.state_args();
    args.push(checkpoints.into());
    args.extend(sizes(&backward.params));
    let symbol = format!("checkpoint_{name}");
    backward.plan.launch(MODULE, symbol, grid, [THREADS, 1, 1], bytes, &args);

    // Beside the staged tiles: the shares of 4 warps by 8 steps, and their sums by 32 steps, padded.
    let bytes = bytes + (4 * 8 * 32 + 32 * 33) * 4;
    let mut args = backward.args(checkpoints);
    args.extend(sizes(&backward.params));
    let symbol = format!("gradients_{name}");
    backward.plan.launch(MODULE, symbol, grid, [THREADS, 1, 1], bytes, &args);
    backward.finish()
}

/// Plan of `paired`: a share of dB and dC for every 64 channels.
pub(super) fn paired(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    const MODULE: &str = "ssm_selective_backward_paired";
    const CHANNELS: usize = 64;
    let params: Params = case.params()?;
    within_prepared(&params)?;
    let rows = params.batch * params.channels;
    let kept = [rows, params.seq_len.div_ceil(8), 16];
    let tiles = (params.channels / params.groups).div_ceil(CHANNELS);
    let mut backward = Backward::new(params, inputs, tiles);
    let checkpoints = backward.plan.scratch("checkpoints", DType::F32, &kept);

    let mut args = backward.inputs.state_args();
    args.push(checkpoints.into());
    args.extend(prepared_sizes(&backward.params));
    let grid = blocks(staged_blocks(&backward.params, 4))?;
    let bytes = prepared_bytes(false);
    backward.plan.launch(MODULE, "checkpoint", grid, [THREADS, 1, 1], bytes, &args);

    let mut args = backward.args(checkpoints);
    args.extend(prepared_sizes(&backward.params));
    let grid = blocks(staged_blocks(&backward.params, THREADS / CHANNELS))?;
    // Tiles of 16 steps at a pitch of 20: four that are staged twice and four of f32; B and C; shares of 4
    // warps at a pitch of 33; two states that eight steps begin from; bias and skip; shares of dD and
    // ddelta_bias.
    let tiles = (2 * 4 + 4) * CHANNELS * 20 * 4 + 2 * 16 * 16 * 4;
    let bytes = tiles + 4 * 16 * 33 * 4 + 2 * CHANNELS * 16 * 4 + CHANNELS * 8 + 2 * THREADS * 8;
    backward.plan.launch(MODULE, "gradients", grid, [THREADS, 1, 1], bytes, &args);
    backward.finish()
}
