// Idea: many blocks a row take the residual masses of all prefixes at once, since none waits for another; then one block a
//   row decides from the longest prefix down.
// Source: Sun et al. 2024 (arXiv 2403.10444), algorithm 2; splitting a row as in acceptance_split.
// Shapes: q [batch, k, vocab], p [batch, k + 1, vocab], draft [batch, k], lengths [batch], accept_u [batch, k],
//   sample_u [batch] -> accepted [batch], tokens [batch, k + 1]. Scratch: sums [batch, k + 1, segments], the mass of
//   max(b p - q, 0) in a segment; where the whole draft is kept, that of p at the position after it instead.
// Plan: `sums`: every block takes the products b of its row again (k scattered reads), and returns at once if its
//   position will not be asked. `locate` adds the segments of each position, a warp a position, decides, and scans the
//   one segment where the threshold lies.
// Numerics: b in double, in the order of the reference. Residuals and sums in f32, chains of segment/1024 + 3 + 5 + 8
//   and segments/32 + 5 additions; in the scan segments, then 9 + 32 a tile of 4096.
// Limits: k <= 255. Prefixes shorter than the accepted one are summed all the same.
#include "acceptance.cuh"

constexpr int THREADS = 256, LOCATE_THREADS = 1024, MAX_LENGTH = 256;

// max(b p - q, 0), or p without q.
struct Scaled {
    const float *p, *q;
    float b;
    bool aligned;
    __device__ __forceinline__ float4 operator()(i64 t, i64 end) const {
        float4 w = weight4(p, nullptr, t, end, aligned);
        if (q) {
            const float4 d = weight4(q, nullptr, t, end, aligned);
            w = {fmaxf(fmaf(b, w.x, -d.x), 0.f), fmaxf(fmaf(b, w.y, -d.y), 0.f), fmaxf(fmaf(b, w.z, -d.z), 0.f),
                 fmaxf(fmaf(b, w.w, -d.w), 0.f)};
        }
        return w;
    }
};

// b of every prefix: [0] = 1. All threads of the block call it.
__device__ __forceinline__ void products(double* b, const float* q, const float* p, const int* draft, int length,
                                         i64 vocab) {
    __shared__ float drafted[MAX_LENGTH], wanted[MAX_LENGTH];
    if (threadIdx.x < length) {
        const i64 at = threadIdx.x * vocab + draft[threadIdx.x];
        drafted[threadIdx.x] = q[at];
        wanted[threadIdx.x] = p[at];
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        double kept = b[0] = 1.0;
#pragma unroll 1
        for (int j = 0; j < length; ++j) {
            const double share = kept * (double)wanted[j], other = drafted[j];
            b[j + 1] = kept = share == 0.0 ? 0.0 : share >= other ? 1.0 : share / other;
        }
    }
    __syncthreads();
}

extern "C" __global__ void __launch_bounds__(THREADS)
    sums_f32(const float* __restrict__ q, const float* __restrict__ p, const int* __restrict__ draft,
             const int* __restrict__ lengths, const float* __restrict__ accept_u, float* __restrict__ sums, i64 k,
             i64 vocab, i64 segment, i64 segments) {
    __shared__ double b[MAX_LENGTH];
    const i64 row = blockIdx.x / segments / (k + 1), position = blockIdx.x / segments % (k + 1);
    const i64 index = blockIdx.x % segments;
    const int length = lengths[row];
    if (position > length) return;
    q += row * k * vocab;
    p += row * (k + 1) * vocab;
    products(b, q, p, draft + row * k, length, vocab);
    const bool all = length == 0 || (double)accept_u[row * k + length - 1] < b[length];
    if (all != (position == length)) return;
    const Scaled weights = {p + position * vocab, all ? nullptr : q + position * vocab, (float)b[position],
                            vocab % 4 == 0};
    const i64 begin = index * segment, end = min(begin + segment, vocab);
    const float sum = block_sum<THREADS>(weights, begin, end);
    if (threadIdx.x == 0) sums[(row * (k + 1) + position) * segments + index] = sum;
}

extern "C" __global__ void __launch_bounds__(LOCATE_THREADS, 1)
    locate_f32(const float* __restrict__ q, const float* __restrict__ p, const int* __restrict__ draft,
               const int* __restrict__ lengths, const float* __restrict__ accept_u,
               const float* __restrict__ sample_u, const float* __restrict__ sums, int* __restrict__ accepted,
               int* __restrict__ tokens, i64 k, i64 vocab, i64 segment, i64 segments) {
    __shared__ double b[MAX_LENGTH];
    __shared__ float masses[MAX_LENGTH];
    __shared__ LocateShared shared;
    const i64 row = blockIdx.x;
    const int length = lengths[row], lane = threadIdx.x % 32;
    q += row * k * vocab;
    p += row * (k + 1) * vocab;
    draft += row * k;
    accept_u += row * k;
    sums += row * (k + 1) * segments;
    products(b, q, p, draft, length, vocab);
    const bool all = length == 0 || (double)accept_u[length - 1] < b[length];
#pragma unroll 1
    for (int position = threadIdx.x / 32; position <= length; position += LOCATE_THREADS / 32) {
        if (all != (position == length)) continue;
        float sum = 0.f;
#pragma unroll 1
        for (i64 i = lane; i < segments; i += 32) sum += sums[position * segments + i];
        sum = warp_sum(sum);
        if (lane == 0) masses[position] = sum;
    }
    __syncthreads();
    int count = length;
    if (!all)
#pragma unroll 1
        for (--count; count > 0; --count) {
            const double mass = masses[count];
            if ((double)accept_u[count - 1] * (mass + (1.0 - b[count])) < mass) break;
        }
    const float* target = p + count * vocab;
    Scaled weights = {target, all ? nullptr : q + count * vocab, (float)b[count], vocab % 4 == 0};
    Segment at = {0, 0.f};
    i64 begin = 0, end = vocab;
    float mass = masses[count];
    if (mass == 0.f) {  // a residual that vanishes: the target itself, found without sums
        weights.q = nullptr;
        const float sum = block_sum<LOCATE_THREADS>(weights, 0, vocab);
        if (threadIdx.x == 0) masses[count] = sum;
        __syncthreads();
        mass = masses[count];
    } else {
        at = find_segment(sums + count * segments, (int)segments, sample_u[row] * mass);
        begin = at.index * segment;
        end = min(begin + segment, vocab);
    }
    const int token = locate(weights, begin, end, at.before, sample_u[row] * mass, shared);
    if (threadIdx.x == 0) accepted[row] = count;
    emit(tokens + row * (k + 1), draft, (int)k, count, token, threadIdx.x, LOCATE_THREADS);
}
