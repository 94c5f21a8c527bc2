// Idea: the formulas as they stand: probabilities and score gradients of all pairs in memory, then one product each.
// Source: Dao 2023, section 3.1.2, without tiles.
// Shapes: see attention.cuh; d_o, dq as q; dk, dv as k; delta: f32 scratch [batch, heads_q, seq_q];
//   p, ds: f32 scratch [batch, heads_q, seq_q, seq_k].
// Plan: delta: one thread a row. pairs: one thread a pair. dq, dk_dv: one thread a gradient.
// Numerics: f32 throughout, expf, a soft cap by tanh_of; the scale of dq and dk is that of q·k, whatever the cap.
// Limits: the scratch is twice that of the naive forward pass.
#include "attention.cuh"

namespace {

template <typename T>
__device__ void delta(const T* d_o, const T* o, float* result, i64 batch, i64 seq_q, i64 heads_q, i64 dim) {
    const i64 row = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= batch * heads_q * seq_q) return;
    const i64 b = row / seq_q / heads_q, h = row / seq_q % heads_q, i = row % seq_q;
    const i64 at = ((b * seq_q + i) * heads_q + h) * dim;
    float sum = 0.f;
#pragma unroll 1
    for (i64 d = 0; d < dim; ++d) sum = fmaf(to_float(d_o[at + d]), to_float(o[at + d]), sum);
    result[row] = sum;
}

template <typename T>
__device__ void pairs(const T* q, const T* k, const T* v, const T* d_o, const float* lse, const float* delta, float* p,
                      float* ds, i64 batch, i64 seq_q, i64 seq_k, i64 heads_q, i64 heads_kv, i64 dim, int causal,
                      i64 window, float scale, float squeeze) {
    const i64 at = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= batch * heads_q * seq_q * seq_k) return;
    const i64 row = at / seq_k, j = at % seq_k;
    const i64 b = row / seq_q / heads_q, h = row / seq_q % heads_q, i = row % seq_q;
    const Keys seen = visible((int)i, (int)seq_q, (int)seq_k, causal, (int)window);
    if (j < seen.begin || j >= seen.end) {
        p[at] = 0.f;
        ds[at] = 0.f;
        return;
    }
    const i64 query = ((b * seq_q + i) * heads_q + h) * dim;
    const i64 key = ((b * seq_k + j) * heads_kv + h / (heads_q / heads_kv)) * dim;
    float score = 0.f, gradient = 0.f;
#pragma unroll 1
    for (i64 d = 0; d < dim; ++d) {
        score = fmaf(to_float(q[query + d]), to_float(k[key + d]), score);
        gradient = fmaf(to_float(d_o[query + d]), to_float(v[key + d]), gradient);
    }
    score = capped(score, squeeze);
    const float probability = expf(scale * score - lse[row]);
    p[at] = probability;
    ds[at] = probability * (gradient - delta[row]) * slope_at(score, squeeze);
}

template <typename T>
__device__ void dq(const float* ds, const T* k, T* result, i64 batch, i64 seq_q, i64 seq_k, i64 heads_q, i64 heads_kv,
                   i64 dim, float scale) {
    const i64 at = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= batch * heads_q * seq_q * dim) return;
    const i64 row = at / dim, d = at % dim;
    const i64 b = row / seq_q / heads_q, h = row / seq_q % heads_q, i = row % seq_q;
    const T* keys = k + (b * seq_k * heads_kv + h / (heads_q / heads_kv)) * dim + d;
    float sum = 0.f;
#pragma unroll 1
    for (i64 j = 0; j < seq_k; ++j) sum = fmaf(ds[row * seq_k + j], to_float(keys[j * heads_kv * dim]), sum);
    result[((b * seq_q + i) * heads_q + h) * dim + d] = from_float<T>(scale * sum);
}

template <typename T>
__device__ void dk_dv(const float* p, const float* ds, const T* q, const T* d_o, T* dk, T* dv, i64 batch, i64 seq_q,
                      i64 seq_k, i64 heads_q, i64 heads_kv, i64 dim, float scale) {
    const i64 at = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= batch * seq_k * heads_kv * dim) return;
    const i64 d = at % dim, head = at / dim % heads_kv, j = at / dim / heads_kv % seq_k, b = at / dim / heads_kv / seq_k;
    const i64 group = heads_q / heads_kv;
    float k_sum = 0.f, v_sum = 0.f;
#pragma unroll 1
    for (i64 h = head * group; h < (head + 1) * group; ++h)
#pragma unroll 1
        for (i64 i = 0; i < seq_q; ++i) {
            const i64 pair = ((b * heads_q + h) * seq_q + i) * seq_k + j;
            const i64 query = ((b * seq_q + i) * heads_q + h) * dim + d;
            k_sum = fmaf(ds[pair], to_float(q[query]), k_sum);
            v_sum = fmaf(p[pair], to_float(d_o[query]), v_sum);
        }
    dk[at] = from_float<T>(scale * k_sum);
    dv[at] = from_float<T>(v_sum);
}

}  // namespace

#define KERNELS(suffix, T)                                                                                            \
    extern "C" __global__ void delta_##suffix(const T* d_o, const T* o, float* result, i64 batch, i64 seq_q,          \
                                              i64 heads_q, i64 dim) {                                                 \
        delta<T>(d_o, o, result, batch, seq_q, heads_q, dim);                                                         \
    }                                                                                                                 \
    extern "C" __global__ void pairs_##suffix(const T* q, const T* k, const T* v, const T* d_o, const float* lse,     \
                                              const float* delta, float* p, float* ds, i64 batch, i64 seq_q,          \
                                              i64 seq_k, i64 heads_q, i64 heads_kv, i64 dim, int causal, i64 window,  \
                                              float scale, float squeeze) {                                           \
        pairs<T>(q, k, v, d_o, lse, delta, p, ds, batch, seq_q, seq_k, heads_q, heads_kv, dim, causal, window,        \
                 scale, squeeze);                                                                                     \
    }                                                                                                                 \
    extern "C" __global__ void dq_##suffix(const float* ds, const T* k, T* result, i64 batch, i64 seq_q, i64 seq_k,   \
                                           i64 heads_q, i64 heads_kv, i64 dim, float scale) {                         \
        dq<T>(ds, k, result, batch, seq_q, seq_k, heads_q, heads_kv, dim, scale);                                     \
    }                                                                                                                 \
    extern "C" __global__ void dk_dv_##suffix(const float* p, const float* ds, const T* q, const T* d_o, T* dk,       \
                                              T* dv, i64 batch, i64 seq_q, i64 seq_k, i64 heads_q, i64 heads_kv,      \
                                              i64 dim, float scale) {                                                 \
        dk_dv<T>(p, ds, q, d_o, dk, dv, batch, seq_q, seq_k, heads_q, heads_kv, dim, scale);                          \
    }
KERNELS(f32, float)
KERNELS(f16, __half)
KERNELS(bf16, __nv_bfloat16)
