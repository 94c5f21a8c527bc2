//! How long a prepared plan takes.

use std::time::{Duration, Instant};

use anyhow::anyhow;
use cudarc::driver::{CudaGraph, sys};

use super::Prepared;
use crate::gpu::{Gpu, describe, guarded::Guarded};

/// State of the L2 cache before a timed run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// Flushed before every sample.
    Cold,
    /// As the run before left it.
    Warm,
}

/// Samples and how they were taken.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Timing {
    /// Time of one run in nanoseconds, sample by sample.
    pub samples_ns: Vec<f64>,
    /// Runs in each sample.
    pub runs: usize,
    /// Samples left out because the device throttled.
    pub throttled: usize,
}

impl Timing {
    /// Moves samples in, or counts them as left out.
    fn keep(&mut self, samples_ns: &mut Vec<f64>, throttled: bool) {
        match throttled {
            true => self.throttled += samples_ns.len(),
            false => self.samples_ns.append(samples_ns),
        }
        samples_ns.clear();
    }
}

/// Samples taken however long they last: verdicts need that many.
const FEWEST_SAMPLES: usize = 5;

/// Time after which a series ends with the samples it has.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often the driver is asked whether the device throttles. Where it does, the samples since the last question are
/// left out.
const BETWEEN_QUESTIONS: Duration = Duration::from_millis(5);

impl Prepared<'_> {
    /// Times `samples` runs after a warm-up, or fewer (but no less than [`FEWEST_SAMPLES`]) when they take
    /// longer than [`PATIENCE`]. Cold samples are one run each behind a flush of the L2
    /// cache, whose own time covers the enqueueing; warm ones are replays of a graph of several runs
    /// when a run is short, so that launch overhead does not count.
    ///
    /// # Errors
    /// The driver's.
    pub fn time(&self, cache: Cache, samples: usize) -> anyhow::Result<Timing> {
        let once_ns = self.warm_up()?;
        let runs = match cache {
            Cache::Cold => 1,
            Cache::Warm => ((200e3 / once_ns).ceil() as usize).clamp(1, 64),
        };
        let graph = self.capture(runs)?;
        let flush = match cache {
            Cache::Cold => Some(self.flush_buffer()?),
            Cache::Warm => None,
        };
        let mut timing = Timing { runs, ..Timing::default() };
        let begin = Instant::now();
        let (mut unchecked, mut asked) = (Vec::new(), begin);
        for sample in 0..samples {
            if sample >= FEWEST_SAMPLES && begin.elapsed() > PATIENCE {
                break;
            }
            if let Some(flush) = &flush {
                flush.fill(&self.gpu.stream, 0x3C).map_err(|e| anyhow!(describe(&e)))?;
            }
            let ns = self.gpu.between_events(|| self.replay(graph.as_ref(), runs))? / runs as f64;
            // Events resolve no finer; shorter numbers keep records small.
            unchecked.push((ns * 10.0).round() / 10.0);
            // To ask the driver takes longer than a short run.
            if asked.elapsed() > BETWEEN_QUESTIONS {
                timing.keep(&mut unchecked, self.gpu.is_throttled());
                asked = Instant::now();
            }
        }
        timing.keep(&mut unchecked, self.gpu.is_throttled());
        Ok(timing)
    }

    /// Time of `runs` runs in a row, in nanoseconds.
    ///
    /// # Errors
    /// The driver's.
    pub fn elapsed_ns(&self, runs: usize) -> anyhow::Result<f64> {
        self.gpu.between_events(|| (0..runs).try_for_each(|_| self.run()))
    }

    /// Runs until times settle and returns the last time in nanoseconds.
    fn warm_up(&self) -> anyhow::Result<f64> {
        let mut once_ns = 0.0;
        for _ in 0..3 {
            once_ns = self.gpu.between_events(|| self.run())?;
            if once_ns > 1e8 {
                break;
            }
        }
        Ok(once_ns.max(1.0))
    }

    /// A graph of `runs` runs; `None` for plans so short that direct launches keep the device busy.
    fn capture(&self, runs: usize) -> anyhow::Result<Option<CudaGraph>> {
        if runs == 1 && self.steps.len() <= 4 || self.steps.is_empty() {
            return Ok(None);
        }
        let stream = &self.gpu.stream;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        stream.begin_capture(mode).map_err(|e| anyhow!(describe(&e)))?;
        let ran = (0..runs).try_for_each(|_| self.run());
        let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = stream.end_capture(flags).map_err(|e| anyhow!("capture: {}", describe(&e)))?;
        ran?;
        if let Some(graph) = &graph {
            graph.upload().map_err(|e| anyhow!(describe(&e)))?;
            self.gpu.synchronize()?;
        }
        Ok(graph)
    }

    fn replay(&self, graph: Option<&CudaGraph>, runs: usize) -> anyhow::Result<()> {
        match graph {
            Some(graph) => graph.launch().map_err(|e| anyhow!(describe(&e))),
            None => (0..runs).try_for_each(|_| self.run()),
        }
    }

    fn flush_buffer(&self) -> anyhow::Result<Guarded> {
        Guarded::new(&self.gpu.stream, (2 * self.gpu.properties().l2_bytes).max(32 << 20), 0)
            .map_err(|e| anyhow!("cache flush buffer: {}", describe(&e)))
    }
}

impl Gpu {
    /// Time that `work`, enqueued on this device's stream, takes between two events, in nanoseconds.
    pub(in crate::gpu) fn between_events(
        &self,
        work: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<f64> {
        let record = || {
            let timed = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
            self.stream.record_event(timed).map_err(|e| anyhow!(describe(&e)))
        };
        let start = record()?;
        work()?;
        let end = record()?;
        self.synchronize()?;
        let ms = start.elapsed_ms(&end).map_err(|e| anyhow!(describe(&e)))?;
        Ok(f64::from(ms) * 1e6)
    }
}
