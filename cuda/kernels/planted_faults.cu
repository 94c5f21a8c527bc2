// Idea: causal attention forward with one fault planted in each kernel, and a sound control. The harness must
//   let the control pass and catch every other: a suite whose checks cannot fail proves nothing. A kernel that hides
//   NaN agrees on numbers; it is caught by what a NaN among the inputs becomes.
// Source: the faults are those that reached users of other suites (unwritten, stale and NaN outputs, dropped
//   tails, stores past the end, masks off by one, sums kept in the storage type).
// Shapes: q, k, v, o [batch, seq_len, heads, head_dim] f32; lse [batch, heads, seq_len] f32.
// Plan: one thread a query row, three passes over its keys; no shared memory.
// Numerics: f32 throughout, but for the fault that accumulates in f16.
// Limits: head_dim <= 128, as many queries as keys; slow on purpose.
#include "numeric.cuh"

enum Fault { SOUND, NAN_OUTPUT, NO_OP, STALE, OUT_OF_BOUNDS, SKIPPED_TAIL, F16_ACCUMULATION, OFF_BY_ONE_MASK, HIDES_NAN };

template <int FAULT> struct Sum {
    float value = 0.f;
    __device__ void add(float x) { value += x; }
    __device__ float get() const { return value; }
};
template <> struct Sum<F16_ACCUMULATION> {
    __half value = __float2half(0.f);
    __device__ void add(float x) { value = __float2half(__half2float(value) + x); }
    __device__ float get() const { return __half2float(value); }
};

template <int FAULT>
__device__ void attention(const float* q, const float* k, const float* v, float* o, float* lse, i64 batch,
                          i64 seq_len, i64 heads, i64 head_dim, float scale) {
    const i64 row = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    const i64 rows = batch * heads * seq_len;
    if (row >= rows || FAULT == NO_OP) return;
    if (FAULT == SKIPPED_TAIL && row >= rows / 32 * 32) return;
    const i64 i = row % seq_len, h = row / seq_len % heads, b = row / seq_len / heads;
    const i64 stride = heads * head_dim, first = (b * seq_len * heads + h) * head_dim;
    if (FAULT == STALE && lse[row] == lse[row]) return;  // trusts whatever number is already there
    const float* query = q + first + i * stride;
    const i64 keys = FAULT == OFF_BY_ONE_MASK ? min(i + 2, seq_len) : i + 1;
    float highest = __int_as_float(0xff800000);  // -inf
#pragma unroll 1
    for (i64 j = 0; j < keys; ++j) {
        float dot = 0.f;
#pragma unroll 1
        for (i64 d = 0; d < head_dim; ++d) dot += query[d] * k[first + j * stride + d];
        highest = fmaxf(highest, dot * scale);
    }
    Sum<FAULT> weight, acc[128];
#pragma unroll 1
    for (i64 j = 0; j < keys; ++j) {
        float dot = 0.f;
#pragma unroll 1
        for (i64 d = 0; d < head_dim; ++d) dot += query[d] * k[first + j * stride + d];
        const float p = expf(dot * scale - highest);
        weight.add(p);
#pragma unroll 1
        for (i64 d = 0; d < head_dim; ++d) acc[d].add(p * v[first + j * stride + d]);
    }
    const bool blind = FAULT == HIDES_NAN && !(weight.get() > 0.f);  // a sum that is NaN is not above zero either
#pragma unroll 1
    for (i64 d = 0; d < head_dim; ++d) {
        const float value = FAULT == NAN_OUTPUT && row == rows / 2 ? nanf("") : acc[d].get() / weight.get();
        o[first + i * stride + d] = blind ? 0.f : value;
    }
    lse[row] = blind ? __int_as_float(0xff800000) : highest + logf(weight.get());
    if (FAULT == OUT_OF_BOUNDS && row == rows - 1) lse[rows] = 0.f;
}

#define PLANT(name, FAULT)                                                                                      \
    extern "C" __global__ void planted_##name(const float* q, const float* k, const float* v, float* o,         \
                                              float* lse, i64 batch, i64 seq_len, i64 heads, i64 head_dim,      \
                                              float scale) {                                                    \
        attention<FAULT>(q, k, v, o, lse, batch, seq_len, heads, head_dim, scale);                              \
    }

PLANT(sound, SOUND)
PLANT(nan_output, NAN_OUTPUT)
PLANT(no_op, NO_OP)
PLANT(stale_output, STALE)
PLANT(out_of_bounds_write, OUT_OF_BOUNDS)
PLANT(skipped_tail, SKIPPED_TAIL)
PLANT(f16_accumulation, F16_ACCUMULATION)
PLANT(off_by_one_mask, OFF_BY_ONE_MASK)
PLANT(hides_nan, HIDES_NAN)
