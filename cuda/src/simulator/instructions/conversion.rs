//! `cvt` (chapter 9.7.8): between types, and to integral floats.

use super::{
    Decoded, Decoding, Form, Refusal,
    compute::{Compute, binary, quaternary, unary},
};
use crate::simulator::{
    monitor::Class,
    numeric::convert::{self, Conversion},
    parse::fundamental,
    registers::Source,
    types::Type,
};

/// Decodes a conversion.
pub fn decode(form: &mut Form<'_, '_>) -> Decoding {
    let compute = if form.takes("pack") { pack(form)? } else { convert(form)? };
    Ok(Decoded::compute(compute, Class::Conversion))
}

fn convert(form: &mut Form<'_, '_>) -> Result<Compute, Refusal> {
    let mut conversion = Conversion::plain(Type::B32, Type::B32, form.rounding());
    conversion.ftz = form.takes("ftz");
    conversion.saturate = form.takes("sat");
    conversion.saturate_finite = form.takes("satfinite");
    conversion.relu = form.takes("relu");
    (conversion.to, conversion.from) = (form.kind()?, form.kind()?);
    let target = form.target(0)?;
    let plain =
        conversion == Conversion::plain(conversion.to, conversion.from, conversion.rounding);
    let packs = matches!(conversion.to, Type::F16x2 | Type::Bf16x2 | Type::E4m3x2 | Type::E5m2x2);
    Ok(match (conversion.to, conversion.from) {
        _ if packs && conversion.from == Type::F32 => {
            binary(target, form.sources(1)?, move |a, b| convert::convert_pair(conversion, a, b))
        }
        _ if packs => {
            unary(target, form.source(1)?, move |a| convert::convert_packed(conversion, a))
        }
        // The conversions of index arithmetic, which every kernel is full of.
        (Type::U64 | Type::S64, Type::U32) if plain => {
            unary(target, form.source(1)?, |a: u32| u64::from(a))
        }
        (Type::S64, Type::S32) if plain => unary(target, form.source(1)?, |a: i32| i64::from(a)),
        (Type::U32 | Type::S32, Type::U64 | Type::S64) if plain => {
            unary(target, form.source(1)?, |a: u64| a as u32)
        }
        (Type::F64, Type::F32) if plain => unary(target, form.source(1)?, |a: u32| {
            convert::convert(Conversion::plain(Type::F64, Type::F32, None), u64::from(a))
        }),
        _ => unary(target, form.source(1)?, move |a| convert::convert(conversion, a)),
    })
}

fn pack(form: &mut Form<'_, '_>) -> Result<Compute, Refusal> {
    form.takes("sat");
    let to = form.find(|m| matches!(m, "u2" | "s2" | "u4" | "s4").then(|| m.to_string()));
    let (signed, bits) = match to.as_deref() {
        Some(small) => (small.starts_with('s'), if small.ends_with('2') { 2 } else { 4 }),
        None => {
            let kind = form.kind()?;
            (kind.is_signed(), 8 * kind.bytes() as u32)
        }
    };
    if form.find(fundamental) != Some(Type::S32) {
        return Err(Refusal::Unknown);
    }
    form.takes("b32");
    let third = if form.operands.len() > 3 { form.source(3)? } else { Source::Constant(0) };
    let sources = [form.source(1)?, form.source(2)?, third, Source::Constant(0)];
    Ok(quaternary(form.target(0)?, sources, move |[a, b, c, _]| {
        u64::from(convert::pack(signed, bits, a as u32, b as u32, c as u32))
    }))
}
