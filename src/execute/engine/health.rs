//! Whether the client itself kept up: a starved client reports healthy-looking numbers, so each cell is told.
//!
//! A thread stamps a ping each millisecond on an absolute schedule and a task on the receiving runtime reads it: the lag
//! is what any answer would have waited between being ready and being stamped, whoever is to blame (our own backlog, other
//! processes, a stolen CPU). The schedule is absolute, so that a stall of 20 ms counts as 20 late pings and not as one.
//!
//! Thresholds. The lag is compared with the gap between chunks, since it is the error of a gap: more than a tenth of the
//! mean gap (not below 1 ms, what a quiet 2-core machine shares with its server at 20 000 tok/s; not above 10 ms)
//! is SUSPECT, five times that is INVALID (starved clients have been seen with p99 lags of 20 to 165 ms at gaps of 10 ms
//! while they reported perfect means). Requests sent late (p99) by 2 ms are SUSPECT, by 20 ms INVALID. More than 0.80 of all
//! cores in use by this process is SUSPECT, 0.95 INVALID. More than two events a wake-up is SUSPECT: the events
//! had been lying in a buffer, or the server sends several at once.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::runtime::Handle;

use crate::{
    execute::clock,
    units::{NS_PER_S, ns_to_ms},
};

const PING: Duration = Duration::from_millis(1);

/// Whether a cell's times can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// Nothing speaks against them.
    Valid,
    /// Read the reasons first.
    Suspect,
    /// The client was part of what was measured.
    Invalid,
}

/// Quantiles of a lag; nearest rank, up to 3 % too high (histogram).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Lag {
    /// Median.
    pub p50_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// Largest, exact.
    pub max_ms: f64,
}

/// How the client fared in one cell. `None` is unknown.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClientHealth {
    /// The cell.
    pub cell_id: String,
    /// May its times be used?
    pub verdict: Verdict,
    /// Why not, in words.
    pub reasons: Vec<String>,
    /// Delay from a ping's due time to a task of the receiving runtime.
    pub watchdog_lag: Option<Lag>,
    /// `sent_ns - due_ns`.
    pub schedule_lag: Option<Lag>,
    /// Server-sent events received.
    pub n_events: u64,
    /// Events for each time that a stream was waited for.
    pub events_per_wakeup: Option<f64>,
    /// CPU time of this process during the cell, all threads.
    pub cpu_s: f64,
    /// The same for each event.
    pub cpu_us_per_event: Option<f64>,
    /// Part of all cores that this process used.
    pub cpu_share: f64,
    /// Mean gap between chunks of one answer.
    pub chunk_gap_mean_ms: Option<f64>,
    /// Requests that were not sent because too many were in flight.
    pub n_over_cap: u64,
}

/// What the load loop counted.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) n_events: u64,
    pub(super) wakeups: u64,
    pub(super) schedule: Histogram,
    pub(super) gap_sum_ns: i64,
    pub(super) n_gaps: i64,
    pub(super) n_over_cap: u64,
}

/// Watches one cell.
pub(super) struct Probe {
    started: Instant,
    cpu_s: f64,
    lags: Arc<Mutex<Histogram>>,
    over: Arc<AtomicBool>,
}

impl Probe {
    /// Starts to watch `runtime`.
    pub(super) fn start(runtime: &Handle) -> anyhow::Result<Self> {
        let probe = Self {
            started: clock::now(),
            cpu_s: process_cpu_s(),
            lags: Arc::default(),
            over: Arc::default(),
        };
        let (pings, mut pinged) = tokio::sync::mpsc::unbounded_channel::<Instant>();
        let lags = probe.lags.clone();
        runtime.spawn(async move {
            while let Some(due) = pinged.recv().await {
                let lag = clock::now().saturating_duration_since(due);
                lags.lock().unwrap_or_else(PoisonError::into_inner).add(lag.as_nanos() as i64);
            }
        });
        let over = probe.over.clone();
        let thread = std::thread::Builder::new().name("kvbench-watchdog".to_owned());
        thread.spawn(move || {
            let mut due = clock::now();
            while !over.load(Ordering::Relaxed) {
                due += PING;
                std::thread::sleep(due.saturating_duration_since(clock::now()));
                if pings.send(due).is_err() {
                    return;
                }
            }
        })?;
        Ok(probe)
    }

    /// Ends the watch and judges.
    pub(super) fn finish(self, cell_id: &str, tally: &Tally) -> ClientHealth {
        self.over.store(true, Ordering::Relaxed);
        let wall_s = clock::now().saturating_duration_since(self.started).as_secs_f64();
        let cpu_s = process_cpu_s() - self.cpu_s;
        let cores = std::thread::available_parallelism().map_or(1.0, |n| n.get() as f64);
        let ratio = |a: f64, b: f64| (b > 0.0).then_some(a / b);
        let mut health = ClientHealth {
            cell_id: cell_id.to_owned(),
            verdict: Verdict::Valid,
            reasons: Vec::new(),
            watchdog_lag: self.lags.lock().unwrap_or_else(PoisonError::into_inner).lag(),
            schedule_lag: tally.schedule.lag(),
            n_events: tally.n_events,
            events_per_wakeup: ratio(tally.n_events as f64, tally.wakeups as f64),
            cpu_s,
            cpu_us_per_event: ratio(cpu_s * 1e6, tally.n_events as f64),
            cpu_share: cpu_s / (wall_s * cores).max(f64::MIN_POSITIVE),
            chunk_gap_mean_ms: ratio(ns_to_ms(tally.gap_sum_ns), tally.n_gaps as f64),
            n_over_cap: tally.n_over_cap,
        };
        judge(&mut health);
        health
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn judge(health: &mut ClientHealth) {
    let tolerance_ms = (health.chunk_gap_mean_ms.unwrap_or(0.0) / 10.0).clamp(1.0, 10.0);
    let mut checks = vec![(health.cpu_share, 0.80, 0.95, "part of all cores used by the client")];
    if let Some(lag) = health.watchdog_lag {
        checks.push((lag.p99_ms, tolerance_ms, 5.0 * tolerance_ms, "p99 lag of the client in ms"));
    }
    if let Some(lag) = health.schedule_lag {
        checks.push((lag.p99_ms, 2.0, 20.0, "p99 lateness of sending in ms"));
    }
    if let Some(events) = health.events_per_wakeup {
        checks.push((events, 2.0, f64::INFINITY, "events a wake-up"));
    }
    for (value, suspect, invalid, what) in checks {
        let (limit, verdict) =
            if value > invalid { (invalid, Verdict::Invalid) } else { (suspect, Verdict::Suspect) };
        if value > limit {
            health.reasons.push(format!("{what}: {value:.2}, expected at most {limit:.2}"));
            health.verdict = health.verdict.max(verdict);
        }
    }
    if health.n_over_cap > 0 {
        health.reasons.push(format!("{} requests not sent: too many in flight", health.n_over_cap));
        health.verdict = Verdict::Invalid;
    }
    if health.watchdog_lag.is_none() {
        health
            .reasons
            .push("the client's own lag is unknown: the cell was shorter than 1 ms".to_owned());
        health.verdict = health.verdict.max(Verdict::Suspect);
    }
}

/// CPU time of this process, user and system, all threads.
pub fn process_cpu_s() -> f64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is to a `rusage` that lives through the call, and RUSAGE_SELF is a valid selector.
    let status = unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) };
    assert_eq!(status, 0, "getrusage(RUSAGE_SELF) has no way to fail");
    // SAFETY: zeroed bytes are a valid `rusage`, and the call has filled them in.
    let usage = unsafe { usage.assume_init() };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// Counts of non-negative nanoseconds in 32 buckets an octave: bounded memory however long a cell runs.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    counts: Vec<u64>,
    n: u64,
    max_ns: i64,
}

const PER_OCTAVE: f64 = 32.0;

impl Histogram {
    pub(super) fn add(&mut self, ns: i64) {
        let ns = ns.max(1);
        let bucket = ((ns as f64).log2() * PER_OCTAVE).ceil() as usize;
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += 1;
        self.n += 1;
        self.max_ns = self.max_ns.max(ns);
    }

    /// Upper end of the bucket that holds the nearest rank; `None` without values.
    fn quantile_ns(&self, q: f64) -> Option<f64> {
        let rank = (q * self.n as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        let bucket = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank
        })?;
        Some((bucket as f64 / PER_OCTAVE).exp2().min(self.max_ns as f64))
    }

    pub(super) fn lag(&self) -> Option<Lag> {
        let ms = |q| self.quantile_ns(q).map(|ns| ns / NS_PER_S * 1e3);
        Some(Lag { p50_ms: ms(0.5)?, p99_ms: ms(0.99)?, max_ms: ns_to_ms(self.max_ns) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(gap_ms: f64, lag_p99_ms: f64) -> ClientHealth {
        let lag = |p99_ms| Some(Lag { p50_ms: 0.1, p99_ms, max_ms: 30.0 });
        let mut health = ClientHealth {
            cell_id: "c".to_owned(),
            verdict: Verdict::Valid,
            reasons: Vec::new(),
            watchdog_lag: lag(lag_p99_ms),
            schedule_lag: lag(0.2),
            n_events: 10,
            events_per_wakeup: Some(1.1),
            cpu_s: 0.1,
            cpu_us_per_event: Some(20.0),
            cpu_share: 0.1,
            chunk_gap_mean_ms: Some(gap_ms),
            n_over_cap: 0,
        };
        judge(&mut health);
        health
    }

    #[test]
    fn the_lag_is_measured_against_the_gap() {
        assert_eq!(health(50.0, 4.0).verdict, Verdict::Valid);
        assert_eq!(health(20.0, 4.0).verdict, Verdict::Suspect);
        let starved = health(10.0, 20.0);
        assert_eq!(starved.verdict, Verdict::Invalid);
        assert_eq!(starved.reasons, ["p99 lag of the client in ms: 20.00, expected at most 5.00"]);
    }

    #[test]
    fn unknown_lag_and_unsent_requests_are_said() {
        let mut unknown = health(50.0, 0.1);
        unknown.watchdog_lag = None;
        judge(&mut unknown);
        assert_eq!(unknown.verdict, Verdict::Suspect);
        let mut capped = health(50.0, 0.1);
        capped.n_over_cap = 3;
        judge(&mut capped);
        assert_eq!(capped.verdict, Verdict::Invalid);
    }

    #[test]
    fn histogram_quantiles_are_close_and_max_is_exact() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.lag(), None);
        (1..=1000).for_each(|i| histogram.add(i * 1_000_000));
        let lag = histogram.lag().unwrap();
        for (got, exact) in [(lag.p50_ms, 500.0), (lag.p99_ms, 990.0), (lag.max_ms, 1000.0)] {
            assert!(got >= exact && got <= exact * 1.03, "{got} for {exact}");
        }
    }

    #[test]
    fn verdicts_are_written_in_capitals() {
        assert_eq!(serde_json::to_string(&Verdict::Suspect).unwrap(), "\"SUSPECT\"");
    }
}
