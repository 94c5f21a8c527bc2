//! What is asked, and what it cost: workloads, verification, measurement and records.

pub mod agreement;
pub mod corpus;
pub mod environment;
pub mod exchange;
pub mod gtest;
pub mod measure;
pub mod mixed_precision;
pub mod nan;
pub mod neural;
pub mod record;
pub mod run;
pub mod speculative;
pub mod text_chain;
pub mod verify;
pub mod word2vec;
pub mod workload;

pub use agreement::Agreement;
pub use environment::{Device, Environment, Limits};
pub use measure::Effort;
pub use record::{Executor, Measurement, Outcome, Record};
pub use run::{Runner, Task};
pub use verify::Problem;
pub use workload::{Tier, Workload};
