//! Comparison and selection instructions (chapters 9.7.5 and 9.7.6).

use super::{
    Decoded, Decoding, Form, Refusal,
    compute::{Compute, binary, ternary},
};
use crate::simulator::{
    monitor::Class,
    numeric::{
        compare::{self, Comparison},
        half::Half,
    },
    registers::{Registers, Source, Target},
    types::Type,
};

/// How `setp` and `set` combine their comparison with a predicate.
#[derive(Clone, Copy)]
enum Combine {
    And,
    Or,
    Xor,
}

impl Combine {
    const fn apply(self, a: u32, b: u32) -> u32 {
        match self {
            Self::And => a & b,
            Self::Or => a | b,
            Self::Xor => a ^ b,
        }
    }
}

/// Decodes by opcode.
pub fn decode(form: &mut Form<'_, '_>) -> Decoding {
    let compute = match form.head {
        "setp" => set_predicate(form)?,
        "set" => set(form)?,
        "selp" => select(form)?,
        _ => select_by_sign(form)?,
    };
    Ok(Decoded::compute(compute, Class::Compare))
}

fn combine(form: &mut Form<'_, '_>) -> Option<Combine> {
    form.one_of(&[("and", Combine::And), ("or", Combine::Or), ("xor", Combine::Xor)])
}

/// The comparison of two sources as a mask of lanes.
type Masked = Box<dyn Fn(&Registers, u32) -> u32 + Send + Sync>;

fn masked(kind: Type, comparison: Comparison, ftz: bool, [a, b]: [Source; 2]) -> Masked {
    /// A loop of its own for each of the commonest comparisons.
    macro_rules! quick {
        ($type:ty, $fetch:ident, $op:tt) => {
            Box::new(move |registers: &Registers, _| {
                let (x, y) = (registers.$fetch(a), registers.$fetch(b));
                (0..32).fold(0, |mask, lane| {
                    mask | u32::from((x[lane] as $type) $op (y[lane] as $type)) << lane
                })
            })
        };
    }
    use Comparison::{Eq, Ge, Gt, Le, Lt, Ne};
    match (kind, comparison) {
        (Type::S32 | Type::U32 | Type::B32, Eq) => quick!(u32, words_of, ==),
        (Type::S32 | Type::U32 | Type::B32, Ne) => quick!(u32, words_of, !=),
        (Type::S32, Lt) => quick!(i32, words_of, <),
        (Type::S32, Le) => quick!(i32, words_of, <=),
        (Type::S32, Gt) => quick!(i32, words_of, >),
        (Type::S32, Ge) => quick!(i32, words_of, >=),
        (Type::S64 | Type::U64 | Type::B64, Eq) => quick!(u64, longs_of, ==),
        (Type::S64 | Type::U64 | Type::B64, Ne) => quick!(u64, longs_of, !=),
        (Type::S64, Lt) => quick!(i64, longs_of, <),
        (Type::S64, Le) => quick!(i64, longs_of, <=),
        (Type::S64, Gt) => quick!(i64, longs_of, >),
        (Type::S64, Ge) => quick!(i64, longs_of, >=),
        _ => Box::new(move |registers, _| {
            let (x, y) = (registers.longs_of(a), registers.longs_of(b));
            (0..32).fold(0, |mask, lane| {
                let holds = compare::compare(comparison, kind, ftz, x[lane], y[lane]);
                mask | u32::from(holds) << lane
            })
        }),
    }
}

/// `setp`: `p|q = a op b`, combined with a predicate.
fn set_predicate(form: &mut Form<'_, '_>) -> Result<Compute, Refusal> {
    let comparison = form.find(Comparison::parse).ok_or(Refusal::Unknown)?;
    let combine = combine(form);
    let ftz = form.takes("ftz");
    let kind = form.kind()?;
    let (first, second) = form.target_pair(0)?;
    let sources: [Source; 2] = form.sources(1)?;
    let with = match combine {
        Some(combine) => Some((combine, form.source(3)?)),
        None => None,
    };
    if let Type::F16x2 | Type::Bf16x2 = kind {
        return Ok(set_packed(kind, comparison, ftz, [first, second], sources, with));
    }
    let mask = masked(kind, comparison, ftz, sources);
    Ok(Box::new(move |registers, active| {
        registers.require(sources[0], active)?;
        registers.require(sources[1], active)?;
        let (mut yes, mut no) = (mask(registers, active), 0);
        if !matches!(second, Target::Nowhere) {
            no = !yes;
        }
        if let Some((combine, source)) = with {
            registers.require(source, active)?;
            let other = registers.predicate(source);
            (yes, no) = (combine.apply(yes, other), combine.apply(no, other));
        }
        registers.set_predicate(first, active, yes);
        registers.set_predicate(second, active, no);
        Ok(())
    }))
}

/// The packed `setp`: one predicate for each half.
fn set_packed(
    kind: Type,
    comparison: Comparison,
    ftz: bool,
    targets: [Target; 2],
    [a, b]: [Source; 2],
    with: Option<(Combine, Source)>,
) -> Compute {
    let half = if kind == Type::F16x2 { Half::F16 } else { Half::Bf16 };
    Box::new(move |registers, active| {
        registers.require(a, active)?;
        registers.require(b, active)?;
        let (x, y) = (registers.words_of(a), registers.words_of(b));
        let mut masks = [0u32; 2];
        for lane in 0..32 {
            let (low, high) = compare::compare_packed(comparison, half, ftz, x[lane], y[lane]);
            masks[0] |= u32::from(low) << lane;
            masks[1] |= u32::from(high) << lane;
        }
        for (target, mut mask) in targets.into_iter().zip(masks) {
            if let Some((combine, source)) = with {
                registers.require(source, active)?;
                mask = combine.apply(mask, registers.predicate(source));
            }
            registers.set_predicate(target, active, mask);
        }
        Ok(())
    })
}

/// `set`: all ones or zero, or 1.0 or 0.0.
fn set(form: &mut Form<'_, '_>) -> Result<Compute, Refusal> {
    let comparison = form.find(Comparison::parse).ok_or(Refusal::Unknown)?;
    if combine(form).is_some() {
        return Err(Refusal::Unknown);
    }
    let ftz = form.takes("ftz");
    let (to, kind) = (form.kind()?, form.kind()?);
    Ok(binary(form.target(0)?, form.sources(1)?, move |a, b| {
        compare::set_value(to, compare::compare(comparison, kind, ftz, a, b))
    }))
}

/// `selp`: what is not chosen need not have a value, and what is chosen carries its own state along.
fn select(form: &mut Form<'_, '_>) -> Result<Compute, Refusal> {
    form.kind()?;
    let target = form.target(0)?;
    let [a, b, p]: [Source; 3] = form.sources(1)?;
    Ok(Box::new(move |registers, active| {
        registers.require(p, active)?;
        let chosen = registers.predicate(p);
        let defined = registers.defined(a) & chosen | registers.defined(b) & !chosen;
        if let Target::Long(_) = target {
            let (x, y) = (registers.longs_of(a), registers.longs_of(b));
            let pick = |lane: usize| if chosen >> lane & 1 == 1 { x[lane] } else { y[lane] };
            registers.set_longs(target, active, &std::array::from_fn(pick));
        } else {
            let (x, y) = (registers.words_of(a), registers.words_of(b));
            let pick = |lane: usize| if chosen >> lane & 1 == 1 { x[lane] } else { y[lane] };
            registers.set_words(target, active, &std::array::from_fn(pick));
        }
        registers.define(target, active, defined);
        Ok(())
    }))
}

fn select_by_sign(form: &mut Form<'_, '_>) -> Result<Compute, Refusal> {
    let ftz = form.takes("ftz");
    let (_, by) = (form.kind()?, form.kind()?);
    let (target, sources) = (form.target(0)?, form.sources(1)?);
    match by {
        Type::S32 => Ok(ternary(target, sources, compare::slct_s32)),
        Type::F32 => Ok(ternary(target, sources, move |a, b, c| compare::slct_f32(a, b, c, ftz))),
        _ => Err(Refusal::Unknown),
    }
}
