//! Cases: what tells one from another, where each stands on the page, and how it is replayed.

use std::collections::HashMap;

use serde::Serialize;
use touchstone_bench::{record::Outcome, workload::Workload};

use crate::{
    derive::{Row, Sheet},
    page::Counts,
    units,
};

/// Tells the parameters in which the cases of an operation differ from those that they share, and numbers
/// the cases.
pub struct Varying<'a> {
    common: Vec<(&'a str, &'a str)>,
    numbers: HashMap<&'a str, usize>,
}

impl<'a> Varying<'a> {
    /// What `rows` of one operation differ in.
    pub fn of(rows: &[&Row<'a>]) -> Self {
        let mut common = rows.first().map_or(Vec::new(), |row| row.fields.clone());
        let one_case = rows.iter().all(|row| row.record.case == rows[0].record.case);
        if one_case {
            common.clear();
        }
        let mut numbers = HashMap::new();
        for row in rows {
            common.retain(|field| row.fields.contains(field));
            let next = numbers.len() + 1;
            numbers.entry(row.record.case.as_str()).or_insert(next);
        }
        Self { common, numbers }
    }

    /// The number of the row's case, by which marks and tables refer to the list of cases.
    pub fn number(&self, row: &Row<'_>) -> usize {
        self.numbers.get(row.record.case.as_str()).copied().unwrap_or(0)
    }

    /// The parameters that tell the row's case from the others.
    pub fn text(&self, row: &Row<'_>) -> String {
        let own = row.fields.iter().filter(|field| !self.common.contains(field));
        words(own)
    }

    /// The parameters that all cases share.
    pub fn common(&self) -> String {
        words(self.common.iter())
    }
}

fn words<'f>(fields: impl Iterator<Item = &'f (&'f str, &'f str)>) -> String {
    fields.map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
}

/// The fragment identifier of a case: the same on every page that shows it.
pub fn anchor(case: &str) -> String {
    let hash = case.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("c-{:010x}", hash >> 24)
}

/// One case of an operation.
#[derive(Serialize)]
pub struct CaseLine {
    number: usize,
    anchor: String,
    case: String,
    workload: String,
    /// What came of it in each place.
    results: Vec<String>,
}

/// A workload with its reason.
#[derive(Serialize)]
pub struct Question {
    name: String,
    why: String,
    cases: usize,
}

/// The cases of `rows`, in order of first appearance.
pub fn lines(rows: &[&Row<'_>], varying: &Varying<'_>, sheet: &Sheet<'_>) -> Vec<CaseLine> {
    let mut cases: Vec<(&str, Vec<&Row>)> = Vec::new();
    let mut index = HashMap::new();
    for row in rows {
        let at = *index.entry(row.record.case.as_str()).or_insert_with(|| {
            cases.push((&row.record.case, Vec::new()));
            cases.len() - 1
        });
        cases[at].1.push(row);
    }
    let line = |(case, rows): (&str, Vec<&Row>)| {
        let mut workloads: Vec<&str> =
            rows.iter().map(|row| row.record.workload.as_str()).collect();
        workloads.dedup();
        CaseLine {
            number: varying.number(rows[0]),
            anchor: anchor(case),
            case: case.to_string(),
            workload: workloads.join(", "),
            results: results(&rows, sheet),
        }
    };
    cases.into_iter().map(line).collect()
}

/// What came of one case, place by place: the fastest, and the count of each outcome.
fn results(rows: &[&Row<'_>], sheet: &Sheet<'_>) -> Vec<String> {
    let mut said = Vec::new();
    for (place, known) in sheet.places.iter().enumerate() {
        let here: Vec<&Row> = rows.iter().copied().filter(|row| row.place == place).collect();
        if here.is_empty() {
            continue;
        }
        let timed = here.iter().filter_map(|row| Some((row.valid_ns()?, *row)));
        let fastest = timed
            .min_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(ns, row)| format!("; fastest {} in {}", row.record.variant, units::time(ns)));
        let mut text = format!("{}: {}", known.label, Counts::of(here.iter().copied()).words());
        text += &fastest.unwrap_or_default();
        for source in here.iter().map(|row| &row.record.inputs).filter(|inputs| *inputs != "drawn")
        {
            let note = format!("; inputs from {source}");
            if !text.contains(&note) {
                text += &note;
            }
        }
        said.push(text);
    }
    said
}

/// The workloads that `rows` answer, as far as their reasons are known.
pub fn questions(rows: &[&Row<'_>], workloads: &[Workload]) -> Vec<Question> {
    let mut questions: Vec<(&Workload, Vec<&str>)> = Vec::new();
    for row in rows {
        let asked = |w: &&Workload| w.op == row.record.op() && w.name == row.record.workload;
        let Some(workload) = workloads.iter().find(asked) else { continue };
        let case = row.record.case.as_str();
        match questions.iter_mut().find(|(known, _)| known.name == workload.name) {
            Some((_, cases)) if cases.contains(&case) => {}
            Some((_, cases)) => cases.push(case),
            None => questions.push((workload, vec![case])),
        }
    }
    let question = |(workload, cases): (&Workload, Vec<&str>)| Question {
        name: workload.name.clone(),
        why: workload.why.split_whitespace().collect::<Vec<_>>().join(" "),
        cases: cases.len(),
    };
    questions.into_iter().map(question).collect()
}

/// What did not come out right or was not run, for one reason.
#[derive(Serialize)]
pub struct Gap {
    /// `wrong`, `failed` or `skipped`.
    kind: &'static str,
    reason: String,
    variants: Vec<String>,
    place: String,
    /// Anchors and numbers of the cases concerned.
    cases: Vec<(String, usize)>,
}

/// What is wrong, failed or skipped among `rows`: wrong first, and one entry for each reason and place.
pub fn gaps(rows: &[&Row<'_>], varying: &Varying<'_>, sheet: &Sheet<'_>) -> Vec<Gap> {
    let mut gaps: Vec<Gap> = Vec::new();
    for row in rows {
        let (kind, reason) = match &row.record.outcome {
            Outcome::Wrong { complaint, .. } => ("wrong", complaint),
            Outcome::Failed { error } => ("failed", error),
            Outcome::Skipped { reason } => ("skipped", reason),
            _ => continue,
        };
        let place = &sheet.places[row.place].label;
        let known = gaps
            .iter()
            .position(|gap| gap.kind == kind && gap.reason == *reason && gap.place == *place);
        let at = known.unwrap_or_else(|| {
            gaps.push(Gap {
                kind,
                reason: reason.clone(),
                variants: Vec::new(),
                place: place.clone(),
                cases: Vec::new(),
            });
            gaps.len() - 1
        });
        let gap = &mut gaps[at];
        if !gap.variants.contains(&row.record.variant) {
            gap.variants.push(row.record.variant.clone());
        }
        let case = (anchor(&row.record.case), varying.number(row));
        if !gap.cases.contains(&case) {
            gap.cases.push(case);
        }
    }
    gaps.sort_by_key(|gap| ["wrong", "failed", "skipped"].iter().position(|k| *k == gap.kind));
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_depend_on_the_case_alone_and_differ() {
        assert_eq!(anchor("a.b:n=1,seed=0"), anchor("a.b:n=1,seed=0"));
        let mut anchors: Vec<String> = (0..5000).map(|n| anchor(&format!("a.b:n={n}"))).collect();
        anchors.sort();
        anchors.dedup();
        assert_eq!(anchors.len(), 5000);
    }
}
