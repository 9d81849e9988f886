//! Nanoseconds of one decision among 64 engines, by rule and by where step times come from: `cargo bench --bench route`.
//!
//! Medians over batches of decisions, each with states of its own. They are of this machine, and say what share of a request's time
//! a policy takes.
#![expect(clippy::disallowed_methods, reason = "it measures")]

use std::{hint::black_box, io::Write as _, sync::Arc, time::Instant};

use kvbench::{
    predict::{
        Model, Observation, Pass, Source, StepTimes, Steps, Subject, Work,
        fit::{Options, fit},
        simulate::{EngineConfig, LinearTimes, Mixing, Times},
    },
    route::{
        Ask, EngineState, GuardSpec, LengthKnowledge, Member, PolicySpec, Pool, RiskKnowledge,
        Rule, SpeedKnowledge,
        risk::{Cell, Counts, Risks},
        router::Router,
    },
};

const N_ENGINES: usize = 64;
const N_BATCHES: usize = 300;
const N_DECISIONS: usize = 100;

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

const LINEAR: LinearTimes = LinearTimes {
    step_s: 0.033,
    per_sequence_s: 2e-5,
    per_kv_token_s: 9e-7,
    per_prompt_s: 0.0,
    per_prompt_token_s: 1.5e-4,
    per_pair_s: 4e-8,
};

/// A fitted method, with its corrections at measured points.
struct Fitted {
    prefill: Model,
    decode: Model,
}

impl StepTimes for Fitted {
    fn step_s(&self, prefill: Option<&Work>, decode: Option<&Work>) -> f64 {
        Steps { prefill: &self.prefill, decode: &self.decode }.step_s(prefill, decode)
    }
}

/// Models of made-up measurements that bend away from a line, so that corrections are worth keeping.
fn fitted() -> Option<Fitted> {
    let subject = Subject {
        source: Source::Engine,
        target: Some("bench".to_owned()),
        engine: "none".to_owned(),
        device: "none".to_owned(),
        model: "none".to_owned(),
        tensor_parallel: 1,
        started_with: None,
    };
    let observation = |work: Work, time_s: f64| Observation {
        subject: subject.clone(),
        method: "fp16".to_owned(),
        is_baseline: true,
        budget: None,
        pass: Pass { work, repeats_s: vec![time_s, time_s * 1.001, time_s * 0.999] },
        rows: Vec::new(),
    };
    let mut all = Vec::new();
    for batch in [1.0_f64, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0] {
        for kv in [64.0_f64, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0] {
            let work = Work::decode_alike(batch, kv, None);
            let bend = 1.0 + 0.1 * (batch.ln() + 0.5 * kv.ln()).sin();
            all.push(observation(work, bend * LINEAR.step_s(None, Some(&work))));
            let work = Work::prefill_alike(batch.min(8.0), (kv, 0.0));
            all.push(observation(work, bend * LINEAR.step_s(Some(&work), None)));
        }
    }
    let mut models = fit(&all, &Options::default()).models.into_iter();
    let (one, other) = (models.next()?, models.next()?);
    let is_decode = one.phase == kvbench::predict::Phase::Decode;
    let (decode, prefill) = if is_decode { (one, other) } else { (other, one) };
    Some(Fitted { prefill, decode })
}

fn pool(times: &Times) -> Pool {
    let member = |at: usize| Member {
        name: format!("e{at}"),
        method: at % 4,
        config: EngineConfig {
            max_batched_tokens: Some(8192),
            chunked_prefill: true,
            mixing: if at.is_multiple_of(2) { Mixing::DecodeFirst } else { Mixing::PrefillFirst },
            kv_blocks: Some(4000),
            block_tokens: 16,
            kv_budget: (at % 4 == 3).then_some(512),
            ..EngineConfig::unlimited(64)
        },
        times: times.clone(),
    };
    Pool {
        methods: ["fp16", "kivi-4", "gear-4", "h2o-512"].map(str::to_owned).to_vec(),
        baseline: 0,
        engines: (0..N_ENGINES).map(member).collect(),
    }
}

/// Loads from idle to beyond full.
fn states(turn: usize) -> Vec<EngineState> {
    let state = |at: usize| {
        let n = (at * 37 + turn * 11) % 90;
        EngineState {
            is_up: at % 17 != 5,
            running: n.min(64),
            waiting: n.saturating_sub(64),
            prompt_tokens_left: 900 * n.saturating_sub(64) as u64 + 100,
            kv_tokens: 800 * n.min(64) as u64,
            output_tokens_left: 120.0 * n as f64,
        }
    };
    (0..N_ENGINES).map(state).collect()
}

fn risks() -> anyhow::Result<Arc<Risks>> {
    let cell = |(at, method): (usize, &str)| Cell {
        task: "qa".to_owned(),
        bin: 1,
        method: method.to_owned(),
        own: Counts { n: 1000, negatives: 20 + 100 * at as u64 },
        null: Counts { n: 1000, negatives: 20 },
    };
    let cells = ["kivi-4", "gear-4", "h2o-512"].into_iter().enumerate().map(cell).collect();
    Ok(Arc::new(Risks::new("a benchmark", &[512, 4096], cells)?))
}

/// Median nanoseconds of a decision.
fn decision_ns(router: &mut Router, pool: &Pool, all: &[Vec<EngineState>]) -> f64 {
    let lengths = [200.0, 210.0, 190.0, 220.0];
    let mut ns: Vec<f64> = (0..N_BATCHES)
        .map(|batch| {
            let began = Instant::now();
            for at in 0..N_DECISIONS {
                let ask = Ask {
                    id: at as u64,
                    now_ns: 0,
                    prompt_tokens: 1000 + at as u64,
                    output_tokens: &lengths,
                    task: Some("qa"),
                    breaks: None,
                };
                let states = &all[(batch + at) % all.len()];
                black_box(router.decide(black_box(&ask), pool, black_box(states)));
            }
            began.elapsed().as_nanos() as f64 / N_DECISIONS as f64
        })
        .collect();
    ns.sort_by(f64::total_cmp);
    ns[ns.len() / 2]
}

fn main() -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let all: Vec<Vec<EngineState>> = (0..50).map(states).collect();
    let fitted = fitted().ok_or_else(|| anyhow::anyhow!("expected two models, got fewer"))?;
    let risks = risks()?;
    for (name, times) in
        [("linear", Arc::new(LINEAR) as Times), ("fitted model", Arc::new(fitted) as Times)]
    {
        let pool = pool(&times);
        for guard in [None, Some(GuardSpec { risk: RiskKnowledge::Learned, epsilon: 0.05 })] {
            for rule in RULES {
                let spec = PolicySpec {
                    name: "bench".to_owned(),
                    rule,
                    length: LengthKnowledge::Predicted,
                    speed: SpeedKnowledge::Predicted,
                    guard,
                };
                let mut router = Router::new(&spec, &pool, Some(risks.clone()), 1)?;
                let ns = decision_ns(&mut router, &pool, &all);
                let guarded = if guard.is_some() { "guarded" } else { "" };
                let rule = format!("{rule:?}");
                writeln!(out, "{name:13} {rule:18} {guarded:8} {ns:8.0} ns a decision")?;
            }
        }
        let began = Instant::now();
        let spec = PolicySpec {
            name: "bench".to_owned(),
            rule: Rule::MarginalCost,
            length: LengthKnowledge::Predicted,
            speed: SpeedKnowledge::Predicted,
            guard: None,
        };
        black_box(Router::new(&spec, &pool, None, 1)?);
        let made_us = began.elapsed().as_nanos() as f64 / 1e3;
        writeln!(out, "{name:13} {:18} {:8} {made_us:8.0} us", "(set-up)", "")?;
    }
    Ok(())
}
