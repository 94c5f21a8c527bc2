//! What an algorithm is to the suite: how inputs are drawn, the right answer, and the work it takes.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    case::{Case, CaseError},
    draw::Draw,
    expected::Outputs,
    tensor::Tensors,
};

/// Work of one case by formula: what any implementation must at least do. Together with the device's
/// measured limits it gives the floor on its time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// Floating-point operations, a multiply-add counted as two.
    pub flops: f64,
    /// Compulsory device-memory traffic in bytes: each input read once, each output written once.
    pub bytes: f64,
    /// Items processed, in the unit the field counts this operation in (tokens, rows, elements).
    pub items: f64,
    /// Whether the flops are matrix products that tensor cores can do.
    pub matrix: bool,
    /// Whether those are products of 8-bit floats, for which tensor cores have another rate.
    pub eight_bit: bool,
}

/// One operation: typed parameters, inputs, the naive f64 reference with its error model, and the work.
pub trait Algorithm: Send + Sync + 'static {
    /// `vertical.operation`, for example `attention.forward`.
    const NAME: &'static str;
    /// What it computes, in one sentence.
    const SUMMARY: &'static str;
    /// The unit of [`Work::items`], plural: `tokens`.
    const ITEMS: &'static str;
    /// A flat struct with `#[serde(deny_unknown_fields)]`: the keys of the case id.
    type Params: Serialize + DeserializeOwned;

    /// Refuses parameters that make no sense together, with the reason.
    ///
    /// # Errors
    /// The reason.
    fn validate(params: &Self::Params) -> Result<(), String>;

    /// Draws the inputs.
    fn inputs(params: &Self::Params, draw: &mut Draw) -> Tensors;

    /// The right answer for these inputs: plain loops in f64, and the bound of every element.
    fn reference(params: &Self::Params, inputs: &Tensors) -> Outputs;

    /// The work these inputs take.
    fn work(params: &Self::Params, inputs: &Tensors) -> Work;

    /// Brings a kernel's outputs into the one order the reference uses, where the operation leaves the
    /// order free (the n-grams of a hash table). Most operations leave nothing free.
    fn canonical(_params: &Self::Params, outputs: Tensors) -> Tensors {
        outputs
    }
}

/// An [`Algorithm`] with its parameter type erased: what the harness handles.
#[derive(Clone, Copy)]
pub struct Operation {
    /// `vertical.operation`.
    pub name: &'static str,
    /// What it computes, in one sentence.
    pub summary: &'static str,
    /// The unit of [`Work::items`].
    pub items: &'static str,
    normalize: fn(&Case) -> Result<Case, CaseError>,
    inputs: fn(&Case) -> Result<Tensors, CaseError>,
    reference: fn(&Case, &Tensors) -> Result<Outputs, CaseError>,
    work: fn(&Case, &Tensors) -> Result<Work, CaseError>,
    canonical: fn(&Case, Tensors) -> Result<Tensors, CaseError>,
}

impl std::fmt::Debug for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Operation").field("name", &self.name).finish_non_exhaustive()
    }
}

fn checked<A: Algorithm>(case: &Case) -> Result<A::Params, CaseError> {
    let params = case.params::<A::Params>()?;
    A::validate(&params)
        .map_err(|problem| CaseError::Params { case: case.to_string(), problem })?;
    Ok(params)
}

impl Operation {
    /// The operation that `A` defines.
    pub const fn of<A: Algorithm>() -> Self {
        Self {
            name: A::NAME,
            summary: A::SUMMARY,
            items: A::ITEMS,
            normalize: |case| Ok(Case::new(A::NAME, &checked::<A>(case)?, case.seed())),
            inputs: |case| Ok(A::inputs(&checked::<A>(case)?, &mut Draw::new(case.seed()))),
            reference: |case, inputs| Ok(A::reference(&checked::<A>(case)?, inputs)),
            work: |case, inputs| Ok(A::work(&checked::<A>(case)?, inputs)),
            canonical: |case, outputs| Ok(A::canonical(&checked::<A>(case)?, outputs)),
        }
    }

    /// The same case with every parameter written out, in the operation's order.
    ///
    /// # Errors
    /// If the parameters are not this operation's.
    pub fn normalize(&self, case: &Case) -> Result<Case, CaseError> {
        (self.normalize)(case)
    }

    /// Draws the case's inputs; the same case gives the same bits.
    ///
    /// # Errors
    /// If the parameters are not this operation's.
    pub fn inputs(&self, case: &Case) -> Result<Tensors, CaseError> {
        (self.inputs)(case)
    }

    /// The right answer and its bounds.
    ///
    /// # Errors
    /// If the parameters are not this operation's.
    pub fn reference(&self, case: &Case, inputs: &Tensors) -> Result<Outputs, CaseError> {
        (self.reference)(case, inputs)
    }

    /// The work by formula.
    ///
    /// # Errors
    /// If the parameters are not this operation's.
    pub fn work(&self, case: &Case, inputs: &Tensors) -> Result<Work, CaseError> {
        (self.work)(case, inputs)
    }

    /// A kernel's outputs in the order the reference uses.
    ///
    /// # Errors
    /// If the parameters are not this operation's.
    pub fn canonical(&self, case: &Case, outputs: Tensors) -> Result<Tensors, CaseError> {
        (self.canonical)(case, outputs)
    }
}
