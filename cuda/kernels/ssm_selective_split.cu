// Idea: four threads share a channel, four states each: as staged, with four times the threads to hide latency.
// Source: Gu and Dao, Mamba (2023), section 3.3.2 for states that never reach memory; the staging is ours.
// Shapes: u, delta, z, y [batch, channels, seq_len]; A [channels, state]; B, C [batch, groups, state, seq_len];
//         D, delta_bias [channels]; initial_state, last_state [batch, channels, state].
// Plan: a block of 128 threads takes 32 channels of one group. Of every four steps each of the four threads
//       computes one step size and one gate; shuffles hand the step sizes round and sum y.
// Numerics: f32; ex2.approx for the decay; the sum of C*h in two chains a thread, then over the threads.
// Limits: state up to 16. No work is spread over time.
#include "ssm_selective_staged.cuh"

STAGED_KERNEL(f32, float, 4, 4)
STAGED_KERNEL(f16, __half, 4, 4)
STAGED_KERNEL(bf16, __nv_bfloat16, 4, 4)
