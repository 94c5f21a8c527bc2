// Idea: within a chunk of 64 steps the recurrence is a masked matrix product, which tensor cores do; between chunks only
//       the state is handed on, and it never leaves the registers of the block that walks the chunks.
// Source: Dao and Gu, Transformers are SSMs (2024), section 6 (the block decomposition); Sun et al., Retentive Network
//         (2023), section 2.1 (chunkwise form). Keeping the state as the accumulator of one product and the operand of
//         the next is FlashAttention-2's reuse of its scores, here along the sequence.
// Shapes: x, y [batch, seq_len, heads, head_dim]; b, c [batch, seq_len, groups, state]; dt [batch, seq_len, heads] or
//         null for 1; rate [heads], logarithm of the decay for dt = 1; d [heads] or null; initial, last [batch, heads,
//         head_dim, state].
// Plan: a block has one sequence, one head and 64 of its channels; each of 4 warps keeps 16 rows of the state, all 128
//       wide. A chunk: scores C B^T, one 16-row strip a warp, masked and decayed into shared memory;
//       y = decay * (C S^T) + scores x; S = decay * S + (weighted x)^T B. Layouts meet without shuffles: an accumulator
//       of the state is the B operand of C S^T, and one transposed load of x serves both its products.
// Numerics: bf16 operands, f32 sums; the carried state is f32, its copy for C S^T, the scores and the weighted x are
//           rounded to bf16.
// Limits: bf16; state at most 128; state and head_dim multiples of 8; batch*heads*head_dim/64 blocks must fill the device.
#include "ssm_matrix_chunk.cuh"

extern "C" __global__ void __launch_bounds__(128, 4)
    chunked_bf16(const bf16* x, const bf16* b, const bf16* c, const float* dt, const float* rate, const float* d,
                 const bf16* initial, bf16* y, bf16* last, i64 batch, i64 seq_len, i64 heads, i64 head_dim, i64 groups,
                 i64 state, float scale) {
    extern __shared__ uint4 memory[];
    const Problem problem = {x, b,    c,     dt,      rate,  nullptr,  d,      initial,
                             y, last, batch, seq_len, heads, head_dim, groups, state,  scale};
    Chunks<false>(problem, memory).walk();
}
