//! Planted faults: `cuda/kernels/planted_faults.cu` through the very harness that judges our kernels. The sound
//! control must pass, every other must be caught: by agreement, or by what a NaN among the inputs becomes.

use libtest_mimic::Failed;
use touchstone_bench::{
    Problem, nan,
    verify::{self, Verdict},
};
use touchstone_cuda::{Arg, Executor, Plan, Unsupported, Variant};
use touchstone_reference::{Case, DType, Tensors};

const HEAD_DIM: usize = 16;
const SEQ_LEN: usize = 67;
const HEADS: usize = 3;
const BATCH: usize = 2;

macro_rules! planted {
    ($name:literal) => {
        Variant {
            op: "attention.forward",
            name: $name,
            idea: "planted by the harness's own tests",
            deterministic: true,
            plan: |_, inputs| plan(concat!("planted_", $name), inputs),
        }
    };
}

/// The control and the faults.
pub static VARIANTS: &[Variant] = &[
    planted!("sound"),
    planted!("nan_output"),
    planted!("no_op"),
    planted!("stale_output"),
    planted!("out_of_bounds_write"),
    planted!("skipped_tail"),
    planted!("f16_accumulation"),
    planted!("off_by_one_mask"),
    planted!("hides_nan"),
];

fn plan(symbol: &str, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let mut plan = Plan::new();
    let [q, k, v] = ["q", "k", "v"].map(|name| plan.input(inputs, name));
    let o = plan.output("o", DType::F32, &[BATCH, SEQ_LEN, HEADS, HEAD_DIM]);
    let lse = plan.output("lse", DType::F32, &[BATCH, HEADS, SEQ_LEN]);
    let mut args: Vec<Arg> = vec![q.into(), k.into(), v.into(), o.into(), lse.into()];
    args.extend([BATCH, SEQ_LEN, HEADS, HEAD_DIM].map(Arg::from));
    args.push(Arg::F32(1.0 / (HEAD_DIM as f32).sqrt()));
    let blocks = (BATCH * SEQ_LEN * HEADS).div_ceil(64);
    plan.launch("planted_faults", symbol, [blocks, 1, 1], [64, 1, 1], 0, &args);
    Ok(plan)
}

/// Whether the harness lets the control pass and catches the fault.
pub fn is_judged_rightly(variant: &Variant, executor: &impl Executor) -> Result<(), Failed> {
    let case: Case = format!(
        "attention.forward:batch={BATCH},seq_q={SEQ_LEN},seq_k={SEQ_LEN},heads_q={HEADS},\
         heads_kv={HEADS},head_dim={HEAD_DIM},mask=causal,dtype=f32,seed=5"
    )
    .parse()?;
    let problem = Problem::new(&case)?;
    let plan = verify::plan(variant, &problem)?;
    let prepared = verify::prepare(executor, &plan)??;
    let complaint = match verify::verify(&prepared, &problem, true)? {
        Verdict::Right(_) => {
            let questions = nan::questions(&problem, 0.5)?;
            nan::hidden(executor, &questions, |asked| verify::plan(variant, asked))?
        }
        Verdict::Wrong(_, complaint) => Some(complaint),
    };
    match (variant.name, complaint) {
        ("sound", None) => Ok(()),
        ("sound", Some(complaint)) => Err(format!("the control is refused: {complaint}").into()),
        (name, Some(complaint)) => {
            println!("{name}: caught: {complaint}");
            Ok(())
        }
        (name, None) => Err(format!("{name} was not caught").into()),
    }
}
