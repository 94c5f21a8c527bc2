// Idea: gradients as products on tensor cores over one line of places, on which a tap is a distance.
// Source: as upsample_transposed_conv_tensor_core.cu; split-K, CUTLASS documentation, "Efficient GEMM in CUDA".
// Shapes: as upsample_transposed_conv_naive.cu, f16 or bf16. Scratch: gradients [line, channels], where channel
//         q·outs + o of place (n, r, c) is output channel o of pixel (r·s + qy - p, c·s + qx - p), q = qy·s + qx and outs a
//         multiple of 8; pixels [line, ins]; weights as the forward kernel's; parts [splits, t·t, in, channels].
// Plan: with the phases side by side as channels, d_input is a transposed convolution of stride 1 with a patch of
//       t = ceil(k / s), which the forward file's kernel computes; arrange_* bring gradients and weights into its
//       order.
//       d_weight: a block computes 128 input channels by 128 channels of the gradients by two taps of a row, over a
//       share of the places in steps of 32: pixels, and the 33 places of gradients that both taps read, by cp.async, four
//       steps in flight; ldmatrix transposes both. sum_parts adds the shares up in order. d_bias: a block an image
//       and channel, then a thread a channel.
// Numerics: f32 sums, those of shares first; rounded once on storing.
// Limits: a patch that the stride does not divide is computed with zeros up to a multiple.
// Twin: f16
#include "upsample_transposed_conv.cuh"

namespace {

constexpr int TILE = 128, DEPTH = 32, STAGES = 4;
constexpr int ROW = TILE * 2, PIXELS = DEPTH * ROW, STAGE = PIXELS + (DEPTH + 2) * ROW;

struct Line {
    int batch, in, out, h, w, out_h, out_w, k, stride, padding;
    int pitch, rows, length, taps;  // places from row to row, rows from image to image, places in all; t
    int outs, channels, ins;        // of a phase, of gradients, of pixels
};

__device__ __forceinline__ u32 chunk_at(int row, int chunk) { return (u32)(row * ROW + ((chunk ^ (row & 7)) * 16)); }

// Starts the copies of a step: places from `place` on, gradients `shift` places behind.
__device__ __forceinline__ void fetch(const Line& l, u32 stage, const u16* pixels, const u16* gradients, int place,
                                      int shift, int in0, int channel0) {
    const int chunk = threadIdx.x % 16, row = threadIdx.x / 16;
#pragma unroll
    for (int i = 0; i < DEPTH + 1; i += THREADS / 16) {
        const u32 to = stage + chunk_at(row + i, chunk);
        const int from = place + row + i, behind = from + shift, in = in0 + chunk * 8, channel = channel0 + chunk * 8;
        const bool there = from < l.length && in < l.ins;
        if (i < DEPTH) copy_16(to, (const char*)(pixels + (there ? (i64)from * l.ins + in : 0)), there);
        const bool met = behind < l.length && channel < l.channels;
        if (i < DEPTH || row == 0)
            copy_16(to + PIXELS, (const char*)(gradients + (met ? (i64)behind * l.channels + channel : 0)), met);
    }
}

// Adds a step's products to a warp's 64 input channels by 64 channels of gradients, those `tap` places behind.
__device__ __forceinline__ void add_step(float (&sum)[4][8][4], u32 stage, int in, int channel, int tap) {
    const int lane = threadIdx.x % 32, a_row = lane % 8 + lane / 16 * 8, b_row = lane % 16 + tap;
#pragma unroll 1
    for (int k = 0; k < DEPTH; k += 16) {
        u32 a[4][4], b[4][4];
#pragma unroll
        for (int m = 0; m < 4; ++m)
            load_transposed(a[m], stage + chunk_at(k + a_row, in / 8 + m * 2 + lane / 8 % 2));
#pragma unroll
        for (int n = 0; n < 4; ++n)
            load_transposed(b[n], stage + PIXELS + chunk_at(k + b_row, channel / 8 + n * 2 + lane / 16));
#pragma unroll
        for (int n = 0; n < 8; ++n)
#pragma unroll
            for (int m = 0; m < 4; ++m) mma<__nv_bfloat16>(sum[m][n], a[m], b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
    }
}

}  // namespace

// Sizes travel as 64-bit integers; all of them fit 32 bits.
#define SIZES                                                                                                         \
    i64 batch, i64 in, i64 out, i64 h, i64 w, i64 out_h, i64 out_w, i64 k, i64 stride, i64 padding, i64 pitch,        \
        i64 rows, i64 length, i64 taps, i64 outs, i64 channels, i64 ins
#define LINE                                                                                                          \
    Line{(int)batch, (int)in, (int)out, (int)h, (int)w, (int)out_h, (int)out_w, (int)k, (int)stride, (int)padding,    \
         (int)pitch, (int)rows, (int)length, (int)taps, (int)outs, (int)channels, (int)ins}

// Blocks: shares of `steps` steps, then taps by tiles.
extern "C" __global__ void __launch_bounds__(THREADS)
    d_weight(const u16* pixels, const u16* gradients, float* parts, i64 steps, SIZES) {
    extern __shared__ __align__(128) char shared[];
    const Line l = LINE;
    const u32 stages = (u32)__cvta_generic_to_shared(shared);
    const int groups = (l.taps + 1) / 2, across = (l.channels + TILE - 1) / TILE, down = (l.in + TILE - 1) / TILE;
    int at = blockIdx.y;
    const int channel0 = at % across * TILE, in0 = at / across % down * TILE;
    at /= across * down;
    const int tap_y = at / groups, tap_x = at % groups * 2, shift = tap_y * l.pitch + tap_x;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, tap = warp / 4;
    const int in_first = warp / 2 % 2 * 64, channel_first = warp % 2 * 64;
    const int place0 = blockIdx.x * (int)steps * DEPTH;
    float sum[4][8][4] = {};
    // The first turns only fetch.
#pragma unroll 1
    for (int step = 1 - STAGES; step < steps; ++step) {
        copies_wait<STAGES - 2>();
        __syncthreads();
        const int next = step + STAGES - 1;
        if (next < steps)
            fetch(l, stages + next % STAGES * STAGE, pixels, gradients, place0 + next * DEPTH, shift, in0, channel0);
        copies_commit();
        if (step >= 0 && tap_x + tap < l.taps)
            add_step(sum, stages + step % STAGES * STAGE, in_first, channel_first, tap);
    }
    if (tap_x + tap >= l.taps) return;
    parts += (i64)(blockIdx.x * l.taps * l.taps + tap_y * l.taps + tap_x + tap) * l.in * l.channels;
#pragma unroll
    for (int m = 0; m < 8; ++m) {
        const int i = in0 + in_first + m * 8 + lane / 4;
        float* const to = parts + (i64)i * l.channels;
#pragma unroll
        for (int n = 0; n < 8; ++n) {
            const int c = channel0 + channel_first + n * 8 + lane % 4 * 2;
            if (i < l.in && c < l.channels) *(float2*)(to + c) = *(float2*)&sum[m / 2][n][m % 2 * 2];
        }
    }
}

// A thread a sum of d_weight, in the order of parts; or one of d_bias, over the images' [out, batch].
extern "C" __global__ void __launch_bounds__(THREADS)
    sum_parts(const float* parts, i64 splits, const float* planes, __nv_bfloat16* d_weight, __nv_bfloat16* d_bias, SIZES) {
    const Line l = LINE;
    const int i = blockIdx.x * THREADS + threadIdx.x, count = l.taps * l.taps * l.in * l.channels;
    float sum = 0.f;
    if (i < l.out) {
#pragma unroll 1
        for (int n = 0; n < l.batch; ++n) sum += planes[i * l.batch + n];
        d_bias[i] = __float2bfloat16_rn(sum);
    }
    if (i >= count) return;
    const int channel = i % l.channels, q = channel / l.outs, o = channel % l.outs;
    const int tap = i / l.channels / l.in, in_channel = i / l.channels % l.in;
    const int ky = q / l.stride + tap / l.taps * l.stride, kx = q % l.stride + tap % l.taps * l.stride;
    if (q >= l.stride * l.stride || o >= l.out || ky >= l.k || kx >= l.k) return;
    sum = 0.f;
#pragma unroll 4
    for (int s = 0; s < splits; ++s) sum += parts[(i64)s * count + i];
    d_weight[((in_channel * l.out + o) * l.k + ky) * l.k + kx] = __float2bfloat16_rn(sum);
}

// A block sums a plane, [batch, out], to [out, batch].
extern "C" __global__ void __launch_bounds__(THREADS)
    sum_planes(const u16* d_output, float* planes, i64 batch, i64 out, i64 plane, int dtype) {
    __shared__ float part[THREADS / 32];
    d_output += blockIdx.x * plane;
    float sum = 0.f;
    const i64 words = plane % 8 == 0 && (size_t)d_output % 16 == 0 ? plane / 8 : 0;
#pragma unroll 1
    for (i64 i = threadIdx.x; i < words; i += THREADS) {
        const uint4 word = __ldg((const uint4*)d_output + i);
        const u32 pairs[4] = {word.x, word.y, word.z, word.w};
#pragma unroll
        for (int e = 0; e < 4; ++e) sum += widened((u16)pairs[e], dtype) + widened((u16)(pairs[e] >> 16), dtype);
    }
#pragma unroll 1
    for (i64 i = words * 8 + threadIdx.x; i < plane; i += THREADS) sum += widened(d_output[i], dtype);
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (int w = 1; w < THREADS / 32; ++w) sum += part[w];
    planes[blockIdx.x % out * batch + blockIdx.x / out] = sum;
}

// A block brings 64 channels of a phase of a row of the line together. Blocks: rows, channels of the phase, phases; the
// last phase has the zeros that round all channels up.
extern "C" __global__ void __launch_bounds__(THREADS) arrange_gradients(const u16* d_output, u16* gradients, SIZES) {
    const Line l = LINE;
    const int row = blockIdx.x, n = row / l.rows, q = blockIdx.z, channel0 = blockIdx.y * EDGE;
    const int y = row % l.rows * l.stride + q / l.stride - l.padding, first = q * l.outs + channel0;
    const bool there = (u32)y < (u32)l.out_h;
    const i64 plane = l.out_h * l.out_w;
    const u16* from = d_output + (there ? ((i64)n * l.out + channel0) * plane + y * l.out_w : 0);
    const int end = q + 1 < l.stride * l.stride ? (q + 1) * l.outs : l.channels;
    u16* const to = gradients + (i64)row * l.pitch * l.channels + first;
    arrange_row(from, there, l.stride, q % l.stride - l.padding, l.out_w, l.out - channel0, plane, to, l.pitch,
                end - first, l.channels);
}

// A thread an input channel and a channel of gradients, of [taps from the last, rows, channels]; and zeros as biases.
extern "C" __global__ void __launch_bounds__(THREADS)
    arrange_weights(const u16* weight, i64 rows_of_weights, u16* weights, float* biases, SIZES) {
    const Line l = LINE;
    const int i = blockIdx.x * THREADS + threadIdx.x, count = (int)rows_of_weights * l.channels;
    if (i < rows_of_weights) biases[i] = 0.f;
    if (i >= count) return;
    const int channel = i % l.channels, in_channel = i / l.channels, q = channel / l.outs, o = channel % l.outs;
    const bool inside = q < l.stride * l.stride && o < l.out && in_channel < l.in;
#pragma unroll 1
    for (int tap = 0; tap < l.taps * l.taps; ++tap) {
        const int ky = q / l.stride + tap / l.taps * l.stride, kx = q % l.stride + tap % l.taps * l.stride;
        const bool there = inside && ky < l.k && kx < l.k;
        weights[(i64)(l.taps * l.taps - 1 - tap) * count + i] =
            there ? weight[((in_channel * l.out + o) * l.k + ky) * l.k + kx] : (u16)0;
    }
}
