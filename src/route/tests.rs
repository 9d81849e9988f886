//! Rules and the guard against each other and against what must hold whatever they are.

use std::sync::Arc;

use proptest::prelude::*;

use super::{
    Ask, Decision, EngineState, GuardSpec, LengthKnowledge, Member, PolicySpec, Pool, Reason,
    RiskKnowledge, Rule, SpeedKnowledge,
    risk::{Cell, Counts, Risks},
    router::{Router, RouterError},
};
use crate::predict::simulate::{EngineConfig, LinearTimes, Mixing, Times};

const RULES: [Rule; 11] = [
    Rule::RoundRobin,
    Rule::Random,
    Rule::JoinShortestQueue,
    Rule::PowerOfTwo,
    Rule::LeastTokens,
    Rule::LeastMemory,
    Rule::StaticBest,
    Rule::HighestThroughput,
    Rule::ShortestAnswer,
    Rule::EarliestFinish,
    Rule::MarginalCost,
];

/// Rules under which more load makes an engine no better. `w/Thr` is none of them: it likes the fullest batch.
const FEAR_LOAD: [Rule; 5] = [
    Rule::JoinShortestQueue,
    Rule::LeastTokens,
    Rule::LeastMemory,
    Rule::EarliestFinish,
    Rule::MarginalCost,
];

fn times(factor: f64) -> Times {
    Arc::new(LinearTimes {
        step_s: 0.03 * factor,
        per_sequence_s: 2e-5 * factor,
        per_kv_token_s: 9e-7 * factor,
        per_prompt_s: 0.0,
        per_prompt_token_s: 1.5e-4 * factor,
        per_pair_s: 4e-8 * factor,
    })
}

fn config(kv_budget: Option<u64>) -> EngineConfig {
    EngineConfig {
        max_batched_tokens: Some(8192),
        chunked_prefill: false,
        mixing: Mixing::PrefillFirst,
        kv_blocks: Some(1000),
        kv_budget,
        ..EngineConfig::unlimited(16)
    }
}

/// Engines of these methods: 0 keeps all, 1 keeps 512 tokens a sequence.
fn pool(methods: &[usize]) -> Pool {
    let (all, some) = (times(1.0), times(1.0));
    let member = |(at, method): (usize, &usize)| Member {
        name: format!("e{at}"),
        method: *method,
        config: config((*method == 1).then_some(512)),
        times: if *method == 1 { some.clone() } else { all.clone() },
    };
    Pool {
        methods: vec!["fp16".to_owned(), "h2o-512".to_owned()],
        baseline: 0,
        engines: methods.iter().enumerate().map(member).collect(),
    }
}

fn busy(n: usize) -> EngineState {
    EngineState {
        is_up: true,
        running: n.min(16),
        waiting: n.saturating_sub(16),
        prompt_tokens_left: 500 * n.saturating_sub(16) as u64,
        kv_tokens: 700 * n.min(16) as u64,
        output_tokens_left: 100.0 * n as f64,
    }
}

fn spec(rule: Rule, guard: Option<GuardSpec>) -> PolicySpec {
    PolicySpec {
        name: "p".to_owned(),
        rule,
        length: LengthKnowledge::Predicted,
        speed: SpeedKnowledge::Predicted,
        guard,
    }
}

fn ask<'a>(output_tokens: &'a [f64]) -> Ask<'a> {
    let (task, breaks) = (Some("qa"), None);
    Ask { id: 1, now_ns: 0, prompt_tokens: 800, output_tokens, task, breaks }
}

fn decide(rule: Rule, pool: &Pool, states: &[EngineState], output_tokens: &[f64]) -> Decision {
    let mut router = Router::new(&spec(rule, None), pool, None, 7).unwrap();
    router.decide(&ask(output_tokens), pool, states)
}

fn learned(epsilon: f64) -> Option<GuardSpec> {
    Some(GuardSpec { risk: RiskKnowledge::Learned, epsilon })
}

fn risks(negatives: u64) -> Arc<Risks> {
    let cell = Cell {
        task: "qa".to_owned(),
        bin: 0,
        method: "h2o-512".to_owned(),
        own: Counts { n: 1000, negatives },
        null: Counts { n: 1000, negatives: 10 },
    };
    Arc::new(Risks::new("a test", &[1024], vec![cell]).unwrap())
}

#[test]
fn turns_are_taken_and_who_is_down_is_passed_over() {
    let pool = pool(&[0, 0, 1]);
    let mut router = Router::new(&spec(Rule::RoundRobin, None), &pool, None, 0).unwrap();
    let mut states = [busy(0); 3];
    let mut turn = |states: &[EngineState]| router.decide(&ask(&[9.0; 2]), &pool, states).engine;
    assert_eq!([turn(&states), turn(&states), turn(&states)], [Some(0), Some(1), Some(2)]);
    states[1].is_up = false;
    assert_eq!([turn(&states), turn(&states), turn(&states)], [Some(0), Some(2), Some(0)]);
}

#[test]
fn queues_tokens_and_memory_are_weighed() {
    let pool = pool(&[0, 0]);
    let short_queue = EngineState { running: 2, output_tokens_left: 900.0, ..busy(0) };
    let few_tokens = EngineState { running: 3, output_tokens_left: 30.0, ..busy(0) };
    let states = [few_tokens, short_queue];
    let of = |rule, states: &[EngineState]| decide(rule, &pool, states, &[9.0; 2]).engine;
    assert_eq!(of(Rule::JoinShortestQueue, &states), Some(1));
    assert_eq!(of(Rule::PowerOfTwo, &states), Some(1), "both are drawn");
    assert_eq!(of(Rule::LeastTokens, &states), Some(0));
    let full = EngineState { kv_tokens: 10, ..short_queue };
    assert_eq!(of(Rule::LeastMemory, &[full, few_tokens]), Some(1));
}

#[test]
fn the_papers_rules_are_what_they_say() {
    let pool = pool(&[0, 1]);
    let of =
        |rule, states: &[EngineState], lengths: &[f64]| decide(rule, &pool, states, lengths).engine;
    // The fuller batch yields more tokens a second, which is why this rule piles requests up.
    assert_eq!(of(Rule::HighestThroughput, &[busy(12), busy(2)], &[9.0; 2]), Some(0));
    assert_eq!(of(Rule::ShortestAnswer, &[busy(12), busy(2)], &[90.0, 100.0]), Some(0));
    assert_eq!(of(Rule::ShortestAnswer, &[busy(12), busy(2)], &[90.0, 90.0]), Some(1));
    assert_eq!(of(Rule::EarliestFinish, &[busy(5), busy(5)], &[100.0, 300.0]), Some(0));
    assert_eq!(of(Rule::EarliestFinish, &[busy(40), busy(5)], &[100.0, 120.0]), Some(1));
}

#[test]
fn the_best_method_is_the_one_with_capacity_as_long_as_it_is_up() {
    let pool = pool(&[0, 1, 1]);
    let mut states = [busy(0), busy(3), busy(2)];
    let of = |states: &[EngineState]| decide(Rule::StaticBest, &pool, states, &[9.0; 2]).engine;
    assert_eq!(of(&states), Some(2));
    states[1].is_up = false;
    states[2].is_up = false;
    assert_eq!(of(&states), Some(0));
}

/// An answer that is long where it is asked holds up many there: the selfish rule does not care.
#[test]
fn marginal_cost_spares_a_full_batch_what_a_selfish_request_does_not() {
    let pool = pool(&[0, 0]);
    let crowded =
        EngineState { running: 12, kv_tokens: 1000, output_tokens_left: 6000.0, ..busy(0) };
    let slower = EngineState { running: 1, kv_tokens: 9000, output_tokens_left: 500.0, ..busy(0) };
    let of = |rule| decide(rule, &pool, &[crowded, slower], &[300.0; 2]);
    assert_eq!(of(Rule::EarliestFinish).engine, Some(0));
    let marginal = of(Rule::MarginalCost);
    assert_eq!(marginal.engine, Some(1));
    assert!(marginal.predicted.delay_s.unwrap() > 0.0);
}

#[test]
fn equals_are_taken_by_lot() {
    let pool = pool(&[0, 0, 0]);
    for rule in [Rule::JoinShortestQueue, Rule::MarginalCost, Rule::Random, Rule::PowerOfTwo] {
        let mut router = Router::new(&spec(rule, None), &pool, None, 3).unwrap();
        let mut n = [0; 3];
        for _ in 0..3000 {
            let decision = router.decide(&ask(&[50.0; 2]), &pool, &[busy(1); 3]);
            n[decision.engine.unwrap()] += 1;
        }
        // Four standard deviations of a third of 3000.
        assert!(n.iter().all(|n| (897..1104).contains(n)), "{rule:?}: {n:?}");
    }
}

#[test]
fn the_guard_lets_through_what_is_known_to_be_safe() {
    let pool = pool(&[0, 1, 1]);
    let states = [busy(30), busy(0), busy(1)];
    let tell = |negatives, ask: Ask<'_>, states: &[EngineState]| {
        let spec = spec(Rule::JoinShortestQueue, learned(0.05));
        let mut router = Router::new(&spec, &pool, Some(risks(negatives)), 0).unwrap();
        router.decide(&ask, &pool, states)
    };
    let known = ask(&[50.0; 2]);
    let safe = tell(10, known, &states);
    assert_eq!((safe.engine, safe.reason, safe.n_candidates), (Some(1), Reason::Rule, 3));
    assert!(safe.predicted.harm_upper.unwrap() < 0.05);
    let harmed = tell(100, known, &states);
    assert_eq!((harmed.engine, harmed.reason), (Some(0), Reason::GuardBaseline));
    for unknown in [
        Ask { task: None, ..known },
        Ask { task: Some("code"), ..known },
        Ask { prompt_tokens: 5000, ..known },
    ] {
        assert_eq!(tell(10, unknown, &states).engine, Some(0));
    }
    let mut down = states;
    down[0].is_up = false;
    let none = tell(100, known, &down);
    assert_eq!((none.engine, none.reason, none.n_candidates), (None, Reason::NoneSafe, 0));
    down = [EngineState::default(); 3];
    down[2].is_up = true;
    assert_eq!(tell(10, known, &down).reason, Reason::OnlyOne);
}

#[test]
fn the_oracle_of_fragility_reads_the_truth() {
    let pool = pool(&[0, 1]);
    let guard = Some(GuardSpec { risk: RiskKnowledge::Oracle, epsilon: 0.0 });
    let mut router = Router::new(&spec(Rule::JoinShortestQueue, guard), &pool, None, 0).unwrap();
    let known = ask(&[50.0; 2]);
    let mut engine =
        |breaks| router.decide(&Ask { breaks, ..known }, &pool, &[busy(5), busy(0)]).engine;
    assert_eq!(engine(Some(&[false, false])), Some(1));
    assert_eq!(engine(Some(&[false, true])), Some(0));
    assert_eq!(engine(None), Some(0), "what is not known is not safe");
}

#[test]
fn what_cannot_work_is_refused() {
    let some = pool(&[0, 1]);
    let refused = |spec: &PolicySpec, pool: &Pool| Router::new(spec, pool, None, 0).unwrap_err();
    let rule = Rule::RoundRobin;
    assert_eq!(refused(&spec(rule, None), &pool(&[])), RouterError::NoEngines);
    assert_eq!(refused(&spec(rule, learned(0.05)), &some), RouterError::NoRisks("p".to_owned()));
    let mut strange = pool(&[0]);
    strange.engines[0].method = 2;
    assert!(matches!(refused(&spec(rule, None), &strange), RouterError::UnknownMethod { .. }));
    let guard = Some(GuardSpec { risk: RiskKnowledge::Oracle, epsilon: f64::NAN });
    assert!(matches!(refused(&spec(rule, guard), &some), RouterError::Epsilon { .. }));
}

#[test]
fn a_length_that_is_not_known_makes_an_engine_the_last() {
    let pool = pool(&[0, 1]);
    for rule in [Rule::ShortestAnswer, Rule::EarliestFinish, Rule::MarginalCost] {
        let decision = decide(rule, &pool, &[busy(9), busy(0)], &[90.0]);
        assert_eq!(decision.engine, Some(0), "{rule:?}");
        let none = decide(rule, &pool, &[busy(9), busy(0)], &[]);
        assert!(none.engine.is_some() && none.predicted.e2e_s.is_none(), "{rule:?}: {none:?}");
    }
}

fn any_state() -> impl Strategy<Value = EngineState> {
    (any::<bool>(), 0_usize..40, 0.5..400.0, 0_u64..900).prop_map(|(is_up, n, left, kv)| {
        EngineState {
            is_up,
            output_tokens_left: left * n as f64,
            kv_tokens: kv * n.min(16) as u64,
            ..busy(n)
        }
    })
}

fn up(states: &[EngineState]) -> Vec<EngineState> {
    states.iter().map(|state| EngineState { is_up: true, ..*state }).collect()
}

/// One request more, like those that are inside.
fn fuller(state: &EngineState) -> EngineState {
    let n = state.outstanding();
    let mean = |all: f64, none: f64| if n > 0 { all / n as f64 } else { none };
    let running = usize::from(state.running < 16 && state.waiting == 0);
    EngineState {
        running: state.running + running,
        waiting: state.waiting + 1 - running,
        prompt_tokens_left: state.prompt_tokens_left + 500 * (1 - running as u64),
        kv_tokens: state.kv_tokens
            + running as u64 * (state.kv_tokens / (state.running as u64).max(1)),
        output_tokens_left: state.output_tokens_left + mean(state.output_tokens_left, 100.0),
        ..*state
    }
}

proptest! {
    #[test]
    fn nobody_asks_an_engine_that_is_down_or_unsafe(
        rule in prop::sample::select(&RULES[..]),
        methods in prop::collection::vec(0_usize..2, 1..8),
        states in prop::collection::vec(any_state(), 8),
        breaks in any::<[bool; 2]>(),
        is_guarded in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let pool = pool(&methods);
        let states = &states[..methods.len()];
        let oracle = Some(GuardSpec { risk: RiskKnowledge::Oracle, epsilon: 0.0 });
        let spec = spec(rule, oracle.filter(|_| is_guarded));
        let mut router = Router::new(&spec, &pool, None, seed).unwrap();
        let ask = Ask { breaks: Some(&breaks), ..ask(&[80.0, 90.0]) };
        let may = |at: usize| {
            states[at].is_up && (!is_guarded || methods[at] == 0 || !breaks[1])
        };
        let n_may = (0..methods.len()).filter(|at| may(*at)).count();
        for _ in 0..5 {
            let decision = router.decide(&ask, &pool, states);
            prop_assert_eq!(decision.n_candidates, n_may);
            prop_assert_eq!(decision.engine.is_some(), n_may > 0);
            prop_assert_eq!(decision.reason == Reason::NoneSafe, n_may == 0);
            prop_assert!(decision.engine.is_none_or(may));
        }
    }

    #[test]
    fn a_decision_does_not_read_names_or_clocks_and_a_seed_repeats_it(
        rule in prop::sample::select(&RULES[..]),
        states in prop::collection::vec(any_state(), 5),
        (id, now_ns, seed) in any::<(u64, i64, u64)>(),
    ) {
        let pool = pool(&[0, 1, 0, 1, 1]);
        let run = |ask: Ask<'_>| {
            let mut router = Router::new(&spec(rule, None), &pool, None, seed).unwrap();
            (0..4).map(|_| router.decide(&ask, &pool, &states)).collect::<Vec<_>>()
        };
        let known = ask(&[80.0, 90.0]);
        prop_assert_eq!(run(known), run(Ask { id, now_ns, ..known }));
    }

    #[test]
    fn the_order_of_the_pool_does_not_change_what_is_paid(
        rule in prop::sample::select(&FEAR_LOAD[..]),
        states in prop::collection::vec(any_state(), 5),
        turn in 1_usize..5,
    ) {
        let (mut methods, mut states) = (vec![0, 1, 0, 1, 1], up(&states));
        let paid = |methods: &[usize], states: &[EngineState]| {
            let pool = pool(methods);
            let decision = decide(rule, &pool, states, &[80.0, 90.0]);
            let state = states[decision.engine.unwrap()];
            let cost = decision.predicted.e2e_s.unwrap_or(0.0) + decision.predicted.delay_s.unwrap_or(0.0);
            match rule {
                Rule::JoinShortestQueue => state.outstanding() as f64,
                Rule::LeastTokens => state.prompt_tokens_left as f64 + state.output_tokens_left,
                Rule::LeastMemory => (state.kv_tokens + state.prompt_tokens_left) as f64,
                Rule::EarliestFinish => decision.predicted.e2e_s.unwrap(),
                _ => cost,
            }
        };
        let before = paid(&methods, &states);
        methods.rotate_left(turn);
        states.rotate_left(turn);
        prop_assert!((paid(&methods, &states) - before).abs() <= 1e-9 * before.abs());
    }

    #[test]
    fn more_load_makes_no_engine_better(
        rule in prop::sample::select(&FEAR_LOAD[..]),
        states in prop::collection::vec(any_state(), 4),
        more in 0_usize..4,
    ) {
        let pool = pool(&[0, 1, 0, 1]);
        let states = up(&states);
        let chosen = decide(rule, &pool, &states, &[80.0, 90.0]).engine.unwrap();
        let mut loaded = states.clone();
        loaded[more] = fuller(&states[more]);
        let then = decide(rule, &pool, &loaded, &[80.0, 90.0]).engine.unwrap();
        prop_assert!(then != more || chosen == more, "{more} got more and was taken instead of {chosen}");
    }
}
