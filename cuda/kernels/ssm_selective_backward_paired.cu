// Idea: two channels a thread: sums over channels (dB, dC) begin in registers, which halves what a step's exchange
//       between threads costs; all else that is not states is prepared and finished four steps a thread.
// Source: Gu and Dao, Mamba (2023), section 3.3.2 (recomputation); checkpoints after Chen et al., Training
//         Deep Nets with Sublinear Memory Cost (2016), section 4; the split of work is ours.
// Shapes: u, delta, z, dy, du, ddelta, dz [batch, channels, seq_len]; A [channels, state];
//         B, C [batch, groups, state, seq_len]; D, delta_bias [channels]. Scratch: checkpoints
//         [batch, channels, ceil(seq_len/8), 16]; parts_B, parts_C [batch*groups, tiles, state, seq_len] with
//         tiles of 64 channels; parts_A [batch, channels, state]; parts_D, parts_bias [batch, channels].
// Plan: checkpoint scans forward as prepared does and keeps every eighth state. gradients walks back over tiles of 16
//       steps, four threads a pair of channels with four states each: eight steps forward from a checkpoint keep
//       states and decays in registers (two blocks a multiprocessor), then eight steps back. Shares of dB and dC
//       are summed over a warp's 16 channels for four steps at once, so that shuffles wait together, then over the
//       4 warps in shared memory, over blocks by ssm_sum.
//       An exchange for eight steps at once, and more passes of prepare and finish at a time, spill and gain nothing
//       (mamba_1_4b_layer_backward); there, every state instead of every eighth would be 2.1 GB to write and read.
// Numerics: f32; ex2.approx for the decay; no atomics.
// Limits: state up to 16; f32 and bf16.
#include "ssm_selective_prepared.cuh"

#define LN2 0.693147180559945309417f
constexpr int EIGHT = 8;

extern "C" __global__ void __launch_bounds__(128)
    checkpoint(const void* u, const void* delta, const float* A, const void* B, const float* delta_bias,
               float* checkpoints, i64 batch, i64 channels, i64 seq_len, i64 state, i64 groups, int use_softplus,
               int dtype) {
    const Problem problem = {u,     delta,    A,       B,     nullptr, nullptr,      nullptr, delta_bias,
                             batch, channels, seq_len, state, groups,  use_softplus, dtype};
    typedef Scan<false> Block;
    extern __shared__ uint4 memory[];
    Block block(problem, *(Block::Shared*)memory);
    const auto& rows = block.rows;
    const i64 kept = (seq_len + EIGHT - 1) / EIGHT;
    float* to = checkpoints + (rows.row + rows.c) * kept * 16 + rows.part * 4;
    block.run(nullptr, [&](i64 t) {
        if (rows.mine(0) && t < seq_len) store4(to, block.h);
        to += 16;
    });
}

struct Gradients {
    static constexpr int K = 2, STEPS = 16;
    typedef Rows<K, STEPS> R;
    typedef Projections<STEPS, 2> BC;
    static constexpr int SHARES = 33;  // shares of dB (16 states) and dC of a step, padded
    struct Shared {
        R::Tile raw[2][4];                   // u, delta, z, dy
        R::Tile dt, by_B, by_rate, s;        // by_B: dt*u at first; by_rate: ds at first
        BC::Tile projections;
        float shares[4][STEPS * SHARES];     // of dB and dC, by warp and step
        float4 start[2][K][R::THREADS];      // the states that eight steps begin from
        float2 constants[R::CHANNELS];       // bias and skip
        float2 sums[R::PASSES][R::THREADS];  // shares of dD and ddelta_bias
    };
    // States before and after each of eight steps, and decays.
    struct Kept {
        float h[EIGHT + 1][K][4], decay[EIGHT][K][4];
    };
    R rows;
    BC held;
    Shared& m;
    float carried[K][4] = {}, sum_A[K][4] = {};

    __device__ __forceinline__ Gradients(const Problem& problem, Shared& memory)
        : rows(problem), held(rows), m(memory) {
        rows.hold_constants(m.constants);
#pragma unroll
        for (int pass = 0; pass < R::PASSES; ++pass) m.sums[pass][threadIdx.x] = make_float2(0.f, 0.f);
    }
    // Starts bringing in a tile.
    template <typename T> __device__ __forceinline__ void stage(int b, i64 t0, const T* dy) {
        const Problem& p = rows.p;
        held.load<T>(p, t0);
        if (rows.whole(t0)) {
            rows.copy((T*)m.raw[b][0], (const T*)p.u, t0);
            rows.copy((T*)m.raw[b][1], (const T*)p.delta, t0);
            if (p.z) rows.copy((T*)m.raw[b][2], (const T*)p.z, t0);
            rows.copy((T*)m.raw[b][3], dy, t0);
        } else {
#pragma unroll 1
            for (int i = 0; i < 4; ++i) {
                const void* array = i == 0 ? p.u : i == 1 ? p.delta : i == 2 ? p.z : dy;
                if (array) rows.copy_part<false>((T*)m.raw[b][i], (T*)array, t0);
            }
        }
    }
    template <typename T> __device__ __forceinline__ void prepare(int b, i64 t0) {
        const bool gate = rows.p.z;
#pragma unroll 1
        for (int pass = 0; pass < R::PASSES; ++pass) {
            const int at = rows.at + pass * R::NEXT;
            float dt[4], dtu[4], ds[4], z[4];
            unpack4(dtu, (const T*)m.raw[b][0] + at);
            unpack4(ds, (const T*)m.raw[b][3] + at);
            if (gate) unpack4(z, (const T*)m.raw[b][2] + at);
            rows.step_sizes(dt, (const T*)m.raw[b][1] + at, m.constants[rows.r + pass * R::AT_ONCE].x, t0);
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                dtu[k] *= dt[k];
                if (gate) ds[k] *= z[k] * open_gate(z[k]);
            }
            store4(m.dt + at, dt);
            store4(m.by_B + at, dtu);
            store4(m.by_rate + at, ds);
            // Eight steps that lie beyond the end are not walked.
            if (!rows.whole(t0)) *(float4*)(m.s + at) = make_float4(0.f, 0.f, 0.f, 0.f);
        }
    }
    // Starts bringing in the states that eight steps begin from.
    __device__ __forceinline__ void bring_start(int slot, const float* from, i64 kept) {
#pragma unroll
        for (int j = 0; j < K; ++j) {
            const bool there = rows.mine(j);
            copy_async<16>(&m.start[slot][j][threadIdx.x], there ? from + 8 * j * kept * 16 : from, there);
        }
        copies_commit();
    }
    // Adds v[i] (4 shares of dB, 4 of dC) over the warp's 8 threads of a part, for N steps; each is left with one.
    template <int N> static __device__ __forceinline__ void exchange(float (&to)[N], const float (&v)[N][8]) {
        const bool c = threadIdx.x & 4, high = threadIdx.x & 2, odd = threadIdx.x & 1;
        float a[N][4], b[N][2];
#pragma unroll
        for (int k = 0; k < N; ++k)
#pragma unroll
            for (int i = 0; i < 4; ++i)
                a[k][i] = (c ? v[k][4 + i] : v[k][i]) +
                          __shfl_xor_sync(0xffffffffu, c ? v[k][i] : v[k][4 + i], 4);
#pragma unroll
        for (int k = 0; k < N; ++k)
#pragma unroll
            for (int i = 0; i < 2; ++i)
                b[k][i] = (high ? a[k][2 + i] : a[k][i]) +
                          __shfl_xor_sync(0xffffffffu, high ? a[k][i] : a[k][2 + i], 2);
#pragma unroll
        for (int k = 0; k < N; ++k)
            to[k] = (odd ? b[k][1] : b[k][0]) + __shfl_xor_sync(0xffffffffu, odd ? b[k][0] : b[k][1], 1);
    }
    // Eight steps forward from step q of the tile.
    __device__ __forceinline__ void recompute(Kept& kept, int q) {
        const int at = rows.c * R::PITCH + q, state = q * 16 + rows.part * 4;
        float shares[2][K][4];
#pragma unroll
        for (int four = 0; four < 2; ++four) {
            float dt[K][4], dtu[K][4];
#pragma unroll
            for (int j = 0; j < K; ++j) {
                load4(dt[j], m.dt + at + 8 * j * R::PITCH + 4 * four);
                load4(dtu[j], m.by_B + at + 8 * j * R::PITCH + 4 * four);
            }
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int k = 4 * four + i;
                float B[4], C[4];
                load4(B, m.projections[0] + state + k * 16);
                load4(C, m.projections[1] + state + k * 16);
#pragma unroll
                for (int j = 0; j < K; ++j) {
                    float& share = shares[four][j][i];
#pragma unroll
                    for (int s = 0; s < 4; ++s) {
                        const float decay = exp2_fast(dt[j][i] * rows.rate[j][s]);
                        const float h = fmaf(decay, kept.h[k][j][s], dtu[j][i] * B[s]);
                        kept.decay[k][j][s] = decay;
                        kept.h[k + 1][j][s] = h;
                        share = s ? fmaf(C[s], h, share) : C[0] * h;
                    }
                }
            }
        }
        if (!rows.p.z) return;
#pragma unroll
        for (int four = 0; four < 2; ++four)
#pragma unroll
            for (int j = 0; j < K; ++j)
                m.s[at + 8 * j * R::PITCH + 4 * four + rows.part] = rows.over_parts(shares[four][j]);
    }
    // Four steps back from the last of the first (0) or second (1) four after step q of the tile.
    __device__ __forceinline__ void go_back(const Kept& kept, int q, int four) {
        const int at = rows.c * R::PITCH + q + 4 * four, state = q * 16 + rows.part * 4;
        float dt[K][4], dtu[K][4], ds[K][4], by_B[K][4], by_rate[K][4], shares[4][8], sums[4];
#pragma unroll
        for (int j = 0; j < K; ++j) {
            load4(dt[j], m.dt + at + 8 * j * R::PITCH);
            load4(dtu[j], m.by_B + at + 8 * j * R::PITCH);
            load4(ds[j], m.by_rate + at + 8 * j * R::PITCH);
        }
#pragma unroll
        for (int i = 3; i >= 0; --i) {
            const int k = 4 * four + i;
            float B[4], C[4];
            load4(B, m.projections[0] + state + k * 16);
            load4(C, m.projections[1] + state + k * 16);
#pragma unroll
            for (int j = 0; j < K; ++j)
#pragma unroll
                for (int s = 0; s < 4; ++s) {
                    const float g = fmaf(C[s], ds[j][i], carried[j][s]), h = kept.h[k + 1][j][s];
                    carried[j][s] = kept.decay[k][j][s] * g;
                    const float rest = carried[j][s] * kept.h[k][j][s];
                    by_B[j][i] = s ? fmaf(g, B[s], by_B[j][i]) : g * B[0];
                    by_rate[j][i] = s ? fmaf(rows.rate[j][s], rest, by_rate[j][i]) : rows.rate[j][0] * rest;
                    sum_A[j][s] = fmaf(rest, dt[j][i], sum_A[j][s]);
                    shares[i][s] = j ? fmaf(g, dtu[j][i], shares[i][s]) : g * dtu[j][i];
                    shares[i][4 + s] = j ? fmaf(ds[j][i], h, shares[i][4 + s]) : ds[j][i] * h;
                }
        }
        exchange(sums, shares);
        const int lane = threadIdx.x % 32, share = lane / 4 % 2 * 16 + rows.part * 4 + lane % 4;
#pragma unroll
        for (int i = 0; i < 4; ++i) m.shares[threadIdx.x / 32][(q + 4 * four + i) * SHARES + share] = sums[i];
        // The other threads of the channels have read what these sums replace.
        __syncwarp();
#pragma unroll
        for (int j = 0; j < K; ++j) {
            m.by_B[at + 8 * j * R::PITCH + rows.part] = rows.over_parts(by_B[j]);
            m.by_rate[at + 8 * j * R::PITCH + rows.part] = rows.over_parts(by_rate[j]);
        }
    }
    // Eight steps forth and back from step q of the tile; the states of the eight before start on their way.
    __device__ __forceinline__ void eight_steps(int q, const float* before, i64 checkpoints, bool first) {
        Kept kept;
#pragma unroll
        for (int j = 0; j < K; ++j) load4(kept.h[0][j], (const float*)&m.start[q / EIGHT % 2][j][threadIdx.x]);
        if (!first) bring_start(1 - q / EIGHT % 2, before, checkpoints);
        recompute(kept, q);
        go_back(kept, q, 1);
        go_back(kept, q, 0);
        copies_wait<0>();
    }
    // Gradients of a tile's elements.
    template <typename T> __device__ __forceinline__ void finish(int b, i64 t0, T* du, T* ddelta, T* dz) {
        const Problem& p = rows.p;
        const bool whole = rows.whole(t0);
        i64 to = rows.begin + t0;
#pragma unroll 1
        for (int pass = 0; pass < R::PASSES; ++pass, to += R::AT_ONCE * p.seq_len) {
            const int at = rows.at + pass * R::NEXT;
            T *in_u = (T*)m.raw[b][0] + at, *in_delta = (T*)m.raw[b][1] + at, *in_z = (T*)m.raw[b][2] + at;
            const float2 constants = m.constants[rows.r + pass * R::AT_ONCE];
            float2 sums = m.sums[pass][threadIdx.x];
            float u[4], delta[4], ds[4], by_B[4], by_rate[4], dt[4];
            unpack4(u, in_u);
            unpack4(delta, in_delta);
            unpack4(ds, (const T*)m.raw[b][3] + at);
            load4(by_B, m.by_B + at);
            load4(by_rate, m.by_rate + at);
            load4(dt, m.dt + at);
            if (p.z) {
                float z[4], s[4];
                unpack4(z, in_z);
                load4(s, m.s + at);
#pragma unroll
                for (int k = 0; k < 4; ++k) {
                    const float open = open_gate(z[k]);
                    s[k] = ds[k] * fmaf(constants.y, u[k], s[k]) * (open * fmaf(z[k], 1.f - open, 1.f));
                    ds[k] *= z[k] * open;
                }
                rows.give(whole, dz + to, in_z, s);
            }
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                dt[k] = fmaf(constants.y, ds[k], dt[k] * by_B[k]);
                by_B[k] = fmaf(u[k], by_B[k], by_rate[k] * LN2);
                sums.x = fmaf(ds[k], u[k], sums.x);
            }
            if (p.use_softplus)
#pragma unroll
                for (int k = 0; k < 4; ++k) by_B[k] *= open_gate(delta[k] + constants.x);
#pragma unroll
            for (int k = 0; k < 4; ++k) sums.y += by_B[k];
            m.sums[pass][threadIdx.x] = sums;
            rows.give(whole, du + to, in_u, dt);
            rows.give(whole, ddelta + to, in_delta, by_B);
        }
        if (whole) return;
#pragma unroll 1
        for (int i = 0; i < (p.z ? 3 : 2); ++i)
            rows.copy_part<true>((T*)m.raw[b][i], i == 0 ? du : i == 1 ? ddelta : dz, t0);
    }
    // Sums the warps' shares of a tile.
    __device__ __forceinline__ void over_warps(i64 t0, float* parts_B, float* parts_C) {
        constexpr int AT_ONCE = R::THREADS / STEPS;
        const Problem& p = rows.p;
        const int t = threadIdx.x % STEPS, first = threadIdx.x / STEPS;
        if (t0 + t >= p.seq_len) return;
        i64 to = (blockIdx.x * p.state + first) * p.seq_len + t0 + t;
#pragma unroll
        for (int n = first; n < 16; n += AT_ONCE, to += AT_ONCE * p.seq_len) {
            float sum[2];
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const int at = t * SHARES + 16 * i + n;
                sum[i] = (m.shares[0][at] + m.shares[1][at]) + (m.shares[2][at] + m.shares[3][at]);
            }
            if (n >= p.state) continue;
            parts_B[to] = sum[0];
            parts_C[to] = sum[1];
        }
    }
    __device__ __forceinline__ void walk(const void* dy, const float* checkpoints, void* du, void* ddelta, void* dz,
                                         float* parts_B, float* parts_C) {
        const Problem& p = rows.p;
        if (p.seq_len <= 0) return;
        const i64 kept = (p.seq_len + EIGHT - 1) / EIGHT;
        i64 t0 = (p.seq_len - 1) / STEPS * STEPS;
        by_type(p.dtype, [&](auto type) { stage(0, t0, (const decltype(type)*)dy); });
        const float* from = checkpoints + ((rows.row + rows.c) * kept + kept - 1) * 16 + rows.part * 4;
        bring_start((kept - 1) % 2, from, kept);
        int b = 0;
#pragma unroll 1
        for (; t0 >= 0; t0 -= STEPS, b ^= 1) {
            by_type(p.dtype, [&](auto type) {
                typedef decltype(type) T;
                held.put<T>(m.projections);
                if (t0 > 0) stage(b ^ 1, t0 - STEPS, (const T*)dy);
                copies_commit();
                copies_wait<1>();
                __syncwarp();
                prepare<T>(b, t0);
            });
            __syncthreads();
#pragma unroll 1
            for (int q = ((int)min((i64)STEPS, p.seq_len - t0) - 1) / EIGHT * EIGHT; q >= 0; q -= EIGHT) {
                from -= 16;
                eight_steps(q, from, kept, t0 + q == 0);
            }
            __syncthreads();
            by_type(p.dtype, [&](auto type) {
                typedef decltype(type) T;
                finish(b, t0, (T*)du, (T*)ddelta, (T*)dz);
            });
            over_warps(t0, parts_B, parts_C);
        }
    }
};

extern "C" __global__ void __launch_bounds__(128)
    gradients(const void* u, const void* delta, const float* A, const void* B, const void* C, const float* D,
              const void* z, const float* delta_bias, const void* dy, void* du, void* ddelta, void* dz, float* parts_B,
              float* parts_C, float* parts_A, float* parts_D, float* parts_bias, const float* checkpoints, i64 batch,
              i64 channels, i64 seq_len, i64 state, i64 groups, int use_softplus, int dtype) {
    const Problem problem = {u,     delta,    A,       B,     C,      D,            z,   delta_bias,
                             batch, channels, seq_len, state, groups, use_softplus, dtype};
    extern __shared__ uint4 memory[];
    Gradients sweep(problem, *(Gradients::Shared*)memory);
    typedef Gradients::R R;
    const R& rows = sweep.rows;
    sweep.walk(dy, checkpoints, du, ddelta, dz, parts_B, parts_C);
#pragma unroll
    for (int j = 0; j < 2; ++j)
#pragma unroll
        for (int s = 0; s < 4; ++s)
            if (rows.has_state(j, s)) parts_A[rows.state_at(j, s)] = sweep.sum_A[j][s];
#pragma unroll
    for (int pass = 0; pass < R::PASSES; ++pass) {
        float of_D = sweep.m.sums[pass][threadIdx.x].x, of_bias = sweep.m.sums[pass][threadIdx.x].y;
        for (int i = 1; i < R::QUADS; i *= 2) {
            of_D += __shfl_xor_sync(0xffffffffu, of_D, i);
            of_bias += __shfl_xor_sync(0xffffffffu, of_bias, i);
        }
        const int r = rows.r + pass * R::AT_ONCE;
        if (rows.q != 0 || r >= rows.here) continue;
        parts_D[rows.row + r] = of_D;
        parts_bias[rows.row + r] = of_bias;
    }
}
