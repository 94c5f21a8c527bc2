// Idea: hashed n-grams are partitioned twice into buckets so small that a table in shared memory counts each: nothing is
//   sorted, so no rank needs to be stable, and no count meets another block's.
// Source: the partitioned hash aggregation of databases: Manegold, Boncz & Kersten 2000, "Optimizing Main-Memory Join on
//   Modern Hardware" (radix partitioning); Polychroniou & Ross 2014 (passes through local buffers).
// Shapes: tokens [n] u32; hashed [n − order + 1] u32 or u64; offsets [buckets + 1] u32, cursors [digits] and [buckets] u32;
//   buckets = 2^bucket_bits, of which the first pass tells apart `digits`; outputs ngrams, counts, unique.
// Plan: histogram: every block counts the buckets of its share in shared memory. offsets: one block scans them. first: a
//   block packs and hashes a tile of 32 KiB of keys, ranks it by additions in shared memory, reserves room in each digit's
//   part by one addition and writes runs. second: the same within each part. count: a block a bucket; what finds no slot in
//   its table makes it take the bucket's classes (keys with equal low bits) one after the other. The hash is a bijection
//   whose high bits name the bucket, so passes move hashes alone and the last kernel undoes them. Entries fill the outputs
//   from the front; a block zeroes as many places at their end as its bucket had repeats, which is all of the tail.
//   count_packed: of keys of 32 bits, a slot is one word, the key's bits that do not name the bucket above its count: buckets
//   are twice as large, so that what a block does once is done half as often.
// Numerics: integers; counts do not depend on the order of events, the order of the entries does.
// Limits: n < 2^32, bucket_bits 2 to 15 (count_packed: 13 to 15), at most 256 digits a pass. A bucket is one block's: an
//   n-gram that is half of the text leaves the others idle, although its threads count it in registers, and keys chosen
//   against the fixed hash share one, in time quadratic in their number.
// Tried: a single pass into 4096 buckets and packed slots; its runs of four keys take the L2 cache longer than two passes.
//   Additions to one word of shared memory take a lane a cycle, also those of 1: hence the hot key's registers. Fewer threads
//   a bucket with more keys each, of two words a slot: their tables leave fewer warps on a multiprocessor. Tiles of 48 and
//   64 KiB: what the first pass gained, the second lost. No histogram: tiles sorted in place, a part gathered run by run and
//   sorted again, then a counter for each of the 2^15 keys of a smaller bucket: what comes before counting took 417 us instead
//   of 505, but counting 735 at best, since a bucket lies in pieces and its few threads wait for each other.
#include "ngram_packed.cuh"

static constexpr int THREADS = 512, WARPS = THREADS / 32, DIGITS = 256;
template <typename Key> static constexpr int ITEMS = 64 / sizeof(Key);
template <typename Key> static constexpr int TILE = THREADS * ITEMS<Key>;
static constexpr int COUNT_ITEMS = 5, HISTOGRAM_THREADS = 1024;
template <typename Key> static constexpr int AHEAD = 32 / sizeof(Key);  // keys of a large bucket that a thread loads at once

template <typename Key, bool Pairs>
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
        warp_hashed<Key, GROUPS, Pairs>(tokens, base, n, order, bits, key);
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
    return __reduce_add_sync(0xffffffffu, lane < warp ? partial[lane] : 0u) + sum - x;
}

// One block turns the buckets' sizes into their starts, in place, with the end of the last behind them, and sets what the
// other kernels count up. A warp has a stretch of words of four buckets, a word a lane and round.
extern "C" __global__ void __launch_bounds__(1024)
    partition_offsets(u32* offsets, u32* __restrict__ first, u32* __restrict__ second, u64* __restrict__ unique,
                      u64* __restrict__ repeated, int bucket_bits, int second_bits) {
    __shared__ u32 partial[32];
    constexpr int MOST = 8;  // rounds
    const int words = (1 << bucket_bits) / 4, rounds = (words + 1023) / 1024;
    const int from = threadIdx.x / 32 * 32 * rounds + threadIdx.x % 32;
    uint4* of_words = reinterpret_cast<uint4*>(offsets);
    uint4 held[MOST];
    u32 so_far[MOST], own = 0;  // up to and including the lane's word of that round
#pragma unroll
    for (int i = 0; i < MOST; ++i)
        held[i] = i < rounds && from + i * 32 < words ? of_words[from + i * 32] : make_uint4(0, 0, 0, 0);
#pragma unroll
    for (int i = 0; i < MOST; ++i) {
        so_far[i] = own + warp_sum_so_far(held[i].x + held[i].y + held[i].z + held[i].w);
        own = __shfl_sync(0xffffffffu, so_far[i], 31);
    }
    if (threadIdx.x % 32 == 31) partial[threadIdx.x / 32] = own;
    __syncthreads();
    u32 before = 0;
#pragma unroll 1
    for (u32 w = 0; w < threadIdx.x / 32; ++w) before += partial[w];
#pragma unroll
    for (int i = 0; i < MOST; ++i) {
        const int word = from + i * 32;
        if (i >= rounds || word >= words) continue;
        const u32 end = before + so_far[i], w = end - held[i].w, z = w - held[i].z, y = z - held[i].y;
        const uint4 starts = {y - held[i].x, y, z, w};
        of_words[word] = starts;
        reinterpret_cast<uint4*>(second)[word] = starts;
        if (word == words - 1) offsets[4 * words] = end;
    }
    __syncthreads();
    if (threadIdx.x < 1 << (bucket_bits - second_bits)) first[threadIdx.x] = offsets[threadIdx.x << second_bits];
    if (threadIdx.x == 0) *unique = *repeated = 0;
}

template <typename Key> struct Staged {
    Key keys[TILE<Key>];
    u32 bins[DIGITS];       // sizes of the tile's runs, then their starts
    u32 to_global[DIGITS];  // what turns a position in the tile into one in the output
    u32 partial[WARPS];
};

// Writes this block's `held` keys, of which thread `t` has those with a bit in `mine`, to their digits' parts.
template <typename Key>
__device__ __forceinline__ void scatter(const Key (&key)[ITEMS<Key>], u32 mine, u32 held, Key* __restrict__ out,
                                        u32* __restrict__ cursors, int shift, u32 digit_mask, Staged<Key>& staged) {
    for (int bin = threadIdx.x; bin < DIGITS; bin += THREADS) staged.bins[bin] = 0;
    __syncthreads();
    u32 rank[ITEMS<Key> / 2] = {};  // two a word
#pragma unroll
    for (int i = 0; i < ITEMS<Key>; ++i)
        if (mine >> i & 1u) rank[i / 2] |= atomicAdd(&staged.bins[(u32)(key[i] >> shift) & digit_mask], 1u) << i % 2 * 16;
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
    for (int i = 0; i < ITEMS<Key>; ++i)
        if (mine >> i & 1u)
            staged.keys[staged.bins[(u32)(key[i] >> shift) & digit_mask] + (rank[i / 2] >> i % 2 * 16 & 0xffffu)] = key[i];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < ITEMS<Key>; ++i) {
        const u32 at = i * THREADS + threadIdx.x;
        if (at >= held) break;
        const Key moved = staged.keys[at];
        out[staged.to_global[(u32)(moved >> shift) & digit_mask] + at] = moved;
    }
}

template <typename Key, bool Pairs>
__device__ void first_pass(const u32* __restrict__ tokens, Key* __restrict__ out, u32* __restrict__ cursors, i64 n, int order,
                           int bits, int first_bits) {
    extern __shared__ __align__(16) unsigned char memory[];
    const i64 start = (i64)blockIdx.x * TILE<Key>, left = n - order + 1 - start;
    const u32 held = left < TILE<Key> ? (u32)left : TILE<Key>;
    const u32 in_tile = threadIdx.x / 32 * 32 * ITEMS<Key> + threadIdx.x % 32 * 4;
    Key key[ITEMS<Key>];
    warp_hashed<Key, ITEMS<Key> / 4, Pairs>(tokens, start + threadIdx.x / 32 * 32 * ITEMS<Key>, n, order, bits, key);
    u32 mine = 0;
#pragma unroll
    for (int i = 0; i < ITEMS<Key>; ++i)
        if (in_tile + i / 4 * 128 + i % 4 < held) mine |= 1u << i;
    scatter(key, mine, held, out, cursors, Hash<Key>::BITS - first_bits, (1u << first_bits) - 1,
            *reinterpret_cast<Staged<Key>*>(memory));
}

template <typename Key>
__device__ void second_pass(const Key* __restrict__ keys, Key* __restrict__ out, u32* __restrict__ cursors,
                            const u32* __restrict__ offsets, i64 ngrams, int bucket_bits, int second_bits) {
    extern __shared__ __align__(16) unsigned char memory[];
    const i64 start = (i64)blockIdx.x * TILE<Key>, end = start + TILE<Key> < ngrams ? start + TILE<Key> : ngrams;
    // A part of the first pass after the other: most tiles have one or two.
    for (i64 begin = start; begin < end;) {
        const u32 part = (u32)(keys[begin] >> (Hash<Key>::BITS - bucket_bits + second_bits));
        const i64 part_end = offsets[(part + 1) << second_bits], stop = part_end < end ? part_end : end;
        Key key[ITEMS<Key>];
        u32 mine = 0;
#pragma unroll
        for (int i = 0; i < ITEMS<Key>; ++i) {
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

// The key that most of 32 keys of a large bucket are, FREE if it is few of them: threads count it in registers, where
// additions to its slot would wait for each other.
template <typename Key> __device__ __forceinline__ void find_hot(Table<Key>& table, const Key* __restrict__ keys, u32 size) {
    if (threadIdx.x >= 32) return;
    const Key key = keys[(u64)size * threadIdx.x / 32];
    u32 alike = 0;
    for (int lane = 0; lane < 32; ++lane) alike += __shfl_sync(0xffffffffu, key, lane) == key;
    const u32 best = __reduce_max_sync(0xffffffffu, alike << 5 | threadIdx.x);
    if (threadIdx.x == best % 32) table.hot = best >> 5 >= 4 ? key : Table<Key>::FREE;
}

// Adds the keys of a class to a table that is cleared first; whether they found room.
template <typename Key>
__device__ __forceinline__ bool count_class(Table<Key>& table, const Key* __restrict__ keys, u32 size, int bucket_bits,
                                            const Class& of) {
    table.clear();
    __syncthreads();
    const Key hot = table.hot, mask = of.mask(), low = (Key)of.low;
    u32 of_hot = 0;
    // Whether the table counts a key: it is of the class and not the hot one, which is counted here.
    const auto is_for_table = [&](Key key) {
        const bool held = (key & mask) == low;
        of_hot += held && key == hot;
        return held && key != hot;
    };
    u32 at = threadIdx.x;
#pragma unroll 1
    for (; at + (AHEAD<Key> - 1) * COUNT_THREADS < size; at += AHEAD<Key> * COUNT_THREADS) {
        Key key[AHEAD<Key>];
#pragma unroll
        for (int i = 0; i < AHEAD<Key>; ++i) key[i] = keys[at + i * COUNT_THREADS];
        u32 others = 0;  // a bit a key
#pragma unroll
        for (int i = 0; i < AHEAD<Key>; ++i) others |= is_for_table(key[i]) ? 1u << i : 0u;
#pragma unroll 1
        for (; others > 0; others &= others - 1) {
            Key own = key[0];
#pragma unroll
            for (int i = 1; i < AHEAD<Key>; ++i) own = __ffs(others) == i + 1 ? key[i] : own;
            table.add(own, bucket_bits);
        }
    }
#pragma unroll 1
    for (; at < size; at += COUNT_THREADS) {
        const Key key = keys[at];
        if (is_for_table(key)) table.add(key, bucket_bits);
    }
    if (of_hot > 0) atomicAdd(&table.of_hot, of_hot);
    __syncthreads();
    if (threadIdx.x == 0 && table.of_hot > 0) {
        if (hot == Table<Key>::FREE) {
            table.marker = table.of_hot;
        } else {
            const int slot = table.add(hot, bucket_bits);  // NONE if the table is full
            if (slot != Table<Key>::NONE) table.counts[slot] = table.of_hot - 1;
        }
    }
    __syncthreads();
    const bool fits = table.full == 0;
    __syncthreads();
    return fits;
}

// Zeroes words[from .. to) by the whole block.
template <typename Word> __device__ __forceinline__ void zero(Word* __restrict__ words, i64 from, i64 to) {
    constexpr int WIDE = 16 / sizeof(Word);
    const i64 first = (from + WIDE - 1) / WIDE, last = to / WIDE;
#pragma unroll 1
    for (i64 i = first + threadIdx.x; i < last; i += COUNT_THREADS) reinterpret_cast<uint4*>(words)[i] = make_uint4(0, 0, 0, 0);
    if (threadIdx.x >= WIDE) return;
    const i64 low = from + threadIdx.x, high = last * WIDE + threadIdx.x;
    if (low < to && low < first * WIDE) words[low] = 0;
    if (high < to && high >= first * WIDE) words[high] = 0;
}

// Zeroes the `free` places of the outputs before the last `behind`.
__device__ __forceinline__ void zero_tail(u32 free, u64 behind, u64* __restrict__ ngrams, u32* __restrict__ counts,
                                          i64 capacity) {
    const i64 to = capacity - (i64)behind;
    zero(ngrams, to - free, to), zero(counts, to - free, to);
}

// Each key that was no entry leaves a place free at the end of the outputs: `free` of them.
__device__ __forceinline__ void zero_repeats(u32 free, u64& start, u64* __restrict__ ngrams, u32* __restrict__ counts,
                                             u64* __restrict__ repeated, i64 capacity) {
    if (free == 0) return;
    if (threadIdx.x == 0) start = atomicAdd(repeated, (u64)free);
    __syncthreads();
    zero_tail(free, start, ngrams, counts, capacity);
}

// Counts a bucket of any size, a class after the other.
template <typename Key>
__device__ __forceinline__ void count_classes(Table<Key>& table, const Key* __restrict__ keys, u32 size, int bucket_bits,
                                              u64* __restrict__ ngrams, u32* __restrict__ counts, u64* __restrict__ unique) {
    find_hot(table, keys, size);
    Class of{0, 0};
    do {
        while (!count_class(table, keys, size, bucket_bits, of)) of.split();
        table.emit_all(ngrams, counts, unique);
        __syncthreads();
    } while (of.next());
}

template <typename Key>
__device__ void count(const Key* __restrict__ keys, const u32* __restrict__ offsets, u64* __restrict__ ngrams,
                      u32* __restrict__ counts, u64* __restrict__ unique, u64* __restrict__ repeated, i64 capacity,
                      int bucket_bits) {
    extern __shared__ __align__(16) unsigned char memory[];
    Table<Key>& table = *reinterpret_cast<Table<Key>*>(memory);
    const u32 begin = offsets[blockIdx.x], size = offsets[blockIdx.x + 1] - begin;
    if (size == 0) return;
    keys += begin;
    bool counted = false;
    if (threadIdx.x == 0) table.entries = 0;
    if (size <= COUNT_ITEMS * COUNT_THREADS) {
        int slot[COUNT_ITEMS];
        count_at_once(table, keys, size, bucket_bits, slot);
        __syncthreads();
        counted = table.full == 0;
        if (counted) table.template emit<COUNT_ITEMS, COUNT_ITEMS>([&](int i) { return slot[i]; }, ngrams, counts, unique);
        __syncthreads();
    }
    if (!counted) count_classes(table, keys, size, bucket_bits, ngrams, counts, unique);
    zero_repeats(size - table.entries, table.start, ngrams, counts, repeated, capacity);
}

// The same of keys of 32 bits, whose tables have one word a slot.
__device__ void count_packed(const u32* __restrict__ keys, const u32* __restrict__ offsets, u64* __restrict__ ngrams,
                             u32* __restrict__ counts, u64* __restrict__ unique, u64* __restrict__ repeated, i64 capacity,
                             int bucket_bits) {
    extern __shared__ __align__(16) unsigned char memory[];
    const u32 begin = offsets[blockIdx.x], size = offsets[blockIdx.x + 1] - begin;
    if (size == 0) return;
    keys += begin;
    if (size <= Packed::MOST) {
        Packed& table = *reinterpret_cast<Packed*>(memory);
        u32 key[Packed::KEYS];
#pragma unroll
        for (int i = 0; i < Packed::KEYS; ++i)
            if (i * COUNT_THREADS + threadIdx.x < size) key[i] = keys[i * COUNT_THREADS + threadIdx.x];
        table.clear();
        __syncthreads();
        int slot[Packed::KEYS];
#pragma unroll
        for (int i = 0; i < Packed::KEYS; ++i)
            slot[i] = i * COUNT_THREADS + threadIdx.x < size ? table.add(key[i] << bucket_bits) : Packed::NONE;
        __syncthreads();
        if (table.full == 0) {
            const u32 free = table.emit(slot, size, blockIdx.x, bucket_bits, ngrams, counts, unique, repeated);
            if (free > 0) zero_tail(free, table.zeroes, ngrams, counts, capacity);
            return;
        }
        __syncthreads();
    }
    Table<u32>& table = *reinterpret_cast<Table<u32>*>(memory);
    if (threadIdx.x == 0) table.entries = 0;
    count_classes(table, keys, size, bucket_bits, ngrams, counts, unique);
    zero_repeats(size - table.entries, table.start, ngrams, counts, repeated, capacity);
}

#define PARTITION_STREAM(Key, suffix, Pairs)                                                                           \
    extern "C" __global__ void __launch_bounds__(HISTOGRAM_THREADS) partition_histogram_##suffix(                      \
        const u32* tokens, u32* totals, i64 n, int order, int bits, int bucket_bits, i64 share) {                      \
        histogram<Key, Pairs>(tokens, totals, n, order, bits, bucket_bits, share);                                     \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS, 2) partition_first_##suffix(                                 \
        const u32* tokens, Key* out, u32* cursors, i64 n, int order, int bits, int first_bits) {                       \
        first_pass<Key, Pairs>(tokens, out, cursors, n, order, bits, first_bits);                                      \
    }
#define PARTITION(Key, suffix)                                                                                         \
    PARTITION_STREAM(Key, suffix, false)                                                                               \
    extern "C" __global__ void __launch_bounds__(THREADS, 3) partition_second_##suffix(                                \
        const Key* keys, Key* out, u32* cursors, const u32* offsets, i64 ngrams, int bucket_bits, int second_bits) {   \
        second_pass<Key>(keys, out, cursors, offsets, ngrams, bucket_bits, second_bits);                               \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(COUNT_THREADS, 4) partition_count_##suffix(                        \
        const Key* keys, const u32* offsets, u64* ngrams, u32* counts, u64* unique, u64* repeated, i64 capacity,       \
        int bucket_bits) {                                                                                             \
        count<Key>(keys, offsets, ngrams, counts, unique, repeated, capacity, bucket_bits);                            \
    }
PARTITION(u32, u32)
PARTITION(u64, u64)
PARTITION_STREAM(u32, pairs_u32, true)
extern "C" __global__ void __launch_bounds__(COUNT_THREADS, 4)
    partition_count_packed(const u32* keys, const u32* offsets, u64* ngrams, u32* counts, u64* unique, u64* repeated,
                           i64 capacity, int bucket_bits) {
    count_packed(keys, offsets, ngrams, counts, unique, repeated, capacity, bucket_bits);
}
