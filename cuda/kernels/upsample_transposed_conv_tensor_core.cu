// Idea: each phase of the stride is a matrix product on tensor cores, whose taps are shifts along one line of pixels.
// Source: implicit GEMM, Chetlur et al. 2014, "cuDNN: Efficient Primitives for Deep Learning", section 3; the
//         multi-stage cp.async and ldmatrix pipeline of Ampere's tensor cores (CUTLASS documentation).
// Shapes: as upsample_transposed_conv_naive.cu, f16 or bf16. Scratch: pixels [line, channels], weights
//         [k·k, outs, channels] and biases [outs] in f32; channels and outs are rounded up, and followed by zeros.
// Plan: arrange_* bring channels together and all pixels of all images on one line, with zeros behind every row and
//       image, as many as a patch reaches: a tap is then one distance along the line. A block takes tiles in turn: 256
//       places of the line by 64 channels of two neighbouring phases (at stride 1, by 128 channels of the one). A step
//       fetches 64 channels of the 258 pixels that two taps of both phases read, and those taps' weights, while the
//       step before it is computed, across tiles. A warp computes 64 x 64. Results pass through shared memory: a thread stores both
//       phases of a pixel.
// Numerics: f32 sums over rows of the patch, pairs of its columns, channels; rounded once on storing.
// Limits: mma.sync reaches about two thirds of Hopper's rate; zeros between rows and images are computed too; of an odd
//         stride's last phase, half of the block idles.
// Twin: f16
#include "upsample_transposed_conv.cuh"

namespace {

constexpr int PLACES = 256, OUTS = 64, DEPTH = 64, STAGES = 2;
constexpr int ROW = DEPTH * 2, CHUNKS = ROW / 16;             // bytes of a row in a stage, and its 16-byte chunks
constexpr int ROWS = THREADS / CHUNKS;                        // that a block copies at a time
constexpr int WEIGHTS = 4 * OUTS * ROW;                       // two phases by two taps
constexpr int WINDOW = PLACES + 2;                            // pixels that they read
constexpr int STAGE = WEIGHTS + (WINDOW + 6) * ROW;
constexpr int PITCH = PLACES + 8;                             // of staged results

struct Line {
    int batch, out, h, w, out_h, out_w, k, stride, padding;
    int pitch, rows;          // places from row to row, rows from image to image
    int channels, outs;       // rounded up
    int length;               // places in all
    int tiles;                // of places, that hold results
};

// What half of a block computes, or nothing at all.
struct Half {
    int phase, first, taps, out0;  // first: the column of the image that meets tap 0, less that of the result
    int kx0;

    __device__ __forceinline__ Half(const Line& l, int at, int half) {
        const int pairs = (l.stride + 1) / 2;
        phase = l.stride == 1 ? 0 : at % pairs * 2 + half;
        out0 = l.stride == 1 ? at * 2 * OUTS + half * OUTS : at / pairs * OUTS;
        first = (phase + l.padding) / l.stride;
        kx0 = (phase + l.padding) % l.stride;
        taps = kx0 < l.k ? (l.k - kx0 + l.stride - 1) / l.stride : 0;
        if (phase >= l.stride || out0 >= l.outs) taps = 0;
    }
};

// A tile: its places, row phase and both halves.
struct Tile {
    int place0, phase, first, taps, ky0, groups, low;
    Half halves[2];

    __device__ __forceinline__ Tile(const Line& l, int tile, int parts)
        : halves{Half(l, tile % parts / l.stride, 0), Half(l, tile % parts / l.stride, 1)} {
        place0 = tile / parts * PLACES;
        phase = tile % parts % l.stride;
        first = (phase + l.padding) / l.stride;
        ky0 = (phase + l.padding) % l.stride;
        taps = ky0 < l.k ? (l.k - ky0 + l.stride - 1) / l.stride : 0;
        groups = (max(halves[0].taps, halves[1].taps) + 1) / 2;
        low = min(halves[0].first, halves[1].first) - 1;
    }
};

__device__ __forceinline__ u32 chunk_at(int row, int chunk) { return (u32)(row * ROW + ((chunk ^ (row & 7)) * 16)); }

// Fetches the steps of a block's tiles, ahead of their use.
struct Fetch {
    int tile, parts;
    int y, group, channel;                    // the step
    int taps, groups, taps0, taps1;           // of its tile, and of the halves' phases
    int place;                                // that this thread reads first, of row tap 0 and column taps 0
    u32 weights0, weights1;                   // rows of weights that this thread reads, of tap 0

    // The first of this tile and its followers that has any steps.
    __device__ __forceinline__ void begin(const Line& l, int from) {
        y = group = channel = 0;
#pragma unroll 1
        for (tile = from; tile < l.tiles * parts; tile += gridDim.x) {
            const Tile t(l, tile, parts);
            taps = t.taps;
            groups = t.groups;
            if (taps * groups * l.channels == 0) continue;
            const int row = threadIdx.x / CHUNKS;
            place = t.place0 + t.first * l.pitch + t.low + row;
            taps0 = t.halves[0].taps;
            taps1 = t.halves[1].taps;
            weights0 = (t.ky0 * l.k + t.halves[0].kx0) * l.outs + t.halves[0].out0 + row;
            weights1 = (t.ky0 * l.k + t.halves[1].kx0) * l.outs + t.halves[1].out0 + row;
            break;
        }
    }

    // Starts the copies of one step and moves on.
    __device__ __forceinline__ void step(const Line& l, u32 stage, const char* pixels, const char* weights) {
        if (tile >= l.tiles * parts) return;
        const int row = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
        const u32 to = stage + chunk_at(row, chunk), row_bytes = l.channels * 2, column = (channel + chunk * 8) * 2;
#pragma unroll
        for (int slot = 0; slot < 4; ++slot) {
            const int tap = group * 2 + slot % 2;
            if (tap >= (slot < 2 ? taps0 : taps1)) continue;
            const u32 first = (slot < 2 ? weights0 : weights1) + (y * l.k + tap) * l.stride * l.outs;
#pragma unroll
            for (int i = 0; i < OUTS; i += ROWS)
                copy_16(to + (slot * OUTS + i) * ROW, weights + (first + i) * row_bytes + column, true);
        }
        const int at = place - y * l.pitch - 2 * group;
#pragma unroll
        for (int i = 0; i < WINDOW; i += ROWS) {
            if (i + ROWS > WINDOW && row >= WINDOW - i) break;
            const bool there = (u32)(at + i) < (u32)l.length;
            copy_16(to + WEIGHTS + i * ROW, pixels + (u32)(there ? at + i : 0) * row_bytes + column, there);
        }
        channel += DEPTH;
        if (channel < l.channels) return;
        channel = 0;
        if (++group < groups) return;
        group = 0;
        if (++y == taps) begin(l, tile + gridDim.x);
    }
};

// Adds one tap's products of 64 channels to a warp's 64 channels by 64 places.
__device__ __forceinline__ void add_tap(float (&sum)[4][8][4], u32 weights, u32 window, int shift) {
    const int lane = threadIdx.x % 32, row = lane % 8 + lane / 16 * 8 + shift;
#pragma unroll
    for (int k = 0; k < DEPTH / 16; ++k) {
        u32 a[4][4], b[4][4];
#pragma unroll
        for (int m = 0; m < 4; ++m)
            load_matrices(a[m], weights + m * 16 * ROW + chunk_at(lane % 16, k * 2 + lane / 16));
#pragma unroll
        for (int n = 0; n < 4; ++n)
            load_matrices(b[n], window + n * 16 * ROW + chunk_at(row, k * 2 + lane / 8 % 2));
#pragma unroll
        for (int n = 0; n < 8; ++n)
#pragma unroll
            for (int m = 0; m < 4; ++m) mma<__nv_bfloat16>(sum[m][n], a[m], b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
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

// A thread stores the results of one place of the line.
__device__ __forceinline__ void store_results(const Line& l, const Tile& tile, const u16* staged, u16* output) {
    const int place = tile.place0 + threadIdx.x, column = place % l.pitch, row = place / l.pitch;
    const int y = row % l.rows * l.stride + tile.phase, n = row / l.rows, x = column * l.stride;
    const int plane = l.out_h * l.out_w;
    if (n >= l.batch || y >= l.out_h) return;
    staged += threadIdx.x;
    const Half &a = tile.halves[0], &b = tile.halves[1];
    const int at = n * l.out * plane + y * l.out_w + x;
    if (l.stride == 2 && l.out_w % 2 == 0) {  // neighbours at an even place
        if (x >= l.out_w) return;
        u32* to = (u32*)(output + at + a.out0 * plane);
#pragma unroll 8
        for (int o = 0; o < min(OUTS, l.out - a.out0); ++o)
            to[(i64)o * (plane / 2)] = staged[o * PITCH] | (u32)staged[(OUTS + o) * PITCH] << 16;
        return;
    }
#pragma unroll 1
    for (int half = 0; half < 2; ++half) {
        const int phase = half ? b.phase : a.phase, out0 = half ? b.out0 : a.out0;
        if (phase >= l.stride || x + phase >= l.out_w) continue;
#pragma unroll 1
        for (int o = 0; o < min(OUTS, l.out - out0); ++o)
            output[at + phase + (out0 + o) * plane] = staged[(half * OUTS + o) * PITCH];
    }
}

}  // namespace

// Sizes travel as 64-bit integers; all of them fit 32 bits.
#define SIZES                                                                                                         \
    i64 batch, i64 out, i64 h, i64 w, i64 out_h, i64 out_w, i64 k, i64 stride, i64 padding, i64 pitch, i64 rows,      \
        i64 channels, i64 outs, i64 length, i64 tiles
#define LINE                                                                                                          \
    Line{(int)batch, (int)out, (int)h, (int)w, (int)out_h, (int)out_w, (int)k, (int)stride, (int)padding, (int)pitch, \
         (int)rows, (int)channels, (int)outs, (int)length, (int)tiles}

extern "C" __global__ void __launch_bounds__(THREADS)
    forward(const char* pixels, const char* weights, const float* bias, u16* output, SIZES) {
    extern __shared__ __align__(128) char shared[];
    const Line l = LINE;
    const u32 stages = (u32)__cvta_generic_to_shared(shared);
    u16* const staged = (u16*)(shared + STAGES * STAGE);
    const int warp = threadIdx.x / 32, half = warp / 4;
    const int columns = l.stride == 1 ? (l.outs + 2 * OUTS - 1) / (2 * OUTS) : (l.stride + 1) / 2 * (l.outs / OUTS);
    const int parts = columns * l.stride;
    Fetch ahead;
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
            ahead.step(l, stages + into * STAGE, pixels, weights);
            copies_commit();
            into = into + 1 == STAGES ? 0 : into + 1;
            if (early > 0) {  // a block's first turns only fetch
                --early;
                continue;
            }
            const u32 stage = stages + from * STAGE;
            from = from + 1 == STAGES ? 0 : from + 1;
#pragma unroll 1
            for (int tap = 0; tap < 2 && group * 2 + tap < mine.taps; ++tap)
                add_tap(sum, stage + (half * 2 + tap) * OUTS * ROW, stage + WEIGHTS + warp % 4 * 64 * ROW,
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
