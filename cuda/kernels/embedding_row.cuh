// Table rows as 16-byte words and as floats.
#pragma once
#include "numeric.cuh"

typedef signed char i8;

__device__ __forceinline__ float to_float(i8 x) { return (float)x; }

// Below every value: the maximum of nothing.
__device__ __forceinline__ float minus_infinity() { return __int_as_float((int)0xff800000u); }

// What is read from a table of T: T itself, and float for int8.
template <typename T> struct Output { typedef T type; };
template <> struct Output<i8> { typedef float type; };

template <typename T> static constexpr int PER_WORD = 16 / sizeof(T);

// The elements of a 16-byte word.
template <typename T> __device__ __forceinline__ void unpack(const uint4& word, float (&x)[PER_WORD<T>]) {
    const T* elements = reinterpret_cast<const T*>(&word);
#pragma unroll
    for (int e = 0; e < PER_WORD<T>; ++e) x[e] = to_float(elements[e]);
}

// N floats rounded to Out and stored as 16-byte words; `to` is 16-byte aligned.
template <typename Out, int N> __device__ __forceinline__ void store_words(Out* to, const float (&x)[N]) {
    constexpr int WORDS = N * sizeof(Out) / 16, EACH = N / WORDS;
#pragma unroll
    for (int w = 0; w < WORDS; ++w) {
        uint4 word;
        Out* elements = reinterpret_cast<Out*>(&word);
#pragma unroll
        for (int e = 0; e < EACH; ++e) elements[e] = from_float<Out>(x[w * EACH + e]);
        reinterpret_cast<uint4*>(to)[w] = word;
    }
}
