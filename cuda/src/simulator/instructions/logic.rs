//! Logic and shift instructions (chapter 9.7.7), and `prmt` (9.7.8).

use super::{
    Decoded, Decoding, Form, Refusal,
    compute::{binary, quaternary, ternary, unary},
};
use crate::simulator::{
    monitor::Class,
    numeric::integer::{self, Permutation},
    registers::{Registers, Source, Target},
    types::Type,
};

/// Decodes by opcode.
pub fn decode(form: &mut Form<'_, '_>) -> Decoding {
    match form.head {
        "lop3" => return three_inputs(form),
        "shf" => return funnel(form),
        "prmt" => return permute(form),
        _ => {}
    }
    let kind = form.kind()?;
    if kind == Type::Pred {
        return predicates(form);
    }
    let target = form.target(0)?;
    let wide = kind.bytes() == 8;
    let compute = match (form.head, wide) {
        ("not", _) => unary(target, form.source(1)?, move |a| integer::not(kind, a)),
        ("cnot", _) => unary(target, form.source(1)?, move |a| integer::cnot(kind, a)),
        ("and", true) => binary(target, form.sources(1)?, |a: u64, b: u64| a & b),
        ("and", false) => binary(target, form.sources(1)?, |a: u32, b: u32| a & b),
        ("or", true) => binary(target, form.sources(1)?, |a: u64, b: u64| a | b),
        ("or", false) => binary(target, form.sources(1)?, |a: u32, b: u32| a | b),
        ("xor", true) => binary(target, form.sources(1)?, |a: u64, b: u64| a ^ b),
        ("xor", false) => binary(target, form.sources(1)?, |a: u32, b: u32| a ^ b),
        ("shl" | "shr", _) => {
            let sources = form.sources(1)?;
            let right = form.head == "shr";
            match (right, kind) {
                (false, Type::B32) => {
                    binary(target, sources, |a: u32, by: u32| if by > 31 { 0 } else { a << by })
                }
                (false, Type::B64) => {
                    binary(
                        target,
                        sources,
                        |a: u64, by: u64| {
                            if by as u32 > 63 { 0 } else { a << (by as u32) }
                        },
                    )
                }
                (true, Type::B32 | Type::U32) => {
                    binary(target, sources, |a: u32, by: u32| if by > 31 { 0 } else { a >> by })
                }
                (true, _) => binary(target, sources, move |a, by: u64| integer::shr(kind, a, by)),
                (false, _) => binary(target, sources, move |a, by: u64| integer::shl(kind, a, by)),
            }
        }
        _ => return Err(Refusal::Unknown),
    };
    Ok(Decoded::compute(compute, Class::Integer))
}

/// On predicates, whole masks at a time.
fn predicates(form: &Form<'_, '_>) -> Decoding {
    let target = form.target(0)?;
    let pair = |f: fn(u32, u32) -> u32| -> Decoding {
        let [a, b]: [Source; 2] = form.sources(1)?;
        let compute = move |registers: &mut Registers, active: u32| {
            registers.require(a, active)?;
            registers.require(b, active)?;
            let mask = f(registers.predicate(a), registers.predicate(b));
            registers.set_predicate(target, active, mask);
            Ok(())
        };
        Ok(Decoded::compute(Box::new(compute), Class::Compare))
    };
    match form.head {
        "and" => pair(|a, b| a & b),
        "or" => pair(|a, b| a | b),
        "xor" => pair(|a, b| a ^ b),
        "not" => not_predicate(target, form.source(1)?),
        _ => Err(Refusal::Unknown),
    }
}

fn not_predicate(target: Target, a: Source) -> Decoding {
    let compute = move |registers: &mut Registers, active: u32| {
        registers.require(a, active)?;
        let mask = !registers.predicate(a);
        registers.set_predicate(target, active, mask);
        Ok(())
    };
    Ok(Decoded::compute(Box::new(compute), Class::Compare))
}

fn three_inputs(form: &mut Form<'_, '_>) -> Decoding {
    if form.kind()? != Type::B32 {
        return Err(Refusal::Unknown);
    }
    let table = form.immediate(4)? as u8;
    let compute =
        ternary(form.target(0)?, form.sources(1)?, move |a, b, c| integer::lop3(a, b, c, table));
    Ok(Decoded::compute(compute, Class::Integer))
}

fn funnel(form: &mut Form<'_, '_>) -> Decoding {
    let right = form.one_of(&[("l", false), ("r", true)]).ok_or(Refusal::Unknown)?;
    let wrap = form.one_of(&[("clamp", false), ("wrap", true)]).ok_or(Refusal::Unknown)?;
    form.kind()?;
    let compute = ternary(form.target(0)?, form.sources(1)?, move |low, high, by| {
        integer::shf(right, wrap, low, high, by)
    });
    Ok(Decoded::compute(compute, Class::Integer))
}

fn permute(form: &mut Form<'_, '_>) -> Decoding {
    form.kind()?;
    let mode = form.one_of(&[
        ("f4e", Permutation::Forward4),
        ("b4e", Permutation::Backward4),
        ("rc8", Permutation::Replicate8),
        ("ecl", Permutation::ClampLeft),
        ("ecr", Permutation::ClampRight),
        ("rc16", Permutation::Replicate16),
    ]);
    let mode = mode.unwrap_or_default();
    let sources: [Source; 4] =
        [form.source(1)?, form.source(2)?, form.source(3)?, Source::Constant(0)];
    let compute = quaternary(form.target(0)?, sources, move |[a, b, selector, _]| {
        u64::from(integer::prmt(mode, a as u32, b as u32, selector as u32))
    });
    Ok(Decoded::compute(compute, Class::Move))
}
