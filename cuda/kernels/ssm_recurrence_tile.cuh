// A tile of a recurrence in registers: 32 channels by Warps*Steps time steps. Each thread scans Steps
// steps of one channel; the warps' sums of a channel meet in shared memory.
#pragma once
#include "ssm_recurrence.cuh"

template <typename V, int Warps> struct TileSums {
    V factor[Warps][32], value[Warps][32];
};

template <typename T, bool Backward, int Warps, int Steps> struct Tile {
    typedef typename Number<T>::V V;
    typedef TileSums<V, Warps> Sums;
    // Product of the factors, and scan from zero, up to each step of this thread.
    V factor[Steps], value[Steps];

    // Loads the tile that starts at step `from` and scans each thread's part. Steps past the end and
    // channels past the last become the identity.
    __device__ __forceinline__ void load(const Recurrence<T, Backward>& scan, i64 b, i64 from, i64 c) {
        const i64 mine = from + threadIdx.y * Steps, at = scan.at(b, mine, c);
        const int here = steps_here(scan, mine, c);
#pragma unroll
        for (int k = 0; k < Steps; ++k) {
            factor[k] = k < here ? scan.factor(at + k * scan.stride(), k == 0 && mine == 0) : one<V>();
            value[k] = k < here ? scan.added(at + k * scan.stride()) : zero<V>();
        }
    }
    __device__ __forceinline__ void reduce(Sums& sums) {
#pragma unroll
        for (int i = 1; i < Steps; ++i) {
            value[i] = advance(factor[i], value[i - 1], value[i]);
            factor[i] = times(factor[i], factor[i - 1]);
        }
        sums.factor[threadIdx.y][threadIdx.x] = factor[Steps - 1];
        sums.value[threadIdx.y][threadIdx.x] = value[Steps - 1];
    }
    // The state after the tile's first `warps` warps, from the state before the tile.
    static __device__ __forceinline__ V carry(const Sums& sums, V state, int warps) {
#pragma unroll 2
        for (int w = 0; w < warps; ++w)
            state = advance(sums.factor[w][threadIdx.x], state, sums.value[w][threadIdx.x]);
        return state;
    }
    // Writes the tile's results, given the state before this thread's part.
    __device__ __forceinline__ void finish(const Recurrence<T, Backward>& scan, i64 b, i64 from, i64 c, V state) {
        const i64 mine = from + threadIdx.y * Steps, at = scan.at(b, mine, c);
        const int here = steps_here(scan, mine, c);
#pragma unroll
        for (int k = 0; k < Steps; ++k)
            if (k < here)
                scan.finish(at + k * scan.stride(), mine + k == scan.seq_len - 1, b, c,
                            advance(factor[k], state, value[k]));
    }

    // How many of the thread's steps there are.
    static __device__ __forceinline__ int steps_here(const Recurrence<T, Backward>& scan, i64 mine, i64 c) {
        return c < scan.channels ? (int)max(0ll, min((i64)Steps, scan.seq_len - mine)) : 0;
    }
};
