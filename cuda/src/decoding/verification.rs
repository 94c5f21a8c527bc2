//! Plans of `decoding.verification`: a pass of many launches made of kernels that other operations prove one by one.

use touchstone_reference::{
    Case, DType, Data, Tensor, Tensors, attention,
    decoding::{tree_attention, verification::Params},
};

use super::{
    transformer::{Mlp, Norm, Steps},
    tree,
    tree_attention::{Ready, Way, in_tiles},
};
use crate::{
    embedding, loss,
    plan::{Arg, BufferId, Plan},
    variant::Unsupported,
};

pub(super) fn naive(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    Ok(Pass::new(case, inputs, false)?.plan)
}

pub(super) fn tiled(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    Ok(Pass::new(case, inputs, true)?.plan)
}

/// The pass as it is run again and again: behind it the accepted nodes' keys and values join the cache, and `lengths` grow
/// by their number, so that the next pass needs no more than its draft. It changes its inputs: what is proven is the plan of
/// the variant, `tiled` or `naive`, and this one by what comes of many steps (tests/neural.rs).
///
/// # Errors
/// As that variant.
pub fn stepping(case: &Case, inputs: &Tensors, tiled: bool) -> Result<Plan, Unsupported> {
    let mut pass = Pass::new(case, inputs, tiled)?;
    pass.commit();
    Ok(pass.plan)
}

/// A plan in the making.
struct Pass {
    p: Params,
    plan: Plan,
    steps: Steps,
    /// Inputs by name.
    given: Vec<(String, BufferId)>,
    /// States, then normed states.
    states: [BufferId; 2],
    q: BufferId,
    /// `k_tree`, `v_tree`.
    kept: [BufferId; 2],
    /// `accepted`, `path`, `tokens`.
    decided: [BufferId; 3],
}

impl Pass {
    fn new(case: &Case, inputs: &Tensors, tiles: bool) -> Result<Self, Unsupported> {
        let p: Params = case.params()?;
        let (rows, d) = (p.batch * p.nodes, p.hidden);
        if tiles && !(d.is_multiple_of(4) && p.ffn.is_multiple_of(4)) {
            return Err(Unsupported(format!("{d} or {} values are no whole 16-byte words", p.ffn)));
        }
        let mut plan = Plan::new();
        let given = inputs.iter().map(|(name, _)| (name.to_string(), plan.input(inputs, name)));
        let given = given.collect();
        let probs = plan.output("probs", DType::F32, &[p.batch, p.nodes, p.vocab]);
        let kept = ["k_tree", "v_tree"].map(|name| plan.output(name, DType::F32, &p.kept(p.nodes)));
        let states = ["x", "normed"].map(|name| plan.scratch(name, DType::F32, &[rows, d]));
        let q = plan.scratch("q", DType::F32, &[rows, d]);
        let steps = Steps { rows, tiles };
        let decided = [BufferId(0); 3];
        let mut pass = Self { p, plan, steps, given, states, q, kept, decided };
        pass.embed();
        pass.layers()?;
        pass.probabilities(probs)?;
        pass.decide(probs)?;
        Ok(pass)
    }

    fn input(&self, name: &str) -> BufferId {
        self.given.iter().find(|given| given.0 == name).expect("an input of the operation").1
    }

    /// Part number `layer` of `each` values of a buffer.
    fn part(buffer: BufferId, layer: usize, each: usize) -> Arg {
        Arg::Buffer(buffer, layer * each * DType::F32.bytes())
    }

    fn weight(&self, name: &str, layer: usize, each: usize) -> Arg {
        Self::part(self.input(name), layer, each)
    }

    fn scratch(&mut self, name: &str, width: usize) -> BufferId {
        self.plan.scratch(name, DType::F32, &[self.steps.rows, width])
    }

    /// A bag of `window` rows a node.
    fn embed(&mut self) {
        let bags = self.steps.rows;
        let starts = (0..=bags).map(|bag| (bag * self.p.window) as i64).collect();
        let offsets = self.plan.table("offsets", Tensor::new(&[bags + 1], Data::I64(starts)));
        let buffers = [self.input("emb"), self.input("ids"), offsets, self.states[0]];
        embedding::sum_of_rows(&mut self.plan, buffers, bags, self.p.hidden, self.steps.tiles);
    }

    /// RMSNorm of the states.
    fn norm(&mut self, gain: Arg) {
        let ([x, normed], d) = (self.states, self.p.hidden);
        let norm = Norm { x, of_tokens: None, gain, to: normed.into(), stride: d, hidden: d };
        self.steps.norm(&mut self.plan, norm);
    }

    /// What attention is to each layer.
    fn attention(&self) -> tree_attention::Params {
        let Params { batch, nodes, seq_k, heads, hidden, .. } = self.p;
        tree_attention::Params {
            batch,
            nodes,
            seq_k,
            heads_q: heads,
            heads_kv: heads,
            head_dim: hidden / heads,
            tree: tree_attention::Shape::Random,
            lengths: attention::Lengths::Full,
            scale: None,
            sd: 1.0,
            dtype: DType::F32,
        }
    }

    fn layers(&mut self) -> Result<(), Unsupported> {
        let (d, ffn, [x, normed]) = (self.p.hidden, self.p.ffn, self.states);
        let attention = self.attention();
        let way = if self.steps.tiles { in_tiles(&attention)? } else { Way::Naive };
        let attention = Ready::new(&mut self.plan, attention, way)?;
        let lse = self.scratch("lse", self.p.heads);
        let attended = self.scratch("attended", d);
        let between = [self.scratch("both", 2 * ffn), self.scratch("gated", ffn)];
        for layer in 0..self.p.layers {
            self.norm(self.weight("norm_a", layer, d));
            let own = self.kept.map(|kept| Self::part(kept, layer, self.steps.rows * d));
            let (q, [k, v]) = (Arg::from(self.q), own);
            for (name, to) in [("wq", q), ("wk", k), ("wv", v)] {
                let w = self.weight(name, layer, d * d);
                self.steps.product(&mut self.plan, normed, w, None, to, [d, d])?;
            }
            let each = self.p.batch * self.p.seq_k * d;
            let cache = ["k_cache", "v_cache"].map(|name| self.weight(name, layer, each));
            let [parents, lengths] = ["parents", "lengths"].map(|name| self.input(name).into());
            let given = vec![q, cache[0], cache[1], k, v, parents, lengths];
            attention.launch(&mut self.plan, given, [attended, lse])?;
            let wo = self.weight("wo", layer, d * d);
            self.steps.product(&mut self.plan, attended, wo, Some(x), x.into(), [d, d])?;
            let mlp = Mlp {
                gain: self.weight("norm_m", layer, d),
                up: self.weight("up", layer, 2 * ffn * d),
                down: self.weight("down", layer, d * ffn),
                scratch: [normed, between[0], between[1]],
                sizes: [d, ffn],
            };
            self.steps.mlp(&mut self.plan, mlp, x)?;
        }
        Ok(())
    }

    fn probabilities(&mut self, probs: BufferId) -> Result<(), Unsupported> {
        let (d, vocab) = (self.p.hidden, self.p.vocab);
        self.norm(self.weight("norm_f", 0, d));
        let (logits, lm) = (self.scratch("logits", vocab), self.weight("lm", 0, 0));
        self.steps.product(&mut self.plan, self.states[1], lm, None, logits.into(), [vocab, d])?;
        loss::softmax(&mut self.plan, [logits, probs], [self.steps.rows, vocab], self.steps.tiles)
    }

    fn decide(&mut self, probs: BufferId) -> Result<(), Unsupported> {
        let of = |name: &str| if name == "target_probs" { probs } else { self.input(name) };
        let (given, params) = (tree::GIVEN.map(of), self.p.acceptance());
        self.decided = if self.steps.tiles {
            let parents = self.input("parents");
            tree::walk_together(&mut self.plan, &params, given, parents)?
        } else {
            tree::walk(&mut self.plan, &params, given)?
        };
        Ok(())
    }

    /// The accepted nodes' keys and values behind those in the cache.
    fn commit(&mut self) {
        let [accepted, path, _] = self.decided;
        let mut args: Vec<Arg> = self.kept.map(Arg::from).to_vec();
        args.extend([accepted, path].map(Arg::from));
        args.extend(["k_cache", "v_cache", "lengths"].map(|name| Arg::from(self.input(name))));
        let Params { layers, batch, nodes, seq_k, hidden, .. } = self.p;
        args.extend([layers, nodes, seq_k, hidden].map(Arg::from));
        self.plan.launch("decoding_commit", "commit", [batch, 1, 1], [128, 1, 1], 0, &args);
    }
}
