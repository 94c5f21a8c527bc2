//! Where a record was made.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The machine, software and source revision behind a record.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Environment {
    /// When the run began, UTC, RFC 3339.
    pub date: String,
    /// Version of touchstone.
    pub touchstone: String,
    /// Git revision the binary was built from, `+dirty` appended when the tree had changes.
    pub revision: String,
    /// Processor model.
    pub cpu: String,
    /// Hardware threads available.
    pub cpu_threads: u32,
    /// The GPU, when one was used.
    pub device: Option<Device>,
}

/// The GPU of a run and its limits as measured in that run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Device {
    /// Name the driver gives it.
    pub name: String,
    /// Compute capability, for example `9.0`.
    pub compute: String,
    /// Driver version, for example `580.159.04`.
    pub driver: String,
    /// CUDA version the driver supports, for example `13.0`.
    pub cuda: String,
    /// Number of multiprocessors.
    pub multiprocessors: u32,
    /// Device memory in bytes.
    pub memory_bytes: u64,
    /// Level-2 cache in bytes.
    pub l2_bytes: u64,
    /// SM clock in MHz when the run began, and the most it can be.
    pub sm_clock_mhz: Option<u32>,
    /// Largest SM clock in MHz.
    pub max_sm_clock_mhz: Option<u32>,
    /// Measured limits.
    pub limits: Option<Limits>,
}

/// Limits of the device, measured in the same run. Every figure is judged against these.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Limits {
    /// Device-to-device copy, bytes read plus bytes written, per second.
    pub copy_bytes_per_s: f64,
    /// f32 fused multiply-adds, two operations each, per second.
    pub f32_flops_per_s: f64,
    /// bf16 matrix products through mma.sync, operations per second.
    pub matrix_flops_per_s: f64,
    /// Base-2 exponentials per second.
    pub exp2_per_s: f64,
    /// Scattered f32 atomic additions per second over a 256 MiB array.
    pub atomics_per_s: f64,
}
