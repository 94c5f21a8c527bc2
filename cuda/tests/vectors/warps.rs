//! Instructions that a whole warp carries out together: matrix products and matrix loads.

use std::fmt::Write;

use cudarc::{
    driver::{LaunchConfig, PushKernelArg},
    nvrtc::Ptx,
};
use libtest_mimic::Failed;
use touchstone_cuda::simulator::{
    numeric::{
        convert::{self, Conversion},
        tensor::{
            Product, Shape, fragment, matrix,
            product::{self, bits},
        },
    },
    types::{Rounding, Type},
};

use super::{family::Words, record::Device};

/// One instruction of a group.
pub struct WarpInstruction {
    /// Its text, without operands.
    pub name: String,
    /// What it is.
    pub kind: Kind,
}

/// What a warp instruction does.
#[derive(Clone, Copy)]
pub enum Kind {
    /// `mma.sync`.
    Product(Product),
    /// `ldmatrix` of so many matrices, and whether transposed.
    Load(usize, bool),
    /// `stmatrix` of so many matrices, and whether transposed.
    Store(usize, bool),
}

/// Instructions that share inputs: 16 words for each lane of each case. Words 0 to 3 are A, 4 and 5 B, 8 to 11 C of
/// a product; all are the memory that `ldmatrix` reads, lane by lane.
pub struct Warps {
    pub name: &'static str,
    pub target: &'static str,
    pub inputs: Vec<u32>,
    pub instructions: Vec<WarpInstruction>,
}

const WORDS: usize = 16;
const CASES: usize = 12;

/// Instructions that are recorded together: words in, words out.
pub trait Group: Send {
    /// Stem of its files.
    fn name(&self) -> &'static str;
    /// What all instructions read.
    fn inputs(&self) -> &[u32];
    /// Names of the instructions.
    fn names(&self) -> Vec<String>;
    /// The PTX file.
    fn ptx(&self) -> String;
    /// Runs the group; of each instruction, its words.
    fn run(&self, device: &Device) -> Result<Vec<Vec<u32>>, String>;
    /// Runs the group in the simulator's executor, if that has its instructions.
    fn execute(&self) -> Option<Result<Vec<Vec<u32>>, Failed>> {
        None
    }
    /// What is wrong with a device's results of instruction `index`.
    fn objections(&self, index: usize, inputs: &[u32], device: &[u32]) -> Vec<String>;
}

impl Group for Warps {
    fn name(&self) -> &'static str {
        self.name
    }

    fn inputs(&self) -> &[u32] {
        &self.inputs
    }

    fn names(&self) -> Vec<String> {
        self.instructions.iter().map(|instruction| instruction.name.clone()).collect()
    }

    /// One kernel, one block of a warp for each case. Each instruction writes 4 words a lane.
    fn ptx(&self) -> String {
        let mut text = format!(
            "// Every instruction of the group '{}' on every case: one warp each.\n\
             // Written by tests/vectors.rs from its table; TOUCHSTONE_ACCEPT=1 writes it anew.\n\
             .version 8.4\n.target {}\n.address_size 64\n\n\
             .visible .entry {}(.param .u64 inputs, .param .u64 results)\n{{\n",
            self.name, self.target, self.name
        );
        text.push_str(PROLOGUE);
        for instruction in &self.instructions {
            let line = match instruction.kind {
                Kind::Product(product) => {
                    let (a, b, c) = product.registers();
                    format!(
                        "{} {}, {}, {}, {};",
                        instruction.name,
                        list("d", 0, c),
                        list("i", 0, a),
                        list("i", 4, b),
                        list("i", 8, c)
                    )
                }
                Kind::Load(count, _) => {
                    format!("{} {}, [%address];", instruction.name, list("d", 0, count))
                }
                Kind::Store(count, _) => format!(
                    "st.shared.v4.b32 [%own], {{-1, -1, -1, -1}};\n    bar.sync 0;\n    {} [%target], {};\n    \
                     bar.sync 0;\n    ld.shared.v4.b32 {{%d0, %d1, %d2, %d3}}, [%own];\n    bar.sync 0;",
                    instruction.name,
                    list("i", 0, count)
                ),
            };
            writeln!(text, "    {line}").expect("a string takes text");
            text.push_str("    st.global.v4.b32 [%out], {%d0, %d1, %d2, %d3};\n");
            text.push_str("    add.s64 %out, %out, %step;\n");
        }
        text.push_str("    ret;\n}\n");
        text
    }

    fn execute(&self) -> Option<Result<Vec<Vec<u32>>, Failed>> {
        Some(super::execute::words(self))
    }

    fn run(&self, device: &Device) -> Result<Vec<Vec<u32>>, String> {
        let text = |error: cudarc::driver::DriverError| format!("{error:?}");
        let stream = &device.stream;
        let module = stream.context().load_module(Ptx::from_src(self.ptx())).map_err(text)?;
        let function = module.load_function(self.name).map_err(text)?;
        let words = CASES * 32 * 4;
        let input = stream.clone_htod(&self.inputs).map_err(text)?;
        let mut output =
            stream.alloc_zeros::<u32>(words * self.instructions.len()).map_err(text)?;
        let config = LaunchConfig {
            grid_dim: (CASES as u32, 1, 1),
            block_dim: (32, 1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: the kernel reads 16 words and writes 4 of each instruction for each lane of each case.
        unsafe { stream.launch_builder(&function).arg(&input).arg(&mut output).launch(config) }
            .map_err(text)?;
        let results = stream.clone_dtoh(&output).map_err(text)?;
        Ok(results.chunks(words).map(<[u32]>::to_vec).collect())
    }

    fn objections(&self, index: usize, inputs: &[u32], device: &[u32]) -> Vec<String> {
        let instruction = &self.instructions[index];
        let mut objections = vec![];
        let cases = inputs.chunks(32 * WORDS).zip(device.chunks(32 * 4));
        for (case, (inputs, device)) in cases.enumerate() {
            let found = match instruction.kind {
                Kind::Product(product) => product_objections(&product, inputs, device),
                Kind::Load(count, transposed) => load_objections(count, transposed, inputs, device),
                Kind::Store(count, transposed) => {
                    store_objections(count, transposed, inputs, device)
                }
            };
            if let Some(first) = found.first() {
                let count = found.len();
                objections
                    .push(format!("{}, case {case}: {count} wrong: {first}", instruction.name));
            }
        }
        objections
    }
}

fn list(register: &str, first: usize, count: usize) -> String {
    let names: Vec<_> = (first..first + count).map(|i| format!("%{register}{i}")).collect();
    format!("{{{}}}", names.join(", "))
}

impl Warps {
    /// Number of cases, each a warp.
    pub const fn cases(&self) -> usize {
        CASES
    }

    /// Words that an instruction gives.
    pub const fn result_words(&self) -> usize {
        CASES * 32 * 4
    }
}

const PROLOGUE: &str =
    "    .reg .b32 %i<16>, %d<4>, %lane, %case, %index, %cases, %address, %base, %own, %target;
    .reg .b64 %in, %out, %step;
    .shared .align 128 .b8 memory[2048];
    mov.u32 %lane, %tid.x;
    mov.u32 %case, %ctaid.x;
    mov.u32 %cases, %nctaid.x;
    mad.lo.u32 %index, %case, 32, %lane;
    ld.param.u64 %in, [inputs];
    ld.param.u64 %out, [results];
    cvta.to.global.u64 %in, %in;
    cvta.to.global.u64 %out, %out;
    mad.wide.u32 %in, %index, 64, %in;
    mad.wide.u32 %out, %index, 16, %out;
    mul.wide.u32 %step, %cases, 512;
    ld.global.v4.b32 {%i0, %i1, %i2, %i3}, [%in];
    ld.global.v4.b32 {%i4, %i5, %i6, %i7}, [%in+16];
    ld.global.v4.b32 {%i8, %i9, %i10, %i11}, [%in+32];
    ld.global.v4.b32 {%i12, %i13, %i14, %i15}, [%in+48];
    mov.u32 %base, memory;
    mad.lo.u32 %address, %lane, 64, %base;
    st.shared.v4.b32 [%address], {%i0, %i1, %i2, %i3};
    st.shared.v4.b32 [%address+16], {%i4, %i5, %i6, %i7};
    st.shared.v4.b32 [%address+32], {%i8, %i9, %i10, %i11};
    st.shared.v4.b32 [%address+48], {%i12, %i13, %i14, %i15};
    bar.sync 0;
    // Row addresses of ldmatrix: lane l points at chunk 5 l mod 128.
    mul.lo.u32 %address, %lane, 80;
    and.b32 %address, %address, 2047;
    add.u32 %address, %address, %base;
    // Of stmatrix: lane l points at chunk 5 l mod 32, and reads chunk l back.
    mad.lo.u32 %own, %lane, 16, %base;
    mul.lo.u32 %target, %lane, 80;
    and.b32 %target, %target, 511;
    add.u32 %target, %target, %base;
    mov.b32 %d0, 0;
    mov.b32 %d1, 0;
    mov.b32 %d2, 0;
    mov.b32 %d3, 0;
";

fn registers(inputs: &[u32], first: usize, count: usize) -> Vec<[u32; 32]> {
    (first..first + count).map(|r| std::array::from_fn(|lane| inputs[lane * WORDS + r])).collect()
}

/// The number that an element is.
pub fn value(ty: Type, bits: u32) -> f64 {
    match ty {
        Type::S8 => f64::from(bits as i8),
        Type::U8 => f64::from(bits as u8),
        Type::S32 => f64::from(bits as i32),
        Type::Tf32 => f64::from(f32::from_bits(bits & 0xffff_e000)),
        _ => f64::from_bits(convert::convert(Conversion::plain(Type::F64, ty, None), bits.into())),
    }
}

/// Elements of an accumulator that are neither equal nor within the bound; a bound of 0 for integers.
fn product_objections(product: &Product, inputs: &[u32], device: &[u32]) -> Vec<String> {
    let (a_count, b_count, c_count) = product.registers();
    let (a, b) = (registers(inputs, 0, a_count), registers(inputs, 4, b_count));
    let c = registers(inputs, 8, c_count);
    let mut d = vec![[0; 32]; c_count];
    product.mma(&a, &b, &c, &mut d);
    let width = bits(product.accumulator);
    let mask = u32::MAX >> (32 - width);
    let mut objections = vec![];
    for (lane, i) in (0..32).flat_map(|lane| (0..c_count * 32 / width).map(move |i| (lane, i))) {
        let (register, shift) = (i * width / 32, i * width % 32);
        let ours = d[register][lane] >> shift & mask;
        let theirs = device[lane * 4 + register] >> shift & mask;
        let (x, y) = (value(product.accumulator, ours), value(product.accumulator, theirs));
        if ours == theirs || (x.is_nan() && y.is_nan()) {
            continue;
        }
        let place = fragment::accumulator(lane, i);
        let start = value(product.accumulator, c[register][lane] >> shift & mask);
        let magnitude = magnitude(product, &a, &b, place) + start.abs();
        let bound =
            if product.accumulator == Type::S32 { 0.0 } else { product::bound(product, magnitude) };
        let error = (x - y).abs();
        if error <= bound {
            continue;
        }
        objections.push(format!(
            "{place:?}: {y:e} ({theirs:#x}) instead of {x:e} ({ours:#x}), allowed {bound:e}"
        ));
    }
    objections
}

/// Sum of the magnitudes of the products of one element.
fn magnitude(
    product: &Product,
    a: &[[u32; 32]],
    b: &[[u32; 32]],
    (row, column): (usize, usize),
) -> f64 {
    let (wide_a, wide_b) = (bits(product.a), bits(product.b));
    let mut rows = vec![0.0; product.shape.k];
    let mut columns = vec![0.0; product.shape.k];
    for lane in 0..32 {
        for (register, element) in (0..4).flat_map(|r| (0..4).map(move |e| (r, e))) {
            let (r, k) = fragment::a(wide_a, lane, register, element);
            if register < a.len() && element < 32 / wide_a && r == row {
                rows[k] = value(
                    product.a,
                    a[register][lane] >> (wide_a * element) & (u32::MAX >> (32 - wide_a)),
                );
            }
            let (k, c) = fragment::b(wide_b, lane, register, element);
            if register < b.len() && element < 32 / wide_b && c == column {
                columns[k] = value(
                    product.b,
                    b[register][lane] >> (wide_b * element) & (u32::MAX >> (32 - wide_b)),
                );
            }
        }
    }
    rows.iter().zip(&columns).map(|(a, b)| (a * b).abs()).sum()
}

fn load_objections(count: usize, transposed: bool, inputs: &[u32], device: &[u32]) -> Vec<String> {
    let memory: Vec<u8> = inputs.iter().flat_map(|word| word.to_le_bytes()).collect();
    let mut objections = vec![];
    for (lane, register) in (0..32).flat_map(|lane| (0..count).map(move |r| (lane, r))) {
        let ours = (0..2).fold(0, |word, element| {
            let (row, byte) = matrix::place(lane, element, transposed);
            let start = matrix::address_lane(register, row) * 80 % 2048 + byte;
            word | u32::from(u16::from_le_bytes([memory[start], memory[start + 1]]))
                << (16 * element)
        });
        let theirs = device[lane * 4 + register];
        if ours != theirs {
            objections.push(format!(
                "lane {lane}, register {register}: {theirs:#x} instead of {ours:#x}"
            ));
        }
    }
    objections
}

fn store_objections(count: usize, transposed: bool, inputs: &[u32], device: &[u32]) -> Vec<String> {
    let mut memory = [0xff_u8; 512];
    for (lane, register) in (0..32).flat_map(|lane| (0..count).map(move |r| (lane, r))) {
        for element in 0..2 {
            let (row, byte) = matrix::place(lane, element, transposed);
            let start = matrix::address_lane(register, row) * 80 % 512 + byte;
            let half = (inputs[lane * WORDS + register] >> (16 * element)) as u16;
            memory[start..start + 2].copy_from_slice(&half.to_le_bytes());
        }
    }
    let words = memory.chunks(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let wrong = words.zip(device).enumerate().filter(|(_, (ours, device))| ours != *device);
    wrong.map(|(i, (ours, device))| format!("word {i}: {device:#x} instead of {ours:#x}")).collect()
}

/// Random words of elements of `ty`. Of 12 cases some have near exponents, some far ones, some are full of special
/// values, some are bits without thought.
pub fn draw(ty: Type, case: usize, words: &mut Words) -> u32 {
    let width = bits(ty);
    (0..32 / width).fold(0, |word, i| word | element(ty, case, words) << (width * i))
}

fn element(ty: Type, case: usize, words: &mut Words) -> u32 {
    let random = words.next();
    if matches!(ty, Type::S8 | Type::U8 | Type::S32) {
        return match (case, ty) {
            (0, _) => (random % 5) as u32 & 0xff,
            (_, Type::S32) if case == 1 => i32::MAX as u32 - (random % 1000) as u32,
            (_, Type::S32) => random as u32,
            _ => random as u32 & 0xff,
        };
    }
    let unit = (random >> 11) as f64 / (1_u64 << 52) as f64 - 1.0;
    let spread = (words.next() % 64) as i32;
    let value = match case {
        0 => (random % 9) as f64 - 4.0,
        1..4 => unit,
        4 | 5 => unit * 2_f64.powi(spread % 12 - 6),
        6 | 7 => unit * 2_f64.powi(spread / 2 - 20),
        // Cancellation: the same few numbers with both signs.
        8 => [1.0, -1.0, 1.5, -1.5, 0.0, 1.0 / 1024.0][(random % 6) as usize],
        9 => unit * 2_f64.powi(-14 - spread % 10),
        10 => [
            0.0,
            -0.0,
            1.0,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::NAN,
            1e4,
            0.5,
            2.0,
            -1.0,
            3.0,
            1.0,
            1.0,
            1.0,
            0.25,
            1.0,
        ][(random % 64).min(15) as usize],
        _ => unit * 2_f64.powi(spread / 4),
    };
    let c = Conversion {
        saturate_finite: value.is_finite(),
        ..Conversion::plain(ty, Type::F64, Some(Rounding::Nearest))
    };
    convert::convert(c, value.to_bits()) as u32
}

fn group(
    name: &'static str,
    target: &'static str,
    (a, b): (Type, Type),
    kinds: &[(usize, Type, bool)],
) -> Warps {
    let mut words = Words(name.bytes().map(u64::from).sum());
    let accumulator = kinds[0].1;
    let mut inputs = vec![];
    for case in 0..CASES {
        for _ in 0..32 {
            inputs.extend((0..4).map(|_| draw(a, case, &mut words)));
            inputs.extend((0..4).map(|_| draw(b, case, &mut words)));
            inputs.extend((0..8).map(|_| draw(accumulator, case, &mut words)));
        }
    }
    let instructions = kinds
        .iter()
        .map(|(k, accumulator, saturate)| {
            let shape = Shape { m: 16, n: 8, k: *k };
            let product = Product { shape, a, b, accumulator: *accumulator, saturate: *saturate };
            let text = |ty: Type| format!("{ty:?}").to_lowercase();
            let more = if *saturate { ".satfinite" } else { "" };
            let (d, a, b) = (text(*accumulator), text(a), text(b));
            WarpInstruction {
                name: format!("mma.sync.aligned.m16n8k{k}.row.col{more}.{d}.{a}.{b}.{d}"),
                kind: Kind::Product(product),
            }
        })
        .collect();
    Warps { name, target, inputs, instructions }
}

/// All groups.
pub fn all() -> Vec<Box<dyn Group>> {
    use Type::{Bf16, E4m3, E5m2, F16, F32, S8, S32, Tf32, U8};
    let mut all = vec![
        group("mma_f16", "sm_80", (F16, F16), &[(8, F32, false), (16, F32, false)]),
        group("mma_f16_f16", "sm_80", (F16, F16), &[(8, F16, false), (16, F16, false)]),
        group("mma_bf16", "sm_80", (Bf16, Bf16), &[(8, F32, false), (16, F32, false)]),
        group("mma_tf32", "sm_80", (Tf32, Tf32), &[(4, F32, false), (8, F32, false)]),
        group("mma_s8", "sm_80", (S8, S8), &[(16, S32, false), (32, S32, false), (32, S32, true)]),
        group("mma_u8_s8", "sm_80", (U8, S8), &[(32, S32, false)]),
        group("mma_e4m3", "sm_89", (E4m3, E4m3), &[(32, F32, false)]),
        group("mma_e5m2", "sm_89", (E5m2, E4m3), &[(32, F32, false)]),
    ];
    all.push(matrices("ldmatrix", "sm_80", Kind::Load));
    all.push(matrices("stmatrix", "sm_90", Kind::Store));
    let mut all: Vec<Box<dyn Group>> =
        all.into_iter().map(|group| Box::new(group) as Box<dyn Group>).collect();
    all.push(Box::new(super::warpgroups::group()));
    all.push(Box::new(super::bulk::mbarriers()));
    all.push(Box::new(super::bulk::copies()));
    all.push(Box::new(super::copies::group()));
    all
}

/// `ldmatrix` or `stmatrix` of 1, 2 and 4 matrices, as they are and transposed.
fn matrices(name: &'static str, target: &'static str, kind: fn(usize, bool) -> Kind) -> Warps {
    let mut words = Words(2024);
    let forms = [(1, ""), (2, ""), (4, ""), (1, ".trans"), (2, ".trans"), (4, ".trans")];
    Warps {
        name,
        target,
        inputs: (0..CASES * 32 * WORDS).map(|_| words.next() as u32).collect(),
        instructions: forms
            .iter()
            .map(|(count, trans)| WarpInstruction {
                name: format!("{name}.sync.aligned.m8n8.x{count}{trans}.shared.b16"),
                kind: kind(*count, !trans.is_empty()),
            })
            .collect(),
    }
}
