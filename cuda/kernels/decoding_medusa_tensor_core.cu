// Idea: the weights' rows are the rows of a product on tensor cores and the few tokens its columns, all heads in one
//   launch: each weight comes from memory once, and what follows a product is done on its sums.
// Source: Cai et al. 2024 (Medusa), section 2.1.1; the multi-stage cp.async and ldmatrix pipeline of Ampere's tensor
//   cores (CUTLASS documentation).
// Shapes: out [Z, tokens, columns] of x [Z, tokens, depth] (batches at a distance that may be 0) and w
//   [Z, columns, depth], all bf16, depth a multiple of 8, 16-byte aligned rows. With a bias [Z, columns] it is the
//   residual block: out = x + SiLU(w x + bias), where columns = depth; without, the head's output layer.
// Plan: a block takes 128 columns and up to 128 tokens, a warp 32 x 64, in steps of 64 of depth, three stages in flight.
//   Sixteen tokens that do not exist are not multiplied. Blocks that share weights are neighbours. Sums go through
//   shared memory, so that a warp writes a token's neighbouring columns.
// Numerics: f32 sums; the residual block's result is rounded to bf16 for the second product.
// Limits: few columns leave much of the device idle, for the depth is not split.
#include "attention_mma.cuh"
#include "decoding.cuh"

namespace {

constexpr int COLUMNS = 128, DEPTH = 64, STAGES = 3, STRIDE = COLUMNS + 4;

// Starts copying 64 values from k0 on of rows into a tile; zeros outside.
__device__ __forceinline__ void copy_rows(u32 tile, int count, const __nv_bfloat16* from, i64 first, i64 rows, i64 k0,
                                          i64 depth) {
    const int d = threadIdx.x % 8 * 8;
#pragma unroll 1
    for (int row = threadIdx.x / 8; row < count; row += 32) {
        const bool inside = first + row < rows && k0 + d < depth;
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(tile + chunk_at<DEPTH>(row, d)),
                     "l"(inside ? from + (first + row) * depth + k0 + d : from), "r"(inside ? 16 : 0)
                     : "memory");
    }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(256, 2)
    product(const __nv_bfloat16* __restrict__ x, i64 x_batch, const __nv_bfloat16* __restrict__ w,
            const __nv_bfloat16* __restrict__ bias, __nv_bfloat16* __restrict__ out, i64 tokens, i64 columns, i64 depth,
            int token_rows) {
    extern __shared__ __align__(128) unsigned char shared[];
    constexpr u32 W_TILE = COLUMNS * DEPTH * 2;
    const u32 tiles = (u32)__cvta_generic_to_shared(shared), stage_bytes = W_TILE + token_rows * DEPTH * 2;
    const i64 token0 = (i64)blockIdx.x * token_rows, column0 = (i64)blockIdx.y * COLUMNS, z = blockIdx.z;
    x += z * x_batch;
    w += z * columns * depth;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warp_column = warp % 4 * 32, warp_token = warp / 4 * 64;
    const int here = (int)min((i64)token_rows, tokens - token0), left = here - warp_token;
    const u32 by_row = starts_by_row<DEPTH>(lane), by_value = starts_by_value<DEPTH>(lane);

    float sum[2][8][4] = {};
    const i64 steps = (depth + DEPTH - 1) / DEPTH;
    u32 fetched = 0, used = 0;
    // The first turns only fetch.
#pragma unroll 1
    for (i64 step = 1 - STAGES; step < steps; ++step) {
        copies_wait<STAGES - 2>();
        __syncthreads();
        if (step + STAGES - 1 < steps) {
            const u32 stage = tiles + fetched * stage_bytes;
            const i64 k0 = (step + STAGES - 1) * DEPTH;
            copy_rows(stage, COLUMNS, w, column0, columns, k0, depth);
            copy_rows(stage + W_TILE, token_rows, x, token0, tokens, k0, depth);
            fetched = fetched == STAGES - 1 ? 0 : fetched + 1;
        }
        copies_commit();
        if (step < 0) continue;
        const u32 w_tile = tiles + used * stage_bytes, x_tile = w_tile + W_TILE;
        used = used == STAGES - 1 ? 0 : used + 1;
        if (left <= 0) continue;
#pragma unroll 1
        for (int k = 0; k < DEPTH; k += 16) {
            u32 a[2][4];
            load_matrices(a[0], fragment<DEPTH>(w_tile, by_row, warp_column, k));
            load_matrices(a[1], fragment<DEPTH>(w_tile, by_row, warp_column + 16, k));
#pragma unroll
            for (int n = 0; n < 4; ++n) {
                if (n * 16 >= left) break;
                u32 b[4];
                load_matrices(b, fragment<DEPTH>(x_tile, by_value, warp_token + n * 16, k));
#pragma unroll
                for (int m = 0; m < 2; ++m) {
                    mma<__nv_bfloat16>(sum[m][2 * n], a[m], b[0], b[1]);
                    mma<__nv_bfloat16>(sum[m][2 * n + 1], a[m], b[2], b[3]);
                }
            }
        }
    }
    copies_wait<0>();
    __syncthreads();
    float* staged = (float*)shared;
    float* at = staged + (warp_token + lane % 4 * 2) * STRIDE + warp_column + lane / 4;
#pragma unroll
    for (int n = 0; n < 8; ++n)
        if (n * 8 < left)
#pragma unroll
            for (int m = 0; m < 2; ++m)
#pragma unroll
                for (int e = 0; e < 4; ++e) at[(n * 8 + e % 2) * STRIDE + m * 16 + e / 2 * 8] = sum[m][n][e];
    __syncthreads();
    const i64 column = column0 + threadIdx.x % 32 * 4;
    const bool wide = columns % 4 == 0;
#pragma unroll 1
    for (int token = warp; token < here; token += 8) {
        const i64 row = token0 + token;
        float value[4];
        *(float4*)value = *(const float4*)&staged[token * STRIDE + threadIdx.x % 32 * 4];
        if (bias)
#pragma unroll
            for (int e = 0; e < 4; ++e)
                if (column + e < columns)
                    value[e] = to_float(x[row * depth + column + e]) +
                               silu(value[e] + to_float(bias[z * columns + column + e]));
        __nv_bfloat16* to = out + (z * tokens + row) * columns + column;
        if (wide && column < columns) {
            const u32 two[2] = {Pair<__nv_bfloat16>::pack(value[0], value[1]), Pair<__nv_bfloat16>::pack(value[2], value[3])};
            *(uint2*)to = make_uint2(two[0], two[1]);
        } else {
#pragma unroll
            for (int e = 0; e < 4; ++e)
                if (column + e < columns) to[e] = __float2bfloat16_rn(value[e]);
        }
    }
}
