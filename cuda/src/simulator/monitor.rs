//! What watches a kernel run: the executor tells a [`Monitor`] of every warp instruction, and the monitor
//! counts it or objects to it.
//!
//! The executor is generic over its monitor, so that a run that nobody watches pays nothing. When blocks
//! run in parallel, each chunk of consecutive blocks has a monitor of its own ([`Monitor::fork`]), and they
//! are joined in the order of the blocks: what a monitor finds does not depend on the host's threads.

use super::{
    bulk::Counted,
    fault::{Hazard, Space},
};

/// Which instruction of which warp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// Index of the instruction in its kernel.
    pub pc: u32,
    /// Linear index of the block in the grid, x fastest.
    pub block: u64,
    /// Warp within the block. Lane `l` is thread `32 * warp + l` of the block, x fastest.
    pub warp: u32,
}

/// Among which threads an operation is ordered (ISA 8.4, chapter 8.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Scope {
    Block,
    Cluster,
    Gpu,
    System,
}

/// Memory-order semantics of an operation (ISA 8.4, chapter 8.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// No order, and no promise of atomicity towards other threads.
    Weak,
    /// `.volatile`: as relaxed, system scope.
    Volatile,
    /// `.relaxed`; the default of atomics.
    Relaxed,
    /// `.acquire`.
    Acquire,
    /// `.release`.
    Release,
    /// `.acq_rel`.
    AcquireRelease,
}

/// What an access does to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AccessKind {
    /// `ld`, `ldmatrix`.
    Load,
    /// `st`, `stmatrix`.
    Store,
    /// `atom`: reads, writes and returns.
    Atomic,
    /// `red`: an atomic that returns nothing.
    Reduction,
    /// The source side of an asynchronous copy.
    AsyncRead,
    /// A read through the asynchronous proxy: operands of `wgmma`, which read until their group was waited for.
    ProxyRead,
    /// The destination side of an asynchronous copy (`cp.async`): it lands when its group is waited for.
    AsyncWrite,
}

impl AccessKind {
    /// Whether memory may change.
    pub const fn writes(self) -> bool {
        !matches!(self, Self::Load | Self::AsyncRead | Self::ProxyRead)
    }

    /// Whether memory is read.
    pub const fn reads(self) -> bool {
        !matches!(self, Self::Store | Self::AsyncWrite)
    }
}

/// One memory instruction of a warp, after its bounds and alignment were found right.
#[derive(Clone, Debug)]
pub struct WarpAccess<'a> {
    /// Where.
    pub site: Site,
    /// Space; a generic address was resolved to one. A warp whose lanes go to several spaces makes one
    /// access for each.
    pub space: Space,
    /// What it does.
    pub kind: AccessKind,
    /// Its order.
    pub order: Order,
    /// Its scope; of weak accesses without meaning.
    pub scope: Scope,
    /// Bytes each lane accesses, all elements of a vector together.
    pub bytes_per_lane: u32,
    /// Address of each lane: in the shared, local, param or const space an offset in it, in the global
    /// space the full address (see [`BufferInfo`]). Entries of inactive lanes mean nothing.
    pub addresses: &'a [u64; 32],
    /// Active lanes.
    pub active: u32,
    /// The non-coherent path (`ld.global.nc`), whose memory nobody may write during the kernel.
    pub non_coherent: bool,
}

/// Class of an instruction for counting, fixed when it is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Class {
    Move,
    Integer,
    Half,
    Float32,
    Float64,
    /// The approximate functions: `ex2`, `lg2`, `rcp`, `rsqrt`, `sqrt`, `sin`, `cos`, `tanh`.
    Special,
    Conversion,
    /// Comparisons, selections and predicate logic.
    Compare,
    Load,
    Store,
    Atomic,
    /// `cp.async` and its bulk forms, commits and waits included.
    AsyncCopy,
    /// Votes, shuffles, matches and warp reductions.
    Warp,
    /// Barriers of a block or a warp, mbarriers, fences.
    Synchronization,
    /// `mma`, `wgmma`, `ldmatrix` not: that is a load.
    Tensor,
    /// Branches, calls, exits.
    Control,
}

/// A device buffer of the launch: a plan's buffer or a module's variable.
#[derive(Clone, Debug, PartialEq)]
pub struct BufferInfo {
    /// Its name in the plan or the module.
    pub name: String,
    /// Device address of its first byte, a multiple of 256.
    pub address: u64,
    /// Size in bytes.
    pub bytes: usize,
}

/// What is known before the first block runs.
#[derive(Clone, Debug)]
pub struct LaunchInfo<'a> {
    /// Stem of the kernel file.
    pub module: &'a str,
    /// Name of the kernel.
    pub kernel: &'a str,
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads in x, y, z.
    pub block: [u32; 3],
    /// Shared memory of a block, static and dynamic together.
    pub shared_bytes: usize,
    /// Instructions of the kernel; every `pc` is below.
    pub instructions: usize,
    /// Whether blocks talk to each other (atomics on global memory, acquire, release, volatile, fences):
    /// such a kernel runs on one thread, its blocks interleaved, and is never forked.
    pub communicates: bool,
    /// Whether it may begin before the launch before it has ended.
    pub overlaps: bool,
    /// Whether the next launch may begin before this one has ended.
    pub overlapped: bool,
    /// The buffers, by ascending address.
    pub buffers: &'a [BufferInfo],
}

/// An event of an mbarrier object in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MbarrierEvent {
    /// Initialised.
    Init,
    /// An arrival, by a thread.
    Arrive,
    /// Bytes to expect before the phase may complete.
    Expect,
    /// All arrivals and bytes of the phase are in: it has ended.
    PhaseEnds,
    /// A wait for the end of a phase that succeeded.
    Waited,
    /// The end of its life.
    Invalidate,
}

/// A bulk copy that one thread asks the copy engine for: each side's space, and ranges of bytes in it.
#[derive(Clone, Copy, Debug)]
pub struct BulkAccess<'a> {
    /// Where.
    pub site: Site,
    /// The lane that asks.
    pub lane: u32,
    /// What is read.
    pub source: (Space, &'a [(u64, u32)]),
    /// What is written.
    pub target: (Space, &'a [(u64, u32)]),
    /// How the thread learns of its end.
    pub counted: Counted,
}

/// Hears of everything a launch does. Every method has an empty default.
///
/// Calls of one block come in an order that the block's own synchronisation allows; warps interleave only
/// where one waits.
#[allow(unused_variables)]
pub trait Monitor: Send + Sized {
    /// A monitor for another chunk of blocks of the same launch, with nothing seen yet.
    fn fork(&self) -> Self;

    /// Takes in what a fork saw; chunks come in the order of their blocks.
    ///
    /// # Errors
    /// A hazard between blocks of different chunks, with the site of the later access.
    fn join(&mut self, chunk: Self) -> Result<(), (Site, Hazard)>;

    /// A launch begins.
    fn launch(&mut self, launch: &LaunchInfo<'_>) {}

    /// The launch is over.
    ///
    /// # Errors
    /// What is wrong with it as a whole.
    fn launched(&mut self) -> Result<(), (Site, Hazard)> {
        Ok(())
    }

    /// A block begins: its shared memory is new.
    fn block_begins(&mut self, block: u64) {}

    /// All threads of a block have exited.
    fn block_ends(&mut self, block: u64) {}

    /// A warp issues an instruction with these lanes active after predication (possibly none of them).
    /// `flops` is the warp's floating-point work for tensor instructions, else 0.
    fn instruction(&mut self, site: Site, class: Class, active: u32, flops: u64) {}

    /// A conditional branch: `taken` of the `active` lanes.
    fn branch(&mut self, site: Site, taken: u32, active: u32) {}

    /// A memory instruction, before it takes effect.
    ///
    /// # Errors
    /// What is wrong with it.
    fn access(&mut self, access: &WarpAccess<'_>) -> Result<(), Hazard> {
        Ok(())
    }

    /// Lanes arrive at barrier `id` of the block; `waits` is false for `barrier.arrive`.
    fn barrier_arrives(&mut self, site: Site, id: u32, active: u32, waits: bool) {}

    /// Barrier `id` is complete; `participants[warp]` is the mask of lanes that took part.
    fn barrier_completes(&mut self, block: u64, id: u32, participants: &[u32]) {}

    /// `bar.warp.sync` of these lanes.
    fn warp_barrier(&mut self, site: Site, lanes: u32) {}

    /// `membar` or `fence`, sequentially consistent or acquire-release, by each active lane.
    fn fence(&mut self, site: Site, scope: Scope, active: u32) {}

    /// `fence.proxy.async`: the generic proxy's writes so far become visible to the asynchronous proxy.
    fn proxy_fence(&mut self, site: Site, active: u32) {}

    /// `cp.async.commit_group` by each active lane.
    fn copies_committed(&mut self, site: Site, active: u32) {}

    /// `cp.async.wait_group`: at most `pending` of each active lane's groups are still under way, all older
    /// ones have landed.
    fn copies_waited(&mut self, site: Site, pending: u32, active: u32) {}

    /// A bulk copy, before it takes effect.
    ///
    /// # Errors
    /// What is wrong with it.
    fn bulk_copy(&mut self, copy: &BulkAccess<'_>) -> Result<(), Hazard> {
        Ok(())
    }

    /// `cp.async.bulk.commit_group` by each active lane.
    fn bulk_committed(&mut self, site: Site, active: u32) {}

    /// `cp.async.bulk.wait_group`: all but the last `pending` bulk groups of each active lane have landed, or at
    /// least read their sources.
    fn bulk_waited(&mut self, site: Site, pending: u32, reads_only: bool, active: u32) {}

    /// `wgmma.commit_group` by a warp.
    fn products_committed(&mut self, site: Site) {}

    /// `wgmma.wait_group` by a warp: all but the last `pending` groups are done.
    fn products_waited(&mut self, site: Site, pending: u32) {}

    /// `griddepcontrol.wait` by each active lane: the launches before this one have ended, and what they wrote is
    /// visible.
    fn launches_waited(&mut self, site: Site, active: u32) {}

    /// `fence.mbarrier_init`: mbarriers initialised so far become visible to the copy engine.
    fn mbarrier_fence(&mut self, site: Site, active: u32) {}

    /// An event of the mbarrier at that address of the block's shared memory. `lanes` is the mask of threads
    /// that do it; 0 when a copy engine does.
    ///
    /// # Errors
    /// What is wrong with it.
    fn mbarrier(
        &mut self,
        site: Site,
        address: u64,
        event: MbarrierEvent,
        lanes: u32,
    ) -> Result<(), Hazard> {
        Ok(())
    }
}

/// Nobody watches.
impl Monitor for () {
    fn fork(&self) {}

    fn join(&mut self, (): ()) -> Result<(), (Site, Hazard)> {
        Ok(())
    }
}

/// Two monitors watch; the first to object wins.
impl<A: Monitor, B: Monitor> Monitor for (A, B) {
    fn fork(&self) -> Self {
        (self.0.fork(), self.1.fork())
    }

    fn join(&mut self, chunk: Self) -> Result<(), (Site, Hazard)> {
        self.0.join(chunk.0)?;
        self.1.join(chunk.1)
    }

    fn launch(&mut self, launch: &LaunchInfo<'_>) {
        self.0.launch(launch);
        self.1.launch(launch);
    }

    fn launched(&mut self) -> Result<(), (Site, Hazard)> {
        self.0.launched()?;
        self.1.launched()
    }

    fn block_begins(&mut self, block: u64) {
        self.0.block_begins(block);
        self.1.block_begins(block);
    }

    fn block_ends(&mut self, block: u64) {
        self.0.block_ends(block);
        self.1.block_ends(block);
    }

    fn instruction(&mut self, site: Site, class: Class, active: u32, flops: u64) {
        self.0.instruction(site, class, active, flops);
        self.1.instruction(site, class, active, flops);
    }

    fn branch(&mut self, site: Site, taken: u32, active: u32) {
        self.0.branch(site, taken, active);
        self.1.branch(site, taken, active);
    }

    fn access(&mut self, access: &WarpAccess<'_>) -> Result<(), Hazard> {
        self.0.access(access)?;
        self.1.access(access)
    }

    fn barrier_arrives(&mut self, site: Site, id: u32, active: u32, waits: bool) {
        self.0.barrier_arrives(site, id, active, waits);
        self.1.barrier_arrives(site, id, active, waits);
    }

    fn barrier_completes(&mut self, block: u64, id: u32, participants: &[u32]) {
        self.0.barrier_completes(block, id, participants);
        self.1.barrier_completes(block, id, participants);
    }

    fn warp_barrier(&mut self, site: Site, lanes: u32) {
        self.0.warp_barrier(site, lanes);
        self.1.warp_barrier(site, lanes);
    }

    fn fence(&mut self, site: Site, scope: Scope, active: u32) {
        self.0.fence(site, scope, active);
        self.1.fence(site, scope, active);
    }

    fn proxy_fence(&mut self, site: Site, active: u32) {
        self.0.proxy_fence(site, active);
        self.1.proxy_fence(site, active);
    }

    fn copies_committed(&mut self, site: Site, active: u32) {
        self.0.copies_committed(site, active);
        self.1.copies_committed(site, active);
    }

    fn copies_waited(&mut self, site: Site, pending: u32, active: u32) {
        self.0.copies_waited(site, pending, active);
        self.1.copies_waited(site, pending, active);
    }

    fn bulk_copy(&mut self, copy: &BulkAccess<'_>) -> Result<(), Hazard> {
        self.0.bulk_copy(copy)?;
        self.1.bulk_copy(copy)
    }

    fn bulk_committed(&mut self, site: Site, active: u32) {
        self.0.bulk_committed(site, active);
        self.1.bulk_committed(site, active);
    }

    fn bulk_waited(&mut self, site: Site, pending: u32, reads_only: bool, active: u32) {
        self.0.bulk_waited(site, pending, reads_only, active);
        self.1.bulk_waited(site, pending, reads_only, active);
    }

    fn products_committed(&mut self, site: Site) {
        self.0.products_committed(site);
        self.1.products_committed(site);
    }

    fn products_waited(&mut self, site: Site, pending: u32) {
        self.0.products_waited(site, pending);
        self.1.products_waited(site, pending);
    }

    fn launches_waited(&mut self, site: Site, active: u32) {
        self.0.launches_waited(site, active);
        self.1.launches_waited(site, active);
    }

    fn mbarrier_fence(&mut self, site: Site, active: u32) {
        self.0.mbarrier_fence(site, active);
        self.1.mbarrier_fence(site, active);
    }

    fn mbarrier(
        &mut self,
        site: Site,
        address: u64,
        event: MbarrierEvent,
        lanes: u32,
    ) -> Result<(), Hazard> {
        self.0.mbarrier(site, address, event, lanes)?;
        self.1.mbarrier(site, address, event, lanes)
    }
}
