//! Verdicts and the files they are written to.

use std::{collections::BTreeMap, path::Path};

use anyhow::Context;
use serde::Serialize;
use touchstone_bench::record::{Executor, Measurement, quartiles};

use crate::{GateOptions, Place, markdown};

/// What the gate says of one question: one variant on one case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The result is wrong. Fails.
    Wrong,
    /// The baseline has an answer and this run has none that can be compared with it. Fails.
    Missing,
    /// Slower by more than the smallest effect that counts, and the quartile ranges do not overlap. Fails.
    Slower,
    /// The times allow no statement.
    Unclear,
    /// Faster, by the same rule as slower.
    Faster,
    /// Right, and no slower than chance explains; or right, where the baseline has no time.
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
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Timing {
    /// `cold` or `warm`.
    pub series: &'static str,
    /// Number of samples.
    pub samples: usize,
    /// 25th percentile in nanoseconds.
    pub q1_ns: f64,
    /// Median in nanoseconds.
    pub median_ns: f64,
    /// 75th percentile in nanoseconds.
    pub q3_ns: f64,
}

impl Timing {
    fn of(series: &'static str, samples: &[f64]) -> Option<Self> {
        quartiles(samples).map(|q| Self {
            series,
            samples: samples.len(),
            q1_ns: q.q1,
            median_ns: q.median,
            q3_ns: q.q3,
        })
    }

    /// The timings of two measurements in a series that both have: cold before warm.
    pub(crate) fn pair(a: &Measurement, b: &Measurement) -> Option<(Self, Self)> {
        let series = |name, a: &[f64], b: &[f64]| Some((Self::of(name, a)?, Self::of(name, b)?));
        series("cold", &a.cold_ns, &b.cold_ns).or_else(|| series("warm", &a.warm_ns, &b.warm_ns))
    }
}

/// One question and what the gate says of it.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// What the gate says.
    pub verdict: Verdict,
    /// Why, in words.
    pub reason: String,
    /// What ran it.
    pub executor: Executor,
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
    /// Median now over median in the baseline: above 1 is slower.
    pub ratio: Option<f64>,
}

/// All verdicts of one comparison.
#[derive(Clone, Debug, Serialize)]
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
    /// Whether the change may merge: something was compared, and nothing is wrong, missing or slower.
    pub fn passes(&self) -> bool {
        self.problem.is_none() && self.entries.iter().all(|entry| !entry.verdict.fails())
    }

    /// How many entries have this verdict.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.entries.iter().filter(|entry| entry.verdict == verdict).count()
    }

    /// `verdicts.json` as text.
    ///
    /// # Errors
    /// If serialization fails.
    pub fn json(&self) -> anyhow::Result<String> {
        #[derive(Serialize)]
        struct File<'a> {
            schema: u32,
            passes: bool,
            counts: BTreeMap<&'static str, usize>,
            #[serde(flatten)]
            verdicts: &'a Verdicts,
        }
        let counts = Verdict::ALL.iter().map(|&v| (v.name(), self.count(v))).collect();
        let file = File { schema: 1, passes: self.passes(), counts, verdicts: self };
        Ok(serde_json::to_string_pretty(&file)? + "\n")
    }

    /// `verdicts.md` as text.
    pub fn markdown(&self) -> String {
        markdown::verdicts(self)
    }

    /// Writes `verdicts.json` and `verdicts.md` into `dir`. Call it before deciding the exit code.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn write(&self, dir: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        for (name, text) in [("verdicts.json", self.json()?), ("verdicts.md", self.markdown())] {
            let path = dir.join(name);
            std::fs::write(&path, text)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}
