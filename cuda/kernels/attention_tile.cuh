// Tiles of f32 in shared memory for the attention kernels on CUDA cores: blocks of 256 threads, rows of DIM values
// padded by 4, which keeps 16-byte reads of eight neighbouring rows free of bank conflicts. A head of `dim` values, a
// multiple of 4 up to DIM, is followed by zeros.
#pragma once
#include "attention.cuh"

// Copies rows first .. first + ROWS of a head, which begins at value `head` of an array, into a padded f32 tile;
// rows at or behind `end` become zero.
template <int DIM, int ROWS>
__device__ __forceinline__ void load_tile(float* tile, const void* array, int kind, i64 head, i64 stride, int first,
                                          int end, int dim) {
    constexpr int STEP = 256 / (DIM / 4);
    const int d = threadIdx.x % (DIM / 4) * 4;
#pragma unroll 2
    for (int step = 0; step < ROWS / STEP; ++step) {
        const int row = threadIdx.x / (DIM / 4) + step * STEP;
        float4 four = {0.f, 0.f, 0.f, 0.f};
        if (first + row < end && d < dim) four = load_four(array, kind, head + (i64)(first + row) * stride + d);
        *(float4*)&tile[row * (DIM + 4) + d] = four;
    }
}

// The reverse; rows at or behind `end` are not stored.
template <int DIM>
__device__ void store_tile(const float* tile, void* array, int kind, i64 head, i64 stride, int first, int end, int dim,
                           int rows) {
    const int d = threadIdx.x % (DIM / 4) * 4;
    if (d >= dim) return;
#pragma unroll 1
    for (int row = threadIdx.x / (DIM / 4); row < rows && first + row < end; row += 256 / (DIM / 4))
        store_four(array, kind, head + (i64)(first + row) * stride + d, *(const float4*)&tile[row * (DIM + 4) + d]);
}

// The 256 threads form 16 x 16: thread (ty, tx) holds rows 4 ty .. 4 ty + 3 and, of a row of DIM sums, number c is
// column(c, tx): neighbouring threads hold neighbouring vectors of four, or single
// values where a thread holds fewer.
template <int DIM> struct Sums {
    static constexpr int COUNT = DIM / 16, VECTOR = COUNT < 4 ? 1 : 4;
};
template <int DIM> __device__ __forceinline__ int column(int c, int tx) {
    constexpr int VECTOR = Sums<DIM>::VECTOR;
    return c / VECTOR * 16 * VECTOR + tx * VECTOR + c % VECTOR;
}

// One or four floats of shared memory in one read. In assembly, because NVRTC 12.4 sometimes splits the plain read of
// a float4 in two, differently from run to run, and the committed PTX must repeat byte for byte.
__device__ __forceinline__ void load_vector(float (&x)[1], const float* from) { x[0] = *from; }
__device__ __forceinline__ void load_vector(float (&x)[4], const float* from) {
    asm volatile("ld.shared.v4.f32 {%0,%1,%2,%3}, [%4];"
                 : "=f"(x[0]), "=f"(x[1]), "=f"(x[2]), "=f"(x[3])
                 : "r"((u32)__cvta_generic_to_shared(from))
                 : "memory");
}

// Products of 4 rows of one tile with every 16th row of another from `tx` on.
template <int DIM, int COLUMNS>
__device__ __forceinline__ void products(float (&s)[4][COLUMNS], const float* rows, const float* columns, int ty, int tx) {
#pragma unroll
    for (int r = 0; r < 4; ++r)
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) s[r][c] = 0.f;
#pragma unroll 1
    for (int d = 0; d < DIM; d += 4) {
        float a[4][4];
#pragma unroll
        for (int r = 0; r < 4; ++r) load_vector(a[r], &rows[(ty * 4 + r) * (DIM + 4) + d]);
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) {
            float b[4];
            load_vector(b, &columns[(tx + 16 * c) * (DIM + 4) + d]);
#pragma unroll
            for (int r = 0; r < 4; ++r)
#pragma unroll
                for (int e = 0; e < 4; ++e) s[r][c] = fmaf(a[r][e], b[e], s[r][c]);
        }
    }
}

// The same with a soft cap, where there is one.
template <int COLUMNS> __device__ __forceinline__ void squeeze_all(float (&s)[4][COLUMNS], float squeeze) {
    if (squeeze == 0.f) return;
#pragma unroll
    for (int r = 0; r < 4; ++r)
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) s[r][c] = tanh_of(s[r][c], squeeze);
}

// sum[r][c] += sum over j of weights[4 ty + r][j] * values[j][column(c, tx)], COUNT of them; rows of weights are
// padded by 4.
template <int DIM, int COUNT>
__device__ __forceinline__ void accumulate(float (&sum)[4][DIM / 16], const float* weights, const float* values, int ty,
                                           int tx) {
    constexpr int VECTOR = Sums<DIM>::VECTOR;
#pragma unroll 1
    for (int j = 0; j < COUNT; j += 4) {
        float w[4][4];
#pragma unroll
        for (int r = 0; r < 4; ++r) load_vector(w[r], &weights[(ty * 4 + r) * (COUNT + 4) + j]);
#pragma unroll
        for (int next = 0; next < 4; ++next)
#pragma unroll
            for (int c = 0; c < DIM / 16; c += VECTOR) {
                float x[VECTOR];
                load_vector(x, &values[(j + next) * (DIM + 4) + c * 16 + tx * VECTOR]);
#pragma unroll
                for (int e = 0; e < VECTOR; ++e)
#pragma unroll
                    for (int r = 0; r < 4; ++r) sum[r][c + e] = fmaf(w[r][next], x[e], sum[r][c + e]);
            }
    }
}

// Writes scaled sums into a tile, in their places.
template <int DIM>
__device__ __forceinline__ void put_sums(float* tile, const float (&sum)[4][DIM / 16], float scale, int ty, int tx) {
#pragma unroll
    for (int r = 0; r < 4; ++r)
#pragma unroll
        for (int c = 0; c < DIM / 16; ++c) tile[(ty * 4 + r) * (DIM + 4) + column<DIM>(c, tx)] = scale * sum[r][c];
}
