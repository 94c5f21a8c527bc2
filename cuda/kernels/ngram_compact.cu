// Idea: keep the marked elements of an array in their order: count the marks of a tile, scan the counts, write.
// Source: Blelloch 1990, "Prefix Sums and Their Applications" (pack); ranks in a warp by ballot.
// Shapes: n elements in tiles of 4096; tile_starts [tiles] u32; outputs have room for `capacity` entries.
// Plan: mark: a block a tile counts. scan_tiles: one block turns counts into starts and writes their sum, `unique`.
//       keep: a block a tile writes. runs: a thread an entry turns starts of runs into lengths. Entries from
//       `unique` on become zero (runs, zero_tail).
//       heads: first of each run of equal sorted keys. used: counters above zero.
// Numerics: integers; repeats bit for bit.
// Limits: n < 2^32.
#include "numeric.cuh"

static constexpr int THREADS = 256, WARPS = THREADS / 32, ITEMS = 16, TILE = THREADS * ITEMS;

template <typename Key> struct Heads {
    const Key* __restrict__ keys;
    __device__ bool operator()(i64 at) const { return at == 0 || keys[at] != keys[at - 1]; }
};

struct Used {
    const u32* __restrict__ table;
    __device__ bool operator()(i64 at) const { return table[at] != 0; }
};

// Lanes of the warp whose i-th element is marked. A warp has 32·ITEMS consecutive elements.
template <typename Mark> __device__ __forceinline__ u32 marked(const Mark& mark, i64 at, i64 n) {
    return __ballot_sync(0xffffffffu, at < n && mark(at));
}

__device__ __forceinline__ i64 first_of_thread() {
    return (i64)blockIdx.x * TILE + threadIdx.x / 32 * 32 * ITEMS + threadIdx.x % 32;
}

template <typename Mark> __device__ void count_marks(const Mark& mark, u32* __restrict__ tile_starts, i64 n) {
    __shared__ u32 warp_marks[WARPS];
    u32 marks = 0;
    for (int i = 0; i < ITEMS; ++i) marks += __popc(marked(mark, first_of_thread() + i * 32, n));
    if (threadIdx.x % 32 == 0) warp_marks[threadIdx.x / 32] = marks;
    __syncthreads();
    if (threadIdx.x > 0) return;
    u32 sum = 0;
    for (int w = 0; w < WARPS; ++w) sum += warp_marks[w];
    tile_starts[blockIdx.x] = sum;
}

// Calls write(element, entry) for each marked element.
template <typename Mark, typename Write>
__device__ void keep_marked(const Mark& mark, const u32* __restrict__ tile_starts, i64 n, const Write& write) {
    __shared__ u32 warp_marks[WARPS];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    u32 lanes[ITEMS], marks = 0;
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        lanes[i] = marked(mark, first_of_thread() + i * 32, n);
        marks += __popc(lanes[i]);
    }
    if (lane == 0) warp_marks[warp] = marks;
    __syncthreads();
    u32 entry = tile_starts[blockIdx.x];
    for (int w = 0; w < warp; ++w) entry += warp_marks[w];
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        if (lanes[i] >> lane & 1u)
            write(first_of_thread() + i * 32, entry + __popc(lanes[i] & ((1u << lane) - 1u)));
        entry += __popc(lanes[i]);
    }
}

template <typename Key>
__device__ __forceinline__ void keep_heads(const Key* keys, const u32* tile_starts, i64 n, u64* ngrams, u32* starts) {
    keep_marked(Heads<Key>{keys}, tile_starts, n, [=](i64 at, u32 entry) {
        ngrams[entry] = keys[at];
        starts[entry] = (u32)at;
    });
}

extern "C" __global__ void __launch_bounds__(THREADS) mark_heads_u32(const u32* keys, u32* tile_starts, i64 n) {
    count_marks(Heads<u32>{keys}, tile_starts, n);
}
extern "C" __global__ void __launch_bounds__(THREADS) mark_heads_u64(const u64* keys, u32* tile_starts, i64 n) {
    count_marks(Heads<u64>{keys}, tile_starts, n);
}
extern "C" __global__ void __launch_bounds__(THREADS) mark_used(const u32* table, u32* tile_starts, i64 n) {
    count_marks(Used{table}, tile_starts, n);
}
extern "C" __global__ void __launch_bounds__(THREADS) keep_heads_u32(const u32* keys, const u32* tile_starts, i64 n,
                                                                     u64* ngrams, u32* starts) {
    keep_heads(keys, tile_starts, n, ngrams, starts);
}
extern "C" __global__ void __launch_bounds__(THREADS) keep_heads_u64(const u64* keys, const u32* tile_starts, i64 n,
                                                                     u64* ngrams, u32* starts) {
    keep_heads(keys, tile_starts, n, ngrams, starts);
}
extern "C" __global__ void __launch_bounds__(THREADS) keep_used(const u32* table, const u32* tile_starts, i64 n,
                                                                u64* ngrams, u32* counts) {
    keep_marked(Used{table}, tile_starts, n, [=](i64 at, u32 entry) {
        ngrams[entry] = (u64)at;
        counts[entry] = table[at];
    });
}

// One block: exclusive sums of the tiles' counts in place; `unique` gets the sum of all.
extern "C" __global__ void __launch_bounds__(1024) scan_tiles(u32* __restrict__ tile_starts, i64 tiles,
                                                              i64* __restrict__ unique) {
    __shared__ u32 warp_sums[32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    u32 carry = 0;
    for (i64 start = 0; start < tiles; start += blockDim.x) {
        const i64 at = start + threadIdx.x;
        const u32 own = at < tiles ? tile_starts[at] : 0u;
        const u32 sum = warp_sum_so_far(own);
        if (lane == 31) warp_sums[warp] = sum;
        __syncthreads();
        u32 before = carry, total = 0;
        for (int w = 0; w < 32; ++w) {
            if (w < warp) before += warp_sums[w];
            total += warp_sums[w];
        }
        if (at < tiles) tile_starts[at] = before + sum - own;
        carry += total;
        __syncthreads();
    }
    if (threadIdx.x == 0) *unique = carry;
}

// counts[j] = length of the run that starts at starts[j], of n keys.
extern "C" __global__ void __launch_bounds__(THREADS) runs(const u32* __restrict__ starts,
                                                           const i64* __restrict__ unique, i64 n,
                                                           u64* __restrict__ ngrams, u32* __restrict__ counts) {
    const i64 at = (i64)blockIdx.x * THREADS + threadIdx.x, entries = *unique;
    if (at >= n) return;
    if (at >= entries) {
        ngrams[at] = 0;
        counts[at] = 0;
        return;
    }
    counts[at] = (at + 1 < entries ? starts[at + 1] : (u32)n) - starts[at];
}

extern "C" __global__ void __launch_bounds__(THREADS) zero_tail(const i64* __restrict__ unique, i64 capacity,
                                                                u64* __restrict__ ngrams, u32* __restrict__ counts) {
    const i64 first = *unique, rank = (i64)blockIdx.x * THREADS + threadIdx.x, step = (i64)gridDim.x * THREADS;
    const i64 pairs = (first + 1) / 2, fours = (first + 3) / 4;  // the first words that are wholly beyond the entries
    const uint4 zero = make_uint4(0, 0, 0, 0);
    for (i64 at = pairs + rank; at < capacity / 2; at += step) reinterpret_cast<uint4*>(ngrams)[at] = zero;
    for (i64 at = fours + rank; at < capacity / 4; at += step) reinterpret_cast<uint4*>(counts)[at] = zero;
    if (rank >= 4) return;  // before the first word, and behind the last
    if (first + rank < capacity && first + rank < 2 * pairs) ngrams[first + rank] = 0;
    if (first + rank < capacity && first + rank < 4 * fours) counts[first + rank] = 0;
    if (capacity / 2 * 2 + rank < capacity && capacity / 2 * 2 + rank >= 2 * pairs) ngrams[capacity / 2 * 2 + rank] = 0;
    if (capacity / 4 * 4 + rank < capacity && capacity / 4 * 4 + rank >= 4 * fours) counts[capacity / 4 * 4 + rank] = 0;
}
