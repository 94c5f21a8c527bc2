// Idea: many blocks a row, so that a batch of eight fills the chip as a batch of hundreds does.
// Source: ours, after the split-KV idea of Flash-Decoding: partial results per segment, then one that joins them.
// Shapes: q [batch, k, vocab], p [batch, k + 1, vocab], draft [batch, k], lengths [batch], accept_u [batch, k],
//   sample_u [batch] -> accepted [batch], tokens [batch, k + 1]. Scratch: sums [batch, segments, 2] (mass of the
//   residual and of p), keys [batch, k + 1, segments] (argmax, greedy). A row has `segments` of `segment` tokens.
// Plan: sample: `sums` decides the accepted prefix in every block again (k scattered reads, cheaper than a launch)
//   and sums one segment; `locate` finds the segment by the sums and scans it alone. Greedy: `maxima` takes the
//   argmax of one segment of one position, `choose` joins them and walks the draft.
// Numerics: as acceptance_block; chains are segment/1024 + 7 + 5 + 8 additions, `segments` more, then 9 + 32 a tile of 4096.
// Limits: segments <= 256 (the plan widens a segment). Greedy reads every position, beyond the first mismatch too.
#include "acceptance.cuh"

constexpr int THREADS = 256, WARPS = THREADS / 32, MAX_SEGMENTS = 256;

extern "C" __global__ void __launch_bounds__(THREADS)
    sums_f32(const float* __restrict__ q, const float* __restrict__ p, const int* __restrict__ draft,
             const int* __restrict__ lengths, const float* __restrict__ accept_u, int* __restrict__ accepted,
             float2* __restrict__ sums, i64 k, i64 vocab, i64 segment, i64 segments) {
    __shared__ float2 parts[WARPS];
    __shared__ int prefix;
    const i64 row = blockIdx.x / segments, index = blockIdx.x % segments;
    const int length = lengths[row], lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    q += row * k * vocab;
    p += row * (k + 1) * vocab;
    if (threadIdx.x < 32) {
        const int count = accepted_prefix(q, p, draft + row * k, accept_u + row * k, length, vocab);
        if (threadIdx.x == 0) prefix = count;
    }
    __syncthreads();
    const int count = prefix;
    const float* target = p + count * vocab;
    const float* drafted = count < length ? q + count * vocab : nullptr;
    const i64 begin = index * segment, end = min(begin + segment, vocab);
    const float2 mass = warp_masses(target, drafted, begin, end, vocab % 4 == 0, threadIdx.x, THREADS);
    if (lane == 0) parts[warp] = mass;
    __syncthreads();
    if (threadIdx.x > 0) return;
    float2 sum = parts[0];
    for (int i = 1; i < WARPS; ++i) sum = {sum.x + parts[i].x, sum.y + parts[i].y};
    sums[row * segments + index] = sum;
    if (index == 0) accepted[row] = count;
}

constexpr int LOCATE_THREADS = 1024;

extern "C" __global__ void __launch_bounds__(LOCATE_THREADS, 1)
    locate_f32(const float* __restrict__ q, const float* __restrict__ p, const int* __restrict__ draft,
               const int* __restrict__ lengths, const float* __restrict__ sample_u, const int* __restrict__ accepted,
               const float2* __restrict__ sums, int* __restrict__ tokens, i64 k, i64 vocab, i64 segment,
               i64 segments) {
    __shared__ float residuals[MAX_SEGMENTS], masses[MAX_SEGMENTS];
    __shared__ LocateShared shared;
    const i64 row = blockIdx.x;
    if (threadIdx.x < segments) {
        const float2 sum = sums[row * segments + threadIdx.x];
        residuals[threadIdx.x] = sum.x;
        masses[threadIdx.x] = sum.y;
    }
    const int count = accepted[row];
    const bool rejected = count < lengths[row];
    __syncthreads();
    float residual = 0.f, mass = 0.f;
    for (int s = 0; s < segments; ++s) {
        residual += residuals[s];
        mass += masses[s];
    }
    const bool resample = rejected && residual > 0.f;
    const float threshold = sample_u[row] * (resample ? residual : mass);
    const Segment at = find_segment(resample ? residuals : masses, (int)segments, threshold);
    const float* target = p + (row * (k + 1) + count) * vocab;
    const float* drafted = resample ? q + (row * k + count) * vocab : nullptr;
    int token = -1;
    if (at.index >= 0) {
        const i64 begin = at.index * segment;
        token = locate(target, drafted, begin, min(begin + segment, vocab), vocab % 4 == 0, at.before, threshold,
                       shared);
    }
    emit(tokens + row * (k + 1), draft + row * k, (int)k, count, token, threadIdx.x, LOCATE_THREADS);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    maxima_f32(const float* __restrict__ p, const int* __restrict__ lengths, u64* __restrict__ keys, i64 k, i64 vocab,
               i64 segment, i64 segments) {
    __shared__ u64 parts[WARPS];
    const i64 position = blockIdx.x / segments, index = blockIdx.x % segments;  // position in [batch, k + 1]
    if (position % (k + 1) > lengths[position / (k + 1)]) return;               // beyond the draft: never read
    const i64 begin = index * segment, end = min(begin + segment, vocab);
    const u64 best = largest_key(p + position * vocab, begin, end, vocab % 4 == 0, threadIdx.x, THREADS);
    const u64 key = warp_larger(best);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = key;
    __syncthreads();
    if (threadIdx.x > 0) return;
    u64 largest = parts[0];
    for (int i = 1; i < WARPS; ++i) largest = larger(largest, parts[i]);
    keys[position * segments + index] = largest;
}

// One warp a row.
extern "C" __global__ void choose_f32(const int* __restrict__ draft, const int* __restrict__ lengths,
                                      const u64* __restrict__ keys, int* __restrict__ accepted,
                                      int* __restrict__ tokens, i64 k, i64 segments) {
    const i64 row = blockIdx.x;
    const int length = lengths[row], lane = threadIdx.x;
    draft += row * k;
    int count = 0, token = 0;
    for (;; ++count) {
        const u64* maxima = keys + (row * (k + 1) + count) * segments;
        u64 best = 0;
        for (i64 s = lane; s < segments; s += 32) best = larger(best, maxima[s]);
        token = argmax_token(warp_larger(best));
        if (count == length || draft[count] != token) break;
    }
    if (lane == 0) accepted[row] = count;
    emit(tokens + row * (k + 1), draft, (int)k, count, token, lane, 32);
}
