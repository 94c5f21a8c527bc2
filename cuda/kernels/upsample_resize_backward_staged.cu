// Idea: a block copies the output gradients that its tile of input pixels collects into shared memory, all of them under way
//   at once; sums them along x, once, into shared memory; along y every pixel then takes its rows from there.
// Source: ours; the transpose of separable filtering.
// Shapes: as upsample_resize_backward_gather.cu, whose tables it takes; y_tiles [down, 2], x_tiles [across, 2]: of each
//   row and column of tiles the first output that its pixels' readers span, and how many; an input row is whole words of 16
//   bytes.
// Plan: a tile is ROWS x `width` input pixels of a plane, width a multiple of a word's elements and at most 64, for which
//   a block has 4 rows of width threads. Along x a thread keeps one column and sums four rows at a time, so that a weight, which
//   comes from the caches, serves four. Along y it has one word of RUN rows.
// Numerics: as gather, term by term: along x first, then along y, f32, rounded once on storing.
// Limits: at most 65535 planes; the gradients of a tile must fit in shared memory, raw and summed along x: images up to about
//   four times as wide and high.
#include "upsample_tile.cuh"

static constexpr int ROWS = 32, GROUPS = 4, MOST_THREADS = 256, AT_ONCE = 4;

// Every fourth row of the raw gradients, summed along x over the readers of this thread's column.
template <typename T>
__device__ __forceinline__ void along_x(const Raw<T>& raw, const Readers& xs, int width, int column, int group) {
    const T* first = raw.at + xs.first - raw.left;
    const int pitch = raw.words * Raw<T>::N;
#pragma unroll 1
    for (int r = group; r < raw.rows; r += GROUPS * AT_ONCE) {
        const T* at[AT_ONCE];
        float sum[AT_ONCE] = {};
#pragma unroll
        for (int k = 0; k < AT_ONCE; ++k) at[k] = first + min(r + GROUPS * k, raw.rows - 1) * pitch;
#pragma unroll 2
        for (int c = 0; c < xs.count; ++c) {
            const float weight = __ldg(xs.weights + c);
#pragma unroll
            for (int k = 0; k < AT_ONCE; ++k) sum[k] = fmaf(weight, to_float(at[k][c]), sum[k]);
        }
#pragma unroll
        for (int k = 0; k < AT_ONCE; ++k)
            if (r + GROUPS * k < raw.rows) held_rows[(r + GROUPS * k) * width + column] = sum[k];
    }
}

struct Tables {
    const int* y_ranges;
    const float* y_weights;
    const int* x_ranges;
    const float* x_weights;
    const int *y_tiles, *x_tiles;
};

template <typename T>
__device__ __forceinline__ void tile(const T* __restrict__ d_output, T* __restrict__ d_input, const Tables& tables,
                                     int in_h, int in_w, int out_h, int out_w, int words, int most_rows) {
    constexpr int N = Raw<T>::N, RUN = ROWS / (GROUPS * N);
    const int width = (int)blockDim.x, column0 = (int)blockIdx.x * width, row0 = (int)blockIdx.y * ROWS;
    const int top = __ldg(tables.y_tiles + 2 * blockIdx.y), rows = __ldg(tables.y_tiles + 2 * blockIdx.y + 1);
    const int left = __ldg(tables.x_tiles + 2 * blockIdx.x) / N * N;
    const Raw<T> raw{(T*)(held_rows + most_rows * width), top, rows, left, words};
    raw.fetch(d_output + (i64)blockIdx.z * out_h * out_w, out_h, out_w, thread_of(width), GROUPS * width);
    const int column = (int)threadIdx.x;
    const Readers xs(tables.x_ranges, tables.x_weights, min(column0 + column, in_w - 1));
    copies_wait<0>();
    __syncthreads();
    if (column0 + column < in_w) along_x(raw, xs, width, column, (int)threadIdx.y);
    __syncthreads();
    const Run run(width, N);
    if (column0 + run.word >= in_w) return;
    const int from = row0 + run.number * RUN;
    T* to = d_input + ((i64)blockIdx.z * in_h + from) * in_w + column0 + run.word;
#pragma unroll 1
    for (int row = from; row < min(from + RUN, in_h); ++row, to += in_w) {
        const Readers ys(tables.y_ranges, tables.y_weights, row);
        const float* held = held_rows + (ys.first - top) * width + run.word;
        float sum[N] = {};
#pragma unroll 2
        for (int r = 0; r < ys.count; ++r, held += width) {
            const float weight = __ldg(ys.weights + r);
#pragma unroll
            for (int e = 0; e < N; e += 4) {
                const float4 four = *(const float4*)(held + e);
                sum[e] = fmaf(weight, four.x, sum[e]);
                sum[e + 1] = fmaf(weight, four.y, sum[e + 1]);
                sum[e + 2] = fmaf(weight, four.z, sum[e + 2]);
                sum[e + 3] = fmaf(weight, four.w, sum[e + 3]);
            }
        }
        *(uint4*)to = word_of(sum, T());
    }
}

#define STAGED(T, name)                                                                                               \
    extern "C" __global__ void __launch_bounds__(MOST_THREADS)                                                        \
        staged_##name(const T* d_output, const int* y_ranges, const float* y_weights, const int* x_ranges,            \
                      const float* x_weights, const int* y_tiles, const int* x_tiles, T* d_input, i64 planes,         \
                      i64 in_h, i64 in_w, i64 out_h, i64 out_w, i64 words, i64 most_rows) {                           \
        tile<T>(d_output, d_input, {y_ranges, y_weights, x_ranges, x_weights, y_tiles, x_tiles}, (int)in_h,           \
                (int)in_w, (int)out_h, (int)out_w, (int)words, (int)most_rows);                                       \
    }
STAGED(float, f32)
STAGED(__half, f16)
STAGED(__nv_bfloat16, bf16)
