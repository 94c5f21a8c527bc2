//! The first screen: what was run and where, whether it is right, what is fastest, what memory buys.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::{
    derive::{Row, Sheet, representative},
    operation::anchor,
    page::{Counts, executor_name},
    units,
};

/// What the page says first.
#[derive(Serialize)]
pub struct Summary {
    /// `good`, `bad` or `none`.
    class: &'static str,
    /// Whether everything is right, in one sentence.
    verdict: String,
    /// What was run.
    scope: String,
    /// The devices and processors that ran it.
    places: Vec<String>,
    counts: Counts,
    /// What a reader must know before believing the figures.
    warnings: Vec<String>,
}

/// The fastest variant of each operation in one place.
#[derive(Serialize)]
pub struct Highlights {
    place: String,
    executor: &'static str,
    /// Whether no operation ran in more than one variant there: then nothing is fastest.
    single: bool,
    /// Whether any row knows its share of the limit.
    limits: bool,
    rows: Vec<Highlight>,
}

#[derive(Serialize)]
struct Highlight {
    op: String,
    anchor: String,
    case: String,
    fastest: String,
    time: String,
    limit: String,
    memory: String,
    /// Against the first variant of the ladder, and ours against the best peer, in words.
    gain: String,
    /// What more memory buys, in words.
    buys: String,
}

/// Says what was run and whether it is right.
pub fn summary(sheet: &Sheet<'_>) -> Summary {
    let counts = Counts::of(sheet.rows.iter());
    let proven = counts.measured + counts.checked;
    let (class, verdict) = if sheet.rows.is_empty() {
        ("none", "There are no records: nothing was run.".to_string())
    } else if counts.wrong + counts.failed > 0 {
        let wrong =
            (counts.wrong > 0).then(|| format!("{} wrong", units::count(counts.wrong, "result")));
        let failed =
            (counts.failed > 0).then(|| format!("{} failed", units::count(counts.failed, "run")));
        let parts: Vec<String> = [wrong, failed].into_iter().flatten().collect();
        ("bad", format!("Not everything is right: {}.", parts.join(", ")))
    } else if proven == 0 {
        ("none", format!("Nothing ran: {} skipped.", units::count(counts.skipped, "record")))
    } else {
        let text = format!(
            "Everything that ran is right: {} within the error bounds.",
            units::count(proven, "result")
        );
        ("good", text)
    };
    Summary {
        class,
        verdict,
        scope: scope(sheet),
        places: sheet
            .places
            .iter()
            .enumerate()
            .filter(|(place, _)| sheet.rows.iter().any(|r| r.place == *place && r.proven()))
            .map(|(_, place)| format!("{} ({})", place.label, executor_name(place.executor)))
            .collect(),
        counts,
        warnings: warnings(sheet),
    }
}

fn scope(sheet: &Sheet<'_>) -> String {
    let distinct =
        |what: fn(&Row<'_>) -> String| sheet.rows.iter().map(what).collect::<BTreeSet<_>>().len();
    format!(
        "{}, {}, {}, {}, {}",
        units::count(distinct(|row| row.record.vertical().to_string()), "algorithm"),
        units::count(distinct(|row| row.record.op().to_string()), "operation"),
        units::count(
            distinct(|row| format!("{} {}", row.record.op(), row.record.variant)),
            "variant"
        ),
        units::count(distinct(|row| row.record.case.clone()), "case"),
        units::count(sheet.rows.len(), "record"),
    )
}

fn warnings(sheet: &Sheet<'_>) -> Vec<String> {
    let count = |test: fn(&Row<'_>) -> bool| sheet.rows.iter().filter(|row| test(row)).count();
    let invalid = count(|row| row.invalid());
    let throttled = count(|row| row.measurement().is_some_and(|m| m.throttled > 0));
    let varying = count(|row| row.record.agreement().is_some_and(|a| !a.repeatable));
    let dirty = count(|row| row.record.environment.revision.ends_with("+dirty"));
    [
        (invalid, "time is beyond what the device can do: invalid, and nowhere called fast"),
        (throttled, "record lost samples because the device throttled"),
        (varying, "result was right but did not repeat bit for bit"),
        (dirty, "record was made from a source tree with uncommitted changes"),
        (sheet.superseded, "record is left out because a later one answers the same question"),
    ]
    .into_iter()
    .filter(|(n, _)| *n > 0)
    .map(|(n, text)| {
        let (noun, rest) = text.split_once(' ').unwrap_or((text, ""));
        let rest = if n == 1 { rest.to_string() } else { plural(rest) };
        format!("{} {rest}.", units::count(n, noun))
    })
    .collect()
}

/// Turns the verb at the head of `text` into its plural.
fn plural(text: &str) -> String {
    for (one, many) in [("is ", "are "), ("was ", "were ")] {
        if let Some(rest) = text.strip_prefix(one) {
            return format!("{many}{rest}");
        }
    }
    text.to_string()
}

/// The fastest variant of every operation in every place that timed anything.
pub fn highlights(sheet: &Sheet<'_>) -> Vec<Highlights> {
    let in_place = |(place, known): (usize, &crate::derive::Place)| {
        let mut ops: Vec<(&str, Vec<&Row>)> = Vec::new();
        for row in sheet.rows.iter().filter(|row| row.place == place && row.valid_ns().is_some()) {
            match ops.iter_mut().find(|(op, _)| *op == row.record.op()) {
                Some((_, rows)) => rows.push(row),
                None => ops.push((row.record.op(), vec![row])),
            }
        }
        let stands: Vec<Vec<&Row>> = ops.iter().map(|(_, rows)| representative(rows)).collect();
        let rows: Vec<Highlight> = stands.iter().filter_map(|rows| highlight(rows)).collect();
        (!rows.is_empty()).then(|| Highlights {
            place: known.label.clone(),
            executor: executor_name(known.executor),
            single: stands.iter().all(|rows| rows.len() < 2),
            limits: rows.iter().any(|row| !row.limit.is_empty()),
            rows,
        })
    };
    sheet.places.iter().enumerate().filter_map(in_place).collect()
}

fn highlight(rows: &[&Row<'_>]) -> Option<Highlight> {
    let by = |value: fn(&Row<'_>) -> Option<f64>| {
        rows.iter().filter_map(|row| Some((*row, value(row)?))).min_by(|a, b| a.1.total_cmp(&b.1))
    };
    let (fastest, ns) = by(|row| row.valid_ns())?;
    let buys = by(|row| row.peak_bytes()).map(|(leanest, least)| buys(fastest, ns, leanest, least));
    Some(Highlight {
        op: fastest.record.op().to_string(),
        anchor: anchor(fastest.record.op()),
        case: fastest.short_case(),
        fastest: fastest.record.variant.clone(),
        time: units::time(ns),
        limit: fastest.share_of_limit().map(units::percent).unwrap_or_default(),
        memory: fastest.peak_bytes().map(units::bytes).unwrap_or_default(),
        gain: gain(rows, fastest, ns),
        buys: if rows.len() > 1 { buys.unwrap_or_default() } else { String::new() },
    })
}

/// How the fastest compares with the first variant of the ladder, and where there are peers, ours with theirs.
fn gain(rows: &[&Row<'_>], fastest: &Row<'_>, ns: f64) -> String {
    let best = |peer: bool| {
        rows.iter()
            .filter(|row| row.is_peer() == peer)
            .filter_map(|row| Some((row.record.variant.as_str(), row.valid_ns()?)))
            .min_by(|a, b| a.1.total_cmp(&b.1))
    };
    let mut parts = Vec::new();
    let first = rows.iter().find(|row| !row.is_peer());
    if let Some((first, first_ns)) = first.and_then(|row| Some((row, row.valid_ns()?)))
        && first.record.variant != fastest.record.variant
    {
        parts.push(format!("{} as fast as {}", units::times(first_ns / ns), first.record.variant));
    }
    if let (Some((ours, own_ns)), Some((peer, peer_ns))) = (best(false), best(true)) {
        parts.push(if peer_ns < own_ns {
            format!("best of ours: {ours}, {} the time", units::times(own_ns / peer_ns))
        } else {
            format!("{} as fast as {peer}", units::times(peer_ns / own_ns))
        });
    }
    parts.join("; ")
}

/// What the fastest variant gets for the memory that it takes beyond the leanest.
fn buys(fastest: &Row<'_>, ns: f64, leanest: &Row<'_>, least: f64) -> String {
    let (Some(bytes), Some(slow)) = (fastest.peak_bytes(), leanest.valid_ns()) else {
        return String::new();
    };
    if bytes <= least {
        return "nothing: the fastest is also the leanest".to_string();
    }
    let price = if bytes / least < 1.01 {
        "less than 1 % beyond".to_string()
    } else {
        units::times(bytes / least)
    };
    format!(
        "{price} the memory of {} buys {} the speed",
        leanest.record.variant,
        units::times(slow / ns)
    )
}
