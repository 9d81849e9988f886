//! The one load loop: wait until due, take a slot, send, receive, hand over.
//!
//! One thread decides when to send. It sleeps in the kernel (about 0.06 ms late at rest) and not on a tokio timer (1 ms),
//! and it sleeps apart from the receiving threads, so that a burst of answers does not delay the next request. A closed
//! loop differs from an open one only in that a slot's release is the due time. A turn of a conversation is due after the
//! answer before it (`follow`): the loop hears of it while it waits for something else. Nothing is skipped: what is not sent
//! is an outcome that says why.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, OnceLock, mpsc},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::{AbortHandle, Abortable};

use super::{
    answer::{self, Capture},
    follow::{Ended, Followers, Said, Then},
    histogram::Histogram,
    http::{Http, exchange},
    shards::{Place, Shards},
};
use crate::{
    execute::StopFlag,
    workload::{Due, Request},
};

/// How long the loop sleeps at most before it looks at the stop flag.
const LOOK: Duration = Duration::from_millis(50);

/// Outcomes that may wait for the writer; beyond it answers wait in their tasks, after their slot was freed.
const OUTCOMES_WAITING: usize = 1024;

/// Makes body and text of a turn from what was said before it.
pub(super) type Follow<'a> = dyn Fn(&Request, &[Said<'_>]) -> (Bytes, String) + Sync + 'a;

/// What to send.
pub(super) struct Job<'a> {
    pub(super) requests: &'a [Request],
    /// Slots for requests that are due `WhenFree`.
    pub(super) concurrency: usize,
    /// Most requests in flight of an open loop; beyond it a request becomes a row with `err` and the cell is INVALID.
    pub(super) in_flight_max: usize,
    /// Longest wait after the last request was sent, or after the stop flag was raised.
    pub(super) drain: Duration,
    pub(super) body: &'a (dyn Fn(&Request) -> Bytes + Sync),
    /// For turns that follow others.
    pub(super) follow: &'a Follow<'a>,
}

/// What became of one request.
pub(super) struct Outcome {
    /// Index in `Job::requests`.
    pub(super) index: usize,
    pub(super) due_ns: i64,
    /// All that was sent, where it is more than the request's prompt.
    pub(super) transcript: Option<String>,
    /// `Err` says why it was not sent.
    pub(super) result: Result<Capture, String>,
}

/// Sends everything and hands each outcome to `take`, on this thread. An error of `take` ends the job and is returned.
/// Else how late the load thread woke, each time that it had slept.
pub(super) fn run(
    job: &Job<'_>,
    http: &Arc<Http>,
    shards: &Shards,
    stop: &StopFlag,
    take: &mut dyn FnMut(Outcome) -> anyhow::Result<()>,
) -> anyhow::Result<Histogram> {
    let (out, mut outcomes) = tokio::sync::mpsc::channel(OUTCOMES_WAITING);
    let halt = StopFlag::default();
    let mut n_taken = 0;
    let mut failure = None;
    let mut wakes = Histogram::default();
    std::thread::scope(|scope| {
        let sender = Sender::new(job, http, shards, [stop, &halt], out);
        let sending = std::thread::Builder::new().name("kvbench-load".to_owned());
        let sending = sending.spawn_scoped(scope, move || sender.send_all());
        while let Some(outcome) = outcomes.blocking_recv() {
            n_taken += 1;
            if failure.is_none()
                && let Err(error) = take(outcome)
            {
                failure = Some(error);
                halt.raise();
            }
        }
        match sending.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(late)) => wakes = late,
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(error) => failure = Some(anyhow::anyhow!("load thread: {error}")),
        }
    });
    match failure {
        Some(error) => Err(error),
        None if n_taken < job.requests.len() => {
            anyhow::bail!("load loop: expected {} outcomes, got {n_taken}", job.requests.len())
        }
        None => Ok(wakes),
    }
}

struct Sender<'a> {
    job: &'a Job<'a>,
    http: &'a Arc<Http>,
    shards: &'a Shards,
    /// The user's stop flag, and the one for a writer that failed.
    stops: [&'a StopFlag; 2],
    out: tokio::sync::mpsc::Sender<Outcome>,
    freed_tx: mpsc::Sender<Ended>,
    freed: mpsc::Receiver<Ended>,
    followers: Followers<'a>,
    /// When each free slot came free; `None` for one that was never used, which is free when it is asked for: that the first
    /// requests of a closed loop are written one after the other is no lateness.
    slots: VecDeque<Option<i64>>,
    in_flight: usize,
    start_ns: i64,
    /// How late this thread woke.
    wakes: Histogram,
    /// Of what is in flight: a handle keeps the memory of its task.
    aborts: HashMap<usize, AbortHandle>,
    /// Why running requests were given up; set before they are.
    reason: Arc<OnceLock<String>>,
}

impl<'a> Sender<'a> {
    fn new(
        job: &'a Job<'a>,
        http: &'a Arc<Http>,
        shards: &'a Shards,
        stops: [&'a StopFlag; 2],
        out: tokio::sync::mpsc::Sender<Outcome>,
    ) -> Self {
        let (freed_tx, freed) = mpsc::channel();
        let start_ns = http.clock.now_ns();
        let slots = VecDeque::from(vec![None; job.concurrency]);
        let (aborts, reason) = (HashMap::new(), Arc::default());
        Self {
            job,
            http,
            shards,
            stops,
            out,
            freed_tx,
            freed,
            followers: Followers::new(job.requests),
            slots,
            in_flight: 0,
            start_ns,
            wakes: Histogram::default(),
            aborts,
            reason,
        }
    }

    fn send_all(mut self) -> Histogram {
        let is_first = |(_, request): &(usize, &Request)| !matches!(request.due, Due::After { .. });
        for (index, request) in self.job.requests.iter().enumerate().filter(is_first) {
            // Before the wait, so that writing a long prompt as JSON does not make the request late.
            let body = (self.job.body)(request);
            let Some(due_ns) = self.wait(request.due) else {
                self.refuse_from(index);
                break;
            };
            self.dispatch(index, due_ns, body, None);
        }
        self.finish_conversations();
        self.drain();
        for index in self.followers.give_up_all() {
            self.refuse(index, self.http.clock.now_ns(), "not sent: interrupted".to_owned());
        }
        self.wakes
    }

    fn dispatch(&mut self, index: usize, due_ns: i64, body: Bytes, transcript: Option<String>) {
        if self.in_flight < self.job.in_flight_max {
            return self.spawn(index, due_ns, body, transcript);
        }
        let why = format!("not sent: {} requests are in flight already", self.in_flight);
        self.refuse(index, due_ns, why);
        if self.followers.is_followed(index) {
            self.broken(Ended { index, at_ns: due_ns, answer: None });
        }
    }

    /// Sends the turns of conversations that have come due. Their bodies can only be made now that the answers before
    /// them are in.
    fn send_followers(&mut self) {
        while let Some((index, due_ns)) = self.followers.pop(self.http.clock.now_ns()) {
            let (body, text) =
                (self.job.follow)(&self.job.requests[index], &self.followers.before(index));
            self.dispatch(index, due_ns, body, Some(text));
        }
    }

    /// Gives up the turns after one that failed.
    fn broken(&mut self, ended: Ended) {
        let at_ns = ended.at_ns;
        if let Then::Breaks(lost, why) = self.followers.ended(ended) {
            lost.into_iter().for_each(|index| self.refuse(index, at_ns, why.clone()));
        }
    }

    /// After the last first turn: sends what still follows, until no answer is waited for.
    fn finish_conversations(&mut self) {
        let mut quiet_since_ns = self.http.clock.now_ns();
        let total_ns = i64::try_from(self.http.total.as_nanos()).unwrap_or(i64::MAX / 2);
        while self.followers.any() && !self.stopped() {
            // A turn on the list is something that will happen, however long its user thinks.
            let expected = self.followers.next_due_ns().is_some();
            let heard = self.listen(LOOK);
            let now_ns = self.http.clock.now_ns();
            if heard || expected {
                quiet_since_ns = now_ns;
            }
            // Nothing was heard for longer than any request may take: `drain` knows what to do.
            if self.followers.next_due_ns().is_none() && now_ns - quiet_since_ns > total_ns {
                return;
            }
        }
    }

    /// Waits for the end of a request, a turn that comes due, or `most`; whether a request ended.
    fn listen(&mut self, most: Duration) -> bool {
        let left = self.followers.next_due_ns().map(|due_ns| due_ns - self.http.clock.now_ns());
        let left = left.map_or(most, |ns| most.min(Duration::from_nanos(ns.max(0).unsigned_abs())));
        let ended = self.freed.recv_timeout(left).ok();
        let heard = ended.is_some();
        if let Some(ended) = ended {
            self.wakes.add(self.http.clock.now_ns() - ended.at_ns);
            self.free(ended);
        }
        self.send_followers();
        heard
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
            // A follower is never waited for here: see `send_followers`.
            Due::WhenFree | Due::After { .. } => self.wait_for_slot(),
        }
    }

    fn wait_until(&mut self, due_ns: i64) -> Option<i64> {
        loop {
            if self.stopped() {
                return None;
            }
            while let Ok(ended) = self.freed.try_recv() {
                self.free(ended);
            }
            self.send_followers();
            let left_ns = due_ns - self.http.clock.now_ns();
            if left_ns <= 0 {
                return Some(due_ns);
            }
            let left = LOOK.min(Duration::from_nanos(left_ns.unsigned_abs()));
            // An answer that somebody waits for must be heard at once; else the loop sleeps undisturbed.
            if self.followers.any() {
                self.listen(left);
            } else {
                self.sleep(left);
            }
        }
    }

    fn sleep(&mut self, time: Duration) {
        let before_ns = self.http.clock.now_ns();
        std::thread::sleep(time);
        self.wakes.add(self.http.clock.now_ns() - before_ns - time.as_nanos() as i64);
    }

    fn wait_for_slot(&mut self) -> Option<i64> {
        while !self.stopped() {
            if let Some(slot) = self.slots.pop_front() {
                return Some(slot.unwrap_or_else(|| self.http.clock.now_ns()));
            }
            self.listen(LOOK);
        }
        None
    }

    /// A conversation keeps its slot until it has ended.
    fn free(&mut self, ended: Ended) {
        self.in_flight -= 1;
        self.aborts.remove(&ended.index);
        let at_ns = ended.at_ns;
        match self.followers.ended(ended) {
            Then::GoesOn => return,
            Then::Over => {}
            Then::Breaks(lost, why) => {
                lost.into_iter().for_each(|index| self.refuse(index, at_ns, why.clone()));
            }
        }
        self.slots.push_back(Some(at_ns));
    }

    fn refuse(&self, index: usize, due_ns: i64, why: String) {
        // The receiver lives until this thread has ended; if it died, its panic is what is reported.
        let outcome = Outcome { index, due_ns, transcript: None, result: Err(why) };
        drop(self.out.blocking_send(outcome));
    }

    fn refuse_from(&self, first: usize) {
        let now_ns = self.http.clock.now_ns();
        for (index, request) in self.job.requests.iter().enumerate().skip(first) {
            let due_ns = match request.due {
                Due::AtNs(at_ns) => {
                    self.start_ns.saturating_add(i64::try_from(at_ns).unwrap_or(i64::MAX))
                }
                Due::WhenFree => now_ns,
                // Given up at the end, with those of conversations that began.
                Due::After { .. } => continue,
            };
            self.refuse(index, due_ns, "not sent: interrupted".to_owned());
        }
    }

    fn spawn(&mut self, index: usize, due_ns: i64, body: Bytes, transcript: Option<String>) {
        let (abort, registration) = AbortHandle::new_pair();
        self.aborts.insert(index, abort);
        self.in_flight += 1;
        let (http, out, reason) = (self.http.clone(), self.out.clone(), self.reason.clone());
        let followed = self.followers.is_followed(index);
        let (shard, place) = self.shards.place();
        let mut freed = Freed {
            http: http.clone(),
            freed: self.freed_tx.clone(),
            index,
            answer: None,
            _place: place,
        };
        self.shards.spawn(shard, async move {
            let mut capture = Capture::default();
            let sending = Abortable::new(exchange(&http, shard, body, &mut capture), registration);
            if sending.await.is_err() {
                capture.failure = reason.get().cloned();
                capture.done_ns = Some(http.clock.now_ns());
            }
            if followed {
                freed.answer = heard(&capture);
            }
            drop(freed);
            // As in `refuse`.
            drop(out.send(Outcome { index, due_ns, transcript, result: Ok(capture) }).await);
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
            if let Ok(ended) = self.freed.recv_timeout(LOOK.min(left)) {
                self.free(ended);
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
        self.aborts.drain().for_each(|(_, abort)| abort.abort());
    }
}

/// The answer that the next turn will hold. Read on the receiving side, which delays its other streams by some
/// microseconds an event; only turns that are followed pay for it.
fn heard(capture: &Capture) -> Option<(i64, Result<String, String>)> {
    let answer = answer::read(capture);
    Some((capture.done_ns?, answer.err.map_or(Ok(answer.text), Err)))
}

/// Frees a slot when dropped, so that not even a panic in a task keeps it.
struct Freed {
    http: Arc<Http>,
    freed: mpsc::Sender<Ended>,
    index: usize,
    answer: Option<(i64, Result<String, String>)>,
    _place: Place,
}

impl Drop for Freed {
    fn drop(&mut self) {
        // Nobody listens any more once the load thread has ended.
        let (index, at_ns, answer) = (self.index, self.http.clock.now_ns(), self.answer.take());
        let _ = self.freed.send(Ended { index, at_ns, answer });
    }
}
