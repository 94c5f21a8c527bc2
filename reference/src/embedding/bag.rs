//! Rows of a table pooled over bags of indices.

use ndarray::{Array1, Array2};
use serde::{Deserialize, Serialize};

use super::{
    Pattern, Rows, SECOND_ORDER, Storage, check_table, computed_rows, copied_rows, distinct,
    expected_rows, sum_roundings,
};
use crate::{Algorithm, DType, Draw, Expected, Outputs, Tensor, Tensors, Tolerance, Work};

/// `output[b, :]` = sum, mean or maximum of the rows that bag b names; an empty bag gives zeros.
///
/// Bag b holds the samples `offsets[b] .. offsets[b+1]`. Sum with weights: `Σ_s weights[s] · table[indices[s]]`.
///
/// | input | shape | type | meaning |
/// |---|---|---|---|
/// | `table` | [vocab, dim] | f32, f16, bf16, i8 | the embeddings, row-major |
/// | `scales` | [vocab] | f32 | int8 only: value = scale of the row · integer |
/// | `indices` | [samples] | i32 | the row of each sample, 0..vocab, bag after bag |
/// | `offsets` | [bags + 1] | i64 | where each bag starts; the last is the number of samples |
/// | `weights` | [samples] | f32 | only if `weighted`, with mode sum |
///
/// | output | shape | type | meaning |
/// |---|---|---|---|
/// | `output` | [bags, dim] | that of `table`; f32 for int8 | the pooled rows |
///
/// Kernels accumulate in f32. Source: Naumov et al. 2019, "Deep Learning Recommendation Model for
/// Personalization and Recommendation Systems", section 2.1; Joulin et al. 2016, "Bag of Tricks for
/// Efficient Text Classification", section 2 (mean).
#[derive(Debug)]
pub struct Bag;

/// How the rows of a bag become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Their sum, weighted if the case says so.
    Sum,
    /// Their sum over their count.
    Mean,
    /// The largest of each column.
    Max,
}

/// How many samples the bags hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lengths {
    /// `bag_size` each.
    Fixed,
    /// Uniform in 0..=2·`bag_size`, empty ones included.
    Ragged,
}

/// Parameters of [`Bag`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Rows of the table.
    pub vocab: usize,
    /// Columns of the table.
    pub dim: usize,
    /// Number of bags.
    pub bags: usize,
    /// Samples of a bag, on average.
    pub bag_size: usize,
    /// Whether all bags are that size.
    pub lengths: Lengths,
    /// How the rows of a bag become one.
    pub mode: Mode,
    /// Whether every sample has a weight; mode sum only.
    pub weighted: bool,
    /// How the table is stored.
    pub table: Storage,
    /// Which rows are asked for.
    pub pattern: Pattern,
}

impl Algorithm for Bag {
    const NAME: &'static str = "embedding.bag";
    const SUMMARY: &'static str = "sum, mean or maximum of table rows over bags of indices";
    const ITEMS: &'static str = "samples";
    type Params = Params;

    fn validate(params: &Params) -> Result<(), String> {
        if params.weighted && params.mode != Mode::Sum {
            return Err("only mode sum takes weights".into());
        }
        check_table(params.vocab, params.dim, params.bags * params.bag_size)
    }

    fn inputs(params: &Params, draw: &mut Draw) -> Tensors {
        let tensors = params.table.draw(params.vocab, params.dim, draw);
        let mut offsets = vec![0];
        for bag in 0..params.bags {
            let length = match params.lengths {
                Lengths::Fixed => params.bag_size,
                Lengths::Ragged => draw.below(2 * params.bag_size + 1),
            };
            offsets.push(offsets[bag] + length as i64);
        }
        let samples = offsets[params.bags] as usize;
        let indices = params.pattern.indices(DType::I32, &[samples], params.vocab, draw);
        let tensors = tensors
            .with("indices", indices)
            .with("offsets", Tensor::from_integers(DType::I64, &[params.bags + 1], &offsets));
        match params.weighted {
            true => tensors.with("weights", draw.uniform(DType::F32, &[samples], -1.0, 1.0)),
            false => tensors,
        }
    }

    fn reference(params: &Params, inputs: &Tensors) -> Outputs {
        let table = Rows::of(inputs, "table");
        let indices = inputs.tensor("indices").to_i64();
        let offsets = inputs.tensor("offsets").to_i64();
        let weights = inputs.get("weights").map(Tensor::to_f64);
        let rows = computed_rows(params.bags, params.dim);
        let mut value = Array2::zeros((rows.len(), params.dim));
        let mut magnitude = Array2::zeros((rows.len(), params.dim));
        for (k, &bag) in rows.iter().enumerate() {
            let samples = offsets[bag] as usize..offsets[bag + 1] as usize;
            if samples.is_empty() {
                continue;
            }
            let n = samples.len();
            let mut sum = Array1::<f64>::zeros(params.dim);
            let mut absolute = Array1::<f64>::zeros(params.dim);
            let mut largest = Array1::from_elem(params.dim, f64::NEG_INFINITY);
            for s in samples {
                let term = Array1::from(table.row(indices[s] as usize))
                    * weights.as_ref().map_or(1.0, |weights| weights[s]);
                largest.zip_mut_with(&term, |largest, &x| {
                    // As PyTorch's amax, NaN if one is; f64::max would pass over it.
                    if x.is_nan() || x > *largest {
                        *largest = x;
                    }
                });
                absolute.zip_mut_with(&term, |absolute, x| *absolute += x.abs());
                sum += &term;
            }
            let share = if params.mode == Mode::Mean { 1.0 / n as f64 } else { 1.0 };
            value.row_mut(k).assign(&match params.mode {
                Mode::Max => largest,
                Mode::Sum | Mode::Mean => sum * share,
            });
            // A term takes up to two roundings (scale · integer, times its weight), the mean up to two
            // (1/n, times it); the n additions are counted by sum_roundings. All in f32.
            magnitude.row_mut(k).assign(&(absolute * (share * (sum_roundings(n) + 4.0))));
        }
        let shape = [params.bags, params.dim];
        let storage = params.table.output();
        let f32_sum = SECOND_ORDER * DType::F32.unit_roundoff();
        let expected: Expected = match (params.mode, params.table) {
            // A maximum is one of the rows, which are read exactly …
            (Mode::Max, Storage::F32 | Storage::F16 | Storage::Bf16) => {
                copied_rows(shape, &rows, value, storage)
            }
            // … or rounded once; rounding keeps the order, so the maximum of rounded is rounded maximum.
            (Mode::Max, Storage::Int8) => {
                let tolerance = Tolerance { relative: 0.0, storage };
                expected_rows(shape, &rows, value, magnitude, tolerance)
            }
            (Mode::Sum | Mode::Mean, _) => {
                let tolerance = Tolerance { relative: f32_sum, storage };
                expected_rows(shape, &rows, value, magnitude, tolerance)
            }
        };
        Outputs::new().with("output", expected)
    }

    /// bytes = distinct rows · bytes of a row + indices + offsets + weights + output; flops = samples ·
    /// dim · (1, and 1 more each for weights and int8 scales); items = samples.
    fn work(params: &Params, inputs: &Tensors) -> Work {
        let indices = inputs.tensor("indices");
        let rows = distinct(&indices.to_i64(), params.vocab);
        let bytes = rows * params.table.row_bytes(params.dim)
            + indices.bytes()
            + inputs.tensor("offsets").bytes()
            + inputs.get("weights").map_or(0, Tensor::bytes)
            + params.bags * params.dim * params.table.output().bytes();
        let operations =
            1 + usize::from(params.weighted) + usize::from(params.table == Storage::Int8);
        Work {
            flops: (indices.len() * params.dim * operations) as f64,
            bytes: bytes as f64,
            items: indices.len() as f64,
            matrix: false,
            eight_bit: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pooled(mode: Mode, weights: Option<&[f64]>) -> Vec<f64> {
        let params = Params {
            vocab: 3,
            dim: 2,
            bags: 3,
            bag_size: 1,
            lengths: Lengths::Ragged,
            mode,
            weighted: weights.is_some(),
            table: Storage::F32,
            pattern: Pattern::Uniform,
        };
        let mut inputs = Tensors::new()
            .with(
                "table",
                Tensor::from_real(DType::F32, &[3, 2], &[1.0, -1.0, 2.0, -4.0, 3.0, 8.0]),
            )
            .with("indices", Tensor::from_integers(DType::I32, &[3], &[2, 1, 0]))
            .with("offsets", Tensor::from_integers(DType::I64, &[4], &[0, 2, 2, 3]));
        if let Some(weights) = weights {
            inputs.insert("weights", Tensor::from_real(DType::F32, &[3], weights));
        }
        Bag::reference(&params, &inputs).output("output").values()
    }

    #[test]
    fn known_bags() {
        assert_eq!(pooled(Mode::Sum, None), [5.0, 4.0, 0.0, 0.0, 1.0, -1.0]);
        assert_eq!(pooled(Mode::Mean, None), [2.5, 2.0, 0.0, 0.0, 1.0, -1.0]);
        assert_eq!(pooled(Mode::Max, None), [3.0, 8.0, 0.0, 0.0, 1.0, -1.0]);
        let weighted = pooled(Mode::Sum, Some(&[2.0, -0.5, 0.0]));
        assert_eq!(weighted, [5.0, 18.0, 0.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn weights_belong_to_sums() {
        let case: crate::Case =
            "embedding.bag:vocab=1,dim=1,bags=1,bag_size=1,lengths=fixed,mode=max,\
                                 weighted=true,table=f32,pattern=uniform"
                .parse()
                .unwrap();
        let error = crate::operation(&case).unwrap().normalize(&case).unwrap_err().to_string();
        assert!(error.contains("only mode sum takes weights"), "{error}");
    }
}
