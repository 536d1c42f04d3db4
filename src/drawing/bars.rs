//! Histograms, and shares of a whole.

use super::svg::{
    AXIS, Axis, BOTTOM, COLOURS, GRID, HEIGHT, LEFT, Positions, RIGHT, Svg, TOP, WIDTH, number,
};

/// Counts of things by a value.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    /// The title.
    pub title: String,
    /// The value by which things are counted. Its range is that of the bins.
    pub x: Axis,
    /// What is counted.
    pub y: String,
    /// The bins: where each begins and ends, and its count.
    pub bins: Vec<(f64, f64, u64)>,
}

impl Histogram {
    /// Draws the histogram. A bin's count appears under the pointer.
    pub fn svg(&self) -> String {
        let (left, right, floor) = (LEFT, WIDTH - RIGHT, HEIGHT - BOTTOM);
        let first = self.bins.first().map_or(0.0, |b| b.0);
        let last = self.bins.last().map_or(0.0, |b| b.1);
        let x = Axis {
            range: Some((first, last)),
            ..self.x.clone()
        };
        let x = Positions::new(&x, std::iter::empty(), left, right);
        let most = self.bins.iter().map(|b| b.2).max().unwrap_or(0) as f64;
        let y = Axis::new(&*self.y, super::Scale::Linear);
        let y = Positions::new(&y, [most].into_iter(), floor, TOP);
        let mut svg = Svg::open(WIDTH, HEIGHT, &self.title);
        svg.title(&self.title);
        // There are no halves of what is counted.
        for tick in y.ticks().into_iter().filter(|t| t.fract() == 0.0) {
            let at = y.of(tick);
            svg.line((left, at), (right, at), GRID);
            svg.text((left - 8.0, at + 4.0), "end", &number(tick));
        }
        for (from, to, count) in self.bins.iter().filter(|b| b.2 > 0) {
            let (a, b, top) = (x.of(*from), x.of(*to), y.of(*count as f64));
            let name = match to - from <= 1.0 {
                true => format!("{from}: {count}"),
                false => format!("{from} to {}: {count}", to - 1.0),
            };
            let size = ((b - a - 0.5).max(0.5), (floor - top).max(0.5));
            svg.named_rectangle((a, floor - size.1), size, COLOURS[0], &name);
        }
        for tick in x.ticks() {
            svg.text((x.of(tick), floor + 18.0), "middle", &number(tick));
        }
        svg.line((left, floor), (right, floor), AXIS);
        svg.line((left, TOP), (left, floor), AXIS);
        svg.text(
            ((left + right) / 2.0, floor + 38.0),
            "middle",
            &self.x.label,
        );
        svg.upright((18.0, (TOP + floor) / 2.0), &self.y);
        svg.close()
    }
}

/// How a whole is divided, as one bar per whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Shares {
    /// The title.
    pub title: String,
    /// The names of the parts.
    pub parts: Vec<String>,
    /// The wholes: the name of each, and its parts from 0 to 1.
    pub wholes: Vec<(String, Vec<f64>)>,
}

impl Shares {
    /// Draws the bars.
    pub fn svg(&self) -> String {
        const ROW: f64 = 30.0;
        const NAMES: f64 = 110.0;
        const LINE: f64 = 20.0;
        let bottom = TOP + ROW * self.wholes.len() as f64;
        let height = bottom + 14.0 + LINE * self.parts.len() as f64;
        let mut svg = Svg::open(WIDTH, height, &self.title);
        svg.title(&self.title);
        let width = WIDTH - RIGHT - NAMES;
        for ((name, shares), row) in self.wholes.iter().zip(0..) {
            let top = TOP + ROW * f64::from(row);
            svg.text((NAMES - 8.0, top + 18.0), "end", name);
            let mut at = 0.0;
            for ((share, part), kind) in shares.iter().zip(&self.parts).zip(0usize..) {
                let share = share.min(1.0 - at).max(0.0);
                let place = (NAMES + at * width, top + 4.0);
                let name = format!("{part}: {:.1} %", 100.0 * share);
                let colour = COLOURS[kind % COLOURS.len()];
                svg.named_rectangle(place, (share * width, ROW - 8.0), colour, &name);
                at += share;
            }
        }
        for (part, row) in self.parts.iter().zip(0usize..) {
            let top = bottom + 6.0 + LINE * row as f64;
            svg.rectangle((NAMES, top), (12.0, 12.0), COLOURS[row % COLOURS.len()]);
            svg.text((NAMES + 18.0, top + 10.5), "start", part);
        }
        svg.close()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Scale;
    use super::*;

    #[test]
    fn each_count_is_a_bar_with_a_name() {
        let histogram = |bins| Histogram {
            title: "lengths".into(),
            x: Axis::new("letters", Scale::Log),
            y: "sequences".into(),
            bins,
        };
        let svg = histogram(vec![(20.0, 22.0, 3), (22.0, 24.0, 0), (24.0, 25.0, 7)]).svg();
        // The background and two bars.
        assert_eq!(svg.matches("<rect").count(), 3);
        assert!(svg.contains("<title>20 to 21: 3</title>"), "{svg}");
        assert!(svg.contains("<title>24: 7</title>"), "{svg}");
        let empty = histogram(vec![]).svg();
        for svg in [svg, empty] {
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }

    #[test]
    fn shares_never_exceed_the_whole() {
        let shares = Shares {
            title: "time".into(),
            parts: vec!["<b>".into(), "rest".into()],
            wholes: vec![("run 1".into(), vec![0.75, 2.0])],
        };
        let svg = shares.svg();
        assert!(
            svg.contains("&lt;b&gt;: 75.0 %") && svg.contains("rest: 25.0 %"),
            "{svg}"
        );
    }
}
