// Idea: one pass in wide words and one launch: the block that finishes last moves the scale.
// Source: ours; the last-block pattern of CUDA's threadFenceReduction sample, without its fence: what the last block must
//   know is in the counter itself.
// Shapes: as precision_loss_scale_naive.cu; state [1] u64: blocks done, and above 2^32 those that saw a bad gradient, zeroed
//   before.
// Plan: WORDS words of four gradients a thread, 256 words apart, all read before any is written; a block that is not full
//   goes number by number. A block counts itself done, and bad, by one addition.
// Numerics: 1 / scale and the product are rounded to f32.
// Limits: fewer than 2^32 blocks.
#include "precision_loss_scale.cuh"

static constexpr int THREADS = 256, WORDS = 2;

extern "C" __global__ void __launch_bounds__(THREADS)
    loss_scale(const void* gradients, const float* scale, const int* streak, float* result, u64* state, int* skip,
               float* next_scale, int* next_streak, i64 n, int dtype, int interval, float growth, float backoff) {
    const float inverse = 1.f / __ldg(scale);
    const i64 first = (i64)blockIdx.x * (4 * THREADS * WORDS), end = first + 4 * THREADS * WORDS;
    bool bad = false;
    if (end <= n) {
        const i64 word = first / 4 + threadIdx.x;
        float4 g[WORDS];
#pragma unroll
        for (int w = 0; w < WORDS; ++w) g[w] = load4(gradients, word + w * THREADS, dtype);
#pragma unroll
        for (int w = 0; w < WORDS; ++w)
            __stcs((float4*)result + word + w * THREADS,
                   make_float4(unscaled(g[w].x, inverse, bad), unscaled(g[w].y, inverse, bad),
                               unscaled(g[w].z, inverse, bad), unscaled(g[w].w, inverse, bad)));
    } else {
#pragma unroll 1
        for (i64 i = first + threadIdx.x; i < n; i += THREADS) result[i] = unscaled(load(gradients, i, dtype), inverse, bad);
    }
    bad = __syncthreads_or(bad);
    if (threadIdx.x != 0) return;
    const u64 mine = 1 | (u64)bad << 32, all = atomicAdd(state, mine) + mine;
    if ((u32)all == gridDim.x)
        next_state(all >> 32 != 0, *scale, *streak, {interval, growth, backoff}, skip, next_scale, next_streak);
}
