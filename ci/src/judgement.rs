//! What the times of two answers allow to say.

use touchstone_bench::record::{Measurement, Record};

use crate::{
    Entry, GateOptions, Place, Timing, Verdict,
    gate::Answer,
    noise::{Asked, Mode},
    statistics::{self, Change, Round},
};

/// A verdict with its reason and the times behind it. One that has changes is not decided before those of all
/// questions are known: see [`decide_all`].
pub(crate) struct Judgement {
    pub verdict: Verdict,
    pub reason: String,
    rounds: usize,
    /// Cold before warm; none where there are no times. The first stands for all until one decides.
    series: Vec<Series>,
}

/// One series of samples of both sides.
struct Series {
    old: Timing,
    new: Timing,
    /// Smallest change that counts.
    effect: f64,
    change: Option<Change>,
    /// The change's p-value, adjusted.
    q: Option<f64>,
}

/// The samples of both sides, round by round, in each series that all of them have. A stored answer is one round.
pub(crate) fn paired_rounds<'a>(
    old: &Answer<'a>,
    new: &Answer<'a>,
) -> Vec<(&'static str, Vec<Round<'a>>)> {
    let stored = || Some((old.record.measurement()?, new.record.measurement()?));
    let pairs: Vec<(&Measurement, &Measurement)> = match mode(old, new) {
        Mode::Interleaved => old
            .rounds
            .iter()
            .filter_map(|(round, old)| Some((*old, *new.rounds.get(round)?)))
            .collect(),
        Mode::Stored => stored().into_iter().collect(),
    };
    let series = |name, samples: fn(&Measurement) -> &Vec<f64>| {
        let rounds: Vec<Round<'a>> =
            pairs.iter().map(|(old, new)| (&samples(old)[..], &samples(new)[..])).collect();
        let full = rounds.iter().all(|(old, new)| !old.is_empty() && !new.is_empty());
        (full && !rounds.is_empty()).then_some((name, rounds))
    };
    let all = [series("cold", |m| &m.cold_ns), series("warm", |m| &m.warm_ns)];
    all.into_iter().flatten().collect()
}

fn mode(old: &Answer<'_>, new: &Answer<'_>) -> Mode {
    match old.rounds.is_empty() || new.rounds.is_empty() {
        true => Mode::Stored,
        false => Mode::Interleaved,
    }
}

/// What two answers with times allow to say, up to the control of false discoveries: see [`decide_all`].
pub(crate) fn compare_times(
    was: &Answer<'_>,
    now: &Answer<'_>,
    place: &Place,
    options: &GateOptions,
) -> Judgement {
    let all = paired_rounds(was, now);
    let mode = mode(was, now);
    let mut judgement = Judgement::new(Verdict::Unclear, "no series of samples in common");
    judgement.rounds = all.iter().map(|(_, rounds)| rounds.len()).max().unwrap_or(0);
    let throttled = |answer: &Answer<'_>| match mode {
        Mode::Interleaved => answer.rounds.values().map(|m| m.throttled).sum(),
        Mode::Stored => answer.record.measurement().map_or(0, |m| m.throttled),
    };
    let timing = |name, rounds: &[Round<'_>], side: fn(&Round<'_>) -> Vec<f64>, answer| {
        let samples: Vec<f64> = rounds.iter().flat_map(side).collect();
        Timing::of(name, &samples, throttled(answer))
    };
    for (name, rounds) in &all {
        let old = timing(name, rounds, |(old, _)| old.to_vec(), was);
        let new = timing(name, rounds, |(_, new)| new.to_vec(), now);
        let (Some(old), Some(new)) = (old, new) else { continue };
        let effect = options.effect(now.record, &Asked { place, mode, series: name });
        judgement.series.push(Series { old, new, effect, change: None, q: None });
    }
    if judgement.series.is_empty() {
        return judgement;
    }
    if let Some(reason) = too_little(was, now, mode, &judgement, options) {
        judgement.reason = reason;
        return judgement;
    }
    for (series, (name, rounds)) in judgement.series.iter_mut().zip(&all) {
        let fewest = series.old.samples.min(series.new.samples);
        if fewest >= options.min_samples {
            let Record { variant, inputs, case, .. } = now.record;
            let seed = format!("{variant} {inputs} {case} {name}");
            series.change = statistics::change(rounds, options.resamples, &seed);
        }
    }
    judgement.reason = "a sample is zero or not a number".into();
    judgement
}

/// Why the samples allow no statement, if so.
fn too_little(
    was: &Answer<'_>,
    now: &Answer<'_>,
    mode: Mode,
    judgement: &Judgement,
    options: &GateOptions,
) -> Option<String> {
    let measurements = |answer: &Answer<'_>| -> Vec<Measurement> {
        let all = answer.rounds.values().copied().chain(answer.record.measurement());
        all.cloned().collect()
    };
    let (old, new) = (measurements(was), measurements(now));
    let clock = |m: &[Measurement]| -> String {
        m.last().and_then(|m| m.clock.split(';').next()).unwrap_or_default().to_string()
    };
    let fewest = |series: &Series| series.old.samples.min(series.new.samples);
    let fewest = judgement.series.iter().map(fewest).max().unwrap_or(0);
    if old.iter().chain(&new).any(|m| m.above_limit) {
        Some("a time beyond what the device can do is invalid".into())
    } else if clock(&old) != clock(&new) {
        Some(format!("taken by different clocks: {} and {}", clock(&old), clock(&new)))
    } else if fewest < options.min_samples {
        let series = judgement.series.first()?;
        let lost = match series.old.throttled + series.new.throttled {
            0 => String::new(),
            n => format!(" ({n} were throttled and left out)"),
        };
        Some(format!("too few samples: {fewest} of at least {}{lost}", options.min_samples))
    } else if mode == Mode::Interleaved && judgement.rounds < options.min_rounds {
        Some(format!("too few rounds: {} of at least {}", judgement.rounds, options.min_rounds))
    } else {
        None
    }
}

/// Adjusts the p-values of all changes together, then decides each question.
pub(crate) fn decide_all<'j>(
    judgements: impl Iterator<Item = &'j mut Judgement>,
    options: &GateOptions,
) {
    let mut all: Vec<&mut Judgement> = judgements.collect();
    let open = |all: &mut [&mut Judgement], set: &mut dyn FnMut(&mut Series)| {
        let series = all.iter_mut().flat_map(|judgement| &mut judgement.series);
        series.filter(|series| series.change.is_some()).for_each(set);
    };
    let mut p = Vec::new();
    open(&mut all, &mut |series| p.extend(series.change.map(|change| change.p)));
    let mut q = statistics::adjusted(&p).into_iter();
    open(&mut all, &mut |series| series.q = q.next());
    for judgement in all {
        judgement.decide(options.false_discovery);
    }
}

/// What one series says. The first kind that any series has decides the question.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Finding {
    Slower,
    Faster,
    /// It seems to have changed, and that is not proven.
    Suspected,
    Same,
    /// It could hide a change that counts.
    Noisy,
}

impl Series {
    /// What the change says, and why.
    fn finding(&self, false_discovery: f64) -> Option<(Finding, String)> {
        let (Change { ratio, low, high, .. }, q) = (self.change?, self.q?);
        let least = 1.0 + self.effect;
        let counts = ratio > least || ratio < 1.0 / least;
        Some(if !counts {
            let twice = 1.0 + 2.0 * self.effect;
            match high <= twice && low >= 1.0 / twice {
                true => (Finding::Same, format!("medians within {:.1} %", self.effect * 100.0)),
                false => (Finding::Noisy, "too noisy to exclude a change that counts".to_string()),
            }
        } else if low <= 1.0 && high >= 1.0 {
            let text = "medians differ, but the interval of their ratio holds 1";
            (Finding::Suspected, text.to_string())
        } else if q > false_discovery {
            let text = format!("medians differ, but chance may explain it (q = {q:.2})");
            (Finding::Suspected, text)
        } else {
            let finding = if ratio > 1.0 { Finding::Slower } else { Finding::Faster };
            (finding, format!("{ratio:.3}× the time (99 %: {low:.3} to {high:.3})"))
        })
    }
}

impl Judgement {
    pub fn new(verdict: Verdict, reason: impl Into<String>) -> Self {
        Self { verdict, reason: reason.into(), rounds: 0, series: Vec::new() }
    }

    /// Gives the verdict: that of the series with the first kind of finding, which comes to stand first.
    fn decide(&mut self, false_discovery: f64) {
        let findings = self.series.iter().enumerate().filter_map(|(index, series)| {
            series.finding(false_discovery).map(|(finding, reason)| (finding, index, reason))
        });
        let mut findings: Vec<_> = findings.collect();
        findings.sort();
        let Some((first, index, reason)) = findings.first().cloned() else { return };
        let also_faster = findings.iter().find(|(other, ..)| *other == Finding::Faster);
        self.reason = match (first, also_faster) {
            (Finding::Slower, Some((_, other, faster))) => {
                format!("{reason}, though {} {faster}", self.series[*other].new.series)
            }
            _ => reason,
        };
        self.verdict = match first {
            Finding::Slower => Verdict::Slower,
            Finding::Faster => Verdict::Faster,
            Finding::Same => Verdict::Same,
            Finding::Suspected | Finding::Noisy => Verdict::Unclear,
        };
        self.series.swap(0, index);
    }

    pub fn entry(self, record: &Record, place: Place) -> Entry {
        let series = self.series.into_iter().next();
        let median_ratio = |s: &Series| s.new.median_ns / s.old.median_ns;
        let change = series.as_ref().and_then(|s| s.change);
        let ratio = match change {
            Some(change) => Some(change.ratio),
            None => series.as_ref().map(median_ratio).filter(|ratio| ratio.is_finite()),
        };
        let (q, effect) = (series.as_ref().and_then(|s| s.q), series.as_ref().map(|s| s.effect));
        let (baseline, current) = series.map(|s| (s.old, s.new)).unzip();
        Entry {
            verdict: self.verdict,
            reason: self.reason,
            executor: record.executor,
            workload: record.workload.clone(),
            variant: record.variant.clone(),
            inputs: record.inputs.clone(),
            case: record.case.clone(),
            place,
            baseline,
            current,
            ratio,
            interval: change.map(|change| [change.low, change.high]),
            q,
            effect: effect.filter(|_| change.is_some()),
            rounds: self.rounds,
        }
    }
}
