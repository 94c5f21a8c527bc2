// Idea: least-significant-digit radix sort of (key, value) pairs, 8 bits a pass: count, scan, stable scatter.
// Source: Merrill & Grimshaw 2011, "High Performance and Scalable Radix Sorting"; Satish et al. 2009.
// Shapes: keys [n] u32 or u64; values [n] u32, or null for 0, 1, …, n−1; counts [256, tiles] u32; totals [256] u32.
// Plan: count: a block a tile of 4096 keys. scan: a block a digit, running over the tiles. scatter: a block a
//       tile; a warp ranks 32 keys at a time by ballots, so that equal digits keep their order; the tile is put in
//       digit order in shared memory first, so that a warp's stores fall in few segments.
// Numerics: integers only; the sort is stable and repeats bit for bit.
// Limits: n <= 2^31. `digit_mask` keeps the low bits of a digit; bits outside the key range are never looked at.
#include "numeric.cuh"

typedef unsigned short u16;

static constexpr int THREADS = 512, WARPS = THREADS / 32, ITEMS = 8, TILE = THREADS * ITEMS, DIGITS = 256;

template <typename Key> __device__ __forceinline__ u32 digit_of(Key key, int shift, u32 digit_mask) {
    return (u32)(key >> shift) & digit_mask;
}

template <typename Key>
__device__ void count(const Key* __restrict__ keys, u32* __restrict__ counts, i64 n, int shift, u32 digit_mask) {
    __shared__ u32 bins[WARPS][DIGITS];
    const int warp = threadIdx.x / 32;
    for (int bin = threadIdx.x; bin < WARPS * DIGITS; bin += THREADS) bins[bin / DIGITS][bin % DIGITS] = 0;
    __syncthreads();
    const i64 start = (i64)blockIdx.x * TILE;
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        const i64 at = start + i * THREADS + threadIdx.x;
        if (at < n) atomicAdd(&bins[warp][digit_of(keys[at], shift, digit_mask)], 1u);
    }
    __syncthreads();
    if (threadIdx.x >= DIGITS) return;
    u32 sum = 0;
    for (int w = 0; w < WARPS; ++w) sum += bins[w][threadIdx.x];
    counts[(i64)threadIdx.x * gridDim.x + blockIdx.x] = sum;
}

// Exclusive sum over the block's threads, in thread order; `total` gets the sum of all. `partial` holds 32 words.
__device__ __forceinline__ u32 block_exclusive_sum(u32 x, u32* partial, u32& total) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    const u32 sum = warp_sum_so_far(x);
    if (lane == 31) partial[warp] = sum;
    __syncthreads();
    u32 before = 0;
    total = 0;
    for (int w = 0; w < warps; ++w) {
        if (w < warp) before += partial[w];
        total += partial[w];
    }
    __syncthreads();
    return before + sum - x;
}

// Block d turns digit d's counts into the sum of the counts of the tiles before, and keeps the digit's total.
extern "C" __global__ void __launch_bounds__(1024) radix_scan(u32* __restrict__ counts, u32* __restrict__ totals,
                                                              i64 tiles) {
    __shared__ u32 partial[32];
    u32* row = counts + (i64)blockIdx.x * tiles;
    u32 carry = 0;
    for (i64 start = 0; start < tiles; start += blockDim.x) {
        const i64 at = start + threadIdx.x;
        u32 total;
        const u32 before = block_exclusive_sum(at < tiles ? row[at] : 0u, partial, total);
        if (at < tiles) row[at] = carry + before;
        carry += total;
    }
    if (threadIdx.x == 0) totals[blockIdx.x] = carry;
}

// The lanes of the warp whose digit equals this lane's.
__device__ __forceinline__ u32 lanes_with_digit(u32 digit) {
    u32 same = 0xffffffffu;
#pragma unroll
    for (int bit = 0; bit < 8; ++bit) {
        const bool set = digit >> bit & 1u;
        const u32 with = __ballot_sync(0xffffffffu, set);
        same &= set ? with : ~with;
    }
    return same;
}

template <typename Key> struct Shared {
    Key staged[TILE];          // keys, later values, in digit order
    u16 bins[WARPS][DIGITS];   // counts of a warp's keys, then the tile-local start of (digit, warp)
    u32 to_global[DIGITS];     // what turns a tile-local position of that digit into an output position
    u32 partial[32];
};

// Where thread (warp, lane) finds its i-th key: at slot(i) of the tile. Slots from `held` on are past the end; they
// count as digit 255, where they come last.
__device__ __forceinline__ int slot(int i) { return threadIdx.x / 32 * 32 * ITEMS + i * 32 + threadIdx.x % 32; }

// Position of each of this thread's keys among the keys of equal digit of its warp.
template <typename Key>
__device__ __forceinline__ void rank(const u32 (&digit)[ITEMS], int (&position)[ITEMS], Shared<Key>& shared) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        const u32 same = lanes_with_digit(digit[i]);
        const int leader = __ffs(same) - 1;
        u32 before = 0;
        if (lane == leader) {
            before = shared.bins[warp][digit[i]];
            shared.bins[warp][digit[i]] = (u16)(before + __popc(same));
        }
        before = __shfl_sync(0xffffffffu, before, leader);
        position[i] = (int)(before + __popc(same & ((1u << lane) - 1u)));
        __syncwarp();
    }
}

// Thread d < 256: turns the warps' counts of digit d into tile-local starts, and finds where digit d goes in the
// output.
template <typename Key>
__device__ __forceinline__ void place_digits(Shared<Key>& shared, const u32* counts, const u32* totals) {
    const int d = threadIdx.x;
    const bool is_digit = d < DIGITS;
    u32 in_tile = 0, unused;
    if (is_digit)
        for (int w = 0; w < WARPS; ++w) in_tile += shared.bins[w][d];
    const u32 tile_start = block_exclusive_sum(in_tile, shared.partial, unused);
    const u32 digit_start = block_exclusive_sum(is_digit ? totals[d] : 0u, shared.partial, unused);
    if (!is_digit) return;
    shared.to_global[d] = digit_start + counts[(i64)d * gridDim.x + blockIdx.x] - tile_start;
    u32 at = tile_start;
    for (int w = 0; w < WARPS; ++w) {
        const u32 here = shared.bins[w][d];
        shared.bins[w][d] = (u16)at;
        at += here;
    }
}

template <typename Key>
__device__ void scatter(const Key* __restrict__ keys, const u32* __restrict__ values, Key* __restrict__ keys_out,
                        u32* __restrict__ values_out, const u32* __restrict__ counts, const u32* __restrict__ totals,
                        i64 n, int shift, u32 digit_mask) {
    __shared__ Shared<Key> shared;
    const i64 first = (i64)blockIdx.x * TILE;
    const int held = (int)(n - first < TILE ? n - first : TILE);
    Key key[ITEMS];
    u32 digit[ITEMS];
    int position[ITEMS];
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        const bool in_tile = slot(i) < held;
        key[i] = in_tile ? keys[first + slot(i)] : 0;
        digit[i] = in_tile ? digit_of(key[i], shift, digit_mask) : DIGITS - 1u;
    }
    for (int bin = threadIdx.x; bin < WARPS * DIGITS; bin += THREADS) shared.bins[bin / DIGITS][bin % DIGITS] = 0;
    __syncthreads();
    rank(digit, position, shared);
    __syncthreads();
    place_digits(shared, counts, totals);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        position[i] += (int)shared.bins[threadIdx.x / 32][digit[i]];
        shared.staged[position[i]] = key[i];
    }
    __syncthreads();
    u32 target[ITEMS];
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        const int at = i * THREADS + threadIdx.x;
        const Key staged = shared.staged[at];
        target[i] = shared.to_global[digit_of(staged, shift, digit_mask)] + (u32)at;
        if (at < held) keys_out[target[i]] = staged;
    }
    __syncthreads();
    u32* staged_values = reinterpret_cast<u32*>(shared.staged);
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        const i64 at = first + slot(i);
        if (slot(i) < held) staged_values[position[i]] = values ? values[at] : (u32)at;
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        const int at = i * THREADS + threadIdx.x;
        if (at < held) values_out[target[i]] = staged_values[at];
    }
}

#define RADIX_SORT(Key, suffix)                                                                                    \
    extern "C" __global__ void __launch_bounds__(THREADS) radix_count_##suffix(                                    \
        const Key* keys, u32* counts, i64 n, int shift, u32 digit_mask) {                                          \
        count<Key>(keys, counts, n, shift, digit_mask);                                                            \
    }                                                                                                              \
    extern "C" __global__ void __launch_bounds__(THREADS) radix_scatter_##suffix(                                  \
        const Key* keys, const u32* values, Key* keys_out, u32* values_out, const u32* counts, const u32* totals,  \
        i64 n, int shift, u32 digit_mask) {                                                                        \
        scatter<Key>(keys, values, keys_out, values_out, counts, totals, n, shift, digit_mask);                    \
    }
RADIX_SORT(u32, u32)
RADIX_SORT(u64, u64)
