//! Verdicts and the files they are written to.

use std::{collections::BTreeMap, io::Write, path::Path};

use anyhow::Context;
use schemars::JsonSchema;
use serde::Serialize;
use touchstone_bench::record::{Executor, quartiles};

use crate::{GateOptions, Place, bencher, github, junit, markdown, sarif};

/// What the gate says of one question: one variant on one case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The result is wrong. Fails.
    Wrong,
    /// The baseline has an answer and this run has none that can be compared with it. Fails.
    Missing,
    /// Slower by more than the smallest effect that counts, beyond what chance explains. Fails.
    Slower,
    /// The times allow no statement: neither pass nor failure.
    Unclear,
    /// Faster, by the same rule as slower.
    Faster,
    /// Right, and no change that counts; or right, where the baseline has no time.
    Same,
    /// Right, and the baseline has no answer.
    New,
}

impl Verdict {
    /// All verdicts, the worst first.
    pub const ALL: [Self; 7] = [
        Self::Wrong,
        Self::Missing,
        Self::Slower,
        Self::Unclear,
        Self::Faster,
        Self::Same,
        Self::New,
    ];

    /// Whether this verdict fails the gate.
    pub fn fails(self) -> bool {
        matches!(self, Self::Wrong | Self::Missing | Self::Slower)
    }

    /// The name as written in JSON and Markdown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Wrong => "wrong",
            Self::Missing => "missing",
            Self::Slower => "slower",
            Self::Unclear => "unclear",
            Self::Faster => "faster",
            Self::Same => "same",
            Self::New => "new",
        }
    }
}

/// The samples of one series in four numbers.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Timing {
    /// `cold` or `warm`.
    pub series: &'static str,
    /// Number of samples, those of all rounds together.
    pub samples: usize,
    /// Samples of either series that were taken while the device throttled, and left out.
    pub throttled: u32,
    /// 25th percentile in nanoseconds.
    pub q1_ns: f64,
    /// Median in nanoseconds.
    pub median_ns: f64,
    /// 75th percentile in nanoseconds.
    pub q3_ns: f64,
}

impl Timing {
    pub(crate) fn of(series: &'static str, samples: &[f64], throttled: u32) -> Option<Self> {
        quartiles(samples).map(|q| Self {
            series,
            samples: samples.len(),
            throttled,
            q1_ns: q.q1,
            median_ns: q.median,
            q3_ns: q.q3,
        })
    }
}

/// One question and what the gate says of it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Entry {
    /// What the gate says.
    pub verdict: Verdict,
    /// Why, in words.
    pub reason: String,
    /// What ran it.
    pub executor: Executor,
    /// The workload.
    pub workload: String,
    /// The variant.
    pub variant: String,
    /// Where the inputs came from.
    pub inputs: String,
    /// The case's text id.
    pub case: String,
    /// Where it ran, or where the baseline did when it did not run.
    pub place: Place,
    /// Time in the baseline, where both sides have a time.
    pub baseline: Option<Timing>,
    /// Time now.
    pub current: Option<Timing>,
    /// Median now over median in the baseline: above 1 is slower. Of an interleaved run, the median of that
    /// over its rounds.
    pub ratio: Option<f64>,
    /// Bootstrap interval of the ratio, at 99 %.
    pub interval: Option<[f64; 2]>,
    /// P-value of the Mann–Whitney test, adjusted by Benjamini and Hochberg over all questions.
    pub q: Option<f64>,
    /// Smallest change of this workload that counts, as a share.
    pub effect: Option<f64>,
    /// How many rounds were compared: 1 against a stored baseline.
    pub rounds: usize,
}

impl Entry {
    /// The operation the case names.
    pub fn op(&self) -> &str {
        self.case.split(':').next().unwrap_or(&self.case)
    }
}

/// All verdicts of one comparison.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Verdicts {
    /// Why nothing can be compared, when nothing can: then the gate fails whatever the entries say.
    pub problem: Option<String>,
    /// The rule's constants.
    pub options: GateOptions,
    /// One entry for each question, the worst first.
    pub entries: Vec<Entry>,
    /// Questions that neither side answers because both skipped them.
    pub skipped: usize,
}

impl Verdicts {
    /// Of a run that has nothing to be compared with, and why: it fails.
    pub fn impossible(problem: String, options: GateOptions) -> Self {
        Self { problem: Some(problem), options, entries: Vec::new(), skipped: 0 }
    }

    /// Whether the change may merge: something was compared, and nothing is wrong, missing or slower.
    pub fn passes(&self) -> bool {
        self.problem.is_none() && self.entries.iter().all(|entry| !entry.verdict.fails())
    }

    /// How many entries have this verdict.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.entries.iter().filter(|entry| entry.verdict == verdict).count()
    }

    /// How many samples were left out because the device throttled.
    pub fn throttled(&self) -> u32 {
        let timings = self.entries.iter().flat_map(|entry| [&entry.baseline, &entry.current]);
        timings.flatten().map(|timing| timing.throttled).sum()
    }

    /// `verdicts.json` as text.
    ///
    /// # Errors
    /// If serialization fails.
    pub fn json(&self) -> anyhow::Result<String> {
        let counts = Verdict::ALL.iter().map(|&v| (v.name(), self.count(v))).collect();
        let file = File {
            schema: 1,
            passes: self.passes(),
            counts,
            throttled: self.throttled(),
            verdicts: self,
        };
        Ok(serde_json::to_string_pretty(&file)? + "\n")
    }

    /// `verdicts.md` as text.
    pub fn markdown(&self) -> String {
        markdown::verdicts(self)
    }

    /// `verdicts.junit.xml` as text: one test case for each question.
    ///
    /// # Errors
    /// If serialization fails.
    pub fn junit(&self) -> anyhow::Result<String> {
        junit::text(self)
    }

    /// `verdicts.bmf.json` as text: Bencher Metric Format.
    ///
    /// # Errors
    /// If serialization fails.
    pub fn bencher(&self) -> anyhow::Result<String> {
        bencher::text(self)
    }

    /// `verdicts.sarif` as text: SARIF 2.1.0, one result for each verdict that fails.
    ///
    /// # Errors
    /// If serialization fails.
    pub fn sarif(&self) -> anyhow::Result<String> {
        sarif::text(self)
    }

    /// Workflow commands that make GitHub annotate the run with what fails, one a line.
    pub fn annotations(&self) -> String {
        github::annotations(self)
    }

    /// Writes every format into `dir`. Call it before deciding the exit code. A reader never sees half a file:
    /// each is written beside its place and then moved there.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn write(&self, dir: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let files = [
            ("verdicts.json", self.json()?),
            ("verdicts.md", self.markdown()),
            ("verdicts.junit.xml", self.junit()?),
            ("verdicts.bmf.json", self.bencher()?),
            ("verdicts.sarif", self.sarif()?),
        ];
        for (name, text) in files {
            replace(&dir.join(name), &text)?;
        }
        Ok(())
    }
}

/// `verdicts.json`.
#[derive(Serialize, JsonSchema)]
struct File<'a> {
    schema: u32,
    passes: bool,
    counts: BTreeMap<&'static str, usize>,
    throttled: u32,
    #[serde(flatten)]
    verdicts: &'a Verdicts,
}

/// The JSON schema of `verdicts.json`, as committed in `ci/verdicts.schema.json`.
pub fn json_schema() -> String {
    let schema = serde_json::to_value(schemars::schema_for!(File<'_>)).expect("a schema is JSON");
    format!("{schema:#}\n")
}

/// Replaces a file by `text` in one step.
pub(crate) fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    let inner = || -> anyhow::Result<()> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let mut file = tempfile::Builder::new()
            .permissions(readable())
            .tempfile_in(folder.unwrap_or(Path::new(".")))?;
        file.write_all(text.as_bytes())?;
        file.persist(path)?;
        Ok(())
    };
    inner().with_context(|| format!("cannot write {}", path.display()))
}

/// What any other new file would get, instead of a temporary file's secrecy.
#[cfg(unix)]
pub(crate) fn readable() -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o644)
}
