// Tensor-core pieces for both 16-bit types in one kernel: which of them is known when it runs, so that a kernel's PTX is
// there once. Values are handled as their bits.
#pragma once
#include "recurrent.cuh"

typedef unsigned short u16;

__device__ __forceinline__ float widened(u16 bits, bool bf16) {
    const float from_f16 = __half2float(__ushort_as_half(bits));
    return fresh(bf16) ? __uint_as_float((u32)bits << 16) : from_f16;
}
__device__ __forceinline__ u16 narrowed(float x, bool bf16) {
    const u16 as_bf16 = __bfloat16_as_ushort(__float2bfloat16_rn(x)), as_f16 = __half_as_ushort(__float2half_rn(x));
    return fresh(bf16) ? as_bf16 : as_f16;
}

// c += a * b, 16 x 8 x 16, with f32 sums.
template <bool BF16>
__device__ __forceinline__ void mma(float (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    if (BF16)
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
    else
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
