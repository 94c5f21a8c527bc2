//! What training in several precisions made of one text.

use touchstone_bench::{
    mixed_precision::{MixedPrecision, Pass, Run},
    record::Executor,
};

use crate::{
    axis::Axis,
    chart::{Chart, Line, Mark, Stroke},
    derive::{Place, Row, Sheet},
    figures::{Figure, Key},
    units,
};

/// Loss against steps, what a byte of memory costs in loss, and loss and memory against the speed that devices of the
/// `sheet` have in each precision.
pub fn figures(found: &MixedPrecision, sheet: &Sheet<'_>) -> anyhow::Result<Vec<Figure>> {
    let mut figures = vec![curves(found)?, memory(found)?];
    for (index, place) in sheet.places.iter().enumerate() {
        if place.executor == Executor::Cuda {
            figures.extend(speed(found, sheet, index, place)?);
        }
    }
    Ok(figures)
}

/// Colour of the run at `index`; slot 0 is the quiet one.
fn slot(index: usize) -> usize {
    index + 1
}

/// The keys of runs, each with its place among all.
fn legend<'f>(runs: impl Iterator<Item = (usize, &'f Run)>) -> Vec<Key> {
    runs.map(|(index, run)| Key::series(slot(index), &run.name)).collect()
}

fn told(run: &Run) -> String {
    format!(
        "{}: loss {}, {} a parameter, {} of its gradients zero, {} skipped",
        run.name,
        units::digits(run.final_loss()),
        units::bytes(run.bytes_per_parameter as f64),
        units::percent(run.zero_gradients),
        units::count(run.skipped, "step")
    )
}

fn curves(found: &MixedPrecision) -> anyhow::Result<Figure> {
    let numbered = || found.runs.iter().enumerate();
    let points = |run: &Run| -> Vec<(f64, f64)> {
        run.losses.iter().enumerate().map(|(step, &loss)| ((step + 1) as f64, loss)).collect()
    };
    let lines = numbered().map(|(index, run)| Line {
        slot: slot(index),
        points: points(run),
        stroke: Stroke::Solid,
    });
    let marks = numbered().filter_map(|(index, run)| {
        Some(Mark {
            slot: slot(index),
            hollow: false,
            at: *points(run).last()?,
            whisker: None,
            radius: 4.0,
            title: told(run),
            label: None,
        })
    });
    let all = found.runs.iter().flat_map(|run| run.losses.iter().copied());
    let chart = Chart {
        title: "Loss against steps, by precision".to_string(),
        x: Axis::linear("steps", [found.steps as f64].into_iter(), units::tick),
        y: Axis::linear("mean loss of a character (nats)", all, units::tick),
        lines: lines.collect(),
        marks: marks.collect(),
    };
    Ok(Figure {
        heading: "One network, every precision".to_string(),
        caption: format!(
            "A network of {} parameters learns to predict a character from the two before it ({} of \
             them, on the CPU, formats emulated). The loss carries the weight of one of {} micro-batches. \
             Frequencies alone give {} nats, perfect knowledge of both characters {}.",
            found.parameters,
            found.predicted,
            found.micro_batches,
            units::digits(found.entropy),
            units::digits(found.entropy_in_context)
        ),
        svg: chart.svg()?,
        legend: legend(numbered()),
        finding: finding(found),
    })
}

fn memory(found: &MixedPrecision) -> anyhow::Result<Figure> {
    let marks = found.runs.iter().enumerate().map(|(index, run)| Mark {
        slot: slot(index),
        hollow: false,
        at: (run.bytes_per_parameter as f64, run.final_loss()),
        whisker: None,
        radius: 5.0,
        title: told(run),
        label: None,
    });
    let highest = found.runs.iter().map(|run| run.bytes_per_parameter).max().unwrap_or(0);
    let chart = Chart {
        title: "Final loss against memory".to_string(),
        x: Axis::linear("bytes a parameter", [highest as f64].into_iter(), units::tick),
        y: Axis::linear(
            "mean loss of the last steps (nats)",
            found.runs.iter().map(Run::final_loss),
            units::tick,
        ),
        lines: Vec::new(),
        marks: marks.collect(),
    };
    Ok(Figure {
        heading: "Error against memory".to_string(),
        caption:
            "Weights kept and computed with, their gradient, and two moments. Lower left is better."
                .to_string(),
        svg: chart.svg()?,
        legend: legend(found.runs.iter().enumerate()),
        finding: String::new(),
    })
}

/// Nanoseconds an item of the fastest of our variants on the largest case of a pass.
fn ns_per_item(pass: &Pass, sheet: &Sheet<'_>, place: usize) -> Option<f64> {
    let fits = |row: &&Row| {
        let has =
            |(key, value): &(String, String)| row.fields.contains(&(key.as_str(), value.as_str()));
        row.place == place && row.record.op() == pass.op && pass.with.iter().all(has)
    };
    let timed = sheet.rows.iter().filter(fits).filter(|row| !row.is_peer());
    let timed = timed.filter_map(|row| Some((row.record.work.as_ref()?.items, row.valid_ns()?)));
    let best = timed.max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.total_cmp(&a.1)));
    best.map(|(items, ns)| ns / items)
}

/// Loss against the time that a step's passes over the parameters take; memory is the size of the mark.
fn speed(
    found: &MixedPrecision,
    sheet: &Sheet<'_>,
    index: usize,
    place: &Place,
) -> anyhow::Result<Option<Figure>> {
    const MILLION: f64 = 1e6;
    let time = |run: &Run| {
        let passes = run.passes.iter().map(|pass| ns_per_item(pass, sheet, index));
        let total: f64 = passes.collect::<Option<Vec<f64>>>()?.iter().sum();
        (total > 0.0).then_some(total * MILLION)
    };
    let timed: Vec<(usize, &Run, f64)> =
        found.runs.iter().enumerate().filter_map(|(i, run)| Some((i, run, time(run)?))).collect();
    if timed.len() < 2 {
        return Ok(None);
    }
    let marks = timed.iter().map(|(index, run, ns)| Mark {
        slot: slot(*index),
        at: (*ns, run.final_loss()),
        radius: 1.2 * (run.bytes_per_parameter as f64).sqrt(),
        title: format!("{}, {} for a million parameters", told(run), units::time(*ns)),
        label: Some(format!("{}: {}", run.name, units::bytes(run.bytes_per_parameter as f64))),
        ..Mark::default()
    });
    let chart = Chart {
        title: "Final loss against the time of a step's passes".to_string(),
        x: Axis::log(
            "update of a million parameters",
            timed.iter().map(|timed| timed.2),
            units::tick_time,
        ),
        y: Axis::linear(
            "mean loss of the last steps (nats)",
            timed.iter().map(|timed| timed.1.final_loss()),
            units::tick,
        ),
        lines: Vec::new(),
        marks: marks.collect(),
    };
    let is_timed = |run: &Run| timed.iter().any(|timed| timed.1.name == run.name);
    let names = found.runs.iter().filter(|run| !is_timed(run)).map(|run| run.name.as_str());
    let untimed = names.collect::<Vec<_>>().join("; ");
    Ok(Some(Figure {
        heading: "Error and memory against speed".to_string(),
        caption: format!(
            "{}. Measured: what a step does to all parameters, from the gradients on (checks of a scaled \
             loss, AdamW with its narrow copy, casts), by the fastest variants at their largest size. Larger \
             marks take more bytes a parameter.{}",
            place.label,
            match untimed.as_str() {
                "" => String::new(),
                names => format!(" Without times of all their kernels here: {names}."),
            }
        ),
        svg: chart.svg()?,
        legend: legend(timed.iter().map(|&(index, run, _)| (index, run))),
        finding: String::new(),
    }))
}

fn finding(found: &MixedPrecision) -> String {
    let (Some(exact), Some(plain), Some(scaled)) =
        (found.of("f32"), found.of("f16"), found.of("f16, loss scaled"))
    else {
        return String::new();
    };
    format!(
        "f32 ends at {}. f16 ends at {} without loss scaling, for {} of its gradients are zero, and at {} with it.",
        units::digits(exact.final_loss()),
        units::digits(plain.final_loss()),
        units::percent(plain.zero_gradients),
        units::digits(scaled.final_loss())
    )
}
