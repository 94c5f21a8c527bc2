// Where a KV cache keeps the row of a key: in place, or in pages of 2^page_shift rows named by a block table.
#pragma once
#include "attention.cuh"

struct Cache {
    const int* table;  // [batch, pages] or null: contiguous
    i64 pages, seq_k;
    int page_shift;

    // Row of key j of sequence b, counted in positions.
    __device__ __forceinline__ i64 row(i64 b, int j) const {
        if (!table) return b * seq_k + j;
        const i64 page = table[b * pages + (j >> page_shift)];
        return (page << page_shift) + (j & ((1 << page_shift) - 1));
    }
};
