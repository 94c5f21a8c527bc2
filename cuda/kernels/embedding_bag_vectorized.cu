// Idea: a warp a bag; rows are read as 16-byte words, several samples in flight.
// Source: the plan of Khudia et al. 2021, "FBGEMM: Enabling High-Performance Low-Precision Deep Learning Inference",
//         on a GPU's terms.
// Shapes: as in embedding_bag_naive; a row is `words` 16-byte words. mode: 0 sum, 1 mean, 2 max.
// Plan: `lanes` threads (a power of two <= 32) hold a row, so a warp reads 32 / lanes samples at once and 4 times as
//       many before it adds any. The warp loads 32 indices at a time and passes them on by shuffles. The partial sums
//       of the lane groups are added at the end by a butterfly.
// Numerics: f32; the samples of a bag are dealt to the groups in turn, a fixed order. An empty bag gives 0.
// Limits: dim · size % 16 == 0.
#include "embedding_row.cuh"

static constexpr int FLIGHT = 4;
static constexpr u32 ALL = 0xffffffffu;

template <bool MAX, int N> __device__ __forceinline__ void add(float (&pooled)[N], const float (&x)[N], float factor) {
#pragma unroll
    for (int e = 0; e < N; ++e) pooled[e] = MAX ? max_or_nan(pooled[e], x[e] * factor) : fmaf(x[e], factor, pooled[e]);
}

// Pools up to 32 samples whose rows and factors lie in the lanes of the warp: this thread's word of every sample of
// its group.
template <typename T, bool MAX>
__device__ __forceinline__ void pool_32(float (&pooled)[PER_WORD<T>], const uint4* __restrict__ table, i64 words,
                                        i64 word, int lanes, int my_row, float my_factor, int held) {
    const int groups = 32 / lanes, group = threadIdx.x % 32 / lanes;
    for (int s = 0; s < held; s += groups * FLIGHT) {
        uint4 read[FLIGHT];
        float factor[FLIGHT];
#pragma unroll
        for (int f = 0; f < FLIGHT; ++f) {
            const int sample = s + f * groups + group;
            const i64 row = __shfl_sync(ALL, my_row, sample & 31);
            factor[f] = __shfl_sync(ALL, my_factor, sample & 31);
            if (sample < held && word < words) read[f] = __ldg(table + row * words + word);
        }
#pragma unroll
        for (int f = 0; f < FLIGHT; ++f) {
            if (s + f * groups + group < held && word < words) {
                float x[PER_WORD<T>];
                unpack<T>(read[f], x);
                add<MAX>(pooled, x, factor[f]);
            }
        }
    }
}

template <typename T, bool MAX>
__device__ __forceinline__ void bag(const T* __restrict__ table, const float* __restrict__ scales,
                                    const int* __restrict__ indices, const i64* __restrict__ offsets,
                                    const float* __restrict__ weights, typename Output<T>::type* __restrict__ output,
                                    i64 bags, i64 words, int lanes, bool mean) {
    const int lane = threadIdx.x % 32;
    const i64 which = (i64)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (which >= bags) return;
    const i64 start = offsets[which], end = offsets[which + 1];
    for (i64 tile = 0; tile < words; tile += lanes) {
        const i64 word = tile + lane % lanes;
        float pooled[PER_WORD<T>];
#pragma unroll
        for (int e = 0; e < PER_WORD<T>; ++e) pooled[e] = MAX && start < end ? minus_infinity() : 0.f;
        for (i64 base = start; base < end; base += 32) {
            const int held = (int)(end - base < 32 ? end - base : 32);
            const int my_row = lane < held ? indices[base + lane] : 0;
            float my_factor = lane < held && weights ? weights[base + lane] : 1.f;
            if (scales && lane < held) my_factor *= __ldg(scales + my_row);
            pool_32<T, MAX>(pooled, reinterpret_cast<const uint4*>(table), words, word, lanes, my_row, my_factor, held);
        }
        for (int offset = lanes; offset < 32; offset *= 2)
#pragma unroll
            for (int e = 0; e < PER_WORD<T>; ++e) {
                const float other = __shfl_xor_sync(ALL, pooled[e], offset);
                pooled[e] = MAX ? max_or_nan(pooled[e], other) : pooled[e] + other;
            }
        if (mean && start < end)
#pragma unroll
            for (int e = 0; e < PER_WORD<T>; ++e) pooled[e] /= (float)(end - start);
        if (lane < lanes && word < words) store_words(output + (which * words + word) * PER_WORD<T>, pooled);
    }
}

#define BAG(T, suffix)                                                                                               \
    extern "C" __global__ void __launch_bounds__(128)                                                                \
        bag_##suffix(const T* table, const float* scales, const int* indices, const i64* offsets,                    \
                     const float* weights, Output<T>::type* output, i64 bags, i64 words, int lanes, int mode) {      \
        if (mode == 2) {                                                                                             \
            bag<T, true>(table, scales, indices, offsets, weights, output, bags, words, lanes, false);               \
        } else {                                                                                                     \
            bag<T, false>(table, scales, indices, offsets, weights, output, bags, words, lanes, mode == 1);          \
        }                                                                                                            \
    }
BAG(float, f32)
BAG(__half, f16)
BAG(__nv_bfloat16, bf16)
BAG(i8, i8)
