use std::collections::BTreeMap;

use super::{
    side::{Cell, Measured, Repeat, Side, Ways, id},
    *,
};
use crate::{
    analyse::{Better, Point},
    record::manifest::example,
};

const GATES: &str = "[[gate]]\nmetric = 'tpot_ms_p50'\nworse_than = 1.05\n\n[[gate]]\nmetric = 'output_tokens_mean'\ndiffers_by = 1.05\n";

fn point(method: &str) -> Point {
    Point {
        target: "t".to_owned(),
        workload: "w".to_owned(),
        load: "closed-1".to_owned(),
        method: method.to_owned(),
    }
}

fn measured(name: &str, better: Better, values: &[f64]) -> Measured {
    let repeat =
        |(repeat, value): (i64, &f64)| Repeat { repeat, value: *value, n: 100, within: None };
    Measured {
        metric: Metric::new(name, "ms", better, ""),
        repeats: (0..).zip(values).map(repeat).collect(),
    }
}

/// A run with these TPOTs by method; lengths never change.
fn side(tpot: &[(&str, &[f64])]) -> Side {
    let cell = |(method, values): &(&str, &[f64])| {
        let lengths = measured("output_tokens_mean", Better::Neither, &[99.9, 100.0, 100.1]);
        let tpot = measured("tpot_ms_p50", Better::Lower, values);
        let measured = [tpot, lengths].into_iter().map(|m| (m.metric.name.clone(), m)).collect();
        let cell = Cell { point: point(method), measured, n_rows: 300, ..Cell::default() };
        (id("example", &cell.point), cell)
    };
    Side {
        place: "results/r".to_owned(),
        manifest: example("r", &[]),
        cells: tpot.iter().map(cell).collect(),
        ways: Ways::default(),
        scores: Vec::new(),
    }
}

fn gates(text: &str) -> Gates {
    Gates { origin: Some("g.toml".to_owned()), ..Gates::parse(text, "g.toml").unwrap() }
}

fn compared(base: &Side, new: &Side) -> Versus {
    versus(base, new, &[], &gates(GATES), &[]).unwrap()
}

fn outcome<'v>(versus: &'v Versus, method: &str, metric: &str) -> &'v Gated {
    let is_it = |gate: &&Gated| gate.point.method == method && gate.metric == metric;
    versus.gates.iter().find(is_it).unwrap()
}

#[test]
fn a_regression_is_named_and_what_did_not_change_passes() {
    let base = side(&[("fp16", &[10.0, 10.02, 9.98]), ("kivi", &[8.0, 8.02, 7.98])]);
    let new = side(&[("fp16", &[10.01, 10.0, 9.99]), ("kivi", &[9.0, 9.02, 8.98])]);
    let found = compared(&base, &new);
    assert_eq!(found.finding(), Finding::Regression);
    assert_eq!(outcome(&found, "kivi", "tpot_ms_p50").outcome, Outcome::Fail);
    for (method, metric) in [("fp16", "tpot_ms_p50"), ("kivi", "output_tokens_mean")] {
        assert_eq!(outcome(&found, method, metric).outcome, Outcome::Pass, "{method} {metric}");
    }
    let word = |method: &str| {
        let is_it = |line: &&Line| line.point.method == method && line.metric.name == "tpot_ms_p50";
        found.lines.iter().find(is_it).unwrap().word
    };
    assert_eq!((word("kivi"), word("fp16")), (Word::Worse, Word::Same));
    assert_eq!(compared(&new, &base).finding(), Finding::Pass, "faster is no regression");
}

#[test]
fn noise_is_unclear_and_says_what_it_lacks() {
    let base = side(&[("fp16", &[10.0, 11.0, 9.2])]);
    let new = side(&[("fp16", &[10.4, 11.6, 9.5])]);
    let found = compared(&base, &new);
    let gate = outcome(&found, "fp16", "tpot_ms_p50");
    assert_eq!(
        (gate.outcome, gate.trips, found.finding()),
        (Outcome::Unclear, false, Finding::Pass)
    );
    assert!(matches!(gate.more, Some(More::Repeats(n)) if n > 3), "{gate:?}");
    let strict = gates(&format!("unclear = 'fail'\n{GATES}"));
    let found = versus(&base, &new, &[], &strict, &[]).unwrap();
    assert_eq!(found.finding(), Finding::Regression);
}

#[test]
fn one_repeat_decides_nothing() {
    let found = compared(&side(&[("fp16", &[10.0])]), &side(&[("fp16", &[20.0])]));
    let gate = outcome(&found, "fp16", "tpot_ms_p50");
    assert_eq!((gate.outcome, gate.q), (Outcome::Unclear, None));
    let line = found.lines.iter().find(|line| line.metric.name == "tpot_ms_p50").unwrap();
    assert_eq!(
        (line.word, line.more, line.interval(0.05)),
        (Word::Unclear, Some(More::Repeats(1)), None)
    );
}

/// The base against itself again is 4 % apart: then 6 % more is not beyond what nothing shows.
#[test]
fn the_noise_floor_raises_limits_and_bounds() {
    let base = side(&[("fp16", &[10.0, 10.01, 9.99]), ("fp16-aa", &[10.8, 10.81, 10.79])]);
    let new = side(&[("fp16", &[10.6, 10.61, 10.59]), ("fp16-aa", &[10.6, 10.61, 10.59])]);
    let found = compared(&base, &new);
    assert!(found.has_floor);
    let gate = outcome(&found, "fp16", "tpot_ms_p50");
    assert_eq!(gate.outcome, Outcome::Pass, "{gate:?}");
    assert!(gate.limit.contains("noise floor"), "{gate:?}");
    let quiet = side(&[("fp16", &[10.0, 10.01, 9.99])]);
    let slow = side(&[("fp16", &[10.6, 10.61, 10.59])]);
    assert_eq!(compared(&quiet, &slow).finding(), Finding::Regression);
    let again = side(&[("fp16", &[10.8, 10.81, 10.79])]);
    let with = versus(&quiet, &slow, &[again], &gates(GATES), &[]).unwrap();
    assert_eq!(with.finding(), Finding::Pass);
}

#[test]
fn what_must_be_alike_forbids_and_can_be_allowed() {
    let base = side(&[("fp16", &[10.0, 10.1, 9.9])]);
    let mut new = base.clone();
    new.manifest.machine.cpu_model = Some("another".to_owned());
    new.manifest.scenario.seed += 1;
    let found = compared(&base, &new);
    assert_eq!((found.finding(), found.lines.len()), (Finding::CannotJudge, 0));
    let kinds: Vec<Kind> = found.mismatches.iter().map(|m| m.kind).collect();
    assert_eq!(kinds, [Kind::Machine, Kind::Prompts]);
    let allowed = [Kind::Machine, Kind::Prompts];
    let found = versus(&base, &new, &[], &gates(GATES), &allowed).unwrap();
    assert_eq!((found.finding(), found.allowed.len()), (Finding::Pass, 2));
    let mut fewer = base.clone();
    fewer.cells = BTreeMap::new();
    assert_eq!(compared(&base, &fewer).mismatches[0].kind, Kind::Cells);
}

/// Requests that fail are in no latency: without this a server that drops every hard one would look fast.
#[test]
fn failures_are_always_looked_at() {
    let base = side(&[("fp16", &[10.0, 10.01, 9.99])]);
    let mut new = base.clone();
    new.cells.values_mut().for_each(|cell| cell.n_failed = 30);
    let found = compared(&base, &new);
    assert_eq!(outcome(&found, "fp16", "failed").outcome, Outcome::Fail);
    assert_eq!(found.finding(), Finding::Regression);
    new.cells.values_mut().for_each(|cell| cell.n_failed = 1);
    assert_eq!(compared(&base, &new).finding(), Finding::Pass, "one of 300 may be chance");
    assert_eq!(compared(&new, &base).finding(), Finding::Pass);
}

#[test]
fn a_gate_that_looks_at_nothing_is_an_error() {
    let run = side(&[("fp16", &[10.0, 10.01, 9.99])]);
    for (text, said) in [
        ("[[gate]]\nmetric = 'ttft_ms_p50'\nworse_than = 1.1\n", "g.toml:2:"),
        (
            "[[gate]]\nmetric = 'tpot_ms_p50'\nworse_than = 1.1\nmethod = 'h2o'\n",
            "expected a metric and a cell",
        ),
    ] {
        let error = versus(&run, &run, &[], &gates(text), &[]).unwrap_err().to_string();
        assert!(error.contains(said) && error.contains("hint"), "{error}");
    }
    let mut short = run.clone();
    short.cells.values_mut().for_each(|cell| {
        cell.short.insert("ttft_ms_p99".to_owned());
    });
    let text = "[[gate]]\nmetric = 'ttft_ms_p99'\nworse_than = 1.1\n";
    let error = versus(&short, &short, &[], &gates(text), &[]).unwrap_err().to_string();
    assert!(error.contains("too short for that percentile"), "{error}");
}
