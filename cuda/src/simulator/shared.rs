//! A block's shared memory: bytes, whether each was written, which an asynchronous copy is to write, and the
//! mbarriers in it.

use std::collections::BTreeMap;

use super::{
    fault::{FaultKind, Hazard, Space},
    mbarrier::{self, Mbarrier},
    memory::{Cells, State},
};

/// Shared memory of one block.
#[derive(Debug, Default)]
pub struct Shared {
    /// Its bytes.
    pub cells: Cells,
    /// Copies under way to each byte.
    pending: Vec<u8>,
    /// Bytes with copies under way.
    pending_bytes: usize,
    /// Live mbarriers by their offset.
    pub mbarriers: BTreeMap<usize, Mbarrier>,
    /// Phases of mbarriers that have ended: who sleeps looks again when there are more.
    pub phases_ended: u64,
}

impl Shared {
    /// Memory that nothing has written.
    pub fn new(bytes: usize) -> Self {
        Self { cells: Cells::new(bytes), pending: vec![0; bytes], ..Self::default() }
    }

    /// Forgets everything, for another block.
    pub fn reset(&mut self) {
        self.cells.fill(0, State::Fresh);
        self.pending.fill(0);
        self.pending_bytes = 0;
        self.mbarriers.clear();
        self.phases_ended = 0;
    }

    /// Marks bytes that a copy is to write.
    pub fn begin_copy(&mut self, at: usize, bytes: usize) {
        for count in &mut self.pending[at..at + bytes] {
            self.pending_bytes += usize::from(*count == 0);
            *count = count.saturating_add(1);
        }
    }

    /// The copy to these bytes lands.
    pub fn end_copy(&mut self, at: usize, data: &[u8]) {
        self.cells.write(at, data);
        for count in &mut self.pending[at..at + data.len()] {
            *count = count.saturating_sub(1);
            self.pending_bytes -= usize::from(*count == 0);
        }
    }

    /// A hazard when a copy is under way to one of these bytes, or they belong to an mbarrier.
    #[inline]
    pub fn is_settled(&self, at: usize, bytes: usize) -> Result<(), Hazard> {
        let under_way =
            self.pending_bytes != 0 && self.pending[at..at + bytes].iter().any(|&n| n != 0);
        let inside = !self.mbarriers.is_empty() && self.holds_mbarrier(at, bytes);
        let (kind, note) = match (under_way, inside) {
            (false, false) => return Ok(()),
            (true, _) => (FaultKind::PendingCopy, format!("{bytes} bytes")),
            _ => (FaultKind::Undefined, "an ordinary access to an mbarrier".to_string()),
        };
        Err(Hazard::new(kind, note).at(Space::Shared, at as u64))
    }

    fn holds_mbarrier(&self, at: usize, bytes: usize) -> bool {
        let first = at.saturating_sub(mbarrier::BYTES - 1);
        self.mbarriers.range(first..at + bytes).next().is_some()
    }

    /// The live mbarrier at an offset.
    ///
    /// # Errors
    /// If there is none.
    pub fn mbarrier(&mut self, at: usize) -> Result<&mut Mbarrier, Hazard> {
        self.mbarriers.get_mut(&at).ok_or_else(|| {
            Hazard::new(FaultKind::Undefined, "no mbarrier was initialised here")
                .at(Space::Shared, at as u64)
        })
    }
}
