// Idea: the definition in three passes: the maximum, the sum of exponentials, and what is made of them.
// Source: ours.
// Shapes: logits and result [rows, vocab]; targets, weights, loss [rows]; see loss.cuh on what may be missing.
// Plan: a block a row; a thread takes every 256th logit, one at a time.
// Numerics: f32.
// Limits: below 2^31 rows. Logits are read three times.
#include "loss.cuh"

__device__ __forceinline__ float over_block(float x, bool maximum) {
    __shared__ float parts[32];
    x = maximum ? warp_max(x) : warp_sum(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
    float all = parts[0];
#pragma unroll 1
    for (int w = 1; w < blockDim.x / 32; ++w) all = maximum ? fmaxf(all, parts[w]) : all + parts[w];
    return all;
}

extern "C" __global__ void loss_rows(const void* logits, void* result, JOB_ARGUMENTS, int dtype) {
    const i64 row = blockIdx.x, begin = row * vocab;
    Running all{minus_infinity(), 0.f};
#pragma unroll 1
    for (i64 v = threadIdx.x; v < vocab; v += blockDim.x) all.raise_for(load(logits, begin + v, dtype));
    all.base = over_block(all.base, true);
#pragma unroll 1
    for (i64 v = threadIdx.x; v < vocab; v += blockDim.x)
        all.sum += power_of_two(fmaf(load(logits, begin + v, dtype), LOG2E, -all.off()));
    all.sum = over_block(all.sum, false);
    const Outcome outcome(JOB, row, all);
    if (threadIdx.x == 0 && loss)
        outcome.write_loss(JOB, row, all, load(logits, begin + max(outcome.target, 0), dtype));
    if (!result) return;
#pragma unroll 1
    for (i64 v = threadIdx.x; v < vocab; v += blockDim.x) {
        const float value = outcome.of(load(logits, begin + v, dtype));
        store(result, begin + v, v == outcome.target ? value - outcome.weight : value, dtype);
    }
}
