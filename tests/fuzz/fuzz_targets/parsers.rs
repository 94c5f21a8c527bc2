//! The parser that `TOUCHSTONE_PARSER` names, fed by libFuzzer; see `tests/fuzz/run`.
#![no_main]

#[path = "../../parsers/mod.rs"]
mod parsers;

use std::sync::LazyLock;

static PARSER: LazyLock<&parsers::Parser> = LazyLock::new(|| {
    let name = std::env::var("TOUCHSTONE_PARSER").expect("TOUCHSTONE_PARSER names a parser");
    let known = parsers::PARSERS.iter().find(|parser| parser.name == name);
    known.unwrap_or_else(|| panic!("no parser named '{name}'"))
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (PARSER.read)(bytes));
