use super::*;
use crate::route::{
    GuardSpec, RiskKnowledge, Rule, SpeedKnowledge,
    experiment::{Plan, cells, run_cell},
    risk::{Cell, EDGES},
};

const PROXY: &str = "
name = \"p\"
baseline = \"f16\"
[engine.a]
url = \"http://127.0.0.1:8081\"
method = \"f16\"
max_num_seqs = 4
[engine.a.speed.linear]
step_s = 0.01
per_sequence_s = 0.0
per_kv_token_s = 0.0
per_prompt_s = 0.0
per_prompt_token_s = 0.0
per_pair_s = 0.0
[engine.b]
url = \"http://127.0.0.1:8082\"
method = \"q4\"
max_num_seqs = 4
[engine.b.speed.linear]
step_s = 0.01
per_sequence_s = 0.0
per_kv_token_s = 0.0
per_prompt_s = 0.0
per_prompt_token_s = 0.0
per_pair_s = 0.0
[policy]
rule = \"join_shortest_queue\"
length.constant = 64
";

fn asked(request_id: i64, output_tokens: i64) -> RouteRequestRow {
    let arrived_ns = 1_000_000_000 + request_id * 5_000_000;
    RouteRequestRow {
        request_id,
        arrived_ns,
        finished_ns: Some(arrived_ns + output_tokens * 10_000_000),
        prompt_tokens: Some(20),
        output_tokens: Some(output_tokens),
        predicted_output_tokens: Some(2.0 * output_tokens as f64),
        task: Some("qa".to_owned()),
        engine: Some("a".to_owned()),
        ..RouteRequestRow::default()
    }
}

fn proxy(text: &str) -> Proxy {
    Proxy::parse(text, "p.toml").unwrap_or_else(|error| panic!("{error}"))
}

fn marginal(guard: Option<GuardSpec>) -> PolicySpec {
    PolicySpec {
        name: "marginal".to_owned(),
        rule: Rule::MarginalCost,
        length: LengthKnowledge::Predicted,
        speed: SpeedKnowledge::Predicted,
        guard,
    }
}

fn ask(others: &[PolicySpec]) -> Replay<'_> {
    Replay { others, n_seeds: 2, risks: None, steps: StepSource::Configured }
}

fn rows() -> Vec<RouteRequestRow> {
    (0..30).map(|id| asked(id, 1 + id % 7)).collect()
}

#[test]
fn what_a_proxy_recorded_can_be_simulated() {
    let built = recorded(&proxy(PROXY), &rows(), &ask(&[marginal(None)])).unwrap();
    let trace = &built.experiment.traces[0];
    assert_eq!((trace.rows.len(), trace.rows[0].at_ns, trace.is_sample), (30, 0, false));
    assert!(built.notes.iter().any(|note| note.contains("harm: not known")), "{:?}", built.notes);
    let plan = Plan::new(built.experiment).unwrap();
    assert!(plan.design.policies.iter().all(|policy| policy.name != "oracle_fragility"));
    let all = cells(&plan);
    assert!(!all.is_empty());
    for cell in &all {
        let told = run_cell(&plan, cell).unwrap();
        assert!(told.requests.iter().all(|row| row.err.is_none() && row.breaks.is_none()));
    }
    let failed = RouteRequestRow { err: Some("gone".to_owned()), ..asked(30, 3) };
    let error = recorded(&proxy(PROXY), &[failed], &ask(&[])).unwrap_err().to_string();
    assert!(error.contains("expected requests that ended well"), "{error}");
}

/// Expected lengths as policies of a replay see them.
fn expected(rows: &[RouteRequestRow]) -> Vec<f64> {
    let built = recorded(&proxy(PROXY), rows, &ask(&[marginal(None)])).unwrap();
    let plan = Plan::new(built.experiment).unwrap();
    let place = plan.experiment.policies.iter().position(|policy| policy.name == "marginal");
    let all = cells(&plan);
    let cell = all.iter().find(|cell| Some(cell.policy) == place && cell.pool == 0).unwrap();
    let told = run_cell(&plan, cell).unwrap();
    told.requests.iter().map(|row| row.predicted_output_tokens.unwrap()).collect()
}

#[test]
fn a_replay_expects_what_the_live_router_expected() {
    // Twice too long, each time.
    let doubled: Vec<f64> =
        rows().iter().map(|row| 2.0 * row.output_tokens.unwrap() as f64).collect();
    assert_eq!(expected(&rows()), doubled);
    let notes = recorded(&proxy(PROXY), &rows(), &ask(&[])).unwrap().notes;
    assert!(notes[0].contains("which was 2.00 times its answer"), "{notes:?}");
}

/// Nothing of the true length may show in what a router says that expects 64 tokens of every answer.
#[test]
fn a_constant_stays_a_constant() {
    let told: Vec<_> = rows()
        .into_iter()
        .map(|row| RouteRequestRow { predicted_output_tokens: Some(64.0), ..row })
        .collect();
    assert!(expected(&told).iter().all(|tokens| (tokens - 64.0).abs() < 1e-12));
    let silent: Vec<_> = rows()
        .into_iter()
        .map(|row| RouteRequestRow { predicted_output_tokens: None, ..row })
        .collect();
    assert!(expected(&silent).iter().all(|tokens| (tokens - 64.0).abs() < 1e-12), "as configured");
}

#[test]
fn what_failed_stays_in_the_load_until_it_was_gone() {
    let mut rows = rows();
    let failed = |id: i64| RouteRequestRow {
        finished_ns: None,
        output_tokens: None,
        err: Some("broken off".to_owned()),
        ..asked(id, 3)
    };
    let gone = |id: i64| {
        let row = failed(id);
        RouteRequestRow { gone_ns: Some(row.arrived_ns + 40_000_000), ..row }
    };
    rows.extend([gone(30), failed(31), RouteRequestRow { engine: None, ..gone(32) }]);
    rows.push(RouteRequestRow { output_tokens: None, ..asked(33, 3) });
    let built = recorded(&proxy(PROXY), &rows, &ask(&[])).unwrap();
    let last = &built.experiment.traces[0].rows[30..];
    // Answers go on for as long as the longest one, until they are given up.
    let told: Vec<_> = last.iter().map(|row| (row.output_tokens, row.patience_ns)).collect();
    assert_eq!(told, [(7, Some(40_000_000)), (7, Some(30_000_000))]);
    let plan = Plan::new(built.experiment).unwrap();
    for cell in cells(&plan).iter().filter(|cell| cell.pool == 0) {
        let rows = run_cell(&plan, cell).unwrap().requests;
        let failed: Vec<i64> =
            rows.iter().filter(|row| row.err.is_some()).map(|row| row.request_id).collect();
        assert_eq!(failed, [30, 31]);
        assert!(rows[30].gone_ns.is_some() && rows[30].finished_ns.is_none());
    }
}

fn risks(negatives: u64) -> Risks {
    let counts = |negatives| Counts { n: 200, negatives };
    let cell = |bin| Cell {
        task: "qa".to_owned(),
        bin,
        method: "q4".to_owned(),
        own: counts(negatives),
        null: counts(10),
    };
    Risks::new("a test", &EDGES, (0..=EDGES.len()).map(cell).collect()).unwrap()
}

#[test]
fn a_guard_goes_by_the_counts_that_are_given() {
    let guard = GuardSpec { risk: RiskKnowledge::Learned, epsilon: 0.1 };
    let others = [PolicySpec { name: "guarded".to_owned(), ..marginal(Some(guard)) }];
    let error = recorded(&proxy(PROXY), &rows(), &ask(&others)).unwrap_err().to_string();
    assert!(error.contains("policy guarded") && error.contains("--risks"), "{error}");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("risks.json");
    // Share of the guarded requests that go to the method, and whether any is known to break.
    let of = |negatives: u64, rows: &[RouteRequestRow]| {
        std::fs::write(&path, risks(negatives).to_json().unwrap()).unwrap();
        let asked = Replay { risks: Some(&path), ..ask(&others) };
        let built = recorded(&proxy(PROXY), rows, &asked).unwrap();
        assert_eq!(built.inputs.len(), 1);
        let plan = Plan::new(built.experiment).unwrap();
        let place = plan.experiment.policies.iter().position(|policy| policy.name == "guarded");
        let all = cells(&plan);
        let cell = all.iter().find(|cell| Some(cell.policy) == place && cell.pool == 0).unwrap();
        let told = run_cell(&plan, cell).unwrap().requests;
        let n = told.iter().filter(|row| row.method.as_deref() == Some("q4")).count();
        (n, told.iter().all(|row| row.breaks.is_some()))
    };
    assert_eq!(of(100, &rows()), (0, true), "half of its answers are worse");
    assert!(of(10, &rows()).0 > 0, "as often worse as by chance");
    let nameless: Vec<_> =
        rows().into_iter().map(|row| RouteRequestRow { task: None, ..row }).collect();
    assert_eq!(of(10, &nameless), (0, false), "of no task nothing is known, and nothing is safe");
}

#[test]
fn step_times_of_a_file_that_is_not_there_are_told() {
    let missing = Path::new("no-such.json");
    let asked = Replay { steps: StepSource::File { path: missing, subject: "" }, ..ask(&[]) };
    let error = format!("{:#}", recorded(&proxy(PROXY), &rows(), &asked).unwrap_err());
    assert!(error.contains("no-such.json") && error.contains("kvbench predict fit"), "{error}");
}
