// Idea: a row is spread over a few blocks, each of which keeps its part on chip until all have told the others their sums:
//       a row is read once and written once, however long it is.
// Source: ours; partial sums as in Flash-Decoding, tickets as in decoupled look-back (Merrill and Garland 2016).
// Shapes: as loss_online.cu. A row has `parts` parts of `span` words, the last may have fewer. Scratch: sums
//         [1 + rows * parts], all ones at first: the number of the latest ticket, then base and sum of each part.
//         Shared memory: the words of a part beyond the first 5120.
// Plan: a block draws a ticket, which is a part of a row; rows are in order, so whoever waits for the other parts of its
//       row waits for blocks that run or that start when earlier rows are done. A thread takes every 512th word: ten stay
//       in registers, what is left in shared memory. A part's base and sum are one word, which is its own flag. Two
//       blocks share a multiprocessor: while one waits, the other reads or writes.
//       Blocks that go from part to part instead of ending were slower, as were more and smaller blocks, one block whose
//       next part comes in while it waits (rings of two to five parts, with a warp apart for the sums), bulk copies.
// Numerics: as online, but that a thread has one base for its ten words. Sums meet in a fixed order.
// Limits: as online; at most 32 parts (the plan makes 16), for which the device must have room at once; below 2^31 parts
//         in all.
#include "loss.cuh"

static constexpr int THREADS = 512, WARPS = THREADS / 32, HELD = 10;
static constexpr u32 NOT_YET = 0xffffffffu;  // no base is that

extern __shared__ __align__(16) uint4 part_words[];

__device__ __forceinline__ u64 look(const u64* p) {
    u64 bits;
    asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(bits) : "l"(p) : "memory");
    return bits;
}
__device__ __forceinline__ void tell(u64* p, Running sums) {
    const u64 bits = (u64)__float_as_uint(sums.sum) << 32 | __float_as_uint(sums.base);
    asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(p), "l"(bits) : "memory");
}

__device__ __forceinline__ float2 larger(float2 a, float2 b) { return make_float2(fmaxf(a.x, b.x), fmaxf(a.y, b.y)); }
__device__ __forceinline__ __half2 larger(__half2 a, __half2 b) { return __hmax2(a, b); }
__device__ __forceinline__ __nv_bfloat162 larger(__nv_bfloat162 a, __nv_bfloat162 b) { return __hmax2(a, b); }

// Two logits of -inf.
template <typename T> constexpr u32 masked() { return 0xff800000u; }
template <> constexpr u32 masked<__half>() { return 0xfc00fc00u; }
template <> constexpr u32 masked<__nv_bfloat16>() { return 0xff80ff80u; }

// Logits from this word on, or -inf where it is not `there`.
template <typename T> __device__ __forceinline__ Logits<T> taken(const uint4* from, bool there) {
    Logits<T> logits{make_uint4(masked<T>(), masked<T>(), masked<T>(), masked<T>())};
    if (there) logits.word = *from;
    return logits;
}

// Words at once, which meet one base.
template <typename T, int COUNT> __device__ __forceinline__ void add_words(Running& own, const Logits<T> (&words)[COUNT]) {
    typedef typename Logits<T>::Pair Pair;
    Pair most = *(const Pair*)&words[0].word;
#pragma unroll
    for (int w = 0; w < COUNT; ++w)
#pragma unroll
        for (int p = 0; p < Logits<T>::N / 2; ++p) most = larger(most, ((const Pair*)&words[w].word)[p]);
    const float2 two = widened(most);
    own.raise_for(fmaxf(two.x, two.y));
    const float taken_off = own.off();
#pragma unroll
    for (int w = 0; w < COUNT; ++w) {
        float x[Logits<T>::N], some = 0.f;
        words[w].widen(x);
#pragma unroll
        for (int e = 0; e < Logits<T>::N; ++e) some += power_of_two(fmaf(x[e], LOG2E, -taken_off));
        own.sum += some;
    }
}

// A part of a row.
struct Part {
    u32 row, index;
    int begin, words;

    __device__ __forceinline__ Part(u32 ticket, u32 parts, int span, int of_row)
        : row(ticket / parts), index(ticket % parts), begin((int)index * span), words(min(span, of_row - begin)) {}
};

// What the job says of a row, and its target's logit; asked for by one thread while the part comes in.
struct Asked {
    int target;
    float weight, x;
};
template <typename T> __device__ __forceinline__ Asked ask(const T* logits, const Job& job, i64 row) {
    Asked asked{-1, 1.f, 0.f};
    if (!job.targets) return asked;
    asked.target = job.targets[row];
    asked.weight = asked.target < 0 ? 0.f : job.weights ? job.weights[row] : 1.f;
    asked.x = to_float(logits[row * job.vocab + max(asked.target, 0)]);
    return asked;
}

// The sums of the whole row, by warp 0 from those of the warps of its block and of other parts.
__device__ __forceinline__ Running over_parts(const Running* of_warps, u64* of_row, u32 index, u32 parts) {
    Running all{minus_infinity(), 0.f};
    if (threadIdx.x < WARPS) all = of_warps[threadIdx.x];
    all = over_warp_at_once(all);
    if (parts == 1) return all;
    if (threadIdx.x == 0) tell(of_row + index, all);
    all = {minus_infinity(), 0.f};
    if (threadIdx.x < parts) {
        u64 bits;
        do bits = look(of_row + threadIdx.x);
        while ((u32)bits == NOT_YET);
        all = {__uint_as_float((u32)bits), __uint_as_float((u32)(bits >> 32))};
    }
    return over_warp_at_once(all);
}

// This thread's words come in, the first ten to be held.
template <typename T>
__device__ __forceinline__ void load(const uint4* from, const Part& part, Logits<T> (&held)[HELD]) {
#pragma unroll
    for (int h = 0; h < HELD; ++h) {
        const int w = h * THREADS + threadIdx.x;
        held[h] = taken<T>(from + w, w < part.words);
    }
#pragma unroll 4
    for (int w = HELD * THREADS + threadIdx.x; w < part.words; w += THREADS)
        fetch(part_words + w - HELD * THREADS, from + w);
}

// Their base and sum.
template <typename T> __device__ __forceinline__ Running sum_up(const Part& part, const Logits<T> (&held)[HELD]) {
    Running own{minus_infinity(), 0.f};
    add_words<T, HELD>(own, held);
    asm volatile("cp.async.wait_all;" ::: "memory");
#pragma unroll 1
    for (int w = HELD * THREADS + threadIdx.x; w < part.words; w += 2 * THREADS) {
        const uint4* at = part_words + w - HELD * THREADS;
        const Logits<T> two[2] = {taken<T>(at, true), taken<T>(at + THREADS, w + THREADS < part.words)};
        add_words<T, 2>(own, two);
    }
    return own;
}

// What becomes of a word that the target is not in.
template <typename T> __device__ __forceinline__ uint4 become(Logits<T> logits, const Outcome& outcome) {
    typename Logits<T>::Pair* pair = (typename Logits<T>::Pair*)&logits.word;
#pragma unroll
    for (int p = 0; p < Logits<T>::N / 2; ++p) {
        const float2 two = widened(pair[p]);
        narrow(pair[p], outcome.of(two.x), outcome.of(two.y));
    }
    return logits.word;
}

// The part's result from `to` on; x is the target's logit.
template <typename T>
__device__ __forceinline__ void write(T* to, const Part& part, const Logits<T> (&held)[HELD], const Outcome& outcome,
                                      float x) {
    uint4* words = reinterpret_cast<uint4*>(to);
#pragma unroll
    for (int h = 0; h < HELD; ++h) {
        const int w = h * THREADS + threadIdx.x;
        if (w < part.words) words[w] = become(held[h], outcome);
    }
#pragma unroll 2
    for (int w = HELD * THREADS + threadIdx.x; w < part.words; w += THREADS)
        words[w] = become(Logits<T>{part_words[w - HELD * THREADS]}, outcome);
    // The target once more, by the thread that wrote its word.
    const int target = outcome.target - part.begin * Logits<T>::N, word = target / Logits<T>::N;
    if (outcome.target >= 0 && target >= 0 && word < part.words && word % THREADS == threadIdx.x)
        to[target] = from_float<T>(outcome.of(x) - outcome.weight);
}

template <typename T>
__device__ __forceinline__ void rows_of(const T* __restrict__ logits, T* __restrict__ result, u64* sums, u32 parts,
                                        int span, const Job& job) {
    __shared__ u32 ticket;
    __shared__ Running of_warps[WARPS];
    __shared__ Asked asked;
    __shared__ Outcome outcome;
    if (threadIdx.x == 0) ticket = atomicAdd((u32*)sums, 1u) + 1u;
    __syncthreads();
    const int of_row = (int)(job.vocab / Logits<T>::N);
    const Part part(ticket, parts, span, of_row);
    const i64 at = (i64)part.row * of_row + part.begin;
    Logits<T> held[HELD];
    load(reinterpret_cast<const uint4*>(logits) + at, part, held);
    if (threadIdx.x == THREADS - 1) asked = ask(logits, job, part.row);
    const Running own = over_warp_at_once(sum_up(part, held));
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = own;
    __syncthreads();
    if (threadIdx.x < 32) {
        const Running all = over_parts(of_warps, sums + 1 + (i64)part.row * parts, part.index, parts);
        if (threadIdx.x == 0) {
            outcome.off = all.off();
            outcome.weight = asked.weight;
            outcome.target = asked.target;
            outcome.factor = asked.weight / all.sum;
            if (job.loss && part.index == 0) outcome.write_loss(job, part.row, all, asked.x);
        }
    }
    if (!result) return;
    __syncthreads();
    write(result + at * Logits<T>::N, part, held, outcome, asked.x);
}

#define SPLIT(T, name)                                                                                                \
    extern "C" __global__ void __launch_bounds__(THREADS, 2)                                                          \
        split_##name(const T* logits, T* result, u64* sums, u32 parts, int span, JOB_ARGUMENTS) {                     \
        rows_of<T>(logits, result, sums, parts, span, JOB);                                                           \
    }
SPLIT(float, f32)
SPLIT(__half, f16)
SPLIT(__nv_bfloat16, bf16)
