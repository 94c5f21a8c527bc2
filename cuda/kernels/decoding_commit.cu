// Idea: what a pass has accepted becomes part of the cache where it lies: the next pass needs no copy through the host.
// Source: ours; the cache of Miao et al. 2024 (SpecInfer), section 5.3, is compacted after each step as well.
// Shapes: k_tree, v_tree [layers, batch, nodes, hidden], accepted [batch], path [batch, nodes] -> k_cache, v_cache
//   [layers, batch, seq_k, hidden] from position lengths[b] on, and lengths [batch] grown by accepted + 1.
// Plan: a block a sequence, 128 threads over the values of each row; the length is read by all before it is written.
// Numerics: copies.
// Limits: a sequence that would outgrow seq_k stays as it is, and its length tells.
#include "numeric.cuh"

extern "C" __global__ void __launch_bounds__(128)
    commit(const float* k_tree, const float* v_tree, const int* accepted, const int* path, float* k_cache,
           float* v_cache, int* lengths, i64 layers, i64 nodes, i64 seq_k, i64 hidden) {
    const i64 b = blockIdx.x, batch = gridDim.x, length = lengths[b];
    const int more = accepted[b] + 1;
    if (length + more > seq_k) return;
#pragma unroll 1
    for (i64 at = threadIdx.x; at < layers * more * hidden; at += 128) {
        const i64 d = at % hidden, row = at / hidden % more, layer = at / hidden / more * batch + b;
        const i64 from = (layer * nodes + path[b * nodes + row]) * hidden + d;
        const i64 to = (layer * seq_k + length + row) * hidden + d;
        k_cache[to] = k_tree[from];
        v_cache[to] = v_tree[from];
    }
    __syncthreads();
    if (threadIdx.x == 0) lengths[b] = (int)length + more;
}
