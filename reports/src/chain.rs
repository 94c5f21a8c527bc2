//! The text chain: what a real text makes of n-gram models, embeddings and speculative acceptance.

use anyhow::Context;
use serde::Serialize;
use serde_json::Value;
use touchstone_bench::text_chain::{Acceptance, Embeddings, LanguageModel, TextChain};

use crate::{
    axis::Axis,
    chart::{Chart, Line, Mark, Stroke},
    derive::Sheet,
    figures::{Figure, Key},
    mixed_precision, neural,
    speculation::{self, Speculation},
    units,
};

/// Results of the text chain.
#[derive(Serialize)]
pub struct Chain {
    /// What text it was, in a sentence.
    corpus: String,
    models: Vec<Vec<String>>,
    figures: Vec<Figure>,
    embeddings: String,
    /// A word and its nearest neighbours.
    neighbours: Vec<(String, String)>,
    acceptance: Vec<(String, String)>,
    /// Whether measured acceptance agrees with theory, in a sentence.
    finding: String,
    /// Speculative decoding as a whole.
    speculation: Option<Speculation>,
    /// The same with a neural target.
    neural: Option<neural::Section>,
    /// A network trained in every precision.
    precision: Vec<Figure>,
}

/// The section for the serialized [`TextChain`] in `value`; speeds come from the `sheet`.
///
/// # Errors
/// If it is none, or a plot cannot be drawn.
pub fn section(value: &Value, sheet: &Sheet<'_>) -> anyhow::Result<Chain> {
    let chain: TextChain =
        serde_json::from_value(value.clone()).context("malformed results of the text chain")?;
    let losses = loss(&chain.embeddings)?;
    let figures = |found| mixed_precision::figures(found, sheet);
    let precision = chain.mixed_precision.as_ref().map(figures).transpose()?;
    Ok(Chain {
        corpus: corpus(&chain),
        models: chain.models.iter().map(model).collect(),
        figures: [perplexity(&chain.models)?, memory(&chain.models)?]
            .into_iter()
            .chain(losses)
            .collect(),
        embeddings: format!(
            "Trained on the same text: {} columns, {}. Nearest words by cosine:",
            chain.embeddings.dim,
            units::count(chain.embeddings.epochs, "epoch")
        ),
        neighbours: chain
            .embeddings
            .neighbours
            .iter()
            .map(|word| {
                let near = |(word, cosine): &(String, f32)| format!("{word} ({cosine:.2})");
                let nearest: Vec<String> = word.nearest.iter().map(near).collect();
                (word.word.clone(), nearest.join(", "))
            })
            .collect(),
        finding: finding(&chain.acceptance),
        precision: precision.unwrap_or_default(),
        acceptance: acceptance(&chain.acceptance),
        speculation: speculation::section(&chain.speculation),
        neural: chain.neural.as_ref().and_then(neural::section),
    })
}

fn corpus(chain: &TextChain) -> String {
    format!(
        "{}: {}, {} words, of which {} in {} are used and {} train. The vocabulary has {} words; {} of the \
         held-out words are not in it.",
        chain.corpus,
        units::bytes(chain.bytes as f64),
        chain.words,
        chain.words_used,
        units::count(chain.sentences, "sentence"),
        chain.train_words,
        chain.vocabulary,
        units::percent(chain.unknown)
    )
}

fn model(model: &LanguageModel) -> Vec<String> {
    vec![
        model.smoothing.replace('_', " "),
        model.order.to_string(),
        units::digits(model.perplexity),
        units::digits(model.perplexity_known),
        model.ngrams.to_string(),
        units::bytes(model.bytes as f64),
    ]
}

/// The smoothings in order of first appearance, each with its models.
fn by_smoothing(models: &[LanguageModel]) -> Vec<(&str, Vec<&LanguageModel>)> {
    let mut groups: Vec<(&str, Vec<&LanguageModel>)> = Vec::new();
    for model in models {
        match groups.iter_mut().find(|(name, _)| *name == model.smoothing) {
            Some((_, models)) => models.push(model),
            None => groups.push((&model.smoothing, vec![model])),
        }
    }
    groups
}

/// One series of marks for each smoothing, at `x` and the perplexity.
fn curves(
    models: &[LanguageModel],
    x: fn(&LanguageModel) -> f64,
) -> (Vec<Line>, Vec<Mark>, Vec<Key>) {
    let (mut lines, mut marks, mut legend) = (Vec::new(), Vec::new(), Vec::new());
    for (index, (smoothing, models)) in by_smoothing(models).into_iter().enumerate() {
        // Slot 0 is the quiet one.
        let slot = index + 1;
        let at = |model: &LanguageModel| (x(model), model.perplexity);
        lines.push(Line {
            slot,
            points: models.iter().map(|model| at(model)).collect(),
            stroke: Stroke::Solid,
        });
        marks.extend(models.iter().map(|model| Mark {
            slot,
            at: at(model),
            radius: 4.0,
            title: format!(
                "{smoothing}, order {}: perplexity {}, {}",
                model.order,
                units::digits(model.perplexity),
                units::bytes(model.bytes as f64)
            ),
            ..Mark::default()
        }));
        legend.push(Key::series(slot, &smoothing.replace('_', " ")));
    }
    (lines, marks, legend)
}

fn perplexity(models: &[LanguageModel]) -> anyhow::Result<Figure> {
    let (lines, marks, legend) = curves(models, |model| model.order as f64);
    let highest = models.iter().map(|model| model.order).max().unwrap_or(1);
    let ticks = (1..=highest).map(|order| (order as f64, order.to_string())).collect();
    let chart = Chart {
        title: "Perplexity against order".to_string(),
        x: Axis::ticked("order of the model", 0.7..highest as f64 + 0.3, ticks),
        y: perplexities(models),
        lines,
        marks,
    };
    Ok(Figure {
        heading: "Perplexity against order".to_string(),
        caption:
            "Held-out sentences, unknown words and ends of sentences counted. Lower is better."
                .to_string(),
        svg: chart.svg()?,
        legend,
        finding: String::new(),
    })
}

fn perplexities(models: &[LanguageModel]) -> Axis {
    let values = models.iter().map(|model| model.perplexity);
    Axis::log("perplexity of held-out text", values, units::tick)
}

fn memory(models: &[LanguageModel]) -> anyhow::Result<Figure> {
    let (lines, marks, legend) = curves(models, |model| model.bytes as f64);
    let best = models.iter().min_by(|a, b| a.perplexity.total_cmp(&b.perplexity));
    let finding = best.map(|model| {
        format!(
            "Lowest perplexity: {} of order {} with {} in {}.",
            model.smoothing.replace('_', " "),
            model.order,
            units::digits(model.perplexity),
            units::bytes(model.bytes as f64)
        )
    });
    let chart = Chart {
        title: "Perplexity against memory".to_string(),
        x: Axis::bytes("memory of the n-grams", models.iter().map(|model| model.bytes as f64)),
        y: perplexities(models),
        lines,
        marks,
    };
    Ok(Figure {
        heading: "What memory buys".to_string(),
        caption: "The same models by the memory of their n-grams. Lower left is better."
            .to_string(),
        svg: chart.svg()?,
        legend,
        finding: finding.unwrap_or_default(),
    })
}

fn loss(embeddings: &Embeddings) -> anyhow::Result<Option<Figure>> {
    let losses = &embeddings.losses;
    if losses.len() < 2 {
        return Ok(None);
    }
    let share = |i: usize| (i + 1) as f64 / losses.len() as f64;
    let points: Vec<(f64, f64)> = losses.iter().enumerate().map(|(i, l)| (share(i), *l)).collect();
    let marks = points.iter().map(|&(part, loss)| Mark {
        slot: 1,
        at: (part, loss),
        radius: 2.5,
        title: format!("loss {} after {}", units::digits(loss), units::percent(part)),
        ..Mark::default()
    });
    let chart = Chart {
        title: "Loss of word2vec".to_string(),
        x: Axis::linear("share of the training run", [1.0].into_iter(), units::tick_percent),
        y: Axis::linear("mean loss of a pair (nats)", losses.iter().copied(), units::tick),
        marks: marks.collect(),
        lines: vec![Line { slot: 1, points, stroke: Stroke::Solid }],
    };
    Ok(Some(Figure {
        heading: "Word vectors learn".to_string(),
        caption: "Skip-gram with negative sampling; mean loss over equal parts of the run."
            .to_string(),
        svg: chart.svg()?,
        legend: Vec::new(),
        finding: String::new(),
    }))
}

fn acceptance(acceptance: &Acceptance) -> Vec<(String, String)> {
    let a = acceptance;
    [
        (
            "draft and target",
            format!("order {} drafts for order {}", a.draft_order, a.target_order),
        ),
        ("tokens of a draft", a.draft_len.to_string()),
        ("drafts made", a.steps.to_string()),
        ("tokens examined", a.examined.to_string()),
        ("accepted, measured", units::percent(a.measured)),
        ("accepted by theory, 1 − total variation", units::percent(a.theoretical)),
        ("standard error", units::percent(a.standard_error)),
        ("tokens a step, measured", units::digits(a.tokens_per_step)),
        ("tokens a step, if independent", units::digits(a.tokens_per_step_independent)),
    ]
    .map(|(name, value)| (name.to_string(), value))
    .to_vec()
}

fn finding(acceptance: &Acceptance) -> String {
    let distance = (acceptance.measured - acceptance.theoretical).abs() / acceptance.standard_error;
    if !distance.is_finite() {
        return String::new();
    }
    let verdict = if distance <= 3.0 { "agrees with" } else { "departs from" };
    format!(
        "Measured acceptance {verdict} theory: {} against {}, {distance:.1} standard errors apart.",
        units::percent(acceptance.measured),
        units::percent(acceptance.theoretical)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_text_chain_is_an_error() {
        let error = section(&serde_json::json!({ "corpus": "x" }), &Sheet::of(&[])).err().unwrap();
        assert!(error.to_string().contains("text chain"), "{error}");
    }
}
