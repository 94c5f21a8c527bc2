//! Instructions on mbarriers. A phase that ends wakes who sleeps.

use super::Context;
use crate::simulator::{
    fault::{FaultKind, Hazard, Space},
    instructions::{Address, Mbarrier, MbarrierAction, Phase},
    mbarrier::{self, BYTES},
    memory::{SHARED_WINDOW, within},
    monitor::{MbarrierEvent, Monitor, Site},
    registers::{Registers, lanes},
    warp::Warp,
};

impl Address {
    /// Offsets in shared memory, of an address there or a generic one.
    pub(super) fn in_shared(
        &self,
        registers: &Registers,
        active: u32,
    ) -> Result<[u64; 32], Box<Hazard>> {
        let addresses = self.of_lanes(registers, active)?;
        Ok(match self.space {
            Some(_) => addresses,
            None => addresses.map(|address| address.wrapping_sub(SHARED_WINDOW)),
        })
    }
}

impl<M: Monitor> Context<'_, '_, M> {
    /// Where in shared memory the mbarrier of each lane lies.
    fn places(
        &self,
        warp: &Warp,
        address: &Address,
        active: u32,
    ) -> Result<[usize; 32], Box<Hazard>> {
        let addresses = address.in_shared(&warp.registers, active)?;
        let mut places = [0; 32];
        for lane in lanes(active) {
            let size = self.shared.cells.size();
            let place = within(Space::Shared, size, addresses[lane], BYTES as u32);
            places[lane] = place.map_err(|hazard| Box::new(hazard.of_lane(lane as u32)))?;
        }
        Ok(places)
    }

    /// Lanes whose phase is over.
    fn over(
        &mut self,
        warp: &Warp,
        places: &[usize; 32],
        phase: Phase,
        active: u32,
    ) -> Result<u32, Box<Hazard>> {
        let (Phase::Of(which) | Phase::Parity(which)) = phase;
        warp.registers.require(which, active)?;
        let which = warp.registers.longs_of(which);
        let mut over = 0;
        for lane in lanes(active) {
            let object = self
                .shared
                .mbarrier(places[lane])
                .map_err(|hazard| Box::new(hazard.of_lane(lane as u32)))?;
            let is_over = match phase {
                Phase::Of(_) => object.is_over(which[lane]),
                Phase::Parity(_) => object.is_parity_over(which[lane] as u32),
            };
            over |= u32::from(is_over) << lane;
        }
        Ok(over)
    }

    /// Whether a `try_wait` must sleep: its phase is not over, and nobody has woken it to say so.
    pub(super) fn sleeps(
        &mut self,
        warp: &Warp,
        op: &Mbarrier,
        active: u32,
    ) -> Result<bool, Box<Hazard>> {
        let MbarrierAction::Wait { phase, sleeps: true, .. } = op.action else { return Ok(false) };
        if std::mem::take(&mut self.woken) {
            return Ok(false);
        }
        let places = self.places(warp, &op.address, active)?;
        Ok(self.over(warp, &places, phase, active)? != active)
    }

    /// Carries out one instruction.
    pub(super) fn mbarrier(
        &mut self,
        warp: &mut Warp,
        site: Site,
        op: &Mbarrier,
        active: u32,
    ) -> Result<(), Box<Hazard>> {
        let places = self.places(warp, &op.address, active)?;
        if let MbarrierAction::Wait { done, phase, .. } = op.action {
            let over = self.over(warp, &places, phase, active)?;
            warp.registers.set_longs(
                done,
                active,
                &std::array::from_fn(|l| u64::from(over >> l & 1)),
            );
            let mut left = over;
            while left != 0 {
                let at = places[left.trailing_zeros() as usize];
                let same = lanes(left).filter(|&lane| places[lane] == at);
                let same = same.fold(0, |mask, lane| mask | 1u32 << lane);
                self.tell_of_mbarrier(site, at, MbarrierEvent::Waited, same)?;
                left &= !same;
            }
            return Ok(());
        }
        let numbers = self.numbers(warp, op.action, active)?;
        let mut states = [0; 32];
        for lane in lanes(active) {
            let state = self.change(site, op.action, places[lane], lane, numbers[lane]);
            states[lane] = state.map_err(|mut hazard| {
                hazard.lane.get_or_insert(lane as u32);
                hazard.address.get_or_insert((Space::Shared, places[lane] as u64));
                hazard
            })?;
        }
        if let MbarrierAction::Arrive { state, .. } = op.action {
            warp.registers.set_longs(state, active, &states);
        }
        *self.progress = true;
        Ok(())
    }

    /// The numbers that come with an action: arrivals, and bytes.
    fn numbers(
        &self,
        warp: &Warp,
        action: MbarrierAction,
        active: u32,
    ) -> Result<[(u32, u32); 32], Box<Hazard>> {
        let (first, second) = match action {
            MbarrierAction::Init(count) => (Some(count), None),
            MbarrierAction::Arrive { count, bytes, .. } => (Some(count), bytes),
            MbarrierAction::Expect(bytes) | MbarrierAction::Complete(bytes) => (None, Some(bytes)),
            MbarrierAction::Invalidate | MbarrierAction::Wait { .. } => (None, None),
        };
        let mut all = [(0, 0); 32];
        for (source, is_first) in [(first, true), (second, false)] {
            let Some(source) = source else { continue };
            warp.registers.require(source, active)?;
            for (numbers, value) in all.iter_mut().zip(warp.registers.words_of(source)) {
                *(if is_first { &mut numbers.0 } else { &mut numbers.1 }) = value;
            }
        }
        Ok(all)
    }

    /// One lane's action on the object at an offset; gives the state before an arrival.
    fn change(
        &mut self,
        site: Site,
        action: MbarrierAction,
        at: usize,
        lane: usize,
        (count, bytes): (u32, u32),
    ) -> Result<u64, Box<Hazard>> {
        let me = 1 << lane;
        match action {
            MbarrierAction::Init(_) => {
                self.shared.is_settled(at, BYTES)?;
                self.tell_of_mbarrier(site, at, MbarrierEvent::Init, me)?;
                self.shared.mbarriers.insert(at, mbarrier::Mbarrier::new(count)?);
            }
            MbarrierAction::Invalidate => {
                self.shared.mbarrier(at)?;
                self.tell_of_mbarrier(site, at, MbarrierEvent::Invalidate, me)?;
                self.shared.mbarriers.remove(&at);
            }
            MbarrierAction::Arrive { drops, completes, bytes: expects, .. } => {
                let state = self.shared.mbarrier(at)?.state();
                self.tell_of_mbarrier(site, at, MbarrierEvent::Arrive, me)?;
                let object = self.shared.mbarrier(at)?;
                if expects.is_some() {
                    object.expect(bytes)?;
                }
                let ends = object.arrive(count, drops)?;
                if ends && !completes {
                    let note = "an arrival that must not end the phase ends it";
                    return Err(Box::new(Hazard::new(FaultKind::Undefined, note)));
                }
                self.phase_ends(site, at, ends)?;
                return Ok(state);
            }
            MbarrierAction::Expect(_) => {
                self.shared.mbarrier(at)?.expect(bytes)?;
                self.tell_of_mbarrier(site, at, MbarrierEvent::Expect, me)?;
            }
            MbarrierAction::Complete(_) => {
                let ends = self.shared.mbarrier(at)?.complete(bytes)?;
                self.phase_ends(site, at, ends)?;
            }
            MbarrierAction::Wait { .. } => {}
        }
        Ok(0)
    }

    /// Tells of the end of a phase, if it was one.
    pub(super) fn phase_ends(
        &mut self,
        site: Site,
        at: usize,
        ends: bool,
    ) -> Result<(), Box<Hazard>> {
        if !ends {
            return Ok(());
        }
        self.shared.phases_ended += 1;
        self.tell_of_mbarrier(site, at, MbarrierEvent::PhaseEnds, 0)
    }

    fn tell_of_mbarrier(
        &mut self,
        site: Site,
        at: usize,
        event: MbarrierEvent,
        lanes: u32,
    ) -> Result<(), Box<Hazard>> {
        self.monitor.mbarrier(site, at as u64, event, lanes).map_err(Box::new)
    }
}
