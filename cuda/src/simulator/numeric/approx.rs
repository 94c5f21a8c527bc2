//! The `.approx` and `.full` instructions (chapters 9.7.3 and 9.7.4).
//!
//! PTX leaves their last digits to the device and states a bound. Here each returns the correctly rounded value
//! of the function (computed in f64); [`allowed`] says how far from it a device's result may lie.

use super::float32::{self, NAN};

/// A function with a documented bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Function {
    Ex2,
    Lg2,
    Rcp,
    Rsqrt,
    Sqrt,
    Sin,
    Cos,
    Tanh,
    Div,
    DivFull,
    RcpF64,
    RsqrtF64,
    Ex2F16,
    Ex2Bf16,
    TanhF16,
    TanhBf16,
}

/// The documented bounds, as PTX ISA 8.4 words them.
pub const BOUNDS: [(Function, &str, &str); 16] = [
    (Function::Ex2, "ex2.approx.f32", "relative error 2^-22"),
    (
        Function::Lg2,
        "lg2.approx.f32",
        "absolute error 2^-22.6 on (0.5, 2), relative error 2^-22 elsewhere",
    ),
    (Function::Rcp, "rcp.approx.f32", "1 ulp"),
    (Function::Rsqrt, "rsqrt.approx.f32", "relative error 2^-22.9"),
    (Function::Sqrt, "sqrt.approx.f32", "relative error 2^-23"),
    (
        Function::Sin,
        "sin.approx.f32",
        "absolute error 2^-20.5 on [-2 pi, 2 pi], 2^-14.7 on [-100 pi, 100 pi]",
    ),
    (
        Function::Cos,
        "cos.approx.f32",
        "absolute error 2^-20.5 on [-2 pi, 2 pi], 2^-14.7 on [-100 pi, 100 pi]",
    ),
    (Function::Tanh, "tanh.approx.f32", "relative error 2^-11"),
    (Function::Div, "div.approx.f32", "2 ulp for 2^-126 <= |b| <= 2^126"),
    (Function::DivFull, "div.full.f32", "2 ulp"),
    (Function::RcpF64, "rcp.approx.ftz.f64", "relative error 2^-20"),
    (Function::RsqrtF64, "rsqrt.approx.f64", "relative error 2^-20"),
    (Function::Ex2F16, "ex2.approx.f16", "relative error 2^-9.9"),
    (Function::Ex2Bf16, "ex2.approx.ftz.bf16", "relative error 2^-7"),
    (Function::TanhF16, "tanh.approx.f16", "absolute error 2^-10.987"),
    (Function::TanhBf16, "tanh.approx.bf16", "absolute error 2^-8"),
];

/// How far a device's result may lie from the function's true value `y` at `x` (for division, at the divisor).
/// The documented bound, plus half a unit of the result's format, by which this module's value is off itself.
pub fn allowed(function: Function, x: f64, y: f64) -> f64 {
    // Subnormal results have an absolute spacing; results of approximate instructions may also be flushed.
    let ulp = |digits: i32, least: i32| (y.abs() * 2_f64.powi(1 - digits)).max(2_f64.powi(least));
    let (f32_ulp, f16_ulp, bf16_ulp) = (ulp(24, -149), ulp(11, -24), ulp(8, -133));
    let relative = |power: f64| y.abs() * power.exp2();
    let turns = x.abs() / std::f64::consts::TAU;
    match function {
        Function::Ex2 => relative(-22.0) + f32_ulp / 2.0,
        Function::Lg2 if x > 0.5 && x < 2.0 => (-22.6_f64).exp2() + f32_ulp / 2.0,
        Function::Lg2 => relative(-22.0) + f32_ulp / 2.0,
        Function::Rcp => 1.5 * f32_ulp,
        Function::Rsqrt => relative(-22.9) + f32_ulp / 2.0,
        Function::Sqrt => relative(-23.0) + f32_ulp / 2.0,
        Function::Sin | Function::Cos if turns <= 1.0 => (-20.5_f64).exp2() + f32_ulp / 2.0,
        Function::Sin | Function::Cos if turns <= 50.0 => (-14.7_f64).exp2() + f32_ulp / 2.0,
        // No bound is documented, but the result lies in [-1, 1].
        Function::Sin | Function::Cos => 2.0,
        Function::Tanh => relative(-11.0) + f32_ulp / 2.0,
        Function::Div | Function::DivFull => 2.5 * f32_ulp,
        Function::RcpF64 | Function::RsqrtF64 => relative(-20.0),
        // What is documented says nothing of subnormal results; there an H200 cuts where it could round.
        Function::Ex2F16 if y.abs() < 2_f64.powi(-14) => relative(-9.9) + f16_ulp,
        Function::Ex2F16 => relative(-9.9) + f16_ulp / 2.0,
        Function::Ex2Bf16 => relative(-7.0) + bf16_ulp / 2.0,
        Function::TanhF16 => (-10.987_f64).exp2() + f16_ulp / 2.0,
        Function::TanhBf16 => (-8.0_f64).exp2() + bf16_ulp / 2.0,
    }
}

/// 2 to the power `x`, in f64.
#[inline(always)]
pub fn exp2(x: f64) -> f64 {
    x.exp2()
}

#[inline(always)]
fn unary(a: u32, ftz: bool, f: impl Fn(f64) -> f64) -> u32 {
    let value = f(f64::from(f32::from_bits(float32::flush(a, ftz)))) as f32;
    if value.is_nan() { NAN } else { float32::flush(value.to_bits(), ftz) }
}

/// `ex2.approx.f32`.
#[inline(always)]
pub fn ex2(a: u32, ftz: bool) -> u32 {
    unary(a, ftz, exp2)
}

/// `lg2.approx.f32`.
#[inline(always)]
pub fn lg2(a: u32, ftz: bool) -> u32 {
    unary(a, ftz, f64::log2)
}

/// `rcp.approx.f32`.
#[inline(always)]
pub fn rcp(a: u32, ftz: bool) -> u32 {
    unary(a, ftz, f64::recip)
}

/// `rsqrt.approx.f32`; of ±0, ±infinity.
#[inline(always)]
pub fn rsqrt(a: u32, ftz: bool) -> u32 {
    unary(a, ftz, |x| if x == 0.0 { x.recip() } else { x.sqrt().recip() })
}

/// `sqrt.approx.f32`.
#[inline(always)]
pub fn sqrt(a: u32, ftz: bool) -> u32 {
    unary(a, ftz, f64::sqrt)
}

/// `sin.approx.f32`.
#[inline(always)]
pub fn sin(a: u32, ftz: bool) -> u32 {
    unary(a, ftz, f64::sin)
}

/// `cos.approx.f32`.
#[inline(always)]
pub fn cos(a: u32, ftz: bool) -> u32 {
    unary(a, ftz, f64::cos)
}

/// `tanh.approx.f32`.
#[inline(always)]
pub fn tanh(a: u32) -> u32 {
    unary(a, false, f64::tanh)
}

/// `div.full.f32`.
#[inline(always)]
pub fn div_full(a: u32, b: u32, ftz: bool) -> u32 {
    let b = f64::from(f32::from_bits(float32::flush(b, ftz)));
    unary(a, ftz, |a| a / b)
}

/// `div.approx.f32`. A divisor above 2^126 in magnitude gives 0, or NaN under an infinity.
#[inline(always)]
pub fn div(a: u32, b: u32, ftz: bool) -> u32 {
    let magnitude = b & 0x7fff_ffff;
    if magnitude > 0x7e80_0000 && magnitude < 0x7f80_0000 {
        return match a & 0x7fff_ffff {
            0x7f80_0000.. => NAN,
            _ => (a ^ b) & 0x8000_0000,
        };
    }
    div_full(a, b, ftz)
}

/// The upper 32 bits of an f64, its subnormals flushed.
fn upper(bits: u64) -> f64 {
    let bits = bits & 0xffff_ffff_0000_0000;
    f64::from_bits(if bits & (0x7ff << 52) == 0 { bits & (1 << 63) } else { bits })
}

/// `rcp.approx.ftz.f64`: of the upper 32 bits; the lower half of the result is 0.
pub fn rcp_f64(a: u64) -> u64 {
    coarse(upper(a).recip())
}

/// `rsqrt.approx.ftz.f64`: of the upper 32 bits; the lower half of the result is 0.
pub fn rsqrt_f64(a: u64) -> u64 {
    let x = upper(a);
    coarse(if x == 0.0 { x.recip() } else { x.sqrt().recip() })
}

fn coarse(value: f64) -> u64 {
    if value.is_nan() {
        return 0x7fff_ffff_0000_0000;
    }
    upper(value.to_bits()).to_bits()
}
