// Idea: an 8-bit cache becomes one of floats first, and is then attended to as any other.
// Source: the definition of the format (reference/src/attention/quantized.rs).
// Shapes: rows of `dim` values: x int8 with scales f32 [rows], or without scales f16 or bf16 (kind), and y f32; or
//   the reverse of the latter.
// Plan: a block a row, a thread every 128th value.
// Numerics: one rounding of scale · integer to f32; one of a result to its type.
// Limits: a cache is read once, and written and read again at four times its size.
#include "attention.cuh"

extern "C" __global__ void __launch_bounds__(128) widen(const void* x, const float* scales, float* y, int kind, int dim) {
    const i64 first = (i64)blockIdx.x * dim;
#pragma unroll 1
    for (int d = threadIdx.x; d < dim; d += 128) {
        const i64 at = first + d;
        if (scales)
            y[at] = scales[blockIdx.x] * (float)((const signed char*)x)[at];
        else if (kind == F16)
            y[at] = __half2float(((const __half*)x)[at]);
        else
            y[at] = __bfloat162float(((const __nv_bfloat16*)x)[at]);
    }
}

extern "C" __global__ void __launch_bounds__(128) narrow(const float* x, void* y, int kind, int dim) {
    const i64 first = (i64)blockIdx.x * dim;
#pragma unroll 1
    for (int d = threadIdx.x; d < dim; d += 128)
        if (kind == F16)
            ((__half*)y)[first + d] = __float2half_rn(x[first + d]);
        else
            ((__nv_bfloat16*)y)[first + d] = __float2bfloat16_rn(x[first + d]);
}
