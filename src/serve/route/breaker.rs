//! When an engine is left alone: a circuit breaker (Nygard, "Release It!", 2007), without a clock of its own.
//!
//! Closed, it counts failures in a row; so many open it. Open, nothing is sent until some time has passed and a health check has
//! succeeded; then it is half open and lets one request through at a time, and what becomes of that request closes it or opens it
//! again. A request that its client gave up says nothing of the engine.

/// Where a breaker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// The engine is asked.
    Closed,
    /// One request at a time tries it.
    HalfOpen,
    /// The engine is left alone.
    Open,
}

/// When a breaker opens and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerRules {
    /// Failures in a row that open it, at least 1.
    pub failures: u32,
    /// How long it stays open at least, nanoseconds.
    pub open_ns: i64,
}

/// What came of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The engine answered.
    Good,
    /// It could not be reached, broke off, took too long, or said 5xx.
    Bad,
    /// Nothing is known: the client went away first.
    Unknown,
}

/// The breaker of one engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breaker {
    rules: BreakerRules,
    state: BreakerState,
    failures: u32,
    opened_ns: i64,
    trying: bool,
    n_opened: u64,
    n_closed: u64,
}

impl Breaker {
    /// A closed one.
    pub fn new(rules: BreakerRules) -> Self {
        let state = BreakerState::Closed;
        Self { rules, state, failures: 0, opened_ns: 0, trying: false, n_opened: 0, n_closed: 0 }
    }

    /// Where it stands.
    pub fn state(&self) -> BreakerState {
        self.state
    }

    /// How often it has opened, and how often it has closed again.
    pub fn turns(&self) -> (u64, u64) {
        (self.n_opened, self.n_closed)
    }

    /// Whether a request may be sent.
    pub fn lets_through(&self) -> bool {
        match self.state {
            BreakerState::Closed => true,
            BreakerState::HalfOpen => !self.trying,
            BreakerState::Open => false,
        }
    }

    /// A request is sent.
    pub fn sent(&mut self) {
        self.trying |= self.state == BreakerState::HalfOpen;
    }

    /// What came of a request. Those that were sent before it opened say nothing while it is open.
    pub fn ended(&mut self, verdict: Verdict, now_ns: i64) {
        match (self.state, verdict) {
            (BreakerState::HalfOpen, Verdict::Unknown) => self.trying = false,
            (BreakerState::HalfOpen, Verdict::Good) => self.close(),
            (BreakerState::HalfOpen, Verdict::Bad) => self.open(now_ns),
            (BreakerState::Closed, Verdict::Good) => self.failures = 0,
            (BreakerState::Closed, Verdict::Bad) => self.failed(now_ns),
            _ => {}
        }
    }

    /// What a health check found.
    pub fn probed(&mut self, is_good: bool, now_ns: i64) {
        let waited = now_ns.saturating_sub(self.opened_ns) >= self.rules.open_ns;
        match (self.state, is_good) {
            (BreakerState::Open, true) if waited => {
                self.state = BreakerState::HalfOpen;
                self.trying = false;
            }
            (BreakerState::HalfOpen, false) => self.open(now_ns),
            (BreakerState::Closed, false) => self.failed(now_ns),
            _ => {}
        }
    }

    fn failed(&mut self, now_ns: i64) {
        self.failures += 1;
        if self.failures >= self.rules.failures {
            self.open(now_ns);
        }
    }

    fn open(&mut self, now_ns: i64) {
        self.state = BreakerState::Open;
        self.opened_ns = now_ns;
        self.trying = false;
        self.n_opened += 1;
    }

    fn close(&mut self) {
        self.state = BreakerState::Closed;
        self.failures = 0;
        self.trying = false;
        self.n_closed += 1;
    }
}

impl BreakerState {
    /// As it stands in `/metrics`.
    pub fn name(self) -> &'static str {
        match self {
            BreakerState::Closed => "closed",
            BreakerState::HalfOpen => "half_open",
            BreakerState::Open => "open",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker() -> Breaker {
        Breaker::new(BreakerRules { failures: 2, open_ns: 100 })
    }

    fn opened() -> Breaker {
        let mut breaker = breaker();
        breaker.ended(Verdict::Bad, 1);
        breaker.ended(Verdict::Bad, 2);
        breaker
    }

    #[test]
    fn failures_in_a_row_open_it_and_others_do_not() {
        let mut breaker = breaker();
        for verdict in [Verdict::Bad, Verdict::Good, Verdict::Bad, Verdict::Unknown] {
            breaker.ended(verdict, 0);
            assert!(breaker.lets_through());
        }
        breaker.probed(false, 5);
        assert_eq!((breaker.state(), breaker.lets_through()), (BreakerState::Open, false));
        assert_eq!(breaker.turns(), (1, 0));
    }

    #[test]
    fn it_half_opens_after_its_time_by_a_good_probe_alone() {
        let mut breaker = opened();
        breaker.probed(true, 101);
        assert_eq!(breaker.state(), BreakerState::Open, "opened at 2, 99 ago");
        breaker.probed(false, 150);
        assert_eq!(breaker.state(), BreakerState::Open);
        breaker.probed(true, 150);
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
    }

    #[test]
    fn one_trial_at_a_time_decides() {
        let mut breaker = opened();
        breaker.probed(true, 200);
        assert!(breaker.lets_through());
        breaker.sent();
        assert!(!breaker.lets_through(), "one is being tried");
        breaker.ended(Verdict::Unknown, 201);
        assert!(breaker.lets_through(), "a client that left says nothing");
        breaker.sent();
        breaker.ended(Verdict::Good, 202);
        assert_eq!((breaker.state(), breaker.turns()), (BreakerState::Closed, (1, 1)));
        breaker.ended(Verdict::Bad, 203);
        assert!(breaker.lets_through(), "the count began anew");
    }

    #[test]
    fn a_bad_trial_or_a_bad_probe_opens_it_again() {
        let mut breaker = opened();
        breaker.probed(true, 200);
        breaker.sent();
        breaker.ended(Verdict::Bad, 210);
        assert_eq!(breaker.state(), BreakerState::Open);
        breaker.probed(true, 250);
        assert_eq!(breaker.state(), BreakerState::Open, "its time begins anew");
        breaker.probed(true, 310);
        breaker.probed(false, 311);
        assert_eq!((breaker.state(), breaker.turns()), (BreakerState::Open, (3, 0)));
    }

    #[test]
    fn late_answers_do_not_close_an_open_one() {
        let mut breaker = opened();
        breaker.ended(Verdict::Good, 3);
        assert_eq!(breaker.state(), BreakerState::Open);
    }
}
