//! Records: all that leaves `bench/`. One JSON object a line.

mod file;
mod measurement;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use touchstone_cuda::simulator::cost::Cost;
use touchstone_reference::operations;

pub use file::{Reader, Writer, from_lines, open, read};
pub use measurement::{KernelResources, Measurement, Predicted, Quartiles, quartiles};

use crate::{agreement::Agreement, environment::Environment};

/// Version of the record format. Readers refuse any other.
pub const SCHEMA: u32 = 1;

/// One case, computed by one variant, in one environment, with what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Name of the workload that asked: unique together with the algorithm.
    pub workload: String,
    /// The case's text id; `touchstone check 'ID'` replays it.
    pub case: String,
    /// Where the inputs came from: `drawn` from the case's seed, or a named source with its hash.
    pub inputs: String,
    /// The variant: `reference` (CPU), one of ours, or a peer (`peer:pytorch-eager`).
    pub variant: String,
    /// What ran it.
    pub executor: Executor,
    /// Where it ran.
    pub environment: Environment,
    /// The work by formula, when the inputs could be made.
    pub work: Option<WorkRecord>,
    /// Which side of an A/B run this belongs to; absent outside of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<Trial>,
    /// Exact counts of what its kernels did, when the simulator ran them: equal on every machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<Cost>,
    /// What came of it.
    pub outcome: Outcome,
}

/// The place of a record in an interleaved run of two binaries, A B A B ….
#[derive(
    Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// Which binary made the record.
    pub side: Side,
    /// The round, counted from 0; each round asks both sides every case.
    pub round: u32,
    /// First 16 hexadecimal digits of the BLAKE3 hash of the binary: equal on both sides of an A/A run.
    pub binary: String,
}

/// A side of an A/B run.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The binary given by `--against`: what was.
    A,
    /// The binary that was started: what is.
    B,
}

/// What ran a variant.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Executor {
    /// The host processor.
    Cpu,
    /// A CUDA device.
    Cuda,
    /// The PTX simulator on the host processor: right or wrong, and exact costs, but no times.
    Simulator,
}

/// Work of the case by formula; see `touchstone_reference::Work`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WorkRecord {
    /// Floating-point operations.
    pub flops: f64,
    /// Compulsory memory traffic in bytes.
    pub bytes: f64,
    /// Items processed.
    pub items: f64,
    /// Unit of the items, plural.
    pub item_unit: String,
    /// Whether tensor cores can do the flops.
    pub matrix: bool,
    /// Whether those are products of 8-bit floats.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub eight_bit: bool,
}

/// What came of a case. A wrong result cannot carry a time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum Outcome {
    /// Proven right, then timed.
    Measured {
        /// Agreement with the reference before timing.
        agreement: Agreement,
        /// The timings.
        measurement: Measurement,
    },
    /// Proven right; not timed.
    Checked {
        /// Agreement with the reference.
        agreement: Agreement,
    },
    /// Ran, and is wrong.
    Wrong {
        /// Agreement with the reference, when outputs could be compared.
        agreement: Option<Agreement>,
        /// What is wrong, in words.
        complaint: String,
    },
    /// Did not run, and need not have.
    Skipped {
        /// Why.
        reason: String,
    },
    /// Should have run and could not.
    Failed {
        /// What went wrong.
        error: String,
    },
}

impl Record {
    /// The operation the case names.
    pub fn op(&self) -> &str {
        self.case.split(':').next().unwrap_or(&self.case)
    }

    /// The algorithm: the part of the operation before the dot.
    pub fn vertical(&self) -> &str {
        self.op().split('.').next().unwrap_or("")
    }

    /// Where the operation stands in the list of all, and its variant in the ladder: the reference, ours from the naive
    /// one on, others. What is not listed is behind what is.
    pub fn rung(&self) -> (usize, usize) {
        let place = operations().position(|operation| operation.name == self.op());
        let own = touchstone_cuda::variants().filter(|variant| variant.op == self.op());
        let mut ladder = ["reference"].into_iter().chain(own.map(|variant| variant.name));
        let rung = ladder.position(|name| name == self.variant);
        (place.unwrap_or(usize::MAX), rung.unwrap_or(usize::MAX))
    }

    /// What identifies the same question in another run: executor, variant, inputs and case.
    pub fn key(&self) -> (Executor, &str, &str, &str) {
        (self.executor, &self.variant, &self.inputs, &self.case)
    }

    /// The measurement, if it was measured.
    pub fn measurement(&self) -> Option<&Measurement> {
        match &self.outcome {
            Outcome::Measured { measurement, .. } => Some(measurement),
            _ => None,
        }
    }

    /// The agreement, if outputs were compared.
    pub fn agreement(&self) -> Option<&Agreement> {
        match &self.outcome {
            Outcome::Wrong { agreement, .. } => agreement.as_ref(),
            outcome => outcome.proof(),
        }
    }
}

impl Outcome {
    /// The agreement of what was found right.
    pub fn proof(&self) -> Option<&Agreement> {
        match self {
            Self::Measured { agreement, .. } | Self::Checked { agreement } => Some(agreement),
            _ => None,
        }
    }
}

/// The JSON schema of a [`Record`], as committed in `bench/record.schema.json`.
pub fn json_schema() -> String {
    let schema = serde_json::to_value(schemars::schema_for!(Record)).expect("a schema is JSON");
    format!("{schema:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_schema_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/record.schema.json");
        if std::env::var_os("TOUCHSTONE_ACCEPT").is_some() {
            std::fs::write(path, json_schema()).unwrap();
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(committed == json_schema(), "stale: run with TOUCHSTONE_ACCEPT=1 and commit it");
    }
}
