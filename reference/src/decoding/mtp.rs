//! Multi-token prediction: modules behind a shared trunk that are trained to guess further tokens.

use serde::{Deserialize, Serialize};

use super::{
    near::{self, Matrix, Row},
    transformer::{Block, Sizes},
};
use crate::{
    algorithm::{Algorithm, Work},
    draw::Draw,
    expected::{Expected, Outputs, Real, Tolerance},
    tensor::{DType, Tensor, Tensors},
};

/// Losses of `depth` modules that predict ever later tokens from the trunk's states of a sequence.
///
/// | input | shape | dtype | meaning |
/// |---|---|---|---|
/// | `h` | `[batch, seq_len, hidden]` | f32 | states of the trunk, h⁰, N(0, 1) |
/// | `tokens` | `[batch, seq_len + 1]` | i32 | the sequence t₀ … t_T; state i belongs to t_i |
/// | `norm_h`, `norm_e`, sequential only | `[depth, hidden]` | f32 | gains of the norms of state and embedding |
/// | `proj`, sequential only | `[depth, hidden, 2·hidden]` | f32 | M_k |
/// | `emb`, sequential only | `[vocab, hidden]` | f32 | embeddings, shared with the trunk |
/// | `norm_a`, `norm_m` | `[depth, hidden]` | f32 | gains before attention and MLP |
/// | `wq`, `wk`, `wv`, `wo` | `[depth, hidden, hidden]` | f32 | attention |
/// | `up` | `[depth, 2·ffn, hidden]` | f32 | the MLP's gates, then its values |
/// | `down` | `[depth, hidden, ffn]` | f32 | the MLP's way back |
/// | `lm` | `[vocab, hidden]` | f32 | output layer, shared with the trunk |
///
/// | output | shape | dtype | meaning |
/// |---|---|---|---|
/// | `losses` | `[depth, batch, seq_len]` | f32 | −ln P of the target at each place; 0 where there is none |
/// | `loss` | `[depth + 1]` | f32 | of each depth `1/(batch·seq_len) · Σ losses`; last `λ/depth · Σ` of them |
///
/// With `k = 1 … depth`, and `Block` a pre-norm Transformer block: `x += W_o·attention(RMSNorm(x))`, causal with
/// `heads` heads of `hidden/heads` values and scores scaled by the root of that; `x += down·(SiLU(g) ⊙ u)`,
/// `[g; u] = up·RMSNorm(x)`. RMSNorm(x) = gain ⊙ x / √(mean x² + 10⁻⁶).
///
/// - `scheme = parallel`: `hᵏ = Block_k(h⁰)`; the target of place i is `t_{i+k}`.
/// - `scheme = sequential`: `hᵏ_i = Block_k(M_k [RMSNorm(hᵏ⁻¹_i); RMSNorm(Emb(t_{i+k}))])`; the target is
///   `t_{i+k+1}`.
///
/// A place whose target lies behind the sequence counts nothing, and later places do not reach earlier ones.
/// P = softmax(lm · hᵏ). Sources: Gloeckle et al. 2024, "Better & Faster Large Language Models via Multi-token
/// Prediction", section 2 (parallel); DeepSeek-AI 2024, "DeepSeek-V3 Technical Report", section 2.2, equations 21 to 25
/// (sequential, the mean over T places and λ/D). Ours are: no positional encoding, plain multi-head attention
/// (DeepSeek-V3 has its latent attention and experts there), and no norm before the output layer.
///
/// # Error model
/// See [`near`]: rows carry a bound of their error's Euclidean norm through every step.
#[derive(Debug)]
pub struct Mtp;

/// How the modules hang together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scheme {
    /// Each from the trunk's states.
    Parallel,
    /// Each from the states of the one before and the token it guessed.
    Sequential,
}

/// Parameters of [`Mtp`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// How the modules hang together.
    pub scheme: Scheme,
    /// Sequences.
    pub batch: usize,
    /// States of a sequence, T.
    pub seq_len: usize,
    /// Values of a state.
    pub hidden: usize,
    /// Attention heads: a divisor of `hidden`.
    pub heads: usize,
    /// Values between the MLP's layers.
    pub ffn: usize,
    /// Tokens to choose from.
    pub vocab: usize,
    /// Modules, D.
    pub depth: usize,
    /// Weight of the loss, λ.
    pub lambda: f64,
    /// Element type; f32.
    pub dtype: DType,
}

impl Params {
    /// Whether modules follow one another.
    pub fn sequential(&self) -> bool {
        self.scheme == Scheme::Sequential
    }

    /// How many places behind its state the target of depth `k` (from 1) stands.
    pub fn ahead(&self, k: usize) -> usize {
        k + usize::from(self.sequential())
    }

    /// Places of a sequence that have a target at depth `k` (from 1).
    pub fn places(&self, k: usize) -> usize {
        (self.seq_len + 1).saturating_sub(self.ahead(k))
    }

    fn sizes(&self) -> Sizes {
        Sizes { hidden: self.hidden, heads: self.heads, ffn: self.ffn }
    }

    /// [depth, batch, seq_len].
    pub fn losses(&self) -> [usize; 3] {
        [self.depth, self.batch, self.seq_len]
    }

    /// Weights by name with their shapes and standard deviations; gains have none. The branches are weaker than the
    /// states they are added to, as when a net begins to be trained: bounds grow with their gains from step to step, and
    /// at twice that size those of a second module in a row would be wider than the losses differ.
    fn weights(&self) -> Vec<(&'static str, Vec<usize>, Option<f64>)> {
        let (d, depth) = (self.hidden, self.depth);
        let sd = |columns: usize, factor: f64| Some(factor / (columns as f64).sqrt());
        let mut all = Vec::new();
        if self.sequential() {
            all.push(("norm_h", vec![depth, d], None));
            all.push(("norm_e", vec![depth, d], None));
            all.push(("proj", vec![depth, d, 2 * d], sd(2 * d, 1.0)));
            all.push(("emb", vec![self.vocab, d], Some(1.0)));
        }
        all.push(("norm_a", vec![depth, d], None));
        all.push(("norm_m", vec![depth, d], None));
        for name in ["wq", "wk", "wv", "wo"] {
            all.push((name, vec![depth, d, d], sd(d, 0.25)));
        }
        all.push(("up", vec![depth, 2 * self.ffn, d], sd(d, 0.25)));
        all.push(("down", vec![depth, d, self.ffn], sd(self.ffn, 0.25)));
        all.push(("lm", vec![self.vocab, d], sd(d, 1.0)));
        all
    }

    /// Multiply-adds of one place and depth, attention's products of places left out.
    fn per_place(&self) -> usize {
        let d = self.hidden;
        let proj = if self.sequential() { 2 * d * d } else { 0 };
        proj + 4 * d * d + 3 * d * self.ffn + self.vocab * d
    }

    /// Places of each sequence that the reference computes: all of them, or the first, which depend on no others.
    fn computed(&self) -> usize {
        const BUDGET: usize = 1 << 27;
        let each = self.per_place() * self.batch * self.depth;
        (BUDGET / each.max(1)).max(8).min(self.seq_len)
    }
}

impl Algorithm for Mtp {
    const NAME: &'static str = "decoding.mtp";
    const SUMMARY: &'static str =
        "losses of modules that predict further tokens behind a shared trunk";
    const ITEMS: &'static str = "predictions";
    type Params = Params;

    fn validate(p: &Params) -> Result<(), String> {
        if p.dtype != DType::F32 {
            return Err(format!("dtype must be f32, not {}", p.dtype.name()));
        }
        if p.hidden == 0 || p.ffn == 0 || p.vocab == 0 || p.seq_len == 0 || p.batch == 0 {
            return Err("batch, seq_len, hidden, ffn and vocab must be positive".into());
        }
        if p.heads == 0 || !p.hidden.is_multiple_of(p.heads) {
            return Err("heads must be a positive divisor of hidden".into());
        }
        if !(1..=8).contains(&p.depth) || (p.sequential() && p.depth > 2) {
            return Err("depth is 1 to 8, and at most 2 where modules follow one another: \
                        behind that, bounds would say nothing"
                .into());
        }
        if !(p.lambda.is_finite() && p.lambda >= 0.0) {
            return Err("lambda must not be negative".into());
        }
        let sizes = [p.batch, p.seq_len, p.hidden, p.ffn, p.vocab];
        if sizes.iter().any(|&n| n >= 1 << 20) || p.batch * p.seq_len >= 1 << 22 {
            return Err("sizes must be below 2^20, and places below 2^22".into());
        }
        Ok(())
    }

    fn inputs(p: &Params, draw: &mut Draw) -> Tensors {
        let h = draw.normal(DType::F32, &[p.batch, p.seq_len, p.hidden], 1.0);
        let tokens = [p.batch, p.seq_len + 1];
        let tokens = draw.integers(DType::I32, &tokens, |draw| draw.below(p.vocab) as i64);
        let mut inputs = Tensors::new().with("h", h).with("tokens", tokens);
        for (name, shape, sd) in p.weights() {
            let tensor = match sd {
                Some(sd) => draw.normal(DType::F32, &shape, sd),
                None => draw.uniform(DType::F32, &shape, 0.8, 1.2),
            };
            inputs.insert(name, tensor);
        }
        inputs
    }

    fn reference(p: &Params, inputs: &Tensors) -> Outputs {
        let (d, m) = (p.hidden, p.computed());
        let tokens = inputs.tensor("tokens").to_i64();
        let lm = Matrix::of(inputs, "lm", 0, p.vocab, d);
        let h = inputs.tensor("h").to_f64();
        let trunk = |b: usize, i: usize| Row::exact(&h[(b * p.seq_len + i) * d..][..d]);
        let states = |b: usize| (0..m).map(|i| trunk(b, i)).collect::<Vec<_>>();
        let mut before: Vec<Vec<Row>> = (0..p.batch).map(states).collect();
        let mut known = Vec::new();
        for k in 1..=p.depth {
            let block = Block::of(p.sizes(), inputs, k - 1);
            let entry = p.sequential().then(|| Entry::of(p, inputs, k - 1));
            for (b, state) in before.iter_mut().enumerate() {
                let tokens = &tokens[b * (p.seq_len + 1)..][..p.seq_len + 1];
                let places = p.places(k).min(m);
                let mut x = state[..places].to_vec();
                if let Some(entry) = &entry {
                    x = (0..places).map(|i| entry.join(&x[i], tokens[i + k] as usize)).collect();
                }
                let out = block.apply(&x);
                for i in 0..m {
                    let target = (i < places).then(|| tokens[i + p.ahead(k)] as usize);
                    let loss =
                        target.map_or((0.0, 0.0), |target| lm.cross_entropy(&out[i], target));
                    known.push((((k - 1) * p.batch + b) * p.seq_len + i, loss));
                }
                if p.sequential() {
                    *state = out;
                }
            }
        }
        outputs(p, &known)
    }

    /// `flops`: two a weight and place that has a target, and four a pair of places and value in attention; `bytes`:
    /// the inputs read once (of the embeddings, the rows of the tokens), the losses written; `items`: places that have
    /// a target.
    fn work(p: &Params, inputs: &Tensors) -> Work {
        let places = || (1..=p.depth).map(|k| (p.batch * p.places(k)) as f64);
        let pairs: f64 = places().map(|n| n * (n / p.batch as f64 + 1.0) / 2.0).sum();
        let all: f64 = places().sum();
        let skipped = match inputs.get("emb") {
            Some(emb) => emb.bytes().saturating_sub(inputs.tensor("tokens").len() * p.hidden * 4),
            None => 0,
        };
        let losses = 4 * (p.losses().iter().product::<usize>() + p.depth + 1);
        Work {
            flops: 2.0 * all * p.per_place() as f64 + 4.0 * p.hidden as f64 * pairs,
            bytes: (inputs.bytes() - skipped + losses) as f64,
            items: all,
            matrix: true,
            eight_bit: false,
        }
    }
}

/// What joins a state with the token behind it, in a sequential module.
struct Entry {
    norm_h: Vec<f64>,
    norm_e: Vec<f64>,
    proj: Matrix,
    emb: Tensor,
}

impl Entry {
    fn of(p: &Params, inputs: &Tensors, module: usize) -> Self {
        let d = p.hidden;
        let gain = |name| inputs.tensor(name).to_f64()[module * d..][..d].to_vec();
        let proj = Matrix::of(inputs, "proj", module, d, 2 * d);
        let emb = inputs.tensor("emb").clone();
        Self { norm_h: gain("norm_h"), norm_e: gain("norm_e"), proj, emb }
    }

    /// M [RMSNorm(state); RMSNorm(Emb(token))].
    fn join(&self, state: &Row, token: usize) -> Row {
        let d = self.norm_h.len();
        let embedding: Vec<f64> = (0..d).map(|i| self.emb.real_at(token * d + i)).collect();
        let (a, b) = (state.normed(&self.norm_h), Row::exact(&embedding).normed(&self.norm_e));
        self.proj.times(&a.beside(&b))
    }
}

/// Losses as outputs, known where the reference computed them: flat place and value with its error.
fn outputs(p: &Params, known: &[(usize, (f64, f64))]) -> Outputs {
    let tolerance = Tolerance { relative: 1.0, storage: DType::F32 };
    let mut sorted = known.to_vec();
    sorted.sort_by_key(|place| place.0);
    let shape = p.losses();
    let complete = sorted.len() == shape.iter().product::<usize>();
    let losses = Real {
        dtype: DType::F32,
        shape: shape.to_vec(),
        at: (!complete).then(|| sorted.iter().map(|k| k.0).collect()),
        value: sorted.iter().map(|k| k.1.0).collect(),
        // No target, no error.
        bound: sorted
            .iter()
            .map(|&(_, (v, e))| if e == 0.0 { 0.0 } else { tolerance.bound(v, e) })
            .collect(),
    };
    let each = p.batch * p.seq_len;
    let (mut value, mut bound) = (Vec::new(), Vec::new());
    if complete {
        for depth in 0..p.depth {
            let of_depth = depth * each..(depth + 1) * each;
            let mean = |all: &[f64]| all[of_depth.clone()].iter().sum::<f64>() / each as f64;
            let (v, e) = (mean(&losses.value), mean(&losses.bound));
            // A sum of positive numbers in any order.
            value.push(v);
            bound.push(e + near::SUM * each as f64 * v);
        }
        let sum = |all: &[f64]| p.lambda / p.depth as f64 * all.iter().sum::<f64>();
        let (v, e) = (sum(&value), sum(&bound));
        value.push(v);
        bound.push(e + near::SUM * (p.depth + 2) as f64 * v);
    }
    let at = (!complete).then(Vec::new);
    let loss = Real { dtype: DType::F32, shape: vec![p.depth + 1], at, value, bound };
    Outputs::new().with("losses", Expected::Real(losses)).with("loss", Expected::Real(loss))
}
