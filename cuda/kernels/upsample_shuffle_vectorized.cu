// Idea: 16 bytes of a large row are 16/r bytes of r small rows, interleaved in registers: all accesses are wide.
// Source: ours.
// Shapes: as upsample_shuffle_naive.cu; a large row is `words` 16-byte words.
// Plan: `lanes` neighbouring threads (a power of two <= 256) share ROWS large rows; a thread loads the parts of all
//       its rows before it stores any, so that ROWS · 16 bytes are in flight a thread.
// Numerics: a copy.
// Limits: r = 2 or 4; width · r · size must be whole 16-byte words; rows and small planes below 2^31.
#include "numeric.cuh"

// More rows in flight do not pay: 4013 GB/s with one row, 3997 with two, 3948 with four (f32 on an H200).
static constexpr int ROWS = 1;

// A part is 16/R bytes; Element is 2 or 4 bytes.
template <int R> struct Part;
template <> struct Part<2> { typedef uint2 Type; };
template <> struct Part<4> { typedef u32 Type; };

// Where the parts of word `word` of large row `row` lie among the parts of the small image: the first, and from each
// to the next.
template <int R> struct PartsAt {
    i64 first;
    u32 step;

    __device__ __forceinline__ PartsAt(u32 row, u32 height, u32 words, u32 word) : step(height * words) {
        const u32 line = row / R, image = line / height, h = line - image * height;
        first = ((i64)image * R + row % R) * R * step + h * words + word;
    }
};

template <int R, typename Element> union Word {
    uint4 word;
    Element element[16 / sizeof(Element)];
};

template <int R, typename Element> union Parts {
    typename Part<R>::Type part[R];
    Element element[R][16 / R / sizeof(Element)];
};

template <int R, typename Element>
__device__ __forceinline__ void shuffle(const typename Part<R>::Type* __restrict__ small, uint4* __restrict__ large,
                                        u32 rows, u32 height, u32 words, int lanes) {
    const u32 per_block = blockDim.x / lanes;
    const u32 first = blockIdx.x * per_block * ROWS + threadIdx.x / lanes;
#pragma unroll 1
    for (u32 word = threadIdx.x % lanes; word < words; word += lanes) {
        Parts<R, Element> held[ROWS];
#pragma unroll
        for (int k = 0; k < ROWS; ++k) {
            const u32 row = first + k * per_block;
            const PartsAt<R> at(row, height, words, word);
#pragma unroll
            for (int j = 0; j < R; ++j)
                if (row < rows) held[k].part[j] = __ldcs(small + at.first + (i64)j * at.step);
        }
#pragma unroll
        for (int k = 0; k < ROWS; ++k) {
            const u32 row = first + k * per_block;
            Word<R, Element> out;
#pragma unroll
            for (int e = 0; e < 16 / (int)sizeof(Element); ++e) out.element[e] = held[k].element[e % R][e / R];
            if (row < rows) __stcs(large + (i64)row * words + word, out.word);
        }
    }
}

template <int R, typename Element>
__device__ __forceinline__ void unshuffle(const uint4* __restrict__ large, typename Part<R>::Type* __restrict__ small,
                                          u32 rows, u32 height, u32 words, int lanes) {
    const u32 per_block = blockDim.x / lanes;
    const u32 first = blockIdx.x * per_block * ROWS + threadIdx.x / lanes;
#pragma unroll 1
    for (u32 word = threadIdx.x % lanes; word < words; word += lanes) {
        Word<R, Element> held[ROWS];
#pragma unroll
        for (int k = 0; k < ROWS; ++k) {
            const u32 row = first + k * per_block;
            if (row < rows) held[k].word = __ldcs(large + (i64)row * words + word);
        }
#pragma unroll
        for (int k = 0; k < ROWS; ++k) {
            const u32 row = first + k * per_block;
            Parts<R, Element> out;
#pragma unroll
            for (int e = 0; e < 16 / (int)sizeof(Element); ++e) out.element[e % R][e / R] = held[k].element[e];
            const PartsAt<R> at(row, height, words, word);
#pragma unroll
            for (int j = 0; j < R; ++j)
                if (row < rows) __stcs(small + at.first + (i64)j * at.step, out.part[j]);
        }
    }
}

#define SHUFFLE(R, Element, bytes)                                                                                    \
    extern "C" __global__ void __launch_bounds__(256)                                                                 \
        shuffle_r##R##_##bytes(const Part<R>::Type* small, uint4* large, i64 rows, i64 height, i64 words,             \
                               int lanes) {                                                                           \
        shuffle<R, Element>(small, large, (u32)rows, (u32)height, (u32)words, lanes);                                 \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(256)                                                                 \
        unshuffle_r##R##_##bytes(const uint4* large, Part<R>::Type* small, i64 rows, i64 height, i64 words,           \
                                 int lanes) {                                                                         \
        unshuffle<R, Element>(large, small, (u32)rows, (u32)height, (u32)words, lanes);                               \
    }
SHUFFLE(2, u32, 4)
SHUFFLE(4, u32, 4)
SHUFFLE(2, unsigned short, 2)
SHUFFLE(4, unsigned short, 2)
