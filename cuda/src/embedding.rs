//! embedding: CUDA variants of this vertical.

mod backward;
mod bag;
mod gather;
mod segment_sum;
mod word2vec;
mod word2vec_grouped;

use touchstone_reference::{DType, embedding::Storage};

use crate::{
    plan::threads,
    variant::{Unsupported, Variant},
};

/// The variants of this vertical, in ladder order.
pub static VARIANTS: &[Variant] = &[
    Variant {
        op: "embedding.gather",
        name: "naive",
        idea: "a thread an element",
        deterministic: true,
        plan: gather::naive,
    },
    Variant {
        op: "embedding.gather",
        name: "vectorized",
        idea: "16-byte words, four rows in flight a thread, streamed stores",
        deterministic: true,
        plan: gather::vectorized,
    },
    Variant {
        op: "embedding.bag",
        name: "naive",
        idea: "a thread an output element, sample after sample",
        deterministic: true,
        plan: bag::naive,
    },
    Variant {
        op: "embedding.bag",
        name: "vectorized",
        idea: "a warp a bag, 16-byte words, several samples in flight",
        deterministic: true,
        plan: bag::vectorized,
    },
    Variant {
        op: "embedding.bag",
        name: "lanes",
        idea: "the lanes that hold a row keep a bag to themselves",
        deterministic: true,
        plan: bag::by_lanes,
    },
    Variant {
        op: "embedding.backward",
        name: "naive",
        idea: "a thread an element of the gradient, looking at every token",
        deterministic: true,
        plan: backward::naive,
    },
    Variant {
        op: "embedding.backward",
        name: "atomic",
        idea: "every token adds to its row with float atomics",
        deterministic: false,
        plan: backward::atomic,
    },
    Variant {
        op: "embedding.backward",
        name: "sorted_segment",
        idea: "tokens sorted by row, runs summed in fixed chunks",
        deterministic: true,
        plan: backward::sorted_segment,
    },
    Variant {
        op: "embedding.word2vec",
        name: "atomic",
        idea: "a warp a pair, gradients added with float atomics",
        deterministic: false,
        plan: word2vec::atomic,
    },
    Variant {
        op: "embedding.word2vec",
        name: "sorted_segment",
        idea: "targets sorted by word for each table, runs summed in fixed chunks",
        deterministic: true,
        plan: word2vec::sorted_segment,
    },
    Variant {
        op: "embedding.word2vec",
        name: "grouped",
        idea: "terms grouped by the row they go to, which is summed and written once; others are copied meanwhile",
        deterministic: true,
        plan: word2vec_grouped::grouped,
    },
];

pub(crate) use bag::sum_of_rows;

/// Refuses rows that are not whole words of `bytes` bytes.
fn whole_words(dim: usize, dtype: DType, bytes: usize) -> Result<usize, Unsupported> {
    let row = dim * dtype.bytes();
    if row.is_multiple_of(bytes) {
        return Ok(row / bytes);
    }
    Err(Unsupported(format!("a row of {dim} {} is not whole {bytes}-byte words", dtype.name())))
}

/// Threads that share a row of `words` words: a power of two, at most a warp.
fn lanes(words: usize) -> usize {
    words.next_power_of_two().clamp(1, 32)
}

/// The suffix of kernel symbols for a table.
fn suffix(table: Storage) -> &'static str {
    table.dtype().name()
}
