// Idea: every pair adds its gradients to both tables' rows with atomics.
// Source: Mikolov et al. 2013, equation 4; the sums are those of the batch, not pair after pair.
// Shapes: as in embedding_word2vec; factors [batch, 1+k] f32 → ascent_in, ascent_out [vocab, dim] f32, zero before.
// Plan: a warp a pair, a lane every 32nd column: it reads its element of the center once, adds to each target, and
//       sums over the targets in a register before the one addition to the center.
// Numerics: f32 sums in the order of arrival: two runs may differ in the last bits.
// Limits: none.
#include "numeric.cuh"

extern "C" __global__ void __launch_bounds__(256)
    word2vec_scatter(const float* __restrict__ in_table, const float* __restrict__ out_table,
                     const int* __restrict__ centers, const int* __restrict__ contexts,
                     const int* __restrict__ negatives, const float* __restrict__ factors,
                     float* __restrict__ ascent_in, float* __restrict__ ascent_out, i64 batch, i64 k, i64 dim) {
    const i64 pair = (i64)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (pair >= batch) return;
    const i64 center = centers[pair];
    for (i64 j = threadIdx.x % 32; j < dim; j += 32) {
        const float v = in_table[center * dim + j];
        float sum = 0.f;
        for (i64 t = 0; t <= k; ++t) {
            const i64 word = t == 0 ? contexts[pair] : negatives[pair * k + t - 1];
            const float factor = factors[pair * (1 + k) + t];
            sum = fmaf(factor, out_table[word * dim + j], sum);
            atomicAdd(ascent_out + word * dim + j, factor * v);
        }
        atomicAdd(ascent_in + center * dim + j, sum);
    }
}
