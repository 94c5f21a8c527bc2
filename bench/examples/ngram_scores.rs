//! What an n-gram model says of every held-out word of a text, for a comparison with KenLM on the same ARPA file:
//! `bench/peers/kenlm_scores.py FOLDER` makes it.
//!
//! ```sh
//! cargo run --release --example ngram_scores -p touchstone-bench -- FOLDER [ORDER [TEXT]]
//! ```
//!
//! FOLDER, which must not exist, gets `model.arpa` (modified Kneser-Ney, on nine tenths of the text), `held_out.txt` (a
//! sentence a line) and `scores.tsv`: of every word and every end of a sentence log10 of its probability and how long an
//! n-gram of the model ends there, as read back from the ARPA file.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{BufReader, BufWriter, Write},
    path::Path,
};

use anyhow::Context;
use touchstone_bench::corpus::{Corpus, Vocabulary, split};
use touchstone_reference::ngram::{self, Smoothing, arpa};

/// Words seen once are left out, so that some are unknown in the text too.
const MIN_COUNT: usize = 2;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let folder = Path::new(arguments.first().context("usage: ngram_scores FOLDER [ORDER [TEXT]]")?);
    let order = arguments.get(1).map_or(Ok(5), |n| n.parse()).context("ORDER is no number")?;
    anyhow::ensure!((1..=6).contains(&order), "ORDER {order} is not from 1 to 6");
    let corpus = match arguments.get(2) {
        Some(file) => Corpus::from_file(Path::new(file))?,
        None => Corpus::embedded(),
    };
    fs::create_dir(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let [train, held_out] = split(&corpus.sentences());
    let vocabulary = Vocabulary::new(&train, MIN_COUNT, usize::MAX);
    let ids: Vec<Vec<u32>> = train.iter().map(|sentence| vocabulary.ids(sentence)).collect();
    let model = ngram::train(&ids, vocabulary.len(), order, Smoothing::KneserNey);
    let words: Vec<String> =
        (0..vocabulary.len()).map(|id| vocabulary.word(id as u32).to_owned()).collect();
    let path = folder.join("model.arpa");
    arpa::write(&model, &words, BufWriter::new(File::create(&path)?))?;

    let (model, words) = arpa::read(BufReader::new(File::open(&path)?))?;
    let ids: HashMap<&str, u32> = words.iter().map(String::as_str).zip(0..).collect();
    let mut text = BufWriter::new(File::create(folder.join("held_out.txt"))?);
    let mut scores = BufWriter::new(File::create(folder.join("scores.tsv"))?);
    let mut tokens = 0;
    for sentence in &held_out {
        writeln!(text, "{}", sentence.join(" "))?;
        let known = |word: &String| ids.get(word.as_str()).copied().unwrap_or(model.unk());
        for token in model.score(&sentence.iter().map(known).collect::<Vec<_>>()) {
            writeln!(scores, "{}\t{}", token.log10_prob, token.matched)?;
            tokens += 1;
        }
    }
    println!(
        "{} n-grams up to order {order} of {}; {tokens} held-out tokens scored in {}",
        model.ngrams(),
        corpus.name(),
        folder.display()
    );
    Ok(())
}
