// Tiles of f32 in shared memory for the attention kernels on CUDA cores: blocks of 256 threads, rows of DIM values
// padded by 4, which keeps 16-byte reads of eight neighbouring rows free of bank conflicts.
#pragma once
#include "attention.cuh"

// Copies rows first .. first + rows of a head, which begins at value `head` of an array, into a padded f32 tile;
// rows at or behind `end` become zero.
template <int DIM>
__device__ void load_tile(float* tile, const void* array, int kind, i64 head, i64 stride, int first, int end, int rows) {
    const int d = threadIdx.x % (DIM / 4) * 4;
#pragma unroll 2
    for (int row = threadIdx.x / (DIM / 4); row < rows; row += 256 / (DIM / 4)) {
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
