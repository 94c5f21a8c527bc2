//! The text chain on the embedded corpus and on users' files, good and bad.

use std::{io::Write, sync::LazyLock};

use touchstone_bench::{
    Problem,
    corpus::{Corpus, CorpusError},
    gtest::FALSE_ALARM,
    speculative::Scheme,
    text_chain::TextChain,
};

static EMBEDDED: LazyLock<TextChain> =
    LazyLock::new(|| TextChain::run(&Corpus::embedded()).unwrap());

fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn perplexities(smoothing: &str) -> Vec<f64> {
    let models = EMBEDDED.models.iter().filter(|model| model.smoothing == smoothing);
    models.map(|model| model.perplexity).collect()
}

#[test]
fn the_embedded_corpus_gives_a_whole_result() {
    let chain = &*EMBEDDED;
    assert!(chain.words > 7000 && chain.words == chain.words_used);
    assert!(chain.train_words < chain.words && chain.vocabulary > 500);
    assert!((0.0..0.6).contains(&chain.unknown), "{}", chain.unknown);
    assert_eq!(chain.models.len(), 10);
    assert_eq!(chain.embeddings.neighbours.len(), 6);
}

/// Context helps a Kneser–Ney model, and a longer one never hurts it much.
#[test]
fn bigrams_predict_held_out_text_better_than_unigrams() {
    let kneser_ney = perplexities("kneser_ney");
    assert!(kneser_ney.iter().all(|p| p.is_finite() && *p > 1.0));
    assert!(kneser_ney[1] < kneser_ney[0], "{kneser_ney:?}");
    assert!(kneser_ney[4] < 1.1 * kneser_ney[1], "{kneser_ney:?}");
}

#[test]
fn kneser_ney_predicts_better_than_adding_counts() {
    let (kneser_ney, add_k) = (perplexities("kneser_ney"), perplexities("add_k"));
    assert!(kneser_ney[2] < add_k[2], "{kneser_ney:?} {add_k:?}");
}

#[test]
fn models_grow_with_their_order() {
    for models in EMBEDDED.models.chunks(5) {
        assert!(models.windows(2).all(|m| m[0].ngrams < m[1].ngrams && m[0].bytes < m[1].bytes));
    }
}

#[test]
fn the_embeddings_loss_falls() {
    let losses = &EMBEDDED.embeddings.losses;
    assert!(losses.last().unwrap() < &(0.9 * losses[0]), "{losses:?}");
}

/// Five standard errors: one false alarm in two million seeds, and the seed is fixed.
#[test]
fn the_measured_acceptance_rate_is_the_theoretical_one() {
    let acceptance = &EMBEDDED.acceptance;
    let deviation = (acceptance.measured - acceptance.theoretical).abs();
    assert!(deviation < 5.0 * acceptance.standard_error, "{acceptance:?}");
    assert!((0.2..1.0).contains(&acceptance.theoretical), "{acceptance:?}");
    assert!((1.0..=5.0).contains(&acceptance.tokens_per_step), "{acceptance:?}");
}

/// The other schemes' laws are tested at length in tests/speculative.rs.
#[test]
fn every_scheme_decodes_the_held_out_contexts() {
    let schemes: Vec<Scheme> = EMBEDDED.speculation.iter().map(|d| d.scheme).collect();
    assert_eq!(schemes, Scheme::ALL);
    for decoded in EMBEDDED.speculation.iter().filter(|d| d.expected.is_some()) {
        assert!(decoded.law > FALSE_ALARM, "{decoded:?}");
        assert!(decoded.tokens >= decoded.steps, "{decoded:?}");
    }
}

#[test]
fn real_inputs_fit_their_cases() {
    let problems = EMBEDDED.problems();
    let ops: Vec<String> = problems.iter().map(|(case, _)| case.op().to_string()).collect();
    assert_eq!(ops, ["ngram.count", "ngram.count", "embedding.gather", "acceptance.chain"]);
    for (case, inputs) in problems {
        let operation = touchstone_reference::operation(&case).unwrap();
        let drawn = operation.inputs(&case).unwrap();
        for (name, tensor) in drawn.iter() {
            let real = inputs.tensor(name);
            assert_eq!((real.shape(), real.dtype()), (tensor.shape(), tensor.dtype()), "{name}");
        }
        let problem = Problem::with_inputs(&case, inputs, "corpus").unwrap();
        assert!(!problem.expected.is_empty(), "{case}");
    }
}

#[test]
fn a_result_survives_json() {
    let json = serde_json::to_string(&*EMBEDDED).unwrap();
    let back: TextChain = serde_json::from_str(&json).unwrap();
    assert_eq!(back.models.len(), EMBEDDED.models.len());
    for (back, model) in back.models.iter().zip(&EMBEDDED.models) {
        assert_eq!((back.order, back.ngrams), (model.order, model.ngrams));
        // Reading a decimal number may be one rounding off.
        assert!((back.perplexity / model.perplexity - 1.0).abs() < 1e-12);
    }
    assert!(back.problems().is_empty());
}

#[test]
fn the_same_text_gives_the_same_result() {
    let text = "the cat sat on the mat. a dog sat on a cat! ".repeat(30);
    let corpus = Corpus::from_text("cats", &text);
    assert_eq!(TextChain::run(&corpus).unwrap(), TextChain::run(&corpus).unwrap());
}

#[test]
fn a_users_file_is_read() {
    let file = file("Ein Satz, noch ein Satz. Grün ist grün.\n".repeat(20).as_bytes());
    let corpus = Corpus::from_file(file.path()).unwrap();
    let chain = TextChain::run(&corpus).unwrap();
    assert_eq!((chain.words, chain.sentences), (160, 40));
}

#[test]
fn bytes_that_are_not_utf8_are_named_with_line_and_offset() {
    let file = file(b"one\ntwo\xff three");
    let error = Corpus::from_file(file.path()).unwrap_err();
    assert!(matches!(error, CorpusError::NotUtf8 { line: 2, offset: 7, byte: 0xff, .. }));
    let message = error.to_string();
    assert!(message.contains(file.path().to_str().unwrap()), "{message}");
    assert!(message.contains("line 2, byte offset 7"), "{message}");
    // A character cut off by the end of the file.
    let file = self::file(b"caf\xc3");
    let error = Corpus::from_file(file.path()).unwrap_err();
    assert!(matches!(error, CorpusError::NotUtf8 { line: 1, offset: 3, byte: 0xc3, .. }));
}

#[test]
fn missing_empty_and_tiny_files_are_refused_by_name() {
    let missing = Corpus::from_file("no/such/corpus.txt".as_ref()).unwrap_err().to_string();
    assert!(missing.contains("no/such/corpus.txt"), "{missing}");
    for empty in ["", " \n\n", "...\n"] {
        let file = file(empty.as_bytes());
        let error = Corpus::from_file(file.path()).unwrap_err().to_string();
        assert!(error.contains("no word"), "{error}");
    }
    let tiny = TextChain::run(&Corpus::from_text("tiny", "One sentence. Two.")).unwrap_err();
    assert!(tiny.to_string().contains("2 sentences"), "{tiny}");
    let words: String = (0..100).map(|i| format!("word{i}. ")).collect();
    let unique = TextChain::run(&Corpus::from_text("unique", &words)).unwrap_err();
    assert!(unique.to_string().contains("no word occurs twice"), "{unique}");
}
