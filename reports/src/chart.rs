//! Charts as inline SVG. plotters draws axes, grid and lines; marks are added with their exact values as
//! `<title>`, and colours become classes and variables of the page so that both colour schemes can read them.

use std::{collections::HashMap, fmt::Write};

use anyhow::anyhow;
use plotters::prelude::*;

use crate::{axis::Axis, names::draw_names};

/// Width of every chart in its own pixels.
pub const WIDTH: u32 = 520;
/// Height of every chart in its own pixels.
pub const HEIGHT: u32 = 330;
/// Advance of an average character of a label, in pixels.
pub const CHARACTER: f64 = 6.7;
/// Colour classes of the page's style sheet: `s0` to `s9`.
pub const SLOTS: usize = 10;

// Stand-ins, replaced by variables of the style sheet once drawn.
const INK: RGBColor = RGBColor(1, 1, 1);
const GRID: RGBColor = RGBColor(2, 2, 2);
const fn stand_in(slot: usize) -> RGBColor {
    RGBColor(3, 0, (slot % SLOTS) as u8)
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
#[derive(Clone, Default)]
pub struct Mark {
    /// Colour class; the shape follows from it.
    pub slot: usize,
    /// Whether only its outline is drawn: another library's result.
    pub hollow: bool,
    /// Position in the units of the axes.
    pub at: (f64, f64),
    /// Quartiles along the second axis.
    pub whisker: Option<(f64, f64)>,
    /// Radius in pixels; 0 draws nothing but the name.
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
        let pixel = |at: (f64, f64)| {
            let (x, y) = chart.backend_coord(&at);
            (f64::from(x), f64::from(y))
        };
        let lies_over = |line: &&Line| line.stroke != Stroke::Solid && line.points.len() > 1;
        for line in self.lines.iter().filter(lies_over) {
            let class = match line.stroke {
                Stroke::Front => "front",
                Stroke::Ladder => "ladder",
                _ => "limit",
            };
            let _ = write!(overlay, "<polyline class=\"{class}\" points=\"");
            let points: Vec<String> =
                line.points.iter().map(|&at| pixel(at)).map(|(x, y)| format!("{x},{y}")).collect();
            overlay.push_str(&points.join(" "));
            overlay.push_str("\"/>");
        }
        for mark in &self.marks {
            let Some(ends) = mark.whisker else { continue };
            let within = |value: f64| value.clamp(self.y.range.start, self.y.range.end);
            let (low, high) = (within(ends.0), within(ends.1));
            let ((x, top), (_, bottom)) = (pixel((mark.at.0, high)), pixel((mark.at.0, low)));
            // A shorter one is hidden by its mark.
            if bottom - top > 2.0 * mark.radius {
                let slot = mark.slot % SLOTS;
                let _ =
                    write!(overlay, "<path class=\"s{slot} whisker\" d=\"M{x} {top}V{bottom}\"/>");
            }
        }
        let marks = gathered(&self.marks, pixel);
        for (mark, at) in &marks {
            draw_mark(overlay, mark, *at);
        }
        draw_names(overlay, &marks);
        root.present()?;
        drop(chart);
        drop(root);
        Ok(text)
    }
}

/// Marks with their places in pixels. Marks of one series that would cover each other are one mark that says
/// so; nothing that could be seen is lost.
fn gathered(marks: &[Mark], pixel: impl Fn((f64, f64)) -> (f64, f64)) -> Vec<(Mark, (f64, f64))> {
    let mut gathered: Vec<(Mark, (f64, f64))> = Vec::new();
    let mut more: Vec<usize> = Vec::new();
    let mut seen = HashMap::new();
    for mark in marks {
        let at = pixel(mark.at);
        let cell = (mark.slot, mark.hollow, (at.0 / 4.0) as i64, (at.1 / 4.0) as i64);
        let index = *seen.entry(cell).or_insert(gathered.len());
        if index == gathered.len() {
            gathered.push((mark.clone(), at));
            more.push(0);
        } else {
            more[index] += 1;
        }
    }
    for ((mark, _), more) in gathered.iter_mut().zip(more).filter(|(_, more)| *more > 0) {
        let _ = write!(mark.title, " (and {more} more here)");
    }
    gathered
}

/// Writes a mark: its shape tells series apart where colours do not.
fn draw_mark(out: &mut String, mark: &Mark, (x, y): (f64, f64)) {
    let (slot, r) = (mark.slot % SLOTS, mark.radius);
    if r == 0.0 {
        return;
    }
    let short = |value: f64| {
        let text = format!("{value:.1}");
        text.strip_suffix(".0").map_or(text.clone(), str::to_string)
    };
    let class = format!("class=\"s{slot}{}\"", if mark.hollow { " peer" } else { "" });
    let (element, shape) = match mark.slot % 4 {
        0 => ("circle", format!("cx=\"{x}\" cy=\"{y}\" r=\"{}\"", short(r))),
        1 => {
            let (left, top, side) = (short(x - r * 0.9), short(y - r * 0.9), short(r * 1.8));
            ("rect", format!("x=\"{left}\" y=\"{top}\" width=\"{side}\" height=\"{side}\""))
        }
        2 => {
            let (top, half, height, base) =
                (short(y - r * 1.2), short(r * 1.15), short(r * 2.0), short(-r * 2.3));
            ("path", format!("d=\"M{x} {top}l{half} {height}h{base}z\""))
        }
        _ => {
            let (top, r) = (short(y - r), short(r));
            ("path", format!("d=\"M{x} {top}l{r} {r}l-{r} {r}l-{r} -{r}z\""))
        }
    };
    let title = escape(&mark.title);
    let _ = write!(out, "<{element} {class} {shape}><title>{title}</title></{element}>");
}

/// Rewrites what plotters draws: classes of the style sheet instead of colours and sizes, and one path for all
/// lines of the grid and one for all of the axes.
fn themed(svg: &str) -> String {
    let (mut grid, mut axes, mut rest) = (String::new(), String::new(), String::new());
    let svg = svg.replace("\n</text>", "</text>");
    for element in svg.split_inclusive(">\n").map(str::trim_end) {
        if element.contains("stroke=\"#020202\"") {
            let at = |name| attribute(element, name);
            let _ = write!(grid, "M{} {}L{} {}", at("x1"), at("y1"), at("x2"), at("y2"));
        } else if element.starts_with("<polyline") && element.contains("\"#010101\"") {
            let points = attribute(element, "points").trim_end().replace(',', " ");
            let _ = write!(axes, "M{points}");
        } else if element.starts_with("<polyline") {
            let (color, points) = (attribute(element, "stroke"), attribute(element, "points"));
            let slot = (0..SLOTS).find(|&slot| hex(stand_in(slot)) == color).unwrap_or(0);
            let points = points.trim_end();
            let _ = write!(rest, "<polyline class=\"s{slot} line\" points=\"{points}\"/>");
        } else {
            rest += element;
        }
    }
    // The style sheet knows the type and how labels of each axis are aligned.
    for (drawn, themed) in [
        (" opacity=\"1\"", ""),
        (" font-family=\"sans-serif\"", ""),
        (" fill=\"#010101\"", ""),
        (" dy=\"0.5ex\" text-anchor=\"end\"", " class=\"y\""),
        (" dy=\"0.76em\" text-anchor=\"middle\"", " class=\"x\""),
    ] {
        rest = rest.replace(drawn, themed);
    }
    let mut parts = rest.split(" font-size=\"");
    let first = parts.next().unwrap_or_default().to_string();
    let rest =
        parts.fold(first, |text, part| text + part.split_once('"').map_or(part, |(_, rest)| rest));
    format!("<path class=\"grid\" d=\"{grid}\"/><path class=\"axis\" d=\"{axes}\"/>{rest}")
}

fn attribute<'e>(element: &'e str, name: &str) -> &'e str {
    let value = element.split_once(&format!(" {name}=\""));
    value.and_then(|(_, rest)| rest.split_once('"')).map_or("", |(value, _)| value)
}

fn hex(RGBColor(r, g, b): RGBColor) -> String {
    format!("#{r:02X}{g:02X}{b:02X}")
}

/// `text` as the content of an element or attribute.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
#[cfg(test)]
mod tests {
    use super::*;
    use crate::units;

    fn chart() -> Chart {
        let x = [256.0, 1024.0, 4096.0];
        let marks = x.map(|x| Mark {
            slot: 2,
            at: (x, x * 1e3),
            whisker: Some((x * 500.0, x * 3000.0)),
            radius: 4.0,
            title: format!("a < b & c at {x}"),
            label: Some("same name".into()),
            ..Mark::default()
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
        assert!(svg.contains("<polyline class=\"s2 line\" points="));
        assert!(svg.contains("a &lt; b &amp; c at 256"));
        assert!(svg.starts_with("<svg viewBox") && svg.ends_with("</svg>"));
        assert_eq!(svg.matches("<svg").count(), 1);
        assert_eq!(svg.matches("</svg>").count(), 1);
    }

    #[test]
    fn charts_of_nothing_and_of_one_point_can_be_drawn() {
        let axis = || Axis::log("t", [].into_iter(), units::time);
        let mut chart =
            Chart { title: "t".into(), x: axis(), y: axis(), lines: vec![], marks: vec![] };
        chart.svg().unwrap();
        chart.marks.push(Mark { at: (2.0, 2.0), radius: 4.0, ..Mark::default() });
        chart.svg().unwrap();
    }

    #[test]
    fn marks_that_cover_each_other_are_one_that_counts_them() {
        let mark = |slot, x| Mark { slot, at: (x, 1.0), radius: 4.0, ..Mark::default() };
        let marks = [mark(1, 10.0), mark(1, 11.5), mark(2, 10.0), mark(1, 90.0)];
        let gathered = gathered(&marks, |at| at);
        let titles: Vec<&str> = gathered.iter().map(|(mark, _)| mark.title.as_str()).collect();
        assert_eq!(titles, [" (and 1 more here)", "", ""]);
    }
}
