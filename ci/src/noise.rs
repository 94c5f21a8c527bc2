//! The smallest change of each workload that counts, learned from runs in which nothing changed.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use touchstone_bench::record::{Outcome, Record, Side};

use crate::{
    Place,
    gate::{questions, split},
    judgement::paired_rounds,
    statistics,
    verdict::replace,
};

/// Version of the file.
const SCHEMA: u32 = 2;

/// How the two sides of a comparison were taken.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// A B A B …, by `touchstone run --against`.
    Interleaved,
    /// A run against records made at another time.
    Stored,
}

/// What learning found, place by place: `noise.json` beside a device's baseline.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Noise {
    schema: u32,
    /// Sorted by place, mode, workload and series.
    floors: Vec<Floor>,
}

/// The noise of one series of a workload in one place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Floor {
    /// Operation and workload: `ssm.selective/selective_length_sweep`.
    pub workload: String,
    /// `cold` or `warm`: a launch of microseconds is far quieter in a row of 64 than alone.
    pub series: String,
    /// How the sides were taken.
    pub mode: Mode,
    /// Where.
    pub place: Place,
    /// How many A/A comparisons were seen.
    pub comparisons: usize,
    /// The largest change that nothing caused, as a share: 0.02 is 2 %.
    pub largest: f64,
}

/// Which times of a workload are asked for.
pub(crate) struct Asked<'a> {
    pub place: &'a Place,
    pub mode: Mode,
    pub series: &'a str,
}

/// Half as much again as the largest change of an A/A history counts: the largest of n is exceeded about once in n
/// comparisons more, and a gate makes hundreds.
const MARGIN: f64 = 1.5;

/// Fewer A/A comparisons than this say too little: then the default effect is the least that counts.
const ENOUGH: usize = 20;

impl Floor {
    /// The smallest change that counts, given the one that counts without a history and the least ever.
    fn effect(&self, without: f64, least: f64) -> f64 {
        let learned = (MARGIN * self.largest).max(least);
        if self.comparisons < ENOUGH { learned.max(without) } else { learned }
    }
}

/// Operation and workload of a record.
fn workload_of(record: &Record) -> String {
    format!("{}/{}", record.op(), record.workload)
}

impl Noise {
    /// Learns from `runs` of one and the same build. Interleaved runs of a binary against itself are compared
    /// side with side; other runs are compared each with each.
    ///
    /// # Errors
    /// If two sides of an interleaved run are different binaries, or nothing can be compared with anything.
    pub fn learn(runs: &[Vec<Record>]) -> anyhow::Result<Self> {
        let mut changes: Changes = BTreeMap::new();
        let mut stored: Vec<Vec<&Record>> = Vec::new();
        for run in runs {
            if run.iter().all(|record| record.trial.is_none()) {
                stored.push(run.iter().collect());
                continue;
            }
            let (a, b) = split(run)?;
            let binaries = |side: &[&Record]| -> Vec<String> {
                let mut all: Vec<_> =
                    side.iter().filter_map(|r| Some(r.trial.as_ref()?.binary.clone())).collect();
                all.sort();
                all.dedup();
                all
            };
            let (of_a, of_b) = (binaries(&a), binaries(&b));
            if of_a != of_b || of_a.len() != 1 {
                let names = |side, all: &[String]| format!("{side:?}: {}", all.join(", "));
                bail!(
                    "not an A/A run: its sides are different binaries ({}; {})",
                    names(Side::A, &of_a),
                    names(Side::B, &of_b)
                );
            }
            note(&a, &b, Mode::Interleaved, &mut changes);
        }
        for (index, first) in stored.iter().enumerate() {
            for second in &stored[index + 1..] {
                note(first, second, Mode::Stored, &mut changes);
            }
        }
        if changes.is_empty() {
            bail!("nothing to learn from: it takes two runs, or one of a binary against itself");
        }
        let floor = |((place, mode, workload, series), all): (Key, Vec<f64>)| Floor {
            workload,
            series: series.to_string(),
            mode,
            place,
            comparisons: all.len(),
            largest: all.into_iter().fold(0.0, f64::max),
        };
        Ok(Self { schema: SCHEMA, floors: changes.into_iter().map(floor).collect() })
    }

    /// The floor of a record's workload, if it was learned.
    fn floor(&self, record: &Record, asked: &Asked<'_>) -> Option<&Floor> {
        let workload = workload_of(record);
        self.floors.iter().find(|f| {
            f.workload == workload
                && f.mode == asked.mode
                && f.place == *asked.place
                && f.series == asked.series
        })
    }

    /// The smallest change of a record's time that counts: `without` where nothing was learned.
    pub(crate) fn effect(
        &self,
        record: &Record,
        asked: &Asked<'_>,
        without: f64,
        least: f64,
    ) -> f64 {
        self.floor(record, asked).map_or(without, |floor| floor.effect(without, least))
    }

    /// All floors.
    pub fn floors(&self) -> &[Floor] {
        &self.floors
    }

    /// Reads `noise.json`.
    ///
    /// # Errors
    /// If it is not one.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let noise: Self =
            serde_json::from_str(&text).with_context(|| format!("{}", path.display()))?;
        if noise.schema != SCHEMA {
            bail!("{}: noise of schema version {}", path.display(), noise.schema);
        }
        Ok(noise)
    }

    /// Writes `noise.json`: one floor a line, so that a change of it can be reviewed.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let lines: Vec<String> =
            self.floors.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
        let lines = lines.join(",\n");
        replace(path, &format!("{{\"schema\":{SCHEMA},\"floors\":[\n{lines}\n]}}\n"))
    }
}

/// Place, mode, operation with workload, series.
type Key = (Place, Mode, String, &'static str);
/// What changed though nothing caused it, as shares.
type Changes = BTreeMap<Key, Vec<f64>>;

/// Notes the change of every question that both sides answered with a time.
fn note(old: &[&Record], new: &[&Record], mode: Mode, changes: &mut Changes) {
    for sides in questions(old, new).values() {
        for (place, old) in &sides.old {
            let Some(new) = sides.new.get(place) else { continue };
            let measured = |r: &Record| matches!(r.outcome, Outcome::Measured { .. });
            if !measured(old.record) || !measured(new.record) {
                continue;
            }
            for (series, rounds) in paired_rounds(old, new) {
                let Some(change) = statistics::change(&rounds, 0, "") else { continue };
                let size = change.ratio.max(1.0 / change.ratio) - 1.0;
                let key = (place.clone(), mode, workload_of(new.record), series);
                changes.entry(key).or_default().push(size);
            }
        }
    }
}
