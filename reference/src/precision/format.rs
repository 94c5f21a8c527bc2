//! Number formats, and what rounding into one of them means.

use half::{bf16, f16};
use serde::{Deserialize, Serialize};

use crate::tensor::DType;

/// A binary floating-point format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// IEEE binary64.
    F64,
    /// IEEE binary32.
    F32,
    /// f32 with 10 bits of mantissa; stored as an f32 whose low 13 bits are zero.
    Tf32,
    /// IEEE binary16.
    F16,
    /// f32 with 7 bits of mantissa.
    Bf16,
    /// 4 bits of exponent, 3 of mantissa, no infinities: the largest finite value is 448, all bits but the
    /// sign set is NaN (Micikevicius et al. 2022, "FP8 formats for deep learning").
    E4m3,
    /// 5 bits of exponent, 2 of mantissa, infinities as in IEEE: the upper byte of an f16.
    E5m2,
}

/// How a value between two neighbours of a format is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rounding {
    /// To the nearer one; from the middle to the one whose last bit is zero.
    NearestEven,
    /// Away from zero with the probability by which the value has come that far: with f in 0..1 the share
    /// of the way and 32 uniform bits u, away iff ⌊f · 2³²⌋ + u ≥ 2³². Without bias (to 2⁻³² of a step).
    Stochastic,
}

/// 2^exponent, of a normal f64: tensors of millions of numbers are rounded, and `powi` takes its time.
fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

impl Format {
    /// Bits of mantissa, the hidden one not counted.
    pub const fn mantissa_bits(self) -> i32 {
        match self {
            Self::F64 => 52,
            Self::F32 => 23,
            Self::Tf32 | Self::F16 => 10,
            Self::Bf16 => 7,
            Self::E4m3 => 3,
            Self::E5m2 => 2,
        }
    }

    /// Exponent of the smallest normal number.
    pub const fn min_exponent(self) -> i32 {
        match self {
            Self::F64 => -1022,
            Self::F32 | Self::Tf32 | Self::Bf16 => -126,
            Self::F16 | Self::E5m2 => -14,
            Self::E4m3 => -6,
        }
    }

    /// The largest finite value.
    pub fn max(self) -> f64 {
        match self {
            Self::F64 => f64::MAX,
            Self::F32 => f32::MAX.into(),
            Self::Tf32 => (2.0 - 2f64.powi(-10)) * 2f64.powi(127),
            Self::F16 => 65_504.0,
            Self::Bf16 => bf16::MAX.into(),
            Self::E4m3 => 448.0,
            Self::E5m2 => 57_344.0,
        }
    }

    /// What becomes of a value that rounds beyond the largest finite one, in the direction of its sign.
    pub const fn overflow(self) -> f64 {
        match self {
            Self::E4m3 => f64::NAN,
            _ => f64::INFINITY,
        }
    }

    /// How it is stored: its own element type, tf32 as f32, the 8-bit formats as their bits.
    pub const fn dtype(self) -> DType {
        match self {
            Self::F64 => DType::F64,
            Self::F32 | Self::Tf32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::Bf16,
            Self::E4m3 | Self::E5m2 => DType::U8,
        }
    }

    /// The name in case ids.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tf32 => "tf32",
            Self::E4m3 => "e4m3",
            Self::E5m2 => "e5m2",
            other => other.dtype().name(),
        }
    }

    /// `x` rounded into the format. `u` are the uniform bits of stochastic rounding. Rounding is as if
    /// exponents were unbounded above; what then exceeds the largest finite value becomes
    /// [`Format::overflow`], or, with `saturate`, the largest finite value, as infinities do. NaN stays NaN.
    /// The sign of a value that becomes zero stays.
    pub fn round(self, x: f64, rounding: Rounding, u: u32, saturate: bool) -> f64 {
        if x.is_nan() {
            return f64::NAN;
        }
        let rounded =
            if x.is_infinite() { f64::INFINITY } else { self.to_grid(x.abs(), rounding, u) };
        let bounded = match rounded > self.max() {
            true if saturate => self.max(),
            true => self.overflow(),
            false => rounded,
        };
        bounded.copysign(x)
    }

    /// `x` ≥ 0 rounded to a multiple of the format's step at x, exponents unbounded above.
    fn to_grid(self, x: f64, rounding: Rounding, u: u32) -> f64 {
        if x == 0.0 || self == Self::F64 {
            return x;
        }
        // The exponent of an f64 below its smallest normal is below that of all other formats.
        let exponent = ((x.to_bits() >> 52) as i32 - 1023).max(self.min_exponent());
        let step = power_of_two(exponent - self.mantissa_bits());
        let steps = x / step;
        let whole = steps.floor();
        let away = match rounding {
            Rounding::NearestEven => steps.round_ties_even() > whole,
            Rounding::Stochastic => {
                ((steps - whole) * 2f64.powi(32)).floor() as u64 + u64::from(u) >= 1 << 32
            }
        };
        (whole + f64::from(u8::from(away))) * step
    }

    /// The value of the bits of an 8-bit format.
    pub fn decode8(self, bits: u8) -> f64 {
        let mantissa_bits = self.mantissa_bits();
        let (exponent, mantissa) = (i32::from(bits & 0x7f) >> mantissa_bits, bits & self.mask());
        let sign = if bits & 0x80 == 0 { 1.0 } else { -1.0 };
        let step = power_of_two(exponent.max(1) - 1 + self.min_exponent() - mantissa_bits);
        let hidden = if exponent == 0 { 0 } else { 1u8 << mantissa_bits };
        match (self, bits & 0x7f) {
            (Self::E4m3, 0x7f) | (Self::E5m2, 0x7d..) => f64::NAN,
            (Self::E5m2, 0x7c) => sign * f64::INFINITY,
            _ => sign * f64::from(hidden + mantissa) * step,
        }
    }

    /// The reverse of [`Format::decode8`], of a number or infinity.
    ///
    /// # Panics
    /// If an 8-bit format has no such value.
    pub fn encode8(self, value: f64) -> u8 {
        let mantissa_bits = self.mantissa_bits();
        let exponent = ((value.abs().to_bits() >> 52) as i32 - 1023).max(self.min_exponent() - 1);
        let step = power_of_two(exponent.max(self.min_exponent()) - mantissa_bits);
        let steps = if value.is_infinite() { 0.0 } else { value.abs() / step };
        let field = (exponent - self.min_exponent() + 1).min((1 << (7 - mantissa_bits)) - 1) as u8;
        let bits = (field << mantissa_bits) | (steps as u8 & self.mask());
        let bits = bits | u8::from(value.is_sign_negative()) << 7;
        assert_eq!(
            self.decode8(bits).to_bits(),
            value.to_bits(),
            "{value} is no value of {self:?}"
        );
        bits
    }

    fn mask(self) -> u8 {
        (1 << self.mantissa_bits()) - 1
    }

    /// The bits of a value of the format, little-endian; of NaN all but the sign.
    ///
    /// # Panics
    /// If an 8-bit format has no such value.
    pub fn encode(self, value: f64) -> Vec<u8> {
        if value.is_nan() {
            return match self {
                Self::F64 => i64::MAX.to_le_bytes().to_vec(),
                Self::F32 => i32::MAX.to_le_bytes().to_vec(),
                Self::Tf32 => (i32::MAX >> 13 << 13).to_le_bytes().to_vec(),
                Self::F16 | Self::Bf16 => i16::MAX.to_le_bytes().to_vec(),
                Self::E4m3 | Self::E5m2 => vec![0x7f],
            };
        }
        match self {
            Self::F64 => value.to_le_bytes().to_vec(),
            Self::F32 | Self::Tf32 => (value as f32).to_le_bytes().to_vec(),
            Self::F16 => f16::from_f64(value).to_le_bytes().to_vec(),
            Self::Bf16 => bf16::from_f64(value).to_le_bytes().to_vec(),
            Self::E4m3 | Self::E5m2 => vec![self.encode8(value)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_8_bit_values() {
        assert_eq!(Format::E4m3.decode8(0x38), 1.0);
        assert_eq!(Format::E4m3.decode8(0x7e), 448.0);
        assert_eq!(Format::E4m3.decode8(0x01), 2f64.powi(-9));
        assert!(Format::E4m3.decode8(0xff).is_nan());
        assert_eq!(Format::E5m2.decode8(0x3c), 1.0);
        assert_eq!(Format::E5m2.decode8(0x7b), 57_344.0);
        assert_eq!(Format::E5m2.decode8(0xfc), f64::NEG_INFINITY);
        assert_eq!(Format::E5m2.decode8(0x81), -(2f64.powi(-16)));
    }

    #[test]
    fn encoding_is_the_reverse_of_decoding() {
        for format in [Format::E4m3, Format::E5m2] {
            for bits in (0..=u8::MAX).filter(|&bits| !format.decode8(bits).is_nan()) {
                assert_eq!(format.encode8(format.decode8(bits)), bits, "{format:?} {bits:#x}");
            }
        }
    }

    #[test]
    fn e5m2_is_the_upper_byte_of_f16() {
        for bits in 0..=u8::MAX {
            let half = f16::from_bits(u16::from(bits) << 8).to_f64();
            let ours = Format::E5m2.decode8(bits);
            assert!(
                ours.to_bits() == half.to_bits() || ours.is_nan() && half.is_nan(),
                "{bits:#x}"
            );
        }
    }

    #[test]
    fn known_roundings() {
        let near = |format: Format, x: f64| format.round(x, Rounding::NearestEven, 0, false);
        // 464 lies between 448 and 480, which would be the next; 448 has the even mantissa.
        assert_eq!(near(Format::E4m3, 464.0), 448.0);
        assert!(near(Format::E4m3, 464.1).is_nan());
        assert_eq!(Format::E4m3.round(-1e9, Rounding::NearestEven, 0, true), -448.0);
        assert_eq!(near(Format::E5m2, 61_440.0), f64::INFINITY);
        assert_eq!(near(Format::F16, 2049.0), 2048.0);
        assert_eq!(near(Format::F16, 2051.0), 2052.0);
        assert_eq!(near(Format::Tf32, 1.0 + 2f64.powi(-11)), 1.0);
        assert_eq!(near(Format::F16, -(2f64.powi(-26))).to_bits(), (-0.0f64).to_bits());
    }

    #[test]
    fn known_stochastic_rounding() {
        let at = |u: u32| Format::Bf16.round(1.0 + 0.25 / 128.0, Rounding::Stochastic, u, false);
        assert_eq!(at(0), 1.0);
        assert_eq!(at((3 << 30) - 1), 1.0);
        assert_eq!(at(3 << 30), 1.0 + 1.0 / 128.0);
        assert_eq!(Format::Bf16.round(1.0, Rounding::Stochastic, u32::MAX, false), 1.0);
    }
}
