//! Whether the client itself kept up: a starved client reports healthy-looking numbers, so each cell is told.
//!
//! A thread stamps a ping on an absolute schedule and a task on each receiving thread reads it: the lag is what any answer
//! would have waited between being ready and being stamped, whoever is to blame (our own backlog, other processes, a
//! stolen CPU). The schedule is absolute, so that a stall of 20 ms counts as five late pings and not as one. The worst
//! thread counts: a mean over threads would hide the one that starves. The load thread is its own probe: it notes how
//! late it woke, each time that it slept.
//!
//! Thresholds and why:
//! - The lag is compared with the gap between chunks, since it is the error of a gap: more than a tenth of the mean gap (not
//!   below 1 ms, what a quiet 2-core machine shares with its server at 20 000 tok/s; not above 10 ms) is SUSPECT,
//!   five times that is INVALID (starved clients have been seen with p99 lags of 20 to 165 ms at gaps of 10 ms while
//!   they reported perfect means).
//! - Requests sent late (p99) by 2 ms are SUSPECT, by 20 ms INVALID: that time is missing from TTFT. So is a load thread
//!   that wakes so late; with few requests it notices what the lateness of requests has too few values to show.
//! - More than 0.80 of all cores in use by this process is SUSPECT, 0.95 INVALID: nothing is left for a burst.
//! - A receiving thread that is busy for more than 0.70 of the time is SUSPECT, 0.90 INVALID. It is a queue with one
//!   server: an event waits for 1.2 others on average at 0.70 and for 4.5 at 0.90 (M/D/1: r / (2 - 2 r)).
//! - More than two chunks a read is SUSPECT: they had been lying in the socket's buffer, or the server sends several at
//!   once, and either way the gaps between them are not the server's.
//! - Opening a connection is part of TTFT, as for any user. If one request in a hundred opens one and that takes more (p99)
//!   than a tenth of the median TTFT (not below 1 ms), the cell is SUSPECT: its tail of TTFT is about connections. Never
//!   INVALID: the network and the server have their part in it.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{
    answer::{Answer, Capture},
    histogram::Histogram,
    shards::Shards,
};
use crate::{execute::clock, units::ns_to_ms};

pub use super::histogram::Lag;

/// Between pings. Each wakes every receiving thread; at 1 ms the pings were a twentieth of the CPU of 20 000 events/s.
const PING: Duration = Duration::from_millis(4);

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

/// How the client fared in one cell. `None` is unknown.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClientHealth {
    /// The cell.
    pub cell_id: String,
    /// May its times be used?
    pub verdict: Verdict,
    /// Why not, in words.
    pub reasons: Vec<String>,
    /// Delay from a ping's due time to a task of a receiving thread; of the thread with the worst p99.
    pub watchdog_lag: Option<Lag>,
    /// How late the load thread woke.
    pub load_lag: Option<Lag>,
    /// `sent_ns - due_ns`.
    pub schedule_lag: Option<Lag>,
    /// Connections opened by measured requests.
    pub n_connects: u64,
    /// How long they took to open (name, TCP, TLS); part of TTFT.
    pub connect_time: Option<Lag>,
    /// Median time from sending to the first output.
    pub ttft_p50_ms: Option<f64>,
    /// Server-sent events received.
    pub n_events: u64,
    /// Chunks with output for each read of a socket that brought any.
    pub events_per_read: Option<f64>,
    /// CPU time of this process during the cell, all threads.
    pub cpu_s: f64,
    /// The same for each event.
    pub cpu_us_per_event: Option<f64>,
    /// Part of all cores that this process used.
    pub cpu_share: f64,
    /// Part of the time for which the busiest receiving thread was running.
    pub thread_share_max: f64,
    /// Mean gap between chunks of one answer.
    pub chunk_gap_mean_ms: Option<f64>,
    /// Requests that were not sent because too many were in flight.
    pub n_over_cap: u64,
}

impl ClientHealth {
    /// Whether its times deserve less trust than another's: by the verdict, then by the lag.
    pub(super) fn is_worse_than(&self, other: &Self) -> bool {
        let lag = |health: &Self| health.watchdog_lag.map_or(f64::INFINITY, |lag| lag.p99_ms);
        self.verdict.cmp(&other.verdict).then(lag(self).total_cmp(&lag(other))).is_gt()
    }
}

/// What the load loop counted.
#[derive(Debug, Default)]
pub(super) struct Tally {
    n_sent: u64,
    n_events: u64,
    n_chunks: u64,
    n_reads: u64,
    schedule: Histogram,
    ttft: Histogram,
    connects: Histogram,
    gap_sum_ns: i64,
    n_gaps: i64,
    /// How late the load thread woke, each time that it had slept.
    pub(super) load: Histogram,
    pub(super) n_over_cap: u64,
}

impl Tally {
    /// Counts one exchange.
    pub(super) fn add(&mut self, due_ns: i64, capture: &Capture, answer: &Answer) {
        self.n_events += answer.n_events;
        if let Some(sent_ns) = capture.sent_ns {
            self.n_sent += 1;
            self.schedule.add(sent_ns - due_ns);
            answer.chunk_ns.first().into_iter().for_each(|first| self.ttft.add(first - sent_ns));
        }
        capture.connect_ns.into_iter().for_each(|ns| self.connects.add(ns));
        // Chunks of one read have one stamp.
        let n_same = answer.chunk_ns.windows(2).filter(|pair| pair[0] == pair[1]).count();
        self.n_chunks += answer.chunk_ns.len() as u64;
        self.n_reads += (answer.chunk_ns.len() - n_same) as u64;
        if let [first, .., last] = answer.chunk_ns.as_slice() {
            self.gap_sum_ns += last - first;
            self.n_gaps += answer.chunk_ns.len() as i64 - 1;
        }
    }
}

/// Watches one cell.
pub(super) struct Probe {
    started: Instant,
    cpu_s: f64,
    thread_cpu_s: Vec<f64>,
    /// One a receiving thread.
    lags: Vec<Arc<Mutex<Histogram>>>,
    over: Arc<AtomicBool>,
}

impl Probe {
    /// Starts to watch the receiving threads.
    pub(super) fn start(shards: &Shards) -> anyhow::Result<Self> {
        let probe = Self {
            started: clock::now(),
            cpu_s: process_cpu_s(),
            thread_cpu_s: shards.cpu_s(),
            lags: (0..shards.len()).map(|_| Arc::default()).collect(),
            over: Arc::default(),
        };
        let listen = |(index, lags): (usize, &Arc<Mutex<Histogram>>)| {
            let (pings, mut pinged) = tokio::sync::mpsc::unbounded_channel::<Instant>();
            let lags = lags.clone();
            shards.spawn(index, async move {
                while let Some(due) = pinged.recv().await {
                    let lag = clock::now().saturating_duration_since(due);
                    lags.lock().unwrap_or_else(PoisonError::into_inner).add(lag.as_nanos() as i64);
                }
            });
            pings
        };
        let listeners: Vec<_> = probe.lags.iter().enumerate().map(listen).collect();
        let over = probe.over.clone();
        let thread = std::thread::Builder::new().name("kvbench-watchdog".to_owned());
        let mut due = probe.started;
        thread.spawn(move || {
            while !over.load(Ordering::Relaxed) {
                due += PING;
                std::thread::sleep(due.saturating_duration_since(clock::now()));
                if listeners.iter().any(|pings| pings.send(due).is_err()) {
                    return;
                }
            }
        })?;
        Ok(probe)
    }

    /// Ends the watch and judges.
    pub(super) fn finish(self, cell_id: &str, shards: &Shards, tally: &Tally) -> ClientHealth {
        self.over.store(true, Ordering::Relaxed);
        let wall_s = clock::now().saturating_duration_since(self.started).as_secs_f64();
        let wall_s = wall_s.max(f64::MIN_POSITIVE);
        let cpu_s = process_cpu_s() - self.cpu_s;
        let cores = std::thread::available_parallelism().map_or(1.0, |n| n.get() as f64);
        let threads = shards.cpu_s().into_iter().zip(&self.thread_cpu_s);
        let ratio = |a: f64, b: f64| (b > 0.0).then_some(a / b);
        let mut health = ClientHealth {
            cell_id: cell_id.to_owned(),
            verdict: Verdict::Valid,
            reasons: Vec::new(),
            watchdog_lag: self.worst_lag(),
            load_lag: tally.load.lag(),
            schedule_lag: tally.schedule.lag(),
            n_connects: tally.connects.n(),
            connect_time: tally.connects.lag(),
            ttft_p50_ms: tally.ttft.lag().map(|ttft| ttft.p50_ms),
            n_events: tally.n_events,
            events_per_read: ratio(tally.n_chunks as f64, tally.n_reads as f64),
            cpu_s,
            cpu_us_per_event: ratio(cpu_s * 1e6, tally.n_events as f64),
            cpu_share: cpu_s / (wall_s * cores),
            thread_share_max: threads.map(|(now, then)| now - then).fold(0.0, f64::max) / wall_s,
            chunk_gap_mean_ms: ratio(ns_to_ms(tally.gap_sum_ns), tally.n_gaps as f64),
            n_over_cap: tally.n_over_cap,
        };
        judge(&mut health, tally.n_sent);
        health
    }

    fn worst_lag(&self) -> Option<Lag> {
        let since = clock::now().saturating_duration_since(self.started);
        let lags = self.lags.iter();
        let lags = lags.filter_map(|lags| {
            let mut lags = lags.lock().unwrap_or_else(PoisonError::into_inner);
            add_unread(&mut lags, since);
            lags.lag()
        });
        lags.max_by(|a, b| a.p99_ms.total_cmp(&b.p99_ms))
    }
}

/// A thread that is blocked to the end has read no ping since: those were due all the same, and are as late as now. One that
/// became due within the last period is not late yet.
fn add_unread(lags: &mut Histogram, since: Duration) {
    let n_due = (since.as_nanos() / PING.as_nanos()) as u64;
    for ping in lags.n() + 1..n_due {
        let due = PING.saturating_mul(u32::try_from(ping).unwrap_or(u32::MAX));
        lags.add(since.saturating_sub(due).as_nanos() as i64);
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// What is compared, from where on it is SUSPECT and INVALID, and its name.
type Check = (f64, f64, f64, &'static str);

fn checks(health: &ClientHealth, n_sent: u64) -> Vec<Check> {
    let tolerance_ms = (health.chunk_gap_mean_ms.unwrap_or(0.0) / 10.0).clamp(1.0, 10.0);
    let mut checks = vec![
        (health.cpu_share, 0.80, 0.95, "part of all cores used by the client"),
        (health.thread_share_max, 0.70, 0.90, "part of the time that a receiving thread is busy"),
    ];
    if let Some(lag) = health.watchdog_lag {
        checks.push((lag.p99_ms, tolerance_ms, 5.0 * tolerance_ms, "p99 lag of the client in ms"));
    }
    if let Some(lag) = health.load_lag {
        checks.push((lag.p99_ms, 2.0, 20.0, "p99 lateness of the load thread in ms"));
    }
    if let Some(lag) = health.schedule_lag {
        checks.push((lag.p99_ms, 2.0, 20.0, "p99 lateness of sending in ms"));
    }
    if let Some(events) = health.events_per_read {
        checks.push((events, 2.0, f64::INFINITY, "chunks a read"));
    }
    if let (Some(connect), Some(ttft_ms)) = (health.connect_time, health.ttft_p50_ms)
        && health.n_connects * 100 >= n_sent
    {
        let limit_ms = (ttft_ms / 10.0).max(1.0);
        checks.push((connect.p99_ms, limit_ms, f64::INFINITY, "p99 time to connect in ms"));
    }
    checks
}

fn judge(health: &mut ClientHealth, n_sent: u64) {
    for (value, suspect, invalid, what) in checks(health, n_sent) {
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
            .push("the client's own lag is unknown: the cell was shorter than 4 ms".to_owned());
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
            load_lag: lag(0.2),
            schedule_lag: lag(0.2),
            n_connects: 0,
            connect_time: None,
            ttft_p50_ms: Some(50.0),
            n_events: 10,
            events_per_read: Some(1.1),
            cpu_s: 0.1,
            cpu_us_per_event: Some(20.0),
            cpu_share: 0.1,
            thread_share_max: 0.2,
            chunk_gap_mean_ms: Some(gap_ms),
            n_over_cap: 0,
        };
        judge(&mut health, 10);
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
    fn pings_that_nobody_read_are_late() {
        let mut blocked = Histogram::default();
        blocked.add(50_000);
        add_unread(&mut blocked, Duration::from_millis(1000));
        let lag = blocked.lag().unwrap();
        // Of 250 pings one was read; the others have been waiting for up to 992 ms.
        assert_eq!(blocked.n(), 249);
        assert!(lag.max_ms > 990.0 && lag.p50_ms > 400.0, "{lag:?}");
        let mut awake = Histogram::default();
        (0..249).for_each(|_| awake.add(50_000));
        add_unread(&mut awake, Duration::from_millis(1000));
        assert!(awake.lag().unwrap().max_ms < 1.0, "the last one is not late yet");
    }

    #[test]
    fn the_worse_of_two_probes_is_told() {
        let (good, bad, slow) = (health(50.0, 0.1), health(10.0, 20.0), health(50.0, 4.0));
        assert!(
            bad.is_worse_than(&slow) && slow.is_worse_than(&good) && !good.is_worse_than(&good)
        );
    }

    #[test]
    fn unknown_lag_and_unsent_requests_are_said() {
        let mut unknown = health(50.0, 0.1);
        unknown.watchdog_lag = None;
        judge(&mut unknown, 10);
        assert_eq!(unknown.verdict, Verdict::Suspect);
        let mut capped = health(50.0, 0.1);
        capped.n_over_cap = 3;
        judge(&mut capped, 10);
        assert_eq!(capped.verdict, Verdict::Invalid);
    }

    #[test]
    fn connections_matter_when_many_requests_open_one() {
        let connecting = |n_connects, p99_ms| {
            let mut health = health(50.0, 0.1);
            health.n_connects = n_connects;
            health.connect_time = Some(Lag { p50_ms: 0.1, p99_ms, max_ms: 90.0 });
            judge(&mut health, 1000);
            health.verdict
        };
        assert_eq!(connecting(10, 4.0), Verdict::Valid, "a tenth of the TTFT is 5 ms");
        assert_eq!(connecting(9, 80.0), Verdict::Valid, "one in a hundred does not");
        assert_eq!(connecting(10, 80.0), Verdict::Suspect);
    }

    #[test]
    fn one_busy_thread_is_enough() {
        let mut busy = health(50.0, 0.1);
        busy.thread_share_max = 0.91;
        judge(&mut busy, 10);
        assert_eq!(busy.verdict, Verdict::Invalid);
        let mut late = health(50.0, 0.1);
        late.load_lag = Some(Lag { p50_ms: 0.1, p99_ms: 3.0, max_ms: 3.0 });
        judge(&mut late, 10);
        assert_eq!(late.verdict, Verdict::Suspect);
    }

    #[test]
    fn chunks_of_one_read_are_seen_by_their_stamp() {
        let mut tally = Tally::default();
        let capture = Capture { sent_ns: Some(5), connect_ns: Some(2), ..Capture::default() };
        let answer = Answer { chunk_ns: vec![10, 10, 10, 40], n_events: 6, ..Answer::default() };
        tally.add(3, &capture, &answer);
        assert_eq!((tally.n_chunks, tally.n_reads, tally.n_events), (4, 2, 6));
        assert_eq!((tally.gap_sum_ns, tally.n_gaps, tally.connects.n()), (30, 3, 1));
    }

    #[test]
    fn verdicts_are_written_in_capitals() {
        assert_eq!(serde_json::to_string(&Verdict::Suspect).unwrap(), "\"SUSPECT\"");
    }
}
