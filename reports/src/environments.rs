//! Machines, software and device limits behind the records.

use serde::Serialize;
use touchstone_bench::environment::{Device, Environment, Limits};

use crate::{derive::Sheet, units};

/// A machine with the software that ran on it, and how many records it made.
#[derive(Serialize)]
pub struct Machine {
    /// The GPU's name, or the processor's where there was none.
    name: String,
    /// What is known of it: name and value.
    facts: Vec<(String, String)>,
}

/// The machines of all records. Runs of the same software on the same machine are one entry.
pub fn machines(sheet: &Sheet<'_>) -> Vec<Machine> {
    let mut machines: Vec<(&Environment, Vec<&str>, usize)> = Vec::new();
    for row in &sheet.rows {
        let environment = &row.record.environment;
        match machines.iter_mut().find(|(known, ..)| same(known, environment)) {
            Some((known, dates, count)) => {
                if environment.date >= known.date {
                    *known = environment;
                }
                dates.push(&environment.date);
                *count += 1;
            }
            None => machines.push((environment, vec![&environment.date], 1)),
        }
    }
    machines.iter().map(|(environment, dates, count)| machine(environment, dates, *count)).collect()
}

fn same(a: &Environment, b: &Environment) -> bool {
    let device = |e: &Environment| {
        e.device.as_ref().map(|d| (d.name.clone(), d.driver.clone(), d.cuda.clone()))
    };
    (&a.touchstone, &a.revision, &a.cpu, a.cpu_threads, device(a))
        == (&b.touchstone, &b.revision, &b.cpu, b.cpu_threads, device(b))
}

fn machine(environment: &Environment, dates: &[&str], count: usize) -> Machine {
    let first = dates.iter().min().copied().unwrap_or_default();
    let last = dates.iter().max().copied().unwrap_or_default();
    let date = if first == last { first.to_string() } else { format!("{first} to {last}") };
    let mut facts = vec![
        ("records".to_string(), count.to_string()),
        ("date".to_string(), date),
        ("touchstone".to_string(), environment.touchstone.clone()),
        ("revision".to_string(), environment.revision.clone()),
        ("processor".to_string(), environment.cpu.clone()),
        ("hardware threads".to_string(), environment.cpu_threads.to_string()),
    ];
    match &environment.device {
        Some(device) => facts.extend(device_facts(device)),
        None => facts.push(("GPU".to_string(), "none".to_string())),
    }
    let name = environment.device.as_ref().map_or(&environment.cpu, |device| &device.name);
    Machine { name: name.clone(), facts }
}

fn device_facts(device: &Device) -> Vec<(String, String)> {
    let clock = |mhz: Option<u32>| mhz.map(|mhz| format!("{mhz} MHz"));
    let mut facts = vec![
        ("GPU", Some(device.name.clone())),
        ("compute capability", Some(device.compute.clone())),
        ("driver", Some(device.driver.clone())),
        ("CUDA of the driver", Some(device.cuda.clone())),
        ("multiprocessors", Some(device.multiprocessors.to_string())),
        ("memory", Some(units::bytes(device.memory_bytes as f64))),
        ("L2 cache", Some(units::bytes(device.l2_bytes as f64))),
        ("SM clock at start", clock(device.sm_clock_mhz)),
        ("highest SM clock", clock(device.max_sm_clock_mhz)),
    ];
    match &device.limits {
        Some(limits) => facts.extend(limit_facts(limits)),
        None => facts.push(("limits", Some("not measured".to_string()))),
    }
    facts.into_iter().filter_map(|(name, value)| Some((name.to_string(), value?))).collect()
}

fn limit_facts(limits: &Limits) -> Vec<(&'static str, Option<String>)> {
    let rate = |per_s: f64, text: String| (per_s > 0.0).then_some(text);
    let flops = |per_s: f64| rate(per_s, units::flops(per_s) + " TFLOP/s");
    vec![
        (
            "measured copy bandwidth",
            rate(limits.copy_bytes_per_s, units::bandwidth(limits.copy_bytes_per_s) + " GB/s"),
        ),
        ("measured f32 rate", flops(limits.f32_flops_per_s)),
        ("measured matrix rate (bf16, mma.sync)", flops(limits.matrix_flops_per_s)),
        ("measured matrix rate (bf16, wgmma)", limits.wgmma_flops_per_s.and_then(flops)),
        ("measured matrix rate (e4m3, wgmma)", limits.wgmma_e4m3_flops_per_s.and_then(flops)),
        ("measured exponentials", rate(limits.exp2_per_s, units::items(limits.exp2_per_s, "exp2"))),
        (
            "measured scattered atomics",
            rate(limits.atomics_per_s, units::items(limits.atomics_per_s, "additions")),
        ),
    ]
}
