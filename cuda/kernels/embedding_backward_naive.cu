// Idea: one thread an element of the gradient, looking at every token for those that asked for its row.
// Source: the transposed one-hot product, read literally.
// Shapes: d_output [tokens, dim] T, indices [tokens] i32 → d_table [vocab, dim] f32.
// Plan: thread i sums column i % dim over the tokens of word i / dim, in token order.
// Numerics: f32 sum in token order.
// Limits: vocab · dim · tokens steps: the plan refuses sizes at which that takes seconds.
#include "numeric.cuh"

template <typename T>
__device__ void backward(const T* __restrict__ d_output, const int* __restrict__ indices, float* __restrict__ d_table,
                         i64 vocab, i64 dim, i64 tokens) {
    const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= vocab * dim) return;
    float sum = 0.f;
    for (i64 token = 0; token < tokens; ++token)
        if (indices[token] == i / dim) sum += to_float(d_output[token * dim + i % dim]);
    d_table[i] = sum;
}

#define BACKWARD(T, suffix)                                                                                     \
    extern "C" __global__ void backward_##suffix(const T* d_output, const int* indices, float* d_table,         \
                                                 i64 vocab, i64 dim, i64 tokens) {                              \
        backward<T>(d_output, indices, d_table, vocab, dim, tokens);                                            \
    }
BACKWARD(float, f32)
BACKWARD(__half, f16)
BACKWARD(__nv_bfloat16, bf16)
