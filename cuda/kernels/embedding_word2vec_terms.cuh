// The first stages of embedding_word2vec_grouped.cu, which tells the shapes: terms are counted at the row they go to and
// get their place there. What the later stages use too stands in front: moves of four floats, and a batch's terms.
#pragma once
#include "overlap.cuh"
#include "release.cuh"

static constexpr int WARPS = 8, THREADS = WARPS * 32, FEW = 16, PIECE = 256, COPIED = 4;
static constexpr u32 ALL = 0xffffffffu;

__device__ __forceinline__ float4 load_4(const float* at) { return __ldg(reinterpret_cast<const float4*>(at)); }
// Of what an earlier launch writes while this one has begun: not through the read-only path.
__device__ __forceinline__ float4 load_written_4(const float* at) { return *reinterpret_cast<const float4*>(at); }
__device__ __forceinline__ void store_4(float* at, const float4& x) { *reinterpret_cast<float4*>(at) = x; }
__device__ __forceinline__ void stream_4(float* at, const float4& x) { __stcs(reinterpret_cast<float4*>(at), x); }
__device__ __forceinline__ float4 zero_4() { return make_float4(0.f, 0.f, 0.f, 0.f); }
__device__ __forceinline__ void add(float4& sum, float factor, const float4& x) {
    sum.x = fmaf(factor, x.x, sum.x);
    sum.y = fmaf(factor, x.y, sum.y);
    sum.z = fmaf(factor, x.z, sum.z);
    sum.w = fmaf(factor, x.w, sum.w);
}

struct Batch {
    const int *centers, *contexts, *negatives;
    u32 pairs, k;

    __device__ __forceinline__ u32 word(u32 pair, u32 t) const {
        return (u32)(t == 0 ? contexts[pair] : negatives[(i64)pair * k + t - 1]);
    }
    // The row that a term goes to.
    __device__ __forceinline__ u32 row(u32 term, u32 vocab) const {
        if (term < pairs) return (u32)centers[term];
        const u32 target = term - pairs, pair = target / (1 + k);
        return vocab + word(pair, target - pair * (1 + k));
    }
};

// Terms a thread counts, and places for a block's rows: a row whose place another row has goes to memory by itself.
static constexpr int COUNTED = 2, PLACES = 2048;

extern "C" __global__ void __launch_bounds__(THREADS)
    word2vec_count(const int* __restrict__ centers, const int* __restrict__ contexts,
                   const int* __restrict__ negatives, u32* __restrict__ counts, u32* __restrict__ ranks, i64 batch,
                   i64 k, i64 vocab) {
    __shared__ u32 owner[PLACES], tally[PLACES];
    let_next_begin();
    const Batch words{centers, contexts, negatives, (u32)batch, (u32)k};
    const u32 terms = words.pairs * (2 + words.k);
    u32 row[COUNTED], before[COUNTED];
#pragma unroll
    for (int i = 0; i < COUNTED; ++i) {
        const u32 term = (blockIdx.x * COUNTED + i) * THREADS + threadIdx.x;
        row[i] = term < terms ? words.row(term, (u32)vocab) : ALL;
    }
    for (int place = threadIdx.x; place < PLACES; place += THREADS) owner[place] = ALL, tally[place] = 0;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < COUNTED; ++i)
        if (row[i] != ALL) atomicMin(owner + row[i] % PLACES, row[i]);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < COUNTED; ++i) {
        before[i] = ALL;
        if (row[i] == ALL) continue;
        if (owner[row[i] % PLACES] == row[i]) before[i] = atomicAdd(tally + row[i] % PLACES, 1u);
    }
    __syncthreads();
    // From here on a place's tally is where its row's numbers begin.
    u32 here[PLACES / THREADS];
#pragma unroll
    for (int i = 0; i < PLACES / THREADS; ++i) here[i] = tally[i * THREADS + threadIdx.x];
#pragma unroll
    for (int i = 0; i < PLACES / THREADS; ++i)
        if (here[i] > 0) here[i] = atomicAdd(counts + owner[i * THREADS + threadIdx.x], here[i]);
#pragma unroll
    for (int i = 0; i < PLACES / THREADS; ++i) tally[i * THREADS + threadIdx.x] = here[i];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < COUNTED; ++i) {
        if (row[i] == ALL) continue;
        const u32 term = (blockIdx.x * COUNTED + i) * THREADS + threadIdx.x;
        ranks[term] = before[i] == ALL ? atomicAdd(counts + row[i], 1u) : tally[row[i] % PLACES] + before[i];
    }
}

// Exclusive sum over the block's threads in thread order; `total` gets the sum of all. `partial` holds 8 words.
__device__ __forceinline__ u32 block_exclusive_sum(u32 x, u32* partial, u32& total) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const u32 sum = warp_sum_so_far(x);
    if (lane == 31) partial[warp] = sum;
    __syncthreads();
    u32 before = 0;
    total = 0;
#pragma unroll
    for (int w = 0; w < WARPS; ++w) {
        before += w < warp ? partial[w] : 0;
        total += partial[w];
    }
    __syncthreads();
    return before + sum - x;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    word2vec_place(const u32* counts, u32* __restrict__ starts, u32* __restrict__ sizes,
                   uint4* __restrict__ few, uint4* __restrict__ pieces, i64 rows, u32 direct) {
    __shared__ u32 partial[WARPS], base[3];
    let_next_begin();
    wait_for_launches();
    const u32 row = blockIdx.x * THREADS + threadIdx.x;
    const u32 count = row < rows ? counts[row] : 0;
    const u32 is_few = count > (direct ? 1 : 0) && count <= FEW, n = count > FEW ? (count + PIECE - 1) / PIECE : 0;
    u32 total[3];
    const u32 before = block_exclusive_sum(count, partial, total[0]);
    const u32 few_before = block_exclusive_sum(is_few, partial, total[1]);
    const u32 pieces_before = block_exclusive_sum(n, partial, total[2]);
    if (threadIdx.x < 3) {
        const u32 asked = total[threadIdx.x];
        base[threadIdx.x] = asked ? atomicAdd(sizes + threadIdx.x, asked) : 0;
    }
    __syncthreads();
    const u32 start = base[0] + before;
    if (row < rows) starts[row] = start;
    if (is_few) few[base[1] + few_before] = make_uint4(row, start, count, 0);
    for (u32 i = 0; i < n; ++i) pieces[base[2] + pieces_before + i] = make_uint4(row, start, count, i);
}
