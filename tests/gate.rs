//! What the gate must say: each verdict, in every format, and that it never passes for lack of something to
//! compare.

#[path = "gate/support.rs"]
mod support;

use support::*;

#[test]
fn the_same_times_are_same() {
    expect(&judge(around(1000.0), around(1000.0)), Verdict::Same, true);
    expect(&judge(around(1000.0), around(1049.0)), Verdict::Same, true);
}

#[test]
fn a_clear_slow_down_fails() {
    let verdicts = judge(around(1000.0), around(1060.0));
    expect(&verdicts, Verdict::Slower, false);
    assert!((verdicts.entries[0].ratio.unwrap() - 1.06).abs() < 1e-9);
}

#[test]
fn a_clear_speed_up_is_faster_and_passes() {
    expect(&judge(around(1000.0), around(900.0)), Verdict::Faster, true);
}

#[test]
fn swapping_the_sides_swaps_slower_and_faster() {
    for ratio in [0.5, 0.93, 0.953, 1.0, 1.049, 1.07, 2.0] {
        let there = judge(around(1000.0), around(1000.0 * ratio)).entries[0].verdict;
        let back = judge(around(1000.0 * ratio), around(1000.0)).entries[0].verdict;
        let mirrored = match there {
            Verdict::Slower => Verdict::Faster,
            Verdict::Faster => Verdict::Slower,
            other => other,
        };
        assert_eq!(back, mirrored, "at ratio {ratio}");
    }
}

#[test]
fn processors_are_given_a_larger_effect_and_the_largest_against_another_hour() {
    let cpu = |median| record("reference", Executor::Cpu, around(median));
    let options = GateOptions::default();
    let stored = |median| gate(&[cpu(1000.0)], &[cpu(median)], &options);
    expect(&stored(1200.0), Verdict::Same, true);
    expect(&stored(1300.0), Verdict::Slower, false);
    let in_turn = |median| {
        let sides = [(Side::A, 1000.0), (Side::B, median)];
        let rounds = (0..4).flat_map(|round| sides.map(|(side, median)| (side, round, median)));
        let record = |(side, round, median)| Record {
            trial: Some(Trial { side, round, binary: "00".into() }),
            ..cpu(median)
        };
        gate_interleaved(&rounds.map(record).collect::<Vec<_>>(), &options).unwrap()
    };
    expect(&in_turn(1080.0), Verdict::Same, true);
    expect(&in_turn(1120.0), Verdict::Slower, false);
}

#[test]
fn medians_that_differ_within_overlapping_quartiles_are_unclear() {
    let noisy = measured(&[800.0, 900.0, 1100.0, 1200.0, 1300.0, 1350.0, 1400.0]);
    expect(&judge(around(1000.0), noisy), Verdict::Unclear, true);
}

#[test]
fn too_few_samples_are_unclear() {
    expect(&judge(around(1000.0), measured(&[5000.0; 4])), Verdict::Unclear, true);
    expect(&judge(measured(&[]), around(1000.0)), Verdict::Unclear, true);
}

#[test]
fn times_that_are_not_numbers_are_unclear() {
    expect(&judge(around(1000.0), measured(&[f64::NAN; 9])), Verdict::Unclear, true);
    expect(&judge(measured(&[0.0; 9]), around(1000.0)), Verdict::Unclear, true);
}

#[test]
fn an_invalid_time_is_unclear_however_fast() {
    let Outcome::Measured { agreement, mut measurement } = around(10.0) else { unreachable!() };
    measurement.above_limit = true;
    let invalid = Outcome::Measured { agreement, measurement };
    expect(&judge(around(1000.0), invalid), Verdict::Unclear, true);
}

#[test]
fn cold_samples_never_compare_with_warm_ones() {
    let Outcome::Measured { agreement, measurement } = around(1000.0) else { unreachable!() };
    let warm = Measurement { warm_ns: measurement.cold_ns, ..Measurement::default() };
    let warm = Outcome::Measured { agreement, measurement: warm };
    expect(&judge(around(1000.0), warm), Verdict::Unclear, true);
}

#[test]
fn a_wrong_result_fails_with_or_without_a_baseline() {
    let wrong = || Outcome::Wrong { agreement: Some(agreement(3)), complaint: "3 NaN".into() };
    expect(&judge(around(1000.0), wrong()), Verdict::Wrong, false);
    let right = record("other", Executor::Cuda, around(1.0));
    let verdicts = gate(
        std::slice::from_ref(&right),
        &[cuda(wrong()), right.clone()],
        &GateOptions::default(),
    );
    assert_eq!((verdicts.count(Verdict::Wrong), verdicts.passes()), (1, false));
}

#[test]
fn a_record_that_claims_to_be_right_against_its_agreement_is_wrong() {
    let liar = Outcome::Checked { agreement: agreement(1) };
    expect(&judge(Outcome::Checked { agreement: agreement(0) }, liar), Verdict::Wrong, false);
}

#[test]
fn what_is_gone_skipped_failed_or_untimed_is_missing() {
    let checked = || Outcome::Checked { agreement: agreement(0) };
    for (gone, current) in [
        ("skipped", skipped()),
        ("out of memory", Outcome::Failed { error: "out of memory".into() }),
        ("no longer timed", checked()),
    ] {
        let others = [record("other", Executor::Cuda, around(1.0))];
        let baseline = [cuda(around(1000.0)), others[0].clone()];
        let current = [cuda(current), others[0].clone()];
        let verdicts = gate(&baseline, &current, &GateOptions::default());
        assert_eq!((verdicts.count(Verdict::Missing), verdicts.passes()), (1, false), "{gone}");
        assert!(verdicts.entries[0].reason.contains(gone), "{}", verdicts.entries[0].reason);
        let verdicts = gate(&baseline, &others, &GateOptions::default());
        assert_eq!((verdicts.count(Verdict::Missing), verdicts.passes()), (1, false));
    }
}

#[test]
fn checked_without_a_time_is_same() {
    let checked = || Outcome::Checked { agreement: agreement(0) };
    expect(&judge(checked(), checked()), Verdict::Same, true);
    expect(&judge(checked(), around(1000.0)), Verdict::Same, true);
}

#[test]
fn what_the_baseline_does_not_answer_is_new() {
    let old = record("other", Executor::Cuda, around(1.0));
    let verdicts = gate(
        std::slice::from_ref(&old),
        &[old.clone(), cuda(around(1.0))],
        &GateOptions::default(),
    );
    assert_eq!((verdicts.count(Verdict::New), verdicts.passes()), (1, true));
}

#[test]
fn what_both_sides_skip_is_only_counted() {
    let cpu = record("reference", Executor::Cpu, around(1000.0));
    let records = [cpu, cuda(skipped())];
    let verdicts = gate(&records, &records, &GateOptions::default());
    assert_eq!((verdicts.entries.len(), verdicts.skipped, verdicts.passes()), (1, 1, true));
}

#[test]
fn nothing_to_compare_never_passes() {
    let (some, options) = ([cuda(around(1000.0))], GateOptions::default());
    assert!(gate(&some, &some, &options).passes());
    assert!(!gate(&[], &[], &options).passes());
    assert!(!gate(&some, &[], &options).passes());
    assert!(!gate(&[], &some, &options).passes());
    let nothing = [cuda(skipped())];
    assert!(!gate(&nothing, &nothing, &options).passes());
    let options = GateOptions { only: Some(Executor::Cpu), ..options };
    assert!(!gate(&some, &some, &options).passes());
}

#[test]
fn a_foreign_baseline_never_passes() {
    let here = [cuda(around(1000.0))];
    for (gpu, driver) in [("Other GPU", "550.1"), ("Example GPU", "580.9")] {
        let mut there = here.clone();
        there[0].environment = environment(gpu, driver);
        let verdicts = gate(&there, &here, &GateOptions::default());
        assert!(!verdicts.passes());
        assert!(verdicts.problem.as_ref().unwrap().contains("foreign baseline"));
        // Only part of the baseline is foreign: that part is missing.
        let cpu = record("reference", Executor::Cpu, around(1.0));
        let (there, here) = ([there[0].clone(), cpu.clone()], [here[0].clone(), cpu]);
        let verdicts = gate(&there, &here, &GateOptions::default());
        assert_eq!(verdicts.problem, None);
        assert_eq!((verdicts.count(Verdict::Missing), verdicts.passes()), (1, false));
    }
}

#[test]
fn a_gpu_baseline_on_a_machine_without_one_is_missing() {
    let cpu = record("reference", Executor::Cpu, around(1000.0));
    let mut here = [cpu.clone(), cuda(skipped())];
    here[1].environment.device = None;
    let verdicts = gate(&[cpu, cuda(around(1000.0))], &here, &GateOptions::default());
    assert_eq!((verdicts.count(Verdict::Same), verdicts.count(Verdict::Missing)), (1, 1));
    let options = GateOptions { only: Some(Executor::Cpu), ..GateOptions::default() };
    let baseline = [here[0].clone(), cuda(around(1000.0))];
    assert!(gate(&baseline, &here, &options).passes());
}

#[test]
fn an_error_is_not_hidden_by_a_later_success() {
    let failed = Outcome::Failed { error: "lost".into() };
    let current = [cuda(failed), cuda(around(1000.0))];
    let verdicts = gate(&[cuda(around(1000.0))], &current, &GateOptions::default());
    expect(&verdicts, Verdict::Missing, false);
}

#[test]
fn verdicts_are_written_as_json_and_markdown() {
    let dir = tempfile::tempdir().unwrap();
    let verdicts = judge(around(1000.0), around(2000.0));
    verdicts.write(&dir.path().join("gate")).unwrap();
    let read = |name: &str| std::fs::read_to_string(dir.path().join("gate").join(name)).unwrap();
    let json: serde_json::Value = serde_json::from_str(&read("verdicts.json")).unwrap();
    assert_eq!(json["passes"], false);
    assert_eq!(json["counts"]["slower"], 1);
    assert_eq!(json["entries"][0]["case"], CASE);
    assert_eq!(json["entries"][0]["baseline"]["samples"], 9);
    let markdown = read("verdicts.md");
    assert!(markdown.starts_with("# The gate fails"), "{markdown}");
    assert!(markdown.contains(&format!("touchstone check '{CASE}'")), "{markdown}");
}

#[test]
fn a_comparison_shows_ratios_and_judges_nothing_across_devices() {
    let (a, mut b) = ([cuda(around(1_000_000.0))], [cuda(around(2_000_000.0))]);
    let text = compare(&a, &b);
    assert!(text.contains("| 2.000× | 1.000 ms | 2.000 ms | 1.000× | slower |"), "{text}");
    b[0].environment = environment("Other GPU", "550.1");
    let text = compare(&a, &b);
    assert!(text.contains("| 2.000× |") && text.contains("different places"), "{text}");
    assert!(compare(&a, &[]).contains("1 only in A"));
}

#[test]
fn one_more_bank_conflict_closes_the_gate_with_the_numbers() {
    let was = Counts { global_read_sectors: 64, shared_read_conflicts: 7, ..Counts::default() };
    let options = GateOptions::default();
    let judge = |now: &Counts| gate(&[simulated(was.clone())], &[simulated(now.clone())], &options);
    expect(&judge(&was), Verdict::Same, true);

    let verdicts =
        judge(&Counts { shared_read_conflicts: 8, global_read_sectors: 32, ..was.clone() });
    expect(&verdicts, Verdict::Slower, false);
    assert_eq!(verdicts.entries[0].reason, "costs more: shared read conflicts 7 → 8");

    let verdicts = judge(&Counts { global_read_sectors: 32, ..was.clone() });
    expect(&verdicts, Verdict::Faster, true);
    assert_eq!(verdicts.entries[0].reason, "costs less: global read sectors 64 → 32");

    let uncounted = Record { cost: None, ..simulated(was.clone()) };
    expect(&gate(&[simulated(was)], &[uncounted], &options), Verdict::Missing, false);
}

#[test]
fn other_clocks_are_another_place() {
    let at = |mhz, max| {
        let mut record = cuda(around(1000.0));
        let device = record.environment.device.as_mut().unwrap();
        (device.sm_clock_mhz, device.max_sm_clock_mhz) = (Some(mhz), Some(max));
        record
    };
    let judge = |old, new| gate(&[old], &[new], &GateOptions::default());
    assert!(judge(at(1980, 1980), at(1965, 1980)).passes(), "one step of the clock");
    for foreign in [at(1410, 1980), at(1980, 1755)] {
        let verdicts = judge(at(1980, 1980), foreign);
        assert!(!verdicts.passes());
        let problem = verdicts.problem.unwrap();
        assert!(problem.contains("1980 of 1980 MHz"), "{problem}");
    }
}

#[test]
fn accepting_writes_a_sorted_baseline_one_record_a_line_and_says_what_changed() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("h100");
    let other = |n: u32| Record { case: format!("scan.sum:n={n},seed=1"), ..cuda(around(500.0)) };
    let changes = baseline::accept(&folder, &[other(2), cuda(around(1000.0)), other(1)]).unwrap();
    assert_eq!(changes.len(), 3);
    let path = folder.join("scan.jsonl");
    let before = std::fs::read_to_string(&path).unwrap();
    let cases = |text: &str| -> Vec<String> {
        let case = |line: &str| serde_json::from_str::<Record>(line).unwrap().case;
        text.lines().map(case).collect()
    };
    assert!(cases(&before).is_sorted(), "{before}");

    // A run of one question changes one line; the same again changes nothing.
    let changes = baseline::accept(&folder, &[cuda(around(900.0))]).unwrap();
    let [change] = &changes[..] else { panic!("{changes:?}") };
    assert!(change.to_string().starts_with("~ 0.001000 ms → 0.000900 ms (0.900×)"), "{change}");
    let after = std::fs::read_to_string(&path).unwrap();
    let differing = before.lines().zip(after.lines()).filter(|(a, b)| a != b).count();
    assert_eq!((differing, before.lines().count()), (1, after.lines().count()));
    assert!(baseline::accept(&folder, &[cuda(around(900.0))]).unwrap().is_empty());
    let accepted = touchstone_bench::record::read(&folder).unwrap();
    assert!(gate(&accepted, &accepted, &GateOptions::default()).passes());

    // What is wrong, failed, half of an interleaved run or made elsewhere is not accepted, and nothing is written.
    let wrong = Outcome::Wrong { agreement: None, complaint: "3 NaN".into() };
    let failed = Outcome::Failed { error: "out of memory".into() };
    let mut elsewhere = cuda(around(1.0));
    elsewhere.environment = environment("Other GPU", "550.1");
    let trial = Some(Trial { side: Side::A, round: 0, binary: "00".into() });
    let half = vec![Record { trial, ..cuda(around(1.0)) }];
    for (bad, says) in [
        (vec![cuda(around(1.0)), cuda(wrong)], "3 NaN"),
        (vec![cuda(failed)], "out of memory"),
        (vec![elsewhere], "Other GPU"),
        (half, "interleaved"),
    ] {
        let error = baseline::accept(&folder, &bad).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), after);
    }
}

#[test]
fn a_folder_of_baselines_gives_the_one_of_this_device() {
    let dir = tempfile::tempdir().unwrap();
    let here = [cuda(around(1000.0))];
    let mut there = here.clone();
    there[0].environment = environment("Other GPU", "550.1");
    baseline::accept(&dir.path().join("other"), &there).unwrap();
    let missing = baseline::find(dir.path(), &here).unwrap().unwrap_err();
    assert!(
        missing.contains("no baseline for Example GPU") && missing.contains("other"),
        "{missing}"
    );
    baseline::accept(&dir.path().join("this"), &here).unwrap();
    let (records, folder) = baseline::find(dir.path(), &here).unwrap().unwrap();
    assert_eq!((records.len(), folder), (1, dir.path().join("this")));
}
