//! Stochastic gradient descent with momentum, over all tensors of a model at once.

use serde::{Deserialize, Serialize};

use super::{
    Sizes,
    adamw::{outputs, work},
    check_dtype, element, elements,
    parameters::{self, parameters, skipped},
};
use crate::{Algorithm, DType, Draw, Outputs, Tensors, Work};

/// Parameters of [`Sgd`].
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
    /// Momentum μ.
    pub momentum: f64,
    /// Whether the step looks ahead (Nesterov).
    pub nesterov: bool,
    /// Weight decay λ of the tensors that are decayed.
    pub weight_decay: f64,
    /// Scale of the loss.
    pub scale: f64,
    /// Whether the gradients were not finite, so that the step leaves everything as it is.
    pub skip: bool,
}

/// One step of SGD with momentum on 32-bit master weights.
///
/// With g = `gradients` · `inverse_scale` + λθ: b′ = μ b + g, and θ′ = θ − η b′, or θ − η (g + μ b′) with
/// `nesterov`. If `skip` is set, nothing changes.
///
/// | input | shape | type | meaning |
/// |---|---|---|---|
/// | `master` … `skip` | | | as in [`super::adamw::AdamW`] |
/// | `momentum` | [total] | f32 | b |
///
/// | output | shape | type | meaning |
/// |---|---|---|---|
/// | `next_master` | [total] | f32 | θ′ |
/// | `next_momentum` | [total] | f32 | b′ |
/// | `weights` | [total] | that of `gradients` | θ′ rounded; left out for f32, where it is θ′ |
///
/// η, μ and λ are f32. Source: Sutskever et al. 2013, "On the importance of initialization and momentum in
/// deep learning", in PyTorch's form.
#[derive(Debug)]
pub struct Sgd;

impl Algorithm for Sgd {
    const NAME: &'static str = "precision.sgd";
    const SUMMARY: &'static str = "one step of SGD with momentum on 32-bit master weights";
    const ITEMS: &'static str = "parameters";
    type Params = Params;

    fn validate(params: &Params) -> Result<(), String> {
        check_dtype(params.dtype)?;
        if !(0.0..=1.0).contains(&params.momentum) || params.scale <= 0.0 {
            return Err(format!("momentum {} and scale {}", params.momentum, params.scale));
        }
        Ok(())
    }

    fn inputs(params: &Params, draw: &mut Draw) -> Tensors {
        let offsets = parameters::offsets(params.sizes, params.tensors, params.size, draw);
        let (decay, scale) = (params.weight_decay, params.scale);
        let tensors = parameters::inputs(offsets, params.dtype, decay, scale, params.skip, draw);
        let total = tensors.tensor("master").len();
        tensors.with("momentum", elements(DType::F32, total, || 0.02 * draw.unit() - 0.01))
    }

    fn reference(params: &Params, inputs: &Tensors) -> Outputs {
        let [lr, mu] = [params.lr as f32, params.momentum as f32].map(f64::from);
        let momentum = inputs.tensor("momentum");
        let (mut masters, mut momenta) = (Vec::new(), Vec::new());
        for p in parameters(inputs) {
            let (at, old) = (p.at, element(momentum, p.at));
            if skipped(inputs) {
                masters.push((at, p.master, 0.0));
                momenta.push((at, old, 0.0));
                continue;
            }
            let gradient = p.gradient + p.decay * p.master;
            let magnitude = p.gradient.abs() + (p.decay * p.master).abs();
            let new = mu * old + gradient;
            // Roundings in units of u, of every term: product 1, the sum of g 1, the sum of b′ 1. The step
            // adds another product and sum where it looks ahead, its product and the final sum.
            let through = magnitude + (mu * old).abs();
            let ahead = gradient + mu * new;
            let (step, steps) = match params.nesterov {
                true => (ahead, 7.0 * (magnitude + mu * through)),
                false => (new, 5.0 * through),
            };
            masters.push((at, p.master - lr * step, lr * steps + p.master.abs()));
            momenta.push((at, new, 3.0 * through));
        }
        let known = vec![("next_master", masters), ("next_momentum", momenta)];
        outputs(inputs, params.dtype, known)
    }

    /// bytes = inputs read and outputs written once; flops = 7 a parameter, 9 with Nesterov; items =
    /// parameters.
    fn work(params: &Params, inputs: &Tensors) -> Work {
        work(params.dtype, inputs, 2, if params.nesterov { 9.0 } else { 7.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Data, Tensor};

    #[test]
    fn a_step_by_hand() {
        let mut params = Params {
            tensors: 1,
            size: 1,
            sizes: Sizes::Equal,
            dtype: DType::F32,
            lr: 0.5,
            momentum: 0.5,
            nesterov: false,
            weight_decay: 0.25,
            scale: 4.0,
            skip: false,
        };
        let one = |value: f32| Tensor::new(&[1], Data::F32(vec![value]));
        let inputs = Sgd::inputs(&params, &mut Draw::new(1))
            .with("master", one(2.0))
            .with("gradients", one(4.0))
            .with("momentum", one(1.0));
        // g = 1 + ½, b′ = ½ + 1½ = 2.
        let value =
            |params: &Params, name: &str| Sgd::reference(params, &inputs).output(name).values()[0];
        assert_eq!(value(&params, "next_momentum"), 2.0);
        assert_eq!(value(&params, "next_master"), 1.0);
        params.nesterov = true;
        assert_eq!(value(&params, "next_master"), 2.0 - 0.5 * (1.5 + 1.0));
    }
}
