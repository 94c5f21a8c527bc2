//! The precisions that are compared: which format each part of a step is in.

use touchstone_reference::precision::format::{Format, Rounding};

use super::Pass;

/// How one run computes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recipe {
    pub name: &'static str,
    /// Format of weights and activations.
    pub forward: Format,
    /// Format of the gradients that flow back.
    pub backward: Format,
    /// Format in which gradients of weights are kept until the step.
    pub gradients: Format,
    /// Whether the loss is scaled.
    pub scaled: bool,
    /// Format of the weights between steps, and how they are rounded into it: f32 is a master copy.
    pub kept: (Format, Rounding),
}

impl Recipe {
    /// The passes of a step: the check of scaled gradients, the update, which also writes the narrow copy of the
    /// weights, and a cast where the weights are narrower than the gradients.
    pub fn passes(&self) -> Vec<Pass> {
        let pass = |op: &str, with: &[(&str, Format)]| Pass {
            op: op.into(),
            with: with.iter().map(|(key, f)| ((*key).into(), f.name().into())).collect(),
        };
        if self.kept != MASTER {
            return Vec::new();
        }
        let mut passes = vec![pass("precision.adamw", &[("dtype", self.gradients)])];
        if self.scaled {
            passes.push(pass("precision.loss_scale", &[("dtype", self.gradients)]));
        }
        if self.forward != self.gradients {
            passes.push(pass("precision.cast", &[("from", Format::F32), ("to", self.forward)]));
        }
        passes
    }
}

const MASTER: (Format, Rounding) = (Format::F32, Rounding::NearestEven);

const fn mixed(name: &'static str, format: Format, scaled: bool) -> Recipe {
    let (forward, backward, gradients) = (format, format, format);
    Recipe { name, forward, backward, gradients, scaled, kept: MASTER }
}

const fn without_master(name: &'static str, rounding: Rounding) -> Recipe {
    Recipe { kept: (Format::Bf16, rounding), ..mixed(name, Format::Bf16, false) }
}

pub(super) const RECIPES: [Recipe; 7] = [
    mixed("f32", Format::F32, false),
    mixed("bf16", Format::Bf16, false),
    mixed("f16", Format::F16, false),
    mixed("f16, loss scaled", Format::F16, true),
    Recipe {
        backward: Format::E5m2,
        gradients: Format::F16,
        ..mixed("fp8, loss scaled", Format::E4m3, true)
    },
    without_master("bf16 without master weights", Rounding::NearestEven),
    without_master("the same, stochastic rounding", Rounding::Stochastic),
];
