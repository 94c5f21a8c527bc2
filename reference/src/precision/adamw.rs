//! Adam with decoupled weight decay, over all tensors of a model at once.

use serde::{Deserialize, Serialize};

use super::{
    SECOND_ORDER, Sizes, check_dtype, element, elements, expected,
    parameters::{self, parameters, skipped},
};
use crate::{Algorithm, DType, Draw, Outputs, Tensors, Tolerance, Work};

/// Parameters of [`AdamW`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Tensors of the model.
    pub tensors: usize,
    /// Elements of a tensor, on average or less.
    pub size: usize,
    /// How sizes vary.
    pub sizes: Sizes,
    /// Element type of gradients and of the weights the network computes with.
    pub dtype: DType,
    /// Learning rate η.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Weight decay λ of the tensors that are decayed.
    pub weight_decay: f64,
    /// Number of this step, from 1.
    pub step: u32,
    /// Scale of the loss.
    pub scale: f64,
    /// Whether the gradients were not finite, so that the step leaves everything as it is.
    pub skip: bool,
}

/// The constants of a step, in f32: part of the operation's definition, computed on the host.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Constants {
    /// η.
    pub lr: f32,
    /// β₁.
    pub beta1: f32,
    /// 1 − β₁.
    pub rest1: f32,
    /// β₂.
    pub beta2: f32,
    /// 1 − β₂.
    pub rest2: f32,
    /// ε.
    pub eps: f32,
    /// η / (1 − β₁ᵗ).
    pub rate: f32,
    /// 1 / √(1 − β₂ᵗ).
    pub correction: f32,
}

impl Params {
    /// The constants of this step, each rounded once from f64.
    pub fn constants(&self) -> Constants {
        let step = self.step as i32;
        Constants {
            lr: self.lr as f32,
            beta1: self.beta1 as f32,
            rest1: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            rest2: (1.0 - self.beta2) as f32,
            eps: self.eps as f32,
            rate: (self.lr / (1.0 - self.beta1.powi(step))) as f32,
            correction: (1.0 / (1.0 - self.beta2.powi(step)).sqrt()) as f32,
        }
    }
}

/// One step of AdamW on 32-bit master weights.
///
/// With g = `gradients` · `inverse_scale` and step t:
/// m′ = β₁ m + (1 − β₁) g, v′ = β₂ v + (1 − β₂) g²,
/// θ′ = θ (1 − ηλ) − η / (1 − β₁ᵗ) · m′ / (√v′ / √(1 − β₂ᵗ) + ε). If `skip` is set, nothing changes.
///
/// | input | shape | type | meaning |
/// |---|---|---|---|
/// | `master` | [total] | f32 | θ: all tensors, end to end |
/// | `gradients` | [total] | f32, f16, bf16 | of the scaled loss |
/// | `offsets` | [tensors + 1] | i64 | tensor t is offsets\[t\]..offsets\[t + 1\]; total = the last |
/// | `decay` | [tensors] | f32 | λ of each tensor |
/// | `inverse_scale` | \[1\] | f32 | 1 / scale of the loss |
/// | `skip` | \[1\] | i32 | 1 to change nothing |
/// | `m` | [total] | f32 | first moment |
/// | `v` | [total] | f32 | second moment |
///
/// | output | shape | type | meaning |
/// |---|---|---|---|
/// | `next_master` | [total] | f32 | θ′ |
/// | `next_m` | [total] | f32 | m′ |
/// | `next_v` | [total] | f32 | v′ |
/// | `weights` | [total] | that of `gradients` | θ′ rounded; left out for f32, where it is θ′ |
///
/// The constants are f32 ([`Params::constants`]). Source: Kingma & Ba 2015, "Adam", algorithm 1; Loshchilov &
/// Hutter 2019, "Decoupled Weight Decay Regularization", algorithm 2; Micikevicius et al. 2018, "Mixed
/// Precision Training", section 3.1.
#[derive(Debug)]
pub struct AdamW;

impl Algorithm for AdamW {
    const NAME: &'static str = "precision.adamw";
    const SUMMARY: &'static str = "one AdamW step on 32-bit master weights of many tensors";
    const ITEMS: &'static str = "parameters";
    type Params = Params;

    fn validate(params: &Params) -> Result<(), String> {
        check_dtype(params.dtype)?;
        if params.step == 0 || params.step > 1 << 24 {
            return Err(format!("a step of number {}", params.step));
        }
        for beta in [params.beta1, params.beta2] {
            if !(0.0..1.0).contains(&beta) {
                return Err(format!("a decay of moments of {beta}"));
            }
        }
        if !(params.eps > 0.0 && params.scale > 0.0) {
            return Err(format!("eps {} and scale {}", params.eps, params.scale));
        }
        Ok(())
    }

    fn inputs(params: &Params, draw: &mut Draw) -> Tensors {
        let offsets = parameters::offsets(params.sizes, params.tensors, params.size, draw);
        let (decay, scale) = (params.weight_decay, params.scale);
        let tensors = parameters::inputs(offsets, params.dtype, decay, scale, params.skip, draw);
        let total = tensors.tensor("master").len();
        tensors
            .with("m", elements(DType::F32, total, || 0.01 * draw.unit() - 0.005))
            .with("v", elements(DType::F32, total, || 1e-4 * draw.unit()))
    }

    fn reference(params: &Params, inputs: &Tensors) -> Outputs {
        let Constants { lr, beta1, rest1, beta2, rest2, eps, rate, correction } =
            params.constants();
        let [lr, beta1, rest1, beta2, rest2] = [lr, beta1, rest1, beta2, rest2].map(f64::from);
        let [eps, rate, correction] = [eps, rate, correction].map(f64::from);
        let (m, v) = (inputs.tensor("m"), inputs.tensor("v"));
        let (mut masters, mut ms, mut vs) = (Vec::new(), Vec::new(), Vec::new());
        for p in parameters(inputs) {
            let (at, old_m, old_v) = (p.at, element(m, p.at), element(v, p.at));
            if skipped(inputs) {
                masters.push((at, p.master, 0.0));
                ms.push((at, old_m, 0.0));
                vs.push((at, old_v, 0.0));
                continue;
            }
            let new_m = beta1 * old_m + rest1 * p.gradient;
            let new_v = beta2 * old_v + rest2 * p.gradient * p.gradient;
            let denominator = new_v.sqrt() * correction + eps;
            let (kept, change) = (p.master * (1.0 - lr * p.decay), rate * new_m / denominator);
            // Roundings in units of u: g 1; in m′ its terms have 1 + product 1 + sum 1, so 3 of their
            // magnitude; v′ (positive terms): g² 2·1 + 1, product 1, sum 1, so 5; its root ½·5 + 1, times the
            // correction 1, plus ε 1: 5.5; the quotient adds 1 and the rate 1. Of θ: ηλ 1 and 1 − ηλ 1 (both
            // relative to at most 1 + ηλ), product 1, final sum 1.
            let terms = (beta1 * old_m).abs() + (rest1 * p.gradient).abs();
            let through_m = 3.0 * rate * terms / denominator;
            let total = 4.0 * p.master.abs() * (1.0 + lr * p.decay);
            masters.push((at, kept - change, through_m + 7.5 * change.abs() + total));
            ms.push((at, new_m, 3.0 * terms));
            vs.push((at, new_v, 5.0 * new_v));
        }
        outputs(
            inputs,
            params.dtype,
            vec![("next_master", masters), ("next_m", ms), ("next_v", vs)],
        )
    }

    /// bytes = inputs read and outputs written once; flops = 14 a parameter; items = parameters.
    fn work(params: &Params, inputs: &Tensors) -> Work {
        work(params.dtype, inputs, 3, 14.0)
    }
}

/// An output's name and what is known of it: index, value and magnitude.
pub(super) type Known = (&'static str, Vec<(usize, f64, f64)>);

/// The outputs of an optimizer, of which the first are the master weights; rounded they are `weights`.
pub(super) fn outputs(inputs: &Tensors, dtype: DType, known: Vec<Known>) -> Outputs {
    let total = inputs.tensor("master").len();
    let relative = SECOND_ORDER * DType::F32.unit_roundoff();
    let tolerance = |storage| Some(Tolerance { relative, storage });
    let mut outputs = Outputs::new();
    for (name, known) in &known {
        outputs = outputs.with(name, expected(total, DType::F32, tolerance(DType::F32), known));
    }
    match dtype {
        DType::F32 => outputs,
        _ => {
            // θ′ is stored as f32 before it is rounded again.
            let masters = known[0].1.iter().map(|&(at, value, m)| (at, value, m + value.abs()));
            let masters: Vec<_> = masters.collect();
            outputs.with("weights", expected(total, dtype, tolerance(dtype), &masters))
        }
    }
}

/// The work of an optimizer with so many f32 outputs and flops a parameter.
pub(super) fn work(dtype: DType, inputs: &Tensors, outputs: usize, flops: f64) -> Work {
    let total = inputs.tensor("master").len();
    let weights = if dtype == DType::F32 { 0 } else { dtype.bytes() };
    let bytes = inputs.bytes() + total * (outputs * DType::F32.bytes() + weights);
    let n = total as f64;
    Work { flops: flops * n, bytes: bytes as f64, items: n, matrix: false, eight_bit: false }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Data, Tensor};

    #[test]
    fn a_step_by_hand() {
        let params = Params {
            tensors: 2,
            size: 1,
            sizes: Sizes::Equal,
            dtype: DType::F16,
            lr: 0.5,
            beta1: 0.5,
            beta2: 0.75,
            eps: 0.25,
            weight_decay: 0.25,
            step: 1,
            scale: 2.0,
            skip: false,
        };
        let real = |values: Vec<f32>| Tensor::new(&[values.len()], Data::F32(values));
        let inputs = AdamW::inputs(&params, &mut Draw::new(1))
            .with("master", real(vec![1.0, 2.0]))
            .with("gradients", Tensor::from_real(DType::F16, &[2], &[8.0, 0.0]))
            .with("m", real(vec![2.0, 1.0]))
            .with("v", real(vec![0.0, 3.0]));
        let outputs = AdamW::reference(&params, &inputs);
        // g = 4: m′ = ½·2 + ½·4 = 3, v′ = ¼·16 = 4; bias corrections ½ and ¼: rate 1, √v̂ = 4.
        // θ′ = 1·(1 − ⅛) − 3 / (4 + ¼). The second tensor is not decayed: m′ = ½, v′ = 9/4, √v̂ = 3.
        let near = |name: &str, expected: [f64; 2]| {
            let values = outputs.output(name).values();
            assert!(values.iter().zip(expected).all(|(v, e)| (v - e).abs() < 1e-12), "{values:?}");
        };
        near("next_m", [3.0, 0.5]);
        near("next_v", [4.0, 2.25]);
        near("next_master", [0.875 - 3.0 / 4.25, 2.0 - 0.5 / 3.25]);
        near("weights", [0.875 - 3.0 / 4.25, 2.0 - 0.5 / 3.25]);
    }
}
