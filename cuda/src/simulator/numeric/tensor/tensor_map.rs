//! Tensor maps: what `cp.async.bulk.tensor` copies, described by ourselves because the driver's 128 bytes are
//! opaque. Both executors build theirs from it.

use super::Swizzle;

/// What the elements outside the tensor read as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Fill {
    /// Zeros.
    #[default]
    Zeros,
    /// A NaN of the element's type, of floating-point tensors only.
    Nan,
}

/// How channels are interleaved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Interleave {
    /// Not at all.
    #[default]
    None,
}

/// What the L2 cache fetches from memory at a time. It says nothing of what is copied, and the simulator has no such cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Fetch {
    /// 256 bytes.
    #[default]
    Bytes256,
    /// 128 bytes.
    Bytes128,
}

/// A tiled tensor map. Dimension 0 is the contiguous one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TensorMap {
    /// Address of the tensor in global memory; a multiple of 16.
    pub address: u64,
    /// Size of an element in bytes: 1, 2, 4 or 8.
    pub element_bytes: u32,
    /// Elements along each of 1 to 5 dimensions.
    pub dims: Vec<u64>,
    /// Bytes between neighbours along dimensions 1, 2, …: one fewer than `dims`; multiples of 16.
    pub strides_bytes: Vec<u64>,
    /// Elements that a copy traverses along each dimension, at most 256.
    pub box_dims: Vec<u32>,
    /// Of those, each how many-th is copied. The copy engine skips nothing along dimension 0, whatever stands
    /// there, unless channels are interleaved.
    pub element_strides: Vec<u32>,
    /// Swizzle of the shared-memory side.
    pub swizzle: Swizzle,
    /// Interleaving of the channels.
    pub interleave: Interleave,
    /// What lies outside.
    pub fill: Fill,
    /// How much is fetched from memory at a time.
    pub fetch: Fetch,
}

/// Some bytes of a copy, at most 16 and within one chunk of the swizzle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Piece {
    /// Address in shared memory.
    pub shared: u32,
    /// Address in global memory; none outside the tensor, where reads give the fill and writes do nothing.
    pub global: Option<u64>,
    /// Number of bytes.
    pub bytes: u32,
}

/// Begins the bytes that stand for a map in simulated memory.
const TOKEN: u64 = 0x7370_616d_726f_736e;

impl TensorMap {
    /// Size of a map as a parameter of a kernel.
    pub const PARAMETER_BYTES: usize = 128;

    /// The first bytes that stand for map number `index` of a plan in simulated memory.
    pub fn token(index: usize) -> [u8; 16] {
        ((index as u128) << 64 | u128::from(TOKEN)).to_le_bytes()
    }

    /// The number of the map that such bytes stand for.
    pub fn index_of(token: [u8; 16]) -> Option<usize> {
        let bits = u128::from_le_bytes(token);
        (bits as u64 == TOKEN).then_some((bits >> 64) as usize)
    }

    /// The first rule of `cuTensorMapEncodeTiled` that the description breaks.
    ///
    /// # Errors
    /// A sentence that names the rule.
    pub fn validate(&self) -> Result<(), String> {
        let rank = self.dims.len();
        let rule = |holds: bool, text: &str| if holds { Ok(()) } else { Err(text.to_owned()) };
        rule((1..=5).contains(&rank), "a tensor has 1 to 5 dimensions")?;
        rule(self.strides_bytes.len() + 1 == rank, "there is one stride fewer than dimensions")?;
        rule(self.box_dims.len() == rank, "the box has as many dimensions as the tensor")?;
        rule(self.element_strides.len() == rank, "each dimension has an element stride")?;
        rule(matches!(self.element_bytes, 1 | 2 | 4 | 8), "an element has 1, 2, 4 or 8 bytes")?;
        rule(self.address.is_multiple_of(16), "the address is a multiple of 16")?;
        rule(self.dims.iter().all(|dim| (1..=1 << 32).contains(dim)), "a size is 1 to 2^32")?;
        let stride = |stride: &u64| stride.is_multiple_of(16) && *stride < 1 << 40;
        rule(self.strides_bytes.iter().all(stride), "a stride is a multiple of 16 below 2^40")?;
        rule(self.box_dims.iter().all(|dim| (1..=256).contains(dim)), "a box size is 1 to 256")?;
        rule(
            self.element_strides.iter().all(|stride| (1..=8).contains(stride)),
            "an element stride is 1 to 8",
        )?;
        let inner = self.copied(0) * self.element_bytes;
        rule(inner.is_multiple_of(16), "the box's rows are multiples of 16 bytes")?;
        rule(
            self.swizzle == Swizzle::None || inner <= self.swizzle.row_bytes(),
            "the box's rows are not wider than the swizzle",
        )
    }

    /// Elements along dimension `dimension` that a copy moves.
    pub fn copied(&self, dimension: usize) -> u32 {
        self.box_dims[dimension].div_ceil(self.step(dimension))
    }

    /// Elements from one that is copied to the next.
    fn step(&self, dimension: usize) -> u32 {
        if dimension == 0 { 1 } else { self.element_strides[dimension].max(1) }
    }

    /// Bytes that a copy moves, those outside the tensor included: what it adds to a barrier's count.
    pub fn box_bytes(&self) -> u32 {
        (0..self.dims.len()).map(|dimension| self.copied(dimension)).product::<u32>()
            * self.element_bytes
    }

    /// The bytes of `element_bytes` that an element outside the tensor reads as.
    pub fn fill_bytes(&self) -> u64 {
        match (self.fill, self.element_bytes) {
            (Fill::Zeros, _) => 0,
            // As an H200 fills tensors of f16; of other sizes none was seen.
            (Fill::Nan, 2) => 0x7ff7,
            (Fill::Nan, 8) => 0x7fff_ffff_ffff_ffff,
            (Fill::Nan, _) => 0x7fff_ffff,
        }
    }

    /// Calls `each` for all bytes of the box that starts at `coordinates` (which may be negative), laid out in
    /// shared memory from `shared` on: row by row, dimension 0 fastest, then swizzled by address. Rows narrower than
    /// the swizzle leave a gap.
    pub fn traverse(&self, coordinates: &[i32], shared: u32, each: impl FnMut(Piece)) {
        self.walk(coordinates, shared, 1, each);
    }

    /// The same of a box that is stored. An H200 writes whole units of 16 bytes: where a row of the tensor ends
    /// within one, what follows the row is overwritten.
    pub fn traverse_stored(&self, coordinates: &[i32], shared: u32, each: impl FnMut(Piece)) {
        self.walk(coordinates, shared, 16 / u64::from(self.element_bytes.max(1)), each);
    }

    /// Along dimension 0 the tensor ends with a whole `unit` of elements.
    fn walk(&self, coordinates: &[i32], shared: u32, unit: u64, mut each: impl FnMut(Piece)) {
        let rank = self.dims.len().min(coordinates.len());
        if rank == 0 {
            return;
        }
        let rows: u32 = (1..rank).map(|dimension| self.copied(dimension)).product();
        let pitch = match self.swizzle {
            Swizzle::None => self.copied(0) * self.element_bytes,
            swizzle => swizzle.row_bytes(),
        };
        let end = self.dims[0].next_multiple_of(unit) as i64;
        for row in 0..rows {
            let mut rest = row;
            let mut base = Some(self.address);
            for (dimension, coordinate) in coordinates.iter().enumerate().take(rank).skip(1) {
                let count = self.copied(dimension);
                let step = i64::from(rest % count) * i64::from(self.step(dimension));
                rest /= count;
                let index = i64::from(*coordinate) + step;
                base = base.filter(|_| (0..self.dims[dimension] as i64).contains(&index)).map(
                    |base| {
                        base.wrapping_add(
                            (index as u64).wrapping_mul(self.strides_bytes[dimension - 1]),
                        )
                    },
                );
            }
            let start = shared.wrapping_add(row * pitch);
            self.traverse_row((coordinates[0], end), base, start, &mut each);
        }
    }

    /// One row of a box. Neighbours in the same chunk that lie side by side in both memories go together.
    fn traverse_row(
        &self,
        (first, end): (i32, i64),
        base: Option<u64>,
        shared: u32,
        each: &mut impl FnMut(Piece),
    ) {
        let bytes = self.element_bytes;
        let mut pending: Option<Piece> = None;
        for i in 0..self.copied(0) {
            let index = i64::from(first) + i64::from(i);
            let inside = (0..end).contains(&index);
            let global = base
                .filter(|_| inside)
                .map(|base| base.wrapping_add((index as u64).wrapping_mul(bytes.into())));
            let place = self.swizzle.apply(shared.wrapping_add(i * bytes));
            let next = Piece { shared: place, global, bytes };
            pending = match pending {
                Some(piece) if piece.is_followed_by(&next) => {
                    Some(Piece { bytes: piece.bytes + bytes, ..piece })
                }
                piece => {
                    piece.into_iter().for_each(&mut *each);
                    Some(next)
                }
            };
        }
        pending.into_iter().for_each(each);
    }
}

impl Piece {
    fn is_followed_by(&self, next: &Self) -> bool {
        let beside = match (self.global, next.global) {
            (Some(a), Some(b)) => a.wrapping_add(self.bytes.into()) == b,
            (None, None) => true,
            _ => false,
        };
        beside
            && self.shared.wrapping_add(self.bytes) == next.shared
            && !next.shared.is_multiple_of(16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tile(swizzle: Swizzle) -> TensorMap {
        TensorMap {
            address: 0x1000,
            element_bytes: 2,
            dims: vec![100, 10],
            strides_bytes: vec![208],
            box_dims: vec![64, 8],
            element_strides: vec![1, 1],
            swizzle,
            ..TensorMap::default()
        }
    }

    #[test]
    fn a_box_inside_is_copied_row_by_row() {
        let mut pieces = vec![];
        tile(Swizzle::None).traverse(&[8, 1], 0x400, |piece| pieces.push(piece));
        assert_eq!(pieces.len(), 64);
        assert_eq!(pieces[0], Piece { shared: 0x400, global: Some(0x1000 + 208 + 16), bytes: 16 });
        assert_eq!(pieces[8].global, Some(0x1000 + 2 * 208 + 16));
        assert_eq!(
            pieces.iter().map(|piece| piece.bytes).sum::<u32>(),
            tile(Swizzle::None).box_bytes()
        );
    }

    #[test]
    fn outside_the_tensor_there_is_no_address() {
        let mut inside = 0;
        tile(Swizzle::Bytes128).traverse(&[-3, 7], 0, |piece| {
            inside += piece.global.map_or(0, |_| piece.bytes);
        });
        // Of 64 columns the first 3 lie before the tensor, of 8 rows 3 lie in it.
        assert_eq!(inside, 61 * 2 * 3);
    }

    #[test]
    fn element_strides_skip_rows_but_not_columns() {
        let map = TensorMap { element_strides: vec![2, 2], ..tile(Swizzle::None) };
        let mut addresses = vec![];
        map.traverse(&[0, 0], 0, |piece| addresses.extend(piece.global));
        assert_eq!((map.copied(0), map.copied(1)), (64, 4));
        assert_eq!(addresses[..2], [0x1000, 0x1010]);
        assert_eq!(addresses[8], 0x1000 + 2 * 208);
        assert!(map.validate().is_ok());
    }

    #[test]
    fn rows_narrower_than_the_swizzle_leave_a_gap() {
        let map = TensorMap { box_dims: vec![32, 2], ..tile(Swizzle::Bytes128) };
        let mut places = vec![];
        map.traverse(&[0, 0], 0, |piece| places.push(piece.shared));
        assert_eq!(places, [0, 16, 32, 48, 128 + 16, 128, 128 + 48, 128 + 32]);
        assert_eq!(map.box_bytes(), 128);
    }

    #[test]
    fn a_stored_row_ends_with_a_whole_unit() {
        let bytes = |stored: bool| {
            let (map, mut count) = (tile(Swizzle::None), 0);
            let add = |piece: Piece| count += piece.global.map_or(0, |_| piece.bytes);
            match stored {
                true => map.traverse_stored(&[88, 0], 0, add),
                false => map.traverse(&[88, 0], 0, add),
            }
            count
        };
        assert_eq!((bytes(false), bytes(true)), (8 * 24, 8 * 32));
    }

    #[test]
    fn every_byte_of_the_box_is_written_once() {
        for swizzle in [Swizzle::None, Swizzle::Bytes128] {
            let mut seen = vec![0; 1024];
            tile(swizzle).traverse(&[60, 5], 1024, |piece| {
                for byte in piece.shared..piece.shared + piece.bytes {
                    seen[byte as usize - 1024] += 1;
                }
            });
            assert!(seen.iter().all(|count| *count == 1), "{swizzle:?}");
        }
    }

    #[test]
    fn a_token_names_its_map() {
        assert_eq!(TensorMap::index_of(TensorMap::token(7)), Some(7));
        assert_eq!(TensorMap::index_of([0; 16]), None);
    }

    #[test]
    fn rules_are_named() {
        let wide = TensorMap { swizzle: Swizzle::Bytes64, ..tile(Swizzle::None) };
        assert!(wide.validate().unwrap_err().contains("swizzle"));
        let odd = TensorMap { address: 8, ..tile(Swizzle::None) };
        assert!(odd.validate().unwrap_err().contains("multiple of 16"));
    }
}
