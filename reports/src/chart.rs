//! Charts as inline SVG. plotters draws axes, grid and lines; marks are added with their exact values as
//! `<title>`, and colours become classes and variables of the page so that both colour schemes can read them.

use std::{fmt::Write, ops::Range};

use anyhow::anyhow;
use plotters::{
    coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter},
    prelude::*,
};

use crate::units;

const WIDTH: u32 = 520;
const HEIGHT: u32 = 330;
/// Advance of an average character of a label, in pixels.
const CHARACTER: f64 = 6.7;
/// Colour classes of the page's style sheet: `s0` to `s9`.
pub const SLOTS: usize = 10;

// Stand-ins, replaced by variables of the style sheet once drawn.
const INK: RGBColor = RGBColor(1, 1, 1);
const GRID: RGBColor = RGBColor(2, 2, 2);
const fn stand_in(slot: usize) -> RGBColor {
    RGBColor(3, 0, (slot % SLOTS) as u8)
}

/// One axis with its ticks.
#[derive(Clone)]
pub struct Axis {
    label: String,
    log: bool,
    range: Range<f64>,
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

    /// A linear axis with a tick at each given position.
    pub fn ticked(label: &str, range: Range<f64>, ticks: Vec<(f64, String)>) -> Self {
        Self { label: label.to_string(), log: false, range, ticks }
    }

    fn share(&self, value: f64) -> f64 {
        let at = |x: f64| if self.log { x.max(f64::MIN_POSITIVE).log10() } else { x };
        (at(value) - at(self.range.start)) / (at(self.range.end) - at(self.range.start))
    }

    fn label_width(&self) -> f64 {
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
fn decimal_ticks(range: &Range<f64>, format: fn(f64) -> String) -> Vec<(f64, String)> {
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

/// A line through points, in the colour of a series.
pub struct Line {
    /// Colour class.
    pub slot: usize,
    /// Points in the units of the axes.
    pub points: Vec<(f64, f64)>,
    /// How it is drawn.
    pub stroke: Stroke,
}

/// How a line is drawn.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stroke {
    /// A series.
    Solid,
    /// What joins the variants of a ladder.
    Ladder,
    /// A Pareto front.
    Front,
    /// The least time the device permits, or another limit.
    Limit,
}

/// A mark at one point.
pub struct Mark {
    /// Colour class; the shape follows from it.
    pub slot: usize,
    /// Position in the units of the axes.
    pub at: (f64, f64),
    /// Quartiles along the second axis.
    pub whisker: Option<(f64, f64)>,
    /// Radius in pixels.
    pub radius: f64,
    /// Exact values, shown on hover and read aloud.
    pub title: String,
    /// Name written beside it, where there is room.
    pub label: Option<String>,
}

/// A chart.
pub struct Chart {
    /// What it shows, for those who cannot see it.
    pub title: String,
    /// Horizontal axis.
    pub x: Axis,
    /// Vertical axis.
    pub y: Axis,
    /// Lines, drawn below the marks.
    pub lines: Vec<Line>,
    /// Marks.
    pub marks: Vec<Mark>,
}

impl Chart {
    /// The chart as an SVG element.
    ///
    /// # Errors
    /// If plotters cannot draw it.
    pub fn svg(&self) -> anyhow::Result<String> {
        let mut overlay = String::new();
        let drawn = self.draw(&mut overlay).map_err(|error| anyhow!("{}: {error}", self.title))?;
        let (_, body) = drawn.split_once("\">\n").unwrap_or(("", &drawn));
        let body = body.trim_end().strip_suffix("</svg>").unwrap_or(body);
        let title = escape(&self.title);
        Ok(format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\"><title>{title}</title>{}{overlay}</svg>",
            themed(body)
        ))
    }

    fn draw(&self, overlay: &mut String) -> Result<String, Box<dyn std::error::Error>> {
        let mut text = String::new();
        let root = SVGBackend::with_string(&mut text, (WIDTH, HEIGHT)).into_drawing_area();
        // Room for the larger type of narrow screens, too.
        let title = if self.y.label.is_empty() { 14.0 } else { 42.0 };
        let left = (self.y.label_width() * 1.25 + title).clamp(56.0, 260.0) as u32;
        let mut chart = ChartBuilder::on(&root)
            .margin_top(10)
            .margin_right(24)
            .margin_left(2)
            .margin_bottom(2)
            .x_label_area_size(46)
            .y_label_area_size(left)
            .build_cartesian_2d(self.x.clone(), self.y.clone())?;
        let mut mesh = chart.configure_mesh();
        mesh.axis_style(INK)
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .label_style(("sans-serif", 15).into_font().color(&INK))
            .axis_desc_style(("sans-serif", 15).into_font().color(&INK))
            .x_desc(self.x.label.as_str());
        if !self.y.label.is_empty() {
            mesh.y_desc(self.y.label.as_str());
        }
        mesh.draw()?;
        for line in self.lines.iter().filter(|line| line.stroke == Stroke::Solid) {
            let style = stand_in(line.slot).stroke_width(2);
            chart.draw_series(LineSeries::new(line.points.iter().copied(), style))?;
        }
        for mark in &self.marks {
            if let Some((low, high)) = mark.whisker {
                let ends = [(mark.at.0, low), (mark.at.0, high)];
                let style = stand_in(mark.slot).stroke_width(1);
                chart.draw_series(std::iter::once(PathElement::new(ends, style)))?;
            }
        }
        let pixel = |at: (f64, f64)| {
            let (x, y) = chart.backend_coord(&at);
            (f64::from(x), f64::from(y))
        };
        for line in self.lines.iter().filter(|line| line.stroke != Stroke::Solid) {
            let class = match line.stroke {
                Stroke::Front => "front",
                Stroke::Ladder => "ladder",
                _ => "limit",
            };
            let _ = write!(overlay, "<polyline class=\"{class}\" points=\"");
            for (x, y) in line.points.iter().map(|&at| pixel(at)) {
                let _ = write!(overlay, "{x},{y} ");
            }
            overlay.push_str("\"/>");
        }
        let centres: Vec<(f64, f64)> = self.marks.iter().map(|mark| pixel(mark.at)).collect();
        for (mark, &at) in self.marks.iter().zip(&centres) {
            draw_mark(overlay, mark, at);
        }
        draw_names(overlay, &self.marks, &centres);
        root.present()?;
        drop(chart);
        drop(root);
        Ok(text)
    }
}

/// Writes a mark: its shape tells series apart where colours do not.
fn draw_mark(out: &mut String, mark: &Mark, (x, y): (f64, f64)) {
    let (slot, r) = (mark.slot % SLOTS, mark.radius);
    let title = escape(&mark.title);
    let shape = match mark.slot % 4 {
        0 => format!("circle class=\"s{slot}\" cx=\"{x}\" cy=\"{y}\" r=\"{r:.1}\""),
        1 => format!(
            "rect class=\"s{slot}\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\"",
            x - r * 0.9,
            y - r * 0.9,
            r * 1.8,
            r * 1.8
        ),
        2 => format!(
            "path class=\"s{slot}\" d=\"M{x} {:.1}l{:.1} {:.1}h{:.1}z\"",
            y - r * 1.2,
            r * 1.15,
            r * 2.0,
            -r * 2.3
        ),
        _ => format!(
            "path class=\"s{slot}\" d=\"M{x} {:.1}l{r:.1} {r:.1}l-{r:.1} {r:.1}l-{r:.1} -{r:.1}z\"",
            y - r
        ),
    };
    let element = shape.split(' ').next().unwrap_or("path");
    let _ = write!(out, "<{shape}><title>{title}</title></{element}>");
}

/// A rectangle in pixels.
#[derive(Clone, Copy)]
struct Area {
    left: f64,
    top: f64,
    right: f64,
    bottom: f64,
}

impl Area {
    fn overlaps(&self, other: &Self) -> bool {
        self.left < other.right
            && other.left < self.right
            && self.top < other.bottom
            && other.top < self.bottom
    }
}

/// Where a name is written: which mark's, its offset from that mark, and the area it covers.
struct Name {
    mark: usize,
    offset: (f64, f64),
    area: Area,
}

/// Puts each name at the first of ten places beside its mark where it covers nothing. A name that fits
/// nowhere is left out: the legend has it.
fn arrange(marks: &[Mark], centres: &[(f64, f64)]) -> Vec<Name> {
    let disc =
        |(x, y): (f64, f64), r: f64| Area { left: x - r, top: y - r, right: x + r, bottom: y + r };
    let discs = || marks.iter().zip(centres).map(|(mark, &at)| disc(at, mark.radius + 1.0));
    let mut names: Vec<Name> = Vec::new();
    for (index, (mark, &(x, y))) in marks.iter().zip(centres).enumerate() {
        let Some(label) = &mark.label else { continue };
        let (width, gap) = (label.chars().count() as f64 * CHARACTER, mark.radius + 4.0);
        let below = gap + 10.0;
        // Right, left, above and below on either side, then right and left a little lower or higher: by
        // the offset of the baseline.
        let places = [
            (gap, 4.0),
            (-gap, 4.0),
            (2.0, -gap),
            (2.0, below),
            (-2.0, -gap),
            (-2.0, below),
            (gap, 12.0),
            (gap, -6.0),
            (-gap, 12.0),
            (-gap, -6.0),
        ];
        let area = |(dx, dy): (f64, f64)| {
            let left = if dx > 0.0 { x + dx } else { x + dx - width };
            Area { left, top: y + dy - 11.0, right: left + width, bottom: y + dy + 3.0 }
        };
        let fits = |area: &Area| {
            area.left > 64.0
                && area.right < f64::from(WIDTH) - 4.0
                && area.top > 2.0
                && area.bottom < f64::from(HEIGHT) - 52.0
                && !discs().any(|other| other.overlaps(area))
                && !names.iter().any(|other| other.area.overlaps(area))
        };
        let place = places.into_iter().map(|place| (place, area(place))).find(|(_, a)| fits(a));
        if let Some((offset, area)) = place {
            names.push(Name { mark: index, offset, area });
        }
    }
    names
}

fn draw_names(out: &mut String, marks: &[Mark], centres: &[(f64, f64)]) {
    for Name { mark, offset: (dx, dy), .. } in arrange(marks, centres) {
        let ((x, y), mark) = (centres[mark], &marks[mark]);
        let anchor = if dx > 0.0 { "" } else { " text-anchor=\"end\"" };
        let _ = write!(
            out,
            "<text class=\"name s{}\" x=\"{}\" y=\"{}\"{anchor}>{}</text>",
            mark.slot % SLOTS,
            x + dx,
            y + dy,
            escape(mark.label.as_deref().unwrap_or_default())
        );
    }
}

/// Replaces what plotters writes by what the style sheet knows.
fn themed(svg: &str) -> String {
    let mut svg = svg
        .replace(" opacity=\"1\"", "")
        .replace(" font-family=\"sans-serif\"", "")
        .replace("\"#010101\"", "\"var(--ink)\"")
        .replace("\"#020202\"", "\"var(--grid)\"")
        .replace(">\n", ">");
    for slot in 0..SLOTS {
        let RGBColor(r, g, b) = stand_in(slot);
        svg = svg.replace(
            &format!("stroke=\"#{r:02X}{g:02X}{b:02X}\""),
            &format!("class=\"s{slot}\" stroke=\"currentColor\""),
        );
    }
    svg
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart() -> Chart {
        let x = [256.0, 1024.0, 4096.0];
        let marks = x.map(|x| Mark {
            slot: 2,
            at: (x, x * 1e3),
            whisker: Some((x * 900.0, x * 1100.0)),
            radius: 4.0,
            title: format!("a < b & c at {x}"),
            label: Some("same name".into()),
        });
        Chart {
            title: "time \"against\" size".into(),
            x: Axis::sizes("n", x.to_vec()),
            y: Axis::log("time", x.iter().map(|x| x * 1e3), units::time),
            lines: vec![Line {
                slot: 2,
                points: marks.iter().map(|m| m.at).collect(),
                stroke: Stroke::Solid,
            }],
            marks: marks.into(),
        }
    }

    #[test]
    fn colours_belong_to_the_page_and_texts_are_escaped() {
        let svg = chart().svg().unwrap();
        assert!(!svg.contains('#'), "a fixed colour is left: {svg}");
        assert!(svg.contains("class=\"s2\" stroke=\"currentColor\""));
        assert!(svg.contains("a &lt; b &amp; c at 256"));
        assert!(svg.starts_with("<svg viewBox") && svg.ends_with("</svg>"));
        assert_eq!(svg.matches("<svg").count(), 1);
        assert_eq!(svg.matches("</svg>").count(), 1);
    }

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
    fn byte_ticks_are_powers_of_two() {
        let axis = Axis::bytes("memory", [1024.0, 1048576.0].into_iter());
        let ticks: Vec<_> = axis.ticks.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(ticks, ["4 KiB", "32 KiB", "256 KiB"]);
    }

    #[test]
    fn charts_of_nothing_and_of_one_point_can_be_drawn() {
        let axis = || Axis::log("t", [].into_iter(), units::time);
        let mut chart =
            Chart { title: "t".into(), x: axis(), y: axis(), lines: vec![], marks: vec![] };
        chart.svg().unwrap();
        chart.marks.push(Mark {
            slot: 0,
            at: (2.0, 2.0),
            whisker: None,
            radius: 4.0,
            title: String::new(),
            label: None,
        });
        chart.svg().unwrap();
    }

    #[test]
    fn names_never_cover_each_other() {
        let mark = |i: usize| Mark {
            slot: i,
            at: (1.0, 1.0),
            whisker: None,
            radius: 5.0,
            title: String::new(),
            label: Some(format!("variant_{i}")),
        };
        let marks: Vec<Mark> = (0..12).map(mark).collect();
        let names = arrange(&marks, &[(200.0, 150.0); 12]);
        assert!((2..12).contains(&names.len()));
        for (i, a) in names.iter().enumerate() {
            assert!(names[i + 1..].iter().all(|b| !a.area.overlaps(&b.area)));
        }
    }
}
