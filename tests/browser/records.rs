//! Records for the tests of the report: what a quick run and recorded results look like together.
#![allow(dead_code, reason = "each test that includes this module uses a part of it")]

use touchstone_bench::{
    agreement::{Agreement, OutputAgreement},
    environment::{Device, Environment, Limits},
    record::{Executor, KernelResources, Measurement, Outcome, Record, SCHEMA, WorkRecord},
};
use touchstone_cuda::simulator::cost::{Cost, Counts};
use touchstone_reports::{Change, Comparison, Options};

/// A repeatable number between 0 and 1 from a text.
fn noise(text: &str) -> f64 {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    ((hash ^ (hash >> 29)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f64 / f64::from(1 << 24)
}

pub fn h100() -> Environment {
    Environment {
        date: "2026-02-03T10:20:30Z".into(),
        touchstone: "0.1.0".into(),
        revision: "0123abcd".into(),
        cpu: "Intel(R) Xeon(R) Platinum 8480C".into(),
        cpu_threads: 16,
        device: Some(Device {
            name: "NVIDIA H100 80GB HBM3".into(),
            compute: "9.0".into(),
            driver: "580.95.05".into(),
            cuda: "13.0".into(),
            multiprocessors: 132,
            memory_bytes: 85_000_000_000,
            l2_bytes: 52_428_800,
            sm_clock_mhz: Some(1980),
            max_sm_clock_mhz: Some(1980),
            limits: Some(Limits {
                copy_bytes_per_s: 2.9e12,
                f32_flops_per_s: 6.1e13,
                matrix_flops_per_s: 6.6e14,
                wgmma_flops_per_s: None,
                wgmma_e4m3_flops_per_s: None,
                exp2_per_s: 4.1e12,
                atomics_per_s: 2.4e10,
            }),
        }),
    }
}

pub fn laptop() -> Environment {
    Environment {
        date: "2026-02-04T08:00:00Z".into(),
        touchstone: "0.1.0".into(),
        revision: "0123abcd+dirty".into(),
        cpu: "AMD EPYC 7B13".into(),
        cpu_threads: 2,
        device: None,
    }
}

pub fn agreement(share: Option<f64>, failed: u64) -> Agreement {
    Agreement {
        outputs: vec![OutputAgreement {
            name: "out".into(),
            elements: 4096,
            compared: 4096,
            failed,
            nan: 0,
            ties: 0,
            worst_share: share,
            relative_rms: Some(1e-7),
            error_elements: None,
            worst: None,
            looks_like: None,
            bits: None,
        }],
        repeatable: true,
    }
}

/// One operation as the tests tell it: its variants with how fast they are and how much they hold.
struct Story {
    op: &'static str,
    key: &'static str,
    sizes: &'static [u64],
    fixed: &'static [&'static str],
    variants: &'static [(&'static str, f64, f64)],
    /// Bytes and operations for each unit of size.
    work: (f64, f64),
    unit: &'static str,
}

const STORIES: &[Story] = &[
    Story {
        op: "attention.forward",
        key: "seq_q=N,seq_k",
        sizes: &[512, 1024, 2048, 4096, 8192],
        fixed: &[
            "batch=1,heads_q=16,heads_kv=16,head_dim=128,mask=full,window=0,lengths=full,dtype=f32",
            "batch=1,heads_q=16,heads_kv=16,head_dim=128,mask=causal,window=0,lengths=full,dtype=bf16",
        ],
        variants: &[
            ("attention_naive", 40.0, 30.0),
            ("attention_online", 9.0, 1.0),
            ("attention_tensor_core", 2.1, 1.02),
            ("peer:pytorch-sdpa", 1.4, 1.01),
        ],
        work: (16_384.0, 1.6e7),
        unit: "queries",
    },
    Story {
        op: "ssm.recurrence",
        key: "seq_len",
        sizes: &[1024, 4096, 16384, 65536],
        fixed: &["batch=2,channels=512,dtype=f32"],
        variants: &[
            ("recurrence_sequential", 22.0, 1.0),
            ("recurrence_block_scan", 3.0, 1.0),
            ("recurrence_chunked", 1.3, 1.2),
        ],
        work: (12_288.0, 4096.0),
        unit: "steps",
    },
    Story {
        op: "embedding.gather",
        key: "tokens",
        sizes: &[1000, 10_000, 100_000, 1_000_000],
        fixed: &["vocab=50257,dim=768,dtype=f32", "vocab=50257,dim=768,dtype=int8"],
        variants: &[("gather_naive", 2.2, 1.0), ("gather_vectorized", 1.1, 1.0)],
        work: (6144.0, 0.0),
        unit: "rows",
    },
    Story {
        op: "acceptance.chain",
        key: "batch",
        sizes: &[4, 64, 256],
        fixed: &["draft_len=5,vocab=128256,mode=sample"],
        variants: &[
            ("acceptance_block_per_row", 6.0, 1.0),
            ("acceptance_blocks_per_row", 1.5, 1.05),
            ("peer:pytorch-eager", 14.0, 3.0),
        ],
        work: (5.1e6, 1e6),
        unit: "rows",
    },
];

fn case(story: &Story, fixed: &str, size: u64) -> String {
    let sizes = format!("{}={size}", story.key.replace("=N", &format!("={size}")));
    format!("{}:{sizes},{fixed},seed=7", story.op)
}

fn record(
    story: &Story,
    case: &str,
    variant: &str,
    environment: Environment,
    outcome: Outcome,
    size: u64,
) -> Record {
    let executor = if variant == "reference" { Executor::Cpu } else { Executor::Cuda };
    Record {
        schema: SCHEMA,
        workload: format!("{}_sizes", story.key.replace(['=', ','], "_")),
        case: case.into(),
        inputs: "drawn".into(),
        variant: variant.into(),
        executor,
        environment,
        work: Some(WorkRecord {
            flops: story.work.1 * size as f64,
            bytes: story.work.0 * size as f64,
            items: size as f64,
            item_unit: story.unit.into(),
            matrix: case.contains("bf16"),
            eight_bit: false,
        }),
        trial: None,
        cost: None,
        outcome,
    }
}

/// A measurement with median about `ns`, all of it a function of `name`.
fn measurement(name: &str, ns: f64, peak: f64, gpu: bool) -> Measurement {
    let sample = |series: &str, factor: f64, i: usize| {
        let jitter = 1.0 + 0.06 * noise(&format!("{name}{series}{i}"));
        (ns * factor * jitter * 10.0).round() / 10.0
    };
    let cold = 1.0 + 0.5 * noise(name);
    Measurement {
        clock: if gpu { "CUDA events" } else { "thread CPU time" }.into(),
        cold_ns: (0..31).filter(|_| gpu).map(|i| sample("cold", cold, i)).collect(),
        warm_ns: (0..31).map(|i| sample("warm", 1.0, i)).collect(),
        throttled: 0,
        peak_bytes: peak as u64,
        workspace_bytes: (peak * 0.1) as u64,
        predicted: None,
        kernels: vec![KernelResources {
            symbol: format!("{}_f32", name.split('@').next().unwrap_or(name)),
            registers: 64,
            local_bytes: 0,
            shared_bytes: 49_152,
        }],
        above_limit: false,
    }
}

/// What a quick run on a laptop and the shipped H100 records look like together.
pub fn realistic() -> Vec<Record> {
    let mut records = Vec::new();
    for story in STORIES {
        for &fixed in story.fixed {
            for &size in story.sizes {
                let case = case(story, fixed, size);
                let bytes = story.work.0 * size as f64;
                let floor = (bytes / 2.9e12).max(story.work.1 * size as f64 / 6e13) * 1e9;
                for &(variant, slow, memory) in story.variants {
                    let name = format!("{variant}@{case}");
                    let ns = 2500.0 + floor * slow * (1.0 + 0.2 * noise(&name));
                    let share = 10f64.powf(-3.0 * noise(&name));
                    records.push(record(
                        story,
                        &case,
                        variant,
                        h100(),
                        Outcome::Measured {
                            agreement: agreement(Some(share), 0),
                            measurement: measurement(&name, ns, bytes * memory, true),
                        },
                        size,
                    ));
                    if !variant.starts_with("peer:") {
                        let reason = "no CUDA device".to_string();
                        let skipped = Outcome::Skipped { reason };
                        records.push(record(story, &case, variant, laptop(), skipped, size));
                    }
                }
                let name = format!("reference@{case}");
                let outcome = Outcome::Measured {
                    agreement: agreement(Some(0.0), 0),
                    measurement: measurement(&name, floor * 4e3 + 1e4, bytes, false),
                };
                records.push(record(story, &case, "reference", laptop(), outcome, size));
            }
            records.extend(simulated(story, fixed));
            for edge in 0..12 {
                let case = format!("{},edge={edge}", case(story, fixed, 33 + edge));
                for &(variant, ..) in story.variants {
                    let share = 10f64.powf(-4.0 * noise(&format!("{variant}{case}")));
                    let outcome = match edge {
                        0 => Outcome::Checked { agreement: agreement(None, 0) },
                        1 => Outcome::Skipped { reason: "head_dim must be 64 or 128".into() },
                        _ => Outcome::Checked { agreement: agreement(Some(share), 0) },
                    };
                    records.push(record(story, &case, variant, h100(), outcome, 33));
                }
            }
        }
    }
    records
}

/// The smallest size of a story in the simulator: right, without times, with exact costs.
fn simulated(story: &Story, fixed: &str) -> Vec<Record> {
    let size = story.sizes[0];
    let case = case(story, fixed, size);
    let own = story.variants.iter().filter(|(variant, ..)| !variant.starts_with("peer:"));
    own.map(|&(variant, slow, memory)| {
        let sectors = story.work.0 * size as f64 * memory / 32.0;
        let mut cost = Cost::default();
        let counts = Counts {
            instructions: (1e4 * slow * size as f64) as u64,
            loads: sectors as u64,
            global_read_sectors: sectors as u64,
            ..Counts::default()
        };
        cost.add("kernel", variant, &counts);
        let outcome = Outcome::Checked { agreement: agreement(Some(0.1), 0) };
        let record = record(story, &case, variant, laptop(), outcome, size);
        Record { executor: Executor::Simulator, cost: Some(cost), ..record }
    })
    .collect()
}

/// The same with a wrong result, a failed run and an invalid time.
pub fn troubled() -> Vec<Record> {
    let mut records = realistic();
    records[0].outcome = Outcome::Wrong {
        agreement: Some(agreement(None, 3)),
        complaint:
            "output 'out': 3 of 4096 compared elements are wrong (3 NaN); got <NaN> & \"more\""
                .into(),
    };
    records[2].outcome = Outcome::Failed { error: "CUDA: illegal address".into() };
    if let Outcome::Measured { measurement, .. } = &mut records[4].outcome {
        measurement.above_limit = true;
    }
    records
}

/// What `TextChain` serializes to.
pub fn text_chain() -> serde_json::Value {
    let model = |smoothing: &str, order: u32| {
        serde_json::json!({
            "smoothing": smoothing,
            "order": order,
            "perplexity": match smoothing {
                "add_k" => 300.0 * f64::from(order),
                _ => 400.0 / f64::from(order),
            },
            "perplexity_known": 250.0,
            "ngrams": 9000 * order,
            "bytes": 90_000 * order * order,
        })
    };
    let models = |smoothing: &'static str| (1..=5).map(move |order| model(smoothing, order));
    let losses: Vec<f64> = (0..20).map(|i| 1.6 + 2.4 / (1.0 + 0.4 * f64::from(i))).collect();
    serde_json::json!({
        "corpus": "embedded",
        "bytes": 540_000,
        "words": 90_000,
        "words_used": 90_000,
        "sentences": 5200,
        "train_words": 81_000,
        "vocabulary": 7400,
        "unknown": 0.081,
        "models": models("kneser_ney").chain(models("add_k")).collect::<Vec<_>>(),
        "embeddings": {
            "dim": 64,
            "epochs": 2,
            "losses": losses,
            "neighbours": [{ "word": "amicitia", "nearest": [["virtus", 0.81], ["vita", 0.77]] }],
        },
        "acceptance": {
            "draft_order": 2,
            "target_order": 4,
            "draft_len": 4,
            "steps": 4000,
            "examined": 9000,
            "measured": 0.583,
            "theoretical": 0.579,
            "standard_error": 0.005,
            "tokens_per_step": 2.24,
            "tokens_per_step_independent": 2.2,
        },
        "neural": neural(),
    })
}

/// What a neural target's loop on a GPU serializes to.
fn neural() -> serde_json::Value {
    let scheme = |scheme: &str, nodes: u32, tokens: u32, seconds: f64| {
        serde_json::json!({
            "decoded": {
                "scheme": scheme,
                "drafted": nodes - 1,
                "depth": if nodes == 1 { 0 } else { 4 },
                "steps": 2400,
                "tokens": tokens,
                "expected": f64::from(tokens) / 2400.0,
                "standard_error": 0.02,
                "law": 0.4,
                "departure": 0.0,
                "seconds": seconds,
            },
            "nodes": nodes,
            "passes": 300,
            "in_passes": 0.8 * seconds,
            "variant": "tiled",
            "alone": 0.00008,
            "drift": 1e-6,
        })
    };
    serde_json::json!({
        "device": "NVIDIA H200",
        "outcomes": 28,
        "trained": 44_000,
        "parameters": 48_000,
        "hidden": 64,
        "layers": 1,
        "training": [400, 256],
        "losses": [3.0, 2.2],
        "perplexity": 7.9,
        "ngrams": [[1, 17.0], [3, 8.2]],
        "draft_order": 3,
        "rows": 8,
        "schemes": [scheme("plain", 1, 2400, 0.03), scheme("tree", 13, 6000, 0.045)],
    })
}

pub fn options() -> Options {
    Options {
        title: "Touchstone".into(),
        notes: vec!["Quick run on this machine, with the recorded results of an H100.".into()],
        text_chain: Some(text_chain()),
        ..Options::default()
    }
}

/// The realistic records as three earlier revisions made them, the oldest first, and as they are now.
pub fn past() -> Vec<Record> {
    let now = realistic();
    let earlier = [
        ("aaaa1111", "2026-01-10", 1.4),
        ("bbbb2222", "2026-01-17", 1.1),
        ("cccc3333", "2026-01-24", 0.9),
    ];
    let mut all = Vec::new();
    for (revision, date, slower) in earlier {
        all.extend(now.iter().filter(|record| record.measurement().is_some()).map(|record| {
            let mut record = record.clone();
            record.environment.revision = revision.into();
            record.environment.date = format!("{date}T12:00:00Z");
            if let Outcome::Measured { measurement, .. } = &mut record.outcome {
                let samples = measurement.cold_ns.iter_mut().chain(&mut measurement.warm_ns);
                samples.for_each(|ns| *ns *= slower);
            }
            record
        }));
    }
    all.extend(now);
    all
}

/// A comparison with every verdict in it.
pub fn comparison() -> Comparison {
    let timed = realistic().into_iter().filter(|record| record.measurement().is_some());
    let verdicts =
        ["same", "slower", "faster", "unclear", "same", "missing", "same", "wrong", "new"];
    let changes = timed.zip(verdicts.into_iter().cycle()).map(|(record, verdict)| {
        let ns = record.measurement().and_then(|m| m.median_ns());
        let ratio = match verdict {
            "slower" => Some(1.2 + noise(&record.case)),
            "faster" => Some(0.8 - 0.5 * noise(&record.case)),
            "unclear" => Some(1.04),
            "same" => Some(0.99 + 0.02 * noise(&record.case)),
            _ => None,
        };
        Change {
            verdict,
            reason: "medians differ by more than the smallest effect that counts".into(),
            variant: record.variant.clone(),
            case: record.case.clone(),
            place: "NVIDIA H100 80GB HBM3, driver 580.95.05".into(),
            before_ns: ns,
            after_ns: ns.zip(ratio).map(|(ns, ratio)| ns * ratio),
            ratio,
            interval: ratio.map(|ratio| [ratio * 0.97, ratio * 1.04]),
            before_bytes: record.measurement().map(|m| m.peak_bytes as f64),
            after_bytes: record.measurement().map(|m| m.peak_bytes as f64 * 1.5),
        }
    });
    Comparison {
        before: "before.jsonl".into(),
        after: "after.jsonl".into(),
        problem: None,
        changes: changes.collect(),
    }
}

/// The committed results of the H100, and copies of them under the names of further algorithms, `count` in all.
pub fn many(count: usize) -> Vec<Record> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/ci/baselines/h100");
    let shipped = touchstone_bench::record::read(std::path::Path::new(folder)).unwrap();
    let copies = (0..).flat_map(|copy| {
        shipped.iter().cloned().map(move |mut record| {
            if copy > 0 {
                record.case = record.case.replacen('.', &format!("_{copy}."), 1);
            }
            record
        })
    });
    copies.take(count).collect()
}
