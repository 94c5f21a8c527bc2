// What the acceptance kernels share: the accepted prefix, a token's weight, and finding the token at a
// threshold of the running sum. p and q are one position's distributions [vocab]; q = nullptr means that the
// weights are p itself, otherwise they are max(p - q, 0).
#pragma once
#include "numeric.cuh"

constexpr u32 FULL = 0xffffffffu;
constexpr int NOWHERE = 0x7fffffff;

// Length of the accepted prefix of one row. All 32 lanes of a warp call it and all get the result.
// q [k, vocab], p [k + 1, vocab], draft [k], u [k] are the row's; length <= k.
// The product of two floats is exact in double, so the decision is exact.
__device__ __forceinline__ int accepted_prefix(const float* q, const float* p, const int* draft, const float* u,
                                               int length, i64 vocab) {
    const int lane = threadIdx.x % 32;
    for (int first = 0; first < length; first += 32) {
        const int i = first + lane;
        bool reject = false;
        if (i < length) {
            const i64 at = i * vocab + draft[i];
            reject = !((double)u[i] * (double)q[at] < (double)p[at]);
        }
        const u32 rejects = __ballot_sync(FULL, reject);
        if (rejects) return first + __ffs(rejects) - 1;
    }
    return length;
}

__device__ __forceinline__ float weight(const float* p, const float* q, i64 t) {
    const float target = __ldg(p + t);
    return q ? fmaxf(target - __ldg(q + t), 0.f) : target;
}

// Weights of tokens t .. t + 3, zero from `end` on. `aligned`: vocab, t and end are multiples of 4, so that
// every row starts on 16 bytes.
__device__ __forceinline__ float4 weight4(const float* p, const float* q, i64 t, i64 end, bool aligned) {
    float4 w = {0.f, 0.f, 0.f, 0.f};
    if (t >= end) return w;
    if (!aligned) {
        w.x = weight(p, q, t);
        if (t + 1 < end) w.y = weight(p, q, t + 1);
        if (t + 2 < end) w.z = weight(p, q, t + 2);
        if (t + 3 < end) w.w = weight(p, q, t + 3);
        return w;
    }
    w = __ldg((const float4*)(p + t));
    if (q) {
        const float4 d = __ldg((const float4*)(q + t));
        w = {fmaxf(w.x - d.x, 0.f), fmaxf(w.y - d.y, 0.f), fmaxf(w.z - d.z, 0.f), fmaxf(w.w - d.w, 0.f)};
    }
    return w;
}

// Mass of the residual max(p - q, 0) in x and of p in y.
__device__ __forceinline__ void add_masses(float2& sum, float p, float q) {
    sum.x += fmaxf(p - q, 0.f);
    sum.y += p;
}
__device__ __forceinline__ void add_masses(float2& sum, float4 p, float4 q) {
    sum.x += (fmaxf(p.x - q.x, 0.f) + fmaxf(p.y - q.y, 0.f)) + (fmaxf(p.z - q.z, 0.f) + fmaxf(p.w - q.w, 0.f));
    sum.y += (p.x + p.y) + (p.z + p.w);
}

// The same over words begin + rank, begin + rank + count .. of p and q; four loads of each are under way
// together. Without a draft the residual is p. 32 bits hold any index within a row, and save registers.
template <bool Draft, typename Word>
__device__ __forceinline__ float2 strided_masses(const Word* p, const Word* q, u32 begin, u32 end, u32 rank, u32 count) {
    float2 sum = {0.f, 0.f};
    u32 i = begin + rank;
    for (; i + 3 * count < end; i += 4 * count) {
        Word target[4], draft[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            target[j] = __ldg(p + i + j * count);
            draft[j] = Draft ? __ldg(q + i + j * count) : Word{};
        }
        float2 four = {0.f, 0.f};  // four words first: the chain of additions is a quarter as long
#pragma unroll
        for (int j = 0; j < 4; ++j) add_masses(four, target[j], draft[j]);
        sum = {sum.x + four.x, sum.y + four.y};
    }
    for (; i < end; i += count) add_masses(sum, __ldg(p + i), Draft ? __ldg(q + i) : Word{});
    return sum;
}

// Masses of tokens begin .. end - 1, over a warp: every lane gets the sum of the warp's threads, which are
// ranks rank .. of the `count` that share the tokens.
__device__ __forceinline__ float2 warp_masses(const float* p, const float* q, u32 begin, u32 end, bool aligned,
                                              u32 rank, u32 count) {
    const float4 *p4 = (const float4*)p, *q4 = (const float4*)q;
    float2 sum;
    if (aligned)
        sum = q ? strided_masses<true>(p4, q4, begin / 4, end / 4, rank, count)
                : strided_masses<false>(p4, q4, begin / 4, end / 4, rank, count);
    else
        sum = q ? strided_masses<true>(p, q, begin, end, rank, count)
                : strided_masses<false>(p, q, begin, end, rank, count);
    return {warp_sum(sum.x), warp_sum(sum.y)};
}

// Sum of weights(t, end) over tokens begin .. end - 1, over a block of `threads` threads; thread 0 gets it.
template <int threads, typename Weights>
__device__ __forceinline__ float block_sum(const Weights& weights, i64 begin, i64 end) {
    __shared__ float warps[threads / 32];
    float sum = 0.f;
#pragma unroll 2
    for (i64 t = begin + 4 * threadIdx.x; t < end; t += 4 * threads) {
        const float4 w = weights(t, end);
        sum += (w.x + w.y) + (w.z + w.w);
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x > 0) return sum;
#pragma unroll 1
    for (int i = 1; i < threads / 32; ++i) sum += warps[i];
    return sum;
}

// Part of a row where the threshold lies, and the mass before it.
struct Segment {
    int index;
    float before;
};

// The first of `count` segments at which the running sum of their masses exceeds the threshold; where
// rounding leaves none, the last one with mass; -1 where none has mass.
__device__ __forceinline__ Segment find_segment(const float* sums, int count, float threshold) {
    Segment found = {-1, 0.f};
    float before = 0.f;
    for (int s = 0; s < count; ++s) {
        if (!(sums[s] > 0.f)) continue;
        found = {s, before};
        before += sums[s];
        if (before > threshold) break;
    }
    return found;
}

struct LocateShared {
    float warp_sum[32];
    int found, last;
};

// The smallest token of begin .. end - 1 with positive weight at which `before` plus the running sum exceeds the
// threshold; where rounding leaves none, the last one with positive weight. All threads of the block (a
// multiple of 32) call it and all get the result. Each step scans 4 tokens a thread; weights(t, end) are those of
// tokens t .. t + 3, zero from `end` on.
template <typename Weights>
__device__ __forceinline__ int locate(const Weights& weights, i64 begin, i64 end, float before, float threshold,
                                      LocateShared& shared) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    if (threadIdx.x == 0) {
        shared.found = NOWHERE;
        shared.last = -1;
    }
    for (i64 tile = begin; tile < end; tile += 4 * (i64)blockDim.x) {
        const i64 t = tile + 4 * (i64)threadIdx.x;
        const float4 four = weights(t, end);
        const float w[4] = {four.x, four.y, four.z, four.w};
        float own[4];
        own[0] = w[0];
        for (int j = 1; j < 4; ++j) own[j] = own[j - 1] + w[j];
        float inclusive = own[3];
        for (int offset = 1; offset < 32; offset *= 2) {
            const float left = __shfl_up_sync(FULL, inclusive, offset);
            if (lane >= offset) inclusive += left;
        }
        if (lane == 31) shared.warp_sum[warp] = inclusive;
        __syncthreads();  // also orders the initialization of found and last before the first use
        float exclusive = __shfl_up_sync(FULL, inclusive, 1);
        if (lane == 0) exclusive = 0.f;
        float base = 0.f;
        for (int i = 0; i < warps; ++i) {
            if (i == warp) base = before;
            before += shared.warp_sum[i];
        }
        base += exclusive;
        int found = NOWHERE, last = -1;
#pragma unroll
        for (int j = 3; j >= 0; --j) {
            if (!(w[j] > 0.f)) continue;
            last = max(last, (int)(t + j));
            if (base + own[j] > threshold) found = (int)(t + j);
        }
        found = __reduce_min_sync(FULL, found);
        last = __reduce_max_sync(FULL, last);
        if (lane == 0) {
            if (found != NOWHERE) atomicMin(&shared.found, found);
            if (last >= 0) atomicMax(&shared.last, last);
        }
        __syncthreads();  // the next tile overwrites warp_sum only after every thread has read it
        if (shared.found != NOWHERE) break;
    }
    return shared.found != NOWHERE ? shared.found : shared.last;
}

// The same of p, or of max(p - q, 0).
struct Difference {
    const float *p, *q;
    bool aligned;
    __device__ __forceinline__ float4 operator()(i64 t, i64 end) const { return weight4(p, q, t, end, aligned); }
};
__device__ __forceinline__ int locate(const float* p, const float* q, i64 begin, i64 end, bool aligned, float before,
                                      float threshold, LocateShared& shared) {
    return locate(Difference{p, q, aligned}, begin, end, before, threshold, shared);
}

// Order in which the largest value wins and among equals the lowest token: the largest key is the argmax.
// Probabilities are not negative, so their bits order as they do (adding 0 turns -0 into 0).
__device__ __forceinline__ u64 argmax_key(float value, i64 t) {
    return (u64)__float_as_uint(value + 0.f) << 32 | (0xffffffffu - (u32)t);
}
__device__ __forceinline__ int argmax_token(u64 key) { return (int)(0xffffffffu - (u32)key); }
__device__ __forceinline__ u64 larger(u64 a, u64 b) { return a > b ? a : b; }

// The largest key of tokens begin + rank * step .., each thread of a group of `count` its own share.
__device__ __forceinline__ u64 largest_key(const float* p, i64 begin, i64 end, bool aligned, int rank, int count) {
    u64 best = 0;
    if (aligned) {
#pragma unroll 4
        for (i64 t = begin + 4 * rank; t < end; t += 4 * count) {
            const float4 v = __ldg((const float4*)(p + t));
            const u64 low = larger(argmax_key(v.x, t), argmax_key(v.y, t + 1));
            best = larger(best, larger(low, larger(argmax_key(v.z, t + 2), argmax_key(v.w, t + 3))));
        }
    } else {
#pragma unroll 4
        for (i64 t = begin + rank; t < end; t += count) best = larger(best, argmax_key(__ldg(p + t), t));
    }
    return best;
}
__device__ __forceinline__ u64 warp_larger(u64 key) {
    for (int offset = 16; offset > 0; offset /= 2) key = larger(key, __shfl_xor_sync(FULL, key, offset));
    return key;
}

// Writes a row's outputs: `accepted` draft tokens, the further one, then -1; threads rank of count share it.
__device__ __forceinline__ void emit(int* tokens, const int* draft, int k, int accepted, int token, int rank,
                                     int count) {
    for (int i = rank; i <= k; i += count) tokens[i] = i < accepted ? draft[i] : i == accepted ? token : -1;
}

// The accepted prefix as accepted_prefix() has it, and the draft's length. Nothing waits for the length that need not:
// what lies beyond it is loaded, not used.
__device__ __forceinline__ int prefix_and_length(const float* q, const float* p, const int* draft, const int* lengths,
                                                 const float* u, int k, i64 vocab, int& length) {
    const int lane = threadIdx.x % 32;
#pragma unroll 1
    for (int first = 0;; first += 32) {
        const int i = first + lane, token = i < k ? __ldg(draft + i) : 0;
        const float uniform = i < k ? __ldg(u + i) : 0.f;
        length = __ldg(lengths);
        bool ends = i == length;
        if (i < length) {
            const i64 at = i * vocab + token;
            ends = !((double)uniform * (double)__ldg(q + at) < (double)__ldg(p + at));
        }
        const u32 all = __ballot_sync(FULL, ends);
        if (all) return first + __ffs(all) - 1;
    }
}

// Of this lane and those before it.
__device__ __forceinline__ float2 sum_so_far(float2 x) { return {warp_sum_so_far(x.x), warp_sum_so_far(x.y)}; }

// The first lane with mass at which the running sum exceeds the threshold; where rounding leaves none, the last one with
// mass; -1 where none has mass.
__device__ __forceinline__ int pick(float mass, float up_to, float threshold) {
    const u32 some = __ballot_sync(FULL, mass > 0.f), beyond = __ballot_sync(FULL, mass > 0.f && up_to > threshold);
    return beyond ? __ffs(beyond) - 1 : 31 - __clz(some);
}
