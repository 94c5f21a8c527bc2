// Idea: equal n-grams lie side by side once sorted; what is left is run-length encoding.
// Source: radix sort and run-length encoding by scan: Blelloch 1990; the sort is radix_sort.
// Shapes: tokens [n] u32; keys [n − order + 1] u32 or u64, the packed n-grams.
// Plan: pack here: a thread a position. Then radix_sort by order·bits bits, and ngram_compact for the runs.
// Numerics: integers; the order of the entries is the canonical one.
// Limits: u32 keys where order·bits <= 32, half of the sort's traffic; u64 beyond.
#include "ngram.cuh"

template <typename Key>
__device__ __forceinline__ void pack(const u32* __restrict__ tokens, Key* __restrict__ keys, i64 ngrams, int order,
                                     int bits) {
    const i64 at = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at < ngrams) keys[at] = (Key)packed(tokens, at, order, bits);
}

extern "C" __global__ void pack_u32(const u32* tokens, u32* keys, i64 ngrams, int order, int bits) {
    pack<u32>(tokens, keys, ngrams, order, bits);
}
extern "C" __global__ void pack_u64(const u32* tokens, u64* keys, i64 ngrams, int order, int bits) {
    pack<u64>(tokens, keys, ngrams, order, bits);
}
