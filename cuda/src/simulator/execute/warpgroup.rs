//! `wgmma`: each warp computes its own 16 rows when it issues a product, and hides them until it waits for its group.
//!
//! The asynchronous proxy reads shared memory; the monitor hears of it 16 bytes at a time.

use super::{Context, access::Manner};
use crate::simulator::{
    fault::{FaultKind, Hazard, Space},
    instructions::{OperandA, WarpgroupProduct},
    memory::within,
    monitor::{AccessKind, Monitor, Order, Scope, Site},
    numeric::tensor::{Descriptor, Major, fragment, product::bits},
    registers::{FULL, Source},
    warp::Warp,
};

/// What the monitor is told of at once.
const CHUNK: u64 = 16;

impl<M: Monitor> Context<'_, '_, M> {
    /// Multiplies this warp's rows of A by B.
    pub(super) fn multiply(
        &mut self,
        warp: &mut Warp,
        site: Site,
        op: &WarpgroupProduct,
        active: u32,
    ) -> Result<(), Box<Hazard>> {
        if active != FULL {
            let note = format!("lanes {active:#010x} alone");
            return Err(Box::new(Hazard::new(FaultKind::WrongMask, note)));
        }
        let shape = op.product.shape;
        let size = bits(op.product.a) as u32 / 8;
        let mut a = match &op.a {
            OperandA::Registers(sources) => {
                let mut words = vec![];
                for &source in sources {
                    warp.registers.require(source, active)?;
                    words.push(warp.registers.words_of(source));
                }
                op.product.rows_of_a(&words)
            }
            OperandA::Shared(descriptor) => {
                let descriptor = self.descriptor(warp, *descriptor)?;
                let first = fragment::warp_row(warp.index as usize) as u32;
                let rows = first..first + shape.m as u32;
                self.operand(site, descriptor, op.majors[0], size, rows, shape.k as u32)?
            }
        };
        let descriptor = self.descriptor(warp, op.b)?;
        let columns = 0..shape.n as u32;
        let mut b = self.operand(site, descriptor, op.majors[1], size, columns, shape.k as u32)?;
        let sign = 1 << (8 * size - 1);
        for (values, _) in [&mut a, &mut b].into_iter().zip(op.negated).filter(|(_, n)| *n) {
            values.iter_mut().for_each(|value| *value ^= sign);
        }
        warp.registers.require(op.accumulate, active)?;
        let mut c = vec![[0; 32]; op.c.len()];
        if warp.registers.predicate(op.accumulate) & active != 0 {
            let follows = warp.products.own(&op.d);
            for (&source, words) in op.c.iter().zip(&mut c) {
                if !follows {
                    warp.registers.require(source, active)?;
                }
                *words = warp.registers.words_of(source);
            }
        }
        let mut d = vec![[0; 32]; op.d.len()];
        op.product.multiply_fragments(&a, &b, &c, &mut d);
        for (&target, words) in op.d.iter().zip(&d) {
            warp.registers.set_words(target, active, words);
        }
        let operands = match &op.a {
            OperandA::Registers(sources) => &sources[..],
            OperandA::Shared(_) => &[],
        };
        warp.products.begin(&mut warp.registers, &op.d, operands);
        Ok(())
    }

    /// `wgmma.commit_group`.
    pub(super) fn commit_products(&mut self, warp: &mut Warp, site: Site) {
        warp.products.commit();
        self.monitor.products_committed(site);
    }

    /// `wgmma.wait_group`.
    pub(super) fn wait_products(
        &mut self,
        warp: &mut Warp,
        site: Site,
        pending: u32,
    ) -> Result<(), Box<Hazard>> {
        warp.products.wait(&mut warp.registers, pending)?;
        self.monitor.products_waited(site, pending);
        Ok(())
    }

    /// A descriptor, which is the same in all lanes.
    fn descriptor(&self, warp: &Warp, source: Source) -> Result<Descriptor, Box<Hazard>> {
        warp.registers.require(source, FULL)?;
        let all = warp.registers.longs_of(source);
        if all.iter().any(|bits| *bits != all[0]) {
            let note = "lanes of a warp give different matrix descriptors";
            return Err(Box::new(Hazard::new(FaultKind::Undefined, note)));
        }
        Ok(Descriptor::decode(all[0]))
    }

    /// Elements of an operand in shared memory, row after row.
    fn operand(
        &mut self,
        site: Site,
        descriptor: Descriptor,
        major: Major,
        size: u32,
        rows: std::ops::Range<u32>,
        k: u32,
    ) -> Result<Vec<u32>, Box<Hazard>> {
        let places = rows.flat_map(|row| (0..k).map(move |k| (row, k)));
        let addresses: Vec<u64> =
            places.map(|(row, k)| descriptor.address(major, size, row, k).into()).collect();
        let mut chunks: Vec<u64> = addresses.iter().map(|address| address / CHUNK).collect();
        chunks.sort_unstable();
        chunks.dedup();
        let limit = self.shared.cells.size();
        for chunk in &chunks {
            let address = chunk * CHUNK;
            let at = within(Space::Shared, limit, address, CHUNK as u32).map_err(Box::new)?;
            self.shared.is_settled(at, CHUNK as usize).map_err(Box::new)?;
            if !self.shared.cells.is_written(at, CHUNK as usize) {
                let hazard = Hazard::new(FaultKind::UninitializedMemory, "a matrix operand");
                return Err(Box::new(hazard.at(Space::Shared, address)));
            }
        }
        let (kind, order, scope) = (AccessKind::ProxyRead, Order::Weak, Scope::Block);
        let manner = Manner { kind, order, scope, non_coherent: false };
        for chunks in chunks.chunks(32) {
            let of_lanes = std::array::from_fn(|lane| chunks.get(lane).map_or(0, |c| c * CHUNK));
            let active = FULL >> (32 - chunks.len());
            self.tell(site, (Space::Shared, active), &of_lanes, CHUNK as u32, manner)?;
        }
        let load = |address: &u64| self.shared.cells.load(*address as usize, size as usize) as u32;
        Ok(addresses.iter().map(load).collect())
    }
}
