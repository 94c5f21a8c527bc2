//! Speculative decoding of a neural target: what the network learns, and that a loop on an executor that keeps the cache
//! does what the reference does.

#[path = "mutants/mutated.rs"]
mod mutated;

use std::sync::LazyLock;

use mutated::mutated;
use touchstone_bench::{
    Problem,
    corpus::Corpus,
    gtest::FALSE_ALARM,
    neural::{
        Effort, Trained,
        decoder::{Loop, Plan, Sequences},
        target::{Answer, ByReference, OnDevice, Target},
    },
    speculative::Scheme,
    verify::{self, Verdict},
};
use touchstone_cuda::{Gpu, Simulator};
use touchstone_reference::{Expected, Tensor, Tensors};

static TRAINED: LazyLock<Trained> =
    LazyLock::new(|| Trained::for_steps(&Corpus::embedded(), 150).unwrap());

/// Two sequences with room for a few steps.
fn sequences() -> Sequences {
    let mut sequences = TRAINED.sequences(0, 1);
    sequences.streams.truncate(2);
    sequences.seq_k = 72;
    sequences
}

#[test]
fn the_network_predicts_better_than_bigrams() {
    let found = TRAINED.by_reference(Effort { steps: 2, rounds: 1 }).unwrap();
    assert!(found.losses.last().unwrap() < &(0.9 * found.losses[0]), "{:?}", found.losses);
    // Bigrams look at one character; the network must have learned from more than that.
    assert!(found.perplexity < found.ngrams[1].1, "{} {:?}", found.perplexity, found.ngrams);
}

#[test]
fn every_scheme_emits_the_targets_law_and_its_cache_holds() {
    let found = TRAINED.by_reference(Effort { steps: 12, rounds: 1 }).unwrap();
    assert_eq!(found.schemes.len(), Plan::SCHEMES.len());
    for one in &found.schemes {
        assert!(one.decoded.law > FALSE_ALARM, "{one:?}");
        assert!(one.drift < 1e-5, "{one:?}");
        let distance = (one.decoded.tokens_per_step() - one.decoded.expected.unwrap()).abs();
        assert!(distance <= 5.5 * one.decoded.standard_error, "{one:?}");
    }
    let tokens = |i: usize| found.schemes[i].decoded.tokens_per_step();
    assert!(tokens(0) == 1.0 && tokens(1) > 1.5 && tokens(2) > 1.5, "{:?}", found.schemes);
}

/// Four steps of a scheme on a simulator beside the reference with a cache of its own: what differs.
fn difference(simulator: &Simulator, scheme: Scheme, tiled: bool) -> Option<String> {
    let (sequences, plan) = (sequences(), Plan::of(scheme));
    let cuda = sequences.stepping(&plan, tiled).unwrap();
    let prepared = simulator.prepare(&cuda).unwrap();
    let mut device = Loop::new(&sequences, &plan, OnDevice::new(prepared, |_| Ok(None)), 1);
    let mut reference = sequences.by_reference(&plan, 1);
    for step in 0..4 {
        if let Err(error) = device.step(false) {
            return Some(format!("step {step}: {error:#}"));
        }
        reference.step(true).unwrap();
        if device.streams() != reference.streams() {
            return Some(format!("step {step}: other tokens"));
        }
    }
    let drift = device.drift().unwrap();
    let holds = drift < 1e-4;
    (!holds).then(|| format!("the cache is off by {drift:e}"))
}

/// The kernels, the copy of what is accepted into the cache among them.
#[test]
fn the_loop_on_the_simulator_emits_what_the_reference_does() {
    for (scheme, tiled) in Plan::SCHEMES.into_iter().zip([true, false, true, false]) {
        assert_eq!(difference(&Simulator::new(), scheme, tiled), None, "{scheme:?}");
    }
}

/// Mutants of that copy, as tests/mutants.rs has them of kernels that an operation has for itself.
#[test]
fn a_faulty_copy_of_what_is_accepted_shows() {
    let faults = [
        ("lengths do not grow", r"st\.global\.u32 [^;]*;", 0, ""),
        ("no keys are kept", r"st\.global\.f32 [^;]*;", 0, ""),
        ("no values are kept", r"st\.global\.f32 [^;]*;", 1, ""),
        ("one too few is kept", r"add\.s32 (%r\d+),(%r\d+),1;", 0, "mov.u32 ${1},${2};"),
        ("it goes to the beginning", r"add\.s64 (%rd\d+),(%rd\d+),%rd3;", 1, "mov.u64 ${1},${2};"),
        ("half of it is kept", r"add\.s64 (%rd\d+),(%rd\d+),128;", 0, "add.s64 ${1},${2},256;"),
        ("the path is not followed", r"ld\.global\.s32 (%rd56),\[[^;]*;", 0, "mov.u64 ${1},%rd76;"),
    ];
    for (what, find, nth, replace) in faults {
        let mutant = mutated("decoding_commit::commit", find, nth, replace);
        let simulator = Simulator::new().with_module("decoding_commit", mutant);
        let shown = difference(&simulator, Scheme::Tree, true);
        println!("{what}: {shown:?}");
        assert!(shown.is_some(), "{what} and nothing shows it");
    }
}

/// Timed and tested runs emit the same tokens, or there is an error.
#[test]
fn the_loop_on_a_gpu_emits_the_targets_law() {
    let gpu = match Gpu::open(0) {
        Ok(gpu) => gpu,
        Err(absent) => return println!("not run on a GPU: {absent}"),
    };
    let found = TRAINED.on_gpu(&gpu, Effort { steps: 20, rounds: 1 }).unwrap();
    for one in &found.schemes {
        assert!(one.decoded.law > FALSE_ALARM && one.drift < 1e-4, "{one:?}");
        assert!(one.alone.is_some_and(|alone| alone.0 > 0.0), "{one:?}");
    }
}

#[test]
fn a_sequence_that_outgrows_its_cache_stays_as_it_is() {
    let plan = Plan::of(Scheme::Plain);
    let mut sequences = sequences();
    sequences.seq_k = sequences.streams[0].len() - 3;
    let cuda = sequences.stepping(&plan, true).unwrap();
    let simulator = Simulator::new();
    let mut prepared = simulator.prepare(&cuda).unwrap();
    let lengths = prepared.read("lengths");
    prepared.run().unwrap();
    assert_eq!(prepared.read("lengths").to_i64(), lengths.to_i64());
    // And room for one more is used.
    let shorter: Vec<i64> = lengths.to_i64().iter().map(|n| n - 1).collect();
    let shape = [shorter.len()];
    let shorter = Tensor::from_integers(lengths.dtype(), &shape, &shorter);
    prepared.write("lengths", &shorter);
    prepared.run().unwrap();
    assert_eq!(prepared.read("lengths").to_i64(), lengths.to_i64());
}

/// A target that forgets what it has committed.
struct Forgetful(ByReference);

impl Target for Forgetful {
    fn pass(&mut self, drafts: &Tensors, laws: bool) -> anyhow::Result<Answer> {
        self.0.clone().pass(drafts, laws)
    }
}

#[test]
fn a_cache_that_lacks_tokens_shows_in_the_drift() {
    let (sequences, plan) = (sequences(), Plan::of(Scheme::Chain));
    let start = ByReference::new(&sequences.params(&plan), &sequences.start(&plan));
    let mut forgetful = Loop::new(&sequences, &plan, Forgetful(start), 1);
    (0..4).for_each(|_| forgetful.step(true).unwrap());
    let drift = forgetful.drift().unwrap();
    assert!(drift > 1e-2, "{drift}");
}

#[test]
fn the_same_text_gives_the_same_network() {
    let text = "the cat sat on the mat. a dog sat on a cat! ".repeat(30);
    let corpus = Corpus::from_text("cats", &text);
    let found = || {
        let trained = Trained::for_steps(&corpus, 10).unwrap();
        trained.by_reference(Effort { steps: 2, rounds: 1 }).unwrap()
    };
    assert_eq!(found(), found());
    let tiny = Trained::on(&Corpus::from_text("tiny", "One sentence. Two.")).err().unwrap();
    assert!(tiny.to_string().contains("held-out characters"), "{tiny}");
}

/// Bounds of trained weights are far wider than what kernels err by, under a hundredth of them; a tenth of a probability
/// is less than a wrong mask or a lost token changes.
#[test]
fn bounds_of_the_trained_laws_stay_small() {
    for (case, inputs) in TRAINED.problems() {
        let problem = Problem::with_inputs(&case, inputs, "corpus").unwrap();
        let Expected::Real(probs) = problem.expected.output("probs") else { unreachable!() };
        let shares = probs.value.iter().zip(&probs.bound).map(|(value, bound)| bound / value);
        let worst = shares.fold(0.0, f64::max);
        println!("bounds: {worst:.2e} of the value at most");
        assert!(worst < 0.1, "{worst}");
        for variant in touchstone_cuda::variants().filter(|v| v.op == case.op()) {
            let plan = (variant.plan)(&case, &problem.inputs).unwrap();
            let simulator = Simulator::new();
            let prepared = simulator.prepare(&plan).unwrap();
            let verdict = verify::verify(&prepared, &problem, true).unwrap();
            let Verdict::Right(agreement) = verdict else { panic!("{variant:?}: {verdict:?}") };
            println!("{variant:?}: {:?} of the bound", agreement.worst_share());
        }
    }
}
