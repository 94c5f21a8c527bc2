//! NaN in, NaN out: where a NaN among the inputs makes the reference's output NaN, a kernel must not give a number.
//!
//! Agreement cannot ask it, as it takes no NaN for right. A kernel that hides NaN hides a diverging model: a maximum
//! by `fmaxf` drops it, and so does whatever clears an output whose sum it holds for empty.

use touchstone_cuda::Variant;
use touchstone_reference::{Case, Expected, Tensor, Tensors, operation};

/// What a variant is asked: a case, its inputs with one NaN, and where that makes outputs NaN.
pub struct Question {
    /// The input that holds the NaN, and its row-major index there.
    pub place: (String, usize),
    /// Drawn inputs, but for that element.
    pub inputs: Tensors,
    /// Outputs that are NaN, with the row-major indices of their elements that are.
    pub nan: Vec<(String, Vec<usize>)>,
}

/// The questions of a case: for each real one of its `drawn` inputs, a NaN at `share` of its length, from 0 to 1.
///
/// Nothing is asked of outputs that do not depend on the element: 0·NaN is NaN where a state is zero to begin with,
/// or a unit's slope, but a kernel need not compute what is zero for every number.
///
/// # Errors
/// If the reference cannot answer.
pub fn questions(case: &Case, drawn: &Tensors, share: f64) -> Result<Vec<Question>, String> {
    let operation = operation(case).map_err(|e| e.to_string())?;
    let outputs = |inputs: &Tensors| operation.reference(case, inputs).map_err(|e| e.to_string());
    let usual = outputs(drawn)?;
    let mut questions = Vec::new();
    for (name, tensor) in drawn.iter().filter(|(_, t)| t.dtype().is_float() && !t.is_empty()) {
        let at = (tensor.len() as f64 * share) as usize;
        let with = |value: f64| {
            let mut values = tensor.to_f64();
            values[at] = value;
            let changed = Tensor::from_real(tensor.dtype(), tensor.shape(), &values);
            drawn.clone().with(name, changed)
        };
        let inputs = with(f64::NAN);
        let (nan, other) = (outputs(&inputs)?, outputs(&with(tensor.real_at(at) / 2.0 - 1.0))?);
        let of = |(name, usual): (&str, &Expected)| {
            let nan = nan_of(nan.output(name), usual, other.output(name))?;
            Some((name.to_string(), nan))
        };
        let nan: Vec<_> = usual.iter().filter_map(of).collect();
        if !nan.is_empty() {
            questions.push(Question { place: (name.to_string(), at), inputs, nan });
        }
    }
    Ok(questions)
}

/// The elements of an output that are NaN and depend on what was made NaN, if there are any.
fn nan_of(nan: &Expected, usual: &Expected, other: &Expected) -> Option<Vec<usize>> {
    let (Expected::Real(nan), Expected::Real(usual), Expected::Real(other)) = (nan, usual, other)
    else {
        return None;
    };
    let index = |i: usize| nan.at.as_ref().map_or(i, |at| at[i]);
    let asked = |&i: &usize| nan.value[i].is_nan() && usual.value[i] != other.value[i];
    let asked: Vec<usize> = (0..nan.value.len()).filter(asked).map(index).collect();
    (!asked.is_empty()).then_some(asked)
}

/// Whether the operation of a case has outputs that can be NaN.
///
/// # Errors
/// If the case is none of its operation's.
pub fn has_real_outputs(case: &Case) -> Result<bool, String> {
    let outputs = || {
        let operation = operation(case)?;
        operation.reference(case, &operation.inputs(case)?)
    };
    let outputs = outputs().map_err(|e| e.to_string())?;
    Ok(outputs.iter().any(|(_, output)| matches!(output, Expected::Real(_))))
}

impl Question {
    /// Which numbers `outputs` hold where there is none.
    ///
    /// # Errors
    /// What is hidden, in words.
    pub fn answer(&self, variant: &Variant, case: &Case, outputs: &Tensors) -> Result<(), String> {
        let (input, at) = &self.place;
        for (name, nan) in &self.nan {
            let got = outputs.tensor(name);
            let hidden: Vec<usize> =
                nan.iter().copied().filter(|&i| !got.real_at(i).is_nan()).collect();
            if let Some(&first) = hidden.first() {
                return Err(format!(
                    "{}: with NaN as element {at} of '{input}', {} of the {} elements of '{name}' that are NaN by the \
                     reference are numbers; element {first} is {}\n{case}",
                    variant.name,
                    hidden.len(),
                    nan.len(),
                    got.real_at(first)
                ));
            }
        }
        Ok(())
    }
}
