//! What instructions do: each family decodes its statements into an [`Op`], ready to run on a whole warp.
//!
//! An instruction that only computes becomes a closure over a loop of 32 lanes, made once when the kernel is
//! decoded: modifiers, operands and types are settled then, and running it is one indirect call. What touches
//! memory, other lanes or the order of execution becomes data that the executor carries out.
//!
//! Families follow the chapters of the PTX ISA 8.4 (9.7.1 integer to 9.7.15 warpgroup matrices). A statement
//! with a modifier that its family did not ask for is unknown: nothing is skipped in silence.

mod arithmetic;
mod async_copy;
mod bulk_copy;
mod comparison;
mod compute;
mod control;
mod conversion;
mod form;
mod integer;
mod logic;
mod matrix;
mod mbarrier;
mod memory;
mod movement;
mod synchronization;
mod warp;
mod warpgroup;

pub use async_copy::AsyncCopy;
pub use bulk_copy::{BulkCopy, Place};
pub use compute::{Compute, Outcome};
pub use form::{Form, Names, Refusal, Symbol};
pub use matrix::{MatrixLoad, MatrixStore};
pub use mbarrier::{Mbarrier, MbarrierAction, Phase};
pub use memory::{Address, Atomic, Load, Store};
pub use synchronization::{Barrier, Reduction};
pub use warpgroup::{OperandA, WarpgroupProduct};

use super::{
    monitor::{Class, Scope},
    registers::Source,
};

/// An instruction ready to run.
pub enum Op {
    /// Lane by lane, on registers alone.
    Compute(Compute),
    /// On registers, across the lanes that a member mask names.
    Collective(Source, Compute),
    /// On registers, across all lanes of the warp (`.aligned`).
    Aligned(Compute),
    /// Jump to an instruction.
    Branch(u32),
    /// Jump to the instruction that an index chooses.
    BranchIndexed(Source, Vec<u32>),
    /// End of the thread.
    Exit,
    /// A trap.
    Trap,
    /// `ld`.
    Load(Load),
    /// `st`.
    Store(Store),
    /// `atom` and `red`.
    Atomic(Atomic),
    /// `cp.async`.
    AsyncCopy(AsyncCopy),
    /// `cp.async.commit_group`.
    CommitCopies,
    /// `cp.async.wait_group`: so many groups may stay under way. `cp.async.wait_all` waits for uncommitted
    /// copies too.
    WaitCopies {
        /// Groups that may stay under way.
        pending: u32,
        /// Whether copies outside of any group must land too.
        all: bool,
    },
    /// `cp.async.bulk`, of tensors too.
    BulkCopy(Box<BulkCopy>),
    /// `cp.async.bulk.commit_group`.
    CommitBulk,
    /// `cp.async.bulk.wait_group`: so many groups may stay under way.
    WaitBulk {
        /// Groups that may stay under way.
        pending: u32,
        /// `.read`: the others must have read their sources, and may still write.
        reads_only: bool,
    },
    /// An instruction on an mbarrier.
    Mbarrier(Mbarrier),
    /// `ldmatrix`.
    MatrixLoad(MatrixLoad),
    /// `stmatrix`.
    MatrixStore(MatrixStore),
    /// `wgmma.mma_async`.
    WarpgroupProduct(Box<WarpgroupProduct>),
    /// `setmaxnreg`: the warp is to hold so many registers a thread.
    HoldRegisters(u32),
    /// `wgmma.fence`.
    FenceProducts,
    /// `wgmma.commit_group`.
    CommitProducts,
    /// `wgmma.wait_group`: so many groups may stay under way.
    WaitProducts(u32),
    /// `bar`, `barrier`.
    Barrier(Barrier),
    /// `bar.warp.sync`.
    WarpBarrier(Source),
    /// `membar`, `fence`.
    Fence(Scope),
    /// `fence.proxy.async`.
    ProxyFence,
    /// `fence.mbarrier_init`.
    MbarrierFence,
    /// `griddepcontrol.wait`.
    WaitForLaunches,
    /// Nothing to do: hints.
    Nothing,
}

/// An [`Op`] with what counting and communication need to know of it.
pub struct Decoded {
    /// What it does.
    pub op: Op,
    /// Its class.
    pub class: Class,
    /// Floating-point work of a whole warp, of tensor instructions.
    pub flops: u64,
    /// Whether it talks to other blocks.
    pub communicates: bool,
}

impl Decoded {
    const fn new(op: Op, class: Class) -> Self {
        Self { op, class, flops: 0, communicates: false }
    }

    fn compute(compute: Compute, class: Class) -> Self {
        Self::new(Op::Compute(compute), class)
    }
}

/// What decoding one statement gives.
pub type Decoding = Result<Decoded, Refusal>;

/// Decodes a statement.
///
/// # Errors
/// If the instruction is unknown or its operands are not what it takes.
pub fn decode(form: &mut Form<'_, '_>) -> Decoding {
    let decoded = match form.head {
        "add" | "sub" | "mul" | "mad" | "fma" | "div" | "rem" | "abs" | "neg" | "min" | "max"
        | "addc" | "subc" | "rcp" | "sqrt" | "rsqrt" | "sin" | "cos" | "lg2" | "ex2" | "tanh"
        | "copysign" | "testp" => arithmetic::decode(form)?,
        "mul24" | "mad24" | "sad" | "popc" | "clz" | "bfind" | "brev" | "bfe" | "bfi" | "szext"
        | "bmsk" | "fns" | "dp4a" | "dp2a" => integer::decode(form)?,
        "and" | "or" | "xor" | "not" | "cnot" | "lop3" | "shf" | "shl" | "shr" | "prmt" => {
            logic::decode(form)?
        }
        "set" | "setp" | "selp" | "slct" => comparison::decode(form)?,
        "cvt" => conversion::decode(form)?,
        "mov" | "cvta" | "isspacep" => movement::decode(form)?,
        "ld" | "ldu" | "st" | "atom" | "red" | "prefetch" | "prefetchu" | "discard"
        | "applypriority" => memory::decode(form)?,
        "cp" => async_copy::decode(form)?,
        "bra" | "brx" | "ret" | "exit" | "trap" | "brkpt" | "pmevent" | "nanosleep"
        | "setmaxnreg" | "griddepcontrol" => control::decode(form)?,
        "bar" | "barrier" | "membar" | "fence" => synchronization::decode(form)?,
        "shfl" | "vote" | "match" | "redux" | "activemask" | "elect" => warp::decode(form)?,
        "mma" | "ldmatrix" | "stmatrix" | "movmatrix" => matrix::decode(form)?,
        "mbarrier" => mbarrier::decode(form)?,
        "wgmma" => warpgroup::decode(form)?,
        _ => return Err(Refusal::Unknown),
    };
    form.finish()?;
    Ok(decoded)
}
