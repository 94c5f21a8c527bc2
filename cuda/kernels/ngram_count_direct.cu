// Idea: the packed n-gram is itself the index of its counter: one atomic addition a position and nothing else.
// Source: counting sort; the plain reading of the problem.
// Shapes: tokens [n] u32; table [2^(order·bits)] u32, zero before; ngrams = n − order + 1 positions.
// Plan: a thread a position; compaction of the table (ngram_compact) follows.
// Numerics: integers; the result does not depend on the order of the additions.
// Limits: the table has a counter for every possible n-gram, so order·bits is at most 26 (256 MiB).
#include "ngram.cuh"

extern "C" __global__ void count_direct(const u32* __restrict__ tokens, u32* __restrict__ table, i64 ngrams, int order,
                                        int bits) {
    const i64 at = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at < ngrams) atomicAdd(&table[packed(tokens, at, order, bits)], 1u);
}
