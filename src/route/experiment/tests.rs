use std::{collections::BTreeSet, sync::Arc};

use super::*;
use crate::{
    predict::simulate::{EngineConfig, LinearTimes, Times},
    route::{GuardSpec, LengthKnowledge, RiskKnowledge, Rule, SpeedKnowledge, world::LengthShift},
};

fn times(per_kv_token_s: f64) -> Times {
    Arc::new(LinearTimes {
        step_s: 0.03,
        per_sequence_s: 0.0005,
        per_kv_token_s,
        per_prompt_s: 0.0,
        per_prompt_token_s: 1e-4,
        per_pair_s: 0.0,
    })
}

fn method(name: &str, per_kv_token_s: f64, sigma_log: f64) -> MethodWorld {
    MethodWorld {
        name: name.to_owned(),
        times: times(per_kv_token_s),
        config: EngineConfig { kv_blocks: Some(2000), ..EngineConfig::unlimited(16) },
        shift: LengthShift { mean_log: 0.0, sigma_log },
        excess: [(String::new(), 0.2)].into(),
    }
}

fn policy(name: &str, rule: Rule, guard: Option<RiskKnowledge>) -> PolicySpec {
    PolicySpec {
        name: name.to_owned(),
        rule,
        length: LengthKnowledge::Predicted,
        speed: SpeedKnowledge::Predicted,
        guard: guard.map(|risk| GuardSpec { risk, epsilon: 0.05 }),
    }
}

fn skill(name: &str, length_sigma_log: f64) -> NamedSkill {
    let skill = Skill { length_sigma_log, knows_shift: true, speed_factor: 1.1, guard_answers: 50 };
    NamedSkill { name: name.to_owned(), skill }
}

fn load(name: &str, arrivals: Arrivals) -> LoadPlan {
    LoadPlan { name: name.to_owned(), arrivals }
}

fn experiment() -> Experiment {
    let row = |i: u64| Traced {
        at_ns: 90_000_000 * i as i64,
        prompt_tokens: 100 + 37 * (i % 29),
        output_tokens: 20 + 13 * (i % 17),
        task: (!i.is_multiple_of(3)).then(|| "qa".to_owned()),
        predicted_tokens: None,
        patience_ns: None,
    };
    let rows: Vec<Traced> = (0..300).map(row).collect();
    let trace = |name: &str, is_sample| TracePlan {
        name: name.to_owned(),
        rows: rows.clone(),
        n_requests: 120,
        is_sample,
    };
    let engine = |name: &str, method| (name.to_owned(), method);
    let mix = vec![engine("a", 0), engine("b", 1), engine("c", 1)];
    let own = vec![engine("a", 1), engine("b", 1), engine("c", 1)];
    Experiment {
        name: "small".to_owned(),
        seed: 7,
        n_seeds: 2,
        methods: vec![method("fp16", 2e-6, 0.0), method("kivi", 1e-6, 0.4)],
        baseline: 0,
        pools: vec![
            PoolPlan { name: "mix".to_owned(), engines: mix },
            PoolPlan { name: "own".to_owned(), engines: own },
        ],
        traces: vec![trace("drawn", true), trace("recorded", false)],
        loads: vec![
            load("poisson-9", Arrivals::Poisson { rate: 9.0 }),
            load("rho-0.8", Arrivals::Utilisation { rho: 0.8 }),
            load("recorded", Arrivals::Recorded { speed: 1.0 }),
        ],
        skills: vec![skill("noisy", 0.6), skill("exact", 0.0)],
        policies: vec![
            policy("both", Rule::EarliestFinish, None),
            policy("guarded", Rule::MarginalCost, Some(RiskKnowledge::Learned)),
            policy("lot", Rule::Random, None),
        ],
        slo: Some(Slo { ttft_s: Some(5.0), ..Slo::default() }),
        risks: None,
        knows_breaks: true,
    }
}

fn plan() -> Plan {
    Plan::new(experiment()).unwrap()
}

#[test]
fn an_experiment_is_completed_with_what_others_are_compared_with() {
    let plan = plan();
    let pools: Vec<&str> = plan.design.pools.iter().map(|pool| pool.name.as_str()).collect();
    assert_eq!(pools, ["mix", "own", "3xfp16"]);
    let mix = plan.design.pool("mix").unwrap();
    assert_eq!((mix.baseline_pool.as_str(), mix.own_pool.as_deref()), ("3xfp16", Some("own")));
    assert_eq!(plan.design.pool("own").unwrap().own_pool, None);
    let names: Vec<&str> = plan.design.policies.iter().map(|p| p.name.as_str()).collect();
    let added = ["round_robin", "join_shortest_queue", "least_memory"];
    assert_eq!(names[3..6], added);
    assert_eq!(names[6..], ["oracle_speed", "oracle_length", "oracle_fragility"]);
    assert_eq!(plan.notices.len(), 1, "{:?}", plan.notices);
    let again = Plan::new(plan.experiment.clone()).unwrap();
    assert_eq!(again.design, plan.design, "nothing is added twice");
    let text = serde_json::to_value(&plan.design).unwrap();
    assert_eq!(serde_json::from_value::<Design>(text).unwrap(), plan.design);
}

#[test]
fn a_control_that_is_there_keeps_its_name() {
    let mut own = experiment();
    let control =
        |name: &str, length| PolicySpec { length, ..policy(name, Rule::JoinShortestQueue, None) };
    own.policies.push(control("jsq", LengthKnowledge::Constant));
    assert_eq!(Plan::new(own).unwrap().design.shortest_queue, "jsq");
}

#[test]
fn cells_are_all_there_once() {
    let plan = plan();
    let cells = cells(&plan);
    // Three pools, two traces of which one has no recorded times, two seeds.
    let n_worlds = 3 * (3 + 2) * 2;
    // Round robin, join shortest queue, least memory and the lot ask no predictor; both, guarded and the oracles do.
    assert_eq!(cells.len(), n_worlds * (4 + 2 * 5));
    let ids: BTreeSet<String> = cells.iter().map(|cell| cell.id(&plan)).collect();
    assert_eq!(ids.len(), cells.len());
    assert!(ids.contains("mix/recorded/rho-0.8/-/round_robin/1"));
    assert!(ids.contains("3xfp16/drawn/poisson-9/exact/guarded/0"));
    assert_eq!(worlds(&plan).len(), n_worlds);
}

#[test]
fn the_same_cell_gives_the_same_rows() {
    let (one, other) = (plan(), plan());
    for cell in cells(&one).iter().step_by(7) {
        assert_eq!(run_cell(&one, cell).unwrap(), run_cell(&other, cell).unwrap());
    }
    let reseeded = Plan::new(Experiment { seed: 8, ..experiment() }).unwrap();
    let cell = cells(&one)[0];
    assert_ne!(run_cell(&one, &cell).unwrap(), run_cell(&reseeded, &cell).unwrap());
    assert_eq!(worlds(&one), worlds(&other));
}

/// What the world gave, not what became of it.
fn given(rows: &CellRows) -> Vec<(i64, i64, Option<i64>, Option<String>)> {
    let one = |row: &crate::record::RouteRequestRow| {
        (row.request_id, row.arrived_ns, row.prompt_tokens, row.task.clone())
    };
    rows.requests.iter().map(one).collect()
}

#[test]
fn policies_of_a_world_see_the_same_requests() {
    let plan = plan();
    let all = cells(&plan);
    let of_world: Vec<&Cell> =
        all.iter().filter(|c| (c.pool, c.trace, c.load, c.seed) == (0, 0, 1, 1)).collect();
    let mut lengths = std::collections::BTreeMap::new();
    let first = given(&run_cell(&plan, of_world[0]).unwrap());
    for cell in of_world {
        let rows = run_cell(&plan, cell).unwrap();
        assert_eq!(given(&rows), first, "{}", cell.id(&plan));
        for row in rows.requests {
            let truth = (row.output_tokens, row.breaks);
            let key = (row.request_id, row.method.clone());
            assert_eq!(*lengths.entry(key).or_insert(truth), truth);
        }
    }
    assert!(lengths.len() > 120, "both methods were asked");
}

#[test]
fn rows_say_what_happened() {
    let plan = plan();
    let of = |id: &str| {
        let cell = *cells(&plan).iter().find(|cell| cell.id(&plan) == id).unwrap();
        run_cell(&plan, &cell).unwrap()
    };
    let rows = of("mix/drawn/rho-0.8/noisy/both/0");
    assert_eq!(rows.requests.len(), 120);
    for row in &rows.requests {
        assert_eq!((row.err.as_deref(), row.attempt, row.http_status), (None, 1, None));
        assert!(row.arrived_ns <= row.admitted_ns.unwrap());
        assert!(row.admitted_ns < row.first_token_ns && row.first_token_ns <= row.finished_ns);
        assert!(row.predicted_e2e_s.unwrap() > 0.0 && row.predicted_output_tokens.unwrap() >= 1.0);
        assert!(row.harm_upper.is_none() && row.breaks.is_some());
    }
    let taken: i64 = rows.engines.iter().map(|row| row.n_requests).sum();
    assert_eq!((taken, rows.engines.len()), (120, 3));
    assert!(rows.engines.iter().all(|row| row.busy_ns.unwrap() <= row.ended_ns - row.began_ns));
    assert_eq!(rows.engines[1].method, "kivi");
    // No engine of this pool is safe for a task that nothing is known of, and 50 answers prove nothing of the other.
    let rows = of("own/drawn/rho-0.8/noisy/guarded/0");
    let refused = "no engine may be asked (none_safe)";
    assert!(rows.requests.iter().all(|row| row.err.as_deref() == Some(refused)));
    assert!(rows.requests.iter().all(|row| row.engine.is_none() && row.output_tokens.is_none()));
    let rows = of("mix/drawn/rho-0.8/noisy/guarded/0");
    assert!(rows.requests.iter().all(|row| row.method.as_deref() == Some("fp16")));
}

#[test]
fn a_load_by_utilisation_is_one() {
    let plan = plan();
    let worlds = worlds(&plan);
    let of = |load: &str| {
        let rows: Vec<_> = worlds.iter().filter(|row| row.load == load).collect();
        let rho = |row: &&crate::record::RouteWorldRow| {
            row.rate_per_s.unwrap() / row.capacity_per_s.unwrap()
        };
        rows.iter().map(rho).sum::<f64>() / rows.len() as f64
    };
    assert!((of("rho-0.8") - 0.8).abs() < 0.08, "{}", of("rho-0.8"));
    let poisson = worlds.iter().filter(|row| row.load == "poisson-9");
    let rates: Vec<f64> = poisson.map(|row| row.rate_per_s.unwrap()).collect();
    assert!((crate::stats::mean(&rates).unwrap() - 9.0).abs() < 1.0);
    let recorded = worlds.iter().find(|row| row.load == "recorded").unwrap();
    assert!((recorded.rate_per_s.unwrap() - 1.0 / 0.09).abs() < 1e-6);
}

/// Every simulated mean lies above the bound of its world.
#[test]
fn nobody_beats_the_bound() {
    let plan = plan();
    let worlds = worlds(&plan);
    for cell in cells(&plan).iter().filter(|cell| cell.seed == 0 && cell.load < 2) {
        let rows = run_cell(&plan, cell).unwrap();
        let served: Vec<f64> = rows
            .requests
            .iter()
            .filter_map(|row| Some((row.finished_ns? - row.arrived_ns) as f64 / 1e9))
            .collect();
        let first = &rows.requests[0];
        let world = worlds.iter().find(|w| {
            (&w.pool, &w.trace, &w.load, w.seed)
                == (&first.pool, &first.trace, &first.load, first.seed)
        });
        let world = world.unwrap();
        if served.len() == rows.requests.len() {
            let mean = crate::stats::mean(&served).unwrap();
            assert!(mean >= world.bound_e2e_mean_s, "{}", cell.id(&plan));
            let busy: i64 = rows.engines.iter().filter_map(|row| row.busy_ns).sum();
            assert!(busy as f64 / 1e9 >= world.bound_work_s * rows.engines.len() as f64);
        }
    }
}

#[test]
fn what_is_missing_or_out_of_range_is_named() {
    let said = |change: fn(&mut Experiment)| {
        let mut experiment = experiment();
        change(&mut experiment);
        Plan::new(experiment).unwrap_err().to_string()
    };
    assert_eq!(said(|e| e.loads.clear()), "expected at least one of loads, got none");
    assert_eq!(said(|e| e.n_seeds = 0), "expected at least one of seeds, got none");
    let twice = said(|e| e.policies[1].name = "both".to_owned());
    assert_eq!(twice, "policy both: expected a name of its own, got it twice");
    let taken = said(|e| e.policies[0].name = "round_robin".to_owned());
    assert_eq!(taken, "policy round_robin: expected a name of its own, got it twice");
    let place = said(|e| e.pools[0].engines[2].1 = 5);
    assert_eq!(place, "c: expected the place of one of 2 methods, got 5");
    let number = said(|e| e.skills[0].skill.speed_factor = 0.0);
    assert_eq!(number, "skill noisy, speed_factor: expected a number above 0, got 0");
    let number = said(|e| e.loads[0].arrivals = Arrivals::Poisson { rate: f64::NAN });
    assert_eq!(number, "load poisson-9: expected a number above 0, got NaN");
    let excess = said(|e| e.methods[1].excess.clear());
    assert!(excess.starts_with("method kivi: expected the excess rate of negatives of task"));
    let config = said(|e| e.methods[1].config.max_num_seqs = 0);
    assert_eq!(config, "method kivi: max_num_seqs: expected at least 1, got 0");
    let none = said(|e| e.methods[0].config.kv_blocks = Some(1));
    assert!(none.starts_with("load rho-0.8, trace drawn: expected requests that"), "{none}");
}
