// Idea: the product of x with its weights, for all steps at once, by warpgroups: the tensor cores read both operands from
//       shared memory themselves, so that threads only copy.
// Source: the warpgroup products of Hopper (PTX ISA, wgmma); the pipeline of recurrent_gemm.cu.
// Shapes: C [Z, M, N] f32 = A [M, K] * B [Z, N, K]^T, 16-bit A and B with K contiguous.
// Plan: a block computes 128 x 128 in steps of 64 of K, four stages of cp.async in flight; a warpgroup has 64 rows, its sums
//       in registers. Tiles have rows of 128 bytes, swizzled as wgmma reads them. Two blocks share a multiprocessor, so that
//       one multiplies while the other waits or writes. Of a square of 1024 the operands come from the L2 cache; C is
//       written once, 32 bytes of a row at a time.
// Numerics: f32 sums, 16 values of K at a time in order.
// Limits: wgmma; K is a multiple of 8. Rows, columns and K past the end are zeros.
// Target: compute_90a
// Twin: f16
#include "hopper.cuh"

namespace {

constexpr int TILE = 128, DEPTH = 64, STAGES = 3, THREADS = 256;
constexpr u32 ROW = 128, OPERAND = TILE * ROW, STAGE = 2 * OPERAND;

// Makes ordinary stores to shared memory, which these copies count as, visible to the tensor cores.
__device__ __forceinline__ void publish() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// A thread's share of an operand's tile: 16 bytes of every 32nd row.
struct Copier {
    const char* from;
    i64 row_bytes;
    u32 to;
    int rows, depth;  // left from this thread's first place on

    __device__ __forceinline__ Copier(const void* operand, i64 all_rows, i64 all_depth, i64 row0, u32 tile) {
        const int row = threadIdx.x / 8, chunk = threadIdx.x % 8;
        row_bytes = all_depth * 2;
        from = (const char*)operand + (row0 + row) * row_bytes + chunk * 16;
        rows = (int)min(all_rows - row0 - row, (i64)TILE);
        depth = (int)all_depth - chunk * 8;
        to = tile + row * ROW + ((chunk ^ (row % 8)) * 16);
    }
    __device__ __forceinline__ void fetch(const void* valid, int step, u32 stage) const {
#pragma unroll
        for (int r = 0; r < TILE; r += 32) {
            const bool inside = r < rows && step * DEPTH < depth;
            const void* at = inside ? from + r * row_bytes + (i64)step * ROW : valid;
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to + stage * STAGE + r * ROW), "l"(at),
                         "r"(inside ? 16 : 0)
                         : "memory");
        }
    }
};

// Two neighbours of a row, of which `left` are inside; at once where rows begin at whole pairs.
__device__ __forceinline__ void store(float* to, float first, float second, int left, bool paired) {
    if (paired && left > 1) {
        __stcs((float2*)to, make_float2(first, second));
    } else {
        if (left > 0) to[0] = first;
        if (left > 1) to[1] = second;
    }
}

__device__ __forceinline__ void all_steps(const __nv_bfloat16* a, const __nv_bfloat16* b, float* c, i64 rows, i64 columns, i64 depth) {
    extern __shared__ char shared[];
    const u32 tiles = ((u32)__cvta_generic_to_shared(shared) + 1023) / 1024 * 1024;
    const i64 row0 = (i64)blockIdx.y * TILE, column0 = (i64)blockIdx.x * TILE;
    b += blockIdx.z * columns * depth;
    c += blockIdx.z * rows * columns;
    const Copier left(a, rows, depth, row0, tiles), right(b, columns, depth, column0, tiles + OPERAND);
    const int steps = (int)((depth + DEPTH - 1) / DEPTH), group = threadIdx.x / 128;
    float sum[64];
#pragma unroll
    for (int i = 0; i < 64; ++i) sum[i] = 0.f;
    // The first turns only fetch.
#pragma unroll 1
    for (int step = 1 - STAGES; step < steps; ++step) {
        if (step >= 0) {
            asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2) : "memory");
            publish();
            product_wait<0>();
            product_done(sum);
            // All have this step's tiles, and are done with those of the step before.
            __syncthreads();
        }
        const int next = step + STAGES - 1;
        if (next < steps) {
            left.fetch(a, next, next % STAGES);
            right.fetch(b, next, next % STAGES);
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
        if (step < 0) continue;
        const u32 tile = tiles + step % STAGES * STAGE;
        product_begin();
#pragma unroll
        for (int k = 0; k < DEPTH / 16; ++k)
            product<TILE>(sum, tile_descriptor(tile + group * 64 * ROW + k * 32, 16),
                          tile_descriptor(tile + OPERAND + k * 32, 16), 1);
        product_commit();
    }
    product_wait<0>();
    product_done(sum);
    const int lane = threadIdx.x % 32;
    const i64 row = row0 + threadIdx.x / 32 * 16 + lane / 4, column = column0 + lane % 4 * 2;
    float* to = c + row * columns + column;
#pragma unroll
    for (int n = 0; n < 16; ++n) {
        const int left = (int)min(columns - column - n * 8, (i64)2);
        if (row < rows) store(to + n * 8, sum[4 * n], sum[4 * n + 1], left, columns % 2 == 0);
        if (row + 8 < rows) store(to + 8 * columns + n * 8, sum[4 * n + 2], sum[4 * n + 3], left, columns % 2 == 0);
    }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    gates_bf16(const __nv_bfloat16* a, const __nv_bfloat16* b, float* c, i64 rows, i64 columns, i64 depth) {
    all_steps(a, b, c, rows, columns, depth);
}
