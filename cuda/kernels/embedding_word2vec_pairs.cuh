// The stage of embedding_word2vec_grouped.cu that reads the tables: a warp a pair, and further blocks for rows that no
// term names.
#pragma once
#include "embedding_word2vec_terms.cuh"

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
