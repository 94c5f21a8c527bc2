// Idea: the warp-specialized forward on 8-bit tensor cores, twice as fast as 16-bit ones. What those take in one order
//   only is laid out on the way in, and what they add too coarsely is added outside.
// Source: Shah et al. 2024 (FlashAttention-3), section 3.3, for per-block scales; Zhang et al. 2024 (SageAttention2,
//   arXiv 2411.10958) for sums with V in two levels; the order of keys, and outputs that are not scaled again, are ours.
// Shapes: see attention.cuh; q, k: e4m3, v: e4m3 [batch, heads_kv, head_dim, seq_k]; scales: f32 [batch, heads, blocks of
//   128]; head_dim a multiple of 16 up to 128, seq_k one of 16.
// Plan: as attention_warp_specialized.cu: one thread draws units and copies, two warpgroups own 64 queries each.
//   8-bit operands have K contiguous: V comes transposed, so its rows are keys' values of one d.
//   A thread's scores are columns 2t, 2t+1 of every 8 (t = lane % 4), but as operand of the product with V it holds four
//   values side by side, 4t to 4t+3 of every 16. So the copy engine lays out K with the keys 4t + 2h + e in rows
//   8h + 2t + e: then the scores that a thread has are those of the keys it needs, and nothing is exchanged.
//   Beside a product of half the time, what surrounds the exponentials counts. So the maximum that probabilities are
//   relative to moves only when a score is 2^0.75 above it, which the room up to 448 allows; a warp in which none is
//   exchanges nothing. And when it moves, outputs stay as they are: what is added to them is scaled up.
// Numerics: f32 softmax; probabilities are 256·exp(score - maximum so far), at most 2^0.75 more, rounded to e4m3, their sum
//   is not. 8-bit tensor cores keep 13 binary places of a sum, so a tile's product with V starts from zero and is added in
//   f32, which is also where V's scale of the tile comes in. Sums may be 2^16 times what they would be relative to the last
//   maximum: values of V from 2^80 on may overflow.
// Limits: wgmma; nearly all shared memory, so one block a multiprocessor.
// Tried on B8 H16 N2048, none faster: the sum in f32 while the next scores are computed; turns at the products by named
//   barriers; turns at the exponentials by mbarriers or named barriers, but those builds spilled registers, so that is not
//   settled. With an eighth or a sixteenth of the exponentials by polynomials ptxas serializes the products for want of
//   registers; not timed. In a profile of an earlier state issue slots were full for 42 %, tensor cores for 39 %.
// Target: compute_90a
// Twin: f16
#include "attention_units.cuh"

namespace {

typedef __nv_bfloat16 T;
constexpr int STAGES = 4;
constexpr float PEAK_BITS = 8.f;  // a probability of 1 is 2^8: near the largest e4m3, 448
constexpr float LAG_BITS = 0.75f;  // and may be so much more
constexpr float NOWHERE = 1e30f;  // the base of a row that has seen no key

// What lies where in shared memory, in bytes from its 1024-aligned start.
struct Shape {
    static constexpr int DIM = 128, KEYS = 128, GROUPS = 2, SLOTS = 2, QUERIES = 64 * GROUPS;
    static constexpr u32 TILE = KEYS * DIM, Q_TILE = QUERIES * DIM, Q = 0, K = SLOTS * Q_TILE, V = K + STAGES * TILE;
    static constexpr u32 Q_FULL = V + STAGES * TILE, Q_FREE = Q_FULL + 8 * SLOTS, K_FULL = Q_FREE + 8 * SLOTS;
    static constexpr u32 K_FREE = K_FULL + 8 * STAGES, V_FULL = K_FREE + 8 * STAGES, V_FREE = V_FULL + 8 * STAGES;
    static constexpr u32 UNIT = V_FREE + 8 * STAGES, UNUSED = UNIT + 32 * SLOTS;
};
typedef Shape S;

struct Scales {
    const float *q, *k, *v;
};

// The copying thread: draws units, and fetches tiles from the last one of keys to the first, as the consumers want them.
__device__ __forceinline__ void produce(u32 shared, const TensorMap* q, const TensorMap* k, const TensorMap* v,
                                        const Sizes& n, int units, u32* drawn) {
    u32 tile = 0;
    int index = blockIdx.x;
    for (u32 round = 0;; ++round) {
        const u32 slot = round % S::SLOTS, q_full = shared + S::Q_FULL + 8 * slot;
        const bool none = index >= units;
        Work work = {};
        if (!none) work = unit_at<S>(index, n);
        if (none) work.count = -1;
        index = drawn && !none ? gridDim.x + atomicAdd(drawn, 1u) : index + gridDim.x;
        const int h_kv = work.h / (n.heads_q / n.heads_kv);
        const auto fetch_keys = [&](u32 tile, int j) {
            const u32 stage = tile % STAGES, full = shared + S::K_FULL + 8 * stage;
            barrier_sleep(shared + S::K_FREE + 8 * stage, (tile / STAGES & 1) ^ 1);
            barrier_expect(full, S::TILE);
            copy_box(shared + S::K + stage * S::TILE, k, full, h_kv * n.dim, 0, 0, 0, (work.b * n.seq_k + j * S::KEYS) / 16);
        };
        int j = work.first + work.count - 1;
        if (work.count > 0) fetch_keys(tile, j);
        barrier_sleep(shared + S::Q_FREE + 8 * slot, (round / S::SLOTS & 1) ^ 1);
        publish(shared + S::UNIT + 32 * slot, work);
        if (work.count <= 0) {
            barrier_arrive(q_full);
            if (none) break;
            continue;
        }
        barrier_expect(q_full, S::Q_TILE);
        copy_box(shared + S::Q + slot * S::Q_TILE, q, q_full, 0, work.h, work.i0, work.b);
        for (;; ++tile) {
            const u32 stage = tile % STAGES, full = shared + S::V_FULL + 8 * stage;
            barrier_sleep(shared + S::V_FREE + 8 * stage, (tile / STAGES & 1) ^ 1);
            barrier_expect(full, S::TILE);
            copy_box(shared + S::V + stage * S::TILE, v, full, j * S::KEYS, 0, h_kv, work.b);
            if (--j < work.first) break;
            fetch_keys(tile + 1, j);
        }
        ++tile;
    }
}

// Starts s = Q K^T for a warpgroup's 64 queries, of which `a` is the descriptor's start, as `b` is of the keys'.
__device__ __forceinline__ void begin_scores(float (&s)[S::KEYS / 2], u32 a, u32 b) {
#pragma unroll
    for (int d = 0; d < S::DIM; d += 32)
        product_e4m3<S::KEYS>(s, descriptor_at(a + d / 16), descriptor_at(b + d / 16), d > 0);
    product_commit();
}

// Starts the tile's part = P V.
__device__ __forceinline__ void begin_gather(float (&part)[S::DIM / 2], const u32 (&p)[S::KEYS / 32][4], u32 b) {
#pragma unroll
    for (int k = 0; k < S::KEYS / 32; ++k) product_e4m3<S::DIM>(part, p[k], descriptor_at(b + k * 2), k > 0);
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

// A row's probabilities are 2^(score + base), of scores in base 2. Sums are relative to where the base was at first, which
// is `rise` times as much.
struct Row {
    float base[2], first[2], rise[2], total[2];
};

__device__ __forceinline__ int bits(float x) { return __float_as_int(x); }

// The largest of a thread's products of each row. Floats are in order as integers are, but for the negative among each
// other, and of integers three are compared at a time.
__device__ __forceinline__ void find_tops(float (&top)[2], const float (&s)[S::KEYS / 2]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        int chain[4];
#pragma unroll
        for (int c = 0; c < S::KEYS / 8; ++c) {
            const int a = bits(s[c * 4 + half * 2]), b = bits(s[c * 4 + half * 2 + 1]);
            chain[c % 4] = c < 4 ? max(a, b) : __vimax3_s32(chain[c % 4], a, b);
        }
        top[half] = __int_as_float(max(__vimax3_s32(chain[0], chain[1], chain[2]), chain[3]));
    }
    if (!__any_sync(0xffffffffu, min(bits(top[0]), bits(top[1])) < 0)) return;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        u32 least = 0xffffffffu;
#pragma unroll
        for (int c = 0; c < S::KEYS / 8; ++c)
            least = __vimin3_u32(least, bits(s[c * 4 + half * 2]), bits(s[c * 4 + half * 2 + 1]));
        if (bits(top[half]) < 0) top[half] = __uint_as_float(least);
    }
}

// Moves the base of rows where a product rises too far above; a score is factor · product. What is summed, and the weight
// of the part under way, follow where they would go out of range.
__device__ __forceinline__ void follow(const float (&s)[S::KEYS / 2], Row& row, float (&o)[S::DIM / 2], float (&weight)[2],
                                       float factor) {
    constexpr float HIGH = PEAK_BITS + LAG_BITS, FAR = 16.f;
    float top[2];
    find_tops(top, s);
    if (!__any_sync(0xffffffffu, fmaxf(fmaf(top[0], factor, row.base[0]), fmaf(top[1], factor, row.base[1])) > HIGH)) return;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const float peak = quad_max(top[half]) * factor;
        if (peak + row.base[half] > HIGH) row.base[half] = PEAK_BITS - peak;
    }
    if (__any_sync(0xffffffffu, fmaxf(row.first[0] - row.base[0], row.first[1] - row.base[1]) > FAR)) {
        float shrink[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            shrink[half] = exp2_fast(row.base[half] - row.first[half]);
            row.first[half] = row.base[half], row.total[half] *= shrink[half], weight[half] *= shrink[half];
        }
#pragma unroll
        for (int x = 0; x < S::DIM / 2; ++x) o[x] *= shrink[x / 2 % 2];
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) row.rise[half] = exp2_fast(row.first[half] - row.base[half]);
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

// Turns products into probabilities: accumulators of 32 columns are the A operand of 32 keys, as these lie.
__device__ __forceinline__ void soften(u32 (&p)[S::KEYS / 32][4], float (&s)[S::KEYS / 2], Row& row, float factor) {
    float total[2][2], base[2] = {row.base[0], row.base[1]};
#pragma unroll
    for (int x = 0; x < S::KEYS / 2; ++x) {
        // Eight at a time, or ptxas puts all multiplications before most of the exponentials: nothing is added.
        if (x % 8 == 0 && x > 0) base[0] = fmaf(s[x - 8], 0.f, base[0]), base[1] = fmaf(s[x - 6], 0.f, base[1]);
        s[x] = exp2_fast(fmaf(s[x], factor, base[x / 2 % 2]));
        float& sum = total[x / 2 % 2][x % 2];
        sum = x < 4 ? s[x] : sum + s[x];
        if (x % 16 == 15)
#pragma unroll
            for (int y = 0; y < 4; ++y) {
                const int c = x - 15 + y / 2 * 8 + y % 2 * 2;  // two groups of eight columns, one half of the rows
                p[x / 16][y] = pack_e4m3(s[c], s[c + 1], s[c + 4], s[c + 5]);
            }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half)
        row.total[half] = fmaf(total[half][0] + total[half][1], row.rise[half], row.total[half]);
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

// Adds a tile's part to what was summed before.
__device__ __forceinline__ void gather(float (&o)[S::DIM / 2], const float (&part)[S::DIM / 2], const float (&weight)[2]) {
#pragma unroll
    for (int x = 0; x < S::DIM / 2; ++x) o[x] = fmaf(part[x], weight[x / 2 % 2], o[x]);
}

// Keeps waits for products behind a softmax: ptxas moves them up to the last instruction that may touch memory, so one
// stands here that does not, as no total is negative.
__device__ __forceinline__ void hold_waits(u32 unused, const Row& row) {
    asm volatile("{\n.reg .pred p;\nsetp.lt.f32 p, %1, 0f00000000;\n@p st.volatile.shared.f32 [%0], %1;\n}"
                 ::"r"(unused), "f"(fminf(row.total[0], row.total[1])) : "memory");
}

// Probabilities to where the product with V, which has to be over, reads them.
__device__ __forceinline__ void move(u32 (&to)[S::KEYS / 32][4], const u32 (&from)[S::KEYS / 32][4]) {
#pragma unroll
    for (int x = 0; x < S::KEYS / 8; ++x) asm volatile("mov.b32 %0, %1;" : "=r"(to[x / 4][x % 4]) : "r"(from[x / 4][x % 4]));
}

// A computing warpgroup.
__device__ __forceinline__ void consume(u32 shared, const Scales& scales, T* out, float* lse, const Sizes& n, float scale,
                                        int group) {
    const int lane = threadIdx.x % 32, warp_row = group * 64 + threadIdx.x / 32 % 4 * 16;
    const int q_blocks = (n.seq_q + S::QUERIES - 1) / S::QUERIES, k_blocks = (n.seq_k + S::KEYS - 1) / S::KEYS;
    const auto leave = [&](u32 barrier) {
        if (lane == 0) barrier_arrive(barrier);
    };
    u32 tile = 0;
#pragma unroll 1
    for (u32 round = 0;; ++round) {
        const u32 slot = round % S::SLOTS, q_rows = shared + S::Q + slot * S::Q_TILE + group * 64 * ROW;
        barrier_sleep(shared + S::Q_FULL + 8 * slot, round / S::SLOTS & 1);
        const Work work = published(shared + S::UNIT + 32 * slot);
        if (work.count < 0) break;
        const int i = work.i0 + warp_row;
        if (work.count == 0) {
            leave(shared + S::Q_FREE + 8 * slot);
            finish_blind<S>(out, lse, work, n, i, lane);
            continue;
        }
        float s[S::KEYS / 2], o[S::DIM / 2], part[S::DIM / 2], weight[2];
        u32 p[S::KEYS / 32][4];
        Row row = {{NOWHERE, NOWHERE}, {NOWHERE, NOWHERE}, {1.f, 1.f}, {0.f, 0.f}};
#pragma unroll
        for (int x = 0; x < S::DIM / 2; ++x) o[x] = 0.f;
        int j = work.first + work.count - 1;
        const int scale_at = (work.b * n.heads_kv + work.h / (n.heads_q / n.heads_kv)) * k_blocks;
        const float *const k_scales = scales.k + scale_at, *const v_scales = scales.v + scale_at;
        const float q_factor = scale * LOG2_E * scales.q[(work.b * n.heads_q + work.h) * q_blocks + work.i0 / S::QUERIES];
        // Ends never fall from query to query: keys that the first and the last of the warp's see, all see.
        const int all_begin = visible(i + 15, work.queries, work.keys, n.causal, n.window).begin;
        const int all_end = visible(i, work.queries, work.keys, n.causal, n.window).end;
        const auto soften_tile = [&](int j, u32 (&p)[S::KEYS / 32][4], float k_scale) {
            if ((j + 1) * S::KEYS > all_end || j * S::KEYS < all_begin) {
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const int start = j * S::KEYS + lane % 4 * 4;
                    const Keys keys = visible(i + half * 8 + lane / 4, work.queries, work.keys, n.causal, n.window);
                    hide(s, half, keys.begin - start, keys.end - start);
                }
            }
            follow(s, row, o, weight, q_factor * k_scale);
            soften(p, s, row, q_factor * k_scale);
        };
        const auto weigh = [&](float v_scale) { weight[0] = v_scale * row.rise[0], weight[1] = v_scale * row.rise[1]; };
        // A tile of keys was read; after the unit's last one nobody needs its queries.
        const auto leave_keys = [&](u32 stage, int j) {
            leave(shared + S::K_FREE + 8 * stage);
            if (j == work.first) leave(shared + S::Q_FREE + 8 * slot);
        };
        // From one lane: or descriptors would be kept in the registers of all.
        const u32 q_start = __shfl_sync(0xffffffffu, descriptor_start(q_rows, 16), 0);
        barrier_sleep(shared + S::K_FULL + 8 * (tile % STAGES), tile / STAGES & 1);
        product_begin();
        begin_scores(s, q_start, descriptor_start(shared + S::K + tile % STAGES * S::TILE, 16));
        product_wait<0>();
        product_done(s);
        leave_keys(tile % STAGES, j);
        weight[0] = weight[1] = 0.f;
        soften_tile(j, p, k_scales[j]);
        weigh(v_scales[j]);
        // Only the last tile of keys, the first to come, may reach behind those that exist.
        if ((j + 1) * S::KEYS > work.keys && work.keys < n.seq_k) {
            barrier_sleep(shared + S::V_FULL + 8 * (tile % STAGES), tile / STAGES & 1);
            clear_behind(shared + S::V + tile % STAGES * S::TILE, work.keys - j * S::KEYS, threadIdx.x - 128);
            order_for_engines();
            named_sync(3, 128 * S::GROUPS);
        }
#pragma unroll 1
        for (; --j >= work.first; ++tile) {
            const u32 now = tile % STAGES, next = (tile + 1) % STAGES;
            const float k_scale = k_scales[j], v_scale = v_scales[j];
            u32 fresh[S::KEYS / 32][4];
            barrier_sleep(shared + S::K_FULL + 8 * next, (tile + 1) / STAGES & 1);
            product_begin();
            begin_scores(s, q_start, descriptor_start(shared + S::K + next * S::TILE, 16));
            barrier_sleep(shared + S::V_FULL + 8 * now, tile / STAGES & 1);
            product_begin();
            begin_gather(part, p, descriptor_start(shared + S::V + now * S::TILE, 16));
            product_wait<1>();
            product_done(s);
            leave_keys(next, j);
            soften_tile(j, fresh, k_scale);
            hold_waits(shared + S::UNUSED, row);
            product_wait<0>();
            product_done(part);
            leave(shared + S::V_FREE + 8 * now);
            gather(o, part, weight);
            weigh(v_scale);
            move(p, fresh);
        }
        barrier_sleep(shared + S::V_FULL + 8 * (tile % STAGES), tile / STAGES & 1);
        product_begin();
        begin_gather(part, p, descriptor_start(shared + S::V + tile % STAGES * S::TILE, 16));
        product_wait<0>();
        product_done(part);
        leave(shared + S::V_FREE + 8 * (tile % STAGES));
        gather(o, part, weight);
        ++tile;
        const Softmax ends = {{-row.first[0], -row.first[1]}, {row.total[0], row.total[1]}};
        finish_rows<S>(o, ends, out, lse, work, n, i, lane, 1.f);
    }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(128 * (S::GROUPS + 1), 1) forward_d128_bf16(
    const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v,
    const float* __restrict__ q_scale, const float* __restrict__ k_scale, const float* __restrict__ v_scale,
    const int* __restrict__ lengths_q, const int* __restrict__ lengths_k, T* __restrict__ o, float* __restrict__ lse,
    int batch, int seq_q, int seq_k, int heads_q, int heads_kv, int dim, int causal, int window, int section,
    float scale, u32* __restrict__ drawn) {
    const Sizes n = {lengths_q, lengths_k, batch, seq_q, seq_k, heads_q, heads_kv, dim, causal, window, section};
    const u32 shared = begin_shared<S, STAGES>();
    const int units = (n.seq_q + S::QUERIES - 1) / S::QUERIES * n.batch * n.heads_q;
    if (threadIdx.x < 128) {
        registers_down<24>();
        if (threadIdx.x == 0) produce(shared, &q, &k, &v, n, units, drawn);
    } else {
        registers_up<240>();
        consume(shared, {q_scale, k_scale, v_scale}, o, lse, n, scale, threadIdx.x / 128 - 1);
    }
}
