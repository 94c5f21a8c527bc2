// Idea: one pass in wide words and one launch: the block that finishes last moves the scale.
// Source: ours; the last-block pattern of CUDA's threadFenceReduction sample.
// Shapes: as precision_loss_scale_naive.cu; state [2] u32: found and blocks done, zeroed before.
// Plan: four gradients a thread; a block that saw a bad one sets the flag before it counts itself done.
// Numerics: 1 / scale and the product are rounded to f32.
// Limits: none.
#include "precision_loss_scale.cuh"

extern "C" __global__ void __launch_bounds__(256)
    loss_scale(const void* gradients, const float* scale, const int* streak, float* result, u32* state, int* skip,
               float* next_scale, int* next_streak, i64 n, int dtype, int interval, float growth, float backoff) {
    const float inverse = 1.f / __ldg(scale);
    const i64 word = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    bool bad = false;
    if (word < n / 4) {
        const float4 g = load4(gradients, word, dtype);
        __stcs((float4*)result + word, make_float4(unscaled(g.x, inverse, bad), unscaled(g.y, inverse, bad),
                                                   unscaled(g.z, inverse, bad), unscaled(g.w, inverse, bad)));
    } else if (word < n / 4 + n % 4) {
        const i64 i = n / 4 * 4 + (word - n / 4);
        result[i] = unscaled(load(gradients, i, dtype), inverse, bad);
    }
    bad = __syncthreads_or(bad);
    if (threadIdx.x != 0) return;
    if (bad) atomicOr(state, 1u);
    __threadfence();
    if (atomicAdd(state + 1, 1u) != gridDim.x - 1) return;
    __threadfence();
    next_state(atomicOr(state, 0u) != 0, *scale, *streak, {interval, growth, backoff}, skip, next_scale, next_streak);
}
