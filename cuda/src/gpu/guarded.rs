//! A device buffer between two canaries.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DriverError, result};

/// Bytes of canary on each side: a stray vector store of a whole warp still lands in it.
const GUARD_BYTES: usize = 1024;

/// Canary of the buffer at position `index` of its plan. Neighbours differ, so that a copy which runs past
/// the end of both its buffers does not carry a canary over another of the same value.
const fn canary(index: usize) -> u8 {
    0xA5u8.wrapping_add((index as u8).wrapping_mul(37))
}

/// What outputs and scratch hold before a run. A kernel that leaves an element unwritten shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poison {
    /// NaN in every float type, −1 in every integer type.
    Nan,
    /// Huge finite values in f32 and bf16, NaN in f16, large positive integers.
    Huge,
}

impl Poison {
    /// The byte that fills the payload.
    pub const fn byte(self) -> u8 {
        match self {
            Self::Nan => 0xFF,
            Self::Huge => 0x7F,
        }
    }
}

/// One allocation: canary, payload, canary. The payload starts at a multiple of 256 bytes and the
/// second canary right behind its last byte.
pub(super) struct Guarded {
    memory: CudaSlice<u8>,
    bytes: usize,
    canary: u8,
}

impl Guarded {
    /// Allocates `bytes` of payload for buffer `index` of a plan and writes the canaries.
    pub fn new(stream: &Arc<CudaStream>, bytes: usize, index: usize) -> Result<Self, DriverError> {
        // SAFETY: every byte is written before it is read: canaries here, the payload by upload or poison.
        let memory = unsafe { stream.alloc::<u8>(bytes + 2 * GUARD_BYTES) }?;
        let guarded = Self { memory, bytes, canary: canary(index) };
        guarded.set(stream, 0, GUARD_BYTES, guarded.canary)?;
        guarded.set(stream, GUARD_BYTES + bytes, GUARD_BYTES, guarded.canary)?;
        Ok(guarded)
    }

    /// Device address of the payload.
    pub fn address(&self, stream: &CudaStream) -> u64 {
        self.memory.device_ptr(stream).0 + GUARD_BYTES as u64
    }

    /// Sets `count` bytes from `offset` of the whole allocation.
    fn set(
        &self,
        stream: &CudaStream,
        offset: usize,
        count: usize,
        byte: u8,
    ) -> Result<(), DriverError> {
        if count == 0 {
            return Ok(());
        }
        let address = self.memory.device_ptr(stream).0 + offset as u64;
        // SAFETY: offset + count is within the allocation by construction of the callers.
        unsafe { result::memset_d8_async(address, byte, count, stream.cu_stream()) }
    }

    /// Sets every byte of the payload.
    pub fn fill(&self, stream: &CudaStream, byte: u8) -> Result<(), DriverError> {
        self.set(stream, GUARD_BYTES, self.bytes, byte)
    }

    /// Poisons the payload.
    pub fn poison(&self, stream: &CudaStream, poison: Poison) -> Result<(), DriverError> {
        self.fill(stream, poison.byte())
    }

    /// Copies `bytes` into the payload.
    pub fn upload(&mut self, stream: &Arc<CudaStream>, bytes: &[u8]) -> Result<(), DriverError> {
        assert_eq!(bytes.len(), self.bytes, "upload of another size");
        if bytes.is_empty() {
            return Ok(());
        }
        let mut payload = self.memory.slice_mut(GUARD_BYTES..GUARD_BYTES + bytes.len());
        stream.memcpy_htod(bytes, &mut payload)
    }

    /// Copies the payload to `bytes` of the host.
    pub fn download(&self, stream: &Arc<CudaStream>, bytes: &mut [u8]) -> Result<(), DriverError> {
        assert_eq!(bytes.len(), self.bytes, "download of another size");
        if bytes.is_empty() {
            return Ok(());
        }
        stream.memcpy_dtoh(&self.memory.slice(GUARD_BYTES..GUARD_BYTES + self.bytes), bytes)
    }

    /// Whether the payload is other than `bytes`. Compared piece by piece through a small host buffer: inputs
    /// take gigabytes, and a fresh allocation of that size costs the host more than the comparison.
    pub fn differs_from(
        &self,
        stream: &Arc<CudaStream>,
        bytes: &[u8],
    ) -> Result<bool, DriverError> {
        const PIECE_BYTES: usize = 8 << 20;
        let mut piece = vec![0; PIECE_BYTES.min(bytes.len())];
        for (index, expected) in bytes.chunks(PIECE_BYTES).enumerate() {
            let from = GUARD_BYTES + index * PIECE_BYTES;
            let got = &mut piece[..expected.len()];
            stream.memcpy_dtoh(&self.memory.slice(from..from + expected.len()), got)?;
            stream.synchronize()?;
            if got != expected {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Which canary was overwritten, if one was: the side and how many bytes of it.
    pub fn breach(&self, stream: &Arc<CudaStream>) -> Result<Option<String>, DriverError> {
        let damaged = |from: usize| -> Result<usize, DriverError> {
            let bytes = stream.clone_dtoh(&self.memory.slice(from..from + GUARD_BYTES))?;
            stream.synchronize()?;
            Ok(bytes.iter().filter(|&&byte| byte != self.canary).count())
        };
        let (before, after) = (damaged(0)?, damaged(GUARD_BYTES + self.bytes)?);
        Ok(match (before, after) {
            (0, 0) => None,
            (0, after) => Some(format!("{after} bytes written past its end")),
            (before, 0) => Some(format!("{before} bytes written before its start")),
            (before, after) => Some(format!("{before} bytes written before and {after} past it")),
        })
    }
}
