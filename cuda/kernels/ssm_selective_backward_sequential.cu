// Idea: one thread a channel; all states are kept in memory on the way forward and read on the way back.
// Source: the derivative of Gu and Dao, Mamba (2023), algorithm 2, as written.
// Shapes: u, delta, z, dy, du, ddelta, dz [batch, channels, seq_len]; A [channels, state];
//         B, C [batch, groups, state, seq_len]; D, delta_bias [channels]. Scratch: parts_B, parts_C
//         [batch, channels, state, seq_len], carried, parts_A [batch, channels, state], parts_D, parts_bias
//         [batch, channels].
// Plan: parts_C first holds the states, then each channel's share of dC. ssm_sum adds the shares of dB and
//       dC over channels and those of dA, dD and ddelta_bias over sequences.
// Numerics: f32; ex2.approx for the decay; no atomics.
// Limits: memory for two numbers a state and time step.
#include "ssm.cuh"

template <typename T>
__device__ void backward(const T* u, const T* delta, const float* A, const T* B, const T* C, const float* D,
                         const T* z, const float* delta_bias, const T* dy, T* du, T* ddelta, T* dz,
                         float* parts_B, float* parts_C, float* carried, float* parts_A, float* parts_D,
                         float* parts_bias, i64 batch, i64 channels, i64 seq_len, i64 state, i64 groups,
                         int use_softplus) {
    const i64 row = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= batch * channels) return;
    const i64 b = row / channels, d = row % channels;
    const i64 projection = (b * groups + d / (channels / groups)) * state * seq_len;
    const float bias = delta_bias ? delta_bias[d] : 0.f, skip = D ? D[d] : 0.f;
    float* h = parts_C + row * state * seq_len;
    for (i64 t = 0; t < seq_len; ++t) {
        const float x = to_float(delta[row * seq_len + t]) + bias, dt = use_softplus ? softplus(x) : x;
        const float dtu = dt * to_float(u[row * seq_len + t]);
#pragma unroll 1
        for (i64 n = 0; n < state; ++n) {
            const i64 i = n * seq_len + t;
            const float decay = exp2_fast(dt * (A[d * state + n] * LOG2E));
            h[i] = decay * (t > 0 ? h[i - 1] : 0.f) + dtu * to_float(B[projection + i]);
        }
    }
#pragma unroll 1
    for (i64 n = 0; n < state; ++n) carried[row * state + n] = parts_A[row * state + n] = 0.f;
    float sum_D = 0.f, sum_bias = 0.f;
    for (i64 t = seq_len - 1; t >= 0; --t) {
        const i64 at = row * seq_len + t;
        const float x = to_float(delta[at]) + bias, dt = use_softplus ? softplus(x) : x;
        const float value = to_float(u[at]);
        float ds = to_float(dy[at]);
        if (z) {
            float s = skip * value;
#pragma unroll 1
            for (i64 n = 0; n < state; ++n) s += to_float(C[projection + n * seq_len + t]) * h[n * seq_len + t];
            const float gate = to_float(z[at]), open = sigmoid(gate);
            dz[at] = from_float<T>(ds * s * (open * (1.f + gate * (1.f - open))));
            ds *= gate * open;
        }
        float by_B = 0.f, by_rate = 0.f;
#pragma unroll 1
        for (i64 n = 0; n < state; ++n) {
            const i64 i = n * seq_len + t, own = row * state + n;
            const float rate = A[d * state + n], decay = exp2_fast(dt * (rate * LOG2E));
            const float g = to_float(C[projection + i]) * ds + carried[own];
            const float kept = g * decay * (t > 0 ? h[i - 1] : 0.f);
            by_B += g * to_float(B[projection + i]);
            by_rate += rate * kept;
            parts_A[own] += kept * dt;
            parts_B[row * state * seq_len + i] = g * dt * value;
            h[i] = ds * h[i];
            carried[own] = decay * g;
        }
        const float by_step = (value * by_B + by_rate) * (use_softplus ? sigmoid(x) : 1.f);
        du[at] = from_float<T>(skip * ds + dt * by_B);
        ddelta[at] = from_float<T>(by_step);
        sum_D += ds * value;
        sum_bias += by_step;
    }
    parts_D[row] = sum_D;
    parts_bias[row] = sum_bias;
}

#define KERNEL(SUFFIX, T)                                                                                       \
    extern "C" __global__ void __launch_bounds__(128) backward_##SUFFIX(                                        \
        const T* u, const T* delta, const float* A, const T* B, const T* C, const float* D, const T* z,         \
        const float* delta_bias, const T* dy, T* du, T* ddelta, T* dz, float* parts_B, float* parts_C,          \
        float* parts_A, float* parts_D, float* parts_bias, float* carried, i64 batch, i64 channels, i64 seq_len, \
        i64 state, i64 groups, int use_softplus) {                                                              \
        backward<T>(u, delta, A, B, C, D, z, delta_bias, dy, du, ddelta, dz, parts_B, parts_C, carried,         \
                    parts_A, parts_D, parts_bias, batch, channels, seq_len, state, groups, use_softplus);       \
    }
KERNEL(f32, float)
KERNEL(f16, __half)
KERNEL(bf16, __nv_bfloat16)
