// Idea: the rows of an 8-bit cache go from memory straight into the operands of tensor cores: of K as they are, since
//   products of its integers with the digits of a query add up to scores; of V by four operations a pair of values.
// Source: Ootomo, Ozaki & Yokota 2024 (products of floats by their 8-bit digits); Kim et al. 2022 (arXiv 2211.10017;
//   integers become floats by their bits); Dao et al. 2023 (Flash-Decoding); Ainslie et al. 2023 (heads in groups).
// Shapes: as attention_decode_tensor_core.cu, but k and v int8, with k_scale and v_scale f32 [rows, heads_kv]; head_dim a
//   multiple of 16 up to 128.
// Plan: as attention_decode_tensor_core.cu, but a warp step takes 32 keys, so that as many bytes are under way. A lane
//   looks up the row of one key, a step ahead, and its two scales; shuffles tell its neighbours. S^T = K Q^T is three
//   products of integers, one for each 8-bit digit of q, whose heads are numbers of 24 bits with a point fixed by the
//   largest; a block makes the digits once. O^T = V^T P^T is one product of the storage type.
// Numerics: sums of integers are exact. A score is multiplied by its key's scale, a probability by its value's: as a share
//   of a power of two above the largest scale so far, so that f16 holds it whatever the scales. lg2.approx in lse.
// Limits: bound by memory; heads of up to 64 values leave half of the lanes that load V idle; groups beyond 8 heads read K
//   and V once for each 8; a scale comes with the 32 bytes around it, mostly scales of other heads; up to 2^32 rows in a
//   cache and 528 splits.
// Twin: f16
#include "attention_cache.cuh"
#include "attention_decode_splits.cuh"
#include "attention_mma.cuh"

typedef __nv_bfloat16 T;
typedef signed char i8;
enum : int { WARPS = 4, STEP = 32, HEADS = 8, DIM = 128 };

struct Shared {
    alignas(16) i8 digits[3][HEADS][DIM + 64];  // the lowest first; rows of neighbours begin in other banks
    float unit[HEADS];                          // what the lowest digit of a head counts
    float sums[WARPS][HEADS][DIM + 4], max[WARPS][HEADS], total[WARPS][HEADS], v_unit[WARPS];
    int last;
};

// One step of integer products: s8 keys by digits, of which only the highest has a sign.
__device__ __forceinline__ void mma_digit(int (&c)[4], const u32 (&a)[4], u32 b0, u32 b1, bool high) {
    if (high)
        asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
            : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    else
        asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.u8.s32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
            : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// What turns int8 into the storage type: `base` is the power of two whose last place is 1, so that base + (x & 127) is
// their bits side by side, and base + (x & 128) likewise; their difference is x.
struct Magic {
    u32 base, minus_base, one;
    __device__ __forceinline__ explicit Magic(float x)
        : base(Pair<T>::pack(x, x)), minus_base(Pair<T>::pack(-x, -x)), one(Pair<T>::pack(1.f, 1.f)) {}

    // Bytes 2 HALF and 2 HALF + 1 of two words, each pair side by side in the storage type.
    template <int HALF> __device__ __forceinline__ void pairs(u32& x, u32& y, u32 low, u32 high) const {
        asm("{.reg .b32 a,b;\nprmt.b32 b,%2,%3,%4;\nlop3.b32 a,b,0x7f007f,%5,0xea;\nlop3.b32 b,b,0x800080,%6,0xea;\n"
            "fma.rn.bf16x2 %0,a,%7,b;\nprmt.b32 b,%2,%3,%8;\nlop3.b32 a,b,0x7f007f,%5,0xea;\n"
            "lop3.b32 b,b,0x800080,%6,0xea;\nfma.rn.bf16x2 %1,a,%7,b;}"
            : "=r"(x), "=r"(y)
            : "r"(low), "r"(high), "n"(0x4400 + HALF * 0x2222), "r"(base), "r"(minus_base), "r"(one),
              "n"(0x5511 + HALF * 0x2222));
    }
};

// The queries of this block as digits; a thread has 8 values of a head, one after the other to keep the text short.
__device__ __forceinline__ void split_digits(Shared& shared, const T* q, int dim, int heads, bool is_f16) {
    const int h = threadIdx.x / 16, d = threadIdx.x % 16 * 8;
    uint4 bits = {0, 0, 0, 0};
    if (h < heads && d < dim) bits = *(const uint4*)(q + h * dim + d);
    float* x = &shared.sums[0][h][d];
    u32* words = (u32*)&shared.sums[1][h][d];
    *(uint4*)words = bits;
    float top = 1e-30f;
#pragma unroll 1
    for (int e = 0; e < 8; ++e) {
        const unsigned short half = words[e / 2] >> e % 2 * 16;
        // By hand for either type: of bf16 the compiler makes a shift, which has no twin.
        x[e] = is_f16 ? __half2float(__ushort_as_half(half)) : __uint_as_float((u32)half << 16);
        top = max_or_nan(top, fabsf(x[e]));
    }
#pragma unroll 1
    for (int offset = 8; offset > 0; offset /= 2) top = max_or_nan(top, __shfl_xor_sync(0xffffffffu, top, offset));
    // Where 2^e > top >= 2^(e - 1), 24 bits, one of them the sign, go from -2^e to 2^e in steps of 2^(e - 23).
    const u32 exponent = __float_as_uint(top) >> 23 << 23, step = exponent - (22u << 23);
    const float steps = __uint_as_float((254u << 23) - step);
#pragma unroll 1
    for (int e = 0; e < 8; ++e) {
        const int t = __float2int_rn(x[e] * steps);
#pragma unroll
        for (int g = 0; g < 3; ++g) shared.digits[g][h][d + e] = (i8)(t >> 8 * g);
    }
    // No integer stands for infinity or NaN: the head's unit does, NaN for either.
    if (d == 0) shared.unit[h] = __uint_as_float(exponent < 255u << 23 ? step : ~0u);
}

// A key head of one sequence's cache: its keys begin .. end, and where a lane finds its bytes of a row.
struct Head {
    Cache cache;
    u64 k, v;  // addresses in global memory
    const float *k_scale, *v_scale;
    u32 row_bytes, heads_kv;
    int b, begin, end, dim;

    __device__ __forceinline__ u32 row(int j) const { return (u32)cache.row(b, min(j, end - 1)); }
    // 16 bytes of a row from value `d` on. Behind its end any do, such as the first: there q has no digits and o no values.
    __device__ __forceinline__ uint4 load(u64 from, u32 row, int d) const {
        uint4 x;
        asm volatile("{.reg .b64 a;\nmad.wide.u32 a,%4,%5,%6;\nld.global.cs.v4.u32 {%0,%1,%2,%3},[a];}"
                     : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                     : "r"(row), "r"(row_bytes), "l"(from + (d < dim ? d : 0)));
        return x;
    }
};

// A warp's part: sums of probabilities times values of its steps.
struct Part {
    static constexpr int K_CHUNKS = DIM / 64, WORDS = DIM / 32, SUMS = DIM / 16;
    uint4 key[K_CHUNKS][4], value[8];
    float sum[SUMS][4], max[2], total[2], unit[2];
    float k_scale, v_scale;  // of key `lane` of the step
    u32 v_unit;              // bits of a power of two above all scales of values so far: what sums are shares of
    int lane;

    __device__ __forceinline__ Part(const Shared& shared) : v_unit(1u << 23), lane(threadIdx.x % 32) {
#pragma unroll
        for (int h = 0; h < 2; ++h)
            max[h] = NEG_INFINITY, total[h] = 0.f, unit[h] = shared.unit[lane % 4 * 2 + h];
#pragma unroll
        for (int m = 0; m < SUMS; ++m)
#pragma unroll
            for (int e = 0; e < 4; ++e) sum[m][e] = 0.f;
    }
    __device__ __forceinline__ float of_key(float scale, int tile, int half) const {
        return __shfl_sync(0xffffffffu, scale, tile * 16 + half * 8 + lane / 4);
    }
    // Rows of keys lane / 4 and every 8th from there, chunks of 16 values lane % 4 of every four; `row` is that of key
    // `lane` of the step.
    __device__ __forceinline__ void load_keys(const Head& head, u32 row) {
        k_scale = __ldg(head.k_scale + (u64)row * head.heads_kv);
#pragma unroll
        for (int r = 0; r < 4; ++r) {
            const u32 at = __shfl_sync(0xffffffffu, row, r * 8 + lane / 4);
#pragma unroll
            for (int u = 0; u < K_CHUNKS; ++u) key[u][r] = head.load(head.k, at, u * 64 + lane % 4 * 16);
        }
    }
    // Rows of values lane % 4 * 2 (+1) and 8, 16, 24 further, chunk lane / 4 of eight.
    __device__ __forceinline__ void load_values(const Head& head, u32 row) {
        v_scale = __ldg(head.v_scale + (u64)row * head.heads_kv);
#pragma unroll
        for (int r = 0; r < 8; ++r)
            value[r] = head.load(head.v, __shfl_sync(0xffffffffu, row, r / 2 * 8 + lane % 4 * 2 + r % 2), lane / 4 * 16);
    }
    // s[t]: keys 16 t + lane / 4 (0, 1) and 8 further (2, 3) by heads lane % 4 * 2 (0, 2) and the next (1, 3).
    __device__ __forceinline__ void score(float (&s)[2][4], const Shared& shared) const {
        int c[2][3][4] = {};
#pragma unroll
        for (int u = 0; u < K_CHUNKS; ++u)
#pragma unroll
            for (int g = 0; g < 3; ++g) {
                const uint4 digits = *(const uint4*)&shared.digits[g][lane / 4][u * 64 + lane % 4 * 16];
#pragma unroll
                for (int t = 0; t < 2; ++t) {
                    const uint4 a = key[u][2 * t], b = key[u][2 * t + 1];
                    mma_digit(c[t][g], {a.x, b.x, a.y, b.y}, digits.x, digits.y, g == 2);
                    mma_digit(c[t][g], {a.z, b.z, a.w, b.w}, digits.z, digits.w, g == 2);
                }
            }
#pragma unroll
        for (int t = 0; t < 2; ++t) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const float scale = of_key(k_scale, t, half);
#pragma unroll
                for (int h = 0; h < 2; ++h) {
                    const int e = 2 * half + h;
                    s[t][e] = fmaf((float)(c[t][2][e] * 256 + c[t][1][e]), 256.f, (float)c[t][0][e]) * unit[h] * scale;
                }
            }
        }
    }
    // Scores become probabilities, and these times their values' scales.
    __device__ __forceinline__ void soften(float (&s)[2][4], float factor) {
        const u32 above = (__reduce_max_sync(0xffffffffu, __float_as_uint(fabsf(v_scale)) >> 23) + 1) << 23;
        const u32 grown = ::max(v_unit, above);
        const float inverse = __uint_as_float((254u << 23) - grown), less = __uint_as_float(v_unit) * inverse;
        v_unit = grown;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            float top = fmaxf(fmaxf(s[0][h], s[0][h + 2]), fmaxf(s[1][h], s[1][h + 2]));
#pragma unroll
            for (int offset = 4; offset < 32; offset *= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, offset));
            top = fmaxf(top, max[h]);
            const float seen = top == NEG_INFINITY ? 0.f : top, base = seen * factor;
            float shrink = exp2_fast((max[h] - seen) * factor);
            max[h] = top;
            float step = 0.f;
#pragma unroll
            for (int t = 0; t < 2; ++t)
#pragma unroll
                for (int e = h; e < 4; e += 2) {
                    s[t][e] = exp2_fast(fmaf(s[t][e], factor, -base));
                    step += s[t][e];
                }
            total[h] = fmaf(total[h], shrink, step);
            shrink *= less;
#pragma unroll
            for (int m = 0; m < SUMS; ++m) sum[m][h] *= shrink, sum[m][h + 2] *= shrink;
        }
        const float share = v_scale * inverse;
#pragma unroll
        for (int t = 0; t < 2; ++t)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const float scale = of_key(share, t, half);
                s[t][2 * half] *= scale, s[t][2 * half + 1] *= scale;
            }
    }
    __device__ __forceinline__ void gather(const float (&s)[2][4], const Magic& magic) {
        u32 p[4];
#pragma unroll
        for (int e = 0; e < 4; ++e) p[e] = transposed(Pair<T>::pack(s[e / 2][e % 2 * 2], s[e / 2][e % 2 * 2 + 1]));
        // Twice the same code with other rows: unrolled, it would be a fifth of the kernel's text.
#pragma unroll 1
        for (int t = 0; t < 2; ++t) {
            const u32(*rows)[WORDS] = (const u32(*)[WORDS])value;
#pragma unroll
            for (int w = 0; w < WORDS; ++w) {
                u32 a[4];
                magic.pairs<0>(a[0], a[1], rows[0][w], rows[1][w]);
                magic.pairs<0>(a[2], a[3], rows[2][w], rows[3][w]);
                mma<T>(sum[2 * w], a, p[0], p[1]);
                magic.pairs<1>(a[0], a[1], rows[0][w], rows[1][w]);
                magic.pairs<1>(a[2], a[3], rows[2][w], rows[3][w]);
                mma<T>(sum[2 * w + 1], a, p[0], p[1]);
            }
            p[0] = p[2], p[1] = p[3];
#pragma unroll
            for (int r = 0; r < 4; ++r) value[r] = value[r + 4];
        }
    }
    // Sum m of this lane: values lane / 4 * DIM / 8 + 2 m (0, 1) and the next (2, 3).
    __device__ __forceinline__ void put(Shared& shared, int warp) {
        if (lane == 0) shared.v_unit[warp] = __uint_as_float(v_unit);
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const int head = lane % 4 * 2 + h;
#pragma unroll 1
            for (int offset = 4; offset < 32; offset *= 2) total[h] += __shfl_xor_sync(0xffffffffu, total[h], offset);
            if (lane < 4) {
                shared.max[warp][head] = max[h];
                shared.total[warp][head] = total[h];
            }
#pragma unroll
            for (int m = 0; m < SUMS; ++m)
                *(float2*)&shared.sums[warp][head][lane / 4 * (DIM / 8) + m * 2] = {sum[m][h], sum[m][h + 2]};
        }
    }
};

// The warps' parts as that of the split.
__device__ __forceinline__ void merge_warps(const Shared& shared, int dim, int heads, i64 first, float factor, float* sums,
                                            float2* stats) {
#pragma unroll 1
    for (int at = threadIdx.x; at < heads * DIM; at += WARPS * 32) {
        const int h = at / DIM, d = at % DIM;
        float top = NEG_INFINITY, all = 0.f, mean = 0.f;
#pragma unroll
        for (int w = 0; w < WARPS; ++w) top = fmaxf(top, shared.max[w][h]);
        const float base = top == NEG_INFINITY ? 0.f : top;
#pragma unroll
        for (int w = 0; w < WARPS; ++w) {
            const float weight = exp2_fast((shared.max[w][h] - base) * factor);
            all = fmaf(weight, shared.total[w][h], all);
            mean = fmaf(weight * shared.v_unit[w], shared.sums[w][h][d], mean);
        }
        if (d < dim) __stcg(&sums[(first + h) * dim + d], mean);
        if (d == 0) __stcg(&stats[first + h], make_float2(top * factor, all));
    }
}

// Takes every WARPSth step of the head's keys. In its first turn a warp only looks up rows, in the second it loads them.
__device__ __forceinline__ void attend(Part& part, const Head& head, const Shared& shared, float factor, float squeeze,
                                       float base) {
    constexpr int STRIDE = WARPS * STEP;
    const Magic magic(base);
    const u32 keys = head.end - head.begin;
    if (keys == 0) return;
    u32 row = 0;
#pragma unroll 1
    for (int j = (int)(threadIdx.x / 32) * STEP - 2 * STRIDE; j < (int)keys; j += STRIDE) {
        const bool loaded = (u32)j < keys, more = (u32)(j + STRIDE) < keys;
        const u32 after = head.row(head.begin + j + 2 * STRIDE + part.lane);
        float s[2][4];
        if (fresh(loaded)) {
            // The digits are read anew each time: they would take 24 registers.
            asm volatile("" ::: "memory");
            part.score(s, shared);
        }
        if (fresh(more)) part.load_keys(head, row);
        if (fresh(loaded)) {
            if (squeeze != 0.f)
#pragma unroll 1
                for (int t = 0; t < 2; ++t)
#pragma unroll
                    for (int e = 0; e < 4; ++e) {
                        const float bent = tanh_of(s[0][e], squeeze);
                        s[0][e] = s[1][e], s[1][e] = bent;
                    }
            if ((u32)(j + STEP) > keys)
#pragma unroll
                for (int e = 0; e < 8; ++e)
                    if ((u32)(j + e / 2 * 8 + part.lane / 4) >= keys) s[e / 4][e % 4] = NEG_INFINITY;
            part.soften(s, factor);
            part.gather(s, magic);
        }
        if (fresh(more)) part.load_values(head, row);
        row = after;
    }
}

extern "C" __global__ void __launch_bounds__(128, 3) decode_bf16(
    const T* __restrict__ q, const i8* __restrict__ k, const i8* __restrict__ v, const float* __restrict__ k_scale,
    const float* __restrict__ v_scale, const int* __restrict__ table, const int* __restrict__ lengths,
    float* sums, float2* stats, u32* counters, T* __restrict__ o, float* __restrict__ lse, int dim, int batch, i64 seq_k,
    int heads_q, int heads_kv, i64 pages, int page_shift, int splits, float scale, float squeeze, float base) {
    __shared__ Shared shared;
    const int group = heads_q / heads_kv, tiles = (group + HEADS - 1) / HEADS;
    // Neighbouring blocks take the heads of the same keys, which lie side by side.
    const int tile = blockIdx.x % tiles, head = blockIdx.x / tiles % heads_kv, part_of = blockIdx.x / tiles / heads_kv;
    const int split = part_of % splits, b = part_of / splits;
    const int heads = min(HEADS, group - tile * HEADS);
    const i64 first_head = (i64)b * heads_q + head * group + tile * HEADS;
    const int length = lengths[b], chunk = ((length + splits - 1) / splits + STEP - 1) / STEP * STEP;
    const int begin = (int)min((i64)length, (i64)split * chunk), end = min(length, begin + chunk);
    const float factor = scale * LOG2_E;

    split_digits(shared, q + first_head * dim, dim, heads, base == 1024.f);
    __syncthreads();
    Part part(shared);
    const u64 k_head = __cvta_generic_to_global(k + head * dim), v_head = __cvta_generic_to_global(v + head * dim);
    const Head cached = {{table, pages, seq_k, page_shift}, k_head, v_head, k_scale + head, v_scale + head,
                         (u32)(heads_kv * dim), (u32)heads_kv, b, begin, end, dim};
    attend(part, cached, shared, factor, squeeze, base);
    part.put(shared, threadIdx.x / 32);
    __syncthreads();
    const i64 rows = (i64)batch * heads_q;
    merge_warps(shared, dim, heads, split * rows + first_head, factor, sums, stats);
    if (is_last(shared.last, &counters[(b * heads_kv + head) * tiles + tile], splits))
        merge_splits<DIM>(splits, rows, dim, heads, first_head, sums, stats, o, lse);
}
