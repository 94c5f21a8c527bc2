// Idea: one warpgroup only copies, the others only compute, and while one computes a softmax another has the tensor
//   cores. Units of work are drawn, not dealt.
// Source: Shah et al. 2024 (FlashAttention-3), sections 3.1 and 3.2.
// Shapes: see attention.cuh; head_dim a multiple of 8 up to 256, f16 or bf16.
// Plan: a persistent block takes 64 queries of a head for each computing warpgroup at a time, the heaviest first; under a
//   causal mask units differ, and the next is drawn from a counter (see attention_units.cuh).
//   Warpgroup 0 gives its registers away; one of its threads draws units and keeps the tensor copy engine two tiles of
//   keys ahead, and the next unit's queries where they fit, through mbarriers. The others own 64 queries each: scores and
//   output in registers, K and V read by wgmma from shared memory, probabilities as its register operand. Within a
//   warpgroup the scores of the next tile and the product with V of this one run while a softmax is computed. That product
//   is waited for as soon as the maxima are known: scaling o and packing p go on in the shadow of the exponentials, of
//   which a warp starts one in eight cycles. Outputs leave through shared memory by the copy engine; where two warpgroups
//   have queries of their own, beside the first scores of the next unit, and the second begins behind the first.
//   Heads of 64 have three shapes (see forward.rs): three warpgroups, which read a tile of keys least often; two, where
//   three would leave multiprocessors without work; and two that share 64 queries, each with every other tile of keys.
// Numerics: f32 sums; a soft cap by tanh_of; probabilities are rounded to the storage type for the second product,
//   their sum is not.
// Limits: wgmma; nearly all shared memory, so one block a multiprocessor. With a soft cap, which costs three
//   approximate functions a score instead of one, heads of up to 64 values have the tiles of 128.
// Tried, none faster on B8 H16 N2048, heads of 64 or 128: turns at the softmax or at the products by named barriers; tiles
//   of 96, 112, 144, 160, 176 or 192 keys; two or three warpgroups that do one thing after the other; an eighth to a half
//   of the exponentials by polynomials; a maximum that lags behind by up to 2^8; units that overlap in one loop; o scaled
//   only where a maximum rose; queries in registers; p packed into a second set of registers; mbarriers asked early; three
//   warpgroups with tiles of 64 or 80 keys for heads of 128, four with 64 for heads of 64; with three warpgroups, the first
//   scores of a unit begun before the outputs of the one before leave (11 % slower). Nor on N512 to N16384: a unit's keys
//   fetched into the L2 cache while the one before is computed (N512: a fifth slower), units drawn one to eight tiles
//   earlier, tensor maps fetched early, a unit read by one lane and told to the others (heads of 64: 1 to 5 % slower), queries
//   given back by all lanes (heads of 64: up to 8 %).
// Target: compute_90a
// Twin: f16
#include "attention_warpgroup_tile.cuh"

namespace {

typedef __nv_bfloat16 T;

// Tiles of `DIM` values by `KEYS` keys, `STAGES` of K and of V; `GROUPS` computing warpgroups, of which `SPLIT` share 64
// queries; room for the queries of `SLOTS` units. And what lies where in shared memory, in bytes from its 1024-aligned
// start.
template <int DIM_, int KEYS_, int GROUPS_, int SPLIT_, int STAGES_, int SLOTS_> struct Shape {
    static constexpr int DIM = DIM_, KEYS = KEYS_, GROUPS = GROUPS_, SPLIT = SPLIT_, STAGES = STAGES_, SLOTS = SLOTS_;
    static constexpr int READERS = GROUPS / SPLIT, QUERIES = 64 * READERS;  // READERS: warpgroups that read one tile
    // Exponentials before the product with V is waited for; whether a unit's first scores begin before the outputs of the
    // one before leave.
    static constexpr int EARLY = GROUPS > 2 ? 48 : DIM > 128 ? 24 : DIM > 64 || SPLIT > 1 ? 0 : 8;
    static constexpr bool CHAINED = GROUPS == 2 && SPLIT == 1 && SLOTS > 1;
    static constexpr bool CAPS = DIM >= 128;  // takes a soft cap: every instance that does takes 40 KiB more PTX
    static constexpr bool BOXES = DIM <= 128;  // has room for outputs on their way
    static constexpr u32 TILE = KEYS * DIM * 2, Q_TILE = QUERIES * DIM * 2, Q = 0, K = SLOTS * Q_TILE, V = K + STAGES * TILE;
    static constexpr u32 OUT = V + STAGES * TILE, PARTS = OUT + (BOXES ? Q_TILE : 0), PART = 128 * 16 * (DIM / 8 + 1);
    static constexpr u32 Q_FULL = PARTS + 2 * (SPLIT - 1) * PART, Q_FREE = Q_FULL + 8 * SLOTS, K_FULL = Q_FREE + 8 * SLOTS;
    static constexpr u32 K_FREE = K_FULL + 8 * STAGES, V_FULL = K_FREE + 8 * STAGES, V_FREE = V_FULL + 8 * STAGES;
    static constexpr u32 UNIT = V_FREE + 8 * STAGES, UNUSED = UNIT + 32 * SLOTS;
};

// A computing warpgroup. One function: with what it keeps as a struct's fields and its parts as members, ptxas orders a tile's
// instructions otherwise, and chained units take 2 to 3 % longer; with the walk over tiles as a function of its own 1.3 %.
template <typename S>
__device__ __forceinline__ void consume(u32 shared, const TensorMap* o_map, T* out, float* lse, const Sizes& n, float scale,
                                        float squeeze, int group) {
    constexpr int KEYS = S::KEYS, DIM = S::DIM, SPLIT = S::SPLIT, STAGES = S::STAGES;
    const int part = group % SPLIT, lane = threadIdx.x % 32, row16 = group / SPLIT * 4 + threadIdx.x / 32 % 4;
    const float factor = scale * LOG2_E;
    // Starts of descriptors in steps from that of the first tile: an addition or two stand before products.
    const u32 tiles = descriptor_start(shared + S::K, 16);
    const auto k_start = [&](u32 tile) { return tiles + tile % STAGES * (S::TILE / 16); };
    const auto v_start = [&](u32 tile) { return k_start(tile) + descriptor_start(S::V - S::K, KEYS * ROW - 16); };
    const auto leave = [&](u32 barrier) {  // a predicate takes up to 5 % less, but where queries are shared 3 % more
        if (SPLIT == 1) barrier_arrive_if(barrier, lane == 0);
        else if (lane == 0) barrier_arrive(barrier);
    };
    u32 round = 0, turn = 0, unit_tile = 0, q_start = 0;
    Work work = {};
    float s[KEYS / 2];
    const auto leave_queries = [&] { leave(shared + S::Q_FREE + 8 * (round % S::SLOTS)); };
    // Takes units until one has keys; false when there are no more.
    const auto take = [&] {
        for (work = take_unit<S>(shared, round); work.count == 0; work = take_unit<S>(shared, ++round)) {
            leave_queries();
            if (part == 0) finish_blind<S>(out, lse, work, n, work.i0 + row16 * 16, lane);
        }
        return work.count > 0;
    };
    const auto begin_unit = [&](u32 tile) {
        barrier_sleep(shared + S::K_FULL + 8 * (tile % STAGES), tile / STAGES & 1);
        product_begin();
        q_start = descriptor_start(shared + S::Q + round % S::SLOTS * S::Q_TILE + group / SPLIT * 64 * ROW, 16);
        begin_scores<S>(s, q_start, k_start(tile));
    };
    const auto first_scores = [&](u32 tile) {
        begin_unit(tile);
        product_wait<0>();
        product_done(s);
    };
    if (S::CHAINED) {
        if (!take()) return;
        if (group > 0) named_sync(2, 256);  // side by side both would multiply, then both wait
        first_scores(0);
        if (group == 0) named_arrive(2, 256);
    }
#pragma unroll 1
    for (;; round += !S::CHAINED) {
        if (!S::CHAINED && !take()) break;
        const int i = work.i0 + row16 * 16;
        float o[DIM / 2], shrink[2], base[2], total[2][2];
        u32 p[KEYS / 16][4];
        Softmax row = {{NEG_INFINITY, NEG_INFINITY}, {0.f, 0.f}};
#pragma unroll
        for (int x = 0; x < DIM / 2; ++x) o[x] = 0.f;
        const Mask<S> mask(n, work, i, lane, squeeze);
        const auto add_up = [&] {
#pragma unroll
            for (int half = 0; half < 2; ++half) row.total[half] = total[half][0] + total[half][1];
        };
        // A tile of keys was read; after the unit's last one nobody needs its queries.
        const auto leave_keys = [&](u32 stage, int j) {
            leave(shared + S::K_FREE + 8 * stage);
            if (j < work.first + SPLIT) leave_queries();
        };
        // Of a unit's tiles, a warpgroup that shares its queries takes every SPLIT-th: maybe none.
        int j = work.first + work.count - 1 - part;
        u32 tile = unit_tile + part;
        unit_tile += work.count;
        if (SPLIT > 1 && j < work.first) {
            leave_queries();
        } else {
            if (!S::CHAINED) first_scores(tile);
            leave_keys(tile % STAGES, j);
            mask.apply(s, j);
            raise_maxima<KEYS>(s, row, shrink, base, total, factor);
            soften<0, KEYS / 2, KEYS>(s, base, total, factor);
            add_up();
            round_off<T, KEYS>(p, s);
            // Only the last tile of keys, the first to come, may reach behind those that exist.
            if ((j + 1) * KEYS > work.keys && work.keys < n.seq_k) {
                barrier_sleep(shared + S::V_FULL + 8 * (tile % STAGES), tile / STAGES & 1);
                const u32 v_tile = shared + S::V + tile % STAGES * S::TILE;
                clear_behind<S>(v_tile, work.keys - j * KEYS, threadIdx.x % (128 * S::READERS));
                order_for_engines();
                named_sync(1, 128 * S::READERS);
            }
#pragma unroll 1
            for (; (j -= SPLIT) >= work.first; tile += SPLIT) {
                const u32 now = tile % STAGES, next = (tile + SPLIT) % STAGES;
                barrier_sleep(shared + S::K_FULL + 8 * next, (tile + SPLIT) / STAGES & 1);
                product_begin();
                begin_scores<S>(s, q_start, k_start(tile + SPLIT));
                barrier_sleep(shared + S::V_FULL + 8 * now, tile / STAGES & 1);
                product_begin();  // or ptxas inserts one, fears that lanes diverge and waits for each product
                begin_gather<S>(o, p, v_start(tile));
                product_wait<1>();
                product_done(s);
                leave_keys(next, j);
                mask.apply(s, j);
                raise_maxima<KEYS>(s, row, shrink, base, total, factor);
                soften<0, S::EARLY, KEYS>(s, base, total, factor);
                // The product with V ends meanwhile: what o and p then cost goes on beside the other exponentials.
                hold_waits(shared + S::UNUSED, total);
                product_wait<0>();
                product_done(o);
                leave(shared + S::V_FREE + 8 * now);
#pragma unroll
                for (int x = 0; x < DIM / 2; ++x) o[x] *= shrink[x / 2 % 2];
                soften<S::EARLY, KEYS / 2, KEYS>(s, base, total, factor);
                add_up();
                round_off<T, KEYS>(p, s);
            }
            barrier_sleep(shared + S::V_FULL + 8 * (tile % STAGES), tile / STAGES & 1);
            product_begin();
            begin_gather<S>(o, p, v_start(tile));
            if (!S::CHAINED) {
                product_wait<0>();
                product_done(o);
                leave(shared + S::V_FREE + 8 * (tile % STAGES));
            }
        }
        if (S::CHAINED) {
            const Work unit = work;
            const u32 unit_round = round++;
            const bool more = take();
            // After the last unit, its last scores again: a branch around products would serialize all of them.
            if (!more) round = unit_round, --unit_tile;
            begin_unit(unit_tile);
            product_wait<1>();
            product_done(o);
            leave(shared + S::V_FREE + 8 * (tile % STAGES));
            finish_boxes<S, T>(o, row, shared + S::OUT + row16 * (16 * DIM * 2), o_map, lse, unit, n, i, lane, factor);
            product_wait<0>();
            product_done(s);
            if (!more) break;
            continue;
        }
        if (SPLIT > 1) {
            const u32 parts = shared + S::PARTS + turn * S::PART + threadIdx.x % 128 * 16;
            turn ^= 1;
            if (part > 0) give_part<DIM>(parts, o, row);
            named_sync(2, 128 * S::GROUPS);
            if (part > 0) continue;
            take_part<DIM>(parts, o, row, factor);
        }
        if (S::BOXES)
            finish_boxes<S, T>(o, row, shared + S::OUT + row16 * (16 * DIM * 2), o_map, lse, work, n, i, lane, factor);
        else
            finish_rows<S>(o, row, out, lse, work, n, i, lane, factor);
    }
    if (S::BOXES && lane == 0) stores_done();
}

template <typename S>
__device__ __forceinline__ void attend(const TensorMap* q, const TensorMap* k, const TensorMap* v, const TensorMap* o_map,
                                       T* o, float* lse, const Sizes& n, float scale, float squeeze, u32* drawn) {
    const u32 shared = begin_shared<S, S::STAGES, S::READERS>();
    const int units = (n.seq_q + S::QUERIES - 1) / S::QUERIES * n.batch * n.heads_q;
    if (threadIdx.x < 128) {
        registers_down<S::GROUPS == 2 ? 40 : 32>();
        if (threadIdx.x > 0) end_thread();
        produce<S>(shared, Copies<S>{q, k, v}, n, units, drawn);
    } else {
        registers_up<S::GROUPS == 2 ? 232 : 160>();
        const u32 group = S::CHAINED ? __shfl_sync(0xffffffffu, threadIdx.x / 128, 0) : threadIdx.x / 128;
        consume<S>(S::CHAINED ? __shfl_sync(0xffffffffu, shared, 0) : shared, o_map, o, lse, n, scale, squeeze, group - 1);
    }
}

}  // namespace

#define KERNEL(NAME, DIM, KEYS, GROUPS, SPLIT, STAGES, SLOTS)                                                         \
    extern "C" __global__ void __launch_bounds__(128 * (GROUPS + 1), 1) forward_##NAME##_bf16(                        \
        const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v, \
        const __grid_constant__ TensorMap o_map, const int* __restrict__ lengths_q, const int* __restrict__ lengths_k, \
        T* __restrict__ o, float* __restrict__ lse, int batch, int seq_q, int seq_k, int heads_q, int heads_kv,       \
        int dim, int causal, int window, int section, float scale, float squeeze, u32* __restrict__ drawn) {          \
        static_assert(SPLIT <= 2 && STAGES % SPLIT == 0, "one part at most, each warpgroup its own stages");           \
        const Sizes n = {lengths_q, lengths_k, batch, seq_q, seq_k, heads_q, heads_kv, dim, causal, window, section}; \
        attend<Shape<DIM, KEYS, GROUPS, SPLIT, STAGES, SLOTS>>(&q, &k, &v, &o_map, o, lse, n, scale, squeeze, drawn);  \
    }
KERNEL(d64, 64, 128, 3, 1, 2, 2)
KERNEL(d64_fewer, 64, 128, 2, 1, 2, 2)
KERNEL(d64_shared, 64, 128, 2, 2, 4, 2)
KERNEL(d128, 128, 128, 2, 1, 2, 2)
KERNEL(d256, 256, 80, 2, 1, 2, 1)
