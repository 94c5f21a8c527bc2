//! loss: CUDA variants of this vertical. All three operations are one kernel, told apart by what is asked of it.

use touchstone_reference::{Case, DType, Tensors, loss::Params};

use crate::{
    plan::{Arg, BufferId, Plan, blocks, kind_of},
    variant::{Unsupported, Variant},
};

macro_rules! ladder {
    ($($op:literal),*) => {
        &[$(
            Variant {
                op: $op,
                name: "naive",
                idea: "a block a row, three passes over it: maximum, sum, result",
                deterministic: true,
                plan: naive,
            },
            Variant {
                op: $op,
                name: "online",
                idea: "maximum and sum in one pass, 16 bytes at a time",
                deterministic: true,
                plan: online,
            },
            Variant {
                op: $op,
                name: "resident",
                idea: "a row stays on chip until its result is written, while the next one comes in",
                deterministic: true,
                plan: resident,
            },
            Variant {
                op: $op,
                name: "split",
                idea: "a row is spread over a few blocks, each of which keeps its part on chip",
                deterministic: true,
                plan: split,
            },
        )*]
    };
}

/// The variants of this vertical, in ladder order.
pub static VARIANTS: &[Variant] =
    ladder!("loss.softmax", "loss.cross_entropy", "loss.cross_entropy_gradient");

/// Bytes of the words that rows are read in.
const WORD: usize = 16;

/// A plan before its launch.
struct Start {
    p: Params,
    plan: Plan,
    logits: Arg,
    result: Arg,
    /// What every kernel takes last: targets, weights, loss, rows, vocab.
    job: Vec<Arg>,
}

impl Start {
    fn new(case: &Case, inputs: &Tensors) -> Result<Self, Unsupported> {
        let p: Params = case.params()?;
        let mut plan = Plan::new();
        let logits = plan.input(inputs, "logits").into();
        let mut given = |name| inputs.get(name).map(|_| plan.input(inputs, name));
        let (targets, weights) = (given("targets"), given("d_loss"));
        let loss = targets.map(|_| plan.output("loss", DType::F32, &[p.rows]));
        let result = match (targets, weights) {
            (None, _) => Some("probabilities"),
            (_, Some(_)) => Some("d_logits"),
            _ => None,
        };
        let result = result.map(|name| plan.output(name, p.dtype, &[p.rows, p.vocab])).into();
        let sizes = [p.rows, p.vocab].map(Arg::from);
        let job = [&[targets.into(), weights.into(), loss.into()][..], &sizes].concat();
        Ok(Self { p, plan, logits, result, job })
    }

    /// Words of a row.
    fn words(&self) -> Result<usize, Unsupported> {
        let bytes = self.p.vocab * self.p.dtype.bytes();
        match bytes.is_multiple_of(WORD) {
            true => Ok(bytes / WORD),
            false => Err(Unsupported(format!("rows of {bytes} bytes are not whole words of 16"))),
        }
    }
}

fn naive(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let mut start = Start::new(case, inputs)?;
    let kind = [Arg::I32(kind_of(start.p.dtype))];
    let args = [&[start.logits, start.result][..], &start.job, &kind].concat();
    let grid = blocks(start.p.rows)?;
    start.plan.launch("loss_naive", "loss_rows", grid, [256, 1, 1], 0, &args);
    Ok(start.plan)
}

fn online(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let mut start = Start::new(case, inputs)?;
    start.words()?;
    let args = [&[start.logits, start.result][..], &start.job].concat();
    let (grid, symbol) = (blocks(start.p.rows)?, format!("online_{}", start.p.dtype.name()));
    start.plan.launch("loss_online", symbol, grid, [512, 1, 1], 0, &args);
    Ok(start.plan)
}

/// Probabilities of rows of f32 logits, as one step of another plan; `online`, where its rows are whole words.
pub(crate) fn softmax(
    plan: &mut Plan,
    [logits, probabilities]: [BufferId; 2],
    [rows, vocab]: [usize; 2],
    online: bool,
) -> Result<(), Unsupported> {
    let none = [Arg::Null; 3];
    let mut args = [&[logits, probabilities].map(Arg::from)[..], &none[..]].concat();
    args.extend([rows, vocab].map(Arg::from));
    if online && vocab.is_multiple_of(WORD / DType::F32.bytes()) {
        plan.launch("loss_online", "online_f32", blocks(rows)?, [512, 1, 1], 0, &args);
    } else {
        args.push(Arg::I32(kind_of(DType::F32)));
        plan.launch("loss_naive", "loss_rows", blocks(rows)?, [256, 1, 1], 0, &args);
    }
    Ok(())
}

fn resident(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    /// Threads of a multiprocessor, and words that each holds in registers, as in the kernel.
    const THREADS: usize = 1024;
    const HELD: usize = 2;
    /// Words in shared memory: 224 KiB, beside which the sums of one or two blocks find room.
    const MOST_KEPT: usize = (224 << 10) / WORD;
    /// Multiprocessors of an H100; where there are fewer, some blocks take their turn.
    const MULTIPROCESSORS: usize = 132;
    let mut start = Start::new(case, inputs)?;
    let words = start.words()?;
    if words > MOST_KEPT + HELD * THREADS {
        return Err(Unsupported(format!("{words} words of 16 bytes do not stay on chip")));
    }
    let kept = words.min(MOST_KEPT);
    let args = [&[start.logits, start.result, kept.into()][..], &start.job].concat();
    let together = if 2 * words <= MOST_KEPT { 2 } else { 1 };
    let grid = [start.p.rows.min(MULTIPROCESSORS * together), 1, 1];
    let symbol = format!("resident_{}", start.p.dtype.name());
    let block = [THREADS / together, 1, 1];
    start.plan.launch("loss_resident", symbol, grid, block, kept * WORD, &args);
    Ok(start.plan)
}

fn split(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    /// Threads of a block, and words that each holds in registers, as in the kernel.
    const THREADS: usize = 512;
    const HELD: usize = 10;
    /// Words of a part in shared memory: of 227 KiB, what two blocks find room for beside their sums.
    const MOST_SHARED: usize = (111 << 10) / WORD;
    /// Words of a line of the cache, where parts begin and end.
    const LINE: usize = 128 / WORD;
    /// Parts of a row: as many blocks must run at once.
    const MOST_PARTS: usize = 16;
    /// Blocks that an H100 runs at once.
    const BLOCKS: usize = 264;
    let mut start = Start::new(case, inputs)?;
    let words = start.words()?;
    // Few rows have more parts than they need, so that there are blocks enough, with a word for each thread.
    let wanted = (BLOCKS / start.p.rows.max(1)).min(words / THREADS).clamp(1, MOST_PARTS);
    let needed = words.div_ceil(THREADS * HELD + MOST_SHARED);
    let span = words.div_ceil(needed.max(wanted)).next_multiple_of(LINE);
    let parts = words.div_ceil(span);
    if parts > MOST_PARTS {
        return Err(Unsupported(format!(
            "{words} words of 16 bytes are more than {MOST_PARTS} blocks keep"
        )));
    }
    let count = start.p.rows * parts;
    let sums = start.plan.scratch("sums", DType::U64, &[1 + count]);
    start.plan.fill(sums, 0xff);
    let parts = [Arg::U32(parts as u32), Arg::I32(span as i32)];
    let args = [&[start.logits, start.result, sums.into()], &parts[..], &start.job].concat();
    let (grid, symbol) = (blocks(count)?, format!("split_{}", start.p.dtype.name()));
    let shared = span.min(words).saturating_sub(THREADS * HELD) * WORD;
    start.plan.launch("loss_split", symbol, grid, [THREADS, 1, 1], shared, &args);
    Ok(start.plan)
}
