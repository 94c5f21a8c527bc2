// Idea: the definition as it reads: log-probabilities from each row's maximum and sum, then a thread walks a row's draft.
// Source: Leviathan et al. 2023, algorithm 1; Chen et al. 2023, algorithm 2.
// Shapes: acceptance_logits.cuh; logits f32 or bf16. Scratch: norms [batch, 2 k + 1, 2] (double), maximum and ln of the sum
//   of the target's k + 1 rows, then of the draft's k.
// Plan: `normalize`, a warp a row of logits, two passes; `accept`, a thread a row of the batch: the draft, the sum of the
//   weights, and the token at the threshold.
// Numerics: everything in double.
// Limits: every row is normalized, whether its position is reached or not; neighbouring threads of `accept` read addresses
//   a row apart.
#include "acceptance_logits.cuh"

template <typename T>
__device__ __forceinline__ void normalize(const Problem<T>& problem, double2* __restrict__ norms) {
    const i64 each = 2 * problem.k + 1, at = ((i64)blockIdx.x * blockDim.x + threadIdx.x) / 32, row = at / each;
    if (row >= problem.batch || problem.temperature[row] == 0.f) return;
    const i64 which = at % each, position = which <= problem.k ? which : which - problem.k - 1;
    const T* logits = which <= problem.k ? problem.target(row, position) : problem.drafted(row, position);
    const int lane = threadIdx.x % 32;
    float most = minus_infinity();
#pragma unroll 1
    for (i64 t = lane; t < problem.vocab; t += 32) most = fmaxf(most, to_float(logits[t]));
    most = warp_max(most);
    double sum = 0.0;
#pragma unroll 1
    for (i64 t = lane; t < problem.vocab; t += 32)
        sum += exp(((double)to_float(logits[t]) - (double)most) / (double)problem.temperature[row]);
#pragma unroll 1
    for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(FULL, sum, offset);
    if (lane == 0) norms[at] = make_double2(most, log(sum));
}

// ln p of a token.
__device__ __forceinline__ double log_of(float x, double2 norm, double temperature) {
    return ((double)x - norm.x) / temperature - norm.y;
}

// max(p - q, 0) of a token, or p without y.
template <typename T>
__device__ __forceinline__ double weight(const T* x, const T* y, i64 t, double2 p, double2 q, double temperature) {
    const double target = exp(log_of(to_float(x[t]), p, temperature));
    return y ? fmax(target - exp(log_of(to_float(y[t]), q, temperature)), 0.0) : target;
}

template <typename T>
__device__ __forceinline__ int sample(const Problem<T>& problem, i64 row, const double2* norms, int& count) {
    const i64 k = problem.k;
    const double temperature = problem.temperature[row];
    const double2 *p = norms + row * (2 * k + 1), *q = p + k + 1;
    const int length = problem.lengths[row];
    for (; count < length; ++count) {
        const int token = problem.draft[row * k + count];
        const double wanted = log_of(to_float(problem.target(row, count)[token]), p[count], temperature);
        const double drafted = log_of(to_float(problem.drafted(row, count)[token]), q[count], temperature);
        if (!(log((double)problem.accept_u[row * k + count]) + drafted < wanted)) break;
    }
    const T* x = problem.target(row, count);
    const T* y = count < length ? problem.drafted(row, count) : nullptr;
    const double2 of_target = p[count], of_draft = y ? q[count] : p[count];
    double total = 0.0;
#pragma unroll 1
    for (int attempt = 0; attempt < 2 && total == 0.0; ++attempt) {
        if (attempt == 1) y = nullptr;  // a residual that vanishes
#pragma unroll 1
        for (i64 t = 0; t < problem.vocab; ++t) total += weight(x, y, t, of_target, of_draft, temperature);
    }
    const double threshold = problem.sample_u[row] * total;
    double running = 0.0;
    int token = -1;
#pragma unroll 1
    for (i64 t = 0; t < problem.vocab; ++t) {
        const double w = weight(x, y, t, of_target, of_draft, temperature);
        if (!(w > 0.0)) continue;
        token = (int)t;
        running += w;
        if (running > threshold) break;
    }
    return token;
}

template <typename T> __device__ __forceinline__ int greedy(const Problem<T>& problem, i64 row, int& count) {
    const int length = problem.lengths[row];
    for (;; ++count) {
        const T* x = problem.target(row, count);
        int token = 0;
#pragma unroll 1
        for (i64 t = 1; t < problem.vocab; ++t)
            if (to_float(x[t]) > to_float(x[token])) token = (int)t;
        if (count == length || problem.draft[row * problem.k + count] != token) return token;
    }
}

template <typename T>
__device__ __forceinline__ void accept(const Problem<T>& problem, const double2* __restrict__ norms) {
    const i64 row = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= problem.batch) return;
    int count = 0;
    const int token =
        problem.temperature[row] > 0.f ? sample(problem, row, norms, count) : greedy(problem, row, count);
    problem.write(row, count, token, 0, 1);
}

#define NAIVE(T, name)                                                                                                \
    extern "C" __global__ void normalize_##name(PROBLEM_ARGUMENTS(T), double2* norms) {                               \
        normalize(PROBLEM(T), norms);                                                                                 \
    }                                                                                                                 \
    extern "C" __global__ void accept_##name(PROBLEM_ARGUMENTS(T), double2* norms) { accept(PROBLEM(T), norms); }
NAIVE(float, f32)
NAIVE(__nv_bfloat16, bf16)
