// Idea: a block scans 128 time steps of 32 channels at once and carries the state to the next 128.
// Source: Blelloch, Prefix Sums and Their Applications (1990), section 1.4: (a, x) pairs compose.
// Shapes: a, x, h [batch, seq_len, channels]; initial_state [batch, channels]; complex numbers as pairs.
// Plan: 32 channels x 16 warps, 8 steps a thread in registers; the warps' sums meet in shared memory,
//       two buffers of them so that one barrier a tile suffices.
// Numerics: f32; a state passes through the same factors as sequentially, multiplied in another order.
// Limits: a sequence stays with one block, so batch*channels/32 blocks must fill the device.
#include "ssm_recurrence_tile.cuh"

template <typename T, bool Backward> __device__ void block_scan(const Recurrence<T, Backward>& scan) {
    constexpr int Warps = 16, Steps = 8;
    typedef Tile<T, Backward, Warps, Steps> Part;
    typedef typename Number<T>::V V;
    __shared__ typename Part::Sums sums[2];
    const i64 columns = (scan.channels + 31) / 32;
    const i64 b = blockIdx.x / columns, c = blockIdx.x % columns * 32 + threadIdx.x;
    V state = c < scan.channels ? scan.start(b, c) : zero<V>();
    int buffer = 0;
    for (i64 from = 0; from < scan.seq_len; from += Warps * Steps, buffer ^= 1) {
        Part tile;
        tile.load(scan, b, from, c);
        tile.reduce(sums[buffer]);
        __syncthreads();
        tile.finish(scan, b, from, c, Part::carry(sums[buffer], state, threadIdx.y));
        state = Part::carry(sums[buffer], state, Warps);
    }
}

#define NOTHING
RECURRENCE_KERNELS(block_scan, 512, f32, float, NOTHING, NOTHING)
RECURRENCE_KERNELS(block_scan, 512, bf16, __nv_bfloat16, NOTHING, NOTHING)
RECURRENCE_KERNELS(block_scan, 512, c64, float2, NOTHING, NOTHING)
