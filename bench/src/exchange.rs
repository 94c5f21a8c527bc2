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
//!
//! Files are read by their header first, so a file that does not fit costs no more memory than its header.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap},
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use anyhow::{Context, bail, ensure};
use safetensors::{
    Dtype, View,
    tensor::{Metadata, TensorInfo},
};
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::json;
use touchstone_reference::{
    Case, DType, Discrete, Expected, Outputs, Real, Tensor, Tensors, operation,
};

use crate::{
    agreement::same_bits,
    verify::{self, Problem, Verdict},
    workload::Workload,
};

/// Name of threads whose panics are caught and become errors: a program may keep them from printing.
pub const UNTRUSTED: &str = "untrusted inputs";

/// Version of the exported form. Readers of other languages may look at it; we only read tensors back.
pub const SCHEMA: u32 = 1;

/// Longest header that is read: room for some hundred thousand tensors.
const MAX_HEADER_BYTES: u64 = 16 << 20;

/// A safetensors file, of which the header has been read and found consistent.
#[derive(Debug)]
pub struct Archive<R> {
    name: String,
    source: R,
    data: u64,
    metadata: Metadata,
}

impl Archive<File> {
    /// Opens a file.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let name = path.display().to_string();
        let file = File::open(path).with_context(|| format!("cannot read {name}"))?;
        Self::new(&name, file)
    }
}

impl<R: Read + Seek> Archive<R> {
    /// Reads the header from the start of `source`; `name` stands for it in errors.
    ///
    /// # Errors
    /// If the header is cut off, too long, no JSON, names a tensor twice, gives one a size that does not fit
    /// its shape, lets tensors overlap or leave gaps, or does not fit the length of the file.
    pub fn new(name: &str, mut source: R) -> anyhow::Result<Self> {
        let at = || format!("{name}: not a safetensors file");
        let length = source.seek(SeekFrom::End(0)).with_context(at)?;
        source.rewind().with_context(at)?;
        let mut size = [0; 8];
        source.read_exact(&mut size).context("shorter than 8 bytes").with_context(at)?;
        let size = u64::from_le_bytes(size);
        if size > MAX_HEADER_BYTES {
            bail!("{}: its header would have {size} bytes, more than {MAX_HEADER_BYTES}", at());
        }
        if size + 8 > length {
            bail!("{}: its header would have {size} bytes, the file has {length}", at());
        }
        let mut header = vec![0; size as usize];
        source.read_exact(&mut header).with_context(at)?;
        refuse_duplicates(&header).context("its header").with_context(at)?;
        let metadata: Metadata =
            serde_json::from_slice(&header).context("its header").with_context(at)?;
        let needed = metadata.data_len() as u64;
        let data = 8 + size;
        ensure!(
            length - data == needed,
            "{name}: its tensors take {needed} bytes, the file holds {} (cut off, or something was appended)",
            length - data
        );
        Ok(Self { name: name.to_string(), source, data, metadata })
    }

    /// Names of the tensors, in the order of the file.
    pub fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    /// What the header says of a tensor.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.metadata.info(name)
    }

    /// The text under a key of the file's metadata.
    pub fn note(&self, key: &str) -> Option<&str> {
        self.metadata.metadata().as_ref()?.get(key).map(String::as_str)
    }

    /// Reads a tensor, if it has this type and shape.
    ///
    /// # Errors
    /// If it is missing, of another type or shape, or cannot be read.
    pub fn tensor(&mut self, name: &str, dtype: DType, shape: &[usize]) -> anyhow::Result<Tensor> {
        let at = format!("{}: tensor '{name}'", self.name);
        let info = self.metadata.info(name).with_context(|| format!("{at} is missing"))?;
        ensure!(
            info.dtype == to_file(dtype) && info.shape == shape,
            "{at} is {} {:?}, the case has {} {shape:?}",
            from_file(info.dtype).map_or_else(|| info.dtype.to_string(), |d| d.name().to_string()),
            info.shape,
            dtype.name()
        );
        let (begin, end) = info.data_offsets;
        let mut bytes = vec![0; end - begin];
        self.source
            .seek(SeekFrom::Start(self.data + begin as u64))
            .and_then(|_| self.source.read_exact(&mut bytes))
            .context(at)?;
        Ok(Tensor::from_bytes(dtype, shape, &bytes))
    }
}

/// JSON lets a name come twice and readers keep one of the two; here it is an error.
fn refuse_duplicates(header: &[u8]) -> Result<(), serde_json::Error> {
    struct Names;

    impl<'de> Visitor<'de> for Names {
        type Value = ();

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object of tensors")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
            let mut seen = BTreeSet::new();
            while let Some((name, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
                if seen.contains(&name) {
                    let problem = format!("tensor '{name}' is there twice");
                    return Err(serde::de::Error::custom(problem));
                }
                seen.insert(name);
            }
            Ok(())
        }
    }

    serde_json::Deserializer::from_slice(header).deserialize_map(Names)
}

/// The type's name in safetensors.
const fn to_file(dtype: DType) -> Dtype {
    match dtype {
        DType::F64 => Dtype::F64,
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::Bf16 => Dtype::BF16,
        DType::I8 => Dtype::I8,
        DType::U8 => Dtype::U8,
        DType::I32 => Dtype::I32,
        DType::U32 => Dtype::U32,
        DType::I64 => Dtype::I64,
        DType::U64 => Dtype::U64,
    }
}

/// Our type of a safetensors type, if we have it.
fn from_file(dtype: Dtype) -> Option<DType> {
    use DType::{Bf16, F16, F32, F64, I8, I32, I64, U8, U32, U64};
    [F64, F32, F16, Bf16, I8, U8, I32, U32, I64, U64].into_iter().find(|&d| to_file(d) == dtype)
}

/// A tensor as the safetensors crate wants to see it.
struct Entry<'a>(Cow<'a, Tensor>);

impl View for Entry<'_> {
    fn dtype(&self) -> Dtype {
        to_file(self.0.dtype())
    }

    fn shape(&self) -> &[usize] {
        self.0.shape()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(self.0.as_bytes())
    }

    fn data_len(&self) -> usize {
        self.0.bytes()
    }
}

/// Writes tensors and one note to a new file, which appears under its name only when it is whole.
fn write(
    path: &Path,
    entries: Vec<(String, Entry<'_>)>,
    note: Option<(&str, String)>,
) -> anyhow::Result<()> {
    let at = || format!("cannot write {}", path.display());
    if path.exists() {
        bail!("{}: it exists, and is not overwritten", at());
    }
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let metadata = note.map(|(key, text)| HashMap::from([(key.to_string(), text)]));
    let written = safetensors::serialize_to_file(entries, metadata, Path::new(&partial))
        .map_err(anyhow::Error::from)
        .and_then(|()| Ok(std::fs::rename(&partial, path)?));
    if written.is_err() {
        // Nothing more can be done about it when even this fails.
        let _ = std::fs::remove_file(&partial);
    }
    written.with_context(at)
}

/// Writes tensors under their names to a new file: answers, say.
///
/// # Errors
/// If the file exists or cannot be written.
pub fn write_tensors(path: &Path, tensors: &Tensors) -> anyhow::Result<()> {
    let entry = |(name, t): (&str, _)| (name.to_string(), Entry(Cow::Borrowed(t)));
    write(path, tensors.iter().map(entry).collect(), None)
}

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
