// Idea: keep the states of every eighth step only; recompute the seven in between in registers.
// Source: Gu and Dao, Mamba (2023), section 3.3.2 (recomputation); checkpoints after Chen et al., Training
//         Deep Nets with Sublinear Memory Cost (2016), section 4.
// Shapes: u, delta, z, dy, du, ddelta, dz [batch, channels, seq_len]; A [channels, state];
//         B, C [batch, groups, state, seq_len]; D, delta_bias [channels]. Scratch: checkpoints
//         [batch, channels, ceil(seq_len/8), 16]; parts_B, parts_C [batch*groups, tiles, state, seq_len] with
//         tiles of 32 channels; parts_A [batch, channels, state]; parts_D, parts_bias [batch, channels].
// Plan: checkpoint scans forward as split does. gradients walks back over staged tiles of 32 steps, four
//       threads a channel with four states each: eight steps forward from a checkpoint keep states and decays
//       in registers, then eight steps back. Shares of dB and dC are summed over the 8 channels of a warp by
//       halving exchanges, over the 4 warps in shared memory, over blocks by ssm_sum.
// Numerics: f32; ex2.approx for the decay; no atomics.
// Limits: state up to 16; f32 and bf16.
#include "ssm_selective_staged.cuh"

constexpr int EIGHT = 8;

template <typename T>
__device__ __forceinline__ void checkpoint(const Problem<T>& problem, float* checkpoints) {
    typedef Staged<T, 4, 4> Block;
    extern __shared__ uint4 memory[];
    Block block(problem, *(typename Block::Shared*)memory);
    const i64 kept = (problem.seq_len + EIGHT - 1) / EIGHT;
    block.template scan<false>(0, problem.seq_len, nullptr, [&](i64 t) {
        if (!block.mine) return;
        float* to = checkpoints + ((block.row + block.c) * kept + t / EIGHT) * 16 + block.lane * 4;
        *(float4*)to = make_float4(block.h[0], block.h[1], block.h[2], block.h[3]);
    });
}

template <typename T> struct Gradients {
    typedef Staged<T, 4, 4> Block;
    struct Shared {
        typename Block::Shared staged;  // buffer[0]: u, delta, z, replaced by du, ddelta, dz; buffer[1].u: dy
        float warps[4][EIGHT][32];      // shares of dB (16 states) and dC (16 states) by warp and step
        float sums[32][Block::STEPS + 1];
    };
    Block& block;
    Shared& shared;
    float A[4], carried[4] = {}, sum_A[4] = {}, sum_D = 0.f, sum_bias = 0.f;

    // Adds v (4 shares of dB, 4 of dC) over the 8 channels of the warp; each lane is left with one sum.
    static __device__ __forceinline__ float exchange(const float (&v)[8]) {
        const int lane = threadIdx.x % 32;
        const bool c = lane & 16, high = lane & 8, odd = lane & 4;
        float w[4], x[2];
#pragma unroll
        for (int i = 0; i < 4; ++i)
            w[i] = (c ? v[4 + i] : v[i]) + __shfl_xor_sync(0xffffffffu, c ? v[i] : v[4 + i], 16);
#pragma unroll
        for (int i = 0; i < 2; ++i)
            x[i] = (high ? w[2 + i] : w[i]) + __shfl_xor_sync(0xffffffffu, high ? w[i] : w[2 + i], 8);
        return (odd ? x[1] : x[0]) + __shfl_xor_sync(0xffffffffu, odd ? x[0] : x[1], 4);
    }
    static __device__ __forceinline__ float over_lanes(float v) {
        v += __shfl_xor_sync(0xffffffffu, v, 1);
        return v + __shfl_xor_sync(0xffffffffu, v, 2);
    }
    static __device__ __forceinline__ float from_owner(const float (&own)[2], int k) {
        return __shfl_sync(0xffffffffu, own[k / 4], k % 4, 4);
    }

    // Eight steps from step q of the tile; `left` steps of the tile are within the sequence.
    __device__ __forceinline__ void eight_steps(const float* start, int q, int left) {
        const int lane = block.lane, offset = block.c * Block::PITCH + q;
        typename Block::Buffer& buffer = shared.staged.buffer[0];
        T *u = buffer.u + offset, *delta = buffer.delta + offset, *z = buffer.z + offset;
        const T* dy = shared.staged.buffer[1].u + offset;
        const float *B = shared.staged.B + q * 16 + lane * 4, *C = shared.staged.C + q * 16 + lane * 4;
        float own_dt[2], own_ds[2], own_s[2], own_B[2], own_rate[2];
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const int k = j * 4 + lane;
            own_dt[j] = block.step_size(delta[k], q + k < left);
            own_ds[j] = to_float(dy[k]);
            if (block.p.z) {
                const float gate = to_float(z[k]);
                own_ds[j] *= gate * sigmoid(gate);
            }
        }
        alignas(16) float h[EIGHT + 1][4];
        float decay[EIGHT][4], dt[EIGHT];
        *(float4*)h[0] = start ? *(const float4*)start : make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll
        for (int k = 0; k < EIGHT; ++k) {
            dt[k] = from_owner(own_dt, k);
            const float dtu = dt[k] * to_float(u[k]);
            float s_share = 0.f;
#pragma unroll
            for (int s = 0; s < 4; ++s) {
                decay[k][s] = exp2_fast(dt[k] * block.rate[s]);
                h[k + 1][s] = fmaf(decay[k][s], h[k][s], dtu * B[k * 16 + s]);
                s_share = fmaf(C[k * 16 + s], h[k + 1][s], s_share);
            }
            if (!block.p.z) continue;
            const float total = fmaf(block.skip, to_float(u[k]), over_lanes(s_share));
            if (k % 4 == lane) own_s[k / 4] = total;
        }
#pragma unroll
        for (int k = EIGHT - 1; k >= 0; --k) {
            const float ds = from_owner(own_ds, k), dtu = dt[k] * to_float(u[k]);
            float by_B = 0.f, by_rate = 0.f, shares[8];
#pragma unroll
            for (int s = 0; s < 4; ++s) {
                const float g = fmaf(C[k * 16 + s], ds, carried[s]);
                carried[s] = decay[k][s] * g;
                const float kept = carried[s] * h[k][s];
                by_B = fmaf(g, B[k * 16 + s], by_B);
                by_rate = fmaf(A[s], kept, by_rate);
                sum_A[s] = fmaf(kept, dt[k], sum_A[s]);
                shares[s] = g * dtu;
                shares[4 + s] = ds * h[k + 1][s];
            }
            by_B = over_lanes(by_B);
            by_rate = over_lanes(by_rate);
            if (k % 4 == lane) {
                own_B[k / 4] = by_B;
                own_rate[k / 4] = by_rate;
            }
            const int w = threadIdx.x % 32;
            shared.warps[threadIdx.x / 32][k][(w & 16) + lane * 4 + (w & 8) / 4 + (w & 4) / 4] = exchange(shares);
        }
        // A shuffle orders no memory: the other lanes have their u before it is overwritten only behind this.
        __syncwarp();
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const int k = j * 4 + lane;
            const float value = to_float(u[k]);
            float by_step = fmaf(value, own_B[j], own_rate[j]);
            if (block.p.use_softplus) by_step *= sigmoid(to_float(delta[k]) + block.bias);
            sum_D = fmaf(own_ds[j], value, sum_D);
            sum_bias += by_step;
            u[k] = from_float<T>(fmaf(block.skip, own_ds[j], own_dt[j] * own_B[j]));
            delta[k] = from_float<T>(by_step);
            if (block.p.z) {
                const float gate = to_float(z[k]), open = sigmoid(gate);
                z[k] = from_float<T>(to_float(dy[k]) * own_s[j] * (open * (1.f + gate * (1.f - open))));
            }
        }
    }

    // Sums the warps' shares of the eight steps from step q.
    __device__ __forceinline__ void over_warps(int q) {
        for (int i = threadIdx.x; i < EIGHT * 32; i += Block::THREADS) {
            const int k = i / 32, j = i % 32;
            shared.sums[j][q + k] = (shared.warps[0][k][j] + shared.warps[1][k][j]) +
                                    (shared.warps[2][k][j] + shared.warps[3][k][j]);
        }
    }

    __device__ __forceinline__ void walk(const T* dy, const float* checkpoints, T* du, T* ddelta, T* dz,
                                         float* parts_B, float* parts_C) {
        const Problem<T>& p = block.p;
        const i64 kept = (p.seq_len + EIGHT - 1) / EIGHT;
        typename Block::Buffer& buffer = shared.staged.buffer[0];
        for (i64 tile = (p.seq_len + Block::STEPS - 1) / Block::STEPS; tile-- > 0;) {
            const i64 t0 = tile * Block::STEPS;
            const int left = (int)min((i64)Block::STEPS, p.seq_len - t0);
            block.stage(buffer, t0, p.z != nullptr);
            block.copy_rows(shared.staged.buffer[1].u, dy, t0);
            copies_commit();
            block.hold_projections(t0, true);
            block.put_projections(true);
            copies_wait<0>();
            __syncthreads();
#pragma unroll 1
            for (int q = (left - 1) / EIGHT * EIGHT; q >= 0; q -= EIGHT) {
                const i64 at = ((block.row + block.c) * kept + (t0 + q) / EIGHT) * 16 + block.lane * 4;
                eight_steps(block.mine ? checkpoints + at : nullptr, q, left);
                __syncthreads();
                over_warps(q);
                __syncthreads();
            }
            block.write(buffer.u, du, t0);
            block.write(buffer.delta, ddelta, t0);
            if (p.z) block.write(buffer.z, dz, t0);
            for (int i = threadIdx.x; i < 32 * Block::STEPS; i += Block::THREADS) {
                const int t = i % Block::STEPS, n = i / Block::STEPS % 16;
                float* parts = i < 16 * Block::STEPS ? parts_B : parts_C;
                if (t < left && n < p.state)
                    parts[(blockIdx.x * p.state + n) * p.seq_len + t0 + t] = shared.sums[i / Block::STEPS][t];
            }
            __syncthreads();
        }
    }
};

template <typename T>
__device__ __forceinline__ void gradients(const Problem<T>& problem, const T* dy, const float* checkpoints, T* du,
                                          T* ddelta, T* dz, float* parts_B, float* parts_C, float* parts_A,
                                          float* parts_D, float* parts_bias) {
    extern __shared__ uint4 memory[];
    typename Gradients<T>::Shared& shared = *(typename Gradients<T>::Shared*)memory;
    typename Gradients<T>::Block block(problem, shared.staged);
    Gradients<T> sweep{block, shared};
    for (int s = 0; s < 4; ++s)
        sweep.A[s] = block.has_state(s) ? problem.A[block.channel * problem.state + block.lane * 4 + s] : 0.f;
    sweep.walk(dy, checkpoints, du, ddelta, dz, parts_B, parts_C);
    for (int s = 0; s < 4; ++s)
        if (block.has_state(s)) parts_A[block.state_at(s)] = sweep.sum_A[s];
    const float sum_D = sweep.over_lanes(sweep.sum_D), sum_bias = sweep.over_lanes(sweep.sum_bias);
    if (block.mine && block.lane == 0) {
        parts_D[block.row + block.c] = sum_D;
        parts_bias[block.row + block.c] = sum_bias;
    }
}

#define KERNELS(SUFFIX, T)                                                                                     \
    extern "C" __global__ void __launch_bounds__(128)                                                          \
        checkpoint_##SUFFIX(const T* u, const T* delta, const float* A, const T* B, const float* delta_bias,   \
                            float* checkpoints, i64 batch, i64 channels, i64 seq_len, i64 state, i64 groups,   \
                            int use_softplus) {                                                                \
        const Problem<T> problem = {u,          delta,   A,     B,        nullptr, nullptr, nullptr,           \
                                    delta_bias, batch,   channels, seq_len,  state,   groups,  use_softplus};  \
        checkpoint<T>(problem, checkpoints);                                                                   \
    }                                                                                                          \
    extern "C" __global__ void __launch_bounds__(128)                                                          \
        gradients_##SUFFIX(const T* u, const T* delta, const float* A, const T* B, const T* C, const float* D, \
                           const T* z, const float* delta_bias, const T* dy, T* du, T* ddelta, T* dz,          \
                           float* parts_B, float* parts_C, float* parts_A, float* parts_D, float* parts_bias,  \
                           const float* checkpoints, i64 batch, i64 channels, i64 seq_len, i64 state,          \
                           i64 groups, int use_softplus) {                                                     \
        const Problem<T> problem = {u,     delta,    A,       B,     C,      D,           z, delta_bias,       \
                                    batch, channels, seq_len, state, groups, use_softplus};                    \
        gradients<T>(problem, dy, checkpoints, du, ddelta, dz, parts_B, parts_C, parts_A, parts_D,             \
                     parts_bias);                                                                              \
    }
KERNELS(f32, float)
KERNELS(bf16, __nv_bfloat16)
