// Tensor-core pieces of the attention kernels: swizzled tiles, cp.async, ldmatrix, mma.sync m16n8k16.
//
// A tile is `rows` rows of DIM 16-bit values. A row is split into 16-byte chunks, and chunk c of row r is kept at
// place c ^ (r % 8), so that the eight rows one ldmatrix phase reads lie in different banks. A head of `dim` values, a
// multiple of 8 up to DIM, is followed by zeros.
#pragma once
#include "async_copy.cuh"
#include "attention.cuh"

// Byte offset in a tile of the chunk that begins at value `d` (a multiple of 8) of `row`.
template <int DIM> __device__ __forceinline__ u32 chunk_at(int row, int d) {
    return (u32)(row * DIM * 2 + (((d / 8) ^ (row & 7)) * 16));
}

// How a block of THREADS threads copies tiles of a head; a thread has the same 16 bytes of every STEPth row.
template <int DIM, int THREADS> struct Copier {
    static constexpr int CHUNKS = DIM / 8, STEP = THREADS / CHUNKS;
    static_assert(STEP % 8 == 0, "a thread's rows have one swizzle");
    const char* head;
    u32 row_bytes;
    int dim;

    // Starts copying rows first .. first + ROWS of what lies `shift` bytes behind into a tile; rows at or behind `end`
    // become zero.
    template <int ROWS> __device__ __forceinline__ void copy(i64 shift, u32 tile, int first, int end) const {
        static_assert(ROWS % STEP == 0, "every thread copies as many rows");
        const int row = threadIdx.x / CHUNKS, d = threadIdx.x % CHUNKS * 8;
        u32 to = tile + chunk_at<DIM>(row, d);
        const char* from = head + shift + (u64)(u32)(first + row) * row_bytes + d * 2;
        const int left = d < dim ? end - first - row : 0;
#pragma unroll
        for (int step = 0; step < ROWS; step += STEP) {
            // Of 0 bytes nothing is read, whatever the address.
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(left > step ? 16 : 0)
                         : "memory");
            to += STEP * DIM * 2;
            from += (u64)row_bytes * STEP;
        }
    }
};

__device__ __forceinline__ void load_matrices(u32 (&r)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}
__device__ __forceinline__ void load_transposed(u32 (&r)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

// Where a lane points ldmatrix for the 16 x 16 values at row 0 and value 0 of a tile; for rows from `row` (a multiple
// of 8) and values from `d` (a multiple of 16) on it is `tile + row * DIM * 2 + (start ^ d * 2)`: the swizzle touches
// only the bits of the chunk.
// With `starts_by_row` the four 8 x 8 matrices are (rows, values) low low, high low, low high, high high; with
// `starts_by_value` low low, low high, high low, high high.
template <int DIM> __device__ __forceinline__ u32 starts_by_row(int lane) {
    return chunk_at<DIM>(lane % 16, lane / 16 * 8);
}
template <int DIM> __device__ __forceinline__ u32 starts_by_value(int lane) {
    return chunk_at<DIM>(lane % 8 + lane / 16 * 8, lane / 8 % 2 * 8);
}
template <int DIM> __device__ __forceinline__ u32 fragment(u32 tile, u32 start, int row, int d) {
    return tile + (start ^ (u32)(d * 2)) + (u32)(row * DIM * 2);
}

template <typename T> __device__ __forceinline__ void mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1);
template <> __device__ __forceinline__ void mma<__half>(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <> __device__ __forceinline__ void mma<__nv_bfloat16>(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// An 8 x 8 matrix of which a lane has a pair of values, rows for columns.
__device__ __forceinline__ u32 transposed(u32 pair) {
    u32 result;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(pair));
    return result;
}

// Takes a step of 16 keys by two heads of a lane, as they leave m16n8: scores s become probabilities by the running maximum,
// to which the heads' totals and sums shrink. Heads h = 0, 1 have s[h] and s[h + 2].
template <int SUMS>
__device__ __forceinline__ void soften_step(float (&s)[4], float factor, float (&max)[2], float (&total)[2],
                                            float (&sum)[SUMS][4]) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        float top = fmaxf(s[h], s[h + 2]);
#pragma unroll
        for (int offset = 4; offset < 32; offset *= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, offset));
        top = fmaxf(top, max[h]);
        const float seen = top == NEG_INFINITY ? 0.f : top, base = seen * factor;
        const float shrink = exp2_fast((max[h] - seen) * factor);
        max[h] = top;
        s[h] = exp2_fast(fmaf(s[h], factor, -base));
        s[h + 2] = exp2_fast(fmaf(s[h + 2], factor, -base));
        total[h] = fmaf(total[h], shrink, s[h] + s[h + 2]);
#pragma unroll
        for (int m = 0; m < SUMS; ++m) sum[m][h] *= shrink, sum[m][h + 2] *= shrink;
    }
}
