// Idea: a thread an output pixel adds to the input pixels it read: d_output is read once, sums race.
// Source: ours; how PyTorch's bilinear and bicubic gradients work.
// Shapes: d_output [planes, out_h, out_w], sums [planes, in_h, in_w] f32, zeroed before; 1, 2 or 4 taps.
// Plan: taps² float atomics a thread; `round_off` rounds the sums to a half type.
// Numerics: f32 sums in any order, so the last bits differ from run to run.
// Limits: axes below 2^22; fewer than 2^31 pixels.
#include "upsample.cuh"

extern "C" __global__ void resize(const void* d_output, float* sums, i64 planes, i64 in_h, i64 in_w, i64 out_h,
                                  i64 out_w, float step_h, float step_w, float half, float shift, int count,
                                  int dtype) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= planes * out_h * out_w) return;
    const Axis y_axis{(int)in_h, (int)out_h, step_h, half, shift}, x_axis{(int)in_w, (int)out_w, step_w, half, shift};
    const int line = i / x_axis.output, plane = line / y_axis.output;
    const Taps ys = taps(line - plane * y_axis.output, y_axis, count);
    const Taps xs = taps(i - line * x_axis.output, x_axis, count);
    const float gradient = load(d_output, i, dtype);
#pragma unroll 1
    for (int k = 0; k < count; ++k) {
        float* row = sums + ((i64)plane * y_axis.input + ys.at(k, y_axis)) * x_axis.input;
#pragma unroll 1
        for (int l = 0; l < count; ++l) atomicAdd(row + xs.at(l, x_axis), ys.of(k) * xs.of(l) * gradient);
    }
}

extern "C" __global__ void round_off(const float* sums, void* d_input, i64 n, int dtype) {
    const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) store(d_input, i, sums[i], dtype);
}
