//! The simulated router as a whole: cells to rows to statistics, and the directions that its policies have. Sizes of effects are
//! for the scenarios, which simulate more.

use std::{collections::BTreeMap, sync::Arc};

use kvbench::{
    analyse::route::{CellStats, Summary, gains, stats_of, summarise},
    predict::simulate::{EngineConfig, LinearTimes, Mixing},
    route::{
        GuardSpec, LengthKnowledge, PolicySpec, RiskKnowledge, Rule, SpeedKnowledge,
        experiment::{
            Arrivals, Experiment, LoadPlan, NamedSkill, Plan, PoolPlan, TracePlan, cells, run_cell,
            worlds,
        },
        world::{LengthShift, MethodWorld, Skill, Traced},
    },
};

/// Step times like those of Llama-2-7b on an A6000 in the data of arXiv 2503.24000: much of a step is the same whatever it holds.
fn method(name: &str, kv_budget: Option<u64>, sigma_log: f64) -> MethodWorld {
    let times = LinearTimes {
        step_s: 0.033,
        per_sequence_s: 1.9e-5,
        per_kv_token_s: 8.7e-7,
        per_prompt_s: 0.0,
        per_prompt_token_s: 1.5e-4,
        per_pair_s: 3.7e-8,
    };
    let config = EngineConfig {
        max_batched_tokens: Some(8192),
        chunked_prefill: false,
        mixing: Mixing::PrefillFirst,
        kv_blocks: Some(60_000 / 64),
        block_tokens: 64,
        kv_budget,
        ..EngineConfig::unlimited(64)
    };
    // Summaries break often, the rest never.
    let excess = BTreeMap::from([("summary".to_owned(), 0.4), (String::new(), 0.0)]);
    let shift = LengthShift { mean_log: 0.0, sigma_log };
    MethodWorld { name: name.to_owned(), times: Arc::new(times), config, shift, excess }
}

/// Prompts of 1000 to 4000 tokens, and answers that are mostly short.
fn rows(n: u64) -> Vec<Traced> {
    let row = |i: u64| {
        let (u, v) = ((i * 619 % 1000) as f64 / 1000.0, (i * 383 % 997) as f64 / 997.0);
        Traced {
            at_ns: 0,
            prompt_tokens: 1000 + (3000.0 * u) as u64,
            output_tokens: ((120.0 * (2.2 * (v - 0.5) * 2.0).exp()) as u64).clamp(1, 1024),
            task: Some(if i % 10 < 3 { "summary" } else { "qa" }.to_owned()),
            predicted_tokens: None,
            patience_ns: None,
        }
    };
    (0..n).map(row).collect()
}

fn policy(name: &str, rule: Rule, risk: Option<RiskKnowledge>) -> PolicySpec {
    PolicySpec {
        name: name.to_owned(),
        rule,
        length: LengthKnowledge::Predicted,
        speed: SpeedKnowledge::Predicted,
        guard: risk.map(|risk| GuardSpec { risk, epsilon: 0.05 }),
    }
}

fn skill(name: &str, speed_factor: f64) -> NamedSkill {
    let (length_sigma_log, knows_shift, guard_answers) = (0.6, true, 1000);
    let skill = Skill { length_sigma_log, knows_shift, speed_factor, guard_answers };
    NamedSkill { name: name.to_owned(), skill }
}

fn experiment(n_requests: usize) -> Experiment {
    let engine = |name: &str, method| (name.to_owned(), method);
    let pool = |name: &str, methods: [usize; 4]| PoolPlan {
        name: name.to_owned(),
        engines: ["a", "b", "c", "d"].iter().zip(methods).map(|(n, m)| engine(n, m)).collect(),
    };
    Experiment {
        name: "long".to_owned(),
        seed: 3,
        n_seeds: 2,
        methods: vec![method("fp16", None, 0.0), method("stream-512", Some(512), 0.4)],
        baseline: 0,
        pools: vec![pool("two-and-two", [0, 0, 1, 1]), pool("own", [1, 1, 1, 1])],
        traces: vec![TracePlan {
            name: "long".to_owned(),
            rows: rows(1000),
            n_requests,
            is_sample: true,
        }],
        loads: vec![LoadPlan {
            name: "rho-0.95".to_owned(),
            arrivals: Arrivals::Utilisation { rho: 0.95 },
        }],
        skills: vec![skill("noisy", 1.0)],
        policies: vec![
            policy("marginal", Rule::MarginalCost, None),
            policy("guarded", Rule::MarginalCost, Some(RiskKnowledge::Learned)),
            policy("both", Rule::EarliestFinish, None),
        ],
        slo: None,
        risks: None,
        knows_breaks: true,
    }
}

fn simulated(experiment: Experiment) -> (Plan, Vec<CellStats>) {
    let plan = Plan::new(experiment).unwrap();
    let mut stats = Vec::new();
    for cell in cells(&plan) {
        let rows = run_cell(&plan, &cell).unwrap();
        stats.extend(stats_of(&rows.requests, &rows.engines, plan.design.slo));
    }
    (plan, stats)
}

#[test]
fn policies_differ_in_the_direction_that_they_are_meant_to() {
    let (plan, stats) = simulated(experiment(500));
    let all = summarise(&stats, &worlds(&plan), &plan.design);
    let of = |name: &str| -> &Summary {
        all.iter().find(|s| s.key.pool == "two-and-two" && s.key.policy == name).unwrap()
    };
    let (marginal, guarded) = (of("marginal"), of("guarded"));
    let speed = &marginal.speedups;
    assert!(speed.round_robin.unwrap().value > 1.15, "{:?}", speed.round_robin);
    assert!(speed.shortest_queue.unwrap().value > 1.0, "{:?}", speed.shortest_queue);
    assert!(of("oracle_length").e2e_mean_s.unwrap().value < marginal.e2e_mean_s.unwrap().value);
    let harmed = |s: &Summary| s.harmed.unwrap().value;
    assert!(harmed(marginal) > 0.05 && harmed(guarded) <= harmed(marginal) / 2.0);
    assert!(harmed(of("oracle_fragility")) < 1e-12);
    assert!(guarded.by_method["stream-512"].value > 0.3, "the guard leaves it the safe task");
    assert!(marginal.world.unwrap().bound_e2e_mean_s < marginal.e2e_mean_s.unwrap().value);
    assert!(all.iter().all(|s| s.n_seeds == 2 && (s.n_failed == 0 || s.key.pool == "own")));
}

#[test]
fn a_gain_over_the_own_pool_has_two_factors() {
    let mut mixed = experiment(300);
    mixed.loads[0].arrivals = Arrivals::Poisson { rate: 1.0 };
    let (plan, stats) = simulated(mixed);
    let gains = gains(&stats, &plan.design);
    let both = gains.iter().find(|gain| gain.key.policy == "both").unwrap();
    assert!((both.mix.value * both.policy.value / both.total.value - 1.0).abs() < 1e-9);
}
