//! Plans of `precision.cast`.

use touchstone_reference::{
    Case, DType, Tensors,
    precision::{
        cast::{Params, Values},
        format::{Format, Rounding},
    },
};

use super::threads;
use crate::{
    plan::{Arg, Plan},
    variant::Unsupported,
};

/// A format as the kernels number it.
fn number(format: Format) -> i32 {
    match format {
        Format::F64 => 0,
        Format::F32 => 1,
        Format::Tf32 => 2,
        Format::F16 => 3,
        Format::Bf16 => 4,
        Format::E4m3 => 5,
        Format::E5m2 => 6,
    }
}

/// Parameters, plan, and the arguments every kernel begins with: input, random bits, output, count.
fn start(case: &Case, inputs: &Tensors) -> Result<(Params, Plan, Vec<Arg>), Unsupported> {
    let p: Params = case.params()?;
    let mut plan = Plan::new();
    let input = plan.input(inputs, "input");
    let u = inputs.get("u").map(|_| plan.input(inputs, "u"));
    let dtype = p.to.dtype();
    let output = match p.values {
        Values::Special => plan.output("bits", DType::U8, &[p.elements, dtype.bytes()]),
        _ => plan.output("output", dtype, &[p.elements]),
    };
    let args = vec![input.into(), u.into(), output.into(), p.elements.into()];
    Ok((p, plan, args))
}

pub(super) fn naive(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let (p, mut plan, mut args) = start(case, inputs)?;
    let rest = [number(p.from), number(p.to), i32::from(p.saturate)];
    args.extend(rest.map(Arg::I32));
    let (grid, block) = threads(p.elements);
    plan.launch("precision_cast_naive", "cast", grid, block, 0, &args);
    Ok(plan)
}

/// Largest finite code of a format below 32 bits: its bits without the sign, tf32's moved to the bottom.
fn largest(format: Format) -> u32 {
    match format {
        Format::Tf32 => 0x3_fbff,
        Format::F16 => 0x7bff,
        Format::Bf16 => 0x7f7f,
        Format::E4m3 => 0x7e,
        Format::E5m2 => 0x7b,
        // What is widened is not rounded, so this is not asked.
        Format::F32 | Format::F64 => 0,
    }
}

/// Refuses what would have to turn infinities of a narrow format into the largest finite f32.
fn widened_as_they_are(p: &Params) -> Result<(), Unsupported> {
    let has_infinity = matches!(p.from, Format::F16 | Format::Bf16 | Format::E5m2);
    match p.saturate && p.to == Format::F32 && has_infinity {
        true => Err(Unsupported("an infinity saturates when widened: the naive variant's".into())),
        false => Ok(()),
    }
}

pub(super) fn vectorized(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let (p, mut plan, mut args) = start(case, inputs)?;
    widened_as_they_are(&p)?;
    let wide = |format| matches!(format, Format::F32 | Format::Tf32);
    let (from, to) = (p.from.dtype().bytes(), p.to.dtype().bytes());
    let symbol = match (p.from, p.to) {
        (Format::F64, _) | (_, Format::F64) => Err("f64"),
        (_, Format::F32) if from < 4 => Ok(format!("widen_{from}_4")),
        (from, Format::F16 | Format::Bf16) if wide(from) && p.rounding == Rounding::NearestEven => {
            Ok("nearest_4_2".into())
        }
        (from, target) if wide(from) && target != Format::F32 => Ok(format!("round_4_{to}")),
        _ => Err("casts between narrow formats, or that change nothing"),
    };
    let symbol = symbol.map_err(|what| Unsupported(format!("{what}: the naive variant's")))?;
    // A format below f32 has so many bits beside the sign.
    let bits = if p.to == Format::Tf32 { 18 } else { 8 * to as u32 - 1 };
    let max = largest(p.to);
    args.extend([
        Arg::I32(number(p.from)),
        Arg::I32(number(p.to)),
        Arg::I32(p.to.mantissa_bits()),
        Arg::I32(p.to.min_exponent()),
        Arg::I32(if p.to == Format::Tf32 { 13 } else { 0 }),
        Arg::U32(max),
        Arg::U32(if p.saturate { max } else { max + 1 }),
        Arg::U32((1 << bits) - 1),
        Arg::U32(if p.rounding == Rounding::Stochastic { u32::MAX } else { 0 }),
    ]);
    let (grid, block) = threads(p.elements.div_ceil(4));
    plan.launch("precision_cast_vectorized", symbol, grid, block, 0, &args);
    Ok(plan)
}

pub(super) fn specialized(case: &Case, inputs: &Tensors) -> Result<Plan, Unsupported> {
    let (p, mut plan, args) = start(case, inputs)?;
    widened_as_they_are(&p)?;
    let stochastic = p.rounding == Rounding::Stochastic;
    // Words of four numbers that a thread takes, as in the kernel.
    let (symbol, words) = match (p.from, p.to) {
        (Format::F32, Format::Tf32 | Format::Bf16) if stochastic => {
            (format!("to_{}_stochastic", p.to.name()), 1)
        }
        _ if stochastic => {
            return Err(Unsupported(
                "random bits into this format: the vectorized variant's".into(),
            ));
        }
        (Format::F32, Format::Tf32 | Format::F16 | Format::Bf16) => {
            (format!("to_{}", p.to.name()), 1)
        }
        (Format::F32, Format::E4m3 | Format::E5m2) => (format!("to_{}", p.to.name()), 4),
        (Format::F16 | Format::Bf16, Format::F32) => (format!("to_f32_from_{}", p.from.name()), 1),
        _ => return Err(Unsupported("other pairs of formats: the vectorized variant's".into())),
    };
    let max = largest(p.to);
    let beyond = match p.to {
        // The hardware rounds; what bounds it is an f32.
        Format::F16 | Format::Bf16 if !stochastic => {
            (if p.saturate { p.to.max() as f32 } else { f32::INFINITY }).to_bits()
        }
        _ if p.saturate => max,
        _ => max + 1,
    };
    let [input, u, output, count] = args[..] else { unreachable!("what every kernel begins with") };
    let args = [input, u, output, count, Arg::U32(beyond)];
    let grid = [p.elements.div_ceil(4 * 256 * words), 1, 1];
    plan.launch("precision_cast_specialized", symbol, grid, [256, 1, 1], 0, &args);
    Ok(plan)
}
