//! `cp.async.bulk`: the copy engine reads the source at once, and the copy lands later.

use super::Context;
use crate::simulator::{
    bulk::{Counted, InFlight},
    fault::{FaultKind, Hazard, Space},
    instructions::{Address, BulkCopy, Place},
    mbarrier::BYTES,
    memory::{PARAM_WINDOW, space_of_generic, within},
    monitor::{BulkAccess, Monitor, Site},
    numeric::tensor::{TensorMap, tensor_map::Piece},
    registers::lanes,
    warp::Warp,
};

/// Alignment of addresses and sizes without a tensor map.
const UNIT: u32 = 16;
/// Alignment of a box in shared memory.
const TILE_ALIGN: u64 = 128;
/// Alignment of a tensor map.
const MAP_ALIGN: u64 = 64;

/// Bytes that go from one place to another; a side outside of the tensor is none.
#[derive(Clone, Copy)]
struct Stretch {
    from: Option<u64>,
    to: Option<u64>,
    bytes: u32,
}

/// What one lane asks of the copy engine.
struct Request<'m> {
    from: Space,
    to: Space,
    stretches: Vec<Stretch>,
    /// Bytes of the box, outside of the tensor or not.
    bytes: u32,
    /// Whose fill stands outside of the tensor.
    map: Option<&'m TensorMap>,
}

fn misaligned(space: Space, address: u64, to: u64) -> Hazard {
    let note = format!("a bulk copy needs a multiple of {to}");
    Hazard::new(FaultKind::Misaligned, note).at(space, address)
}

/// Ranges by address, with neighbours joined.
fn joined(mut ranges: Vec<(u64, u32)>) -> Vec<(u64, u32)> {
    ranges.sort_unstable();
    let mut all: Vec<(u64, u32)> = Vec::new();
    for (at, bytes) in ranges {
        match all.last_mut() {
            Some((start, length)) if *start + u64::from(*length) == at => *length += bytes,
            _ => all.push((at, bytes)),
        }
    }
    all
}

impl<'l, M: Monitor> Context<'_, 'l, M> {
    /// Each active lane asks for a copy.
    pub(super) fn bulk_copy(
        &mut self,
        warp: &Warp,
        site: Site,
        copy: &BulkCopy,
        active: u32,
    ) -> Result<(), Box<Hazard>> {
        for lane in lanes(active) {
            self.bulk_copy_of(warp, site, copy, lane).map_err(|mut hazard| {
                hazard.lane.get_or_insert(lane as u32);
                hazard
            })?;
        }
        Ok(())
    }

    fn bulk_copy_of(
        &mut self,
        warp: &Warp,
        site: Site,
        copy: &BulkCopy,
        lane: usize,
    ) -> Result<(), Box<Hazard>> {
        let request = self.request(warp, copy, lane)?;
        let data = self.read_sources(&request)?;
        for (at, bytes) in request.targets() {
            match request.to {
                Space::Shared => self.settled_bytes(at, bytes)?,
                _ => {
                    self.launch.global.span(at, bytes, true)?;
                }
            }
        }
        let thread = 32 * site.warp + lane as u32;
        let counted = match &copy.barrier {
            None => Counted::Group { thread, group: self.engine.group(thread) },
            Some(address) => {
                let address = address.in_shared(&warp.registers, 1 << lane)?[lane];
                let size = self.shared.cells.size();
                let at = within(Space::Shared, size, address, BYTES as u32)?;
                Counted::Mbarrier { at, phase: self.shared.mbarrier(at)?.phase }
            }
        };
        let (sources, targets) =
            (joined(request.sources().collect()), joined(request.targets().collect()));
        let access = BulkAccess {
            site,
            lane: lane as u32,
            source: (request.from, &sources),
            target: (request.to, &targets),
            counted,
        };
        self.monitor.bulk_copy(&access)?;
        if request.to == Space::Shared {
            targets.iter().for_each(|&(at, n)| self.shared.begin_copy(at as usize, n as usize));
        }
        self.engine.push(InFlight {
            site,
            lane: lane as u32,
            counted,
            space: request.to,
            targets: request.targets().collect(),
            data,
            bytes: request.bytes,
            has_read: false,
        });
        Ok(())
    }

    /// The bytes of all targets, one after the other.
    fn read_sources(&self, request: &Request<'_>) -> Result<Vec<u8>, Hazard> {
        let mut data = Vec::new();
        for stretch in request.stretches.iter().filter(|stretch| stretch.to.is_some()) {
            let (start, bytes) = (data.len(), stretch.bytes);
            let Some(address) = stretch.from else {
                let map = request.map.map_or((0, 1), |m| (m.fill_bytes(), m.element_bytes));
                let element = map.0.to_le_bytes();
                data.extend((0..bytes).map(|i| element[(i % map.1) as usize]));
                continue;
            };
            let (cells, at) = match request.from {
                Space::Shared => {
                    self.settled_bytes(address, bytes)?;
                    (&self.shared.cells, address as usize)
                }
                _ => self.launch.global.span(address, bytes, false)?,
            };
            if !cells.is_all_written(at, bytes as usize) {
                let hazard = Hazard::new(FaultKind::UninitializedMemory, format!("{bytes} bytes"));
                return Err(hazard.at(request.from, address));
            }
            data.resize(start + bytes as usize, 0);
            cells.read(at, &mut data[start..]);
        }
        Ok(data)
    }

    /// Bytes of shared memory that exist and that no copy is under way to.
    fn settled_bytes(&self, at: u64, bytes: u32) -> Result<(), Hazard> {
        let size = self.shared.cells.size();
        if at.checked_add(bytes.into()).is_none_or(|end| end > size as u64) {
            let note = format!("{bytes} bytes of a bulk copy; the space has {size} bytes");
            return Err(Hazard::new(FaultKind::OutOfBounds, note).at(Space::Shared, at));
        }
        self.shared.is_settled(at as usize, bytes as usize)
    }

    /// What a lane asks for, with the alignments found good.
    fn request(
        &self,
        warp: &Warp,
        copy: &BulkCopy,
        lane: usize,
    ) -> Result<Request<'l>, Box<Hazard>> {
        match (&copy.to, &copy.from) {
            (Place::Bytes(to, count), Place::Bytes(from, _)) => {
                warp.registers.require(*count, 1 << lane)?;
                let bytes = warp.registers.words_of(*count)[lane];
                let (to, from) = (self.flat(warp, to, lane)?, self.flat(warp, from, lane)?);
                for (space, address) in [to, from, (to.0, bytes.into())] {
                    if !address.is_multiple_of(UNIT.into()) {
                        return Err(Box::new(misaligned(space, address, UNIT.into())));
                    }
                }
                let stretch = Stretch { from: Some(from.1), to: Some(to.1), bytes };
                let stretches = if bytes == 0 { vec![] } else { vec![stretch] };
                Ok(Request { from: from.0, to: to.0, stretches, bytes, map: None })
            }
            (Place::Tile(tile), Place::Box(map, corner)) => {
                self.boxed(warp, (map, corner), tile, lane, true)
            }
            (Place::Box(map, corner), Place::Tile(tile)) => {
                self.boxed(warp, (map, corner), tile, lane, false)
            }
            _ => {
                let note = "a bulk copy between two boxes";
                Err(Box::new(Hazard::new(FaultKind::Undefined, note)))
            }
        }
    }

    /// The space and the address in it of a lane.
    fn flat(
        &self,
        warp: &Warp,
        address: &Address,
        lane: usize,
    ) -> Result<(Space, u64), Box<Hazard>> {
        let value = address.of_lanes(&warp.registers, 1 << lane)?[lane];
        Ok(match address.space {
            Some(space) => (space, value),
            None => (Space::Global, value),
        })
    }

    fn boxed(
        &self,
        warp: &Warp,
        (map, corner): (&Address, &[crate::simulator::registers::Source]),
        tile: &Address,
        lane: usize,
        loads: bool,
    ) -> Result<Request<'l>, Box<Hazard>> {
        let mut coordinates = Vec::new();
        for source in corner {
            warp.registers.require(*source, 1 << lane)?;
            coordinates.push(warp.registers.words_of(*source)[lane] as i32);
        }
        let map = self.tensor_map(map.of_lanes(&warp.registers, 1 << lane)?[lane])?;
        let undefined = |note: String| Err(Box::new(Hazard::new(FaultKind::Undefined, note)));
        if map.dims.len() != coordinates.len() {
            let rank = coordinates.len();
            return undefined(format!("{rank} coordinates of {} dimensions", map.dims.len()));
        }
        let first = i64::from(coordinates[0]) * i64::from(map.element_bytes);
        if first % i64::from(UNIT) != 0 {
            let note = format!("a box begins {first} bytes along a row; {UNIT} are a unit");
            return Err(Box::new(Hazard::new(FaultKind::Misaligned, note)));
        }
        if !loads && coordinates.iter().any(|x| *x < 0) {
            // An H200 takes such a store for an illegal instruction.
            return undefined(format!("a box that is stored begins at {coordinates:?}"));
        }
        let (_, start) = self.flat(warp, tile, lane)?;
        if !start.is_multiple_of(TILE_ALIGN) {
            return Err(Box::new(misaligned(Space::Shared, start, TILE_ALIGN)));
        }
        let mut stretches = Vec::new();
        let mut add = |piece: Piece| {
            let (shared, global) = (Some(u64::from(piece.shared)), piece.global);
            let (from, to) = if loads { (global, shared) } else { (shared, global) };
            stretches.push(Stretch { from, to, bytes: piece.bytes });
        };
        match loads {
            true => map.traverse(&coordinates, start as u32, &mut add),
            false => map.traverse_stored(&coordinates, start as u32, &mut add),
        }
        let (from, to) =
            if loads { (Space::Global, Space::Shared) } else { (Space::Shared, Space::Global) };
        Ok(Request { from, to, stretches, bytes: map.box_bytes(), map: Some(map) })
    }

    /// The tensor map behind a generic address: in parameters, or where a kernel has copied one.
    fn tensor_map(&self, address: u64) -> Result<&'l TensorMap, Box<Hazard>> {
        let (space, at) = match space_of_generic(address) {
            Space::Param => (Space::Param, address - PARAM_WINDOW),
            _ => (Space::Global, address),
        };
        if !at.is_multiple_of(MAP_ALIGN) {
            return Err(Box::new(misaligned(space, at, MAP_ALIGN)));
        }
        let (cells, offset) = match space {
            Space::Param => {
                let params = self.launch.params;
                (params, within(space, params.size(), at, TensorMap::PARAMETER_BYTES as u32)?)
            }
            _ => self.launch.global.span(at, TensorMap::PARAMETER_BYTES as u32, false)?,
        };
        let mut bits = [0; 16];
        cells.read(offset, &mut bits);
        TensorMap::index_of(bits).and_then(|index| self.launch.maps.get(index)).ok_or_else(|| {
            let hazard = Hazard::new(FaultKind::Undefined, "there is no tensor map");
            Box::new(hazard.at(space, at))
        })
    }

    /// `cp.async.bulk.commit_group`.
    pub(super) fn commit_bulk(&mut self, site: Site, active: u32) {
        lanes(active).for_each(|lane| self.engine.commit(32 * site.warp + lane as u32));
        self.monitor.bulk_committed(site, active);
    }

    /// `cp.async.bulk.wait_group`.
    pub(super) fn wait_bulk(
        &mut self,
        site: Site,
        pending: u32,
        reads_only: bool,
        active: u32,
    ) -> Result<(), Box<Hazard>> {
        for lane in lanes(active) {
            for copy in self.engine.wait(32 * site.warp + lane as u32, pending, reads_only) {
                self.land(copy)?;
            }
        }
        self.monitor.bulk_waited(site, pending, reads_only, active);
        Ok(())
    }

    /// A copy lands: its bytes are written, and its mbarrier hears of them.
    pub fn land(&mut self, copy: InFlight) -> Result<(), Box<Hazard>> {
        let mut start = 0;
        for &(at, bytes) in &copy.targets {
            let data = &copy.data[start..start + bytes as usize];
            start += bytes as usize;
            if copy.space == Space::Shared {
                self.shared.end_copy(at as usize, data);
            } else {
                let (cells, at) = self.launch.global.span(at, bytes, true)?;
                cells.write(at, data);
            }
        }
        *self.progress = true;
        let Counted::Mbarrier { at, phase } = copy.counted else { return Ok(()) };
        let object = self.shared.mbarrier(at)?;
        if object.phase != phase {
            let note = format!(
                "the mbarrier's phase ended before the {} bytes of this copy came: it expects fewer",
                copy.bytes
            );
            let hazard = Hazard::new(FaultKind::Undefined, note).at(Space::Shared, at as u64);
            return Err(Box::new(hazard));
        }
        let ends = object.complete(copy.bytes).map_err(|h| h.at(Space::Shared, at as u64))?;
        self.phase_ends(copy.site, at, ends)
    }
}

impl Request<'_> {
    fn sources(&self) -> impl Iterator<Item = (u64, u32)> {
        let copied = self.stretches.iter().filter(|stretch| stretch.to.is_some());
        copied.filter_map(|stretch| Some((stretch.from?, stretch.bytes)))
    }

    fn targets(&self) -> impl Iterator<Item = (u64, u32)> {
        self.stretches.iter().filter_map(|stretch| Some((stretch.to?, stretch.bytes)))
    }
}
