// How blocks that took a split each of the same keys combine their parts: the last one does.
#pragma once
#include "attention.cuh"

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

// Whether this block is the last of its group of heads to get here. Then it finds all splits written: the fences of the
// thread that counts stand for its block's threads, which the barriers order before and after it.
template <typename Wait = WholeBlock>
__device__ __forceinline__ bool is_last(int& last, u32* counter, int splits, const Wait& wait = {}) {
    wait();
    if (threadIdx.x == 0) {
        __threadfence();
        last = atomicAdd(counter, 1) == splits - 1;
        __threadfence();
        if (last) atomicExch(counter, 0);
    }
    wait();
    return last;
}

// The splits' parts, f32 [splits, rows, dim], with stats [splits, rows] of maximum score in powers of two and sum of
// probabilities, as o and lse of `heads` rows: a warp weighs the splits of one, then a thread sums four of its values. In
// shared memory weights are [heads, splits up to a multiple of BATCH] and inverse [heads]; BATCH splits are read at a time.
template <int DIM, int THREADS = 128, int BATCH = 8, typename T, typename Wait = WholeBlock>
__device__ __forceinline__ void merge_splits(float* weights, float* inverse, int splits, i64 rows, int dim, int heads,
                                             i64 first_head, const float* sums, const float2* stats, T* o, float* lse,
                                             const Wait& wait = {}) {
    const int lane = threadIdx.x % 32, padded = (splits + BATCH - 1) / BATCH * BATCH;
#pragma unroll 1
    for (int h = threadIdx.x / 32; h < heads; h += THREADS / 32) {
        float top = NEG_INFINITY, all = 0.f;
#pragma unroll 1
        for (int s = lane; s < splits; s += 32) top = fmaxf(top, __ldcg(&stats[s * rows + first_head + h]).x);
#pragma unroll 1
        for (int offset = 16; offset > 0; offset /= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, offset));
        const float base = top == NEG_INFINITY ? 0.f : top;
#pragma unroll 1
        for (int s = lane; s < padded; s += 32) {
            const float2 stat = s < splits ? __ldcg(&stats[s * rows + first_head + h]) : make_float2(NEG_INFINITY, 0.f);
            const float weight = exp2_fast(stat.x - base);
            all = fmaf(weight, stat.y, all);
            weights[h * padded + s] = weight;
        }
#pragma unroll 1
        for (int offset = 16; offset > 0; offset /= 2) all += __shfl_xor_sync(0xffffffffu, all, offset);
        if (lane == 0) {
            inverse[h] = all > 0.f ? 1.f / all : 0.f;
            lse[first_head + h] = all > 0.f ? LN_2 * (top + log2_fast(all)) : NEG_INFINITY;
        }
    }
    wait();
#pragma unroll 1
    for (int at = threadIdx.x * 4; at < heads * DIM; at += THREADS * 4) {
        const int h = at / DIM, d = at % DIM;
        if (d >= dim) continue;
        const i64 to = (first_head + h) * dim + d, stride = rows * dim;
        const float* from = sums + to;
        float mean[4] = {0.f, 0.f, 0.f, 0.f};
#pragma unroll 1
        for (int s0 = 0; s0 < splits; s0 += BATCH) {
            float4 x[BATCH];
#pragma unroll
            for (int s = 0; s < BATCH; ++s) {
                x[s] = __ldcg((const float4*)from);
                if (s0 + s + 1 < splits) from += stride;
            }
#pragma unroll
            for (int s = 0; s < BATCH; ++s) {
                const float weight = weights[h * padded + s0 + s];
#pragma unroll
                for (int e = 0; e < 4; ++e) mean[e] = fmaf(weight, (&x[s].x)[e], mean[e]);
            }
        }
        const float share = inverse[h];
        *(uint2*)(o + to) = {Pair<T>::pack(mean[0] * share, mean[1] * share),
                             Pair<T>::pack(mean[2] * share, mean[3] * share)};
    }
}
