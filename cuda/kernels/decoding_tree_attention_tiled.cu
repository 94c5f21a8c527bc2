// Idea: all nodes of a tree, and all query heads that share a key head, are the rows of tiles in shared memory, on CUDA
//   cores; the cache is split over blocks, and the tree's own keys come behind it with a mask of bits.
// Source: as decoding_tree_attention_tensor_core.cu, whose twin for f32 this is.
// Shapes: as there, f32, dim up to 128.
// Plan: 256 threads, 64 rows, tiles of 64 keys. Queries and keys lie with their values outermost, so that a thread
//   reads 4 rows and 4 keys at once and has 16 scores; then 4 rows and 8 values of the output. Values take the place of
//   the keys.
// Numerics: f32 multiply-adds, 2^x.
// Limits: one tile at a time: loads and products wait for each other.
#include "decoding_mask.cuh"

namespace {

constexpr int DIM = 128, STRIDE = KEYS + 4, WIDE = DIM + 4;

__device__ __forceinline__ float over_sixteen(float x, bool larger) {
#pragma unroll
    for (int offset = 8; offset > 0; offset /= 2) {
        const float other = __shfl_xor_sync(0xffffffffu, x, offset);
        x = larger ? fmaxf(x, other) : x + other;
    }
    return x;
}

__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

}  // namespace

extern "C" __global__ void __launch_bounds__(256, 2)
    partial(const float* __restrict__ q, const float* __restrict__ k, const float* __restrict__ v,
            const float* __restrict__ k_tree, const float* __restrict__ v_tree, const int* __restrict__ parents,
            const int* __restrict__ lengths, float* __restrict__ sums, float* __restrict__ stats, i64 batch, int nodes,
            i64 seq_k, i64 heads_q, i64 heads_kv, int dim, int splits, float scale) {
    extern __shared__ __align__(16) float shared_floats[];
    float *q_tile = shared_floats, *k_tile = q_tile + DIM * STRIDE, *p_tile = k_tile + DIM * STRIDE;
    u32* seen = (u32*)(p_tile + KEYS * STRIDE);
    const int ty = threadIdx.x / 16 * 4, tx = threadIdx.x % 16 * 4;
    const int group = (int)(heads_q / heads_kv), rows = nodes * group, row_tiles = (rows + 63) / 64;
    const int split = blockIdx.x % splits, row0 = blockIdx.x / splits % row_tiles * 64;
    const i64 bh = blockIdx.x / splits / row_tiles, h = bh % heads_kv, b = bh / heads_kv;
    const Tree tree = {parents + b * nodes, lengths[b]};
    // Of [batch, nodes, heads_q].
    auto query = [&](int row) { return (b * nodes + row / group) * heads_q + h * group + row % group; };
    const int last_node = (min(rows, row0 + 64) - 1) / group;
    const int cached = (tree.length + KEYS - 1) / KEYS, tiles = cached + last_node / KEYS + 1;
    const int chunk = (tiles + splits - 1) / splits, begin = min(tiles, split * chunk), end = min(tiles, begin + chunk);
    const float factor = scale * 1.4426950408889634f, nothing = __int_as_float(0xff800000);

    float sum[4][8] = {}, max[4], total[4];
#pragma unroll
    for (int r = 0; r < 4; ++r) max[r] = nothing, total[r] = 0.f;
    // Two steps a tile: keys, then values, through the same place; the first step brings the queries.
#pragma unroll 1
    for (int step = 2 * begin - 1; step < 2 * end; ++step) {
        const bool queries = step < 2 * begin, of_values = step & 1;
        const int tile = step / 2;
        const bool is_cached = tile < cached;
        const int first = (is_cached ? tile : tile - cached) * KEYS, until = is_cached ? tree.length : nodes;
        const i64 before = b * (is_cached ? seq_k : nodes);
        const float* source = queries ? q : of_values ? (is_cached ? v : v_tree) : is_cached ? k : k_tree;
        __syncthreads();
        if (!of_values && threadIdx.x < 128) {
            const int node = min(row0 + (int)threadIdx.x / 2, rows - 1) / group;
            seen[threadIdx.x] = tree.seen(tile, cached, threadIdx.x % 2 * 32, node);
        }
        float* to = queries ? q_tile : k_tile;
        const int by_row = of_values && !queries ? WIDE : 1, by_value = of_values && !queries ? 1 : STRIDE;
#pragma unroll 1
        for (int at = threadIdx.x; at < KEYS * DIM; at += 256) {
            const int r = at / DIM, d = at % DIM;
            const bool inside = d < dim && (queries ? row0 + r < rows : first + r < until);
            const i64 row = queries ? query(row0 + r) : (before + first + r) * heads_kv + h;
            to[r * by_row + d * by_value] = inside ? source[row * dim + d] : 0.f;
        }
        __syncthreads();
        if (queries) continue;
        if (of_values) {
#pragma unroll 1
            for (int j = 0; j < KEYS; ++j) {
                const float4 p = *(const float4*)&p_tile[j * STRIDE + ty], low = *(const float4*)&k_tile[j * WIDE + tx];
                const float4 high = *(const float4*)&k_tile[j * WIDE + 64 + tx];
                const float ps[4] = {p.x, p.y, p.z, p.w};
                const float values[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
                for (int r = 0; r < 4; ++r)
#pragma unroll
                    for (int c = 0; c < 8; ++c) sum[r][c] = fmaf(ps[r], values[c], sum[r][c]);
            }
            continue;
        }
        float s[4][4] = {};
#pragma unroll 1
        for (int d = 0; d < dim; ++d) {
            const float4 a = *(const float4*)&q_tile[d * STRIDE + ty], c = *(const float4*)&k_tile[d * STRIDE + tx];
            const float rows_of[4] = {a.x, a.y, a.z, a.w}, keys_of[4] = {c.x, c.y, c.z, c.w};
#pragma unroll
            for (int r = 0; r < 4; ++r)
#pragma unroll
                for (int j = 0; j < 4; ++j) s[r][j] = fmaf(rows_of[r], keys_of[j], s[r][j]);
        }
#pragma unroll
        for (int r = 0; r < 4; ++r) {
            const u32 bits = seen[(ty + r) * 2 + tx / 32] >> tx % 32;
            float top = max[r], all = 0.f;
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                s[r][j] = bits >> j & 1 ? s[r][j] * factor : nothing;
                top = fmaxf(top, s[r][j]);
            }
            top = over_sixteen(top, true);
            const float base = top == nothing ? 0.f : top, shrink = exp2_fast(max[r] - base);
            max[r] = top;
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                s[r][j] = exp2_fast(s[r][j] - base);
                all += s[r][j];
            }
            total[r] = fmaf(total[r], shrink, over_sixteen(all, false));
#pragma unroll
            for (int c = 0; c < 8; ++c) sum[r][c] *= shrink;
        }
#pragma unroll
        for (int j = 0; j < 4; ++j)
            *(float4*)&p_tile[(tx + j) * STRIDE + ty] = make_float4(s[0][j], s[1][j], s[2][j], s[3][j]);
    }
#pragma unroll 1
    for (int r = 0; r < 4; ++r) {
        // Chosen one by one: the loop's body is in the PTX once.
        auto of_row = [&](float zero, float one, float two, float three) {
            return r == 0 ? zero : r == 1 ? one : r == 2 ? two : three;
        };
        if (row0 + ty + r >= rows) continue;
        const i64 to = split * batch * nodes * heads_q + query(row0 + ty + r);
#pragma unroll
        for (int c = 0; c < 8; ++c) {
            const int d = c / 4 * 64 + tx + c % 4;
            if (d < dim) sums[to * dim + d] = of_row(sum[0][c], sum[1][c], sum[2][c], sum[3][c]);
        }
        if (tx == 0)
            *(float2*)&stats[to * 2] = make_float2(of_row(max[0], max[1], max[2], max[3]),
                                                   of_row(total[0], total[1], total[2], total[3]));
    }
}
