// Idea: every step one launch for the product with the weights and one for the cell, an output a thread, all in f32.
// Source: the definitions (Elman 1990; Hochreiter and Schmidhuber 1997; Cho et al. 2014).
// Shapes: see recurrent.cuh, every array f32. product: C [Z, M, N] = sum over r, k of A [Z, R, M, K] * B [Z, R, N, K],
//         by strides. h_part [D, B, G*H]; dpx, dph [D, T, B, Q], Q = G*H rounded up to 8; direct, through, dc, of_held
//         [D, B, H]; held [D, T, B, P].
// Plan: widen what is stored in 16 bits. Forward: begin; the product of all x; per step the product of the state and
//       the cell; end. The GRU that resets before its product takes both twice. Backward: forward with every state
//       kept, then per step cell_back and the product that carries gradients on; sums over all steps for the weights
//       at the end.
// Numerics: f32; states, and gradients before the nonlinearities, are rounded to the storage type as they are kept.
// Limits: none but time and memory: each product reads both operands from the cache for every output.
#include "recurrent.cuh"

// x as a storage type keeps it: 0 f32, 1 f16, 2 bf16.
__device__ __forceinline__ float stored(float x, i64 type) {
    if (type == 1) return to_float(from_float<__half>(x));
    if (type == 2) return to_float(from_float<__nv_bfloat16>(x));
    return x;
}

// The unit of this thread, over directions, sequences and units (fewer than 2^31 in all).
struct Unit {
    i64 direction, row, unit, index;
    bool inside;
    __device__ __forceinline__ Unit(const Sizes& s, i64 directions) {
        const u32 i = blockIdx.x * blockDim.x + threadIdx.x, hidden = (u32)s.hidden, batch = (u32)s.batch;
        index = i;
        inside = index < directions * s.batch * s.hidden;
        if (!inside) return;
        unit = i % hidden;
        row = i / hidden % batch;
        direction = i / hidden / batch;
    }
};

#define SIZES i64 batch, i64 seq_len, i64 hidden, i64 slots, i64 directions
#define UNIT                                                                                                         \
    const Sizes s = {batch, seq_len, hidden, slots};                                                                 \
    const Unit u(s, directions);                                                                                     \
    if (!u.inside) return

template <typename T> __device__ __forceinline__ void widen(const T* from, float* to, i64 count) {
    const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) to[i] = to_float(from[i]);
}
template <typename T> __device__ __forceinline__ void narrow(const float* from, T* to, i64 count) {
    const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) to[i] = from_float<T>(from[i]);
}
extern "C" __global__ void widen_f16(const __half* from, float* to, i64 count) { widen(from, to, count); }
extern "C" __global__ void widen_bf16(const __nv_bfloat16* from, float* to, i64 count) { widen(from, to, count); }
extern "C" __global__ void narrow_f16(const float* from, __half* to, i64 count) { narrow(from, to, count); }
extern "C" __global__ void narrow_bf16(const float* from, __nv_bfloat16* to, i64 count) { narrow(from, to, count); }

extern "C" __global__ void product_f32(const float* a, i64 a_batch, i64 a_repeat, i64 a_row, i64 a_k, const float* b,
                                       i64 b_batch, i64 b_repeat, i64 b_col, i64 b_k, float* c, i64 c_batch, i64 c_row,
                                       i64 rows, i64 columns, i64 depth, i64 repeats) {
    const u32 blocks = (u32)((columns + blockDim.x - 1) / blockDim.x);
    const i64 m = blockIdx.x / blocks, n = (i64)(blockIdx.x % blocks) * blockDim.x + threadIdx.x;
    if (m >= rows || n >= columns) return;
    float sum = 0.f;
#pragma unroll 1
    for (i64 r = 0; r < repeats; ++r) {
        const float* left = a + blockIdx.z * a_batch + r * a_repeat + m * a_row;
        const float* right = b + blockIdx.z * b_batch + r * b_repeat + n * b_col;
#pragma unroll 1
        for (i64 k = 0; k < depth; ++k) sum += left[k * a_k] * right[k * b_k];
    }
    c[blockIdx.z * c_batch + m * c_row + n] = sum;
}

// out [D, columns] = the sum of d [D, rows, stride] over rows.
extern "C" __global__ void sum_rows(const float* d, float* out, i64 rows, i64 columns, i64 stride) {
    const i64 n = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (n >= columns) return;
    float sum = 0.f;
#pragma unroll 1
    for (i64 r = 0; r < rows; ++r) sum += d[(blockIdx.z * rows + r) * stride + n];
    out[blockIdx.z * columns + n] = sum;
}

extern "C" __global__ void begin(const float* h0, const float* c0, float* states, float* cells, SIZES) {
    UNIT;
    const i64 slot = u.direction ? s.slot(s.seq_len) : 0;
    states[s.state(u.direction, slot, u.row) + u.unit] = h0[u.index];
    if (c0) cells[s.cell(u.direction, slot, u.row) + u.unit] = c0[u.index];
}

extern "C" __global__ void end(const float* states, const float* cells, float* h_n, float* c_n, SIZES) {
    UNIT;
    const i64 slot = u.direction ? 0 : s.slot(s.seq_len);
    h_n[u.index] = states[s.state(u.direction, slot, u.row) + u.unit];
    if (c_n) c_n[u.index] = cells[s.cell(u.direction, slot, u.row) + u.unit];
}

// The cell by a mode that is known when it runs.
__device__ __forceinline__ float forward_by_mode(i64 mode, float (&x)[4], const float (&part)[4], float h, float& c) {
    switch (mode) {
        case RNN_TANH: return forward_unit<RNN_TANH>(x, part, h, c);
        case RNN_RELU: return forward_unit<RNN_RELU>(x, part, h, c);
        case LSTM: return forward_unit<LSTM>(x, part, h, c);
        case GRU_AFTER: return forward_unit<GRU_AFTER>(x, part, h, c);
    }
    // The gates of a GRU that resets before its product are done already, by `reset`.
    x[2] = tangent(x[2] + part[2]);
    return (1.f - x[1]) * x[2] + x[1] * h;
}

extern "C" __global__ void cell(float* gates, const float* h_part, const float* b_ih, const float* b_hh, float* states,
                                float* cells, float* side, const int* lengths, float* y, SIZES, i64 step, i64 mode,
                                i64 storage) {
    UNIT;
    const i64 t = s.time(u.direction, step), H = s.hidden, G = gates_of(mode);
    const i64 before = s.slot_before(u.direction, t), after = s.slot_after(u.direction, t);
    const bool runs = !lengths || t < lengths[u.row];
    const float held = states[s.state(u.direction, before, u.row) + u.unit];
    float c = cells ? cells[s.cell(u.direction, before, u.row) + u.unit] : 0.f;
    float h = held;
    if (runs) {
        float* gate = gates + s.step(u.direction, t, u.row) * G * H + u.unit;
        const float* hidden_part = h_part + (u.direction * s.batch + u.row) * G * H + u.unit;
        const i64 bias = u.direction * G * H + u.unit;
        float x[4], part[4];
#pragma unroll
        for (int g = 0; g < 4; ++g) {
            const bool done = mode == GRU_BEFORE && g < 2;
            x[g] = g < G ? gate[g * H] : 0.f;
            if (g < G && !done) x[g] += b_ih[bias + g * H];
            part[g] = g < G && !done ? hidden_part[g * H] + b_hh[bias + g * H] : 0.f;
        }
        h = stored(forward_by_mode(mode, x, part, held, c), storage);
#pragma unroll
        for (int g = 0; g < 4; ++g)
            if (g < G) gate[g * H] = x[g];
        if (side) side[s.step(u.direction, t, u.row) * H + u.unit] = part[2];
    }
    states[s.state(u.direction, after, u.row) + u.unit] = h;
    if (cells) cells[s.cell(u.direction, after, u.row) + u.unit] = c;
    y[(t * s.batch + u.row) * directions * H + u.direction * H + u.unit] = runs ? h : 0.f;
}

// The gates r and z of a GRU that resets before its product, and r*h for it.
extern "C" __global__ void reset(float* gates, const float* h_part, const float* b_ih, const float* b_hh,
                                 const float* states, float* held, SIZES, i64 step, i64 storage) {
    UNIT;
    const i64 t = s.time(u.direction, step), H = s.hidden, bias = u.direction * 3 * H + u.unit;
    float* gate = gates + s.step(u.direction, t, u.row) * 3 * H + u.unit;
    const float* hidden_part = h_part + (u.direction * s.batch + u.row) * 3 * H + u.unit;
#pragma unroll
    for (int g = 0; g < 2; ++g) {
        const float x = gate[g * H] + b_ih[bias + g * H];
        gate[g * H] = sigmoid(x + (hidden_part[g * H] + b_hh[bias + g * H]));
    }
    const float h = states[s.state(u.direction, s.slot_before(u.direction, t), u.row) + u.unit];
    held[s.step(u.direction, t, u.row) * s.stride() + u.unit] = stored(gate[0] * h, storage);
}

extern "C" __global__ void begin_back(const float* dh_n, const float* dc_n, float* direct, float* through, float* dc,
                                      i64 count) {
    const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    direct[i] = dh_n[i];
    through[i] = 0.f;
    if (dc_n) dc[i] = dc_n[i];
}

extern "C" __global__ void end_back(const float* direct, const float* through, const float* dc, float* dh0, float* dc0,
                                    i64 count) {
    const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    dh0[i] = direct[i] + through[i];
    if (dc0) dc0[i] = dc[i];
}

__device__ __forceinline__ Gradient backward_by_mode(i64 mode, const float (&gate)[4], float dh, float h_before,
                                                     float c_before, float c, float side, float& dc) {
    switch (mode) {
        case RNN_TANH: return backward_unit<RNN_TANH>(gate, dh, h_before, c_before, c, side, dc);
        case RNN_RELU: return backward_unit<RNN_RELU>(gate, dh, h_before, c_before, c, side, dc);
        case LSTM: return backward_unit<LSTM>(gate, dh, h_before, c_before, c, side, dc);
    }
    return backward_unit<GRU_AFTER>(gate, dh, h_before, c_before, c, side, dc);
}

extern "C" __global__ void cell_back(const float* gates, const float* states, const float* cells, const float* side,
                                     const int* lengths, const float* dy, float* direct, const float* through,
                                     float* dc, float* dpx, float* dph, SIZES, i64 step, i64 mode, i64 storage) {
    UNIT;
    const i64 t = s.time(u.direction, step), H = s.hidden, G = gates_of(mode), row = s.step(u.direction, t, u.row);
    const i64 at = row * ((G * H + 7) / 8 * 8) + u.unit;
    float dh = direct[u.index] + through[u.index];
    Gradient out = {};
    out.direct = dh;
    if (!lengths || t < lengths[u.row]) {
        dh += dy[(t * s.batch + u.row) * directions * H + u.direction * H + u.unit];
        const i64 before = s.slot_before(u.direction, t), after = s.slot_after(u.direction, t);
        float gate[4];
#pragma unroll
        for (int g = 0; g < 4; ++g) gate[g] = g < G ? gates[row * G * H + g * H + u.unit] : 0.f;
        const float h_before = states[s.state(u.direction, before, u.row) + u.unit];
        const float c_before = cells ? cells[s.cell(u.direction, before, u.row) + u.unit] : 0.f;
        const float c = cells ? cells[s.cell(u.direction, after, u.row) + u.unit] : 0.f;
        const float q = side ? side[row * H + u.unit] : 0.f;
        float carried = cells ? dc[u.index] : 0.f;
        out = backward_by_mode(mode, gate, dh, h_before, c_before, c, q, carried);
        if (cells) dc[u.index] = carried;
    }
    direct[u.index] = out.direct;
#pragma unroll
    for (int g = 0; g < 4; ++g) {
        if (g < G) dpx[at + g * H] = stored(out.d[g], storage);
        if (g < G && dph) dph[at + g * H] = stored(g == 2 ? out.d_hidden : out.d[g], storage);
    }
}

// The gradient of the reset gate and of the state by way of r*h, where the GRU resets before its product.
extern "C" __global__ void reset_back(const float* gates, const float* states, const int* lengths,
                                      const float* of_held, float* direct, float* dpx, SIZES, i64 step, i64 storage) {
    UNIT;
    const i64 t = s.time(u.direction, step), H = s.hidden, row = s.step(u.direction, t, u.row);
    if (lengths && t >= lengths[u.row]) return;
    const float r = gates[row * 3 * H + u.unit];
    const float h = states[s.state(u.direction, s.slot_before(u.direction, t), u.row) + u.unit];
    dpx[row * ((3 * H + 7) / 8 * 8) + u.unit] = stored(of_held[u.index] * h * (r * (1.f - r)), storage);
    direct[u.index] += of_held[u.index] * r;
}
