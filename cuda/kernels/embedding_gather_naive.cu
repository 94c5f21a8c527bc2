// Idea: one thread an output element; the yardstick for the others.
// Source: Bengio et al. 2003, "A Neural Probabilistic Language Model", section 2.
// Shapes: table [vocab, dim] T, scales [vocab] f32 (int8 only), indices [tokens] i32 or i64 → output [tokens, dim].
// Plan: thread i copies element i % dim of row indices[i / dim]; a negative index gives zeros.
// Numerics: a copy; for int8 one product in f32, rounded once.
// Limits: none.
#include "embedding_row.cuh"

__device__ __forceinline__ float element(float x, const float*, i64) { return x; }
__device__ __forceinline__ __half element(__half x, const float*, i64) { return x; }
__device__ __forceinline__ __nv_bfloat16 element(__nv_bfloat16 x, const float*, i64) { return x; }
__device__ __forceinline__ float element(i8 x, const float* scales, i64 row) { return scales[row] * (float)x; }

template <typename T, typename Index>
__device__ void gather(const T* __restrict__ table, const float* __restrict__ scales, const Index* __restrict__ indices,
                       typename Output<T>::type* __restrict__ output, i64 tokens, i64 dim) {
    const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= tokens * dim) return;
    const i64 row = (i64)indices[i / dim];
    output[i] = row < 0 ? from_float<typename Output<T>::type>(0.f) : element(table[row * dim + i % dim], scales, row);
}

#define GATHER(T, suffix, Index, index)                                                                              \
    extern "C" __global__ void gather_##suffix##_##index(const T* table, const float* scales, const Index* indices,  \
                                                         Output<T>::type* output, i64 tokens, i64 dim) {             \
        gather<T, Index>(table, scales, indices, output, tokens, dim);                                               \
    }
GATHER(float, f32, int, i32)
GATHER(float, f32, i64, i64)
GATHER(__half, f16, int, i32)
GATHER(__half, f16, i64, i64)
GATHER(__nv_bfloat16, bf16, int, i32)
GATHER(__nv_bfloat16, bf16, i64, i64)
GATHER(i8, i8, int, i32)
GATHER(i8, i8, i64, i64)
