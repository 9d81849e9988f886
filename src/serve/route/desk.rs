//! Where it is decided which engine a request goes to, and known what each engine has to do.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::watch;

use super::{
    breaker::{Breaker, BreakerRules, BreakerState, Verdict},
    gauges::Gauges,
    knowledge::Knowledge,
    stretch::Stretch,
};
use crate::{
    predict::simulate::EngineConfig,
    route::{Ask, Decision, EngineState, PolicySpec, router::Router},
    scenario::proxy::Proxy,
};

/// A request that an engine has been sent.
#[derive(Debug)]
pub(super) struct Flight {
    prompt_tokens: u64,
    expected: f64,
    n_out: AtomicU64,
}

impl Flight {
    /// Chunks of the answer have come.
    pub(super) fn came(&self, n: u64) {
        self.n_out.fetch_add(n, Ordering::Relaxed);
    }
}

/// Where a request was sent.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// The engine.
    pub(super) engine: usize,
    /// Number of the request.
    id: u64,
    /// How often the engine's breaker had opened when the request was sent: what comes of it later says nothing of an engine that was
    /// given up meanwhile.
    n_opened: u64,
    /// What is known of it there.
    pub(super) flight: Arc<Flight>,
}

struct EngineDesk {
    breaker: Breaker,
    flights: HashMap<u64, Arc<Flight>>,
    /// What it says that others have it do, beside what was sent from here.
    foreign_running: usize,
    foreign_waiting: usize,
    kv_usage: Option<f64>,
    stretch: Stretch,
}

struct Inner {
    router: Router,
    knowledge: Arc<Knowledge>,
    engines: Vec<EngineDesk>,
    states: Vec<EngineState>,
}

/// The desk. Whatever is done at it is done in microseconds, under one lock.
pub(super) struct Desk {
    spec: PolicySpec,
    seed: u64,
    inner: Mutex<Inner>,
    /// Changes whenever it changes which engines may be asked.
    changes: watch::Sender<()>,
}

/// What an engine's line in `/metrics` is made of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Shown {
    /// Requests that were sent to it from here and are not answered yet.
    pub(super) in_flight: usize,
    /// Where its breaker stands.
    pub(super) breaker: BreakerState,
    /// How often that has opened and closed.
    pub(super) turns: (u64, u64),
    /// Tokens that it is expected to yield yet.
    pub(super) tokens_expected: f64,
}

impl Desk {
    /// A desk in front of idle engines.
    ///
    /// # Errors
    /// A policy that does not fit the pool.
    pub(super) fn new(proxy: &Proxy, knowledge: Knowledge) -> anyhow::Result<Self> {
        let open_ns = i64::try_from(proxy.breaker_open.as_nanos()).unwrap_or(i64::MAX);
        let rules = BreakerRules { failures: proxy.breaker_failures, open_ns };
        let engine = || EngineDesk {
            breaker: Breaker::new(rules),
            flights: HashMap::new(),
            foreign_running: 0,
            foreign_waiting: 0,
            kv_usage: None,
            stretch: Stretch::default(),
        };
        let router =
            Router::new(&proxy.policy, &knowledge.pool, knowledge.risks.clone(), proxy.seed)?;
        let engines = proxy.engines.iter().map(|_| engine()).collect();
        let (knowledge, states) = (Arc::new(knowledge), Vec::new());
        Ok(Self {
            spec: proxy.policy.clone(),
            seed: proxy.seed,
            inner: Mutex::new(Inner { router, knowledge, engines, states }),
            changes: watch::Sender::new(()),
        })
    }

    /// What a thread that panicked left behind is whole: no change spans two calls.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known at this moment.
    pub(super) fn knowledge(&self) -> Arc<Knowledge> {
        self.lock().knowledge.clone()
    }

    /// Puts other knowledge in the place of the present one. Requests that are being answered stay where they are.
    ///
    /// # Errors
    /// The policy does not fit it; then the present one stays.
    pub(super) fn learn(&self, knowledge: Knowledge) -> anyhow::Result<()> {
        let router = Router::new(&self.spec, &knowledge.pool, knowledge.risks.clone(), self.seed)?;
        let mut inner = self.lock();
        inner.router = router;
        inner.knowledge = Arc::new(knowledge);
        Ok(())
    }

    /// Decides, and writes the request down at the engine that it goes to. Engines in `tried` are not asked again.
    pub(super) fn place(&self, ask: &Ask<'_>, tried: &[usize]) -> (Decision, Option<Place>) {
        self.lock().place(ask, tried)
    }

    /// Sends a request that waits elsewhere, where its engine was given up since it was sent and another may be asked. To decide and to
    /// write it down is one step: of many that wait, as many go as the other engine takes, and the rest stays where it is.
    pub(super) fn move_on(
        &self,
        ask: &Ask<'_>,
        from: &Place,
        tried: &[usize],
    ) -> Option<(Decision, Place)> {
        let mut inner = self.lock();
        if inner.engines[from.engine].breaker.turns().0 == from.n_opened {
            return None;
        }
        let (decision, place) = inner.place(ask, &[tried, &[from.engine]].concat());
        place.map(|place| (decision, place))
    }

    /// Tells of every moment at which other engines may be asked than before.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Changes what is known of an engine, and tells those who wait when that changed whether it may be asked.
    fn change(&self, engine: usize, change: impl FnOnce(&mut EngineDesk)) {
        let mut inner = self.lock();
        let engine = &mut inner.engines[engine];
        let standing = |breaker: &Breaker| (breaker.lets_through(), breaker.turns());
        let before = standing(&engine.breaker);
        change(engine);
        let is_changed = before != standing(&engine.breaker);
        drop(inner);
        if is_changed {
            self.changes.send_replace(());
        }
    }

    /// An engine has begun to answer: whether that is a sign of health, as an answer with an error is not.
    pub(super) fn answered(&self, place: &Place, is_good: bool, now_ns: i64) {
        self.change(place.engine, |engine| {
            engine.stretch.n_requests += 1;
            if is_good {
                engine.judge(place, Verdict::Good, now_ns);
            }
        });
    }

    /// A request is no longer at its engine.
    pub(super) fn leave(&self, place: &Place, verdict: Verdict, now_ns: i64) {
        self.change(place.engine, |engine| {
            engine.flights.remove(&place.id);
            engine.judge(place, verdict, now_ns);
        });
    }

    /// What a health check found.
    pub(super) fn probed(&self, engine: usize, is_good: bool, now_ns: i64) {
        self.change(engine, |engine| engine.breaker.probed(is_good, now_ns));
    }

    /// What an engine says of itself. It counts requests that were sent from here too.
    pub(super) fn told(&self, engine: usize, gauges: Gauges) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let Some(config) = inner.knowledge.pool.engines.get(engine).map(|own| &own.config) else {
            return;
        };
        let (most, room) = (config.max_num_seqs, room(config));
        let engine = &mut inner.engines[engine];
        let own = engine.flights.len();
        let (own_running, own_waiting) = (own.min(most), own.saturating_sub(most));
        let beyond = |told: Option<f64>, own: usize| {
            told.map_or(0, |told| (told as usize).saturating_sub(own))
        };
        engine.foreign_running = beyond(gauges.running, own_running);
        engine.foreign_waiting = beyond(gauges.waiting, own_waiting);
        engine.kv_usage = gauges.kv_usage;
        engine.stretch.told(&gauges, room);
    }

    /// What each engine did since this was asked last.
    pub(super) fn stretches(&self) -> Vec<Stretch> {
        self.lock().engines.iter_mut().map(|engine| engine.stretch.end()).collect()
    }

    /// Whether each engine may be asked.
    pub(super) fn up(&self) -> Vec<bool> {
        self.lock().engines.iter().map(|engine| engine.breaker.lets_through()).collect()
    }

    /// Each engine, for `/metrics`.
    pub(super) fn shown(&self) -> Vec<Shown> {
        let shown = |engine: &EngineDesk| Shown {
            in_flight: engine.flights.len(),
            breaker: engine.breaker.state(),
            turns: engine.breaker.turns(),
            tokens_expected: engine.state(usize::MAX, None).output_tokens_left,
        };
        self.lock().engines.iter().map(shown).collect()
    }
}

/// Tokens that the cache of an engine holds, where that was said.
fn room(config: &EngineConfig) -> Option<u64> {
    config.kv_blocks.map(|blocks| blocks * config.block_tokens)
}

impl Inner {
    fn place(&mut self, ask: &Ask<'_>, tried: &[usize]) -> (Decision, Option<Place>) {
        let pool = &self.knowledge.pool;
        self.states.clear();
        for (at, (engine, member)) in self.engines.iter().zip(&pool.engines).enumerate() {
            let mut state = engine.state(member.config.max_num_seqs, member.config.kv_budget);
            if let (Some(usage), Some(most)) = (engine.kv_usage, room(&member.config)) {
                state.kv_tokens = state.kv_tokens.max((usage * most as f64) as u64);
            }
            state.is_up &= !tried.contains(&at);
            self.states.push(state);
        }
        let decision = self.router.decide(ask, pool, &self.states);
        let place = decision.engine.map(|at| {
            let method = pool.engines[at].method;
            let flight = Arc::new(Flight {
                prompt_tokens: ask.prompt_tokens,
                expected: ask.output_tokens.get(method).copied().unwrap_or(1.0),
                n_out: AtomicU64::new(0),
            });
            let engine = &mut self.engines[at];
            engine.breaker.sent();
            engine.flights.insert(ask.id, flight.clone());
            let (n_opened, _) = engine.breaker.turns();
            Place { engine: at, id: ask.id, n_opened, flight }
        });
        (decision, place)
    }
}

impl EngineDesk {
    /// What came of a request, unless the engine was given up since it was sent: then it tells of the engine that was.
    fn judge(&mut self, place: &Place, verdict: Verdict, now_ns: i64) {
        if place.n_opened == self.breaker.turns().0 {
            self.breaker.ended(verdict, now_ns);
        }
    }

    fn state(&self, max_num_seqs: usize, kv_budget: Option<u64>) -> EngineState {
        let mut state =
            EngineState { is_up: self.breaker.lets_through(), ..EngineState::default() };
        for flight in self.flights.values() {
            let n_out = flight.n_out.load(Ordering::Relaxed);
            if n_out == 0 {
                state.prompt_tokens_left += flight.prompt_tokens;
            } else {
                let held = flight.prompt_tokens + n_out;
                state.kv_tokens += kv_budget.map_or(held, |most| held.min(most));
            }
            state.output_tokens_left += (flight.expected - n_out as f64).max(1.0);
        }
        let own = self.flights.len();
        state.running = own.min(max_num_seqs) + self.foreign_running;
        state.waiting = own.saturating_sub(max_num_seqs) + self.foreign_waiting;
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
name = "desk"
baseline = "f16"
[engine.a]
url = "http://127.0.0.1:1"
method = "f16"
max_num_seqs = 4
[engine.b]
url = "http://127.0.0.1:2"
method = "q4"
max_num_seqs = 4
[policy]
rule = "join_shortest_queue"
length.constant = 16
[breaker]
failures = 2
"#;

    fn desk() -> Desk {
        let proxy = Proxy::parse(TEXT, "t").unwrap();
        Desk::new(&proxy, Knowledge::read(&proxy).unwrap()).unwrap()
    }

    fn ask(id: u64) -> Ask<'static> {
        let output_tokens = &[16.0, 16.0];
        Ask { id, now_ns: 0, prompt_tokens: 10, output_tokens, task: None, breaks: None }
    }

    fn place(desk: &Desk, id: u64, tried: &[usize]) -> Option<Place> {
        desk.place(&ask(id), tried).1
    }

    #[test]
    fn requests_that_were_sent_count_until_they_leave() {
        let desk = desk();
        let first = place(&desk, 0, &[]).unwrap();
        let second = place(&desk, 1, &[]).unwrap();
        assert_eq!((first.engine, second.engine), (0, 1));
        first.flight.came(6);
        let shown = desk.shown();
        assert_eq!((shown[0].in_flight, shown[1].in_flight), (1, 1));
        assert!((shown[0].tokens_expected - 10.0).abs() < 1e-9, "{shown:?}");
        first.flight.came(60);
        assert!(
            (desk.shown()[0].tokens_expected - 1.0).abs() < 1e-9,
            "what was exceeded counts as 1"
        );
        desk.leave(&first, Verdict::Good, 0);
        assert_eq!(desk.shown()[0].in_flight, 0);
        assert_eq!(place(&desk, 2, &[]).unwrap().engine, 0);
    }

    #[test]
    fn what_others_sent_counts_too_and_nothing_twice() {
        let desk = desk();
        let told = |running| Gauges { running: Some(running), ..Gauges::default() };
        desk.told(0, told(3.0));
        assert_eq!(place(&desk, 0, &[]).unwrap().engine, 1);
        desk.told(0, told(0.0));
        desk.told(1, told(1.0));
        assert_eq!(place(&desk, 1, &[]).unwrap().engine, 0, "the one of engine b is its own");
    }

    #[test]
    fn engines_that_were_tried_or_are_down_are_not_asked() {
        let desk = desk();
        assert_eq!(place(&desk, 0, &[0]).unwrap().engine, 1);
        assert!(place(&desk, 1, &[0, 1]).is_none());
        desk.probed(0, false, 0);
        desk.probed(0, false, 0);
        assert_eq!(desk.up(), [false, true]);
        assert!(place(&desk, 2, &[1]).is_none());
    }

    /// Opens the breaker of an engine.
    fn fell(desk: &Desk, engine: usize) {
        desk.probed(engine, false, 0);
        desk.probed(engine, false, 0);
    }

    /// A time at which a breaker that opened at 0 may close.
    const LATER_NS: i64 = 3600 * 1_000_000_000;

    #[test]
    fn a_request_moves_once_its_engine_was_given_up_and_another_may_be_asked() {
        let desk = desk();
        let first = place(&desk, 0, &[1]).unwrap();
        let moves = || desk.move_on(&ask(0), &first, &[]).map(|(_, place)| place);
        assert!(moves().is_none(), "its engine is up");
        fell(&desk, 1);
        fell(&desk, 0);
        assert!(moves().is_none(), "nobody else is up");
        let changes = desk.changes();
        desk.probed(1, true, LATER_NS);
        assert!(changes.has_changed().unwrap(), "who waits is told");
        let second = moves().expect("the other engine is up again");
        assert_eq!((first.engine, second.engine), (0, 1));
        assert!(desk.move_on(&ask(1), &first, &[]).is_none(), "half open, it takes one request");
        assert!(desk.move_on(&ask(0), &first, &[1]).is_none(), "what was tried is not asked again");
    }

    #[test]
    fn an_engine_that_fell_before_anybody_waited_for_that_is_left_all_the_same() {
        let desk = desk();
        let first = place(&desk, 0, &[1]).unwrap();
        fell(&desk, 0);
        desk.probed(0, true, LATER_NS);
        assert_eq!(desk.up(), [true, true], "the engine is back, the request was sent before");
        assert_eq!(desk.move_on(&ask(0), &first, &[]).unwrap().1.engine, 1);
    }

    #[test]
    fn what_was_sent_before_an_engine_fell_says_nothing_of_it_after() {
        let desk = desk();
        let (late, later) = (place(&desk, 0, &[1]).unwrap(), place(&desk, 1, &[1]).unwrap());
        fell(&desk, 0);
        desk.probed(0, true, LATER_NS);
        let trial = place(&desk, 2, &[1]).unwrap();
        desk.leave(&late, Verdict::Unknown, LATER_NS);
        assert!(place(&desk, 3, &[1]).is_none(), "the trial still goes on");
        desk.leave(&later, Verdict::Bad, LATER_NS);
        desk.answered(&trial, true, LATER_NS);
        let shown = desk.shown()[0];
        assert_eq!((shown.breaker, shown.turns), (BreakerState::Closed, (1, 1)));
    }
}
