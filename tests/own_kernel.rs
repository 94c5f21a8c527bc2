//! A user's own kernel takes the path of ours: its description becomes a plan like any other, and what does not
//! fit is named before anything runs.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use touchstone_bench::{
    Problem, Tier,
    verify::{self, Verdict},
    workload,
};
use touchstone_cuda::{Custom, Step, custom::NoPlan, simulator::Simulator, variants};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A description of our own sequential recurrence, as a user would write it who has only its PTX.
fn ours() -> String {
    let ptx = root().join("cuda/ptx/ssm_recurrence_sequential.ptx");
    format!(
        r#"
        op = "ssm.recurrence"
        name = "mine"
        source = "{}"
        supports = 'field == "real"'
        [let]
        columns = "batch * channels"
        [[launch]]
        symbol = "forward_{{dtype}}"
        grid = ["div_ceil(columns, 128)"]
        block = [128]
        args = ["a", "x", "initial_state?", "h", {{ i64 = "x.0" }}, {{ i64 = "seq_len" }}, {{ i64 = "h.2" }}]
        "#,
        ptx.display()
    )
}

fn written(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("kernel.toml");
    std::fs::write(&path, text).unwrap();
    path
}

fn read(text: &str) -> anyhow::Result<Custom> {
    let folder = tempfile::tempdir().unwrap();
    Custom::read(&written(folder.path(), text))
}

fn problem(parameters: &str) -> Problem {
    Problem::new(&format!("ssm.recurrence:{parameters},seed=1").parse().unwrap()).unwrap()
}

const SMALL: &str = "batch=2,seq_len=9,channels=130,field=real,dtype=f32,initial_state=true";

#[test]
fn the_description_of_our_own_kernel_gives_our_own_plan() {
    let own = read(&ours()).unwrap();
    let sequential = variants().find(|v| v.op == own.op() && v.name == "sequential").unwrap();
    let mut planned = 0;
    let workloads = workload::embedded().unwrap();
    for case in
        workloads.iter().filter(|w| w.op == own.op() && w.tier != Tier::Full).flat_map(|w| &w.cases)
    {
        let problem = Problem::new(case).unwrap();
        let mine = match own.plan(case, &problem.inputs, &problem.expected) {
            Ok(plan) => plan,
            Err(NoPlan::Unsupported(_)) => continue,
            Err(misfit) => panic!("{case}: {misfit}"),
        };
        let theirs = (sequential.plan)(case, &problem.inputs).unwrap();
        assert_eq!(mine.buffers(), theirs.buffers(), "{case}");
        let launches = |plan: &touchstone_cuda::Plan| {
            plan.steps()
                .iter()
                .map(|step| match step {
                    Step::Launch(l) => {
                        (l.symbol.clone(), l.grid, l.block, l.shared_bytes, l.args.clone())
                    }
                    Step::Fill(..) => panic!("{case}: a fill"),
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(launches(&mine), launches(&theirs), "{case}");
        planned += 1;
    }
    assert!(planned > 5, "{planned} cases planned");
}

#[test]
fn what_does_not_fit_a_case_is_named() {
    let problem = problem(SMALL);
    let misfit = |from: &str, to: &str| {
        let text = ours();
        assert!(text.contains(from), "{from}");
        let own = read(&text.replacen(from, to, 1)).unwrap();
        own.plan(&problem.case, &problem.inputs, &problem.expected).unwrap_err().to_string()
    };
    for (from, to, parts) in [
        (
            "forward_{dtype}",
            "forward_f64",
            &["no kernel 'forward_f64'", "forward_bf16", "extern"][..],
        ),
        ("{dtype}", "{colour}", &["symbol 'forward_{colour}'"]),
        ("\"a\", ", "", &["takes 7 parameters", "gives 6"]),
        (
            "i64 = \"seq_len\"",
            "i32 = \"seq_len\"",
            &["[8, 8, 8, 8, 8, 8, 8] bytes", "[8, 8, 8, 8, 8, 4, 8]"],
        ),
        ("\"a\", \"x\"", "\"a\", \"y\"", &["argument 2", "no tensor named 'y'", "initial_state"]),
        ("\"initial_state?\", \"h\"", "\"x\", \"a\"", &["output 'h' is given to no launch"]),
        ("block = [128]", "block = [2000]", &["block = 2000 in x", "1024"]),
        ("block = [128]", "block = [64, 32]", &["2048 threads"]),
        ("block = [128]", "block = [0]", &["0 threads"]),
        ("block = [128]", "block = [128]\nshared_bytes = 999999", &["shared_bytes = 999999"]),
        ("div_ceil(columns, 128)", "columns * 100000000", &["grid = ", "2147483647"]),
        ("div_ceil(columns, 128)", "1\", \"1\", \"65536", &["65536 in z"]),
        ("div_ceil(columns, 128)", "rows", &["grid", "nothing is named 'rows'"]),
        ("div_ceil(columns, 128)", "1 - columns", &["is -259"]),
        (
            "\"a\", \"x\"",
            "{ buffer = \"a\", offset_bytes = 99999 }, \"x\"",
            &["offset_bytes = 99999", "'a'"],
        ),
        ("block = [128]", "block = [128]\nfill = { a = 0 }", &["'a' is an input"]),
        (
            "[let]",
            "[[scratch]]\nname = \"h\"\ndtype = \"f32\"\nshape = [1]\n[let]",
            &["scratch 'h'", "taken"],
        ),
        (
            "[let]",
            "[[scratch]]\nname = \"s\"\ndtype = \"f32\"\nshape = [9999999999, 9999999999, 9]\n[let]",
            &["scratch 's'", "bytes"],
        ),
    ] {
        let error = misfit(from, to);
        for part in parts {
            assert!(error.contains(part), "'{part}' is not in: {error}");
        }
    }
    let complex =
        self::problem("batch=1,seq_len=2,channels=3,field=complex,dtype=f32,initial_state=false");
    let refused = read(&ours()).unwrap().plan(&complex.case, &complex.inputs, &complex.expected);
    assert!(matches!(refused, Err(NoPlan::Unsupported(why)) if why.contains("field")));
}

#[test]
fn malformed_descriptions_are_named_with_their_place() {
    for (from, to, parts) in [
        ("op = ", "op ", &["malformed", "line 2"][..]),
        (
            "ssm.recurrence",
            "ssm.recurence",
            &["unknown operation 'ssm.recurence'", "ssm.recurrence"],
        ),
        ("\"mine\"", "\"my kernel\"", &["name 'my kernel'"]),
        ("block = [128]", "blocks = [128]", &["blocks"]),
        ("columns, 128)", "columns, 128", &["formula 'div_ceil(columns, 128'"]),
        ("{ i64 = \"x.0\" }", "{ int = 1 }", &["'int'", "i32|u32"]),
        ("{ i64 = \"x.0\" }", "7", &["an argument is"]),
        (".ptx\"", ".cubin\"", &["not a .cu or .ptx"]),
        ("sequential.ptx", "parallel.ptx", &["cannot read", "parallel.ptx"]),
        ("symbol = ", "# symbol = ", &["names no 'symbol'"]),
    ] {
        let text = ours();
        assert!(text.contains(from), "{from}");
        let error = format!("{:#}", read(&text.replacen(from, to, 1)).unwrap_err());
        for part in parts {
            assert!(error.contains(part), "'{part}' is not in: {error}");
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty.ptx");
    std::fs::write(&empty, "// nothing here").unwrap();
    let error = Custom::read_for(&written(folder.path(), &ours()), &empty, "k").unwrap_err();
    let error = format!("{error:#}");
    assert!(error.contains("empty.ptx") && error.contains("no kernel in it"), "{error}");
}

/// Folders that hold libnvrtc, where the kernels' own compiler was installed for `.ci/run`.
fn compiler() -> Option<PathBuf> {
    let found = std::env::var_os("TOUCHSTONE_NVRTC").map(PathBuf::from).into_iter();
    let installed = std::fs::read_dir(root().join("target/cuda-compiler/lib")).ok();
    let installed = installed
        .into_iter()
        .flatten()
        .flatten()
        .map(|python| python.path().join("site-packages/nvidia/cuda_nvrtc/lib"));
    found.chain(installed).find(|folder| folder.join("libnvrtc.so.12").exists())
}

fn touchstone(arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_touchstone"));
    if let Some(folder) = compiler() {
        command.env("LD_LIBRARY_PATH", folder);
    }
    let output = command.args(arguments).current_dir(root()).output().unwrap();
    let (out, err) = (output.stdout, output.stderr);
    let said = format!("{}{}", String::from_utf8_lossy(&out), String::from_utf8_lossy(&err));
    (output.status.code(), said)
}

#[test]
fn the_example_in_cuda_cpp_compiles_and_plans_or_says_that_it_needs_a_compiler() {
    let case = format!("ssm.recurrence:{SMALL},seed=1");
    let (code, said) =
        touchstone(&["check", &case, "--kernel", "bench/examples/cuda/recurrence.toml"]);
    if said.contains("libnvrtc") {
        assert!(code == Some(2) && said.contains("nvcc -ptx -arch=compute_80"), "{said}");
    } else {
        assert!(code == Some(0) && said.contains("own:example"), "{said}");
        assert!(said.contains("0 wrong, 0 failed"), "{said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn a_kernel_given_by_source_and_symbol_takes_its_launch_from_the_file_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let ptx = folder.path().join("kernel.ptx");
    std::fs::copy(root().join("cuda/ptx/ssm_recurrence_sequential.ptx"), &ptx).unwrap();
    let text = ours();
    let without = |key: &str| {
        let lines = text.lines().filter(|line| !line.trim_start().starts_with(key));
        lines.collect::<Vec<_>>().join("\n")
    };
    written(folder.path(), &without("symbol").replace(root().to_str().unwrap(), "/nowhere"));
    let case = format!("ssm.recurrence:{SMALL},seed=1");
    let given = format!("{}:forward_f32", ptx.display());
    let (code, said) = touchstone(&["check", &case, "--kernel", &given]);
    assert!(code == Some(0) && said.contains("own:mine") && said.contains("0 failed"), "{said}");
    let wrong = format!("{}:forwards", ptx.display());
    let (code, said) = touchstone(&["check", &case, "--kernel", &wrong]);
    assert!(
        code == Some(1) && said.contains("FAILED: own:mine") && said.contains("'forwards'"),
        "{said}"
    );
    let (code, said) = touchstone(&["check", &case, "--kernel", ptx.to_str().unwrap()]);
    assert!(code == Some(2) && said.contains(":SYMBOL"), "{said}");
    let (code, said) = touchstone(&["check", "attention", "--kernel", &given]);
    assert!(code == Some(2) && said.contains("no selected case asks for"), "{said}");
}

#[test]
fn every_kernel_of_a_workload_of_its_operation_is_planned_when_no_case_is_given() {
    let folder = tempfile::tempdir().unwrap();
    let path = written(folder.path(), &ours());
    let (code, said) =
        touchstone(&["check", "--variant", "own:", "--kernel", path.to_str().unwrap()]);
    // Without a GPU nothing is proven, and that is no success.
    let expected = if said.contains("no CUDA device") { 1 } else { 0 };
    assert!(code == Some(expected) && said.contains("0 failed"), "{said}");
    assert!(said.contains("'supports' is false: field == \"real\""), "{said}");
}

#[path = "../bench/examples/own_kernel.rs"]
#[allow(dead_code)]
mod rust_example;

#[test]
fn the_example_in_rust_runs_a_kernel_of_its_own_beside_ours() {
    let folder = tempfile::tempdir().unwrap();
    let path = written(folder.path(), &ours());
    let records = rust_example::check(&path, &format!("ssm.recurrence:{SMALL},seed=1")).unwrap();
    let own = records.iter().find(|record| record.variant == "own:mine").unwrap();
    use touchstone_bench::Outcome::{Checked, Skipped};
    assert!(matches!(own.outcome, Checked { .. } | Skipped { .. }), "{:?}", own.outcome);
    assert!(records.len() > 3, "ours are missing");
}

/// Runs a command; `None` when there is no such program here.
fn ran(command: &mut Command) -> Option<(Option<i32>, String)> {
    match command.output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        output => {
            let output = output.unwrap();
            let (out, err) = (output.stdout, output.stderr);
            let said =
                format!("{}{}", String::from_utf8_lossy(&out), String::from_utf8_lossy(&err));
            Some((output.status.code(), said))
        }
    }
}

fn python(script: &str, case: Option<&str>) -> Option<(Option<i32>, String)> {
    let path = root().join("bench/examples/python").join(script);
    let mut command = Command::new("python3");
    command.env("TOUCHSTONE", env!("CARGO_BIN_EXE_touchstone")).env("PYTHONDONTWRITEBYTECODE", "1");
    ran(command.arg(path).args(case))
}

#[test]
fn the_examples_in_python_are_found_right() {
    let Some((code, said)) = python("check_plain.py", None) else { return };
    assert!(code == Some(0) && said.starts_with("right"), "{said}");
    // A case that it computes wrongly, since it knows of no initial state.
    let (code, said) = python("check_plain.py", Some(&format!("ssm.recurrence:{SMALL}"))).unwrap();
    assert!(code == Some(1) && said.starts_with("WRONG"), "{said}");
    let (_, said) = python("check_plain.py", Some("ssm.recurrence:rows=1")).unwrap();
    assert!(said.contains("ValueError") && said.contains("rows"), "{said}");
    // Needs PyTorch and Triton, which few machines without a GPU have.
    for script in ["check_torch.py", "check_triton.py"] {
        let (code, said) = python(script, None).unwrap();
        let cannot = ["No module named 'torch'", "No module named 'triton'", "CUDA", "NVIDIA"];
        let missing = cannot.iter().any(|what| said.contains(what));
        assert!(missing || (code == Some(0) && said.starts_with("right")), "{script}: {said}");
    }
}

#[test]
fn the_example_in_cpp_is_found_right() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let source = root().join("bench/examples/cpp/own_program.cpp");
    let mut compile = Command::new("c++");
    compile.args(["-std=c++17", "-O1", "-Wall", "-Werror", "-o", &at("own_program")]).arg(source);
    let Some((code, said)) = ran(&mut compile) else { return };
    assert_eq!(code, Some(0), "{said}");
    let case = "ssm.recurrence:batch=3,seq_len=17,channels=4,field=real,dtype=f32,seed=9";
    assert_eq!(touchstone(&["export", case, "--out", &at("case")]).0, Some(0));
    let (code, said) = ran(Command::new(at("own_program")).args([at("case"), at("out")])).unwrap();
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = touchstone(&["verify", case, "--output", &at("out")]);
    assert!(code == Some(0) && said.starts_with("right"), "{said}");
}

/// The simulator's verdict on a kernel, on the path that a GPU's takes.
fn simulated(description: &str) -> Verdict {
    let problem = problem(SMALL);
    let own = read(description).unwrap();
    let plan = own.plan(&problem.case, &problem.inputs, &problem.expected).unwrap();
    let simulator = Simulator::default();
    let prepared = verify::prepare(&simulator, &plan).unwrap().unwrap();
    verify::verify(&prepared, &problem, own.deterministic()).unwrap()
}

#[test]
fn a_kernel_of_one_s_own_is_proven_on_the_simulator_and_wrong_ones_are_caught() {
    let right = simulated(&ours());
    assert!(matches!(right, Verdict::Right(_)), "{right:?}");
    for (from, to, part) in [
        ("\"a\", \"x\"", "\"x\", \"x\"", "elements are wrong"),
        ("128)\"]", "128) - 1\"]", "elements are wrong"),
        ("seq_len", "seq_len + 1", ""),
    ] {
        let text = ours();
        assert!(text.contains(from), "{from}");
        match simulated(&text.replacen(from, to, 1)) {
            Verdict::Wrong(_, complaint) => assert!(complaint.contains(part), "{complaint}"),
            Verdict::Right(_) => panic!("'{to}' passes"),
        }
    }
}

#[test]
fn without_a_gpu_a_kernel_of_one_s_own_is_simulated_and_asked_what_nan_becomes() {
    let folder = tempfile::tempdir().unwrap();
    let ptx = root().join("cuda/ptx/planted_faults.ptx");
    let described = |symbol: &str| {
        let text = format!(
            r#"
            op = "attention.forward"
            name = "planted"
            source = '{}'
            [[launch]]
            symbol = "{symbol}"
            grid = ["div_ceil(batch * seq_q * heads_q, 64)"]
            block = [64]
            args = ["q", "k", "v", "o", "lse", {{ i64 = "batch" }}, {{ i64 = "seq_q" }}, {{ i64 = "heads_q" }},
                    {{ i64 = "head_dim" }}, {{ f32 = "1.0 / sqrt(head_dim)" }}]
            "#,
            ptx.display()
        );
        written(folder.path(), &text)
    };
    let case = "attention.forward:batch=1,seq_q=5,seq_k=5,heads_q=2,heads_kv=2,head_dim=16,mask=causal,dtype=f32,seed=1";
    let check = |symbol: &str, more: &[&str]| {
        let path = described(symbol);
        let kernel = path.to_str().unwrap();
        let all = ["check", case, "--kernel", kernel, "--variant", "own:", "--simulate"];
        touchstone(&[&all[..], more].concat())
    };
    for symbol in ["planted_sound", "planted_hides_nan"] {
        let (code, said) = check(symbol, &[]);
        assert!(code == Some(0) && said.contains("0 wrong, 0 failed"), "{said}");
        assert!(!said.contains("0 checked"), "{said}");
    }
    let (code, said) = check("planted_sound", &["--nan"]);
    assert!(code == Some(0) && !said.contains("\n0 times a NaN"), "{said}");
    let (code, said) = check("planted_hides_nan", &["--nan"]);
    assert!(code == Some(1) && said.contains("hides NaN: with element 80 of 'q' NaN"), "{said}");
    assert!(said.contains("--kernel … --simulate --nan 'attention.forward:"), "{said}");
    let (code, said) = check("planted_skipped_tail", &[]);
    assert!(code == Some(1) && said.contains("elements are wrong"), "{said}");
}

#[test]
fn an_instruction_that_the_simulator_does_not_know_is_a_reason_not_to_run() {
    let folder = tempfile::tempdir().unwrap();
    let known = std::fs::read_to_string(root().join("cuda/ptx/ssm_recurrence_sequential.ptx"));
    let known = known.unwrap();
    let unknown = known.replacen("fma.rn.f32 ", "fma.of.tomorrow ", 1);
    assert_ne!(known, unknown, "it has no fma");
    let ptx = folder.path().join("tomorrow.ptx");
    std::fs::write(&ptx, unknown).unwrap();
    let ours = ours();
    let path = written(
        folder.path(),
        &ours.replace(
            &root().join("cuda/ptx/ssm_recurrence_sequential.ptx").display().to_string(),
            &ptx.display().to_string(),
        ),
    );
    let case = format!("ssm.recurrence:{SMALL},seed=1");
    let kernel = path.to_str().unwrap();
    let arguments = ["check", &case, "--kernel", kernel, "--variant", "own:", "--simulate"];
    let (_, said) = touchstone(&arguments);
    assert!(said.contains("does not know this instruction"), "{said}");
    assert!(said.contains("fma.of.tomorrow") && said.contains("0 wrong"), "{said}");
}
