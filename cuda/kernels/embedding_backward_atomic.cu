// Idea: every token adds its gradient to its row with atomics.
// Source: the scatter-add of every framework.
// Shapes: d_output [tokens, dim] T, indices [tokens] i32 → d_table [vocab, dim] f32, zero before the launch.
// Plan: one thread an element of d_output; neighbouring threads add to neighbouring columns.
// Numerics: f32 sum in the order of arrival: two runs may differ in the last bits.
// Limits: rows that are hit often queue up at the L2.
#include "numeric.cuh"

template <typename T>
__device__ void backward(const T* __restrict__ d_output, const int* __restrict__ indices, float* __restrict__ d_table,
                         i64 dim, i64 tokens) {
    const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= tokens * dim) return;
    atomicAdd(d_table + (i64)indices[i / dim] * dim + i % dim, to_float(d_output[i]));
}

#define BACKWARD(T, suffix)                                                                                     \
    extern "C" __global__ void backward_##suffix(const T* d_output, const int* indices, float* d_table, i64 dim, \
                                                 i64 tokens) {                                                  \
        backward<T>(d_output, indices, d_table, dim, tokens);                                                   \
    }
BACKWARD(float, f32)
BACKWARD(__half, f16)
BACKWARD(__nv_bfloat16, bf16)
