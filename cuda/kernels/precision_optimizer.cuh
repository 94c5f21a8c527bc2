// The steps of the optimizers on one parameter.
#pragma once
#include "any_dtype.cuh"

// What every kernel is given besides an optimizer's own: all tensors of a model lie end to end in each array. For f32
// the master weights are the weights, and `weights` is null.
struct Model {
    const float *master, *decay, *inverse_scale;
    const void* gradients;
    const int* skip;
    float* next_master;
    void* weights;
    int dtype;
};

struct AdamW {
    const float *m, *v;
    float *next_m, *next_v;
    float lr, beta1, rest1, beta2, rest2, eps, rate, correction;

    static constexpr int STATES = 2;
    __device__ __forceinline__ const float* state(int which) const { return which == 0 ? m : v; }
    __device__ __forceinline__ float* next_state(int which) const { return which == 0 ? next_m : next_v; }

    // The new parameter; `state` is m and v, and becomes m′ and v′.
    __device__ __forceinline__ float step(float theta, float g, float decay, float (&state)[STATES]) const {
        state[0] = beta1 * state[0] + rest1 * g;
        state[1] = beta2 * state[1] + rest2 * (g * g);
        return theta * (1.f - lr * decay) - rate * (state[0] / (sqrtf(state[1]) * correction + eps));
    }
};

struct Sgd {
    const float* momentum;
    float* next_momentum;
    float lr, mu;
    int nesterov;

    static constexpr int STATES = 1;
    __device__ __forceinline__ const float* state(int) const { return momentum; }
    __device__ __forceinline__ float* next_state(int) const { return next_momentum; }

    __device__ __forceinline__ float step(float theta, float g, float decay, float (&state)[STATES]) const {
        g += decay * theta;
        state[0] = mu * state[0] + g;
        return theta - lr * (nesterov ? g + mu * state[0] : state[0]);
    }
};

// Parameter i of a tensor with that decay.
template <typename Optimizer>
__device__ __forceinline__ void update(i64 i, float decay, float inverse_scale, bool skip, const Model& model,
                                       const Optimizer& optimizer) {
    float theta = model.master[i], state[Optimizer::STATES];
#pragma unroll
    for (int s = 0; s < Optimizer::STATES; ++s) state[s] = optimizer.state(s)[i];
    if (!skip) theta = optimizer.step(theta, load(model.gradients, i, model.dtype) * inverse_scale, decay, state);
    model.next_master[i] = theta;
#pragma unroll
    for (int s = 0; s < Optimizer::STATES; ++s) optimizer.next_state(s)[i] = state[s];
    if (model.dtype != F32) store(model.weights, i, theta, model.dtype);
}

#define MODEL_ARGUMENTS                                                                                               \
    const float *master, const void *gradients, const float *decay, const float *inverse_scale, const int *skip,      \
        float *next_master, void *weights, int dtype
#define MODEL Model{master, decay, inverse_scale, gradients, skip, next_master, weights, dtype}
#define ADAMW_ARGUMENTS                                                                                               \
    const float *m, const float *v, float *next_m, float *next_v, float lr, float beta1, float rest1, float beta2,    \
        float rest2, float eps, float rate, float correction
#define ADAMW AdamW{m, v, next_m, next_v, lr, beta1, rest1, beta2, rest2, eps, rate, correction}
#define SGD_ARGUMENTS const float *momentum, float *next_momentum, float lr, float mu, int nesterov
#define SGD Sgd{momentum, next_momentum, lr, mu, nesterov}
