// The phases of a transposed convolution as products, for kernels that differ in how they multiply: what a block's
// tiles are, how their steps are fetched and how results are stored. See upsample_transposed_conv_tensor_core.cu.
#pragma once
#include "upsample_transposed_conv.cuh"

static constexpr int PLACES = 256, OUTS = 64;  // of a tile: places of the line, and channels of each half of a block
static constexpr int PITCH = PLACES + 8;       // of staged results

struct Line {
    int batch, out, h, w, out_h, out_w, k, stride, padding;
    int pitch, rows;          // places from row to row, rows from image to image
    int channels, outs;       // rounded up
    int length;               // places in all
    int tiles;                // of places, that hold results
};

// Parts that a tile of places has: phases of rows, each with its pairs of phases of columns and blocks of channels.
__device__ __forceinline__ int parts_of(const Line& l) {
    const int columns = l.stride == 1 ? (l.outs + 2 * OUTS - 1) / (2 * OUTS) : (l.stride + 1) / 2 * (l.outs / OUTS);
    return columns * l.stride;
}

// What half of a block computes, or nothing at all.
struct Half {
    int phase, first, taps, out0;  // first: the column of the image that meets tap 0, less that of the result
    int kx0;

    __device__ __forceinline__ Half(const Line& l, int at, int half) {
        const int pairs = (l.stride + 1) / 2;
        phase = l.stride == 1 ? 0 : at % pairs * 2 + half;
        out0 = l.stride == 1 ? at * 2 * OUTS + half * OUTS : at / pairs * OUTS;
        first = (phase + l.padding) / l.stride, kx0 = (phase + l.padding) % l.stride;
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
        place0 = tile / parts * PLACES, phase = tile % parts % l.stride;
        first = (phase + l.padding) / l.stride, ky0 = (phase + l.padding) % l.stride;
        taps = ky0 < l.k ? (l.k - ky0 + l.stride - 1) / l.stride : 0;
        groups = (max(halves[0].taps, halves[1].taps) + 1) / 2;
        low = min(halves[0].first, halves[1].first) - 1;
    }
};

// A stage of a step of DEPTH channels: weights of two phases by two taps, and the pixels that they read. The 16-byte
// chunks of a row are swizzled as the copy engine would over as many bytes as a row has.
template <int DEPTH> struct Stage {
    static constexpr int ROW = DEPTH * 2, CHUNKS = ROW / 16, WEIGHTS = 4 * OUTS * ROW;
    static constexpr int WINDOW = PLACES + 2, BYTES = WEIGHTS + (WINDOW + 6) * ROW;

    static __device__ __forceinline__ u32 chunk_at(int row, int chunk) {
        return (u32)(row * ROW + ((chunk ^ (row / (8 / CHUNKS) % CHUNKS)) * 16));
    }
};

// Fetches the steps of a block's tiles, ahead of their use.
template <int DEPTH> struct Fetch : Stage<DEPTH> {
    using Stage<DEPTH>::ROW;
    using Stage<DEPTH>::CHUNKS;
    using Stage<DEPTH>::WEIGHTS;
    using Stage<DEPTH>::WINDOW;
    static constexpr int ROWS = THREADS / CHUNKS;  // that a block copies at a time
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
            taps = t.taps, groups = t.groups;
            if (taps * groups * l.channels == 0) continue;
            const int row = threadIdx.x / CHUNKS;
            place = t.place0 + t.first * l.pitch + t.low + row;
            taps0 = t.halves[0].taps, taps1 = t.halves[1].taps;
            weights0 = (t.ky0 * l.k + t.halves[0].kx0) * l.outs + t.halves[0].out0 + row;
            weights1 = (t.ky0 * l.k + t.halves[1].kx0) * l.outs + t.halves[1].out0 + row;
            break;
        }
    }

    // Starts the copies of one step and moves on.
    __device__ __forceinline__ void step(const Line& l, u32 stage, const char* pixels, const char* weights) {
        if (tile >= l.tiles * parts) return;
        const int row = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
        const u32 to = stage + Stage<DEPTH>::chunk_at(row, chunk);
        const u32 row_bytes = l.channels * 2, column = (channel + chunk * 8) * 2;
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
        const int outs = min(OUTS, l.out - a.out0);
#pragma unroll 8
        for (int o = 0; o < outs; ++o) to[(i64)o * (plane / 2)] = staged[o * PITCH] | (u32)staged[(OUTS + o) * PITCH] << 16;
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

// Sizes travel as 64-bit integers; all of them fit 32 bits.
#define SIZES                                                                                                         \
    i64 batch, i64 out, i64 h, i64 w, i64 out_h, i64 out_w, i64 k, i64 stride, i64 padding, i64 pitch, i64 rows,      \
        i64 channels, i64 outs, i64 length, i64 tiles
#define LINE                                                                                                          \
    Line{(int)batch, (int)out, (int)h, (int)w, (int)out_h, (int)out_w, (int)k, (int)stride, (int)padding, (int)pitch, \
         (int)rows, (int)channels, (int)outs, (int)length, (int)tiles}
