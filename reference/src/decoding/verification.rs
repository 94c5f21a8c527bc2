//! One step of speculative decoding on the target's side: a small Transformer reads a tree of candidates behind its
//! cache, and a path of them is accepted.

use serde::{Deserialize, Serialize};

use super::{
    candidates::line,
    near::{Matrix, Row},
    topology::{self, Shape, Topology},
    transformer::{Block, Sizes},
    tree::{self, Drafts},
};
use crate::{
    acceptance::distributions::{
        Draws, Mass, Pairs, Relation, check_vocabulary, integers, uniforms,
    },
    algorithm::{Algorithm, Work},
    attention::{Known, Lengths, draw_lengths},
    draw::Draw,
    expected::Outputs,
    tensor::{DType, Data, Tensor, Tensors},
};

/// The pass that verifies a tree of draft tokens: a small Transformer's distributions after every node at once, and what
/// of the draft they accept.
///
/// | input | shape | dtype | meaning |
/// |---|---|---|---|
/// | `ids` | `[batch, nodes, window]` | i32 | rows of `emb`: the node's token t as t, the one before it as `vocab` + t, and so on |
/// | `parents`, `first_child`, `next_sibling`, `draft_tokens`, `accept_u`, `sample_u` | | | as [`tree::Tree`] has them; node 0 is the last committed token, not yet in the cache |
/// | `draft_probs` | `[batch, nodes, vocab]` | f32 | q, from which children were drawn |
/// | `lengths` | `[batch]` | i32 | committed tokens in the cache |
/// | `k_cache`, `v_cache` | `[layers, batch, seq_k, hidden]` | f32 | keys and values of the committed tokens, head beside head |
/// | `emb` | `[window·vocab, hidden]` | f32 | embeddings of a token by how far back it stands |
/// | `norm_a`, `norm_m` | `[layers, hidden]` | f32 | gains before attention and MLP |
/// | `wq`, `wk`, `wv`, `wo` | `[layers, hidden, hidden]` | f32 | attention |
/// | `up`, `down` | `[layers, 2·ffn, hidden]`, `[layers, hidden, ffn]` | f32 | the MLP's gates, then its values; its way back |
/// | `norm_f` | `[1, hidden]` | f32 | gains before the output layer |
/// | `lm` | `[vocab, hidden]` | f32 | output layer |
///
/// | output | shape | dtype | meaning |
/// |---|---|---|---|
/// | `probs` | `[batch, nodes, vocab]` | f32 | p: the distribution after each node |
/// | `k_tree`, `v_tree` | `[layers, batch, nodes, hidden]` | f32 | keys and values of the nodes, for the cache |
/// | `accepted`, `path`, `tokens` | `[batch]`, `[batch, nodes]` twice | i32 | as [`tree::Tree`] has them, of q and this p |
///
/// A node's state is the sum of its `window` rows of `emb`; then come `layers` blocks as in [`super::mtp`], where a node
/// sees the committed tokens, its ancestors and itself, and p = softmax(lm · RMSNorm(state)). The rows by distance stand in
/// for positions: attention itself has none, and the states carry the order of the last tokens.
///
/// Sources: Miao et al. 2024 (SpecInfer), section 4 (one pass over a tree, then acceptance); Cai et al. 2024 (Medusa),
/// section 2.1.2. The embedding of several tokens is Bengio et al. 2003, section 2, summed instead of joined.
///
/// # Error model
/// States carry a bound of their error's Euclidean norm through every step (`near.rs`); the cache is exact. An element of
/// `k_tree` is off by no more than its row. Acceptance decides by the kernel's p: decisions that p's bounds leave open may
/// go either way, and are counted where they do.
#[derive(Debug)]
pub struct Verification;

/// Parameters of [`Verification`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Sequences.
    pub batch: usize,
    /// Nodes of a tree at most, the root among them.
    pub nodes: usize,
    /// Largest number of committed tokens.
    pub seq_k: usize,
    /// Values of a state.
    pub hidden: usize,
    /// Attention heads: a divisor of `hidden`.
    pub heads: usize,
    /// Values between the MLP's layers.
    pub ffn: usize,
    /// Blocks: 1 or 2.
    pub layers: usize,
    /// Tokens to choose from.
    pub vocab: usize,
    /// Tokens whose embeddings a state begins with.
    pub window: usize,
    /// How the nodes hang together.
    #[serde(default)]
    pub tree: Shape,
    /// How children come from q.
    #[serde(default)]
    pub drafts: Drafts,
    /// Whether sequences have lengths of their own.
    #[serde(default)]
    pub lengths: Lengths,
    /// Element type; f32.
    pub dtype: DType,
}

impl Params {
    fn sizes(&self) -> Sizes {
        Sizes { hidden: self.hidden, heads: self.heads, ffn: self.ffn }
    }

    /// What is accepted, as a problem of its own.
    pub fn acceptance(&self) -> tree::Params {
        tree::Params {
            batch: self.batch,
            nodes: self.nodes,
            vocab: self.vocab,
            shape: self.tree,
            drafts: self.drafts,
            mass: Mass::default(),
            relation: Relation::default(),
            draws: Draws::default(),
        }
    }

    /// Weights by name with their shapes and standard deviations; gains have none. As in [`super::mtp`] the branches are
    /// weaker than the states they are added to.
    pub fn weights(&self) -> Vec<(&'static str, Vec<usize>, Option<f64>)> {
        let (d, layers) = (self.hidden, self.layers);
        let sd = |columns: usize, factor: f64| Some(factor / (columns as f64).sqrt());
        let square = |name, factor| (name, vec![layers, d, d], sd(d, factor));
        vec![
            ("emb", vec![self.window * self.vocab, d], sd(self.window, 1.0)),
            ("norm_a", vec![layers, d], None),
            ("norm_m", vec![layers, d], None),
            square("wq", 0.5),
            square("wk", 0.5),
            square("wv", 0.25),
            square("wo", 0.25),
            ("up", vec![layers, 2 * self.ffn, d], sd(d, 0.25)),
            ("down", vec![layers, d, self.ffn], sd(self.ffn, 0.25)),
            ("norm_f", vec![1, d], None),
            ("lm", vec![self.vocab, d], sd(d, 1.0)),
        ]
    }

    /// [layers, batch, of a sequence, hidden].
    pub fn kept(&self, of_a_sequence: usize) -> [usize; 4] {
        [self.layers, self.batch, of_a_sequence, self.hidden]
    }

    /// Multiply-adds of one node, attention's products of nodes and tokens left out.
    fn per_node(&self) -> usize {
        let d = self.hidden;
        self.layers * (4 * d * d + 3 * d * self.ffn) + self.vocab * d
    }

    /// Rows of `emb` of a node whose tokens, its own first, are these.
    pub fn ids(&self, tokens: impl Iterator<Item = i32>) -> Vec<i32> {
        let ids = tokens.take(self.window).enumerate();
        ids.map(|(back, token)| (back * self.vocab) as i32 + token).collect()
    }
}

impl Algorithm for Verification {
    const NAME: &'static str = "decoding.verification";
    const SUMMARY: &'static str =
        "the pass that verifies a tree of draft tokens: a small Transformer, then acceptance";
    const ITEMS: &'static str = "nodes";
    type Params = Params;

    fn validate(p: &Params) -> Result<(), String> {
        if p.dtype != DType::F32 {
            return Err(format!("dtype must be f32, not {}", p.dtype.name()));
        }
        check_vocabulary(p.vocab, Relation::default())?;
        if !(1..=4096).contains(&p.nodes) {
            return Err(format!("nodes={} must be in 1..=4096", p.nodes));
        }
        if p.heads == 0 || p.hidden == 0 || !p.hidden.is_multiple_of(p.heads) {
            return Err("heads must be a positive divisor of hidden".into());
        }
        if p.ffn == 0 || p.window == 0 {
            return Err("ffn and window must be positive".into());
        }
        if !(1..=2).contains(&p.layers) {
            return Err("layers is 1 or 2: behind more, bounds would say nothing".into());
        }
        let sizes = [p.seq_k, p.hidden, p.ffn, p.vocab, p.window, p.batch];
        if sizes.iter().any(|&n| n >= 1 << 20) || p.window * p.vocab >= 1 << 24 {
            return Err("sizes must be below 2^20, and rows of emb below 2^24".into());
        }
        Ok(())
    }

    fn inputs(p: &Params, draw: &mut Draw) -> Tensors {
        let mut inputs = Tensors::new();
        for (name, shape, sd) in p.weights() {
            let tensor = match sd {
                Some(sd) => draw.normal(DType::F32, &shape, sd),
                None => draw.uniform(DType::F32, &shape, 0.8, 1.2),
            };
            inputs.insert(name, tensor);
        }
        for name in ["k_cache", "v_cache"] {
            inputs.insert(name, draw.normal(DType::F32, &p.kept(p.seq_k), 1.0));
        }
        inputs.insert("lengths", draw_lengths(p.lengths, p.batch, p.seq_k, draw));
        drafted(p, inputs, draw)
    }

    fn reference(p: &Params, inputs: &Tensors) -> Outputs {
        let net = Network::of(p, inputs);
        let mut known = [Known::default(), Known::default(), Known::default()];
        let (mut target, mut errors) = (Vec::new(), Vec::new());
        for b in 0..p.batch {
            for (node, (seen, law)) in net.pass(b).into_iter().enumerate() {
                for (layer, [_, k, v]) in seen.iter().enumerate() {
                    let at = ((layer * p.batch + b) * p.nodes + node) * p.hidden;
                    for (known, row) in known.iter_mut().zip([k, v]) {
                        known.row(at, &row.value, &vec![row.error; p.hidden]);
                    }
                }
                let (value, error): (Vec<f64>, Vec<f64>) = law.into_iter().unzip();
                known[2].row((b * p.nodes + node) * p.vocab, &value, &error);
                // What a kernel stores, and decides by, is rounded once more; so is what is decided by here.
                let stored =
                    |(p, error): (&f64, &f64)| error + 2.0 * DType::F32.unit_roundoff() * p;
                errors.extend(value.iter().zip(&error).map(stored));
                target.extend(value.iter().map(|&p| p as f32));
            }
        }
        let [k, v, probs] = known;
        let kept = p.kept(p.nodes);
        let mut outputs = Outputs::new()
            .with("probs", probs.expected(&[p.batch, p.nodes, p.vocab], DType::F32))
            .with("k_tree", k.expected(&kept, DType::F32))
            .with("v_tree", v.expected(&kept, DType::F32));
        for (name, expected) in tree::decide(&p.acceptance(), inputs, &target, &errors).iter() {
            outputs = outputs.with(name, expected.clone());
        }
        outputs
    }

    /// `flops`: two a weight and node, and four a value of each pair that attention sees; `bytes`: the inputs read once
    /// (of the embeddings the rows asked for, of the cache what is committed, of q nothing: most of it stays unread),
    /// the outputs written once; `items`: nodes.
    fn work(p: &Params, inputs: &Tensors) -> Work {
        let lengths = inputs.tensor("lengths").to_i64();
        let parents = inputs.tensor("parents").to_i64();
        let nodes = (p.batch * p.nodes) as f64;
        let mut pairs = 0.0;
        for (b, &length) in lengths.iter().enumerate() {
            let parents = &parents[b * p.nodes..][..p.nodes];
            pairs += (0..p.nodes as i64)
                .map(|i| length as f64 + line(parents, i).len() as f64)
                .sum::<f64>();
        }
        let committed: i64 = lengths.iter().sum();
        let width = (p.layers * p.hidden) as f64;
        let rows = (p.batch * p.nodes * p.window).min(p.window * p.vocab);
        let emb = (rows * p.hidden) as f64;
        let cache = 2.0 * width * committed as f64;
        let tree = nodes * (p.window + 5 + p.vocab + 2) as f64 + 2.0 * width * nodes;
        Work {
            flops: 2.0 * nodes * p.per_node() as f64 + 4.0 * width * pairs,
            bytes: 4.0 * (p.per_node() as f64 + emb + cache + tree),
            items: nodes,
            matrix: true,
            eight_bit: false,
        }
    }
}

/// Adds what a draft model brings: trees, their tokens drawn from q, and uniforms.
fn drafted(p: &Params, mut inputs: Tensors, draw: &mut Draw) -> Tensors {
    let trees: Vec<Topology> =
        (0..p.batch).map(|_| Topology::draw(p.tree, p.nodes, draw)).collect();
    let mut pairs = Pairs::new(Mass::Flat, Relation::Far, p.vocab, draw);
    let mut q = Vec::new();
    (0..p.batch * p.nodes).for_each(|_| pairs.next(draw, &mut Vec::new(), &mut q));
    let mut tokens = vec![-1; p.batch * p.nodes];
    let mut ids = Vec::new();
    for (b, tree) in trees.iter().enumerate() {
        let own = &mut tokens[b * p.nodes..][..p.nodes];
        let q = |node: usize| &q[(b * p.nodes + node) * p.vocab..][..p.vocab];
        tree::draft_tree(tree, (p.drafts, Draws::Fair), q, own, draw);
        let committed: Vec<i32> = (0..p.window).map(|_| draw.below(p.vocab) as i32).collect();
        for node in 0..p.nodes {
            let path = if node < tree.len() { tree.path(node) } else { Vec::new() };
            let drafted = path.iter().skip(1).rev().map(|&node| own[node]);
            ids.extend(p.ids(drafted.chain(committed.iter().copied())));
        }
    }
    let of_nodes = [p.batch, p.nodes];
    inputs.insert("accept_u", uniforms(&of_nodes, Draws::Fair, draw));
    inputs.insert("sample_u", uniforms(&[p.batch], Draws::Fair, draw));
    inputs.insert("ids", Tensor::new(&[p.batch, p.nodes, p.window], Data::I32(ids)));
    inputs.insert("draft_tokens", Tensor::new(&of_nodes, Data::I32(tokens)));
    inputs.insert("draft_probs", Tensor::new(&[p.batch, p.nodes, p.vocab], Data::F32(q)));
    for (name, tensor) in topology::tensors(&trees, p.nodes).iter() {
        inputs.insert(name, tensor.clone());
    }
    inputs
}

/// What one node leaves: query, key and value of each layer, and p with its errors.
type Passed = (Vec<[Row; 3]>, Vec<(f64, f64)>);

/// The network with a problem's cache and trees.
struct Network<'a> {
    p: &'a Params,
    inputs: &'a Tensors,
    blocks: Vec<Block>,
    norm_f: Vec<f64>,
    lm: Matrix,
    lengths: Vec<i64>,
    parents: Vec<i64>,
    ids: &'a [i32],
}

impl<'a> Network<'a> {
    fn of(p: &'a Params, inputs: &'a Tensors) -> Self {
        Self {
            p,
            inputs,
            blocks: (0..p.layers).map(|layer| Block::of(p.sizes(), inputs, layer)).collect(),
            norm_f: inputs.tensor("norm_f").to_f64(),
            lm: Matrix::of(inputs, "lm", 0, p.vocab, p.hidden),
            lengths: inputs.tensor("lengths").to_i64(),
            parents: inputs.tensor("parents").to_i64(),
            ids: integers(inputs, "ids"),
        }
    }

    /// Committed rows of a sequence's cache in a layer.
    fn cached(&self, name: &str, layer: usize, b: usize) -> Vec<Row> {
        let (d, tensor) = (self.p.hidden, self.inputs.tensor(name));
        let first = (layer * self.p.batch + b) * self.p.seq_k * d;
        let row = |j: usize| (0..d).map(|i| tensor.real_at(first + j * d + i)).collect::<Vec<_>>();
        (0..self.lengths[b] as usize).map(|j| Row::exact(&row(j))).collect()
    }

    /// The sum of a node's rows of `emb`.
    fn embedded(&self, b: usize, node: usize) -> Row {
        let (p, emb) = (self.p, self.inputs.tensor("emb"));
        let row = |id: i32| -> Vec<f64> {
            (0..p.hidden).map(|i| emb.real_at(id as usize * p.hidden + i)).collect()
        };
        let ids = self.ids[(b * p.nodes + node) * p.window..][..p.window].iter();
        let rows = ids.map(|&id| Row::exact(&row(id)));
        rows.reduce(|sum, row| sum.plus(&row)).expect("a window of one or more")
    }

    /// A sequence's nodes, in order.
    fn pass(&self, b: usize) -> Vec<Passed> {
        let nodes = self.p.nodes;
        let parents = &self.parents[b * nodes..][..nodes];
        let mut x: Vec<Row> = (0..nodes).map(|node| self.embedded(b, node)).collect();
        let mut seen: Vec<Vec<[Row; 3]>> = vec![Vec::new(); nodes];
        for (layer, block) in self.blocks.iter().enumerate() {
            let [k, v] = ["k_cache", "v_cache"].map(|name| self.cached(name, layer, b));
            seen.iter_mut().zip(&x).for_each(|(seen, x)| seen.push(block.project(x)));
            let step = |node: usize| {
                let path = line(parents, node as i64);
                let of_tree = |which: usize| path.iter().map(move |&n| (n as usize, which));
                let pick = |(n, which): (usize, usize)| &seen[n][layer][which];
                let keys: Vec<&Row> = k.iter().chain(of_tree(1).map(pick)).collect();
                let values: Vec<&Row> = v.iter().chain(of_tree(2).map(pick)).collect();
                block.finish(&x[node], &seen[node][layer][0], &keys, &values)
            };
            x = (0..nodes).map(step).collect();
        }
        let law = |x: &Row| self.lm.softmax(&x.normed(&self.norm_f));
        let laws: Vec<_> = x.iter().map(law).collect();
        seen.into_iter().zip(laws).collect()
    }
}
