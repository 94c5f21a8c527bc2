// What the staged interpolations share: a tile's input in shared memory, as it is, and words of its output.
#pragma once
#include "async_copy.cuh"
#include "upsample.cuh"

extern __shared__ __align__(16) float held_rows[];

// n / divisor for small numbers: n below 2^15, one over the divisor given.
__device__ __forceinline__ int quotient(int n, float inverse) { return (int)(((float)n + 0.5f) * inverse); }

// A thread's number in its block of `width` columns.
__device__ __forceinline__ int thread_of(int width) { return (int)(threadIdx.y * width + threadIdx.x); }

// What a tile reads of a plane [height, width]: rows of `words` words of 16 bytes, the first at column `left`, a multiple
// of a word.
template <typename T> struct Raw {
    static constexpr int N = 16 / sizeof(T);
    T* at;
    int top, rows, left, words;

    // Begins to fetch all of it. Rows beyond the border are the border's again; what lies right of the plane stays as it is.
    __device__ __forceinline__ void fetch(const T* __restrict__ plane, int height, int width, int thread, int threads) const {
        const bool wide = width % N == 0;
        const float inverse = __frcp_rn((float)words);
#pragma unroll 1
        for (int i = thread; i < rows * words; i += threads) {
            const int r = quotient(i, inverse), column = left + (i - r * words) * N;
            const T* row = plane + (i64)max(0, min(top + r, height - 1)) * width;
            if (column >= width) continue;
            if (wide) {
                copy_async<16>(at + i * N, row + column, true);
            } else {
#pragma unroll 1
                for (int e = 0; e < N && column + e < width; ++e) at[i * N + e] = __ldg(row + column + e);
            }
        }
        copies_commit();
    }
};

// The word of a run of rows that a thread of a tile has along y: runs are as many as threads / words of a row.
struct Run {
    int number, word;  // of the run; first column of the word

    __device__ __forceinline__ Run(int width, int elements) {
        const int lanes = width / elements, row = quotient(threadIdx.x, __frcp_rn((float)lanes));
        number = (int)threadIdx.y * elements + row;
        word = ((int)threadIdx.x - row * lanes) * elements;
    }
};
