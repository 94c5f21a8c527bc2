//! Speculative decoding as a whole on a text small enough to decode long: the law of what it emits, and faults in it.

use touchstone_bench::{
    gtest::FALSE_ALARM,
    speculative::{Decoded, Scheme, Speculation},
};
use touchstone_reference::{Draw, ngram};

const VOCAB: usize = 12;

/// Sentences in which a word depends on the two before it, so that orders 2 and 3 differ.
fn models() -> Speculation {
    let mut draw = Draw::new(5);
    let sentence = |draw: &mut Draw| {
        let mut words = vec![draw.below(VOCAB) as u32, draw.below(VOCAB) as u32];
        for i in 2..12 {
            let likely = (3 * words[i - 1] + words[i - 2] + 1) % VOCAB as u32;
            let word = if draw.below(3) > 0 { likely } else { draw.below(VOCAB) as u32 };
            words.push(word);
        }
        words
    };
    let sentences: Vec<Vec<u32>> = (0..400).map(|_| sentence(&mut draw)).collect();
    Speculation::train(&sentences, VOCAB)
}

fn decode(models: &Speculation, scheme: Scheme, steps: usize, seed: u64) -> Decoded {
    models.run(scheme, &vec![vec![ngram::bos(VOCAB)]; 100], steps, seed)
}

const REJECTION: [Scheme; 4] = [Scheme::Chain, Scheme::Block, Scheme::Tree, Scheme::Heads];

#[test]
fn every_scheme_by_rejection_emits_the_targets_law() {
    let models = models();
    for scheme in REJECTION.into_iter().chain([Scheme::Plain]) {
        let decoded = decode(&models, scheme, 400, 1);
        assert!(decoded.law > FALSE_ALARM, "{decoded:?}");
        assert_eq!(decoded.departure, 0.0);
    }
}

/// The outcomes are tested in the order of p/q, which sets apart what a draft from q gets wrong; the heads draft without
/// q, so that their fault must be larger to be seen.
#[test]
fn acceptance_that_is_off_by_some_percent_is_rejected() {
    let mut models = models();
    for scheme in REJECTION {
        models.fault = if scheme == Scheme::Heads { 1.0 / 0.85 } else { 1.0 / 0.94 };
        let decoded = decode(&models, scheme, 1000, 2);
        assert!(decoded.law < FALSE_ALARM, "{decoded:?}");
    }
}

/// Five and a half standard errors: a false alarm in 25 million.
#[test]
fn tokens_a_step_are_those_of_the_closed_form() {
    let models = models();
    for scheme in REJECTION {
        let decoded = decode(&models, scheme, 400, 3);
        let expected = decoded.expected.unwrap();
        let distance = (decoded.tokens_per_step() - expected).abs();
        assert!(distance < 5.5 * decoded.standard_error, "{decoded:?}");
        assert!(decoded.tokens_per_step() > 1.2, "{decoded:?}");
    }
}

/// Both expect what they accept from the same kind of draft: the block more.
#[test]
fn a_block_takes_fewer_steps_than_a_chain() {
    let models = models();
    let [chain, block] =
        [Scheme::Chain, Scheme::Block].map(|scheme| decode(&models, scheme, 1000, 4));
    let error = chain.standard_error.hypot(block.standard_error);
    assert!(block.expected.unwrap() > chain.expected.unwrap() - error, "{chain:?} {block:?}");
    assert!(block.tokens_per_step() > chain.tokens_per_step() - 3.0 * error, "{chain:?} {block:?}");
}

#[test]
fn typical_acceptance_departs_from_the_law_and_says_so() {
    let decoded = decode(&models(), Scheme::Typical, 200, 1);
    assert!(decoded.law < FALSE_ALARM, "{decoded:?}");
    assert!(decoded.departure > 0.05, "{decoded:?}");
    assert_eq!(decoded.expected, None);
}

#[test]
fn plain_decoding_emits_a_token_a_step() {
    let decoded = decode(&models(), Scheme::Plain, 10, 1);
    assert_eq!((decoded.tokens, decoded.steps), (1000, 1000));
    assert_eq!(decoded, decode(&models(), Scheme::Plain, 10, 1));
}
