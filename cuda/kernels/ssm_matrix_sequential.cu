// Idea: one warp follows one row of a matrix state through time, as the recurrence is written.
// Source: the definitions of SSD (Dao and Gu 2024, equation 2), retention (Sun et al. 2023, section 2.1), gated linear
//         attention (Yang et al. 2024, equation 3) and RWKV-7 (Peng et al. 2025, section 3).
// Shapes: x, y [batch, seq_len, heads, head_dim]; b, c [batch, seq_len, groups, state]; dt [batch, seq_len, heads] or
//         null for 1; rate [heads], logarithm of the decay for dt = 1, or null; gates [batch, seq_len, heads, state], natural
//         logarithms of decays, or null; removed, added [batch, seq_len, heads, state] or null; d [heads] or null;
//         initial, last [batch, heads, head_dim, state].
// Plan: the 32 lanes share a row of up to 128 states; sums over a row are taken by shuffles.
// Numerics: f32, whatever the element type.
// Limits: state at most 128; a step waits for its loads.
#include "any_dtype.cuh"

constexpr int HELD = 4;

extern "C" __global__ void __launch_bounds__(128)
    sequential(const void* x, const void* b, const void* c, const float* dt, const float* rate, const void* gates,
               const void* removed, const void* added, const float* d, const void* initial, void* y, void* last,
               i64 batch, i64 seq_len, i64 heads, i64 head_dim, i64 groups, i64 state, float scale, int dtype) {
    const i64 line = (i64)blockIdx.x * 4 + threadIdx.x / 32;  // of [batch, heads, head_dim]
    if (line >= batch * heads * head_dim) return;
    const int lane = threadIdx.x % 32, width = (int)state;
    const i64 p = line % head_dim, head = line / head_dim % heads, sequence = line / head_dim / heads;
    const i64 group = head / (heads / groups);
    const float head_rate = rate ? rate[head] : 0.f, skip = d ? d[head] : 0.f;
    float h[HELD];
#pragma unroll
    for (int k = 0; k < HELD; ++k) {
        const int n = k * 32 + lane;
        h[k] = initial && n < width ? load(initial, line * state + n, dtype) : 0.f;
    }
#pragma unroll 1
    for (i64 t = 0; t < seq_len; ++t) {
        const i64 step = (sequence * seq_len + t) * heads + head;
        const i64 shared_at = ((sequence * seq_len + t) * groups + group) * state, own_at = step * state;
        const float weight = dt ? dt[step] : 1.f, value = load(x, step * head_dim + p, dtype);
        const float decay = expf(weight * head_rate), put = weight * value;
        float taken = 0.f;
        if (removed) {
#pragma unroll
            for (int k = 0; k < HELD; ++k)
                if (k * 32 + lane < width) taken = fmaf(h[k], load(removed, own_at + k * 32 + lane, dtype), taken);
            taken = warp_sum(taken);
        }
        float sum = 0.f;
#pragma unroll
        for (int k = 0; k < HELD; ++k) {
            const int n = k * 32 + lane;
            if (n >= width) break;
            h[k] *= gates ? expf(load(gates, own_at + n, dtype)) : decay;
            if (removed) h[k] = fmaf(taken, load(added, own_at + n, dtype), h[k]);
            h[k] = fmaf(put, load(b, shared_at + n, dtype), h[k]);
            sum = fmaf(h[k], load(c, shared_at + n, dtype), sum);
        }
        sum = warp_sum(sum);
        if (lane == 0) store(y, step * head_dim + p, fmaf(skip, value, scale * sum), dtype);
    }
#pragma unroll
    for (int k = 0; k < HELD; ++k)
        if (k * 32 + lane < width) store(last, line * state + k * 32 + lane, h[k], dtype);
}
