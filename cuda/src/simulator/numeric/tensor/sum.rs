//! How a tensor core sums products.
//!
//! PTX says only that products are exact and that sums have at least single precision. Published measurements
//! agree on how devices do it (M. Fasi et al., "Numerical behavior of NVIDIA tensor cores", 2021; X. Li et al.,
//! "FTTN", 2024): a block of products and the accumulator are shifted to the largest exponent among them, digits
//! that fall below a fixed number of places are cut off, the integers are added, and the sum is cut off to f32.
//! Here that is done with the blocks and places of sm_90; a device of another architecture may differ by
//! [`super::product::bound`].

use crate::simulator::types::Type;

/// Products that one block adds at once, and the binary places kept below the largest exponent.
pub(super) const fn block(ty: Type) -> (usize, u32) {
    match ty {
        Type::Tf32 => (8, 25),
        Type::E4m3 | Type::E5m2 => (32, 13),
        _ => (16, 25),
    }
}

/// `±significand · 2^(exponent - places)`, 1 ≤ significand · 2^-places < 2 of a normal number; subnormals keep
/// the least exponent.
#[derive(Clone, Copy)]
pub(super) struct Term {
    significand: i64,
    exponent: i32,
    places: u32,
}

#[derive(Clone, Copy)]
pub(super) enum Operand {
    Number(Term),
    Infinite(bool),
    Nan,
}

pub(super) fn operand(ty: Type, bits: u32) -> Operand {
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
pub(super) enum Sum {
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
pub(super) struct Vector {
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
    pub(super) fn of(ty: Type, bits: &[u32]) -> Self {
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
pub(super) fn add_products(
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
pub(super) fn cut_to_f32(sum: Sum) -> u32 {
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

pub(super) fn round_to_f16(sum: Sum) -> u32 {
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
