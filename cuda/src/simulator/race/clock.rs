//! What each thread knows to have happened before now: vector clocks.
//!
//! A thread's own accesses carry its `stamp`, which rises whenever it hands knowledge on. A [`Know`] says,
//! for every thread of the block, up to which stamp its accesses happened before; of other blocks it says so
//! where they were heard of. Threads that leave a barrier together share one [`Know`].

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use super::shadow::{Mark, Slot};

/// Up to and including which stamp the accesses of a block's threads, and of its engines, happened before.
#[derive(Clone, Debug, Default)]
struct Stamps {
    threads: Vec<u32>,
    /// Engine 1 first; those beyond the end are at 0.
    engines: Vec<u32>,
}

impl Stamps {
    fn raise(&mut self, others: &Self) {
        let raise = |stamps: &mut [u32], others: &[u32]| {
            stamps.iter_mut().zip(others).for_each(|(stamp, &other)| *stamp = (*stamp).max(other));
        };
        raise(&mut self.threads, &others.threads);
        let engines = self.engines.len().max(others.engines.len());
        self.engines.resize(engines, 0);
        raise(&mut self.engines, &others.engines);
    }

    fn engine(&self, engine: Slot) -> u32 {
        self.engines.get(usize::from(engine) - 1).copied().unwrap_or(0)
    }
}

/// What happened before.
#[derive(Clone, Debug, Default)]
pub(super) struct Know {
    /// Of the knower's own block.
    own: Stamps,
    /// The least of its threads' stamps: nothing older needs a second look.
    floor: u32,
    /// Of other blocks.
    foreign: BTreeMap<u32, Arc<Stamps>>,
}

impl Know {
    pub(super) fn nothing(threads: usize) -> Self {
        Self { own: Stamps { threads: vec![0; threads], engines: Vec::new() }, ..Self::default() }
    }

    /// Everything of the own block, nothing of others: for accesses of blocks that have been held against each
    /// other within their chunk and now meet those of another.
    pub(super) fn of_own_block() -> Self {
        Self { floor: u32::MAX, ..Self::default() }
    }

    /// That an engine is so far.
    pub(super) fn of_engine(engine: Slot, stamp: u32) -> Self {
        let mut know = Self::default();
        know.know_of_engine(engine, stamp);
        know
    }

    /// Takes in that an engine is so far.
    pub(super) fn know_of_engine(&mut self, engine: Slot, stamp: u32) {
        let (at, engines) = (usize::from(engine), &mut self.own.engines);
        if at == 0 {
            return;
        }
        engines.resize(engines.len().max(at), 0);
        engines[at - 1] = engines[at - 1].max(stamp);
    }

    /// Whether a thread of the own block is known to have come to a stamp.
    pub(super) fn reaches(&self, thread: usize, stamp: u32) -> bool {
        self.own.threads[thread] >= stamp
    }

    /// Takes in what a thread of `block` knows, itself being of `mine`.
    pub(super) fn absorb(&mut self, mine: u32, block: u32, other: &Self) {
        if block == mine {
            self.own.raise(&other.own);
        } else {
            self.hear_of(block, &Arc::new(other.own.clone()));
        }
        for (&of, stamps) in &other.foreign {
            if of == mine {
                self.own.raise(stamps);
            } else {
                self.hear_of(of, stamps);
            }
        }
    }

    fn hear_of(&mut self, block: u32, stamps: &Arc<Stamps>) {
        let known = self.foreign.entry(block).or_insert_with(|| stamps.clone());
        if !Arc::ptr_eq(known, stamps) {
            Arc::make_mut(known).raise(stamps);
        }
    }

    /// Takes in that a thread of the own block got as far as `stamp`.
    pub(super) fn know_of(&mut self, thread: usize, stamp: u32) {
        let own = &mut self.own.threads[thread];
        *own = (*own).max(stamp);
    }

    /// To be called after changes, before it is shared.
    pub(super) fn settled(mut self) -> Arc<Self> {
        self.floor = self.own.threads.iter().copied().min().unwrap_or(0);
        Arc::new(self)
    }

    /// A lane of `mark` whose access is not known to have happened before, as seen by thread `me`.
    pub(super) fn misses(&self, block: u32, me: usize, mark: &Mark) -> Option<u32> {
        let mut lanes = mark.lanes;
        let first = 32 * usize::from(mark.warp);
        let stamps = if mark.block == block {
            if mark.stamp <= self.floor && mark.engine == 0 {
                return None;
            }
            if me / 32 == usize::from(mark.warp) && mark.engine == 0 {
                // A thread's own accesses are ordered.
                lanes &= !(1 << (me % 32));
            }
            &self.own
        } else {
            match self.foreign.get(&mark.block) {
                Some(stamps) => &**stamps,
                None => return Some(lanes.trailing_zeros()),
            }
        };
        if mark.engine != 0 {
            let is_known = stamps.engine(mark.engine) >= mark.stamp;
            return (!is_known).then_some(lanes.trailing_zeros());
        }
        while lanes != 0 {
            let lane = lanes.trailing_zeros();
            if stamps.threads[first + lane as usize] < mark.stamp {
                return Some(lane);
            }
            lanes &= lanes - 1;
        }
        None
    }
}

/// What one thread knew at one moment, with how far it was itself.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    know: Arc<Know>,
    thread: usize,
    stamp: u32,
}

impl Snapshot {
    /// The snapshot as knowledge that others can take in.
    pub(super) fn know(&self) -> Know {
        let mut know = Know::clone(&self.know);
        know.know_of(self.thread, self.stamp);
        know
    }
}

/// One thread of a block.
#[derive(Clone, Debug)]
pub(super) struct Thread {
    /// What happened before its next access.
    pub know: Arc<Know>,
    /// Stamp of its accesses now.
    pub stamp: u32,
    /// What it knew at its last fence of the block's scope or wider.
    pub fenced: Option<Snapshot>,
    /// What it knew at its last fence of the device's scope or wider.
    pub fenced_device: Option<Snapshot>,
    /// What it read of others by relaxed accesses: a fence makes it known.
    pub heard: Vec<(u32, Arc<Know>)>,
    /// What the asynchronous proxy may see of the generic one's writes.
    pub proxied: Arc<Know>,
    /// Ranges of shared memory that its asynchronous copies are to write: group by group, the last one open.
    pub copies: VecDeque<Vec<(u64, u32)>>,
}

impl Thread {
    pub(super) fn new(nothing: &Arc<Know>) -> Self {
        Self {
            know: nothing.clone(),
            stamp: 1,
            fenced: None,
            fenced_device: None,
            heard: Vec::new(),
            proxied: nothing.clone(),
            copies: VecDeque::from([Vec::new()]),
        }
    }

    /// What it knows now, itself included. Later accesses are not part of it.
    pub(super) fn hand_on(&mut self, thread: usize) -> Snapshot {
        let snapshot = Snapshot { know: self.know.clone(), thread, stamp: self.stamp };
        self.stamp += 1;
        snapshot
    }

    /// Takes in what others published.
    pub(super) fn learn(&mut self, block: u32, published: &[(u32, Arc<Know>)]) {
        if published.is_empty() {
            return;
        }
        let mut know = Know::clone(&self.know);
        published.iter().for_each(|(of, other)| know.absorb(block, *of, other));
        self.know = know.settled();
    }
}

/// Gathers what threads know on their way into a barrier.
#[derive(Debug)]
pub(super) struct Meeting {
    /// Where they meet.
    pub block: u32,
    know: Know,
    proxied: Know,
    last: [Option<Arc<Know>>; 2],
    /// Threads that leave with what was gathered.
    pub waiting: Vec<usize>,
}

impl Meeting {
    pub(super) fn new(block: u32, threads: usize) -> Self {
        Self {
            block,
            know: Know::nothing(threads),
            proxied: Know::nothing(threads),
            last: [None, None],
            waiting: Vec::new(),
        }
    }

    /// A thread arrives.
    pub(super) fn arrive(&mut self, index: usize, thread: &mut Thread) {
        let [know, proxied] = &mut self.last;
        gather(&mut self.know, know, &thread.know, self.block);
        gather(&mut self.proxied, proxied, &thread.proxied, self.block);
        self.know.know_of(index, thread.stamp);
        thread.stamp += 1;
    }

    /// What was gathered, for those that leave.
    pub(super) fn close(self) -> (Arc<Know>, Arc<Know>, Vec<usize>) {
        (self.know.settled(), self.proxied.settled(), self.waiting)
    }
}

/// Absorbs what is not what was absorbed last: threads mostly share their knowledge.
fn gather(into: &mut Know, last: &mut Option<Arc<Know>>, know: &Arc<Know>, block: u32) {
    if !last.as_ref().is_some_and(|last| Arc::ptr_eq(last, know)) {
        into.absorb(block, block, know);
        *last = Some(know.clone());
    }
}
