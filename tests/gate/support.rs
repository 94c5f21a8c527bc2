//! Records and verdicts that the tests of the gate start from.
#![allow(dead_code, unused_imports)] // each test binary uses its share

pub use touchstone_bench::{
    agreement::{Agreement, OutputAgreement},
    environment::{Device, Environment},
    record::{Executor, Measurement, Outcome, Record, SCHEMA, Side, Trial},
};
pub use touchstone_ci::{
    GateOptions, Mode, Noise, Verdict, Verdicts, baseline, compare, gate, gate_interleaved, prove,
};
pub use touchstone_cuda::simulator::cost::{Cost, Counts};

pub const CASE: &str = "scan.sum:n=1024,dtype=f32,seed=1";

pub fn environment(gpu: &str, driver: &str) -> Environment {
    Environment {
        date: "2026-01-02T03:04:05Z".into(),
        touchstone: "0.1.0".into(),
        revision: "0123abc".into(),
        cpu: "Example CPU".into(),
        cpu_threads: 2,
        device: Some(Device { name: gpu.into(), driver: driver.into(), ..Device::default() }),
    }
}

pub fn agreement(failed: u64) -> Agreement {
    Agreement {
        outputs: vec![OutputAgreement {
            name: "y".into(),
            elements: 1024,
            compared: 1024,
            failed,
            nan: failed,
            ties: 0,
            worst_share: (failed == 0).then_some(0.25),
            relative_rms: None,
            error_elements: None,
            worst: None,
            looks_like: None,
            bits: None,
        }],
        repeatable: true,
    }
}

pub fn record(variant: &str, executor: Executor, outcome: Outcome) -> Record {
    Record {
        schema: SCHEMA,
        workload: "sizes".into(),
        case: CASE.into(),
        inputs: "drawn".into(),
        variant: variant.into(),
        executor,
        environment: environment("Example GPU", "550.1"),
        work: None,
        trial: None,
        cost: None,
        outcome,
    }
}

pub fn measured(samples: &[f64]) -> Outcome {
    let measurement =
        Measurement { cold_ns: samples.to_vec(), peak_bytes: 4096, ..Measurement::default() };
    Outcome::Measured { agreement: agreement(0), measurement }
}

/// Nine samples whose median is `median` and whose quartiles are 1 % from it.
pub fn around(median: f64) -> Outcome {
    let shares = [0.97, 0.98, 0.99, 0.995, 1.0, 1.005, 1.01, 1.02, 1.03];
    measured(&shares.map(|share| share * median))
}

pub fn skipped() -> Outcome {
    Outcome::Skipped { reason: "no CUDA device".into() }
}

pub fn cuda(outcome: Outcome) -> Record {
    record("scan_naive", Executor::Cuda, outcome)
}

/// A simulated run that was right and cost this.
pub fn simulated(counts: Counts) -> Record {
    let mut cost = Cost::default();
    cost.add("scan_naive", "scan_f32", &counts);
    let outcome = Outcome::Checked { agreement: agreement(0) };
    Record { cost: Some(cost), ..record("scan_naive", Executor::Simulator, outcome) }
}

pub fn judge(baseline: Outcome, current: Outcome) -> Verdicts {
    gate(&[cuda(baseline)], &[cuda(current)], &GateOptions::default())
}

#[track_caller]
pub fn expect(verdicts: &Verdicts, verdict: Verdict, passes: bool) {
    let found: Vec<_> = verdicts.entries.iter().map(|e| (e.verdict, &e.reason)).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].0, verdict, "{found:?}");
    assert_eq!(verdicts.passes(), passes, "{:?}", verdicts.problem);
}
