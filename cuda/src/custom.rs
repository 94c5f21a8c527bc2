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

mod draft;
mod formula;
mod source;
mod spec;

use std::path::Path;

use anyhow::{Context, bail, ensure};
use touchstone_reference::{Case, Outputs, Tensors};

use crate::{plan::Plan, ptx};
use draft::Draft;
use spec::Spec;

/// A user's kernel, loaded and ready to make plans.
#[derive(Clone, Debug)]
pub struct Custom {
    spec: Spec,
    module: &'static str,
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

impl Custom {
    /// Reads a description and loads the `.cu` or `.ptx` that it names.
    ///
    /// # Errors
    /// Names the file and what is wrong: malformed TOML or formulas, an unknown operation, an unreadable
    /// source, a compiler's message, or that there is no compiler.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let spec = spec::read(path)?;
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
        let mut spec = spec::read(path)?;
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
        Self::of(spec::parse(description)?, ptx)
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
        let mut draft = Draft::of(case, inputs, outputs);
        draft.define(&self.spec.r#let).map_err(NoPlan::Misfit)?;
        if let Some(supports) = &self.spec.supports
            && !draft.meets(supports).map_err(NoPlan::Misfit)?
        {
            return Err(NoPlan::Unsupported(format!("'supports' is false: {supports}")));
        }
        for scratch in &self.spec.scratch {
            let at = || format!("scratch '{}'", scratch.name);
            draft.scratch(scratch).with_context(at).map_err(NoPlan::Misfit)?;
        }
        for (index, launch) in self.spec.launch.iter().enumerate() {
            let at = || format!("launch {}", index + 1);
            draft.launch(self.module, launch).with_context(at).map_err(NoPlan::Misfit)?;
        }
        draft.finish().map_err(NoPlan::Misfit)
    }
}
