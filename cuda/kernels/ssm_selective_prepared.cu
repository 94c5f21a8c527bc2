// Idea: what an element needs beside its channel's states (step size, skip, gate) is computed once, four steps a
//       thread, before and after the scan of a tile; the scan itself is left with nothing but states.
// Source: Gu and Dao, Mamba (2023), section 3.3.2 for states that never reach memory; the split of work is ours.
// Shapes: u, delta, z, y [batch, channels, seq_len]; A [channels, state]; B, C [batch, groups, state, seq_len];
//         D, delta_bias [channels]; initial_state, last_state [batch, channels, state].
// Plan: a block of 4 warps takes 32 channels of one group, a warp 8 of them: it waits for others only where B and C
//       are shared. Tiles of 32 steps: each thread turns 8 elements of delta and u into step sizes and what enters
//       the states; then four threads a channel scan with four states each, the threads of a part of the states
//       side by side, so that they read B and C as broadcasts; four sums of y leave in three shuffles; then each
//       thread skips, gates and writes its 8 elements. Tiles are double-buffered by cp.async.
// Numerics: f32; ex2.approx for the decay; the sum of C*h in order in a thread, then over the threads.
// Limits: state up to 16; f32 and bf16. No work is spread over time.
#include "ssm_selective_prepared.cuh"

extern "C" __global__ void __launch_bounds__(128, 4)
    selective(const void* u, const void* delta, const float* A, const void* B, const void* C, const float* D,
              const void* z, const float* delta_bias, const float* initial_state, void* y, float* last_state,
              i64 batch, i64 channels, i64 seq_len, i64 state, i64 groups, int use_softplus, int dtype) {
    const Problem problem = {u,     delta,    A,       B,     C,      D,            z,     delta_bias,
                             batch, channels, seq_len, state, groups, use_softplus, dtype};
    typedef Scan<true> Block;
    extern __shared__ uint4 memory[];
    Block block(problem, *(Block::Shared*)memory);
    const auto& rows = block.rows;
#pragma unroll
    for (int s = 0; s < 4; ++s)
        if (initial_state && rows.has_state(0, s)) block.h[s] = initial_state[rows.state_at(0, s)];
    block.run(y, [](i64) {});
#pragma unroll
    for (int s = 0; s < 4; ++s)
        if (rows.has_state(0, s)) last_state[rows.state_at(0, s)] = block.h[s];
}
