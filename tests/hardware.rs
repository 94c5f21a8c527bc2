//! The simulator against hardware, on any machine: fingerprints of the outputs that a GPU gave, and counters that it
//! counted, are committed under `tests/hardware/`.
//!
//! `tests/hardware/record.sh` on a GPU gives both anew: its records become `outputs.jsonl` by
//! `TOUCHSTONE_HARDWARE=FILE cargo test --test hardware`.

#[path = "hardware/counters.rs"]
mod counters;
#[path = "hardware/outputs.rs"]
mod outputs;

use std::path::{Path, PathBuf};

use serde::{Deserialize, de::DeserializeOwned};
use touchstone_cuda::{Variant, variants};
use touchstone_reference::Case;

/// Where and when something was recorded: the first line of a recording.
#[derive(Deserialize, serde::Serialize)]
struct Source {
    device: String,
    driver: String,
    date: String,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, driver {}, {}", self.device, self.driver, self.date)
    }
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hardware").join(name)
}

/// A recording: its source, then one thing a line.
fn recording<T: DeserializeOwned>(name: &str) -> (Source, Vec<T>) {
    let text = std::fs::read_to_string(file(name)).expect(name);
    let mut lines = text.lines();
    let source = serde_json::from_str(lines.next().expect("a first line")).expect(name);
    (source, lines.map(|line| serde_json::from_str(line).expect(name)).collect())
}

fn table<T: DeserializeOwned>(name: &str) -> T {
    let text = std::fs::read_to_string(file(name)).expect(name);
    toml::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn variant_of(case: &Case, name: &str) -> Option<&'static Variant> {
    variants().find(|v| v.op == case.op() && v.name == name)
}
