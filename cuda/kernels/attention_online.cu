// Idea: never write the scores: walk over the keys tile by tile and rescale what was summed when the maximum rises.
// Source: Milakov & Gimelshein 2018 (online softmax); Dao et al. 2022, algorithm 1 (tiling).
// Shapes: see attention.cuh; head_dim a multiple of 4 up to 128; one kernel for f32, f16 and bf16.
// Plan: a block of 16 x 16 threads takes 64 queries of a head. A thread holds 4 rows by ROW_KEYS / 16 scores and
//   4 rows by head_dim / 16 sums in registers; Q, K, V and P tiles lie in shared memory as f32, rows padded by 4.
// Numerics: f32 multiply-adds on CUDA cores; a soft cap by tanh_of; 2^x with the scale and log2(e) folded into one
//   factor.
// Limits: bound by f32 multiply-adds and shared-memory reads; tensor cores are the next rung.
#include "attention_tile.cuh"

namespace {

constexpr int QUERIES = 64;

__device__ __forceinline__ float reduce_max_16(float x) {
    for (int offset = 8; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
    return x;
}
__device__ __forceinline__ float reduce_sum_16(float x) {
    for (int offset = 8; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
    return x;
}

template <int DIM>
__device__ void attend(const void* q, const void* k, const void* v, const int* lengths_q, const int* lengths_k, void* o,
                       float* lse, int kind, i64 seq_q, i64 seq_k, i64 heads_q, i64 heads_kv, int dim,
                       int causal, i64 window, float scale, float squeeze) {
    constexpr int KEYS = DIM > 64 ? 32 : 64, COLUMNS = KEYS / 16, SUMS = DIM / 16;
    extern __shared__ __align__(16) float shared[];
    float* q_tile = shared;
    float* k_tile = q_tile + QUERIES * (DIM + 4);
    float* v_tile = k_tile + KEYS * (DIM + 4);
    float* p_tile = v_tile + KEYS * (DIM + 4);
    const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    const i64 tiles = (seq_q + QUERIES - 1) / QUERIES;
    const i64 b = blockIdx.x / tiles / heads_q, h = blockIdx.x / tiles % heads_q;
    const int i0 = (int)(blockIdx.x % tiles) * QUERIES;
    const int queries = lengths_q[b], keys = lengths_k[b];
    const i64 k_head = (b * seq_k * heads_kv + h / (heads_q / heads_kv)) * dim;
    const i64 q_head = (b * seq_q * heads_q + h) * dim;
    const float factor = scale * LOG2_E;

    float sum[4][SUMS], max[4], total[4];
#pragma unroll
    for (int r = 0; r < 4; ++r) {
        max[r] = NEG_INFINITY;
        total[r] = 0.f;
#pragma unroll
        for (int c = 0; c < SUMS; ++c) sum[r][c] = 0.f;
    }
    const int last = min(i0 + QUERIES, queries) - 1;
    const int first_key = last < i0 ? 0 : visible(i0, queries, keys, causal, (int)window).begin / KEYS * KEYS;
    const int end_key = last < i0 ? 0 : visible(last, queries, keys, causal, (int)window).end;
    load_tile<DIM, QUERIES>(q_tile, q, kind, q_head, heads_q * dim, i0, (int)seq_q, dim);
    for (int j0 = first_key; j0 < end_key; j0 += KEYS) {
        __syncthreads();
        load_tile<DIM, KEYS>(k_tile, k, kind, k_head, heads_kv * dim, j0, keys, dim);
        load_tile<DIM, KEYS>(v_tile, v, kind, k_head, heads_kv * dim, j0, keys, dim);
        __syncthreads();
        float s[4][COLUMNS];
        products<DIM, COLUMNS>(s, q_tile, k_tile, ty, tx);
        squeeze_all(s, squeeze);
#pragma unroll
        for (int r = 0; r < 4; ++r) {
            const Keys seen = visible(i0 + ty * 4 + r, queries, keys, causal, (int)window);
            float top = max[r];
#pragma unroll
            for (int c = 0; c < COLUMNS; ++c) {
                const int j = j0 + tx + 16 * c;
                s[r][c] = j >= seen.begin && j < seen.end ? s[r][c] * factor : NEG_INFINITY;
                top = fmaxf(top, s[r][c]);
            }
            top = reduce_max_16(top);
            const float base = top == NEG_INFINITY ? 0.f : top;
            const float shrink = exp2_fast(max[r] - base);
            max[r] = top;
            total[r] *= shrink;
#pragma unroll
            for (int c = 0; c < SUMS; ++c) sum[r][c] *= shrink;
#pragma unroll
            for (int c = 0; c < COLUMNS; ++c) {
                const float p = exp2_fast(s[r][c] - base);
                total[r] += p;
                p_tile[(ty * 4 + r) * (KEYS + 4) + tx + 16 * c] = p;
            }
        }
        __syncthreads();
        accumulate<DIM, KEYS>(sum, p_tile, v_tile, ty, tx);
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < 4; ++r) {
        const int i = i0 + ty * 4 + r;
        const float all = reduce_sum_16(total[r]);
        const bool blind = i >= queries || all == 0.f;
        const float inverse = blind ? 0.f : 1.f / all;
        // The rows of Q are this half warp's own, and it has read them for the last time.
#pragma unroll
        for (int c = 0; c < SUMS; ++c)
            q_tile[(ty * 4 + r) * (DIM + 4) + column<DIM>(c, tx)] = blind ? 0.f : sum[r][c] * inverse;
        if (tx == 0 && i < seq_q) lse[(b * heads_q + h) * seq_q + i] = blind ? NEG_INFINITY : max[r] * LN_2 + logf(all);
    }
    __syncthreads();
    store_tile<DIM>(q_tile, o, kind, q_head, heads_q * dim, i0, (int)seq_q, dim, QUERIES);
}

}  // namespace

#define KERNEL(DIM)                                                                                                 \
    extern "C" __global__ void __launch_bounds__(256, 2)                                                            \
        forward_d##DIM(const void* __restrict__ q, const void* __restrict__ k, const void* __restrict__ v,          \
                       const int* __restrict__ lengths_q, const int* __restrict__ lengths_k, void* __restrict__ o,  \
                       float* __restrict__ lse, int kind, i64 seq_q, i64 seq_k, i64 heads_q, i64 heads_kv, int dim, \
                       int causal, i64 window, float scale, float squeeze) {                                        \
        attend<DIM>(q, k, v, lengths_q, lengths_k, o, lse, kind, seq_q, seq_k, heads_q, heads_kv, dim, causal,      \
                    window, scale, squeeze);                                                                        \
    }
KERNEL(64)
KERNEL(128)
