// The last stage of embedding_word2vec_grouped.cu: each row that terms name is summed and written once.
#pragma once
#include "embedding_word2vec_terms.cuh"

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
