//! What a matrix instruction computes: D = A·B + C.
//!
//! How the sums are carried out is in `sum.rs`.

use super::{
    fragment,
    sum::{Vector, add_products, block, cut_to_f32, operand, round_to_f16},
};
use crate::simulator::types::Type;

/// Sizes of one instruction: A is m × k, B k × n, C and D m × n.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct Shape {
    pub m: usize,
    pub n: usize,
    pub k: usize,
}

/// A matrix product instruction without its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Product {
    /// Sizes.
    pub shape: Shape,
    /// Elements of A: `F16`, `Bf16`, `Tf32`, `E4m3`, `E5m2`, `S8`, `U8`.
    pub a: Type,
    /// Elements of B.
    pub b: Type,
    /// Accumulator: `F32`, `F16`, or `S32` of integers.
    pub accumulator: Type,
    /// `.satfinite` of integers: clamped instead of wrapping.
    pub saturate: bool,
}

/// Width of an element in a fragment or in shared memory, in bits.
pub const fn bits(ty: Type) -> usize {
    8 * ty.bytes()
}

impl Product {
    /// D of raw elements: `a` row by row (m × k), `b` column by column (n × k), `c` row by row (m × n).
    pub fn multiply(&self, a: &[u32], b: &[u32], c: &[u32], d: &mut [u32]) {
        let Shape { m, n, k } = self.shape;
        assert!(a.len() == m * k && b.len() == n * k && c.len() == m * n && d.len() == m * n);
        if self.accumulator == Type::S32 {
            return self.multiply_integers(a, b, c, d);
        }
        let a: Vec<Vector> = a.chunks(k).map(|row| Vector::of(self.a, row)).collect();
        let b: Vec<Vector> = b.chunks(k).map(|column| Vector::of(self.b, column)).collect();
        let (length, places) = block(self.a);
        for (row, column) in (0..m).flat_map(|row| (0..n).map(move |column| (row, column))) {
            let mut accumulator = c[row * n + column];
            for start in (0..k).step_by(length) {
                let range = start..k.min(start + length);
                let start = operand(self.accumulator, accumulator);
                let sum = add_products(&a[row], &b[column], range, start, places);
                accumulator = match self.accumulator {
                    Type::F16 => round_to_f16(sum),
                    _ => cut_to_f32(sum),
                };
            }
            d[row * n + column] = accumulator;
        }
    }

    fn multiply_integers(&self, a: &[u32], b: &[u32], c: &[u32], d: &mut [u32]) {
        let Shape { m, n, k } = self.shape;
        let value = |ty: Type, bits: u32| match ty {
            Type::S8 => i64::from(bits as i8),
            _ => i64::from(bits as u8),
        };
        for (row, column) in (0..m).flat_map(|row| (0..n).map(move |column| (row, column))) {
            let products = a[row * k..][..k].iter().zip(&b[column * k..][..k]);
            let sum: i64 = products.map(|(a, b)| value(self.a, *a) * value(self.b, *b)).sum();
            let total = sum + i64::from(c[row * n + column] as i32);
            let clamped = total.clamp(i32::MIN.into(), i32::MAX.into());
            d[row * n + column] = if self.saturate { clamped as u32 } else { total as u32 };
        }
    }

    /// `mma.sync.aligned.m16n8k*.row.col`: registers `[register][lane]` in the layouts of
    /// [`super::fragment`]. `d` has as many registers as `c`.
    pub fn mma(&self, a: &[[u32; 32]], b: &[[u32; 32]], c: &[[u32; 32]], d: &mut [[u32; 32]]) {
        let Shape { n, k, .. } = self.shape;
        let width = bits(self.b);
        let mut columns = vec![0; n * k];
        gather(b, width, |lane, register, element, bits| {
            let (row, column) = fragment::b(width, lane, register, element);
            columns[column * k + row] = bits;
        });
        self.multiply_fragments(&self.rows_of_a(a), &columns, c, d);
    }

    /// A row by row, from a warp's registers.
    pub fn rows_of_a(&self, a: &[[u32; 32]]) -> Vec<u32> {
        let Shape { m, k, .. } = self.shape;
        let width = bits(self.a);
        let mut rows = vec![0; m * k];
        gather(a, width, |lane, register, element, bits| {
            let (row, column) = fragment::a(width, lane, register, element);
            rows[row * k + column] = bits;
        });
        rows
    }

    /// D of 16 rows of A, with B column by column, and C and D in a warp's registers.
    pub fn multiply_fragments(&self, a: &[u32], b: &[u32], c: &[[u32; 32]], d: &mut [[u32; 32]]) {
        let Shape { m, n, .. } = self.shape;
        let width = bits(self.accumulator);
        let place = |lane, register, element| {
            let (row, column) = fragment::accumulator(lane, register * (32 / width) + element);
            row * n + column
        };
        let mut whole_c = vec![0; m * n];
        gather(c, width, |lane, register, element, bits| {
            whole_c[place(lane, register, element)] = bits;
        });
        let mut whole_d = vec![0; m * n];
        self.multiply(a, b, &whole_c, &mut whole_d);
        for (register, lanes) in d.iter_mut().enumerate() {
            for (lane, word) in lanes.iter_mut().enumerate() {
                *word = (0..32 / width).fold(0, |word, element| {
                    word | whole_d[place(lane, register, element)] << (width * element)
                });
            }
        }
    }

    /// Registers of A, B and of C or D in `mma.sync`.
    pub const fn registers(&self) -> (usize, usize, usize) {
        let Shape { m, n, k } = self.shape;
        (
            m * k * bits(self.a) / 1024,
            n * k * bits(self.b) / 1024,
            m * n * bits(self.accumulator) / 1024,
        )
    }
}

/// Calls `each(lane, register, element, bits)` for the elements of a fragment.
fn gather(registers: &[[u32; 32]], bits: usize, mut each: impl FnMut(usize, usize, usize, u32)) {
    for (register, lanes) in registers.iter().enumerate() {
        for (lane, word) in lanes.iter().enumerate() {
            for element in 0..32 / bits {
                each(
                    lane,
                    register,
                    element,
                    (word >> (bits * element)) & (u32::MAX >> (32 - bits)),
                );
            }
        }
    }
}

/// How far two devices' results may lie apart for products and accumulator whose magnitudes sum to `magnitude`,
/// over `k` products: each block cuts at most one unit of its last place off each term and off the sum.
pub fn bound(product: &Product, magnitude: f64) -> f64 {
    let (length, places) = block(product.a);
    let blocks = product.shape.k.div_ceil(length) as f64;
    let unit = match product.accumulator {
        Type::F16 => 2_f64.powi(-11),
        _ => 2_f64.powi(-23),
    };
    let cut = (product.shape.k as f64 + blocks) * 2_f64.powi(-(places.min(23) as i32));
    (cut + blocks * unit) * magnitude
}

#[cfg(test)]
mod tests {
    use super::*;

    const F16_K16: Product = Product {
        shape: Shape { m: 16, n: 8, k: 16 },
        a: Type::F16,
        b: Type::F16,
        accumulator: Type::F32,
        saturate: false,
    };

    #[test]
    fn the_identity_returns_the_other_operand() {
        let mut a = vec![0; 256];
        (0..16).for_each(|i| a[17 * i] = 0x3c00);
        let b: Vec<u32> = (0..128).map(|i| half_of(i as f32 - 64.0)).collect();
        let mut d = vec![0; 128];
        F16_K16.multiply(&a, &b, &[0; 128], &mut d);
        for (row, column) in (0..16).flat_map(|r| (0..8).map(move |c| (r, c))) {
            let expected = (column * 16 + row) as f32 - 64.0;
            assert_eq!(f32::from_bits(d[row * 8 + column]), expected);
        }
    }

    fn half_of(value: f32) -> u32 {
        use crate::simulator::numeric::half;
        half::narrow(
            crate::simulator::numeric::exact::F16,
            f64::from(value).to_bits(),
            Default::default(),
        ) as u32
    }

    #[test]
    fn small_integers_are_summed_exactly_through_the_fragments() {
        let mut a = [[0; 32]; 4];
        let mut b = [[0; 32]; 2];
        let (mut matrix_a, mut matrix_b) = ([[0_i32; 16]; 16], [[0_i32; 8]; 16]);
        for (lane, register, element) in
            (0..32).flat_map(|l| (0..4).flat_map(move |r| (0..2).map(move |e| (l, r, e))))
        {
            let (row, column) = super::super::fragment::a(16, lane, register, element);
            matrix_a[row][column] = (row * 3 + column) as i32 - 20;
            a[register][lane] |= half_of(matrix_a[row][column] as f32) << (16 * element);
            if register < 2 {
                let (row, column) = super::super::fragment::b(16, lane, register, element);
                matrix_b[row][column] = row as i32 - 2 * column as i32;
                b[register][lane] |= half_of(matrix_b[row][column] as f32) << (16 * element);
            }
        }
        let mut d = [[0; 32]; 4];
        F16_K16.mma(&a, &b, &[[1.0_f32.to_bits(); 32]; 4], &mut d);
        for lane in 0..32 {
            for (register, lanes) in d.iter().enumerate() {
                let (row, column) = super::super::fragment::accumulator(lane, register);
                let sum: i32 = (0..16).map(|k| matrix_a[row][k] * matrix_b[k][column]).sum();
                assert_eq!(f32::from_bits(lanes[lane]), (sum + 1) as f32, "({row}, {column})");
            }
        }
    }

    #[test]
    fn digits_below_the_largest_exponent_are_cut_off() {
        let one = |a: &[f32], b: &[f32], c: f32| {
            let shape = Shape { m: 1, n: 1, k: a.len() };
            let halves = |values: &[f32]| values.iter().map(|v| half_of(*v)).collect::<Vec<_>>();
            let mut d = [0];
            Product { shape, ..F16_K16 }.multiply(&halves(a), &halves(b), &[c.to_bits()], &mut d);
            f32::from_bits(d[0])
        };
        assert_eq!(one(&[1.0, 1.0], &[1.0, 2.0_f32.powi(-24)], 0.0), 1.0);
        assert_eq!(one(&[1.0, 1.0], &[-1.0, 2.0_f32.powi(-24)], 0.0), -1.0 + 2.0_f32.powi(-24));
        assert!(one(&[f32::INFINITY], &[0.0], 0.0).is_nan());
        assert_eq!(one(&[f32::INFINITY], &[-1.0], 0.0), f32::NEG_INFINITY);
        assert_eq!(one(&[0.0], &[0.0], f32::MAX), f32::MAX);
        assert_eq!(one(&[2.0_f32.powi(-24)], &[2.0_f32.powi(-24)], 0.0), 2.0_f32.powi(-48));
    }

    #[test]
    fn integers_wrap_or_saturate() {
        let shape = Shape { m: 1, n: 1, k: 1 };
        let product =
            Product { shape, a: Type::S8, b: Type::U8, accumulator: Type::S32, saturate: false };
        let mut d = [0];
        product.multiply(&[0x80], &[0xff], &[0], &mut d);
        assert_eq!(d[0] as i32, -128 * 255);
        product.multiply(&[1], &[1], &[i32::MAX as u32], &mut d);
        assert_eq!(d[0] as i32, i32::MIN);
        Product { saturate: true, ..product }.multiply(&[1], &[1], &[i32::MAX as u32], &mut d);
        assert_eq!(d[0] as i32, i32::MAX);
    }
}
