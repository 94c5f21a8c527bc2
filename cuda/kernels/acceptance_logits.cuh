// What the kernels of acceptance from logits share: a row's statistics, the decision on a draft token, and weights of
// the further token. x and y are the target's and the draft's logits of one position, [vocab].
#pragma once
#include "acceptance.cuh"
#include "softmax.cuh"

// The problem as every kernel takes it: y [batch, k, vocab], x [batch, k + 1, vocab], temperature [batch], draft [batch, k],
// lengths [batch], accept_u [batch, k], sample_u [batch] -> accepted [batch], tokens [batch, k + 1].
#define PROBLEM_ARGUMENTS(T)                                                                                          \
    const T *__restrict__ y, const T *__restrict__ x, const float *__restrict__ temperature,                          \
        const int *__restrict__ draft, const int *__restrict__ lengths, const float *__restrict__ accept_u,           \
        const float *__restrict__ sample_u, int *__restrict__ accepted, int *__restrict__ tokens, i64 batch, i64 k,   \
        i64 vocab
#define PROBLEM(T)                                                                                                    \
    Problem<T> { y, x, temperature, draft, lengths, accept_u, sample_u, accepted, tokens, batch, k, vocab }

template <typename T> struct Problem {
    const T *y, *x;
    const float* temperature;
    const int *draft, *lengths;
    const float *accept_u, *sample_u;
    int *accepted, *tokens;
    i64 batch, k, vocab;

    __device__ __forceinline__ const T* target(i64 row, i64 position) const {
        return x + (row * (k + 1) + position) * vocab;
    }
    __device__ __forceinline__ const T* drafted(i64 row, i64 position) const { return y + (row * k + position) * vocab; }
    // Whether every row of logits starts on 16 bytes.
    __device__ __forceinline__ bool aligned() const { return vocab % Words<T>::N == 0; }
    // Exponents of two a logit, for weights are powers of two; T > 0. Everything uses this very float, so its rounding
    // is that of the temperature.
    __device__ __forceinline__ float scale(i64 row) const {
        return (float)(1.4426950408889634 / (double)temperature[row]);
    }
    // One thread a token or more; all call it.
    __device__ __forceinline__ void write(i64 row, int count, int token, int rank, int threads) const {
        if (rank == 0) accepted[row] = count;
        emit(tokens + row * (k + 1), draft + row * k, (int)k, count, token, rank, threads);
    }
};

// Neighbouring logits that are loaded together, -inf from word `end` on: 16 bytes where rows are aligned, otherwise one.
template <typename T, bool Aligned> struct Piece;
template <typename T> struct Piece<T, true> : Words<T> {
    __device__ __forceinline__ void load(const T* row, u32 word, u32 end) {
        const u32 masked = sizeof(T) == 4 ? 0xff800000u : 0xff80ff80u;
        this->word = make_uint4(masked, masked, masked, masked);
        if (word < end) this->word = __ldg((const uint4*)row + word);
    }
};
template <typename T> struct Piece<T, false> {
    static constexpr int N = 1;
    float value;
    __device__ __forceinline__ void load(const T* row, u32 word, u32 end) {
        value = word < end ? to_float(row[word]) : minus_infinity();
    }
    __device__ __forceinline__ void widen(float (&x)[1]) const { x[0] = value; }
};

// Logits that a thread has under way at once.
template <typename T, bool Aligned, int Most> struct Group {
    static constexpr int N = Piece<T, Aligned>::N, PIECES = Aligned ? Most / N : 4;
    float logits[PIECES * N];

    // Pieces i, i + count .. of a row, all loads before the first use.
    __device__ __forceinline__ Group(const T* row, u32 i, u32 end, u32 count) {
        Piece<T, Aligned> held[PIECES];
#pragma unroll
        for (int j = 0; j < PIECES; ++j) held[j].load(row, i + j * count, end);
#pragma unroll
        for (int j = 0; j < PIECES; ++j) {
            float x[N];
            held[j].widen(x);
#pragma unroll
            for (int e = 0; e < N; ++e) logits[j * N + e] = x[e];
        }
    }
    // The token of an element of such a group.
    __device__ __forceinline__ static u32 token(u32 i, u32 count, int element) {
        return (i + element / N * count) * N + element % N;
    }
};

// What softmax takes of this thread's share of tokens begin .. end - 1: that of rank `rank` of `count`.
template <typename T, bool Aligned>
__device__ __forceinline__ Running running(const T* row, u32 begin, u32 end, u32 rank, u32 count, float scale) {
    typedef Group<T, Aligned, 32> G;
    Running own{minus_infinity(), 0.f};
#pragma unroll 1
    for (u32 i = begin / G::N + rank; i < end / G::N; i += G::PIECES * count)
        own.add(G(row, i, end / G::N, count).logits, scale);
    return own;
}
template <typename T>
__device__ __forceinline__ Running running(const T* row, u32 begin, u32 end, bool aligned, u32 rank, u32 count,
                                           float scale) {
    return aligned ? running<T, true>(row, begin, end, rank, count, scale)
                   : running<T, false>(row, begin, end, rank, count, scale);
}

// The argmax over the same, as a key whose order is that of logits, the lowest token first among equals.
template <typename T, bool Aligned>
__device__ __forceinline__ u64 largest_logit(const T* row, u32 begin, u32 end, u32 rank, u32 count) {
    typedef Group<T, Aligned, 16> G;
    float most = minus_infinity();
    u32 at = begin;
#pragma unroll 1
    for (u32 i = begin / G::N + rank; i < end / G::N; i += G::PIECES * count) {
        const G group(row, i, end / G::N, count);
#pragma unroll
        for (int e = 0; e < G::PIECES * G::N; ++e)
            if (group.logits[e] > most) {
                most = group.logits[e];
                at = G::token(i, count, e);
            }
    }
    const u32 bits = __float_as_uint(most + 0.f);  // -0 becomes 0, its equal
    return (u64)(bits >> 31 ? ~bits : bits | 0x80000000u) << 32 | (0xffffffffu - at);
}
template <typename T>
__device__ __forceinline__ u64 largest_logit(const T* row, u32 begin, u32 end, bool aligned, u32 rank, u32 count) {
    return aligned ? largest_logit<T, true>(row, begin, end, rank, count)
                   : largest_logit<T, false>(row, begin, end, rank, count);
}

// A position's statistics under both models; behind the last token the target's stand for the draft's too.
struct Both {
    Running target, draft;
};

// u q(t) < p(t) of a token with these logits, in exponents of two: -inf on either side decides as a zero would.
__device__ __forceinline__ bool accepts(float u, float x, float y, const Both& of, float scale) {
    const double wanted = (double)x * (double)scale - (double)of.target.base;
    const double drafted = (double)y * (double)scale - (double)of.draft.base;
    return log2((double)u * (double)of.target.sum / (double)of.draft.sum) < wanted - drafted;
}

// From logits to probabilities.
struct Law {
    float base, factor;
    __device__ __forceinline__ explicit Law(const Running& all) : base(all.base), factor(1.f / all.sum) {}
    // Never contracted with a subtraction: a residual that is zero where it is located must be where it is summed.
    __device__ __forceinline__ float of(float x, float scale) const {
        return __fmul_rn(power_of_two(fmaf(x, scale, -base)), factor);
    }
};

// The weights of the further token: max(p - q, 0), or p where the draft's factor is 0.
template <typename T> struct Residual {
    const T *x, *y;
    Law target, draft;
    float scale;
    bool aligned;

    // Of a position of the problem; there is no draft behind its last token, and the target takes its place unused.
    __device__ __forceinline__ Residual(const Problem<T>& problem, i64 row, int count, bool rejected, const Both& of)
        : x(problem.target(row, count)), y(rejected ? problem.drafted(row, count) : x), target(of.target),
          draft(of.draft), scale(problem.scale(row)), aligned(problem.aligned()) {
        if (!rejected) draft.factor = 0.f;
    }
    __device__ __forceinline__ float2 masses(float x, float y) const {
        const float p = target.of(x, scale);
        return {fmaxf(__fsub_rn(p, draft.of(y, scale)), 0.f), p};
    }
    // Four tokens as locate() asks for them.
    __device__ __forceinline__ float4 operator()(i64 t, i64 end) const {
        float weights[4] = {0.f, 0.f, 0.f, 0.f}, p[4], q[4];
        if (t >= end) return {0.f, 0.f, 0.f, 0.f};
        if (aligned) {
            four(x + t, p);
            four(y + t, q);
#pragma unroll
            for (int j = 0; j < 4; ++j) weights[j] = masses(p[j], q[j]).x;
        } else {
#pragma unroll
            for (int j = 0; j < 4; ++j)
                if (t + j < end) weights[j] = masses(to_float(x[t + j]), to_float(y[t + j])).x;
        }
        return {weights[0], weights[1], weights[2], weights[3]};
    }
    __device__ __forceinline__ static void four(const float* from, float (&to)[4]) {
        const float4 v = __ldg((const float4*)from);
        to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
    }
    __device__ __forceinline__ static void four(const __nv_bfloat16* from, float (&to)[4]) {
        const uint2 v = __ldg((const uint2*)from);
        const float2 low = widened(*(const __nv_bfloat162*)&v.x), high = widened(*(const __nv_bfloat162*)&v.y);
        to[0] = low.x, to[1] = low.y, to[2] = high.x, to[3] = high.y;
    }
};

template <bool Aligned, typename T>
__device__ __forceinline__ float2 strided_masses(const Residual<T>& residual, u32 begin, u32 end, u32 rank, u32 count) {
    typedef Group<T, Aligned, 16> G;
    float2 sum = {0.f, 0.f};
#pragma unroll 1
    for (u32 i = begin / G::N + rank; i < end / G::N; i += G::PIECES * count) {
        const G x(residual.x, i, end / G::N, count), y(residual.y, i, end / G::N, count);
        float2 some = {0.f, 0.f};
#pragma unroll
        for (int e = 0; e < G::PIECES * G::N; ++e) {
            const float2 of = residual.masses(x.logits[e], y.logits[e]);
            some = {some.x + of.x, some.y + of.y};
        }
        sum = {sum.x + some.x, sum.y + some.y};
    }
    return sum;
}

// Mass of the residual in x and of p in y over tokens begin .. end - 1, for every lane of the warp that shares them.
template <typename T>
__device__ __forceinline__ float2 warp_masses(const Residual<T>& residual, u32 begin, u32 end) {
    const u32 lane = threadIdx.x % 32;
    const float2 sum = residual.aligned ? strided_masses<true>(residual, begin, end, lane, 32)
                                        : strided_masses<false>(residual, begin, end, lane, 32);
    return {warp_sum(sum.x), warp_sum(sum.y)};
}
