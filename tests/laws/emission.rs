//! Problems whose rows share their distributions, and the law that what they emit must follow.

use touchstone_reference::{
    Case, DType, Draw, Tensors,
    acceptance::{chain, chain_logits, law},
    decoding::{
        block,
        law::{completed, sequences},
        topology::Shape,
        tree::{self, Drafts},
    },
};

/// The operations that promise the target's law.
pub const OPERATIONS: [&str; 4] =
    ["acceptance.chain", "acceptance.chain_logits", "decoding.tree", "decoding.block"];

/// Temperature of the rows that are given as logits.
const TEMPERATURE: f32 = 0.5;

/// A problem of many equal rows.
pub struct Question {
    pub case: Case,
    pub inputs: Tensors,
    /// Positions of a row's tokens.
    width: usize,
    laws: Laws,
}

/// p by position and q by position.
type Laws = (Vec<Vec<f32>>, Vec<Vec<f32>>);

/// A token without mass under each, a last position without draft. The chain takes rows that do not sum to one.
fn laws(op: &str) -> Laws {
    let last = if op.starts_with("acceptance.") { 0.25 } else { 0.2 };
    (
        vec![vec![0.3, 0.25, 0.2, 0.25, 0.0], vec![0.1, 0.4, 0.0, 0.2, 0.3], vec![last; 5]],
        vec![vec![0.2, 0.35, 0.25, 0.0, 0.2], vec![0.2, 0.3, 0.1, 0.0, 0.4]],
    )
}

/// The same for variants that take rows of whole words.
fn laws_of_four_tokens() -> Laws {
    (
        vec![vec![0.3, 0.0, 0.45, 0.25], vec![0.1, 0.4, 0.0, 0.5], vec![0.25; 4]],
        vec![vec![0.2, 0.35, 0.45, 0.0], vec![0.2, 0.3, 0.1, 0.4]],
    )
}

/// The questions asked of an operation.
pub fn questions(op: &str, rows: usize) -> Vec<Question> {
    const SEED: u64 = 11;
    let laws = laws(op);
    if op == "decoding.tree" {
        let of = |drafts| {
            let shape = (Shape::Binary, 7);
            let (params, inputs) = tree::repeated((&laws.0, &laws.1), shape, drafts, rows, SEED);
            let case = Case::new(op, &params, SEED);
            Question { case, inputs, width: params.nodes, laws: laws.clone() }
        };
        return [Drafts::Independent, Drafts::Distinct, Drafts::Top].map(of).into();
    }
    if op == "acceptance.chain_logits" {
        let of = |dtype| {
            let (params, inputs) =
                chain_logits::repeated((&laws.0, &laws.1), (TEMPERATURE, dtype), rows, SEED);
            let case = Case::new(op, &params, SEED);
            Question { case, inputs, width: params.draft_len + 1, laws: laws.clone() }
        };
        return [DType::F32, DType::Bf16].map(of).into();
    }
    let of = |laws: Laws| {
        let (params, inputs) = chain::repeated(&laws.0, &laws.1, rows, SEED);
        let width = params.draft_len + 1;
        let case = match op {
            "decoding.block" => Case::new(op, &block::Params::from(params), SEED),
            _ => Case::new(op, &params, SEED),
        };
        Question { case, inputs, width, laws }
    };
    match op {
        "acceptance.chain" => vec![of(laws), of(laws_of_four_tokens())],
        _ => vec![of(laws)],
    }
}

impl Question {
    /// How often each outcome came, and how probable it is: of the chain the joint law of length and tokens, otherwise
    /// that of the tokens, continued by the target.
    pub fn counts(&self, tokens: &[i64]) -> (Vec<u64>, Vec<f64>) {
        let (mut target, mut draft) = self.laws.clone();
        if self.case.op() == "acceptance.chain_logits" {
            (target, draft) = (self.stored("target_logits"), self.stored("draft_logits"));
        }
        let chain = self.case.op().starts_with("acceptance.");
        let law = if chain { law::joint(&target, &draft) } else { sequences(&target) };
        let (mut counts, mut draw) = (vec![0; law.len()], Draw::new(12));
        for row in tokens.chunks(self.width) {
            let emitted: Vec<i64> = row.iter().copied().take_while(|&token| token >= 0).collect();
            let cell = match chain {
                true => law::cell(&emitted, target[0].len()),
                false => completed(&emitted, &target, &mut draw),
            };
            counts[cell] += 1;
        }
        (counts, law)
    }

    /// Weights that the logits stand for as they are stored, by position: those of the first row, for all are equal.
    fn stored(&self, name: &str) -> Vec<Vec<f32>> {
        let logits = self.inputs.tensor(name);
        let (positions, vocab) = (logits.shape()[1], logits.shape()[2]);
        let weight = |i| (logits.real_at(i) / f64::from(TEMPERATURE)).exp() as f32;
        let law = |position| (0..vocab).map(|t| weight(position * vocab + t)).collect();
        (0..positions).map(law).collect()
    }
}
