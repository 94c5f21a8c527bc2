//! Embeddings: rows of a table looked up, pooled, differentiated and trained.
//!
//! An embedding is a product with one-hot rows, `output = onehot(indices) · table`; every operation here
//! is that product, its sum over a bag, its transpose, or a training step made of them.

pub mod backward;
pub mod bag;
pub mod gather;
pub mod word2vec;

use ndarray::Array2;
use serde::{Deserialize, Serialize};

use crate::{
    algorithm::Operation,
    draw::{Draw, ends_and_between},
    expected::{Expected, Real, Tolerance},
    tensor::{DType, Data, Tensor, Tensors},
};

/// The operations of this vertical.
pub const OPERATIONS: &[Operation] = &[
    Operation::of::<gather::Gather>(),
    Operation::of::<bag::Bag>(),
    Operation::of::<backward::Backward>(),
    Operation::of::<word2vec::Word2Vec>(),
];

/// How a table stores its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Storage {
    /// `table` is f32.
    F32,
    /// `table` is f16.
    F16,
    /// `table` is bf16.
    Bf16,
    /// `table` is i8, and `scales` [vocab] f32 holds the factor of each row: value = scale · integer.
    Int8,
}

impl Storage {
    /// Element type of `table`.
    pub const fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::Bf16,
            Self::Int8 => DType::I8,
        }
    }

    /// Element type of what is read from the table: its own, and f32 for int8.
    pub const fn output(self) -> DType {
        match self {
            Self::Int8 => DType::F32,
            other => other.dtype(),
        }
    }

    /// Bytes of one row of `dim` elements, its scale included.
    pub const fn row_bytes(self, dim: usize) -> usize {
        match self {
            Self::Int8 => dim + 4,
            other => dim * other.dtype().bytes(),
        }
    }

    /// `table` [vocab, dim] and, if it needs them, `scales` [vocab].
    fn draw(self, vocab: usize, dim: usize, draw: &mut Draw) -> Tensors {
        let tensors = Tensors::new().with("table", draw.elements(self.dtype(), &[vocab, dim]));
        match self {
            Self::Int8 => {
                let scales = draw.uniform(DType::F32, &[vocab], 0.5 / 127.0, 1.5 / 127.0);
                tensors.with("scales", scales)
            }
            _ => tensors,
        }
    }
}

/// Integer type of the indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Index {
    /// 32-bit.
    I32,
    /// 64-bit.
    I64,
}

impl Index {
    /// Element type of `indices`.
    pub const fn dtype(self) -> DType {
        match self {
            Self::I32 => DType::I32,
            Self::I64 => DType::I64,
        }
    }
}

/// How often each row is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pattern {
    /// Every row equally often: few repeats, nothing to cache.
    Uniform,
    /// Row r with probability ∝ 1/(r+1), as words occur in text: the first rows are hit very often.
    Zipf,
}

impl Pattern {
    fn row(self, vocab: usize, draw: &mut Draw) -> i64 {
        (match self {
            Self::Uniform => draw.below(vocab),
            Self::Zipf => draw.zipf(vocab),
        }) as i64
    }

    fn indices(self, dtype: DType, shape: &[usize], vocab: usize, draw: &mut Draw) -> Tensor {
        draw.integers(dtype, shape, |draw| self.row(vocab, draw))
    }
}

/// A table's rows as f64, whatever its storage.
struct Rows<'a> {
    table: &'a Tensor,
    scales: Option<Vec<f64>>,
    dim: usize,
}

impl<'a> Rows<'a> {
    /// The tensor of that name, [vocab, dim], with the `scales` that an int8 table has.
    fn of(inputs: &'a Tensors, name: &str) -> Self {
        let table = inputs.tensor(name);
        Self { table, scales: inputs.get("scales").map(Tensor::to_f64), dim: table.shape()[1] }
    }

    /// Row `v`; the product scale · integer is exact in f64.
    fn row(&self, v: usize) -> Vec<f64> {
        let at = v * self.dim..(v + 1) * self.dim;
        match self.table.data() {
            Data::F32(x) => x[at].iter().map(|&x| x.into()).collect(),
            Data::F16(x) => x[at].iter().map(|&x| x.into()).collect(),
            Data::Bf16(x) => x[at].iter().map(|&x| x.into()).collect(),
            Data::I8(x) => {
                let scale = self.scales.as_ref().expect("an int8 table has scales")[v];
                x[at].iter().map(|&q| scale * f64::from(q)).collect()
            }
            _ => panic!("a table of {}", self.table.dtype().name()),
        }
    }
}

/// The rows of a `rows` × `width` output that a reference computes: all of them while that is at most
/// 2²² elements, else the first and last few and a seeded sample in between, ascending.
fn computed_rows(rows: usize, width: usize) -> Vec<usize> {
    const BUDGET: usize = 1 << 22;
    match rows * width <= BUDGET {
        true => (0..rows).collect(),
        false => ends_and_between(rows, BUDGET / 8 / width.max(1), 0x7001),
    }
}

/// Rows of an expected output, with the magnitude of each element; `rows` are those computed.
fn expected_rows(
    shape: [usize; 2],
    rows: &[usize],
    value: Array2<f64>,
    magnitude: Array2<f64>,
    tolerance: Tolerance,
) -> Expected {
    let at = rows.iter().flat_map(|row| row * shape[1]..(row + 1) * shape[1]);
    let known = at.zip(value.iter().zip(&magnitude)).map(|(at, (&v, &m))| (at, v, m));
    Expected::sampled(&shape, &known.collect::<Vec<_>>(), tolerance)
}

/// Rows that are copied, not computed: every bit must be right, so the bound is zero.
fn copied_rows(shape: [usize; 2], rows: &[usize], value: Array2<f64>, dtype: DType) -> Expected {
    let all = rows.len() == shape[0];
    let at = rows.iter().flat_map(|row| row * shape[1]..(row + 1) * shape[1]);
    Expected::Real(Real {
        dtype,
        shape: shape.to_vec(),
        at: (!all).then(|| at.collect()),
        bound: vec![0.0; value.len()],
        value: value.into_iter().collect(),
    })
}

/// Roundings that count for a sum of `n` terms: n in the worst case, and, with roundings that behave as
/// independent with mean zero, at most λ√n but for a chance of 2·exp(−λ²/2) (Higham & Mary 2019, SIAM
/// J. Sci. Comput. 41, theorem 2.4). λ = 8 makes that 3·10⁻¹⁴ an element. The smaller of the two keeps
/// the bound of a row that is hit 10⁵ times tight enough to see a lost term.
fn sum_roundings(n: usize) -> f64 {
    let n = n as f64;
    n.min(8.0 * n.sqrt())
}

/// First-order error analysis leaves out products of roundings; one per cent covers them.
const SECOND_ORDER: f64 = 1.01;

/// How many different rows the indices name, negative ones not counted.
fn distinct(indices: &[i64], vocab: usize) -> usize {
    let mut seen = vec![false; vocab];
    for &index in indices.iter().filter(|&&index| index >= 0) {
        seen[index as usize] = true;
    }
    seen.into_iter().filter(|&seen| seen).count()
}

/// `vocab` and `dim` fit the 32-bit row numbers and the memory of a device; and there is a row to ask for.
fn check_table(vocab: usize, dim: usize, lookups: usize) -> Result<(), String> {
    if vocab == 0 && lookups > 0 {
        return Err("lookups need a table with at least one row".into());
    }
    if vocab > i32::MAX as usize || dim > 1 << 16 {
        return Err(format!("a table of {vocab} rows of {dim} is out of range"));
    }
    Ok(())
}
