// A launch that begins before the one before it has ended (compute_90 and up; elsewhere a plan's launches run in order).
#pragma once

// From here on the next launch may begin, once all blocks of this one have said so or ended and there is room for it.
__device__ __forceinline__ void let_next_begin() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }

// Waits until the launches before have ended and what they wrote is visible: before it a thread neither reads what they
// write nor writes what they use. What they wrote must not be read through `const __restrict__` or __ldg() even then: that
// path may hold what it held when this launch began.
__device__ __forceinline__ void wait_for_launches() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
