// Idea: one thread follows one channel through time and keeps its states in memory.
// Source: Gu and Dao, Mamba (2023), algorithm 2, as written.
// Shapes: u, delta, z, y [batch, channels, seq_len]; A [channels, state]; B, C [batch, groups, state, seq_len];
//         D, delta_bias [channels]; initial_state, last_state [batch, channels, state].
// Plan: the states live in last_state, which holds them at the end anyway; time is the outer loop.
// Numerics: f32; ex2.approx for the decay.
// Limits: neighbouring threads read addresses seq_len apart; every state goes through memory at every step.
#include "ssm.cuh"

template <typename T>
__device__ void sequential(const T* u, const T* delta, const float* A, const T* B, const T* C, const float* D,
                           const T* z, const float* delta_bias, const float* initial_state, T* y,
                           float* last_state, i64 batch, i64 channels, i64 seq_len, i64 state, i64 groups,
                           int use_softplus) {
    const i64 row = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= batch * channels) return;
    const i64 b = row / channels, d = row % channels;
    const i64 projection = (b * groups + d / (channels / groups)) * state * seq_len;
    const float bias = delta_bias ? delta_bias[d] : 0.f, skip = D ? D[d] : 0.f;
    float* h = last_state + row * state;
#pragma unroll 1
    for (i64 n = 0; n < state; ++n) h[n] = initial_state ? initial_state[row * state + n] : 0.f;
    for (i64 t = 0; t < seq_len; ++t) {
        const i64 i = row * seq_len + t;
        const float x = to_float(delta[i]) + bias, value = to_float(u[i]);
        const float dt = use_softplus ? softplus(x) : x;
        float sum = skip * value;
#pragma unroll 1
        for (i64 n = 0; n < state; ++n) {
            const i64 p = projection + n * seq_len + t;
            const float decay = exp2_fast(dt * (A[d * state + n] * LOG2E));
            h[n] = decay * h[n] + dt * value * to_float(B[p]);
            sum += to_float(C[p]) * h[n];
        }
        if (z) {
            const float gate = to_float(z[i]);
            sum *= gate * sigmoid(gate);
        }
        y[i] = from_float<T>(sum);
    }
}

#define KERNEL(SUFFIX, T)                                                                                      \
    extern "C" __global__ void __launch_bounds__(128)                                                          \
        selective_##SUFFIX(const T* u, const T* delta, const float* A, const T* B, const T* C, const float* D, \
                           const T* z, const float* delta_bias, const float* initial_state, T* y,              \
                           float* last_state, i64 batch, i64 channels, i64 seq_len, i64 state, i64 groups,     \
                           int use_softplus) {                                                                 \
        sequential<T>(u, delta, A, B, C, D, z, delta_bias, initial_state, y, last_state, batch, channels,      \
                      seq_len, state, groups, use_softplus);                                                   \
    }
KERNEL(f32, float)
KERNEL(f16, __half)
KERNEL(bf16, __nv_bfloat16)
