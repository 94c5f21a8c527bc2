// Idea: group the terms by the row they go to, so that a row is summed and written once, by whoever holds it.
// Source: a counting sort (Knuth, The Art of Computer Programming 3, 5.2) whose buckets may lie in any order.
// Shapes: tables [vocab, dim] f32; centers, contexts [batch], negatives [batch, k] i32. Rows 0..vocab are in_table's,
//         vocab..2·vocab out_table's. Terms: batch of in_table, then batch · (1+k) of out_table; ranks [terms] u32.
//         counts, starts [2·vocab] u32; entries [terms] (row of the term, factor); names [terms] u32: the pair, or the
//         target, of an entry. few, pieces: (row, start, count, number of the piece); sizes: terms placed, few, pieces,
//         then arrivals [pieces]; counts and sizes are zero before.
// Plan: count: a thread a term takes a number at its row, a block's terms of one row together; place: a thread a row asks
//       for room for its terms; pairs: a warp a pair: scores and factors, the gradient of the center, every factor put
//       at its row; rows: 16 lanes a row of at most 16 terms; of the others a block takes a piece of 256 terms, and the
//       last to arrive at a row adds up its pieces. Further blocks of pairs copy the rows that no term names.
// Numerics: f32. The numbers are taken in the order of arrival, so a row puts its terms in order before it adds them:
//           two runs give equal bits.
// Limits: dim % 4 == 0; terms < 2^31, vocab < 2^29. Each launch begins while the one before ends; on devices that cannot,
//         in order.
// Tried on 16,384 pairs of 50,257 words, H200, none faster: tables fetched into the L2 while terms are counted (5 us more, cold
//   or warm: the memory's rate does not bind); 5 or 6 blocks a multiprocessor (they spill); pieces of 64 or 128 terms; 8
//   rows of a piece in flight; counts cleared by a kernel that overlaps. Trips to memory bind: a warp of the pairs' kernel
//   waits for them for 10 of the 17 cycles between its instructions.
// Target: compute_90
#include "overlap.cuh"
#include "release.cuh"

static constexpr int WARPS = 8, THREADS = WARPS * 32, FEW = 16, PIECE = 256, COPIED = 4;
static constexpr u32 ALL = 0xffffffffu;

__device__ __forceinline__ float4 load_4(const float* at) { return __ldg(reinterpret_cast<const float4*>(at)); }
// Of what an earlier launch writes while this one has begun: not through the read-only path.
__device__ __forceinline__ float4 load_written_4(const float* at) { return *reinterpret_cast<const float4*>(at); }
__device__ __forceinline__ void store_4(float* at, const float4& x) { *reinterpret_cast<float4*>(at) = x; }
__device__ __forceinline__ void stream_4(float* at, const float4& x) { __stcs(reinterpret_cast<float4*>(at), x); }
__device__ __forceinline__ float4 zero_4() { return make_float4(0.f, 0.f, 0.f, 0.f); }
__device__ __forceinline__ void add(float4& sum, float factor, const float4& x) {
    sum.x = fmaf(factor, x.x, sum.x);
    sum.y = fmaf(factor, x.y, sum.y);
    sum.z = fmaf(factor, x.z, sum.z);
    sum.w = fmaf(factor, x.w, sum.w);
}

struct Batch {
    const int *centers, *contexts, *negatives;
    u32 pairs, k;

    __device__ __forceinline__ u32 word(u32 pair, u32 t) const {
        return (u32)(t == 0 ? contexts[pair] : negatives[(i64)pair * k + t - 1]);
    }
    // The row that a term goes to.
    __device__ __forceinline__ u32 row(u32 term, u32 vocab) const {
        if (term < pairs) return (u32)centers[term];
        const u32 target = term - pairs, pair = target / (1 + k);
        return vocab + word(pair, target - pair * (1 + k));
    }
};

// Terms a thread counts, and places for a block's rows: a row whose place another row has goes to memory by itself.
static constexpr int COUNTED = 2, PLACES = 2048;

extern "C" __global__ void __launch_bounds__(THREADS)
    word2vec_count(const int* __restrict__ centers, const int* __restrict__ contexts,
                   const int* __restrict__ negatives, u32* __restrict__ counts, u32* __restrict__ ranks, i64 batch,
                   i64 k, i64 vocab) {
    __shared__ u32 owner[PLACES], tally[PLACES];
    let_next_begin();
    const Batch words{centers, contexts, negatives, (u32)batch, (u32)k};
    const u32 terms = words.pairs * (2 + words.k);
    u32 row[COUNTED], before[COUNTED];
#pragma unroll
    for (int i = 0; i < COUNTED; ++i) {
        const u32 term = (blockIdx.x * COUNTED + i) * THREADS + threadIdx.x;
        row[i] = term < terms ? words.row(term, (u32)vocab) : ALL;
    }
    for (int place = threadIdx.x; place < PLACES; place += THREADS) owner[place] = ALL, tally[place] = 0;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < COUNTED; ++i)
        if (row[i] != ALL) atomicMin(owner + row[i] % PLACES, row[i]);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < COUNTED; ++i) {
        before[i] = ALL;
        if (row[i] == ALL) continue;
        if (owner[row[i] % PLACES] == row[i]) before[i] = atomicAdd(tally + row[i] % PLACES, 1u);
    }
    __syncthreads();
    // From here on a place's tally is where its row's numbers begin.
    u32 here[PLACES / THREADS];
#pragma unroll
    for (int i = 0; i < PLACES / THREADS; ++i) here[i] = tally[i * THREADS + threadIdx.x];
#pragma unroll
    for (int i = 0; i < PLACES / THREADS; ++i)
        if (here[i] > 0) here[i] = atomicAdd(counts + owner[i * THREADS + threadIdx.x], here[i]);
#pragma unroll
    for (int i = 0; i < PLACES / THREADS; ++i) tally[i * THREADS + threadIdx.x] = here[i];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < COUNTED; ++i) {
        if (row[i] == ALL) continue;
        const u32 term = (blockIdx.x * COUNTED + i) * THREADS + threadIdx.x;
        ranks[term] = before[i] == ALL ? atomicAdd(counts + row[i], 1u) : tally[row[i] % PLACES] + before[i];
    }
}

// Exclusive sum over the block's threads in thread order; `total` gets the sum of all. `partial` holds 8 words.
__device__ __forceinline__ u32 block_exclusive_sum(u32 x, u32* partial, u32& total) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const u32 sum = warp_sum_so_far(x);
    if (lane == 31) partial[warp] = sum;
    __syncthreads();
    u32 before = 0;
    total = 0;
#pragma unroll
    for (int w = 0; w < WARPS; ++w) {
        before += w < warp ? partial[w] : 0;
        total += partial[w];
    }
    __syncthreads();
    return before + sum - x;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    word2vec_place(const u32* counts, u32* __restrict__ starts, u32* __restrict__ sizes,
                   uint4* __restrict__ few, uint4* __restrict__ pieces, i64 rows, u32 direct) {
    __shared__ u32 partial[WARPS], base[3];
    let_next_begin();
    wait_for_launches();
    const u32 row = blockIdx.x * THREADS + threadIdx.x;
    const u32 count = row < rows ? counts[row] : 0;
    const u32 is_few = count > (direct ? 1 : 0) && count <= FEW, n = count > FEW ? (count + PIECE - 1) / PIECE : 0;
    u32 total[3];
    const u32 before = block_exclusive_sum(count, partial, total[0]);
    const u32 few_before = block_exclusive_sum(is_few, partial, total[1]);
    const u32 pieces_before = block_exclusive_sum(n, partial, total[2]);
    if (threadIdx.x < 3) {
        const u32 asked = total[threadIdx.x];
        base[threadIdx.x] = asked ? atomicAdd(sizes + threadIdx.x, asked) : 0;
    }
    __syncthreads();
    const u32 start = base[0] + before;
    if (row < rows) starts[row] = start;
    if (is_few) few[base[1] + few_before] = make_uint4(row, start, count, 0);
    for (u32 i = 0; i < n; ++i) pieces[base[2] + pieces_before + i] = make_uint4(row, start, count, i);
}

// Targets of a pair that a warp takes at once; lanes 4i..4i+3 stand for the i-th. Of rows wider than a warp a target is
// read twice in any case, and few at once make less code.
template <bool WIDE> static constexpr int HELD_OF = WIDE ? 2 : 6;

// Sums each of HELD values over the warp: lane l gets the sum of value l / 4. It takes 9 shuffles where HELD sums one by
// one take 5 each: every step halves the values a lane holds.
template <int HELD> __device__ __forceinline__ float sums_by_lane(const float (&value)[HELD]) {
    const int lane = threadIdx.x % 32;
    float x[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = i < HELD ? value[i] : 0.f;
#pragma unroll
    for (int half = 4; half > 0; half /= 2) {
        const bool upper = lane & (4 * half);
#pragma unroll
        for (int i = 0; i < half; ++i) {
            const float mine = upper ? x[half + i] : x[i], others = upper ? x[i] : x[half + i];
            x[i] = mine + __shfl_xor_sync(ALL, others, 4 * half);
        }
    }
    x[0] += __shfl_xor_sync(ALL, x[0], 2);
    return x[0] + __shfl_xor_sync(ALL, x[0], 1);
}

// What the pairs' kernel is given.
struct Pairs {
    const float *in_table, *out_table;
    Batch words;
    const u32 *counts, *ranks, *starts;
    float* factors;
    uint2* entries;
    u32* names;
    float *gradients, *in_updated, *out_updated;
    float lr;
    i64 dim;
    u32 vocab;
};

// Copies four rows from `first` on but those that terms name. All are read before it is known which: a warp waits once. They
// are read once: what others read stays in the L2.
__device__ __forceinline__ void copy_rows(const Pairs& p, u32 first) {
    static_assert(COPIED == 4, "their counts are read at once");
    if (first >= 2 * p.vocab) return;
    const uint4 four = *reinterpret_cast<const uint4*>(p.counts + first);  // behind the last row there are sizes
    const u32 count[COPIED] = {four.x, four.y, four.z, four.w};
#pragma unroll 1
    for (i64 column = threadIdx.x % 32 * 4; column < p.dim; column += 128) {
        float4 x[COPIED];
#pragma unroll
        for (int i = 0; i < COPIED; ++i) {
            const u32 row = first + i;
            const float* from = row < p.vocab ? p.in_table + row * p.dim : p.out_table + (row - p.vocab) * p.dim;
            if (row < 2 * p.vocab) x[i] = __ldcs(reinterpret_cast<const float4*>(from + column));
        }
#pragma unroll
        for (int i = 0; i < COPIED; ++i) {
            const u32 row = first + i;
            float* to = row < p.vocab ? p.in_updated + row * p.dim : p.out_updated + (row - p.vocab) * p.dim;
            if (row < 2 * p.vocab && count[i] == 0) stream_4(to + column, x[i]);
        }
    }
}

// A pair's scores, factors and gradient by its center; returns its loss, spread over the lanes. WIDE: more columns than
// a warp holds. Where `direct`, a row that this pair alone names is moved at once, its table being at hand.
template <bool WIDE> __device__ __forceinline__ float do_pair(const Pairs& p, u32 pair, bool direct) {
    constexpr int HELD = HELD_OF<WIDE>;
    const int lane = threadIdx.x % 32, slot = lane / 4;
    const u32 k = p.words.k;
    const u32 center = (u32)p.words.centers[pair];
    const float* v = p.in_table + (i64)center * p.dim;
    const i64 last_tile = WIDE ? p.dim : 1;
    u32 center_count, center_start, center_rank;
    float loss = 0.f;
#pragma unroll 1
    for (u32 t = 0; t <= k; t += HELD) {
        const int held = (int)min(k + 1 - t, (u32)HELD);
        const bool asks = slot < held && lane % 4 == 0;
        const u32 word = slot < held ? p.words.word(pair, t + slot) : 0, target = pair * (1 + k) + t + slot;
        // Asked for together with the rows, and used after them: a warp waits for all of it once.
        const u32 count = asks ? p.counts[p.vocab + word] : 0, start = asks ? p.starts[p.vocab + word] : 0;
        const u32 rank = asks ? p.ranks[p.words.pairs + target] : 0;
        center_count = p.counts[center], center_start = p.starts[center], center_rank = p.ranks[pair];
        float4 x, o[HELD];
        float score[HELD] = {};
#pragma unroll 1
        for (i64 tile = 0; tile < last_tile; tile += 128) {
            const i64 column = tile + lane * 4;
            x = column < p.dim ? load_4(v + column) : zero_4();
#pragma unroll
            for (int i = 0; i < HELD; ++i) {
                const i64 row = __shfl_sync(ALL, word, 4 * i);
                o[i] = i < held && column < p.dim ? load_4(p.out_table + row * p.dim + column) : zero_4();
            }
#pragma unroll
            for (int i = 0; i < HELD; ++i) {
                score[i] = fmaf(x.x, o[i].x, score[i]);
                score[i] = fmaf(x.y, o[i].y, score[i]);
                score[i] = fmaf(x.z, o[i].z, score[i]);
                score[i] = fmaf(x.w, o[i].w, score[i]);
            }
        }
        const bool move = !WIDE && direct && count == 1;
        const float mine = sums_by_lane(score);
        const bool is_context = t == 0 && slot == 0;
        const float small = expf(-fabsf(mine)), share = 1.f / (1.f + small);  // the sigmoid of |mine|
        const float factor = slot < held ? (is_context ? 1.f : 0.f) - (mine < 0.f ? small * share : share) : 0.f;
        if (asks) loss += fmaxf(is_context ? -mine : mine, 0.f) + log1pf(small);
        if (asks && !move) {
            const u32 at = start + rank;
            p.factors[target] = factor;
            p.entries[at] = make_uint2(center, __float_as_uint(factor));
            p.names[at] = target;
        }
        const u32 moved = __ballot_sync(ALL, move);
#pragma unroll 1
        for (i64 tile = 0; tile < last_tile; tile += 128) {
            const i64 column = tile + lane * 4;
            float* to = p.gradients + (i64)pair * p.dim + column;
            float4 sum = t > 0 && column < p.dim ? *reinterpret_cast<const float4*>(to) : zero_4();
#pragma unroll
            for (int i = 0; i < HELD; ++i) {
                const i64 row = __shfl_sync(ALL, word, 4 * i);
                const float by = __shfl_sync(ALL, factor, 4 * i);
                if (WIDE) o[i] = i < held && column < p.dim ? load_4(p.out_table + row * p.dim + column) : zero_4();
                add(sum, by, o[i]);
            }
#pragma unroll
            for (int i = 0; i < HELD; ++i) {
                const i64 row = __shfl_sync(ALL, word, 4 * i);
                const float by = __shfl_sync(ALL, factor, 4 * i);
                if (!WIDE && (moved >> (4 * i) & 1) && column < p.dim) {
                    float4 step = zero_4();
                    add(step, by, x);
                    add(o[i], p.lr, step);
                    stream_4(p.out_updated + row * p.dim + column, o[i]);
                }
            }
            if (column >= p.dim) continue;
            if (WIDE || !direct || center_count != 1) store_4(to, sum);
            else add(x, p.lr, sum), stream_4(p.in_updated + (i64)center * p.dim + column, x);
        }
    }
    if (lane == 31 && (WIDE || !direct || center_count != 1)) {
        const u32 center_at = center_start + center_rank;
        p.entries[center_at] = make_uint2(pair, __float_as_uint(1.f));
        p.names[center_at] = pair;
    }
    return loss;
}

template <bool WIDE>
__device__ __forceinline__ void pairs(const Pairs& p, float* losses, u32 pair_blocks, u32 copy_blocks,
                                      bool direct) {
    __shared__ float block_loss[WARPS];
    const int warp = threadIdx.x / 32;
    let_next_begin();
    wait_for_launches();
    // Blocks of both kinds alternate as long as there are both.
    const u32 both = 2 * min(pair_blocks, copy_blocks);
    const bool is_pair = blockIdx.x < both ? blockIdx.x % 2 == 0 : pair_blocks > copy_blocks;
    const u32 block = blockIdx.x < both ? blockIdx.x / 2 : blockIdx.x - both / 2;
    if (!is_pair) return copy_rows(p, (block * WARPS + warp) * COPIED);
    const u32 pair = block * WARPS + warp;
    const float loss = warp_sum(pair < p.words.pairs ? do_pair<WIDE>(p, pair, direct) : 0.f);
    if (threadIdx.x % 32 == 0) block_loss[warp] = loss;
    __syncthreads();
    if (threadIdx.x > 0) return;
    float sum = 0.f;
#pragma unroll 1
    for (int w = 0; w < WARPS; ++w) sum += block_loss[w];
    losses[block] = sum;
}

#define PAIRS(WIDE, name)                                                                                              \
    extern "C" __global__ void __launch_bounds__(THREADS, 4) name(                                                     \
        const float* __restrict__ in_table, const float* __restrict__ out_table, const int* __restrict__ centers,      \
        const int* __restrict__ contexts, const int* __restrict__ negatives, const u32* counts, const u32* ranks,      \
        const u32* starts, float* __restrict__ factors,                                                                \
        uint2* __restrict__ entries, u32* __restrict__ names, float* __restrict__ gradients,                           \
        float* __restrict__ losses, float* __restrict__ in_updated, float* __restrict__ out_updated, float lr,         \
        i64 batch, i64 k, i64 dim, i64 vocab, u32 pair_blocks, u32 copy_blocks, u32 direct) {                          \
        const Batch words{centers, contexts, negatives, (u32)batch, (u32)k};                                           \
        const Pairs p{in_table, out_table, words, counts, ranks, starts, factors, entries, names, gradients,           \
                      in_updated, out_updated, lr, dim, (u32)vocab};                                                   \
        pairs<WIDE>(p, losses, pair_blocks, copy_blocks, direct);                                                      \
    }
PAIRS(false, word2vec_pairs)
PAIRS(true, word2vec_pairs_wide)

// What the rows' kernel is given.
struct Rows {
    const float *in_table, *out_table, *gradients;
    const int* centers;
    const float* factors;
    u32* sizes;
    const uint4 *few, *pieces;
    const uint2* entries;
    const u32* names;
    float *partials, *in_updated, *out_updated;
    float lr;
    i64 dim;
    u32 pairs, k, vocab;

    __device__ __forceinline__ bool is_in(u32 row) const { return row < vocab; }
    __device__ __forceinline__ const float* terms(u32 row) const { return is_in(row) ? gradients : in_table; }
    __device__ __forceinline__ const float* table(u32 row) const {
        return is_in(row) ? in_table + (i64)row * dim : out_table + (i64)(row - vocab) * dim;
    }
    __device__ __forceinline__ float* updated(u32 row) const {
        return is_in(row) ? in_updated + (i64)row * dim : out_updated + (i64)(row - vocab) * dim;
    }
};

// Rows of at most FEW terms, as many lanes a row: its terms are put in the order of (row of the term, factor), which takes for
// one another only terms that are equal.
__device__ __forceinline__ void few_terms(const Rows& p, u32 item, u32 number, uint2 (&ordered)[32]) {
    constexpr int LANES = FEW, EACH = 2;
    const int lane = threadIdx.x % 32, within = lane % LANES, group = lane / LANES * LANES;
    const uint4 here = item < number ? p.few[item] : make_uint4(0, 0, 0, 0);
    const int held = (int)here.z;
    const uint2 mine = within < held ? p.entries[here.y + within] : make_uint2(0, 0);
    int place = 0;
#pragma unroll 4
    for (int other = 0; other < FEW; ++other) {
        const u32 x = __shfl_sync(ALL, mine.x, other, LANES), y = __shfl_sync(ALL, mine.y, other, LANES);
        const bool before = x < mine.x || (x == mine.x && (y < mine.y || (y == mine.y && other < within)));
        place += other < held && before;
    }
    if (within < held) ordered[group + place] = mine;
    __syncwarp();
    if (held > 0) {
        const float *terms = p.terms(here.x), *table = p.table(here.x);
        float* updated = p.updated(here.x);
#pragma unroll 1
        for (i64 tile = within * 4; tile < p.dim; tile += LANES * EACH * 4) {
            float4 x[EACH], sum[EACH];
#pragma unroll
            for (int e = 0; e < EACH; ++e) {
                sum[e] = zero_4();
                if (tile + e * LANES * 4 < p.dim) x[e] = load_4(table + tile + e * LANES * 4);
            }
#pragma unroll 2
            for (int i = 0; i < held; ++i) {
                const uint2 entry = ordered[group + i];
                const float* from = terms + (i64)entry.x * p.dim + tile;
                float4 term[EACH];
#pragma unroll
                for (int e = 0; e < EACH; ++e)
                    if (tile + e * LANES * 4 < p.dim) term[e] = load_written_4(from + e * LANES * 4);
#pragma unroll
                for (int e = 0; e < EACH; ++e)
                    if (tile + e * LANES * 4 < p.dim) add(sum[e], __uint_as_float(entry.y), term[e]);
            }
#pragma unroll
            for (int e = 0; e < EACH; ++e)
                if (tile + e * LANES * 4 < p.dim) {
                    add(x[e], p.lr, sum[e]);
                    stream_4(updated + tile + e * LANES * 4, x[e]);
                }
        }
    }
    __syncwarp();
}

static constexpr int WINDOW = 131072;  // names that a block orders at a time

struct Piece {
    u32 bits[WINDOW / 32];  // a bit a name; of rows of one piece the names themselves
    u32 chosen[PIECE];
    float factor[PIECE];
    float4 partial[WARPS][32];
    u32 sums[WARPS];
    u32 ticket;
};

// Puts the names of a row of one piece in ascending order into shared.chosen: a name's place is how many are smaller.
__device__ __forceinline__ void order(Piece& shared, const u32* names, u32 count) {
    const u32 mine = threadIdx.x < count ? names[threadIdx.x] : ALL;
    shared.bits[threadIdx.x] = mine;
    __syncthreads();
    u32 place = 0;
    const uint4* four = reinterpret_cast<const uint4*>(shared.bits);
#pragma unroll 2
    for (u32 i = 0; i < (count + 3) / 4; ++i)
        place += (four[i].x < mine) + (four[i].y < mine) + (four[i].z < mine) + (four[i].w < mine);
    if (threadIdx.x < count) shared.chosen[place] = mine;
}

// Puts the names of ranks from .. upto among `count` names below `all`, ascending, into shared.chosen.
__device__ __forceinline__ void choose(Piece& shared, const u32* names, u32 count, u32 from, u32 upto,
                                       u32 all) {
    u32 before = 0;
    for (u32 window = 0; window < all && before < upto; window += WINDOW) {
        const u32 words = min((u32)WINDOW, all - window + 31) / 32;
        for (u32 i = threadIdx.x; i < words; i += THREADS) shared.bits[i] = 0;
        __syncthreads();
        constexpr int FLIGHT = 8;
        for (u32 first = threadIdx.x; first < count; first += FLIGHT * THREADS) {
            u32 name[FLIGHT];
#pragma unroll
            for (int f = 0; f < FLIGHT; ++f) name[f] = first + f * THREADS < count ? names[first + f * THREADS] : ALL;
#pragma unroll
            for (int f = 0; f < FLIGHT; ++f)
                if (name[f] - window < WINDOW) atomicOr(shared.bits + (name[f] - window) / 32, 1u << name[f] % 32);
        }
        __syncthreads();
        const u32 each = (words + THREADS - 1) / THREADS;
        const u32 begin = min(threadIdx.x * each, words), end = min(begin + each, words);
        u32 here = 0, total;
#pragma unroll 1
        for (u32 i = begin; i < end; ++i) here += __popc(shared.bits[i]);
        u32 rank = before + block_exclusive_sum(here, shared.sums, total);
        if (rank < upto && rank + here > from)
#pragma unroll 1
            for (u32 i = begin; i < end; ++i)
#pragma unroll 1
                for (u32 bits = shared.bits[i]; bits; bits &= bits - 1, ++rank)
                    if (rank >= from && rank < upto) shared.chosen[rank - from] = window + i * 32 + __ffs(bits) - 1;
        before += total;
        __syncthreads();
    }
}

// Adds up the warps' sums and moves the row along the total, or puts the total away.
__device__ __forceinline__ void finish(Piece& shared, float4 sum, const float* table, float* to, float lr, i64 column,
                                       i64 dim) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    shared.partial[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && column < dim) {
#pragma unroll
        for (int w = 1; w < WARPS; ++w) add(sum, 1.f, shared.partial[w][lane]);
        if (table) {
            float4 x = load_4(table + column);
            add(x, lr, sum);
            sum = x;
        }
        store_4(to + column, sum);
    }
    __syncthreads();
}

__device__ __forceinline__ void do_piece(const Rows& p, Piece& shared, u32 at) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint4 piece = p.pieces[at];
    const u32 row = piece.x, count = piece.z, from = piece.w * PIECE, upto = min(count, from + PIECE);
    const u32 first = at - piece.w, n = (count + PIECE - 1) / PIECE;
    const bool is_in = p.is_in(row);
    if (n == 1) order(shared, p.names + piece.y, count);
    else choose(shared, p.names + piece.y, count, from, upto, p.pairs * (is_in ? 1 : 1 + p.k));
    __syncthreads();
    const int held = (int)(upto - from);
    if ((int)threadIdx.x < held) {
        const u32 name = shared.chosen[threadIdx.x];
        shared.factor[threadIdx.x] = is_in ? 1.f : p.factors[name];
        if (!is_in) shared.chosen[threadIdx.x] = (u32)p.centers[name / (1 + p.k)];
    }
    __syncthreads();
    const float *terms = p.terms(row), *table = p.table(row);
    float *updated = p.updated(row), *partial = p.partials + (i64)at * p.dim;
    constexpr int FLIGHT = 4;
#pragma unroll 1
    for (i64 tile = 0; tile < p.dim; tile += 128) {
        const i64 column = tile + lane * 4;
        float4 sum = zero_4();
        for (int base = warp; base < held; base += FLIGHT * WARPS) {
            float4 x[FLIGHT];
#pragma unroll
            for (int f = 0; f < FLIGHT; ++f)
                if (base + f * WARPS < held && column < p.dim)
                    x[f] = load_written_4(terms + (i64)shared.chosen[base + f * WARPS] * p.dim + column);
#pragma unroll
            for (int f = 0; f < FLIGHT; ++f)
                if (base + f * WARPS < held && column < p.dim) add(sum, shared.factor[base + f * WARPS], x[f]);
        }
        finish(shared, sum, n == 1 ? table : nullptr, n == 1 ? updated : partial, p.lr, column, p.dim);
    }
    if (n == 1) return;
    if (threadIdx.x == 0) shared.ticket = count_acquire_release(p.sizes + 3 + first);
    __syncthreads();
    if (shared.ticket != n - 1) return;
#pragma unroll 1
    for (i64 tile = 0; tile < p.dim; tile += 128) {
        const i64 column = tile + lane * 4;
        float4 sum = zero_4();
        if (column < p.dim)
#pragma unroll 4
            for (u32 i = warp; i < n; i += WARPS)
                add(sum, 1.f, __ldcg(reinterpret_cast<const float4*>(p.partials + (i64)(first + i) * p.dim + column)));
        finish(shared, sum, table, updated, p.lr, column, p.dim);
    }
}

__device__ __forceinline__ void mean_loss(Piece& shared, const float* losses, float* loss, u32 n, u32 pairs) {
    float sum = 0.f;
#pragma unroll 2
    for (u32 i = threadIdx.x; i < n; i += THREADS) sum += losses[i];
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) shared.factor[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        sum = 0.f;
#pragma unroll 1
        for (int w = 0; w < WARPS; ++w) sum += shared.factor[w];
        loss[0] = pairs > 0 ? sum / (float)pairs : 0.f;
    }
    __syncthreads();
}

extern "C" __global__ void __launch_bounds__(THREADS, 4)
    word2vec_rows(const float* __restrict__ in_table, const float* __restrict__ out_table, const float* gradients,
                  const int* __restrict__ centers, const float* factors, u32* sizes, const uint4* few,
                  const uint4* pieces, const uint2* entries, const u32* names, const float* losses,
                  float* __restrict__ partials, float* __restrict__ in_updated, float* __restrict__ out_updated,
                  float* __restrict__ loss, float lr, i64 batch, i64 k, i64 dim, i64 vocab, u32 piece_blocks,
                  u32 loss_blocks) {
    __shared__ Piece shared;
    __shared__ uint2 ordered[WARPS][32];
    wait_for_launches();
    const Rows p{in_table,   out_table,   gradients, centers, factors,    sizes,  few,       pieces, entries, names, partials,
                 in_updated, out_updated, lr,        dim,     (u32)batch, (u32)k, (u32)vocab};
    if (blockIdx.x >= piece_blocks) {
        const u32 number = sizes[1], warp = (blockIdx.x - piece_blocks) * WARPS + threadIdx.x / 32;
        const u32 step = (gridDim.x - piece_blocks) * WARPS * 2;
        for (u32 first = warp * 2; first < number; first += step)
            few_terms(p, first + threadIdx.x % 32 / FEW, number, ordered[threadIdx.x / 32]);
        return;
    }
    if (blockIdx.x == 0) mean_loss(shared, losses, loss, loss_blocks, p.pairs);
    const u32 number = sizes[2];
    for (u32 at = blockIdx.x; at < number; at += piece_blocks) {
        do_piece(p, shared, at);
        __syncthreads();
    }
}
