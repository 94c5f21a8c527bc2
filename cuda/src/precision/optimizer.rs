//! Plans of `precision.adamw` and `precision.sgd`.

use touchstone_reference::{
    Case, DType, Tensor, Tensors,
    precision::{adamw, sgd},
};

use super::{kind_of, threads};
use crate::{
    plan::{Arg, Plan},
    variant::Unsupported,
};

/// An optimizer's step before its launches: the arguments all kernels begin with, and its own.
struct Step {
    plan: Plan,
    symbol: &'static str,
    model: Vec<Arg>,
    own: Vec<Arg>,
    /// First parameter of each tensor, and one past the last.
    offsets: Vec<usize>,
}

impl Step {
    /// `states` are names of the state's inputs; outputs are `next_` those. `constants` follow them.
    fn new(
        symbol: &'static str,
        inputs: &Tensors,
        dtype: DType,
        states: &[&str],
        constants: Vec<Arg>,
    ) -> Self {
        let mut plan = Plan::new();
        let total = inputs.tensor("master").len();
        let mut model: Vec<Arg> = ["master", "gradients", "decay", "inverse_scale", "skip"]
            .map(|name| plan.input(inputs, name).into())
            .to_vec();
        let mut own: Vec<Arg> = states.iter().map(|name| plan.input(inputs, name).into()).collect();
        plan.input(inputs, "offsets");
        model.push(plan.output("next_master", DType::F32, &[total]).into());
        for name in states {
            own.push(plan.output(&format!("next_{name}"), DType::F32, &[total]).into());
        }
        let weights = (dtype != DType::F32).then(|| plan.output("weights", dtype, &[total]));
        model.extend([weights.into(), Arg::I32(kind_of(dtype))]);
        own.extend(constants);
        let offsets = inputs.tensor("offsets").to_i64().into_iter().map(|at| at as usize);
        Self { plan, symbol, model, own, offsets: offsets.collect() }
    }

    fn naive(mut self) -> Plan {
        for (tensor, ends) in self.offsets.windows(2).enumerate() {
            let (begin, count) = (ends[0], ends[1] - ends[0]);
            let which: [Arg; 3] = [tensor.into(), begin.into(), count.into()];
            let args = [&self.model[..], &which, &self.own].concat();
            let (grid, block) = threads(count);
            self.plan.launch("precision_optimizer_naive", self.symbol, grid, block, 0, &args);
        }
        self.plan
    }

    fn fused(mut self) -> Plan {
        /// Parameters of a chunk at most: a word of each of a block's threads. Of longer chunks the last to run leave a
        /// tail: with 2, 4 and 16 words 3950, 3886 and 3747 GB/s instead of 4000 (67 million parameters on an H200).
        const CHUNK: usize = 4 * 256;
        let mut chunks = Vec::new();
        for (tensor, ends) in self.offsets.windows(2).enumerate() {
            // Cut where words begin, not so many parameters from the tensor's first: else a block has a word too many.
            let mut begin = ends[0];
            while begin < ends[1] {
                let end = ends[1].min((begin / CHUNK + 1) * CHUNK);
                chunks.extend([tensor, begin, end].map(|x| x as i64));
                begin = end;
            }
        }
        let count = chunks.len() / 3;
        let table = Tensor::from_integers(DType::I64, &[count, 3], &chunks);
        let table: Arg = self.plan.table("chunks", table).into();
        let args = [&self.model[..], &[table], &self.own].concat();
        let grid = [count, 1, 1];
        let module = "precision_optimizer_fused";
        self.plan.launch(module, self.symbol, grid, [256, 1, 1], 0, &args);
        self.plan
    }
}

fn adamw(case: &Case, inputs: &Tensors) -> Result<Step, Unsupported> {
    let p: adamw::Params = case.params()?;
    let c = p.constants();
    let constants = [c.lr, c.beta1, c.rest1, c.beta2, c.rest2, c.eps, c.rate, c.correction];
    let constants = constants.map(Arg::F32).to_vec();
    Ok(Step::new("adamw", inputs, p.dtype, &["m", "v"], constants))
}

fn sgd(case: &Case, inputs: &Tensors) -> Result<Step, Unsupported> {
    let p: sgd::Params = case.params()?;
    let constants =
        vec![Arg::F32(p.lr as f32), Arg::F32(p.momentum as f32), Arg::I32(p.nesterov.into())];
    Ok(Step::new("sgd", inputs, p.dtype, &["momentum"], constants))
}

pub(super) fn adamw_naive(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    adamw(case, inputs).map(Step::naive)
}

pub(super) fn adamw_fused(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    adamw(case, inputs).map(Step::fused)
}

pub(super) fn sgd_naive(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    sgd(case, inputs).map(Step::naive)
}

pub(super) fn sgd_fused(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    sgd(case, inputs).map(Step::fused)
}
