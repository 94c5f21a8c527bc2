//! Bulk copies that a block's copy engine has under way.
//!
//! A copy reads its source when it is asked for and lands as late as it may: when its thread waits for its group,
//! or when no warp of the block can go on without it. So what reads a target too early finds nothing there.

use std::collections::{BTreeMap, VecDeque};

use super::{fault::Space, monitor::Site};

/// How a thread learns that its copy has landed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// By the mbarrier at that offset, whose phase it was when the copy was asked for.
    Mbarrier {
        /// Offset in shared memory.
        at: usize,
        /// The phase.
        phase: u64,
    },
    /// By the bulk group of that number of a thread of the block.
    Group {
        /// The thread.
        thread: u32,
        /// Its groups before this one.
        group: u32,
    },
}

/// A copy that has not landed.
#[derive(Clone, Debug)]
pub struct InFlight {
    /// The instruction.
    pub site: Site,
    /// The lane that asked for it.
    pub lane: u32,
    /// How its end is learnt of.
    pub counted: Counted,
    /// Where it goes.
    pub space: Space,
    /// Addresses there, with numbers of bytes.
    pub targets: Vec<(u64, u32)>,
    /// The bytes, target after target.
    pub data: Vec<u8>,
    /// Bytes that an mbarrier is told of.
    pub bytes: u32,
    /// Whether its thread knows that the source was read.
    pub has_read: bool,
}

/// Copies under way, oldest first.
#[derive(Debug, Default)]
pub struct Engine {
    queue: VecDeque<InFlight>,
    /// Bulk groups that each thread has committed.
    committed: BTreeMap<u32, u32>,
}

impl Engine {
    /// Forgets everything, for another block.
    pub fn reset(&mut self) {
        self.queue.clear();
        self.committed.clear();
    }

    /// A copy begins.
    pub fn push(&mut self, copy: InFlight) {
        self.queue.push_back(copy);
    }

    /// The oldest copy.
    pub fn first(&self) -> Option<&InFlight> {
        self.queue.front()
    }

    /// The oldest copy, which lands now.
    pub fn pop(&mut self) -> Option<InFlight> {
        self.queue.pop_front()
    }

    /// Number of the group that a thread's copies go into now.
    pub fn group(&self, thread: u32) -> u32 {
        self.committed.get(&thread).copied().unwrap_or(0)
    }

    /// A thread closes its group.
    pub fn commit(&mut self, thread: u32) {
        *self.committed.entry(thread).or_default() += 1;
    }

    /// The copies of all groups of a thread but the last `pending`; those that only must have been read stay.
    pub fn wait(&mut self, thread: u32, pending: u32, reads_only: bool) -> VecDeque<InFlight> {
        let over = self.group(thread).saturating_sub(pending);
        let is_over = |copy: &InFlight| match copy.counted {
            Counted::Group { thread: of, group } => of == thread && group < over,
            Counted::Mbarrier { .. } => false,
        };
        if reads_only {
            self.queue.iter_mut().filter(|c| is_over(c)).for_each(|copy| copy.has_read = true);
            return VecDeque::new();
        }
        let (landing, rest) = self.queue.drain(..).partition(is_over);
        self.queue = rest;
        landing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(thread: u32, group: u32) -> InFlight {
        InFlight {
            site: Site { pc: 0, block: 0, warp: 0 },
            lane: thread,
            counted: Counted::Group { thread, group },
            space: Space::Global,
            targets: vec![],
            data: vec![],
            bytes: 0,
            has_read: false,
        }
    }

    #[test]
    fn threads_wait_for_their_own_closed_groups() {
        let mut engine = Engine::default();
        for _ in 0..2 {
            engine.push(copy(3, engine.group(3)));
            engine.commit(3);
        }
        engine.push(copy(3, engine.group(3)));
        engine.push(copy(4, engine.group(4)));
        assert!(engine.wait(3, 0, true).is_empty());
        assert_eq!(engine.queue.iter().filter(|copy| copy.has_read).count(), 2);
        assert_eq!(engine.wait(3, 1, false).len(), 1);
        assert_eq!(engine.wait(3, 0, false).len(), 1);
        assert_eq!(engine.queue.len(), 2, "the open group and the other thread's copy");
    }
}
