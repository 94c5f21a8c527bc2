// Idea: measure the device's own limits, so that every kernel is judged against this device, in this run.
// Source: ours; the copy is the read+write streaming limit, the rest are register-only instruction loops.
// Shapes: copy: `bytes16` 16-byte words. Rates: every thread runs `rounds` rounds, `sink` takes one value a thread.
// Plan: copy: a block moves tiles, four 16-byte words in flight a thread. Rates: 8 independent chains a thread hide latency.
// Numerics: values stay finite; results are stored so that nothing is optimized away.
// Limits: matrix_bf16 is mma.sync (sm_80 up); Hopper's wgmma can run above it.
#include "numeric.cuh"

extern "C" __global__ void copy(const uint4* __restrict__ from, uint4* __restrict__ to, i64 words) {
    constexpr int IN_FLIGHT = 4;
    const i64 tile = (i64)blockDim.x * IN_FLIGHT;
    for (i64 start = blockIdx.x * tile; start < words; start += gridDim.x * tile) {
        uint4 word[IN_FLIGHT];
#pragma unroll
        for (int k = 0; k < IN_FLIGHT; ++k) {
            const i64 i = start + (i64)k * blockDim.x + threadIdx.x;
            if (i < words) word[k] = __ldcs(from + i);
        }
#pragma unroll
        for (int k = 0; k < IN_FLIGHT; ++k) {
            const i64 i = start + (i64)k * blockDim.x + threadIdx.x;
            if (i < words) __stcs(to + i, word[k]);
        }
    }
}

extern "C" __global__ void fma_f32(float* __restrict__ sink, int rounds) {
    float chain[8];
    const float a = 1.0f - 1e-7f * threadIdx.x, b = 1e-3f;
    for (int k = 0; k < 8; ++k) chain[k] = (float)k;
    for (int r = 0; r < rounds; ++r)
#pragma unroll
        for (int k = 0; k < 8; ++k) chain[k] = fmaf(chain[k], a, b);
    float sum = 0.f;
    for (int k = 0; k < 8; ++k) sum += chain[k];
    sink[(i64)blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

extern "C" __global__ void exp2_f32(float* __restrict__ sink, int rounds) {
    float chain[8];
    for (int k = 0; k < 8; ++k) chain[k] = -1.f - 0.1f * k - 1e-3f * threadIdx.x;
    for (int r = 0; r < rounds; ++r)
#pragma unroll
        for (int k = 0; k < 8; ++k) asm volatile("ex2.approx.ftz.f32 %0, %0;" : "+f"(chain[k]));
    float sum = 0.f;
    for (int k = 0; k < 8; ++k) sum += chain[k];
    sink[(i64)blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

extern "C" __global__ void matrix_bf16(float* __restrict__ sink, int rounds) {
    float acc[8][4];
    u32 a[4], b[2];
    for (int i = 0; i < 4; ++i) a[i] = 0x3c003c00u + threadIdx.x * 7 + i;
    for (int i = 0; i < 2; ++i) b[i] = 0x3c803c00u + threadIdx.x * 5 + i;
    for (int k = 0; k < 8; ++k)
        for (int i = 0; i < 4; ++i) acc[k][i] = (float)(k + i);
    for (int r = 0; r < rounds; ++r)
#pragma unroll
        for (int k = 0; k < 8; ++k)
            asm volatile(
                "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                "{%0,%1,%2,%3};"
                : "+f"(acc[k][0]), "+f"(acc[k][1]), "+f"(acc[k][2]), "+f"(acc[k][3])
                : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    float sum = 0.f;
    for (int k = 0; k < 8; ++k)
        for (int i = 0; i < 4; ++i) sum += acc[k][i];
    sink[(i64)blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

extern "C" __global__ void atomic_add_f32(float* __restrict__ sink, int slots, int rounds) {
    u32 slot = blockIdx.x * blockDim.x + threadIdx.x;
    for (int r = 0; r < rounds; ++r) {
        slot = slot * 1664525u + 1013904223u;
        atomicAdd(&sink[(slot >> 8) % (u32)slots], 1.f);
    }
}
