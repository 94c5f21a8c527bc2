//! Integer outputs that rounding may decide another way: the exact value with the others that are right.

use std::collections::BTreeMap;

use crate::{
    expected::{Discrete, Expected, Outputs},
    tensor::DType,
};

/// An i32 output, line by line.
#[derive(Debug)]
pub(crate) struct Column {
    width: usize,
    value: Vec<i64>,
    also: BTreeMap<usize, Vec<i64>>,
}

impl Column {
    pub(crate) fn new(width: usize) -> Self {
        Self { width, value: Vec::new(), also: BTreeMap::new() }
    }

    /// Adds a line: the first of `lines` is exact, the others may stand in its place. Missing ends are −1.
    pub(crate) fn push(&mut self, lines: &[Vec<i64>]) {
        let start = self.value.len();
        let at = |line: &Vec<i64>, i: usize| line.get(i).copied().unwrap_or(-1);
        for i in 0..self.width {
            let exact = at(&lines[0], i);
            self.value.push(exact);
            let mut others: Vec<i64> = lines[1..].iter().map(|line| at(line, i)).collect();
            others.retain(|&other| other != exact);
            others.sort_unstable();
            others.dedup();
            if !others.is_empty() {
                self.also.insert(start + i, others);
            }
        }
    }

    /// The output, of this shape.
    pub(crate) fn expected(self, shape: &[usize]) -> Expected {
        let Self { value, also, .. } = self;
        Expected::Discrete(Discrete { dtype: DType::I32, shape: shape.to_vec(), value, also })
    }
}

/// One way in which a row of a chain draft may end.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ending {
    /// Accepted draft tokens.
    pub(crate) count: usize,
    /// The further token.
    pub(crate) token: i64,
    /// Tokens that rounding may put in its place.
    pub(crate) others: Vec<i64>,
}

/// The outputs of acceptance of chain drafts: `accepted` [batch], `tokens` [batch, draft_len + 1].
#[derive(Debug)]
pub(crate) struct Emitted {
    batch: usize,
    draft_len: usize,
    accepted: Column,
    tokens: Column,
}

impl Emitted {
    pub(crate) fn new(batch: usize, draft_len: usize) -> Self {
        let [accepted, tokens] = [1, draft_len + 1].map(Column::new);
        Self { batch, draft_len, accepted, tokens }
    }

    /// Adds a row: its endings, the exact one first, and its draft.
    pub(crate) fn push(&mut self, endings: &[Ending], draft: &[i32]) {
        let (mut counts, mut lines) = (Vec::new(), Vec::new());
        for Ending { count, token, others } in endings {
            counts.push(vec![*count as i64]);
            for further in std::iter::once(token).chain(others) {
                let kept = draft[..*count].iter().map(|&token| i64::from(token));
                lines.push(kept.chain([*further]).collect());
            }
        }
        self.accepted.push(&counts);
        self.tokens.push(&lines);
    }

    pub(crate) fn outputs(self) -> Outputs {
        Outputs::new()
            .with("accepted", self.accepted.expected(&[self.batch]))
            .with("tokens", self.tokens.expected(&[self.batch, self.draft_len + 1]))
    }
}
