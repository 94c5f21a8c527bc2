// What the interpolations share: element types, and positions, taps and weights of an output pixel along one axis.
#pragma once
#include "numeric.cuh"

typedef unsigned short u16;

// Element types as arguments: most kernels here take any, those bound by memory are made for 4 and for 2 bytes.
enum : int { F32 = 0, F16 = 1, BF16 = 2 };

__device__ __forceinline__ float value_of(float x, int) { return x; }
__device__ __forceinline__ float value_of(u16 bits, int dtype) {
    return dtype == BF16 ? __uint_as_float((u32)bits << 16) : __half2float(__ushort_as_half(bits));
}
template <typename T> __device__ __forceinline__ T rounded(float x, int dtype);
template <> __device__ __forceinline__ float rounded<float>(float x, int) { return x; }
template <> __device__ __forceinline__ u16 rounded<u16>(float x, int dtype) {
    return dtype == BF16 ? __bfloat16_as_ushort(__float2bfloat16_rn(x)) : __half_as_ushort(__float2half_rn(x));
}
__device__ __forceinline__ float load(const void* x, i64 i, int dtype) {
    return dtype == F32 ? __ldg((const float*)x + i) : value_of(__ldg((const u16*)x + i), dtype);
}
__device__ __forceinline__ void store(void* x, i64 i, float value, int dtype) {
    if (dtype == F32)
        ((float*)x)[i] = value;
    else
        ((u16*)x)[i] = rounded<u16>(value, dtype);
}

// One axis of a resize. An output o lies at (o + half) · step − shift: f32 operations rounded one by one, never
// contracted, for they are part of the definition.
struct Axis {
    int input, output;
    float step, half, shift;

    __device__ __forceinline__ float position(int o) const {
        return __fsub_rn(__fmul_rn((float)o + half, step), shift);
    }
};

// The pixels `base`, `base + 1`, … that an output reads, before those beyond the border become the border's.
struct Taps {
    int base;
    float weight[4];

    // The weight of tap k without indexing registers.
    __device__ __forceinline__ float of(int k) const {
        return k == 0 ? weight[0] : k == 1 ? weight[1] : k == 2 ? weight[2] : weight[3];
    }

    __device__ __forceinline__ int at(int k, const Axis& axis) const { return max(0, min(base + k, axis.input - 1)); }
};

// 1, 2 or 4 taps: nearest, bilinear, bicubic.
__device__ __forceinline__ Taps taps(int o, const Axis& axis, int count) {
    const float p = axis.position(o);
    if (count == 1) return {min((int)floorf(p), axis.input - 1), {1.f, 0.f, 0.f, 0.f}};
    if (count == 2) {
        const float cut = fmaxf(p, 0.f);
        const int base = min((int)floorf(cut), axis.input - 1);
        const float lambda = fminf(__fsub_rn(cut, (float)base), 1.f);
        return {base, {1.f - lambda, lambda, 0.f, 0.f}};
    }
    const float floor = floorf(p), t = __fsub_rn(p, floor), s = 1.f - t;
    return {(int)floor - 1,
            {-0.75f * t * s * s, fmaf(fmaf(1.25f, t, -2.25f) * t, t, 1.f), fmaf(fmaf(1.25f, s, -2.25f) * s, s, 1.f),
             -0.75f * s * t * t}};
}
