//! Registers that the warps of a block hand over to each other by `setmaxnreg`.

/// The register file of a multiprocessor, in registers.
const FILE: usize = 65_536;

/// Who holds how many. A block is given the registers of all its threads when it starts, and no more later: `setmaxnreg.inc`
/// waits until others have given up what it asks for, for ever where they do not.
#[derive(Debug)]
pub struct RegisterPool {
    /// Registers a thread when the block starts; none where that is not known.
    launched: Option<u32>,
    /// Registers a thread of each warp.
    held: Vec<u32>,
    /// Registers a lane that nobody holds.
    spare: u32,
}

impl RegisterPool {
    /// The pool of a block of `warps` warps. A kernel that says how many threads it may have, and how many blocks are to
    /// share a multiprocessor, gets what then fits, in multiples of 8.
    pub fn new(warps: usize, max_threads: Option<usize>, blocks: usize) -> Self {
        let fits = |threads: usize| (FILE / (threads * blocks).max(1) / 8 * 8).min(255) as u32;
        let launched = max_threads.map(fits);
        Self { launched, held: vec![launched.unwrap_or(0); warps], spare: 0 }
    }

    /// Starts again for another block.
    pub fn reset(&mut self) {
        self.held.fill(self.launched.unwrap_or(0));
        self.spare = 0;
    }

    /// Lets a warp hold `count` registers a thread, if that is possible now.
    pub fn hold(&mut self, warp: u32, count: u32) -> bool {
        let held = &mut self.held[warp as usize];
        if self.launched.is_some() {
            let Some(spare) = (self.spare + *held).checked_sub(count) else { return false };
            self.spare = spare;
        }
        *held = count;
        true
    }

    /// What a warp waits for in vain, in words.
    pub fn shortage(&self, warp: u32) -> String {
        let (held, spare) = (self.held[warp as usize], self.spare);
        let launched = self.launched.unwrap_or(0);
        format!(
            "setmaxnreg waits for registers that no warp gives up: the block began with {launched} a thread, \
             this warp holds {held}, {spare} a lane are left over"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_warpgroups_share_what_a_block_began_with() {
        // 65,536 registers for 384 threads are 168 each; 12 warps hold 2,016 a lane.
        let mut pool = RegisterPool::new(12, Some(384), 1);
        for warp in 4..12 {
            assert!(!pool.hold(warp, 240), "nobody has given up any");
        }
        assert!((0..4).all(|warp| pool.hold(warp, 24)));
        assert!((4..12).all(|warp| pool.hold(warp, 240)));
        pool.reset();
        assert!((0..4).all(|warp| pool.hold(warp, 32)), "32 leave too few");
        assert_eq!((4..12).filter(|warp| pool.hold(*warp, 240)).count(), 7);
        assert!(pool.shortage(11).contains("168"));
    }

    #[test]
    fn a_kernel_that_does_not_say_how_many_threads_it_has_is_not_held_to_anything() {
        let mut pool = RegisterPool::new(1, None, 1);
        assert!(pool.hold(0, 255));
    }
}
