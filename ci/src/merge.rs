//! Many records files into one: nothing lost, nothing twice.

use std::{
    collections::HashMap,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use blake3::Hash;
use touchstone_bench::record::{self, Record};

use crate::{Place, verdict::readable};

/// What [`merge`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// Records written.
    pub records: usize,
    /// Records left out because an identical one was written.
    pub duplicates: usize,
    /// `FILE:LINE` of every last line that was cut off. What it would have said is lost.
    pub incomplete: Vec<String>,
    /// Files without a record.
    pub empty: Vec<PathBuf>,
}

/// No more conflicts are named than this.
const MOST_NAMED: usize = 20;

/// Merges records files, or folders of them, into the new file `out`, in the order given. Keeps two hashes of a
/// record in memory, not the record. Identical records are written once.
///
/// # Errors
/// Names file and line of a malformed record, and of both sides where two records answer the same question in the
/// same place differently. Then nothing is written. Nor is an existing file overwritten.
pub fn merge(inputs: &[PathBuf], out: &Path) -> anyhow::Result<Merged> {
    if out.exists() {
        bail!("{} exists (it is not overwritten)", out.display());
    }
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    let file = tempfile::Builder::new().permissions(readable()).tempfile_in(folder)?;
    let mut writer = BufWriter::new(file);
    let files = files(inputs)?;
    let (mut merged, mut conflicts) = (Merged::default(), Vec::new());
    let mut seen: HashMap<Hash, (Hash, usize, usize)> = HashMap::new();
    for (index, path) in files.iter().enumerate() {
        let mut reader = record::open(path)?;
        let mut found = 0;
        while let Some(record) = reader.next() {
            let record = record?;
            found += 1;
            // Serialized again, so that the order of fields and the spaces between them do not matter.
            let line = serde_json::to_string(&record)?;
            let content = blake3::hash(line.as_bytes());
            match seen.insert(question(&record)?, (content, index, reader.number())) {
                None => {
                    writeln!(writer, "{line}")?;
                    merged.records += 1;
                }
                Some((same, ..)) if same == content => merged.duplicates += 1,
                Some((_, other, number)) => conflicts.push(format!(
                    "{}:{} and {}:{}: two answers of {} to {}",
                    files[other].display(),
                    number,
                    path.display(),
                    reader.number(),
                    record.variant,
                    record.case
                )),
            }
        }
        if let Some(number) = reader.incomplete() {
            merged.incomplete.push(format!("{}:{number}", path.display()));
        } else if found == 0 {
            merged.empty.push(path.clone());
        }
    }
    if !conflicts.is_empty() {
        let more = conflicts.len().saturating_sub(MOST_NAMED);
        let more = if more > 0 { format!("\n… and {more} more") } else { String::new() };
        conflicts.truncate(MOST_NAMED);
        bail!("these records conflict; nothing was written:\n{}{more}", conflicts.join("\n"));
    }
    let file = writer.into_inner().map_err(|error| error.into_error())?;
    file.persist_noclobber(out).with_context(|| format!("cannot write {}", out.display()))?;
    Ok(merged)
}

/// Hash of what a record answers, where, and for which side and round.
fn question(record: &Record) -> anyhow::Result<Hash> {
    let identity = (record.key(), &record.workload, Place::of(record), &record.trial);
    Ok(blake3::hash(&serde_json::to_vec(&identity)?))
}

/// The files themselves and those in folders, in order of name.
fn files(inputs: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for input in inputs {
        if !input.is_dir() {
            all.push(input.clone());
            continue;
        }
        let mut within: Vec<PathBuf> = std::fs::read_dir(input)
            .with_context(|| format!("cannot read {}", input.display()))?
            .map(|entry| Ok(entry?.path()))
            .collect::<std::io::Result<_>>()?;
        within.retain(|path| path.extension().is_some_and(|e| e == "jsonl"));
        if within.is_empty() {
            bail!("{}: no records (*.jsonl) in this folder", input.display());
        }
        within.sort();
        all.append(&mut within);
    }
    Ok(all)
}
