// Idea: rounding by its definition, a thread a number: mantissa and exponent apart, one shift, one decision.
// Source: IEEE 754-2019, section 4.3.1; Micikevicius et al. 2022, "FP8 Formats for Deep Learning".
// Shapes: input [n], u [n] (stochastic only, else null), output [n]; formats by number, as below.
// Plan: the source is |x| = m · 2^e; the target's step at x is 2^q; m >> (q − e) steps, and what is shifted out decides.
// Numerics: exact integers; f64 sources are not rounded twice.
// Limits: none.
#include "numeric.cuh"

// Codes are a format's bits without the sign; the one after the largest finite value is its overflow: infinity, or, for
// e4m3, NaN. NaN is all ones. tf32 codes lie in the upper bits of an f32.
struct Format {
    int bits, mantissa, min_exponent, bytes, low_zeros;
    u64 max;

    __device__ __forceinline__ u64 nan() const { return (1ull << bits) - 1; }
};

__device__ __forceinline__ Format format(int which) {
    switch (which) {
        case 0: return {63, 52, -1022, 8, 0, 0x7fefffffffffffffull};
        case 1: return {31, 23, -126, 4, 0, 0x7f7fffffull};
        case 2: return {18, 10, -126, 4, 13, 0x3fbffull};
        case 3: return {15, 10, -14, 2, 0, 0x7bffull};
        case 4: return {15, 7, -126, 2, 0, 0x7f7full};
        case 5: return {7, 3, -6, 1, 0, 0x7eull};
        default: return {7, 2, -14, 1, 0, 0x7bull};
    }
}

__device__ __forceinline__ u64 load(const void* x, i64 i, int bytes) {
    switch (bytes) {
        case 8: return ((const u64*)x)[i];
        case 4: return ((const u32*)x)[i];
        case 2: return ((const unsigned short*)x)[i];
        default: return ((const unsigned char*)x)[i];
    }
}

__device__ __forceinline__ void store(void* x, i64 i, u64 bits, int bytes) {
    switch (bytes) {
        case 8: ((u64*)x)[i] = bits; break;
        case 4: ((u32*)x)[i] = (u32)bits; break;
        case 2: ((unsigned short*)x)[i] = (unsigned short)bits; break;
        default: ((unsigned char*)x)[i] = (unsigned char)bits;
    }
}

// The code of m · 2^e rounded into `to`; exponents are unbounded above, so it may exceed the largest finite one.
__device__ __forceinline__ u64 round(u64 m, int e, const Format& to, const u32* u) {
    if (m == 0) return 0;
    const int step = max(e + 63 - __clzll(m), to.min_exponent) - to.mantissa, shift = step - e;
    u64 steps = shift <= 0 ? m << -shift : shift < 64 ? m >> shift : 0;
    if (shift > 0) {
        const u64 rest = shift < 64 ? m - (steps << shift) : m;
        if (u) {
            const u64 fraction = shift <= 32 ? rest << (32 - shift) : shift < 96 ? rest >> (shift - 32) : 0;
            steps += (fraction + *u) >> 32;
        } else if (shift < 64) {
            const u64 half = 1ull << (shift - 1);
            steps += rest > half || (rest == half && steps & 1);
        }
    }
    return steps + ((u64)(step - (to.min_exponent - to.mantissa)) << to.mantissa);
}

extern "C" __global__ void cast(const void* input, const u32* u, void* output, i64 n, int from_format, int to_format,
                                int saturate) {
    const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    // A tf32 is read as the f32 it is stored as.
    const Format from = format(from_format == 2 ? 1 : from_format), to = format(to_format);
    const u64 stored = load(input, i, from.bytes), sign = stored >> from.bits, code = stored & from.nan();
    u64 result;
    if (code > from.max) {
        const bool infinite = code == from.max + 1 && from_format != 5;
        result = !infinite ? to.nan() : saturate ? to.max : to.max + 1;
    } else {
        const int exponent = (int)(code >> from.mantissa), hidden = exponent > 0;
        const u64 m = (code & ((1ull << from.mantissa) - 1)) | ((u64)hidden << from.mantissa);
        result = round(m, max(exponent, 1) - 1 + from.min_exponent - from.mantissa, to, u ? u + i : nullptr);
        if (result > to.max) result = saturate ? to.max : to.max + 1;
    }
    const bool is_nan = result == to.nan();
    store(output, i, (result | (is_nan ? 0 : sign << to.bits)) << to.low_zeros, to.bytes);
}
