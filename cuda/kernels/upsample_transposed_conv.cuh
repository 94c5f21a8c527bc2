// Pieces of transposed convolution on tensor cores: pixels on one line, with zeros behind rows and images, so that a
// tap is one distance along the line.
#pragma once
#include "attention_mma.cuh"

typedef unsigned short u16;

static constexpr int THREADS = 256;
static constexpr int EDGE = 64;  // places and channels that are arranged at a time

__device__ __forceinline__ void copy_16(u32 to, const char* from, bool there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(there ? 16 : 0) : "memory");
}

// Of 1 for f16 and 2 for bf16; the twins' text has no such conversion of its own.
__device__ __forceinline__ float widened(u16 bits, int dtype) {
    return dtype == F16 ? __half2float(__ushort_as_half(bits)) : __uint_as_float((u32)bits << 16);
}

// Up to 64 channels of a row of pixels, [planes, plane] from `row` on, become a row of the line, [pitch, channels] from
// `to` on, `wanted` channels of it. Place c has pixel c * step + first of `width`, or zeros, as have rows that are not
// `there`.
__device__ __forceinline__ void arrange_row(const u16* row, bool there, int step, int first, int width, int planes,
                                            i64 plane, u16* to, int pitch, int wanted, i64 channels) {
    __shared__ u32 tile[EDGE][EDGE / 2 + 1];  // pairs of places
    const bool vector = step == 1 && first == 0 && width % 8 == 0 && plane % 8 == 0 && (size_t)row % 16 == 0;
#pragma unroll 1
    for (int place0 = 0; place0 < pitch; place0 += EDGE) {
        __syncthreads();  // the tile of the places before is read
        if (vector) {
            const int x = place0 + threadIdx.x % 8 * 8;
#pragma unroll
            for (int c = threadIdx.x / 8; c < EDGE; c += THREADS / 8) {
                const bool inside = there && x < width && c < planes;
                const uint4 word = inside ? __ldg((const uint4*)(row + c * plane + x)) : make_uint4(0, 0, 0, 0);
                u32* const at = &tile[c][threadIdx.x % 8 * 4];
                at[0] = word.x, at[1] = word.y, at[2] = word.z, at[3] = word.w;
            }
        } else {
            const int x = (place0 + threadIdx.x % EDGE) * step + first;
            const bool inside = there && (u32)x < (u32)width;
#pragma unroll 8
            for (int c = threadIdx.x / EDGE; c < EDGE; c += THREADS / EDGE)
                ((u16*)tile[c])[threadIdx.x % EDGE] = inside && c < planes ? __ldg(row + c * plane + x) : (u16)0;
        }
        __syncthreads();
        const int c = threadIdx.x % 8 * 8, place = place0 + threadIdx.x / 8 * 2;
        u32 even[4], odd[4];
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            const u32 low = tile[c + e * 2][threadIdx.x / 8], high = tile[c + e * 2 + 1][threadIdx.x / 8];
            even[e] = __byte_perm(low, high, 0x5410);
            odd[e] = __byte_perm(low, high, 0x7632);
        }
        u16* const at = to + place * channels + c;
        if (c < wanted && place < pitch) __stcg((uint4*)at, make_uint4(even[0], even[1], even[2], even[3]));
        if (c < wanted && place + 1 < pitch) __stcg((uint4*)(at + channels), make_uint4(odd[0], odd[1], odd[2], odd[3]));
    }
}
