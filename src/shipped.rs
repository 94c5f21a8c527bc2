//! The recorded results that the repository ships: `ci/baselines/<device>/*.jsonl`, embedded so that the
//! report shows them from wherever the program is run.

use include_dir::{Dir, include_dir};
use touchstone_bench::{Record, record};

static BASELINES: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/ci/baselines");

/// All shipped records, device by device.
///
/// # Errors
/// Names the file and line of a malformed record.
pub fn records() -> anyhow::Result<Vec<Record>> {
    let mut all = Vec::new();
    // What the simulator counted is for the gate: edge cases, without times.
    let measured = BASELINES.dirs().filter(|folder| !folder.path().ends_with("simulator"));
    for file in measured.flat_map(Dir::files) {
        if file.path().extension().is_some_and(|e| e == "jsonl") {
            all.extend(record::from_lines(&file.path().display().to_string(), file.contents())?);
        }
    }
    Ok(all)
}
