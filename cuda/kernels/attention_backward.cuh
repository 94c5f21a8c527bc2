// What the backward kernels on warpgroup products share: a block of two computing warpgroups owns 128 rows of a head, each
// of them 64, and walks over tiles of the other side, which warpgroup 0 fetches.
#pragma once
#include "attention.cuh"
#include "hopper.cuh"

// What a kernel file may define before: values of a head and rows of an owner's tiles, queries and keys of a tile that is
// walked over.
#ifndef TILE_DIM
#define TILE_DIM 128
#endif
#ifndef TILE_OWN
#define TILE_OWN 128
#endif
#ifndef TILE_QUERIES
#define TILE_QUERIES 48
#endif
#ifndef TILE_KEYS
#define TILE_KEYS 64
#endif

namespace {

typedef __nv_bfloat16 T;
constexpr int DIM = TILE_DIM, OWN = TILE_OWN, THREADS = 384;
constexpr int QUERIES = TILE_QUERIES, KEYS = TILE_KEYS;  // of a tile that a block walks over
constexpr u32 ROW = 128;  // bytes of a tile's row: 64 values; a head is several tiles side by side
constexpr u32 OWN_TILE = OWN * DIM * 2;

struct Sizes {
    int batch, seq_q, seq_k, heads_q, heads_kv, dim, causal, window;
    float scale, squeeze, slope;  // slope: of a score by q·k, where it is not squeezed

    __device__ __forceinline__ Keys seen_by(int i) const { return visible(i, seq_q, seq_k, causal, window); }
    // Queries that see key j, should they exist: i sees j < i + shift + 1 and no key before the window.
    __device__ __forceinline__ Keys seeing(int j) const {
        if (!causal) return {0, seq_q};
        const int first = j - (seq_k - seq_q);
        return {first, min(seq_q, first + window)};
    }
};

template <int ROWS>
__device__ __forceinline__ void copy_tile(u32 to, const TensorMap* map, u32 full, int h, int row, int b) {
#pragma unroll
    for (int d = 0; d < DIM; d += 64) copy_box(to + d / 64 * (ROWS * ROW), map, full, d, h, row, b);
}

// Accumulators of 16 columns are the A operand of 16 values of K, element for element.
template <int OTHER> __device__ __forceinline__ void round_off(u32 (&a)[OTHER / 16][4], const float (&s)[OTHER / 2]) {
#pragma unroll
    for (int k = 0; k < OTHER / 16; ++k)
#pragma unroll
        for (int x = 0; x < 4; ++x) a[k][x] = Pair<T>::pack(s[k * 8 + x * 2], s[k * 8 + x * 2 + 1]);
}

__device__ __forceinline__ void load_two(float (&x)[2], u32 from) {
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(x[0]), "=f"(x[1]) : "r"(from) : "memory");
}

// Hides columns outside begin .. end. A thread has columns lane % 4 * 2 (+1) of every 8, of rows lane / 4 and lane / 4 +
// 8 of its warp's 16; both ends count from the thread's first column.
template <int OTHER> __device__ __forceinline__ void hide(float (&s)[OTHER / 2], int half, int begin, int end) {
#pragma unroll
    for (int c = 0; c < OTHER / 8; ++c)
#pragma unroll
        for (int e = 0; e < 2; ++e)
            if ((u32)(c * 8 + e - begin) >= (u32)max(end - begin, 0)) s[c * 4 + half * 2 + e] = NEG_INFINITY;
}

// Writes sums of a warp's 16 rows through shared memory that is its own by now (chunks of 16 bytes, swizzled by row), where
// a tile has ROWS.
template <int ROWS = OWN>
__device__ __forceinline__ void put_rows(const float (&sum)[DIM / 2], float factor, u32 rows, T* first_row, i64 stride,
                                         int count, int dim, int lane) {
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int c = 0; c < DIM / 8; ++c) {
            const int r = half * 8 + lane / 4;
            const u32 two = Pair<T>::pack(sum[c * 4 + half * 2] * factor, sum[c * 4 + half * 2 + 1] * factor);
            const u32 to = rows + c / 8 * (ROWS * ROW) + r * ROW + (c % 8 ^ r % 8) * 16 + lane % 4 * 4;
            asm volatile("st.shared.b32 [%0], %1;" ::"r"(to), "r"(two) : "memory");
        }
    __syncwarp();
#pragma unroll
    for (int step = 0; step < DIM / 16; ++step) {
        const int at = step * 32 + lane, r = at / (DIM / 8), c = at % (DIM / 8);
        uint4 x;
        asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                     : "r"(rows + c / 8 * (ROWS * ROW) + r * ROW + (c % 8 ^ r % 8) * 16)
                     : "memory");
        if (r < count && c * 8 < dim) *(uint4*)(first_row + r * stride + c * 8) = x;
    }
}

// Where shared memory begins, with its barriers ready; at WARPS, where it is not 0, eight at which a warp arrives.
template <int STAGES, u32 FULL, u32 FREE, u32 OWN_FULL, u32 WARPS = 0>
__device__ __forceinline__ u32 begin_block() {
    extern __shared__ unsigned char memory[];
    const u32 shared = ((u32)__cvta_generic_to_shared(memory) + 1023) / 1024 * 1024;
    if (threadIdx.x == 0) {
        barrier_init(shared + OWN_FULL, 1);
        for (int stage = 0; stage < STAGES; ++stage) {
            barrier_init(shared + FULL + 8 * stage, 33);
            barrier_init(shared + FREE + 8 * stage, THREADS - 128);
        }
        if constexpr (WARPS > 0)
            for (int warp = 0; warp < 8; ++warp) barrier_init(shared + WARPS + 8 * warp, 32);
        barrier_init_done();
    }
    __syncthreads();
    return shared;
}

// Which keys of which head a block owns: those that most queries see first.
struct Place {
    int b, head, j0;
};
__device__ __forceinline__ Place key_place(const Sizes& n) {
    const u32 heads = n.batch * n.heads_kv, bh = blockIdx.x % heads;
    return {(int)(bh / n.heads_kv), (int)(bh % n.heads_kv), (int)(blockIdx.x / heads) * OWN};
}

// Tiles of queries, of one head, that see any of the block's keys.
__device__ __forceinline__ Keys query_tiles(const Sizes& n, int j0) {
    const int begin = max(0, n.seeing(j0).begin), end = min(n.seq_q, n.seeing(min(j0 + OWN, n.seq_k) - 1).end);
    return {begin / QUERIES, begin < end ? (end + QUERIES - 1) / QUERIES : begin / QUERIES};
}

// One thread brings in the block's own two tiles of ROWS rows, which lie at the beginning and side by side.
template <int ROWS, u32 OWN_FULL>
__device__ __forceinline__ void fetch_own(u32 shared, const TensorMap* first, const TensorMap* second, int h, int row, int b) {
    constexpr u32 TILE = ROWS * DIM * 2;
    if (threadIdx.x != 0) return;
    barrier_expect(shared + OWN_FULL, 2 * TILE);
    copy_tile<ROWS>(shared, first, shared + OWN_FULL, h, row, b);
    copy_tile<ROWS>(shared + TILE, second, shared + OWN_FULL, h, row, b);
}

// One warp brings in the tiles of keys, `turns` of them, that a block walks over.
template <int STAGES, u32 PAIRS, u32 FULL, u32 FREE>
__device__ __forceinline__ void fetch_keys(int first, int turns, u32 shared, const TensorMap* k, const TensorMap* v, int head,
                                           int b) {
    constexpr u32 TILE = KEYS * DIM * 2;
    for (int turn = 0; turn < turns; ++turn) {
        const u32 stage = turn % STAGES, full = shared + FULL + 8 * stage, to = shared + PAIRS + stage * 2 * TILE;
        barrier_wait(shared + FREE + 8 * stage, (turn / STAGES & 1) ^ 1);
        if (threadIdx.x == 0) {
            barrier_expect(full, 2 * TILE);
            copy_tile<KEYS>(to, k, full, head, (first + turn) * KEYS, b);
            copy_tile<KEYS>(to + TILE, v, full, head, (first + turn) * KEYS, b);
        }
        barrier_arrive(full);
    }
}

// Two warps bring in the tiles of queries that a block walks over, of every head of the group: one thread q and d_o, one
// warp base and delta.
template <int STAGES, u32 PAIRS, u32 STATS, u32 FULL, u32 FREE>
__device__ __forceinline__ void fetch_queries(const Sizes& n, Place place, Keys tiles, u32 shared, const TensorMap* q,
                                              const TensorMap* d_o, const float* lse, const float* delta) {
    constexpr u32 TILE = QUERIES * DIM * 2;
    const int group = n.heads_q / n.heads_kv, lane = threadIdx.x % 32;
    u32 turn = 0;
    if (threadIdx.x < 64)
        for (int h = place.head * group; h < (place.head + 1) * group; ++h)
            for (int tile = tiles.begin; tile < tiles.end; ++tile, ++turn) {
                const u32 stage = turn % STAGES, full = shared + FULL + 8 * stage;
                barrier_wait(shared + FREE + 8 * stage, (turn / STAGES & 1) ^ 1);
                if (threadIdx.x == 0) {
                    const u32 to = shared + PAIRS + stage * 2 * TILE;
                    barrier_expect(full, 2 * TILE);
                    copy_tile<QUERIES>(to, q, full, h, tile * QUERIES, place.b);
                    copy_tile<QUERIES>(to + TILE, d_o, full, h, tile * QUERIES, place.b);
                } else if (threadIdx.x >= 32) {
                    const i64 row = ((i64)place.b * n.heads_q + h) * n.seq_q;
#pragma unroll 1
                    for (int at = lane; at < QUERIES; at += 32) {
                        const int i = tile * QUERIES + at;
                        // Behind the last query, and where a query sees no key, 2^(s - base) must be zero.
                        float base = __int_as_float(0x7f800000), row_delta = 0.f;
                        if (i < n.seq_q) base = lse[row + i] * LOG2_E, row_delta = delta[row + i];
                        if (base == NEG_INFINITY) base = -base;
                        const u32 to = shared + STATS + (stage * 2 * QUERIES + at) * 4;
                        asm volatile("st.shared.f32 [%0], %1;" ::"r"(to), "f"(base) : "memory");
                        asm volatile("st.shared.f32 [%0], %1;" ::"r"(to + QUERIES * 4), "f"(row_delta) : "memory");
                    }
                    barrier_arrive(full);
                }
            }
}

// What a warp's rows `i` + lane / 4 and 8 further of queries need of themselves: base of the probabilities, delta, and the
// keys that are seen. Rows behind the last query repeat it; they are not stored.
struct Rows {
    float base[2], delta[2];
    Keys seen[2];

    __device__ __forceinline__ Rows(const Sizes& n, i64 bh, int i, int lane, const float* lse, const float* deltas) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int at = min(i + half * 8 + lane / 4, n.seq_q - 1);
            const i64 row = bh * n.seq_q + at;
            base[half] = lse[row] * LOG2_E, delta[half] = deltas[row];
            if (base[half] == NEG_INFINITY) base[half] = -base[half];
            seen[half] = n.seen_by(at);
        }
    }
};

// Starts s = A B^T over the values of a head: 64 rows of an own tile of ROWS by a tile of OTHER.
template <int OTHER, int ROWS = OWN>
__device__ __forceinline__ void begin_scores(float (&s)[OTHER / 2], u32 own_rows, u32 other) {
#pragma unroll
    for (int d = 0; d < DIM; d += 16) {
        const u64 a = tile_descriptor(own_rows + d / 64 * (ROWS * ROW) + d % 64 * 2, 16);
        product<OTHER>(s, a, tile_descriptor(other + d / 64 * (OTHER * ROW) + d % 64 * 2, 16), d > 0);
    }
    product_commit();
}

// Starts sum = (add ? sum : 0) + A B, A in registers, B a tile of OTHER.
template <int OTHER>
__device__ __forceinline__ void begin_gather(float (&sum)[DIM / 2], const u32 (&a)[OTHER / 16][4], u32 other,
                                             bool add) {
#pragma unroll
    for (int k = 0; k < OTHER / 16; ++k) product<DIM>(sum, a[k], tile_descriptor(other + k * 16 * ROW, OTHER * ROW), k > 0 || add);
}

// A soft cap on a tile of scores, where there is one, and its slopes.
template <int N> __device__ __forceinline__ void squeeze_tile(float (&s)[N], float (&slopes)[N], float squeeze) {
    if (squeeze == 0.f) return;
#pragma unroll
    for (int x = 0; x < N; ++x) {
        s[x] = tanh_of(s[x], squeeze);
        slopes[x] = fmaf(-s[x], s[x], 1.f);
    }
}
// The same without slopes: 8 are written out and come round, for all written out are a seventh of the PTX.
template <int N> __device__ __forceinline__ void squeeze_all(float (&s)[N], float squeeze) {
    if (squeeze == 0.f) return;
#pragma unroll 1
    for (int round = 0; round < N / 8; ++round) {
        float squeezed[8];
#pragma unroll
        for (int x = 0; x < 8; ++x) squeezed[x] = tanh_of(s[x], squeeze);
#pragma unroll
        for (int x = 0; x < N; ++x) s[x] = x < N - 8 ? s[x + 8] : squeezed[x - (N - 8)];
    }
}
// The slope where a squeezed score stands. What is hidden stands as -inf: a slope of 0 will do for it.
__device__ __forceinline__ float slope_where(float s) { return fmaxf(fmaf(-s, s, 1.f), 0.f); }
template <int N> __device__ __forceinline__ void multiply(float (&ds)[N], const float (&slopes)[N], float squeeze) {
    if (squeeze == 0.f) return;
#pragma unroll
    for (int x = 0; x < N; ++x) ds[x] *= slopes[x];
}

}  // namespace
