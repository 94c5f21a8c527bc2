//! Loads, stores (chapter 9.7.8) and atomics (9.7.12): decoded to data; the executor has the memory.

use super::{Decoded, Decoding, Form, Op, Refusal};
use crate::simulator::{
    fault::Space,
    monitor::{Class, Order, Scope},
    numeric::atomic::Operation,
    parse::Operand,
    registers::{Source, Target},
    types::Type,
};

/// An address: a base and an offset, in a space or generic.
#[derive(Clone, Copy, Debug)]
pub struct Address {
    /// The space; none for a generic address.
    pub space: Option<Space>,
    /// The base.
    pub base: Source,
    /// Bytes to add.
    pub offset: i64,
}

/// `ld`.
#[derive(Clone, Debug)]
pub struct Load {
    /// Where.
    pub address: Address,
    /// Bytes of an element: 1, 2, 4 or 8.
    pub bytes: u32,
    /// Whether a narrow element is extended with its sign.
    pub signed: bool,
    /// A register for each element.
    pub targets: Vec<Target>,
    /// Order.
    pub order: Order,
    /// Scope of the order.
    pub scope: Scope,
    /// `.nc`.
    pub non_coherent: bool,
}

/// `st`.
#[derive(Clone, Debug)]
pub struct Store {
    /// Where.
    pub address: Address,
    /// Bytes of an element: 1, 2, 4 or 8.
    pub bytes: u32,
    /// The elements.
    pub sources: Vec<Source>,
    /// Order.
    pub order: Order,
    /// Scope of the order.
    pub scope: Scope,
}

/// `atom` and `red`.
#[derive(Clone, Debug)]
pub struct Atomic {
    /// Where.
    pub address: Address,
    /// What it does.
    pub operation: Operation,
    /// The type it does it in.
    pub kind: Type,
    /// The old value; none for `red`.
    pub target: Option<Target>,
    /// Operands, one for each element; of `cas` the one compared.
    pub b: Vec<Source>,
    /// What `cas` stores.
    pub c: Source,
    /// Order.
    pub order: Order,
    /// Scope of the order.
    pub scope: Scope,
}

/// Decodes by opcode.
pub fn decode(form: &mut Form<'_, '_>) -> Decoding {
    match form.head {
        "ld" | "ldu" => load(form),
        "st" => store(form),
        "atom" | "red" => atomic(form),
        _ => prefetch(form),
    }
}

fn space(form: &mut Form<'_, '_>) -> Option<Space> {
    form.one_of(&[
        ("global", Space::Global),
        ("shared", Space::Shared),
        ("shared::cta", Space::Shared),
        ("local", Space::Local),
        ("param", Space::Param),
        ("param::entry", Space::Param),
        ("const", Space::Const),
    ])
}

fn order(form: &mut Form<'_, '_>, default: Order) -> (Order, Scope) {
    let order = form.one_of(&[
        ("weak", Order::Weak),
        ("volatile", Order::Volatile),
        ("relaxed", Order::Relaxed),
        ("acquire", Order::Acquire),
        ("release", Order::Release),
        ("acq_rel", Order::AcquireRelease),
    ]);
    let order = order.unwrap_or(default);
    let scope = form.one_of(&[
        ("cta", Scope::Block),
        ("cluster", Scope::Cluster),
        ("gpu", Scope::Gpu),
        ("sys", Scope::System),
    ]);
    let usual = if order == Order::Volatile { Scope::System } else { Scope::Gpu };
    (order, scope.unwrap_or(usual))
}

/// Caching is not simulated: its hints are understood and have no effect on values.
fn cache_hints(form: &mut Form<'_, '_>) {
    const HINTS: [&str; 19] = [
        "ca",
        "cg",
        "cs",
        "lu",
        "cv",
        "wb",
        "wt",
        "L1::evict_normal",
        "L1::evict_unchanged",
        "L1::evict_first",
        "L1::evict_last",
        "L1::no_allocate",
        "L2::evict_normal",
        "L2::evict_first",
        "L2::evict_last",
        "L2::cache_hint",
        "L2::64B",
        "L2::128B",
        "L2::256B",
    ];
    for hint in HINTS {
        form.takes(hint);
    }
}

/// The address in operand `i`.
pub fn address(form: &Form<'_, '_>, i: usize, space: Option<Space>) -> Result<Address, Refusal> {
    let Operand::Address { base, offset, .. } = form.operand(i)? else {
        return Err(Refusal::Operand(format!("operand {} is no address", i + 1)));
    };
    let base = base.map_or(Ok(Source::Constant(0)), |name| form.source_named(name))?;
    let space = space.or_else(|| form.space_of(i));
    Ok(Address { space, base, offset: *offset })
}

fn elements(form: &mut Form<'_, '_>) -> usize {
    form.one_of(&[("v2", 2), ("v4", 4), ("v8", 8)]).unwrap_or(1)
}

fn element_bytes(kind: Type) -> Result<u32, Refusal> {
    match kind {
        Type::Pred | Type::B128 => Err(Refusal::Unknown),
        kind => Ok(kind.bytes() as u32),
    }
}

fn communicates(space: Option<Space>, order: Order) -> bool {
    order != Order::Weak && matches!(space, None | Some(Space::Global))
}

fn load(form: &mut Form<'_, '_>) -> Decoding {
    cache_hints(form);
    let non_coherent = form.takes("nc");
    let space = space(form);
    let (order, scope) = order(form, Order::Weak);
    let elements = elements(form);
    let kind = form.kind()?;
    let targets: Result<Vec<Target>, _> =
        form.members(0)?.iter().map(|member| form.target_of(member)).collect();
    let load = Load {
        address: address(form, 1, space)?,
        bytes: element_bytes(kind)?,
        signed: kind.is_signed(),
        targets: targets?,
        order,
        scope,
        non_coherent,
    };
    if load.targets.len() != elements {
        return Err(Refusal::Operand(format!("{elements} registers are needed")));
    }
    let communicates = communicates(load.address.space, order);
    Ok(Decoded { communicates, ..Decoded::new(Op::Load(load), Class::Load) })
}

fn store(form: &mut Form<'_, '_>) -> Decoding {
    cache_hints(form);
    let space = space(form);
    let (order, scope) = order(form, Order::Weak);
    let elements = elements(form);
    let kind = form.kind()?;
    let sources: Result<Vec<Source>, _> =
        form.members(1)?.iter().map(|member| form.source_of(member)).collect();
    let store = Store {
        address: address(form, 0, space)?,
        bytes: element_bytes(kind)?,
        sources: sources?,
        order,
        scope,
    };
    if store.sources.len() != elements {
        return Err(Refusal::Operand(format!("{elements} values are needed")));
    }
    let communicates = communicates(store.address.space, order);
    Ok(Decoded { communicates, ..Decoded::new(Op::Store(store), Class::Store) })
}

fn atomic(form: &mut Form<'_, '_>) -> Decoding {
    cache_hints(form);
    let returns = form.head == "atom";
    let space = space(form);
    let (order, scope) = order(form, Order::Relaxed);
    let operation = form.find(Operation::parse).ok_or(Refusal::Unknown)?;
    form.takes("noftz");
    let elements = elements(form);
    let kind = form.kind()?;
    element_bytes(kind)?;
    // Of vectors there are more than sums of f32, with and without the old values; no kernel has them.
    let sums = (operation, kind, space) == (Operation::Add, Type::F32, Some(Space::Global));
    if elements > 4 || elements > 1 && (returns || !sums) {
        return Err(Refusal::Unknown);
    }
    let first = usize::from(returns);
    let b: Result<Vec<Source>, _> =
        form.members(first + 1)?.iter().map(|member| form.source_of(member)).collect();
    let atomic = Atomic {
        address: address(form, first, space)?,
        operation,
        kind,
        target: if returns { Some(form.target(0)?) } else { None },
        b: b?,
        c: match operation {
            Operation::Cas => form.source(first + 2)?,
            _ => Source::Constant(0),
        },
        order,
        scope,
    };
    if atomic.b.len() != elements {
        return Err(Refusal::Operand(format!("{elements} values are needed")));
    }
    let communicates = communicates(atomic.address.space, order);
    Ok(Decoded { communicates, ..Decoded::new(Op::Atomic(atomic), Class::Atomic) })
}

fn prefetch(form: &mut Form<'_, '_>) -> Decoding {
    cache_hints(form);
    space(form);
    for level in ["L1", "L2", "tensormap"] {
        form.takes(level);
    }
    Ok(Decoded::new(Op::Nothing, Class::Control))
}
