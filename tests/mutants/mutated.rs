//! A kernel's PTX with one place made wrong.

use regex::Regex;
use touchstone_cuda::ptx;

/// The module of a kernel (`module::entry`) with the `nth` match of `find` in the text of the entry replaced; `${1}` of
/// `replace` is the match's first group.
///
/// # Panics
/// If there is no such kernel or match, or the replacement changes nothing.
pub fn mutated(kernel: &str, find: &str, nth: usize, replace: &str) -> String {
    let (module, entry) = kernel.split_once("::").expect("module::entry");
    let text = ptx::module(module).unwrap_or_else(|| panic!("no module {module}"));
    let start = text.find(&format!(".entry {entry}(")).unwrap_or_else(|| panic!("no {kernel}"));
    let end = text[start + 1..].find(".entry ").map_or(text.len(), |end| start + 1 + end);
    let pattern = Regex::new(find).expect("a regular expression");
    let place = pattern
        .captures_iter(&text[start..end])
        .nth(nth)
        .unwrap_or_else(|| panic!("{kernel}: no match {nth} of {find}"));
    let whole = place.get(0).expect("the match");
    let mut replacement = String::new();
    place.expand(replace, &mut replacement);
    assert_ne!(replacement, whole.as_str(), "{kernel}: {find} {nth} changes nothing");
    [&text[..start + whole.start()], &replacement, &text[start + whole.end()..]].concat()
}
