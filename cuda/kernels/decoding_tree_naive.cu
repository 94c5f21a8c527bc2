// Idea: the definition as it reads: one thread walks one row's tree from the root.
// Source: Miao et al., SpecInfer, 2024, algorithm 2; Jeon et al., Recursive Speculative Decoding, 2024.
// Shapes: q, p [batch, nodes, vocab], draft, first_child, next_sibling [batch, nodes], accept_u [batch, nodes],
//   sample_u [batch] -> accepted [batch], path, tokens [batch, nodes].
// Plan: one thread a row; a sum over the vocabulary for every rejected child, two passes for the further token.
// Numerics: everything in double.
// Limits: none; neighbouring threads read addresses a tree apart, which wastes most of each memory transaction.
#include "decoding_acceptance.cuh"

// Weight of token t once the children `first` .. are rejected.
__device__ double residual(const float* p, const float* q, double c, i64 t, bool top, const int* draft,
                           const int* next_sibling, int first) {
    if (!top) return fmax((double)p[t] - (c > 0.0 ? c * (double)q[t] : 0.0), 0.0);
#pragma unroll 1
    for (int child = first; child >= 0; child = next_sibling[child])
        if (draft[child] == t) return 0.0;
    return p[t];
}

extern "C" __global__ void tree_f32(const float* __restrict__ q, const float* __restrict__ p,
                                    const int* __restrict__ draft, const int* __restrict__ first_child,
                                    const int* __restrict__ next_sibling, const float* __restrict__ accept_u,
                                    const float* __restrict__ sample_u, int* __restrict__ accepted,
                                    int* __restrict__ path, int* __restrict__ tokens, i64 batch, i64 nodes, i64 vocab,
                                    int drafts) {
    const i64 row = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= batch) return;
    const i64 tree = row * nodes;
    q += tree * vocab;
    p += tree * vocab;
    draft += tree;
    first_child += tree;
    next_sibling += tree;
    path += tree;
    tokens += tree;
    const bool top = drafts == TOP;
    int node = 0, count = 0;
    double c;
    path[0] = 0;
#pragma unroll 1
    for (;;) {
        const float *target = p + node * vocab, *drafted = q + node * vocab;
        double s = 1.0, left = 1.0;
        c = 0.0;
        int child = first_child[node];
#pragma unroll 1
        for (; child >= 0; child = next_sibling[child]) {
            const int t = draft[child];
            const double u = accept_u[tree + child], wanted = target[t];
            bool seen = false;
#pragma unroll 1
            for (int other = first_child[node]; other != child; other = next_sibling[other]) seen |= draft[other] == t;
            if (top) {
                if (!seen && u * left < wanted) break;
                if (!seen) left -= wanted;
                continue;
            }
            if (!(left > LEFT)) continue;
            if ((c + u * s) * (double)drafted[t] < wanted) break;
            if (drafts == DISTINCT && !seen) left -= (double)drafted[t];
            c += s;
            double mass = 0.0;
#pragma unroll 1
            for (i64 i = 0; i < vocab; ++i) mass += residual(target, drafted, c, i, false, draft, next_sibling, -1);
            s = mass / left;
        }
        if (child < 0) break;
        node = child;
        tokens[count++] = draft[child];
        path[count] = child;
    }
    const float *target = p + node * vocab, *drafted = q + node * vocab;
    double mass = 0.0, running = 0.0;
    int token = -1, rejected = first_child[node];
#pragma unroll 1
    for (i64 t = 0; t < vocab; ++t) mass += residual(target, drafted, c, t, top, draft, next_sibling, rejected);
    if (mass == 0.0) {  // a residual that vanishes: the target itself
        c = 0.0;
        rejected = -1;
#pragma unroll 1
        for (i64 t = 0; t < vocab; ++t) mass += (double)target[t];
    }
    const double threshold = sample_u[row] * mass;
#pragma unroll 1
    for (i64 t = 0; t < vocab; ++t) {
        const double w = residual(target, drafted, c, t, top, draft, next_sibling, rejected);
        if (!(w > 0.0)) continue;
        token = (int)t;
        running += w;
        if (running > threshold) break;
    }
    accepted[row] = count;
    tokens[count] = token;
#pragma unroll 1
    for (i64 i = count + 1; i < nodes; ++i) path[i] = tokens[i] = -1;
}
