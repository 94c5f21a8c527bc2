// Softmax in one pass: the running maximum and sum of a row of logits.
//
// Exponentials are powers of two: e^(x - M) = 2^(x * LOG2E - base), where base is M * LOG2E rounded down to a whole number.
// Differences of bases are then whole too, and the powers of two that rescale a sum exact. With M * LOG2E itself a sum took
// the error of ex2.approx at every raise and at every meeting of two threads, and its whole row with it: on an H200 more than
// twice what the naive variant's rows are off by. A temperature divides LOG2E.
#pragma once
#include "numeric.cuh"

static constexpr float LOG2E = 1.44269504f, LN2 = 0.693147181f;

__device__ __forceinline__ float minus_infinity() { return __int_as_float((int)0xff800000u); }

__device__ __forceinline__ float power_of_two(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Base and sum over some logits; of none, or of -inf alone, -inf and 0.
struct Running {
    float base, sum;

    // What is taken off in exponents: nothing while all logits were -inf.
    __device__ __forceinline__ float off() const { return base == minus_infinity() ? 0.f : base; }

    // To the base of rows whose largest logit is `most`.
    __device__ __forceinline__ void raise_for(float most, float scale = LOG2E) { raise(floorf(most * scale)); }
    __device__ __forceinline__ void raise(float other) {
        if (other > base) {
            sum *= power_of_two(base - other);
            base = other;
        }
    }
    __device__ __forceinline__ void merge(Running other) {
        raise(other.base);
        other.raise(base);
        sum += other.sum;
    }
    // Some more logits, `scale` exponents of two each.
    template <int N> __device__ __forceinline__ void add(const float (&x)[N], float scale) {
        float most = x[0];
#pragma unroll
        for (int e = 1; e < N; ++e) most = fmaxf(most, x[e]);
        raise_for(most, scale);
        const float taken = off();
        float some = 0.f;
#pragma unroll
        for (int e = 0; e < N; ++e) some += power_of_two(fmaf(x[e], scale, -taken));
        sum += some;
    }
};

// The same over all lanes of a warp, for every lane.
__device__ __forceinline__ Running over_warp(Running own) {
#pragma unroll 1
    for (int offset = 16; offset > 0; offset /= 2)
        own.merge({__shfl_xor_sync(0xffffffffu, own.base, offset), __shfl_xor_sync(0xffffffffu, own.sum, offset)});
    return own;
}

// The same over all threads of a block of whole warps, for every thread.
__device__ __forceinline__ Running over_block(Running own) {
    __shared__ Running parts[32];
#pragma unroll 1
    for (int turn = 0; turn < 2; ++turn) {
        own = over_warp(own);
        if (turn == 1) break;
        __syncthreads();
        if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = own;
        __syncthreads();
        own = threadIdx.x % 32 < blockDim.x / 32 ? parts[threadIdx.x % 32] : Running{minus_infinity(), 0.f};
    }
    return own;
}

__device__ __forceinline__ float2 widened(__half2 x) { return __half22float2(x); }
__device__ __forceinline__ float2 widened(__nv_bfloat162 x) { return __bfloat1622float2(x); }
__device__ __forceinline__ float2 widened(float2 x) { return x; }

template <typename T> struct PairOf;
template <> struct PairOf<float> { typedef float2 Type; };
template <> struct PairOf<__half> { typedef __half2 Type; };
template <> struct PairOf<__nv_bfloat16> { typedef __nv_bfloat162 Type; };

// 16 bytes of logits.
template <typename T> struct Words {
    static constexpr int N = 16 / sizeof(T);
    typedef typename PairOf<T>::Type Pair;
    uint4 word;

    __device__ __forceinline__ void widen(float (&x)[N]) const {
        const Pair* pair = (const Pair*)&word;
#pragma unroll
        for (int p = 0; p < N / 2; ++p) {
            const float2 two = widened(pair[p]);
            x[2 * p] = two.x;
            x[2 * p + 1] = two.y;
        }
    }
};

// What over_warp() gives, in half the time: bases are whole numbers or infinite, so that as integers they order as they do,
// and integers meet in one instruction. A sum is rescaled once, exactly, and sums meet in the same order.
__device__ __forceinline__ Running over_warp_at_once(Running own) {
    const int bits = __float_as_int(own.base), most = __reduce_max_sync(0xffffffffu, bits ^ (bits >> 31 & 0x7fffffff));
    own.raise(__int_as_float(most ^ (most >> 31 & 0x7fffffff)));
    own.sum = warp_sum(own.sum);
    return own;
}
