// Idea: one warpgroup only copies, two only compute, and while one computes a softmax the other has the tensor cores.
// Source: Shah et al. 2024 (FlashAttention-3), sections 3.1 and 3.2.
// Shapes: see attention.cuh; head_dim 64 or 128, f16 or bf16, no ragged lengths.
// Plan: a persistent block of 3 warpgroups takes 128 queries of a head at a time, the heaviest first. Warpgroup 0 gives
//   its registers away; one of its threads keeps the tensor copy engine two tiles of 128 keys ahead, through
//   mbarriers. The other two own 64 queries each: scores and output in registers, K and V read by wgmma from shared
//   memory, probabilities as its register operand. Within a warpgroup the scores of the next tile and the product
//   with V of this one run while a softmax is computed; between the two, named barriers hand the tensor cores over.
//   Shared memory: Q tile, two K and two V tiles, 10 mbarriers.
// Numerics: f32 sums; probabilities are rounded to the storage type for the second product, their sum is not.
// Limits: wgmma; 160 KiB of shared memory at head_dim 128, so one block a multiprocessor.
// Target: compute_90a
// Twin: f16
#include "attention.cuh"
#include "hopper.cuh"

namespace {

constexpr int QUERIES = 128, KEYS = 128, STAGES = 2, THREADS = 384, CONSUMER_WARPS = 8;
constexpr u32 ROW = 128;  // bytes of a tile's row: 64 values; wider heads are several tiles side by side

// Shared memory in bytes from its 1024-aligned start.
template <int DIM> struct Layout {
    static constexpr u32 Q = 0, TILE = KEYS * DIM * 2, K = QUERIES * DIM * 2, V = K + STAGES * TILE;
    static constexpr u32 BARRIERS = V + STAGES * TILE;
    static constexpr u32 Q_FULL = BARRIERS, Q_FREE = Q_FULL + 8, K_FULL = Q_FREE + 8, K_FREE = K_FULL + 8 * STAGES;
    static constexpr u32 V_FULL = K_FREE + 8 * STAGES, V_FREE = V_FULL + 8 * STAGES;
};

struct Sizes {
    int batch, seq_q, seq_k, heads_q, heads_kv, causal, window, section;
};

// One unit of work: 128 queries of a head, and the tiles of keys any of them sees.
struct Work {
    int b, h, i0, first, count;
};

// Heads come in sections whose K and V fit the L2 cache; in a section the queries that see most keys come first.
__device__ __forceinline__ Work work_at(int index, const Sizes& n) {
    const int tiles = (n.seq_q + QUERIES - 1) / QUERIES, heads = n.batch * n.heads_q;
    const int start = index / (n.section * tiles) * n.section, wide = min(n.section, heads - start);
    const int rest = index - start * tiles, bh = start + rest % wide;
    Work work;
    work.b = bh / n.heads_q, work.h = bh % n.heads_q, work.i0 = (tiles - 1 - rest / wide) * QUERIES;
    const int last = min(work.i0 + QUERIES, n.seq_q) - 1;
    const int begin = visible(work.i0, n.seq_q, n.seq_k, n.causal, n.window).begin / KEYS;
    const int end = visible(last, n.seq_q, n.seq_k, n.causal, n.window).end;
    work.first = begin, work.count = max(0, (end + KEYS - 1) / KEYS - begin);
    return work;
}

template <int DIM> __device__ __forceinline__ void copy_tile(u32 to, const TensorMap* map, u32 full, int h, int row, int b) {
    barrier_expect(full, KEYS * DIM * 2);
#pragma unroll
    for (int d = 0; d < DIM; d += 64) copy_box(to + d / 64 * (KEYS * ROW), map, full, d, h, row, b);
}

// The copying thread: from the last tile of keys to the first, as the consumers want them.
template <int DIM>
__device__ __forceinline__ void produce(u32 shared, const TensorMap* q, const TensorMap* k, const TensorMap* v,
                                        const Sizes& n, int units) {
    using At = Layout<DIM>;
    u32 round = 0, tile = 0;
    for (int index = blockIdx.x; index < units; index += gridDim.x) {
        const Work work = work_at(index, n);
        if (work.count == 0) continue;
        const int h_kv = work.h / (n.heads_q / n.heads_kv);
        barrier_wait(shared + At::Q_FREE, (round & 1) ^ 1);
        copy_tile<DIM>(shared + At::Q, q, shared + At::Q_FULL, work.h, work.i0, work.b);
        ++round;
        for (int j = work.first + work.count - 1; j >= work.first; --j, ++tile) {
            const u32 stage = tile % STAGES, parity = tile / STAGES & 1;
            barrier_wait(shared + At::K_FREE + 8 * stage, parity ^ 1);
            copy_tile<DIM>(shared + At::K + stage * At::TILE, k, shared + At::K_FULL + 8 * stage, h_kv, j * KEYS, work.b);
            barrier_wait(shared + At::V_FREE + 8 * stage, parity ^ 1);
            copy_tile<DIM>(shared + At::V + stage * At::TILE, v, shared + At::V_FULL + 8 * stage, h_kv, j * KEYS, work.b);
        }
    }
}

// Starts s = Q K^T for a warpgroup's 64 queries.
template <typename T, int DIM> __device__ __forceinline__ void begin_scores(float (&s)[KEYS / 2], u32 q_rows, u32 k_tile) {
#pragma unroll
    for (int d = 0; d < DIM; d += 16) {
        const u32 half = d / 64 * (KEYS * ROW) + d % 64 * 2;
        product_64x128<T>(s, tile_descriptor(q_rows + half, 16), tile_descriptor(k_tile + half, 16), d > 0);
    }
    product_commit();
}

// Starts o += P V.
template <typename T, int DIM>
__device__ __forceinline__ void begin_gather(float (&o)[DIM / 2], const u32 (&p)[KEYS / 16][4], u32 v_tile) {
#pragma unroll
    for (int k = 0; k < KEYS / 16; ++k) {
        const u64 b = tile_descriptor(v_tile + k * 16 * ROW, KEYS * ROW);
        if constexpr (DIM == 128)
            product_64x128<T>(o, p[k], b);
        else
            product_64x64<T>(o, p[k], b);
    }
    product_commit();
}

// A thread has columns lane % 4 * 2 (+1) of every 8, of rows lane / 4 and lane / 4 + 8 of its warp's 16.
__device__ __forceinline__ void hide(float (&s)[KEYS / 2], int i, int j, const Sizes& n) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const Keys seen = visible(i + half * 8, n.seq_q, n.seq_k, n.causal, n.window);
#pragma unroll
        for (int c = 0; c < KEYS / 8; ++c)
#pragma unroll
            for (int e = 0; e < 2; ++e)
                if ((u32)(j + c * 8 + e - seen.begin) >= (u32)(seen.end - seen.begin))
                    s[c * 4 + half * 2 + e] = NEG_INFINITY;
    }
}

struct Softmax {
    float max[2], total[2];
};

// Turns scores into probabilities relative to the new maximum; gives the factor for what was summed before.
__device__ __forceinline__ void soften(float (&s)[KEYS / 2], Softmax& row, float (&shrink)[2], float factor) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float top = row.max[half];
#pragma unroll
        for (int c = 0; c < KEYS / 8; ++c) top = fmaxf(top, fmaxf(s[c * 4 + half * 2], s[c * 4 + half * 2 + 1]));
        top = quad_max(top);
        const float seen = top == NEG_INFINITY ? 0.f : top, base = seen * factor;
        shrink[half] = exp2_fast((row.max[half] - seen) * factor);  // exactly 1 while the maximum stays
        row.max[half] = top;
        float total = 0.f;
#pragma unroll
        for (int c = 0; c < KEYS / 8; ++c)
#pragma unroll
            for (int e = half * 2; e < half * 2 + 2; ++e) {
                s[c * 4 + e] = exp2_fast(fmaf(s[c * 4 + e], factor, -base));
                total += s[c * 4 + e];
            }
        row.total[half] = fmaf(row.total[half], shrink[half], total);
    }
}

// Accumulators of 16 columns are the A operand of 16 values of K, element for element.
template <typename T> __device__ __forceinline__ void round_off(u32 (&p)[KEYS / 16][4], const float (&s)[KEYS / 2]) {
#pragma unroll
    for (int k = 0; k < KEYS / 16; ++k)
#pragma unroll
        for (int x = 0; x < 4; ++x) p[k][x] = Pair<T>::pack(s[k * 8 + x * 2], s[k * 8 + x * 2 + 1]);
}

template <typename T, int DIM>
__device__ __forceinline__ void finish(float (&o)[DIM / 2], const Softmax& row, T* out, float* lse, const Work& work,
                                       const Sizes& n, int i, int lane, float factor) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int at = i + half * 8;
        const float total = quad_sum(row.total[half]);
        const float inverse = total == 0.f ? 0.f : 1.f / total;
        if (at >= n.seq_q) continue;
        T* to = out + (((i64)work.b * n.seq_q + at) * n.heads_q + work.h) * DIM + lane % 4 * 2;
#pragma unroll
        for (int c = 0; c < DIM / 8; ++c)
            *(u32*)(to + c * 8) = Pair<T>::pack(o[c * 4 + half * 2] * inverse, o[c * 4 + half * 2 + 1] * inverse);
        if (lane % 4 == 0)
            lse[((i64)work.b * n.heads_q + work.h) * n.seq_q + at] =
                total == 0.f ? NEG_INFINITY : row.max[half] * factor * LN_2 + logf(total);
    }
}

// A computing warpgroup (`group` 0 or 1).
template <typename T, int DIM>
__device__ __forceinline__ void consume(u32 shared, T* out, float* lse, const Sizes& n, int units, float scale, int group) {
    using At = Layout<DIM>;
    const int lane = threadIdx.x % 32, warp_row = group * 64 + threadIdx.x / 32 % 4 * 16;
    const u32 q_rows = shared + At::Q + group * 64 * ROW;
    const float factor = scale * LOG2_E;
    const auto leave = [&](u32 barrier) {
        if (lane == 0) barrier_arrive(barrier);
    };
    u32 round = 0, tile = 0;
    // Whose turn it is at the tensor cores: barrier 1 lets group 0 in, barrier 2 group 1.
    if (group == 1) named_arrive(1, 256);
#pragma unroll 1
    for (int index = blockIdx.x; index < units; index += gridDim.x) {
        const Work work = work_at(index, n);
        const int i = work.i0 + warp_row + lane / 4;
        float s[KEYS / 2], o[DIM / 2], shrink[2];
        u32 p[KEYS / 16][4];
        Softmax row = {{NEG_INFINITY, NEG_INFINITY}, {0.f, 0.f}};
#pragma unroll
        for (int x = 0; x < DIM / 2; ++x) o[x] = 0.f;
        const auto soften_tile = [&](int j) {
            // Keys that every query of this warp sees need no mask.
            const Keys top = visible(work.i0 + warp_row, n.seq_q, n.seq_k, n.causal, n.window);
            const Keys bottom = visible(work.i0 + warp_row + 15, n.seq_q, n.seq_k, n.causal, n.window);
            if (j * KEYS < bottom.begin || (j + 1) * KEYS > top.end) hide(s, i, j * KEYS + lane % 4 * 2, n);
            soften(s, row, shrink, factor);
        };
        if (work.count > 0) {
            int j = work.first + work.count - 1;
            barrier_wait(shared + At::Q_FULL, round++ & 1);
            barrier_wait(shared + At::K_FULL + 8 * (tile % STAGES), tile / STAGES & 1);
            product_begin();
            begin_scores<T, DIM>(s, q_rows, shared + At::K + tile % STAGES * At::TILE);
            product_wait<0>();
            product_done(s);
            leave(shared + At::K_FREE + 8 * (tile % STAGES));
            soften_tile(j);
            round_off<T>(p, s);
#pragma unroll 1
            for (; --j >= work.first; ++tile) {
                const u32 now = tile % STAGES, next = (tile + 1) % STAGES;
                barrier_wait(shared + At::K_FULL + 8 * next, (tile + 1) / STAGES & 1);
                named_sync(1 + group, 256);
                product_begin();
                begin_scores<T, DIM>(s, q_rows, shared + At::K + next * At::TILE);
                barrier_wait(shared + At::V_FULL + 8 * now, tile / STAGES & 1);
                begin_gather<T, DIM>(o, p, shared + At::V + now * At::TILE);
                named_arrive(2 - group, 256);
                product_wait<1>();
                product_done(s);
                leave(shared + At::K_FREE + 8 * next);
                soften_tile(j);
                product_wait<0>();
                product_done(o);
                leave(shared + At::V_FREE + 8 * now);
#pragma unroll
                for (int x = 0; x < DIM / 2; ++x) o[x] *= shrink[x / 2 % 2];
                round_off<T>(p, s);
            }
            leave(shared + At::Q_FREE);
            barrier_wait(shared + At::V_FULL + 8 * (tile % STAGES), tile / STAGES & 1);
            product_begin();
            begin_gather<T, DIM>(o, p, shared + At::V + tile % STAGES * At::TILE);
            product_wait<0>();
            product_done(o);
            leave(shared + At::V_FREE + 8 * (tile % STAGES));
            ++tile;
        }
        finish<T, DIM>(o, row, out, lse, work, n, i, lane, factor);
    }
}

template <typename T, int DIM>
__device__ __forceinline__ void attend(const TensorMap* q, const TensorMap* k, const TensorMap* v, T* o, float* lse,
                                       const Sizes& n, float scale) {
    using At = Layout<DIM>;
    extern __shared__ unsigned char memory[];
    const u32 shared = ((u32)__cvta_generic_to_shared(memory) + 1023) / 1024 * 1024;
    if (threadIdx.x == 0) {
        barrier_init(shared + At::Q_FULL, 1);
        barrier_init(shared + At::Q_FREE, CONSUMER_WARPS);
        for (int stage = 0; stage < STAGES; ++stage) {
            barrier_init(shared + At::K_FULL + 8 * stage, 1);
            barrier_init(shared + At::V_FULL + 8 * stage, 1);
            barrier_init(shared + At::K_FREE + 8 * stage, CONSUMER_WARPS);
            barrier_init(shared + At::V_FREE + 8 * stage, CONSUMER_WARPS);
        }
        barrier_init_done();
    }
    __syncthreads();
    const int units = (n.seq_q + QUERIES - 1) / QUERIES * n.batch * n.heads_q;
    if (threadIdx.x < 128) {
        registers_down<24>();
        if (threadIdx.x == 0) produce<DIM>(shared, q, k, v, n, units);
    } else {
        registers_up<240>();
        consume<T, DIM>(shared, o, lse, n, units, scale, threadIdx.x / 128 - 1);
    }
}

}  // namespace

#define KERNEL(suffix, T, DIM)                                                                                        \
    extern "C" __global__ void __launch_bounds__(THREADS, 1) forward_d##DIM##_##suffix(                               \
        const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v, \
        T* __restrict__ o, float* __restrict__ lse, int batch, int seq_q, int seq_k, int heads_q, int heads_kv,       \
        int causal, int window, int section, float scale) {                                                           \
        const Sizes n = {batch, seq_q, seq_k, heads_q, heads_kv, causal, window, section};                            \
        attend<T, DIM>(&q, &k, &v, o, lse, n, scale);                                                                 \
    }
KERNEL(bf16, __nv_bfloat16, 64)
KERNEL(bf16, __nv_bfloat16, 128)
