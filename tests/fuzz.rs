//! No parser of the project panics, whatever it is given. Each gets mutated seeds for a second, or for
//! `TOUCHSTONE_FUZZ_SECONDS`; a failure is shrunk and printed. `TOUCHSTONE_FUZZ_SEEDS=FOLDER` writes the seeds
//! there instead, a folder for each parser, for the coverage-guided run in `tests/fuzz/`.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use proptest::{
    prelude::*,
    sample::Index,
    test_runner::{Config, TestRunner},
};

mod parsers;

use parsers::{PARSERS, Parser};

/// One change of a text.
#[derive(Clone, Debug)]
enum Mutation {
    /// Leave out what follows.
    Cut(Index),
    /// Leave out some bytes.
    Remove(Index, usize),
    /// Say some bytes once more, further on.
    Copy(Index, usize, Index),
    /// Put bytes in.
    Insert(Index, Vec<u8>),
    /// Put a piece of the language in.
    Word(Index, Index),
    /// Replace a byte.
    Set(Index, u8),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<Index>;
    prop_oneof![
        1 => at().prop_map(Mutation::Cut),
        3 => (at(), 1..64usize).prop_map(|(i, n)| Mutation::Remove(i, n)),
        3 => (at(), 1..200usize, at()).prop_map(|(i, n, to)| Mutation::Copy(i, n, to)),
        2 => (at(), prop::collection::vec(any::<u8>(), 1..8)).prop_map(|(i, b)| Mutation::Insert(i, b)),
        6 => (at(), at()).prop_map(|(i, word)| Mutation::Word(i, word)),
        6 => (at(), prop_oneof![any::<u8>(), 0x20..0x7fu8]).prop_map(|(i, b)| Mutation::Set(i, b)),
    ]
}

/// Numbers and pieces that are trouble in every language.
const WORDS: [&str; 8] = [
    "0",
    "-1",
    "18446744073709551616",
    "9223372036854775807",
    "1e308",
    "NaN",
    "\u{0}",
    "\u{10FFFF}",
];

fn apply(bytes: &mut Vec<u8>, mutation: &Mutation, words: &[&str]) {
    // One past the end is a place too, for insertions.
    let place = |index: &Index, bytes: &[u8]| index.index(bytes.len() + 1);
    let span = |from: usize, n: usize, bytes: &[u8]| from..(from + n).min(bytes.len());
    match mutation {
        Mutation::Cut(at) => bytes.truncate(place(at, bytes)),
        Mutation::Remove(at, n) => {
            bytes.drain(span(place(at, bytes), *n, bytes));
        }
        Mutation::Copy(at, n, to) => {
            let piece = bytes[span(place(at, bytes), *n, bytes)].to_vec();
            let to = place(to, bytes);
            bytes.splice(to..to, piece);
        }
        Mutation::Insert(at, piece) => {
            let at = place(at, bytes);
            bytes.splice(at..at, piece.iter().copied());
        }
        Mutation::Word(at, word) => {
            let all: Vec<&str> = words.iter().chain(&WORDS).copied().collect();
            let at = place(at, bytes);
            bytes.splice(at..at, word.get(&all).bytes());
        }
        Mutation::Set(at, byte) => {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
        }
    }
}

fn fuzz(name: &str) {
    let parser = PARSERS.iter().find(|parser| parser.name == name).expect("it is listed");
    let seeds = (parser.seeds)();
    if let Some(folder) = std::env::var_os("TOUCHSTONE_FUZZ_SEEDS") {
        return write(parser, &seeds, std::path::Path::new(&folder));
    }
    for seed in &seeds {
        (parser.read)(seed);
    }
    let seconds = std::env::var("TOUCHSTONE_FUZZ_SECONDS").ok();
    let seconds =
        seconds.map_or(1.0, |text| text.parse().expect("TOUCHSTONE_FUZZ_SECONDS is a number"));
    let (begin, given) = (Instant::now(), Cell::new(0u64));
    let inputs = (any::<Index>(), prop::collection::vec(mutation(), 1..8));
    while begin.elapsed() < Duration::from_secs_f64(seconds) {
        let config = Config { cases: 256, failure_persistence: None, ..Config::default() };
        let checked = TestRunner::new(config).run(&inputs, |(seed, mutations)| {
            let mut bytes = seed.get(&seeds).clone();
            for mutation in &mutations {
                apply(&mut bytes, mutation, parser.words);
            }
            given.set(given.get() + 1);
            let read = std::panic::catch_unwind(|| (parser.read)(&bytes));
            prop_assert!(read.is_ok(), "panicked on \"{}\"", bytes.escape_ascii());
            Ok(())
        });
        if let Err(error) = checked {
            panic!("{name}: {error}");
        }
    }
    println!("{name}: {} inputs in {:.1} s", given.get(), begin.elapsed().as_secs_f64());
}

fn write(parser: &Parser, seeds: &[Vec<u8>], folder: &std::path::Path) {
    let folder = folder.join(parser.name);
    std::fs::create_dir_all(&folder).unwrap();
    for (index, seed) in seeds.iter().enumerate() {
        std::fs::write(folder.join(format!("seed-{index}")), seed).unwrap();
    }
    // libFuzzer refuses a whole dictionary for an escape that it does not know.
    let byte = |byte: u8| match byte {
        b'"' | b'\\' => format!("\\{}", char::from(byte)),
        b' '..=b'~' => char::from(byte).to_string(),
        _ => format!("\\x{byte:02x}"),
    };
    let word = |word: &str| format!("\"{}\"\n", word.bytes().map(byte).collect::<String>());
    let words: String = parser.words.iter().chain(&WORDS).map(|w| word(w)).collect();
    std::fs::write(folder.with_extension("dict"), words).unwrap();
}

macro_rules! each_parser {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            fuzz(stringify!($name));
        })*

        #[test]
        fn every_parser_is_fed() {
            assert_eq!(PARSERS.iter().map(|p| p.name).collect::<Vec<_>>(), [$(stringify!($name)),*]);
        }
    };
}

each_parser! { case workloads records arpa corpus safetensors launch formula ptx_kernels ptx_signature }
