// What the warp-specialized forward kernels share: units of work, the running softmax of a row, and the way out.
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

// Heads come in sections whose K and V fit the L2 cache; in a section the queries that see most keys come first.
template <typename S> __device__ __forceinline__ Work work_at(int index, const Sizes& n) {
    const int tiles = (n.seq_q + S::QUERIES - 1) / S::QUERIES, heads = n.batch * n.heads_q;
    const int start = index / (n.section * tiles) * n.section, wide = min(n.section, heads - start);
    const int rest = index - start * tiles, bh = start + rest % wide;
    Work work;
    work.b = bh / n.heads_q, work.h = bh % n.heads_q, work.i0 = (tiles - 1 - rest / wide) * S::QUERIES;
    find_keys<S>(work, n);
    return work;
}

struct Softmax {
    float max[2], total[2];
};

// Divides by the totals and writes o, through the warp's own rows of Q (chunks of 16 bytes, swizzled by row). Where no key
// is seen, no queries were fetched and the rows are not ours: zeros.
template <typename S, typename T>
__device__ __forceinline__ void finish(float (&o)[S::DIM / 2], const Softmax& row, u32 rows, T* out, float* lse,
                                       const Work& work, const Sizes& n, int i, int lane, float factor) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int at = i + half * 8 + lane / 4, r = half * 8 + lane / 4;
        const float total = quad_sum(row.total[half]);
        const bool blind = at >= work.queries || total == 0.f;
        const float inverse = blind ? 0.f : 1.f / total;
        if (lane % 4 == 0 && at < n.seq_q)
            lse[((i64)work.b * n.heads_q + work.h) * n.seq_q + at] =
                blind ? NEG_INFINITY : row.max[half] * factor * LN_2 + logf(total);
        if (work.count > 0)
#pragma unroll
            for (int c = 0; c < S::DIM / 8; ++c) {
                const u32 two = Pair<T>::pack(o[c * 4 + half * 2] * inverse, o[c * 4 + half * 2 + 1] * inverse);
                const u32 to = rows + c / 8 * (S::QUERIES * ROW) + r * ROW + (c % 8 ^ r % 8) * 16 + lane % 4 * 4;
                asm volatile("st.shared.b32 [%0], %1;" ::"r"(to), "r"(blind ? 0u : two) : "memory");
            }
    }
    __syncwarp();
    constexpr int CHUNKS = S::DIM / 8;
#pragma unroll
    for (int step = 0; step < CHUNKS / 2; ++step) {
        const int at = step * 32 + lane, r = at / CHUNKS, c = at % CHUNKS;
        uint4 x = {0, 0, 0, 0};
        if (work.count > 0) asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                     : "r"(rows + c / 8 * (S::QUERIES * ROW) + r * ROW + (c % 8 ^ r % 8) * 16)
                     : "memory");
        if (i + r < n.seq_q && c * 8 < n.dim)
            *(uint4*)(out + (((i64)work.b * n.seq_q + i + r) * n.heads_q + work.h) * n.dim + c * 8) = x;
    }
}

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
