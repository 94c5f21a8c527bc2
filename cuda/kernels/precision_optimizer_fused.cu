// Idea: one launch for a whole model: a table cuts the tensors, whatever their sizes, into chunks, a block takes one.
// Source: ours; the multi-tensor apply of NVIDIA's Apex.
// Shapes: as precision_optimizer_naive.cu; chunks [chunks, 3] i64: tensor, first parameter, one past the last.
// Plan: four parameters a thread in 16-byte words; words that straddle a chunk's ends go one by one.
// Numerics: f32, in the order of the definition.
// Limits: fewer than 2^31 chunks.
#include "precision_optimizer.cuh"

// Parameters 4 · word and the next three, all of one tensor.
template <typename Optimizer>
__device__ __forceinline__ void update_word(i64 word, float decay, float inverse_scale, bool skip, const Model& model,
                                            const Optimizer& optimizer) {
    constexpr int STATES = Optimizer::STATES;
    float theta[4], g[4], held[STATES][4];
    *reinterpret_cast<float4*>(theta) = __ldcs((const float4*)model.master + word);
    *reinterpret_cast<float4*>(g) = load4(model.gradients, word, model.dtype);
#pragma unroll
    for (int s = 0; s < STATES; ++s)
        *reinterpret_cast<float4*>(held[s]) = __ldcs((const float4*)optimizer.state(s) + word);
    if (!skip) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            float state[STATES];
#pragma unroll
            for (int s = 0; s < STATES; ++s) state[s] = held[s][e];
            theta[e] = optimizer.step(theta[e], g[e] * inverse_scale, decay, state);
#pragma unroll
            for (int s = 0; s < STATES; ++s) held[s][e] = state[s];
        }
    }
    __stcs((float4*)model.next_master + word, *reinterpret_cast<float4*>(theta));
#pragma unroll
    for (int s = 0; s < STATES; ++s)
        __stcs((float4*)optimizer.next_state(s) + word, *reinterpret_cast<float4*>(held[s]));
    if (model.dtype != F32) store4_half(model.weights, word, theta, model.dtype);
}

template <typename Optimizer>
__device__ __forceinline__ void chunk(const i64* __restrict__ chunks, const Model& model, const Optimizer& optimizer) {
    const i64 tensor = chunks[3 * (i64)blockIdx.x], begin = chunks[3 * (i64)blockIdx.x + 1],
              end = chunks[3 * (i64)blockIdx.x + 2];
    const float decay = model.decay[tensor], inverse_scale = *model.inverse_scale;
    const bool skip = *model.skip != 0;
#pragma unroll 1
    for (i64 word = begin / 4 + threadIdx.x; 4 * word < end; word += blockDim.x) {
        if (4 * word >= begin && 4 * word + 4 <= end) {
            update_word(word, decay, inverse_scale, skip, model, optimizer);
            continue;
        }
#pragma unroll 1
        for (i64 i = max(4 * word, begin); i < min(4 * word + 4, end); ++i)
            update(i, decay, inverse_scale, skip, model, optimizer);
    }
}

extern "C" __global__ void __launch_bounds__(256) adamw(MODEL_ARGUMENTS, const i64* chunks, ADAMW_ARGUMENTS) {
    chunk(chunks, MODEL, ADAMW);
}

extern "C" __global__ void __launch_bounds__(256) sgd(MODEL_ARGUMENTS, const i64* chunks, SGD_ARGUMENTS) {
    chunk(chunks, MODEL, SGD);
}
