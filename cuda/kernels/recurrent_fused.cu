// Idea: product and cell of a step in one piece, on tensor cores; either a launch a step, or (persistent) one launch that
//       keeps the weights in shared memory for all steps and hands the state round by counters in memory.
// Source: Appleyard, Kocisky and Blunsom, Optimizing Performance of Recurrent Neural Networks on GPUs (2016); Diamos et
//         al., Persistent RNNs (2016).
// Shapes: see recurrent.cuh; 16-bit types. arrange: W_hh in the order of recurrent_step.cuh, one piece a direction and
//         block of 16 units. back: d, d_hidden [D, T, B, Q], Q = G*H rounded up to 8; direct and dc [D, B, H] f32.
// Plan: x * W_ih for all steps at once by recurrent_gemm. A block has 32 sequences and 16 units with all gates: 32 G H
//       bytes of weights, 128 KiB for an LSTM of 1024 units, whose 64 sequences take 2 x 64 blocks. A step reads the
//       block's 32 states, 64 H bytes, from the L2 cache (8 MiB by all blocks: 1.5 us at 5.5 TB/s), multiplies (2 M
//       multiply-adds a block: 1 us at the mma.sync rate) and stores 16 units of 32 new states. Persistent: a warp waits
//       until the blocks that make its eighth of the state have counted up, a release after their stores; two slots of
//       states suffice, since a block stores only after all its warps saw that everybody is done with the slot.
//       Backward, a launch a step: the product with W_hh of what the step after left, and the cell's gradients.
// Numerics: f32 sums, eight partial sums of k in a fixed order; states and gradients before the nonlinearities are
//           stored in 16 bits.
// Limits: a launch a step reads the weights from the cache each time. Persistent needs every block on the device at
//         once, one a multiprocessor: plans hold it to 128 blocks and 1024 units; a block that waits for seconds traps.
//         A GRU that resets before its product is left to naive: its product waits for the gate.
#include "recurrent_step.cuh"

extern __shared__ __align__(16) char shared[];

// Element (gate, unit, k) of W lies at gate * by_gate + unit * by_unit + k * by_k; a block's columns are [gates][16
// units]. Grid: blocks of units, chunks of 32 k, directions.
extern "C" __global__ void arrange(const u16* weights, u16* arranged, i64 by_direction, i64 by_gate, i64 by_unit,
                                   i64 by_k, i64 gates, i64 units, i64 depth) {
    const int tiles = (int)gates * 2;
    u16* to = arranged + (((i64)blockIdx.z * gridDim.x + blockIdx.x) * gridDim.y + blockIdx.y) * tiles * 256;
    weights += blockIdx.z * by_direction;
#pragma unroll 1
    for (int i = threadIdx.x; i < tiles * 256; i += blockDim.x) {
        const int lane = i / 8 % 32, column = i / 256 * 8 + lane / 4;
        const i64 k = (i64)blockIdx.y * 32 + lane % 4 * 8 + i % 8, unit = (i64)blockIdx.x * UNITS + column % UNITS;
        const bool inside = k < depth && unit < units;
        to[i] = inside ? weights[column / UNITS * by_gate + unit * by_unit + k * by_k] : (u16)0;
    }
}

__device__ __forceinline__ u32 load_acquire(const u32* p) {
    u32 v;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}
__device__ __forceinline__ void count_release(u32* p) {
    asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(p) : "memory");
}

// Polls before a wait is given up: seconds, where a step takes microseconds.
constexpr int PATIENCE = 1 << 23;

// The counters of a tile of sequences: one for each eighth of the state, 128 bytes apart.
struct Counters {
    u32* of_tile;

    // Waits until the blocks that make this warp's part of the state, `columns` units each, have done `steps` steps.
    // A warp without a part reads the last eight units, of which it makes nothing, and so waits for the last part.
    __device__ __forceinline__ void wait(int columns, int units, u32 steps) const {
        const int part = min((int)threadIdx.x / 32, (units - 1) / columns), k = part * columns;
        const int makers = (min(units, k + columns) - k + UNITS - 1) / UNITS;
        if (threadIdx.x % 32 == 0) {
            const u32* counter = of_tile + part * 32;
            int polls = 0;
            while (load_acquire(counter) < steps * makers)
                if (++polls > PATIENCE) __trap();
        }
        __syncwarp();
    }
    // All threads have stored their states.
    __device__ __forceinline__ void count(int unit0, int columns) const {
        __syncthreads();
        if (threadIdx.x == 0) {
            __threadfence();
            count_release(of_tile + unit0 / columns * 32);
        }
    }
};

// One of the two sequences a thread has, at its unit: what x gave to the gates, state, cell, steps.
struct Lane {
    float x[4], h, c;
    int length;
};
__device__ __forceinline__ void swap(Lane& a, Lane& b) {
    const Lane other = a;
    a = b;
    b = other;
}

template <int MODE>
__device__ __forceinline__ void steps(const uint4* arranged, float* gates, const u16* b_ih, const u16* b_hh, u16* states,
                                      float* cells, float* side, const int* lengths, u16* y, u32* arrived, Sizes s,
                                      int directions, bool keep, i64 from, i64 to, bool resident, bool bf16, bool relu) {
    constexpr int G = gates_of(MODE);
    typedef Product<G * UNITS> Tile;
    float* sums = (float*)shared;
    const int H = (int)s.hidden, P = (int)s.stride(), B = (int)s.batch;
    const int direction = blockIdx.z, row0 = blockIdx.y * ROWS, unit0 = blockIdx.x * UNITS;
    const int local_unit = threadIdx.x % UNITS, unit = unit0 + local_unit, local_row = threadIdx.x / UNITS;
    const int warp = threadIdx.x / 32, chunks = (H + 255) / 256, columns = chunks * 32, k = warp * columns;
    const int per_warp = chunks * Tile::TILES * 32;
    const Counters counters = {arrived + (direction * gridDim.y + blockIdx.y) * (WARPS * 32)};

    const uint4* w = arranged + (i64)(direction * gridDim.x + blockIdx.x) * WARPS * per_warp;
    if (resident) {
        uint4* kept = (uint4*)(shared + Tile::BYTES);
#pragma unroll 1
        for (int i = threadIdx.x; i < WARPS * per_warp; i += THREADS)
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((u32)__cvta_generic_to_shared(kept + i)),
                         "l"(w + i)
                         : "memory");
        asm volatile("cp.async.wait_all;" ::: "memory");
        w = kept;
        __syncthreads();
    }
    w += warp * per_warp + threadIdx.x % 32;

    // Loops over the two sequences go over `a` and swap, so that the code is there once and all stays in registers.
    Lane a = {}, b = {};
    float from_x[4], from_h[4];
    const i64 start = s.slot_before(direction, s.time(direction, from));
#pragma unroll 1
    for (int row = row0 + local_row; row < row0 + ROWS; row += 16) {
        const bool inside = row < B && unit < H;
        a.length = !inside ? -1 : fresh(lengths) ? lengths[row] : (int)s.seq_len;
        a.h = inside ? widened(states[s.state(direction, start, row) + unit], bf16) : 0.f;
        a.c = MODE == LSTM && inside ? cells[s.cell(direction, start, row) + unit] : 0.f;
        swap(a, b);
    }
#pragma unroll
    for (int g = 0; g < G; ++g) {
        const int at = (direction * G + g) * H + unit;
        from_x[g] = unit < H ? widened(b_ih[at], bf16) : 0.f;
        from_h[g] = unit < H ? widened(b_hh[at], bf16) : 0.f;
    }

#pragma unroll 1
    for (i64 step = from; step < to; ++step) {
        const i64 t = s.time(direction, step), before = s.slot_before(direction, t), after = s.slot_after(direction, t);
        const float* gate = gates + (s.step(direction, t, row0 + local_row) * G) * H + unit;
#pragma unroll
        for (int g = 0; g < G; ++g) {
            if (t < a.length) a.x[g] = gate[g * H];
            if (t < b.length) b.x[g] = gate[(16 * G + g) * H];
        }
        if (fresh(resident) && step > from) counters.wait(columns, H, (u32)(step - from));
        Tile product;
        product.run(sums, states + s.state(direction, before, row0), P, B - row0, k + threadIdx.x % 4 * 8, w, chunks, bf16);
        float hidden_part = 0.f, part_of_b = 0.f;  // of the GRU's candidate, for the way back
#pragma unroll 1
        for (int r = local_row; r < ROWS; r += 16) {
            float part[4];
#pragma unroll
            for (int g = 0; g < G; ++g) {
                part[g] = Tile::add_up(sums, r, g * UNITS + local_unit) + from_h[g];
                a.x[g] += from_x[g];
            }
            if (t < a.length) {
                const float h = MODE == RNN_TANH && fresh(relu) ? (a.x[0] = max_or_nan(a.x[0] + part[0], 0.f))
                                                         : forward_unit<MODE>(a.x, part, a.h, a.c);
                a.h = widened(narrowed(h, bf16), bf16);
            }
            if (a.length >= 0) states[s.state(direction, after, row0 + r) + unit] = narrowed(a.h, bf16);
            hidden_part = part_of_b;
            part_of_b = part[G == 3 ? 2 : 0];
            swap(a, b);
        }
        if (fresh(resident)) counters.count(unit0, columns);
        // What no other block waits for. After the loop hidden_part is of a's first turn, part_of_b of b's.
#pragma unroll 1
        for (int r = local_row; r < ROWS; r += 16) {
            const i64 row = row0 + r, at = s.step(direction, t, row);
            const bool runs = t < a.length;
            if (a.length >= 0) {
                y[((t * B + row) * directions + direction) * H + unit] = runs ? narrowed(a.h, bf16) : (u16)0;
                if (MODE == LSTM) cells[s.cell(direction, after, row) + unit] = a.c;
            }
            if (fresh(keep) && runs) {
#pragma unroll
                for (int g = 0; g < G; ++g) gates[(at * G + g) * H + unit] = a.x[g];
                if (MODE == GRU_AFTER) side[at * H + unit] = hidden_part;
            }
            hidden_part = part_of_b;
            swap(a, b);
        }
    }
}

// What the step back is given; `d` is what x gave and `d_hidden` what the state gave (equal but for the GRU's candidate).
struct Backward {
    const float* gates;
    const u16* states;
    const float *cells, *side;
    const int* lengths;
    const u16* dy;
    float *direct, *dc;
    u16 *d, *d_hidden;
    Sizes s;
    i64 directions, mode;
    bool bf16;

    __device__ __forceinline__ Gradient by_mode(const float (&gate)[4], float dh, float h_before, float c_before, float c,
                                                float q, float& dc) const {
        if (fresh(mode == RNN_TANH)) return backward_unit<RNN_TANH>(gate, dh, h_before, c_before, c, q, dc);
        if (fresh(mode == RNN_RELU)) return backward_unit<RNN_RELU>(gate, dh, h_before, c_before, c, q, dc);
        if (fresh(mode == LSTM)) return backward_unit<LSTM>(gate, dh, h_before, c_before, c, q, dc);
        return backward_unit<GRU_AFTER>(gate, dh, h_before, c_before, c, q, dc);
    }

    // Writes the gradients of one unit at time t, and what goes on to the state before it directly.
    __device__ __forceinline__ void unit(i64 direction, i64 row, i64 unit, i64 t, float dh) const {
        const i64 H = s.hidden, G = gates_of(mode), step = s.step(direction, t, row);
        const i64 at = step * ((G * H + 7) / 8 * 8) + unit, carried = (direction * s.batch + row) * H + unit;
        Gradient out = {};
        out.direct = dh;
        if (!fresh(lengths) || t < lengths[row]) {
            const i64 before = s.slot_before(direction, t), after = s.slot_after(direction, t);
            dh += widened(dy[((t * s.batch + row) * directions + direction) * H + unit], bf16);
            float gate[4];
#pragma unroll
            for (int g = 0; g < 4; ++g) gate[g] = g < G ? gates[(step * G + g) * H + unit] : 0.f;
            const float h_before = widened(states[s.state(direction, before, row) + unit], bf16);
            const float c_before = fresh(cells) ? cells[s.cell(direction, before, row) + unit] : 0.f;
            const float c = fresh(cells) ? cells[s.cell(direction, after, row) + unit] : 0.f;
            const float q = fresh(side) ? side[step * H + unit] : 0.f;
            float dc_now = fresh(cells) ? dc[carried] : 0.f;
            out = by_mode(gate, dh, h_before, c_before, c, q, dc_now);
            if (fresh(cells)) dc[carried] = dc_now;
        }
        direct[carried] = out.direct;
#pragma unroll
        for (int g = 0; g < 4; ++g) {
            if (g < G) d[at + g * H] = narrowed(out.d[g], bf16);
            if (g < G && fresh(d_hidden)) d_hidden[at + g * H] = narrowed(g == 2 ? out.d_hidden : out.d[g], bf16);
        }
    }
};

// The step-th step, counted as forward: seq_len - 1 comes first, and -1, last, gives dh0.
extern "C" __global__ void __launch_bounds__(THREADS)
    back(const uint4* arranged, const float* gates, const u16* states, const float* cells, const float* side,
         const int* lengths, const u16* dy, float* direct, float* dc, u16* d, u16* d_hidden, u16* dh0, i64 batch,
         i64 seq_len, i64 hidden, i64 slots, i64 directions, i64 step, i64 mode, i64 bf16) {
    typedef Product<UNITS> Tile;
    float* sums = (float*)shared;
    const Sizes s = {batch, seq_len, hidden, slots};
    const i64 direction = blockIdx.z, row0 = (i64)blockIdx.y * ROWS;
    const int depth = (int)(gates_of(mode) * hidden), Q = (depth + 7) / 8 * 8;
    const int local_unit = threadIdx.x % UNITS, warp = threadIdx.x / 32, chunks = (depth + 255) / 256;
    const i64 unit = (i64)blockIdx.x * UNITS + local_unit;
    const bool follows = step + 1 < seq_len;
    if (follows) {
        const int k = warp * chunks * 32 + threadIdx.x % 4 * 8;
        const u16* v = (d_hidden ? d_hidden : d) + s.step(direction, s.time(direction, step + 1), row0) * Q;
        const uint4* w = arranged + ((direction * gridDim.x + blockIdx.x) * WARPS + warp) * chunks * Tile::TILES * 32 +
                         threadIdx.x % 32;
        Tile product;
        product.run(sums, v, Q, (int)min(batch - row0, (i64)ROWS), k, w, chunks, bf16);
    }
    const Backward b = {gates, states, cells, side, lengths, dy, direct, dc, d, d_hidden, s, directions, mode, bf16 != 0};
#pragma unroll 1
    for (int r = threadIdx.x / UNITS; r < ROWS; r += 16) {
        const i64 row = row0 + r;
        if (row >= batch || unit >= hidden) continue;
        const i64 carried = (direction * batch + row) * hidden + unit;
        const float dh = direct[carried] + (fresh(follows) ? Tile::add_up(sums, r, local_unit) : 0.f);
        if (fresh(step < 0)) dh0[carried] = narrowed(dh, bf16);
        else b.unit(direction, row, unit, s.time(direction, step), dh);
    }
}

// States and cells before the first step, from h0 and c0; of the gradients, likewise, direct and dc from dh_n and dc_n.
extern "C" __global__ void begin(const u16* h0, const u16* c0, u16* states, float* cells, i64 batch, i64 seq_len,
                                 i64 hidden, i64 slots, i64 directions, i64 bf16) {
    const Sizes s = {batch, seq_len, hidden, slots};
    const i64 direction = blockIdx.z, slot = direction ? s.slot(seq_len) : 0;
    const i64 unit = (i64)blockIdx.x * blockDim.x + threadIdx.x;
#pragma unroll 1
    for (i64 row = blockIdx.y; row < batch && unit < hidden; row += gridDim.y) {
        const i64 from = (direction * batch + row) * hidden + unit;
        states[s.state(direction, slot, row) + unit] = h0[from];
        if (fresh(c0)) cells[s.cell(direction, slot, row) + unit] = widened(c0[from], bf16);
    }
}

extern "C" __global__ void end(const u16* states, const float* cells, u16* h_n, u16* c_n, i64 batch, i64 seq_len,
                               i64 hidden, i64 slots, i64 directions, i64 bf16) {
    const Sizes s = {batch, seq_len, hidden, slots};
    const i64 direction = blockIdx.z, slot = direction ? 0 : s.slot(seq_len);
    const i64 unit = (i64)blockIdx.x * blockDim.x + threadIdx.x;
#pragma unroll 1
    for (i64 row = blockIdx.y; row < batch && unit < hidden; row += gridDim.y) {
        const i64 to = (direction * batch + row) * hidden + unit;
        h_n[to] = states[s.state(direction, slot, row) + unit];
        if (fresh(c_n)) c_n[to] = narrowed(cells[s.cell(direction, slot, row) + unit], bf16);
    }
}

#define STEPS(CELL, MODE)                                                                                                extern "C" __global__ void __launch_bounds__(THREADS)                                                                    steps_##CELL(const uint4* arranged, float* gates, const u16* b_ih, const u16* b_hh, u16* states,                                  float* cells, float* side, const int* lengths, u16* y, u32* arrived, i64 batch, i64 seq_len,                         i64 hidden, i64 slots, i64 directions, i64 keep, i64 from, i64 to, i64 resident, i64 bf16,                           i64 relu) {                                                                                             steps<MODE>(arranged, gates, b_ih, b_hh, states, cells, side, lengths, y, arrived,                                               Sizes{batch, seq_len, hidden, slots}, (int)directions, keep, from, to, resident, bf16, relu);        }
STEPS(rnn, RNN_TANH)
STEPS(lstm, LSTM)
STEPS(gru, GRU_AFTER)
