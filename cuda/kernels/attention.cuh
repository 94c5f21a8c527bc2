// What the attention kernels share: layouts, the keys a query sees, powers of two.
//
// q, o and their gradients are [batch, seq_q, heads_q, head_dim], k and v [batch, seq_k, heads_kv, head_dim],
// lse [batch, heads_q, seq_q], all row-major. `causal` is 0 or 1; `window` is the number of keys a causal
// query sees, or a number beyond every sequence for all of them.
#pragma once
#include "numeric.cuh"

constexpr float LOG2_E = 1.4426950408889634f;
constexpr float LN_2 = 0.6931471805599453f;
#define NEG_INFINITY __int_as_float(0xff800000)

struct Keys {
    int begin, end;
};

// Keys that query i sees of `keys`, when there are `queries` queries. Both ends never fall as i grows.
__device__ __forceinline__ Keys visible(int i, int queries, int keys, int causal, int window) {
    if (!causal) return {0, keys};
    const int end = min(keys, max(0, i + keys - queries + 1));
    return {max(0, end - window), end};
}

// 2^x, at most 2 ulp off; 2^-inf = 0.
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// An array of f32, f16 or bf16 whose type is known at run time only: the kernels on CUDA cores convert every value
// anyway, and one kernel for three types keeps the PTX small.
enum Kind { F32 = 0, F16 = 1, BF16 = 2 };

// Four values from index `at`, a multiple of 4, of an array aligned to 16 bytes.
__device__ __forceinline__ float4 load_four(const void* array, int kind, i64 at) {
    if (kind == F32) return *(const float4*)((const float*)array + at);
    const uint2 bits = *(const uint2*)((const u32*)array + at / 2);
    if (kind == F16) {
        const float2 low = __half22float2(*(const __half2*)&bits.x), high = __half22float2(*(const __half2*)&bits.y);
        return {low.x, low.y, high.x, high.y};
    }
    return {__uint_as_float(bits.x << 16), __uint_as_float(bits.x & 0xffff0000u), __uint_as_float(bits.y << 16),
            __uint_as_float(bits.y & 0xffff0000u)};
}

// The reverse of load_four.
__device__ __forceinline__ void store_four(void* array, int kind, i64 at, float4 x) {
    if (kind == F32) {
        *(float4*)((float*)array + at) = x;
        return;
    }
    uint2 bits;
    if (kind == F16) {
        const __half2 low = __floats2half2_rn(x.x, x.y), high = __floats2half2_rn(x.z, x.w);
        bits = {*(const u32*)&low, *(const u32*)&high};
    } else {
        const __nv_bfloat162 low = __floats2bfloat162_rn(x.x, x.y), high = __floats2bfloat162_rn(x.z, x.w);
        bits = {*(const u32*)&low, *(const u32*)&high};
    }
    *(uint2*)((u32*)array + at / 2) = bits;
}

__device__ __forceinline__ void store_one(void* array, int kind, i64 at, float x) {
    if (kind == F32)
        ((float*)array)[at] = x;
    else if (kind == F16)
        ((__half*)array)[at] = __float2half_rn(x);
    else
        ((__nv_bfloat16*)array)[at] = __float2bfloat16_rn(x);
}

// Over the four lanes that share a row of a tensor core's accumulators.
__device__ __forceinline__ float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
__device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

// Two values side by side, as tensor cores take them.
template <typename T> struct Pair;
template <> struct Pair<__half> {
    static __device__ __forceinline__ u32 pack(float low, float high) {
        const __half2 two = __floats2half2_rn(low, high);
        return *(const u32*)&two;
    }
};
template <> struct Pair<__nv_bfloat16> {
    static __device__ __forceinline__ u32 pack(float low, float high) {
        const __nv_bfloat162 two = __floats2bfloat162_rn(low, high);
        return *(const u32*)&two;
    }
};
