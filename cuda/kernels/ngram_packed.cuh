// The table in which `partition_count_packed` counts a bucket: a key and its count in one word.
#pragma once
#include "ngram_table.cuh"

// A slot holds the bits of a key that do not name its bucket, at the top, and below them its count less one: it has as many
// bits as name a bucket.
struct Packed {
    static constexpr int SLOT_BITS = 13, SLOTS = 1 << SLOT_BITS, KEYS = 10, NONE = -1;
    static constexpr u32 FREE = ~0u;
    // Keys at most, so that no slot with all of them is like a free one.
    __device__ __forceinline__ static u32 most(int bucket_bits) {
        return min((u32)(KEYS * COUNT_THREADS), count_mask(bucket_bits));
    }
    __device__ __forceinline__ static u32 count_mask(int bucket_bits) { return (1u << bucket_bits) - 1u; }
    u32 slots[SLOTS];
    u32 full, partial[COUNT_THREADS / 32];
    u64 start, zeroes;

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int i = 0; i < SLOTS / 4 / COUNT_THREADS; ++i)
            reinterpret_cast<uint4*>(slots)[i * COUNT_THREADS + threadIdx.x] = make_uint4(FREE, FREE, FREE, FREE);
        if (threadIdx.x == 0) full = 0;
    }
    // Counts a key; the slot that it takes if it is the first, otherwise NONE.
    __device__ __forceinline__ int add(u32 key, int bucket_bits) {
        key <<= bucket_bits;
        u32 slot = key >> (32 - SLOT_BITS);
#pragma unroll 1
        for (int probe = 0; probe < PROBES; ++probe) {
            u32 held = *(volatile u32*)&slots[slot];
            if (held == FREE) {
                held = atomicCAS(&slots[slot], FREE, key);
                if (held == FREE) return (int)slot;
            }
            if ((held ^ key) <= count_mask(bucket_bits)) {
                atomicAdd(&slots[slot], 1u);
                return NONE;
            }
            slot = (slot + 1) % SLOTS;
        }
        atomicOr(&full, 1u);
        return NONE;
    }
    // Writes the entries at the slots that this thread names, where one addition to `unique` found room for all. Of `size`
    // keys each other leaves a place free at the end of the outputs: how many do, from where `zeroes` says.
    __device__ __forceinline__ u32 emit(const int (&slot)[KEYS], u32 size, u32 bucket, int bucket_bits,
                                        u64* __restrict__ ngrams, u32* __restrict__ to, u64* unique, u64* repeated) {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        u32 used = 0;
#pragma unroll
        for (int i = 0; i < KEYS; ++i) used += __popc(__ballot_sync(0xffffffffu, slot[i] != NONE));
        if (lane == 0) partial[warp] = used;
        __syncthreads();
        const u32 own = lane < COUNT_THREADS / 32 ? partial[lane] : 0u;
        const u32 all = __reduce_add_sync(0xffffffffu, own), before = __reduce_add_sync(0xffffffffu, lane < warp ? own : 0u);
        if (threadIdx.x == 0) start = atomicAdd(unique, (u64)all);
        if (threadIdx.x == 32 && all < size) zeroes = atomicAdd(repeated, (u64)(size - all));
        __syncthreads();
        const u32 count_bits = count_mask(bucket_bits);
        u64 at = start + before;
#pragma unroll
        for (int i = 0; i < KEYS; ++i) {
            const u32 lanes = __ballot_sync(0xffffffffu, slot[i] != NONE);
            if (slot[i] != NONE) {
                const u32 held = slots[slot[i]];
                const u64 entry = at + __popc(lanes & ((1u << lane) - 1u));
                ngrams[entry] = unhashed<u32>(held >> bucket_bits | bucket << (32 - bucket_bits));
                to[entry] = (held & count_bits) + 1;
            }
            at += __popc(lanes);
        }
        return size - all;
    }
};
