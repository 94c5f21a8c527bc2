//! Names beside marks: each where it covers nothing, or nowhere.

use std::fmt::Write;

use crate::chart::{HEIGHT, Mark, SLOTS, WIDTH, escape};

/// Advance of a wide character, height above and depth below the baseline of a name, in a chart's pixels, at the
/// larger type that the style sheet gives narrow screens: what holds there holds at the smaller type too.
const ADVANCE: f64 = 9.4;
const ASCENT: f64 = 14.0;
const DESCENT: f64 = 4.0;

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
fn arrange(marks: &[(Mark, (f64, f64))]) -> Vec<Name> {
    let disc =
        |(x, y): (f64, f64), r: f64| Area { left: x - r, top: y - r, right: x + r, bottom: y + r };
    let discs = || marks.iter().map(|(mark, at)| disc(*at, mark.radius + 1.0));
    let mut names: Vec<Name> = Vec::new();
    for (index, (mark, (x, y))) in marks.iter().enumerate() {
        let (x, y) = (*x, *y);
        let Some(label) = &mark.label else { continue };
        let (width, gap) = (label.chars().count() as f64 * ADVANCE, mark.radius + 4.0);
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
        // A name alone, of a line, stands above the line's end.
        let places = if mark.radius > 0.0 { &places[..] } else { &[(-2.0, -4.0)] };
        let area = |(dx, dy): (f64, f64)| {
            let left = if dx > 0.0 { x + dx } else { x + dx - width };
            Area { left, top: y + dy - ASCENT, right: left + width, bottom: y + dy + DESCENT }
        };
        let fits = |area: &Area| {
            area.left > 64.0
                && area.right < f64::from(WIDTH) - 4.0
                && area.top > 2.0
                && area.bottom < f64::from(HEIGHT) - 52.0
                && !discs().any(|other| other.overlaps(area))
                && !names.iter().any(|other| other.area.overlaps(area))
        };
        let place = places.iter().map(|&place| (place, area(place))).find(|(_, a)| fits(a));
        if let Some((offset, area)) = place {
            names.push(Name { mark: index, offset, area });
        }
    }
    names
}

/// Writes the names.
pub fn draw_names(out: &mut String, marks: &[(Mark, (f64, f64))]) {
    for Name { mark, offset: (dx, dy), .. } in arrange(marks) {
        let (mark, (x, y)) = &marks[mark];
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_never_cover_each_other() {
        let mark = |i: usize| Mark {
            slot: i,
            radius: 5.0,
            label: Some(format!("variant_{i}")),
            ..Mark::default()
        };
        let marks: Vec<_> = (0..12).map(|i| (mark(i), (200.0, 150.0))).collect();
        let names = arrange(&marks);
        assert!((2..12).contains(&names.len()));
        for (i, a) in names.iter().enumerate() {
            assert!(names[i + 1..].iter().all(|b| !a.area.overlaps(&b.area)));
        }
    }
}
