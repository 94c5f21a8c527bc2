// Idea: the second of split's launches begins while the first still runs (programmatic dependent launch): its blocks are in
//   place, with their code and their inputs, when the last sum is stored. And memory that is read once is asked for so.
// Source: ours; griddepcontrol of PTX, and the eviction priority of loads.
// Shapes: q [batch, k, vocab], p [batch, k + 1, vocab], draft [batch, k], lengths [batch], accept_u [batch, k],
//   sample_u [batch] -> accepted [batch], tokens [batch, k + 1]. Scratch: sums [batch, segments, 2] (mass of the residual
//   and of p). A row has `segments` of `segment` tokens, a multiple of 128.
// Plan: `sums`: a warp decides the accepted prefix and sums one segment, its loads all under way at once; no warp waits for
//   another. `locate`: a thread a segment finds where the threshold lies, and the one warp that holds it scans the segment.
//   Rows that exceed the caches are read with the priority to be evicted first (`once`): what was written last, by whoever
//   made p and q or by the flush before a cold run, then need not be written back while we read, which costs more than
//   the second launch's start.
// Numerics: as acceptance_split; chains are 2 + segment/512 (by fours; unaligned segment/256 + 3) + 5 additions for a
//   segment, 5 + 5 over segments, then 8 + 5 and 16 within one.
// Tried: the copy engine with a ring of segments for each warp, 192 KB of a multiprocessor in flight: 1 to 2 us slower
//   than loads, which a bare read of the bytes does not beat by more than the wait for the prefix. One launch, the last
//   block of a row going on: 1 to 2 us slower for large batches with these shorter segments too, for its blocks linger.
//   Segments twice as long: 2 us slower, of half the length 1 us (qwen_vocabulary_small_batch: 0.8 us faster). Sums that
//   begin the second launch at once, not when they have read: 0.3 us slower for small batches.
// Limits: sampling alone; segments <= 1024 (the plan widens a segment); `once` for rows that begin on 16 bytes.
// Target: compute_90
#include "acceptance.cuh"
#include "overlap.cuh"

constexpr int SUM_THREADS = 128, LOCATE_THREADS = 1024;

template <bool Once, typename Word> __device__ __forceinline__ Word read(const Word* at) {
    return Once ? __ldcs(at) : __ldg(at);
}

// Masses of words begin .. end - 1 over a warp; the loads of `Group` words of p and of q by a lane are under way at once.
template <bool Once, bool Draft, int Group, typename Word>
__device__ __forceinline__ float2 segment_masses(const Word* p, const Word* q, u32 begin, u32 end) {
    float2 sum = {0.f, 0.f};
#pragma unroll 1
    for (u32 i = begin + threadIdx.x % 32; i < end; i += Group * 32) {
        Word target[Group], draft[Group];
#pragma unroll
        for (int j = 0; j < Group; ++j) {
            const bool there = i + j * 32 < end;
            target[j] = there ? read<Once>(p + i + j * 32) : Word{};
            draft[j] = Draft && there ? read<Once>(q + i + j * 32) : Word{};
        }
        float2 some = {0.f, 0.f};
#pragma unroll
        for (int j = 0; j < Group; ++j) add_masses(some, target[j], draft[j]);
        sum = {sum.x + some.x, sum.y + some.y};
    }
    return {warp_sum(sum.x), warp_sum(sum.y)};
}
template <bool Once, bool Draft>
__device__ __forceinline__ float2 segment_masses(const float* p, const float* q, u32 begin, u32 end, bool aligned) {
    return Once || aligned ? segment_masses<Once, Draft, 4>((const float4*)p, (const float4*)q, begin / 4, end / 4)
                           : segment_masses<false, Draft, 8>(p, q, begin, end);
}

template <bool Once>
__device__ __forceinline__ void sums_of(const float* q, const float* p, const int* draft, const int* lengths,
                                        const float* accept_u, int* accepted, float2* sums, int k, i64 vocab, u32 segment,
                                        u32 segments) {
    constexpr u32 WARPS = SUM_THREADS / 32;
    const u32 blocks = (segments + WARPS - 1) / WARPS, index = blockIdx.x % blocks * WARPS + threadIdx.x / 32;
    if (index >= segments) return;
    const i64 row = blockIdx.x / blocks;
    q += row * k * vocab;
    p += row * (k + 1) * vocab;
    int length;
    const int count = prefix_and_length(q, p, draft + row * k, lengths + row, accept_u + row * k, k, vocab, length);
    const float *target = p + count * vocab, *drafted = q + count * vocab;
    const u32 begin = index * segment, end = min(begin + segment, (u32)vocab);
    const bool aligned = vocab % 4 == 0;
    const float2 mass = count < length ? segment_masses<Once, true>(target, drafted, begin, end, aligned)
                                       : segment_masses<Once, false>(target, nullptr, begin, end, aligned);
    let_next_begin();
    if (threadIdx.x % 32 > 0) return;
    sums[row * segments + index] = mass;
    if (index == 0) accepted[row] = count;
}

#define SUMS(name, ONCE)                                                                                               \
    extern "C" __global__ void __launch_bounds__(SUM_THREADS)                                                          \
        name(const float* __restrict__ q, const float* __restrict__ p, const int* __restrict__ draft,                  \
             const int* __restrict__ lengths, const float* __restrict__ accept_u, int* __restrict__ accepted,          \
             float2* __restrict__ sums, i64 k, i64 vocab, i64 segment, i64 segments) {                                 \
        sums_of<ONCE>(q, p, draft, lengths, accept_u, accepted, sums, (int)k, vocab, (u32)segment, (u32)segments);     \
    }
SUMS(sums_f32, false)
SUMS(sums_once_f32, true)

// The token of a segment of a row where the threshold lies, as pick() would choose among them; a warp calls it. A lane has
// `segment` / 32 tokens in a row.
__device__ __forceinline__ int scan(const Difference& weights, i64 begin, i64 end, int segment, float before,
                                    float threshold) {
    const int lane = threadIdx.x % 32, own = segment / 32;
    const i64 first = begin + lane * own, last = min(first + own, end);
    float mass = 0.f;
#pragma unroll 4
    for (i64 t = first; t < last; t += 4) {
        const float4 w = weights(t, last);
        mass += (w.x + w.y) + (w.z + w.w);
    }
    const float up_to = warp_sum_so_far(mass), below = __shfl_up_sync(FULL, up_to, 1);
    const int holder = pick(mass, before + up_to, threshold);
    if (holder < 0) return -1;
    int token = -1;
    if (lane == holder) {
        float running = lane > 0 ? before + below : before;
#pragma unroll 1
        for (i64 t = first; t < last; t += 4) {
            const float4 four = weights(t, last);
            const float w[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const bool there = w[j] > 0.f && !(token >= 0 && running > threshold);
                running += there ? w[j] : 0.f;
                token = there ? (int)t + j : token;
            }
        }
    }
    return __shfl_sync(FULL, token, holder);
}

// A thread a segment.
extern "C" __global__ void __launch_bounds__(LOCATE_THREADS, 1)
    locate_f32(const float* __restrict__ q, const float* __restrict__ p, const int* __restrict__ draft,
               const int* __restrict__ lengths, const float* __restrict__ sample_u, const int* accepted,
               const float2* sums, int* __restrict__ tokens, i64 k, i64 vocab, i64 segment, i64 segments) {
    __shared__ float2 warps[LOCATE_THREADS / 32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const i64 row = blockIdx.x;
    draft += row * k;
    const int length = __ldg(lengths + row), drafted = lane < k ? __ldg(draft + lane) : -1;
    const float uniform = __ldg(sample_u + row);

    wait_for_launches();
    const float2 own = threadIdx.x < segments ? __ldcg(sums + row * segments + threadIdx.x) : float2{0.f, 0.f};
    const int count = __ldcg(accepted + row);
    const float2 up_to = sum_so_far(own);
    if (lane == 31) warps[warp] = up_to;
    __syncthreads();
    const float2 of_warp = lane < blockDim.x / 32 ? warps[lane] : float2{0.f, 0.f}, up_to_warp = sum_so_far(of_warp);

    // The weights are the residual if the draft was rejected and has one, else p.
    const float residual = __shfl_sync(FULL, up_to_warp.x, 31), whole = __shfl_sync(FULL, up_to_warp.y, 31);
    const bool resample = count < length && residual > 0.f;
    const float threshold = uniform * (resample ? residual : whole);
    const float beyond_warp = resample ? up_to_warp.x : up_to_warp.y;
    const int holder = pick(resample ? of_warp.x : of_warp.y, beyond_warp, threshold);
    if (warp != max(holder, 0)) return;
    const float beyond = resample ? up_to.x : up_to.y, below = __shfl_up_sync(FULL, beyond, 1);
    const float before_warp = __shfl_sync(FULL, beyond_warp, max(warp - 1, 0)), base = warp > 0 ? before_warp : 0.f;
    const int index = pick(resample ? own.x : own.y, base + beyond, threshold);
    int token = -1;
    if (index >= 0) {
        const float before = __shfl_sync(FULL, lane > 0 ? base + below : base, index);
        const i64 begin = (warp * 32 + index) * segment;
        const Difference weights{p + (row * (k + 1) + count) * vocab, resample ? q + (row * k + count) * vocab : nullptr,
                                 vocab % 4 == 0};
        token = scan(weights, begin, min(begin + segment, vocab), (int)segment, before, threshold);
    }
    tokens += row * (k + 1);
#pragma unroll 1
    for (int i = lane; i <= k; i += 32) {
        const int kept = i < 32 ? drafted : __ldg(draft + min((i64)i, k - 1));
        tokens[i] = i < count ? kept : i == count ? token : -1;
    }
}
