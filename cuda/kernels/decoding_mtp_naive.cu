// Idea: every step of the modules by itself: a thread an output of a product, a block a row of the rest.
// Source: Gloeckle et al. 2024, section 2; DeepSeek-AI 2024 (DeepSeek-V3), section 2.2; Zhang & Sennrich 2019 (RMSNorm);
//   Shazeer 2020 (SwiGLU).
// Shapes: rows are places, [batch, seq_len]; tokens [batch, seq_len + 1]; q, k, v, o [rows, heads, dim]; scores: f32
//   scratch [rows, heads, seq_len]; losses [depth, rows], loss [depth + 1].
// Plan: 128 threads a block. rms_norm: a row of states, or of the embeddings of the tokens `ahead` of the places (of the last
//   one behind the end: what stands there counts nothing). attend: a block a query, a thread every 128th key, then every
//   128th output. mean: one block.
// Numerics: f32, expf, logf.
// Limits: a product's neighbouring threads read different rows of the weights; every query reads its keys again.
#include "decoding.cuh"

extern "C" __global__ void __launch_bounds__(128)
    rms_norm(const float* x, const int* tokens, const float* gain, float* y, i64 y_stride, int seq_len, int ahead,
             i64 hidden) {
    __shared__ float shared[4];
    i64 from = blockIdx.x;
    if (tokens) {
        const int b = blockIdx.x / seq_len, i = blockIdx.x % seq_len + ahead;
        from = tokens[b * (seq_len + 1) + min(i, seq_len)];
    }
    x += from * hidden;
    float squares = 0.f;
#pragma unroll 1
    for (i64 d = threadIdx.x; d < hidden; d += 128) squares = fmaf(x[d], x[d], squares);
    const float root = rsqrtf(over_block(squares, shared, Add()) / (float)hidden + 1e-6f);
#pragma unroll 1
    for (i64 d = threadIdx.x; d < hidden; d += 128) y[blockIdx.x * y_stride + d] = gain[d] * (x[d] * root);
}

extern "C" __global__ void __launch_bounds__(128)
    product(const float* a, const float* w, const float* add, float* c, i64 columns, i64 depth) {
    const i64 column = (i64)blockIdx.y * 128 + threadIdx.x, at = blockIdx.x * columns + column;
    if (column >= columns) return;
    a += blockIdx.x * depth;
    w += column * depth;
    float sum = 0.f;
#pragma unroll 1
    for (i64 k = 0; k < depth; ++k) sum = fmaf(a[k], w[k], sum);
    c[at] = add ? add[at] + sum : sum;
}

extern "C" __global__ void __launch_bounds__(128)
    attend(const float* q, const float* k, const float* v, float* scores, float* o, int seq_len, int heads, i64 dim,
           float scale) {
    __shared__ float shared[4];
    const i64 query = blockIdx.x;
    const int place = blockIdx.x / heads, keys = place % seq_len + 1;
    const i64 first = (i64)(place - keys + 1) * heads + blockIdx.x % heads;
    float* s = scores + query * seq_len;
    float max = __int_as_float(0xff800000), total = 0.f;
#pragma unroll 1
    for (int j = threadIdx.x; j < keys; j += 128) {
        const float* key = k + (first + j * heads) * dim;
        float sum = 0.f;
#pragma unroll 1
        for (i64 d = 0; d < dim; ++d) sum = fmaf(q[query * dim + d], key[d], sum);
        s[j] = scale * sum;
        max = fmaxf(max, s[j]);
    }
    max = over_block(max, shared, Larger());
#pragma unroll 1
    for (int j = threadIdx.x; j < keys; j += 128) {
        s[j] = expf(s[j] - max);
        total += s[j];
    }
    total = over_block(total, shared, Add());
    __syncthreads();
#pragma unroll 1
    for (i64 d = threadIdx.x; d < dim; d += 128) {
        float sum = 0.f;
#pragma unroll 1
        for (int j = 0; j < keys; ++j) sum = fmaf(s[j], v[(first + j * heads) * dim + d], sum);
        o[query * dim + d] = sum / total;
    }
}

extern "C" __global__ void __launch_bounds__(128) gate(const float* both, float* out, i64 ffn) {
    const i64 column = (i64)blockIdx.y * 128 + threadIdx.x, from = blockIdx.x * 2 * ffn + column;
    if (column < ffn) out[blockIdx.x * ffn + column] = silu(both[from]) * both[from + ffn];
}

extern "C" __global__ void __launch_bounds__(128)
    cross_entropy(const float* logits, const int* tokens, float* losses, int seq_len, int ahead, i64 vocab) {
    __shared__ float shared[4];
    const i64 row = blockIdx.x;
    const int i = blockIdx.x % seq_len + ahead;
    if (i > seq_len) {
        if (threadIdx.x == 0) losses[row] = 0.f;
        return;
    }
    logits += row * vocab;
    float max = __int_as_float(0xff800000), total = 0.f;
#pragma unroll 1
    for (i64 t = threadIdx.x; t < vocab; t += 128) max = fmaxf(max, logits[t]);
    max = over_block(max, shared, Larger());
#pragma unroll 1
    for (i64 t = threadIdx.x; t < vocab; t += 128) total += expf(logits[t] - max);
    total = over_block(total, shared, Add());
    if (threadIdx.x == 0) losses[row] = max + logf(total) - logits[tokens[blockIdx.x / seq_len * (seq_len + 1) + i]];
}

// Of each depth the sum of its losses over all places, and of those lambda / depth times the sum.
extern "C" __global__ void __launch_bounds__(128)
    mean(const float* losses, float* loss, i64 depth, i64 places, float lambda) {
    __shared__ float shared[4];
    float all = 0.f;
#pragma unroll 1
    for (i64 k = 0; k < depth; ++k) {
        float sum = 0.f;
#pragma unroll 1
        for (i64 at = threadIdx.x; at < places; at += 128) sum += losses[k * places + at];
        sum = over_block(sum, shared, Add()) / (float)places;
        all += sum;
        if (threadIdx.x == 0) loss[k] = sum;
    }
    if (threadIdx.x == 0) loss[depth] = lambda / (float)depth * all;
}
