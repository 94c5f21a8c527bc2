//! What is under way beside the threads: bulk copies, `wgmma`, and the mbarriers that tell of their end.
//!
//! An engine is a clock of its own, to which the marks of such accesses refer: of an mbarrier the phases that are
//! over, of a warp its groups of products, of a thread its bulk groups. Who waits learns how far an engine is, and
//! hands that on like all it knows. So an order between threads alone never covers a copy that nobody waited for.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    clock::{Know, Thread},
    lanes,
    shadow::{Mark, Slot},
    thread,
};
use crate::simulator::{
    bulk::Counted,
    fault::{FaultKind, Hazard, Space},
    monitor::{MbarrierEvent, Site},
};

/// Knowledge of memory, and of what the asynchronous proxy may see of it.
#[derive(Clone, Debug)]
struct Pair {
    know: Know,
    proxied: Know,
}

impl Pair {
    fn nothing(width: usize) -> Self {
        Self { know: Know::nothing(width), proxied: Know::nothing(width) }
    }

    fn absorb(&mut self, block: u32, other: &Self) {
        self.know.absorb(block, block, &other.know);
        self.proxied.absorb(block, block, &other.proxied);
    }
}

/// One mbarrier.
#[derive(Debug)]
struct Object {
    slot: Slot,
    /// Phases that are over.
    phase: u32,
    /// Its initialisation.
    init: Mark,
    /// Threads whose fence made the initialisation visible to the copy engine, and when.
    fences: Vec<(usize, u32)>,
    /// What those that arrived in this phase knew.
    open: Pair,
    /// The same of all phases before.
    done: Pair,
}

/// Groups of one thread or warp.
#[derive(Clone, Copy, Debug)]
struct Groups {
    /// Engines of what reads and of what writes.
    slots: [Slot; 2],
    committed: u32,
}

/// The engines of one block.
#[derive(Debug, Default)]
pub(super) struct Engines {
    slots: Slot,
    objects: BTreeMap<u64, Object>,
    /// Bulk groups by thread.
    bulk: BTreeMap<usize, Groups>,
    /// Products by warp.
    products: BTreeMap<u32, Groups>,
}

fn take(slots: &mut Slot) -> Slot {
    *slots = slots.saturating_add(1);
    *slots
}

fn new_groups(slots: &mut Slot) -> Groups {
    Groups { slots: [take(slots), take(slots)], committed: 0 }
}

impl Groups {
    /// Stamp of what belongs to the open group.
    fn stamp(&self) -> u32 {
        self.committed + 1
    }

    /// How far the engine is when only the last `pending` groups are under way.
    fn over(&self, pending: u32) -> u32 {
        self.committed.saturating_sub(pending)
    }
}

impl Engines {
    /// Engine and stamp of what a warp's products read now.
    pub(super) fn product(&mut self, warp: u32) -> (Slot, u32) {
        let slots = &mut self.slots;
        let groups = self.products.entry(warp).or_insert_with(|| new_groups(slots));
        (groups.slots[0], groups.stamp())
    }

    pub(super) fn products_committed(&mut self, warp: u32) {
        self.product(warp);
        self.products.entry(warp).and_modify(|groups| groups.committed += 1);
    }

    pub(super) fn products_waited(&mut self, threads: &mut [Thread], site: Site, pending: u32) {
        let Some(groups) = self.products.get(&site.warp) else { return };
        let heard = Know::of_engine(groups.slots[0], groups.over(pending)).settled();
        let block = site.block as u32;
        for index in lanes(u32::MAX).map(|lane| thread(site, lane)) {
            if let Some(me) = threads.get_mut(index) {
                me.learn(block, &[(block, heard.clone())]);
            }
        }
    }

    /// Engines and stamps of what a bulk copy of a thread reads and writes.
    pub(super) fn bulk(&mut self, index: usize, counted: Counted) -> [(Slot, u32); 2] {
        match counted {
            Counted::Group { .. } => {
                let slots = &mut self.slots;
                let groups = self.bulk.entry(index).or_insert_with(|| new_groups(slots));
                groups.slots.map(|slot| (slot, groups.stamp()))
            }
            Counted::Mbarrier { at, .. } => {
                let object = self.objects.get(&(at as u64));
                [object.map_or((0, 0), |object| (object.slot, object.phase + 1)); 2]
            }
        }
    }

    pub(super) fn bulk_committed(&mut self, index: usize) {
        let slots = &mut self.slots;
        self.bulk.entry(index).or_insert_with(|| new_groups(slots)).committed += 1;
    }

    pub(super) fn bulk_waited(
        &self,
        me: &mut Thread,
        (block, index): (u32, usize),
        pending: u32,
        reads_only: bool,
    ) {
        let Some(groups) = self.bulk.get(&index) else { return };
        let known = if reads_only { &groups.slots[..1] } else { &groups.slots };
        for slot in known {
            let heard = Know::of_engine(*slot, groups.over(pending)).settled();
            me.learn(block, &[(block, heard)]);
        }
    }

    /// Initialisations that a fence of a thread makes visible to the copy engine.
    pub(super) fn fence(&mut self, me: &Thread, block: u32, index: usize) {
        for object in self.objects.values_mut() {
            if me.know.misses(block, index, &object.init).is_none() {
                object.fences.push((index, me.stamp));
            }
        }
    }

    /// Whether the copy engine sees the mbarrier that a thread gives it.
    pub(super) fn is_visible(&self, me: &Thread, index: usize, at: u64) -> Result<(), Hazard> {
        let Some(object) = self.objects.get(&at) else { return Ok(()) };
        let is_known = |&(by, stamp): &(usize, u32)| by == index || me.know.reaches(by, stamp);
        if object.fences.iter().any(is_known) {
            return Ok(());
        }
        let note = "the copy engine may not see that this mbarrier was initialised";
        Err(Hazard::new(FaultKind::MissingProxyFence, note).at(Space::Shared, at))
    }

    /// An mbarrier is initialised by the access of `mark`.
    pub(super) fn init(&mut self, address: u64, mark: Mark, width: usize) {
        let object = Object {
            slot: take(&mut self.slots),
            phase: 0,
            init: mark,
            fences: Vec::new(),
            open: Pair::nothing(width),
            done: Pair::nothing(width),
        };
        self.objects.insert(address, object);
    }

    /// Any other event.
    pub(super) fn event(
        &mut self,
        threads: &mut [Thread],
        site: Site,
        address: u64,
        event: MbarrierEvent,
        members: u32,
    ) -> Result<(), Hazard> {
        let block = site.block as u32;
        let Some(object) = self.objects.get_mut(&address) else { return Ok(()) };
        for lane in lanes(members) {
            let (index, init) = (thread(site, lane), &object.init);
            if let Some(other) = threads[index].know.misses(block, index, init) {
                let by = Site { pc: init.pc, block: site.block, warp: init.warp.into() };
                return Err(Hazard::new(FaultKind::Race, "the initialisation of the mbarrier")
                    .of_lane(lane)
                    .at(Space::Shared, address)
                    .against(by, other));
            }
        }
        match event {
            MbarrierEvent::Arrive => {
                for index in lanes(members).map(|lane| thread(site, lane)) {
                    let know = threads[index].hand_on(index).know();
                    let proxied = Know::clone(&threads[index].proxied);
                    object.open.absorb(block, &Pair { know, proxied });
                }
            }
            MbarrierEvent::PhaseEnds => {
                let mut open = std::mem::replace(
                    &mut object.open,
                    Pair::nothing(threads.len().next_multiple_of(32)),
                );
                object.phase += 1;
                open.know.know_of_engine(object.slot, object.phase);
                object.done.absorb(block, &open);
            }
            MbarrierEvent::Waited => {
                let known = [(block, Arc::new(object.done.know.clone()))];
                for index in lanes(members).map(|lane| thread(site, lane)) {
                    threads[index].learn(block, &known);
                    let mut proxied = Know::clone(&threads[index].proxied);
                    proxied.absorb(block, block, &object.done.proxied);
                    threads[index].proxied = proxied.settled();
                }
            }
            MbarrierEvent::Invalidate => {
                self.objects.remove(&address);
            }
            MbarrierEvent::Init | MbarrierEvent::Expect => {}
        }
        Ok(())
    }
}
