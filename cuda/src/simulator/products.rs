//! `wgmma` that a warp has under way: their accumulators have no value, and their other registers must keep theirs,
//! until their group was waited for.

use super::{
    fault::{FaultKind, Hazard},
    registers::{FULL, Registers, Source, Target},
};

/// One product.
#[derive(Clone, Debug)]
struct Product {
    group: u32,
    accumulators: Vec<Target>,
    /// Registers of A, with what they held.
    operands: Vec<(Source, [u32; 32])>,
}

/// Products of one warp.
#[derive(Clone, Debug, Default)]
pub struct Products {
    committed: u32,
    under_way: Vec<Product>,
}

fn pending(note: &str) -> Box<Hazard> {
    Box::new(Hazard::new(FaultKind::PendingProduct, note))
}

impl Products {
    /// None.
    pub const fn new() -> Self {
        Self { committed: 0, under_way: Vec::new() }
    }

    /// Forgets everything, for another block.
    pub fn reset(&mut self) {
        self.committed = 0;
        self.under_way.clear();
    }

    /// Whether a product is under way.
    pub fn are_under_way(&self) -> bool {
        !self.under_way.is_empty()
    }

    /// Whether these very accumulators belong to a product under way: the next one may add to them.
    pub fn own(&self, accumulators: &[Target]) -> bool {
        self.under_way.iter().any(|product| product.accumulators == accumulators)
    }

    /// A product begins; the registers hold its result already, and hide it.
    pub fn begin(
        &mut self,
        registers: &mut Registers,
        accumulators: &[Target],
        operands: &[Source],
    ) {
        accumulators.iter().for_each(|target| registers.define(*target, FULL, 0));
        let operands = operands.iter().map(|source| (*source, registers.words_of(*source)));
        let accumulators = accumulators.to_vec();
        let operands = operands.collect();
        self.under_way.push(Product { group: self.committed, accumulators, operands });
    }

    /// Those since the last commit become a group.
    pub fn commit(&mut self) {
        self.committed += 1;
    }

    /// All groups but the last `pending` end.
    ///
    /// # Errors
    /// If a register of one was written meanwhile.
    pub fn wait(
        &mut self,
        registers: &mut Registers,
        pending_groups: u32,
    ) -> Result<(), Box<Hazard>> {
        let over = self.committed.saturating_sub(pending_groups);
        let (done, rest): (Vec<Product>, _) =
            self.under_way.drain(..).partition(|product| product.group < over);
        self.under_way = rest;
        for product in &done {
            if product.operands.iter().any(|(source, held)| registers.words_of(*source) != *held) {
                return Err(pending("a register of A was written while a product read it"));
            }
        }
        for (i, product) in done.iter().enumerate() {
            let accumulators = &product.accumulators;
            let again = done[..i].iter().any(|before| before.accumulators == *accumulators);
            if !again && !self.own(accumulators) {
                reveal(registers, accumulators)?;
            }
        }
        Ok(())
    }

    /// Gives all accumulators their values, to tell whether it was them that a fault is about.
    pub fn reveal(&self, registers: &mut Registers) {
        for target in self.under_way.iter().flat_map(|product| &product.accumulators) {
            registers.define(*target, FULL, FULL);
        }
    }
}

fn reveal(registers: &mut Registers, accumulators: &[Target]) -> Result<(), Box<Hazard>> {
    for target in accumulators {
        let written = match target {
            Target::Word(i) => registers.defined(Source::Word(*i)),
            _ => 0,
        };
        if written != 0 {
            return Err(pending("an accumulator was written while a product was under way"));
        }
        registers.define(*target, FULL, FULL);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulator::registers::Counts;

    fn registers() -> Registers {
        let mut registers = Registers::new(Counts { words: 8, longs: 0, predicates: 0 });
        (0..8).for_each(|i| registers.set_words(Target::Word(i), FULL, &[i; 32]));
        registers
    }

    #[test]
    fn accumulators_have_no_value_until_their_group_is_waited_for() {
        let (mut registers, mut products) = (registers(), Products::default());
        products.begin(&mut registers, &[Target::Word(0)], &[]);
        products.commit();
        products.begin(&mut registers, &[Target::Word(1)], &[]);
        products.commit();
        assert!(registers.require(Source::Word(0), 1).is_err());
        products.wait(&mut registers, 1).unwrap();
        assert!(registers.require(Source::Word(0), FULL).is_ok());
        assert!(registers.require(Source::Word(1), FULL).is_err());
        products.wait(&mut registers, 0).unwrap();
        assert!(registers.require(Source::Word(1), FULL).is_ok() && !products.are_under_way());
    }

    #[test]
    fn writes_meanwhile_are_named() {
        let (mut registers, mut products) = (registers(), Products::default());
        products.begin(&mut registers, &[Target::Word(0)], &[Source::Word(4)]);
        products.commit();
        registers.set_words(Target::Word(4), 1, &[9; 32]);
        assert!(products.wait(&mut registers, 0).unwrap_err().note.contains("register of A"));
        products.begin(&mut registers, &[Target::Word(0)], &[]);
        products.commit();
        registers.set_words(Target::Word(0), 1, &[9; 32]);
        assert!(products.wait(&mut registers, 0).unwrap_err().note.contains("accumulator"));
    }
}
