//! Speculative decoding over the models of the text chain: what each scheme saves, and whether the law holds.

use serde::Serialize;
use touchstone_bench::{
    gtest::FALSE_ALARM,
    speculative::{Decoded, Scheme},
};

use crate::units;

/// The table and what it says in a sentence each.
#[derive(Serialize)]
pub struct Speculation {
    /// A line for each scheme, in the order of the table's head.
    rows: Vec<Vec<String>>,
    findings: Vec<String>,
}

impl Speculation {
    /// Adds a sentence.
    pub fn say(&mut self, finding: String) {
        self.findings.push(finding);
    }

    /// The sentences.
    pub fn findings(&self) -> &[String] {
        &self.findings
    }
}

/// The table of what the schemes did over n-gram models; `None` where there was none.
pub fn section(decoded: &[Decoded]) -> Option<Speculation> {
    let plain = decoded.iter().find(|d| d.scheme == Scheme::Plain)?;
    table(decoded, time(decoded, plain))
}

/// The table, and what it says beside `time`, a sentence on speed.
pub fn table(decoded: &[Decoded], time: Option<String>) -> Option<Speculation> {
    let plain = decoded.iter().find(|d| d.scheme == Scheme::Plain)?;
    let findings = [law(decoded), closed_form(decoded), departure(decoded), time];
    Some(Speculation {
        rows: decoded.iter().map(|d| row(d, plain)).collect(),
        findings: findings.into_iter().flatten().collect(),
    })
}

/// A scheme in words.
pub fn name(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::Plain => "plain, no draft",
        Scheme::Chain => "chain, token by token",
        Scheme::Block => "chain, as a block",
        Scheme::Tree => "tree, distinct guesses",
        Scheme::Heads => "tree, heads",
        Scheme::Typical => "tree, heads, typical",
    }
}

fn row(d: &Decoded, plain: &Decoded) -> Vec<String> {
    let missing = || "–".to_string();
    vec![
        name(d.scheme).to_string(),
        d.drafted.to_string(),
        d.steps.to_string(),
        if d.depth == 0 { missing() } else { units::percent(d.acceptance()) },
        units::digits(d.tokens_per_step()),
        d.expected.map_or_else(missing, units::digits),
        format!("{:.2}", d.law),
        units::percent(d.departure),
        units::digits(d.tokens_per_second()),
        format!("{:.2} ×", d.tokens_per_second() / plain.tokens_per_second()),
    ]
}

/// Schemes that leave something to chance, plain decoding left out.
fn by_chance(decoded: &[Decoded]) -> impl Iterator<Item = &Decoded> {
    decoded.iter().filter(|d| d.expected.is_some() && d.scheme != Scheme::Plain)
}

fn law(decoded: &[Decoded]) -> Option<String> {
    let wrong: Vec<&str> =
        by_chance(decoded).filter(|d| d.law <= FALSE_ALARM).map(|d| name(d.scheme)).collect();
    by_chance(decoded).next()?;
    Some(match wrong.is_empty() {
        true => "Every scheme that accepts by rejection emits the target's law, as far as this many tokens tell."
            .to_string(),
        false => format!("The law of the target is not that of: {}.", wrong.join("; ")),
    })
}

fn closed_form(decoded: &[Decoded]) -> Option<String> {
    let distance = |d: &Decoded| {
        (d.tokens_per_step() - d.expected.unwrap_or(f64::NAN)).abs() / d.standard_error
    };
    let far = by_chance(decoded).map(distance).filter(|d| d.is_finite()).reduce(f64::max)?;
    let verdict = if far <= 4.0 { "agree with" } else { "depart from" };
    Some(format!(
        "Tokens a step {verdict} the closed form given what was drafted: {far:.1} standard errors at most."
    ))
}

fn departure(decoded: &[Decoded]) -> Option<String> {
    let typical = decoded.iter().find(|d| d.scheme == Scheme::Typical)?;
    Some(format!(
        "Typical acceptance departs: the law of its next token is {} from the target's in total variation, on average.",
        units::percent(typical.departure)
    ))
}

fn time(decoded: &[Decoded], plain: &Decoded) -> Option<String> {
    let best =
        by_chance(decoded).max_by(|a, b| a.tokens_per_step().total_cmp(&b.tokens_per_step()))?;
    Some(format!(
        "{} takes {} passes of the target for a token where plain decoding takes one. On this machine, where an n-gram \
         model verifies position by position, that is {:.2} times the speed.",
        name(best.scheme),
        units::digits(1.0 / best.tokens_per_step()),
        best.tokens_per_second() / plain.tokens_per_second()
    ))
}

#[cfg(test)]
mod tests {
    use touchstone_bench::speculative::Seconds;

    use super::*;

    fn decoded(scheme: Scheme, tokens: usize, law: f64) -> Decoded {
        Decoded {
            scheme,
            drafted: 4,
            depth: 4,
            steps: 100,
            tokens,
            expected: Some(2.0),
            standard_error: 0.1,
            law,
            departure: 0.0,
            seconds: Seconds(1.0),
        }
    }

    #[test]
    fn a_broken_law_is_named() {
        let plain = decoded(Scheme::Plain, 100, 0.5);
        let good = section(&[plain.clone(), decoded(Scheme::Tree, 200, 0.5)]).unwrap();
        assert!(good.findings[0].contains("emits the target's law"), "{:?}", good.findings);
        assert!(good.findings[1].contains("agree with"), "{:?}", good.findings);
        let bad = section(&[plain, decoded(Scheme::Tree, 300, 1e-9)]).unwrap();
        assert!(bad.findings[0].contains("tree, distinct guesses"), "{:?}", bad.findings);
        assert!(bad.findings[1].contains("depart from"), "{:?}", bad.findings);
        assert!(section(&[]).is_none());
    }
}
