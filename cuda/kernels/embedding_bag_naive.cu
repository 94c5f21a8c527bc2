// Idea: one thread an output element, walking the samples of its bag.
// Source: Naumov et al. 2019, "Deep Learning Recommendation Model …", section 2.1.
// Shapes: table [vocab, dim] T, scales [vocab] f32 (int8 only), indices [samples] i32, offsets [bags + 1] i64,
//         weights [samples] f32 or null → output [bags, dim]. mode: 0 sum, 1 mean, 2 max.
// Plan: thread i pools column i % dim of bag i / dim; neighbouring threads read neighbouring columns.
// Numerics: f32 sum in sample order; an empty bag gives 0.
// Limits: none.
#include "embedding_row.cuh"

template <typename T>
__device__ void bag(const T* __restrict__ table, const float* __restrict__ scales, const int* __restrict__ indices,
                    const i64* __restrict__ offsets, const float* __restrict__ weights,
                    typename Output<T>::type* __restrict__ output, i64 bags, i64 dim, int mode) {
    const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= bags * dim) return;
    const i64 start = offsets[i / dim], end = offsets[i / dim + 1];
    float pooled = mode == 2 && start < end ? minus_infinity() : 0.f;
    for (i64 s = start; s < end; ++s) {
        const i64 row = indices[s];
        float x = to_float(table[row * dim + i % dim]);
        if (scales) x *= scales[row];
        if (weights) x *= weights[s];
        pooled = mode == 2 ? max_or_nan(pooled, x) : pooled + x;
    }
    if (mode == 1 && start < end) pooled /= (float)(end - start);
    output[i] = from_float<typename Output<T>::type>(pooled);
}

#define BAG(T, suffix)                                                                                               \
    extern "C" __global__ void bag_##suffix(const T* table, const float* scales, const int* indices,                 \
                                            const i64* offsets, const float* weights, Output<T>::type* output,       \
                                            i64 bags, i64 dim, int mode) {                                           \
        bag<T>(table, scales, indices, offsets, weights, output, bags, dim, mode);                                   \
    }
BAG(float, f32)
BAG(__half, f16)
BAG(__nv_bfloat16, bf16)
BAG(i8, i8)
