// Idea: both passes of the backward on Hopper's warpgroup products, probabilities and score gradients never leaving
//   the registers: they are computed on the side whose gradients a warpgroup owns.
// Source: Dao 2023, algorithm 2; Shah et al. 2024 (FlashAttention-3), section 3 and appendix B.1; the sum over keys for
//   dQ in a kernel of its own, so that nothing is added atomically.
// Shapes: see attention.cuh; d_o, dq as q; dk, dv as k; delta: f32 scratch [batch, heads_q, seq_q]; head_dim a
//   multiple of 8 up to 128, f16 or bf16.
// Plan: a block of 3 warpgroups. In dk_dv, two own 64 keys each, whose K and V stay in shared memory, and the block walks
//   over tiles of 48 queries of every head of the group: S^T = K Q^T and dP^T = V dO^T leave P^T and dS^T in the registers
//   of the warpgroup, where they are the left operands of dV += P^T dO and dK += dS^T Q. In dq, two own 64 queries each
//   and walk over tiles of 64 keys likewise. Warpgroup 0 fetches: one thread by tensor copies, one warp the statistics of
//   the queries. The products of a tile's scores are issued behind those that sum the tile before, so that the tensor
//   cores have work while exponentials are computed.
// Numerics: f32 sums; a soft cap by tanh_of; probabilities and score gradients are rounded to the storage type for the
//   second products.
// Limits: scores and dP are computed twice, once in each kernel: 7 products where 5 would do.
// Target: compute_90a
// Twin: f16
#define TILE_QUERIES 48  // dk_dv has no registers for more
#include "attention_backward.cuh"

namespace {

// What lies where in shared memory, in bytes from its 1024-aligned start: the block's own two tiles, `STAGES` pairs of
// tiles it walks over, with base and delta of their queries where these are queries, and barriers.
constexpr int STAGES = 3;
constexpr u32 FIRST = 0, SECOND = OWN_TILE, PAIRS = 2 * OWN_TILE, STATS = PAIRS + STAGES * 2 * KEYS * DIM * 2;
constexpr u32 FULL = STATS + STAGES * QUERIES * 8, FREE = FULL + 8 * STAGES, OWN_FULL = FREE + 8 * STAGES;

}  // namespace

// ---- dK and dV

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    dk_dv_bf16(const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v,
               const __grid_constant__ TensorMap d_o, const float* __restrict__ lse, const float* __restrict__ delta,
               T* __restrict__ dk, T* __restrict__ dv, int batch, int seq_q, int seq_k, int heads_q, int heads_kv, int dim,
               int causal, int window, float scale, float squeeze, float slope) {
    constexpr u32 TILE = QUERIES * DIM * 2;
    const Sizes n = {batch, seq_q, seq_k, heads_q, heads_kv, dim, causal, window, scale, squeeze, slope};
    const u32 shared = begin_block<STAGES, FULL, FREE, OWN_FULL>();
    const Place place = key_place(n);
    const Keys tiles = query_tiles(n, place.j0);
    const int group = heads_q / heads_kv, lane = threadIdx.x % 32;
    if (threadIdx.x < 128) {
        registers_down<24>();
        fetch_own<OWN, OWN_FULL>(shared, &k, &v, place.head, place.j0, place.b);
        fetch_queries<STAGES, PAIRS, STATS, FULL, FREE>(n, place, tiles, shared, &q, &d_o, lse, delta);
        return;
    }
    registers_up<240>();
    const int own = threadIdx.x / 128 - 1, warp_row = own * 64 + threadIdx.x / 32 % 4 * 16, j = place.j0 + warp_row;
    const u32 k_rows = shared + FIRST + own * 64 * ROW, v_rows = shared + SECOND + own * 64 * ROW;
    const float factor = scale * LOG2_E;
    float dk_sum[DIM / 2], dv_sum[DIM / 2], s[QUERIES / 2], dp[QUERIES / 2], slopes[QUERIES / 2];
    u32 p[QUERIES / 16][4], ds[QUERIES / 16][4];
    const int turns = (tiles.end - tiles.begin) * group;
    // Queries that see every key of this warp.
    const int all_begin = n.seeing(min(j + 15, seq_k - 1)).begin, all_end = n.seeing(j).end;
    const auto pair_at = [&](u32 turn) { return shared + PAIRS + turn % STAGES * 2 * TILE; };
    const auto begin = [&](u32 turn) {
        barrier_wait(shared + FULL + 8 * (turn % STAGES), turn / STAGES & 1);
        product_begin();
        begin_scores<QUERIES>(s, k_rows, pair_at(turn));
        begin_scores<QUERIES>(dp, v_rows, pair_at(turn) + TILE);
    };
    int tile = tiles.begin;
    // This thread's columns of base (0) or delta (1) of a turn's queries.
    const auto stats_at = [&](u32 turn, int which) {
        return shared + STATS + ((turn % STAGES * 2 + which) * QUERIES + lane % 4 * 2) * 4;
    };
    // Probabilities of a turn, in place of its scores, and the slopes of a soft cap.
    const auto soften = [&](u32 turn) {
        squeeze_tile(s, slopes, squeeze);
        const int i0 = tile * QUERIES;
        if (++tile == tiles.end) tile = tiles.begin;
        if (causal && (i0 < all_begin || i0 + QUERIES > all_end))
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const Keys seeing = n.seeing(j + half * 8 + lane / 4);
                hide<QUERIES>(s, half, seeing.begin - i0 - lane % 4 * 2, seeing.end - i0 - lane % 4 * 2);
            }
        const u32 from = stats_at(turn, 0);
#pragma unroll
        for (int c = 0; c < QUERIES / 8; ++c) {
            float base[2];
            load_two(base, from + c * 32);
#pragma unroll
            for (int e = 0; e < 4; ++e) s[c * 4 + e] = exp2_fast(fmaf(s[c * 4 + e], factor, -base[e % 2]));
        }
    };
    // The sum of dV takes a turn's probabilities while score gradients are made of them.
    const auto differ = [&](u32 turn) {
        round_off<QUERIES>(p, s);
        product_begin();
        begin_gather<QUERIES>(dv_sum, p, pair_at(turn) + TILE, turn > 0);
        product_commit();
        const u32 from = stats_at(turn, 1);
#pragma unroll
        for (int c = 0; c < QUERIES / 8; ++c) {
            float row_delta[2];
            load_two(row_delta, from + c * 32);
#pragma unroll
            for (int e = 0; e < 4; ++e) dp[c * 4 + e] = s[c * 4 + e] * (dp[c * 4 + e] - row_delta[e % 2]);
        }
        multiply(dp, slopes, squeeze);
        round_off<QUERIES>(ds, dp);
        product_wait<0>();
        product_done(dv_sum);
    };
    const auto sum_up = [&](u32 turn) {
        begin_gather<QUERIES>(dk_sum, ds, pair_at(turn), turn > 0);
        product_commit();
    };
    if (turns > 0) {
        barrier_wait(shared + OWN_FULL, 0);
        begin(0);
        product_wait<0>();
        product_done(s);
        product_done(dp);
        soften(0);
        differ(0);
#pragma unroll 1
        for (int turn = 1; turn < turns; ++turn) {
            begin(turn);
            sum_up(turn - 1);
            product_wait<2>();
            product_done(s);
            soften(turn);
            product_wait<0>();
            product_done(dp);
            product_done(dk_sum);
            // Every lane for itself has read that turn's statistics: of one that speaks for its warp, racecheck cannot tell.
            barrier_arrive(shared + FREE + 8 * ((turn - 1) % STAGES));
            differ(turn);
        }
        product_begin();
        sum_up(turns - 1);
        product_wait<0>();
        product_done(dk_sum);
    } else {
#pragma unroll
        for (int x = 0; x < DIM / 2; ++x) dk_sum[x] = dv_sum[x] = 0.f;
    }
    named_sync(1 + own, 128);  // all of the warpgroup have read its K and V
    const i64 stride = (i64)heads_kv * dim, row = ((i64)place.b * seq_k + j) * stride + (i64)place.head * dim;
    put_rows(dk_sum, slope, k_rows + threadIdx.x / 32 % 4 * 16 * ROW, dk + row, stride, seq_k - j, dim, lane);
    put_rows(dv_sum, 1.f, v_rows + threadIdx.x / 32 % 4 * 16 * ROW, dv + row, stride, seq_k - j, dim, lane);
}

// ---- dQ

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    dq_bf16(const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v,
            const __grid_constant__ TensorMap d_o, const float* __restrict__ lse, const float* __restrict__ delta,
            T* __restrict__ dq, int batch, int seq_q, int seq_k, int heads_q, int heads_kv, int dim, int causal, int window,
            float scale, float squeeze, float slope) {
    constexpr u32 TILE = KEYS * DIM * 2;
    const Sizes n = {batch, seq_q, seq_k, heads_q, heads_kv, dim, causal, window, scale, squeeze, slope};
    const u32 shared = begin_block<STAGES, FULL, FREE, OWN_FULL>();
    // The last queries come first: they see most keys.
    const u32 heads = batch * heads_q, bh = blockIdx.x % heads;
    const int b = bh / heads_q, h = bh % heads_q, head = h / (heads_q / heads_kv), lane = threadIdx.x % 32;
    const int i0 = ((seq_q + OWN - 1) / OWN - 1 - (int)(blockIdx.x / heads)) * OWN;
    const int first = n.seen_by(i0).begin / KEYS, end = n.seen_by(min(i0 + OWN, seq_q) - 1).end;
    const int turns = max(0, (end + KEYS - 1) / KEYS - first);
    if (threadIdx.x < 128) {
        registers_down<24>();
        if (threadIdx.x >= 32) return;
        fetch_own<OWN, OWN_FULL>(shared, &q, &d_o, h, i0, b);
        fetch_keys<STAGES, PAIRS, FULL, FREE>(first, turns, shared, &k, &v, head, b);
        return;
    }
    registers_up<240>();
    const int own = threadIdx.x / 128 - 1, i = i0 + own * 64 + threadIdx.x / 32 % 4 * 16;
    const u32 q_rows = shared + FIRST + own * 64 * ROW, d_o_rows = shared + SECOND + own * 64 * ROW;
    const float factor = scale * LOG2_E;
    float sum[DIM / 2], s[KEYS / 2], dp[KEYS / 2], slopes[KEYS / 2];
    u32 ds[KEYS / 16][4];
    const Rows rows(n, bh, i, lane, lse, delta);
    const int all_begin = n.seen_by(min(i + 15, seq_q - 1)).begin, all_end = n.seen_by(min(i, seq_q - 1)).end;
    const auto pair_at = [&](u32 turn) { return shared + PAIRS + turn % STAGES * 2 * TILE; };
    const auto begin = [&](u32 turn) {
        barrier_wait(shared + FULL + 8 * (turn % STAGES), turn / STAGES & 1);
        product_begin();
        begin_scores<KEYS>(s, q_rows, pair_at(turn));
        begin_scores<KEYS>(dp, d_o_rows, pair_at(turn) + TILE);
    };
    const auto soften = [&](u32 turn) {
        squeeze_tile(s, slopes, squeeze);
        const int j0 = (first + turn) * KEYS;
        if (j0 < all_begin || j0 + KEYS > all_end)
#pragma unroll
            for (int half = 0; half < 2; ++half)
                hide<KEYS>(s, half, rows.seen[half].begin - j0 - lane % 4 * 2, rows.seen[half].end - j0 - lane % 4 * 2);
#pragma unroll
        for (int x = 0; x < KEYS / 2; ++x) s[x] = exp2_fast(fmaf(s[x], factor, -rows.base[x / 2 % 2]));
    };
    const auto differ = [&] {
#pragma unroll
        for (int x = 0; x < KEYS / 2; ++x) dp[x] = s[x] * (dp[x] - rows.delta[x / 2 % 2]);
        multiply(dp, slopes, squeeze);
    };
    const auto sum_up = [&](u32 turn) {
        begin_gather<KEYS>(sum, ds, pair_at(turn), turn > 0);
        product_commit();
    };
    if (turns > 0) {
        barrier_wait(shared + OWN_FULL, 0);
        begin(0);
        product_wait<0>();
        product_done(s);
        product_done(dp);
        soften(0);
        differ();
        round_off<KEYS>(ds, dp);
#pragma unroll 1
        for (int turn = 1; turn < turns; ++turn) {
            begin(turn);
            sum_up(turn - 1);
            product_wait<2>();
            product_done(s);
            soften(turn);
            product_wait<1>();
            product_done(dp);
            differ();
            product_wait<0>();
            product_done(sum);
            barrier_arrive(shared + FREE + 8 * ((turn - 1) % STAGES));
            round_off<KEYS>(ds, dp);
        }
        product_begin();
        sum_up(turns - 1);
        product_wait<0>();
        product_done(sum);
    } else {
#pragma unroll
        for (int x = 0; x < DIM / 2; ++x) sum[x] = 0.f;
    }
    named_sync(1 + own, 128);  // all of the warpgroup have read its Q
    const i64 stride = (i64)heads_q * dim;
    put_rows(sum, slope, q_rows + threadIdx.x / 32 % 4 * 16 * ROW, dq + ((i64)b * seq_q + i) * stride + (i64)h * dim, stride,
             seq_q - i, dim, lane);
}
