//! The harness itself, without a GPU: twins of the planted kernels, in plain Rust, must be caught, and
//! every case must tell the right answer from lazy ones.

use touchstone_bench::{
    Agreement, Problem, Tier,
    agreement::{Pick, impostors, outputs_from, same_bits},
    workload,
};
use touchstone_reference::{Case, DType, Tensor, Tensors};

/// A fault as `cuda/kernels/planted_faults.cu` plants it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Sound,
    NanOutput,
    NoOp,
    StaleOutput,
    SkippedTail,
    F16Accumulation,
    OffByOneMask,
}

const BATCH: usize = 2;
const SEQ_LEN: usize = 67;
const HEADS: usize = 3;
const HEAD_DIM: usize = 16;

fn case(seed: u64) -> Case {
    format!(
        "attention.forward:batch={BATCH},seq_q={SEQ_LEN},seq_k={SEQ_LEN},heads_q={HEADS},\
         heads_kv={HEADS},head_dim={HEAD_DIM},mask=causal,dtype=f32,seed={seed}"
    )
    .parse()
    .unwrap()
}

fn f32s(tensors: &Tensors, name: &str) -> Vec<f32> {
    tensors.tensor(name).to_f64().iter().map(|&x| x as f32).collect()
}

/// Causal attention in f32 with a fault, as a kernel would compute it.
fn attention(inputs: &Tensors, fault: Fault) -> Tensors {
    let (q, k, v) = (f32s(inputs, "q"), f32s(inputs, "k"), f32s(inputs, "v"));
    let round = |x: f32| match fault {
        Fault::F16Accumulation => half::f16::from_f32(x).to_f32(),
        _ => x,
    };
    let rows = BATCH * HEADS * SEQ_LEN;
    let (mut o, mut lse) = (vec![f32::NAN; rows * HEAD_DIM], vec![f32::NAN; rows]);
    for (row, lse) in lse.iter_mut().enumerate() {
        let skipped = fault == Fault::SkippedTail && row >= rows / 32 * 32;
        if skipped || fault == Fault::NoOp {
            continue;
        }
        let (i, h, b) = (row % SEQ_LEN, row / SEQ_LEN % HEADS, row / SEQ_LEN / HEADS);
        let at = |i: usize, d: usize| ((b * SEQ_LEN + i) * HEADS + h) * HEAD_DIM + d;
        let keys = if fault == Fault::OffByOneMask { (i + 2).min(SEQ_LEN) } else { i + 1 };
        let score = |j: usize| -> f32 {
            let dot: f32 = (0..HEAD_DIM).map(|d| q[at(i, d)] * k[at(j, d)]).sum();
            dot / (HEAD_DIM as f32).sqrt()
        };
        let highest = (0..keys).map(score).fold(f32::NEG_INFINITY, f32::max);
        let (mut weight, mut acc) = (0.0, [0.0f32; HEAD_DIM]);
        for j in 0..keys {
            let p = (score(j) - highest).exp();
            weight = round(weight + p);
            acc.iter_mut().enumerate().for_each(|(d, a)| *a = round(*a + p * v[at(j, d)]));
        }
        for (d, a) in acc.iter().enumerate() {
            o[at(i, d)] =
                if fault == Fault::NanOutput && row == rows / 2 { f32::NAN } else { a / weight };
        }
        *lse = highest + weight.ln();
    }
    let real = |shape: &[usize], values: Vec<f32>| {
        let values: Vec<f64> = values.into_iter().map(f64::from).collect();
        Tensor::from_real(DType::F32, shape, &values)
    };
    Tensors::new()
        .with("o", real(&[BATCH, SEQ_LEN, HEADS, HEAD_DIM], o))
        .with("lse", real(&[BATCH, HEADS, SEQ_LEN], lse))
}

fn judged(fault: Fault) -> Agreement {
    let problem = Problem::new(&case(1)).unwrap();
    // A stale kernel leaves the answer of the inputs before.
    let inputs = match fault {
        Fault::StaleOutput => Problem::new(&case(2)).unwrap().inputs,
        _ => problem.inputs.clone(),
    };
    problem.compare(attention(&inputs, fault)).unwrap()
}

#[test]
fn the_sound_twin_passes() {
    let agreement = judged(Fault::Sound);
    assert!(agreement.passes(), "{}", agreement.complaint().unwrap());
    assert!(agreement.worst_share().unwrap() > 0.0, "an f32 twin is not exact");
}

#[test]
fn every_planted_fault_is_caught() {
    for fault in [
        Fault::NanOutput,
        Fault::NoOp,
        Fault::StaleOutput,
        Fault::SkippedTail,
        Fault::F16Accumulation,
        Fault::OffByOneMask,
    ] {
        assert!(!judged(fault).passes(), "{fault:?} passes");
    }
}

#[test]
fn complaints_name_output_element_and_bound() {
    let complaint = judged(Fault::NanOutput).complaint().unwrap();
    for part in ["output 'o'", "NaN", "expected", "±"] {
        assert!(complaint.contains(part), "{complaint}");
    }
    let complaint = judged(Fault::NoOp).complaint().unwrap();
    assert!(complaint.contains("NaN everywhere"), "{complaint}");
}

#[test]
fn the_same_case_draws_the_same_bits_and_another_seed_others() {
    let workloads = workload::embedded().unwrap();
    for workload in workloads.iter().filter(|w| w.tier == Tier::Quick) {
        let case = &workload.cases[0];
        let draw =
            |case: &Case| touchstone_reference::operation(case).unwrap().inputs(case).unwrap();
        let again: Case = case.to_string().parse().unwrap();
        let (one, two) = (draw(case), draw(&again));
        let same = one.iter().all(|(name, tensor)| same_bits(tensor, two.tensor(name)));
        assert!(same, "{case} is not repeatable");
        let text = case.to_string();
        let other = format!("{}=987654321", text.rsplit_once('=').unwrap().0);
        assert_ne!(draw(&other.parse().unwrap()), one, "{case}: the seed changes nothing");
    }
}

/// An impostor that is the right answer is none: one element reversed, a gradient that is zero, n-grams
/// in another order where the order is free.
fn is_the_answer(problem: &Problem, impostor: &Tensors) -> bool {
    let impostor = problem.operation.canonical(&problem.case, impostor.clone()).unwrap();
    let answer = outputs_from(&problem.expected, |i, _| Pick::Element(i));
    answer.iter().all(|(name, tensor)| same_bits(tensor, impostor.tensor(name)))
}

#[test]
fn every_case_tells_the_right_answer_from_lazy_ones() {
    let mut blind = Vec::new();
    for workload in workload::embedded().unwrap().iter().filter(|w| w.tier != Tier::Full) {
        for case in &workload.cases {
            let problem = Problem::new(case).unwrap_or_else(|e| panic!("{case}: {e:#}"));
            for (name, impostor) in impostors(&problem.expected) {
                let passes = problem.compare(impostor.clone()).unwrap().passes();
                if passes && !is_the_answer(&problem, &impostor) {
                    blind.push(format!("{name} passes on {case}"));
                }
            }
        }
    }
    assert!(blind.is_empty(), "{} blind spots:\n{}", blind.len(), blind.join("\n"));
}
