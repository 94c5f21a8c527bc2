//! Plans of `decoding.mtp`: `naive` and `fused` differ in their products and in the loss.

use touchstone_reference::{Case, DType, Tensors, decoding::mtp::Params};

use super::{
    Tiled,
    tiled::{self, STRETCH, Targets},
    transformer::{MODULE, Mlp, Norm, Steps},
};
use crate::{
    plan::{Arg, BufferId, Plan, blocks},
    variant::Unsupported,
};

/// A plan in the making.
struct Builder<'a> {
    plan: Plan,
    inputs: &'a Tensors,
    p: Params,
    steps: Steps,
}

/// Buffers that all modules use in turn.
struct Run {
    tokens: BufferId,
    /// States before and behind a module.
    states: [BufferId; 2],
    normed: BufferId,
    qkv: [BufferId; 3],
    scores: BufferId,
    attended: BufferId,
    both: BufferId,
    gated: BufferId,
    losses: BufferId,
    /// Logits, or the loss's partial results and the targets' logits.
    logits: [BufferId; 2],
}

/// Of which a module has its share.
struct Weights {
    named: Vec<(&'static str, BufferId)>,
}

impl Weights {
    fn buffer(&self, name: &str) -> BufferId {
        self.named.iter().find(|named| named.0 == name).expect("an input of the operation").1
    }

    /// Part number `module` of `each` values.
    fn part(&self, name: &str, module: usize, each: usize) -> Arg {
        Arg::Buffer(self.buffer(name), module * each * DType::F32.bytes())
    }
}

pub(super) fn naive(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    plan(case, inputs, false)
}

pub(super) fn fused(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    plan(case, inputs, true)
}

fn plan(case: &Case, inputs: &Tensors, fused: bool) -> Result<Plan, Unsupported> {
    let p: Params = case.params()?;
    let steps = Steps { rows: p.batch * p.seq_len, tiles: fused };
    let mut builder = Builder { plan: Plan::new(), inputs, p, steps };
    let h = builder.plan.input(inputs, "h");
    let (run, weights) = (builder.run(), builder.weights());
    let p = builder.p.clone();
    let mut before = h;
    for module in 0..p.depth {
        let x = if p.sequential() {
            builder.enter(&run, &weights, module, before)?;
            run.states[0]
        } else {
            h
        };
        builder.block(&run, &weights, module, x)?;
        builder.loss(&run, &weights, module)?;
        before = run.states[1];
    }
    builder.mean(&run);
    Ok(builder.plan)
}

impl Builder<'_> {
    fn scratch(&mut self, name: &str, width: usize) -> BufferId {
        self.plan.scratch(name, DType::F32, &[self.steps.rows, width])
    }

    fn run(&mut self) -> Run {
        let p = self.p.clone();
        let d = p.hidden;
        let losses = self.plan.output("losses", DType::F32, &p.losses());
        let logits = if self.steps.tiles {
            let partial = self.scratch("partial", p.vocab.div_ceil(STRETCH) * 2);
            [partial, self.scratch("logit", 1)]
        } else {
            let logits = self.scratch("logits", p.vocab);
            [logits, logits]
        };
        Run {
            tokens: self.plan.input(self.inputs, "tokens"),
            states: ["x", "behind"].map(|name| self.scratch(name, d)),
            normed: self.scratch("normed", if p.sequential() { 2 * d } else { d }),
            qkv: ["q", "k", "v"].map(|name| self.scratch(name, d)),
            scores: self.scratch("scores", p.heads * p.seq_len),
            attended: self.scratch("attended", d),
            both: self.scratch("both", 2 * p.ffn),
            gated: self.scratch("gated", p.ffn),
            losses,
            logits,
        }
    }

    fn weights(&mut self) -> Weights {
        let names = ["norm_a", "norm_m", "wq", "wk", "wv", "wo", "up", "down", "lm"];
        let more = ["norm_h", "norm_e", "proj", "emb"];
        let all = names.iter().chain(more.iter().filter(|_| self.p.sequential()));
        let named = all.map(|&name| (name, self.plan.input(self.inputs, name))).collect();
        Weights { named }
    }

    /// Norms rows of states, or of the embeddings of the tokens `ahead`, into columns of `normed`.
    fn norm(&mut self, run: &Run, from: (BufferId, Option<usize>), gain: Arg, columns: [usize; 2]) {
        let [width, first] = columns;
        let (x, ahead) = from;
        let to = Arg::Buffer(run.normed, first * DType::F32.bytes());
        let of_tokens = ahead.map(|ahead| (run.tokens, self.p.seq_len, ahead));
        let norm = Norm { x, of_tokens, gain, to, stride: width, hidden: self.p.hidden };
        self.steps.norm(&mut self.plan, norm);
    }

    /// States joined with the tokens behind them, into the first of the states.
    fn enter(
        &mut self,
        run: &Run,
        w: &Weights,
        module: usize,
        before: BufferId,
    ) -> Result<(), Unsupported> {
        let d = self.p.hidden;
        self.norm(run, (before, None), w.part("norm_h", module, d), [2 * d, 0]);
        let embedded = (w.buffer("emb"), Some(module + 1));
        self.norm(run, embedded, w.part("norm_e", module, d), [2 * d, d]);
        let proj = w.part("proj", module, 2 * d * d);
        let x = run.states[0].into();
        self.steps.product(&mut self.plan, run.normed, proj, None, x, [d, 2 * d])
    }

    /// The Transformer block, from `x` into the second of the states.
    fn block(
        &mut self,
        run: &Run,
        w: &Weights,
        module: usize,
        x: BufferId,
    ) -> Result<(), Unsupported> {
        let (d, ffn) = (self.p.hidden, self.p.ffn);
        let square = |name| w.part(name, module, d * d);
        self.norm(run, (x, None), w.part("norm_a", module, d), [d, 0]);
        for (name, to) in ["wq", "wk", "wv"].into_iter().zip(run.qkv) {
            self.steps.product(
                &mut self.plan,
                run.normed,
                square(name),
                None,
                to.into(),
                [d, d],
            )?;
        }
        let dim = d / self.p.heads;
        let mut args: Vec<Arg> = run.qkv.map(Arg::from).to_vec();
        args.extend([run.scores, run.attended].map(Arg::from));
        args.extend([self.p.seq_len as i32, self.p.heads as i32].map(Arg::from));
        args.push(dim.into());
        args.push(Arg::F32(1.0 / (dim as f32).sqrt()));
        let grid = blocks(self.steps.rows * self.p.heads)?;
        self.plan.launch(MODULE, "attend", grid, [128, 1, 1], 0, &args);
        let behind = run.states[1];
        let (plan, steps) = (&mut self.plan, self.steps);
        steps.product(plan, run.attended, square("wo"), Some(x), behind.into(), [d, d])?;
        let mlp = Mlp {
            gain: w.part("norm_m", module, d),
            up: w.part("up", module, 2 * ffn * d),
            down: w.part("down", module, d * ffn),
            scratch: [run.normed, run.both, run.gated],
            sizes: [d, ffn],
        };
        steps.mlp(plan, mlp, behind)
    }

    fn loss(&mut self, run: &Run, w: &Weights, module: usize) -> Result<(), Unsupported> {
        let (rows, vocab) = (self.steps.rows, self.p.vocab);
        let (seq_len, ahead) = (self.p.seq_len, self.p.ahead(module + 1));
        let losses = Arg::Buffer(run.losses, module * rows * DType::F32.bytes());
        let (lm, [logits, logit], behind) = (w.buffer("lm").into(), run.logits, run.states[1]);
        if self.steps.tiles {
            let t = Tiled {
                a: behind.into(),
                w: lm,
                c: logits.into(),
                batches: 1,
                rows,
                columns: vocab,
                depth: self.p.hidden,
                a_shared: false,
            };
            let targets = Targets { tokens: run.tokens, seq_len, ahead };
            return tiled::loss(&mut self.plan, t, targets, logit, losses);
        }
        let sizes = [vocab, self.p.hidden];
        self.steps.product(&mut self.plan, behind, lm, None, logits.into(), sizes)?;
        let mut args = vec![logits.into(), run.tokens.into(), losses];
        args.extend([seq_len as i32, ahead as i32].map(Arg::from));
        args.push(vocab.into());
        self.plan.launch(MODULE, "cross_entropy", [rows, 1, 1], [128, 1, 1], 0, &args);
        Ok(())
    }

    fn mean(&mut self, run: &Run) {
        let loss = self.plan.output("loss", DType::F32, &[self.p.depth + 1]);
        let mut args = vec![run.losses.into(), loss.into()];
        args.extend([self.p.depth, self.steps.rows].map(Arg::from));
        args.push(Arg::F32(self.p.lambda as f32));
        self.plan.launch(MODULE, "mean", [1, 1, 1], [128, 1, 1], 0, &args);
    }
}
