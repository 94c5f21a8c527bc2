// Idea: many blocks take the entropies of all nodes that may matter at once; then many blocks share the last argmax.
// Source: Cai et al., Medusa, 2024, section 2.3.1; splitting a row as in acceptance_split.
// Shapes: p [batch, nodes, vocab], draft, parents, first_child [batch, nodes] -> accepted [batch], path, tokens
//   [batch, nodes]. Scratch: sums [batch, nodes, segments], Σ p·log2(p) of each segment; keys [batch] and done [batch],
//   0 at first. A row of p has `segments` of `segment` tokens.
// Plan: `entropies`, a block a segment of a node. No entropy exceeds ln(vocab), so a token below min(ε, δ/vocab)
//   cannot be typical: a node behind such a one, and a node without children, is not read. `choose`, a block a segment
//   of a row: every block decides the row again from the sums, a thread a node, then takes the argmax of its segment of
//   the last node; the largest key wins by an atomic maximum, and the last block of a row writes it out.
// Numerics: logarithms and sums in f32, chains of segment/1024 + 3 + 5 + 8 and `segments` additions; thresholds and
//   products of probabilities in double. A maximum does not depend on order, so two runs give the same bits.
// Limits: nodes <= 512. Nodes that another node's threshold rules out are read all the same.
#include "decoding_typical.cuh"

constexpr int THREADS = 256, WARPS = THREADS / 32, MAX_NODES = 512;

// p log2 p of tokens t .. t + 3.
struct Surprise {
    const float* p;
    bool aligned;
    __device__ __forceinline__ static float of(float p) { return p > 0.f ? p * __log2f(p) : 0.f; }
    __device__ __forceinline__ float4 operator()(i64 t, i64 end) const {
        const float4 w = weight4(p, nullptr, t, end, aligned);
        return {of(w.x), of(w.y), of(w.z), of(w.w)};
    }
};

extern "C" __global__ void __launch_bounds__(THREADS)
    entropies_f32(const float* __restrict__ p, const int* __restrict__ draft, const int* __restrict__ parents,
                  const int* __restrict__ first_child, float* __restrict__ sums, int nodes, i64 vocab, i64 segment,
                  int segments, double epsilon, double delta) {
    const i64 node = blockIdx.x / segments, index = blockIdx.x % segments, tree = node / nodes * nodes;
    if (first_child[node] < 0) return;
    const double least = 0.999 * fmin(epsilon, delta / (double)vocab);
    for (i64 at = node; at != tree; at = tree + parents[at])
        if ((double)p[(tree + parents[at]) * vocab + draft[at]] < least) return;
    const i64 begin = index * segment, end = min(begin + segment, vocab);
    const float sum = block_sum<THREADS>(Surprise{p + node * vocab, vocab % 4 == 0}, begin, end);
    if (threadIdx.x == 0) sums[node * segments + index] = sum;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    choose_f32(const float* __restrict__ p, const int* __restrict__ draft, const int* __restrict__ parents,
               const int* __restrict__ first_child, const float* __restrict__ sums, u64* __restrict__ keys,
               u32* __restrict__ done, int* __restrict__ accepted, int* __restrict__ path, int* __restrict__ tokens,
               int nodes, i64 vocab, i64 segment, int segments, double epsilon, double delta) {
    __shared__ int parent_of[MAX_NODES], depth_of[MAX_NODES];
    __shared__ float likely[MAX_NODES];  // of a node's own token
    __shared__ double share[MAX_NODES];  // threshold for a node's children
    __shared__ double worth[MAX_NODES];
    __shared__ u64 parts[WARPS];
    const i64 row = blockIdx.x / segments, index = blockIdx.x % segments, tree = row * nodes;
    p += tree * vocab;
    draft += tree;
    parents += tree;
    const double least = 0.999 * fmin(epsilon, delta / (double)vocab);
#pragma unroll 1
    for (int node = threadIdx.x; node < nodes; node += THREADS) {
        const int parent = parents[node];
        parent_of[node] = parent;
        likely[node] = parent < 0 ? 0.f : p[parent * vocab + draft[node]];
    }
    __syncthreads();
#pragma unroll 1
    for (int node = threadIdx.x; node < nodes; node += THREADS) {
        bool summed = first_child[tree + node] >= 0 && (node == 0 || parent_of[node] >= 0);
        for (int at = node; summed && at > 0; at = parent_of[at]) summed = (double)likely[at] >= least;
        float sum = 0.f;
        if (summed)
#pragma unroll 1
            for (int i = 0; i < segments; ++i) sum += sums[(tree + node) * segments + i];
        share[node] = fmin(epsilon, delta * exp((double)sum * 0.69314718055994531));
    }
    __syncthreads();
    // Depth of a node that is accepted, 0 for others, and the product of probabilities in the order of the reference.
#pragma unroll 1
    for (int node = 1 + threadIdx.x; node < nodes; node += THREADS) {
        int depth = 0;
#pragma unroll 1
        for (int at = node; at > 0; at = parent_of[at], ++depth)
            if (parent_of[at] < 0 || !((double)likely[at] > share[parent_of[at]])) {
                depth = 0;
                break;
            }
        double product = 1.0;
#pragma unroll 1
        for (int level = 1; level <= depth; ++level) {
            int at = node;
#pragma unroll 1
            for (int up = level; up < depth; ++up) at = parent_of[at];
            product *= (double)likely[at];
        }
        depth_of[node] = depth;
        worth[node] = product;
    }
    __syncthreads();
    int best = 0, deepest = 0;
    double likeliest = 1.0;
#pragma unroll 1
    for (int node = 1; node < nodes; ++node) {
        const int depth = depth_of[node];
        if (depth == 0 || depth < deepest || depth == deepest && !(worth[node] > likeliest)) continue;
        best = node;
        deepest = depth;
        likeliest = worth[node];
    }
    const i64 begin = index * segment, end = min(begin + segment, vocab);
    const u64 found = largest_key(p + best * vocab, begin, end, vocab % 4 == 0, threadIdx.x, THREADS);
    const u64 key = warp_larger(found);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = key;
    __syncthreads();
    if (threadIdx.x > 0) return;
    u64 largest = parts[0];
#pragma unroll 1
    for (int i = 1; i < WARPS; ++i) largest = larger(largest, parts[i]);
    atomicMax(keys + row, largest);
    __threadfence();
    if (atomicAdd(done + row, 1u) != segments - 1) return;
    __threadfence();
    path += tree;
    tokens += tree;
    accepted[row] = deepest;
#pragma unroll 1
    for (int i = deepest + 1; i < nodes; ++i) path[i] = tokens[i] = -1;
    tokens[deepest] = argmax_token(atomicMax(keys + row, 0ull));
#pragma unroll 1
    for (int at = best, i = deepest; i >= 0; --i) {
        path[i] = at;
        if (i > 0) tokens[i - 1] = draft[at], at = parent_of[at];
    }
}
