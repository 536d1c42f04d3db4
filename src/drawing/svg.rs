//! Draws figures as SVG: curves with their ceilings, and timelines. Nothing is loaded
//! from elsewhere, so that a figure can be put into a page or a paper as it is.

use std::fmt::Write as _;

/// The colours of Okabe and Ito (2008), which people with any colour vision tell apart.
pub(super) const COLOURS: [&str; 7] = [
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555",
];

pub(super) const WIDTH: f64 = 720.0;
pub(super) const HEIGHT: f64 = 400.0;
pub(super) const LEFT: f64 = 70.0;
pub(super) const RIGHT: f64 = 20.0;
pub(super) const TOP: f64 = 40.0;
pub(super) const BOTTOM: f64 = 52.0;
/// The height of a line of the legend.
const LINE: f64 = 18.0;

/// How the values of an axis are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Equal differences are equally far apart.
    Linear,
    /// Equal ratios are equally far apart.
    Log,
}

/// An axis of a chart.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    /// What the values are, with their unit.
    pub label: String,
    /// How they are spread.
    pub scale: Scale,
    /// The range that is shown; by default that of the points, from 0 on a linear axis.
    pub range: Option<(f64, f64)>,
}

impl Axis {
    /// Makes an axis whose range is that of the points.
    pub fn new(label: impl Into<String>, scale: Scale) -> Self {
        Self {
            label: label.into(),
            scale,
            range: None,
        }
    }
}

/// How the points of a series are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Points joined by a line.
    Measured,
    /// A broken line without points: a bound, or something computed.
    Bound,
    /// Points alone.
    Points,
}

/// A series of points with a name.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// The name in the legend.
    pub name: String,
    /// How it is drawn.
    pub mark: Mark,
    /// The number of the colour. A curve and its bound have the same one.
    pub colour: usize,
    /// The points. Points that are not finite are left out, and on a logarithmic axis those at or
    /// below 0.
    pub points: Vec<(f64, f64)>,
}

/// Curves over one axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    /// The title.
    pub title: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// The series.
    pub series: Vec<Series>,
}

impl Chart {
    /// Draws the chart.
    pub fn svg(&self) -> String {
        let shown: Vec<Vec<(f64, f64)>> = self
            .series
            .iter()
            .map(|s| {
                let fits =
                    |v: f64, axis: &Axis| v.is_finite() && (axis.scale == Scale::Linear || v > 0.0);
                s.points
                    .iter()
                    .copied()
                    .filter(|p| fits(p.0, &self.x) && fits(p.1, &self.y))
                    .collect()
            })
            .collect();
        let height = HEIGHT + LINE * self.series.len() as f64;
        let x = Positions::new(
            &self.x,
            shown.iter().flatten().map(|p| p.0),
            LEFT,
            WIDTH - RIGHT,
        );
        let y = Positions::new(
            &self.y,
            shown.iter().flatten().map(|p| p.1),
            HEIGHT - BOTTOM,
            TOP,
        );
        let mut svg = Svg::open(WIDTH, height, &self.title);
        svg.title(&self.title);
        for tick in x.ticks() {
            let at = x.of(tick);
            svg.line((at, TOP), (at, HEIGHT - BOTTOM), GRID);
            svg.text((at, HEIGHT - BOTTOM + 18.0), "middle", &number(tick));
        }
        for tick in y.ticks() {
            let at = y.of(tick);
            svg.line((LEFT, at), (WIDTH - RIGHT, at), GRID);
            svg.text((LEFT - 8.0, at + 4.0), "end", &number(tick));
        }
        svg.line(
            (LEFT, HEIGHT - BOTTOM),
            (WIDTH - RIGHT, HEIGHT - BOTTOM),
            AXIS,
        );
        svg.line((LEFT, TOP), (LEFT, HEIGHT - BOTTOM), AXIS);
        let middle = (LEFT + WIDTH - RIGHT) / 2.0;
        svg.text((middle, HEIGHT - BOTTOM + 38.0), "middle", &self.x.label);
        svg.upright((18.0, (TOP + HEIGHT - BOTTOM) / 2.0), &self.y.label);
        for ((series, points), row) in self.series.iter().zip(&shown).zip(0..) {
            let colour = COLOURS[series.colour % COLOURS.len()];
            let style = match series.mark {
                Mark::Bound => format!(
                    "fill='none' stroke='{colour}' stroke-width='1.5' stroke-dasharray='6 4'"
                ),
                _ => format!("fill='none' stroke='{colour}' stroke-width='2'"),
            };
            let at: Vec<(f64, f64)> = points.iter().map(|p| (x.of(p.0), y.of(p.1))).collect();
            if series.mark != Mark::Points {
                svg.polyline(&at, &style);
            }
            if series.mark != Mark::Bound {
                at.iter().for_each(|p| svg.dot(*p, colour));
            }
            let below = HEIGHT + LINE * f64::from(row);
            if series.mark != Mark::Points {
                svg.polyline(&[(LEFT, below), (LEFT + 26.0, below)], &style);
            }
            if series.mark != Mark::Bound {
                svg.dot((LEFT + 13.0, below), colour);
            }
            svg.text((LEFT + 34.0, below + 4.0), "start", &series.name);
        }
        svg.close()
    }
}

/// An interval of a timeline.
#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    /// The start, in the unit of the timeline.
    pub start: f64,
    /// The end.
    pub end: f64,
    /// The number of the bar's kind in [`Timeline::kinds`].
    pub kind: usize,
}

/// A line of a timeline.
#[derive(Debug, Clone, PartialEq)]
pub struct Lane {
    /// The name.
    pub name: String,
    /// The intervals on it.
    pub bars: Vec<Bar>,
}

/// What happened on several tracks over time.
#[derive(Debug, Clone, PartialEq)]
pub struct Timeline {
    /// The title.
    pub title: String,
    /// What the horizontal axis is, with its unit.
    pub label: String,
    /// The range of time that is shown.
    pub range: (f64, f64),
    /// The names of the kinds of bars.
    pub kinds: Vec<String>,
    /// The lines, from the top.
    pub lanes: Vec<Lane>,
}

impl Timeline {
    /// Draws the timeline. Bars that are nearer than a tenth of a pixel become one.
    pub fn svg(&self) -> String {
        const ROW: f64 = 26.0;
        const NAMES: f64 = 130.0;
        let bottom = TOP + ROW * self.lanes.len() as f64;
        let height = bottom + 46.0 + LINE;
        let axis = Axis {
            range: Some(self.range),
            ..Axis::new(&*self.label, Scale::Linear)
        };
        let x = Positions::new(&axis, std::iter::empty(), NAMES, WIDTH - RIGHT);
        let mut svg = Svg::open(WIDTH, height, &self.title);
        svg.title(&self.title);
        for tick in x.ticks() {
            let at = x.of(tick);
            svg.line((at, TOP), (at, bottom), GRID);
            svg.text((at, bottom + 16.0), "middle", &number(tick));
        }
        svg.text(
            ((NAMES + WIDTH - RIGHT) / 2.0, bottom + 34.0),
            "middle",
            &self.label,
        );
        for (lane, row) in self.lanes.iter().zip(0..) {
            let top = TOP + ROW * f64::from(row);
            svg.text((NAMES - 8.0, top + 17.0), "end", &lane.name);
            for (from, to, kind) in joined(&lane.bars, self.range, &x) {
                let colour = COLOURS[kind % COLOURS.len()];
                svg.rectangle((from, top + 4.0), (to - from, ROW - 8.0), colour);
            }
        }
        svg.line((NAMES, bottom), (WIDTH - RIGHT, bottom), AXIS);
        let mut at = NAMES;
        for (name, kind) in self.kinds.iter().zip(0..) {
            svg.rectangle(
                (at, bottom + 44.0),
                (12.0, 12.0),
                COLOURS[kind % COLOURS.len()],
            );
            svg.text((at + 17.0, bottom + 54.0), "start", name);
            at += 40.0 + 6.5 * name.chars().count() as f64;
        }
        svg.close()
    }
}

/// The bars within the range, in pixels: those of one kind that all but touch are one.
fn joined(bars: &[Bar], range: (f64, f64), x: &Positions) -> Vec<(f64, f64, usize)> {
    let mut sorted: Vec<&Bar> = bars
        .iter()
        .filter(|b| b.end > range.0 && b.start < range.1)
        .collect();
    sorted.sort_by(|a, b| a.start.total_cmp(&b.start));
    let mut out: Vec<(f64, f64, usize)> = Vec::new();
    for bar in sorted {
        let from = x.of(bar.start.max(range.0));
        let to = x.of(bar.end.min(range.1)).max(from + 0.1);
        match out.last_mut() {
            Some(last) if last.2 == bar.kind && from - last.1 < 0.1 => last.1 = last.1.max(to),
            _ => out.push((from, to, bar.kind)),
        }
    }
    out
}

/// Where the values of an axis lie.
pub(super) struct Positions {
    scale: Scale,
    from: f64,
    to: f64,
    start: f64,
    end: f64,
}

impl Positions {
    pub(super) fn new(
        axis: &Axis,
        values: impl Iterator<Item = f64>,
        start: f64,
        end: f64,
    ) -> Self {
        let (mut least, mut most) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values {
            least = least.min(value);
            most = most.max(value);
        }
        let (mut from, mut to) = axis.range.unwrap_or(match axis.scale {
            Scale::Linear => (0f64.min(least), most * 1.05),
            Scale::Log => (least / 1.3, most * 1.3),
        });
        // Without points, or with one value alone, there is no range.
        if !(from.is_finite() && to.is_finite() && from < to) {
            (from, to) = (1.0, 10.0);
        }
        Self {
            scale: axis.scale,
            from,
            to,
            start,
            end,
        }
    }

    pub(super) fn of(&self, value: f64) -> f64 {
        let share = match self.scale {
            Scale::Linear => (value - self.from) / (self.to - self.from),
            Scale::Log => (value / self.from).ln() / (self.to / self.from).ln(),
        };
        self.start + share * (self.end - self.start)
    }

    /// Round values within the range, at most some ten.
    pub(super) fn ticks(&self) -> Vec<f64> {
        let inside = |v: &f64| *v >= self.from * (1.0 - 1e-9) && *v <= self.to * (1.0 + 1e-9);
        match self.scale {
            Scale::Linear => {
                let raw = (self.to - self.from) / 8.0;
                let unit = 10f64.powf(raw.log10().floor());
                let step = [1.0, 2.0, 5.0, 10.0]
                    .map(|m| m * unit)
                    .into_iter()
                    .find(|s| *s >= raw)
                    .unwrap_or(raw);
                let first = (self.from / step).ceil() as i64;
                (first..first + 20)
                    .map(|i| i as f64 * step)
                    .take_while(|v| *v <= self.to * (1.0 + 1e-9))
                    .collect()
            }
            Scale::Log => {
                let decades = (self.to / self.from).log10();
                let within: &[f64] = if decades < 1.5 {
                    &[1.0, 2.0, 3.0, 5.0, 7.0]
                } else if decades < 4.0 {
                    &[1.0, 2.0, 5.0]
                } else {
                    &[1.0]
                };
                let (low, high) = (
                    self.from.log10().floor() as i32,
                    self.to.log10().ceil() as i32,
                );
                (low..=high)
                    .flat_map(|e| within.iter().map(move |m| m * 10f64.powi(e)))
                    .filter(inside)
                    .collect()
            }
        }
    }
}

/// A value at a tick: as few digits as tell it from its neighbours.
pub(super) fn number(value: f64) -> String {
    let size = value.abs();
    if size >= 1e6 {
        format!("{}M", short(value / 1e6))
    } else if size >= 1e4 {
        format!("{}k", short(value / 1e3))
    } else {
        short(value)
    }
}

fn short(value: f64) -> String {
    let text = format!("{value:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" {
        "0".into()
    } else {
        text.into()
    }
}

pub(super) const GRID: &str = "stroke='#dddddd' stroke-width='1'";
pub(super) const AXIS: &str = "stroke='#333333' stroke-width='1'";

/// Text of an SVG file.
pub(super) struct Svg(String);

impl Svg {
    pub(super) fn open(width: f64, height: f64, title: &str) -> Self {
        let mut svg = String::new();
        // Writing to a string cannot fail, here and below.
        let _ = write!(
            svg,
            "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width}' height='{height}' \
             role='img' aria-label='{}' font-family='Helvetica, Arial, sans-serif' font-size='12' fill='#222222'>\n\
             <rect width='{width}' height='{height}' fill='#ffffff'/>\n",
            escaped(title)
        );
        Self(svg)
    }

    pub(super) fn title(&mut self, text: &str) {
        let _ = writeln!(
            self.0,
            "<text x='{}' y='22' text-anchor='middle' font-size='15'>{}</text>",
            WIDTH / 2.0,
            escaped(text)
        );
    }

    pub(super) fn text(&mut self, (x, y): (f64, f64), anchor: &str, text: &str) {
        let _ = writeln!(
            self.0,
            "<text x='{x:.1}' y='{y:.1}' text-anchor='{anchor}'>{}</text>",
            escaped(text)
        );
    }

    pub(super) fn upright(&mut self, (x, y): (f64, f64), text: &str) {
        let _ = writeln!(
            self.0,
            "<text transform='translate({x:.1} {y:.1}) rotate(-90)' text-anchor='middle'>{}</text>",
            escaped(text)
        );
    }

    pub(super) fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), style: &str) {
        let _ = writeln!(
            self.0,
            "<line x1='{x1:.1}' y1='{y1:.1}' x2='{x2:.1}' y2='{y2:.1}' {style}/>"
        );
    }

    pub(super) fn polyline(&mut self, points: &[(f64, f64)], style: &str) {
        let points: Vec<String> = points
            .iter()
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect();
        let _ = writeln!(self.0, "<polyline points='{}' {style}/>", points.join(" "));
    }

    pub(super) fn dot(&mut self, (x, y): (f64, f64), colour: &str) {
        let _ = writeln!(
            self.0,
            "<circle cx='{x:.1}' cy='{y:.1}' r='3' fill='{colour}'/>"
        );
    }

    pub(super) fn rectangle(
        &mut self,
        (x, y): (f64, f64),
        (width, height): (f64, f64),
        colour: &str,
    ) {
        let _ = writeln!(
            self.0,
            "<rect x='{x:.2}' y='{y:.1}' width='{width:.2}' height='{height:.1}' fill='{colour}'/>"
        );
    }

    /// Draws a small dot whose name appears under the pointer.
    pub(super) fn named_dot(&mut self, (x, y): (f64, f64), colour: &str, name: &str) {
        let _ = writeln!(
            self.0,
            "<circle cx='{x:.1}' cy='{y:.1}' r='3.5' fill='{colour}' fill-opacity='0.6'><title>{}</title></circle>",
            escaped(name)
        );
    }

    /// Draws a rectangle whose name appears under the pointer.
    pub(super) fn named_rectangle(
        &mut self,
        (x, y): (f64, f64),
        (width, height): (f64, f64),
        colour: &str,
        name: &str,
    ) {
        let _ = writeln!(
            self.0,
            "<rect x='{x:.2}' y='{y:.2}' width='{width:.2}' height='{height:.2}' fill='{colour}'><title>{}</title></rect>",
            escaped(name)
        );
    }

    pub(super) fn close(mut self) -> String {
        self.0.push_str("</svg>\n");
        self.0
    }
}

/// Makes text fit for the inside of an element or an attribute.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&quot;"),
            // A control character has no place in a page.
            c if c.is_control() && c != '\n' && c != '\t' => out.push(char::REPLACEMENT_CHARACTER),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart() -> Chart {
        Chart {
            title: "a < b & 'c' \"d\"".into(),
            x: Axis::new("tokens", Scale::Log),
            y: Axis::new("hidden", Scale::Linear),
            series: vec![
                Series {
                    name: "<script>".into(),
                    mark: Mark::Measured,
                    colour: 0,
                    points: vec![(10.0, 1.0), (100.0, 2.0), (0.0, 5.0), (50.0, f64::NAN)],
                },
                Series {
                    name: "bound".into(),
                    mark: Mark::Bound,
                    colour: 0,
                    points: vec![(10.0, 2.0), (100.0, 2.0)],
                },
            ],
        }
    }

    #[test]
    fn text_is_escaped_and_what_has_no_place_is_left_out() {
        let svg = chart().svg();
        assert!(
            svg.contains("a &lt; b &amp; &#39;c&#39; &quot;d&quot;"),
            "{svg}"
        );
        assert!(
            svg.contains("&lt;script&gt;") && !svg.contains("<script"),
            "{svg}"
        );
        // Two points, and one in the legend.
        assert_eq!(svg.matches("<circle").count(), 3);
        assert_eq!(svg.matches("stroke-dasharray").count(), 2);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn a_chart_without_points_is_drawn() {
        let mut chart = chart();
        chart.series.iter_mut().for_each(|s| s.points.clear());
        let svg = chart.svg();
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        assert!(svg.ends_with("</svg>\n"));
    }

    #[test]
    fn bars_outside_the_range_are_not_drawn_and_near_ones_are_joined() {
        let bar = |start, end, kind| Bar { start, end, kind };
        let timeline = Timeline {
            title: "pass".into(),
            label: "ms".into(),
            range: (0.0, 100.0),
            kinds: vec!["load".into(), "compute".into()],
            lanes: vec![Lane {
                name: "engine".into(),
                bars: vec![
                    bar(-5.0, 10.0, 0),
                    bar(10.0001, 20.0, 0),
                    bar(20.0, 30.0, 1),
                    bar(101.0, 110.0, 0),
                ],
            }],
        };
        // The background, the two kinds, and a bar of each kind.
        assert_eq!(timeline.svg().matches("<rect").count(), 5);
    }
}
