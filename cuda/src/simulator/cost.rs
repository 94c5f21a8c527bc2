//! Exact counts of what kernels did: deterministic, the same on every machine.
//!
//! The simulator counts PTX instructions, which `ptxas` turns into more or fewer machine instructions; memory
//! sectors, bank conflicts, matrix operations, barriers and atomics are what the hardware counts too. See
//! METHODOLOGY.md for both against `ncu`.

mod banks;
mod sectors;

pub use banks::{Wavefronts, shared_wavefronts};
pub use sectors::{SECTOR_BYTES, sectors, sectors_of_ranges};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    fault::{Hazard, Space},
    monitor::{AccessKind, BulkAccess, Class, LaunchInfo, Monitor, Site, WarpAccess},
};

/// What a plan cost: one entry for each kernel it launches, in order of first launch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    /// Costs of the kernels.
    pub kernels: Vec<KernelCost>,
}

/// What all launches of one kernel cost together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KernelCost {
    /// Stem of the kernel file.
    pub module: String,
    /// `extern "C"` name.
    pub symbol: String,
    /// Launches.
    pub launches: u64,
    /// What they did.
    pub counts: Counts,
}

impl Cost {
    /// Adds one launch of a kernel.
    pub fn add(&mut self, module: &str, symbol: &str, counts: &Counts) {
        let known = self.kernels.iter_mut().find(|k| k.module == module && k.symbol == symbol);
        match known {
            Some(kernel) => {
                kernel.launches += 1;
                kernel.counts.add(counts);
            }
            None => self.kernels.push(KernelCost {
                module: module.into(),
                symbol: symbol.into(),
                launches: 1,
                counts: counts.clone(),
            }),
        }
    }

    /// The counts of all kernels together.
    pub fn total(&self) -> Counts {
        let mut total = Counts::default();
        self.kernels.iter().for_each(|kernel| total.add(&kernel.counts));
        total
    }
}

/// Declares [`Counts`] with its sums and its list of names, so that no counter can be left out of either.
macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// What a kernel did. Without a unit in the name, a counter counts instructions of warps: one for a
        /// warp, however many of its threads take part.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields, default)]
        pub struct Counts {
            $($(#[doc = $doc])+ #[serde(skip_serializing_if = "is_zero")] pub $name: u64,)+
        }

        impl Counts {
            /// Adds another kernel's, block's or warp's counts.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)+
            }

            /// Every counter with its name, in order of declaration.
            pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)+].into_iter()
            }
        }
    };
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

counters! {
    /// All instructions. One whose predicate holds for no thread counts too: the hardware issues it.
    instructions,
    /// The same by thread: once for every thread that takes part.
    thread_instructions,
    /// Moves between registers, reads of special registers, address conversions.
    moves,
    /// Threads' share of [`Counts::moves`].
    thread_moves,
    /// Integer and bitwise arithmetic.
    integer,
    /// Threads' share of [`Counts::integer`].
    thread_integer,
    /// f16 and bf16 arithmetic.
    half,
    /// Threads' share of [`Counts::half`].
    thread_half,
    /// f32 arithmetic.
    float32,
    /// Threads' share of [`Counts::float32`].
    thread_float32,
    /// f64 arithmetic.
    float64,
    /// Threads' share of [`Counts::float64`].
    thread_float64,
    /// Approximate functions: `ex2`, `lg2`, `rcp`, `rsqrt`, `sqrt`, `sin`, `cos`, `tanh`.
    special,
    /// Threads' share of [`Counts::special`].
    thread_special,
    /// Conversions between types.
    conversions,
    /// Threads' share of [`Counts::conversions`].
    thread_conversions,
    /// Comparisons, selections and predicate logic.
    comparisons,
    /// Threads' share of [`Counts::comparisons`].
    thread_comparisons,
    /// Loads from any memory, `ldmatrix` among them.
    loads,
    /// Threads' share of [`Counts::loads`].
    thread_loads,
    /// Stores to any memory.
    stores,
    /// Threads' share of [`Counts::stores`].
    thread_stores,
    /// Atomics and reductions in memory.
    atomics,
    /// Threads' share of [`Counts::atomics`].
    thread_atomics,
    /// Asynchronous copies, their commits and waits.
    async_copies,
    /// Threads' share of [`Counts::async_copies`].
    thread_async_copies,
    /// Shuffles, votes, matches and reductions within a warp.
    warp_operations,
    /// Threads' share of [`Counts::warp_operations`].
    thread_warp_operations,
    /// Barriers, mbarriers and fences.
    synchronization,
    /// Threads' share of [`Counts::synchronization`].
    thread_synchronization,
    /// Matrix products on tensor cores.
    tensor,
    /// Floating-point operations of those: two for each multiply-add.
    tensor_flops,
    /// Branches, calls, exits.
    control,
    /// Threads' share of [`Counts::control`].
    thread_control,
    /// Conditional branches.
    conditional_branches,
    /// Conditional branches that part of a warp's threads took and part did not.
    divergent_branches,
    /// Arrivals of warps at barriers of their block.
    barriers,
    /// Requests of warps that read global memory, copies' among them.
    global_read_requests,
    /// Sectors of 32 bytes that those touch.
    global_read_sectors,
    /// Requests of warps that write global memory.
    global_write_requests,
    /// Sectors of 32 bytes that those touch.
    global_write_sectors,
    /// Sectors of 32 bytes that atomics and reductions touch in global memory.
    global_atomic_sectors,
    /// Requests of warps that read shared memory.
    shared_read_requests,
    /// Passes over the 32 banks that those take.
    shared_read_wavefronts,
    /// Passes beyond those that the same requests would take without two words in one bank.
    shared_read_conflicts,
    /// Requests of warps that write shared memory.
    shared_write_requests,
    /// Passes over the 32 banks that those take.
    shared_write_wavefronts,
    /// Passes beyond those that the same requests would take without two words in one bank.
    shared_write_conflicts,
    /// Requests of warps for atomics in shared memory.
    shared_atomic_requests,
    /// Requests of warps to local memory: registers that live in memory.
    local_requests,
    /// Bulk copies that the copy engine was asked for.
    bulk_copies,
    /// Bytes of shared memory that those bring or take, what they fill in outside of a tensor included.
    bulk_copy_bytes,
    /// Bytes that asynchronous copies bring from global to shared memory.
    async_copy_bytes,
}

impl Counts {
    /// Counts one instruction of a warp in which `threads` threads take part.
    #[inline]
    pub fn instruction(&mut self, class: Class, threads: u32, flops: u64) {
        let threads = u64::from(threads);
        self.instructions += 1;
        self.thread_instructions += threads;
        let (warps, of_threads) = match class {
            Class::Move => (&mut self.moves, &mut self.thread_moves),
            Class::Integer => (&mut self.integer, &mut self.thread_integer),
            Class::Half => (&mut self.half, &mut self.thread_half),
            Class::Float32 => (&mut self.float32, &mut self.thread_float32),
            Class::Float64 => (&mut self.float64, &mut self.thread_float64),
            Class::Special => (&mut self.special, &mut self.thread_special),
            Class::Conversion => (&mut self.conversions, &mut self.thread_conversions),
            Class::Compare => (&mut self.comparisons, &mut self.thread_comparisons),
            Class::Load => (&mut self.loads, &mut self.thread_loads),
            Class::Store => (&mut self.stores, &mut self.thread_stores),
            Class::Atomic => (&mut self.atomics, &mut self.thread_atomics),
            Class::AsyncCopy => (&mut self.async_copies, &mut self.thread_async_copies),
            Class::Warp => (&mut self.warp_operations, &mut self.thread_warp_operations),
            Class::Synchronization => (&mut self.synchronization, &mut self.thread_synchronization),
            Class::Control => (&mut self.control, &mut self.thread_control),
            Class::Tensor => {
                self.tensor += 1;
                return self.tensor_flops += flops;
            }
        };
        *warps += 1;
        *of_threads += threads;
    }

    /// Counts one memory request of a warp.
    fn access(&mut self, access: &WarpAccess<'_>) {
        let lanes = |lane: &u8| access.active >> lane & 1 == 1;
        let mut requests = [(0, 0); 32];
        let mut count = 0;
        for lane in (0..32).filter(lanes) {
            requests[count] = (lane, access.addresses[usize::from(lane)]);
            count += 1;
        }
        let requests = &requests[..count];
        if requests.is_empty() {
            return;
        }
        let bytes = access.bytes_per_lane;
        match access.space {
            Space::Global => self.global(access.kind, sectors(requests, bytes)),
            Space::Shared => {
                self.shared(access.kind, shared_wavefronts(access.kind, requests, bytes))
            }
            Space::Local => self.local_requests += 1,
            Space::Param | Space::Const => {}
        }
        if access.kind == AccessKind::AsyncWrite && access.space == Space::Shared {
            self.async_copy_bytes += u64::from(bytes) * count as u64;
        }
    }

    /// Counts one bulk copy: it is one request, of all sectors that its ranges touch.
    fn bulk(&mut self, copy: &BulkAccess<'_>) {
        let shared = if copy.target.0 == Space::Shared { copy.target } else { copy.source };
        self.bulk_copies += 1;
        self.bulk_copy_bytes += shared.1.iter().map(|&(_, bytes)| u64::from(bytes)).sum::<u64>();
        for ((space, ranges), reads) in [(copy.source, true), (copy.target, false)] {
            if space == Space::Global {
                let kind = if reads { AccessKind::AsyncRead } else { AccessKind::AsyncWrite };
                self.global(kind, sectors_of_ranges(ranges));
            }
        }
    }

    fn global(&mut self, kind: AccessKind, sectors: u64) {
        match kind {
            AccessKind::Load | AccessKind::AsyncRead | AccessKind::ProxyRead => {
                self.global_read_requests += 1;
                self.global_read_sectors += sectors;
            }
            AccessKind::Store | AccessKind::AsyncWrite => {
                self.global_write_requests += 1;
                self.global_write_sectors += sectors;
            }
            AccessKind::Atomic | AccessKind::Reduction => self.global_atomic_sectors += sectors,
        }
    }

    fn shared(&mut self, kind: AccessKind, Wavefronts { taken, fewest }: Wavefronts) {
        match kind {
            AccessKind::Load | AccessKind::AsyncRead | AccessKind::ProxyRead => {
                self.shared_read_requests += 1;
                self.shared_read_wavefronts += taken;
                self.shared_read_conflicts += taken - fewest;
            }
            AccessKind::Store | AccessKind::AsyncWrite => {
                self.shared_write_requests += 1;
                self.shared_write_wavefronts += taken;
                self.shared_write_conflicts += taken - fewest;
            }
            AccessKind::Atomic | AccessKind::Reduction => self.shared_atomic_requests += 1,
        }
    }
}

/// Counts what a run does, kernel by kernel.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    cost: Cost,
    counts: Counts,
    module: String,
    kernel: String,
}

impl Meter {
    /// What the launches so far cost.
    pub fn cost(&self) -> &Cost {
        &self.cost
    }
}

impl Monitor for Meter {
    fn fork(&self) -> Self {
        Self::default()
    }

    fn join(&mut self, chunk: Self) -> Result<(), (Site, Hazard)> {
        self.counts.add(&chunk.counts);
        Ok(())
    }

    fn launch(&mut self, launch: &LaunchInfo<'_>) {
        self.module = launch.module.into();
        self.kernel = launch.kernel.into();
        self.counts = Counts::default();
    }

    fn launched(&mut self) -> Result<(), (Site, Hazard)> {
        self.cost.add(&self.module, &self.kernel, &self.counts);
        Ok(())
    }

    fn instruction(&mut self, _: Site, class: Class, active: u32, flops: u64) {
        self.counts.instruction(class, active.count_ones(), flops);
    }

    fn branch(&mut self, _: Site, taken: u32, active: u32) {
        self.counts.conditional_branches += 1;
        self.counts.divergent_branches +=
            u64::from(taken & active != 0 && taken & active != active);
    }

    fn access(&mut self, access: &WarpAccess<'_>) -> Result<(), Hazard> {
        self.counts.access(access);
        Ok(())
    }

    fn bulk_copy(&mut self, copy: &BulkAccess<'_>) -> Result<(), Hazard> {
        self.counts.bulk(copy);
        Ok(())
    }

    fn barrier_arrives(&mut self, _: Site, _: u32, _: u32, _: bool) {
        self.counts.barriers += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulator::{
        bulk::Counted,
        monitor::{Order, Scope},
    };

    const SITE: Site = Site { pc: 0, block: 0, warp: 0 };

    #[test]
    fn classes_add_up_to_the_total() {
        let mut meter = Meter::default();
        meter.instruction(SITE, Class::Integer, u32::MAX, 0);
        meter.instruction(SITE, Class::Float32, 0x7f, 0);
        meter.instruction(SITE, Class::Tensor, u32::MAX, 4096);
        meter.instruction(SITE, Class::Synchronization, u32::MAX, 0);
        let counts = meter.counts;
        assert_eq!((counts.instructions, counts.thread_instructions), (4, 103));
        assert_eq!((counts.float32, counts.thread_float32), (1, 7));
        assert_eq!((counts.tensor, counts.tensor_flops), (1, 4096));
    }

    #[test]
    fn branches_diverge_when_some_threads_go_and_some_stay() {
        let mut meter = Meter::default();
        for (taken, active) in [(0, 15), (15, 15), (3, 15)] {
            meter.branch(SITE, taken, active);
        }
        assert_eq!(meter.counts.conditional_branches, 3);
        assert_eq!(meter.counts.divergent_branches, 1);
    }

    #[test]
    fn copies_read_global_and_write_shared_memory() {
        let mut meter = Meter::default();
        let mut addresses = [0; 32];
        (0..32).for_each(|lane| addresses[lane] = lane as u64 * 16);
        for (space, kind) in
            [(Space::Global, AccessKind::AsyncRead), (Space::Shared, AccessKind::AsyncWrite)]
        {
            let access = WarpAccess {
                site: SITE,
                space,
                kind,
                order: Order::Weak,
                scope: Scope::Block,
                bytes_per_lane: 16,
                addresses: &addresses,
                active: 0xffff,
                non_coherent: false,
            };
            meter.access(&access).unwrap();
        }
        let counts = meter.counts;
        assert_eq!((counts.global_read_requests, counts.global_read_sectors), (1, 8));
        assert_eq!((counts.shared_write_requests, counts.shared_write_wavefronts), (1, 2));
        assert_eq!((counts.shared_write_conflicts, counts.async_copy_bytes), (0, 256));
    }

    #[test]
    fn a_bulk_copy_is_one_request_of_all_its_sectors() {
        let mut meter = Meter::default();
        let (rows, tile) = ([(0, 64), (1024, 64)], [(0, 192)]);
        let copy = BulkAccess {
            site: SITE,
            lane: 0,
            source: (Space::Global, &rows),
            target: (Space::Shared, &tile),
            counted: Counted::Mbarrier { at: 4096, phase: 0 },
        };
        meter.bulk_copy(&copy).unwrap();
        let counts = meter.counts;
        assert_eq!((counts.bulk_copies, counts.bulk_copy_bytes), (1, 192));
        assert_eq!((counts.global_read_requests, counts.global_read_sectors), (1, 4));
    }

    #[test]
    fn chunks_of_blocks_add_up() {
        let mut whole = Meter::default();
        let mut chunk = whole.fork();
        chunk.instruction(SITE, Class::Move, 1, 0);
        whole.instruction(SITE, Class::Move, 3, 0);
        whole.join(chunk).unwrap();
        whole.launched().unwrap();
        assert_eq!(whole.cost().total().thread_moves, 3);
    }

    #[test]
    fn launches_of_one_kernel_are_added() {
        let counts = Counts { integer: 2, shared_read_requests: 3, ..Counts::default() };
        let mut cost = Cost::default();
        cost.add("limits", "copy", &counts);
        cost.add("limits", "fma", &counts);
        cost.add("limits", "copy", &counts);
        assert_eq!(cost.kernels.len(), 2);
        assert_eq!((cost.kernels[0].launches, cost.kernels[0].counts.integer), (2, 4));
        assert_eq!(cost.total().shared_read_requests, 9);
    }

    #[test]
    fn zero_counters_take_no_place_in_records() {
        let counts = Counts { integer: 2, ..Counts::default() };
        let text = serde_json::to_string(&counts).unwrap();
        assert_eq!(text, r#"{"integer":2}"#);
        assert_eq!(serde_json::from_str::<Counts>(&text).unwrap(), counts);
    }

    #[test]
    fn every_counter_has_its_name() {
        let counts = Counts { async_copy_bytes: 5, ..Counts::default() };
        assert_eq!(counts.named().last(), Some(("async_copy_bytes", 5)));
        assert_eq!(counts.named().map(|(_, n)| n).sum::<u64>(), 5);
    }
}
