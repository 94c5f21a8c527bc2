//! The figures of one operation: what is drawn against what, and what is said beside it.
//!
//! Our variants are filled marks, peers are hollow ones; a variant has one colour in all figures.

use std::collections::HashMap;

use serde::Serialize;

use crate::derive::{Row, is_peer};

mod beside;
mod caches;
mod predicted;
mod roofline;
mod slack;
mod times;
mod trade;

pub use beside::beside;
pub use caches::caches;
pub use predicted::predicted;
pub use roofline::{device, roofline};
pub use slack::slack;
pub use times::times;
pub use trade::trade;

/// A chart with what belongs beside it.
#[derive(Serialize)]
pub struct Figure {
    /// Heading.
    pub heading: String,
    /// What it shows, in a sentence; where it was measured.
    pub caption: String,
    /// The chart.
    pub svg: String,
    /// Series by colour class.
    pub legend: Vec<Key>,
    /// What follows from it, in words.
    pub finding: String,
}

/// One entry of a legend.
#[derive(Serialize)]
pub struct Key {
    /// Colour class, `s0` to `s9`, or the class of a line.
    pub class: String,
    /// Shape of the mark, as text.
    pub mark: &'static str,
    /// Name of the series.
    pub name: String,
}

/// Colour of each variant of an operation: the same in all its figures.
pub struct Slots<'a>(HashMap<&'a str, usize>);

impl<'a> Slots<'a> {
    /// Numbers variants in order of first appearance, which is the order of the ladder.
    pub fn of(rows: &[&Row<'a>]) -> Self {
        let mut slots = HashMap::new();
        for row in rows {
            let next = slots.len();
            slots.entry(row.record.variant.as_str()).or_insert(next);
        }
        Self(slots)
    }

    /// Sorts by the ladder.
    pub fn sort<T>(&self, items: &mut [T], variant: impl Fn(&T) -> &str) {
        items.sort_by_key(|item| self.slot(variant(item)));
    }

    /// Colour class of a variant.
    pub fn slot(&self, variant: &str) -> usize {
        self.0.get(variant).copied().unwrap_or(0)
    }

    fn key(&self, variant: &str) -> Key {
        let mut key = Key::series(self.slot(variant), variant);
        if is_peer(variant) {
            key.mark = ["○", "□", "△", "◇"][self.slot(variant) % 4];
        }
        key
    }

    /// The keys of `variants`, each once, by the ladder.
    pub fn legend<'v>(&self, variants: impl Iterator<Item = &'v str>) -> Vec<Key> {
        let mut names: Vec<&str> = Vec::new();
        for variant in variants {
            if !names.contains(&variant) {
                names.push(variant);
            }
        }
        self.sort(&mut names, |name| name);
        names.into_iter().map(|name| self.key(name)).collect()
    }
}

impl Key {
    /// The key of a series of marks.
    pub fn series(slot: usize, name: &str) -> Self {
        let class = format!("s{}", slot % crate::chart::SLOTS);
        Self { class, mark: ["●", "■", "▲", "◆"][slot % 4], name: name.to_string() }
    }
}

fn line_key(class: &str, name: &str) -> Key {
    Key { class: class.to_string(), mark: "", name: name.to_string() }
}
