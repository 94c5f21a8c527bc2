// The product of a step on tensor cores: sums [32 rows, COLUMNS] = v [rows, depth] * W.
//
// A block owns ROWS = 32 sequences and UNITS = 16 units with all their gates, so what the cell needs is at hand when
// the product is done. 256 threads; each warp takes an eighth of the depth, and thread i has unit i % 16 of sequences
// i / 16 and i / 16 + 16.
//
// The weights are in the order in which they are used: [8 warps][chunks of 32 k][COLUMNS / 8][32 lanes] of 16 bytes,
// lane l having k = 8 * (l % 4) .. + 8 of column l / 4. So a lane loads 16 bytes of either operand for two mma: which
// k stand where in them does not matter as long as both operands agree.
#pragma once
#include "recurrent_mma.cuh"

constexpr int ROWS = 32, UNITS = 16, WARPS = 8, THREADS = 256;

template <int COLUMNS> struct Product {
    static constexpr int TILES = COLUMNS / 8, STRIDE = COLUMNS + 8, PART = ROWS * STRIDE;
    static constexpr int BYTES = 4 * PART * 4;  // warps w and w + 4 share one of four parts of the sums

    float sum[2][TILES][4];

    template <bool BF16> __device__ __forceinline__ void multiply(const uint4 (&a)[4], const uint4* w) {
#pragma unroll
        for (int n = 0; n < TILES; ++n) {
            const uint4 b = w[n * 32];
            mma<BF16>(sum[0][n], a[0].x, a[1].x, a[0].y, a[1].y, b.x, b.y);
            mma<BF16>(sum[1][n], a[2].x, a[3].x, a[2].y, a[3].y, b.x, b.y);
            mma<BF16>(sum[0][n], a[0].z, a[1].z, a[0].w, a[1].w, b.z, b.w);
            mma<BF16>(sum[1][n], a[2].z, a[3].z, a[2].w, a[3].w, b.z, b.w);
        }
    }

    // Leaves the sums in shared memory, for add_up. `v` is the block's first row of the operand; there are `rows` rows
    // from there, of `stride` values, a multiple of 8. `k` is this lane's first column and `w` its first weight.
    __device__ __forceinline__ void run(float* sums, const u16* v, int stride, int rows, int k, const uint4* w,
                                        int chunks, bool bf16) {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
        for (int m = 0; m < 2; ++m)
#pragma unroll
            for (int n = 0; n < TILES; ++n)
#pragma unroll
                for (int i = 0; i < 4; ++i) sum[m][n][i] = 0.f;
        // This lane's four rows. Those past the end repeat the last one: their sums are not used.
        const u16* at[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) at[i] = v + min(i * 8 + lane / 4, rows - 1) * stride;
        // Chunks j and j + 1 are in registers or on their way while j is multiplied; the first turn only loads. Four at a
        // time make a step of a GRU 10 % faster and an LSTM's 2 % (B64 H1024 on an H200), for 55 KB more of PTX: not taken.
        uint4 a[2][4];
#pragma unroll 1
        for (int j = -2; j < chunks; j += 2) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                if (j >= 0 && j + half < chunks) {
                    const uint4* from = w + (j + half) * TILES * 32;
                    if (fresh(bf16)) multiply<true>(a[half], from);
                    else multiply<false>(a[half], from);
                }
                // Columns past the end repeat the last eight: their weights are zero.
                const int column = min(k, stride - 8);
                if (j + half + 2 < chunks) {
#pragma unroll
                    for (int i = 0; i < 4; ++i) a[half][i] = __ldcg((const uint4*)(at[i] + column));
                }
                k += 32;
            }
        }
        float* part = sums + warp % 4 * PART + lane / 4 * STRIDE + lane % 4 * 2;
        if (warp >= 4) {
#pragma unroll
            for (int m = 0; m < 2; ++m)
#pragma unroll
                for (int n = 0; n < TILES; ++n) {
                    *(float2*)(part + m * 16 * STRIDE + n * 8) = make_float2(sum[m][n][0], sum[m][n][1]);
                    *(float2*)(part + (m * 16 + 8) * STRIDE + n * 8) = make_float2(sum[m][n][2], sum[m][n][3]);
                }
        }
        __syncthreads();
        if (warp < 4) {
#pragma unroll
            for (int m = 0; m < 2; ++m)
#pragma unroll
                for (int n = 0; n < TILES; ++n)
#pragma unroll
                    for (int half = 0; half < 2; ++half) {
                        float2* place = (float2*)(part + (m * 16 + half * 8) * STRIDE + n * 8);
                        const float2 other = *place;
                        *place = make_float2(other.x + sum[m][n][2 * half], other.y + sum[m][n][2 * half + 1]);
                    }
        }
        __syncthreads();
    }

    static __device__ __forceinline__ float add_up(const float* sums, int row, int column) {
        const float* at = sums + row * STRIDE + column;
        return (at[0] + at[PART]) + (at[2 * PART] + at[3 * PART]);
    }
};
