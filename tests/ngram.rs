//! Laws of n-gram counting, estimation, scoring and ARPA files.

#[path = "cases/ngram.rs"]
mod cases;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use touchstone_bench::verify::{self, Problem, Verdict};
use touchstone_cuda::{simulator::Simulator, variants};
use touchstone_reference::{
    Algorithm, Case, Data, Discrete, Draw, Expected, Tensor, Tensors,
    ngram::{
        Count, CountParams, Model, Perplexity, Score, Smoothing, Source, Values, arpa,
        score::tensors, train,
    },
    operation,
};

/// Sentences over `0..vocab`, with an occasional unknown word.
fn text(vocab: usize) -> impl Strategy<Value = Vec<Vec<u32>>> {
    prop::collection::vec(prop::collection::vec(0..=vocab as u32, 0..9), 0..25)
}

fn smoothing() -> impl Strategy<Value = Smoothing> {
    prop_oneof![
        Just(Smoothing::KneserNey),
        (0.01..2.0).prop_map(Smoothing::AddK),
        Just(Smoothing::StupidBackoff)
    ]
}

fn model() -> impl Strategy<Value = Model> {
    (1..=5usize, 1..7usize, smoothing()).prop_flat_map(|(order, vocab, smoothing)| {
        text(vocab).prop_map(move |text| train(&text, vocab, order, smoothing))
    })
}

/// All n-grams of the model as contexts, and some that it may lack.
fn contexts(model: &Model) -> Vec<Vec<u32>> {
    let known = (1..=model.order()).flat_map(|order| model.table(order).keys().cloned());
    let mut contexts: Vec<Vec<u32>> = known.collect();
    contexts.extend([vec![], vec![model.unk(); 3], vec![model.bos(), 0, 0, 0]]);
    contexts
}

/// The distinct n-grams of a case and their counts, as the reference has them.
fn counted(p: &CountParams, seed: u64) -> BTreeMap<u64, i64> {
    let outputs = Count::reference(p, &Count::inputs(p, &mut Draw::new(seed)));
    let integers = |name| match outputs.output(name) {
        Expected::Discrete(Discrete { value, .. }) => value.clone(),
        Expected::Real(_) => panic!("'{name}' is not discrete"),
    };
    let unique = integers("unique")[0] as usize;
    let (ngrams, counts) = (integers("ngrams"), integers("counts"));
    assert!(counts[unique..].iter().chain(&ngrams[unique..]).all(|&v| v == 0));
    assert!(counts[..unique].iter().all(|&count| count > 0));
    let table: BTreeMap<u64, i64> = ngrams
        .iter()
        .zip(counts)
        .take(unique)
        .map(|(&ngram, count)| (ngram as u64, count))
        .collect();
    assert_eq!(table.len(), unique, "n-grams repeat");
    table
}

proptest! {
    #[test]
    fn probabilities_sum_to_one_over_the_vocabulary_for_every_context(
        order in 1..=5usize,
        text in text(5),
        smoothing in prop_oneof![Just(Smoothing::KneserNey), (0.01..2.0).prop_map(Smoothing::AddK)],
    ) {
        let model = train(&text, 5, order, smoothing);
        for context in contexts(&model) {
            let distribution = model.distribution(&context);
            prop_assert_eq!(distribution.len(), 5 + 2);
            prop_assert!(distribution.iter().all(|&p| p > 0.0));
            let sum: f64 = distribution.iter().sum();
            prop_assert!((sum - 1.0).abs() < 1e-9, "sum {} after {:?}", sum, context);
        }
    }

    #[test]
    fn an_absent_ngram_costs_its_context_s_back_off_weight(model in model(), word in 0..3u32) {
        let word = word.min(model.eos());
        for context in contexts(&model).into_iter().filter(|c| (1..model.order()).contains(&c.len())) {
            let ngram = [&context[..], &[word]].concat();
            let (score, shorter) = (model.token(&context, word), model.token(&context[1..], word));
            match (model.entry(&ngram), model.entry(&context)) {
                (Some(entry), _) => prop_assert_eq!(score.log10_prob, entry.log10_prob),
                (None, Some(context)) => {
                    let backed_off = context.log10_backoff + shorter.log10_prob;
                    prop_assert!((score.log10_prob - backed_off).abs() < 1e-12);
                }
                (None, None) => prop_assert_eq!(score, shorter),
            }
        }
    }

    #[test]
    fn the_matched_length_is_that_of_the_longest_suffix_the_model_has(
        model in model(),
        sentence in prop::collection::vec(0..9u32, 0..12),
    ) {
        let words = sentence.iter().map(|&w| w.min(model.unk()));
        let ids: Vec<u32> = [model.bos()].into_iter().chain(words).chain([model.eos()]).collect();
        for (at, score) in (1..).zip(model.score(&sentence)) {
            let suffixes = (0..=at).map(|from| &ids[from..=at]).filter(|s| model.entry(s).is_some());
            prop_assert_eq!(Some(score.matched), suffixes.map(<[u32]>::len).max());
            prop_assert!(score.matched <= model.order() && score.log10_prob <= 1e-12);
        }
    }

    #[test]
    fn every_suffix_and_every_context_of_an_ngram_is_in_the_model(model in model()) {
        for order in 2..=model.order() {
            for ngram in model.table(order).keys() {
                prop_assert!(model.entry(&ngram[1..]).is_some() && model.entry(&ngram[..order - 1]).is_some());
            }
        }
    }

    #[test]
    fn a_sentence_scores_the_sum_of_its_tokens(model in model(), text in text(8)) {
        let sum: f64 = text.iter().flat_map(|s| model.score(s)).map(|s| s.log10_prob).sum();
        let Perplexity { all, tokens, unknown, .. } = model.perplexity(&text);
        let words = text.iter().flatten();
        prop_assert_eq!(unknown, words.clone().filter(|&&w| w >= model.unk()).count());
        prop_assert_eq!(tokens, words.count() + text.len());
        prop_assert!(text.is_empty() || (all.log10() * tokens as f64 + sum).abs() <= 1e-9 * sum.abs().max(1.0));
    }

    #[test]
    fn kneser_ney_fits_its_own_text_better_than_a_uniform_guess(text in text(6)) {
        prop_assume!(!text.is_empty());
        let model = train(&text, 6, 3, Smoothing::KneserNey);
        prop_assert!(model.perplexity(&text).all <= 8.0 + 1e-9);
    }

    #[test]
    fn arpa_text_brings_the_same_model_back(model in model()) {
        let words: Vec<String> = (0..model.vocab()).map(|id| format!("w{id}é")).collect();
        let mut text = Vec::new();
        arpa::write(&model, &words, &mut text).unwrap();
        let (again, words_again) = arpa::read(&text[..]).unwrap();
        prop_assert_eq!(words_again, words);
        prop_assert_eq!(again, model);
    }

    #[test]
    fn damaged_arpa_text_is_an_error_that_names_a_line_or_a_model_but_no_panic(
        model in model(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let words: Vec<String> = (0..model.vocab()).map(|id| format!("w{id}")).collect();
        let mut text = Vec::new();
        arpa::write(&model, &words, &mut text).unwrap();
        let truncated = &text[..cut.index(text.len() - "\\end\\\n".len())];
        let error = arpa::read(truncated).unwrap_err();
        let named = format!("line {}: ", error.line);
        prop_assert!(error.to_string().starts_with(&named));
        prop_assert!(error.line <= truncated.split(|&b| b == b'\n').count() + 1);
        for (at, byte) in damage {
            let at = at.index(text.len());
            text[at] = byte;
        }
        if let Err(error) = arpa::read(&text[..]) {
            prop_assert!(error.line >= 1 && !error.problem.is_empty());
        }
    }

    #[test]
    fn counts_sum_to_the_number_of_positions((p, seed) in cases::count()) {
        prop_assert_eq!(counted(&p, seed).values().sum::<i64>() as usize, p.capacity());
    }

    #[test]
    fn counts_of_longer_ngrams_sum_to_those_of_their_prefix((p, seed) in cases::count()) {
        prop_assume!(p.order > 1 && p.tokens >= p.order);
        let mut prefixes = BTreeMap::<u64, i64>::new();
        for (ngram, count) in counted(&p, seed) {
            *prefixes.entry(ngram >> p.bits()).or_default() += count;
        }
        let mut shorter = counted(&CountParams { order: p.order - 1, ..p }, seed);
        // The stream's last (n−1)-gram continues nowhere.
        let tokens = Count::inputs(&p, &mut Draw::new(seed)).tensor("tokens").to_i64();
        let last = tokens[p.tokens + 1 - p.order..].iter().fold(0u64, |key, &t| key << p.bits() | t as u64);
        *shorter.get_mut(&last).unwrap() -= 1;
        shorter.retain(|_, count| *count > 0);
        prop_assert_eq!(prefixes, shorter);
    }

    #[test]
    fn the_order_of_counted_entries_does_not_matter((p, seed) in cases::count()) {
        let table = counted(&p, seed);
        let unique = table.len();
        let outputs = |pairs: Vec<(u64, i64)>| {
            let mut ngrams: Vec<u64> = pairs.iter().map(|pair| pair.0).collect();
            let mut counts: Vec<u32> = pairs.iter().map(|pair| pair.1 as u32).collect();
            ngrams.resize(p.capacity(), 0);
            counts.resize(p.capacity(), 0);
            Tensors::new()
                .with("ngrams", Tensor::new(&[p.capacity()], Data::U64(ngrams)))
                .with("counts", Tensor::new(&[p.capacity()], Data::U32(counts)))
                .with("unique", Tensor::new(&[1], Data::I64(vec![unique as i64])))
        };
        let ascending: Vec<(u64, i64)> = table.into_iter().collect();
        let descending = ascending.iter().rev().copied().collect();
        prop_assert_eq!(Count::canonical(&p, outputs(descending)), outputs(ascending));
    }

    #[test]
    fn quantized_models_have_few_values_near_the_estimated_ones(model in model()) {
        let (exact, few) = (tensors(&model, Values::F32), tensors(&model, Values::Q8));
        for name in ["prob", "backoff"] {
            let (exact, few) = (exact.tensor(name).to_f64(), few.tensor(name).to_f64());
            let distinct: BTreeSet<u64> = few.iter().map(|v| v.to_bits()).collect();
            prop_assert!(distinct.len() <= 256 * model.order());
            // Fewer than 256 n-grams an order: every value is its own bin, or equal ones share one.
            if model.ngrams() < 256 {
                let rounding = |(e, f): (&f64, &f64)| (e - f).abs() <= 1e-6 * e.abs();
                prop_assert!(exact.iter().zip(&few).all(rounding));
            }
        }
    }

    #[test]
    fn generated_cases_have_valid_inputs((p, seed) in cases::score(), (q, count_seed) in cases::count()) {
        let case = Case::new("ngram.score", &p, seed);
        let inputs = operation(&case).unwrap().inputs(&case).unwrap();
        let length = |name| inputs.tensor(name).len();
        let sizes = inputs.tensor("sizes").to_i64();
        prop_assert_eq!(length("tokens"), p.tokens);
        prop_assert!(inputs.tensor("tokens").to_i64().iter().all(|&id| id < sizes[0]));
        prop_assert_eq!(length("prob") as i64, sizes.iter().sum::<i64>());
        prop_assert_eq!(length("backoff") as i64, sizes[..p.order - 1].iter().sum::<i64>());
        let outputs = Score::reference(&p, &inputs);
        prop_assert!(outputs.output("log10_prob").values().iter().all(|v| v.is_finite()));

        let case = Case::new("ngram.count", &q, count_seed);
        let inputs = operation(&case).unwrap().inputs(&case).unwrap();
        prop_assert!(inputs.tensor("tokens").to_i64().iter().all(|&token| (token as usize) < q.vocab));
    }
}

#[test]
fn every_operation_has_a_strategy() {
    let named: BTreeSet<&str> = cases::strategies().iter().map(|(op, _)| *op).collect();
    let listed = touchstone_reference::ngram::OPERATIONS.iter().map(|operation| operation.name);
    assert_eq!(named, listed.collect());
}

/// What `ngram_hashed.cuh` hashes to `hash`: its bijection undone, by the inverses of its factors modulo 2³².
fn hashed_to(hash: u32) -> u32 {
    let inverse = |factor: u32| {
        (0..5).fold(factor, |x, _| x.wrapping_mul(2u32.wrapping_sub(factor.wrapping_mul(x))))
    };
    let key = hash.wrapping_mul(inverse(0x85eb_ca77));
    (key ^ (key >> 16)).wrapping_mul(inverse(0x9e37_79b1))
}

/// Tokens whose hashes differ in their low bits alone share a bucket and the first slot that they try there; the hash
/// with all bits set marks free slots. No drawn case of a size to simulate fills a table, so that its keys are counted
/// class by class; nor has one a large bucket of which one key is most, the marking one too.
#[test]
fn a_bucket_that_its_block_cannot_hold_is_counted() {
    let once: Vec<u32> = (0..1500).chain([u32::MAX]).map(hashed_to).collect();
    let simulator = Simulator::new();
    let mostly = |hash: u32| [once.clone(), vec![hashed_to(hash); 6000]].concat();
    // Few enough for every thread to hold its keys at once, and more.
    for tokens in [once.clone(), once.repeat(3), mostly(7), mostly(u32::MAX)] {
        let p =
            CountParams { tokens: tokens.len(), order: 1, vocab: 1 << 32, source: Source::Uniform };
        let tokens = Tensors::new().with("tokens", Tensor::new(&[p.tokens], Data::U32(tokens)));
        let case = Case::new("ngram.count", &p, 0);
        let problem = Problem::with_inputs(&case, tokens, "of one bucket").unwrap();
        for name in ["partition", "packed"] {
            let variant = variants().find(|v| v.op == "ngram.count" && v.name == name).unwrap();
            let plan = verify::plan(variant, &problem).unwrap();
            let prepared = verify::prepare(&simulator, &plan).unwrap().unwrap();
            let verdict = verify::verify(&prepared, &problem, variant.deterministic).unwrap();
            assert!(matches!(verdict, Verdict::Right(_)), "{name}: {verdict:?}");
        }
    }
}
