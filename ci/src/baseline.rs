//! Baselines: records that a change must not fall behind, in `ci/baselines/<device>/<vertical>.jsonl`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use touchstone_bench::record::{self, Executor, Outcome, Record};

use crate::{Place, markdown::milliseconds, verdict::replace};

/// Records of a baseline and the folder they lie in.
pub type Found = (Vec<Record>, PathBuf);

/// The records at `path`: a file, a device's folder, or a folder of such folders, of which those are taken that
/// hold an answer from a place of `current`.
///
/// Gives the folder too. The inner error says that there is none for the places of `current`.
///
/// # Errors
/// If there are no records, or one is malformed.
pub fn find(path: &Path, current: &[Record]) -> anyhow::Result<Result<Found, String>> {
    if !path.is_dir() {
        let folder = path.parent().unwrap_or(Path::new("")).to_path_buf();
        return Ok(Ok((record::read(path)?, folder)));
    }
    let folders = match holds_records(path)? {
        true => return Ok(Ok((record::read(path)?, path.to_path_buf()))),
        false => subfolders(path)?,
    };
    let here: BTreeSet<Place> = current.iter().map(Place::of).collect();
    for folder in &folders {
        let records = record::read(folder)?;
        let is_answer = |r: &Record| r.measurement().is_some() || r.cost.is_some();
        let answers = |r: &Record| is_answer(r) && here.contains(&Place::of(r));
        if records.iter().any(answers) {
            return Ok(Ok((records, folder.clone())));
        }
    }
    let names = |all: Vec<String>| if all.is_empty() { "none".into() } else { all.join("; ") };
    Ok(Err(format!(
        "{}: no baseline for {}; there are: {}",
        path.display(),
        names(here.iter().map(Place::to_string).collect()),
        names(folders.iter().map(|folder| folder.display().to_string()).collect())
    )))
}

fn holds_records(folder: &Path) -> anyhow::Result<bool> {
    Ok(entries(folder)?.iter().any(|path| path.extension().is_some_and(|e| e == "jsonl")))
}

/// The folders within that hold records, in order of name.
fn subfolders(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in entries(folder)? {
        if path.is_dir() && holds_records(&path)? {
            found.push(path);
        }
    }
    Ok(found)
}

fn entries(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let cannot = || format!("cannot read {}", folder.display());
    let mut all: Vec<PathBuf> = std::fs::read_dir(folder)
        .with_context(cannot)?
        .map(|entry| Ok(entry.with_context(cannot)?.path()))
        .collect::<anyhow::Result<_>>()?;
    all.sort();
    Ok(all)
}

/// What [`accept`] did to one question.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The variant.
    pub variant: String,
    /// The case.
    pub case: String,
    /// Median before in nanoseconds, where the baseline had one.
    pub was_ns: Option<f64>,
    /// Median now.
    pub now_ns: Option<f64>,
    /// What the baseline says of the question now.
    pub kind: ChangeKind,
}

/// How a question of a baseline changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It was not there.
    Added,
    /// It has another answer.
    Replaced,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |ns: Option<f64>| ns.map_or("no time".to_string(), milliseconds);
        match self.kind {
            ChangeKind::Added => write!(f, "+ {}", time(self.now_ns))?,
            ChangeKind::Replaced => write!(f, "~ {} → {}", time(self.was_ns), time(self.now_ns))?,
        }
        if let (Some(was), Some(now)) = (self.was_ns, self.now_ns) {
            write!(f, " ({:.3}×)", now / was)?;
        }
        write!(f, "  {} on {}", self.variant, self.case)
    }
}

/// Key of a record in a baseline, and the order of its lines.
type Key = (String, String, String, Executor, String, String);

fn key(record: &Record) -> Key {
    let Record { workload, case, variant, inputs, executor, .. } = record;
    let op = record.op().to_string();
    (op, workload.clone(), case.clone(), *executor, variant.clone(), inputs.clone())
}

/// Whether a record says nothing new beside another: the same everything, or the same exact cost of the same result,
/// which does not depend on where and when it was counted.
fn says_the_same(old: &Record, new: &Record) -> bool {
    let counted = old.executor == Executor::Simulator && old.cost.is_some();
    old == new || counted && old.cost == new.cost && old.outcome == new.outcome
}

/// Makes the answers in `current` the baseline in `folder`: one record a line, sorted, one file a vertical, so that
/// version control shows what changed. Questions that `current` does not answer keep their answers. Returns
/// what changed.
///
/// # Errors
/// If anything in `current` is wrong or failed, belongs to an interleaved run, or was made on another device than
/// the folder's; then nothing is written.
pub fn accept(folder: &Path, current: &[Record]) -> anyhow::Result<Vec<Change>> {
    for record in current {
        let bad = match &record.outcome {
            Outcome::Wrong { complaint, .. } => Some(complaint.clone()),
            Outcome::Failed { error } => Some(error.clone()),
            _ => record.agreement().and_then(|agreement| agreement.complaint()),
        };
        if let Some(bad) = bad {
            bail!("not accepted: {} on {}: {bad}", record.variant, record.case);
        }
        if record.trial.is_some() {
            bail!("not accepted: an interleaved run has two answers to each question");
        }
    }
    let device = |record: &Record| (record.executor, Place::of(record).device);
    // What was skipped for want of a device is no answer to anything.
    let here = |record: &&Record| match record.executor {
        Executor::Cpu => true,
        Executor::Cuda => record.environment.device.is_some(),
        Executor::Simulator => record.cost.is_some(),
    };
    let mut files: BTreeMap<String, BTreeMap<Key, Record>> = BTreeMap::new();
    let old = match folder.is_dir() && holds_records(folder)? {
        true => record::read(folder)?,
        false => Vec::new(),
    };
    for record in old {
        let foreign = current
            .iter()
            .filter(here)
            .find(|new| new.executor == record.executor && device(new) != device(&record));
        if let Some(foreign) = foreign {
            bail!(
                "not accepted: {} holds answers of {}, this run's are of {}; give each device a folder",
                folder.display(),
                device(&record).1,
                device(foreign).1
            );
        }
        files.entry(record.vertical().to_string()).or_default().insert(key(&record), record);
    }
    let mut changes = Vec::new();
    for record in current.iter().filter(here) {
        let answers = files.entry(record.vertical().to_string()).or_default();
        let old = answers.get(&key(record)).cloned();
        if old.as_ref().is_some_and(|old| says_the_same(old, record)) {
            continue;
        }
        answers.insert(key(record), record.clone());
        let median = |record: &Record| record.measurement().and_then(|m| m.median_ns());
        changes.push(Change {
            variant: record.variant.clone(),
            case: record.case.clone(),
            was_ns: old.as_ref().and_then(median),
            now_ns: median(record),
            kind: if old.is_some() { ChangeKind::Replaced } else { ChangeKind::Added },
        });
    }
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    for (vertical, records) in files {
        let mut text = String::new();
        for record in records.values() {
            text += &serde_json::to_string(record)?;
            text.push('\n');
        }
        replace(&folder.join(format!("{vertical}.jsonl")), &text)?;
    }
    Ok(changes)
}
