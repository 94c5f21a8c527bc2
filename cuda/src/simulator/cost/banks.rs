//! Banks of shared memory: 32 of them, each four bytes wide. A request takes one pass over the banks for
//! every word it needs from the busiest one.
//!
//! How lanes go together was measured: `banks.txt` holds patterns of addresses with the passes and conflicts that ncu
//! counted for each on a GPU of compute capability 9.0.

use crate::simulator::monitor::AccessKind;

/// Passes over the banks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wavefronts {
    /// Passes the request takes.
    pub taken: u64,
    /// Passes a request of as many threads and bytes takes when no bank is asked for two words.
    pub fewest: u64,
}

const BANKS: usize = 32;

/// Passes that a request of a warp takes: lane and address of every thread that takes part, and how many
/// bytes each touches.
///
/// Requests of up to four bytes a thread go over the banks together. Of eight bytes, the two halves of a warp
/// go one after the other; of sixteen, its four quarters. Threads that ask for the same word share it. Where every
/// thread of a load asks for the same as its neighbour (lane xor 1), or every one as its next but one (lane xor 2),
/// twice as many lanes go together.
pub fn shared_wavefronts(kind: AccessKind, requests: &[(u8, u64)], bytes: u32) -> Wavefronts {
    let mut lanes_together = match bytes {
        0..=4 => 32,
        5..=8 => 16,
        _ => 8,
    };
    if kind == AccessKind::Load && lanes_together < 32 && in_pairs(requests) {
        lanes_together *= 2;
    }
    let mut wavefronts = Wavefronts { taken: 0, fewest: 0 };
    for group in 0..32 / lanes_together {
        let together = |lane: u8| lane / lanes_together == group;
        let mut words: [[u64; BANKS]; BANKS] = [[0; BANKS]; BANKS];
        let mut depth = [0usize; BANKS];
        for &(_, address) in requests.iter().filter(|&&(lane, _)| together(lane)) {
            for word in address / 4..=(address + u64::from(bytes.max(1)) - 1) / 4 {
                let bank = (word % BANKS as u64) as usize;
                if !words[bank][..depth[bank]].contains(&word) {
                    words[bank][depth[bank]] = word;
                    depth[bank] += 1;
                }
            }
        }
        let deepest = depth.into_iter().max().unwrap_or(0) as u64;
        wavefronts.taken += deepest;
        wavefronts.fewest += u64::from(deepest > 0);
    }
    wavefronts
}

/// Whether lanes one apart, or all lanes two apart, ask for the same address or stand aside.
fn in_pairs(requests: &[(u8, u64)]) -> bool {
    let mut addresses = [None; 32];
    requests.iter().for_each(|&(lane, address)| addresses[usize::from(lane)] = Some(address));
    [1, 2].into_iter().any(|apart| {
        requests.iter().all(|&(lane, address)| {
            addresses[usize::from(lane) ^ apart].is_none_or(|other| other == address)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(bytes: u32, address: impl Fn(u64) -> u64) -> (u64, u64) {
        let requests: Vec<(u8, u64)> = (0..32).map(|lane| (lane, address(lane.into()))).collect();
        let Wavefronts { taken, fewest } = shared_wavefronts(AccessKind::Store, &requests, bytes);
        (taken, fewest)
    }

    #[test]
    fn neighbouring_words_take_one_pass() {
        assert_eq!(passes(4, |lane| lane * 4), (1, 1));
        assert_eq!(passes(4, |lane| (31 - lane) * 4), (1, 1));
        assert_eq!(passes(2, |lane| lane * 2), (1, 1));
        assert_eq!(passes(4, |_| 64), (1, 1));
    }

    #[test]
    fn strides_ask_a_bank_for_many_words() {
        assert_eq!(passes(4, |lane| lane * 8), (2, 1));
        assert_eq!(passes(4, |lane| lane * 128), (32, 1));
        assert_eq!(passes(4, |lane| lane * 132), (1, 1));
        assert_eq!(passes(4, |lane| lane % 4 * 128), (4, 1));
    }

    #[test]
    fn wide_requests_go_by_halves_and_quarters() {
        assert_eq!(passes(8, |lane| lane * 8), (2, 2));
        assert_eq!(passes(16, |lane| lane * 16), (4, 4));
        assert_eq!(passes(16, |lane| lane * 32), (8, 4));
        assert_eq!(passes(16, |_| 0), (4, 4));
    }

    /// Each line of `banks.txt`: `ld` or `st`, bytes, passes and conflicts by ncu, and the address of each lane, -1 of
    /// one that stands aside.
    #[test]
    fn passes_and_conflicts_are_the_hardware_s() {
        let mut patterns = 0;
        for line in include_str!("banks.txt").lines().filter(|line| !line.starts_with('#')) {
            let mut words = line.split(' ');
            let kind = match words.next().unwrap() {
                "ld" => AccessKind::Load,
                _ => AccessKind::Store,
            };
            let numbers: Vec<i64> = words.map(|word| word.parse().unwrap()).collect();
            let [bytes, passes, conflicts, addresses @ ..] = &*numbers else { panic!("{line}") };
            let requests: Vec<(u8, u64)> = (0..)
                .zip(addresses)
                .filter(|&(_, &address)| address >= 0)
                .map(|(lane, &address)| (lane, address as u64))
                .collect();
            let Wavefronts { taken, fewest } = shared_wavefronts(kind, &requests, *bytes as u32);
            assert_eq!((taken as i64, (taken - fewest) as i64), (*passes, *conflicts), "{line}");
            patterns += 1;
        }
        assert_eq!(patterns, 156);
    }

    #[test]
    fn lanes_that_stand_aside_cost_nothing() {
        let half: Vec<(u8, u64)> = (0..16).map(|lane| (lane, u64::from(lane) * 8)).collect();
        let passes = |requests| shared_wavefronts(AccessKind::Store, requests, 8);
        assert_eq!(passes(&half), Wavefronts { taken: 1, fewest: 1 });
        assert_eq!(passes(&[]), Wavefronts { taken: 0, fewest: 0 });
    }
}
