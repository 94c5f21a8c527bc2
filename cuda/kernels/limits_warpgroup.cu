// Idea: the rate of Hopper's own matrix products, which those of limits.cu do not reach.
// Source: ours; the instruction is wgmma (PTX ISA, "Asynchronous Warpgroup Level Matrix Instructions").
// Shapes: sink f32 [threads]: `rounds` rounds of PRODUCTS products of 64 by 128 by 32 bytes of K a warpgroup.
// Plan: two warpgroups a block, two blocks a multiprocessor; A in registers, B a tile that the block fills itself, 128 bytes
//   swizzled, as attention's values lie. Operands are random, of sizes near 1: zeros would draw less power and run faster.
// Numerics: sums of random signs stay far from the largest f32; they are stored so that nothing is optimized away.
// Limits: what a kernel gets that only multiplies, for under a millisecond: longer ones slow down as the device heats.
// Target: compute_90a
#include "hopper.cuh"

static constexpr int PRODUCTS = 4, ROW = 128, TILE = PRODUCTS * 32 * ROW;

// Thirty-two bits of an integer's hash.
__device__ __forceinline__ u32 random_bits(u32 x) {
    x = (x ^ x >> 16) * 0x85ebca6bu;
    x = (x ^ x >> 13) * 0xc2b2ae35u;
    return x ^ x >> 16;
}
// Two bf16 or four e4m3: random signs and mantissas, and one of two exponents: sizes from 1/2 to 2.
__device__ __forceinline__ u32 random_bf16(u32 x) { return (random_bits(x) & 0x80ff80ffu) + 0x3f003f00u; }
__device__ __forceinline__ u32 random_e4m3(u32 x) { return (random_bits(x) & 0x8f8f8f8fu) + 0x30303030u; }

struct Bf16 {
    static __device__ __forceinline__ u32 random(u32 x) { return random_bf16(x); }
    // K runs over rows; the tile's halves of 64 columns lie behind one another.
    static __device__ __forceinline__ u64 operand(u32 tile, int k) { return tile_descriptor(tile + k * 16 * ROW, TILE / 2); }
    static __device__ __forceinline__ void multiply(float (&sum)[64], const u32 (&a)[4], u64 b) { product<128>(sum, a, b); }
};
struct E4m3 {
    static __device__ __forceinline__ u32 random(u32 x) { return random_e4m3(x); }
    // K runs along rows.
    static __device__ __forceinline__ u64 operand(u32 tile, int k) { return tile_descriptor(tile + k * 32, 16); }
    static __device__ __forceinline__ void multiply(float (&sum)[64], const u32 (&a)[4], u64 b) {
        product_e4m3<128>(sum, a, b, 1);
    }
};

template <typename Operands> __device__ __forceinline__ void multiply(float* __restrict__ sink, int rounds) {
    alignas(1024) __shared__ u32 tile[TILE / 4];
    const u32 thread = blockIdx.x * blockDim.x + threadIdx.x;
    for (u32 i = threadIdx.x; i < TILE / 4; i += blockDim.x) tile[i] = Operands::random(i);
    u32 a[PRODUCTS][4];
#pragma unroll
    for (int k = 0; k < PRODUCTS; ++k)
#pragma unroll
        for (int i = 0; i < 4; ++i) a[k][i] = Operands::random(thread * 16 + k * 4 + i);
    float sum[64];
#pragma unroll
    for (int i = 0; i < 64; ++i) sum[i] = 0.f;
    order_for_engines();
    __syncthreads();
    const u32 b = (u32)__cvta_generic_to_shared(tile);
#pragma unroll 1
    for (int r = 0; r < rounds; ++r) {
        product_begin();
#pragma unroll
        for (int k = 0; k < PRODUCTS; ++k) Operands::multiply(sum, a[k], Operands::operand(b, k));
        product_commit();
        product_wait<1>();
    }
    product_wait<0>();
    product_done(sum);
    float total = 0.f;
#pragma unroll
    for (int i = 0; i < 64; ++i) total += sum[i];
    sink[thread] = total;
}

extern "C" __global__ void __launch_bounds__(256, 2) products_bf16(float* __restrict__ sink, int rounds) {
    multiply<Bf16>(sink, rounds);
}
extern "C" __global__ void __launch_bounds__(256, 2) products_e4m3(float* __restrict__ sink, int rounds) {
    multiply<E4m3>(sink, rounds);
}
