//! What a matrix instruction computes: D = A·B + C.
//!
//! PTX says only that products are exact and that sums have at least single precision. Published measurements
//! agree on how devices do it (M. Fasi et al., "Numerical behavior of NVIDIA tensor cores", 2021; X. Li et al.,
//! "FTTN", 2024): a block of products and the accumulator are shifted to the largest exponent among them, digits
//! that fall below a fixed number of places are cut off, the integers are added, and the sum is cut off to f32.
//! Here that is done with the blocks and places of sm_90; a device of another architecture may differ by
//! [`bound`].

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

/// Products that one block adds at once, and the binary places kept below the largest exponent.
const fn block(ty: Type) -> (usize, u32) {
    match ty {
        Type::Tf32 => (8, 25),
        Type::E4m3 | Type::E5m2 => (32, 13),
        _ => (16, 25),
    }
}

/// `±significand · 2^(exponent - places)`, 1 ≤ significand · 2^-places < 2 of a normal number; subnormals keep
/// the least exponent.
#[derive(Clone, Copy)]
struct Term {
    significand: i64,
    exponent: i32,
    places: u32,
}

#[derive(Clone, Copy)]
enum Operand {
    Number(Term),
    Infinite(bool),
    Nan,
}

fn operand(ty: Type, bits: u32) -> Operand {
    let (exponent_bits, places, infinities) = match ty {
        Type::F16 => (5, 10, true),
        Type::Bf16 => (8, 7, true),
        // The 13 low bits of the register are not read.
        Type::Tf32 => return operand_of(bits >> 13, 8, 10, true),
        Type::E4m3 => (4, 3, false),
        Type::E5m2 => (5, 2, true),
        _ => (8, 23, true),
    };
    operand_of(bits, exponent_bits, places, infinities)
}

#[inline]
fn operand_of(bits: u32, exponent_bits: u32, places: u32, infinities: bool) -> Operand {
    let fraction = bits & ((1 << places) - 1);
    let top = (1 << exponent_bits) - 1;
    let field = (bits >> places) & top;
    let negative = (bits >> (places + exponent_bits)) & 1 == 1;
    if infinities && field == top {
        return if fraction == 0 { Operand::Infinite(negative) } else { Operand::Nan };
    }
    if !infinities && field == top && fraction == (1 << places) - 1 {
        return Operand::Nan;
    }
    let significand = i64::from(fraction | u32::from(field != 0) << places);
    Operand::Number(Term {
        significand: if negative { -significand } else { significand },
        exponent: field.max(1) as i32 - (top / 2) as i32,
        places,
    })
}

fn times(a: Operand, b: Operand) -> Operand {
    match (a, b) {
        (Operand::Number(a), Operand::Number(b)) => Operand::Number(Term {
            significand: a.significand * b.significand,
            exponent: a.exponent + b.exponent,
            places: a.places + b.places,
        }),
        (Operand::Infinite(a), Operand::Infinite(b)) => Operand::Infinite(a != b),
        (Operand::Infinite(sign), Operand::Number(number))
        | (Operand::Number(number), Operand::Infinite(sign))
            if number.significand != 0 =>
        {
            Operand::Infinite(sign != (number.significand < 0))
        }
        _ => Operand::Nan,
    }
}

/// A fixed-point sum: `total · 2^(exponent - places)`.
enum Sum {
    Number { total: i64, exponent: i32, places: u32 },
    Infinite(bool),
    Nan,
}

fn add_block(terms: &[Operand], places: u32) -> Sum {
    let mut infinite = None;
    let mut exponent = i32::MIN;
    for term in terms {
        match *term {
            Operand::Nan => return Sum::Nan,
            Operand::Infinite(sign) if infinite == Some(!sign) => return Sum::Nan,
            Operand::Infinite(sign) => infinite = Some(sign),
            Operand::Number(term) if term.significand != 0 => {
                exponent = exponent.max(term.exponent)
            }
            Operand::Number(_) => {}
        }
    }
    if let Some(sign) = infinite {
        return Sum::Infinite(sign);
    }
    let numbers = terms.iter().filter_map(|term| match term {
        Operand::Number(term) if term.significand != 0 => Some(*term),
        _ => None,
    });
    let total = numbers.map(|term| aligned(term, exponent, places)).sum();
    Sum::Number { total, exponent, places }
}

/// A term in units of `2^(exponent - places)`, its magnitude cut off.
fn aligned(term: Term, exponent: i32, places: u32) -> i64 {
    if term.significand == 0 {
        return 0;
    }
    let magnitude = term.significand.unsigned_abs() << places.saturating_sub(term.places);
    let down = (exponent - term.exponent) as u32 + term.places.saturating_sub(places);
    let aligned = if down > 63 { 0 } else { (magnitude >> down) as i64 };
    if term.significand < 0 { -aligned } else { aligned }
}

/// A row of A or a column of B, decoded.
struct Vector {
    operands: Vec<Operand>,
    significands: Vec<i32>,
    exponents: Vec<i32>,
    places: u32,
    /// Whether all are numbers.
    finite: bool,
}

/// The exponent of a zero: below all others, also twice.
const OF_ZERO: i32 = -1 << 16;

impl Vector {
    fn of(ty: Type, bits: &[u32]) -> Self {
        let operands: Vec<Operand> = bits.iter().map(|bits| operand(ty, *bits)).collect();
        let number = |operand: &Operand| match operand {
            Operand::Number(term) if term.significand != 0 => *term,
            Operand::Number(term) => Term { exponent: OF_ZERO, ..*term },
            _ => Term { significand: 0, exponent: OF_ZERO, places: 0 },
        };
        Self {
            significands: operands.iter().map(|o| number(o).significand as i32).collect(),
            exponents: operands.iter().map(|o| number(o).exponent).collect(),
            places: operands.first().map_or(0, |o| number(o).places),
            finite: operands.iter().all(|o| matches!(o, Operand::Number(_))),
            operands,
        }
    }
}

/// One block: the products of `range` and the accumulator.
fn add_products(
    a: &Vector,
    b: &Vector,
    range: std::ops::Range<usize>,
    start: Operand,
    places: u32,
) -> Sum {
    let Operand::Number(first) = start else { return add_any(a, b, range, start, places) };
    if !(a.finite && b.finite) {
        return add_any(a, b, range, start, places);
    }
    // Loops of a fixed length are unrolled and vectorized; a shorter block is filled up with zeros.
    if range.len() <= 8 {
        add_numbers::<8>(a, b, range, first, places)
    } else if range.len() <= 16 {
        add_numbers::<16>(a, b, range, first, places)
    } else {
        add_numbers::<32>(a, b, range, first, places)
    }
}

/// The same of numbers alone, at most `N` products.
fn add_numbers<const N: usize>(
    a: &Vector,
    b: &Vector,
    range: std::ops::Range<usize>,
    first: Term,
    places: u32,
) -> Sum {
    let padded = |values: &[i32], zero| -> [i32; N] {
        let values = &values[range.clone()];
        values
            .try_into()
            .unwrap_or_else(|_| std::array::from_fn(|i| values.get(i).copied().unwrap_or(zero)))
    };
    let (x, y) = (padded(&a.significands, 0), padded(&b.significands, 0));
    let (p, q) = (padded(&a.exponents, OF_ZERO), padded(&b.exponents, OF_ZERO));
    let exponents: [i32; N] = std::array::from_fn(|i| p[i] + q[i]);
    let of_first = if first.significand == 0 { OF_ZERO } else { first.exponent };
    let exponent = exponents.iter().fold(of_first, |most, e| most.max(*e));
    if exponent < OF_ZERO / 2 {
        return Sum::Number { total: 0, exponent: 0, places };
    }
    let mut total = aligned(first, exponent, places);
    // Significands of products have at most 22 bits, with 20 places, and so at most 27 when shifted up.
    let up = places - (a.places + b.places);
    for i in 0..N {
        let product = x[i] * y[i];
        let magnitude = (product.unsigned_abs() << up) >> (exponent - exponents[i]).min(31);
        let sign = product >> 31;
        total += i64::from((magnitude as i32 ^ sign) - sign);
    }
    Sum::Number { total, exponent, places }
}

/// The same with infinities and NaNs.
fn add_any(
    a: &Vector,
    b: &Vector,
    range: std::ops::Range<usize>,
    start: Operand,
    places: u32,
) -> Sum {
    let pairs = a.operands[range.clone()].iter().zip(&b.operands[range]);
    let products = pairs.map(|(a, b)| times(*a, *b));
    add_block(&std::iter::once(start).chain(products).collect::<Vec<_>>(), places)
}

/// `total · 2^(exponent - places)` cut off to f32; too large a number becomes an infinity.
fn cut_to_f32(sum: Sum) -> u32 {
    let (total, scale) = match sum {
        Sum::Nan => return super::super::float32::NAN,
        Sum::Infinite(negative) => return 0x7f80_0000 | u32::from(negative) << 31,
        Sum::Number { total: 0, .. } => return 0,
        Sum::Number { total, exponent, places } => (total, exponent - places as i32),
    };
    let sign = u32::from(total < 0) << 31;
    let magnitude = total.unsigned_abs();
    let leading = 63 - magnitude.leading_zeros() as i32 + scale;
    if leading > 127 {
        return sign | 0x7f80_0000;
    }
    let quantum = leading.max(-126) - 23;
    let shift = quantum - scale;
    let digits = match shift {
        64.. => 0,
        0..64 => magnitude >> shift,
        _ => magnitude << -shift,
    } as u32;
    let field = (leading.max(-126) + 126) as u32;
    sign | (digits + (field << 23))
}

fn round_to_f16(sum: Sum) -> u32 {
    use crate::simulator::{
        numeric::exact::{self, Exact, Value},
        types::Rounding,
    };
    let value = match sum {
        Sum::Nan => Value::Nan,
        Sum::Infinite(negative) => Value::Infinite { negative },
        Sum::Number { total, exponent, places } => Value::Finite(Exact {
            negative: total < 0,
            exponent: if total == 0 { 0 } else { exponent - places as i32 },
            significand: total.unsigned_abs().into(),
        }),
    };
    exact::encode(exact::F16, value, Rounding::Nearest) as u32
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
        use super::fragment;
        let Shape { m, n, k } = self.shape;
        let (a_bits, b_bits) = (bits(self.a), bits(self.b));
        let mut whole_a = vec![0; m * k];
        gather(a, a_bits, |lane, register, element, bits| {
            let (row, column) = fragment::a(a_bits, lane, register, element);
            whole_a[row * k + column] = bits;
        });
        let mut whole_b = vec![0; n * k];
        gather(b, b_bits, |lane, register, element, bits| {
            let (row, column) = fragment::b(b_bits, lane, register, element);
            whole_b[column * k + row] = bits;
        });
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
        self.multiply(&whole_a, &whole_b, &whole_c, &mut whole_d);
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
