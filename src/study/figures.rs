//! The files of a study of overlap: its points as CSV, its figures as SVG, and a page with all of
//! it that needs no other file. Also the roofline of a benchmark.

use super::BenchReport;
use super::overlap::{Bus, OverlapPoint, OverlapReport, PassTimeline};
use crate::drawing::{Axis, Bar, Chart, Lane, Mark, Page, Scale, Series, Timeline};

/// A file of a study.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StudyFile {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub text: String,
}

/// A figure, and what it shows.
struct Figure {
    file: StudyFile,
    caption: &'static str,
}

/// Returns all files of the study. The JSON is that of the report.
///
/// # Errors
/// If the report cannot be serialised, which only a defect could cause.
pub fn files(report: &OverlapReport) -> Result<Vec<StudyFile>, serde_json::Error> {
    let file = |name: &str, text: String| StudyFile {
        name: name.into(),
        text,
    };
    let figures = figures(report);
    let mut all = vec![
        file("overlap.json", serde_json::to_string_pretty(report)? + "\n"),
        file("overlap.csv", csv(report)),
        file("overlap.html", page(report, &figures)),
    ];
    all.extend(figures.into_iter().map(|figure| figure.file));
    Ok(all)
}

/// A column of the CSV: its name, and its value for a point.
type Column = (&'static str, fn(&OverlapPoint) -> String);

fn number(value: f64) -> String {
    value.to_string()
}

fn optional(value: Option<f64>) -> String {
    value.map_or_else(String::new, number)
}

/// Returns the points as CSV. No value has a comma or a quotation mark.
pub fn csv(report: &OverlapReport) -> String {
    macro_rules! columns {
        ($($name:ident $how:ident),* $(,)?) => {
            [$((stringify!($name), |p| columns!(@ $how p.$name))),*]
        };
        (@ number $value:expr) => { number($value) };
        (@ optional $value:expr) => { optional($value) };
        (@ text $value:expr) => { $value.to_string() };
    }
    let settings: [Column; 6] = [
        ("length", |p| p.setting.length.to_string()),
        ("token_budget", |p| p.setting.token_budget.to_string()),
        ("weights", |p| p.setting.weights()),
        ("bus", |p| p.setting.bus.to_string()),
        ("streams", |p| p.setting.streams.to_string()),
        ("per_token", |p| p.setting.per_token.to_string()),
    ];
    let figures: [Column; 20] = columns![
        tokens_per_pass text,
        tokens_per_second number,
        spread number,
        wall_seconds number,
        load_seconds number,
        compute_seconds number,
        store_seconds number,
        bus_seconds number,
        hidden_of_load optional,
        ceiling optional,
        exposed_load_seconds optional,
        copies_hidden number,
        stores_hidden number,
        load_of_wall number,
        idle_seconds number,
        idle_loading_seconds number,
        idle_storing_seconds number,
        idle_other_seconds number,
        bound_seconds number,
        bound_of_wall number,
    ];
    let columns: Vec<&Column> = settings.iter().chain(&figures).collect();
    let names: Vec<&str> = columns.iter().map(|c| c.0).collect();
    let mut out = names.join(",") + "\n";
    for point in &report.points {
        let values: Vec<String> = columns.iter().map(|c| (c.1)(point)).collect();
        out += &(values.join(",") + "\n");
    }
    out
}

/// Returns the roofline of the operations that were timed, as SVG: their rates by their operations per
/// byte, below what the machine can do. Returns `None` if no operation that multiplies matrices was
/// timed.
pub fn roofline(report: &BenchReport) -> Option<String> {
    let mut series = Vec::new();
    let mut all = Vec::new();
    for (workload, colour) in report.workloads.iter().zip(0..) {
        let points = workload.operations.iter();
        let points: Vec<(f64, f64)> = points
            .filter_map(|o| Some((o.intensity?, o.tflops?)))
            .collect();
        all.extend(points.iter().copied());
        series.push(Series {
            name: workload.workload.clone(),
            mark: Mark::Points,
            colour,
            points,
        });
    }
    let least = all.iter().map(|p| p.0).reduce(f64::min)? / 2.0;
    let most = all.iter().map(|p| p.0).reduce(f64::max)? * 2.0;
    if let Some(ceilings) = &report.ceilings {
        let tb_per_s = ceilings.copy_gb_per_s / 1e3;
        let roofs = ceilings.product.iter().flat_map(|product| {
            [
                ("sustained", product.sustained_tflops, 5),
                ("burst", product.burst_tflops, 6),
            ]
        });
        for (name, roof, colour) in roofs {
            // Below the knee, the memory bounds the rate.
            let knee = (roof / tb_per_s).clamp(least, most);
            series.push(Series {
                name: format!(
                    "{:.0} GB/s, {roof:.0} TFLOP/s ({name})",
                    ceilings.copy_gb_per_s
                ),
                mark: Mark::Bound,
                colour,
                points: vec![
                    (least, least * tb_per_s),
                    (knee, roof.min(knee * tb_per_s)),
                    (most, roof.min(most * tb_per_s)),
                ],
            });
        }
    }
    let chart = Chart {
        title: format!("Roofline: {}, {}", report.model, report.place),
        x: Axis::new("floating-point operations per byte", Scale::Log),
        y: Axis::new("TFLOP/s", Scale::Log),
        series,
    };
    Some(chart.svg())
}

fn figures(report: &OverlapReport) -> Vec<Figure> {
    let mut lengths: Vec<usize> = report.points.iter().map(|p| p.setting.length).collect();
    lengths.dedup();
    let mut all = Vec::new();
    for length in lengths {
        // Curves are of overlapping streams and pooled results.
        let points: Vec<&OverlapPoint> = report
            .points
            .iter()
            .filter(|p| p.setting.length == length && p.setting.streams && !p.setting.per_token)
            .collect();
        let (points, all_buses): (Vec<_>, Vec<_>) = (
            points
                .iter()
                .copied()
                .filter(|p| p.setting.bus == Bus::Pinned)
                .collect(),
            points,
        );
        let mut kinds: Vec<Option<usize>> = points.iter().map(|p| p.setting.slots).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let title = |what: &str| format!("{what}: {}, length {length}", report.model);
        if kinds.iter().any(Option::is_some) {
            all.push(Figure {
                file: StudyFile {
                    name: format!("hidden-{length}.svg"),
                    text: hidden(&points, &kinds, title("Hidden loading")).svg(),
                },
                caption: "The part of the loading of streamed layers that takes no time, and what could be hidden at best (dashed).",
            });
        }
        if points.len() < all_buses.len() {
            all.push(Figure {
                file: StudyFile {
                    name: format!("bus-{length}.svg"),
                    text: by_bus(&all_buses, title("Rate by bus")).svg(),
                },
                caption: "Tokens per second with layers streamed through the fewest slots: from pinned memory, from pageable memory, and over slower buses.",
            });
        }
        let knee = knee(report, length);
        all.push(Figure {
            file: StudyFile {
                name: format!("rate-{length}.svg"),
                text: rate(&points, &kinds, title("Rate"), knee).svg(),
            },
            caption: "Tokens per second with all layers on the device and with streamed layers. From the dashed line on, computing a pass takes longer than loading its layers.",
        });
    }
    // Both timelines have the same scale.
    let longest = report.timelines.iter().map(|t| t.nanoseconds).max();
    for streams in [true, false] {
        let mut found = report.timelines.iter();
        let last = found.find(|t| t.setting.streams == streams);
        let Some(pass) = last else { continue };
        let name = if streams { "on" } else { "off" };
        all.push(Figure {
            file: StudyFile {
                name: format!("timeline-streams-{name}.svg"),
                text: timeline(pass, longest.unwrap_or_default()).svg(),
            },
            caption: if streams {
                "One pass through two slots, with streams."
            } else {
                "The same pass without streams."
            },
        });
    }
    all
}

/// Returns the tokens per pass from which on computing takes longer than loading: those for which
/// both take the same time at the speed of the largest pass.
fn knee(report: &OverlapReport, length: usize) -> Option<f64> {
    let load = report.load_seconds_per_pass?;
    let largest = report
        .points
        .iter()
        .filter(|p| p.setting.length == length && p.setting.streams && !p.setting.per_token)
        .filter(|p| p.setting.bus == Bus::Pinned)
        .max_by_key(|p| p.tokens_per_pass)?;
    let passes = report.passes as f64;
    let per_token = largest.compute_seconds / passes / largest.tokens_per_pass as f64;
    Some(load / per_token).filter(|knee| knee.is_finite())
}

fn name(slots: Option<usize>) -> String {
    match slots {
        None => "all layers resident".into(),
        Some(slots) => format!("streamed through {slots} slots"),
    }
}

fn curve(
    points: &[&OverlapPoint],
    slots: Option<usize>,
    value: impl Fn(&OverlapPoint) -> Option<f64>,
) -> Vec<(f64, f64)> {
    let of = points.iter().filter(|p| p.setting.slots == slots);
    of.filter_map(|p| Some((p.tokens_per_pass as f64, value(p)?)))
        .collect()
}

fn hidden(points: &[&OverlapPoint], kinds: &[Option<usize>], title: String) -> Chart {
    let percent = |share: Option<f64>| share.map(|share| 100.0 * share);
    let mut series = Vec::new();
    for (slots, colour) in kinds.iter().filter(|k| k.is_some()).zip(0..) {
        series.push(Series {
            name: name(*slots),
            mark: Mark::Measured,
            colour,
            points: curve(points, *slots, |p| percent(p.hidden_of_load)),
        });
        series.push(Series {
            name: format!("ceiling, {}", name(*slots)),
            mark: Mark::Bound,
            colour,
            points: curve(points, *slots, |p| percent(p.ceiling)),
        });
    }
    Chart {
        title,
        x: Axis::new("tokens per pass", Scale::Log),
        y: Axis {
            range: Some((0.0, 105.0)),
            ..Axis::new("hidden loading, %", Scale::Linear)
        },
        series,
    }
}

fn rate(
    points: &[&OverlapPoint],
    kinds: &[Option<usize>],
    title: String,
    knee: Option<f64>,
) -> Chart {
    let mut series: Vec<Series> = kinds
        .iter()
        .zip(0..)
        .map(|(slots, colour)| Series {
            name: name(*slots),
            mark: Mark::Measured,
            colour,
            points: curve(points, *slots, |p| Some(p.tokens_per_second)),
        })
        .collect();
    let most = points.iter().map(|p| p.tokens_per_second);
    let most = most.fold(0.0, f64::max);
    if let Some(knee) = knee {
        series.push(Series {
            name: format!("{knee:.0} tokens: computing takes as long as loading"),
            mark: Mark::Bound,
            colour: 6,
            points: vec![(knee, 0.0), (knee, most)],
        });
    }
    Chart {
        title,
        x: Axis::new("tokens per pass", Scale::Log),
        y: Axis::new("tokens per second", Scale::Linear),
        series,
    }
}

/// Draws the rate of layers that are streamed through the fewest slots, for each way to the device.
fn by_bus(points: &[&OverlapPoint], title: String) -> Chart {
    let fewest = points.iter().filter_map(|p| p.setting.slots).min();
    let mut buses: Vec<Bus> = points.iter().map(|p| p.setting.bus).collect();
    buses.dedup();
    let series = buses.iter().zip(0..).map(|(bus, colour)| Series {
        name: bus.to_string(),
        mark: Mark::Measured,
        colour,
        points: points
            .iter()
            .filter(|p| p.setting.slots == fewest && p.setting.bus == *bus)
            .map(|p| (p.tokens_per_pass as f64, p.tokens_per_second))
            .collect(),
    });
    Chart {
        title,
        x: Axis::new("tokens per pass", Scale::Log),
        y: Axis::new("tokens per second", Scale::Linear),
        series: series.collect(),
    }
}

fn timeline(pass: &PassTimeline, longest: u64) -> Timeline {
    let names = ["copies to device", "kernels", "copies to host"];
    let milliseconds = |ns: u64| ns as f64 / 1e6;
    let lanes = names.iter().zip(&pass.lanes).zip(0..);
    Timeline {
        title: format!(
            "One pass of {} tokens, {}, streams {}",
            pass.tokens,
            pass.setting.weights(),
            if pass.setting.streams { "on" } else { "off" }
        ),
        label: "milliseconds".into(),
        range: (0.0, milliseconds(longest.max(1))),
        kinds: names.map(String::from).to_vec(),
        lanes: lanes
            .map(|((name, bars), kind)| Lane {
                name: (*name).into(),
                bars: bars
                    .iter()
                    .map(|(start, end)| Bar {
                        start: milliseconds(*start),
                        end: milliseconds(*end),
                        kind,
                    })
                    .collect(),
            })
            .collect(),
    }
}

/// Returns a page with the figures and the table.
fn page(report: &OverlapReport, figures: &[Figure]) -> String {
    let mut page = Page::new(&format!("Overlap: {}, {}", report.model, report.place));
    for figure in figures {
        page.figure(&figure.file.text, figure.caption);
    }
    page.heading("All settings");
    page.verbatim(&report.to_string());
    page.end()
}
