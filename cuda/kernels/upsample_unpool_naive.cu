// Idea: the definition, a thread a pooled value: zeros everywhere, then values to their places.
// Source: Zeiler & Fergus 2014, "Visualizing and Understanding Convolutional Networks", section 2.1.
// Shapes: small [planes, small], indices [planes, small] i64 flat in a plane of `large` pixels.
// Plan: `unpool` scatters over an output that the plan has filled with zeros; `fetch` gathers for the gradient.
// Numerics: a copy.
// Limits: no two indices of a plane are equal.
#include "numeric.cuh"

template <typename Word>
__device__ __forceinline__ void unpool(const Word* __restrict__ input, const i64* __restrict__ indices,
                                       Word* __restrict__ output, i64 planes, i64 small, i64 large) {
    const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < planes * small) output[i / small * large + indices[i]] = input[i];
}

template <typename Word>
__device__ __forceinline__ void fetch(const Word* __restrict__ d_output, const i64* __restrict__ indices,
                                      Word* __restrict__ d_input, i64 planes, i64 small, i64 large) {
    const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < planes * small) d_input[i] = d_output[i / small * large + indices[i]];
}

#define UNPOOL(Word, bytes)                                                                                           \
    extern "C" __global__ void unpool_##bytes(const Word* input, const i64* indices, Word* output, i64 planes,        \
                                              i64 small, i64 large) {                                                 \
        unpool(input, indices, output, planes, small, large);                                                         \
    }                                                                                                                 \
    extern "C" __global__ void fetch_##bytes(const Word* d_output, const i64* indices, Word* d_input, i64 planes,     \
                                             i64 small, i64 large) {                                                  \
        fetch(d_output, indices, d_input, planes, small, large);                                                      \
    }
UNPOOL(u32, 4)
UNPOOL(unsigned short, 2)
