// Idea: split the sequence into chunks that blocks scan at the same time, and join them by their states.
// Source: Blelloch (1990), section 1.5 (scan of blocks); a chunk's factor is exp(A*sum of dt), so its summary
//         needs one number a channel beside its states.
// Shapes: u, delta, z, y [batch, channels, seq_len]; A [channels, state]; B, C [batch, groups, state, seq_len];
//         D, delta_bias [channels]; initial_state, last_state [batch, channels, state].
//         Scratch: sums [chunks - 1, batch*channels], states [chunks, batch*channels, state].
// Plan: summarize scans each chunk but the last from zero and leaves sum of dt and its end state; carry turns
//       these into the state each chunk starts from; selective scans all chunks from there.
// Numerics: f32; sum of dt is compensated, so exp(A*sum of dt) is as right as the product of the factors.
// Limits: the state updates of all chunks but the last are done twice. State up to 16; f32 and bf16.
#include "ssm_selective_staged.cuh"

template <typename T>
__device__ __forceinline__ void summarize(const Problem<T>& problem, float* sums, float* states, i64 chunk_len) {
    typedef Staged<T, 4, 4> Block;
    extern __shared__ uint4 memory[];
    Block block(problem, *(typename Block::Shared*)memory);
    const i64 from = blockIdx.y * chunk_len, rows = problem.batch * problem.channels;
    const float sum = block.template scan<false>(from, from + chunk_len, nullptr, [](i64) {});
    if (block.mine && block.lane == 0) sums[blockIdx.y * rows + block.row + block.c] = sum;
    for (int s = 0; s < 4; ++s)
        if (block.has_state(s)) states[blockIdx.y * rows * problem.state + block.state_at(s)] = block.h[s];
}

// One thread a state: replaces the end states of chunks by start states.
extern "C" __global__ void carry(const float* A, const float* initial_state, const float* sums, float* states,
                                 i64 rows, i64 channels, i64 state, i64 chunks) {
    const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= rows * state) return;
    const i64 row = i / state;
    const float rate = A[row % channels * state + i % state] * LOG2E;
    float h = initial_state ? initial_state[i] : 0.f;
    for (i64 k = 0; k < chunks; ++k) {
        const i64 at = k * rows * state + i;
        const float end = k + 1 < chunks ? states[at] : 0.f;
        states[at] = h;
        if (k + 1 < chunks) h = fmaf(exp2_fast(rate * sums[k * rows + row]), h, end);
    }
}

template <typename T>
__device__ __forceinline__ void chunk(const Problem<T>& problem, const float* states, T* y, float* last_state,
                                      i64 chunk_len) {
    typedef Staged<T, 4, 4> Block;
    extern __shared__ uint4 memory[];
    Block block(problem, *(typename Block::Shared*)memory);
    const i64 from = blockIdx.y * chunk_len, to = min(from + chunk_len, problem.seq_len);
    const float* start = states + blockIdx.y * problem.batch * problem.channels * problem.state;
    for (int s = 0; s < 4; ++s)
        if (block.has_state(s)) block.h[s] = start[block.state_at(s)];
    block.template scan<true>(from, to, y, [](i64) {});
    for (int s = 0; s < 4; ++s)
        if (to == problem.seq_len && block.has_state(s)) last_state[block.state_at(s)] = block.h[s];
}

#define KERNELS(SUFFIX, T)                                                                                    \
    extern "C" __global__ void __launch_bounds__(128) summarize_##SUFFIX(                                     \
        const T* u, const T* delta, const float* A, const T* B, const float* delta_bias, float* sums,         \
        float* states, i64 batch, i64 channels, i64 seq_len, i64 state, i64 groups, int use_softplus,         \
        i64 chunk_len) {                                                                                      \
        const Problem<T> problem = {u,     delta,    A,       B,     nullptr, nullptr,     nullptr, delta_bias, \
                                    batch, channels, seq_len, state, groups,  use_softplus};                  \
        summarize<T>(problem, sums, states, chunk_len);                                                       \
    }                                                                                                         \
    extern "C" __global__ void __launch_bounds__(128) selective_##SUFFIX(                                     \
        const T* u, const T* delta, const float* A, const T* B, const T* C, const float* D, const T* z,       \
        const float* delta_bias, const float* states, T* y, float* last_state, i64 batch, i64 channels,       \
        i64 seq_len, i64 state, i64 groups, int use_softplus, i64 chunk_len) {                                \
        const Problem<T> problem = {u,     delta,    A,       B,     C,      D,           z, delta_bias,      \
                                    batch, channels, seq_len, state, groups, use_softplus};                   \
        chunk<T>(problem, states, y, last_state, chunk_len);                                                  \
    }
KERNELS(f32, float)
KERNELS(bf16, __nv_bfloat16)
