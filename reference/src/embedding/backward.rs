//! The gradient of a gather with respect to its table.

use ndarray::{Array1, Array2};
use serde::{Deserialize, Serialize};

use super::{
    Pattern, Rows, SECOND_ORDER, check_table, computed_rows, distinct, expected_rows, sum_roundings,
};
use crate::{Algorithm, DType, Draw, Outputs, Tensors, Tolerance, Work};

/// `d_table = onehot(indices)ᵀ · d_output`: row v is the sum of `d_output[t]` over the tokens t of word v.
///
/// | input | shape | type | meaning |
/// |---|---|---|---|
/// | `d_output` | [tokens, dim] | f32, f16, bf16 | gradient of the loss by the gathered rows |
/// | `indices` | [tokens] | i32 | the row of each token, 0..vocab |
///
/// | output | shape | type | meaning |
/// |---|---|---|---|
/// | `d_table` | [vocab, dim] | f32 | dense gradient by the table; rows nobody asked for are zero |
///
/// Kernels accumulate in f32, in any order. Source: the transpose of `embedding.gather`.
#[derive(Debug)]
pub struct Backward;

/// Parameters of [`Backward`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Rows of the table.
    pub vocab: usize,
    /// Columns of the table.
    pub dim: usize,
    /// Rows that were looked up.
    pub tokens: usize,
    /// Element type of `d_output`.
    pub dtype: DType,
    /// Which rows were asked for.
    pub pattern: Pattern,
}

impl Algorithm for Backward {
    const NAME: &'static str = "embedding.backward";
    const SUMMARY: &'static str = "dense gradient by the table: rows summed by index";
    const ITEMS: &'static str = "tokens";
    type Params = Params;

    fn validate(params: &Params) -> Result<(), String> {
        if !matches!(params.dtype, DType::F32 | DType::F16 | DType::Bf16) {
            return Err(format!("d_output of {} is not defined", params.dtype.name()));
        }
        check_table(params.vocab, params.dim, params.tokens)
    }

    fn inputs(params: &Params, draw: &mut Draw) -> Tensors {
        let d_output = draw.elements(params.dtype, &[params.tokens, params.dim]);
        let indices = params.pattern.indices(DType::I32, &[params.tokens], params.vocab, draw);
        Tensors::new().with("d_output", d_output).with("indices", indices)
    }

    fn reference(params: &Params, inputs: &Tensors) -> Outputs {
        let d_output = Rows::of(inputs, "d_output");
        let indices = inputs.tensor("indices").to_i64();
        let rows = computed_rows(params.vocab, params.dim);
        let mut place = vec![None; params.vocab];
        for (k, &row) in rows.iter().enumerate() {
            place[row] = Some(k);
        }
        let mut value = Array2::<f64>::zeros((rows.len(), params.dim));
        let mut magnitude = Array2::<f64>::zeros((rows.len(), params.dim));
        let mut terms = vec![0; rows.len()];
        for (token, &row) in indices.iter().enumerate() {
            if let Some(k) = place[row as usize] {
                let gradient = Array1::from(d_output.row(token));
                value.row_mut(k).zip_mut_with(&gradient, |sum, g| *sum += g);
                magnitude.row_mut(k).zip_mut_with(&gradient, |sum, g| *sum += g.abs());
                terms[k] += 1;
            }
        }
        // Each row is a sum of that many terms in f32, which are read exactly.
        let roundings: Array1<f64> = terms.into_iter().map(sum_roundings).collect();
        magnitude *= &roundings.insert_axis(ndarray::Axis(1));
        let relative = SECOND_ORDER * DType::F32.unit_roundoff();
        let tolerance = Tolerance { relative, storage: DType::F32 };
        let shape = [params.vocab, params.dim];
        Outputs::new().with("d_table", expected_rows(shape, &rows, value, magnitude, tolerance))
    }

    /// bytes = d_output + indices + d_table (all of it is written); flops = (tokens − distinct rows) · dim
    /// additions; items = tokens.
    fn work(params: &Params, inputs: &Tensors) -> Work {
        let rows = distinct(&inputs.tensor("indices").to_i64(), params.vocab);
        Work {
            flops: ((params.tokens - rows) * params.dim) as f64,
            bytes: (inputs.bytes() + params.vocab * params.dim * DType::F32.bytes()) as f64,
            items: params.tokens as f64,
            matrix: false,
            eight_bit: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tensor;

    #[test]
    fn known_gradient() {
        let params =
            Params { vocab: 3, dim: 2, tokens: 3, dtype: DType::F32, pattern: Pattern::Zipf };
        let inputs = Tensors::new()
            .with(
                "d_output",
                Tensor::from_real(DType::F32, &[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, -6.0]),
            )
            .with("indices", Tensor::from_integers(DType::I32, &[3], &[2, 0, 2]));
        let outputs = Backward::reference(&params, &inputs);
        assert_eq!(outputs.output("d_table").values(), [3.0, 4.0, 0.0, 0.0, 6.0, -4.0]);
        assert_eq!(Backward::work(&params, &inputs).flops, 2.0);
    }
}
