// Tiles of f32 in shared memory for the attention kernels on CUDA cores: blocks of 256 threads, rows of DIM values
// padded by 4, which keeps 16-byte reads of eight neighbouring rows free of bank conflicts.
#pragma once
#include "attention.cuh"

// Copies rows first .. first + ROWS of a head, which begins at value `head` of an array, into a padded f32 tile;
// rows at or behind `end` become zero.
template <int DIM, int ROWS>
__device__ __forceinline__ void load_tile(float* tile, const void* array, int kind, i64 head, i64 stride, int first,
                                          int end) {
    constexpr int STEP = 256 / (DIM / 4);
    const int d = threadIdx.x % (DIM / 4) * 4;
#pragma unroll 2
    for (int step = 0; step < ROWS / STEP; ++step) {
        const int row = threadIdx.x / (DIM / 4) + step * STEP;
        float4 four = {0.f, 0.f, 0.f, 0.f};
        if (first + row < end) four = load_four(array, kind, head + (i64)(first + row) * stride + d);
        *(float4*)&tile[row * (DIM + 4) + d] = four;
    }
}

// The reverse; rows at or behind `end` are not stored.
template <int DIM>
__device__ void store_tile(const float* tile, void* array, int kind, i64 head, i64 stride, int first, int end, int rows) {
    const int d = threadIdx.x % (DIM / 4) * 4;
#pragma unroll 1
    for (int row = threadIdx.x / (DIM / 4); row < rows && first + row < end; row += 256 / (DIM / 4))
        store_four(array, kind, head + (i64)(first + row) * stride + d, *(const float4*)&tile[row * (DIM + 4) + d]);
}

// The 256 threads form 16 x 16: thread (ty, tx) holds rows 4 ty .. 4 ty + 3 and, of a row of DIM sums, number c is
// column(c, tx): neighbouring threads hold neighbouring vectors of up to four.
template <int DIM> struct Sums {
    static constexpr int COUNT = DIM / 16, VECTOR = COUNT < 4 ? COUNT : 4;
};
template <int DIM> __device__ __forceinline__ int column(int c, int tx) {
    constexpr int VECTOR = Sums<DIM>::VECTOR;
    return c / VECTOR * 16 * VECTOR + tx * VECTOR + c % VECTOR;
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
        float4 a[4];
#pragma unroll
        for (int r = 0; r < 4; ++r) a[r] = *(const float4*)&rows[(ty * 4 + r) * (DIM + 4) + d];
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) {
            const float4 b = *(const float4*)&columns[(tx + 16 * c) * (DIM + 4) + d];
#pragma unroll
            for (int r = 0; r < 4; ++r)
                s[r][c] = fmaf(a[r].w, b.w, fmaf(a[r].z, b.z, fmaf(a[r].y, b.y, fmaf(a[r].x, b.x, s[r][c]))));
        }
    }
}

// sum[r][c] += sum over j of weights[4 ty + r][j] * values[j][column(c, tx)], COUNT of them; rows of weights are padded by 4.
template <int DIM, int COUNT>
__device__ __forceinline__ void accumulate(float (&sum)[4][DIM / 16], const float* weights, const float* values, int ty,
                                           int tx) {
    constexpr int VECTOR = Sums<DIM>::VECTOR;
    struct __align__(VECTOR * 4) Vector {
        float at[VECTOR];
    };
#pragma unroll 1
    for (int j = 0; j < COUNT; j += 2) {
        float2 w[4];
#pragma unroll
        for (int r = 0; r < 4; ++r) w[r] = *(const float2*)&weights[(ty * 4 + r) * (COUNT + 4) + j];
#pragma unroll
        for (int c = 0; c < DIM / 16; c += VECTOR) {
            const float* from = &values[j * (DIM + 4) + c * 16 + tx * VECTOR];
            const Vector x = *(const Vector*)from, y = *(const Vector*)(from + DIM + 4);
#pragma unroll
            for (int e = 0; e < VECTOR; ++e)
#pragma unroll
                for (int r = 0; r < 4; ++r)
                    sum[r][c + e] = fmaf(w[r].y, y.at[e], fmaf(w[r].x, x.at[e], sum[r][c + e]));
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
