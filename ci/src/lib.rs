//! What may merge: records in, verdicts out. Never measures.
//!
//! [`gate`] holds the records of a run against a baseline and gives one [`Verdict`] for each question
//! they answer. It fails closed: nothing to compare, a baseline from another device, or a question that
//! is no longer answered is a failure, never a pass. [`compare`] shows two sets of records side by side
//! and judges nothing.

mod compare;
mod cost;
mod gate;
mod markdown;
mod place;
mod verdict;

pub use compare::compare;
pub use gate::{GateOptions, gate};
pub use place::Place;
pub use verdict::{Entry, Timing, Verdict, Verdicts};
