// What a node of a tree sees, as bits, for kernels that go through the cache and the tree in tiles of 64 keys: first
// those of the cache, then the tree's own from its first node on.
#pragma once
#include "numeric.cuh"

constexpr int KEYS = 64;

struct Tree {
    const int* parents;
    int length;

    // Which of 32 keys from number `first` on of a tile a row sees: in the cache all before its end, in the tree the
    // node itself and those above it.
    __device__ __forceinline__ u32 seen(int tile, int cached, int first, int node) const {
        if (tile < cached) {
            const int left = length - tile * KEYS - first;
            return left >= 32 ? ~0u : left <= 0 ? 0u : (1u << left) - 1;
        }
        const int from = (tile - cached) * KEYS + first;
        u32 bits = 0;
#pragma unroll 1
        for (; node >= from; node = parents[node])
            if (node < from + 32) bits |= 1u << (node - from);
        return bits;
    }
};
