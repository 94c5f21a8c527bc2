//! The recurrence of a matrix-valued state, which SSD, retention and gated linear attention share:
//! S_t = S_{t−1}·diag(decay_t) + weight_t·x_t·b_tᵀ and y_t = scale·S_t·c_t + skip·x_t, by head.
//!
//! # What tensor cores may add
//! With 16-bit types a chunked kernel rounds three things to the type before it multiplies them, wherever
//! it cuts the sequence: the score c_t·b_s with its decay (within a chunk), weight·x (on its way into the
//! state) and the state at the start of a chunk. The first two change what step s gives to step t by one
//! unit roundoff of |score|·|weight·x| each, so 2·u·Σ_s |score_ts|·|weight_s·x_s| bounds both. The third
//! adds u·Σ_n |c_n|·|S_n|, S the decayed state of the worst cut: the largest of |S_t| and of what it was
//! before, decayed. Exponents are summed in f32, an error far below u. A state rounds weight·x and the
//! state itself once each.
//!
//! Where every column of the state has its own decay, the decays become factors of b and c, each rounded once
//! more: 2·u of Σ_s Σ_n |c_n·decay·b_n·x_s|, which no longer cancels within a score.

use super::{SCAN_DEPTH, Term, U, View, exp_error, expected, sample};
use crate::{
    algorithm::Work,
    expected::Outputs,
    tensor::{DType, Tensors},
};

/// Sizes that all operations of this kind have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) batch: usize,
    pub(super) seq_len: usize,
    pub(super) heads: usize,
    pub(super) head_dim: usize,
    pub(super) groups: usize,
    pub(super) state: usize,
}

impl Sizes {
    /// Shape of x and y.
    pub(super) fn values(&self) -> [usize; 4] {
        [self.batch, self.seq_len, self.heads, self.head_dim]
    }

    /// Shape of b and c.
    pub(super) fn projections(&self) -> [usize; 4] {
        [self.batch, self.seq_len, self.groups, self.state]
    }

    /// Shape of the state.
    pub(super) fn states(&self) -> [usize; 4] {
        [self.batch, self.heads, self.head_dim, self.state]
    }

    pub(super) fn validate(&self) -> Result<(), String> {
        if self.groups == 0 || !self.heads.is_multiple_of(self.groups) {
            return Err(format!("{} groups do not divide {} heads", self.groups, self.heads));
        }
        Ok(())
    }

    /// The work when each channel of a step takes `per_channel` operations.
    pub(super) fn work(&self, dtype: DType, inputs: &Tensors, per_channel: usize) -> Work {
        let values: usize = self.values().iter().product();
        let states: usize = self.states().iter().product();
        Work {
            flops: (values * per_channel) as f64,
            bytes: (inputs.bytes() + (values + states) * dtype.bytes()) as f64,
            items: (self.batch * self.seq_len) as f64,
            matrix: dtype != DType::F32,
            eight_bit: false,
        }
    }
}

/// Weight and logarithm of the decay at (batch, t, head, column of the state).
pub(super) type Step<'a> = dyn Fn(usize, usize, usize, usize) -> (f64, f64) + 'a;

/// The inputs of one case.
pub(super) struct Problem<'a> {
    pub(super) sizes: Sizes,
    pub(super) dtype: DType,
    /// Names of x, b and c.
    pub(super) names: [&'static str; 3],
    pub(super) step: Box<Step<'a>>,
    /// Skip weights by head.
    pub(super) skip: Option<Vec<f64>>,
    pub(super) scale: f64,
    /// Whether the decay differs from column to column of the state.
    pub(super) by_column: bool,
}

/// One head of one sequence.
struct Head {
    seq_len: usize,
    state: usize,
    /// [seq_len, state] each.
    b: Vec<f64>,
    c: Vec<f64>,
    decay: Vec<Term>,
    /// By step.
    weight: Vec<f64>,
    skip: f64,
    scale: f64,
    /// Roundings of b and c before they meet.
    operand_roundings: f64,
}

/// What is computed of one row of a head's state, in f32, and what a 16-bit type adds for each unit roundoff.
struct Line {
    y: Vec<Term>,
    last: Vec<Term>,
    y_rounded: Vec<f64>,
    last_rounded: Vec<f64>,
}

impl Head {
    /// |c_t·decay(s..t)·b_s| for every t and the s up to it, row t at t(t+1)/2. Where every decay has fallen
    /// below 1e-25 the rest is left at zero.
    fn scores(&self) -> Vec<f64> {
        let n = self.state;
        let mut scores = vec![0.0; self.seq_len * (self.seq_len + 1) / 2];
        for s in 0..self.seq_len {
            let mut carried = self.b[s * n..][..n].to_vec();
            let mut kept = vec![1.0; n];
            for t in s..self.seq_len {
                if t > s {
                    for ((v, k), decay) in
                        carried.iter_mut().zip(&mut kept).zip(&self.decay[t * n..][..n])
                    {
                        *v *= decay.value;
                        *k *= decay.value;
                    }
                }
                if kept.iter().all(|&k| k < 1e-25) {
                    break;
                }
                let products = carried.iter().zip(&self.c[t * n..][..n]).map(|(v, c)| v * c);
                scores[t * (t + 1) / 2 + s] = products.sum::<f64>().abs();
            }
        }
        scores
    }

    /// Follows one row of the state, whose value at step t is `x[t]`.
    fn line(&self, x: &[f64], initial: Vec<f64>, scores: Option<&[f64]>) -> Line {
        let n = self.state;
        let mut carried = initial.iter().map(|h| h.abs()).collect::<Vec<_>>();
        let mut magnitude = carried.clone();
        let mut state: Vec<Term> = initial.into_iter().map(Term::exact).collect();
        let mut line = Line { y: vec![], last: vec![], y_rounded: vec![], last_rounded: vec![] };
        for t in 0..self.seq_len {
            let put = Term::exact(self.weight[t]).times(Term::exact(x[t]));
            let (mut sum, mut rounded) = (Term::default(), 0.0);
            for i in 0..n {
                let (decay, b, c) = (self.decay[t * n + i], self.b[t * n + i], self.c[t * n + i]);
                let added = put.times(Term::exact(b));
                state[i] = decay.times(state[i]).plus(added);
                carried[i] = (decay.value * carried[i]).max(state[i].value.abs());
                magnitude[i] = decay.value * magnitude[i] + added.value.abs();
                sum.accumulate(Term::exact(c).times(state[i].summed(SCAN_DEPTH)));
                rounded += c.abs() * (carried[i] + self.operand_roundings * magnitude[i]);
            }
            let mut sum = Term::exact(self.scale).times(sum.summed(n as f64));
            sum = sum.plus(Term::exact(self.skip).times(Term::exact(x[t])));
            if let Some(scores) = scores {
                let scores = &scores[t * (t + 1) / 2..][..t + 1];
                let products =
                    scores.iter().zip(x).zip(&self.weight).map(|((s, x), w)| s * (x * w).abs());
                rounded += 2.0 * products.sum::<f64>();
            }
            line.y.push(sum);
            line.y_rounded.push(self.scale * rounded);
        }
        line.last_rounded = magnitude.iter().zip(&state).map(|(m, s)| m + s.value.abs()).collect();
        line.last = state.into_iter().map(|s| s.summed(SCAN_DEPTH)).collect();
        line
    }
}

/// State updates a reference computes before it samples rows of states.
const MOST_UPDATES: usize = 1 << 22;

impl Problem<'_> {
    fn head(&self, inputs: &Tensors, b: usize, h: usize) -> Head {
        let Sizes { seq_len, heads, groups, state, .. } = self.sizes;
        let (view_b, view_c) =
            (View(inputs.tensor(self.names[1])), View(inputs.tensor(self.names[2])));
        let group = h / (heads / groups);
        let mut head = Head {
            seq_len,
            state,
            b: vec![],
            c: vec![],
            decay: vec![],
            weight: vec![],
            skip: self.skip.as_ref().map_or(0.0, |skip| skip[h]),
            scale: self.scale,
            operand_roundings: if self.by_column { 2.0 } else { 0.0 },
        };
        for t in 0..seq_len {
            let at = ((b * seq_len + t) * groups + group) * state;
            head.weight.push((self.step)(b, t, h, 0).0);
            for n in 0..state {
                head.b.push(view_b.get(at + n));
                head.c.push(view_c.get(at + n));
                let log = (self.step)(b, t, h, n).1;
                // One rounding of a product, two of log2 e, and seven of a sum over a chunk.
                let error = log.exp() * (exp_error(log) + 8.0 * log.abs());
                head.decay.push(Term::with_error(log.exp(), error));
            }
        }
        head
    }

    /// `y`, named so, and `last_state`.
    pub(super) fn outputs(&self, inputs: &Tensors, y_name: &str) -> Outputs {
        let Sizes { batch, seq_len, heads, head_dim, state, .. } = self.sizes;
        let x = View(inputs.tensor(self.names[0]));
        let initial = inputs.get("initial_state").map(View);
        let lines = (MOST_UPDATES / (seq_len * state).max(1)).max(1);
        let all = batch * heads * head_dim <= lines;
        let rounding = if self.dtype == DType::F32 { 0.0 } else { self.dtype.unit_roundoff() / U };
        let (mut y, mut last) = (Vec::new(), Vec::new());
        for index in sample(batch * heads, if all { usize::MAX } else { 1 }) {
            let (b, h) = (index / heads, index % heads);
            let head = self.head(inputs, b, h);
            let scores = (rounding > 0.0).then(|| head.scores());
            for p in sample(head_dim, if all { usize::MAX } else { (lines / 2).max(1) }) {
                let at = |t: usize| ((b * seq_len + t) * heads + h) * head_dim + p;
                let values: Vec<f64> = (0..seq_len).map(|t| x.get(at(t))).collect();
                let first = (index * head_dim + p) * state;
                let start =
                    (first..first + state).map(|i| initial.map_or(0.0, |h| h.get(i))).collect();
                let line = head.line(&values, start, scores.as_deref());
                let with = |mut term: Term, rounded: f64| {
                    term.error += rounding * rounded;
                    term
                };
                y.extend((0..seq_len).map(|t| (at(t), with(line.y[t], line.y_rounded[t]))));
                last.extend(
                    (0..state).map(|n| (first + n, with(line.last[n], line.last_rounded[n]))),
                );
            }
        }
        Outputs::new()
            .with(y_name, expected(&self.sizes.values(), y, self.dtype))
            .with("last_state", expected(&self.sizes.states(), last, self.dtype))
    }
}
