//! What the optimizers share: a model's parameters as a list of tensors laid end to end.

use serde::{Deserialize, Serialize};

use super::{computed, element, elements};
use crate::{DType, Data, Draw, Tensor, Tensors};

/// How large the tensors of a model are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sizes {
    /// All alike.
    Equal,
    /// Every third is a vector of a few elements (norms, biases), the others lie within a factor of two.
    Mixed,
}

/// Elements of each of `tensors` tensors, `size` on average or less.
fn sizes(kind: Sizes, tensors: usize, size: usize, draw: &mut Draw) -> Vec<usize> {
    let one = |i: usize| match kind {
        Sizes::Equal => size,
        Sizes::Mixed if i % 3 == 1 => draw.below(size.min(1000) + 1),
        Sizes::Mixed => size / 2 + draw.below(size + 1),
    };
    (0..tensors).map(one).collect()
}

/// Offsets of the tensors: `offsets[t]..offsets[t + 1]`.
pub(super) fn offsets(kind: Sizes, tensors: usize, size: usize, draw: &mut Draw) -> Vec<i64> {
    let mut end = 0;
    let ends = sizes(kind, tensors, size, draw).into_iter().map(|n| {
        end += n as i64;
        end
    });
    [0].into_iter().chain(ends).collect()
}

/// The inputs all optimizers read: `master` and `gradients`, `offsets` and `decay`, `inverse_scale` and
/// `skip`. `total` elements lie between the first and the last offset.
pub(super) fn inputs(
    offsets: Vec<i64>,
    dtype: DType,
    decay: f64,
    scale: f64,
    skip: bool,
    draw: &mut Draw,
) -> Tensors {
    let total = *offsets.last().expect("offsets begin with 0") as usize;
    let tensors = offsets.len() - 1;
    // One tensor in three, the vectors, is not decayed.
    let decays = (0..tensors).map(|i| if i % 3 == 1 { 0.0 } else { decay as f32 }).collect();
    Tensors::new()
        .with("master", elements(DType::F32, total, || 0.2 * draw.unit() - 0.1))
        .with("gradients", elements(dtype, total, || scale * (0.02 * draw.unit() - 0.01)))
        .with("offsets", Tensor::new(&[tensors + 1], Data::I64(offsets)))
        .with("decay", Tensor::new(&[tensors], Data::F32(decays)))
        .with("inverse_scale", Tensor::new(&[1], Data::F32(vec![(1.0 / scale) as f32])))
        .with("skip", Tensor::new(&[1], Data::I32(vec![skip.into()])))
}

/// One parameter as a step sees it.
pub(super) struct Parameter {
    /// Its index over all tensors.
    pub at: usize,
    /// Its master value.
    pub master: f64,
    /// Its gradient, unscaled exactly.
    pub gradient: f64,
    /// The weight decay of its tensor.
    pub decay: f64,
}

/// The parameters that a reference computes, ascending.
pub(super) fn parameters(inputs: &Tensors) -> Vec<Parameter> {
    let (master, gradients) = (inputs.tensor("master"), inputs.tensor("gradients"));
    let offsets = inputs.tensor("offsets").to_i64();
    let decay = inputs.tensor("decay").to_f64();
    let inverse_scale = element(inputs.tensor("inverse_scale"), 0);
    let tensor = |at: usize| offsets.partition_point(|&offset| offset <= at as i64) - 1;
    let one = |at: usize| Parameter {
        at,
        master: element(master, at),
        gradient: element(gradients, at) * inverse_scale,
        decay: decay[tensor(at)],
    };
    computed(master.len()).into_iter().map(one).collect()
}

/// Whether the step is skipped.
pub(super) fn skipped(inputs: &Tensors) -> bool {
    inputs.tensor("skip").to_i64()[0] != 0
}
