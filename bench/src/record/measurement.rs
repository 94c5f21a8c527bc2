//! What a variant took: raw samples, memory and the resources of its kernels.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Timings of one variant on one case.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Measurement {
    /// The clock, with what there is to say of a series after a semicolon: `CUDA events`, `thread CPU time`.
    pub clock: String,
    /// Samples with the L2 cache flushed before each, in nanoseconds, in the order taken.
    pub cold_ns: Vec<f64>,
    /// Samples with whatever the run before left in the caches.
    pub warm_ns: Vec<f64>,
    /// How many samples were taken while the device throttled; they are left out above.
    pub throttled: u32,
    /// Most device memory held at once by the variant's buffers, workspace included, in bytes. On the CPU: the
    /// bytes of inputs and outputs.
    pub peak_bytes: u64,
    /// Bytes of that which are workspace: what the variant pays for its speed.
    pub workspace_bytes: u64,
    /// What theory says of the variant's memory and work, where there is such a theory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted: Option<Predicted>,
    /// Registers, spills and shared memory of each kernel, as the driver loaded it.
    pub kernels: Vec<KernelResources>,
    /// Set when the figure is above what the device can do: then it is invalid, not fast.
    pub above_limit: bool,
}

/// Memory and work of a variant by theory, to be held against what was measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Predicted {
    /// Workspace in bytes.
    pub workspace_bytes: f64,
    /// Floating-point operations, those done again included: times of variants should be in proportion.
    pub flops: f64,
}

/// What one kernel takes of a multiprocessor.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct KernelResources {
    /// `extern "C"` name.
    pub symbol: String,
    /// Registers of a thread.
    pub registers: u32,
    /// Local memory of a thread in bytes: spills and stack.
    pub local_bytes: u32,
    /// Static and dynamic shared memory of a block in bytes.
    pub shared_bytes: u32,
}

/// Quartiles of a set of samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quartiles {
    /// 25th percentile.
    pub q1: f64,
    /// Median.
    pub median: f64,
    /// 75th percentile.
    pub q3: f64,
}

/// Quartiles of `samples` by linear interpolation; `None` when there are none.
pub fn quartiles(samples: &[f64]) -> Option<Quartiles> {
    if samples.is_empty() {
        return None;
    }
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let position = share * (sorted.len() - 1) as f64;
        let (low, high) = (position.floor() as usize, position.ceil() as usize);
        sorted[low] + (sorted[high] - sorted[low]) * (position - low as f64)
    };
    Some(Quartiles { q1: at(0.25), median: at(0.5), q3: at(0.75) })
}

impl Measurement {
    /// The samples that count for comparison: cold ones where there are any.
    pub fn samples_ns(&self) -> &[f64] {
        if self.cold_ns.is_empty() { &self.warm_ns } else { &self.cold_ns }
    }

    /// Median of [`Measurement::samples_ns`].
    pub fn median_ns(&self) -> Option<f64> {
        quartiles(self.samples_ns()).map(|q| q.median)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_interpolate() {
        assert_eq!(quartiles(&[]), None);
        let q = quartiles(&[4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!((q.q1, q.median, q.q3), (1.75, 2.5, 3.25));
    }
}
