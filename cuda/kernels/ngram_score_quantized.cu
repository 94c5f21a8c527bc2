// Idea: the trie with 8-bit codes for probabilities and back-off weights: less memory, one more look-up.
// Source: Whittaker & Raj 2001, "Quantization-based Language Model Compression"; Heafield 2011.
// Shapes: as ngram_score_sorted, but prob and backoff are u8 codes; books [K, 2, 256] f32: an order's probabilities,
//         then its back-off weights.
// Plan: a thread a token; the books stay in the L1.
// Numerics: the codes stand for the model's own values (the model has few different ones): no error is added.
// Limits: at most 256 different values an order; otherwise as ngram_score_sorted.
#include "ngram.cuh"

struct CodedTrie {
    struct Node {
        u32 at;
        int level;
    };
    const u32* __restrict__ words;
    const u32* __restrict__ first;
    const unsigned char* __restrict__ probs;
    const unsigned char* __restrict__ backoffs;
    const float* __restrict__ books;
    u32 ids;

    __device__ Node unigram(u32 word) const { return {word, 0}; }
    __device__ bool child(Node& node, u32 word) const {
        const u32 low = __ldg(first + node.at) - ids, high = __ldg(first + node.at + 1) - ids;
        const u32 found = find_word(words, low, high, word);
        node = {found + ids, node.level + 1};
        return found != high;
    }
    __device__ float prob(Node node) const { return __ldg(books + node.level * 512 + __ldg(probs + node.at)); }
    __device__ float backoff(Node node) const {
        return __ldg(books + node.level * 512 + 256 + __ldg(backoffs + node.at));
    }
};

extern "C" __global__ void score_coded_trie(const u32* words, const u32* first, const unsigned char* prob,
                                            const unsigned char* backoff, const float* books, const u32* tokens,
                                            float* log10_prob, int* matched, i64 n, int order, u32 ids) {
    score_token(CodedTrie{words, first, prob, backoff, books, ids}, tokens, log10_prob, matched, n, order, ids - 1);
}
