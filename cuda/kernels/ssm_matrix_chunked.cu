// Idea: within a chunk of 64 steps the recurrence is a masked matrix product, which tensor cores do; between chunks only
//       the state is handed on, and it never leaves the registers of the block that walks the chunks.
// Source: Dao and Gu, Transformers are SSMs (2024), section 6 (the block decomposition); Sun et al., Retentive Network
//         (2023), section 2.1 (chunkwise form); for gates Yang et al., Gated Linear Attention Transformers with
//         Hardware-Efficient Training (2024), equation 5. Keeping the state as the accumulator of one product and the operand of
//         the next is FlashAttention-2's reuse of its scores, here along the sequence.
// Shapes: x, y [batch, seq_len, heads, head_dim]; b, c [batch, seq_len, groups, state]; dt [batch, seq_len, heads] or
//         null for 1; rate [heads], logarithm of the decay for dt = 1; gates [batch, seq_len, heads, state], logarithms
//         of decays, or null; d [heads] or null; initial, last [batch, heads, head_dim, state].
// Plan: a block has one sequence, one head and 64 of its channels; each of 4 warps keeps 16 rows of the state, all 128
//       wide. A chunk: scores C B^T, one 16-row strip a warp, masked and decayed into shared memory;
//       y = decay * (C S^T) + scores x; S = decay * S + (weighted x)^T B. Layouts meet without shuffles: an accumulator
//       of the state is the B operand of C S^T, and one transposed load of x serves both its products.
//       With gates each thread first walks one column and multiplies C by its decay from the chunk's start, B by the
//       inverse; the rest is then as without decays, but for a factor a column that brings the state to the end.
// Numerics: bf16 operands, f32 sums; the carried state is f32, its copy for C S^T, the scores and the weighted x are
//           rounded to bf16; with gates C and B once more.
// Limits: bf16; state at most 128; state and head_dim multiples of 8; the gates of a column add up to -80 at least over
//         any chunk, or the inverse decay leaves f32; batch*heads*head_dim/64 blocks must fill the device. Shared memory
//         binds (ncu, H200: 69 to 74 % busy): each of 4 warps reads all of C and B. Three blocks on a multiprocessor instead of four
//         spill nothing and are a quarter slower for SSD (737 us, not 581), though a fifth faster for retention (367, not 455).
#include "attention_mma.cuh"

typedef __nv_bfloat16 bf16;
constexpr int CHUNK = 64, STATE = 128, WIDTH = 64, THREADS = 128;

__device__ __forceinline__ u32 packed(float low, float high) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *(const u32*)&pair;
}
__device__ __forceinline__ float2 unpacked(u32 pair) {
    return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
}
// Of the four lanes of a quad, lane q gets word q of each.
__device__ __forceinline__ uint4 exchanged(u32 (&r)[4], int q) {
#pragma unroll
    for (int bit = 1; bit < 4; bit *= 2)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if (i & bit) continue;
            const bool high = q & bit;
            const u32 got = __shfl_xor_sync(0xffffffffu, high ? r[i] : r[i + bit], bit);
            r[i] = high ? got : r[i];
            r[i + bit] = high ? r[i + bit] : got;
        }
    return make_uint4(r[0], r[1], r[2], r[3]);
}

struct Problem {
    const bf16 *x, *b, *c;    // [batch, seq_len, heads, head_dim]; [batch, seq_len, groups, state] twice
    const float *dt, *rate;   // [batch, seq_len, heads] or null for 1; [heads], logarithm of the decay for dt = 1
    const bf16* gates;        // [batch, seq_len, groups, state], logarithms of the decays
    const float* d;           // [heads] or null
    const bf16* initial;      // [batch, heads, head_dim, state] or null
    bf16 *y, *last;           // as x; as initial
    i64 batch, seq_len, heads, head_dim, groups, state;
    float scale;
};

// A block's walk. With gates every column of the state has a decay of its own, which becomes a factor of C and, inverted,
// of B; without, a step has one decay for all.
struct Chunks {
    // The block's shared memory: tiles of C, B and x, the scores, and some numbers.
    static constexpr u32 C_TILE = 0, B_TILE = CHUNK * STATE * 2, X_TILE = 2 * B_TILE,
                         SCORES = X_TILE + CHUNK * WIDTH * 2, NUMBERS = SCORES + CHUNK * CHUNK * 2,
                         GATES = NUMBERS + 3 * CHUNK * 4;

    const Problem& p;
    const bool gated;
    char* const memory;
    const u32 base;
    float *const decayed, *const weight, *const kept;  // by step: log2 of the decay so far, dt, dt*decay to the end
    const int warp, lane, row, q;
    int width, length;            // channels and steps there are
    i64 x_stride, b_stride, x_at, b_at, state_at, dt_at;
    float rate;
    float step0, step1;           // dt of steps 2 lane and 2 lane + 1 of the next chunk
    u32 wide_by_row, wide_by_value, by_row, by_value;
    float carried[STATE / 8][4];  // 16 x 8 tiles: rows row, row + 8; columns 8 n + 2 q and the next

    __device__ __forceinline__ Chunks(const Problem& problem, uint4* shared)
        : p(problem), gated(problem.gates), memory((char*)shared), base((u32)__cvta_generic_to_shared(shared)),
          decayed((float*)(memory + NUMBERS)), weight(decayed + CHUNK), kept(weight + CHUNK),
          warp(threadIdx.x / 32), lane(threadIdx.x % 32), row(lane / 4), q(lane % 4) {
        const int slices = ((int)p.head_dim + WIDTH - 1) / WIDTH, slice = blockIdx.x % slices;
        const i64 head = blockIdx.x / slices % p.heads, sequence = blockIdx.x / slices / p.heads;
        width = min(WIDTH, (int)p.head_dim - slice * WIDTH);
        length = (int)p.seq_len;
        x_stride = p.heads * p.head_dim;
        b_stride = p.groups * p.state;
        x_at = sequence * p.seq_len * x_stride + head * p.head_dim + slice * WIDTH;
        b_at = sequence * p.seq_len * b_stride + head / (p.heads / p.groups) * p.state;
        dt_at = sequence * p.seq_len * p.heads + head;
        state_at = ((sequence * p.heads + head) * p.head_dim + slice * WIDTH + warp * 16 + row) * p.state + q * 2;
        rate = gated ? 0.f : p.rate[head] * LOG2_E;
        wide_by_row = starts_by_row<STATE>(lane);
        wide_by_value = starts_by_value<STATE>(lane);
        by_row = starts_by_row<WIDTH>(lane);
        by_value = starts_by_value<WIDTH>(lane);
        load_state();
    }
    // Calls f(half, n) for the rows and tiles of the state that there are.
    template <typename F> __device__ __forceinline__ void each_state(F f) const {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int tiles = warp * 16 + row + half * 8 < width ? (int)p.state / 8 : 0;
#pragma unroll
            for (int n = 0; n < STATE / 8; ++n)
                if (n < tiles) f(half, n);
        }
    }
    __device__ __forceinline__ void load_state() {
#pragma unroll
        for (int n = 0; n < STATE / 8; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) carried[n][i] = 0.f;
        if (!p.initial) return;
        each_state([&](int half, int n) {
            const float2 pair = unpacked(*(const u32*)(p.initial + state_at + half * 8 * p.state + n * 8));
            carried[n][half * 2] = pair.x;
            carried[n][half * 2 + 1] = pair.y;
        });
    }
    __device__ __forceinline__ void store_state() const {
        each_state([&](int half, int n) {
            *(u32*)(p.last + state_at + half * 8 * p.state + n * 8) =
                packed(carried[n][half * 2], carried[n][half * 2 + 1]);
        });
    }

    // Starts copying 64 rows of DIM values from step `from`; what is beyond the sequence or `width` becomes zero.
    template <int DIM>
    __device__ __forceinline__ void copy(u32 tile, const bf16* array, i64 stride, int from, int columns) const {
        const int r0 = threadIdx.x / (DIM / 8), d = threadIdx.x % (DIM / 8) * 8;
        const bf16* source = array + (from + r0) * stride + d;
        const u32 to = base + tile + chunk_at<DIM>(r0, d);
#pragma unroll 2
        for (int r = 0; r < CHUNK; r += THREADS / (DIM / 8), source += THREADS / (DIM / 8) * stride) {
            const bool inside = from + r0 + r < length && d < columns;
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to + r * DIM * 2),
                         "l"(inside ? source : array), "r"(inside ? 16 : 0)
                         : "memory");
        }
    }
    __device__ __forceinline__ void copy_c(int from) const {
        if (from < length) copy<STATE>(C_TILE, p.c + b_at, b_stride, from, (int)p.state);
    }
    __device__ __forceinline__ void copy_rest(int from) {
        if (from < length) {
            copy<STATE>(B_TILE, p.b + b_at, b_stride, from, (int)p.state);
            copy<WIDTH>(X_TILE, p.x + x_at, x_stride, from, width);
            if (gated) copy<STATE>(GATES, p.gates + b_at, b_stride, from, (int)p.state);
        }
        copies_commit();
        if (gated || warp > 0) return;
        step0 = step_size(from + lane * 2);
        step1 = step_size(from + lane * 2 + 1);
    }
    __device__ __forceinline__ float step_size(int t) const {
        return t >= length ? 0.f : p.dt ? p.dt[dt_at + t * p.heads] : 1.f;
    }

    // The decays of the chunk's steps, by the first warp.
    __device__ __forceinline__ void sum_decays() {
        if (warp > 0) return;
        const float first = step0 * rate, pair = first + step1 * rate;
        float sum = pair;
#pragma unroll
        for (int offset = 1; offset < 32; offset *= 2) {
            const float before = __shfl_up_sync(0xffffffffu, sum, offset);
            if (lane >= offset) sum += before;
        }
        const float end = __shfl_sync(0xffffffffu, sum, 31), start = sum - pair + first;
        *(float2*)(decayed + lane * 2) = make_float2(start, sum);
        *(float2*)(weight + lane * 2) = make_float2(step0, step1);
        *(float2*)(kept + lane * 2) = make_float2(step0 * exp2_fast(end - start), step1 * exp2_fast(end - sum));
    }
    // Multiplies C by the decay from the chunk's start to its step, and B by the inverse: a thread takes a column.
    __device__ __forceinline__ void apply_gates() const {
        const int n = threadIdx.x;
        float sum = 0.f;
#pragma unroll 4
        for (int t = 0; t < CHUNK; ++t) {
            char* const at = memory + chunk_at<STATE>(t, n) + n % 8 * 2;
            sum = fmaf(__bfloat162float(*(const bf16*)(at + GATES)), LOG2_E, sum);
            bf16 &c = *(bf16*)(at + C_TILE), &b = *(bf16*)(at + B_TILE);
            c = __float2bfloat16_rn(__bfloat162float(c) * exp2_fast(sum));
            b = __float2bfloat16_rn(__bfloat162float(b) * exp2_fast(-sum));
        }
        decayed[n] = exp2_fast(sum);
    }

    // C B^T of a strip of 16 steps against all before, masked and decayed, as bf16 in shared memory.
    __device__ __forceinline__ void make_scores(int strip) const {
        float scores[CHUNK / 8][4] = {};
#pragma unroll 1
        for (int k = 0; k < STATE / 16; ++k) {
            u32 rows[4];
            load_matrices(rows, fragment<STATE>(base + C_TILE, wide_by_row, strip * 16, k * 16));
#pragma unroll
            for (int n = 0; n < CHUNK / 16; ++n) {
                if (n > strip) break;
                u32 columns[4];
                load_matrices(columns, fragment<STATE>(base + B_TILE, wide_by_value, n * 16, k * 16));
                mma<bf16>(scores[n * 2], rows, columns[0], columns[1]);
                mma<bf16>(scores[n * 2 + 1], rows, columns[2], columns[3]);
            }
        }
        const int t = strip * 16 + row;
        const float low = decayed[t], high = decayed[t + 8];
#pragma unroll
        for (int n = 0; n < CHUNK / 8; ++n) {
            if (n / 2 > strip) break;
            const int s = n * 8 + q * 2;
            float(&v)[4] = scores[n];
            if (!gated) {
                const float2 since = *(const float2*)(decayed + s), by = *(const float2*)(weight + s);
                v[0] *= by.x * exp2_fast(low - since.x);
                v[1] *= by.y * exp2_fast(low - since.y);
                v[2] *= by.x * exp2_fast(high - since.x);
                v[3] *= by.y * exp2_fast(high - since.y);
            }
            char* const to = memory + SCORES + chunk_at<CHUNK>(t, n * 8) + q * 4;
            *(u32*)to = packed(s <= t ? v[0] : 0.f, s < t ? v[1] : 0.f);
            *(u32*)(to + 8 * CHUNK * 2) = packed(s <= t + 8 ? v[2] : 0.f, s < t + 8 ? v[3] : 0.f);
        }
    }
    // sums = C S^T, decayed to each step: an accumulator of the state is the B operand as it stands.
    __device__ __forceinline__ void multiply_state(float (&sums)[4][2][4]) const {
#pragma unroll
        for (int k = 0; k < STATE / 16; ++k) {
            const float(&low)[4] = carried[k * 2];
            const float(&high)[4] = carried[k * 2 + 1];
            const u32 b0 = packed(low[0], low[1]), b1 = packed(high[0], high[1]);
            const u32 b2 = packed(low[2], low[3]), b3 = packed(high[2], high[3]);
#pragma unroll
            for (int m = 0; m < 4; ++m) {
                u32 rows[4];
                load_matrices(rows, fragment<STATE>(base + C_TILE, wide_by_row, m * 16, k * 16));
                mma<bf16>(sums[m][0], rows, b0, b1);
                mma<bf16>(sums[m][1], rows, b2, b3);
            }
        }
        if (gated) return;
#pragma unroll
        for (int m = 0; m < 4; ++m) {
            const float low = exp2_fast(decayed[m * 16 + row]), high = exp2_fast(decayed[m * 16 + row + 8]);
#pragma unroll
            for (int n = 0; n < 2; ++n)
#pragma unroll
                for (int i = 0; i < 4; ++i) sums[m][n][i] *= i < 2 ? low : high;
        }
    }
    // sums += scores * x.
    __device__ __forceinline__ void multiply_scores(float (&sums)[4][2][4]) const {
#pragma unroll 1
        for (int k = 0; k < 4; ++k) {
            u32 xs[4];
            load_transposed(xs, fragment<WIDTH>(base + X_TILE, by_value, k * 16, warp * 16));
#pragma unroll
            for (int m = 0; m < 4; ++m) {
                if (m < k) continue;
                u32 rows[4];
                load_matrices(rows, fragment<CHUNK>(base + SCORES, by_row, m * 16, k * 16));
                mma<bf16>(sums[m][0], rows, xs[0], xs[2]);
                mma<bf16>(sums[m][1], rows, xs[1], xs[3]);
            }
        }
    }
    // y = scale * sums + d * x, 16 bytes a lane.
    __device__ __forceinline__ void store(int from, const float (&sums)[4][2][4], float skip) const {
#pragma unroll
        for (int m = 0; m < 4; ++m) {
            u32 out[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int t = m * 16 + row + i / 2 * 8;
                const u32 at = X_TILE + chunk_at<WIDTH>(t, warp * 16 + i % 2 * 8) + q * 4;
                const float2 x = unpacked(*(const u32*)(memory + at));
                const float* const v = sums[m][i % 2] + i / 2 * 2;
                out[i] = packed(fmaf(skip, x.x, v[0] * p.scale), fmaf(skip, x.y, v[1] * p.scale));
            }
            const uint4 words = exchanged(out, q);
            const int t = from + m * 16 + row + q / 2 * 8, column = warp * 16 + q % 2 * 8;
            if (t < length && column < width) __stcs((uint4*)(p.y + x_at + t * x_stride + column), words);
        }
    }
    // The state after the chunk: the transposed load of x that served as B operand above is the A operand here.
    __device__ __forceinline__ void advance() {
        if (!gated) decay_all(exp2_fast(decayed[CHUNK - 1]));
#pragma unroll 1
        for (int k = 0; k < 4; ++k) {
            u32 xs[4];
            load_transposed(xs, fragment<WIDTH>(base + X_TILE, by_value, k * 16, warp * 16));
            if (!gated) {
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const float2 by = *(const float2*)(kept + k * 16 + i / 2 * 8 + q * 2), x = unpacked(xs[i]);
                    xs[i] = packed(x.x * by.x, x.y * by.y);
                }
            }
#pragma unroll
            for (int n = 0; n < STATE / 16; ++n) {
                u32 columns[4];
                load_transposed(columns, fragment<STATE>(base + B_TILE, wide_by_value, k * 16, n * 16));
                mma<bf16>(carried[n * 2], xs, columns[0], columns[2]);
                mma<bf16>(carried[n * 2 + 1], xs, columns[1], columns[3]);
            }
        }
        if (gated) decay_columns();
    }
    __device__ __forceinline__ void decay_all(float decay) {
#pragma unroll
        for (int n = 0; n < STATE / 8; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) carried[n][i] *= decay;
    }
    __device__ __forceinline__ void decay_columns() {
#pragma unroll
        for (int n = 0; n < STATE / 8; ++n) {
            const float2 by = *(const float2*)(decayed + n * 8 + q * 2);
            carried[n][0] *= by.x;
            carried[n][1] *= by.y;
            carried[n][2] *= by.x;
            carried[n][3] *= by.y;
        }
    }

    __device__ __forceinline__ void walk() {
        const float skip = p.d ? p.d[blockIdx.x / (((int)p.head_dim + WIDTH - 1) / WIDTH) % p.heads] : 0.f;
        copy_c(0);
        copy_rest(0);
#pragma unroll 1
        for (int from = 0; from < length; from += CHUNK) {
            if (!gated) sum_decays();
            copies_wait<0>();
            __syncthreads();
            if (gated) {
                apply_gates();
                __syncthreads();
            }
            // Strips take turns, for the later ones are longer.
            make_scores((warp + blockIdx.x + from / CHUNK) % 4);
            float sums[4][2][4] = {};
            multiply_state(sums);
            __syncthreads();
            copy_c(from + CHUNK);
            multiply_scores(sums);
            store(from, sums, skip);
            advance();
            __syncthreads();
            copy_rest(from + CHUNK);
        }
        store_state();
    }
};

extern "C" __global__ void __launch_bounds__(THREADS, 4)
    chunked_bf16(const bf16* x, const bf16* b, const bf16* c, const float* dt, const float* rate, const bf16* gates,
                 const float* d, const bf16* initial, bf16* y, bf16* last, i64 batch, i64 seq_len, i64 heads,
                 i64 head_dim, i64 groups, i64 state, float scale) {
    extern __shared__ uint4 memory[];
    const Problem problem = {x, b,    c,     dt,      rate,  gates,    d,      initial,
                             y, last, batch, seq_len, heads, head_dim, groups, state,  scale};
    Chunks(problem, memory).walk();
}
