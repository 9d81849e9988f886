//! Made-up readings, for the shape of the report only.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::{
    analyse::{Level, Line, Point as Place},
    record::manifest::example,
    report::{Format, render},
};

/// A cell whose cache fills, preempts and drains; a smaller cache is full sooner.
fn cell(method: &str, repeat: i64, capacity: f64) -> EngineView {
    let over_time = |of: &dyn Fn(f64) -> f64| -> Vec<(f64, f64)> {
        (0..=60).map(|t| (f64::from(t), of(f64::from(t)))).collect()
    };
    let wave = |t: f64| ((t * 0.7 + repeat as f64).sin() * 0.05).abs();
    let held = |t: f64| (t / 20.0).min((60.0 - t) / 10.0).clamp(0.0, 1.0) * 16.0;
    let running = |t: f64| held(t).min(16.0 * capacity).floor();
    let lines = [
        (
            MetricName::KvUsage,
            over_time(&|t| (running(t) / 16.0 / capacity - wave(t)).clamp(0.0, 1.0)),
        ),
        (MetricName::Running, over_time(&running)),
        (MetricName::Waiting, over_time(&|t| (held(t) - running(t)).floor())),
    ];
    let level = |points: &[(f64, f64)]| Level {
        peak: points.iter().map(|p| p.1).fold(0.0, f64::max),
        mean: points.iter().map(|p| p.1).sum::<f64>() / points.len() as f64,
        n: points.len(),
    };
    EngineView {
        cell_id: format!("example/srv/{method}/chat/closed-16/{repeat}"),
        point: Place {
            target: "srv".to_owned(),
            workload: "chat".to_owned(),
            load: "closed-16".to_owned(),
            method: method.to_owned(),
        },
        repeat: Some(repeat),
        n_readings: 61,
        n_failed: 0,
        levels: lines.iter().map(|(name, points)| (*name, level(points))).collect(),
        counted: BTreeMap::from([
            (MetricName::PreemptionsTotal, 3.0),
            (MetricName::PrefixQueriesTotal, 1000.0),
            (MetricName::PrefixHitsTotal, 0.0),
        ]),
        absent: BTreeSet::from([MetricName::OffloadReadBytesTotal]),
        unread: false,
        lines: lines.into_iter().map(|(name, points)| Line { name, points }).collect(),
    }
}

fn told() -> Engines {
    let cells: Vec<EngineView> = [("fp16", 0.5), ("fp8", 1.0)]
        .into_iter()
        .flat_map(|(method, capacity)| (0..2).map(move |repeat| cell(method, repeat, capacity)))
        .collect();
    let pooled = |of: usize| EngineView { repeat: None, lines: vec![], ..cells[of].clone() };
    let points = vec![pooled(0), pooled(2)];
    Engines { cells, points }
}

fn looks() -> Looks {
    let methods = ["fp16", "fp8"].map(str::to_owned).to_vec();
    Looks { baseline: "fp16".to_owned(), methods }
}

#[test]
fn what_is_not_told_is_a_dash_and_never_zero() {
    let table = table(&told());
    assert_eq!(table.rows.len(), 6, "two cells and both together, twice");
    let column = |name: &str| table.columns.iter().position(|c| c.name == name).unwrap();
    let cell = |name: &str| &table.rows[0][column(name)];
    assert_eq!(cell("offload_read"), &Value::Absent);
    assert_eq!(cell("offload_write"), &Value::Missing, "told, but without a difference");
    assert_eq!(cell("hits"), &Value::Float(0.0), "told to be none");
    assert_eq!(table.rows[2][column("repeat")], Value::Text("all".to_owned()));
    assert!(render(&table, Format::Text, false).lines().any(|line| line.ends_with(" -")));
    let json: serde_json::Value =
        serde_json::from_str(&render(&table, Format::Json, false)).unwrap();
    assert_eq!(json[0]["offload_read"], serde_json::Value::Null);
    assert_eq!(json[0]["preemptions"], 3.0);
}

#[test]
fn figures_have_a_panel_a_method_and_a_line_a_repeat() {
    let plots = plots(&told(), &looks());
    let names: Vec<&str> = plots.iter().map(|plot| plot.name.as_str()).collect();
    assert_eq!(names, ["kv-usage-chat-closed-16", "engine-requests-chat-closed-16"]);
    let usage = &plots[0].figure;
    assert_eq!(usage.panels.iter().map(|p| p.label.as_str()).collect::<Vec<_>>(), ["fp16", "fp8"]);
    assert_eq!(usage.panels[0].series.len(), 2);
    assert_eq!(
        (usage.x.title().as_str(), usage.y.title().as_str()),
        ("time since the cell began (s)", "KV cache in use (%)")
    );
    assert_eq!(plots[1].figure.panels[1].series.len(), 4);
    for plot in &plots {
        plot.figure.check().unwrap();
        let (svg, png) =
            (crate::report::svg(&plot.figure).unwrap(), crate::report::png(&plot.figure).unwrap());
        assert!(svg.contains("time since the cell began") && png.starts_with(b"\x89PNG"));
    }
}

#[test]
fn long_lines_keep_their_peaks() {
    let mut long = cell("fp16", 0, 1.0);
    let points = (0..5000).map(|i| (f64::from(i), if i == 4321 { 0.97 } else { 0.5 })).collect();
    long.lines = vec![Line { name: MetricName::KvUsage, points }];
    let told = Engines { cells: vec![long], points: vec![] };
    let plots = plots(&told, &looks());
    assert_eq!(plots.len(), 1, "nobody told of requests");
    let drawn = &plots[0].figure.panels[0].series[0].points;
    assert!(drawn.len() <= POINTS_MAX);
    assert!(drawn.iter().any(|p| (p.y - 97.0).abs() < 1e-9));
}

#[test]
fn the_page_holds_table_and_figures() {
    let mut judgement = crate::report::run::tests::served().0;
    judgement.engines = told();
    let manifest = example("r", &[]);
    let source = crate::report::run::Source {
        manifest: &manifest,
        judgement: &judgement,
        facts: &[],
        telemetry: &[],
    };
    let files = crate::report::run::build_from(&source).unwrap().0;
    let md = String::from_utf8(files[0].1.clone()).unwrap();
    assert!(md.contains("What the servers told of themselves"), "{md}");
    assert!(md.contains("plots/kv-usage-chat-closed-16.png"));
    assert!(md.contains("it is not 0"));
}
