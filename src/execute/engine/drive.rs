//! The one load loop: wait until due, take a slot, send, receive, hand over.
//!
//! One thread decides when to send. It sleeps in the kernel (about 0.06 ms late at rest) and not on a tokio timer (1 ms),
//! and it sleeps apart from the receiving workers, so that a burst of answers does not delay the next request. A closed
//! loop differs from an open one only in that a slot's release is the due time. Nothing is skipped: what is not sent
//! is an outcome that says why.

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock, mpsc},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::{AbortHandle, Abortable};
use tokio::runtime::Handle;

use super::{
    answer::Capture,
    http::{Http, exchange},
};
use crate::{
    execute::StopFlag,
    workload::{Due, Request},
};

/// Most requests in flight of an open loop. Beyond it a request becomes a row with `err` and the cell is INVALID: the
/// server is so far behind that more sockets would only measure this machine.
pub const IN_FLIGHT_MAX: usize = 10_000;

/// How long the loop sleeps at most before it looks at the stop flag.
const LOOK: Duration = Duration::from_millis(50);

/// Outcomes that may wait for the writer; beyond it answers wait in their tasks, after their slot was freed.
const OUTCOMES_WAITING: usize = 1024;

/// What to send.
pub(super) struct Job<'a> {
    pub(super) requests: &'a [Request],
    /// Slots for requests that are due `WhenFree`.
    pub(super) concurrency: usize,
    /// Longest wait after the last request was sent, or after the stop flag was raised.
    pub(super) drain: Duration,
    pub(super) body: &'a (dyn Fn(&Request) -> Bytes + Sync),
}

/// What became of one request.
pub(super) struct Outcome {
    /// Index in `Job::requests`.
    pub(super) index: usize,
    pub(super) due_ns: i64,
    /// `Err` says why it was not sent.
    pub(super) result: Result<Capture, String>,
}

/// Sends everything and hands each outcome to `take`, on this thread. An error of `take` ends the job and is returned.
pub(super) fn run(
    job: &Job<'_>,
    http: &Arc<Http>,
    runtime: &Handle,
    stop: &StopFlag,
    take: &mut dyn FnMut(Outcome) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let (out, mut outcomes) = tokio::sync::mpsc::channel(OUTCOMES_WAITING);
    let halt = StopFlag::default();
    let mut n_taken = 0;
    let mut failure = None;
    std::thread::scope(|scope| {
        let sender = Sender::new(job, http, runtime, [stop, &halt], out);
        let sending = std::thread::Builder::new().name("kvbench-load".to_owned());
        if let Err(error) = sending.spawn_scoped(scope, move || sender.send_all()) {
            failure = Some(anyhow::anyhow!("load thread: {error}"));
        }
        while let Some(outcome) = outcomes.blocking_recv() {
            n_taken += 1;
            if failure.is_none()
                && let Err(error) = take(outcome)
            {
                failure = Some(error);
                halt.raise();
            }
        }
    });
    match failure {
        Some(error) => Err(error),
        None if n_taken < job.requests.len() => {
            anyhow::bail!("load loop: expected {} outcomes, got {n_taken}", job.requests.len())
        }
        None => Ok(()),
    }
}

struct Sender<'a> {
    job: &'a Job<'a>,
    http: &'a Arc<Http>,
    runtime: &'a Handle,
    /// The user's stop flag, and the one for a writer that failed.
    stops: [&'a StopFlag; 2],
    out: tokio::sync::mpsc::Sender<Outcome>,
    freed_tx: mpsc::Sender<i64>,
    freed: mpsc::Receiver<i64>,
    /// When each free slot came free.
    slots: VecDeque<i64>,
    in_flight: usize,
    start_ns: i64,
    aborts: Vec<AbortHandle>,
    /// Why running requests were given up; set before they are.
    reason: Arc<OnceLock<String>>,
}

impl<'a> Sender<'a> {
    fn new(
        job: &'a Job<'a>,
        http: &'a Arc<Http>,
        runtime: &'a Handle,
        stops: [&'a StopFlag; 2],
        out: tokio::sync::mpsc::Sender<Outcome>,
    ) -> Self {
        let (freed_tx, freed) = mpsc::channel();
        let start_ns = http.clock.now_ns();
        let slots = VecDeque::from(vec![start_ns; job.concurrency]);
        let (aborts, reason) = (Vec::new(), Arc::default());
        Self {
            job,
            http,
            runtime,
            stops,
            out,
            freed_tx,
            freed,
            slots,
            in_flight: 0,
            start_ns,
            aborts,
            reason,
        }
    }

    fn send_all(mut self) {
        for (index, request) in self.job.requests.iter().enumerate() {
            // Before the wait, so that writing a long prompt as JSON does not make the request late.
            let body = (self.job.body)(request);
            let Some(due_ns) = self.wait(request.due) else {
                self.refuse_from(index);
                break;
            };
            if self.in_flight >= IN_FLIGHT_MAX {
                self.refuse(
                    index,
                    due_ns,
                    format!("not sent: {IN_FLIGHT_MAX} requests are in flight already"),
                );
            } else {
                self.spawn(index, due_ns, body);
            }
        }
        self.drain();
    }

    fn stopped(&self) -> bool {
        self.stops.iter().any(|stop| stop.is_raised())
    }

    /// Returns the due time when it has come, `None` when the run was stopped.
    fn wait(&mut self, due: Due) -> Option<i64> {
        match due {
            Due::AtNs(at_ns) => {
                self.wait_until(self.start_ns + i64::try_from(at_ns).unwrap_or(i64::MAX / 2))
            }
            Due::WhenFree => self.wait_for_slot(),
        }
    }

    fn wait_until(&mut self, due_ns: i64) -> Option<i64> {
        loop {
            if self.stopped() {
                return None;
            }
            while let Ok(at_ns) = self.freed.try_recv() {
                self.free(at_ns);
            }
            let left_ns = due_ns - self.http.clock.now_ns();
            if left_ns <= 0 {
                return Some(due_ns);
            }
            std::thread::sleep(LOOK.min(Duration::from_nanos(left_ns.unsigned_abs())));
        }
    }

    fn wait_for_slot(&mut self) -> Option<i64> {
        while !self.stopped() {
            if let Some(at_ns) = self.slots.pop_front() {
                return Some(at_ns);
            }
            if let Ok(at_ns) = self.freed.recv_timeout(LOOK) {
                self.free(at_ns);
            }
        }
        None
    }

    fn free(&mut self, at_ns: i64) {
        self.in_flight -= 1;
        self.slots.push_back(at_ns);
    }

    fn refuse(&self, index: usize, due_ns: i64, why: String) {
        // The receiver lives until this thread has ended; if it died, its panic is what is reported.
        drop(self.out.blocking_send(Outcome { index, due_ns, result: Err(why) }));
    }

    fn refuse_from(&self, first: usize) {
        let now_ns = self.http.clock.now_ns();
        for (index, request) in self.job.requests.iter().enumerate().skip(first) {
            let due_ns = match request.due {
                Due::AtNs(at_ns) => {
                    self.start_ns.saturating_add(i64::try_from(at_ns).unwrap_or(i64::MAX))
                }
                Due::WhenFree => now_ns,
            };
            self.refuse(index, due_ns, "not sent: interrupted".to_owned());
        }
    }

    fn spawn(&mut self, index: usize, due_ns: i64, body: Bytes) {
        let (abort, registration) = AbortHandle::new_pair();
        self.aborts.push(abort);
        self.in_flight += 1;
        let (http, out, reason) = (self.http.clone(), self.out.clone(), self.reason.clone());
        let freed = Freed { http: http.clone(), freed: self.freed_tx.clone() };
        self.runtime.spawn(async move {
            let mut capture = Capture::default();
            let sending = Abortable::new(exchange(&http, body, &mut capture), registration);
            if sending.await.is_err() {
                capture.failure = reason.get().cloned();
                capture.done_ns = Some(http.clock.now_ns());
            }
            drop(freed);
            // As in `refuse`.
            drop(out.send(Outcome { index, due_ns, result: Ok(capture) }).await);
        });
    }

    /// Waits for what is in flight, then gives it up.
    fn drain(&mut self) {
        let mut interrupted = self.stopped();
        let drain_ns = i64::try_from(self.job.drain.as_nanos()).unwrap_or(i64::MAX / 2);
        // Left alone, each request ends by its own time-outs: cutting the slowest short would flatter the latencies.
        let total_ns = i64::try_from(self.http.total.as_nanos()).unwrap_or(i64::MAX / 2);
        let patience_ns = if interrupted { drain_ns } else { drain_ns.max(total_ns) };
        let mut end_ns = self.http.clock.now_ns().saturating_add(patience_ns);
        while self.in_flight > 0 {
            let now_ns = self.http.clock.now_ns();
            if self.stopped() && !interrupted {
                interrupted = true;
                end_ns = end_ns.min(now_ns.saturating_add(drain_ns));
            }
            if now_ns >= end_ns || self.stops[1].is_raised() {
                self.give_up(interrupted);
            }
            let left = Duration::from_nanos((end_ns - now_ns).max(1_000_000).unsigned_abs());
            if let Ok(at_ns) = self.freed.recv_timeout(LOOK.min(left)) {
                self.free(at_ns);
            }
        }
    }

    fn give_up(&mut self, interrupted: bool) {
        let why = if interrupted {
            "unfinished: interrupted".to_owned()
        } else {
            "unfinished: still running long after its own time-out".to_owned()
        };
        self.reason.get_or_init(|| why);
        self.aborts.drain(..).for_each(|abort| abort.abort());
    }
}

/// Frees a slot when dropped, so that not even a panic in a task keeps it.
struct Freed {
    http: Arc<Http>,
    freed: mpsc::Sender<i64>,
}

impl Drop for Freed {
    fn drop(&mut self) {
        // Nobody listens any more once the load thread has ended.
        let _ = self.freed.send(self.http.clock.now_ns());
    }
}
