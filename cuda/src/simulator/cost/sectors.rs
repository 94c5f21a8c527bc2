//! Sectors of global memory: the caches move 32 bytes at a time, whatever a thread asks for.

/// Bytes of a sector.
pub const SECTOR_BYTES: u64 = 32;

/// Sectors touched by one request of a warp: lane and address of every thread that takes part, and how many
/// bytes each touches.
///
/// A sector that several threads touch counts once, as in `l1tex__t_sectors`.
pub fn sectors(requests: &[(u8, u64)], bytes: u32) -> u64 {
    let mut touched = [0u64; 64];
    let mut count = 0;
    for &(_, address) in requests {
        let last = (address + u64::from(bytes.max(1)) - 1) / SECTOR_BYTES;
        for sector in address / SECTOR_BYTES..=last {
            // Neighbouring threads mostly share their sector: look at the newest first.
            if !touched[..count].iter().rev().any(|&known| known == sector) {
                touched[count] = sector;
                count += 1;
            }
        }
    }
    count as u64
}

/// Sectors that ranges of bytes touch together; the ranges ascend and do not overlap.
pub fn sectors_of_ranges(ranges: &[(u64, u32)]) -> u64 {
    let (mut count, mut next) = (0, 0);
    for &(address, bytes) in ranges.iter().filter(|(_, bytes)| *bytes > 0) {
        let first = (address / SECTOR_BYTES).max(next);
        next = (address + u64::from(bytes) - 1) / SECTOR_BYTES + 1;
        count += next.saturating_sub(first);
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strided(stride: u64, start: u64) -> Vec<(u8, u64)> {
        (0..32).map(|lane| (lane, start + u64::from(lane) * stride)).collect()
    }

    #[test]
    fn a_warp_of_neighbouring_words_touches_four_sectors() {
        assert_eq!(sectors(&strided(4, 256), 4), 4);
        assert_eq!(sectors(&strided(4, 260), 4), 5);
        assert_eq!(sectors(&strided(2, 256), 2), 2);
        assert_eq!(sectors(&strided(8, 256), 8), 8);
        assert_eq!(sectors(&strided(16, 256), 16), 16);
    }

    #[test]
    fn neighbouring_ranges_share_a_sector() {
        assert_eq!(sectors_of_ranges(&[(0, 16), (16, 16), (48, 32), (96, 1)]), 4);
        assert_eq!(sectors_of_ranges(&[]), 0);
    }

    #[test]
    fn scattered_and_shared_addresses() {
        assert_eq!(sectors(&strided(0, 64), 4), 1);
        assert_eq!(sectors(&strided(128, 0), 4), 32);
        assert_eq!(sectors(&strided(32, 0), 1), 32);
        assert_eq!(sectors(&[(0, 0)], 16), 1);
        assert_eq!(sectors(&[], 4), 0);
    }
}
