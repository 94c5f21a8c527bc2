//! One training step of skip-gram with negative sampling.

use ndarray::{Array1, Array2, Ix1, Ix2};
use serde::{Deserialize, Serialize};

use super::{Pattern, SECOND_ORDER, check_table, sum_roundings};
use crate::{Algorithm, DType, Draw, Expected, Outputs, Tensors, Tolerance, Work};

/// One step of gradient descent on `L = Σ_b [−log σ(v·o_context) − Σ_k log σ(−v·o_negative_k)]`, where v is the
/// input row of pair b's center and o are output rows.
///
/// | input | shape | type | meaning |
/// |---|---|---|---|
/// | `in_table` | [vocab, dim] | f32 | embeddings of words as centers |
/// | `out_table` | [vocab, dim] | f32 | embeddings of words as contexts |
/// | `centers` | [batch] | i32 | center of each pair |
/// | `contexts` | [batch] | i32 | context of each pair |
/// | `negatives` | [batch, negatives] | i32 | words drawn as noise; one that equals the context counts as drawn |
///
/// | output | shape | type | meaning |
/// |---|---|---|---|
/// | `in_updated` | [vocab, dim] | f32 | `in_table` − lr · ∂L/∂`in_table` |
/// | `out_updated` | [vocab, dim] | f32 | `out_table` − lr · ∂L/∂`out_table` |
/// | `loss` | [1] | f32 | L / batch before the step; 0 for no pairs |
///
/// Every gradient is taken at the tables before the step and all of them are added up before they are
/// applied, so the answer does not depend on the order of the pairs (the original program updates pair
/// by pair). Source: Mikolov et al. 2013, "Distributed Representations of Words and Phrases and their
/// Compositionality", equation 4.
#[derive(Debug)]
pub struct Word2Vec;

/// Parameters of [`Word2Vec`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Words, rows of both tables.
    pub vocab: usize,
    /// Columns of both tables.
    pub dim: usize,
    /// Pairs of the step.
    pub batch: usize,
    /// Noise words of each pair.
    pub negatives: usize,
    /// Learning rate, rounded to f32.
    pub lr: f64,
    /// How often each word occurs.
    pub pattern: Pattern,
}

/// σ(x) = 1 / (1 + e⁻ˣ).
pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// −log σ(x) = log(1 + e⁻ˣ), without overflow.
pub fn negative_log_sigmoid(x: f64) -> f64 {
    (-x).max(0.0) + (-x.abs()).exp().ln_1p()
}

/// A sum that an f32 kernel forms, with what its error bound needs.
struct Sums {
    /// Σ terms, [vocab, dim].
    value: Array2<f64>,
    /// Σ |terms|.
    absolute: Array2<f64>,
    /// Σ errors that the terms bring along, in units of the f32 roundoff.
    inherited: Array2<f64>,
    /// Terms of each row.
    terms: Array1<usize>,
}

impl Sums {
    fn new(vocab: usize, dim: usize) -> Self {
        Self {
            value: Array2::zeros((vocab, dim)),
            absolute: Array2::zeros((vocab, dim)),
            inherited: Array2::zeros((vocab, dim)),
            terms: Array1::zeros(vocab),
        }
    }

    /// Adds factor · x to a row, the factor being wrong by up to `error` roundoffs.
    fn add(&mut self, row: usize, factor: f64, error: f64, x: &Array1<f64>) {
        self.terms[row] += 1;
        for (j, x) in x.iter().enumerate() {
            self.value[[row, j]] += factor * x;
            self.absolute[[row, j]] += (factor * x).abs();
            self.inherited[[row, j]] += error * x.abs();
        }
    }

    /// The table after `table + lr · Σ terms`.
    fn applied(&self, table: &Array2<f64>, lr: f64) -> Expected {
        // A term's own product, the product with lr, and the sum's roundings act on Σ|terms|; the last
        // addition is the storage term.
        let roundings = self.terms.mapv(|n| sum_roundings(n) + 2.0).insert_axis(ndarray::Axis(1));
        let magnitude = lr.abs() * (&self.absolute * &roundings + &self.inherited);
        let relative = SECOND_ORDER * DType::F32.unit_roundoff();
        let tolerance = Tolerance { relative, storage: DType::F32 };
        Expected::real(&(table + &(lr * &self.value)), &magnitude, tolerance)
    }
}

impl Algorithm for Word2Vec {
    const NAME: &'static str = "embedding.word2vec";
    const SUMMARY: &'static str = "one training step of skip-gram with negative sampling";
    const ITEMS: &'static str = "pairs";
    type Params = Params;

    fn validate(params: &Params) -> Result<(), String> {
        if !params.lr.is_finite() || params.lr < 0.0 {
            return Err(format!("a learning rate of {}", params.lr));
        }
        check_table(params.vocab, params.dim, params.batch)
    }

    fn inputs(params: &Params, draw: &mut Draw) -> Tensors {
        let table = [params.vocab, params.dim];
        // Scores have standard deviation √dim · sd² = 2, where σ is neither flat nor linear.
        let sd = (4.0 / params.dim.max(1) as f64).powf(0.25);
        let words = |draw: &mut Draw, shape: &[usize]| {
            params.pattern.indices(DType::I32, shape, params.vocab, draw)
        };
        Tensors::new()
            .with("in_table", draw.normal(DType::F32, &table, sd))
            .with("out_table", draw.normal(DType::F32, &table, sd))
            .with("centers", words(draw, &[params.batch]))
            .with("contexts", words(draw, &[params.batch]))
            .with("negatives", words(draw, &[params.batch, params.negatives]))
    }

    fn reference(params: &Params, inputs: &Tensors) -> Outputs {
        let in_table = inputs.real::<Ix2>("in_table");
        let out_table = inputs.real::<Ix2>("out_table");
        let centers = inputs.integer::<Ix1>("centers");
        let contexts = inputs.integer::<Ix1>("contexts");
        let negatives = inputs.integer::<Ix2>("negatives");
        let lr = f64::from(params.lr as f32);
        let mut in_sums = Sums::new(params.vocab, params.dim);
        let mut out_sums = Sums::new(params.vocab, params.dim);
        let (mut loss, mut loss_magnitude) = (0.0, 0.0);
        let loss_roundings = sum_roundings(params.batch * (1 + params.negatives)) + 2.0;
        for b in 0..params.batch {
            let center = centers[b] as usize;
            let v = in_table.row(center).to_owned();
            let noise = negatives.row(b);
            let targets =
                std::iter::once((contexts[b], 1.0)).chain(noise.iter().map(|&n| (n, 0.0)));
            for (target, label) in targets {
                let target = target as usize;
                let o = out_table.row(target).to_owned();
                let score = v.dot(&o);
                let factor = label - sigmoid(score);
                // In units of the f32 roundoff u. The score: its sum of dim products.
                let score_error =
                    (sum_roundings(params.dim) + 1.0) * v.mapv(f64::abs).dot(&o.mapv(f64::abs));
                // σ has slope <= 1/4; exp is off by 2 ulp = 4u, the sum, quotient and difference by u each, and
                // all of these are at most 1 in size.
                let factor_error = score_error / 4.0 + 7.0;
                in_sums.add(center, factor, factor_error, &o);
                out_sums.add(target, factor, factor_error, &v);
                // −log σ has slope <= 1; exp (4u) and log1p (2u) act on values of at most 1.
                let term = negative_log_sigmoid(if label == 1.0 { score } else { -score });
                loss += term;
                loss_magnitude += score_error + 6.0 + term * loss_roundings;
            }
        }
        let pairs = params.batch.max(1) as f64;
        let relative = SECOND_ORDER * DType::F32.unit_roundoff();
        let tolerance = Tolerance { relative, storage: DType::F32 };
        let (loss, loss_magnitude) =
            (Array1::from(vec![loss / pairs]), Array1::from(vec![loss_magnitude / pairs]));
        Outputs::new()
            .with("in_updated", in_sums.applied(&in_table, lr))
            .with("out_updated", out_sums.applied(&out_table, lr))
            .with("loss", Expected::real(&loss, &loss_magnitude, tolerance))
    }

    /// With T = batch · (1 + negatives) targets: flops = 6 · T · dim (score and two gradients) + 4 · vocab · dim
    /// (applying them); bytes = both tables read and written + indices + loss; items = pairs.
    fn work(params: &Params, inputs: &Tensors) -> Work {
        let targets = params.batch * (1 + params.negatives);
        let elements = params.vocab * params.dim;
        Work {
            flops: (6 * targets * params.dim + 4 * elements) as f64,
            bytes: (inputs.bytes() + 2 * elements * 4 + 4) as f64,
            items: params.batch as f64,
            matrix: false,
            eight_bit: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tensor;

    #[test]
    fn known_step() {
        let params =
            Params { vocab: 3, dim: 1, batch: 1, negatives: 1, lr: 0.5, pattern: Pattern::Uniform };
        let inputs = Tensors::new()
            .with("in_table", Tensor::from_real(DType::F32, &[3, 1], &[2.0, 5.0, 5.0]))
            .with("out_table", Tensor::from_real(DType::F32, &[3, 1], &[7.0, 0.0, 0.0]))
            .with("centers", Tensor::from_integers(DType::I32, &[1], &[0]))
            .with("contexts", Tensor::from_integers(DType::I32, &[1], &[1]))
            .with("negatives", Tensor::from_integers(DType::I32, &[1, 1], &[2]));
        let outputs = Word2Vec::reference(&params, &inputs);
        // Both scores are 0 and both σ are ½: the factors are ½ and −½.
        assert_eq!(outputs.output("in_updated").values(), [2.0, 5.0, 5.0]);
        assert_eq!(outputs.output("out_updated").values(), [7.0, 0.5, -0.5]);
        assert!((outputs.output("loss").values()[0] - 2.0 * 2f64.ln()).abs() < 1e-15);
    }

    #[test]
    fn log_sigmoid_does_not_overflow() {
        assert_eq!(negative_log_sigmoid(-1e4), 1e4);
        assert_eq!(negative_log_sigmoid(1e4), 0.0);
        assert!((negative_log_sigmoid(0.3) + sigmoid(0.3).ln()).abs() < 1e-15);
    }

    #[test]
    fn scores_are_neither_flat_nor_linear() {
        for dim in [1, 32, 300] {
            let params = Params {
                vocab: 500,
                dim,
                batch: 500,
                negatives: 0,
                lr: 0.0,
                pattern: Pattern::Uniform,
            };
            let inputs = Word2Vec::inputs(&params, &mut Draw::new(3));
            let (v, o) = (inputs.real::<Ix2>("in_table"), inputs.real::<Ix2>("out_table"));
            let mean_square =
                (0..500).map(|r| v.row(r).dot(&o.row(r)).powi(2)).sum::<f64>() / 500.0;
            assert!((0.3..30.0).contains(&mean_square), "dim {dim}: {mean_square}");
        }
    }
}
