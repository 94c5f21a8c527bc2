// Idea: after a sort by row, equal rows are neighbours: sum each run without atomics, in a fixed order.
// Source: the segmented reduction of Sengupta et al. 2007, "Scan Primitives for GPU Computing", over fixed chunks.
// Shapes: keys [n] u32 ascending, entries [n] u32 → sums [·, dim] f32, row key += Σ factors[e] · terms[rows[e], :]
//         over the entries e of that key. rows null: e itself; factors null: 1. heads, tails [chunks, dim] f32.
// Plan: segment_sum: a warp a chunk of 64 entries, a lane 4 columns, 8 rows in flight. A run inside the chunk goes to
//       sums; the piece of a run from the chunk before goes to heads, the start of one that goes on to tails.
//       segment_join: a block for each chunk in which a run starts that goes on: adds its tail and the heads of the
//       chunks it covers, dealt to 8 warps, so that a word that occurs 10⁵ times is no sequential sum.
// Numerics: f32, the order depends on the entries alone: two runs give equal bits.
// Limits: dim % 4 == 0; rows of sums that no key names are left as they are, so zero them before.
#include "numeric.cuh"

static constexpr int CHUNK = 64, WARPS = 8, FLIGHT = 8;

__device__ __forceinline__ float4 load_4(const float* at) { return __ldg(reinterpret_cast<const float4*>(at)); }
template <typename T> __device__ __forceinline__ float4 load_4(const T* at) {
    const uint2 word = __ldg(reinterpret_cast<const uint2*>(at));
    const T* x = reinterpret_cast<const T*>(&word);
    return make_float4(to_float(x[0]), to_float(x[1]), to_float(x[2]), to_float(x[3]));
}
__device__ __forceinline__ void add(float4& sum, float factor, const float4& x) {
    sum.x = fmaf(factor, x.x, sum.x);
    sum.y = fmaf(factor, x.y, sum.y);
    sum.z = fmaf(factor, x.z, sum.z);
    sum.w = fmaf(factor, x.w, sum.w);
}
__device__ __forceinline__ void store_4(float* at, const float4& x) { *reinterpret_cast<float4*>(at) = x; }

// A chunk's entries, read once by its warp.
struct Entries {
    u32 key[CHUNK], row[CHUNK];
    float factor[CHUNK];
};

template <typename T>
__device__ void segment_sum(const u32* __restrict__ keys, const u32* __restrict__ entries, const u32* __restrict__ rows,
                            const float* __restrict__ factors, const T* __restrict__ terms, float* __restrict__ sums,
                            float* __restrict__ heads, float* __restrict__ tails, i64 n, i64 dim) {
    __shared__ Entries shared[WARPS];
    const int lane = threadIdx.x % 32;
    Entries& chunk = shared[threadIdx.x / 32];
    const i64 which = (i64)blockIdx.x * WARPS + threadIdx.x / 32, first = which * CHUNK;
    if (first >= n) return;
    const int held = (int)(n - first < CHUNK ? n - first : CHUNK);
    for (int i = lane; i < held; i += 32) {
        const u32 entry = entries[first + i];
        chunk.key[i] = keys[first + i];
        chunk.row[i] = rows ? rows[entry] : entry;
        chunk.factor[i] = factors ? factors[entry] : 1.f;
    }
    __syncwarp();
    const bool from_before = first > 0 && keys[first - 1] == chunk.key[0];
    const bool goes_on = first + held < n && keys[first + held] == chunk.key[held - 1];
    for (i64 column = lane * 4; column < dim; column += 128) {
        float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
        bool is_head = from_before;
        for (int base = 0; base < held; base += FLIGHT) {
            float4 x[FLIGHT];
#pragma unroll
            for (int f = 0; f < FLIGHT; ++f)
                if (base + f < held) x[f] = load_4(terms + (i64)chunk.row[base + f] * dim + column);
#pragma unroll
            for (int f = 0; f < FLIGHT; ++f) {
                const int i = base + f;
                if (i >= held) break;
                add(sum, chunk.factor[i], x[f]);
                if (i + 1 < held && chunk.key[i + 1] == chunk.key[i]) continue;
                float* to = sums + (i64)chunk.key[i] * dim;
                if (is_head) to = heads + which * dim;
                else if (i + 1 == held && goes_on) to = tails + which * dim;
                store_4(to + column, sum);
                sum = make_float4(0.f, 0.f, 0.f, 0.f);
                is_head = false;
            }
        }
    }
}

// The last chunk that begins with `key`, given that chunk `low` does: strides that double, as most runs are short, until
// one goes too far, then halving.
__device__ __forceinline__ i64 last_chunk_of(const u32* __restrict__ keys, u32 key, i64 low, i64 n) {
    const i64 chunks = (n + CHUNK - 1) / CHUNK;
    i64 high = low + 1, stride = 1;
    while (high < chunks && keys[high * CHUNK] == key) {
        low = high;
        stride *= 2;
        high = low + stride;
    }
    if (high > chunks) high = chunks;
    while (high - low > 1) {
        const i64 middle = (low + high) / 2;
        if (keys[middle * CHUNK] == key) low = middle;
        else high = middle;
    }
    return low;
}

extern "C" __global__ void __launch_bounds__(WARPS * 32)
    segment_join(const u32* __restrict__ keys, const float* __restrict__ heads, const float* __restrict__ tails,
                 float* __restrict__ sums, i64 n, i64 dim) {
    __shared__ float4 partial[WARPS][32];
    const i64 which = blockIdx.x, first = which * CHUNK, end = first + CHUNK;
    if (end >= n) return;
    const u32 key = keys[end - 1];
    const bool goes_on = keys[end] == key;
    const bool starts_here = first == 0 || keys[first - 1] != key;
    if (!goes_on || !starts_here) return;
    const i64 last = last_chunk_of(keys, key, which + 1, n);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (i64 tile = 0; tile < dim; tile += 128) {
        const i64 column = tile + lane * 4;
        float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
        if (column < dim)
#pragma unroll 4
            for (i64 head = which + 1 + warp; head <= last; head += WARPS) add(sum, 1.f, load_4(heads + head * dim + column));
        partial[warp][lane] = sum;
        __syncthreads();
        if (warp == 0 && column < dim) {
            float4 total = load_4(tails + which * dim + column);
            for (int w = 0; w < WARPS; ++w) add(total, 1.f, partial[w][lane]);
            store_4(sums + (i64)key * dim + column, total);
        }
        __syncthreads();
    }
}

#define SEGMENT_SUM(T, suffix)                                                                                        \
    extern "C" __global__ void __launch_bounds__(WARPS * 32) segment_sum_##suffix(                                    \
        const u32* keys, const u32* entries, const u32* rows, const float* factors, const T* terms, float* sums,      \
        float* heads, float* tails, i64 n, i64 dim) {                                                                 \
        segment_sum<T>(keys, entries, rows, factors, terms, sums, heads, tails, n, dim);                              \
    }
SEGMENT_SUM(float, f32)
SEGMENT_SUM(__half, f16)
SEGMENT_SUM(__nv_bfloat16, bf16)
