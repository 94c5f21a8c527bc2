//! Loads, stores and atomics.
//!
//! Every access is found good (bounds, alignment, initialised) before the monitor hears of it, and the monitor
//! hears of it before it takes effect.

use super::Context;
use crate::simulator::{
    fault::{FaultKind, Hazard, Space},
    instructions::{Address, Atomic, Load, Store},
    memory::{Cells, LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, space_of_generic, within},
    monitor::{AccessKind, Monitor, Order, Scope, Site, WarpAccess},
    numeric::atomic,
    registers::{Registers, Source, lanes},
    types::Type,
    warp::Warp,
};

/// What the monitor is told beside the addresses.
#[derive(Clone, Copy)]
pub(super) struct Manner {
    pub kind: AccessKind,
    pub order: Order,
    pub scope: Scope,
    pub non_coherent: bool,
}

/// The lanes of an access by the space they go to.
struct Spaces {
    of_space: [(Space, u32); 4],
    addresses: [u64; 32],
}

impl Address {
    /// The address of each lane.
    pub(super) fn of_lanes(
        &self,
        registers: &Registers,
        active: u32,
    ) -> Result<[u64; 32], Box<Hazard>> {
        registers.require(self.base, active)?;
        let base = match self.space {
            // Addresses of these spaces may come in 32 bits, to which the offset is added as such.
            Some(Space::Shared | Space::Local) if !matches!(self.base, Source::Long(_)) => {
                let words = registers.words_of(self.base);
                return Ok(words.map(|base| u64::from(base.wrapping_add(self.offset as u32))));
            }
            _ => registers.longs_of(self.base),
        };
        Ok(base.map(|base| base.wrapping_add_signed(self.offset)))
    }

    fn spaces(&self, registers: &Registers, active: u32) -> Result<Spaces, Box<Hazard>> {
        let mut addresses = self.of_lanes(registers, active)?;
        let mut of_space =
            [(Space::Global, 0), (Space::Shared, 0), (Space::Local, 0), (Space::Param, 0)];
        match self.space {
            Some(Space::Const) => of_space[0].1 = active,
            Some(space) => of_space[0] = (space, active),
            None => {
                for lane in lanes(active) {
                    let (at, window) = match space_of_generic(addresses[lane]) {
                        Space::Shared => (1, SHARED_WINDOW),
                        Space::Local => (2, LOCAL_WINDOW),
                        Space::Param => (3, PARAM_WINDOW),
                        _ => (0, 0),
                    };
                    addresses[lane] = addresses[lane].wrapping_sub(window);
                    of_space[at].1 |= 1 << lane;
                }
            }
        }
        Ok(Spaces { of_space, addresses })
    }
}

fn uninitialized(space: Space, address: u64, lane: usize, bytes: u32) -> Box<Hazard> {
    let hazard = Hazard::new(FaultKind::UninitializedMemory, format!("{bytes} bytes"));
    Box::new(hazard.at(space, address).of_lane(lane as u32))
}

impl<M: Monitor> Context<'_, '_, M> {
    /// The cells of one lane's access, and where in them.
    #[inline]
    fn place<'a>(
        &'a self,
        warp: &'a Warp,
        space: Space,
        lane: usize,
        address: u64,
        bytes: u32,
        writes: bool,
    ) -> Result<(&'a Cells, usize), Box<Hazard>> {
        let of_lane = |hazard: Hazard| Box::new(hazard.of_lane(lane as u32));
        match space {
            Space::Global | Space::Const => {
                self.launch.global.access(address, bytes, writes).map_err(of_lane)
            }
            Space::Shared => {
                let cells = &self.shared.cells;
                let at = within(space, cells.size(), address, bytes).map_err(of_lane)?;
                self.shared.is_settled(at, bytes as usize).map_err(of_lane)?;
                Ok((cells, at))
            }
            Space::Local => {
                let cells = &warp.local[lane];
                Ok((cells, within(space, cells.size(), address, bytes).map_err(of_lane)?))
            }
            Space::Param => {
                let cells = self.launch.params;
                if writes {
                    let hazard = Hazard::new(FaultKind::ReadOnly, "a parameter");
                    return Err(of_lane(hazard.at(space, address)));
                }
                Ok((cells, within(space, cells.size(), address, bytes).map_err(of_lane)?))
            }
        }
    }

    /// Finds the accesses of all lanes good and tells the monitor.
    fn admit(
        &mut self,
        warp: &Warp,
        site: Site,
        (space, active): (Space, u32),
        addresses: &[u64; 32],
        bytes: u32,
        manner: Manner,
    ) -> Result<(), Box<Hazard>> {
        for lane in lanes(active) {
            let address = addresses[lane];
            let writes = manner.kind.writes();
            let (cells, at) = self.place(warp, space, lane, address, bytes, writes)?;
            if manner.kind.reads() && !cells.is_written(at, bytes as usize) {
                return Err(uninitialized(space, address, lane, bytes));
            }
        }
        self.tell(site, (space, active), addresses, bytes, manner)
    }

    /// Tells the monitor of an access.
    pub(super) fn tell(
        &mut self,
        site: Site,
        (space, active): (Space, u32),
        addresses: &[u64; 32],
        bytes: u32,
        manner: Manner,
    ) -> Result<(), Box<Hazard>> {
        self.monitor
            .access(&WarpAccess {
                site,
                space,
                kind: manner.kind,
                order: manner.order,
                scope: manner.scope,
                bytes_per_lane: bytes,
                addresses,
                active,
                non_coherent: manner.non_coherent,
            })
            .map_err(Box::new)
    }

    /// `ld`.
    pub(super) fn load(
        &mut self,
        warp: &mut Warp,
        site: Site,
        load: &Load,
        active: u32,
    ) -> Result<(), Box<Hazard>> {
        if let (Some(Space::Param), Source::Constant(_)) = (load.address.space, load.address.base) {
            return self.load_parameter(warp, load, active);
        }
        let Spaces { of_space, addresses } = load.address.spaces(&warp.registers, active)?;
        let bytes = load.bytes * load.targets.len() as u32;
        let manner = Manner {
            kind: AccessKind::Load,
            order: load.order,
            scope: load.scope,
            non_coherent: load.non_coherent,
        };
        let mut values = [[0; 32]; 8];
        for (space, active) in of_space.into_iter().filter(|(_, active)| *active != 0) {
            self.admit(warp, site, (space, active), &addresses, bytes, manner)?;
            for lane in lanes(active) {
                let (cells, at) = self.place(warp, space, lane, addresses[lane], bytes, false)?;
                for (i, values) in values.iter_mut().enumerate().take(load.targets.len()) {
                    let at = at + i * load.bytes as usize;
                    values[lane] = cells.load(at, load.bytes as usize);
                }
            }
        }
        for (&target, values) in load.targets.iter().zip(&mut values) {
            if load.signed {
                let shift = 64 - 8 * load.bytes;
                values.iter_mut().for_each(|v| *v = ((*v << shift) as i64 >> shift) as u64);
            }
            warp.registers.set_longs(target, active, values);
        }
        Ok(())
    }

    /// A parameter is the same in all lanes, and always there.
    fn load_parameter(&self, warp: &mut Warp, load: &Load, active: u32) -> Result<(), Box<Hazard>> {
        let bytes = load.bytes * load.targets.len() as u32;
        let address = load.address.of_lanes(&warp.registers, active)?[0];
        let at = within(Space::Param, self.launch.params.size(), address, bytes)?;
        for (i, &target) in load.targets.iter().enumerate() {
            let value = self.launch.params.load(at + i * load.bytes as usize, load.bytes as usize);
            warp.registers.set_longs(target, active, &[value; 32]);
        }
        Ok(())
    }

    /// `st`.
    pub(super) fn store(
        &mut self,
        warp: &Warp,
        site: Site,
        store: &Store,
        active: u32,
    ) -> Result<(), Box<Hazard>> {
        let Spaces { of_space, addresses } = store.address.spaces(&warp.registers, active)?;
        let bytes = store.bytes * store.sources.len() as u32;
        let manner = Manner {
            kind: AccessKind::Store,
            order: store.order,
            scope: store.scope,
            non_coherent: false,
        };
        let mut values = [[0; 32]; 8];
        for (&source, values) in store.sources.iter().zip(&mut values) {
            warp.registers.require(source, active)?;
            *values = warp.registers.longs_of(source);
        }
        for (space, active) in of_space.into_iter().filter(|(_, active)| *active != 0) {
            self.admit(warp, site, (space, active), &addresses, bytes, manner)?;
            let mut changed = false;
            for lane in lanes(active) {
                let (cells, at) = self.place(warp, space, lane, addresses[lane], bytes, true)?;
                for (i, values) in values.iter().enumerate().take(store.sources.len()) {
                    let at = at + i * store.bytes as usize;
                    changed |= cells.store(at, store.bytes as usize, values[lane]);
                }
            }
            *self.progress |= changed;
        }
        Ok(())
    }

    /// `atom` and `red`: lane after lane, lowest first. The elements of a vector are atomic one by one.
    pub(super) fn atomic(
        &mut self,
        warp: &mut Warp,
        site: Site,
        atomic: &Atomic,
        active: u32,
    ) -> Result<(), Box<Hazard>> {
        let Spaces { of_space, addresses } = atomic.address.spaces(&warp.registers, active)?;
        let mut values = [[0; 32]; 4];
        for (&source, values) in atomic.b.iter().zip(&mut values) {
            warp.registers.require(source, active)?;
            *values = warp.registers.longs_of(source);
        }
        warp.registers.require(atomic.c, active)?;
        let c = warp.registers.longs_of(atomic.c);
        let element = atomic.kind.bytes();
        let bytes = (element * atomic.b.len()) as u32;
        let kind = if atomic.target.is_some() { AccessKind::Atomic } else { AccessKind::Reduction };
        let manner = Manner { kind, order: atomic.order, scope: atomic.scope, non_coherent: false };
        let mut old = [0; 32];
        for (space, active) in of_space.into_iter().filter(|(_, active)| *active != 0) {
            self.admit(warp, site, (space, active), &addresses, bytes, manner)?;
            let flushes = atomic.kind == Type::F32 && space == Space::Global;
            let mut changed = false;
            for lane in lanes(active) {
                let (cells, at) = self.place(warp, space, lane, addresses[lane], bytes, true)?;
                for (i, b) in values.iter().enumerate().take(atomic.b.len()) {
                    let at = at + i * element;
                    old[lane] = cells.load(at, element);
                    let (b, c) = (b[lane], c[lane]);
                    let new =
                        atomic::apply(atomic.operation, atomic.kind, flushes, old[lane], b, c);
                    changed |= cells.store(at, element, new);
                }
            }
            *self.progress |= changed;
        }
        if let Some(target) = atomic.target {
            warp.registers.set_longs(target, active, &old);
        }
        Ok(())
    }
}
