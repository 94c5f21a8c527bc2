// Idea: the warp-specialized forward on 8-bit tensor cores, twice as fast as 16-bit ones. What those take in one order
//   only is laid out on the way in, and what they add too coarsely is added outside.
// Source: Shah et al. 2024 (FlashAttention-3), section 3.3, for per-block scales; Zhang et al. 2024 (SageAttention2,
//   arXiv 2411.10958) for sums with V in two levels; the order of keys is ours.
// Shapes: see attention.cuh; q, k: e4m3, v: e4m3 [batch, heads_kv, head_dim, seq_k]; scales: f32 [batch, heads, blocks of
//   128]; head_dim a multiple of 16 up to 128, seq_k one of 16.
// Plan: as attention_warp_specialized.cu, without turns: one thread copies, two warpgroups own 64 queries each.
//   8-bit operands have K contiguous: V comes transposed, so its rows are keys' values of one d.
//   A thread's scores are columns 2t, 2t+1 of every 8 (t = lane % 4), but as operand of the product with V it holds four
//   values side by side, 4t to 4t+3 of every 16. So the copy engine lays out K with the keys 4t + 2h + e in rows
//   8h + 2t + e: then the scores that a thread has are those of the keys it needs, and nothing is exchanged.
// Numerics: f32 softmax; probabilities are 256·exp(score - maximum so far), rounded to e4m3, their sum is not. 8-bit
//   tensor cores keep 13 binary places of a sum, so a tile's product with V starts from zero and is added in f32, which
//   is also where V's scale of the tile comes in.
// Limits: wgmma; nearly all shared memory, so one block a multiprocessor.
// Target: compute_90a
// Twin: f16
#include "attention_warpgroup.cuh"

namespace {

typedef __nv_bfloat16 T;
constexpr int STAGES = 4;
constexpr float PEAK_BITS = 8.f;  // a probability of 1 is 2^8: near the largest e4m3, 448

// What lies where in shared memory, in bytes from its 1024-aligned start. A slot for queries has room for their outputs.
struct Shape {
    static constexpr int DIM = 128, KEYS = 128, GROUPS = 2, SLOTS = 2, QUERIES = 64 * GROUPS;
    static constexpr u32 TILE = KEYS * DIM, Q_TILE = QUERIES * DIM * 2, Q = 0, K = SLOTS * Q_TILE, V = K + STAGES * TILE;
    static constexpr u32 Q_FULL = V + STAGES * TILE, Q_FREE = Q_FULL + 8 * SLOTS, K_FULL = Q_FREE + 8 * SLOTS;
    static constexpr u32 K_FREE = K_FULL + 8 * STAGES, V_FULL = K_FREE + 8 * STAGES, V_FREE = V_FULL + 8 * STAGES;
};
typedef Shape S;

struct Scales {
    const float *q, *k, *v;
};

// The copying thread: from the last tile of keys to the first, as the consumers want them.
__device__ __forceinline__ void produce(u32 shared, const TensorMap* q, const TensorMap* k, const TensorMap* v,
                                        const Sizes& n, int units) {
    u32 round = 0, tile = 0;
    for (int index = blockIdx.x; index < units; index += gridDim.x) {
        const Work work = work_at<S>(index, n);
        if (work.count == 0) continue;
        const int h_kv = work.h / (n.heads_q / n.heads_kv);
        bool first = true;
        for (int j = work.first + work.count - 1; j >= work.first; --j, ++tile) {
            const u32 stage = tile % STAGES, parity = tile / STAGES & 1;
            const u32 k_full = shared + S::K_FULL + 8 * stage, v_full = shared + S::V_FULL + 8 * stage;
            barrier_wait(shared + S::K_FREE + 8 * stage, parity ^ 1);
            barrier_expect(k_full, S::TILE);
            copy_box(shared + S::K + stage * S::TILE, k, k_full, h_kv * n.dim, 0, 0, 0, (work.b * n.seq_k + j * S::KEYS) / 16);
            if (first) {
                const u32 slot = round % S::SLOTS, q_full = shared + S::Q_FULL + 8 * slot;
                barrier_wait(shared + S::Q_FREE + 8 * slot, (round / S::SLOTS & 1) ^ 1);
                barrier_expect(q_full, S::QUERIES * S::DIM);
                copy_box(shared + S::Q + slot * S::Q_TILE, q, q_full, 0, work.h, work.i0, work.b);
                ++round;
                first = false;
            }
            barrier_wait(shared + S::V_FREE + 8 * stage, parity ^ 1);
            barrier_expect(v_full, S::TILE);
            copy_box(shared + S::V + stage * S::TILE, v, v_full, j * S::KEYS, 0, h_kv, work.b);
        }
    }
}

// Starts s = Q K^T for a warpgroup's 64 queries.
__device__ __forceinline__ void begin_scores(float (&s)[S::KEYS / 2], u32 q_rows, u32 k_tile) {
    asm volatile("" : "+r"(q_rows));  // or descriptors that stay the same would be kept in registers
#pragma unroll
    for (int d = 0; d < S::DIM; d += 32)
        product_e4m3<S::KEYS>(s, tile_descriptor(q_rows + d, 16), tile_descriptor(k_tile + d, 16), d > 0);
    product_commit();
}

// Starts the tile's part = P V.
__device__ __forceinline__ void begin_gather(float (&part)[S::DIM / 2], const u32 (&p)[S::KEYS / 32][4], u32 v_tile) {
#pragma unroll
    for (int k = 0; k < S::KEYS / 32; ++k)
        product_e4m3<S::DIM>(part, p[k], tile_descriptor(v_tile + k * 32, 16), k > 0);
    product_commit();
}

// Of a tile, a thread's 32 scores of a row, in order, are those of keys 0-3, 16-19, 32-35 …, counted from 4 · (lane % 4):
// so many of them come before key `key`.
__device__ __forceinline__ int before(int key) { return min(max(key / 16 * 4 + min(key % 16, 4), 0), 32); }

// Hides keys before `begin` and from `end` on.
__device__ __forceinline__ void hide(float (&s)[S::KEYS / 2], int half, int begin, int end) {
    const u64 below = (1ull << before(end)) - (1ull << before(begin));  // no bit where begin is not below end
    const u32 seen = begin < end ? (u32)below : 0;
#pragma unroll
    for (int x = 0; x < S::KEYS / 4; ++x)
        if (!(seen & 1u << x)) s[x / 2 * 4 + half * 2 + x % 2] = NEG_INFINITY;
}

// Turns products into probabilities relative to the new maximum, of scores in base 2; gives the factor for what was
// summed before. A score is factor · product.
__device__ __forceinline__ void soften(float (&s)[S::KEYS / 2], Softmax& row, float (&shrink)[2], float factor) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float top = NEG_INFINITY;
#pragma unroll
        for (int c = 0; c < S::KEYS / 8; ++c) top = fmaxf(top, fmaxf(s[c * 4 + half * 2], s[c * 4 + half * 2 + 1]));
        top = fmaxf(row.max[half], quad_max(top) * factor);
        const float seen = top == NEG_INFINITY ? 0.f : top, base = PEAK_BITS - seen;
        shrink[half] = exp2_fast(row.max[half] - seen);  // exactly 1 while the maximum stays
        row.max[half] = top;
        float total = 0.f;
#pragma unroll
        for (int c = 0; c < S::KEYS / 8; ++c)
#pragma unroll
            for (int e = half * 2; e < half * 2 + 2; ++e) {
                s[c * 4 + e] = exp2_fast(fmaf(s[c * 4 + e], factor, base));
                total += s[c * 4 + e];
            }
        row.total[half] = fmaf(row.total[half], shrink[half], total);
    }
}

__device__ __forceinline__ u32 pack_e4m3(float a, float b, float c, float d) {
    u32 four;
    asm("{\n.reg .b16 low, high;\n"
        "cvt.rn.satfinite.e4m3x2.f32 low, %2, %1;\n"
        "cvt.rn.satfinite.e4m3x2.f32 high, %4, %3;\n"
        "mov.b32 %0, {low, high};\n}"
        : "=r"(four)
        : "f"(a), "f"(b), "f"(c), "f"(d));
    return four;
}

// Accumulators of 32 columns are the A operand of 32 keys, as these lie.
__device__ __forceinline__ void round_off(u32 (&p)[S::KEYS / 32][4], const float (&s)[S::KEYS / 2]) {
#pragma unroll
    for (int k = 0; k < S::KEYS / 32; ++k)
#pragma unroll
        for (int x = 0; x < 4; ++x) {
            const int c = k * 16 + x / 2 * 8 + x % 2 * 2;  // two groups of eight columns, one half of the rows
            p[k][x] = pack_e4m3(s[c], s[c + 1], s[c + 4], s[c + 5]);
        }
}

// Keys of V from `end` on do not exist: what lies there may be no number, which a probability of zero does not cancel.
__device__ __forceinline__ void clear_behind(u32 v_tile, int end, int thread) {
    for (int at = thread; at < S::DIM * (S::KEYS / 4); at += 128 * S::GROUPS) {
        const int d = at % S::DIM, key = at / S::DIM * 4;
        if (key + 4 <= end) continue;
        const u32 to = v_tile + d * ROW + (key / 16 ^ d % 8) * 16 + key % 16;
        u32 four = 0;
        if (key < end) {
            asm volatile("ld.shared.b32 %0, [%1];" : "=r"(four) : "r"(to) : "memory");
            four &= 0xffffffffu >> 8 * (key + 4 - end);
        }
        asm volatile("st.shared.b32 [%0], %1;" ::"r"(to), "r"(four) : "memory");
    }
}

// Adds a tile's part to what was summed before, and makes both relative to the new maximum, which seldom changes.
__device__ __forceinline__ void gather(float (&o)[S::DIM / 2], const float (&part)[S::DIM / 2], const float (&shrink)[2],
                                       float v_scale) {
    if (__any_sync(0xffffffffu, shrink[0] != 1.f || shrink[1] != 1.f))
#pragma unroll
        for (int x = 0; x < S::DIM / 2; ++x) o[x] *= shrink[x / 2 % 2];
    const float weight[2] = {shrink[0] * v_scale, shrink[1] * v_scale};
#pragma unroll
    for (int x = 0; x < S::DIM / 2; ++x) o[x] = fmaf(part[x], weight[x / 2 % 2], o[x]);
}

// A computing warpgroup.
__device__ __forceinline__ void consume(u32 shared, const Scales& scales, T* out, float* lse, const Sizes& n, int units,
                                        float scale, int group) {
    const int lane = threadIdx.x % 32, warp_row = group * 64 + threadIdx.x / 32 % 4 * 16;
    const int q_blocks = (n.seq_q + S::QUERIES - 1) / S::QUERIES, k_blocks = (n.seq_k + S::KEYS - 1) / S::KEYS;
    const auto leave = [&](u32 barrier) {
        if (lane == 0) barrier_arrive(barrier);
    };
    u32 round = 0, tile = 0;
#pragma unroll 1
    for (int index = blockIdx.x; index < units; index += gridDim.x) {
        const Work work = work_at<S>(index, n);
        const int i = work.i0 + warp_row;
        float s[S::KEYS / 2], o[S::DIM / 2], part[S::DIM / 2], shrink[2];
        u32 p[S::KEYS / 32][4];
        Softmax row = {{NEG_INFINITY, NEG_INFINITY}, {0.f, 0.f}};
#pragma unroll
        for (int x = 0; x < S::DIM / 2; ++x) o[x] = 0.f;
        const u32 slot = round % S::SLOTS, q_tile = shared + S::Q + slot * S::Q_TILE;
        const int scale_at = (work.b * n.heads_kv + work.h / (n.heads_q / n.heads_kv)) * k_blocks;
        // Keys from all_begin to all_end are seen by every query of this warp: tiles within need no mask.
        const int all_begin = visible(i + 15, work.queries, work.keys, n.causal, n.window).begin;
        const int all_end = visible(i, work.queries, work.keys, n.causal, n.window).end;
        if (work.count > 0) {
            const float q_factor = scale * LOG2_E * scales.q[(work.b * n.heads_q + work.h) * q_blocks + work.i0 / S::QUERIES];
            const auto soften_tile = [&](int j) {
                if ((j + 1) * S::KEYS > all_end || j * S::KEYS < all_begin) {
#pragma unroll
                    for (int half = 0; half < 2; ++half) {
                        const int at = i + half * 8 + lane / 4, start = j * S::KEYS + lane % 4 * 4;
                        const Keys seen = visible(at, work.queries, work.keys, n.causal, n.window);
                        hide(s, half, seen.begin - start, seen.end - start);
                    }
                }
                soften(s, row, shrink, q_factor * scales.k[scale_at + j]);
            };
            const u32 q_rows = q_tile + group * 64 * ROW;
            int j = work.first + work.count - 1;
            barrier_wait(shared + S::Q_FULL + 8 * slot, round / S::SLOTS & 1);
            barrier_wait(shared + S::K_FULL + 8 * (tile % STAGES), tile / STAGES & 1);
            product_begin();
            begin_scores(s, q_rows, shared + S::K + tile % STAGES * S::TILE);
            product_wait<0>();
            product_done(s);
            leave(shared + S::K_FREE + 8 * (tile % STAGES));
            soften_tile(j);
            round_off(p, s);
            // Only the last tile of keys, the first to come, may reach behind those that exist.
            if ((j + 1) * S::KEYS > work.keys && work.keys < n.seq_k) {
                barrier_wait(shared + S::V_FULL + 8 * (tile % STAGES), tile / STAGES & 1);
                clear_behind(shared + S::V + tile % STAGES * S::TILE, work.keys - j * S::KEYS, threadIdx.x - 128);
                order_for_engines();
                named_sync(3, 128 * S::GROUPS);
            }
#pragma unroll 1
            for (; --j >= work.first; ++tile) {
                const u32 now = tile % STAGES, next = (tile + 1) % STAGES;
                barrier_wait(shared + S::K_FULL + 8 * next, (tile + 1) / STAGES & 1);
                product_begin();
                begin_scores(s, q_rows, shared + S::K + next * S::TILE);
                barrier_wait(shared + S::V_FULL + 8 * now, tile / STAGES & 1);
                begin_gather(part, p, shared + S::V + now * S::TILE);
                product_wait<1>();
                product_done(s);
                leave(shared + S::K_FREE + 8 * next);
                soften_tile(j);
                product_wait<0>();
                product_done(part);
                leave(shared + S::V_FREE + 8 * now);
                gather(o, part, shrink, scales.v[scale_at + j + 1]);
                round_off(p, s);
            }
            barrier_wait(shared + S::V_FULL + 8 * (tile % STAGES), tile / STAGES & 1);
            product_begin();
            begin_gather(part, p, shared + S::V + tile % STAGES * S::TILE);
            product_wait<0>();
            product_done(part);
            leave(shared + S::V_FREE + 8 * (tile % STAGES));
            shrink[0] = shrink[1] = 1.f;
            gather(o, part, shrink, scales.v[scale_at + j + 1]);
            ++tile;
            ++round;
            named_sync(5 + group, 128);  // all of the warpgroup have read their queries
        }
        row.max[0] -= PEAK_BITS, row.max[1] -= PEAK_BITS;
        finish<S>(o, row, q_tile + warp_row * ROW, out, lse, work, n, i, lane, 1.f);
        if (work.count > 0) {
            order_for_engines();
            __syncwarp();
            leave(shared + S::Q_FREE + 8 * slot);
        }
    }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(128 * (S::GROUPS + 1), 1) forward_d128_bf16(
    const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v,
    const float* __restrict__ q_scale, const float* __restrict__ k_scale, const float* __restrict__ v_scale,
    const int* __restrict__ lengths_q, const int* __restrict__ lengths_k, T* __restrict__ o, float* __restrict__ lse,
    int batch, int seq_q, int seq_k, int heads_q, int heads_kv, int dim, int causal, int window, int section,
    float scale) {
    const Sizes n = {lengths_q, lengths_k, batch, seq_q, seq_k, heads_q, heads_kv, dim, causal, window, section};
    const u32 shared = begin_shared<S, STAGES>();
    const int units = (n.seq_q + S::QUERIES - 1) / S::QUERIES * n.batch * n.heads_q;
    if (threadIdx.x < 128) {
        registers_down<24>();
        if (threadIdx.x == 0) produce(shared, &q, &k, &v, n, units);
    } else {
        registers_up<240>();
        consume(shared, {q_scale, k_scale, v_scale}, o, lse, n, units, scale, threadIdx.x / 128 - 1);
    }
}
