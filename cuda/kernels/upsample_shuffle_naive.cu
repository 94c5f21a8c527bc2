// Idea: the definition, a thread a pixel of the output.
// Source: Shi et al. 2016, "Real-Time Single Image and Video Super-Resolution", equation 4.
// Shapes: small [images, r, r, height, width], large [images, height · r, width · r]; images = batch · channels.
// Plan: each thread computes where its element comes from and copies 2 or 4 bytes.
// Numerics: a copy.
// Limits: fewer than 2^31 pixels.
#include "numeric.cuh"

template <typename Word>
__device__ __forceinline__ void shuffle(const Word* __restrict__ small, Word* __restrict__ large, int images,
                                        int height, int width, int r) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x, large_w = width * r, large_h = height * r;
    if (i >= images * large_h * large_w) return;
    const int x = i % large_w, y = i / large_w % large_h, image = i / (large_w * large_h);
    large[i] = small[(((image * r + y % r) * r + x % r) * height + y / r) * width + x / r];
}

template <typename Word>
__device__ __forceinline__ void unshuffle(const Word* __restrict__ large, Word* __restrict__ small, int images,
                                          int height, int width, int r) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= images * r * r * height * width) return;
    const int w = i % width, h = i / width % height, part = i / (width * height);
    const int image = part / (r * r), row = part / r % r, column = part % r;
    small[i] = large[(image * height * r + h * r + row) * width * r + w * r + column];
}

#define SHUFFLE(Word, bytes)                                                                                          \
    extern "C" __global__ void shuffle_##bytes(const Word* small, Word* large, i64 images, i64 height, i64 width,     \
                                               i64 r) {                                                               \
        shuffle(small, large, (int)images, (int)height, (int)width, (int)r);                                                              \
    }                                                                                                                 \
    extern "C" __global__ void unshuffle_##bytes(const Word* large, Word* small, i64 images, i64 height, i64 width,   \
                                                 i64 r) {                                                             \
        unshuffle(large, small, (int)images, (int)height, (int)width, (int)r);                                                            \
    }
SHUFFLE(u32, 4)
SHUFFLE(unsigned short, 2)
