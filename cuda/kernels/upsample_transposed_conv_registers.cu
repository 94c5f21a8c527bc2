// Idea: 64 sums a thread in registers, so that what is read of shared memory serves eight products.
// Source: Volkov & Demmel 2008, "Benchmarking GPUs to tune dense linear algebra"; implicit GEMM, Chetlur et al. 2014,
//         "cuDNN: Efficient Primitives for Deep Learning", section 3.
// Shapes: as upsample_transposed_conv_naive.cu, f32. Scratch: weights [k·k, in, outs]; in and outs are rounded up, and
//         followed by zeros.
// Plan: a block computes 128 out channels by 128 pixels of a phase of the stride; blocks of all phases of the same
//       pixels follow each other, so that their stores meet in the L2 cache. A step is a tap and 16 channels, by
//       cp.async with zeros beyond the image; three steps are in flight. A thread computes 8 x 8. Results pass through
//       shared memory, so that neighbours store neighbours.
// Numerics: f32 sums over taps, then channels.
// Limits: the rate of f32 multiply-adds outside tensor cores.
#include "async_copy.cuh"

namespace {

constexpr int TILE = 128, DEPTH = 16, STAGES = 3, THREADS = 256;

struct Conv {
    int batch, in, out, h, w, out_h, out_w, k, stride, padding;
    int channels, outs;  // rounded up
};

// Along one axis of a phase: its results, taps, first patch pixel, and the pixel that meets it less the result's.
struct Axis {
    int results, taps, patch0, first;
    __device__ __forceinline__ Axis(const Conv& c, int phase, int size) {
        results = phase < size ? (size - phase + c.stride - 1) / c.stride : 0;
        first = (phase + c.padding) / c.stride;
        patch0 = (phase + c.padding) % c.stride;
        taps = patch0 < c.k ? (c.k - patch0 + c.stride - 1) / c.stride : 0;
    }
};

struct Stage {
    float weights[DEPTH][TILE], pixels[DEPTH][TILE];
};

// Fetches the steps in turn; a thread has one place and every other channel.
struct Fetch {
    const float *input, *weights;
    int y, x, tap_y = 0, tap_x = 0, channel = 0;
    bool there;

    __device__ __forceinline__ void step(const Conv& c, const Axis& down, const Axis& across, Stage& stage) {
        if (tap_y >= down.taps || across.taps * c.channels == 0) return;
        const int h = y + down.first - tap_y, w = x + across.first - tap_x, plane = c.h * c.w;
        const bool inside = there && (u32)h < (u32)c.h && (u32)w < (u32)c.w;
        const float* from = input + (inside ? h * c.w + w : 0);
#pragma unroll
        for (int i = 0; i < DEPTH; i += THREADS / TILE) {
            const int at = i + threadIdx.x / TILE;
            const bool valid = inside && channel + at < c.in;
            copy_async<4>(&stage.pixels[at][threadIdx.x % TILE], valid ? from + (i64)(channel + at) * plane : input, valid);
        }
        const int patch = (down.patch0 + tap_y * c.stride) * c.k + across.patch0 + tap_x * c.stride;
#pragma unroll
        for (int i = 0; i < DEPTH; i += THREADS / 32) {
            const int at = i + threadIdx.x / 32, out = threadIdx.x % 32 * 4;
            copy_async<16>(&stage.weights[at][out], weights + (i64)(patch * c.channels + channel + at) * c.outs + out, true);
        }
        if ((channel += DEPTH) < c.channels) return;
        channel = 0;
        if (++tap_x < across.taps) return;
        tap_x = 0;
        ++tap_y;
    }
};

// Adds a step's products: out channels row * 4 + i and 64 + row * 4 + i, places column * 4 + j and 64 + column * 4 + j.
__device__ __forceinline__ void add_step(float (&sum)[8][8], const Stage& stage, int row, int column) {
#pragma unroll 2
    for (int d = 0; d < DEPTH; ++d) {
        float a[8], b[8];
        *(float4*)a = *(const float4*)&stage.weights[d][row * 4];
        *(float4*)(a + 4) = *(const float4*)&stage.weights[d][64 + row * 4];
        *(float4*)b = *(const float4*)&stage.pixels[d][column * 4];
        *(float4*)(b + 4) = *(const float4*)&stage.pixels[d][64 + column * 4];
#pragma unroll
        for (int i = 0; i < 8; ++i)
#pragma unroll
            for (int j = 0; j < 8; ++j) sum[i][j] = fmaf(a[i], b[j], sum[i][j]);
    }
}

}  // namespace

// Sizes travel as 64-bit integers; all of them fit 32 bits.
#define SIZES                                                                                                         \
    i64 batch, i64 in, i64 out, i64 h, i64 w, i64 out_h, i64 out_w, i64 k, i64 stride, i64 padding, i64 channels, i64 outs
#define CONV                                                                                                          \
    Conv{(int)batch, (int)in, (int)out, (int)h, (int)w, (int)out_h, (int)out_w, (int)k, (int)stride, (int)padding,    \
         (int)channels, (int)outs}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    forward(const float* input, const float* weights, const float* bias, float* output, SIZES) {
    __shared__ __align__(16) Stage stages[STAGES];
    const Conv c = CONV;
    const int phases = c.stride * c.stride, phase = blockIdx.x % phases;
    const Axis down(c, phase / c.stride, c.out_h), across(c, phase % c.stride, c.out_w);
    const int first = blockIdx.x / phases * TILE, out0 = blockIdx.y * TILE, plane = down.results * across.results;
    if (first >= c.batch * plane) return;  // a smaller phase; the whole block leaves
    const int place = first + threadIdx.x % TILE, image = place / plane;
    Fetch ahead{input + (image < c.batch ? (i64)image * c.in * c.h * c.w : 0), weights + out0,
                place % plane / across.results, place % across.results};
    ahead.there = image < c.batch;
    const int y = ahead.y * c.stride + phase / c.stride, x = ahead.x * c.stride + phase % c.stride;
    const int steps = down.taps * across.taps * (c.channels / DEPTH), row = threadIdx.x / 16, column = threadIdx.x % 16;
    float sum[8][8] = {};
    int into = 0, from = 0;
    // The first turns only fetch.
#pragma unroll 1
    for (int s = 1 - STAGES; s < steps; ++s) {
        copies_wait<STAGES - 2>();
        __syncthreads();
        ahead.step(c, down, across, stages[into]);
        copies_commit();
        into = into + 1 == STAGES ? 0 : into + 1;
        if (s < 0) continue;
        add_step(sum, stages[from], row, column);
        from = from + 1 == STAGES ? 0 : from + 1;
    }
    copies_wait<0>();
    float(*staged)[TILE] = stages[0].weights;
    const int out_plane = c.out_h * c.out_w;
    float* const to = output + (i64)image * c.out * out_plane + y * c.out_w + x;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        __syncthreads();
        *(float4*)&staged[row][column * 4] = *(float4*)&sum[i][0];
        *(float4*)&staged[row][64 + column * 4] = *(float4*)&sum[i][4];
        __syncthreads();
#pragma unroll 1
        for (int r = threadIdx.x / TILE; r < 16; r += THREADS / TILE) {
            const int o = out0 + i / 4 * 64 + r * 4 + i % 4;
            if (o < c.out && image < c.batch) to[(i64)o * out_plane] = staged[r][threadIdx.x % TILE] + bias[o];
        }
    }
}

// A thread an input and an output channel.
extern "C" __global__ void __launch_bounds__(THREADS) arrange_weights(const float* weight, float* weights, SIZES) {
    const Conv c = CONV;
    const int i = blockIdx.x * THREADS + threadIdx.x, o = i % c.outs, channel = i / c.outs, patch = c.k * c.k;
    if (channel >= c.channels) return;
    const bool inside = channel < c.in && o < c.out;
#pragma unroll 4
    for (int tap = 0; tap < patch; ++tap)
        weights[(i64)tap * c.outs * c.channels + i] = inside ? weight[((i64)channel * c.out + o) * patch + tap] : 0.f;
}
