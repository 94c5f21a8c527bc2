// Idea: keys and values go from memory straight into the operands of tensor cores, which take a whole group of query
//   heads for the price of one; the last block of a group to finish combines the splits.
// Source: Dao et al. 2023 (Flash-Decoding); Ainslie et al. 2023 (query heads in groups); Hong et al. 2023
//   (FlashDecoding++: products of few rows padded to 8).
// Shapes: as attention_decode_naive.cu; head_dim a multiple of 8 up to 128, f16 or bf16; scratch sums f32
//   [splits, batch, heads_q, head_dim] and stats f32 [splits, batch, heads_q, 2]: maximum score in powers of two and
//   sum of probabilities relative to it; counters u32 [batch, heads_kv, tiles of 8 heads], zero before and after.
// Plan: a block of 4 warps takes one split of one key head and 8 query heads, a warp step 16 keys. S^T = K Q^T and
//   O^T = V^T P^T, so that the 8 heads are the narrow side of m16n8k16. The order of the values within a product is free
//   as long as both operands agree, so a lane loads 16 bytes of a row of K and they are its operand as they are; of V
//   two rows are interleaved. The next step's K is under way while this one's softmax runs, its V from the product on.
// Numerics: f32 sums; a soft cap by tanh_of; probabilities are rounded to the storage type for the second product,
//   their sum is not; each warp has its own running maximum; splits are combined in order, whoever comes last.
// Limits: bound by memory; groups beyond 8 heads read K and V once for each 8. Rows are read once, but not by ld.cs: it keeps
//   what it reads from driving lines out of the L2 cache that others have written, and their way to memory takes longer
//   (decode_large_batch on an H200 behind a fill: 522 us instead of 501; behind reads 487 instead of 492).
// Twin: f16
#include "attention_cache.cuh"
#include "attention_mma.cuh"

namespace {

typedef __nv_bfloat16 T;
constexpr int WARPS = 4, STEP = 16, HEADS = 8, BATCH = 8;

struct Sizes {
    int dim, batch, heads_q, heads_kv, splits;
};

// What a block shares: each warp's sums, and the weights that combine them.
template <int DIM> struct Shared {
    float sums[WARPS][HEADS][DIM + 4], max[WARPS][HEADS], total[WARPS][HEADS];
    int last;
};

// A warp's part: sums of probabilities times values of its steps, and where they go.
template <int DIM> struct Part {
    static constexpr int K_CHUNKS = DIM / 32, V_CHUNKS = DIM / 64;
    uint4 key[K_CHUNKS][2], value[V_CHUNKS][4];
    u32 query[K_CHUNKS * 2][2];
    float sum[V_CHUNKS * 4][4], max[2], total[2];
    int lane;

    // Rows of keys lane / 4 and lane / 4 + 8, chunks of 8 values lane % 4 of every four.
    __device__ __forceinline__ void load_keys(const T* k, const Cache& cache, const Sizes& n, int b, int head, int j0, int end) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const int j = j0 + lane / 4 + 8 * r;
            const T* row = k + (cache.row(b, min(j, end - 1)) * n.heads_kv + head) * n.dim;
#pragma unroll
            for (int u = 0; u < K_CHUNKS; ++u) {
                const int d = u * 32 + lane % 4 * 8;
                key[u][r] = {0, 0, 0, 0};
                if (j < end && d < n.dim) key[u][r] = __ldg((const uint4*)(row + d));
            }
        }
    }
    // Rows of values lane % 4 * 2 (+1) and 8 further, chunks of 8 values lane / 4 of every eight.
    __device__ __forceinline__ void load_values(const T* v, const Cache& cache, const Sizes& n, int b, int head, int j0, int end) {
#pragma unroll
        for (int r = 0; r < 4; ++r) {
            const int j = j0 + lane % 4 * 2 + r % 2 + r / 2 * 8;
            const T* row = v + (cache.row(b, min(j, end - 1)) * n.heads_kv + head) * n.dim;
#pragma unroll
            for (int w = 0; w < V_CHUNKS; ++w) {
                const int d = w * 64 + lane / 4 * 8;
                value[w][r] = {0, 0, 0, 0};
                if (j < end && d < n.dim) value[w][r] = __ldg((const uint4*)(row + d));
            }
        }
    }
    // s: keys lane / 4 (0, 1) and lane / 4 + 8 (2, 3) by heads lane % 4 * 2 (0, 2) and the next (1, 3).
    __device__ __forceinline__ void score(float (&s)[4]) const {
#pragma unroll
        for (int e = 0; e < 4; ++e) s[e] = 0.f;
#pragma unroll
        for (int u = 0; u < K_CHUNKS; ++u) {
            const uint4 a = key[u][0], b = key[u][1];
            mma<T>(s, {a.x, b.x, a.y, b.y}, query[2 * u][0], query[2 * u][1]);
            mma<T>(s, {a.z, b.z, a.w, b.w}, query[2 * u + 1][0], query[2 * u + 1][1]);
        }
    }
    __device__ __forceinline__ void gather(const float (&s)[4]) {
        const u32 b0 = transposed(Pair<T>::pack(s[0], s[1])), b1 = transposed(Pair<T>::pack(s[2], s[3]));
#pragma unroll
        for (int w = 0; w < V_CHUNKS; ++w) {
            const u32(*words)[4] = (const u32(*)[4])value[w];
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const u32 a[4] = {__byte_perm(words[0][e], words[1][e], 0x5410), __byte_perm(words[0][e], words[1][e], 0x7632),
                                  __byte_perm(words[2][e], words[3][e], 0x5410), __byte_perm(words[2][e], words[3][e], 0x7632)};
                mma<T>(sum[w * 4 + e], a, b0, b1);
            }
        }
    }
    // Sum m of this lane: values w * 64 + lane / 4 * 8 + 2 e (0, 1) and the next (2, 3), m = 4 w + e.
    __device__ __forceinline__ void put(Shared<DIM>& shared, int warp) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const int head = lane % 4 * 2 + h;
#pragma unroll
            for (int offset = 4; offset < 32; offset *= 2) total[h] += __shfl_xor_sync(0xffffffffu, total[h], offset);
            if (lane < 4) {
                shared.max[warp][head] = max[h];
                shared.total[warp][head] = total[h];
            }
#pragma unroll
            for (int m = 0; m < V_CHUNKS * 4; ++m)
                *(float2*)&shared.sums[warp][head][m / 4 * 64 + lane / 4 * 8 + m % 4 * 2] = {sum[m][h], sum[m][h + 2]};
        }
    }
};

template <int DIM>
__device__ void decode(const T* q, const T* k, const T* v, const Cache& cache, const int* lengths, float* sums,
                       float* stats, u32* counters, T* o, float* lse, const Sizes& n, float scale,
                       float squeeze) {
    __shared__ Shared<DIM> shared;
    const int warp = threadIdx.x / 32;
    const int group = n.heads_q / n.heads_kv, tiles = (group + HEADS - 1) / HEADS;
    // Neighbouring blocks take the heads of the same keys, which lie side by side.
    const int tile = blockIdx.x % tiles, head = blockIdx.x / tiles % n.heads_kv, part_of = blockIdx.x / tiles / n.heads_kv;
    const int split = part_of % n.splits, b = part_of / n.splits, place = (b * n.heads_kv + head) * tiles + tile;
    const int heads = min(HEADS, group - tile * HEADS);
    const i64 first_head = (i64)b * n.heads_q + head * group + tile * HEADS;
    const int length = lengths[b], chunk = ((length + n.splits - 1) / n.splits + STEP - 1) / STEP * STEP;
    const int begin = (int)min((i64)length, (i64)split * chunk), end = min(length, begin + chunk);
    const float factor = scale * LOG2_E;

    Part<DIM> part;
    part.lane = threadIdx.x % 32;
    part.max[0] = part.max[1] = NEG_INFINITY, part.total[0] = part.total[1] = 0.f;
#pragma unroll
    for (int m = 0; m < DIM / 16; ++m)
#pragma unroll
        for (int e = 0; e < 4; ++e) part.sum[m][e] = 0.f;
#pragma unroll
    for (int u = 0; u < DIM / 32; ++u) {
        const int h = part.lane / 4, d = u * 32 + part.lane % 4 * 8;
        uint4 x = {0, 0, 0, 0};
        if (h < heads && d < n.dim) x = *(const uint4*)(q + (first_head + h) * n.dim + d);
        part.query[2 * u][0] = x.x, part.query[2 * u][1] = x.y, part.query[2 * u + 1][0] = x.z, part.query[2 * u + 1][1] = x.w;
    }
    int j = begin + warp * STEP;
    if (j < end) {
        part.load_keys(k, cache, n, b, head, j, end);
        part.load_values(v, cache, n, b, head, j, end);
    }
#pragma unroll 1
    for (; j < end; j += WARPS * STEP) {
        const int next = j + WARPS * STEP;
        float s[4];
        part.score(s);
        if (next < end) part.load_keys(k, cache, n, b, head, next, end);
        if (squeeze != 0.f)
#pragma unroll
            for (int e = 0; e < 4; ++e) s[e] = tanh_of(s[e], squeeze);
        if (j + STEP > end) {
            if (j + part.lane / 4 >= end) s[0] = s[1] = NEG_INFINITY;
            if (j + part.lane / 4 + 8 >= end) s[2] = s[3] = NEG_INFINITY;
        }
        soften_step(s, factor, part.max, part.total, part.sum);
        part.gather(s);
        if (next < end) part.load_values(v, cache, n, b, head, next, end);
    }
    part.put(shared, warp);
    __syncthreads();

    const bool alone = n.splits == 1;
#pragma unroll 1
    for (int at = threadIdx.x; at < heads * n.dim; at += WARPS * 32) {
        const int h = at / n.dim, d = at % n.dim;
        float top = NEG_INFINITY, all = 0.f, mean = 0.f;
        for (int w = 0; w < WARPS; ++w) top = fmaxf(top, shared.max[w][h]);
        const float base = top == NEG_INFINITY ? 0.f : top;
        for (int w = 0; w < WARPS; ++w) {
            const float weight = exp2_fast((shared.max[w][h] - base) * factor);
            all = fmaf(weight, shared.total[w][h], all);
            mean = fmaf(weight, shared.sums[w][h][d], mean);
        }
        top *= factor;
        const i64 row = first_head + h, out = (i64)split * n.batch * n.heads_q + row;
        if (alone) {
            o[row * n.dim + d] = from_float<T>(all == 0.f ? 0.f : mean / all);
            if (d == 0) lse[row] = all == 0.f ? NEG_INFINITY : top * LN_2 + logf(all);
            continue;
        }
        __stcg(&sums[out * n.dim + d], mean);
        if (d == 0) __stcg((float2*)&stats[out * 2], make_float2(top, all));
    }
    if (alone) return;

    // The block that counts last finds all splits written: the fences of the thread that counts stand for its block's
    // threads, which the barriers order before and after it.
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        shared.last = atomicAdd(&counters[place], 1) == n.splits - 1;
        __threadfence();
        if (shared.last) atomicExch(&counters[place], 0);
    }
    __syncthreads();
    if (!shared.last) return;
    const i64 rows = (i64)n.batch * n.heads_q;
#pragma unroll 1
    for (int at = threadIdx.x * 4; at < heads * n.dim; at += WARPS * 32 * 4) {
        const int h = at / n.dim, d = at % n.dim;
        const i64 row = first_head + h;
        float top = NEG_INFINITY, all = 0.f;
        float4 mean = {0.f, 0.f, 0.f, 0.f};
#pragma unroll 1
        for (int s0 = 0; s0 < n.splits; s0 += BATCH) {
            float2 stat[BATCH];
            float4 x[BATCH];
#pragma unroll
            for (int s = 0; s < BATCH; ++s) {
                const i64 from = min(s0 + s, n.splits - 1) * rows + row;
                stat[s] = __ldcg((const float2*)&stats[from * 2]);
                x[s] = __ldcg((const float4*)&sums[from * n.dim + d]);
                if (s0 + s >= n.splits) stat[s] = {NEG_INFINITY, 0.f};
            }
#pragma unroll
            for (int s = 0; s < BATCH; ++s) {
                const float rise = fmaxf(top, stat[s].x), base = rise == NEG_INFINITY ? 0.f : rise;
                const float old = exp2_fast(top - base), weight = exp2_fast(stat[s].x - base);
                top = rise;
                all = fmaf(weight, stat[s].y, all * old);
                mean = {fmaf(weight, x[s].x, mean.x * old), fmaf(weight, x[s].y, mean.y * old),
                        fmaf(weight, x[s].z, mean.z * old), fmaf(weight, x[s].w, mean.w * old)};
            }
        }
        const float inverse = all == 0.f ? 0.f : 1.f / all;
        *(uint2*)(o + row * n.dim + d) = {Pair<T>::pack(mean.x * inverse, mean.y * inverse),
                                          Pair<T>::pack(mean.z * inverse, mean.w * inverse)};
        if (d == 0) lse[row] = all == 0.f ? NEG_INFINITY : top * LN_2 + logf(all);
    }
}

}  // namespace

#define KERNEL(DIM)                                                                                                   \
    extern "C" __global__ void __launch_bounds__(128, 3) decode_d##DIM##_bf16(                                        \
        const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v, const int* __restrict__ table,     \
        const int* __restrict__ lengths, float* __restrict__ sums, float* __restrict__ stats, u32* counters,          \
        T* __restrict__ o, float* __restrict__ lse, int dim, int batch, i64 seq_k, int heads_q, int heads_kv,         \
        i64 pages, int page_shift, int splits, float scale, float squeeze) {                                          \
        decode<DIM>(q, k, v, {table, pages, seq_k, page_shift}, lengths, sums, stats, counters, o, lse,               \
                    {dim, batch, heads_q, heads_kv, splits}, scale, squeeze);                                         \
    }
KERNEL(64)
KERNEL(128)
