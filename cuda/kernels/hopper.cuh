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

// Orders this thread's ordinary accesses to shared memory before later ones of the copy engine and of products.
__device__ __forceinline__ void order_for_engines() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// ---- tensor copies

// Copies the map's box at the coordinates (innermost first) to shared memory; the barrier counts its bytes.
__device__ __forceinline__ void copy_box(u32 to, const TensorMap* map, u32 barrier, int x, int y, int z, int w) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2];"
        ::"r"(to), "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z), "r"(w)
        : "memory");
}

__device__ __forceinline__ void copy_box(u32 to, const TensorMap* map, u32 barrier, int v, int w, int x, int y, int z) {
    asm volatile(
        "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6, %7}], [%2];"
        ::"r"(to), "l"(map), "r"(barrier), "r"(v), "r"(w), "r"(x), "r"(y), "r"(z)
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

// Products of 64 rows and N columns, K = 16. The text names bf16; twins replace it (see cuda/src/ptx.rs).
// product<N>(c, a, b, add): c = (add ? c : 0) + A B^T, both in shared memory with their 16 values of K contiguous.
// product<N>(c, a, b, add): the same with A B, A in registers, B in shared memory with its N values contiguous.
// product_e4m3<N>(c, a, b, add): c = (add ? c : 0) + A B^T, K = 32 contiguous values of 8 bits, A in either place. Sums
// keep 13 binary places below the largest product of 32, so they are worth taking out and adding in f32.
template <int N> __device__ __forceinline__ void product(float (&c)[N / 2], u64 a, u64 b, int add);
template <int N> __device__ __forceinline__ void product(float (&c)[N / 2], const u32 (&a)[4], u64 b, int add = 1);
template <int N> __device__ __forceinline__ void product_e4m3(float (&c)[N / 2], u64 a, u64 b, int add);
template <int N> __device__ __forceinline__ void product_e4m3(float (&c)[N / 2], const u32 (&a)[4], u64 b, int add);

// Accumulators as operands: their places in the text of an instruction, and themselves.
#define PLACES_0_31 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define PLACES_0_23 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23"
#define PLACES_32_39 \
    "%32, %33, %34, %35, %36, %37, %38, %39"
#define PLACES_32_63 \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define PLACES_64_87 \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
    "%80, %81, %82, %83, %84, %85, %86, %87"
#define PLACES_64_127 \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, " \
    "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
    "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define REGISTERS_8(i) \
    "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3]), "+f"(c[i + 4]), "+f"(c[i + 5]), "+f"(c[i + 6]), "+f"(c[i + 7])
#define REGISTERS_32(i) REGISTERS_8(i), REGISTERS_8(i + 8), REGISTERS_8(i + 16), REGISTERS_8(i + 24)
#define REGISTERS_24 REGISTERS_8(0), REGISTERS_8(8), REGISTERS_8(16)
#define REGISTERS_40 REGISTERS_32(0), REGISTERS_8(32)
#define REGISTERS_64 REGISTERS_32(0), REGISTERS_32(32)
#define REGISTERS_88 REGISTERS_64, REGISTERS_8(64), REGISTERS_8(72), REGISTERS_8(80)
#define REGISTERS_128 REGISTERS_64, REGISTERS_32(64), REGISTERS_32(96)

#define PRODUCT_OF_SHARED(NAME, ELEMENTS, SCALES, N, PLACES, REGISTERS, A, B, ADD)                                      \
    template <> __device__ __forceinline__ void NAME<N>(float (&c)[N / 2], u64 a, u64 b, int add) {                    \
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " ADD ", 0;\n"                                                  \
                     "wgmma.mma_async.sync.aligned.m64n" #N ELEMENTS " "                                                   \
                     "{" PLACES "}, " A ", " B ", p, " SCALES ";\n}"                                                   \
                     : REGISTERS                                                                                       \
                     : "l"(a), "l"(b), "r"(add));                                                                      \
    }
#define PRODUCT_OF_REGISTERS(NAME, ELEMENTS, SCALES, N, PLACES, REGISTERS, A, B, ADD)                                   \
    template <> __device__ __forceinline__ void NAME<N>(float (&c)[N / 2], const u32 (&a)[4], u64 b, int add) {        \
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " ADD ", 0;\n"                                                  \
                     "wgmma.mma_async.sync.aligned.m64n" #N ELEMENTS " "                                                   \
                     "{" PLACES "}, {" A "}, " B ", p, " SCALES ";\n}"                                                 \
                     : REGISTERS                                                                                       \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));                                  \
    }
// Elements, and what follows the operands: their signs and, of 16 bits in shared memory, whether K is not the contiguous one.
#define OF_BF16 "k16.f32.bf16.bf16"
#define OF_E4M3 "k32.f32.e4m3.e4m3"
PRODUCT_OF_SHARED(product, OF_BF16, "1, 1, 0, 0", 48, PLACES_0_23, REGISTERS_24, "%24", "%25", "%26")
PRODUCT_OF_SHARED(product, OF_BF16, "1, 1, 0, 0", 64, PLACES_0_31, REGISTERS_32(0), "%32", "%33", "%34")
PRODUCT_OF_SHARED(product, OF_BF16, "1, 1, 0, 0", 80, PLACES_0_31 ", " PLACES_32_39, REGISTERS_40, "%40", "%41", "%42")
PRODUCT_OF_SHARED(product, OF_BF16, "1, 1, 0, 0", 128, PLACES_0_31 ", " PLACES_32_63, REGISTERS_64, "%64", "%65", "%66")
PRODUCT_OF_SHARED(product, OF_BF16, "1, 1, 0, 0", 176, PLACES_0_31 ", " PLACES_32_63 ", " PLACES_64_87, REGISTERS_88, "%88", "%89", "%90")
PRODUCT_OF_REGISTERS(product, OF_BF16, "1, 1, 1", 64, PLACES_0_31, REGISTERS_32(0), "%32, %33, %34, %35", "%36", "%37")
PRODUCT_OF_REGISTERS(product, OF_BF16, "1, 1, 1", 128, PLACES_0_31 ", " PLACES_32_63, REGISTERS_64, "%64, %65, %66, %67", "%68", "%69")
PRODUCT_OF_REGISTERS(product, OF_BF16, "1, 1, 1", 256, PLACES_0_31 ", " PLACES_32_63 ", " PLACES_64_127, REGISTERS_128, "%128, %129, %130, %131", "%132", "%133")
PRODUCT_OF_SHARED(product_e4m3, OF_E4M3, "1, 1", 128, PLACES_0_31 ", " PLACES_32_63, REGISTERS_64, "%64", "%65", "%66")
PRODUCT_OF_REGISTERS(product_e4m3, OF_E4M3, "1, 1", 128, PLACES_0_31 ", " PLACES_32_63, REGISTERS_64, "%64, %65, %66, %67", "%68", "%69")

// ---- what only some kernels need stands last, where it moves no line of the others

// As barrier_wait, but a thread that has to wait sleeps for up to 10 ms at a time: one that asks again and again takes the
// instruction slots of the warps that compute beside it.
__device__ __forceinline__ void barrier_sleep(u32 barrier, u32 parity) {
    u32 done;
    do {
        asm volatile(
            "{\n.reg .pred p;\n"
            "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2, 10000000;\n"
            "selp.u32 %0, 1, 0, p;\n}"
            : "=r"(done)
            : "r"(barrier), "r"(parity)
            : "memory");
    } while (!done);
}

// A tile's descriptor (see tile_descriptor) from its lower word, to which 16 bytes are 1: the way to step through a tile in
// one addition.
__device__ __forceinline__ u32 descriptor_start(u32 address, u32 leading) { return address >> 4 | leading >> 4 << 16; }
__device__ __forceinline__ u64 descriptor_at(u32 low) {
    u64 descriptor;
    asm("mov.b64 %0, {%1, %2};" : "=l"(descriptor) : "r"(low), "r"(1024 >> 4 | 1 << 30));
    return descriptor;
}

// Copies a box in shared memory to the map's box at the coordinates; what lies outside the tensor is not written. The
// copies since the last commit make a group of this thread's.
__device__ __forceinline__ void store_box(const TensorMap* map, u32 from, int x, int y, int z, int w) {
    asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5}], [%1];"
                 ::"l"(map), "r"(from), "r"(x), "r"(y), "r"(z), "r"(w)
                 : "memory");
}
__device__ __forceinline__ void stores_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// Until all of this thread's groups have read what they copy; and until they have ended.
__device__ __forceinline__ void stores_read() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }
__device__ __forceinline__ void stores_done() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

// Ends the thread: barriers, which wait for whole warps, wait for the others of its warp alone.
__device__ __forceinline__ void end_thread() { asm volatile("exit;"); }

// Writes four 8 x 8 matrices of 16 bits, of which a thread has two neighbours of row lane / 4 each, from columns
// lane % 4 * 2 on; lanes 8 m to 8 m + 7 say where the rows of matrix m go.
__device__ __forceinline__ void store_matrices(u32 row, const u32 (&x)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};"
                 ::"r"(row), "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3])
                 : "memory");
}

// As barrier_arrive, by the threads of which `arrives` is true: a predicate, where a branch would make ptxas ask the whole
// warp whether any takes it before it computes the barrier's address.
__device__ __forceinline__ void barrier_arrive_if(u32 barrier, bool arrives) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %1, 0;\n@p mbarrier.arrive.shared::cta.b64 _, [%0];\n}"
                 ::"r"(barrier), "r"((int)arrives) : "memory");
}
