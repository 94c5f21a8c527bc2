// Idea: within a chunk of 64 steps the recurrence is a masked matrix product, which tensor cores do; between chunks only
//       the state is handed on, and it never leaves the registers of the block that walks the chunks.
// Source: Dao and Gu, Transformers are SSMs (2024), section 6 (the block decomposition); Sun et al., Retentive Network
//         (2023), section 2.1 (chunkwise form); for gates Yang et al., Gated Linear Attention Transformers with
//         Hardware-Efficient Training (2024), equation 5. Keeping the state as the accumulator of one product and the operand of
//         the next is FlashAttention-2's reuse of its scores, here along the sequence.
// Shapes: x, y [batch, seq_len, heads, head_dim]; b, c [batch, seq_len, groups, state]; dt [batch, seq_len, heads] or
//         null for 1; rate [heads], logarithm of the decay for dt = 1; gates [batch, seq_len, heads, state], logarithms
//         of decays, or null; d [heads] or null; initial, last [batch, heads, head_dim, state].
// Plan: a block has one sequence, one head and 64 of its channels; each of 4 warps keeps 16 rows of the state, all 128
//       wide. A chunk: scores C B^T, one 16-row strip a warp, masked and decayed into shared memory;
//       y = decay * (C S^T) + scores x; S = decay * S + (weighted x)^T B. Layouts meet without shuffles: an accumulator
//       of the state is the B operand of C S^T, and one transposed load of x serves both its products.
//       With gates each thread first walks two columns of half a chunk and multiplies C by its decay from the chunk's
//       start, B by the inverse; the rest is then as without decays, but for a factor a column that brings the state to
//       the end.
// Numerics: bf16 operands, f32 sums; the carried state is f32, its copy for C S^T, the scores and the weighted x are
//           rounded to bf16; with gates C and B once more.
// Limits: bf16; state at most 128; state and head_dim multiples of 8; the gates of a column add up to -80 at least over
//         any chunk, or the inverse decay leaves f32; batch*heads*head_dim/64 blocks must fill the device. Shared memory
//         binds (ncu, H200: 69 to 74 % busy): each of 4 warps reads all of C and B. Three blocks on a multiprocessor instead of four
//         spill nothing and are a quarter slower for SSD (737 us, not 581), though a fifth faster for retention (367, not 455).
#include "ssm_matrix.cuh"

// A block's shared memory: tiles of C, B and x, the scores, some numbers, and the gates.
struct Chunks : Walk<STATE, 2> {
    static constexpr u32 C_TILE = 0, B_TILE = CHUNK * STATE * 2, X_TILE = 2 * B_TILE,
                         SCORES = X_TILE + CHUNK * WIDTH * 2, NUMBERS = SCORES + CHUNK * CHUNK * 2,
                         GATES = NUMBERS + 3 * CHUNK * 4;

    const u32 wide_by_row, wide_by_value, by_row, by_value;

    __device__ __forceinline__ Chunks(const Problem& problem, uint4* shared)
        : Walk(problem, shared, NUMBERS), wide_by_row(starts_by_row<STATE>(lane)),
          wide_by_value(starts_by_value<STATE>(lane)), by_row(starts_by_row<WIDTH>(lane)),
          by_value(starts_by_value<WIDTH>(lane)) {
        load_state();
    }

    __device__ __forceinline__ void copy_c(int from) const {
        if (from < length) copy<STATE>(C_TILE, p.c + b_at, b_stride, from, (int)p.state);
    }
    __device__ __forceinline__ void copy_rest(int from) {
        if (from < length) {
            copy<STATE>(B_TILE, p.b + b_at, b_stride, from, (int)p.state);
            copy<WIDTH>(X_TILE, p.x + x_at, x_stride, from, width);
            if (gated) copy<STATE>(GATES, p.gates + b_at, b_stride, from, (int)p.state);
        }
        copies_commit();
        fetch_steps(from);
    }

    // C B^T of a strip of 16 steps against all before, masked and decayed, as bf16 in shared memory.
    __device__ __forceinline__ void make_scores(int strip) const {
        float scores[CHUNK / 8][4] = {};
#pragma unroll 1
        for (int k = 0; k < STATE / 16; ++k) {
            u32 rows[4];
            load_matrices(rows, fragment<STATE>(base + C_TILE, wide_by_row, strip * 16, k * 16));
#pragma unroll
            for (int n = 0; n < CHUNK / 16; ++n) {
                if (n > strip) break;
                u32 columns[4];
                load_matrices(columns, fragment<STATE>(base + B_TILE, wide_by_value, n * 16, k * 16));
                mma<bf16>(scores[n * 2], rows, columns[0], columns[1]);
                mma<bf16>(scores[n * 2 + 1], rows, columns[2], columns[3]);
            }
        }
        const int t = strip * 16 + row;
        const float low = decayed[t], high = decayed[t + 8];
#pragma unroll
        for (int n = 0; n < CHUNK / 8; ++n) {
            if (n / 2 > strip) break;
            const int s = n * 8 + q * 2;
            float(&v)[4] = scores[n];
            if (!gated) decay_scores(v, s, low, high);
            char* const to = memory + SCORES + chunk_at<CHUNK>(t, n * 8) + q * 4;
            *(u32*)to = packed(s <= t ? v[0] : 0.f, s < t ? v[1] : 0.f);
            *(u32*)(to + 8 * CHUNK * 2) = packed(s <= t + 8 ? v[2] : 0.f, s < t + 8 ? v[3] : 0.f);
        }
    }
    // sums = C S^T, decayed to each step: an accumulator of the state is the B operand as it stands.
    __device__ __forceinline__ void multiply_state(float (&sums)[4][2][4]) const {
#pragma unroll
        for (int k = 0; k < STATE / 16; ++k) {
            const float(&low)[4] = carried[k * 2];
            const float(&high)[4] = carried[k * 2 + 1];
            const u32 b0 = packed(low[0], low[1]), b1 = packed(high[0], high[1]);
            const u32 b2 = packed(low[2], low[3]), b3 = packed(high[2], high[3]);
#pragma unroll
            for (int m = 0; m < 4; ++m) {
                u32 rows[4];
                load_matrices(rows, fragment<STATE>(base + C_TILE, wide_by_row, m * 16, k * 16));
                mma<bf16>(sums[m][0], rows, b0, b1);
                mma<bf16>(sums[m][1], rows, b2, b3);
            }
        }
        if (gated) return;
#pragma unroll
        for (int m = 0; m < 4; ++m) {
            const float low = exp2_fast(decayed[m * 16 + row]), high = exp2_fast(decayed[m * 16 + row + 8]);
#pragma unroll
            for (int n = 0; n < 2; ++n)
#pragma unroll
                for (int i = 0; i < 4; ++i) sums[m][n][i] *= i < 2 ? low : high;
        }
    }
    // sums += scores * x.
    __device__ __forceinline__ void multiply_scores(float (&sums)[4][2][4]) const {
#pragma unroll 1
        for (int k = 0; k < 4; ++k) {
            u32 xs[4];
            load_transposed(xs, fragment<WIDTH>(base + X_TILE, by_value, k * 16, warp * 16));
#pragma unroll
            for (int m = 0; m < 4; ++m) {
                if (m < k) continue;
                u32 rows[4];
                load_matrices(rows, fragment<CHUNK>(base + SCORES, by_row, m * 16, k * 16));
                mma<bf16>(sums[m][0], rows, xs[0], xs[2]);
                mma<bf16>(sums[m][1], rows, xs[1], xs[3]);
            }
        }
    }
    // y = scale * sums + d * x, 16 bytes a lane.
    __device__ __forceinline__ void store(int from, const float (&sums)[4][2][4], float skip) const {
#pragma unroll
        for (int m = 0; m < 4; ++m) {
            u32 out[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int t = m * 16 + row + i / 2 * 8;
                const u32 at = X_TILE + chunk_at<WIDTH>(t, warp * 16 + i % 2 * 8) + q * 4;
                const float2 x = unpacked(*(const u32*)(memory + at));
                const float* const v = sums[m][i % 2] + i / 2 * 2;
                out[i] = packed(fmaf(skip, x.x, v[0] * p.scale), fmaf(skip, x.y, v[1] * p.scale));
            }
            transpose_quad(out, lane);
            const int t = from + m * 16 + row + q / 2 * 8, column = warp * 16 + q % 2 * 8;
            if (t < length && column < width) __stcs((uint4*)(p.y + x_at + t * x_stride + column), make_uint4(out[0], out[1], out[2], out[3]));
        }
    }
    // The state after the chunk: the transposed load of x that served as B operand above is the A operand here.
    __device__ __forceinline__ void advance() {
        if (!gated) decay_all(exp2_fast(decayed[CHUNK - 1]));
#pragma unroll 1
        for (int k = 0; k < 4; ++k) {
            u32 xs[4];
            load_transposed(xs, fragment<WIDTH>(base + X_TILE, by_value, k * 16, warp * 16));
            weigh(xs, k);
#pragma unroll
            for (int n = 0; n < STATE / 16; ++n) {
                u32 columns[4];
                load_transposed(columns, fragment<STATE>(base + B_TILE, wide_by_value, k * 16, n * 16));
                mma<bf16>(carried[n * 2], xs, columns[0], columns[2]);
                mma<bf16>(carried[n * 2 + 1], xs, columns[1], columns[3]);
            }
        }
        if (gated) decay_columns();
    }
    __device__ __forceinline__ void walk() {
        const float skip = Walk::skip();
        copy_c(0);
        copy_rest(0);
#pragma unroll 1
        for (int from = 0; from < length; from += CHUNK) {
            if (!gated) sum_decays();
            copies_wait<0>();
            __syncthreads();
            if (gated) {
                apply_gates(C_TILE, B_TILE, GATES);
                __syncthreads();
            }
            // Strips take turns, for the later ones are longer.
            make_scores((warp + blockIdx.x + from / CHUNK) % 4);
            float sums[4][2][4] = {};
            multiply_state(sums);
            __syncthreads();
            copy_c(from + CHUNK);
            multiply_scores(sums);
            store(from, sums, skip);
            advance();
            __syncthreads();
            copy_rest(from + CHUNK);
        }
        store_state();
    }
};

extern "C" __global__ void __launch_bounds__(THREADS, 4)
    chunked_bf16(const bf16* x, const bf16* b, const bf16* c, const float* dt, const float* rate, const bf16* gates,
                 const float* d, const bf16* initial, bf16* y, bf16* last, i64 batch, i64 seq_len, i64 heads,
                 i64 head_dim, i64 groups, i64 state, float scale) {
    extern __shared__ uint4 memory[];
    const Problem problem = {x, b,    c,     dt,      rate,  gates,    d,      initial,
                             y, last, batch, seq_len, heads, head_dim, groups, state,  scale};
    Chunks(problem, memory).walk();
}
