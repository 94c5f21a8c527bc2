//! What the simulator finds wrong with a kernel, and where.

use std::fmt;

use super::monitor::Site;
use crate::ptx::lines::SourceLine;

/// A state space of PTX (ISA 8.4, chapter 5.1) in which a byte has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Space {
    Global,
    Shared,
    Local,
    Param,
    Const,
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Global => "global",
            Self::Shared => "shared",
            Self::Local => "local",
            Self::Param => "param",
            Self::Const => "const",
        })
    }
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// An access outside of every buffer, or past the end of one.
    OutOfBounds,
    /// An access through a null pointer.
    Null,
    /// An address that is no multiple of the access's size.
    Misaligned,
    /// A store or an atomic to memory that may only be read: constants, parameters.
    ReadOnly,
    /// A read of memory that nothing has written.
    UninitializedMemory,
    /// A use of a register that nothing has written.
    UninitializedRegister,
    /// A read of bytes that an asynchronous copy is still to write, or a write to bytes it is to read.
    PendingCopy,
    /// Two accesses to one byte, one of them a write, without an order between them.
    Race,
    /// A read by the asynchronous proxy of bytes that the generic proxy wrote, without a proxy fence.
    MissingProxyFence,
    /// A use of a register that a `wgmma` under way reads or writes.
    PendingProduct,
    /// An access, in a launch that may begin before earlier ones have ended, by a thread that has not waited for
    /// them, to bytes that they write, or a write to bytes that they read.
    BeforeWait,
    /// A launch that may begin before earlier ones have ended in which no thread waits for them.
    NeverWaits,
    /// A barrier that only part of the threads reach, in a form that needs all of them.
    DivergentBarrier,
    /// A warp-wide instruction whose mask names lanes that do not take part, or leaves out one that does.
    WrongMask,
    /// No thread of any block can go on.
    Deadlock,
    /// An instruction with operands that it does not define: a zero divisor is none of these.
    Undefined,
    /// A `trap`, or an assertion that failed.
    Trap,
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OutOfBounds => "access out of bounds",
            Self::Null => "access through a null pointer",
            Self::Misaligned => "misaligned access",
            Self::ReadOnly => "write to read-only memory",
            Self::UninitializedMemory => "read of uninitialised memory",
            Self::UninitializedRegister => "use of an uninitialised register",
            Self::PendingCopy => "access to bytes of an asynchronous copy that was not waited for",
            Self::Race => "data race",
            Self::MissingProxyFence => "missing proxy fence",
            Self::PendingProduct => "use of a register of a matrix product that was not waited for",
            Self::BeforeWait => "access before the wait for an earlier launch",
            Self::NeverWaits => "launch that does not wait for the one it overlaps with",
            Self::DivergentBarrier => "divergent barrier",
            Self::WrongMask => "wrong member mask",
            Self::Deadlock => "deadlock",
            Self::Undefined => "undefined operation",
            Self::Trap => "trap",
        })
    }
}

/// What a part of the simulator reports; the executor adds where it happened and makes a [`Fault`] of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Hazard {
    /// What is wrong.
    pub kind: FaultKind,
    /// The lane that did it, when it is one lane.
    pub lane: Option<u32>,
    /// Where in memory, when it is about memory: the address as the instruction saw it.
    pub address: Option<(Space, u64)>,
    /// The instruction and lane that this one collides with: the other side of a race.
    pub other: Option<(Site, u32)>,
    /// More in words: what the other side of a race does, the size of the access.
    pub note: String,
}

impl Hazard {
    /// A hazard that is not about memory.
    pub fn new(kind: FaultKind, note: impl Into<String>) -> Self {
        Self { kind, lane: None, address: None, other: None, note: note.into() }
    }

    /// The same, caused by one lane.
    #[must_use]
    pub fn of_lane(mut self, lane: u32) -> Self {
        self.lane = Some(lane);
        self
    }

    /// The same, colliding with what another lane did.
    #[must_use]
    pub fn against(mut self, site: Site, lane: u32) -> Self {
        self.other = Some((site, lane));
        self
    }

    /// The same, about an address.
    #[must_use]
    pub fn at(mut self, space: Space, address: u64) -> Self {
        self.address = Some((space, address));
        self
    }
}

/// An address, and what lies there.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// Its space.
    pub space: Space,
    /// The address as the instruction saw it.
    pub address: u64,
    /// The buffer in or next to which it lies, with the byte offset from the buffer's start.
    pub buffer: Option<(String, i64)>,
}

/// A hazard with the place where it happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// What is wrong.
    pub kind: FaultKind,
    /// Stem of the kernel file.
    pub module: String,
    /// Name of the kernel.
    pub kernel: String,
    /// The line of source, when the module is one of ours.
    pub line: Option<SourceLine>,
    /// Line of the module's PTX text, from 1.
    pub ptx_line: u32,
    /// The PTX instruction.
    pub instruction: String,
    /// Block in x, y, z.
    pub block: [u32; 3],
    /// Thread in x, y, z; of a warp-wide fault, the first active thread.
    pub thread: [u32; 3],
    /// Where in memory, when it is about memory.
    pub memory: Option<Place>,
    /// More in words.
    pub note: String,
    /// The other side of a race.
    pub other: Option<Side>,
}

/// One side of a race: an instruction of a thread.
#[derive(Clone, Debug, PartialEq)]
pub struct Side {
    /// The line of source, when the module is one of ours.
    pub line: Option<SourceLine>,
    /// Line of the module's PTX text, from 1.
    pub ptx_line: u32,
    /// The PTX instruction.
    pub instruction: String,
    /// Block in x, y, z.
    pub block: [u32; 3],
    /// Thread in x, y, z.
    pub thread: [u32; 3],
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [bx, by, bz] = self.block;
        let [tx, ty, tz] = self.thread;
        write!(f, "block ({bx}, {by}, {bz}), thread ({tx}, {ty}, {tz})")?;
        if let Some(line) = self.line {
            write!(f, ", {line}")?;
        }
        write!(f, " (PTX line {}: {})", self.ptx_line, self.instruction)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [bx, by, bz] = self.block;
        let [tx, ty, tz] = self.thread;
        write!(f, "{} in {}::{}", self.kind, self.module, self.kernel)?;
        if let Some(line) = self.line {
            write!(f, " at {line}")?;
        }
        write!(f, ", block ({bx}, {by}, {bz}), thread ({tx}, {ty}, {tz})")?;
        if let Some(Place { space, address, buffer }) = &self.memory {
            match buffer {
                Some((name, offset)) => write!(f, ", {space} buffer '{name}' at byte {offset}")?,
                None => write!(f, ", {space} address {address:#x}")?,
            }
        }
        if !self.note.is_empty() {
            write!(f, ": {}", self.note)?;
        }
        if let Some(other) = &self.other {
            write!(f, " by {other}; here")?;
        }
        write!(f, " (PTX line {}: {})", self.ptx_line, self.instruction)
    }
}

impl std::error::Error for Fault {}
