//! Every parser of the project, as a function of bytes that must come back: with a value or an error, never a
//! panic. Where a value came out, what it says of itself must hold. `tests/fuzz.rs` feeds them mutated seeds on
//! any machine; `tests/fuzz/` feeds them to libFuzzer.

use std::{io::Cursor, path::Path, sync::LazyLock};

use touchstone_bench::{
    Outcome, Problem, Record, Runner, Task, corpus, exchange, record, workload,
};
use touchstone_cuda::{Custom, ptx, simulator::kernel};
use touchstone_reference::{Case, DType, Tensor, Tensors, ngram::arpa, operation};

/// One parser.
pub struct Parser {
    /// What it reads.
    pub name: &'static str,
    /// Well-formed examples to start from.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Reads bytes; panics where the parser is at fault.
    pub read: fn(&[u8]),
    /// Pieces of its language, for mutations.
    pub words: &'static [&'static str],
}

/// All parsers.
pub const PARSERS: &[Parser] = &[
    Parser {
        name: "case",
        seeds: || lines(&case_ids()),
        read: case,
        words: &[
            ":",
            "=",
            ",",
            "seed=",
            "dtype=bf16",
            "batch=",
            "-1",
            "1e999",
            "true",
            "null",
            "\"",
            "[1]",
        ],
    },
    Parser {
        name: "workloads",
        seeds: || vec![WORKLOADS.into()],
        read: workloads,
        words: &[
            "[[workload]]\n",
            "case = {",
            "[1, 2, 3]",
            "tier = \"edge\"",
            "op = ",
            "\"\"\"",
            "seed = -1",
            "1e9",
        ],
    },
    Parser {
        name: "records",
        seeds: records_seeds,
        read: records,
        words: &[
            "{",
            "}",
            "\"schema\":1",
            "\"kind\":\"wrong\"",
            "null",
            "\n",
            "1e999",
            "[[[[",
            "\\ud800",
        ],
    },
    Parser {
        name: "arpa",
        seeds: || vec![ARPA.into()],
        read: arpa,
        words: &[
            "\\data\\\n",
            "ngram 1=",
            "\\2-grams:\n",
            "\\end\\\n",
            "<s>",
            "</s>",
            "<unk>",
            "NaN",
            "-inf",
            "\t",
        ],
    },
    Parser {
        name: "corpus",
        seeds: || {
            vec!["It's 3.14 well-known facts… or not?!\n\nA « heading ».\u{301}\u{feff} End".into()]
        },
        read: text,
        words: &[".", "\n\n", "'", "-", "…", "İ", "ß", "\u{301}", "\u{feff}", "a"],
    },
    Parser {
        name: "safetensors",
        seeds: safetensors_seeds,
        read: safetensors,
        words: &[
            "\"F32\"",
            "\"BF16\"",
            "\"F4\"",
            "\"shape\":[",
            "\"data_offsets\":[0,",
            "__metadata__",
            "{",
            "}",
            "18446744073709551615",
        ],
    },
    Parser {
        name: "launch",
        seeds: || vec![LAUNCH.into()],
        read: launch,
        words: &[
            "[[launch]]\n",
            "[[scratch]]\n",
            "div_ceil(",
            "min(",
            "if(",
            "x.0",
            "batch",
            " / 0",
            " * ",
            "9223372036854775807",
            "shape = [",
            "{ f32 = ",
            "fill = { h = 0 }",
        ],
    },
    Parser {
        name: "formula",
        seeds: || FORMULAS.map(Vec::from).to_vec(),
        read: formula,
        words: &[
            "div_ceil(",
            "min(",
            "max(",
            "sqrt(",
            "if(",
            ")",
            ",",
            "x.len",
            "batch",
            "dtype",
            "\"f32\"",
            "/ 0",
            "%",
            "^",
            "&&",
            "!",
            "==",
            "=",
            ";",
            "9223372036854775807",
            "1e308",
        ],
    },
    Parser {
        name: "ptx_kernels",
        seeds: || vec![PTX.into(), ptx::module("ssm_sum").unwrap().into()],
        read: kernels,
        words: &[
            ".entry k(",
            ".reg .f32 %f<",
            ".shared .align 16 .b8 s[",
            ".param .u64",
            "{",
            "}",
            "$L__BB0_1:",
            "@%p1 bra",
            "ld.global.v4.f32 {",
            "st.shared.u32 [%r1+",
            "add.s32 %r1, %r2, ",
            "0f3F800000",
            "ret;",
            ".local",
            "= {",
        ],
    },
    Parser {
        name: "ptx_signature",
        seeds: || vec![PTX.into()],
        read: signature,
        words: &[".entry", "(", ")", ".param", ".u64", ".align 8", ".b8 a[", "]", ",", ".ptr"],
    },
];

fn lines(texts: &[String]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.clone().into_bytes()).collect()
}

/// The first case of every built-in workload.
fn case_ids() -> Vec<String> {
    workload::embedded().unwrap().iter().map(|w| w.cases[0].to_string()).collect()
}

fn case(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(case) = text.parse::<Case>() else { return };
    let again: Case = case.to_string().parse().expect("what is printed is read");
    assert_eq!(again.to_string(), case.to_string());
    if let Ok(normal) = operation(&case).and_then(|operation| operation.normalize(&case)) {
        let again = operation(&normal).unwrap().normalize(&normal).expect("normal is valid");
        assert_eq!(again.to_string(), normal.to_string());
    }
}

const WORKLOADS: &str = r#"
[[workload]]
name = "tails"
why = "sizes around a tile"
op = "ssm.recurrence"
tier = "edge"
seed = 3
case = { batch = [1, 2], seq_len = [0, 1, 31], channels = 5, field = "real", dtype = ["f32", "bf16"] }
"#;

fn workloads(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(workloads) = workload::parse(text, Path::new("fuzz.toml")) else { return };
    for workload in workloads {
        assert!(!workload.cases.is_empty());
        let of_op = |case: &Case| case.op() == workload.op;
        assert!(workload.cases.iter().all(of_op));
    }
}

/// One record of every outcome.
fn records_seeds() -> Vec<Vec<u8>> {
    let mut runner = Runner::new(usize::MAX, false).unwrap();
    let checked = runner.problem("fuzz", &PROBLEM, Task::Check).swap_remove(0);
    let right = checked.agreement().unwrap().clone();
    let measurement = record::Measurement {
        clock: "thread CPU time".into(),
        cold_ns: vec![1.5, 2e9],
        kernels: vec![record::KernelResources::default()],
        ..Default::default()
    };
    let complaint = "output 'h': 1 of 30 elements".into();
    let outcomes = [
        Outcome::Measured { agreement: right.clone(), measurement },
        Outcome::Wrong { agreement: Some(right), complaint },
        Outcome::Skipped { reason: "no CUDA device".into() },
        Outcome::Failed { error: "an illegal access".into() },
    ];
    let others = outcomes.map(|outcome| Record { outcome, ..checked.clone() });
    let lines =
        [checked].into_iter().chain(others).map(|r| serde_json::to_string(&r).unwrap() + "\n");
    let lines: Vec<String> = lines.collect();
    vec![lines.concat().into_bytes(), lines[1].clone().into_bytes()]
}

fn records(bytes: &[u8]) {
    let Ok(records) = record::from_lines("fuzz.jsonl", Cursor::new(bytes)) else { return };
    for record in records {
        let line = serde_json::to_string(&record).unwrap();
        let again = record::from_lines("again.jsonl", Cursor::new(format!("{line}\n")));
        assert_eq!(
            serde_json::to_string(&again.expect("what is written is read")[0]).unwrap(),
            line
        );
        let _ = (record.op(), record.vertical(), record.agreement());
        let _ = record.measurement().and_then(record::Measurement::median_ns);
    }
}

const ARPA: &str = "made by hand\n\\data\\\nngram 1=4\nngram 2=2\n\n\\1-grams:\n-99 <s> -0.5\n-1\ta\t-0.25\n-0.75\t</s>\n\
                    -1.5 b\n\n\\2-grams:\n-0.125\t<s> a\n-0.5 a b\n\n\\end\\\n";

fn arpa(bytes: &[u8]) {
    let Ok((model, words)) = arpa::read(bytes) else { return };
    let mut written = Vec::new();
    arpa::write(&model, &words, &mut written).expect("words that were read can be written");
    let (again, same) = arpa::read(&written[..]).expect("what is written is read");
    assert_eq!((again.order(), again.ngrams(), same), (model.order(), model.ngrams(), words));
}

fn text(bytes: &[u8]) {
    let Ok(corpus) = corpus::Corpus::from_bytes(Path::new("fuzz.txt"), bytes.to_vec()) else {
        return;
    };
    let sentences = corpus.sentences();
    assert!(!sentences.is_empty() && sentences.iter().flatten().all(|word| !word.is_empty()));
    let vocabulary = corpus::Vocabulary::new(&sentences, 1, 100);
    for id in sentences.iter().flat_map(|sentence| vocabulary.ids(sentence)) {
        assert!(!vocabulary.word(id).is_empty());
    }
}

fn safetensors_seeds() -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("seed");
    let two = Tensors::new()
        .with("h", Tensor::from_real(DType::F32, &[2, 3], &[0.5; 6]))
        .with("n", Tensor::from_integers(DType::I64, &[1], &[7]));
    exchange::write_tensors(&path, &two).unwrap();
    let tensors = std::fs::read(&path).unwrap();
    let exported = folder.path().join("exported");
    exchange::export(&PROBLEM, &[], &exported).unwrap();
    vec![tensors, std::fs::read(&exported).unwrap()]
}

fn safetensors(bytes: &[u8]) {
    let Ok(mut archive) = exchange::Archive::new("fuzz.safetensors", Cursor::new(bytes)) else {
        return;
    };
    let _ = archive.note("touchstone");
    for name in archive.names() {
        let info = archive.info(&name).expect("it is named").clone();
        let ours = [DType::F32, DType::Bf16, DType::I64, DType::U8];
        let read = |dtype| archive.tensor(&name, dtype, &info.shape).is_ok();
        assert!(ours.into_iter().map(read).filter(|&read| read).count() <= 1);
    }
}

const LAUNCH: &str = r#"
op = "ssm.recurrence"
name = "mine"
supports = 'field == "real" && dtype != "bf16"'
[let]
columns = "batch * channels"
tiles = "div_ceil(x.1, 64)"
[[scratch]]
name = "carry"
dtype = "f32"
shape = ["tiles", "max(columns, 1)"]
[[launch]]
symbol = "k_{dtype}"
grid = ["div_ceil(columns, 128)", 1, "min(tiles, 65535)"]
block = [128]
shared_bytes = "if(columns > 4, 1024, 0)"
fill = { carry = 0 }
args = ["a", "x", "initial_state?", "h", { buffer = "carry", offset_bytes = 0 }, { i32 = "seq_len" }, { f32 = "1.0 / sqrt(channels)" }]
"#;

const PTX: &str = ".version 8.4\n.target sm_80\n.visible .entry k_f32(\n\t.param .u64 p0,\n\t.param .u64 p1,\n\t\
                   .param .u64 .ptr .global .align 16 p2,\n\t.param .u64 p3,\n\t.param .u64 p4,\n\t.param .u32 p5,\n\t\
                   .param .f32 p6\n)\n{\n\tret;\n}\n.entry s(.param .align 8 .b8 s0[24])\n{\n\tret;\n}\n";

static PROBLEM: LazyLock<Problem> = LazyLock::new(|| {
    let case = "ssm.recurrence:batch=2,seq_len=3,channels=5,field=real,dtype=f32,initial_state=true,seed=1";
    Problem::new(&case.parse().unwrap()).unwrap()
});

fn launch(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(kernel) = Custom::new(text, PTX) else { return };
    let Problem { case, inputs, expected, .. } = &*PROBLEM;
    if let Ok(plan) = kernel.plan(case, inputs, expected) {
        assert!(!plan.steps().is_empty() && plan.scratch_bytes() < 1 << 50);
    }
}

const FORMULAS: [&str; 4] = [
    "div_ceil(batch * channels, 128)",
    "if(dtype == \"f32\" && x.len > 4, min(x.0, 7) % 3, max(1, 2 ^ 3))",
    "1.0 / sqrt(channels) - -seq_len",
    "!(initial_state || x.1 >= 1e3)",
];

/// Every place of a formula: a size, a number, a condition, a name for others.
fn formula(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let text = toml::Value::String(text.into());
    for described in [
        LAUNCH.replace("\"div_ceil(columns, 128)\"", &text.to_string()),
        LAUNCH.replace("\"1.0 / sqrt(channels)\"", &text.to_string()),
        LAUNCH.replace("\"batch * channels\"", &text.to_string()),
        LAUNCH.replace("'field == \"real\" && dtype != \"bf16\"'", &text.to_string()),
    ] {
        launch(described.as_bytes());
    }
}

/// What the simulator makes of a module.
fn kernels(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(names) = kernel::kernels(text) else { return };
    for name in names {
        if let Ok(kernel) = kernel::Kernel::new("fuzz", text, &name) {
            assert_eq!(kernel.name, name);
        }
    }
}

fn signature(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for symbol in ptx::symbols(text) {
        let _ = ptx::parameters(text, symbol);
    }
}
