//! Attention forward: the output and the log-sum-exp of every query.

use serde::{Deserialize, Serialize};

use super::{
    Arithmetic, Known, Lengths, Mask, Problem, Rows, attend, default_scale, draw_both_lengths, one,
    sample, uncapped,
};
use crate::{
    algorithm::{Algorithm, Work},
    draw::Draw,
    expected::Outputs,
    tensor::{DType, Tensors},
};

/// Scaled dot-product attention of all queries of a batch.
///
/// | input | shape | dtype | meaning |
/// |---|---|---|---|
/// | `q` | `[batch, seq_q, heads_q, head_dim]` | `dtype` | queries, N(0, sd²) |
/// | `k` | `[batch, seq_k, heads_kv, head_dim]` | `dtype` | keys, N(0, sd²) |
/// | `v` | `[batch, seq_k, heads_kv, head_dim]` | `dtype` | values, N(0, 1) |
/// | `lengths_q` | `[batch]` | i32 | queries of each batch element; the rows behind are padding |
/// | `lengths_k` | `[batch]` | i32 | keys of each batch element; the rows behind do not exist |
///
/// | output | shape | dtype | meaning |
/// |---|---|---|---|
/// | `o` | `[batch, seq_q, heads_q, head_dim]` | `dtype` | `Σ_j P_ij v_j`; 0 for padding and where no key is seen |
/// | `lse` | `[batch, heads_q, seq_q]` | f32 | `ln Σ_j exp(s_ij)`; −∞ for padding and where no key is seen |
///
/// Source: Vaswani et al. 2017, equation 1; the padded form of FlashAttention's variable lengths, whose
/// causal mask is aligned to the actual lengths. Notation and error model: see [`super`].
#[derive(Debug)]
pub struct Forward;

/// Parameters of [`Forward`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Batch elements.
    pub batch: usize,
    /// Queries of a batch element, padding included.
    pub seq_q: usize,
    /// Keys of a batch element, padding included.
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
    /// Whether batch elements have lengths of their own. Drawn together for queries and keys when
    /// `seq_q = seq_k`, else each on its own.
    #[serde(default)]
    pub lengths: Lengths,
    /// Factor on q · k; 1/√head_dim when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
    /// Bound that the scores approach, `softcap · tanh(s / softcap)`; absent: none.
    #[serde(default, skip_serializing_if = "uncapped")]
    pub softcap: f64,
    /// Standard deviation of queries and keys: scores have sd²·scale·√head_dim.
    #[serde(default = "one")]
    pub sd: f64,
    /// Element type of q, k, v and o.
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

impl Algorithm for Forward {
    const NAME: &'static str = "attention.forward";
    const SUMMARY: &'static str = "softmax(scale·QKᵀ)V with its log-sum-exp";
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
        let q = draw.normal(p.dtype, &of_queries, p.sd);
        let k = draw.normal(p.dtype, &of_keys, p.sd);
        let v = draw.normal(p.dtype, &of_keys, 1.0);
        let [lengths_q, lengths_k] =
            draw_both_lengths(p.lengths, p.batch, [p.seq_q, p.seq_k], draw);
        Tensors::new()
            .with("q", q)
            .with("k", k)
            .with("v", v)
            .with("lengths_q", lengths_q)
            .with("lengths_k", lengths_k)
    }

    fn reference(p: &Params, inputs: &Tensors) -> Outputs {
        let problem = p.problem();
        outputs(&problem, Arithmetic::of(p.dtype), inputs, |b, h| {
            let head = h / problem.group();
            [
                problem.query_rows(inputs.tensor("q"), b, h),
                problem.key_rows(inputs.tensor("k"), b, head),
                problem.key_rows(inputs.tensor("v"), b, head),
            ]
        })
    }

    /// `flops = 4·head_dim` a visible query-key pair and head (two products); `bytes`: valid rows of q, k
    /// and v read once, o and lse written once; `items`: valid queries.
    fn work(p: &Params, inputs: &Tensors) -> Work {
        work(&p.problem(), p.dtype.bytes(), inputs)
    }
}

/// The answer to a problem, whose `rows` of q, k and v are those of a batch element and query head.
pub(super) fn outputs(
    problem: &Problem,
    arithmetic: Arithmetic,
    inputs: &Tensors,
    rows: impl Fn(usize, usize) -> [Rows; 3],
) -> Outputs {
    let &Problem { batch, seq_q, seq_k, heads_q, head_dim, dtype, .. } = problem;
    let lengths = lengths(inputs);
    let (mut o, mut lse) = (Known::default(), Known::default());
    for (bh, queries) in sample(batch * heads_q, seq_q, seq_k * head_dim) {
        let (b, h) = (bh / heads_q, bh % heads_q);
        let [q, k, v] = rows(b, h);
        for i in queries {
            let visible = problem.visible(i, lengths[b].0, lengths[b].1);
            let row = attend(problem, arithmetic, q.row(i), &k, &v, visible);
            o.row(problem.query(b, i, h), &row.o, &row.o_error);
            lse.row(bh * seq_q + i, &[row.lse], &[row.lse_error]);
        }
    }
    Outputs::new()
        .with("o", o.expected(&[batch, seq_q, heads_q, head_dim], dtype))
        .with("lse", lse.expected(&[batch, heads_q, seq_q], DType::F32))
}

/// The work of a problem whose q, k and v have elements of `input_bytes`.
pub(super) fn work(problem: &Problem, input_bytes: usize, inputs: &Tensors) -> Work {
    let &Problem { batch, seq_q, heads_q, heads_kv, head_dim, dtype, .. } = problem;
    let mut work = Work { matrix: true, ..Work::default() };
    for (queries, keys) in lengths(inputs) {
        work.flops += 4.0 * (head_dim * heads_q) as f64 * problem.pairs(queries, keys);
        let rows = queries * heads_q + 2 * keys * heads_kv;
        work.bytes += (input_bytes * head_dim * rows) as f64;
        work.items += queries as f64;
    }
    work.bytes += (batch * seq_q * heads_q * (head_dim * dtype.bytes() + 4)) as f64;
    work
}

/// Queries and keys of each batch element.
fn lengths(inputs: &Tensors) -> Vec<(usize, usize)> {
    let queries = inputs.tensor("lengths_q").to_i64();
    let keys = inputs.tensor("lengths_k").to_i64();
    queries.iter().zip(keys).map(|(&q, k)| (q as usize, k as usize)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{expected::Expected, tensor::Tensor};

    fn params(seq_q: usize, seq_k: usize, mask: Mask) -> Params {
        Params {
            batch: 1,
            seq_q,
            seq_k,
            heads_q: 1,
            heads_kv: 1,
            head_dim: 1,
            mask,
            window: usize::from(mask == Mask::Window),
            lengths: Lengths::Full,
            scale: None,
            softcap: 0.0,
            sd: 1.0,
            dtype: DType::F32,
        }
    }

    fn inputs(p: &Params, q: &[f64], k: &[f64], v: &[f64]) -> Tensors {
        let real = |values: &[f64]| Tensor::from_real(DType::F32, &[1, values.len(), 1, 1], values);
        let length = |n: usize| Tensor::from_integers(DType::I32, &[1], &[n as i64]);
        Tensors::new()
            .with("q", real(q))
            .with("k", real(k))
            .with("v", real(v))
            .with("lengths_q", length(p.seq_q))
            .with("lengths_k", length(p.seq_k))
    }

    fn close(got: &Expected, want: &[f64]) {
        let got = got.values();
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(want) {
            assert!(got == want || (got - want).abs() < 1e-7, "{got} is not {want}");
        }
    }

    #[test]
    fn two_keys_by_hand() {
        // Scores 0 and ln 3: probabilities 1/4 and 3/4; lse = ln 4.
        let p = params(1, 2, Mask::Full);
        let ln3 = 3f64.ln();
        let outputs = Forward::reference(&p, &inputs(&p, &[1.0], &[0.0, ln3], &[8.0, 4.0]));
        close(outputs.output("o"), &[5.0]);
        close(outputs.output("lse"), &[4f64.ln()]);
    }

    #[test]
    fn two_capped_keys_by_hand() {
        // tanh(ln 2) = 3/5, so a cap of 5 turns the scores 0 and 5·ln 2 into 0 and 3.
        let p = Params { softcap: 5.0, ..params(1, 2, Mask::Full) };
        let tensors = inputs(&p, &[1.0], &[0.0, 5.0 * 2f64.ln()], &[1.0, 0.0]);
        let outputs = Forward::reference(&p, &tensors);
        close(outputs.output("o"), &[1.0 / (1.0 + 3f64.exp())]);
        close(outputs.output("lse"), &[(1.0 + 3f64.exp()).ln()]);
    }

    #[test]
    fn a_causal_query_before_all_keys_sees_nothing() {
        let p = params(3, 2, Mask::Causal);
        let tensors = inputs(&p, &[1.0; 3], &[0.0, 0.0], &[2.0, 4.0]);
        let outputs = Forward::reference(&p, &tensors);
        close(outputs.output("o"), &[0.0, 2.0, 3.0]);
        close(outputs.output("lse"), &[f64::NEG_INFINITY, 0.0, 2f64.ln()]);
    }

    #[test]
    fn a_window_of_one_copies_the_value_of_the_own_position() {
        let p = params(3, 3, Mask::Window);
        let tensors = inputs(&p, &[1.0, 2.0, 3.0], &[1.0, 1.0, 1.0], &[7.0, 8.0, 9.0]);
        let outputs = Forward::reference(&p, &tensors);
        close(outputs.output("o"), &[7.0, 8.0, 9.0]);
        close(outputs.output("lse"), &[1.0, 2.0, 3.0]);
    }
}
