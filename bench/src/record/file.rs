//! Records files: appended line by line, read back line by line, every malformed line named.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use serde::Deserialize;

use super::{Record, SCHEMA};

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
                .with_context(|| format!("cannot create the folder {}", folder.display()))?;
        }
        let created = OpenOptions::new().write(true).create_new(true).open(path);
        let file = created.with_context(|| match path.exists() {
            true => format!("{} exists, and is not overwritten", path.display()),
            false => format!("cannot create {}", path.display()),
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
             writing; what is before it is read: {before} record{}",
            path.display(),
            if before == 1 { "" } else { "s" }
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
        // Without its end a line that was cut off is seen to be: a line break within a string is another error.
        match parse(self.line.trim_ascii_end()) {
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
    #[error("not a record: {}", in_line(.0))]
    Json(serde_json::Error),
    #[error("record of schema version {0}; this build reads {SCHEMA}")]
    Version(u32),
    #[error("malformed record: {}", in_line(.0))]
    Fields(serde_json::Error),
}

/// What is wrong with a line, and at which column: the error itself would call every line the first.
fn in_line(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let what = text.strip_suffix(&place).unwrap_or(&text);
    let what = if error.is_eof() { "the line ends in mid-record" } else { what };
    format!("{what} (column {})", error.column())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        environment::Environment,
        record::{Executor, Outcome},
    };

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
            (format!("{good}\n{truncated}\n{good}\n"), "records.jsonl:2", "ends in mid-record"),
            (format!("{good}\n{truncated}\n"), "records.jsonl:2", "ends in mid-record"),
            (truncated.to_string(), "records.jsonl:1", "incomplete"),
            (format!("{good}\n{{\"schema\":1,,"), "records.jsonl:2", "not a record"),
            (format!("{good}\n\n{other}\n"), "records.jsonl:3", "schema version 9"),
            (format!("{extra}\n"), "records.jsonl:1", "malformed"),
            (
                format!("{good}\nhello\n"),
                "records.jsonl:2",
                "not a record: expected value (column 1)",
            ),
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
}
