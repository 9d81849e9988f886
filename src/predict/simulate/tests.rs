use std::sync::Arc;

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    predict::{StepTimes, Work},
    stats,
    units::s_to_ns,
};

const MS: i64 = 1_000_000;

fn linear() -> LinearTimes {
    LinearTimes {
        step_s: 0.010,
        per_sequence_s: 0.001,
        per_kv_token_s: 1e-6,
        per_prompt_s: 0.0,
        per_prompt_token_s: 1e-4,
        per_pair_s: 1e-7,
    }
}

fn engine(config: EngineConfig) -> Engine {
    Engine::new(config, Arc::new(linear())).unwrap()
}

fn ask(prompt_tokens: u64, output_tokens: u64) -> Request {
    Request { id: 0, prompt_tokens, cached_tokens: 0, output_tokens }
}

fn open(engine: Engine, requests: &[Request], times: &[i64]) -> Replayed {
    replay(engine, requests, &Load::Open(times.to_vec()), Client::default()).unwrap()
}

fn all(replayed: &Replayed) -> Vec<Outcome> {
    replayed.outcomes.iter().map(|outcome| outcome.unwrap()).collect()
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-6
}

#[test]
fn a_request_alone_takes_its_prefill_and_its_steps() {
    let (prompt, output) = (300_u64, 20_u64);
    let one = all(&open(engine(EngineConfig::unlimited(8)), &[ask(prompt, output)], &[5 * MS]))[0];
    let prefill = linear().step_s(Some(&Work::prefill([(300.0, 0.0)])), None);
    let steps: f64 = (1..output)
        .map(|k| linear().step_s(None, Some(&Work::decode([(prompt + k) as f64], None))))
        .sum();
    assert!(close(one.ttft_s(), prefill), "{} {prefill}", one.ttft_s());
    assert!(close(one.e2e_s(), prefill + steps), "{} {steps}", one.e2e_s());
    assert!(close(one.tpot_s().unwrap(), steps / 19.0));
    assert_eq!(one.admitted_ns, 5 * MS);
}

#[test]
fn a_cached_prefix_and_the_way_to_the_engine_count() {
    let request = Request { cached_tokens: 200, ..ask(300, 1) };
    let client = Client { request_ns: 3 * MS, turnaround_ns: 0 };
    let load = Load::Open(vec![0]);
    let done =
        replay(engine(EngineConfig::unlimited(1)), &[request], &load, client).unwrap().outcomes;
    let prefill = linear().step_s(Some(&Work::prefill([(100.0, 200.0)])), None);
    assert!(close(done[0].unwrap().ttft_s(), prefill + 0.003));
    assert_eq!(done[0].unwrap().tpot_s(), None);
}

#[test]
fn a_request_that_joins_makes_one_step_longer_for_the_other() {
    let config = EngineConfig::unlimited(8);
    let done = all(&open(engine(config), &[ask(10, 50), ask(400, 2)], &[0, 20 * MS]));
    let alone = all(&open(engine(config), &[ask(10, 50)], &[0]));
    // One mixed step holds the prompt, one step both answers.
    let kv = 401.0;
    let extra = 400.0 * 1e-4 + 400.0 * 200.0 * 1e-7 + 0.001 + kv * 1e-6;
    assert!(close(done[0].e2e_s(), alone[0].e2e_s() + extra), "{} {extra}", done[0].e2e_s());
}

#[test]
fn prefill_first_lets_decoding_wait() {
    let both = [ask(10, 50), ask(400, 2)];
    let first = EngineConfig { mixing: Mixing::PrefillFirst, ..EngineConfig::unlimited(8) };
    let waits = all(&open(engine(first), &both, &[0, 20 * MS]));
    let mixed = all(&open(engine(EngineConfig::unlimited(8)), &both, &[0, 20 * MS]));
    assert!(close(waits[0].e2e_s(), mixed[0].e2e_s() + 0.010), "a step of its own for the prompt");
    assert!(waits[1].ttft_s() < mixed[1].ttft_s(), "which holds no token of the other");
}

/// Step times that write down the tokens of every step.
#[derive(Default)]
struct Witness(std::sync::Mutex<Vec<(f64, f64)>>);

impl StepTimes for Witness {
    fn step_s(&self, prefill: Option<&Work>, decode: Option<&Work>) -> f64 {
        let tokens = |work: Option<&Work>| work.map_or(0.0, |work| work.new_tokens);
        self.0.lock().unwrap().push((tokens(prefill), tokens(decode)));
        0.01
    }
}

fn chunked(max_batched_tokens: u64, max_num_seqs: usize) -> EngineConfig {
    EngineConfig {
        max_batched_tokens: Some(max_batched_tokens),
        chunked_prefill: true,
        ..EngineConfig::unlimited(max_num_seqs)
    }
}

#[test]
fn chunks_bound_a_step_and_no_token_is_lost() {
    let witness = Arc::new(Witness::default());
    let requests: Vec<Request> = (0..40).map(|i| ask(1 + 37 * i, 1 + i % 7)).collect();
    let times: Vec<i64> = (0..40).map(|i| i * 7 * MS).collect();
    let engine = Engine::new(chunked(64, 8), witness.clone()).unwrap();
    let done = open(engine, &requests, &times);
    assert_eq!(all(&done).len(), 40);
    let steps = witness.0.lock().unwrap();
    assert!(steps.iter().all(|(prefill, decode)| prefill + decode <= 64.0));
    assert!(steps.iter().any(|(prefill, decode)| *prefill > 0.0 && *decode > 0.0));
    let (prefill, decode) = steps.iter().fold((0.0, 0.0), |sum, s| (sum.0 + s.0, sum.1 + s.1));
    let prompts: u64 = requests.iter().map(|r| r.prompt_tokens).sum();
    let later: u64 = requests.iter().map(|r| r.output_tokens - 1).sum();
    assert!(close(prefill, prompts as f64) && close(decode, later as f64), "{prefill} {decode}");
}

#[test]
fn slots_run_a_long_step_as_several_passes() {
    let mixing = Mixing::Slots { ubatch_tokens: 512 };
    let slots = EngineConfig { mixing, ..chunked(2048, 4) };
    let plain = chunked(2048, 4);
    let prompt = [ask(1100, 1)];
    let passes = all(&open(engine(slots), &prompt, &[0]))[0].ttft_s();
    let one = all(&open(engine(plain), &prompt, &[0]))[0].ttft_s();
    assert!(close(passes, one + 0.020), "three passes have three overheads: {passes} {one}");
    let short = [ask(100, 30), ask(200, 30)];
    let same = |config| all(&open(engine(config), &short, &[0, MS]));
    assert_eq!(same(slots), same(plain), "what fits into one pass is one pass");
}

#[test]
fn the_budget_caps_what_is_read_and_what_is_stored() {
    let config = EngineConfig {
        kv_budget: Some(64),
        kv_blocks: Some(4),
        block_tokens: 16,
        ..EngineConfig::unlimited(4)
    };
    assert!(engine(config).accepts(&ask(1000, 100)).is_ok());
    let done = all(&open(engine(config), &[ask(1000, 2)], &[0]));
    let step = linear().step_s(None, Some(&Work::decode([64.0], None)));
    assert!(close(done[0].tpot_s().unwrap(), step));
}

/// The same prompt beside sequences that decode: in tiles it pays for what they have in the cache.
#[test]
fn a_prompt_in_tiles_costs_more_beside_others() {
    let slots = |tiles: Option<Tiles>| {
        let mixing = Mixing::Slots { ubatch_tokens: 512 };
        let config = EngineConfig { mixing, tiles, ..chunked(2048, 4) };
        let step = |others: usize| {
            let requests = [vec![ask(100, 50); others], vec![ask(80, 1)]].concat();
            let times: Vec<i64> =
                requests.iter().map(|r| if r.output_tokens > 1 { 0 } else { 300 * MS }).collect();
            let done = all(&open(engine(config), &requests, &times));
            done[others].finished_ns - done[others].admitted_ns
        };
        crate::units::ns_to_s(step(3) - step(0))
    };
    let (flat, tiled) = (slots(None), slots(Some(Tiles::GGML_CPU)));
    // Three sequences of some 110 cells touch 8 tiles of 4096 pairs, and make the rows of the prompt one tile more.
    assert!(tiled - flat > 7.0 * 4096.0 * linear().per_pair_s, "{flat} {tiled}");
}

/// A prompt of 100 tokens lies in the cache whole until its last pass; then the 64 that are kept do.
#[test]
fn what_is_evicted_after_a_prompt_fills_blocks_until_then() {
    let config = EngineConfig {
        kv_budget: Some(64),
        kv_blocks: Some(7),
        block_tokens: 16,
        evicts_after_prefill: true,
        ..chunked(60, 4)
    };
    let rejected = Rejected::NeverFits { needs: 8, has: 7 };
    assert_eq!(engine(config).accepts(&ask(100, 20)), Err(rejected));
    assert!(
        engine(EngineConfig { evicts_after_prefill: false, ..config })
            .accepts(&ask(100, 20))
            .is_ok()
    );
    let mut one = engine(config);
    one.push(0, Request { id: 1, ..ask(100, 9) }).unwrap();
    one.push(0, Request { id: 2, ..ask(40, 9) }).unwrap();
    let (mut events, mut used) = (Vec::new(), Vec::new());
    while one.next_event_ns().is_some() {
        one.advance(&mut events).unwrap();
        let state = one.state();
        used.push((state.kv_blocks_used, state.kv_tokens));
    }
    // Planned and ended: two passes of the first prompt, then the second beside its answer.
    let expected = [(7, 0), (7, 60), (7, 60), (4, 64), (7, 64), (7, 64 + 40)];
    assert_eq!(used[..6], expected, "{used:?}");
    assert_eq!(one.kv_tokens_most(), 64 + 47);
}

#[test]
fn an_answer_ends_with_its_context() {
    let config = EngineConfig { context_tokens: Some(64), ..EngineConfig::unlimited(4) };
    let refused = Rejected::LongerThanItsContext { prompt_tokens: 64, has: 64 };
    let done = open(engine(config), &[ask(64, 1), ask(60, 30), ask(60, 2)], &[0, 0, 0]);
    assert_eq!(done.rejected, [(0, refused)]);
    let lengths: Vec<u64> = done.outcomes.iter().flatten().map(|o| o.output_tokens).collect();
    assert_eq!(lengths, [4, 2]);
    let long = EngineConfig::unlimited(4);
    let same = all(&open(engine(long), &[ask(60, 4), ask(60, 2)], &[0, 0]));
    assert_eq!(done.outcomes[1..].iter().flatten().copied().collect::<Vec<_>>(), same);
}

#[test]
fn what_can_never_fit_is_refused_with_the_reason() {
    let small = EngineConfig { kv_blocks: Some(4), ..EngineConfig::unlimited(4) };
    let whole = EngineConfig { max_batched_tokens: Some(100), ..EngineConfig::unlimited(4) };
    let cases = [
        (small, ask(60, 6), Err(Rejected::NeverFits { needs: 5, has: 4 })),
        (small, ask(60, 5), Ok(())),
        (whole, ask(101, 1), Err(Rejected::LongerThanAStep { needs: 101, has: 100 })),
        (whole, Request { cached_tokens: 1, ..ask(101, 1) }, Ok(())),
        (small, ask(0, 1), Err(Rejected::Empty)),
        (small, ask(1, 0), Err(Rejected::Empty)),
    ];
    for (config, request, expected) in cases {
        assert_eq!(engine(config).accepts(&request), expected, "{request:?}");
    }
    let done = open(engine(small), &[ask(600, 6), ask(6, 6)], &[0, 0]);
    assert_eq!(done.rejected, [(0, Rejected::NeverFits { needs: 38, has: 4 })]);
    assert!(done.outcomes[0].is_none() && done.outcomes[1].is_some());
    let load = Load::Closed { concurrency: 1, start_ns: 0 };
    let requests = [ask(600, 6), ask(6, 6)];
    let done = replay(engine(small), &requests, &load, Client::default()).unwrap();
    assert!(done.outcomes[1].is_some(), "one that was refused keeps no place of a closed loop");
    let mut late = engine(small);
    late.push(5, ask(6, 6)).unwrap();
    assert_eq!(late.push(4, ask(6, 6)), Err(Rejected::OutOfOrder));
}

#[test]
fn rules_and_times_that_are_none_are_refused() {
    let none = EngineConfig { block_tokens: 0, ..EngineConfig::unlimited(1) };
    assert_eq!(none.check(), Err(ConfigError::Zero("block_tokens")));
    let tight = EngineConfig { max_batched_tokens: Some(3), ..EngineConfig::unlimited(4) };
    assert_eq!(tight.check(), Err(ConfigError::StepTooSmall { tokens: 3, max_num_seqs: 4 }));
    let mixing = Mixing::Slots { ubatch_tokens: 512 };
    let slots = EngineConfig { mixing, ..EngineConfig::unlimited(4) };
    assert_eq!(slots.check(), Err(ConfigError::SlotsAreChunked));
    let nothing = LinearTimes { step_s: f64::NAN, ..linear() };
    let engine = Engine::new(EngineConfig::unlimited(1), Arc::new(nothing)).unwrap();
    let load = Load::Open(vec![0]);
    let error = replay(engine, &[ask(1, 1)], &load, Client::default()).unwrap_err();
    assert!(error.to_string().contains("step times are at fault"), "{error}");
}

#[test]
fn the_youngest_makes_room_and_is_computed_anew() {
    // Two blocks each at first; the older one needs a fifth block.
    let config =
        EngineConfig { kv_blocks: Some(4), block_tokens: 16, ..EngineConfig::unlimited(4) };
    let mut engine = engine(config);
    for id in [7, 8] {
        engine.push(0, Request { id, ..ask(32, 20) }).unwrap();
    }
    let mut events = Vec::new();
    while engine.next_event_ns().is_some() {
        engine.advance(&mut events).unwrap();
    }
    let order: Vec<(u64, Happening)> = events.iter().map(|event| (event.id, event.what)).collect();
    use Happening::{Admitted, Finished, FirstToken, Preempted};
    let expected = [
        (7, Admitted),
        (8, Admitted),
        (7, FirstToken),
        (8, FirstToken),
        (8, Preempted),
        (7, Finished),
        (8, Admitted),
        (8, Finished),
    ];
    assert_eq!(order, expected);
    assert_eq!((engine.state().n_preempted, engine.state().kv_blocks_used), (1, 0));
    // The prompt and the one token so far are computed again, which yields the next token.
    let again = linear().step_s(Some(&Work::prefill([(33.0, 0.0)])), None);
    let rest: f64 = (2..20)
        .map(|k| linear().step_s(None, Some(&Work::decode([f64::from(32 + k)], None))))
        .sum();
    let took = crate::units::ns_to_s(events[7].at_ns - events[6].at_ns);
    assert!(close(took, again + rest), "{took} {}", again + rest);
}

#[test]
fn a_router_sees_what_is_there() {
    let mut engine = engine(EngineConfig { kv_blocks: Some(9), ..EngineConfig::unlimited(1) });
    engine.push(0, Request { id: 1, ..ask(20, 9) }).unwrap();
    engine.push(0, Request { id: 2, ..ask(30, 9) }).unwrap();
    let mut events = Vec::new();
    (0..4).for_each(|_| engine.advance(&mut events).unwrap());
    let expected = EngineState {
        running: 1,
        waiting: 1,
        prompt_tokens_left: 30,
        kv_tokens: 21,
        kv_blocks_used: 2,
        n_steps: 2,
        n_preempted: 0,
    };
    assert_eq!(engine.state(), expected);
    let seen: Vec<(u64, bool, u64)> =
        engine.requests().map(|r| (r.id, r.is_running, r.generated_tokens)).collect();
    assert_eq!(seen, [(1, true, 2), (2, false, 0)]);
    assert_eq!(engine.kv_tokens_most(), 21);
    while engine.next_event_ns().is_some() {
        engine.advance(&mut events).unwrap();
    }
    let most = engine.kv_tokens_most();
    assert_eq!((most, engine.state().kv_tokens), (38, 0), "an answer's last token enters no cache");
}

#[test]
fn first_come_is_first_served_and_times_repeat() {
    let mut rng = stats::seeded(3);
    let mut at = 0;
    let (mut requests, mut times) = (Vec::new(), Vec::new());
    for _ in 0..300 {
        at += rng.random_range(0..20) * MS;
        requests.push(ask(rng.random_range(1..200), rng.random_range(1..40)));
        times.push(at);
    }
    let config = EngineConfig { kv_blocks: Some(60), ..chunked(128, 6) };
    let first = all(&open(engine(config), &requests, &times));
    assert!(first.iter().any(|o| o.n_preempted > 0), "the pool was meant to be short");
    assert!(first.windows(2).all(|pair| pair[0].admitted_ns <= pair[1].admitted_ns));
    assert_eq!(first, all(&open(engine(config), &requests, &times)));
}

#[test]
fn a_closed_loop_keeps_as_many_in_flight() {
    let requests = vec![ask(10, 10); 30];
    let load = Load::Closed { concurrency: 3, start_ns: 0 };
    let client = Client { request_ns: MS, turnaround_ns: 2 * MS };
    let done = replay(engine(EngineConfig::unlimited(8)), &requests, &load, client).unwrap();
    let done = all(&done);
    for outcome in &done {
        let inside = done.iter().filter(|o| {
            o.sent_ns <= outcome.sent_ns && outcome.sent_ns < o.finished_ns + client.turnaround_ns
        });
        assert!(inside.count() <= 3);
    }
    let spans: i64 = done.iter().map(|o| o.finished_ns - o.sent_ns + client.turnaround_ns).sum();
    let end = done.iter().map(|o| o.finished_ns).max().unwrap() + client.turnaround_ns;
    assert!(
        (spans as f64 / (3 * end) as f64 - 1.0).abs() < 0.02,
        "all three are busy: {spans} {end}"
    );
    let wrong = replay(
        engine(EngineConfig::unlimited(8)),
        &requests,
        &Load::Open(vec![0]),
        Client::default(),
    );
    assert_eq!(wrong.unwrap_err(), ReplayError::Times { requests: 30, times: 1 });
}

/// Mean wait of an M/G/1 queue: `rho * s * (1 + cv^2) / (2 * (1 - rho))` (Pollaczek and Khinchine). One sequence at a time makes
/// the engine one; a constant service (M/D/1) has cv = 0.
#[test]
fn one_sequence_at_a_time_waits_as_pollaczek_and_khinchine_say() {
    let n = 40_000;
    for (outputs, rho) in [(vec![5_u64], 0.5), (vec![5], 0.8), (vec![2, 20], 0.7)] {
        let mut rng = stats::seeded(11);
        let requests: Vec<Request> =
            (0..n).map(|_| ask(50, outputs[rng.random_range(0..outputs.len())])).collect();
        let alone: Vec<f64> = outputs
            .iter()
            .map(|o| {
                all(&open(engine(EngineConfig::unlimited(1)), &[ask(50, *o)], &[0]))[0].e2e_s()
            })
            .collect();
        let s = stats::mean(&alone).unwrap();
        let square = alone.iter().map(|x| x * x).sum::<f64>() / alone.len() as f64;
        let mut at_s = 0.0;
        let times: Vec<i64> = (0..n)
            .map(|_| {
                at_s -= (1.0 - rng.random::<f64>()).ln() * s / rho;
                s_to_ns(at_s)
            })
            .collect();
        let done = all(&open(engine(EngineConfig::unlimited(1)), &requests, &times));
        let waits: Vec<f64> =
            done.iter().map(|o| crate::units::ns_to_s(o.admitted_ns - o.sent_ns)).collect();
        let theory = rho * square / s / (2.0 * (1.0 - rho));
        let found = stats::mean(&waits).unwrap();
        assert!((found / theory - 1.0).abs() < 0.06, "rho {rho}: {found} against {theory}");
    }
}

fn mixing() -> impl Strategy<Value = (Mixing, bool)> {
    prop_oneof![
        Just((Mixing::DecodeFirst, true)),
        Just((Mixing::DecodeFirst, false)),
        Just((Mixing::PrefillFirst, true)),
        Just((Mixing::PrefillFirst, false)),
        Just((Mixing::Slots { ubatch_tokens: 16 }, true)),
    ]
}

proptest! {
    #[test]
    fn blocks_stay_within_the_pool_and_everything_ends(
        (mixing, chunked_prefill) in mixing(),
        blocks in 3_u64..30,
        seqs in 1_usize..6,
        budget in proptest::option::of(8_u64..60),
        (whole, tiled) in any::<(bool, bool)>(),
        context in proptest::option::of(20_u64..100),
        tokens in proptest::option::of(20_u64..120),
        asked in vec((1_u64..80, 1_u64..30, 0_i64..40), 1..40),
    ) {
        let step = if chunked_prefill { Some(tokens.unwrap_or(64)) } else { tokens };
        let config = EngineConfig {
            max_num_seqs: seqs,
            max_batched_tokens: step,
            chunked_prefill,
            mixing,
            kv_blocks: Some(blocks),
            block_tokens: 8,
            kv_budget: budget,
            evicts_after_prefill: whole,
            context_tokens: context,
            tiles: tiled.then_some(Tiles::GGML_CPU),
        };
        let mut engine = engine(config);
        let (mut at, mut taken) = (0, 0);
        for (id, (prompt, output, gap)) in asked.iter().enumerate() {
            at += gap * MS;
            let request = Request { id: id as u64, ..ask(*prompt, *output) };
            taken += usize::from(engine.push(at, request).is_ok());
        }
        let (mut events, mut n) = (Vec::new(), 0);
        while engine.next_event_ns().is_some() {
            engine.advance(&mut events).unwrap();
            let state = engine.state();
            prop_assert!(state.kv_blocks_used <= blocks && state.running <= seqs);
            prop_assert!(state.kv_tokens <= engine.kv_tokens_most());
            prop_assert!(engine.kv_tokens_most() <= blocks * 8);
            n += 1;
            prop_assert!(n < 200_000, "it does not end");
        }
        let count = |what| events.iter().filter(|event| event.what == what).count();
        prop_assert_eq!(count(Happening::Finished), taken);
        prop_assert_eq!(count(Happening::FirstToken), taken);
        prop_assert_eq!(count(Happening::Admitted), taken + count(Happening::Preempted));
        prop_assert_eq!(engine.state().kv_blocks_used, 0);
        prop_assert!(events.windows(2).all(|pair| pair[0].at_ns <= pair[1].at_ns));
    }
}

#[test]
fn whoever_leaves_frees_its_place_and_its_blocks() {
    let config = EngineConfig { kv_blocks: Some(20), ..EngineConfig::unlimited(1) };
    let mut engine = engine(config);
    let mut events = Vec::new();
    for id in 1..=3 {
        engine.push(0, Request { id, ..ask(100, 5) }).unwrap();
    }
    // A step ends, and the next one is under way.
    (0..3).for_each(|_| engine.advance(&mut events).unwrap());
    assert_eq!((engine.state().running, engine.state().waiting), (1, 2));
    assert!(engine.leave(2) && engine.leave(1) && !engine.leave(1) && !engine.leave(9));
    let state = engine.state();
    assert_eq!((state.running, state.waiting, state.kv_blocks_used), (0, 1, 0));
    while engine.next_event_ns().is_some() {
        engine.advance(&mut events).unwrap();
    }
    let done: Vec<u64> =
        events.iter().filter(|e| e.what == Happening::Finished).map(|e| e.id).collect();
    assert_eq!(done, [3]);
}
