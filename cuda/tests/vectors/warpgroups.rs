//! `wgmma`: products of a warpgroup whose operands lie in shared memory, under every swizzle and major dimension.

use std::fmt::Write;

use cudarc::{
    driver::{LaunchConfig, PushKernelArg},
    nvrtc::Ptx,
};
use libtest_mimic::Failed;
use touchstone_cuda::{
    Plan,
    simulator::{
        Simulator,
        numeric::tensor::{
            Descriptor, Major, Product, Shape, Swizzle, fragment,
            product::{self, bits},
        },
        types::Type,
    },
};
use touchstone_reference::{DType, Tensor};

use super::{
    execute,
    family::Words,
    record::Device,
    warps::{Group, draw, value},
};

/// One `wgmma` m64n16.
struct Instruction {
    text: String,
    product: Product,
    a_major: Major,
    b_major: Major,
    a_in_registers: bool,
    negate_a: bool,
    negate_b: bool,
    accumulate: bool,
}

/// `wgmma` on an image of 16 KiB of shared memory, which is the input, with several descriptors of A and B.
pub struct Warpgroups {
    image: Vec<u32>,
    descriptors: Vec<(Descriptor, Descriptor)>,
    instructions: Vec<Instruction>,
}

const WORDS: usize = 4096;
/// Words that a thread writes: 8 accumulators.
const RESULTS: usize = 8;

/// The whole group.
pub fn group() -> Warpgroups {
    let mut words = Words(64);
    // Halves in (-1, 1) with an even last bit: their bytes are numbers in e4m3 too.
    let image = (0..WORDS).map(|_| draw(Type::F16, 1, &mut words) & 0xfffe_fffe).collect();
    let tile = |start, leading, stride, base_offset, swizzle| {
        let a = Descriptor { start, leading, stride, base_offset, swizzle };
        (a, Descriptor { start: start + 8192, ..a })
    };
    let descriptors = vec![
        tile(0, 128, 256, 0, Swizzle::None),
        tile(0, 1024, 128, 0, Swizzle::None),
        tile(0, 512, 256, 0, Swizzle::Bytes32),
        tile(0, 1024, 512, 0, Swizzle::Bytes64),
        tile(0, 2048, 1024, 0, Swizzle::Bytes128),
        tile(32, 2048, 1024, 0, Swizzle::Bytes128),
    ];
    Warpgroups { image, descriptors, instructions: instructions() }
}

fn instructions() -> Vec<Instruction> {
    use Type::{Bf16, E4m3, F16, F32, S8, S32, Tf32};
    let mut all = vec![];
    let mut add = |ty: Type, accumulator: Type, k: usize, tail: &str, text: &str| {
        let types = format!("{accumulator:?}.{ty:?}.{ty:?}").to_lowercase();
        let flags: Vec<&str> = tail.split(", ").collect();
        let flag = |i: usize, value: &str| flags.get(i) == Some(&value);
        let a_in_registers = text.contains("registers");
        let major = |transposed| if transposed { Major::Mn } else { Major::K };
        all.push(Instruction {
            text: format!("wgmma.mma_async.sync.aligned.m64n16k{k}.{types}"),
            product: Product {
                shape: Shape { m: 64, n: 16, k },
                a: ty,
                b: ty,
                accumulator,
                saturate: false,
            },
            a_major: major(!a_in_registers && flag(2, "1")),
            b_major: major(flag(if a_in_registers { 2 } else { 3 }, "1")),
            a_in_registers,
            negate_a: flag(0, "-1"),
            negate_b: flag(1, "-1"),
            accumulate: text.contains("accumulate"),
        });
    };
    for tail in ["1, 1, 0, 0", "1, 1, 1, 0", "1, 1, 0, 1", "1, 1, 1, 1"] {
        add(F16, F32, 16, tail, "");
    }
    add(F16, F32, 16, "-1, 1, 0, 0", "accumulate");
    add(F16, F32, 16, "1, -1, 0, 1", "registers");
    add(F16, F16, 16, "1, 1, 0, 0", "");
    add(Bf16, F32, 16, "1, 1, 1, 1", "accumulate");
    add(Tf32, F32, 8, "1, 1", "");
    add(E4m3, F32, 32, "1, 1", "accumulate");
    add(E4m3, F32, 32, "1, 1", "registers");
    add(S8, S32, 32, "", "");
    all
}

impl Instruction {
    /// Text after the type: what PTX calls scale and transpose.
    fn tail(&self) -> String {
        if self.product.accumulator == Type::S32 {
            return String::new();
        }
        let sign = |negate| if negate { "-1" } else { "1" };
        let mut tail = format!(", {}, {}", sign(self.negate_a), sign(self.negate_b));
        if bits(self.product.a) == 16 {
            let flag = |major| if major == Major::Mn { ", 1" } else { ", 0" };
            if !self.a_in_registers {
                tail.push_str(flag(self.a_major));
            }
            tail.push_str(flag(self.b_major));
        }
        tail
    }

    fn accumulators(&self) -> usize {
        if self.product.accumulator == Type::F16 { 4 } else { 8 }
    }
}

impl Group for Warpgroups {
    fn name(&self) -> &'static str {
        "wgmma"
    }

    fn inputs(&self) -> &[u32] {
        &self.image
    }

    fn names(&self) -> Vec<String> {
        let name = |i: &Instruction| {
            let a = if i.a_in_registers { " registers" } else { "" };
            let start = if i.accumulate { " accumulate" } else { "" };
            format!("{}{}{a}{start}", i.text, i.tail())
        };
        self.instructions.iter().map(name).collect()
    }

    fn ptx(&self) -> String {
        let mut text = String::from(HEAD);
        for instruction in &self.instructions {
            let registers: Vec<_> =
                (0..instruction.accumulators()).map(|i| format!("%d{i}")).collect();
            let a = if instruction.a_in_registers { "{%r0, %r1, %r2, %r3}" } else { "%a" };
            for i in 0..RESULTS {
                writeln!(text, "    mov.b32 %d{i}, %i{i};").expect("a string takes text");
            }
            writeln!(
                text,
                "    setp.ne.u32 %accumulate, {}, 0;\n    wgmma.fence.sync.aligned;\n    {} {{{}}}, {a}, %b, \
                 %accumulate{};\n    wgmma.commit_group.sync.aligned;\n    wgmma.wait_group.sync.aligned 0;\n    \
                 st.global.v4.b32 [%out], {{%d0, %d1, %d2, %d3}};\n    \
                 st.global.v4.b32 [%out+16], {{%d4, %d5, %d6, %d7}};\n    add.s64 %out, %out, %step;",
                u32::from(instruction.accumulate),
                instruction.text,
                registers.join(", "),
                instruction.tail()
            )
            .expect("a string takes text");
        }
        text.push_str("    ret;\n}\n");
        text
    }

    fn execute(&self) -> Option<Result<Vec<Vec<u32>>, Failed>> {
        Some(self.simulate())
    }

    fn run(&self, device: &Device) -> Result<Vec<Vec<u32>>, String> {
        let text = |error: cudarc::driver::DriverError| format!("{error:?}");
        let stream = &device.stream;
        let module = stream.context().load_module(Ptx::from_src(self.ptx())).map_err(text)?;
        let function = module.load_function("wgmma").map_err(text)?;
        let pairs: Vec<u64> =
            self.descriptors.iter().flat_map(|(a, b)| [a.encode(), b.encode()]).collect();
        let words = self.descriptors.len() * 128 * RESULTS;
        let image = stream.clone_htod(&self.image).map_err(text)?;
        let pairs = stream.clone_htod(&pairs).map_err(text)?;
        let mut output =
            stream.alloc_zeros::<u32>(words * self.instructions.len()).map_err(text)?;
        let config = LaunchConfig {
            grid_dim: (self.descriptors.len() as u32, 1, 1),
            block_dim: (128, 1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: one block for each pair of descriptors; each thread writes 8 words of each instruction.
        unsafe {
            stream.launch_builder(&function).arg(&image).arg(&pairs).arg(&mut output).launch(config)
        }
        .map_err(text)?;
        let results = stream.clone_dtoh(&output).map_err(text)?;
        Ok(results.chunks(words).map(<[u32]>::to_vec).collect())
    }

    fn objections(&self, index: usize, inputs: &[u32], device: &[u32]) -> Vec<String> {
        let instruction = &self.instructions[index];
        let mut objections = vec![];
        for (case, (pair, device)) in
            self.descriptors.iter().zip(device.chunks(128 * RESULTS)).enumerate()
        {
            let ours = instruction.compute(inputs, *pair, false);
            let magnitudes = instruction.compute(inputs, *pair, true);
            let agrees = |i: usize| same(instruction, i, ours[i], device[i], magnitudes[i]);
            let wrong: Vec<_> = (0..ours.len()).filter(|i| !agrees(*i)).collect();
            if let Some(first) = wrong.first() {
                objections.push(format!(
                    "{}, descriptors {case}: {} of {} wrong; thread {}, register {}: {:#x} instead of {:#x}",
                    self.names()[index],
                    wrong.len(),
                    ours.len(),
                    first / RESULTS,
                    first % RESULTS,
                    device[*first],
                    ours[*first]
                ));
            }
        }
        objections
    }
}

impl Warpgroups {
    fn simulate(&self) -> Result<Vec<Vec<u32>>, Failed> {
        let simulator = Simulator::new().with_module("wgmma", self.ptx());
        let bytes: Vec<u8> = self.image.iter().flat_map(|word| word.to_le_bytes()).collect();
        let pairs = self.descriptors.iter().flat_map(|(a, b)| [a.encode(), b.encode()]);
        let pairs: Vec<u8> = pairs.flat_map(u64::to_le_bytes).collect();
        let cases = self.descriptors.len();
        let words = cases * 128 * RESULTS;
        let mut plan = Plan::new();
        let image = plan.table("image", Tensor::from_bytes(DType::U32, &[WORDS], &bytes));
        let pairs = plan.table("pairs", Tensor::from_bytes(DType::U64, &[2 * cases], &pairs));
        let results = plan.output("results", DType::U32, &[words * self.instructions.len()]);
        let args = [image.into(), pairs.into(), results.into()];
        plan.launch("wgmma", "wgmma", [cases, 1, 1], [128, 1, 1], 0, &args);
        let results = execute::run(&simulator, &plan)?;
        let results: Vec<u32> =
            results.chunks(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        Ok(results.chunks(words).map(<[u32]>::to_vec).collect())
    }
}

/// Whether a device's result word agrees: the same, NaN for NaN, or within the bound for products and
/// accumulator of that magnitude. Unused words of a thread, and integers, must be equal.
fn same(instruction: &Instruction, word: usize, ours: u32, device: u32, magnitude: u32) -> bool {
    let product = &instruction.product;
    if ours == device || product.accumulator == Type::S32 {
        return ours == device;
    }
    if word % RESULTS >= instruction.accumulators() {
        return false;
    }
    let width = bits(product.accumulator);
    (0..32 / width).all(|i| {
        let part = |word: u32| {
            value(product.accumulator, word >> (width * i) & (u32::MAX >> (32 - width)))
        };
        let (ours, device) = (part(ours), part(device));
        // The magnitude is itself cut off by as much as the bound allows.
        let bound = product::bound(product, 1.01 * part(magnitude));
        (ours.is_nan() && device.is_nan()) || (ours - device).abs() <= bound
    })
}

impl Instruction {
    /// The 8 result words of each of 128 threads; `absolute` ones are the sums of magnitudes.
    fn compute(&self, image: &[u32], (a, b): (Descriptor, Descriptor), absolute: bool) -> Vec<u32> {
        let Shape { m, n, k } = self.product.shape;
        let bytes: Vec<u8> = image.iter().flat_map(|word| word.to_le_bytes()).collect();
        let size = bits(self.product.a) / 8;
        let read = |address: u32, size: u32| {
            let at = address as usize;
            bytes[at..at + size as usize]
                .iter()
                .rev()
                .fold(0, |word, byte| word << 8 | u32::from(*byte))
        };
        let mut whole_a = if self.a_in_registers {
            self.a_of_registers(image)
        } else {
            a.gather(self.a_major, size as u32, m as u32, k as u32, read)
        };
        let mut whole_b = b.gather(self.b_major, size as u32, n as u32, k as u32, read);
        let sign = 1 << (bits(self.product.a) - 1);
        if self.negate_a {
            whole_a.iter_mut().for_each(|bits| *bits ^= sign);
        }
        if self.negate_b {
            whole_b.iter_mut().for_each(|bits| *bits ^= sign);
        }
        if absolute && self.product.accumulator != Type::S32 {
            whole_a.iter_mut().chain(&mut whole_b).for_each(|bits| *bits &= sign - 1);
        }
        let width = bits(self.product.accumulator);
        let mask = u32::MAX >> (32 - width);
        let place = |thread: usize, i: usize| {
            let (row, column) = fragment::accumulator(thread % 32, i);
            (fragment::warp_row(thread / 32) + row) * n + column
        };
        let elements = || (0..128).flat_map(|thread| (0..8).map(move |i| (thread, i)));
        // Accumulators start as the first 8 words of a thread's 16 (the second half of a 32 KiB view of the image).
        let initial = |thread: usize, i: usize| {
            let word = image[(thread * 16 + i * width / 32) % WORDS];
            word >> (i * width % 32) & mask
        };
        let mut c = vec![0; m * n];
        if self.accumulate {
            elements().for_each(|(thread, i)| c[place(thread, i)] = initial(thread, i));
        }
        if absolute {
            c.iter_mut().for_each(|bits| *bits &= mask >> 1);
        }
        let mut d = vec![0; m * n];
        self.product.multiply(&whole_a, &whole_b, &c, &mut d);
        let mut results: Vec<u32> = (0..128)
            .flat_map(|thread| (0..RESULTS).map(move |i| (thread, i)))
            .map(|(thread, i)| if i < self.accumulators() { 0 } else { image[thread * 16 + i] })
            .collect();
        for (thread, i) in elements() {
            results[thread * RESULTS + i * width / 32] |= d[place(thread, i)] << (i * width % 32);
        }
        results
    }

    /// A from words 8 to 11 of each thread's 16.
    fn a_of_registers(&self, image: &[u32]) -> Vec<u32> {
        let Shape { m, k, .. } = self.product.shape;
        let width = bits(self.product.a);
        let mut a = vec![0; m * k];
        for thread in 0..128 {
            for (register, element) in (0..4).flat_map(|r| (0..32 / width).map(move |e| (r, e))) {
                let (row, column) = fragment::a(width, thread % 32, register, element);
                let word = image[thread * 16 + 8 + register];
                let row = fragment::warp_row(thread / 32) + row;
                a[row * k + column] = word >> (width * element) & (u32::MAX >> (32 - width));
            }
        }
        a
    }
}

const HEAD: &str = "// Every wgmma of the group on every pair of descriptors: one warpgroup each.
// Written by tests/vectors.rs from its table; TOUCHSTONE_ACCEPT=1 writes it anew.
.version 8.4
.target sm_90a
.address_size 64

.visible .entry wgmma(.param .u64 image, .param .u64 descriptors, .param .u64 results)
{
    .reg .pred %more, %accumulate;
    .reg .b32 %d<8>, %i<8>, %r<4>, %word, %lane, %case, %index, %cases, %address, %base;
    .reg .b64 %in, %pairs, %out, %step, %a, %b, %start, %from;
    .shared .align 1024 .b8 memory[16384];
    mov.u32 %lane, %tid.x;
    mov.u32 %case, %ctaid.x;
    mov.u32 %cases, %nctaid.x;
    ld.param.u64 %in, [image];
    ld.param.u64 %pairs, [descriptors];
    ld.param.u64 %out, [results];
    cvta.to.global.u64 %in, %in;
    cvta.to.global.u64 %pairs, %pairs;
    cvta.to.global.u64 %out, %out;
    mad.lo.u32 %index, %case, 128, %lane;
    mad.wide.u32 %out, %index, 32, %out;
    mul.wide.u32 %step, %cases, 4096;
    mov.u32 %base, memory;
    mov.u32 %index, %lane;
COPY:
    mad.wide.u32 %from, %index, 4, %in;
    ld.global.b32 %word, [%from];
    mad.lo.u32 %address, %index, 4, %base;
    st.shared.b32 [%address], %word;
    add.u32 %index, %index, 128;
    setp.lt.u32 %more, %index, 4096;
    @%more bra COPY;
    mad.wide.u32 %from, %lane, 64, %in;
    ld.global.v4.b32 {%i0, %i1, %i2, %i3}, [%from];
    ld.global.v4.b32 {%i4, %i5, %i6, %i7}, [%from+16];
    ld.global.v4.b32 {%r0, %r1, %r2, %r3}, [%from+32];
    // Descriptors are relative to the image: its address, in units of 16 bytes, is added to their start.
    mad.wide.u32 %pairs, %case, 16, %pairs;
    ld.global.v2.b64 {%a, %b}, [%pairs];
    shr.u32 %word, %base, 4;
    cvt.u64.u32 %start, %word;
    add.s64 %a, %a, %start;
    add.s64 %b, %b, %start;
    fence.proxy.async;
    bar.sync 0;
";
