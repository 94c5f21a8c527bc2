// Idea: each result is a matrix product whose operands are gathered on the way into shared memory.
// Source: implicit GEMM, Chetlur et al. 2014, "cuDNN: Efficient Primitives for Deep Learning", section 3, applied to
//         each phase of the stride: outputs with equal (y mod s, x mod s) meet the same patch pixels.
// Shapes: as upsample_transposed_conv_naive.cu. Product C [M, N] = A [M, K] · B [K, N]:
//         forward, a phase: M out channels, N batch · phase pixels, K in channels · patch pixels of the phase;
//         d_input: M in channels, N batch · pixels, K out channels · k²;
//         d_weight: M in channels, N out channels · k², K batch · pixels; d_bias: a block a channel.
// Plan: a block a 64 × 64 tile of C, 256 threads of 4 × 4 sums; K in steps of 16 through shared memory.
// Numerics: f32 sums in order of K, rounded once on storing.
// Limits: M tiles and phases at most 65535; each of N and K below 2^31.
#include "any_dtype.cuh"

static constexpr int TILE = 64, DEPTH = 16, PER = 4, THREADS = 256;

struct Conv {
    int batch, in, out, h, w, out_h, out_w, k, stride, padding, dtype;
};

// What a product needs: its sizes, its operands by coordinates, and where a sum goes.
struct ForwardPhase {
    Conv c;
    const void *input, *weight, *bias;
    void* output;
    int phase_y, phase_x, rows, columns, ky0, kx0, ny, nx;

    __device__ __forceinline__ ForwardPhase(const void* input, const void* weight, const void* bias, void* output, const Conv& c,
                                            int phase)
        : c(c), input(input), weight(weight), bias(bias), output(output) {
        phase_y = phase / c.stride;
        phase_x = phase % c.stride;
        rows = phase_y < c.out_h ? (c.out_h - phase_y + c.stride - 1) / c.stride : 0;
        columns = phase_x < c.out_w ? (c.out_w - phase_x + c.stride - 1) / c.stride : 0;
        ky0 = (phase_y + c.padding) % c.stride;
        kx0 = (phase_x + c.padding) % c.stride;
        ny = ky0 < c.k ? (c.k - ky0 + c.stride - 1) / c.stride : 0;
        nx = kx0 < c.k ? (c.k - kx0 + c.stride - 1) / c.stride : 0;
    }
    __device__ __forceinline__ int m() const { return c.out; }
    __device__ __forceinline__ int n() const { return c.batch * rows * columns; }
    __device__ __forceinline__ int depth() const { return c.in * ny * nx; }
    __device__ __forceinline__ float a(int m, int d) const {
        const int tap = d % (ny * nx), channel = d / (ny * nx);
        const int ky = ky0 + tap / nx * c.stride, kx = kx0 + tap % nx * c.stride;
        return load(weight, (((i64)channel * c.out + m) * c.k + ky) * c.k + kx, c.dtype);
    }
    __device__ __forceinline__ float b(int d, int n) const {
        const int tap = d % (ny * nx), channel = d / (ny * nx);
        const int pixel = n % (rows * columns), image = n / (rows * columns);
        const int y = pixel / columns * c.stride + phase_y, x = pixel % columns * c.stride + phase_x;
        const int from_y = y + c.padding - ky0 - tap / nx * c.stride, from_x = x + c.padding - kx0 - tap % nx * c.stride;
        const int h = from_y / c.stride, w = from_x / c.stride;
        if (from_y < 0 || from_x < 0 || h >= c.h || w >= c.w) return 0.f;
        return load(input, (((i64)image * c.in + channel) * c.h + h) * c.w + w, c.dtype);
    }
    __device__ __forceinline__ void store(int m, int n, float sum) const {
        const int pixel = n % (rows * columns), image = n / (rows * columns);
        const int y = pixel / columns * c.stride + phase_y, x = pixel % columns * c.stride + phase_x;
        ::store(output, (((i64)image * c.out + m) * c.out_h + y) * c.out_w + x, sum + load(bias, m, c.dtype), c.dtype);
    }
};

struct InputGradient {
    Conv c;
    const void *d_output, *weight;
    void* result;

    __device__ __forceinline__ int m() const { return c.in; }
    __device__ __forceinline__ int n() const { return c.batch * c.h * c.w; }
    __device__ __forceinline__ int depth() const { return c.out * c.k * c.k; }
    __device__ __forceinline__ float a(int m, int d) const { return load(weight, (i64)m * depth() + d, c.dtype); }
    __device__ __forceinline__ float b(int d, int n) const {
        const int tap = d % (c.k * c.k), o = d / (c.k * c.k);
        const int w = n % c.w, h = n / c.w % c.h, image = n / (c.w * c.h);
        const int y = h * c.stride + tap / c.k - c.padding, x = w * c.stride + tap % c.k - c.padding;
        if (y < 0 || y >= c.out_h || x < 0 || x >= c.out_w) return 0.f;
        return load(d_output, (((i64)image * c.out + o) * c.out_h + y) * c.out_w + x, c.dtype);
    }
    __device__ __forceinline__ void store(int m, int n, float sum) const {
        const int pixel = n % (c.h * c.w), image = n / (c.h * c.w);
        ::store(result, ((i64)image * c.in + m) * c.h * c.w + pixel, sum, c.dtype);
    }
};

struct WeightGradient {
    Conv c;
    const void *d_output, *input;
    void* result;

    __device__ __forceinline__ int m() const { return c.in; }
    __device__ __forceinline__ int n() const { return c.out * c.k * c.k; }
    __device__ __forceinline__ int depth() const { return c.batch * c.h * c.w; }
    __device__ __forceinline__ float a(int m, int d) const {
        const int pixel = d % (c.h * c.w), image = d / (c.h * c.w);
        return load(input, ((i64)image * c.in + m) * c.h * c.w + pixel, c.dtype);
    }
    __device__ __forceinline__ float b(int d, int n) const {
        const int tap = n % (c.k * c.k), o = n / (c.k * c.k);
        const int w = d % c.w, h = d / c.w % c.h, image = d / (c.w * c.h);
        const int y = h * c.stride + tap / c.k - c.padding, x = w * c.stride + tap % c.k - c.padding;
        if (y < 0 || y >= c.out_h || x < 0 || x >= c.out_w) return 0.f;
        return load(d_output, (((i64)image * c.out + o) * c.out_h + y) * c.out_w + x, c.dtype);
    }
    __device__ __forceinline__ void store(int m, int n, float sum) const {
        ::store(result, (i64)m * this->n() + n, sum, c.dtype);
    }
};

template <typename Product> __device__ __forceinline__ void multiply(const Product& product) {
    __shared__ float shared[TILE * (TILE + 1)];
    float(*a)[TILE + 1] = reinterpret_cast<float(*)[TILE + 1]>(shared);
    float(*b)[TILE + 1] = a + DEPTH;
    const int m0 = blockIdx.y * TILE, n0 = blockIdx.x * TILE;
    if (n0 >= product.n()) return;  // a smaller phase; the whole block leaves
    const int row = threadIdx.x / (TILE / PER), column = threadIdx.x % (TILE / PER);
    float sum[PER][PER] = {};
#pragma unroll 1
    for (int d0 = 0; d0 < product.depth(); d0 += DEPTH) {
#pragma unroll 1
        for (int i = threadIdx.x; i < TILE * DEPTH; i += THREADS) {
            const int ad = i % DEPTH, am = i / DEPTH, bn = i % TILE, bd = i / TILE;
            const bool a_in = m0 + am < product.m() && d0 + ad < product.depth();
            const bool b_in = n0 + bn < product.n() && d0 + bd < product.depth();
            a[ad][am] = a_in ? product.a(m0 + am, d0 + ad) : 0.f;
            b[bd][bn] = b_in ? product.b(d0 + bd, n0 + bn) : 0.f;
        }
        __syncthreads();
#pragma unroll 1
        for (int d = 0; d < DEPTH; ++d)
#pragma unroll
            for (int i = 0; i < PER; ++i)
#pragma unroll
                for (int j = 0; j < PER; ++j)
                    sum[i][j] = fmaf(a[d][row + i * (TILE / PER)], b[d][column + j * (TILE / PER)], sum[i][j]);
        __syncthreads();
    }
    // Through shared memory, whose last reads of operands are behind a barrier: neighbours store neighbours.
    float(*c)[TILE + 1] = a;
#pragma unroll
    for (int i = 0; i < PER; ++i)
#pragma unroll
        for (int j = 0; j < PER; ++j) c[row + i * (TILE / PER)][column + j * (TILE / PER)] = sum[i][j];
    __syncthreads();
#pragma unroll 1
    for (int i = threadIdx.x; i < TILE * TILE; i += THREADS) {
        const int m = m0 + i / TILE, n = n0 + i % TILE;
        if (m < product.m() && n < product.n()) product.store(m, n, c[i / TILE][i % TILE]);
    }
}

__device__ __forceinline__ void channel_sum(const void* __restrict__ d_output, void* __restrict__ result,
                                            const Conv& c) {
    __shared__ float part[THREADS / 32];
    const i64 plane = (i64)c.out_h * c.out_w;
    float sum = 0.f;
#pragma unroll 1
    for (int n = 0; n < c.batch; ++n)
#pragma unroll 1
        for (i64 pixel = threadIdx.x; pixel < plane; pixel += THREADS)
            sum += load(d_output, ((i64)n * c.out + blockIdx.x) * plane + pixel, c.dtype);
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int w = 1; w < THREADS / 32; ++w) sum += part[w];
        ::store(result, blockIdx.x, sum, c.dtype);
    }
}

// Sizes travel as 64-bit integers; all of them fit 32 bits.
#define SIZES                                                                                                         \
    i64 batch, i64 in, i64 out, i64 h, i64 w, i64 out_h, i64 out_w, i64 k, i64 stride, i64 padding, int dtype
#define CONV                                                                                                          \
    Conv{(int)batch, (int)in, (int)out, (int)h, (int)w, (int)out_h, (int)out_w, (int)k, (int)stride, (int)padding, dtype}

extern "C" __global__ void __launch_bounds__(THREADS)
    forward(const void* input, const void* weight, const void* bias, void* output, SIZES) {
    multiply(ForwardPhase(input, weight, bias, output, CONV, blockIdx.z));
}
extern "C" __global__ void __launch_bounds__(THREADS)
    d_input(const void* d_output, const void* weight, void* result, SIZES) {
    multiply(InputGradient{CONV, d_output, weight, result});
}
extern "C" __global__ void __launch_bounds__(THREADS)
    d_weight(const void* d_output, const void* input, void* result, SIZES) {
    multiply(WeightGradient{CONV, d_output, input, result});
}
extern "C" __global__ void __launch_bounds__(THREADS) d_bias(const void* d_output, void* result, SIZES) {
    channel_sum(d_output, result, CONV);
}
