//! PTX from a user's file: read, or compiled from CUDA C++ where NVRTC is installed.

use std::{io::Read, path::Path};

use anyhow::{Context, bail, ensure};
use cudarc::nvrtc::{self, CompileOptions};
use serde::Deserialize;

/// How to compile a `.cu`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Compile {
    arch: String,
    include: Vec<String>,
    options: Vec<String>,
}

impl Default for Compile {
    fn default() -> Self {
        Self { arch: "compute_80".into(), include: Vec::new(), options: Vec::new() }
    }
}

/// No kernel's text is longer; something else was named by mistake.
const MAX_BYTES: u64 = 64 << 20;

/// Reads a text file of at most `most` bytes.
pub(super) fn read_text(path: &Path, most: u64) -> anyhow::Result<String> {
    let at = || format!("cannot read {}", path.display());
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(most + 1).read_to_end(&mut bytes))
        .with_context(at)?;
    ensure!(bytes.len() as u64 <= most, "{}: longer than {most} bytes", path.display());
    String::from_utf8(bytes).ok().with_context(|| format!("{}: not UTF-8 text", path.display()))
}

/// The PTX of a `.ptx` or `.cu` file. Relative include folders are taken from `folder`; the folder of the
/// source is always one.
pub(super) fn ptx(path: &Path, compile: &Compile, folder: &Path) -> anyhow::Result<String> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("ptx") => read_text(path, MAX_BYTES),
        Some("cu") => compiled(path, &read_text(path, MAX_BYTES)?, compile, folder),
        _ => bail!("{}: not a .cu or .ptx file", path.display()),
    }
}

fn compiled(path: &Path, text: &str, compile: &Compile, folder: &Path) -> anyhow::Result<String> {
    // SAFETY: only looks for the library; cudarc would panic later if it were missing.
    if !unsafe { nvrtc::sys::is_culib_present() } {
        let ptx = path.with_extension("ptx");
        bail!(
            "{cu}: the compiler library (libnvrtc) is not installed here; `pip install \
             nvidia-cuda-nvrtc-cu12` brings it, for LD_LIBRARY_PATH to name its folder. Or compile it where a \
             CUDA toolkit is, `nvcc -ptx -arch={arch} -o {ptx} {cu}`, and name the .ptx as source",
            cu = path.display(),
            arch = compile.arch,
            ptx = ptx.display(),
        );
    }
    let of_folder = |include: &String| folder.join(include).display().to_string();
    let own_folder = path.parent().unwrap_or(Path::new("")).display().to_string();
    let own_folder = if own_folder.is_empty() { ".".into() } else { own_folder };
    let mut options = compile.options.clone();
    options.push(format!("--gpu-architecture={}", compile.arch));
    let all = [text, own_folder.as_str()].into_iter();
    let all = all.chain(options.iter().chain(&compile.include).map(String::as_str));
    ensure!(all.into_iter().all(|s| !s.contains('\0')), "{}: holds a NUL byte", path.display());
    let options = CompileOptions {
        options,
        include_paths: compile.include.iter().map(of_folder).chain([own_folder]).collect(),
        name: path.file_name().map(|name| name.to_string_lossy().into_owned()),
        ..CompileOptions::default()
    };
    match nvrtc::compile_ptx_with_opts(text, options) {
        Ok(ptx) => Ok(ptx.to_src()),
        Err(nvrtc::CompileError::CompileError { log, .. }) => {
            bail!("{}: does not compile\n{}", path.display(), log.to_string_lossy().trim())
        }
        Err(other) => bail!("{}: does not compile: {other}", path.display()),
    }
}
