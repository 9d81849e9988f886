use super::*;
use crate::report::figure::{Axis, Reference, cdf, histogram};

const METHODS: [&str; 9] = [
    "fp16",
    "fp16-aa",
    "int8",
    "int4",
    "fp8",
    "kivi-4-g32-r128",
    "kivi-2",
    "streaming-512",
    "snapkv",
];

/// Made-up numbers: only for looking at the drawing.
fn throughput(n_panels: usize) -> Figure {
    let panel = |n: usize| {
        let rate =
            |slot: usize, x: f64| 900.0 / x.powf(0.8) * (1.0 + 0.45 * slot as f64) * (n + 1) as f64;
        let point = |slot: usize, x: f64| {
            let y = rate(slot, x);
            Point { x, y, low: Some(y * 0.93), high: Some(y * 1.08) }
        };
        let series = |(slot, name): (usize, &&str)| Series {
            name: (*name).to_owned(),
            slot,
            kind: Kind::Line,
            points: [512.0, 1024.0, 2048.0, 4096.0, 8192.0].map(|x| point(slot, x)).to_vec(),
        };
        let roof = |slot| {
            let curve = [512.0, 8192.0].map(|x| (x, rate(slot, x) * 1.3)).to_vec();
            Reference::curve("ceiling: measured read bandwidth ÷ bytes of the method", slot, curve)
        };
        Panel {
            label: if n_panels > 1 { format!("batch {}", 1 << n) } else { String::new() },
            series: METHODS.iter().enumerate().map(series).collect(),
            references: (0..9).map(roof).collect(),
            ..Panel::default()
        }
    };
    Figure {
        title: "Decode throughput by cache length".into(),
        caption: "One attention layer of llama-2-7b on a CPU (cpu-avx512), not a model. Bars: 95 % interval of the mean; \
                  dashed: the ceiling that the read bandwidth measured in the same run sets.".into(),
        x: Axis::new("cached tokens per sequence", "", Scale::Log2),
        y: Axis::new("decode throughput", "tokens/s", Scale::Log10),
        panels: (0..n_panels).map(panel).collect(),
    }
}

fn captured() -> Figure {
    let shapes: Vec<String> =
        ["b1 kv1k", "b1 kv8k", "b4 kv1k", "b4 kv8k", "b8 kv8k"].map(str::to_owned).to_vec();
    let x = |shape: usize, slot: usize| shape as f64 + (slot as f64 - 4.0) / 9.0 * 0.8;
    let y = |shape: usize, slot: usize| 1.0 + slot as f64 * 0.3 + shape as f64 * 0.05;
    let mut series = Vec::new();
    for (slot, name) in METHODS.iter().enumerate() {
        let measured = |s| Point {
            low: Some(y(s, slot) * 0.95),
            high: Some(y(s, slot) * 1.05),
            ..Point::new(x(s, slot), y(s, slot))
        };
        let points = (0..5).map(measured).collect();
        series.push(Series { name: (*name).to_owned(), slot, kind: Kind::Points, points });
        let points = (0..5).map(|s| Point::new(x(s, slot), y(s, slot) * 1.4)).collect();
        series.push(Series {
            name: "ideal: ratio of bytes".into(),
            slot,
            kind: Kind::Tick,
            points,
        });
    }
    let references = vec![Reference::horizontal("as fast as fp16", 1.0)];
    let axis = Axis::new("shape", "", Scale::Category(shapes));
    let y = Axis::new("speed-up over fp16", "x", Scale::Log10);
    Figure::single(
        "Decode speed-up, measured and ideal",
        "One attention layer. Bars: 95 % interval.",
        axis,
        y,
        Panel { series, references, ..Panel::default() },
    )
}

fn distributions() -> (Figure, Figure) {
    let draw = |slot: usize| {
        (1..700).map(|i| 30.0 + 40.0 * slot as f64 - 60.0 * (i as f64 / 700.0).ln()).collect()
    };
    let groups: Vec<(String, usize, Vec<f64>)> =
        METHODS.iter().enumerate().map(|(s, m)| ((*m).to_owned(), s, draw(s))).collect();
    let axis = || Axis::new("time to first token", "ms", Scale::Log10);
    let lengths = histogram(
        "Answer length",
        "Counted by the server.",
        Axis::new("output tokens", "", Scale::Linear),
        &groups[..3],
    );
    (cdf("Time to first token", "closed-8, 699 requests a method", axis(), &groups), lengths)
}

fn degenerate() -> Vec<Figure> {
    let of = |points: Vec<Point>, scale: Scale| {
        let series = vec![Series { name: "only".into(), slot: 0, kind: Kind::Line, points }];
        Figure::single(
            "Degenerate",
            "",
            Axis::new("x", "", scale),
            Axis::new("y", "", Scale::Linear),
            Panel { series, ..Panel::default() },
        )
    };
    let twice = vec![Point::new(4.0, 2.0), Point::new(4.0, 2.0)];
    vec![
        of(vec![], Scale::Log2),
        of(vec![Point::new(4.0, 2.0)], Scale::Log2),
        of(twice, Scale::Linear),
    ]
}

pub(in crate::report) fn all() -> Vec<(&'static str, Figure)> {
    let (cdf, histogram) = distributions();
    let mut out = vec![
        ("one", throughput(1)),
        ("four", throughput(4)),
        ("three", throughput(3)),
        ("captured", captured()),
        ("cdf", cdf),
        ("histogram", histogram),
    ];
    out.extend(["empty", "point", "twice"].into_iter().zip(degenerate()));
    out
}

/// Where a text lies: left, top, right, bottom.
pub(in crate::report::svg) fn text_box(text: &Text) -> [f64; 4] {
    let width = super::super::text_width(&text.text, text.size);
    let (w, h) = if text.turned { (text.size, width) } else { (width, text.size) };
    let left = match (text.turned, text.across) {
        (true, _) | (_, Across::Centre) => text.at.0 - w / 2.0,
        (_, Across::Left) => text.at.0,
        (_, Across::Right) => text.at.0 - w,
    };
    [left, text.at.1 - h / 2.0, left + w, text.at.1 + h / 2.0]
}

#[test]
fn no_text_overlaps_another_or_leaves_the_picture() {
    for (name, figure) in all() {
        let marks = super::super::marks_of(&figure).unwrap();
        let texts: Vec<&Text> = marks
            .iter()
            .filter_map(|m| if let Mark::Text(text) = m { Some(text) } else { None })
            .collect();
        assert!(texts.len() > 3, "{name}");
        for (n, text) in texts.iter().enumerate() {
            let [l, t, r, b] = text_box(text);
            assert!(
                l >= 0.0 && t >= 0.0 && r <= WIDTH && b <= HEIGHT,
                "{name}: `{}` leaves the picture",
                text.text
            );
            for other in &texts[..n] {
                let [ol, ot, or, ob] = text_box(other);
                let apart = r <= ol || or <= l || b <= ot || ob <= t;
                assert!(apart, "{name}: `{}` overlaps `{}`", text.text, other.text);
            }
        }
    }
}

#[test]
fn marks_stay_inside_the_picture() {
    for (name, figure) in all() {
        for mark in super::super::marks_of(&figure).unwrap() {
            let points = match mark {
                Mark::Path { points, .. } | Mark::Fill { points, .. } => points,
                Mark::Disc { center, .. } => vec![center],
                Mark::Text(_) => vec![],
            };
            let inside = |p: &Xy| (0.0..=WIDTH).contains(&p.0) && (0.0..=HEIGHT).contains(&p.1);
            assert!(points.iter().all(inside), "{name}: {points:?}");
        }
    }
}

#[test]
fn every_slot_of_nine_looks_different() {
    let looks: Vec<Vec<Mark>> = (0..90).map(|slot| marker(slot, (0.0, 0.0), 4.0)).collect();
    for (n, look) in looks.iter().enumerate() {
        assert!(!looks[..n].contains(look), "slot {n} looks like an earlier one");
    }
}

#[test]
fn an_empty_panel_says_so_and_names_are_escaped() {
    let mut empty = degenerate().remove(0);
    empty.title = "a < b & \"c\"".into();
    let text = crate::report::svg(&empty).unwrap();
    assert!(text.contains("no data"));
    assert!(text.contains("aria-label=\"a &lt; b &amp; &quot;c&quot;\""));
    assert!(text.contains("viewBox=\"0 0 3600 2160\"") && text.trim_end().ends_with("</svg>"));
}

#[test]
fn the_same_figure_gives_the_same_bytes() {
    let figure = captured();
    assert_eq!(crate::report::svg(&figure).unwrap(), crate::report::svg(&figure).unwrap());
    let bytes = crate::report::png(&figure).unwrap();
    assert_eq!(bytes, crate::report::png(&figure).unwrap());
    assert!(bytes.starts_with(b"\x89PNG\r\n\x1a\n"));
}
