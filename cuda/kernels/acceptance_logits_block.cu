// Idea: one block a row goes from position to position: both models' softmax statistics in one pass each, the decision, and
//   no further than the first rejection.
// Source: Leviathan et al. 2023, algorithm 1; Milakov and Gimelshein 2018, "Online normalizer calculation for softmax".
// Shapes: acceptance_logits.cuh; logits f32 or bf16.
// Plan: a thread takes every 512th word of 16 bytes, eight under way. The residual of the last position reads both rows
//   once more, from the cache that they have just come through, a contiguous segment a warp; the block scans the one where
//   the threshold lies. So a row is read once in memory, and nothing behind the first rejection is read at all, for the
//   price of a block-wide pause a position. Greedy: the same walk by argmax of the target's rows alone.
// Numerics: weights 2^(x s - b) with whole b, sums in f32 that are rescaled by exact powers of two; chains of 4 or 8 (a
//   word) + vocab/2048 or vocab/4096 + 10 additions; of masses the same, 16 segments more, in the scan 9 + 16 a tile of
//   2048. Decisions in double, on logarithms.
// Limits: a small batch leaves most of the chip idle (see acceptance_logits_split); rows that are no multiple of 16 bytes
//   are read a logit at a time.
#include "acceptance_logits.cuh"

constexpr int THREADS = 512, WARPS = THREADS / 32;

// The accepted length, and the statistics of its position.
template <typename T>
__device__ __forceinline__ int walk(const Problem<T>& problem, i64 row, Both& at) {
    __shared__ bool goes_on;
    const int length = problem.lengths[row];
    const bool aligned = problem.aligned();
    const float scale = problem.scale(row);
#pragma unroll 1
    for (int count = 0;; ++count) {
        Both own;
#pragma unroll 1
        for (int model = 0; model < 2; ++model) {
            if (model == 1 && count == length) break;
            const T* logits = model == 0 ? problem.target(row, count) : problem.drafted(row, count);
            const Running share = running(logits, 0, (u32)problem.vocab, aligned, threadIdx.x, THREADS, scale);
            (model == 0 ? own.target : own.draft) = share;
        }
        at.target = at.draft = over_block(own.target);
        if (count == length) return count;
        at.draft = over_block(own.draft);
        if (threadIdx.x == 0) {
            const i64 drafted = row * problem.k + count;
            const int token = problem.draft[drafted];
            goes_on = accepts(problem.accept_u[drafted], to_float(problem.target(row, count)[token]),
                              to_float(problem.drafted(row, count)[token]), at, scale);
        }
        __syncthreads();
        if (!goes_on) return count;  // written again only behind the barriers of the next sums
    }
}

template <typename T> __device__ __forceinline__ void sample(const Problem<T>& problem, i64 row) {
    __shared__ float residuals[WARPS], masses[WARPS];
    __shared__ LocateShared shared;
    Both at;
    const int count = walk(problem, row, at);
    Residual<T> weights(problem, row, count, count < problem.lengths[row], at);
    const i64 vocab = problem.vocab, segment = ((vocab + WARPS - 1) / WARPS + 7) / 8 * 8;
    const int warp = threadIdx.x / 32;
    const i64 first = min(warp * segment, vocab), last = min(first + segment, vocab);
    const float2 mass = warp_masses(weights, (u32)first, (u32)last);
    if (threadIdx.x % 32 == 0) {
        residuals[warp] = mass.x;
        masses[warp] = mass.y;
    }
    __syncthreads();
    float residual = 0.f, total = 0.f;
    const int segments = blockDim.x / 32;  // unknown to the compiler, which would unroll what is not worth it
#pragma unroll 1
    for (int i = 0; i < segments; ++i) {
        residual += residuals[i];
        total += masses[i];
    }
    const bool resample = residual > 0.f;  // otherwise a residual that vanishes: p itself
    const float threshold = problem.sample_u[row] * (resample ? residual : total);
    const Segment found = find_segment(resample ? residuals : masses, segments, threshold);
    if (!resample) weights.draft.factor = 0.f;
    const i64 begin = found.index * segment;
    const int token = locate(weights, begin, min(begin + segment, vocab), found.before, threshold, shared);
    problem.write(row, count, token, threadIdx.x, THREADS);
}

template <typename T> __device__ __forceinline__ void greedy(const Problem<T>& problem, i64 row) {
    __shared__ u64 keys[WARPS];
    const int length = problem.lengths[row], lane = threadIdx.x % 32;
    int count = 0, token = 0;
#pragma unroll 1
    for (;; ++count) {
        const u64 own = largest_logit(problem.target(row, count), 0, (u32)problem.vocab, problem.aligned(), threadIdx.x,
                                      THREADS);
        const u64 key = warp_larger(own);
        if (lane == 0) keys[threadIdx.x / 32] = key;
        __syncthreads();
        token = argmax_token(warp_larger(lane < WARPS ? keys[lane] : 0));
        __syncthreads();  // the next position overwrites the keys
        if (count == length || problem.draft[row * problem.k + count] != token) break;
    }
    problem.write(row, count, token, threadIdx.x, THREADS);
}

#define BLOCK(T, name)                                                                                                \
    extern "C" __global__ void __launch_bounds__(THREADS, 2) accept_##name(PROBLEM_ARGUMENTS(T)) {                    \
        const Problem<T> problem = PROBLEM(T);                                                                        \
        if (temperature[blockIdx.x] > 0.f)                                                                            \
            sample(problem, blockIdx.x);                                                                              \
        else                                                                                                          \
            greedy(problem, blockIdx.x);                                                                              \
    }
BLOCK(float, f32)
BLOCK(__nv_bfloat16, bf16)
