// Idea: few queries, many keys: the keys of a unit are split over blocks, so that all multiprocessors have work; a second
//   launch, in place before the first has ended, adds the parts up.
// Source: Dao et al. 2023 (Flash-Decoding); packed heads: Shah et al. 2024 (FlashAttention-3), its inference kernels.
// Shapes: see attention.cuh; head_dim a multiple of 8 up to 128, f16 or bf16. Scratch: parts f32 [units, splits, 2,
//   tile_dim / 8 + 1, 128, 4], of each part what the 2 x 128 computing threads hold: first maxima and sums of a thread's two
//   rows, then o.
// Plan: `forward`: a block takes one split of a unit, 128 queries of a head; where a group of heads shares K and V and the
//   queries are few, a query of `1 << pack` heads side by side. As in attention_warp_specialized.cu one thread copies and two
//   warpgroups compute, but a block has one unit and no next one: whatever fits is fetched at once.
//   `combine`: a block takes 8 values of a warpgroup's 64 rows: 128 threads, thread for thread as they were written, times up
//   to 8 adders, of which each adds up every 8th part, four of them under way at a time. Without a split nothing is left to
//   combine, and `forward` writes the outputs.
// Numerics: as attention_warp_specialized.cu; parts are added in f32, always in the same order.
// Limits: wgmma; a block a multiprocessor. It pays where there are fewer units than multiprocessors: parts cost 4 bytes a
//   value, written and read. With a soft cap, heads of up to 64 values have the tiles of 128.
// Target: compute_90a
// Twin: f16
#include "attention_warpgroup_tile.cuh"
#include "overlap.cuh"

namespace {

typedef __nv_bfloat16 T;
constexpr int GROUPS = 2, UNIT_ROWS = 64 * GROUPS, TILE_KEYS = 128;
constexpr int PART_THREADS = 128, ADDERS = 8, UNDER_WAY = 4;

// What lies where in shared memory, in bytes from its 1024-aligned start.
template <int DIM_, int STAGES_> struct Shape {
    static constexpr int DIM = DIM_, KEYS = TILE_KEYS, GROUPS = ::GROUPS, READERS = GROUPS, STAGES = STAGES_, SLOTS = 1;
    static constexpr int QUERIES = UNIT_ROWS;
    static constexpr bool CHAINED = false, CAPS = DIM > 64;
    static constexpr u32 TILE = KEYS * DIM * 2, Q_TILE = QUERIES * DIM * 2, Q = 0, K = Q_TILE, V = K + STAGES * TILE;
    static constexpr u32 Q_FULL = V + STAGES * TILE, Q_FREE = Q_FULL + 8, K_FULL = Q_FREE + 8, K_FREE = K_FULL + 8 * STAGES;
    static constexpr u32 V_FULL = K_FREE + 8 * STAGES, V_FREE = V_FULL + 8 * STAGES, UNUSED = V_FREE + 8 * STAGES;
};

// How a problem is cut: a unit has the queries of `1 << pack` heads, its keys are split in up to so many parts.
struct Cut {
    int pack, splits;
    __device__ __forceinline__ int queries() const { return UNIT_ROWS >> pack; }
};

// The query and the head of a unit's row.
struct Row {
    int i, h;
    __device__ __forceinline__ Row(const Work& work, const Cut& cut, int r)
        : i(work.i0 + (r >> cut.pack)), h(work.h + (r & ((1 << cut.pack) - 1))) {}
    __device__ __forceinline__ i64 query_at(const Work& work, const Sizes& n) const {
        return ((i64)work.b * n.seq_q + i) * n.heads_q + h;
    }
    __device__ __forceinline__ i64 sum_at(const Work& work, const Sizes& n) const {
        return ((i64)work.b * n.heads_q + h) * n.seq_q + i;
    }
};

struct Outputs {
    T* o;
    float *lse;
    float4* parts;
};

// Unit `index`: its first query and head, and the tiles of keys that any of its queries sees, as find_keys finds those of a unit
// whose number of queries is known when it is compiled.
__device__ __forceinline__ Work packed_unit(int index, const Sizes& n, const Cut& cut) {
    const int tiles = (n.seq_q + cut.queries() - 1) / cut.queries(), heads = n.heads_q >> cut.pack;
    Work work;
    work.i0 = (tiles - 1 - index % tiles) * cut.queries();  // those that see most keys first
    work.h = index / tiles % heads << cut.pack, work.b = index / tiles / heads;
    work.queries = n.lengths_q[work.b], work.keys = n.lengths_k[work.b];
    const int last = min(work.i0 + cut.queries(), work.queries) - 1;
    const auto seen = [&](int i) { return visible(i, work.queries, work.keys, n.causal, n.window); };
    work.first = seen(work.i0).begin / TILE_KEYS;
    work.count = last < work.i0 ? 0 : max(0, (seen(last).end + TILE_KEYS - 1) / TILE_KEYS - work.first);
    return work;
}

// Tiles of a split of the unit; the last ones of a unit that sees few keys have none.
__device__ __forceinline__ int tiles_of_split(const Work& unit, const Cut& cut) {
    return (unit.count + cut.splits - 1) / cut.splits;
}

// The copying thread: queries, then tiles from the last one to the first, as the consumers want them.
template <typename S>
__device__ __forceinline__ void copy_unit(u32 shared, const Copies<S>& copies, const Work& work, const Sizes& n) {
    const int h_kv = work.h / (n.heads_q / n.heads_kv);
    barrier_expect(shared + S::Q_FULL, S::Q_TILE);
    copies.queries(shared + S::Q, shared + S::Q_FULL, work);
    int j = work.first + work.count - 1;
    for (u32 tile = 0; j >= work.first; ++tile, --j) {
        fetch<S, true>(shared, copies, work.b, h_kv, tile, j);
        fetch<S, false>(shared, copies, work.b, h_kv, tile, j);
    }
}

// What a row's sums are multiplied by. Those of a query that sees no key may be no number, but its o is zero.
struct Inverse {
    float by;
    bool blind;

    __device__ __forceinline__ u32 of(float low, float high) const { return blind ? 0 : Pair<T>::pack(low * by, high * by); }
};

// Writes a row's log-sum-exp, by the one lane of a quad that does, and gives what its o is to be multiplied by.
__device__ __forceinline__ Inverse finish_sum(float max, float total, float* lse, const Row& row, const Work& work,
                                            const Sizes& n, bool writes, float factor) {
    const bool blind = row.i >= work.queries || total == 0.f;
    if (writes) lse[row.sum_at(work, n)] = blind ? NEG_INFINITY : max * factor * LN_2 + logf(total);
    return {1.f / total, blind};
}

// Outputs of a warp's 16 rows from `warp_row` on, 16 bytes a lane.
template <typename S>
__device__ __forceinline__ void finish(const float (&o)[S::DIM / 2], const Softmax& sums, const Outputs& out, const Work& work,
                                       const Sizes& n, const Cut& cut, int warp_row, int lane, float factor) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const Row row(work, cut, warp_row + half * 8 + lane / 4);
        const bool there = row.i < n.seq_q;
        const float total = quad_sum(sums.total[half]);
        const Inverse inverse = finish_sum(sums.max[half], total, out.lse, row, work, n, there && lane % 4 == 0, factor);
        T* to = out.o + row.query_at(work, n) * n.dim + lane % 4 * 8;
#pragma unroll
        for (int c = 0; c < S::DIM / 8; c += 4) {
            u32 x[4];
#pragma unroll
            for (int g = 0; g < 4; ++g) x[g] = inverse.of(o[(c + g) * 4 + half * 2], o[(c + g) * 4 + half * 2 + 1]);
            transpose_quad(x, lane);
            if (there && c * 8 + lane % 4 * 8 < n.dim) *(uint4*)(to + c * 8) = {x[0], x[1], x[2], x[3]};
        }
    }
}

// Outputs of a unit that sees no key.
__device__ __forceinline__ void blind_unit(const Outputs& out, const Work& work, const Sizes& n, const Cut& cut) {
    for (int at = threadIdx.x; at < UNIT_ROWS * (n.dim / 8); at += blockDim.x) {
        const Row row(work, cut, at / (n.dim / 8));
        const int c = at % (n.dim / 8);
        if (row.i >= n.seq_q) continue;
        *(uint4*)(out.o + row.query_at(work, n) * n.dim + c * 8) = {0, 0, 0, 0};
        if (c == 0) out.lse[row.sum_at(work, n)] = NEG_INFINITY;
    }
}

// A computing warpgroup: leaves its part of the outputs, or where keys are not split the outputs.
template <typename S>
__device__ __forceinline__ void consume(u32 shared, const Outputs& out, const Work& work, const Sizes& n, const Cut& cut, float scale,
                                        float squeeze, int group) {
    constexpr int KEYS = S::KEYS, DIM = S::DIM, EARLY = DIM > 64 ? 8 : 0;
    const int lane = threadIdx.x % 32, warp_row = group * 64 + threadIdx.x / 32 % 4 * 16;
    const float factor = scale * LOG2_E;
    const auto leave = [&](u32 barrier) { barrier_arrive_if(barrier, lane == 0); };
    const Mask<S> mask(n, work, work.i0 + (warp_row >> cut.pack), lane, squeeze, cut.pack);
    float s[KEYS / 2], o[DIM / 2], shrink[2], base[2], total[2][2];
    u32 p[KEYS / 16][4];
    Softmax row = {{NEG_INFINITY, NEG_INFINITY}, {0.f, 0.f}};
#pragma unroll
    for (int x = 0; x < DIM / 2; ++x) o[x] = 0.f;
    const u32 q_start = descriptor_start(shared + S::Q + group * 64 * ROW, 16);
    const auto scores = [&](u32 stage) {
        begin_scores<S>(s, q_start, descriptor_start(shared + S::K + stage * S::TILE, 16));
    };
    const auto gather = [&](u32 stage) {
        begin_gather<S>(o, p, descriptor_start(shared + S::V + stage * S::TILE, KEYS * ROW));
    };
    const auto add_up = [&] {
#pragma unroll
        for (int half = 0; half < 2; ++half) row.total[half] = total[half][0] + total[half][1];
    };
    // The walk over tiles is that of attention_warp_specialized.cu, whose machine code is better for standing in one function.
    int j = work.first + work.count - 1;
    barrier_sleep(shared + S::Q_FULL, 0);
    barrier_sleep(shared + S::K_FULL, 0);
    product_begin();
    scores(0);
    product_wait<0>();
    product_done(s);
    leave(shared + S::K_FREE);
    mask.apply(s, j);
    raise_maxima<KEYS>(s, row, shrink, base, total, factor);
    soften<0, KEYS / 2, KEYS>(s, base, total, factor);
    add_up();
    round_off<T, KEYS>(p, s);
    if ((j + 1) * KEYS > work.keys && work.keys < n.seq_k) {
        barrier_sleep(shared + S::V_FULL, 0);
        clear_behind<S>(shared + S::V, work.keys - j * KEYS, threadIdx.x % (128 * GROUPS));
        order_for_engines();
        named_sync(1, 128 * GROUPS);
    }
    u32 tile = 0;
#pragma unroll 1
    for (; --j >= work.first; ++tile) {
        const u32 now = tile % S::STAGES, next = (tile + 1) % S::STAGES;
        barrier_sleep(shared + S::K_FULL + 8 * next, (tile + 1) / S::STAGES & 1);
        product_begin();
        scores(next);
        barrier_sleep(shared + S::V_FULL + 8 * now, tile / S::STAGES & 1);
        product_begin();
        gather(now);
        product_wait<1>();
        product_done(s);
        leave(shared + S::K_FREE + 8 * next);
        mask.apply(s, j);
        raise_maxima<KEYS>(s, row, shrink, base, total, factor);
        soften<0, EARLY, KEYS>(s, base, total, factor);
        hold_waits(shared + S::UNUSED, total);
        product_wait<0>();
        product_done(o);
        leave(shared + S::V_FREE + 8 * now);
#pragma unroll
        for (int x = 0; x < DIM / 2; ++x) o[x] *= shrink[x / 2 % 2];
        soften<EARLY, KEYS / 2, KEYS>(s, base, total, factor);
        add_up();
        round_off<T, KEYS>(p, s);
    }
    barrier_sleep(shared + S::V_FULL + 8 * (tile % S::STAGES), tile / S::STAGES & 1);
    product_begin();
    gather(tile % S::STAGES);
    product_wait<0>();
    product_done(o);
    if (cut.splits == 1) {
        finish<S>(o, row, out, work, n, cut, warp_row, lane, factor);
        return;
    }
    float4* to = out.parts + ((i64)blockIdx.x * GROUPS + group) * ((DIM / 8 + 1) * PART_THREADS) + threadIdx.x % PART_THREADS;
    *to = {row.max[0], row.max[1], row.total[0], row.total[1]};
#pragma unroll
    for (int c = 0; c < DIM / 8; ++c) to[(c + 1) * PART_THREADS] = {o[c * 4], o[c * 4 + 1], o[c * 4 + 2], o[c * 4 + 3]};
}

template <typename S>
__device__ __forceinline__ void attend(const Copies<S>& copies, const Outputs& out, const Sizes& n, const Cut& cut, float scale,
                                       float squeeze) {
    let_next_begin();
    Work work = packed_unit(blockIdx.x / cut.splits, n, cut);
    const int share = tiles_of_split(work, cut), end = work.first + work.count;
    work.first += blockIdx.x % cut.splits * share, work.count = min(share, end - work.first);
    if (work.count <= 0) {
        if (cut.splits == 1) blind_unit(out, work, n, cut);
        return;
    }
    const u32 shared = begin_shared<S, S::STAGES>();
    if (threadIdx.x < 128) {
        registers_down<40>();
        if (threadIdx.x == 0) copy_unit<S>(shared, copies, work, n);
    } else {
        registers_up<232>();
        consume<S>(shared, out, work, n, cut, scale, squeeze, threadIdx.x / 128 - 1);
    }
}

// A thread's two rows: their maxima, their sums, and of each two values of o.
struct Part {
    Softmax row;
    float o[4];
};

// Adds `other` to `part`. Either may have seen no key.
__device__ __forceinline__ void add(Part& part, const Part& other, float factor) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const float top = fmaxf(part.row.max[half], other.row.max[half]), seen = top == NEG_INFINITY ? 0.f : top;
        const float own = exp2_fast((part.row.max[half] - seen) * factor);
        const float its = exp2_fast((other.row.max[half] - seen) * factor);
        part.row.max[half] = top, part.row.total[half] = part.row.total[half] * own + other.row.total[half] * its;
#pragma unroll
        for (int e = 0; e < 2; ++e) part.o[half * 2 + e] = part.o[half * 2 + e] * own + other.o[half * 2 + e] * its;
    }
}

// The sum of an adder's share of a unit's `count` parts, `stride` words apart.
__device__ __forceinline__ Part sum_of(const float4* from, i64 stride, int count, int chunk, float factor) {
    Part sum = {{{NEG_INFINITY, NEG_INFINITY}, {0.f, 0.f}}, {0.f, 0.f, 0.f, 0.f}};
    const int adders = blockDim.y;
#pragma unroll 1
    for (int first = threadIdx.y; first < count; first += adders * UNDER_WAY) {
        float4 row[UNDER_WAY], o[UNDER_WAY];
#pragma unroll
        for (int x = 0; x < UNDER_WAY; ++x) {
            const int at = first + x * adders;
            if (at < count) row[x] = from[at * stride], o[x] = from[at * stride + (chunk + 1) * PART_THREADS];
        }
#pragma unroll
        for (int x = 0; x < UNDER_WAY; ++x)
            if (first + x * adders < count)
                add(sum, {{{row[x].x, row[x].y}, {row[x].z, row[x].w}}, {o[x].x, o[x].y, o[x].z, o[x].w}}, factor);
    }
    return sum;
}

}  // namespace

#define SIZES                                                                                                          \
    const int *__restrict__ lengths_q, const int *__restrict__ lengths_k, int batch, int seq_q, int seq_k, int heads_q, \
        int heads_kv, int dim, int causal, int window, int pack, int splits, float scale, float squeeze
#define KERNEL(NAME, DIM, STAGES)                                                                                      \
    extern "C" __global__ void __launch_bounds__(128 * (GROUPS + 1), 1) forward_##NAME##_bf16(                        \
        const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v, \
        float4* __restrict__ parts, T* __restrict__ o, float* __restrict__ lse, SIZES) {                               \
        const Sizes n = {lengths_q, lengths_k, batch, seq_q, seq_k, heads_q, heads_kv, dim, causal, window, 0};       \
        attend<Shape<DIM, STAGES>>({&q, &k, &v}, {o, lse, parts}, n, {pack, splits}, scale, squeeze);                  \
    }
KERNEL(d64, 64, 4)
KERNEL(d128, 128, 3)

extern "C" __global__ void __launch_bounds__(PART_THREADS* ADDERS)
    combine_bf16(const float4* parts, T* __restrict__ o, float* __restrict__ lse, int tile_dim, SIZES) {
    __shared__ Part others[ADDERS - 1][PART_THREADS];
    const Sizes n = {lengths_q, lengths_k, batch, seq_q, seq_k, heads_q, heads_kv, dim, causal, window, 0};
    const Cut cut = {pack, splits};
    const int unit = blockIdx.x / GROUPS, group = blockIdx.x % GROUPS, chunk = blockIdx.y, lane = threadIdx.x % 32;
    const float factor = scale * LOG2_E;
    const Work work = packed_unit(unit, n, cut);
    if (Row(work, cut, group * 64).i >= n.seq_q) return;
    const int share = tiles_of_split(work, cut), count = share ? (work.count + share - 1) / share : 0;
    const i64 words = (tile_dim / 8 + 1) * PART_THREADS;
    wait_for_launches();
    const float4* from = parts + ((i64)unit * splits * GROUPS + group) * words + threadIdx.x;
    Part part = sum_of(from, GROUPS * words, count, chunk, factor);
    if (threadIdx.y > 0) others[threadIdx.y - 1][threadIdx.x] = part;
    __syncthreads();
    if (threadIdx.y > 0) return;
    for (int x = 0; x + 1 < blockDim.y; ++x) add(part, others[x][threadIdx.x], factor);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const Row row(work, cut, group * 64 + threadIdx.x / 32 * 16 + half * 8 + lane / 4);
        const bool there = row.i < n.seq_q;
        const float total = quad_sum(part.row.total[half]);
        const bool writes = there && chunk == 0 && lane % 4 == 0;
        const Inverse inverse = finish_sum(part.row.max[half], total, lse, row, work, n, writes, factor);
        const u32 two = inverse.of(part.o[half * 2], part.o[half * 2 + 1]);
        if (there) *(u32*)(o + row.query_at(work, n) * n.dim + chunk * 8 + lane % 4 * 2) = two;
    }
}
