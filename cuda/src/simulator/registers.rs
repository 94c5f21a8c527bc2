//! A warp's registers: for each register the values of its 32 lanes, side by side.
//!
//! Lane-major arrays let one decoded instruction work on all lanes in a loop that the compiler turns into
//! vector code. A bit per lane says whether a register was ever written there.

use super::{
    fault::{FaultKind, Hazard},
    types::Type,
};

/// All lanes.
pub const FULL: u32 = u32::MAX;

/// Lanes of a mask, lowest first.
pub fn lanes(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lane = mask.trailing_zeros();
        mask &= mask.wrapping_sub(1);
        (lane < 32).then_some(lane as usize)
    })
}

/// Special registers (ISA 8.4, chapter 10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Special {
    /// `%tid` along an axis.
    Tid(usize),
    /// `%ntid` along an axis.
    Ntid(usize),
    /// `%ctaid` along an axis.
    Ctaid(usize),
    /// `%nctaid` along an axis.
    Nctaid(usize),
    LaneId,
    WarpId,
    NwarpId,
    /// `%lanemask_eq`, `_le`, `_lt`, `_ge`, `_gt`.
    LaneMask(LaneMask),
    /// `%clock`, `%clock64`, `%globaltimer`: the warp's instructions so far, so that it is deterministic.
    Clock,
    SmId,
    NsmId,
    GridId,
    DynamicShared,
    TotalShared,
    Zero,
    /// `%cluster_nctarank` and its like: clusters of one block.
    One,
}

/// Which lanes a `%lanemask` register names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum LaneMask {
    Equal,
    LessEqual,
    Less,
    GreaterEqual,
    Greater,
}

/// Where an operand's value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A register of 8, 16 or 32 bits.
    Word(u32),
    /// A register of 64 bits.
    Long(u32),
    /// A predicate.
    Predicate(u32),
    /// A negated predicate.
    NotPredicate(u32),
    /// The same bits in every lane.
    Constant(u64),
    /// A special register.
    Special(Special),
}

/// Where a result goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A register of 8, 16 or 32 bits.
    Word(u32),
    /// A register of 64 bits.
    Long(u32),
    /// A predicate.
    Predicate(u32),
    /// `_`.
    Nowhere,
}

/// How many registers of each class a kernel has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Registers of 8, 16 and 32 bits.
    pub words: u32,
    /// Registers of 64 bits.
    pub longs: u32,
    /// Predicates.
    pub predicates: u32,
}

/// What the special registers of a warp hold.
#[derive(Clone, Debug, Default)]
pub struct Position {
    /// Thread index of each lane, per axis.
    pub tid: [[u32; 32]; 3],
    /// Block size.
    pub ntid: [u32; 3],
    /// Block index.
    pub ctaid: [u32; 3],
    /// Grid size.
    pub nctaid: [u32; 3],
    /// Warp within the block.
    pub warp: u32,
    /// Dynamic and total shared memory of the block in bytes.
    pub shared_bytes: [u32; 2],
    /// Instructions that the warp has issued.
    pub clock: u64,
}

/// The registers of one warp.
#[derive(Clone, Debug, Default)]
pub struct Registers {
    words: Vec<[u32; 32]>,
    longs: Vec<[u64; 32]>,
    predicates: Vec<u32>,
    defined_words: Vec<u32>,
    defined_longs: Vec<u32>,
    defined_predicates: Vec<u32>,
    /// The carry of each lane, which `add.cc` and its like set.
    pub carry: u32,
    /// What its special registers hold.
    pub position: Position,
}

impl Registers {
    /// Registers that nothing has written.
    pub fn new(counts: Counts) -> Self {
        let [words, longs, predicates] =
            [counts.words, counts.longs, counts.predicates].map(|n| n as usize);
        Self {
            words: vec![[0; 32]; words],
            longs: vec![[0; 32]; longs],
            predicates: vec![0; predicates],
            defined_words: vec![0; words],
            defined_longs: vec![0; longs],
            defined_predicates: vec![0; predicates],
            carry: 0,
            position: Position::default(),
        }
    }

    /// Forgets all values, for another block.
    pub fn reset(&mut self) {
        self.defined_words.fill(0);
        self.defined_longs.fill(0);
        self.defined_predicates.fill(0);
        self.position.clock = 0;
    }

    /// Lanes in which a source has a value.
    #[inline]
    pub fn defined(&self, source: Source) -> u32 {
        match source {
            Source::Word(i) => self.defined_words[i as usize],
            Source::Long(i) => self.defined_longs[i as usize],
            Source::Predicate(i) | Source::NotPredicate(i) => self.defined_predicates[i as usize],
            Source::Constant(_) | Source::Special(_) => FULL,
        }
    }

    /// States in which of the `active` lanes a target, just written, has a value.
    #[inline]
    pub fn define(&mut self, target: Target, active: u32, defined: u32) {
        let set = |mask: &mut u32| *mask = (*mask & !active) | (defined & active);
        match target {
            Target::Word(i) => set(&mut self.defined_words[i as usize]),
            Target::Long(i) => set(&mut self.defined_longs[i as usize]),
            Target::Predicate(i) => set(&mut self.defined_predicates[i as usize]),
            Target::Nowhere => {}
        }
    }

    /// A hazard when a source has no value in an active lane.
    #[inline]
    pub fn require(&self, source: Source, active: u32) -> Result<(), Box<Hazard>> {
        let missing = active & !self.defined(source);
        if missing == 0 { Ok(()) } else { Err(undefined(missing)) }
    }

    /// A predicate as a mask of lanes.
    #[inline]
    pub fn predicate(&self, source: Source) -> u32 {
        match source {
            Source::Predicate(i) => self.predicates[i as usize],
            Source::NotPredicate(i) => !self.predicates[i as usize],
            Source::Constant(0) => 0,
            Source::Constant(_) => FULL,
            other => {
                let values = self.words_of(other);
                (0..32).fold(0, |mask, lane| mask | u32::from(values[lane] != 0) << lane)
            }
        }
    }

    /// Writes a predicate in the active lanes.
    #[inline]
    pub fn set_predicate(&mut self, target: Target, active: u32, mask: u32) {
        if let Target::Predicate(i) = target {
            let old = &mut self.predicates[i as usize];
            *old = (*old & !active) | (mask & active);
            self.defined_predicates[i as usize] |= active;
        }
    }

    /// The low 32 bits of a source in each lane.
    #[inline]
    pub fn words_of(&self, source: Source) -> [u32; 32] {
        match source {
            Source::Word(i) => self.words[i as usize],
            Source::Constant(bits) => [bits as u32; 32],
            Source::Long(i) => self.longs[i as usize].map(|bits| bits as u32),
            Source::Predicate(_) | Source::NotPredicate(_) => {
                let mask = self.predicate(source);
                std::array::from_fn(|lane| mask >> lane & 1)
            }
            Source::Special(special) => self.special(special).map(|bits| bits as u32),
        }
    }

    /// 64 bits of a source in each lane; narrower ones are extended with zeros.
    #[inline]
    pub fn longs_of(&self, source: Source) -> [u64; 32] {
        match source {
            Source::Long(i) => self.longs[i as usize],
            Source::Constant(bits) => [bits; 32],
            Source::Word(i) => self.words[i as usize].map(u64::from),
            Source::Predicate(_) | Source::NotPredicate(_) => self.words_of(source).map(u64::from),
            Source::Special(special) => self.special(special),
        }
    }

    /// Writes the active lanes; a 64-bit target gets zeros above.
    #[inline]
    pub fn set_words(&mut self, target: Target, active: u32, values: &[u32; 32]) {
        match target {
            Target::Word(i) => {
                let old = &mut self.words[i as usize];
                if active == FULL {
                    *old = *values;
                } else {
                    lanes(active).for_each(|lane| old[lane] = values[lane]);
                }
                self.defined_words[i as usize] |= active;
            }
            Target::Long(_) => self.set_longs(target, active, &values.map(u64::from)),
            Target::Predicate(_) => {
                let mask =
                    (0..32).fold(0, |mask, lane| mask | u32::from(values[lane] != 0) << lane);
                self.set_predicate(target, active, mask);
            }
            Target::Nowhere => {}
        }
    }

    /// Writes the active lanes; a narrower target gets the low bits.
    #[inline]
    pub fn set_longs(&mut self, target: Target, active: u32, values: &[u64; 32]) {
        match target {
            Target::Long(i) => {
                let old = &mut self.longs[i as usize];
                if active == FULL {
                    *old = *values;
                } else {
                    lanes(active).for_each(|lane| old[lane] = values[lane]);
                }
                self.defined_longs[i as usize] |= active;
            }
            Target::Word(_) | Target::Predicate(_) => {
                self.set_words(target, active, &values.map(|bits| bits as u32));
            }
            Target::Nowhere => {}
        }
    }

    fn special(&self, special: Special) -> [u64; 32] {
        let position = &self.position;
        let same = |value: u32| [u64::from(value); 32];
        match special {
            Special::Tid(axis) => position.tid[axis].map(u64::from),
            Special::Ntid(axis) => same(position.ntid[axis]),
            Special::Ctaid(axis) => same(position.ctaid[axis]),
            Special::Nctaid(axis) => same(position.nctaid[axis]),
            Special::LaneId => std::array::from_fn(|lane| lane as u64),
            Special::WarpId => same(position.warp),
            Special::NwarpId => same(position.ntid.iter().product::<u32>().div_ceil(32)),
            Special::LaneMask(which) => std::array::from_fn(|lane| {
                let one = 1u32 << lane;
                u64::from(match which {
                    LaneMask::Equal => one,
                    LaneMask::LessEqual => one | (one - 1),
                    LaneMask::Less => one - 1,
                    LaneMask::GreaterEqual => !(one - 1),
                    LaneMask::Greater => !(one | (one - 1)),
                })
            }),
            Special::Clock => [position.clock; 32],
            Special::DynamicShared => same(position.shared_bytes[0]),
            Special::TotalShared => same(position.shared_bytes[1]),
            Special::SmId | Special::GridId | Special::Zero => same(0),
            Special::NsmId | Special::One => same(1),
        }
    }
}

/// The hazard of using a register that has no value in these lanes.
#[cold]
pub fn undefined(lanes: u32) -> Box<Hazard> {
    let note = format!("in {} lanes", lanes.count_ones());
    Box::new(Hazard::new(FaultKind::UninitializedRegister, note).of_lane(lanes.trailing_zeros()))
}

/// The register class that holds a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bank {
    /// 8, 16 and 32 bits.
    Words,
    /// 64 bits.
    Longs,
    /// Predicates.
    Predicates,
}

impl Bank {
    /// Where registers of a type live; none for 128 bits, which no kernel of ours declares.
    pub const fn of(kind: Type) -> Option<Self> {
        match kind {
            Type::Pred => Some(Self::Predicates),
            Type::B128 => None,
            _ if kind.bytes() == 8 => Some(Self::Longs),
            _ => Some(Self::Words),
        }
    }
}

/// A value of one lane as the instructions compute with it.
pub trait Lane: Copy + Default + Send + Sync + 'static {
    /// The lanes of a source.
    fn fetch(registers: &Registers, source: Source) -> [Self; 32];
    /// Writes the active lanes of a target.
    fn store(registers: &mut Registers, target: Target, active: u32, values: &[Self; 32]);
}

macro_rules! lane {
    ($fetch:ident, $store:ident: $($kind:ty, $from:expr, $to:expr;)*) => {$(
        impl Lane for $kind {
            #[inline]
            fn fetch(registers: &Registers, source: Source) -> [Self; 32] {
                registers.$fetch(source).map($from)
            }
            #[inline]
            fn store(registers: &mut Registers, target: Target, active: u32, values: &[Self; 32]) {
                registers.$store(target, active, &values.map($to));
            }
        }
    )*};
}

lane! { words_of, set_words:
    u8, |bits| bits as u8, u32::from;
    i8, |bits| bits as i8, |value| u32::from(value as u8);
    u16, |bits| bits as u16, u32::from;
    i16, |bits| bits as i16, |value| u32::from(value as u16);
    u32, |bits| bits, |bits| bits;
    i32, |bits| bits as i32, |value| value as u32;
    f32, f32::from_bits, f32::to_bits;
}

lane! { longs_of, set_longs:
    u64, |bits| bits, |bits| bits;
    i64, |bits| bits as i64, |value| value as u64;
    f64, f64::from_bits, f64::to_bits;
}

impl Lane for bool {
    #[inline]
    fn fetch(registers: &Registers, source: Source) -> [Self; 32] {
        let mask = registers.predicate(source);
        std::array::from_fn(|lane| mask >> lane & 1 == 1)
    }

    #[inline]
    fn store(registers: &mut Registers, target: Target, active: u32, values: &[Self; 32]) {
        let mask = (0..32).fold(0, |mask, lane| mask | u32::from(values[lane]) << lane);
        match target {
            Target::Predicate(_) => registers.set_predicate(target, active, mask),
            _ => registers.set_words(target, active, &values.map(u32::from)),
        }
    }
}
