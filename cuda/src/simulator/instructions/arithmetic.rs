//! Arithmetic whose opcode is shared by integers and floats (chapters 9.7.1, 9.7.3 and 9.7.4).

use super::{
    Decoded, Decoding, Form, Refusal,
    compute::{Compute, binary, ternary, unary},
    integer,
};
use crate::simulator::{
    monitor::Class,
    numeric::{
        Modes, approx,
        float32::{self, Extremum, Property},
        float64,
        half::{self, Half},
    },
    types::Type,
};

/// Decodes by the instruction's type.
pub fn decode(form: &mut Form<'_, '_>) -> Decoding {
    match form.kind()? {
        Type::F32 => float(form),
        Type::F64 => Ok(Decoded::compute(double(form)?, Class::Float64)),
        kind @ (Type::F16 | Type::Bf16) => halves(form, kind, false),
        Type::F16x2 => halves(form, Type::F16, true),
        Type::Bf16x2 => halves(form, Type::Bf16, true),
        kind => integer::arithmetic(form, kind),
    }
}

fn extremum(form: &mut Form<'_, '_>) -> Extremum {
    Extremum {
        largest: form.head == "max",
        nan: form.takes("NaN"),
        xorsign_abs: form.takes("xorsign") && form.takes("abs"),
        ftz: form.takes("ftz"),
    }
}

fn property(form: &mut Form<'_, '_>) -> Result<Property, Refusal> {
    form.one_of(&[
        ("finite", Property::Finite),
        ("infinite", Property::Infinite),
        ("number", Property::Number),
        ("notanumber", Property::NotANumber),
        ("normal", Property::Normal),
        ("subnormal", Property::Subnormal),
    ])
    .ok_or(Refusal::Unknown)
}

/// A binary operation whose commonest modes get a loop of their own, which the compiler can vectorize.
macro_rules! moded {
    ($arity:ident, $target:expr, $sources:expr, $modes:expr, $f:path, $($x:ident),+) => {
        if $modes == Modes::PLAIN {
            $arity($target, $sources, |$($x: u32),+| $f($($x),+, Modes::PLAIN))
        } else {
            let modes = $modes;
            $arity($target, $sources, move |$($x: u32),+| $f($($x),+, modes))
        }
    };
}

fn float(form: &mut Form<'_, '_>) -> Decoding {
    let full = form.takes("full");
    if matches!(form.head, "rsqrt" | "sin" | "cos" | "lg2" | "ex2" | "tanh")
        || form.head != "fma" && (full || form.takes("approx"))
    {
        return Ok(Decoded::compute(approximate(form, full)?, Class::Special));
    }
    let target = form.target(0)?;
    let compute = match form.head {
        "min" | "max" => {
            let modes = extremum(form);
            let plain = |largest| Extremum { largest, ..Extremum::default() };
            if modes == plain(true) {
                binary(target, form.sources(1)?, move |a, b| float32::extremum(a, b, plain(true)))
            } else {
                binary(target, form.sources(1)?, move |a, b| float32::extremum(a, b, modes))
            }
        }
        "abs" => {
            let ftz = form.takes("ftz");
            unary(target, form.source(1)?, move |a: u32| float32::abs(a, ftz))
        }
        "neg" => {
            let ftz = form.takes("ftz");
            unary(target, form.source(1)?, move |a: u32| float32::neg(a, ftz))
        }
        "copysign" => binary(target, form.sources(1)?, float32::copysign),
        "testp" => {
            let property = property(form)?;
            unary(target, form.source(1)?, move |a| float32::testp(property, a))
        }
        head => {
            let modes = form.modes();
            match head {
                "add" => moded!(binary, target, form.sources(1)?, modes, float32::add, a, b),
                "sub" => moded!(binary, target, form.sources(1)?, modes, float32::sub, a, b),
                "mul" => moded!(binary, target, form.sources(1)?, modes, float32::mul, a, b),
                "fma" | "mad" => {
                    moded!(ternary, target, form.sources(1)?, modes, float32::fma, a, b, c)
                }
                "div" => moded!(binary, target, form.sources(1)?, modes, float32::div, a, b),
                "rcp" => moded!(unary, target, form.source(1)?, modes, float32::rcp, a),
                "sqrt" => moded!(unary, target, form.source(1)?, modes, float32::sqrt, a),
                _ => return Err(Refusal::Unknown),
            }
        }
    };
    Ok(Decoded::compute(compute, Class::Float32))
}

/// The approximate forms of `.f32`.
fn approximate(form: &mut Form<'_, '_>, full: bool) -> Result<Compute, Refusal> {
    form.takes("approx");
    let ftz = form.takes("ftz");
    let target = form.target(0)?;
    if form.head == "div" {
        let sources = form.sources(1)?;
        return Ok(match full {
            true => binary(target, sources, move |a, b| approx::div_full(a, b, ftz)),
            false => binary(target, sources, move |a, b| approx::div(a, b, ftz)),
        });
    }
    let source = form.source(1)?;
    Ok(match form.head {
        "rcp" => unary(target, source, move |a| approx::rcp(a, ftz)),
        "sqrt" => unary(target, source, move |a| approx::sqrt(a, ftz)),
        "rsqrt" => unary(target, source, move |a| approx::rsqrt(a, ftz)),
        "sin" => unary(target, source, move |a| approx::sin(a, ftz)),
        "cos" => unary(target, source, move |a| approx::cos(a, ftz)),
        "lg2" => unary(target, source, move |a| approx::lg2(a, ftz)),
        "ex2" => unary(target, source, move |a| approx::ex2(a, ftz)),
        "tanh" => unary(target, source, approx::tanh),
        _ => return Err(Refusal::Unknown),
    })
}

fn double(form: &mut Form<'_, '_>) -> Result<Compute, Refusal> {
    let target = form.target(0)?;
    let approximate = form.takes("approx");
    if approximate {
        form.takes("ftz");
    }
    let rounding = form.rounding().unwrap_or_default();
    Ok(match form.head {
        "rcp" if approximate => unary(target, form.source(1)?, approx::rcp_f64),
        "rsqrt" if approximate => unary(target, form.source(1)?, approx::rsqrt_f64),
        _ if approximate => return Err(Refusal::Unknown),
        "add" => binary(target, form.sources(1)?, move |a, b| float64::add(a, b, rounding)),
        "sub" => binary(target, form.sources(1)?, move |a, b| float64::sub(a, b, rounding)),
        "mul" => binary(target, form.sources(1)?, move |a, b| float64::mul(a, b, rounding)),
        "fma" | "mad" => {
            ternary(target, form.sources(1)?, move |a, b, c| float64::fma(a, b, c, rounding))
        }
        "div" => binary(target, form.sources(1)?, move |a, b| float64::div(a, b, rounding)),
        "rcp" => unary(target, form.source(1)?, move |a| float64::rcp(a, rounding)),
        "sqrt" => unary(target, form.source(1)?, move |a| float64::sqrt(a, rounding)),
        "min" => binary(target, form.sources(1)?, float64::min),
        "max" => binary(target, form.sources(1)?, float64::max),
        "abs" => unary(target, form.source(1)?, float64::abs),
        "neg" => unary(target, form.source(1)?, float64::neg),
        "copysign" => binary(target, form.sources(1)?, float64::copysign),
        "testp" => {
            let property = property(form)?;
            unary(target, form.source(1)?, move |a| float64::testp(property, a))
        }
        _ => return Err(Refusal::Unknown),
    })
}

/// `.f16`, `.bf16` and their packed forms.
fn halves(form: &mut Form<'_, '_>, kind: Type, packed: bool) -> Decoding {
    let half = if kind == Type::F16 { Half::F16 } else { Half::Bf16 };
    let target = form.target(0)?;
    let compute = match form.head {
        "min" | "max" => {
            let modes = extremum(form);
            two(form, packed, move |a, b| half::extremum(half, a, b, modes))?
        }
        "abs" | "neg" => {
            let ftz = form.takes("ftz");
            match form.head {
                "abs" => one(form, packed, move |a| half::abs(half, a, ftz))?,
                _ => one(form, packed, move |a| half::neg(half, a, ftz))?,
            }
        }
        "ex2" => {
            form.takes("approx");
            let ftz = form.takes("ftz");
            one(form, packed, move |a| half::ex2(half, a, ftz))?
        }
        "tanh" => {
            form.takes("approx");
            one(form, packed, move |a| half::tanh(half, a))?
        }
        head => {
            let modes = form.modes();
            match head {
                "add" => two(form, packed, move |a, b| half::add(half, a, b, modes))?,
                "sub" => two(form, packed, move |a, b| half::sub(half, a, b, modes))?,
                "mul" => two(form, packed, move |a, b| half::mul(half, a, b, modes))?,
                "fma" => {
                    let sources = form.sources(1)?;
                    let f = move |a, b, c| half::fma(half, a, b, c, modes);
                    match packed {
                        true => ternary(target, sources, move |a, b, c| half::packed3(a, b, c, f)),
                        false => ternary(target, sources, f),
                    }
                }
                _ => return Err(Refusal::Unknown),
            }
        }
    };
    let class = if matches!(form.head, "ex2" | "tanh") { Class::Special } else { Class::Half };
    Ok(Decoded::compute(compute, class))
}

fn one(
    form: &Form<'_, '_>,
    packed: bool,
    f: impl Fn(u16) -> u16 + Copy + Send + Sync + 'static,
) -> Result<Compute, Refusal> {
    let (target, source) = (form.target(0)?, form.source(1)?);
    Ok(match packed {
        true => unary(target, source, move |a| half::packed1(a, f)),
        false => unary(target, source, f),
    })
}

fn two(
    form: &Form<'_, '_>,
    packed: bool,
    f: impl Fn(u16, u16) -> u16 + Copy + Send + Sync + 'static,
) -> Result<Compute, Refusal> {
    let (target, sources) = (form.target(0)?, form.sources(1)?);
    Ok(match packed {
        true => binary(target, sources, move |a, b| half::packed2(a, b, f)),
        false => binary(target, sources, f),
    })
}
