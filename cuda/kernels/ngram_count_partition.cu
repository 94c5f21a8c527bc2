// Idea: hashed n-grams are partitioned twice into buckets so small that a table in shared memory counts each: nothing is
//   sorted, so no rank needs to be stable, and no count meets another block's.
// Source: the partitioned hash aggregation of databases: Manegold, Boncz & Kersten 2000, "Optimizing Main-Memory Join on
//   Modern Hardware" (radix partitioning); Polychroniou & Ross 2014 (passes through local buffers).
// Shapes: tokens [n] u32; hashed [n − order + 1] u32 or u64; offsets [buckets + 1] u32, cursors [digits] and [buckets] u32;
//   hot [buckets] like hashed; buckets = 2^bucket_bits, of which the first pass tells apart `digits`; outputs ngrams, counts,
//   unique.
// Plan: histogram: every block counts the buckets of its share in shared memory. offsets: one block scans them. first: a
//   block packs and hashes a tile of 32 KiB of keys, ranks it by additions in shared memory, reserves room in each digit's
//   part by one addition and writes runs. second: the same within each part, but a warp that holds a key many times leaves it
//   out if it is the only such key of its bucket: the room that stays free says how often it was. count: a block a bucket;
//   what finds no slot in its table makes it take the bucket's classes (keys with equal low bits) one after the other. The
//   hash is a bijection whose high bits name the bucket, so passes move hashes alone and the last kernel undoes them. Entries
//   fill the outputs from the front; a block zeroes as many places at their end as its bucket had repeats, which is all of the
//   tail. count_packed: of keys of 32 bits, a slot is one word, the key's bits that do not name the bucket above its count:
//   buckets are twice as large, so that what a block does once is done half as often.
// Numerics: integers; counts do not depend on the order of events, the order of the entries does.
// Limits: n < 2^32, bucket_bits 2 to 15, at most 256 digits a pass. A bucket is one block's: the others are idle if a second
//   hot key shares its bucket or its part of the first pass, where the two alternate or none follows itself often; and keys
//   chosen against the fixed hash share one, in time quadratic in their number.
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
// A key of a bucket is hot if so many lanes of 32 hold it, or if so many hold what the lane before them holds: where 31 f^2
// do, f of the keys are alike.
static constexpr int HOT = 4, AGAIN = 6;
template <typename Key> static constexpr int AHEAD = 32 / sizeof(Key);  // keys of a large bucket that a thread loads at once

template <typename Key, bool Pairs>
__device__ void histogram(const u32* __restrict__ tokens, u32* __restrict__ totals, Key* __restrict__ hot, i64 n, int order,
                          int bits, int bucket_bits, i64 share) {
    extern __shared__ __align__(16) unsigned char memory[];
    constexpr int GROUPS = 8 / sizeof(Key);
    u32* bins = reinterpret_cast<u32*>(memory);
#pragma unroll 1
    for (int bin = threadIdx.x; bin < 1 << bucket_bits; bin += HISTOGRAM_THREADS) bins[bin] = 0;
#pragma unroll 1
    for (int bin = blockIdx.x * HISTOGRAM_THREADS + threadIdx.x; bin < 1 << bucket_bits; bin += gridDim.x * HISTOGRAM_THREADS)
        hot[bin] = 0;
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
    u32 held;
};

// Writes the keys of this block, those with a bit in their thread's `mine`, to their digits' parts.
template <typename Key>
__device__ __forceinline__ void scatter(const Key (&key)[ITEMS<Key>], u32 mine, Key* __restrict__ out,
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
        if (threadIdx.x == DIGITS - 1) staged.held = start + size;
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < ITEMS<Key>; ++i)
        if (mine >> i & 1u)
            staged.keys[staged.bins[(u32)(key[i] >> shift) & digit_mask] + (rank[i / 2] >> i % 2 * 16 & 0xffffu)] = key[i];
    __syncthreads();
    const u32 held = staged.held;
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
    scatter(key, mine, out, cursors, Hash<Key>::BITS - first_bits, (1u << first_bits) - 1,
            *reinterpret_cast<Staged<Key>*>(memory));
}

// The key that most lanes hold, and how many do.
template <typename Key> __device__ __forceinline__ Key most_held(Key key, u32& lanes) {
    u32 alike = 0;
#pragma unroll 1
    for (int lane = 0; lane < 32; ++lane) alike += __shfl_sync(0xffffffffu, key, lane) == key;
    const u32 best = __reduce_max_sync(0xffffffffu, alike << 5 | threadIdx.x % 32);
    lanes = best >> 5;
    return __shfl_sync(0xffffffffu, key, best % 32);
}

// What the second pass does with keys that are left out.
template <typename Key> struct LeftOut {
    Key* __restrict__ hot;  // a bucket's key that is, as its complement, so that 0 is none
    u64* __restrict__ ngrams;
    u32* __restrict__ counts;
    u64* __restrict__ repeated;
    i64 capacity;

    // Zeroes a place at the end of the outputs for each of a warp's `keys`.
    __device__ __forceinline__ void zero(u32 keys) const {
        u64 behind = 0;
        if (threadIdx.x % 32 == 0) behind = atomicAdd(repeated, (u64)keys);
        const i64 end = capacity - (i64)__shfl_sync(0xffffffffu, behind, 0);
#pragma unroll 1
        for (i64 at = end - keys + threadIdx.x % 32; at < end; at += 32) ngrams[at] = 0, counts[at] = 0;
    }
};

// Leaves out what is equal to a key that this warp holds often, if the key's bucket has no other that is left out: `mine` of
// the rest. The first that is held stays.
template <typename Key>
__device__ __forceinline__ u32 without_hot(const Key (&key)[ITEMS<Key>], u32 mine, const LeftOut<Key>& left_out,
                                           int bucket_bits) {
    // Low bits tell most keys apart; the first lane gets its own.
    const bool again = __shfl_up_sync(0xffffffffu, (u32)key[0], 1) == (u32)key[0];
    if (__popc(__ballot_sync(0xffffffffu, again)) < AGAIN) return mine;
    u32 lanes;
    const Key own = most_held(key[0], lanes);
    const u32 first = __ffs(__ballot_sync(0xffffffffu, key[0] == own)) - 1;
    Key claimed = 0;
    if (threadIdx.x % 32 == first)
        claimed = atomicCAS(left_out.hot + (own >> (Hash<Key>::BITS - bucket_bits)), (Key)0, (Key)~own);
    claimed = __shfl_sync(0xffffffffu, claimed, first);
    if (own == Table<Key>::FREE || (claimed != 0 && claimed != (Key)~own)) return mine;
    u32 rest = mine;
#pragma unroll
    for (int i = 0; i < ITEMS<Key>; ++i)
        if (key[i] == own) rest &= ~(1u << i);
    if (claimed == 0 && threadIdx.x % 32 == first) rest |= 1u;
    left_out.zero(__reduce_add_sync(0xffffffffu, __popc(mine) - __popc(rest)));
    return rest;
}

template <typename Key>
__device__ void second_pass(const Key* __restrict__ keys, Key* __restrict__ out, u32* __restrict__ cursors,
                            const u32* __restrict__ offsets, const LeftOut<Key> left_out, i64 ngrams, int bucket_bits,
                            int second_bits) {
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
        if (stop - begin >= TILE<Key> / 2) mine = without_hot(key, mine, left_out, bucket_bits);
        scatter(key, mine, out, cursors + (part << second_bits), Hash<Key>::BITS - bucket_bits, (1u << second_bits) - 1,
                *reinterpret_cast<Staged<Key>*>(memory));
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

// A bucket: its keys, and how many more the second pass left out, all of them alike.
template <typename Key> struct Bucket {
    const Key *__restrict__ keys, *__restrict__ hot;
    u32 size, left_out;
    __device__ __forceinline__ Bucket(const Key* __restrict__ all, const u32* __restrict__ offsets,
                                      const u32* __restrict__ ends, const Key* __restrict__ hots) {
        const u32 begin = offsets[blockIdx.x], end = ends[blockIdx.x];
        keys = all + begin, hot = hots + blockIdx.x, size = end - begin, left_out = offsets[blockIdx.x + 1] - end;
    }
    // The first thread's word, which others read behind a barrier.
    __device__ __forceinline__ void note(Table<Key>& table) const {
        if (threadIdx.x == 0) table.free = size, table.left_out = left_out;
    }
};

// A large bucket's key that is counted in registers, where additions to its slot would wait for each other: what was left out,
// or else what most of 32 keys are, FREE if it is few of them.
template <typename Key> __device__ __forceinline__ void find_hot(Table<Key>& table, const Bucket<Key>& bucket) {
    if (threadIdx.x >= 32) return;
    __syncwarp();
    u32 lanes = 32;
    const Key hot =
        table.left_out > 0 ? ~*bucket.hot : most_held(bucket.keys[(u64)bucket.size * threadIdx.x / 32], lanes);
    if (threadIdx.x == 0) table.hot = lanes >= HOT ? hot : Table<Key>::FREE;
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
    if (threadIdx.x == 0 && (hot & mask) == low) {
        const u32 all = table.of_hot + table.left_out;
        if (hot == Table<Key>::FREE) {
            table.marker = all;
        } else if (all > 0) {
            const int slot = table.add(hot, bucket_bits);  // NONE if the table is full
            if (slot != Table<Key>::NONE) table.counts[slot] = all - 1;
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
__device__ __forceinline__ void count_classes(Table<Key>& table, const Bucket<Key>& bucket, int bucket_bits,
                                              u64* __restrict__ ngrams, u32* __restrict__ counts, u64* __restrict__ unique) {
    find_hot(table, bucket);
    Class of{0, 0};
    do {
        while (!count_class(table, bucket.keys, bucket.size, bucket_bits, of)) of.split();
        table.emit_all(ngrams, counts, unique);
        __syncthreads();
    } while (of.next());
}

template <typename Key>
__device__ void count(const Bucket<Key> bucket, u64* __restrict__ ngrams, u32* __restrict__ counts, u64* __restrict__ unique,
                      u64* __restrict__ repeated, i64 capacity, int bucket_bits) {
    extern __shared__ __align__(16) unsigned char memory[];
    Table<Key>& table = *reinterpret_cast<Table<Key>*>(memory);
    if (bucket.size == 0) return;
    bool counted = false;
    bucket.note(table);
    if (bucket.left_out == 0 && bucket.size <= COUNT_ITEMS * COUNT_THREADS) {
        int slot[COUNT_ITEMS];
        count_at_once(table, bucket.keys, bucket.size, bucket_bits, slot);
        __syncthreads();
        counted = table.full == 0;
        if (counted) table.template emit<COUNT_ITEMS, COUNT_ITEMS>([&](int i) { return slot[i]; }, ngrams, counts, unique);
        __syncthreads();
    }
    if (!counted) count_classes(table, bucket, bucket_bits, ngrams, counts, unique);
    zero_repeats(table.free, table.start, ngrams, counts, repeated, capacity);
}

// The same of keys of 32 bits, whose tables have one word a slot.
__device__ void count_packed(const Bucket<u32> bucket, u64* __restrict__ ngrams, u32* __restrict__ counts,
                             u64* __restrict__ unique, u64* __restrict__ repeated, i64 capacity, int bucket_bits) {
    extern __shared__ __align__(16) unsigned char memory[];
    const u32 size = bucket.size;
    if (size == 0) return;
    if (bucket.left_out == 0 && size <= Packed::most(bucket_bits)) {
        Packed& table = *reinterpret_cast<Packed*>(memory);
        u32 key[Packed::KEYS];
#pragma unroll
        for (int i = 0; i < Packed::KEYS; ++i)
            if (i * COUNT_THREADS + threadIdx.x < size) key[i] = bucket.keys[i * COUNT_THREADS + threadIdx.x];
        table.clear();
        __syncthreads();
        int slot[Packed::KEYS];
#pragma unroll
        for (int i = 0; i < Packed::KEYS; ++i)
            slot[i] = i * COUNT_THREADS + threadIdx.x < size ? table.add(key[i], bucket_bits) : Packed::NONE;
        __syncthreads();
        if (table.full == 0) {
            const u32 free = table.emit(slot, size, blockIdx.x, bucket_bits, ngrams, counts, unique, repeated);
            if (free > 0) zero_tail(free, table.zeroes, ngrams, counts, capacity);
            return;
        }
        __syncthreads();
    }
    Table<u32>& table = *reinterpret_cast<Table<u32>*>(memory);
    bucket.note(table);
    count_classes(table, bucket, bucket_bits, ngrams, counts, unique);
    zero_repeats(table.free, table.start, ngrams, counts, repeated, capacity);
}

#define PARTITION_STREAM(Key, suffix, Pairs)                                                                           \
    extern "C" __global__ void __launch_bounds__(HISTOGRAM_THREADS) partition_histogram_##suffix(                      \
        const u32* tokens, u32* totals, Key* hot, i64 n, int order, int bits, int bucket_bits, i64 share) {            \
        histogram<Key, Pairs>(tokens, totals, hot, n, order, bits, bucket_bits, share);                                \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS, 2) partition_first_##suffix(                                 \
        const u32* tokens, Key* out, u32* cursors, i64 n, int order, int bits, int first_bits) {                       \
        first_pass<Key, Pairs>(tokens, out, cursors, n, order, bits, first_bits);                                      \
    }
#define PARTITION_COUNT(Key, suffix, count)                                                                            \
    extern "C" __global__ void __launch_bounds__(COUNT_THREADS, 4) partition_count_##suffix(                           \
        const Key* keys, const u32* offsets, const u32* ends, const Key* hot, u64* ngrams, u32* counts, u64* unique,   \
        u64* repeated, i64 capacity, int bucket_bits) {                                                                \
        count(Bucket<Key>(keys, offsets, ends, hot), ngrams, counts, unique, repeated, capacity, bucket_bits);         \
    }
#define PARTITION(Key, suffix)                                                                                         \
    PARTITION_STREAM(Key, suffix, false)                                                                               \
    extern "C" __global__ void __launch_bounds__(THREADS, 3) partition_second_##suffix(                                \
        const Key* keys, Key* out, u32* cursors, const u32* offsets, Key* hot, u64* ngrams, u32* counts,               \
        u64* repeated, i64 n, int bucket_bits, int second_bits) {                                                      \
        const LeftOut<Key> left_out = {hot, ngrams, counts, repeated, n};                                              \
        second_pass<Key>(keys, out, cursors, offsets, left_out, n, bucket_bits, second_bits);                          \
    }                                                                                                                  \
    PARTITION_COUNT(Key, suffix, count<Key>)
PARTITION(u32, u32)
PARTITION(u64, u64)
PARTITION_STREAM(u32, pairs_u32, true)
PARTITION_COUNT(u32, packed, count_packed)
