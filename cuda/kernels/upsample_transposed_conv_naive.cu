// Idea: the definition, a thread an element of each result.
// Source: Dumoulin & Visin 2016, "A guide to convolution arithmetic for deep learning", chapter 4.
// Shapes: input [batch, in, h, w], weight [in, out, k, k], bias [out], output [batch, out, out_h, out_w].
// Plan: forward sums over input channels and the patch pixels that fall on the stride; d_input is a convolution;
//       d_weight and d_bias sum over images and pixels.
// Numerics: f32 sums, rounded once on storing.
// Limits: fewer than 2^31 elements in each tensor.
#include "any_dtype.cuh"

struct Conv {
    int batch, in, out, h, w, out_h, out_w, k, stride, padding;
    int dtype;
};

__device__ void forward(const void* __restrict__ input, const void* __restrict__ weight, const void* __restrict__ bias,
                        void* __restrict__ output, const Conv& c) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= c.batch * c.out * c.out_h * c.out_w) return;
    const int x = i % c.out_w, y = i / c.out_w % c.out_h, plane = i / (c.out_w * c.out_h);
    const int o = plane % c.out, n = plane / c.out;
    float sum = load(bias, o, c.dtype);
#pragma unroll 1
    for (int ky = (y + c.padding) % c.stride; ky < c.k; ky += c.stride) {
        const int h = (y + c.padding - ky) / c.stride;
        if (y + c.padding < ky || h >= c.h) continue;
#pragma unroll 1
        for (int kx = (x + c.padding) % c.stride; kx < c.k; kx += c.stride) {
            const int w = (x + c.padding - kx) / c.stride;
            if (x + c.padding < kx || w >= c.w) continue;
#pragma unroll 1
            for (int channel = 0; channel < c.in; ++channel)
                sum += load(input, ((n * c.in + channel) * c.h + h) * c.w + w, c.dtype) *
                       load(weight, ((channel * c.out + o) * c.k + ky) * c.k + kx, c.dtype);
        }
    }
    store(output, i, sum, c.dtype);
}

__device__ void d_input(const void* __restrict__ d_output, const void* __restrict__ weight, void* __restrict__ result,
                        const Conv& c) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= c.batch * c.in * c.h * c.w) return;
    const int w = i % c.w, h = i / c.w % c.h, plane = i / (c.w * c.h);
    const int channel = plane % c.in, n = plane / c.in;
    float sum = 0.f;
#pragma unroll 1
    for (int tap = 0; tap < c.k * c.k; ++tap) {
        const int y = h * c.stride + tap / c.k - c.padding, x = w * c.stride + tap % c.k - c.padding;
        if (y < 0 || y >= c.out_h || x < 0 || x >= c.out_w) continue;
#pragma unroll 1
        for (int o = 0; o < c.out; ++o)
            sum += load(d_output, ((n * c.out + o) * c.out_h + y) * c.out_w + x, c.dtype) *
                   load(weight, (channel * c.out + o) * c.k * c.k + tap, c.dtype);
    }
    store(result, i, sum, c.dtype);
}

__device__ void d_weight(const void* __restrict__ d_output, const void* __restrict__ input, void* __restrict__ result,
                         const Conv& c) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= c.in * c.out * c.k * c.k) return;
    const int kx = i % c.k, ky = i / c.k % c.k, pair = i / (c.k * c.k), o = pair % c.out, channel = pair / c.out;
    float sum = 0.f;
#pragma unroll 1
    for (int from = 0; from < c.batch * c.h * c.w; ++from) {
        const int w = from % c.w, h = from / c.w % c.h, n = from / (c.w * c.h);
        const int y = h * c.stride + ky - c.padding, x = w * c.stride + kx - c.padding;
        if (y < 0 || y >= c.out_h || x < 0 || x >= c.out_w) continue;
        sum += load(input, ((n * c.in + channel) * c.h + h) * c.w + w, c.dtype) *
               load(d_output, ((n * c.out + o) * c.out_h + y) * c.out_w + x, c.dtype);
    }
    store(result, i, sum, c.dtype);
}

__device__ void d_bias(const void* __restrict__ d_output, void* __restrict__ result, const Conv& c) {
    const int o = blockIdx.x * blockDim.x + threadIdx.x, plane = c.out_h * c.out_w;
    if (o >= c.out) return;
    float sum = 0.f;
#pragma unroll 1
    for (int n = 0; n < c.batch; ++n)
#pragma unroll 1
        for (int pixel = 0; pixel < plane; ++pixel) sum += load(d_output, (n * c.out + o) * plane + pixel, c.dtype);
    store(result, o, sum, c.dtype);
}

// Sizes travel as 64-bit integers; all of them fit 32 bits.
#define SIZES                                                                                                         \
    i64 batch, i64 in, i64 out, i64 h, i64 w, i64 out_h, i64 out_w, i64 k, i64 stride, i64 padding, int dtype
#define CONV                                                                                                          \
    Conv{(int)batch, (int)in, (int)out, (int)h, (int)w, (int)out_h, (int)out_w, (int)k, (int)stride, (int)padding, dtype}

extern "C" __global__ void forward(const void* input, const void* weight, const void* bias, void* output, SIZES) {
    forward(input, weight, bias, output, CONV);
}
extern "C" __global__ void d_input(const void* d_output, const void* weight, void* result, SIZES) {
    d_input(d_output, weight, result, CONV);
}
extern "C" __global__ void d_weight(const void* d_output, const void* input, void* result, SIZES) {
    d_weight(d_output, input, result, CONV);
}
extern "C" __global__ void d_bias(const void* d_output, void* result, SIZES) { d_bias(d_output, result, CONV); }
