//! The PTX that `cuda/compile.py` makes of `cuda/kernels/*.cu`, embedded in the program.

use include_dir::{Dir, include_dir};

static PTX: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/ptx");

/// PTX of the kernel file with that stem, for example `attention_online`.
pub fn module(stem: &str) -> Option<&'static str> {
    PTX.get_file(format!("{stem}.ptx"))?.contents_utf8()
}

/// Stems of all kernel files, sorted.
pub fn modules() -> Vec<&'static str> {
    let mut stems: Vec<_> = PTX
        .files()
        .filter(|file| file.path().extension().is_some_and(|e| e == "ptx"))
        .filter_map(|file| file.path().file_stem()?.to_str())
        .collect();
    stems.sort_unstable();
    stems
}
