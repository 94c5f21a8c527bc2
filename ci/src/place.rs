//! Where a record was made, as far as it decides whether two times can be compared.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use touchstone_bench::record::{Executor, Record};

/// Executor, hardware, driver and clocks behind a record. Times compare only between equal places.
#[derive(
    Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// What ran the variant.
    pub executor: Executor,
    /// Name of the GPU, or the processor model when the processor ran it.
    pub device: String,
    /// Driver version; none on the processor.
    pub driver: Option<String>,
    /// SM clock when the run began, to the nearest 90 MHz (six of the steps a GPU's clock takes); none where it
    /// was not told, and for the sides of an interleaved run: they meet whatever clocks there are in turn.
    pub clock_mhz: Option<u32>,
    /// Largest SM clock in MHz.
    pub max_clock_mhz: Option<u32>,
}

impl Place {
    /// The place of `record`.
    pub fn of(record: &Record) -> Self {
        const STEP_MHZ: u32 = 90;
        let executor = record.executor;
        match (executor, &record.environment.device) {
            (Executor::Cuda, Some(gpu)) => Self {
                executor,
                device: gpu.name.clone(),
                driver: Some(gpu.driver.clone()),
                clock_mhz: gpu
                    .sm_clock_mhz
                    .filter(|_| record.trial.is_none())
                    .map(|mhz| (mhz + STEP_MHZ / 2) / STEP_MHZ * STEP_MHZ),
                max_clock_mhz: gpu.max_sm_clock_mhz,
            },
            (Executor::Cuda, None) => Self::without_driver(executor, "no CUDA device"),
            // The simulator counts the same on every machine.
            (Executor::Simulator, _) => Self::without_driver(executor, "PTX simulator"),
            (Executor::Cpu, _) => Self::without_driver(executor, &record.environment.cpu),
        }
    }

    fn without_driver(executor: Executor, device: &str) -> Self {
        let device = device.to_string();
        Self { executor, device, driver: None, clock_mhz: None, max_clock_mhz: None }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.device)?;
        if let Some(driver) = &self.driver {
            write!(f, ", driver {driver}")?;
        }
        match (self.clock_mhz, self.max_clock_mhz) {
            (Some(clock), Some(max)) => write!(f, ", {clock} of {max} MHz"),
            (None, Some(max)) => write!(f, ", at most {max} MHz"),
            (_, None) => Ok(()),
        }
    }
}
