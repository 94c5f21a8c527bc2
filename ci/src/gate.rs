//! The gate: a baseline and a run in, one verdict for each question out.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::bail;
use schemars::JsonSchema;
use serde::Serialize;
use touchstone_bench::record::{Executor, Measurement, Outcome, Record, Side};

use crate::{
    Entry, Place, Verdict, Verdicts,
    cost::compare_costs,
    judgement::{Judgement, compare_times, decide_all},
    noise::{Asked, Mode, Noise},
};

/// Constants of the rule.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct GateOptions {
    /// Smallest change of the median on a GPU that counts where no noise was learned, as a share: 0.05. Below
    /// it lie clock steps and the placement of buffers.
    pub gpu_effect: f64,
    /// The same on a processor between two builds in turn: 0.10. Other processes and frequency scaling move a
    /// median further there.
    pub cpu_effect: f64,
    /// The same on a processor against records of another hour, which other processes disturbed otherwise: 0.25.
    pub cpu_stored_effect: f64,
    /// No change smaller than this counts, however little noise was learned: 0.01.
    pub least_effect: f64,
    /// Fewer samples than this on either side allow no statement: 5, the fewest whose quartiles are not
    /// mere extremes.
    pub min_samples: usize,
    /// Fewer rounds of an interleaved run than this allow no statement: 4.
    pub min_rounds: usize,
    /// Share of false ones accepted among all changes called real (Benjamini–Hochberg): 0.01.
    pub false_discovery: f64,
    /// Bootstrap draws: 1000.
    pub resamples: usize,
    /// Compares only what this executor ran, on both sides.
    pub only: Option<Executor>,
    /// What was learned of each workload's noise.
    #[serde(skip)]
    pub noise: Noise,
}

impl Default for GateOptions {
    fn default() -> Self {
        Self {
            gpu_effect: 0.05,
            cpu_effect: 0.10,
            cpu_stored_effect: 0.25,
            least_effect: 0.01,
            min_samples: 5,
            min_rounds: 4,
            false_discovery: 0.01,
            resamples: 1000,
            only: None,
            noise: Noise::default(),
        }
    }
}

impl GateOptions {
    /// The smallest change of `record`'s time that counts.
    pub(crate) fn effect(&self, record: &Record, asked: &Asked<'_>) -> f64 {
        let without = match (record.executor, asked.mode) {
            (Executor::Cuda, _) => self.gpu_effect,
            (_, Mode::Interleaved) => self.cpu_effect,
            (_, Mode::Stored) => self.cpu_stored_effect,
        };
        self.noise.effect(record, asked, without, self.least_effect)
    }
}

/// Gives a verdict on each question that `baseline` or `current` answers.
///
/// - A right answer in the baseline must be met by one from the same [`Place`]. One that is absent, skipped,
///   failed, no longer timed, or made elsewhere is `Missing`.
/// - What failed in `current` is `Missing` and what is wrong there is `Wrong`, whatever the baseline says.
/// - `Slower` and `Faster` need all of: a ratio of medians beyond the smallest effect that counts for the workload,
///   a bootstrap interval of that ratio that leaves out 1, and a Mann–Whitney p-value that survives the control of
///   false discoveries over all questions. A change that counts and lacks either proof is `Unclear`; so is
///   one that does not count where the interval reaches past twice the effect. Cold and warm samples are judged
///   apart, each by its own effect: one series that is slower makes the question slower.
/// - Exact costs have no chance in them: one counter that rises is `Slower`, falls alone are `Faster`.
/// - No records at all, or no place in common, fails as a whole: see [`Verdicts::problem`].
pub fn gate(baseline: &[Record], current: &[Record], options: &GateOptions) -> Verdicts {
    judge_all(&baseline.iter().collect::<Vec<_>>(), &current.iter().collect::<Vec<_>>(), options)
}

/// Gives verdicts on an interleaved run: its side A is the baseline, its side B the run.
///
/// # Errors
/// If some records belong to neither side.
pub fn gate_interleaved(records: &[Record], options: &GateOptions) -> anyhow::Result<Verdicts> {
    let (a, b) = split(records)?;
    Ok(judge_all(&a, &b, options))
}

/// The sides of an interleaved run.
pub(crate) fn split(records: &[Record]) -> anyhow::Result<(Vec<&Record>, Vec<&Record>)> {
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for record in records {
        match record.trial.as_ref().map(|trial| trial.side) {
            Some(Side::A) => a.push(record),
            Some(Side::B) => b.push(record),
            None => bail!(
                "{} on {} belongs to no side of an interleaved run (`touchstone run --against`)",
                record.variant,
                record.case
            ),
        }
    }
    Ok((a, b))
}

fn judge_all(baseline: &[&Record], current: &[&Record], options: &GateOptions) -> Verdicts {
    let asked = |record: &&Record| options.only.is_none_or(|only| record.executor == only);
    let baseline: Vec<&Record> = baseline.iter().copied().filter(asked).collect();
    let current: Vec<&Record> = current.iter().copied().filter(asked).collect();

    let (mut judged, mut skipped) = (Vec::new(), 0);
    for sides in questions(&baseline, &current).values() {
        let places: BTreeSet<&Place> = sides.old.keys().chain(sides.new.keys()).collect();
        for place in places {
            let (old, new) = (sides.old.get(place), sides.new.get(place));
            let elsewhere = sides.new.keys().find(|other| *other != place);
            let record = new.or(old).map(|answer| answer.record);
            match (judge(old, new, elsewhere, place, options), record) {
                (Some(judgement), Some(record)) => judged.push((judgement, record, place.clone())),
                _ => skipped += 1,
            }
        }
    }
    decide_all(judged.iter_mut().map(|(judgement, ..)| judgement), options);
    let mut entries: Vec<Entry> = judged
        .into_iter()
        .map(|(judgement, record, place)| judgement.entry(record, place))
        .collect();
    // Stable: within a verdict, questions stay in the order of their keys.
    entries.sort_by_key(|entry| entry.verdict);
    let problem = problem(&baseline, &current);
    Verdicts { problem, options: options.clone(), entries, skipped }
}

/// The answers of both sides to one question, by the place they were made in.
#[derive(Default)]
pub(crate) struct Sides<'a> {
    pub old: BTreeMap<Place, Answer<'a>>,
    pub new: BTreeMap<Place, Answer<'a>>,
}

/// One side's answer to a question in one place.
pub(crate) struct Answer<'a> {
    /// The record that counts.
    pub record: &'a Record,
    /// The measured rounds of an interleaved run, by their number.
    pub rounds: BTreeMap<u32, &'a Measurement>,
}

/// What identifies a question wherever it was answered: [`Record::key`].
type Key<'a> = (Executor, &'a str, &'a str, &'a str);

/// Sorts the records of both sides by the question they answer. Where one side answered twice in one place,
/// the later record counts, but an error is never hidden by a later success, nor a time by a record
/// without.
pub(crate) fn questions<'a>(
    baseline: &[&'a Record],
    current: &[&'a Record],
) -> BTreeMap<Key<'a>, Sides<'a>> {
    let mut questions: BTreeMap<Key<'a>, Sides<'a>> = BTreeMap::new();
    for record in baseline {
        let side = &mut questions.entry(record.key()).or_default().old;
        keep(side, record, |outcome| match outcome {
            Outcome::Measured { .. } => 2,
            Outcome::Checked { .. } => 1,
            _ => 0,
        });
    }
    for record in current {
        let side = &mut questions.entry(record.key()).or_default().new;
        keep(side, record, |outcome| match outcome {
            Outcome::Wrong { .. } => 4,
            Outcome::Failed { .. } => 3,
            Outcome::Measured { .. } => 2,
            Outcome::Checked { .. } => 1,
            Outcome::Skipped { .. } => 0,
        });
    }
    questions
}

fn keep<'a>(
    side: &mut BTreeMap<Place, Answer<'a>>,
    record: &'a Record,
    rank: impl Fn(&Outcome) -> u8,
) {
    let answer =
        side.entry(Place::of(record)).or_insert_with(|| Answer { record, rounds: BTreeMap::new() });
    if rank(&record.outcome) >= rank(&answer.record.outcome) {
        answer.record = record;
    }
    if let (Some(trial), Some(measurement)) = (&record.trial, record.measurement()) {
        answer.rounds.insert(trial.round, measurement);
    }
}

/// Judges one question in one place; `None` when neither side has anything to say.
fn judge(
    old: Option<&Answer<'_>>,
    new: Option<&Answer<'_>>,
    elsewhere: Option<&Place>,
    place: &Place,
    options: &GateOptions,
) -> Option<Judgement> {
    use Verdict::{Missing, New, Same, Wrong};
    let was = old.filter(|answer| answer.record.outcome.proof().is_some());
    let Some(new) = new else {
        was?;
        let reason = match elsewhere {
            Some(place) => format!("not run here; {place} does not compare"),
            None => "not run".to_string(),
        };
        return Some(Judgement::new(Missing, reason));
    };
    Some(match (&new.record.outcome, was) {
        (Outcome::Wrong { complaint, .. }, _) => Judgement::new(Wrong, complaint),
        (Outcome::Measured { agreement, .. } | Outcome::Checked { agreement }, _)
            if !agreement.passes() =>
        {
            let complaint = agreement.complaint().unwrap_or_default();
            Judgement::new(Wrong, format!("recorded as right, but {complaint}"))
        }
        (Outcome::Failed { error }, _) => Judgement::new(Missing, format!("failed: {error}")),
        (Outcome::Skipped { .. }, None) => return None,
        (Outcome::Skipped { reason }, Some(_)) => {
            Judgement::new(Missing, format!("skipped: {reason}"))
        }
        (_, None) => Judgement::new(New, "the baseline has no right answer to this"),
        (outcome, Some(was)) => match (&was.record.outcome, outcome) {
            (Outcome::Measured { .. }, Outcome::Measured { .. }) => {
                compare_times(was, new, place, options)
            }
            (Outcome::Measured { .. }, _) => Judgement::new(Missing, "right, but no longer timed"),
            _ if was.record.cost.is_some() => match compare_costs(was.record, new.record) {
                Some((verdict, reason)) => Judgement::new(verdict, reason),
                None => Judgement::new(Missing, "right, but its cost is no longer counted"),
            },
            _ => Judgement::new(Same, "right; the baseline has no time"),
        },
    })
}

/// Why the two sides cannot be compared at all, if so.
fn problem(baseline: &[&Record], current: &[&Record]) -> Option<String> {
    let places = |records: &[&Record]| -> BTreeSet<Place> {
        records
            .iter()
            .filter(|record| record.outcome.proof().is_some())
            .map(|record| Place::of(record))
            .collect()
    };
    let names = |places: &BTreeSet<Place>| {
        places.iter().map(Place::to_string).collect::<Vec<_>>().join("; ")
    };
    if baseline.is_empty() {
        return Some("the baseline has no records".to_string());
    }
    if current.is_empty() {
        return Some("the run has no records".to_string());
    }
    let (old, new) = (places(baseline), places(current));
    if old.is_empty() {
        return Some("the baseline has no right answer".to_string());
    }
    if new.is_empty() {
        return Some("the run has no right answer".to_string());
    }
    old.is_disjoint(&new).then(|| {
        format!("foreign baseline: it was made on {}; this run on {}", names(&old), names(&new))
    })
}
