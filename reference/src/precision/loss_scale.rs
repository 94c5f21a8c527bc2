//! Dynamic loss scaling: gradients of a scaled loss brought back, and the scale that follows.

use ndarray::Array1;
use serde::{Deserialize, Serialize};

use super::{SECOND_ORDER, check_dtype, computed, element, elements, expected};
use crate::{Algorithm, DType, Data, Draw, Expected, Outputs, Tensor, Tensors, Tolerance, Work};

/// What is wrong with the gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Nothing.
    None,
    /// One of them, anywhere, is an infinity.
    Infinity,
    /// One of them, anywhere, is NaN.
    Nan,
    /// The last one is an infinity.
    Last,
}

/// Parameters of [`LossScale`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Gradients.
    pub elements: usize,
    /// Their element type.
    pub dtype: DType,
    /// The scale of the loss.
    pub scale: f64,
    /// Good steps since the scale last changed.
    pub streak: i32,
    /// Good steps after which the scale grows.
    pub interval: i32,
    /// What the scale is multiplied by when it grows.
    pub growth: f64,
    /// What the scale is multiplied by after a bad step.
    pub backoff: f64,
    /// What is wrong with the gradients.
    pub fault: Fault,
}

/// The scale and its streak after a step: the state machine of PyTorch's `GradScaler`, in f32. A bad step
/// multiplies the scale by `backoff` and ends the streak. A good one lengthens it; at `interval` the scale is
/// multiplied by `growth`, unless that overflows, and a new streak begins.
pub fn next(params: &Params, scale: f32, streak: i32, bad: bool) -> (f32, i32) {
    if bad {
        return (scale * params.backoff as f32, 0);
    }
    if streak + 1 < params.interval {
        return (scale, streak + 1);
    }
    let grown = scale * params.growth as f32;
    (if grown.is_finite() { grown } else { scale }, 0)
}

/// `unscaled[i] = gradients[i] · (1 / scale)`, and whether to skip the step, and the next scale.
///
/// | input | shape | type | meaning |
/// |---|---|---|---|
/// | `gradients` | [elements] | f32, f16, bf16 | gradients of the scaled loss |
/// | `scale` | \[1\] | f32 | the loss was multiplied by it |
/// | `streak` | \[1\] | i32 | good steps since it last changed |
///
/// | output | shape | type | meaning |
/// |---|---|---|---|
/// | `unscaled` | [elements] | f32 | gradients of the loss; zero for one that is not finite |
/// | `skip` | \[1\] | i32 | 1 if any gradient is not finite, else 0 |
/// | `next_scale` | \[1\] | f32 | see [`next`]; every bit must be right |
/// | `next_streak` | \[1\] | i32 | |
///
/// Source: Micikevicius et al. 2018, "Mixed Precision Training", section 3.2.
#[derive(Debug)]
pub struct LossScale;

impl Algorithm for LossScale {
    const NAME: &'static str = "precision.loss_scale";
    const SUMMARY: &'static str = "gradients unscaled and checked, and the next scale of the loss";
    const ITEMS: &'static str = "gradients";
    type Params = Params;

    fn validate(params: &Params) -> Result<(), String> {
        check_dtype(params.dtype)?;
        let scale = params.scale as f32;
        if !(scale >= f32::MIN_POSITIVE && scale.is_finite() && (1.0 / scale).is_normal()) {
            return Err(format!("a scale of {}", params.scale));
        }
        if !(0..params.interval).contains(&params.streak) {
            return Err(format!("a streak of {} of {}", params.streak, params.interval));
        }
        if !(params.growth >= 1.0 && params.backoff > 0.0 && params.backoff <= 1.0) {
            return Err(format!("growth {} and backoff {}", params.growth, params.backoff));
        }
        Ok(())
    }

    fn inputs(params: &Params, draw: &mut Draw) -> Tensors {
        let n = params.elements;
        let bad = match params.fault {
            Fault::None => None,
            Fault::Last => n.checked_sub(1).map(|at| (at, f64::NEG_INFINITY)),
            Fault::Infinity => (n > 0).then(|| (draw.below(n), f64::INFINITY)),
            Fault::Nan => (n > 0).then(|| (draw.below(n), f64::NAN)),
        };
        let mut at = 0;
        let gradients = elements(params.dtype, n, || {
            let value = 8.0 * draw.unit() - 4.0;
            at += 1;
            bad.filter(|&(bad, _)| bad + 1 == at).map_or(value, |(_, wrong)| wrong)
        });
        Tensors::new()
            .with("gradients", gradients)
            .with("scale", Tensor::new(&[1], Data::F32(vec![params.scale as f32])))
            .with("streak", Tensor::new(&[1], Data::I32(vec![params.streak])))
    }

    fn reference(params: &Params, inputs: &Tensors) -> Outputs {
        let gradients = inputs.tensor("gradients");
        let scale = element(inputs.tensor("scale"), 0);
        let streak = inputs.tensor("streak").to_i64()[0] as i32;
        let bad = (0..params.elements).any(|i| !element(gradients, i).is_finite());
        let (next_scale, next_streak) = next(params, scale as f32, streak, bad);
        let unscaled = |i: usize| {
            let gradient = element(gradients, i);
            let value = if gradient.is_finite() { gradient / scale } else { 0.0 };
            (i, value, value.abs())
        };
        // 1 / scale is rounded, and the product, which is the storage's rounding.
        let relative = SECOND_ORDER * DType::F32.unit_roundoff();
        let tolerance = Tolerance { relative, storage: DType::F32 };
        let known: Vec<_> = computed(params.elements).into_iter().map(unscaled).collect();
        let one = |value: i64| Expected::exact(DType::I32, Array1::from_elem(1, value));
        Outputs::new()
            .with("unscaled", expected(params.elements, DType::F32, Some(tolerance), &known))
            .with("skip", one(bad.into()))
            .with("next_scale", expected(1, DType::F32, None, &[(0, next_scale.into(), 0.0)]))
            .with("next_streak", one(next_streak.into()))
    }

    /// bytes = gradients, `unscaled` and the few words of state; flops = a product a gradient; items =
    /// gradients.
    fn work(params: &Params, inputs: &Tensors) -> Work {
        let n = params.elements;
        let bytes = inputs.bytes() + n * DType::F32.bytes() + 12;
        Work {
            flops: n as f64,
            bytes: bytes as f64,
            items: n as f64,
            matrix: false,
            eight_bit: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params() -> Params {
        Params {
            elements: 3,
            dtype: DType::F16,
            scale: 1024.0,
            streak: 1,
            interval: 3,
            growth: 2.0,
            backoff: 0.5,
            fault: Fault::None,
        }
    }

    #[test]
    fn known_steps_of_the_state_machine() {
        let params = params();
        assert_eq!(next(&params, 1024.0, 0, false), (1024.0, 1));
        assert_eq!(next(&params, 1024.0, 2, false), (2048.0, 0));
        assert_eq!(next(&params, 1024.0, 2, true), (512.0, 0));
        assert_eq!(next(&params, f32::MAX, 2, false), (f32::MAX, 0));
    }

    #[test]
    fn known_gradients() {
        let values = [2048.0, -1.0, f64::INFINITY];
        let inputs = LossScale::inputs(&params(), &mut Draw::new(1))
            .with("gradients", Tensor::from_real(DType::F16, &[3], &values));
        let outputs = LossScale::reference(&params(), &inputs);
        assert_eq!(outputs.output("unscaled").values(), [2.0, -1.0 / 1024.0, 0.0]);
        assert_eq!(outputs.output("skip").values(), [1.0]);
        assert_eq!(outputs.output("next_scale").values(), [512.0]);
        assert_eq!(outputs.output("next_streak").values(), [0.0]);
    }
}
