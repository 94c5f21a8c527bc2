//! The GitHub workflow that the repository ships, as far as a machine without GitHub can tell: it is YAML, its jobs and
//! expressions name what exists, and its scripts are scripts. (Its schema was checked with `npx
//! @action-validator/cli .github/workflows/ci.yml`.)

use std::{collections::BTreeSet, path::Path, process::Command};

use serde_json::{Map, Value};

fn workflow() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".github/workflows/ci.yml");
    serde_yaml_ng::from_str(&std::fs::read_to_string(path).unwrap()).expect("it is YAML")
}

fn jobs(workflow: &Value) -> &Map<String, Value> {
    workflow["jobs"].as_object().expect("it has jobs")
}

/// The scripts of a job's steps.
fn scripts(job: &Value) -> impl Iterator<Item = &str> {
    job["steps"].as_array().unwrap().iter().filter_map(|step| step["run"].as_str())
}

/// Every `${{ … }}` in a part of the workflow.
fn expressions(value: &Value) -> Vec<String> {
    let text = value.to_string();
    let rest = text.split("${{").skip(1);
    rest.map(|rest| rest.split("}}").next().unwrap().trim().to_string()).collect()
}

#[test]
fn every_job_has_a_runner_and_steps_and_waits_for_jobs_that_exist() {
    let workflow = workflow();
    assert!(workflow["on"]["pull_request"].is_null() && workflow["on"]["push"].is_object());
    let names: BTreeSet<&str> = jobs(&workflow).keys().map(String::as_str).collect();
    assert!(
        ["test", "measure", "gate", "gpu"].iter().all(|name| names.contains(name)),
        "{names:?}"
    );
    for (name, job) in jobs(&workflow) {
        assert!(!job["runs-on"].is_null(), "{name}");
        let steps = job["steps"].as_array().unwrap_or_else(|| panic!("{name} has no steps"));
        for step in steps {
            let (uses, run) = (step["uses"].as_str(), step["run"].as_str());
            assert!(uses.is_some() != run.is_some(), "{name}: {step}");
            assert!(uses.is_none_or(|uses| uses.contains('@')), "{name}: no version: {step}");
        }
        let needed = match &job["needs"] {
            Value::Null => Vec::new(),
            Value::String(one) => vec![one.as_str()],
            Value::Array(all) => all.iter().map(|one| one.as_str().unwrap()).collect(),
            other => panic!("{name} needs {other}"),
        };
        assert!(needed.iter().all(|needed| names.contains(needed)), "{name} needs {needed:?}");
    }
}

#[test]
fn parts_are_those_of_the_matrix() {
    let workflow = workflow();
    for (name, job) in jobs(&workflow) {
        let matrix = &job["strategy"]["matrix"];
        let used: Vec<String> = expressions(job);
        for key in used.iter().filter_map(|text| text.strip_prefix("matrix.")) {
            assert!(matrix[key].is_array(), "{name}: the matrix has no {key}");
        }
        // `hash:2/4` and `--shard 2/4`: as many parts as machines.
        let of = scripts(job).filter_map(|run| run.split("matrix.part }}/").nth(1));
        for parts in of.map(|rest| rest.split_whitespace().next().unwrap()) {
            let expected: Vec<u64> = (1..=parts.parse().unwrap()).collect();
            assert_eq!(matrix["part"], Value::from(expected), "{name}");
        }
    }
}

#[test]
fn every_script_is_one() {
    let workflow = workflow();
    let mut checked = 0;
    for (name, job) in jobs(&workflow) {
        for script in scripts(job) {
            // What GitHub puts in is a word.
            let plain = expressions(&Value::from(script))
                .iter()
                .fold(script.to_string(), |s, e| s.replace(&format!("${{{{ {e} }}}}"), "word"));
            let output = match Command::new("bash").args(["-n", "-c", &plain]).output() {
                Ok(output) => output,
                Err(error) => {
                    eprintln!("not checked: bash: {error}");
                    return;
                }
            };
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{name}: {script}: {error}");
            checked += 1;
        }
    }
    assert!(checked >= 10, "{checked} scripts");
}
