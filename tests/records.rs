//! Records files as machines leave them: killed runs, damaged and huge files, shards, two runs in one folder, and two
//! builds in turn.

use std::{
    collections::BTreeSet,
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use touchstone_bench::{
    Record,
    record::{self, Side},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_touchstone");

fn touchstone(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(PROGRAM)
        .args(arguments)
        .current_dir(folder)
        .env_remove("GITHUB_STEP_SUMMARY")
        .output()
        .expect("the program starts")
}

#[track_caller]
fn succeeds(folder: &Path, arguments: &[&str]) -> String {
    let output = touchstone(folder, arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Asserts the exit code and that the error says all of `parts`.
#[track_caller]
fn ends(folder: &Path, code: i32, arguments: &[&str], parts: &[&str]) {
    let output = touchstone(folder, arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
    for part in parts {
        assert!(error.contains(part), "{arguments:?}: '{part}' is not in: {error}");
    }
}

/// Workloads whose references take well under a millisecond.
fn small_workloads(folder: &Path, lengths: std::ops::Range<usize>) {
    let lengths: Vec<String> = lengths.map(|n| n.to_string()).collect();
    let text = format!(
        "[[workload]]\nname = \"small\"\nwhy = \"Small enough to be run often.\"\n\
         op = \"ssm.recurrence\"\ntier = \"quick\"\ncase = {{ batch = 1, seq_len = [{}], channels = 2, \
         field = \"real\", dtype = \"f32\", initial_state = false }}\n",
        lengths.join(", ")
    );
    std::fs::write(folder.join("small.toml"), text).unwrap();
}

const SMALL: [&str; 6] = ["run", "--quick", "--workloads", "small.toml", "--variant", "reference"];

fn run_small(folder: &Path, out: &str, more: &[&str]) {
    succeeds(folder, &[&SMALL[..], &["--out", out], more].concat());
}

fn question(record: &Record) -> (String, String) {
    (record.case.clone(), record.variant.clone())
}

#[test]
fn killing_a_run_at_any_moment_loses_no_finished_record_and_leaves_a_readable_file() {
    let folder = tempfile::tempdir().unwrap();
    small_workloads(folder.path(), 1..600);
    let begin = Instant::now();
    run_small(folder.path(), "whole.jsonl", &[]);
    let whole = begin.elapsed();
    let all: Vec<_> =
        record::read(&folder.path().join("whole.jsonl")).unwrap().iter().map(question).collect();
    assert_eq!(all.len(), 599);

    let (mut cut, mut kept) = (0, 0);
    let budget = Instant::now();
    for moment in 0..50 {
        // Quasi-random moments over the length of a whole run, which shrinks to fit the time allowed.
        let share = (f64::from(moment) * 0.618_034).fract();
        let longest = whole.min(Duration::from_millis(500));
        let path = folder.path().join(format!("{moment}.jsonl"));
        let mut run = Command::new(PROGRAM)
            .args(SMALL)
            .arg("--out")
            .arg(&path)
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(longest.mul_f64(share));
        run.kill().unwrap(); // SIGKILL
        run.wait().unwrap();
        if !path.exists() {
            continue;
        }
        // What is in the file are the first questions, without a gap: none that was finished is lost.
        let mut reader = record::open(&path).unwrap();
        let records: Vec<_> = reader.by_ref().map(|r| question(&r.unwrap())).collect();
        assert_eq!(records, all[..records.len()], "killed at moment {moment}");
        let ends = std::fs::read(&path).unwrap().iter().filter(|b| **b == b'\n').count();
        assert!(records.len() >= ends, "{} of {ends} finished lines were read", records.len());
        cut += usize::from(records.len() < all.len());
        kept += records.len();
    }
    assert!(cut > 0, "no run was killed before its end");
    eprintln!("{cut} of 50 runs were cut off; {kept} records survived; {:?}", budget.elapsed());
}

#[test]
fn a_file_that_ends_in_mid_record_is_read_up_to_there_and_merge_names_the_place() {
    let folder = tempfile::tempdir().unwrap();
    small_workloads(folder.path(), 1..4);
    run_small(folder.path(), "whole.jsonl", &[]);
    let whole = std::fs::read(folder.path().join("whole.jsonl")).unwrap();
    std::fs::write(folder.path().join("torn.jsonl"), &whole[..whole.len() - 40]).unwrap();
    let output = touchstone(folder.path(), &["compare", "torn.jsonl", "whole.jsonl"]);
    assert_eq!(output.status.code(), Some(0));
    let warning = String::from_utf8_lossy(&output.stderr);
    assert!(warning.contains("torn.jsonl:3") && warning.contains("2 records"), "{warning}");
    let merge = ["merge", "torn.jsonl", "--out", "merged.jsonl"];
    ends(folder.path(), 1, &merge, &["torn.jsonl:3", "incomplete"]);
    assert_eq!(record::read(&folder.path().join("merged.jsonl")).unwrap().len(), 2);
    // The gate never takes what is missing for right.
    let gate = ["gate", "--baseline", "whole.jsonl", "--out", "gate", "merged.jsonl"];
    assert_eq!(touchstone(folder.path(), &gate).status.code(), Some(1));
}

#[test]
fn shards_hold_every_case_once_and_are_the_same_on_every_machine() {
    let folder = tempfile::tempdir().unwrap();
    let cases = |arguments: &[&str]| -> Vec<String> {
        let text = succeeds(folder.path(), arguments);
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let workloads = json.as_array().unwrap().iter().flat_map(|o| o["workloads"].as_array());
        let cases = workloads.flatten().flat_map(|w| w["cases"].as_array().unwrap());
        cases.map(|case| case.as_str().unwrap().to_string()).collect()
    };
    let all = cases(&["list", "ssm", "--json"]);
    let parts: Vec<Vec<String>> = (1..=3)
        .map(|part| cases(&["list", "ssm", "--json", "--shard", &format!("{part}/3")]))
        .collect();
    assert!(parts.iter().all(|part| !part.is_empty() && part.len() < all.len()));
    let (mut together, mut all) = (parts.concat(), all);
    together.sort();
    all.sort();
    assert_eq!(together, all);
    // Pinned: a hash that changes would mix shards of two versions.
    let pinned = "ssm.recurrence:batch=1,seq_len=3,channels=2,field=real,dtype=f32,initial_state=false,seed=0";
    small_workloads(folder.path(), 3..4);
    let list =
        |part: &str| cases(&["list", "--workloads", "small.toml", "--json", "--shard", part]);
    let part = (1..=1000).find(|part| list(&format!("{part}/1000")) == [pinned]);
    assert_eq!(part, Some(PINNED_PART));
    for bad in ["0/3", "4/3", "1", "a/b", "1/0"] {
        ends(folder.path(), 2, &["list", "--shard", bad], &["from 1/N to N/N"]);
    }
}

/// Where BLAKE3 puts the pinned case among 1000 parts.
const PINNED_PART: u32 = 783;

#[test]
fn records_of_shards_merge_without_loss_or_duplicates_in_any_order() {
    let folder = tempfile::tempdir().unwrap();
    small_workloads(folder.path(), 1..10);
    for part in 1..=3 {
        run_small(folder.path(), &format!("{part}.jsonl"), &["--shard", &format!("{part}/3")]);
    }
    // An empty part is no failure: a thousand machines may ask nine cases.
    let empty = (1..=40).find(|part| {
        let out = format!("e{part}.jsonl");
        run_small(folder.path(), &out, &["--shard", &format!("{part}/40")]);
        std::fs::read(folder.path().join(out)).unwrap().is_empty()
    });
    assert!(empty.is_some());
    let read = |name: &str| record::read(&folder.path().join(name)).unwrap();
    let merged = |inputs: &[&str], out: &str| {
        succeeds(folder.path(), &[&["merge"], inputs, &["--out", out]].concat())
    };
    merged(&["1.jsonl", "2.jsonl", "3.jsonl"], "a.jsonl");
    let said = merged(&["3.jsonl", "1.jsonl", "2.jsonl", "1.jsonl"], "b.jsonl");
    let again = read("1.jsonl").len();
    assert!(said.contains(&format!("9 records; {again} identical ones")), "{said}");
    let set = |name: &str| -> BTreeSet<String> {
        read(name).iter().map(|r| serde_json::to_string(r).unwrap()).collect()
    };
    assert_eq!(set("a.jsonl"), set("b.jsonl"));
    assert_eq!(read("a.jsonl").len(), 9);
    // Nothing is overwritten.
    let before = std::fs::read(folder.path().join("a.jsonl")).unwrap();
    ends(folder.path(), 2, &["merge", "1.jsonl", "--out", "a.jsonl"], &["not overwritten"]);
    assert_eq!(std::fs::read(folder.path().join("a.jsonl")).unwrap(), before);

    // Two different answers to one question are named with both places, and nothing is written.
    let mut other = read("2.jsonl");
    other[0].work = None;
    let mut file = std::fs::File::create(folder.path().join("other.jsonl")).unwrap();
    writeln!(file, "\n{}", serde_json::to_string(&other[0]).unwrap()).unwrap();
    let merge = ["merge", "2.jsonl", "other.jsonl", "--out", "c.jsonl"];
    ends(folder.path(), 2, &merge, &["2.jsonl:1 and other.jsonl:2", &other[0].case]);
    assert!(!folder.path().join("c.jsonl").exists());
}

#[test]
fn files_of_a_hundred_megabytes_take_bounded_memory() {
    const SIZE: usize = 100 << 20;
    let folder = tempfile::tempdir().unwrap();
    small_workloads(folder.path(), 1..2);
    run_small(folder.path(), "one.jsonl", &[]);
    let line = std::fs::read_to_string(folder.path().join("one.jsonl")).unwrap();
    let write = |name: &str, part: &dyn Fn(usize) -> Vec<u8>| {
        let file = std::fs::File::create(folder.path().join(name)).unwrap();
        let mut file = std::io::BufWriter::new(file);
        let (mut written, mut number) = (0, 0);
        while written < SIZE {
            let bytes = part(number);
            file.write_all(&bytes).unwrap();
            (written, number) = (written + bytes.len(), number + 1);
        }
        number
    };
    // Address space for less than the file: 96 MiB beyond what the program takes to start.
    let limited = |arguments: &str| {
        let shell = format!("ulimit -v 400000 && exec \"$0\" {arguments}");
        let mut command = Command::new("sh");
        command.args(["-c", &shell, PROGRAM]).current_dir(folder.path());
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    // The seed makes every record another question.
    let records = write("valid.jsonl", &|number| {
        line.replace("seed=0", &format!("seed={number}")).into_bytes()
    });
    let (code, error) = limited("merge valid.jsonl --out merged.jsonl");
    assert_eq!(code, Some(0), "{error}");
    let file = std::fs::File::open(folder.path().join("merged.jsonl")).unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(file)).count();
    assert_eq!(lines, records);
    std::fs::remove_file(folder.path().join("merged.jsonl")).unwrap();
    std::fs::remove_file(folder.path().join("valid.jsonl")).unwrap();

    for (name, part, says) in [
        ("line.jsonl", b"[1,".to_vec(), "line.jsonl:1: longer than 16 MiB"),
        ("zeros.jsonl", vec![0; 4096], "zeros.jsonl:1"),
        ("text.jsonl", b"no record\n".to_vec(), "text.jsonl:1: not a record"),
    ] {
        let part = part.repeat(1 + 65_536 / part.len());
        write(name, &|_| part.clone());
        for command in ["gate --baseline one.jsonl", "report", "compare one.jsonl", "merge --out m"]
        {
            let (code, error) = limited(&format!("{command} {name}"));
            assert_eq!(code, Some(2), "{command} {name}: {error}");
            assert!(error.contains(says), "{command} {name}: {error}");
        }
        std::fs::remove_file(folder.path().join(name)).unwrap();
    }
}

#[test]
fn two_runs_in_one_folder_do_not_mix() {
    let folder = tempfile::tempdir().unwrap();
    small_workloads(folder.path(), 1..40);
    let start = || {
        let mut command = Command::new(PROGRAM);
        command.args(SMALL).current_dir(folder.path()).stdout(Stdio::null()).spawn().unwrap()
    };
    let mut runs = [start(), start()];
    for run in &mut runs {
        assert!(run.wait().unwrap().success());
    }
    let files: Vec<_> = std::fs::read_dir(folder.path().join("report/records"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(files.len(), 2, "{files:?}");
    for file in files {
        assert_eq!(record::read(&file).unwrap().len(), 39);
    }
}

#[test]
fn two_builds_are_asked_in_turn_and_judged() {
    let folder = tempfile::tempdir().unwrap();
    small_workloads(folder.path(), 500..503);
    let run = |out: &str, more: &[&str]| {
        let against = ["--against", PROGRAM, "--rounds", "3"];
        run_small(folder.path(), out, &[&against, more].concat());
        record::read(&folder.path().join(out)).unwrap()
    };
    let records = run("same.jsonl", &[]);
    // A B B A: each round asks each case of both sides, A first and B first by turns; an odd number is made even.
    let order: Vec<(u32, Side)> = records
        .iter()
        .map(|record| {
            let trial = record.trial.as_ref().unwrap();
            (trial.round, trial.side)
        })
        .collect();
    let turn = |round| if round % 2 == 0 { [Side::A, Side::B] } else { [Side::B, Side::A] };
    let expected: Vec<(u32, Side)> = (0..4)
        .flat_map(|round| turn(round).repeat(3).into_iter().map(move |s| (round, s)))
        .collect();
    assert_eq!(order, expected);
    let binaries: BTreeSet<_> = records.iter().map(|r| &r.trial.as_ref().unwrap().binary).collect();
    assert_eq!(binaries.len(), 1, "the same binary on both sides");
    succeeds(folder.path(), &["gate", "--learn", "noise.json", "same.jsonl"]);

    // A build that takes three times as long is slower, even here.
    run("slow.jsonl", &["--slow-down", "3"]);
    let gate = ["gate", "slow.jsonl", "--out", "gate"];
    let output = touchstone(folder.path(), &gate);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("3 slower"), "{text}");
    for file in ["json", "md", "junit.xml", "bmf.json", "sarif"] {
        assert!(folder.path().join("gate/verdicts").with_extension(file).exists(), "{file}");
    }
    ends(
        folder.path(),
        2,
        &["gate", "--baseline", "same.jsonl", "slow.jsonl"],
        &["without --baseline"],
    );
    let (against, other) = (["--against", "/bin/true"], ["--out", "none.jsonl"]);
    ends(folder.path(), 2, &[&SMALL[..], &against, &other].concat(), &["/bin/true", "--against"]);
}

#[test]
fn a_baseline_that_is_not_there_closes_the_gate_after_the_verdicts_are_written() {
    let folder = tempfile::tempdir().unwrap();
    small_workloads(folder.path(), 1..3);
    run_small(folder.path(), "run.jsonl", &[]);
    let gate = |baseline: &str, out: &str| {
        let output =
            touchstone(folder.path(), &["gate", "--baseline", baseline, "--out", out, "run.jsonl"]);
        let read = |name: &str| std::fs::read_to_string(folder.path().join(out).join(name));
        (output.status.code(), read("verdicts.json").unwrap())
    };
    let (code, verdicts) = gate("nowhere", "a");
    assert_eq!(code, Some(1));
    assert!(verdicts.contains("nowhere does not exist"), "{verdicts}");
    // The shipped baselines are of another device.
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/ci/baselines");
    let (code, verdicts) = gate(shipped, "b");
    assert_eq!(code, Some(1));
    assert!(verdicts.contains("no baseline for"), "{verdicts}");
    // Accepted, it is open.
    succeeds(folder.path(), &["gate", "--accept", "--baseline", "mine", "run.jsonl"]);
    let (code, verdicts) = gate("mine", "c");
    assert_eq!(code, Some(0), "{verdicts}");
    ends(folder.path(), 2, &["gate", "run.jsonl"], &["nothing to judge by"]);
}

#[test]
fn the_step_summary_and_annotations_reach_github() {
    let folder = tempfile::tempdir().unwrap();
    small_workloads(folder.path(), 1..3);
    run_small(folder.path(), "run.jsonl", &[]);
    let output = Command::new(PROGRAM)
        .args(["gate", "--baseline", "nowhere", "run.jsonl"])
        .current_dir(folder.path())
        .env("GITHUB_ACTIONS", "true")
        .env("GITHUB_STEP_SUMMARY", folder.path().join("summary.md"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.starts_with("::error title=nothing can be judged::"), "{text}");
    let summary = std::fs::read_to_string(folder.path().join("summary.md")).unwrap();
    assert!(summary.starts_with("# The gate fails"), "{summary}");
}

#[test]
fn every_command_that_the_workflow_and_the_guides_name_exists_with_its_options() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut commands = 0;
    let mut helps = std::collections::BTreeMap::new();
    for file in [".github/workflows/ci.yml", "ci/README.md", "README.md"] {
        let text = std::fs::read_to_string(root.join(file)).unwrap();
        let lines = text.lines().filter_map(|line| line.split(" #").next());
        for command in lines.flat_map(|line| line.split("&&")) {
            let Some((_, rest)) = command.split_once("touchstone ") else { continue };
            let words: Vec<&str> = rest.split_whitespace().collect();
            let known = ["list", "check", "run", "report", "gate", "compare", "merge"];
            let Some(name) = words.first().copied().filter(|name| known.contains(name)) else {
                continue;
            };
            let help =
                helps.entry(name.to_string()).or_insert_with(|| succeeds(root, &[name, "--help"]));
            commands += 1;
            for option in words.iter().filter(|word| word.starts_with("--")) {
                let option = option.trim_matches(|c: char| !c.is_alphanumeric() && c != '-');
                let option = option.split('=').next().unwrap();
                assert!(help.contains(option), "{file}: touchstone {name} has no {option}");
            }
        }
    }
    assert!(commands >= 10, "{commands} commands were found");
}
