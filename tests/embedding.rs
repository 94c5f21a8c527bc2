//! Laws of the embedding operations, shown on the references.

#[path = "cases/embedding.rs"]
mod cases;
mod laws;

use laws::{drawn, strategy};
use ndarray::{Array2, Axis, Ix1, Ix2};
use proptest::prelude::*;
use touchstone_reference::{
    Algorithm, DType, Draw, Tensor, Tensors,
    embedding::{
        Index, Pattern, Storage,
        backward::Backward,
        bag::{self, Bag, Mode},
        gather::{self, Gather},
        word2vec::{self, Word2Vec},
    },
};

/// An output as rows of `dim` columns.
fn rows<A: Algorithm>(params: &A::Params, inputs: &Tensors, name: &str) -> Array2<f64> {
    let outputs = A::reference(params, inputs);
    let expected = outputs.output(name);
    let shape = (expected.shape()[0], expected.shape()[1]);
    Array2::from_shape_vec(shape, expected.values()).expect("small outputs are not sampled")
}

/// Equal but for the rounding of f64 sums in another order.
fn close(a: &Array2<f64>, b: &Array2<f64>) -> bool {
    a.shape() == b.shape() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-12 * (1.0 + a.abs()))
}

/// The bags as lists of samples.
fn samples(inputs: &Tensors) -> Vec<std::ops::Range<usize>> {
    let offsets = inputs.tensor("offsets").to_i64();
    offsets.windows(2).map(|w| w[0] as usize..w[1] as usize).collect()
}

/// The same bags with their samples (and weights) in another order: position s takes sample `order[s]`.
fn reordered(inputs: &Tensors, order: &[usize]) -> Tensors {
    let indices = inputs.tensor("indices").to_i64();
    let moved: Vec<i64> = order.iter().map(|&s| indices[s]).collect();
    let mut inputs = inputs.clone();
    inputs.insert("indices", Tensor::from_integers(DType::I32, &[moved.len()], &moved));
    if let Some(weights) = inputs.get("weights").map(Tensor::to_f64) {
        let moved: Vec<f64> = order.iter().map(|&s| weights[s]).collect();
        inputs.insert("weights", Tensor::from_real(DType::F32, &[moved.len()], &moved));
    }
    inputs
}

/// The same samples cut into bags at other offsets.
fn rebagged(inputs: &Tensors, offsets: &[i64]) -> Tensors {
    inputs.clone().with("offsets", Tensor::from_integers(DType::I64, &[offsets.len()], offsets))
}

/// A training step's loss at given tables, summed over the batch.
fn total_loss(params: &word2vec::Params, inputs: &Tensors) -> f64 {
    let outputs = Word2Vec::reference(params, inputs);
    outputs.output("loss").values()[0] * params.batch as f64
}

#[test]
fn every_generated_case_is_valid_and_its_inputs_repeat() {
    laws::cases_are_valid_and_their_inputs_repeat(cases::strategies(), 100);
}

proptest! {
    #[test]
    fn a_gather_is_the_product_with_one_hot_rows(case in strategy(cases::strategies(), "embedding.gather")) {
        let (params, inputs) = drawn::<Gather>(&case);
        let indices = inputs.integer::<Ix1>("indices");
        let shape = (params.tokens, params.vocab);
        let one_hot = Array2::from_shape_fn(shape, |(t, v)| f64::from(indices[t] == v as i64));
        let mut table = inputs.real::<Ix2>("table");
        if params.table == Storage::Int8 {
            table *= &inputs.real::<Ix1>("scales").insert_axis(Axis(1));
        }
        prop_assert_eq!(rows::<Gather>(&params, &inputs, "output"), one_hot.dot(&table));
    }

    #[test]
    fn bags_of_one_are_a_gather(case in strategy(cases::strategies(), "embedding.bag")) {
        let (mut params, inputs) = drawn::<Bag>(&case);
        prop_assume!(!params.weighted);
        params.bags = inputs.tensor("indices").len();
        let offsets: Vec<i64> = (0..=params.bags as i64).collect();
        let gather = gather::Params {
            vocab: params.vocab,
            dim: params.dim,
            tokens: params.bags,
            table: params.table,
            index: Index::I32,
            pattern: params.pattern,
            padding: false,
        };
        let pooled = rows::<Bag>(&params, &rebagged(&inputs, &offsets), "output");
        prop_assert_eq!(pooled, rows::<Gather>(&gather, &inputs, "output"));
    }

    #[test]
    fn a_sum_has_weights_of_one(case in strategy(cases::strategies(), "embedding.bag")) {
        let (mut params, inputs) = drawn::<Bag>(&case);
        (params.mode, params.weighted) = (Mode::Sum, true);
        let count = inputs.tensor("indices").len();
        let ones = Tensor::from_real(DType::F32, &[count], &vec![1.0; count]);
        let weighted = rows::<Bag>(&params, &inputs.clone().with("weights", ones), "output");
        params.weighted = false;
        let plain: Tensors = inputs
            .iter()
            .filter(|(name, _)| *name != "weights")
            .fold(Tensors::new(), |all, (name, tensor)| all.with(name, tensor.clone()));
        prop_assert_eq!(weighted, rows::<Bag>(&params, &plain, "output"));
    }

    #[test]
    fn a_mean_is_the_sum_over_the_count(case in strategy(cases::strategies(), "embedding.bag")) {
        let (mut params, inputs) = drawn::<Bag>(&case);
        prop_assume!(!params.weighted);
        params.mode = Mode::Sum;
        let mut sum = rows::<Bag>(&params, &inputs, "output");
        for (mut row, samples) in sum.rows_mut().into_iter().zip(samples(&inputs)) {
            row /= samples.len().max(1) as f64;
        }
        params.mode = Mode::Mean;
        prop_assert!(close(&rows::<Bag>(&params, &inputs, "output"), &sum));
    }

    #[test]
    fn the_order_within_a_bag_does_not_matter(case in strategy(cases::strategies(), "embedding.bag")) {
        let (params, inputs) = drawn::<Bag>(&case);
        let order: Vec<usize> = samples(&inputs).into_iter().flat_map(|bag| bag.rev()).collect();
        let backwards = rows::<Bag>(&params, &reordered(&inputs, &order), "output");
        prop_assert!(close(&backwards, &rows::<Bag>(&params, &inputs, "output")));
    }

    #[test]
    fn the_halves_of_a_bag_add_up(case in strategy(cases::strategies(), "embedding.bag")) {
        let (mut params, inputs) = drawn::<Bag>(&case);
        let whole = |params: &bag::Params| rows::<Bag>(params, &inputs, "output");
        let mut offsets = vec![0];
        for bag in samples(&inputs) {
            offsets.extend([(bag.start + bag.len() / 3) as i64, bag.end as i64]);
        }
        let halves = |params: &bag::Params| {
            let params = bag::Params { bags: 2 * params.bags, ..params.clone() };
            rows::<Bag>(&params, &rebagged(&inputs, &offsets), "output")
        };
        params.mode = Mode::Sum;
        let parts = halves(&params);
        let sum = Array2::from_shape_fn((params.bags, params.dim), |(b, j)| {
            parts[[2 * b, j]] + parts[[2 * b + 1, j]]
        });
        prop_assert!(close(&sum, &whole(&params)));
        params.mode = Mode::Max;
        let (parts, bags) = (halves(&params), samples(&inputs));
        let largest = Array2::from_shape_fn((params.bags, params.dim), |(b, j)| {
            let (left, right) = (parts[[2 * b, j]], parts[[2 * b + 1, j]]);
            // A third of one or two samples is none, whose maximum is defined as zero.
            if bags[b].len() < 3 { right } else { left.max(right) }
        });
        prop_assert_eq!(largest, whole(&params));
    }

    #[test]
    fn backward_is_the_adjoint_of_gather(case in strategy(cases::strategies(), "embedding.backward")) {
        let (params, inputs) = drawn::<Backward>(&case);
        let (vocab, dim, tokens) = (params.vocab, params.dim, params.tokens);
        let table = Draw::new(case.seed() + 1).normal(DType::F32, &[vocab, dim], 1.0);
        let forward = gather::Params {
            vocab,
            dim,
            tokens,
            table: Storage::F32,
            index: Index::I32,
            pattern: Pattern::Uniform,
            padding: false,
        };
        let looked_up = inputs.clone().with("table", table);
        let output = rows::<Gather>(&forward, &looked_up, "output");
        let left = (&output * &inputs.real::<Ix2>("d_output")).sum();
        let d_table = rows::<Backward>(&params, &inputs, "d_table");
        let right = (&looked_up.real::<Ix2>("table") * &d_table).sum();
        prop_assert!((left - right).abs() <= 1e-12 * (1.0 + tokens as f64 * dim as f64));
    }

    #[test]
    fn rows_nobody_asked_for_have_no_gradient(case in strategy(cases::strategies(), "embedding.backward")) {
        let (params, inputs) = drawn::<Backward>(&case);
        let indices = inputs.tensor("indices").to_i64();
        let d_table = rows::<Backward>(&params, &inputs, "d_table");
        for (v, row) in d_table.rows().into_iter().enumerate() {
            let asked = indices.contains(&(v as i64));
            prop_assert!(asked || row.iter().all(|&g| g == 0.0), "row {}", v);
        }
    }

    #[test]
    fn the_order_of_tokens_does_not_matter(case in strategy(cases::strategies(), "embedding.backward")) {
        let (params, inputs) = drawn::<Backward>(&case);
        let mut indices = inputs.tensor("indices").to_i64();
        indices.reverse();
        let mut gradient = inputs.real::<Ix2>("d_output");
        gradient.invert_axis(Axis(0));
        let values: Vec<f64> = gradient.iter().copied().collect();
        let shape = [params.tokens, params.dim];
        let backwards = Tensors::new()
            .with("d_output", Tensor::from_real(params.dtype, &shape, &values))
            .with("indices", Tensor::from_integers(DType::I32, &[params.tokens], &indices));
        let d_table = rows::<Backward>(&params, &inputs, "d_table");
        prop_assert!(close(&rows::<Backward>(&params, &backwards, "d_table"), &d_table));
    }

    #[test]
    fn a_step_of_no_length_changes_nothing(case in strategy(cases::strategies(), "embedding.word2vec")) {
        let (mut params, inputs) = drawn::<Word2Vec>(&case);
        params.lr = 0.0;
        for (updated, table) in [("in_updated", "in_table"), ("out_updated", "out_table")] {
            let table = inputs.real::<Ix2>(table);
            prop_assert_eq!(rows::<Word2Vec>(&params, &inputs, updated), table);
        }
    }

    #[test]
    fn a_small_step_lowers_the_loss(case in strategy(cases::strategies(), "embedding.word2vec")) {
        let (mut params, inputs) = drawn::<Word2Vec>(&case);
        prop_assume!(params.batch > 0);
        params.lr = 1e-4;
        let outputs = Word2Vec::reference(&params, &inputs);
        let shape = [params.vocab, params.dim];
        let moved = |name: &str| Tensor::from_real(DType::F64, &shape, &outputs.output(name).values());
        let next = inputs
            .clone()
            .with("in_table", moved("in_updated"))
            .with("out_table", moved("out_updated"));
        let (before, after) = (total_loss(&params, &inputs), total_loss(&params, &next));
        prop_assert!(after < before, "{} after {}", after, before);
    }

    #[test]
    fn the_step_follows_the_numerical_gradient(case in strategy(cases::strategies(), "embedding.word2vec")) {
        const H: f64 = 1e-5;
        let (mut params, inputs) = drawn::<Word2Vec>(&case);
        prop_assume!(params.batch > 0);
        params.lr = 1.0;
        let mut draw = Draw::new(case.seed());
        for (table, updated) in [("in_table", "in_updated"), ("out_table", "out_updated")] {
            let values = inputs.tensor(table).to_f64();
            let step = Word2Vec::reference(&params, &inputs).output(updated).values();
            for _ in 0..4 {
                let at = draw.below(values.len());
                let loss = |shift: f64| {
                    let mut values = values.clone();
                    values[at] += shift;
                    let shape = [params.vocab, params.dim];
                    let shifted = Tensor::from_real(DType::F64, &shape, &values);
                    total_loss(&params, &inputs.clone().with(table, shifted))
                };
                let slope = (loss(H) - loss(-H)) / (2.0 * H);
                let ascent = step[at] - values[at];
                prop_assert!((ascent + slope).abs() < 1e-5 * (1.0 + slope.abs()), "{} {}", ascent, slope);
            }
        }
    }

    #[test]
    fn pairs_that_share_no_word_train_alone(seed in 0u64..1000) {
        let params = |batch| word2vec::Params {
            vocab: 6,
            dim: 5,
            batch,
            negatives: 1,
            lr: 0.5,
            pattern: Pattern::Uniform,
        };
        let pair = |tensors: Tensors, centers: &[i64], contexts: &[i64], negatives: &[i64]| {
            let n = centers.len();
            tensors
                .with("centers", Tensor::from_integers(DType::I32, &[n], centers))
                .with("contexts", Tensor::from_integers(DType::I32, &[n], contexts))
                .with("negatives", Tensor::from_integers(DType::I32, &[n, 1], negatives))
        };
        let tables = Word2Vec::inputs(&params(0), &mut Draw::new(seed));
        let both = pair(tables.clone(), &[0, 3], &[1, 4], &[2, 5]);
        let first = pair(tables, &[0], &[1], &[2]);
        for name in ["in_updated", "out_updated"] {
            let both = rows::<Word2Vec>(&params(2), &both, name);
            let first = rows::<Word2Vec>(&params(1), &first, name);
            for word in 0..3 {
                prop_assert_eq!(both.row(word), first.row(word));
            }
        }
    }
}
