// The linear recurrence in both directions as one scan over s = 0, 1, ...: factor(s) and added(s) in, the
// scanned value out. Forward, s is t. Backward, s counts from the end: g_t = dh_t + conj(a_{t+1})*g_{t+1}.
#pragma once
#include "ssm.cuh"

template <typename T, bool Backward> struct Recurrence {
    typedef typename Number<T>::V V;
    const T* a;        // [batch, seq_len, channels]
    const T* x;        // the same: x forward, dh backward
    const T* states;   // the same: h, backward only
    const V* initial;  // [batch, channels] or null
    T* out;            // h forward, dx backward
    T* da;             // backward only
    V* dinitial;       // [batch, channels] or null, backward only
    i64 batch, seq_len, channels;

    // Index of step s; step s + 1 stands `stride` further.
    __device__ __forceinline__ i64 at(i64 b, i64 s, i64 c) const {
        return (b * seq_len + (Backward ? seq_len - 1 - s : s)) * channels + c;
    }
    __device__ __forceinline__ i64 stride() const { return Backward ? -channels : channels; }
    __device__ __forceinline__ V factor(i64 i, bool first) const {
        if (!Backward) return Number<T>::load(a + i);
        return first ? zero<V>() : conj(Number<T>::load(a + i + channels));
    }
    __device__ __forceinline__ V added(i64 i) const { return Number<T>::load(x + i); }
    __device__ __forceinline__ V start(i64 b, i64 c) const {
        return Backward || !initial ? zero<V>() : initial[b * channels + c];
    }
    __device__ __forceinline__ void finish(i64 i, bool last, i64 b, i64 c, V value) const {
        Number<T>::store(out + i, value);
        if (!Backward) return;
        V before = zero<V>();
        if (!last) before = Number<T>::load(states + i - channels);
        else if (initial) before = initial[b * channels + c];
        Number<T>::store(da + i, times(value, conj(before)));
        if (last && dinitial) dinitial[b * channels + c] = times(conj(Number<T>::load(a + i)), value);
    }
};

// Entry points of a variant: BODY is a device function template <typename T, bool Backward> that takes a
// Recurrence and EXTRA. Complex numbers are float2.
#define RECURRENCE_KERNELS(BODY, THREADS, SUFFIX, T, EXTRA_PARAMETERS, EXTRA)                                  \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                      \
        forward_##SUFFIX(const T* a, const T* x, const Number<T>::V* initial, T* h, i64 batch, i64 seq_len,    \
                         i64 channels EXTRA_PARAMETERS) {                                                      \
        const Recurrence<T, false> scan = {a,       x,       nullptr, initial, h,                              \
                                           nullptr, nullptr, batch,   seq_len, channels};                      \
        BODY<T, false>(scan EXTRA);                                                                            \
    }                                                                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                      \
        backward_##SUFFIX(const T* a, const T* states, const Number<T>::V* initial, const T* dh, T* dx, T* da, \
                          Number<T>::V* dinitial, i64 batch, i64 seq_len, i64 channels EXTRA_PARAMETERS) {     \
        const Recurrence<T, true> scan = {a,  dh,       states, initial, dx,                                   \
                                          da, dinitial, batch,  seq_len, channels};                            \
        BODY<T, true>(scan EXTRA);                                                                             \
    }
