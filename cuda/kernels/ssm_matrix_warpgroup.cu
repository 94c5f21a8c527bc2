// Idea: as ssm_matrix_chunked.cu, transposed: a warpgroup computes y^T, so that what lives in registers (the state, x^T) is
//       always the first operand of its products, and all that is second (C, B, scores) is read from shared memory by
//       the tensor cores themselves, once a product and not once a warp.
// Source: as ssm_matrix_chunked.cu; PTX ISA, "Asynchronous Warpgroup Level Matrix Instructions".
// Shapes: as ssm_matrix_chunked.cu.
// Plan: a block is one warpgroup with one sequence, one head and 64 of its channels; two blocks share a multiprocessor and
//       fill each other's waits. Shared memory: tiles of C, B and x for two chunks, the scores of one. A chunk: scores =
//       C B^T and y^T = S C^T begin together; while they run, x^T is read into registers. Scores, masked and decayed, go to
//       shared memory; y^T = decay * y^T + x^T scores^T; S = decay * S + (weighted x^T) B, during which y^T is turned
//       over in the place of the block's own x and stored. Then the chunk after next is fetched.
// Numerics: as ssm_matrix_chunked.cu.
// Limits: as ssm_matrix_chunked.cu; Hopper only. Registers (state, y^T, scores: 128 of 245) allow two blocks on a
//         multiprocessor; what is left over the 130 us of the bytes is one block's chain of waits (H200: without its stores
//         197 of 235 us, without its exponentials 212).
// Target: compute_90a
#include "hopper.cuh"
#include "ssm_matrix.cuh"

// product_of_rows<N>(c, a, b, add): c = (add ? c : 0) + A B^T, A in registers, B in shared memory with K contiguous.
template <int N> __device__ __forceinline__ void product_of_rows(float (&c)[N / 2], const u32 (&a)[4], u64 b, int add);
PRODUCT_OF_REGISTERS(product_of_rows, OF_BF16, "1, 1, 0", 64, PLACES_0_31, REGISTERS_32(0), "%32, %33, %34, %35", "%36", "%37")

namespace {

constexpr int PANEL = 64, ROW = PANEL * 2, PANEL_BYTES = CHUNK * ROW;
// A stage's tiles, the scores, four numbers a step, and the gates.
constexpr u32 B_TILE = CHUNK * STATE * 2, X_TILE = 2 * B_TILE, STAGE = X_TILE + CHUNK * WIDTH * 2, SCORES = 2 * STAGE,
              NUMBERS = SCORES + CHUNK * CHUNK * 2, GATES = NUMBERS + 4 * CHUNK * 4;

__device__ __forceinline__ void store_transposed(u32 address, const u32 (&r)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};"
                 ::"r"(address), "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
                 : "memory");
}

struct Group : Walk<PANEL, 8> {
    const u32 by_value;  // where a lane finds its warp's 16 columns of x
    u32 stage = 0;       // bytes to the tiles of this chunk

    __device__ __forceinline__ Group(const Problem& problem, uint4* shared)
        : Walk(problem, shared, NUMBERS), by_value(starts_by_value<WIDTH>(lane) ^ (u32)(warp * 32)) {
        load_state();
    }

    __device__ __forceinline__ void fetch(u32 to, int from) const {
        if (from < length) {
            copy<STATE>(to, p.c + b_at, b_stride, from, (int)p.state);
            copy<STATE>(to + B_TILE, p.b + b_at, b_stride, from, (int)p.state);
            copy<WIDTH>(to + X_TILE, p.x + x_at, x_stride, from, width);
        }
    }
    __device__ __forceinline__ void fetch_gates(int from) const {
        if (gated && from < length) copy<STATE>(GATES, p.gates + b_at, b_stride, from, (int)p.state);
    }
    // Decays since the chunk's start, after sum_decays.
    __device__ __forceinline__ void raise_decays() {
        if (warp > 0) return;
        const float2 logs = *(const float2*)(decayed + lane * 2);
        *(float2*)(kept + CHUNK + lane * 2) = make_float2(exp2_fast(logs.x), exp2_fast(logs.y));
    }

    // Columns k to k + 15 of this chunk's C or B as rows.
    __device__ __forceinline__ u64 across(u32 tile, int k) const {
        return tile_descriptor(base + stage + tile + k / PANEL * PANEL_BYTES + k % PANEL * 2, 16);
    }
    __device__ __forceinline__ void begin_scores(float (&scores)[32]) const {
#pragma unroll
        for (int k = 0; k < STATE; k += 16) product<CHUNK>(scores, across(0, k), across(B_TILE, k), k > 0);
    }
    // The state as bf16: what the accumulator of one product holds is where the next takes its first operand from.
    __device__ __forceinline__ void pack_state(u32 (&rows)[STATE / 16][4]) const {
#pragma unroll
        for (int k = 0; k < STATE / 16; ++k)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float* const pair = carried[k * 2 + i / 2] + i % 2 * 2;
                rows[k][i] = packed(pair[0], pair[1]);
            }
    }
    __device__ __forceinline__ void begin_state(float (&sums)[32], const u32 (&rows)[STATE / 16][4]) const {
#pragma unroll
        for (int k = 0; k < STATE / 16; ++k) product_of_rows<CHUNK>(sums, rows[k], across(0, k * 16), k > 0);
    }
    // Masked and decayed, as bf16 to shared memory, rows by step.
    __device__ __forceinline__ void store_scores(const float (&scores)[32]) const {
        const int t = warp * 16 + row;
        const float low = decayed[t], high = decayed[t + 8];
        char* const to = memory + SCORES + q * 4;
#pragma unroll
        for (int n = 0; n < CHUNK / 8; ++n) {
            const int s = n * 8 + q * 2;
            float v[4] = {scores[n * 4], scores[n * 4 + 1], scores[n * 4 + 2], scores[n * 4 + 3]};
            if (!gated && n / 2 <= warp) decay_scores(v, s, low, high);
            *(u32*)(to + chunk_at<CHUNK>(t, n * 8)) = packed(s <= t ? v[0] : 0.f, s < t ? v[1] : 0.f);
            *(u32*)(to + chunk_at<CHUNK>(t + 8, n * 8)) = packed(s <= t + 8 ? v[2] : 0.f, s < t + 8 ? v[3] : 0.f);
        }
    }
    __device__ __forceinline__ void decay_sums(float (&sums)[32]) const {
        if (gated) return;
#pragma unroll
        for (int n = 0; n < CHUNK / 8; ++n) {
            const float2 by = *(const float2*)(kept + CHUNK + n * 8 + q * 2);
            sums[n * 4] *= by.x;
            sums[n * 4 + 1] *= by.y;
            sums[n * 4 + 2] *= by.x;
            sums[n * 4 + 3] *= by.y;
        }
    }
    // y = scale * sums + d * x; a warp turns its 16 channels over where its part of x was, then stores 16 bytes a lane.
    __device__ __forceinline__ void store(int from, const float (&sums)[32], const u32 (&xs)[4][4], float skip) const {
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            u32 out[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float2 x = unpacked(xs[k][i]);
                const float* const v = sums + k * 8 + i * 2;
                out[i] = packed(fmaf(skip, x.x, v[0] * p.scale), fmaf(skip, x.y, v[1] * p.scale));
            }
            store_transposed(base + stage + X_TILE + by_value + k * 16 * ROW, out);
        }
        __syncwarp();
        const int column = warp * 16 + lane / 16 * 8;
#pragma unroll
        for (int m = 0; m < 4; ++m) {
            const int t = m * 16 + lane % 16;
            const uint4 words = *(const uint4*)(memory + stage + X_TILE + chunk_at<WIDTH>(t, column));
            if (from + t < length && column < width) __stcs((uint4*)(p.y + x_at + (from + t) * x_stride + column), words);
        }
    }

    __device__ __forceinline__ void chunk(int from, float skip) {
        float scores[32], sums[32];
        u32 rows[STATE / 16][4];
        pack_state(rows);
        product_begin();
        begin_scores(scores);
        product_commit();
        begin_state(sums, rows);
        product_commit();
        u32 xs[4][4];
#pragma unroll
        for (int k = 0; k < 4; ++k) load_transposed(xs[k], base + stage + X_TILE + by_value + k * 16 * ROW);
        product_wait<1>();
        product_done(scores);
        store_scores(scores);
        order_for_engines();
        __syncthreads();
        product_wait<0>();
        product_done(sums);
        decay_sums(sums);
        if (!gated) decay_all(exp2_fast(decayed[CHUNK - 1]));
        u32 weighed[4][4];
#pragma unroll
        for (int k = 0; k < 4; ++k) {
#pragma unroll
            for (int i = 0; i < 4; ++i) weighed[k][i] = xs[k][i];
            weigh(weighed[k], k);
        }
        product_begin();
#pragma unroll
        for (int k = 0; k < 4; ++k) product_of_rows<CHUNK>(sums, xs[k], tile_descriptor(base + SCORES + k * 32, 16), 1);
        product_commit();
        float(&state)[64] = *(float(*)[64])carried;
#pragma unroll
        for (int k = 0; k < 4; ++k)
            product<STATE>(state, weighed[k], tile_descriptor(base + stage + B_TILE + k * 16 * ROW, PANEL_BYTES));
        product_commit();
        product_wait<1>();
        product_done(sums);
        store(from, sums, xs, skip);
        product_wait<0>();
        product_done(state);
        if (gated) decay_columns();
    }

    __device__ __forceinline__ void walk() {
        const float skip = Walk::skip();
        fetch(0, 0);
        fetch_gates(0);
        copies_commit();
        fetch(STAGE, CHUNK);
        copies_commit();
        fetch_steps(0);
#pragma unroll 1
        for (int from = 0; from < length; from += CHUNK) {
            if (!gated) {
                sum_decays();
                raise_decays();
                fetch_steps(from + CHUNK);
            }
            copies_wait<1>();
            order_for_engines();
            __syncthreads();
            if (gated) {
                apply_gates(stage, stage + B_TILE, GATES);
                order_for_engines();
                __syncthreads();
                fetch_gates(from + CHUNK);
                copies_commit();
            }
            chunk(from, skip);
            __syncthreads();
            fetch(stage, from + 2 * CHUNK);
            copies_commit();
            stage = STAGE - stage;
        }
        store_state();
    }
};

}  // namespace

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    warpgroup_bf16(const bf16* x, const bf16* b, const bf16* c, const float* dt, const float* rate, const bf16* gates,
                   const float* d, const bf16* initial, bf16* y, bf16* last, i64 batch, i64 seq_len, i64 heads,
                   i64 head_dim, i64 groups, i64 state, float scale) {
    extern __shared__ __align__(1024) uint4 memory[];
    const Problem problem = {x, b,    c,     dt,      rate,  gates,    d,      initial,
                             y, last, batch, seq_len, heads, head_dim, groups, state,  scale};
    Group(problem, memory).walk();
}
