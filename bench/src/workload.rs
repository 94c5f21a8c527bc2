//! Workloads: named questions worth asking, as data with a reason.

use std::path::Path;

use anyhow::{Context, bail};
use include_dir::{Dir, include_dir};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use touchstone_reference::{Case, operation};

static EMBEDDED: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/workloads");

/// When a workload is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Correctness at the edges: checked, never timed.
    Edge,
    /// Checked and timed in the default run; a laptop's naive reference takes at most a moment.
    Quick,
    /// Checked and timed in full runs only: real model sizes.
    Full,
}

/// One named question.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// Name, unique within its algorithm.
    pub name: String,
    /// Why it is worth asking.
    pub why: String,
    /// The operation it asks of.
    pub op: String,
    /// When it is asked.
    pub tier: Tier,
    /// What the report draws beside it: the same task by other means.
    pub beside: Option<Beside>,
    /// The concrete problems, each with every parameter written out.
    pub cases: Vec<Case>,
}

/// Workloads of another operation that do the same task, to be drawn together over its size.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Beside {
    /// Beginning of their OPERATION/WORKLOAD names.
    pub workload: String,
    /// The parameter that is the task's size here.
    pub size: String,
    /// The parameter that is it there.
    pub their_size: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    workload: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    why: String,
    op: String,
    tier: Tier,
    #[serde(default)]
    seed: u64,
    beside: Option<Beside>,
    case: Map<String, Value>,
}

/// The workloads of the embedded files, vertical by vertical.
///
/// # Errors
/// Names the file and what is wrong in it.
pub fn embedded() -> anyhow::Result<Vec<Workload>> {
    let mut all = Vec::new();
    for vertical in touchstone_reference::VERTICALS {
        let name = format!("{vertical}.toml");
        if let Some(file) = EMBEDDED.get_file(&name) {
            let text = file.contents_utf8().with_context(|| format!("{name}: not UTF-8"))?;
            all.extend(parse(text, Path::new(&name))?);
        }
    }
    Ok(all)
}

/// The workloads of a user's file.
///
/// # Errors
/// Names the file, the line where TOML is malformed, and the workload whose case is refused.
pub fn read(path: &Path) -> anyhow::Result<Vec<Workload>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read workloads from {}", path.display()))?;
    parse(&text, path)
}

/// Workloads from TOML text; `path` names it in errors.
///
/// # Errors
/// As [`read`].
pub fn parse(text: &str, path: &Path) -> anyhow::Result<Vec<Workload>> {
    let file: File =
        toml::from_str(text).with_context(|| format!("{}: malformed workloads", path.display()))?;
    let mut workloads: Vec<Workload> = Vec::new();
    for entry in file.workload {
        let at = format!("{}: workload '{}'", path.display(), entry.name);
        if workloads.iter().any(|known| known.name == entry.name) {
            bail!("{at}: the name is taken");
        }
        if entry.why.trim().is_empty() {
            bail!("{at}: says no 'why'");
        }
        workloads.push(expand(entry).context(at)?);
    }
    Ok(workloads)
}

/// A product of more cases is a slip, and would take all memory.
const MAX_CASES: usize = 100_000;

fn expand(entry: Entry) -> anyhow::Result<Workload> {
    let choices = entry.case.values().map(|value| value.as_array().map_or(1, Vec::len));
    let count = choices.fold(1, usize::saturating_mul);
    if count > MAX_CASES {
        bail!("expands to {count} cases; {MAX_CASES} are allowed");
    }
    let mut cases = Vec::new();
    for mut params in product(&entry.case) {
        resolve(&mut params)?;
        let case = Case::from_map(&entry.op, params, entry.seed);
        cases.push(operation(&case)?.normalize(&case)?);
    }
    if cases.is_empty() {
        bail!("expands to no case (an empty list)");
    }
    let Entry { name, why, op, tier, beside, .. } = entry;
    Ok(Workload { name, why, op, tier, beside, cases })
}

/// The product of all lists in `case`, the last key varying fastest; scalars stay as they are.
fn product(case: &Map<String, Value>) -> Vec<Map<String, Value>> {
    let mut maps = vec![Map::new()];
    for (key, value) in case {
        let choices = match value {
            Value::Array(choices) => choices.clone(),
            scalar => vec![scalar.clone()],
        };
        let extended = |map: &Map<String, Value>, choice: &Value| {
            let mut map = map.clone();
            map.insert(key.clone(), choice.clone());
            map
        };
        maps = maps
            .iter()
            .flat_map(|map| choices.iter().map(move |choice| extended(map, choice)))
            .collect();
    }
    maps
}

/// Gives parameters that are said to equal another (`seq_k = "=seq_q"`) its value.
fn resolve(params: &mut Map<String, Value>) -> anyhow::Result<()> {
    let given = params.clone();
    for (key, value) in params {
        let Some(other) = value.as_str().and_then(|text| text.strip_prefix('=')) else { continue };
        *value = match given.get(other) {
            Some(Value::String(text)) if text.starts_with('=') => {
                bail!("{key} is to equal {other}, which is to equal another")
            }
            Some(value) => value.clone(),
            None => bail!("{key} is to equal {other}, which the case does not give"),
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_expand_as_a_product() {
        let case = serde_json::json!({"a": [1, 2], "b": "x", "c": [true, false]});
        let maps = product(case.as_object().unwrap());
        assert_eq!(maps.len(), 4);
        assert_eq!(serde_json::to_string(&maps[1]).unwrap(), r#"{"a":1,"b":"x","c":false}"#);
    }

    #[test]
    fn a_parameter_may_equal_another() {
        let parsed = |case: &str| {
            let head = "[[workload]]\nname='a'\nwhy='b'\nop='attention.forward'\ntier='quick'\n";
            parse(&format!("{head}case={{{case}}}\n"), Path::new("mine.toml"))
        };
        let sizes = "batch=1, heads_q=1, heads_kv=1, head_dim=64, dtype='f32'";
        let cases = &parsed(&format!("seq_q=[3, 5], seq_k='=seq_q', {sizes}")).unwrap()[0].cases;
        let lengths: Vec<Vec<_>> = cases
            .iter()
            .map(|case| case.fields().filter(|(name, _)| name.starts_with("seq_")).collect())
            .collect();
        let both = |n: &str| vec![("seq_q", n.to_owned()), ("seq_k", n.to_owned())];
        assert_eq!(lengths, [both("3"), both("5")]);
        for (lengths, said) in [
            ("seq_q=3, seq_k='=seq_v'", "seq_k is to equal seq_v, which the case does not give"),
            ("seq_q='=seq_k', seq_k='=seq_q'", "which is to equal another"),
        ] {
            let text = format!("{:#}", parsed(&format!("{lengths}, {sizes}")).unwrap_err());
            assert!(text.contains(said), "{text}");
        }
    }

    #[test]
    fn malformed_files_are_named_with_their_line() {
        let error = parse("[[workload]]\nname = ", Path::new("mine.toml")).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("mine.toml") && text.contains("line 2"), "{text}");
        let unknown = "[[workload]]\nname='a'\nwhy='b'\nop='no.such'\ntier='quick'\ncase={}\n";
        let text = format!("{:#}", parse(unknown, Path::new("mine.toml")).unwrap_err());
        assert!(text.contains("workload 'a'") && text.contains("no.such"), "{text}");
        let key = "[[workload]]\nname='a'\nwhy='b'\nop='x'\ntier='quick'\ncolour=1\ncase={}\n";
        let text = format!("{:#}", parse(key, Path::new("mine.toml")).unwrap_err());
        assert!(text.contains("colour"), "{text}");
    }
}
