//! Proof that a variant is right on a case, before and after it is timed.

use anyhow::Context;
use touchstone_cuda::{
    Executor, Plan, Prepared, Variant,
    gpu::{OtherDevice, OutOfMemory, Poison},
    simulator::Fault,
};
use touchstone_reference::{Case, Expected, Operation, Outputs, Tensors, operation};

use crate::agreement::{Agreement, same_bits};

/// A case with its inputs and the right answer: what every variant of it is held against.
#[derive(Debug)]
pub struct Problem {
    /// The operation.
    pub operation: &'static Operation,
    /// The case.
    pub case: Case,
    /// Its inputs.
    pub inputs: Tensors,
    /// Where they came from: `drawn`, or a named source.
    pub source: String,
    /// The right answer.
    pub expected: Outputs,
}

impl Problem {
    /// Draws the case's inputs and computes the reference.
    ///
    /// # Errors
    /// If the case names no operation or has wrong parameters.
    pub fn new(case: &Case) -> anyhow::Result<Self> {
        let inputs = operation(case)?.inputs(case)?;
        Self::with_inputs(case, inputs, "drawn")
    }

    /// The same with inputs from elsewhere, of the names, shapes and types the case would draw.
    ///
    /// # Errors
    /// As [`Problem::new`].
    pub fn with_inputs(case: &Case, inputs: Tensors, source: &str) -> anyhow::Result<Self> {
        let operation = operation(case)?;
        let case = operation.normalize(case)?;
        let expected = operation.reference(&case, &inputs)?;
        Ok(Self { operation, case, inputs, source: source.to_string(), expected })
    }

    /// The first output of which the reference gives NaN, or a finite value an infinite bound: nothing can be held
    /// against it.
    pub fn indefinite_output(&self) -> Option<&str> {
        let indefinite = |expected: &Expected| match expected {
            Expected::Real(real) => !real.is_definite(),
            Expected::Discrete(_) => false,
        };
        self.expected.iter().find(|(_, expected)| indefinite(expected)).map(|(name, _)| name)
    }

    /// Compares outputs, after bringing them into the reference's order.
    ///
    /// # Errors
    /// If an output is missing or of the wrong shape or type.
    pub fn compare(&self, outputs: Tensors) -> Result<Agreement, String> {
        let outputs =
            self.operation.canonical(&self.case, outputs).map_err(|error| error.to_string())?;
        Agreement::of(&outputs, &self.expected)
    }
}

/// What verification found.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Right in every element, twice, with guards and inputs intact.
    Right(Agreement),
    /// Wrong: the agreement when outputs could be compared, and what is wrong in words.
    Wrong(Option<Agreement>, String),
}

/// Makes the plan of `variant` for a problem, or says why it does not take it.
///
/// # Errors
/// The reason to skip.
pub fn plan(variant: &Variant, problem: &Problem) -> Result<Plan, String> {
    (variant.plan)(&problem.case, &problem.inputs).map_err(|unsupported| unsupported.0)
}

/// Uploads a plan; lack of device memory is a reason to skip, and so is a device without the kernels' instructions.
///
/// # Errors
/// The driver's error.
pub fn prepare<'e, E: Executor>(
    executor: &'e E,
    plan: &'e Plan,
) -> anyhow::Result<Result<E::Prepared<'e>, String>> {
    match executor.prepare(plan) {
        Ok(prepared) => Ok(Ok(prepared)),
        Err(error) => {
            let memory = error.downcast_ref::<OutOfMemory>().map(ToString::to_string);
            let other = error.downcast_ref::<OtherDevice>().map(ToString::to_string);
            let lack = memory.or(other);
            lack.map_or(Err(error), |reason| Ok(Err(reason)))
        }
    }
}

/// Runs a prepared plan twice under different poison and holds both outputs against the reference.
///
/// # Errors
/// If the device fails: an illegal access, a refused launch. A fault that the simulator finds is no failure:
/// the kernel is wrong.
pub fn verify(
    prepared: &impl Prepared,
    problem: &Problem,
    deterministic: bool,
) -> anyhow::Result<Verdict> {
    match compare_runs(prepared, problem, deterministic) {
        Err(error) if error.is::<Fault>() => Ok(Verdict::Wrong(None, format!("{error:#}"))),
        outcome => outcome,
    }
}

fn compare_runs(
    prepared: &impl Prepared,
    problem: &Problem,
    deterministic: bool,
) -> anyhow::Result<Verdict> {
    let first = outputs_after(prepared, Poison::Nan)?;
    let mut agreement = match judge(problem, &first) {
        Verdict::Right(agreement) => agreement,
        wrong => return Ok(wrong),
    };
    if let Some(damage) = prepared.damage().context("checking guards")? {
        return Ok(Verdict::Wrong(Some(agreement), damage));
    }
    let second = outputs_after(prepared, Poison::Huge)?;
    let differing = first.iter().find(|(name, tensor)| !same_bits(tensor, second.tensor(name)));
    // The same bits are as right as before.
    if differing.is_some()
        && let wrong @ Verdict::Wrong(..) = judge(problem, &second)
    {
        return Ok(wrong);
    }
    agreement.repeatable = differing.is_none();
    if let (Some((name, _)), true) = (differing, deterministic) {
        let complaint = format!(
            "output '{name}' changed with what memory held before: an element is unwritten, read \
             before it is written, or raced for"
        );
        return Ok(Verdict::Wrong(Some(agreement), complaint));
    }
    Ok(Verdict::Right(agreement))
}

/// Checks once more that the outputs are right, after timing.
///
/// # Errors
/// If the device fails.
pub fn verify_again(prepared: &impl Prepared, problem: &Problem) -> anyhow::Result<Option<String>> {
    if let Some(damage) = prepared.damage()? {
        return Ok(Some(format!("after timing: {damage}")));
    }
    match judge(problem, &prepared.outputs()?) {
        Verdict::Wrong(_, complaint) => Ok(Some(format!("after timing: {complaint}"))),
        _ => Ok(None),
    }
}

/// What a plan puts out that runs on memory full of `poison`.
pub(crate) fn outputs_after(prepared: &impl Prepared, poison: Poison) -> anyhow::Result<Tensors> {
    prepared.poison(poison)?;
    prepared.run()?;
    prepared.outputs()
}

/// Holds outputs against the reference.
pub fn judge(problem: &Problem, outputs: &Tensors) -> Verdict {
    match problem.compare(outputs.clone()) {
        Err(complaint) => Verdict::Wrong(None, complaint),
        Ok(agreement) => match agreement.complaint() {
            Some(complaint) => Verdict::Wrong(Some(agreement), complaint),
            None => Verdict::Right(agreement),
        },
    }
}
