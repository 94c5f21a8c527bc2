// A kernel as a user brings it: no header of ours, any names, any order of arguments. recurrence.toml beside it
// tells touchstone how to launch it:
//
//     touchstone check ssm.recurrence --kernel bench/examples/cuda/recurrence.toml
//
// It needs NVRTC (libnvrtc) where touchstone runs; without it, compile first and name the .ptx as source:
//
//     nvcc -ptx -arch=compute_80 -o recurrence.ptx recurrence.cu
//     touchstone check ssm.recurrence --kernel recurrence.ptx:my_recurrence --launch recurrence.toml

// h[b, t, c] = a[b, t, c] * h[b, t-1, c] + x[b, t, c]; one thread a channel. `start` may be null: zeros.
extern "C" __global__ void my_recurrence(float* h, const float* a, const float* x, const float* start, int channels,
                                         long long columns, long long steps) {
    const long long column = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (column >= columns) return;
    const long long b = column / channels, c = column % channels;
    float state = start ? start[column] : 0.0f;
    for (long long t = 0; t < steps; ++t) {
        const long long i = (b * steps + t) * channels + c;
        state = fmaf(a[i], state, x[i]);
        h[i] = state;
    }
}
