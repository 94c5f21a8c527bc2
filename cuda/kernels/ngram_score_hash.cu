// Idea: one hash table for all orders above 1: an extension by a word is one 16-byte load, nearly always.
// Source: Heafield 2011, "KenLM" (probing); the key is exact here: the suffix's place in the table and the first word.
// Shapes: unigrams [ids, 2] f32: prob, backoff; slots [slots, 2] u64: key = node of the suffix · 2^32 + first word,
//         then prob (low half) and backoff (high half) as f32 bits; a unigram's node is its word, an n-gram's is
//         ids + slot. Free slots have all bits set.
// Plan: a thread a token; linear probing.
// Numerics: at most K − 1 f32 additions a token.
// Limits: slots a power of two, at most half full; ids + slots < 2^32; every n-gram's suffix is in the model.
#include "ngram.cuh"

struct Table {
    struct Node {
        u32 at;
        float prob, backoff;
    };
    const float2* __restrict__ unigrams;
    const ulonglong2* __restrict__ slots;
    u64 mask;
    u32 ids;

    __device__ Node unigram(u32 word) const {
        const float2 values = __ldg(unigrams + word);
        return {word, values.x, values.y};
    }
    __device__ bool child(Node& node, u32 word) const {
        const u64 key = (u64)node.at << 32 | word;
        for (u64 slot = mix(key) & mask;; slot = (slot + 1) & mask) {
            const ulonglong2 held = __ldg(slots + slot);
            if (held.x == key) {
                node = {ids + (u32)slot, __uint_as_float((u32)held.y), __uint_as_float((u32)(held.y >> 32))};
                return true;
            }
            if (held.x == EMPTY) return false;
        }
    }
    __device__ float prob(const Node& node) const { return node.prob; }
    __device__ float backoff(const Node& node) const { return node.backoff; }
};

extern "C" __global__ void score_hash(const float2* unigrams, const ulonglong2* slots, u64 mask, const u32* tokens,
                                      float* log10_prob, int* matched, i64 n, int order, u32 ids) {
    score_token(Table{unigrams, slots, mask, ids}, tokens, log10_prob, matched, n, order, ids - 1);
}
