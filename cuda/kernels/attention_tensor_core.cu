// Idea: both products on tensor cores; scores and probabilities never leave the registers.
// Source: Dao 2023, section 3 (FlashAttention-2: work split over queries, probabilities reused as the next A operand).
// Shapes: see attention.cuh; head_dim a multiple of 8 up to 128, f16 or bf16.
// Plan: a block of 4 warps takes 128 queries of a head, a warp 32 of them (two 16-row blocks, so that every K and V
//   fragment read from shared memory serves two products). K and V tiles of 64 keys are double-buffered by cp.async:
//   the next tile is under way while this one is used. The last queries of a head come first, since with a causal
//   mask they take longest.
// Numerics: f32 sums; a soft cap by tanh_of; probabilities are rounded to the storage type for the second product,
//   their sum is not.
// Limits: mma.sync reaches about two thirds of Hopper's rate; a warp's softmax is hidden only by other warps.
// Twin: f16
#include "attention_mma.cuh"

namespace {

constexpr int QUERIES = 128, KEYS = 64, THREADS = 128;

struct Softmax {
    float max[2][2], total[2][2];  // of rows lane / 4 and lane / 4 + 8 of each 16-row block; totals of this lane
};

// s = Q K^T for a warp's 32 queries and the tile's keys.
template <typename T, int DIM>
__device__ __forceinline__ void score(float (&s)[2][KEYS / 8][4], u32 q_rows, u32 k_tile, int lane) {
    u32 by_row = starts_by_row<DIM>(lane), by_value = starts_by_value<DIM>(lane);
    asm volatile("" : "+r"(by_row), "+r"(by_value));  // or every address made of them would be kept in a register
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
            for (int e = 0; e < 4; ++e) s[m][n][e] = 0.f;
#pragma unroll
    for (int d = 0; d < DIM; d += 16) {
        u32 a[2][4];
        load_matrices(a[0], fragment<DIM>(q_rows, by_row, 0, d));
        load_matrices(a[1], fragment<DIM>(q_rows, by_row, 16, d));
#pragma unroll
        for (int n = 0; n < KEYS / 16; ++n) {
            u32 b[4];
            load_matrices(b, fragment<DIM>(k_tile, by_value, n * 16, d));
#pragma unroll
            for (int m = 0; m < 2; ++m) {
                mma<T>(s[m][2 * n], a[m], b[0], b[1]);
                mma<T>(s[m][2 * n + 1], a[m], b[2], b[3]);
            }
        }
    }
}

__device__ __forceinline__ void hide(float (&s)[2][KEYS / 8][4], int i, int j, int queries, int keys, int causal,
                                     int window) {
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const Keys keys_seen = visible(i + m * 16 + half * 8, queries, keys, causal, window);
#pragma unroll
            for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    const bool seen = (u32)(j + n * 8 + e - keys_seen.begin) < (u32)(keys_seen.end - keys_seen.begin);
                    if (!seen) s[m][n][half * 2 + e] = NEG_INFINITY;
                }
        }
}

// Turns scores into probabilities relative to the new maximum, and rescales what was summed before.
template <int DIM>
__device__ __forceinline__ void soften(float (&s)[2][KEYS / 8][4], float (&sum)[2][DIM / 8][4], Softmax& row,
                                       float factor) {
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float top = row.max[m][half];
#pragma unroll
            for (int n = 0; n < KEYS / 8; ++n) top = fmaxf(top, fmaxf(s[m][n][half * 2], s[m][n][half * 2 + 1]));
            top = quad_max(top);
            const float seen = top == NEG_INFINITY ? 0.f : top, base = seen * factor;
            // Exactly 1 while the maximum stays: fmaf(max, factor, -base) would leave the rounding of base behind,
            // once a tile, and the sums would drift in proportion to the number of keys.
            const float shrink = exp2_fast((row.max[m][half] - seen) * factor);
            row.max[m][half] = top;
            float total = row.total[m][half] * shrink;
#pragma unroll
            for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
                for (int e = half * 2; e < half * 2 + 2; ++e) {
                    s[m][n][e] = exp2_fast(fmaf(s[m][n][e], factor, -base));
                    total += s[m][n][e];
                }
            row.total[m][half] = total;
#pragma unroll
            for (int n = 0; n < DIM / 8; ++n) {
                sum[m][n][half * 2] *= shrink;
                sum[m][n][half * 2 + 1] *= shrink;
            }
        }
}

// sum += P V.
template <typename T, int DIM>
__device__ __forceinline__ void gather(float (&sum)[2][DIM / 8][4], const float (&p)[2][KEYS / 8][4], u32 v_tile,
                                       int lane) {
    u32 by_row = starts_by_row<DIM>(lane);
    asm volatile("" : "+r"(by_row));
#pragma unroll
    for (int k = 0; k < KEYS / 16; ++k) {
        u32 a[2][4];
#pragma unroll
        for (int m = 0; m < 2; ++m)
#pragma unroll
            for (int x = 0; x < 4; ++x) {
                const float* two = &p[m][2 * k + x / 2][x % 2 * 2];
                a[m][x] = Pair<T>::pack(two[0], two[1]);
            }
#pragma unroll
        for (int n = 0; n < DIM / 16; ++n) {
            u32 b[4];
            load_transposed(b, fragment<DIM>(v_tile, by_row, k * 16, n * 16));
#pragma unroll
            for (int m = 0; m < 2; ++m) {
                mma<T>(sum[m][2 * n], a[m], b[0], b[1]);
                mma<T>(sum[m][2 * n + 1], a[m], b[2], b[3]);
            }
        }
    }
}

// Divides by the totals and writes o, through the warp's own rows of the Q tile so that stores are 16 bytes wide.
template <typename T, int DIM>
__device__ __forceinline__ void finish(float (&sum)[2][DIM / 8][4], const Softmax& row, unsigned char* q_tile, T* head,
                                       i64 stride, float* lse, int i0, int warp_row, int queries, i64 seq_q, int dim,
                                       int lane, float factor) {
    __syncwarp();
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int r = warp_row + m * 16 + half * 8 + lane / 4, i = i0 + r;
            const float total = quad_sum(row.total[m][half]);
            const bool blind = i >= queries || total == 0.f;
            const float inverse = blind ? 0.f : 1.f / total;
#pragma unroll
            for (int n = 0; n < DIM / 8; ++n) {
                const u32 two = blind ? 0u : Pair<T>::pack(sum[m][n][half * 2] * inverse, sum[m][n][half * 2 + 1] * inverse);
                *(u32*)(q_tile + chunk_at<DIM>(r, n * 8) + lane % 4 * 4) = two;
            }
            if (lane % 4 == 0 && i < seq_q)
                lse[i] = blind ? NEG_INFINITY : row.max[m][half] * factor * LN_2 + logf(total);
        }
    __syncwarp();
    constexpr int CHUNKS = DIM / 8;
#pragma unroll
    for (int step = 0; step < CHUNKS; ++step) {
        const int at = step * 32 + lane, r = warp_row + at / CHUNKS, d = at % CHUNKS * 8;
        if (i0 + r < seq_q && d < dim)
            *(uint4*)(head + (i64)(i0 + r) * stride + d) = *(uint4*)(q_tile + chunk_at<DIM>(r, d));
    }
}

// The same, but what follows from it is computed anew instead of kept: the loop has no register to spare.
__device__ __forceinline__ u32 again(u32 x) {
    asm volatile("" : "+r"(x));
    return x;
}

struct Place {
    int b, h, i0;
};
__device__ __forceinline__ Place place_of(u32 block, int seq_q, int heads_q) {
    const u32 tiles = (seq_q + QUERIES - 1) / QUERIES, bh = block / tiles;
    return {(int)(bh / heads_q), (int)(bh % heads_q), (int)(tiles - 1 - block % tiles) * QUERIES};
}

template <typename T, int DIM>
__device__ __forceinline__ void attend(const T* q, const T* k, const T* v, const int* lengths_q, const int* lengths_k,
                                       T* o, float* lse, i64 seq_q, i64 seq_k, i64 heads_q, i64 heads_kv, int dim,
                                       int causal, i64 window, float scale, float squeeze) {
    extern __shared__ __align__(128) unsigned char shared[];
    constexpr u32 TILE = KEYS * DIM * 2;
    const u32 q_tile = (u32)__cvta_generic_to_shared(shared), k_tiles = q_tile + QUERIES * DIM * 2;
    const u32 v_tiles = k_tiles + 2 * TILE;
    const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 32;
    const Place place = place_of(blockIdx.x, (int)seq_q, (int)heads_q);
    const int b = place.b, h = place.h, i0 = place.i0;
    const int queries = lengths_q[b], keys = lengths_k[b], last = min(i0 + QUERIES, queries) - 1;
    const i64 q_head = (b * seq_q * heads_q + h) * dim, k_stride = heads_kv * dim;
    const T* k_head = k + (b * seq_k * heads_kv + h / ((int)heads_q / (int)heads_kv)) * dim;
    typedef Copier<DIM, THREADS> Copy;
    const Copy copy{(const char*)k_head, (u32)k_stride * 2, dim};
    const i64 v_from_k = (const char*)v - (const char*)k;
    const int first_key = last < i0 ? 0 : visible(i0, queries, keys, causal, (int)window).begin / KEYS * KEYS;
    const int end_key = last < i0 ? 0 : visible(last, queries, keys, causal, (int)window).end;
    const float factor = scale * LOG2_E;

    float sum[2][DIM / 8][4];
    Softmax row;
#pragma unroll
    for (int m = 0; m < 2; ++m) {
        row.max[m][0] = row.max[m][1] = NEG_INFINITY;
        row.total[m][0] = row.total[m][1] = 0.f;
#pragma unroll
        for (int n = 0; n < DIM / 8; ++n)
#pragma unroll
            for (int e = 0; e < 4; ++e) sum[m][n][e] = 0.f;
    }
    if (first_key < end_key) {
        Copy{(const char*)(q + q_head), (u32)heads_q * dim * 2, dim}.template copy<QUERIES>(0, q_tile, i0, (int)seq_q);
        copy.template copy<KEYS>(0, k_tiles, first_key, keys);
        copies_commit();
        copy.template copy<KEYS>(v_from_k, v_tiles, first_key, keys);
        copies_commit();
    }
    // Keys that every query of this warp sees need no mask.
    const int all_begin = visible(i0 + warp_row + 31, queries, keys, causal, (int)window).begin;
    const int all_end = visible(i0 + warp_row, queries, keys, causal, (int)window).end;
    u32 stage = 0;
#pragma unroll 1
    for (int j0 = first_key; j0 < end_key; j0 += KEYS, stage ^= 1) {
        // The other K buffer was last read before the barrier in the middle of the previous round, ...
        if (j0 + KEYS < end_key)
            copy.template copy<KEYS>(0, k_tiles + (stage ^ 1) * TILE, j0 + KEYS, keys);
        copies_commit();
        copies_wait<2>();
        __syncthreads();
        // ... the other V buffer before this one.
        if (j0 + KEYS < end_key)
            copy.template copy<KEYS>(v_from_k, v_tiles + (stage ^ 1) * TILE, j0 + KEYS, keys);
        copies_commit();
        float s[2][KEYS / 8][4];
        score<T, DIM>(s, q_tile + warp_row * DIM * 2, k_tiles + stage * TILE, lane);
        if (squeeze != 0.f)
#pragma unroll
            for (int m = 0; m < 2; ++m)
#pragma unroll
                for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
                    for (int e = 0; e < 4; ++e) s[m][n][e] = tanh_of(s[m][n][e], squeeze);
        if (j0 < all_begin || j0 + KEYS > all_end) {
            const u32 thread = again(threadIdx.x), row = thread / 32 * 32 + thread % 32 / 4;
            hide(s, i0 + row, j0 + thread % 4 * 2, queries, keys, causal, (int)window);
        }
        soften<DIM>(s, sum, row, factor);
        copies_wait<2>();
        __syncthreads();
        gather<T, DIM>(sum, s, v_tiles + stage * TILE, lane);
    }
    copies_wait<0>();
    const u32 thread = again(threadIdx.x);
    const Place at = place_of(again(blockIdx.x), (int)seq_q, (int)heads_q);
    finish<T, DIM>(sum, row, shared, o + (at.b * seq_q * heads_q + at.h) * dim, heads_q * dim,
                   lse + (at.b * heads_q + at.h) * seq_q, at.i0, thread / 32 * 32, lengths_q[at.b], seq_q, dim,
                   thread % 32, scale * LOG2_E);
}

}  // namespace

#define KERNEL(suffix, T, DIM)                                                                                        \
    extern "C" __global__ void __launch_bounds__(THREADS, 2)                                                          \
        forward_d##DIM##_##suffix(const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v,          \
                                  const int* __restrict__ lengths_q, const int* __restrict__ lengths_k,               \
                                  T* __restrict__ o, float* __restrict__ lse, i64 seq_q, i64 seq_k, i64 heads_q,      \
                                  i64 heads_kv, int dim, int causal, i64 window, float scale, float squeeze) {        \
        attend<T, DIM>(q, k, v, lengths_q, lengths_k, o, lse, seq_q, seq_k, heads_q, heads_kv, dim, causal, window,   \
                       scale, squeeze);                                                                               \
    }
KERNEL(bf16, __nv_bfloat16, 64)
KERNEL(bf16, __nv_bfloat16, 128)
