//! `cp.async`: what was read waits with its lane until the lane waits for it.

use super::{Context, access::Manner};
use crate::simulator::{
    fault::{FaultKind, Hazard, Space},
    instructions::AsyncCopy,
    memory::within,
    monitor::{AccessKind, Monitor, Order, Scope, Site},
    registers::lanes,
    warp::{Copy, Warp},
};

const fn manner(kind: AccessKind) -> Manner {
    Manner { kind, order: Order::Weak, scope: Scope::Block, non_coherent: false }
}

impl<M: Monitor> Context<'_, '_, M> {
    /// `cp.async`.
    pub(super) fn async_copy(
        &mut self,
        warp: &mut Warp,
        site: Site,
        copy: &AsyncCopy,
        active: u32,
    ) -> Result<(), Box<Hazard>> {
        let registers = &warp.registers;
        let to = copy.to.of_lanes(registers, active)?;
        let from = copy.from.of_lanes(registers, active)?;
        registers.require(copy.read, active)?;
        let mut read = registers.words_of(copy.read);
        if let Some(ignore) = copy.ignore {
            registers.require(ignore, active)?;
            let ignored = registers.predicate(ignore);
            lanes(active & ignored).for_each(|lane| read[lane] = 0);
        }
        let bytes = copy.bytes as usize;
        let mut reading = 0u32;
        let mut arriving = Vec::new();
        for lane in lanes(active) {
            let of_lane = |hazard: Hazard| Box::new(hazard.of_lane(lane as u32));
            let at = within(Space::Shared, self.shared.cells.size(), to[lane], copy.bytes)
                .map_err(of_lane)?;
            self.shared.is_settled(at, bytes).map_err(of_lane)?;
            if read[lane] as usize > bytes {
                let note = format!("{} bytes to read of {bytes}", read[lane]);
                return Err(of_lane(Hazard::new(FaultKind::Undefined, note)));
            }
            let mut data = [0; 16];
            if read[lane] > 0 {
                self.source(from[lane], copy.bytes, read[lane] as usize, &mut data)
                    .map_err(of_lane)?;
                reading |= 1 << lane;
            }
            arriving.push(Copy { lane: lane as u32, group: None, to: at, data, bytes });
        }
        if reading != 0 {
            let (space, kind) = (Space::Global, manner(AccessKind::AsyncRead));
            self.tell(site, (space, reading), &from, copy.bytes, kind)?;
        }
        let (space, kind) = (Space::Shared, manner(AccessKind::AsyncWrite));
        self.tell(site, (space, active), &to, copy.bytes, kind)?;
        for copy in &arriving {
            self.shared.begin_copy(copy.to, copy.bytes);
        }
        warp.copies.append(&mut arriving);
        Ok(())
    }

    /// Reads the first `count` bytes of a source; the address is aligned to the whole copy.
    fn source(
        &self,
        address: u64,
        bytes: u32,
        count: usize,
        data: &mut [u8; 16],
    ) -> Result<(), Hazard> {
        if !address.is_multiple_of(u64::from(bytes)) {
            let note = format!("{bytes} bytes");
            return Err(Hazard::new(FaultKind::Misaligned, note).at(Space::Global, address));
        }
        for (i, byte) in data.iter_mut().enumerate().take(count) {
            let address = address + i as u64;
            let (cells, at) = self.launch.global.access(address, 1, false)?;
            if !cells.is_written(at, 1) {
                return Err(Hazard::new(FaultKind::UninitializedMemory, format!("{count} bytes"))
                    .at(Space::Global, address));
            }
            *byte = cells.load(at, 1) as u8;
        }
        Ok(())
    }

    /// `cp.async.commit_group`.
    pub(super) fn commit_copies(&mut self, warp: &mut Warp, site: Site, active: u32) {
        for copy in &mut warp.copies {
            if copy.group.is_none() && active >> copy.lane & 1 == 1 {
                copy.group = Some(warp.committed[copy.lane as usize]);
            }
        }
        lanes(active).for_each(|lane| warp.committed[lane] += 1);
        self.monitor.copies_committed(site, active);
    }

    /// `cp.async.wait_group` and `wait_all`.
    pub(super) fn wait_copies(
        &mut self,
        warp: &mut Warp,
        site: Site,
        pending: u32,
        all: bool,
        active: u32,
    ) {
        let Warp { copies, committed, .. } = warp;
        let shared = &mut *self.shared;
        copies.retain(|copy| {
            let done = committed[copy.lane as usize].saturating_sub(pending);
            let lands =
                active >> copy.lane & 1 == 1 && copy.group.map_or(all, |group| all || group < done);
            if lands {
                shared.end_copy(copy.to, &copy.data[..copy.bytes]);
            }
            !lands
        });
        if all {
            // What was not committed has landed too: a group of its own, so that monitors need only groups.
            self.monitor.copies_committed(site, active);
        }
        self.monitor.copies_waited(site, pending, active);
    }
}
