//! The device's memory: buffers and variables with bounds, and the windows of the generic address space.
//!
//! Every buffer has a slot of 64 GiB of addresses to itself, with the buffer in its middle: whatever a kernel
//! adds to a pointer by mistake, the address still says which buffer was meant, and never reaches another.

mod cells;

pub use cells::{Cells, State};

use super::{
    fault::{FaultKind, Hazard, Space},
    monitor::BufferInfo,
};

/// Start of the shared window in the generic address space.
pub const SHARED_WINDOW: u64 = 1 << 60;
/// Start of the local window in the generic address space.
pub const LOCAL_WINDOW: u64 = 1 << 61;

/// Start of the parameter window in the generic address space.
pub const PARAM_WINDOW: u64 = 3 << 60;

const SLOT: u32 = 36;
const MIDDLE: u64 = 1 << (SLOT - 1);
/// Slots from here on belong to the variables of the module that runs.
const VARIABLES: usize = 1 << 16;

/// Address of a plan's buffer.
pub const fn buffer_address(index: usize) -> u64 {
    ((index as u64 + 1) << SLOT) + MIDDLE
}

/// Address of a module's variable in the global or constant space.
pub const fn variable_address(index: usize) -> u64 {
    buffer_address(VARIABLES + index)
}

/// The space that a generic address lies in.
pub const fn space_of_generic(address: u64) -> Space {
    match address >> 60 {
        0 => Space::Global,
        1 => Space::Shared,
        2 => Space::Local,
        _ => Space::Param,
    }
}

/// A buffer or variable.
#[derive(Debug)]
pub struct Region {
    /// Name, address and size.
    pub info: BufferInfo,
    /// Its bytes.
    pub cells: Cells,
    /// Whether stores are faults.
    pub read_only: bool,
}

/// Global and constant memory as one launch sees it.
#[derive(Clone, Copy, Debug)]
pub struct Global<'m> {
    /// The plan's buffers, in order.
    pub buffers: &'m [Region],
    /// The module's variables, in order.
    pub variables: &'m [Region],
}

impl<'m> Global<'m> {
    /// The region whose slot an address lies in, and the offset from its first byte.
    #[inline]
    pub fn locate(&self, address: u64) -> Option<(&'m Region, i64)> {
        let slot = ((address >> SLOT) as usize).checked_sub(1)?;
        let region = match slot.checked_sub(VARIABLES) {
            None => self.buffers.get(slot)?,
            Some(variable) => self.variables.get(variable)?,
        };
        Some((region, (address & ((1 << SLOT) - 1)) as i64 - MIDDLE as i64))
    }

    /// The cells that an access of `bytes` bytes touches, and where in them.
    ///
    /// # Errors
    /// If it is null, out of bounds, misaligned or writes what may only be read.
    #[inline]
    pub fn access(
        &self,
        address: u64,
        bytes: u32,
        writes: bool,
    ) -> Result<(&'m Cells, usize), Hazard> {
        if let Some((region, offset)) = self.locate(address) {
            let size = region.cells.size() as u64;
            let inside = (offset as u64) < size && offset as u64 + u64::from(bytes) <= size;
            if inside
                && (offset as u64).is_multiple_of(u64::from(bytes))
                && !(writes && region.read_only)
            {
                return Ok((&region.cells, offset as usize));
            }
        }
        Err(self.refusal(address, bytes, writes))
    }

    /// As [`Global::access`], of bytes that may begin anywhere.
    ///
    /// # Errors
    /// If they are out of bounds, or written where they may only be read.
    pub fn span(
        &self,
        address: u64,
        bytes: u32,
        writes: bool,
    ) -> Result<(&'m Cells, usize), Hazard> {
        let (first, at) = self.access(address, 1, writes)?;
        self.access(address + u64::from(bytes.max(1)) - 1, 1, writes)
            .map_err(|_| self.refusal(address, bytes, writes))?;
        Ok((first, at))
    }

    #[cold]
    fn refusal(&self, address: u64, bytes: u32, writes: bool) -> Hazard {
        let size = format!("{bytes} bytes");
        let hazard = match self.locate(address) {
            _ if address < 1 << SLOT => Hazard::new(FaultKind::Null, size),
            None => Hazard::new(FaultKind::OutOfBounds, size),
            Some((region, offset)) => {
                let end = offset.saturating_add(i64::from(bytes));
                if offset < 0 || end > region.cells.size() as i64 {
                    let note = format!("{bytes} bytes; it has {} bytes", region.cells.size());
                    Hazard::new(FaultKind::OutOfBounds, note)
                } else if writes && region.read_only {
                    Hazard::new(FaultKind::ReadOnly, size)
                } else {
                    Hazard::new(FaultKind::Misaligned, size)
                }
            }
        };
        hazard.at(Space::Global, address)
    }
}

/// Where in a space of its own (shared, local, parameters) an access lies.
///
/// # Errors
/// If it is out of bounds or misaligned.
#[inline]
pub fn within(space: Space, size: usize, address: u64, bytes: u32) -> Result<usize, Hazard> {
    let fits = address.checked_add(u64::from(bytes)).is_some_and(|end| end <= size as u64);
    if fits && address.is_multiple_of(u64::from(bytes)) {
        return Ok(address as usize);
    }
    let kind = if fits { FaultKind::Misaligned } else { FaultKind::OutOfBounds };
    Err(Hazard::new(kind, format!("{bytes} bytes; the space has {size} bytes")).at(space, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(name: &str, address: u64, bytes: usize) -> Region {
        let info = BufferInfo { name: name.into(), address, bytes };
        Region { info, cells: Cells::new(bytes), read_only: false }
    }

    #[test]
    fn accesses_are_held_to_their_buffer() {
        let buffers = [region("a", buffer_address(0), 12), region("b", buffer_address(1), 16)];
        let mut variable = region("table", variable_address(0), 8);
        variable.read_only = true;
        let variables = [variable];
        let memory = Global { buffers: &buffers, variables: &variables };
        let kind = |address, bytes, writes| {
            memory.access(address, bytes, writes).map(|(_, at)| at).map_err(|hazard| hazard.kind)
        };
        let a = buffer_address(0);
        assert_eq!(kind(a + 8, 4, true), Ok(8));
        assert_eq!(kind(a + 8, 8, false), Err(FaultKind::OutOfBounds));
        assert_eq!(kind(a - 4, 4, false), Err(FaultKind::OutOfBounds));
        assert_eq!(kind(a + 2, 4, false), Err(FaultKind::Misaligned));
        assert_eq!(kind(8, 4, false), Err(FaultKind::Null));
        assert_eq!(kind(buffer_address(7), 4, false), Err(FaultKind::OutOfBounds));
        assert_eq!(kind(variable_address(0), 4, false), Ok(0));
        assert_eq!(kind(variable_address(0), 4, true), Err(FaultKind::ReadOnly));
        assert_eq!(
            memory.locate(a - 4).map(|(region, at)| (&*region.info.name, at)),
            Some(("a", -4))
        );
    }

    #[test]
    fn spaces_of_their_own_have_an_end() {
        assert_eq!(within(Space::Shared, 64, 60, 4).unwrap(), 60);
        assert_eq!(within(Space::Shared, 64, 60, 8).unwrap_err().kind, FaultKind::OutOfBounds);
        assert_eq!(
            within(Space::Shared, 64, u64::MAX, 1).unwrap_err().kind,
            FaultKind::OutOfBounds
        );
        assert_eq!(within(Space::Local, 64, 2, 4).unwrap_err().kind, FaultKind::Misaligned);
    }
}
