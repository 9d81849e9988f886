use std::collections::BTreeMap;

use super::{
    side::{Cell, Measured, Repeat, Side, Ways, id},
    *,
};
use crate::{
    analyse::{Better, Point, RunData, judge, score_run::ScoreRow},
    record::{RequestRow, manifest::example, parquet::write_rows},
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
    let new = side(&[("fp16", &[10.2, 11.3, 9.3])]);
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

/// Requests of one repeat: slower ones among fast ones, one that failed, one cut by the context, one that nobody counted.
fn requests(cell_id: &str, repeat: i64, slower: f64) -> Vec<RequestRow> {
    let one = |n: i64| {
        let sent = n * 1_000_000;
        let first = sent + (slower * (5.0e6 + ((n * 7919) % 101) as f64 * 1e4)) as i64;
        let last = first + (slower * (20.0e6 + ((n * 104_729) % 89) as f64 * 1e5)) as i64;
        RequestRow {
            cell_id: cell_id.to_owned(),
            target: "t".to_owned(),
            method: "fp16".to_owned(),
            workload: "w".to_owned(),
            load: "closed-1".to_owned(),
            repeat,
            request_id: n,
            due_ns: sent - 1000,
            sent_ns: Some(sent),
            first_token_ns: Some(first),
            last_token_ns: Some(last),
            done_ns: Some(last + 10),
            chunk_ns: vec![first, last],
            output_tokens: Some(20 + n % 5),
            token_source: Some("usage".to_owned()),
            max_tokens: 64,
            finish_reason: Some(if n == 7 { "length" } else { "stop" }.to_owned()),
            err: (n == 3).then(|| "timeout".to_owned()),
            attempt: 1,
            warmup: n < 0,
            ..RequestRow::default()
        }
    };
    (-5..400).map(one).collect()
}

/// A run folder of three repeats.
fn folder(slower: f64) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let ids: Vec<String> = (0..3).map(|r| format!("example/t/fp16/w/closed-1/{r}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    example("r", &ids).write(dir.path()).unwrap();
    let rows: Vec<RequestRow> = (0..3)
        .flat_map(|r| requests(ids[r as usize], r, slower * (1.0 + 0.001 * r as f64)))
        .collect();
    write_rows(dir.path(), &rows).unwrap();
    dir
}

/// Columns read in pieces give the very numbers that a report computes from whole rows.
#[test]
fn a_folder_is_read_by_the_definitions_of_reports() {
    let dir = folder(1.0);
    let side = Side::load(dir.path()).unwrap();
    let judgement = judge(&RunData::load(dir.path()).unwrap()).unwrap();
    let cell = &side.cells["example/t/fp16/w/closed-1"];
    assert_eq!((cell.n_rows, cell.n_failed), (1200, 3));
    let ours = |metric: &str, repeat: usize| cell.measured[metric].repeats[repeat];
    for repeat in 0..3 {
        let id = format!("example/t/fp16/w/closed-1/{repeat}");
        let theirs = |metric: &str| {
            judgement.summary.iter().find(|row| row.cell_id == id && row.metric == metric).unwrap()
        };
        for (stem, metric) in [
            ("ttft_ms", "ttft"),
            ("e2e_due_ms", "e2e_due"),
            ("tpot_ms", "tpot"),
            ("output_tokens", "output_tokens"),
        ] {
            let row = theirs(metric);
            let near = |name: &str, value: f64| {
                let own = ours(&format!("{stem}_{name}"), repeat);
                assert!((own.value / value - 1.0).abs() < 1e-12, "{stem}_{name}: {own:?} {value}");
                assert_eq!(own.n as u64, row.n);
            };
            near("mean", row.mean);
            near("p50", row.p50.unwrap());
            near("p99", row.p99.unwrap());
        }
        for rate in ["requests_per_s", "output_tokens_per_s"] {
            assert!((ours(rate, repeat).value / theirs(rate).mean - 1.0).abs() < 1e-12, "{rate}");
        }
        let definition = cell.measured["ttft_ms_p50"].metric.definition;
        assert_eq!(definition, theirs("ttft").definition.as_deref());
    }
    assert!(ours("ttft_ms_p50", 0).within.is_some());
}

#[test]
fn folders_of_served_runs_are_compared() {
    let (base, slow) = (folder(1.0), folder(1.1));
    let (base, slow) = (Side::load(base.path()).unwrap(), Side::load(slow.path()).unwrap());
    let text = "[[gate]]\nmetric = 'tpot_ms_p99'\nworse_than = 1.05\n";
    let found = versus(&base, &slow, &[], &gates(text), &[]).unwrap();
    assert_eq!(outcome(&found, "fp16", "tpot_ms_p99").outcome, Outcome::Fail);
    let ratio =
        |name: &str| found.lines.iter().find(|line| line.metric.name == name).unwrap().ratio();
    assert!(
        (ratio("tpot_ms_p50") - 1.1).abs() < 0.01
            && (ratio("output_tokens_mean") - 1.0).abs() < 1e-9
    );
    assert!(ratio("output_tokens_per_s") < 1.0);
    let found = versus(&base, &base, &[], &gates(text), &[]).unwrap();
    assert_eq!(outcome(&found, "fp16", "tpot_ms_p99").outcome, Outcome::Pass);
}

#[test]
fn another_count_of_tokens_is_another_definition() {
    let base = side(&[("fp16", &[10.0, 10.1, 9.9])]);
    let mut new = base.clone();
    new.ways.token_sources.insert("token_ids".to_owned());
    assert_eq!(compared(&base, &new).mismatches[0].kind, Kind::Definitions);
}

fn score(method: &str, n: usize, score: f64) -> ScoreRow {
    ScoreRow {
        run_id: "r".to_owned(),
        cell_id: format!("example/t/{method}/w/closed-1/0"),
        target: "t".to_owned(),
        method: method.to_owned(),
        workload: "w".to_owned(),
        load: "closed-1".to_owned(),
        request_id: n as i64,
        sample_id: n.to_string(),
        dataset: "qasper".to_owned(),
        scorer: "s".to_owned(),
        score,
        ..ScoreRow::default()
    }
}

/// Scores of sixty prompts under a baseline and a method, which breaks every `broken`-th.
fn scored(broken: usize) -> Side {
    let run = |n: usize| {
        [("fp16", 0.8), ("kivi", if n.is_multiple_of(broken) { 0.1 } else { 0.8 })]
            .map(|(method, value)| score(method, n, value))
    };
    let scores = (0..60).flat_map(run).collect();
    let tpot: [(&str, &[f64]); 2] = [("fp16", &[10.0, 10.1, 9.9]), ("kivi", &[8.0, 8.1, 7.9])];
    let manifest = example("r", &["example/t/fp16/w/closed-1/0", "example/t/kivi/w/closed-1/0"]);
    Side { scores, manifest, ..side(&tpot) }
}

#[test]
fn quality_has_gates_too() {
    let text = "[[gate]]\nmetric = 'score_mean'\nworse_than = 1.02\nmethod = 'kivi'\n\n[[gate]]\nmetric = 'negatives_10pct'\nmore_than = 'null'\n\n[[gate]]\nmetric = 'negatives_10pct'\nmore_than = 'base'\n";
    let (base, new) = (scored(60), scored(4));
    let found = versus(&base, &new, &[], &gates(text), &[]).unwrap();
    assert_eq!(outcome(&found, "kivi", "score_mean").outcome, Outcome::Fail);
    let counts: Vec<&Gated> =
        found.gates.iter().filter(|gate| gate.metric == "negatives_10pct").collect();
    assert_eq!(counts.len(), 2);
    assert!(counts.iter().all(|gate| gate.outcome == Outcome::Fail), "{counts:?}");
    assert_eq!(found.counts[0].null.0, 15);
    assert_eq!(found.counts[0].base, Some((14, 0)));
    let found = versus(&base, &base, &[], &gates(text), &[]).unwrap();
    assert_eq!(outcome(&found, "kivi", "score_mean").outcome, Outcome::Pass);
    assert_eq!(found.finding(), Finding::Pass);
}
