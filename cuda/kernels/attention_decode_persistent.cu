// Idea: as many blocks as there are multiprocessors share the keys of all sequences evenly, wherever sequences begin and end,
//   and the copy engine runs ahead of what is computed, across those borders too.
// Source: Dao et al. 2023 (Flash-Decoding); Osama et al. 2023 (Stream-K: even shares of all work, whatever its tiles); Ye et
//   al. 2025 (FlashInfer: the same for ragged batches); Ainslie et al. 2023 (query heads in groups).
// Shapes: as attention_decode_tensor_core.cu, but sums f32 [parts + batch, heads_q, head_dim] and stats f32 [parts + batch,
//   heads_q, 2], where part p of sequence b has place p + b: in their order both never fall and one rises. Of a paged cache
//   the table names pages of `rows` keys at least, of a contiguous one a sequence is a page.
// Plan: a block of 8 computing warps and one that fetches takes one of `parts` equal shares of the tiles of 128 keys of one key
//   head and 8 query heads. The fetching warp starts tensor copies of K and V, `rows` keys each, into two stages of shared
//   memory. A warp takes 16 keys of a tile: S^T = K Q^T and O^T = V^T P^T as in attention_decode_tensor_core.cu, operands by
//   ldmatrix. The last block to finish a sequence combines its parts, all of which it asks for at once.
// Numerics: those of attention_decode_tensor_core.cu, but a product's values are in order; lg2.approx in lse.
// Limits: bound by memory; heads of up to 64 values are padded to 128; groups beyond 8 heads read K and V once for each 8. Bulk
//   copies of a row each, 256 bytes, reach a quarter of the memory's rate on an H200: a lane starts one in 32 ns.
// Tried: with blocks that note the time (decode_long on an H200, cold; METHODOLOGY.md has the figures): not better are copies
//   that are evicted first, 256 bytes fetched for 128 asked for, descriptors asked for ahead, boxes of 32 or 64 keys. Copies
//   alone: K and V in stages of their own or tiles dealt in turn gain 0 to 1 %, two heads and 64 keys a block, which are 132
//   blocks for the 128 of one head, 1 %; the sums of all heads of a block would be many more to combine.
// Target: compute_90a
// Twin: f16
#include "attention_cache.cuh"
#include "attention_decode_splits.cuh"
#include "attention_mma.cuh"
#include "hopper.cuh"

namespace {

typedef __nv_bfloat16 T;
enum : int { WARPS = 8, STAGES = 2, STEP = 16, HEADS = 8, DIM = 128, TILE = WARPS * STEP, ROW = 128, HALF = TILE * ROW, AT_ONCE = 17 };

// The computing warps of a block wait for each other.
struct Together {
    __device__ __forceinline__ void operator()() const { named_sync(1, WARPS * 32); }
};

struct Sizes {
    int dim, batch, heads_q, heads_kv, parts, rows;
};

struct Shared {
    alignas(1024) unsigned char rows[STAGES][2][2][TILE][ROW];  // of K and V, each half of a head, swizzled
    float sums[WARPS][HEADS][DIM + 4], max[WARPS][HEADS], total[WARPS][HEADS];  // of each warp
    int last;
    alignas(8) u64 full[STAGES], free[STAGES];
    int tiles, first, before;
};

__device__ __forceinline__ int tiles_of(int length) { return (length + TILE - 1) / TILE; }

// A block's share of the tiles of all sequences, in their order: begin .. end of `tiles`, which `parts` blocks take; it
// begins in sequence `b`, of which `before` tiles are the first.
struct Share {
    int tiles, parts, begin, end, b, before;

    // Whose share a tile is. The plan sees to it that products of tiles and parts fit.
    __device__ __forceinline__ int part_of(int tile) const { return (int)(((u32)(tile + 1) * parts - 1) / tiles); }
    // Where a part's share begins.
    __device__ __forceinline__ int begin_of(int part) const { return (int)((u32)part * tiles / parts); }
};

// One warp adds up all tiles and finds the sequence that the block's share begins in.
__device__ __forceinline__ void find_share(Shared& shared, const int* lengths, const Sizes& n, int part) {
    const int lane = threadIdx.x % 32;
    int tiles = 0;
#pragma unroll 1
    for (int b = lane; b < n.batch; b += 32) tiles += tiles_of(lengths[b]);
    tiles = __reduce_add_sync(0xffffffffu, tiles);
    const int parts = min(n.parts, tiles), begin = part < parts ? Share{tiles, parts}.begin_of(part) : 0;
    int before = 0;
    if (lane == 0) shared.tiles = tiles;
    if (tiles == 0) {
        if (lane == 0) shared.first = shared.before = 0;
        return;
    }
#pragma unroll 1
    for (int b0 = 0; b0 < n.batch; b0 += 32) {
        const int mine = b0 + lane < n.batch ? tiles_of(lengths[b0 + lane]) : 0;
        const int upto = warp_sum_so_far(mine);
        const u32 reached = __ballot_sync(0xffffffffu, before + upto > begin);
        if (reached != 0) {
            if (lane == __ffs(reached) - 1) shared.first = b0 + lane, shared.before = before + upto - mine;
            return;
        }
        before += __shfl_sync(0xffffffffu, upto, 31);
    }
}

// All that the first copies need is made by the warp that starts them: it waits for nobody.
__device__ __forceinline__ void open_share(Shared& shared, const int* lengths, const Sizes& n, int part) {
    const u32 full = (u32)__cvta_generic_to_shared(shared.full), freed = (u32)__cvta_generic_to_shared(shared.free);
    if (threadIdx.x % 32 == 0) {
        for (int stage = 0; stage < STAGES; ++stage)
            barrier_init(full + 8 * stage, 1), barrier_init(freed + 8 * stage, WARPS * 32);
        barrier_init_done();
    }
    find_share(shared, lengths, n, part);
    __syncwarp();
    named_arrive(2, WARPS * 32 + 32);
}

// Starts the copies of all tiles of a share: of K and of V, each half of a head, `rows` keys at a time.
__device__ __forceinline__ void fetch(Shared& shared, const Share& share, const TensorMap* k, const TensorMap* v,
                                      const Cache& cache, const int* lengths, const Sizes& n, int head) {
    const int lane = threadIdx.x % 32, copies = TILE / n.rows * 4;
    const u32 full = (u32)__cvta_generic_to_shared(shared.full), freed = (u32)__cvta_generic_to_shared(shared.free);
    int turn = 0, before = share.before;
#pragma unroll 1
    for (int at = share.begin, b = share.b; at < share.end; ++b) {
        const int length = lengths[b], tiles = tiles_of(length), stop = min(share.end, before + tiles);
#pragma unroll 1
        for (; at < stop; ++at, ++turn) {
            const int stage = turn % STAGES;
            const u32 to = (u32)__cvta_generic_to_shared(&shared.rows[stage][0][0][0][0]);
            barrier_wait(freed + 8 * stage, (turn / STAGES & 1) ^ 1);
            if (lane == 0) barrier_expect(full + 8 * stage, 4 * HALF);
            __syncwarp();
#pragma unroll 1
            for (int x = lane; x < copies; x += 32) {
                const int row = x / 4 * n.rows, which = x % 4;
                int j = (at - before) * TILE + row, page = b;
                if (cache.table) {
                    // Behind a sequence's end any rows will do, such as those of its last page.
                    if (j >= length) j = (length - 1) / n.rows * n.rows;
                    page = cache.table[b * cache.pages + (j >> cache.page_shift)];
                    j &= (1 << cache.page_shift) - 1;
                }
                copy_box(to + which * HALF + row * ROW, which < 2 ? k : v, full + 8 * stage, which % 2 * 64, head, j, page);
            }
        }
        before += tiles;
    }
}

// A warp's part of a sequence: sums of probabilities times values of its 16 keys of each tile.
struct Part {
    u32 query[DIM / 16][2];
    float sum[DIM / 16][4], max[2], total[2];
    int lane;

    __device__ __forceinline__ void begin(const T* q, int heads, int dim) {
        lane = threadIdx.x % 32;
#pragma unroll
        for (int u = 0; u < DIM / 8; ++u) {
            const int d = u * 8 + lane % 4 * 2;
            query[u / 2][u % 2] = lane / 4 < heads && d < dim ? *(const u32*)(q + lane / 4 * dim + d) : 0;
        }
        max[0] = max[1] = NEG_INFINITY, total[0] = total[1] = 0.f;
#pragma unroll
        for (int m = 0; m < DIM / 16; ++m)
#pragma unroll
            for (int e = 0; e < 4; ++e) sum[m][e] = 0.f;
    }
    // s: keys lane / 4 (0, 1) and lane / 4 + 8 (2, 3) by heads lane % 4 * 2 (0, 2) and the next (1, 3).
    __device__ __forceinline__ void score(float (&s)[4], u32 keys) const {
        float odd[4] = {0.f, 0.f, 0.f, 0.f};  // two sums, so that a product need not wait for the one before
#pragma unroll
        for (int e = 0; e < 4; ++e) s[e] = 0.f;
        keys += lane % 16 * ROW + (lane / 16 ^ lane % 8) * 16;
#pragma unroll
        for (int u = 0; u < DIM / 16; u += 2) {
            u32 a[4], b[4];
            load_matrices(a, (keys ^ u % 4 * 32) + u / 4 * HALF);
            load_matrices(b, (keys ^ u % 4 * 32 + 32) + u / 4 * HALF);
            mma<T>(s, a, query[u][0], query[u][1]);
            mma<T>(odd, b, query[u + 1][0], query[u + 1][1]);
        }
#pragma unroll
        for (int e = 0; e < 4; ++e) s[e] += odd[e];
    }
    // What lies behind the last key counts as zeros: there are numbers of any kind, or none.
    __device__ __forceinline__ void gather(const float (&s)[4], u32 values, int left) {
        left -= lane % 4 * 2;
        const u32 first = left > 1 ? ~0u : left > 0 ? 0xffffu : 0u, second = left > 9 ? ~0u : left > 8 ? 0xffffu : 0u;
        const u32 low = transposed(Pair<T>::pack(s[0], s[1])), high = transposed(Pair<T>::pack(s[2], s[3]));
        values += (lane % 8 + lane / 16 * 8) * ROW + (lane / 8 % 2 ^ lane % 8) * 16;
#pragma unroll
        for (int m = 0; m < DIM / 16; ++m) {
            u32 a[4];
            load_transposed(a, (values ^ m % 4 * 32) + m / 4 * HALF);
            a[0] &= first, a[1] &= first, a[2] &= second, a[3] &= second;
            mma<T>(sum[m], a, low, high);
        }
    }
    // A warp's rows of a tile, `left` of them real.
    __device__ __forceinline__ void take(u32 rows, int left, float factor, float squeeze) {
        float s[4];
        score(s, rows);
        if (squeeze != 0.f)
#pragma unroll
            for (int e = 0; e < 4; ++e) s[e] = tanh_of(s[e], squeeze);
#pragma unroll
        for (int half = 0; half < 2; ++half)
            if (lane / 4 + half * 8 >= left) s[2 * half] = s[2 * half + 1] = NEG_INFINITY;
        soften_step(s, factor, max, total, sum);
        gather(s, rows + 2 * HALF, left);
    }
    // Sum m of this lane: values m * 16 + lane / 4 (0, 1) and 8 further (2, 3).
    __device__ __forceinline__ void put(Shared& shared, int warp) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const int head = lane % 4 * 2 + h;
#pragma unroll
            for (int offset = 4; offset < 32; offset *= 2) total[h] += __shfl_xor_sync(0xffffffffu, total[h], offset);
            if (lane < 4) shared.max[warp][head] = max[h], shared.total[warp][head] = total[h];
            float* const to = &shared.sums[warp][head][lane / 4];
#pragma unroll
            for (int m = 0; m < DIM / 16; ++m) to[m * 16] = sum[m][h], to[m * 16 + 8] = sum[m][h + 2];
        }
    }
};

// The warps' parts as that of the block: to `sums` and `stats` of its part or, where it is the only one, as the result.
__device__ __forceinline__ void merge_warps(const Shared& shared, int dim, int heads, float factor, float* sums,
                                            float2* stats, bool alone, T* o, float* lse) {
    static_assert(WARPS * 32 * 4 == HEADS * DIM, "a thread has four values of a head");
    const int h = threadIdx.x * 4 / DIM, d = threadIdx.x * 4 % DIM;
    if (h >= heads || d >= dim) return;
    float top = NEG_INFINITY, all = 0.f, mean[4] = {0.f, 0.f, 0.f, 0.f};
#pragma unroll
    for (int w = 0; w < WARPS; ++w) top = fmaxf(top, shared.max[w][h]);
    const float base = top == NEG_INFINITY ? 0.f : top;
#pragma unroll
    for (int w = 0; w < WARPS; ++w) {
        const float weight = exp2_fast((shared.max[w][h] - base) * factor);
        const float4 x = *(const float4*)&shared.sums[w][h][d];
        all = fmaf(weight, shared.total[w][h], all);
#pragma unroll
        for (int e = 0; e < 4; ++e) mean[e] = fmaf(weight, (&x.x)[e], mean[e]);
    }
    top *= factor;
    if (alone) {
#pragma unroll
        for (int e = 0; e < 4; ++e) mean[e] = all == 0.f ? 0.f : mean[e] / all;
        *(uint2*)(o + h * dim + d) = {Pair<T>::pack(mean[0], mean[1]), Pair<T>::pack(mean[2], mean[3])};
        if (d == 0) lse[h] = all == 0.f ? NEG_INFINITY : LN_2 * (top + log2_fast(all));
    } else {
        __stcg((float4*)(sums + h * dim + d), make_float4(mean[0], mean[1], mean[2], mean[3]));
        if (d == 0) __stcg(&stats[h], make_float2(top, all));
    }
}

// Rows of sequences without keys.
__device__ __forceinline__ void clear_empty(const int* lengths, const Sizes& n, int first, int heads, T* o, float* lse) {
#pragma unroll 1
    for (int b = 0; b < n.batch; ++b) {
        if (lengths[b] > 0) continue;
        const i64 row = (i64)b * n.heads_q + first;
#pragma unroll 1
        for (int at = threadIdx.x; at < heads * n.dim; at += WARPS * 32) o[row * n.dim + at] = from_float<T>(0.f);
        if (threadIdx.x < heads) lse[row + threadIdx.x] = NEG_INFINITY;
    }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(WARPS * 32 + 32, 1) decode_bf16(
    const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v, const T* __restrict__ q,
    const int* __restrict__ table, const int* __restrict__ lengths, float* sums, float2* stats, u32* counters, T* __restrict__ o,
    float* __restrict__ lse, int dim, int batch, int heads_q, int heads_kv, i64 pages, int page_shift, int rows, int parts,
    float scale, float squeeze) {
    extern __shared__ unsigned char memory[];
    Shared& shared = *(Shared*)(memory + (0u - (u32)__cvta_generic_to_shared(memory)) % 1024);
    const Sizes n = {dim, batch, heads_q, heads_kv, parts, rows};
    const int group = heads_q / heads_kv, tiles = (group + HEADS - 1) / HEADS, groups = tiles * heads_kv;
    // Neighbouring blocks take the heads of the same keys, which lie side by side.
    const int which = blockIdx.x % groups, part = blockIdx.x / groups, head = which / tiles;
    const int heads = min(HEADS, group - which % tiles * HEADS), first = head * group + which % tiles * HEADS;
    const int warp = threadIdx.x / 32;
    const u32 full = (u32)__cvta_generic_to_shared(shared.full), freed = (u32)__cvta_generic_to_shared(shared.free);
    if (warp == WARPS)
        open_share(shared, lengths, n, part);
    else
        named_sync(2, WARPS * 32 + 32);
    Share share = {shared.tiles, min(parts, shared.tiles), 0, 0, shared.first, shared.before};
    if (part < share.parts) {
        share.begin = share.begin_of(part);
        share.end = share.begin_of(part + 1);
    }
    const Cache cache = {table, pages, 0, page_shift};
    if (warp == WARPS) {
        fetch(shared, share, &k, &v, cache, lengths, n, head);
        return;
    }
    const float factor = scale * LOG2_E;
    const Together together;
    int turn = 0, before = share.before;
#pragma unroll 1
    for (int at = share.begin, b = share.b; at < share.end; ++b) {
        const int length = lengths[b], end = before + tiles_of(length), stop = min(share.end, end);
        if (length == 0) continue;
        const i64 row = (i64)b * heads_q + first;
        const int from = share.part_of(before), count = share.part_of(end - 1) - from + 1;
        Part mine;
        mine.begin(q + row * dim, heads, dim);
#pragma unroll 1
        for (; at < stop; ++at, ++turn) {
            const int stage = turn % STAGES, left = length - (at - before) * TILE - warp * STEP;
            barrier_wait(full + 8 * stage, turn / STAGES & 1);
            if (left > 0)
                mine.take((u32)__cvta_generic_to_shared(&shared.rows[stage][0][0][warp * STEP][0]), left, factor, squeeze);
            barrier_arrive(freed + 8 * stage);
        }
        mine.put(shared, warp);
        together();
        const i64 slot = (i64)(part + b) * heads_q + first;
        merge_warps(shared, dim, heads, factor, sums + slot * dim, stats + slot, count == 1, o + row * dim, lse + row);
        // Part `from` of this sequence has number from + b: so many rows further than where row b begins.
        const i64 begins = (i64)from * heads_q;
        if (count > 1 && is_last(shared.last, &counters[(i64)b * groups + which], count, together))
            merge_splits<DIM, WARPS * 32, AT_ONCE>(count, heads_q, dim, heads, row, sums + begins * dim, stats + begins, o, lse);
        together();
        before = end;
    }
    if (part == 0) clear_empty(lengths, n, first, heads, o, lse);
}
