// Idea: a block copies the input of its tile into shared memory as it is, all of it under way at once; interpolates those
//   rows along x, once, into shared memory; along y every output row then takes its taps from there.
// Source: ours; separable filtering.
// Shapes: as upsample_resize_naive.cu; an output row is whole words of 16 bytes.
// Plan: a tile is ROWS x `width` outputs of a plane, width a multiple of a word's elements and at most 128, for which a
//   block has 2 width threads: images that are no multiple of 128 wide are cut into equal parts, so that no thread idles.
//   Along x a thread keeps one column, its weights and places in registers, and goes down every second input row. Along
//   y it has one word of RUN rows, and a window of taps rows that slides: each row is read once a run.
// Numerics: as naive: along x first, then along y, f32.
// Limits: axes below 2^22; at most 65535 planes; the input of a tile must fit in shared memory, raw and interpolated, so
//   images grow, or shrink little.
#include "upsample_tile.cuh"

static constexpr int ROWS = 64, MOST_THREADS = 256;

// A column's way down every second row of the raw input.
template <typename T, int TAPS> struct Column {
    const T* at[TAPS];
    float weight[TAPS];
    float* held;
    int raw_step, held_step;

    // COUNT rows, interpolated along x: all are loaded before the first is stored.
    template <int COUNT> __device__ __forceinline__ void interpolate() {
        float sum[COUNT];
#pragma unroll
        for (int r = 0; r < COUNT; ++r) {
#pragma unroll
            for (int k = 0; k < TAPS; ++k) {
                const float pixel = to_float(*at[k]);
                sum[r] = k == 0 ? weight[0] * pixel : fmaf(weight[k], pixel, sum[r]);
                at[k] += raw_step;
            }
        }
#pragma unroll
        for (int r = 0; r < COUNT; ++r, held += held_step) *held = sum[r];
    }
};

template <typename T, int TAPS>
__device__ __forceinline__ void along_x(const Raw<T>& raw, const Taps& t, int width, int column, const Axis& x_axis) {
    constexpr int AT_ONCE = 4;
    const int pitch = raw.words * Raw<T>::N, odd = (int)threadIdx.y;
    Column<T, TAPS> mine;
#pragma unroll
    for (int k = 0; k < TAPS; ++k) {
        mine.at[k] = raw.at + odd * pitch + t.at(k, x_axis) - raw.left;
        mine.weight[k] = t.weight[k];
    }
    mine.held = held_rows + odd * width + column;
    mine.raw_step = 2 * pitch;
    mine.held_step = 2 * width;
    int r = odd;
#pragma unroll 1
    for (; r + 2 * (AT_ONCE - 1) < raw.rows; r += 2 * AT_ONCE) mine.template interpolate<AT_ONCE>();
#pragma unroll 1
    for (; r < raw.rows; r += 2) mine.template interpolate<1>();
}

template <int TAPS> struct RowTaps {
    int base;
    float weight[TAPS];
};

template <typename T, int TAPS>
__device__ __forceinline__ void tile(const T* __restrict__ input, T* __restrict__ output, const Axis& y_axis,
                                     const Axis& x_axis, int words, int most_rows) {
    constexpr int N = Raw<T>::N, RUN = ROWS / (2 * N);
    __shared__ RowTaps<TAPS> row_taps[ROWS];
    const int width = (int)blockDim.x, thread = thread_of(width), column0 = (int)blockIdx.x * width;
    const int row0 = (int)blockIdx.y * ROWS, last = min(row0 + ROWS, y_axis.output) - 1;
    const int top = taps(row0, y_axis, TAPS).base, rows = taps(last, y_axis, TAPS).base + TAPS - top;
    const int left = taps(column0, x_axis, TAPS).at(0, x_axis) / N * N;
    const Raw<T> raw{(T*)(held_rows + most_rows * width), top, rows, left, words};
    raw.fetch(input + (i64)blockIdx.z * y_axis.input * x_axis.input, y_axis.input, x_axis.input, thread, 2 * width);
    for (int i = thread; i < ROWS; i += 2 * width) {
        const Taps t = taps(row0 + i, y_axis, TAPS);
        row_taps[i].base = t.base - top;
#pragma unroll
        for (int k = 0; k < TAPS; ++k) row_taps[i].weight[k] = t.weight[k];
    }
    const int column = (int)threadIdx.x;
    const Taps column_taps = taps(column0 + column, x_axis, TAPS);
    copies_wait<0>();
    __syncthreads();
    if (column0 + column < x_axis.output) along_x<T, TAPS>(raw, column_taps, width, column, x_axis);
    __syncthreads();
    const Run run(width, N);
    const int word = run.word, from = run.number * RUN;
    if (column0 + word >= x_axis.output) return;
    uint4* to = (uint4*)(output + ((i64)blockIdx.z * y_axis.output + row0 + from) * x_axis.output + column0 + word);
    float window[TAPS][N];
    int next = row_taps[from].base;
#pragma unroll 1
    for (int i = from; i < min(from + RUN, last + 1 - row0); ++i, to += x_axis.output / N) {
        const RowTaps<TAPS>& t = row_taps[i];
        // Slides by as many rows as are new: all at first, one in two at scale 2.
#pragma unroll 1
        for (; next < t.base + TAPS; ++next) {
#pragma unroll
            for (int k = 0; k + 1 < TAPS; ++k)
#pragma unroll
                for (int e = 0; e < N; ++e) window[k][e] = window[k + 1][e];
#pragma unroll
            for (int e = 0; e < N; e += 4)
                *(float4*)&window[TAPS - 1][e] = *(const float4*)&held_rows[next * width + word + e];
        }
        float sum[N];
#pragma unroll
        for (int e = 0; e < N; ++e) {
            sum[e] = t.weight[0] * window[0][e];
#pragma unroll
            for (int k = 1; k < TAPS; ++k) sum[e] = fmaf(t.weight[k], window[k][e], sum[e]);
        }
        __stcs(to, word_of(sum, T()));
    }
}

#define STAGED(T, name, TAPS)                                                                                         \
    extern "C" __global__ void __launch_bounds__(MOST_THREADS)                                                        \
        staged_##name##_##TAPS(const T* input, T* output, i64 planes, i64 in_h, i64 in_w, i64 out_h, i64 out_w,       \
                               float step_h, float step_w, float half, float shift, i64 words, i64 most_rows) {       \
        tile<T, TAPS>(input, output, {(int)in_h, (int)out_h, step_h, half, shift},                                    \
                      {(int)in_w, (int)out_w, step_w, half, shift}, (int)words, (int)most_rows);                      \
    }
STAGED(float, f32, 2)
STAGED(float, f32, 4)
STAGED(__half, f16, 2)
STAGED(__half, f16, 4)
STAGED(__nv_bfloat16, bf16, 2)
STAGED(__nv_bfloat16, bf16, 4)
