//! What the gate makes of times: rounds of two builds, cold and warm series, chance, noise that was learned, and the
//! proof of it all.

#[path = "gate/support.rs"]
mod support;

use support::*;

/// Samples of both series about a median, scattered by factors up to one more than a share.
fn both((cold, cold_scatter): (f64, f64), (warm, warm_scatter): (f64, f64)) -> Outcome {
    let about = |median: f64, scatter: f64| -> Vec<f64> {
        (-15..=15).map(|i| median * (1.0 + scatter).powf(f64::from(i * 7 % 16) / 15.0)).collect()
    };
    let Outcome::Measured { agreement, mut measurement } = measured(&about(cold, cold_scatter))
    else {
        unreachable!()
    };
    measurement.warm_ns = about(warm, warm_scatter);
    Outcome::Measured { agreement, measurement }
}

#[test]
fn cold_and_warm_are_judged_apart_and_the_one_that_tells_decides() {
    let quiet = |cold, warm| both((cold, 0.01), (warm, 0.01));
    let told = |new: Outcome, verdict: Verdict, series: &str| {
        let verdicts = judge(quiet(1000.0, 100.0), new);
        expect(&verdicts, verdict, !verdict.fails());
        let entry = &verdicts.entries[0];
        let timing = entry.current.as_ref().unwrap();
        assert_eq!(timing.series, series, "{entry:?}");
        entry.reason.clone()
    };
    told(quiet(1000.0, 100.0), Verdict::Same, "cold");
    told(quiet(1500.0, 100.0), Verdict::Slower, "cold");
    told(quiet(1000.0, 150.0), Verdict::Slower, "warm");
    told(quiet(1000.0, 80.0), Verdict::Faster, "warm");
    let traded = told(quiet(800.0, 150.0), Verdict::Slower, "warm");
    assert!(traded.contains("though cold 0.800"), "{traded}");

    // What one series cannot tell, the other may; a change that is only suspected is not called none.
    let noisy = |cold, warm| both((cold, 1.5), (warm, 0.01));
    let verdicts = judge(noisy(1000.0, 100.0), noisy(1000.0, 100.0));
    expect(&verdicts, Verdict::Same, true);
    assert_eq!(verdicts.entries[0].current.as_ref().unwrap().series, "warm");
    expect(&judge(noisy(1000.0, 100.0), noisy(1000.0, 150.0)), Verdict::Slower, false);
    expect(&judge(noisy(1000.0, 100.0), noisy(1200.0, 100.0)), Verdict::Unclear, true);
}

#[test]
fn times_of_different_clocks_do_not_compare() {
    let by = |clock: &str| {
        let Outcome::Measured { agreement, mut measurement } = around(1000.0) else {
            unreachable!()
        };
        measurement.clock = clock.into();
        Outcome::Measured { agreement, measurement }
    };
    let verdicts = judge(by("host monotonic"), by("thread CPU time"));
    expect(&verdicts, Verdict::Unclear, true);
    let reason = &verdicts.entries[0].reason;
    assert_eq!(reason, "taken by different clocks: host monotonic and thread CPU time");
    let graphs = judge(by("CUDA events; warm: 64 runs"), by("CUDA events; warm: 63 runs"));
    expect(&graphs, Verdict::Same, true);
}

/// Pseudo-random normal numbers that are the same everywhere (Box and Muller, over a linear congruence).
fn normal(state: &mut u64) -> f64 {
    let mut uniform = || {
        *state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((*state >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    };
    (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos()
}

/// An interleaved run of `questions` cases. Each process has an offset of its own (1 %), each sample scatter (2 %);
/// side B of the first case takes `factor` times as long.
fn interleaved(questions: usize, rounds: u32, factor: f64, state: &mut u64) -> Vec<Record> {
    let mut records = Vec::new();
    for question in 0..questions {
        for round in 0..rounds {
            for side in [Side::A, Side::B] {
                let slow = if question == 0 && side == Side::B { factor } else { 1.0 };
                let level = 1000.0 * slow * (1.0 + 0.01 * normal(state));
                let samples: Vec<f64> =
                    (0..15).map(|_| level * (1.0 + 0.02 * normal(state))).collect();
                records.push(Record {
                    case: format!("scan.sum:n={question},dtype=f32,seed=1"),
                    trial: Some(Trial { side, round, binary: "00".into() }),
                    ..cuda(measured(&samples))
                });
            }
        }
    }
    records
}

#[test]
fn one_slow_question_among_a_hundred_is_found_and_no_other_is_called() {
    let mut state = 7;
    let run = interleaved(100, 5, 1.10, &mut state);
    let verdicts = gate_interleaved(&run, &GateOptions::default()).unwrap();
    assert_eq!((verdicts.count(Verdict::Slower), verdicts.count(Verdict::Faster)), (1, 0));
    let entry = &verdicts.entries[0];
    assert!(entry.case.contains("n=0,") && entry.rounds == 5, "{entry:?}");
    let [low, high] = entry.interval.unwrap();
    assert!(low > 1.03 && low <= entry.ratio.unwrap() && entry.ratio.unwrap() <= high, "{entry:?}");
    assert!(entry.q.unwrap() < 0.01);
}

#[test]
fn the_same_build_against_itself_raises_no_alarm() {
    let mut state = 11;
    for _ in 0..20 {
        let run = interleaved(50, 5, 1.0, &mut state);
        let verdicts = gate_interleaved(&run, &GateOptions::default()).unwrap();
        let alarms = verdicts.count(Verdict::Slower) + verdicts.count(Verdict::Faster);
        assert_eq!((alarms, verdicts.passes()), (0, true));
    }
}

#[test]
fn a_change_that_chance_explains_among_many_questions_is_unclear() {
    // Five samples against five give p = 0.012 at best: enough alone at 5 %, not among twenty.
    let slow = || measured(&[1200.0, 1201.0, 1202.0, 1203.0, 1204.0]);
    let fast = || measured(&[1000.0, 1001.0, 1002.0, 1003.0, 1004.0]);
    let others = |outcome: fn(f64) -> Outcome| -> Vec<Record> {
        let case =
            |n: usize| Record { case: format!("scan.sum:n={n},seed=1"), ..cuda(outcome(5.0)) };
        (0..20).map(case).collect()
    };
    let options = GateOptions { false_discovery: 0.05, ..GateOptions::default() };
    expect(&gate(&[cuda(fast())], &[cuda(slow())], &options), Verdict::Slower, false);
    let (mut old, mut new) = (others(around), others(around));
    old.push(cuda(fast()));
    new.push(cuda(slow()));
    let verdicts = gate(&old, &new, &options);
    assert_eq!((verdicts.count(Verdict::Slower), verdicts.count(Verdict::Unclear)), (0, 1));
}

#[test]
fn too_few_rounds_and_sideless_records_allow_no_statement() {
    let run = interleaved(1, 2, 2.0, &mut 1);
    let verdicts = gate_interleaved(&run, &GateOptions::default()).unwrap();
    expect(&verdicts, Verdict::Unclear, true);
    assert!(verdicts.entries[0].reason.contains("too few rounds: 2 of at least 4"));
    assert!(gate_interleaved(&[cuda(around(1.0))], &GateOptions::default()).is_err());
}

#[test]
fn throttled_samples_are_left_out_and_counted() {
    let throttled = |median, samples: usize, throttled| {
        let Outcome::Measured { agreement, mut measurement } = around(median) else {
            unreachable!()
        };
        measurement.cold_ns.truncate(samples);
        measurement.throttled = throttled;
        Outcome::Measured { agreement, measurement }
    };
    let verdicts = judge(throttled(1000.0, 9, 2), throttled(1000.0, 9, 3));
    expect(&verdicts, Verdict::Same, true);
    assert_eq!(verdicts.throttled(), 5);
    assert!(verdicts.markdown().contains("5 samples were left out because the device throttled"));
    let verdicts = judge(around(1000.0), throttled(5000.0, 4, 11));
    expect(&verdicts, Verdict::Unclear, true);
    assert!(verdicts.entries[0].reason.contains("11 were throttled"), "{:?}", verdicts.entries[0]);
}

#[test]
fn each_workload_has_the_smallest_effect_that_its_own_history_teaches() {
    let runs: Vec<Vec<Record>> = (0..8)
        .map(|run| {
            let shift = 1.0 + 0.001 * f64::from(run % 2);
            vec![cuda(around(1000.0 * shift)), record("other", Executor::Cuda, around(9.0))]
        })
        .collect();
    let noise = Noise::learn(&runs).unwrap();
    let [floor] = noise.floors() else { panic!("{noise:?}") };
    assert_eq!((floor.workload.as_str(), floor.mode), ("scan.sum/sizes", Mode::Stored));
    assert_eq!(floor.comparisons, 2 * 28, "two variants, each run with each other");
    assert!((floor.largest - 0.001).abs() < 1e-9, "{floor:?}");
    // 4 % counts in so quiet a place, and not where nothing was learned. Two rounds of the same are needed to
    // see it, since the samples scatter by 1 %.
    let tight = |median: f64| {
        measured(&[0.999, 1.0, 1.001, 1.0, 0.9995, 1.0005, 1.0, 1.0, 1.0].map(|s| s * median))
    };
    let judge = |noise: &Noise| {
        let options = GateOptions { noise: noise.clone(), ..GateOptions::default() };
        gate(&[cuda(tight(1000.0))], &[cuda(tight(1040.0))], &options)
    };
    expect(&judge(&noise), Verdict::Slower, false);
    expect(&judge(&Noise::default()), Verdict::Same, true);

    // A noisy history makes the gate careful.
    let noisy: Vec<Vec<Record>> =
        (0..8).map(|run| vec![cuda(around(1000.0 + 100.0 * f64::from(run % 2)))]).collect();
    let noisy = Noise::learn(&noisy).unwrap();
    let options = GateOptions { noise: noisy, ..GateOptions::default() };
    expect(&gate(&[cuda(tight(1000.0))], &[cuda(tight(1120.0))], &options), Verdict::Same, true);

    // It survives its file, one floor a line.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("noise.json");
    noise.write(&path).unwrap();
    assert_eq!(Noise::read(&path).unwrap(), {
        noise.write(&path).unwrap();
        Noise::read(&path).unwrap()
    });
    assert_eq!(Noise::read(&path).unwrap().floors(), noise.floors());
    assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 3);
}

#[test]
fn noise_is_learned_only_from_one_build() {
    let same = interleaved(3, 5, 1.0, &mut 3);
    let noise = Noise::learn(std::slice::from_ref(&same)).unwrap();
    assert_eq!(noise.floors()[0].mode, Mode::Interleaved);
    let mut other = same;
    for record in &mut other {
        if let Some(trial) = record.trial.as_mut().filter(|trial| trial.side == Side::B) {
            trial.binary = "11".into();
        }
    }
    let error = Noise::learn(&[other]).unwrap_err().to_string();
    assert!(error.contains("different binaries"), "{error}");
    assert!(Noise::learn(&[vec![cuda(around(1.0))]]).is_err(), "one run teaches nothing");
}

#[test]
fn the_proof_finds_few_alarms_and_large_changes() {
    let same = interleaved(20, 16, 1.0, &mut 5);
    let made = interleaved(20, 5, 1.10, &mut 6);
    let proof = prove(&same, &[(1.10, made)], 60, 6).unwrap();
    assert!(proof.false_alarms().value() <= 0.05, "{:?}", proof.false_alarms());
    assert!(proof.power(1.10).value() >= 0.95, "{:?}", proof.power(1.10));
    assert!(proof.power(1.03).value() <= proof.power(1.10).value());
    let text = proof.markdown();
    assert!(text.contains("| 10 %: 1 of 20 |"), "{text}");
    assert!(prove(&interleaved(2, 4, 1.0, &mut 5), &[], 10, 6).is_err(), "too few rounds");
}
