// Idea: as upsample_transposed_conv_tensor_core.cu, with products of whole warpgroups, whose operands stay in shared memory.
// Source: PTX ISA, "Asynchronous Warpgroup Level Matrix Instructions"; as upsample_transposed_conv_tensor_core.cu.
// Shapes: as upsample_transposed_conv_tensor_core.cu, whose arrange_* come before it.
// Plan: a tile and its steps as there, but of 32 channels, and four stages. A warpgroup multiplies the 64 channels of its
//       half by the 256 places at once; a tap is where in the window its operand begins: the swizzle is one of addresses,
//       so that it may begin at any row. While the products of a step run, the step
//       three later is fetched.
// Numerics: as upsample_transposed_conv_tensor_core.cu.
// Limits: Hopper only. All warps store a tile's results together, while no product runs. On an H200 (conv_decoder, f16)
//         steps that begin while products of the one before still run, their copies begun first, took a third more time.
// Target: compute_90a
// Twin: f16
#include "hopper.cuh"
#include "upsample_transposed_conv_phases.cuh"

PRODUCT_OF_SHARED(product, OF_BF16, "1, 1, 0, 0", 256, PLACES_0_31 ", " PLACES_32_63 ", " PLACES_64_127, REGISTERS_128, "%128",
                  "%129", "%130")

namespace {

constexpr int DEPTH = 32, STAGES = 4;
using Step = Stage<DEPTH>;

// Rows of 64 bytes, swizzled over as many; eight of them are 512 bytes.
__device__ __forceinline__ u64 operand(u32 address) {
    return (u64)(address >> 4 & 0x3fff) | (u64)(8 * Step::ROW >> 4) << 32 | (u64)2 << 62;
}

// Begins one tap's products of a step's channels.
__device__ __forceinline__ void add_tap(float (&sum)[PLACES / 2], u32 weights, u32 window) {
#pragma unroll
    for (int k = 0; k < DEPTH / 16; ++k) product<PLACES>(sum, operand(weights + k * 32), operand(window + k * 32), 1);
}

// Rounds a warp's sums into its part of the staged results, [half, channel, place].
__device__ __forceinline__ void stage_results(const float (&sum)[PLACES / 2], __nv_bfloat162* staged, const float* bias,
                                              int outs) {
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32 % 4 * 16 + lane / 4;
    staged += row * (PITCH / 2) + lane % 4;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        if (row + r * 8 >= outs) break;
        const float b = bias[row + r * 8];
#pragma unroll
        for (int n = 0; n < PLACES / 8; ++n)
            staged[n * 4] = __floats2bfloat162_rn(sum[n * 4 + r * 2] + b, sum[n * 4 + r * 2 + 1] + b);
        staged += 8 * PITCH / 2;
    }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(THREADS)
    forward(const char* pixels, const char* weights, const float* bias, u16* output, SIZES) {
    extern __shared__ __align__(1024) char shared[];
    const Line l = LINE;
    const u32 stages = (u32)__cvta_generic_to_shared(shared);
    u16* const staged = (u16*)(shared + STAGES * Step::BYTES);
    // Visibly the same for a whole warp: else ptxas 13 sees products under a condition of threads, and waits for each.
    const int half = __shfl_sync(0xffffffffu, (int)threadIdx.x / 128, 0);
    const int parts = parts_of(l);
    Fetch<DEPTH> ahead;
    ahead.parts = parts;
    ahead.begin(l, blockIdx.x);
    int into = 0, from = 0, early = STAGES - 1;
#pragma unroll 1
    for (int at = blockIdx.x; at < l.tiles * parts; at += gridDim.x) {
        const Tile tile(l, at, parts);
        const Half mine(l, at % parts / l.stride, half);
        float sum[PLACES / 2] = {};
        int channel = 0, group = 0;
#pragma unroll 1
        for (int step = tile.taps * tile.groups * (l.channels / DEPTH); step > 0;) {
            copies_wait<STAGES - 2>();
            order_for_engines();
            __syncthreads();
            if (early > 0) {  // a block's first turns only fetch
                --early;
                ahead.step(l, stages + into * Step::BYTES, pixels, weights);
                copies_commit();
                into = into + 1 == STAGES ? 0 : into + 1;
                continue;
            }
            const u32 stage = stages + from * Step::BYTES;
            from = from + 1 == STAGES ? 0 : from + 1;
            const u32 mine_at = stage + half * 2 * OUTS * Step::ROW;
            const u32 window = stage + Step::WEIGHTS + (mine.first - tile.low) * Step::ROW;
            product_begin();
            if (group * 2 < mine.taps) add_tap(sum, mine_at, window);
            if (group * 2 + 1 < mine.taps) add_tap(sum, mine_at + OUTS * Step::ROW, window - Step::ROW);
            product_commit();
            ahead.step(l, stages + into * Step::BYTES, pixels, weights);
            copies_commit();
            into = into + 1 == STAGES ? 0 : into + 1;
            product_wait<0>();
            product_done(sum);
            --step;
            channel += DEPTH;
            if (channel < l.channels) continue;
            channel = 0;
            if (++group == tile.groups) group = 0;
        }
        __syncthreads();  // the last tile's results are stored
        stage_results(sum, (__nv_bfloat162*)(staged + half * OUTS * PITCH), bias + mine.out0, l.out - mine.out0);
        __syncthreads();
        store_results(l, tile, staged, output);
    }
}
