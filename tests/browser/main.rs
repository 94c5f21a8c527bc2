//! The report in a real browser. `tests/browser/setup.sh` gets what this needs; where there is no browser, every
//! check is shown as ignored and what was not checked is said.
//!
//! `TOUCHSTONE_LOOK=FOLDER cargo test --test browser` keeps pages and screenshots for people to look at;
//! `TOUCHSTONE_REQUIRE_BROWSER=1` makes a missing browser a failure.

mod records;

use std::{collections::BTreeMap, path::Path, process::Command, sync::OnceLock};

use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::Value;
use touchstone_reports::{Options, write};

/// The checks of `check.py`, by their names there.
const CHECKS: &[&str] = &[
    "opens_without_errors_and_loads_nothing",
    "is_usable_within_a_second_of_two_thousand_records",
    "tables_sort_by_number_and_unit",
    "tables_filter_by_words",
    "hovering_shows_exact_values",
    "a_click_isolates_a_series_and_a_second_frees_it",
    "permalinks_open_what_is_folded",
    "no_texts_overlap_on_a_wide_screen",
    "no_texts_overlap_on_a_narrow_screen",
    "nothing_needs_sideways_scrolling",
    "texts_can_be_read_in_light_and_dark",
    "is_complete_without_scripts",
    "prints_everything",
    "the_records_can_be_downloaded",
];

/// What is wrong by each check, if anything.
type Results = BTreeMap<String, Option<String>>;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn python() -> Command {
    let mut command = Command::new(root().join("target/browser/bin/python"));
    command.arg(root().join("tests/browser/check.py"));
    command
}

/// Why the checks cannot run here, if so.
fn missing() -> Option<String> {
    match python().arg("--find").output() {
        Err(_) => Some("tests/browser/setup.sh has not been run".to_string()),
        Ok(found) if found.status.success() => None,
        Ok(found) => Some(String::from_utf8_lossy(&found.stderr).trim().to_string()),
    }
}

/// Writes the pages and runs all checks on them, once.
fn results() -> &'static Result<Results, String> {
    static RESULTS: OnceLock<Result<Results, String>> = OnceLock::new();
    RESULTS.get_or_init(|| check().map_err(|error| error.to_string()))
}

fn check() -> Result<Results, Box<dyn std::error::Error>> {
    let scratch = tempfile::tempdir()?;
    let look = std::env::var_os("TOUCHSTONE_LOOK").map(std::path::PathBuf::from);
    let folder = look.as_deref().unwrap_or(scratch.path());
    let options = records::options();
    write(&records::many(2000), &folder.join("large"), &options)?;
    write(&records::troubled(), &folder.join("troubled"), &options)?;
    let changed = Options {
        comparison: Some(records::comparison()),
        history: true,
        text_chain: None,
        ..options
    };
    write(&records::past(), &folder.join("changed"), &changed)?;
    let output = python().arg(folder).output()?;
    if !output.status.success() {
        return Err(format!("check.py: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    // One JSON object a line: the check, and its problem or null.
    let mut results = Results::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        let said: Value = serde_json::from_str(line)?;
        let name = said["check"].as_str().ok_or("check.py names no check")?;
        results.insert(name.to_string(), said["problem"].as_str().map(str::to_string));
    }
    Ok(results)
}

fn outcome(check: &str) -> Result<(), Failed> {
    match results().as_ref()?.get(check) {
        None => Err(format!("check.py has no {check}").into()),
        Some(Some(problem)) => Err(problem.into()),
        Some(None) => Ok(()),
    }
}

fn every_check_is_listed() -> Result<(), Failed> {
    let unlisted: Vec<&String> =
        results().as_ref()?.keys().filter(|name| !CHECKS.contains(&name.as_str())).collect();
    if unlisted.is_empty() { Ok(()) } else { Err(format!("not in CHECKS: {unlisted:?}").into()) }
}

fn main() {
    let arguments = Arguments::from_args();
    let missing = missing();
    let required = std::env::var_os("TOUCHSTONE_REQUIRE_BROWSER").is_some();
    if let (Some(reason), false) = (&missing, arguments.list) {
        println!("\nTHE REPORT WAS NOT CHECKED IN A BROWSER: {reason}");
    }
    let ignored = missing.is_some() && !required;
    let trials = CHECKS.iter().map(|&name| Trial::test(name, move || outcome(name)));
    let listed = Trial::test("every_check_is_listed", every_check_is_listed);
    let trials = trials.chain([listed]).map(|trial| trial.with_ignored_flag(ignored)).collect();
    libtest_mimic::run(&arguments, trials).exit();
}
