//! What training in several precisions made of one text.

use touchstone_bench::mixed_precision::{MixedPrecision, Run};

use crate::{
    axis::Axis,
    chart::{Chart, Line, Mark, Stroke},
    figures::{Figure, Key},
    units,
};

/// Two figures: loss against steps, and what a byte of memory costs in loss.
pub fn figures(found: &MixedPrecision) -> anyhow::Result<Vec<Figure>> {
    Ok(vec![curves(found)?, memory(found)?])
}

/// Colour of the run at `index`; slot 0 is the quiet one.
fn slot(index: usize) -> usize {
    index + 1
}

fn legend(found: &MixedPrecision) -> Vec<Key> {
    let runs = found.runs.iter().enumerate();
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
        legend: legend(found),
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
        legend: legend(found),
        finding: String::new(),
    })
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
