//! A concrete problem with a text id from which its inputs are rebuilt bit for bit.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};
use serde_json::{Map, Value};

/// One concrete problem.
///
/// Its text form is `operation:key=value,key=value,…,seed=N`, for example
/// `ssm.recurrence:batch=2,seq_len=33,channels=5,dtype=f32,seed=7`. Nothing in it needs quoting in a
/// shell. The keys are the fields of the operation's parameter struct.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    op: String,
    params: Map<String, Value>,
    seed: u64,
}

/// Why a text is not a case, or a case not a problem of its operation.
#[derive(Debug, thiserror::Error)]
pub enum CaseError {
    /// The text does not have the form `operation:key=value,…`.
    #[error("case '{text}': {problem} (expected operation:key=value,…,seed=N)")]
    Syntax {
        /// The whole text.
        text: String,
        /// What is wrong with it.
        problem: String,
    },
    /// No operation has that name.
    #[error("unknown operation '{op}'; {hint}")]
    UnknownOperation {
        /// The name given.
        op: String,
        /// The name that may be meant, or the names there are.
        hint: String,
    },
    /// The operation has no such parameter, lacks one, or refuses a value.
    #[error("case '{case}': {problem}")]
    Params {
        /// The case's id.
        case: String,
        /// What is wrong.
        problem: String,
    },
}

impl Case {
    /// A case of operation `op` from its parameter struct.
    ///
    /// # Panics
    /// If `params` does not serialize to a flat map: a bug in the parameter struct.
    pub fn new<P: Serialize>(op: &str, params: &P, seed: u64) -> Self {
        match serde_json::to_value(params) {
            Ok(Value::Object(params)) => Self { op: op.to_string(), params, seed },
            other => panic!("parameters of {op} are not a flat struct: {other:?}"),
        }
    }

    /// A case from a map of parameters, as a workload file states them.
    pub fn from_map(op: &str, params: Map<String, Value>, seed: u64) -> Self {
        Self { op: op.to_string(), params, seed }
    }

    /// `vertical.operation`, for example `attention.forward`.
    pub fn op(&self) -> &str {
        &self.op
    }

    /// The algorithm this case belongs to: the part of [`Case::op`] before the dot.
    pub fn vertical(&self) -> &str {
        self.op.split('.').next().unwrap_or(&self.op)
    }

    /// Seed of the generator that draws the inputs.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The parameters as text-form key and value, in order.
    pub fn fields(&self) -> impl Iterator<Item = (&str, String)> {
        self.params.iter().map(|(key, value)| (key.as_str(), plain(value)))
    }

    /// The parameters as the operation's own struct.
    ///
    /// # Errors
    /// [`CaseError::Params`] for an unknown or missing key or a value of the wrong type.
    pub fn params<P: DeserializeOwned>(&self) -> Result<P, CaseError> {
        serde_json::from_value(Value::Object(self.params.clone())).map_err(|error| {
            CaseError::Params { case: self.to_string(), problem: error.to_string() }
        })
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn parse_value(text: &str) -> Value {
    serde_json::from_str::<Value>(text)
        .ok()
        .filter(|value| value.is_number() || value.is_boolean())
        .unwrap_or_else(|| Value::String(text.to_string()))
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.op)?;
        for (key, value) in self.fields() {
            write!(f, "{key}={value},")?;
        }
        write!(f, "seed={}", self.seed)
    }
}

impl FromStr for Case {
    type Err = CaseError;

    fn from_str(text: &str) -> Result<Self, CaseError> {
        let syntax = |problem: String| CaseError::Syntax { text: text.to_string(), problem };
        let (op, rest) =
            text.split_once(':').ok_or_else(|| syntax("no ':' after the operation".into()))?;
        let mut params = Map::new();
        let mut seed = 0;
        for field in rest.split(',').filter(|field| !field.is_empty()) {
            let (key, value) =
                field.split_once('=').ok_or_else(|| syntax(format!("'{field}' has no '='")))?;
            if key == "seed" {
                seed = value.parse().map_err(|_| syntax(format!("seed '{value}' is no number")))?;
            } else if params.insert(key.to_string(), parse_value(value)).is_some() {
                return Err(syntax(format!("'{key}' is given twice")));
            }
        }
        Ok(Self { op: op.to_string(), params, seed })
    }
}

impl Serialize for Case {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Case {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    #[serde(deny_unknown_fields)]
    struct Params {
        rows: usize,
        causal: bool,
        scale: f64,
        dist: String,
    }

    #[test]
    fn text_form_round_trips() {
        let params = Params { rows: 3, causal: true, scale: 0.125, dist: "normal".into() };
        let case = Case::new("a.b", &params, 7);
        assert_eq!(case.to_string(), "a.b:rows=3,causal=true,scale=0.125,dist=normal,seed=7");
        let again: Case = case.to_string().parse().unwrap();
        assert_eq!(again, case);
        assert_eq!(again.params::<Params>().unwrap(), params);
    }

    #[test]
    fn every_digit_of_a_number_comes_back() {
        // A fast reader of decimals is off by one unit in the last place here.
        let text = "a.b:scale=1.3192233720368547e+24,seed=0";
        assert_eq!(text.parse::<Case>().unwrap().to_string(), text);
    }

    #[test]
    fn malformed_texts_name_their_problem() {
        for (text, problem) in [
            ("attention", "no ':'"),
            ("a.b:rows", "'rows' has no '='"),
            ("a.b:rows=1,rows=2", "'rows' is given twice"),
            ("a.b:seed=x", "seed 'x'"),
        ] {
            let error = text.parse::<Case>().unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
        let case: Case = "a.b:rows=1,colour=2".parse().unwrap();
        assert!(case.params::<Params>().unwrap_err().to_string().contains("colour"));
    }
}
