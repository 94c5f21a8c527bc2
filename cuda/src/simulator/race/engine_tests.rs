//! Orders that mbarriers, bulk copies and products make, told to the detector by hand.

use super::{tests::Play, *};
use crate::simulator::fault::FaultKind;
use AccessKind::{Load, ProxyRead, Store};

const BARRIER: u64 = 3072;

fn site(thread: u32) -> Site {
    Site { pc: 100 + thread, block: 0, warp: thread / 32 }
}

fn lane(thread: u32) -> u32 {
    1 << (thread % 32)
}

fn event(play: &mut Play, thread: u32, event: MbarrierEvent) -> Result<(), Hazard> {
    play.0.mbarrier(site(thread), BARRIER, event, lane(thread))
}

/// A barrier that thread 0 initialises and all threads know.
fn with_barrier() -> Play {
    let mut play = Play::block();
    event(&mut play, 0, MbarrierEvent::Init).unwrap();
    play.0.mbarrier_fence(site(0), 1);
    play.barrier(0, [u32::MAX; 2]);
    play
}

/// A thread has the copy engine bring 64 bytes to `to`.
fn bring(play: &mut Play, thread: u32, to: u64) -> Result<(), Hazard> {
    play.0.bulk_copy(&BulkAccess {
        site: site(thread),
        lane: thread % 32,
        source: (Space::Global, &[(0x1_0000, 64)]),
        target: (Space::Shared, &[(to, 64)]),
        counted: Counted::Mbarrier { at: BARRIER as usize, phase: 0 },
    })
}

/// A thread has the copy engine take 64 bytes from `from`.
fn take(play: &mut Play, thread: u32, from: u64) -> Result<(), Hazard> {
    play.0.bulk_copy(&BulkAccess {
        site: site(thread),
        lane: thread % 32,
        source: (Space::Shared, &[(from, 64)]),
        target: (Space::Global, &[(0x1_0000 + from, 64)]),
        counted: Counted::Group { thread, group: 0 },
    })
}

fn phase_ends(play: &mut Play) {
    play.0.mbarrier(site(0), BARRIER, MbarrierEvent::PhaseEnds, 0).unwrap();
}

#[track_caller]
fn reports(result: Result<(), Hazard>, kind: FaultKind) {
    assert_eq!(result.expect_err("no hazard is reported").kind, kind);
}

#[test]
fn an_mbarrier_orders_who_waits_after_who_arrived() {
    let mut play = with_barrier();
    play.weak(3, Store, 64).unwrap();
    event(&mut play, 3, MbarrierEvent::Arrive).unwrap();
    phase_ends(&mut play);
    reports(play.weak(40, Load, 64), FaultKind::Race);
    event(&mut play, 41, MbarrierEvent::Waited).unwrap();
    play.weak(41, Load, 64).unwrap();
}

#[test]
fn an_arrival_of_the_next_phase_is_not_learnt_with_this_one() {
    let mut play = with_barrier();
    event(&mut play, 3, MbarrierEvent::Arrive).unwrap();
    phase_ends(&mut play);
    play.weak(3, Store, 64).unwrap();
    event(&mut play, 3, MbarrierEvent::Arrive).unwrap();
    event(&mut play, 40, MbarrierEvent::Waited).unwrap();
    reports(play.weak(40, Load, 64), FaultKind::Race);
}

#[test]
fn who_does_not_know_the_initialisation_must_not_use_the_barrier() {
    let mut play = Play::block();
    event(&mut play, 0, MbarrierEvent::Init).unwrap();
    reports(event(&mut play, 40, MbarrierEvent::Arrive), FaultKind::Race);
}

#[test]
fn the_copy_engine_must_see_the_barrier() {
    let mut play = Play::block();
    event(&mut play, 0, MbarrierEvent::Init).unwrap();
    reports(bring(&mut play, 0, 0), FaultKind::MissingProxyFence);
    play.0.mbarrier_fence(site(0), 1);
    bring(&mut play, 0, 0).unwrap();
}

#[test]
fn bytes_that_come_are_read_after_a_wait_and_by_those_it_was_told() {
    let mut play = with_barrier();
    bring(&mut play, 0, 0).unwrap();
    event(&mut play, 0, MbarrierEvent::Arrive).unwrap();
    phase_ends(&mut play);
    // The block's barrier says nothing of the copy.
    play.barrier(0, [u32::MAX; 2]);
    reports(play.weak(0, Load, 0), FaultKind::PendingCopy);
    event(&mut play, 40, MbarrierEvent::Waited).unwrap();
    play.weak(40, Load, 0).unwrap();
    play.weak(40, ProxyRead, 4).unwrap();
    play.barrier(0, [u32::MAX; 2]);
    play.weak(3, Load, 8).unwrap();
}

#[test]
fn a_copy_onto_bytes_that_others_may_still_read_is_a_race() {
    let mut play = with_barrier();
    play.weak(40, Load, 0).unwrap();
    reports(bring(&mut play, 0, 0), FaultKind::Race);
    play.barrier(0, [u32::MAX; 2]);
    bring(&mut play, 0, 0).unwrap();
}

#[test]
fn a_copy_onto_bytes_that_were_stored_needs_a_fence() {
    let mut play = with_barrier();
    play.weak(0, Store, 0).unwrap();
    reports(bring(&mut play, 0, 0), FaultKind::MissingProxyFence);
    play.0.proxy_fence(site(0), 1);
    bring(&mut play, 0, 0).unwrap();
}

#[test]
fn stored_bytes_are_taken_after_the_writer_s_fence() {
    let mut play = Play::block();
    play.weak(40, Store, 0).unwrap();
    play.barrier(0, [u32::MAX; 2]);
    reports(take(&mut play, 0, 0), FaultKind::MissingProxyFence);
    play.0.proxy_fence(site(40), lane(40));
    play.barrier(0, [u32::MAX; 2]);
    take(&mut play, 0, 0).unwrap();
}

#[test]
fn a_fence_is_handed_on_through_an_mbarrier() {
    let mut play = with_barrier();
    play.weak(40, Store, 0).unwrap();
    play.0.proxy_fence(site(40), lane(40));
    event(&mut play, 40, MbarrierEvent::Arrive).unwrap();
    phase_ends(&mut play);
    event(&mut play, 0, MbarrierEvent::Waited).unwrap();
    take(&mut play, 0, 0).unwrap();
}

#[test]
fn taken_bytes_are_written_again_after_their_group_was_waited_for() {
    let mut play = Play::block();
    take(&mut play, 0, 0).unwrap();
    play.0.bulk_committed(site(0), 1);
    take(&mut play, 0, 64).unwrap();
    play.0.bulk_committed(site(0), 1);
    reports(play.weak(0, Store, 0), FaultKind::PendingCopy);
    play.0.bulk_waited(site(0), 1, true, 1);
    play.weak(0, Store, 0).unwrap();
    reports(play.weak(0, Store, 64), FaultKind::PendingCopy);
}

#[test]
fn what_a_product_reads_is_written_again_after_its_group_was_waited_for() {
    let mut play = Play::block();
    play.weak(40, ProxyRead, 0).unwrap();
    play.0.products_committed(site(40));
    reports(play.weak(40, Store, 0), FaultKind::PendingCopy);
    play.0.products_waited(site(40), 0);
    reports(play.weak(3, Store, 0), FaultKind::PendingCopy);
    play.weak(41, Store, 0).unwrap();
}
