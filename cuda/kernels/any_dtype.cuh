// Element types as arguments: kernels that take any of them share their code.
#pragma once
#include "numeric.cuh"

typedef unsigned short u16;

enum : int { F32 = 0, F16 = 1, BF16 = 2 };

// All ones for bf16, else zero: a half is chosen with masks, for on a branch the compiler would copy whole loops.
__device__ __forceinline__ u32 bf16_mask(int dtype) { return (u32)-(dtype >> 1); }

__device__ __forceinline__ float value_of(float x, int) { return x; }
__device__ __forceinline__ float value_of(u16 bits, int dtype) {
    const u32 mask = bf16_mask(dtype), as_f16 = __float_as_uint(__half2float(__ushort_as_half(bits)));
    return __uint_as_float(((u32)bits << 16 & mask) | (as_f16 & ~mask));
}

template <typename T> __device__ __forceinline__ T rounded(float x, int dtype);
template <> __device__ __forceinline__ float rounded<float>(float x, int) { return x; }
template <> __device__ __forceinline__ u16 rounded<u16>(float x, int dtype) {
    const u32 mask = bf16_mask(dtype);
    const u32 as_bf16 = __bfloat16_as_ushort(__float2bfloat16_rn(x)), as_f16 = __half_as_ushort(__float2half_rn(x));
    return (u16)((as_bf16 & mask) | (as_f16 & ~mask));
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

// Four neighbouring elements at once: element 4 · word and the next three.
__device__ __forceinline__ float4 load4(const void* x, i64 word, int dtype) {
    if (dtype == F32) return __ldcs((const float4*)x + word);
    const uint2 bits = __ldcs((const uint2*)x + word);
    return make_float4(value_of((u16)bits.x, dtype), value_of((u16)(bits.x >> 16), dtype),
                       value_of((u16)bits.y, dtype), value_of((u16)(bits.y >> 16), dtype));
}
__device__ __forceinline__ void store4_half(void* x, i64 word, const float (&value)[4], int dtype) {
    u32 bits[4];
#pragma unroll
    for (int e = 0; e < 4; ++e) bits[e] = rounded<u16>(value[e], dtype);
    __stcs((uint2*)x + word, make_uint2(bits[0] | bits[1] << 16, bits[2] | bits[3] << 16));
}
