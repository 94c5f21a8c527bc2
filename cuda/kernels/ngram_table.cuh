// The table in shared memory in which `ngram_count_partition` counts a bucket, and the classes into which it divides a bucket
// that has more keys than slots.
#pragma once
#include "ngram_hashed.cuh"

static constexpr int COUNT_THREADS = 512, SLOT_BITS = 12, SLOTS = 1 << SLOT_BITS, PROBES = 128;

// A bucket's table. The hash with all bits set, which marks free slots, is counted apart.
template <typename Key> struct Table {
    static constexpr Key FREE = ~(Key)0;
    static constexpr int NONE = -1;
    Key keys[SLOTS];
    u32 counts[SLOTS];
    u32 marker, full, partial[COUNT_THREADS / 32];
    u32 free;      // places of the bucket's keys that no entry takes yet
    u32 of_hot;    // keys equal to `hot`
    u32 left_out;  // more of them, which the bucket does not hold
    Key hot;
    u64 start;

    __device__ __forceinline__ void clear() {
        uint4 *of_keys = reinterpret_cast<uint4*>(keys), *of_counts = reinterpret_cast<uint4*>(counts);
#pragma unroll 1
        for (int i = threadIdx.x; i < (int)(sizeof(keys) / 16); i += COUNT_THREADS) of_keys[i] = make_uint4(~0u, ~0u, ~0u, ~0u);
#pragma unroll 1
        for (int i = threadIdx.x; i < (int)(sizeof(counts) / 16); i += COUNT_THREADS) of_counts[i] = make_uint4(0, 0, 0, 0);
        if (threadIdx.x == 0) marker = full = of_hot = 0;
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
            if (lane == 0) {
                start = all > 0 ? atomicAdd(unique, (u64)all) : 0;
                free -= all;
            }
        }
        const u32 before = __reduce_add_sync(0xffffffffu, lane < warp ? partial[lane] : 0u);
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
    __device__ __forceinline__ u64 mask() const { return (1ull << depth) - 1; }
    __device__ __forceinline__ void split() { ++depth; }
    // The next in order; false after the last.
    __device__ __forceinline__ bool next() {
        while (depth > 0 && low >> (depth - 1) & 1) low ^= 1ull << --depth;
        if (depth == 0) return false;
        low |= 1ull << (depth - 1);
        return true;
    }
};
