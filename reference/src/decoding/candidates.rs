//! Candidate trees: which continuations one step of Medusa proposes, and how they share their beginnings.
//!
//! Head `k` (from 0) ranks tokens for the place `k + 1` behind the root. A candidate is a *path* of ranks: `[2, 0]`
//! is the third-best token of head 0 followed by the best of head 1. Paths with a common beginning share its nodes,
//! so a list of paths is a tree. Everything here is counting: exact, with one right answer.
//!
//! Source: Cai et al. 2024, "Medusa: Simple LLM Inference Acceleration Framework with Multiple Decoding Heads",
//! sections 2.1.2 (Cartesian products of candidates, tree attention) and 2.3.3 (which tree to take).

use std::collections::{BTreeMap, BTreeSet};

/// A tree of candidates. Node 0 is the root, the last token that is sure; every other node stands behind its
/// parent, shorter paths first and, among equally long ones, lower ranks first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// Path of each node but the root.
    paths: Vec<Vec<usize>>,
    /// Parent of each node; −1 for the root.
    parents: Vec<i64>,
}

impl Tree {
    /// The tree of these paths, in any order.
    ///
    /// # Errors
    /// If a path is empty, comes twice, or its beginning is not itself in the list.
    pub fn of_paths(paths: &[Vec<usize>]) -> Result<Self, String> {
        let mut paths = paths.to_vec();
        paths.sort_by(|a, b| a.len().cmp(&b.len()).then_with(|| a.cmp(b)));
        let mut nodes: BTreeMap<&[usize], i64> = BTreeMap::from([(&[][..], 0)]);
        let mut parents = vec![-1];
        for path in &paths {
            let Some((_, beginning)) = path.split_last() else {
                return Err("an empty path is the root, which is always there".into());
            };
            let parent = *nodes.get(beginning).ok_or(format!("{path:?} without {beginning:?}"))?;
            if nodes.insert(path, parents.len() as i64).is_some() {
                return Err(format!("{path:?} comes twice"));
            }
            parents.push(parent);
        }
        Ok(Self { paths, parents })
    }

    /// All combinations of the best `ranks[0]` tokens of head 0, `ranks[1]` of head 1, and so on:
    /// `1 + Σ_k Π_{i ≤ k} ranks[i]` nodes.
    pub fn cartesian(ranks: &[usize]) -> Self {
        let (mut paths, mut level) = (Vec::new(), vec![Vec::new()]);
        for &ranks in ranks {
            let longer = |path: &Vec<usize>, rank| path.iter().copied().chain([rank]).collect();
            level = level.iter().flat_map(|p| (0..ranks).map(move |r| longer(p, r))).collect();
            paths.extend(level.iter().cloned());
        }
        Self::of_paths(&paths).expect("every beginning of a combination is one")
    }

    /// The tree of `nodes` nodes, the root among them, on which most candidates are right on average, when head
    /// `k`'s token of rank `r` is right with probability `accuracy[k][r]`, independently: a path's share is the
    /// product along it, so the likeliest child that is left is added each time. Equal ones in order of their paths.
    /// Fewer nodes where there are no more.
    pub fn most_likely(accuracy: &[Vec<f64>], nodes: usize) -> Self {
        let of = |path: &[usize]| path.iter().zip(accuracy).map(|(&r, a)| a[r]).product::<f64>();
        let mut left: BTreeSet<Vec<usize>> = BTreeSet::new();
        let offer = |left: &mut BTreeSet<Vec<usize>>, path: &[usize]| {
            let ranks = accuracy.get(path.len()).map_or(0, Vec::len);
            left.extend((0..ranks).map(|rank| [path, &[rank]].concat()));
        };
        offer(&mut left, &[]);
        let mut taken = Vec::new();
        while taken.len() + 1 < nodes {
            // `max_by` keeps the last of equals.
            let best = left.iter().rev().max_by(|a, b| of(a).total_cmp(&of(b))).cloned();
            let Some(best) = best else { break };
            left.remove(&best);
            offer(&mut left, &best);
            taken.push(best);
        }
        Self::of_paths(&taken).expect("a node is offered when its parent is taken")
    }

    /// Nodes, the root among them.
    pub fn nodes(&self) -> usize {
        self.parents.len()
    }

    /// Parent of each node; −1 for the root.
    pub fn parents(&self) -> &[i64] {
        &self.parents
    }

    /// Path of each node but the root.
    pub fn paths(&self) -> &[Vec<usize>] {
        &self.paths
    }

    /// How far each node stands behind the root: its position is that of the root plus this.
    pub fn depths(&self) -> Vec<usize> {
        std::iter::once(0).chain(self.paths.iter().map(Vec::len)).collect()
    }

    /// The token of each node: `root`, and of the others that of their rank in `ranked[k]`, the best tokens of head
    /// `k`, best first.
    ///
    /// # Panics
    /// If a head ranks fewer tokens than a path asks of it.
    pub fn tokens(&self, root: i64, ranked: &[Vec<i64>]) -> Vec<i64> {
        let last = |path: &Vec<usize>| ranked[path.len() - 1][path[path.len() - 1]];
        std::iter::once(root).chain(self.paths.iter().map(last)).collect()
    }

    /// The candidates as nodes: for each leaf, in order, the nodes from the root to it, and −1 behind it up to the
    /// length of the longest.
    pub fn retrieve(&self) -> Vec<Vec<i64>> {
        let inner: BTreeSet<i64> = self.parents.iter().copied().collect();
        let leaves = (0..self.nodes() as i64).filter(|node| !inner.contains(node));
        let mut rows: Vec<Vec<i64>> = leaves.map(|leaf| line(&self.parents, leaf)).collect();
        let longest = rows.iter().map(Vec::len).max().unwrap_or(0);
        rows.iter_mut().for_each(|row| row.resize(longest, -1));
        rows
    }
}

/// A node with those before it on its path, from the root on; `parents` as [`Tree::parents`] gives them, or of several
/// trees side by side.
pub fn line(parents: &[i64], node: i64) -> Vec<i64> {
    let up = |&node: &i64| Some(parents[node as usize]).filter(|&parent| parent >= 0);
    let mut line: Vec<i64> = std::iter::successors(Some(node), up).collect();
    line.reverse();
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn combinations_of_two_and_three_share_their_first_tokens() {
        let tree = Tree::cartesian(&[2, 3]);
        assert_eq!(tree.nodes(), 1 + 2 + 2 * 3);
        assert_eq!(tree.parents(), [-1, 0, 0, 1, 1, 1, 2, 2, 2]);
        assert_eq!(tree.depths(), [0, 1, 1, 2, 2, 2, 2, 2, 2]);
        assert_eq!(
            tree.tokens(7, &[vec![10, 11], vec![20, 21, 22]]),
            [7, 10, 11, 20, 21, 22, 20, 21, 22]
        );
        let leaves: Vec<Vec<i64>> = (0..6).map(|i| vec![0, 1 + i / 3, 3 + i]).collect();
        assert_eq!(tree.retrieve(), leaves);
    }

    #[test]
    fn a_sparse_tree_pads_its_shorter_candidates() {
        let tree = Tree::of_paths(&[vec![0, 1], vec![2], vec![0], vec![0, 1, 0]]).unwrap();
        assert_eq!(tree.paths(), [vec![0], vec![2], vec![0, 1], vec![0, 1, 0]]);
        assert_eq!(tree.parents(), [-1, 0, 0, 1, 3]);
        assert_eq!(tree.retrieve(), [vec![0, 2, -1, -1], vec![0, 1, 3, 4]]);
        let ranked = [vec![5, 6, 7], vec![8, 9], vec![3]];
        assert_eq!(tree.tokens(1, &ranked), [1, 5, 7, 9, 3]);
    }

    #[test]
    fn the_root_alone_is_a_tree() {
        for tree in [Tree::of_paths(&[]).unwrap(), Tree::cartesian(&[]), Tree::most_likely(&[], 9)]
        {
            assert_eq!((tree.nodes(), tree.depths(), tree.retrieve()), (1, vec![0], vec![vec![0]]));
        }
    }

    #[test]
    fn paths_that_are_no_tree_are_refused() {
        let of = |paths: &[Vec<usize>]| Tree::of_paths(paths).unwrap_err();
        assert!(of(&[vec![0], vec![1, 0]]).contains("[1, 0] without [1]"));
        assert!(of(&[vec![0], vec![0]]).contains("twice"));
        assert!(of(&[vec![]]).contains("empty"));
    }

    /// No tree of as many nodes has a larger sum of products: all of them are tried.
    #[test]
    fn the_greedy_tree_is_the_best_of_all() {
        let accuracy = [vec![0.6, 0.2, 0.15], vec![0.5, 0.4, 0.05], vec![0.9, 0.01]];
        let share =
            |path: &Vec<usize>| path.iter().zip(&accuracy).map(|(&r, a)| a[r]).product::<f64>();
        let all = Tree::cartesian(&[3, 3, 2]);
        for nodes in 1..=6 {
            let greedy = Tree::most_likely(&accuracy, nodes);
            assert_eq!(greedy.nodes(), nodes);
            let sum: f64 = greedy.paths().iter().map(share).sum();
            let mut stack = vec![(0, Vec::new())];
            while let Some((from, chosen)) = stack.pop() {
                let chosen: Vec<Vec<usize>> = chosen;
                if chosen.len() + 1 == nodes {
                    if Tree::of_paths(&chosen).is_ok() {
                        assert!(chosen.iter().map(share).sum::<f64>() <= sum + 1e-12, "{chosen:?}");
                    }
                    continue;
                }
                for next in from..all.paths().len() {
                    stack.push((next + 1, [&chosen[..], &all.paths()[next..=next]].concat()));
                }
            }
        }
    }
}
