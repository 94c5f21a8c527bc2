// How tiles of 16 bits are fetched, and what a computing warpgroup does with one of keys: its products, its mask, its softmax. It
// has 64 queries, a warp 16, and a thread columns lane % 4 * 2 (+1) of every 8, of rows lane / 4 and lane / 4 + 8 of its warp's.
//
// A kernel's Shape gives what attention_units.cuh asks for, READERS (warpgroups that read a tile), CHAINED (whether a unit's
// first scores run beside the outputs of the one before) and CAPS (whether it takes a soft cap).
#pragma once
#include "attention_units.cuh"

namespace {

// How the copying thread fetches tiles: boxes of 64 values side by side.
template <typename S> struct Copies {
    const TensorMap *q, *k, *v;

    template <int ROWS>
    __device__ __forceinline__ void copy(u32 to, const TensorMap* map, u32 full, int h, int row, int b) const {
#pragma unroll
        for (int d = 0; d < S::DIM; d += 64) copy_box(to + d / 64 * (ROWS * ROW), map, full, d, h, row, b);
    }
    __device__ __forceinline__ void queries(u32 to, u32 full, const Work& work) const {
        copy<S::QUERIES>(to, q, full, work.h, work.i0, work.b);
    }
    __device__ __forceinline__ void keys(u32 to, u32 full, int b, int h, int j) const {
        copy<S::KEYS>(to, k, full, h, j * S::KEYS, b);
    }
    __device__ __forceinline__ void values(u32 to, u32 full, int b, int h, int j) const {
        copy<S::KEYS>(to, v, full, h, j * S::KEYS, b);
    }
};

// A word that all lanes have, from one: or descriptors would be kept in the registers of all. Where units are chained, ptxas
// knows that it is the same for all without.
template <typename S> __device__ __forceinline__ u32 shared_word(u32 x) {
    return S::CHAINED ? x : __shfl_sync(0xffffffffu, x, 0);
}

// Starts s = Q K^T for a warpgroup's 64 queries, both given by their descriptors' starts.
template <typename S> __device__ __forceinline__ void begin_scores(float (&s)[S::KEYS / 2], u32 q_start, u32 k_start) {
    const u32 a = shared_word<S>(q_start), b = shared_word<S>(k_start);
#pragma unroll
    for (int d = 0; d < S::DIM; d += 16)
        product<S::KEYS>(s, descriptor_at(a + (d / 64 * (S::QUERIES * ROW) + d % 64 * 2) / 16),
                         descriptor_at(b + (d / 64 * (S::KEYS * ROW) + d % 64 * 2) / 16), d > 0);
    product_commit();
}

// Starts o += P V, V given by its descriptor's start.
template <typename S>
__device__ __forceinline__ void begin_gather(float (&o)[S::DIM / 2], const u32 (&p)[S::KEYS / 16][4], u32 v_start) {
    const u32 b = shared_word<S>(v_start);
#pragma unroll
    for (int k = 0; k < S::KEYS / 16; ++k) product<S::DIM>(o, p[k], descriptor_at(b + k * ROW));
    product_commit();
}

// Hides the keys on one side of `edge`: those before it, or it and those behind. A thread has columns lane % 4 * 2 (+1) of
// every 8, of rows lane / 4 and lane / 4 + 8 of its warp's 16; the edge counts from the thread's first column.
template <int KEYS, bool BEFORE> __device__ __forceinline__ void hide(float (&s)[KEYS / 2], int half, int edge) {
#pragma unroll
    for (int c = 0; c < KEYS / 8; ++c)
#pragma unroll
        for (int e = 0; e < 2; ++e)
            if (c * 8 + e < edge == BEFORE) s[c * 4 + half * 2 + e] = NEG_INFINITY;
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
    for (int x = FROM; x < TO; ++x) total[x / 2 % 2][x % 2] += s[x] = exp2_fast(fmaf(s[x], factor, -base[x / 2 % 2]));
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

// Hides what a warp's queries do not see of a tile of scores, behind the soft cap.
template <typename S> struct Mask : Sight<S> {
    const int lane;
    const float squeeze;

    __device__ __forceinline__ Mask(const Sizes& n, const Work& work, int i, int lane, float squeeze, int pack = 0)
        : Sight<S>(n, work, i, pack), lane(lane), squeeze(squeeze) {
        if (S::CAPS && squeeze != 0.f) this->wholes = 0;
    }
    __device__ __forceinline__ void apply(float (&s)[S::KEYS / 2], int j) const {
        if (this->sees_all(j)) return;
        const int first = j * S::KEYS + lane % 4 * 2;
        if (S::CAPS && squeeze != 0.f)
#pragma unroll
            for (int x = 0; x < S::KEYS / 2; ++x) s[x] = tanh_of(s[x], squeeze);
        if ((j + 1) * S::KEYS > this->of(0).end)
#pragma unroll
            for (int half = 0; half < 2; ++half) hide<S::KEYS, false>(s, half, this->of(half * 8 + lane / 4).end - first);
        if (this->n.causal && j * S::KEYS < this->of(15).begin)
#pragma unroll
            for (int half = 0; half < 2; ++half) hide<S::KEYS, true>(s, half, this->of(half * 8 + lane / 4).begin - first);
    }
};

}  // namespace
