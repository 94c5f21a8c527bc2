//! Runs cases through every variant and makes records of what came of it.

use std::{
    collections::{HashMap, VecDeque},
    path::PathBuf,
    sync::Arc,
};

use touchstone_cuda::{
    Custom, Gpu, Plan, Simulator, Variant,
    custom::NoPlan,
    simulator::{cost::Cost, kernel},
    variants,
};
use touchstone_reference::{Case, Work};

use crate::{
    agreement::Agreement,
    environment::Environment,
    exchange,
    measure::{self, Effort},
    nan,
    record::{Executor, Outcome, Record, SCHEMA, WorkRecord},
    verify::{self, Problem, Verdict},
};

/// Draws inputs and computes references of `cases` on threads of their own, up to `ahead` cases beyond the one
/// that `done` is busy with, and hands each to `done` in order. With `ahead` 0 nothing else runs beside `done`.
///
/// # Errors
/// The first error of `done`; a case that cannot be solved is handed to it as its error.
pub fn solve_ahead<'c, T>(
    cases: &'c [T],
    case_of: impl Fn(&'c T) -> &'c Case,
    ahead: usize,
    mut done: impl FnMut(&'c T, anyhow::Result<Problem>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    std::thread::scope(|scope| {
        let (mut solving, mut upcoming) = (VecDeque::new(), cases.iter());
        loop {
            while solving.len() <= ahead
                && let Some(next) = upcoming.next()
            {
                let case = case_of(next);
                solving.push_back((next, scope.spawn(move || Problem::new(case))));
            }
            let Some((item, thread)) = solving.pop_front() else { return Ok(()) };
            let panicked = |_| Err(anyhow::anyhow!("the reference panicked"));
            done(item, thread.join().unwrap_or_else(panicked))?;
        }
    })
}

/// What to do with each case.
#[derive(Clone, Copy, Debug)]
pub enum Task {
    /// Verify only.
    Check,
    /// Verify, then measure.
    Measure(Effort),
}

/// One way to compute an operation on the device.
enum Way {
    Ours(&'static Variant),
    Own(Arc<Custom>),
}

impl Way {
    fn name(&self) -> String {
        match self {
            Self::Ours(variant) => variant.name.to_string(),
            Self::Own(own) => own.name(),
        }
    }

    fn deterministic(&self) -> bool {
        match self {
            Self::Ours(variant) => variant.deterministic,
            Self::Own(own) => own.deterministic(),
        }
    }

    /// Whether it is the first of our ladder, whose error the others' are held against.
    fn is_naive(&self) -> bool {
        match self {
            Self::Ours(v) => variants().find(|w| w.op == v.op).is_some_and(|w| w.name == v.name),
            Self::Own(_) => false,
        }
    }

    fn plan(&self, problem: &Problem) -> Result<Plan, NoPlan> {
        match self {
            Self::Ours(variant) => verify::plan(variant, problem).map_err(NoPlan::Unsupported),
            Self::Own(own) => own.plan(&problem.case, &problem.inputs, &problem.expected),
        }
    }
}

/// Runs cases in one environment.
#[derive(Debug)]
pub struct Runner {
    gpu: Result<Gpu, String>,
    environment: Environment,
    /// Whether the naive references are timed too. They are not beside a GPU's sampled large cases.
    pub time_references: bool,
    /// Only variants whose name contains this; `reference` is one.
    pub only_variant: Option<String>,
    /// Runs our variants on it too, in records of their own with exact costs.
    pub simulator: Option<Simulator>,
    /// The user's own kernels, which run after our variants of their operation.
    pub own: Vec<Arc<Custom>>,
    /// Folder for what variants computed, as safetensors files: see [`Runner::kept_file`].
    pub keep: Option<PathBuf>,
    /// Whether every variant is asked too what it makes of a NaN in each of its inputs: see [`nan`].
    pub asks_nan: bool,
    /// How many such questions were answered with NaN.
    pub nans_through: usize,
}

impl Runner {
    /// A runner on device `ordinal`, or without a GPU when there is none.
    ///
    /// # Errors
    /// If the device's limits cannot be measured.
    pub fn new(ordinal: usize, measure_limits: bool) -> anyhow::Result<Self> {
        let gpu = Gpu::open(ordinal).map_err(|absent| absent.to_string());
        let mut environment = Environment::of_host();
        if let Ok(gpu) = &gpu {
            environment.describe_device(gpu, measure_limits)?;
        }
        Ok(Self {
            gpu,
            environment,
            time_references: true,
            only_variant: None,
            simulator: None,
            own: Vec::new(),
            keep: None,
            asks_nan: false,
            nans_through: 0,
        })
    }

    /// Name of the file in which [`Runner::keep`] holds what a variant computed.
    pub fn kept_file(case: &Case, variant: &str, executor: Executor) -> String {
        let hash = blake3::hash(format!("{variant} {case}").as_bytes()).to_hex();
        let on = if executor == Executor::Simulator { "-simulator" } else { "" };
        format!("{}-{}{on}-{}.safetensors", case.op(), variant.replace(':', "-"), &hash[..12])
    }

    /// Writes what a proven variant computed, its outputs in the reference's order.
    fn keep_outputs(
        &self,
        prepared: &impl touchstone_cuda::Prepared,
        problem: &Problem,
        variant: &str,
        executor: Executor,
    ) -> anyhow::Result<()> {
        let Some(folder) = &self.keep else { return Ok(()) };
        std::fs::create_dir_all(folder)?;
        let outputs = problem.operation.canonical(&problem.case, prepared.outputs()?)?;
        let file = folder.join(Self::kept_file(&problem.case, variant, executor));
        exchange::write_tensors(&file, &outputs)
    }

    /// The environment that records carry.
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// The GPU, or why there is none.
    ///
    /// # Errors
    /// The reason.
    pub fn gpu(&self) -> Result<&Gpu, &str> {
        self.gpu.as_ref().map_err(String::as_str)
    }

    /// All ways to compute an operation on the device that [`Runner::only_variant`] lets through: our
    /// variants, then the user's own kernels.
    fn ways(&self, op: &str) -> Vec<Way> {
        let ours = variants().filter(|v| v.op == op).map(Way::Ours);
        let own = self.own.iter().filter(|own| own.op() == op).cloned().map(Way::Own);
        ours.chain(own).filter(|way| self.wants(&way.name())).collect()
    }

    fn wants(&self, name: &str) -> bool {
        self.only_variant.as_ref().is_none_or(|only| name.contains(only.as_str()))
    }

    /// Runs a drawn case, already made a problem or refused, through the reference and every variant.
    pub fn case(
        &mut self,
        workload: &str,
        case: &Case,
        problem: anyhow::Result<Problem>,
        task: Task,
    ) -> Vec<Record> {
        match problem {
            Ok(problem) => self.problem(workload, &problem, task),
            Err(error) => {
                let record = self.bare_record(workload, case, "drawn", "reference", Executor::Cpu);
                vec![Record { outcome: Outcome::Failed { error: format!("{error:#}") }, ..record }]
            }
        }
    }

    /// Runs a problem, whose inputs may come from anywhere, through the reference and every variant.
    pub fn problem(&mut self, workload: &str, problem: &Problem, task: Task) -> Vec<Record> {
        let work = problem.operation.work(&problem.case, &problem.inputs).unwrap_or_default();
        let mut records = Vec::new();
        if self.wants("reference") && self.time_references {
            records.push((Executor::Cpu, "reference".into(), reference_outcome(problem, task)));
        }
        let questions = self.questions(problem).unwrap_or_else(|error| {
            let error = format!("the reference refuses a NaN among the inputs: {error:#}");
            records.push((Executor::Cpu, "reference".into(), Outcome::Failed { error }));
            Vec::new()
        });
        let mut costs = HashMap::new();
        let mut naive: Option<Agreement> = None;
        for way in self.ways(problem.case.op()) {
            // The plan is made even without a GPU, so that "not supported" is told from "not run".
            let plan = way.plan(problem).map_err(|refusal| match refusal {
                NoPlan::Unsupported(reason) => Outcome::Skipped { reason },
                NoPlan::Misfit(_) => Outcome::Failed { error: refusal.to_string() },
            });
            let outcome = match &plan {
                Ok(plan) => self.cuda_outcome(plan, &way, problem, &questions, &work, task),
                Err(refused) => refused.clone(),
            };
            let outcome = beside_naive(outcome, naive.as_ref(), problem);
            if way.is_naive() {
                naive = outcome.proof().cloned();
            }
            records.push((Executor::Cuda, way.name(), outcome));
            if let Some(simulator) = &self.simulator {
                let (outcome, cost) = match plan {
                    Ok(plan) => self.simulated(simulator, &plan, problem, &questions, &way),
                    Err(refused) => (refused, None),
                };
                records.push((Executor::Simulator, way.name(), outcome));
                costs.extend(cost.map(|cost| (way.name(), cost)));
            }
        }
        let proven = records.iter().filter(|(executor, _, outcome)| {
            *executor != Executor::Cpu && outcome.proof().is_some()
        });
        self.nans_through += proven.count() * questions.len();
        let unit = problem.operation.items;
        let finish = |(executor, name, outcome): (Executor, String, Outcome)| Record {
            outcome,
            cost: costs.get(&name).filter(|_| executor == Executor::Simulator).cloned(),
            work: Some(WorkRecord::new(&work, unit)),
            ..self.bare_record(workload, &problem.case, &problem.source, &name, executor)
        };
        records.into_iter().map(finish).collect()
    }

    /// What variants are asked about NaN, if they are.
    fn questions(&self, problem: &Problem) -> anyhow::Result<Vec<nan::Question>> {
        if self.asks_nan { nan::questions(problem, 0.5) } else { Ok(Vec::new()) }
    }

    fn bare_record(
        &self,
        workload: &str,
        case: &Case,
        inputs: &str,
        variant: &str,
        executor: Executor,
    ) -> Record {
        let mut environment = self.environment.clone();
        if executor != Executor::Cuda {
            environment.device = None;
        }
        Record {
            schema: SCHEMA,
            workload: workload.to_string(),
            case: case.to_string(),
            inputs: inputs.to_string(),
            variant: variant.to_string(),
            executor,
            environment,
            work: None,
            trial: None,
            cost: None,
            outcome: Outcome::Skipped { reason: String::new() },
        }
    }

    fn cuda_outcome(
        &mut self,
        plan: &Plan,
        way: &Way,
        problem: &Problem,
        questions: &[nan::Question],
        work: &Work,
        task: Task,
    ) -> Outcome {
        let gpu = match &self.gpu {
            Ok(gpu) => gpu,
            Err(reason) => return Outcome::Skipped { reason: reason.clone() },
        };
        let limits = self.environment.device.as_ref().and_then(|d| d.limits.as_ref());
        let run = || -> anyhow::Result<Outcome> {
            let (prepared, agreement) = match proven(gpu, plan, problem, questions, way)? {
                Ok(proven) => proven,
                Err(outcome) => return Ok(outcome),
            };
            self.keep_outputs(&prepared, problem, &way.name(), Executor::Cuda)?;
            let Task::Measure(effort) = task else { return Ok(Outcome::Checked { agreement }) };
            let mut measurement = measure::cuda(&prepared, plan, work, limits, effort)?;
            if let Some(factor) = effort.slow_down {
                let median = measurement.median_ns().unwrap_or(f64::NAN);
                let Some(slow) = measure::slowed_down(gpu, plan, median, factor)? else {
                    let reason = "too short to be slowed down by a launch".into();
                    return Ok(Outcome::Skipped { reason });
                };
                let prepared = gpu.prepare(&slow)?;
                prepared.run()?;
                measurement = measure::cuda(&prepared, &slow, work, limits, effort)?;
            }
            Ok(match verify::verify_again(&prepared, problem)? {
                Some(complaint) => Outcome::Wrong { agreement: Some(agreement), complaint },
                None => Outcome::Measured { agreement, measurement },
            })
        };
        let outcome = run().unwrap_or_else(|e| Outcome::Failed { error: format!("{e:#}") });
        if matches!(outcome, Outcome::Failed { .. }) && !gpu.is_healthy() {
            self.reopen();
        }
        outcome
    }

    /// What comes of a plan on the simulator, with its cost when it is right.
    fn simulated(
        &self,
        simulator: &Simulator,
        plan: &Plan,
        problem: &Problem,
        questions: &[nan::Question],
        way: &Way,
    ) -> (Outcome, Option<Cost>) {
        let run = || -> anyhow::Result<(Outcome, Option<Cost>)> {
            Ok(match proven(simulator, plan, problem, questions, way)? {
                Ok((prepared, agreement)) => {
                    self.keep_outputs(&prepared, problem, &way.name(), Executor::Simulator)?;
                    (Outcome::Checked { agreement }, prepared.cost())
                }
                Err(outcome) => (outcome, None),
            })
        };
        run().unwrap_or_else(|error| {
            let outcome = match (way, error.downcast_ref()) {
                // A kernel from elsewhere may have any instruction.
                (Way::Own(_), Some(unknown @ kernel::Error::UnknownInstruction { .. })) => {
                    Outcome::Skipped { reason: unknown.to_string() }
                }
                _ => Outcome::Failed { error: format!("{error:#}") },
            };
            (outcome, None)
        })
    }

    /// Opens the device again after a kernel has destroyed its context.
    fn reopen(&mut self) {
        let ordinal = self.gpu.as_ref().map_or(0, |gpu| gpu.properties().ordinal);
        // The old context must be gone before the new one is made.
        self.gpu = Err("the device is being reopened".into());
        self.gpu =
            Gpu::open(ordinal).map_err(|absent| format!("lost after a failed kernel: {absent}"));
    }
}

/// A plan made ready and found right on an executor, NaN where it is asked about it included; or the outcome that it is not.
fn proven<'e, E: touchstone_cuda::Executor>(
    executor: &'e E,
    plan: &'e Plan,
    problem: &Problem,
    questions: &[nan::Question],
    way: &Way,
) -> anyhow::Result<Result<(E::Prepared<'e>, Agreement), Outcome>> {
    let prepared = match verify::prepare(executor, plan)? {
        Ok(prepared) => prepared,
        Err(reason) => return Ok(Err(Outcome::Skipped { reason })),
    };
    let agreement = match verify::verify(&prepared, problem, way.deterministic())? {
        Verdict::Right(agreement) => agreement,
        Verdict::Wrong(agreement, complaint) => {
            return Ok(Err(Outcome::Wrong { agreement, complaint }));
        }
    };
    Ok(match nan::hidden(executor, questions, |asked| way.plan(asked))? {
        Some(complaint) => Err(Outcome::Wrong { agreement: Some(agreement), complaint }),
        None => Ok((prepared, agreement)),
    })
}

/// Turns a right outcome into a wrong one when its error is out of proportion to the naive variant's.
fn beside_naive(outcome: Outcome, naive: Option<&Agreement>, problem: &Problem) -> Outcome {
    let Some((agreement, naive)) = outcome.proof().zip(naive) else { return outcome };
    match agreement.worse_than_naive(naive, &problem.expected) {
        Some(complaint) => Outcome::Wrong { agreement: Some(agreement.clone()), complaint },
        None => outcome,
    }
}

/// The reference is right by definition; its record carries times, and that its values are numbers.
fn reference_outcome(problem: &Problem, task: Task) -> Outcome {
    if let Some(name) = problem.indefinite_output() {
        let error = format!("the reference's '{name}' holds NaN or an infinite bound");
        return Outcome::Failed { error };
    }
    let agreement = Agreement { outputs: Vec::new(), repeatable: true };
    match task {
        Task::Check => Outcome::Checked { agreement },
        Task::Measure(effort) => match measure::reference(problem, effort) {
            Ok(measurement) => Outcome::Measured { agreement, measurement },
            Err(error) => Outcome::Failed { error: format!("{error:#}") },
        },
    }
}

impl WorkRecord {
    fn new(work: &Work, unit: &str) -> Self {
        let Work { flops, bytes, items, matrix, eight_bit } = *work;
        Self { flops, bytes, items, item_unit: unit.to_string(), matrix, eight_bit }
    }
}
