//! One access, held against those that a cell of the shadow remembers.

use super::{
    clock::Know,
    shadow::{Cell, Manner, Mark, Touch},
};
use crate::simulator::fault::FaultKind;

/// Unordered readers that are remembered of one word; of those beyond, the oldest is forgotten.
pub(super) const MOST_READS: usize = 64;

/// Why an access is a hazard: the access it collides with, and one lane of that.
pub(super) struct Collision {
    pub kind: FaultKind,
    pub touch: Touch,
    pub mark: Mark,
    pub lane: u32,
}

/// One lane's access, with what decides whether it collides.
pub(super) struct Attempt<'a> {
    pub mark: Mark,
    pub thread: usize,
    pub know: &'a Know,
    /// What the asynchronous proxy may see, for an access through it.
    pub proxied: Option<&'a Know>,
    pub writes: bool,
    pub atomic: bool,
    pub communicates: bool,
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
            let kind = if mark.engine == 0 { FaultKind::Race } else { FaultKind::PendingCopy };
            return if agree { None } else { of(kind, lane) };
        }
        if touch == Touch::Read || mark.engine != 0 {
            // What was read needs no fence, and what the proxy itself wrote none either.
            return None;
        }
        let lane = self.proxied?.misses(self.mark.block, usize::MAX, mark)?;
        of(FaultKind::MissingProxyFence, lane)
    }

    /// Holds the access against what the cell remembers, then remembers it.
    pub(super) fn touch(&self, cell: &mut Cell) -> Result<(), Collision> {
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
        // Who agrees with this access need not know of the plain ones that this thread knows of.
        let kept = |mark: &Mark| unseen(mark) || self.hides(mark);
        if let Some(more) = &mut cell.more {
            more.retain(|(_, mark)| kept(mark));
        }
        if !kept(&cell.read) {
            cell.read = Mark::default();
        }
        let old = std::mem::replace(&mut cell.write, self.mark);
        if kept(&old) {
            if old.matches(&self.mark) {
                cell.write.lanes |= old.lanes;
            } else {
                cell.push(Touch::Write, old);
                self.forget(cell);
            }
        }
    }

    /// Whether a mark is of a plain access, and this one is not: to be ordered behind this one, or to agree with it, says
    /// nothing of that.
    fn hides(&self, mark: &Mark) -> bool {
        !mark.is_empty() && mark.manner == Manner::Weak && self.mark.manner != Manner::Weak
    }

    fn remember_read(&self, cell: &mut Cell) {
        if self.mark.manner == Manner::NonCoherent {
            // One such reader is enough to forbid every write.
            if cell.read.is_empty() {
                cell.read = self.mark;
            }
        } else if cell.read.is_empty()
            || self.misses(&cell.read).is_none() && !self.hides(&cell.read)
        {
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
