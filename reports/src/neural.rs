//! Speculative decoding of a neural target: what it learned, what its passes cost, and what drafts save.

use serde::Serialize;
use touchstone_bench::{
    neural::{Neural, Verified},
    speculative::{Decoded, Scheme, Seconds},
};

use crate::{
    speculation::{self, Speculation},
    units,
};

/// Sentences and two tables.
#[derive(Serialize)]
pub struct Section {
    /// The network and how good it is.
    network: String,
    /// Models and their perplexities.
    perplexities: Vec<(String, String)>,
    decoding: Speculation,
    /// A line for each scheme: what a pass costs.
    passes: Vec<Vec<String>>,
}

/// The section; `None` where plain decoding is not among the schemes.
pub fn section(found: &Neural) -> Option<Section> {
    let decoded: Vec<Decoded> = found.schemes.iter().map(|one| one.decoded.clone()).collect();
    let plain = found.schemes.iter().find(|one| one.decoded.scheme == Scheme::Plain)?;
    let mut decoding = speculation::table(&decoded, time(found, plain))?;
    decoding.say(drift(found));
    Some(Section {
        network: network(found),
        perplexities: perplexities(found),
        decoding,
        passes: found.schemes.iter().map(|one| pass(one, plain)).collect(),
    })
}

fn network(found: &Neural) -> String {
    let [steps, predicted] = found.training;
    let verified = match &found.device {
        Some(device) => format!("Verified on {device}, where the cache stays; drafts are made on the CPU."),
        None => "No GPU here: the f64 reference verifies on the CPU, where every node costs its share. A pass on a GPU was \
                 not run."
            .to_string(),
    };
    format!(
        "A Transformer of {} and {} values ({} weights), which reads characters, trained for {} of {} on {} characters of \
         the text. {verified}",
        units::count(found.layers, "layer"),
        found.hidden,
        found.parameters,
        units::count(steps, "step"),
        units::count(predicted, "prediction"),
        found.trained,
    )
}

fn perplexities(found: &Neural) -> Vec<(String, String)> {
    let ngrams = found.ngrams.iter().map(|&(order, perplexity)| {
        let drafts = if order == found.draft_order { ", which drafts" } else { "" };
        (format!("Kneser–Ney of order {order}{drafts}"), units::digits(perplexity))
    });
    let own = ("the network".to_string(), units::digits(found.perplexity));
    ngrams.chain([own]).collect()
}

/// Time of one pass.
fn of_pass(one: &Verified) -> f64 {
    one.in_passes.0 / one.passes.max(1) as f64
}

fn seconds(seconds: f64) -> String {
    units::time(1e9 * seconds)
}

fn pass(one: &Verified, plain: &Verified) -> Vec<String> {
    let passes = one.passes.max(1) as f64;
    let drafting = (one.decoded.seconds.0 - one.in_passes.0) / passes;
    vec![
        speculation::name(one.decoded.scheme).to_string(),
        one.nodes.to_string(),
        one.passes.to_string(),
        one.variant.clone().unwrap_or_else(|| "reference".to_string()),
        seconds(of_pass(one)),
        format!("{:.2} ×", of_pass(one) / of_pass(plain)),
        one.alone.map_or_else(|| "–".to_string(), |Seconds(alone)| seconds(alone)),
        seconds(drafting),
        units::digits(one.decoded.tokens_per_second()),
        format!("{:.2} ×", one.decoded.tokens_per_second() / plain.decoded.tokens_per_second()),
    ]
}

fn time(found: &Neural, plain: &Verified) -> Option<String> {
    let rate = |one: &Verified| one.decoded.tokens_per_second();
    let drafted = found.schemes.iter().filter(|one| one.nodes > 1);
    let best = drafted.max_by(|a, b| rate(a).total_cmp(&rate(b)))?;
    let way = best.alone.map(|Seconds(alone)| {
        let share = 1.0 - alone / of_pass(best);
        format!(" {} of a pass is the way to the device and back.", units::percent(share))
    });
    Some(format!(
        "Fastest with drafts: {}, {:.2} times the speed of plain decoding. Its passes over {} take {:.2} times as long as \
         those over one, and emit {} tokens.{}",
        speculation::name(best.decoded.scheme),
        rate(best) / rate(plain),
        units::count(best.nodes, "node"),
        of_pass(best) / of_pass(plain),
        units::digits(best.decoded.tokens_per_step()),
        way.unwrap_or_default()
    ))
}

/// Drift beyond which a cache holds something else than what was committed: roundings come to a hundredth of it.
const FAR: f64 = 1e-3;

fn drift(found: &Neural) -> String {
    let most = found.schemes.iter().map(|one| one.drift).fold(0.0, f64::max);
    // NaN is no agreement.
    if most > FAR || found.schemes.iter().any(|one| one.drift.is_nan()) {
        return format!(
            "WRONG: the target's laws by its cache are {most:.1e} (Σ|p − p′|) from those that the f64 reference makes of \
             the whole sequence without one."
        );
    }
    format!(
        "After the last step the target's laws, which it takes from its cache, are within {most:.1e} (Σ|p − p′|) of those \
         that the f64 reference makes of the whole sequence without one."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verified(scheme: Scheme, nodes: usize, tokens: usize, alone: Option<f64>) -> Verified {
        Verified {
            decoded: Decoded {
                scheme,
                drafted: nodes - 1,
                depth: nodes - 1,
                steps: 80,
                tokens,
                expected: Some(tokens as f64 / 80.0),
                standard_error: 0.1,
                law: 0.5,
                departure: 0.0,
                seconds: Seconds(0.01),
            },
            nodes,
            passes: 10,
            in_passes: Seconds(0.008),
            variant: alone.map(|_| "tiled".to_string()),
            alone: alone.map(Seconds),
            drift: 2e-6,
        }
    }

    fn found(device: Option<&str>, alone: Option<f64>) -> Neural {
        Neural {
            device: device.map(String::from),
            outcomes: 30,
            trained: 40_000,
            parameters: 50_000,
            hidden: 64,
            layers: 1,
            training: [400, 256],
            losses: vec![3.0, 2.0],
            perplexity: 8.0,
            ngrams: vec![(1, 17.0), (3, 8.5)],
            draft_order: 3,
            rows: 8,
            schemes: vec![
                verified(Scheme::Plain, 1, 80, alone),
                verified(Scheme::Tree, 13, 200, alone),
            ],
        }
    }

    #[test]
    fn what_was_not_run_is_said() {
        let section = section(&found(None, None)).unwrap();
        assert!(section.network.contains("was not run"), "{}", section.network);
        assert!(!section.decoding.findings().join(" ").contains("WRONG"));
        assert_eq!(section.passes[1][6], "–");
    }

    #[test]
    fn a_wrong_cache_is_called_wrong() {
        for drift in [0.1, f64::NAN] {
            let mut found = found(None, None);
            found.schemes[1].drift = drift;
            let said = section(&found).unwrap().decoding.findings().join(" ");
            assert!(said.contains("WRONG"), "{said}");
        }
    }

    #[test]
    fn the_way_to_a_device_is_told_apart() {
        let section = section(&found(Some("H200"), Some(0.0002))).unwrap();
        assert!(section.network.contains("Verified on H200"), "{}", section.network);
        let said = section.decoding.findings().join(" ");
        assert!(said.contains("2.50 times the speed"), "{said}");
        assert!(said.contains("75.0 % of a pass is the way"), "{said}");
        assert!(said.contains("2.0e-6"), "{said}");
    }
}
