//! `ldmatrix` and `stmatrix`.

use super::{Context, access::Manner};
use crate::simulator::{
    fault::{FaultKind, Hazard, Space},
    instructions::{Address, MatrixLoad, MatrixStore},
    memory::{SHARED_WINDOW, within},
    monitor::{AccessKind, Monitor, Order, Scope, Site},
    numeric::tensor::matrix::{address_lane, place},
    registers::{FULL, lanes},
    warp::Warp,
};

/// Bytes of a matrix's row.
const ROW: u32 = 16;

impl<M: Monitor> Context<'_, '_, M> {
    /// Loads one to four 8 × 8 matrices, whose rows lie where lanes 0–7, 8–15, 16–23 and 24–31 say.
    pub(super) fn load_matrix(
        &mut self,
        warp: &mut Warp,
        site: Site,
        load: &MatrixLoad,
        active: u32,
    ) -> Result<(), Box<Hazard>> {
        let (kind, count) = (AccessKind::Load, load.targets.len());
        let addresses = self.rows(warp, site, &load.address, count, active, kind)?;
        for (matrix, &target) in load.targets.iter().enumerate() {
            let element = |lane: usize, i: usize| {
                let (row, byte) = place(lane, i, load.transposed);
                let start = addresses[address_lane(matrix, row)] as usize;
                self.shared.cells.load(start + byte, 2) as u32
            };
            let values = std::array::from_fn(|lane| element(lane, 0) | element(lane, 1) << 16);
            warp.registers.set_words(target, active, &values);
        }
        Ok(())
    }

    /// Stores one to four 8 × 8 matrices to such rows.
    pub(super) fn store_matrix(
        &mut self,
        warp: &Warp,
        site: Site,
        store: &MatrixStore,
        active: u32,
    ) -> Result<(), Box<Hazard>> {
        for &source in &store.sources {
            warp.registers.require(source, active)?;
        }
        let (kind, count) = (AccessKind::Store, store.sources.len());
        let addresses = self.rows(warp, site, &store.address, count, active, kind)?;
        let mut changed = false;
        for (matrix, &source) in store.sources.iter().enumerate() {
            let values = warp.registers.words_of(source);
            for (lane, i) in (0..32).flat_map(|lane| [(lane, 0), (lane, 1)]) {
                let (row, byte) = place(lane, i, store.transposed);
                let start = addresses[address_lane(matrix, row)] as usize;
                let half = values[lane] >> (16 * i) & 0xffff;
                changed |= self.shared.cells.store(start + byte, 2, half.into());
            }
        }
        *self.progress |= changed;
        Ok(())
    }

    /// Where the rows of `count` matrices lie, found good, and told to the monitor.
    fn rows(
        &mut self,
        warp: &Warp,
        site: Site,
        address: &Address,
        count: usize,
        active: u32,
        kind: AccessKind,
    ) -> Result<[u64; 32], Box<Hazard>> {
        let rows = FULL >> (32 - 8 * count);
        if active != FULL {
            let note = format!("lanes {active:#010x} alone");
            return Err(Box::new(Hazard::new(FaultKind::WrongMask, note)));
        }
        let mut addresses = address.of_lanes(&warp.registers, rows)?;
        if address.space.is_none() {
            addresses = addresses.map(|address| address.wrapping_sub(SHARED_WINDOW));
        }
        let size = self.shared.cells.size();
        for lane in lanes(rows) {
            let of_lane = |hazard: Hazard| Box::new(hazard.of_lane(lane as u32));
            let at = within(Space::Shared, size, addresses[lane], ROW).map_err(of_lane)?;
            self.shared.is_settled(at, ROW as usize).map_err(of_lane)?;
            if kind.reads() && !self.shared.cells.is_written(at, ROW as usize) {
                let hazard = Hazard::new(FaultKind::UninitializedMemory, "a matrix row");
                return Err(of_lane(hazard.at(Space::Shared, addresses[lane])));
            }
        }
        let (order, scope) = (Order::Weak, Scope::Block);
        let manner = Manner { kind, order, scope, non_coherent: false };
        self.tell(site, (Space::Shared, rows), &addresses, ROW, manner)?;
        Ok(addresses)
    }
}
