//! A statement on its way to an instruction: its modifiers one by one, its operands by what they name.

use std::collections::HashMap;

use crate::simulator::{
    fault::Space,
    numeric::Modes,
    parse::{Operand, Statement, fundamental},
    registers::{Bank, LaneMask, Source, Special, Target},
    types::{Rounding, Type},
};

/// Why a statement is no instruction that the simulator has.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    /// The opcode, or this combination of modifiers, is not known.
    Unknown,
    /// An operand is not what the instruction takes.
    Operand(String),
}

/// What a name stands for.
#[derive(Clone, Debug, PartialEq)]
pub enum Symbol {
    /// A register.
    Register(Bank, u32),
    /// A family of registers, by its first and its number.
    Family(Bank, u32, u32),
    /// A variable, by its address in its space.
    Variable(Space, u64),
    /// A place to jump to, by the index of its instruction.
    Label(u32),
    /// A list of such places.
    Targets(Vec<u32>),
}

/// The names that a statement sees, inner scopes last.
#[derive(Clone, Debug, Default)]
pub struct Names<'t> {
    /// One table for each open scope.
    pub scopes: Vec<HashMap<&'t str, Symbol>>,
}

impl<'t> Names<'t> {
    /// Adds a name to the innermost scope.
    pub fn add(&mut self, name: &'t str, symbol: Symbol) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name, symbol);
        }
    }

    /// What a name stands for; a member of a register family is found through its number.
    pub fn find(&self, name: &str) -> Option<Symbol> {
        let exact = |name: &str| self.scopes.iter().rev().find_map(|scope| scope.get(name));
        if let Some(symbol) = exact(name).filter(|symbol| !matches!(symbol, Symbol::Family(..))) {
            return Some(symbol.clone());
        }
        let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
        match exact(stem) {
            Some(&Symbol::Family(bank, first, count)) => {
                let member: u32 = name[stem.len()..].parse().ok()?;
                (member < count).then(|| Symbol::Register(bank, first + member))
            }
            _ => None,
        }
    }
}

/// A statement being decoded.
#[derive(Debug)]
pub struct Form<'a, 't> {
    /// First part of the opcode.
    pub head: &'t str,
    /// Modifiers that no one has asked for yet.
    modifiers: Vec<&'t str>,
    /// Operands.
    pub operands: &'a [Operand<'t>],
    names: &'a Names<'t>,
}

impl<'a, 't> Form<'a, 't> {
    /// A statement with the names it sees.
    pub fn new(statement: &'a Statement<'t>, names: &'a Names<'t>) -> Self {
        let mut parts = statement.opcode.split('.');
        let head = parts.next().unwrap_or_default();
        Self { head, modifiers: parts.collect(), operands: &statement.operands, names }
    }

    /// Whether the modifier is there; it counts as understood from now on.
    pub fn takes(&mut self, modifier: &str) -> bool {
        let found = self.modifiers.iter().position(|&m| m == modifier);
        found.map(|at| self.modifiers.remove(at)).is_some()
    }

    /// The first of these modifiers that is there.
    pub fn one_of<T: Copy>(&mut self, choices: &[(&str, T)]) -> Option<T> {
        choices.iter().find(|(modifier, _)| self.takes(modifier)).map(|&(_, value)| value)
    }

    /// The first modifier that `meaning` knows.
    pub fn find<T>(&mut self, meaning: impl Fn(&str) -> Option<T>) -> Option<T> {
        let (at, value) =
            self.modifiers.iter().enumerate().find_map(|(at, m)| Some((at, meaning(m)?)))?;
        self.modifiers.remove(at);
        Some(value)
    }

    /// The next type among the modifiers.
    pub fn kind(&mut self) -> Result<Type, Refusal> {
        self.find(fundamental).ok_or(Refusal::Unknown)
    }

    /// The rounding modifier, of floats and of conversions to integers alike.
    pub fn rounding(&mut self) -> Option<Rounding> {
        self.one_of(&[
            ("rn", Rounding::Nearest),
            ("rni", Rounding::Nearest),
            ("rna", Rounding::NearestAway),
            ("rz", Rounding::Zero),
            ("rzi", Rounding::Zero),
            ("rm", Rounding::Down),
            ("rmi", Rounding::Down),
            ("rp", Rounding::Up),
            ("rpi", Rounding::Up),
        ])
    }

    /// The modifiers of a floating-point instruction.
    pub fn modes(&mut self) -> Modes {
        Modes {
            rounding: self.rounding().unwrap_or_default(),
            ftz: self.takes("ftz"),
            saturate: self.takes("sat"),
            relu: self.takes("relu"),
        }
    }

    /// All modifiers must be understood by now.
    pub fn finish(&self) -> Result<(), Refusal> {
        if self.modifiers.is_empty() { Ok(()) } else { Err(Refusal::Unknown) }
    }

    /// Operand `i`.
    pub fn operand(&self, i: usize) -> Result<&'a Operand<'t>, Refusal> {
        self.operands
            .get(i)
            .ok_or_else(|| Refusal::Operand(format!("operand {} is missing", i + 1)))
    }

    /// Operand `i` as a source.
    pub fn source(&self, i: usize) -> Result<Source, Refusal> {
        self.source_of(self.operand(i)?)
    }

    /// Operands from `first` on as sources.
    pub fn sources<const N: usize>(&self, first: usize) -> Result<[Source; N], Refusal> {
        let mut all = [Source::Constant(0); N];
        for (i, source) in all.iter_mut().enumerate() {
            *source = self.source(first + i)?;
        }
        Ok(all)
    }

    /// Operand `i` as a target.
    pub fn target(&self, i: usize) -> Result<Target, Refusal> {
        self.target_of(self.operand(i)?)
    }

    /// Operand `i` as a pair of targets, `d|p`; the second is nowhere when there is one alone.
    pub fn target_pair(&self, i: usize) -> Result<(Target, Target), Refusal> {
        match self.operand(i)? {
            Operand::Pair(first, second) => {
                Ok((self.target_named(first)?, self.target_named(second)?))
            }
            other => Ok((self.target_of(other)?, Target::Nowhere)),
        }
    }

    /// Operand `i` as an immediate integer.
    pub fn immediate(&self, i: usize) -> Result<u64, Refusal> {
        match self.operand(i)? {
            Operand::Integer(value) => Ok(*value),
            other => Err(Refusal::Operand(format!("{other:?} is no immediate"))),
        }
    }

    /// The members of operand `i`: of a vector its elements, of anything else itself.
    pub fn members(&self, i: usize) -> Result<&'a [Operand<'t>], Refusal> {
        Ok(match self.operand(i)? {
            Operand::Vector(members) => members,
            other => std::slice::from_ref(other),
        })
    }

    /// The index of the instruction behind a label.
    pub fn label(&self, i: usize) -> Result<u32, Refusal> {
        if let Operand::Name(name) = self.operand(i)?
            && let Some(Symbol::Label(target)) = self.names.find(name)
        {
            return Ok(target);
        }
        Err(Refusal::Operand("the target is no label".into()))
    }

    /// The indices of the instructions behind a list of labels.
    pub fn label_list(&self, i: usize) -> Result<Vec<u32>, Refusal> {
        if let Operand::Name(name) = self.operand(i)?
            && let Some(Symbol::Targets(targets)) = self.names.find(name)
        {
            return Ok(targets);
        }
        Err(Refusal::Operand("the targets are no list of labels".into()))
    }

    /// The value of an operand.
    pub fn source_of(&self, operand: &Operand<'_>) -> Result<Source, Refusal> {
        match operand {
            Operand::Integer(value) => Ok(Source::Constant(*value)),
            Operand::Float32(bits) => Ok(Source::Constant(u64::from(*bits))),
            Operand::Float64(bits) => Ok(Source::Constant(*bits)),
            Operand::Name(name) => self.source_named(name),
            Operand::Not(name) => match self.source_named(name)? {
                Source::Predicate(i) => Ok(Source::NotPredicate(i)),
                _ => Err(Refusal::Operand(format!("'{name}' is no predicate"))),
            },
            Operand::Sum(name, offset) => match self.source_named(name)? {
                Source::Constant(address) => {
                    Ok(Source::Constant(address.wrapping_add_signed(*offset)))
                }
                _ => Err(Refusal::Operand(format!("'{name}' is no variable"))),
            },
            other => Err(Refusal::Operand(format!("{other:?} is no single value"))),
        }
    }

    /// The value behind a name: a register's, a special register's or a variable's address.
    pub fn source_named(&self, name: &str) -> Result<Source, Refusal> {
        match self.names.find(name) {
            Some(Symbol::Register(Bank::Words, i)) => Ok(Source::Word(i)),
            Some(Symbol::Register(Bank::Longs, i)) => Ok(Source::Long(i)),
            Some(Symbol::Register(Bank::Predicates, i)) => Ok(Source::Predicate(i)),
            Some(Symbol::Variable(_, address)) => Ok(Source::Constant(address)),
            Some(_) => Err(Refusal::Operand(format!("'{name}' is no value"))),
            None => special(name)
                .map(Source::Special)
                .or((name == "WARP_SZ").then_some(Source::Constant(32)))
                .ok_or_else(|| Refusal::Operand(format!("'{name}' is not declared"))),
        }
    }

    /// The space of a variable that operand `i` names, as a value or as the base of an address.
    pub fn space_of(&self, i: usize) -> Option<Space> {
        let name = match self.operands.get(i)? {
            Operand::Name(name) | Operand::Sum(name, _) => name,
            Operand::Address { base: Some(name), .. } => name,
            _ => return None,
        };
        match self.names.find(name)? {
            Symbol::Variable(space, _) => Some(space),
            _ => None,
        }
    }

    /// The register that an operand names.
    pub fn target_of(&self, operand: &Operand<'_>) -> Result<Target, Refusal> {
        match operand {
            Operand::Name(name) => self.target_named(name),
            other => Err(Refusal::Operand(format!("{other:?} is no register"))),
        }
    }

    fn target_named(&self, name: &str) -> Result<Target, Refusal> {
        match self.names.find(name) {
            Some(Symbol::Register(Bank::Words, i)) => Ok(Target::Word(i)),
            Some(Symbol::Register(Bank::Longs, i)) => Ok(Target::Long(i)),
            Some(Symbol::Register(Bank::Predicates, i)) => Ok(Target::Predicate(i)),
            _ if name == "_" => Ok(Target::Nowhere),
            _ => Err(Refusal::Operand(format!("'{name}' is no register"))),
        }
    }
}

fn special(name: &str) -> Option<Special> {
    let axis = |rest: &str| match rest {
        ".x" => Some(0),
        ".y" => Some(1),
        ".z" => Some(2),
        _ => None,
    };
    if let Some((stem, rest)) = name.find('.').map(|dot| name.split_at(dot)) {
        let axis = axis(rest)?;
        return Some(match stem {
            "%tid" => Special::Tid(axis),
            "%ntid" => Special::Ntid(axis),
            "%ctaid" | "%clusterid" => Special::Ctaid(axis),
            "%nctaid" | "%nclusterid" => Special::Nctaid(axis),
            "%cluster_ctaid" => Special::Zero,
            "%cluster_nctaid" => Special::One,
            _ => return None,
        });
    }
    Some(match name {
        "%laneid" => Special::LaneId,
        "%warpid" => Special::WarpId,
        "%nwarpid" => Special::NwarpId,
        "%lanemask_eq" => Special::LaneMask(LaneMask::Equal),
        "%lanemask_le" => Special::LaneMask(LaneMask::LessEqual),
        "%lanemask_lt" => Special::LaneMask(LaneMask::Less),
        "%lanemask_ge" => Special::LaneMask(LaneMask::GreaterEqual),
        "%lanemask_gt" => Special::LaneMask(LaneMask::Greater),
        "%clock" | "%clock64" | "%globaltimer" | "%globaltimer_lo" => Special::Clock,
        "%smid" => Special::SmId,
        "%nsmid" => Special::NsmId,
        "%gridid" => Special::GridId,
        "%dynamic_smem_size" => Special::DynamicShared,
        "%total_smem_size" => Special::TotalShared,
        "%cluster_ctarank" => Special::Zero,
        "%cluster_nctarank" | "%is_explicit_cluster" => Special::One,
        _ => return None,
    })
}
