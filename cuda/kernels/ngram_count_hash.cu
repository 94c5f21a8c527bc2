// Idea: an open-addressing hash table in global memory: claim a slot by compare-and-swap, count by addition.
// Source: Alcantara et al. 2009, "Real-Time Parallel Hashing on the GPU" (section on open addressing); linear probing.
// Shapes: tokens [n] u32; slots [slots, 2] u64, all bits set before: key, then the count minus one in the low 32
//         bits of the second word; ngrams = n − order + 1 positions.
// Plan: insert: a thread a position. insert_shared: a block counts 8192 positions in a table in shared memory, so
//       that frequent n-grams cost one global atomic a block, and flushes it; what finds no slot there in a few
//       probes goes to global memory at once. gather: a block takes 4096 slots, finds room for those in use with
//       one addition to `unique`, and writes them.
// Numerics: integers; counts do not depend on the order of events, the order of the entries does.
// Limits: slots is a power of two greater than the number of distinct n-grams; no key has all 64 bits set.
#include "ngram.cuh"

static constexpr int THREADS = 512, ITEMS = 16, SHARED_SLOTS = 4096, SHARED_PROBES = 8;
static constexpr int SLOTS_A_THREAD = 8, WARPS = THREADS / 32;

__device__ __forceinline__ void add_global(u64* slots, u64 mask, u64 key, u64 hash, u32 count) {
    for (u64 slot = hash & mask;; slot = (slot + 1) & mask) {
        // A slot's key never changes once it is there; what looks empty is asked again by the exchange.
        u64 held = *(volatile u64*)&slots[2 * slot];
        if (held == EMPTY) {
            held = atomicCAS(&slots[2 * slot], EMPTY, key);
            if (held == EMPTY) held = key;
        }
        if (held == key) {
            atomicAdd(reinterpret_cast<u32*>(&slots[2 * slot + 1]), count);
            return;
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS) hash_insert(const u32* __restrict__ tokens, u64* slots,
                                                                  i64 ngrams, int order, int bits, u64 mask) {
    const i64 at = (i64)blockIdx.x * THREADS + threadIdx.x;
    if (at >= ngrams) return;
    const u64 key = packed(tokens, at, order, bits);
    add_global(slots, mask, key, mix(key), 1u);
}

// Counts a key in the block's table; false if it found no slot.
__device__ __forceinline__ bool add_shared(u64* keys, u32* counts, u64 key, u64 hash) {
    // Other bits of the hash than global memory uses, so that a block's slots are spread there.
    u32 slot = (u32)(hash >> 40) % SHARED_SLOTS;
    for (int probe = 0; probe < SHARED_PROBES; ++probe) {
        const u64 held = atomicCAS(&keys[slot], EMPTY, key);
        if (held == EMPTY || held == key) {
            atomicAdd(&counts[slot], 1u);
            return true;
        }
        slot = (slot + 1) % SHARED_SLOTS;
    }
    return false;
}

extern "C" __global__ void __launch_bounds__(THREADS) hash_insert_shared(const u32* __restrict__ tokens, u64* slots,
                                                                         i64 ngrams, int order, int bits, u64 mask) {
    __shared__ u64 keys[SHARED_SLOTS];
    __shared__ u32 counts[SHARED_SLOTS];
    for (int slot = threadIdx.x; slot < SHARED_SLOTS; slot += THREADS) {
        keys[slot] = EMPTY;
        counts[slot] = 0;
    }
    __syncthreads();
    const i64 first = (i64)blockIdx.x * THREADS * ITEMS;
    for (int i = 0; i < ITEMS; ++i) {
        const i64 at = first + i * THREADS + threadIdx.x;
        if (at >= ngrams) break;
        const u64 key = packed(tokens, at, order, bits), hash = mix(key);
        if (!add_shared(keys, counts, key, hash)) add_global(slots, mask, key, hash, 1u);
    }
    __syncthreads();
    for (int slot = threadIdx.x; slot < SHARED_SLOTS; slot += THREADS)
        if (keys[slot] != EMPTY) add_global(slots, mask, keys[slot], mix(keys[slot]), counts[slot]);
}

extern "C" __global__ void __launch_bounds__(THREADS) hash_gather(const ulonglong2* __restrict__ slots, i64 slot_count,
                                                                  u64* __restrict__ ngrams, u32* __restrict__ counts,
                                                                  u64* unique) {
    __shared__ u32 warp_used[WARPS];
    __shared__ u64 block_start;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const i64 first = (i64)blockIdx.x * THREADS * SLOTS_A_THREAD + warp * 32 * SLOTS_A_THREAD + lane;
    ulonglong2 held[SLOTS_A_THREAD];
    u32 used = 0;
#pragma unroll
    for (int i = 0; i < SLOTS_A_THREAD; ++i) {
        const i64 at = first + i * 32;
        held[i] = at < slot_count ? slots[at] : make_ulonglong2(EMPTY, 0);
        used += __popc(__ballot_sync(0xffffffffu, held[i].x != EMPTY));
    }
    if (lane == 0) warp_used[warp] = used;
    __syncthreads();
    if (threadIdx.x == 0) {
        u32 sum = 0;
        for (int w = 0; w < WARPS; ++w) sum += warp_used[w];
        block_start = sum > 0 ? atomicAdd(unique, (u64)sum) : 0;
    }
    __syncthreads();
    u64 to = block_start;
    for (int w = 0; w < warp; ++w) to += warp_used[w];
#pragma unroll
    for (int i = 0; i < SLOTS_A_THREAD; ++i) {
        const bool in_use = held[i].x != EMPTY;
        const u32 lanes = __ballot_sync(0xffffffffu, in_use);
        if (in_use) {
            const u64 slot = to + __popc(lanes & ((1u << lane) - 1u));
            ngrams[slot] = held[i].x;
            counts[slot] = (u32)held[i].y + 1u;
        }
        to += __popc(lanes);
    }
}
