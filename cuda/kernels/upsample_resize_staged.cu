// Idea: a block interpolates the input rows of its tile along x once, into shared memory; along y every output row then
//       takes its taps from there. All loads of a tile are under way before the first is needed.
// Source: ours; separable filtering.
// Shapes: as upsample_resize_naive.cu; an output row is whole words of 16 bytes.
// Plan: a tile is ROWS x COLUMNS outputs of a plane. Along x a thread keeps one column: its weights and the places it reads
//       stay in registers while it goes down the input rows, and neighbours read neighbours. Along y a thread has one word
//       of a run of rows, and a window of taps rows that slides: each row in shared memory is read once a run.
// Numerics: as naive: along x first, then along y, f32.
// Limits: axes below 2^22; tiles below 2^31; the input rows of a tile, 512 bytes each, must fit in shared memory, so images
//         grow, or shrink little.
#include "upsample.cuh"

static constexpr int ROWS = 64, COLUMNS = 128, THREADS = 256;

extern __shared__ __align__(16) float held_rows[];

// A word of 16 bytes from its sums.
__device__ __forceinline__ uint4 word_of(const float (&x)[4], float) {
    return make_uint4(__float_as_uint(x[0]), __float_as_uint(x[1]), __float_as_uint(x[2]), __float_as_uint(x[3]));
}
__device__ __forceinline__ uint4 word_of(const float (&x)[8], __half) {
    uint4 word;
    __half2* pair = (__half2*)&word;
#pragma unroll
    for (int i = 0; i < 4; ++i) pair[i] = __floats2half2_rn(x[2 * i], x[2 * i + 1]);
    return word;
}
__device__ __forceinline__ uint4 word_of(const float (&x)[8], __nv_bfloat16) {
    uint4 word;
    __nv_bfloat162* pair = (__nv_bfloat162*)&word;
#pragma unroll
    for (int i = 0; i < 4; ++i) pair[i] = __floats2bfloat162_rn(x[2 * i], x[2 * i + 1]);
    return word;
}

// The input rows from `first` on, interpolated along x at this thread's column.
template <typename T, int TAPS>
__device__ __forceinline__ void along_x(const T* __restrict__ plane, int first, int rows, int column,
                                        const Axis& y_axis, const Axis& x_axis) {
    const Taps t = taps(column, x_axis, TAPS);
    const T* at[TAPS];
#pragma unroll
    for (int k = 0; k < TAPS; ++k) at[k] = plane + t.at(k, x_axis);
#pragma unroll 4
    for (int r = threadIdx.x / COLUMNS; r < rows; r += THREADS / COLUMNS) {
        const i64 row = (i64)max(0, min(first + r, y_axis.input - 1)) * x_axis.input;
        float sum = t.weight[0] * to_float(__ldg(at[0] + row));
#pragma unroll
        for (int k = 1; k < TAPS; ++k) sum = fmaf(t.weight[k], to_float(__ldg(at[k] + row)), sum);
        held_rows[r * COLUMNS + threadIdx.x % COLUMNS] = sum;
    }
}

template <int TAPS> struct RowTaps {
    int base;
    float weight[TAPS];
};

template <typename T, int TAPS>
__device__ __forceinline__ void tile(const T* __restrict__ input, T* __restrict__ output, const Axis& y_axis,
                                     const Axis& x_axis, u32 across, u32 down) {
    constexpr int N = 16 / sizeof(T), LANES = COLUMNS / N, RUN = ROWS * LANES / THREADS;
    __shared__ RowTaps<TAPS> row_taps[ROWS];
    const u32 strip = blockIdx.x / across, plane = strip / down;
    const int column0 = (int)(blockIdx.x - strip * across) * COLUMNS, row0 = (int)(strip - plane * down) * ROWS;
    const int last = min(row0 + ROWS, y_axis.output) - 1, column = column0 + (int)threadIdx.x % COLUMNS;
    const int first = taps(row0, y_axis, TAPS).base, rows = taps(last, y_axis, TAPS).base + TAPS - first;
    if (threadIdx.x < ROWS) {
        const Taps t = taps(row0 + threadIdx.x, y_axis, TAPS);
        row_taps[threadIdx.x].base = t.base - first;
#pragma unroll
        for (int k = 0; k < TAPS; ++k) row_taps[threadIdx.x].weight[k] = t.weight[k];
    }
    if (column < x_axis.output)
        along_x<T, TAPS>(input + (i64)plane * y_axis.input * x_axis.input, first, rows, column, y_axis, x_axis);
    __syncthreads();
    const int word = (int)threadIdx.x % LANES * N, from = (int)threadIdx.x / LANES * RUN;
    if (column0 + word >= x_axis.output) return;
    uint4* to = (uint4*)(output + ((i64)plane * y_axis.output + row0 + from) * x_axis.output + column0 + word);
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
                *(float4*)&window[TAPS - 1][e] = *(const float4*)&held_rows[next * COLUMNS + word + e];
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
    extern "C" __global__ void __launch_bounds__(THREADS)                                                             \
        staged_##name##_##TAPS(const T* input, T* output, i64 planes, i64 in_h, i64 in_w, i64 out_h, i64 out_w,       \
                               float step_h, float step_w, float half, float shift, i64 across, i64 down) {           \
        tile<T, TAPS>(input, output, {(int)in_h, (int)out_h, step_h, half, shift},                                    \
                      {(int)in_w, (int)out_w, step_w, half, shift}, (u32)across, (u32)down);                          \
    }
STAGED(float, f32, 2)
STAGED(float, f32, 4)
STAGED(__half, f16, 2)
STAGED(__half, f16, 4)
STAGED(__nv_bfloat16, bf16, 2)
STAGED(__nv_bfloat16, bf16, 4)
