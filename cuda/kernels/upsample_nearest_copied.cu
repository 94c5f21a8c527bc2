// Idea: nearest copies: bits are moved, not converted, 16 bytes a store.
// Source: ours.
// Shapes: as upsample_resize_naive.cu; an output row is whole words of 16 bytes.
// Plan: `lanes` neighbouring threads (a power of two <= 256) share RUN output rows of a plane; a thread keeps the places
//       its word reads, and reads them anew only where the input row changes.
// Numerics: a copy.
// Limits: axes below 2^22; planes * ceil(out_h / RUN) below 2^31.
#include "upsample.cuh"

static constexpr int RUN = 8;

template <typename Element>
__device__ __forceinline__ void copy(const Element* __restrict__ input, Element* __restrict__ output, i64 planes,
                                     const Axis& y_axis, const Axis& x_axis, int lanes) {
    constexpr int N = 16 / sizeof(Element);
    const u32 runs = (y_axis.output + RUN - 1) / RUN;
    const u32 unit = blockIdx.x * (blockDim.x / lanes) + threadIdx.x / lanes;
    if (unit >= planes * runs) return;
    const u32 plane = unit / runs;
    const int from = (int)(unit - plane * runs) * RUN, to = min(from + RUN, y_axis.output);
    const Element* source = input + (i64)plane * y_axis.input * x_axis.input;
#pragma unroll 1
    for (int word = threadIdx.x % lanes; word < x_axis.output / N; word += lanes) {
        uint4* target = (uint4*)(output + ((i64)plane * y_axis.output + from) * x_axis.output) + word;
        int at[N];
#pragma unroll
        for (int e = 0; e < N; ++e) at[e] = taps(word * N + e, x_axis, 1).base;
        union {
            uint4 stored;
            Element element[N];
        } held;
        int held_row = -1;
#pragma unroll 2
        for (int y = from; y < to; ++y, target += x_axis.output / N) {
            const int row = taps(y, y_axis, 1).base;
            if (row != held_row) {
#pragma unroll
                for (int e = 0; e < N; ++e) held.element[e] = __ldg(source + (i64)row * x_axis.input + at[e]);
            }
            held_row = row;
            __stcs(target, held.stored);
        }
    }
}

#define COPIED(Element, bytes)                                                                                        \
    extern "C" __global__ void __launch_bounds__(256)                                                                 \
        nearest_##bytes(const Element* input, Element* output, i64 planes, i64 in_h, i64 in_w, i64 out_h, i64 out_w,  \
                        float step_h, float step_w, float half, float shift, int lanes) {                             \
        copy<Element>(input, output, planes, {(int)in_h, (int)out_h, step_h, half, shift},                            \
                      {(int)in_w, (int)out_w, step_w, half, shift}, lanes);                                           \
    }
COPIED(u32, 4)
COPIED(u16, 2)
