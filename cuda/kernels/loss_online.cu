// Idea: maximum and sum in one pass: when the maximum grows, the sum so far is scaled down.
// Source: Milakov and Gimelshein 2018, "Online normalizer calculation for softmax".
// Shapes: as loss_naive.cu; a row is whole 16-byte words.
// Plan: a block a row, a thread every 512th word, several of them in flight; where there is a result, the row is read
//       once more, from the cache while it still is there.
// Numerics: f32; a sum is scaled at most once a word and thread, and at every meeting of two threads.
// Limits: vocab times the size of a logit is a multiple of 16; below 2^31 rows.
#include "loss.cuh"

static constexpr int THREADS = 512;

template <typename T>
__device__ __forceinline__ void rows_of(const T* __restrict__ logits, T* __restrict__ result, const Job& job) {
    const i64 row = blockIdx.x;
    const int words = (int)(job.vocab / Logits<T>::N);
    const uint4* from = reinterpret_cast<const uint4*>(logits + row * job.vocab);
    Running own{minus_infinity(), 0.f};
#pragma unroll 4
    for (int w = threadIdx.x; w < words; w += THREADS) {
        const Logits<T> held{__ldg(from + w)};
        held.add_to(own);
    }
    const Running all = over_block(own);
    const Outcome outcome(job, row, all);
    if (threadIdx.x == 0 && job.loss)
        outcome.write_loss(job, row, all, to_float(logits[row * job.vocab + max(outcome.target, 0)]));
    if (!result) return;
    uint4* to = reinterpret_cast<uint4*>(result + row * job.vocab);
#pragma unroll 2
    for (int w = threadIdx.x; w < words; w += THREADS) {
        Logits<T> held{__ldcs(from + w)};
        held.become(outcome, w * Logits<T>::N);
        __stcs(to + w, held.word);
    }
}

#define ONLINE(T, name)                                                                                               \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                             \
        online_##name(const T* logits, T* result, JOB_ARGUMENTS) {                                                    \
        rows_of<T>(logits, result, JOB);                                                                              \
    }
ONLINE(float, f32)
ONLINE(__half, f16)
ONLINE(__nv_bfloat16, bf16)
