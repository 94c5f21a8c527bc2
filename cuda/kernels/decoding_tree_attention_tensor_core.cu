// Idea: all nodes of a tree, and all query heads that share a key head, are the rows of one product on tensor cores; the
//   cache is split over blocks, and the tree's own keys come behind it as one more stretch with a mask of bits.
// Source: Cai et al. 2024 (Medusa), section 2.1.2; Dao et al. 2023 (Flash-Decoding: keys split over blocks); Dao 2023
//   (FlashAttention-2: online softmax on tensor cores).
// Shapes: as decoding_tree_attention_naive.cu, f16 or bf16, dim a multiple of 8 up to 128, 16-byte aligned rows; scratch sums f32
//   [splits, rows, dim] and stats f32 [splits, rows, 2] (largest score in powers of two, sum of the probabilities
//   relative to it) of the rows [batch, nodes, heads_q], which attention_decode_split_kv's `combine` turns into o, lse.
// Plan: a warp takes 16 rows, a block 4 or 8 warps; row = node * group + head of the group. Tiles of 64 keys come by
//   cp.async, the next ones while these are used. Of a tile that not every row sees whole, each row has 64 bits, made
//   by walking up from its node. Probabilities pass through shared memory, so that the second product's loops are
//   short.
// Numerics: f32 sums; probabilities are rounded to the storage type for the second product, their sum is not.
// Limits: two blocks an SM; walks are as long as the tree is deep, once a tile of the tree.
#include "attention_mma.cuh"
#include "decoding_mask.cuh"

typedef unsigned short u16;

namespace {

// Tiles hold rows of 128 values; those of smaller heads end in zeros, whose products are left out.
constexpr int DIM = 128;
constexpr u32 TILE = KEYS * DIM * 2;

// Products of 16 rows with 32 b's, 8 each. Both types in one kernel: which of them is known when it runs.
template <int COUNT>
__device__ __forceinline__ void multiply(float (&c)[COUNT * 2][4], const u32 (&a)[4], const u32 (&b)[COUNT][4], bool bf16) {
    if (fresh(bf16)) {
#pragma unroll
        for (int n = 0; n < COUNT * 2; ++n) mma<__nv_bfloat16>(c[n], a, b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
    } else {
#pragma unroll
        for (int n = 0; n < COUNT * 2; ++n) mma<__half>(c[n], a, b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
    }
}

// Starts copying rows into a tile, `from(row)` each; rows for which it is null, and values at or behind `dim`, become
// zero.
template <typename From> __device__ __forceinline__ void copy_rows(u32 tile, int rows, int dim, const u16* any, From from) {
    const int d = threadIdx.x % (DIM / 8) * 8;
#pragma unroll 1
    for (int row = threadIdx.x / (DIM / 8); row < rows; row += blockDim.x / (DIM / 8)) {
        const u16* at = from(row);
        const bool inside = at && d < dim;
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(tile + chunk_at<DIM>(row, d)),
                     "l"(inside ? at + d : any), "r"(inside ? 16 : 0)
                     : "memory");
    }
}

// A warp's rows of scores, their maxima and sums; what a lane holds is in rows lane / 4 and lane / 4 + 8.
struct Scores {
    float s[KEYS / 8][4], max[2], total[2];

    __device__ __forceinline__ void multiply_keys(u32 q_rows, u32 k_tile, int lane, int dim, bool bf16) {
        const u32 by_row = starts_by_row<DIM>(lane), by_value = starts_by_value<DIM>(lane);
#pragma unroll
        for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
            for (int e = 0; e < 4; ++e) s[n][e] = 0.f;
#pragma unroll 1
        for (int d = 0; d < dim; d += 16) {
            u32 a[4], b[KEYS / 16][4];
            load_matrices(a, fragment<DIM>(q_rows, by_row, 0, d));
#pragma unroll
            for (int n = 0; n < KEYS / 16; ++n) load_matrices(b[n], fragment<DIM>(k_tile, by_value, n * 16, d));
            multiply(s, a, b, bf16);
        }
    }

    // `seen` holds two words for each row of the warp.
    __device__ __forceinline__ void hide(const u32* seen, int lane) {
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
            for (int n = 0; n < KEYS / 8; ++n) {
                const u32 bits = seen[(lane / 4 + half * 8) * 2 + n / 4] >> (n % 4 * 8 + lane % 4 * 2);
                if (!(bits & 1)) s[n][half * 2] = NEG_INFINITY;
                if (!(bits & 2)) s[n][half * 2 + 1] = NEG_INFINITY;
            }
    }

    // Turns scores into probabilities relative to the new maximum; gives what the sums before shrink by.
    __device__ __forceinline__ void soften(float (&shrink)[2], float factor) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float top = max[half];
#pragma unroll
            for (int n = 0; n < KEYS / 8; ++n) top = fmaxf(top, fmaxf(s[n][half * 2], s[n][half * 2 + 1]));
            top = quad_max(top);
            const float seen = top == NEG_INFINITY ? 0.f : top, base = seen * factor;
            // Exactly 1 while the maximum stays.
            shrink[half] = exp2_fast((max[half] - seen) * factor);
            max[half] = top;
            total[half] *= shrink[half];
#pragma unroll
            for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
                for (int e = half * 2; e < half * 2 + 2; ++e) {
                    s[n][e] = exp2_fast(fmaf(s[n][e], factor, -base));
                    total[half] += s[n][e];
                }
        }
    }

    template <typename T> __device__ __forceinline__ void pack(u32 (&two)[2][KEYS / 8]) const {
#pragma unroll
        for (int at = 0; at < KEYS / 4; ++at) two[at % 2][at / 2] = Pair<T>::pack(s[at / 2][at % 2 * 2], s[at / 2][at % 2 * 2 + 1]);
    }

    // Writes the probabilities as a tile of the warp's 16 rows and 64 values.
    __device__ __forceinline__ void put(unsigned char* tile, int lane, bool bf16) const {
        u32 two[2][KEYS / 8];
        if (fresh(bf16)) pack<__nv_bfloat16>(two);
        else pack<__half>(two);
        // Rows lane / 4 and lane / 4 + 8 keep their chunks in the same places.
#pragma unroll
        for (int n = 0; n < KEYS / 8; ++n) {
            unsigned char* at = tile + chunk_at<KEYS>(lane / 4, n * 8) + lane % 4 * 4;
            *(u32*)at = two[0][n];
            *(u32*)(at + 8 * KEYS * 2) = two[1][n];
        }
    }
};

// sum += P V, for the 64 values of the sums that begin at value `first`.
__device__ __forceinline__ void gather(float (&sum)[8][4], u32 p_tile, u32 v_tile, int first, int lane, bool bf16) {
    const u32 of_p = starts_by_row<KEYS>(lane), of_v = starts_by_row<DIM>(lane);
#pragma unroll 1
    for (int k = 0; k < KEYS; k += 16) {
        u32 a[4], b[4][4];
        load_matrices(a, fragment<KEYS>(p_tile, of_p, 0, k));
#pragma unroll
        for (int n = 0; n < 4; ++n) load_transposed(b[n], fragment<DIM>(v_tile, of_v, k, first + n * 16));
        multiply(sum, a, b, bf16);
    }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(256, 2)
    partial(const u16* __restrict__ q, const u16* __restrict__ k, const u16* __restrict__ v,
            const u16* __restrict__ k_tree, const u16* __restrict__ v_tree, const int* __restrict__ parents,
            const int* __restrict__ lengths, float* __restrict__ sums, float* __restrict__ stats, i64 batch, int nodes,
            i64 seq_k, i64 heads_q, i64 heads_kv, int dim, int splits, int bf16, float scale) {
    extern __shared__ __align__(128) unsigned char shared[];
    const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 16, rows_here = blockDim.x / 2;
    // K, V (two of each), the rows of q, probabilities, masks.
    const u32 k_tiles = (u32)__cvta_generic_to_shared(shared), v_tiles = k_tiles + 2 * TILE, q_tile = k_tiles + 4 * TILE;
    unsigned char* p_tiles = shared + 4 * TILE + rows_here * DIM * 2;
    u32* seen = (u32*)(p_tiles + rows_here * KEYS * 2);
    const u32 p_rows = (u32)__cvta_generic_to_shared(p_tiles) + warp_row * KEYS * 2;

    const int group = (int)(heads_q / heads_kv), rows = nodes * group, row_tiles = (rows + rows_here - 1) / rows_here;
    const int split = blockIdx.x % splits, row0 = blockIdx.x / splits % row_tiles * rows_here;
    const i64 bh = blockIdx.x / splits / row_tiles, h = bh % heads_kv, b = bh / heads_kv;
    const i64 stride = heads_kv * dim, cache = (b * seq_k * heads_kv + h) * dim, own = (b * nodes * heads_kv + h) * dim;
    const Tree tree = {parents + b * nodes, lengths[b]};
    // Of [batch, nodes, heads_q].
    auto query = [&](int row) { return (b * nodes + row / group) * heads_q + h * group + row % group; };

    const int last_node = (min(rows, row0 + rows_here) - 1) / group;
    const int cached = (tree.length + KEYS - 1) / KEYS, tiles = cached + last_node / KEYS + 1;
    const int chunk = (tiles + splits - 1) / splits, begin = min(tiles, split * chunk), end = min(tiles, begin + chunk);
    auto copy = [&](u32 to, const u16* from_cache, const u16* from_tree, int tile) {
        const bool is_cached = tile < cached;
        const u16* head = is_cached ? from_cache + cache : from_tree + own;
        const int first = (is_cached ? tile : tile - cached) * KEYS, until = is_cached ? tree.length : nodes;
        copy_rows(to, KEYS, dim, head, [&](int row) { return first + row < until ? head + (first + row) * stride : nullptr; });
    };

    float low[8][4] = {}, high[8][4] = {};  // sums of values 0 to 63, and from 64 on
    Scores scores;
#pragma unroll
    for (int half = 0; half < 2; ++half) scores.max[half] = NEG_INFINITY, scores.total[half] = 0.f;
    copy_rows(q_tile, rows_here, dim, q, [&](int r) { return row0 + r < rows ? q + query(row0 + r) * dim : nullptr; });
    const float factor = scale * LOG2_E;
    u32 stage = 1;
    // The first turn only fetches.
#pragma unroll 1
    for (int tile = begin - 1; tile < end; ++tile, stage ^= 1) {
        const bool more = tile + 1 < end, whole = (tile + 1) * KEYS <= tree.length;
        const u32 next = (stage ^ 1) * TILE;
        // The masks and the other K buffer were last read before the barrier in the middle of the previous round, ...
        if (!whole) {
            const int node = min(row0 + (int)threadIdx.x / 2, rows - 1) / group;
            seen[threadIdx.x] = tree.seen(tile, cached, threadIdx.x % 2 * 32, node);
        }
        if (more) copy(k_tiles + next, k, k_tree, tile + 1);
        copies_commit();
        copies_wait<2>();
        __syncthreads();
        // ... the other V buffer before this one.
        if (more) copy(v_tiles + next, v, v_tree, tile + 1);
        copies_commit();
        if (tile < begin) continue;
        float shrink[2];
        scores.multiply_keys(q_tile + warp_row * DIM * 2, k_tiles + stage * TILE, lane, dim, bf16);
        if (!whole) scores.hide(seen + warp_row * 2, lane);
        scores.soften(shrink, factor);
        scores.put(p_tiles + warp_row * KEYS * 2, lane, bf16);
#pragma unroll
        for (int n = 0; n < 8; ++n)
#pragma unroll
            for (int e = 0; e < 4; ++e) low[n][e] *= shrink[e / 2], high[n][e] *= shrink[e / 2];
        copies_wait<2>();
        __syncthreads();
        gather(low, p_rows, v_tiles + stage * TILE, 0, lane, bf16);
        if (dim > 64) gather(high, p_rows, v_tiles + stage * TILE, 64, lane, bf16);
    }
    copies_wait<0>();
    __syncthreads();
    // By way of shared memory, a warp its own rows, so that stores are whole and the loop is short.
    constexpr int STRIDE = DIM + 8;
    float* staged = (float*)shared + warp_row * STRIDE;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float* at = staged + (lane / 4 + half * 8) * STRIDE + lane % 4 * 2;
#pragma unroll
        for (int n = 0; n < 8; ++n) {
            *(float2*)(at + n * 8) = make_float2(low[n][half * 2], low[n][half * 2 + 1]);
            *(float2*)(at + 64 + n * 8) = make_float2(high[n][half * 2], high[n][half * 2 + 1]);
        }
        const float total = quad_sum(scores.total[half]);
        if (lane % 4 == 0) *(float2*)(at + DIM) = make_float2(scores.max[half] * factor, total);
    }
    __syncwarp();
#pragma unroll 1
    for (int r = 0; r < 16 && row0 + warp_row + r < rows; ++r) {
        const i64 to = split * batch * nodes * heads_q + query(row0 + warp_row + r);
        const float* from = staged + r * STRIDE;
        if (lane * 4 < dim) *(float4*)&sums[to * dim + lane * 4] = *(const float4*)&from[lane * 4];
        if (lane < 2) stats[to * 2 + lane] = from[DIM + lane];
    }
}
