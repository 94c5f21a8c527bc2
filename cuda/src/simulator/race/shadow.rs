//! Who touched which bytes last: a shadow of memory, page by page, made where it is touched.

use std::collections::HashMap;

/// Bytes of memory that a page shadows.
const PAGE_BYTES: u64 = 1024;

/// A clock beside those of the threads: that of a copy engine or of tensor cores; 0 is none.
pub(super) type Slot = u16;

/// Accesses of lanes of one warp at one stamp by one instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Mark {
    /// Block of the threads.
    pub block: u32,
    /// Instruction.
    pub pc: u32,
    /// When, by the threads' own clock or that of the engine; 0 in an empty mark.
    pub stamp: u32,
    /// Lanes of the warp.
    pub lanes: u32,
    /// Warp in the block.
    pub warp: u8,
    /// How.
    pub manner: Manner,
    /// The engine that accesses on behalf of the lanes.
    pub engine: Slot,
}

/// How memory was accessed, as far as it decides what is a race.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Manner {
    /// Without a promise of atomicity.
    #[default]
    Weak,
    /// Atomic, relaxed or volatile, towards threads of the block.
    StrongInBlock,
    /// The same towards threads of the device.
    Strong,
    /// Through the non-coherent path.
    NonCoherent,
    /// By an asynchronous copy that is under way, or has landed since.
    Copy,
}

impl Manner {
    /// Whether two such accesses, of threads of one block or of two, are no race though unordered.
    pub(super) fn agrees(self, other: Self, same_block: bool) -> bool {
        match (self, other) {
            (Self::Strong, Self::Strong) => true,
            (Self::Strong | Self::StrongInBlock, Self::Strong | Self::StrongInBlock) => same_block,
            _ => false,
        }
    }
}

impl Mark {
    /// Stamp of a copy that has not landed: nobody can know of it.
    pub(super) const UNDER_WAY: u32 = u32::MAX;

    pub(super) fn is_empty(&self) -> bool {
        self.stamp == 0
    }

    /// Whether another access can share this mark.
    pub(super) fn matches(&self, other: &Self) -> bool {
        (self.block, self.warp, self.stamp, self.manner, self.engine)
            == (other.block, other.warp, other.stamp, other.manner, other.engine)
    }
}

/// What is known of some bytes that are always accessed together.
#[derive(Clone, Debug, Default)]
pub(super) struct Cell {
    /// The last write.
    pub write: Mark,
    /// A read since.
    pub read: Mark,
    /// More reads that do not know of each other, and atomics before the last write that it does not know of.
    #[allow(clippy::box_collection)]
    pub more: Option<Box<Vec<(Touch, Mark)>>>,
}

/// Whether a mark reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Touch {
    /// It reads.
    Read,
    /// It writes.
    Write,
}

impl Cell {
    /// All accesses that are remembered.
    pub(super) fn marks(&self) -> impl Iterator<Item = (Touch, &Mark)> {
        let more =
            self.more.iter().flat_map(|more| more.iter().map(|(touch, mark)| (*touch, mark)));
        let two = [(Touch::Write, &self.write), (Touch::Read, &self.read)];
        two.into_iter().filter(|(_, mark)| !mark.is_empty()).chain(more)
    }

    /// Remembers one access more.
    pub(super) fn push(&mut self, touch: Touch, mark: Mark) {
        let more = self.more.get_or_insert_default();
        let known = more.iter_mut().find(|(of, known)| *of == touch && known.matches(&mark));
        match known {
            Some((_, known)) => known.lanes |= mark.lanes,
            None => more.push((touch, mark)),
        }
    }
}

/// Shadow of [`PAGE_BYTES`]: a cell for each `1 << shift` bytes.
#[derive(Clone, Debug)]
struct Page {
    shift: u32,
    cells: Vec<Cell>,
}

impl Page {
    /// A page starts with words of four bytes.
    fn new() -> Self {
        Self { shift: 2, cells: vec![Cell::default(); PAGE_BYTES as usize >> 2] }
    }

    /// Splits cells until each is of `1 << shift` bytes or fewer: the page has seen a smaller access.
    fn refine(&mut self, shift: u32) {
        while self.shift > shift {
            self.cells = self.cells.iter().flat_map(|cell| [cell.clone(), cell.clone()]).collect();
            self.shift -= 1;
        }
    }
}

/// The shadow of a space.
#[derive(Clone, Debug, Default)]
pub(super) struct Shadow {
    index: HashMap<u64, usize>,
    pages: Vec<Page>,
    last: Option<(u64, usize)>,
}

impl Shadow {
    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.index.clear();
        self.pages.clear();
        self.last = None;
    }

    fn page(&mut self, number: u64) -> &mut Page {
        let at = match self.last {
            Some((last, at)) if last == number => at,
            _ => *self.index.entry(number).or_insert_with(|| {
                self.pages.push(Page::new());
                self.pages.len() - 1
            }),
        };
        self.last = Some((number, at));
        &mut self.pages[at]
    }

    /// Calls `visit` with each cell of the `bytes` from `address` on, and the first of those bytes in it.
    pub(super) fn visit<E>(
        &mut self,
        address: u64,
        bytes: u32,
        mut visit: impl FnMut(u64, &mut Cell) -> Result<(), E>,
    ) -> Result<(), E> {
        let end = address + u64::from(bytes);
        let shift = (address | end).trailing_zeros().min(2);
        let mut at = address;
        while at < end {
            let page = self.page(at / PAGE_BYTES);
            page.refine(shift);
            let stop = end.min((at / PAGE_BYTES + 1) * PAGE_BYTES);
            let cell = |at: u64| ((at % PAGE_BYTES) >> page.shift) as usize;
            let (first, last) = (cell(at), cell(stop - 1));
            let width = 1 << page.shift;
            for cell in &mut page.cells[first..=last] {
                visit(at, cell)?;
                at += width;
            }
        }
        Ok(())
    }

    /// Takes in another shadow of the same space, cell by cell: `meet` gets the address, the cell here and the
    /// cell there.
    pub(super) fn join<E>(
        &mut self,
        mut other: Self,
        mut meet: impl FnMut(u64, &mut Cell, &Cell) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut numbers: Vec<(u64, usize)> = other.index.drain().collect();
        numbers.sort_unstable();
        for (number, at) in numbers {
            let there = &mut other.pages[at];
            if !self.index.contains_key(&number) {
                *self.page(number) = std::mem::replace(there, Page { shift: 2, cells: Vec::new() });
                continue;
            }
            let here = self.page(number);
            here.refine(there.shift);
            there.refine(here.shift);
            for (k, (mine, theirs)) in here.cells.iter_mut().zip(&there.cells).enumerate() {
                meet(number * PAGE_BYTES + ((k as u64) << there.shift), mine, theirs)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Addresses and stamps of the writes in a range.
    fn writes(shadow: &mut Shadow, address: u64, bytes: u32) -> Vec<(u64, u32)> {
        let mut seen = Vec::new();
        let mut note = |at, cell: &mut Cell| {
            seen.push((at, cell.write.stamp));
            Ok::<(), ()>(())
        };
        shadow.visit(address, bytes, &mut note).unwrap();
        seen
    }

    #[test]
    fn small_accesses_split_cells_and_keep_what_was_known() {
        let mut shadow = Shadow::default();
        let mut mark = |_: u64, cell: &mut Cell| {
            cell.write = Mark { stamp: 7, lanes: 1, ..Mark::default() };
            Ok::<(), ()>(())
        };
        shadow.visit(0, 8, &mut mark).unwrap();
        writes(&mut shadow, 6, 1);
        let seen = writes(&mut shadow, 0, 12);
        assert_eq!(seen.len(), 12);
        assert!(seen.iter().all(|&(at, stamp)| stamp == if at < 8 { 7 } else { 0 }));
    }

    #[test]
    fn accesses_cross_pages() {
        let mut shadow = Shadow::default();
        assert_eq!(writes(&mut shadow, 1020, 8), [(1020, 0), (1024, 0)]);
        assert_eq!(shadow.pages.len(), 2);
    }

    #[test]
    fn only_strong_accesses_within_their_scope_agree() {
        use Manner::{Copy, NonCoherent, Strong, StrongInBlock, Weak};
        assert!(Strong.agrees(Strong, false));
        assert!(Strong.agrees(StrongInBlock, true) && !Strong.agrees(StrongInBlock, false));
        for other in [Weak, NonCoherent, Copy, Strong] {
            assert!(!Weak.agrees(other, true) && !other.agrees(Weak, true));
        }
    }
}
