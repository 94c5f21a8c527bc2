//! The network and its training, rounded as a recipe says.

use half::{bf16, f16};
use touchstone_reference::{
    DType, Draw,
    precision::{
        Sizes,
        adamw::{self, Constants},
        format::{Format, Rounding},
        loss_scale::{self, Fault},
    },
};

use super::{MICRO_BATCHES, Run, STEPS, recipe::Recipe, text::Text};

/// Columns of the embedding of a character.
const EMBEDDING: usize = 8;
/// Width of the two hidden layers.
const HIDDEN: usize = 32;
/// Scale of the loss at the start of a scaled run.
const SCALE: f32 = 65_536.0;

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
pub(super) type Parameters = Vec<Vec<f32>>;

/// Widths from the input to the output.
fn widths(text: &Text) -> [usize; 4] {
    [2 * EMBEDDING, HIDDEN, HIDDEN, text.symbols]
}

/// Parameters before the first step: uniform weights, biases of zero.
pub(super) fn initial(text: &Text, draw: &mut Draw) -> Parameters {
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
pub(super) struct Network<'t> {
    text: &'t Text,
    recipe: Recipe,
    draw: Draw,
    /// The weights as kept between steps.
    parameters: Parameters,
    /// First and second moments.
    moments: [Parameters; 2],
}

impl<'t> Network<'t> {
    pub fn new(text: &'t Text, recipe: Recipe) -> Self {
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

    /// Takes the steps of one run.
    pub fn train(mut self) -> Run {
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
