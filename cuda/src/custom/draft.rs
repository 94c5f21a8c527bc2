//! A plan in the making: a case's tensors, the names that formulas know, and what is planned so far.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use touchstone_reference::{Case, DType, Outputs, Tensors};

use super::{
    formula::{Formula, Scope},
    spec::{ArgSpec, LaunchSpec, Scratch},
};
use crate::{
    Role,
    plan::{Arg, BufferId, MAX_GRID, Plan, Step},
    ptx,
};

/// Most threads of a block in x, y, z; all together 1024.
const MAX_BLOCK: [u64; 3] = [1024, 1024, 64];

/// Most dynamic shared memory that any device gives a block.
const MAX_SHARED_BYTES: u64 = 227 << 10;

/// Scratch beyond this is a slip in a formula.
const MAX_SCRATCH_BYTES: usize = 1 << 40;

/// A plan for one case, as far as the description has been read.
pub(super) struct Draft<'c> {
    case: &'c Case,
    plan: Plan,
    scope: Scope,
    /// Inputs, outputs and scratch by name.
    known: BTreeMap<String, BufferId>,
}

impl<'c> Draft<'c> {
    /// A plan of a case's inputs and outputs, and of no launch.
    pub fn of(case: &'c Case, inputs: &Tensors, outputs: &Outputs) -> Self {
        let mut draft =
            Self { case, plan: Plan::new(), scope: Scope::of(case), known: BTreeMap::new() };
        for (name, tensor) in inputs.iter() {
            let buffer = draft.plan.input(inputs, name);
            draft.add(name, tensor.shape(), buffer);
        }
        for (name, output) in outputs.iter() {
            let buffer = draft.plan.output(name, output.dtype(), output.shape());
            draft.add(name, output.shape(), buffer);
        }
        draft
    }

    fn add(&mut self, name: &str, shape: &[usize], buffer: BufferId) {
        self.scope.tensor(name, shape);
        self.known.insert(name.to_string(), buffer);
    }

    /// Adds named formulas.
    ///
    /// # Errors
    /// As [`Scope::define`].
    pub fn define(&mut self, formulas: &BTreeMap<String, Formula>) -> anyhow::Result<()> {
        self.scope.define(formulas)
    }

    /// Whether the case meets the condition of `supports`.
    ///
    /// # Errors
    /// If it is not true or false.
    pub fn meets(&self, supports: &Formula) -> anyhow::Result<bool> {
        self.scope.condition(supports).context("supports")
    }

    /// Adds memory for intermediate values.
    ///
    /// # Errors
    /// If its name is taken or it is too large.
    pub fn scratch(&mut self, scratch: &Scratch) -> anyhow::Result<()> {
        ensure!(!self.known.contains_key(&scratch.name), "the name is taken");
        let shape = scratch.shape.iter().map(|n| Ok(self.scope.size(n)? as usize));
        let shape = shape.collect::<anyhow::Result<Vec<usize>>>()?;
        let bytes = shape.iter().try_fold(scratch.dtype.bytes(), |bytes, &n| bytes.checked_mul(n));
        ensure!(
            bytes.is_some_and(|bytes| bytes <= MAX_SCRATCH_BYTES),
            "shape {shape:?} of {} is more than {MAX_SCRATCH_BYTES} bytes",
            scratch.dtype.name()
        );
        let buffer = self.plan.scratch(&scratch.name, scratch.dtype, &shape);
        self.add(&scratch.name, &shape, buffer);
        Ok(())
    }

    /// Adds one launch of a kernel of `module`, and the fills before it.
    ///
    /// # Errors
    /// If a size is beyond CUDA's limits, an argument has no value, or they do not fit the kernel's signature.
    pub fn launch(&mut self, module: &'static str, launch: &LaunchSpec) -> anyhow::Result<()> {
        for (name, &byte) in &launch.fill {
            let buffer = self.buffer(name)?;
            ensure!(
                !matches!(self.plan.buffers()[buffer.0].role, Role::Input(_)),
                "fill: '{name}' is an input; inputs must stay as they are"
            );
            self.plan.fill(buffer, byte);
        }
        let symbol = expand(launch.symbol.as_deref().unwrap_or_default(), self.case)?;
        let grid = self.dimensions("grid", &launch.grid, MAX_GRID.map(|n| n as u64))?;
        let block = self.dimensions("block", &launch.block, MAX_BLOCK)?;
        let threads: u64 = block.iter().product();
        ensure!(
            (1..=1024).contains(&threads),
            "block {block:?} has {threads} threads, not 1 to 1024"
        );
        let shared = self.scope.size(&launch.shared_bytes).context("shared_bytes")?;
        ensure!(
            shared <= MAX_SHARED_BYTES,
            "shared_bytes = {shared}; no device gives a block more than {MAX_SHARED_BYTES}"
        );
        let argument = |(i, arg)| self.argument(arg).with_context(|| format!("argument {}", i + 1));
        let args: Vec<Arg> =
            launch.args.iter().enumerate().map(argument).collect::<anyhow::Result<_>>()?;
        fits_signature(module, &symbol, &args)?;
        let dims = |size: [u64; 3]| size.map(|n| n as usize);
        self.plan.launch(module, symbol, dims(grid), dims(block), shared as usize, &args);
        Ok(())
    }

    fn buffer(&self, name: &str) -> anyhow::Result<BufferId> {
        let known = || self.known.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        self.known.get(name).copied().with_context(|| {
            format!(
                "no tensor named '{name}' in this case; there are: {} (an optional one is written \"{name}?\")",
                known()
            )
        })
    }

    fn argument(&self, spec: &ArgSpec) -> anyhow::Result<Arg> {
        match spec {
            ArgSpec::Buffer { name, optional: true, .. } if !self.known.contains_key(name) => {
                Ok(Arg::Null)
            }
            ArgSpec::Buffer { name, offset_bytes, .. } => {
                let buffer = self.buffer(name)?;
                let offset = self.scope.size(offset_bytes).context("offset_bytes")?;
                let bytes = self.plan.buffers()[buffer.0].bytes();
                ensure!(
                    offset <= bytes as u64,
                    "offset_bytes = {offset} is past the end of '{name}', which has {bytes} bytes"
                );
                Ok(Arg::Buffer(buffer, offset as usize))
            }
            ArgSpec::Number { kind, value } => self.number(*kind, value),
        }
    }

    fn number(&self, kind: DType, value: &Formula) -> anyhow::Result<Arg> {
        match kind {
            DType::F32 => return Ok(Arg::F32(self.scope.real(value)? as f32)),
            DType::F64 => return Ok(Arg::F64(self.scope.real(value)?)),
            _ => {}
        }
        let integer = self.scope.integer(value)?;
        let fits = match kind {
            DType::I32 => i32::try_from(integer).ok().map(Arg::I32),
            DType::U32 => u32::try_from(integer).ok().map(Arg::U32),
            DType::I64 => Some(Arg::I64(integer)),
            _ => u64::try_from(integer).ok().map(Arg::U64),
        };
        fits.with_context(|| format!("{value} = {integer} does not fit {}", kind.name()))
    }

    /// Three sizes from at most three formulas.
    fn dimensions(
        &self,
        what: &str,
        formulas: &[Formula],
        most: [u64; 3],
    ) -> anyhow::Result<[u64; 3]> {
        let given = formulas.len();
        ensure!((1..=3).contains(&given), "{what} has {given} sizes, not 1 to 3");
        let mut sizes = [1; 3];
        for (axis, formula) in formulas.iter().enumerate() {
            let size = self.scope.size(formula).context(what.to_string())?;
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

    /// The plan.
    ///
    /// # Errors
    /// If an output is given to no launch.
    pub fn finish(self) -> anyhow::Result<Plan> {
        for (index, buffer) in self.plan.buffers().iter().enumerate() {
            let is_given = |step: &Step| match step {
                Step::Launch(launch) => {
                    launch.args.iter().any(|arg| matches!(arg, Arg::Buffer(id, _) if id.0 == index))
                }
                Step::Fill(id, _) => id.0 == index,
            };
            ensure!(
                buffer.role != Role::Output || self.plan.steps().iter().any(is_given),
                "output '{}' is given to no launch",
                buffer.name
            );
        }
        Ok(self.plan)
    }
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

/// Whether a kernel has parameters of these sizes.
fn fits_signature(module: &'static str, symbol: &str, args: &[Arg]) -> anyhow::Result<()> {
    let declared = ptx::signature(module, symbol).with_context(|| {
        let known = ptx::symbols(ptx::module(module).unwrap_or_default()).join(", ");
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
