// Idea: a trie over reversed n-grams: the words that can come before an n-gram lie side by side, sorted.
// Source: Heafield 2011, "KenLM: Faster and Smaller Language Model Queries" (trie); Germann et al. 2009.
// Shapes: nodes: unigrams 0 … ids − 1 by word, then the n-grams of order 2, 3, …, K, each by (node of its suffix, first
//         word); words [nodes − ids] u32, the first word; first [inner + 1] u32, where a node's children start (its
//         end is where the next's start); prob [nodes] f32; backoff [inner] f32; inner = nodes below order K.
// Plan: a thread a token; each extension by a word is a binary search among the children.
// Numerics: at most K − 1 f32 additions a token.
// Limits: nodes < 2^32; every n-gram's suffix is in the model.
#include "ngram.cuh"

struct Trie {
    typedef u32 Node;
    const u32* __restrict__ words;
    const u32* __restrict__ first;
    const float* __restrict__ probs;
    const float* __restrict__ backoffs;
    u32 ids;

    __device__ Node unigram(u32 word) const { return word; }
    __device__ bool child(Node& node, u32 word) const {
        const u32 low = __ldg(first + node) - ids, high = __ldg(first + node + 1) - ids;
        const u32 found = find_word(words, low, high, word);
        node = found + ids;
        return found != high;
    }
    __device__ float prob(Node node) const { return __ldg(probs + node); }
    __device__ float backoff(Node node) const { return __ldg(backoffs + node); }
};

extern "C" __global__ void score_trie(const u32* words, const u32* first, const float* prob, const float* backoff,
                                      const u32* tokens, float* log10_prob, int* matched, i64 n, int order, u32 ids) {
    score_token(Trie{words, first, prob, backoff, ids}, tokens, log10_prob, matched, n, order, ids - 1);
}
