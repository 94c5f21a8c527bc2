//! Floating-point instructions, `.f32` (chapter 9.7.3).
//!
//! Rounding to nearest is the host's own arithmetic. The other directions go through `f64`: the product of two
//! f32 is exact there, and a sum is rounded to odd, after which one rounding to f32 in any direction is right
//! because f64 has more than two spare digits (Boldo & Melquiond, "Emulation of FMA and correctly rounded sums",
//! 2008).

use super::{Modes, exact};
use crate::simulator::types::Rounding;

/// The NaN that f32 instructions produce.
pub const NAN: u32 = 0x7fff_ffff;
const SIGN: u32 = 0x8000_0000;

/// `bits`, with a subnormal number replaced by the zero of its sign when `ftz`.
#[inline(always)]
pub const fn flush(bits: u32, ftz: bool) -> u32 {
    if ftz && bits & 0x7f80_0000 == 0 { bits & SIGN } else { bits }
}

#[inline(always)]
const fn input(bits: u32, ftz: bool) -> f32 {
    f32::from_bits(flush(bits, ftz))
}

/// Canonical NaN, `.ftz` and `.sat` of a result.
#[inline(always)]
pub fn finish(value: f32, modes: Modes) -> u32 {
    if modes.saturate {
        // NaN and negative numbers become +0; a comparison with NaN is false.
        return if value > 0.0 { flush(value.min(1.0).to_bits(), modes.ftz) } else { 0 };
    }
    if value.is_nan() { NAN } else { flush(value.to_bits(), modes.ftz) }
}

/// `finish` of a result that was rounded: when it was subnormal before, which is asked with `.ftz` alone, it becomes a
/// zero, though it may have become the smallest normal number.
#[inline(always)]
fn finish_rounded(value: f32, was_subnormal: bool, modes: Modes) -> u32 {
    finish(if was_subnormal { 0.0_f32.copysign(value) } else { value }, modes)
}

#[inline(always)]
fn is_subnormal(value: f64) -> bool {
    value.abs() < f64::from(f32::MIN_POSITIVE)
}

/// `x + y` in f64, rounded to odd: the exact sum when it is an f64, else the neighbour whose last bit is 1.
#[inline(always)]
pub fn sum_to_odd(x: f64, y: f64) -> f64 {
    let sum = x + y;
    let shadow = sum - x;
    let error = (x - (sum - shadow)) + (y - shadow);
    // Of infinities and NaNs the error is NaN, and nothing is adjusted.
    if error.abs() > 0.0 && sum.to_bits() & 1 == 0 {
        let towards_larger = (error > 0.0) == (sum > 0.0);
        return f64::from_bits(if towards_larger { sum.to_bits() + 1 } else { sum.to_bits() - 1 });
    }
    sum
}

/// `value`, which carries a sticky last bit, rounded to f32.
#[inline(always)]
fn narrow(value: f64, rounding: Rounding) -> f32 {
    let nearest = value as f32;
    let back = f64::from(nearest);
    match rounding {
        Rounding::Nearest => nearest,
        Rounding::Down if back > value => nearest.next_down(),
        Rounding::Up if back < value => nearest.next_up(),
        Rounding::Zero if back.abs() > value.abs() => {
            if value > 0.0 {
                nearest.next_down()
            } else {
                nearest.next_up()
            }
        }
        // Not a mode of arithmetic instructions.
        Rounding::NearestAway => {
            let bits = value.to_bits();
            f32::from_bits(super::half::narrow(exact::F32, bits, rounding) as u32)
        }
        _ => nearest,
    }
}

#[inline(always)]
fn sum_in_direction(x: f64, y: f64, rounding: Rounding) -> f32 {
    let sum = sum_to_odd(x, y);
    if sum == 0.0 && rounding == Rounding::Down && (x.is_sign_negative() || y.is_sign_negative()) {
        return -0.0;
    }
    narrow(sum, rounding)
}

/// `add.f32`.
#[inline(always)]
pub fn add(a: u32, b: u32, modes: Modes) -> u32 {
    let (a, b) = (input(a, modes.ftz), input(b, modes.ftz));
    let sum = match modes.rounding {
        Rounding::Nearest => a + b,
        rounding => sum_in_direction(a.into(), b.into(), rounding),
    };
    finish(sum, modes)
}

/// `sub.f32`.
#[inline(always)]
pub fn sub(a: u32, b: u32, modes: Modes) -> u32 {
    add(a, b ^ SIGN, modes)
}

/// `mul.f32`.
#[inline(always)]
pub fn mul(a: u32, b: u32, modes: Modes) -> u32 {
    let (a, b) = (input(a, modes.ftz), input(b, modes.ftz));
    let product = match modes.rounding {
        Rounding::Nearest => a * b,
        rounding => narrow(f64::from(a) * f64::from(b), rounding),
    };
    let was_subnormal = modes.ftz && is_subnormal(f64::from(a) * f64::from(b));
    finish_rounded(product, was_subnormal, modes)
}

/// `x + y` rounded to the nearest f32, where `x` is a product of two f32 and `y` an f32.
#[inline(always)]
fn fused_nearest(x: f64, y: f64) -> f32 {
    let sum = x + y;
    // Rounding twice goes wrong only where the f64 lies halfway between two f32: in the normal range its 29 low
    // bits are then a one and zeros.
    let halfway = sum.to_bits() & 0x1fff_ffff == 0x1000_0000;
    let subnormal = sum.abs() < f64::from(f32::MIN_POSITIVE) && sum != 0.0;
    if halfway || subnormal {
        return sum_to_odd(x, y) as f32;
    }
    sum as f32
}

/// Whether `x + y` is subnormal when rounded to an f32's digits with exponents to spare: what `.ftz` asks of an `fma`, as
/// an H200 shows.
fn stays_subnormal(x: f64, y: f64, rounding: Rounding) -> bool {
    let raised = sum_to_odd(x, y) * 2.0_f64.powi(64);
    let rounded = match rounding {
        Rounding::Nearest => raised as f32,
        rounding => sum_in_direction(raised, 0.0, rounding),
    };
    rounded.abs() < 2.0_f32.powi(64 - 126)
}

/// `fma.f32` and `mad.f32`, which is the same since sm_20.
#[inline(always)]
pub fn fma(a: u32, b: u32, c: u32, modes: Modes) -> u32 {
    let (a, b, c) = (input(a, modes.ftz), input(b, modes.ftz), input(c, modes.ftz));
    let product = f64::from(a) * f64::from(b);
    let sum = match modes.rounding {
        Rounding::Nearest => fused_nearest(product, c.into()),
        rounding => sum_in_direction(product, c.into(), rounding),
    };
    let was_subnormal = modes.ftz && stays_subnormal(product, c.into(), modes.rounding);
    finish_rounded(sum, was_subnormal, modes)
}

/// `div.rn.f32` and the other directions.
#[inline(always)]
pub fn div(a: u32, b: u32, modes: Modes) -> u32 {
    let (a, b) = (input(a, modes.ftz), input(b, modes.ftz));
    let quotient = match modes.rounding {
        Rounding::Nearest => a / b,
        rounding => f32::from_bits(exact::divide(
            exact::F32,
            a.to_bits().into(),
            b.to_bits().into(),
            rounding,
        ) as u32),
    };
    // The smallest normal number times the divisor is exact.
    let was_subnormal =
        modes.ftz && f64::from(a).abs() < f64::from(f32::MIN_POSITIVE) * f64::from(b).abs();
    finish_rounded(quotient, was_subnormal, modes)
}

/// `rcp.rn.f32` and the other directions.
#[inline(always)]
pub fn rcp(a: u32, modes: Modes) -> u32 {
    div(1.0_f32.to_bits(), a, modes)
}

/// `sqrt.rn.f32` and the other directions.
#[inline(always)]
pub fn sqrt(a: u32, modes: Modes) -> u32 {
    let a = input(a, modes.ftz);
    let root = match modes.rounding {
        Rounding::Nearest => a.sqrt(),
        rounding => {
            f32::from_bits(exact::square_root(exact::F32, a.to_bits().into(), rounding) as u32)
        }
    };
    finish(root, modes)
}

/// A key that orders numbers as they are, -0 below +0.
#[inline(always)]
const fn order(bits: u32) -> i32 {
    (bits as i32) ^ (((bits as i32) >> 31) as u32 >> 1) as i32
}

/// Modifiers of `min` and `max`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Extremum {
    /// The larger instead of the smaller.
    pub largest: bool,
    /// `.NaN`: a NaN among the operands is the result; otherwise the other operand is.
    pub nan: bool,
    /// `.xorsign.abs`: compares magnitudes; the sign is the product of the signs.
    pub xorsign_abs: bool,
    /// `.ftz`.
    pub ftz: bool,
}

/// `min.f32` and `max.f32`.
#[inline(always)]
pub fn extremum(a: u32, b: u32, modes: Extremum) -> u32 {
    let (mut x, mut y) = (flush(a, modes.ftz), flush(b, modes.ftz));
    let (a_nan, b_nan) = (x & !SIGN > 0x7f80_0000, y & !SIGN > 0x7f80_0000);
    if (a_nan && b_nan) || (modes.nan && (a_nan || b_nan)) {
        return NAN;
    }
    let sign = (x ^ y) & SIGN;
    if modes.xorsign_abs {
        x &= !SIGN;
        y &= !SIGN;
    }
    let first = if a_nan || b_nan { b_nan } else { (order(x) < order(y)) != modes.largest };
    let chosen = if first { x } else { y };
    if modes.xorsign_abs { chosen | sign } else { chosen }
}

/// `min.f32` without modifiers but `.ftz`.
#[inline(always)]
pub fn min(a: u32, b: u32, ftz: bool) -> u32 {
    extremum(a, b, Extremum { ftz, ..Extremum::default() })
}

/// `max.f32` without modifiers but `.ftz`.
#[inline(always)]
pub fn max(a: u32, b: u32, ftz: bool) -> u32 {
    extremum(a, b, Extremum { largest: true, ftz, ..Extremum::default() })
}

/// `abs.f32`; of a NaN, the canonical one (PTX leaves its payload open).
#[inline(always)]
pub const fn abs(a: u32, ftz: bool) -> u32 {
    let magnitude = flush(a, ftz) & !SIGN;
    if magnitude > 0x7f80_0000 { NAN } else { magnitude }
}

/// `neg.f32`; of a NaN, the canonical one (PTX leaves its payload open).
#[inline(always)]
pub const fn neg(a: u32, ftz: bool) -> u32 {
    if a & !SIGN > 0x7f80_0000 { NAN } else { flush(a, ftz) ^ SIGN }
}

/// `copysign.f32 d, a, b`: the sign of `a`, the magnitude of `b`.
#[inline(always)]
pub const fn copysign(a: u32, b: u32) -> u32 {
    (a & SIGN) | (b & !SIGN)
}

/// A property that `testp` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Property {
    Finite,
    Infinite,
    Number,
    NotANumber,
    Normal,
    Subnormal,
}

/// `testp.f32`. Zeros are normal.
pub fn testp(property: Property, a: u32) -> bool {
    test(property, f32::from_bits(a).classify())
}

pub(super) fn test(property: Property, class: std::num::FpCategory) -> bool {
    use std::num::FpCategory::{Infinite, Nan, Normal, Subnormal, Zero};
    match property {
        Property::Finite => !matches!(class, Infinite | Nan),
        Property::Infinite => class == Infinite,
        Property::Number => class != Nan,
        Property::NotANumber => class == Nan,
        Property::Normal => matches!(class, Normal | Zero),
        Property::Subnormal => class == Subnormal,
    }
}
