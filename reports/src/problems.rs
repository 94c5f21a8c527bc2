//! What is wrong, what failed, and what was skipped and why.

use serde::Serialize;
use touchstone_bench::record::Outcome;

use crate::{
    cases::anchor,
    derive::{Row, Sheet},
};

/// One wrong result or failed run.
#[derive(Serialize)]
pub struct Problem {
    /// `wrong` or `failed`.
    class: &'static str,
    variant: String,
    case: String,
    anchor: String,
    place: String,
    /// What is wrong.
    reason: String,
}

/// Records skipped for the same reason.
#[derive(Serialize)]
pub struct Group {
    reason: String,
    count: usize,
    /// Operations concerned, with the number of their records.
    operations: Vec<(String, usize)>,
}

/// Every wrong result and failed run, wrong ones first.
pub fn problems(sheet: &Sheet<'_>) -> Vec<Problem> {
    let problem = |row: &Row<'_>| {
        let (class, reason) = match &row.record.outcome {
            Outcome::Wrong { complaint, .. } => ("wrong", complaint),
            Outcome::Failed { error } => ("failed", error),
            _ => return None,
        };
        Some(Problem {
            class,
            variant: row.record.variant.clone(),
            case: row.record.case.clone(),
            anchor: anchor(&row.record.case),
            place: sheet.places[row.place].label.clone(),
            reason: reason.clone(),
        })
    };
    let mut problems: Vec<Problem> = sheet.rows.iter().filter_map(problem).collect();
    problems.sort_by_key(|problem| problem.class == "failed");
    problems
}

/// Skipped records by reason, the most frequent first.
pub fn skipped(sheet: &Sheet<'_>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for row in &sheet.rows {
        let Outcome::Skipped { reason } = &row.record.outcome else { continue };
        let op = row.record.op().to_string();
        match groups.iter_mut().find(|group| group.reason == *reason) {
            Some(group) => {
                group.count += 1;
                match group.operations.iter_mut().find(|(name, _)| *name == op) {
                    Some((_, count)) => *count += 1,
                    None => group.operations.push((op, 1)),
                }
            }
            None => {
                groups.push(Group { reason: reason.clone(), count: 1, operations: vec![(op, 1)] })
            }
        }
    }
    groups.sort_by_key(|group| std::cmp::Reverse(group.count));
    groups
}
