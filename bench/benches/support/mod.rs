//! What every bench target does: the quick workloads of one vertical, through the reference and every
//! CUDA variant, each proven before it is timed.

use std::time::Duration;

use criterion::Criterion;
use touchstone_bench::{
    Problem, Tier,
    verify::{self, Verdict},
    workload,
};
use touchstone_cuda::{Gpu, Variant, gpu::Absent, variants};

/// Runs the quick workloads of `vertical` under criterion.
///
/// # Panics
/// If a workload file is malformed or a variant is wrong: a benchmark of it would be meaningless.
pub fn bench(vertical: &str) {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(300))
        .configure_from_args();
    let gpu = Gpu::open(0);
    let workloads = workload::embedded().expect("the embedded workloads are well formed");
    for workload in workloads {
        let ours = workload.op.split('.').next() == Some(vertical);
        if !ours || workload.tier != Tier::Quick {
            continue;
        }
        for case in &workload.cases {
            let problem = Problem::new(case).expect("a workload's case is valid");
            reference(&mut criterion, &problem);
            for variant in variants().filter(|v| v.op == workload.op) {
                cuda(&mut criterion, &problem, variant, gpu.as_ref());
            }
        }
    }
    criterion.final_summary();
}

fn id(problem: &Problem, variant: &str) -> String {
    let case = problem.case.to_string();
    let params = case.split_once(':').map_or(case.as_str(), |(_, params)| params);
    format!("{variant}/{}", params.replace(',', " "))
}

fn reference(criterion: &mut Criterion, problem: &Problem) {
    let mut group = criterion.benchmark_group(problem.case.op());
    group.bench_function(id(problem, "reference"), |bencher| {
        bencher.iter(|| problem.operation.reference(&problem.case, &problem.inputs));
    });
    group.finish();
}

fn cuda(
    criterion: &mut Criterion,
    problem: &Problem,
    variant: &Variant,
    gpu: Result<&Gpu, &Absent>,
) {
    let id = id(problem, variant.name);
    let skip = |reason: &str| println!("{}/{}: skipped: {reason}", problem.case.op(), id);
    let plan = match verify::plan(variant, problem) {
        Ok(plan) => plan,
        Err(reason) => return skip(&reason),
    };
    let gpu = match gpu {
        Ok(gpu) => gpu,
        Err(absent) => return skip(&absent.to_string()),
    };
    let prepared = match verify::prepare(gpu, &plan).expect("the device takes the plan") {
        Ok(prepared) => prepared,
        Err(reason) => return skip(&reason),
    };
    let verdict = verify::verify(&prepared, problem, variant.deterministic);
    match verdict.expect("the device runs the plan") {
        Verdict::Right(_) => {}
        wrong => panic!("{variant:?} on {}: {wrong:?}", problem.case),
    }
    let mut group = criterion.benchmark_group(problem.case.op());
    group.bench_function(id, |bencher| {
        bencher.iter_custom(|iterations| {
            let ns = prepared.elapsed_ns(iterations as usize).expect("the device runs the plan");
            Duration::from_nanos(ns as u64)
        });
    });
    group.finish();
    let again = verify::verify_again(&prepared, problem).expect("the device runs the plan");
    assert_eq!(again, None, "{variant:?} on {}", problem.case);
}
