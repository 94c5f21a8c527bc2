// Idea: the model as it is given: for each length from the longest down, binary search in that order's rows.
// Source: Katz 1987 (back-off); binary search.
// Shapes: tokens [n] u32; ngrams: rows of orders 2 … K one order after another, each order's ascending; sizes [K] i64;
//         prob and backoff f32, one a row, unigrams first; log10_prob [n] f32; matched [n] i32.
// Plan: a thread a token.
// Numerics: at most K − 1 f32 additions a token.
// Limits: order <= 5; ids below sizes[0].
#include "ngram.cuh"

struct Rows {
    const u32* __restrict__ ngrams;
    const i64* __restrict__ sizes;

    // Position of the n-gram `key[0 .. order)` among all of the model's, or −1.
    __device__ i64 find(const u32* key, int order) const {
        if (order == 1) return key[0];
        i64 first = sizes[0], words = 0;
        for (int k = 2; k < order; ++k) {
            first += sizes[k - 1];
            words += k * sizes[k - 1];
        }
        i64 low = 0, high = sizes[order - 1];
        while (low < high) {
            const i64 middle = low + (high - low) / 2;
            const u32* row = ngrams + words + middle * order;
            int k = 0;
            while (k < order && row[k] == key[k]) ++k;
            if (k == order) return first + middle;
            if (row[k] < key[k])
                low = middle + 1;
            else
                high = middle;
        }
        return -1;
    }
};

extern "C" __global__ void score_rows(const u32* __restrict__ ngrams, const i64* __restrict__ sizes,
                                      const float* __restrict__ prob, const float* __restrict__ backoff,
                                      const u32* __restrict__ tokens, float* __restrict__ log10_prob,
                                      int* __restrict__ matched, i64 n, int order, u32 bos) {
    const i64 at = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= n) return;
    if (tokens[at] == bos) {
        log10_prob[at] = 0.f;
        matched[at] = 0;
        return;
    }
    const Rows rows{ngrams, sizes};
    const int available = context_length(tokens, at, order, bos);
    int length = available + 1;
    i64 found = rows.find(tokens + at - available, length);
    float sum = 0.f;
    while (found < 0) {
        --length;
        const i64 context = rows.find(tokens + at - length, length);
        if (context >= 0) sum += backoff[context];
        found = rows.find(tokens + at + 1 - length, length);
    }
    log10_prob[at] = sum + prob[found];
    matched[at] = length;
}
