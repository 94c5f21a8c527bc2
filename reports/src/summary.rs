//! The first screen: what was run and where, whether it is right, what is fastest, what memory buys.

use std::collections::BTreeSet;

use serde::Serialize;
use touchstone_bench::record::Executor;

use crate::{
    derive::{Row, Sheet, headline},
    figures::{self, Figure},
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
    /// What each device or processor contributed.
    places: Vec<AtPlace>,
    /// Outcomes of what was to be proven.
    counts: Counts,
    /// Right answers of the references, and of peers.
    references: usize,
    peers: usize,
    /// What a reader must know before believing the figures.
    warnings: Vec<String>,
}

/// What was shown in one place.
#[derive(Serialize)]
struct AtPlace {
    name: String,
    /// What was proven there, in words.
    text: String,
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
    /// Whether any row has a peer.
    peers: bool,
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
    /// Speed against the first variant of the ladder.
    gain: String,
    /// Speed of our fastest against the best peer; the one of both that is not the fastest of all is named.
    against_peer: String,
    /// What more memory buys, in words.
    buys: String,
}

/// What is to be proven: a kernel of ours, on a device or in the simulator. References are right by
/// definition, peers are only compared.
fn is_claim(row: &Row<'_>) -> bool {
    row.record.executor != Executor::Cpu && !row.is_peer()
}

/// Says what was run and whether it is right.
pub fn summary(sheet: &Sheet<'_>) -> Summary {
    let claims = || sheet.rows.iter().filter(|row| is_claim(row));
    let all = Counts::of(sheet.rows.iter());
    let right = |test: fn(&Row<'_>) -> bool| {
        sheet.rows.iter().filter(|row| row.proven() && test(row)).count()
    };
    let (references, peers) = (
        right(|row| row.record.executor == Executor::Cpu && !row.is_peer()),
        right(|row| row.is_peer()),
    );
    let proven = claims().filter(|row| row.proven()).count();
    let (class, verdict) = if sheet.rows.is_empty() {
        ("none", "There are no records: nothing was run.".to_string())
    } else if all.wrong + all.failed > 0 {
        let wrong = (all.wrong > 0).then(|| format!("{} wrong", units::count(all.wrong, "result")));
        let failed =
            (all.failed > 0).then(|| format!("{} failed", units::count(all.failed, "run")));
        let parts: Vec<String> = [wrong, failed].into_iter().flatten().collect();
        ("bad", format!("Not everything is right: {}.", parts.join(", ")))
    } else if proven > 0 {
        let text = format!(
            "Every kernel that ran is right: {} proven in {}.",
            units::count(variants(claims().filter(|row| row.proven())), "kernel variant"),
            units::count(proven, "result")
        );
        ("good", text)
    } else if references > 0 {
        let text = "No kernel ran, so none is proven. Only the references did, which are right by \
                    definition.";
        ("none", text.to_string())
    } else {
        ("none", format!("Nothing ran: {} skipped.", units::count(all.skipped, "record")))
    };
    Summary {
        class,
        verdict,
        scope: scope(sheet),
        places: places(sheet),
        counts: Counts::of(claims()),
        references,
        peers,
        warnings: warnings(sheet),
    }
}

fn variants<'r, 'a: 'r>(rows: impl Iterator<Item = &'r Row<'a>>) -> usize {
    rows.map(|row| (row.record.op(), &row.record.variant)).collect::<BTreeSet<_>>().len()
}

/// What ran in each place that has a result, and when.
fn places(sheet: &Sheet<'_>) -> Vec<AtPlace> {
    let at_place = |(place, known): (usize, &crate::derive::Place)| {
        let right = || sheet.rows.iter().filter(move |row| row.place == place && row.proven());
        let dates: BTreeSet<&str> =
            right().map(|row| row.record.environment.date.get(..10).unwrap_or("")).collect();
        let (first, last) = (dates.first()?, dates.last()?);
        let mut parts = Vec::new();
        let proven = right().filter(|row| is_claim(row)).count();
        if proven > 0 {
            let kernels = variants(right().filter(|row| is_claim(row)));
            parts.push(format!(
                "{} proven in {}",
                units::count(kernels, "kernel variant"),
                units::count(proven, "result")
            ));
        }
        let peers = right().filter(|row| row.is_peer()).count();
        if peers > 0 {
            parts.push(format!("{} of peers", units::count(peers, "timing")));
        }
        let references = right().count() - proven - peers;
        if references > 0 {
            let only = if proven == 0 { "no kernels, only " } else { "" };
            parts.push(format!("{only}{} of the references", units::count(references, "result")));
        }
        let mut text = parts.join(", ");
        if !last.is_empty() {
            let date = if first == last { last.to_string() } else { format!("{first} to {last}") };
            text = format!("{text}; {date}");
        }
        Some(AtPlace { name: known.label.clone(), text })
    };
    sheet.places.iter().enumerate().filter_map(at_place).collect()
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
        (varying, "result was right but did not repeat bit for bit (its variant adds by atomics, or is a peer)"),
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

/// The rows of the case that stands for each operation in each place.
fn stands<'r, 'a>(sheet: &'r Sheet<'a>, place: usize) -> Vec<Vec<&'r Row<'a>>> {
    let mut ops: Vec<(&str, Vec<&Row>)> = Vec::new();
    for row in sheet.rows.iter().filter(|row| row.place == place && row.valid_ns().is_some()) {
        match ops.iter_mut().find(|(op, _)| *op == row.record.op()) {
            Some((_, rows)) => rows.push(row),
            None => ops.push((row.record.op(), vec![row])),
        }
    }
    ops.iter().map(|(_, rows)| headline(rows)).collect()
}

/// The fastest variant of every operation in every place that timed anything.
pub fn highlights(sheet: &Sheet<'_>) -> Vec<Highlights> {
    let in_place = |(place, known): (usize, &crate::derive::Place)| {
        let stands = stands(sheet, place);
        let rows: Vec<Highlight> = stands.iter().filter_map(|rows| highlight(rows)).collect();
        (!rows.is_empty()).then(|| Highlights {
            place: known.label.clone(),
            executor: executor_name(known.executor),
            single: stands.iter().all(|rows| rows.len() < 2),
            limits: rows.iter().any(|row| !row.limit.is_empty()),
            peers: rows.iter().any(|row| !row.against_peer.is_empty()),
            rows,
        })
    };
    sheet.places.iter().enumerate().filter_map(in_place).collect()
}

/// One figure for each device: the fastest variant of every operation under the device's limits.
pub fn devices(sheet: &Sheet<'_>) -> anyhow::Result<Vec<Figure>> {
    let mut drawn = Vec::new();
    for (place, known) in sheet.places.iter().enumerate() {
        let stands = stands(sheet, place);
        let mut groups: Vec<(&str, Vec<&Row>)> = Vec::new();
        for rows in &stands {
            let Some((fastest, _)) = least(rows, |row| row.valid_ns()) else { continue };
            match groups.iter_mut().find(|(name, _)| *name == fastest.record.vertical()) {
                Some((_, group)) => group.push(fastest),
                None => groups.push((fastest.record.vertical(), vec![fastest])),
            }
        }
        drawn.extend(figures::device(&groups, &known.label)?);
    }
    Ok(drawn)
}

fn least<'r, 'a>(
    rows: &[&'r Row<'a>],
    value: impl Fn(&Row<'_>) -> Option<f64>,
) -> Option<(&'r Row<'a>, f64)> {
    rows.iter().filter_map(|row| Some((*row, value(row)?))).min_by(|a, b| a.1.total_cmp(&b.1))
}

fn highlight(rows: &[&Row<'_>]) -> Option<Highlight> {
    let (fastest, ns) = least(rows, |row| row.valid_ns())?;
    let leanest = least(rows, |row| row.peak_bytes().filter(|_| row.valid_ns().is_some()));
    let buys = leanest.filter(|_| rows.len() > 1).map(|(row, bytes)| buys(fastest, ns, row, bytes));
    let best = |peer: bool| least(rows, |row| row.valid_ns().filter(|_| row.is_peer() == peer));
    let first = rows.iter().find(|row| !row.is_peer());
    let gain = first
        .filter(|first| first.record.variant != fastest.record.variant)
        .and_then(|first| Some((first, first.valid_ns()? / ns)))
        .map(|(first, ratio)| format!("{} {}", units::times(ratio), first.record.variant));
    let against_peer = best(false).zip(best(true)).map(|((own, ns), (peer, peer_ns))| {
        let other = if fastest.is_peer() { own } else { peer };
        let name = other.record.variant.trim_start_matches("peer:");
        format!("{} {name}", units::times(peer_ns / ns))
    });
    Some(Highlight {
        op: fastest.record.op().to_string(),
        anchor: anchor(fastest.record.op()),
        case: fastest.short_case(),
        fastest: fastest.record.variant.clone(),
        time: units::time(ns),
        limit: fastest.share_of_limit().map(units::percent).unwrap_or_default(),
        memory: fastest.peak_bytes().map(units::bytes).unwrap_or_default(),
        gain: gain.unwrap_or_default(),
        against_peer: against_peer.unwrap_or_default(),
        buys: buys.unwrap_or_default(),
    })
}

/// What the fastest variant gets for the memory that it takes beyond the leanest.
fn buys(fastest: &Row<'_>, ns: f64, leanest: &Row<'_>, least: f64) -> String {
    let (Some(bytes), Some(slow)) = (fastest.peak_bytes(), leanest.valid_ns()) else {
        return String::new();
    };
    if bytes <= least {
        return "nothing: it is the leanest".to_string();
    }
    let price = match (bytes / least - 1.0) * 100.0 {
        more if more < 1.0 => "+ < 1 %".to_string(),
        more if more < 100.0 => format!("+ {more:.0} %"),
        _ => units::times(bytes / least),
    };
    let leanest = leanest.record.variant.trim_start_matches("peer:");
    format!("{price} for {} {leanest}", units::times(slow / ns))
}
