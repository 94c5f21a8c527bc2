// What the n-gram kernels share: packed n-grams, the hash, and the scoring walk over any layout of a model.
#pragma once
#include "numeric.cuh"

// Marks a free slot of a hash table: no key has all bits set (plans refuse cases where one could).
static constexpr u64 EMPTY = ~0ull;

// The n-gram that starts at `at`, the first token in the highest bits.
__device__ __forceinline__ u64 packed(const u32* __restrict__ tokens, i64 at, int order, int bits) {
    u64 key = 0;
    for (int k = 0; k < order; ++k) key = key << bits | tokens[at + k];
    return key;
}

// MurmurHash3's 64-bit finalizer; `mix` in cuda/src/ngram/score.rs is the same.
__device__ __forceinline__ u64 mix(u64 key) {
    key = (key ^ key >> 33) * 0xff51afd7ed558ccdull;
    key = (key ^ key >> 33) * 0xc4ceb9fe1a85ec53ull;
    return key ^ key >> 33;
}

// Ids of the context of the token at `at`: back to the beginning of the sentence inclusive, at most order − 1.
__device__ __forceinline__ int context_length(const u32* __restrict__ tokens, i64 at, int order, u32 bos) {
    int length = 0;
    while (length < order - 1 && length < at) {
        ++length;
        if (tokens[at - length] == bos) break;
    }
    return length;
}

// Scores one token. A Layout has a Node for each n-gram: unigram(word); child(node, word) turns the node of an
// n-gram into that of `word n-gram` and says whether the model has it (if not, the node is spent); prob(node) and
// backoff(node). Suffixes of n-grams are n-grams, so the first extension that fails ends the longest match.
template <typename Layout>
__device__ __forceinline__ void score_token(const Layout& model, const u32* __restrict__ tokens,
                                            float* __restrict__ log10_prob, int* __restrict__ matched, i64 n,
                                            int order, u32 bos) {
    const i64 at = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= n) return;
    if (tokens[at] == bos) {
        log10_prob[at] = 0.f;
        matched[at] = 0;
        return;
    }
    const int available = context_length(tokens, at, order, bos);
    typename Layout::Node node = model.unigram(tokens[at]), longer = node;
    int length = 1;
    while (length <= available && model.child(longer, tokens[at - length])) {
        node = longer;
        ++length;
    }
    float sum = model.prob(node);
    if (length <= available) {
        typename Layout::Node context = model.unigram(tokens[at - 1]);
        for (int j = 1;; ++j) {
            if (j >= length) sum += model.backoff(context);
            if (j == available || !model.child(context, tokens[at - 1 - j])) break;
        }
    }
    log10_prob[at] = sum;
    matched[at] = length;
}

// Where the children of an n-gram of the trie are: binary search for `word` in the ascending words[low .. high).
// Returns `high` if it is not there.
__device__ __forceinline__ u32 find_word(const u32* __restrict__ words, u32 low, u32 high, u32 word) {
    const u32 end = high;
    while (low < high) {
        const u32 middle = low + (high - low) / 2;
        const u32 held = __ldg(words + middle);
        if (held == word) return middle;
        if (held < word)
            low = middle + 1;
        else
            high = middle;
    }
    return end;
}
