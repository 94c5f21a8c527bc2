// Hopper's own instructions (compute_90a): mbarriers, the tensor copy engine, warpgroup products, register shares.
#pragma once
#include "numeric.cuh"

// What the plan describes and the executor encodes; passed by value as a __grid_constant__ parameter.
struct alignas(64) TensorMap {
    unsigned char opaque[128];
};

// ---- mbarriers: 64 bits of shared memory that count arrivals and bytes still under way

__device__ __forceinline__ void barrier_init(u32 barrier, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
// Makes initialised barriers visible to the copy engine; a block barrier must follow.
__device__ __forceinline__ void barrier_init_done() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ __forceinline__ void barrier_arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// Arrives, and lets the phase wait for that many bytes of copies.
__device__ __forceinline__ void barrier_expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
// Waits until the phase of that parity has ended.
__device__ __forceinline__ void barrier_wait(u32 barrier, u32 parity) {
    u32 done;
    do {
        asm volatile(
            "{\n.reg .pred p;\n"
            "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
            "selp.u32 %0, 1, 0, p;\n}"
            : "=r"(done)
            : "r"(barrier), "r"(parity)
            : "memory");
    } while (!done);
}

// ---- named barriers, for `threads` threads in all

__device__ __forceinline__ void named_sync(int id, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
__device__ __forceinline__ void named_arrive(int id, int threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// ---- tensor copies

// Copies the map's box at the coordinates (innermost first) to shared memory; the barrier counts its bytes.
__device__ __forceinline__ void copy_box(u32 to, const TensorMap* map, u32 barrier, int x, int y, int z, int w) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2];"
        ::"r"(to), "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z), "r"(w)
        : "memory");
}

// ---- warpgroup products

template <int COUNT> __device__ __forceinline__ void registers_up() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}
template <int COUNT> __device__ __forceinline__ void registers_down() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}

__device__ __forceinline__ void product_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void product_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int PENDING> __device__ __forceinline__ void product_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}
// Accumulators are written behind the compiler's back until the wait: no use of them may move above it.
template <int N> __device__ __forceinline__ void product_done(float (&r)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) asm volatile("" : "+f"(r[i])::"memory");
}

// A tile in shared memory whose rows are 128 bytes, swizzled by 128 bytes as the copy engine writes them; eight rows
// make an atom of 1024 bytes. Along the rows' own direction (K of a K-major operand) a step of 16 values is 32 bytes.
// `leading` is the distance in bytes between atoms side by side, for operands wider than 64 values across.
__device__ __forceinline__ u64 tile_descriptor(u32 address, u32 leading) {
    return (u64)(address >> 4 & 0x3fff) | (u64)(leading >> 4 & 0x3fff) << 16 | (u64)(1024 >> 4) << 32 | (u64)1 << 62;
}

// c (64 x 128) = (add ? c : 0) + A B^T, both operands in shared memory with their 16 values of K contiguous.
template <typename T> __device__ __forceinline__ void product_64x128(float (&c)[64], u64 a, u64 b, int add);
// c (64 x N) += A B, A in registers, B in shared memory with its N values contiguous.
template <typename T> __device__ __forceinline__ void product_64x128(float (&c)[64], const u32 (&a)[4], u64 b);
template <typename T> __device__ __forceinline__ void product_64x64(float (&c)[32], const u32 (&a)[4], u64 b);

// Accumulators as operands: their places in the text of an instruction, and themselves.
#define PLACES_0_31                                                                                                    \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                           \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define REGISTERS_0_31                                                                                                 \
    "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]), "+f"(c[7]),                    \
    "+f"(c[8]), "+f"(c[9]), "+f"(c[10]), "+f"(c[11]), "+f"(c[12]), "+f"(c[13]), "+f"(c[14]), "+f"(c[15]),              \
    "+f"(c[16]), "+f"(c[17]), "+f"(c[18]), "+f"(c[19]), "+f"(c[20]), "+f"(c[21]), "+f"(c[22]), "+f"(c[23]),            \
    "+f"(c[24]), "+f"(c[25]), "+f"(c[26]), "+f"(c[27]), "+f"(c[28]), "+f"(c[29]), "+f"(c[30]), "+f"(c[31])
#define PLACES_32_63                                                                                                   \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                                 \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define REGISTERS_32_63                                                                                                \
    "+f"(c[32]), "+f"(c[33]), "+f"(c[34]), "+f"(c[35]), "+f"(c[36]), "+f"(c[37]), "+f"(c[38]), "+f"(c[39]),            \
    "+f"(c[40]), "+f"(c[41]), "+f"(c[42]), "+f"(c[43]), "+f"(c[44]), "+f"(c[45]), "+f"(c[46]), "+f"(c[47]),            \
    "+f"(c[48]), "+f"(c[49]), "+f"(c[50]), "+f"(c[51]), "+f"(c[52]), "+f"(c[53]), "+f"(c[54]), "+f"(c[55]),            \
    "+f"(c[56]), "+f"(c[57]), "+f"(c[58]), "+f"(c[59]), "+f"(c[60]), "+f"(c[61]), "+f"(c[62]), "+f"(c[63])

#define PRODUCTS(T, NAME)                                                                                              \
    template <> __device__ __forceinline__ void product_64x128<T>(float (&c)[64], u64 a, u64 b, int add) {             \
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"                                                      \
                     "wgmma.mma_async.sync.aligned.m64n128k16.f32." NAME "." NAME " "                                  \
                     "{" PLACES_0_31 ", " PLACES_32_63 "}, %64, %65, p, 1, 1, 0, 0;\n}"                                \
                     : REGISTERS_0_31, REGISTERS_32_63                                                                 \
                     : "l"(a), "l"(b), "r"(add));                                                                      \
    }                                                                                                                  \
    template <> __device__ __forceinline__ void product_64x128<T>(float (&c)[64], const u32 (&a)[4], u64 b) {          \
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, 1, 0;\n"                                                        \
                     "wgmma.mma_async.sync.aligned.m64n128k16.f32." NAME "." NAME " "                                  \
                     "{" PLACES_0_31 ", " PLACES_32_63 "}, {%64, %65, %66, %67}, %68, p, 1, 1, 1;\n}"                  \
                     : REGISTERS_0_31, REGISTERS_32_63                                                                 \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                                            \
    }                                                                                                                  \
    template <> __device__ __forceinline__ void product_64x64<T>(float (&c)[32], const u32 (&a)[4], u64 b) {           \
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, 1, 0;\n"                                                        \
                     "wgmma.mma_async.sync.aligned.m64n64k16.f32." NAME "." NAME " "                                   \
                     "{" PLACES_0_31 "}, {%32, %33, %34, %35}, %36, p, 1, 1, 1;\n}"                                    \
                     : REGISTERS_0_31                                                                                  \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                                            \
    }
PRODUCTS(__half, "f16")
PRODUCTS(__nv_bfloat16, "bf16")
