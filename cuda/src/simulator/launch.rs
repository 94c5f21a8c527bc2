//! A launch: the blocks of a grid, one after the other or on several host threads at once.
//!
//! Blocks that do not talk to each other (no atomics, fences, acquire, release or volatile accesses on global
//! memory) run in parallel, in chunks of consecutive blocks. Blocks that do run on one thread: each until it is
//! done, or until it spins; only when all that have started spin does the next one start. So a block that looks
//! back to earlier ones finds them done, a block that waits for a later one gets it, outputs and counts are the
//! same every time, and when nothing changes any more the launch is a deadlock.

use std::sync::atomic::Ordering::Relaxed;

use super::{
    block::{Block, Progress, fault},
    execute::LaunchState,
    fault::Fault,
    monitor::{BufferInfo, LaunchInfo, Monitor},
};

/// Instructions of a block's turn among blocks that talk to each other.
const TURN: u64 = 1 << 16;

/// Warp instructions without any change of memory, barrier or exit after which blocks are taken to spin.
const SPINS: u64 = 1 << 25;

/// Why a launch did not come to its end.
#[derive(Debug)]
pub enum Halt {
    /// The kernel did something wrong.
    Fault(Box<Fault>),
    /// The run has issued more warp instructions than it may.
    Limit,
}

impl From<Box<Fault>> for Halt {
    fn from(fault: Box<Fault>) -> Self {
        Self::Fault(fault)
    }
}

impl LaunchState<'_> {
    /// Counts what a block has issued.
    fn spend(&self, issued: u64) -> Result<(), Halt> {
        let total = self.issued.fetch_add(issued, Relaxed) + issued;
        if total > self.limit { Err(Halt::Limit) } else { Ok(()) }
    }
}

/// Runs a launch on up to `threads` host threads.
///
/// # Errors
/// The first fault in the order of blocks.
pub fn launch<M: Monitor>(
    state: &LaunchState<'_>,
    buffers: &[BufferInfo],
    monitor: &mut M,
    threads: usize,
) -> Result<(), Halt> {
    let blocks: u64 = state.grid.iter().map(|&n| u64::from(n)).product();
    if blocks == 0 {
        return Ok(());
    }
    monitor.launch(&LaunchInfo {
        module: &state.kernel.module,
        kernel: &state.kernel.name,
        grid: state.grid,
        block: state.block,
        shared_bytes: state.shared_bytes,
        instructions: state.kernel.instructions.len(),
        communicates: state.kernel.communicates,
        overlaps: state.overlaps[0],
        overlapped: state.overlaps[1],
        buffers,
    });
    let outcome = if state.kernel.communicates {
        interleaved(state, monitor, blocks)
    } else if threads > 1 && blocks > 1 {
        parallel(state, monitor, blocks, threads)
    } else {
        sequential(state, monitor, 0..blocks)
    };
    outcome?;
    monitor.launched().map_err(|(site, hazard)| fault(state, site, 0, hazard).into())
}

fn sequential<M: Monitor>(
    state: &LaunchState<'_>,
    monitor: &mut M,
    blocks: std::ops::Range<u64>,
) -> Result<(), Halt> {
    let mut block = Block::new(state);
    for index in blocks {
        block.start(state, index);
        monitor.block_begins(index);
        let mut idle = 0;
        loop {
            match block.run(state, monitor, TURN)? {
                Progress::Done { issued } => {
                    state.spend(issued)?;
                    break;
                }
                Progress::Working { changed, issued } => {
                    state.spend(issued)?;
                    idle = if changed { 0 } else { idle + issued };
                    if idle > SPINS {
                        return Err(block.spins(state).into());
                    }
                }
            }
        }
        monitor.block_ends(index);
    }
    Ok(())
}

fn parallel<M: Monitor>(
    state: &LaunchState<'_>,
    monitor: &mut M,
    blocks: u64,
    threads: usize,
) -> Result<(), Halt> {
    let chunks = (threads as u64).min(blocks);
    let bounds = |chunk: u64| chunk * blocks / chunks..(chunk + 1) * blocks / chunks;
    let results: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..chunks)
            .map(|chunk| {
                let mut fork = monitor.fork();
                scope.spawn(move || {
                    let outcome = sequential(state, &mut fork, bounds(chunk));
                    (fork, outcome)
                })
            })
            .collect();
        workers.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
    });
    for result in results {
        let (fork, outcome) = result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        monitor.join(fork).map_err(|(site, hazard)| {
            let lane = hazard.lane.unwrap_or(0);
            fault(state, site, lane, hazard)
        })?;
        outcome?;
    }
    Ok(())
}

fn interleaved<M: Monitor>(
    state: &LaunchState<'_>,
    monitor: &mut M,
    blocks: u64,
) -> Result<(), Halt> {
    let mut started: Vec<(u64, Block)> = Vec::new();
    let mut spare: Vec<Block> = Vec::new();
    let (mut next, mut idle) = (0, 0);
    loop {
        let mut changed = false;
        let mut at = 0;
        while at < started.len() {
            let (index, block) = &mut started[at];
            match block.run(state, monitor, TURN)? {
                Progress::Done { issued } => {
                    state.spend(issued)?;
                    monitor.block_ends(*index);
                    spare.push(started.remove(at).1);
                    changed = true;
                    continue;
                }
                Progress::Working { changed: here, issued } => {
                    state.spend(issued)?;
                    changed |= here;
                    idle += issued;
                }
            }
            at += 1;
        }
        if changed {
            idle = 0;
        }
        if (!changed || started.is_empty()) && next < blocks {
            let mut block = spare.pop().unwrap_or_else(|| Block::new(state));
            block.start(state, next);
            monitor.block_begins(next);
            started.push((next, block));
            next += 1;
            idle = 0;
        } else if started.is_empty() {
            return Ok(());
        }
        if idle > SPINS {
            return Err(started[0].1.spins(state).into());
        }
    }
}
