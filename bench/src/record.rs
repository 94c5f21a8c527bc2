//! Records: all that leaves `bench/`. One JSON object a line.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{agreement::Agreement, environment::Environment};

/// Version of the record format. Readers refuse any other.
pub const SCHEMA: u32 = 1;

/// One case, computed by one variant, in one environment, with what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Name of the workload that asked: unique together with the algorithm.
    pub workload: String,
    /// The case's text id; `touchstone check 'ID'` replays it.
    pub case: String,
    /// Where the inputs came from: `drawn` from the case's seed, or a named source with its hash.
    pub inputs: String,
    /// The variant: `reference` (CPU), one of ours, or a peer (`peer:pytorch-eager`).
    pub variant: String,
    /// What ran it.
    pub executor: Executor,
    /// Where it ran.
    pub environment: Environment,
    /// The work by formula, when the inputs could be made.
    pub work: Option<WorkRecord>,
    /// What came of it.
    pub outcome: Outcome,
}

/// What ran a variant.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Executor {
    /// The host processor.
    Cpu,
    /// A CUDA device.
    Cuda,
}

/// Work of the case by formula; see `touchstone_reference::Work`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WorkRecord {
    /// Floating-point operations.
    pub flops: f64,
    /// Compulsory memory traffic in bytes.
    pub bytes: f64,
    /// Items processed.
    pub items: f64,
    /// Unit of the items, plural.
    pub item_unit: String,
    /// Whether tensor cores can do the flops.
    pub matrix: bool,
}

/// What came of a case. A wrong result cannot carry a time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum Outcome {
    /// Proven right, then timed.
    Measured {
        /// Agreement with the reference before timing.
        agreement: Agreement,
        /// The timings.
        measurement: Measurement,
    },
    /// Proven right; not timed.
    Checked {
        /// Agreement with the reference.
        agreement: Agreement,
    },
    /// Ran, and is wrong.
    Wrong {
        /// Agreement with the reference, when outputs could be compared.
        agreement: Option<Agreement>,
        /// What is wrong, in words.
        complaint: String,
    },
    /// Did not run, and need not have.
    Skipped {
        /// Why.
        reason: String,
    },
    /// Should have run and could not.
    Failed {
        /// What went wrong.
        error: String,
    },
}

/// Timings of one variant on one case.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Measurement {
    /// The clock: `CUDA events`, `CUDA graph of N`, or `host monotonic`.
    pub clock: String,
    /// Samples with the L2 cache flushed before each, in nanoseconds, in the order taken.
    pub cold_ns: Vec<f64>,
    /// Samples with whatever the run before left in the caches.
    pub warm_ns: Vec<f64>,
    /// How many samples were taken while the device throttled; they are left out above.
    pub throttled: u32,
    /// Most device memory held at once by the variant's buffers, workspace included, in bytes. On the CPU: the
    /// bytes of inputs and outputs.
    pub peak_bytes: u64,
    /// Bytes of that which are workspace: what the variant pays for its speed.
    pub workspace_bytes: u64,
    /// Registers, spills and shared memory of each kernel, as the driver loaded it.
    pub kernels: Vec<KernelResources>,
    /// Set when the figure is above what the device can do: then it is invalid, not fast.
    pub above_limit: bool,
}

/// What one kernel takes of a multiprocessor.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct KernelResources {
    /// `extern "C"` name.
    pub symbol: String,
    /// Registers of a thread.
    pub registers: u32,
    /// Local memory of a thread in bytes: spills and stack.
    pub local_bytes: u32,
    /// Static and dynamic shared memory of a block in bytes.
    pub shared_bytes: u32,
}

/// Quartiles of a set of samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quartiles {
    /// 25th percentile.
    pub q1: f64,
    /// Median.
    pub median: f64,
    /// 75th percentile.
    pub q3: f64,
}

/// Quartiles of `samples` by linear interpolation; `None` when there are none.
pub fn quartiles(samples: &[f64]) -> Option<Quartiles> {
    if samples.is_empty() {
        return None;
    }
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let position = share * (sorted.len() - 1) as f64;
        let (low, high) = (position.floor() as usize, position.ceil() as usize);
        sorted[low] + (sorted[high] - sorted[low]) * (position - low as f64)
    };
    Some(Quartiles { q1: at(0.25), median: at(0.5), q3: at(0.75) })
}

impl Measurement {
    /// The samples that count for comparison: cold ones where there are any.
    pub fn samples_ns(&self) -> &[f64] {
        if self.cold_ns.is_empty() { &self.warm_ns } else { &self.cold_ns }
    }

    /// Median of [`Measurement::samples_ns`].
    pub fn median_ns(&self) -> Option<f64> {
        quartiles(self.samples_ns()).map(|q| q.median)
    }
}

impl Record {
    /// The operation the case names.
    pub fn op(&self) -> &str {
        self.case.split(':').next().unwrap_or(&self.case)
    }

    /// The algorithm: the part of the operation before the dot.
    pub fn vertical(&self) -> &str {
        self.op().split('.').next().unwrap_or("")
    }

    /// What identifies the same question in another run: executor, variant, inputs and case.
    pub fn key(&self) -> (Executor, &str, &str, &str) {
        (self.executor, &self.variant, &self.inputs, &self.case)
    }

    /// The measurement, if it was measured.
    pub fn measurement(&self) -> Option<&Measurement> {
        match &self.outcome {
            Outcome::Measured { measurement, .. } => Some(measurement),
            _ => None,
        }
    }

    /// The agreement, if outputs were compared.
    pub fn agreement(&self) -> Option<&Agreement> {
        match &self.outcome {
            Outcome::Measured { agreement, .. } | Outcome::Checked { agreement } => Some(agreement),
            Outcome::Wrong { agreement, .. } => agreement.as_ref(),
            _ => None,
        }
    }
}

/// Appends records to a file as they are made, so that a killed run loses none that was finished.
#[derive(Debug)]
pub struct Writer {
    file: File,
    path: PathBuf,
}

impl Writer {
    /// Creates a new records file.
    ///
    /// # Errors
    /// If it exists already (nothing is overwritten) or cannot be created.
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("cannot create {}", folder.display()))?;
        }
        let file =
            OpenOptions::new().write(true).create_new(true).open(path).with_context(|| {
                format!("cannot create {} (it is not overwritten)", path.display())
            })?;
        Ok(Self { file, path: path.to_path_buf() })
    }

    /// Appends one record as one line.
    ///
    /// # Errors
    /// If writing fails.
    pub fn write(&mut self, record: &Record) -> anyhow::Result<()> {
        let mut line = serde_json::to_string(record)?;
        line.push('\n');
        self.file
            .write_all(line.as_bytes())
            .with_context(|| format!("cannot write {}", self.path.display()))
    }
}

/// Reads a records file, or every `*.jsonl` in a folder, in order of name.
///
/// # Errors
/// Names file and line of the first record that is malformed or of another schema version.
pub fn read(path: &Path) -> anyhow::Result<Vec<Record>> {
    if path.is_dir() {
        let mut files: Vec<_> = std::fs::read_dir(path)
            .with_context(|| format!("cannot read {}", path.display()))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|file| file.extension().is_some_and(|e| e == "jsonl"))
            .collect();
        files.sort();
        if files.is_empty() {
            bail!("{}: no records (*.jsonl) in this folder", path.display());
        }
        return files
            .iter()
            .map(|file| read(file))
            .collect::<Result<Vec<_>, _>>()
            .map(|all| all.concat());
    }
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let records = from_lines(&path.display().to_string(), BufReader::new(file))?;
    if records.is_empty() {
        bail!("{}: no records in this file", path.display());
    }
    Ok(records)
}

/// Reads records line by line; `name` stands for the file in errors.
///
/// # Errors
/// As [`read`].
pub fn from_lines(name: &str, lines: impl BufRead) -> anyhow::Result<Vec<Record>> {
    let mut records = Vec::new();
    for (number, line) in lines.lines().enumerate() {
        let at = || format!("{name}:{}", number + 1);
        let line = line.with_context(at)?;
        if !line.trim().is_empty() {
            records.push(parse(&line).with_context(at)?);
        }
    }
    Ok(records)
}

/// Reads one line.
fn parse(line: &str) -> anyhow::Result<Record> {
    #[derive(Deserialize)]
    struct Version {
        schema: u32,
    }
    let version: Version = serde_json::from_str(line).context("not a record")?;
    if version.schema != SCHEMA {
        bail!("record of schema version {}; this build reads {SCHEMA}", version.schema);
    }
    serde_json::from_str(line).context("malformed record")
}

/// The JSON schema of a [`Record`], as committed in `bench/record.schema.json`.
pub fn json_schema() -> String {
    let schema = serde_json::to_value(schemars::schema_for!(Record)).expect("a schema is JSON");
    format!("{schema:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            schema: SCHEMA,
            workload: "w".into(),
            case: "a.b:n=1,seed=0".into(),
            inputs: "drawn".into(),
            variant: "naive".into(),
            executor: Executor::Cuda,
            environment: Environment::default(),
            work: None,
            outcome: Outcome::Skipped { reason: "no CUDA device".into() },
        }
    }

    #[test]
    fn the_committed_schema_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/record.schema.json");
        if std::env::var_os("TOUCHSTONE_ACCEPT").is_some() {
            std::fs::write(path, json_schema()).unwrap();
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(committed == json_schema(), "stale: run with TOUCHSTONE_ACCEPT=1 and commit it");
    }

    #[test]
    fn records_round_trip_through_a_file_which_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/records.jsonl");
        let mut writer = Writer::create(&path).unwrap();
        writer.write(&record()).unwrap();
        writer.write(&record()).unwrap();
        assert_eq!(read(&path).unwrap(), [record(), record()]);
        assert_eq!(read(path.parent().unwrap()).unwrap().len(), 2);
        let error = Writer::create(&path).unwrap_err().to_string();
        assert!(error.contains("not overwritten"), "{error}");
        assert_eq!(read(&path).unwrap().len(), 2);
    }

    #[test]
    fn damaged_files_are_named_with_their_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records.jsonl");
        let good = serde_json::to_string(&record()).unwrap();
        let other = good.replace("\"schema\":1", "\"schema\":9");
        let extra = good.replace("\"workload\"", "\"colour\":1,\"workload\"");
        let truncated = &good[..good.len() / 2];
        for (text, place, problem) in [
            (format!("{good}\n{truncated}"), "records.jsonl:2", "not a record"),
            (format!("{good}\n\n{other}\n"), "records.jsonl:3", "schema version 9"),
            (format!("{extra}\n"), "records.jsonl:1", "malformed"),
            (String::new(), "records.jsonl", "no records"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = format!("{:#}", read(&path).unwrap_err());
            assert!(error.contains(place) && error.contains(problem), "{error}");
        }
    }

    #[test]
    fn quartiles_interpolate() {
        assert_eq!(quartiles(&[]), None);
        let q = quartiles(&[4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!((q.q1, q.median, q.q3), (1.75, 2.5, 3.25));
    }
}
