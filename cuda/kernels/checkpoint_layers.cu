// Idea: the layers of a chain as kernels that read a state and write the next, or read a state and write gradients: what
//       is kept in between is up to the schedule, and every schedule runs these very launches on the same bits.
// Source: ours; residual layers as in He et al. 2016, "Deep Residual Learning for Image Recognition".
// Shapes: x, y, dy, dz, dx [rows, width]; w [width, width]; a, b [width]; s = 1/√layers.
// Plan: dense layers by one tiled product with an epilogue: y = x + s·tanh(x·w + b); dz = s·dy·(1 − tanh²(x·w + b));
//       dx = dy + dz·wᵀ; dw = xᵀ·dz. Scaling layers by an element a thread. Sums over rows by 32 columns a block.
// Numerics: f32, sums in a fixed order; tanhf.
// Limits: rows below 2^20.
#include "numeric.cuh"

static constexpr int TILE = 32, DEPTH = 16, PER = 2, THREADS = 256;

enum : int { FORWARD = 0, DZ = 1, DX = 2, DW = 3 };

__device__ __forceinline__ float slope(float z) {
    const float t = tanhf(z);
    return 1.f - t * t;
}

// C [m, n] = A · B, where A(i, d) = a[i · a_row + d · a_depth] and B(d, j) = b[d · b_depth + j · b_column]; what becomes
// of a sum is the epilogue's matter.
extern "C" __global__ void __launch_bounds__(THREADS)
    product(const float* __restrict__ a, const float* __restrict__ b, const float* __restrict__ bias,
            const float* __restrict__ x, const float* __restrict__ dy, float* __restrict__ out, i64 m, i64 n, i64 depth,
            i64 a_row, i64 a_depth, i64 b_depth, i64 b_column, float s, int epilogue) {
    __shared__ float a_tile[DEPTH][TILE + 1], b_tile[DEPTH][TILE + 1];
    const int row = threadIdx.x / (TILE / PER), column = threadIdx.x % (TILE / PER);
    const i64 m0 = (i64)blockIdx.y * TILE, n0 = (i64)blockIdx.x * TILE;
    float sum[PER][PER] = {};
#pragma unroll 1
    for (i64 d0 = 0; d0 < depth; d0 += DEPTH) {
#pragma unroll
        for (int k = 0; k < TILE * DEPTH / THREADS; ++k) {
            const int e = threadIdx.x + k * THREADS;
            // Neighbouring threads take neighbouring addresses, whichever way an operand lies.
            const int ad = a_depth == 1 ? e % DEPTH : e / TILE, ai = a_depth == 1 ? e / DEPTH : e % TILE;
            const int bd = b_depth == 1 ? e % DEPTH : e / TILE, bj = b_depth == 1 ? e / DEPTH : e % TILE;
            const bool a_in = m0 + ai < m && d0 + ad < depth, b_in = n0 + bj < n && d0 + bd < depth;
            a_tile[ad][ai] = a_in ? __ldg(a + (m0 + ai) * a_row + (d0 + ad) * a_depth) : 0.f;
            b_tile[bd][bj] = b_in ? __ldg(b + (d0 + bd) * b_depth + (n0 + bj) * b_column) : 0.f;
        }
        __syncthreads();
#pragma unroll 4
        for (int d = 0; d < DEPTH; ++d)
#pragma unroll
            for (int i = 0; i < PER; ++i)
#pragma unroll
                for (int j = 0; j < PER; ++j)
                    sum[i][j] = fmaf(a_tile[d][row + i * (TILE / PER)], b_tile[d][column + j * (TILE / PER)],
                                     sum[i][j]);
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < PER; ++i)
#pragma unroll
        for (int j = 0; j < PER; ++j) {
            const i64 r = m0 + row + i * (TILE / PER), c = n0 + column + j * (TILE / PER), at = r * n + c;
            if (r >= m || c >= n) continue;
            float value = sum[i][j];
            if (epilogue == FORWARD) value = x[at] + s * tanhf(value + bias[c]);
            if (epilogue == DZ) value = s * dy[at] * slope(value + bias[c]);
            if (epilogue == DX) value = dy[at] + value;
            out[at] = value;
        }
}

extern "C" __global__ void scale_forward(const float* x, const float* a, const float* b, float* y, i64 n, i64 width,
                                         float s) {
    const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x, j = i % width;
    if (i < n) y[i] = x[i] + s * tanhf(a[j] * x[i] + b[j]);
}

extern "C" __global__ void scale_backward(const float* x, const float* a, const float* b, const float* dy, float* dz,
                                          float* dx, i64 n, i64 width, float s) {
    const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x, j = i % width;
    if (i >= n) return;
    const float g = s * dy[i] * slope(a[j] * x[i] + b[j]);
    dz[i] = g;
    dx[i] = dy[i] + a[j] * g;
}

// Σ over rows of dz, times x where there is one. A block has 32 columns, a warp every 32nd row; their sums are added in
// order. (One thread a column took 100 of the 128 us of a layer of 512 rows on an H200.)
extern "C" __global__ void __launch_bounds__(1024)
    column_sums(const float* x, const float* dz, float* out, i64 rows, i64 width) {
    __shared__ float sums[32][33];
    const i64 j = (i64)blockIdx.x * 32 + threadIdx.x;
    float sum = 0.f;
    if (j < width) {
#pragma unroll 4
        for (i64 r = threadIdx.y; r < rows; r += 32) sum = fmaf(x ? x[r * width + j] : 1.f, dz[r * width + j], sum);
    }
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || j >= width) return;
    sum = 0.f;
#pragma unroll 1
    for (int w = 0; w < 32; ++w) sum += sums[w][threadIdx.x];
    out[j] = sum;
}
