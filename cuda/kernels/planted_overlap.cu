// Idea: two launches of which the second begins before the first has ended, with one fault planted in each second one, and
//   a sound control: the simulator must let the control pass and catch every other. And a pair that only an overlap brings
//   together, by which a device shows that launches do overlap.
// Source: the rules of griddepcontrol in the PTX manual.
// Shapes: x, y, z [n] u32, n the number of threads; flag, met [1] u32.
// Plan: `first` doubles x into y; the second launches write y, the neighbour's, plus 1 to z.
// Numerics: integers.
// Limits: as many threads as elements; planted faults write what no kernel should.
// Target: compute_90
#include "numeric.cuh"
#include "overlap.cuh"

extern "C" __global__ void overlap_first(const u32* x, u32* y) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    let_next_begin();
    y[i] = 2 * x[i];
}

__device__ __forceinline__ void add_one(const u32* y, u32* z) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x, n = gridDim.x * blockDim.x;
    z[i] = __ldcg(y + (i + 1) % n) + 1;
}

extern "C" __global__ void overlap_sound(u32* x, u32* y, u32* z) {
    wait_for_launches();
    add_one(y, z);
}
extern "C" __global__ void overlap_never_waits(u32* x, u32* y, u32* z) { z[blockIdx.x * blockDim.x + threadIdx.x] = 1; }
extern "C" __global__ void overlap_reads_early(u32* x, u32* y, u32* z) {
    add_one(y, z);
    wait_for_launches();
}
extern "C" __global__ void overlap_one_waits(u32* x, u32* y, u32* z) {
    if (threadIdx.x == 0) wait_for_launches();
    __syncthreads();
    add_one(y, z);
}
extern "C" __global__ void overlap_writes_early(u32* x, u32* y, u32* z) {
    x[blockIdx.x * blockDim.x + threadIdx.x] = 0;
    wait_for_launches();
    add_one(y, z);
}
extern "C" __global__ void overlap_non_coherent(u32* x, u32* y, u32* z) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x, n = gridDim.x * blockDim.x;
    wait_for_launches();
    z[i] = __ldg(y + (i + 1) % n) + 1;
}

// Looks `looks` times for a flag that only the next launch raises, which does so before it waits: a fault, on purpose.
extern "C" __global__ void overlap_looks(const volatile u32* flag, u32* met, u32 looks) {
    let_next_begin();
    u32 seen = 0;
    for (u32 i = 0; i < looks && !seen; ++i) seen = *flag;
    *met = seen;
}
extern "C" __global__ void overlap_raises(volatile u32* flag) {
    *flag = 1;
    wait_for_launches();
}
