//! What the right answer is, and how far from it a kernel may be.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use ndarray::{Array, Dimension};

use crate::tensor::DType;

/// The error model of one output: how its per-element bound follows from its arithmetic.
///
/// The bound of an element with value `v` and magnitude `m = Σ|terms|` is
/// `u(output)·|v| + relative·m + tiny(output)`: one rounding on storing, the accumulated rounding of
/// the computation, and the underflow threshold.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    /// Accumulated relative error with respect to the magnitude; usually
    /// `c · u(compute dtype) · n_acc`. Its derivation stands beside its construction.
    pub relative: f64,
    /// Element type the output is stored in.
    pub storage: DType,
}

impl Tolerance {
    /// Bound for one element.
    pub fn bound(&self, value: f64, magnitude: f64) -> f64 {
        self.storage.unit_roundoff() * value.abs() + self.relative * magnitude + self.storage.tiny()
    }
}

/// A real-valued expected output: passes only if `|got − value| <= bound` for every element.
#[derive(Clone, Debug)]
pub struct Real {
    /// Element type a kernel must deliver.
    pub dtype: DType,
    /// Size of each axis.
    pub shape: Vec<usize>,
    /// Row-major indices of the elements whose values are known, ascending; `None` means all.
    /// A reference that would take minutes computes a seeded sample of whole rows instead. The
    /// elements outside the sample must still be written and finite.
    pub at: Option<Vec<usize>>,
    /// The right values in the order of `at`. Infinities must be matched by sign; NaN is never right.
    pub value: Vec<f64>,
    /// Largest permitted absolute error of each value.
    pub bound: Vec<f64>,
}

impl Real {
    /// Whether every element can be judged: no value is NaN, and beside a finite one its bound is finite too.
    pub fn is_definite(&self) -> bool {
        let judged = |(value, bound): (&f64, &f64)| {
            value.is_infinite() || (!value.is_nan() && bound.is_finite())
        };
        self.value.iter().zip(&self.bound).all(judged)
    }
}

/// An integer-valued expected output: equal, or one of a stated few.
#[derive(Clone, Debug)]
pub struct Discrete {
    /// Element type a kernel must deliver.
    pub dtype: DType,
    /// Size of each axis.
    pub shape: Vec<usize>,
    /// The right values, row-major.
    pub value: Vec<i64>,
    /// For elements decided within rounding of a threshold: the other values that are also right.
    /// Such elements are counted in the agreement, never ignored.
    pub also: BTreeMap<usize, Vec<i64>>,
}

/// One expected output.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Expected {
    Real(Real),
    Discrete(Discrete),
}

impl Expected {
    /// Real values with magnitudes `Σ|terms|` under an error model.
    ///
    /// # Panics
    /// If `value` and `magnitude` differ in shape.
    pub fn real<D: Dimension>(
        value: &Array<f64, D>,
        magnitude: &Array<f64, D>,
        tolerance: Tolerance,
    ) -> Self {
        assert_eq!(value.shape(), magnitude.shape(), "value and magnitude differ in shape");
        let pairs = value.iter().zip(magnitude.iter());
        Self::Real(Real {
            dtype: tolerance.storage,
            shape: value.shape().to_vec(),
            at: None,
            bound: pairs.map(|(&v, &m)| tolerance.bound(v, m)).collect(),
            value: value.iter().copied().collect(),
        })
    }

    /// Real values known at a sample of elements, or at all of them: row-major index, value and magnitude of each.
    ///
    /// # Panics
    /// If the indices do not ascend or leave the shape.
    pub fn sampled(shape: &[usize], known: &[(usize, f64, f64)], tolerance: Tolerance) -> Self {
        let len: usize = shape.iter().product();
        assert!(known.windows(2).all(|w| w[0].0 < w[1].0), "sampled indices do not ascend");
        assert!(known.last().is_none_or(|k| k.0 < len), "a sampled index leaves the shape");
        Self::Real(Real {
            dtype: tolerance.storage,
            shape: shape.to_vec(),
            at: (known.len() < len).then(|| known.iter().map(|k| k.0).collect()),
            value: known.iter().map(|k| k.1).collect(),
            bound: known.iter().map(|k| tolerance.bound(k.1, k.2)).collect(),
        })
    }

    /// Integers that must be met exactly.
    pub fn exact<D: Dimension>(dtype: DType, value: Array<i64, D>) -> Self {
        Self::Discrete(Discrete {
            dtype,
            shape: value.shape().to_vec(),
            value: value.into_flat().into_raw_vec_and_offset().0,
            also: BTreeMap::new(),
        })
    }

    /// Element type a kernel must deliver.
    pub fn dtype(&self) -> DType {
        match self {
            Self::Real(real) => real.dtype,
            Self::Discrete(discrete) => discrete.dtype,
        }
    }

    /// Size of each axis.
    pub fn shape(&self) -> &[usize] {
        match self {
            Self::Real(real) => &real.shape,
            Self::Discrete(discrete) => &discrete.shape,
        }
    }

    /// The right values as f64, for laws and plots.
    pub fn values(&self) -> Vec<f64> {
        match self {
            Self::Real(real) => real.value.clone(),
            Self::Discrete(discrete) => discrete.value.iter().map(|&v| v as f64).collect(),
        }
    }
}

/// The expected outputs of a case by name, in a fixed order.
#[derive(Clone, Debug, Default)]
pub struct Outputs(IndexMap<String, Expected>);

impl Outputs {
    /// No outputs.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with one more output.
    #[must_use]
    pub fn with(mut self, name: &str, expected: Expected) -> Self {
        self.0.insert(name.to_string(), expected);
        self
    }

    /// The output of that name.
    ///
    /// # Panics
    /// If the operation has no such output.
    pub fn output(&self, name: &str) -> &Expected {
        self.0.get(name).unwrap_or_else(|| panic!("no output named '{name}'"))
    }

    /// Names and outputs in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Expected)> {
        self.0.iter().map(|(name, expected)| (name.as_str(), expected))
    }

    /// Number of outputs.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
