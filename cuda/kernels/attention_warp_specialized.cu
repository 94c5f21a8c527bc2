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
//   earlier, tensor maps fetched early, a unit read by one lane and told to the others, queries given back by all lanes
//   (heads of 64: up to 8 % slower).
// Target: compute_90a
// Twin: f16
#include "attention_units.cuh"

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

template <int ROWS, int DIM>
__device__ __forceinline__ void copy_tile(u32 to, const TensorMap* map, u32 full, int h, int row, int b) {
    barrier_expect(full, ROWS * DIM * 2);
#pragma unroll
    for (int d = 0; d < DIM; d += 64) copy_box(to + d / 64 * (ROWS * ROW), map, full, d, h, row, b);
}

// The copying thread: draws units, and fetches tiles from the last one of keys to the first, as the consumers want them. Where
// there is room, it tells of the next unit and fetches its queries before this one's last tile of V: a block that drew
// earlier, when it did not know how long it would take, would be left with a long unit at the end.
template <typename S>
__device__ __forceinline__ void produce(u32 shared, const TensorMap* q, const TensorMap* k, const TensorMap* v,
                                        const Sizes& n, int units, u32* drawn) {
    constexpr bool AHEAD = S::SLOTS > 1;
    const auto announce = [&](int index, u32 round) {
        const u32 slot = round % S::SLOTS;
        Work work = {};
        if (index < units) work = unit_at<S>(index, n);
        else work.count = -1;
        barrier_sleep(shared + S::Q_FREE + 8 * slot, (round / S::SLOTS & 1) ^ 1);
        if (round >= S::SLOTS) named_sync(UNIT_READ + slot, UNIT_THREADS<S>);
        publish(shared + S::UNIT + 32 * slot, work);
        const u32 full = shared + S::Q_FULL + 8 * slot;
        if (work.count > 0) copy_tile<S::QUERIES, S::DIM>(shared + S::Q + slot * S::Q_TILE, q, full, work.h, work.i0, work.b);
        else barrier_arrive(full);
        return work;
    };
    u32 tile = 0;
    int index = blockIdx.x;
    Work work = announce(index, 0);
    for (u32 round = 1; work.count >= 0; ++round) {
        const int h_kv = work.h / (n.heads_q / n.heads_kv);
        const auto fetch = [&](const TensorMap* map, u32 tiles, u32 full, u32 free, u32 tile, int j) {
            const u32 stage = tile % S::STAGES, to = shared + tiles + stage * S::TILE;
            barrier_sleep(shared + free + 8 * stage, (tile / S::STAGES & 1) ^ 1);
            copy_tile<S::KEYS, S::DIM>(to, map, shared + full + 8 * stage, h_kv, j * S::KEYS, work.b);
        };
        const auto fetch_keys = [&](u32 tile, int j) { fetch(k, S::K, S::K_FULL, S::K_FREE, tile, j); };
        const auto fetch_values = [&](u32 tile, int j) { fetch(v, S::V, S::V_FULL, S::V_FREE, tile, j); };
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

// A word that all lanes have, from one: or descriptors would be kept in the registers of all. Where units are chained, ptxas
// knows that it is the same for all without.
template <typename S> __device__ __forceinline__ u32 shared_word(u32 x) {
    return S::CHAINED ? x : __shfl_sync(0xffffffffu, x, 0);
}

// Starts s = Q K^T for a warpgroup's 64 queries.
template <typename S> __device__ __forceinline__ void begin_scores(float (&s)[S::KEYS / 2], u32 q_rows, u32 k_tile) {
    const u32 a = shared_word<S>(descriptor_start(q_rows, 16)), b = shared_word<S>(descriptor_start(k_tile, 16));
#pragma unroll
    for (int d = 0; d < S::DIM; d += 16)
        product<S::KEYS>(s, descriptor_at(a + (d / 64 * (S::QUERIES * ROW) + d % 64 * 2) / 16),
                         descriptor_at(b + (d / 64 * (S::KEYS * ROW) + d % 64 * 2) / 16), d > 0);
    product_commit();
}

// Starts o += P V.
template <typename S>
__device__ __forceinline__ void begin_gather(float (&o)[S::DIM / 2], const u32 (&p)[S::KEYS / 16][4], u32 v_tile) {
    const u32 b = shared_word<S>(descriptor_start(v_tile, S::KEYS * ROW));
#pragma unroll
    for (int k = 0; k < S::KEYS / 16; ++k) product<S::DIM>(o, p[k], descriptor_at(b + k * ROW));
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

// Takes the scores' maxima: gives the factor for what was summed before, and what soften is to take off. Both rows of a
// thread go side by side, as maxima and as sums of two chains each.
template <int KEYS>
__device__ __forceinline__ void raise_maxima(const float (&s)[KEYS / 2], Softmax& row, float (&shrink)[2], float (&base)[2],
                                             float (&total)[2][2], float factor) {
    float top[2], other[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) top[half] = row.max[half], other[half] = fmaxf(s[half * 2], s[half * 2 + 1]);
#pragma unroll
    for (int c = 1; c < KEYS / 8; ++c)
#pragma unroll
        for (int half = 0; half < 2; ++half)
            top[half] = fmaxf(top[half], s[c * 4 + half * 2]), other[half] = fmaxf(other[half], s[c * 4 + half * 2 + 1]);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        top[half] = quad_max(fmaxf(top[half], other[half]));
        const float seen = top[half] == NEG_INFINITY ? 0.f : top[half];
        shrink[half] = exp2_fast((row.max[half] - seen) * factor);  // exactly 1 while the maximum stays
        base[half] = seen * factor, row.max[half] = top[half];
        total[half][0] = row.total[half] * shrink[half], total[half][1] = 0.f;
    }
}

// Turns scores into probabilities relative to the maxima.
template <int FROM, int TO, int KEYS>
__device__ __forceinline__ void soften(float (&s)[KEYS / 2], const float (&base)[2], float (&total)[2][2], float factor) {
#pragma unroll
    for (int x = FROM; x < TO; ++x) {
        s[x] = exp2_fast(fmaf(s[x], factor, -base[x / 2 % 2]));
        total[x / 2 % 2][x % 2] += s[x];
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
    for (int at = thread; at < (S::KEYS - end) * (S::DIM / 8); at += 128 * S::READERS) {
        const int row = end + at / 8 % (S::KEYS - end), wide = at / 8 / (S::KEYS - end);
        const u32 to = v_tile + wide * (S::KEYS * ROW) + row * ROW + at % 8 * 16;
        asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(to), "r"(0) : "memory");
    }
}

// Keeps a wait for products where it stands: ptxas moves it up to the last instruction that may touch memory, so one stands
// here that does not, as no total is negative.
__device__ __forceinline__ void hold_waits(u32 unused, const float (&total)[2][2]) {
    asm volatile("{\n.reg .pred p;\nsetp.lt.f32 p, %1, 0f00000000;\n@p st.volatile.shared.f32 [%0], %1;\n}"
                 ::"r"(unused), "f"(fminf(total[0][0], total[1][0])) : "memory");
}

// A computing warpgroup.
template <typename S>
__device__ __forceinline__ void consume(u32 shared, const TensorMap* o_map, T* out, float* lse, const Sizes& n, float scale,
                                        float squeeze, int group) {
    constexpr int KEYS = S::KEYS, DIM = S::DIM, SPLIT = S::SPLIT, STAGES = S::STAGES;
    const int part = group % SPLIT, lane = threadIdx.x % 32, row16 = group / SPLIT * 4 + threadIdx.x / 32 % 4;
    const float factor = scale * LOG2_E;
    const auto leave = [&](u32 barrier) {
        if (lane == 0) barrier_arrive(barrier);
    };
    u32 round = 0, turn = 0, unit_tile = 0, q_rows = 0;
    Work work = {};
    float s[KEYS / 2];
    const auto take = [&] { work = take_unit<S>(shared, round); };
    const auto leave_queries = [&] { leave(shared + S::Q_FREE + 8 * (round % S::SLOTS)); };
    const auto skip = [&] {  // a unit that sees no key
        leave_queries();
        if (part == 0) finish_blind<S>(out, lse, work, n, work.i0 + row16 * 16, lane);
    };
    const auto begin_unit = [&](u32 tile) {
        barrier_sleep(shared + S::K_FULL + 8 * (tile % STAGES), tile / STAGES & 1);
        product_begin();
        q_rows = shared + S::Q + round % S::SLOTS * S::Q_TILE + group / SPLIT * 64 * ROW;
        begin_scores<S>(s, q_rows, shared + S::K + tile % STAGES * S::TILE);
    };
    const auto first_scores = [&](u32 tile) {
        begin_unit(tile);
        product_wait<0>();
        product_done(s);
    };
    if (S::CHAINED) {
        for (take(); work.count == 0; ++round, take()) skip();
        if (work.count < 0) return;
        if (group > 0) named_sync(2, 256);  // side by side both would multiply, then both wait
        first_scores(0);
        if (group == 0) named_arrive(2, 256);
    }
#pragma unroll 1
    for (;; round += !S::CHAINED) {
        if (!S::CHAINED) {
            take();
            if (work.count < 0) break;
            if (work.count == 0) {
                skip();
                continue;
            }
        }
        const int i = work.i0 + row16 * 16;
        float o[DIM / 2], shrink[2], base[2], total[2][2];
        u32 p[KEYS / 16][4];
        Softmax row = {{NEG_INFINITY, NEG_INFINITY}, {0.f, 0.f}};
#pragma unroll
        for (int x = 0; x < DIM / 2; ++x) o[x] = 0.f;
        // Ends never fall from query to query: keys that the first or last of the warp's sees, all see. Of the tiles from
        // `whole` on, `wholes` are left as they are: one branch, as each costs the softmax a hundredth of its time.
        const auto seen = [&](int row) { return visible(i + row, work.queries, work.keys, n.causal, n.window); };
        const int whole = n.causal ? (seen(15).begin + KEYS - 1) / KEYS : 0;
        const u32 wholes = S::CAPS && squeeze != 0.f ? 0 : max(0, seen(0).end / KEYS - whole);
        const auto mask_tile = [&](int j) {
            if ((u32)(j - whole) < wholes) return;
            if (S::CAPS && squeeze != 0.f)
#pragma unroll
                for (int x = 0; x < KEYS / 2; ++x) s[x] = tanh_of(s[x], squeeze);
            if ((j + 1) * KEYS > seen(0).end)
#pragma unroll
                for (int half = 0; half < 2; ++half)
                    hide_from<KEYS>(s, half, seen(half * 8 + lane / 4).end - j * KEYS - lane % 4 * 2);
            if (n.causal && j * KEYS < seen(15).begin)
#pragma unroll
                for (int half = 0; half < 2; ++half)
                    hide_before<KEYS>(s, half, seen(half * 8 + lane / 4).begin - j * KEYS - lane % 4 * 2);
        };
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
            mask_tile(j);
            raise_maxima<KEYS>(s, row, shrink, base, total, factor);
            soften<0, KEYS / 2, KEYS>(s, base, total, factor);
            add_up();
            round_off<KEYS>(p, s);
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
                begin_scores<S>(s, q_rows, shared + S::K + next * S::TILE);
                barrier_sleep(shared + S::V_FULL + 8 * now, tile / STAGES & 1);
                product_begin();  // or ptxas inserts one, fears that lanes diverge and waits for each product
                begin_gather<S>(o, p, shared + S::V + now * S::TILE);
                product_wait<1>();
                product_done(s);
                leave_keys(next, j);
                mask_tile(j);
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
                round_off<KEYS>(p, s);
            }
            barrier_sleep(shared + S::V_FULL + 8 * (tile % STAGES), tile / STAGES & 1);
            product_begin();
            begin_gather<S>(o, p, shared + S::V + tile % STAGES * S::TILE);
            if (!S::CHAINED) {
                product_wait<0>();
                product_done(o);
                leave(shared + S::V_FREE + 8 * (tile % STAGES));
            }
        }
        if (S::CHAINED) {
            const Work unit = work;
            const u32 unit_round = round;
            for (++round, take(); work.count == 0; ++round, take()) skip();
            // After the last unit, its last scores again: a branch around products would serialize all of them.
            if (work.count < 0) round = unit_round, --unit_tile;
            begin_unit(unit_tile);
            product_wait<1>();
            product_done(o);
            leave(shared + S::V_FREE + 8 * (tile % STAGES));
            finish_boxes<S, T>(o, row, shared + S::OUT + row16 * (16 * DIM * 2), o_map, lse, unit, n, i, lane, factor);
            product_wait<0>();
            product_done(s);
            if (work.count < 0) break;
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
        produce<S>(shared, q, k, v, n, units, drawn);
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
