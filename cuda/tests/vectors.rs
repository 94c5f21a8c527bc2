//! The simulator's arithmetic against a GPU's: every instruction on edge values and random ones.
//!
//! `vectors/<family>.ptx` applies each instruction of a family to each of its inputs; `vectors/<family>.bin.gz` is
//! what a Hopper GPU made of it, with the inputs and its name. Here both are compared with the simulator's functions, on any machine.
//! On a machine with a GPU `TOUCHSTONE_RECORD_VECTORS=DIR` runs the PTX and writes the `.bin.gz` files there;
//! `TOUCHSTONE_ACCEPT=1` writes the `.ptx` files from the tables anew.

#[path = "vectors/atomics.rs"]
mod atomics;
#[path = "vectors/bulk.rs"]
mod bulk;
#[path = "vectors/conversions.rs"]
mod conversions;
#[path = "vectors/copies.rs"]
mod copies;
#[path = "vectors/execute.rs"]
mod execute;
#[path = "vectors/family.rs"]
mod family;
#[path = "vectors/floats.rs"]
mod floats;
#[path = "vectors/integers.rs"]
mod integers;
#[path = "vectors/launches.rs"]
mod launches;
#[path = "vectors/record.rs"]
mod record;
#[path = "vectors/warpgroups.rs"]
mod warpgroups;
#[path = "vectors/warps.rs"]
mod warps;

use std::path::{Path, PathBuf};

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use family::{Family, Instruction};
use warps::Group;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

fn families() -> Vec<Family> {
    [integers::families(), floats::families(), conversions::families(), atomics::families()]
        .into_iter()
        .flatten()
        .collect()
}

fn main() {
    if let Some(directory) = std::env::var_os("TOUCHSTONE_RECORD_VECTORS") {
        return record::record(Path::new(&directory), &families(), &warps::all());
    }
    let arguments = Arguments::from_args();
    let mut trials = vec![];
    for family in families().into_iter() {
        let name = family.name;
        let ptx = family.ptx();
        trials.push(Trial::test(format!("ptx_of_{name}_is_that_of_its_table"), move || {
            ptx_is_current(name, &ptx)
        }));
        trials.push(Trial::ignorable_test(format!("{name}_agrees_with_the_device"), move || {
            agrees(&family)
        }));
    }
    for family in families() {
        let name = family.name;
        trials.push(Trial::test(format!("{name}_is_decoded_as_its_table_says"), move || {
            verdict(&execute::objections(&family)?).map(|_| ())
        }));
    }
    for group in warps::all() {
        let name = group.name();
        let ptx = group.ptx();
        trials.push(Trial::test(format!("ptx_of_{name}_is_that_of_its_table"), move || {
            ptx_is_current(name, &ptx)
        }));
        trials.push(Trial::ignorable_test(format!("{name}_agrees_with_the_device"), move || {
            warps_agree(group.as_ref())
        }));
    }
    for group in warps::all() {
        let Some(executed) = group.execute() else { continue };
        let name = group.name();
        trials.push(Trial::test(format!("{name}_is_decoded_as_its_table_says"), move || {
            decoded(group.as_ref(), &executed?)
        }));
    }
    trials.push(Trial::test("a_recorded_file_reads_back_and_a_wrong_bit_is_seen", reads_back));
    trials.push(Trial::test("every_group_is_simulated_within_its_inputs", groups_are_simulated));
    libtest_mimic::run(&arguments, trials).exit();
}

/// Whether results of a device are committed. Once some are, a family without its file is a failure.
fn anything_is_recorded() -> Result<bool, Failed> {
    let mut files = std::fs::read_dir(folder())?.filter_map(Result::ok);
    Ok(files.any(|file| file.path().extension().is_some_and(|end| end == "gz")))
}

/// The recorded file of a family.
fn recorded(name: &str) -> Result<Option<record::Recorded>, Failed> {
    let path = folder().join(format!("{name}.bin.gz"));
    match std::fs::read(&path) {
        Ok(file) => Ok(Some(record::Recorded::parse(&record::decompress(&file)?)?)),
        Err(_) if !anything_is_recorded()? => Ok(None),
        Err(error) => Err(format!("{}: {error}", path.display()).into()),
    }
}

fn ptx_is_current(name: &str, expected: &str) -> Result<(), Failed> {
    let path = folder().join(format!("{name}.ptx"));
    if std::env::var_os("TOUCHSTONE_ACCEPT").is_some() {
        std::fs::write(&path, expected)?;
    }
    if std::fs::read_to_string(&path)? == expected {
        return Ok(());
    }
    Err(format!("{name}.ptx is not what its table says; TOUCHSTONE_ACCEPT=1 writes it anew").into())
}

const NOTHING: &str = "no device results are recorded";

fn agrees(family: &Family) -> Result<Completion, Failed> {
    let Some(recorded) = recorded(family.name)? else {
        return Ok(Completion::ignored_with(NOTHING));
    };
    verdict(&objections(family, &recorded)?)
}

fn objections(family: &Family, recorded: &record::Recorded) -> Result<Vec<String>, Failed> {
    let mut objections = vec![];
    for instruction in &family.instructions {
        let name = instruction.name();
        let results = recorded.results(&name, instruction.bytes())?;
        let mut wrong = 0;
        for (inputs, device) in recorded.inputs.iter().zip(&results) {
            let ours = (instruction.compute)(inputs[0], inputs[1], inputs[2]);
            if let Some(objection) = instruction.agreement.objection(*inputs, ours, *device) {
                wrong += 1;
                if wrong <= 3 {
                    objections.push(format!("{name} of {inputs:x?}: {objection}"));
                }
            }
        }
        if wrong > 3 {
            objections.push(format!("{name}: {wrong} of {} in all", results.len()));
        }
    }
    Ok(objections)
}

fn reads_back() -> Result<(), Failed> {
    for family in [integers::families().remove(1), floats::families().remove(2)] {
        let of = |instruction: &Instruction| {
            let f = &instruction.compute;
            family.inputs.iter().map(|w| f(w[0], w[1], w[2])).collect::<Vec<_>>()
        };
        let mut results: Vec<u64> = family.instructions.iter().flat_map(of).collect();
        let device = serde_json::json!("the simulator itself");
        let read = record::Recorded::parse(&record::family_file(&family, &device, &results))?;
        assert_eq!(objections(&family, &read)?, [""; 0]);
        results[5] ^= 1;
        let read = record::Recorded::parse(&record::family_file(&family, &device, &results))?;
        assert_eq!(objections(&family, &read)?.len(), 1);
    }
    Ok(())
}

fn warps_agree(group: &dyn Group) -> Result<Completion, Failed> {
    let Some(recorded) = recorded(group.name())? else {
        return Ok(Completion::ignored_with(NOTHING));
    };
    let mut objections = vec![];
    for (index, name) in group.names().iter().enumerate() {
        objections.extend(group.objections(index, &recorded.raw, &recorded.words(name)?));
    }
    verdict(&objections)
}

/// Results that are all zero are seen to be wrong, and no address leaves the inputs.
fn groups_are_simulated() -> Result<(), Failed> {
    for group in warps::all() {
        for index in 0..group.names().len() {
            let zeros = vec![0; 1 << 16];
            assert_ne!(group.objections(index, group.inputs(), &zeros), [""; 0]);
        }
    }
    Ok(())
}

fn decoded(group: &dyn Group, words: &[Vec<u32>]) -> Result<(), Failed> {
    let objections = words.iter().enumerate();
    let objections = objections.flat_map(|(i, words)| group.objections(i, group.inputs(), words));
    verdict(&objections.collect::<Vec<_>>()).map(|_| ())
}

fn verdict(objections: &[String]) -> Result<Completion, Failed> {
    if objections.is_empty() {
        Ok(Completion::Completed)
    } else {
        Err(objections.join("\n").into())
    }
}
