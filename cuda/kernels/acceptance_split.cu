// Idea: many blocks a row, so that a batch of eight fills the chip as a batch of hundreds does.
// Source: ours, after the split-KV idea of Flash-Decoding: partial results per segment, then one that joins them.
// Shapes: q [batch, k, vocab], p [batch, k + 1, vocab], draft [batch, k], lengths [batch], accept_u [batch, k],
//   sample_u [batch] -> accepted [batch], tokens [batch, k + 1]. Scratch: sums [batch, segments, 2] (mass of the
//   residual and of p), keys [batch, k + 1, segments] (argmax, greedy). A row has `segments` of `segment` tokens.
// Plan: sample: `sums` decides the accepted prefix in every block again (k scattered reads, cheaper than a launch)
//   and sums one segment; `locate` finds the segment by the sums and scans it alone. A batch of few rows has shorter
//   segments, so that each of its few dependent trips to memory is short. Greedy: `maxima` takes the
//   argmax of one segment of one position, `choose` joins them and walks the draft.
// Numerics: as acceptance_block; chains are segment/512 + 7 + 5 + 3 additions, 5 + 8 more over segments, then 9 + 32 a tile.
// Tried: one launch, the last block of a row by a wrapping ticket going on to `locate`: half a microsecond faster where a row
//   is of few segments (batch_sweep, 4 rows), as fast for qwen_vocabulary_small_batch, a tenth slower for the large
//   batches, whose sums then run with the registers of the search. Smaller code gained nothing: caches keep it.
// Limits: segments <= 256 (the plan widens a segment). Greedy reads every position, beyond the first mismatch too.
#include "acceptance.cuh"

constexpr int THREADS = 256, WARPS = THREADS / 32, SUM_THREADS = 128, LOCATE_THREADS = 1024, MAX_SEGMENTS = 256;

// This thread's share of the masses of words begin .. end - 1; the loads of `Group` words of p and of q are under way at
// once, also where there are fewer: a short segment is one trip to memory.
template <bool Draft, int Group, typename Word>
__device__ __forceinline__ float2 grouped_masses(const Word* p, const Word* q, u32 begin, u32 end) {
    float2 sum = {0.f, 0.f};
#pragma unroll 1
    for (u32 i = begin + threadIdx.x; i < end; i += Group * SUM_THREADS) {
        Word target[Group], draft[Group];
#pragma unroll
        for (int j = 0; j < Group; ++j) {
            const bool there = i + j * SUM_THREADS < end;
            target[j] = there ? __ldg(p + i + j * SUM_THREADS) : Word{};
            draft[j] = Draft && there ? __ldg(q + i + j * SUM_THREADS) : Word{};
        }
        float2 some = {0.f, 0.f};
#pragma unroll
        for (int j = 0; j < Group; ++j) add_masses(some, target[j], draft[j]);
        sum = {sum.x + some.x, sum.y + some.y};
    }
    return {warp_sum(sum.x), warp_sum(sum.y)};
}
template <bool Draft>
__device__ __forceinline__ float2 segment_masses(const float* p, const float* q, u32 begin, u32 end, bool aligned) {
    return aligned ? grouped_masses<Draft, 4>((const float4*)p, (const float4*)q, begin / 4, end / 4)
                   : grouped_masses<Draft, 8>(p, q, begin, end);
}

extern "C" __global__ void __launch_bounds__(SUM_THREADS)
    sums_f32(const float* __restrict__ q, const float* __restrict__ p, const int* __restrict__ draft,
             const int* __restrict__ lengths, const float* __restrict__ accept_u, int* __restrict__ accepted,
             float2* __restrict__ sums, i64 k, i64 vocab, i64 segment, i64 segments) {
    __shared__ float2 parts[SUM_THREADS / 32];
    __shared__ int2 prefix;
    const i64 row = blockIdx.x / (u32)segments, index = blockIdx.x % (u32)segments;
    q += row * k * vocab;
    p += row * (k + 1) * vocab;
    if (threadIdx.x < 32) {
        int length;
        const int count = prefix_and_length(q, p, draft + row * k, lengths + row, accept_u + row * k, (int)k, vocab, length);
        if (threadIdx.x == 0) prefix = {count, length};
    }
    __syncthreads();
    const int count = prefix.x;
    const float* target = p + count * vocab;
    const float* drafted = count < prefix.y ? q + count * vocab : nullptr;
    const i64 begin = index * segment, end = min(begin + segment, vocab);
    const bool aligned = vocab % 4 == 0;
    const float2 mass = drafted ? segment_masses<true>(target, drafted, (u32)begin, (u32)end, aligned)
                                : segment_masses<false>(target, drafted, (u32)begin, (u32)end, aligned);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = mass;
    __syncthreads();
    if (threadIdx.x > 0) return;
    float2 sum = parts[0];
#pragma unroll
    for (int i = 1; i < SUM_THREADS / 32; ++i) sum = {sum.x + parts[i].x, sum.y + parts[i].y};
    sums[row * segments + index] = sum;
    if (index == 0) accepted[row] = count;
}

struct SearchShared {
    float2 warps[MAX_SEGMENTS / 32];
    int found, last;
    float before;
};

// The segment where the threshold lies, as find_segment() has it, from sums of which each thread holds its own: of the
// residual in x, of p in y. The weights are the residual if the draft was rejected and has one, else p.
__device__ __forceinline__ Segment find_among(float2 own, bool rejected, float u, bool& resample, float& threshold,
                                              SearchShared& shared) {
    constexpr int HOLDERS = MAX_SEGMENTS / 32;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float2 up_to = own;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
        const float x = __shfl_up_sync(FULL, up_to.x, offset), y = __shfl_up_sync(FULL, up_to.y, offset);
        if (lane >= offset) up_to = {up_to.x + x, up_to.y + y};
    }
    float2 below = {__shfl_up_sync(FULL, up_to.x, 1), __shfl_up_sync(FULL, up_to.y, 1)};
    if (lane == 0) below = {0.f, 0.f};
    if (lane == 31 && warp < HOLDERS) shared.warps[warp] = up_to;
    if (threadIdx.x == 0) {
        shared.found = NOWHERE;
        shared.last = -1;
        shared.before = 0.f;
    }
    __syncthreads();
    float2 base = {0.f, 0.f}, total = {0.f, 0.f};
#pragma unroll
    for (int w = 0; w < HOLDERS; ++w) {
        if (w == warp) base = total;
        total = {total.x + shared.warps[w].x, total.y + shared.warps[w].y};
    }
    resample = rejected && total.x > 0.f;
    threshold = u * (resample ? total.x : total.y);
    const float mass = resample ? own.x : own.y, before = resample ? base.x + below.x : base.y + below.y;
    const u32 some = __ballot_sync(FULL, mass > 0.f), beyond = __ballot_sync(FULL, mass > 0.f && before + mass > threshold);
    if (lane == 0 && some) {
        atomicMax(&shared.last, warp * 32 + 31 - __clz(some));
        if (beyond) atomicMin(&shared.found, warp * 32 + __ffs(beyond) - 1);
    }
    __syncthreads();
    const int index = shared.found != NOWHERE ? shared.found : shared.last;
    if ((int)threadIdx.x == index) shared.before = before;
    __syncthreads();
    return {index, shared.before};
}

// A thread for each four tokens of a segment at most, and for each of MAX_SEGMENTS.
extern "C" __global__ void __launch_bounds__(LOCATE_THREADS, 1)
    locate_f32(const float* __restrict__ q, const float* __restrict__ p, const int* __restrict__ draft,
               const int* __restrict__ lengths, const float* __restrict__ sample_u, const int* __restrict__ accepted,
               const float2* __restrict__ sums, int* __restrict__ tokens, i64 k, i64 vocab, i64 segment,
               i64 segments) {
    __shared__ SearchShared search;
    __shared__ LocateShared shared;
    const i64 row = blockIdx.x;
    const float2 own = threadIdx.x < segments ? sums[row * segments + threadIdx.x] : float2{0.f, 0.f};
    const int count = accepted[row];
    bool resample;
    float threshold;
    const Segment at = find_among(own, count < lengths[row], sample_u[row], resample, threshold, search);
    const float* target = p + (row * (k + 1) + count) * vocab;
    const float* drafted = resample ? q + (row * k + count) * vocab : nullptr;
    int token = -1;
    if (at.index >= 0) {
        const i64 begin = at.index * segment;
        token = locate(target, drafted, begin, min(begin + segment, vocab), vocab % 4 == 0, at.before, threshold,
                       shared);
    }
    emit(tokens + row * (k + 1), draft + row * k, (int)k, count, token, threadIdx.x, blockDim.x);
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
