// What the kernels over a vocabulary share: the running maximum and sum of a row, and what is made of them.
//
// Exponentials are powers of two: e^(x - M) = 2^(x * LOG2E - base), where base is M * LOG2E rounded down to a whole number.
// Differences of bases are then whole too, and the powers of two that rescale a sum exact. With M * LOG2E itself a sum took
// the error of ex2.approx at every raise and at every meeting of two threads, and its whole row with it: on an H200 more than
// twice what the naive variant's rows are off by.
#pragma once
#include "any_dtype.cuh"

static constexpr float LOG2E = 1.44269504f, LN2 = 0.693147181f;

__device__ __forceinline__ float minus_infinity() { return __int_as_float((int)0xff800000u); }

__device__ __forceinline__ float power_of_two(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// One operation on rows of logits. Without targets it is softmax; without a result, the loss alone; with both, the loss
// and its gradient.
struct Job {
    const int* targets;
    const float* weights;
    float* loss;
    i64 rows, vocab;
};

#define JOB_ARGUMENTS const int *targets, const float *weights, float *loss, i64 rows, i64 vocab
#define JOB Job{targets, weights, loss, rows, vocab}

// Base and sum over some logits; of none, or of -inf alone, -inf and 0.
struct Running {
    float base, sum;

    // What is taken off in exponents: nothing while all logits were -inf.
    __device__ __forceinline__ float off() const { return base == minus_infinity() ? 0.f : base; }

    // To the base of rows whose largest logit is `most`.
    __device__ __forceinline__ void raise_for(float most) { raise(floorf(most * LOG2E)); }
    __device__ __forceinline__ void raise(float other) {
        if (other > base) {
            sum *= power_of_two(base - other);
            base = other;
        }
    }
    __device__ __forceinline__ void merge(Running other) {
        raise(other.base);
        other.raise(base);
        sum += other.sum;
    }
};

// The same over all threads of a block of whole warps, for every thread.
__device__ __forceinline__ Running over_block(Running own) {
    __shared__ Running parts[32];
#pragma unroll 1
    for (int turn = 0; turn < 2; ++turn) {
#pragma unroll 1
        for (int offset = 16; offset > 0; offset /= 2)
            own.merge({__shfl_xor_sync(0xffffffffu, own.base, offset), __shfl_xor_sync(0xffffffffu, own.sum, offset)});
        if (turn == 1) break;
        __syncthreads();
        if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = own;
        __syncthreads();
        own = threadIdx.x % 32 < blockDim.x / 32 ? parts[threadIdx.x % 32] : Running{minus_infinity(), 0.f};
    }
    return own;
}

// What becomes of the logits of a row.
struct Outcome {
    float off, factor, weight;
    int target;

    __device__ __forceinline__ Outcome(const Job& job, i64 row, const Running& all) : off(all.off()), weight(1.f), target(-1) {
        if (job.targets) {
            target = job.targets[row];
            weight = target < 0 ? 0.f : job.weights ? job.weights[row] : 1.f;
        }
        factor = weight / all.sum;
    }
    __device__ __forceinline__ float of(float x) const { return power_of_two(fmaf(x, LOG2E, -off)) * factor; }
    // One thread writes the loss; `x` is the target's logit.
    __device__ __forceinline__ void write_loss(const Job& job, i64 row, const Running& all, float x) const {
        job.loss[row] = target < 0 ? 0.f : (off * LN2 - x) + logf(all.sum);
    }
};

__device__ __forceinline__ float2 widened(__half2 x) { return __half22float2(x); }
__device__ __forceinline__ float2 widened(__nv_bfloat162 x) { return __bfloat1622float2(x); }
__device__ __forceinline__ float2 widened(float2 x) { return x; }
__device__ __forceinline__ void narrow(__half2& to, float a, float b) { to = __floats2half2_rn(a, b); }
__device__ __forceinline__ void narrow(__nv_bfloat162& to, float a, float b) { to = __floats2bfloat162_rn(a, b); }
__device__ __forceinline__ void narrow(float2& to, float a, float b) { to = make_float2(a, b); }

template <typename T> struct PairOf;
template <> struct PairOf<float> { typedef float2 Type; };
template <> struct PairOf<__half> { typedef __half2 Type; };
template <> struct PairOf<__nv_bfloat16> { typedef __nv_bfloat162 Type; };

// 16 bytes of logits.
template <typename T> struct Logits {
    static constexpr int N = 16 / sizeof(T);
    typedef typename PairOf<T>::Type Pair;
    uint4 word;

    __device__ __forceinline__ void add_to(Running& all) const {
        const Pair* pair = (const Pair*)&word;
        float x[N];
#pragma unroll
        for (int p = 0; p < N / 2; ++p) {
            const float2 two = widened(pair[p]);
            x[2 * p] = two.x;
            x[2 * p + 1] = two.y;
        }
        float most = x[0];
#pragma unroll
        for (int e = 1; e < N; ++e) most = fmaxf(most, x[e]);
        all.raise_for(most);
        const float off = all.off();
        float sum = 0.f;
#pragma unroll
        for (int e = 0; e < N; ++e) sum += power_of_two(fmaf(x[e], LOG2E, -off));
        all.sum += sum;
    }
    // The words from `first` on.
    __device__ __forceinline__ void become(const Outcome& outcome, int first) {
        Pair* pair = (Pair*)&word;
        float x[N];
#pragma unroll
        for (int p = 0; p < N / 2; ++p) {
            const float2 two = widened(pair[p]);
            x[2 * p] = outcome.of(two.x);
            x[2 * p + 1] = outcome.of(two.y);
        }
        if ((u32)(outcome.target - first) < N) {
#pragma unroll
            for (int e = 0; e < N; ++e)
                if (first + e == outcome.target) x[e] -= outcome.weight;
        }
#pragma unroll
        for (int p = 0; p < N / 2; ++p) narrow(pair[p], x[2 * p], x[2 * p + 1]);
    }
};
