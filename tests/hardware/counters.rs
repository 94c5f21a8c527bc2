//! Counters of kernels on hardware beside the simulator's costs.
//!
//! PTX is not machine code: ptxas merges loads and stores of shared memory into wider ones, keeps values in registers,
//! turns branches into predicates and needs several instructions for one of PTX's, or the reverse. So the number of all
//! instructions and of those on shared memory is shown, not compared. Requests to global memory, barriers and exchanges
//! between lanes are equal; sectors, tensor instructions and bank conflicts are within [`TOLERANCE`].

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use touchstone_bench::{Problem, verify};
use touchstone_cuda::{
    Simulator,
    gpu::Poison,
    simulator::cost::{Counts, KernelCost, Meter},
};
use touchstone_reference::Case;

use self::Nearness::{Exact, Near, NearOf, Told};
use super::{recording, table, variant_of};

/// Share by which sectors, conflicts and tensor instructions may differ.
const TOLERANCE: f64 = 0.02;

/// What was counted of one case.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Counted {
    case: String,
    variant: String,
    kernels: Vec<CountedKernel>,
}

/// Sums over the launches of a kernel.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CountedKernel {
    kernel: String,
    launches: u64,
    counters: BTreeMap<String, u64>,
    opcodes: BTreeMap<String, u64>,
}

impl CountedKernel {
    fn metric(&self, name: &str) -> Option<u64> {
        self.counters.get(&format!("{name}.sum")).copied()
    }

    /// Requests to global memory, or sectors, of an operation.
    fn l1(&self, what: &str, operation: &str) -> Option<u64> {
        self.metric(&format!("l1tex__{what}_pipe_lsu_mem_global_{operation}"))
    }

    /// Instructions that warps issued of these opcodes.
    fn issued(&self, opcodes: &[&str]) -> Option<u64> {
        let of = |opcode: &&str| self.opcodes.get(*opcode).unwrap_or(&0);
        (!self.opcodes.is_empty()).then(|| opcodes.iter().map(of).sum())
    }
}

/// How near the simulator's counter must be to the hardware's.
#[derive(Clone, Copy, PartialEq)]
enum Nearness {
    /// Equal.
    Exact,
    /// Within [`TOLERANCE`].
    Near,
    /// Within [`TOLERANCE`] of this counter, of which it is a part.
    NearOf(&'static str),
    /// Told, not compared.
    Told,
}

struct Pair {
    name: &'static str,
    ours: fn(&Counts) -> u64,
    theirs: fn(&CountedKernel) -> Option<u64>,
    nearness: Nearness,
}

const fn pair(
    nearness: Nearness,
    name: &'static str,
    ours: fn(&Counts) -> u64,
    theirs: fn(&CountedKernel) -> Option<u64>,
) -> Pair {
    Pair { name, ours, theirs, nearness }
}

const EXCHANGES: [&str; 5] = ["SHFL", "VOTE", "VOTEU", "MATCH", "REDUX"];
const LOAD_PASSES: Nearness = NearOf("l1tex__data_pipe_lsu_wavefronts_mem_shared_op_ld");
const STORE_PASSES: Nearness = NearOf("l1tex__data_pipe_lsu_wavefronts_mem_shared_op_st");

const PAIRS: [Pair; 13] = [
    pair(Told, "all instructions", |c| c.instructions, |k| k.metric("smsp__inst_executed")),
    pair(Told, "shared loads", |c| c.shared_read_requests, |k| k.issued(&["LDS", "LDSM"])),
    pair(Told, "shared stores", |c| c.shared_write_requests, |k| k.issued(&["STS", "LDGSTS"])),
    pair(Exact, "global loads", |c| c.global_read_requests, |k| k.l1("t_requests", "op_ld")),
    pair(Exact, "global stores", |c| c.global_write_requests, |k| k.l1("t_requests", "op_st")),
    pair(Exact, "barriers", |c| c.barriers, |k| k.issued(&["BAR"])),
    pair(Exact, "exchanges", |c| c.warp_operations, |k| k.issued(&EXCHANGES)),
    pair(Near, "tensor instructions", |c| c.tensor, |k| k.issued(&["HMMA", "HGMMA"])),
    pair(Near, "sectors read", |c| c.global_read_sectors, |k| k.l1("t_sectors", "op_ld")),
    pair(Near, "sectors written", |c| c.global_write_sectors, |k| k.l1("t_sectors", "op_st")),
    pair(
        Near,
        "sectors of atomics",
        |c| c.global_atomic_sectors,
        |k| Some(k.l1("t_sectors", "op_red")? + k.l1("t_sectors", "op_atom")?),
    ),
    pair(
        LOAD_PASSES,
        "conflicts of loads",
        |c| c.shared_read_conflicts,
        |k| k.metric("l1tex__data_bank_conflicts_pipe_lsu_mem_shared_op_ld"),
    ),
    pair(
        STORE_PASSES,
        "conflicts of stores",
        |c| c.shared_write_conflicts,
        |k| k.metric("l1tex__data_bank_conflicts_pipe_lsu_mem_shared_op_st"),
    ),
];

impl Pair {
    /// By what share the simulator is off.
    fn off(&self, ours: u64, theirs: u64, counted: &CountedKernel) -> f64 {
        let whole = match self.nearness {
            NearOf(whole) => counted.metric(whole).unwrap_or(0).max(theirs),
            _ => theirs,
        };
        ours.abs_diff(theirs) as f64 / whole.max(1) as f64
    }

    fn agrees(&self, off: f64) -> bool {
        match self.nearness {
            Exact => off == 0.0,
            Near | NearOf(_) => off <= TOLERANCE,
            Told => true,
        }
    }
}

/// Counters that differ, each with its reason.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Differences {
    #[serde(default)]
    difference: Vec<Difference>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Difference {
    /// `module::kernel`.
    kernel: String,
    counter: String,
    why: String,
}

fn costs(counted: &Counted) -> Option<Vec<KernelCost>> {
    let case: Case = counted.case.parse().expect("a case");
    let variant = variant_of(&case, &counted.variant)?;
    let problem = Problem::new(&case).expect("a problem");
    let plan = verify::plan(variant, &problem).expect("a plan");
    let simulator = Simulator::new();
    let prepared = simulator.prepare(&plan).expect("prepared");
    prepared.poison(Poison::Nan);
    let mut meter = Meter::default();
    prepared.run_watched(&mut meter).expect("a sound kernel");
    Some(meter.cost().kernels.clone())
}

#[test]
fn simulated_counters_are_the_hardware_s() {
    let (source, all) = recording::<Counted>("counters.jsonl");
    let known: Differences = table("differences.toml");
    let known: BTreeMap<(String, String), String> =
        known.difference.into_iter().map(|d| ((d.kernel, d.counter), d.why)).collect();
    let mut met = BTreeSet::new();
    let (mut surprises, mut kernels, mut agree) = (Vec::new(), BTreeSet::new(), 0);
    println!("{source}\n| kernel | counter | hardware | simulator | off |\n|---|---|--:|--:|--:|");
    for counted in &all {
        for kernel in costs(counted).into_iter().flatten() {
            let name = format!("{}::{}", kernel.module, kernel.symbol);
            let Some(theirs) = counted.kernels.iter().find(|k| k.kernel == kernel.symbol) else {
                continue;
            };
            assert_eq!(theirs.launches, kernel.launches, "launches of {name}");
            for pair in &PAIRS {
                let Some(given) = (pair.theirs)(theirs) else { continue };
                let ours = (pair.ours)(&kernel.counts);
                if ours == 0 && given == 0 {
                    continue;
                }
                let off = pair.off(ours, given, theirs);
                println!("| {name} | {} | {given} | {ours} | {:.1} % |", pair.name, off * 100.0);
                if pair.nearness == Told {
                    continue;
                }
                if pair.agrees(off) {
                    agree += 1;
                } else if let Some((at, why)) =
                    known.get_key_value(&(name.clone(), pair.name.to_string()))
                {
                    println!("  {why}");
                    met.insert(at);
                } else {
                    surprises.push(format!(
                        "{name}: {}: hardware {given}, simulator {ours} ({})",
                        pair.name, counted.case
                    ));
                }
            }
            kernels.insert(name);
        }
    }
    println!("{} kernels, {agree} counters agree", kernels.len());
    assert!(kernels.len() >= 10, "{kernels:?}");
    assert!(surprises.is_empty(), "{}", surprises.join("\n"));
    let stale: Vec<_> = known.keys().filter(|at| !met.contains(at)).collect();
    assert!(stale.is_empty(), "differences.toml names what agrees: {stale:?}");
}
