//! How well a kernel's outputs agree with the reference.

mod compare;
mod impostor;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use touchstone_reference::{Data, Expected, Outputs, Tensor, Tensors};

pub use impostor::{Pick, impostors, outputs_from};

/// Agreement of all outputs of one run. It passes only if every element of every output does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Agreement {
    /// One entry for each output of the operation.
    pub outputs: Vec<OutputAgreement>,
    /// Whether a second run, with outputs and scratch poisoned otherwise, gave the same bits.
    pub repeatable: bool,
}

/// Agreement of one output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OutputAgreement {
    /// Name of the output.
    pub name: String,
    /// Elements of the output.
    pub elements: u64,
    /// Elements compared with the reference; fewer than `elements` where it samples rows.
    pub compared: u64,
    /// Elements whose error is not within their bound. NaN is never within a bound.
    pub failed: u64,
    /// NaNs among the elements.
    pub nan: u64,
    /// Discrete elements that took another of the stated right values (a tie within rounding).
    pub ties: u64,
    /// Largest error as a share of its bound; above 1 fails. `None` when not a number or nothing was
    /// compared.
    pub worst_share: Option<f64>,
    /// Root mean square of the error over that of the reference's values.
    pub relative_rms: Option<f64>,
    /// How many elements carry that error: (Σe²)² / Σe⁴. The average of many elements may be that of a few.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_elements: Option<u64>,
    /// The element with the largest share, or the first that failed.
    pub worst: Option<Element>,
    /// What a failed output looks like: all zeros, all NaN, shifted by one, …
    pub looks_like: Option<String>,
    /// First 16 hexadecimal digits of the BLAKE3 hash of the output's bytes, little-endian: equal outputs
    /// have equal ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits: Option<String>,
}

/// One compared element.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Element {
    /// Index along each axis.
    pub index: Vec<u64>,
    /// What the kernel gave, as text so that NaN and infinities survive JSON.
    pub got: String,
    /// What the reference gave.
    pub expected: String,
    /// Permitted absolute error.
    pub bound: f64,
}

impl Agreement {
    /// Compares outputs with what the reference expects. A missing output, an extra one, or one of the
    /// wrong shape or type is an error: the variant's plan is at fault.
    ///
    /// # Errors
    /// Which output is missing or malformed.
    pub fn of(got: &Tensors, expected: &Outputs) -> Result<Self, String> {
        if let Some((name, _)) =
            got.iter().find(|(name, _)| expected.iter().all(|(known, _)| known != *name))
        {
            return Err(format!("the operation has no output '{name}'"));
        }
        let compare = |(name, expected): (&str, &Expected)| {
            let got = got.get(name).ok_or_else(|| format!("output '{name}' is missing"))?;
            if got.shape() != expected.shape() || got.dtype() != expected.dtype() {
                return Err(format!(
                    "output '{name}' is {} {:?}, expected {} {:?}",
                    got.dtype().name(),
                    got.shape(),
                    expected.dtype().name(),
                    expected.shape()
                ));
            }
            Ok(match expected {
                Expected::Real(real) => compare::real(name, got, real),
                Expected::Discrete(discrete) => compare::discrete(name, got, discrete),
            })
        };
        let outputs = expected.iter().map(compare).collect::<Result<_, _>>()?;
        Ok(Self { outputs, repeatable: true })
    }

    /// Whether every element is within its bound.
    pub fn passes(&self) -> bool {
        self.outputs.iter().all(|output| output.failed == 0)
    }

    /// Largest error as a share of its bound over all outputs.
    pub fn worst_share(&self) -> Option<f64> {
        self.outputs.iter().filter_map(|o| o.worst_share).reduce(f64::max)
    }

    /// What is wrong beside the naive variant, which computes the same in the same precision: an output whose
    /// root-mean-square error is more than twice the naive one's. The bound of each element allows for the worst
    /// case; this finds what is lost on average, such as a sum that drifts. Errors below the unit roundoff of the
    /// output's type, and outputs of too few elements for an average, are let pass. So are those where few elements
    /// carry the naive error: of sums in a free order, over rows of which a few are long, some are twice as far off.
    pub fn worse_than_naive(&self, naive: &Self, expected: &Outputs) -> Option<String> {
        const MOST: f64 = 2.0;
        const FEWEST_ELEMENTS: u64 = 1024;
        // 64 carry the error of about 192 with normal errors: by chance twice as large once in far more than 10⁹.
        const FEWEST_CARRIERS: u64 = 64;
        self.outputs.iter().find_map(|output| {
            let dtype = expected.iter().find(|(name, _)| *name == output.name)?.1.dtype();
            let naive = naive.outputs.iter().find(|o| o.name == output.name)?;
            let rms = output.relative_rms?;
            let limit = MOST * naive.relative_rms?.max(dtype.unit_roundoff());
            let is_average = output.compared >= FEWEST_ELEMENTS
                && naive.error_elements.is_none_or(|carriers| carriers >= FEWEST_CARRIERS);
            (is_average && rms > limit).then(|| {
                format!(
                    "output '{}': relative error (root mean square) {rms:.2e} is over {limit:.2e}, twice \
                     that of the naive variant at the same precision",
                    output.name
                )
            })
        })
    }

    /// One sentence on what is wrong, for a failed agreement.
    pub fn complaint(&self) -> Option<String> {
        let output = self.outputs.iter().find(|output| output.failed > 0)?;
        let mut text = format!(
            "output '{}': {} of {} compared elements are wrong ({} NaN)",
            output.name, output.failed, output.compared, output.nan
        );
        if let Some(e) = &output.worst {
            text += &format!(
                "; at {:?} got {}, expected {} ± {:.3e}",
                e.index, e.got, e.expected, e.bound
            );
        }
        if let Some(looks) = &output.looks_like {
            text += &format!("; the output looks like {looks}");
        }
        Some(text)
    }
}

/// Whether two tensors hold the same bits, NaN payloads included.
pub fn same_bits(a: &Tensor, b: &Tensor) -> bool {
    match (a.data(), b.data()) {
        (Data::F32(a), Data::F32(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(x, y)| x.to_bits() == y.to_bits())
        }
        _ => a.dtype() == b.dtype() && a.as_bytes() == b.as_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use ndarray::arr1;
    use touchstone_reference::{DType, Tolerance};

    use super::*;

    fn expected(values: &[f64]) -> Outputs {
        let tolerance = Tolerance { relative: 1e-6, storage: DType::F32 };
        let value = arr1(values);
        Outputs::new().with("y", Expected::real(&value, &value.mapv(f64::abs), tolerance))
    }

    fn got(values: &[f64]) -> Tensors {
        Tensors::new().with("y", Tensor::from_real(DType::F32, &[values.len()], values))
    }

    #[test]
    fn nan_never_passes() {
        let agreement = Agreement::of(&got(&[1.0, f64::NAN]), &expected(&[1.0, 2.0])).unwrap();
        assert!(!agreement.passes());
        assert_eq!((agreement.outputs[0].nan, agreement.outputs[0].failed), (1, 1));
        // A reference that is itself NaN does not make NaN right.
        assert!(!Agreement::of(&got(&[f64::NAN]), &expected(&[f64::NAN])).unwrap().passes());
    }

    #[test]
    fn infinities_match_by_sign() {
        let inf = f64::INFINITY;
        assert!(Agreement::of(&got(&[inf]), &expected(&[inf])).unwrap().passes());
        assert!(!Agreement::of(&got(&[-inf]), &expected(&[inf])).unwrap().passes());
        assert!(!Agreement::of(&got(&[1e38]), &expected(&[inf])).unwrap().passes());
        assert!(!Agreement::of(&got(&[inf]), &expected(&[1.0])).unwrap().passes());
    }

    #[test]
    fn a_drift_far_above_the_naive_error_is_wrong_though_within_its_bound() {
        let right: Vec<f64> = (1..=2048).map(f64::from).collect();
        let loose = Tolerance { relative: 1e-3, storage: DType::F32 };
        let value = arr1(&right);
        let expected =
            Outputs::new().with("y", Expected::real(&value, &value.mapv(f64::abs), loose));
        let drifted = |share: f64| {
            let values: Vec<f64> = right.iter().map(|v| v * (1.0 + share)).collect();
            Agreement::of(&got(&values), &expected).unwrap()
        };
        let (naive, good, drift) = (drifted(1e-7), drifted(1.8e-7), drifted(1e-6));
        assert!(good.passes() && drift.passes());
        assert_eq!(good.worse_than_naive(&naive, &expected), None);
        let complaint = drift.worse_than_naive(&naive, &expected).unwrap();
        assert!(complaint.contains("naive"), "{complaint}");
        // What a single rounding of the output explains is no drift, however exact the naive variant is.
        assert_eq!(drifted(1e-7).worse_than_naive(&drifted(0.0), &expected), None);
        // Where a dozen elements carry the naive error, its average is theirs alone.
        let mut values = right.clone();
        values[..12].iter_mut().for_each(|v| *v *= 1.0 + 1e-6);
        let few = Agreement::of(&got(&values), &expected).unwrap();
        assert!(few.outputs[0].error_elements.unwrap() < 12);
        assert_eq!(drift.worse_than_naive(&few, &expected), None);
    }

    #[test]
    fn one_wrong_element_in_many_fails_and_is_named() {
        let right: Vec<f64> = (1..=1000).map(f64::from).collect();
        let mut wrong = right.clone();
        wrong[617] += 1.0;
        let agreement = Agreement::of(&got(&wrong), &expected(&right)).unwrap();
        assert!(!agreement.passes());
        assert_eq!(agreement.outputs[0].worst.as_ref().unwrap().index, [617]);
        assert!(agreement.complaint().unwrap().contains("1 of 1000"));
    }

    #[test]
    fn wrong_shape_missing_and_extra_outputs_are_errors() {
        assert!(Agreement::of(&got(&[1.0]), &expected(&[1.0, 2.0])).is_err());
        assert!(Agreement::of(&Tensors::new(), &expected(&[1.0])).is_err());
        let extra = got(&[1.0]).with("z", Tensor::from_real(DType::F32, &[0], &[]));
        assert!(Agreement::of(&extra, &expected(&[1.0])).is_err());
    }

    #[test]
    fn unsampled_elements_must_still_be_numbers() {
        let tolerance = Tolerance { relative: 0.0, storage: DType::F32 };
        let outputs =
            Outputs::new().with("y", Expected::sampled(&[3], &[(1, 2.0, 2.0)], tolerance));
        assert!(Agreement::of(&got(&[7.0, 2.0, 9.0]), &outputs).unwrap().passes());
        assert!(!Agreement::of(&got(&[7.0, 2.0, f64::NAN]), &outputs).unwrap().passes());
        assert!(!Agreement::of(&got(&[7.0, 2.5, 9.0]), &outputs).unwrap().passes());
    }

    #[test]
    fn failures_say_what_they_look_like() {
        let right: Vec<f64> = (1..50).map(|i| f64::from(i * i % 37 + 1)).collect();
        for (name, impostor) in impostors(&expected(&right)) {
            let agreement = Agreement::of(&impostor, &expected(&right)).unwrap();
            assert!(!agreement.passes(), "{name} passes");
        }
        let zeros = Agreement::of(&got(&vec![0.0; 49]), &expected(&right)).unwrap();
        assert_eq!(zeros.outputs[0].looks_like.as_deref(), Some("zeros"));
    }
}
