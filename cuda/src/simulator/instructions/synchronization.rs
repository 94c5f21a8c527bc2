//! Barriers and fences (chapter 9.7.12).

use super::{Decoded, Decoding, Form, Op, Refusal};
use crate::simulator::{
    monitor::{Class, Scope},
    registers::{Source, Target},
};

/// What `bar.red` combines over the threads of the barrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Reduction {
    And,
    Or,
    Count,
}

/// A barrier of the block.
#[derive(Clone, Debug)]
pub struct Barrier {
    /// Its number, 0 to 15.
    pub id: Source,
    /// Threads that take part; all of the block when none.
    pub count: Option<Source>,
    /// Whether threads wait, or only arrive.
    pub waits: bool,
    /// `bar.red`: what is combined, of which predicate, into which register.
    pub reduction: Option<(Reduction, Source, Target)>,
}

/// Decodes by opcode.
pub fn decode(form: &mut Form<'_, '_>) -> Decoding {
    let (op, communicates) = if matches!(form.head, "membar" | "fence") {
        fence(form)?
    } else if form.takes("warp") {
        form.takes("sync");
        (Op::WarpBarrier(form.source(0)?), false)
    } else {
        (Op::Barrier(barrier(form)?), false)
    };
    Ok(Decoded { communicates, ..Decoded::new(op, Class::Synchronization) })
}

fn barrier(form: &mut Form<'_, '_>) -> Result<Barrier, Refusal> {
    form.takes("cta");
    form.takes("aligned");
    if form.takes("cluster") {
        return Err(Refusal::Unknown);
    }
    let count = form.operands.len();
    if form.takes("red") {
        let reduction = form
            .one_of(&[("and", Reduction::And), ("or", Reduction::Or), ("popc", Reduction::Count)])
            .ok_or(Refusal::Unknown)?;
        form.kind()?;
        if !(3..=4).contains(&count) {
            return Err(Refusal::Operand("a reduction takes three or four operands".into()));
        }
        return Ok(Barrier {
            id: form.source(1)?,
            count: if count == 4 { Some(form.source(2)?) } else { None },
            waits: true,
            reduction: Some((reduction, form.source(count - 1)?, form.target(0)?)),
        });
    }
    let waits = !form.takes("arrive");
    if waits && !form.takes("sync") {
        return Err(Refusal::Unknown);
    }
    Ok(Barrier {
        id: form.source(0)?,
        count: if count > 1 { Some(form.source(1)?) } else { None },
        waits,
        reduction: None,
    })
}

fn scope(form: &mut Form<'_, '_>) -> Option<Scope> {
    form.one_of(&[
        ("cta", Scope::Block),
        ("cluster", Scope::Cluster),
        ("gpu", Scope::Gpu),
        ("gl", Scope::Gpu),
        ("sys", Scope::System),
    ])
}

fn fence(form: &mut Form<'_, '_>) -> Result<(Op, bool), Refusal> {
    if form.takes("proxy") {
        let known = form.takes("async") || form.takes("async::generic") || form.takes("alias");
        for space in ["global", "shared::cta", "shared::cluster"] {
            form.takes(space);
        }
        return if known { Ok((Op::ProxyFence, false)) } else { Err(Refusal::Unknown) };
    }
    if form.takes("mbarrier_init") {
        let known = form.takes("release") && form.takes("cluster");
        return if known { Ok((Op::MbarrierFence, false)) } else { Err(Refusal::Unknown) };
    }
    for order in ["sc", "acq_rel", "acquire", "release"] {
        form.takes(order);
    }
    let scope = scope(form).ok_or(Refusal::Unknown)?;
    Ok((Op::Fence(scope), scope > Scope::Cluster))
}
