//! What `atom` and `red` store (chapter 9.7.12): the new value of a place, from its old one.

use super::{
    Modes,
    float32::{self, Extremum},
    float64,
    half::{self, Half},
    integer,
};
use crate::simulator::types::{Rounding, Type};

/// An atomic operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Operation {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exch,
    Cas,
    Inc,
    Dec,
}

impl Operation {
    /// The operation that PTX writes so.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "add" => Self::Add,
            "min" => Self::Min,
            "max" => Self::Max,
            "and" => Self::And,
            "or" => Self::Or,
            "xor" => Self::Xor,
            "exch" => Self::Exch,
            "cas" => Self::Cas,
            "inc" => Self::Inc,
            "dec" => Self::Dec,
            _ => return None,
        })
    }
}

/// The value that follows `old`. Of `cas`, `b` is compared and `c` stored; `c` is not read otherwise.
///
/// `flush`: whether `add.f32` flushes subnormals, as it does on global but not on shared memory. The other
/// floating-point additions never do.
#[inline]
pub fn apply(operation: Operation, ty: Type, flush: bool, old: u64, b: u64, c: u64) -> u64 {
    match operation {
        Operation::Add => add(ty, flush, old, b),
        Operation::Min => extremum(ty, false, old, b),
        Operation::Max => extremum(ty, true, old, b),
        Operation::And => integer::truncate(ty, old & b),
        Operation::Or => integer::truncate(ty, old | b),
        Operation::Xor => integer::truncate(ty, old ^ b),
        Operation::Exch => integer::truncate(ty, b),
        Operation::Cas => {
            let equal = integer::truncate(ty, old) == integer::truncate(ty, b);
            integer::truncate(ty, if equal { c } else { old })
        }
        Operation::Inc => {
            let (old, b) = (integer::truncate(ty, old), integer::truncate(ty, b));
            if old >= b { 0 } else { old + 1 }
        }
        Operation::Dec => {
            let (old, b) = (integer::truncate(ty, old), integer::truncate(ty, b));
            if old == 0 || old > b { b } else { old - 1 }
        }
    }
}

#[inline(always)]
fn add(ty: Type, flush: bool, old: u64, b: u64) -> u64 {
    let halves = |half, old, b| half::add(half, old, b, Modes::PLAIN);
    match ty {
        Type::F32 => {
            float32::add(old as u32, b as u32, Modes { ftz: flush, ..Modes::PLAIN }).into()
        }
        Type::F64 => float64::add(old, b, Rounding::Nearest),
        Type::F16 => halves(Half::F16, old as u16, b as u16).into(),
        Type::Bf16 => halves(Half::Bf16, old as u16, b as u16).into(),
        Type::F16x2 => half::packed2(old as u32, b as u32, |x, y| halves(Half::F16, x, y)).into(),
        Type::Bf16x2 => half::packed2(old as u32, b as u32, |x, y| halves(Half::Bf16, x, y)).into(),
        _ => integer::add(ty, old, b),
    }
}

#[inline(always)]
fn extremum(ty: Type, largest: bool, old: u64, b: u64) -> u64 {
    let modes = Extremum { largest, ..Extremum::default() };
    let (old32, b32) = (old as u32, b as u32);
    match ty {
        Type::F32 => float32::extremum(old32, b32, modes).into(),
        Type::F64 if largest => float64::max(old, b),
        Type::F64 => float64::min(old, b),
        Type::F16 => half::extremum(Half::F16, old as u16, b as u16, modes).into(),
        Type::Bf16 => half::extremum(Half::Bf16, old as u16, b as u16, modes).into(),
        Type::F16x2 => {
            half::packed2(old32, b32, |x, y| half::extremum(Half::F16, x, y, modes)).into()
        }
        Type::Bf16x2 => {
            half::packed2(old32, b32, |x, y| half::extremum(Half::Bf16, x, y, modes)).into()
        }
        _ if largest => integer::max(ty, old, b),
        _ => integer::min(ty, old, b),
    }
}
