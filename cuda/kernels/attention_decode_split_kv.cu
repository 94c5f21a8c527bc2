// Idea: split the keys of a sequence over many blocks, and read each row of K and V once for the query heads that
//   share it; then combine the partial results by their maxima.
// Source: Dao et al. 2023 (Flash-Decoding); Ainslie et al. 2023 (query heads in groups).
// Shapes: as attention_decode_naive.cu; head_dim a multiple of 8 up to 128; scratch sums f32 [splits, batch, heads_q, head_dim] and
//   stats f32 [splits, batch, heads_q, 2]: maximum score in powers of two and sum of probabilities relative to it.
// Plan: a block of 4 warps takes one split of one key head and HEADS query heads. A row is read by DIM / 8
//   lanes (DIM 64 or 128; some idle for other sizes), 16 bytes at a time; a warp step takes 4 rows a lane, K and V loads issued together. The scores of a step are
//   summed across lanes by exchanging halves (one shuffle a value instead of one for each power of two), and go
//   through shared memory so that each probability is computed once.
// Numerics: f32 multiply-adds, a soft cap by tanh_of, 2^x; each warp has its own running maximum.
// Limits: bound by memory; groups beyond HEADS = 4 read K and V once for each HEADS.
#include "attention_cache.cuh"

namespace {

constexpr int WARPS = 4, ROWS = 4, VALUES = 8, HEADS = 4;

// A lane's eight values of a row: 16 bytes of f16 or bf16, or of f32 16 bytes of each half of the row.
struct Eight {
    uint4 low, high;
};
__device__ __forceinline__ Eight load_eight(const char* from, int kind, int half_row) {
    Eight x = {__ldcs((const uint4*)from), {0, 0, 0, 0}};
    if (kind == F32) x.high = __ldcs((const uint4*)(from + half_row));
    return x;
}
__device__ __forceinline__ void widen(float (&x)[VALUES], const Eight& bits, int kind) {
    const u32 words[8] = {bits.low.x,  bits.low.y,  bits.low.z,  bits.low.w,
                          bits.high.x, bits.high.y, bits.high.z, bits.high.w};
    // The compiler must not know that the kind is the same each time, or it would copy the whole loop for each.
    asm volatile("" : "+r"(kind));
    if (kind == F32) {
#pragma unroll
        for (int w = 0; w < 8; ++w) x[w] = __uint_as_float(words[w]);
    } else if (kind == BF16) {
#pragma unroll
        for (int w = 0; w < 4; ++w) {
            x[2 * w] = __uint_as_float(words[w] << 16);
            x[2 * w + 1] = __uint_as_float(words[w] & 0xffff0000u);
        }
    } else {
#pragma unroll
        for (int w = 0; w < 4; ++w)
            asm("{\n.reg .b16 a, b;\nmov.b32 {a, b}, %2;\ncvt.f32.f16 %0, a;\ncvt.f32.f16 %1, b;\n}"
                : "=f"(x[2 * w]), "=f"(x[2 * w + 1])
                : "r"(words[w]));
    }
}

// Sums each of N values over groups of LANES lanes. Lane l of a group is left with N / LANES sums from number
// l * N / LANES on, or, when there are fewer values than lanes, with sum number l / (LANES / N).
template <int N, int LANES> __device__ __forceinline__ void share_sums(float* x, int lane) {
    if constexpr (LANES > 1) {
        constexpr int STEP = LANES / 2;
        if constexpr (N > 1) {
            const bool upper = lane & STEP;
#pragma unroll
            for (int i = 0; i < N / 2; ++i) {
                const float keep = upper ? x[i + N / 2] : x[i], give = upper ? x[i] : x[i + N / 2];
                x[i] = keep + __shfl_xor_sync(0xffffffffu, give, STEP);
            }
            share_sums<N / 2, STEP>(x, lane);
        } else {
            x[0] += __shfl_xor_sync(0xffffffffu, x[0], STEP);
            share_sums<1, STEP>(x, lane);
        }
    }
}

template <int DIM>
__device__ void partial(const char* q, const char* k, const char* v, Cache cache, const int* lengths, float* sums,
                        float* stats, int kind, int dim, i64 batch, i64 heads_q, i64 heads_kv, i64 splits, float scale,
                        float squeeze) {
    constexpr int LANES = DIM / VALUES, GROUPS = 32 / LANES, KEYS = GROUPS * ROWS;
    constexpr int SCORES = HEADS * ROWS, HELD = SCORES > LANES ? SCORES / LANES : 1;
    constexpr int COPIES = SCORES > LANES ? 1 : LANES / SCORES, ROUNDS = (HEADS * KEYS + 31) / 32;
    __shared__ float p_shared[WARPS][HEADS * KEYS], shrink_shared[WARPS][HEADS];
    __shared__ float max_shared[WARPS][HEADS], total_shared[WARPS][HEADS], sum_shared[WARPS][HEADS][DIM];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, part = lane % LANES, sub = lane / LANES;
    const i64 group = heads_q / heads_kv, tiles = (group + HEADS - 1) / HEADS;
    const i64 split = blockIdx.x % splits, tile = blockIdx.x / splits % tiles;
    const i64 head = blockIdx.x / splits / tiles % heads_kv, b = blockIdx.x / splits / tiles / heads_kv;
    const int heads = (int)min((i64)HEADS, group - tile * HEADS);
    const i64 first_head = b * heads_q + head * group + tile * HEADS;
    const int length = lengths[b], chunk = (int)((length + splits - 1) / splits + KEYS - 1) / KEYS * KEYS;
    const int begin = (int)min((i64)length, split * chunk), end = min(length, begin + chunk);
    const float factor = scale * LOG2_E;
    const int row_bytes = dim * (kind == F32 ? 4 : 2), half_row = row_bytes / 2;
    const int low = part * (kind == F32 ? 4 : 8), high = kind == F32 ? low + dim / 2 : low + 4;
    const bool mine = part * VALUES < dim;

    float query[HEADS][VALUES], sum[HEADS][VALUES], max[ROUNDS], total[ROUNDS];
#pragma unroll
    for (int h = 0; h < HEADS; ++h) {
        Eight row = {{0, 0, 0, 0}, {0, 0, 0, 0}};
        if (h < heads && mine) row = load_eight(q + (first_head + h) * row_bytes + part * 16, kind, half_row);
        widen(query[h], row, kind);
#pragma unroll
        for (int e = 0; e < VALUES; ++e) sum[h][e] = 0.f;
    }
#pragma unroll
    for (int r = 0; r < ROUNDS; ++r) max[r] = NEG_INFINITY, total[r] = 0.f;

    for (int j0 = begin + warp * KEYS; j0 < end; j0 += WARPS * KEYS) {
        Eight key[ROWS], value[ROWS];
#pragma unroll
        for (int u = 0; u < ROWS; ++u) {
            const int j = j0 + u * GROUPS + sub;
            key[u] = value[u] = {{0, 0, 0, 0}, {0, 0, 0, 0}};
            if (j < end && mine) {
                const i64 at = (cache.row(b, j) * heads_kv + head) * row_bytes + part * 16;
                key[u] = load_eight(k + at, kind, half_row);
                value[u] = load_eight(v + at, kind, half_row);
            }
        }
        float score[SCORES];
#pragma unroll
        for (int u = 0; u < ROWS; ++u) {
            float x[VALUES];
            widen(x, key[u], kind);
#pragma unroll
            for (int h = 0; h < HEADS; ++h) {
                float dot = 0.f;
#pragma unroll
                for (int e = 0; e < VALUES; ++e) dot = fmaf(query[h][e], x[e], dot);
                score[h * ROWS + u] = dot;
            }
        }
        share_sums<SCORES, LANES>(score, lane);
        if (part % COPIES == 0)
#pragma unroll
            for (int i = 0; i < HELD; ++i) {
                const int number = part / COPIES * HELD + i, h = number / ROWS, place = number % ROWS * GROUPS + sub;
                const float x = capped(score[i], squeeze);
                p_shared[warp][h * KEYS + place] = j0 + place < end ? x * factor : NEG_INFINITY;
            }
        __syncwarp();
#pragma unroll
        for (int r = 0; r < ROUNDS; ++r) {
            const int pair = r * 32 + lane;
            const bool real = pair < HEADS * KEYS;
            const float s = real ? p_shared[warp][pair] : NEG_INFINITY;
            float top = s;
#pragma unroll
            for (int offset = KEYS / 2; offset > 0; offset /= 2)
                top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, offset));
            top = fmaxf(top, max[r]);
            const float base = top == NEG_INFINITY ? 0.f : top;
            const float p = exp2_fast(s - base), shrink = exp2_fast(max[r] - base);
            max[r] = top;
            total[r] = fmaf(total[r], shrink, p);
            if (real) {
                p_shared[warp][pair] = p;
                if (pair % KEYS == 0) shrink_shared[warp][pair / KEYS] = shrink;
            }
        }
        __syncwarp();
#pragma unroll
        for (int h = 0; h < HEADS; ++h) {
            const float shrink = shrink_shared[warp][h];
#pragma unroll
            for (int e = 0; e < VALUES; ++e) sum[h][e] *= shrink;
        }
#pragma unroll
        for (int u = 0; u < ROWS; ++u) {
            float x[VALUES];
            widen(x, value[u], kind);
#pragma unroll
            for (int h = 0; h < HEADS; ++h) {
                const float p = p_shared[warp][h * KEYS + u * GROUPS + sub];
#pragma unroll
                for (int e = 0; e < VALUES; ++e) sum[h][e] = fmaf(p, x[e], sum[h][e]);
            }
        }
        __syncwarp();
    }

#pragma unroll
    for (int r = 0; r < ROUNDS; ++r) {
        const int pair = r * 32 + lane;
#pragma unroll
        for (int offset = KEYS / 2; offset > 0; offset /= 2) total[r] += __shfl_xor_sync(0xffffffffu, total[r], offset);
        if (pair < HEADS * KEYS && pair % KEYS == 0) {
            max_shared[warp][pair / KEYS] = max[r];
            total_shared[warp][pair / KEYS] = total[r];
        }
    }
#pragma unroll 1
    for (int turn = 0; turn < GROUPS; ++turn) {
        if (sub == turn)
#pragma unroll
            for (int h = 0; h < HEADS; ++h)
#pragma unroll
                for (int e = 0; e < VALUES; ++e) {
                    float* to = &sum_shared[warp][h][mine ? e < 4 ? low + e : high + e - 4 : part * VALUES + e];
                    *to = turn == 0 ? sum[h][e] : *to + sum[h][e];
                }
        __syncwarp();
    }
    __syncthreads();
#pragma unroll 1
    for (int at = threadIdx.x; at < heads * dim; at += WARPS * 32) {
        const int h = at / dim, d = at % dim;
        float top = NEG_INFINITY, all = 0.f, mean = 0.f;
        for (int w = 0; w < WARPS; ++w) top = fmaxf(top, max_shared[w][h]);
        const float base = top == NEG_INFINITY ? 0.f : top;
        for (int w = 0; w < WARPS; ++w) {
            const float weight = exp2_fast(max_shared[w][h] - base);
            all = fmaf(weight, total_shared[w][h], all);
            mean = fmaf(weight, sum_shared[w][h][d], mean);
        }
        const i64 out = split * batch * heads_q + first_head + h;
        sums[out * dim + d] = mean;
        if (d == 0) {
            stats[out * 2] = top;
            stats[out * 2 + 1] = all;
        }
    }
}

}  // namespace

// One block a query head: the splits' sums, weighted by 2^(their maximum - the maximum).
extern "C" __global__ void __launch_bounds__(128)
    combine(const float* __restrict__ sums, const float* __restrict__ stats, void* __restrict__ o,
            float* __restrict__ lse, int kind, i64 rows, i64 dim, i64 splits) {
    const i64 row = blockIdx.x;
    float top = NEG_INFINITY, all = 0.f;
    for (i64 s = 0; s < splits; ++s) top = fmaxf(top, stats[(s * rows + row) * 2]);
    const float base = top == NEG_INFINITY ? 0.f : top;
    for (i64 s = 0; s < splits; ++s)
        all = fmaf(exp2_fast(stats[(s * rows + row) * 2] - base), stats[(s * rows + row) * 2 + 1], all);
    for (i64 d = threadIdx.x; d < dim; d += blockDim.x) {
        float sum = 0.f;
        for (i64 s = 0; s < splits; ++s)
            sum = fmaf(exp2_fast(stats[(s * rows + row) * 2] - base), sums[(s * rows + row) * dim + d], sum);
        store_one(o, kind, row * dim + d, all == 0.f ? 0.f : sum / all);
    }
    if (threadIdx.x == 0) lse[row] = all == 0.f ? NEG_INFINITY : top * LN_2 + logf(all);
}

#define PARTIAL(DIM)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(128, 3) partial_d##DIM(                                              \
        const char* __restrict__ q, const char* __restrict__ k, const char* __restrict__ v,                           \
        const int* __restrict__ table, const int* __restrict__ lengths, float* __restrict__ sums,                     \
        float* __restrict__ stats, int kind, int dim, i64 batch, i64 seq_k, i64 heads_q, i64 heads_kv, i64 pages,     \
        int page_shift, i64 splits, float scale, float squeeze) {                                                     \
        partial<DIM>(q, k, v, {table, pages, seq_k, page_shift}, lengths, sums, stats, kind, dim, batch, heads_q,     \
                     heads_kv, splits, scale, squeeze);                                                               \
    }
PARTIAL(64)
PARTIAL(128)
