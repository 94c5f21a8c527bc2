//! Attention of a tree of candidate tokens: each sees the committed tokens and those on its own path.

use serde::{Deserialize, Serialize};

use super::candidates::{Tree, line};
use crate::{
    algorithm::{Algorithm, Work},
    attention::{
        Arithmetic, Known, Lengths, Mask, Problem, Rows, attend, default_scale, draw_lengths, one,
        sample,
    },
    draw::Draw,
    expected::Outputs,
    tensor::{DType, Tensor, Tensors},
};

/// Attention of the nodes of a tree against a KV cache and their ancestors: the verification pass of Medusa and its
/// kin, all candidates at once.
///
/// | input | shape | dtype | meaning |
/// |---|---|---|---|
/// | `q` | `[batch, nodes, heads_q, head_dim]` | `dtype` | queries of the nodes, N(0, sd²) |
/// | `k`, `v` | `[batch, seq_k, heads_kv, head_dim]` | `dtype` | the cache of committed tokens |
/// | `k_tree`, `v_tree` | `[batch, nodes, heads_kv, head_dim]` | `dtype` | keys and values of the nodes |
/// | `parents` | `[batch, nodes]` | i32 | parent of each node, before it in order; −1: it follows the committed tokens |
/// | `lengths` | `[batch]` | i32 | committed tokens of each sequence |
///
/// | output | shape | dtype | meaning |
/// |---|---|---|---|
/// | `o` | `[batch, nodes, heads_q, head_dim]` | `dtype` | `Σ_j P_ij v_j` over the keys that node `i` sees |
/// | `lse` | `[batch, nodes, heads_q]` | f32 | `ln Σ_j exp(s_ij)` |
///
/// Node `i` sees every committed token, itself and its ancestors, so never nothing. Siblings share a position:
/// where keys carry rotary positions, whoever writes `q` and `k_tree` turns them by `length +`
/// [`depth`](Tree::depths); attention itself asks for none.
///
/// Sources: Cai et al. 2024 (Medusa), section 2.1.2; Miao et al. 2024 (SpecInfer), section 4.2 (topology-aware mask).
/// Notation and error model: [`crate::attention`].
#[derive(Debug)]
pub struct TreeAttention;

/// How the nodes hang together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// Each behind the one before: plain causal attention.
    Chain,
    /// All behind the first.
    Star,
    /// Parents anywhere before, or none: forests too, another for each sequence.
    Random,
    /// What [`Tree::most_likely`] makes of four heads whose tokens are right ever more seldom.
    Medusa,
}

/// Parameters of [`TreeAttention`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Sequences.
    pub batch: usize,
    /// Nodes of a tree.
    pub nodes: usize,
    /// Largest number of committed tokens.
    pub seq_k: usize,
    /// Query heads: a multiple of `heads_kv`.
    pub heads_q: usize,
    /// Key and value heads.
    pub heads_kv: usize,
    /// Values of one head.
    pub head_dim: usize,
    /// How the nodes hang together.
    pub tree: Shape,
    /// Whether sequences have lengths of their own.
    #[serde(default)]
    pub lengths: Lengths,
    /// Factor on q · k; 1/√head_dim when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
    /// Standard deviation of queries and keys.
    #[serde(default = "one")]
    pub sd: f64,
    /// Element type of q, k, v and o.
    pub dtype: DType,
}

impl Params {
    /// The sizes and scale.
    pub fn problem(&self) -> Problem {
        Problem {
            batch: self.batch,
            seq_q: self.nodes,
            seq_k: self.seq_k,
            heads_q: self.heads_q,
            heads_kv: self.heads_kv,
            head_dim: self.head_dim,
            mask: Mask::Full,
            window: 0,
            scale: self.scale.unwrap_or(default_scale(self.head_dim)),
            softcap: 0.0,
            dtype: self.dtype,
        }
    }

    /// Parents of one sequence's nodes.
    fn parents(&self, draw: &mut Draw) -> Vec<i64> {
        let nodes = 0..self.nodes as i64;
        match self.tree {
            Shape::Chain => nodes.map(|i| i - 1).collect(),
            Shape::Star => nodes.map(|i| if i == 0 { -1 } else { 0 }).collect(),
            Shape::Random => nodes.map(|i| draw.below(i as usize + 1) as i64 - 1).collect(),
            Shape::Medusa => {
                let right = |head: i32, rank: i32| 0.6 * 0.85f64.powi(head) * 0.4f64.powi(rank);
                let head = |head| (0..10).map(|rank| right(head, rank)).collect();
                let heads: Vec<Vec<f64>> = (0..4).map(head).collect();
                let tree = Tree::most_likely(&heads, self.nodes);
                tree.parents()[..self.nodes].to_vec()
            }
        }
    }
}

impl Algorithm for TreeAttention {
    const NAME: &'static str = "decoding.tree_attention";
    const SUMMARY: &'static str =
        "attention of a tree of candidates against the cache and their ancestors";
    const ITEMS: &'static str = "nodes";
    type Params = Params;

    fn validate(p: &Params) -> Result<(), String> {
        if !(p.sd.is_finite() && p.sd >= 0.0) {
            return Err("sd must not be negative".into());
        }
        if p.nodes > 4096 {
            return Err("a tree has at most 4096 nodes".into());
        }
        if p.tree == Shape::Medusa && p.nodes > 256 {
            return Err("tree=medusa has at most 256 nodes".into());
        }
        p.problem().validate()
    }

    fn inputs(p: &Params, draw: &mut Draw) -> Tensors {
        let cached = [p.batch, p.seq_k, p.heads_kv, p.head_dim];
        let of_tree = [p.batch, p.nodes, p.heads_kv, p.head_dim];
        let parents: Vec<i64> = (0..p.batch).flat_map(|_| p.parents(draw)).collect();
        Tensors::new()
            .with("q", draw.normal(p.dtype, &[p.batch, p.nodes, p.heads_q, p.head_dim], p.sd))
            .with("k", draw.normal(p.dtype, &cached, p.sd))
            .with("v", draw.normal(p.dtype, &cached, 1.0))
            .with("k_tree", draw.normal(p.dtype, &of_tree, p.sd))
            .with("v_tree", draw.normal(p.dtype, &of_tree, 1.0))
            .with("parents", Tensor::from_integers(DType::I32, &[p.batch, p.nodes], &parents))
            .with("lengths", draw_lengths(p.lengths, p.batch, p.seq_k, draw))
    }

    fn reference(p: &Params, inputs: &Tensors) -> Outputs {
        let problem = p.problem();
        let lengths = inputs.tensor("lengths").to_i64();
        let parents = inputs.tensor("parents").to_i64();
        let (mut o, mut lse) = (Known::default(), Known::default());
        let cost = (p.seq_k + p.nodes) * p.head_dim;
        for (bh, nodes) in sample(p.batch * p.heads_q, p.nodes, cost) {
            let (b, h) = (bh / p.heads_q, bh % p.heads_q / problem.group());
            let (parents, length) = (&parents[b * p.nodes..][..p.nodes], lengths[b] as usize);
            let cached = |j: usize| ((b * p.seq_k + j) * p.heads_kv + h) * p.head_dim;
            let of_tree = |node: i64| ((b * p.nodes + node as usize) * p.heads_kv + h) * p.head_dim;
            let rows = |name| Rows::new(inputs.tensor(name), p.head_dim, (0..length).map(cached));
            let (mut k, mut v) = (rows("k"), rows("v"));
            for i in nodes {
                let query = (b * p.nodes + i) * p.heads_q + bh % p.heads_q;
                let q = Rows::new(inputs.tensor("q"), p.head_dim, [query * p.head_dim].into_iter());
                let path = line(parents, i as i64);
                k.append(inputs.tensor("k_tree"), path.iter().map(|&node| of_tree(node)));
                v.append(inputs.tensor("v_tree"), path.iter().map(|&node| of_tree(node)));
                let attended = attend(
                    &problem,
                    Arithmetic::of(p.dtype),
                    q.row(0),
                    &k,
                    &v,
                    0..length + path.len(),
                );
                k.truncate(length);
                v.truncate(length);
                o.row(query * p.head_dim, &attended.o, &attended.o_error);
                lse.row(query, &[attended.lse], &[attended.lse_error]);
            }
        }
        Outputs::new()
            .with("o", o.expected(&[p.batch, p.nodes, p.heads_q, p.head_dim], p.dtype))
            .with("lse", lse.expected(&[p.batch, p.nodes, p.heads_q], DType::F32))
    }

    /// `flops = 4·head_dim` a visible pair and query head; `bytes`: q, the committed rows and the tree's of k and v
    /// read once, o and lse written once; `items`: nodes.
    fn work(p: &Params, inputs: &Tensors) -> Work {
        let lengths = inputs.tensor("lengths").to_i64();
        let parents = inputs.tensor("parents").to_i64();
        let (mut pairs, mut keys) = (0.0, 0.0);
        for (b, &length) in lengths.iter().enumerate() {
            let mut seen = vec![0.0; p.nodes];
            for i in 0..p.nodes {
                let parent = parents[b * p.nodes + i];
                seen[i] = 1.0 + if parent < 0 { length as f64 } else { seen[parent as usize] };
            }
            pairs += seen.iter().sum::<f64>();
            keys += (length as usize + p.nodes) as f64;
        }
        let (value, rows) =
            ((p.head_dim * p.dtype.bytes()) as f64, (p.batch * p.nodes * p.heads_q) as f64);
        Work {
            flops: 4.0 * (p.head_dim * p.heads_q) as f64 * pairs,
            bytes: value * (2.0 * p.heads_kv as f64 * keys + 2.0 * rows) + 4.0 * rows,
            items: (p.batch * p.nodes) as f64,
            matrix: true,
            eight_bit: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cousin_is_not_seen() {
        let p = Params {
            batch: 1,
            nodes: 3,
            seq_k: 1,
            heads_q: 1,
            heads_kv: 1,
            head_dim: 1,
            tree: Shape::Star,
            lengths: Lengths::Full,
            scale: None,
            sd: 1.0,
            dtype: DType::F32,
        };
        let real = |n: usize, values: &[f64]| Tensor::from_real(DType::F32, &[1, n, 1, 1], values);
        // Scores are the keys: all 0, so a node's output is the mean of what it sees.
        let inputs = Tensors::new()
            .with("q", real(3, &[1.0; 3]))
            .with("k", real(1, &[0.0]))
            .with("v", real(1, &[6.0]))
            .with("k_tree", real(3, &[0.0; 3]))
            .with("v_tree", real(3, &[0.0, 3.0, 9.0]))
            .with("parents", Tensor::from_integers(DType::I32, &[1, 3], &[-1, 0, 0]))
            .with("lengths", Tensor::from_integers(DType::I32, &[1], &[1]));
        let outputs = TreeAttention::reference(&p, &inputs);
        let close = |name: &str, right: [f64; 3]| {
            let got = outputs.output(name).values();
            assert!(got.iter().zip(right).all(|(a, b)| (a - b).abs() < 1e-12), "{got:?}");
        };
        close("o", [3.0, 3.0, 5.0]);
        close("lse", [2f64.ln(), 3f64.ln(), 3f64.ln()]);
    }

    #[test]
    fn the_medusa_tree_has_as_many_nodes_as_asked_for_and_four_levels() {
        let p: Params = serde_json::from_value(serde_json::json!({
            "batch": 1, "nodes": 64, "seq_k": 0, "heads_q": 1, "heads_kv": 1, "head_dim": 1,
            "tree": "medusa", "dtype": "f32"
        }))
        .unwrap();
        let parents = p.parents(&mut Draw::new(0));
        assert_eq!(parents.len(), 64);
        let depth = (0..64).map(|i| line(&parents, i).len() - 1).max();
        assert_eq!(depth, Some(4));
    }
}
