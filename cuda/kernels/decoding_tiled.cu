// Idea: the products of f32 decoding heads as tiles in shared memory, with what follows each of them done on the sums.
// Source: the register-tiled product of CUDA cores (CUTLASS documentation); Milakov & Gimelshein 2018 (softmax from
//   partial maxima and sums); Cai et al. 2024, section 2.1.1 (the residual block of Medusa).
// Shapes: C [Z, rows, columns] of A [Z, rows, depth] and W [Z, columns, depth], batches at given distances. By mode:
//   STORE c; ADD add + c; HEAD add + SiLU(c + bias[column]); LOSS, where columns are a vocabulary: of each row and 64
//   columns the maximum and the sum of exp relative to it into C as [rows, stretches, 2], and the logit of its target
//   into `add` [rows].
// Plan: a block computes 128 x 128, a warp 32 x 64, a thread 8 x 8, in steps of 16 of depth, the next one on its way in
//   registers. Warps whose rows lie outside do not multiply: with few rows the weights' way from memory is what counts.
// Numerics: f32 sums over depth in order.
// Limits: the depth is a multiple of 4; results are stored one by one.
#include "decoding.cuh"

namespace {

enum Mode { STORE, ADD, HEAD, LOSS };
constexpr int TILE = 128, DEPTH = 16, STRIDE = TILE + 4;

// 8 values of a row from k0 on; zeros outside. The depth is a multiple of 4.
__device__ __forceinline__ void fetch(float (&x)[8], const float* row, bool inside, i64 k0, i64 depth) {
#pragma unroll
    for (int half = 0; half < 8; half += 4) {
        float4 four = {0.f, 0.f, 0.f, 0.f};
        if (inside && k0 + half < depth) four = *(const float4*)(row + k0 + half);
        x[half] = four.x, x[half + 1] = four.y, x[half + 2] = four.z, x[half + 3] = four.w;
    }
}

// Eight of a tile's values at k: four from `at` on and four from 32 (rows) or 16 (columns) behind.
__device__ __forceinline__ void take(float (&x)[8], const float* at, int second) {
    *(float4*)x = *(const float4*)at;
    *(float4*)(x + 4) = *(const float4*)(at + second);
}

struct Target {
    const int* tokens;  // [batch, seq_len + 1]
    int seq_len, ahead;

    // Of row b * seq_len + i; -1 where it lies behind the sequence.
    __device__ __forceinline__ int of(int row) const {
        const int i = row % seq_len + ahead;
        return i > seq_len ? -1 : tokens[row / seq_len * (seq_len + 1) + i];
    }
};

}  // namespace

extern "C" __global__ void __launch_bounds__(256)
    product(const float* __restrict__ a, i64 a_batch, const float* __restrict__ w, i64 w_batch, float* c, i64 c_batch,
            float* add, i64 add_batch, const float* __restrict__ bias, const int* __restrict__ tokens, int seq_len,
            int ahead, i64 rows, i64 columns, i64 depth, int mode) {
    __shared__ __align__(16) float a_tile[DEPTH][STRIDE], w_tile[DEPTH][STRIDE];
    const i64 row0 = (i64)blockIdx.x * TILE, column0 = (i64)blockIdx.y * TILE;
    a += blockIdx.z * a_batch;
    w += blockIdx.z * w_batch;
    c += blockIdx.z * c_batch;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int y = warp / 2 * 32 + lane / 8 * 4, x = warp % 2 * 64 + lane % 8 * 4;
    const bool multiplies = row0 + warp / 2 * 32 < rows;
    // What this thread fetches: 8 of the 16 values of a row of each tile.
    const int own = threadIdx.x % TILE, part = threadIdx.x / TILE * 8;
    const bool a_inside = row0 + own < rows, w_inside = column0 + own < columns;
    const float *a_row = a + (row0 + own) * depth, *w_row = w + (column0 + own) * depth;

    float sum[8][8] = {}, next_a[8], next_w[8];
    // The first turn only fetches.
#pragma unroll 1
    for (i64 k0 = -DEPTH; k0 < depth; k0 += DEPTH) {
        if (k0 >= 0) {
            __syncthreads();
#pragma unroll
            for (int e = 0; e < 8; ++e) a_tile[part + e][own] = next_a[e], w_tile[part + e][own] = next_w[e];
            __syncthreads();
        }
        fetch(next_a, a_row, a_inside, k0 + DEPTH + part, depth);
        fetch(next_w, w_row, w_inside, k0 + DEPTH + part, depth);
        if (k0 < 0 || !multiplies) continue;
#pragma unroll 1
        for (int k = 0; k < DEPTH; ++k) {
            float u[8], v[8];
            take(u, &a_tile[k][y], 16);
            take(v, &w_tile[k][x], 32);
#pragma unroll
            for (int m = 0; m < 8; ++m)
#pragma unroll
                for (int n = 0; n < 8; ++n) sum[m][n] = fmaf(u[m], v[n], sum[m][n]);
        }
    }
    const Target targets = {tokens, seq_len, ahead};
#pragma unroll 1
    for (int m = 0; m < 8; ++m) {
        // Chosen one by one: the loop's body is in the PTX once.
        float value[8];
#pragma unroll
        for (int n = 0; n < 8; ++n) {
            value[n] = sum[0][n];
#pragma unroll
            for (int other = 1; other < 8; ++other) value[n] = m == other ? sum[other][n] : value[n];
        }
        const i64 row = row0 + y + m % 4 + m / 4 * 16, first = column0 + x;
        const bool inside = row < rows;
        if (mode == LOSS) {
            const int target = inside ? targets.of((int)row) : -1;
            float max = __int_as_float(0xff800000), total = 0.f;
#pragma unroll
            for (int n = 0; n < 8; ++n) {
                const i64 column = first + n % 4 + n / 4 * 32;
                if (column >= columns) value[n] = __int_as_float(0xff800000);
                if (column == target) add[row] = value[n];
                max = fmaxf(max, value[n]);
            }
#pragma unroll 1
            for (int offset = 4; offset > 0; offset /= 2) max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, offset));
            // A stretch without columns has no maximum; its sum is not used.
#pragma unroll
            for (int n = 0; n < 8; ++n) total += __expf(value[n] - max);
#pragma unroll 1
            for (int offset = 4; offset > 0; offset /= 2) total += __shfl_xor_sync(0xffffffffu, total, offset);
            const i64 stretches = (columns + 63) / 64, stretch = first / 64;
            if (inside && lane % 8 == 0 && stretch < stretches)
                *(float2*)&c[(row * stretches + stretch) * 2] = make_float2(max, total);
        } else if (inside) {
#pragma unroll 1
            for (int n = 0; n < 8; ++n) {
                float one = value[0];
#pragma unroll
                for (int other = 1; other < 8; ++other) one = n == other ? value[other] : one;
                const i64 column = first + n % 4 + n / 4 * 32, at = row * columns + column;
                if (column >= columns) continue;
                if (mode == HEAD) one = silu(one + bias[blockIdx.z * columns + column]);
                if (mode != STORE) one += add[blockIdx.z * add_batch + at];
                c[at] = one;
            }
        }
    }
}

// -ln softmax of each row's target from the stretches of `product`; 0 where there is none. A warp a row.
extern "C" __global__ void __launch_bounds__(128)
    losses(const float* __restrict__ stats, const float* __restrict__ logit, const int* __restrict__ tokens,
           float* __restrict__ out, int seq_len, int ahead, i64 rows, i64 stretches) {
    const i64 row = (i64)blockIdx.x * 4 + threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    if (row >= rows) return;
    const Target targets = {tokens, seq_len, ahead};
    if (targets.of((int)row) < 0) {
        if (lane == 0) out[row] = 0.f;
        return;
    }
    float max = __int_as_float(0xff800000), total = 0.f;
    const float2* own = (const float2*)stats + row * stretches;
#pragma unroll 1
    for (i64 s = lane; s < stretches; s += 32) max = fmaxf(max, own[s].x);
    max = warp_max(max);
#pragma unroll 1
    for (i64 s = lane; s < stretches; s += 32) total = fmaf(own[s].y, __expf(own[s].x - max), total);
    total = warp_sum(total);
    if (lane == 0) out[row] = max + __logf(total) - logit[row];
}
