// Idea: a thread an input pixel gathers from the outputs that read it: no atomics, so the same bits every time.
// Source: ours; the transpose of the interpolation.
// Shapes: d_output [planes, out_h, out_w], d_input [planes, in_h, in_w]. Of each axis two tables: `ranges` [in, 3]:
//         first reader of a pixel, how many, and where their weights begin in `weights`.
// Plan: the readers of a pixel are neighbours along each axis, so two loops over their product; the tables are made
//       once on the host and stay in the caches.
// Numerics: f32 weights and sums in a fixed order, rounded once on storing.
// Limits: fewer than 2^31 input pixels.
#include "upsample.cuh"

extern "C" __global__ void resize(const void* d_output, const int* y_ranges, const float* y_weights,
                                  const int* x_ranges, const float* x_weights, void* d_input, i64 planes, i64 in_h,
                                  i64 in_w, i64 out_h, i64 out_w, int dtype) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= planes * in_h * in_w) return;
    const int line = i / (int)in_w, plane = line / (int)in_h;
    const Readers ys(y_ranges, y_weights, line - plane * (int)in_h), xs(x_ranges, x_weights, i - line * (int)in_w);
    i64 row = ((i64)plane * out_h + ys.first) * out_w + xs.first;
    float sum = 0.f;
#pragma unroll 1
    for (int r = 0; r < ys.count; ++r, row += out_w) {
        float along = 0.f;
#pragma unroll 2
        for (int c = 0; c < xs.count; ++c)
            along = fmaf(__ldg(xs.weights + c), load(d_output, row + c, dtype), along);
        sum = fmaf(__ldg(ys.weights + r), along, sum);
    }
    store(d_input, i, sum, dtype);
}
