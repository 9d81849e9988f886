//! The rule of a saturation search: which rate to try next, and when to stop. Pure, so that the rule is tested without a
//! server and rows alone tell what was found.
//!
//! A probe is a number of requests at one Poisson rate. If the 95 % Wilson interval of the part that met the SLO lies above
//! the wanted part, the rate is sustained; if it lies below, it is not; otherwise more requests are sent, and when there
//! were enough of them the part itself decides and the probe is marked undecided. The rate doubles (or halves) until one
//! sustained and one overloaded rate are known, then the bracket is halved.

use crate::{
    record::manifest::SearchRule,
    stats::{Interval, wilson},
};

/// Rates above this are not tried; the same limit as that of a rate in a scenario.
const RATE_MAX: f64 = 100_000.0;
/// How far below the first rate the search goes: each halving takes twice as long, and a server that is sixteen times
/// slower than expected is rather broken, or the SLO is.
const BELOW_START: f64 = 16.0;

/// What is known about one rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Probe {
    /// Requests per second.
    pub rate: f64,
    /// Requests that met the SLO.
    pub good: usize,
    /// Requests sent, failed ones included.
    pub n: usize,
    /// Requests that failed.
    pub n_failed: usize,
}

/// Whether a rate can be sustained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// Enough requests meet the SLO.
    Sustained,
    /// Too few do.
    Overloaded,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Step {
    /// Send `n` more requests at `rate`, which may be the rate of the last probe.
    Send {
        /// Requests per second.
        rate: f64,
        /// Requests.
        n: usize,
    },
    /// Nothing more to learn.
    Stop(Reason),
}

/// Why a search ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The bracket is as narrow as asked.
    Found,
    /// The highest rate that can be asked for (half of 100,000 or more) is sustained.
    NeverOverloaded,
    /// A sixteenth of the first rate is not.
    NeverSustained,
    /// Every request of a probe failed: no rate will change that.
    NothingAnswered,
}

impl Probe {
    /// Interval of the part that met the SLO; `None` before the first request.
    pub fn interval(&self) -> Option<Interval> {
        wilson(self.good, self.n)
    }

    /// What the interval says, `None` where the wanted part lies inside it.
    pub fn decided(&self, attainment: f64) -> Option<Finding> {
        let interval = self.interval()?;
        if interval.low > attainment {
            Some(Finding::Sustained)
        } else if interval.high < attainment {
            Some(Finding::Overloaded)
        } else {
            None
        }
    }

    /// The same, by the part itself where the interval does not tell.
    pub fn finding(&self, attainment: f64) -> Finding {
        let by_part = if self.good as f64 >= attainment * self.n as f64 {
            Finding::Sustained
        } else {
            Finding::Overloaded
        };
        self.decided(attainment).unwrap_or(by_part)
    }
}

/// The highest sustained and the lowest overloaded rate.
pub fn bracket(rule: &SearchRule, probes: &[Probe]) -> (Option<f64>, Option<f64>) {
    let rates = |wanted: Finding| {
        let is = move |probe: &&Probe| probe.finding(rule.attainment) == wanted;
        probes.iter().filter(is).map(|probe| probe.rate)
    };
    (rates(Finding::Sustained).reduce(f64::max), rates(Finding::Overloaded).reduce(f64::min))
}

/// What to do after these probes, in the order in which they were made.
pub fn next(rule: &SearchRule, probes: &[Probe]) -> Step {
    let Some(last) = probes.last() else { return send(rule, rule.start_rate) };
    if last.n_failed == last.n {
        return Step::Stop(Reason::NothingAnswered);
    }
    if last.decided(rule.attainment).is_none() && last.n < rule.probe_max_requests {
        let n = rule.requests_per_probe.min(rule.probe_max_requests - last.n);
        return Step::Send { rate: last.rate, n };
    }
    match bracket(rule, probes) {
        (Some(low), Some(high)) => between(rule, low, high),
        (Some(low), None) if low * 2.0 > RATE_MAX => Step::Stop(Reason::NeverOverloaded),
        (Some(low), None) => send(rule, readable(low * 2.0)),
        (None, Some(high)) if high < 1.5 * rule.start_rate / BELOW_START => {
            Step::Stop(Reason::NeverSustained)
        }
        (None, Some(high)) => send(rule, readable(high / 2.0)),
        // Each probe is one or the other.
        (None, None) => send(rule, rule.start_rate),
    }
}

fn send(rule: &SearchRule, rate: f64) -> Step {
    Step::Send { rate, n: rule.requests_per_probe }
}

fn between(rule: &SearchRule, low: f64, high: f64) -> Step {
    let middle = readable(0.5 * (low + high));
    if high - low <= rule.tolerance * low || middle <= low || middle >= high {
        Step::Stop(Reason::Found)
    } else {
        send(rule, middle)
    }
}

/// Three significant digits: rates are parts of names.
fn readable(rate: f64) -> f64 {
    format!("{rate:.2e}").parse().unwrap_or(rate)
}

/// What the rows of a probe say in `load`. A scenario's own loads end in a number, `1to10` or the like, never in this.
pub fn probe_label(load: &str, rate: f64) -> String {
    let name = load.rsplit_once('-').map_or(load, |(name, _)| name);
    format!("{name}-poisson{rate}")
}

/// The rate of a probe by its rows' `load`; `None` for every other load.
pub fn probe_rate(load: &str) -> Option<f64> {
    let (_, value) = load.rsplit_once('-')?;
    value.strip_prefix("poisson")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULE: SearchRule = SearchRule {
        attainment: 0.9,
        start_rate: 1.0,
        tolerance: 0.1,
        requests_per_probe: 100,
        probe_max_requests: 400,
    };

    fn probe(rate: f64, good: usize, n: usize) -> Probe {
        Probe { rate, good, n, n_failed: 0 }
    }

    /// Runs a search against a server of which `part(rate)` is known.
    fn search(rule: &SearchRule, part: impl Fn(f64) -> f64) -> (Vec<Probe>, Reason) {
        let mut probes: Vec<Probe> = Vec::new();
        for _ in 0..200 {
            match next(rule, &probes) {
                Step::Stop(reason) => return (probes, reason),
                Step::Send { rate, n } => {
                    let good = (part(rate) * n as f64).round() as usize;
                    match probes.last_mut().filter(|last| last.rate.to_bits() == rate.to_bits()) {
                        Some(last) => (last.n, last.good) = (last.n + n, last.good + good),
                        None => probes.push(probe(rate, good, n)),
                    }
                }
            }
        }
        panic!("no end after {} probes", probes.len());
    }

    #[test]
    fn intervals_decide_and_the_part_where_they_do_not() {
        assert_eq!(probe(1.0, 99, 100).decided(0.9), Some(Finding::Sustained));
        assert_eq!(probe(1.0, 80, 100).decided(0.9), Some(Finding::Overloaded));
        assert_eq!(probe(1.0, 91, 100).decided(0.9), None);
        assert_eq!(probe(1.0, 91, 100).finding(0.9), Finding::Sustained);
        assert_eq!(probe(1.0, 89, 100).finding(0.9), Finding::Overloaded);
    }

    #[test]
    fn doubles_then_bisects() {
        let (probes, reason) = search(&RULE, |rate| if rate <= 5.3 { 1.0 } else { 0.5 });
        let rates: Vec<f64> = probes.iter().map(|probe| probe.rate).collect();
        assert_eq!(rates, [1.0, 2.0, 4.0, 8.0, 6.0, 5.0, 5.5]);
        assert_eq!((reason, bracket(&RULE, &probes)), (Reason::Found, (Some(5.0), Some(5.5))));
        assert!(probes.iter().all(|probe| probe.n == 100));
    }

    #[test]
    fn halves_when_the_first_rate_is_too_high() {
        let rule = SearchRule { start_rate: 8.0, ..RULE };
        let (probes, _) = search(&rule, |rate| if rate <= 1.5 { 1.0 } else { 0.0 });
        let rates: Vec<f64> = probes.iter().map(|probe| probe.rate).collect();
        assert_eq!(rates[..4], [8.0, 4.0, 2.0, 1.0]);
        assert_eq!(bracket(&rule, &probes).0, Some(1.5));
    }

    #[test]
    fn a_doubtful_probe_gets_more_requests_up_to_the_limit() {
        let (probes, _) = search(&RULE, |rate| if rate < 3.0 { 1.0 } else { 0.9 });
        let doubtful = probes.iter().find(|probe| probe.rate > 3.0).expect("probed");
        assert_eq!((doubtful.n, doubtful.decided(0.9)), (400, None));
        assert_eq!(next(&RULE, &[probe(1.0, 91, 100)]), Step::Send { rate: 1.0, n: 100 });
        let rule = SearchRule { probe_max_requests: 150, ..RULE };
        assert_eq!(next(&rule, &[probe(1.0, 91, 100)]), Step::Send { rate: 1.0, n: 50 });
    }

    #[test]
    fn there_is_always_an_end() {
        assert_eq!(search(&RULE, |_| 1.0).1, Reason::NeverOverloaded);
        let (probes, reason) = search(&RULE, |_| 0.0);
        let rates: Vec<f64> = probes.iter().map(|probe| probe.rate).collect();
        assert_eq!((rates, reason), (vec![1.0, 0.5, 0.25, 0.125, 0.0625], Reason::NeverSustained));
        let dead = Probe { rate: 1.0, good: 0, n: 100, n_failed: 100 };
        assert_eq!(next(&RULE, &[dead]), Step::Stop(Reason::NothingAnswered));
    }

    #[test]
    fn labels_are_read_back() {
        for rate in [0.001, 4.5, 100_000.0] {
            let label = probe_label("sat-slo0.9", rate);
            assert_eq!(probe_rate(&label), Some(rate), "{label}");
        }
        assert_eq!(probe_label("sat-slo0.9", 4.5), "sat-poisson4.5");
        for other in ["poisson-4.5", "closed-8", "launch", "up-1to10", "sat-slo0.9"] {
            assert_eq!(probe_rate(other), None, "{other}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_bracket_holds_the_knee(
            start_rate in 0.01_f64..50.0, faster in 0.1_f64..900.0, tolerance in 0.02_f64..1.0,
        ) {
            let knee = start_rate * faster;
            let rule = SearchRule { start_rate, tolerance, ..RULE };
            let (probes, reason) = search(&rule, |rate| if rate <= knee { 1.0 } else { 0.3 });
            prop_assert_eq!(reason, Reason::Found);
            let (low, high) = bracket(&rule, &probes);
            let (low, high) = (low.expect("sustained"), high.expect("overloaded"));
            prop_assert!(low <= knee && knee < high);
            prop_assert!(high - low <= tolerance * low * (1.0 + 1e-9) || high - low < 0.02 * high);
            prop_assert!(probes.len() < 60);
        }
    }
}
