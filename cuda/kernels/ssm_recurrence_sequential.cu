// Idea: one thread follows one channel through time, as the recurrence is written.
// Source: the definition.
// Shapes: a, x, h [batch, seq_len, channels]; initial_state [batch, channels]; complex numbers as pairs.
// Plan: channels are adjacent, so the threads of a warp read adjacent numbers at every step.
// Numerics: f32, one fused multiply-add a step.
// Limits: batch*channels threads are all the parallelism there is.
#include "ssm_recurrence.cuh"

template <typename T, bool Backward> __device__ void sequential(const Recurrence<T, Backward>& scan) {
    typedef typename Number<T>::V V;
    const i64 column = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= scan.batch * scan.channels) return;
    const i64 b = column / scan.channels, c = column % scan.channels;
    V h = scan.start(b, c);
    i64 i = scan.at(b, 0, c);
#pragma unroll 1
    for (i64 s = 0; s < scan.seq_len; ++s, i += scan.stride()) {
        h = advance(scan.factor(i, s == 0), h, scan.added(i));
        scan.finish(i, s == scan.seq_len - 1, b, c, h);
    }
}

#define NOTHING
RECURRENCE_KERNELS(sequential, 128, f32, float, NOTHING, NOTHING)
RECURRENCE_KERNELS(sequential, 128, bf16, __nv_bfloat16, NOTHING, NOTHING)
RECURRENCE_KERNELS(sequential, 128, c64, float2, NOTHING, NOTHING)
