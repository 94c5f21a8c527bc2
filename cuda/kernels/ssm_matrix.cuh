// What kernels that walk the chunks of a matrix-valued recurrence share: the problem, a block's place in it, the state in
// registers, copies, and the decays of a chunk's steps. The formulas and shapes are in ssm_matrix_chunked.cu.
#pragma once
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

// A block's walk: one sequence, one head and 64 of its channels. With gates every column of the state has a decay of its
// own, which becomes a factor of C and, inverted, of B; without, a step has one decay for all. Tiles of C and B are panels
// of PANEL columns; a thread begins COPIES copies at once.
template <int PANEL, int COPIES> struct Walk {
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
    float carried[STATE / 8][4];  // 16 x 8 tiles: rows row, row + 8; columns 8 n + 2 q and the next

    __device__ __forceinline__ Walk(const Problem& problem, uint4* shared, u32 numbers)
        : p(problem), gated(problem.gates), memory((char*)shared), base((u32)__cvta_generic_to_shared(shared)),
          decayed((float*)(memory + numbers)), weight(decayed + CHUNK), kept(weight + CHUNK),
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

    // Where value d of a row lies in a tile of DIM columns, d a multiple of 8.
    template <int DIM> __device__ __forceinline__ static u32 place(int row, int d) {
        if constexpr (DIM <= PANEL) return chunk_at<DIM>(row, d);
        return d / PANEL * (CHUNK * PANEL * 2) + chunk_at<PANEL>(row, d % PANEL);
    }
    template <int DIM> __device__ __forceinline__ static constexpr int row_bytes() { return (DIM < PANEL ? DIM : PANEL) * 2; }
    // Starts copying 64 rows of DIM values from step `from`; what is beyond the sequence or `width` becomes zero.
    template <int DIM>
    __device__ __forceinline__ void copy(u32 tile, const bf16* array, i64 stride, int from, int columns) const {
        const int r0 = threadIdx.x / (DIM / 8), d = threadIdx.x % (DIM / 8) * 8;
        const bf16* source = array + (from + r0) * stride + d;
        const u32 to = base + tile + place<DIM>(r0, d);
#pragma unroll COPIES
        for (int r = 0; r < CHUNK; r += THREADS / (DIM / 8), source += THREADS / (DIM / 8) * stride) {
            const bool inside = from + r0 + r < length && d < columns;
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to + r * row_bytes<DIM>()),
                         "l"(inside ? source : array), "r"(inside ? 16 : 0)
                         : "memory");
        }
    }
    // Reads dt of the chunk that begins at `from`.
    __device__ __forceinline__ void fetch_steps(int from) {
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
        const float sum = warp_sum_so_far(pair);
        const float end = __shfl_sync(0xffffffffu, sum, 31), start = sum - pair + first;
        *(float2*)(decayed + lane * 2) = make_float2(start, sum);
        *(float2*)(weight + lane * 2) = make_float2(step0, step1);
        *(float2*)(kept + lane * 2) = make_float2(step0 * exp2_fast(end - start), step1 * exp2_fast(end - sum));
    }
    // Multiplies C by the decay from the chunk's start to its step, and B by the inverse: a thread takes two columns of half
    // the steps, the second half once it has added up the first.
    __device__ __forceinline__ void apply_gates(u32 c_tile, u32 b_tile, u32 gate_tile) const {
        const int n = threadIdx.x % (STATE / 2) * 2, first = threadIdx.x / (STATE / 2) * (CHUNK / 2);
        float2 sum = make_float2(0.f, 0.f);
        const auto add = [&](const char* at) {
            const float2 gate = unpacked(*(const u32*)(at + gate_tile));
            sum = make_float2(fmaf(gate.x, LOG2_E, sum.x), fmaf(gate.y, LOG2_E, sum.y));
        };
        const auto pair = [&](int t) { return memory + place<STATE>(t, n) + n % 8 * 2; };
#pragma unroll 16
        for (int t = 0; t < first; ++t) add(pair(t));
#pragma unroll 8
        for (int t = first; t < first + CHUNK / 2; ++t) {
            char* const at = pair(t);
            add(at);
            u32 &c = *(u32*)(at + c_tile), &b = *(u32*)(at + b_tile);
            const float2 cs = unpacked(c), bs = unpacked(b);
            c = packed(cs.x * exp2_fast(sum.x), cs.y * exp2_fast(sum.y));
            b = packed(bs.x * exp2_fast(-sum.x), bs.y * exp2_fast(-sum.y));
        }
        if (first > 0) *(float2*)(decayed + n) = make_float2(exp2_fast(sum.x), exp2_fast(sum.y));
    }
    // Scores of step t (v[0], v[1]) and t + 8 with steps s and s + 1, of which the logarithms so far are low and high: decayed
    // and weighed by dt.
    __device__ __forceinline__ void decay_scores(float (&v)[4], int s, float low, float high) const {
        const float2 since = *(const float2*)(decayed + s), by = *(const float2*)(weight + s);
        v[0] *= by.x * exp2_fast(low - since.x);
        v[1] *= by.y * exp2_fast(low - since.y);
        v[2] *= by.x * exp2_fast(high - since.x);
        v[3] *= by.y * exp2_fast(high - since.y);
    }
    // x^T of steps 16 k on, by what is left of each step at the chunk's end.
    __device__ __forceinline__ void weigh(u32 (&xs)[4], int k) const {
        if (gated) return;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float2 by = *(const float2*)(kept + k * 16 + i / 2 * 8 + q * 2), x = unpacked(xs[i]);
            xs[i] = packed(x.x * by.x, x.y * by.y);
        }
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
    __device__ __forceinline__ float skip() const {
        return p.d ? p.d[blockIdx.x / (((int)p.head_dim + WIDTH - 1) / WIDTH) % p.heads] : 0.f;
    }
};
