// Idea: a state space that does not depend on its input is a convolution, and a convolution is a product of transforms.
// Source: Gu, Goel and Re, Efficiently Modeling Long Sequences with Structured State Spaces (2022), section 3.1; the
//         transform by Gentleman and Sande (1966), and back by Cooley and Tukey (1965).
// Shapes: u, y [batch, channels, seq_len]; lambda, w [channels, state] complex; d [channels]; twiddles [points / 2]
//         complex, exp(-2 pi i k / points); spectrum [channels, points] complex, scratch.
// Plan: points is the power of two from 2 seq_len on, so nothing wraps around. `spectrum` sums the powers of each lambda
//       into the kernel K and transforms it, a block a channel. `convolve` transforms two sequences of a channel at once,
//       one as real and one as imaginary part, for K is real. Forward leaves the order of bits reversed, the product does
//       not mind, and back starts from it: no reordering. Two stages a pass, in registers.
// Numerics: f32; twiddles rounded from f64. A thread's first power of lambda is put together in f64 and rounded once: squared
//       in f32, errors double with every squaring, and were most of the error.
// Limits: seq_len at most 8192: the points lie in shared memory.
#include "ssm.cuh"

constexpr int MOST_THREADS = 1024;

// One stage of a pair: forward (a + b, (a - b) t), back (a + conj(t) b, a - conj(t) b).
template <bool Back> __device__ __forceinline__ void pair(float2& a, float2& b, float2 t) {
    if (Back) b = times(b, conj(t));
    const float2 sum = make_float2(a.x + b.x, a.y + b.y), rest = make_float2(a.x - b.x, a.y - b.y);
    a = sum;
    b = Back ? rest : times(rest, t);
}
// The stages over distances 2 q and q (back: q and 2 q) of points in shared memory.
template <bool Back> __device__ void two_stages(float2* x, const float2* twiddles, int points, int q) {
    __syncthreads();
    const int step = points / (4 * q);  // twiddle k of distance 2 q is table entry k * step
#pragma unroll 1
    for (int i = threadIdx.x; i < points / 4; i += blockDim.x) {
        const int k = i % q;
        float2* const at = x + (i - k) * 4 + k;
        float2 v[4] = {at[0], at[q], at[2 * q], at[3 * q]};
        const float2 far = twiddles[k * step], further = twiddles[(k + q) * step], near = twiddles[k * step * 2];
        if (Back) {
            pair<true>(v[0], v[1], near);
            pair<true>(v[2], v[3], near);
        }
        pair<Back>(v[0], v[2], far);
        pair<Back>(v[1], v[3], further);
        if (!Back) {
            pair<false>(v[0], v[1], near);
            pair<false>(v[2], v[3], near);
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) at[j * q] = v[j];
    }
}
// The stage over distance 1, whose twiddle is 1: last forward and first back where the number of stages is odd.
__device__ void last_stage(float2* x, int points) {
    __syncthreads();
#pragma unroll 1
    for (int i = threadIdx.x; i < points / 2; i += blockDim.x) pair<false>(x[2 * i], x[2 * i + 1], one<float2>());
}
__device__ void forward(float2* x, const float2* twiddles, int points) {
    int q = points / 4;
#pragma unroll 1
    for (; q >= 1; q /= 4) two_stages<false>(x, twiddles, points, q);
    if (__popc(points - 1) % 2) last_stage(x, points);
    __syncthreads();
}
__device__ void back(float2* x, const float2* twiddles, int points) {
    const bool odd = __popc(points - 1) % 2;
    if (odd) last_stage(x, points);
#pragma unroll 1
    for (int q = odd ? 2 : 1; q <= points / 4; q *= 4) two_stages<true>(x, twiddles, points, q);
    __syncthreads();
}

// Powers of some states' lambda by squaring: 1, 2, 4, ..., 1024, as many as an exponent below MOST_THREADS + 1 has bits.
constexpr int STATES = 32, SQUARES = 11;  // a block has at least STATES threads

__device__ __forceinline__ double2 times(double2 a, double2 b) {
    return make_double2(fma(a.x, b.x, -a.y * b.y), fma(a.x, b.y, a.y * b.x));
}
__device__ __forceinline__ double2 widened(float2 a) { return make_double2(a.x, a.y); }
// Of `result` and the power that the bits of `exponent` put together.
__device__ float2 times_power(double2 result, const double2* squares, int exponent) {
#pragma unroll 1
    for (; exponent; exponent /= 2, ++squares)
        if (exponent % 2) result = times(result, *squares);
    return make_float2(result.x, result.y);
}

extern "C" __global__ void __launch_bounds__(MOST_THREADS)
    spectrum(const float2* lambda, const float2* w, const float2* twiddles, float2* out, i64 channels, i64 seq_len,
             i64 state, int points) {
    extern __shared__ float2 x[];
    __shared__ double2 squares[STATES][SQUARES];
    const i64 channel = blockIdx.x;
    for (int i = threadIdx.x; i < points; i += blockDim.x) x[i] = zero<float2>();
#pragma unroll 1
    for (i64 first = channel * state; first < (channel + 1) * state; first += STATES) {
        const int here = (int)min((i64)STATES, (channel + 1) * state - first);
        __syncthreads();
        if (threadIdx.x < here) {
            double2 base = widened(lambda[first + threadIdx.x]);
#pragma unroll 1
            for (int s = 0; s < SQUARES; ++s, base = times(base, base)) squares[threadIdx.x][s] = base;
        }
        __syncthreads();
#pragma unroll 1
        for (int n = 0; n < here; ++n) {
            const float2 stride = times_power(make_double2(1., 0.), squares[n], blockDim.x);
            float2 p = times_power(widened(w[first + n]), squares[n], threadIdx.x);
#pragma unroll 1
            for (int i = threadIdx.x; i < seq_len; i += blockDim.x, p = times(p, stride)) x[i].x += 2.f * p.x;
        }
    }
    forward(x, twiddles, points);
    for (int i = threadIdx.x; i < points; i += blockDim.x) out[channel * points + i] = x[i];
}

extern "C" __global__ void __launch_bounds__(MOST_THREADS)
    convolve(const float* u, const float2* spectrum, const float2* twiddles, const float* d, float* y, i64 batch,
             i64 channels, i64 seq_len, int points) {
    extern __shared__ float2 x[];
    const i64 channel = blockIdx.x % channels, first = blockIdx.x / channels * 2;
    const bool two = first + 1 < batch;
    const i64 at = (first * channels + channel) * seq_len, other = at + channels * seq_len;
    for (int i = threadIdx.x; i < points; i += blockDim.x) {
        const bool inside = i < seq_len;
        x[i] = make_float2(inside ? u[at + i] : 0.f, inside && two ? u[other + i] : 0.f);
    }
    forward(x, twiddles, points);
    for (int i = threadIdx.x; i < points; i += blockDim.x) x[i] = times(x[i], spectrum[channel * points + i]);
    back(x, twiddles, points);
    const float share = 1.f / points, skip = d[channel];
    for (int i = threadIdx.x; i < seq_len; i += blockDim.x) {
        y[at + i] = fmaf(skip, u[at + i], x[i].x * share);
        if (two) y[other + i] = fmaf(skip, u[other + i], x[i].y * share);
    }
}
