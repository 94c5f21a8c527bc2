// Idea: one launch whose blocks take segments of all rows at all positions at once, so that a batch of eight fills the
//   chip; nobody waits to know whether a position will matter, but who comes after a rejection is known goes home.
// Source: ours; the order of tickets as in decoupled look-back (Merrill and Garland 2016), splitting as in Flash-Decoding.
// Shapes: acceptance_logits.cuh; logits f32 or bf16. A row of logits has `segments` of `segment` tokens. Scratch: counters,
//   1 + batch (2 k + 3) words that are 0 at first; parts [batch, k + 1, 2, segments], statistics of a segment under both
//   models (greedy: an argmax); known [batch, k + 1, 2], those of whole rows; masses [batch, segments, 8, 2].
// Plan: tickets order the work. The first are for statistics, position by position: a segment under both models, unless an
//   earlier token of the row has been rejected by then; the last segment of a position to arrive joins them and decides
//   its token. Later tickets are for residuals, a segment of a row each: they wait for the decisions in order, which
//   blocks of lower tickets owe, so those run; they sum the weights, an eighth of a segment a warp, and the last one of
//   a row scans the eighth where the threshold lies. Memory is read once for positions up to the first rejection, once for
//   those after it that were already under way, and once more for the residual: at most 2 k + 3 rows, where the least is
//   2 a + 2 and waiting after each position would take k + 1 times the latency of a launch.
// Numerics: as acceptance_logits_block, all sums in an order of their own, so results do not depend on who comes first;
//   chains of 32 (in 16 bits 16 + 2) + 10 additions a segment and segments / 32 + 5; of masses 32 + 5, 8 and `segments`,
//   then 9 + 8 a tile.
// Tried: a queue of tasks that resident blocks take, so that nothing is read in vain and a residual comes from the cache:
//   a tenth (f32) to a third (bf16) slower (logits_llama3_vocabulary), for a block then waits for one task after another.
//   Tickets replaced by block numbers: 1 to 4 % faster, but nothing promises that blocks start in order.
//   Loads that are evicted first, as in acceptance_overlapped: f32 1 to 2 % slower, for the residual then comes from memory;
//   bf16 2 to 4 % faster with a flushed L2, up to 12 % slower else. Counters cleared by a launch that this one overlaps
//   with, not by a fill: 1 % at most.
//   What is read is not what limits f32: 304 MB where 222 are needed (logits_llama3_vocabulary: 58 of residuals, the rest of
//   rejected positions) at 73 % of the memory's peak. Residuals taken by the blocks of the next position, half from the
//   cache: 273 MB in the same time, bf16 a tenth slower, for those blocks wait. Blocks that stay, with a warp that finds the
//   next task and one that joins the last: 13 % slower, bf16 18. Segments asked for ahead, into the L2 cache: 5 to 40 %
//   slower; the draft's while the target's is read, 4 %. Segments of 16384: f32 3 % slower, bf16 2 to 3 % faster (12288: 3,
//   f32 as fast), few rows slower. Both models at once in f32 too: 1 % faster, 4 for few rows.
//   Both models' words by asynchronous copies, 32 to 64 KB under way in each of three to five blocks: f32 7 to 16 % slower,
//   bf16 from 1 % faster to 21 slower, 8 rows up to 6 % faster. Fewer parts of a row where rows fill the device (256 rows of
//   32000): 3, 2 and 1 instead of 4 f32 3, 4 and 17 % slower, bf16 1, 0 and 17. A fence before and one behind a count, instead
//   of one that acquires and releases: 1 to 3 % slower.
// Limits: segments <= 64 (the plan widens a segment).
#include "acceptance_logits.cuh"
#include "release.cuh"

constexpr int THREADS = 256, WARPS = THREADS / 32, MAX_SEGMENTS = 64;

// Of a position: not yet decided; its token is accepted; the accepted prefix ends here.
enum Decision : u32 { OPEN = 0, GOES_ON = 1, ENDS = 2 };

__device__ __forceinline__ u64 packed(Running all) {
    return (u64)__float_as_uint(all.sum) << 32 | __float_as_uint(all.base);
}
__device__ __forceinline__ Running unpacked(u64 bits) {
    return {__uint_as_float((u32)bits), __uint_as_float((u32)(bits >> 32))};
}

// What softmax takes of this thread's share of tokens begin .. end - 1 under both models, whose loads are under way at once.
template <typename T, bool Aligned>
__device__ __forceinline__ Both running_both(const T* x, const T* y, u32 begin, u32 end, float scale) {
    constexpr int N = Piece<T, Aligned>::N, PIECES = Aligned ? 16 / N : 4;
    Both own{{minus_infinity(), 0.f}, {minus_infinity(), 0.f}};
#pragma unroll 1
    for (u32 i = begin / N + threadIdx.x; i < end / N; i += PIECES * THREADS) {
        Piece<T, Aligned> held[2][PIECES];
#pragma unroll
        for (int model = 0; model < 2; ++model)
#pragma unroll
            for (int j = 0; j < PIECES; ++j) held[model][j].load(model == 0 ? x : y, i + j * THREADS, end / N);
#pragma unroll
        for (int model = 0; model < 2; ++model) {
            float logits[PIECES * N];
#pragma unroll
            for (int j = 0; j < PIECES; ++j) {
                float some[N];
                held[model][j].widen(some);
#pragma unroll
                for (int e = 0; e < N; ++e) logits[j * N + e] = some[e];
            }
            (model == 0 ? own.target : own.draft).add(logits, scale);
        }
    }
    return own;
}
// The same over the block, for warp 0.
__device__ __forceinline__ Both over_block(Both own) {
    __shared__ Both parts[WARPS];
    own = {over_warp_at_once(own.target), over_warp_at_once(own.draft)};
    __syncthreads();
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = own;
    __syncthreads();
    if (threadIdx.x >= 32) return own;
    own = {{minus_infinity(), 0.f}, {minus_infinity(), 0.f}};
    if (threadIdx.x < WARPS) own = parts[threadIdx.x];
    return {over_warp_at_once(own.target), over_warp_at_once(own.draft)};
}

template <typename T> struct Split : Problem<T> {
    u32* counters;
    u64 *parts, *known;
    float2* masses;
    u32 segment, segments;

    __device__ __forceinline__ i64 place(i64 row, i64 position) const { return row * (this->k + 1) + position; }
    __device__ __forceinline__ u32* done(i64 place) const { return counters + 1 + place; }
    __device__ __forceinline__ u32* decision(i64 place) const {
        return counters + 1 + this->batch * (this->k + 1) + place;
    }
    __device__ __forceinline__ u32* summed(i64 row) const { return counters + 1 + 2 * this->batch * (this->k + 1) + row; }
    __device__ __forceinline__ bool greedy(i64 row) const { return !(this->temperature[row] > 0.f); }

    // A segment's statistics under one model, for the lanes of warp 0.
    __device__ __forceinline__ u64 segment_of(const T* logits, i64 row, u32 index) const {
        __shared__ u64 keys[WARPS];
        const u32 begin = index * segment, end = min(begin + segment, (u32)this->vocab);
        if (!greedy(row))
            return packed(over_block({running(logits, begin, end, this->aligned(), threadIdx.x, THREADS, this->scale(row)),
                                      {minus_infinity(), 0.f}}).target);
        const u64 own = largest_logit(logits, begin, end, this->aligned(), threadIdx.x, THREADS);
        const u64 key = warp_larger(own);
        if (threadIdx.x % 32 == 0) keys[threadIdx.x / 32] = key;
        __syncthreads();
        return warp_larger(threadIdx.x % 32 < WARPS ? keys[threadIdx.x % 32] : 0);
    }
    // Under both models at once, where there are both and rows are sampled. Half as many bytes wait half as long for each
    // other: 16-bit logits gained a tenth and more from it, f32 nothing.
    __device__ __forceinline__ Both both_of_segment(i64 row, i64 position, u32 index) const {
        const u32 begin = index * segment, end = min(begin + segment, (u32)this->vocab);
        const T *x = this->target(row, position), *y = this->drafted(row, position);
        const float scale = this->scale(row);
        return over_block(this->aligned() ? running_both<T, true>(x, y, begin, end, scale)
                                          : running_both<T, false>(x, y, begin, end, scale));
    }
    // Statistics of a whole row, joined by one warp.
    __device__ __forceinline__ u64 joined(const u64* of_segments, bool greedy) const {
        u64 key = 0;
        Running all{minus_infinity(), 0.f};
#pragma unroll 1
        for (u32 s = threadIdx.x; s < segments; s += 32) {
            const u64 part = __ldcg(of_segments + s);
            if (greedy)
                key = larger(key, part);
            else
                all.merge(unpacked(part));
        }
        return greedy ? warp_larger(key) : packed(over_warp(all));
    }

    __device__ __forceinline__ bool token_passes(i64 row, i64 position, u64 target, u64 draft) const {
        const i64 at = row * this->k + position;
        const int token = this->draft[at];
        if (greedy(row)) return token == argmax_token(target);
        return accepts(this->accept_u[at], to_float(this->target(row, position)[token]),
                       to_float(this->drafted(row, position)[token]), {unpacked(target), unpacked(draft)},
                       this->scale(row));
    }

    __device__ __forceinline__ void take_statistics(u32 item) const {
        const u32 index = item % segments, batch = (u32)this->batch, row = item / segments % batch;
        const int position = (int)(item / segments / batch), length = this->lengths[row];
        const bool sampled = !greedy(row);  // asked for with the length, and before the decisions
        bool ended = position > length;
#pragma unroll 1
        for (int j = threadIdx.x; j < position; j += THREADS) ended |= load_acquire(decision(place(row, j))) == ENDS;
        if (__syncthreads_or(ended)) return;
        const i64 at = place(row, position);
        const int models = position < length && sampled ? 2 : 1;
        u64* of_models = parts + 2 * at * segments;
        if (sizeof(T) == 2 && models == 2) {
            const Both both = both_of_segment(row, position, index);
            if (threadIdx.x == 0) {
                of_models[index] = packed(both.target);
                of_models[segments + index] = packed(both.draft);
            }
        } else {
#pragma unroll 1
            for (int model = 0; model < models; ++model) {
                const u64 part = segment_of(model == 0 ? this->target(row, position) : this->drafted(row, position), row, index);
                if (threadIdx.x == 0) of_models[model * segments + index] = part;
            }
        }
        if (threadIdx.x >= 32) return;
        bool last = false;
        if (threadIdx.x == 0) last = count_acquire_release(done(at)) == segments - 1;
        __syncwarp();
        if (!__shfl_sync(FULL, last, 0)) return;
        const u64 target = joined(of_models, greedy(row));
        const u64 draft = models == 2 ? joined(of_models + segments, false) : target;
        if (threadIdx.x > 0) return;
        known[2 * at] = target;
        known[2 * at + 1] = draft;
        const bool passes = position < length && token_passes(row, position, target, draft);
        store_release(decision(at), passes ? GOES_ON : ENDS);
    }

    // The accepted length, once it is known; every thread of the block calls it.
    __device__ __forceinline__ int wait_for_end(i64 row) const {
        __shared__ int ends_at;
        if (threadIdx.x == 0) {
            int count = 0;
            for (u32 now = OPEN; now != ENDS; count += now == GOES_ON) now = load_acquire(decision(place(row, count)));
            ends_at = count;
        }
        __syncthreads();
        return ends_at;
    }

    __device__ __forceinline__ void resample(u32 item) const {
        __shared__ bool last;
        const u32 index = item % segments, row = item / segments, eighth = segment / WARPS, vocab = (u32)this->vocab;
        if (greedy(row) && index > 0) return;
        const int count = wait_for_end(row);
        const u64 target = __ldcg(known + 2 * place(row, count)), draft = __ldcg(known + 2 * place(row, count) + 1);
        if (greedy(row)) return this->write(row, count, argmax_token(target), threadIdx.x, THREADS);
        const Residual<T> weights(*this, row, count, count < this->lengths[row], {unpacked(target), unpacked(draft)});
        const u32 first = min(index * segment + threadIdx.x / 32 * eighth, vocab);
        const float2 mass = warp_masses(weights, first, min(first + eighth, vocab));
        float2* of_row = masses + (i64)row * segments * WARPS;
        if (threadIdx.x % 32 == 0) of_row[index * WARPS + threadIdx.x / 32] = mass;
        __syncthreads();
        if (threadIdx.x == 0) last = count_acquire_release(summed(row)) == segments - 1;
        __syncthreads();
        if (last) draw(row, count, weights, of_row);
    }

    // The last block of a row finds the segment, its eighth and the token where the threshold lies.
    __device__ __forceinline__ void draw(i64 row, int count, Residual<T> weights, const float2* of_row) const {
        __shared__ float residuals[MAX_SEGMENTS], totals[MAX_SEGMENTS], eighths[WARPS];
        __shared__ LocateShared shared;
        if (threadIdx.x < segments) {
            float2 sum = {0.f, 0.f};
#pragma unroll
            for (int w = 0; w < WARPS; ++w) {
                const float2 part = __ldcg(of_row + threadIdx.x * WARPS + w);
                sum = {sum.x + part.x, sum.y + part.y};
            }
            residuals[threadIdx.x] = sum.x;
            totals[threadIdx.x] = sum.y;
        }
        __syncthreads();
        float residual = 0.f, total = 0.f;
#pragma unroll 1
        for (u32 s = 0; s < segments; ++s) {
            residual += residuals[s];
            total += totals[s];
        }
        const bool vanishes = !(residual > 0.f);  // p itself, then; or there was no draft
        if (vanishes) weights.draft.factor = 0.f;
        const float threshold = this->sample_u[row] * (vanishes ? total : residual);
        const Segment whole = find_segment(vanishes ? totals : residuals, (int)segments, threshold);
        if (threadIdx.x < WARPS) {
            const float2 part = __ldcg(of_row + whole.index * WARPS + threadIdx.x);
            eighths[threadIdx.x] = vanishes ? part.y : part.x;
        }
        __syncthreads();
        const float left = threshold - whole.before;
        const Segment found = find_segment(eighths, blockDim.x / 32, left);
        const i64 eighth = segment / WARPS, begin = (i64)whole.index * segment + found.index * eighth;
        const int token = locate(weights, begin, min(begin + eighth, this->vocab), found.before, left, shared);
        this->write(row, count, token, threadIdx.x, THREADS);
    }
};

template <typename T> __device__ __forceinline__ void run(const Split<T>& split) {
    __shared__ u32 ticket;
    if (threadIdx.x == 0) ticket = atomicAdd(split.counters, 1u);
    __syncthreads();
    const u32 statistics = (u32)(split.batch * (split.k + 1) * split.segments);
    if (ticket < statistics)
        split.take_statistics(ticket);
    else
        split.resample(ticket - statistics);
}

#define SPLIT(T, name, BLOCKS)                                                                                        \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)                                                     \
        accept_##name(PROBLEM_ARGUMENTS(T), u32* counters, u64* parts, u64* known, float2* masses, u32 segment,       \
                      u32 segments) {                                                                                 \
        run(Split<T>{PROBLEM(T), counters, parts, known, masses, segment, segments});                                 \
    }
SPLIT(float, f32, 4)
SPLIT(__nv_bfloat16, bf16, 5)
