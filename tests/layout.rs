//! One algorithm is one vertical, under one name in every folder; a gap is named.

use std::path::Path;

use touchstone_reference::{VERTICALS, operations};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn every_vertical_has_its_file_in_every_folder() {
    let places = [
        "reference/src/{}.rs",
        "cuda/src/{}.rs",
        "bench/workloads/{}.toml",
        "bench/benches/{}.rs",
        "tests/{}.rs",
        "tests/cases/{}.rs",
    ];
    let paths = VERTICALS.iter().flat_map(|v| places.iter().map(move |p| p.replace("{}", v)));
    let gaps: Vec<String> = paths.filter(|path| !root().join(path).exists()).collect();
    assert!(gaps.is_empty(), "missing: {}", gaps.join(", "));
}

#[test]
fn every_operation_belongs_to_a_vertical_and_has_two_variants() {
    for operation in operations() {
        let vertical = operation.name.split('.').next().unwrap();
        assert!(VERTICALS.contains(&vertical), "{} is in no vertical", operation.name);
        let variants = touchstone_cuda::variants().filter(|v| v.op == operation.name).count();
        assert!(variants >= 2, "{} has {variants} CUDA variants", operation.name);
    }
}

#[test]
fn every_variant_computes_an_operation_and_has_a_name_of_its_own() {
    let mut seen = std::collections::BTreeSet::new();
    for variant in touchstone_cuda::variants() {
        assert!(operations().any(|o| o.name == variant.op), "{variant:?} computes no operation");
        assert!(seen.insert((variant.op, variant.name)), "{variant:?} is listed twice");
    }
}

#[test]
fn every_operation_is_asked_at_the_edge_quick_and_full_size() {
    use touchstone_bench::Tier;
    let workloads = touchstone_bench::workload::embedded().unwrap();
    for operation in operations() {
        for tier in [Tier::Edge, Tier::Quick, Tier::Full] {
            let asked = workloads.iter().any(|w| w.op == operation.name && w.tier == tier);
            assert!(asked, "{} has no {tier:?} workload", operation.name);
        }
    }
}

#[test]
fn every_kernel_file_teaches_in_its_header() {
    let headings = ["Idea:", "Source:", "Shapes:", "Plan:", "Numerics:", "Limits:"];
    for entry in std::fs::read_dir(root().join("cuda/kernels")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "cu") {
            let text = std::fs::read_to_string(&path).unwrap();
            for heading in headings {
                let told = text.lines().any(|line| line.starts_with(&format!("// {heading}")));
                assert!(told, "{} lacks '// {heading}'", path.display());
            }
        }
    }
}

#[test]
fn source_files_stay_short_enough_to_read() {
    fn walk(folder: &Path, long: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, long);
            } else if path.extension().is_some_and(|e| e == "rs" || e == "cu" || e == "cuh") {
                let lines = std::fs::read_to_string(&path).unwrap().lines().count();
                if lines > 600 {
                    long.push(format!("{} has {lines} lines", path.display()));
                }
            }
        }
    }
    let mut long = Vec::new();
    for folder in
        ["src", "reference", "cuda/src", "cuda/kernels", "bench", "reports", "ci", "tests"]
    {
        walk(&root().join(folder), &mut long);
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}
