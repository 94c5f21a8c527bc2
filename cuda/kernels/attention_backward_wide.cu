// Idea: heads of 256 values, of which a warpgroup has registers for one sum only: one sums dV and the other dK of the same
//   keys, and what the first knows of a pair, its probability, the second is told through shared memory.
// Source: Dao 2023, algorithm 2; Shah et al. 2024 (FlashAttention-3), section 3 and appendix B.1; the division of sums
//   between warpgroups is ours.
// Shapes: as attention_backward_wgmma.cu, but head_dim up to 256.
// Plan: a block of 3 warpgroups, of which warpgroup 0 fetches. In dk_dv it owns 64 keys, whose K and V stay in shared memory,
//   and walks over tiles of 48 queries of every head of the group. Warpgroup 1 computes S^T = K Q^T and from it P^T, the left
//   operand of dV += P^T dO in its registers, which it also gives away in f32: a thread to the one that has the same places in
//   warpgroup 2. That computes dP^T = V dO^T and from both dS^T, the left operand of dK += dS^T Q. In dq, two warpgroups own
//   64 queries each and walk over tiles of 48 keys. There is room for two, so the sum of a tile is issued before the next
//   tile's scores: its place is free for the copy engine while those are computed.
// Numerics: those of attention_backward_wgmma.cu, but the slope of a soft cap multiplies a probability, not its gradient.
// Limits: scores and dP are computed twice, once in each kernel. Shared memory has to be read about as long as the tensor
//   cores compute: tiles of 64 keys and 48 queries are all that fits. Of 64 queries, two under way, a third slower on an H200.
// Target: compute_90a
// Twin: f16
#define TILE_DIM 256
#define TILE_OWN 64
#define TILE_QUERIES 48
#define TILE_KEYS 48
#include "attention_backward.cuh"

namespace {

// What lies where in shared memory, in bytes from its 1024-aligned start: of dk_dv the block's K and V, `STAGES` tiles of Q
// and dO, what is given away, base and delta of queries, barriers; of dq its Q and dO, `KEY_STAGES` tiles of K and V, barriers.
enum : int { STAGES = 3, KEY_STAGES = 2, OWN_QUERIES = 128 };
enum : u32 {
    FIRST = 0,
    SECOND = OWN_TILE,
    PAIRS = 2 * OWN_TILE,
    TILE = QUERIES * DIM * 2,
    GIVEN = PAIRS + STAGES * 2 * TILE,
    STATS = GIVEN + OWN * QUERIES * 4,
    FULL = STATS + STAGES * QUERIES * 8,
    FREE = FULL + 8 * STAGES,
    OWN_FULL = FREE + 8 * STAGES,
    GIVEN_FULL = OWN_FULL + 8,  // of each warp of probabilities
    GIVEN_FREE = GIVEN_FULL + 32,
    Q_TILE = OWN_QUERIES * DIM * 2,
    KEY_TILE = KEYS * DIM * 2,
    KEY_PAIRS = 2 * Q_TILE,
    KEYS_FULL = KEY_PAIRS + KEY_STAGES * 2 * KEY_TILE,
    KEYS_FREE = KEYS_FULL + 8 * KEY_STAGES,
    Q_FULL = KEYS_FREE + 8 * KEY_STAGES,
};
enum : int { OWN_READ = 1 };  // a named barrier of each warpgroup

// A warpgroup's walk over tiles of queries.
struct Walk {
    u32 shared;
    int turns, warp, lane;

    __device__ __forceinline__ u32 q_at(u32 turn) const { return shared + PAIRS + turn % STAGES * 2 * TILE; }
    __device__ __forceinline__ u32 d_o_at(u32 turn) const { return q_at(turn) + TILE; }
    // This thread's columns of base (0) or delta (1) of a turn's queries.
    __device__ __forceinline__ u32 stats_at(u32 turn, int which) const {
        return shared + STATS + ((turn % STAGES * 2 + which) * QUERIES + lane % 4 * 2) * 4;
    }
    __device__ __forceinline__ u32 given() const { return shared + GIVEN + threadIdx.x % 128 * 16; }
    __device__ __forceinline__ void wait_for(u32 turn) const {
        barrier_wait(shared + FULL + 8 * (turn % STAGES), turn / STAGES & 1);
    }
    __device__ __forceinline__ void give_back(u32 turn) const { barrier_arrive(shared + FREE + 8 * (turn % STAGES)); }
};

template <int N> __device__ __forceinline__ void clear(u32 (&weights)[N][4]) {
#pragma unroll
    for (int k = 0; k < N; ++k)
#pragma unroll
        for (int x = 0; x < 4; ++x) weights[k][x] = 0;
}

// Sums over all turns the products of what `weigh` makes of a turn's scores with another tile. The scores of a turn are
// issued before the products of the turn before, so that the tensor cores have work meanwhile; before the first, zeros are
// summed, which the next sum forgets, so that the turn need not be written out twice.
template <typename Begin, typename Weigh, typename Other>
__device__ __forceinline__ void walk_over(float (&sum)[DIM / 2], float (&s)[QUERIES / 2], const Walk& walk, const Begin& begin,
                                          const Weigh& weigh, const Other& other) {
    u32 weights[QUERIES / 16][4];
    const auto sum_up = [&](int turn) {
        begin_gather<QUERIES>(sum, weights, other(max(turn, 0)), turn > 0);
        product_commit();
    };
    clear(weights);
    barrier_wait(walk.shared + OWN_FULL, 0);
#pragma unroll 1
    for (int turn = 0; turn < walk.turns; ++turn) {
        walk.wait_for(turn);
        product_begin();
        begin(turn);
        sum_up(turn - 1);
        product_wait<1>();
        product_done(s);
        weigh(turn);
        product_wait<0>();
        product_done(sum);
        // Every lane for itself has read that turn's statistics: of one that speaks for its warp, racecheck cannot tell.
        if (turn > 0) walk.give_back(turn - 1);
        round_off<QUERIES>(weights, s);
    }
    product_begin();
    sum_up(walk.turns - 1);
    product_wait<0>();
    product_done(sum);
}

// Scores become probabilities, which are given away, times the slope of a soft cap where there is one.
template <bool CAPPED>
__device__ __forceinline__ void soften(float (&s)[QUERIES / 2], float factor, u32 bases, u32 given) {
#pragma unroll
    for (int c = 0; c < QUERIES / 8; ++c) {
        float base[2], x[4];
        load_two(base, bases + c * 32);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            float& score = s[c * 4 + e];
            const float p = exp2_fast(fmaf(score, factor, -base[e % 2]));
            x[e] = CAPPED ? p * slope_where(score) : p;
            score = p;
        }
        asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};"
                     ::"r"(given + c * (128 * 16)), "f"(x[0]), "f"(x[1]), "f"(x[2]), "f"(x[3])
                     : "memory");
    }
}

// dV of 64 keys.
__device__ __forceinline__ void sum_values(float (&sum)[DIM / 2], const Walk& walk, const Sizes& n, int j, Keys tiles) {
    const float factor = n.scale * LOG2_E;
    // Queries that see every key of this warp.
    const int all_begin = n.seeing(min(j + 15, n.seq_k - 1)).begin, all_end = n.seeing(j).end;
    int tile = tiles.begin;
    float s[QUERIES / 2];
    const auto weigh = [&](u32 turn) {
        squeeze_all(s, n.squeeze);
        const int i0 = tile * QUERIES;
        if (++tile == tiles.end) tile = tiles.begin;
        if (n.causal && (i0 < all_begin || i0 + QUERIES > all_end))
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const Keys seeing = n.seeing(j + half * 8 + walk.lane / 4);
                hide<QUERIES>(s, half, seeing.begin - i0 - walk.lane % 4 * 2, seeing.end - i0 - walk.lane % 4 * 2);
            }
        if (turn > 0) barrier_wait(walk.shared + GIVEN_FREE + 8 * walk.warp, (turn & 1) ^ 1);
        if (n.squeeze != 0.f)
            soften<true>(s, factor, walk.stats_at(turn, 0), walk.given());
        else
            soften<false>(s, factor, walk.stats_at(turn, 0), walk.given());
        barrier_arrive(walk.shared + GIVEN_FULL + 8 * walk.warp);
    };
    walk_over(
        sum, s, walk, [&](u32 turn) { begin_scores<QUERIES>(s, walk.shared + FIRST, walk.q_at(turn)); }, weigh,
        [&](u32 turn) { return walk.d_o_at(turn); });
}

// dK of 64 keys.
__device__ __forceinline__ void sum_keys(float (&sum)[DIM / 2], const Walk& walk) {
    float dp[QUERIES / 2];
    const auto weigh = [&](u32 turn) {
        const u32 deltas = walk.stats_at(turn, 1), given = walk.given();
        barrier_wait(walk.shared + GIVEN_FULL + 8 * walk.warp, turn & 1);
#pragma unroll
        for (int c = 0; c < QUERIES / 8; ++c) {
            float delta[2], p[4];
            load_two(delta, deltas + c * 32);
            asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                         : "=f"(p[0]), "=f"(p[1]), "=f"(p[2]), "=f"(p[3])
                         : "r"(given + c * (128 * 16))
                         : "memory");
#pragma unroll
            for (int e = 0; e < 4; ++e) dp[c * 4 + e] = p[e] * (dp[c * 4 + e] - delta[e % 2]);
        }
        barrier_arrive(walk.shared + GIVEN_FREE + 8 * walk.warp);
    };
    walk_over(
        sum, dp, walk, [&](u32 turn) { begin_scores<QUERIES>(dp, walk.shared + SECOND, walk.d_o_at(turn)); }, weigh,
        [&](u32 turn) { return walk.q_at(turn); });
}

}  // namespace

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    dk_dv_bf16(const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v,
               const __grid_constant__ TensorMap d_o, const float* __restrict__ lse, const float* __restrict__ delta,
               T* __restrict__ dk, T* __restrict__ dv, int batch, int seq_q, int seq_k, int heads_q, int heads_kv, int dim,
               int causal, int window, float scale, float squeeze, float slope) {
    const Sizes n = {batch, seq_q, seq_k, heads_q, heads_kv, dim, causal, window, scale, squeeze, slope};
    const u32 shared = begin_block<STAGES, FULL, FREE, OWN_FULL, GIVEN_FULL>();
    const Place place = key_place(n);
    const Keys tiles = query_tiles(n, place.j0);
    if (threadIdx.x < 128) {
        registers_down<24>();
        fetch_own<OWN, OWN_FULL>(shared, &k, &v, place.head, place.j0, place.b);
        fetch_queries<STAGES, PAIRS, STATS, FULL, FREE>(n, place, tiles, shared, &q, &d_o, lse, delta);
        return;
    }
    registers_up<240>();
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4, j = place.j0 + warp * 16;
    const Walk walk = {shared, (tiles.end - tiles.begin) * (heads_q / heads_kv), warp, lane};
    const bool of_keys = threadIdx.x >= 256;
    const i64 stride = (i64)heads_kv * dim;
    T* const rows = (of_keys ? dk : dv) + ((i64)place.b * seq_k + j) * stride + (i64)place.head * dim;
    if (walk.turns == 0) {
#pragma unroll 1
        for (int at = lane; at < 16 * (DIM / 8); at += 32)
            if (at / (DIM / 8) < seq_k - j && at % (DIM / 8) * 8 < dim)
                *(uint4*)(rows + at / (DIM / 8) * stride + at % (DIM / 8) * 8) = {0, 0, 0, 0};
        return;
    }
    float sum[DIM / 2];
    if (of_keys)
        sum_keys(sum, walk);
    else
        sum_values(sum, walk, n, j, tiles);
    named_sync(OWN_READ + of_keys, 128);  // all of the warpgroup have read its K, or V
    put_rows(sum, of_keys ? slope : 1.f, shared + (of_keys ? SECOND : FIRST) + warp * 16 * ROW, rows, stride, seq_k - j, dim,
             lane);
}

// ---- dQ

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    dq_bf16(const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v,
            const __grid_constant__ TensorMap d_o, const float* __restrict__ lse, const float* __restrict__ delta,
            T* __restrict__ dq, int batch, int seq_q, int seq_k, int heads_q, int heads_kv, int dim, int causal, int window,
            float scale, float squeeze, float slope) {
    const Sizes n = {batch, seq_q, seq_k, heads_q, heads_kv, dim, causal, window, scale, squeeze, slope};
    const u32 shared = begin_block<KEY_STAGES, KEYS_FULL, KEYS_FREE, Q_FULL>();
    // The last queries come first: they see most keys.
    const u32 heads = batch * heads_q, bh = blockIdx.x % heads;
    const int b = bh / heads_q, h = bh % heads_q, head = h / (heads_q / heads_kv), lane = threadIdx.x % 32;
    const int i0 = ((seq_q + OWN_QUERIES - 1) / OWN_QUERIES - 1 - (int)(blockIdx.x / heads)) * OWN_QUERIES;
    const int first = n.seen_by(i0).begin / KEYS, end = n.seen_by(min(i0 + OWN_QUERIES, seq_q) - 1).end;
    const int turns = max(0, (end + KEYS - 1) / KEYS - first);
    if (threadIdx.x < 128) {
        registers_down<24>();
        if (threadIdx.x >= 32) return;
        fetch_own<OWN_QUERIES, Q_FULL>(shared, &q, &d_o, h, i0, b);
        fetch_keys<KEY_STAGES, KEY_PAIRS, KEYS_FULL, KEYS_FREE>(first, turns, shared, &k, &v, head, b);
        return;
    }
    registers_up<240>();
    const int own = threadIdx.x / 128 - 1, i = i0 + own * 64 + threadIdx.x / 32 % 4 * 16;
    const u32 q_rows = shared + own * 64 * ROW, d_o_rows = shared + Q_TILE + own * 64 * ROW;
    const float factor = scale * LOG2_E;
    float sum[DIM / 2], s[KEYS / 2], dp[KEYS / 2];
    u32 ds[KEYS / 16][4];
    const Rows rows(n, bh, i, lane, lse, delta);
    const int all_begin = n.seen_by(min(i + 15, seq_q - 1)).begin, all_end = n.seen_by(min(i, seq_q - 1)).end;
    const auto pair_at = [&](u32 turn) { return shared + KEY_PAIRS + turn % KEY_STAGES * 2 * KEY_TILE; };
    const auto begin = [&](u32 turn) {
        barrier_wait(shared + KEYS_FULL + 8 * (turn % KEY_STAGES), turn / KEY_STAGES & 1);
        product_begin();
        begin_scores<KEYS, OWN_QUERIES>(s, q_rows, pair_at(turn));
        begin_scores<KEYS, OWN_QUERIES>(dp, d_o_rows, pair_at(turn) + KEY_TILE);
    };
    const auto soften = [&](u32 turn) {
        squeeze_all(s, squeeze);
        const int j0 = (first + turn) * KEYS;
        if (j0 < all_begin || j0 + KEYS > all_end)
#pragma unroll
            for (int half = 0; half < 2; ++half)
                hide<KEYS>(s, half, rows.seen[half].begin - j0 - lane % 4 * 2, rows.seen[half].end - j0 - lane % 4 * 2);
        if (squeeze != 0.f) {
#pragma unroll
            for (int x = 0; x < KEYS / 2; ++x) s[x] = slope_where(s[x]) * exp2_fast(fmaf(s[x], factor, -rows.base[x / 2 % 2]));
            return;
        }
#pragma unroll
        for (int x = 0; x < KEYS / 2; ++x) s[x] = exp2_fast(fmaf(s[x], factor, -rows.base[x / 2 % 2]));
    };
    const auto differ = [&] {
#pragma unroll
        for (int x = 0; x < KEYS / 2; ++x) dp[x] = s[x] * (dp[x] - rows.delta[x / 2 % 2]);
    };
    // Before the first turn zeros are summed, which the next sum forgets.
    const auto sum_up = [&](int turn) {
        begin_gather<KEYS>(sum, ds, pair_at(max(turn, 0)), turn > 0);
        product_commit();
    };
    if (turns > 0) {
        clear(ds);
        barrier_wait(shared + Q_FULL, 0);
        barrier_wait(shared + KEYS_FULL, 0);
#pragma unroll 1
        for (int turn = 0; turn < turns; ++turn) {
            product_begin();
            sum_up(turn - 1);
            begin(turn);
            product_wait<2>();
            product_done(sum);
            if (turn > 0) barrier_arrive(shared + KEYS_FREE + 8 * ((turn - 1) % KEY_STAGES));
            product_wait<1>();
            product_done(s);
            soften(turn);
            product_wait<0>();
            product_done(dp);
            differ();
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
    const i64 stride = (i64)heads_q * dim, row = ((i64)b * seq_q + i) * stride + (i64)h * dim;
    put_rows<OWN_QUERIES>(sum, slope, q_rows + threadIdx.x / 32 % 4 * 16 * ROW, dq + row, stride, seq_q - i, dim, lane);
}
