//! What can be said of every plan without a GPU: it delivers the operation's outputs in their shapes, and
//! its launches fit the signatures of the kernels they name.

use touchstone_bench::{Problem, Workload};
use touchstone_bench::{Tier, verify::plan, workload};
use touchstone_cuda::{Plan, Role, Step, Variant, ptx, variants};

fn small_workloads() -> Vec<Workload> {
    let mut workloads = workload::embedded().unwrap();
    workloads.retain(|w| w.tier != Tier::Full);
    assert!(!workloads.is_empty());
    workloads
}

fn outputs_fit(plan: &Plan, problem: &Problem) -> Result<(), String> {
    let outputs: Vec<_> = plan.buffers().iter().filter(|b| b.role == Role::Output).collect();
    if outputs.len() != problem.expected.len() {
        return Err(format!("{} outputs, {} expected", outputs.len(), problem.expected.len()));
    }
    for output in outputs {
        let known = problem.expected.iter().find(|(name, _)| *name == output.name);
        let (_, expected) = known.ok_or_else(|| format!("unknown output '{}'", output.name))?;
        if output.shape != expected.shape() || output.dtype != expected.dtype() {
            return Err(format!(
                "'{}' is {:?} {:?}, expected {:?} {:?}",
                output.name,
                output.dtype,
                output.shape,
                expected.dtype(),
                expected.shape()
            ));
        }
    }
    Ok(())
}

fn launches_fit(plan: &Plan) -> Result<(), String> {
    for step in plan.steps() {
        let Step::Launch(launch) = step else { continue };
        let declared = ptx::signature(launch.module, &launch.symbol)
            .ok_or_else(|| format!("no kernel {}::{}", launch.module, launch.symbol))?;
        let given: Vec<usize> = launch.args.iter().map(|arg| arg.bytes()).collect();
        if given != declared {
            return Err(format!(
                "{} takes parameters of {declared:?} bytes, is given {given:?}",
                launch.symbol
            ));
        }
    }
    Ok(())
}

#[test]
fn every_plan_delivers_the_outputs_and_fits_its_kernels() {
    let mut complaints = Vec::new();
    let mut planned: Vec<(&Variant, usize)> = variants().map(|v| (v, 0)).collect();
    for workload in small_workloads() {
        for case in &workload.cases {
            let problem = Problem::new(case).unwrap_or_else(|e| panic!("{case}: {e:#}"));
            for (variant, count) in planned.iter_mut().filter(|(v, _)| v.op == workload.op) {
                let Ok(plan) = plan(variant, &problem) else { continue };
                *count += 1;
                let fit = outputs_fit(&plan, &problem).and_then(|()| launches_fit(&plan));
                complaints.extend(fit.err().map(|e| format!("{variant:?} on {case}: {e}")));
            }
        }
    }
    assert!(complaints.is_empty(), "{} misfits:\n{}", complaints.len(), complaints.join("\n"));
    for (variant, count) in planned {
        assert!(count > 0, "{variant:?} takes no case of the edge and quick workloads");
    }
}
