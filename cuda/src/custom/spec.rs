//! What the TOML file states.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use touchstone_reference::{DType, nearest, operations};

use super::{
    formula::Formula,
    source::{self, Compile},
};

/// A description is a page or two.
const MAX_SPEC_BYTES: u64 = 1 << 20;

/// The TOML file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Spec {
    pub op: String,
    pub name: String,
    #[serde(default)]
    pub idea: String,
    pub source: Option<PathBuf>,
    pub supports: Option<Formula>,
    #[serde(default = "yes")]
    pub deterministic: bool,
    #[serde(default)]
    pub r#let: BTreeMap<String, Formula>,
    #[serde(default)]
    pub scratch: Vec<Scratch>,
    pub launch: Vec<LaunchSpec>,
    #[serde(default)]
    pub compile: Compile,
}

const fn yes() -> bool {
    true
}

/// Memory for intermediate values.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Scratch {
    pub name: String,
    pub dtype: DType,
    pub shape: Vec<Formula>,
}

/// One launch of a kernel.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LaunchSpec {
    pub symbol: Option<String>,
    pub grid: Vec<Formula>,
    pub block: Vec<Formula>,
    #[serde(default)]
    pub shared_bytes: Formula,
    #[serde(default)]
    pub fill: BTreeMap<String, u8>,
    pub args: Vec<ArgSpec>,
}

/// One argument as the file states it.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "toml::Value")]
pub(super) enum ArgSpec {
    Buffer { name: String, optional: bool, offset_bytes: Formula },
    Number { kind: DType, value: Formula },
}

impl TryFrom<toml::Value> for ArgSpec {
    type Error = String;

    fn try_from(value: toml::Value) -> Result<Self, String> {
        let buffer = |text: &str, offset_bytes| {
            let name = text.strip_suffix('?');
            let optional = name.is_some();
            Self::Buffer { name: name.unwrap_or(text).to_string(), optional, offset_bytes }
        };
        let wanted = "an argument is \"NAME\", { buffer = \"NAME\", offset_bytes = … } or one number, \
                      { i32|u32|i64|u64|f32|f64 = … }";
        match value {
            toml::Value::String(name) => Ok(buffer(&name, Formula::default())),
            toml::Value::Table(mut table) => {
                let offset = table.remove("offset_bytes").map(Formula::try_from).transpose()?;
                let mut rest = table.into_iter();
                match (rest.next(), rest.next(), offset) {
                    (Some((key, toml::Value::String(name))), None, offset) if key == "buffer" => {
                        Ok(buffer(&name, offset.unwrap_or_default()))
                    }
                    (Some((key, value)), None, None) => {
                        let kind = match key.as_str() {
                            "i32" => DType::I32,
                            "u32" => DType::U32,
                            "i64" => DType::I64,
                            "u64" => DType::U64,
                            "f32" => DType::F32,
                            "f64" => DType::F64,
                            other => return Err(format!("'{other}': {wanted}")),
                        };
                        Ok(Self::Number { kind, value: Formula::try_from(value)? })
                    }
                    _ => Err(wanted.into()),
                }
            }
            _ => Err(wanted.into()),
        }
    }
}

/// Reads a file of at most [`MAX_SPEC_BYTES`].
pub(super) fn read(path: &Path) -> anyhow::Result<Spec> {
    let text = source::read_text(path, MAX_SPEC_BYTES)?;
    parse(&text).with_context(|| path.display().to_string())
}

/// Reads the text of a file, and checks what needs no case.
pub(super) fn parse(text: &str) -> anyhow::Result<Spec> {
    let spec: Spec = toml::from_str(text).context("malformed description of a kernel")?;
    let known: Vec<&str> = operations().map(|operation| operation.name).collect();
    if !known.contains(&spec.op.as_str()) {
        bail!("unknown operation '{}'; {}", spec.op, nearest::hint(&spec.op, &known));
    }
    let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    ensure!(
        !spec.name.is_empty() && spec.name.chars().all(is_word),
        "name '{}' is not made of letters, digits, '_', '-' and '.'",
        spec.name
    );
    ensure!(!spec.launch.is_empty(), "no [[launch]]");
    Ok(spec)
}
