//! One output, element by element.

use touchstone_reference::{Discrete, Real, Tensor};

use super::{Element, OutputAgreement};

/// Position of flat index `flat` along each axis of `shape`.
fn unravel(mut flat: usize, shape: &[usize]) -> Vec<u64> {
    let mut index = vec![0; shape.len()];
    for (slot, &size) in index.iter_mut().zip(shape).rev() {
        *slot = (flat % size) as u64;
        flat /= size;
    }
    index
}

/// Error as a share of its bound. Non-finite references must be met exactly; NaN gives infinity.
fn share(got: f64, value: f64, bound: f64) -> f64 {
    if !value.is_finite() {
        return if got == value { 0.0 } else { f64::INFINITY };
    }
    let error = (got - value).abs();
    if !(bound.is_finite() && error <= bound) {
        return if bound > 0.0 && error.is_finite() { error / bound } else { f64::INFINITY };
    }
    if error == 0.0 { 0.0 } else { error / bound }
}

/// Holds real values against their bounds; where the reference knows a sample, the rest must be numbers.
pub(super) fn real(name: &str, tensor: &Tensor, expected: &Real) -> OutputAgreement {
    let at = |k: usize| expected.at.as_ref().map_or(k, |at| at[k]);
    let mut worst = (-1.0, 0);
    let (mut failed, mut error_squares, mut error_fourths, mut value_squares) = (0, 0.0, 0.0, 0.0);
    for (k, (&value, &bound)) in expected.value.iter().zip(&expected.bound).enumerate() {
        let got = tensor.real_at(at(k));
        let share = share(got, value, bound);
        if share > worst.0 {
            worst = (share, k);
        }
        // Written so that NaN and an infinite bound fail.
        let within = if value.is_finite() {
            bound.is_finite() && (got - value).abs() <= bound
        } else {
            got == value
        };
        failed += u64::from(!within);
        if value.is_finite() && got.is_finite() {
            let square = (got - value).powi(2);
            error_squares += square;
            error_fourths += square * square;
            value_squares += value * value;
        }
    }
    // Outside a sample nothing is known of the values but that they are numbers.
    let nan = tensor.count_nan() as u64;
    let unsampled_nan = if expected.at.is_some() && failed == 0 { nan } else { 0 };
    let element = |k: usize| Element {
        index: unravel(at(k), &expected.shape),
        got: format!("{:e}", tensor.real_at(at(k))),
        expected: format!("{:e}", expected.value[k]),
        bound: expected.bound[k],
    };
    OutputAgreement {
        name: name.to_string(),
        elements: tensor.len() as u64,
        compared: expected.value.len() as u64,
        failed: failed + unsampled_nan,
        nan,
        ties: 0,
        worst_share: (worst.0 >= 0.0 && worst.0.is_finite()).then_some(worst.0),
        relative_rms: (value_squares > 0.0).then(|| (error_squares / value_squares).sqrt()),
        error_elements: (error_fourths > 0.0)
            .then(|| (error_squares.powi(2) / error_fourths).round() as u64),
        worst: (!expected.value.is_empty()).then(|| element(worst.1)),
        looks_like: (failed > 0 && expected.at.is_none())
            .then(|| looks_like(&tensor.to_f64(), &expected.value))
            .flatten(),
        bits: Some(bits(tensor)),
    }
}

pub(super) fn discrete(name: &str, tensor: &Tensor, expected: &Discrete) -> OutputAgreement {
    let (mut failed, mut ties, mut worst) = (0, 0, None);
    for (k, &value) in expected.value.iter().enumerate() {
        let got = tensor.integer_at(k);
        if got == value {
            continue;
        }
        if expected.also.get(&k).is_some_and(|also| also.contains(&got)) {
            ties += 1;
            continue;
        }
        failed += 1;
        worst.get_or_insert_with(|| Element {
            index: unravel(k, &expected.shape),
            got: got.to_string(),
            expected: value.to_string(),
            bound: 0.0,
        });
    }
    let looks = || {
        let reals = |integers: &[i64]| integers.iter().map(|&v| v as f64).collect::<Vec<_>>();
        looks_like(&reals(&tensor.to_i64()), &reals(&expected.value))
    };
    OutputAgreement {
        name: name.to_string(),
        elements: tensor.len() as u64,
        compared: expected.value.len() as u64,
        failed,
        nan: 0,
        ties,
        worst_share: (failed == 0 && !tensor.is_empty()).then_some(0.0),
        relative_rms: None,
        error_elements: None,
        worst,
        looks_like: (failed > 0).then(looks).flatten(),
        bits: Some(bits(tensor)),
    }
}

/// Fingerprint of a tensor's bytes; see [`OutputAgreement::bits`].
fn bits(tensor: &Tensor) -> String {
    blake3::Hasher::new().update_rayon(tensor.as_bytes()).finalize().to_hex()[..16].to_string()
}

/// A guess at how a wrong output came about, from its shape.
fn looks_like(got: &[f64], value: &[f64]) -> Option<String> {
    let near = |a: f64, b: f64| (a - b).abs() <= 1e-2 * b.abs() + 1e-6 || a == b;
    let n = got.len();
    let share_where = |test: &dyn Fn(usize) -> bool| (0..n).filter(|&i| test(i)).count();
    let finding = |hits: usize, text: &str| (n > 1 && hits * 10 >= n * 9).then(|| text.to_string());
    finding(share_where(&|i| got[i].is_nan()), "NaN everywhere (never written?)")
        .or_else(|| finding(share_where(&|i| got[i] == 0.0), "zeros"))
        .or_else(|| {
            finding(
                share_where(&|i| i > 0 && near(got[i], value[i - 1])),
                "the answer shifted by +1",
            )
        })
        .or_else(|| {
            finding(
                share_where(&|i| i + 1 < n && near(got[i], value[i + 1])),
                "the answer shifted by -1",
            )
        })
        .or_else(|| {
            finding(share_where(&|i| near(got[i], -value[i])), "the answer with its sign flipped")
        })
        .or_else(|| {
            finding(share_where(&|i| near(got[i], value[n - 1 - i])), "the answer reversed")
        })
        .or_else(|| {
            let head = (0..n).take_while(|&i| near(got[i], value[i])).count();
            (head > 0 && head < n)
                .then(|| format!("the answer up to element {head} of {n}, then something else"))
        })
}
