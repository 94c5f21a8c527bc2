//! Training of the target: AdamW on runs of a real text, seeded, on threads whose sums are added in a fixed order.

use touchstone_reference::{
    DType, Draw,
    decoding::verification::Params,
    precision::{Sizes, adamw},
};

use super::network::{Network, Weights};
use crate::mixed_precision::adam;

/// Tokens of a run that are predicted.
pub const RUN: usize = 64;
/// Runs of a step, a thread each.
const RUNS: usize = 4;
/// Largest rate, reached after a twentieth of the steps; it falls from there to nothing.
const RATE: f64 = 6e-3;

/// A trained network and how its loss fell.
#[derive(Clone, Debug)]
pub struct Trained {
    /// The network.
    pub network: Network,
    /// Steps.
    pub steps: usize,
    /// Tokens that a step predicts.
    pub predicted: usize,
    /// Mean loss of a token in nats, over equal parts of the training in order.
    pub losses: Vec<f64>,
}

/// Points of the loss curve.
const POINTS: usize = 20;

/// Trains a network of these sizes on a stream of tokens for `steps` steps; seeded.
pub fn train(params: &Params, stream: &[u32], steps: usize) -> Trained {
    let mut draw = Draw::new(1);
    let mut network = Network::drawn(params, &mut draw);
    let zeros = || -> Weights { network.weights.iter().map(|w| vec![0.0; w.len()]).collect() };
    let mut moments = [zeros(), zeros()];
    let length = (params.window + RUN).min(stream.len());
    let each = length - params.window;
    let mut curve = [(0.0, 0usize); POINTS];
    for step in 0..steps {
        let runs = [0; RUNS].map(|_| &stream[draw.below(stream.len() - length + 1)..][..length]);
        let (loss, gradients) = together(&network, &runs, 1.0 / (RUNS * each) as f32);
        let (sum, tokens) = &mut curve[step * POINTS / steps];
        *sum += loss;
        *tokens += RUNS * each;
        let constants = optimizer(step, steps).constants();
        let [first, second] = &mut moments;
        for (i, theta) in network.weights.iter_mut().enumerate() {
            adam(theta, &gradients[i], [&mut first[i], &mut second[i]], 1.0, &constants);
        }
    }
    let losses = curve.iter().filter(|(_, n)| *n > 0).map(|(sum, n)| sum / *n as f64).collect();
    Trained { network, steps, predicted: RUNS * each, losses }
}

/// Loss and gradients of several runs, each on a thread of its own.
fn together(network: &Network, runs: &[&[u32]], factor: f32) -> (f64, Weights) {
    let one = |run: &[u32]| {
        let mut gradients: Weights = network.weights.iter().map(|w| vec![0.0; w.len()]).collect();
        (network.gradients(run, factor, &mut gradients), gradients)
    };
    let parts: Vec<(f64, Weights)> = std::thread::scope(|scope| {
        let threads: Vec<_> = runs.iter().map(|run| scope.spawn(|| one(run))).collect();
        threads.into_iter().map(|t| t.join().expect("a run does not panic")).collect()
    });
    let sum = |(loss, mut sums): (f64, Weights), (other, gradients): (f64, Weights)| {
        for (sums, gradients) in sums.iter_mut().zip(&gradients) {
            sums.iter_mut().zip(gradients).for_each(|(sum, g)| *sum += g);
        }
        (loss + other, sums)
    };
    parts.into_iter().reduce(sum).expect("a run or more")
}

fn optimizer(step: usize, steps: usize) -> adamw::Params {
    let rises = steps.div_ceil(20);
    let share = |part: usize, of: usize| part as f64 / of as f64;
    let rate = f64::min(share(step + 1, rises), share(steps - step, steps - rises.min(steps - 1)));
    adamw::Params {
        tensors: 0,
        size: 0,
        sizes: Sizes::Equal,
        dtype: DType::F32,
        lr: RATE * rate,
        beta1: 0.9,
        beta2: 0.98,
        eps: 1e-8,
        weight_decay: 0.0,
        step: step as u32 + 1,
        scale: 1.0,
        skip: false,
    }
}

/// Perplexity of the tokens behind the first `window` of each of these streams, in runs of at most `longest` that see
/// nothing before themselves but the window.
pub fn perplexity(network: &Network, streams: &[Vec<u32>], longest: usize) -> f64 {
    let window = network.params.window;
    let (mut loss, mut tokens) = (0.0, 0);
    for stream in streams {
        for first in (window..stream.len()).step_by(longest) {
            let run = &stream[first - window..(first + longest).min(stream.len())];
            loss += network.loss(run);
            tokens += run.len() - window;
        }
    }
    (loss / f64::from(tokens as u32)).exp()
}
