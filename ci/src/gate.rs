//! The gate: a baseline and a run in, one verdict for each question out.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use touchstone_bench::record::{Executor, Measurement, Outcome, Record};

use crate::{Entry, Place, Timing, Verdict, Verdicts, cost::compare_costs};

/// Constants of the rule.
#[derive(Clone, Debug, Serialize)]
pub struct GateOptions {
    /// Smallest change of the median on a GPU that counts, as a share: 0.05. Below it lie clock steps and
    /// the placement of buffers.
    pub gpu_effect: f64,
    /// The same on a processor: 0.10. Other processes and frequency scaling move a median further there.
    pub cpu_effect: f64,
    /// Fewer samples than this on either side allow no statement: 5, the fewest whose quartiles are not
    /// mere extremes.
    pub min_samples: usize,
    /// Compares only what this executor ran, on both sides.
    pub only: Option<Executor>,
}

impl Default for GateOptions {
    fn default() -> Self {
        Self { gpu_effect: 0.05, cpu_effect: 0.10, min_samples: 5, only: None }
    }
}

impl GateOptions {
    pub(crate) fn effect(&self, executor: Executor) -> f64 {
        match executor {
            Executor::Cpu | Executor::Simulator => self.cpu_effect,
            Executor::Cuda => self.gpu_effect,
        }
    }
}

/// Gives a verdict on each question that `baseline` or `current` answers.
///
/// - A right answer in the baseline must be met by one from the same [`Place`]. One that is absent, skipped,
///   failed, no longer timed, or made elsewhere is `Missing`.
/// - What failed in `current` is `Missing` and what is wrong there is `Wrong`, whatever the baseline says.
/// - `Slower` and `Faster` need both a change of the median beyond the smallest effect and quartile ranges
///   that do not overlap. A change of the median alone is `Unclear`.
/// - Exact costs have no chance in them: one counter that rises is `Slower`, falls alone are `Faster`.
/// - No records at all, or no place in common, fails as a whole: see [`Verdicts::problem`].
pub fn gate(baseline: &[Record], current: &[Record], options: &GateOptions) -> Verdicts {
    let asked = |record: &&Record| options.only.is_none_or(|only| record.executor == only);
    let baseline: Vec<&Record> = baseline.iter().filter(asked).collect();
    let current: Vec<&Record> = current.iter().filter(asked).collect();

    let (mut entries, mut skipped) = (Vec::new(), 0);
    for sides in questions(&baseline, &current).values() {
        let places: BTreeSet<&Place> = sides.old.keys().chain(sides.new.keys()).collect();
        for place in places {
            let (old, new) = (sides.old.get(place).copied(), sides.new.get(place).copied());
            let elsewhere = sides.new.keys().find(|other| *other != place);
            match judge(old, new, elsewhere, options) {
                Some(judgement) => {
                    entries.extend(new.or(old).map(|record| judgement.entry(record, place.clone())))
                }
                None => skipped += 1,
            }
        }
    }
    // Stable: within a verdict, questions stay in the order of their keys.
    entries.sort_by_key(|entry| entry.verdict);
    let problem = problem(&baseline, &current);
    Verdicts { problem, options: options.clone(), entries, skipped }
}

/// The answers of both sides to one question, by the place they were made in.
#[derive(Default)]
pub(crate) struct Sides<'a> {
    pub old: BTreeMap<Place, &'a Record>,
    pub new: BTreeMap<Place, &'a Record>,
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
    side: &mut BTreeMap<Place, &'a Record>,
    record: &'a Record,
    rank: impl Fn(&Outcome) -> u8,
) {
    let kept = side.entry(Place::of(record)).or_insert(record);
    if rank(&record.outcome) >= rank(&kept.outcome) {
        *kept = record;
    }
}

/// A verdict with its reason and the times behind it.
pub(crate) struct Judgement {
    pub verdict: Verdict,
    pub reason: String,
    pub times: Option<(Timing, Timing)>,
}

impl Judgement {
    fn new(verdict: Verdict, reason: impl Into<String>) -> Self {
        Self { verdict, reason: reason.into(), times: None }
    }

    pub(crate) fn entry(self, record: &Record, place: Place) -> Entry {
        let ratio = self
            .times
            .as_ref()
            .map(|(old, new)| new.median_ns / old.median_ns)
            .filter(|ratio| ratio.is_finite());
        let (baseline, current) = self.times.unzip();
        Entry {
            verdict: self.verdict,
            reason: self.reason,
            executor: record.executor,
            variant: record.variant.clone(),
            inputs: record.inputs.clone(),
            case: record.case.clone(),
            place,
            baseline,
            current,
            ratio,
        }
    }
}

fn proven(record: &Record) -> bool {
    matches!(record.outcome, Outcome::Measured { .. } | Outcome::Checked { .. })
}

/// Judges one question in one place; `None` when neither side has anything to say.
fn judge(
    old: Option<&Record>,
    new: Option<&Record>,
    elsewhere: Option<&Place>,
    options: &GateOptions,
) -> Option<Judgement> {
    use Verdict::{Missing, New, Same, Wrong};
    let was = old.filter(|record| proven(record));
    let Some(new) = new else {
        was?;
        let reason = match elsewhere {
            Some(place) => format!("not run here; {place} does not compare"),
            None => "not run".to_string(),
        };
        return Some(Judgement::new(Missing, reason));
    };
    Some(match (&new.outcome, was) {
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
        (outcome, Some(was)) => match (&was.outcome, outcome) {
            (
                Outcome::Measured { measurement: was, .. },
                Outcome::Measured { measurement: now, .. },
            ) => compare_times(was, now, options.effect(new.executor), options.min_samples),
            (Outcome::Measured { .. }, _) => Judgement::new(Missing, "right, but no longer timed"),
            _ if was.cost.is_some() => match compare_costs(was, new) {
                Some((verdict, reason)) => Judgement::new(verdict, reason),
                None => Judgement::new(Missing, "right, but its cost is no longer counted"),
            },
            _ => Judgement::new(Same, "right; the baseline has no time"),
        },
    })
}

/// The rule for two timings; see [`gate`].
pub(crate) fn compare_times(
    was: &Measurement,
    now: &Measurement,
    effect: f64,
    min_samples: usize,
) -> Judgement {
    use Verdict::{Faster, Same, Slower, Unclear};
    let Some((old, new)) = Timing::pair(was, now) else {
        return Judgement::new(Unclear, "no series of samples in common");
    };
    let ratio = new.median_ns / old.median_ns;
    let apart = new.q1_ns > old.q3_ns || new.q3_ns < old.q1_ns;
    let fewest = old.samples.min(new.samples);
    let (verdict, reason) = if was.above_limit || now.above_limit {
        (Unclear, "a time beyond what the device can do is invalid".to_string())
    } else if fewest < min_samples {
        (Unclear, format!("too few samples: {fewest} of at least {min_samples}"))
    } else if !(ratio.is_finite() && ratio > 0.0) {
        (Unclear, "a median is zero or not a number".to_string())
    } else if ratio <= 1.0 + effect && ratio >= 1.0 / (1.0 + effect) {
        (Same, format!("medians within {:.0} %", effect * 100.0))
    } else if !apart {
        (Unclear, "medians differ, but the quartile ranges overlap".to_string())
    } else if ratio > 1.0 {
        (Slower, format!("{ratio:.2}× the time"))
    } else {
        (Faster, format!("{ratio:.2}× the time"))
    };
    Judgement { verdict, reason, times: Some((old, new)) }
}

/// Why the two sides cannot be compared at all, if so.
fn problem(baseline: &[&Record], current: &[&Record]) -> Option<String> {
    let places = |records: &[&Record]| -> BTreeSet<Place> {
        records.iter().filter(|record| proven(record)).map(|record| Place::of(record)).collect()
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
