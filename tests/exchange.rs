//! Your own kernel, from any language: problems leave as files, answers come back as files, and damaged or
//! foreign files get a clear error in bounded memory.

use std::{
    io::{Cursor, Write},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use touchstone_bench::{
    Problem, Tier,
    exchange::{self, Archive},
    verify::Verdict,
    workload,
};
use touchstone_reference::{Case, DType, Data, Expected, Tensor, Tensors, operations};

const CASE: &str =
    "ssm.recurrence:batch=2,seq_len=33,channels=5,field=real,dtype=f32,initial_state=true,seed=4";

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn touchstone(folder: &Path, arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_touchstone");
    Command::new(program).args(arguments).current_dir(folder).output().expect("the program starts")
}

fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

/// Asserts an exit code and that what is printed says all of `parts` and tells of no panic.
fn says(folder: &Path, arguments: &[&str], code: i32, parts: &[&str]) {
    let output = touchstone(folder, arguments);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    assert!(!said.contains("panicked"), "{said}");
    for part in parts {
        assert!(said.contains(part), "{arguments:?}: '{part}' is not in: {said}");
    }
}

/// An edge or quick case of every operation, small but not empty.
fn a_case_of_every_operation() -> Vec<Problem> {
    let workloads = workload::embedded().unwrap();
    let of = |name: &str| {
        let cases = workloads.iter().filter(|w| w.op == name && w.tier != Tier::Full);
        cases.flat_map(|w| &w.cases).find_map(|case| {
            let problem = Problem::new(case).unwrap();
            let lengths = problem.expected.iter().map(|(_, e)| e.shape().iter().product::<usize>());
            let lengths: Vec<usize> = lengths.collect();
            let fits =
                !lengths.contains(&0) && (8..100_000).contains(&lengths.iter().sum::<usize>());
            fits.then_some(problem)
        })
    };
    operations()
        .map(|o| of(o.name).unwrap_or_else(|| panic!("{} has no such case", o.name)))
        .collect()
}

/// The reference's own answer, rounded to the outputs' types.
fn right_answer(problem: &Problem) -> Tensors {
    let mut tensors = Tensors::new();
    for (name, expected) in problem.expected.iter() {
        let tensor = match expected {
            Expected::Real(real) => {
                let mut values = vec![0.0; real.shape.iter().product()];
                for (k, &value) in real.value.iter().enumerate() {
                    values[real.at.as_ref().map_or(k, |at| at[k])] = value;
                }
                Tensor::from_real(real.dtype, &real.shape, &values)
            }
            Expected::Discrete(d) => Tensor::from_integers(d.dtype, &d.shape, &d.value),
        };
        tensors.insert(name, tensor);
    }
    tensors
}

#[test]
fn every_operation_s_problem_comes_back_from_its_file_bit_for_bit() {
    let folder = folder();
    for problem in a_case_of_every_operation() {
        let path = folder.path().join(format!("{}.safetensors", problem.operation.name));
        exchange::export(&problem, &workload::embedded().unwrap(), &path).unwrap();
        let again = exchange::problem(&problem.case, &path).unwrap();
        assert_eq!(again.inputs.len(), problem.inputs.len());
        for (name, input) in problem.inputs.iter() {
            // By their bytes: a NaN is not equal to itself.
            let back = again.inputs.tensor(name);
            assert_eq!((back.dtype(), back.shape()), (input.dtype(), input.shape()));
            assert!(back.as_bytes() == input.as_bytes(), "{name} of {}", problem.case);
        }
        assert!(again.source.starts_with("file:") && again.source.contains("blake3:"));
        let mut archive = Archive::open(&path).unwrap();
        let note: serde_json::Value =
            serde_json::from_str(archive.note("touchstone").unwrap()).unwrap();
        assert_eq!(note["case"], problem.case.to_string());
        assert!(!note["workloads"].as_array().unwrap().is_empty(), "{note}");
        for (name, expected) in problem.expected.iter() {
            let Expected::Real(real) = expected else { continue };
            let shape = if real.at.is_some() { vec![real.value.len()] } else { real.shape.clone() };
            let bound = archive.tensor(&format!("bound.{name}"), DType::F64, &shape).unwrap();
            assert_eq!(bound.to_f64(), real.bound, "{}", problem.case);
        }
    }
}

#[test]
fn every_operation_s_right_answer_passes_from_a_file_and_impostors_fail() {
    let folder = folder();
    for problem in a_case_of_every_operation() {
        let at = |kind: &str| folder.path().join(format!("{}.{kind}", problem.operation.name));
        let right = right_answer(&problem);
        exchange::write_tensors(&at("right"), &right).unwrap();
        let read = exchange::read_outputs(&problem.expected, &at("right")).unwrap();
        let verdict = exchange::judge(&problem, &read, Some(&right));
        assert!(
            matches!(&verdict, Verdict::Right(a) if a.repeatable),
            "{}: {verdict:?}",
            problem.case
        );
        let mut poisoned = Tensors::new();
        for (name, tensor) in right.iter() {
            let bytes = vec![0xFF; tensor.bytes()];
            poisoned.insert(name, Tensor::from_bytes(tensor.dtype(), tensor.shape(), &bytes));
        }
        // NaN in every float, −1 in every integer: also nothing that brings outputs in order may panic.
        let verdict = exchange::judge(&problem, &poisoned, None);
        assert!(matches!(verdict, Verdict::Wrong(..)), "{}: poison passes", problem.case);
    }
}

#[test]
fn garbage_answers_of_any_bits_are_wrong_and_no_panic() {
    for problem in a_case_of_every_operation() {
        for seed in 0..8u64 {
            let mut state = seed + 1;
            let mut garbage = Tensors::new();
            for (name, expected) in problem.expected.iter() {
                let len = expected.shape().iter().product::<usize>() * expected.dtype().bytes();
                let next = |_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (state >> 56) as u8
                };
                let bytes: Vec<u8> = (0..len).map(next).collect();
                garbage
                    .insert(name, Tensor::from_bytes(expected.dtype(), expected.shape(), &bytes));
            }
            let verdict = exchange::judge(&problem, &garbage, Some(&garbage));
            assert!(matches!(verdict, Verdict::Wrong(..)), "{}: garbage passes", problem.case);
        }
    }
}

#[test]
fn other_right_values_of_ties_are_exported() {
    let tied = |problem: &Problem| {
        problem.expected.iter().find_map(|(name, expected)| match expected {
            Expected::Discrete(d) if !d.also.is_empty() => Some((name.to_string(), d.also.clone())),
            _ => None,
        })
    };
    let workloads = workload::embedded().unwrap();
    let cases = workloads.iter().filter(|w| w.tier == Tier::Edge).flat_map(|w| &w.cases);
    let found = cases.filter(|case| case.vertical() == "acceptance").find_map(|case| {
        let problem = Problem::new(case).unwrap();
        tied(&problem).map(|(name, also)| (problem, name, also))
    });
    let (problem, name, also) = found.expect("an edge case of acceptance has a tie");
    let folder = folder();
    let path = folder.path().join("tied.safetensors");
    exchange::export(&problem, &[], &path).unwrap();
    let mut archive = Archive::open(&path).unwrap();
    let count = also.values().map(Vec::len).sum();
    let at = archive.tensor(&format!("also.{name}.at"), DType::I64, &[count]).unwrap();
    assert_eq!(at.to_i64()[0], *also.keys().next().unwrap() as i64);
}

/// A file of this header, with `data` zero bytes after it.
fn file_of(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(vec![0; data]);
    bytes
}

#[test]
fn malformed_files_say_what_is_wrong_with_them() {
    let one = r#""h":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#;
    let at = |name: &str, from: usize, to: usize| {
        format!(
            r#""{name}":{{"dtype":"F32","shape":[{}],"data_offsets":[{from},{to}]}}"#,
            (to - from) / 4
        )
    };
    for (bytes, problem) in [
        (vec![], "shorter than 8 bytes"),
        (vec![1, 2, 3], "shorter than 8 bytes"),
        (u64::MAX.to_le_bytes().to_vec(), "its header would have 18446744073709551615 bytes"),
        (1000u64.to_le_bytes().to_vec(), "its header would have 1000 bytes"),
        (file_of("{", 0), "EOF"),
        (file_of("[]", 0), "an object of tensors"),
        (file_of("{\"h\":3}", 0), "its header"),
        (file_of(&format!("{{{one},{one}}}"), 8), "tensor 'h' is there twice"),
        (
            file_of(&format!("{{{},{}}}", at("a", 0, 8), at("b", 4, 12)), 12),
            "Invalid offset for tensor `b`",
        ),
        (
            file_of(&format!("{{{},{}}}", at("a", 0, 8), at("b", 12, 20)), 20),
            "Invalid offset for tensor `b`",
        ),
        (file_of(&format!("{{{one}}}"), 7), "take 8 bytes, the file holds 7"),
        (file_of(&format!("{{{one}}}"), 9), "take 8 bytes, the file holds 9"),
        (
            file_of(&format!("{{{}}}", one.replace("[2]", "[3]")), 8),
            "invalid shape, data type, or offset",
        ),
        (
            file_of(&format!("{{{}}}", one.replace("[2]", "[4294967296,4294967296,2]")), 8),
            "overflow",
        ),
        (file_of(&format!("{{{}}}", one.replace("F32", "F99")), 8), "F99"),
    ] {
        let error =
            format!("{:#}", Archive::new("x.safetensors", Cursor::new(&bytes)).unwrap_err());
        let (error, problem) = (error.to_lowercase(), problem.to_lowercase());
        assert!(
            error.contains("x.safetensors") && error.contains(&problem),
            "'{problem}': {error}"
        );
    }
    let whole = file_of(&format!("{{{one}}}"), 8);
    Archive::new("x", Cursor::new(&whole)).unwrap();
    for cut in 0..whole.len() {
        assert!(Archive::new("x", Cursor::new(&whole[..cut])).is_err(), "cut at {cut}");
    }
}

#[test]
fn answers_that_do_not_fit_are_named() {
    let folder = folder();
    let write = |name: &str, tensors: &Tensors| {
        exchange::write_tensors(&folder.path().join(name), tensors).unwrap();
    };
    let real =
        |shape: &[usize]| Tensor::from_real(DType::F32, shape, &vec![0.5; shape.iter().product()]);
    let good = Tensors::new().with("h", real(&[2, 33, 5]));
    write("good", &good);
    write("extra", &good.clone().with("y", real(&[1])));
    write("missing", &Tensors::new());
    write("misshaped", &Tensors::new().with("h", real(&[33, 2, 5])));
    write(
        "mistyped",
        &Tensors::new().with("h", Tensor::new(&[2, 33, 5], Data::F64(vec![0.5; 330]))),
    );
    std::fs::write(
        folder.path().join("torn"),
        &std::fs::read(folder.path().join("good")).unwrap()[..99],
    )
    .unwrap();
    for (file, parts) in [
        ("extra", &["extra", "no output 'y'", "its outputs are: h"][..]),
        ("missing", &["missing", "'h' is missing"]),
        ("misshaped", &["misshaped", "'h' is f32 [33, 2, 5], the case has f32 [2, 33, 5]"]),
        ("mistyped", &["mistyped", "'h' is f64 [2, 33, 5], the case has f32"]),
        ("torn", &["torn"]),
        ("absent", &["absent", "cannot read"]),
    ] {
        says(folder.path(), &["verify", CASE, "--output", file], 2, parts);
    }
    says(folder.path(), &["verify", CASE, "--output", "good"], 1, &["WRONG", "'h'", "expected"]);
    says(folder.path(), &["verify", "ssm.recurrence:batch=1", "--output", "good"], 2, &["seq_len"]);
}

#[test]
fn an_exported_case_is_answered_and_verified_by_the_program() {
    let folder = folder();
    let problem = Problem::new(&CASE.parse().unwrap()).unwrap();
    says(
        folder.path(),
        &["export", CASE, "--out", "case.safetensors"],
        0,
        &["initial_state", "output  h"],
    );
    says(folder.path(), &["export", CASE, "--out", "case.safetensors"], 2, &["not overwritten"]);
    let right = right_answer(&problem);
    exchange::write_tensors(&folder.path().join("right"), &right).unwrap();
    let verify = ["verify", CASE, "--output", "right"];
    says(folder.path(), &verify, 0, &["right", "canaries", "give --output twice"]);
    let twice = [&verify[..], &["--output", "right"]].concat();
    let said = text(&touchstone(folder.path(), &twice));
    assert!(said.contains("canaries") && !said.contains("give --output twice"), "{said}");

    // Another right answer: every value a little off, within its bound.
    let Expected::Real(real) = problem.expected.output("h") else { panic!("h is real") };
    let near: Vec<f64> = real.value.iter().zip(&real.bound).map(|(v, b)| v + 0.4 * b).collect();
    let near = Tensors::new().with("h", Tensor::from_real(DType::F32, &[2, 33, 5], &near));
    exchange::write_tensors(&folder.path().join("near"), &near).unwrap();
    says(
        folder.path(),
        &[&verify[..], &["--output", "near"]].concat(),
        0,
        &["not bitwise repeatable"],
    );

    let mut values = right.tensor("h").to_f64();
    values[7] = f64::NAN;
    let wrong = Tensors::new().with("h", Tensor::from_real(DType::F32, &[2, 33, 5], &values));
    exchange::write_tensors(&folder.path().join("wrong"), &wrong).unwrap();
    says(folder.path(), &["verify", CASE, "--output", "wrong"], 1, &["1 NaN", "[0, 1, 2]"]);
    let output = touchstone(folder.path(), &["verify", CASE, "--output", "wrong", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &json["right"]), (Some(1), &serde_json::json!(false)));
    assert_eq!(json["agreement"]["outputs"][0]["failed"], 1);
}

#[test]
fn own_inputs_replace_drawn_ones_and_are_named_with_their_hash() {
    let folder = folder();
    let case: Case = CASE.parse().unwrap();
    let ones = Tensor::from_real(DType::F32, &[2, 33, 5], &[1.0; 330]);
    exchange::write_tensors(&folder.path().join("ones"), &Tensors::new().with("a", ones)).unwrap();
    let problem = exchange::problem(&case, &folder.path().join("ones")).unwrap();
    let drawn = Problem::new(&case).unwrap();
    assert_eq!(problem.inputs.tensor("x"), drawn.inputs.tensor("x"));
    assert_eq!(problem.inputs.tensor("a").to_f64(), [1.0; 330]);

    let run = ["run", CASE, "--inputs", "ones", "--out", "r.jsonl"];
    says(folder.path(), &run, 0, &["1 measured"]);
    let records = touchstone_bench::record::read(&folder.path().join("r.jsonl")).unwrap();
    let source = records[0].inputs.clone();
    assert!(source.starts_with("file:ones blake3:") && source.len() == 33, "{source}");
    assert!(records.iter().all(|r| r.inputs == source));

    let odd = Tensors::new().with("b", Tensor::from_real(DType::F32, &[1], &[1.0]));
    exchange::write_tensors(&folder.path().join("odd"), &odd).unwrap();
    let nan =
        Tensors::new().with("a", Tensor::from_real(DType::F32, &[2, 33, 5], &[f64::NAN; 330]));
    exchange::write_tensors(&folder.path().join("nan"), &nan).unwrap();
    says(
        folder.path(),
        &["check", CASE, "--inputs", "odd"],
        2,
        &["odd", "no input 'b'", "initial_state"],
    );
    says(folder.path(), &["check", CASE, "--inputs", "nan"], 2, &["nan", "'h' holds NaN"]);
    says(
        folder.path(),
        &["check", "ssm", "--inputs", "ones"],
        2,
        &["--inputs goes with one case id"],
    );
}

#[test]
fn inputs_that_no_reference_can_take_are_an_error_and_no_panic() {
    let folder = folder();
    let gather = a_case_of_every_operation()
        .into_iter()
        .find(|problem| problem.operation.name == "embedding.gather")
        .expect("there is a gather");
    let (name, indices) = gather
        .inputs
        .iter()
        .find(|(_, tensor)| !tensor.dtype().is_float())
        .expect("a gather has indices");
    let wild = vec![i32::MAX.into(); indices.len()];
    let wild = Tensor::from_integers(indices.dtype(), indices.shape(), &wild);
    exchange::write_tensors(&folder.path().join("wild"), &Tensors::new().with(name, wild)).unwrap();
    let case = gather.case.to_string();
    says(
        folder.path(),
        &["check", &case, "--inputs", "wild"],
        2,
        &["wild", "cannot take these inputs"],
    );
}

#[test]
#[cfg(target_os = "linux")]
fn a_hundred_megabytes_of_anything_are_refused_in_a_hundred_megabytes_less() {
    let folder = folder();
    let sparse = |name: &str, header: &[u8], bytes: u64| -> PathBuf {
        let path = folder.path().join(name);
        let mut file = std::fs::File::create(&path).unwrap();
        file.write_all(header).unwrap();
        file.set_len(bytes).unwrap();
        path
    };
    const BYTES: u64 = 100 << 20;
    let header = format!(
        r#"{{"h":{{"dtype":"F32","shape":[{}],"data_offsets":[0,{}]}}}}"#,
        BYTES / 4,
        BYTES
    );
    let tensor = file_of(&header, 0);
    sparse("tensor", &tensor, BYTES + tensor.len() as u64);
    sparse("header", &(BYTES - 8).to_le_bytes(), BYTES);
    sparse("zeros", &[], BYTES);
    for (file, part) in [
        ("tensor", "the case has f32 [2, 33, 5]"),
        ("header", "its header would have"),
        ("zeros", "zeros"),
    ] {
        let program = env!("CARGO_BIN_EXE_touchstone");
        // Address space of 90 MB: less than the file, threads' stacks and the program included.
        let script = format!("ulimit -v 90000; exec '{program}' verify '{CASE}' --output {file}");
        let output =
            Command::new("sh").args(["-c", &script]).current_dir(folder.path()).output().unwrap();
        let said = text(&output);
        assert!(
            output.status.code() == Some(2) && said.contains(part),
            "{file}: {:?} {said}",
            output.status
        );
    }
}
