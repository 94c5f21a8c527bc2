//! A family of elementwise instructions: their PTX, their inputs, and what the simulator says of them.

use std::fmt::Write;

use touchstone_cuda::simulator::numeric::approx::{self, Function};

/// When a device's result is right.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Agreement {
    /// Equal bits.
    Exact,
    /// Equal bits, but any NaN (of a format with these bits and exponent bits) will do: PTX leaves payloads open.
    AnyNan { bits: u32, exponent_bits: u32 },
    /// Within the documented bound of the function, of the format's values.
    Approx(Function),
}

/// One instruction, or a few, on the registers `%{h,w,l}{a,b,c}` (16, 32 and 64 bits), result in `%{h,w,l,p}d`.
pub struct Instruction {
    /// PTX text, one statement a line.
    pub text: String,
    /// What the simulator computes from the words a, b, c.
    pub compute: Box<dyn Fn(u64, u64, u64) -> u64 + Send>,
    /// How results are compared.
    pub agreement: Agreement,
}

/// An instruction whose result PTX defines to the last bit.
pub fn op(
    text: impl Into<String>,
    f: impl Fn(u64, u64, u64) -> u64 + Send + 'static,
) -> Instruction {
    Instruction { text: text.into(), compute: Box::new(f), agreement: Agreement::Exact }
}

impl Instruction {
    /// The same, with another agreement.
    pub fn within(self, agreement: Agreement) -> Self {
        Self { agreement, ..self }
    }

    /// Bytes of the result.
    pub fn bytes(&self) -> usize {
        let has = |register: &str| self.text.contains(register);
        match () {
            () if has("%pd") => 1,
            () if has("%hd") => 2,
            () if has("%ld") => 8,
            () => 4,
        }
    }

    /// The name under which results are kept: its text on one line.
    pub fn name(&self) -> String {
        self.text.split('\n').map(str::trim).collect::<Vec<_>>().join(" ")
    }
}

/// Instructions that share inputs and a PTX file.
pub struct Family {
    /// Stem of its files.
    pub name: &'static str,
    /// PTX target.
    pub target: &'static str,
    /// Operand triples.
    pub inputs: Vec<[u64; 3]>,
    /// The instructions.
    pub instructions: Vec<Instruction>,
}

impl Family {
    /// The PTX file: one kernel that applies every instruction to every triple. Results are 8 bytes apart.
    pub fn ptx(&self) -> String {
        let mut text = format!(
            "// Every instruction of the family '{}' on every triple of inputs.\n\
             // Written by tests/vectors.rs from its table; TOUCHSTONE_ACCEPT=1 writes it anew.\n\
             .version 8.4\n.target {}\n.address_size 64\n\n\
             .visible .entry {}(.param .u64 inputs, .param .u64 results, .param .u32 count)\n{{\n",
            self.name, self.target, self.name
        );
        text.push_str(PROLOGUE);
        for instruction in &self.instructions {
            for line in instruction.text.split('\n') {
                writeln!(text, "    {}", line.trim()).expect("a string takes text");
            }
            let store = match instruction.bytes() {
                1 => "selp.b32 %wd, 1, 0, %pd;\n    st.global.b32 [%out], %wd;",
                _ if instruction.text.contains("[%out]") => "",
                2 => "st.global.b16 [%out], %hd;",
                4 => "st.global.b32 [%out], %wd;",
                _ => "st.global.b64 [%out], %ld;",
            };
            if !store.is_empty() {
                writeln!(text, "    {store}").expect("a string takes text");
            }
            text.push_str("    add.s64 %out, %out, %step;\n");
        }
        text.push_str("DONE:\n    ret;\n}\n");
        text
    }
}

const PROLOGUE: &str = "    .reg .pred %past, %pd;
    .reg .b16 %ha, %hb, %hc, %hd;
    .reg .b32 %wa, %wb, %wc, %wd, %wx, %index, %block, %size, %count;
    .reg .b64 %la, %lb, %lc, %ld, %lx, %in, %out, %step;
    mov.u32 %index, %tid.x;
    mov.u32 %block, %ctaid.x;
    mov.u32 %size, %ntid.x;
    mad.lo.u32 %index, %block, %size, %index;
    ld.param.u32 %count, [count];
    setp.ge.u32 %past, %index, %count;
    @%past bra DONE;
    ld.param.u64 %in, [inputs];
    ld.param.u64 %out, [results];
    cvta.to.global.u64 %in, %in;
    cvta.to.global.u64 %out, %out;
    mad.wide.u32 %in, %index, 24, %in;
    mad.wide.u32 %out, %index, 8, %out;
    mul.wide.u32 %step, %count, 8;
    ld.global.b64 %la, [%in];
    ld.global.b64 %lb, [%in+8];
    ld.global.b64 %lc, [%in+16];
    cvt.u32.u64 %wa, %la;
    cvt.u32.u64 %wb, %lb;
    cvt.u32.u64 %wc, %lc;
    cvt.u16.u64 %ha, %la;
    cvt.u16.u64 %hb, %lb;
    cvt.u16.u64 %hc, %lc;
";

impl Agreement {
    /// Why `device` does not agree with `ours`, if it does not. `inputs` are the operands.
    pub fn objection(self, inputs: [u64; 3], ours: u64, device: u64) -> Option<String> {
        if ours == device {
            return None;
        }
        let differ = || Some(format!("{device:#x} instead of {ours:#x}"));
        match self {
            Self::Exact => differ(),
            Self::AnyNan { bits, exponent_bits } => {
                let magnitude = (1_u64 << (bits - 1)) - 1;
                let infinity = magnitude & !((1 << (bits - 1 - exponent_bits)) - 1);
                let nan = |value: u64| value & magnitude > infinity;
                if nan(ours) && nan(device) { None } else { differ() }
            }
            Self::Approx(function) => approximate(function, inputs, ours, device),
        }
    }
}

fn approximate(function: Function, inputs: [u64; 3], ours: u64, device: u64) -> Option<String> {
    use Function::{Div, DivFull, Ex2Bf16, Ex2F16, RcpF64, RsqrtF64, TanhBf16, TanhF16};
    use touchstone_cuda::simulator::numeric::half::Half;
    let value = |bits: u64| match function {
        Ex2F16 | TanhF16 => f64::from(Half::F16.widen(bits as u16)),
        Ex2Bf16 | TanhBf16 => f64::from(Half::Bf16.widen(bits as u16)),
        RcpF64 | RsqrtF64 => f64::from_bits(bits),
        _ => f64::from(f32::from_bits(bits as u32)),
    };
    let (y, given) = (value(ours), value(device));
    let x = value(if matches!(function, Div | DivFull) { inputs[1] } else { inputs[0] });
    if y.is_nan() && given.is_nan() {
        return None;
    }
    let bound = approx::allowed(function, x, y);
    let error = (given - y).abs();
    if error <= bound {
        return None;
    }
    Some(format!("{given:e} instead of {y:e}, error {error:e}, allowed {bound:e}"))
}

/// A sequence of well-mixed words (splitmix64), the same on every machine.
pub struct Words(pub u64);

impl Words {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// All pairs of `edges`, each with a third of them, and `random` triples more: bits from `draw`.
pub fn triples(
    edges: &[u64],
    random: usize,
    seed: u64,
    draw: impl Fn(&mut Words) -> u64,
) -> Vec<[u64; 3]> {
    let mut words = Words(seed);
    let mut all = vec![];
    for a in edges {
        for b in edges {
            let c = edges[words.below(edges.len() as u64) as usize];
            all.push([*a, *b, c]);
        }
    }
    all.extend((0..random).map(|_| [draw(&mut words), draw(&mut words), draw(&mut words)]));
    all
}
