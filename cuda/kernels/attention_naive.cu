// Idea: the formula as it stands: all scores in memory, then a softmax of each row, then the product with V.
// Source: Vaswani et al. 2017, equation 1.
// Shapes: see attention.cuh; scores: f32 scratch [batch, heads_q, seq_q, seq_k].
// Plan: scores: one thread a query-key pair. softmax: one block a row, in place. product: one thread an output.
// Numerics: f32 throughout, expf, soft cap by tanh_of, division by the row's sum at the end.
// Limits: the scratch grows with seq_q x seq_k; rows are read once per pair and only caches make that bearable.
#include "attention_rows.cuh"

namespace {

template <typename T>
__device__ void scores(const T* q, const T* k, const int* lengths_q, const int* lengths_k, float* s, i64 batch,
                       i64 seq_q, i64 seq_k, i64 heads_q, i64 heads_kv, i64 dim, int causal, i64 window, float scale,
                       float squeeze) {
    const i64 at = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= batch * heads_q * seq_q * seq_k) return;
    const Row r = row_of(at / seq_k, heads_q, seq_q);
    const i64 j = at % seq_k;
    const Keys keys = keys_of(r, lengths_q, lengths_k, causal, window);
    if (j < keys.begin || j >= keys.end) {
        s[at] = NEG_INFINITY;
        return;
    }
    const T* query = q + ((r.b * seq_q + r.i) * heads_q + r.h) * dim;
    const T* key = k + ((r.b * seq_k + j) * heads_kv + r.h / (heads_q / heads_kv)) * dim;
    float sum = 0.f;
    for (i64 d = 0; d < dim; ++d) sum = fmaf(to_float(query[d]), to_float(key[d]), sum);
    s[at] = scale * capped(sum, squeeze);
}

template <typename T>
__device__ void product(const float* p, const T* v, const int* lengths_q, const int* lengths_k, T* o, i64 batch,
                        i64 seq_q, i64 seq_k, i64 heads_q, i64 heads_kv, i64 dim, int causal, i64 window) {
    const i64 at = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= batch * heads_q * seq_q * dim) return;
    const i64 row = at / dim, d = at % dim;
    const Row r = row_of(row, heads_q, seq_q);
    const Keys keys = keys_of(r, lengths_q, lengths_k, causal, window);
    const T* values = v + (r.b * seq_k * heads_kv + r.h / (heads_q / heads_kv)) * dim + d;
    float sum = 0.f;
    for (i64 j = keys.begin; j < keys.end; ++j)
        sum = fmaf(p[row * seq_k + j], to_float(values[j * heads_kv * dim]), sum);
    o[((r.b * seq_q + r.i) * heads_q + r.h) * dim + d] = from_float<T>(sum);
}

}  // namespace

extern "C" __global__ void __launch_bounds__(128) softmax(float* __restrict__ s, float* __restrict__ lse, i64 seq_k) {
    __shared__ float shared[4];
    const i64 row = blockIdx.x;
    float* scores = s + row * seq_k;
    float max = NEG_INFINITY;
    for (i64 j = threadIdx.x; j < seq_k; j += blockDim.x) max = fmaxf(max, scores[j]);
    max = block_reduce(max, shared, [](float a, float b) { return fmaxf(a, b); });
    // Nothing is seen where the sum is zero; a maximum passes over scores that are NaN, a sum does not.
    const float base = max == NEG_INFINITY ? 0.f : max;
    float sum = 0.f;
    for (i64 j = threadIdx.x; j < seq_k; j += blockDim.x) {
        const float p = expf(scores[j] - base);
        scores[j] = p;
        sum += p;
    }
    sum = block_reduce(sum, shared, [](float a, float b) { return a + b; });
    const bool blind = sum == 0.f;
    const float inverse = blind ? 0.f : 1.f / sum;
    for (i64 j = threadIdx.x; j < seq_k; j += blockDim.x) scores[j] *= inverse;
    if (threadIdx.x == 0) lse[row] = blind ? NEG_INFINITY : max + logf(sum);
}

#define KERNELS(suffix, T)                                                                                          \
    extern "C" __global__ void scores_##suffix(const T* q, const T* k, const int* lengths_q, const int* lengths_k,  \
                                               float* s, i64 batch, i64 seq_q, i64 seq_k, i64 heads_q,              \
                                               i64 heads_kv, i64 dim, int causal, i64 window, float scale,          \
                                               float squeeze) {                                                     \
        scores<T>(q, k, lengths_q, lengths_k, s, batch, seq_q, seq_k, heads_q, heads_kv, dim, causal, window,       \
                  scale, squeeze);                                                                                  \
    }                                                                                                               \
    extern "C" __global__ void product_##suffix(const float* p, const T* v, const int* lengths_q,                   \
                                                const int* lengths_k, T* o, i64 batch, i64 seq_q, i64 seq_k,        \
                                                i64 heads_q, i64 heads_kv, i64 dim, int causal, i64 window) {       \
        product<T>(p, v, lengths_q, lengths_k, o, batch, seq_q, seq_k, heads_q, heads_kv, dim, causal, window);     \
    }
KERNELS(f32, float)
KERNELS(f16, __half)
KERNELS(bf16, __nv_bfloat16)
