//! Plans of `decoding.medusa`.

use touchstone_reference::{Case, DType, Tensors, decoding::medusa::Params};

use super::{THREADS, Tiled, tiled};
use crate::{
    plan::{Arg, BufferId, Plan, blocks, kind_of},
    variant::Unsupported,
};

/// Inputs and outputs.
struct Buffers {
    x: BufferId,
    w: BufferId,
    b: BufferId,
    lm: BufferId,
    logits: BufferId,
}

impl Buffers {
    fn new(plan: &mut Plan, p: &Params, inputs: &Tensors) -> Self {
        let [x, w, b, lm] = ["x", "w", "b", "lm"].map(|name| plan.input(inputs, name));
        Self { x, w, b, lm, logits: plan.output("logits", p.dtype, &p.logits()) }
    }
}

/// The best tokens of each row, where they are asked for.
fn top_k(plan: &mut Plan, p: &Params, logits: BufferId) -> Result<(), Unsupported> {
    if p.top_k > 0 {
        let candidates = plan.output("candidates", DType::I32, &p.candidates());
        let args = [
            logits.into(),
            candidates.into(),
            kind_of(p.dtype).into(),
            p.vocab.into(),
            p.top_k.into(),
        ];
        let grid = blocks(p.heads * p.tokens)?;
        plan.launch("decoding_medusa_naive", "top_k", grid, [1024, 1, 1], 0, &args);
    }
    Ok(())
}

/// A thread an output.
pub(super) fn naive(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    const MODULE: &str = "decoding_medusa_naive";
    let p: Params = case.params()?;
    let mut plan = Plan::new();
    let at = Buffers::new(&mut plan, &p, inputs);
    let r = plan.scratch("r", DType::F32, &[p.heads, p.tokens, p.hidden]);
    let kind = Arg::from(kind_of(p.dtype));
    let mut args = vec![at.x.into(), at.w.into(), at.b.into(), r.into(), kind];
    args.extend([p.tokens, p.hidden, p.heads].map(Arg::from));
    let grid = blocks((p.heads * p.tokens * p.hidden).div_ceil(THREADS))?;
    plan.launch(MODULE, "residual", grid, [THREADS, 1, 1], 0, &args);
    let mut args = vec![r.into(), at.lm.into(), at.logits.into(), kind];
    args.extend([p.tokens, p.hidden, p.vocab, p.heads].map(Arg::from));
    let grid = blocks((p.heads * p.tokens * p.vocab).div_ceil(THREADS))?;
    plan.launch(MODULE, "logits", grid, [THREADS, 1, 1], 0, &args);
    top_k(&mut plan, &p, at.logits)?;
    Ok(plan)
}

/// Tiles on CUDA cores, in f32.
pub(super) fn tiles(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let p: Params = case.params()?;
    if p.dtype != DType::F32 {
        return Err(Unsupported(format!("only f32, not {}", p.dtype.name())));
    }
    let mut plan = Plan::new();
    let at = Buffers::new(&mut plan, &p, inputs);
    let r = plan.scratch("r", DType::F32, &[p.heads, p.tokens, p.hidden]);
    let first = Tiled {
        a: at.x.into(),
        w: at.w.into(),
        c: r.into(),
        batches: p.heads,
        rows: p.tokens,
        columns: p.hidden,
        depth: p.hidden,
        a_shared: true,
    };
    tiled::head(&mut plan, first, at.x, at.b)?;
    let second = Tiled {
        a: r.into(),
        w: at.lm.into(),
        c: at.logits.into(),
        columns: p.vocab,
        a_shared: false,
        ..first
    };
    tiled::store(&mut plan, second)?;
    top_k(&mut plan, &p, at.logits)?;
    Ok(plan)
}

/// Both products on tensor cores, all heads in one launch each.
pub(super) fn tensor_core(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    const MODULE: &str = "decoding_medusa_tensor_core";
    const COLUMNS: usize = 128;
    const DEPTH: usize = 64;
    const STAGES: usize = 3;
    let p: Params = case.params()?;
    if p.dtype != DType::Bf16 {
        return Err(Unsupported(format!("only bf16, not {}", p.dtype.name())));
    }
    if !p.hidden.is_multiple_of(8) {
        return Err(Unsupported(format!("hidden {} is no multiple of 8", p.hidden)));
    }
    let mut plan = Plan::new();
    let at = Buffers::new(&mut plan, &p, inputs);
    let r = plan.scratch("r", p.dtype, &[p.heads, p.tokens, p.hidden]);
    let token_rows = p.tokens.next_multiple_of(16).min(128);
    let shared = STAGES * (COLUMNS + token_rows) * DEPTH * 2;
    let mut product =
        |x: BufferId, x_batch: usize, w: BufferId, bias: Option<BufferId>, out, columns: usize| {
            let grid = [p.tokens.div_ceil(token_rows.max(1)), columns.div_ceil(COLUMNS), p.heads];
            if grid[1].max(grid[2]) > 65_535 {
                return Err(Unsupported(format!("{columns} columns are more than a grid takes")));
            }
            let mut args: Vec<Arg> = vec![x.into(), x_batch.into(), w.into(), bias.into(), out];
            args.extend([p.tokens, columns, p.hidden].map(Arg::from));
            args.push(Arg::I32(token_rows as i32));
            plan.launch(MODULE, "product", grid, [256, 1, 1], shared, &args);
            Ok(())
        };
    product(at.x, 0, at.w, Some(at.b), r.into(), p.hidden)?;
    product(r, p.tokens * p.hidden, at.lm, None, at.logits.into(), p.vocab)?;
    top_k(&mut plan, &p, at.logits)?;
    Ok(plan)
}
