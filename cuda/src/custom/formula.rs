//! Sizes and numbers as formulas over a case.

use std::{collections::BTreeMap, fmt};

use anyhow::{Context as _, anyhow, ensure};
use evalexpr::{
    Context, ContextWithMutableFunctions, ContextWithMutableVariables, EvalexprError,
    EvalexprResult, Function, HashMapContext, Node, Value, build_operator_tree,
};
use serde::Deserialize;
use touchstone_reference::Case;

/// A longer one is refused: the parser recurses on its nesting.
const MAX_LENGTH: usize = 512;

/// A number, or an expression that has one.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "toml::Value")]
pub(super) struct Formula {
    text: String,
    tree: Node,
}

impl Default for Formula {
    /// Zero.
    fn default() -> Self {
        Self::parse("0").expect("a number is a formula")
    }
}

impl fmt::Display for Formula {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TryFrom<toml::Value> for Formula {
    type Error = String;

    fn try_from(value: toml::Value) -> Result<Self, String> {
        match value {
            toml::Value::String(text) => Self::parse(&text),
            toml::Value::Integer(_) | toml::Value::Float(_) | toml::Value::Boolean(_) => {
                Self::parse(&value.to_string())
            }
            other => Err(format!("{} where a number or a formula should be", other.type_str())),
        }
    }
}

impl Formula {
    fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_LENGTH {
            return Err(format!("a formula of {} bytes; {MAX_LENGTH} are allowed", text.len()));
        }
        let tree = build_operator_tree(text).map_err(|e| format!("formula '{text}': {e}"))?;
        Ok(Self { text: text.to_string(), tree })
    }
}

/// The names a formula may use.
pub(super) struct Scope(HashMapContext);

impl Scope {
    /// The parameters of a case, and the functions. The crate's own functions are left out: some of them
    /// panic on overflow.
    pub fn of(case: &Case) -> Self {
        let mut context = HashMapContext::new();
        let enabled = context.set_builtin_functions_disabled(true).and_then(|()| {
            functions()
                .into_iter()
                .try_for_each(|(name, function)| context.set_function(name.into(), function))
        });
        enabled.expect("a new context takes functions");
        let mut scope = Self(context);
        for (key, text) in case.fields() {
            let value = match serde_json::from_str(&text) {
                Ok(serde_json::Value::Bool(flag)) => Value::Boolean(flag),
                Ok(serde_json::Value::Number(number)) => match number.as_i64() {
                    Some(integer) => Value::Int(integer),
                    None => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
                },
                _ => Value::String(text),
            };
            scope.set(key, value);
        }
        scope
    }

    /// Adds the sizes of a tensor: `NAME.0`, `NAME.1`, …, and `NAME.len`.
    pub fn tensor(&mut self, name: &str, shape: &[usize]) {
        for (axis, &size) in shape.iter().enumerate() {
            self.set(&format!("{name}.{axis}"), Value::Int(size as i64));
        }
        self.set(&format!("{name}.len"), Value::Int(shape.iter().product::<usize>() as i64));
    }

    fn set(&mut self, name: &str, value: Value) {
        self.0.set_value(name.into(), value).expect("each name is set once");
    }

    /// Adds named formulas, in whatever order they depend on each other.
    ///
    /// # Errors
    /// Of one that cannot be computed, or whose name is taken.
    pub fn define(&mut self, formulas: &BTreeMap<String, Formula>) -> anyhow::Result<()> {
        let mut left: Vec<_> = formulas.iter().collect();
        if let Some((name, _)) = left.iter().find(|(name, _)| self.0.get_value(name).is_some()) {
            return Err(anyhow!("let: '{name}' is already the name of something else"));
        }
        while !left.is_empty() {
            let before = left.len();
            let mut first_error = None;
            let mut unresolved = Vec::new();
            for (name, formula) in left {
                match self.value(formula) {
                    Ok(value) => self.set(name, value),
                    Err(error) => {
                        first_error.get_or_insert(error.context(format!("let {name}")));
                        unresolved.push((name, formula));
                    }
                }
            }
            left = unresolved;
            if let Some(error) = first_error.filter(|_| left.len() == before) {
                return Err(error);
            }
        }
        Ok(())
    }

    fn value(&self, formula: &Formula) -> anyhow::Result<Value> {
        formula.tree.eval_with_context(&self.0).map_err(|error| match error {
            EvalexprError::VariableIdentifierNotFound(name) => anyhow!(
                "formula '{formula}': nothing is named '{name}' (there are the case's parameters, \
                 TENSOR.0, TENSOR.len and [let])"
            ),
            EvalexprError::FunctionIdentifierNotFound(name) => anyhow!(
                "formula '{formula}': no function '{name}' (there are div_ceil, min, max, sqrt, if)"
            ),
            other => anyhow!("formula '{formula}': {other}"),
        })
    }

    /// An integer.
    pub fn integer(&self, formula: &Formula) -> anyhow::Result<i64> {
        let value = self.value(formula)?;
        value.as_int().map_err(|_| anyhow!("formula '{formula}' is {value}, not an integer"))
    }

    /// An integer that is not negative.
    pub fn size(&self, formula: &Formula) -> anyhow::Result<u64> {
        let value = self.integer(formula)?;
        u64::try_from(value).with_context(|| format!("formula '{formula}' is {value}"))
    }

    /// A number.
    pub fn real(&self, formula: &Formula) -> anyhow::Result<f64> {
        let value = self.value(formula)?;
        value.as_number().map_err(|_| anyhow!("formula '{formula}' is {value}, not a number"))
    }

    /// True or false.
    pub fn condition(&self, formula: &Formula) -> anyhow::Result<bool> {
        let value = self.value(formula)?;
        ensure!(value.is_boolean(), "formula '{formula}' is {value}, not true or false");
        Ok(value == Value::Boolean(true))
    }
}

fn functions() -> [(&'static str, Function); 5] {
    let div_ceil = |argument: &Value| -> EvalexprResult<Value> {
        let pair = argument.as_fixed_len_tuple(2)?;
        let (a, b) = (pair[0].as_int()?, pair[1].as_int()?);
        let failed =
            || EvalexprError::DivisionError { dividend: pair[0].clone(), divisor: pair[1].clone() };
        let quotient = a.checked_div(b).ok_or_else(failed)?;
        let up = i64::from(a % b != 0 && (a < 0) == (b < 0));
        Ok(Value::Int(quotient + up))
    };
    let sqrt = |argument: &Value| Ok(Value::Float(argument.as_number()?.sqrt()));
    let choose = |argument: &Value| -> EvalexprResult<Value> {
        let three = argument.as_fixed_len_tuple(3)?;
        Ok(three[if three[0].as_boolean()? { 1 } else { 2 }].clone())
    };
    [
        ("div_ceil", Function::new(div_ceil)),
        ("min", Function::new(|argument| extreme(argument, false))),
        ("max", Function::new(|argument| extreme(argument, true))),
        ("sqrt", Function::new(sqrt)),
        ("if", Function::new(choose)),
    ]
}

/// The largest or smallest of at least one number; an integer when all are.
fn extreme(argument: &Value, largest: bool) -> EvalexprResult<Value> {
    let several = match argument {
        Value::Tuple(several) => several.as_slice(),
        one => std::slice::from_ref(one),
    };
    let mut best: Option<&Value> = None;
    for value in several {
        let number = value.as_number()?;
        let better = match best {
            Some(best) if largest => number > best.as_number()?,
            Some(best) => number < best.as_number()?,
            None => true,
        };
        if better {
            best = Some(value);
        }
    }
    best.cloned().ok_or_else(|| EvalexprError::expected_number(argument.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope() -> Scope {
        let case: Case = "a.b:rows=7,scale=0.5,causal=true,dtype=f32,seed=1".parse().unwrap();
        let mut scope = Scope::of(&case);
        scope.tensor("x", &[3, 4]);
        scope
    }

    fn formula(text: &str) -> Formula {
        Formula::parse(text).unwrap()
    }

    #[test]
    fn formulas_know_parameters_sizes_and_functions() {
        let scope = scope();
        for (text, value) in [
            ("rows * 2 + 1", 15),
            ("div_ceil(rows, 4)", 2),
            ("div_ceil(8, 4)", 2),
            ("x.0 * x.1 - x.len", 0),
            ("max(rows, x.1, 5)", 7),
            ("min(rows, 5)", 5),
            ("if(causal && dtype == \"f32\", 3, 4)", 3),
            ("-7 / 2", -3),
        ] {
            assert_eq!(scope.integer(&formula(text)).unwrap(), value, "{text}");
        }
        assert_eq!(scope.real(&formula("scale / sqrt(4)")).unwrap(), 0.25);
        assert!(!scope.condition(&formula("rows > 7 || dtype != \"f32\"")).unwrap());
    }

    #[test]
    fn what_cannot_be_computed_is_an_error_and_no_panic() {
        let scope = scope();
        for (text, part) in [
            ("columns", "nothing is named 'columns'"),
            ("rows / 0", "rows / 0"),
            ("rows % 0", "rows % 0"),
            ("div_ceil(rows, 0)", "div_ceil"),
            ("9223372036854775807 + 1", "9223372036854775807"),
            ("div_ceil(-9223372036854775807 - 1, -1)", "div_ceil"),
            ("math::abs(1)", "no function 'math::abs'"),
            ("dtype", "not an integer"),
            ("scale", "not an integer"),
            ("rows = 3", "rows = 3"),
            ("min()", "min"),
        ] {
            let error = scope.integer(&formula(text)).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(scope.size(&formula("1 - rows")).is_err());
        assert!(Formula::parse(&"(".repeat(2000)).is_err());
        assert!(Formula::parse("(1").unwrap_err().contains("(1"));
    }

    #[test]
    fn named_formulas_may_come_in_any_order_but_not_in_a_circle() {
        let named = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, text)| (name.to_string(), formula(text))).collect()
        };
        let mut defined = scope();
        defined.define(&named(&[("a", "b * 2"), ("b", "c + 1"), ("c", "rows")])).unwrap();
        assert_eq!(defined.integer(&formula("a")).unwrap(), 16);
        let circle = scope().define(&named(&[("a", "b"), ("b", "a")])).unwrap_err();
        assert!(format!("{circle:#}").contains("let a"), "{circle:#}");
        assert!(scope().define(&named(&[("rows", "1")])).is_err());
    }
}
