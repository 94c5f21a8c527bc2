//! A small network trained end to end on a real text in several precisions: what each loses, and why f16
//! needs its loss scaled.
//!
//! The network predicts a character from the two before it: embeddings, two hidden layers of sigmoids, a
//! softmax. A step sees the whole text at once, as counts of what follows each pair of characters, so every
//! run is exact and repeatable. What tensor cores do is done here on the CPU: operands are rounded into the
//! format, products are summed in f32, and the result is rounded again. The loss of a step carries the weight
//! of one micro-batch among [`MICRO_BATCHES`], as when a large batch is accumulated: its gradients are so
//! small that many of them fall below the smallest f16.

mod network;
mod recipe;
mod text;

use serde::{Deserialize, Serialize};
use touchstone_reference::Draw;

pub(crate) use network::adam;

use crate::corpus::Corpus;
use network::Network;
use recipe::RECIPES;
use text::Text;

/// Steps of a run.
const STEPS: usize = 160;
/// Micro-batches of a batch: the loss of each carries that part of the whole.
pub const MICRO_BATCHES: usize = 4096;

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
            parameters: network::initial(&text, &mut Draw::new(1)).iter().map(Vec::len).sum(),
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
