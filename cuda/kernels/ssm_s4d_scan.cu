// Idea: a warp walks one channel of one sequence through time, its lanes the states: what a step costs does not grow
//       with the length.
// Source: the definition.
// Shapes: u, y [batch, channels, seq_len]; lambda, w [channels, state] complex; d [channels].
// Plan: 32 steps of u are read at once and handed out by shuffles; the sum over states is one over lanes.
// Numerics: f32.
// Limits: state at most 64; batch*channels warps are all the parallelism there is.
#include "ssm.cuh"

extern "C" __global__ void __launch_bounds__(128)
    scan(const float* u, const float2* lambda, const float2* w, const float* d, float* y, i64 batch, i64 channels,
         i64 seq_len, i64 state) {
    const i64 line = (i64)blockIdx.x * 4 + threadIdx.x / 32;
    if (line >= batch * channels) return;
    const int lane = threadIdx.x % 32;
    const i64 channel = line % channels;
    const float skip = d[channel];
    float2 factor[2], weight[2], h[2];
#pragma unroll
    for (int k = 0; k < 2; ++k) {
        const bool there = k * 32 + lane < state;
        const i64 at = channel * state + k * 32 + lane;
        factor[k] = there ? lambda[at] : zero<float2>();
        weight[k] = there ? w[at] : zero<float2>();
        h[k] = zero<float2>();
    }
#pragma unroll 1
    for (i64 from = 0; from < seq_len; from += 32) {
        const int steps = (int)min(32ll, seq_len - from);
        const float mine = lane < steps ? u[line * seq_len + from + lane] : 0.f;
        float out = 0.f;
#pragma unroll 1
        for (int t = 0; t < steps; ++t) {
            const float input = __shfl_sync(0xffffffffu, mine, t);
            float sum = 0.f;
#pragma unroll
            for (int k = 0; k < 2; ++k) {
                h[k] = advance(factor[k], h[k], make_float2(input, 0.f));
                sum += weight[k].x * h[k].x - weight[k].y * h[k].y;
            }
            sum = warp_sum(sum);
            if (lane == t) out = fmaf(skip, input, 2.f * sum);
        }
        if (lane < steps) y[line * seq_len + from + lane] = out;
    }
}
