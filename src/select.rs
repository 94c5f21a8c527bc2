//! Which cases a command works on.

use std::path::PathBuf;

use anyhow::bail;
use touchstone_bench::{Tier, Workload, workload};
use touchstone_reference::{Case, operation};

/// Selection of workloads, shared by the commands that run cases.
#[derive(clap::Args)]
pub struct Selection {
    /// Part of OPERATION/WORKLOAD (`ssm`, `attention.forward/prefill`), or one whole case id
    pub filter: Option<String>,
    /// Only variants whose name contains this (`reference` is one)
    #[arg(long, value_name = "NAME")]
    pub variant: Option<String>,
    /// Take the workloads from this TOML file instead of the built-in ones
    #[arg(long, value_name = "FILE")]
    pub workloads: Option<PathBuf>,
    /// CUDA device to use, by its number
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub device: usize,
}

/// One case with the workload that asks it.
pub struct Selected {
    /// Name of the workload; `replay` for a case given by its id.
    pub workload: String,
    /// The case.
    pub case: Case,
}

impl Selection {
    /// The cases of the tiers in `tiers` that the filter lets through.
    ///
    /// # Errors
    /// If the workloads are malformed, the case id is not one, or the filter lets nothing through.
    pub fn cases(&self, tiers: &[Tier]) -> anyhow::Result<Vec<Selected>> {
        if let Some(id) = self.filter.as_deref().filter(|filter| filter.contains(':')) {
            let case: Case = id.parse()?;
            let case = operation(&case)?.normalize(&case)?;
            return Ok(vec![Selected { workload: "replay".into(), case }]);
        }
        let workloads = self.all()?;
        let chosen: Vec<&Workload> = workloads.iter().filter(|w| self.lets_through(w)).collect();
        if chosen.is_empty() {
            bail!(
                "no operation or workload matches '{}' (see `touchstone list`)",
                self.filter.as_deref().unwrap_or_default()
            );
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
        self.check_variant(&selected)?;
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

    /// Whether the filter lets a workload through.
    pub fn lets_through(&self, workload: &Workload) -> bool {
        let name = format!("{}/{}", workload.op, workload.name);
        self.filter.as_ref().is_none_or(|filter| name.contains(filter.as_str()))
    }

    /// Refuses a variant name that no selected operation has: it would check nothing and pass.
    fn check_variant(&self, selected: &[Selected]) -> anyhow::Result<()> {
        let Some(name) = &self.variant else { return Ok(()) };
        let known: std::collections::BTreeSet<&str> = touchstone_cuda::variants()
            .filter(|v| selected.iter().any(|s| s.case.op() == v.op))
            .map(|v| v.name)
            .chain(["reference"])
            .collect();
        if !known.iter().any(|variant| variant.contains(name.as_str())) {
            bail!("no variant matches '{name}'; there are: {}", Vec::from_iter(known).join(", "));
        }
        Ok(())
    }
}
