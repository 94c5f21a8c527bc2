// Idea: the formula as it stands: all scores in memory, a softmax of each row rounded to e4m3, then the product with V.
// Source: Vaswani et al. 2017, equation 1; Micikevicius et al. 2022 for e4m3; Fasi et al. 2021 for how tensor cores add,
//   with the places that sm_90 was seen to keep (cuda/src/simulator/numeric/tensor/sum.rs).
// Shapes: see attention.cuh; q, k: e4m3, v: e4m3 [batch, heads_kv, head_dim, seq_k]; scales: f32 [batch, heads, blocks of
//   128]; p: f32 scratch [batch, heads_q, seq_q, seq_k].
// Plan: scores: one thread a query-key pair. softmax: one block a row, in place. product: one thread an output.
// Numerics: f32, but scores are added as 8-bit tensor cores add, so that other kernels are compared with one of their own
//   precision. Probabilities are rounded to e4m3 as tensor cores take them, 256 standing for 1, in whole numbers of bits,
//   because conversions to 8 bits begin with sm_89. Their sum takes them unrounded.
// Limits: the scratch grows with seq_q x seq_k; values are read 1 byte at a time, seq_k apart.
#include "attention_rows.cuh"

namespace {

typedef unsigned char u8;
constexpr int BLOCK = 128;  // rows that share a scale

// The value of e4m3 bits, of which all ones are NaN.
__device__ __forceinline__ float of_e4m3(u8 bits) {
    if ((bits & 0x7f) == 0x7f) return __int_as_float(0x7fffffff);
    const float magnitude = __uint_as_float((u32)(bits & 0x7f) << 20) * 0x1p120f;
    return bits & 0x80 ? -magnitude : magnitude;
}

// The exponent of e4m3 bits that are not zero, without what a subnormal number lacks.
__device__ __forceinline__ int exponent_of(u8 bits) { return max((bits & 0x7f) >> 3, 1) - 7; }

// sum + Σ a·b over up to 32 products, as an 8-bit tensor core adds them: all are shifted to the largest exponent, what falls
// below 13 binary places is cut off, and the rest is added exactly.
__device__ float add_products(float sum, const u8* a, const u8* b, int n) {
    constexpr int PLACES = 13, NONE = -1000;
    int top = sum == 0.f ? NONE : max((int)(__float_as_uint(sum) >> 23 & 0xff), 1) - 127;
#pragma unroll 1
    for (int i = 0; i < n; ++i)
        if ((a[i] & 0x7f) && (b[i] & 0x7f)) top = max(top, exponent_of(a[i]) + exponent_of(b[i]));
    if (top == NONE) return 0.f;
    const float up = __int_as_float((PLACES - top + 127) << 23);  // 2^(PLACES - top)
    float total = truncf(sum * up);
#pragma unroll 1
    for (int i = 0; i < n; ++i) total += truncf(of_e4m3(a[i]) * of_e4m3(b[i]) * up);
    return total / up;
}

// x, from 0 to 256, to the nearest e4m3, ties to even.
__device__ __forceinline__ float to_e4m3(float x) {
    if (x < 0x1p-6f) return __fsub_rn(__fadd_rn(x, 0x1.8p14f), 0x1.8p14f);  // steps of 2^-9
    const u32 bits = __float_as_uint(x);
    return __uint_as_float((bits + 0x7ffff + (bits >> 20 & 1)) & 0xfff00000u);
}

}  // namespace

extern "C" __global__ void scores(const u8* __restrict__ q, const u8* __restrict__ k, const float* __restrict__ q_scale,
                                  const float* __restrict__ k_scale, const int* __restrict__ lengths_q,
                                  const int* __restrict__ lengths_k, float* __restrict__ s, i64 batch, i64 seq_q, i64 seq_k,
                                  i64 heads_q, i64 heads_kv, i64 dim, int causal, i64 window, float scale) {
    const i64 at = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= batch * heads_q * seq_q * seq_k) return;
    const Row r = row_of(at / seq_k, heads_q, seq_q);
    const i64 j = at % seq_k, h_kv = r.h / (heads_q / heads_kv);
    const Keys keys = keys_of(r, lengths_q, lengths_k, causal, window);
    if (j < keys.begin || j >= keys.end) {
        s[at] = NEG_INFINITY;
        return;
    }
    const u8* query = q + ((r.b * seq_q + r.i) * heads_q + r.h) * dim;
    const u8* key = k + ((r.b * seq_k + j) * heads_kv + h_kv) * dim;
    float sum = 0.f;
    // Tiles are filled up to 128 values with zeros, and products of nothing cut a sum once more.
    for (i64 d = 0; d < max(dim, (i64)128); d += 32)
        sum = add_products(sum, query + d, key + d, (int)max(min(dim - d, (i64)32), (i64)0));
    const i64 q_block = (r.b * heads_q + r.h) * ((seq_q + BLOCK - 1) / BLOCK) + r.i / BLOCK;
    const i64 k_block = (r.b * heads_kv + h_kv) * ((seq_k + BLOCK - 1) / BLOCK) + j / BLOCK;
    s[at] = scale * q_scale[q_block] * k_scale[k_block] * sum;
}

extern "C" __global__ void __launch_bounds__(128) softmax(float* __restrict__ s, float* __restrict__ total,
                                                          float* __restrict__ lse, i64 seq_k) {
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
        const float p = 256.f * expf(scores[j] - base);
        scores[j] = to_e4m3(p);
        sum += p;
    }
    sum = block_reduce(sum, shared, [](float a, float b) { return a + b; });
    if (threadIdx.x == 0) total[row] = sum, lse[row] = sum == 0.f ? NEG_INFINITY : max + logf(sum / 256.f);
}

#define PRODUCT(suffix, T)                                                                                               \
    extern "C" __global__ void product_##suffix(                                                                         \
        const float* __restrict__ p, const float* __restrict__ total, const u8* __restrict__ v,                          \
        const float* __restrict__ v_scale, const int* __restrict__ lengths_q, const int* __restrict__ lengths_k,         \
        T* __restrict__ o, i64 batch, i64 seq_q, i64 seq_k, i64 heads_q, i64 heads_kv, i64 dim, int causal, i64 window) { \
        const i64 at = (i64)blockIdx.x * blockDim.x + threadIdx.x;                                                       \
        if (at >= batch * heads_q * seq_q * dim) return;                                                                 \
        const i64 row = at / dim, d = at % dim;                                                                          \
        const Row r = row_of(row, heads_q, seq_q);                                                                       \
        const i64 head = r.b * heads_kv + r.h / (heads_q / heads_kv);                                                    \
        const Keys keys = keys_of(r, lengths_q, lengths_k, causal, window);                                              \
        float sum = 0.f;                                                                                                 \
        _Pragma("unroll 1") for (i64 j = keys.begin; j < keys.end; ++j) {                                                                    \
            const float value = of_e4m3(v[(head * dim + d) * seq_k + j]);                                                \
            sum = fmaf(p[row * seq_k + j], value * v_scale[head * ((seq_k + BLOCK - 1) / BLOCK) + j / BLOCK], sum);      \
        }                                                                                                                \
        o[((r.b * seq_q + r.i) * heads_q + r.h) * dim + d] = from_float<T>(keys.begin < keys.end ? sum / total[row] : 0.f); \
    }
PRODUCT(f16, __half)
PRODUCT(bf16, __nv_bfloat16)
