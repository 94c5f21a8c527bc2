//! `cvt` and `cvt.pack` (chapter 9.7.9): between all integer and floating-point types.

use super::{
    exact::{self, Exact, Format, Value},
    float32,
    half::{self, Half},
    integer,
};
use crate::simulator::types::{Rounding, Type};

/// One `cvt`, without its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conversion {
    /// Destination type.
    pub to: Type,
    /// Source type.
    pub from: Type,
    /// The rounding modifier, `.rn` and `.rni` alike; none when the instruction has none. Between the same
    /// floating-point types it rounds to an integral number.
    pub rounding: Option<Rounding>,
    /// `.ftz`: subnormal `.f32` inputs and results become zeros of their sign.
    pub ftz: bool,
    /// `.sat`: integers are clamped to the destination's range, floats to [0, 1] (NaN to +0).
    pub saturate: bool,
    /// `.satfinite`: too large a number becomes the largest of its sign instead of an infinity. Formats of 8
    /// bits always saturate.
    pub saturate_finite: bool,
    /// `.relu`: negative results become +0.
    pub relu: bool,
}

impl Conversion {
    /// A conversion without modifiers.
    pub const fn plain(to: Type, from: Type, rounding: Option<Rounding>) -> Self {
        Self {
            to,
            from,
            rounding,
            ftz: false,
            saturate: false,
            saturate_finite: false,
            relu: false,
        }
    }
}

const fn format(ty: Type) -> Option<Format> {
    Some(match ty {
        Type::F16 | Type::F16x2 => exact::F16,
        Type::Bf16 | Type::Bf16x2 => exact::BF16,
        Type::Tf32 => exact::TF32,
        Type::F32 => exact::F32,
        Type::F64 => exact::F64,
        Type::E4m3 | Type::E4m3x2 => exact::E4M3,
        Type::E5m2 | Type::E5m2x2 => exact::E5M2,
        _ => return None,
    })
}

/// `cvt.to.from`: the result in the low bits. That of an integer destination is extended to 64 bits as its type
/// is signed, since a register may be wider than `.s8` or `.s16`; the writer truncates to the register's width.
#[inline]
pub fn convert(c: Conversion, a: u64) -> u64 {
    if let Some(result) = quick(c, a) {
        return result;
    }
    match (format(c.from), format(c.to)) {
        (None, None) => between_integers(c, a),
        (Some(from), None) => to_integer(c, from, a),
        (None, Some(to)) => from_integer(c, to, a),
        (Some(from), Some(to)) => between_floats(c, from, to, a),
    }
}

/// The conversions that kernels use most, by the host's own arithmetic.
#[inline(always)]
fn quick(c: Conversion, a: u64) -> Option<u64> {
    if c.saturate || c.saturate_finite || c.relu {
        return None;
    }
    let single = || f32::from_bits(float32::flush(a as u32, c.ftz));
    let rounding = c.rounding.unwrap_or_default();
    let nearest = rounding == Rounding::Nearest;
    Some(match (c.from, c.to) {
        (Type::F16, Type::F32) => half::f16_to_f32(a as u16).to_bits().into(),
        (Type::Bf16, Type::F32) => Half::Bf16.widen(a as u16).to_bits().into(),
        (Type::F32, Type::F16) => half::narrow(exact::F16, f64::from(single()).to_bits(), rounding),
        (Type::F32, Type::Bf16) => {
            half::narrow(exact::BF16, f64::from(single()).to_bits(), rounding)
        }
        (Type::F64, Type::F32) if nearest && !c.ftz && !f64::from_bits(a).is_nan() => {
            (f64::from_bits(a) as f32).to_bits().into()
        }
        (Type::F32, to) if format(to).is_none() => {
            rounded_f32(single(), c.rounding.unwrap_or(Rounding::Zero), to)?
        }
        (from, Type::F32) if nearest && format(from).is_none() => {
            let source = extended(from, a);
            let value = if from.is_signed() { source as i64 as f32 } else { source as f32 };
            value.to_bits().into()
        }
        _ => return None,
    })
}

/// To an integer; Rust's casts clamp.
#[inline(always)]
fn rounded_f32(value: f32, rounding: Rounding, to: Type) -> Option<u64> {
    if value.is_nan() {
        return None;
    }
    let whole = match rounding {
        Rounding::Nearest => value.round_ties_even(),
        Rounding::NearestAway => value.round(),
        Rounding::Zero => value,
        Rounding::Down => value.floor(),
        Rounding::Up => value.ceil(),
    };
    Some(match to {
        Type::S32 => i64::from(whole as i32) as u64,
        Type::U32 => (whole as u32).into(),
        Type::S64 => whole as i64 as u64,
        Type::U64 => whole as u64,
        Type::S16 => i64::from(whole as i16) as u64,
        Type::U16 => (whole as u16).into(),
        Type::S8 => i64::from(whole as i8) as u64,
        Type::U8 => (whole as u8).into(),
        _ => return None,
    })
}

/// The packed forms from two `.f32`: `a` becomes the upper element, `b` the lower.
pub fn convert_pair(c: Conversion, a: u32, b: u32) -> u64 {
    let (element, width) = element(c.to);
    let one = Conversion { to: element, from: Type::F32, ..c };
    convert(one, b.into()) | convert(one, a.into()) << width
}

/// The packed forms from one packed register, element by element: `.e4m3x2.f16x2`, `.f16x2.e5m2x2` …
pub fn convert_packed(c: Conversion, a: u64) -> u64 {
    let ((to, to_width), (from, from_width)) = (element(c.to), element(c.from));
    let one = Conversion { to, from, ..c };
    let mask = (1 << from_width) - 1;
    convert(one, a & mask) | convert(one, (a >> from_width) & mask) << to_width
}

const fn element(ty: Type) -> (Type, u32) {
    match ty {
        Type::F16x2 => (Type::F16, 16),
        Type::Bf16x2 => (Type::Bf16, 16),
        Type::E4m3x2 => (Type::E4m3, 8),
        Type::E5m2x2 => (Type::E5m2, 8),
        other => (other, 16),
    }
}

/// `cvt.pack.sat.to.s32.b32`: `a` and `b` clamped to 16, 8, 4 or 2 bits and packed, `b` lowest, above them the
/// low bits of `c`. `bits` is the element's width.
pub const fn pack(signed: bool, bits: u32, a: u32, b: u32, c: u32) -> u32 {
    let (low, high) =
        if signed { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1_i64 << bits) - 1) };
    let mask = (1_u64 << bits) - 1;
    let first = clamped(b as i32 as i64, low, high) as u64 & mask;
    let second = clamped(a as i32 as i64, low, high) as u64 & mask;
    ((c as u64) << (2 * bits) | second << bits | first) as u32
}

const fn clamped(value: i64, low: i64, high: i64) -> i64 {
    if value < low {
        low
    } else if value > high {
        high
    } else {
        value
    }
}

#[inline(always)]
const fn extended(ty: Type, value: u64) -> u64 {
    if ty.is_signed() {
        integer::sign_extend(ty, value) as u64
    } else {
        integer::truncate(ty, value)
    }
}

#[inline(always)]
fn between_integers(c: Conversion, a: u64) -> u64 {
    let source = extended(c.from, a);
    if !c.saturate {
        return extended(c.to, source);
    }
    let value = if c.from.is_signed() { i128::from(source as i64) } else { i128::from(source) };
    let (low, high) = integer::range(c.to);
    extended(c.to, value.clamp(low, high) as u64)
}

/// NaN becomes 0, except that of or to 64 bits, where it is the top bit alone. Too large a number becomes the
/// nearest integer of the range.
fn to_integer(c: Conversion, from: Format, a: u64) -> u64 {
    let a = if c.from == Type::F32 { float32::flush(a as u32, c.ftz).into() } else { a };
    let rounding = c.rounding.unwrap_or(Rounding::Zero);
    let (low, high) = integer::range(c.to);
    let value = match exact::decode(from, a) {
        Value::Nan if c.from == Type::F64 || integer::width(c.to) == 64 => {
            return extended(c.to, 1 << (integer::width(c.to) - 1));
        }
        Value::Nan => 0,
        Value::Infinite { negative: true } => low,
        Value::Infinite { negative: false } => high,
        Value::Finite(number) => number.to_integer(rounding, low, high),
    };
    extended(c.to, value as u64)
}

fn from_integer(c: Conversion, to: Format, a: u64) -> u64 {
    let source = extended(c.from, a);
    let rounding = c.rounding.unwrap_or_default();
    let value = if c.from.is_signed() { i128::from(source as i64) } else { i128::from(source) };
    let value = if c.saturate { value.clamp(0, 1) } else { value };
    exact::encode(to, Value::Finite(Exact::integer(value)), rounding)
}

fn between_floats(c: Conversion, from: Format, to: Format, a: u64) -> u64 {
    let a = if c.from == Type::F32 { float32::flush(a as u32, c.ftz).into() } else { a };
    let mut value = exact::decode(from, a);
    let rounding = c.rounding.unwrap_or_default();
    if value == Value::Nan && !c.saturate && (from == exact::F64) != (to == exact::F64) {
        let canonical = c.from == Type::F32 && c.ftz;
        return carry_nan(from, to, if canonical { float32::NAN.into() } else { a });
    }
    if value == Value::Nan
        && (c.to, c.rounding) == (Type::Tf32, Some(Rounding::NearestAway))
        && a & 0x7f_e000 == 0
    {
        // An H200 cuts the digits first: without any in the ten that stay, the NaN is taken for an infinity.
        return a & 0xff80_0000;
    }
    if c.ftz && c.to == Type::F32 && is_below_normal(to, value) {
        // What is subnormal before it is rounded is flushed.
        return if is_negative(from, a) && !c.saturate { 1 << 31 } else { 0 };
    }
    if let Value::Finite(number) = value
        && from == to
        && c.rounding.is_some()
    {
        value = Value::Finite(number.to_integral(rounding));
    }
    if c.saturate {
        value = to_unit_interval(value);
    }
    let mut bits = exact::encode(to, value, rounding);
    if c.saturate_finite || !to.infinities || to == exact::E5M2 {
        bits = to_finite(to, value, bits);
    }
    if c.relu && !matches!(value, Value::Nan) && is_negative(to, bits) {
        bits = 0;
    }
    match c.to {
        Type::Tf32 => bits << 13,
        Type::F32 => float32::flush(bits as u32, c.ftz).into(),
        _ => bits,
    }
}

/// A NaN from or to f64 keeps its sign and the leading digits of its payload, and becomes a quiet one.
const fn carry_nan(from: Format, to: Format, bits: u64) -> u64 {
    let fraction = bits & ((1 << from.fraction_bits) - 1);
    let fraction = match to.fraction_bits.checked_sub(from.fraction_bits) {
        Some(more) => fraction << more,
        None => fraction >> (from.fraction_bits - to.fraction_bits),
    };
    let sign = (is_negative(from, bits) as u64) << (to.exponent_bits + to.fraction_bits);
    sign | to.infinity() | fraction | 1 << (to.fraction_bits - 1)
}

/// Whether a number that is not zero lies below the smallest normal one of a format.
fn is_below_normal(format: Format, value: Value) -> bool {
    let Value::Finite(number) = value else { return false };
    let leading = 127 - number.significand.leading_zeros() as i32 + number.exponent;
    number.significand != 0 && leading < 2 - (1 << (format.exponent_bits - 1))
}

const fn is_negative(format: Format, bits: u64) -> bool {
    bits >> (format.exponent_bits + format.fraction_bits) & 1 == 1
}

fn to_unit_interval(value: Value) -> Value {
    let zero = Value::Finite(Exact { negative: false, exponent: 0, significand: 0 });
    let one = Value::Finite(Exact { negative: false, exponent: 0, significand: 1 });
    match value {
        Value::Nan | Value::Infinite { negative: true } => zero,
        Value::Infinite { negative: false } => one,
        Value::Finite(number) if number.negative || number.significand == 0 => zero,
        Value::Finite(number) if number.to_integer(Rounding::Zero, 0, 1) == 1 => one,
        finite => finite,
    }
}

/// `.satfinite`: an infinity, or the NaN that stands for one in e4m3, becomes the largest number of its sign.
fn to_finite(format: Format, value: Value, bits: u64) -> u64 {
    if matches!(value, Value::Nan) {
        return format.nan;
    }
    let sign =
        u64::from(is_negative(format, bits)) << (format.exponent_bits + format.fraction_bits);
    if bits ^ sign > format.largest() { sign | format.largest() } else { bits }
}
