// A block that scans 128/Lanes channels through a span of time, its tiles staged in shared memory.
// Every channel has Lanes adjacent threads, each of which holds States of its states in registers.
#pragma once
#include "async_copy.cuh"
#include "ssm.cuh"

template <typename T> struct Problem {
    const T *u, *delta;             // [batch, channels, seq_len]
    const float* A;                 // [channels, state]
    const T *B, *C;                 // [batch, groups, state, seq_len]
    const float* D;                 // [channels] or null
    const T* z;                     // [batch, channels, seq_len] or null
    const float* delta_bias;        // [channels] or null
    i64 batch, channels, seq_len, state, groups;
    int use_softplus;
};

// Four adjacent time steps as stored.
template <typename T> struct alignas(4 * sizeof(T)) Quad {
    T at[4];
};

template <typename T, int States, int Lanes> struct Staged {
    static constexpr int THREADS = 128, CHANNELS = THREADS / Lanes, STEPS = 32, QUADS = STEPS / 4;
    static constexpr int WIDTH = States * Lanes;  // states with padding
    static constexpr int PITCH = STEPS + 4;       // of a channel's row: four-step reads meet no bank twice
    static constexpr int PROJECTIONS = WIDTH * QUADS / THREADS;
    typedef T Rows[CHANNELS * PITCH];
    struct Buffer {
        Rows u, delta, z;
    };
    struct Shared {
        Buffer buffer[2];
        float B[STEPS * WIDTH], C[STEPS * WIDTH];
    };

    const Problem<T>& p;
    Shared& shared;
    i64 row, here;           // first row (batch*channels) of the block, and how many of them it has
    i64 channel;             // this thread's channel; past the end if `mine` is false
    i64 projection;          // where B and C of the group begin
    bool mine, aligned;
    int c, lane;
    float rate[States], h[States];
    float bias, skip;
    Quad<T> held_B[PROJECTIONS], held_C[PROJECTIONS];

    __device__ __forceinline__ Staged(const Problem<T>& problem, Shared& memory) : p(problem), shared(memory) {
        const i64 in_group = p.channels / p.groups, tiles = (in_group + CHANNELS - 1) / CHANNELS;
        const i64 tile = blockIdx.x % tiles, group = blockIdx.x / tiles % p.groups;
        const i64 b = blockIdx.x / tiles / p.groups;
        c = threadIdx.x / Lanes;
        lane = threadIdx.x % Lanes;
        const i64 first = group * in_group + tile * CHANNELS;
        here = min((i64)CHANNELS, in_group - tile * CHANNELS);
        row = b * p.channels + first;
        channel = first + c;
        mine = c < here;
        projection = (b * p.groups + group) * p.state * p.seq_len;
        aligned = p.seq_len % 4 == 0;
        bias = mine && p.delta_bias ? p.delta_bias[channel] : 0.f;
        skip = mine && p.D ? p.D[channel] : 0.f;
        for (int s = 0; s < States; ++s) {
            const int n = lane * States + s;
            rate[s] = mine && n < p.state ? p.A[channel * p.state + n] * LOG2E : 0.f;
            h[s] = 0.f;
        }
    }

    // Where state s of this thread stands in an array [batch*channels, state].
    __device__ __forceinline__ i64 state_at(int s) const { return (row + c) * p.state + lane * States + s; }
    __device__ __forceinline__ bool has_state(int s) const { return mine && lane * States + s < p.state; }

    __device__ __forceinline__ void copy_rows(Rows& rows, const T* from, i64 t0) {
        const T* first = from + row * p.seq_len + t0;
        if (aligned) {
            const int r0 = threadIdx.x / QUADS, q = threadIdx.x % QUADS * 4;
            const bool in_time = t0 + q < p.seq_len;
#pragma unroll 2
            for (int r = r0; r < CHANNELS; r += THREADS / QUADS) {
                const bool there = in_time && r < here;
                copy_async<4 * sizeof(T)>(rows + r * PITCH + q, there ? first + r * p.seq_len + q : from, there);
            }
        } else {
            const int t = threadIdx.x % STEPS;
#pragma unroll 1
            for (int r = threadIdx.x / STEPS; r < CHANNELS; r += THREADS / STEPS)
                rows[r * PITCH + t] =
                    t0 + t < p.seq_len && r < here ? first[r * p.seq_len + t] : from_float<T>(0.f);
        }
    }
    // Starts bringing in u, delta and z of the tile that begins at t0.
    __device__ __forceinline__ void stage(Buffer& buffer, i64 t0, bool gate) {
        copy_rows(buffer.u, p.u, t0);
        copy_rows(buffer.delta, p.delta, t0);
        if (gate) copy_rows(buffer.z, p.z, t0);
    }

    __device__ __forceinline__ Quad<T> quad(const T* from, i64 n, i64 t) const {
        Quad<T> q;
        const T* source = from + projection + n * p.seq_len + t;
        const i64 left = n < p.state ? p.seq_len - t : 0;
        if (aligned && left > 0) return *(const Quad<T>*)source;
        for (int k = 0; k < 4; ++k) q.at[k] = k < left ? source[k] : from_float<T>(0.f);
        return q;
    }
    __device__ __forceinline__ void hold_projections(i64 t0, bool output) {
        for (int j = 0; j < PROJECTIONS; ++j) {
            const int i = threadIdx.x + j * THREADS, n = i % WIDTH, t = i / WIDTH * 4;
            held_B[j] = quad(p.B, n, t0 + t);
            if (output) held_C[j] = quad(p.C, n, t0 + t);
        }
    }
    __device__ __forceinline__ void put_projections(bool output) {
        for (int j = 0; j < PROJECTIONS; ++j) {
            const int i = threadIdx.x + j * THREADS, n = i % WIDTH, t = i / WIDTH * 4;
            for (int k = 0; k < 4; ++k) {
                shared.B[(t + k) * WIDTH + n] = to_float(held_B[j].at[k]);
                if (output) shared.C[(t + k) * WIDTH + n] = to_float(held_C[j].at[k]);
            }
        }
    }

    __device__ __forceinline__ float step_size(T delta, bool there) const {
        const float x = to_float(delta) + bias;
        return !there ? 0.f : p.use_softplus ? softplus(x) : x;
    }

    // One time step of this thread's states; with Output, its share of sum of C*h.
    template <bool Output> __device__ __forceinline__ float advance_states(float dt, float dtu, int t) {
        const float* B = shared.B + t * WIDTH + lane * States;
        const float* C = shared.C + t * WIDTH + lane * States;
        float even = 0.f, odd = 0.f;
#pragma unroll
        for (int s = 0; s < States; s += 4) {
            const float4 b = *(const float4*)(B + s);
            const float in[4] = {b.x, b.y, b.z, b.w};
            float out[4];
            if (Output) *(float4*)out = *(const float4*)(C + s);
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                h[s + k] = fmaf(exp2_fast(dt * rate[s + k]), h[s + k], dtu * in[k]);
                if (Output) (k % 2 ? odd : even) = fmaf(out[k], h[s + k], k % 2 ? odd : even);
            }
        }
        return even + odd;
    }

    // Four steps from step q of the tile; with Output, y takes the place of u. Each lane computes the
    // step size and the gate of 4/Lanes of the steps and hands the step sizes round. Returns sum of dt.
    template <bool Output> __device__ __forceinline__ float four_steps(Buffer& buffer, int q, i64 left) {
        constexpr int Own = 4 / Lanes;
        T *u = buffer.u + c * PITCH + q, *z = buffer.z + c * PITCH + q, *delta = buffer.delta + c * PITCH + q;
        const Quad<T> value = *(const Quad<T>*)u;
        float own_dt[Own], own_y[Own], dt[4];
#pragma unroll
        for (int j = 0; j < Own; ++j) own_dt[j] = step_size(delta[j * Lanes + lane], j * Lanes + lane < left - q);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            dt[k] = Lanes == 1 ? own_dt[k] : __shfl_sync(0xffffffffu, own_dt[k / Lanes], k % Lanes, Lanes);
            float y = advance_states<Output>(dt[k], dt[k] * to_float(value.at[k]), q + k);
            if constexpr (Output) {
#pragma unroll
                for (int lanes = 1; lanes < Lanes; lanes *= 2) y += __shfl_xor_sync(0xffffffffu, y, lanes);
                y = fmaf(skip, to_float(value.at[k]), y);
                if (k % Lanes == lane) own_y[k / Lanes] = y;
            }
        }
        if (Output) {
            // A shuffle orders no memory: the other lanes have their u before it is overwritten only behind this.
            if constexpr (Lanes > 1) __syncwarp();
#pragma unroll
            for (int j = 0; j < Own; ++j) {
                const float gate = p.z ? to_float(z[j * Lanes + lane]) : 0.f;
                if (p.z) own_y[j] *= gate * sigmoid(gate);
                u[j * Lanes + lane] = from_float<T>(own_y[j]);
            }
        }
        return (dt[0] + dt[1]) + (dt[2] + dt[3]);
    }

    // Writes the rows of y that stand in the place of u.
    __device__ __forceinline__ void write(const Rows& rows, T* y, i64 t0) {
        T* first = y + row * p.seq_len + t0;
        if (aligned) {
            const int q = threadIdx.x % QUADS * 4;
            if (t0 + q >= p.seq_len) return;
#pragma unroll 2
            for (int r = threadIdx.x / QUADS; r < here; r += THREADS / QUADS)
                *(Quad<T>*)(first + r * p.seq_len + q) = *(const Quad<T>*)(rows + r * PITCH + q);
        } else {
            const int t = threadIdx.x % STEPS;
            if (t0 + t >= p.seq_len) return;
#pragma unroll 1
            for (int r = threadIdx.x / STEPS; r < here; r += THREADS / STEPS)
                first[r * p.seq_len + t] = rows[r * PITCH + t];
        }
    }

    // Scans steps [from, to); `from` is a multiple of STEPS. `before(t)` runs before every eighth step t.
    // Returns sum of dt, compensated.
    template <bool Output, typename Before>
    __device__ __forceinline__ float scan(i64 from, i64 to, T* y, Before before) {
        float sum = 0.f, lost = 0.f;
        if (from >= to) return sum;
        int current = 1;
        // Each round starts bringing in the next tile, then scans the one before it.
        for (i64 next = from;; next += STEPS, current ^= 1) {
            Buffer& buffer = shared.buffer[current];
            if (next < to) stage(shared.buffer[current ^ 1], next, Output && p.z);
            copies_commit();
            if (next > from) {
                copies_wait<1>();
                put_projections(Output);
            }
            if (next < to) hold_projections(next, Output);
            if (next > from) {
                const i64 t0 = next - STEPS;
                __syncthreads();
#pragma unroll 1
                for (int q = 0; q < STEPS; q += 4) {
                    if (q % 8 == 0 && t0 + q < to) before(t0 + q);
                    const float value = four_steps<Output>(buffer, q, to - t0) - lost, total = sum + value;
                    lost = (total - sum) - value;
                    sum = total;
                }
                __syncthreads();
                if (Output) write(buffer.u, y, t0);
                __syncthreads();
            }
            if (next >= to) return sum;
        }
    }
};

// Scans whole sequences: the kernels that do not split time.
template <typename T, int States, int Lanes>
__device__ __forceinline__ void scan_sequences(const Problem<T>& problem, const float* initial_state, T* y,
                                               float* last_state) {
    typedef Staged<T, States, Lanes> Block;
    extern __shared__ uint4 memory[];
    Block block(problem, *(typename Block::Shared*)memory);
    for (int s = 0; s < States; ++s)
        if (initial_state && block.has_state(s)) block.h[s] = initial_state[block.state_at(s)];
    block.template scan<true>(0, problem.seq_len, y, [](i64) {});
    for (int s = 0; s < States; ++s)
        if (block.has_state(s)) last_state[block.state_at(s)] = block.h[s];
}

#define STAGED_KERNEL(SUFFIX, T, STATES, LANES)                                                                \
    extern "C" __global__ void __launch_bounds__(128)                                                          \
        selective_##SUFFIX(const T* u, const T* delta, const float* A, const T* B, const T* C, const float* D, \
                           const T* z, const float* delta_bias, const float* initial_state, T* y,              \
                           float* last_state, i64 batch, i64 channels, i64 seq_len, i64 state, i64 groups,     \
                           int use_softplus) {                                                                 \
        const Problem<T> problem = {u,     delta,    A,       B,     C,      D,           z, delta_bias,       \
                                    batch, channels, seq_len, state, groups, use_softplus};                    \
        scan_sequences<T, STATES, LANES>(problem, initial_state, y, last_state);                               \
    }
