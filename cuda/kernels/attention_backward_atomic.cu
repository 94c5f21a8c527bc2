// Idea: one pass over pairs of a query and a key: scores and dP are computed once, where dK and dV are owned, and what a
//   block has of dQ is added to memory atomically. 5 products for 7, paid with bits that change from run to run.
// Source: Dao 2023, algorithm 2; Shah et al. 2024 (FlashAttention-3), section 3 and appendix B.1.
// Shapes: see attention.cuh; d_o, dq as q; dk, dv as k; delta: f32 scratch [batch, heads_q, seq_q]; sum: f32 scratch of
//   dQ, zeros at first, [batch, heads_q, tiles of 64 queries, groups of 8 values, 128 threads, 4], of 8 groups, or of 16
//   where head_dim is beyond 64; head_dim a multiple of 8 up to 128, f16 or bf16.
// Plan: a block of 3 warpgroups. Two own 64 keys each, whose K and V stay in shared memory, and walk together over tiles
//   of 64 queries of every head of the group, which warpgroup 0 fetches. S^T = K Q^T and dP^T = V dO^T leave P^T and dS^T
//   in the registers of the warpgroup, where they are the left operands of dV += P^T dO and dK += dS^T Q. dS^T goes to
//   shared memory too: read across, that of both warpgroups is the left operand of dQ = dS K, of which each has half of
//   the head's values and adds them to memory as they lie in its registers, 16 bytes a thread, while the tensor cores sum
//   dK. A second kernel puts dQ in order, scales and rounds it.
// Numerics: f32 sums, those of dQ over tiles of 128 keys in the order of arrival; a soft cap by tanh_of; probabilities and
//   score gradients are rounded to the storage type for the second products.
// Limits: dQ once more in f32, which is cleared, added to and read. The products of a head of 64 values are those of 128.
// Target: compute_90a
// Twin: f16
#define TILE_QUERIES 64
#include "attention_backward.cuh"

namespace {

// What lies where in shared memory, in bytes from its 1024-aligned start: the block's K and V, `STAGES` tiles of Q and dO,
// two of dS^T (as one is read the next is written), base and delta of queries, barriers. Enumerated, for what is constexpr
// becomes a variable of the PTX.
constexpr int STAGES = 3;
enum : u32 {
    TILE = QUERIES * DIM * 2,
    DS_TILE = OWN * QUERIES * 2,
    FIRST = 0,
    SECOND = OWN_TILE,
    PAIRS = 2 * OWN_TILE,
    DS = PAIRS + STAGES * 2 * TILE,
    STATS = DS + 2 * DS_TILE,
    FULL = STATS + STAGES * QUERIES * 8,
    FREE = FULL + 8 * STAGES,
    OWN_FULL = FREE + 8 * STAGES,
};
constexpr int SUM_GROUP = 128 * 4;  // f32 values
// Of a tile of dQ; heads of up to 64 values leave the second warpgroup's half out.
__device__ __forceinline__ int sum_tile(int dim) { return (dim > 64 ? DIM : 64) * QUERIES; }

// c = (add ? c : 0) + A B of 64 rows, 64 columns and K = 16, both in shared memory, A with its rows contiguous, B with its
// columns.
__device__ __forceinline__ void product_across(float (&c)[32], u64 a, u64 b, int add) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
                 "{" PLACES_0_31 "}, %32, %33, p, 1, 1, 1, 1;\n}"
                 : REGISTERS_32(0)
                 : "l"(a), "l"(b), "r"(add));
}

// Where a descriptor's tile begins, `bytes` further.
__device__ __forceinline__ u64 further(u64 descriptor, u32 bytes) { return descriptor + (bytes >> 4); }

// Starts s = A B^T over the values of a head: 64 rows of an own tile by a tile of queries.
__device__ __forceinline__ void begin_scores(float (&s)[QUERIES / 2], u64 own_rows, u64 queries) {
#pragma unroll
    for (int d = 0; d < DIM; d += 16)
        product<QUERIES>(s, further(own_rows, d / 64 * (OWN * ROW) + d % 64 * 2),
                         further(queries, d / 64 * (QUERIES * ROW) + d % 64 * 2), d > 0);
    product_commit();
}

// Probabilities, rounded off in p and times the slope of a soft cap in s, where the scores were.
template <bool CAPPED>
__device__ __forceinline__ void soften(float (&s)[QUERIES / 2], u32 (&p)[QUERIES / 16][4], float factor, u32 bases) {
#pragma unroll
    for (int c = 0; c < QUERIES / 8; ++c) {
        float base[2];
        load_two(base, bases + c * 32);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float two[2];
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                float& x = s[c * 4 + half * 2 + e];
                two[e] = exp2_fast(fmaf(x, factor, -base[e]));
                x = CAPPED ? two[e] * slope_where(x) : two[e];
            }
            p[c / 2][c % 2 * 2 + half] = Pair<T>::pack(two[0], two[1]);
        }
    }
}

// Puts the k-th 16 columns of a warp's 16 rows, as they lie in its accumulators (chunks of 16 bytes, swizzled by row).
__device__ __forceinline__ void put_columns(u32 rows, int k, const u32 (&two)[4], int lane) {
    const u32 to = rows + lane % 16 * ROW + (lane / 16 ^ lane % 8) * 16;
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};"
                 ::"r"((to ^ k % 4 * 32) + k / 4 * (OWN * ROW)), "r"(two[0]), "r"(two[1]), "r"(two[2]), "r"(two[3])
                 : "memory");
}

// Score gradients s (dp - delta), rounded off, and put to a warp's 16 rows of a tile too.
__device__ __forceinline__ void put_gradients(u32 (&ds)[QUERIES / 16][4], const float (&s)[QUERIES / 2],
                                              const float (&dp)[QUERIES / 2], u32 deltas, u32 rows, int lane) {
#pragma unroll
    for (int k = 0; k < QUERIES / 16; ++k) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
            float delta[2];
            load_two(delta, deltas + (k * 2 + c) * 32);
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int x = (k * 2 + c) * 4 + half * 2;
                ds[k][c * 2 + half] = Pair<T>::pack(s[x] * (dp[x] - delta[0]), s[x + 1] * (dp[x + 1] - delta[1]));
            }
        }
        put_columns(rows, k, ds[k], lane);
    }
}

// Sums of a warp's 16 rows, rounded off to shared memory that is its own by now.
__device__ __forceinline__ void put_sums(const float (&sum)[DIM / 2], float factor, u32 rows, int lane) {
#pragma unroll
    for (int k = 0; k < DIM / 16; ++k) {
        u32 two[4];
#pragma unroll
        for (int x = 0; x < 4; ++x) two[x] = Pair<T>::pack(sum[k * 8 + x * 2] * factor, sum[k * 8 + x * 2 + 1] * factor);
        put_columns(rows, k, two, lane);
    }
}

// Which keys of which head a block owns: those of a head at the same time, for which its queries and dQ stay in the L2
// cache, and those that most queries see first.
__device__ __forceinline__ Place place_in_turn(const Sizes& n) {
    const u32 tiles = (n.seq_k + OWN - 1) / OWN, bh = blockIdx.x / tiles;
    return {(int)(bh / n.heads_kv), (int)(bh % n.heads_kv), (int)(blockIdx.x % tiles) * OWN};
}

// Adds a thread's part of a tile of dQ.
__device__ __forceinline__ void add_up(float* to, const float (&sum)[DIM / 4]) {
#pragma unroll
    for (int c = 0; c < DIM / 16; ++c)
        asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(to + c * SUM_GROUP), "f"(sum[c * 4]),
                     "f"(sum[c * 4 + 1]), "f"(sum[c * 4 + 2]), "f"(sum[c * 4 + 3])
                     : "memory");
}

}  // namespace

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    pairs_bf16(const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v,
               const __grid_constant__ TensorMap d_o, const float* __restrict__ lse, const float* __restrict__ delta,
               float* __restrict__ sum, T* __restrict__ dk, T* __restrict__ dv, int batch, int seq_q, int seq_k, int heads_q,
               int heads_kv, int dim, int causal, int window, float scale, float squeeze, float slope) {
    const Sizes n = {batch, seq_q, seq_k, heads_q, heads_kv, dim, causal, window, scale, squeeze, slope};
    const u32 shared = begin_block<STAGES, FULL, FREE, OWN_FULL>();
    const Place place = place_in_turn(n);
    const Keys tiles = query_tiles(n, place.j0);
    if (threadIdx.x < 128) {
        registers_down<24>();
        fetch_own<OWN, OWN_FULL>(shared, &k, &v, place.head, place.j0, place.b);
        fetch_queries<STAGES, PAIRS, STATS, FULL, FREE>(n, place, tiles, shared, &q, &d_o, lse, delta);
        return;
    }
    registers_up<240>();
    const int own = threadIdx.x / 128 - 1, lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 % 4 * 16;
    const int j = place.j0 + own * 64 + warp_row, group = heads_q / heads_kv, turns = (tiles.end - tiles.begin) * group;
    const float factor = scale * LOG2_E;
    // Queries that see every key of this warp; none where it has rows behind the last key, which must count as unseen.
    const int all_begin = n.seeing(min(j + 15, seq_k - 1)).begin, all_end = j + 15 < seq_k ? n.seeing(j).end : 0;
    float dk_sum[DIM / 2], dv_sum[DIM / 2], s[QUERIES / 2], dp[QUERIES / 2], dq[DIM / 4];
    u32 p[QUERIES / 16][4], ds[QUERIES / 16][4];
    const u64 k_rows = tile_descriptor(shared + FIRST + own * 64 * ROW, 16);
    const u64 v_rows = tile_descriptor(shared + SECOND + own * 64 * ROW, 16);
    const u64 k_across = tile_descriptor(shared + FIRST + own * (OWN * ROW), 16);
    int tile = tiles.begin;
    const int tiles_of_head = (seq_q + QUERIES - 1) / QUERIES, step = sum_tile(dim);
    float* to = sum + (((i64)place.b * heads_q + place.head * group) * tiles_of_head + tile) * step +
                own * (DIM / 2 * QUERIES) + threadIdx.x % 128 * 4;
    const auto pair_at = [&](u32 turn) { return shared + PAIRS + turn % STAGES * 2 * TILE; };
    // This thread's columns of base (0) or delta (1) of a turn's queries.
    const auto stats_at = [&](u32 turn, int which) {
        return shared + STATS + ((turn % STAGES * 2 + which) * QUERIES + lane % 4 * 2) * 4;
    };
    const auto wait_for = [&](u32 turn) { barrier_wait(shared + FULL + 8 * (turn % STAGES), turn / STAGES & 1); };
    const auto begin = [&](u32 turn) {
        product_begin();
        begin_scores(s, k_rows, tile_descriptor(pair_at(turn), 16));
        begin_scores(dp, v_rows, tile_descriptor(pair_at(turn) + TILE, 16));
    };
    const auto probabilities = [&](u32 turn) {
        squeeze_all(s, squeeze);
        const int i0 = tile * QUERIES;
        if (i0 < all_begin || i0 + QUERIES > all_end)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                // As n.seeing(key), in arithmetic, for branches would double what they lead to.
                const int key = j + half * 8 + lane / 4, here = i0 + lane % 4 * 2;
                const int first = causal * (key - (seq_k - seq_q));
                hide<QUERIES>(s, half, first - here, (key < seq_k ? min(seq_q, first + window) : 0) - here);
            }
        if (squeeze != 0.f)
            soften<true>(s, p, factor, stats_at(turn, 0));
        else
            soften<false>(s, p, factor, stats_at(turn, 0));
    };
    // Starts sum += A B, A in registers, B a tile of queries.
    const auto begin_sum = [](float (&sum)[DIM / 2], const u32 (&a)[QUERIES / 16][4], u32 queries) {
#pragma unroll
        for (int at = 0; at < QUERIES; at += 16)
            product<DIM>(sum, a[at / 16], further(tile_descriptor(queries, QUERIES * ROW), at * ROW));
        product_commit();
    };
    // Starts what a turn's score gradients, which both warpgroups have put, are to dQ.
    const auto begin_dq = [&](u32 turn) {
        const u64 across = tile_descriptor(shared + DS + turn % 2 * DS_TILE, 16);
#pragma unroll
        for (int at = 0; at < OWN; at += 16)
            product_across(dq, further(across, at * ROW), further(k_across, at * ROW), at > 0);
        product_commit();
    };
#pragma unroll
    for (int x = 0; x < DIM / 2; ++x) dk_sum[x] = dv_sum[x] = 0.f;
    if (turns > 0) barrier_wait(shared + OWN_FULL, 0), wait_for(0);
#pragma unroll 1
    for (int turn = 0; turn < turns; ++turn) {
        begin(turn);
        product_wait<1>();
        product_done(s);
        probabilities(turn);
        product_wait<0>();
        product_done(dp);
        product_begin();
        begin_sum(dv_sum, p, pair_at(turn) + TILE);
        put_gradients(ds, s, dp, stats_at(turn, 1), shared + DS + turn % 2 * DS_TILE + (own * 64 + warp_row) * ROW, lane);
        order_for_engines();
        named_sync(3, THREADS - 128);
        product_begin();
        begin_dq(turn);
        begin_sum(dk_sum, ds, pair_at(turn));
        product_wait<1>();
        product_done(dv_sum);
        product_done(dq);
        if (own * 64 < dim) add_up(to, dq);
        if (turn + 1 < turns) wait_for(turn + 1);
        product_wait<0>();
        product_done(dk_sum);
        // Every lane for itself has read that turn's statistics: of one that speaks for its warp, racecheck cannot tell.
        barrier_arrive(shared + FREE + 8 * (turn % STAGES));
        to += step;
        if (++tile == tiles.end) to += (i64)(tiles_of_head - (tile - tiles.begin)) * step, tile = tiles.begin;
    }
    named_sync(3, THREADS - 128);  // both warpgroups have read K
    const i64 stride = (i64)heads_kv * dim, row = ((i64)place.b * seq_k + j) * stride + (i64)place.head * dim;
    const u32 own_rows = shared + (own * 64 + warp_row) * ROW;
    put_sums(dk_sum, slope, own_rows + FIRST, lane);
    put_sums(dv_sum, 1.f, own_rows + SECOND, lane);
    __syncwarp();
#pragma unroll 1
    for (int at = lane; at < 2 * 16 * (DIM / 8); at += 32) {
        const int c = at % (DIM / 8), r = at / (DIM / 8) % 16, which = at / (16 * (DIM / 8));
        uint4 x;
        asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                     : "r"(own_rows + which * (SECOND - FIRST) + c / 8 * (OWN * ROW) + r * ROW + (c % 8 ^ r % 8) * 16)
                     : "memory");
        if (r < seq_k - j && c * 8 < dim) *(uint4*)((which ? dv : dk) + row + r * stride + c * 8) = x;
    }
}

// A block a tile of queries of a head: a thread has 8 values of two rows, 8 apart, which lie together in `sum`.
extern "C" __global__ void __launch_bounds__(256)
    dq_bf16(const float4* __restrict__ sum, T* __restrict__ dq, int seq_q, int heads_q, int dim, float slope) {
    const int tiles = (seq_q + QUERIES - 1) / QUERIES, bh = blockIdx.x / tiles, i0 = blockIdx.x % tiles * QUERIES;
#pragma unroll 1
    for (int at = threadIdx.x; at < QUERIES / 2 * (DIM / 8); at += 256) {
        const int c = at % (DIM / 8), pair = at / (DIM / 8), i = i0 + pair / 8 * 16 + pair % 8;
        if (c * 8 >= dim) continue;
        u32 rows[2][4];
#pragma unroll
        for (int x = 0; x < 4; ++x) {
            const float4 two = sum[(i64)blockIdx.x * (sum_tile(dim) / 4) + c * (SUM_GROUP / 4) + pair * 4 + x];
            rows[0][x] = Pair<T>::pack(two.x * slope, two.y * slope);
            rows[1][x] = Pair<T>::pack(two.z * slope, two.w * slope);
        }
#pragma unroll
        for (int half = 0; half < 2; ++half)
            if (i + half * 8 < seq_q)
                *(uint4*)(dq + (((i64)(bh / heads_q) * seq_q + i + half * 8) * heads_q + bh % heads_q) * dim + c * 8) =
                    make_uint4(rows[half][0], rows[half][1], rows[half][2], rows[half][3]);
    }
}
