//! Two builds in turn, A B B A …: `touchstone run --against`.
//!
//! Each round starts both builds as processes of their own and asks them every case in turn. So what changes from
//! minute to minute meets both sides alike, and what is fixed once a process has started (where its memory
//! lies) is drawn anew in each round. The side that starts first and is asked first alternates: a kernel of one
//! block a multiprocessor that waits for all others was seen to take 2.5 % longer in the second process of an H200.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use touchstone_bench::{
    Record,
    record::{Reader, Side, Trial, Writer},
};

use super::complaint;
use crate::select::Selected;

/// An interleaved run.
pub struct Interleaved {
    /// Side A: the build to compare with. Side B is this one.
    pub against: PathBuf,
    /// Rounds to take; one more where they are odd.
    pub rounds: u32,
    /// Time after which no further two rounds are begun.
    pub patience: Option<Duration>,
    /// Arguments of both sides' `answer`.
    pub arguments: Vec<String>,
    /// Factor by which side B is slowed down.
    pub slow_down: Option<f64>,
}

impl Interleaved {
    /// Runs `selected` and writes every record as it is made.
    ///
    /// # Errors
    /// If a build cannot be started, or ends before it has answered.
    pub fn run(&self, selected: &[Selected], writer: &mut Writer) -> anyhow::Result<Vec<Record>> {
        let begin = Instant::now();
        let binaries = [(Side::A, binary(&self.against)?), (Side::B, std::env::current_exe()?)];
        let hashes = [hash(&binaries[0].1)?, hash(&binaries[1].1)?];
        let style =
            ProgressStyle::with_template("{bar:24} {pos}/{len} cases {elapsed} {wide_msg}")?;
        let rounds = self.rounds.next_multiple_of(2);
        let bar = ProgressBar::new(u64::from(rounds) * selected.len() as u64).with_style(style);
        let mut all = Vec::new();
        for round in 0..rounds {
            let may_end = round > 0 && round % 2 == 0;
            if self.patience.is_some_and(|patience| may_end && begin.elapsed() > patience) {
                break;
            }
            // One after the other: the second would disturb the first as it measures the device's limits.
            let mut sides = Vec::new();
            let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
            for ((side, path), hash) in order.map(|index| (&binaries[index], &hashes[index])) {
                let trial = Trial { side: *side, round, binary: hash.clone() };
                sides.push(Answerer::start(path, trial, &self.arguments_of(*side, round))?);
            }
            for some in selected {
                bar.set_message(format!("round {}: {}", round + 1, some.case));
                for answerer in &mut sides {
                    for record in answerer.ask(some)? {
                        if let Some(complaint) = complaint(&record) {
                            bar.suspend(|| eprintln!("{complaint}"));
                        }
                        writer.write(&record)?;
                        all.push(record);
                    }
                }
                bar.inc(1);
            }
        }
        bar.finish_and_clear();
        Ok(all)
    }

    fn arguments_of(&self, side: Side, round: u32) -> Vec<String> {
        let mut arguments = self.arguments.clone();
        // Once is enough to see times that no device can reach.
        arguments.extend((round == 0).then(|| "--limits".to_string()));
        if let (Side::B, Some(factor)) = (side, self.slow_down) {
            arguments.push(format!("--slow-down={factor}"));
        }
        arguments
    }
}

/// The binary itself, or the release build of a worktree, made now.
fn binary(path: &Path) -> anyhow::Result<PathBuf> {
    if !path.is_dir() {
        return std::path::absolute(path).context("--against");
    }
    say!("building {} …", path.display());
    let build = ["build", "--release", "--locked", "--bin", "touchstone"];
    let status = Command::new("cargo").args(build).current_dir(path).status();
    if !status.with_context(|| format!("cargo in {}", path.display()))?.success() {
        bail!("{} does not build", path.display());
    }
    Ok(std::path::absolute(path.join("target/release/touchstone"))?)
}

fn hash(binary: &Path) -> anyhow::Result<String> {
    let mut hasher = blake3::Hasher::new();
    std::fs::File::open(binary)
        .and_then(|mut file| std::io::copy(&mut file, &mut hasher))
        .with_context(|| format!("cannot read {}", binary.display()))?;
    Ok(hasher.finalize().to_hex()[..16].to_string())
}

/// One side of one round.
struct Answerer {
    process: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
    trial: Trial,
    path: PathBuf,
}

impl Answerer {
    fn start(path: &Path, trial: Trial, arguments: &[String]) -> anyhow::Result<Self> {
        let mut process = Command::new(path)
            .arg("answer")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", path.display()))?;
        let (Some(questions), Some(answers)) = (process.stdin.take(), process.stdout.take()) else {
            bail!("{} was started without pipes", path.display());
        };
        let answers = BufReader::new(answers);
        let mut started = Self { process, questions, answers, trial, path: path.to_path_buf() };
        let why = || format!("{}: is it a touchstone that knows --against?", path.display());
        started.answer().with_context(why)?;
        Ok(started)
    }

    /// All records of a case.
    fn ask(&mut self, some: &Selected) -> anyhow::Result<Vec<Record>> {
        let asked = writeln!(self.questions, "{}\t{}", some.workload, some.case);
        let text = asked.map_err(anyhow::Error::from).and_then(|()| self.answer());
        let about = || format!("{} on {}", self.path.display(), some.case);
        let text = text.with_context(about)?;
        let records = Reader::new("its answer", text.as_bytes());
        records
            .map(|record| Ok(Record { trial: Some(self.trial.clone()), ..record? }))
            .collect::<anyhow::Result<_>>()
            .with_context(about)
    }

    /// Everything up to an empty line.
    fn answer(&mut self) -> anyhow::Result<String> {
        let mut text = String::new();
        loop {
            let before = text.len();
            if self.answers.read_line(&mut text)? == 0 {
                bail!("side {:?} ended in mid-answer", self.trial.side);
            }
            if &text[before..] == "\n" {
                return Ok(text);
            }
        }
    }
}

impl Drop for Answerer {
    fn drop(&mut self) {
        // It may be in the middle of a case, and has nothing to save.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
