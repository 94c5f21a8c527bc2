//! `mov`, `cvta` and `isspacep` (chapter 9.7.8): values and addresses from place to place.

use super::{
    Decoded, Decoding, Form, Refusal,
    compute::{Compute, binary, copy, unary},
};
use crate::simulator::{
    fault::Space,
    memory::{self, LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW},
    monitor::Class,
    parse::Operand,
    registers::{Source, Target},
    types::Type,
};

/// Decodes by opcode.
pub fn decode(form: &mut Form<'_, '_>) -> Decoding {
    let compute = match form.head {
        "mov" => move_value(form)?,
        "cvta" => convert_address(form)?,
        _ => {
            let space = space(form).ok_or(Refusal::Unknown)?;
            unary(form.target(0)?, form.source(1)?, move |address: u64| {
                memory::space_of_generic(address) == space
            })
        }
    };
    Ok(Decoded::compute(compute, Class::Move))
}

fn space(form: &mut Form<'_, '_>) -> Option<Space> {
    form.one_of(&[
        ("global", Space::Global),
        ("shared", Space::Shared),
        ("shared::cta", Space::Shared),
        ("shared::cluster", Space::Shared),
        ("local", Space::Local),
        ("const", Space::Const),
        ("param", Space::Param),
    ])
}

/// `mov`, whose vector forms pack and unpack.
fn move_value(form: &mut Form<'_, '_>) -> Result<Compute, Refusal> {
    let kind = form.kind()?;
    let width = 8 * kind.bytes() as u32;
    match (form.operand(0)?, form.operand(1)?) {
        (Operand::Vector(targets), _) => {
            let targets: Result<Vec<Target>, _> =
                targets.iter().map(|member| form.target_of(member)).collect();
            unpack(targets?, form.source(1)?, width)
        }
        (_, Operand::Vector(sources)) => {
            let sources: Result<Vec<Source>, _> =
                sources.iter().map(|member| form.source_of(member)).collect();
            pack(form.target(0)?, sources?, width)
        }
        _ => {
            let mut source = form.source(1)?;
            if kind == Type::Pred
                && let Source::Constant(bits) = source
            {
                source = Source::Constant(u64::from(bits != 0));
            }
            Ok(copy(form.target(0)?, source))
        }
    }
}

fn part(width: u32, parts: usize) -> Result<u32, Refusal> {
    match (width, parts) {
        (16 | 32 | 64, 2) | (32 | 64, 4) => Ok(width / parts as u32),
        _ => Err(Refusal::Operand(format!("{parts} parts of {width} bits"))),
    }
}

fn unpack(targets: Vec<Target>, source: Source, width: u32) -> Result<Compute, Refusal> {
    let part = part(width, targets.len())?;
    let mask = u64::MAX >> (64 - part);
    Ok(Box::new(move |registers, active| {
        let values = registers.longs_of(source);
        let defined = registers.defined(source);
        for (i, &target) in targets.iter().enumerate() {
            let shift = part * i as u32;
            registers.set_longs(target, active, &values.map(|bits| bits >> shift & mask));
            registers.define(target, active, defined);
        }
        Ok(())
    }))
}

fn pack(target: Target, sources: Vec<Source>, width: u32) -> Result<Compute, Refusal> {
    let part = part(width, sources.len())?;
    let mask = u64::MAX >> (64 - part);
    Ok(Box::new(move |registers, active| {
        let mut values = [0; 32];
        let mut defined = u32::MAX;
        for (i, &source) in sources.iter().enumerate() {
            let shift = part * i as u32;
            let more = registers.longs_of(source);
            values.iter_mut().zip(more).for_each(|(value, bits)| *value |= (bits & mask) << shift);
            defined &= registers.defined(source);
        }
        registers.set_longs(target, active, &values);
        registers.define(target, active, defined);
        Ok(())
    }))
}

/// `cvta`: between an address in a space and a generic one, in which every space has a window of its own.
fn convert_address(form: &mut Form<'_, '_>) -> Result<Compute, Refusal> {
    let to = form.takes("to");
    let space = space(form).ok_or(Refusal::Unknown)?;
    form.kind()?;
    let window = match space {
        Space::Shared => SHARED_WINDOW,
        Space::Local => LOCAL_WINDOW,
        Space::Global | Space::Const => return Ok(copy(form.target(0)?, form.source(1)?)),
        Space::Param => PARAM_WINDOW,
    };
    let sources = [form.source(1)?, Source::Constant(window)];
    let target = form.target(0)?;
    Ok(match to {
        true => binary(target, sources, u64::wrapping_sub),
        false => binary(target, sources, u64::wrapping_add),
    })
}
