//! A block's shared memory: bytes, whether each was written, and which an asynchronous copy is to write.

use super::{
    fault::{FaultKind, Hazard, Space},
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
}

impl Shared {
    /// Memory that nothing has written.
    pub fn new(bytes: usize) -> Self {
        Self { cells: Cells::new(bytes), pending: vec![0; bytes], pending_bytes: 0 }
    }

    /// Forgets everything, for another block.
    pub fn reset(&mut self) {
        self.cells.fill(0, State::Fresh);
        self.pending.fill(0);
        self.pending_bytes = 0;
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
        for (i, &byte) in data.iter().enumerate() {
            self.cells.store(at + i, 1, u64::from(byte));
            let count = &mut self.pending[at + i];
            *count = count.saturating_sub(1);
            self.pending_bytes -= usize::from(*count == 0);
        }
    }

    /// A hazard when a copy is under way to one of these bytes.
    #[inline]
    pub fn is_settled(&self, at: usize, bytes: usize) -> Result<(), Hazard> {
        if self.pending_bytes == 0 || self.pending[at..at + bytes].iter().all(|&n| n == 0) {
            return Ok(());
        }
        Err(Hazard::new(FaultKind::PendingCopy, format!("{bytes} bytes"))
            .at(Space::Shared, at as u64))
    }
}
