// Idea: one warpgroup only copies, the others only compute, and while one computes a softmax another has the tensor
//   cores.
// Source: Shah et al. 2024 (FlashAttention-3), sections 3.1 and 3.2.
// Shapes: see attention.cuh; head_dim a multiple of 8 up to 256, f16 or bf16.
// Plan: a persistent block takes 64 queries of a head for each computing warpgroup at a time, the heaviest first.
//   Warpgroup 0 gives its registers away; one of its threads keeps the tensor copy engine two tiles of keys ahead,
//   and the next unit's queries where they fit, through mbarriers. The others own 64 queries each: scores and output in
//   registers, K and V read by wgmma from shared memory, probabilities as its register operand. Within a warpgroup
//   the scores of the next tile and the product with V of this one run while a softmax is computed; between them,
//   of heads up to 64 values, named barriers hand the tensor cores over (wider ones lose 2 to 7 % by taking turns).
//   Outputs leave through the rows of Q, 16 bytes a store.
// Numerics: f32 sums; a soft cap by tanh_of; probabilities are rounded to the storage type for the second product,
//   their sum is not.
// Limits: wgmma; nearly all shared memory, so one block a multiprocessor. With a soft cap, which costs three
//   approximate functions a score instead of one, heads of up to 64 values have the tiles of 128.
// Target: compute_90a
// Twin: f16
#include "attention_warpgroup.cuh"

namespace {

typedef __nv_bfloat16 T;
constexpr int STAGES = 2;

// Tiles of `DIM` values by `KEYS` keys, `GROUPS` computing warpgroups, room for the queries of `SLOTS` units; and what
// lies where in shared memory, in bytes from its 1024-aligned start.
template <int DIM_, int KEYS_, int GROUPS_, int SLOTS_> struct Shape {
    static constexpr int DIM = DIM_, KEYS = KEYS_, GROUPS = GROUPS_, SLOTS = SLOTS_, QUERIES = 64 * GROUPS;
    static constexpr bool TURNS = DIM < 128;  // narrow heads: softmax weighs more than products, so the groups take turns
    static constexpr bool CAPS = DIM >= 128;  // takes a soft cap: every instance that does takes 40 KiB more PTX
    static constexpr u32 TILE = KEYS * DIM * 2, Q_TILE = QUERIES * DIM * 2, Q = 0, K = SLOTS * Q_TILE, V = K + STAGES * TILE;
    static constexpr u32 Q_FULL = V + STAGES * TILE, Q_FREE = Q_FULL + 8 * SLOTS, K_FULL = Q_FREE + 8 * SLOTS;
    static constexpr u32 K_FREE = K_FULL + 8 * STAGES, V_FULL = K_FREE + 8 * STAGES, V_FREE = V_FULL + 8 * STAGES;
};

template <int ROWS, int DIM>
__device__ __forceinline__ void copy_tile(u32 to, const TensorMap* map, u32 full, int h, int row, int b) {
    barrier_expect(full, ROWS * DIM * 2);
#pragma unroll
    for (int d = 0; d < DIM; d += 64) copy_box(to + d / 64 * (ROWS * ROW), map, full, d, h, row, b);
}

// The copying thread: from the last tile of keys to the first, as the consumers want them.
template <typename S>
__device__ __forceinline__ void produce(u32 shared, const TensorMap* q, const TensorMap* k, const TensorMap* v,
                                        const Sizes& n, int units) {
    u32 round = 0, tile = 0;
    for (int index = blockIdx.x; index < units; index += gridDim.x) {
        const Work work = work_at<S>(index, n);
        if (work.count == 0) continue;
        const int h_kv = work.h / (n.heads_q / n.heads_kv);
        bool first = true;
        for (int j = work.first + work.count - 1; j >= work.first; --j, ++tile) {
            const u32 stage = tile % STAGES, parity = tile / STAGES & 1;
            barrier_wait(shared + S::K_FREE + 8 * stage, parity ^ 1);
            copy_tile<S::KEYS, S::DIM>(shared + S::K + stage * S::TILE, k, shared + S::K_FULL + 8 * stage, h_kv, j * S::KEYS, work.b);
            if (first) {
                const u32 slot = round % S::SLOTS;
                barrier_wait(shared + S::Q_FREE + 8 * slot, (round / S::SLOTS & 1) ^ 1);
                copy_tile<S::QUERIES, S::DIM>(shared + S::Q + slot * S::Q_TILE, q, shared + S::Q_FULL + 8 * slot, work.h, work.i0, work.b);
                ++round;
                first = false;
            }
            barrier_wait(shared + S::V_FREE + 8 * stage, parity ^ 1);
            copy_tile<S::KEYS, S::DIM>(shared + S::V + stage * S::TILE, v, shared + S::V_FULL + 8 * stage, h_kv, j * S::KEYS, work.b);
        }
    }
}

// Starts s = Q K^T for a warpgroup's 64 queries.
template <typename S> __device__ __forceinline__ void begin_scores(float (&s)[S::KEYS / 2], u32 q_rows, u32 k_tile) {
    asm volatile("" : "+r"(q_rows));  // or descriptors that stay the same would be kept in registers
#pragma unroll
    for (int d = 0; d < S::DIM; d += 16) {
        const u64 a = tile_descriptor(q_rows + d / 64 * (S::QUERIES * ROW) + d % 64 * 2, 16);
        product<S::KEYS>(s, a, tile_descriptor(k_tile + d / 64 * (S::KEYS * ROW) + d % 64 * 2, 16), d > 0);
    }
    product_commit();
}

// Starts o += P V.
template <typename S>
__device__ __forceinline__ void begin_gather(float (&o)[S::DIM / 2], const u32 (&p)[S::KEYS / 16][4], u32 v_tile) {
#pragma unroll
    for (int k = 0; k < S::KEYS / 16; ++k)
        product<S::DIM>(o, p[k], tile_descriptor(v_tile + k * 16 * ROW, S::KEYS * ROW));
    product_commit();
}

// Hides keys from `end` on, or before `begin`. A thread has columns lane % 4 * 2 (+1) of every 8, of rows lane / 4 and
// lane / 4 + 8 of its warp's 16; ends count from the thread's first column.
template <int KEYS> __device__ __forceinline__ void hide_from(float (&s)[KEYS / 2], int half, int end) {
#pragma unroll
    for (int c = 0; c < KEYS / 8; ++c)
#pragma unroll
        for (int e = 0; e < 2; ++e)
            if (c * 8 + e >= end) s[c * 4 + half * 2 + e] = NEG_INFINITY;
}
template <int KEYS> __device__ __forceinline__ void hide_before(float (&s)[KEYS / 2], int half, int begin) {
#pragma unroll
    for (int c = 0; c < KEYS / 8; ++c)
#pragma unroll
        for (int e = 0; e < 2; ++e)
            if (c * 8 + e < begin) s[c * 4 + half * 2 + e] = NEG_INFINITY;
}

// Turns scores into probabilities relative to the new maximum; gives the factor for what was summed before.
template <int KEYS>
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
template <int KEYS> __device__ __forceinline__ void round_off(u32 (&p)[KEYS / 16][4], const float (&s)[KEYS / 2]) {
#pragma unroll
    for (int k = 0; k < KEYS / 16; ++k)
#pragma unroll
        for (int x = 0; x < 4; ++x) p[k][x] = Pair<T>::pack(s[k * 8 + x * 2], s[k * 8 + x * 2 + 1]);
}

// Rows of V from `end` on do not exist: what lies there may be no number, which a probability of zero does not cancel.
template <typename S> __device__ __forceinline__ void clear_behind(u32 v_tile, int end, int thread) {
    for (int at = thread; at < (S::KEYS - end) * (S::DIM / 8); at += 128 * S::GROUPS) {
        const int row = end + at / 8 % (S::KEYS - end), wide = at / 8 / (S::KEYS - end);
        const u32 to = v_tile + wide * (S::KEYS * ROW) + row * ROW + at % 8 * 16;
        asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(to), "r"(0) : "memory");
    }
}

// A computing warpgroup.
template <typename S>
__device__ __forceinline__ void consume(u32 shared, T* out, float* lse, const Sizes& n, int units, float scale,
                                        float squeeze, int group) {
    constexpr int KEYS = S::KEYS, DIM = S::DIM;
    const int lane = threadIdx.x % 32, warp_row = group * 64 + threadIdx.x / 32 % 4 * 16;
    const float factor = scale * LOG2_E;
    const auto leave = [&](u32 barrier) {
        if (lane == 0) barrier_arrive(barrier);
    };
    u32 round = 0, tile = 0;
    // Whose turn it is at the tensor cores: barrier 1 + g lets group g in.
    if (S::TURNS && group == S::GROUPS - 1) named_arrive(1, 256);
    const int next_group = group == S::GROUPS - 1 ? 0 : group + 1;
#pragma unroll 1
    for (int index = blockIdx.x; index < units; index += gridDim.x) {
        const Work work = work_at<S>(index, n);
        const int i = work.i0 + warp_row;
        float s[KEYS / 2], o[DIM / 2], shrink[2];
        u32 p[KEYS / 16][4];
        Softmax row = {{NEG_INFINITY, NEG_INFINITY}, {0.f, 0.f}};
#pragma unroll
        for (int x = 0; x < DIM / 2; ++x) o[x] = 0.f;
        const u32 slot = round % S::SLOTS, q_tile = shared + S::Q + slot * S::Q_TILE;
        // Keys from all_begin to all_end are seen by every query of this warp: tiles within need no mask.
        const int all_begin = visible(i + 15, work.queries, work.keys, n.causal, n.window).begin;
        const int all_end = visible(i, work.queries, work.keys, n.causal, n.window).end;
        const auto soften_tile = [&](int j) {
            if (S::CAPS && squeeze != 0.f)
#pragma unroll
                for (int x = 0; x < KEYS / 2; ++x) s[x] = tanh_of(s[x], squeeze);
            if ((j + 1) * KEYS > all_end)
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const int end = visible(i + half * 8 + lane / 4, work.queries, work.keys, n.causal, n.window).end;
                    hide_from<KEYS>(s, half, end - j * KEYS - lane % 4 * 2);
                }
            if (j * KEYS < all_begin)
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const int begin = visible(i + half * 8 + lane / 4, work.queries, work.keys, n.causal, n.window).begin;
                    hide_before<KEYS>(s, half, begin - j * KEYS - lane % 4 * 2);
                }
            soften<KEYS>(s, row, shrink, factor);
        };
        if (work.count > 0) {
            const u32 q_rows = q_tile + group * 64 * ROW;
            int j = work.first + work.count - 1;
            barrier_wait(shared + S::Q_FULL + 8 * slot, round / S::SLOTS & 1);
            barrier_wait(shared + S::K_FULL + 8 * (tile % STAGES), tile / STAGES & 1);
            product_begin();
            begin_scores<S>(s, q_rows, shared + S::K + tile % STAGES * S::TILE);
            product_wait<0>();
            product_done(s);
            leave(shared + S::K_FREE + 8 * (tile % STAGES));
            soften_tile(j);
            round_off<KEYS>(p, s);
            // Only the last tile of keys, the first to come, may reach behind those that exist.
            if ((j + 1) * KEYS > work.keys && work.keys < n.seq_k) {
                barrier_wait(shared + S::V_FULL + 8 * (tile % STAGES), tile / STAGES & 1);
                clear_behind<S>(shared + S::V + tile % STAGES * S::TILE, work.keys - j * KEYS, threadIdx.x - 128);
                order_for_engines();
                named_sync(3, 128 * S::GROUPS);
            }
#pragma unroll 1
            for (; --j >= work.first; ++tile) {
                const u32 now = tile % STAGES, next = (tile + 1) % STAGES;
                barrier_wait(shared + S::K_FULL + 8 * next, (tile + 1) / STAGES & 1);
                if (S::TURNS) named_sync(1 + group, 256);
                product_begin();
                begin_scores<S>(s, q_rows, shared + S::K + next * S::TILE);
                barrier_wait(shared + S::V_FULL + 8 * now, tile / STAGES & 1);
                begin_gather<S>(o, p, shared + S::V + now * S::TILE);
                if (S::TURNS) named_arrive(1 + next_group, 256);
                product_wait<1>();
                product_done(s);
                leave(shared + S::K_FREE + 8 * next);
                soften_tile(j);
                // Never: but without a way out here ptxas moves the wait above the softmax that should run meanwhile.
                if (!S::TURNS && fminf(row.total[0], row.total[1]) < 0.f) return;
                product_wait<0>();
                product_done(o);
                leave(shared + S::V_FREE + 8 * now);
#pragma unroll
                for (int x = 0; x < DIM / 2; ++x) o[x] *= shrink[x / 2 % 2];
                round_off<KEYS>(p, s);
            }
            barrier_wait(shared + S::V_FULL + 8 * (tile % STAGES), tile / STAGES & 1);
            product_begin();
            begin_gather<S>(o, p, shared + S::V + tile % STAGES * S::TILE);
            product_wait<0>();
            product_done(o);
            leave(shared + S::V_FREE + 8 * (tile % STAGES));
            ++tile;
            ++round;
            named_sync(5 + group, 128);  // all of the warpgroup have read their queries
        }
        finish<S>(o, row, q_tile + warp_row * ROW, out, lse, work, n, i, lane, factor);
        if (work.count > 0) {
            order_for_engines();
            __syncwarp();
            leave(shared + S::Q_FREE + 8 * slot);
        }
    }
}

template <typename S>
__device__ __forceinline__ void attend(const TensorMap* q, const TensorMap* k, const TensorMap* v, T* o, float* lse,
                                       const Sizes& n, float scale, float squeeze) {
    const u32 shared = begin_shared<S, STAGES>();
    const int units = (n.seq_q + S::QUERIES - 1) / S::QUERIES * n.batch * n.heads_q;
    if (threadIdx.x < 128) {
        registers_down<S::GROUPS == 2 ? 24 : 32>();
        if (threadIdx.x == 0) produce<S>(shared, q, k, v, n, units);
    } else {
        registers_up<S::GROUPS == 2 ? 240 : 160>();
        consume<S>(shared, o, lse, n, units, scale, squeeze, threadIdx.x / 128 - 1);
    }
}

}  // namespace

#define KERNEL(DIM, KEYS, GROUPS, SLOTS)                                                                              \
    extern "C" __global__ void __launch_bounds__(128 * (GROUPS + 1), 1) forward_d##DIM##_bf16(                        \
        const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v, \
        const int* __restrict__ lengths_q, const int* __restrict__ lengths_k, T* __restrict__ o,                      \
        float* __restrict__ lse, int batch, int seq_q, int seq_k, int heads_q, int heads_kv, int dim, int causal,     \
        int window, int section, float scale, float squeeze) {                                                        \
        const Sizes n = {lengths_q, lengths_k, batch, seq_q, seq_k, heads_q, heads_kv, dim, causal, window, section}; \
        attend<Shape<DIM, KEYS, GROUPS, SLOTS>>(&q, &k, &v, o, lse, n, scale, squeeze);                               \
    }
KERNEL(64, 128, 2, 2)
KERNEL(128, 128, 2, 2)
KERNEL(256, 80, 2, 1)
