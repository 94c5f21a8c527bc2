//! A pre-norm Transformer block, by rows with bounds of their errors ([`super::near`]).

use super::{
    near::{Matrix, Row, dot, norm},
    rounding::U,
};
use crate::{
    attention::{chain, default_scale},
    tensor::{DType, Tensors},
};

/// Sizes of a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// Values of a state.
    pub(super) hidden: usize,
    /// Attention heads.
    pub(super) heads: usize,
    /// Values between the MLP's layers.
    pub(super) ffn: usize,
}

/// Weights of a block.
pub(super) struct Block {
    heads: usize,
    norm_a: Vec<f64>,
    norm_m: Vec<f64>,
    wq: Matrix,
    wk: Matrix,
    wv: Matrix,
    wo: Matrix,
    up: Matrix,
    down: Matrix,
}

impl Block {
    /// Number `module` of those whose weights stand one after another in the inputs.
    pub(super) fn of(sizes: Sizes, inputs: &Tensors, module: usize) -> Self {
        let (d, ffn) = (sizes.hidden, sizes.ffn);
        let gain = |name| inputs.tensor(name).to_f64()[module * d..][..d].to_vec();
        let square = |name| Matrix::of(inputs, name, module, d, d);
        Self {
            heads: sizes.heads,
            norm_a: gain("norm_a"),
            norm_m: gain("norm_m"),
            wq: square("wq"),
            wk: square("wk"),
            wv: square("wv"),
            wo: square("wo"),
            up: Matrix::of(inputs, "up", module, 2 * ffn, d),
            down: Matrix::of(inputs, "down", module, d, ffn),
        }
    }

    /// The block on the states of a sequence.
    pub(super) fn apply(&self, x: &[Row]) -> Vec<Row> {
        let seen: Vec<[Row; 3]> = x.iter().map(|row| self.project(row)).collect();
        let before = |i: usize, which: usize| seen[..=i].iter().map(move |qkv| &qkv[which]);
        let one = |i: usize| {
            let (k, v): (Vec<&Row>, Vec<&Row>) = (before(i, 1).collect(), before(i, 2).collect());
            self.finish(&x[i], &seen[i][0], &k, &v)
        };
        (0..x.len()).map(one).collect()
    }

    /// Query, key and value of a state.
    pub(super) fn project(&self, x: &Row) -> [Row; 3] {
        let normed = x.normed(&self.norm_a);
        [&self.wq, &self.wk, &self.wv].map(|matrix| matrix.times(&normed))
    }

    /// What becomes of a state whose query sees these keys and values.
    pub(super) fn finish(&self, x: &Row, q: &Row, k: &[&Row], v: &[&Row]) -> Row {
        let x = x.plus(&self.wo.times(&attend(self.heads, q, k, v)));
        x.plus(&self.down.times(&self.up.times(&x.normed(&self.norm_m)).gated()))
    }
}

/// One query against the keys and values it sees, head by head.
///
/// A score moves by at most `δ_j = scale·(e_q‖k_j‖ + ‖q‖e_k + e_q e_k)` and its own roundings, as
/// [`crate::attention`] has them; probabilities are then off by factors within exp(±δ_j), so the output moves by at
/// most `Σ P (e^δ − 1)‖v_j − o‖ / Σ P e^−δ` and, since the values are off too, by a mean of their errors.
fn attend(heads: usize, q: &Row, k: &[&Row], v: &[&Row]) -> Row {
    let (d, n) = (q.value.len(), k.len());
    let dim = d / heads;
    let (scale, f32) = (default_scale(dim), DType::F32);
    let rises = 2.0 + 3.0 * (1.0 + n as f64).ln();
    let (mut value, mut squares) = (Vec::with_capacity(d), 0.0);
    for head in 0..heads {
        let part = |row: &Row| row.value[head * dim..(head + 1) * dim].to_vec();
        let query = part(q);
        let scores: Vec<(f64, f64)> = k.iter().map(|k| dot(&query, &part(k))).collect();
        let max = scores.iter().map(|s| scale * s.0).fold(f64::NEG_INFINITY, f64::max);
        let largest = scores.iter().map(|s| scale * s.0.abs()).fold(0.0, f64::max);
        let total: f64 = scores.iter().map(|s| (scale * s.0 - max).exp()).sum();
        let p: Vec<f64> = scores.iter().map(|s| (scale * s.0 - max).exp() / total).collect();
        let mut o = vec![0.0; dim];
        for (p, v) in p.iter().zip(v) {
            o.iter_mut().zip(&part(v)).for_each(|(o, v)| *o += p * v);
        }
        let (mut moved, mut values, mut below, mut weighted) = (0.0, 0.0, 0.0, 0.0);
        for j in 0..n {
            let key = norm(&part(k[j])) + k[j].error;
            let by_inputs = scale * (q.error * key + norm(&query) * k[j].error);
            let magnitude = scale * scores[j].1 + by_inputs;
            let own = U * ((chain(dim, f32) + 4.0) * magnitude + 8.0 * largest + 4.0 * rises);
            let delta = (by_inputs + own).min(300.0);
            let value = part(v[j]);
            let apart: Vec<f64> = value.iter().zip(&o).map(|(v, o)| v - o).collect();
            moved += p[j] * delta.exp_m1() * norm(&apart);
            values += p[j] * delta.exp() * v[j].error;
            below += p[j] * (-delta).exp();
            weighted += p[j] * (norm(&value) + v[j].error);
        }
        let sums = U * (chain(2 * n, f32) + 4.0) * (weighted + norm(&o));
        let error = (moved + values) / below + sums;
        squares += error * error;
        value.extend(o);
    }
    Row { value, error: f64::sqrt(squares) }
}
