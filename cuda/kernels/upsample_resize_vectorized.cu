// Idea: four neighbouring outputs a thread, one wide store; input rows, once interpolated along x, serve several output rows.
// Source: ours; separable filtering with a sliding window of rows.
// Shapes: as upsample_resize_naive.cu; an output row is whole words of four elements.
// Plan: `lanes` neighbouring threads (a power of two <= 256) share RUN output rows of a plane; a thread holds the
//       positions of its columns and a window of taps rows already interpolated along x, and loads a new input row
//       only when the window slides: at scale 2 one row in two.
// Numerics: as naive: along x first, then along y, f32; nearest copies.
// Limits: out_w must be a multiple of 4; axes below 2^22; planes · ⌈out_h / RUN⌉ below 2^31.
#include "upsample.cuh"

static constexpr int RUN = 8;

template <int BYTES> struct Word;
template <> struct Word<16> { typedef uint4 Type; };
template <> struct Word<8> { typedef uint2 Type; };

// N columns: where they read and with what weights.
template <typename T, int TAPS, int N> struct Columns {
    int base[N];
    float weight[N][TAPS];

    __device__ __forceinline__ Columns(int first, const Axis& axis) {
#pragma unroll
        for (int i = 0; i < N; ++i) {
            const Taps t = taps(first + i, axis, TAPS);
            base[i] = t.base;
#pragma unroll
            for (int k = 0; k < TAPS; ++k) weight[i][k] = t.weight[k];
        }
    }

    // An input row interpolated along x.
    __device__ __forceinline__ void interpolate(const T* __restrict__ row, int input, int dtype, float (&line)[N]) const {
#pragma unroll
        for (int i = 0; i < N; ++i) {
#pragma unroll
            for (int k = 0; k < TAPS; ++k) {
                const float pixel = value_of(__ldg(row + max(0, min(base[i] + k, input - 1))), dtype);
                line[i] = k == 0 ? weight[i][0] * pixel : fmaf(weight[i][k], pixel, line[i]);
            }
        }
    }
};

// Rows from..to of the columns of one word.
template <typename T, int TAPS, int N>
__device__ __forceinline__ void word_of_rows(const T* __restrict__ plane, T* __restrict__ output, int word, int from,
                                             int to, const Axis& y_axis, const Axis& x_axis, int dtype) {
    typedef typename Word<N * sizeof(T)>::Type Stored;
    const Columns<T, TAPS, N> columns(word * N, x_axis);
    float window[TAPS][N];
    int held = 0, missing = TAPS;
#pragma unroll 1
    for (int y = from; y < to; ++y) {
        const Taps ys = taps(y, y_axis, TAPS);
        if (y > from) missing = min(ys.base - held, TAPS);
        held = ys.base;
#pragma unroll 1
        for (; missing > 0; --missing) {
#pragma unroll
            for (int k = 0; k + 1 < TAPS; ++k)
#pragma unroll
                for (int i = 0; i < N; ++i) window[k][i] = window[k + 1][i];
            const T* row = plane + (i64)ys.at(TAPS - missing, y_axis) * x_axis.input;
            columns.interpolate(row, x_axis.input, dtype, window[TAPS - 1]);
        }
        union {
            Stored stored;
            T element[N];
        } result;
#pragma unroll
        for (int i = 0; i < N; ++i) {
            float sum = ys.weight[0] * window[0][i];
#pragma unroll
            for (int k = 1; k < TAPS; ++k) sum = fmaf(ys.weight[k], window[k][i], sum);
            result.element[i] = rounded<T>(sum, dtype);
        }
        __stcs(reinterpret_cast<Stored*>(output + (i64)y * x_axis.output) + word, result.stored);
    }
}

template <typename T, int TAPS, int N>
__device__ __forceinline__ void resize(const T* __restrict__ input, T* __restrict__ output, i64 planes,
                                       const Axis& y_axis, const Axis& x_axis, int lanes, int dtype) {
    const u32 runs = (y_axis.output + RUN - 1) / RUN;
    const u32 unit = blockIdx.x * (blockDim.x / lanes) + threadIdx.x / lanes;
    if (unit >= planes * runs) return;
    const u32 plane = unit / runs;
    const int from = (int)(unit - plane * runs) * RUN, to = min(from + RUN, y_axis.output);
    const T* source = input + (i64)plane * y_axis.input * x_axis.input;
    T* target = output + (i64)plane * y_axis.output * x_axis.output;
#pragma unroll 1
    for (int word = threadIdx.x % lanes; word < x_axis.output / N; word += lanes)
        word_of_rows<T, TAPS, N>(source, target, word, from, to, y_axis, x_axis, dtype);
}

#define RESIZE(T, name, TAPS)                                                                                         \
    extern "C" __global__ void __launch_bounds__(256)                                                                 \
        resize_##name##_##TAPS(const T* input, T* output, i64 planes, i64 in_h, i64 in_w, i64 out_h, i64 out_w,       \
                               float step_h, float step_w, float half, float shift, int lanes, int dtype) {           \
        resize<T, TAPS, 4>(input, output, planes, {(int)in_h, (int)out_h, step_h, half, shift},                       \
                           {(int)in_w, (int)out_w, step_w, half, shift}, lanes, dtype);                               \
    }
RESIZE(float, f32, 1)
RESIZE(float, f32, 2)
RESIZE(float, f32, 4)
RESIZE(u16, half, 1)
RESIZE(u16, half, 2)
RESIZE(u16, half, 4)
