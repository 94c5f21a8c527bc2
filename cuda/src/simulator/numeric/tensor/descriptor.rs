//! Matrix operands of `wgmma` in shared memory: descriptors, swizzles, and the address of each element.

/// A swizzle: which bits of an address are XORed into its 16-byte chunk number (bits 4 to 6), so that the rows of
/// a tile fall on different banks. It acts on the address itself, not on an offset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Swizzle {
    /// Addresses as they are.
    #[default]
    None,
    /// Bit 7 into bit 4: a pattern of 256 bytes, rows of 32.
    Bytes32,
    /// Bits 7 and 8 into bits 4 and 5: a pattern of 512 bytes, rows of 64.
    Bytes64,
    /// Bits 7 to 9 into bits 4 to 6: a pattern of 1024 bytes, rows of 128.
    Bytes128,
}

impl Swizzle {
    /// Width in bytes of a row of the pattern; 16 without one.
    pub const fn row_bytes(self) -> u32 {
        match self {
            Self::None => 16,
            Self::Bytes32 => 32,
            Self::Bytes64 => 64,
            Self::Bytes128 => 128,
        }
    }

    /// The place where the byte of address `address` really lies.
    #[inline]
    pub const fn apply(self, address: u32) -> u32 {
        let mask = (self.row_bytes() / 16 - 1) << 4;
        address ^ ((address >> 3) & mask)
    }
}

/// Which dimension of an operand is contiguous in shared memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Major {
    /// K is (A row-major, B column-major): `imm-trans` 0.
    #[default]
    K,
    /// M or N is: `imm-trans` 1, for 16-bit elements only.
    Mn,
}

/// A `wgmma` matrix descriptor. Addresses and offsets are in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Descriptor {
    /// Start of the matrix in shared memory.
    pub start: u32,
    /// Leading-dimension byte offset.
    pub leading: u32,
    /// Stride-dimension byte offset.
    pub stride: u32,
    /// Row of the swizzle's pattern in which the pattern starts, when it is not aligned to its own size.
    pub base_offset: u32,
    /// Swizzle.
    pub swizzle: Swizzle,
}

impl Descriptor {
    /// The fields of a 64-bit descriptor: bits 0–13, 16–29 and 32–45 are byte counts divided by 16.
    pub const fn decode(bits: u64) -> Self {
        Self {
            start: (bits as u32 & 0x3fff) << 4,
            leading: ((bits >> 16) as u32 & 0x3fff) << 4,
            stride: ((bits >> 32) as u32 & 0x3fff) << 4,
            base_offset: (bits >> 49) as u32 & 7,
            swizzle: match bits >> 62 {
                0 => Swizzle::None,
                1 => Swizzle::Bytes128,
                2 => Swizzle::Bytes64,
                _ => Swizzle::Bytes32,
            },
        }
    }

    /// The 64-bit descriptor.
    pub const fn encode(self) -> u64 {
        let mode = match self.swizzle {
            Swizzle::None => 0,
            Swizzle::Bytes128 => 1,
            Swizzle::Bytes64 => 2,
            Swizzle::Bytes32 => 3,
        };
        ((self.start >> 4) as u64 & 0x3fff)
            | ((self.leading >> 4) as u64 & 0x3fff) << 16
            | ((self.stride >> 4) as u64 & 0x3fff) << 32
            | (self.base_offset as u64 & 7) << 49
            | mode << 62
    }

    /// Shared-memory address of the element at `mn` along M or N and `k` along K, whose size is `bytes`.
    ///
    /// K-major: core matrices are 8 rows (along MN) of 16 bytes (along K). Groups of 8 rows are `stride` apart.
    /// Without swizzle the rows of a core matrix are 16 bytes apart and core matrices that follow along K are
    /// `leading` apart; with one, a row of the pattern holds the following core matrices too, and `leading` is not
    /// read.
    ///
    /// MN-major: core matrices are 8 rows (along K) of 16 bytes (along MN). Without swizzle core matrices that
    /// follow along MN are `stride` apart and along K `leading`. With one, a row of the pattern spans its width
    /// along MN; further columns along MN are `leading` on, groups of 8 rows along K `stride` on.
    pub const fn address(self, major: Major, bytes: u32, mn: u32, k: u32) -> u32 {
        let row_bytes = self.swizzle.row_bytes();
        let none = matches!(self.swizzle, Swizzle::None);
        let offset = match major {
            Major::K => {
                let along = k * bytes;
                let group = mn / 8 * self.stride + mn % 8 * row_bytes;
                if none { group + along / 16 * self.leading + along % 16 } else { group + along }
            }
            Major::Mn => {
                let along = mn * bytes;
                let inside = along % row_bytes + k % 8 * row_bytes;
                if none {
                    inside + along / 16 * self.stride + k / 8 * self.leading
                } else {
                    inside + along / row_bytes * self.leading + k / 8 * self.stride
                }
            }
        };
        let address = self.start.wrapping_add(offset);
        // A pattern that starts in row `base_offset` of an aligned one is shifted back by those rows.
        let mask = (row_bytes / 16 - 1) << 4;
        let row = address.wrapping_sub(self.base_offset << 7);
        (address ^ ((row >> 3) & mask)) & 0x3_ffff
    }

    /// All elements of an operand of `count` rows along M or N and `k` columns along K, row by row, as
    /// [`super::Product::multiply`] takes them; `read` is given the address and the size of each.
    pub fn gather(
        self,
        major: Major,
        bytes: u32,
        count: u32,
        k: u32,
        mut read: impl FnMut(u32, u32) -> u32,
    ) -> Vec<u32> {
        let places = (0..count).flat_map(|mn| (0..k).map(move |k| (mn, k)));
        places.map(|(mn, k)| read(self.address(major, bytes, mn, k), bytes)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_survives_encoding() {
        let descriptor = Descriptor {
            start: 0x1_2340,
            leading: 16,
            stride: 1024,
            base_offset: 3,
            swizzle: Swizzle::Bytes64,
        };
        assert_eq!(Descriptor::decode(descriptor.encode()), descriptor);
        assert_eq!(descriptor.encode() >> 62, 2);
    }

    #[test]
    fn swizzle_128_moves_chunks_by_the_row() {
        // Row 1 of a 1024-byte pattern: chunk 0 lies where chunk 1 would.
        assert_eq!(Swizzle::Bytes128.apply(128), 128 + 16);
        assert_eq!(Swizzle::Bytes128.apply(7 * 128 + 112), 7 * 128);
        assert_eq!(Swizzle::Bytes64.apply(256 + 48), 256 + 16);
        assert_eq!(Swizzle::Bytes32.apply(128 + 16), 128);
        assert_eq!(Swizzle::None.apply(0x3f8), 0x3f8);
    }

    #[test]
    fn every_swizzle_is_its_own_inverse() {
        for swizzle in [Swizzle::None, Swizzle::Bytes32, Swizzle::Bytes64, Swizzle::Bytes128] {
            for address in 0..4096 {
                assert_eq!(swizzle.apply(swizzle.apply(address)), address);
            }
        }
    }

    #[test]
    fn no_two_elements_of_a_tile_share_an_address() {
        let tiles = [
            (Swizzle::None, Major::K, 128, 256),
            (Swizzle::Bytes32, Major::K, 0, 256),
            (Swizzle::Bytes64, Major::K, 0, 512),
            (Swizzle::Bytes128, Major::K, 0, 1024),
            (Swizzle::None, Major::Mn, 1024, 128),
            (Swizzle::Bytes32, Major::Mn, 512, 256),
            (Swizzle::Bytes64, Major::Mn, 1024, 512),
            (Swizzle::Bytes128, Major::Mn, 2048, 1024),
        ];
        for (swizzle, major, leading, stride) in tiles {
            let tile = Descriptor { start: 2048, leading, stride, base_offset: 0, swizzle };
            let mut seen = std::collections::HashSet::new();
            for (mn, k) in (0..64).flat_map(|mn| (0..16).map(move |k| (mn, k))) {
                let address = tile.address(major, 2, mn, k);
                assert!(address.is_multiple_of(2) && address >= 2048, "{swizzle:?} {major:?}");
                assert!(seen.insert(address), "{swizzle:?} {major:?} ({mn}, {k})");
            }
        }
    }

    #[test]
    fn a_swizzled_row_advances_by_its_start_address() {
        // The usual walk along K adds 32 bytes to the start for each 16 halves of a 128-byte row.
        let whole = Descriptor {
            start: 1024,
            stride: 1024,
            swizzle: Swizzle::Bytes128,
            ..Descriptor::default()
        };
        let second = Descriptor { start: 1024 + 32, ..whole };
        for mn in 0..64 {
            for k in 0..16 {
                assert_eq!(
                    second.address(Major::K, 2, mn, k),
                    whole.address(Major::K, 2, mn, k + 16)
                );
            }
        }
    }
}
