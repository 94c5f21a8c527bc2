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

/// Sizes in bytes of a kernel's parameters, in order, as its PTX declares them; `None` when the module
/// has no such kernel. Plans are held against this on machines without a GPU, where a wrong argument
/// list would otherwise go unseen.
pub fn signature(stem: &str, symbol: &str) -> Option<Vec<usize>> {
    let text = module(stem)?;
    let start = text.find(&format!(".entry {symbol}("))?;
    let list = &text[start..start + text[start..].find(')')?];
    let sizes = list.lines().filter_map(|line| line.trim().strip_prefix(".param")).map(|param| {
        let kind = param.split_whitespace().find(|word| word.starts_with('.'))?;
        let array = param.split_once('[').and_then(|(_, n)| n.split(']').next()?.parse().ok());
        let digits: String = kind.chars().filter(char::is_ascii_digit).collect();
        match kind {
            ".align" => array,
            _ => Some(digits.parse::<usize>().ok()? / 8 * array.unwrap_or(1)),
        }
    });
    sizes.collect()
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
        assert!(modules().contains(&"limits"));
    }
}
