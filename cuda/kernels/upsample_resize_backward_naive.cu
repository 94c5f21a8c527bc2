// Idea: the definition, a thread an input pixel: one flat sum over the outputs that read it, each with both its weights.
// Source: ours; the transpose of the interpolation.
// Shapes: d_output [planes, out_h, out_w], d_input [planes, in_h, in_w]; 1, 2 or 4 taps.
// Plan: an output lies within taps pixels of what it reads, or beyond the border whose pixel it then reads; of those a
//       thread asks the taps, along y and for each along x again.
// Numerics: f32 weights and one f32 sum of products in the order of the outputs, rounded once on storing. At scale 2 a
//           bicubic sum has 64 terms, and so twice the error of sums along x and then y: this rung, not the separable
//           one, is what a plain sum at this precision costs, in any order.
// Limits: axes below 2^22; fewer than 2^31 input pixels.
#include "upsample.cuh"

// The outputs of an axis that may read pixel i, both ends included.
struct Near {
    int from, to;

    __device__ __forceinline__ Near(int i, const Axis& axis, int count) : from(0), to(axis.output - 1) {
        if (!(axis.step > 0.f)) return;
        const float before = ((float)(i - count) + axis.shift) / axis.step - axis.half;
        const float behind = ((float)(i + count) + axis.shift) / axis.step - axis.half;
        if (i > 0) from = max(from, (int)floorf(fmaxf(before, 0.f)) - 1);
        if (i + 1 < axis.input) to = min(to, (int)ceilf(fminf(behind, (float)axis.output)) + 1);
    }
};

// What output o reads of pixel i along an axis.
__device__ __forceinline__ float weight_of(int i, int o, const Axis& axis, int count) {
    const Taps t = taps(o, axis, count);
    float weight = 0.f;
#pragma unroll 1
    for (int k = 0; k < count; ++k)
        if (t.at(k, axis) == i) weight += t.of(k);
    return weight;
}

extern "C" __global__ void resize(const void* d_output, void* d_input, i64 planes, i64 in_h, i64 in_w, i64 out_h,
                                  i64 out_w, float step_h, float step_w, float half, float shift, int count,
                                  int dtype) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= planes * in_h * in_w) return;
    const Axis y_axis{(int)in_h, (int)out_h, step_h, half, shift}, x_axis{(int)in_w, (int)out_w, step_w, half, shift};
    const int line = i / x_axis.input, plane = line / y_axis.input;
    const int at_y = line - plane * y_axis.input, at_x = i - line * x_axis.input;
    const Near ys(at_y, y_axis, count), xs(at_x, x_axis, count);
    float sum = 0.f;
#pragma unroll 1
    for (int y = ys.from; y <= ys.to; ++y) {
        const float along_y = weight_of(at_y, y, y_axis, count);
        if (along_y == 0.f) continue;
        const i64 row = ((i64)plane * y_axis.output + y) * x_axis.output;
#pragma unroll 1
        for (int x = xs.from; x <= xs.to; ++x)
            sum = fmaf(along_y * weight_of(at_x, x, x_axis, count), load(d_output, row + x, dtype), sum);
    }
    store(d_input, i, sum, dtype);
}
