// Idea: each phase of the stride is a matrix product on tensor cores, whose taps are shifts along one line of pixels.
// Source: implicit GEMM, Chetlur et al. 2014, "cuDNN: Efficient Primitives for Deep Learning", section 3; the
//         multi-stage cp.async and ldmatrix pipeline of Ampere's tensor cores (CUTLASS documentation).
// Shapes: as upsample_transposed_conv_naive.cu, f16 or bf16. Scratch: pixels [line, channels], weights
//         [k·k, outs, channels] and biases [outs] in f32; channels and outs are rounded up, and followed by zeros.
// Plan: arrange_* bring channels together and all pixels of all images on one line, with zeros behind every row and
//       image, as many as a patch reaches: a tap is then one distance along the line. A block takes tiles in turn: 256
//       places of the line by 64 channels of two neighbouring phases (at stride 1, by 128 channels of the one). A step
//       fetches 64 channels of the 258 pixels that two taps of both phases read, and those taps' weights, while the
//       step before it is computed, across tiles. A warp computes 64 x 64. Results pass through shared memory: a thread
//       stores both phases of a pixel.
// Numerics: f32 sums over rows of the patch, pairs of its columns, channels; rounded once on storing.
// Limits: mma.sync reaches about two thirds of Hopper's rate; zeros between rows and images are computed too; of an odd
//         stride's last phase, half of the block idles. Not faster on an H200 (conv_decoder, f16): four steps of 32
//         channels in flight, two blocks of half the places, fragments read one product ahead, copies begun later.
// Twin: f16
#include "upsample_transposed_conv_phases.cuh"

namespace {

constexpr int DEPTH = 64, STAGES = 2;
using Step = Stage<DEPTH>;

// Adds one tap's products of 64 channels to a warp's 64 channels by 64 places.
__device__ __forceinline__ void add_tap(float (&sum)[4][8][4], u32 weights, u32 window, int shift) {
    const int lane = threadIdx.x % 32, row = lane % 8 + lane / 16 * 8 + shift;
#pragma unroll
    for (int k = 0; k < DEPTH / 16; ++k) {
        u32 a[4][4], b[4][4];
#pragma unroll
        for (int m = 0; m < 4; ++m)
            load_matrices(a[m], weights + m * 16 * Step::ROW + Step::chunk_at(lane % 16, k * 2 + lane / 16));
#pragma unroll
        for (int n = 0; n < 4; ++n)
            load_matrices(b[n], window + n * 16 * Step::ROW + Step::chunk_at(row, k * 2 + lane / 8 % 2));
#pragma unroll
        for (int m = 0; m < 4; ++m)
#pragma unroll
            for (int n = 0; n < 8; ++n) mma<__nv_bfloat16>(sum[m][n], a[m], b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
    }
}

// Rounds a warp's sums into its part of the staged results, [half, channel, place].
__device__ __forceinline__ void stage_results(const float (&sum)[4][8][4], __nv_bfloat162* staged, const float* bias,
                                              int outs) {
    const int lane = threadIdx.x % 32;
    staged += lane / 4 * (PITCH / 2) + lane % 4;
#pragma unroll
    for (int m = 0; m < 4 && m * 16 < outs; ++m)
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const float b = bias[m * 16 + r * 8 + lane / 4];
#pragma unroll
            for (int n = 0; n < 8; ++n)
                staged[n * 4] = __floats2bfloat162_rn(sum[m][n][r * 2] + b, sum[m][n][r * 2 + 1] + b);
            staged += 8 * PITCH / 2;
        }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(THREADS)
    forward(const char* pixels, const char* weights, const float* bias, u16* output, SIZES) {
    extern __shared__ __align__(128) char shared[];
    const Line l = LINE;
    const u32 stages = (u32)__cvta_generic_to_shared(shared);
    u16* const staged = (u16*)(shared + STAGES * Step::BYTES);
    const int warp = threadIdx.x / 32, half = warp / 4;
    const int parts = parts_of(l);
    Fetch<DEPTH> ahead;
    ahead.parts = parts;
    ahead.begin(l, blockIdx.x);
    int into = 0, from = 0, early = STAGES - 1;
#pragma unroll 1
    for (int at = blockIdx.x; at < l.tiles * parts; at += gridDim.x) {
        const Tile tile(l, at, parts);
        const Half mine(l, at % parts / l.stride, half);
        float sum[4][8][4] = {};
        int channel = 0, group = 0;
#pragma unroll 1
        for (int step = tile.taps * tile.groups * (l.channels / DEPTH); step > 0;) {
            copies_wait<STAGES - 2>();
            __syncthreads();
            ahead.step(l, stages + into * Step::BYTES, pixels, weights);
            copies_commit();
            into = into + 1 == STAGES ? 0 : into + 1;
            if (early > 0) {  // a block's first turns only fetch
                --early;
                continue;
            }
            const u32 stage = stages + from * Step::BYTES;
            from = from + 1 == STAGES ? 0 : from + 1;
#pragma unroll 1
            for (int tap = 0; tap < 2 && group * 2 + tap < mine.taps; ++tap)
                add_tap(sum, stage + (half * 2 + tap) * OUTS * Step::ROW, stage + Step::WEIGHTS + warp % 4 * 64 * Step::ROW,
                        mine.first - tile.low - tap);
            --step;
            channel += DEPTH;
            if (channel < l.channels) continue;
            channel = 0;
            if (++group == tile.groups) group = 0;
        }
        __syncthreads();  // the last tile's results are stored
        stage_results(sum, (__nv_bfloat162*)(staged + half * OUTS * PITCH + warp % 4 * 64), bias + mine.out0,
                      l.out - mine.out0);
        __syncthreads();
        store_results(l, tile, staged, output);
    }
}

// A block brings 64 channels of a row of the line together. Blocks: rows, channels.
extern "C" __global__ void __launch_bounds__(THREADS) arrange_pixels(const u16* input, i64 in, u16* pixels, SIZES) {
    const Line l = LINE;
    const int row = blockIdx.x, y = row % l.rows, n = row / l.rows, channel0 = blockIdx.y * EDGE;
    const i64 plane = l.h * l.w;
    const u16* from = input + (y < l.h ? (n * in + channel0) * plane + y * l.w : 0);
    u16* const to = pixels + (i64)row * l.pitch * l.channels + channel0;
    arrange_row(from, y < l.h, 1, 0, l.w, (int)in - channel0, plane, to, l.pitch, l.channels - channel0, l.channels);
}

// A thread an input and an output channel; those of the first output channel's warps also widen a bias.
extern "C" __global__ void __launch_bounds__(THREADS)
    arrange_weights(const u16* weight, const u16* bias, i64 in, u16* weights, float* biases, int dtype, SIZES) {
    const Line l = LINE;
    const int i = blockIdx.x * THREADS + threadIdx.x;
    if (i < l.outs) biases[i] = i < l.out ? widened(bias[i], dtype) : 0.f;
    if (i >= l.outs * l.channels) return;
    const int c = i % l.channels, o = i / l.channels, patch = l.k * l.k;
    const bool inside = c < in && o < l.out;
#pragma unroll 4
    for (int tap = 0; tap < patch; ++tap)
        weights[(i64)tap * l.outs * l.channels + i] = inside ? weight[((i64)c * l.out + o) * patch + tap] : (u16)0;
}
