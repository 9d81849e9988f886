use super::*;
use crate::{
    analyse::route::stats_of,
    report::{Table, Value},
    route::experiment::{Plan, cells, run_cell, worlds},
    workload::route::build as experiment,
};

/// The paper's mix in miniature: one engine of the baseline and three of a method whose name begins as one of the paper's.
const SCENARIO: &str = r#"
name = "mini"
seed = 2
seeds = 2
baseline = "fp16"
[engine]
max_num_seqs = 16
mixing = "prefill-first"
[method.fp16.speed.linear]
step_s = 0.03
per_prompt_token_s = 1e-4
source = "made up"
[method.kivi-x]
length = { mean_log = 0.0, sigma_log = 0.2, source = "assumed" }
excess = { other = 0.2, source = "assumed" }
[method.kivi-x.speed.linear]
step_s = 0.025
per_prompt_token_s = 1e-4
source = "made up"
[pool.mixed]
engines = { fp16 = 1, kivi-x = 3 }
[pool.own]
engines = { kivi-x = 4 }
[trace.t.synthetic]
n_requests = 40
prompt_tokens = { fixed = 100 }
output_tokens = { uniform = { min = 5, max = 60 } }
[load.poisson.poisson]
rate = [10, 20]
[skill.s]
length_sigma_log = 0.3
knows_shift = true
guard_answers = 100
[policy.both]
rule = "earliest_finish"
length = "predicted"
[policy.marginal]
rule = "marginal_cost"
length = "predicted"
[policy.marginal-guarded]
rule = "marginal_cost"
length = "predicted"
guard = { epsilon = 0.01 }
"#;

fn judged() -> Judged {
    let scenario = RouteScenario::parse(SCENARIO, "mini.toml").unwrap_or_else(|e| panic!("{e}"));
    let plan = Plan::new(experiment(&scenario).unwrap().experiment).unwrap();
    let (mut requests, mut engines) = (Vec::new(), Vec::new());
    for cell in cells(&plan) {
        let rows = run_cell(&plan, &cell).unwrap();
        requests.extend(rows.requests);
        engines.extend(rows.engines);
    }
    let origin = "2026-11-24T01:30:00Z".to_owned();
    let manifest = RouteManifest::begun(RouteKind::Simulated, "mini", SCENARIO, 2, origin);
    let stats = stats_of(&requests, &engines, None);
    let (design, worlds) = (plan.design.clone(), worlds(&plan));
    Judged::new(Run { manifest, design: Some(design), stats, worlds }).unwrap().unwrap()
}

fn column(table: &Table, name: &str) -> usize {
    table.columns.iter().position(|column| column.name == name).unwrap()
}

#[test]
fn the_papers_numbers_stand_beside_those_of_its_policies_alone() {
    let judged = judged();
    assert_eq!(judged.head.load, "poisson-10");
    let all = tables(&judged);
    let table = all.iter().find(|table| table.title.contains("Table 8")).unwrap();
    let (policy, theirs) = (column(table, "policy"), column(table, "paper_vs_own"));
    let told: Vec<_> = table.rows.iter().filter(|row| row[theirs] != Value::Missing).collect();
    let [only] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(only[policy], Value::Text("both (w/ Both)".to_owned()));
    let Value::Float(gain) = only[theirs] else { panic!("{:?}", only[theirs]) };
    assert!((gain - 1.44).abs() < 0.01, "{gain}");
    let own = column(table, "vs_own");
    assert!(
        table.rows.iter().all(|row| matches!(row[own], Value::Interval { .. })),
        "paired by seed"
    );
    // Every row of every table is as wide as its head.
    assert!(all.iter().all(|table| table.rows.iter().all(|row| row.len() == table.columns.len())));
}

#[test]
fn the_papers_numbers_stand_at_its_rate_alone() {
    let mut judged = judged();
    judged.head.load = "poisson-20".to_owned();
    assert!(figures::plots(&judged).iter().all(|plot| plot.name != "table-8"));
    assert!(!words::finding(&judged).iter().any(|text| text.contains("w/ Both")));
}

#[test]
fn sentences_follow_from_numbers() {
    let judged = judged();
    let said = words::finding(&judged);
    let best = judged
        .at(&judged.head)
        .filter(|cell| judged.spec(&cell.key.policy).is_some_and(|spec| !is_oracle(spec)))
        .min_by(|a, b| a.e2e_mean_s.unwrap().value.total_cmp(&b.e2e_mean_s.unwrap().value))
        .unwrap();
    assert!(said[0].contains(&format!("`{}` has the least mean E2E", best.key.policy)), "{said:?}");
    assert!(said.iter().any(|text| text.contains("`marginal-guarded` sends 0")), "{said:?}");
    let paper =
        said.iter().find(|text| text.contains("the controls that the paper lacks")).unwrap();
    assert!(paper.contains("kivi-x: ") && paper.contains("the paper 1.44x"), "{paper}");
}

#[test]
fn every_figure_can_be_drawn_and_files_are_whole() {
    let judged = judged();
    let names: Vec<String> = figures::plots(&judged).into_iter().map(|plot| plot.name).collect();
    let wanted =
        ["e2e-mean-mixed-t", "speedup-mixed-t", "harm-mixed-t", "shares-mixed-t", "table-8"];
    assert!(wanted.iter().all(|name| names.contains(&(*name).to_owned())), "{names:?}");
    let files = build(&judged).unwrap();
    let page = files.0.iter().find(|(path, _)| path == "report.html").unwrap();
    let text = String::from_utf8(page.1.clone()).unwrap();
    assert!(
        text.contains("kivi-x: lengths")
            && text.contains("<svg")
            && text.matches("<script").count() == 1
    );
}
