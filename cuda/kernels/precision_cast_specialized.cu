// Idea: the formats are known when the kernel is compiled, so that a number is rounded by one addition: to its bits while
//       it stays normal, and of a large number where it becomes subnormal. The hardware rounds into f16 and bf16.
// Source: ours; adding a large number to round is Dekker 1971, "A floating-point technique for extending the available
//         precision".
// Shapes: as precision_cast_naive.cu.
// Plan: a thread reads WORDS words of four numbers, 256 words apart, before it writes any. A block that is not full goes
//       number by number.
// Numerics: exact: nearest even, or stochastic where what is shifted away is added to as many random bits; NaN becomes all
//   ones but the sign.
// Limits: from f32 to tf32, f16, bf16, e4m3 and e5m2, and from f16 and bf16 to f32; stochastic into tf32 and bf16, whose
//   exponents are those of f32.
#include "numeric.cuh"

typedef unsigned short u16;
typedef unsigned char u8;

static constexpr int THREADS = 256;

// A format narrower than f32. Codes are its bits without the sign, BITS of them, LOW_ZEROS bits up; NaN is all ones.
template <int MANTISSA, int MIN_EXPONENT, int BITS, int LOW_ZEROS, typename Stored, bool STOCHASTIC = false> struct Rounded {
    typedef u32 From;
    typedef Stored To;
    static constexpr bool RANDOM = STOCHASTIC;

    // `beyond` is what codes past the largest finite one become: that, or infinity; `u` the random bits.
    static __device__ __forceinline__ Stored of(u32 x, u32 beyond, u32 u) {
        static_assert(!RANDOM || MIN_EXPONENT == -126, "subnormal numbers shift more away");
        constexpr int SHIFT = 23 - MANTISSA;
        constexpr u32 ALL = (1u << BITS) - 1, NORMAL = (u32)(127 + MIN_EXPONENT) << 23;
        const u32 code = x & 0x7fffffffu;
        u32 result = (code + (RANDOM ? u >> (32 - SHIFT) : ((1u << (SHIFT - 1)) - 1) + (code >> SHIFT & 1))) >> SHIFT;
        if (MIN_EXPONENT > -126) {
            result -= (u32)(126 + MIN_EXPONENT) << MANTISSA;
            // The last place of this number is the step of the format's subnormal numbers.
            constexpr u32 LARGE = NORMAL + ((u32)SHIFT << 23);
            const float sum = __uint_as_float(code) + __uint_as_float(LARGE);
            result = code < NORMAL ? __float_as_uint(sum) - LARGE : result;
        }
        result = code > 0x7f800000u ? ALL : min(result, beyond);
        return (Stored)((result | (result == ALL ? 0u : x >> 31 << BITS)) << LOW_ZEROS);
    }
};
typedef Rounded<10, -126, 18, 13, u32> Tf32;
typedef Rounded<10, -126, 18, 13, u32, true> StochasticTf32;
typedef Rounded<7, -126, 15, 0, u16, true> StochasticBf16;
typedef Rounded<3, -6, 7, 0, u8> E4m3;
typedef Rounded<2, -14, 7, 0, u8> E5m2;

template <bool BF16> struct Hardware {
    typedef u32 From;
    typedef u16 To;
    static constexpr bool RANDOM = false;

    // `beyond` is an f32: the largest finite number, or infinity.
    static __device__ __forceinline__ u16 of(u32 bits, u32 beyond, u32) {
        const float given = __uint_as_float(bits), bound = __uint_as_float(beyond);
        const float x = given == given ? fminf(fmaxf(given, -bound), bound) : given;
        return BF16 ? __bfloat16_as_ushort(__float2bfloat16_rn(x)) : __half_as_ushort(__float2half_rn(x));
    }
};

template <bool BF16> struct Widened {
    typedef u16 From;
    typedef u32 To;
    static constexpr bool RANDOM = false;

    static __device__ __forceinline__ u32 of(u16 bits, u32, u32) {
        const float value = BF16 ? __uint_as_float((u32)bits << 16) : __half2float(__ushort_as_half(bits));
        return value == value ? __float_as_uint(value) : 0x7fffffffu;
    }
};

template <int BYTES> struct Four;
template <> struct Four<4> { typedef uint4 Type; };
template <> struct Four<2> { typedef uint2 Type; };
template <> struct Four<1> { typedef u32 Type; };

template <typename Number> union Word {
    typename Four<sizeof(Number)>::Type word;
    Number number[4];
};

template <typename Way, int WORDS>
__device__ __forceinline__ void cast(const typename Way::From* __restrict__ input, const u32* __restrict__ u,
                                     typename Way::To* __restrict__ output, i64 n, u32 beyond) {
    typedef Word<typename Way::From> In;
    typedef Word<typename Way::To> Out;
    const i64 first = (i64)blockIdx.x * (4 * THREADS * WORDS), end = first + 4 * THREADS * WORDS;
    if (end > n) {
#pragma unroll 1
        for (i64 i = first + threadIdx.x; i < n; i += THREADS)
            output[i] = Way::of(input[i], beyond, Way::RANDOM ? u[i] : 0);
        return;
    }
    In in[WORDS];
    Word<u32> random[WORDS];
#pragma unroll
    for (int w = 0; w < WORDS; ++w) {
        in[w].word = __ldcs((const decltype(In::word)*)(input + first) + w * THREADS + threadIdx.x);
        if (Way::RANDOM) random[w].word = __ldcs((const uint4*)(u + first) + w * THREADS + threadIdx.x);
    }
#pragma unroll
    for (int w = 0; w < WORDS; ++w) {
        Out out;
#pragma unroll
        for (int e = 0; e < 4; ++e)
            out.number[e] = Way::of(in[w].number[e], beyond, Way::RANDOM ? random[w].number[e] : 0);
        __stcs((decltype(Out::word)*)(output + first) + w * THREADS + threadIdx.x, out.word);
    }
}

#define CAST(name, Way, WORDS)                                                                                        \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                             \
        to_##name(const Way::From* input, const u32* u, Way::To* output, i64 n, u32 beyond) {                         \
        cast<Way, WORDS>(input, u, output, n, beyond);                                                                \
    }
CAST(tf32, Tf32, 1)
CAST(tf32_stochastic, StochasticTf32, 1)
CAST(f16, Hardware<false>, 1)
CAST(bf16, Hardware<true>, 1)
CAST(bf16_stochastic, StochasticBf16, 1)
CAST(e4m3, E4m3, 4)
CAST(e5m2, E5m2, 4)
CAST(f32_from_f16, Widened<false>, 1)
CAST(f32_from_bf16, Widened<true>, 1)
