// How the warp-specialized forward hands out its units of work, and how a unit's outputs leave.
//
// A kernel's Shape gives QUERIES (of a unit, 64 a computing warpgroup), KEYS (of a tile), DIM (values of a head), SLOTS and
// UNIT, where in shared memory the units at hand stand.
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
    __syncwarp();  // all lanes have read it before one of them gives it back
    return work;
}

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

// Divides by the totals and writes o straight from registers, 16 bytes a lane: no queries are waited for, whose rows
// would otherwise be the way out.
template <typename S, typename T>
__device__ __forceinline__ void finish_rows(float (&o)[S::DIM / 2], const Softmax& row, T* out, float* lse, const Work& work,
                                            const Sizes& n, int i, int lane, float factor) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int at = i + half * 8 + lane / 4;
        const float total = quad_sum(row.total[half]);
        const bool blind = at >= work.queries || total == 0.f;
        const float inverse = blind ? 0.f : 1.f / total;
        if (lane % 4 == 0 && at < n.seq_q)
            lse[((i64)work.b * n.heads_q + work.h) * n.seq_q + at] =
                blind ? NEG_INFINITY : row.max[half] * factor * LN_2 + logf(total);
        T* to = out + (((i64)work.b * n.seq_q + at) * n.heads_q + work.h) * n.dim + lane % 4 * 8;
#pragma unroll
        for (int c = 0; c < S::DIM / 8; c += 4) {
            u32 x[4];
#pragma unroll
            for (int g = 0; g < 4; ++g) {
                x[g] = Pair<T>::pack(o[(c + g) * 4 + half * 2] * inverse, o[(c + g) * 4 + half * 2 + 1] * inverse);
                if (blind) x[g] = 0;  // what was summed may be no number
            }
            transpose_quad(x, lane);
            if (at < n.seq_q && c * 8 + lane % 4 * 8 < n.dim) *(uint4*)(to + c * 8) = {x[0], x[1], x[2], x[3]};
        }
    }
}

}  // namespace
