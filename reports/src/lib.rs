//! What records mean to a reader: records in, one HTML file out. Never measures.
//!
//! [`derive`] turns records into figures; [`sweep`] and [`pareto`] find what is worth drawing, [`chart`] and
//! [`figures`] draw it, and `page` puts it in order for the templates. Nothing here knows any algorithm: an
//! operation, its parameters and its variants are what the records say.

use std::path::{Path, PathBuf};

use anyhow::Context;
use touchstone_bench::record::Record;

pub use comparison::{Change, Comparison};

pub mod axis;
pub mod cases;
mod chain;
pub mod chart;
pub mod comparison;
mod counters;
pub mod derive;
mod environments;
pub mod figures;
mod history;
mod mixed_precision;
mod names;
mod neural;
mod operation;
mod page;
pub mod pareto;
mod problems;
mod raw;
pub mod speculation;
mod summary;
mod sweep;
mod table;
pub mod units;

/// What the page says besides the records.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Title of the page.
    pub title: String,
    /// Sentences shown under the title, one paragraph each.
    pub notes: Vec<String>,
    /// Results of the text chain, shown as a section of their own.
    pub text_chain: Option<serde_json::Value>,
    /// What changed against other records, shown first.
    pub comparison: Option<Comparison>,
    /// Whether to show the time of each case over the revisions among the records.
    pub history: bool,
}

/// The page as text.
///
/// # Errors
/// If a plot cannot be drawn or a template rendered.
pub fn render(records: &[Record], options: &Options) -> anyhow::Result<String> {
    let history = if options.history { history::section(records)? } else { None };
    page::render(&derive::Sheet::of(records), history, options)
}

/// Writes the page to `dir/index.html` and returns its path. A page that is there already is replaced only
/// once the new one is complete.
///
/// # Errors
/// If rendering fails or the file cannot be written.
pub fn write(records: &[Record], dir: &Path, options: &Options) -> anyhow::Result<PathBuf> {
    let page = render(records, options)?;
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let path = dir.join("index.html");
    let partial = dir.join(format!(".index.html.{}", std::process::id()));
    std::fs::write(&partial, page)
        .and_then(|()| std::fs::rename(&partial, &path))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
