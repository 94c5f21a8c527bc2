//! `cp.async.bulk` and its tensor form (chapters 9.7.8.24 and 9.7.8.25): copies by the copy engine.

use super::{
    Decoded, Decoding, Form, Op, Refusal,
    memory::{Address, address},
};
use crate::simulator::{fault::Space, monitor::Class, parse::Operand, registers::Source};

/// One bulk copy, as the thread that asks for it sees it.
#[derive(Clone, Debug)]
pub struct BulkCopy {
    /// Where to.
    pub to: Place,
    /// Where from.
    pub from: Place,
    /// The mbarrier that counts its bytes; none when it belongs to a bulk group of its thread.
    pub barrier: Option<Address>,
}

/// One side of a bulk copy.
#[derive(Clone, Debug)]
pub enum Place {
    /// Bytes in a row, whose number comes with the copy.
    Bytes(Address, Source),
    /// As many bytes in shared memory as the other side has.
    Tile(Address),
    /// A box of a tensor: its map, and the coordinates where it begins.
    Box(Address, Vec<Source>),
}

/// Decodes what follows `cp.async.bulk`.
pub fn decode(form: &mut Form<'_, '_>) -> Decoding {
    let op = if form.takes("commit_group") {
        Op::CommitBulk
    } else if form.takes("wait_group") {
        let pending = form.immediate(0)?.min(1 << 20) as u32;
        Op::WaitBulk { pending, reads_only: form.takes("read") }
    } else if form.takes("prefetch") {
        // Caching is not simulated.
        form.one_of(&RANKS);
        for modifier in ["tensor", "tile", "L2", "global", "L2::cache_hint"] {
            form.takes(modifier);
        }
        Op::Nothing
    } else {
        Op::BulkCopy(Box::new(copy(form)?))
    };
    Ok(Decoded::new(op, Class::AsyncCopy))
}

const RANKS: [(&str, usize); 5] = [("1d", 1), ("2d", 2), ("3d", 3), ("4d", 4), ("5d", 5)];

fn copy(form: &mut Form<'_, '_>) -> Result<BulkCopy, Refusal> {
    form.takes("L2::cache_hint");
    let counted = form.takes("mbarrier::complete_tx::bytes");
    if !counted && !form.takes("bulk_group") {
        return Err(Refusal::Unknown);
    }
    // Clusters have one block: its shared memory is theirs. Copies within that are for larger ones.
    let (cluster, own, global) =
        (form.takes("shared::cluster"), form.takes("shared::cta"), form.takes("global"));
    let (shared, outside) = (Some(Space::Shared), Some(Space::Global));
    let (to, from) = match (counted, cluster, own, global) {
        (true, true, false, true) | (true, false, true, true) => (shared, outside),
        (false, false, true, true) => (outside, shared),
        _ => return Err(Refusal::Unknown),
    };
    if form.takes("tensor") {
        form.takes("tile");
        let rank = form.one_of(&RANKS).ok_or(Refusal::Unknown)?;
        let place = |i, space| match space {
            Some(Space::Shared) => Ok(Place::Tile(address(form, i, space)?)),
            _ => tensor(form, i, rank),
        };
        let barrier = if counted { Some(address(form, 2, shared)?) } else { None };
        return Ok(BulkCopy { to: place(0, to)?, from: place(1, from)?, barrier });
    }
    let bytes = form.source(2)?;
    let place = |i, space| Ok(Place::Bytes(address(form, i, space)?, bytes));
    let barrier = if counted { Some(address(form, 3, shared)?) } else { None };
    Ok(BulkCopy { to: place(0, to)?, from: place(1, from)?, barrier })
}

/// `[map, {coordinates}]`: the map lies behind a generic address.
fn tensor(form: &Form<'_, '_>, i: usize, rank: usize) -> Result<Place, Refusal> {
    let map = address(form, i, None)?;
    let Operand::Address { more, .. } = form.operand(i)? else {
        return Err(Refusal::Operand("a tensor is no address".into()));
    };
    let coordinates: Vec<Source> = match &more[..] {
        [Operand::Vector(members)] => {
            members.iter().map(|member| form.source_of(member)).collect::<Result<_, _>>()?
        }
        _ => return Err(Refusal::Operand("coordinates are missing".into())),
    };
    if coordinates.len() != rank {
        return Err(Refusal::Operand(format!("{rank} coordinates are needed")));
    }
    Ok(Place::Box(map, coordinates))
}
