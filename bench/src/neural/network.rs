//! The target's network on the CPU, forward and backward over one run of tokens: what its training needs.
//!
//! It is the network of `decoding.verification` with every token behind the one before; tests hold it against that
//! reference, and its gradients against differences.

use touchstone_reference::{
    DType, Data, Draw, Tensor, Tensors, attention, decoding::verification::Params,
};

/// ε of RMSNorm.
const EPSILON: f32 = 1e-6;

/// Places of the weights among [`Params::weights`].
const EMB: usize = 0;
const NORM_A: usize = 1;
const NORM_M: usize = 2;
const WQ: usize = 3;
const WO: usize = 6;
const UP: usize = 7;
const DOWN: usize = 8;
const NORM_F: usize = 9;
const LM: usize = 10;

/// Tensors of weights, or of their gradients, in the order of [`Params::weights`].
pub type Weights = Vec<Vec<f32>>;

/// A network: sizes and weights.
#[derive(Clone, Debug)]
pub struct Network {
    /// Its sizes; those of a batch do not matter.
    pub params: Params,
    /// Its weights.
    pub weights: Weights,
}

/// Σ a·b, eight partial sums side by side.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 8;
    let mut sums = [0.0f32; LANES];
    let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a.zip(b) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    rest + sums.iter().sum::<f32>()
}

/// to += factor · x.
fn add(to: &mut [f32], factor: f32, x: &[f32]) {
    to.iter_mut().zip(x).for_each(|(to, x)| *to += factor * x);
}

/// Rows of `x` times wᵀ, w [outputs, inputs].
fn product(x: &[f32], w: &[f32], inputs: usize) -> Vec<f32> {
    let one = |x| w.chunks_exact(inputs).map(move |w| dot(x, w));
    x.chunks_exact(inputs).flat_map(one).collect()
}

/// Of [`product`]: adds the gradient of w, returns that of x.
fn product_backward(dy: &[f32], x: &[f32], w: &[f32], dw: &mut [f32], inputs: usize) -> Vec<f32> {
    let outputs = w.len() / inputs;
    let mut dx = vec![0.0; x.len()];
    let rows = dy.chunks_exact(outputs).zip(x.chunks_exact(inputs));
    for ((dy, x), dx) in rows.zip(dx.chunks_exact_mut(inputs)) {
        let columns = w.chunks_exact(inputs).zip(dw.chunks_exact_mut(inputs));
        for (&g, (w, dw)) in dy.iter().zip(columns) {
            add(dx, g, w);
            add(dw, g, x);
        }
    }
    dx
}

/// 1 / √(mean x² + ε) of a row.
fn root(x: &[f32]) -> f32 {
    1.0 / (dot(x, x) / x.len() as f32 + EPSILON).sqrt()
}

fn norm(x: &[f32], gain: &[f32]) -> Vec<f32> {
    let one = |x: &[f32]| {
        let root = root(x);
        x.iter().zip(gain).map(|(x, g)| g * x * root).collect::<Vec<_>>()
    };
    x.chunks_exact(gain.len()).flat_map(one).collect()
}

/// Of [`norm`]: adds the gradient of the gains, and that of x to `dx`.
fn norm_backward(dy: &[f32], x: &[f32], gain: &[f32], d_gain: &mut [f32], dx: &mut [f32]) {
    let n = gain.len();
    let rows = dy.chunks_exact(n).zip(x.chunks_exact(n)).zip(dx.chunks_exact_mut(n));
    for ((dy, x), dx) in rows {
        let root = root(x);
        let along: f32 = dy.iter().zip(gain).zip(x).map(|((dy, g), x)| dy * g * x).sum();
        let back = along * root * root * root / n as f32;
        for i in 0..n {
            d_gain[i] += dy[i] * x[i] * root;
            dx[i] += dy[i] * gain[i] * root - x[i] * back;
        }
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// SiLU(g) ⊙ u of rows [g; u].
fn gated(both: &[f32], ffn: usize) -> Vec<f32> {
    let one = |row: &[f32]| {
        let (g, u) = row.split_at(ffn);
        g.iter().zip(u).map(|(&g, &u)| g * sigmoid(g) * u).collect::<Vec<_>>()
    };
    both.chunks_exact(2 * ffn).flat_map(one).collect()
}

fn gated_backward(dy: &[f32], both: &[f32], ffn: usize) -> Vec<f32> {
    let mut d_both = Vec::with_capacity(both.len());
    for (dy, row) in dy.chunks_exact(ffn).zip(both.chunks_exact(2 * ffn)) {
        let (g, u) = row.split_at(ffn);
        d_both.extend(dy.iter().zip(g).zip(u).map(|((dy, &g), &u)| {
            let s = sigmoid(g);
            dy * u * s * (1.0 + g * (1.0 - s))
        }));
        d_both.extend(dy.iter().zip(g).map(|(dy, &g)| dy * g * sigmoid(g)));
    }
    d_both
}

/// What a layer keeps for its gradients.
struct Layer {
    x: Vec<f32>,
    normed: Vec<f32>,
    /// q, k, v.
    seen: [Vec<f32>; 3],
    /// Probabilities [heads, tokens, tokens], of earlier tokens and the token itself.
    attention: Vec<f32>,
    attended: Vec<f32>,
    /// The state between attention and MLP.
    between: Vec<f32>,
    normed_between: Vec<f32>,
    both: Vec<f32>,
    gated: Vec<f32>,
}

/// What a run keeps for its gradients.
struct Tape {
    layers: Vec<Layer>,
    x: Vec<f32>,
    normed: Vec<f32>,
    /// [tokens, vocab].
    probabilities: Vec<f32>,
}

impl Network {
    /// Weights drawn for training: those that lead back into the states begin small.
    pub fn drawn(params: &Params, draw: &mut Draw) -> Self {
        let weights = params.weights().into_iter().map(|(name, shape, sd)| {
            let n = shape.iter().product();
            let factor = if matches!(name, "wo" | "down" | "lm") { 0.2 } else { 1.0 };
            let one = |sd: f64, draw: &mut Draw| (factor * sd * draw.standard_normal()) as f32;
            (0..n).map(|_| sd.map_or(1.0, |sd| one(sd, draw))).collect()
        });
        let weights = weights.collect();
        Self { params: params.clone(), weights }
    }

    /// The weights as inputs of `decoding.verification`.
    pub fn tensors(&self) -> Tensors {
        let mut tensors = Tensors::new();
        for ((name, shape, _), values) in self.params.weights().iter().zip(&self.weights) {
            tensors.insert(name, Tensor::new(shape, Data::F32(values.clone())));
        }
        tensors
    }

    /// Number of weights.
    pub fn parameters(&self) -> usize {
        self.weights.iter().map(Vec::len).sum()
    }

    /// A layer's share of a tensor.
    fn part<'w>(&self, weights: &'w Weights, which: usize, layer: usize) -> &'w [f32] {
        let each = weights[which].len() / self.params.layers;
        &weights[which][layer * each..][..each]
    }

    fn part_mut<'w>(&self, weights: &'w mut Weights, which: usize, layer: usize) -> &'w mut [f32] {
        let each = weights[which].len() / self.params.layers;
        &mut weights[which][layer * each..][..each]
    }

    /// Rows of `emb` of the tokens from place `window − 1` of a run on: those before it are context alone.
    fn ids(&self, tokens: &[u32]) -> Vec<usize> {
        let window = self.params.window;
        let of_place =
            |before: &[u32]| self.params.ids(before.iter().rev().map(|&token| token as i32));
        tokens.windows(window).flat_map(of_place).map(|id| id as usize).collect()
    }

    fn forward(&self, ids: &[usize]) -> Tape {
        let (d, w) = (self.params.hidden, &self.weights);
        let mut x = Vec::with_capacity(ids.len() / self.params.window * d);
        for ids in ids.chunks_exact(self.params.window) {
            let mut row = vec![0.0; d];
            ids.iter().for_each(|id| add(&mut row, 1.0, &w[EMB][id * d..][..d]));
            x.extend(row);
        }
        let mut layers = Vec::new();
        for layer in 0..self.params.layers {
            let part = |which| self.part(w, which, layer);
            let normed = norm(&x, part(NORM_A));
            let seen = [0, 1, 2].map(|i| product(&normed, part(WQ + i), d));
            let (attention, attended) = self.attend(&seen);
            let mut between = product(&attended, part(WO), d);
            add(&mut between, 1.0, &x);
            let normed_between = norm(&between, part(NORM_M));
            let both = product(&normed_between, part(UP), d);
            let gated = gated(&both, self.params.ffn);
            let mut out = product(&gated, part(DOWN), self.params.ffn);
            add(&mut out, 1.0, &between);
            let x = std::mem::replace(&mut x, out);
            layers.push(Layer {
                x,
                normed,
                seen,
                attention,
                attended,
                between,
                normed_between,
                both,
                gated,
            });
        }
        let normed = norm(&x, &w[NORM_F]);
        let mut probabilities = product(&normed, &w[LM], d);
        probabilities.chunks_exact_mut(self.params.vocab).for_each(softmax);
        Tape { layers, x, normed, probabilities }
    }

    /// Places of a row's head.
    fn head(&self, row: usize, head: usize) -> std::ops::Range<usize> {
        let dim = self.params.hidden / self.params.heads;
        row * self.params.hidden + head * dim..row * self.params.hidden + (head + 1) * dim
    }

    fn scale(&self) -> f32 {
        attention::default_scale(self.params.hidden / self.params.heads) as f32
    }

    fn attend(&self, [q, k, v]: &[Vec<f32>; 3]) -> (Vec<f32>, Vec<f32>) {
        let (heads, n) = (self.params.heads, q.len() / self.params.hidden);
        let mut all = vec![0.0; heads * n * n];
        let mut out = vec![0.0; q.len()];
        for head in 0..heads {
            for i in 0..n {
                let p = &mut all[(head * n + i) * n..][..=i];
                let query = &q[self.head(i, head)];
                for (j, p) in p.iter_mut().enumerate() {
                    *p = self.scale() * dot(query, &k[self.head(j, head)]);
                }
                softmax(p);
                for (j, p) in p.iter().enumerate() {
                    add(&mut out[self.head(i, head)], *p, &v[self.head(j, head)]);
                }
            }
        }
        (all, out)
    }

    /// Gradients of q, k and v.
    fn attend_backward(&self, dy: &[f32], layer: &Layer) -> [Vec<f32>; 3] {
        let [q, k, v] = &layer.seen;
        let (heads, n) = (self.params.heads, q.len() / self.params.hidden);
        let [mut dq, mut dk, mut dv] = [0; 3].map(|_| vec![0.0; q.len()]);
        for head in 0..heads {
            for i in 0..n {
                let (p, own) = (&layer.attention[(head * n + i) * n..][..=i], self.head(i, head));
                let dy = &dy[own.clone()];
                let dp: Vec<f32> = (0..=i).map(|j| dot(dy, &v[self.head(j, head)])).collect();
                let mean = dot(&dp, p);
                for j in 0..=i {
                    let other = self.head(j, head);
                    let ds = self.scale() * p[j] * (dp[j] - mean);
                    add(&mut dq[own.clone()], ds, &k[other.clone()]);
                    add(&mut dk[other.clone()], ds, &q[own.clone()]);
                    add(&mut dv[other], p[j], dy);
                }
            }
        }
        [dq, dk, dv]
    }

    /// Σ −ln p of the tokens from place `window` of a run on, each after all that come before it in the run.
    pub fn loss(&self, tokens: &[u32]) -> f64 {
        let tape = self.forward(&self.ids(&tokens[..tokens.len() - 1]));
        self.losses(&tape, tokens)
    }

    fn losses(&self, tape: &Tape, tokens: &[u32]) -> f64 {
        let targets = &tokens[self.params.window..];
        let rows = tape.probabilities.chunks_exact(self.params.vocab).zip(targets);
        rows.map(|(p, &t)| -f64::from(p[t as usize].max(f32::MIN_POSITIVE)).ln()).sum()
    }

    /// That loss, and its gradients times `factor` added to `gradients`.
    pub fn gradients(&self, tokens: &[u32], factor: f32, gradients: &mut Weights) -> f64 {
        let ids = self.ids(&tokens[..tokens.len() - 1]);
        let tape = self.forward(&ids);
        let mut d_logits = tape.probabilities.clone();
        let rows = d_logits.chunks_exact_mut(self.params.vocab);
        for (row, &target) in rows.zip(&tokens[self.params.window..]) {
            row[target as usize] -= 1.0;
            row.iter_mut().for_each(|x| *x *= factor);
        }
        let (d, w) = (self.params.hidden, &self.weights);
        let d_normed = product_backward(&d_logits, &tape.normed, &w[LM], &mut gradients[LM], d);
        let mut dx = vec![0.0; tape.x.len()];
        norm_backward(&d_normed, &tape.x, &w[NORM_F], &mut gradients[NORM_F], &mut dx);
        for (number, layer) in tape.layers.iter().enumerate().rev() {
            self.layer_backward(number, layer, &mut dx, gradients);
        }
        for (ids, dx) in ids.chunks_exact(self.params.window).zip(dx.chunks_exact(d)) {
            ids.iter().for_each(|id| add(&mut gradients[EMB][id * d..][..d], 1.0, dx));
        }
        self.losses(&tape, tokens)
    }

    /// From the gradient of a layer's output to that of its input, both in `dx`.
    fn layer_backward(
        &self,
        number: usize,
        layer: &Layer,
        dx: &mut [f32],
        gradients: &mut Weights,
    ) {
        let (d, ffn, w) = (self.params.hidden, self.params.ffn, &self.weights);
        let part = |which| self.part(w, which, number);
        let mut back = |which: usize, dy: &[f32], x: &[f32], inputs: usize| {
            let dw = self.part_mut(gradients, which, number);
            product_backward(dy, x, part(which), dw, inputs)
        };
        let d_gated = back(DOWN, dx, &layer.gated, ffn);
        let d_both = gated_backward(&d_gated, &layer.both, ffn);
        let d_normed = back(UP, &d_both, &layer.normed_between, d);
        let d_gain = self.part_mut(gradients, NORM_M, number);
        norm_backward(&d_normed, &layer.between, part(NORM_M), d_gain, dx);
        let mut back = |which: usize, dy: &[f32], x: &[f32]| {
            let dw = self.part_mut(gradients, which, number);
            product_backward(dy, x, part(which), dw, d)
        };
        let d_attended = back(WO, dx, &layer.attended);
        let mut d_normed = vec![0.0; dx.len()];
        for (i, dy) in self.attend_backward(&d_attended, layer).iter().enumerate() {
            add(&mut d_normed, 1.0, &back(WQ + i, dy, &layer.normed));
        }
        let d_gain = self.part_mut(gradients, NORM_A, number);
        norm_backward(&d_normed, &layer.x, part(NORM_A), d_gain, dx);
    }
}

fn softmax(row: &mut [f32]) {
    let highest = row.iter().copied().fold(f32::MIN, f32::max);
    row.iter_mut().for_each(|x| *x = (*x - highest).exp());
    let total: f32 = row.iter().sum();
    row.iter_mut().for_each(|x| *x /= total);
}

/// Sizes of a network for tests and for training alike, whose batch is one run of no drafts.
pub fn sizes([hidden, heads, ffn, layers]: [usize; 4], [vocab, window]: [usize; 2]) -> Params {
    Params {
        batch: 1,
        nodes: 1,
        seq_k: 0,
        hidden,
        heads,
        ffn,
        layers,
        vocab,
        window,
        tree: Default::default(),
        drafts: Default::default(),
        lengths: Default::default(),
        dtype: DType::F32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network() -> (Network, Vec<u32>) {
        let mut draw = Draw::new(3);
        let params = sizes([8, 2, 12, 2], [5, 2]);
        let tokens = (0..9).map(|_| draw.below(5) as u32).collect();
        let mut network = Network::drawn(&params, &mut draw);
        // Far from the small weights that training begins with.
        for i in [WO, DOWN, LM] {
            network.weights[i].iter_mut().for_each(|w| *w *= 4.0);
        }
        (network, tokens)
    }

    #[test]
    fn gradients_are_those_of_differences() {
        let (network, tokens) = network();
        let mut gradients: Weights = network.weights.iter().map(|w| vec![0.0; w.len()]).collect();
        let loss = network.gradients(&tokens, 1.0, &mut gradients);
        assert!((loss - network.loss(&tokens)).abs() < 1e-6);
        for (which, gradients) in gradients.iter().enumerate() {
            for at in (0..gradients.len()).step_by(7) {
                let moved = |by: f32| {
                    let mut other = network.clone();
                    other.weights[which][at] += by;
                    other.loss(&tokens)
                };
                let slope = (moved(4e-3) - moved(-4e-3)) / 8e-3;
                let ours = f64::from(gradients[at]);
                let close = (slope - ours).abs() < 2e-3 * (1.0 + ours.abs());
                assert!(close, "weight {which} {at}: {slope} and {ours}");
            }
        }
    }
}
