//! Integer instructions, extended-precision ones, and logic and shifts (chapters 9.7.1, 9.7.2, 9.7.7).
//!
//! `ty` says how many low bits of an operand are read and whether they are signed. Results are zero-extended
//! to 64 bits.

use crate::simulator::types::Type;

/// Width of an integer type in bits.
#[inline(always)]
pub const fn width(ty: Type) -> u32 {
    match ty {
        Type::Pred => 1,
        _ if ty.bytes() >= 8 => 64,
        _ => 8 * ty.bytes() as u32,
    }
}

/// The low bits that `ty` has, zero-extended.
#[inline(always)]
pub const fn truncate(ty: Type, value: u64) -> u64 {
    value & (u64::MAX >> (64 - width(ty)))
}

/// The low bits that `ty` has, sign-extended.
#[inline(always)]
pub const fn sign_extend(ty: Type, value: u64) -> i64 {
    let spare = 64 - width(ty);
    ((value << spare) as i64) >> spare
}

/// The integer that `value` means in `ty`.
#[inline(always)]
const fn wide(ty: Type, value: u64) -> i128 {
    if ty.is_signed() { sign_extend(ty, value) as i128 } else { truncate(ty, value) as i128 }
}

/// The least and the greatest integer of `ty`.
pub const fn range(ty: Type) -> (i128, i128) {
    let width = width(ty);
    if ty.is_signed() {
        (-(1 << (width - 1)), (1 << (width - 1)) - 1)
    } else {
        (0, (1 << width) - 1)
    }
}

/// `add`.
#[inline(always)]
pub const fn add(ty: Type, a: u64, b: u64) -> u64 {
    truncate(ty, a.wrapping_add(b))
}

/// `sub`.
#[inline(always)]
pub const fn sub(ty: Type, a: u64, b: u64) -> u64 {
    truncate(ty, a.wrapping_sub(b))
}

/// `add.sat.s32`.
#[inline(always)]
pub const fn add_saturating(a: u64, b: u64) -> u64 {
    (a as i32).saturating_add(b as i32) as u32 as u64
}

/// `sub.sat.s32`.
#[inline(always)]
pub const fn sub_saturating(a: u64, b: u64) -> u64 {
    (a as i32).saturating_sub(b as i32) as u32 as u64
}

/// `add.cc` (`carry` false) and `addc`: the sum and the carry out.
#[inline(always)]
pub const fn add_carry(ty: Type, a: u64, b: u64, carry: bool) -> (u64, bool) {
    let sum = truncate(ty, a) as u128 + truncate(ty, b) as u128 + carry as u128;
    (truncate(ty, sum as u64), sum >> width(ty) != 0)
}

/// `sub.cc` (`borrow` false) and `subc`: the difference and the borrow out.
#[inline(always)]
pub const fn sub_borrow(ty: Type, a: u64, b: u64, borrow: bool) -> (u64, bool) {
    let taken = truncate(ty, b) as u128 + borrow as u128;
    let left = truncate(ty, a) as u128;
    (truncate(ty, left.wrapping_sub(taken) as u64), left < taken)
}

/// `mul.lo`.
#[inline(always)]
pub const fn mul_lo(ty: Type, a: u64, b: u64) -> u64 {
    truncate(ty, a.wrapping_mul(b))
}

/// `mul.hi`.
#[inline(always)]
pub const fn mul_hi(ty: Type, a: u64, b: u64) -> u64 {
    if ty.is_signed() {
        truncate(ty, ((wide(ty, a) * wide(ty, b)) >> width(ty)) as u64)
    } else {
        let product = truncate(ty, a) as u128 * truncate(ty, b) as u128;
        truncate(ty, (product >> width(ty)) as u64)
    }
}

/// `mul.wide`: of 16 or 32-bit operands, a product of twice their width.
#[inline(always)]
pub const fn mul_wide(ty: Type, a: u64, b: u64) -> u64 {
    let product = if ty.is_signed() {
        sign_extend(ty, a).wrapping_mul(sign_extend(ty, b)) as u64
    } else {
        truncate(ty, a).wrapping_mul(truncate(ty, b))
    };
    if width(ty) <= 16 { product & 0xffff_ffff } else { product }
}

/// `mad.lo`.
#[inline(always)]
pub const fn mad_lo(ty: Type, a: u64, b: u64, c: u64) -> u64 {
    truncate(ty, a.wrapping_mul(b).wrapping_add(c))
}

/// `mad.hi`.
#[inline(always)]
pub const fn mad_hi(ty: Type, a: u64, b: u64, c: u64) -> u64 {
    add(ty, mul_hi(ty, a, b), c)
}

/// `mad.hi.sat.s32`.
#[inline(always)]
pub const fn mad_hi_saturating(a: u64, b: u64, c: u64) -> u64 {
    add_saturating(mul_hi(Type::S32, a, b), c)
}

/// `mad.wide`: `c` and the result have twice the width of `ty`.
#[inline(always)]
pub const fn mad_wide(ty: Type, a: u64, b: u64, c: u64) -> u64 {
    let sum = mul_wide(ty, a, b).wrapping_add(c);
    if width(ty) <= 16 { sum & 0xffff_ffff } else { sum }
}

/// `mul24.lo` and, with `high`, `.hi`: 24-bit operands; bits 31..0 or 47..16 of the product.
#[inline(always)]
pub const fn mul24(ty: Type, high: bool, a: u64, b: u64) -> u64 {
    let shift = if high { 16 } else { 0 };
    if ty.is_signed() {
        let (a, b) = (((a << 40) as i64) >> 40, ((b << 40) as i64) >> 40);
        truncate(ty, ((a * b) >> shift) as u64)
    } else {
        truncate(ty, ((a & 0xff_ffff) * (b & 0xff_ffff)) >> shift)
    }
}

/// `sad`: `c + |a - b|`.
#[inline(always)]
pub const fn sad(ty: Type, a: u64, b: u64, c: u64) -> u64 {
    let distance = (wide(ty, a) - wide(ty, b)).unsigned_abs() as u64;
    truncate(ty, c.wrapping_add(distance))
}

/// `div`. By zero PTX leaves it open; here it is what GPUs give, all ones.
#[inline(always)]
pub const fn div(ty: Type, a: u64, b: u64) -> u64 {
    if truncate(ty, b) == 0 {
        return truncate(ty, u64::MAX);
    }
    if ty.is_signed() {
        truncate(ty, sign_extend(ty, a).wrapping_div(sign_extend(ty, b)) as u64)
    } else {
        truncate(ty, a) / truncate(ty, b)
    }
}

/// `rem`. By zero PTX leaves it open; here it is what GPUs give, all ones.
#[inline(always)]
pub const fn rem(ty: Type, a: u64, b: u64) -> u64 {
    if truncate(ty, b) == 0 {
        return truncate(ty, u64::MAX);
    }
    if ty.is_signed() {
        truncate(ty, sign_extend(ty, a).wrapping_rem(sign_extend(ty, b)) as u64)
    } else {
        truncate(ty, a) % truncate(ty, b)
    }
}

/// `abs`; of the least integer, itself.
#[inline(always)]
pub const fn abs(ty: Type, a: u64) -> u64 {
    truncate(ty, sign_extend(ty, a).unsigned_abs())
}

/// `neg`.
#[inline(always)]
pub const fn neg(ty: Type, a: u64) -> u64 {
    truncate(ty, a.wrapping_neg())
}

/// `min`.
#[inline(always)]
pub const fn min(ty: Type, a: u64, b: u64) -> u64 {
    let first = if ty.is_signed() {
        sign_extend(ty, a) < sign_extend(ty, b)
    } else {
        truncate(ty, a) < truncate(ty, b)
    };
    truncate(ty, if first { a } else { b })
}

/// `max`.
#[inline(always)]
pub const fn max(ty: Type, a: u64, b: u64) -> u64 {
    let first = if ty.is_signed() {
        sign_extend(ty, a) > sign_extend(ty, b)
    } else {
        truncate(ty, a) > truncate(ty, b)
    };
    truncate(ty, if first { a } else { b })
}

/// `min.s16x2`, `max.u16x2` …: `f` of the lower and of the upper halves.
#[inline(always)]
pub fn packed16(a: u64, b: u64, f: impl Fn(u64, u64) -> u64) -> u64 {
    (f(a & 0xffff, b & 0xffff) & 0xffff)
        | (f((a >> 16) & 0xffff, (b >> 16) & 0xffff) & 0xffff) << 16
}

/// `not`.
#[inline(always)]
pub const fn not(ty: Type, a: u64) -> u64 {
    truncate(ty, !a)
}

/// `cnot`: 1 of zero, 0 of anything else.
#[inline(always)]
pub const fn cnot(ty: Type, a: u64) -> u64 {
    (truncate(ty, a) == 0) as u64
}

/// `popc`.
#[inline(always)]
pub const fn popc(ty: Type, a: u64) -> u64 {
    truncate(ty, a).count_ones() as u64
}

/// `clz`.
#[inline(always)]
pub const fn clz(ty: Type, a: u64) -> u64 {
    (truncate(ty, a).leading_zeros() - (64 - width(ty))) as u64
}

/// `bfind` and, with `shift_amount`, `bfind.shiftamt`: the position of the highest bit that is not the sign, or
/// the left shift that would bring it to the top; all ones (32 bits) if there is none.
#[inline(always)]
pub const fn bfind(ty: Type, shift_amount: bool, a: u64) -> u64 {
    let mut bits = truncate(ty, a);
    if ty.is_signed() && sign_extend(ty, a) < 0 {
        bits = truncate(ty, !bits);
    }
    if bits == 0 {
        return 0xffff_ffff;
    }
    let position = 63 - bits.leading_zeros();
    (if shift_amount { width(ty) - 1 - position } else { position }) as u64
}

/// `brev`.
#[inline(always)]
pub const fn brev(ty: Type, a: u64) -> u64 {
    a.reverse_bits() >> (64 - width(ty))
}

/// A position or length of a field. Beyond 255 (PTX leaves it open) an H200 takes the low 8 bits, of 64-bit fields all.
const fn field(ty: Type, value: u64) -> u32 {
    let value = value as u32;
    if width(ty) < 64 || value < 0x100 { value & 0xff } else { 0xff }
}

/// `bfe`: `length` bits of `a` from `position` on; beyond the top, and for a signed type above the field, the
/// field's sign.
#[inline(always)]
pub const fn bfe(ty: Type, a: u64, position: u64, length: u64) -> u64 {
    let (position, length) = (field(ty, position), field(ty, length));
    let width = width(ty);
    if length == 0 {
        return 0;
    }
    let source = if ty.is_signed() { sign_extend(ty, a) } else { truncate(ty, a) as i64 };
    let shifted = match (position < width, ty.is_signed()) {
        (true, true) => source >> position,
        (true, false) => (source as u64 >> position) as i64,
        (false, true) => source >> 63,
        (false, false) => 0,
    };
    if length >= width {
        return truncate(ty, shifted as u64);
    }
    let spare = 64 - length;
    let field = if ty.is_signed() {
        // A field that reaches over the top has the sign of `a`; sign extension above put it there.
        (((shifted as u64) << spare) as i64 >> spare) as u64
    } else {
        (shifted as u64) << spare >> spare
    };
    truncate(ty, field)
}

/// `bfi`: `b` with `length` bits from `position` on replaced by the low bits of `a`.
#[inline(always)]
pub const fn bfi(ty: Type, a: u64, b: u64, position: u64, length: u64) -> u64 {
    let (position, length) = (field(ty, position), field(ty, length));
    let b = truncate(ty, b);
    if length == 0 || position >= width(ty) {
        return b;
    }
    let ones = if length >= 64 { u64::MAX } else { (1 << length) - 1 };
    let mask = truncate(ty, ones << position);
    (b & !mask) | ((a << position) & mask)
}

/// `bmsk`: `length` ones from `position` on, both clamped to 32 or (`wrap`) taken modulo 32.
pub const fn bmsk(wrap: bool, position: u64, length: u64) -> u64 {
    let (position, length) = (position & 0xffff_ffff, length & 0xffff_ffff);
    let (position, length) = if wrap { (position & 31, length & 31) } else { (position, length) };
    if position >= 32 {
        return 0;
    }
    let ones = if length >= 32 { u32::MAX as u64 } else { (1 << length) - 1 };
    (ones << position) & 0xffff_ffff
}

/// `szext`: bits from `position` on replaced by the sign below them (signed) or zeros; `position` clamped to 32
/// or (`wrap`) taken modulo 32.
pub const fn szext(ty: Type, wrap: bool, a: u64, position: u64) -> u64 {
    let position = position & 0xffff_ffff;
    let position = if wrap { position & 31 } else { position };
    match position {
        0 => 0,
        32.. => a & 0xffff_ffff,
        _ if ty.is_signed() => {
            let spare = 64 - position;
            ((a << spare) as i64 >> spare) as u64 & 0xffff_ffff
        }
        _ => a & ((1 << position) - 1),
    }
}

/// `shl`; a shift by the width or more gives 0.
#[inline(always)]
pub const fn shl(ty: Type, a: u64, by: u64) -> u64 {
    let by = by & 0xffff_ffff;
    if by >= width(ty) as u64 { 0 } else { truncate(ty, a << by) }
}

/// `shr`; a shift by the width or more gives 0, or the sign everywhere.
#[inline(always)]
pub const fn shr(ty: Type, a: u64, by: u64) -> u64 {
    let by = by & 0xffff_ffff;
    if ty.is_signed() {
        let by = if by >= width(ty) as u64 { 63 } else { by };
        truncate(ty, (sign_extend(ty, a) >> by) as u64)
    } else if by >= width(ty) as u64 {
        0
    } else {
        truncate(ty, a) >> by
    }
}

/// `shf.l` / (`right`) `shf.r` on the 64 bits `high:low`, by an amount clamped to 32 or (`wrap`) modulo 32: the
/// high word of a left shift, the low word of a right one.
#[inline(always)]
pub const fn shf(right: bool, wrap: bool, low: u32, high: u32, by: u32) -> u32 {
    let by = if wrap {
        by & 31
    } else if by > 32 {
        32
    } else {
        by
    };
    let both = (high as u64) << 32 | low as u64;
    if right { (both >> by) as u32 } else { ((both << by) >> 32) as u32 }
}

/// How `prmt` reads its selector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Permutation {
    /// Four nibbles: a byte's number, and whether its sign is replicated.
    #[default]
    Bytes,
    /// `.f4e`: four bytes forward from the selected one.
    Forward4,
    /// `.b4e`: four bytes backward from the selected one.
    Backward4,
    /// `.rc8`: the selected byte four times.
    Replicate8,
    /// `.ecl`: clamped to the left of the selected byte.
    ClampLeft,
    /// `.ecr`: clamped to the right of the selected byte.
    ClampRight,
    /// `.rc16`: the selected half twice.
    Replicate16,
}

/// `prmt`: four bytes chosen out of the eight of `b:a`.
#[inline(always)]
pub const fn prmt(mode: Permutation, a: u32, b: u32, selector: u32) -> u32 {
    const MODES: [[u16; 4]; 6] = [
        [0x3210, 0x4321, 0x5432, 0x6543],
        [0x5670, 0x6701, 0x7012, 0x0123],
        [0x0000, 0x1111, 0x2222, 0x3333],
        [0x3210, 0x3211, 0x3222, 0x3333],
        [0x0000, 0x1110, 0x2210, 0x3210],
        [0x1010, 0x3232, 0x1010, 0x3232],
    ];
    let which = (selector & 3) as usize;
    let nibbles = match mode {
        Permutation::Bytes => selector,
        Permutation::Forward4 => MODES[0][which] as u32,
        Permutation::Backward4 => MODES[1][which] as u32,
        Permutation::Replicate8 => MODES[2][which] as u32,
        Permutation::ClampLeft => MODES[3][which] as u32,
        Permutation::ClampRight => MODES[4][which] as u32,
        Permutation::Replicate16 => MODES[5][which] as u32,
    };
    let both = (b as u64) << 32 | a as u64;
    let mut result = 0;
    let mut i = 0;
    while i < 4 {
        let nibble = nibbles >> (4 * i);
        let byte = (both >> (8 * (nibble & 7))) as u8;
        let byte = if nibble & 8 != 0 { ((byte as i8) >> 7) as u8 } else { byte };
        result |= (byte as u32) << (8 * i);
        i += 1;
    }
    result
}

const fn lane(ty: Type, word: u32, bits: u32, index: u32) -> i64 {
    let raw = (word as u64) >> (bits * index);
    let spare = 64 - bits;
    if ty.is_signed() { ((raw << spare) as i64) >> spare } else { ((raw << spare) >> spare) as i64 }
}

/// `dp4a`: `c` plus the four products of bytes; `a_type` and `b_type` (`.s32`/`.u32`) say which are signed.
#[inline(always)]
pub const fn dp4a(a_type: Type, b_type: Type, a: u32, b: u32, c: u32) -> u32 {
    let mut sum = c as i64;
    let mut i = 0;
    while i < 4 {
        sum += lane(a_type, a, 8, i) * lane(b_type, b, 8, i);
        i += 1;
    }
    sum as u32
}

/// `dp2a.lo` and, with `high`, `.hi`: `c` plus the products of the two halves of `a` and two bytes of `b`.
#[inline(always)]
pub const fn dp2a(high: bool, a_type: Type, b_type: Type, a: u32, b: u32, c: u32) -> u32 {
    let first = if high { 2 } else { 0 };
    let low = lane(a_type, a, 16, 0) * lane(b_type, b, 8, first);
    let upper = lane(a_type, a, 16, 1) * lane(b_type, b, 8, first + 1);
    (c as i64 + low + upper) as u32
}

/// `lop3`: the bit of `table` whose number the three operands' bits spell, `a` first.
#[inline(always)]
pub const fn lop3(a: u32, b: u32, c: u32, table: u8) -> u32 {
    let mut result = 0;
    let mut i = 0;
    while i < 8 {
        if table >> i & 1 == 1 {
            let term = (if i & 4 != 0 { a } else { !a })
                & (if i & 2 != 0 { b } else { !b })
                & (if i & 1 != 0 { c } else { !c });
            result |= term;
        }
        i += 1;
    }
    result
}

/// `fns`: position of the `offset`-th set bit of `mask`, counted from bit `base` (upwards when positive); all
/// ones if there is none. With offset 0 it is `base`, if that bit is set. An H200 gives 0 for the least offset.
pub const fn fns(mask: u32, base: u32, offset: i32) -> u32 {
    match offset {
        i32::MIN => return 0,
        0 if base < 32 && mask >> base & 1 == 1 => return base,
        _ if base > 31 || offset == 0 => return u32::MAX,
        _ => {}
    }
    let mut left = offset.unsigned_abs();
    let mut position = base as i32;
    while position >= 0 && position < 32 {
        if mask >> position & 1 == 1 {
            left -= 1;
            if left == 0 {
                return position as u32;
            }
        }
        position += offset.signum();
    }
    u32::MAX
}
