// Idea: what every variant of the training step shares: the errors at the old tables, the loss, applying gradients.
// Source: Mikolov et al. 2013, "Distributed Representations of Words and Phrases and their Compositionality", eq. 4.
// Shapes: in_table, out_table [vocab, dim] f32; centers, contexts [batch], negatives [batch, k] i32. The targets are
//         numbered b·(1+k) + t, t = 0 the context: factors [targets] f32; words_in, words_out [targets] u32 or null.
// Plan: word2vec_errors: a warp a target: score, label − σ(score), loss; 8 targets' losses a block. word2vec_loss: one
//       block adds the blocks' losses. word2vec_apply: a thread an element.
// Numerics: f32; expf and log1pf; the loss is added in a fixed order.
// Limits: batch · (1+k) < 2^31.
#include "numeric.cuh"

static constexpr int WARPS = 8;

extern "C" __global__ void __launch_bounds__(WARPS * 32)
    word2vec_errors(const float* __restrict__ in_table, const float* __restrict__ out_table,
                    const int* __restrict__ centers, const int* __restrict__ contexts,
                    const int* __restrict__ negatives, float* __restrict__ factors, u32* __restrict__ words_in,
                    u32* __restrict__ words_out, float* __restrict__ losses, i64 targets, i64 k, i64 dim) {
    __shared__ float loss[WARPS];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const i64 target = (i64)blockIdx.x * WARPS + warp;
    if (lane == 0) loss[warp] = 0.f;
    if (target < targets) {
        const i64 pair = target / (1 + k), t = target % (1 + k);
        const int center = centers[pair], word = t == 0 ? contexts[pair] : negatives[pair * k + t - 1];
        const float *v = in_table + (i64)center * dim, *o = out_table + (i64)word * dim;
        float score = 0.f;
        for (i64 j = lane; j < dim; j += 32) score = fmaf(v[j], o[j], score);
        score = warp_sum(score);
        if (lane == 0) {
            factors[target] = (t == 0 ? 1.f : 0.f) - 1.f / (1.f + expf(-score));
            const float x = t == 0 ? score : -score;
            loss[warp] = fmaxf(-x, 0.f) + log1pf(expf(-fabsf(x)));
            if (words_in) words_in[target] = (u32)center;
            if (words_out) words_out[target] = (u32)word;
        }
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        float sum = 0.f;
        for (int w = 0; w < WARPS; ++w) sum += loss[w];
        losses[blockIdx.x] = sum;
    }
}

extern "C" __global__ void __launch_bounds__(1024)
    word2vec_loss(const float* __restrict__ losses, float* __restrict__ loss, i64 n, i64 batch) {
    __shared__ float partial[32];
    float sum = 0.f;
#pragma unroll 4
    for (i64 i = threadIdx.x; i < n; i += 1024) sum += losses[i];
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x < 32) {
        sum = warp_sum(partial[threadIdx.x]);
        if (threadIdx.x == 0) loss[0] = batch > 0 ? sum / (float)batch : 0.f;
    }
}

// updated = table + lr · ascent, the ascent direction being minus the gradient.
extern "C" __global__ void word2vec_apply(const float* __restrict__ table, const float* __restrict__ ascent,
                                          float* __restrict__ updated, float lr, i64 elements) {
    const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < elements) updated[i] = fmaf(lr, ascent[i], table[i]);
}
