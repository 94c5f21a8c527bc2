// Idea: one launch of one block a row that keeps the weights on the multiprocessor between their sum and the search, so that
//   no second launch follows, the row is read once, and blocks of a batch that fills the chip wait for nobody.
// Source: ours; the row on chip as in loss_resident.
// Shapes: q [batch, k, vocab], p [batch, k + 1, vocab], draft [batch, k], lengths [batch], accept_u [batch, k],
//   sample_u [batch] -> accepted [batch], tokens [batch, k + 1]. Shared memory: for all but a warp's last segment, the
//   weights of its words.
// Plan: every warp decides the accepted prefix by itself and takes every 16th segment of 512 tokens, whose loads are all under
//   way at once; two blocks a multiprocessor keep 128 KB of loads under way. Of a segment the weights stay: the last one's
//   in registers, earlier ones' in shared memory, each read by the lane that wrote it. Then every warp finds the segment
//   where the threshold lies by the sums of all, and the one that holds it finds the token; only where a draft was rejected
//   and no residual is left is a segment of p read again.
// Numerics: as acceptance_overlapped; chains are 2 + 4 + 5 additions for a segment, 1 + 5 over segments, then 2 + 5, 4 and
//   4 within one.
// Tried: vocabularies beyond 32768, for which a multiprocessor holds one block: half a microsecond slower than overlapped
//   (256 rows of 50256 tokens). Segments read again, not kept: 0.5 us slower (256 rows of 32000, cold, as all that follows). A
//   ring of bulk copies for each warp: 1 us slower. The next turn asked for ahead, into the L2 cache: 2.4 us slower, all turns
//   6. Another priority than evict first: unchanged 1.6, last 3 us slower behind a flush that leaves the cache dirty, last use
//   alike. A word of each row asked for before the prefix is known, a prefix by one warp for all, eight words a lane of half as
//   many warps, turns that begin elsewhere in each block: no gain.
//   What is left of 22.5 us: a launch of nothing 2.9, a bare read of these bytes 20.4 with it (3.3 of them for what the flush
//   left dirty), one block a row 0.3 more, the prefix 0.9, the search 0.9.
// Limits: sampling alone; vocabularies of whole words of 16 bytes, up to 32768 tokens. A batch of few rows leaves the chip
//   idle: acceptance_overlapped splits rows.
#include "acceptance.cuh"

constexpr int THREADS = 512, WARPS = THREADS / 32;
constexpr u32 WORDS = 4, SEGMENT = WORDS * 32;  // words of 16 bytes: of a lane, of a segment
constexpr u32 MAX_SEGMENTS = 64;                // two a lane, when a warp searches

extern __shared__ float4 kept[];

__device__ __forceinline__ float sum_of(float4 x) { return (x.x + x.y) + (x.z + x.w); }

// Words of a segment that a lane holds, 32 apart; zeros from word `end` on.
struct Held {
    float4 word[WORDS];

    __device__ __forceinline__ void load(const float4* row, u32 first, u32 end) {
#pragma unroll
        for (u32 j = 0; j < WORDS; ++j)
            word[j] = first + j * 32 < end ? __ldcs(row + first + j * 32) : float4{0.f, 0.f, 0.f, 0.f};
    }
    // Places in shared memory are a thread's own, for each of its turns.
    __device__ __forceinline__ void keep(u32 turn) const {
#pragma unroll
        for (u32 j = 0; j < WORDS; ++j) kept[(turn * WORDS + j) * THREADS + threadIdx.x] = word[j];
    }
    __device__ __forceinline__ void recall(u32 turn) {
#pragma unroll
        for (u32 j = 0; j < WORDS; ++j) word[j] = kept[(turn * WORDS + j) * THREADS + threadIdx.x];
    }
    __device__ __forceinline__ float mass() const {
        float sum = 0.f;
#pragma unroll
        for (u32 j = 0; j < WORDS; ++j) sum += sum_of(word[j]);
        return sum;
    }
    // From p to max(p - q, 0).
    __device__ __forceinline__ void subtract(const Held& q) {
#pragma unroll
        for (u32 j = 0; j < WORDS; ++j) {
            const float4 x = word[j], y = q.word[j];
            word[j] = {fmaxf(x.x - y.x, 0.f), fmaxf(x.y - y.y, 0.f), fmaxf(x.z - y.z, 0.f), fmaxf(x.w - y.w, 0.f)};
        }
    }
};

// Sums this warp's segments: of weights into x, of p into y; the weights of its last one are left in `held`.
__device__ __forceinline__ void sum_segments(const float4* p, const float4* q, bool rejected, u32 words, Held& held,
                                             float2* sums) {
    const u32 lane = threadIdx.x % 32;
    u32 turn = 0;
#pragma unroll 1
    for (u32 first = threadIdx.x / 32 * SEGMENT; first < words; first += WARPS * SEGMENT, ++turn) {
        if (turn > 0) held.keep(turn - 1);
        Held draft;
        held.load(p, first + lane, words);
        draft.load(q, first + lane, rejected ? words : 0);
        const float whole = warp_sum(held.mass());
        held.subtract(draft);
        const float residual = warp_sum(held.mass());
        if (lane == 0) sums[first / SEGMENT] = {residual, whole};
    }
}

// The segment where the threshold lies, as pick() would choose, and the mass before it; every lane has two of `count`.
__device__ __forceinline__ Segment find_among(const float2* sums, u32 count, bool rejected, float uniform, bool& resample,
                                              float& threshold) {
    const u32 first = threadIdx.x % 32 * 2;
    const float2 left = first < count ? sums[first] : float2{0.f, 0.f};
    const float2 right = first + 1 < count ? sums[first + 1] : float2{0.f, 0.f};
    const float2 mass = {left.x + right.x, left.y + right.y}, up_to = sum_so_far(mass);
    // The weights are the residual if the draft was rejected and has one, else p.
    const float residual = __shfl_sync(FULL, up_to.x, 31), whole = __shfl_sync(FULL, up_to.y, 31);
    resample = rejected && residual > 0.f;
    threshold = uniform * (resample ? residual : whole);
    const float beyond = resample ? up_to.x : up_to.y, below = __shfl_up_sync(FULL, beyond, 1);
    const int holder = pick(resample ? mass.x : mass.y, beyond, threshold);
    // Of the holder's two the second, unless the first has mass and goes beyond or the second has none.
    const float before = first > 0 ? below : 0.f;
    const float own = resample ? left.x : left.y, other = resample ? right.x : right.y;
    const bool second = other > 0.f && !(own > 0.f && before + own > threshold);
    const Segment found = {(int)first + second, second ? before + own : before};
    if (holder < 0) return {-1, 0.f};
    return {__shfl_sync(FULL, found.index, holder), __shfl_sync(FULL, found.before, holder)};
}

// The token where the threshold lies within a segment that begins with word `begin`, of weights that the warp holds.
__device__ __forceinline__ int find_token(const Held& held, u32 begin, float before, float threshold) {
    const int lane = threadIdx.x % 32;
    float up_to[WORDS];
#pragma unroll
    for (u32 j = 0; j < WORDS; ++j) up_to[j] = warp_sum_so_far(sum_of(held.word[j]));
    // The last words of 32 that have mass up to the first at which the threshold is exceeded, and the mass before them.
    float4 word = {0.f, 0.f, 0.f, 0.f};
    float running = before, start = before;
    int holder = 0, of = 0;
    bool beyond = false;
#pragma unroll
    for (int j = 0; j < (int)WORDS; ++j) {
        const int at = pick(sum_of(held.word[j]), running + up_to[j], threshold);
        const float below = __shfl_up_sync(FULL, up_to[j], 1), all = __shfl_sync(FULL, up_to[j], 31);
        if (at >= 0 && !beyond) {
            holder = at;
            of = j;
            word = held.word[j];
            start = lane > 0 ? running + below : running;
            running += all;
            beyond = running > threshold;
        }
    }
    int token = -1;
    const float w[4] = {word.x, word.y, word.z, word.w};
#pragma unroll
    for (int e = 0; e < 4; ++e) {
        const bool there = w[e] > 0.f && !(token >= 0 && start > threshold);
        start += there ? w[e] : 0.f;
        token = there ? (int)(4 * (begin + of * 32 + lane)) + e : token;
    }
    return __shfl_sync(FULL, token, holder);
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    sample_f32(const float* __restrict__ q, const float* __restrict__ p, const int* __restrict__ draft,
               const int* __restrict__ lengths, const float* __restrict__ accept_u, const float* __restrict__ sample_u,
               int* __restrict__ accepted, int* __restrict__ tokens, i64 batch, i64 k, i64 vocab) {
    __shared__ float2 sums[MAX_SEGMENTS];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const i64 row = blockIdx.x;
    q += row * k * vocab;
    p += row * (k + 1) * vocab;
    draft += row * k;
    tokens += row * (k + 1);
    const int drafted = lane < k ? __ldg(draft + lane) : -1;
    const float uniform = __ldg(sample_u + row);
    int length;
    const int count = prefix_and_length(q, p, draft, lengths + row, accept_u + row * k, (int)k, vocab, length);
    const bool rejected = count < length;

    const float4 *target = (const float4*)(p + count * vocab), *other = (const float4*)(q + count * vocab);
    const u32 words = (u32)vocab / 4;
    Held held;
    sum_segments(target, other, rejected, words, held, sums);
    __syncthreads();

    bool resample;
    float threshold;
    const Segment found = find_among(sums, (words + SEGMENT - 1) / SEGMENT, rejected, uniform, resample, threshold);
    const u32 index = (u32)max(found.index, 0);
    if (index % WARPS != warp) return;
    const u32 begin = index * SEGMENT;
    if (rejected && !resample)
        held.load(target, begin + lane, words);
    else if (begin + WARPS * SEGMENT < words)
        held.recall(index / WARPS);
    const int token = found.index < 0 ? -1 : find_token(held, begin, found.before, threshold);
    if (lane == 0) accepted[row] = count;
#pragma unroll 1
    for (int i = lane; i <= k; i += 32) {
        const int kept_token = i < 32 ? drafted : __ldg(draft + min((i64)i, k - 1));
        tokens[i] = i < count ? kept_token : i == count ? token : -1;
    }
}
