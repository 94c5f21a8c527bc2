//! Where a record was made.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use touchstone_cuda::Gpu;

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
    /// bf16 matrix products through wgmma, operations per second; of devices that have it, and not of records made
    /// before December 2026.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wgmma_flops_per_s: Option<f64>,
    /// Matrix products of 8-bit floats (e4m3) through wgmma, operations per second; likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wgmma_e4m3_flops_per_s: Option<f64>,
    /// Base-2 exponentials per second.
    pub exp2_per_s: f64,
    /// Scattered f32 atomic additions per second over a 256 MiB array.
    pub atomics_per_s: f64,
}

impl Limits {
    /// The rate of matrix products by the fastest instruction that was measured: of 8-bit floats or wider ones. Where
    /// that of 8 bits is not known, neither is their limit, and the rate of bf16 stands for it.
    pub fn products_per_s(&self, eight_bit: bool) -> f64 {
        let wide = self.wgmma_flops_per_s.unwrap_or(0.0).max(self.matrix_flops_per_s);
        self.wgmma_e4m3_flops_per_s.filter(|_| eight_bit).unwrap_or(wide)
    }
}

impl Environment {
    /// The host this runs on, now, without a device.
    pub fn of_host() -> Self {
        let now = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        Self {
            date: now,
            touchstone: env!("CARGO_PKG_VERSION").into(),
            revision: env!("TOUCHSTONE_REVISION").into(),
            cpu: cpu_model().unwrap_or_else(|| std::env::consts::ARCH.into()),
            cpu_threads: std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
            device: None,
        }
    }

    /// Adds the device, with its limits when they are to be measured.
    ///
    /// # Errors
    /// If measuring the limits fails.
    pub fn describe_device(&mut self, gpu: &Gpu, measure_limits: bool) -> anyhow::Result<()> {
        let properties = gpu.properties();
        let limits = measure_limits.then(|| gpu.limits()).transpose()?;
        let (sm_clock_mhz, max_sm_clock_mhz) = gpu.sm_clock_mhz();
        self.device = Some(Device {
            name: properties.name.clone(),
            compute: format!("{}.{}", properties.compute.0, properties.compute.1),
            driver: properties.driver.clone().unwrap_or_else(|| "unknown".into()),
            cuda: format!("{}.{}", properties.cuda / 1000, properties.cuda % 1000 / 10),
            multiprocessors: properties.multiprocessors as u32,
            memory_bytes: properties.memory_bytes as u64,
            l2_bytes: properties.l2_bytes as u64,
            sm_clock_mhz,
            max_sm_clock_mhz,
            limits: limits.map(|measured| Limits {
                copy_bytes_per_s: measured.copy_bytes_per_s,
                f32_flops_per_s: measured.f32_flops_per_s,
                matrix_flops_per_s: measured.matrix_flops_per_s,
                wgmma_flops_per_s: measured.wgmma_flops_per_s,
                wgmma_e4m3_flops_per_s: measured.wgmma_e4m3_flops_per_s,
                exp2_per_s: measured.exp2_per_s,
                atomics_per_s: measured.atomics_per_s,
            }),
        });
        Ok(())
    }
}

/// The processor's model name as Linux tells it.
fn cpu_model() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_string())
}
