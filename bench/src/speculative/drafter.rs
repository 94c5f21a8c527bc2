//! What drafts: an n-gram model or heads that grow a tree of guesses behind a context.

use touchstone_reference::{
    Draw,
    decoding::{
        topology::Topology,
        tree::{Drafts, draft_tokens},
    },
    ngram,
};

use super::models::{Heads, Predictor};

/// A draft model and heads over one vocabulary.
#[derive(Clone, Debug)]
pub struct Drafter {
    draft: Predictor,
    heads: Heads,
    vocab: usize,
}

/// A tree of guesses.
#[derive(Clone, Debug, Default)]
pub struct Drafted {
    /// Token of each node; −1 for the root.
    pub tokens: Vec<i32>,
    /// The draft model's distribution after each node, one behind the other.
    pub laws: Vec<f32>,
    /// What stands before a node's successors, of each node.
    pub contexts: Vec<Vec<u32>>,
}

impl Drafter {
    /// An n-gram model of `order` and heads that look `depth` tokens ahead, trained on sentences over `vocab` words.
    pub fn train(sentences: &[Vec<u32>], vocab: usize, order: usize, depth: usize) -> Self {
        let draft = Predictor::train(sentences, vocab, order);
        Self { draft, heads: Heads::train(sentences, vocab, depth), vocab }
    }

    /// Outcomes of a distribution: words, `<unk>`, `</s>`.
    pub fn outcomes(&self) -> usize {
        self.vocab + 2
    }

    /// Guesses behind a context: the draft model's, or with `top` the heads', which see no guess of another.
    pub fn grow(
        &mut self,
        context: &[u32],
        tree: &Topology,
        drafts: Drafts,
        draw: &mut Draw,
    ) -> Drafted {
        let nodes = tree.len();
        let mut drafted = Drafted {
            tokens: vec![-1; nodes],
            laws: Vec::with_capacity(nodes * self.outcomes()),
            contexts: vec![context.to_vec(); nodes],
        };
        for node in 0..nodes {
            let q = self.draft.after(&drafted.contexts[node]);
            let children: Vec<usize> = tree.children(node).collect();
            let drawn: Vec<i32> = if drafts == Drafts::Top {
                let distance = tree.path(node).len();
                self.heads.top(context, self.vocab, distance, children.len())
            } else {
                let drawn = draft_tokens(drafts, Default::default(), q, children.len(), draw);
                drawn.into_iter().map(|token| token as i32).collect()
            };
            drafted.laws.extend_from_slice(q);
            for (child, token) in children.into_iter().zip(drawn) {
                drafted.tokens[child] = token;
                drafted.contexts[child] = self.extended(&drafted.contexts[node], token as u32);
            }
        }
        drafted
    }

    /// The draft model's distribution.
    pub(super) fn after(&mut self, context: &[u32]) -> &[f32] {
        self.draft.after(context)
    }

    /// A context with one more token: a sentence that ends is followed by the next one's beginning.
    pub fn extended(&self, context: &[u32], token: u32) -> Vec<u32> {
        /// More words than any of the models looks back.
        const KEPT: usize = 8;
        if token == ngram::eos(self.vocab) {
            return vec![ngram::bos(self.vocab)];
        }
        let kept = context.len().saturating_sub(KEPT);
        [&context[kept..], &[token]].concat()
    }
}
