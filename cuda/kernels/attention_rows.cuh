// What the kernels with all scores in memory share: rows of scores, the keys that one sees, and reductions over a block.
#pragma once
#include "attention.cuh"

namespace {

struct Row {
    i64 b, h, i;
};

__device__ __forceinline__ Row row_of(i64 row, i64 heads_q, i64 seq_q) {
    return {row / seq_q / heads_q, row / seq_q % heads_q, row % seq_q};
}

// Keys of a row of the padded batch: none for padding.
__device__ __forceinline__ Keys keys_of(Row r, const int* lengths_q, const int* lengths_k, int causal, i64 window) {
    if (r.i >= lengths_q[r.b]) return {0, 0};
    return visible((int)r.i, lengths_q[r.b], lengths_k[r.b], causal, (int)window);
}

// The sum or maximum over a block of 128 threads; `shared` holds 4 floats.
template <typename Combine> __device__ float block_reduce(float x, float* shared, Combine combine) {
    for (int offset = 16; offset > 0; offset /= 2) x = combine(x, __shfl_xor_sync(0xffffffffu, x, offset));
    __syncthreads();
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
    __syncthreads();
    return combine(combine(shared[0], shared[1]), combine(shared[2], shared[3]));
}

}  // namespace
