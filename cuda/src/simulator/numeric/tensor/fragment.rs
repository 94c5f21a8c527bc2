//! Fragments: how the lanes of a warp share the elements of a matrix operand.
//!
//! All shapes m16n8k* follow one rule. A register holds `per = 32 / bits` elements that are neighbours along K
//! (A, B) or N (accumulator). Lane `l` stands in group `l / 4` at place `l % 4`.

/// Row and column of an element.
pub type Place = (usize, usize);

/// Place in A (m16 × k) of element `element` of register `register`: registers 0 and 1 are rows `group` and
/// `group + 8`; each further pair of registers is 4 · `per` columns on.
pub const fn a(bits: usize, lane: usize, register: usize, element: usize) -> Place {
    let per = 32 / bits;
    let row = lane / 4 + 8 * (register % 2);
    (row, per * (lane % 4) + 4 * per * (register / 2) + element)
}

/// Place in B (k × n8), as (row along K, column).
pub const fn b(bits: usize, lane: usize, register: usize, element: usize) -> Place {
    let per = 32 / bits;
    (per * (lane % 4) + 4 * per * register + element, lane / 4)
}

/// Place in C and D (m16 × n8·j, as `wgmma` has more columns): element `i` of a lane's accumulators, counted
/// over its registers; with f16 accumulators a register holds two.
pub const fn accumulator(lane: usize, i: usize) -> Place {
    (lane / 4 + 8 * (i / 2 % 2), 8 * (i / 4) + 2 * (lane % 4) + i % 2)
}

/// First row of a warp in `wgmma`: warp `w` of the warpgroup holds rows 16·w to 16·w + 15 of A and D.
pub const fn warp_row(warp: usize) -> usize {
    16 * (warp % 4)
}
