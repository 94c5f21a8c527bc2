//! Integer, extended-precision, logic and shift instructions.

use touchstone_cuda::simulator::{
    numeric::{
        compare::{self, Comparison},
        integer::{self, Permutation},
    },
    types::Type,
};

use super::family::{Family, Instruction, op, triples};

const EDGES_32: [u64; 15] = [
    0,
    1,
    2,
    7,
    31,
    32,
    33,
    0xff,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fffe,
    0xffff_ffff,
];
const EDGES_64: [u64; 14] = [
    0,
    1,
    3,
    31,
    63,
    64,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0001,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_ffff_fffe,
    u64::MAX,
];

fn named(ty: Type) -> (&'static str, char) {
    match ty {
        Type::S16 => ("s16", 'h'),
        Type::U16 => ("u16", 'h'),
        Type::S32 => ("s32", 'w'),
        Type::U32 => ("u32", 'w'),
        Type::S64 => ("s64", 'l'),
        _ => ("u64", 'l'),
    }
}

fn arithmetic(ty: Type) -> Vec<Instruction> {
    let (t, r) = named(ty);
    let two = |name: &str| format!("{name}.{t} %{r}d, %{r}a, %{r}b;");
    let one = |name: &str| format!("{name}.{t} %{r}d, %{r}a;");
    let mut all = vec![
        op(two("mul.hi"), move |a, b, _| integer::mul_hi(ty, a, b)),
        op(two("div"), move |a, b, _| integer::div(ty, a, b)),
        op(two("rem"), move |a, b, _| integer::rem(ty, a, b)),
        op(two("min"), move |a, b, _| integer::min(ty, a, b)),
        op(two("max"), move |a, b, _| integer::max(ty, a, b)),
        op(format!("sad.{t} %{r}d, %{r}a, %{r}b, %{r}c;"), move |a, b, c| {
            integer::sad(ty, a, b, c)
        }),
        op(format!("shr.{t} %{r}d, %{r}a, %wb;"), move |a, b, _| integer::shr(ty, a, b)),
        op(format!("mad.hi.{t} %{r}d, %{r}a, %{r}b, %{r}c;"), move |a, b, c| {
            integer::mad_hi(ty, a, b, c)
        }),
    ];
    if ty.is_signed() {
        all.push(op(one("abs"), move |a, _, _| integer::abs(ty, a)));
        all.push(op(one("neg"), move |a, _, _| integer::neg(ty, a)));
    } else {
        all.push(op(two("add"), move |a, b, _| integer::add(ty, a, b)));
        all.push(op(two("sub"), move |a, b, _| integer::sub(ty, a, b)));
        all.push(op(two("mul.lo"), move |a, b, _| integer::mul_lo(ty, a, b)));
        all.push(op(format!("mad.lo.{t} %{r}d, %{r}a, %{r}b, %{r}c;"), move |a, b, c| {
            integer::mad_lo(ty, a, b, c)
        }));
    }
    if ty.bytes() < 8 {
        let d = if r == 'h' { 'w' } else { 'l' };
        all.push(op(format!("mul.wide.{t} %{d}d, %{r}a, %{r}b;"), move |a, b, _| {
            integer::mul_wide(ty, a, b)
        }));
        all.push(op(format!("mad.wide.{t} %{d}d, %{r}a, %{r}b, %{d}c;"), move |a, b, c| {
            integer::mad_wide(ty, a, b, c)
        }));
    }
    for name in ["eq", "ne", "lt", "le", "gt", "ge"] {
        let comparison = Comparison::parse(name).expect("a comparison");
        all.push(op(format!("setp.{name}.{t} %pd, %{r}a, %{r}b;"), move |a, b, _| {
            compare::compare(comparison, ty, false, a, b).into()
        }));
    }
    all
}

fn carries(ty: Type) -> Vec<Instruction> {
    let (t, r) = named(ty);
    let carry = move |a: u64, b: u64, c: u64| {
        integer::add_carry(ty, a, b, integer::add_carry(ty, a, c, false).1)
    };
    let borrow = move |a: u64, b: u64, c: u64| {
        integer::sub_borrow(ty, a, b, integer::sub_borrow(ty, a, c, false).1)
    };
    let x = if r == 'w' { "%wx" } else { "%lx" };
    vec![
        op(
            format!("add.cc.{t} {x}, %{r}a, %{r}c;\naddc.{t} %{r}d, %{r}a, %{r}b;"),
            move |a, b, c| carry(a, b, c).0,
        ),
        op(
            format!(
                "add.cc.{t} {x}, %{r}a, %{r}c;\naddc.cc.{t} {x}, %{r}a, %{r}b;\naddc.{t} %{r}d, 0, 0;"
            ),
            move |a, b, c| carry(a, b, c).1.into(),
        ),
        op(
            format!("sub.cc.{t} {x}, %{r}a, %{r}c;\nsubc.{t} %{r}d, %{r}a, %{r}b;"),
            move |a, b, c| borrow(a, b, c).0,
        ),
        op(
            format!(
                "sub.cc.{t} {x}, %{r}a, %{r}c;\nsubc.cc.{t} {x}, %{r}a, %{r}b;\nsubc.{t} %{r}d, 0, 0;"
            ),
            move |a, b, c| integer::sub_borrow(ty, 0, 0, borrow(a, b, c).1).0,
        ),
    ]
}

fn bits(unsigned: Type, signed: Type) -> Vec<Instruction> {
    let (_, r) = named(unsigned);
    let b = if r == 'w' { "b32" } else { "b64" };
    let ty = unsigned;
    let mut all = vec![
        op(format!("popc.{b} %wd, %{r}a;"), move |a, _, _| integer::popc(ty, a)),
        op(format!("clz.{b} %wd, %{r}a;"), move |a, _, _| integer::clz(ty, a)),
        op(format!("brev.{b} %{r}d, %{r}a;"), move |a, _, _| integer::brev(ty, a)),
        op(format!("shl.{b} %{r}d, %{r}a, %wb;"), move |a, b, _| integer::shl(ty, a, b)),
        op(format!("not.{b} %{r}d, %{r}a;"), move |a, _, _| integer::not(ty, a)),
        op(format!("cnot.{b} %{r}d, %{r}a;"), move |a, _, _| integer::cnot(ty, a)),
        op(format!("bfi.{b} %{r}d, %{r}a, %{r}c, %wb, %wc;"), move |a, b, c| {
            integer::bfi(ty, a, c, b, c)
        }),
        op(format!("slct.{b}.s32 %{r}d, %{r}a, %{r}b, %wc;"), move |a, b, c| {
            integer::truncate(ty, compare::slct_s32(a, b, c as u32))
        }),
        op(format!("slct.{b}.f32 %{r}d, %{r}a, %{r}b, %wc;"), move |a, b, c| {
            integer::truncate(ty, compare::slct_f32(a, b, c as u32, false))
        }),
        op(format!("slct.ftz.{b}.f32 %{r}d, %{r}a, %{r}b, %wc;"), move |a, b, c| {
            integer::truncate(ty, compare::slct_f32(a, b, c as u32, true))
        }),
    ];
    for ty in [unsigned, signed] {
        let (t, _) = named(ty);
        all.push(op(format!("bfind.{t} %wd, %{r}a;"), move |a, _, _| integer::bfind(ty, false, a)));
        all.push(op(format!("bfind.shiftamt.{t} %wd, %{r}a;"), move |a, _, _| {
            integer::bfind(ty, true, a)
        }));
        all.push(op(format!("bfe.{t} %{r}d, %{r}a, %wb, %wc;"), move |a, b, c| {
            integer::bfe(ty, a, b, c)
        }));
    }
    all
}

fn words_only() -> Vec<Instruction> {
    use Type::{S32, U32};
    let mut all = vec![
        op("add.sat.s32 %wd, %wa, %wb;", |a, b, _| integer::add_saturating(a, b)),
        op("sub.sat.s32 %wd, %wa, %wb;", |a, b, _| integer::sub_saturating(a, b)),
        op("mad.hi.sat.s32 %wd, %wa, %wb, %wc;", integer::mad_hi_saturating),
        op("lop3.b32 %wd, %wa, %wb, %wc, 0x96;", |a, b, c| {
            integer::lop3(a as u32, b as u32, c as u32, 0x96).into()
        }),
        op("lop3.b32 %wd, %wa, %wb, %wc, 0xd8;", |a, b, c| {
            integer::lop3(a as u32, b as u32, c as u32, 0xd8).into()
        }),
        op("fns.b32 %wd, %wa, %wb, %wc;", |a, b, c| {
            integer::fns(a as u32, b as u32, c as i32).into()
        }),
    ];
    for ty in [S32, U32] {
        let (t, _) = named(ty);
        all.push(op(format!("mul24.lo.{t} %wd, %wa, %wb;"), move |a, b, _| {
            integer::mul24(ty, false, a, b)
        }));
        all.push(op(format!("mul24.hi.{t} %wd, %wa, %wb;"), move |a, b, _| {
            integer::mul24(ty, true, a, b)
        }));
        for (wrap, mode) in [(false, "clamp"), (true, "wrap")] {
            all.push(op(format!("szext.{mode}.{t} %wd, %wa, %wb;"), move |a, b, _| {
                integer::szext(ty, wrap, a, b)
            }));
        }
        for other in [S32, U32] {
            let (u, _) = named(other);
            all.push(op(format!("dp4a.{t}.{u} %wd, %wa, %wb, %wc;"), move |a, b, c| {
                integer::dp4a(ty, other, a as u32, b as u32, c as u32).into()
            }));
            for (high, half) in [(false, "lo"), (true, "hi")] {
                all.push(op(format!("dp2a.{half}.{t}.{u} %wd, %wa, %wb, %wc;"), move |a, b, c| {
                    integer::dp2a(high, ty, other, a as u32, b as u32, c as u32).into()
                }));
            }
        }
    }
    for (wrap, mode) in [(false, "clamp"), (true, "wrap")] {
        all.push(op(format!("bmsk.{mode}.b32 %wd, %wa, %wb;"), move |a, b, _| {
            integer::bmsk(wrap, a, b)
        }));
        for (right, side) in [(false, "l"), (true, "r")] {
            all.push(op(format!("shf.{side}.{mode}.b32 %wd, %wa, %wb, %wc;"), move |a, b, c| {
                integer::shf(right, wrap, a as u32, b as u32, c as u32).into()
            }));
        }
    }
    let modes = [
        (Permutation::Bytes, ""),
        (Permutation::Forward4, ".f4e"),
        (Permutation::Backward4, ".b4e"),
        (Permutation::Replicate8, ".rc8"),
        (Permutation::ClampLeft, ".ecl"),
        (Permutation::ClampRight, ".ecr"),
        (Permutation::Replicate16, ".rc16"),
    ];
    for (mode, name) in modes {
        all.push(op(format!("prmt.b32{name} %wd, %wa, %wb, %wc;"), move |a, b, c| {
            integer::prmt(mode, a as u32, b as u32, c as u32).into()
        }));
    }
    all
}

pub fn families() -> Vec<Family> {
    use Type::{S16, S32, S64, U16, U32, U64};
    let family = |name, edges: &[u64], seed, mask: u64, instructions| Family {
        name,
        target: "sm_80",
        inputs: triples(edges, 60, seed, |words| words.next() & mask),
        instructions,
    };
    let chain = |parts: Vec<Vec<Instruction>>| parts.into_iter().flatten().collect();
    vec![
        family(
            "integer16",
            &[0, 1, 7, 0x7f, 0xff, 0x7fff, 0x8000, 0xfffe, 0xffff],
            16,
            0xffff,
            chain(vec![arithmetic(U16), arithmetic(S16)]),
        ),
        family(
            "integer32",
            &EDGES_32,
            32,
            0xffff_ffff,
            chain(vec![
                arithmetic(U32),
                arithmetic(S32),
                carries(U32),
                bits(U32, S32),
                words_only(),
            ]),
        ),
        family(
            "integer64",
            &EDGES_64,
            64,
            u64::MAX,
            chain(vec![arithmetic(U64), arithmetic(S64), carries(U64), bits(U64, S64)]),
        ),
    ]
}
