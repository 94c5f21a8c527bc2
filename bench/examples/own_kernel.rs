//! A program of one's own that checks a kernel of one's own: touchstone as a library.
//!
//! ```sh
//! cargo run --example own_kernel -- bench/examples/cuda/recurrence.toml \
//!     ssm.recurrence:batch=2,seq_len=33,channels=5,field=real,dtype=f32
//! ```

use std::{path::Path, sync::Arc};

use touchstone_bench::{Outcome, Problem, Record, Runner, Task};
use touchstone_cuda::Custom;

/// Runs the kernel that a TOML file describes beside our own variants of its operation.
pub fn check(kernel: &Path, case: &str) -> anyhow::Result<Vec<Record>> {
    let kernel = Custom::read(kernel)?;
    let problem = Problem::new(&case.parse()?)?;
    let mut runner = Runner::new(0, false)?;
    runner.own.push(Arc::new(kernel));
    Ok(runner.problem("mine", &problem, Task::Check))
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kernel, case] = arguments.as_slice() else { anyhow::bail!("usage: own_kernel TOML CASE") };
    for record in check(Path::new(kernel), case)? {
        let said = match record.outcome {
            Outcome::Checked { .. } | Outcome::Measured { .. } => "right".to_string(),
            Outcome::Skipped { reason } => format!("not run: {reason}"),
            Outcome::Wrong { complaint, .. } => format!("WRONG: {complaint}"),
            Outcome::Failed { error } => format!("FAILED: {error}"),
        };
        println!("{:<16} {said}", record.variant);
    }
    Ok(())
}
