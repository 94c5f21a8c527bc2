// What the warp-specialized forward kernels share: units of work, the running softmax of a row, and how they begin.
//
// A kernel's Shape gives QUERIES (of a unit, 64 a computing warpgroup), KEYS (of a tile) and DIM (values of a head).
#pragma once
#include "attention.cuh"
#include "hopper.cuh"

namespace {

constexpr u32 ROW = 128;  // bytes of a tile's row; wider heads are several tiles side by side

struct Sizes {
    const int *lengths_q, *lengths_k;
    int batch, seq_q, seq_k, heads_q, heads_kv, dim, causal, window, section;
};

// One unit of work: a block's queries of a head, and the tiles of keys any of them sees.
struct Work {
    int b, h, i0, queries, keys, first, count;
};

// Finds the lengths and the tiles of keys of a unit whose queries are known.
template <typename S> __device__ __forceinline__ void find_keys(Work& work, const Sizes& n) {
    work.queries = n.lengths_q[work.b], work.keys = n.lengths_k[work.b];
    const int last = min(work.i0 + S::QUERIES, work.queries) - 1;
    const int begin = visible(work.i0, work.queries, work.keys, n.causal, n.window).begin / S::KEYS;
    const int end = last < work.i0 ? 0 : visible(last, work.queries, work.keys, n.causal, n.window).end;
    work.first = begin, work.count = max(0, (end + S::KEYS - 1) / S::KEYS - begin);
}

struct Softmax {
    float max[2], total[2];
};

// The 1024-aligned start of shared memory, with its barriers initialised; so many warpgroups read a tile of keys.
template <typename S, int STAGES, int READERS = S::GROUPS> __device__ __forceinline__ u32 begin_shared() {
    extern __shared__ unsigned char memory[];
    const u32 shared = ((u32)__cvta_generic_to_shared(memory) + 1023) / 1024 * 1024;
    if (threadIdx.x == 0) {
        for (int slot = 0; slot < S::SLOTS; ++slot) {
            barrier_init(shared + S::Q_FULL + 8 * slot, 1);
            barrier_init(shared + S::Q_FREE + 8 * slot, 4 * S::GROUPS);
        }
        for (int stage = 0; stage < STAGES; ++stage) {
            barrier_init(shared + S::K_FULL + 8 * stage, 1);
            barrier_init(shared + S::V_FULL + 8 * stage, 1);
            barrier_init(shared + S::K_FREE + 8 * stage, 4 * READERS);
            barrier_init(shared + S::V_FREE + 8 * stage, 4 * READERS);
        }
        barrier_init_done();
    }
    __syncthreads();
    return shared;
}

}  // namespace
