// What the kernels over a vocabulary share: what is made of the running maximum and sum of a row.
#pragma once
#include "any_dtype.cuh"
#include "softmax.cuh"

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

// What becomes of the logits of a row.
struct Outcome {
    float off, factor, weight;
    int target;
    Outcome() = default;
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

__device__ __forceinline__ void narrow(__half2& to, float a, float b) { to = __floats2half2_rn(a, b); }
__device__ __forceinline__ void narrow(__nv_bfloat162& to, float a, float b) { to = __floats2bfloat162_rn(a, b); }
__device__ __forceinline__ void narrow(float2& to, float a, float b) { to = make_float2(a, b); }

// Starts bringing 16 bytes of logits into shared memory, which cp.async.wait_all waits for.
__device__ __forceinline__ void fetch(uint4* to, const uint4* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((u32)__cvta_generic_to_shared(to)), "l"(from)
                 : "memory");
}

// 16 bytes of logits, and of what becomes of them.
template <typename T> struct Logits : Words<T> {
    using Words<T>::N;
    using typename Words<T>::Pair;
    using Words<T>::word;

    __device__ __forceinline__ void add_to(Running& all) const {
        float x[N];
        this->widen(x);
        all.add(x, LOG2E);
    }
    // The words from `first` on.
    __device__ __forceinline__ void become(const Outcome& outcome, int first) {
        Pair* pair = (Pair*)&word;
        float x[N];
        this->widen(x);
#pragma unroll
        for (int e = 0; e < N; ++e) x[e] = outcome.of(x[e]);
        if ((u32)(outcome.target - first) < N) {
#pragma unroll
            for (int e = 0; e < N; ++e)
                if (first + e == outcome.target) x[e] -= outcome.weight;
        }
#pragma unroll
        for (int p = 0; p < N / 2; ++p) narrow(pair[p], x[2 * p], x[2 * p + 1]);
    }
};
