//! Exact sums, products, quotients and roots of floating-point numbers, and their one rounding into a format.
//!
//! The slow but certain path: integers of 128 bits and a sticky last bit. The fast paths of the other modules
//! are tested against it, and it is tested against rational arithmetic.

use crate::simulator::types::Rounding;

/// A binary floating-point format of at most 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Width of the exponent field.
    pub exponent_bits: u32,
    /// Width of the fraction field, without the hidden bit.
    pub fraction_bits: u32,
    /// Whether the largest exponent holds infinities and NaNs; otherwise (e4m3) only the all-ones pattern is
    /// special, a NaN.
    pub infinities: bool,
    /// The NaN that instructions produce.
    pub nan: u64,
}

/// IEEE binary16.
pub const F16: Format =
    Format { exponent_bits: 5, fraction_bits: 10, infinities: true, nan: 0x7fff };
/// The upper half of binary32.
pub const BF16: Format =
    Format { exponent_bits: 8, fraction_bits: 7, infinities: true, nan: 0x7fff };
/// 8 bits of exponent and 10 of fraction; in a register the 13 low bits of a binary32 are absent.
pub const TF32: Format =
    Format { exponent_bits: 8, fraction_bits: 10, infinities: true, nan: 0x3ffff };
/// IEEE binary32 with the canonical NaN of PTX.
pub const F32: Format =
    Format { exponent_bits: 8, fraction_bits: 23, infinities: true, nan: 0x7fff_ffff };
/// IEEE binary64.
pub const F64: Format =
    Format { exponent_bits: 11, fraction_bits: 52, infinities: true, nan: 0xfff8_0000_0000_0000 };
/// 4 bits of exponent, 3 of fraction, no infinities; the largest number is 448.
pub const E4M3: Format =
    Format { exponent_bits: 4, fraction_bits: 3, infinities: false, nan: 0x7f };
/// 5 bits of exponent, 2 of fraction; the largest number is 57344.
pub const E5M2: Format = Format { exponent_bits: 5, fraction_bits: 2, infinities: true, nan: 0x7f };

impl Format {
    const fn bias(self) -> i32 {
        (1 << (self.exponent_bits - 1)) - 1
    }

    const fn sign(self) -> u64 {
        1 << (self.exponent_bits + self.fraction_bits)
    }

    /// Bits of the largest finite number.
    pub const fn largest(self) -> u64 {
        if self.infinities { self.infinity() - 1 } else { self.sign() - 2 }
    }

    /// Bits of positive infinity; in a format without one, of its NaN.
    pub const fn infinity(self) -> u64 {
        if self.infinities {
            ((1 << self.exponent_bits) - 1) << self.fraction_bits
        } else {
            self.sign() - 1
        }
    }
}

/// `±significand · 2^exponent`. A significand of more than 100 bits may carry a sticky last bit: it is then set
/// when anything non-zero was cut off below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exact {
    /// The sign, also of zero.
    pub negative: bool,
    /// Power of two of the significand's last bit.
    pub exponent: i32,
    /// The digits.
    pub significand: u128,
}

/// What a bit pattern means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// Not a number.
    Nan,
    /// An infinity.
    Infinite {
        /// Its sign.
        negative: bool,
    },
    /// A number.
    Finite(Exact),
}

fn shift_right_sticky(significand: u128, by: u32) -> u128 {
    match by {
        0 => significand,
        1..=127 => (significand >> by) | u128::from(significand << (128 - by) != 0),
        _ => u128::from(significand != 0),
    }
}

impl Exact {
    /// The integer `value`.
    pub const fn integer(value: i128) -> Self {
        Self { negative: value < 0, exponent: 0, significand: value.unsigned_abs() }
    }

    /// The same number with its leading bit at position 126.
    fn normalized(self) -> Self {
        if self.significand == 0 {
            return Self { exponent: i32::MIN / 2, ..self };
        }
        let up = self.significand.leading_zeros() as i32 - 1;
        match up {
            0.. => {
                Self { significand: self.significand << up, exponent: self.exponent - up, ..self }
            }
            _ => Self {
                significand: shift_right_sticky(self.significand, 1),
                exponent: self.exponent + 1,
                ..self
            },
        }
    }

    /// `self + other`; a zero that comes of cancellation is negative only when rounding down.
    ///
    /// Exact up to the sticky bit when the operands have at most 106 digits: with 20 spare digits, digits are cut
    /// only where exponents differ by more than 20, and there at most one leading digit cancels.
    pub fn add(self, other: Self, rounding: Rounding) -> Self {
        if self.significand == 0 && other.significand == 0 {
            let negative = if self.negative == other.negative {
                self.negative
            } else {
                rounding == Rounding::Down
            };
            return Self { negative, exponent: 0, significand: 0 };
        }
        let (a, b) = (self.normalized(), other.normalized());
        let (high, low) = if a.exponent >= b.exponent { (a, b) } else { (b, a) };
        let aligned =
            shift_right_sticky(low.significand, high.exponent.abs_diff(low.exponent).min(200));
        if high.negative == low.negative {
            return Self { significand: high.significand + aligned, ..high };
        }
        match high.significand.cmp(&aligned) {
            std::cmp::Ordering::Equal => {
                Self { negative: rounding == Rounding::Down, exponent: 0, significand: 0 }
            }
            std::cmp::Ordering::Greater => Self { significand: high.significand - aligned, ..high },
            std::cmp::Ordering::Less => Self {
                significand: aligned - high.significand,
                negative: low.negative,
                exponent: high.exponent,
            },
        }
    }

    /// `self · other`, for significands of at most 64 bits.
    pub fn multiply(self, other: Self) -> Self {
        Self {
            negative: self.negative != other.negative,
            exponent: self.exponent + other.exponent,
            significand: self.significand.wrapping_mul(other.significand),
        }
    }

    /// `self / other` to at least 64 digits and a sticky one, for significands of at most 63 bits; the divisor
    /// is not zero.
    pub fn divide(self, other: Self) -> Self {
        let negative = self.negative != other.negative;
        if self.significand == 0 || other.significand == 0 {
            return Self { negative, exponent: 0, significand: 0 };
        }
        let a = self.normalized();
        let quotient = a.significand / other.significand;
        let sticky = u128::from(!a.significand.is_multiple_of(other.significand));
        Self { negative, exponent: a.exponent - other.exponent, significand: quotient | sticky }
    }

    /// Square root of a number that is not negative, to at least 63 digits and a sticky last one.
    pub fn square_root(self) -> Self {
        if self.significand == 0 {
            return self;
        }
        let mut a = self.normalized();
        if !a.exponent.unsigned_abs().is_multiple_of(2) {
            // One digit is free above position 126.
            a.significand <<= 1;
            a.exponent -= 1;
        }
        let root = a.significand.isqrt();
        let sticky = u128::from(root * root != a.significand);
        Self { negative: self.negative, exponent: a.exponent / 2, significand: root | sticky }
    }

    /// The nearest integers in the direction of `rounding`, as a number.
    pub fn to_integral(self, rounding: Rounding) -> Self {
        if self.exponent >= 0 {
            return self;
        }
        let by = self.exponent.unsigned_abs();
        let significand = rounded_shift(self.significand, by, self.negative, rounding);
        Self { negative: self.negative, exponent: 0, significand }
    }

    /// The nearest integer in the direction of `rounding`, clamped to `low..=high`.
    pub fn to_integer(self, rounding: Rounding, low: i128, high: i128) -> i128 {
        let whole = self.to_integral(rounding);
        if whole.significand == 0 {
            return 0_i128.clamp(low, high);
        }
        let digits = 128 - whole.significand.leading_zeros() as i32 + whole.exponent;
        if digits > 100 {
            return if self.negative { low } else { high };
        }
        let magnitude = (whole.significand << whole.exponent) as i128;
        (if self.negative { -magnitude } else { magnitude }).clamp(low, high)
    }
}

/// `significand / 2^by`, rounded to an integer.
fn rounded_shift(significand: u128, by: u32, negative: bool, rounding: Rounding) -> u128 {
    let (kept, half, rest) = match by {
        0 => return significand,
        1..=127 => (
            significand >> by,
            (significand >> (by - 1)) & 1 == 1,
            significand & ((1 << (by - 1)) - 1) != 0,
        ),
        128 => (0, significand >> 127 == 1, significand << 1 != 0),
        _ => (0, false, significand != 0),
    };
    let up = match rounding {
        Rounding::Nearest => half && (rest || kept & 1 == 1),
        Rounding::NearestAway => half,
        Rounding::Zero => false,
        Rounding::Down => negative && (half || rest),
        Rounding::Up => !negative && (half || rest),
    };
    kept + u128::from(up)
}

/// What `bits` mean in `format`.
pub fn decode(format: Format, bits: u64) -> Value {
    let fraction = bits & ((1 << format.fraction_bits) - 1);
    let field = (bits >> format.fraction_bits) & ((1 << format.exponent_bits) - 1);
    let negative = bits & format.sign() != 0;
    let top = (1 << format.exponent_bits) - 1;
    if format.infinities && field == top {
        return if fraction == 0 { Value::Infinite { negative } } else { Value::Nan };
    }
    if !format.infinities && bits & (format.sign() - 1) == format.sign() - 1 {
        return Value::Nan;
    }
    let hidden = u64::from(field != 0) << format.fraction_bits;
    let exponent = field.max(1) as i32 - format.bias() - format.fraction_bits as i32;
    Value::Finite(Exact { negative, exponent, significand: u128::from(fraction | hidden) })
}

/// The bits of `value` in `format`; too large a number becomes an infinity or the largest number, as the
/// direction asks.
pub fn encode(format: Format, value: Value, rounding: Rounding) -> u64 {
    let signed = |negative: bool, bits: u64| if negative { bits | format.sign() } else { bits };
    let number = match value {
        Value::Nan => return format.nan,
        Value::Infinite { negative } => return signed(negative, format.infinity()),
        Value::Finite(number) => number,
    };
    if number.significand == 0 {
        return signed(number.negative, 0);
    }
    let leading = 127 - number.significand.leading_zeros() as i32 + number.exponent;
    let lowest = 1 - format.bias();
    let quantum = leading.max(lowest) - format.fraction_bits as i32;
    let shift = quantum - number.exponent;
    let digits = if shift <= 0 {
        number.significand << -shift
    } else {
        rounded_shift(number.significand, shift as u32, number.negative, rounding)
    } as u64;
    // The hidden bit adds one to the exponent field; so does a carry out of the fraction.
    let field = (leading.max(lowest) - lowest) as u64;
    let bits = digits + (field.min(1 << 11) << format.fraction_bits);
    if bits > format.largest() {
        let outwards = match rounding {
            Rounding::Nearest | Rounding::NearestAway => true,
            Rounding::Zero => false,
            Rounding::Down => number.negative,
            Rounding::Up => !number.negative,
        };
        let bits = if outwards { format.infinity() } else { format.largest() };
        return signed(number.negative, bits);
    }
    signed(number.negative, bits)
}

/// The sum `a + b`.
pub fn add(format: Format, a: u64, b: u64, rounding: Rounding) -> u64 {
    encode(format, sum(decode(format, a), decode(format, b), rounding), rounding)
}

fn sum(a: Value, b: Value, rounding: Rounding) -> Value {
    match (a, b) {
        (Value::Nan, _) | (_, Value::Nan) => Value::Nan,
        (Value::Infinite { negative: x }, Value::Infinite { negative: y }) => {
            if x == y {
                a
            } else {
                Value::Nan
            }
        }
        (Value::Infinite { .. }, _) => a,
        (_, Value::Infinite { .. }) => b,
        (Value::Finite(x), Value::Finite(y)) => Value::Finite(x.add(y, rounding)),
    }
}

fn product(a: Value, b: Value) -> Value {
    match (a, b) {
        (Value::Nan, _) | (_, Value::Nan) => Value::Nan,
        (Value::Infinite { negative: x }, Value::Infinite { negative: y }) => {
            Value::Infinite { negative: x != y }
        }
        (Value::Infinite { negative }, Value::Finite(number))
        | (Value::Finite(number), Value::Infinite { negative }) => {
            if number.significand == 0 {
                Value::Nan
            } else {
                Value::Infinite { negative: negative != number.negative }
            }
        }
        (Value::Finite(x), Value::Finite(y)) => Value::Finite(x.multiply(y)),
    }
}

/// The product `a · b`.
pub fn multiply(format: Format, a: u64, b: u64, rounding: Rounding) -> u64 {
    encode(format, product(decode(format, a), decode(format, b)), rounding)
}

/// `a · b + c`, rounded once.
pub fn multiply_add(format: Format, a: u64, b: u64, c: u64, rounding: Rounding) -> u64 {
    let product = product(decode(format, a), decode(format, b));
    encode(format, sum(product, decode(format, c), rounding), rounding)
}

/// The quotient `a / b`.
pub fn divide(format: Format, a: u64, b: u64, rounding: Rounding) -> u64 {
    let value = match (decode(format, a), decode(format, b)) {
        (Value::Nan, _) | (_, Value::Nan) => Value::Nan,
        (Value::Infinite { .. }, Value::Infinite { .. }) => Value::Nan,
        (Value::Infinite { negative }, Value::Finite(b)) => {
            Value::Infinite { negative: negative != b.negative }
        }
        (Value::Finite(a), Value::Infinite { negative }) => {
            Value::Finite(Exact { negative: negative != a.negative, exponent: 0, significand: 0 })
        }
        (Value::Finite(a), Value::Finite(b)) => match (a.significand, b.significand) {
            (0, 0) => Value::Nan,
            (_, 0) => Value::Infinite { negative: a.negative != b.negative },
            _ => Value::Finite(a.divide(b)),
        },
    };
    encode(format, value, rounding)
}

/// The square root of `a`; of a negative number, NaN; of -0, -0.
pub fn square_root(format: Format, a: u64, rounding: Rounding) -> u64 {
    let value = match decode(format, a) {
        Value::Nan | Value::Infinite { negative: true } => Value::Nan,
        Value::Finite(number) if number.negative && number.significand != 0 => Value::Nan,
        Value::Finite(number) => Value::Finite(number.square_root()),
        infinite => infinite,
    };
    encode(format, value, rounding)
}
