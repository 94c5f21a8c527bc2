// Idea: every output pixel asks its own window whether the maximum was here: the output is written once, no zeros
//       before; the gradient reads four places a thread.
// Source: ours.
// Shapes: as upsample_unpool_naive.cu; small [planes, height, width], large [planes, height · k, width · k].
// Plan: `unpool`: a thread a window: it reads one value and one index and writes the window's k rows of k pixels, its
//       neighbours the columns beside it. `fetch`: four values a thread, loads before stores.
// Numerics: a copy.
// Limits: unpool: each index lies in its own window, k is 2. Fewer than 2^31 pooled values.
#include "numeric.cuh"

// K pixels of one element type as a single word, where there is one.
template <typename Element, int K> struct Line;
template <> struct Line<u32, 2> { typedef uint2 Type; };
template <> struct Line<unsigned short, 2> { typedef u32 Type; };

template <typename Element, int K>
__device__ __forceinline__ void unpool(const Element* __restrict__ input, const i64* __restrict__ indices,
                                       typename Line<Element, K>::Type* __restrict__ output, i64 planes, u32 height,
                                       u32 width) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= planes * height * width) return;
    const u32 line = i / width, plane = line / height, x = i - line * width, y = line - plane * height;
    const Element value = __ldcs(input + i);
    const i64 place = __ldcs(indices + i);
#pragma unroll
    for (int row = 0; row < K; ++row) {
        union {
            typename Line<Element, K>::Type word;
            Element element[K];
        } out;
        const i64 first = ((i64)y * K + row) * width * K + (i64)x * K;
#pragma unroll
        for (int column = 0; column < K; ++column) out.element[column] = first + column == place ? value : Element(0);
        __stcs(output + ((i64)line * K + row) * width + x, out.word);
    }
}

template <typename Element>
__device__ __forceinline__ void fetch(const Element* __restrict__ d_output, const i64* __restrict__ indices,
                                      Element* __restrict__ d_input, i64 planes, i64 small, i64 large) {
    constexpr int N = 4;
    const u32 first = blockIdx.x * blockDim.x * N + threadIdx.x;
    Element held[N];
#pragma unroll
    for (int k = 0; k < N; ++k) {
        const u32 i = first + k * blockDim.x;
        if (i < planes * small) held[k] = __ldg(d_output + (i64)(i / (u32)small) * large + __ldcs(indices + i));
    }
#pragma unroll
    for (int k = 0; k < N; ++k) {
        const u32 i = first + k * blockDim.x;
        if (i < planes * small) d_input[i] = held[k];
    }
}

#define UNPOOL(Element, bytes, K)                                                                                     \
    extern "C" __global__ void unpool_k##K##_##bytes(const Element* input, const i64* indices,                        \
                                                     Line<Element, K>::Type* output, i64 planes, i64 height,          \
                                                     i64 width) {                                                     \
        unpool<Element, K>(input, indices, output, planes, (u32)height, (u32)width);                                  \
    }
UNPOOL(u32, 4, 2)
UNPOOL(unsigned short, 2, 2)

#define FETCH(Element, bytes)                                                                                         \
    extern "C" __global__ void fetch_##bytes(const Element* d_output, const i64* indices, Element* d_input,           \
                                             i64 planes, i64 small, i64 large) {                                      \
        fetch(d_output, indices, d_input, planes, small, large);                                                      \
    }
FETCH(u32, 4)
FETCH(unsigned short, 2)
