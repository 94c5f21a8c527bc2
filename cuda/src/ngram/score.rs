//! Plans of `ngram.score`.

use touchstone_reference::{Case, DType, Data, Tensor, Tensors};

use super::layout::{HashTable, Levels, Trie, coded};
use crate::{
    plan::{Arg, Plan},
    variant::Unsupported,
};

/// Adds tokens and outputs to a plan and launches `symbol`, a thread a token: the layout's arguments, then
/// tokens, outputs, number of tokens and order, then `last`.
fn launch(
    mut plan: Plan,
    inputs: &Tensors,
    module: &'static str,
    symbol: &str,
    layout: &[Arg],
    last: u32,
) -> Plan {
    let n = inputs.tensor("tokens").len();
    let order = inputs.tensor("sizes").len();
    let tokens = plan.input(inputs, "tokens");
    let log10_prob = plan.output("log10_prob", DType::F32, &[n]);
    let matched = plan.output("matched", DType::I32, &[n]);
    let common: [Arg; 6] = [
        tokens.into(),
        log10_prob.into(),
        matched.into(),
        n.into(),
        (order as i32).into(),
        last.into(),
    ];
    let args = [layout, &common[..]].concat();
    plan.launch(module, symbol, [n.div_ceil(256), 1, 1], [256, 1, 1], 0, &args);
    plan
}

/// The rows of each order as they are given.
pub fn naive(_: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let mut plan = Plan::new();
    let layout = ["ngrams", "sizes", "prob", "backoff"].map(|name| plan.input(inputs, name).into());
    let bos = Levels::of(inputs)?.ids() as u32 - 1;
    Ok(launch(plan, inputs, "ngram_score_naive", "score_rows", &layout, bos))
}

/// The trie's words and starts of children as tables.
fn trie_tables(plan: &mut Plan, trie: &Trie) -> [Arg; 2] {
    let mut table = |name: &str, data: &[u32]| {
        plan.table(name, Tensor::new(&[data.len()], Data::U32(data.to_vec()))).into()
    };
    [table("trie_words", &trie.words), table("trie_first", &trie.first)]
}

/// A column of the model in the order of the trie's nodes, which begin with those that have one.
fn by_node<T: Copy>(trie: &Trie, column: &[T]) -> Vec<T> {
    trie.ngram[..column.len()].iter().map(|&at| column[at]).collect()
}

/// A trie over reversed n-grams.
pub fn sorted(_: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let levels = Levels::of(inputs)?;
    let trie = Trie::of(&levels)?;
    let mut plan = Plan::new();
    let [words, first] = trie_tables(&mut plan, &trie);
    let mut column = |name: &str, values: &[f32]| {
        plan.table(name, Tensor::new(&[values.len()], Data::F32(by_node(&trie, values)))).into()
    };
    let layout =
        [words, first, column("trie_prob", levels.prob), column("trie_backoff", levels.backoff)];
    let ids = levels.ids() as u32;
    Ok(launch(plan, inputs, "ngram_score_sorted", "score_trie", &layout, ids))
}

/// The trie with 8-bit codes.
pub fn quantized(_: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let levels = Levels::of(inputs)?;
    let (prob, prob_books) = coded(&levels.by_order(levels.prob))?;
    let (backoff, backoff_books) = coded(&levels.by_order(levels.backoff))?;
    let trie = Trie::of(&levels)?;
    let mut plan = Plan::new();
    let [words, first] = trie_tables(&mut plan, &trie);
    let mut column = |name: &str, codes: &[u8]| {
        plan.table(name, Tensor::new(&[codes.len()], Data::U8(by_node(&trie, codes)))).into()
    };
    let (prob, backoff) = (column("trie_prob", &prob), column("trie_backoff", &backoff));
    let pairs = prob_books.iter().zip(&backoff_books);
    let books: Vec<f32> = pairs.flat_map(|(p, b)| [p, b]).flatten().copied().collect();
    let books = plan.table("books", Tensor::new(&[levels.order(), 2, 256], Data::F32(books)));
    let layout = [words, first, prob, backoff, books.into()];
    let ids = levels.ids() as u32;
    Ok(launch(plan, inputs, "ngram_score_quantized", "score_coded_trie", &layout, ids))
}

/// One hash table.
pub fn hash(_: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let levels = Levels::of(inputs)?;
    let table = HashTable::of(&levels)?;
    let ids = levels.ids();
    let unigrams: Vec<f32> = (0..ids)
        .flat_map(|id| [levels.prob[id], levels.backoff.get(id).copied().unwrap_or(0.0)])
        .collect();
    let slots = table.slots.len() / 2;
    let mut plan = Plan::new();
    let unigrams = plan.table("unigrams", Tensor::new(&[ids, 2], Data::F32(unigrams)));
    let table = plan.table("slots", Tensor::new(&[slots, 2], Data::U64(table.slots)));
    let layout = [unigrams.into(), table.into(), Arg::U64(slots as u64 - 1)];
    Ok(launch(plan, inputs, "ngram_score_hash", "score_hash", &layout, ids as u32))
}
