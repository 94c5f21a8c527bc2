// What the kernels of typical acceptance agree on.
#pragma once
#include "acceptance.cuh"

// Whether a token of this probability is likely enough after a distribution of this entropy.
__device__ __forceinline__ bool is_typical(float p, double entropy, double epsilon, double delta) {
    return (double)p > fmin(epsilon, delta * exp(-entropy));
}
