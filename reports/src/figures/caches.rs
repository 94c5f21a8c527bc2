//! Cold against warm: what the level-2 cache is worth.

use super::{Figure, Slots, line_key};
use crate::{
    axis::Axis,
    cases::Varying,
    chart::{Chart, Line, Mark, Stroke},
    derive::Row,
    units,
};

/// How much slower a run with a flushed cache is, against the bytes the case must move; `None` without
/// both series.
pub fn caches(
    rows: &[&Row<'_>],
    slots: &Slots<'_>,
    varying: &Varying<'_>,
    place: &str,
) -> anyhow::Result<Option<Figure>> {
    let mut variants: Vec<&str> = Vec::new();
    let mut marks = Vec::new();
    for row in rows {
        let bytes = row.record.work.as_ref().map(|work| work.bytes).filter(|&bytes| bytes > 0.0);
        let (Some(cold), Some(warm), Some(bytes)) = (row.cold, row.warm, bytes) else { continue };
        let (variant, ratio) = (&row.record.variant, cold.median / warm.median);
        variants.push(variant);
        marks.push(Mark {
            slot: slots.slot(variant),
            hollow: row.is_peer(),
            at: (bytes, ratio),
            radius: 3.5,
            title: format!(
                "{variant}: cold {}, warm {}, {}, case {}",
                units::time(cold.median),
                units::time(warm.median),
                units::times(ratio),
                varying.number(row)
            ),
            ..Mark::default()
        });
    }
    if marks.len() < 2 {
        return Ok(None);
    }
    let mut legend = slots.legend(variants.into_iter());
    legend.push(line_key("limit", "no difference"));
    let bytes = || marks.iter().map(|mark| mark.at.0);
    let ends = bytes().fold((f64::INFINITY, 0.0_f64), |(low, high), b| (low.min(b), high.max(b)));
    let chart = Chart {
        title: "Cold over warm time against bytes moved".to_string(),
        x: Axis::bytes("bytes the case must move", bytes()),
        y: Axis::linear(
            "cold time over warm time",
            marks.iter().map(|mark| mark.at.1).chain([1.5]),
            units::tick,
        ),
        lines: vec![Line {
            slot: 0,
            points: vec![(ends.0, 1.0), (ends.1, 1.0)],
            stroke: Stroke::Limit,
        }],
        marks,
    };
    Ok(Some(Figure {
        heading: "Cold against warm".to_string(),
        caption: format!("{place}. Median with the cache flushed over median with warm caches."),
        svg: chart.svg()?,
        legend,
        finding: String::new(),
    }))
}
