//! One engine under one load.

use super::{Engine, Event, Happening, Rejected, Request, StepError};
use crate::units::ns_to_s;

/// When requests are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Load {
    /// Each at its own time, in the order of the requests or not.
    Open(Vec<i64>),
    /// So many in flight, the next one when one has ended.
    Closed {
        /// Requests in flight.
        concurrency: usize,
        /// When the first are sent.
        start_ns: i64,
    },
}

/// What the way to the engine and back takes: constants, since they are a network's and a client's and no queue is modelled there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Client {
    /// From sending until the engine can see the request, the way back of its tokens included.
    pub request_ns: i64,
    /// From the end of an answer until a closed loop sends the next request.
    pub turnaround_ns: i64,
}

/// How a request fared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// When it was sent.
    pub sent_ns: i64,
    /// When it first left the queue.
    pub admitted_ns: i64,
    /// When the first token was there.
    pub first_token_ns: i64,
    /// When the last token was there.
    pub finished_ns: i64,
    /// Tokens of the answer, which its context may have cut short.
    pub output_tokens: u64,
    /// How often it was thrown out.
    pub n_preempted: u32,
}

/// Why a load cannot be replayed.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum ReplayError {
    /// An open load has another number of times than of requests.
    #[error("expected a time for each of {requests} requests, got {times}")]
    Times {
        /// Requests.
        requests: usize,
        /// Times.
        times: usize,
    },
    /// A closed load of nothing.
    #[error("expected at least one request in flight, got 0")]
    NothingInFlight,
    /// The engine stopped.
    #[error(transparent)]
    Step(#[from] StepError),
}

/// A load that has run to its end.
#[derive(Debug, Clone)]
pub struct Replayed {
    /// By request, in the order they were given; `None` for those that were rejected.
    pub outcomes: Vec<Option<Outcome>>,
    /// When each token was there, by request; empty unless the engine tells ([`Engine::with_tokens`]).
    pub token_ns: Vec<Vec<i64>>,
    /// Requests that the engine cannot serve, by their place.
    pub rejected: Vec<(usize, Rejected)>,
    /// The engine at the end.
    pub engine: Engine,
}

impl Outcome {
    /// Seconds from sending to the first token.
    pub fn ttft_s(&self) -> f64 {
        ns_to_s(self.first_token_ns - self.sent_ns)
    }

    /// Seconds from sending to the last token.
    pub fn e2e_s(&self) -> f64 {
        ns_to_s(self.finished_ns - self.sent_ns)
    }

    /// Seconds a token after the first; `None` for an answer of one token.
    pub fn tpot_s(&self) -> Option<f64> {
        let more = self.output_tokens.checked_sub(1).filter(|more| *more > 0)?;
        Some(ns_to_s(self.finished_ns - self.first_token_ns) / more as f64)
    }
}

/// Runs `requests` through an idle engine until the last answer has ended.
///
/// # Errors
/// A load that does not go with the requests, or step times that are no times.
pub fn replay(
    engine: Engine,
    requests: &[Request],
    load: &Load,
    client: Client,
) -> Result<Replayed, ReplayError> {
    let mut run = Run::new(engine, requests, client);
    match load {
        Load::Open(times) => run.send_all(times)?,
        Load::Closed { concurrency: 0, .. } => return Err(ReplayError::NothingInFlight),
        Load::Closed { concurrency, start_ns } => {
            for _ in 0..*concurrency {
                run.send_next(*start_ns);
            }
        }
    }
    let is_closed = matches!(load, Load::Closed { .. });
    let mut events = Vec::new();
    while run.engine.next_event_ns().is_some() {
        run.engine.advance(&mut events)?;
        for event in events.drain(..) {
            run.note(&event);
            if is_closed && event.what == Happening::Finished {
                run.send_next(event.at_ns + client.turnaround_ns);
            }
        }
    }
    let outcomes = run.outcomes.into_iter().map(|(outcome, done)| done.then_some(outcome));
    Ok(Replayed {
        outcomes: outcomes.collect(),
        token_ns: run.token_ns,
        rejected: run.rejected,
        engine: run.engine,
    })
}

struct Run<'a> {
    engine: Engine,
    requests: &'a [Request],
    client: Client,
    outcomes: Vec<(Outcome, bool)>,
    token_ns: Vec<Vec<i64>>,
    rejected: Vec<(usize, Rejected)>,
    /// Next request of a closed load.
    next: usize,
}

impl<'a> Run<'a> {
    fn new(engine: Engine, requests: &'a [Request], client: Client) -> Self {
        let blank = |request: &Request| Outcome {
            sent_ns: 0,
            admitted_ns: i64::MIN,
            first_token_ns: 0,
            finished_ns: 0,
            output_tokens: engine.output_tokens(request),
            n_preempted: 0,
        };
        let outcomes = requests.iter().map(|request| (blank(request), false)).collect();
        let token_ns = vec![Vec::new(); requests.len()];
        Self { engine, requests, client, outcomes, token_ns, rejected: Vec::new(), next: 0 }
    }

    fn send_all(&mut self, times: &[i64]) -> Result<(), ReplayError> {
        let (requests, times_n) = (self.requests.len(), times.len());
        if requests != times_n {
            return Err(ReplayError::Times { requests, times: times_n });
        }
        let mut order: Vec<usize> = (0..requests).collect();
        order.sort_by_key(|&index| times[index]);
        order.into_iter().for_each(|index| {
            self.send(index, times[index]);
        });
        Ok(())
    }

    /// Sends the next request of a closed load; one that is rejected keeps no place.
    fn send_next(&mut self, at_ns: i64) {
        while self.next < self.requests.len() {
            self.next += 1;
            if self.send(self.next - 1, at_ns) {
                return;
            }
        }
    }

    fn send(&mut self, index: usize, at_ns: i64) -> bool {
        self.outcomes[index].0.sent_ns = at_ns;
        // Inside, a request is called by its place.
        let request = Request { id: index as u64, ..self.requests[index] };
        let pushed = self.engine.push(at_ns + self.client.request_ns, request);
        self.rejected.extend(pushed.err().map(|why| (index, why)));
        pushed.is_ok()
    }

    fn note(&mut self, event: &Event) {
        let (outcome, done) = &mut self.outcomes[event.id as usize];
        match event.what {
            Happening::Admitted if outcome.admitted_ns == i64::MIN => {
                outcome.admitted_ns = event.at_ns;
            }
            Happening::Admitted => {}
            Happening::FirstToken => {
                outcome.first_token_ns = event.at_ns;
                self.token_ns[event.id as usize].push(event.at_ns);
            }
            Happening::Token => self.token_ns[event.id as usize].push(event.at_ns),
            Happening::Preempted => outcome.n_preempted += 1,
            Happening::Finished => (outcome.finished_ns, *done) = (event.at_ns, true),
        }
    }
}
