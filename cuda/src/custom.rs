//! A user's own kernel as a way to compute an operation: described by a TOML file, not by Rust code.
//!
//! ```toml
//! op = "ssm.recurrence"                  # the operation it computes
//! name = "mine"                          # records call it own:mine
//! idea = "one thread a channel"          # optional
//! source = "recurrence.cu"               # or a .ptx; beside this file
//! supports = 'field == "real"'           # optional: cases for which this is false are skipped
//! deterministic = true                   # optional: two runs must give equal bits
//!
//! [let]                                  # optional: named formulas
//! columns = "batch * channels"
//!
//! [[scratch]]                            # optional: memory for intermediate values
//! name = "carry"
//! dtype = "f32"
//! shape = ["batch", "div_ceil(seq_len, 64)"]
//!
//! [[launch]]                             # one or more, in order
//! symbol = "recurrence_{dtype}"          # {…} takes a parameter of the case
//! grid = ["div_ceil(columns, 128)"]      # blocks in x, y, z; what is left out is 1
//! block = [128]                          # threads in x, y, z
//! shared_bytes = 0                       # optional: dynamic shared memory
//! fill = { carry = 0 }                   # optional: set every byte of these buffers first
//! args = ["a", "x", "initial_state?", "h", { i64 = "batch" }, { f32 = "1.0 / sqrt(channels)" }]
//!
//! [compile]                              # optional, of a .cu
//! arch = "compute_90"                    # default: compute_80
//! include = ["include"]                  # folders beside this file, or absolute
//! options = ["--use_fast_math"]
//! ```
//!
//! A formula is a number or an expression over the case's parameters (`batch`, `dtype`), sizes of tensors
//! (`x.0` is the first axis of `x`, `x.len` its elements) and `[let]` names; besides operators it has
//! `div_ceil(a, b)`, `min`, `max`, `sqrt(a)` and `if(condition, a, b)`. An argument is the name of an input,
//! an output or scratch (with `?`: null when the case has no such tensor), `{ buffer = "x", offset_bytes =
//! "…" }`, or a number with its type: `i32`, `u32`, `i64`, `u64`, `f32`, `f64`.

mod formula;
mod source;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use touchstone_reference::{Case, DType, Outputs, Tensors, operations};

use crate::{
    plan::{Arg, BufferId, MAX_GRID, Plan, Step},
    ptx,
};
use formula::{Formula, Scope};

/// A user's kernel, loaded and ready to make plans.
#[derive(Clone, Debug)]
pub struct Custom {
    spec: Spec,
    module: &'static str,
}

/// The TOML file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Spec {
    op: String,
    name: String,
    #[serde(default)]
    idea: String,
    source: Option<PathBuf>,
    supports: Option<Formula>,
    #[serde(default = "yes")]
    deterministic: bool,
    #[serde(default)]
    r#let: BTreeMap<String, Formula>,
    #[serde(default)]
    scratch: Vec<Scratch>,
    launch: Vec<LaunchSpec>,
    #[serde(default)]
    compile: source::Compile,
}

const fn yes() -> bool {
    true
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Scratch {
    name: String,
    dtype: DType,
    shape: Vec<Formula>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LaunchSpec {
    symbol: Option<String>,
    grid: Vec<Formula>,
    block: Vec<Formula>,
    #[serde(default)]
    shared_bytes: Formula,
    #[serde(default)]
    fill: BTreeMap<String, u8>,
    args: Vec<ArgSpec>,
}

/// One argument as the file states it.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "toml::Value")]
enum ArgSpec {
    Buffer { name: String, optional: bool, offset_bytes: Formula },
    Number { kind: DType, value: Formula },
}

impl TryFrom<toml::Value> for ArgSpec {
    type Error = String;

    fn try_from(value: toml::Value) -> Result<Self, String> {
        let buffer = |text: &str, offset_bytes| {
            let name = text.strip_suffix('?');
            let optional = name.is_some();
            Self::Buffer { name: name.unwrap_or(text).to_string(), optional, offset_bytes }
        };
        let wanted = "an argument is \"NAME\", { buffer = \"NAME\", offset_bytes = … } or one number, \
                      { i32|u32|i64|u64|f32|f64 = … }";
        match value {
            toml::Value::String(name) => Ok(buffer(&name, Formula::default())),
            toml::Value::Table(mut table) => {
                let offset = table.remove("offset_bytes").map(Formula::try_from).transpose()?;
                let mut rest = table.into_iter();
                match (rest.next(), rest.next(), offset) {
                    (Some((key, toml::Value::String(name))), None, offset) if key == "buffer" => {
                        Ok(buffer(&name, offset.unwrap_or_default()))
                    }
                    (Some((key, value)), None, None) => {
                        let kind = match key.as_str() {
                            "i32" => DType::I32,
                            "u32" => DType::U32,
                            "i64" => DType::I64,
                            "u64" => DType::U64,
                            "f32" => DType::F32,
                            "f64" => DType::F64,
                            other => return Err(format!("'{other}': {wanted}")),
                        };
                        Ok(Self::Number { kind, value: Formula::try_from(value)? })
                    }
                    _ => Err(wanted.into()),
                }
            }
            _ => Err(wanted.into()),
        }
    }
}

/// Why there is no plan for a case.
#[derive(Debug, thiserror::Error)]
pub enum NoPlan {
    /// It does not take such cases, and says so: the case is skipped.
    #[error("{0}")]
    Unsupported(String),
    /// The description does not fit the kernel or the case: the user must mend it.
    #[error("{0:#}")]
    Misfit(anyhow::Error),
}

/// A description is a page or two.
const MAX_SPEC_BYTES: u64 = 1 << 20;

/// Most threads of a block in x, y, z; all together 1024.
const MAX_BLOCK: [u64; 3] = [1024, 1024, 64];

/// Most dynamic shared memory that any device gives a block.
const MAX_SHARED_BYTES: u64 = 227 << 10;

/// Scratch beyond this is a slip in a formula.
const MAX_SCRATCH_BYTES: usize = 1 << 40;

impl Custom {
    /// Reads a description and loads the `.cu` or `.ptx` that it names.
    ///
    /// # Errors
    /// Names the file and what is wrong: malformed TOML or formulas, an unknown operation, an unreadable
    /// source, a compiler's message, or that there is no compiler.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let spec = read_spec(path)?;
        let source = spec.source.as_ref().with_context(|| {
            format!("{}: names no 'source' (a .cu or .ptx file)", path.display())
        })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let source = folder.join(source);
        Self::load(spec, &source, folder)
    }

    /// The same with the source, and the kernel of launches that name none, given apart from the file.
    ///
    /// # Errors
    /// As [`Custom::read`].
    pub fn read_for(path: &Path, source: &Path, symbol: &str) -> anyhow::Result<Self> {
        let mut spec = read_spec(path)?;
        for launch in &mut spec.launch {
            launch.symbol.get_or_insert_with(|| symbol.to_string());
        }
        Self::load(spec, source, path.parent().unwrap_or(Path::new("")))
    }

    fn load(spec: Spec, source: &Path, folder: &Path) -> anyhow::Result<Self> {
        let text = source::ptx(source, &spec.compile, folder)?;
        Self::of(spec, &text).with_context(|| source.display().to_string())
    }

    fn of(spec: Spec, ptx: &str) -> anyhow::Result<Self> {
        if let Some(at) = spec.launch.iter().position(|launch| launch.symbol.is_none()) {
            bail!("launch {} names no 'symbol', the extern \"C\" name of its kernel", at + 1);
        }
        ensure!(!ptx::symbols(ptx).is_empty(), "no kernel in it (no .entry in its PTX)");
        Ok(Self { spec, module: ptx::add(ptx) })
    }

    /// A kernel whose description and PTX are in memory already; a `source` is not looked at.
    ///
    /// # Errors
    /// As [`Custom::read`].
    pub fn new(description: &str, ptx: &str) -> anyhow::Result<Self> {
        Self::of(parse(description)?, ptx)
    }

    /// The operation it computes.
    pub fn op(&self) -> &str {
        &self.spec.op
    }

    /// The name that records carry: `own:` and the file's `name`.
    pub fn name(&self) -> String {
        format!("own:{}", self.spec.name)
    }

    /// What sets it apart, in the user's words.
    pub fn idea(&self) -> &str {
        &self.spec.idea
    }

    /// Whether two runs must give equal bits.
    pub fn deterministic(&self) -> bool {
        self.spec.deterministic
    }

    /// The buffers and launches for a case, held against the limits of CUDA and the signatures in the PTX.
    /// `outputs` tells the outputs' types and shapes.
    ///
    /// # Errors
    /// [`NoPlan`].
    pub fn plan(&self, case: &Case, inputs: &Tensors, outputs: &Outputs) -> Result<Plan, NoPlan> {
        let mut scope = Scope::of(case);
        let mut plan = Plan::new();
        let mut known = BTreeMap::new();
        for (name, tensor) in inputs.iter() {
            scope.tensor(name, tensor.shape());
            known.insert(name.to_string(), plan.input(inputs, name));
        }
        for (name, output) in outputs.iter() {
            scope.tensor(name, output.shape());
            known.insert(name.to_string(), plan.output(name, output.dtype(), output.shape()));
        }
        self.fill_in(case, &mut plan, &mut scope, &mut known)?;
        every_output_is_given(&plan).map_err(NoPlan::Misfit)?;
        Ok(plan)
    }

    fn fill_in(
        &self,
        case: &Case,
        plan: &mut Plan,
        scope: &mut Scope,
        known: &mut BTreeMap<String, BufferId>,
    ) -> Result<(), NoPlan> {
        scope.define(&self.spec.r#let).map_err(NoPlan::Misfit)?;
        if let Some(supports) = &self.spec.supports
            && !scope.condition(supports).context("supports").map_err(NoPlan::Misfit)?
        {
            return Err(NoPlan::Unsupported(format!("'supports' is false: {supports}")));
        }
        for scratch in &self.spec.scratch {
            let at = || format!("scratch '{}'", scratch.name);
            add_scratch(scratch, plan, scope, known).with_context(at).map_err(NoPlan::Misfit)?;
        }
        for (index, launch) in self.spec.launch.iter().enumerate() {
            let at = || format!("launch {}", index + 1);
            self.add_launch(case, launch, plan, scope, known)
                .with_context(at)
                .map_err(NoPlan::Misfit)?;
        }
        Ok(())
    }

    fn add_launch(
        &self,
        case: &Case,
        launch: &LaunchSpec,
        plan: &mut Plan,
        scope: &Scope,
        known: &BTreeMap<String, BufferId>,
    ) -> anyhow::Result<()> {
        for (name, &byte) in &launch.fill {
            let &buffer = known.get(name).with_context(|| unknown(name, known))?;
            ensure!(
                !matches!(plan.buffers()[buffer.0].role, crate::Role::Input(_)),
                "fill: '{name}' is an input; inputs must stay as they are"
            );
            plan.fill(buffer, byte);
        }
        let symbol = expand(launch.symbol.as_deref().unwrap_or_default(), case)?;
        let grid = dimensions("grid", &launch.grid, MAX_GRID.map(|n| n as u64), scope)?;
        let block = dimensions("block", &launch.block, MAX_BLOCK, scope)?;
        let threads: u64 = block.iter().product();
        ensure!(
            (1..=1024).contains(&threads),
            "block {block:?} has {threads} threads, not 1 to 1024"
        );
        let shared = scope.size(&launch.shared_bytes).context("shared_bytes")?;
        ensure!(
            shared <= MAX_SHARED_BYTES,
            "shared_bytes = {shared}; no device gives a block more than {MAX_SHARED_BYTES}"
        );
        let args: Vec<Arg> = launch
            .args
            .iter()
            .enumerate()
            .map(|(i, arg)| {
                argument(arg, plan, scope, known).with_context(|| format!("argument {}", i + 1))
            })
            .collect::<anyhow::Result<_>>()?;
        self.fits_signature(&symbol, &args)?;
        let dims = |size: [u64; 3]| size.map(|n| n as usize);
        plan.launch(self.module, symbol, dims(grid), dims(block), shared as usize, &args);
        Ok(())
    }

    fn fits_signature(&self, symbol: &str, args: &[Arg]) -> anyhow::Result<()> {
        let declared = ptx::signature(self.module, symbol).with_context(|| {
            let known = ptx::symbols(ptx::module(self.module).unwrap_or_default()).join(", ");
            format!("the source has no kernel '{symbol}'; it has: {known} (is it extern \"C\"?)")
        })?;
        let given: Vec<usize> = args.iter().map(|arg| arg.bytes()).collect();
        ensure!(
            given == declared,
            "kernel '{symbol}' takes {} parameters of {declared:?} bytes; 'args' gives {} of {given:?}",
            declared.len(),
            given.len()
        );
        Ok(())
    }
}

fn read_spec(path: &Path) -> anyhow::Result<Spec> {
    let text = source::read_text(path, MAX_SPEC_BYTES)?;
    parse(&text).with_context(|| path.display().to_string())
}

fn parse(text: &str) -> anyhow::Result<Spec> {
    let spec: Spec = toml::from_str(text).context("malformed description of a kernel")?;
    if operations().all(|operation| operation.name != spec.op) {
        let known: Vec<_> = operations().map(|operation| operation.name).collect();
        bail!("unknown operation '{}'; there are: {}", spec.op, known.join(", "));
    }
    let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    ensure!(
        !spec.name.is_empty() && spec.name.chars().all(is_word),
        "name '{}' is not made of letters, digits, '_', '-' and '.'",
        spec.name
    );
    ensure!(!spec.launch.is_empty(), "no [[launch]]");
    Ok(spec)
}

fn add_scratch(
    scratch: &Scratch,
    plan: &mut Plan,
    scope: &mut Scope,
    known: &mut BTreeMap<String, BufferId>,
) -> anyhow::Result<()> {
    ensure!(!known.contains_key(&scratch.name), "the name is taken");
    let shape = scratch.shape.iter().map(|n| Ok(scope.size(n)? as usize));
    let shape = shape.collect::<anyhow::Result<Vec<usize>>>()?;
    let bytes = shape.iter().try_fold(scratch.dtype.bytes(), |bytes, &n| bytes.checked_mul(n));
    ensure!(
        bytes.is_some_and(|bytes| bytes <= MAX_SCRATCH_BYTES),
        "shape {shape:?} of {} is more than {MAX_SCRATCH_BYTES} bytes",
        scratch.dtype.name()
    );
    scope.tensor(&scratch.name, &shape);
    let buffer = plan.scratch(&scratch.name, scratch.dtype, &shape);
    known.insert(scratch.name.clone(), buffer);
    Ok(())
}

fn argument(
    spec: &ArgSpec,
    plan: &Plan,
    scope: &Scope,
    known: &BTreeMap<String, BufferId>,
) -> anyhow::Result<Arg> {
    match spec {
        ArgSpec::Buffer { name, optional, offset_bytes } => match known.get(name) {
            None if *optional => Ok(Arg::Null),
            None => bail!(unknown(name, known)),
            Some(&buffer) => {
                let offset = scope.size(offset_bytes).context("offset_bytes")?;
                let bytes = plan.buffers()[buffer.0].bytes();
                ensure!(
                    offset <= bytes as u64,
                    "offset_bytes = {offset} is past the end of '{name}', which has {bytes} bytes"
                );
                Ok(Arg::Buffer(buffer, offset as usize))
            }
        },
        ArgSpec::Number { kind: DType::F32, value } => Ok(Arg::F32(scope.real(value)? as f32)),
        ArgSpec::Number { kind: DType::F64, value } => Ok(Arg::F64(scope.real(value)?)),
        ArgSpec::Number { kind, value } => {
            let integer = scope.integer(value)?;
            let fits = match kind {
                DType::I32 => i32::try_from(integer).ok().map(Arg::I32),
                DType::U32 => u32::try_from(integer).ok().map(Arg::U32),
                DType::I64 => Some(Arg::I64(integer)),
                _ => u64::try_from(integer).ok().map(Arg::U64),
            };
            fits.with_context(|| format!("{value} = {integer} does not fit {}", kind.name()))
        }
    }
}

fn unknown(name: &str, known: &BTreeMap<String, BufferId>) -> String {
    let known: Vec<&str> = known.keys().map(String::as_str).collect();
    format!(
        "no tensor named '{name}' in this case; there are: {} (an optional one is written \"{name}?\")",
        known.join(", ")
    )
}

/// Three sizes from at most three formulas.
fn dimensions(
    what: &str,
    formulas: &[Formula],
    most: [u64; 3],
    scope: &Scope,
) -> anyhow::Result<[u64; 3]> {
    ensure!((1..=3).contains(&formulas.len()), "{what} has {} sizes, not 1 to 3", formulas.len());
    let mut sizes = [1; 3];
    for (axis, formula) in formulas.iter().enumerate() {
        let size = scope.size(formula).context(what.to_string())?;
        ensure!(
            size <= most[axis],
            "{what} = {size} in {}, CUDA takes at most {}",
            ["x", "y", "z"][axis],
            most[axis]
        );
        sizes[axis] = size;
    }
    Ok(sizes)
}

/// `symbol` with `{key}` replaced by the case's parameter.
fn expand(symbol: &str, case: &Case) -> anyhow::Result<String> {
    let mut text = symbol.to_string();
    for (key, value) in case.fields() {
        text = text.replace(&format!("{{{key}}}"), &value);
    }
    ensure!(!text.contains(['{', '}']), "symbol '{symbol}': the case has no such parameter");
    Ok(text)
}

fn every_output_is_given(plan: &Plan) -> anyhow::Result<()> {
    for (index, buffer) in plan.buffers().iter().enumerate() {
        let given = plan.steps().iter().any(|step| match step {
            Step::Launch(launch) => {
                launch.args.iter().any(|arg| matches!(arg, Arg::Buffer(id, _) if id.0 == index))
            }
            Step::Fill(id, _) => id.0 == index,
        });
        let is_output = buffer.role == crate::Role::Output;
        ensure!(given || !is_output, "output '{}' is given to no launch", buffer.name);
    }
    Ok(())
}
