// Idea: the warp-specialized forward on 8-bit tensor cores, twice as fast as 16-bit ones. What those take in one order
//   only is laid out on the way in, and what they add too coarsely is added outside.
// Source: Shah et al. 2024 (FlashAttention-3), section 3.3, for per-block scales; Zhang et al. 2024 (SageAttention2,
//   arXiv 2411.10958) for sums with V in two levels; the order of keys, and maxima as integers, are ours.
// Shapes: see attention.cuh; q, k: e4m3, v: e4m3 [batch, heads_kv, head_dim, seq_k]; scales: f32 [batch, heads, blocks of
//   128]; head_dim a multiple of 16 up to 128, seq_k one of 16.
// Plan: as attention_warp_specialized.cu: one thread draws units and copies, two warpgroups own 64 queries each.
//   8-bit operands have K contiguous: V comes transposed, so its rows are keys' values of one d.
//   A thread's scores are columns 2t, 2t+1 of every 8 (t = lane % 4), but as operand of the product with V it holds four
//   values side by side, 4t to 4t+3 of every 16. So the copy engine lays out K with the keys 4t + 2h + e in rows
//   8h + 2t + e: then the scores that a thread has are those of the keys it needs, and nothing is exchanged.
//   Two warps a scheduler hide little of each other's latencies where products take half the time, so a tile is one chain
//   of instructions with hardly a branch: maxima of three at a time, as integers; mbarriers asked before they are needed;
//   what the product with V gave is added to o while the next scores are under way.
// Numerics: f32 softmax; probabilities are 256·exp(score - maximum so far), rounded to e4m3, their sum is not. 8-bit tensor
//   cores keep 13 binary places of a sum, so a tile's product with V starts from zero and is added in f32, by one
//   multiplication and addition a value that also follows the maximum and V's scale of the tile.
// Limits: wgmma; nearly all shared memory, so one block a multiprocessor. V's scales of a head lie within 2^64 of each other.
// Tried on B8 H16 N2048 and N16384 (how much slower): maxima that lag by 2^0.75, o following by a branch or not at all (2
//   to 12 %); halves of tiles, of which the next one's scores are computed a softmax ahead (20 %), also by three warpgroups,
//   queries in registers or not (10 to 20 %); scores of a whole tile ahead (spills); turns by named barriers at the products
//   (3 to 12 %), at maxima and exponentials (11 to 20 %) or at these alone (1 to 3 %); an eighth or a quarter of the
//   exponentials by polynomials of degree 3 (0 to 8 %); eight exponentials at a time, or a wait for the product with V behind
//   a quarter or half of them (1 to 4 %); outputs straight from registers (2 %); a unit read by one lane and told
//   to the others (1 to 2 %), or its slot left by all lanes at an mbarrier (0 to 3 %). Products with V that tensor cores add up
//   over all tiles are 2 to 4 % faster, but of 16384 values of one sign 30 % is cut off; over 16 tiles, then to shared
//   memory, 4 %, and nothing is gained. ptxas decides more than any of it: builds that differ in when the first exponential
//   comes differ by 8 %, so every change is to be measured, whatever it is for.
// Target: compute_90a
// Twin: f16
#include "attention_units.cuh"

namespace {

typedef __nv_bfloat16 T;
constexpr float PEAK_BITS = 8.f;  // a probability of 1 is 2^8: near the largest e4m3, 448

// What lies where in shared memory, in bytes from its 1024-aligned start.
struct Shape {
    static constexpr int DIM = 128, KEYS = 128, GROUPS = 2, STAGES = 4, SLOTS = 2, QUERIES = 64 * GROUPS;
    static constexpr u32 TILE = KEYS * DIM, Q_TILE = QUERIES * DIM, Q = 0, K = SLOTS * Q_TILE, V = K + STAGES * TILE;
    static constexpr u32 OUT = V + STAGES * TILE, OUT_OF_WARP = 16 * DIM * 2, Q_FULL = OUT + 4 * GROUPS * OUT_OF_WARP;
    static constexpr u32 Q_FREE = Q_FULL + 8 * SLOTS, K_FULL = Q_FREE + 8 * SLOTS;
    static constexpr u32 K_FREE = K_FULL + 8 * STAGES, V_FULL = K_FREE + 8 * STAGES, V_FREE = V_FULL + 8 * STAGES;
    static constexpr u32 UNIT = V_FREE + 8 * STAGES, UNUSED = UNIT + 32 * SLOTS;
};
typedef Shape S;
constexpr int STAGES = S::STAGES;

struct Scales {
    const float *q, *k, *v;
};

// How the copying thread fetches tiles.
struct Copies {
    const TensorMap *q, *k, *v;
    int dim, seq_k;

    __device__ __forceinline__ void queries(u32 to, u32 full, const Work& work) const {
        copy_box(to, q, full, 0, work.h, work.i0, work.b);
    }
    __device__ __forceinline__ void keys(u32 to, u32 full, int b, int h, int j) const {
        copy_box(to, k, full, h * dim, 0, 0, 0, (b * seq_k + j * S::KEYS) / 16);
    }
    __device__ __forceinline__ void values(u32 to, u32 full, int b, int h, int j) const {
        copy_box(to, v, full, j * S::KEYS, 0, h, b);
    }
};

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

// A thread's two rows: the largest scores so far, in base 2, and the sums of what was 2^(score - max + PEAK_BITS). `unit`
// is V's scale of the last tile: its part of o is in multiples of it.
struct Row {
    float max[2], total[2], unit;
};

__device__ __forceinline__ int bits(float x) { return __float_as_int(x); }

// The largest of a thread's products of each row. Floats are in order as integers are, but for the negative among each
// other, and of integers three are compared at a time: that is for rows whose maximum was not negative before, which a
// negative one does not change.
__device__ __forceinline__ void find_tops(float (&top)[2], const float (&s)[S::KEYS / 2], bool positive) {
    if (positive) {
        int chain[2][4];
#pragma unroll
        for (int c = 0; c < S::KEYS / 8; ++c)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int a = bits(s[c * 4 + half * 2]), b = bits(s[c * 4 + half * 2 + 1]);
                chain[half][c % 4] = c < 4 ? max(a, b) : __vimax3_s32(chain[half][c % 4], a, b);
            }
#pragma unroll
        for (int half = 0; half < 2; ++half)
            top[half] = __int_as_float(max(__vimax3_s32(chain[half][0], chain[half][1], chain[half][2]), chain[half][3]));
    } else {
#pragma unroll
        for (int half = 0; half < 2; ++half) top[half] = fmaxf(s[half * 2], s[half * 2 + 1]);
#pragma unroll
        for (int c = 1; c < S::KEYS / 8; ++c)
#pragma unroll
            for (int half = 0; half < 2; ++half)
                top[half] = fmaxf(top[half], fmaxf(s[c * 4 + half * 2], s[c * 4 + half * 2 + 1]));
    }
}

// Takes the maxima of scores, which are factor · s: gives the factor for what was summed before, and what to add to a score.
// `positive`: no row's maximum was negative, among all of the warp's.
__device__ __forceinline__ void raise_maxima(const float (&s)[S::KEYS / 2], Row& row, float (&shrink)[2], float (&base)[2],
                                             float factor, bool positive) {
    float top[2];
    find_tops(top, s, positive);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const float now = fmaxf(row.max[half], quad_max(top[half]) * factor), seen = now == NEG_INFINITY ? 0.f : now;
        shrink[half] = exp2_fast(row.max[half] - seen);
        base[half] = PEAK_BITS - seen, row.max[half] = now;
    }
}
__device__ __forceinline__ bool none_negative(const Row& row) {
    return __all_sync(0xffffffffu, fminf(row.max[0], row.max[1]) >= 0.f);
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

// Turns products into probabilities. A row's sum has two chains.
__device__ __forceinline__ void soften(float (&s)[S::KEYS / 2], const float (&base)[2], float (&total)[2][2], float factor) {
#pragma unroll
    for (int x = 0; x < S::KEYS / 2; ++x) {
        s[x] = exp2_fast(fmaf(s[x], factor, base[x / 2 % 2]));
        float& sum = total[x / 2 % 2][x % 2];
        sum = x < 4 ? s[x] : sum + s[x];
    }
}

// Accumulators of 32 columns are the A operand of 32 keys, as these lie.
__device__ __forceinline__ void round_off(u32 (&p)[S::KEYS / 32][4], const float (&s)[S::KEYS / 2]) {
#pragma unroll
    for (int x = 0; x < S::KEYS / 2; x += 16)
#pragma unroll
        for (int y = 0; y < 4; ++y) {
            const int c = x + y / 2 * 8 + y % 2 * 2;  // two groups of eight columns, one half of the rows
            p[x / 16][y] = pack_e4m3(s[c], s[c + 1], s[c + 4], s[c + 5]);
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

// Keeps the wait for the product with V behind the maxima: ptxas moves it up to the last instruction that may touch memory,
// so one stands here that does not, as no sum is negative; those of the tile before, which cost no wait.
__device__ __forceinline__ void hold_wait(u32 unused, const float (&total)[2][2], const Row& row) {
    asm volatile("{\n.reg .pred p;\nsetp.lt.f32 p, %1, 0f00000000;\n@p st.volatile.shared.f32 [%0], %1;\n}"
                 ::"r"(unused), "f"(total[0][0] + total[1][0] + row.total[0]) : "memory");
}

// Whether the phase of that parity has ended: asked early, as the answer takes some forty cycles.
__device__ __forceinline__ bool ask(u32 barrier, u32 parity) {
    u32 done;
    asm volatile(
        "{\n.reg .pred p;\n"
        "mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
    return done;
}

// A computing warpgroup.
__device__ __forceinline__ void consume(u32 shared, const Scales& scales, const TensorMap* o_map, T* out, float* lse,
                                        const Sizes& n, float scale, int group) {
    const int lane = threadIdx.x % 32, warp = group * 4 + threadIdx.x / 32 % 4;
    const int q_blocks = (n.seq_q + S::QUERIES - 1) / S::QUERIES, k_blocks = (n.seq_k + S::KEYS - 1) / S::KEYS;
    const auto leave = [&](u32 barrier) {
        if (lane == 0) barrier_arrive(barrier);
    };
    u32 tile = 0;
#pragma unroll 1
    for (u32 round = 0;; ++round) {
        const u32 slot = round % S::SLOTS, q_rows = shared + S::Q + slot * S::Q_TILE + group * 64 * ROW;
        const Work work = take_unit<S>(shared, round);
        if (work.count < 0) break;
        const int i = work.i0 + warp * 16;
        if (work.count == 0) {
            leave(shared + S::Q_FREE + 8 * slot);
            finish_blind<S>(out, lse, work, n, i, lane);
            continue;
        }
        float s[S::KEYS / 2], o[S::DIM / 2], part[S::DIM / 2], shrink[2], base[2], total[2][2];
        u32 p[S::KEYS / 32][4];
        Row row = {{NEG_INFINITY, NEG_INFINITY}, {0.f, 0.f}, 0.f};
#pragma unroll
        for (int x = 0; x < S::DIM / 2; ++x) o[x] = part[x] = 0.f;
        int j = work.first + work.count - 1;
        const int scale_at = (work.b * n.heads_kv + work.h / (n.heads_q / n.heads_kv)) * k_blocks;
        const float *const k_scales = scales.k + scale_at, *const v_scales = scales.v + scale_at;
        const float q_factor = scale * LOG2_E * scales.q[(work.b * n.heads_q + work.h) * q_blocks + work.i0 / S::QUERIES];
        const Sight<S> sight(n, work, i);
        const auto mask_tile = [&](int j) {
            if (sight.sees_all(j)) return;
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int start = j * S::KEYS + lane % 4 * 4;
                const Keys keys = sight.of(half * 8 + lane / 4);
                hide(s, half, keys.begin - start, keys.end - start);
            }
        };
        const auto add_up = [&] {
#pragma unroll
            for (int half = 0; half < 2; ++half)
                row.total[half] = fmaf(row.total[half], shrink[half], total[half][0] + total[half][1]);
        };
        // What the sum before a tile's part is multiplied by, to follow maximum and unit; and for the part that comes next.
        float change[2] = {0.f, 0.f}, coming[2] = {0.f, 0.f};
        const auto gather = [&] {
#pragma unroll
            for (int x = 0; x < S::DIM / 2; ++x) o[x] = fmaf(o[x], change[x / 2 % 2], part[x]);
            change[0] = coming[0], change[1] = coming[1];
        };
        // A tile of keys was read; after the unit's last one nobody needs its queries.
        const auto leave_keys = [&](u32 stage, int j) {
            leave(shared + S::K_FREE + 8 * stage);
            if (j == work.first) leave(shared + S::Q_FREE + 8 * slot);
        };
        const auto key_start = [&](u32 tile) { return descriptor_start(shared + S::K + tile % STAGES * S::TILE, 16); };
        const auto value_start = [&](u32 tile) { return descriptor_start(shared + S::V + tile % STAGES * S::TILE, 16); };
        // From one lane: or descriptors would be kept in the registers of all.
        const u32 q_start = __shfl_sync(0xffffffffu, descriptor_start(q_rows, 16), 0);
        barrier_sleep(shared + S::K_FULL + 8 * (tile % STAGES), tile / STAGES & 1);
        product_begin();
        begin_scores(s, q_start, key_start(tile));
        product_wait<0>();
        product_done(s);
        leave_keys(tile % STAGES, j);
        mask_tile(j);
        const float first_factor = q_factor * k_scales[j];
        row.unit = v_scales[j];
        raise_maxima(s, row, shrink, base, first_factor, false);
        soften(s, base, total, first_factor);
        add_up();
        round_off(p, s);
        bool positive = none_negative(row);
        float k_next = j > work.first ? k_scales[j - 1] : 0.f, v_next = j > work.first ? v_scales[j - 1] : 0.f;
        // Only the last tile of keys, the first to come, may reach behind those that exist.
        if ((j + 1) * S::KEYS > work.keys && work.keys < n.seq_k) {
            barrier_sleep(shared + S::V_FULL + 8 * (tile % STAGES), tile / STAGES & 1);
            clear_behind(shared + S::V + tile % STAGES * S::TILE, work.keys - j * S::KEYS, threadIdx.x - 128);
            order_for_engines();
            named_sync(3, 128 * S::GROUPS);
        }
        bool k_ready = ask(shared + S::K_FULL + 8 * ((tile + 1) % STAGES), (tile + 1) / STAGES & 1);
#pragma unroll 1
        for (; j > work.first; ++tile) {
            --j;
            const u32 now = tile % STAGES, next = (tile + 1) % STAGES;
            const float factor = q_factor * k_next, by = __fdividef(row.unit, v_next);
            row.unit = v_next;
            const bool v_ready = ask(shared + S::V_FULL + 8 * now, tile / STAGES & 1);
            if (!k_ready) barrier_sleep(shared + S::K_FULL + 8 * next, (tile + 1) / STAGES & 1);
            product_begin();
            begin_scores(s, q_start, key_start(tile + 1));
            gather();  // the tile before's, in the shadow of the scores
            if (!v_ready) barrier_sleep(shared + S::V_FULL + 8 * now, tile / STAGES & 1);
            product_begin();
            begin_gather(part, p, value_start(tile));
            if (j > work.first) k_next = k_scales[j - 1], v_next = v_scales[j - 1];
            product_wait<1>();
            product_done(s);
            leave_keys(next, j);
            mask_tile(j);
            raise_maxima(s, row, shrink, base, factor, positive);
            hold_wait(shared + S::UNUSED, total, row);
            product_wait<0>();
            product_done(part);
            leave(shared + S::V_FREE + 8 * now);
            k_ready = ask(shared + S::K_FULL + 8 * ((tile + 2) % STAGES), (tile + 2) / STAGES & 1);
            coming[0] = shrink[0] * by, coming[1] = shrink[1] * by;
            soften(s, base, total, factor);
            add_up();
            round_off(p, s);
            positive = none_negative(row);
        }
        gather();
        barrier_sleep(shared + S::V_FULL + 8 * (tile % STAGES), tile / STAGES & 1);
        product_begin();
        begin_gather(part, p, value_start(tile));
        product_wait<0>();
        product_done(part);
        leave(shared + S::V_FREE + 8 * (tile % STAGES));
        ++tile;
        gather();
#pragma unroll
        for (int x = 0; x < S::DIM / 2; ++x) o[x] *= row.unit;
        const Softmax ends = {{row.max[0] - PEAK_BITS, row.max[1] - PEAK_BITS}, {row.total[0], row.total[1]}};
        finish_boxes<S, T>(o, ends, shared + S::OUT + warp * S::OUT_OF_WARP, o_map, lse, work, n, i, lane, 1.f);
    }
    if (lane == 0) stores_done();
}

}  // namespace

extern "C" __global__ void __launch_bounds__(128 * (S::GROUPS + 1), 1) forward_d128_bf16(
    const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v,
    const __grid_constant__ TensorMap o_map, const float* __restrict__ q_scale, const float* __restrict__ k_scale,
    const float* __restrict__ v_scale, const int* __restrict__ lengths_q, const int* __restrict__ lengths_k,
    T* __restrict__ o, float* __restrict__ lse, int batch, int seq_q, int seq_k, int heads_q, int heads_kv, int dim,
    int causal, int window, int section, float scale, u32* __restrict__ drawn) {
    const Sizes n = {lengths_q, lengths_k, batch, seq_q, seq_k, heads_q, heads_kv, dim, causal, window, section};
    const u32 shared = begin_shared<S, STAGES>();
    const int units = (n.seq_q + S::QUERIES - 1) / S::QUERIES * n.batch * n.heads_q;
    if (threadIdx.x < 128) {
        registers_down<24>();
        if (threadIdx.x > 0) end_thread();
        produce<S>(shared, Copies{&q, &k, &v, dim, seq_k}, n, units, drawn);
    } else {
        registers_up<240>();
        consume(shared, {q_scale, k_scale, v_scale}, &o_map, o, lse, n, scale, threadIdx.x / 128 - 1);
    }
}
