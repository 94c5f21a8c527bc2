//! `ldmatrix` and `stmatrix`, shape m8n8 of 16-bit elements: rows of 16 bytes, whose addresses the lanes give.

/// The lane whose address operand points at row `row` (0 to 7) of matrix `matrix` (0 to 3).
pub const fn address_lane(matrix: usize, row: usize) -> usize {
    8 * matrix + row
}

/// Where element `element` (0 low, 1 high) of lane `lane`'s register lies within a matrix: its row and its byte
/// in that row. With `transposed` the lanes hold the transpose.
pub const fn place(lane: usize, element: usize, transposed: bool) -> (usize, usize) {
    let (row, column) = (lane / 4, 2 * (lane % 4) + element);
    if transposed { (column, 2 * row) } else { (row, 2 * column) }
}
