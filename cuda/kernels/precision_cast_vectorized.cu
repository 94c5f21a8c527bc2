// Idea: four numbers a thread in wide words; every source is exact in f32, and an f32 is rounded in a few integer
//       operations, or by the hardware where it has the rule.
// Source: ours; the arithmetic of precision_cast_naive.cu in 32 bits.
// Shapes: as precision_cast_naive.cu.
// Plan: a thread reads four numbers (and their four uniform words) and writes four; the last n mod 4 go one by one.
// Numerics: exact; nearest even into f16 and bf16 by cvt.rn, which gives NaN the same bits.
// Limits: no f64; from f32 or tf32 to tf32 and all narrower, from all narrower to f32.
#include "numeric.cuh"

typedef unsigned short u16;
typedef unsigned char u8;

enum : int { F16 = 3, BF16 = 4, E4M3 = 5 };

// A format as an f32 is rounded into it. Codes are its bits without the sign: `max` is the largest finite one,
// `overflow` what lies beyond becomes, `nan` all ones. They lie `low_zeros` bits up. `random` is all ones for stochastic
// rounding, else zero. All as arguments, without a branch on them: the compiler would make a copy for every branch.
struct Target {
    int which, mantissa, min_exponent, low_zeros;
    u32 max, overflow, nan, random;

    // The bits of x; u decides, or the nearer neighbour.
    __device__ __forceinline__ u32 round(u32 x, u32 u) const {
        const u32 code = x & 0x7fffffffu;
        const int exponent = (int)(code >> 23);
        const bool normal = exponent >= min_exponent + 127;
        const u32 m = normal ? code : exponent ? (code & 0x7fffffu) | 0x800000u : code;
        const int shift = normal ? 23 - mantissa : min_exponent - mantissa + 150 - ::max(exponent, 1);
        // Whole steps above, and below what is shifted out as a fraction of 2^32.
        const u64 shifted = ((u64)m << 32) >> min(shift, 63);
        const u32 steps = (u32)(shifted >> 32), fraction = (u32)shifted;
        // Both rules are a carry: random bits to go away with the fraction's probability, or half a step, less one
        // part in 2^32 for an even number, which so stays in the middle.
        const u32 carry = (u & random) | ((0x7fffffffu + (steps & 1)) & ~random);
        u32 result = steps + (fraction + carry < fraction) - (normal ? (u32)(126 + min_exponent) << mantissa : 0u);
        result = result > max ? overflow : result;
        result = code > 0x7f800000u ? nan : result;
        const u32 sign = result == nan ? 0u : (x >> 31) * (nan + 1);
        return (result | sign) << low_zeros;
    }

    // Nearest even into f16 and bf16.
    __device__ __forceinline__ u32 round_in_hardware(u32 bits) const {
        const float largest = which == F16 ? 65504.f : __uint_as_float(0x7f7f0000u);
        const float bound = overflow == max ? largest : __uint_as_float(0x7f800000u), given = __uint_as_float(bits);
        const float x = given == given ? fminf(fmaxf(given, -bound), bound) : given;
        return which == F16 ? __half_as_ushort(__float2half_rn(x)) : __bfloat16_as_ushort(__float2bfloat16_rn(x));
    }
};

// The bits of the f32 with the value of a narrower number; NaN as all ones but the sign.
__device__ __forceinline__ u32 widened(u32 x, int from) {
    float value;
    if (from == E4M3) {
        // Shifted into place, the number is too small by 2^120; the product is exact.
        value = (x & 0x7f) == 0x7f ? __uint_as_float(0x7fffffffu)
                                   : __uint_as_float((x & 0x80) << 24 | (x & 0x7f) << 20) * __uint_as_float(0x7b800000u);
    } else if (from == BF16) {
        value = __uint_as_float(x << 16);
    } else {
        value = __half2float(__ushort_as_half((u16)(from == F16 ? x : x << 8)));
    }
    return value == value ? __float_as_uint(value) : 0x7fffffffu;
}

template <int BYTES> struct Four;
template <> struct Four<4> { typedef uint4 Type; typedef u32 One; };
template <> struct Four<2> { typedef uint2 Type; typedef u16 One; };
template <> struct Four<1> { typedef u32 Type; typedef u8 One; };

enum class Way { WIDEN, ROUND, HARDWARE };

template <int FROM, Way WAY> __device__ __forceinline__ u32 one(u32 x, u32 u, int from, const Target& to) {
    if constexpr (WAY == Way::WIDEN) return widened(x, from);
    if constexpr (WAY == Way::HARDWARE) return to.round_in_hardware(x);
    return to.round(x, u);
}

template <int FROM, int TO, Way WAY>
__device__ __forceinline__ void cast(const typename Four<FROM>::One* __restrict__ input, const u32* __restrict__ u,
                                     typename Four<TO>::One* __restrict__ output, i64 n, int from, const Target& to) {
    const i64 word = (i64)blockIdx.x * blockDim.x + threadIdx.x, left = n - 4 * word;
    if (left <= 0) return;
    union {
        typename Four<FROM>::Type word;
        typename Four<FROM>::One number[4];
    } in;
    union {
        typename Four<TO>::Type word;
        typename Four<TO>::One number[4];
    } out;
    u32 random[4] = {0, 0, 0, 0};
    if (left >= 4) {
        in.word = __ldcs(reinterpret_cast<const typename Four<FROM>::Type*>(input) + word);
        if (u) *reinterpret_cast<uint4*>(random) = __ldcs(reinterpret_cast<const uint4*>(u) + word);
    } else {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            in.number[e] = e < left ? input[4 * word + e] : 0;
            if (u && e < left) random[e] = u[4 * word + e];
        }
    }
#pragma unroll
    for (int e = 0; e < 4; ++e)
        out.number[e] = (typename Four<TO>::One)one<FROM, WAY>(in.number[e], random[e], from, to);
    if (left >= 4) {
        __stcs(reinterpret_cast<typename Four<TO>::Type*>(output) + word, out.word);
    } else {
#pragma unroll
        for (int e = 0; e < 3; ++e)
            if (e < left) output[4 * word + e] = out.number[e];
    }
}

#define CAST(name, FROM, TO, WAY)                                                                                     \
    extern "C" __global__ void __launch_bounds__(256)                                                                 \
        name(const Four<FROM>::One* input, const u32* u, Four<TO>::One* output, i64 n, int from, int to, int mantissa, \
             int min_exponent, int low_zeros, u32 max, u32 overflow, u32 nan, u32 random) {                           \
        cast<FROM, TO, WAY>(input, u, output, n, from,                                                                \
                            {to, mantissa, min_exponent, low_zeros, max, overflow, nan, random});                     \
    }
CAST(round_4_4, 4, 4, Way::ROUND)
CAST(round_4_2, 4, 2, Way::ROUND)
CAST(round_4_1, 4, 1, Way::ROUND)
CAST(nearest_4_2, 4, 2, Way::HARDWARE)
CAST(widen_2_4, 2, 4, Way::WIDEN)
CAST(widen_1_4, 1, 4, Way::WIDEN)
