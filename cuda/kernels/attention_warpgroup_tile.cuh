// What a computing warpgroup does with a tile of keys: its products, its mask, its softmax. It has 64 queries, a warp 16, and a
// thread columns lane % 4 * 2 (+1) of every 8, of rows lane / 4 and lane / 4 + 8 of its warp's.
//
// A kernel's Shape gives QUERIES (of a unit), KEYS (of a tile), DIM (values of a head), READERS (warpgroups that read a tile)
// and CHAINED (whether a unit's first scores run beside the outputs of the one before).
#pragma once
#include "attention_warpgroup.cuh"

namespace {

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
template <typename T, int KEYS> __device__ __forceinline__ void round_off(u32 (&p)[KEYS / 16][4], const float (&s)[KEYS / 2]) {
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

// Walks over a unit's tiles from `j` on down, its first scores given, and starts the last one's product with V. Of its tiles a
// warpgroup takes every SPLIT-th; `mask(j)` hides what of a tile is not seen, `leave_keys(stage, j)` gives K of it back.
template <typename S, typename T, typename Mask, typename LeaveKeys, typename Leave>
__device__ __forceinline__ void walk_tiles(float (&s)[S::KEYS / 2], float (&o)[S::DIM / 2], Softmax& row, u32 shared, u32 q_rows,
                                           const Work& work, const Sizes& n, u32& tile, int& j, float factor,
                                           const Mask& mask_tile, const LeaveKeys& leave_keys, const Leave& leave) {
    constexpr int KEYS = S::KEYS, DIM = S::DIM, SPLIT = S::SPLIT, STAGES = S::STAGES;
    float shrink[2], base[2], total[2][2];
    u32 p[KEYS / 16][4];
    const auto add_up = [&] {
#pragma unroll
        for (int half = 0; half < 2; ++half) row.total[half] = total[half][0] + total[half][1];
    };
    leave_keys(tile % STAGES, j);
    mask_tile(j);
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
        round_off<T, KEYS>(p, s);
    }
    barrier_sleep(shared + S::V_FULL + 8 * (tile % STAGES), tile / STAGES & 1);
    product_begin();
    begin_gather<S>(o, p, shared + S::V + tile % STAGES * S::TILE);
}

}  // namespace
