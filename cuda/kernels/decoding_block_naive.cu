// Idea: the definition as it reads: one thread decides one row, from the longest prefix down.
// Source: Sun et al. 2024 (arXiv 2403.10444), algorithm 2.
// Shapes: q [batch, k, vocab], p [batch, k + 1, vocab], draft [batch, k], lengths [batch], accept_u [batch, k],
//   sample_u [batch] -> accepted [batch], tokens [batch, k + 1].
// Plan: one thread a row; b of each prefix is computed again, which needs no storage, then a sum over the vocabulary
//   for each prefix that is not accepted, and two passes for the further token.
// Numerics: everything in double.
// Limits: none; neighbouring threads read addresses a row apart, which wastes most of each memory transaction.
#include "numeric.cuh"

// b of the first `count` tokens: the probability with which they may be kept together.
__device__ double kept(const float* q, const float* p, const int* draft, int count, i64 vocab) {
    double b = 1.0;
#pragma unroll 1
    for (int j = 0; j < count; ++j) {
        const double share = b * (double)p[j * vocab + draft[j]], drafted = q[j * vocab + draft[j]];
        b = share == 0.0 ? 0.0 : share >= drafted ? 1.0 : share / drafted;
    }
    return b;
}

extern "C" __global__ void block_f32(const float* __restrict__ q, const float* __restrict__ p,
                                     const int* __restrict__ draft, const int* __restrict__ lengths,
                                     const float* __restrict__ accept_u, const float* __restrict__ sample_u,
                                     int* __restrict__ accepted, int* __restrict__ tokens, i64 batch, i64 k,
                                     i64 vocab) {
    const i64 row = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= batch) return;
    const int length = lengths[row];
    q += row * k * vocab;
    p += row * (k + 1) * vocab;
    draft += row * k;
    tokens += row * (k + 1);
    int count = length;
    double b = kept(q, p, draft, length, vocab), mass = 0.0;
    if (length > 0 && !((double)accept_u[row * k + length - 1] < b))
        for (--count; count >= 0; --count) {
            b = kept(q, p, draft, count, vocab);
            mass = 0.0;
#pragma unroll 1
            for (i64 t = 0; t < vocab; ++t)
                mass += fmax(b * (double)p[count * vocab + t] - (double)q[count * vocab + t], 0.0);
            if (count == 0 || (double)accept_u[row * k + count - 1] * (mass + (1.0 - b)) < mass) break;
        }
    const float* target = p + count * vocab;
    const float* drafted = mass > 0.0 ? q + count * vocab : nullptr;
    if (!drafted)  // the bonus token, or a residual that vanishes
#pragma unroll 1
        for (i64 t = 0; t < vocab; ++t) mass += (double)target[t];
    const double threshold = sample_u[row] * mass;
    double running = 0.0;
    int token = -1;
#pragma unroll 1
    for (i64 t = 0; t < vocab; ++t) {
        const double w = drafted ? fmax(b * (double)target[t] - (double)drafted[t], 0.0) : (double)target[t];
        if (!(w > 0.0)) continue;
        token = (int)t;
        running += w;
        if (running > threshold) break;
    }
    accepted[row] = count;
#pragma unroll 1
    for (i64 i = 0; i <= k; ++i) tokens[i] = i < count ? draft[i] : i == count ? token : -1;
}
