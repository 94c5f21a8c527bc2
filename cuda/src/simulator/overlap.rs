//! Launches that may begin before the ones before them have ended (programmatic dependent launch).
//!
//! The simulator runs launches one after the other all the same; what a device could do in another order is found from
//! what they touch. Of each launch that a later one overlaps with, the bytes that it reads and writes are kept. Until a
//! thread of the later one has itself said `griddepcontrol.wait`, it must not access what those write, nor write what
//! they read: an order through another thread that has waited is not looked for. Such launches make a chain, for the
//! second may begin before it has waited for the first, and the third before the second has: all of a chain are open
//! until the wait, which ends them all, as each of them waits for the one before in some thread, or is at fault.
//!
//! After the wait the non-coherent path (`ld.global.nc`, which compilers choose for `const __restrict__`) is still closed
//! to what open launches write: those bytes change while the kernel runs.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{
    fault::{FaultKind, Hazard, Space},
    monitor::{BulkAccess, LaunchInfo, Monitor, Site, WarpAccess},
};

/// Checks the launches of a plan, one after the other.
#[derive(Clone, Debug, Default)]
pub struct Overlaps {
    /// Of the launches that may still run before the wait, what they touch.
    open: Arc<Vec<Footprint>>,
    /// What this launch touches, where the next one may begin before it has ended.
    own: Option<Footprint>,
    /// Lanes that have waited, by warp, of each block that runs.
    waited: BTreeMap<u64, Vec<u32>>,
    /// Whether this launch has to wait, and whether any thread of it has.
    overlaps: bool,
    waits: bool,
}

/// What a launch touches of global memory.
#[derive(Clone, Debug, Default)]
struct Footprint {
    kernel: String,
    read: Bytes,
    written: Bytes,
}

/// A set of addresses: masks of 64 bytes each.
#[derive(Clone, Debug, Default)]
struct Bytes(HashMap<u64, u64>);

/// The masks of a range of bytes.
fn masks(address: u64, bytes: u32) -> impl Iterator<Item = (u64, u64)> {
    let end = address + u64::from(bytes);
    (address / 64..end.div_ceil(64)).map(move |line| {
        let [first, last] =
            [address.max(64 * line), end.min(64 * line + 64)].map(|at| at - 64 * line);
        (line, u64::MAX >> (64 - (last - first)) << first)
    })
}

impl Bytes {
    fn add(&mut self, address: u64, bytes: u32) {
        for (line, mask) in masks(address, bytes) {
            *self.0.entry(line).or_default() |= mask;
        }
    }

    fn touches(&self, address: u64, bytes: u32) -> bool {
        masks(address, bytes)
            .any(|(line, mask)| self.0.get(&line).is_some_and(|own| own & mask != 0))
    }

    fn join(&mut self, other: Self) {
        for (line, mask) in other.0 {
            *self.0.entry(line).or_default() |= mask;
        }
    }
}

/// How a lane accesses bytes of global memory.
#[derive(Clone, Copy)]
struct Manner {
    reads: bool,
    writes: bool,
    non_coherent: bool,
}

impl Overlaps {
    fn has_waited(&self, site: Site, lane: u32) -> bool {
        let warps = self.waited.get(&site.block);
        warps
            .and_then(|warps| warps.get(site.warp as usize))
            .is_some_and(|lanes| lanes >> lane & 1 == 1)
    }

    fn touch(
        &mut self,
        site: Site,
        lane: u32,
        (address, bytes): (u64, u32),
        manner: Manner,
    ) -> Result<(), Hazard> {
        if self.overlaps {
            let waited = self.has_waited(site, lane);
            let fault = self.open.iter().find_map(|open| {
                let (kind, what) = if open.written.touches(address, bytes) {
                    match (waited, manner.non_coherent) {
                        (false, _) => (FaultKind::BeforeWait, "writes"),
                        (true, true) => (FaultKind::Race, "writes, through the non-coherent path"),
                        (true, false) => return None,
                    }
                } else if manner.writes && !waited && open.read.touches(address, bytes) {
                    (FaultKind::BeforeWait, "reads")
                } else {
                    return None;
                };
                let note = format!("{bytes} bytes that {} {what}", open.kernel);
                Some(Hazard::new(kind, note).of_lane(lane).at(Space::Global, address))
            });
            fault.map_or(Ok(()), Err)?;
        }
        if let Some(own) = &mut self.own {
            if manner.reads {
                own.read.add(address, bytes);
            }
            if manner.writes {
                own.written.add(address, bytes);
            }
        }
        Ok(())
    }

    const fn looks_on(&self) -> bool {
        !self.overlaps && self.own.is_none()
    }
}

impl Monitor for Overlaps {
    fn fork(&self) -> Self {
        Self {
            open: self.open.clone(),
            own: self.own.as_ref().map(|_| Footprint::default()),
            waited: BTreeMap::new(),
            overlaps: self.overlaps,
            waits: false,
        }
    }

    fn join(&mut self, chunk: Self) -> Result<(), (Site, Hazard)> {
        self.waits |= chunk.waits;
        if let (Some(own), Some(theirs)) = (&mut self.own, chunk.own) {
            own.read.join(theirs.read);
            own.written.join(theirs.written);
        }
        Ok(())
    }

    fn launch(&mut self, launch: &LaunchInfo<'_>) {
        if !launch.overlaps {
            self.open = Arc::default();
        }
        let kernel = format!("{}::{}", launch.module, launch.kernel);
        self.own = launch.overlapped.then(|| Footprint { kernel, ..Footprint::default() });
        self.waited.clear();
        (self.overlaps, self.waits) = (launch.overlaps, false);
    }

    fn launched(&mut self) -> Result<(), (Site, Hazard)> {
        if let Some(own) = self.own.take() {
            Arc::make_mut(&mut self.open).push(own);
        }
        if self.overlaps && !self.waits {
            let hazard = Hazard::new(FaultKind::NeverWaits, "no thread says griddepcontrol.wait");
            return Err((Site { pc: 0, block: 0, warp: 0 }, hazard));
        }
        Ok(())
    }

    fn block_ends(&mut self, block: u64) {
        self.waited.remove(&block);
    }

    fn launches_waited(&mut self, site: Site, active: u32) {
        if !self.overlaps {
            return;
        }
        self.waits = true;
        let warps = self.waited.entry(site.block).or_default();
        if warps.len() <= site.warp as usize {
            warps.resize(site.warp as usize + 1, 0);
        }
        warps[site.warp as usize] |= active;
    }

    fn access(&mut self, access: &WarpAccess<'_>) -> Result<(), Hazard> {
        if self.looks_on() || access.space != Space::Global {
            return Ok(());
        }
        let (reads, writes) = (access.kind.reads(), access.kind.writes());
        let manner = Manner { reads, writes, non_coherent: access.non_coherent };
        for lane in (0..32).filter(|lane| access.active >> lane & 1 == 1) {
            let bytes = (access.addresses[lane as usize], access.bytes_per_lane);
            self.touch(access.site, lane, bytes, manner)?;
        }
        Ok(())
    }

    fn bulk_copy(&mut self, copy: &BulkAccess<'_>) -> Result<(), Hazard> {
        if self.looks_on() {
            return Ok(());
        }
        for ((space, ranges), writes) in [(copy.source, false), (copy.target, true)] {
            let manner = Manner { reads: !writes, writes, non_coherent: false };
            for &bytes in ranges.iter().filter(|_| space == Space::Global) {
                self.touch(copy.site, copy.lane, bytes, manner)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulator::monitor::{AccessKind, Order, Scope};

    const X: u64 = 0x1_0000;

    fn begin(overlaps: &mut Overlaps, kernel: &str, [early, overlapped]: [bool; 2]) {
        overlaps.launch(&LaunchInfo {
            module: "play",
            kernel,
            grid: [2, 1, 1],
            block: [64, 1, 1],
            shared_bytes: 0,
            instructions: 100,
            communicates: false,
            overlaps: early,
            overlapped,
            buffers: &[],
        });
    }

    const fn site(thread: u32) -> Site {
        Site { pc: 7, block: 0, warp: thread / 32 }
    }

    fn touch(
        play: &mut Overlaps,
        thread: u32,
        kind: AccessKind,
        at: u64,
        nc: bool,
    ) -> Result<(), Hazard> {
        play.access(&WarpAccess {
            site: site(thread),
            space: Space::Global,
            kind,
            order: Order::Weak,
            scope: Scope::Gpu,
            bytes_per_lane: 4,
            addresses: &[at; 32],
            active: 1 << (thread % 32),
            non_coherent: nc,
        })
    }

    fn wait(play: &mut Overlaps, thread: u32) {
        play.launches_waited(site(thread), 1 << (thread % 32));
    }

    use AccessKind::{Load, Store};

    /// A launch that reads X and writes X + 64, and a second one that has begun before the first has ended.
    fn second() -> Overlaps {
        let mut play = Overlaps::default();
        begin(&mut play, "first", [false, true]);
        touch(&mut play, 0, Load, X, true).unwrap();
        touch(&mut play, 1, Store, X + 64, false).unwrap();
        play.launched().unwrap();
        begin(&mut play, "second", [true, true]);
        play
    }

    #[track_caller]
    fn refused(result: Result<(), Hazard>, kind: FaultKind, note: &str) {
        let hazard = result.expect_err("no hazard is reported");
        assert_eq!((hazard.kind, &*hazard.note), (kind, note));
    }

    #[test]
    fn what_the_first_writes_is_closed_until_the_thread_itself_has_waited() {
        let mut play = second();
        let note = "4 bytes that play::first writes";
        refused(touch(&mut play, 3, Load, X + 64, false), FaultKind::BeforeWait, note);
        wait(&mut play, 3);
        touch(&mut play, 3, Load, X + 64, false).unwrap();
        refused(touch(&mut play, 4, Load, X + 64, false), FaultKind::BeforeWait, note);
        refused(touch(&mut play, 35, Store, X + 64, false), FaultKind::BeforeWait, note);
    }

    #[test]
    fn what_the_first_reads_may_be_read_but_not_written() {
        let mut play = second();
        touch(&mut play, 3, Load, X, true).unwrap();
        touch(&mut play, 3, Load, X + 68, false).unwrap();
        let note = "4 bytes that play::first reads";
        refused(touch(&mut play, 3, Store, X, false), FaultKind::BeforeWait, note);
        wait(&mut play, 3);
        touch(&mut play, 3, Store, X, false).unwrap();
    }

    #[test]
    fn the_non_coherent_path_stays_closed() {
        let mut play = second();
        wait(&mut play, 3);
        let note = "4 bytes that play::first writes, through the non-coherent path";
        refused(touch(&mut play, 3, Load, X + 64, true), FaultKind::Race, note);
    }

    #[test]
    fn a_launch_in_which_nobody_waits_is_at_fault() {
        let mut play = second();
        let (_, hazard) = play.launched().unwrap_err();
        assert_eq!(hazard.kind, FaultKind::NeverWaits);
    }

    #[test]
    fn a_third_launch_may_begin_before_the_first_has_ended() {
        let mut play = second();
        wait(&mut play, 3);
        play.launched().unwrap();
        begin(&mut play, "third", [true, false]);
        let note = "4 bytes that play::first writes";
        refused(touch(&mut play, 3, Load, X + 64, false), FaultKind::BeforeWait, note);
        wait(&mut play, 3);
        touch(&mut play, 3, Load, X + 64, false).unwrap();
        play.launched().unwrap();
        begin(&mut play, "fourth", [false, false]);
        touch(&mut play, 3, Load, X + 64, true).unwrap();
        play.launched().unwrap();
    }

    #[test]
    fn chunks_of_blocks_are_joined() {
        let mut play = Overlaps::default();
        begin(&mut play, "first", [false, true]);
        let mut chunk = play.fork();
        touch(&mut chunk, 0, Store, X + 60, false).unwrap();
        play.join(chunk).unwrap();
        play.launched().unwrap();
        begin(&mut play, "second", [true, false]);
        let mut chunk = play.fork();
        touch(&mut chunk, 0, Load, X + 64, false).unwrap();
        assert!(touch(&mut chunk, 0, Load, X + 60, false).is_err());
        wait(&mut chunk, 0);
        play.join(chunk).unwrap();
        play.launched().unwrap();
    }

    #[test]
    fn ranges_may_cross_lines() {
        let mut bytes = Bytes::default();
        bytes.add(120, 200);
        assert!(!bytes.touches(112, 8) && !bytes.touches(320, 8));
        assert!(bytes.touches(112, 16) && bytes.touches(128, 1) && bytes.touches(319, 4));
    }
}
