// Idea: a block keeps one head's state in registers and reads each step's vectors from shared memory, 8 steps at a time,
//       while the next 8 are on their way to registers.
// Source: the recurrent kernel that RWKV ships (BlinkDL/RWKV-LM, wkv7), with a row of the state shared by four threads.
// Shapes: r, k, w, a, b [batch, seq_len, heads, key_dim], w logarithms of decays; v, o [batch, seq_len, heads, value_dim];
//         initial, last [batch, heads, value_dim, key_dim].
// Plan: a block of two warps has 64 rows of the state, four for every four lanes; of a row a lane holds the columns
//       16 i + 4 j to 16 i + 4 j + 3, j its place among the four. Each read of a vector serves four rows: with two rows
//       and twice the threads, shared memory was busy 82 % of the time (ncu, H200) and a layer took 1.94 ms, not 1.52.
// Numerics: bf16 in and out, f32 between.
// Limits: bf16; key_dim at most 64; key_dim and value_dim multiples of 8; batch*heads*value_dim/64 blocks must fill the
//         device, and each walks the whole sequence.
#include "numeric.cuh"

typedef __nv_bfloat16 bf16;
constexpr int STEPS = 8, WIDTH = 64, ROWS = 64, THREADS = 64, HELD = 4, APART = ROWS / HELD, VECTORS = 5;
enum Vector { A, B, K, R, W };

__device__ __forceinline__ float low(u32 pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }

struct Shared {
    float4 at[VECTORS][STEPS][WIDTH / 4];
    float v[STEPS][ROWS];
    bf16 o[STEPS][ROWS];
};

// Eight values as f32; decays from their logarithms.
__device__ __forceinline__ void widen(float4* to, uint4 from, bool decays) {
    float v[8] = {low(from.x), high(from.x), low(from.y), high(from.y), low(from.z), high(from.z), low(from.w), high(from.w)};
    if (decays)
#pragma unroll
        for (int i = 0; i < 8; ++i) v[i] = exp2f(v[i] * 1.44269504088896340736f);
    to[0] = make_float4(v[0], v[1], v[2], v[3]);
    to[1] = make_float4(v[4], v[5], v[6], v[7]);
}
__device__ __forceinline__ float dot(float4 x, float4 y, float sum) {
    return fmaf(x.x, y.x, fmaf(x.y, y.y, fmaf(x.z, y.z, fmaf(x.w, y.w, sum))));
}
// Sums over the four lanes of a quad, for all of them.
__device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
// Lane j of a quad gets the sum of x[j] over its four lanes.
__device__ __forceinline__ float own_sum(const float (&x)[HELD], int j) {
    const bool odd = j & 1, upper = j & 2;
    const float low = (odd ? x[1] : x[0]) + __shfl_xor_sync(0xffffffffu, odd ? x[0] : x[1], 1);
    const float high = (odd ? x[3] : x[2]) + __shfl_xor_sync(0xffffffffu, odd ? x[2] : x[3], 1);
    return (upper ? high : low) + __shfl_xor_sync(0xffffffffu, upper ? low : high, 2);
}
// One step of four columns: s*w + taken*b + v*k.
__device__ __forceinline__ float4 advance(float4 s, float4 w, float taken, float4 b, float v, float4 k) {
    return make_float4(fmaf(v, k.x, fmaf(taken, b.x, s.x * w.x)), fmaf(v, k.y, fmaf(taken, b.y, s.y * w.y)),
                       fmaf(v, k.z, fmaf(taken, b.z, s.z * w.z)), fmaf(v, k.w, fmaf(taken, b.w, s.w * w.w)));
}

extern "C" __global__ void __launch_bounds__(THREADS)
    staged_bf16(const bf16* r, const bf16* k, const bf16* v, const bf16* w, const bf16* a, const bf16* b,
                const bf16* initial, bf16* o, bf16* last, i64 batch, i64 seq_len, i64 heads, i64 key_dim,
                i64 value_dim) {
    __shared__ Shared shared;
    const int slices = ((int)value_dim + ROWS - 1) / ROWS, slice = blockIdx.x % slices;
    const i64 head = blockIdx.x / slices % heads, sequence = blockIdx.x / slices / heads;
    const int width = (int)key_dim, rows = min(ROWS, (int)value_dim - slice * ROWS), length = (int)seq_len;
    const int row = threadIdx.x / 4, j = threadIdx.x % 4;
    const i64 state_at = ((sequence * heads + head) * value_dim + slice * ROWS + row) * key_dim + j * 4;
    // Of a tile each thread brings eight values of one step of each array.
    const int step = threadIdx.x / 8, chunk = threadIdx.x % 8 * 8;
    const i64 key_at = ((sequence * seq_len + step) * heads + head) * key_dim + chunk;
    const i64 value_at = ((sequence * seq_len + step) * heads + head) * value_dim + slice * ROWS + chunk;
    const bf16* const sources[VECTORS] = {a, b, k, r, w};

    // Row row + r * APART, columns 16 i + 4 j and the next three.
    float4 s[HELD][4];
#pragma unroll
    for (int r = 0; r < HELD; ++r)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            uint2 bits = make_uint2(0, 0);
            if (initial && row + r * APART < rows && i * 16 + j * 4 < width)
                bits = *(const uint2*)(initial + state_at + r * APART * key_dim + i * 16);
            s[r][i] = make_float4(low(bits.x), high(bits.x), low(bits.y), high(bits.y));
        }
    uint4 next[VECTORS + 1];
    const auto fetch = [&](int from) {
        const bool inside = from + step < length;
#pragma unroll
        for (int n = 0; n < VECTORS; ++n)
            next[n] = inside && chunk < width ? __ldcs((const uint4*)(sources[n] + key_at + from * heads * key_dim))
                                              : make_uint4(0, 0, 0, 0);
        next[VECTORS] = inside && chunk < rows ? __ldcs((const uint4*)(v + value_at + from * heads * value_dim))
                                               : make_uint4(0, 0, 0, 0);
    };
    fetch(0);
#pragma unroll 1
    for (int from = 0; from < length; from += STEPS) {
#pragma unroll
        for (int n = 0; n < VECTORS; ++n) widen(&shared.at[n][step][chunk / 4], next[n], n == W);
        widen((float4*)&shared.v[step][chunk], next[VECTORS], false);
        __syncthreads();
        fetch(from + STEPS);
        const int steps = min(STEPS, length - from);
#pragma unroll 1
        for (int t = 0; t < steps; ++t) {
            float taken[HELD] = {}, sum[HELD] = {};
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float4 as = shared.at[A][t][i * 4 + j];
#pragma unroll
                for (int r = 0; r < HELD; ++r) taken[r] = dot(s[r][i], as, taken[r]);
            }
#pragma unroll
            for (int r = 0; r < HELD; ++r) taken[r] = quad_sum(taken[r]);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int at = i * 4 + j;
                const float4 ws = shared.at[W][t][at], bs = shared.at[B][t][at], ks = shared.at[K][t][at];
                const float4 rs = shared.at[R][t][at];
#pragma unroll
                for (int r = 0; r < HELD; ++r) {
                    s[r][i] = advance(s[r][i], ws, taken[r], bs, shared.v[t][row + r * APART], ks);
                    sum[r] = dot(s[r][i], rs, sum[r]);
                }
            }
            shared.o[t][row + j * APART] = __float2bfloat16_rn(own_sum(sum, j));
        }
        __syncthreads();
        if (step < steps && chunk < rows)
            __stcs((uint4*)(o + value_at + from * heads * value_dim), *(const uint4*)&shared.o[step][chunk]);
    }
#pragma unroll
    for (int r = 0; r < HELD; ++r)
#pragma unroll
        for (int i = 0; i < 4; ++i)
            if (row + r * APART < rows && i * 16 + j * 4 < width) {
                const __nv_bfloat162 pairs[2] = {__floats2bfloat162_rn(s[r][i].x, s[r][i].y),
                                                 __floats2bfloat162_rn(s[r][i].z, s[r][i].w)};
                *(uint2*)(last + state_at + r * APART * key_dim + i * 16) = *(const uint2*)pairs;
            }
}
