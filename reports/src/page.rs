//! The page as data for its template: what is said first, then every operation, then everything else.

use std::collections::HashSet;

use minijinja::{Environment as Templates, context};
use serde::Serialize;
use touchstone_bench::{
    record::{Executor, Outcome},
    workload::{self, Workload},
};

use crate::{
    Options,
    chain::{self, Chain},
    comparison,
    derive::{Row, Sheet},
    environments::{self, Machine},
    figures::Figure,
    history::History,
    operation::{self, Operation},
    problems::{self, Group, Problem},
    raw,
    summary::{self, Highlights, Summary},
};

#[derive(Serialize)]
struct Page {
    title: String,
    notes: Vec<String>,
    summary: Summary,
    highlights: Vec<Highlights>,
    algorithms: Vec<Algorithm>,
    chain: Option<Chain>,
    problems: Vec<Problem>,
    skipped: Vec<Group>,
    machines: Vec<Machine>,
    /// One figure for each device: all operations under its limits.
    devices: Vec<Figure>,
    /// A link that holds all records.
    raw: String,
    records: usize,
    comparison: Option<comparison::Section>,
    history: Option<History>,
    /// Whether history was asked for.
    wants_history: bool,
}

#[derive(Serialize)]
struct Algorithm {
    name: String,
    operations: Vec<Operation>,
}

/// The page as text.
pub fn render(
    sheet: &Sheet<'_>,
    history: Option<History>,
    options: &Options,
) -> anyhow::Result<String> {
    let listed: HashSet<&str> = sheet.rows.iter().map(|row| row.record.case.as_str()).collect();
    let compared = options.comparison.as_ref();
    let compared = compared.map(|c| comparison::section(c, |case| listed.contains(case)));
    let page = Page {
        title: options.title.clone(),
        notes: options.notes.clone(),
        summary: summary::summary(sheet),
        highlights: summary::highlights(sheet),
        algorithms: algorithms(sheet, &workload::embedded()?)?,
        chain: options.text_chain.as_ref().map(|value| chain::section(value, sheet)).transpose()?,
        problems: problems::problems(sheet),
        skipped: problems::skipped(sheet),
        machines: environments::machines(sheet),
        devices: summary::devices(sheet)?,
        raw: raw::link(sheet.rows.iter().map(|row| row.record))?,
        records: sheet.rows.len(),
        comparison: compared.transpose()?,
        history,
        wants_history: options.history,
    };
    let mut templates = Templates::new();
    templates.set_trim_blocks(true);
    templates.set_lstrip_blocks(true);
    for (name, text) in [
        ("page.html", include_str!("../templates/page.html")),
        ("parts.html", include_str!("../templates/parts.html")),
        ("operation.html", include_str!("../templates/operation.html")),
        ("changes.html", include_str!("../templates/changes.html")),
        ("chain.html", include_str!("../templates/chain.html")),
    ] {
        templates.add_template(name, text)?;
    }
    let style = include_str!("../templates/page.css");
    let script = include_str!("../templates/page.js");
    Ok(templates.get_template("page.html")?.render(context! { page, style, script })? + "\n")
}

fn algorithms(sheet: &Sheet<'_>, workloads: &[Workload]) -> anyhow::Result<Vec<Algorithm>> {
    let mut operations: Vec<(&str, Vec<&Row>)> = Vec::new();
    for row in &sheet.rows {
        match operations.iter_mut().find(|(op, _)| *op == row.record.op()) {
            Some((_, rows)) => rows.push(row),
            None => operations.push((row.record.op(), vec![row])),
        }
    }
    let mut algorithms: Vec<Algorithm> = Vec::new();
    for (_, rows) in operations {
        let name = rows[0].record.vertical().to_string();
        let operation = operation::operation(&rows, sheet, workloads)?;
        match algorithms.iter_mut().find(|algorithm| algorithm.name == name) {
            Some(algorithm) => algorithm.operations.push(operation),
            None => algorithms.push(Algorithm { name, operations: vec![operation] }),
        }
    }
    Ok(algorithms)
}

/// How many rows came to what.
#[derive(Clone, Copy, Default, Serialize)]
pub struct Counts {
    /// Right and timed.
    pub measured: usize,
    /// Right, not timed.
    pub checked: usize,
    /// Wrong.
    pub wrong: usize,
    /// Could not run.
    pub failed: usize,
    /// Need not run.
    pub skipped: usize,
}

impl Counts {
    /// Counts `rows`.
    pub fn of<'r, 'a: 'r>(rows: impl Iterator<Item = &'r Row<'a>>) -> Self {
        let mut counts = Self::default();
        for row in rows {
            *match row.record.outcome {
                Outcome::Measured { .. } => &mut counts.measured,
                Outcome::Checked { .. } => &mut counts.checked,
                Outcome::Wrong { .. } => &mut counts.wrong,
                Outcome::Failed { .. } => &mut counts.failed,
                Outcome::Skipped { .. } => &mut counts.skipped,
            } += 1;
        }
        counts
    }

    /// What there is of each, in words.
    pub fn words(&self) -> String {
        let parts = [
            (self.measured, "right and timed"),
            (self.checked, "right and not timed"),
            (self.wrong, "wrong"),
            (self.failed, "failed"),
            (self.skipped, "skipped"),
        ];
        let parts = parts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}"));
        parts.collect::<Vec<_>>().join(", ")
    }
}

/// An executor's name.
pub fn executor_name(executor: Executor) -> &'static str {
    match executor {
        Executor::Cpu => "cpu",
        Executor::Cuda => "cuda",
        Executor::Simulator => "simulator",
    }
}
