//! What the proxy counts, and how `/metrics` shows it (Prometheus text exposition format 0.0.4).

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{breaker::BreakerState, desk::Shown};

/// Upper ends of the buckets of time added, seconds.
const ADDED_S: [f64; 10] = [5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 5e-2, 1e-1];

/// A counter by labels, which are spelled as they are shown.
type ByLabels = Mutex<BTreeMap<String, u64>>;

/// Everything that is counted.
#[derive(Debug, Default)]
pub(super) struct Counts {
    requests: ByLabels,
    decisions: ByLabels,
    upstream_errors: ByLabels,
    lengths: ByLabels,
    added: [AtomicU64; ADDED_S.len() + 1],
    added_ns: AtomicU64,
    /// Readings of the files of models and risks that replaced what was known.
    pub(super) reloads: AtomicU64,
    /// Readings that failed, so that what was known stayed.
    pub(super) reloads_failed: AtomicU64,
    /// Rows that could not be written at the first try.
    pub(super) log_errors: AtomicU64,
    /// Connections that were accepted.
    pub(super) connections: AtomicU64,
    /// Connections that were turned away because there were too many.
    pub(super) connections_refused: AtomicU64,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn add(counter: &ByLabels, labels: String) {
    *locked(counter).entry(labels).or_default() += 1;
}

impl Counts {
    /// An answer that clients got, of whatever path.
    pub(super) fn answered(&self, path: &str, status: u16) {
        add(&self.requests, format!("path=\"{path}\",status=\"{status}\""));
    }

    /// A request that was routed, with what became of it.
    pub(super) fn decided(&self, engine: &str, reason: &str, outcome: &str) {
        add(
            &self.decisions,
            format!("engine=\"{engine}\",reason=\"{reason}\",outcome=\"{outcome}\""),
        );
    }

    /// An attempt that failed.
    pub(super) fn failed(&self, engine: &str, kind: &str) {
        add(&self.upstream_errors, format!("engine=\"{engine}\",kind=\"{kind}\""));
    }

    /// How the length of an answer became known.
    pub(super) fn counted(&self, source: &str) {
        add(&self.lengths, format!("source=\"{source}\""));
    }

    /// How many lengths became known so.
    pub(super) fn n_counted(&self, source: &str) -> u64 {
        locked(&self.lengths).get(&format!("source=\"{source}\"")).copied().unwrap_or(0)
    }

    /// Time from a whole request to its being handed on.
    pub(super) fn added(&self, ns: i64) {
        let seconds = ns as f64 / 1e9;
        let bucket = ADDED_S.iter().position(|most| seconds <= *most).unwrap_or(ADDED_S.len());
        self.added[bucket].fetch_add(1, Ordering::Relaxed);
        self.added_ns.fetch_add(ns.max(0).unsigned_abs(), Ordering::Relaxed);
    }

    /// The page. `engines` are names and what is known of them.
    pub(super) fn page(&self, engines: &[(&str, Shown)], in_work: usize) -> String {
        let mut page = Page::default();
        page.family("requests_total", "counter", "Answers by path and status.", &self.requests);
        let help = "Routed requests by engine, reason of the decision and outcome.";
        page.family("decisions_total", "counter", help, &self.decisions);
        let help = "Attempts at engines that failed, by kind.";
        page.family("upstream_errors_total", "counter", help, &self.upstream_errors);
        let help = "Answers by how their tokens became known: the engine's usage, or chunks that held text.";
        page.family("output_lengths_total", "counter", help, &self.lengths);
        page.engines(engines);
        page.one("in_work", "gauge", "Requests that are being answered.", in_work as u64);
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let help = "Readings of models and risks that replaced what was known.";
        page.one("reloads_total", "counter", help, read(&self.reloads));
        let help = "Readings of models and risks that failed; what was known stayed.";
        page.one("reloads_failed_total", "counter", help, read(&self.reloads_failed));
        let help = "Failures to write rows, which are tried again.";
        page.one("log_errors_total", "counter", help, read(&self.log_errors));
        page.one("connections_total", "counter", "Connections accepted.", read(&self.connections));
        let help = "Connections turned away because there were too many.";
        page.one("connections_refused_total", "counter", help, read(&self.connections_refused));
        self.histogram(&mut page);
        page.0
    }

    fn histogram(&self, page: &mut Page) {
        let name = "added_seconds";
        page.head(name, "histogram", "From a whole request to its being handed to an engine.");
        let mut n = 0;
        for (at, bucket) in self.added.iter().enumerate() {
            n += bucket.load(Ordering::Relaxed);
            let most = ADDED_S.get(at).map_or("+Inf".to_owned(), f64::to_string);
            page.sample(&format!("{name}_bucket"), &format!("le=\"{most}\""), n);
        }
        page.sample(&format!("{name}_sum"), "", self.added_ns.load(Ordering::Relaxed) as f64 / 1e9);
        page.sample(&format!("{name}_count"), "", n);
    }
}

/// Text in the making. Names of engines are `[-a-z0-9]+`, so no label needs escaping.
#[derive(Default)]
struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = write!(
            self.0,
            "# HELP kvbench_route_{name} {help}\n# TYPE kvbench_route_{name} {kind}\n"
        );
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let _ = writeln!(self.0, "kvbench_route_{name}{labels} {value}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.head(name, kind, help);
        self.sample(name, "", value);
    }

    fn family(&mut self, name: &str, kind: &str, help: &str, counter: &ByLabels) {
        self.head(name, kind, help);
        let values = locked(counter).clone();
        values.iter().for_each(|(labels, value)| self.sample(name, labels, value));
    }

    fn engines(&mut self, engines: &[(&str, Shown)]) {
        let each =
            |page: &mut Self, name: &str, kind: &str, help: &str, value: &dyn Fn(&Shown) -> f64| {
                page.head(name, kind, help);
                for (engine, shown) in engines {
                    page.sample(name, &format!("engine=\"{engine}\""), value(shown));
                }
            };
        each(self, "engine_in_flight", "gauge", "Requests at an engine.", &|shown| {
            shown.in_flight as f64
        });
        let help = "Tokens that an engine is expected to yield yet.";
        each(self, "engine_tokens_expected", "gauge", help, &|shown| shown.tokens_expected);
        let help = "Breaker of an engine: 0 closed, 1 half open, 2 open.";
        each(self, "breaker_state", "gauge", help, &|shown| match shown.breaker {
            BreakerState::Closed => 0.0,
            BreakerState::HalfOpen => 1.0,
            BreakerState::Open => 2.0,
        });
        let help = "How often a breaker opened.";
        each(self, "breaker_opened_total", "counter", help, &|shown| shown.turns.0 as f64);
        let help = "How often a breaker closed again.";
        each(self, "breaker_closed_total", "counter", help, &|shown| shown.turns.1 as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_holds_what_was_counted() {
        let counts = Counts::default();
        counts.answered("/v1/completions", 200);
        counts.answered("/v1/completions", 200);
        counts.decided("a", "rule", "done");
        counts.added(150_000);
        counts.added(10_000_000_000);
        let shown = Shown {
            in_flight: 2,
            breaker: BreakerState::Open,
            turns: (3, 2),
            tokens_expected: 7.5,
        };
        let page = counts.page(&[("a", shown)], 4);
        for line in [
            "kvbench_route_requests_total{path=\"/v1/completions\",status=\"200\"} 2",
            "kvbench_route_decisions_total{engine=\"a\",reason=\"rule\",outcome=\"done\"} 1",
            "kvbench_route_engine_in_flight{engine=\"a\"} 2",
            "kvbench_route_engine_tokens_expected{engine=\"a\"} 7.5",
            "kvbench_route_breaker_state{engine=\"a\"} 2",
            "kvbench_route_breaker_opened_total{engine=\"a\"} 3",
            "kvbench_route_added_seconds_bucket{le=\"0.0001\"} 0",
            "kvbench_route_added_seconds_bucket{le=\"0.0002\"} 1",
            "kvbench_route_added_seconds_bucket{le=\"+Inf\"} 2",
            "kvbench_route_added_seconds_count 2",
            "kvbench_route_in_work 4",
        ] {
            assert!(page.lines().any(|own| own == line), "{line} is not in\n{page}");
        }
    }
}
