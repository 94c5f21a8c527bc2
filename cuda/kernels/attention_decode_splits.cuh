// How blocks that took a split each of the same keys combine their parts: the last one does.
#pragma once
#include "attention.cuh"
#include "release.cuh"

// log2 of x, at most 2^-22 off, of its size where that is more than 1.
__device__ __forceinline__ float log2_fast(float x) {
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// How threads of a block that combine wait for each other: all of it, unless a kernel says otherwise.
struct WholeBlock {
    __device__ __forceinline__ void operator()() const { __syncthreads(); }
};

// Whether this block is the last of its group of heads to get here. Then it finds all splits written: the thread that
// counts stands for its block's threads, which the barriers order before and after it.
template <typename Wait = WholeBlock>
__device__ __forceinline__ bool is_last(int& last, u32* counter, int splits, const Wait& wait = {}) {
    wait();
    if (threadIdx.x == 0) {
        last = count_acquire_release(counter) == (u32)splits - 1;
        if (last) atomicExch(counter, 0);
    }
    wait();
    return last;
}

// The splits' parts, f32 [splits, rows, dim], with stats [splits, rows] of maximum score in powers of two and sum of
// probabilities, as o and lse of `heads` rows. A thread has four values of a row and asks for BATCH splits at a time, stats
// and sums at once: memory's latency is what combining takes.
template <int DIM, int THREADS = 128, int BATCH = 8, typename T>
__device__ __forceinline__ void merge_splits(int splits, i64 rows, int dim, int heads, i64 first_head, const float* sums,
                                             const float2* stats, T* o, float* lse) {
#pragma unroll 1
    for (int at = threadIdx.x * 4; at < heads * DIM; at += THREADS * 4) {
        const int h = at / DIM, d = at % DIM;
        if (d >= dim) continue;
        const i64 head = first_head + h, to = head * dim + d, stride = rows * dim;
        const float2* stat_from = stats + head;
        const float* from = sums + to;
        float top = NEG_INFINITY, all = 0.f, mean[4] = {0.f, 0.f, 0.f, 0.f};
#pragma unroll 1
        for (int left = splits; left > 0; left -= BATCH) {
            float2 stat[BATCH];
            float4 x[BATCH];
            float rise = top;
#pragma unroll
            for (int s = 0; s < BATCH; ++s) {
                stat[s] = __ldcg(stat_from);
                x[s] = __ldcg((const float4*)from);
                if (s >= left) stat[s] = make_float2(NEG_INFINITY, 0.f);
                if (s + 1 < left) stat_from += rows, from += stride;
            }
#pragma unroll
            for (int s = 0; s < BATCH; ++s) rise = fmaxf(rise, stat[s].x);
            const float base = rise == NEG_INFINITY ? 0.f : rise, old = exp2_fast(top - base);
            top = rise;
            all *= old;
#pragma unroll
            for (int e = 0; e < 4; ++e) mean[e] *= old;
#pragma unroll
            for (int s = 0; s < BATCH; ++s) {
                const float weight = exp2_fast(stat[s].x - base);
                all = fmaf(weight, stat[s].y, all);
#pragma unroll
                for (int e = 0; e < 4; ++e) mean[e] = fmaf(weight, (&x[s].x)[e], mean[e]);
            }
        }
        const float share = all == 0.f ? 0.f : 1.f / all;
        *(uint2*)(o + to) = {Pair<T>::pack(mean[0] * share, mean[1] * share),
                             Pair<T>::pack(mean[2] * share, mean[3] * share)};
        if (d == 0) lse[head] = all == 0.f ? NEG_INFINITY : LN_2 * (top + log2_fast(all));
    }
}
