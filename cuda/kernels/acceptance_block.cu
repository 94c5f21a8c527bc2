// Idea: one block a row: a warp decides all draft tokens at once, then the whole block sums the row's weights.
// Source: Leviathan et al. 2023, algorithm 1; locating by segment sums first is a two-level inverse CDF.
// Shapes: q [batch, k, vocab], p [batch, k + 1, vocab], draft [batch, k], lengths [batch], accept_u [batch, k],
//   sample_u [batch] -> accepted [batch], tokens [batch, k + 1].
// Plan: each of 16 warps sums one contiguous segment in 16-byte loads; the 16 sums tell in which segment the
//   threshold lies, and the block scans that one alone: the second pass reads 1/16 of the row, from cache.
//   Greedy: block-wide argmax, position by position up to the first mismatch.
// Numerics: acceptance compares exact double products. Weights and sums in f32; the longest chain of additions
//   is vocab/2048 + 7 (a lane's share, in fours) + 5 (warp) + 16 (segments), and in the scan 9 + 16 a tile of 2048.
// Limits: a small batch leaves most of the chip idle (see acceptance_split); rows that are no multiple of
//   16 bytes are read 4 bytes at a time.
#include "acceptance.cuh"

constexpr int THREADS = 512, WARPS = THREADS / 32;

extern "C" __global__ void __launch_bounds__(THREADS)
    sample_f32(const float* __restrict__ q, const float* __restrict__ p, const int* __restrict__ draft,
               const int* __restrict__ lengths, const float* __restrict__ accept_u,
               const float* __restrict__ sample_u, int* __restrict__ accepted, int* __restrict__ tokens, i64 batch,
               i64 k, i64 vocab) {
    __shared__ float residuals[WARPS], masses[WARPS];
    __shared__ LocateShared shared;
    __shared__ int prefix;
    const i64 row = blockIdx.x;
    const int length = lengths[row];
    q += row * k * vocab;
    p += row * (k + 1) * vocab;
    draft += row * k;
    if (threadIdx.x < 32) {
        const int count = accepted_prefix(q, p, draft, accept_u + row * k, length, vocab);
        if (threadIdx.x == 0) prefix = count;
    }
    __syncthreads();
    const int count = prefix;
    const bool aligned = vocab % 4 == 0;
    const i64 segment = ((vocab + WARPS - 1) / WARPS + 3) / 4 * 4;
    const float* target = p + count * vocab;
    const float* drafted = count < length ? q + count * vocab : nullptr;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const i64 first = min(warp * segment, vocab), last = min(first + segment, vocab);
    const float2 mass = warp_masses(target, drafted, first, last, aligned, lane, 32);
    if (lane == 0) {
        residuals[warp] = mass.x;
        masses[warp] = mass.y;
    }
    __syncthreads();
    float residual = 0.f, total = 0.f;
    for (int i = 0; i < WARPS; ++i) {
        residual += residuals[i];
        total += masses[i];
    }
    const bool resample = drafted && residual > 0.f;  // otherwise the bonus token, or a residual that vanishes
    const float threshold = sample_u[row] * (resample ? residual : total);
    const Segment at = find_segment(resample ? residuals : masses, WARPS, threshold);
    if (!resample) drafted = nullptr;
    int token = -1;
    if (at.index >= 0) {
        const i64 begin = at.index * segment;
        token = locate(target, drafted, begin, min(begin + segment, vocab), aligned, at.before, threshold, shared);
    }
    if (threadIdx.x == 0) accepted[row] = count;
    emit(tokens + row * (k + 1), draft, (int)k, count, token, threadIdx.x, THREADS);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    greedy_f32(const float* __restrict__ q, const float* __restrict__ p, const int* __restrict__ draft,
               const int* __restrict__ lengths, const float* __restrict__ accept_u,
               const float* __restrict__ sample_u, int* __restrict__ accepted, int* __restrict__ tokens, i64 batch,
               i64 k, i64 vocab) {
    __shared__ u64 keys[WARPS];
    const i64 row = blockIdx.x;
    const int length = lengths[row], lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    draft += row * k;
    int count = 0, token = 0;
    for (;; ++count) {
        const float* target = p + (row * (k + 1) + count) * vocab;
        const u64 key = warp_larger(largest_key(target, 0, vocab, vocab % 4 == 0, threadIdx.x, THREADS));
        if (lane == 0) keys[warp] = key;
        __syncthreads();
        token = argmax_token(warp_larger(lane < WARPS ? keys[lane] : 0));
        __syncthreads();  // the next position overwrites the keys
        if (count == length || draft[count] != token) break;
    }
    if (threadIdx.x == 0) accepted[row] = count;
    emit(tokens + row * (k + 1), draft, (int)k, count, token, threadIdx.x, THREADS);
}
