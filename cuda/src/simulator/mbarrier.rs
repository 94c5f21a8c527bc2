//! mbarrier objects (ISA 8.4, chapter 9.7.12.15): phases that end when all arrivals are in and all expected bytes
//! have come.
//!
//! The bits of the object in shared memory are opaque; here they are not kept there at all. The state that
//! `mbarrier.arrive` gives holds the phase and the pending arrivals, as [`state`] packs them.

use super::fault::{FaultKind, Hazard};

/// Most arrivals, and most bytes under way, that an object counts.
pub const MOST: u32 = (1 << 20) - 1;

/// Bytes of an object.
pub const BYTES: usize = 8;

/// One object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mbarrier {
    /// Phases that are over.
    pub phase: u64,
    /// Arrivals of the next phases.
    expected: u32,
    /// Arrivals that this phase still waits for.
    pub pending: u32,
    /// Bytes that it still waits for; below zero when copies came before they were expected.
    pub bytes: i64,
}

fn undefined(note: String) -> Hazard {
    Hazard::new(FaultKind::Undefined, note)
}

impl Mbarrier {
    /// An object that waits for so many arrivals in each phase.
    ///
    /// # Errors
    /// If it cannot count that many.
    pub fn new(arrivals: u32) -> Result<Self, Hazard> {
        if !(1..=MOST).contains(&arrivals) {
            return Err(undefined(format!("an mbarrier of {arrivals} arrivals")));
        }
        Ok(Self { phase: 0, expected: arrivals, pending: arrivals, bytes: 0 })
    }

    /// What `mbarrier.arrive` gives before it counts.
    pub fn state(&self) -> u64 {
        self.phase << 20 | u64::from(self.pending)
    }

    /// Whether the phase of a state is over.
    pub fn is_over(&self, state: u64) -> bool {
        state >> 20 != self.phase & (u64::MAX >> 20)
    }

    /// Whether the phase of a parity is over: it is the current one, or the one before.
    pub fn is_parity_over(&self, parity: u32) -> bool {
        self.phase & 1 != u64::from(parity & 1)
    }

    /// Counts arrivals; `drops` takes them out of later phases too. Gives whether the phase has ended.
    ///
    /// # Errors
    /// If more arrive than the phase waits for.
    pub fn arrive(&mut self, count: u32, drops: bool) -> Result<bool, Hazard> {
        if count == 0 || count > self.pending {
            let pending = self.pending;
            return Err(undefined(format!(
                "{count} arrivals at an mbarrier that waits for {pending}"
            )));
        }
        self.pending -= count;
        if drops {
            self.expected -= count;
        }
        self.settle()
    }

    /// Waits for so many bytes more.
    ///
    /// # Errors
    /// If it cannot count that many.
    pub fn expect(&mut self, bytes: u32) -> Result<(), Hazard> {
        self.bytes += i64::from(bytes);
        if self.bytes > MOST.into() {
            return Err(undefined(format!("an mbarrier that waits for {} bytes", self.bytes)));
        }
        Ok(())
    }

    /// So many bytes have come. Gives whether the phase has ended.
    ///
    /// # Errors
    /// If they are more than can be waited for.
    pub fn complete(&mut self, bytes: u32) -> Result<bool, Hazard> {
        self.bytes -= i64::from(bytes);
        if self.bytes < -i64::from(MOST) {
            return Err(undefined(format!(
                "{} bytes beyond those an mbarrier expects",
                -self.bytes
            )));
        }
        self.settle()
    }

    /// Ends the phase when nothing is left to wait for.
    fn settle(&mut self) -> Result<bool, Hazard> {
        if self.pending != 0 || self.bytes > 0 {
            return Ok(false);
        }
        if self.bytes < 0 {
            // All arrivals are in: nobody is left to expect these bytes in this phase.
            let note =
                format!("{} bytes have come that no arrival of this phase expects", -self.bytes);
            return Err(undefined(note));
        }
        self.phase += 1;
        self.pending = self.expected;
        Ok(true)
    }
}

/// Pending arrivals of a state.
pub const fn pending_of(state: u64) -> u32 {
    state as u32 & MOST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_ends_with_its_last_arrival() {
        let mut barrier = Mbarrier::new(2).unwrap();
        let state = barrier.state();
        assert_eq!(pending_of(state), 2);
        assert!(barrier.is_parity_over(1) && !barrier.is_parity_over(0));
        assert_eq!(barrier.arrive(1, false), Ok(false));
        assert!(!barrier.is_over(state));
        assert_eq!(barrier.arrive(1, false), Ok(true));
        assert!(barrier.is_over(state) && barrier.is_parity_over(0) && !barrier.is_parity_over(1));
        assert!(!barrier.is_over(barrier.state()));
    }

    #[test]
    fn bytes_hold_a_phase_open_whichever_comes_first() {
        let mut barrier = Mbarrier::new(1).unwrap();
        barrier.expect(32).unwrap();
        assert_eq!(barrier.arrive(1, false), Ok(false));
        assert_eq!(barrier.complete(16), Ok(false));
        assert_eq!(barrier.complete(16), Ok(true));
        assert_eq!(barrier.complete(8), Ok(false));
        barrier.expect(8).unwrap();
        assert_eq!(barrier.arrive(1, false), Ok(true));
    }

    #[test]
    fn what_nobody_expects_is_named() {
        let mut barrier = Mbarrier::new(1).unwrap();
        barrier.expect(16).unwrap();
        barrier.arrive(1, false).unwrap();
        assert!(barrier.complete(32).unwrap_err().note.contains("16 bytes"));
        let mut barrier = Mbarrier::new(1).unwrap();
        assert!(barrier.arrive(2, false).unwrap_err().note.contains("2 arrivals"));
        assert!(Mbarrier::new(0).is_err() && Mbarrier::new(MOST + 1).is_err());
    }

    #[test]
    fn who_drops_out_is_not_waited_for_again() {
        let mut barrier = Mbarrier::new(2).unwrap();
        barrier.arrive(1, true).unwrap();
        assert_eq!(barrier.arrive(1, false), Ok(true));
        assert_eq!(barrier.arrive(1, false), Ok(true));
    }
}
