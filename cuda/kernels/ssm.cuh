// What the kernels of the ssm vertical share: real and complex numbers, and the gate functions.
#pragma once
#include "numeric.cuh"

// How an element type is stored and which numbers the recurrence runs over.
template <typename T> struct Number {
    typedef float V;
    static __device__ __forceinline__ V load(const T* p) { return to_float(*p); }
    static __device__ __forceinline__ void store(T* p, V v) { *p = from_float<T>(v); }
};
template <> struct Number<float2> {
    typedef float2 V;
    static __device__ __forceinline__ V load(const float2* p) { return *p; }
    static __device__ __forceinline__ void store(float2* p, V v) { *p = v; }
};

template <typename V> __device__ __forceinline__ V zero();
template <> __device__ __forceinline__ float zero<float>() { return 0.f; }
template <> __device__ __forceinline__ float2 zero<float2>() { return make_float2(0.f, 0.f); }
template <typename V> __device__ __forceinline__ V one();
template <> __device__ __forceinline__ float one<float>() { return 1.f; }
template <> __device__ __forceinline__ float2 one<float2>() { return make_float2(1.f, 0.f); }

__device__ __forceinline__ float conj(float a) { return a; }
__device__ __forceinline__ float2 conj(float2 a) { return make_float2(a.x, -a.y); }
__device__ __forceinline__ float times(float a, float b) { return a * b; }
__device__ __forceinline__ float2 times(float2 a, float2 b) {
    return make_float2(a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x);
}
// a*h + x
__device__ __forceinline__ float advance(float a, float h, float x) { return fmaf(a, h, x); }
__device__ __forceinline__ float2 advance(float2 a, float2 h, float2 x) {
    const float2 p = times(a, h);
    return make_float2(p.x + x.x, p.y + x.y);
}

#define LOG2E 1.44269504088896340736f

// 2^x by the special-function unit, to 2^-22.
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// log(1 + e^x) = max(x, 0) + log1p(t) with t = e^-|x| in (0, 1]; log1p(t)/t is a polynomial fitted at
// Chebyshev nodes, right to 2 roundings, so that small step sizes keep their relative accuracy.
__device__ __forceinline__ float softplus(float x) {
    const float t = exp2_fast(-fabsf(x) * LOG2E);
    float p = -0.00325637846f;
    p = fmaf(p, t, 0.0199071616f);
    p = fmaf(p, t, -0.0570642017f);
    p = fmaf(p, t, 0.106142648f);
    p = fmaf(p, t, -0.153118625f);
    p = fmaf(p, t, 0.196781173f);
    p = fmaf(p, t, -0.249545589f);
    p = fmaf(p, t, 0.333300054f);
    p = fmaf(p, t, -0.499999046f);
    p = fmaf(p, t, 1.f);
    return fmaxf(x, 0.f) + p * t;
}

__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.f, 1.f + exp2_fast(-x * LOG2E)); }
