// How the warp-specialized forward hands out its units of work, how warpgroups that share a unit's queries add up, and how
// its outputs leave.
//
// A kernel's Shape gives QUERIES (of a unit), KEYS (of a tile), DIM (values of a head), SLOTS and UNIT, where in shared
// memory the units at hand stand.
#pragma once
#include "attention_warpgroup.cuh"

namespace {

// Heads come in sections whose K and V fit the L2 cache, and in a section the queries that see most keys come first. Of a
// causal mask the later half of the queries comes first in all sections, then the earlier, of which twice as many heads
// fit: what is handed out last is short, so the blocks end together.
template <typename S> __device__ __forceinline__ Work unit_at(int index, const Sizes& n) {
    const int tiles = (n.seq_q + S::QUERIES - 1) / S::QUERIES, heads = n.batch * n.heads_q;
    int low = n.causal ? tiles / 2 : 0, high = tiles, section = n.section;
    const int later = heads * (tiles - low);
    if (index >= later) index -= later, high = low, low = 0, section = min(heads, 2 * section);
    const int span = high - low, start = index / (section * span) * section, wide = min(section, heads - start);
    const int rest = index - start * span, bh = start + rest % wide;
    Work work;
    work.b = bh / n.heads_q, work.h = bh % n.heads_q, work.i0 = (high - 1 - rest / wide) * S::QUERIES;
    find_keys<S>(work, n);
    return work;
}

// A unit on its way from the copying thread to the computing warps; `count` is -1 when there are no more.
__device__ __forceinline__ void publish(u32 to, const Work& work) {
    const auto write = [](u32 at, int a, int b, int c, int d) {
        asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(at), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
    };
    write(to, work.b, work.h, work.i0, work.first);
    write(to + 16, work.count, work.queries, work.keys, 0);
}
__device__ __forceinline__ Work published(u32 from) {
    const auto read = [](u32 at, int& a, int& b, int& c, int& d) {
        asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];" : "=r"(a), "=r"(b), "=r"(c), "=r"(d) : "r"(at) : "memory");
    };
    Work work;
    int none;
    read(from, work.b, work.h, work.i0, work.first);
    read(from + 16, work.count, work.queries, work.keys, none);
    return work;
}

// Each slot of units has a named barrier, by which the computing warps tell the copying thread that they have read it. Q_FREE,
// where a lane arrives for its warp, comes later and says so too, but not so that compute-sanitizer's racecheck follows.
constexpr int UNIT_READ = 4;
template <typename S> constexpr int UNIT_THREADS = 128 * S::GROUPS + 32;

// Waits for a unit, and leaves its slot.
template <typename S> __device__ __forceinline__ Work take_unit(u32 shared, u32 round) {
    const u32 slot = round % S::SLOTS;
    barrier_sleep(shared + S::Q_FULL + 8 * slot, round / S::SLOTS & 1);
    const Work work = published(shared + S::UNIT + 32 * slot);
    named_arrive(UNIT_READ + slot, UNIT_THREADS<S>);
    return work;
}

// Fetches tile `j` of K, or of V, into its stage once the tile before it there was read. `copies` begins the copy of a kernel's
// tile of queries, keys or values to a place, counted by an mbarrier.
template <typename S, bool KEYS, typename Copies>
__device__ __forceinline__ void fetch(u32 shared, const Copies& copies, int b, int h_kv, u32 tile, int j) {
    const u32 stage = tile % S::STAGES, full = shared + (KEYS ? S::K_FULL : S::V_FULL) + 8 * stage;
    barrier_sleep(shared + (KEYS ? S::K_FREE : S::V_FREE) + 8 * stage, (tile / S::STAGES & 1) ^ 1);
    barrier_expect(full, S::TILE);
    if (KEYS) copies.keys(shared + S::K + stage * S::TILE, full, b, h_kv, j);
    else copies.values(shared + S::V + stage * S::TILE, full, b, h_kv, j);
}

// The copying thread, the last of its warp: draws units, and fetches tiles from the last one of keys to the first, as the
// consumers want them. Where there is room, it tells of the next unit and fetches its queries before this one's last tile of V:
// a block that drew earlier, when it did not know how long it would take, would be left with a long unit at the end.
template <typename S, typename Copies>
__device__ __forceinline__ void produce(u32 shared, const Copies& copies, const Sizes& n, int units, u32* drawn) {
    constexpr bool AHEAD = S::SLOTS > 1;
    const auto announce = [&](int index, u32 round) {
        const u32 slot = round % S::SLOTS, full = shared + S::Q_FULL + 8 * slot;
        Work work = {};
        if (index < units) work = unit_at<S>(index, n);
        else work.count = -1;
        barrier_sleep(shared + S::Q_FREE + 8 * slot, (round / S::SLOTS & 1) ^ 1);
        if (round >= S::SLOTS) named_sync(UNIT_READ + slot, UNIT_THREADS<S>);
        publish(shared + S::UNIT + 32 * slot, work);
        if (work.count <= 0) {
            barrier_arrive(full);
        } else {
            barrier_expect(full, S::Q_TILE);
            copies.queries(shared + S::Q + slot * S::Q_TILE, full, work);
        }
        return work;
    };
    u32 tile = 0;
    int index = blockIdx.x;
    Work work = announce(index, 0);
    for (u32 round = 1; work.count >= 0; ++round) {
        const int h_kv = work.h / (n.heads_q / n.heads_kv);
        const auto fetch_keys = [&](u32 tile, int j) { fetch<S, true>(shared, copies, work.b, h_kv, tile, j); };
        const auto fetch_values = [&](u32 tile, int j) { fetch<S, false>(shared, copies, work.b, h_kv, tile, j); };
        const auto draw = [&] {
            index = drawn ? gridDim.x + atomicAdd(drawn, 1u) : index + gridDim.x;
            return announce(index, round);
        };
        Work next;
        int j = work.first + work.count - 1;
        if (work.count > 0) fetch_keys(tile, j);
        for (; j > work.first; ++tile) fetch_values(tile, j), fetch_keys(tile + 1, --j);
        if (AHEAD) next = draw();
        if (work.count > 0) fetch_values(tile, j), ++tile;
        if (!AHEAD) next = draw();
        work = next;
    }
}

// What a warp's 16 queries from `i` on see of a unit's keys, or 16 rows of which `1 << pack` side by side are one query's. Ends
// never fall from query to query: keys that the first and the last of them see, all see. Of the tiles from `whole` on, `wholes` are left as they are: one branch, as each costs a softmax a
// hundredth of its time.
template <typename S> struct Sight {
    const Sizes& n;
    const int i, queries, keys, pack;
    int whole;
    u32 wholes;

    __device__ __forceinline__ Sight(const Sizes& n, const Work& work, int i, int pack = 0)
        : n(n), i(i), queries(work.queries), keys(work.keys), pack(pack) {
        whole = (of(15).begin + S::KEYS - 1) / S::KEYS;
        wholes = max(0, of(0).end / S::KEYS - whole);
    }
    __device__ __forceinline__ Keys of(int row) const {
        return visible(i + (row >> pack), queries, keys, n.causal, n.window);
    }
    __device__ __forceinline__ bool sees_all(int j) const { return (u32)(j - whole) < wholes; }
};

// Of a unit that sees no key: zeros, and minus infinity, for a warp's 16 queries from `i` on.
template <typename S, typename T>
__device__ __forceinline__ void finish_blind(T* out, float* lse, const Work& work, const Sizes& n, int i, int lane) {
    if (lane < 16 && i + lane < n.seq_q) lse[((i64)work.b * n.heads_q + work.h) * n.seq_q + i + lane] = NEG_INFINITY;
#pragma unroll 1
    for (int at = lane; at < 16 * (S::DIM / 8); at += 32) {
        const int r = at / (S::DIM / 8), c = at % (S::DIM / 8);
        if (i + r < n.seq_q && c * 8 < n.dim)
            *(uint4*)(out + (((i64)work.b * n.seq_q + i + r) * n.heads_q + work.h) * n.dim + c * 8) = {0, 0, 0, 0};
    }
}

// What a warpgroup found for its share of the keys of queries that it shares with another, thread for thread: 16 bytes a
// thread side by side, first the rows' maxima and sums, then o.
template <int DIM> __device__ __forceinline__ void give_part(u32 to, const float (&o)[DIM / 2], const Softmax& row) {
    const auto write = [](u32 at, float a, float b, float c, float d) {
        asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(at), "f"(a), "f"(b), "f"(c), "f"(d) : "memory");
    };
    write(to, row.max[0], row.max[1], row.total[0], row.total[1]);
#pragma unroll
    for (int x = 0; x < DIM / 2; x += 4) write(to + (x / 4 + 1) * 2048, o[x], o[x + 1], o[x + 2], o[x + 3]);
}

// Adds that to what this warpgroup found for its own share. Either may have seen no key.
template <int DIM>
__device__ __forceinline__ void take_part(u32 from, float (&o)[DIM / 2], Softmax& row, float factor) {
    const auto read = [](u32 at, float (&x)[4]) {
        asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                     : "=f"(x[0]), "=f"(x[1]), "=f"(x[2]), "=f"(x[3]) : "r"(at) : "memory");
    };
    float x[4], own[2], its[2];
    read(from, x);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const float top = fmaxf(row.max[half], x[half]), seen = top == NEG_INFINITY ? 0.f : top;
        own[half] = exp2_fast((row.max[half] - seen) * factor), its[half] = exp2_fast((x[half] - seen) * factor);
        row.max[half] = top, row.total[half] = row.total[half] * own[half] + x[2 + half] * its[half];
    }
#pragma unroll
    for (int c = 0; c < DIM / 8; ++c) {
        read(from + (c + 1) * 2048, x);
#pragma unroll
        for (int e = 0; e < 4; ++e) o[c * 4 + e] = o[c * 4 + e] * own[e / 2] + x[e] * its[e / 2];
    }
}

// Writes the log-sum-exps of a warp's 16 queries from `i` on, and gives what each row's o is to be multiplied by. What was
// summed for a query that sees no key may be no number: its o is zero.
__device__ __forceinline__ void finish_sums(const Softmax& row, float (&inverse)[2], bool (&blind)[2], float* lse,
                                            const Work& work, const Sizes& n, int i, int lane, float factor) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int at = i + half * 8 + lane / 4;
        const float total = quad_sum(row.total[half]);
        blind[half] = at >= work.queries || total == 0.f;
        inverse[half] = blind[half] ? 0.f : 1.f / total;
        if (lane % 4 == 0 && at < n.seq_q)
            lse[((i64)work.b * n.heads_q + work.h) * n.seq_q + at] =
                blind[half] ? NEG_INFINITY : row.max[half] * factor * LN_2 + logf(total);
    }
}

// Divides o by the totals and lets the copy engine write it, from 16 rows of shared memory that are this warp's: boxes of
// 64 values side by side, swizzled by row. Nobody waits for the writing, but whoever uses the rows next.
template <typename S, typename T>
__device__ __forceinline__ void finish_boxes(float (&o)[S::DIM / 2], const Softmax& row, u32 rows, const TensorMap* out,
                                             float* lse, const Work& work, const Sizes& n, int i, int lane, float factor) {
    float inverse[2];
    bool blind[2];
    finish_sums(row, inverse, blind, lse, work, n, i, lane, factor);
    if (lane == 0) stores_read();
    __syncwarp();
    const u32 to = rows + lane % 16 * ROW;
#pragma unroll
    for (int c = 0; c < S::DIM / 8; c += 2) {
        u32 x[4];
#pragma unroll
        for (int g = 0; g < 4; ++g) {
            const float *pair = o + (c + g / 2) * 4 + g % 2 * 2, by = inverse[g % 2];
            x[g] = blind[g % 2] ? 0 : Pair<T>::pack(pair[0] * by, pair[1] * by);
        }
        store_matrices(to + c / 8 * (16 * ROW) + ((c % 8 + lane / 16) ^ lane % 8) * 16, x);
    }
    order_for_engines();
    __syncwarp();
    if (lane == 0) {
#pragma unroll
        for (int d = 0; d < S::DIM; d += 64) store_box(out, rows + d / 64 * (16 * ROW), d, work.h, i, work.b);
        stores_commit();
    }
}

// The same straight from registers, 16 bytes a lane, where shared memory has no room for the rows.
template <typename S, typename T>
__device__ __forceinline__ void finish_rows(float (&o)[S::DIM / 2], const Softmax& row, T* out, float* lse, const Work& work,
                                            const Sizes& n, int i, int lane, float factor) {
    float inverse[2];
    bool blind[2];
    finish_sums(row, inverse, blind, lse, work, n, i, lane, factor);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int at = i + half * 8 + lane / 4;
        T* to = out + (((i64)work.b * n.seq_q + at) * n.heads_q + work.h) * n.dim + lane % 4 * 8;
#pragma unroll
        for (int c = 0; c < S::DIM / 8; c += 4) {
            u32 x[4];
#pragma unroll
            for (int g = 0; g < 4; ++g) {
                const float *pair = o + (c + g) * 4 + half * 2, by = inverse[half];
                x[g] = blind[half] ? 0 : Pair<T>::pack(pair[0] * by, pair[1] * by);
            }
            transpose_quad(x, lane);
            if (at < n.seq_q && c * 8 + lane % 4 * 8 < n.dim) *(uint4*)(to + c * 8) = {x[0], x[1], x[2], x[3]};
        }
    }
}

}  // namespace
