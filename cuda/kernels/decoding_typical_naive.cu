// Idea: the definition as it reads: a thread a node for its entropy, then a thread a row for its path.
// Source: Cai et al., Medusa, 2024, section 2.3.1.
// Shapes: p [batch, nodes, vocab], draft, parents, first_child [batch, nodes] -> accepted [batch], path, tokens
//   [batch, nodes]. Scratch: entropies [batch, nodes] (double), of nodes with children.
// Plan: `entropies`, a thread a node; `choose`, a thread a row, marks accepted nodes in `path` as it goes.
// Numerics: everything in double.
// Limits: none; neighbouring threads read addresses a vocabulary apart.
#include "decoding_typical.cuh"

extern "C" __global__ void entropies_f32(const float* __restrict__ p, const int* __restrict__ first_child,
                                         double* __restrict__ entropies, i64 all, i64 vocab) {
    const i64 node = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (node >= all || first_child[node] < 0) return;
    double entropy = 0.0;
#pragma unroll 1
    for (i64 t = 0; t < vocab; ++t) {
        const double w = p[node * vocab + t];
        if (w > 0.0) entropy -= w * log(w);
    }
    entropies[node] = entropy;
}

extern "C" __global__ void choose_f32(const float* __restrict__ p, const int* __restrict__ draft,
                                      const int* __restrict__ parents, const double* __restrict__ entropies,
                                      int* __restrict__ accepted, int* __restrict__ path, int* __restrict__ tokens,
                                      i64 batch, i64 nodes, i64 vocab, double epsilon, double delta) {
    const i64 row = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= batch) return;
    p += row * nodes * vocab;
    draft += row * nodes;
    parents += row * nodes;
    entropies += row * nodes;
    path += row * nodes;
    tokens += row * nodes;
    int best = 0, deepest = 0;
    double likeliest = 1.0;
    // A node is accepted if all tokens between it and the root are typical.
#pragma unroll 1
    for (int node = 1; node < nodes; ++node) {
        if (parents[node] < 0) continue;
        bool typical = true;
        int depth = 0;
        for (int at = node; typical && at > 0; at = parents[at], ++depth) {
            const int parent = parents[at];
            typical = is_typical(p[parent * vocab + draft[at]], entropies[parent], epsilon, delta);
        }
        if (!typical || depth < deepest) continue;
        // From the root on, as the reference multiplies: the order of its roundings decides ties.
        double product = 1.0;
        for (int level = 1; level <= depth; ++level) {
            int at = node;
            for (int up = level; up < depth; ++up) at = parents[at];
            product *= (double)p[parents[at] * vocab + draft[at]];
        }
        if (depth == deepest && !(product > likeliest)) continue;
        best = node;
        deepest = depth;
        likeliest = product;
    }
    int token = 0;
#pragma unroll 1
    for (i64 t = 1; t < vocab; ++t)
        if (p[best * vocab + t] > p[best * vocab + token]) token = (int)t;
    accepted[row] = deepest;
#pragma unroll 1
    for (int i = deepest + 1; i < nodes; ++i) path[i] = tokens[i] = -1;
    tokens[deepest] = token;
#pragma unroll 1
    for (int at = best, i = deepest; i >= 0; --i) {
        path[i] = at;
        if (i > 0) tokens[i - 1] = draft[at], at = parents[at];
    }
}
