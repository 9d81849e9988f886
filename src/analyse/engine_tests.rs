//! Made-up readings whose meaning is known.

use super::*;
use crate::{
    analyse::{Verdict, Warning, judge, tests::data},
    record::parquet::TableRow as _,
};

const CELL: &str = "example/cpu/fp16/chat/closed-2/0";
const AGAIN: &str = "example/cpu/fp16/chat/closed-2/1";

fn row(cell: &str, t_s: i64, name: MetricName, labels: &str, value: f64) -> EngineMetricRow {
    EngineMetricRow {
        cell_id: cell.to_owned(),
        t_ns: t_s * 1_000_000_000,
        name: name.name().to_owned(),
        labels: labels.to_owned(),
        source: "theirs".to_owned(),
        value: Some(value),
        ..EngineMetricRow::default()
    }
}

fn nothing(cell: &str, name: MetricName, source: &str) -> EngineMetricRow {
    EngineMetricRow { source: source.to_owned(), value: None, ..row(cell, 9, name, "{}", 0.0) }
}

fn run(rows: &[EngineMetricRow], cells: &[&str]) -> RunData {
    let engine_metrics = EngineMetricRow::frame(rows).unwrap();
    RunData { engine_metrics, ..data(cells, &[], &[]) }
}

#[track_caller]
fn one(rows: &[EngineMetricRow]) -> EngineView {
    let (engines, _) = engines(&run(rows, &[CELL])).unwrap();
    assert_eq!(engines.cells.len(), 1);
    engines.cells[0].clone()
}

#[track_caller]
fn near(got: Option<f64>, expected: f64) {
    assert!(got.is_some_and(|got| (got - expected).abs() < 1e-9), "{got:?}, expected {expected}");
}

#[test]
fn levels_have_a_peak_and_a_mean() {
    let usage = [0.1, 0.9, 0.2];
    let rows: Vec<_> =
        (5..).zip(usage).map(|(t, v)| row(CELL, t, MetricName::KvUsage, "{}", v)).collect();
    let view = one(&rows);
    near(view.level(MetricName::KvUsage).map(|level| level.peak), 0.9);
    near(view.level(MetricName::KvUsage).map(|level| level.mean), 0.4);
    assert_eq!(view.n_readings, 3);
    assert_eq!(view.lines[0].points, [(0.0, 0.1), (1.0, 0.9), (2.0, 0.2)]);
}

/// Two engines of one server: requests add up, the fuller cache is the one that preempts.
#[test]
fn series_of_one_moment_go_together() {
    let engines = [(r#"{"engine":"0"}"#, 2.0, 0.5), (r#"{"engine":"1"}"#, 3.0, 0.7)];
    let rows: Vec<_> = engines
        .iter()
        .flat_map(|(labels, running, usage)| {
            [(1, 1.0), (2, 0.5)].into_iter().flat_map(move |(t, part)| {
                [
                    row(CELL, t, MetricName::Running, labels, running * part),
                    row(CELL, t, MetricName::KvUsage, labels, usage * part),
                ]
            })
        })
        .collect();
    let view = one(&rows);
    near(view.level(MetricName::Running).map(|level| level.peak), 5.0);
    near(view.level(MetricName::KvUsage).map(|level| level.peak), 0.7);
    near(view.level(MetricName::Running).map(|level| level.mean), 3.75);
}

#[test]
fn a_counter_is_a_difference_through_restarts_and_late_series() {
    let name = MetricName::PreemptionsTotal;
    let values = [100.0, 104.0, 1.0, 3.0];
    let mut rows: Vec<_> = (1..).zip(values).map(|(t, v)| row(CELL, t, name, "{}", v)).collect();
    near(one(&rows).increase(name), 4.0 + 1.0 + 2.0);
    rows.push(row(CELL, 3, name, r#"{"engine":"1"}"#, 5.0));
    near(one(&rows).increase(name), 12.0);
    assert_eq!(one(&rows[..1]).increase(name), None, "one reading has no difference");
}

#[test]
fn rates_divide_increases_and_nothing_over_nothing_is_unknown() {
    let counters = |t: i64, queries: f64, hits: f64, proposed: f64, accepted: f64| {
        [
            row(CELL, t, MetricName::PrefixQueriesTotal, "{}", queries),
            row(CELL, t, MetricName::PrefixHitsTotal, "{}", hits),
            row(CELL, t, MetricName::SpecDraftTokensTotal, "{}", proposed),
            row(CELL, t, MetricName::SpecAcceptedTokensTotal, "{}", accepted),
        ]
    };
    let busy =
        [counters(1, 100.0, 90.0, 10.0, 10.0), counters(2, 300.0, 140.0, 50.0, 30.0)].concat();
    near(one(&busy).prefix_hit_rate(), 0.25);
    near(one(&busy).accept_rate(), 0.5);
    let idle = [counters(1, 7.0, 7.0, 7.0, 7.0), counters(2, 7.0, 7.0, 7.0, 7.0)].concat();
    assert_eq!((one(&idle).prefix_hit_rate(), one(&idle).accept_rate()), (None, None));
    let stated = [0.4, 0.6]
        .map(|rate| row(CELL, (rate * 10.0) as i64, MetricName::SpecAcceptRate, "{}", rate));
    near(one(&stated).accept_rate(), 0.5);
}

/// TensorRT-LLM: many iterations arrive with one reading.
#[test]
fn iterations_of_one_reading_are_moments_of_one_series() {
    let iteration =
        |i: i64, v: f64| row(CELL, i / 3, MetricName::Running, &format!(r#"{{"iter":"{i}"}}"#), v);
    let view = one(&[iteration(3, 1.0), iteration(4, 5.0), iteration(5, 3.0), iteration(6, 3.0)]);
    let level = view.level(MetricName::Running).unwrap();
    near(Some(level.peak), 5.0);
    near(Some(level.mean), 3.0);
    assert_eq!((level.n, view.n_readings), (4, 2));
}

#[test]
fn absent_is_not_zero_and_unread_is_not_absent() {
    let view = one(&[
        row(CELL, 1, MetricName::Running, "{}", 1.0),
        nothing(CELL, MetricName::KvUsage, EngineMetricRow::ABSENT),
    ]);
    assert_eq!(view.level(MetricName::KvUsage), None);
    assert!(view.absent.contains(&MetricName::KvUsage) && !view.unread);
    let failed = EngineMetricRow {
        name: EngineMetricRow::SCRAPE.to_owned(),
        ..nothing(CELL, MetricName::KvUsage, EngineMetricRow::FAILED)
    };
    let unread = nothing(CELL, MetricName::KvUsage, EngineMetricRow::UNREAD);
    let view = one(&[failed.clone(), failed, unread]);
    assert!(view.unread && view.absent.is_empty());
    assert_eq!((view.n_failed, view.n_readings), (2, 0));
}

#[test]
fn repeats_are_pooled_and_what_one_lacks_is_unknown() {
    let name = MetricName::PreemptionsTotal;
    let mut rows = vec![
        row(CELL, 1, name, "{}", 0.0),
        row(CELL, 2, name, "{}", 2.0),
        row(AGAIN, 11, name, "{}", 2.0),
        row(AGAIN, 12, name, "{}", 7.0),
        row(AGAIN, 12, MetricName::Waiting, "{}", 4.0),
    ];
    let (told, summary) = engines(&run(&rows, &[CELL, AGAIN])).unwrap();
    assert_eq!((told.cells.len(), told.points.len()), (2, 1));
    near(told.points[0].increase(name), 7.0);
    assert_eq!(told.points[0].level(MetricName::Waiting), None);
    let pooled: Vec<_> = summary.iter().filter(|row| row.cell_id.ends_with("/*")).collect();
    assert_eq!((pooled.len(), pooled[0].metric.as_str(), pooled[0].n), (1, "preemptions", 4));
    rows.push(row(CELL, 2, MetricName::Waiting, "{}", 1.0));
    let (told, _) = engines(&run(&rows, &[CELL, AGAIN])).unwrap();
    let level = told.points[0].level(MetricName::Waiting).unwrap();
    near(Some(level.peak), 4.0);
    near(Some(level.mean), 2.5);
}

#[test]
fn hits_of_the_prefix_cache_make_a_run_suspect_and_preemptions_are_said() {
    let counter = |name, last| [row(CELL, 1, name, "{}", 5.0), row(CELL, 2, name, "{}", last)];
    let hits = |last| run(&counter(MetricName::PrefixHitsTotal, last), &[CELL]);
    let says = |data: &RunData| judge(data).unwrap().warnings;
    let is_hit = |w: &Warning| matches!(w, Warning::EnginePrefixHits { .. });
    assert!(!says(&hits(5.0)).iter().any(is_hit));
    let said = says(&hits(25.0));
    let hit = said.iter().find(|w| is_hit(w)).unwrap();
    assert_eq!(hit.severity(), Verdict::Suspect);
    assert!(hit.to_string().contains("cpu/fp16/chat/closed-2: 20 prompt tokens"), "{hit}");
    let preempted = says(&run(&counter(MetricName::PreemptionsTotal, 8.0), &[CELL]));
    let said = preempted.iter().find(|w| matches!(w, Warning::Preempted { .. })).unwrap();
    assert!(said.to_string().contains("3 requests"), "{said}");
}

#[test]
fn a_run_without_readings_says_nothing() {
    let (told, summary) = engines(&run(&[], &[CELL])).unwrap();
    assert_eq!((told, summary), (Engines::default(), Vec::new()));
}
