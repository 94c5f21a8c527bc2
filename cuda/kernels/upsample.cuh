// What the interpolations share: positions, taps and weights of an output pixel along one axis.
#pragma once
#include "any_dtype.cuh"

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

// The outputs that read pixel i along one axis, neighbours all, and with what weights: from tables of the host.
struct Readers {
    int first, count;
    const float* weights;

    __device__ __forceinline__ Readers(const int* ranges, const float* weights, int i)
        : first(__ldg(ranges + 3 * i)), count(__ldg(ranges + 3 * i + 1)), weights(weights + __ldg(ranges + 3 * i + 2)) {}
};

// A word of 16 bytes from its sums.
__device__ __forceinline__ uint4 word_of(const float (&x)[4], float) {
    return make_uint4(__float_as_uint(x[0]), __float_as_uint(x[1]), __float_as_uint(x[2]), __float_as_uint(x[3]));
}
__device__ __forceinline__ uint4 word_of(const float (&x)[8], __half) {
    uint4 word;
    __half2* pair = (__half2*)&word;
#pragma unroll
    for (int i = 0; i < 4; ++i) pair[i] = __floats2half2_rn(x[2 * i], x[2 * i + 1]);
    return word;
}
__device__ __forceinline__ uint4 word_of(const float (&x)[8], __nv_bfloat16) {
    uint4 word;
    __nv_bfloat162* pair = (__nv_bfloat162*)&word;
#pragma unroll
    for (int i = 0; i < 4; ++i) pair[i] = __floats2bfloat162_rn(x[2 * i], x[2 * i + 1]);
    return word;
}
