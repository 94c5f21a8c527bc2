//! Warpgroup-level matrix instructions (chapter 9.7.14): `wgmma`.

use super::{Decoded, Decoding, Form, Op, Refusal, matrix::shape};
use crate::simulator::{
    monitor::Class,
    numeric::tensor::{Major, Product, Shape},
    parse::Operand,
    registers::{Source, Target},
    types::Type,
};

/// Where A of a `wgmma` is.
#[derive(Clone, Debug)]
pub enum OperandA {
    /// In four registers of each lane.
    Registers(Vec<Source>),
    /// In shared memory, behind a descriptor.
    Shared(Source),
}

/// `wgmma.mma_async`, as one of the four warps sees it: 16 of the 64 rows.
#[derive(Clone, Debug)]
pub struct WarpgroupProduct {
    /// A product of 16 rows.
    pub product: Product,
    /// Accumulators.
    pub d: Vec<Target>,
    /// The same, read.
    pub c: Vec<Source>,
    /// Operand A.
    pub a: OperandA,
    /// Descriptor of B.
    pub b: Source,
    /// Whether the accumulators are added to; otherwise they start from zero.
    pub accumulate: Source,
    /// Which dimension of A and of B is contiguous.
    pub majors: [Major; 2],
    /// Whether A and B are negated.
    pub negated: [bool; 2],
}

/// Decodes by modifier.
pub fn decode(form: &mut Form<'_, '_>) -> Decoding {
    if !form.takes("sync") || !form.takes("aligned") {
        return Err(Refusal::Unknown);
    }
    let op = if form.takes("fence") {
        Op::FenceProducts
    } else if form.takes("commit_group") {
        Op::CommitProducts
    } else if form.takes("wait_group") {
        Op::WaitProducts(form.immediate(0)?.min(1 << 20) as u32)
    } else if form.takes("mma_async") {
        return multiply(form);
    } else {
        return Err(Refusal::Unknown);
    };
    Ok(Decoded::new(op, Class::Synchronization))
}

fn multiply(form: &mut Form<'_, '_>) -> Decoding {
    let shape = form.find(shape).filter(|shape| shape.m == 64 && shape.n % 8 == 0);
    let Shape { n, k, .. } = shape.filter(|shape| shape.n <= 256).ok_or(Refusal::Unknown)?;
    let saturate = form.takes("satfinite");
    let [accumulator, a, b] = [form.kind()?, form.kind()?, form.kind()?];
    let known = match accumulator {
        Type::F32 => matches!(a, Type::F16 | Type::Bf16 | Type::Tf32 | Type::E4m3 | Type::E5m2),
        Type::F16 => matches!(a, Type::F16 | Type::E4m3 | Type::E5m2),
        Type::S32 => matches!(a, Type::S8 | Type::U8),
        _ => false,
    };
    if !known || a.bytes() != b.bytes() || a.bytes() * k != 32 {
        return Err(Refusal::Unknown);
    }
    let product = Product { shape: Shape { m: 16, n, k }, a, b, accumulator, saturate };
    let accumulators = form.members(0)?;
    let (_, _, count) = product.registers();
    if accumulators.len() != count {
        return Err(Refusal::Operand(format!("{count} accumulators are needed")));
    }
    let c = accumulators.iter().map(|member| form.source_of(member)).collect::<Result<_, _>>()?;
    let d = accumulators.iter().map(|member| form.target_of(member)).collect::<Result<_, _>>()?;
    let first = match form.operand(1)? {
        Operand::Vector(members) if members.len() == 4 => OperandA::Registers(
            members.iter().map(|member| form.source_of(member)).collect::<Result<_, _>>()?,
        ),
        Operand::Vector(_) => return Err(Refusal::Operand("A takes four registers".into())),
        _ => OperandA::Shared(form.source(1)?),
    };
    let (majors, negated) = scales(form, &product, matches!(first, OperandA::Registers(_)))?;
    let (b, accumulate) = (form.source(2)?, form.source(3)?);
    let op = WarpgroupProduct { product, d, c, a: first, b, accumulate, majors, negated };
    Ok(Decoded {
        flops: (2 * 16 * n * k) as u64,
        ..Decoded::new(Op::WarpgroupProduct(Box::new(op)), Class::Tensor)
    })
}

/// The immediates: signs of A and B (not of integers), and of 16-bit elements in shared memory what is transposed.
fn scales(
    form: &Form<'_, '_>,
    product: &Product,
    in_registers: bool,
) -> Result<([Major; 2], [bool; 2]), Refusal> {
    let mut next = 4;
    let mut immediate = || {
        next += 1;
        form.immediate(next - 1).map(|value| value as i64)
    };
    let (mut majors, mut negated) = ([Major::K; 2], [false; 2]);
    if product.accumulator == Type::S32 {
        return Ok((majors, negated));
    }
    for negated in &mut negated {
        *negated = immediate()? == -1;
    }
    if product.a.bytes() == 2 {
        for major in majors.iter_mut().skip(usize::from(in_registers)) {
            if immediate()? == 1 {
                *major = Major::Mn;
            }
        }
    }
    Ok((majors, negated))
}
