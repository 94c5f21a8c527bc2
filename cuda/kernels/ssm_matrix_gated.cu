// Idea: decays by column turn into factors of q and k, taken from the start of the chunk; what is left is linear
//       attention without decays, which the chunked kernel's matrix products do.
// Source: Yang et al., Gated Linear Attention Transformers with Hardware-Efficient Training (2024), section 3.2 and
//         equation 5 (q times, k divided by the decay so far).
// Shapes: x, y [batch, seq_len, heads, head_dim]; b, c, gates [batch, seq_len, heads, state], gates logarithms of decays;
//         initial, last [batch, heads, head_dim, state].
// Plan: as ssm_matrix_chunked; before a chunk's products each thread walks one column of the state and rewrites C and B
//       in shared memory. The state is brought to the chunk's end by one factor a column.
// Numerics: bf16 operands, f32 sums; C times and B divided by the decay are rounded to bf16 (its exponents are f32's),
//           as are scores and the state's copy for C S^T.
// Limits: bf16; state at most 128; state and head_dim multiples of 8; the gates of a column add up to -80 at least over
//         any chunk, or the inverse decay leaves f32.
#include "ssm_matrix_chunk.cuh"

extern "C" __global__ void __launch_bounds__(128, 3)
    gated_bf16(const bf16* x, const bf16* b, const bf16* c, const bf16* gates, const bf16* initial, bf16* y, bf16* last,
               i64 batch, i64 seq_len, i64 heads, i64 head_dim, i64 groups, i64 state, float scale) {
    extern __shared__ uint4 memory[];
    const Problem problem = {x, b,    c,     nullptr, nullptr, gates,    nullptr, initial,
                             y, last, batch, seq_len, heads,   head_dim, groups,  state,  scale};
    Chunks<true>(problem, memory).walk();
}
