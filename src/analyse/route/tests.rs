use rand_distr::{Distribution as _, Exp};

use super::*;
use crate::{
    record::{RouteEngineRow, RouteKind, RouteLog, RouteManifest, RouteRequestRow, RouteWorldRow},
    route::{
        LengthKnowledge, PolicySpec, Rule, SpeedKnowledge,
        experiment::{Design, DesignPool, Oracles, Slo},
    },
    units::s_to_ns,
};

/// A request that came at `at` seconds and stayed for `stay`, the first token after half of it.
fn row(pool: &str, policy: &str, seed: i64, (at, stay): (f64, f64)) -> RouteRequestRow {
    RouteRequestRow {
        pool: pool.to_owned(),
        trace: "t".to_owned(),
        load: "l".to_owned(),
        policy: policy.to_owned(),
        seed,
        arrived_ns: s_to_ns(at),
        first_token_ns: Some(s_to_ns(at + stay / 2.0)),
        finished_ns: Some(s_to_ns(at + stay)),
        output_tokens: Some(5),
        method: Some("fp16".to_owned()),
        reason: "rule".to_owned(),
        breaks: Some(false),
        n_preempted: Some(0),
        ..RouteRequestRow::default()
    }
}

fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-9, "{found} {expected}");
}

fn value(estimate: Option<Estimate>) -> f64 {
    estimate.unwrap().value
}

fn policy(name: &str, rule: Rule) -> PolicySpec {
    PolicySpec {
        name: name.to_owned(),
        rule,
        length: LengthKnowledge::Constant,
        speed: SpeedKnowledge::Predicted,
        guard: None,
    }
}

fn design() -> Design {
    let pool = |name: &str, own: Option<&str>| DesignPool {
        name: name.to_owned(),
        engines: vec![("e".to_owned(), "fp16".to_owned())],
        baseline_pool: "all".to_owned(),
        own_pool: own.map(str::to_owned),
    };
    Design {
        baseline: "fp16".to_owned(),
        pools: vec![pool("mix", Some("own")), pool("own", None), pool("all", None)],
        traces: vec!["t".to_owned()],
        loads: vec!["l".to_owned()],
        skills: vec!["s".to_owned()],
        skills_of_true_speed: Vec::new(),
        policies: vec![
            policy("both", Rule::EarliestFinish),
            policy("rr", Rule::RoundRobin),
            policy("jsq", Rule::JoinShortestQueue),
            policy("memory", Rule::LeastMemory),
        ],
        round_robin: "rr".to_owned(),
        shortest_queue: "jsq".to_owned(),
        least_memory: "memory".to_owned(),
        oracles: Oracles {
            speed: "jsq".to_owned(),
            length: "jsq".to_owned(),
            fragility: "jsq".to_owned(),
        },
        n_seeds: 3,
        slo: None,
    }
}

/// Three seeds of a policy whose requests stay so long, a little more or less.
fn seeds(pool: &str, policy: &str, stay: f64) -> Vec<RouteRequestRow> {
    let of = |seed: i64| row(pool, policy, seed, (0.0, stay * (1.0 + 0.1 * seed as f64)));
    (0..3).map(of).collect()
}

fn whole() -> Vec<RouteRequestRow> {
    let all = [
        ("mix", "both", 4.0),
        ("mix", "rr", 8.0),
        ("mix", "jsq", 5.0),
        ("mix", "memory", 6.0),
        ("own", "memory", 9.0),
        ("all", "jsq", 7.0),
        ("all", "memory", 7.5),
    ];
    let mut rows: Vec<_> = all.iter().flat_map(|(pool, p, stay)| seeds(pool, p, *stay)).collect();
    // This one asks predictors.
    rows.iter_mut().filter(|row| row.policy == "both").for_each(|row| row.skill = "s".to_owned());
    rows
}

#[test]
fn latencies_are_those_by_hand() {
    let mut rows: Vec<_> =
        (0..4).map(|i| row("p", "x", 0, (f64::from(i), f64::from(i + 1)))).collect();
    rows.iter_mut().zip(10..).for_each(|(row, id)| row.request_id = id);
    rows[1].output_tokens = Some(1);
    rows[2].err = Some("gone".to_owned());
    let found = &stats_of(&rows, &[], None)[0];
    assert_eq!((found.n, &found.failed), (4, &[12].into()));
    let e2e = found.e2e_s.unwrap();
    close(e2e.mean, (1.0 + 2.0 + 4.0) / 3.0);
    close(e2e.p50, 2.0);
    assert_eq!(e2e.p99, None);
    close(found.ttft_s.unwrap().mean, 7.0 / 6.0);
    // (0.5 + 2) / 4 tokens, of two answers; the one of one token has none.
    close(found.tpot_s.unwrap().mean, (0.125 + 0.5) / 2.0);
    close(found.normalised_s.unwrap().mean, (0.2 + 2.0 + 0.8) / 3.0);
    assert_eq!((found.on_time, found.goodput_per_s), (None, None));
    // The second came as the first ended, the fourth as the second did; the third was not served.
    close(found.overlapped, 0.0);
    close(found.drained, 1.0 / 3.0);
}

#[test]
fn goodput_keeps_every_limit() {
    let mut rows: Vec<_> = (0..4).map(|i| row("p", "x", 0, (0.0, f64::from(i + 1)))).collect();
    rows[0].first_token_ns = None;
    rows[3].output_tokens = Some(1);
    let of = |slo| {
        let found = &stats_of(&rows, &[], Some(slo))[0];
        (found.on_time.unwrap() * 4.0, found.goodput_per_s.unwrap() * 4.0)
    };
    let none = Slo::default();
    assert_eq!(of(none), (4.0, 4.0));
    assert_eq!(of(Slo { e2e_s: Some(3.0), ..none }), (3.0, 3.0));
    assert_eq!(of(Slo { ttft_s: Some(1.0), ..none }), (1.0, 1.0), "an unknown TTFT is late");
    assert_eq!(of(Slo { tpot_s: Some(0.3), ..none }), (2.0, 2.0), "one token has no TPOT");
}

#[test]
fn harm_shares_and_utilisation() {
    let mut rows: Vec<_> = (0..4).map(|i| row("p", "x", 0, (f64::from(i), 0.5))).collect();
    rows[1].method = Some("kivi".to_owned());
    rows[1].breaks = Some(true);
    rows[3].reason = "guard_baseline".to_owned();
    let engine = RouteEngineRow {
        pool: "p".to_owned(),
        trace: "t".to_owned(),
        load: "l".to_owned(),
        policy: "x".to_owned(),
        engine: "a".to_owned(),
        ended_ns: 100,
        busy_ns: Some(25),
        ..RouteEngineRow::default()
    };
    let silent = RouteEngineRow { engine: "b".to_owned(), busy_ns: None, ..engine.clone() };
    let other = RouteEngineRow { seed: 1, engine: "c".to_owned(), ..engine.clone() };
    let found = &stats_of(&rows, &[engine, silent, other], None)[0];
    close(found.harmed.unwrap(), 0.25);
    assert_eq!(found.n_harmed, Some(1));
    close(found.by_method["kivi"], 0.25);
    close(found.by_reason["guard_baseline"], 0.25);
    assert_eq!(found.busy.len(), 1);
    close(found.busy["a"], 0.25);
    rows[0].breaks = None;
    let found = &stats_of(&rows, &[], None)[0];
    assert_eq!((found.harmed, found.n_harmed), (None, None), "what is unknown of one is of all");
}

/// Two seeds of 400 requests a second apart, which stay as long as is said of each.
fn queue(stay: impl Fn(i64, i32) -> f64) -> Summary {
    let design = Design { n_seeds: 2, ..design() };
    let one = |seed, i| row("mix", "rr", seed, (f64::from(i), stay(seed, i)));
    let rows: Vec<_> = (0..2).flat_map(|seed| (0..400).map(move |i| (seed, i))).collect();
    let rows: Vec<_> = rows.into_iter().map(|(seed, i)| one(seed, i)).collect();
    let mut all = summarise(&stats_of(&rows, &[], None), &[], &design);
    assert_eq!(all.len(), 1);
    all.remove(0)
}

#[test]
fn queues_stay_grow_or_leave_it_open() {
    let steady = queue(|_, _| 5.0);
    assert!(value(steady.growth).abs() < 0.05, "{:?}", steady.growth);
    assert!(steady.steadiness == Steadiness::Steady && steady.e2e_p99_s.is_some());
    let grows = queue(|_, i| 5.0 + 0.5 * f64::from(i));
    assert!(value(grows.growth) > 0.5, "{:?}", grows.growth);
    assert_eq!(grows.steadiness, Steadiness::Growing);
    // One seed grows and the other does not.
    let open = queue(|seed, i| 5.0 + if seed == 0 { 0.5 * f64::from(i) } else { 0.0 });
    assert_eq!(open.steadiness, Steadiness::CannotTell, "{:?}", open.growth);
}

/// From an empty start, n(t) = t / 2: over the last three quarters of 200 s the line rises by 75 from 25 to 100, of a mean of 62.5.
#[test]
fn growth_is_the_slope_of_the_number_inside() {
    // Every 20th stays to the end: one each two seconds.
    let one = |i: i32| (f64::from(i) / 10.0, if i % 20 == 0 { 200.0 } else { 0.0 });
    let rows: Vec<_> = (0..=2000).map(|i| row("mix", "rr", 0, one(i))).collect();
    let found = stats_of(&rows, &[], None)[0].growth.unwrap();
    assert!((found - 75.0 / 62.5).abs() < 0.02, "{found}");
    // Whoever is given up is inside until then.
    let mut left = rows;
    for row in &mut left {
        row.gone_ns = row.finished_ns.take();
    }
    close(stats_of(&left, &[], None)[0].growth.unwrap(), found);
}

/// A single server from an empty start (Lindley's recursion), 5 seeds of 400 requests: below its capacity it is hardly ever said to pile up,
/// above it nearly always. In a hundred trials 2.5 are the level of the interval.
#[test]
fn what_is_called_growing_does_grow() {
    let growth = |rho: f64, seed: u64| {
        let mut rng = stats::seeded(seed);
        let mut draw = |rate: f64| Exp::new(rate).unwrap().sample(&mut rng);
        let (mut at, mut free) = (0.0, 0.0_f64);
        let mut one = |_| {
            at += draw(rho);
            free = free.max(at) + draw(1.0);
            row("mix", "rr", 0, (at, free - at))
        };
        let rows: Vec<_> = (0..400).map(&mut one).collect();
        stats_of(&rows, &[], None)[0].growth.unwrap()
    };
    let n_growing = |rho: f64| {
        let grows = |trial: &u64| {
            let seeds: Vec<f64> = (0..5).map(|seed| growth(rho, 5 * trial + seed)).collect();
            Steadiness::of(estimate(&seeds)) == Steadiness::Growing
        };
        (0..100).filter(grows).count()
    };
    let (below, above) = (n_growing(0.5), n_growing(1.5));
    assert!(below <= 8 && above >= 90, "{below} {above}");
}

#[test]
fn a_regret_needs_something_to_regret() {
    let stats = stats_of(&whole(), &[], None);
    let regrets = |design: &Design| {
        let all = summarise(&stats, &[], design);
        all.iter().find(|s| s.key.policy == "both" && s.key.pool == "mix").unwrap().regrets.clone()
    };
    let told = regrets(&design());
    assert!(told.speed.is_some() && told.length.is_some());
    let known = regrets(&Design { skills_of_true_speed: vec!["s".to_owned()], ..design() });
    assert_eq!((known.speed, known.length), (None, told.length));
}

#[test]
fn speedups_and_regrets_are_paired_by_seed() {
    let stats = stats_of(&whole(), &[], None);
    let world = |seed, rate_per_s| RouteWorldRow {
        pool: "mix".to_owned(),
        trace: "t".to_owned(),
        load: "l".to_owned(),
        seed,
        rate_per_s: Some(rate_per_s),
        capacity_per_s: Some(10.0),
        bound_e2e_mean_s: 2.0,
        ..RouteWorldRow::default()
    };
    let all = summarise(&stats, &[world(0, 7.0), world(1, 9.0)], &design());
    let of = |pool: &str, policy: &str| {
        all.iter().find(|s| s.key.pool == pool && s.key.policy == policy).unwrap()
    };
    let both = of("mix", "both");
    close(value(both.e2e_mean_s), 4.0 * 1.1);
    let speed = &both.speedups;
    close(value(speed.round_robin), 2.0);
    close(value(speed.shortest_queue), 5.0 / 4.0);
    close(value(speed.all_baseline), 7.0 / 4.0);
    close(value(speed.all_baseline_least_memory), 7.5 / 4.0);
    close(value(speed.own_pool_least_memory), 9.0 / 4.0);
    // Seeds differ by a tenth and pairs not at all.
    let (low, high) = speed.round_robin.unwrap().interval.unwrap();
    close(low, 2.0);
    close(high, 2.0);
    let (low, high) = both.e2e_mean_s.unwrap().interval.unwrap();
    assert!(low < 4.2 && high > 4.6, "{low} {high}");
    close(value(both.regrets.length), 4.0 / 5.0 - 1.0);
    close(both.world.unwrap().rho.unwrap(), 0.8);
    let own = of("own", "memory");
    assert_eq!(own.speedups.round_robin, None, "nothing was simulated that it compares with");
    assert_eq!(of("mix", "rr").key.skill, "s", "a policy without skill stands under every skill");
    assert!(of("all", "jsq").world.is_none());
}

#[test]
fn who_fails_requests_is_not_compared() {
    let mut rows = whole();
    let failed = rows.iter_mut().find(|row| row.policy == "both").unwrap();
    failed.err = Some("no engine".to_owned());
    let all = summarise(&stats_of(&rows, &[], None), &[], &design());
    let both = all.iter().find(|s| s.key.policy == "both").unwrap();
    assert_eq!((both.n_failed, both.speedups.clone()), (1, Speedups::default()));
}

#[test]
fn as_many_failures_of_other_requests_are_not_compared() {
    // Of two requests each policy fails one.
    let of = |policy: &'static str, failed: i64| {
        (0..2).map(move |id| RouteRequestRow {
            request_id: id,
            err: (id == failed).then(|| "no engine".to_owned()),
            ..row("mix", policy, 0, (id as f64, 3.0))
        })
    };
    let speedup = |failed: i64| {
        let rows: Vec<_> = of("jsq", 0).chain(of("rr", failed)).collect();
        let all = summarise(&stats_of(&rows, &[], None), &[], &design());
        let found = all.iter().find(|s| s.key.policy == "jsq").unwrap();
        found.speedups.round_robin
    };
    assert!(speedup(0).is_some());
    assert_eq!(speedup(1), None);
}

/// The same rule with one length for all stands between the mix under least memory and the policy.
#[test]
fn a_predictor_of_lengths_has_a_factor_of_its_own() {
    let mut own = design();
    own.policies[0].length = LengthKnowledge::Predicted;
    own.policies.push(policy("constant", Rule::EarliestFinish));
    let mut rows = whole();
    rows.extend(seeds("mix", "constant", 5.0));
    let all = gains(&stats_of(&rows, &[], None), &own);
    let of = |name: &str| all.iter().find(|gain| gain.key.policy == name).unwrap();
    let parts = of("both").parts.clone().unwrap();
    assert_eq!(parts.control, "constant");
    close(parts.rule.value, 6.0 / 5.0);
    close(parts.lengths.value, 5.0 / 4.0);
    close(parts.rule.value * parts.lengths.value, of("both").policy.value);
    assert!(of("constant").parts.is_none() && of("memory").parts.is_none());
}

#[test]
fn a_gain_is_the_mix_times_the_predictors() {
    let stats = stats_of(&whole(), &[], None);
    let gains = gains(&stats, &design());
    let both = gains.iter().find(|gain| gain.key.policy == "both").unwrap();
    close(both.total.value, 9.0 / 4.0);
    close(both.mix.value, 1.5);
    close(both.policy.value, 1.5);
    close(both.policy_share.unwrap().value, 0.5);
    let memory = gains.iter().find(|gain| gain.key.policy == "memory").unwrap();
    close(memory.policy.value, 1.0);
    close(memory.policy_share.unwrap().value, 0.0);
    assert!(gains.iter().all(|gain| gain.key.pool == "mix"));
}

#[test]
fn of_no_gain_there_are_no_shares() {
    let mut rows = whole();
    let own = rows.iter_mut().filter(|row| row.pool == "own");
    // One seed much worse, one much better.
    for (row, stay) in own.zip([1.0, 4.0, 12.0]) {
        row.finished_ns = Some(s_to_ns(stay));
    }
    let gains = gains(&stats_of(&rows, &[], None), &design());
    assert!(gains.iter().all(|gain| gain.policy_share.is_none()));
}

#[test]
fn a_folder_gives_what_its_rows_give() {
    let parent = tempfile::tempdir().unwrap();
    let origin = "2026-11-24T01:30:00Z".to_owned();
    let mut manifest = RouteManifest::begun(RouteKind::Simulated, "x", "", 1, origin);
    manifest.design = serde_json::to_value(design()).unwrap();
    let mut log = RouteLog::create(parent.path(), "s", "i", &mut manifest).unwrap();
    let rows = whole();
    for part in rows.chunks(4) {
        log.requests(part.to_vec()).unwrap();
        log.flush().unwrap();
    }
    let path = log.finish(&manifest).unwrap();
    let run = read(&path, None).unwrap();
    assert_eq!(run.stats, stats_of(&rows, &[], None));
    assert_eq!(run.design, Some(design()));
}
