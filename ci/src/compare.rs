//! Two sets of records side by side.

use std::fmt::Write;

use touchstone_bench::record::Record;

use crate::{
    Entry, GateOptions, Place, Timing, Verdict,
    gate::{Answer, questions},
    judgement::{Judgement, compare_times, decide_all},
    markdown::{milliseconds, table_cell},
};

/// What the table says of one question that both sides answered.
struct Line {
    entry: Entry,
    comparable: bool,
    peak_ratio: Option<f64>,
}

/// Shows `a` and `b` side by side as Markdown, the largest slow-down first. Times made in different places
/// are shown with their ratio, but without a verdict. Judges nothing: for that there is [`crate::gate`].
pub fn compare(a: &[Record], b: &[Record]) -> String {
    let options = GateOptions::default();
    let (a, b): (Vec<&Record>, Vec<&Record>) = (a.iter().collect(), b.iter().collect());
    let (mut lines, mut only_a, mut only_b, mut untimed) = (Vec::new(), 0, 0, 0);
    let questions = questions(&a, &b);
    for sides in questions.values() {
        let shared = sides.old.keys().any(|place| sides.new.contains_key(place));
        let pairs: Vec<(&Place, &Answer<'_>, &Answer<'_>)> = match shared {
            true => sides
                .old
                .iter()
                .filter_map(|(place, old)| Some((place, old, sides.new.get(place)?)))
                .collect(),
            false => sides
                .old
                .first_key_value()
                .zip(sides.new.first_key_value())
                .map(|((_, old), (place, new))| (place, old, new))
                .into_iter()
                .collect(),
        };
        only_a += usize::from(sides.new.is_empty());
        only_b += usize::from(sides.old.is_empty());
        for (place, old, new) in pairs {
            match judged(place, old, new, &options) {
                Some((judgement, peak_ratio)) => {
                    lines.push((judgement, new.record, place, shared, peak_ratio))
                }
                None => untimed += 1,
            }
        }
    }
    decide_all(lines.iter_mut().map(|(judgement, ..)| judgement), &options);
    let mut lines: Vec<Line> = lines
        .into_iter()
        .map(|(judgement, record, place, comparable, peak_ratio)| Line {
            entry: judgement.entry(record, place.clone()),
            comparable,
            peak_ratio,
        })
        .collect();
    lines.sort_by(|x, y| y.entry.ratio.unwrap_or(0.0).total_cmp(&x.entry.ratio.unwrap_or(0.0)));
    text(&lines, only_a, only_b, untimed)
}

/// The judgement of two times and the ratio of peak memory; `None` where a side has no time.
fn judged(
    place: &Place,
    old: &Answer<'_>,
    new: &Answer<'_>,
    options: &GateOptions,
) -> Option<(Judgement, Option<f64>)> {
    let (was, now) = (old.record.measurement()?, new.record.measurement()?);
    let peak_ratio = (was.peak_bytes > 0).then(|| now.peak_bytes as f64 / was.peak_bytes as f64);
    Some((compare_times(old, new, place, options), peak_ratio))
}

fn text(lines: &[Line], only_a: usize, only_b: usize, untimed: usize) -> String {
    let mut text = String::from("# Comparison: B against A\n\n");
    let count = |verdict| {
        lines.iter().filter(|line| line.comparable && line.entry.verdict == verdict).count()
    };
    let foreign = lines.iter().filter(|line| !line.comparable).count();
    let _ = writeln!(
        text,
        "{} timed in both: {} slower, {} faster, {} same, {} unclear, {foreign} from different places. \
         {untimed} in both without a time. {only_a} only in A, {only_b} only in B.\n",
        lines.len(),
        count(Verdict::Slower),
        count(Verdict::Faster),
        count(Verdict::Same),
        count(Verdict::Unclear),
    );
    if lines.is_empty() {
        return text;
    }
    text += "| B / A | A median | B median | memory B / A | verdict | variant | case | where |\n";
    text += "|--:|--:|--:|--:|---|---|---|---|\n";
    for Line { entry, comparable, peak_ratio } in lines {
        let times = |ratio: Option<f64>| ratio.map_or("–".to_string(), |r| format!("{r:.3}×"));
        let median = |t: &Option<Timing>| {
            t.as_ref().map_or("–".to_string(), |t| milliseconds(t.median_ns))
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | `{}` | {} |",
            times(entry.ratio),
            median(&entry.baseline),
            median(&entry.current),
            times(*peak_ratio),
            if *comparable { entry.verdict.name() } else { "different places" },
            table_cell(&entry.variant),
            table_cell(&entry.case),
            table_cell(&entry.place.to_string()),
        );
    }
    text
}
