// Idea: the lanes that hold a row keep a bag to themselves, so that nothing is left to add up between lanes.
// Source: ours; embedding_bag_vectorized gives the whole warp to a bag, and pays for it with shuffles of indices and sums.
// Shapes: as in embedding_bag_naive; a row is `words` 16-byte words. mode: 0 sum, 1 mean, 2 max.
// Plan: `lanes` threads (a power of two <= 32) a bag: they read the same indices, which is one access; 4 rows and the
//       next 4 indices are on their way before any row is added. A warp holds 32 / lanes bags.
// Numerics: f32, the samples in their order. An empty bag gives 0.
// Limits: dim · size % 16 == 0. Bags of very different lengths leave lanes of a warp idle.
#include "embedding_row.cuh"

static constexpr int FLIGHT = 4, MEAN = 1, MAX = 2;

template <typename T> struct Bags {
    const T* table;
    const float* scales;
    const int* indices;
    const float* weights;
    i64 words;
    int mode;
};

// This thread's word of the samples from `start` up to `end`, pooled.
template <typename T>
__device__ __forceinline__ void pool(const Bags<T>& bags, i64 start, i64 end, i64 word, float (&pooled)[PER_WORD<T>]) {
    const uint4* table = reinterpret_cast<const uint4*>(bags.table) + word;
    const int* indices = bags.indices + start;
    const float* weights = bags.weights ? bags.weights + start : nullptr;
    int row[FLIGHT];
#pragma unroll
    for (int f = 0; f < FLIGHT; ++f) row[f] = f < end - start ? __ldg(indices + f) : 0;
    for (int held = (int)(end - start); held > 0; held -= FLIGHT) {
        uint4 read[FLIGHT];
        float factor[FLIGHT];
#pragma unroll
        for (int f = 0; f < FLIGHT; ++f) {
            factor[f] = f < held && weights ? __ldg(weights + f) : 1.f;
            if (f < held && bags.scales) factor[f] *= __ldg(bags.scales + row[f]);
            if (f < held) read[f] = __ldg(table + (i64)row[f] * bags.words);
        }
#pragma unroll
        for (int f = 0; f < FLIGHT; ++f) row[f] = FLIGHT + f < held ? __ldg(indices + FLIGHT + f) : 0;
#pragma unroll
        for (int f = 0; f < FLIGHT; ++f) {
            if (f >= held) continue;
            float x[PER_WORD<T>];
            unpack<T>(read[f], x);
            if (bags.mode == MAX) {
#pragma unroll
                for (int e = 0; e < PER_WORD<T>; ++e) pooled[e] = max_or_nan(pooled[e], x[e] * factor[f]);
            } else {
#pragma unroll
                for (int e = 0; e < PER_WORD<T>; ++e) pooled[e] = fmaf(x[e], factor[f], pooled[e]);
            }
        }
        indices += FLIGHT;
        if (weights) weights += FLIGHT;
    }
}

template <typename T>
__device__ __forceinline__ void bag(const Bags<T>& bags, const i64* __restrict__ offsets,
                                    typename Output<T>::type* __restrict__ output, i64 n, int lanes) {
    const i64 which = ((i64)blockIdx.x * blockDim.x + threadIdx.x) / lanes;
    if (which >= n) return;
    const i64 start = offsets[which], end = offsets[which + 1];
    for (i64 word = threadIdx.x % lanes; word < bags.words; word += lanes) {
        float pooled[PER_WORD<T>];
#pragma unroll
        for (int e = 0; e < PER_WORD<T>; ++e) pooled[e] = bags.mode == MAX && start < end ? minus_infinity() : 0.f;
        pool(bags, start, end, word, pooled);
        if (bags.mode == MEAN && start < end)
#pragma unroll
            for (int e = 0; e < PER_WORD<T>; ++e) pooled[e] /= (float)(end - start);
        store_words(output + (which * bags.words + word) * PER_WORD<T>, pooled);
    }
}

#define BAG(T, suffix)                                                                                               \
    extern "C" __global__ void __launch_bounds__(128, 8)                                                             \
        bag_##suffix(const T* __restrict__ table, const float* __restrict__ scales, const int* __restrict__ indices, \
                     const i64* __restrict__ offsets, const float* __restrict__ weights,                             \
                     Output<T>::type* __restrict__ output, i64 bags, i64 words, int lanes, int mode) {               \
        const Bags<T> asked{table, scales, indices, weights, words, mode};                                           \
        bag(asked, offsets, output, bags, lanes);                                                                    \
    }
BAG(float, f32)
BAG(__half, f16)
BAG(__nv_bfloat16, bf16)
BAG(i8, i8)
