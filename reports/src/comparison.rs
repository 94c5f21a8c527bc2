//! Before and after: what changed between two sets of records, with the verdict on each change.

use serde::Serialize;

use crate::{
    axis::Axis,
    cases,
    chart::{Chart, Line, Mark, Stroke},
    figures::{Figure, Key},
    units,
};

/// Two sets of records compared by whoever judges them; `reports` only shows it.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// What is called before: a file, a revision.
    pub before: String,
    /// What is called after.
    pub after: String,
    /// Why nothing can be compared, if so.
    pub problem: Option<String>,
    /// One entry for each question, the worst verdict first.
    pub changes: Vec<Change>,
}

/// One question that either side answers.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// The verdict's name: `slower`, `same`.
    pub verdict: &'static str,
    /// Why, in words.
    pub reason: String,
    /// The variant.
    pub variant: String,
    /// The case's text id.
    pub case: String,
    /// Where both sides ran.
    pub place: String,
    /// Median before, in nanoseconds.
    pub before_ns: Option<f64>,
    /// Median after, in nanoseconds.
    pub after_ns: Option<f64>,
    /// Time after over time before, as the verdict's rule takes it.
    pub ratio: Option<f64>,
    /// Interval of the ratio, where the rule gives one.
    pub interval: Option<[f64; 2]>,
    /// Peak memory before, in bytes.
    pub before_bytes: Option<f64>,
    /// Peak memory after, in bytes.
    pub after_bytes: Option<f64>,
}

/// The comparison as the template shows it.
#[derive(Serialize)]
pub struct Section {
    before: String,
    after: String,
    class: &'static str,
    verdict: String,
    counts: Vec<(&'static str, usize)>,
    figure: Option<Figure>,
    rows: Vec<Shown>,
    /// Questions that came out the same and are not listed.
    left_out: usize,
}

#[derive(Serialize)]
struct Shown {
    verdict: &'static str,
    op: String,
    case: String,
    /// Where the case has its line, when the page has it.
    anchor: Option<String>,
    variant: String,
    place: String,
    before: String,
    after: String,
    ratio: String,
    interval: String,
    memory: String,
    reason: String,
}

/// What must be looked at, in the order in which it must, with colours.
const VERDICTS: [(&str, usize); 7] = [
    ("wrong", 8),
    ("missing", 4),
    ("slower", 2),
    ("unclear", 5),
    ("faster", 3),
    ("new", 1),
    ("same", 0),
];

/// Most questions of verdict `same` that are listed one by one.
const MOST_SAME: usize = 300;

/// Prepares the section; `known` are the cases that the page lists.
pub fn section(comparison: &Comparison, known: impl Fn(&str) -> bool) -> anyhow::Result<Section> {
    let changes = &comparison.changes;
    let count = |verdict: &str| changes.iter().filter(|c| c.verdict == verdict).count();
    let counts: Vec<(&str, usize)> =
        VERDICTS.iter().map(|(name, _)| (*name, count(name))).filter(|(_, n)| *n > 0).collect();
    let words: Vec<String> = counts.iter().map(|(name, n)| format!("{n} {name}")).collect();
    let bad = count("wrong") + count("missing") + count("slower");
    let (class, verdict) = match &comparison.problem {
        Some(problem) => ("bad", format!("Nothing can be compared: {problem}.")),
        None if changes.is_empty() => ("none", "There is nothing to compare.".to_string()),
        None if bad > 0 => ("bad", format!("Not as good as before: {}.", words.join(", "))),
        None => ("good", format!("Nothing is worse than before: {}.", words.join(", "))),
    };
    let rank = |change: &&Change| VERDICTS.iter().position(|(name, _)| *name == change.verdict);
    let mut sorted: Vec<&Change> = changes.iter().collect();
    let size = |change: &Change| change.ratio.map_or(0.0, |ratio| ratio.ln().abs());
    sorted.sort_by(|a, b| rank(a).cmp(&rank(b)).then(size(b).total_cmp(&size(a))));
    let same = count("same");
    sorted.truncate(changes.len() - same + same.min(MOST_SAME));
    Ok(Section {
        before: comparison.before.clone(),
        after: comparison.after.clone(),
        class,
        verdict,
        counts,
        figure: figure(changes)?,
        rows: sorted.into_iter().map(|change| line(change, &known)).collect(),
        left_out: same.saturating_sub(MOST_SAME),
    })
}

fn line(change: &Change, known: impl Fn(&str) -> bool) -> Shown {
    let (op, fields) = change.case.split_once(':').unwrap_or((&change.case, ""));
    let fields: Vec<&str> = fields.split(',').filter(|field| !field.starts_with("seed=")).collect();
    let memory = match (change.before_bytes, change.after_bytes) {
        (Some(a), Some(b)) if a == b => units::bytes(a),
        (Some(a), Some(b)) => format!("{} → {}", units::bytes(a), units::bytes(b)),
        _ => String::new(),
    };
    Shown {
        verdict: change.verdict,
        op: op.to_string(),
        case: fields.join(" "),
        anchor: known(&change.case).then(|| cases::anchor(&change.case)),
        variant: change.variant.clone(),
        place: change.place.clone(),
        before: change.before_ns.map(units::time).unwrap_or_default(),
        after: change.after_ns.map(units::time).unwrap_or_default(),
        ratio: change.ratio.map(units::times).unwrap_or_default(),
        interval: change
            .interval
            .map(|[low, high]| format!("{} – {}", units::digits(low), units::digits(high)))
            .unwrap_or_default(),
        memory,
        reason: change.reason.clone(),
    }
}

/// Time after over time before, against time before.
fn figure(changes: &[Change]) -> anyhow::Result<Option<Figure>> {
    let mut legend = Vec::new();
    let mut marks = Vec::new();
    // What matters is drawn last, over the rest.
    for (name, slot) in VERDICTS.iter().rev() {
        let timed = changes.iter().filter(|change| change.verdict == *name);
        let timed = timed.filter_map(|c| Some((c, c.before_ns?, c.ratio?))).collect::<Vec<_>>();
        if timed.is_empty() {
            continue;
        }
        legend.insert(0, Key::series(*slot, name));
        marks.extend(timed.into_iter().map(|(change, before, ratio)| Mark {
            slot: *slot,
            at: (before, ratio),
            whisker: change.interval.map(|[low, high]| (low, high)),
            radius: if *name == "same" { 2.5 } else { 4.0 },
            title: format!(
                "{}: {} on {}: {} to {}, {}",
                change.verdict,
                change.variant,
                change.case.split(",seed=").next().unwrap_or_default(),
                units::time(before),
                change.after_ns.map(units::time).unwrap_or_default(),
                units::times(ratio)
            ),
            ..Mark::default()
        }));
    }
    if marks.is_empty() {
        return Ok(None);
    }
    let times = || marks.iter().map(|mark| mark.at.0);
    let x = Axis::log("time before", times(), units::tick_time);
    let ends = (x.range.start, x.range.end);
    let chart = Chart {
        title: "Time after over time before, against time before".to_string(),
        x,
        y: Axis::ratios("time after / time before", marks.iter().map(|mark| mark.at.1)),
        lines: vec![Line {
            slot: 0,
            points: vec![(ends.0, 1.0), (ends.1, 1.0)],
            stroke: Stroke::Limit,
        }],
        marks,
    };
    legend.push(Key { class: "limit".to_string(), mark: "", name: "no change".to_string() });
    Ok(Some(Figure {
        heading: "Every question that both sides timed".to_string(),
        caption: "Above the line is slower than before. Whiskers are the interval of the ratio."
            .to_string(),
        svg: chart.svg()?,
        legend,
        finding: String::new(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(verdict: &'static str, ratio: f64) -> Change {
        Change {
            verdict,
            case: format!("a.b:n={ratio},seed=0"),
            before_ns: Some(1e3),
            after_ns: Some(ratio * 1e3),
            ratio: Some(ratio),
            ..Change::default()
        }
    }

    #[test]
    fn the_worst_comes_first_and_what_stayed_the_same_is_counted_when_it_is_much() {
        let mut changes = vec![change("same", 1.0); MOST_SAME + 5];
        changes.push(change("faster", 0.5));
        changes.push(change("slower", 1.1));
        changes.push(change("slower", 1.5));
        let section = section(&Comparison { changes, ..Comparison::default() }, |_| true).unwrap();
        assert_eq!(section.class, "bad");
        assert_eq!(section.left_out, 5);
        let first: Vec<_> = section.rows.iter().take(4).map(|row| row.ratio.as_str()).collect();
        assert_eq!(first, ["1.50×", "1.10×", "0.500×", "1.00×"]);
        assert_eq!(section.counts, [("slower", 2), ("faster", 1), ("same", MOST_SAME + 5)]);
    }

    #[test]
    fn what_cannot_be_compared_is_never_good() {
        let foreign =
            Comparison { problem: Some("foreign baseline".to_string()), ..Comparison::default() };
        assert_eq!(section(&foreign, |_| true).unwrap().class, "bad");
        assert_eq!(section(&Comparison::default(), |_| true).unwrap().class, "none");
    }
}
