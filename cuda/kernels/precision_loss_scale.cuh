// The state machine of the loss scale.
#pragma once
#include "any_dtype.cuh"

struct Rule {
    int interval;
    float growth, backoff;
};

// f32 operations in the order of the definition; one thread.
__device__ __forceinline__ void next_state(bool bad, float scale, int streak, const Rule& rule, int* skip,
                                           float* next_scale, int* next_streak) {
    const float grown = __fmul_rn(scale, rule.growth);
    const bool full = streak + 1 >= rule.interval;
    *skip = bad;
    *next_scale = bad ? __fmul_rn(scale, rule.backoff) : full && isfinite(grown) ? grown : scale;
    *next_streak = bad || full ? 0 : streak + 1;
}

// A gradient brought back; zero, and remembered, if it is not finite.
__device__ __forceinline__ float unscaled(float gradient, float inverse, bool& bad) {
    if (isfinite(gradient)) return gradient * inverse;
    bad = true;
    return 0.f;
}
