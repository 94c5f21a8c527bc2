//! NaN in, NaN out: where a NaN among the inputs makes the reference's output NaN, a kernel must not give a number.
//!
//! Agreement cannot see it, as it takes no NaN for right. A kernel that hides NaN hides a model that diverges: a maximum
//! by `fmaxf` passes over it, and so does whatever takes a sum for empty unless it is above zero.

use touchstone_cuda::{Executor, Plan, gpu::Poison};
use touchstone_reference::{Expected, Tensor, Tensors};

use crate::verify::{self, Problem};

/// How a complaint of hidden NaN begins.
pub const HIDES: &str = "hides NaN";

/// What a variant is asked: a problem with one NaN among its inputs.
#[derive(Debug)]
pub struct Question {
    /// The input that holds the NaN.
    pub input: String,
    /// Its row-major index there.
    pub at: usize,
    /// The problem with that element.
    pub problem: Problem,
    /// Outputs that must be NaN, with the row-major indices of their elements that must.
    nan: Vec<(String, Vec<usize>)>,
}

/// The questions of a problem: for each of its real inputs, a NaN at `share` of its length, from 0 to 1.
///
/// Nothing is asked of outputs that do not depend on the element: 0·NaN is NaN where a state is zero to begin with,
/// but a kernel need not compute what is zero for every number. So an output is asked only if it is another number
/// where the element is.
///
/// # Errors
/// If the reference refuses the inputs.
pub fn questions(problem: &Problem, share: f64) -> anyhow::Result<Vec<Question>> {
    let mut questions = Vec::new();
    for (input, tensor) in problem.inputs.iter() {
        if !tensor.dtype().is_float() || tensor.is_empty() {
            continue;
        }
        let at = (tensor.len() as f64 * share) as usize;
        let with = |value: f64| {
            let mut values = tensor.to_f64();
            values[at] = value;
            let changed = Tensor::from_real(tensor.dtype(), tensor.shape(), &values);
            let inputs = problem.inputs.clone().with(input, changed);
            Problem::with_inputs(&problem.case, inputs, &problem.source)
        };
        let (spoiled, other) = (with(f64::NAN)?, with(tensor.real_at(at) / 2.0 - 1.0)?);
        let asked = |(name, usual): (&str, &Expected)| {
            let (nan, other) = (spoiled.expected.output(name), other.expected.output(name));
            Some((name.to_string(), must_be_nan(usual, nan, other)?))
        };
        let nan: Vec<_> = problem.expected.iter().filter_map(asked).collect();
        if !nan.is_empty() {
            questions.push(Question { input: input.to_string(), at, problem: spoiled, nan });
        }
    }
    Ok(questions)
}

/// The elements of an output that are NaN with the NaN, and another number with another number; if there are any.
fn must_be_nan(usual: &Expected, nan: &Expected, other: &Expected) -> Option<Vec<usize>> {
    let (Expected::Real(usual), Expected::Real(nan), Expected::Real(other)) = (usual, nan, other)
    else {
        return None;
    };
    let index = |i: usize| nan.at.as_ref().map_or(i, |at| at[i]);
    let asked = |&i: &usize| nan.value[i].is_nan() && usual.value[i] != other.value[i];
    let asked: Vec<usize> = (0..nan.value.len()).filter(asked).map(index).collect();
    (!asked.is_empty()).then_some(asked)
}

impl Question {
    /// What `outputs` hide, in words, if they hold numbers where they must be NaN.
    pub fn hidden(&self, outputs: &Tensors) -> Option<String> {
        self.nan.iter().find_map(|(name, must)| {
            let got = outputs.tensor(name);
            let numbers = must.iter().filter(|&&i| !got.real_at(i).is_nan());
            let (count, first) = (numbers.clone().count(), *numbers.clone().next()?);
            Some(format!(
                "{HIDES}: with element {} of '{}' NaN, {count} of the {} elements of '{name}' that \
                 must be NaN are numbers; element {first} is {}",
                self.at,
                self.input,
                must.len(),
                got.real_at(first)
            ))
        })
    }
}

/// What a way to compute the problem hides, if anything. `plan` makes its plan, or says why it does not take the inputs.
///
/// # Errors
/// If the device fails.
pub fn hidden<N>(
    executor: &impl Executor,
    questions: &[Question],
    plan: impl Fn(&Problem) -> Result<Plan, N>,
) -> anyhow::Result<Option<String>> {
    for question in questions {
        let Ok(plan) = plan(&question.problem) else { continue };
        let prepared = executor.prepare(&plan)?;
        // What is not written must be no NaN.
        let outputs = verify::outputs_after(&prepared, Poison::Huge)?;
        if let Some(complaint) = question.hidden(&outputs) {
            return Ok(Some(complaint));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use touchstone_reference::{Case, DType};

    use super::*;

    #[test]
    fn it_asks_what_depends_on_the_element_and_finds_a_number() {
        let case = "attention.forward:batch=1,seq_q=3,seq_k=3,heads_q=1,heads_kv=1,head_dim=8,mask=causal,dtype=f32,seed=1";
        let problem = Problem::new(&case.parse::<Case>().unwrap()).unwrap();
        let questions = questions(&problem, 0.5).unwrap();
        let asked: Vec<_> = questions.iter().map(|q| (q.input.as_str(), q.at)).collect();
        assert_eq!(asked, [("q", 12), ("k", 12), ("v", 12)]);
        // The middle query alone; the last two, which see the middle key; one column of their outputs.
        let of = |i: usize| questions[i].nan.iter().map(|(_, at)| at.len()).collect::<Vec<_>>();
        assert_eq!((of(0), of(1), of(2)), (vec![8, 1], vec![16, 2], vec![2]));
        let outputs = |at: usize, value: f64| {
            let mut o = vec![f64::NAN; 24];
            o[at] = value;
            Tensors::new().with("o", Tensor::from_real(DType::F32, &[1, 3, 1, 8], &o))
        };
        assert_eq!(questions[2].hidden(&outputs(0, 0.0)), None);
        let hidden = questions[2].hidden(&outputs(20, 0.5)).unwrap();
        assert!(hidden.contains("of 'v'") && hidden.contains("1 of the 2"), "{hidden}");
        assert!(hidden.contains("element 20 is 0.5"), "{hidden}");
    }
}
