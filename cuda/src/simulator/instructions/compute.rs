//! Closures that run a pure function on every active lane of a warp.

use crate::simulator::{
    fault::Hazard,
    registers::{FULL, Lane, Registers, Source, Target, lanes},
};

/// What running an instruction gives.
pub type Outcome = Result<(), Box<Hazard>>;

/// An instruction on the registers of a warp; the mask says which lanes are active.
pub type Compute = Box<dyn Fn(&mut Registers, u32) -> Outcome + Send + Sync>;

/// `target = f(a)` in each lane.
pub fn unary<A: Lane, D: Lane>(
    target: Target,
    a: Source,
    f: impl Fn(A) -> D + Send + Sync + 'static,
) -> Compute {
    Box::new(move |registers, active| {
        registers.require(a, active)?;
        let x = A::fetch(registers, a);
        let mut result = [D::default(); 32];
        if active == FULL {
            for lane in 0..32 {
                result[lane] = f(x[lane]);
            }
        } else {
            lanes(active).for_each(|lane| result[lane] = f(x[lane]));
        }
        D::store(registers, target, active, &result);
        Ok(())
    })
}

/// `target = f(a, b)` in each lane.
pub fn binary<A: Lane, B: Lane, D: Lane>(
    target: Target,
    [a, b]: [Source; 2],
    f: impl Fn(A, B) -> D + Send + Sync + 'static,
) -> Compute {
    Box::new(move |registers, active| {
        registers.require(a, active)?;
        registers.require(b, active)?;
        let (x, y) = (A::fetch(registers, a), B::fetch(registers, b));
        let mut result = [D::default(); 32];
        if active == FULL {
            for lane in 0..32 {
                result[lane] = f(x[lane], y[lane]);
            }
        } else {
            lanes(active).for_each(|lane| result[lane] = f(x[lane], y[lane]));
        }
        D::store(registers, target, active, &result);
        Ok(())
    })
}

/// `target = f(a, b, c)` in each lane.
pub fn ternary<A: Lane, B: Lane, C: Lane, D: Lane>(
    target: Target,
    [a, b, c]: [Source; 3],
    f: impl Fn(A, B, C) -> D + Send + Sync + 'static,
) -> Compute {
    Box::new(move |registers, active| {
        registers.require(a, active)?;
        registers.require(b, active)?;
        registers.require(c, active)?;
        let (x, y, z) = (A::fetch(registers, a), B::fetch(registers, b), C::fetch(registers, c));
        let mut result = [D::default(); 32];
        if active == FULL {
            for lane in 0..32 {
                result[lane] = f(x[lane], y[lane], z[lane]);
            }
        } else {
            lanes(active).for_each(|lane| result[lane] = f(x[lane], y[lane], z[lane]));
        }
        D::store(registers, target, active, &result);
        Ok(())
    })
}

/// `target = f(a, b, c, d)` in each lane.
pub fn quaternary(
    target: Target,
    sources: [Source; 4],
    f: impl Fn([u64; 4]) -> u64 + Send + Sync + 'static,
) -> Compute {
    Box::new(move |registers, active| {
        for source in sources {
            registers.require(source, active)?;
        }
        let values = sources.map(|source| registers.longs_of(source));
        let mut result = [0; 32];
        lanes(active).for_each(|lane| result[lane] = f(values.each_ref().map(|v| v[lane])));
        registers.set_longs(target, active, &result);
        Ok(())
    })
}

/// Copies a source, and with it whether it has a value: compilers copy values that nothing will use.
pub fn copy(target: Target, source: Source) -> Compute {
    Box::new(move |registers, active| {
        match target {
            Target::Long(_) => {
                let values = registers.longs_of(source);
                registers.set_longs(target, active, &values);
            }
            Target::Predicate(_) => {
                let mask = registers.predicate(source);
                registers.set_predicate(target, active, mask);
            }
            _ => {
                let values = registers.words_of(source);
                registers.set_words(target, active, &values);
            }
        }
        let defined = registers.defined(source);
        registers.define(target, active, defined);
        Ok(())
    })
}
