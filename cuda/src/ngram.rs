//! ngram: CUDA variants of this vertical.

mod count;
mod layout;
mod score;

use crate::variant::Variant;

/// The variants of this vertical, in ladder order.
pub static VARIANTS: &[Variant] = &[
    Variant {
        op: "ngram.count",
        name: "direct",
        idea: "a counter for every possible n-gram, one atomic addition a position",
        deterministic: true,
        plan: count::direct,
    },
    Variant {
        op: "ngram.count",
        name: "hash",
        idea: "an open-addressing hash table in global memory",
        deterministic: false,
        plan: count::hash,
    },
    Variant {
        op: "ngram.count",
        name: "hash_shared",
        idea: "blocks count in shared memory first, then in the global hash table",
        deterministic: false,
        plan: count::hash_shared,
    },
    Variant {
        op: "ngram.count",
        name: "sort",
        idea: "radix sort of the packed n-grams, then run lengths",
        deterministic: true,
        plan: count::sort,
    },
    Variant {
        op: "ngram.count",
        name: "partition",
        idea: "hashed n-grams partitioned twice, then counted in tables in shared memory, a block a bucket",
        deterministic: false,
        plan: count::partition,
    },
    Variant {
        op: "ngram.count",
        name: "packed",
        idea: "the same in larger buckets, whose tables hold a key of 32 bits and its count in one word",
        deterministic: false,
        plan: count::packed,
    },
    Variant {
        op: "ngram.score",
        name: "naive",
        idea: "binary search in the rows of each order as they are",
        deterministic: true,
        plan: score::naive,
    },
    Variant {
        op: "ngram.score",
        name: "sorted",
        idea: "a trie of sorted arrays over reversed n-grams",
        deterministic: true,
        plan: score::sorted,
    },
    Variant {
        op: "ngram.score",
        name: "hash",
        idea: "one hash table keyed by suffix and word, probed 16 bytes at a time",
        deterministic: true,
        plan: score::hash,
    },
    Variant {
        op: "ngram.score",
        name: "quantized",
        idea: "the trie with 8-bit codes for probabilities and back-off weights",
        deterministic: true,
        plan: score::quantized,
    },
];
