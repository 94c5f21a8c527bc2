//! The command line as a user meets it: bad input gets a clear error, exit code 2, and loses nothing.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

fn touchstone(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_touchstone"))
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("the program starts")
}

/// Asserts exit code 2 and that the error says all of `parts`.
fn refuses(folder: &Path, arguments: &[&str], parts: &[&str]) {
    let output = touchstone(folder, arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
    for part in parts {
        assert!(error.contains(part), "{arguments:?}: '{part}' is not in: {error}");
    }
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn unknown_names_are_refused_before_anything_runs() {
    let folder = folder();
    refuses(folder.path(), &["check", "atention"], &["atention", "touchstone list"]);
    refuses(folder.path(), &["run", "--variant", "fastest", "ssm"], &["fastest", "sequential"]);
    refuses(folder.path(), &["list", "--variant", "fastest", "ssm"], &["fastest", "sequential"]);
    refuses(folder.path(), &["check", "no.such:n=1"], &["no.such", "attention.forward"]);
    refuses(folder.path(), &["check", "attention.forward:colour=1"], &["colour"]);
    for (slip, meant) in [
        ("atention", "'attention'?"),
        ("attention.foward", "'attention.forward'?"),
        ("ssm.recurence:batch=1", "'ssm.recurrence'?"),
    ] {
        refuses(folder.path(), &["check", slip], &[slip.split(':').next().unwrap(), meant]);
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "something was written");
}

#[test]
fn a_filter_names_operations_and_workloads_only_where_it_names_no_operation() {
    let folder = folder();
    let listed = |filter: &str| -> Vec<String> {
        let output = touchstone(folder.path(), &["list", "--json", filter]);
        assert_eq!(output.status.code(), Some(0), "{filter}");
        let list: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
        let workloads = |operation: &serde_json::Value| -> Vec<String> {
            let op = operation["operation"].as_str().unwrap().to_string();
            let names = operation["workloads"].as_array().unwrap().iter();
            names.map(|w| format!("{op}/{}", w["name"].as_str().unwrap())).collect()
        };
        list.iter().flat_map(workloads).collect()
    };
    let attention = listed("attention");
    assert!(attention.iter().all(|name| name.starts_with("attention.")), "{attention:?}");
    assert!(attention.iter().any(|name| name.starts_with("attention.decode/")), "{attention:?}");
    let beside = listed("beside_attention");
    assert!(beside.contains(&"recurrent.lstm/lstm_beside_attention".into()), "{beside:?}");
    let whole = listed("ssm.recurrence/");
    assert!(!whole.is_empty() && whole.iter().all(|name| name.starts_with("ssm.recurrence/")));
    let prefill = listed("attention.forward/prefill");
    assert!(prefill.iter().all(|n| n.starts_with("attention.forward/") && n.contains("prefill")));
    assert!(prefill.len() < attention.len() && !prefill.is_empty(), "{prefill:?}");
    refuses(folder.path(), &["list", "attention.forward/lstm"], &["attention.forward/lstm"]);
}

#[test]
fn damaged_corpora_are_named_with_the_place() {
    let folder = folder();
    let bad = folder.path().join("bad.txt");
    std::fs::write(&bad, b"a fine line\nthen \xff\xfe").unwrap();
    refuses(folder.path(), &["--corpus", "bad.txt"], &["bad.txt", "17"]);
    refuses(folder.path(), &["--corpus", "missing.txt"], &["missing.txt"]);
    std::fs::write(&bad, "").unwrap();
    refuses(folder.path(), &["--corpus", "bad.txt"], &["bad.txt", "empty"]);
}

#[test]
fn malformed_workloads_are_named_with_file_and_line() {
    let folder = folder();
    std::fs::write(folder.path().join("mine.toml"), "[[workload]]\nname = \n").unwrap();
    refuses(folder.path(), &["check", "--workloads", "mine.toml"], &["mine.toml", "line 2"]);
}

#[test]
fn corrupted_and_foreign_records_are_named_with_file_and_line() {
    let folder = folder();
    std::fs::write(folder.path().join("old.jsonl"), "{\"schema\":99}\n").unwrap();
    std::fs::write(folder.path().join("torn.jsonl"), "{\"schema\":1,\"work").unwrap();
    for arguments in [
        vec!["report", "old.jsonl"],
        vec!["compare", "old.jsonl", "old.jsonl"],
        vec!["gate", "--baseline", "old.jsonl", "old.jsonl"],
    ] {
        refuses(folder.path(), &arguments, &["old.jsonl:1", "schema version 99"]);
    }
    refuses(folder.path(), &["report", "torn.jsonl"], &["torn.jsonl:1"]);
    refuses(folder.path(), &["report", "missing.jsonl"], &["missing.jsonl"]);
    assert!(!folder.path().join("report").exists(), "a report was written");
}

#[test]
fn an_existing_records_file_is_never_overwritten() {
    let folder = folder();
    let path = folder.path().join("mine.jsonl");
    std::fs::write(&path, "precious").unwrap();
    refuses(
        folder.path(),
        &["run", "--quick", "--out", "mine.jsonl"],
        &["mine.jsonl", "not overwritten"],
    );
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    // What keeps a file from being made otherwise is not called overwriting.
    let output = touchstone(folder.path(), &["check", SMALL, "--out", "mine.jsonl/2.jsonl"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && !error.contains("overwritten"), "{error}");
}

/// A case that takes no time.
const SMALL: &str =
    "ssm.recurrence:batch=1,seq_len=5,channels=3,field=real,dtype=f32,initial_state=false,seed=4";

#[test]
fn a_reader_that_has_seen_enough_ends_nothing() {
    let folder = folder();
    let mut run = Command::new(env!("CARGO_BIN_EXE_touchstone"))
        .args(["check", SMALL, "--out", "kept.jsonl"])
        .current_dir(folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    drop(run.stdout.take());
    let output = run.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{error}");
    assert!(!error.contains("panicked"), "{error}");
    let records = std::fs::read_to_string(folder.path().join("kept.jsonl")).unwrap();
    assert!(records.ends_with("}\n") && records.contains("\"reference\""), "{records}");
}

#[test]
fn the_shipped_results_alone_make_a_report() {
    let folder = folder();
    let output = touchstone(folder.path(), &["report", "--with-shipped", "--out", "page"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let page = std::fs::read_to_string(folder.path().join("page/index.html")).unwrap();
    assert!(page.contains("NVIDIA H100") && page.contains("NVIDIA H200"));
    refuses(folder.path(), &["report"], &["RECORDS"]);
}

#[test]
fn one_case_is_replayed_from_its_id() {
    let folder = folder();
    let output = touchstone(folder.path(), &["check", SMALL]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("reference") && text.contains("0 wrong, 0 failed"), "{text}");
}

#[test]
fn records_of_a_run_make_a_report_and_pass_the_gate_against_themselves() {
    let folder = folder();
    let run = ["run", "ssm.recurrence", "--quick", "--out", "a.jsonl"];
    let output = touchstone(folder.path(), &run);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let output = touchstone(folder.path(), &["report", "a.jsonl", "--out", "page"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let page = std::fs::read_to_string(folder.path().join("page/index.html")).unwrap();
    assert!(page.contains("ssm.recurrence") && page.contains("<svg"));
    let gate = ["gate", "--baseline", "a.jsonl", "--out", "gate", "a.jsonl"];
    let output = touchstone(folder.path(), &gate);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    for file in ["verdicts.json", "verdicts.md"] {
        assert!(folder.path().join("gate").join(file).exists(), "{file} is missing");
    }
}

#[test]
fn list_is_readable_by_machines() {
    let folder = folder();
    let output = touchstone(folder.path(), &["list", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let operations = json.as_array().unwrap();
    assert!(operations.iter().any(|o| o["operation"] == "attention.forward"));
    assert!(operations.iter().all(|o| !o["variants"].as_array().unwrap().is_empty()));
}
