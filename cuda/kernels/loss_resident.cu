// Idea: a row stays on the multiprocessor between the pass that sums it up and the pass that writes the result, so it is
//       read from memory once; while a row is written, the next one is fetched into the places it leaves.
// Source: ours; the online sum of loss_online.cu.
// Shapes: as loss_online.cu. Shared memory: the first `kept` words of the row in work.
// Plan: a block takes every gridDim-th row, a thread every blockDim-th word, all by itself: it fetches, sums and writes the
//       same words, so only the sums are shared. What shared memory has no room for (28 KB of a vocabulary of 128256 in
//       16 bits) is held in registers, two words a thread. While a row is summed up nothing is under way, so where two rows
//       fit on a multiprocessor, two blocks of 512 threads take one each.
// Numerics: as online.
// Limits: as online; a row must fit on a multiprocessor: 16384 words of 16 bytes. It is for rows that a result is made of and
//       that the cache does not keep from one pass to the other; where only the loss is asked, online reads once too.
#include "loss.cuh"

static constexpr int MOST_THREADS = 1024, HELD = 2;

extern __shared__ __align__(16) uint4 row_words[];

template <typename T>
__device__ __forceinline__ void rows_of(const T* __restrict__ logits, T* __restrict__ result, int kept, const Job& job) {
    const int words = (int)(job.vocab / Logits<T>::N), threads = blockDim.x;
    const i64 stride = (i64)gridDim.x * words;
    const uint4* from = reinterpret_cast<const uint4*>(logits) + (i64)blockIdx.x * words;
    uint4* to = reinterpret_cast<uint4*>(result) + (i64)blockIdx.x * words;
    Logits<T> held[HELD];
#pragma unroll 1
    for (int w = threadIdx.x; w < kept; w += threads) fetch(row_words + w, from + w);
#pragma unroll
    for (int h = 0; h < HELD; ++h)
        if (kept + h * threads + (int)threadIdx.x < words) held[h].word = __ldcs(from + kept + h * threads + threadIdx.x);
#pragma unroll 1
    for (i64 row = blockIdx.x; row < job.rows; row += gridDim.x) {
        asm volatile("cp.async.wait_all;" ::: "memory");
        Running own{minus_infinity(), 0.f};
#pragma unroll 2
        for (int w = threadIdx.x; w < kept; w += threads) {
            const Logits<T> word{row_words[w]};
            word.add_to(own);
        }
#pragma unroll
        for (int h = 0; h < HELD; ++h)
            if (kept + h * threads + (int)threadIdx.x < words) held[h].add_to(own);
        const Running all = over_block(own);
        const Outcome outcome(job, row, all);
        if (threadIdx.x == 0 && job.loss)
            outcome.write_loss(job, row, all, to_float(logits[row * job.vocab + max(outcome.target, 0)]));
        from += stride;
        const bool more = row + gridDim.x < job.rows;
#pragma unroll 2
        for (int w = threadIdx.x; w < kept; w += threads) {
            Logits<T> word{row_words[w]};
            word.become(outcome, w * Logits<T>::N);
            if (result) __stcs(to + w, word.word);
            if (more) fetch(row_words + w, from + w);
        }
#pragma unroll
        for (int h = 0; h < HELD; ++h) {
            const int w = kept + h * threads + threadIdx.x;
            if (w >= words) break;
            held[h].become(outcome, w * Logits<T>::N);
            if (result) __stcs(to + w, held[h].word);
            if (more) held[h].word = __ldcs(from + w);
        }
        to += stride;
    }
}

#define RESIDENT(T, name)                                                                                             \
    extern "C" __global__ void __launch_bounds__(MOST_THREADS, 1)                                                     \
        resident_##name(const T* logits, T* result, i64 kept, JOB_ARGUMENTS) {                                        \
        rows_of<T>(logits, result, (int)kept, JOB);                                                                   \
    }
RESIDENT(float, f32)
RESIDENT(__half, f16)
RESIDENT(__nv_bfloat16, bf16)
