//! What is asked, and what it cost: workloads, verification, measurement and records.

pub mod agreement;
pub mod environment;
pub mod record;

pub use agreement::Agreement;
pub use environment::{Device, Environment, Limits};
pub use record::{Executor, Measurement, Outcome, Record};
