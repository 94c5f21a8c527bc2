//! Where a record was made, as far as it decides whether two times can be compared.

use std::fmt;

use serde::Serialize;
use touchstone_bench::record::{Executor, Record};

/// Executor and hardware behind a record. Times compare only between equal places.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// What ran the variant.
    pub executor: Executor,
    /// Name of the GPU, or the processor model when the processor ran it.
    pub device: String,
    /// Driver version; none on the processor.
    pub driver: Option<String>,
}

impl Place {
    /// The place of `record`.
    pub fn of(record: &Record) -> Self {
        let gpu = record.environment.device.as_ref();
        let (device, driver) = match (record.executor, gpu) {
            (Executor::Cpu, _) => (record.environment.cpu.clone(), None),
            (Executor::Cuda, Some(gpu)) => (gpu.name.clone(), Some(gpu.driver.clone())),
            (Executor::Cuda, None) => ("no CUDA device".to_string(), None),
            // Costs are the same wherever they are counted.
            (Executor::Simulator, _) => ("PTX simulator".to_string(), None),
        };
        Self { executor: record.executor, device, driver }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.device)?;
        match &self.driver {
            Some(driver) => write!(f, ", driver {driver}"),
            None => Ok(()),
        }
    }
}
