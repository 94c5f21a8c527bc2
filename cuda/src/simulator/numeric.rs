//! What PTX instructions compute: pure functions on bits, one file per chapter of the PTX ISA 8.4.
//!
//! Nothing here knows of registers, memory or text. A register's value is a `u64` (or the width of its type); of
//! an operand only the low bits that its type has are read, and a result is zero-extended, unless said otherwise.
//! Functions never panic, whatever the bits.
//!
//! Where PTX leaves a result open (approximate functions, the order of a tensor core's sums, payloads of NaNs)
//! the function says what it returns and which bound a device must keep.

pub mod approx;
pub mod atomic;
pub mod compare;
pub mod convert;
pub mod exact;
pub mod float32;
pub mod float64;
pub mod half;
pub mod integer;
pub mod tensor;

use super::types::Rounding;

/// Modifiers of a floating-point instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Modes {
    /// How an inexact result is rounded.
    pub rounding: Rounding,
    /// `.ftz`: subnormal inputs and results become zeros of the same sign.
    pub ftz: bool,
    /// `.sat`: the result is clamped to [0, 1]; NaN becomes +0.
    pub saturate: bool,
    /// `.relu`: a negative result becomes +0; NaN becomes the canonical NaN.
    pub relu: bool,
}

impl Modes {
    /// To nearest, subnormals kept, nothing clamped.
    pub const PLAIN: Self =
        Self { rounding: Rounding::Nearest, ftz: false, saturate: false, relu: false };

    /// Only a rounding.
    pub const fn rounded(rounding: Rounding) -> Self {
        Self { rounding, ..Self::PLAIN }
    }
}
