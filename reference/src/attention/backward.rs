//! Attention backward: gradients of queries, keys and values.

use serde::{Deserialize, Serialize};

use super::{
    Arithmetic, BUDGET, Known, Mask, Problem, Rows, U, attend, chain, default_scale, dot, one,
    sample, uncapped,
};
use crate::{
    algorithm::{Algorithm, Work},
    draw::Draw,
    expected::Outputs,
    tensor::{DType, Tensor, Tensors},
};

/// Gradients of attention from the gradient of its output, the output and the log-sum-exp.
///
/// | input | shape | dtype | meaning |
/// |---|---|---|---|
/// | `q` | `[batch, seq_q, heads_q, head_dim]` | `dtype` | queries, N(0, sd²) |
/// | `k` | `[batch, seq_k, heads_kv, head_dim]` | `dtype` | keys, N(0, sd²) |
/// | `v` | `[batch, seq_k, heads_kv, head_dim]` | `dtype` | values, N(0, 1) |
/// | `o` | `[batch, seq_q, heads_q, head_dim]` | `dtype` | output of the forward pass, as stored |
/// | `lse` | `[batch, heads_q, seq_q]` | f32 | log-sum-exp of the forward pass, as stored |
/// | `do` | `[batch, seq_q, heads_q, head_dim]` | `dtype` | gradient of the loss by `o`, N(0, 1) |
///
/// | output | shape | dtype | meaning |
/// |---|---|---|---|
/// | `dq` | `[batch, seq_q, heads_q, head_dim]` | `dtype` | `scale · Σ_j dS_ij k_j` |
/// | `dk` | `[batch, seq_k, heads_kv, head_dim]` | `dtype` | `scale · Σ_i dS_ij q_i`, over the query heads of the group too |
/// | `dv` | `[batch, seq_k, heads_kv, head_dim]` | `dtype` | `Σ_i P_ij do_i`, over the query heads of the group too |
///
/// `P_ij = exp(s_ij − lse_i)` from the stored log-sum-exp, `dP_ij = do_i · v_j`, `D_i = do_i · o_i`,
/// `dS_ij = P_ij (dP_ij − D_i)`, with a soft cap times its slope `1 − (s_ij / cap)²`. Source: Dao 2023, §3.1.2 and algorithm 2.
///
/// `o` and `lse` come from the reference forward pass. Where that would take more than 2²⁶ multiply-adds
/// they are stand-ins of the right size: for Gaussian keys `lse ≈ ln n + |q·scale·sd|²/2` (`ln n` and the cap where that
/// is less), and `o` is drawn with the variance of a mean of n values. The formulas above hold for any `o` and `lse`.
///
/// # Error model
/// With δ as in [`super`] (`M = |s| + |lse|`, one exponential), `T = Σ|do·v|` and `G = Σ|do·o|`:
/// `|ΔP| ≤ P·(expm1(δ) + ρ) + τ` and
/// `|ΔdS| ≤ P·[expm1(δ)·(|dP − D| + w) + w] + ρ·|dS| + τ·(1 + |dP − D|)` with
/// `w = u·(chain(head_dim) + 2)·(T + G)`, where ρ and τ are the relative and absolute rounding of a value
/// that enters a product in the storage type. A soft cap's slope g, off by Δg, makes the first three terms of `|ΔdS|`
/// `(g + Δg)` times as large and adds `|P·(dP − D)|·Δg`. The gradients then add `u·chain(n)·Σ|terms|` of their sums.
#[derive(Debug)]
pub struct Backward;

/// Parameters of [`Backward`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Batch elements.
    pub batch: usize,
    /// Queries of a batch element.
    pub seq_q: usize,
    /// Keys of a batch element.
    pub seq_k: usize,
    /// Query heads: a multiple of `heads_kv`.
    pub heads_q: usize,
    /// Key and value heads.
    pub heads_kv: usize,
    /// Values of one head.
    pub head_dim: usize,
    /// Which keys a query sees.
    #[serde(default)]
    pub mask: Mask,
    /// Keys a query sees with `mask=window`.
    #[serde(default)]
    pub window: usize,
    /// Factor on q · k; 1/√head_dim when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
    /// Bound that the scores approach, `softcap · tanh(s / softcap)`; absent: none.
    #[serde(default, skip_serializing_if = "uncapped")]
    pub softcap: f64,
    /// Standard deviation of queries and keys.
    #[serde(default = "one")]
    pub sd: f64,
    /// Element type of all tensors but `lse`.
    pub dtype: DType,
}

impl Params {
    /// The sizes, mask and scale.
    pub fn problem(&self) -> Problem {
        Problem {
            batch: self.batch,
            seq_q: self.seq_q,
            seq_k: self.seq_k,
            heads_q: self.heads_q,
            heads_kv: self.heads_kv,
            head_dim: self.head_dim,
            mask: self.mask,
            window: self.window,
            scale: self.scale.unwrap_or(default_scale(self.head_dim)),
            softcap: self.softcap,
            dtype: self.dtype,
        }
    }
}

impl Algorithm for Backward {
    const NAME: &'static str = "attention.backward";
    const SUMMARY: &'static str = "gradients of softmax(scale·QKᵀ)V by Q, K and V";
    const ITEMS: &'static str = "queries";
    type Params = Params;

    fn validate(p: &Params) -> Result<(), String> {
        if !(p.sd.is_finite() && p.sd >= 0.0) {
            return Err("sd must not be negative".into());
        }
        p.problem().validate()
    }

    fn inputs(p: &Params, draw: &mut Draw) -> Tensors {
        let of_queries = [p.batch, p.seq_q, p.heads_q, p.head_dim];
        let of_keys = [p.batch, p.seq_k, p.heads_kv, p.head_dim];
        let inputs = Tensors::new()
            .with("q", draw.normal(p.dtype, &of_queries, p.sd))
            .with("k", draw.normal(p.dtype, &of_keys, p.sd))
            .with("v", draw.normal(p.dtype, &of_keys, 1.0))
            .with("do", draw.normal(p.dtype, &of_queries, 1.0));
        let (o, lse) = forward_results(p, &inputs, draw);
        let shape = [p.batch, p.heads_q, p.seq_q];
        inputs
            .with("o", Tensor::from_real(p.dtype, &of_queries, &o))
            .with("lse", Tensor::from_real(DType::F32, &shape, &lse))
    }

    fn reference(p: &Params, inputs: &Tensors) -> Outputs {
        let problem = p.problem();
        let (mut dq, mut dk, mut dv) = (Known::default(), Known::default(), Known::default());
        for (bh, rows) in sample(p.batch * p.heads_q, p.seq_q, 2 * p.seq_k * p.head_dim) {
            let (b, h) = (bh / p.heads_q, bh % p.heads_q);
            let head = Head::new(p, inputs, b, h);
            for i in rows {
                let mut sum = Sum::new(p.head_dim);
                for j in problem.visible(i, p.seq_q, p.seq_k) {
                    let pair = head.pair(i, j);
                    sum.add(pair.ds, pair.ds_error, head.k.row(j));
                }
                dq.row(
                    problem.query(b, i, h),
                    &sum.value(p.scale()),
                    &sum.error(p.scale(), p.dtype),
                );
            }
        }
        let group = problem.group();
        let cost = 3 * group * p.seq_q * p.head_dim;
        for (bh, rows) in sample(p.batch * p.heads_kv, p.seq_k, cost) {
            let (b, h) = (bh / p.heads_kv, bh % p.heads_kv);
            let heads: Vec<Head> =
                (h * group..(h + 1) * group).map(|h| Head::new(p, inputs, b, h)).collect();
            for j in rows {
                let (mut k_sum, mut v_sum) = (Sum::new(p.head_dim), Sum::new(p.head_dim));
                for head in &heads {
                    let seeing = |&i: &usize| problem.visible(i, p.seq_q, p.seq_k).contains(&j);
                    for i in (0..p.seq_q).filter(seeing) {
                        let pair = head.pair(i, j);
                        k_sum.add(pair.ds, pair.ds_error, head.q.row(i));
                        v_sum.add(pair.p, pair.p_error, head.d_o.row(i));
                    }
                }
                let at = problem.key(b, j, h);
                dk.row(at, &k_sum.value(p.scale()), &k_sum.error(p.scale(), p.dtype));
                dv.row(at, &v_sum.value(1.0), &v_sum.error(1.0, p.dtype));
            }
        }
        let of_keys = [p.batch, p.seq_k, p.heads_kv, p.head_dim];
        Outputs::new()
            .with("dq", dq.expected(&[p.batch, p.seq_q, p.heads_q, p.head_dim], p.dtype))
            .with("dk", dk.expected(&of_keys, p.dtype))
            .with("dv", dv.expected(&of_keys, p.dtype))
    }

    /// `flops = 10·head_dim` a visible query-key pair and head (five products: S, dP, dV, dK, dQ);
    /// `bytes`: every input read once and every gradient written once; `items`: queries.
    fn work(p: &Params, inputs: &Tensors) -> Work {
        let pairs = p.problem().pairs(p.seq_q, p.seq_k);
        let gradients =
            ["q", "k", "v"].map(|name| inputs.tensor(name).bytes()).iter().sum::<usize>();
        Work {
            flops: 10.0 * (p.batch * p.heads_q * p.head_dim) as f64 * pairs,
            bytes: (inputs.bytes() + gradients) as f64,
            items: (p.batch * p.seq_q) as f64,
            matrix: true,
            eight_bit: false,
        }
    }
}

impl Params {
    fn scale(&self) -> f64 {
        self.problem().scale
    }
}

/// `o` and `lse` of the forward pass, or stand-ins when it would take too long.
fn forward_results(p: &Params, inputs: &Tensors, draw: &mut Draw) -> (Vec<f64>, Vec<f64>) {
    let problem = p.problem();
    let mut o = vec![0.0; p.batch * p.seq_q * p.heads_q * p.head_dim];
    let mut lse = vec![f64::NEG_INFINITY; p.batch * p.heads_q * p.seq_q];
    let affordable = o.len().saturating_mul(p.seq_k) <= BUDGET;
    for bh in 0..p.batch * p.heads_q {
        let (b, h) = (bh / p.heads_q, bh % p.heads_q);
        let q = problem.query_rows(inputs.tensor("q"), b, h);
        let keys = affordable.then(|| {
            let head = h / problem.group();
            let rows = |name| problem.key_rows(inputs.tensor(name), b, head);
            (rows("k"), rows("v"))
        });
        for i in 0..p.seq_q {
            let visible = problem.visible(i, p.seq_q, p.seq_k);
            let n = visible.len() as f64;
            let row = &mut o[problem.query(b, i, h)..][..p.head_dim];
            let lse = &mut lse[bh * p.seq_q + i];
            if let Some((k, v)) = &keys {
                let attended = attend(&problem, Arithmetic::of(p.dtype), q.row(i), k, v, visible);
                row.copy_from_slice(&attended.o);
                *lse = attended.lse;
            } else if n > 0.0 {
                row.fill_with(|| draw.standard_normal() / n.sqrt());
                let factor = problem.scale * p.sd;
                let rise = factor * factor * dot(q.row(i), q.row(i)).0 / 2.0;
                *lse = n.ln() + if p.softcap > 0.0 { rise.min(p.softcap) } else { rise };
            }
        }
    }
    (o, lse)
}

/// Rows of one query head and of the key head it reads.
struct Head {
    q: Rows,
    k: Rows,
    v: Rows,
    d_o: Rows,
    lse: Vec<f64>,
    /// `do_i · o_i` and `Σ|do_i·o_i|`.
    d: Vec<(f64, f64)>,
    problem: Problem,
}

/// Probability and score gradient of a query and a key, with their absolute errors.
struct Pair {
    p: f64,
    p_error: f64,
    ds: f64,
    ds_error: f64,
}

impl Head {
    fn new(p: &Params, inputs: &Tensors, b: usize, h: usize) -> Self {
        let problem: Problem = p.problem();
        let of_queries = |name| problem.query_rows(inputs.tensor(name), b, h);
        let of_keys = |name| problem.key_rows(inputs.tensor(name), b, h / problem.group());
        let (o, d_o) = (of_queries("o"), of_queries("do"));
        let start = (b * p.heads_q + h) * p.seq_q;
        Self {
            d: (0..p.seq_q).map(|i| dot(d_o.row(i), o.row(i))).collect(),
            lse: Rows::new(inputs.tensor("lse"), p.seq_q, [start].into_iter()).values,
            q: of_queries("q"),
            k: of_keys("k"),
            v: of_keys("v"),
            d_o,
            problem,
        }
    }

    fn pair(&self, i: usize, j: usize) -> Pair {
        let Problem { scale, dtype, .. } = self.problem;
        let (sum, magnitude) = dot(self.q.row(i), self.k.row(j));
        let (sums, lse) = (chain(self.q.width, dtype), self.lse[i]);
        let s = self.problem.score(scale * sum, U * (sums + 4.0) * scale * magnitude);
        let delta = s.error + U * (8.0 * (s.value.abs() + lse.abs()) + 8.0);
        let factor = delta.min(700.0).exp_m1();
        let (dp, t) = dot(self.d_o.row(i), self.v.row(j));
        let (d, g) = self.d[i];
        let Arithmetic { probability: rho, tiny: tau, .. } = Arithmetic::of(dtype);
        let w = U * (sums + 2.0) * (t + g);
        let p = (s.value - lse).exp();
        let by_score = p * (dp - d);
        let by_score_error = p * (factor * ((dp - d).abs() + w) + w);
        let ds = by_score * s.slope;
        Pair {
            p,
            p_error: p * (factor + rho) + tau,
            ds,
            ds_error: by_score_error * (s.slope + s.slope_error)
                + by_score.abs() * s.slope_error
                + rho * ds.abs()
                + tau * (1.0 + (dp - d).abs()),
        }
    }
}

/// `Σ weight · row`, with the error that the weights bring and the magnitude of the sum.
struct Sum {
    sum: Vec<f64>,
    brought: Vec<f64>,
    magnitude: Vec<f64>,
    terms: usize,
}

impl Sum {
    fn new(width: usize) -> Self {
        let zero = vec![0.0; width];
        Self { sum: zero.clone(), brought: zero.clone(), magnitude: zero, terms: 0 }
    }

    fn add(&mut self, weight: f64, weight_error: f64, row: &[f64]) {
        self.terms += 1;
        for (d, &x) in row.iter().enumerate() {
            self.sum[d] += weight * x;
            self.brought[d] += weight_error * x.abs();
            self.magnitude[d] += (weight * x).abs();
        }
    }

    fn value(&self, scale: f64) -> Vec<f64> {
        self.sum.iter().map(|x| scale * x).collect()
    }

    /// A sum over the group may be of partial sums: two more roundings, and two of the scale.
    fn error(&self, scale: f64, dtype: DType) -> Vec<f64> {
        let sums = U * (chain(self.terms, dtype) + 4.0);
        let pairs = self.brought.iter().zip(&self.magnitude);
        pairs.map(|(brought, magnitude)| scale * (brought + sums * (brought + magnitude))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_keys_by_hand() {
        // Scores 0 and ln 3 with values 8 and 4: P = (1/4, 3/4), o = 5, dP − D = (3, −1), so
        // dS = (3/4, −3/4): dq = −3/4·ln 3, dk = dS, dv = P.
        let p = Params {
            batch: 1,
            seq_q: 1,
            seq_k: 2,
            heads_q: 1,
            heads_kv: 1,
            head_dim: 1,
            mask: Mask::Full,
            window: 0,
            scale: None,
            softcap: 0.0,
            sd: 1.0,
            dtype: DType::F32,
        };
        let ln3 = 3f64.ln();
        let rows = |values: &[f64]| Tensor::from_real(DType::F32, &[1, values.len(), 1, 1], values);
        let inputs = Tensors::new()
            .with("q", rows(&[1.0]))
            .with("k", rows(&[0.0, ln3]))
            .with("v", rows(&[8.0, 4.0]))
            .with("do", rows(&[1.0]))
            .with("o", rows(&[5.0]))
            .with("lse", Tensor::from_real(DType::F32, &[1, 1, 1], &[4f64.ln()]));
        let outputs = Backward::reference(&p, &inputs);
        let wanted =
            [("dq", vec![-0.75 * ln3]), ("dk", vec![0.75, -0.75]), ("dv", vec![0.25, 0.75])];
        for (name, want) in wanted {
            for (got, want) in outputs.output(name).values().iter().zip(&want) {
                assert!((got - want).abs() < 1e-6, "{name}: {got} is not {want}");
            }
        }
    }
}
