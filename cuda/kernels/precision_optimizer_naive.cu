// Idea: a launch a tensor, a thread a parameter: what a loop over a model's parameters does.
// Source: Loshchilov & Hutter 2019, "Decoupled Weight Decay Regularization", algorithm 2; Sutskever et al. 2013.
// Shapes: all arrays [total], tensors end to end; this launch is parameters begin..begin + count of tensor `tensor`.
// Plan: each thread reads its parameter's state, gradient and master weight once and writes them once.
// Numerics: f32, in the order of the definition.
// Limits: none.
#include "precision_optimizer.cuh"

template <typename Optimizer>
__device__ __forceinline__ void one(i64 tensor, i64 begin, i64 count, const Model& model, const Optimizer& optimizer) {
    const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) update(begin + i, model.decay[tensor], *model.inverse_scale, *model.skip != 0, model, optimizer);
}

extern "C" __global__ void adamw(MODEL_ARGUMENTS, i64 tensor, i64 begin, i64 count, ADAMW_ARGUMENTS) {
    one(tensor, begin, count, MODEL, ADAMW);
}

extern "C" __global__ void sgd(MODEL_ARGUMENTS, i64 tensor, i64 begin, i64 count, SGD_ARGUMENTS) {
    one(tensor, begin, count, MODEL, SGD);
}
