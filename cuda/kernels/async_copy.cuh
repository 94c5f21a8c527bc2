// Copies from global to shared memory that pass by no register, and are waited for in groups.
#pragma once
#include "numeric.cuh"

// `Bytes` (4, 8 or 16) to an address that is a multiple of it; zeros where not `there`.
template <int Bytes> __device__ __forceinline__ void copy_async(void* to, const void* from, bool there) {
    const u32 address = (u32)__cvta_generic_to_shared(to);
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(address), "l"(from), "n"(Bytes),
                 "r"(there ? Bytes : 0)
                 : "memory");
}
__device__ __forceinline__ void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most `Left` of the latest groups are under way.
template <int Left> __device__ __forceinline__ void copies_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(Left) : "memory");
}
