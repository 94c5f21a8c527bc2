//! Integer outputs that rounding may decide another way: the exact outcome with the others that are right.

use crate::{acceptance::emitted::Column, expected::Outputs};

/// One way in which a row's tree may end.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Outcome {
    /// The root, then the accepted nodes.
    pub(crate) path: Vec<usize>,
    /// The further token.
    pub(crate) token: i64,
    /// Tokens that rounding may put in its place.
    pub(crate) others: Vec<i64>,
}

/// The outputs of acceptance on trees: `accepted` [batch], `path` and `tokens` [batch, nodes].
#[derive(Debug)]
pub(crate) struct Lines {
    batch: usize,
    nodes: usize,
    accepted: Column,
    path: Column,
    tokens: Column,
}

impl Lines {
    pub(crate) fn new(batch: usize, nodes: usize) -> Self {
        let [accepted, path, tokens] = [1, nodes, nodes].map(Column::new);
        Self { batch, nodes, accepted, path, tokens }
    }

    /// Adds a row: its outcomes, the exact one first, and the token of each node.
    pub(crate) fn push(&mut self, outcomes: &[Outcome], draft: &[i32]) {
        let (mut accepted, mut path, mut tokens) = (Vec::new(), Vec::new(), Vec::new());
        for Outcome { path: nodes, token, others } in outcomes {
            accepted.push(vec![nodes.len() as i64 - 1]);
            path.push(nodes.iter().map(|&node| node as i64).collect());
            for further in std::iter::once(token).chain(others) {
                let kept = nodes[1..].iter().map(|&node| i64::from(draft[node]));
                tokens.push(kept.chain([*further]).collect());
            }
        }
        self.accepted.push(&accepted);
        self.path.push(&path);
        self.tokens.push(&tokens);
    }

    pub(crate) fn outputs(self) -> Outputs {
        let shape = [self.batch, self.nodes];
        Outputs::new()
            .with("accepted", self.accepted.expected(&shape[..1]))
            .with("path", self.path.expected(&shape))
            .with("tokens", self.tokens.expected(&shape))
    }
}
