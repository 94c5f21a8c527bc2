// Idea: a thread keeps all 16 states of a channel in registers and walks through time; the block stages
//       tiles of the inputs in shared memory, so that memory is read in rows and arithmetic waits for none.
// Source: Gu and Dao, Mamba (2023), section 3.3.2 for states that never reach memory; the staging is ours.
// Shapes: u, delta, z, y [batch, channels, seq_len]; A [channels, state]; B, C [batch, groups, state, seq_len];
//         D, delta_bias [channels]; initial_state, last_state [batch, channels, state].
// Plan: a block of 128 threads takes 128 channels of one group. Tiles of 32 steps, double-buffered by
//       cp.async. B and C stand in shared memory by time step, read as broadcasts. y replaces u and
//       leaves in rows.
// Numerics: f32; ex2.approx for the decay; the sum of C*h in two chains.
// Limits: state up to 16; f32 and bf16. No work is spread over time, so few channels leave the device idle.
#include "ssm_selective_staged.cuh"

STAGED_KERNEL(f32, float, 16, 1)
STAGED_KERNEL(bf16, __nv_bfloat16, 16, 1)
