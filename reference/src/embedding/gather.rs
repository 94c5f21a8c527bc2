//! Rows of a table, one for each index.

use ndarray::Array2;
use serde::{Deserialize, Serialize};

use super::{
    Index, Pattern, Rows, Storage, check_table, computed_rows, copied_rows, distinct, expected_rows,
};
use crate::{Algorithm, Draw, Outputs, Tensors, Tolerance, Work};

/// `output[t, :] = onehot(indices[t]) · table`, which is row `indices[t]` of the table.
///
/// | input | shape | type | meaning |
/// |---|---|---|---|
/// | `table` | [vocab, dim] | f32, f16, bf16, i8 | the embeddings, row-major |
/// | `scales` | [vocab] | f32 | int8 only: value = scale of the row · integer |
/// | `indices` | [tokens] | i32, i64 | the row of each token, 0..vocab; −1 (padding) gives a zero row |
///
/// | output | shape | type | meaning |
/// |---|---|---|---|
/// | `output` | [tokens, dim] | that of `table`; f32 for int8 | the rows |
///
/// No tokens or no columns give an empty output. Source: Bengio et al. 2003, "A Neural Probabilistic
/// Language Model", section 2 (the shared matrix C); row-wise int8 as in Guan et al. 2019, "Post-Training
/// 4-bit Quantization on Embedding Tables", section 2.
#[derive(Debug)]
pub struct Gather;

/// Parameters of [`Gather`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Rows of the table.
    pub vocab: usize,
    /// Columns of the table.
    pub dim: usize,
    /// Rows to look up.
    pub tokens: usize,
    /// How the table is stored.
    pub table: Storage,
    /// Integer type of the indices.
    pub index: Index,
    /// Which rows are asked for.
    pub pattern: Pattern,
    /// Whether one token in eight, on average, is padding: index −1.
    pub padding: bool,
}

impl Algorithm for Gather {
    const NAME: &'static str = "embedding.gather";
    const SUMMARY: &'static str = "rows of a table, one for each index";
    const ITEMS: &'static str = "tokens";
    type Params = Params;

    fn validate(params: &Params) -> Result<(), String> {
        check_table(params.vocab, params.dim, params.tokens)
    }

    fn inputs(params: &Params, draw: &mut Draw) -> Tensors {
        let tensors = params.table.draw(params.vocab, params.dim, draw);
        let indices = draw.integers(params.index.dtype(), &[params.tokens], |draw| {
            if params.padding && draw.below(8) == 0 {
                -1
            } else {
                params.pattern.row(params.vocab, draw)
            }
        });
        tensors.with("indices", indices)
    }

    fn reference(params: &Params, inputs: &Tensors) -> Outputs {
        let table = Rows::of(inputs, "table");
        let indices = inputs.tensor("indices").to_i64();
        let rows = computed_rows(params.tokens, params.dim);
        let mut value = Array2::zeros((rows.len(), params.dim));
        for (mut row, &token) in value.rows_mut().into_iter().zip(&rows) {
            if indices[token] >= 0 {
                row.assign(&ndarray::Array1::from(table.row(indices[token] as usize)));
            }
        }
        let shape = [params.tokens, params.dim];
        let dtype = params.table.output();
        let expected = match params.table {
            // scale · integer is one product, rounded once to f32: the storage term alone.
            Storage::Int8 => {
                let magnitude = Array2::zeros(value.raw_dim());
                let tolerance = Tolerance { relative: 0.0, storage: dtype };
                expected_rows(shape, &rows, value, magnitude, tolerance)
            }
            // Nothing is computed.
            _ => copied_rows(shape, &rows, value, dtype),
        };
        Outputs::new().with("output", expected)
    }

    /// bytes = distinct rows · bytes of a row + indices + output; flops = one product an element for
    /// int8, else none; items = tokens.
    fn work(params: &Params, inputs: &Tensors) -> Work {
        let rows = distinct(&inputs.tensor("indices").to_i64(), params.vocab);
        let elements = params.tokens * params.dim;
        let bytes = rows * params.table.row_bytes(params.dim)
            + inputs.tensor("indices").bytes()
            + elements * params.table.output().bytes();
        Work {
            flops: if params.table == Storage::Int8 { elements as f64 } else { 0.0 },
            bytes: bytes as f64,
            items: params.tokens as f64,
            matrix: false,
            eight_bit: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, Expected, Tensor};

    fn params(vocab: usize, dim: usize, tokens: usize, table: Storage) -> Params {
        let (index, pattern) = (Index::I32, Pattern::Uniform);
        Params { vocab, dim, tokens, table, index, pattern, padding: true }
    }

    #[test]
    fn known_rows() {
        let inputs = Tensors::new()
            .with("table", Tensor::from_integers(DType::I8, &[2, 2], &[1, -2, 100, 127]))
            .with("scales", Tensor::from_real(DType::F32, &[2], &[0.5, 0.25]))
            .with("indices", Tensor::from_integers(DType::I32, &[3], &[1, -1, 0]));
        let outputs = Gather::reference(&params(2, 2, 3, Storage::Int8), &inputs);
        assert_eq!(outputs.output("output").values(), [25.0, 31.75, 0.0, 0.0, 0.5, -1.0]);
    }

    #[test]
    fn a_gather_is_the_product_with_one_hot_rows() {
        for storage in [Storage::F32, Storage::F16, Storage::Bf16, Storage::Int8] {
            let params = params(7, 5, 40, storage);
            let inputs = Gather::inputs(&params, &mut Draw::new(1));
            let indices = inputs.tensor("indices").to_i64();
            assert!(indices.contains(&-1), "no padding was drawn");
            let one_hot =
                Array2::from_shape_fn((40, 7), |(t, v)| f64::from(indices[t] == v as i64));
            let rows = Rows::of(&inputs, "table");
            let table = Array2::from_shape_fn((7, 5), |(v, j)| rows.row(v)[j]);
            let product = one_hot.dot(&table);
            let outputs = Gather::reference(&params, &inputs);
            assert_eq!(outputs.output("output").values(), product.into_raw_vec_and_offset().0);
        }
    }

    #[test]
    fn copies_have_no_tolerance() {
        let params = params(3, 2, 4, Storage::Bf16);
        let inputs = Gather::inputs(&params, &mut Draw::new(1));
        let outputs = Gather::reference(&params, &inputs);
        let Expected::Real(real) = outputs.output("output") else { panic!("not real") };
        assert!(real.bound.iter().all(|&bound| bound == 0.0));
    }

    #[test]
    fn large_outputs_are_sampled_by_whole_rows() {
        let params = params(3, 64, 1 << 17, Storage::F32);
        let inputs = Gather::inputs(&params, &mut Draw::new(1));
        let outputs = Gather::reference(&params, &inputs);
        let Expected::Real(real) = outputs.output("output") else { panic!("not real") };
        let at = real.at.as_ref().expect("a sample");
        assert_eq!(at.len(), real.value.len());
        assert_eq!((at[0], at[at.len() - 1]), (0, (1 << 17) * 64 - 1));
        assert_eq!(at.len() % 64, 0);
    }
}
