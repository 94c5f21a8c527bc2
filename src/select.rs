//! Which cases a command works on.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use touchstone_bench::{Problem, Tier, Workload, exchange, workload};
use touchstone_cuda::Custom;
use touchstone_reference::{Case, nearest, operation};

/// Selection of workloads, shared by the commands that run cases.
#[derive(clap::Args)]
pub struct Selection {
    /// Part of an operation's name (`ssm`, `attention.forward`) or, where no operation has it, of a workload's
    /// (`prefill`); or OPERATION/WORKLOAD, the whole name of an operation or of its algorithm and part of a
    /// workload's (`attention.forward/prefill`, `ssm.recurrence/`); or one whole case id
    pub filter: Option<String>,
    /// Only variants whose name contains this (`reference` is one)
    #[arg(long, value_name = "NAME")]
    pub variant: Option<String>,
    /// Take the workloads from this TOML file instead of the built-in ones
    #[arg(long, value_name = "FILE")]
    pub workloads: Option<PathBuf>,
    /// Only part I of N of the cases, for N machines: a case falls into the same part everywhere
    #[arg(long, value_name = "I/N")]
    pub shard: Option<Shard>,
    /// CUDA device to use, by its number
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub device: usize,
}

/// One of several parts of all cases, by a hash of the case's id that is the same on every machine and in every
/// version.
#[derive(Clone, Copy, Debug)]
pub struct Shard {
    /// From 1 to `of`.
    part: u64,
    of: u64,
}

impl Shard {
    /// Whether a case belongs to this part.
    pub fn holds(self, case: &Case) -> bool {
        let hash = blake3::hash(case.to_string().as_bytes());
        let start = hash.as_bytes().first_chunk().expect("a hash has 32 bytes");
        u64::from_le_bytes(*start) % self.of == self.part - 1
    }
}

impl std::str::FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text
            .split_once('/')
            .and_then(|(part, of)| Some((part.parse::<u64>().ok()?, of.parse::<u64>().ok()?)));
        match numbers {
            Some((part, of)) if (1..=of).contains(&part) => Ok(Self { part, of }),
            _ => Err("a part from 1/N to N/N, such as 2/8".into()),
        }
    }
}

/// What the user brings along: a kernel, inputs.
#[derive(clap::Args)]
pub struct Own {
    /// Your own kernel beside ours: a TOML file that describes its launch and names its source. Or the
    /// source and the kernel in it, `mine.cu:symbol` or `mine.ptx:symbol`, with the TOML file at `mine.toml`
    /// or --launch. Records call it own:NAME; `--variant own:` runs it alone
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// The TOML file of --kernel SOURCE:SYMBOL
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub launch: Option<PathBuf>,
    /// Your own tensors as inputs of one case (safetensors; `touchstone export` shows names, types and
    /// shapes). What the file leaves out is drawn
    #[arg(long, value_name = "FILE")]
    pub inputs: Option<PathBuf>,
}

impl Own {
    /// Loads the kernel, if there is one.
    ///
    /// # Errors
    /// What is wrong with its description or its source.
    pub fn kernel(&self) -> anyhow::Result<Option<Custom>> {
        let Some(path) = &self.kernel else { return Ok(None) };
        self.load(path).with_context(|| format!("--kernel {}", path.display())).map(Some)
    }

    fn load(&self, path: &Path) -> anyhow::Result<Custom> {
        let text = path.to_string_lossy();
        let is_source = |file: &str| file.ends_with(".cu") || file.ends_with(".ptx");
        match text.rsplit_once(':') {
            Some((source, symbol)) if is_source(source) => {
                let source = Path::new(source);
                let launch = self.launch.clone().unwrap_or_else(|| source.with_extension("toml"));
                Custom::read_for(&launch, source, symbol)
            }
            _ if is_source(&text) => bail!("say which kernel in it: {text}:SYMBOL"),
            _ => {
                ensure!(self.launch.is_none(), "--launch goes with --kernel SOURCE:SYMBOL only");
                Custom::read(path)
            }
        }
    }

    /// The problem of the one selected case with the user's inputs, if there are any.
    ///
    /// # Errors
    /// If several cases are selected, or the file does not fit the case.
    pub fn problem(&self, selected: &[Selected]) -> anyhow::Result<Option<Problem>> {
        let Some(path) = &self.inputs else { return Ok(None) };
        let [selected] = selected else {
            bail!("--inputs goes with one case id, not with {} cases", selected.len());
        };
        exchange::problem(&selected.case, path).map(Some)
    }
}

/// One case by its id, with every parameter written out.
///
/// # Errors
/// If the id is malformed, or its operation or parameters are unknown.
pub fn case(id: &str) -> anyhow::Result<Case> {
    let case: Case = id.parse()?;
    Ok(operation(&case)?.normalize(&case)?)
}

/// One case with the workload that asks it.
pub struct Selected {
    /// Name of the workload; `replay` for a case given by its id.
    pub workload: String,
    /// The case.
    pub case: Case,
}

impl Selection {
    /// The cases of the tiers in `tiers` that the filter lets through; without a filter, all, or those of the
    /// operation that the user's own kernel computes.
    ///
    /// # Errors
    /// If the workloads are malformed, the case id is not one, the filter lets nothing through, or nothing for
    /// the user's own kernel.
    pub fn cases(&self, tiers: &[Tier], own: Option<&Custom>) -> anyhow::Result<Vec<Selected>> {
        let mut selected = self.of_tiers(tiers, own)?;
        self.check_variant(&selected.iter().map(|some| some.case.op()).collect(), own)?;
        if let Some(own) = own {
            ensure!(
                selected.iter().any(|some| some.case.op() == own.op()),
                "{} computes {}, which no selected case asks for",
                own.name(),
                own.op()
            );
        }
        if let Some(shard) = self.shard {
            selected.retain(|some| shard.holds(&some.case));
        }
        Ok(selected)
    }

    fn of_tiers(&self, tiers: &[Tier], own: Option<&Custom>) -> anyhow::Result<Vec<Selected>> {
        if let Some(id) = self.filter.as_deref().filter(|filter| filter.contains(':')) {
            return Ok(vec![Selected { workload: "replay".into(), case: case(id)? }]);
        }
        let workloads = self.all()?;
        let mut chosen = self.matching(&workloads)?;
        if self.filter.is_none() {
            chosen.retain(|w| own.is_none_or(|own| own.op() == w.op));
        }
        let selected: Vec<Selected> = chosen
            .iter()
            .filter(|w| tiers.contains(&w.tier))
            .flat_map(|w| w.cases.iter().map(move |case| (w, case.clone())))
            .map(|(w, case)| Selected { workload: w.name.clone(), case })
            .collect();
        if selected.is_empty() {
            let names: Vec<_> = chosen.iter().map(|w| format!("{}/{}", w.op, w.name)).collect();
            bail!("what matches is of another tier than {tiers:?}: {}", names.join(", "));
        }
        Ok(selected)
    }

    /// The built-in workloads, or the user's.
    ///
    /// # Errors
    /// If they are malformed.
    pub fn all(&self) -> anyhow::Result<Vec<Workload>> {
        match &self.workloads {
            Some(path) => workload::read(path),
            None => workload::embedded(),
        }
    }

    /// The workloads that the filter names.
    ///
    /// # Errors
    /// If there are none.
    pub fn matching<'w>(&self, workloads: &'w [Workload]) -> anyhow::Result<Vec<&'w Workload>> {
        let Some(filter) = &self.filter else { return Ok(workloads.iter().collect()) };
        let those = |test: &dyn Fn(&Workload) -> bool| -> Vec<&'w Workload> {
            workloads.iter().filter(|w| test(w)).collect()
        };
        let is_whole = |w: &Workload, name: &str| {
            w.op == name || w.op.split_once('.').is_some_and(|(vertical, _)| vertical == name)
        };
        let chosen = match filter.split_once('/') {
            Some((op, name)) => those(&|w| is_whole(w, op) && w.name.contains(name)),
            // `attention` is the algorithm: not also an operation of another one that is called so, nor a workload that
            // is held against it.
            None => {
                let named: [&dyn Fn(&Workload) -> bool; 3] = [
                    &|w| w.op.split('.').next() == Some(filter),
                    &|w| w.op.contains(filter.as_str()),
                    &|w| w.name.contains(filter.as_str()),
                ];
                named.into_iter().map(those).find(|chosen| !chosen.is_empty()).unwrap_or_default()
            }
        };
        if chosen.is_empty() {
            let verticals = workloads.iter().filter_map(|w| w.op.split('.').next());
            let names = workloads.iter().flat_map(|w| [w.op.as_str(), w.name.as_str()]);
            let known: Vec<&str> = verticals.chain(names).collect();
            let meant = nearest::nearest(filter, &known)
                .map_or(String::new(), |name| format!("; did you mean '{name}'?"));
            bail!("no operation or workload matches '{filter}'{meant} (see `touchstone list`)");
        }
        Ok(chosen)
    }

    /// Whether a variant is asked for.
    pub fn wants(&self, variant: &str) -> bool {
        self.variant.as_ref().is_none_or(|name| variant.contains(name.as_str()))
    }

    /// Refuses a variant name that none of these operations has: it would check nothing and pass.
    ///
    /// # Errors
    /// With the names that there are.
    pub fn check_variant(&self, ops: &BTreeSet<&str>, own: Option<&Custom>) -> anyhow::Result<()> {
        let Some(name) = &self.variant else { return Ok(()) };
        let known: BTreeSet<String> = touchstone_cuda::variants()
            .filter(|v| ops.contains(v.op))
            .map(|v| v.name.to_string())
            .chain(["reference".to_string()])
            .chain(own.map(Custom::name))
            .collect();
        if !known.iter().any(|variant| self.wants(variant)) {
            bail!("no variant matches '{name}'; there are: {}", Vec::from_iter(known).join(", "));
        }
        Ok(())
    }
}
