//! Up-sampling: images made larger by interpolation, by shuffling channels into space, by a learned
//! kernel, or by undoing a pooling. All images are NCHW: [batch, channels, height, width], row-major.

pub mod resize;
pub mod shuffle;
pub mod transposed_conv;
pub mod unpool;

use crate::{
    algorithm::Operation,
    draw::ends_and_between,
    expected::{Expected, Real, Tolerance},
    tensor::DType,
};

/// The operations of this vertical.
pub const OPERATIONS: &[Operation] = &[
    Operation::of::<resize::Forward<resize::Nearest>>(),
    Operation::of::<resize::Backward<resize::Nearest>>(),
    Operation::of::<resize::Forward<resize::Bilinear>>(),
    Operation::of::<resize::Backward<resize::Bilinear>>(),
    Operation::of::<resize::Forward<resize::Bicubic>>(),
    Operation::of::<resize::Backward<resize::Bicubic>>(),
    Operation::of::<shuffle::PixelShuffle>(),
    Operation::of::<shuffle::PixelUnshuffle>(),
    Operation::of::<transposed_conv::Forward>(),
    Operation::of::<transposed_conv::Backward>(),
    Operation::of::<unpool::Unpool>(),
    Operation::of::<unpool::UnpoolBackward>(),
];

/// First-order error analysis leaves out products of roundings; one per cent covers them.
const SECOND_ORDER: f64 = 1.01;

/// The element types an image can have.
fn check_dtype(dtype: DType) -> Result<(), String> {
    match dtype {
        DType::F32 | DType::F16 | DType::Bf16 => Ok(()),
        other => Err(format!("no images of {}", other.name())),
    }
}

/// Sizes along an axis stay below 2²²: positions with halves are then exact in f32 before they are scaled.
fn check_sizes(sizes: &[usize]) -> Result<(), String> {
    match sizes.iter().find(|&&size| size >= 1 << 22) {
        Some(size) => Err(format!("an axis of {size} is out of range")),
        None => Ok(()),
    }
}

/// An output whose rows (all axes but the last) `row` computes: it gets the row's number, counted over the
/// leading axes, and writes its values and their magnitudes. All rows while `cost` steps a row stay within
/// a budget, else the first and last few and a seeded sample between them. Without a tolerance the values
/// are copies, and every bit must be right.
fn by_rows(
    shape: &[usize],
    cost: usize,
    dtype: DType,
    tolerance: Option<Tolerance>,
    mut row: impl FnMut(usize, &mut [f64], &mut [f64]),
) -> Expected {
    let width = *shape.last().expect("an output has axes");
    let computed = sampled(shape[..shape.len() - 1].iter().product(), cost);
    let all = computed.len() * width == shape.iter().product::<usize>();
    let mut value = vec![0.0; computed.len() * width];
    let mut magnitude = vec![0.0; computed.len() * width];
    if width > 0 {
        let pairs = value.chunks_mut(width).zip(magnitude.chunks_mut(width));
        for (&number, (value, magnitude)) in computed.iter().zip(pairs) {
            row(number, value, magnitude);
        }
    }
    let bound = |(&v, &m): (&f64, &f64)| tolerance.map_or(0.0, |tolerance| tolerance.bound(v, m));
    Expected::Real(Real {
        dtype,
        shape: shape.to_vec(),
        at: (!all).then(|| computed.iter().flat_map(|r| r * width..(r + 1) * width).collect()),
        bound: value.iter().zip(&magnitude).map(bound).collect(),
        value,
    })
}

/// Numbers of the rows to compute, ascending.
fn sampled(rows: usize, cost: usize) -> Vec<usize> {
    const BUDGET: usize = 1 << 26;
    ends_and_between(rows, (BUDGET / cost.max(1)).max(32), 0x0005_ca1e)
}

/// Roundings that count for a sum of `n` terms: n in the worst case, and, with roundings that behave as
/// independent with mean zero, at most λ√n but for a chance of 2·exp(−λ²/2) (Higham & Mary 2019, SIAM
/// J. Sci. Comput. 41, theorem 2.4); λ = 8 makes that 3·10⁻¹⁴ an element.
fn sum_roundings(n: usize) -> f64 {
    let n = n as f64;
    n.min(8.0 * n.sqrt())
}
