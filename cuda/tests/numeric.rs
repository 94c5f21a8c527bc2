//! The simulator's arithmetic against arithmetic that shares no code with it: LLVM's soft floats, and integers of
//! 128 bits.

use proptest::prelude::*;
use rustc_apfloat::{
    Float, FloatConvert, Round,
    ieee::{BFloat, Double, Float8E4M3FN, Float8E5M2, Half as Binary16, Single},
};
use touchstone_cuda::simulator::{
    numeric::{
        Modes, approx, atomic,
        compare::{self, Comparison},
        convert::{self, Conversion},
        exact,
        float32::{self, Extremum, Property},
        float64,
        half::{self, Half},
        integer::{self, Permutation},
        tensor::{Descriptor, Major, Product, Shape},
    },
    types::{Rounding, Type},
};

const DIRECTIONS: [(Rounding, Round); 4] = [
    (Rounding::Nearest, Round::NearestTiesToEven),
    (Rounding::Zero, Round::TowardZero),
    (Rounding::Down, Round::TowardNegative),
    (Rounding::Up, Round::TowardPositive),
];

/// Bits of floats with `fraction` and `exponent` bits: often special, often with near exponents.
fn floats(exponent: u32, fraction: u32) -> BoxedStrategy<u64> {
    let width = 1 + exponent + fraction;
    let all = u64::MAX >> (64 - width);
    let top = (1_u64 << exponent) - 1;
    let edges: Vec<u64> = [0, 1, top / 2, top - 1, top]
        .into_iter()
        .flat_map(|field| {
            let base = field << fraction;
            [base, base | 1, base | ((1 << fraction) - 1), base | 1 << (fraction - 1)]
        })
        .flat_map(|bits| [bits, bits | 1 << (width - 1)])
        .collect();
    let near = (0..=all, 0..30_u64).prop_map(move |(bits, field)| {
        let field = (top / 2 + field).saturating_sub(15).min(top) << fraction;
        (bits & !(top << fraction)) | field
    });
    // Few digits: sums and products of such numbers are often ties.
    let short = (0..=all, 0..fraction).prop_map(move |(bits, zeros)| bits >> zeros << zeros);
    prop_oneof![proptest::sample::select(edges), 0..=all, near, short].boxed()
}

/// Same bits, or both NaN.
fn same<F: Float>(ours: u64, theirs: F) -> bool {
    if theirs.is_nan() {
        F::from_bits(ours.into()).is_nan()
    } else {
        u128::from(ours) == theirs.to_bits()
    }
}

fn f<F: Float>(bits: u64) -> F {
    F::from_bits(bits.into())
}

/// An instruction of two f32 operands.
type Binary = fn(u32, u32, Modes) -> u32;

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn f32_arithmetic_is_exact_in_every_direction(a in floats(8, 23), b in floats(8, 23), c in floats(8, 23)) {
        let (x, y, z) = (f::<Single>(a), f::<Single>(b), f::<Single>(c));
        let (a, b, c) = (a as u32, b as u32, c as u32);
        for (ours, theirs) in DIRECTIONS {
            let modes = Modes::rounded(ours);
            prop_assert!(same(float32::add(a, b, modes).into(), x.add_r(y, theirs).value), "add {ours:?}");
            prop_assert!(same(float32::sub(a, b, modes).into(), x.sub_r(y, theirs).value), "sub {ours:?}");
            prop_assert!(same(float32::mul(a, b, modes).into(), x.mul_r(y, theirs).value), "mul {ours:?}");
            prop_assert!(same(float32::div(a, b, modes).into(), x.div_r(y, theirs).value), "div {ours:?}");
            let fused = x.mul_add_r(y, z, theirs).value;
            prop_assert!(same(float32::fma(a, b, c, modes).into(), fused), "fma {ours:?}");
        }
    }

    #[test]
    fn f64_arithmetic_is_exact_in_every_direction(a in floats(11, 52), b in floats(11, 52), c in floats(11, 52)) {
        let (x, y, z) = (f::<Double>(a), f::<Double>(b), f::<Double>(c));
        for (ours, theirs) in DIRECTIONS {
            prop_assert!(same(float64::add(a, b, ours), x.add_r(y, theirs).value), "add {ours:?}");
            prop_assert!(same(float64::sub(a, b, ours), x.sub_r(y, theirs).value), "sub {ours:?}");
            prop_assert!(same(float64::mul(a, b, ours), x.mul_r(y, theirs).value), "mul {ours:?}");
            prop_assert!(same(float64::div(a, b, ours), x.div_r(y, theirs).value), "div {ours:?}");
            prop_assert!(same(float64::fma(a, b, c, ours), x.mul_add_r(y, z, theirs).value), "fma {ours:?}");
        }
    }

    #[test]
    fn the_slow_path_is_exact_to_nearest_too(a in floats(8, 23), b in floats(8, 23), c in floats(8, 23)) {
        let (x, y, z) = (f::<Single>(a), f::<Single>(b), f::<Single>(c));
        let nearest = Rounding::Nearest;
        prop_assert!(same(exact::add(exact::F32, a, b, nearest), (x + y).value));
        prop_assert!(same(exact::multiply(exact::F32, a, b, nearest), (x * y).value));
        prop_assert!(same(exact::divide(exact::F32, a, b, nearest), (x / y).value));
        let fused = x.mul_add_r(y, z, Round::NearestTiesToEven).value;
        prop_assert!(same(exact::multiply_add(exact::F32, a, b, c, nearest), fused));
        let root = f32::from_bits(a as u32).sqrt();
        prop_assert!(same(exact::square_root(exact::F32, a, nearest), f::<Single>(root.to_bits().into())));
    }

    #[test]
    fn roots_enclose_their_number(a in floats(8, 23)) {
        let a = a & 0x7fff_ffff;
        let x = f32::from_bits(a as u32);
        prop_assume!(x > 0.0 && x.is_finite());
        let root = |rounding| f32::from_bits(float32::sqrt(a as u32, Modes::rounded(rounding)));
        let (down, up) = (f64::from(root(Rounding::Down)), f64::from(root(Rounding::Up)));
        // Squares of f32 are exact in f64.
        prop_assert!(down * down <= f64::from(x) && f64::from(x) <= up * up);
        prop_assert!(down == up && down * down == f64::from(x) || root(Rounding::Down).next_up() == root(Rounding::Up));
        prop_assert_eq!(root(Rounding::Zero), root(Rounding::Down));
        let x = f64::from(x);
        let bits = |rounding| float64::sqrt(x.to_bits(), rounding);
        prop_assert_eq!(bits(Rounding::Nearest), exact::square_root(exact::F64, x.to_bits(), Rounding::Nearest));
        prop_assert!(bits(Rounding::Up) - bits(Rounding::Down) <= 1);
    }

    #[test]
    fn halves_are_rounded_once(a in floats(5, 10), b in floats(5, 10), c in floats(5, 10)) {
        let (x, y, z) = (f::<Binary16>(a), f::<Binary16>(b), f::<Binary16>(c));
        let (a, b, c) = (a as u16, b as u16, c as u16);
        let (kind, plain) = (Half::F16, Modes::PLAIN);
        prop_assert!(same(half::add(kind, a, b, plain).into(), (x + y).value));
        prop_assert!(same(half::sub(kind, a, b, plain).into(), (x - y).value));
        prop_assert!(same(half::mul(kind, a, b, plain).into(), (x * y).value));
        let fused = x.mul_add_r(y, z, Round::NearestTiesToEven).value;
        prop_assert!(same(half::fma(kind, a, b, c, plain).into(), fused));
    }

    #[test]
    fn brain_floats_are_rounded_once(a in floats(8, 7), b in floats(8, 7), c in floats(8, 7)) {
        let (x, y, z) = (f::<BFloat>(a), f::<BFloat>(b), f::<BFloat>(c));
        let (a, b, c) = (a as u16, b as u16, c as u16);
        let (kind, plain) = (Half::Bf16, Modes::PLAIN);
        prop_assert!(same(half::add(kind, a, b, plain).into(), (x + y).value));
        prop_assert!(same(half::mul(kind, a, b, plain).into(), (x * y).value));
        let fused = x.mul_add_r(y, z, Round::NearestTiesToEven).value;
        prop_assert!(same(half::fma(kind, a, b, c, plain).into(), fused));
    }

    #[test]
    fn conversions_between_floats_round_once(a in floats(8, 23), d in floats(11, 52), h in floats(5, 10)) {
        for (ours, theirs) in DIRECTIONS {
            let c = |to, from| Conversion::plain(to, from, Some(ours));
            let (single, double) = (f::<Single>(a), f::<Double>(d));
            let mut lost = false;
            let narrowed: Binary16 = single.convert_r(theirs, &mut lost).value;
            prop_assert!(same(convert::convert(c(Type::F16, Type::F32), a), narrowed), "f16 {ours:?}");
            let narrowed: BFloat = single.convert_r(theirs, &mut lost).value;
            prop_assert!(same(convert::convert(c(Type::Bf16, Type::F32), a), narrowed), "bf16 {ours:?}");
            let narrowed: Single = double.convert_r(theirs, &mut lost).value;
            prop_assert!(same(convert::convert(c(Type::F32, Type::F64), d), narrowed), "f32 {ours:?}");
            let narrowed: Binary16 = double.convert_r(theirs, &mut lost).value;
            prop_assert!(same(convert::convert(c(Type::F16, Type::F64), d), narrowed), "f16 of f64 {ours:?}");
            let fast = half::narrow(exact::F16, d, ours);
            prop_assert_eq!(fast, exact::encode(exact::F16, exact::decode(exact::F64, d), ours));
            let whole = single.round_to_integral(theirs).value;
            prop_assert!(same(convert::convert(c(Type::F32, Type::F32), a), whole), "integral {ours:?}");
            let whole = double.round_to_integral(theirs).value;
            prop_assert!(same(convert::convert(c(Type::F64, Type::F64), d), whole), "integral {ours:?}");
        }
        let wide: Single = f::<Binary16>(h).convert(&mut false).value;
        let plain = Conversion::plain(Type::F32, Type::F16, None);
        prop_assert!(same(convert::convert(plain, h), wide));
    }

    #[test]
    fn floats_of_eight_bits_saturate_and_round_to_even(a in floats(8, 23)) {
        let single = f::<Single>(a);
        let c = |to| Conversion { saturate_finite: true, ..Conversion::plain(to, Type::F32, Some(Rounding::Nearest)) };
        let narrow: Float8E5M2 = single.convert(&mut false).value;
        let ours = convert::convert(c(Type::E5m2), a);
        if narrow.is_infinite() {
            prop_assert_eq!(ours & 0x7f, 0x7b);
        } else {
            prop_assert!(same(ours, narrow), "e5m2 {ours:#x} {:#x}", narrow.to_bits());
        }
        let narrow: Float8E4M3FN = single.convert(&mut false).value;
        let ours = convert::convert(c(Type::E4m3), a);
        if narrow.is_nan() && !single.is_nan() {
            prop_assert_eq!(ours & 0x7f, 0x7e);
        } else {
            prop_assert!(same(ours, narrow), "e4m3 {ours:#x} {:#x}", narrow.to_bits());
        }
    }

    #[test]
    fn conversions_to_integers_round_and_clamp(a in floats(8, 23), d in floats(11, 52)) {
        for (ours, theirs) in DIRECTIONS {
            for (to, width, signed) in [
                (Type::S8, 8, true), (Type::U8, 8, false), (Type::S16, 16, true), (Type::U16, 16, false),
                (Type::S32, 32, true), (Type::U32, 32, false), (Type::S64, 64, true), (Type::U64, 64, false),
            ] {
                let single = f::<Single>(a);
                let double = f::<Double>(d);
                let expected = |value: Result<i128, u128>| match value { Ok(v) => v as u64, Err(v) => v as u64 };
                let of_single = if signed {
                    Ok(single.to_i128_r(width, theirs, &mut false).value)
                } else {
                    Err(single.to_u128_r(width, theirs, &mut false).value)
                };
                let of_double = if signed {
                    Ok(double.to_i128_r(width, theirs, &mut false).value)
                } else {
                    Err(double.to_u128_r(width, theirs, &mut false).value)
                };
                if !single.is_nan() {
                    let c = Conversion::plain(to, Type::F32, Some(ours));
                    prop_assert_eq!(convert::convert(c, a), expected(of_single), "{:?} {:?}", to, ours);
                }
                if !double.is_nan() {
                    let c = Conversion::plain(to, Type::F64, Some(ours));
                    prop_assert_eq!(convert::convert(c, d), expected(of_double), "{:?} {:?}", to, ours);
                }
            }
        }
    }

    #[test]
    fn conversions_from_integers_round_once(raw in any::<u64>(), shift in 0..64_u32) {
        let raw = raw >> shift;
        for (ours, theirs) in DIRECTIONS {
            let c = |to, from| Conversion::plain(to, from, Some(ours));
            let unsigned = Single::from_u128_r(raw.into(), theirs).value;
            let signed = Single::from_i128_r((raw as i64).into(), theirs).value;
            prop_assert!(same(convert::convert(c(Type::F32, Type::U64), raw), unsigned));
            prop_assert!(same(convert::convert(c(Type::F32, Type::S64), raw), signed));
            let small = Binary16::from_i128_r((raw as i32).into(), theirs).value;
            prop_assert!(same(convert::convert(c(Type::F16, Type::S32), raw), small));
            let double = Double::from_u128_r(raw.into(), theirs).value;
            prop_assert!(same(convert::convert(c(Type::F64, Type::U64), raw), double));
        }
    }

    #[test]
    fn integer_products_and_sums_agree_with_wider_ones(a in any::<u64>(), b in any::<u64>(), c in any::<u64>()) {
        for (ty, bits) in [(Type::U16, 16), (Type::U32, 32), (Type::U64, 64)] {
            let mask = (1_u128 << bits) - 1;
            let (x, y, z) = (u128::from(a) & mask, u128::from(b) & mask, u128::from(c) & mask);
            prop_assert_eq!(u128::from(integer::mul_hi(ty, a, b)), (x * y) >> bits);
            prop_assert_eq!(u128::from(integer::mad_lo(ty, a, b, c)), (((x * y) & mask) + z) & mask);
            prop_assert_eq!(u128::from(integer::sad(ty, a, b, c)), (z + x.abs_diff(y)) & mask);
            let (low, carry) = integer::add_carry(ty, a, b, true);
            prop_assert_eq!(u128::from(low) | u128::from(carry) << bits, x + y + 1);
            let (left, borrow) = integer::sub_borrow(ty, a, b, true);
            prop_assert_eq!(i128::from(left) - (i128::from(borrow) << bits), x as i128 - y as i128 - 1);
            prop_assert_eq!(u128::from(integer::brev(ty, integer::brev(ty, a))), x);
        }
        let (x, y) = (i128::from(a as i64), i128::from(b as i64));
        prop_assert_eq!(integer::mul_hi(Type::S64, a, b), ((x * y) >> 64) as u64);
        let (x, y) = (i64::from(a as i32), i64::from(b as i32));
        prop_assert_eq!(integer::mul_wide(Type::S32, a, b) as i64, x * y);
        prop_assert_eq!(integer::shf(false, true, a as u32, b as u32, 0), b as u32);
    }

    #[test]
    fn fields_are_extracted_bit_by_bit(a in any::<u64>(), position in 0..300_u64, length in 0..300_u64, b in any::<u64>()) {
        for (unsigned, signed, width) in [(Type::U32, Type::S32, 32), (Type::U64, Type::S64, 64)] {
            // As the ISA spells bfe and bfi out; beyond 255, where it is silent, as an H200 does.
            let field = |value: u64| if width < 64 || value < 0x100 { value & 0xff } else { 0xff };
            let (p, l, top) = (field(position), field(length), width - 1);
            let bit = |word: u64, i: u64| (word >> i) & 1;
            for ty in [unsigned, signed] {
                let sign = if l == 0 || !ty.is_signed() { 0 } else { bit(a, (p + l - 1).min(top)) };
                let expected = (0..width).fold(0, |d, i| {
                    let from_field = i < l && p + i <= top;
                    d | (if from_field { bit(a, p + i) } else { sign }) << i
                });
                prop_assert_eq!(integer::bfe(ty, a, position, length), expected, "{:?} {} {}", ty, p, l);
            }
            let mut expected = integer::truncate(unsigned, b);
            for i in (0..l).take_while(|i| p + i <= top) {
                expected = expected & !(1 << (p + i)) | bit(a, i) << (p + i);
            }
            prop_assert_eq!(integer::bfi(unsigned, a, b, position, length), expected);
        }
    }

    #[test]
    fn comparisons_agree_with_the_order_of_numbers(a in floats(8, 23), b in floats(8, 23)) {
        let (x, y) = (f32::from_bits(a as u32), f32::from_bits(b as u32));
        let holds = |name| compare::compare(Comparison::parse(name).unwrap(), Type::F32, false, a, b);
        let order = x.partial_cmp(&y);
        prop_assert_eq!(holds("num"), order.is_some());
        for (name, unordered, wanted) in [
            ("eq", "equ", [false, true, false]), ("ne", "neu", [true, false, true]), ("lt", "ltu", [true, false, false]),
            ("le", "leu", [true, true, false]), ("gt", "gtu", [false, false, true]), ("ge", "geu", [false, true, true]),
        ] {
            let expected = order.map(|order| wanted[(order as i8 + 1) as usize]);
            prop_assert_eq!(holds(name), expected.unwrap_or(false), "{}", name);
            prop_assert_eq!(holds(unordered), expected.unwrap_or(true), "{}", unordered);
        }
    }

    #[test]
    fn ftz_flushes_inputs_and_results_and_keeps_signs(a in floats(8, 23), b in floats(8, 23)) {
        let ftz = Modes { ftz: true, ..Modes::PLAIN };
        let flushed = |bits: u64| u64::from(float32::flush(bits as u32, true));
        let [x, y] = [a, b].map(|bits| f64::from(f32::from_bits(flushed(bits) as u32)));
        let least = f64::from(f32::MIN_POSITIVE);
        // What rounding raises to the smallest normal number is flushed too: exact are the sum, the product, and least * y.
        let cases: [(Binary, bool); 3] = [
            (float32::add, (x + y).abs() < least),
            (float32::mul, (x * y).abs() < least),
            (float32::div, x.abs() < least * y.abs()),
        ];
        for (f, was_subnormal) in cases {
            let result = f(a as u32, b as u32, ftz);
            let by_hand = f(flushed(a) as u32, flushed(b) as u32, Modes::PLAIN);
            let expected = if was_subnormal { by_hand & 0x8000_0000 } else { float32::flush(by_hand, true) };
            prop_assert_eq!(result, expected);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_panics_on_any_bits(a in any::<u64>(), b in any::<u64>(), c in any::<u64>(), k in 0..7_usize) {
        use Type::*;
        let types = [
            Pred, B8, B16, B32, B64, B128, U8, U16, U32, U64, S8, S16, S32, S64, F16, F16x2, Bf16, Bf16x2, Tf32, E4m3, E5m2,
            E4m3x2, E5m2x2, F32, F64,
        ];
        let roundings =
            [Rounding::Nearest, Rounding::NearestAway, Rounding::Zero, Rounding::Down, Rounding::Up];
        for ty in types {
            let binary = [
                integer::add, integer::sub, integer::mul_lo, integer::mul_hi, integer::mul_wide, integer::div, integer::rem,
                integer::min, integer::max, integer::shl, integer::shr,
            ];
            binary.iter().for_each(|f| { f(ty, a, b); });
            [integer::abs, integer::neg, integer::not, integer::cnot, integer::popc, integer::clz, integer::brev].iter().for_each(|f| { f(ty, a); });
            [integer::sad, integer::mad_lo, integer::mad_hi, integer::mad_wide, integer::bfe].iter().for_each(|f| { f(ty, a, b, c); });
            integer::bfi(ty, a, b, c, a);
            integer::bfind(ty, k % 2 == 0, a);
            integer::mul24(ty, k % 2 == 0, a, b);
            integer::szext(ty, k % 2 == 0, a, b);
            integer::range(ty);
            for from in types {
                for rounding in roundings.map(Some).into_iter().chain([None]) {
                    let conversion = Conversion {
                        to: ty, from, rounding, ftz: a & 1 == 1, saturate: a & 2 == 2, saturate_finite: a & 4 == 4, relu: a & 8 == 8,
                    };
                    convert::convert(conversion, b);
                    convert::convert_pair(conversion, b as u32, c as u32);
                    convert::convert_packed(conversion, b);
                }
            }
            for name in ["add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec"] {
                let operation = atomic::Operation::parse(name).unwrap();
                atomic::apply(operation, ty, k % 2 == 0, a, b, c);
            }
            for name in ["eq", "lo", "geu", "num", "nan"] {
                compare::compare(Comparison::parse(name).unwrap(), ty, k % 2 == 0, a, b);
            }
        }
        integer::fns(a as u32, b as u32 % 40, c as i32);
        integer::bmsk(false, a, b);
        integer::prmt(Permutation::ClampLeft, a as u32, b as u32, c as u32);
        [approx::ex2, approx::lg2, approx::rcp, approx::rsqrt, approx::sqrt, approx::sin, approx::cos].iter().for_each(|f| { f(a as u32, true); });
        approx::rcp_f64(a);
        approx::rsqrt_f64(a);
        for rounding in roundings {
            let modes = Modes { rounding, ftz: a & 1 == 1, saturate: a & 2 == 2, relu: a & 4 == 4 };
            float32::fma(a as u32, b as u32, c as u32, modes);
            float32::div(a as u32, b as u32, modes);
            float32::sqrt(a as u32, modes);
            float64::fma(a, b, c, rounding);
            float64::sqrt(a, rounding);
            for kind in [Half::F16, Half::Bf16] {
                half::fma(kind, a as u16, b as u16, c as u16, modes);
                half::ex2(kind, a as u16, true);
            }
        }
        let (ty, accumulator) = [(F16, F32), (F16, F16), (Bf16, F32), (Tf32, F32), (E4m3, F32), (E5m2, F32), (S8, S32)][k];
        let product = Product { shape: Shape { m: 1, n: 1, k: 2 }, a: ty, b: ty, accumulator, saturate: a & 1 == 1 };
        let mask = u32::MAX >> (32 - 8 * ty.bytes());
        let words = |w: u64| [w as u32 & mask, (w >> 32) as u32 & mask];
        product.multiply(&words(a), &words(b), &[c as u32], &mut [0]);
        for major in [Major::K, Major::Mn] {
            Descriptor::decode(a).address(major, 2, b as u32 % 256, c as u32 % 64);
        }
    }
}

#[test]
fn arithmetic_on_numbers_that_one_can_check_by_hand() {
    let bits = f32::to_bits;
    let down = Modes::rounded(Rounding::Down);
    let up = Modes::rounded(Rounding::Up);
    // 1 + 2^-30 lies between 1 and its successor.
    let tiny = bits(2.0_f32.powi(-30));
    assert_eq!(float32::add(bits(1.0), tiny, Modes::PLAIN), bits(1.0));
    assert_eq!(float32::add(bits(1.0), tiny, up), bits(1.0) + 1);
    assert_eq!(float32::add(bits(1.0), bits(-2.0_f32.powi(-30)), down), bits(1.0) - 1);
    assert_eq!(float32::add(bits(1.0), bits(-1.0), down), bits(-0.0));
    assert_eq!(float32::add(bits(1.0), bits(-1.0), up), 0);
    assert_eq!(float32::add(0, 0, down), 0);
    // (1 + 2^-12)^2 - (1 + 2^-11) = 2^-24 only if the product is not rounded.
    let a = bits(1.0 + 2.0_f32.powi(-12));
    let c = bits(-(1.0 + 2.0_f32.powi(-11)));
    assert_eq!(float32::fma(a, a, c, Modes::PLAIN), bits(2.0_f32.powi(-24)));
    assert_eq!(
        float32::mul(bits(f32::MAX), bits(2.0), Modes::rounded(Rounding::Zero)),
        bits(f32::MAX)
    );
    assert_eq!(float32::mul(bits(f32::MAX), bits(2.0), Modes::PLAIN), bits(f32::INFINITY));
    assert_eq!(
        float32::add(bits(f32::INFINITY), bits(f32::NEG_INFINITY), Modes::PLAIN),
        0x7fff_ffff
    );
    let saturated = Modes { saturate: true, ..Modes::PLAIN };
    assert_eq!(float32::add(bits(0.75), bits(0.5), saturated), bits(1.0));
    assert_eq!(float32::add(bits(-0.75), bits(0.5), saturated), 0);
    assert_eq!(float32::add(bits(f32::NAN), bits(0.5), saturated), 0);
}

#[test]
fn extrema_prefer_numbers_and_know_signed_zeros() {
    let (nan, one, zero, negative_zero) = (0x7fc0_0001, 0x3f80_0000, 0, 0x8000_0000);
    assert_eq!(float32::min(nan, one, false), one);
    assert_eq!(float32::max(one, nan, false), one);
    assert_eq!(float32::max(nan, nan, false), 0x7fff_ffff);
    assert_eq!(float32::min(zero, negative_zero, false), negative_zero);
    assert_eq!(float32::max(negative_zero, zero, false), zero);
    let nan_wins = Extremum { nan: true, ..Extremum::default() };
    assert_eq!(float32::extremum(nan, one, nan_wins), 0x7fff_ffff);
    let xorsign = Extremum { xorsign_abs: true, largest: true, ..Extremum::default() };
    assert_eq!(float32::extremum(0xc000_0000, 0x3f80_0000, xorsign), 0xc000_0000);
    assert!(float32::testp(Property::Subnormal, 1) && !float32::testp(Property::Normal, 1));
}

#[test]
fn bytes_are_permuted_as_the_tables_say() {
    let prmt = |mode, selector| integer::prmt(mode, 0x3322_1100, 0x7766_5544, selector);
    assert_eq!(prmt(Permutation::Bytes, 0x7530), 0x7755_3300);
    assert_eq!(prmt(Permutation::Forward4, 1), 0x4433_2211);
    assert_eq!(prmt(Permutation::Backward4, 1), 0x6677_0011);
    assert_eq!(prmt(Permutation::Replicate8, 2), 0x2222_2222);
    assert_eq!(prmt(Permutation::ClampLeft, 2), 0x3322_2222);
    assert_eq!(prmt(Permutation::ClampRight, 2), 0x2222_1100);
    assert_eq!(prmt(Permutation::Replicate16, 1), 0x3322_3322);
    assert_eq!(integer::prmt(Permutation::Bytes, 0x0000_80ff, 0, 0x2298), 0x0000_ffff);
}

#[test]
fn integer_instructions_on_numbers_that_one_can_check_by_hand() {
    use Type::{S32, U16, U32, U64};
    assert_eq!(integer::bfind(U32, false, 0x00f0_0000), 23);
    assert_eq!(integer::bfind(U32, true, 0x00f0_0000), 8);
    assert_eq!(integer::bfind(S32, false, 0xffff_fff0), 3);
    assert_eq!(integer::bfind(S32, false, u64::MAX), 0xffff_ffff);
    assert_eq!(integer::clz(U64, 1), 63);
    assert_eq!(integer::shr(S32, 0x8000_0000, 40), 0xffff_ffff);
    assert_eq!(integer::shl(U32, 1, 32), 0);
    assert_eq!(integer::div(S32, 0x8000_0000, 0xffff_ffff), 0x8000_0000);
    assert_eq!(integer::rem(S32, 0x8000_0000, 0xffff_ffff), 0);
    assert_eq!(integer::rem(S32, 0xffff_fff9, 4), 0xffff_fffd);
    assert_eq!(integer::mul_wide(U16, 0xffff, 0xffff), 0xfffe_0001);
    assert_eq!(integer::fns(0b1011_0000, 0, 2), 5);
    assert_eq!(integer::fns(0b1011_0000, 31, -1), 7);
    assert_eq!(integer::fns(0b1011_0000, 4, 0), 4);
    assert_eq!(integer::lop3(0xf0, 0xcc, 0xaa, 0x96), 0xf0 ^ 0xcc ^ 0xaa);
    assert_eq!(integer::lop3(0xf0, 0xcc, 0xaa, 0xe8) & 0xff, 0xe8);
    assert_eq!(integer::dp4a(S32, U32, 0xff02_0304, 0x0101_0101, 10), 10 - 1 + 2 + 3 + 4);
    assert_eq!(integer::dp2a(true, S32, S32, 0x0002_ffff, 0x0305_0000, 0), 6 - 5);
    assert_eq!(integer::shf(true, false, 0x1111_2222, 0x3333_4444, 16), 0x4444_1111);
    assert_eq!(integer::shf(false, false, 0x1111_2222, 0x3333_4444, 99), 0x1111_2222);
    assert_eq!(integer::add_saturating(0x7fff_ffff, 1), 0x7fff_ffff);
}

#[test]
fn conversions_follow_their_rules_for_nan_and_range() {
    let nearest = Some(Rounding::Nearest);
    let cvt =
        |to, from, rounding, bits| convert::convert(Conversion::plain(to, from, rounding), bits);
    let zero = Some(Rounding::Zero);
    assert_eq!(cvt(Type::S32, Type::F32, zero, 0x7fc0_0000), 0);
    assert_eq!(cvt(Type::U8, Type::F32, zero, f32::to_bits(300.0).into()), 255);
    assert_eq!(cvt(Type::S8, Type::F32, zero, f32::to_bits(-300.0).into()), (-128_i64) as u64);
    assert_eq!(cvt(Type::S32, Type::F32, nearest, f32::to_bits(2.5).into()), 2);
    assert_eq!(cvt(Type::S16, Type::S8, None, 0x80), (-128_i64) as u64);
    assert_eq!(cvt(Type::U32, Type::S8, None, 0x80), 0xffff_ff80);
    // Ties away from zero at the 13th bit from below.
    let away = Some(Rounding::NearestAway);
    assert_eq!(cvt(Type::Tf32, Type::F32, away, 0x3f80_1000), 0x3f80_2000);
    assert_eq!(cvt(Type::Tf32, Type::F32, away, 0x3f80_0fff), 0x3f80_0000);
    let pair = Conversion::plain(Type::F16x2, Type::F32, nearest);
    assert_eq!(convert::convert_pair(pair, f32::to_bits(1.0), f32::to_bits(2.0)), 0x3c00_4000);
    let saturating =
        Conversion { saturate_finite: true, ..Conversion::plain(Type::E4m3x2, Type::F32, nearest) };
    assert_eq!(convert::convert_pair(saturating, f32::to_bits(1e9), f32::to_bits(-1e9)), 0x7efe);
    let sat = Conversion { saturate: true, ..Conversion::plain(Type::F32, Type::F32, None) };
    assert_eq!(convert::convert(sat, f32::to_bits(1.5).into()), 0x3f80_0000);
    let third = u64::from(f32::to_bits(0.3));
    assert_eq!(convert::convert(sat, third), third);
    assert_eq!(convert::convert(sat, 0x7fc0_0000), 0);
}

#[test]
fn packed_results_keep_their_order() {
    let signed = convert::pack(true, 16, 40_000, 0xffff_0000, 0);
    assert_eq!(signed, 0x7fff_8000);
    assert_eq!(convert::pack(false, 8, 300, 5, 0xaa), 0x00aa_ff05);
    let sum =
        half::packed2(0x3c00_4000, 0x3c00_3c00, |a, b| half::add(Half::F16, a, b, Modes::PLAIN));
    assert_eq!(sum, 0x4000_4200);
}
