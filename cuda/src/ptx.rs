//! PTX by module name: what `cuda/compile.py` makes of `cuda/kernels/*.cu`, embedded in the program, and
//! what a user adds at run time.

pub mod lines;

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Mutex, PoisonError},
};

use include_dir::{Dir, include_dir};

static PTX: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/ptx");

/// Modules added at run time, by name.
static ADDED: Mutex<BTreeMap<&'static str, &'static str>> = Mutex::new(BTreeMap::new());

/// PTX of the module with that name: the stem of a kernel file, for example `attention_online`, a twin of one
/// (`attention_tensor_core.f16`), or what [`add`] returned.
///
/// Kernels on tensor cores read alike for bf16 and f16 but for the types their products and roundings name. Those of
/// a file that says `// Twin: f16` are compiled for bf16; the twin is the same text with the other name.
pub fn module(name: &str) -> Option<&'static str> {
    if let Some(text) = module_file(name) {
        return Some(text);
    }
    let mut added = ADDED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(&text) = added.get(name) {
        return Some(text);
    }
    let text = module_file(name.strip_suffix(".f16")?)?.replace("bf16", "f16").leak();
    added.insert(name.to_string().leak(), text);
    Some(text)
}

fn module_file(stem: &str) -> Option<&'static str> {
    PTX.get_file(format!("{stem}.ptx"))?.contents_utf8()
}

/// Adds a user's PTX and returns the name of its module, which plans refer to. Modules live as long as the
/// program, as the embedded ones do; adding the same text again gives the same module.
pub fn add(text: &str) -> &'static str {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    let name = format!("own:{:016x}", hasher.finish());
    let mut added = ADDED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((&known, _)) = added.get_key_value(name.as_str()) {
        return known;
    }
    let name: &'static str = name.leak();
    added.insert(name, text.to_string().leak());
    name
}

/// Which devices load a PTX text, by its `.target`: the least compute capability, and whether no other will do
/// (`sm_90a`). `None` where the line is another.
pub fn target(text: &str) -> Option<((i32, i32), bool)> {
    let name = text.lines().find_map(|line| line.strip_prefix(".target sm_"))?.trim();
    let digits = name.strip_suffix('a').unwrap_or(name);
    let number: i32 = digits.parse().ok()?;
    Some(((number / 10, number % 10), digits != name))
}

/// A module that wants nothing of compute capability 9.0 but to overlap launches, as text for earlier devices, which run
/// launches in order. A text that wants more is refused by the driver; one without overlap is `None`.
pub fn in_order(text: &str) -> Option<String> {
    const WORD: &str = "griddepcontrol.";
    if target(text) != Some(((9, 0), false)) || !text.contains(WORD) {
        return None;
    }
    let kept = text.lines().filter(|line| !line.trim_start().starts_with(WORD));
    let older = kept.map(|line| if line.starts_with(".target") { ".target sm_80" } else { line });
    Some(older.collect::<Vec<_>>().join("\n"))
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

/// Names of the kernels in PTX text and the texts of their parameter lists.
fn entries(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split(".entry").skip(1).filter_map(|rest| {
        let (name, rest) = rest.split_once('(')?;
        Some((name.trim(), rest.split_once(')')?.0))
    })
}

/// Names of the kernels in PTX text, in order.
pub fn symbols(text: &str) -> Vec<&str> {
    entries(text).map(|(name, _)| name).collect()
}

/// Sizes in bytes of a kernel's parameters, in order, as its PTX declares them; `None` when the module
/// has no such kernel. Plans are held against this on machines without a GPU, where a wrong argument
/// list would otherwise go unseen.
pub fn signature(module_name: &str, symbol: &str) -> Option<Vec<usize>> {
    parameters(module(module_name)?, symbol)
}

/// The same of a kernel in PTX text.
pub fn parameters(text: &str, symbol: &str) -> Option<Vec<usize>> {
    let (_, list) = entries(text).find(|(name, _)| *name == symbol)?;
    list.split(',').filter(|param| !param.trim().is_empty()).map(parameter_bytes).collect()
}

/// Size of a parameter declared as `.param .u64 name` or `.param .align 8 .b8 name[16]`.
fn parameter_bytes(param: &str) -> Option<usize> {
    let mut words = param.split_whitespace();
    let bits = words.find_map(|word| match word {
        ".param" | ".align" | ".ptr" => None,
        _ => word.strip_prefix(['.'])?.get(1..)?.parse::<usize>().ok(),
    })?;
    let array = match param.split_once('[') {
        Some((_, n)) => n.split(']').next()?.trim().parse().ok()?,
        None => 1,
    };
    (bits / 8).checked_mul(array)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_read_from_ptx() {
        assert_eq!(signature("limits", "copy"), Some(vec![8, 8, 8]));
        assert_eq!(signature("limits", "atomic_add_f32"), Some(vec![8, 4, 4]));
        assert_eq!(signature("limits", "no_such_kernel"), None);
        assert_eq!(signature("no_such_file", "copy"), None);
        let target = |stem| target(module(stem).unwrap());
        assert_eq!(target("limits"), Some(((8, 0), false)));
        assert_eq!(target("acceptance_overlapped"), Some(((9, 0), false)));
        assert_eq!(target("attention_warp_specialized"), Some(((9, 0), true)));
        assert!(modules().contains(&"limits"));
    }

    #[test]
    fn twins_are_the_same_text_of_another_type() {
        let (bf16, f16) = ("attention_tensor_core", "attention_tensor_core.f16");
        let text = module(f16).unwrap();
        assert!(!text.contains("bf16"));
        assert!(std::ptr::eq(module(f16).unwrap(), text), "made twice");
        assert_eq!(signature(f16, "forward_d64_f16"), signature(bf16, "forward_d64_bf16"));
        assert_eq!(module("no_such_file.f16"), None);
    }

    #[test]
    fn ptx_of_other_compilers_is_read_too() {
        let text = ".visible .entry one (.param .u64 .ptr .global .align 16 p, .param .f32 q)\n{}\n\
                    .entry two(\n\t.param .align 8 .b8 s[24],\n\t.param .u32 n\n)\n{}\n.entry none()\n{}";
        assert_eq!(symbols(text), ["one", "two", "none"]);
        assert_eq!(parameters(text, "one"), Some(vec![8, 4]));
        assert_eq!(parameters(text, "two"), Some(vec![24, 4]));
        assert_eq!(parameters(text, "none"), Some(vec![]));
        let module = add(text);
        assert_eq!(signature(module, "two"), Some(vec![24, 4]));
        assert!(std::ptr::eq(add(text), module), "added twice");
    }
}
