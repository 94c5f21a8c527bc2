//! A small network trained end to end on a real text in several precisions: what each loses, and why f16
//! needs its loss scaled.
//!
//! The network predicts a character from the two before it: embeddings, two hidden layers of sigmoids, a
//! softmax. A step sees the whole text at once, as counts of what follows each pair of characters, so every
//! run is exact and repeatable. What tensor cores do is done here on the CPU: operands are rounded into the
//! format, products are summed in f32, and the result is rounded again. The loss of a step carries the weight
//! of one micro-batch among [`MICRO_BATCHES`], as when a large batch is accumulated: its gradients are so
//! small that many of them fall below the smallest f16.

use std::collections::BTreeMap;

use half::{bf16, f16};
use serde::{Deserialize, Serialize};
use touchstone_reference::{
    DType, Draw,
    precision::{
        Sizes,
        adamw::{self, Constants},
        format::{Format, Rounding},
        loss_scale::{self, Fault},
    },
};

use crate::corpus::Corpus;

/// Characters that are told apart: the most frequent ones. Others are left out.
const SYMBOLS: usize = 32;
/// Pairs of characters a text may have at most; rarer ones are left out.
const CONTEXTS: usize = 512;
/// Columns of the embedding of a character.
const EMBEDDING: usize = 8;
/// Width of the two hidden layers.
const HIDDEN: usize = 32;
/// Steps of a run.
const STEPS: usize = 160;
/// Micro-batches of a batch: the loss of each carries that part of the whole.
pub const MICRO_BATCHES: usize = 4096;
/// Scale of the loss at the start of a scaled run.
const SCALE: f32 = 65_536.0;

/// How one run computes.
#[derive(Clone, Copy, Debug)]
struct Recipe {
    name: &'static str,
    /// Format of weights and activations.
    forward: Format,
    /// Format of the gradients that flow back.
    backward: Format,
    /// Format in which gradients of weights are kept until the step.
    gradients: Format,
    /// Whether the loss is scaled.
    scaled: bool,
    /// Format of the weights between steps, and how they are rounded into it: f32 is a master copy.
    kept: (Format, Rounding),
}

impl Recipe {
    /// The passes of a step: the check of scaled gradients, the update, which also writes the narrow copy of the
    /// weights, and a cast where the weights are narrower than the gradients.
    fn passes(&self) -> Vec<Pass> {
        let pass = |op: &str, with: &[(&str, Format)]| Pass {
            op: op.into(),
            with: with.iter().map(|(key, f)| ((*key).into(), f.name().into())).collect(),
        };
        if self.kept != MASTER {
            return Vec::new();
        }
        let mut passes = vec![pass("precision.adamw", &[("dtype", self.gradients)])];
        if self.scaled {
            passes.push(pass("precision.loss_scale", &[("dtype", self.gradients)]));
        }
        if self.forward != self.gradients {
            passes.push(pass("precision.cast", &[("from", Format::F32), ("to", self.forward)]));
        }
        passes
    }
}

const MASTER: (Format, Rounding) = (Format::F32, Rounding::NearestEven);

const fn mixed(name: &'static str, format: Format, scaled: bool) -> Recipe {
    let (forward, backward, gradients) = (format, format, format);
    Recipe { name, forward, backward, gradients, scaled, kept: MASTER }
}

const fn without_master(name: &'static str, rounding: Rounding) -> Recipe {
    Recipe { kept: (Format::Bf16, rounding), ..mixed(name, Format::Bf16, false) }
}

const RECIPES: [Recipe; 7] = [
    mixed("f32", Format::F32, false),
    mixed("bf16", Format::Bf16, false),
    mixed("f16", Format::F16, false),
    mixed("f16, loss scaled", Format::F16, true),
    Recipe {
        backward: Format::E5m2,
        gradients: Format::F16,
        ..mixed("fp8, loss scaled", Format::E4m3, true)
    },
    without_master("bf16 without master weights", Rounding::NearestEven),
    without_master("the same, stochastic rounding", Rounding::Stochastic),
];

/// What the runs found on one corpus.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MixedPrecision {
    /// Characters of the text that were predicted.
    pub predicted: usize,
    /// Parameters of the network.
    pub parameters: usize,
    /// Steps of each run.
    pub steps: usize,
    /// Micro-batches of a batch.
    pub micro_batches: usize,
    /// Entropy of a character alone, in nats: the loss of knowing frequencies only.
    pub entropy: f64,
    /// Entropy of a character after two others: the least loss there is.
    pub entropy_in_context: f64,
    /// The runs.
    pub runs: Vec<Run>,
}

/// A kernel of this suite that a step of training runs over all parameters: an operation, and parameters of its cases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pass {
    /// The operation.
    pub op: String,
    /// Parameters and values that its cases must have.
    pub with: Vec<(String, String)>,
}

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Its precision in words.
    pub name: String,
    /// What a step does to all parameters once their gradients are there; empty where this suite has no such kernels.
    #[serde(default)]
    pub passes: Vec<Pass>,
    /// Bytes a parameter takes in training: weights kept and computed with, gradient, two moments in f32.
    pub bytes_per_parameter: usize,
    /// Mean loss of a character before each step, in nats.
    pub losses: Vec<f64>,
    /// Share of the gradients of weights that are zero, over all steps.
    pub zero_gradients: f64,
    /// Steps skipped because a gradient was not finite.
    pub skipped: usize,
    /// Scale of the loss at the end.
    pub scale: f64,
}

impl Run {
    /// Mean loss over the last tenth of the run.
    pub fn final_loss(&self) -> f64 {
        let tail = &self.losses[self.losses.len() - self.losses.len().div_ceil(10)..];
        tail.iter().sum::<f64>() / tail.len() as f64
    }
}

/// The text as the network sees it: pairs of characters, and how often each character follows.
struct Text {
    symbols: usize,
    pairs: Vec<[usize; 2]>,
    /// [pairs, symbols].
    follows: Vec<f32>,
    /// Characters predicted.
    total: f32,
}

impl Text {
    fn of(corpus: &Corpus) -> Self {
        let words = corpus.sentences().concat();
        let characters: Vec<char> = words.join(" ").to_lowercase().chars().collect();
        let mut counts: BTreeMap<char, usize> = BTreeMap::new();
        characters.iter().for_each(|&c| *counts.entry(c).or_default() += 1);
        let mut known: Vec<(char, usize)> = counts.into_iter().collect();
        known.sort_by_key(|&(c, count)| (std::cmp::Reverse(count), c));
        known.truncate(SYMBOLS);
        let ids: BTreeMap<char, usize> =
            known.iter().enumerate().map(|(id, &(c, _))| (c, id)).collect();
        let stream: Vec<usize> = characters.iter().filter_map(|c| ids.get(c).copied()).collect();
        let mut table: BTreeMap<[usize; 2], Vec<f32>> = BTreeMap::new();
        for three in stream.windows(3) {
            let row = table.entry([three[0], three[1]]).or_insert_with(|| vec![0.0; known.len()]);
            row[three[2]] += 1.0;
        }
        let mut rows: Vec<_> = table.into_iter().collect();
        rows.sort_by(|(_, a), (_, b)| b.iter().sum::<f32>().total_cmp(&a.iter().sum()));
        rows.truncate(CONTEXTS);
        let (pairs, follows): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
        let follows = follows.concat();
        Self { symbols: known.len(), pairs, total: follows.iter().sum(), follows }
    }

    /// Entropies in nats: of a character alone, and after its pair.
    fn entropies(&self) -> (f64, f64) {
        let surprise = |counts: &[f32]| {
            let all: f32 = counts.iter().sum();
            let term = |&count: &f32| -f64::from(count) * f64::from(count / all).ln();
            counts.iter().filter(|&&count| count > 0.0).map(term).sum::<f64>()
        };
        let rows = || self.follows.chunks(self.symbols.max(1));
        let mut alone = vec![0.0; self.symbols];
        rows().for_each(|row| alone.iter_mut().zip(row).for_each(|(sum, count)| *sum += count));
        let total = f64::from(self.total.max(1.0));
        (surprise(&alone) / total, rows().map(surprise).sum::<f64>() / total)
    }
}

/// Rounds every element; only 8-bit formats and random bits need the general rule.
fn round(values: &mut [f32], (format, rounding): (Format, Rounding), draw: &mut Draw) {
    match (format, rounding) {
        (Format::F32, _) => {}
        (Format::F16, Rounding::NearestEven) => {
            values.iter_mut().for_each(|x| *x = f16::from_f32(*x).to_f32());
        }
        (Format::Bf16, Rounding::NearestEven) => {
            values.iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32());
        }
        (_, Rounding::NearestEven) => {
            values
                .iter_mut()
                .for_each(|x| *x = format.round((*x).into(), rounding, 0, false) as f32);
        }
        (_, Rounding::Stochastic) => values.iter_mut().for_each(|x| {
            let u = draw.below(1 << 32) as u32;
            *x = format.round((*x).into(), rounding, u, false) as f32;
        }),
    }
}

/// Tensors of the network's parameters: embeddings [symbols, 8], then weight [in, out] and bias [out] of
/// each layer.
type Parameters = Vec<Vec<f32>>;

/// Widths from the input to the output.
fn widths(text: &Text) -> [usize; 4] {
    [2 * EMBEDDING, HIDDEN, HIDDEN, text.symbols]
}

fn initial(text: &Text, draw: &mut Draw) -> Parameters {
    let mut uniform = |n: usize, reach: f64| -> Vec<f32> {
        (0..n).map(|_| (reach * (2.0 * draw.unit() - 1.0)) as f32).collect()
    };
    let mut parameters = vec![uniform(text.symbols * EMBEDDING, 1.0)];
    for pair in widths(text).windows(2) {
        parameters.push(uniform(pair[0] * pair[1], (3.0 / pair[0] as f64).sqrt()));
        parameters.push(vec![0.0; pair[1]]);
    }
    parameters
}

/// One AdamW step of a tensor without decay, on gradients multiplied by `inverse`; its two moments are kept.
pub(crate) fn adam(
    theta: &mut [f32],
    gradients: &[f32],
    [first, second]: [&mut Vec<f32>; 2],
    inverse: f32,
    constants: &Constants,
) {
    for (((theta, g), m), v) in theta.iter_mut().zip(gradients).zip(first).zip(second) {
        let g = g * inverse;
        *m = constants.beta1 * *m + constants.rest1 * g;
        *v = constants.beta2 * *v + constants.rest2 * g * g;
        *theta -= constants.rate * *m / (v.sqrt() * constants.correction + constants.eps);
    }
}

/// One run in progress.
struct Network<'t> {
    text: &'t Text,
    recipe: Recipe,
    draw: Draw,
    /// The weights as kept between steps.
    parameters: Parameters,
    /// First and second moments.
    moments: [Parameters; 2],
}

impl<'t> Network<'t> {
    fn new(text: &'t Text, recipe: Recipe) -> Self {
        let mut draw = Draw::new(1);
        let parameters = initial(text, &mut draw);
        let zeros: Parameters = parameters.iter().map(|p| vec![0.0; p.len()]).collect();
        let mut this = Self { text, recipe, draw, parameters, moments: [zeros.clone(), zeros] };
        this.keep();
        this
    }

    /// Rounds the weights into the format they are kept in.
    fn keep(&mut self) {
        let kept = self.recipe.kept;
        self.parameters.iter_mut().for_each(|p| round(p, kept, &mut self.draw));
    }

    /// Activations of every layer for every pair, the last one the logits.
    fn forward(&mut self, weights: &Parameters) -> Vec<Vec<f32>> {
        let widths = widths(self.text);
        let embedding = |c: usize| &weights[0][c * EMBEDDING..][..EMBEDDING];
        let pairs = self.text.pairs.iter();
        let input = pairs.flat_map(|&[a, b]| [embedding(a), embedding(b)].concat()).collect();
        let mut activations: Vec<Vec<f32>> = vec![input];
        for layer in 0..3 {
            let (inputs, outputs) = (widths[layer], widths[layer + 1]);
            let (weight, bias) = (&weights[1 + 2 * layer], &weights[2 + 2 * layer]);
            let mut result = Vec::with_capacity(self.text.pairs.len() * outputs);
            for x in activations[layer].chunks(inputs) {
                let mut y = bias.clone();
                for (x, row) in x.iter().zip(weight.chunks(outputs)) {
                    y.iter_mut().zip(row).for_each(|(y, w)| *y += x * w);
                }
                result.extend(y);
            }
            if layer < 2 {
                result.iter_mut().for_each(|z| *z = 1.0 / (1.0 + (-*z).exp()));
                round(&mut result, (self.recipe.forward, Rounding::NearestEven), &mut self.draw);
            }
            activations.push(result);
        }
        activations
    }

    /// Mean loss of a character, and its gradient with respect to the logits, times `factor`.
    fn loss(&self, logits: &[f32], factor: f32) -> (f64, Vec<f32>) {
        let (n, total) = (self.text.symbols, self.text.total);
        let (mut loss, mut gradient) = (0.0, Vec::with_capacity(logits.len()));
        for (row, counts) in logits.chunks(n).zip(self.text.follows.chunks(n)) {
            let highest = row.iter().copied().fold(f32::MIN, f32::max);
            let normalizer = row.iter().map(|z| (z - highest).exp()).sum::<f32>().ln() + highest;
            let seen: f32 = counts.iter().sum();
            for (z, count) in row.iter().zip(counts) {
                loss -= f64::from(count * (z - normalizer));
                gradient.push(factor * (seen * (z - normalizer).exp() - count) / total);
            }
        }
        (loss / f64::from(total), gradient)
    }

    /// Gradients of all parameters from that of the logits.
    fn backward(
        &mut self,
        weights: &Parameters,
        activations: &[Vec<f32>],
        mut gradient: Vec<f32>,
    ) -> Parameters {
        let widths = widths(self.text);
        let flowing = (self.recipe.backward, Rounding::NearestEven);
        let mut gradients: Parameters = weights.iter().map(|w| vec![0.0; w.len()]).collect();
        round(&mut gradient, flowing, &mut self.draw);
        for layer in (0..3).rev() {
            let (inputs, outputs) = (widths[layer], widths[layer + 1]);
            let weight = &weights[1 + 2 * layer];
            let [d_weight, d_bias] = &mut gradients[1 + 2 * layer..][..2] else { unreachable!() };
            let mut below = Vec::with_capacity(activations[layer].len());
            for (x, g) in activations[layer].chunks(inputs).zip(gradient.chunks(outputs)) {
                d_bias.iter_mut().zip(g).for_each(|(sum, g)| *sum += g);
                let rows = weight.chunks(outputs).zip(d_weight.chunks_mut(outputs));
                for (x, (row, d_row)) in x.iter().zip(rows) {
                    d_row.iter_mut().zip(g).for_each(|(sum, g)| *sum += x * g);
                    let through: f32 = row.iter().zip(g).map(|(w, g)| w * g).sum();
                    below.push(if layer > 0 { through * x * (1.0 - x) } else { through });
                }
            }
            gradient = below;
            round(&mut gradient, flowing, &mut self.draw);
        }
        for (pair, g) in self.text.pairs.iter().zip(gradient.chunks(2 * EMBEDDING)) {
            for (c, g) in pair.iter().zip(g.chunks(EMBEDDING)) {
                let row = &mut gradients[0][c * EMBEDDING..][..EMBEDDING];
                row.iter_mut().zip(g).for_each(|(sum, g)| *sum += g);
            }
        }
        let stored = (self.recipe.gradients, Rounding::NearestEven);
        gradients.iter_mut().for_each(|g| round(g, stored, &mut self.draw));
        gradients
    }

    /// One AdamW step without decay, on gradients multiplied by `inverse`.
    fn step(&mut self, gradients: &Parameters, inverse: f32, constants: &Constants) {
        let [first, second] = &mut self.moments;
        let moments = first.iter_mut().zip(second);
        for ((theta, g), (m, v)) in self.parameters.iter_mut().zip(gradients).zip(moments) {
            adam(theta, g, [m, v], inverse, constants);
        }
        self.keep();
    }

    fn train(mut self) -> Run {
        let mut optimizer = optimizer();
        let rule = rule(self.recipe.scaled);
        let (mut scale, mut streak, mut skipped) = (rule.scale as f32, 0, 0);
        let (mut losses, mut zeros, mut seen) = (Vec::new(), 0, 0);
        for _ in 0..STEPS {
            let mut weights = self.parameters.clone();
            let narrow = (self.recipe.forward, Rounding::NearestEven);
            weights.iter_mut().for_each(|w| round(w, narrow, &mut self.draw));
            let activations = self.forward(&weights);
            let factor = scale / MICRO_BATCHES as f32;
            let (loss, gradient) = self.loss(&activations[3], factor);
            losses.push(loss);
            let gradients = self.backward(&weights, &activations, gradient);
            let all = || gradients.iter().flatten();
            zeros += all().filter(|&&g| g == 0.0).count();
            seen += all().count();
            let bad = all().any(|g| !g.is_finite());
            skipped += usize::from(bad);
            let inverse = 1.0 / factor;
            if self.recipe.scaled {
                (scale, streak) = loss_scale::next(&rule, scale, streak, bad);
            }
            if !bad {
                self.step(&gradients, inverse, &optimizer.constants());
                optimizer.step += 1;
            }
        }
        let bits = |format: Format| format.dtype().bytes();
        let copy =
            if self.recipe.forward == self.recipe.kept.0 { 0 } else { bits(self.recipe.forward) };
        Run {
            name: self.recipe.name.into(),
            passes: self.recipe.passes(),
            bytes_per_parameter: bits(self.recipe.kept.0) + copy + bits(self.recipe.gradients) + 8,
            losses,
            zero_gradients: zeros as f64 / (seen as f64).max(1.0),
            skipped,
            scale: scale.into(),
        }
    }
}

fn optimizer() -> adamw::Params {
    adamw::Params {
        tensors: 7,
        size: 0,
        sizes: Sizes::Equal,
        dtype: DType::F32,
        lr: 0.02,
        beta1: 0.9,
        beta2: 0.99,
        eps: 1e-8,
        weight_decay: 0.0,
        step: 1,
        scale: 1.0,
        skip: false,
    }
}

fn rule(scaled: bool) -> loss_scale::Params {
    loss_scale::Params {
        elements: 0,
        dtype: DType::F16,
        scale: if scaled { SCALE.into() } else { 1.0 },
        streak: 0,
        interval: 50,
        growth: 2.0,
        backoff: 0.5,
        fault: Fault::None,
    }
}

impl MixedPrecision {
    /// Trains the network on the text in every precision; seeded, so the same text gives the same result.
    pub fn run(corpus: &Corpus) -> Self {
        let text = Text::of(corpus);
        let (entropy, entropy_in_context) = text.entropies();
        let runs = std::thread::scope(|scope| {
            let text = &text;
            let run = |recipe| scope.spawn(move || Network::new(text, recipe).train());
            let threads: Vec<_> = RECIPES.into_iter().map(run).collect();
            threads.into_iter().map(|t| t.join().expect("a run does not panic")).collect()
        });
        Self {
            predicted: text.total as usize,
            parameters: initial(&text, &mut Draw::new(1)).iter().map(Vec::len).sum(),
            steps: STEPS,
            micro_batches: MICRO_BATCHES,
            entropy,
            entropy_in_context,
            runs,
        }
    }

    /// The run of that name.
    pub fn of(&self, name: &str) -> Option<&Run> {
        self.runs.iter().find(|run| run.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f16_fails_without_loss_scaling_and_holds_with_it() {
        let found = MixedPrecision::run(&Corpus::embedded());
        let loss = |name: &str| found.of(name).unwrap().final_loss();
        let (exact, gap) = (loss("f32"), found.entropy - loss("f32"));
        assert!(exact > found.entropy_in_context && gap > 0.5, "{exact} of {found:?}");
        // What f32 learned beyond frequencies, f16 without scaling loses by half; the others keep it.
        assert!(loss("f16") > exact + 0.3 * gap, "{} against {exact}", loss("f16"));
        for name in ["bf16", "f16, loss scaled", "fp8, loss scaled"] {
            assert!(loss(name) < exact + 0.1 * gap, "{name}: {} against {exact}", loss(name));
        }
        let zeros = |name: &str| found.of(name).unwrap().zero_gradients;
        assert!(zeros("f16") > 5.0 * zeros("f16, loss scaled"));
    }
}
