// Idea: a thread an output for both products; the best tokens by as many passes over the logits.
// Source: Cai et al. 2024 (Medusa), section 2.1.1.
// Shapes: x [tokens, hidden]; w [heads, hidden, hidden]; b [heads, hidden]; lm [heads, vocab, hidden]; r: f32 scratch
//   [heads, tokens, hidden]; logits [heads, tokens, vocab]; candidates [heads, tokens, top_k].
// Plan: 128 threads a block. top_k: a block of 1024 threads a row; a pass finds the largest of what lies behind the
//   token found last, in the order of falling logits and, among equals, rising tokens.
// Numerics: f32 sums; values of either type, known when it runs; r stays f32.
// Limits: neighbouring threads read different rows of the weights.
#include "any_dtype.cuh"
#include "decoding.cuh"

extern "C" __global__ void __launch_bounds__(128)
    residual(const void* x, const void* w, const void* b, float* r, int dtype, i64 tokens, i64 hidden, i64 heads) {
    const i64 at = (i64)blockIdx.x * 128 + threadIdx.x, i = at % hidden, token = at / hidden % tokens;
    if (at >= heads * tokens * hidden) return;
    const i64 row = at / hidden / tokens * hidden + i;
    float z = load(b, row, dtype);
#pragma unroll 1
    for (i64 k = 0; k < hidden; ++k) z = fmaf(load(w, row * hidden + k, dtype), load(x, token * hidden + k, dtype), z);
    r[at] = load(x, token * hidden + i, dtype) + silu(z);
}

extern "C" __global__ void __launch_bounds__(128)
    logits(const float* r, const void* lm, void* out, int dtype, i64 tokens, i64 hidden, i64 vocab, i64 heads) {
    const i64 at = (i64)blockIdx.x * 128 + threadIdx.x, row = at / vocab;
    if (at >= heads * tokens * vocab) return;
    const i64 weights = (row / tokens * vocab + at % vocab) * hidden;
    float sum = 0.f;
#pragma unroll 1
    for (i64 k = 0; k < hidden; ++k) sum = fmaf(r[row * hidden + k], load(lm, weights + k, dtype), sum);
    store(out, at, sum, dtype);
}

// Larger for larger values and, among equal ones, for smaller tokens; never 0, never all ones.
__device__ __forceinline__ u64 order_of(float value, i64 token) {
    const u32 bits = __float_as_uint(value + 0.f);  // -0 is 0
    return (u64)(bits & 0x80000000u ? ~bits : bits | 0x80000000u) << 32 | (u32)~(u32)token;
}

extern "C" __global__ void __launch_bounds__(1024)
    top_k(const void* logits, int* candidates, int dtype, i64 vocab, i64 top_k) {
    __shared__ u64 best_of[32];
    u64 last = ~0ull;
#pragma unroll 1
    for (i64 rank = 0; rank < top_k; ++rank) {
        u64 best = 0;
#pragma unroll 2
        for (i64 token = threadIdx.x; token < vocab; token += 1024) {
            const u64 order = order_of(load(logits, blockIdx.x * vocab + token, dtype), token);
            if (order < last && order > best) best = order;
        }
#pragma unroll 1
        for (int round = 0; round < 2; ++round) {
            for (int offset = 16; offset > 0; offset /= 2) {
                const u64 other = __shfl_xor_sync(0xffffffffu, best, offset);
                best = other > best ? other : best;
            }
            if (round == 1) break;
            __syncthreads();
            if (threadIdx.x % 32 == 0) best_of[threadIdx.x / 32] = best;
            __syncthreads();
            best = best_of[threadIdx.x % 32];
        }
        last = best;
        if (threadIdx.x == 0) candidates[blockIdx.x * top_k + rank] = (int)~(u32)best;
    }
}
