//! The device's own limits, measured in the run that is judged against them.

use super::{Cache, Gpu};
use crate::plan::{Arg, Plan};
use touchstone_reference::DType;

/// Measured limits, each the best of several samples: a limit is what the device can do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Copy, bytes read plus bytes written, per second.
    pub copy_bytes_per_s: f64,
    /// f32 operations per second, a multiply-add counted as two.
    pub f32_flops_per_s: f64,
    /// bf16 matrix operations per second through mma.sync.
    pub matrix_flops_per_s: f64,
    /// bf16 matrix operations per second through wgmma, where the device has it.
    pub wgmma_flops_per_s: Option<f64>,
    /// The same of 8-bit floats, e4m3.
    pub wgmma_e4m3_flops_per_s: Option<f64>,
    /// Base-2 exponentials per second.
    pub exp2_per_s: f64,
    /// Scattered f32 atomic additions per second over 256 MiB.
    pub atomics_per_s: f64,
}

const SAMPLES: usize = 15;
const THREADS: usize = 256;
const CHAINS: f64 = 8.0;

impl Gpu {
    /// Measures the limits: a second or less.
    ///
    /// # Errors
    /// The driver's.
    pub fn limits(&self) -> anyhow::Result<Limits> {
        let blocks = self.properties().multiprocessors * 8;
        let rate = |symbol: &str, rounds: usize, per_round: f64| {
            self.rate(("limits", symbol), blocks, rounds, per_round)
        };
        Ok(Limits {
            copy_bytes_per_s: self.copy_rate()?,
            f32_flops_per_s: rate("fma_f32", 4096, 2.0 * CHAINS)?,
            exp2_per_s: rate("exp2_f32", 1024, CHAINS)?,
            // One m16n8k16 product is 4096 operations, shared by the 32 threads of a warp.
            matrix_flops_per_s: rate("matrix_bf16", 4096, CHAINS * 4096.0 / 32.0)?,
            wgmma_flops_per_s: self.warpgroup_rate("products_bf16", 16)?,
            wgmma_e4m3_flops_per_s: self.warpgroup_rate("products_e4m3", 32)?,
            atomics_per_s: self.atomic_rate(blocks)?,
        })
    }

    /// The rate of the products of 64 by 128 by `depth` values that a warpgroup does four of a round.
    fn warpgroup_rate(&self, symbol: &str, depth: usize) -> anyhow::Result<Option<f64>> {
        if self.properties().compute != (9, 0) {
            return Ok(None);
        }
        let blocks = self.properties().multiprocessors * 2;
        // Of a warpgroup's 128 threads each.
        let per_round = (4 * 2 * 64 * 128 * depth) as f64 / 128.0;
        self.rate(("limits_warpgroup", symbol), blocks, 1024, per_round).map(Some)
    }

    /// How many operations a second a kernel of a module does, of which each thread does `per_round` in each round.
    fn rate(
        &self,
        (module, symbol): (&'static str, &str),
        blocks: usize,
        rounds: usize,
        per_round: f64,
    ) -> anyhow::Result<f64> {
        let mut plan = Plan::new();
        let sink = plan.output("sink", DType::F32, &[blocks * THREADS]);
        let args = [sink.into(), Arg::I32(rounds as i32)];
        plan.launch(module, symbol, [blocks, 1, 1], [THREADS, 1, 1], 0, &args);
        Ok((blocks * THREADS * rounds) as f64 * per_round / self.best_s(&plan)?)
    }

    fn copy_rate(&self) -> anyhow::Result<f64> {
        let words: usize = (1 << 30) / 16;
        let mut plan = Plan::new();
        let from = plan.scratch("from", DType::U8, &[words * 16]);
        let to = plan.scratch("to", DType::U8, &[words * 16]);
        let args = [from.into(), to.into(), Arg::from(words)];
        plan.launch("limits", "copy", [words / 2048, 1, 1], [512, 1, 1], 0, &args);
        Ok(2.0 * 16.0 * words as f64 / self.best_s(&plan)?)
    }

    fn atomic_rate(&self, blocks: usize) -> anyhow::Result<f64> {
        let (slots, rounds) = (64 << 20, 64);
        let mut plan = Plan::new();
        let sink = plan.scratch("sink", DType::F32, &[slots]);
        let args = [sink.into(), Arg::I32(slots as i32), Arg::I32(rounds)];
        plan.launch("limits", "atomic_add_f32", [blocks, 1, 1], [THREADS, 1, 1], 0, &args);
        Ok((blocks * THREADS) as f64 * f64::from(rounds) / self.best_s(&plan)?)
    }

    /// Shortest time of a plan in seconds.
    fn best_s(&self, plan: &Plan) -> anyhow::Result<f64> {
        let prepared = self.prepare(plan)?;
        // Uninitialised memory would be read otherwise, and zeros can run faster than data.
        prepared.poison(super::Poison::Huge)?;
        let timing = prepared.time(Cache::Warm, SAMPLES)?;
        let best = timing.samples_ns.into_iter().reduce(f64::min);
        best.map(|ns| ns * 1e-9).ok_or_else(|| anyhow::anyhow!("every sample was throttled"))
    }
}
