//! `cp.async`: copies from global to shared memory that land when they are waited for (chapter 9.7.8.22).

use super::{
    Decoded, Decoding, Form, Op, Refusal, bulk_copy,
    memory::{Address, address},
};
use crate::simulator::{fault::Space, monitor::Class, registers::Source};

/// One `cp.async`.
#[derive(Clone, Copy, Debug)]
pub struct AsyncCopy {
    /// Where to, in shared memory.
    pub to: Address,
    /// Where from, in global memory.
    pub from: Address,
    /// Bytes written: 4, 8 or 16.
    pub bytes: u32,
    /// Bytes read; the rest is zero.
    pub read: Source,
    /// A predicate under which nothing is read.
    pub ignore: Option<Source>,
}

/// Decodes `cp.async` and its commits and waits.
pub fn decode(form: &mut Form<'_, '_>) -> Decoding {
    if !form.takes("async") {
        return Err(Refusal::Unknown);
    }
    if form.takes("bulk") {
        return bulk_copy::decode(form);
    }
    let op = if form.takes("commit_group") {
        Op::CommitCopies
    } else if form.takes("wait_group") {
        Op::WaitCopies { pending: form.immediate(0)?.min(1 << 20) as u32, all: false }
    } else if form.takes("wait_all") {
        Op::WaitCopies { pending: 0, all: true }
    } else {
        Op::AsyncCopy(copy(form)?)
    };
    Ok(Decoded::new(op, Class::AsyncCopy))
}

fn copy(form: &mut Form<'_, '_>) -> Result<AsyncCopy, Refusal> {
    let around_l1 = form.one_of(&[("ca", false), ("cg", true)]).ok_or(Refusal::Unknown)?;
    let spaces = (form.takes("shared") || form.takes("shared::cta")) && form.takes("global");
    for hint in ["L2::cache_hint", "L2::64B", "L2::128B", "L2::256B"] {
        form.takes(hint);
    }
    let bytes = form.immediate(2)? as u32;
    if !spaces || !matches!((bytes, around_l1), (4 | 8 | 16, false) | (16, true)) {
        return Err(Refusal::Unknown);
    }
    let (mut read, mut ignore) = (Source::Constant(u64::from(bytes)), None);
    if form.operands.len() > 3 {
        match form.source(3)? {
            predicate @ (Source::Predicate(_) | Source::NotPredicate(_)) => {
                ignore = Some(predicate);
            }
            size => read = size,
        }
    }
    let to = address(form, 0, Some(Space::Shared))?;
    Ok(AsyncCopy { to, from: address(form, 1, Some(Space::Global))?, bytes, read, ignore })
}
