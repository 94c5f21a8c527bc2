//! The page must be complete, honest, self-contained and small, whatever the records are.

use touchstone_bench::{
    agreement::{Agreement, OutputAgreement},
    environment::{Device, Environment, Limits},
    record::{Executor, KernelResources, Measurement, Outcome, Record, SCHEMA, WorkRecord},
};
use touchstone_reports::{Options, render, write};

/// A repeatable number between 0 and 1 from a text.
fn noise(text: &str) -> f64 {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    ((hash ^ (hash >> 29)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f64 / f64::from(1 << 24)
}

fn h100() -> Environment {
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
                exp2_per_s: 4.1e12,
                atomics_per_s: 2.4e10,
            }),
        }),
    }
}

fn laptop() -> Environment {
    Environment {
        date: "2026-02-04T08:00:00Z".into(),
        touchstone: "0.1.0".into(),
        revision: "0123abcd+dirty".into(),
        cpu: "AMD EPYC 7B13".into(),
        cpu_threads: 2,
        device: None,
    }
}

fn agreement(share: Option<f64>, failed: u64) -> Agreement {
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
        trial: None,
        work: Some(WorkRecord {
            flops: story.work.1 * size as f64,
            bytes: story.work.0 * size as f64,
            items: size as f64,
            item_unit: story.unit.into(),
            matrix: case.contains("bf16"),
        }),
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
        clock: if gpu { "CUDA events" } else { "host monotonic" }.into(),
        cold_ns: (0..31).filter(|_| gpu).map(|i| sample("cold", cold, i)).collect(),
        warm_ns: (0..31).map(|i| sample("warm", 1.0, i)).collect(),
        throttled: 0,
        peak_bytes: peak as u64,
        workspace_bytes: (peak * 0.1) as u64,
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
fn realistic() -> Vec<Record> {
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

/// The same with a wrong result, a failed run and an invalid time.
fn troubled() -> Vec<Record> {
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
fn text_chain() -> serde_json::Value {
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
    })
}

fn options() -> Options {
    Options {
        title: "Touchstone".into(),
        notes: vec!["Quick run on this machine, with the recorded results of an H100.".into()],
        text_chain: Some(text_chain()),
    }
}

fn page(records: &[Record]) -> String {
    render(records, &options()).unwrap()
}

/// The page as a tree. The page is written so that an XML parser reads it, which also proves that every tag
/// is closed and every text escaped.
fn with_tree(page: &str, look: impl FnOnce(&roxmltree::Document<'_>)) {
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    match roxmltree::Document::parse_with_options(page, options) {
        Ok(document) => look(&document),
        Err(error) => panic!("not well-formed: {error}"),
    }
}

fn text_of(node: roxmltree::Node<'_, '_>) -> String {
    let texts: Vec<&str> =
        node.descendants().filter(|n| n.is_text()).filter_map(|n| n.text()).collect();
    texts.join(" ").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn the_page_is_well_formed_and_its_fragments_exist_once() {
    for records in [realistic(), troubled(), Vec::new()] {
        with_tree(&page(&records), |tree| {
            let mut ids: Vec<&str> =
                tree.descendants().filter_map(|node| node.attribute("id")).collect();
            let all = ids.len();
            ids.sort_unstable();
            ids.dedup();
            assert_eq!(ids.len(), all, "an id is given twice");
            for target in tree.descendants().filter_map(|node| node.attribute("href")) {
                let id = target.strip_prefix('#').expect("only links within the page");
                assert!(ids.contains(&id), "{target} leads nowhere");
            }
        });
    }
}

#[test]
fn the_page_loads_nothing_from_anywhere() {
    let page = page(&troubled());
    for load in ["http:", "https:", "//cdn", "@import", "url(", "<link", "src=", "<iframe"] {
        assert!(!page.contains(load), "the page contains {load}");
    }
}

#[test]
fn every_plot_has_a_title_axes_with_units_and_only_finite_numbers() {
    let page = page(&troubled());
    with_tree(&page, |tree| {
        let plots: Vec<_> = tree.descendants().filter(|node| node.has_tag_name("svg")).collect();
        assert!(plots.len() > 12, "{} plots", plots.len());
        for plot in plots {
            let title = plot.first_element_child().unwrap();
            assert!(title.has_tag_name("title") && title.text().is_some());
            for attribute in plot.descendants().flat_map(|node| node.attributes()) {
                assert!(!attribute.value().contains("NaN"), "{attribute:?}");
                assert!(!attribute.value().contains("inf"), "{attribute:?}");
            }
        }
    });
    for unit in [" µs</text>", " ms</text>", " MiB</text>", " %</text>"] {
        let text = page.replace('\n', "");
        assert!(text.contains(unit), "no tick says {unit}");
    }
}

#[test]
fn the_first_words_say_whether_everything_is_right() {
    let verdict = |records: &[Record]| {
        let mut said = String::new();
        with_tree(&page(records), |tree| {
            let node = tree
                .descendants()
                .find(|n| n.attribute("class").is_some_and(|class| class.starts_with("verdict")));
            said = text_of(node.unwrap());
        });
        said
    };
    let right = verdict(&realistic());
    assert!(right.starts_with("Everything that ran is right"), "{right}");
    let wrong = verdict(&troubled());
    assert!(wrong.contains("1 result wrong, 1 run failed"), "{wrong}");
    let empty = verdict(&[]);
    assert!(empty.contains("no records"), "{empty}");
    let skipped: Vec<Record> = realistic()
        .into_iter()
        .filter(|record| matches!(record.outcome, Outcome::Skipped { .. }))
        .collect();
    let nothing = verdict(&skipped);
    assert!(nothing.starts_with("Nothing ran"), "{nothing}");
}

#[test]
fn what_is_wrong_or_failed_is_named_with_its_replay() {
    let records = troubled();
    with_tree(&page(&records), |tree| {
        let problems =
            tree.descendants().find(|node| node.attribute("id") == Some("problems")).unwrap();
        let text = text_of(problems);
        for said in [
            &format!("touchstone check '{}'", records[0].case),
            "got <NaN> & \"more\"",
            "CUDA: illegal address",
        ] {
            assert!(text.contains(said), "{said} is missing in: {text}");
        }
    });
}

#[test]
fn skips_of_the_same_reason_are_one_line_with_their_count() {
    let records = realistic();
    let count = records
        .iter()
        .filter(|r| r.outcome == Outcome::Skipped { reason: "no CUDA device".into() })
        .count();
    with_tree(&page(&records), |tree| {
        let section =
            tree.descendants().find(|node| node.attribute("id") == Some("skipped")).unwrap();
        let lines: Vec<String> = section
            .descendants()
            .filter(|node| node.has_tag_name("tr"))
            .map(text_of)
            .filter(|line| line.contains("no CUDA device"))
            .collect();
        assert_eq!(lines.len(), 1);
        assert!(lines[0].starts_with(&format!("{count} no CUDA device")), "{}", lines[0]);
    });
}

#[test]
fn the_text_chain_is_told_in_words_and_plots() {
    with_tree(&page(&realistic()), |tree| {
        let chain = tree.descendants().find(|node| node.attribute("id") == Some("chain")).unwrap();
        let text = text_of(chain);
        for said in ["90000 words", "kneser ney", "virtus (0.81)", "agrees with theory: 58.3 %"] {
            assert!(text.contains(said), "{said} is missing in: {text}");
        }
        assert_eq!(chain.descendants().filter(|node| node.has_tag_name("svg")).count(), 3);
    });
    let options = Options { text_chain: Some(serde_json::json!({ "corpus": 1 })), ..options() };
    assert!(render(&[], &options).unwrap_err().to_string().contains("text chain"));
}

#[test]
fn every_record_with_a_result_is_in_a_table() {
    let records = realistic();
    let proven = records.iter().filter(|record| record.agreement().is_some()).count();
    with_tree(&page(&records), |tree| {
        let cases = tree
            .descendants()
            .filter(|node| node.has_tag_name("td") && node.attribute("class") == Some("case"));
        assert_eq!(cases.count(), proven);
    });
}

#[test]
fn no_plot_mixes_devices() {
    with_tree(&page(&realistic()), |tree| {
        for figure in tree.descendants().filter(|node| node.has_tag_name("figure")) {
            let caption = text_of(figure.first_element_child().unwrap());
            let in_chain = figure.ancestors().any(|node| node.attribute("id") == Some("chain"));
            if caption.starts_with("Error as") || in_chain {
                continue;
            }
            let legend = text_of(figure);
            let (gpu, cpu) = (caption.contains("H100"), caption.contains("EPYC"));
            assert!(gpu != cpu, "{caption}");
            assert_eq!(cpu, legend.contains("reference"), "{caption}: {legend}");
        }
    });
}

#[test]
fn an_invalid_time_is_never_the_fastest() {
    let mut records: Vec<Record> = realistic();
    records.retain(|r| r.op() == "ssm.recurrence" && r.executor == Executor::Cuda);
    records.retain(|r| r.measurement().is_some());
    for record in &mut records {
        if let Outcome::Measured { measurement, .. } = &mut record.outcome
            && record.variant == "recurrence_chunked"
        {
            measurement.above_limit = true;
        }
    }
    with_tree(&page(&records), |tree| {
        let summary =
            tree.descendants().find(|node| node.attribute("id") == Some("summary")).unwrap();
        let text = text_of(summary);
        assert!(text.contains("recurrence_block_scan"), "{text}");
        assert!(!text.contains("recurrence_chunked"), "{text}");
        assert!(text.contains("beyond what the device can do"), "{text}");
    });
}

#[test]
fn samples_that_are_no_numbers_do_not_break_the_page() {
    let mut records = realistic();
    for (index, record) in records.iter_mut().enumerate() {
        let Outcome::Measured { agreement, measurement } = &mut record.outcome else { continue };
        match index % 5 {
            0 => measurement.cold_ns = vec![f64::NAN; 31],
            1 => measurement.cold_ns.clear(),
            2 => {
                measurement.cold_ns.clear();
                measurement.warm_ns = vec![0.0];
            }
            3 => agreement.outputs.clear(),
            _ => measurement.peak_bytes = 0,
        }
    }
    with_tree(&page(&records), |_| {});
}

#[test]
fn names_from_records_cannot_write_tags() {
    let mut records = realistic();
    for record in &mut records {
        record.variant = format!("<script>\"'&{}", record.variant);
        record.case += ",name=<b>";
    }
    let page = page(&records);
    with_tree(&page, |_| {});
    assert_eq!(page.matches("<script>").count(), 1, "only the page's own");
}

#[test]
fn two_thousand_records_stay_below_three_mebibytes() {
    let mut records = realistic();
    let ops = ["a", "b", "c", "d", "e", "f"];
    for op in ops {
        let copies: Vec<Record> = realistic()
            .into_iter()
            .map(|mut record| {
                record.case = record.case.replacen('.', &format!(".{op}_"), 1);
                record
            })
            .collect();
        records.extend(copies);
    }
    assert!(records.len() > 2000);
    records.truncate(2000);
    let size = page(&records).len();
    assert!(size < 3 << 20, "{size} bytes");
}

#[test]
fn the_page_is_written_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("report");
    let path = write(&realistic(), &dir, &options()).unwrap();
    assert_eq!(path, dir.join("index.html"));
    assert!(std::fs::read_to_string(&path).unwrap().ends_with("</html>\n"));
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1, "nothing is left beside it");
    // A page to look at: TOUCHSTONE_LOOK=FOLDER cargo test --test report written
    if let Some(look) = std::env::var_os("TOUCHSTONE_LOOK") {
        write(&realistic(), std::path::Path::new(&look), &options()).unwrap();
        write(&troubled(), &std::path::Path::new(&look).join("troubled"), &options()).unwrap();
    }
}
