// Idea: sums over one axis in a fixed order, for gradients that many channels or sequences share.
// Source: the definition.
// Shapes: parts [outer, count, inner] f32; out [outer, inner] f32.
// Plan: one thread an output; adjacent threads read adjacent numbers.
// Numerics: f32, added in the order of the axis, so two runs give the same bits.
// Limits: none.
#include "numeric.cuh"

extern "C" __global__ void sum(const float* parts, float* out, i64 outer, i64 count, i64 inner) {
    const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= outer * inner) return;
    const float* part = parts + i / inner * count * inner + i % inner;
    float total = 0.f;
    for (i64 k = 0; k < count; ++k) total += part[k * inner];
    out[i] = total;
}
