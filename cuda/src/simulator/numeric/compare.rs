//! Comparison and selection instructions (chapters 9.7.5 and 9.7.6): `set`, `setp`, `selp`, `slct`.

use super::{
    float32,
    half::Half,
    integer::{sign_extend, truncate},
};
use crate::simulator::types::Type;

/// A comparison operator. The last eight are for floating point only: those that end in `u` also hold when an
/// operand is NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Comparison {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    /// Unsigned lower.
    Lo,
    /// Unsigned lower or same.
    Ls,
    /// Unsigned higher.
    Hi,
    /// Unsigned higher or same.
    Hs,
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    /// Both are numbers.
    Num,
    /// One at least is NaN.
    Nan,
}

impl Comparison {
    /// The operator that PTX writes so (`"lt"`, `"neu"`).
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "eq" => Self::Eq,
            "ne" => Self::Ne,
            "lt" => Self::Lt,
            "le" => Self::Le,
            "gt" => Self::Gt,
            "ge" => Self::Ge,
            "lo" => Self::Lo,
            "ls" => Self::Ls,
            "hi" => Self::Hi,
            "hs" => Self::Hs,
            "equ" => Self::Equ,
            "neu" => Self::Neu,
            "ltu" => Self::Ltu,
            "leu" => Self::Leu,
            "gtu" => Self::Gtu,
            "geu" => Self::Geu,
            "num" => Self::Num,
            "nan" => Self::Nan,
            _ => return None,
        })
    }
}

/// Whether `a` and `b` of type `ty` compare so; `ftz` is for `.f32` and `.f16`.
#[inline(always)]
pub fn compare(op: Comparison, ty: Type, ftz: bool, a: u64, b: u64) -> bool {
    match ty {
        Type::F32 => {
            let value = |bits: u64| f32::from_bits(float32::flush(bits as u32, ftz));
            floats(op, value(a).into(), value(b).into())
        }
        Type::F64 => floats(op, f64::from_bits(a), f64::from_bits(b)),
        Type::F16 => {
            let value = |bits: u64| Half::F16.widen(Half::F16.flush(bits as u16, ftz));
            floats(op, value(a).into(), value(b).into())
        }
        Type::Bf16 => {
            let value = |bits: u64| f64::from(Half::Bf16.widen(bits as u16));
            floats(op, value(a), value(b))
        }
        _ if ty.is_signed() => {
            signed(op, sign_extend(ty, a), sign_extend(ty, b), truncate(ty, a), truncate(ty, b))
        }
        _ => unsigned(op, truncate(ty, a), truncate(ty, b)),
    }
}

/// `setp.f16x2` and `.bf16x2`: the lower and the upper halves.
pub fn compare_packed(op: Comparison, half: Half, ftz: bool, a: u32, b: u32) -> (bool, bool) {
    let ty = match half {
        Half::F16 => Type::F16,
        Half::Bf16 => Type::Bf16,
    };
    let one = |shift: u32| compare(op, ty, ftz, (a >> shift).into(), (b >> shift).into());
    (one(0), one(16))
}

#[inline(always)]
fn floats(op: Comparison, a: f64, b: f64) -> bool {
    let unordered = a.is_nan() || b.is_nan();
    match op {
        Comparison::Eq => a == b,
        // `a != b` would hold of NaNs.
        Comparison::Ne => !unordered && a != b,
        Comparison::Lt | Comparison::Lo => a < b,
        Comparison::Le | Comparison::Ls => a <= b,
        Comparison::Gt | Comparison::Hi => a > b,
        Comparison::Ge | Comparison::Hs => a >= b,
        Comparison::Equ => unordered || a == b,
        Comparison::Neu => a != b,
        Comparison::Ltu => unordered || a < b,
        Comparison::Leu => unordered || a <= b,
        Comparison::Gtu => unordered || a > b,
        Comparison::Geu => unordered || a >= b,
        Comparison::Num => !unordered,
        Comparison::Nan => unordered,
    }
}

#[inline(always)]
fn signed(op: Comparison, a: i64, b: i64, unsigned_a: u64, unsigned_b: u64) -> bool {
    match op {
        Comparison::Eq | Comparison::Equ => a == b,
        Comparison::Ne | Comparison::Neu => a != b,
        Comparison::Lt | Comparison::Ltu => a < b,
        Comparison::Le | Comparison::Leu => a <= b,
        Comparison::Gt | Comparison::Gtu => a > b,
        Comparison::Ge | Comparison::Geu => a >= b,
        _ => unsigned(op, unsigned_a, unsigned_b),
    }
}

#[inline(always)]
fn unsigned(op: Comparison, a: u64, b: u64) -> bool {
    match op {
        Comparison::Eq | Comparison::Equ => a == b,
        Comparison::Ne | Comparison::Neu => a != b,
        Comparison::Lt | Comparison::Lo | Comparison::Ltu => a < b,
        Comparison::Le | Comparison::Ls | Comparison::Leu => a <= b,
        Comparison::Gt | Comparison::Hi | Comparison::Gtu => a > b,
        Comparison::Ge | Comparison::Hs | Comparison::Geu => a >= b,
        Comparison::Num => true,
        Comparison::Nan => false,
    }
}

/// What `set` writes for true in a destination of type `ty`: all ones in an integer, 1.0 in a float.
pub const fn set_value(ty: Type, truth: bool) -> u64 {
    match (truth, ty) {
        (false, _) => 0,
        (true, Type::F32) => 0x3f80_0000,
        (true, Type::F16) => 0x3c00,
        (true, Type::Bf16) => 0x3f80,
        (true, Type::B16 | Type::U16 | Type::S16) => 0xffff,
        (true, _) => 0xffff_ffff,
    }
}

/// `slct.s32`: `a` when `c >= 0`, else `b`.
#[inline(always)]
pub const fn slct_s32(a: u64, b: u64, c: u32) -> u64 {
    if c as i32 >= 0 { a } else { b }
}

/// `slct.f32`: `a` when `c >= 0` (-0 too), else `b`; of a NaN, `b`.
#[inline(always)]
pub fn slct_f32(a: u64, b: u64, c: u32, ftz: bool) -> u64 {
    if f32::from_bits(float32::flush(c, ftz)) >= 0.0 { a } else { b }
}
