// Idea: a thread a gradient and a flag; a second kernel of one thread moves the scale.
// Source: Micikevicius et al. 2018, "Mixed Precision Training", section 3.2; PyTorch's GradScaler.
// Shapes: gradients [n], unscaled [n] f32, scale, streak, skip, next_scale, next_streak [1]; found [1], zeroed before.
// Plan: `unscale`, then `update`.
// Numerics: 1 / scale and the product are rounded to f32.
// Limits: none.
#include "precision_loss_scale.cuh"

extern "C" __global__ void unscale(const void* gradients, const float* scale, float* result, int* found, i64 n,
                                   int dtype) {
    const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    bool bad = false;
    result[i] = unscaled(load(gradients, i, dtype), 1.f / *scale, bad);
    if (bad) atomicOr(found, 1);
}

extern "C" __global__ void update(const int* found, const float* scale, const int* streak, int* skip,
                                  float* next_scale, int* next_streak, int interval, float growth, float backoff) {
    if (blockIdx.x == 0 && threadIdx.x == 0)
        next_state(*found != 0, *scale, *streak, {interval, growth, backoff}, skip, next_scale, next_streak);
}
