// What all recurrent kernels share: the cells, unit by unit, and where states lie.
//
// Arrays, for D directions, T steps, B sequences, H units, G gates:
//   gates  [D, T, B, G*H] f32   what x gives to the gates, W_ih*x; overwritten by the gates' values for the way back
//   states [D, S, B, P]         states as stored, P = H rounded up to a multiple of 8, S slots: 2 or T + 1
//   cells  [D, S, B, H] f32     the LSTM's cells in the same slots
//   side   [D, T, B, H] f32     the GRU's W_hn*h + b_hn, for the way back
// Before step t direction 0 reads slot t and direction 1, which runs backwards, slot t + 1 (mod S); each writes the
// other one. So before-states of all steps lie one behind the other, from slot `direction`.
#pragma once
#include "numeric.cuh"

enum Mode { RNN_TANH, RNN_RELU, LSTM, GRU_AFTER, GRU_BEFORE };

__device__ constexpr int gates_of(i64 mode) { return mode == LSTM ? 4 : mode >= GRU_AFTER ? 3 : 1; }

struct Sizes {
    i64 batch, seq_len, hidden, slots;

    __device__ __forceinline__ i64 stride() const { return (hidden + 7) / 8 * 8; }
    // The time of the s-th step of a direction.
    __device__ __forceinline__ i64 time(i64 direction, i64 s) const { return direction ? seq_len - 1 - s : s; }
    // A slot of two that are used in turn, or of T + 1 that are kept.
    __device__ __forceinline__ i64 slot(i64 n) const { return slots == 2 ? n & 1 : n; }
    __device__ __forceinline__ i64 slot_before(i64 direction, i64 t) const { return slot(t + direction); }
    __device__ __forceinline__ i64 slot_after(i64 direction, i64 t) const { return slot(t + 1 - direction); }
    // First element of a sequence's state and cell in a slot.
    __device__ __forceinline__ i64 state(i64 direction, i64 slot, i64 row) const {
        return ((direction * slots + slot) * batch + row) * stride();
    }
    __device__ __forceinline__ i64 cell(i64 direction, i64 slot, i64 row) const {
        return ((direction * slots + slot) * batch + row) * hidden;
    }
    // Number of a step of a sequence in arrays over directions, steps and sequences.
    __device__ __forceinline__ i64 step(i64 direction, i64 t, i64 row) const {
        return (direction * seq_len + t) * batch + row;
    }
};

__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.f, 1.f + __expf(-x)); }
// tanh by the same means: an absolute error of a few 2^-24, where tanhf has a relative one and takes a page of PTX.
__device__ __forceinline__ float tangent(float x) { return 2.f * sigmoid(2.f * x) - 1.f; }

// New state and cell of one unit. `x` and `h_part` are what x and the state give to each gate, biases included; on
// return `x` holds the gates' values.
template <int MODE>
__device__ __forceinline__ float forward_unit(float (&x)[4], const float (&h_part)[4], float h, float& c) {
    if (MODE == RNN_TANH || MODE == RNN_RELU) {
        const float p = x[0] + h_part[0];
        return x[0] = MODE == RNN_TANH ? tangent(p) : max_or_nan(p, 0.f);
    }
    if (MODE == LSTM) {
        x[0] = sigmoid(x[0] + h_part[0]);
        x[1] = sigmoid(x[1] + h_part[1]);
        x[2] = tangent(x[2] + h_part[2]);
        x[3] = sigmoid(x[3] + h_part[3]);
        c = x[1] * c + x[0] * x[2];
        return x[3] * tangent(c);
    }
    x[0] = sigmoid(x[0] + h_part[0]);
    x[1] = sigmoid(x[1] + h_part[1]);
    x[2] = tangent(x[2] + (MODE == GRU_AFTER ? x[0] : 1.f) * h_part[2]);
    return (1.f - x[1]) * x[2] + x[1] * h;
}

// Gradients of one unit: of what x gave to the gates (d), of what the state gave to the GRU's candidate (d_hidden, the
// other gates' are d), of the state before by way of the update gate alone, and dc to the cell before.
struct Gradient {
    float d[4], d_hidden, direct;
};
template <int MODE>
__device__ __forceinline__ Gradient backward_unit(const float (&gate)[4], float dh, float h_before, float c_before,
                                                  float c, float side, float& dc) {
    Gradient out = {};
    if (MODE == RNN_TANH) out.d[0] = dh * (1.f - gate[0] * gate[0]);
    if (MODE == RNN_RELU) out.d[0] = gate[0] <= 0.f ? 0.f : dh;  // a unit that is NaN passes dh on
    if (MODE == LSTM) {
        const float i = gate[0], f = gate[1], g = gate[2], o = gate[3], tc = tangent(c);
        dc += dh * o * (1.f - tc * tc);
        out.d[0] = dc * g * (i * (1.f - i));
        out.d[1] = dc * c_before * (f * (1.f - f));
        out.d[2] = dc * i * (1.f - g * g);
        out.d[3] = dh * tc * (o * (1.f - o));
        dc *= f;
    }
    if (MODE == GRU_AFTER || MODE == GRU_BEFORE) {
        const float r = gate[0], z = gate[1], n = gate[2];
        out.d[1] = dh * (h_before - n) * (z * (1.f - z));
        out.d[2] = dh * (1.f - z) * (1.f - n * n);
        out.d[0] = out.d[2] * side * (r * (1.f - r));  // reset after; before, the candidate's product comes first
        out.d_hidden = out.d[2] * r;
        out.direct = dh * z;
    }
    return out;
}
