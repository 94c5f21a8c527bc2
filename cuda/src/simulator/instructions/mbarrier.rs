//! mbarriers (chapter 9.7.12.15): arrivals, expected bytes and waits, decoded to data.

use super::{
    Decoded, Decoding, Form, Op, Refusal,
    compute::binary,
    memory::{Address, address},
};
use crate::simulator::{
    fault::Space,
    mbarrier::MOST,
    monitor::Class,
    registers::{Source, Target},
};

/// One instruction on an mbarrier object.
#[derive(Clone, Copy, Debug)]
pub struct Mbarrier {
    /// The object.
    pub address: Address,
    /// What becomes of it.
    pub action: MbarrierAction,
}

/// What an instruction does to an mbarrier.
#[derive(Clone, Copy, Debug)]
pub enum MbarrierAction {
    /// It comes to be, for so many arrivals.
    Init(Source),
    /// It is no more.
    Invalidate,
    /// Arrivals.
    Arrive {
        /// The state before them.
        state: Target,
        /// How many.
        count: Source,
        /// Whether they leave the later phases.
        drops: bool,
        /// Whether they may end the phase.
        completes: bool,
        /// Bytes that the phase is to wait for beside.
        bytes: Option<Source>,
    },
    /// Bytes that the phase is to wait for.
    Expect(Source),
    /// Bytes that have come.
    Complete(Source),
    /// A wait for the end of a phase.
    Wait {
        /// Whether it has ended.
        done: Target,
        /// Which phase.
        phase: Phase,
        /// `try_wait`: the thread sleeps until then, or until a time that the system chooses.
        sleeps: bool,
    },
}

/// How a wait names its phase.
#[derive(Clone, Copy, Debug)]
pub enum Phase {
    /// By the state that an arrival gave.
    Of(Source),
    /// By its parity.
    Parity(Source),
}

/// Decodes by modifier.
pub fn decode(form: &mut Form<'_, '_>) -> Decoding {
    let op = if form.takes("pending_count") {
        let [state]: [Source; 1] = form.sources(1)?;
        let mask = Source::Constant(MOST.into());
        Op::Compute(binary(form.target(0)?, [state, mask], |state: u64, mask: u64| state & mask))
    } else {
        Op::Mbarrier(mbarrier(form)?)
    };
    if form.takes("b64") {
        Ok(Decoded::new(op, Class::Synchronization))
    } else {
        Err(Refusal::Unknown)
    }
}

fn mbarrier(form: &mut Form<'_, '_>) -> Result<Mbarrier, Refusal> {
    let space = form.one_of(&[("shared", ()), ("shared::cta", ()), ("shared::cluster", ())]);
    let space = space.map(|()| Space::Shared);
    form.one_of(&[("cta", ()), ("cluster", ())]);
    let at = |form: &Form<'_, '_>, i| address(form, i, space);
    if form.takes("init") {
        return Ok(Mbarrier {
            address: at(form, 0)?,
            action: MbarrierAction::Init(form.source(1)?),
        });
    }
    if form.takes("inval") {
        return Ok(Mbarrier { address: at(form, 0)?, action: MbarrierAction::Invalidate });
    }
    let arrives = form.one_of(&[("arrive", false), ("arrive_drop", true)]);
    if let Some(drops) = arrives {
        form.takes("release");
        let expects = form.takes("expect_tx");
        let completes = !form.takes("noComplete");
        let number = if form.operands.len() > 2 { Some(form.source(2)?) } else { None };
        if (expects || !completes) && number.is_none() {
            return Err(Refusal::Operand("a number is missing".into()));
        }
        let (count, bytes) = if expects { (None, number) } else { (number, None) };
        let count = count.unwrap_or(Source::Constant(1));
        let state = form.target(0)?;
        let action = MbarrierAction::Arrive { state, count, drops, completes, bytes };
        return Ok(Mbarrier { address: at(form, 1)?, action });
    }
    type Make = fn(Source) -> MbarrierAction;
    let bytes = form.one_of::<Make>(&[
        ("expect_tx", MbarrierAction::Expect),
        ("complete_tx", MbarrierAction::Complete),
    ]);
    if let Some(make) = bytes {
        form.takes("relaxed");
        return Ok(Mbarrier { address: at(form, 0)?, action: make(form.source(1)?) });
    }
    let sleeps = form.one_of(&[("test_wait", false), ("try_wait", true)]);
    let sleeps = sleeps.ok_or(Refusal::Unknown)?;
    form.takes("acquire");
    let which = form.source(2)?;
    let phase = if form.takes("parity") { Phase::Parity(which) } else { Phase::Of(which) };
    // How long `try_wait` may sleep is a hint.
    let action = MbarrierAction::Wait { done: form.target(0)?, phase, sleeps };
    Ok(Mbarrier { address: at(form, 1)?, action })
}
