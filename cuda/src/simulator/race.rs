//! Data races: two accesses to one byte, one of them a write, that nothing orders.
//!
//! Each access is held against those remembered in a shadow of memory ([`shadow`]); which of those happened
//! before, the thread's vector clock knows ([`clock`]). An order is made only by what PTX says makes one (ISA
//! 8.4, chapter 8): barriers of the block, named ones too; `bar.warp.sync` among its members; release and
//! acquire, or a fence before a relaxed write and one after the read that saw it ([`order`]); mbarriers; waits
//! for asynchronous copies; the end of a launch. That the simulator steps the lanes of a warp together makes
//! none: on hardware lanes may drift apart. Nor does a shuffle, vote, match or reduction of a warp: they exchange
//! registers, and PTX promises no order of memory with them.
//!
//! So a race is found whatever order the accesses came in this time. What can be missed: a race among more
//! than [`attempt::MOST_READS`] unordered readers of one word.

mod attempt;
mod clock;
mod engine;
mod order;
mod shadow;

#[cfg(test)]
mod engine_tests;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use self::{
    attempt::{Attempt, Collision},
    clock::{Know, Meeting, Thread},
    engine::Engines,
    order::Publications,
    shadow::{Manner, Mark, Shadow, Slot, Touch},
};
use super::{
    bulk::Counted,
    fault::{Hazard, Space},
    monitor::{
        AccessKind, BulkAccess, LaunchInfo, MbarrierEvent, Monitor, Order, Scope, Site, WarpAccess,
    },
};

/// Finds data races of one launch after the other.
#[derive(Debug, Default)]
pub struct Races {
    threads: usize,
    communicates: bool,
    running: BTreeMap<u32, Block>,
    global: Shadow,
    published: Publications,
}

/// A block that runs.
#[derive(Debug)]
struct Block {
    threads: Vec<Thread>,
    shared: Shadow,
    published: Publications,
    meetings: BTreeMap<u32, Meeting>,
    engines: Engines,
}

impl Races {
    fn forget(&mut self) {
        self.running.clear();
        self.global.clear();
        self.published = Publications::default();
    }

    /// A collision as a hazard of `lane` at `address`.
    fn hazard(space: Space, address: u64, lane: u32, collision: &Collision) -> Hazard {
        let Collision { kind, touch, mark, lane: other } = collision;
        let what = match (touch, mark.manner, mark.stamp) {
            (Touch::Write, ..) if mark.engine != 0 => "a bulk copy not yet waited for",
            (Touch::Read, ..) if mark.engine != 0 => "a bulk copy or product that may still read",
            (_, _, Mark::UNDER_WAY) => "an asynchronous copy not yet waited for",
            (Touch::Write, Manner::Strong | Manner::StrongInBlock, _) => "an atomic write",
            (Touch::Read, Manner::Strong | Manner::StrongInBlock, _) => "an atomic read",
            (Touch::Read, Manner::NonCoherent, _) => "a read through the non-coherent path",
            (Touch::Write, ..) => "a write",
            (Touch::Read, ..) => "a read",
        };
        let site = Site { pc: mark.pc, block: mark.block.into(), warp: mark.warp.into() };
        Hazard::new(*kind, what).of_lane(lane).at(space, address).against(site, *other)
    }

    /// One lane's weak access to ranges of bytes, by itself or by an engine; gives its mark.
    fn ask(
        &mut self,
        site: Site,
        lane: u32,
        (space, ranges): (Space, &[(u64, u32)]),
        writes: bool,
        engine: Option<(Slot, u32)>,
    ) -> Result<Mark, Hazard> {
        let (number, index) = (site.block as u32, thread(site, lane));
        let Some(block) = self.running.get_mut(&number) else { return Ok(Mark::default()) };
        let shadow = if space == Space::Shared { &mut block.shared } else { &mut self.global };
        let me = &block.threads[index];
        let (slot, stamp) = engine.unwrap_or((0, me.stamp));
        let mark = Mark {
            block: number,
            pc: site.pc,
            stamp,
            lanes: 1 << lane,
            warp: site.warp as u8,
            manner: Manner::Weak,
            engine: slot,
        };
        let attempt = Attempt {
            mark,
            thread: index,
            know: &me.know,
            proxied: engine.map(|_| &*me.proxied),
            writes,
            atomic: false,
            communicates: self.communicates,
        };
        for &(address, bytes) in ranges {
            shadow.visit(address, bytes, |at, cell| {
                attempt.touch(cell).map_err(|hit| Self::hazard(space, at, lane, &hit))
            })?;
        }
        Ok(mark)
    }

    fn manner(access: &WarpAccess<'_>) -> Manner {
        let wide = access.scope >= Scope::Gpu || access.order == Order::Volatile;
        match (access.kind, access.order) {
            (AccessKind::AsyncWrite, _) => Manner::Copy,
            _ if access.non_coherent => Manner::NonCoherent,
            (
                AccessKind::Load
                | AccessKind::Store
                | AccessKind::AsyncRead
                | AccessKind::ProxyRead,
                Order::Weak,
            ) => Manner::Weak,
            _ if wide => Manner::Strong,
            _ => Manner::StrongInBlock,
        }
    }
}

/// Lanes of a mask.
fn lanes(mask: u32) -> impl Iterator<Item = u32> {
    (0..32).filter(move |lane| mask >> lane & 1 == 1)
}

/// Index in the block of a lane of a warp.
fn thread(site: Site, lane: u32) -> usize {
    (32 * site.warp + lane) as usize
}

impl Monitor for Races {
    fn fork(&self) -> Self {
        Self { threads: self.threads, communicates: self.communicates, ..Self::default() }
    }

    fn join(&mut self, chunk: Self) -> Result<(), (Site, Hazard)> {
        let unordered = Know::of_own_block();
        self.global.join(chunk.global, |address, mine, theirs| {
            for (touch, mark) in theirs.marks() {
                let attempt = Attempt {
                    mark: *mark,
                    thread: 0,
                    know: &unordered,
                    proxied: None,
                    writes: touch == Touch::Write,
                    atomic: true,
                    communicates: false,
                };
                attempt.touch(mine).map_err(|collision| {
                    let site =
                        Site { pc: mark.pc, block: mark.block.into(), warp: mark.warp.into() };
                    let lane = mark.lanes.trailing_zeros();
                    (site, Self::hazard(Space::Global, address, lane, &collision))
                })?;
            }
            Ok(())
        })
    }

    fn launch(&mut self, launch: &LaunchInfo<'_>) {
        self.threads = launch.block.iter().map(|&n| n as usize).product();
        self.communicates = launch.communicates;
        self.forget();
    }

    /// Launches are ordered, or nearly so: `overlap` sees to the rest.
    fn launched(&mut self) -> Result<(), (Site, Hazard)> {
        self.forget();
        Ok(())
    }

    fn block_begins(&mut self, block: u64) {
        // Lanes beyond the block's last thread never act, but have their place in the clock.
        let nothing = Know::nothing(self.threads.next_multiple_of(32)).settled();
        let threads = vec![Thread::new(&nothing); self.threads];
        let block_of = Block {
            threads,
            shared: Shadow::default(),
            published: Publications::default(),
            meetings: BTreeMap::new(),
            engines: Engines::default(),
        };
        self.running.insert(block as u32, block_of);
    }

    fn block_ends(&mut self, block: u64) {
        self.running.remove(&(block as u32));
    }

    fn access(&mut self, access: &WarpAccess<'_>) -> Result<(), Hazard> {
        let (site, kind, space) = (access.site, access.kind, access.space);
        let number = site.block as u32;
        let Some(block) = self.running.get_mut(&number) else { return Ok(()) };
        let (shadow, published) = match space {
            Space::Global => (&mut self.global, &mut self.published),
            Space::Shared => (&mut block.shared, &mut block.published),
            _ => return Ok(()),
        };
        let manner = Self::manner(access);
        let strong = matches!(manner, Manner::Strong | Manner::StrongInBlock);
        for lane in lanes(access.active) {
            let index = thread(site, lane);
            let address = access.addresses[lane as usize];
            let me = &mut block.threads[index];
            let under_way = kind == AccessKind::AsyncWrite;
            let through_proxy = kind == AccessKind::ProxyRead;
            let (engine, stamp) = match through_proxy {
                true => block.engines.product(site.warp),
                false => (0, if under_way { Mark::UNDER_WAY } else { me.stamp }),
            };
            let attempt = Attempt {
                mark: Mark {
                    block: number,
                    pc: site.pc,
                    stamp,
                    lanes: 1 << lane,
                    warp: site.warp as u8,
                    manner,
                    engine,
                },
                thread: index,
                know: &me.know,
                proxied: through_proxy.then_some(&*me.proxied),
                writes: kind.writes(),
                atomic: strong,
                communicates: self.communicates,
            };
            shadow.visit(address, access.bytes_per_lane, |at, cell| {
                attempt.touch(cell).map_err(|collision| Self::hazard(space, at, lane, &collision))
            })?;
            if under_way {
                let open = me.copies.back_mut().expect("one group is always open");
                open.push((address, access.bytes_per_lane));
            }
            if strong {
                published.synchronize(address, access, number, index, me);
            }
        }
        Ok(())
    }

    fn barrier_arrives(&mut self, site: Site, id: u32, active: u32, waits: bool) {
        let number = site.block as u32;
        let Some(block) = self.running.get_mut(&number) else { return };
        let width = block.threads.len().next_multiple_of(32);
        let meeting = block.meetings.entry(id).or_insert_with(|| Meeting::new(number, width));
        for lane in lanes(active) {
            let index = thread(site, lane);
            meeting.arrive(index, &mut block.threads[index]);
            if waits {
                meeting.waiting.push(index);
            }
        }
    }

    fn barrier_completes(&mut self, block: u64, id: u32, _: &[u32]) {
        let Some(block) = self.running.get_mut(&(block as u32)) else { return };
        if let Some(meeting) = block.meetings.remove(&id) {
            leave(meeting, &mut block.threads);
        }
    }

    fn warp_barrier(&mut self, site: Site, members: u32) {
        let number = site.block as u32;
        let Some(block) = self.running.get_mut(&number) else { return };
        let mut meeting = Meeting::new(number, block.threads.len().next_multiple_of(32));
        for index in lanes(members).map(|lane| thread(site, lane)) {
            if let Some(member) = block.threads.get_mut(index) {
                meeting.arrive(index, member);
                meeting.waiting.push(index);
            }
        }
        leave(meeting, &mut block.threads);
    }

    fn fence(&mut self, site: Site, scope: Scope, active: u32) {
        let number = site.block as u32;
        let Some(block) = self.running.get_mut(&number) else { return };
        for index in lanes(active).map(|lane| thread(site, lane)) {
            let me = &mut block.threads[index];
            let heard = std::mem::take(&mut me.heard);
            me.learn(number, &heard);
            let snapshot = me.hand_on(index);
            if scope >= Scope::Gpu {
                me.fenced_device = Some(snapshot.clone());
            }
            me.fenced = Some(snapshot);
        }
    }

    fn proxy_fence(&mut self, site: Site, active: u32) {
        let Some(block) = self.running.get_mut(&(site.block as u32)) else { return };
        for index in lanes(active).map(|lane| thread(site, lane)) {
            let me = &mut block.threads[index];
            block.engines.fence(me, site.block as u32, index);
            me.proxied = me.hand_on(index).know().settled();
        }
    }

    fn copies_committed(&mut self, site: Site, active: u32) {
        let Some(block) = self.running.get_mut(&(site.block as u32)) else { return };
        for lane in lanes(active) {
            block.threads[thread(site, lane)].copies.push_back(Vec::new());
        }
    }

    fn copies_waited(&mut self, site: Site, pending: u32, active: u32) {
        let Some(block) = self.running.get_mut(&(site.block as u32)) else { return };
        for lane in lanes(active) {
            let me = &mut block.threads[thread(site, lane)];
            // The last group is open: it is not among those that can be waited for.
            while me.copies.len() - 1 > pending as usize {
                for (address, bytes) in me.copies.pop_front().into_iter().flatten() {
                    let landed = block.shared.visit(address, bytes, |_, cell| {
                        if cell.write.stamp == Mark::UNDER_WAY {
                            cell.write.stamp = me.stamp;
                            cell.write.manner = Manner::Weak;
                        }
                        Ok::<(), std::convert::Infallible>(())
                    });
                    let Ok(()) = landed;
                }
            }
        }
    }

    fn mbarrier(
        &mut self,
        site: Site,
        address: u64,
        event: MbarrierEvent,
        members: u32,
    ) -> Result<(), Hazard> {
        let number = site.block as u32;
        let Some(block) = self.running.get_mut(&number) else { return Ok(()) };
        if event != MbarrierEvent::Init {
            return block.engines.event(&mut block.threads, site, address, event, members);
        }
        let lane = members.trailing_zeros();
        let mark = self.ask(site, lane, (Space::Shared, &[(address, 8)]), true, None)?;
        if let Some(block) = self.running.get_mut(&number) {
            block.engines.init(address, mark, block.threads.len().next_multiple_of(32));
        }
        Ok(())
    }

    fn bulk_copy(&mut self, copy: &BulkAccess<'_>) -> Result<(), Hazard> {
        let (site, index) = (copy.site, thread(copy.site, copy.lane));
        let Some(block) = self.running.get_mut(&(site.block as u32)) else { return Ok(()) };
        let [reads, writes] = block.engines.bulk(index, copy.counted);
        if let Counted::Mbarrier { at, .. } = copy.counted {
            block.engines.event(
                &mut block.threads,
                site,
                at as u64,
                MbarrierEvent::Expect,
                1 << copy.lane,
            )?;
            block.engines.is_visible(&block.threads[index], index, at as u64)?;
        }
        self.ask(site, copy.lane, copy.source, false, Some(reads))?;
        self.ask(site, copy.lane, copy.target, true, Some(writes))?;
        Ok(())
    }

    fn bulk_committed(&mut self, site: Site, active: u32) {
        let Some(block) = self.running.get_mut(&(site.block as u32)) else { return };
        lanes(active).for_each(|lane| block.engines.bulk_committed(thread(site, lane)));
    }

    fn bulk_waited(&mut self, site: Site, pending: u32, reads_only: bool, active: u32) {
        let number = site.block as u32;
        let Some(block) = self.running.get_mut(&number) else { return };
        for index in lanes(active).map(|lane| thread(site, lane)) {
            let me = &mut block.threads[index];
            block.engines.bulk_waited(me, (number, index), pending, reads_only);
        }
    }

    fn products_committed(&mut self, site: Site) {
        let Some(block) = self.running.get_mut(&(site.block as u32)) else { return };
        block.engines.products_committed(site.warp);
    }

    fn products_waited(&mut self, site: Site, pending: u32) {
        let Some(block) = self.running.get_mut(&(site.block as u32)) else { return };
        block.engines.products_waited(&mut block.threads, site, pending);
    }

    fn mbarrier_fence(&mut self, site: Site, active: u32) {
        let number = site.block as u32;
        let Some(block) = self.running.get_mut(&number) else { return };
        for index in lanes(active).map(|lane| thread(site, lane)) {
            block.engines.fence(&block.threads[index], number, index);
        }
    }
}

/// Those that waited leave a barrier with what all that arrived knew.
fn leave(meeting: Meeting, threads: &mut [Thread]) {
    let (know, proxied, waiting) = meeting.close();
    for index in waiting {
        threads[index].know = know.clone();
        threads[index].proxied = proxied.clone();
    }
}
