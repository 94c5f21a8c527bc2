//! What may merge: records in, verdicts out. Never measures.
//!
//! [`gate`] holds the records of a run against a baseline and gives one [`Verdict`] for each question
//! they answer; [`gate_interleaved`] does so for the two sides of one run. It fails closed: nothing to compare,
//! a baseline from another device, or a question that is no longer answered is a failure, never a pass. [`Noise`]
//! is what was learned of each workload from runs in which nothing changed. [`compare`] shows two sets of records
//! side by side and judges nothing; [`merge`] makes one file of many.

pub mod baseline;
mod bencher;
mod compare;
mod cost;
mod gate;
mod github;
mod judgement;
mod junit;
mod markdown;
mod merge;
mod noise;
mod place;
mod prove;
mod sarif;
mod statistics;
mod verdict;

pub use compare::compare;
pub use gate::{GateOptions, gate, gate_interleaved};
pub use merge::{Merged, merge};
pub use noise::{Floor, Mode, Noise};
pub use place::Place;
pub use prove::{Proof, Share, prove};
pub use verdict::{Entry, Timing, Verdict, Verdicts, json_schema};
