// Idea: a group of blocks walks a row's tree together: each keeps its part of a node's distributions in shared memory, so
//   that a node is read once however many of its children are rejected, and a batch of eight fills the chip.
// Source: the rule is recursive rejection (SpecInfer; Recursive Speculative Decoding) in the closed form of
//   reference/src/decoding/tree.rs; the group is ours, its barrier a counter as in recurrent_fused.
// Shapes: q, p [batch, nodes, vocab], draft, parents, first_child, next_sibling [batch, nodes], accept_u [batch, nodes],
//   sample_u [batch] -> accepted [batch], path, tokens [batch, nodes]. Scratch: state, a ticket and a counter of
//   arrivals per row, all 0 at first; sums [batch, 2, 16]. `parts` <= 16 blocks a row, `segment` tokens each.
// Plan: a block draws a ticket, so the blocks of a group start one after another and none waits for one that cannot
//   start. Tree, tokens and the probabilities that first decisions need come to shared memory in two round trips.
//   Every thread takes every decision; a first child that is accepted costs no pass. A rejection sums the residual:
//   own part, barrier of the group, all parts in order. The further token lies in one part, whose block scans it.
// Numerics: decisions in double on exact inputs; residuals and sums in f32, chains of segment/2048 + 2 + 5 + 16 + 16
//   additions. Parts are added in order by all, so two runs give the same bits.
// Limits: nodes <= 2048; vocab <= 16 segments of shared memory. The first child's rejection is what starts a read:
//   nothing is loaded ahead.
#include "decoding_acceptance.cuh"
#include "release.cuh"

constexpr int THREADS = 512, WARPS = THREADS / 32, MAX_PARTS = 16;

// The part's weights max(p - c q, 0) in shared memory; `plain`: p itself.
struct Kept {
    const float *p, *q;
    float c;
    bool plain;
    __device__ __forceinline__ float4 operator()(i64 t, i64 end) const {
        if (t >= end) return {0.f, 0.f, 0.f, 0.f};
        float4 w = *(const float4*)(p + t);  // zero from the part's end to the next multiple of four
        if (!plain) {
            const float4 d = *(const float4*)(q + t);
            w = {fmaxf(fmaf(-c, d.x, w.x), 0.f), fmaxf(fmaf(-c, d.y, w.y), 0.f), fmaxf(fmaf(-c, d.z, w.z), 0.f),
                 fmaxf(fmaf(-c, d.w, w.w), 0.f)};
        }
        return w;
    }
};

// Copies `count` numbers to shared memory and zeros up to a multiple of four; `aligned`: 16 bytes at a time.
__device__ __forceinline__ void keep(float* to, const float* from, int count, bool aligned) {
    const u32 at = (u32)__cvta_generic_to_shared(to);
    if (aligned) {
#pragma unroll 2
        for (int i = 4 * threadIdx.x; i < count; i += 4 * THREADS)
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at + 4 * i), "l"(from + i) : "memory");
        return;
    }
#pragma unroll 2
    for (int i = threadIdx.x; i < count; i += THREADS)
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(at + 4 * i), "l"(from + i) : "memory");
    if (threadIdx.x < (4 - count % 4) % 4) to[count + threadIdx.x] = 0.f;
}
struct Shared {
    float warps[WARPS], parts[MAX_PARTS];
    LocateShared locate;
    u32 ticket;
};

// The blocks of one row.
struct Group {
    u32* arrived;
    float* sums;  // [2, MAX_PARTS]: two barriers never write the same slots while one is read
    int part, parts;
    u32 epoch;

    // Sum of the weights over all parts, which come to shared.parts; every thread of every block gets it.
    __device__ __forceinline__ float total(const Kept& weights, int count, Shared& shared) {
        float own = 0.f;
#pragma unroll 2
        for (int t = 4 * threadIdx.x; t < count; t += 4 * THREADS) {
            const float4 w = weights(t, count);
            own += (w.x + w.y) + (w.z + w.w);
        }
        own = warp_sum(own);
        if (threadIdx.x % 32 == 0) shared.warps[threadIdx.x / 32] = own;
        __syncthreads();
        float* slots = sums + epoch++ % 2 * MAX_PARTS;
        if (threadIdx.x == 0) {
            float sum = 0.f;
#pragma unroll 1
            for (int i = 0; i < WARPS; ++i) sum += shared.warps[i];
            __stcg(slots + part, sum);
            __threadfence();
            count_release(arrived);
            while (load_acquire(arrived) < epoch * parts) {}
        }
        __syncthreads();
        if (threadIdx.x < parts) shared.parts[threadIdx.x] = __ldcg(slots + threadIdx.x);
        __syncthreads();
        float sum = 0.f;
#pragma unroll 1
        for (int i = 0; i < parts; ++i) sum += shared.parts[i];
        return sum;
    }
};

// A row's tree in shared memory, with what each node's own token is worth to its parent.
struct Nodes {
    int *token, *first, *next;
    float *u, *p, *q;

    __device__ __forceinline__ Nodes(float* at, int nodes)
        : token((int*)at), first((int*)at + nodes), next((int*)at + 2 * nodes), u(at + 3 * nodes), p(at + 4 * nodes),
          q(at + 5 * nodes) {}
    __device__ __forceinline__ bool seen(int node, int child) const {
        bool seen = false;
#pragma unroll 1
        for (int other = first[node]; other != child; other = next[other]) seen |= token[other] == token[child];
        return seen;
    }
};

extern "C" __global__ void __launch_bounds__(THREADS)
    tree_f32(const float* __restrict__ q, const float* __restrict__ p, const int* __restrict__ draft,
             const int* __restrict__ parents, const int* __restrict__ first_child,
             const int* __restrict__ next_sibling, const float* __restrict__ accept_u,
             const float* __restrict__ sample_u, int* __restrict__ accepted, int* __restrict__ path,
             int* __restrict__ tokens, u32* __restrict__ state, float* __restrict__ sums, int nodes, i64 vocab,
             i64 segment, int parts, int drafts) {
    extern __shared__ float4 pool[];
    __shared__ Shared shared;
    if (threadIdx.x == 0) shared.ticket = atomicAdd(state, 1u);
    __syncthreads();
    const i64 row = shared.ticket / parts, tree = row * nodes;
    Group group = {state + 1 + row, sums + row * 2 * MAX_PARTS, (int)(shared.ticket % parts), parts, 0};
    const i64 begin = min(group.part * segment, vocab);
    const int count = (int)(min(begin + segment, vocab) - begin);
    float *kept_p = (float*)pool, *kept_q = kept_p + segment;
    Nodes all(kept_q + segment, nodes);
    q += tree * vocab;
    p += tree * vocab;
    path += tree;
    tokens += tree;
#pragma unroll 1
    for (int i = threadIdx.x; i < nodes; i += THREADS) {
        const int token = draft[tree + i], parent = parents[tree + i];
        all.token[i] = token;
        all.first[i] = first_child[tree + i];
        all.next[i] = next_sibling[tree + i];
        all.u[i] = accept_u[tree + i];
        if (parent < 0) continue;
        all.p[i] = p[parent * vocab + token];
        all.q[i] = drafts == TOP ? 0.f : q[parent * vocab + token];
    }
    __syncthreads();
    const bool aligned = vocab % 4 == 0, writes = group.part == 0 && threadIdx.x == 0, top = drafts == TOP;
    int node = 0, length = 0, child = all.first[0];
    double c = 0.0, s = 1.0, left = 1.0;
    float mass;
    Kept weights = {kept_p, kept_q, 0.f, true};
    bool read = false, vanished = false;
    if (writes) path[0] = 0;
    // Each turn takes decisions until one needs a sum over the vocabulary, then sums.
#pragma unroll 1
    for (;;) {
#pragma unroll 1
        for (bool rejected = false; child >= 0 && !rejected;) {
            const double u = all.u[child], wanted = all.p[child], drafted = all.q[child];
            const bool seen = drafts != INDEPENDENT && all.seen(node, child);
            if (top ? !seen && u * left < wanted : left > LEFT && (c + u * s) * drafted < wanted) {
                node = child;
                if (writes) tokens[length] = all.token[node], path[length + 1] = node;
                ++length;
                child = all.first[node];
                c = 0.0, s = left = 1.0;
                weights.plain = true;
                read = false;
                continue;
            }
            child = all.next[child];
            rejected = !top && left > LEFT;
            if (rejected) c += s;
            if (!seen && (top || rejected && drafts == DISTINCT)) left -= top ? wanted : drafted;
            if (rejected) weights.plain = false, weights.c = (float)c;
        }
        if (!read) {
            __syncthreads();  // what was kept may still be summed
#pragma unroll 1
            for (int i = weights.plain; i < 2; ++i)
                keep(i ? kept_p : kept_q, (i ? p : q) + node * vocab + begin, count, aligned);
            asm volatile("cp.async.wait_all;" ::: "memory");
            __syncthreads();
            read = true;
            if (top && !vanished && threadIdx.x == 0)
#pragma unroll 1
                for (int other = all.first[node]; other >= 0; other = all.next[other]) {
                    const i64 at = all.token[other] - begin;
                    if (at >= 0 && at < count) kept_p[at] = 0.f;
                }
            __syncthreads();
        }
        mass = group.total(weights, count, shared);
        s = (double)mass / left;
        if (child >= 0) continue;
        if (mass > 0.f || vanished) break;
        vanished = weights.plain = true;  // the target itself
        read = false;
    }
    const float threshold = sample_u[row] * mass;
    const Segment at = find_segment(shared.parts, parts, threshold);
    if (at.index == group.part || at.index < 0 && group.part == 0) {
        const int token = locate(weights, 0, count, at.before, threshold, shared.locate);
        if (threadIdx.x == 0) tokens[length] = token < 0 ? -1 : (int)begin + token;
    }
    if (group.part > 0) return;
    if (writes) accepted[row] = length;
#pragma unroll 1
    for (int i = length + 1 + threadIdx.x; i < nodes; i += THREADS) path[i] = tokens[i] = -1;
}
