//! Records: all that leaves `bench/`. One JSON object a line.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use touchstone_cuda::simulator::cost::Cost;

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
    /// Which side of an A/B run this belongs to; absent outside of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<Trial>,
    /// Exact counts of what its kernels did, when the simulator ran them: equal on every machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<Cost>,
    /// What came of it.
    pub outcome: Outcome,
}

/// The place of a record in an interleaved run of two binaries, A B A B ….
#[derive(
    Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// Which binary made the record.
    pub side: Side,
    /// The round, counted from 0; each round asks both sides every case.
    pub round: u32,
    /// First 16 hexadecimal digits of the BLAKE3 hash of the binary: equal on both sides of an A/A run.
    pub binary: String,
}

/// A side of an A/B run.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The binary given by `--against`: what was.
    A,
    /// The binary that was started: what is.
    B,
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
    /// The PTX simulator on the host processor: right or wrong, and exact costs, but no times.
    Simulator,
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
    /// Whether those are products of 8-bit floats.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub eight_bit: bool,
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
    /// The clock, with what there is to say of a series after a semicolon: `CUDA events`, `thread CPU time`.
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
    /// What theory says of the variant's memory and work, where there is such a theory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted: Option<Predicted>,
    /// Registers, spills and shared memory of each kernel, as the driver loaded it.
    pub kernels: Vec<KernelResources>,
    /// Set when the figure is above what the device can do: then it is invalid, not fast.
    pub above_limit: bool,
}

/// Memory and work of a variant by theory, to be held against what was measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Predicted {
    /// Workspace in bytes.
    pub workspace_bytes: f64,
    /// Floating-point operations, those done again included: times of variants should be in proportion.
    pub flops: f64,
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
            Outcome::Wrong { agreement, .. } => agreement.as_ref(),
            outcome => outcome.proof(),
        }
    }
}

impl Outcome {
    /// The agreement of what was found right.
    pub fn proof(&self) -> Option<&Agreement> {
        match self {
            Self::Measured { agreement, .. } | Self::Checked { agreement } => Some(agreement),
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

    /// Creates a records file in `folder` that no other run has: `STEM.jsonl`, or `STEM-2.jsonl` where that
    /// exists, and so on. Two runs that begin at once get two files.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn create_unique(folder: &Path, stem: &str) -> anyhow::Result<Self> {
        let mut path = folder.join(format!("{stem}.jsonl"));
        for number in 2.. {
            match Self::create(&path) {
                Err(_) if path.exists() => path = folder.join(format!("{stem}-{number}.jsonl")),
                done => return done,
            }
        }
        unreachable!("a number is free before they run out")
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
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
    let mut reader = open(path)?;
    let records = reader.by_ref().collect::<anyhow::Result<Vec<_>>>()?;
    match (records.len(), reader.incomplete()) {
        (0, Some(line)) => {
            bail!("{}:{line}: the only record in this file is incomplete", path.display())
        }
        (0, None) => bail!("{}: no records in this file", path.display()),
        (before, Some(line)) => eprintln!(
            "warning: {}:{line}: the last line is incomplete, as a run leaves it that is stopped while \
             writing; the {before} records before it are read",
            path.display()
        ),
        _ => {}
    }
    Ok(records)
}

/// Reads records line by line; `name` stands for the file in errors. The last line must be whole.
///
/// # Errors
/// As [`read`].
pub fn from_lines(name: &str, lines: impl BufRead) -> anyhow::Result<Vec<Record>> {
    let mut reader = Reader::new(name, lines);
    let records = reader.by_ref().collect::<anyhow::Result<Vec<_>>>()?;
    if let Some(line) = reader.incomplete() {
        bail!("{name}:{line}: incomplete record");
    }
    Ok(records)
}

/// Opens a records file to read it record by record, in memory that does not grow with the file.
///
/// # Errors
/// If it cannot be opened.
pub fn open(path: &Path) -> anyhow::Result<Reader<BufReader<File>>> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Reader::new(&path.display().to_string(), BufReader::new(file)))
}

/// Longest line read as a record: 16 MiB, far above any real one and far below a machine's memory.
const LONGEST_LINE: usize = 16 << 20;

/// The records of a file, one at a time. Ends after the first error.
#[derive(Debug)]
pub struct Reader<R> {
    name: String,
    lines: R,
    line: Vec<u8>,
    number: usize,
    incomplete: bool,
    done: bool,
}

impl<R: BufRead> Reader<R> {
    /// Reads from `lines`; `name` stands for the file in errors.
    pub fn new(name: &str, lines: R) -> Self {
        let name = name.to_string();
        Self { name, lines, line: Vec::new(), number: 0, incomplete: false, done: false }
    }

    /// Number of the line that was read last, counted from 1.
    pub fn number(&self) -> usize {
        self.number
    }

    /// The line, when the last one ends in mid-record: its run was stopped while it wrote. The record of
    /// that line was never finished and is not given.
    pub fn incomplete(&self) -> Option<usize> {
        self.incomplete.then_some(self.number)
    }

    /// The next line that is not blank, or `None` at the end.
    fn read_line(&mut self) -> anyhow::Result<Option<bool>> {
        loop {
            self.line.clear();
            let mut limited = self.lines.by_ref().take(LONGEST_LINE as u64 + 1);
            if limited.read_until(b'\n', &mut self.line)? == 0 {
                return Ok(None);
            }
            self.number += 1;
            if self.line.len() > LONGEST_LINE {
                bail!("longer than {} MiB: not a record", LONGEST_LINE >> 20);
            }
            if !self.line.trim_ascii().is_empty() {
                return Ok(Some(self.line.ends_with(b"\n")));
            }
        }
    }

    fn record(&mut self) -> anyhow::Result<Option<Record>> {
        let Some(terminated) = self.read_line()? else { return Ok(None) };
        match parse(&self.line) {
            Err(Malformed::Json(error)) if error.is_eof() && !terminated => {
                self.incomplete = true;
                Ok(None)
            }
            parsed => Ok(Some(parsed?)),
        }
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = anyhow::Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let record = self.record();
        self.done = !matches!(record, Ok(Some(_)));
        record.with_context(|| format!("{}:{}", self.name, self.number.max(1))).transpose()
    }
}

/// Why a line is no record.
#[derive(Debug, thiserror::Error)]
enum Malformed {
    #[error("not a record: {0}")]
    Json(serde_json::Error),
    #[error("record of schema version {0}; this build reads {SCHEMA}")]
    Version(u32),
    #[error("malformed record: {0}")]
    Fields(serde_json::Error),
}

/// Reads one line.
fn parse(line: &[u8]) -> Result<Record, Malformed> {
    #[derive(Deserialize)]
    struct Version {
        schema: u32,
    }
    let version: Version = serde_json::from_slice(line).map_err(Malformed::Json)?;
    if version.schema != SCHEMA {
        return Err(Malformed::Version(version.schema));
    }
    serde_json::from_slice(line).map_err(Malformed::Fields)
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
            trial: None,
            cost: None,
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
            (format!("{good}\n{truncated}\n{good}\n"), "records.jsonl:2", "not a record"),
            (format!("{good}\n{truncated}\n"), "records.jsonl:2", "not a record"),
            (truncated.to_string(), "records.jsonl:1", "incomplete"),
            (format!("{good}\n{{\"schema\":1,,"), "records.jsonl:2", "not a record"),
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
    fn a_file_cut_off_at_any_byte_keeps_every_finished_record() {
        let good = serde_json::to_string(&record()).unwrap();
        let whole = format!("{good}\n{good}\n{good}\n");
        for end in 0..=whole.len() {
            let mut reader = Reader::new("cut", &whole.as_bytes()[..end]);
            let records: Vec<_> = reader.by_ref().map(Result::unwrap).collect();
            // A last record without its line break is whole too.
            let finished = (end + 1) / (good.len() + 1);
            assert_eq!(records.len(), finished, "cut at {end}");
            let rest = end > finished * (good.len() + 1);
            assert_eq!(reader.incomplete(), rest.then_some(finished + 1), "cut at {end}");
        }
    }

    #[test]
    fn an_endless_line_is_refused_before_memory_is_full() {
        let mut reader = Reader::new("endless", BufReader::new(std::io::repeat(b'[')));
        let error = format!("{:#}", reader.next().unwrap().unwrap_err());
        assert!(error.contains("endless:1") && error.contains("16 MiB"), "{error}");
        assert!(reader.next().is_none());
    }

    #[test]
    fn runs_that_begin_at_once_get_files_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let create = || Writer::create_unique(folder.path(), "20260102T030405Z-7").unwrap();
        let paths: std::collections::BTreeSet<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(create)).collect();
            threads.into_iter().map(|t| t.join().unwrap().path().to_path_buf()).collect()
        });
        assert_eq!(paths.len(), 8);
    }

    #[test]
    fn quartiles_interpolate() {
        assert_eq!(quartiles(&[]), None);
        let q = quartiles(&[4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!((q.q1, q.median, q.q3), (1.75, 2.5, 3.25));
    }
}
