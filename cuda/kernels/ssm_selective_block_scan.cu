// Idea: a block scans one channel in parallel over time, state by state, and carries to the next chunk.
// Source: Gu and Dao, Mamba (2023), section 3.3.2: a hardware-aware scan whose states never reach memory.
// Shapes: u, delta, z, y [batch, channels, seq_len]; A [channels, state]; B, C [batch, groups, state, seq_len];
//         D, delta_bias [channels]; initial_state, last_state [batch, channels, state].
// Plan: 128 threads x 4 adjacent steps = chunks of 512. Threads scan their 4 (a, x) pairs, warps by
//       shuffles, the 4 warps through shared memory. Carries of all states stay in shared memory.
// Numerics: f32; ex2.approx for the decay; a state passes the same factors in another order.
// Limits: state up to 256; each state costs a full scan with two barriers, each channel reads B and C anew.
#include "ssm.cuh"

constexpr int THREADS = 128, WARPS = THREADS / 32, ITEMS = 4, MAX_STATE = 256;

struct Pair {
    float a, x;
};
// First `early`, then `late`.
__device__ __forceinline__ Pair compose(Pair early, Pair late) {
    return {early.a * late.a, fmaf(late.a, early.x, late.x)};
}

// Composition of the pairs of all threads before this one; `total` becomes that of all.
__device__ __forceinline__ Pair exclusive_scan(Pair mine, Pair* of_warp, Pair& total) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int offset = 1; offset < 32; offset *= 2) {
        const Pair before = {__shfl_up_sync(0xffffffffu, mine.a, offset), __shfl_up_sync(0xffffffffu, mine.x, offset)};
        if (lane >= offset) mine = compose(before, mine);
    }
    if (lane == 31) of_warp[warp] = mine;
    Pair before = {__shfl_up_sync(0xffffffffu, mine.a, 1), __shfl_up_sync(0xffffffffu, mine.x, 1)};
    if (lane == 0) before = {1.f, 0.f};
    __syncthreads();
    Pair warps = {1.f, 0.f};
    total = {1.f, 0.f};
    for (int w = 0; w < WARPS; ++w) {
        if (w == warp) warps = total;
        total = compose(total, of_warp[w]);
    }
    return compose(warps, before);
}

template <typename T>
__device__ void block_scan(const T* u, const T* delta, const float* A, const T* B, const T* C, const float* D,
                           const T* z, const float* delta_bias, const float* initial_state, T* y,
                           float* last_state, i64 batch, i64 channels, i64 seq_len, i64 state, i64 groups,
                           int use_softplus) {
    __shared__ Pair of_warp[2][WARPS];
    __shared__ float carry[MAX_STATE];
    const i64 row = blockIdx.x, b = row / channels, d = row % channels;
    const i64 projection = (b * groups + d / (channels / groups)) * state * seq_len;
    const float bias = delta_bias ? delta_bias[d] : 0.f, skip = D ? D[d] : 0.f;
    for (int n = threadIdx.x; n < state; n += THREADS)
        carry[n] = initial_state ? initial_state[row * state + n] : 0.f;
    __syncthreads();
    for (i64 from = 0; from < seq_len; from += THREADS * ITEMS) {
        const i64 mine = from + threadIdx.x * ITEMS;
        float dt[ITEMS], dtu[ITEMS], sum[ITEMS];
        for (int k = 0; k < ITEMS; ++k) {
            const bool there = mine + k < seq_len;
            const float x = there ? to_float(delta[row * seq_len + mine + k]) + bias : 0.f;
            const float value = there ? to_float(u[row * seq_len + mine + k]) : 0.f;
            dt[k] = !there ? 0.f : use_softplus ? softplus(x) : x;
            dtu[k] = dt[k] * value;
            sum[k] = skip * value;
        }
        for (int n = 0; n < state; ++n) {
            const float rate = A[d * state + n] * LOG2E;
            const i64 p = projection + n * seq_len + mine;
            Pair part[ITEMS], total;
            for (int k = 0; k < ITEMS; ++k) {
                part[k] = {exp2_fast(dt[k] * rate), mine + k < seq_len ? dtu[k] * to_float(B[p + k]) : 0.f};
                if (k > 0) part[k] = compose(part[k - 1], part[k]);
            }
            const Pair before = exclusive_scan(part[ITEMS - 1], of_warp[n % 2], total);
            const float start = carry[n], h = fmaf(before.a, start, before.x);
            for (int k = 0; k < ITEMS; ++k)
                if (mine + k < seq_len) sum[k] += to_float(C[p + k]) * fmaf(part[k].a, h, part[k].x);
            // Every thread has read carry[n]; the barrier stands before the next chunk's carry[n].
            __syncthreads();
            if (threadIdx.x == 0) carry[n] = fmaf(total.a, start, total.x);
        }
        for (int k = 0; k < ITEMS; ++k) {
            if (mine + k >= seq_len) break;
            const i64 i = row * seq_len + mine + k;
            const float gate = z ? to_float(z[i]) : 0.f;
            y[i] = from_float<T>(z ? sum[k] * gate * sigmoid(gate) : sum[k]);
        }
        __syncthreads();
    }
    for (int n = threadIdx.x; n < state; n += THREADS) last_state[row * state + n] = carry[n];
}

#define KERNEL(SUFFIX, T)                                                                                      \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                      \
        selective_##SUFFIX(const T* u, const T* delta, const float* A, const T* B, const T* C, const float* D, \
                           const T* z, const float* delta_bias, const float* initial_state, T* y,              \
                           float* last_state, i64 batch, i64 channels, i64 seq_len, i64 state, i64 groups,     \
                           int use_softplus) {                                                                 \
        block_scan<T>(u, delta, A, B, C, D, z, delta_bias, initial_state, y, last_state, batch, channels,      \
                      seq_len, state, groups, use_softplus);                                                   \
    }
KERNEL(f32, float)
KERNEL(f16, __half)
KERNEL(bf16, __nv_bfloat16)
