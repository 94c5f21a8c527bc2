//! Integer instructions (chapter 9.7.1) and those with a carry (9.7.2).

use super::{
    Decoded, Decoding, Form, Refusal,
    compute::{Compute, binary, quaternary, ternary, unary},
};
use crate::simulator::{
    monitor::Class,
    numeric::integer,
    registers::{Source, lanes},
    types::Type,
};

/// `add`, `sub`, `mul`, `mad`, `div`, `rem`, `abs`, `neg`, `min`, `max` of integers.
pub fn arithmetic(form: &mut Form<'_, '_>, kind: Type) -> Decoding {
    let carries = form.takes("cc");
    if carries || matches!(form.head, "addc" | "subc") {
        return Ok(Decoded::compute(with_carry(form, kind, carries)?, Class::Integer));
    }
    let saturates = form.takes("sat");
    let compute = match form.head {
        "mul" | "mad" => product(form, kind, saturates)?,
        "neg" | "abs" => {
            let (target, source) = (form.target(0)?, form.source(1)?);
            match form.head {
                "neg" => unary(target, source, move |a| integer::neg(kind, a)),
                _ => unary(target, source, move |a| integer::abs(kind, a)),
            }
        }
        _ => two(form, kind, saturates)?,
    };
    Ok(Decoded::compute(compute, Class::Integer))
}

fn two(form: &Form<'_, '_>, kind: Type, saturates: bool) -> Result<Compute, Refusal> {
    use Type::{S32, S64, U32, U64};
    let (target, sources) = (form.target(0)?, form.sources(1)?);
    if saturates && kind != S32 {
        return Err(Refusal::Unknown);
    }
    Ok(match (form.head, kind) {
        ("add", _) if saturates => binary(target, sources, integer::add_saturating),
        ("sub", _) if saturates => binary(target, sources, integer::sub_saturating),
        ("add", S32 | U32) => binary(target, sources, u32::wrapping_add),
        ("sub", S32 | U32) => binary(target, sources, u32::wrapping_sub),
        ("add", S64 | U64) => binary(target, sources, u64::wrapping_add),
        ("sub", S64 | U64) => binary(target, sources, u64::wrapping_sub),
        ("min", U32) => binary(target, sources, u32::min),
        ("max", U32) => binary(target, sources, u32::max),
        ("min", S32) => binary(target, sources, i32::min),
        ("max", S32) => binary(target, sources, i32::max),
        ("add", _) => binary(target, sources, move |a, b| integer::add(kind, a, b)),
        ("sub", _) => binary(target, sources, move |a, b| integer::sub(kind, a, b)),
        ("div", _) => binary(target, sources, move |a, b| integer::div(kind, a, b)),
        ("rem", _) => binary(target, sources, move |a, b| integer::rem(kind, a, b)),
        ("min", _) => binary(target, sources, move |a, b| integer::min(kind, a, b)),
        ("max", _) => binary(target, sources, move |a, b| integer::max(kind, a, b)),
        _ => return Err(Refusal::Unknown),
    })
}

/// `mul` and `mad`, low, high or wide.
fn product(form: &mut Form<'_, '_>, kind: Type, saturates: bool) -> Result<Compute, Refusal> {
    let half = form.one_of(&[("lo", 0), ("hi", 1), ("wide", 2)]).ok_or(Refusal::Unknown)?;
    let target = form.target(0)?;
    if form.head == "mul" {
        let sources = form.sources(1)?;
        return Ok(match (half, kind) {
            (0, Type::S32 | Type::U32) => binary(target, sources, u32::wrapping_mul),
            (0, Type::S64 | Type::U64) => binary(target, sources, u64::wrapping_mul),
            (2, Type::U32) => binary(target, sources, |a: u32, b: u32| u64::from(a) * u64::from(b)),
            (2, Type::S32) => binary(target, sources, |a: i32, b: i32| i64::from(a) * i64::from(b)),
            (0, _) => binary(target, sources, move |a, b| integer::mul_lo(kind, a, b)),
            (1, _) => binary(target, sources, move |a, b| integer::mul_hi(kind, a, b)),
            _ => binary(target, sources, move |a, b| integer::mul_wide(kind, a, b)),
        });
    }
    let sources = form.sources(1)?;
    Ok(match (half, kind) {
        (1, Type::S32) if saturates => ternary(target, sources, integer::mad_hi_saturating),
        _ if saturates => return Err(Refusal::Unknown),
        (0, Type::S32 | Type::U32) => {
            ternary(target, sources, |a: u32, b: u32, c: u32| a.wrapping_mul(b).wrapping_add(c))
        }
        (0, _) => ternary(target, sources, move |a, b, c| integer::mad_lo(kind, a, b, c)),
        (1, _) => ternary(target, sources, move |a, b, c| integer::mad_hi(kind, a, b, c)),
        _ => ternary(target, sources, move |a, b, c| integer::mad_wide(kind, a, b, c)),
    })
}

/// `add.cc`, `addc`, `sub.cc`, `subc`: the carry is a bit of each lane that only these instructions see.
fn with_carry(form: &Form<'_, '_>, kind: Type, sets: bool) -> Result<Compute, Refusal> {
    let subtracts = match form.head {
        "add" | "addc" => false,
        "sub" | "subc" => true,
        _ => return Err(Refusal::Unknown),
    };
    let reads = form.head.ends_with('c');
    let target = form.target(0)?;
    let [a, b]: [Source; 2] = form.sources(1)?;
    Ok(Box::new(move |registers, active| {
        registers.require(a, active)?;
        registers.require(b, active)?;
        let (x, y) = (registers.longs_of(a), registers.longs_of(b));
        let mut result = [0; 32];
        let mut carry = registers.carry;
        for lane in lanes(active) {
            let carried = reads && registers.carry >> lane & 1 == 1;
            let (value, out) = match subtracts {
                true => integer::sub_borrow(kind, x[lane], y[lane], carried),
                false => integer::add_carry(kind, x[lane], y[lane], carried),
            };
            result[lane] = value;
            if sets {
                carry = carry & !(1 << lane) | u32::from(out) << lane;
            }
        }
        registers.carry = carry;
        registers.set_longs(target, active, &result);
        Ok(())
    }))
}

/// The integer instructions with an opcode of their own.
pub fn decode(form: &mut Form<'_, '_>) -> Decoding {
    let wraps = form.takes("wrap");
    form.takes("clamp");
    let shift_amount = form.takes("shiftamt");
    let high = form.takes("hi");
    form.takes("lo");
    let kind = form.kind()?;
    let target = form.target(0)?;
    let compute = match form.head {
        "mul24" => binary(target, form.sources(1)?, move |a, b| integer::mul24(kind, high, a, b)),
        "mad24" => ternary(target, form.sources(1)?, move |a, b, c: u64| {
            integer::add(kind, integer::mul24(kind, high, a, b), c)
        }),
        "sad" => ternary(target, form.sources(1)?, move |a, b, c| integer::sad(kind, a, b, c)),
        "popc" => unary(target, form.source(1)?, move |a| integer::popc(kind, a)),
        "clz" => unary(target, form.source(1)?, move |a| integer::clz(kind, a)),
        "bfind" => unary(target, form.source(1)?, move |a| integer::bfind(kind, shift_amount, a)),
        "brev" => unary(target, form.source(1)?, move |a| integer::brev(kind, a)),
        "bfe" => ternary(target, form.sources(1)?, move |a, position, length| {
            integer::bfe(kind, a, position, length)
        }),
        "bfi" => quaternary(target, form.sources(1)?, move |[a, b, position, length]| {
            integer::bfi(kind, a, b, position, length)
        }),
        "bmsk" => binary(target, form.sources(1)?, move |a, b| integer::bmsk(wraps, a, b)),
        "szext" => binary(target, form.sources(1)?, move |a, b| integer::szext(kind, wraps, a, b)),
        "fns" => ternary(target, form.sources(1)?, |mask: u32, base: u32, offset: i32| {
            integer::fns(mask, base, offset)
        }),
        "dp4a" | "dp2a" => {
            let other = form.kind()?;
            let sources = form.sources(1)?;
            match form.head {
                "dp4a" => {
                    ternary(target, sources, move |a, b, c| integer::dp4a(kind, other, a, b, c))
                }
                _ => ternary(target, sources, move |a, b, c| {
                    integer::dp2a(high, kind, other, a, b, c)
                }),
            }
        }
        _ => return Err(Refusal::Unknown),
    };
    Ok(Decoded::compute(compute, Class::Integer))
}
