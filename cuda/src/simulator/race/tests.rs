//! Races and their absence, told to the detector by hand: no executor takes part.

use super::*;
use crate::simulator::{fault::FaultKind, monitor::BufferInfo};

/// A launch of some blocks of 64 threads, with one global buffer.
pub(super) struct Play(pub Races);

const GLOBAL: u64 = 0x1_0000;

impl Play {
    fn new(blocks: u32, communicates: bool) -> Self {
        let mut races = Races::default();
        let buffers = [BufferInfo { name: "x".into(), address: GLOBAL, bytes: 4096 }];
        races.launch(&LaunchInfo {
            module: "play",
            kernel: "play",
            grid: [blocks, 1, 1],
            block: [64, 1, 1],
            shared_bytes: 4096,
            instructions: 100,
            communicates,
            overlaps: false,
            overlapped: false,
            buffers: &buffers,
        });
        (0..u64::from(blocks)).for_each(|block| races.block_begins(block));
        Self(races)
    }

    pub fn block() -> Self {
        Self::new(1, false)
    }

    /// One lane of a block accesses four bytes.
    fn touch(
        &mut self,
        (block, thread): (u64, u32),
        space: Space,
        address: u64,
        (kind, order, scope): (AccessKind, Order, Scope),
    ) -> Result<(), Hazard> {
        let site = Site { pc: 10 + thread, block, warp: thread / 32 };
        self.0.access(&WarpAccess {
            site,
            space,
            kind,
            order,
            scope,
            bytes_per_lane: 4,
            addresses: &[address; 32],
            active: 1 << (thread % 32),
            non_coherent: false,
        })
    }

    pub fn weak(&mut self, thread: u32, kind: AccessKind, address: u64) -> Result<(), Hazard> {
        self.touch((0, thread), Space::Shared, address, (kind, Order::Weak, Scope::Block))
    }

    fn global(&mut self, at: (u64, u32), kind: AccessKind, address: u64) -> Result<(), Hazard> {
        self.touch(at, Space::Global, address, (kind, Order::Weak, Scope::Gpu))
    }

    fn strong(
        &mut self,
        at: (u64, u32),
        kind: AccessKind,
        order: Order,
        address: u64,
    ) -> Result<(), Hazard> {
        self.touch(at, Space::Global, address, (kind, order, Scope::Gpu))
    }

    pub fn barrier(&mut self, id: u32, warps: [u32; 2]) {
        for (warp, lanes) in (0..).zip(warps) {
            if lanes != 0 {
                let site = Site { pc: 0, block: 0, warp };
                self.0.barrier_arrives(site, id, lanes, true);
            }
        }
        self.0.barrier_completes(0, id, &warps);
    }

    fn fence(&mut self, (block, thread): (u64, u32), scope: Scope) {
        let site = Site { pc: 0, block, warp: thread / 32 };
        self.0.fence(site, scope, 1 << (thread % 32));
    }
}

use AccessKind::{AsyncWrite, Atomic, Load, ProxyRead, Reduction, Store};

#[track_caller]
fn races(result: Result<(), Hazard>) -> Hazard {
    let hazard = result.expect_err("no hazard is reported");
    assert_eq!(hazard.kind, FaultKind::Race);
    hazard
}

#[test]
fn a_barrier_orders_a_write_before_a_read() {
    let mut play = Play::block();
    play.weak(3, Store, 64).unwrap();
    play.barrier(0, [u32::MAX; 2]);
    play.weak(40, Load, 64).unwrap();
    play.weak(41, Load, 64).unwrap();
}

#[test]
fn without_it_both_sides_are_named() {
    let mut play = Play::block();
    play.weak(3, Store, 64).unwrap();
    let hazard = races(play.weak(40, Load, 64));
    assert_eq!(hazard.address, Some((Space::Shared, 64)));
    assert_eq!(hazard.lane, Some(8));
    assert_eq!(hazard.other, Some((Site { pc: 13, block: 0, warp: 0 }, 3)));
    assert_eq!(hazard.note, "a write");
}

#[test]
fn a_write_after_unordered_reads_races_whoever_read_last() {
    let mut play = Play::block();
    for reader in [5, 6, 40] {
        play.weak(reader, Load, 0).unwrap();
    }
    races(play.weak(40, Store, 0));
    // A barrier of the readers alone does not help the writer.
    let mut play = Play::block();
    play.weak(5, Load, 0).unwrap();
    play.barrier(1, [u32::MAX, 0]);
    races(play.weak(40, Store, 0));
}

#[test]
fn lock_step_is_no_order_but_a_warp_barrier_is() {
    let mut play = Play::block();
    play.weak(0, Store, 0).unwrap();
    races(play.weak(1, Load, 0));
    let mut play = Play::block();
    play.weak(0, Store, 0).unwrap();
    play.0.warp_barrier(Site { pc: 0, block: 0, warp: 0 }, 0b11);
    play.weak(1, Load, 0).unwrap();
    // Lane 2 was no member.
    races(play.weak(2, Load, 0));
}

#[test]
fn two_lanes_of_one_store_race_for_one_word() {
    let mut play = Play::block();
    let site = Site { pc: 1, block: 0, warp: 0 };
    let store = WarpAccess {
        site,
        space: Space::Shared,
        kind: Store,
        order: Order::Weak,
        scope: Scope::Block,
        bytes_per_lane: 4,
        addresses: &[128; 32],
        active: 0b110,
        non_coherent: false,
    };
    races(play.0.access(&store));
}

#[test]
fn neighbouring_bytes_are_different_places() {
    let mut play = Play::block();
    for thread in 0..4u32 {
        let site = Site { pc: 1, block: 0, warp: 0 };
        let store = WarpAccess {
            site,
            space: Space::Shared,
            kind: Store,
            order: Order::Weak,
            scope: Scope::Block,
            bytes_per_lane: 1,
            addresses: &[u64::from(thread); 32],
            active: 1 << thread,
            non_coherent: false,
        };
        play.0.access(&store).unwrap();
    }
    races(play.weak(3, Store, 0));
}

#[test]
fn a_named_barrier_orders_only_who_takes_part() {
    let mut play = Play::block();
    play.weak(0, Store, 0).unwrap();
    play.barrier(1, [u32::MAX, 0]);
    play.weak(31, Load, 0).unwrap();
    races(play.weak(32, Load, 0));
}

#[test]
fn who_arrives_without_waiting_hands_on_but_learns_nothing() {
    let mut play = Play::block();
    let site = |warp| Site { pc: 0, block: 0, warp };
    play.weak(0, Store, 0).unwrap();
    play.weak(32, Store, 4).unwrap();
    play.0.barrier_arrives(site(0), 1, u32::MAX, false);
    play.weak(0, Store, 8).unwrap();
    play.0.barrier_arrives(site(1), 1, u32::MAX, true);
    play.0.barrier_completes(0, 1, &[u32::MAX; 2]);
    play.weak(33, Load, 0).unwrap();
    races(play.weak(33, Load, 8));
    races(play.weak(1, Load, 4));
}

#[test]
fn atomics_do_not_race_with_each_other_but_with_plain_accesses() {
    let mut play = Play::block();
    let atomic = (Reduction, Order::Relaxed, Scope::Block);
    for thread in [0, 1, 33] {
        play.touch((0, thread), Space::Shared, 0, atomic).unwrap();
    }
    // The last atomic is its own; the others it does not know of.
    races(play.weak(33, Load, 0));
    play.barrier(0, [u32::MAX; 2]);
    play.weak(33, Load, 0).unwrap();
}

#[test]
fn an_atomic_does_not_hide_what_its_thread_did_before_without_one() {
    let atomic = (Reduction, Order::Relaxed, Scope::Block);
    for plain in [Store, Load] {
        let mut play = Play::block();
        play.weak(0, plain, 4).unwrap();
        for _ in 0..2 {
            play.touch((0, 0), Space::Shared, 4, atomic).unwrap();
        }
        races(play.touch((0, 33), Space::Shared, 4, atomic));
        play.barrier(0, [u32::MAX; 2]);
        for thread in [33, 1] {
            play.touch((0, thread), Space::Shared, 4, atomic).unwrap();
        }
    }
}

#[test]
fn atomics_of_block_scope_do_not_agree_across_blocks() {
    let mut play = Play::new(2, true);
    let atomic = (Atomic, Order::Relaxed, Scope::Block);
    play.touch((0, 0), Space::Global, GLOBAL, atomic).unwrap();
    races(play.touch((1, 0), Space::Global, GLOBAL, atomic));
}

#[test]
fn release_and_acquire_order_blocks() {
    let mut play = Play::new(2, true);
    play.global((0, 0), Store, GLOBAL + 64).unwrap();
    play.strong((0, 0), Store, Order::Release, GLOBAL).unwrap();
    play.strong((1, 7), Load, Order::Acquire, GLOBAL).unwrap();
    play.global((1, 7), Load, GLOBAL + 64).unwrap();
    // Only who acquired knows.
    races(play.global((1, 8), Load, GLOBAL + 64));
}

#[test]
fn what_is_written_after_the_release_is_not_published() {
    let mut play = Play::new(2, true);
    play.strong((0, 0), Store, Order::Release, GLOBAL).unwrap();
    play.global((0, 0), Store, GLOBAL + 64).unwrap();
    play.strong((1, 7), Load, Order::Acquire, GLOBAL).unwrap();
    races(play.global((1, 7), Load, GLOBAL + 64));
}

#[test]
fn fences_around_relaxed_flags_order_blocks_and_both_are_needed() {
    for (first, second, orders) in [(true, true, true), (true, false, false), (false, true, false)]
    {
        let mut play = Play::new(2, true);
        play.global((0, 0), Store, GLOBAL + 64).unwrap();
        if first {
            play.fence((0, 0), Scope::Gpu);
        }
        play.strong((0, 0), Atomic, Order::Relaxed, GLOBAL).unwrap();
        play.strong((1, 7), Load, Order::Volatile, GLOBAL).unwrap();
        if second {
            play.fence((1, 7), Scope::Gpu);
        }
        let read = play.global((1, 7), Load, GLOBAL + 64);
        assert_eq!(read.is_ok(), orders, "fences: {first}, {second}");
    }
}

#[test]
fn a_fence_of_the_block_is_too_narrow_for_another_block() {
    let mut play = Play::new(2, true);
    play.global((0, 0), Store, GLOBAL + 64).unwrap();
    play.fence((0, 0), Scope::Block);
    play.strong((0, 0), Atomic, Order::Relaxed, GLOBAL).unwrap();
    play.strong((1, 7), Atomic, Order::Relaxed, GLOBAL).unwrap();
    play.fence((1, 7), Scope::Gpu);
    races(play.global((1, 7), Load, GLOBAL + 64));
}

#[test]
fn knowledge_travels_through_a_block_in_between() {
    let mut play = Play::new(3, true);
    play.global((0, 0), Store, GLOBAL + 64).unwrap();
    play.strong((0, 0), Store, Order::Release, GLOBAL).unwrap();
    play.strong((1, 7), Load, Order::Acquire, GLOBAL).unwrap();
    play.strong((1, 7), Store, Order::Release, GLOBAL + 4).unwrap();
    play.strong((2, 9), Load, Order::Acquire, GLOBAL + 4).unwrap();
    play.global((2, 9), Load, GLOBAL + 64).unwrap();
}

#[test]
fn blocks_that_do_not_talk_race_in_one_chunk_and_in_two() {
    let mut play = Play::new(2, false);
    play.global((0, 0), Store, GLOBAL).unwrap();
    races(play.global((1, 0), Store, GLOBAL));

    for (one, two, expected) in
        [(Store, Store, true), (Store, Load, true), (Load, Store, true), (Load, Load, false)]
    {
        let mut here = Play::new(2, false);
        let mut there = Play(here.0.fork());
        there.0.block_begins(1);
        here.global((0, 0), one, GLOBAL).unwrap();
        there.global((1, 3), two, GLOBAL).unwrap();
        there.global((1, 3), Store, GLOBAL + 8).unwrap();
        let joined = here.0.join(there.0);
        assert_eq!(joined.is_err(), expected, "{one:?}, then {two:?}");
        if let Err((site, hazard)) = joined {
            assert_eq!((site.block, hazard.lane), (1, Some(3)));
            assert_eq!(hazard.other.unwrap().0.block, 0);
        }
    }
}

#[test]
fn readers_of_one_word_in_two_chunks_are_joined_and_a_writer_in_a_third_races() {
    let mut here = Play::new(2, false);
    let mut there = Play(here.0.fork());
    let mut writer = Play(here.0.fork());
    // The word is new to the first chunk, its neighbour is not: they are remembered side by side.
    here.global((0, 0), Load, GLOBAL + 64).unwrap();
    there.0.block_begins(1);
    for lane in [0, 5, 40] {
        there.global((1, lane), Load, GLOBAL).unwrap();
    }
    writer.0.block_begins(2);
    writer.global((2, 1), Store, GLOBAL).unwrap();
    assert!(here.0.join(there.0).is_ok());
    assert!(here.0.join(writer.0).is_err());
}

#[test]
fn a_launch_ends_every_race() {
    let mut play = Play::new(1, false);
    play.global((0, 0), Store, GLOBAL).unwrap();
    play.0.launched().unwrap();
    play.0.block_begins(0);
    play.global((0, 1), Load, GLOBAL).unwrap();
}

#[test]
fn memory_of_the_non_coherent_path_is_never_written() {
    let read = |play: &mut Play| {
        play.0.access(&WarpAccess {
            site: Site { pc: 2, block: 0, warp: 0 },
            space: Space::Global,
            kind: Load,
            order: Order::Weak,
            scope: Scope::Gpu,
            bytes_per_lane: 4,
            addresses: &[GLOBAL; 32],
            active: 1,
            non_coherent: true,
        })
    };
    let mut play = Play::block();
    play.global((0, 0), Store, GLOBAL).unwrap();
    play.barrier(0, [u32::MAX; 2]);
    races(read(&mut play));
    let mut play = Play::block();
    read(&mut play).unwrap();
    play.barrier(0, [u32::MAX; 2]);
    races(play.global((0, 0), Store, GLOBAL));
}

#[test]
fn copies_must_be_waited_for_and_then_handed_on() {
    let site = Site { pc: 0, block: 0, warp: 0 };
    let mut play = Play::block();
    play.weak(0, AsyncWrite, 0).unwrap();
    play.0.copies_committed(site, 1);
    play.weak(0, AsyncWrite, 16).unwrap();
    play.0.copies_committed(site, 1);
    let hazard = play.weak(0, Load, 0).unwrap_err();
    assert_eq!(hazard.kind, FaultKind::PendingCopy);
    play.0.copies_waited(site, 1, 1);
    play.weak(0, Load, 0).unwrap();
    assert_eq!(play.weak(0, Load, 16).unwrap_err().kind, FaultKind::PendingCopy);
    races(play.weak(1, Load, 0));
    play.0.copies_waited(site, 0, 1);
    play.barrier(0, [u32::MAX; 2]);
    play.weak(63, Load, 16).unwrap();
}

#[test]
fn a_copy_into_what_others_still_read_races() {
    let mut play = Play::block();
    play.weak(5, Load, 0).unwrap();
    races(play.weak(0, AsyncWrite, 0));
}

#[test]
fn the_asynchronous_proxy_needs_its_fence() {
    for fenced in [false, true] {
        let mut play = Play::block();
        play.weak(5, Store, 0).unwrap();
        if fenced {
            play.0.proxy_fence(Site { pc: 0, block: 0, warp: 0 }, u32::MAX);
        }
        play.barrier(0, [u32::MAX; 2]);
        let read = play.weak(40, ProxyRead, 0);
        match fenced {
            true => read.unwrap(),
            false => assert_eq!(read.unwrap_err().kind, FaultKind::MissingProxyFence),
        }
    }
}
