//! How long a proven variant takes, and how much memory.

use std::time::{Duration, Instant};

use cpu_time::ThreadTime;
use touchstone_cuda::{
    Gpu, Plan,
    gpu::{Cache, Prepared, Timing},
    plan::Arg,
};
use touchstone_reference::{DType, Work};

use crate::{
    environment::Limits,
    record::{KernelResources, Measurement, Predicted, quartiles},
    verify::Problem,
};

/// How many samples to take.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Most samples of each series on a GPU.
    pub gpu_samples: usize,
    /// Time that a series may take on a GPU once it has [`FIRST_SAMPLES`].
    pub gpu_budget: Duration,
    /// Most samples of a reference on the CPU.
    pub cpu_samples: usize,
    /// Time after which no further CPU sample is begun once there are [`LEAST_SAMPLES`].
    pub cpu_budget: Duration,
    /// Time after which no further CPU sample is begun at all.
    pub cpu_patience: Duration,
    /// Makes every timed run take this many times as long, so that a gate can be seen to notice it.
    pub slow_down: Option<f64>,
}

/// Fewer samples than this allow no verdict on a change: their quartiles are mere extremes.
const LEAST_SAMPLES: usize = 5;

impl Effort {
    /// For the default run: enough for a rank test among a hundred others to notice. The slowest reference of the
    /// quick workloads takes a second and a half, and gets its five samples.
    pub const QUICK: Self = Self {
        gpu_samples: 31,
        gpu_budget: Duration::from_millis(100),
        cpu_samples: 21,
        cpu_budget: Duration::from_millis(300),
        cpu_patience: Duration::from_secs(10),
        slow_down: None,
    };
    /// For one of several rounds of two builds in turn. Runs of microseconds scatter by a twentieth each on an H200,
    /// which many samples even out at little cost.
    pub const ROUND: Self = Self { gpu_samples: 101, ..Self::QUICK };
    /// For runs that are recorded.
    pub const FULL: Self = Self {
        gpu_samples: 31,
        gpu_budget: Duration::from_secs(1),
        cpu_samples: 15,
        cpu_budget: Duration::from_secs(2),
        cpu_patience: Duration::from_secs(10),
        slow_down: None,
    };
}

/// A run longer than this refills the caches thousands of times over: cold or warm makes no difference, and
/// only the cold series is taken.
const CACHES_MATTER_BELOW_NS: f64 = 50e6;

/// Times a prepared plan, cold and warm.
///
/// # Errors
/// The driver's.
pub fn cuda(
    prepared: &Prepared<'_>,
    plan: &Plan,
    work: &Work,
    limits: Option<&Limits>,
    effort: Effort,
) -> anyhow::Result<Measurement> {
    let cold = series(prepared, Cache::Cold, effort)?;
    let is_long = quartiles(&cold.samples_ns).is_some_and(|q| q.median > CACHES_MATTER_BELOW_NS);
    let (warm, warm_clock) = if is_long {
        let why = "no warm series: a run is too long for the caches to matter";
        (Timing::default(), why.to_string())
    } else {
        let warm = series(prepared, Cache::Warm, effort)?;
        let clock = format!("warm: {} runs a sample", warm.runs);
        (warm, clock)
    };
    let kernels = prepared.resources().into_iter().map(|k| KernelResources {
        symbol: k.symbol,
        registers: k.registers as u32,
        local_bytes: k.local_bytes as u32,
        shared_bytes: k.shared_bytes as u32,
    });
    Ok(Measurement {
        clock: format!("CUDA events; {warm_clock}"),
        above_limit: is_above_limit(&cold.samples_ns, work, limits),
        throttled: (cold.throttled + warm.throttled) as u32,
        cold_ns: cold.samples_ns,
        warm_ns: warm.samples_ns,
        peak_bytes: plan.bytes() as u64,
        workspace_bytes: plan.scratch_bytes() as u64,
        predicted: plan
            .prediction
            .map(|theory| Predicted { workspace_bytes: theory.scratch_bytes, flops: theory.flops }),
        kernels: kernels.collect(),
    })
}

/// Samples that a series has before it is known how many more there is time for.
const FIRST_SAMPLES: usize = 9;

/// Takes one series: as many samples as there is time for.
fn series(prepared: &Prepared<'_>, cache: Cache, effort: Effort) -> anyhow::Result<Timing> {
    /// What a sample takes beside the run: a flush of the cache, a wait for the device.
    const BESIDE_NS: f64 = 60e3;
    let mut timing = prepared.time(cache, FIRST_SAMPLES.min(effort.gpu_samples))?;
    let Some(typical) = quartiles(&timing.samples_ns) else { return Ok(timing) };
    let each_ns = typical.median * timing.runs as f64 + BESIDE_NS;
    let affordable = (effort.gpu_budget.as_secs_f64() * 1e9 / each_ns) as usize;
    let more = affordable.min(effort.gpu_samples).saturating_sub(FIRST_SAMPLES);
    if more > 0 {
        let rest = prepared.time(cache, more)?;
        timing.throttled += rest.throttled;
        timing.samples_ns.extend(rest.samples_ns);
    }
    Ok(timing)
}

/// The plan followed by a kernel of one warp that computes nothing of use for so long that the whole takes
/// `factor` times as long; `None` where a launch alone takes longer than that.
///
/// # Errors
/// The driver's.
pub fn slowed_down(
    gpu: &Gpu,
    plan: &Plan,
    median_ns: f64,
    factor: f64,
) -> anyhow::Result<Option<Plan>> {
    const ROUNDS: i32 = 2000;
    let delayed = |rounds: i32| {
        let mut plan = plan.clone();
        let sink = plan.scratch("delay", DType::F32, &[32]);
        let args = [sink.into(), Arg::I32(rounds)];
        plan.launch("limits", "fma_f32", [1, 1, 1], [32, 1, 1], 0, &args);
        plan
    };
    let median = |rounds: i32| -> anyhow::Result<f64> {
        let plan = delayed(rounds);
        let prepared = gpu.prepare(&plan)?;
        prepared.run()?;
        let timing = prepared.time(Cache::Cold, 9)?;
        Ok(quartiles(&timing.samples_ns).map_or(f64::NAN, |q| q.median))
    };
    let (launch_ns, long_ns) = (median(0)?, median(ROUNDS)?);
    let rounds = (median_ns * factor - launch_ns) * f64::from(ROUNDS) / (long_ns - launch_ns);
    Ok((rounds >= 0.0 && rounds.is_finite()).then(|| delayed(rounds as i32)))
}

/// Whether a cold median is faster than the compulsory bytes can move: then the measurement is wrong, or
/// the inputs never left the cache.
fn is_above_limit(cold_ns: &[f64], work: &Work, limits: Option<&Limits>) -> bool {
    // The limit itself is measured; a few per cent are within its own scatter.
    const SLACK: f64 = 1.1;
    match (quartiles(cold_ns), limits) {
        (Some(q), Some(limits)) => work.bytes / (q.median * 1e-9) > SLACK * limits.copy_bytes_per_s,
        _ => false,
    }
}

/// Times the naive reference on the CPU; every sample computes the whole answer. The clock is that of the thread,
/// which stands still while other processes have the processor: references run on one thread and wait for nothing.
///
/// # Errors
/// If the case is refused, which [`Problem::new`] has already ruled out.
pub fn reference(problem: &Problem, effort: Effort) -> anyhow::Result<Measurement> {
    let begin = Instant::now();
    let mut warm_ns = Vec::new();
    let enough = |samples: usize| {
        let time = if samples < LEAST_SAMPLES { effort.cpu_patience } else { effort.cpu_budget };
        samples >= effort.cpu_samples || (samples > 0 && begin.elapsed() >= time)
    };
    while !enough(warm_ns.len()) {
        let start = ThreadTime::now();
        let outputs = problem.operation.reference(&problem.case, &problem.inputs)?;
        if let Some(factor) = effort.slow_down {
            let until = start.elapsed().mul_f64(factor);
            while start.elapsed() < until {
                std::hint::spin_loop();
            }
        }
        warm_ns.push(start.elapsed().as_secs_f64() * 1e9);
        std::hint::black_box(outputs);
    }
    let outputs: usize = problem
        .expected
        .iter()
        .map(|(_, e)| e.shape().iter().product::<usize>() * e.dtype().bytes())
        .sum();
    Ok(Measurement {
        clock: "thread CPU time".into(),
        warm_ns,
        peak_bytes: (problem.inputs.bytes() + outputs) as u64,
        ..Measurement::default()
    })
}
