// Idea: the definition as it reads: one thread walks one row from its first draft token to its last output.
// Source: Leviathan et al. 2023, algorithm 1; Chen et al. 2023, algorithm 2.
// Shapes: q [batch, k, vocab], p [batch, k + 1, vocab], draft [batch, k], lengths [batch], accept_u [batch, k],
//   sample_u [batch] -> accepted [batch], tokens [batch, k + 1].
// Plan: one thread a row; sampling passes twice over the weights (their sum, then the token at the threshold).
// Numerics: acceptance compares exact double products; sums run in double.
// Limits: none; neighbouring threads read addresses a row apart, which wastes most of each memory transaction.
#include "numeric.cuh"

extern "C" __global__ void sample_f32(const float* __restrict__ q, const float* __restrict__ p,
                                      const int* __restrict__ draft, const int* __restrict__ lengths,
                                      const float* __restrict__ accept_u, const float* __restrict__ sample_u,
                                      int* __restrict__ accepted, int* __restrict__ tokens, i64 batch, i64 k,
                                      i64 vocab) {
    const i64 row = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= batch) return;
    const int length = lengths[row];
    int count = 0;
    for (; count < length; ++count) {
        const int token = draft[row * k + count];
        const double drafted = q[(row * k + count) * vocab + token];
        const double wanted = p[(row * (k + 1) + count) * vocab + token];
        if (!((double)accept_u[row * k + count] * drafted < wanted)) break;
    }
    const float* target = p + (row * (k + 1) + count) * vocab;
    const float* drafted = count < length ? q + (row * k + count) * vocab : nullptr;
    double total = 0.0;
    if (drafted)
        for (i64 t = 0; t < vocab; ++t) total += fmax((double)target[t] - (double)drafted[t], 0.0);
    if (total == 0.0) {  // the bonus token, or a residual that vanishes
        drafted = nullptr;
        for (i64 t = 0; t < vocab; ++t) total += target[t];
    }
    const double threshold = sample_u[row] * total;
    double running = 0.0;
    int token = -1;
    for (i64 t = 0; t < vocab; ++t) {
        const double w = drafted ? fmax((double)target[t] - (double)drafted[t], 0.0) : (double)target[t];
        if (!(w > 0.0)) continue;
        token = (int)t;
        running += w;
        if (running > threshold) break;
    }
    accepted[row] = count;
    for (i64 i = 0; i <= k; ++i)
        tokens[row * (k + 1) + i] = i < count ? draft[row * k + i] : i == count ? token : -1;
}

extern "C" __global__ void greedy_f32(const float* __restrict__ q, const float* __restrict__ p,
                                      const int* __restrict__ draft, const int* __restrict__ lengths,
                                      const float* __restrict__ accept_u, const float* __restrict__ sample_u,
                                      int* __restrict__ accepted, int* __restrict__ tokens, i64 batch, i64 k,
                                      i64 vocab) {
    const i64 row = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= batch) return;
    const int length = lengths[row];
    int count = 0, token = 0;
    for (;; ++count) {
        const float* target = p + (row * (k + 1) + count) * vocab;
        token = 0;
        for (i64 t = 1; t < vocab; ++t)
            if (target[t] > target[token]) token = (int)t;
        if (count == length || draft[row * k + count] != token) break;
    }
    accepted[row] = count;
    for (i64 i = 0; i <= k; ++i)
        tokens[row * (k + 1) + i] = i < count ? draft[row * k + i] : i == count ? token : -1;
}
