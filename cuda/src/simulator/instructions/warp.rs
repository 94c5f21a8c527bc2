//! Instructions across the lanes of a warp: shuffles (chapter 9.7.8), votes, matches, reductions (9.7.12).
//!
//! The executor brings the lanes that the member mask names together before it runs one of these.

use super::{
    Decoded, Decoding, Form, Op, Refusal,
    compute::{Compute, copy},
};
use crate::simulator::{
    monitor::Class,
    numeric::integer,
    registers::{Registers, Source, Target, lanes},
    types::Type,
};

/// Decodes by opcode.
pub fn decode(form: &mut Form<'_, '_>) -> Decoding {
    let op = match form.head {
        "shfl" => shuffle(form)?,
        "vote" => vote(form)?,
        "match" => matches(form)?,
        "redux" => reduce(form)?,
        "elect" => elect(form)?,
        _ => {
            form.kind()?;
            active_mask(form.target(0)?)
        }
    };
    Ok(Decoded::new(op, Class::Warp))
}

#[derive(Clone, Copy)]
enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

/// `shfl.sync`: each lane reads the value of another in its segment. A lane that is out of its segment keeps
/// its own and gets a false predicate.
fn shuffle(form: &mut Form<'_, '_>) -> Result<Op, Refusal> {
    let mode = form
        .one_of(&[
            ("up", Shuffle::Up),
            ("down", Shuffle::Down),
            ("bfly", Shuffle::Butterfly),
            ("idx", Shuffle::Index),
        ])
        .ok_or(Refusal::Unknown)?;
    if !form.takes("sync") || form.kind()? != Type::B32 {
        return Err(Refusal::Unknown);
    }
    let (target, valid) = form.target_pair(0)?;
    let [a, b, c, mask]: [Source; 4] = form.sources(1)?;
    let compute: Compute = Box::new(move |registers, active| {
        registers.require(b, active)?;
        registers.require(c, active)?;
        let [values, offsets, controls] = [a, b, c].map(|source| registers.words_of(source));
        let had = registers.defined(a);
        let (mut result, mut inside, mut defined) = ([0; 32], 0u32, 0u32);
        for lane in lanes(active) {
            let (offset, control) = (offsets[lane] as i32 & 31, controls[lane]);
            let (clamp, segment) = (control as i32 & 31, (control >> 8) as i32 & 31);
            let at = lane as i32;
            let last = (at & segment) | (clamp & !segment);
            let first = at & segment;
            let (from, valid) = match mode {
                Shuffle::Up => (at - offset, at - offset >= last),
                Shuffle::Down => (at + offset, at + offset <= last),
                Shuffle::Butterfly => (at ^ offset, at ^ offset <= last),
                Shuffle::Index => {
                    let from = first | (offset & !segment);
                    (from, from <= last)
                }
            };
            let from = if valid { from as usize & 31 } else { lane };
            result[lane] = values[from];
            inside |= u32::from(valid) << lane;
            // Reading a lane that does not take part gives no defined value.
            defined |= (had & active) >> from << lane & 1 << lane;
        }
        registers.set_words(target, active, &result);
        registers.define(target, active, defined);
        registers.set_predicate(valid, active, inside);
        Ok(())
    });
    Ok(Op::Collective(mask, compute))
}

#[derive(Clone, Copy)]
enum Vote {
    All,
    Any,
    Uniform,
    Ballot,
}

fn vote(form: &mut Form<'_, '_>) -> Result<Op, Refusal> {
    let mode = form
        .one_of(&[
            ("all", Vote::All),
            ("any", Vote::Any),
            ("uni", Vote::Uniform),
            ("ballot", Vote::Ballot),
        ])
        .ok_or(Refusal::Unknown)?;
    if !form.takes("sync") {
        return Err(Refusal::Unknown);
    }
    form.kind()?;
    let target = form.target(0)?;
    let [p, mask]: [Source; 2] = form.sources(1)?;
    let compute: Compute = Box::new(move |registers, active| {
        registers.require(p, active)?;
        let ballot = registers.predicate(p) & active;
        let holds = match mode {
            Vote::All => ballot == active,
            Vote::Any => ballot != 0,
            Vote::Uniform => ballot == active || ballot == 0,
            Vote::Ballot => {
                registers.set_words(target, active, &[ballot; 32]);
                return Ok(());
            }
        };
        registers.set_predicate(target, active, if holds { u32::MAX } else { 0 });
        Ok(())
    });
    Ok(Op::Collective(mask, compute))
}

fn matches(form: &mut Form<'_, '_>) -> Result<Op, Refusal> {
    let all = form.one_of(&[("all", true), ("any", false)]).ok_or(Refusal::Unknown)?;
    if !form.takes("sync") {
        return Err(Refusal::Unknown);
    }
    form.kind()?;
    let (target, same) = form.target_pair(0)?;
    let [a, mask]: [Source; 2] = form.sources(1)?;
    let compute: Compute = Box::new(move |registers, active| {
        registers.require(a, active)?;
        let values = registers.longs_of(a);
        let equal_to = |value: u64| {
            lanes(active).filter(|&lane| values[lane] == value).fold(0, |m, lane| m | 1u32 << lane)
        };
        let mut result = [0; 32];
        if all {
            let whole = equal_to(values[active.trailing_zeros() as usize & 31]) == active;
            result = [if whole { active } else { 0 }; 32];
            registers.set_predicate(same, active, if whole { u32::MAX } else { 0 });
        } else {
            lanes(active).for_each(|lane| result[lane] = equal_to(values[lane]));
        }
        registers.set_words(target, active, &result);
        Ok(())
    });
    Ok(Op::Collective(mask, compute))
}

fn reduce(form: &mut Form<'_, '_>) -> Result<Op, Refusal> {
    type Pair = fn(Type, u64, u64) -> u64;
    let f = form
        .one_of::<Pair>(&[
            ("add", integer::add),
            ("min", integer::min),
            ("max", integer::max),
            ("and", |_, a, b| a & b),
            ("or", |_, a, b| a | b),
            ("xor", |_, a, b| a ^ b),
        ])
        .ok_or(Refusal::Unknown)?;
    if !form.takes("sync") {
        return Err(Refusal::Unknown);
    }
    let kind = form.kind()?;
    let target = form.target(0)?;
    let [a, mask]: [Source; 2] = form.sources(1)?;
    let compute: Compute = Box::new(move |registers, active| {
        registers.require(a, active)?;
        let values = registers.longs_of(a);
        let total = lanes(active).map(|lane| values[lane]).reduce(|x, y| f(kind, x, y));
        registers.set_longs(target, active, &[total.unwrap_or(0); 32]);
        Ok(())
    });
    Ok(Op::Collective(mask, compute))
}

/// `elect.sync`: the lowest lane of the mask.
fn elect(form: &mut Form<'_, '_>) -> Result<Op, Refusal> {
    if !form.takes("sync") {
        return Err(Refusal::Unknown);
    }
    let (target, chosen) = form.target_pair(0)?;
    let compute: Compute = Box::new(move |registers, active| {
        let leader = active.trailing_zeros() & 31;
        registers.set_words(target, active, &[leader; 32]);
        registers.set_predicate(chosen, active, 1 << leader);
        Ok(())
    });
    Ok(Op::Collective(form.source(1)?, compute))
}

fn active_mask(target: Target) -> Op {
    Op::Compute(Box::new(move |registers: &mut Registers, active| {
        copy(target, Source::Constant(u64::from(active)))(registers, active)
    }))
}
