//! Mixed precision: casts between number formats, the dynamic scale of a loss, and optimizers that keep
//! 32-bit master weights beside the narrow ones a network computes with.

pub mod adamw;
pub mod cast;
pub mod format;
pub mod loss_scale;
mod parameters;
pub mod sgd;

pub use parameters::Sizes;

use crate::{
    algorithm::Operation,
    draw::Draw,
    expected::{Expected, Tolerance},
    tensor::{DType, Data, Tensor},
};

/// The operations of this vertical.
pub const OPERATIONS: &[Operation] = &[
    Operation::of::<cast::Cast>(),
    Operation::of::<loss_scale::LossScale>(),
    Operation::of::<adamw::AdamW>(),
    Operation::of::<sgd::Sgd>(),
];

/// First-order error analysis leaves out products of roundings; one per cent covers them.
const SECOND_ORDER: f64 = 1.01;

/// The element types of gradients and of the weights a network computes with.
fn check_dtype(dtype: DType) -> Result<(), String> {
    match dtype {
        DType::F32 | DType::F16 | DType::Bf16 => Ok(()),
        other => Err(format!("no gradients of {}", other.name())),
    }
}

/// Elements drawn one by one straight into their type: the large cases hold 10⁸ of them.
fn elements(dtype: DType, n: usize, mut one: impl FnMut() -> f64) -> Tensor {
    let data = match dtype {
        DType::F64 => Data::F64((0..n).map(|_| one()).collect()),
        DType::F32 => Data::F32((0..n).map(|_| one() as f32).collect()),
        DType::F16 => Data::F16((0..n).map(|_| half::f16::from_f64(one())).collect()),
        DType::Bf16 => Data::Bf16((0..n).map(|_| half::bf16::from_f64(one())).collect()),
        other => panic!("no reals of {}", other.name()),
    };
    Tensor::new(&[n], data)
}

/// One element as f64, without a copy of the whole tensor.
fn element(tensor: &Tensor, i: usize) -> f64 {
    match tensor.data() {
        Data::F64(x) => x[i],
        Data::F32(x) => x[i].into(),
        Data::F16(x) => x[i].into(),
        Data::Bf16(x) => x[i].into(),
        _ => panic!("{} read as reals", tensor.dtype().name()),
    }
}

/// The elements that a reference computes, ascending: all of up to 2²², else runs of 1024 at both ends and
/// at seeded places between.
fn computed(n: usize) -> Vec<usize> {
    const ALL: usize = 1 << 22;
    const RUN: usize = 1024;
    if n <= ALL {
        return (0..n).collect();
    }
    let mut draw = Draw::new(0x0ca5_7ed0);
    let between = (0..ALL / 4 / RUN).map(|_| draw.below(n / RUN));
    let mut runs: Vec<usize> = [0, (n - 1) / RUN].into_iter().chain(between).collect();
    runs.sort_unstable();
    runs.dedup();
    runs.into_iter().flat_map(|run| run * RUN..((run + 1) * RUN).min(n)).collect()
}

/// An output of `n` elements known at some of them: index, value and magnitude of each. Without a
/// tolerance every bit of them must be right.
fn expected(
    n: usize,
    dtype: DType,
    tolerance: Option<Tolerance>,
    known: &[(usize, f64, f64)],
) -> Expected {
    let exact = Tolerance { relative: 0.0, storage: dtype };
    let Expected::Real(mut real) = Expected::sampled(&[n], known, tolerance.unwrap_or(exact))
    else {
        unreachable!("a sample is real");
    };
    if tolerance.is_none() {
        real.bound.fill(0.0);
    }
    Expected::Real(real)
}
