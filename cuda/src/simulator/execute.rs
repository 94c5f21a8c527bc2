//! Carries out what registers alone cannot: branches, barriers, warp-wide instructions, memory.

mod access;
mod bulk_copy;
mod copies;
mod matrix;
mod mbarrier;
mod warpgroup;

use std::sync::atomic::AtomicU64;

use super::{
    bulk::Engine,
    fault::{FaultKind, Hazard},
    instructions::{Barrier, Decoded, Op, Reduction},
    kernel::{Instruction, Kernel},
    memory::{Cells, Global},
    monitor::{Monitor, Scope, Site},
    numeric::tensor::TensorMap,
    register_pool::RegisterPool,
    registers::{Registers, Source},
    shared::Shared,
    warp::{Next, Warp},
};

/// Barriers of a block.
pub const BARRIERS: usize = 16;

/// What all blocks of a launch share.
#[derive(Debug)]
pub struct LaunchState<'l> {
    /// The kernel.
    pub kernel: &'l Kernel,
    /// Global memory.
    pub global: Global<'l>,
    /// The parameters' bytes.
    pub params: &'l Cells,
    /// The plan's tensor maps, at their addresses.
    pub maps: &'l [TensorMap],
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads in x, y, z.
    pub block: [u32; 3],
    /// Shared memory of a block in bytes.
    pub shared_bytes: usize,
    /// Whether it may begin before the launch before it has ended, and whether the next one may before it has.
    pub overlaps: [bool; 2],
    /// Warp instructions that the run has issued.
    pub issued: &'l AtomicU64,
    /// Warp instructions that a run may issue.
    pub limit: u64,
}

/// One barrier of a block.
#[derive(Clone, Debug, Default)]
pub struct BarrierState {
    /// Phases that are over.
    pub phase: u64,
    /// Lanes of each warp that have arrived in this phase.
    arrived: Vec<u32>,
    /// Those among them whose predicate holds, of reductions.
    holding: Vec<u32>,
    /// Threads that take part, when the instruction says how many.
    expected: Option<u32>,
    /// Of the last phase: threads, and threads whose predicate held.
    result: (u32, u32),
}

/// A block as one of its warps sees it while it runs.
pub struct Context<'b, 'l, M> {
    /// What all blocks share.
    pub launch: &'b LaunchState<'l>,
    /// Who watches.
    pub monitor: &'b mut M,
    /// The block's shared memory.
    pub shared: &'b mut Shared,
    /// The block's bulk copies under way.
    pub engine: &'b mut Engine,
    /// The block's barriers.
    pub barriers: &'b mut [BarrierState; BARRIERS],
    /// Lanes of each warp that have not exited.
    pub live: &'b mut [u32],
    /// The block's registers.
    pub registers: &'b mut RegisterPool,
    /// The block's linear index.
    pub block: u64,
    /// Whether anything has changed that another thread could wait for.
    pub progress: &'b mut bool,
    /// Whether lanes that sleep at an mbarrier wake though no phase has ended: `try_wait` may give up.
    pub time_is_over: bool,
    /// Whether the group that runs was woken so.
    pub woken: bool,
}

impl<M: Monitor> Context<'_, '_, M> {
    const fn site(&self, warp: u32, pc: u32) -> Site {
        Site { pc, block: self.block, warp }
    }

    /// Tells the monitor of an instruction.
    #[inline]
    pub fn count(&mut self, warp: u32, pc: u32, decoded: &Decoded, active: u32) {
        let site = self.site(warp, pc);
        self.monitor.instruction(site, decoded.class, active, decoded.flops);
    }

    /// Carries out one instruction that is not a [`Op::Compute`], for the `active` lanes of a `group`.
    pub fn execute(
        &mut self,
        warp: &mut Warp,
        pc: u32,
        instruction: &Instruction,
        group: u32,
        active: u32,
    ) -> Result<Next, Box<Hazard>> {
        let decoded = &instruction.decoded;
        // Lanes that others must join count when they run together, not while they wait.
        match &decoded.op {
            Op::Collective(mask, _) | Op::WarpBarrier(mask)
                if active != 0 && warp.members(*mask, group, active)?.is_none() =>
            {
                return Ok(Next::Gather);
            }
            Op::Aligned(_)
            | Op::MatrixLoad(_)
            | Op::MatrixStore(_)
            | Op::WarpgroupProduct(_)
            | Op::FenceProducts
            | Op::CommitProducts
            | Op::WaitProducts(_)
            | Op::Barrier(_)
                if active != 0
                    && !warp.whole(group, active).map_err(|h| as_barrier(&decoded.op, h))? =>
            {
                return Ok(Next::Gather);
            }
            Op::Mbarrier(op) if active != 0 && self.sleeps(warp, op, active)? => {
                return Ok(Next::Sleep);
            }
            Op::HoldRegisters(count) if active != 0 => {
                if !self.registers.hold(warp.index, *count) {
                    return Ok(Next::Sleep);
                }
                *self.progress = true;
            }
            _ => {}
        }
        self.count(warp.index, pc, decoded, active);
        let site = self.site(warp.index, pc);
        if let Op::Branch(target) = decoded.op {
            if instruction.guard.is_some() {
                self.monitor.branch(site, active, group);
            }
            return Ok(match active {
                0 => Next::Advance,
                taken if taken == group => Next::Jump(target),
                taken => Next::Split(target, taken),
            });
        }
        if active == 0 {
            return Ok(Next::Advance);
        }
        match &decoded.op {
            Op::Compute(compute) | Op::Aligned(compute) | Op::Collective(_, compute) => {
                compute(&mut warp.registers, active)?;
            }
            Op::Branch(_) | Op::Nothing | Op::HoldRegisters(_) | Op::FenceProducts => {}
            Op::BranchIndexed(index, targets) => {
                return self.branch_indexed(warp, *index, targets, active);
            }
            Op::Exit => return Ok(Next::Exit(active)),
            Op::Trap => return Err(Box::new(Hazard::new(FaultKind::Trap, ""))),
            Op::Load(load) => self.load(warp, site, load, active)?,
            Op::Store(store) => self.store(warp, site, store, active)?,
            Op::Atomic(atomic) => self.atomic(warp, site, atomic, active)?,
            Op::AsyncCopy(copy) => self.async_copy(warp, site, copy, active)?,
            Op::CommitCopies => self.commit_copies(warp, site, active),
            Op::WaitCopies { pending, all } => {
                self.wait_copies(warp, site, *pending, *all, active);
            }
            Op::BulkCopy(copy) => self.bulk_copy(warp, site, copy, active)?,
            Op::CommitBulk => self.commit_bulk(site, active),
            Op::WaitBulk { pending, reads_only } => {
                self.wait_bulk(site, *pending, *reads_only, active)?;
            }
            Op::Mbarrier(op) => self.mbarrier(warp, site, op, active)?,
            Op::CommitProducts => self.commit_products(warp, site),
            Op::WaitProducts(pending) => self.wait_products(warp, site, *pending)?,
            Op::MatrixLoad(load) => self.load_matrix(warp, site, load, active)?,
            Op::WarpgroupProduct(product) => self.multiply(warp, site, product, active)?,
            Op::MatrixStore(store) => self.store_matrix(warp, site, store, active)?,
            Op::Barrier(barrier) => return self.arrive(warp, site, barrier, active),
            Op::WarpBarrier(_) => self.monitor.warp_barrier(site, active),
            Op::Fence(scope) => self.monitor.fence(site, *scope, active),
            Op::ProxyFence => {
                self.monitor.fence(site, Scope::Block, active);
                self.monitor.proxy_fence(site, active);
            }
            Op::WaitForLaunches => self.monitor.launches_waited(site, active),
            Op::MbarrierFence => self.monitor.mbarrier_fence(site, active),
        }
        Ok(Next::Advance)
    }

    /// All lanes must choose the same target; where they do not, the first lane's group goes alone.
    fn branch_indexed(
        &mut self,
        warp: &Warp,
        index: Source,
        targets: &[u32],
        active: u32,
    ) -> Result<Next, Box<Hazard>> {
        warp.registers.require(index, active)?;
        let indices = warp.registers.words_of(index);
        let first = indices[active.trailing_zeros() as usize & 31];
        let Some(&target) = targets.get(first as usize) else {
            let note = format!("index {first} of {} targets", targets.len());
            return Err(Box::new(Hazard::new(FaultKind::Undefined, note)));
        };
        let same = super::registers::lanes(active).filter(|&lane| indices[lane] == first);
        let taken = same.fold(0, |mask, lane| mask | 1u32 << lane);
        if taken == active {
            return Ok(Next::Jump(target));
        }
        Err(Box::new(Hazard::new(FaultKind::Undefined, "lanes of a warp choose different targets")))
    }

    /// Lanes of a warp arrive at a barrier of the block.
    fn arrive(
        &mut self,
        warp: &Warp,
        site: Site,
        barrier: &Barrier,
        active: u32,
    ) -> Result<Next, Box<Hazard>> {
        let uniform = |source: Source| -> Result<u32, Box<Hazard>> {
            warp.registers.require(source, active)?;
            Ok(warp.registers.words_of(source)[active.trailing_zeros() as usize & 31])
        };
        let id = uniform(barrier.id)?;
        let expected = barrier.count.map(uniform).transpose()?;
        let undefined = |note: String| Err(Box::new(Hazard::new(FaultKind::Undefined, note)));
        if id as usize >= BARRIERS {
            return undefined(format!("barrier {id} of {BARRIERS}"));
        }
        if let Some(count) = expected.filter(|count| count % 32 != 0 || *count == 0) {
            return undefined(format!("{count} threads are no whole warps"));
        }
        self.monitor.barrier_arrives(site, id, active, barrier.waits);
        let warps = self.live.len();
        let state = &mut self.barriers[id as usize];
        state.arrived.resize(warps, 0);
        state.holding.resize(warps, 0);
        let known = state.expected.or(expected);
        if state.arrived.iter().any(|&lanes| lanes != 0) && known != expected {
            return undefined(format!("barrier {id} is given different numbers of threads"));
        }
        if state.arrived[warp.index as usize] & active != 0 {
            return undefined(format!("threads arrive at barrier {id} again before it is over"));
        }
        state.expected = expected;
        state.arrived[warp.index as usize] |= active;
        if let Some((_, predicate, _)) = barrier.reduction {
            warp.registers.require(predicate, active)?;
            state.holding[warp.index as usize] |= warp.registers.predicate(predicate) & active;
        }
        let phase = state.phase;
        self.complete_barrier(id);
        Ok(if barrier.waits { Next::Barrier(id, phase) } else { Next::Advance })
    }

    /// Ends a barrier's phase when all have arrived.
    fn complete_barrier(&mut self, id: u32) {
        let state = &mut self.barriers[id as usize];
        if state.arrived.iter().all(|&lanes| lanes == 0) {
            return;
        }
        let done = match state.expected {
            // Warps count as whole: a barrier's number of threads is a multiple of their size.
            Some(count) => {
                32 * state.arrived.iter().filter(|&&lanes| lanes != 0).count() as u32 >= count
            }
            None => state.arrived.iter().zip(&*self.live).all(|(&lanes, &live)| live & !lanes == 0),
        };
        if !done {
            return;
        }
        self.monitor.barrier_completes(self.block, id, &state.arrived);
        let total = |masks: &[u32]| masks.iter().map(|lanes| lanes.count_ones()).sum();
        state.result = (total(&state.arrived), total(&state.holding));
        state.arrived.fill(0);
        state.holding.fill(0);
        state.expected = None;
        state.phase += 1;
        *self.progress = true;
    }

    /// Gives a group that a barrier has released the result of the barrier's reduction.
    pub fn finish_barrier(&self, registers: &mut Registers, id: u32, pc: u32, lanes: u32) {
        let Op::Barrier(barrier) = &self.launch.kernel.instructions[pc as usize].decoded.op else {
            return;
        };
        let Some((reduction, _, target)) = barrier.reduction else { return };
        let (threads, holding) = self.barriers[id as usize].result;
        let value = match reduction {
            Reduction::And => u32::from(holding == threads),
            Reduction::Or => u32::from(holding > 0),
            Reduction::Count => holding,
        };
        registers.set_words(target, lanes, &[value; 32]);
    }

    /// Lanes of a warp have exited: barriers of the whole block wait for them no longer.
    pub fn lanes_exited(&mut self, warp: u32, live: u32) {
        self.live[warp as usize] = live;
        *self.progress = true;
        for id in 0..BARRIERS as u32 {
            if self.barriers[id as usize].expected.is_none() {
                self.complete_barrier(id);
            }
        }
    }
}

/// A barrier that part of a warp passes by is a divergent one.
fn as_barrier(op: &Op, mut hazard: Box<Hazard>) -> Box<Hazard> {
    if matches!(op, Op::Barrier(_)) {
        hazard.kind = FaultKind::DivergentBarrier;
    }
    hazard
}
