// Idea: one block a query: scores of all it sees, a softmax, and the mean of the values.
// Source: Vaswani et al. 2017, equation 1; Cai et al. 2024, section 2.1.2 (what a node of a tree sees).
// Shapes: q, o [batch, nodes, heads_q, dim]; k, v [batch, seq_k, heads_kv, dim]; k_tree, v_tree
//   [batch, nodes, heads_kv, dim]; parents [batch, nodes]; scores: f32 scratch [batch, nodes, heads_q, seq_k + nodes];
//   lse [batch, nodes, heads_q].
// Plan: 128 threads; first a thread takes every 128th key, then every 128th output value. Whether a key of the tree is
//   seen is asked of the parents, from the query's node down to the key's.
// Numerics: f32, expf; values of any type, known when it runs.
// Limits: every query of every head reads the whole cache again.
#include "any_dtype.cuh"
#include "decoding.cuh"

namespace {

// Whether `node` is `other` or stands behind it.
__device__ bool behind(const int* parents, int node, int other) {
    while (node > other) node = parents[node];
    return node == other;
}

}  // namespace

extern "C" __global__ void __launch_bounds__(128)
    tree_attention(const void* q, const void* k, const void* v, const void* k_tree, const void* v_tree,
                   const int* parents, const int* lengths, float* scores, void* o, float* lse, int dtype, i64 nodes,
                   i64 seq_k, i64 heads_q, i64 heads_kv, i64 dim, float scale) {
    __shared__ float shared[4];
    const i64 row = blockIdx.x, b = row / heads_q / nodes, head = row % heads_q / (heads_q / heads_kv);
    const int node = (int)(row / heads_q % nodes), length = lengths[b], keys = length + node + 1;
    parents += b * nodes;
    // Of key j, in the cache or in the tree.
    auto at = [&](int j) {
        const i64 position = j < length ? b * seq_k + j : b * nodes + j - length;
        return (position * heads_kv + head) * dim;
    };
    float* s = scores + row * (seq_k + nodes);
    const float hidden = __int_as_float(0xff800000);
    float max = hidden;
#pragma unroll 1
    for (int j = threadIdx.x; j < keys; j += 128) {
        float sum = 0.f;
        const void* keys_at = j < length ? k : k_tree;
#pragma unroll 1
        for (i64 d = 0; d < dim; ++d) sum = fmaf(load(q, row * dim + d, dtype), load(keys_at, at(j) + d, dtype), sum);
        s[j] = j < length || behind(parents, node, j - length) ? scale * sum : hidden;
        max = fmaxf(max, s[j]);
    }
    max = over_block(max, shared, Larger());
    float total = 0.f;
#pragma unroll 1
    for (int j = threadIdx.x; j < keys; j += 128) {
        s[j] = expf(s[j] - max);
        total += s[j];
    }
    total = over_block(total, shared, Add());
    __syncthreads();
#pragma unroll 1
    for (i64 d = threadIdx.x; d < dim; d += 128) {
        float sum = 0.f;
#pragma unroll 1
        for (int j = 0; j < keys; ++j) sum = fmaf(s[j], load(j < length ? v : v_tree, at(j) + d, dtype), sum);
        store(o, row * dim + d, sum / total, dtype);
    }
    if (threadIdx.x == 0) lse[row] = max + logf(total);
}
