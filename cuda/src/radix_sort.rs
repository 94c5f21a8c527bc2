//! Stable radix sort of (key, value) pairs as steps of a plan.

use std::ops::Range;

use touchstone_reference::DType;

use crate::plan::{Arg, BufferId, Plan};

/// Keys that a block counts and scatters: `TILE` of `radix_sort.cu`.
const TILE: usize = 4096;
/// Values of one digit.
const DIGITS: usize = 256;

/// Where the sorted pairs are once the plan has run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sorted {
    /// `[n]`, of the keys' width, ascending in the bits that were sorted by.
    pub keys: BufferId,
    /// `[n]` u32: the value of each key; equal keys keep the order of the input.
    pub values: BufferId,
}

/// Appends the sort of `n` pairs by the bits `bits` of the keys.
///
/// `keys` is an `[n]` buffer of 4-byte (`width` [`DType::U32`]) or 8-byte ([`DType::U64`]) integers, read
/// as unsigned; `values` an `[n]` u32 buffer, or `None` for the positions 0, 1, …, n−1. Neither is
/// changed. Scratch buffers are named after `name`, so that one plan can hold several sorts. Each pass
/// over 8 bits is three launches; the pairs go back and forth between two scratch copies.
///
/// # Panics
/// If `n` exceeds 2³¹, `bits` is empty or beyond the key, or `width` is another type: bugs of the caller.
pub(crate) fn append(
    plan: &mut Plan,
    name: &str,
    keys: BufferId,
    values: Option<BufferId>,
    n: usize,
    width: DType,
    bits: Range<u32>,
) -> Sorted {
    assert!(matches!(width, DType::U32 | DType::U64), "keys of type {}", width.name());
    assert!(n <= 1 << 31, "{n} pairs are too many for 32-bit positions");
    assert!(!bits.is_empty() && bits.end as usize <= 8 * width.bytes(), "no sort by bits {bits:?}");
    let passes = bits.len().div_ceil(8);
    let tiles = n.div_ceil(TILE);
    let copies: Vec<Sorted> = (0..passes.min(2))
        .map(|copy| Sorted {
            keys: plan.scratch(&format!("{name}_keys_{copy}"), width, &[n]),
            values: plan.scratch(&format!("{name}_values_{copy}"), DType::U32, &[n]),
        })
        .collect();
    let counts = plan.scratch(&format!("{name}_counts"), DType::U32, &[DIGITS, tiles]);
    let totals = plan.scratch(&format!("{name}_totals"), DType::U32, &[DIGITS]);
    let suffix = width.name();
    let (mut keys, mut values) = (keys, values);
    for (pass, shift) in bits.clone().step_by(8).enumerate() {
        let to = copies[pass % copies.len()];
        if n > 0 {
            let mask = (1u32 << (bits.end - shift).min(8)) - 1;
            let digit: [Arg; 3] = [n.into(), (shift as i32).into(), mask.into()];
            let count = [&[keys.into(), counts.into()], &digit[..]].concat();
            let scan = [counts.into(), totals.into(), tiles.into()];
            let pairs = [
                keys.into(),
                values.into(),
                to.keys.into(),
                to.values.into(),
                counts.into(),
                totals.into(),
            ];
            let scatter = [&pairs[..], &digit[..]].concat();
            let block = [512, 1, 1];
            let running = [tiles.next_multiple_of(32).min(1024), 1, 1];
            plan.launch(
                "radix_sort",
                format!("radix_count_{suffix}"),
                [tiles, 1, 1],
                block,
                0,
                &count,
            );
            plan.launch("radix_sort", "radix_scan", [DIGITS, 1, 1], running, 0, &scan);
            plan.launch(
                "radix_sort",
                format!("radix_scatter_{suffix}"),
                [tiles, 1, 1],
                block,
                0,
                &scatter,
            );
        }
        (keys, values) = (to.keys, Some(to.values));
    }
    copies[(passes - 1) % copies.len()]
}

/// The bits `0..b` that tell apart the keys `0..distinct`, at least one.
pub(crate) fn bits_below(distinct: usize) -> Range<u32> {
    0..(usize::BITS - distinct.saturating_sub(1).leading_zeros()).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Step;
    use touchstone_reference::Tensor;

    #[test]
    fn passes_alternate_between_two_copies_and_start_from_the_positions() {
        let mut plan = Plan::new();
        let keys = plan.table("keys", Tensor::from_integers(DType::U32, &[5], &[3, 1, 2, 1, 0]));
        let sorted = append(&mut plan, "sort", keys, None, 5, DType::U32, 0..20);
        let Step::Launch(last) = plan.steps().last().unwrap() else { panic!("not a launch") };
        assert_eq!(plan.steps().len(), 3 * 3);
        assert_eq!(last.args[2], Arg::from(sorted.keys));
        assert_eq!(last.args[8], Arg::U32(0b1111));
        let Step::Launch(first) = &plan.steps()[2] else { panic!("not a launch") };
        assert_eq!(first.args[1], Arg::Null);
        assert_eq!(first.args[2], Arg::from(sorted.keys));
    }

    #[test]
    fn enough_bits_for_every_key() {
        assert_eq!([1, 2, 3, 256, 257].map(|n| bits_below(n).end), [1, 1, 2, 8, 9]);
    }

    #[test]
    fn nothing_is_launched_for_no_pairs() {
        let mut plan = Plan::new();
        let keys = plan.table("keys", Tensor::from_integers(DType::U64, &[0], &[]));
        append(&mut plan, "sort", keys, None, 0, DType::U64, 0..64);
        assert!(plan.steps().is_empty());
    }
}
