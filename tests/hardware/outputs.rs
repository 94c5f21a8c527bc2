//! Outputs: equal bit for bit, but for variants that `free.toml` names with the reason.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde::{Deserialize, Serialize};
use touchstone_bench::{
    Agreement, Problem,
    agreement::{Element, OutputAgreement},
    record::{self, Executor, Outcome},
    verify,
};
use touchstone_cuda::{Simulator, Variant, gpu::Poison, simulator::TooLong, variants};
use touchstone_reference::{Case, Tensor, Tensors};

use super::{Source, file, recording, table, variant_of};

/// Of the cases that a variant has fingerprints of, one in so many is simulated; `TOUCHSTONE_CASES=all` takes all.
const EVERY: usize = 8;

/// Warp instructions beyond which a case is passed over.
const LONGEST: u64 = 1 << 20;

/// Digits of a fingerprint that are kept: a wrong output passes for right once in 2⁴⁸.
const DIGITS: usize = 12;

/// What hardware gave for a case, variant by variant.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    case: String,
    variants: BTreeMap<String, Run>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Run {
    /// The fingerprint of each output.
    bits: BTreeMap<String, String>,
    /// Of variants that `free.toml` names, the element of each output that was farthest from the reference.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    worst: BTreeMap<String, Worst>,
}

/// An element that was farthest from the reference on hardware.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Worst {
    at: Vec<u64>,
    got: String,
    bound: f64,
}

impl Worst {
    fn of(output: &OutputAgreement) -> Option<(String, Self)> {
        let Element { index, got, bound, .. } = output.worst.clone()?;
        Some((output.name.clone(), Self { at: index, got, bound }))
    }

    /// How far the simulator's value of the same element is from it, as a share of the bound.
    fn apart(&self, ours: &Tensor) -> f64 {
        let flat = self.at.iter().zip(ours.shape()).fold(0, |flat, (&i, &n)| flat * n + i as usize);
        let got: f64 = self.got.parse().expect("a number");
        let difference = (ours.to_f64()[flat] - got).abs();
        if difference == 0.0 { 0.0 } else { difference / self.bound }
    }
}

/// Variants whose bits PTX leaves free.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    #[serde(default)]
    free: Vec<Free>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Free {
    /// `op::variant`.
    variant: String,
    /// Why its bits may differ.
    why: String,
    /// How far apart the two are at most, as a share of the bound, at the elements where hardware is farthest from the
    /// reference.
    apart: f64,
}

/// Fingerprints of outputs, in short.
fn fingerprints(agreement: &Agreement) -> BTreeMap<String, String> {
    let short = |bits: &String| bits.chars().take(DIGITS).collect::<String>();
    let named =
        |output: &OutputAgreement| Some((output.name.clone(), output.bits.as_ref().map(short)?));
    agreement.outputs.iter().filter_map(named).collect()
}

/// Writes the fingerprints of a records file in short. Those of runs that did not repeat themselves say nothing.
fn accept(records: &Path, free: &BTreeMap<&str, &Free>) {
    let records = record::read(records).expect("records");
    let mut cases: BTreeMap<&str, Given> = BTreeMap::new();
    let mut source = None;
    for record in records.iter().filter(|r| r.executor == Executor::Cuda) {
        let Outcome::Checked { agreement } = &record.outcome else { continue };
        let Some(device) = &record.environment.device else { continue };
        source.get_or_insert_with(|| Source {
            device: device.name.clone(),
            driver: device.driver.clone(),
            date: record.environment.date.chars().take(10).collect(),
        });
        if agreement.repeatable {
            let new = || Given { case: record.case.clone(), variants: BTreeMap::new() };
            let given = cases.entry(&record.case).or_insert_with(new);
            let is_free = free.contains_key(&*format!("{}::{}", record.op(), record.variant));
            let outputs = agreement.outputs.iter().filter(|_| is_free);
            let run = Run {
                bits: fingerprints(agreement),
                worst: outputs.filter_map(Worst::of).collect(),
            };
            given.variants.insert(record.variant.clone(), run);
        }
    }
    let mut text = serde_json::to_string(&source.expect("records of a GPU")).expect("JSON");
    for given in cases.values() {
        text.push('\n');
        text += &serde_json::to_string(given).expect("JSON");
    }
    std::fs::write(file("outputs.jsonl"), text + "\n").expect("outputs.jsonl");
}

/// What the simulator says of a case; nothing when it is too long or not simulated, or what is wrong.
fn simulate(
    simulator: &Simulator,
    problem: &Problem,
    variant: &Variant,
) -> Result<Option<(Agreement, Tensors)>, String> {
    let Ok(plan) = verify::plan(variant, problem) else { return Ok(None) };
    let prepared = simulator.prepare(&plan).map_err(|error| format!("{error:#}"))?;
    prepared.poison(Poison::Nan);
    match prepared.run_watched(&mut ()) {
        Err(error) if error.is::<TooLong>() => return Ok(None),
        Err(error) => return Err(format!("{error:#}")),
        Ok(()) => {}
    }
    let outputs = problem.operation.canonical(&problem.case, prepared.outputs());
    let outputs = outputs.map_err(|error| error.to_string())?;
    let agreement = Agreement::of(&outputs, &problem.expected)?;
    match agreement.complaint() {
        Some(complaint) => Err(complaint),
        None => Ok(Some((agreement, outputs))),
    }
}

/// What came of comparing.
#[derive(Default)]
struct Comparison {
    /// Variants of which something was compared.
    variants: BTreeSet<String>,
    /// Outputs with the same bits.
    equal: usize,
    /// Others, by variant.
    differ: BTreeMap<String, Vec<String>>,
    /// How far apart those are, by variant.
    apart: BTreeMap<String, f64>,
    /// What is wrong by the reference.
    wrong: Vec<String>,
}

impl Comparison {
    fn add(
        &mut self,
        name: &str,
        case: &Case,
        run: &Run,
        agreement: &Agreement,
        outputs: &Tensors,
    ) {
        self.variants.insert(name.to_string());
        for (output, mine) in fingerprints(agreement) {
            if run.bits.get(&output) == Some(&mine) {
                self.equal += 1;
                continue;
            }
            if let Some(worst) = run.worst.get(&output) {
                let most = self.apart.entry(name.to_string()).or_insert(0.0);
                *most = f64::max(*most, worst.apart(outputs.tensor(&output)));
            }
            let differ = self.differ.entry(name.to_string()).or_default();
            differ.push(format!("{output} of {case}"));
        }
    }

    /// Of the cases of both.
    fn and(mut self, other: Self) -> Self {
        self.variants.extend(other.variants);
        self.equal += other.equal;
        for (name, cases) in other.differ {
            self.differ.entry(name).or_default().extend(cases);
        }
        for (name, apart) in other.apart {
            let most = self.apart.entry(name).or_insert(0.0);
            *most = f64::max(*most, apart);
        }
        self.wrong.extend(other.wrong);
        self
    }
}

/// Simulates of these cases one in `every` of each variant's.
fn compare<'a>(
    simulator: &Simulator,
    given: impl Iterator<Item = &'a Given>,
    every: usize,
) -> Comparison {
    let (mut seen, mut comparison) = (BTreeMap::<String, usize>::new(), Comparison::default());
    for given in given {
        let case: Case = given.case.parse().expect("a case");
        let mut problem = None;
        for (name, run) in &given.variants {
            let Some(variant) = variant_of(&case, name) else { continue };
            let name = format!("{}::{name}", variant.op);
            let number = seen.entry(name.clone()).or_default();
            if !number.is_multiple_of(every) {
                *number += 1;
                continue;
            }
            let problem = problem.get_or_insert_with(|| Problem::new(&case).expect("a problem"));
            match simulate(simulator, problem, variant) {
                // The next case takes its turn.
                Ok(None) => continue,
                Ok(Some((agreement, outputs))) => {
                    comparison.add(&name, &case, run, &agreement, &outputs);
                }
                Err(complaint) => comparison.wrong.push(format!("{name} on {case}: {complaint}")),
            }
            *number += 1;
        }
    }
    comparison
}

/// The cases on all cores: of those that fall to a core, one in `every` of each variant's.
fn compare_in_parallel(given: &[Given], every: usize) -> Comparison {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let simulator = Simulator::new().with_threads(1).with_limit(LONGEST);
    let part = |first| compare(&simulator, given.iter().skip(first).step_by(threads), every);
    std::thread::scope(|scope| {
        let parts: Vec<_> = (0..threads).map(|first| scope.spawn(move || part(first))).collect();
        let parts = parts.into_iter().map(|part| part.join().expect("no panic"));
        parts.fold(Comparison::default(), Comparison::and)
    })
}

#[test]
fn simulated_outputs_have_the_hardware_s_bits() {
    let free: Table = table("free.toml");
    let free: BTreeMap<&str, &Free> = free.free.iter().map(|free| (&*free.variant, free)).collect();
    if let Some(records) = std::env::var_os("TOUCHSTONE_HARDWARE") {
        accept(Path::new(&records), &free);
    }
    let (source, given) = recording::<Given>("outputs.jsonl");
    let all = std::env::var("TOUCHSTONE_CASES").is_ok_and(|cases| cases == "all");
    let Comparison { variants: compared, equal, differ, apart, wrong } =
        compare_in_parallel(&given, if all { 1 } else { EVERY });
    println!("{source}: {equal} outputs of {} variants have its bits", compared.len());
    for (name, cases) in &differ {
        let why = free.get(&**name).map_or("NOT EXPECTED", |free| &*free.why);
        let (count, first) = (cases.len(), &cases[0]);
        let apart = apart.get(name).unwrap_or(&f64::NAN);
        println!("{name}: {count} outputs differ, {apart:.4} of the bound ({why}); first: {first}");
    }
    let unexpected: Vec<_> = differ.keys().filter(|name| !free.contains_key(&***name)).collect();
    let farther: Vec<_> = apart
        .iter()
        .filter(|(name, apart)| free.get(&***name).is_some_and(|free| **apart > free.apart))
        .collect();
    let is_variant = |name: &str| variants().any(|v| format!("{}::{}", v.op, v.name) == name);
    let stale: Vec<_> = free.keys().filter(|name| !is_variant(name)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(unexpected.is_empty(), "bits differ without a reason in free.toml: {unexpected:?}");
    assert!(farther.is_empty(), "farther apart than free.toml says: {farther:?}");
    assert!(stale.is_empty(), "free.toml names no variant: {stale:?}");
    assert!(equal > 0, "nothing was compared");
}
