// Idea: one block a query: a pass over the keys for the scores, a pass over the values for their mean.
// Source: Vaswani et al. 2017, equation 1, for a single query.
// Shapes: q, o [batch, heads_q, head_dim]; k, v rows of [heads_kv, head_dim], contiguous or paged (attention_cache.cuh);
//   scores: f32 scratch [batch, heads_q, seq_k]; lse [batch, heads_q].
// Plan: 128 threads; first a thread takes every 128th key, then every 128th output value.
// Numerics: f32, expf, a soft cap by tanh_of.
// Limits: every query head reads its key head again, and few sequences leave most of the device idle.
#include "attention_cache.cuh"
#include "attention_rows.cuh"

namespace {

template <typename T>
__device__ void decode(const T* q, const T* k, const T* v, Cache cache, const int* lengths, float* s, T* o, float* lse,
                       i64 heads_q, i64 heads_kv, i64 dim, float scale, float squeeze) {
    __shared__ float shared[4];
    const i64 bh = blockIdx.x, b = bh / heads_q, head = bh % heads_q / (heads_q / heads_kv);
    const int keys = lengths[b];
    const T* query = q + bh * dim;
    float* scores = s + bh * cache.seq_k;
    float max = NEG_INFINITY;
    for (int j = threadIdx.x; j < keys; j += blockDim.x) {
        const T* key = k + (cache.row(b, j) * heads_kv + head) * dim;
        float sum = 0.f;
#pragma unroll 1
        for (i64 d = 0; d < dim; ++d) sum = fmaf(to_float(query[d]), to_float(key[d]), sum);
        scores[j] = scale * capped(sum, squeeze);
        max = fmaxf(max, scores[j]);
    }
    max = block_reduce(max, shared, [](float x, float y) { return fmaxf(x, y); });
    float total = 0.f;
#pragma unroll 1
    for (int j = threadIdx.x; j < keys; j += blockDim.x) {
        scores[j] = expf(scores[j] - max);
        total += scores[j];
    }
    total = block_reduce(total, shared, [](float x, float y) { return x + y; });
    __syncthreads();
    for (i64 d = threadIdx.x; d < dim; d += blockDim.x) {
        float sum = 0.f;
#pragma unroll 1
        for (int j = 0; j < keys; ++j)
            sum = fmaf(scores[j], to_float(v[(cache.row(b, j) * heads_kv + head) * dim + d]), sum);
        o[bh * dim + d] = from_float<T>(keys > 0 ? sum / total : 0.f);
    }
    if (threadIdx.x == 0) lse[bh] = keys > 0 ? max + logf(total) : NEG_INFINITY;
}

}  // namespace

#define KERNEL(suffix, T)                                                                                              \
    extern "C" __global__ void __launch_bounds__(128)                                                                  \
        decode_##suffix(const T* q, const T* k, const T* v, const int* table, const int* lengths, float* s, T* o,      \
                        float* lse, i64 seq_k, i64 heads_q, i64 heads_kv, i64 dim, i64 pages, int page_shift,          \
                        float scale, float squeeze) {                                                                  \
        decode<T>(q, k, v, {table, pages, seq_k, page_shift}, lengths, s, o, lse, heads_q, heads_kv, dim, scale,       \
                  squeeze);                                                                                            \
    }
KERNEL(f32, float)
KERNEL(f16, __half)
KERNEL(bf16, __nv_bfloat16)
