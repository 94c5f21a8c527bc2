// Idea: recompute the probabilities of each tile from the log-sum-exp; one kernel owns queries, the other keys, so
//   that every gradient is summed by one thread in one order and nothing is added atomically.
// Source: Dao 2023, algorithm 2 (FlashAttention-2 backward), with the sum over keys for dQ in a kernel of its own.
// Shapes: see attention.cuh; d_o, dq as q; dk, dv as k; delta: f32 scratch [batch, heads_q, seq_q]; head_dim a
//   multiple of 4 up to 128; one kernel for f32, f16 and bf16.
// Plan: delta: a warp a row. dq: 16 x 16 threads take 64 queries and walk over tiles of 32 keys. dk_dv: they take 64
//   keys and walk over tiles of 32 queries of every head of the group. Tiles lie in shared memory as f32.
// Numerics: f32 multiply-adds on CUDA cores; a soft cap by tanh_of; 2^x with the scale and log2(e) folded into one
//   factor.
// Limits: scores and dP are computed twice, once in each kernel; bound by f32 multiply-adds.
#include "attention_tile.cuh"

namespace {

constexpr int OWN = 64, OTHER = 32, STRIDE = OTHER + 4;

struct Sizes {
    i64 seq_q, seq_k, heads_q, heads_kv;
    int dim, causal, window;
    float scale, squeeze, slope;  // slope: of a score by q·k, where it is not squeezed

    __device__ __forceinline__ Keys seen_by(int i) const { return visible(i, (int)seq_q, (int)seq_k, causal, window); }
};

template <int DIM>
__device__ void query_gradient(const void* q, const void* k, const void* v, const void* d_o, const float* lse,
                               const float* delta, void* dq, int kind, Sizes n) {
    extern __shared__ __align__(16) float shared[];
    float* q_tile = shared;
    float* d_o_tile = q_tile + OWN * (DIM + 4);
    float* k_tile = d_o_tile + OWN * (DIM + 4);
    float* v_tile = k_tile + OTHER * (DIM + 4);
    float* ds_tile = v_tile + OTHER * (DIM + 4);
    const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    const i64 tiles = (n.seq_q + OWN - 1) / OWN, bh = blockIdx.x / tiles, b = bh / n.heads_q, h = bh % n.heads_q;
    const int i0 = (int)(blockIdx.x % tiles) * OWN;
    const i64 q_head = (b * n.seq_q * n.heads_q + h) * n.dim, q_stride = n.heads_q * n.dim;
    const i64 k_head = (b * n.seq_k * n.heads_kv + h / (n.heads_q / n.heads_kv)) * n.dim, k_stride = n.heads_kv * n.dim;

    float base[4], row_delta[4], sum[4][DIM / 16];
    Keys seen[4];
#pragma unroll
    for (int r = 0; r < 4; ++r) {
        // Rows behind the last query repeat it; they are not stored.
        const int i = min(i0 + ty * 4 + r, (int)n.seq_q - 1);
        seen[r] = n.seen_by(i);
        base[r] = lse[bh * n.seq_q + i] * LOG2_E;
        row_delta[r] = delta[bh * n.seq_q + i];
#pragma unroll
        for (int c = 0; c < DIM / 16; ++c) sum[r][c] = 0.f;
    }
    load_tile<DIM, OWN>(q_tile, q, kind, q_head, q_stride, i0, (int)n.seq_q, n.dim);
    load_tile<DIM, OWN>(d_o_tile, d_o, kind, q_head, q_stride, i0, (int)n.seq_q, n.dim);
    const int begin = n.seen_by(i0).begin / OTHER * OTHER, end = n.seen_by(min(i0 + OWN, (int)n.seq_q) - 1).end;
#pragma unroll 1
    for (int j0 = begin; j0 < end; j0 += OTHER) {
        __syncthreads();
        load_tile<DIM, OTHER>(k_tile, k, kind, k_head, k_stride, j0, (int)n.seq_k, n.dim);
        load_tile<DIM, OTHER>(v_tile, v, kind, k_head, k_stride, j0, (int)n.seq_k, n.dim);
        __syncthreads();
        float s[4][2], dp[4][2];
        products<DIM, 2>(s, q_tile, k_tile, ty, tx);
        products<DIM, 2>(dp, d_o_tile, v_tile, ty, tx);
        squeeze_all(s, n.squeeze);
#pragma unroll
        for (int r = 0; r < 4; ++r)
#pragma unroll
            for (int c = 0; c < 2; ++c) {
                const int j = j0 + tx + 16 * c;
                const bool visible = j >= seen[r].begin && j < seen[r].end;
                const float p = visible ? exp2_fast(fmaf(s[r][c], n.scale * LOG2_E, -base[r])) : 0.f;
                ds_tile[(ty * 4 + r) * STRIDE + tx + 16 * c] =
                    p * (dp[r][c] - row_delta[r]) * slope_at(s[r][c], n.squeeze);
            }
        __syncthreads();
        accumulate<DIM, OTHER>(sum, ds_tile, k_tile, ty, tx);
    }
    __syncthreads();
    put_sums<DIM>(q_tile, sum, n.slope, ty, tx);
    __syncthreads();
    store_tile<DIM>(q_tile, dq, kind, q_head, q_stride, i0, (int)n.seq_q, n.dim, OWN);
}

template <int DIM>
__device__ void key_gradients(const void* q, const void* k, const void* v, const void* d_o, const float* lse,
                              const float* delta, void* dk, void* dv, int kind, Sizes n) {
    extern __shared__ __align__(16) float shared[];
    float* k_tile = shared;
    float* v_tile = k_tile + OWN * (DIM + 4);
    float* q_tile = v_tile + OWN * (DIM + 4);
    float* d_o_tile = q_tile + OTHER * (DIM + 4);
    float* p_tile = d_o_tile + OTHER * (DIM + 4);
    float* ds_tile = p_tile + OWN * STRIDE;
    const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    const i64 tiles = (n.seq_k + OWN - 1) / OWN, group = n.heads_q / n.heads_kv;
    const i64 head = blockIdx.x / tiles % n.heads_kv, b = blockIdx.x / tiles / n.heads_kv;
    const int j0 = (int)(blockIdx.x % tiles) * OWN;
    const i64 k_head = (b * n.seq_k * n.heads_kv + head) * n.dim, k_stride = n.heads_kv * n.dim;

    float k_sum[4][DIM / 16], v_sum[4][DIM / 16];
#pragma unroll
    for (int r = 0; r < 4; ++r)
#pragma unroll
        for (int c = 0; c < DIM / 16; ++c) k_sum[r][c] = v_sum[r][c] = 0.f;
    load_tile<DIM, OWN>(k_tile, k, kind, k_head, k_stride, j0, (int)n.seq_k, n.dim);
    load_tile<DIM, OWN>(v_tile, v, kind, k_head, k_stride, j0, (int)n.seq_k, n.dim);
#pragma unroll 1
    for (i64 h = head * group; h < (head + 1) * group; ++h) {
        const i64 q_head = (b * n.seq_q * n.heads_q + h) * n.dim, row = (b * n.heads_q + h) * n.seq_q;
#pragma unroll 1
        for (int i0 = 0; i0 < n.seq_q; i0 += OTHER) {
            // What a query sees never moves back, so a tile of queries matters unless its last query ends before
            // these keys or its first begins behind them.
            if (n.seen_by(min(i0 + OTHER, (int)n.seq_q) - 1).end <= j0 || n.seen_by(i0).begin >= j0 + OWN) continue;
            __syncthreads();
            load_tile<DIM, OTHER>(q_tile, q, kind, q_head, n.heads_q * n.dim, i0, (int)n.seq_q, n.dim);
            load_tile<DIM, OTHER>(d_o_tile, d_o, kind, q_head, n.heads_q * n.dim, i0, (int)n.seq_q, n.dim);
            __syncthreads();
            float s[4][2], dp[4][2];
            products<DIM, 2>(s, k_tile, q_tile, ty, tx);
            products<DIM, 2>(dp, v_tile, d_o_tile, ty, tx);
            squeeze_all(s, n.squeeze);
#pragma unroll
            for (int c = 0; c < 2; ++c) {
                const int i = min(i0 + tx + 16 * c, (int)n.seq_q - 1);
                const bool real = i0 + tx + 16 * c < n.seq_q;
                const Keys seen = n.seen_by(i);
                const float base = lse[row + i] * LOG2_E, query_delta = delta[row + i];
#pragma unroll
                for (int r = 0; r < 4; ++r) {
                    const int j = j0 + ty * 4 + r;
                    const bool visible = real && j >= seen.begin && j < seen.end;
                    const float p = visible ? exp2_fast(fmaf(s[r][c], n.scale * LOG2_E, -base)) : 0.f;
                    p_tile[(ty * 4 + r) * STRIDE + tx + 16 * c] = p;
                    ds_tile[(ty * 4 + r) * STRIDE + tx + 16 * c] =
                        p * (dp[r][c] - query_delta) * slope_at(s[r][c], n.squeeze);
                }
            }
            __syncthreads();
            accumulate<DIM, OTHER>(v_sum, p_tile, d_o_tile, ty, tx);
            accumulate<DIM, OTHER>(k_sum, ds_tile, q_tile, ty, tx);
        }
    }
    __syncthreads();
    put_sums<DIM>(k_tile, k_sum, n.slope, ty, tx);
    put_sums<DIM>(v_tile, v_sum, 1.f, ty, tx);
    __syncthreads();
    store_tile<DIM>(k_tile, dk, kind, k_head, k_stride, j0, (int)n.seq_k, n.dim, OWN);
    store_tile<DIM>(v_tile, dv, kind, k_head, k_stride, j0, (int)n.seq_k, n.dim, OWN);
}

}  // namespace

// delta_i = do_i * o_i, a warp a row; head_dim is a multiple of 4.
extern "C" __global__ void __launch_bounds__(256)
    delta(const void* __restrict__ d_o, const void* __restrict__ o, float* __restrict__ result, int kind, i64 batch,
          i64 seq_q, i64 heads_q, i64 dim) {
    const i64 row = (i64)blockIdx.x * 8 + threadIdx.x / 32;
    if (row >= batch * heads_q * seq_q) return;
    const i64 b = row / seq_q / heads_q, h = row / seq_q % heads_q, i = row % seq_q;
    float sum = 0.f;
#pragma unroll 1
    for (i64 d = threadIdx.x % 32 * 4; d < dim; d += 128) {
        const i64 at = ((b * seq_q + i) * heads_q + h) * dim + d;
        const float4 x = load_four(d_o, kind, at), y = load_four(o, kind, at);
        sum += x.x * y.x + x.y * y.y + x.z * y.z + x.w * y.w;
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) result[row] = sum;
}

#define KERNELS(DIM)                                                                                                \
    extern "C" __global__ void __launch_bounds__(256, 2)                                                            \
        dq_d##DIM(const void* __restrict__ q, const void* __restrict__ k, const void* __restrict__ v,               \
                  const void* __restrict__ d_o, const float* __restrict__ lse, const float* __restrict__ delta,     \
                  void* __restrict__ dq, int kind, i64 seq_q, i64 seq_k, i64 heads_q, i64 heads_kv, int dim,        \
                  int causal, i64 window, float scale, float squeeze, float slope) {                                \
        query_gradient<DIM>(q, k, v, d_o, lse, delta, dq, kind,                                                     \
                            {seq_q, seq_k, heads_q, heads_kv, dim, causal, (int)window, scale, squeeze, slope});    \
    }                                                                                                               \
    extern "C" __global__ void __launch_bounds__(256, 2)                                                            \
        dk_dv_d##DIM(const void* __restrict__ q, const void* __restrict__ k, const void* __restrict__ v,            \
                     const void* __restrict__ d_o, const float* __restrict__ lse, const float* __restrict__ delta,  \
                     void* __restrict__ dk, void* __restrict__ dv, int kind, i64 seq_q, i64 seq_k, i64 heads_q,     \
                     i64 heads_kv, int dim, int causal, i64 window, float scale, float squeeze, float slope) {      \
        key_gradients<DIM>(q, k, v, d_o, lse, delta, dk, dv, kind,                                                  \
                           {seq_q, seq_k, heads_q, heads_kv, dim, causal, (int)window, scale, squeeze, slope});     \
    }
KERNELS(64)
KERNELS(128)
