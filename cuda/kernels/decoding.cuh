// What the kernels of multi-token decoding share: reductions over a block, SiLU.
#pragma once
#include "numeric.cuh"

struct Add {
    __device__ __forceinline__ float operator()(float x, float y) const { return x + y; }
};
struct Larger {
    __device__ __forceinline__ float operator()(float x, float y) const { return fmaxf(x, y); }
};

// Over a block of 128 threads; every thread gets the result. `shared` holds 4 floats.
template <typename Combine> __device__ __forceinline__ float over_block(float x, float* shared, Combine combine) {
#pragma unroll 1
    for (int offset = 16; offset > 0; offset /= 2) x = combine(x, __shfl_xor_sync(0xffffffffu, x, offset));
    __syncthreads();
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
    __syncthreads();
    return combine(combine(shared[0], shared[1]), combine(shared[2], shared[3]));
}

// x / (1 + e^-x); e^-x may be infinite, and x / infinity is right.
__device__ __forceinline__ float silu(float x) { return __fdividef(x, 1.f + __expf(-x)); }
