//! Floating-point instructions of 32, 64 and 16 bits, and the approximate ones.

use touchstone_cuda::simulator::{
    numeric::{
        Modes,
        approx::{self, Function},
        compare::{self, Comparison},
        float32::{self, Extremum, Property},
        float64,
        half::{self, Half},
    },
    types::{Rounding, Type},
};

use super::family::{Agreement, Family, Instruction, Words, op, triples};

pub const EDGES_F32: [u64; 22] = [
    0x0000_0000,
    0x8000_0000, // zeros
    0x0000_0001,
    0x8000_0001,
    0x007f_ffff,
    0x807f_ffff, // subnormals
    0x0080_0000,
    0x8080_0001, // least normal numbers
    0x3f80_0000,
    0xbf80_0000,
    0x3f80_0001,
    0x3f7f_ffff, // about one
    0x4b00_0001,
    0xcb80_0000,
    0x3340_0000,
    0x2000_0001, // large and small
    0x7f7f_ffff,
    0xff7f_ffff, // the largest
    0x7f80_0000,
    0xff80_0000, // infinities
    0x7fc0_0000,
    0xff80_0001, // NaNs, quiet and signalling
];

const EDGES_F64: [u64; 17] = [
    0,
    1 << 63,
    1,
    0x800f_ffff_ffff_ffff,
    0x0010_0000_0000_0000,
    0x8010_0000_0000_0001,
    0x3ff0_0000_0000_0000,
    0xbff0_0000_0000_0000,
    0x3ff0_0000_0000_0001,
    0x3fef_ffff_ffff_ffff,
    0xc340_0000_0000_0001,
    0x3ca0_0000_0000_0001,
    0x7fef_ffff_ffff_ffff,
    0x7ff0_0000_0000_0000,
    0xfff0_0000_0000_0000,
    0x7ff8_0000_0000_1234,
    0xfff0_0000_0000_0001,
];

const ANY_NAN_32: Agreement = Agreement::AnyNan { bits: 32, exponent_bits: 8 };
const ROUNDINGS: [(Rounding, &str); 4] = [
    (Rounding::Nearest, ".rn"),
    (Rounding::Zero, ".rz"),
    (Rounding::Down, ".rm"),
    (Rounding::Up, ".rp"),
];
const FLOAT_COMPARISONS: [&str; 14] =
    ["eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"];

/// Random numbers whose exponents are near enough to interact; some share an exponent.
pub fn draw_f32(words: &mut Words) -> u64 {
    let bits = words.next();
    let exponent = match bits >> 60 {
        0..4 => 127,
        4..10 => 115 + (bits >> 40) % 25,
        10..14 => 60 + (bits >> 40) % 130,
        _ => (bits >> 40) % 255,
    };
    (bits & 0x807f_ffff) | exponent << 23
}

fn draw_f64(words: &mut Words) -> u64 {
    let bits = words.next();
    let exponent = match bits & 3 {
        0 => 1023,
        1 | 2 => 990 + (bits >> 2) % 60,
        _ => (bits >> 2) % 2047,
    };
    (words.next() & !(0x7ff << 52)) | exponent << 52
}

fn arithmetic_f32() -> Vec<Instruction> {
    let mut all = vec![];
    for (rounding, r) in ROUNDINGS {
        for (ftz, saturate, suffix) in [
            (false, false, ""),
            (true, false, ".ftz"),
            (false, true, ".sat"),
            (true, true, ".ftz.sat"),
        ] {
            let modes = Modes { rounding, ftz, saturate, relu: false };
            let two = |name: &str| format!("{name}{r}{suffix}.f32 %wd, %wa, %wb;");
            all.push(op(two("add"), move |a, b, _| float32::add(a as u32, b as u32, modes).into()));
            all.push(op(two("mul"), move |a, b, _| float32::mul(a as u32, b as u32, modes).into()));
            all.push(op(format!("fma{r}{suffix}.f32 %wd, %wa, %wb, %wc;"), move |a, b, c| {
                float32::fma(a as u32, b as u32, c as u32, modes).into()
            }));
            if saturate {
                continue;
            }
            let one = |name: &str| format!("{name}{r}{suffix}.f32 %wd, %wa;");
            all.push(op(two("sub"), move |a, b, _| float32::sub(a as u32, b as u32, modes).into()));
            all.push(op(two("div"), move |a, b, _| float32::div(a as u32, b as u32, modes).into()));
            all.push(op(one("rcp"), move |a, _, _| float32::rcp(a as u32, modes).into()));
            all.push(op(one("sqrt"), move |a, _, _| float32::sqrt(a as u32, modes).into()));
        }
    }
    all
}

fn comparisons_f32() -> Vec<Instruction> {
    let mut all = vec![];
    for (ftz, suffix) in [(false, ""), (true, ".ftz")] {
        for name in FLOAT_COMPARISONS {
            let comparison = Comparison::parse(name).expect("a comparison");
            all.push(op(format!("setp.{name}{suffix}.f32 %pd, %wa, %wb;"), move |a, b, _| {
                compare::compare(comparison, Type::F32, ftz, a, b).into()
            }));
        }
        for (largest, name) in [(false, "min"), (true, "max")] {
            for (nan, xorsign_abs, more) in [
                (false, false, ""),
                (true, false, ".NaN"),
                (false, true, ".xorsign.abs"),
                (true, true, ".NaN.xorsign.abs"),
            ] {
                if xorsign_abs {
                    continue; // sm_86; the family 'half90' has it
                }
                let modes = Extremum { largest, nan, xorsign_abs, ftz };
                all.push(op(format!("{name}{suffix}{more}.f32 %wd, %wa, %wb;"), move |a, b, _| {
                    float32::extremum(a as u32, b as u32, modes).into()
                }));
            }
        }
        all.push(
            op(format!("abs{suffix}.f32 %wd, %wa;"), move |a, _, _| {
                float32::abs(a as u32, ftz).into()
            })
            .within(ANY_NAN_32),
        );
        all.push(
            op(format!("neg{suffix}.f32 %wd, %wa;"), move |a, _, _| {
                float32::neg(a as u32, ftz).into()
            })
            .within(ANY_NAN_32),
        );
        all.push(op(format!("set.ltu{suffix}.u32.f32 %wd, %wa, %wb;"), move |a, b, _| {
            compare::set_value(Type::U32, compare::compare(Comparison::Ltu, Type::F32, ftz, a, b))
        }));
        all.push(op(format!("set.gt{suffix}.f32.f32 %wd, %wa, %wb;"), move |a, b, _| {
            compare::set_value(Type::F32, compare::compare(Comparison::Gt, Type::F32, ftz, a, b))
        }));
    }
    all.push(op("copysign.f32 %wd, %wa, %wb;", |a, b, _| {
        float32::copysign(a as u32, b as u32).into()
    }));
    let properties = [
        (Property::Finite, "finite"),
        (Property::Infinite, "infinite"),
        (Property::Number, "number"),
        (Property::NotANumber, "notanumber"),
        (Property::Normal, "normal"),
        (Property::Subnormal, "subnormal"),
    ];
    for (property, name) in properties {
        all.push(op(format!("testp.{name}.f32 %pd, %wa;"), move |a, _, _| {
            float32::testp(property, a as u32).into()
        }));
        all.push(op(format!("testp.{name}.f64 %pd, %la;"), move |a, _, _| {
            float64::testp(property, a).into()
        }));
    }
    all
}

fn all_f64() -> Vec<Instruction> {
    let any_nan = Agreement::AnyNan { bits: 64, exponent_bits: 11 };
    let mut all = vec![];
    for (rounding, r) in ROUNDINGS {
        let two = |name: &str| format!("{name}{r}.f64 %ld, %la, %lb;");
        let one = |name: &str| format!("{name}{r}.f64 %ld, %la;");
        all.push(op(two("add"), move |a, b, _| float64::add(a, b, rounding)));
        all.push(op(two("sub"), move |a, b, _| float64::sub(a, b, rounding)));
        all.push(op(two("mul"), move |a, b, _| float64::mul(a, b, rounding)));
        all.push(op(two("div"), move |a, b, _| float64::div(a, b, rounding)));
        all.push(op(format!("fma{r}.f64 %ld, %la, %lb, %lc;"), move |a, b, c| {
            float64::fma(a, b, c, rounding)
        }));
        all.push(op(one("rcp"), move |a, _, _| float64::rcp(a, rounding)));
        all.push(op(one("sqrt"), move |a, _, _| float64::sqrt(a, rounding)));
    }
    all.push(op("min.f64 %ld, %la, %lb;", |a, b, _| float64::min(a, b)));
    all.push(op("max.f64 %ld, %la, %lb;", |a, b, _| float64::max(a, b)));
    all.push(op("abs.f64 %ld, %la;", |a, _, _| float64::abs(a)));
    all.push(op("neg.f64 %ld, %la;", |a, _, _| float64::neg(a)));
    all.push(op("copysign.f64 %ld, %la, %lb;", |a, b, _| float64::copysign(a, b)));
    let mut all: Vec<_> = all.into_iter().map(|op| op.within(any_nan)).collect();
    for name in FLOAT_COMPARISONS {
        let comparison = Comparison::parse(name).expect("a comparison");
        all.push(op(format!("setp.{name}.f64 %pd, %la, %lb;"), move |a, b, _| {
            compare::compare(comparison, Type::F64, false, a, b).into()
        }));
    }
    all.push(
        op("rcp.approx.ftz.f64 %ld, %la;", |a, _, _| approx::rcp_f64(a))
            .within(Agreement::Approx(Function::RcpF64)),
    );
    all.push(
        op("rsqrt.approx.ftz.f64 %ld, %la;", |a, _, _| approx::rsqrt_f64(a))
            .within(Agreement::Approx(Function::RsqrtF64)),
    );
    all
}

type Binary = fn(Half, u16, u16, Modes) -> u16;

fn halves(kind: Half, sm_90: bool) -> Vec<Instruction> {
    let t = if kind == Half::F16 { "f16" } else { "bf16" };
    let f16 = kind == Half::F16;
    let mut all = vec![];
    let binaries: [(&str, Binary); 3] =
        [("add", half::add), ("sub", half::sub), ("mul", half::mul)];
    // bf16 has these only from sm_90 on, and never with modifiers.
    let variants: &[(bool, bool, &str)] = match (f16, sm_90) {
        (true, false) => &[
            (false, false, ""),
            (true, false, ".ftz"),
            (false, true, ".sat"),
            (true, true, ".ftz.sat"),
        ],
        (false, true) => &[(false, false, "")],
        _ => &[],
    };
    for (name, f) in binaries {
        for (ftz, saturate, suffix) in variants.iter().copied() {
            let modes = Modes { ftz, saturate, ..Modes::PLAIN };
            all.push(op(format!("{name}.rn{suffix}.{t} %hd, %ha, %hb;"), move |a, b, _| {
                f(kind, a as u16, b as u16, modes).into()
            }));
            all.push(op(format!("{name}.rn{suffix}.{t}x2 %wd, %wa, %wb;"), move |a, b, _| {
                half::packed2(a as u32, b as u32, |a, b| f(kind, a, b, modes)).into()
            }));
        }
    }
    if sm_90 {
        return all;
    }
    for (ftz, saturate, relu, suffix) in [
        (false, false, false, ""),
        (true, false, false, ".ftz"),
        (false, true, false, ".sat"),
        (false, false, true, ".relu"),
        (true, false, true, ".ftz.relu"),
    ] {
        if !f16 && (ftz || saturate) {
            continue;
        }
        let modes = Modes { ftz, saturate, relu, ..Modes::PLAIN };
        all.push(op(format!("fma.rn{suffix}.{t} %hd, %ha, %hb, %hc;"), move |a, b, c| {
            half::fma(kind, a as u16, b as u16, c as u16, modes).into()
        }));
        all.push(op(format!("fma.rn{suffix}.{t}x2 %wd, %wa, %wb, %wc;"), move |a, b, c| {
            half::packed3(a as u32, b as u32, c as u32, |a, b, c| half::fma(kind, a, b, c, modes))
                .into()
        }));
    }
    for (largest, name) in [(false, "min"), (true, "max")] {
        for (nan, ftz, suffix) in [(false, false, ""), (true, false, ".NaN"), (false, true, ".ftz")]
        {
            if !f16 && ftz {
                continue;
            }
            let modes = Extremum { largest, nan, ftz, xorsign_abs: false };
            all.push(op(format!("{name}{suffix}.{t} %hd, %ha, %hb;"), move |a, b, _| {
                half::extremum(kind, a as u16, b as u16, modes).into()
            }));
            all.push(op(format!("{name}{suffix}.{t}x2 %wd, %wa, %wb;"), move |a, b, _| {
                half::packed2(a as u32, b as u32, |a, b| half::extremum(kind, a, b, modes)).into()
            }));
        }
    }
    let exponent_bits = if f16 { 5 } else { 8 };
    let any_nan = Agreement::AnyNan { bits: 16, exponent_bits };
    all.push(
        op(format!("neg.{t} %hd, %ha;"), move |a, _, _| half::neg(kind, a as u16, false).into())
            .within(any_nan),
    );
    all.push(
        op(format!("abs.{t} %hd, %ha;"), move |a, _, _| half::abs(kind, a as u16, false).into())
            .within(any_nan),
    );
    if f16 {
        for name in FLOAT_COMPARISONS {
            let comparison = Comparison::parse(name).expect("a comparison");
            all.push(op(format!("setp.{name}.{t} %pd, %ha, %hb;"), move |a, b, _| {
                compare::compare(comparison, Type::F16, false, a, b).into()
            }));
        }
        all.push(
            op("ex2.approx.f16 %hd, %ha;", |a, _, _| half::ex2(Half::F16, a as u16, false).into())
                .within(Agreement::Approx(Function::Ex2F16)),
        );
        all.push(
            op("tanh.approx.f16 %hd, %ha;", |a, _, _| half::tanh(Half::F16, a as u16).into())
                .within(Agreement::Approx(Function::TanhF16)),
        );
    }
    all
}

fn only_sm_90() -> Vec<Instruction> {
    let mut all = halves(Half::Bf16, true);
    for (largest, name) in [(false, "min"), (true, "max")] {
        for (nan, more) in [(false, ".xorsign.abs"), (true, ".NaN.xorsign.abs")] {
            let modes = Extremum { largest, nan, xorsign_abs: true, ftz: false };
            all.push(op(format!("{name}{more}.f32 %wd, %wa, %wb;"), move |a, b, _| {
                float32::extremum(a as u32, b as u32, modes).into()
            }));
            all.push(op(format!("{name}{more}.f16 %hd, %ha, %hb;"), move |a, b, _| {
                half::extremum(Half::F16, a as u16, b as u16, modes).into()
            }));
            all.push(op(format!("{name}{more}.bf16 %hd, %ha, %hb;"), move |a, b, _| {
                half::extremum(Half::Bf16, a as u16, b as u16, modes).into()
            }));
        }
    }
    for name in FLOAT_COMPARISONS {
        let comparison = Comparison::parse(name).expect("a comparison");
        all.push(op(format!("setp.{name}.bf16 %pd, %ha, %hb;"), move |a, b, _| {
            compare::compare(comparison, Type::Bf16, false, a, b).into()
        }));
    }
    all.push(
        op("ex2.approx.ftz.bf16 %hd, %ha;", |a, _, _| half::ex2(Half::Bf16, a as u16, true).into())
            .within(Agreement::Approx(Function::Ex2Bf16)),
    );
    all.push(
        op("tanh.approx.bf16 %hd, %ha;", |a, _, _| half::tanh(Half::Bf16, a as u16).into())
            .within(Agreement::Approx(Function::TanhBf16)),
    );
    all
}

type Unary = fn(u32, bool) -> u32;

fn approximate() -> Vec<Instruction> {
    let unary: [(&str, Function, Unary); 7] = [
        ("ex2", Function::Ex2, approx::ex2),
        ("lg2", Function::Lg2, approx::lg2),
        ("rcp", Function::Rcp, approx::rcp),
        ("rsqrt", Function::Rsqrt, approx::rsqrt),
        ("sqrt", Function::Sqrt, approx::sqrt),
        ("sin", Function::Sin, approx::sin),
        ("cos", Function::Cos, approx::cos),
    ];
    let mut all = vec![
        op("tanh.approx.f32 %wd, %wa;", |a, _, _| approx::tanh(a as u32).into())
            .within(Agreement::Approx(Function::Tanh)),
    ];
    for (ftz, suffix) in [(false, ""), (true, ".ftz")] {
        for (name, function, f) in unary {
            all.push(
                op(format!("{name}.approx{suffix}.f32 %wd, %wa;"), move |a, _, _| {
                    f(a as u32, ftz).into()
                })
                .within(Agreement::Approx(function)),
            );
        }
        all.push(
            op(format!("div.approx{suffix}.f32 %wd, %wa, %wb;"), move |a, b, _| {
                approx::div(a as u32, b as u32, ftz).into()
            })
            .within(Agreement::Approx(Function::Div)),
        );
        all.push(
            op(format!("div.full{suffix}.f32 %wd, %wa, %wb;"), move |a, b, _| {
                approx::div_full(a as u32, b as u32, ftz).into()
            })
            .within(Agreement::Approx(Function::DivFull)),
        );
    }
    all
}

pub fn families() -> Vec<Family> {
    let f32s = |edges: &[u64], random, seed| triples(edges, random, seed, draw_f32);
    let f16_edges = [
        0, 0x8000, 1, 0x83ff, 0x0400, 0x8401, 0x3c00, 0xbc00, 0x3c01, 0x3bff, 0x6401, 0x7bff,
        0xfbff, 0x7c00, 0xfc00, 0x7e00, 0xfd55,
    ];
    let bf16_edges = [
        0, 0x8000, 1, 0x807f, 0x0080, 0x8081, 0x3f80, 0xbf80, 0x3f81, 0x3f7f, 0x4301, 0x7f7f,
        0xff7f, 0x7f80, 0xff80, 0x7fc0, 0xffa5,
    ];
    // The upper half of a word repeats an edge too, so that packed forms see two different elements.
    let paired = |edges: &[u64], seed, field: u64, shift: u32| {
        let mut words = Words(seed);
        let draw = move |words: &mut Words| {
            let bits = words.next();
            let exponent = (field / 2 - 6 + (bits >> 40) % 12) << shift;
            let mask = !(field << shift | (field << shift) << 16);
            (bits & mask & 0xffff_ffff) | exponent | exponent << 16
        };
        let mut all = triples(edges, 100, seed, draw);
        for triple in &mut all {
            for word in triple.iter_mut().filter(|word| **word <= 0xffff) {
                *word |= edges[words.below(edges.len() as u64) as usize] << 16;
            }
        }
        all
    };
    let family = |name, target, inputs, instructions| Family { name, target, inputs, instructions };
    let mut sweep = f32s(&EDGES_F32[..20], 0, 3);
    let mut words = Words(99);
    sweep.retain(|triple| triple[0] == triple[1] || words.below(4) == 0);
    // Arguments from -130 to 130, where these functions have their kernels' use, and all exponents.
    sweep.extend((0..320).map(|i| {
        let near = ((i as f32 - 160.0) * 0.812_5 + words.below(1000) as f32 * 1e-3).to_bits();
        [near.into(), draw_f32(&mut words), 0]
    }));
    sweep.extend(
        (0..128).map(|i| [(i << 24) | (words.next() & 0x7f_ffff), draw_f32(&mut words), 0]),
    );
    vec![
        family("float32", "sm_80", f32s(&EDGES_F32, 150, 1), arithmetic_f32()),
        family("compare32", "sm_80", f32s(&EDGES_F32, 20, 2), comparisons_f32()),
        family("float64", "sm_80", triples(&EDGES_F64, 80, 5, draw_f64), all_f64()),
        family("half", "sm_80", paired(&f16_edges, 6, 31, 10), halves(Half::F16, false)),
        family("bfloat", "sm_80", paired(&bf16_edges, 7, 255, 7), halves(Half::Bf16, false)),
        family("half90", "sm_90", paired(&bf16_edges, 8, 255, 7), only_sm_90()),
        family("approximate", "sm_80", sweep, approximate()),
    ]
}
