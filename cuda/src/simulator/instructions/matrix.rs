//! Warp-level matrix instructions (chapter 9.7.13): `mma`, `ldmatrix`, `stmatrix`, `movmatrix`.

use super::{
    Decoded, Decoding, Form, Op, Refusal,
    compute::Compute,
    memory::{Address, address},
};
use crate::simulator::{
    fault::Space,
    monitor::Class,
    numeric::tensor::{Product, Shape, matrix},
    parse::Operand,
    registers::{FULL, Source, Target},
    types::Type,
};

/// `ldmatrix`: 8 × 8 matrices of 16-bit elements, each row at an address that a lane gives.
#[derive(Clone, Debug)]
pub struct MatrixLoad {
    /// Where each lane's row lies.
    pub address: Address,
    /// One register for each matrix: 1, 2 or 4.
    pub targets: Vec<Target>,
    /// `.trans`.
    pub transposed: bool,
}

/// `stmatrix`: the same the other way.
#[derive(Clone, Debug)]
pub struct MatrixStore {
    /// Where each lane's row goes.
    pub address: Address,
    /// One register for each matrix: 1, 2 or 4.
    pub sources: Vec<Source>,
    /// `.trans`.
    pub transposed: bool,
}

/// Decodes by opcode.
pub fn decode(form: &mut Form<'_, '_>) -> Decoding {
    match form.head {
        "mma" => product(form),
        "ldmatrix" => load(form),
        "stmatrix" => store(form),
        _ => transpose(form),
    }
}

pub(super) fn shape(word: &str) -> Option<Shape> {
    let (m, rest) = word.strip_prefix('m')?.split_once('n')?;
    let (n, k) = rest.split_once('k')?;
    Some(Shape { m: m.parse().ok()?, n: n.parse().ok()?, k: k.parse().ok()? })
}

/// `mma.sync.aligned.m16n8k*.row.col`.
fn product(form: &mut Form<'_, '_>) -> Decoding {
    let plain =
        form.takes("sync") && form.takes("aligned") && form.takes("row") && form.takes("col");
    let shape = form.find(shape).filter(|shape| plain && shape.m == 16 && shape.n == 8);
    let shape = shape.ok_or(Refusal::Unknown)?;
    let saturate = form.takes("satfinite");
    let [d_type, a, b, accumulator] = [form.kind()?, form.kind()?, form.kind()?, form.kind()?];
    let known = match accumulator {
        Type::F32 => {
            matches!(a, Type::F16 | Type::Bf16 | Type::Tf32 | Type::E4m3 | Type::E5m2)
        }
        Type::F16 => a == Type::F16,
        Type::S32 => matches!(a, Type::S8 | Type::U8),
        _ => false,
    };
    let same_size = a.bytes() == b.bytes() && (4..=32).contains(&shape.k);
    if d_type != accumulator || !known || !same_size {
        return Err(Refusal::Unknown);
    }
    let product = Product { shape, a, b, accumulator, saturate };
    let (in_a, in_b, in_c) = product.registers();
    let members = |i: usize, count: usize| -> Result<&[Operand<'_>], Refusal> {
        let members = form.members(i)?;
        if members.len() == count {
            Ok(members)
        } else {
            Err(Refusal::Operand(format!("operand {} needs {count} registers", i + 1)))
        }
    };
    let sources = |i: usize, count: usize| -> Result<Vec<Source>, Refusal> {
        members(i, count)?.iter().map(|member| form.source_of(member)).collect()
    };
    let targets: Vec<Target> =
        members(0, in_c)?.iter().map(|member| form.target_of(member)).collect::<Result<_, _>>()?;
    let (a, b, c) = (sources(1, in_a)?, sources(2, in_b)?, sources(3, in_c)?);
    let compute: Compute = Box::new(move |registers, active| {
        let fetch = |sources: &[Source]| -> Result<Vec<[u32; 32]>, _> {
            sources
                .iter()
                .map(|&source| {
                    registers.require(source, active)?;
                    Ok(registers.words_of(source))
                })
                .collect::<Result<Vec<_>, Box<crate::simulator::fault::Hazard>>>()
        };
        let (a, b, c) = (fetch(&a)?, fetch(&b)?, fetch(&c)?);
        let mut d = vec![[0; 32]; c.len()];
        product.mma(&a, &b, &c, &mut d);
        for (&target, values) in targets.iter().zip(&d) {
            registers.set_words(target, active, values);
        }
        Ok(())
    });
    let Shape { m, n, k } = shape;
    Ok(Decoded {
        flops: (2 * m * n * k) as u64,
        ..Decoded::new(Op::Aligned(compute), Class::Tensor)
    })
}

/// Number of matrices, whether transposed, and the space, of `ldmatrix` and `stmatrix`.
fn matrices(form: &mut Form<'_, '_>) -> Result<(usize, bool, Option<Space>), Refusal> {
    let known = form.takes("sync") && form.takes("aligned") && form.takes("m8n8");
    let count = form.one_of(&[("x1", 1), ("x2", 2), ("x4", 4)]).ok_or(Refusal::Unknown)?;
    let transposed = form.takes("trans");
    let space = (form.takes("shared") || form.takes("shared::cta")).then_some(Space::Shared);
    if !known || form.kind()? != Type::B16 {
        return Err(Refusal::Unknown);
    }
    Ok((count, transposed, space))
}

fn store(form: &mut Form<'_, '_>) -> Decoding {
    let (count, transposed, space) = matrices(form)?;
    let sources: Vec<Source> =
        form.members(1)?.iter().map(|member| form.source_of(member)).collect::<Result<_, _>>()?;
    if sources.len() != count {
        return Err(Refusal::Operand(format!("{count} registers are needed")));
    }
    let store = MatrixStore { address: address(form, 0, space)?, sources, transposed };
    Ok(Decoded::new(Op::MatrixStore(store), Class::Store))
}

fn load(form: &mut Form<'_, '_>) -> Decoding {
    let (count, transposed, space) = matrices(form)?;
    let targets: Vec<Target> =
        form.members(0)?.iter().map(|member| form.target_of(member)).collect::<Result<_, _>>()?;
    if targets.len() != count {
        return Err(Refusal::Operand(format!("{count} registers are needed")));
    }
    let load = MatrixLoad { address: address(form, 1, space)?, targets, transposed };
    Ok(Decoded::new(Op::MatrixLoad(load), Class::Load))
}

/// `movmatrix`: an 8 × 8 matrix, transposed across the lanes.
fn transpose(form: &mut Form<'_, '_>) -> Decoding {
    let known =
        form.takes("sync") && form.takes("aligned") && form.takes("m8n8") && form.takes("trans");
    if !known || form.kind()? != Type::B16 {
        return Err(Refusal::Unknown);
    }
    let (target, source) = (form.target(0)?, form.source(1)?);
    let compute: Compute = Box::new(move |registers, active| {
        registers.require(source, active)?;
        let values = registers.words_of(source);
        let element = |row: usize, byte: usize| {
            let column = byte / 2;
            values[row * 4 + column / 2] >> (16 * (column % 2)) & 0xFFFF
        };
        let result = std::array::from_fn(|lane| {
            let [low, high] = [0, 1].map(|i| {
                let (row, byte) = matrix::place(lane, i, true);
                element(row, byte)
            });
            low | high << 16
        });
        registers.set_words(target, FULL, &result);
        Ok(())
    });
    Ok(Decoded::new(Op::Aligned(compute), Class::Move))
}
