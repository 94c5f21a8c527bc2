//! Axes and their ticks: few, whole, and side by side without touching.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

use crate::{
    chart::{CHARACTER, WIDTH},
    units,
};

/// One axis with its ticks.
#[derive(Clone)]
pub struct Axis {
    /// What it measures, written beside it.
    pub label: String,
    log: bool,
    /// The values it holds.
    pub range: Range<f64>,
    ticks: Vec<(f64, String)>,
}

impl Axis {
    /// A logarithmic axis that holds `values`, ticks written by `format`.
    pub fn log(label: &str, values: impl Iterator<Item = f64>, format: fn(f64) -> String) -> Self {
        let range = padded(values);
        let ticks = decimal_ticks(&range, format);
        Self { label: label.to_string(), log: true, range, ticks }
    }

    /// A logarithmic axis of bytes: ticks at powers of two.
    pub fn bytes(label: &str, values: impl Iterator<Item = f64>) -> Self {
        let range = padded(values);
        let (low, high) = (range.start.log2().ceil() as i32, range.end.log2().floor() as i32);
        let step = ((high - low) / 5 + 1).max(1);
        let ticks = (low..=high)
            .filter(|power| power.rem_euclid(step) == 0)
            .map(|power| 2f64.powi(power))
            .map(|x| (x, short_bytes(x)))
            .collect();
        Self { label: label.to_string(), log: true, range, ticks }
    }

    /// A logarithmic axis of sizes: ticks at the sizes themselves, as many as fit.
    pub fn sizes(label: &str, mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        values.dedup();
        let range = padded(values.iter().copied());
        let per_log = 400.0 / (range.end / range.start).log10();
        let mut ticks: Vec<(f64, String)> = Vec::new();
        let mut free_from = f64::NEG_INFINITY;
        for x in values {
            let (at, text) = (x.log10() * per_log, units::size(x));
            let half = text.len() as f64 * CHARACTER / 2.0 + 4.0;
            if at - half >= free_from {
                free_from = at + half;
                ticks.push((x, text));
            }
        }
        Self { label: label.to_string(), log: true, range, ticks }
    }

    /// A linear axis from zero, ticks written by `format`.
    pub fn linear(
        label: &str,
        values: impl Iterator<Item = f64>,
        format: fn(f64) -> String,
    ) -> Self {
        let high = values.filter(|v| v.is_finite()).fold(0.0, f64::max);
        let high = if high > 0.0 { high * 1.06 } else { 1.0 };
        let step = [1.0, 2.0, 5.0, 10.0]
            .map(|s| s * 10f64.powf((high / 5.0).log10().floor()))
            .into_iter()
            .find(|step| high / step <= 6.0)
            .unwrap_or(high);
        let ticks = (0..).map(|i| f64::from(i) * step).take_while(|&x| x <= high);
        let ticks = ticks.map(|x| (x, format(x))).collect();
        Self { label: label.to_string(), log: false, range: 0.0..high, ticks }
    }

    /// A logarithmic axis of ratios, as far below 1 as above it, no wider than it must be.
    pub fn ratios(label: &str, values: impl Iterator<Item = f64>) -> Self {
        let size = |ratio: f64| ratio.max(1.0 / ratio);
        let largest = values.filter(|v| v.is_finite() && *v > 0.0).map(size).fold(1.0, f64::max);
        let steps: [&[f64]; 5] = [
            &[0.96, 0.98, 1.0, 1.02, 1.04],
            &[0.9, 0.95, 1.0, 1.05, 1.1],
            &[0.8, 0.9, 1.0, 1.1, 1.2],
            &[0.5, 0.7, 1.0, 1.5, 2.0],
            &[0.1, 0.3, 1.0, 3.0, 10.0],
        ];
        let reach = |ticks: &[f64]| 1.02 * size(ticks[0]).max(ticks[ticks.len() - 1]);
        let text = |ratio: f64| format!("{}×", units::tick(ratio));
        let (reach, ticks) = match steps.iter().find(|ticks| reach(ticks) >= largest) {
            Some(ticks) => (reach(ticks), ticks.iter().map(|&x| (x, text(x))).collect()),
            None => {
                let reach = 1.1 * largest;
                (reach, decimal_ticks(&(1.0 / reach..reach), text))
            }
        };
        Self { label: label.to_string(), log: true, range: 1.0 / reach..reach, ticks }
    }

    /// A linear axis with a tick at each given position.
    pub fn ticked(label: &str, range: Range<f64>, ticks: Vec<(f64, String)>) -> Self {
        Self { label: label.to_string(), log: false, range, ticks }
    }

    fn share(&self, value: f64) -> f64 {
        let at = |x: f64| if self.log { x.max(f64::MIN_POSITIVE).log10() } else { x };
        (at(value) - at(self.range.start)) / (at(self.range.end) - at(self.range.start))
    }

    /// Width of the widest tick's text in pixels.
    pub fn label_width(&self) -> f64 {
        let longest = self.ticks.iter().map(|(_, text)| text.chars().count()).max().unwrap_or(0);
        longest as f64 * CHARACTER
    }
}

/// A byte count that is a power of two, without needless digits.
fn short_bytes(bytes: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let step = ((bytes.log2() / 10.0).floor() as usize).min(units.len() - 1);
    format!("{} {}", bytes / 1024f64.powi(step as i32), units[step])
}

/// A range around all positive `values`, at least a factor of four wide.
fn padded(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (low, high) = values
        .filter(|v| v.is_finite() && *v > 0.0)
        .fold((f64::INFINITY, 0.0_f64), |(low, high), v| (low.min(v), high.max(v)));
    if high == 0.0 {
        return 1.0..10.0;
    }
    let pad = (high / low).powf(0.07).max((4.0 / (high / low)).sqrt()).max(1.1);
    low / pad..high * pad
}

/// Ticks at whole multiples of powers of ten, thinned step by step to powers only until there are at
/// most seven and their texts fit side by side.
fn decimal_ticks(range: &Range<f64>, format: impl Fn(f64) -> String) -> Vec<(f64, String)> {
    let (low, high) = (range.start.log10().floor() as i32, range.end.log10().ceil() as i32);
    let at = |steps: &[f64], every: i32| -> Vec<(f64, String)> {
        (low..=high)
            .filter(|power| power.rem_euclid(every) == 0)
            .flat_map(|power| steps.iter().map(move |step| step * 10f64.powi(power)))
            .filter(|x| range.contains(x))
            .map(|x| (x, format(x)))
            .collect()
    };
    let width = |text: &String| (text.chars().count() + 2) as f64 * CHARACTER;
    let fit = |ticks: &[(f64, String)]| {
        let total: f64 = ticks.iter().map(|(_, text)| width(text)).sum();
        ticks.len() <= 7 && total <= 0.6 * f64::from(WIDTH)
    };
    let choices: [(&[f64], i32); 9] = [
        (&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0], 1),
        (&[1.0, 2.0, 3.0, 5.0, 7.0], 1),
        (&[1.0, 2.0, 5.0], 1),
        (&[1.0, 3.0], 1),
        (&[1.0], 1),
        (&[1.0], 2),
        (&[1.0], 3),
        (&[1.0], 5),
        (&[1.0], 10),
    ];
    choices
        .iter()
        .map(|(steps, every)| at(steps, *every))
        .find(|ticks| fit(ticks))
        .unwrap_or_default()
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let (from, to) = (f64::from(limit.0), f64::from(limit.1));
        (from + self.share(*value) * (to - from)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.iter().map(|(at, _)| *at).collect()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        let tick = self.ticks.iter().find(|(at, _)| at == value);
        tick.map_or_else(String::new, |(_, text)| text.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_few_and_inside_the_range() {
        for (low, high) in [(1.0, 1.0), (900.0, 1100.0), (1e-9, 1e9), (1.0, 1e4), (3.0, 40.0)] {
            let range = padded([low, high].into_iter());
            let ticks = decimal_ticks(&range, units::tick);
            assert!((1..=7).contains(&ticks.len()), "{low} to {high}: {ticks:?}");
            assert!(ticks.iter().all(|(tick, _)| range.contains(tick)));
        }
        let decades: Vec<f64> = decimal_ticks(&padded([1.0, 1e4].into_iter()), units::tick)
            .into_iter()
            .map(|(tick, _)| tick)
            .collect();
        assert_eq!(decades, [1.0, 10.0, 100.0, 1000.0, 10000.0]);
    }

    #[test]
    fn ratios_lie_about_one_with_ticks_on_both_sides() {
        for largest in [1.0, 1.01, 1.07, 1.3, 2.5, 8.0, 30.0, 1e5] {
            let axis = Axis::ratios("ratio", [1.0, 1.0 / largest].into_iter());
            let Range { start, end } = axis.range;
            assert!((start * end - 1.0).abs() < 1e-12 && start <= 1.0 / largest, "{start} {end}");
            let side = |test: fn(f64) -> bool| axis.ticks.iter().any(|(at, _)| test(*at));
            assert!(
                side(|at| at < 1.0) && side(|at| at == 1.0) && side(|at| at > 1.0),
                "{largest}"
            );
            assert!(axis.ticks.iter().all(|(at, _)| axis.range.contains(at)), "{largest}");
        }
    }

    #[test]
    fn byte_ticks_are_powers_of_two() {
        let axis = Axis::bytes("memory", [1024.0, 1048576.0].into_iter());
        let ticks: Vec<_> = axis.ticks.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(ticks, ["4 KiB", "32 KiB", "256 KiB"]);
    }
}
