//! Half-precision floating-point instructions (chapter 9.7.4): `.f16`, `.bf16` and their packed forms.
//!
//! Computed in f64, where products of halves are exact and sums are rounded to odd, then rounded once.

use super::{
    Modes, approx,
    exact::{BF16, F16, Format},
    float32::{Extremum, sum_to_odd},
};
use crate::simulator::types::Rounding;

/// Which 16-bit format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Half {
    /// `.f16`.
    F16,
    /// `.bf16`.
    Bf16,
}

const SIGN: u16 = 0x8000;

impl Half {
    /// The format of its bits.
    #[inline(always)]
    pub const fn format(self) -> Format {
        match self {
            Self::F16 => F16,
            Self::Bf16 => BF16,
        }
    }

    #[inline(always)]
    const fn infinity(self) -> u16 {
        match self {
            Self::F16 => 0x7c00,
            Self::Bf16 => 0x7f80,
        }
    }

    /// The smallest normal number.
    #[inline(always)]
    const fn smallest(self) -> f64 {
        match self {
            Self::F16 => 6.103_515_625e-5,
            Self::Bf16 => f32::MIN_POSITIVE as f64,
        }
    }

    /// The NaN that instructions produce.
    pub const NAN: u16 = 0x7fff;

    #[inline(always)]
    const fn is_nan(self, bits: u16) -> bool {
        bits & !SIGN > self.infinity()
    }

    /// `bits`, with a subnormal number replaced by the zero of its sign when `ftz`.
    #[inline(always)]
    pub const fn flush(self, bits: u16, ftz: bool) -> u16 {
        if ftz && bits & self.infinity() == 0 { bits & SIGN } else { bits }
    }

    /// The value, exactly.
    #[inline(always)]
    pub fn widen(self, bits: u16) -> f32 {
        match self {
            Self::F16 => f16_to_f32(bits),
            Self::Bf16 => f32::from_bits(u32::from(bits) << 16),
        }
    }

    /// `value` (exact, or rounded to odd), rounded, with the modifiers applied.
    #[inline(always)]
    pub fn finish(self, value: f64, modes: Modes) -> u16 {
        if value.is_nan() {
            return if modes.saturate { 0 } else { Self::NAN };
        }
        let value = if modes.saturate { value.clamp(0.0, 1.0) + 0.0 } else { value };
        let bits = narrow(self.format(), value.to_bits(), modes.rounding) as u16;
        if modes.relu && bits & SIGN != 0 {
            return 0;
        }
        // What is subnormal before it is rounded is flushed, though it may round to a normal number.
        if modes.ftz && value.abs() < self.smallest() { bits & SIGN } else { bits }
    }
}

/// The value of binary16 `bits`; a NaN becomes the canonical NaN.
#[inline(always)]
pub fn f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & SIGN) << 16;
    let magnitude = u32::from(bits & !SIGN);
    let result = match magnitude {
        // A subnormal: its digits count units of 2^-24.
        0..0x400 => (magnitude as f32 * 5.960_464_5e-8).to_bits(),
        0x400..0x7c00 => (magnitude << 13) + (112 << 23),
        0x7c00 => 0x7f80_0000,
        _ => return f32::from_bits(super::float32::NAN),
    };
    f32::from_bits(sign | result)
}

/// The f64 `bits`, rounded to a narrower format; too large a number becomes an infinity or the largest number,
/// as the direction asks.
#[inline]
pub fn narrow(format: Format, bits: u64, rounding: Rounding) -> u64 {
    let width = format.exponent_bits + format.fraction_bits;
    let sign = (bits >> 63) << width;
    let negative = sign != 0;
    let magnitude = bits & (u64::MAX >> 1);
    if magnitude >= 0x7ff << 52 {
        let special = magnitude == 0x7ff << 52;
        return if special { sign | format.infinity() } else { format.nan };
    }
    let lowest = 2 - (1 << (format.exponent_bits - 1)); // exponent of the smallest normal number
    let exponent = (magnitude >> 52) as i32 - 1023;
    if rounding == Rounding::Nearest && exponent >= lowest && exponent <= 1 - lowest {
        // Half a unit, less a bit when the last digit kept is even; a carry runs into the exponent, at the end
        // into infinity.
        let dropped = 52 - format.fraction_bits;
        let up = (1 << (dropped - 1)) - 1 + ((magnitude >> dropped) & 1);
        let rebias = ((1022 + lowest) as u64) << format.fraction_bits;
        return sign | (((magnitude + up) >> dropped) - rebias);
    }
    let (digits, dropped, base) = if exponent >= lowest {
        let field = ((exponent - lowest + 1) as u64) << format.fraction_bits;
        (magnitude & ((1 << 52) - 1), 52 - format.fraction_bits, field)
    } else {
        // A subnormal of the narrow format; subnormals of f64 lie below half of the least of them.
        let hidden = if magnitude >> 52 == 0 { 0 } else { 1 << 52 };
        let more = (lowest - exponent) as u32 + 52 - format.fraction_bits;
        (magnitude & ((1 << 52) - 1) | hidden, more.min(63), 0)
    };
    let kept = digits >> dropped;
    let rest = digits & ((1 << dropped) - 1);
    let half = 1_u64 << (dropped - 1);
    let up = match rounding {
        Rounding::Nearest => rest > half || (rest == half && kept & 1 == 1),
        Rounding::NearestAway => rest >= half,
        Rounding::Zero => false,
        Rounding::Down => negative && rest != 0,
        Rounding::Up => !negative && rest != 0,
    };
    let result = base + kept + u64::from(up);
    if result > format.largest() {
        let outwards = match rounding {
            Rounding::Nearest | Rounding::NearestAway => true,
            Rounding::Zero => false,
            Rounding::Down => negative,
            Rounding::Up => !negative,
        };
        return sign | if outwards { format.infinity() } else { format.largest() };
    }
    sign | result
}

fn input(kind: Half, bits: u16, modes: Modes) -> f64 {
    f64::from(kind.widen(kind.flush(bits, modes.ftz)))
}

/// `add`.
#[inline]
pub fn add(kind: Half, a: u16, b: u16, modes: Modes) -> u16 {
    kind.finish(sum_to_odd(input(kind, a, modes), input(kind, b, modes)), modes)
}

/// `sub`.
#[inline]
pub fn sub(kind: Half, a: u16, b: u16, modes: Modes) -> u16 {
    add(kind, a, b ^ SIGN, modes)
}

/// `mul`.
#[inline]
pub fn mul(kind: Half, a: u16, b: u16, modes: Modes) -> u16 {
    kind.finish(input(kind, a, modes) * input(kind, b, modes), modes)
}

/// `fma`.
#[inline]
pub fn fma(kind: Half, a: u16, b: u16, c: u16, modes: Modes) -> u16 {
    let product = input(kind, a, modes) * input(kind, b, modes);
    kind.finish(sum_to_odd(product, input(kind, c, modes)), modes)
}

/// `neg`; of a NaN only the sign changes (PTX leaves its payload open).
#[inline]
pub const fn neg(kind: Half, a: u16, ftz: bool) -> u16 {
    kind.flush(a, ftz) ^ SIGN
}

/// `abs`; of a NaN only the sign changes (PTX leaves its payload open).
#[inline]
pub const fn abs(kind: Half, a: u16, ftz: bool) -> u16 {
    kind.flush(a, ftz) & !SIGN
}

/// A key that orders numbers as they are, -0 below +0.
const fn order(bits: u16) -> i16 {
    (bits as i16) ^ (((bits as i16) >> 15) as u16 >> 1) as i16
}

/// `min` and `max`.
#[inline]
pub fn extremum(kind: Half, a: u16, b: u16, modes: Extremum) -> u16 {
    let (mut x, mut y) = (kind.flush(a, modes.ftz), kind.flush(b, modes.ftz));
    let (a_nan, b_nan) = (kind.is_nan(x), kind.is_nan(y));
    if (a_nan && b_nan) || (modes.nan && (a_nan || b_nan)) {
        return Half::NAN;
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

/// `ex2.approx`: the correctly rounded power; see [`approx::Function::Ex2F16`] and `Ex2Bf16` for the bound.
pub fn ex2(kind: Half, a: u16, ftz: bool) -> u16 {
    let modes = Modes { ftz, ..Modes::PLAIN };
    kind.finish(approx::exp2(input(kind, a, modes)), modes)
}

/// `tanh.approx`: the correctly rounded tangent; see [`approx::Function::TanhF16`] and `TanhBf16` for the bound.
pub fn tanh(kind: Half, a: u16) -> u16 {
    kind.finish(input(kind, a, Modes::PLAIN).tanh(), Modes::PLAIN)
}

/// Applies `f` to the lower and the upper halves of packed operands.
#[inline(always)]
pub fn packed1(a: u32, f: impl Fn(u16) -> u16) -> u32 {
    u32::from(f(a as u16)) | u32::from(f((a >> 16) as u16)) << 16
}

/// Applies `f` to the lower and the upper halves of two packed operands.
#[inline(always)]
pub fn packed2(a: u32, b: u32, f: impl Fn(u16, u16) -> u16) -> u32 {
    u32::from(f(a as u16, b as u16)) | u32::from(f((a >> 16) as u16, (b >> 16) as u16)) << 16
}

/// Applies `f` to the lower and the upper halves of three packed operands.
#[inline(always)]
pub fn packed3(a: u32, b: u32, c: u32, f: impl Fn(u16, u16, u16) -> u16) -> u32 {
    let upper = f((a >> 16) as u16, (b >> 16) as u16, (c >> 16) as u16);
    u32::from(f(a as u16, b as u16, c as u16)) | u32::from(upper) << 16
}
