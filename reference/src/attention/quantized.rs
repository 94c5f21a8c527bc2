//! A KV cache of 8-bit integers: a row of a head is `scale · integers`, with one f32 scale for each token and key head,
//! and one for its value.
//!
//! Sources: Sheng et al. 2023 (FlexGen), §5, and Liu et al. 2024 (KIVI), §3 (caches of few bits; here with a scale for each
//! token); Ootomo, Ozaki & Yokota 2024 (products of floats as sums of products of 8-bit integers).
//!
//! # Error model: what such a cache adds to that of [`super`]
//! Scale and integers are given, so `scale · integer` is the value: quantizing is no error here. Integers up to 127 are
//! exact in f16 (11 bits) and bf16 (8 bits), so no conversion is one either.
//! - The scale of a key multiplies its values or the sum q · k: one more rounding of each term. That of a value
//!   multiplies its values, or the probability before that is rounded to the storage type: one more rounding, and the
//!   storage type's as before.
//! - Integer tensor cores take a 16-bit q as digits of a fixed-point number. We grant 24 bits, sign included, of a range less than
//!   twice the largest: every element of q is off by at most `2u·max|q|`, the sum by `2u·max|q|·Σ|k|`. (Elements down
//!   to 2⁻¹⁵ of the largest in bf16, 2⁻¹² in f16, are exact.)
//! - f16 has no exponents for `probability · scale` of any size, so a kernel may round it as a share of the power of
//!   two at or above the largest scale: half a subnormal step of that then multiplies the integer.

use super::{Rows, U};
use crate::{
    draw::Draw,
    tensor::{DType, Data, Tensor},
};

/// The largest integer; −128 is not used, so that ranges are symmetric.
const LARGEST: f64 = 127.0;

/// Rows of N(0, sd²) values, rounded to integers of which each row's largest is 127: the integers, of `shape`, and the
/// scales, of `shape` without its last axis.
pub(super) fn draw_rows(shape: &[usize], sd: f64, draw: &mut Draw) -> (Tensor, Tensor) {
    let (&width, of_scales) = shape.split_last().expect("rows have a width");
    let rows = of_scales.iter().product();
    let mut integers = Vec::with_capacity(rows * width);
    let mut scales = Vec::with_capacity(rows);
    for _ in 0..rows {
        let row: Vec<f64> = (0..width).map(|_| sd * draw.standard_normal()).collect();
        let largest = row.iter().fold(0.0, |largest: f64, x| largest.max(x.abs()));
        let scale = (largest / LARGEST) as f32;
        let steps = if scale > 0.0 { 1.0 / f64::from(scale) } else { 0.0 };
        integers.extend(row.iter().map(|x| (x * steps).round().clamp(-LARGEST, LARGEST) as i8));
        scales.push(scale);
    }
    (Tensor::new(shape, Data::I8(integers)), Tensor::new(of_scales, Data::F32(scales)))
}

impl Rows {
    /// Rows of integers times their scales, exactly; `at` counts rows of `width` integers.
    pub(super) fn scaled(
        integers: &Tensor,
        scales: &Tensor,
        width: usize,
        at: impl Iterator<Item = usize> + Clone,
    ) -> Self {
        assert_eq!((integers.dtype(), scales.dtype()), (DType::I8, DType::F32));
        let mut rows = Self::new(integers, width, at.clone().map(|row| row * width));
        rows.scales = at.map(|row| scales.real_at(row)).collect();
        for (row, &scale) in rows.values.chunks_exact_mut(width).zip(&rows.scales) {
            row.iter_mut().for_each(|x| *x *= scale);
        }
        rows
    }

    /// Roundings of a term by its row's scale.
    pub(super) fn scalings(&self) -> f64 {
        if self.scales.is_empty() { 0.0 } else { 1.0 }
    }

    /// How far off `q · k_j` may be because a kernel takes `q` as a fixed-point number.
    pub(super) fn of_fixed_point(&self, q: &[f64], j: usize, dtype: DType) -> f64 {
        if self.scales.is_empty() || dtype == DType::F32 {
            return 0.0;
        }
        let largest = q.iter().fold(0.0, |largest: f64, x| largest.max(x.abs()));
        2.0 * U * largest * self.row(j).iter().map(|k| k.abs()).sum::<f64>()
    }

    /// What half a subnormal step of a probability becomes beside value `j`, in units of that value.
    pub(super) fn shares_of_tiny(&self) -> impl Fn(usize) -> f64 + '_ {
        let largest = self.scales.iter().fold(0.0, |largest: f64, scale| largest.max(scale.abs()));
        move |j| match self.scales.get(j) {
            None => 1.0,
            Some(0.0) => 0.0,
            Some(scale) => 2.0 * largest / scale.abs(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_reaches_127_and_is_a_rounding_of_normal_numbers() {
        let (integers, scales) = draw_rows(&[3, 5, 64], 2.0, &mut Draw::new(1));
        assert_eq!((integers.shape(), scales.shape()), (&[3, 5, 64][..], &[3, 5][..]));
        let rows = Rows::scaled(&integers, &scales, 64, 0..15);
        let mut plain = Draw::new(1);
        for (i, scale) in scales.to_f64().into_iter().enumerate() {
            let largest = integers.to_i64()[i * 64..][..64].iter().map(|x| x.abs()).max();
            assert_eq!(largest, Some(127));
            for x in rows.row(i) {
                assert!((x - 2.0 * plain.standard_normal()).abs() <= 0.5001 * scale);
            }
        }
    }

    #[test]
    fn rows_of_zeros_have_no_scale() {
        let (integers, scales) = draw_rows(&[2, 3], 0.0, &mut Draw::new(1));
        assert_eq!((integers.to_i64(), scales.to_f64()), (vec![0; 6], vec![0.0; 2]));
        assert_eq!(Rows::scaled(&integers, &scales, 3, 0..2).row(1), [0.0; 3]);
    }
}
