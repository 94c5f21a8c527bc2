// A block of four warps, each of which has 8*K channels to itself: its threads prepare and finish elements four steps
// at a time, and in between scan with K channels and four states a thread. Elements are f32 or bf16 by argument: only
// what touches them is compiled for each.
#pragma once
#include "any_dtype.cuh"
#include "async_copy.cuh"
#include "ssm.cuh"

struct Problem {
    const void *u, *delta;          // [batch, channels, seq_len]
    const float* A;                 // [channels, state]
    const void *B, *C;              // [batch, groups, state, seq_len]
    const float* D;                 // [channels] or null
    const void* z;                  // [batch, channels, seq_len] or null
    const float* delta_bias;        // [channels] or null
    i64 batch, channels, seq_len, state, groups;
    int use_softplus, dtype;
};

// Calls f with an element of the type that the arguments name.
template <typename F> __device__ __forceinline__ void by_type(int dtype, F f) {
    if (fresh(dtype == BF16)) f(__nv_bfloat16());
    else f(0.f);
}

// Four adjacent time steps as stored. They stay packed until they are used: unpacking what a load brings waits for it.
template <typename T> struct alignas(4 * sizeof(T)) Packed {
    u32 word[sizeof(T)];
    __device__ __forceinline__ void unpack(float (&to)[4]) const {
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            if constexpr (sizeof(T) == 4) to[k] = __uint_as_float(word[k]);
            else to[k] = __uint_as_float(k % 2 ? word[k / 2] & 0xffff0000u : word[k / 2] << 16);
        }
    }
    __device__ __forceinline__ void pack(const float (&from)[4]) {
        if constexpr (sizeof(T) == 4) {
#pragma unroll
            for (int k = 0; k < 4; ++k) word[k] = __float_as_uint(from[k]);
        } else {
            const __nv_bfloat162 low = __floats2bfloat162_rn(from[0], from[1]);
            const __nv_bfloat162 high = __floats2bfloat162_rn(from[2], from[3]);
            word[0] = *(const u32*)&low;
            word[1] = *(const u32*)&high;
        }
    }
};
__device__ __forceinline__ void load4(float (&to)[4], const float* from) {
    const float4 v = *(const float4*)from;
    to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
}
template <typename T> __device__ __forceinline__ void unpack4(float (&to)[4], const T* from) {
    ((const Packed<T>*)from)->unpack(to);
}
__device__ __forceinline__ void store4(float* to, const float (&from)[4]) {
    *(float4*)to = make_float4(from[0], from[1], from[2], from[3]);
}

// As sigmoid, for less: a divisor beyond 2^126 gives 0 without further care.
__device__ __forceinline__ float open_gate(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(1.f + exp2_fast(-x * LOG2E)));
    return y;
}

template <int K, int Steps> struct Rows {
    static constexpr int THREADS = 128, STEPS = Steps, QUADS = STEPS / 4, OF_WARP = 8 * K, CHANNELS = 4 * OF_WARP;
    static constexpr int PITCH = STEPS + 4;     // of a channel's row: reads of four steps meet no bank twice
    static constexpr int AT_ONCE = 32 / QUADS;  // rows that a warp's threads take at once, four steps each
    static constexpr int PASSES = OF_WARP / AT_ONCE;
    static constexpr int NEXT = AT_ONCE * PITCH;  // from a pass to the next in shared memory
    typedef float Tile[CHANNELS * PITCH];         // f32 of a tile, or its elements as stored

    const Problem& p;
    i64 row, first, projection;  // first row (batch*channels) and channel of the block; where its B and C begin
    i64 begin;                   // this thread's first element of the first tile
    int here;                    // how many channels the block has
    bool even;                   // all of them, and rows are multiples of four steps
    int c, part;                 // first channel of this thread in the block, and its part of the states
    int r, q, at;                // this thread's first row and quad of steps, and where they stand in a tile
    float rate[K][4];

    __device__ __forceinline__ Rows(const Problem& problem) : p(problem) {
        const i64 in_group = p.channels / p.groups, tiles = (in_group + CHANNELS - 1) / CHANNELS;
        const i64 tile = blockIdx.x % tiles, group = blockIdx.x / tiles % p.groups;
        const i64 b = blockIdx.x / tiles / p.groups;
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        c = warp * OF_WARP + lane % 8;
        part = lane / 8;
        r = warp * OF_WARP + lane / QUADS;
        q = lane % QUADS * 4;
        at = r * PITCH + q;
        first = group * in_group + tile * CHANNELS;
        here = (int)min((i64)CHANNELS, in_group - tile * CHANNELS);
        row = b * p.channels + first;
        begin = (row + r) * p.seq_len + q;
        projection = (b * p.groups + group) * p.state * p.seq_len;
        even = here == CHANNELS && p.seq_len % 4 == 0;
#pragma unroll
        for (int j = 0; j < K; ++j)
#pragma unroll
            for (int s = 0; s < 4; ++s)
                rate[j][s] = has_state(j, s) ? p.A[(first + c + 8 * j) * p.state + part * 4 + s] * LOG2E : 0.f;
    }
    __device__ __forceinline__ bool mine(int j) const { return c + 8 * j < here; }
    __device__ __forceinline__ bool has_state(int j, int s) const { return mine(j) && part * 4 + s < p.state; }
    // Where state s of channel j stands in an array [batch*channels, state].
    __device__ __forceinline__ i64 state_at(int j, int s) const {
        return (row + c + 8 * j) * p.state + part * 4 + s;
    }
    // Bias and skip of the rows, for those who prepare and finish.
    __device__ __forceinline__ void hold_constants(float2 (&constants)[CHANNELS]) const {
        if (q != 0) return;
#pragma unroll 1
        for (int i = r; i < r + PASSES * AT_ONCE; i += AT_ONCE)
            constants[i] = make_float2(p.delta_bias && i < here ? p.delta_bias[first + i] : 0.f,
                                       p.D && i < here ? p.D[first + i] : 0.f);
    }
    __device__ __forceinline__ bool whole(i64 t0) const { return even && t0 + STEPS <= p.seq_len; }

    // Starts bringing in this thread's elements of a whole tile.
    template <typename T> __device__ __forceinline__ void copy(T* tile, const T* array, i64 t0) const {
        array += begin + t0;
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass, array += AT_ONCE * p.seq_len)
            copy_async<4 * sizeof(T)>(tile + at + pass * NEXT, array, true);
    }
    // Brings in, or out, this thread's elements of any tile one by one, with zeros for what is not there.
    template <bool Out, typename T> __device__ __forceinline__ void copy_part(T* tile, T* array, i64 t0) const {
#pragma unroll 1
        for (int i = 0; i < 4 * PASSES; ++i) {
            const int k = i % 4, pass = i / 4;
            const bool there = r + pass * AT_ONCE < here && t0 + q + k < p.seq_len;
            T* in = tile + at + pass * NEXT + k;
            T* out = array + begin + t0 + pass * AT_ONCE * p.seq_len + k;
            if (!Out) *in = there ? *out : from_float<T>(0.f);
            else if (there) *out = *in;
        }
    }
    // Writes four results of a whole tile, or leaves those of another in shared memory for copy_part.
    template <typename T>
    __device__ __forceinline__ void give(bool whole, T* out, T* in_place, const float (&values)[4]) const {
        Packed<T> packed;
        packed.pack(values);
        if (whole) *(Packed<T>*)out = packed;
        else *(Packed<T>*)in_place = packed;
    }

    template <typename T>
    __device__ __forceinline__ void step_sizes(float (&dt)[4], const T* delta, float bias, i64 t0) const {
        unpack4(dt, delta);
#pragma unroll
        for (int k = 0; k < 4; ++k) dt[k] += bias;
        if (p.use_softplus)
#pragma unroll
            for (int k = 0; k < 4; ++k) dt[k] = softplus(dt[k]);
        if (!whole(t0))
#pragma unroll
            for (int k = 0; k < 4; ++k) dt[k] = t0 + q + k < p.seq_len ? dt[k] : 0.f;
    }

    // Sums over the 4 threads of a channel; part i is left with the sum of v[i].
    __device__ __forceinline__ float over_parts(const float (&v)[4]) const {
        const bool high = part & 2, odd = part & 1;
        const float a = (high ? v[2] : v[0]) + __shfl_xor_sync(0xffffffffu, high ? v[0] : v[2], 16);
        const float b = (high ? v[3] : v[1]) + __shfl_xor_sync(0xffffffffu, high ? v[1] : v[3], 16);
        return (odd ? b : a) + __shfl_xor_sync(0xffffffffu, odd ? a : b, 8);
    }
};

// B, or B and then C, of a tile on their way from memory through registers to [step][16 states] in shared memory.
template <int Steps, int Count> struct Projections {
    static constexpr int QUADS = 4 * Steps, HELD = Count * QUADS / 128;  // of four steps of a state
    typedef float Tile[Count][Steps * 16];
    u32 held[HELD][4];
    i64 begin;

    template <typename Rows> __device__ __forceinline__ Projections(const Rows& rows) {
        begin = rows.projection + threadIdx.x % 16 * rows.p.seq_len + threadIdx.x % QUADS / 16 * 4;
    }
    template <typename T> __device__ __forceinline__ void load(const Problem& p, i64 t0) {
#pragma unroll
        for (int j = 0; j < HELD; ++j) {
            const int i = threadIdx.x + j * 128;
            const T* from = (const T*)(i < QUADS ? p.B : p.C) + begin + t0 + j * 128 % QUADS / 4;
            const i64 left = threadIdx.x % 16 < p.state ? p.seq_len - t0 - i % QUADS / 16 * 4 : 0;
            Packed<T> four;
            if (p.seq_len % 4 == 0 && left > 0) {
                four = *(const Packed<T>*)from;
            } else {
                float values[4];
#pragma unroll
                for (int k = 0; k < 4; ++k) values[k] = k < left ? to_float(from[k]) : 0.f;
                four.pack(values);
            }
#pragma unroll
            for (int k = 0; k < sizeof(T); ++k) held[j][k] = four.word[k];
        }
    }
    template <typename T> __device__ __forceinline__ void put(Tile& to) const {
#pragma unroll
        for (int j = 0; j < HELD; ++j) {
            const int i = threadIdx.x + j * 128;
            Packed<T> four;
#pragma unroll
            for (int k = 0; k < sizeof(T); ++k) four.word[k] = held[j][k];
            float values[4];
            four.unpack(values);
#pragma unroll
            for (int k = 0; k < 4; ++k) to[0][(i / 16 * 4 + k) * 16 + i % 16] = values[k];
        }
    }
};

// Scans whole sequences forward, 32 steps a tile.
template <bool Output> struct Scan {
    typedef Rows<1, 32> R;
    typedef Projections<R::STEPS, Output ? 2 : 1> BC;
    struct Shared {
        R::Tile raw[2][Output ? 3 : 2];  // u, delta, z
        R::Tile dt, dtu;
        typename BC::Tile projections[2];
        float2 constants[R::CHANNELS];
        R::Tile y;  // with Output only
    };
    R rows;
    BC held;
    Shared& m;
    float h[4] = {};

    __device__ __forceinline__ Scan(const Problem& problem, Shared& memory) : rows(problem), held(rows), m(memory) {
        rows.hold_constants(m.constants);
    }
    // Starts bringing in a tile.
    template <typename T> __device__ __forceinline__ void stage(int b, i64 t0) {
        const Problem& p = rows.p;
        held.template load<T>(p, t0);
        if (rows.whole(t0)) {
            rows.copy((T*)m.raw[b][0], (const T*)p.u, t0);
            rows.copy((T*)m.raw[b][1], (const T*)p.delta, t0);
            if (Output && p.z) rows.copy((T*)m.raw[b][Output ? 2 : 0], (const T*)p.z, t0);
        } else {
#pragma unroll 1
            for (int i = 0; i < (Output && p.z ? 3 : 2); ++i)
                rows.copy_part<false>((T*)m.raw[b][i], (T*)(i == 0 ? p.u : i == 1 ? p.delta : p.z), t0);
        }
    }
    template <typename T> __device__ __forceinline__ void prepare(int b, i64 t0) {
#pragma unroll 1
        for (int pass = 0; pass < R::PASSES; ++pass) {
            const int at = rows.at + pass * R::NEXT;
            float dt[4], dtu[4];
            unpack4(dtu, (const T*)m.raw[b][0] + at);
            rows.step_sizes(dt, (const T*)m.raw[b][1] + at, m.constants[rows.r + pass * R::AT_ONCE].x, t0);
#pragma unroll
            for (int k = 0; k < 4; ++k) dtu[k] *= dt[k];
            store4(m.dt + at, dt);
            store4(m.dtu + at, dtu);
        }
    }
    // Eight steps from step q of the tile.
    __device__ __forceinline__ void eight_steps(int b, int q) {
        float y[2][4];
        const int at = rows.c * R::PITCH + q, state = q * 16 + rows.part * 4;
        const float *B = m.projections[b][0] + state, *C = m.projections[b][Output] + state;
#pragma unroll
        for (int four = 0; four < 2; ++four) {
            float dt[4], dtu[4];
            load4(dt, m.dt + at + four * 4);
            load4(dtu, m.dtu + at + four * 4);
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                float in[4], out[4];
                load4(in, B + (four * 4 + k) * 16);
                if (Output) load4(out, C + (four * 4 + k) * 16);
#pragma unroll
                for (int s = 0; s < 4; ++s) {
                    h[s] = fmaf(exp2_fast(dt[k] * rows.rate[0][s]), h[s], dtu[k] * in[s]);
                    if (Output) y[four][k] = s ? fmaf(out[s], h[s], y[four][k]) : out[0] * h[0];
                }
            }
        }
        if constexpr (Output)
#pragma unroll
            for (int four = 0; four < 2; ++four) m.y[at + four * 4 + rows.part] = rows.over_parts(y[four]);
    }
    // Skips and gates of a tile.
    template <typename T> __device__ __forceinline__ void finish(int b, i64 t0, T* out) {
        const Problem& p = rows.p;
        const bool whole = rows.whole(t0);
        T* to = out + rows.begin + t0;
#pragma unroll 1
        for (int pass = 0; pass < R::PASSES; ++pass, to += R::AT_ONCE * p.seq_len) {
            const int at = rows.at + pass * R::NEXT;
            const float skip = m.constants[rows.r + pass * R::AT_ONCE].y;
            T* in_place = (T*)m.raw[b][0] + at;
            float y[4], u[4], z[4];
            load4(y, m.y + at);
            unpack4(u, in_place);
#pragma unroll
            for (int k = 0; k < 4; ++k) y[k] = fmaf(skip, u[k], y[k]);
            if (p.z) {
                unpack4(z, (const T*)m.raw[b][Output ? 2 : 0] + at);
#pragma unroll
                for (int k = 0; k < 4; ++k) y[k] *= z[k] * open_gate(z[k]);
            }
            rows.give(whole, to, in_place, y);
        }
        if (!whole) rows.copy_part<true>((T*)m.raw[b][0], out, t0);
    }
    // `before(t)` runs before every eighth step t, also beyond the end.
    template <typename Before> __device__ __forceinline__ void run(void* y, Before before) {
        const Problem& p = rows.p;
        if (p.seq_len <= 0) return;
        by_type(p.dtype, [&](auto type) { this->template stage<decltype(type)>(0, 0); });
        copies_commit();
        int b = 0;
#pragma unroll 1
        for (i64 t0 = 0; t0 < p.seq_len; t0 += R::STEPS, b ^= 1) {
            by_type(p.dtype, [&](auto type) {
                typedef decltype(type) T;
                held.template put<T>(m.projections[b]);
                if (t0 + R::STEPS < p.seq_len) stage<T>(b ^ 1, t0 + R::STEPS);
                copies_commit();
                copies_wait<1>();
                __syncwarp();
                prepare<T>(b, t0);
            });
            __syncthreads();
            // Steps beyond the end change nothing: theirs are step sizes of 0.
#pragma unroll 2
            for (int q = 0; q < R::STEPS; q += 8) {
                before(t0 + q);
                eight_steps(b, q);
            }
            __syncwarp();
            if constexpr (Output)
                by_type(p.dtype, [&](auto type) { finish(b, t0, (decltype(type)*)y); });
        }
    }
};
