// What the attention kernels share: layouts, the keys a query sees, powers of two.
//
// q, o and their gradients are [batch, seq_q, heads_q, head_dim], k and v [batch, seq_k, heads_kv, head_dim],
// lse [batch, heads_q, seq_q], all row-major. `causal` is 0 or 1; `window` is the number of keys a causal
// query sees, or a number beyond every sequence for all of them. A score is scale·x with x = q·k, or, where `squeeze` is
// not 0, scale·tanh(squeeze·x): a soft cap of `scale`.
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

// tanh(squeeze·x), off by at most 15 units of 2^-24 of its size: 1 - 2 / (1 + e^2y), or where that cancels, for y² < 1/4,
// a polynomial (our own fit of (tanh y / y - 1) / y² in powers of y², a quarter of a unit off). tanh.approx is off by
// 2^-11, which a cap of 50 makes an error of 2 % in a probability; tanhf has a branch that lanes would take both ways.
// In assembly, because kernels write it out for every score of a tile: names of its own keep the PTX a third shorter.
__device__ __forceinline__ float tanh_of(float x, float squeeze) {
    float tanh;
    asm("{\n.reg .f32 y, z, p;\n.reg .pred near;\n"
        "mul.f32 y, %1, %2;\n"
        "mul.f32 z, y, 0f4038AA3B;\n"
        "ex2.approx.ftz.f32 z, z;\n"
        "add.f32 z, z, 0f3F800000;\n"
        "rcp.approx.ftz.f32 z, z;\n"
        "fma.rn.f32 %0, z, 0fC0000000, 0f3F800000;\n"
        "mul.f32 z, y, y;\n"
        "fma.rn.f32 p, z, 0f3C8D3E07, 0fBD59463B;\n"  // 0.01724149, -0.05304549
        "fma.rn.f32 p, p, z, 0f3E0874FE;\n"  // 0.13325879
        "fma.rn.f32 p, p, z, 0fBEAAAA6B;\n"  // -0.33333144
        "mul.f32 p, p, z;\n"
        "setp.lt.f32 near, z, 0f3E800000;\n"
        "@near fma.rn.f32 %0, p, y, y;\n}"
        : "=&f"(tanh)
        : "f"(x), "f"(squeeze));
    return tanh;
}

// What `scale` multiplies in a score, of x = q·k.
__device__ __forceinline__ float capped(float x, float squeeze) { return squeeze == 0.f ? x : tanh_of(x, squeeze); }

// The slope of a soft cap where the squeezed score is `s`.
__device__ __forceinline__ float slope_at(float s, float squeeze) { return squeeze == 0.f ? 1.f : fmaf(-s, s, 1.f); }

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

// Turns four lanes' four words each about the diagonal: lane l of a quad then has word l of lanes 0 to 3.
__device__ __forceinline__ void transpose_quad(u32 (&x)[4], int lane) {
    const bool odd = lane & 1, upper = lane & 2;
#pragma unroll
    for (int r = 0; r < 4; r += 2) {
        const u32 got = __shfl_xor_sync(0xffffffffu, odd ? x[r] : x[r + 1], 1);
        x[r] = odd ? got : x[r], x[r + 1] = odd ? x[r + 1] : got;
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const u32 got = __shfl_xor_sync(0xffffffffu, upper ? x[r] : x[r + 2], 2);
        x[r] = upper ? got : x[r], x[r + 2] = upper ? x[r + 2] : got;
    }
}
