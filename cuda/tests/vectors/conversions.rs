//! `cvt` and `cvt.pack`.

use touchstone_cuda::simulator::{
    numeric::{
        convert::{self, Conversion},
        integer,
    },
    types::{Rounding, Type},
};

use super::{
    family::{Agreement, Family, Instruction, Words, op},
    floats::{EDGES_F32, draw_f32},
};

const INTEGERS: [(Type, &str, char); 8] = [
    (Type::S8, "s8", 'w'),
    (Type::U8, "u8", 'w'),
    (Type::S16, "s16", 'h'),
    (Type::U16, "u16", 'h'),
    (Type::S32, "s32", 'w'),
    (Type::U32, "u32", 'w'),
    (Type::S64, "s64", 'l'),
    (Type::U64, "u64", 'l'),
];
const ROUNDINGS: [(Rounding, &str); 4] = [
    (Rounding::Nearest, "rn"),
    (Rounding::Zero, "rz"),
    (Rounding::Down, "rm"),
    (Rounding::Up, "rp"),
];

/// `cvt.{modifiers}.{to}.{from}` on registers of these classes.
fn cvt(c: Conversion, modifiers: &str, to: (&str, char), from: (&str, char)) -> Instruction {
    let register = to.1;
    op(format!("cvt{modifiers}.{}.{} %{}d, %{}a;", to.0, from.0, to.1, from.1), move |a, _, _| {
        // A register may be wider than the type, which is then extended into it.
        let mask = match register {
            'h' => 0xffff,
            'w' => 0xffff_ffff,
            _ => u64::MAX,
        };
        convert::convert(c, a) & mask
    })
}

fn plain(to: Type, from: Type, rounding: Option<Rounding>) -> Conversion {
    Conversion::plain(to, from, rounding)
}

fn from_integers() -> Vec<Instruction> {
    let mut all = vec![];
    for (from, from_name, from_register) in INTEGERS {
        let from_register =
            if from_register == 'w' && from.bytes() == 1 { 'w' } else { from_register };
        let source = (from_name, from_register);
        for (to, to_name, to_register) in INTEGERS {
            if to == from {
                continue;
            }
            let target = (to_name, to_register);
            all.push(cvt(plain(to, from, None), "", target, source));
            // Where nothing can saturate PTX does not let one ask for it.
            let ((low, high), (least, most)) = (integer::range(to), integer::range(from));
            if least < low || most > high {
                let c = Conversion { saturate: true, ..plain(to, from, None) };
                all.push(cvt(c, ".sat", target, source));
            }
        }
        for (rounding, name) in ROUNDINGS {
            let modifiers = format!(".{name}");
            all.push(cvt(plain(Type::F32, from, Some(rounding)), &modifiers, ("f32", 'w'), source));
            all.push(cvt(plain(Type::F64, from, Some(rounding)), &modifiers, ("f64", 'l'), source));
            all.push(cvt(plain(Type::F16, from, Some(rounding)), &modifiers, ("f16", 'h'), source));
        }
    }
    for (signed, name, bits) in [(true, "s16", 16), (false, "u16", 16)] {
        all.push(op(format!("cvt.pack.sat.{name}.s32 %wd, %wa, %wb;"), move |a, b, _| {
            convert::pack(signed, bits, a as u32, b as u32, 0).into()
        }));
    }
    for (signed, name, bits) in [
        (true, "s8", 8),
        (false, "u8", 8),
        (true, "s4", 4),
        (false, "u4", 4),
        (true, "s2", 2),
        (false, "u2", 2),
    ] {
        all.push(op(format!("cvt.pack.sat.{name}.s32.b32 %wd, %wa, %wb, %wc;"), move |a, b, c| {
            convert::pack(signed, bits, a as u32, b as u32, c as u32).into()
        }));
    }
    all
}

/// To integers from a float of type `from`.
fn to_integers(from: Type, source: (&str, char)) -> Vec<Instruction> {
    let mut all = vec![];
    for (to, to_name, to_register) in INTEGERS {
        for (rounding, name) in ROUNDINGS {
            let target = (to_name, to_register);
            all.push(cvt(plain(to, from, Some(rounding)), &format!(".{name}i"), target, source));
            if from == Type::F32 && matches!(to, Type::S32 | Type::U64) {
                let c = Conversion { ftz: true, ..plain(to, from, Some(rounding)) };
                all.push(cvt(c, &format!(".{name}i.ftz"), target, source));
            }
        }
    }
    all
}

fn from_f32() -> Vec<Instruction> {
    use Type::{Bf16, Bf16x2, F16, F16x2, F32, F64, Tf32};
    let w = ("f32", 'w');
    let nearest = Some(Rounding::Nearest);
    let mut all = to_integers(F32, w);
    all.push(cvt(plain(F64, F32, None), "", ("f64", 'l'), w));
    all.push(cvt(Conversion { ftz: true, ..plain(F64, F32, None) }, ".ftz", ("f64", 'l'), w));
    all.push(cvt(Conversion { saturate: true, ..plain(F32, F32, None) }, ".sat", w, w));
    all.push(cvt(
        Conversion { saturate: true, ftz: true, ..plain(F32, F32, None) },
        ".ftz.sat",
        w,
        w,
    ));
    for (rounding, name) in ROUNDINGS {
        let c = plain(F32, F32, Some(rounding));
        all.push(cvt(c, &format!(".{name}i"), w, w));
        all.push(cvt(Conversion { ftz: true, ..c }, &format!(".{name}i.ftz"), w, w));
        all.push(cvt(Conversion { saturate: true, ..c }, &format!(".{name}i.sat"), w, w));
        all.push(cvt(plain(F16, F32, Some(rounding)), &format!(".{name}"), ("f16", 'h'), w));
    }
    let half = ("f16", 'h');
    let c = plain(F16, F32, nearest);
    all.push(cvt(Conversion { ftz: true, ..c }, ".rn.ftz", half, w));
    all.push(cvt(Conversion { saturate: true, ..c }, ".rn.sat", half, w));
    all.push(cvt(Conversion { relu: true, ..c }, ".rn.relu", half, w));
    let brain = ("bf16", 'h');
    let c = plain(Bf16, F32, nearest);
    all.push(cvt(c, ".rn", brain, w));
    all.push(cvt(plain(Bf16, F32, Some(Rounding::Zero)), ".rz", brain, w));
    all.push(cvt(Conversion { relu: true, ..c }, ".rn.relu", brain, w));
    let c = plain(Tf32, F32, Some(Rounding::NearestAway));
    // The low 13 bits of a tf32 are not defined.
    all.push(
        op("cvt.rna.tf32.f32 %wd, %wa;\nand.b32 %wd, %wd, 0xffffe000;", move |a, _, _| {
            convert::convert(c, a)
        })
        .within(Agreement::AnyNan { bits: 32, exponent_bits: 8 }),
    );
    for (to, name) in [(F16x2, "f16x2"), (Bf16x2, "bf16x2")] {
        for (rounding, relu, modifiers) in [
            (Rounding::Nearest, false, ".rn"),
            (Rounding::Zero, false, ".rz"),
            (Rounding::Nearest, true, ".rn.relu"),
        ] {
            let c = Conversion { relu, ..plain(to, F32, Some(rounding)) };
            all.push(op(format!("cvt{modifiers}.{name}.f32 %wd, %wa, %wb;"), move |a, b, _| {
                convert::convert_pair(c, a as u32, b as u32)
            }));
        }
    }
    all
}

fn from_f64() -> Vec<Instruction> {
    use Type::{F16, F32, F64};
    let l = ("f64", 'l');
    let mut all = to_integers(F64, l);
    for (rounding, name) in ROUNDINGS {
        let c = plain(F32, F64, Some(rounding));
        all.push(cvt(c, &format!(".{name}"), ("f32", 'w'), l));
        all.push(cvt(Conversion { ftz: true, ..c }, &format!(".{name}.ftz"), ("f32", 'w'), l));
        all.push(cvt(Conversion { saturate: true, ..c }, &format!(".{name}.sat"), ("f32", 'w'), l));
        all.push(cvt(plain(F16, F64, Some(rounding)), &format!(".{name}"), ("f16", 'h'), l));
        let integral = cvt(plain(F64, F64, Some(rounding)), &format!(".{name}i"), l, l);
        all.push(integral.within(Agreement::AnyNan { bits: 64, exponent_bits: 11 }));
    }
    all
}

fn from_halves() -> Vec<Instruction> {
    use Type::{Bf16, F16, F32, F64, S32, U16};
    let h = ("f16", 'h');
    let mut all = vec![
        cvt(plain(F32, F16, None), "", ("f32", 'w'), h),
        cvt(Conversion { saturate: true, ..plain(F32, F16, None) }, ".sat", ("f32", 'w'), h),
        cvt(plain(F64, F16, None), "", ("f64", 'l'), h),
        cvt(plain(F32, Bf16, None), "", ("f32", 'w'), ("bf16", 'h')),
    ];
    for (rounding, name) in ROUNDINGS {
        all.push(cvt(plain(S32, F16, Some(rounding)), &format!(".{name}i"), ("s32", 'w'), h));
        all.push(cvt(plain(U16, F16, Some(rounding)), &format!(".{name}i"), ("u16", 'h'), h));
        all.push(cvt(plain(F16, F16, Some(rounding)), &format!(".{name}i"), h, h));
    }
    all
}

/// Conversions that came with sm_89 and sm_90.
fn sm_90() -> Vec<Instruction> {
    use Type::{Bf16, E4m3x2, E5m2x2, F16, F16x2, F32, Tf32};
    let w = ("f32", 'w');
    let mut all = vec![];
    for (to, name) in [(E4m3x2, "e4m3x2"), (E5m2x2, "e5m2x2")] {
        for (relu, more) in [(false, ""), (true, ".relu")] {
            let c = Conversion {
                relu,
                saturate_finite: true,
                ..plain(to, F32, Some(Rounding::Nearest))
            };
            all.push(op(
                format!("cvt.rn.satfinite{more}.{name}.f32 %hd, %wa, %wb;"),
                move |a, b, _| convert::convert_pair(c, a as u32, b as u32),
            ));
            let c = Conversion { from: F16x2, ..c };
            all.push(op(
                format!("cvt.rn.satfinite{more}.{name}.f16x2 %hd, %wc;"),
                move |_, _, x| convert::convert_packed(c, x),
            ));
            let c = Conversion { relu, ..plain(F16x2, to, Some(Rounding::Nearest)) };
            all.push(op(format!("cvt.rn{more}.f16x2.{name} %wd, %hc;"), move |_, _, x| {
                convert::convert_packed(c, x)
            }));
        }
    }
    let any_nan = Agreement::AnyNan { bits: 32, exponent_bits: 8 };
    for (rounding, relu, modifiers) in [
        (Rounding::Nearest, false, ".rn"),
        (Rounding::Zero, false, ".rz"),
        (Rounding::Nearest, true, ".rn.relu"),
    ] {
        let c = Conversion { relu, ..plain(Tf32, F32, Some(rounding)) };
        all.push(
            op(
                format!("cvt{modifiers}.tf32.f32 %wd, %wa;\nand.b32 %wd, %wd, 0xffffe000;"),
                move |a, _, _| convert::convert(c, a),
            )
            .within(any_nan),
        );
    }
    for (from, name) in [(F16, "f16"), (Bf16, "bf16")] {
        for (rounding, r) in ROUNDINGS {
            if from == Bf16 {
                let c = plain(Type::S32, from, Some(rounding));
                all.push(cvt(c, &format!(".{r}i"), ("s32", 'w'), (name, 'h')));
                let c = plain(Bf16, Type::S32, Some(rounding));
                all.push(cvt(c, &format!(".{r}"), ("bf16", 'h'), ("s32", 'w')));
            }
        }
    }
    for (to, name) in [(F16, "f16"), (Bf16, "bf16")] {
        let c = Conversion { saturate_finite: true, ..plain(to, F32, Some(Rounding::Nearest)) };
        all.push(cvt(c, ".rn.satfinite", (name, 'h'), w));
    }
    all
}

pub fn families() -> Vec<Family> {
    let mut words = Words(77);
    let mut integers: Vec<u64> = vec![
        0,
        1,
        2,
        0x7e,
        0x7f,
        0x80,
        0x81,
        0xff,
        0x100,
        0x7ff,
        0x801,
        0x803,
        0x7fff,
        0x8000,
        0xffe0,
        0xfff0,
        0xffff,
        0x1_0000,
        0xff_ffff,
        0x100_0001,
        0x100_0003,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ff7f,
        0xffff_ffff,
        0x1_0000_0000,
        0x1f_ffff_ffff_ffff,
        0x20_0000_0000_0001,
        0x20_0000_0000_0003,
        0x7fff_ff80_0000_0000,
        0x7fff_ffff_ffff_fc00,
        0x7fff_ffff_ffff_ffff,
        1 << 63,
        0xffff_ff7f_ffff_ffff,
        u64::MAX - 1,
        u64::MAX,
    ];
    integers.extend((0..40).map(|i| words.next() >> (i % 40)));
    let mut singles: Vec<u64> = EDGES_F32.to_vec();
    // Ties and neighbours of integers, ends of ranges, and ties of the 16 and 8-bit formats.
    for value in [
        0.5_f32,
        1.5,
        2.5,
        -0.5,
        -1.5,
        0.499_999_97,
        126.5,
        127.5,
        128.0,
        255.5,
        -128.5,
        32767.5,
        65535.5,
        65504.0,
        65519.0,
        65520.0,
        2_147_483_520.0,
        2_147_483_648.0,
        4_294_967_040.0,
        4_294_967_296.0,
        9.223_372e18,
        1.844_674_4e19,
        -9.223_372e18,
        5.960_464_5e-8,
        2.980_232_2e-8,
        8.940_697e-8,
        6.1e-5,
        448.0,
        464.0,
        463.99,
        480.0,
        57344.0,
        61440.0,
        61439.0,
        0.001_953_125,
        0.000_976_562_5,
        0.002_929_687_5,
        0.015_625,
        1.0625,
        1.1875,
        17.0,
        19.0,
        1.002_929_7,
        1.000_488_3,
        1.003_906_3,
        1.011_718_8,
        3.389_531_4e38,
    ] {
        singles.extend([
            value.to_bits().into(),
            u64::from(value.to_bits()) + 1,
            u64::from((-value).to_bits()) - 1,
        ]);
    }
    singles.extend((0..60).map(|_| draw_f32(&mut words)));
    singles.extend((0..60).map(|_| {
        let bits = words.next();
        bits & 0x807f_ffff | (110 + (bits >> 40) % 50) << 23
    }));
    let mut doubles: Vec<u64> = singles
        .iter()
        .flat_map(|bits| {
            let exact = f64::from(f32::from_bits(*bits as u32)).to_bits();
            [exact, exact.wrapping_add(words.below(3)).wrapping_sub(1)]
        })
        .collect();
    doubles.extend((0..20).map(|_| words.next()));
    let mut halves: Vec<u64> = vec![
        0, 0x8000, 1, 0x83ff, 0x0400, 0x3800, 0x3e00, 0x4100, 0xb800, 0x3c00, 0x7bff, 0xfbff,
        0x7c00, 0xfc00, 0x7e00, 0x7c01, 0xfe01, 0x5bff, 0x63ff, 0x77ff, 0x7f80, 0xff80, 0x7f7f,
        0x7fc0,
    ];
    halves.extend((0..100).map(|_| words.next() & 0xffff));
    let spread = |values: Vec<u64>, words: &mut Words| -> Vec<[u64; 3]> {
        let count = values.len() as u64;
        values
            .iter()
            .map(|a| [*a, values[words.below(count) as usize], words.next() & 0xffff_ffff])
            .collect()
    };
    let family = |name, target, inputs, instructions| Family { name, target, inputs, instructions };
    vec![
        family("convert_integer", "sm_80", spread(integers, &mut words), from_integers()),
        family("convert32", "sm_80", spread(singles.clone(), &mut words), from_f32()),
        family("convert64", "sm_80", spread(doubles, &mut words), from_f64()),
        family("convert16", "sm_80", spread(halves, &mut words), from_halves()),
        family("convert90", "sm_90", spread(singles, &mut words), sm_90()),
    ]
}
