//! Points in a plane, whose names appear under the pointer.

use super::svg::{
    AXIS, Axis, BOTTOM, COLOURS, GRID, LEFT, Positions, RIGHT, Scale, Svg, TOP, WIDTH, number,
};

/// A point of a map.
#[derive(Debug, Clone, PartialEq)]
pub struct MapPoint {
    /// Where it lies.
    pub at: (f64, f64),
    /// Its name.
    pub name: String,
}

/// Points in a plane.
#[derive(Debug, Clone, PartialEq)]
pub struct Map {
    /// The title.
    pub title: String,
    /// What the horizontal axis is.
    pub x: String,
    /// What the vertical axis is.
    pub y: String,
    /// The points. Those that are not finite are left out.
    pub points: Vec<MapPoint>,
}

/// The height, so that the map is about as high as it is wide.
const HIGH: f64 = 640.0;

impl Map {
    /// Draws the map.
    pub fn svg(&self) -> String {
        let shown = self.points.iter();
        let shown = shown.filter(|p| p.at.0.is_finite() && p.at.1.is_finite());
        let shown: Vec<&MapPoint> = shown.collect();
        let floor = HIGH - BOTTOM;
        let positions = |label: &str, value: fn(&MapPoint) -> f64, start, end| {
            let values = shown.iter().map(|p| value(p));
            let least = values.clone().fold(f64::INFINITY, f64::min);
            let most = values.fold(f64::NEG_INFINITY, f64::max);
            // Equal values lie in the middle.
            let margin = match most - least {
                extent if extent > 0.0 => 0.04 * extent,
                _ => 1.0,
            };
            let axis = Axis {
                range: Some((least - margin, most + margin)),
                ..Axis::new(label, Scale::Linear)
            };
            Positions::new(&axis, std::iter::empty(), start, end)
        };
        let x = positions(&self.x, |p| p.at.0, LEFT, WIDTH - RIGHT);
        let y = positions(&self.y, |p| p.at.1, floor, TOP);
        let mut svg = Svg::open(WIDTH, HIGH, &self.title);
        svg.title(&self.title);
        for tick in x.ticks() {
            let at = x.of(tick);
            svg.line((at, TOP), (at, floor), GRID);
            svg.text((at, floor + 18.0), "middle", &number(tick));
        }
        for tick in y.ticks() {
            let at = y.of(tick);
            svg.line((LEFT, at), (WIDTH - RIGHT, at), GRID);
            svg.text((LEFT - 8.0, at + 4.0), "end", &number(tick));
        }
        svg.line((LEFT, floor), (WIDTH - RIGHT, floor), AXIS);
        svg.line((LEFT, TOP), (LEFT, floor), AXIS);
        svg.text(
            ((LEFT + WIDTH - RIGHT) / 2.0, floor + 38.0),
            "middle",
            &self.x,
        );
        svg.upright((18.0, (TOP + floor) / 2.0), &self.y);
        for point in shown {
            let at = (x.of(point.at.0), y.of(point.at.1));
            svg.named_dot(at, COLOURS[0], &point.name);
        }
        svg.close()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_has_its_name_and_no_name_is_markup() {
        let point = |x, y, name: &str| MapPoint {
            at: (x, y),
            name: name.into(),
        };
        let mut map = Map {
            title: "map".into(),
            x: "first".into(),
            y: "second".into(),
            points: vec![
                point(-1.0, 2.0, "a"),
                point(3.0, -2.0, "</title><script>alert(1)</script>"),
                point(f64::NAN, 0.0, "lost"),
            ],
        };
        let svg = map.svg();
        assert_eq!(svg.matches("<circle").count(), 2);
        assert!(
            svg.contains("<title>a</title>") && !svg.contains("<script"),
            "{svg}"
        );
        map.points.truncate(1);
        let one = map.svg();
        map.points.clear();
        for svg in [svg, one, map.svg()] {
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }
}
