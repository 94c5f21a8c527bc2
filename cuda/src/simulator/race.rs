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
//! than [`MOST_READS`] unordered readers of one word.

mod clock;
mod order;
mod shadow;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use self::{
    clock::{Know, Meeting, Thread},
    order::Publications,
    shadow::{Cell, Manner, Mark, Shadow, Touch},
};
use super::{
    fault::{FaultKind, Hazard, Space},
    monitor::{AccessKind, LaunchInfo, MbarrierEvent, Monitor, Order, Scope, Site, WarpAccess},
};

/// Unordered readers that are remembered of one word; of those beyond, the oldest is forgotten.
const MOST_READS: usize = 64;

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
    mbarriers: BTreeMap<u64, Know>,
}

/// Why an access is a hazard: the access it collides with, and one lane of that.
struct Collision {
    kind: FaultKind,
    touch: Touch,
    mark: Mark,
    lane: u32,
}

/// One lane's access, with what decides whether it collides.
struct Attempt<'a> {
    mark: Mark,
    thread: usize,
    know: &'a Know,
    /// What the asynchronous proxy may see, for an access through it.
    proxied: Option<&'a Know>,
    writes: bool,
    atomic: bool,
    communicates: bool,
}

impl Attempt<'_> {
    fn misses(&self, mark: &Mark) -> Option<u32> {
        self.know.misses(self.mark.block, self.thread, mark)
    }

    /// Whether an earlier access collides with this one.
    fn collides(&self, touch: Touch, mark: &Mark) -> Option<Collision> {
        let of = |kind, lane| Some(Collision { kind, touch, mark: *mark, lane });
        if touch == Touch::Read && !self.writes {
            return None;
        }
        if mark.stamp == Mark::UNDER_WAY {
            return of(FaultKind::PendingCopy, mark.lanes.trailing_zeros());
        }
        if mark.manner == Manner::NonCoherent || self.mark.manner == Manner::NonCoherent {
            // No order helps: the cache of that path may hold what was there when the kernel began.
            return of(FaultKind::Race, mark.lanes.trailing_zeros());
        }
        if let Some(lane) = self.misses(mark) {
            let same_block = mark.block == self.mark.block;
            let agree = self.mark.manner.agrees(mark.manner, same_block);
            return if agree { None } else { of(FaultKind::Race, lane) };
        }
        let lane = self.proxied?.misses(self.mark.block, usize::MAX, mark)?;
        of(FaultKind::MissingProxyFence, lane)
    }

    /// Holds the access against what the cell remembers, then remembers it.
    fn touch(&self, cell: &mut Cell) -> Result<(), Collision> {
        // Most words are accessed again by the thread that accessed them last.
        if let Some(collision) = cell.marks().find_map(|(touch, mark)| self.collides(touch, mark)) {
            return Err(collision);
        }
        if self.writes {
            self.remember_write(cell);
        } else {
            self.remember_read(cell);
        }
        Ok(())
    }

    fn remember_write(&self, cell: &mut Cell) {
        let unseen = |mark: &Mark| !mark.is_empty() && self.misses(mark).is_some();
        if !self.atomic && self.mark.manner == Manner::Weak {
            // Everything before happened before.
            cell.more = None;
            cell.read = Mark::default();
            cell.write = self.mark;
            return;
        }
        if let Some(more) = &mut cell.more {
            more.retain(|(_, mark)| unseen(mark));
        }
        if !unseen(&cell.read) {
            cell.read = Mark::default();
        }
        let old = std::mem::replace(&mut cell.write, self.mark);
        if unseen(&old) {
            if old.matches(&self.mark) {
                cell.write.lanes |= old.lanes;
            } else {
                cell.push(Touch::Write, old);
                self.forget(cell);
            }
        }
    }

    fn remember_read(&self, cell: &mut Cell) {
        if self.mark.manner == Manner::NonCoherent {
            // One such reader is enough to forbid every write.
            if cell.read.is_empty() {
                cell.read = self.mark;
            }
        } else if cell.read.is_empty() || self.misses(&cell.read).is_none() {
            cell.read = self.mark;
        } else if cell.read.matches(&self.mark) {
            cell.read.lanes |= self.mark.lanes;
        } else {
            cell.push(Touch::Read, self.mark);
            self.forget(cell);
        }
    }

    /// Keeps the memory of a cell bounded.
    fn forget(&self, cell: &mut Cell) {
        let Some(more) = &mut cell.more else { return };
        if !self.communicates && cell.read.block != self.mark.block {
            // Blocks that never talk are never ordered: to collide with a write of any block it takes one
            // reader elsewhere, and that is the one outside of this list.
            more.retain(|(_, mark)| mark.block == self.mark.block);
        }
        if more.len() > MOST_READS {
            more.remove(0);
        }
    }
}

impl Races {
    /// A collision as a hazard of `lane` at `address`.
    fn hazard(space: Space, address: u64, lane: u32, collision: &Collision) -> Hazard {
        let Collision { kind, touch, mark, lane: other } = collision;
        let what = match (touch, mark.manner, mark.stamp) {
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

    fn manner(access: &WarpAccess<'_>) -> Manner {
        let wide = access.scope >= Scope::Gpu || access.order == Order::Volatile;
        match (access.kind, access.order) {
            (AccessKind::AsyncWrite, _) => Manner::Copy,
            _ if access.non_coherent => Manner::NonCoherent,
            (AccessKind::Load | AccessKind::Store | AccessKind::AsyncRead, Order::Weak) => {
                Manner::Weak
            }
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
        self.launched();
    }

    fn launched(&mut self) {
        self.running.clear();
        self.global.clear();
        self.published = Publications::default();
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
            mbarriers: BTreeMap::new(),
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
            let attempt = Attempt {
                mark: Mark {
                    block: number,
                    pc: site.pc,
                    stamp: if under_way { Mark::UNDER_WAY } else { me.stamp },
                    lanes: 1 << lane,
                    warp: site.warp as u8,
                    manner,
                },
                thread: index,
                know: &me.know,
                proxied: (kind == AccessKind::AsyncRead && space == Space::Shared)
                    .then_some(&*me.proxied),
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
        let width = block.threads.len().next_multiple_of(32);
        match event {
            MbarrierEvent::Init(_) | MbarrierEvent::Invalidate => {
                block.mbarriers.remove(&address);
            }
            MbarrierEvent::Arrive => {
                let known = block.mbarriers.entry(address).or_insert_with(|| Know::nothing(width));
                for index in lanes(members).map(|lane| thread(site, lane)) {
                    known.absorb(number, number, &block.threads[index].hand_on(index).know());
                }
            }
            MbarrierEvent::Waited(_) => {
                let Some(known) = block.mbarriers.get(&address) else { return Ok(()) };
                let known = [(number, Arc::new(known.clone()))];
                for index in lanes(members).map(|lane| thread(site, lane)) {
                    block.threads[index].learn(number, &known);
                }
            }
            MbarrierEvent::ExpectBytes(_) | MbarrierEvent::CompleteBytes(_) => {}
        }
        Ok(())
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
