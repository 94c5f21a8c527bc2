//! The trees in which candidate tokens hang: which node follows which.

use serde::{Deserialize, Serialize};

use crate::{
    draw::Draw,
    tensor::{Data, Tensor, Tensors},
};

/// How the nodes of each row's tree hang together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// One path: the draft of chain acceptance.
    Chain,
    /// Every node a child of the root: one token in many guesses.
    Star,
    /// A node has two children, as long as there are nodes.
    Binary,
    /// One tree for all rows, grown node by node where a path is most likely to be right when the guess of rank r is
    /// right with probability 0.6 / (1 + r)^1.2 (Medusa §2.3.3 grows its trees so): 64 nodes reach four deep.
    #[default]
    Sparse,
    /// As `sparse`, with likelihoods of each row's own and 1 ..= `nodes` nodes: the trees of EAGLE-2, which follow the
    /// draft model's confidence.
    Dynamic,
}

/// A tree of which node 0 is the root and every parent precedes its children.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Parent of each node; the root has none.
    pub parents: Vec<Option<usize>>,
}

impl Topology {
    /// A tree of `nodes` nodes, or up to that many where the shape is `dynamic`.
    pub fn draw(shape: Shape, nodes: usize, draw: &mut Draw) -> Self {
        let after = |parent: &dyn Fn(usize) -> usize| Self {
            parents: (0..nodes).map(|i| (i > 0).then(|| parent(i))).collect(),
        };
        match shape {
            Shape::Chain => after(&|i| i - 1),
            Shape::Star => after(&|_| 0),
            Shape::Binary => after(&|i| (i - 1) / 2),
            Shape::Sparse => Self::grown(nodes, || 1.0),
            Shape::Dynamic => {
                let nodes = 1 + draw.below(nodes);
                Self::grown(nodes, || 0.2 + 1.2 * draw.unit())
            }
        }
    }

    /// Node by node the most likely one: a node's next child of rank r is `confidence`·0.6 / (1 + r)^1.2 times as
    /// likely as the node, whose `confidence` is drawn once.
    fn grown(nodes: usize, mut confidence: impl FnMut() -> f64) -> Self {
        let mut parents = vec![None];
        // Of each node: its likelihood, the factor of its children's and how many it has.
        let mut grown = vec![(1.0, confidence(), 0u32)];
        let next = |&(likely, confidence, children): &(f64, f64, u32)| {
            likely * confidence * 0.6 / f64::from(1 + children).powf(1.2)
        };
        while parents.len() < nodes {
            let best = |a: usize, b: usize| if next(&grown[b]) > next(&grown[a]) { b } else { a };
            let parent = (0..grown.len()).reduce(best).expect("a root");
            let likely = next(&grown[parent]);
            grown[parent].2 += 1;
            grown.push((likely, confidence(), 0));
            parents.push(Some(parent));
        }
        Self { parents }
    }

    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.parents.len()
    }

    /// Whether there is no node; a drawn tree has its root.
    pub fn is_empty(&self) -> bool {
        self.parents.is_empty()
    }

    /// Children of a node, in order.
    pub fn children(&self, node: usize) -> impl Iterator<Item = usize> + '_ {
        (node + 1..self.len()).filter(move |&child| self.parents[child] == Some(node))
    }

    /// Nodes from the root to `node`, both included.
    pub fn path(&self, node: usize) -> Vec<usize> {
        let mut path: Vec<usize> =
            std::iter::successors(Some(node), |&node| self.parents[node]).collect();
        path.reverse();
        path
    }

    /// Edges between the root and the deepest node.
    pub fn depth(&self) -> usize {
        (0..self.len()).map(|node| self.path(node).len() - 1).max().unwrap_or(0)
    }
}

/// The trees of a batch as a kernel takes them, each [batch, nodes] i32, −1 for none and from a row's number of nodes on:
/// `parents`, `first_child` and `next_sibling`.
pub fn tensors(trees: &[Topology], nodes: usize) -> Tensors {
    let all = trees.len() * nodes;
    let mut columns = [vec![-1; all], vec![-1; all], vec![-1; all]];
    for (row, tree) in trees.iter().enumerate() {
        let [parents, first, sibling] = columns.each_mut().map(|c| &mut c[row * nodes..][..nodes]);
        for node in (0..tree.len()).rev() {
            let Some(parent) = tree.parents[node] else { continue };
            parents[node] = parent as i32;
            sibling[node] = first[parent];
            first[parent] = node as i32;
        }
    }
    let [parents, first, sibling] =
        columns.map(|column| Tensor::new(&[trees.len(), nodes], Data::I32(column)));
    Tensors::new().with("parents", parents).with("first_child", first).with("next_sibling", sibling)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parents(shape: Shape, nodes: usize) -> Vec<i32> {
        let tree = Topology::draw(shape, nodes, &mut Draw::new(1));
        tree.parents.iter().map(|parent| parent.map_or(-1, |p| p as i32)).collect()
    }

    #[test]
    fn shapes_hang_as_they_say() {
        assert_eq!(parents(Shape::Chain, 4), [-1, 0, 1, 2]);
        assert_eq!(parents(Shape::Star, 4), [-1, 0, 0, 0]);
        assert_eq!(parents(Shape::Binary, 6), [-1, 0, 0, 1, 1, 2]);
        // 0.6, then 0.36 for the child's child against 0.26 for the second guess.
        assert_eq!(parents(Shape::Sparse, 4), [-1, 0, 1, 0]);
    }

    #[test]
    fn a_sparse_tree_of_64_nodes_is_as_deep_as_medusas() {
        let tree = Topology::draw(Shape::Sparse, 64, &mut Draw::new(1));
        assert!((4..=8).contains(&tree.depth()), "{}", tree.depth());
        assert!((5..=16).contains(&tree.children(0).count()), "{}", tree.children(0).count());
    }

    #[test]
    fn dynamic_trees_differ() {
        let mut draw = Draw::new(1);
        let trees: Vec<Topology> =
            (0..20).map(|_| Topology::draw(Shape::Dynamic, 32, &mut draw)).collect();
        assert!(trees.iter().all(|tree| (1..=32).contains(&tree.len())));
        assert!(trees.iter().any(|tree| tree.len() != trees[0].len()));
    }

    #[test]
    fn child_lists_are_in_order() {
        let tree = Topology::draw(Shape::Binary, 6, &mut Draw::new(1));
        let tensors = tensors(&[tree], 7);
        assert_eq!(tensors.tensor("parents").to_i64(), [-1, 0, 0, 1, 1, 2, -1]);
        assert_eq!(tensors.tensor("first_child").to_i64(), [1, 3, 5, -1, -1, -1, -1]);
        assert_eq!(tensors.tensor("next_sibling").to_i64(), [-1, 2, -1, 4, -1, -1, -1]);
    }
}
