//! Bytes that blocks on several host threads may touch at once, and for each byte whether it was written.
//!
//! Memory is kept as 32-bit atomic words with relaxed order: a kernel that races does so in the simulated
//! device, where it is found, and never in the simulator itself.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::Relaxed};

/// What is known of a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing has written it.
    Fresh,
    /// It has a value.
    Written,
}

/// A stretch of memory.
#[derive(Debug, Default)]
pub struct Cells {
    words: Vec<AtomicU32>,
    /// Four bits for each word, one for each byte: whether it was written.
    written: Vec<AtomicU8>,
    bytes: usize,
}

impl Cells {
    /// Memory that nothing has written.
    pub fn new(bytes: usize) -> Self {
        let words = bytes.div_ceil(4);
        Self {
            words: std::iter::repeat_with(|| AtomicU32::new(0)).take(words).collect(),
            written: std::iter::repeat_with(|| AtomicU8::new(0)).take(words).collect(),
            bytes,
        }
    }

    /// Size in bytes.
    pub const fn size(&self) -> usize {
        self.bytes
    }

    /// Whether `count` bytes from `at` were all written. The caller has checked the bounds.
    #[inline]
    pub fn is_written(&self, at: usize, count: usize) -> bool {
        match count {
            4.. => {
                (at / 4..(at + count) / 4).all(|word| self.written[word].load(Relaxed) & 0xF == 0xF)
            }
            _ => {
                let mask = ((1u8 << count) - 1) << (at % 4);
                self.written[at / 4].load(Relaxed) & mask == mask
            }
        }
    }

    /// Reads 1, 2, 4 or 8 bytes at an aligned offset within the bounds.
    #[inline]
    pub fn load(&self, at: usize, count: usize) -> u64 {
        let word = |i: usize| u64::from(self.words[i].load(Relaxed));
        match count {
            8 => word(at / 4) | word(at / 4 + 1) << 32,
            4 => word(at / 4),
            _ => word(at / 4) >> (at % 4 * 8) & ((1 << (count * 8)) - 1),
        }
    }

    /// Writes 1, 2, 4 or 8 bytes at an aligned offset within the bounds; says whether they changed.
    #[inline]
    pub fn store(&self, at: usize, count: usize, value: u64) -> bool {
        let put = |i: usize, value: u32| {
            let changed = self.words[i].load(Relaxed) != value;
            self.words[i].store(value, Relaxed);
            self.written[i].store(0xF, Relaxed);
            changed
        };
        match count {
            8 => {
                let low = put(at / 4, value as u32);
                put(at / 4 + 1, (value >> 32) as u32) || low
            }
            4 => put(at / 4, value as u32),
            _ => {
                let shift = at % 4 * 8;
                let mask = ((1u32 << (count * 8)) - 1) << shift;
                let new = (value as u32) << shift & mask;
                let old = self.words[at / 4]
                    .fetch_update(Relaxed, Relaxed, |old| Some(old & !mask | new))
                    .unwrap_or_default();
                self.written[at / 4].fetch_or(((1u8 << count) - 1) << (at % 4), Relaxed);
                old & mask != new
            }
        }
    }

    /// Whether `count` bytes from `at` were all written, wherever they begin and however many.
    pub fn is_all_written(&self, at: usize, count: usize) -> bool {
        pieces(at, count).all(|(at, bytes)| self.is_written(at, bytes))
    }

    /// Reads bytes, wherever they begin.
    pub fn read(&self, at: usize, into: &mut [u8]) {
        for (from, bytes) in pieces(at, into.len()) {
            let value = self.load(from, bytes).to_le_bytes();
            into[from - at..][..bytes].copy_from_slice(&value[..bytes]);
        }
    }

    /// Writes bytes, wherever they begin; says whether they changed.
    pub fn write(&self, at: usize, data: &[u8]) -> bool {
        let mut changed = false;
        for (to, bytes) in pieces(at, data.len()) {
            let mut value = [0; 8];
            value[..bytes].copy_from_slice(&data[to - at..][..bytes]);
            changed |= self.store(to, bytes, u64::from_le_bytes(value));
        }
        changed
    }

    /// Sets every byte and its state.
    pub fn fill(&mut self, byte: u8, state: State) {
        let word = u32::from_le_bytes([byte; 4]);
        let written = if state == State::Written { 0xF } else { 0 };
        self.words.iter_mut().for_each(|cell| *cell.get_mut() = word);
        self.written.iter_mut().for_each(|cell| *cell.get_mut() = written);
    }

    /// Copies bytes to the front; they count as written.
    pub fn upload(&mut self, bytes: &[u8]) {
        for (at, &byte) in bytes.iter().enumerate().take(self.bytes) {
            let cell = self.words[at / 4].get_mut();
            let shift = at % 4 * 8;
            *cell = *cell & !(0xFF << shift) | u32::from(byte) << shift;
            *self.written[at / 4].get_mut() |= 1 << (at % 4);
        }
    }

    /// All bytes.
    pub fn download(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> =
            self.words.iter().flat_map(|word| word.load(Relaxed).to_le_bytes()).collect();
        bytes.truncate(self.bytes);
        bytes
    }
}

/// A stretch of bytes as whole words, with single bytes before and after them.
fn pieces(at: usize, count: usize) -> impl Iterator<Item = (usize, usize)> {
    let end = at + count;
    let mut next = at;
    std::iter::from_fn(move || {
        let from = next;
        let bytes = if from.is_multiple_of(4) && end - from >= 4 { 4 } else { 1 };
        next += bytes;
        (from < end).then_some((from, bytes))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_reads_back_what_it_wrote() {
        let cells = Cells::new(24);
        for (at, count, value) in
            [(0, 8, 0x0123_4567_89AB_CDEF), (8, 4, 0xDEAD_BEEF), (14, 2, 0xFACE), (13, 1, 0x5A)]
        {
            assert!(!cells.is_written(at, count));
            assert!(cells.store(at, count, value));
            assert!(!cells.store(at, count, value), "a second store changes nothing");
            assert!(cells.is_written(at, count));
            assert_eq!(cells.load(at, count), value);
        }
        assert!(!cells.is_written(12, 1) && !cells.is_written(12, 4));
        assert_eq!(cells.download()[12..16], [0, 0x5A, 0xCE, 0xFA]);
    }

    #[test]
    fn stretches_begin_and_end_anywhere() {
        let cells = Cells::new(16);
        assert!(cells.write(3, &[1, 2, 3, 4, 5, 6, 7]));
        assert!(!cells.write(3, &[1, 2, 3, 4, 5, 6, 7]));
        assert!(cells.is_all_written(3, 7) && !cells.is_all_written(3, 8));
        let mut back = [0; 7];
        cells.read(3, &mut back);
        assert_eq!(back, [1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn uploads_of_odd_sizes_leave_the_rest_fresh() {
        let mut cells = Cells::new(7);
        cells.upload(&[1, 2, 3, 4, 5]);
        assert!(cells.is_written(4, 1) && !cells.is_written(5, 1));
        assert_eq!(cells.download(), [1, 2, 3, 4, 5, 0, 0]);
        cells.fill(0xFF, State::Fresh);
        assert!(!cells.is_written(0, 1));
        assert_eq!(cells.download(), [0xFF; 7]);
    }
}
