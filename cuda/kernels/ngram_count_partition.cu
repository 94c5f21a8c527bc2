// Idea: hashed n-grams are partitioned twice into buckets so small that a table in shared memory counts each: nothing is
//   sorted, so no rank needs to be stable, and no count meets another block's.
// Source: the partitioned hash aggregation of databases: Manegold, Boncz & Kersten 2000, "Optimizing Main-Memory Join on
//   Modern Hardware" (radix partitioning); Polychroniou & Ross 2014 (passes through local buffers).
// Shapes: tokens [n] u32; hashed [n − order + 1] u32 or u64; offsets [buckets + 1] u32, cursors [digits] and [buckets] u32;
//   buckets = 2^bucket_bits, of which the first pass tells apart `digits`; outputs ngrams, counts, unique.
// Plan: histogram: every block counts the buckets of its share in shared memory. offsets: one block scans them. first: a
//   block packs and hashes a tile of 4096 positions, ranks it by additions in shared memory, reserves room in each digit's
//   part by one addition and writes runs. second: the same within each part. count: a block a bucket; what finds no slot in
//   its table makes it take the bucket's classes (keys with equal low bits) one after the other. The hash is a bijection
//   whose high bits name the bucket, so passes move hashes alone and the last kernel undoes them.
// Numerics: integers; counts do not depend on the order of events, the order of the entries does.
// Limits: n < 2^32, bucket_bits 2 to 15, at most 256 digits a pass. A bucket is one block's: an n-gram that is half of the
//   text leaves the others idle, and keys chosen against the fixed hash share one, in time quadratic in their number.
#include "ngram.cuh"

static constexpr int THREADS = 512, WARPS = THREADS / 32, ITEMS = 8, TILE = THREADS * ITEMS, DIGITS = 256;
static constexpr int COUNT_THREADS = 512, COUNT_ITEMS = 5, SLOT_BITS = 12, SLOTS = 1 << SLOT_BITS, PROBES = 128, HISTOGRAM_THREADS = 1024;

// An odd factor and what undoes it; each step of Newton's doubles the correct low bits, of which 3 are there.
template <typename Key> constexpr Key inverse(Key factor) {
    Key x = factor;
    for (int i = 0; i < 5; ++i) x *= 2 - factor * x;
    return x;
}
template <typename Key> struct Hash;
template <> struct Hash<u32> {
    static constexpr u32 FIRST = 0x9e3779b1u, SECOND = 0x85ebca77u;
    static constexpr int BITS = 32;
};
template <> struct Hash<u64> {
    static constexpr u64 FIRST = 0x9e3779b97f4a7c15ull, SECOND = 0xff51afd7ed558ccdull;
    static constexpr int BITS = 64;
};
template <typename Key> __device__ __forceinline__ Key hashed(Key key) {
    typedef Hash<Key> H;
    key *= H::FIRST;
    return (key ^ key >> H::BITS / 2) * H::SECOND;
}
template <typename Key> __device__ __forceinline__ Key unhashed(Key key) {
    typedef Hash<Key> H;
    constexpr Key first = inverse(H::FIRST), second = inverse(H::SECOND);
    key *= second;
    return (key ^ key >> H::BITS / 2) * first;
}

// Four tokens from `at` on, a multiple of 4; 0 beyond the stream.
__device__ __forceinline__ void four_tokens(const u32* __restrict__ tokens, i64 at, i64 n, u32* to) {
    if (at + 4 <= n) {
        const uint4 four = __ldg((const uint4*)(tokens + at));
        to[0] = four.x, to[1] = four.y, to[2] = four.z, to[3] = four.w;
        return;
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) to[j] = at + j < n ? tokens[at + j] : 0;
}
// x << by, 0 where `by` is as wide as x or wider.
__device__ __forceinline__ u32 shifted(u32 x, u32 by) {
    asm("shl.b32 %0, %0, %1;" : "+r"(x) : "r"(by));
    return x;
}
__device__ __forceinline__ u64 shifted(u64 x, u32 by) {
    asm("shl.b64 %0, %0, %1;" : "+l"(x) : "r"(by));
    return x;
}
// Hashes of the n-grams that start at the first four of eight tokens: tokens beyond the order are shifted out.
template <typename Key> __device__ __forceinline__ void four_hashed(const u32 (&token)[8], int order, int bits, Key (&to)[4]) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        to[j] = 0;
#pragma unroll
        for (int k = 0; k < 5; ++k)
            if (j + k < 8) to[j] |= shifted((Key)token[j + k], k < order ? bits * (order - 1 - k) : 64);
        to[j] = hashed(to[j]);
    }
}
// The same of `Groups` times 128 positions a warp, from `start` on, a lane's four side by side; all loads come first.
template <typename Key, int Groups>
__device__ __forceinline__ void warp_hashed(const u32* __restrict__ tokens, i64 start, i64 n, int order, int bits,
                                            Key (&to)[4 * Groups]) {
    u32 token[Groups][8];
#pragma unroll
    for (int group = 0; group < Groups; ++group) {
        const i64 at = start + group * 128 + threadIdx.x % 32 * 4;
        four_tokens(tokens, at, n, token[group]);
        four_tokens(tokens, at + 4, n, token[group] + 4);
    }
#pragma unroll
    for (int group = 0; group < Groups; ++group) {
        Key four[4];
        four_hashed(token[group], order, bits, four);
#pragma unroll
        for (int j = 0; j < 4; ++j) to[group * 4 + j] = four[j];
    }
}

template <typename Key>
__device__ void histogram(const u32* __restrict__ tokens, u32* __restrict__ totals, i64 n, int order, int bits,
                          int bucket_bits, i64 share) {
    extern __shared__ __align__(16) unsigned char memory[];
    constexpr int GROUPS = 8 / sizeof(Key);
    u32* bins = reinterpret_cast<u32*>(memory);
#pragma unroll 1
    for (int bin = threadIdx.x; bin < 1 << bucket_bits; bin += HISTOGRAM_THREADS) bins[bin] = 0;
    __syncthreads();
    const i64 ngrams = n - order + 1, start = blockIdx.x * share, end = start + share < ngrams ? start + share : ngrams;
    for (i64 base = start + threadIdx.x / 32 * (128 * GROUPS); base < end;
         base += 4 * GROUPS * HISTOGRAM_THREADS) {
        Key key[4 * GROUPS];
        warp_hashed<Key, GROUPS>(tokens, base, n, order, bits, key);
#pragma unroll
        for (int i = 0; i < 4 * GROUPS; ++i)
            if (base + i / 4 * 128 + threadIdx.x % 32 * 4 + i % 4 < end)
                atomicAdd(&bins[key[i] >> (Hash<Key>::BITS - bucket_bits)], 1u);
    }
    __syncthreads();
#pragma unroll 1
    for (int bin = threadIdx.x; bin < 1 << bucket_bits; bin += HISTOGRAM_THREADS)
        if (bins[bin] > 0) atomicAdd(&totals[bin], bins[bin]);
}

// Exclusive sum over the block's threads, in thread order. `partial` holds a word a warp.
__device__ __forceinline__ u32 block_exclusive_sum(u32 x, u32* partial) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const u32 sum = warp_sum_so_far(x);
    if (lane == 31) partial[warp] = sum;
    __syncthreads();
    u32 before = 0;
#pragma unroll 1
    for (int w = 0; w < warp; ++w) before += partial[w];
    return before + sum - x;
}

// One block turns the buckets' sizes into their starts, in place, with the end of the last behind them, and sets what the
// passes count up.
extern "C" __global__ void __launch_bounds__(1024)
    partition_offsets(u32* offsets, u32* __restrict__ first, u32* __restrict__ second, u64* __restrict__ unique,
                      int bucket_bits, int second_bits) {
    __shared__ u32 partial[32];
    constexpr int MOST = 8;  // words of four buckets a thread
    const int buckets = 1 << bucket_bits, words = (buckets + 4095) / 4096, from = threadIdx.x * words;
    uint4* of_words = reinterpret_cast<uint4*>(offsets);
    uint4 held[MOST];
    u32 own = 0;
#pragma unroll
    for (int i = 0; i < MOST; ++i) {
        held[i] = i < words && from + i < buckets / 4 ? of_words[from + i] : make_uint4(0, 0, 0, 0);
        own += held[i].x + held[i].y + held[i].z + held[i].w;
    }
    u32 at = block_exclusive_sum(own, partial);
#pragma unroll
    for (int i = 0; i < MOST; ++i) {
        if (i >= words || from + i >= buckets / 4) continue;
        const uint4 starts = {at, at + held[i].x, at + held[i].x + held[i].y, at + held[i].x + held[i].y + held[i].z};
        at = starts.w + held[i].w;
        of_words[from + i] = starts;
        reinterpret_cast<uint4*>(second)[from + i] = starts;
        if (from + i == buckets / 4 - 1) offsets[buckets] = at;
    }
    __syncthreads();
    if (threadIdx.x < buckets >> second_bits) first[threadIdx.x] = offsets[threadIdx.x << second_bits];
    if (threadIdx.x == 0) *unique = 0;
}

template <typename Key> struct Staged {
    Key keys[TILE];
    u32 bins[DIGITS];       // sizes of the tile's runs, then their starts
    u32 to_global[DIGITS];  // what turns a position in the tile into one in the output
    u32 partial[WARPS];
};

// Writes this block's `held` keys, of which thread `t` has those with a bit in `mine`, to their digits' parts.
template <typename Key>
__device__ __forceinline__ void scatter(const Key (&key)[ITEMS], u32 mine, u32 held, Key* __restrict__ out,
                                        u32* __restrict__ cursors, int shift, u32 digit_mask, Staged<Key>& staged) {
    for (int bin = threadIdx.x; bin < DIGITS; bin += THREADS) staged.bins[bin] = 0;
    __syncthreads();
    u32 rank[ITEMS];
#pragma unroll
    for (int i = 0; i < ITEMS; ++i)
        if (mine >> i & 1u) rank[i] = atomicAdd(&staged.bins[(u32)(key[i] >> shift) & digit_mask], 1u);
    __syncthreads();
    const bool is_digit = threadIdx.x < DIGITS;
    const u32 size = is_digit ? staged.bins[threadIdx.x] : 0u;
    const u32 room = size > 0 ? atomicAdd(&cursors[threadIdx.x], size) : 0u;
    const u32 start = block_exclusive_sum(size, staged.partial);
    if (is_digit) {
        staged.bins[threadIdx.x] = start;
        staged.to_global[threadIdx.x] = room - start;
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < ITEMS; ++i)
        if (mine >> i & 1u) staged.keys[staged.bins[(u32)(key[i] >> shift) & digit_mask] + rank[i]] = key[i];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        const u32 at = i * THREADS + threadIdx.x;
        if (at >= held) break;
        const Key moved = staged.keys[at];
        out[staged.to_global[(u32)(moved >> shift) & digit_mask] + at] = moved;
    }
}

template <typename Key>
__device__ void first_pass(const u32* __restrict__ tokens, Key* __restrict__ out, u32* __restrict__ cursors, i64 n, int order,
                           int bits, int first_bits) {
    extern __shared__ __align__(16) unsigned char memory[];
    const i64 start = (i64)blockIdx.x * TILE, left = n - order + 1 - start;
    const u32 held = left < TILE ? (u32)left : TILE;
    const u32 in_tile = threadIdx.x / 32 * 32 * ITEMS + threadIdx.x % 32 * 4;
    Key key[ITEMS];
    warp_hashed<Key, ITEMS / 4>(tokens, start + threadIdx.x / 32 * 32 * ITEMS, n, order, bits, key);
    u32 mine = 0;
#pragma unroll
    for (int i = 0; i < ITEMS; ++i)
        if (in_tile + i / 4 * 128 + i % 4 < held) mine |= 1u << i;
    scatter(key, mine, held, out, cursors, Hash<Key>::BITS - first_bits, (1u << first_bits) - 1,
            *reinterpret_cast<Staged<Key>*>(memory));
}

template <typename Key>
__device__ void second_pass(const Key* __restrict__ keys, Key* __restrict__ out, u32* __restrict__ cursors,
                            const u32* __restrict__ offsets, i64 ngrams, int bucket_bits, int second_bits) {
    extern __shared__ __align__(16) unsigned char memory[];
    const i64 start = (i64)blockIdx.x * TILE, end = start + TILE < ngrams ? start + TILE : ngrams;
    // A part of the first pass after the other: most tiles have one or two.
    for (i64 begin = start; begin < end;) {
        const u32 part = (u32)(keys[begin] >> (Hash<Key>::BITS - bucket_bits + second_bits));
        const i64 part_end = offsets[(part + 1) << second_bits], stop = part_end < end ? part_end : end;
        Key key[ITEMS];
        u32 mine = 0;
#pragma unroll
        for (int i = 0; i < ITEMS; ++i) {
            const i64 at = begin + i * THREADS + threadIdx.x;
            key[i] = 0;
            if (at >= stop) continue;
            key[i] = keys[at];
            mine |= 1u << i;
        }
        scatter(key, mine, (u32)(stop - begin), out, cursors + (part << second_bits), Hash<Key>::BITS - bucket_bits,
                (1u << second_bits) - 1, *reinterpret_cast<Staged<Key>*>(memory));
        begin = stop;  // the next part's barriers keep what this one still reads
    }
}

// A bucket's table. The hash with all bits set, which marks free slots, is counted apart.
template <typename Key> struct Table {
    static constexpr Key FREE = ~(Key)0;
    static constexpr int NONE = -1;
    Key keys[SLOTS];
    u32 counts[SLOTS];
    u32 marker, full, partial[COUNT_THREADS / 32];
    u64 start;

    __device__ __forceinline__ void clear() {
        uint4 *of_keys = reinterpret_cast<uint4*>(keys), *of_counts = reinterpret_cast<uint4*>(counts);
#pragma unroll 1
        for (int i = threadIdx.x; i < (int)(sizeof(keys) / 16); i += COUNT_THREADS) of_keys[i] = make_uint4(~0u, ~0u, ~0u, ~0u);
#pragma unroll 1
        for (int i = threadIdx.x; i < (int)(sizeof(counts) / 16); i += COUNT_THREADS) of_counts[i] = make_uint4(0, 0, 0, 0);
        if (threadIdx.x == 0) marker = full = 0;
    }
    // Counts a key; the slot that it takes if it is the first, whose addition is never made, otherwise NONE.
    __device__ __forceinline__ int add(Key key, int bucket_bits) {
        if (key == FREE) {
            atomicAdd(&marker, 1u);
            return NONE;
        }
        u32 slot = (u32)((Key)(key << bucket_bits) >> (Hash<Key>::BITS - SLOT_BITS));
#pragma unroll 1
        for (int probe = 0; probe < PROBES; ++probe) {
            // Where most keys come again, a look at the slot spares the exchange; long keys are mostly new.
            Key held = sizeof(Key) == 4 ? *(volatile Key*)&keys[slot] : FREE;
            if (held == FREE) {
                held = atomicCAS(&keys[slot], FREE, key);
                if (held == FREE) return (int)slot;
            }
            if (held == key) {
                atomicAdd(&counts[slot], 1u);
                return NONE;
            }
            slot = (slot + 1) % SLOTS;
        }
        atomicOr(&full, 1u);
        return NONE;
    }
    // Writes the entries at the slots that this thread names, where one addition to `unique` found room for all.
    template <int N, int Unroll, typename Slot>
    __device__ __forceinline__ void emit(const Slot& slot, u64* __restrict__ ngrams, u32* __restrict__ to, u64* unique) {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        u32 used = 0;
#pragma unroll Unroll
        for (int i = 0; i < N; ++i) used += __popc(__ballot_sync(0xffffffffu, slot(i) != NONE));
        if (lane == 0) partial[warp] = used;
        __syncthreads();
        if (warp == 0) {
            const u32 own = lane < COUNT_THREADS / 32 ? partial[lane] : 0u;
            const u32 all = __reduce_add_sync(0xffffffffu, own) + (marker > 0);
            if (lane == 0) start = all > 0 ? atomicAdd(unique, (u64)all) : 0;
        }
        u32 before = 0;
#pragma unroll 1
        for (int w = 0; w < warp; ++w) before += partial[w];
        __syncthreads();
        u64 at = start + before;
#pragma unroll Unroll
        for (int i = 0; i < N; ++i) {
            const int own = slot(i);
            const u32 lanes = __ballot_sync(0xffffffffu, own != NONE);
            if (own != NONE) {
                const u64 entry = at + __popc(lanes & ((1u << lane) - 1u));
                ngrams[entry] = unhashed(keys[own]);
                to[entry] = counts[own] + 1;
            }
            at += __popc(lanes);
        }
        if (marker > 0 && threadIdx.x == COUNT_THREADS - 1) {
            ngrams[at] = unhashed(FREE);
            to[at] = marker;
        }
    }
    // Of all slots.
    __device__ __forceinline__ void emit_all(u64* __restrict__ ngrams, u32* __restrict__ to, u64* unique) {
        const auto slot = [this](int i) {
            const int at = i * COUNT_THREADS + threadIdx.x;
            return keys[at] != FREE ? at : NONE;
        };
        emit<SLOTS / COUNT_THREADS, 1>(slot, ngrams, to, unique);
    }
};

// Keys are of a class if their low `depth` bits are `low`.
struct Class {
    int depth;
    u64 low;
    __device__ __forceinline__ bool has(u64 key) const { return (key & ((1ull << depth) - 1)) == low; }
    __device__ __forceinline__ void split() { ++depth; }
    // The next in order; false after the last.
    __device__ __forceinline__ bool next() {
        while (depth > 0 && low >> (depth - 1) & 1) low ^= 1ull << --depth;
        if (depth == 0) return false;
        low |= 1ull << (depth - 1);
        return true;
    }
};

// Adds this thread's share of at most COUNT_ITEMS * COUNT_THREADS keys to a table that is cleared first: the loads are under
// way meanwhile.
template <typename Key>
__device__ __forceinline__ void count_at_once(Table<Key>& table, const Key* __restrict__ keys, u32 size, int bucket_bits,
                                              int (&slot)[COUNT_ITEMS]) {
    Key key[COUNT_ITEMS];
#pragma unroll
    for (int i = 0; i < COUNT_ITEMS; ++i)
        if (i * COUNT_THREADS + threadIdx.x < size) key[i] = keys[i * COUNT_THREADS + threadIdx.x];
    table.clear();
    __syncthreads();
#pragma unroll
    for (int i = 0; i < COUNT_ITEMS; ++i)
        slot[i] = i * COUNT_THREADS + threadIdx.x < size ? table.add(key[i], bucket_bits) : Table<Key>::NONE;
}

// Adds the keys of a class to a table that is cleared first; whether they found room.
template <typename Key>
__device__ __forceinline__ bool count_class(Table<Key>& table, const Key* __restrict__ keys, u32 size, int bucket_bits,
                                            const Class& of) {
    table.clear();
    __syncthreads();
#pragma unroll 1
    for (u32 i = threadIdx.x; i < size; i += COUNT_THREADS) {
        const Key key = keys[i];
        if (of.has(key)) table.add(key, bucket_bits);
    }
    __syncthreads();
    const bool fits = table.full == 0;
    __syncthreads();
    return fits;
}

template <typename Key>
__device__ void count(const Key* __restrict__ keys, const u32* __restrict__ offsets, u64* __restrict__ ngrams,
                      u32* __restrict__ counts, u64* __restrict__ unique, int bucket_bits) {
    extern __shared__ __align__(16) unsigned char memory[];
    Table<Key>& table = *reinterpret_cast<Table<Key>*>(memory);
    const u32 begin = offsets[blockIdx.x], size = offsets[blockIdx.x + 1] - begin;
    if (size == 0) return;
    keys += begin;
    if (size <= COUNT_ITEMS * COUNT_THREADS) {
        int slot[COUNT_ITEMS];
        count_at_once(table, keys, size, bucket_bits, slot);
        __syncthreads();
        if (table.full == 0)
            return table.template emit<COUNT_ITEMS, COUNT_ITEMS>([&](int i) { return slot[i]; }, ngrams, counts, unique);
        __syncthreads();
    }
    Class of{0, 0};
    do {
        while (!count_class(table, keys, size, bucket_bits, of)) of.split();
        table.emit_all(ngrams, counts, unique);
        __syncthreads();
    } while (of.next());
}

#define PARTITION(Key, suffix)                                                                                         \
    extern "C" __global__ void __launch_bounds__(HISTOGRAM_THREADS) partition_histogram_##suffix(                      \
        const u32* tokens, u32* totals, i64 n, int order, int bits, int bucket_bits, i64 share) {                      \
        histogram<Key>(tokens, totals, n, order, bits, bucket_bits, share);                                            \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS, 2) partition_first_##suffix(                                    \
        const u32* tokens, Key* out, u32* cursors, i64 n, int order, int bits, int first_bits) {                       \
        first_pass<Key>(tokens, out, cursors, n, order, bits, first_bits);                                             \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS, 3) partition_second_##suffix(                                   \
        const Key* keys, Key* out, u32* cursors, const u32* offsets, i64 ngrams, int bucket_bits, int second_bits) {   \
        second_pass<Key>(keys, out, cursors, offsets, ngrams, bucket_bits, second_bits);                               \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(COUNT_THREADS) partition_count_##suffix(                              \
        const Key* keys, const u32* offsets, u64* ngrams, u32* counts, u64* unique, int bucket_bits) {                 \
        count<Key>(keys, offsets, ngrams, counts, unique, bucket_bits);                                                \
    }
PARTITION(u32, u32)
PARTITION(u64, u64)
