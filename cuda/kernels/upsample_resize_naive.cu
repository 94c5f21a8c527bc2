// Idea: the definition, a thread an output pixel.
// Source: Keys 1981, "Cubic convolution interpolation for digital image processing"; PyTorch's conventions.
// Shapes: input [planes, in_h, in_w], output [planes, out_h, out_w]; planes = batch · channels; 1, 2 or 4 taps.
// Plan: each thread finds its taps along both axes and sums taps² pixels, row after row.
// Numerics: f32 weights and sums, rounded once on storing; nearest copies.
// Limits: axes below 2^22; fewer than 2^31 output pixels.
#include "upsample.cuh"

extern "C" __global__ void resize(const void* input, void* output, i64 planes, i64 in_h, i64 in_w, i64 out_h, i64 out_w,
                                  float step_h, float step_w, float half, float shift, int count, int dtype) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= planes * out_h * out_w) return;
    const Axis y_axis{(int)in_h, (int)out_h, step_h, half, shift}, x_axis{(int)in_w, (int)out_w, step_w, half, shift};
    const int line = i / x_axis.output, plane = line / y_axis.output;
    const Taps ys = taps(line - plane * y_axis.output, y_axis, count);
    const Taps xs = taps(i - line * x_axis.output, x_axis, count);
    float sum = 0.f;
#pragma unroll 1
    for (int k = 0; k < count; ++k) {
        const i64 row = ((i64)plane * y_axis.input + ys.at(k, y_axis)) * x_axis.input;
        float along = 0.f;
#pragma unroll 1
        for (int l = 0; l < count; ++l)
            along = fmaf(xs.of(l), load(input, row + xs.at(l, x_axis), dtype), along);
        sum = fmaf(ys.of(k), along, sum);
    }
    store(output, i, sum, dtype);
}
