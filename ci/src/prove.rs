//! How often the gate cries wolf, and what it notices: the gate itself, run a thousand times on real samples of
//! one build measured against itself.
//!
//! The rounds of the A/A run are split in two. From one half noise is learned; from the other half runs are drawn: each
//! takes some rounds and draws in which of them side A was asked first, half of them as in a real run; to swap the
//! sides changes nothing where both are the same build. A run is a false alarm when any of its questions is called slower or faster. Power is seen in the same
//! runs after the samples of one side of some questions were multiplied by a factor: all that a real slow-down of that
//! factor does to samples. Slow-downs that were really made (`run --slow-down`) are judged beside.

use std::{collections::BTreeSet, fmt::Write};

use anyhow::bail;
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use statrs::distribution::{Beta, ContinuousCDF};
use touchstone_bench::{
    agreement::Agreement,
    record::{Outcome, Record, Side},
};

use crate::{Floor, GateOptions, Noise, Place, Verdict, gate_interleaved};

/// Runs drawn to learn noise from.
const LEARNING_RUNS: usize = 200;
/// Slow-downs planted by multiplication.
const FACTORS: [f64; 3] = [1.03, 1.05, 1.10];
/// One question in this many is slowed down: a gate that needs many slow ones to notice any is of no use.
const PLANTED_ONE_IN: usize = 20;

/// What was found.
#[derive(Clone, Debug)]
pub struct Proof {
    places: BTreeSet<Place>,
    dates: BTreeSet<String>,
    rounds: usize,
    /// Rounds of a drawn run.
    drawn: usize,
    questions: usize,
    false_alarms: Share,
    /// By factor: how many slow questions were called slower.
    power: Vec<(f64, Share)>,
    /// Slow-downs really made, by factor.
    made: Vec<(f64, Share)>,
    /// What was learned from one half of the rounds.
    pub noise: Noise,
}

/// So many of so many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Those that count.
    pub hits: usize,
    /// All.
    pub of: usize,
}

impl Share {
    /// The share, of which none is none.
    pub fn value(self) -> f64 {
        if self.of == 0 { 0.0 } else { self.hits as f64 / self.of as f64 }
    }

    /// The largest share that would give so few hits once in twenty times (Clopper and Pearson).
    fn at_most(self) -> f64 {
        match Beta::new(self.hits as f64 + 1.0, (self.of - self.hits) as f64) {
            Ok(beta) => beta.inverse_cdf(0.95),
            Err(_) => 1.0,
        }
    }
}

/// Proves the gate on `same`, an interleaved run of one build against itself, of which `runs` of `drawn` rounds each are
/// drawn, and on runs whose side B was really slowed down by a factor.
///
/// # Errors
/// If there are too few rounds, or the sides of `same` are different builds.
pub fn prove(
    same: &[Record],
    made: &[(f64, Vec<Record>)],
    runs: usize,
    drawn: usize,
) -> anyhow::Result<Proof> {
    let timed: Vec<Record> = same.iter().filter_map(bare).collect();
    let rounds: BTreeSet<u32> =
        timed.iter().filter_map(|r| Some(r.trial.as_ref()?.round)).collect();
    let least = 2 * (drawn + 1);
    if rounds.len() < least {
        bail!("{} rounds with times; runs of {drawn} take at least {least}", rounds.len());
    }
    // By twos, of which one begins with A and the other with B.
    let halves =
        |parity| -> Vec<u32> { rounds.iter().copied().filter(|r| r / 2 % 2 == parity).collect() };
    let (learning, testing) = (halves(0), halves(1));
    let mut rng = ChaCha8Rng::seed_from_u64(4);

    let learned: Vec<Vec<Record>> =
        (0..LEARNING_RUNS).map(|_| draw(&timed, &learning, drawn, &mut rng)).collect();
    let noise = Noise::learn(&learned)?;
    drop(learned);
    let options = GateOptions { noise: noise.clone(), resamples: 200, ..GateOptions::default() };

    let questions: Vec<(String, String)> =
        timed.iter().map(question).collect::<BTreeSet<_>>().into_iter().collect();
    let mut false_alarms = Share { hits: 0, of: runs };
    let mut power: Vec<(f64, Share)> = FACTORS.map(|factor| (factor, Share::default())).to_vec();
    for _ in 0..runs {
        let run = draw(&timed, &testing, drawn, &mut rng);
        let verdicts = gate_interleaved(&run, &options)?;
        let alarms = verdicts.count(Verdict::Slower) + verdicts.count(Verdict::Faster);
        false_alarms.hits += usize::from(alarms > 0);

        let mut shuffled = questions.clone();
        shuffled.shuffle(&mut rng);
        shuffled.truncate(questions.len().div_ceil(PLANTED_ONE_IN));
        let slow: BTreeSet<_> = shuffled.into_iter().collect();
        for (factor, share) in &mut power {
            let verdicts = gate_interleaved(&slowed(&run, &slow, *factor), &options)?;
            let planted = |e: &&crate::Entry| slow.contains(&(e.variant.clone(), e.case.clone()));
            share.of += slow.len();
            share.hits += verdicts
                .entries
                .iter()
                .filter(planted)
                .filter(|entry| entry.verdict == Verdict::Slower)
                .count();
        }
    }
    let mut really = Vec::new();
    for (factor, records) in made {
        let timed: Vec<Record> = records.iter().filter_map(bare).collect();
        let verdicts = gate_interleaved(&timed, &options)?;
        let both = |entry: &&crate::Entry| entry.ratio.is_some();
        let of = verdicts.entries.iter().filter(both).count();
        really.push((*factor, Share { hits: verdicts.count(Verdict::Slower), of }));
    }
    Ok(Proof {
        places: timed.iter().map(Place::of).collect(),
        dates: timed.iter().map(|r| r.environment.date.chars().take(10).collect()).collect(),
        rounds: rounds.len(),
        drawn,
        questions: questions.len(),
        false_alarms,
        power,
        made: really,
        noise,
    })
}

/// A timed record without what the gate does not look at; nothing for others.
fn bare(record: &Record) -> Option<Record> {
    let measurement = record.measurement()?.clone();
    let agreement = Agreement { outputs: Vec::new(), repeatable: true };
    let outcome = Outcome::Measured { agreement, measurement };
    Some(Record { outcome, work: None, cost: None, ..record.clone() })
}

fn question(record: &Record) -> (String, String) {
    (record.variant.clone(), record.case.clone())
}

/// A run of some of `rounds`, whose sides are swapped so that in half of them, drawn at random, A comes first.
fn draw(records: &[Record], rounds: &[u32], drawn: usize, rng: &mut ChaCha8Rng) -> Vec<Record> {
    let mut chosen = rounds.to_vec();
    chosen.shuffle(rng);
    chosen.truncate(drawn);
    // In even rounds A came first; of those chosen, the first half is to be so.
    let swapped: Vec<bool> = (0..chosen.len())
        .map(|index| (index < chosen.len() / 2) != chosen[index].is_multiple_of(2))
        .collect();
    let take = |record: &Record| -> Option<Record> {
        let mut record = record.clone();
        let trial = record.trial.as_mut()?;
        let index = chosen.iter().position(|round| *round == trial.round)?;
        if swapped[index] {
            trial.side = if trial.side == Side::A { Side::B } else { Side::A };
        }
        Some(record)
    };
    records.iter().filter_map(take).collect()
}

/// The run with the samples of side B of some questions multiplied.
fn slowed(run: &[Record], slow: &BTreeSet<(String, String)>, factor: f64) -> Vec<Record> {
    let mut run = run.to_vec();
    for record in &mut run {
        let planted = record.trial.as_ref().is_some_and(|trial| trial.side == Side::B)
            && slow.contains(&question(record));
        if let (true, Outcome::Measured { measurement, .. }) = (planted, &mut record.outcome) {
            let samples = measurement.cold_ns.iter_mut().chain(&mut measurement.warm_ns);
            samples.for_each(|sample| *sample *= factor);
        }
    }
    run
}

impl Proof {
    /// Share of drawn runs in which anything was called slower or faster.
    pub fn false_alarms(&self) -> Share {
        self.false_alarms
    }

    /// Share of questions slowed down by `factor` that were called slower.
    pub fn power(&self, factor: f64) -> Share {
        self.power.iter().find(|(f, _)| *f == factor).map_or(Share::default(), |(_, share)| *share)
    }

    /// A row of METHODOLOGY.md's table under its heading, and the noise by workload.
    pub fn markdown(&self) -> String {
        let places = self.places.iter().map(Place::to_string).collect::<Vec<_>>().join("; ");
        let dates = self.dates.iter().cloned().collect::<Vec<_>>().join(", ");
        let percent = |share: Share| match share.of {
            0 => "–".to_string(),
            _ => format!("{:.1} %", share.value() * 100.0),
        };
        let mut text = String::from(
            "| where, when | questions, rounds | false alarms, of runs | power at 3 % | at 5 % | at 10 % | made |\n\
             |---|---|---|--:|--:|--:|---|\n",
        );
        let made: Vec<String> = self
            .made
            .iter()
            .map(|(factor, s)| format!("{:.0} %: {} of {}", (factor - 1.0) * 100.0, s.hits, s.of))
            .collect();
        let _ = writeln!(
            text,
            "| {places}, {dates} | {}, {} of {} | {} of {} (at most {:.1} %) | {} | {} |",
            self.questions,
            self.drawn,
            self.rounds,
            self.false_alarms.hits,
            self.false_alarms.of,
            self.false_alarms.at_most() * 100.0,
            self.power.iter().map(|(_, s)| percent(*s)).collect::<Vec<_>>().join(" | "),
            if made.is_empty() { "–".to_string() } else { made.join(", ") },
        );
        text += "\n| workload | series | largest change that nothing caused |\n|---|---|--:|\n";
        for floor in self.noise.floors() {
            let Floor { workload, series, largest, .. } = floor;
            let _ = writeln!(text, "| {workload} | {series} | {:.2} % |", largest * 100.0);
        }
        text
    }
}
