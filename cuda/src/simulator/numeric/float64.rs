//! Floating-point instructions, `.f64` (chapter 9.7.3). Subnormals are always kept and nothing saturates.
//!
//! Rounding to nearest is the host's own arithmetic; the other directions go through integers.

use super::exact;
use super::float32::{Property, test};
use crate::simulator::types::Rounding;

/// The NaN of an invalid operation.
pub const NAN: u64 = 0xfff8_0000_0000_0000;
const SIGN: u64 = 1 << 63;
const QUIET: u64 = 1 << 51;

/// The NaN among `operands`, quieted, if there is one; an invalid operation has none and gives [`NAN`].
#[inline(always)]
fn finish(result: u64, operands: &[u64]) -> u64 {
    if !f64::from_bits(result).is_nan() {
        return result;
    }
    let nan = operands.iter().find(|bits| f64::from_bits(**bits).is_nan());
    nan.map_or(NAN, |bits| bits | QUIET)
}

/// `add.f64`.
#[inline(always)]
pub fn add(a: u64, b: u64, rounding: Rounding) -> u64 {
    let sum = match rounding {
        Rounding::Nearest => (f64::from_bits(a) + f64::from_bits(b)).to_bits(),
        _ => exact::add(exact::F64, a, b, rounding),
    };
    finish(sum, &[a, b])
}

/// `sub.f64`.
#[inline(always)]
pub fn sub(a: u64, b: u64, rounding: Rounding) -> u64 {
    let difference = match rounding {
        Rounding::Nearest => (f64::from_bits(a) - f64::from_bits(b)).to_bits(),
        _ => exact::add(exact::F64, a, b ^ SIGN, rounding),
    };
    finish(difference, &[a, b])
}

/// `mul.f64`.
#[inline(always)]
pub fn mul(a: u64, b: u64, rounding: Rounding) -> u64 {
    let product = match rounding {
        Rounding::Nearest => (f64::from_bits(a) * f64::from_bits(b)).to_bits(),
        _ => exact::multiply(exact::F64, a, b, rounding),
    };
    finish(product, &[a, b])
}

/// `fma.f64` and `mad.f64`.
#[inline(always)]
pub fn fma(a: u64, b: u64, c: u64, rounding: Rounding) -> u64 {
    let sum = match rounding {
        Rounding::Nearest => {
            f64::from_bits(a).mul_add(f64::from_bits(b), f64::from_bits(c)).to_bits()
        }
        _ => exact::multiply_add(exact::F64, a, b, c, rounding),
    };
    finish(sum, &[a, b, c])
}

/// `div.f64`.
#[inline(always)]
pub fn div(a: u64, b: u64, rounding: Rounding) -> u64 {
    let quotient = match rounding {
        Rounding::Nearest => (f64::from_bits(a) / f64::from_bits(b)).to_bits(),
        _ => exact::divide(exact::F64, a, b, rounding),
    };
    finish(quotient, &[a, b])
}

/// `rcp.f64`.
#[inline(always)]
pub fn rcp(a: u64, rounding: Rounding) -> u64 {
    div(1.0_f64.to_bits(), a, rounding)
}

/// `sqrt.f64`.
#[inline(always)]
pub fn sqrt(a: u64, rounding: Rounding) -> u64 {
    let root = match rounding {
        Rounding::Nearest => f64::from_bits(a).sqrt().to_bits(),
        _ => exact::square_root(exact::F64, a, rounding),
    };
    finish(root, &[a])
}

/// A key that orders numbers as they are, -0 below +0.
const fn order(bits: u64) -> i64 {
    (bits as i64) ^ (((bits as i64) >> 63) as u64 >> 1) as i64
}

#[inline(always)]
fn extremum(a: u64, b: u64, largest: bool) -> u64 {
    match (f64::from_bits(a).is_nan(), f64::from_bits(b).is_nan()) {
        (true, true) => a | QUIET,
        (true, false) => b,
        (false, true) => a,
        _ if (order(a) < order(b)) != largest => a,
        _ => b,
    }
}

/// `min.f64`.
#[inline(always)]
pub fn min(a: u64, b: u64) -> u64 {
    extremum(a, b, false)
}

/// `max.f64`.
#[inline(always)]
pub fn max(a: u64, b: u64) -> u64 {
    extremum(a, b, true)
}

/// `abs.f64`.
#[inline(always)]
pub const fn abs(a: u64) -> u64 {
    a & !SIGN
}

/// `neg.f64`.
#[inline(always)]
pub const fn neg(a: u64) -> u64 {
    a ^ SIGN
}

/// `copysign.f64 d, a, b`: the sign of `a`, the magnitude of `b`.
#[inline(always)]
pub const fn copysign(a: u64, b: u64) -> u64 {
    (a & SIGN) | (b & !SIGN)
}

/// `testp.f64`. Zeros are normal.
pub fn testp(property: Property, a: u64) -> bool {
    test(property, f64::from_bits(a).classify())
}
