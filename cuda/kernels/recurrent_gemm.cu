// Idea: the products over all steps at once, of x with its weights and of gradients with x, states and weights, as one
//       tiled kernel whose operands may lie either way.
// Source: the multi-stage cp.async and ldmatrix pipeline of Ampere's tensor cores (CUTLASS documentation).
// Shapes: C [Z, M, N] = sum over r, k of A [Z, R, M, K] * B [Z, R, N, K], by strides; of each operand, either the row's
//         stride or that of k is 1. sum_rows: out [D, N] = sum over rows of d [D, rows, stride].
// Plan: 16 bits: a block computes 128 x 128 in steps of 32 of k, three stages in flight; a warp 64 x 32. The operand's
//       tile keeps the order of memory, rows padded to an odd number of 16-byte places, and ldmatrix transposes where k
//       is not the contiguous axis. f32: 64 x 64 in steps of 16, 4 x 4 a thread.
// Numerics: f32 sums over k in order of the steps.
// Limits: 16-byte copies where sizes and strides allow; else elements one by one.
#include "recurrent_mma.cuh"

constexpr int TILE = 128, DEPTH = 32, STAGES = 3;
constexpr int SLOT = 10240;  // bytes of one operand's tile: 128 rows of 80 or 32 rows of 272

// One operand: the element (row, k) of its tile.
struct Operand {
    i64 stride;     // between rows if k is contiguous, else between k
    i64 rows, depth, row0;
    bool k_contiguous, vector;

    __device__ __forceinline__ Operand(i64 by_row, i64 by_k, i64 rows, i64 depth, i64 row0, bool aligned)
        : rows(rows), depth(depth), row0(row0) {
        k_contiguous = by_k == 1;
        stride = k_contiguous ? by_row : by_k;
        vector = aligned && stride % 8 == 0 && (k_contiguous ? depth : rows) % 8 == 0;
    }
    // Bytes between rows and between k in the tile.
    __device__ __forceinline__ u32 row_bytes() const { return k_contiguous ? 80 : 2; }
    __device__ __forceinline__ u32 k_bytes() const { return k_contiguous ? 2 : 272; }

    // Starts the copy of k0 .. k0 + 32 of this block's rows; zeros outside.
    __device__ __forceinline__ void load(u32 tile, const u16* from, i64 k0) const {
        const int shift = k_contiguous ? 2 : 4;
        const i64 outer0 = k_contiguous ? row0 : k0, inner0 = k_contiguous ? k0 : row0;
        const i64 outer_end = k_contiguous ? rows : depth, inner_end = k_contiguous ? depth : rows;
#pragma unroll 1
        for (int c = threadIdx.x; c < 512; c += 256) {
            const int outer = c >> shift, inner = (c & ((1 << shift) - 1)) * 8;
            const u32 to = tile + outer * (k_contiguous ? 80 : 272) + inner * 2;
            const i64 o = outer0 + outer, i = inner0 + inner;
            const bool inside = o < outer_end && i < inner_end;
            const u16* at = inside ? from + o * stride + i : from;
            if (fresh(vector)) {
                asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(at), "r"(inside ? 16 : 0)
                             : "memory");
            } else {
#pragma unroll 1
                for (int e = 0; e < 8; ++e) {
                    const u16 value = inside && i + e < inner_end ? at[e] : (u16)0;
                    asm volatile("st.shared.u16 [%0], %1;" ::"r"(to + 2 * e), "h"(value) : "memory");
                }
            }
        }
    }
};

__device__ __forceinline__ void load_matrices(u32 (&r)[4], u32 address, bool transpose) {
    if (fresh(transpose))
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(address)
                     : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(address)
                     : "memory");
}

template <bool BF16>
__device__ __forceinline__ void multiply(float (&sum)[4][4][4], const u32 (&f)[4][4], const u32 (&g)[2][4]) {
#pragma unroll
    for (int m = 0; m < 4; ++m)
#pragma unroll
        for (int n = 0; n < 4; ++n)
            mma<BF16>(sum[m][n], f[m][0], f[m][1], f[m][2], f[m][3], g[n / 2][n % 2 * 2], g[n / 2][n % 2 * 2 + 1]);
}

// Writes a block's sums, 64 rows at a time by way of shared memory so that a warp writes whole lines.
__device__ __forceinline__ void store(const float (&sum)[4][4][4], float* staged, char* c, i64 c_row, i64 row0,
                                      i64 column0, i64 rows, i64 columns, bool c_is_float, bool bf16) {
    constexpr int STRIDE = TILE + 4;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll 1
    for (int half = 0; half < 2; ++half) {
        __syncthreads();
        if (warp / 4 == half) {
            float* at = staged + lane / 4 * STRIDE + warp % 4 * 32 + lane % 4 * 2;
#pragma unroll
            for (int m = 0; m < 4; ++m)
#pragma unroll
                for (int n = 0; n < 4; ++n) {
                    *(float2*)(at + m * 16 * STRIDE + n * 8) = make_float2(sum[m][n][0], sum[m][n][1]);
                    *(float2*)(at + (m * 16 + 8) * STRIDE + n * 8) = make_float2(sum[m][n][2], sum[m][n][3]);
                }
        }
        __syncthreads();
        const i64 column = column0 + threadIdx.x % TILE;
#pragma unroll 2
        for (int r = threadIdx.x / TILE; r < 64; r += 256 / TILE) {
            const i64 row = row0 + half * 64 + r;
            if (row >= rows || column >= columns) continue;
            const float value = staged[r * STRIDE + threadIdx.x % TILE];
            if (fresh(c_is_float)) ((float*)c)[row * c_row + column] = value;
            else ((u16*)c)[row * c_row + column] = narrowed(value, bf16);
        }
    }
}

extern "C" __global__ void __launch_bounds__(256)
    product_16(const u16* a, i64 a_batch, i64 a_repeat, i64 a_row, i64 a_k, const u16* b, i64 b_batch, i64 b_repeat,
               i64 b_col, i64 b_k, char* c, i64 c_batch, i64 c_row, i64 rows, i64 columns, i64 depth, i64 repeats,
               i64 c_is_float, i64 bf16) {
    extern __shared__ __align__(16) char shared[];
    const u32 tiles = (u32)__cvta_generic_to_shared(shared);
    const i64 row0 = (i64)blockIdx.y * TILE, column0 = (i64)blockIdx.x * TILE;
    a += blockIdx.z * a_batch;
    b += blockIdx.z * b_batch;
    const Operand left(a_row, a_k, rows, depth, row0, (size_t)a % 16 == 0 && a_repeat % 8 == 0);
    const Operand right(b_col, b_k, columns, depth, column0, (size_t)b % 16 == 0 && b_repeat % 8 == 0);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warp_row = warp / 4 * 64, warp_column = warp % 4 * 32;
    // Where this lane's row of a fragment lies in a tile; see ldmatrix.
    const int a_r = left.k_contiguous ? lane % 16 : lane / 8 % 2 * 8, a_d = left.k_contiguous ? lane / 16 * 8
                                                                                          : lane % 8 + lane / 16 * 8;
    const int b_r = right.k_contiguous ? lane % 8 + lane / 16 * 8 : lane / 16 * 8,
              b_d = right.k_contiguous ? lane / 8 % 2 * 8 : lane % 8 + lane / 8 % 2 * 8;
    const u32 a_at = (warp_row + a_r) * left.row_bytes() + a_d * left.k_bytes();
    const u32 b_at = SLOT + (warp_column + b_r) * right.row_bytes() + b_d * right.k_bytes();

    const i64 per_repeat = (depth + DEPTH - 1) / DEPTH, steps = per_repeat * repeats;
    i64 next_repeat = 0, next_k = 0;
    auto fetch = [&](i64 step) {
        if (step < steps) {
            const u32 tile = tiles + (u32)(step % STAGES) * (2 * SLOT);
            left.load(tile, a + next_repeat * a_repeat, next_k);
            right.load(tile + SLOT, b + next_repeat * b_repeat, next_k);
            next_k += DEPTH;
            if (next_k >= depth) {
                next_k = 0;
                ++next_repeat;
            }
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
    };
    float sum[4][4][4] = {};
    // The first two turns only fetch.
#pragma unroll 1
    for (i64 step = 1 - STAGES; step < steps; ++step) {
        asm volatile("cp.async.wait_group 1;" ::: "memory");
        __syncthreads();
        fetch(step + STAGES - 1);
        if (step < 0) continue;
        const u32 tile = tiles + (u32)(step % STAGES) * (2 * SLOT);
#pragma unroll 1
        for (int k = 0; k < DEPTH; k += 16) {
            u32 f[4][4], g[2][4];
#pragma unroll
            for (int m = 0; m < 4; ++m)
                load_matrices(f[m], tile + a_at + m * 16 * left.row_bytes() + k * left.k_bytes(), !left.k_contiguous);
#pragma unroll
            for (int n = 0; n < 2; ++n)
                load_matrices(g[n], tile + b_at + n * 16 * right.row_bytes() + k * right.k_bytes(),
                              !right.k_contiguous);
            if (fresh(bf16)) multiply<true>(sum, f, g);
            else multiply<false>(sum, f, g);
        }
    }
    store(sum, (float*)shared, c + blockIdx.z * c_batch * (c_is_float ? 4 : 2), c_row, row0, column0, rows, columns,
          c_is_float, bf16);
}

extern "C" __global__ void __launch_bounds__(256)
    product_f32(const float* a, i64 a_batch, i64 a_repeat, i64 a_row, i64 a_k, const float* b, i64 b_batch,
                i64 b_repeat, i64 b_col, i64 b_k, float* c, i64 c_batch, i64 c_row, i64 rows, i64 columns, i64 depth,
                i64 repeats) {
    __shared__ __align__(16) float left[16][68], right[16][68];
    const i64 row0 = (i64)blockIdx.y * 64, column0 = (i64)blockIdx.x * 64;
    const int x = threadIdx.x % 16 * 4, y = threadIdx.x / 16 * 4;
    float sum[4][4] = {};
#pragma unroll 1
    for (i64 r = 0; r < repeats; ++r) {
        const float* from_a = a + blockIdx.z * a_batch + r * a_repeat;
        const float* from_b = b + blockIdx.z * b_batch + r * b_repeat;
#pragma unroll 1
        for (i64 k0 = 0; k0 < depth; k0 += 16) {
            __syncthreads();
#pragma unroll 1
            for (int i = threadIdx.x; i < 1024; i += 256) {
                // Neighbouring threads read along the contiguous axis.
                const int ra = a_k == 1 ? i / 16 : i % 64, ka = a_k == 1 ? i % 16 : i / 64;
                const int rb = b_k == 1 ? i / 16 : i % 64, kb = b_k == 1 ? i % 16 : i / 64;
                const bool in_a = row0 + ra < rows && k0 + ka < depth, in_b = column0 + rb < columns && k0 + kb < depth;
                left[ka][ra] = in_a ? from_a[(row0 + ra) * a_row + (k0 + ka) * a_k] : 0.f;
                right[kb][rb] = in_b ? from_b[(column0 + rb) * b_col + (k0 + kb) * b_k] : 0.f;
            }
            __syncthreads();
#pragma unroll 1
            for (int k = 0; k < 16; ++k) {
                const float4 u = *(const float4*)&left[k][y], v = *(const float4*)&right[k][x];
                const float us[4] = {u.x, u.y, u.z, u.w}, vs[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
                for (int m = 0; m < 4; ++m)
#pragma unroll
                    for (int n = 0; n < 4; ++n) sum[m][n] += us[m] * vs[n];
            }
        }
    }
#pragma unroll
    for (int m = 0; m < 4; ++m)
#pragma unroll
        for (int n = 0; n < 4; ++n)
            if (row0 + y + m < rows && column0 + x + n < columns)
                c[blockIdx.z * c_batch + (row0 + y + m) * c_row + column0 + x + n] = sum[m][n];
}

// A block sums 32 columns, a warp every 32nd row.
extern "C" __global__ void sum_rows_16(const u16* d, u16* out, i64 rows, i64 columns, i64 stride, i64 bf16) {
    __shared__ float sums[32][33];
    const i64 n = (i64)blockIdx.x * 32 + threadIdx.x;
    float sum = 0.f;
    if (n < columns) {
        const u16* from = d + blockIdx.z * rows * stride + n;
#pragma unroll 4
        for (i64 r = threadIdx.y; r < rows; r += 32) sum += widened(from[r * stride], bf16);
    }
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || n >= columns) return;
    sum = 0.f;
#pragma unroll 1
    for (int w = 0; w < 32; ++w) sum += sums[w][threadIdx.x];
    out[blockIdx.z * columns + n] = narrowed(sum, bf16);
}
