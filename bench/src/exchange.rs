//! Problems and answers as safetensors files: how a kernel in any language meets the reference.
//!
//! An exported problem holds
//!
//! | tensor | shape | type | meaning |
//! |---|---|---|---|
//! | `inputs.NAME` | the input's | the input's | what the kernel reads |
//! | `expected.NAME` | the output's, or `[sampled]` | f64; of a discrete output its own | the right values |
//! | `bound.NAME` | as `expected.NAME` | f64 | largest permitted error of each, of real outputs |
//! | `at.NAME` | `[sampled]` | i64 | row-major indices of the values, where only a sample is known |
//! | `also.NAME.at`, `also.NAME.value` | `[ties]` | i64 | other values that are also right, of discrete outputs |
//!
//! and, under the metadata key `touchstone`, a JSON object: schema version, case, operation, parameters, where
//! the inputs came from, type and shape of every output, and the workloads that ask the case.
//!
//! A file of answers holds each output under its name; a file of inputs holds some or all inputs under
//! theirs, or is an exported problem.

mod archive;

use std::{borrow::Cow, fs::File, path::Path};

use anyhow::{Context, bail, ensure};
use serde_json::json;
use touchstone_reference::{
    Case, DType, Discrete, Expected, Outputs, Real, Tensor, Tensors, operation,
};

pub use archive::{Archive, write_tensors};

use crate::{
    agreement::same_bits,
    verify::{self, Problem, Verdict},
    workload::Workload,
};
use archive::{Entry, write};

/// Name of threads whose panics are caught and become errors: a program may keep them from printing.
pub const UNTRUSTED: &str = "untrusted inputs";

/// Version of the exported form. Readers of other languages may look at it; we only read tensors back.
pub const SCHEMA: u32 = 1;

/// Writes a problem to a new file. `workloads` are searched for those that ask its case.
///
/// # Errors
/// If the file exists or cannot be written.
pub fn export(problem: &Problem, workloads: &[Workload], path: &Path) -> anyhow::Result<()> {
    let mut entries: Vec<(String, Entry<'_>)> = problem
        .inputs
        .iter()
        .map(|(name, tensor)| (format!("inputs.{name}"), Entry(Cow::Borrowed(tensor))))
        .collect();
    for (name, expected) in problem.expected.iter() {
        let tensors = match expected {
            Expected::Real(real) => real_entries(name, real),
            Expected::Discrete(discrete) => discrete_entries(name, discrete),
        };
        entries.extend(tensors.into_iter().map(|(name, t)| (name, Entry(Cow::Owned(t)))));
    }
    write(path, entries, Some(("touchstone", describe(problem, workloads).to_string())))
}

fn real_entries(name: &str, real: &Real) -> Vec<(String, Tensor)> {
    let sampled = [real.value.len()];
    let shape = if real.at.is_some() { &sampled[..] } else { &real.shape };
    let f64s = |values| Tensor::from_real(DType::F64, shape, values);
    let mut entries = vec![
        (format!("expected.{name}"), f64s(&real.value)),
        (format!("bound.{name}"), f64s(&real.bound)),
    ];
    if let Some(at) = &real.at {
        let at: Vec<i64> = at.iter().map(|&i| i as i64).collect();
        entries.push((format!("at.{name}"), Tensor::from_integers(DType::I64, &sampled, &at)));
    }
    entries
}

fn discrete_entries(name: &str, discrete: &Discrete) -> Vec<(String, Tensor)> {
    let Discrete { dtype, shape, value, also } = discrete;
    let mut entries =
        vec![(format!("expected.{name}"), Tensor::from_integers(*dtype, shape, value))];
    if !also.is_empty() {
        let ties =
            also.iter().flat_map(|(&at, values)| values.iter().map(move |&v| (at as i64, v)));
        let (at, values): (Vec<i64>, Vec<i64>) = ties.unzip();
        let i64s = |values: &[i64]| Tensor::from_integers(DType::I64, &[values.len()], values);
        entries.push((format!("also.{name}.at"), i64s(&at)));
        entries.push((format!("also.{name}.value"), i64s(&values)));
    }
    entries
}

fn describe(problem: &Problem, workloads: &[Workload]) -> serde_json::Value {
    let asked = workloads
        .iter()
        .filter(|w| w.cases.contains(&problem.case))
        .map(|w| json!({ "name": w.name, "why": w.why }));
    let output = |(name, expected): (&str, &Expected)| {
        let (kind, sampled) = match expected {
            Expected::Real(real) => ("real", real.at.is_some()),
            Expected::Discrete(_) => ("discrete", false),
        };
        let described = json!({
            "dtype": expected.dtype().name(),
            "shape": expected.shape(),
            "kind": kind,
            "sampled": sampled,
        });
        (name.to_string(), described)
    };
    let typed = |text: String| serde_json::from_str(&text).unwrap_or_else(|_| json!(text));
    let parameters = problem.case.fields().map(|(key, value)| (key.to_string(), typed(value)));
    json!({
        "schema": SCHEMA,
        "case": problem.case.to_string(),
        "operation": problem.operation.name,
        "summary": problem.operation.summary,
        "parameters": parameters.collect::<serde_json::Map<_, _>>(),
        "inputs": problem.source,
        "outputs": problem.expected.iter().map(output).collect::<serde_json::Map<_, _>>(),
        "workloads": asked.collect::<Vec<_>>(),
    })
}

/// Reads the answers to a problem.
///
/// # Errors
/// Names the file and the output that is missing, unknown, or of the wrong type or shape.
pub fn read_outputs(expected: &Outputs, path: &Path) -> anyhow::Result<Tensors> {
    let mut archive = Archive::open(path)?;
    let known: Vec<&str> = expected.iter().map(|(name, _)| name).collect();
    if let Some(extra) = archive.names().iter().find(|name| !known.contains(&name.as_str())) {
        bail!(
            "{}: the operation has no output '{extra}'; its outputs are: {}",
            path.display(),
            known.join(", ")
        );
    }
    let mut outputs = Tensors::new();
    for (name, expected) in expected.iter() {
        outputs.insert(name, archive.tensor(name, expected.dtype(), expected.shape())?);
    }
    Ok(outputs)
}

/// A case's inputs with those replaced that a file holds, and the file's name and hash. The file names them
/// as the operation does, or is an exported problem.
///
/// # Errors
/// Names the file and the input that is unknown, or of another type or shape than the case draws.
pub fn read_inputs(case: &Case, path: &Path) -> anyhow::Result<(Tensors, String)> {
    let mut inputs = operation(case)?.inputs(case)?;
    let mut archive = Archive::open(path)?;
    let names = archive.names();
    let is_export = names.iter().any(|name| name.starts_with("inputs."));
    let mut replaced = 0;
    for name in &names {
        let input = match name.strip_prefix("inputs.") {
            None if is_export => continue,
            stripped => stripped.unwrap_or(name),
        };
        let Some(drawn) = inputs.get(input) else {
            let known: Vec<&str> = inputs.iter().map(|(name, _)| name).collect();
            bail!(
                "{}: the case has no input '{input}'; its inputs are: {}",
                path.display(),
                known.join(", ")
            );
        };
        let tensor = archive.tensor(name, drawn.dtype(), drawn.shape())?;
        inputs.insert(input, tensor);
        replaced += 1;
    }
    ensure!(replaced > 0, "{}: no tensor in it", path.display());
    let file_name = path.file_name().unwrap_or_default().to_string_lossy();
    Ok((inputs, format!("file:{file_name} blake3:{}", hash(path)?)))
}

/// The first 16 hexadecimal digits of a file's BLAKE3 hash.
fn hash(path: &Path) -> anyhow::Result<String> {
    let mut hasher = blake3::Hasher::new();
    File::open(path)
        .and_then(|file| hasher.update_reader(file).map(drop))
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(hasher.finalize().to_hex()[..16].to_string())
}

/// The problem of a case with inputs from a file.
///
/// # Errors
/// As [`read_inputs`]; and if the reference cannot take the inputs (an index out of range, say) or gives NaN
/// for them, since then nothing can be held against it.
pub fn problem(case: &Case, path: &Path) -> anyhow::Result<Problem> {
    let case = operation(case)?.normalize(case)?;
    let (inputs, source) = read_inputs(&case, path)?;
    // The references trust what is drawn. On a thread of its own a panic has its message and stays there.
    let solved = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name(UNTRUSTED.into());
        let solve = || Problem::with_inputs(&case, inputs, &source);
        thread.spawn_scoped(scope, solve).map(std::thread::ScopedJoinHandle::join)
    })?;
    let problem = solved.unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked");
        bail!("{}: the reference cannot take these inputs: {said}", path.display())
    })?;
    if let Some(name) = problem.indefinite_output() {
        bail!(
            "{}: for these inputs the reference's '{name}' holds NaN or an infinite bound",
            path.display()
        );
    }
    Ok(problem)
}

/// Holds answers against the reference, as the outputs of our own kernels are. With those of a second run the
/// agreement says whether the bits repeat.
pub fn judge(problem: &Problem, first: &Tensors, second: Option<&Tensors>) -> Verdict {
    let mut verdict = verify::judge(problem, first);
    if let (Verdict::Right(agreement), Some(second)) = (&mut verdict, second) {
        agreement.repeatable =
            first.iter().all(|(name, tensor)| same_bits(tensor, second.tensor(name)));
        if let wrong @ Verdict::Wrong(..) = verify::judge(problem, second) {
            return wrong;
        }
    }
    verdict
}
