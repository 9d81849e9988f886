//! A router in front of simulated engines.
//!
//! # What happens at one moment
//!
//! Times are whole nanoseconds, so ties are real and have one order: first the steps that end, by the place of their engine, then the
//! requests that are given up, then the arrivals, by their place in the trace, then the steps that begin. So a router sees what has been
//! freed at that very moment, and a request is in the first step that it can be in, which is what [`Engine`] asks of whoever drives it.
//!
//! # What a router sees
//!
//! The state of an engine is looked up when a request arrives and the engine has moved since: what it computes, what waits, and of
//! the tokens that the policy expected of each request inside those that have not come. It is exact at every look, in time that grows
//! with the requests inside, which a single step of the engine costs too; nothing is carried over from look to look that could drift.

use std::{cmp::Reverse, collections::BinaryHeap};

use crate::predict::simulate::{
    ConfigError, Engine, EngineConfig, Event, Happening, Request, StepError, Times,
};

use super::{Ask, Decision, EngineState, Pool};

#[cfg(test)]
mod tests;

/// A request with all that is true of it, the same for every policy.
#[derive(Debug, Clone, PartialEq)]
pub struct Arrival {
    /// Its number in the trace.
    pub id: u64,
    /// When it comes.
    pub at_ns: i64,
    /// Tokens of its prompt.
    pub prompt_tokens: u64,
    /// Its task.
    pub task: Option<String>,
    /// Tokens of its answer under each method of the pool.
    pub output_tokens: Vec<u64>,
    /// What a predictor says of them.
    pub predicted_tokens: Vec<f64>,
    /// Whether each method breaks it.
    pub breaks: Vec<bool>,
    /// When it is given up, if it has not been answered by then: its client goes, or its engine breaks it off. `None` of one that is not.
    pub leaves_ns: Option<i64>,
}

/// Why a request that was given up was not served.
pub const GIVEN_UP: &str = "given up";

/// How a request fared.
#[derive(Debug, Clone, PartialEq)]
pub struct Fared {
    /// Place in the arrivals.
    pub arrival: usize,
    /// What was decided, with what was believed: of several decisions the last that named an engine.
    pub decision: Decision,
    /// Engines that it was offered to.
    pub n_asked: u32,
    /// When it first left the queue.
    pub admitted_ns: Option<i64>,
    /// When the first token was there.
    pub first_token_ns: Option<i64>,
    /// When the last token was there.
    pub finished_ns: Option<i64>,
    /// When it was given up.
    pub gone_ns: Option<i64>,
    /// How often it lost its blocks.
    pub n_preempted: u32,
    /// Why it was not served.
    pub err: Option<String>,
}

/// What an engine did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EngineWork {
    /// Time in which a step ran.
    pub busy_ns: i64,
    /// Steps.
    pub n_steps: u64,
    /// Requests that it took.
    pub n_requests: u64,
    /// Preemptions.
    pub n_preempted: u64,
    /// Most tokens in its cache.
    pub kv_tokens_most: u64,
}

/// What a policy may know of lengths, as numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LengthsSeen {
    /// This many tokens of every request under every method.
    Constant(f64),
    /// [`Arrival::predicted_tokens`].
    Predicted,
    /// [`Arrival::output_tokens`].
    True,
}

/// A cluster before anything has arrived.
#[derive(Debug, Clone)]
pub struct Cluster<'a> {
    /// The engines as the router believes them to be.
    pub pool: &'a Pool,
    /// The engines as they are, in the same order.
    pub engines: Vec<Engine>,
    /// What the policy knows of lengths.
    pub lengths: LengthsSeen,
    /// Whether the policy knows which prompts a method breaks.
    pub sees_breaks: bool,
}

/// A trace that has run to its end.
#[derive(Debug, Clone, PartialEq)]
pub struct Ran {
    /// By arrival.
    pub fared: Vec<Fared>,
    /// By engine of the pool.
    pub engines: Vec<EngineWork>,
    /// The last end of an answer, or the last arrival where that is later; 0 of an empty trace.
    pub ended_ns: i64,
}

/// Why a cluster cannot be simulated.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ClusterError {
    /// Rules of an engine that are none.
    #[error("engine {0}: {1}")]
    Config(String, ConfigError),
    /// An engine stopped.
    #[error("engine {0}: {1}")]
    Step(String, StepError),
    /// Another number of engines than the router believes in.
    #[error("expected as many engines as the pool has ({pool}), got {engines}")]
    Engines {
        /// Members of the pool.
        pool: usize,
        /// Engines.
        engines: usize,
    },
    /// An arrival that is none.
    #[error(
        "arrival {0}: expected values of all {1} methods and a time no earlier than the one before"
    )]
    Arrival(usize, usize),
    /// A policy chose an engine that may not be asked.
    #[error("arrival {arrival}: the policy chose engine {engine}, which may not be asked")]
    Choice {
        /// Place of the arrival.
        arrival: usize,
        /// Place of the engine.
        engine: usize,
    },
}

/// Engines with these rules and step times.
///
/// # Errors
/// Rules that are none, with the name of the engine.
pub fn engines<'a>(
    members: impl IntoIterator<Item = (&'a str, EngineConfig, Times)>,
) -> Result<Vec<Engine>, ClusterError> {
    let one = |(name, config, times): (&str, EngineConfig, Times)| {
        Engine::new(config, times).map_err(|why| ClusterError::Config(name.to_owned(), why))
    };
    members.into_iter().map(one).collect()
}

/// Sends `arrivals` through the router until the last answer has ended. A request that an engine can never serve is offered to the
/// others, each time as if the engines that refused it were down; one that nobody takes has the reason as its `err`.
///
/// # Errors
/// Engines and arrivals that do not belong together, a choice that is none, or step times that are no times.
pub fn run(
    cluster: Cluster<'_>,
    arrivals: &[Arrival],
    decide: impl FnMut(&Ask<'_>, &Pool, &[EngineState]) -> Decision,
) -> Result<Ran, ClusterError> {
    check(&cluster, arrivals)?;
    let mut run = Run::new(cluster, arrivals, decide);
    while let Some((_, what, place)) = run.next() {
        match what {
            What::Arrives => run.arrive(place)?,
            What::StepEnds | What::StepBegins => run.step(place)?,
            What::Leaves => run.leave(),
        }
    }
    Ok(run.finish())
}

fn check(cluster: &Cluster<'_>, arrivals: &[Arrival]) -> Result<(), ClusterError> {
    let (pool, engines) = (cluster.pool.engines.len(), cluster.engines.len());
    if pool != engines {
        return Err(ClusterError::Engines { pool, engines });
    }
    let n = cluster.pool.methods.len();
    let whole = |a: &Arrival| {
        a.output_tokens.len() == n && a.predicted_tokens.len() == n && a.breaks.len() == n
    };
    let wrong = (0..arrivals.len())
        .find(|&i| !whole(&arrivals[i]) || (i > 0 && arrivals[i].at_ns < arrivals[i - 1].at_ns));
    wrong.map_or(Ok(()), |place| Err(ClusterError::Arrival(place, n)))
}

/// In the order in which they happen at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    StepEnds,
    Leaves,
    Arrives,
    StepBegins,
}

struct Node {
    engine: Engine,
    method: usize,
    /// When the step under way began.
    step_since_ns: Option<i64>,
    busy_ns: i64,
    n_requests: u64,
    /// Whether something has changed since the router looked.
    moved: bool,
}

impl Node {
    fn new(engine: Engine, method: usize) -> Self {
        Self { engine, method, step_since_ns: None, busy_ns: 0, n_requests: 0, moved: true }
    }

    fn next(&self, place: usize) -> Option<(i64, What, usize)> {
        let what = if self.step_since_ns.is_some() { What::StepEnds } else { What::StepBegins };
        self.engine.next_event_ns().map(|at_ns| (at_ns, what, place))
    }

    /// Every advance either begins a step or ends the one under way.
    fn step(&mut self, events: &mut Vec<Event>) -> Result<(), StepError> {
        let Some(at_ns) = self.engine.next_event_ns() else { return Ok(()) };
        self.engine.advance(events)?;
        self.moved = true;
        match self.step_since_ns.take() {
            Some(since_ns) => self.busy_ns += at_ns - since_ns,
            None => self.step_since_ns = Some(at_ns),
        }
        Ok(())
    }

    fn look(&self, expected: &[f64]) -> EngineState {
        let seen = self.engine.state();
        let left = self.engine.requests().map(|request| {
            (expected[request.id as usize] - request.generated_tokens as f64).max(1.0)
        });
        EngineState {
            is_up: true,
            running: seen.running,
            waiting: seen.waiting,
            prompt_tokens_left: seen.prompt_tokens_left,
            kv_tokens: seen.kv_tokens,
            output_tokens_left: left.sum(),
        }
    }

    fn work(&self) -> EngineWork {
        let state = self.engine.state();
        EngineWork {
            busy_ns: self.busy_ns,
            n_steps: state.n_steps,
            n_requests: self.n_requests,
            n_preempted: state.n_preempted,
            kv_tokens_most: self.engine.kv_tokens_most(),
        }
    }
}

struct Run<'a, D> {
    pool: &'a Pool,
    lengths: LengthsSeen,
    sees_breaks: bool,
    arrivals: &'a [Arrival],
    decide: D,
    nodes: Vec<Node>,
    seen: Vec<EngineState>,
    /// Tokens that were expected of each answer under the method it got.
    expected: Vec<f64>,
    /// What the policy knows of the lengths of the request that arrives.
    known: Vec<f64>,
    fared: Vec<Fared>,
    events: Vec<Event>,
    /// When requests inside are given up, the first at the top. Those that have ended by then are in it too.
    leaving: BinaryHeap<Reverse<(i64, usize)>>,
    ended_ns: i64,
}

impl<'a, D: FnMut(&Ask<'_>, &Pool, &[EngineState]) -> Decision> Run<'a, D> {
    fn new(cluster: Cluster<'a>, arrivals: &'a [Arrival], decide: D) -> Self {
        let Cluster { pool, engines, lengths, sees_breaks } = cluster;
        let nodes = engines.into_iter().zip(&pool.engines);
        Self {
            pool,
            lengths,
            sees_breaks,
            arrivals,
            decide,
            seen: vec![EngineState::default(); pool.engines.len()],
            nodes: nodes.map(|(engine, member)| Node::new(engine, member.method)).collect(),
            expected: vec![1.0; arrivals.len()],
            known: vec![1.0; pool.methods.len()],
            fared: Vec::with_capacity(arrivals.len()),
            events: Vec::new(),
            leaving: BinaryHeap::new(),
            ended_ns: 0,
        }
    }

    fn next(&self) -> Option<(i64, What, usize)> {
        let place = self.fared.len();
        let arrives = self.arrivals.get(place).map(|a| (a.at_ns, What::Arrives, place));
        let leaves =
            self.leaving.peek().map(|Reverse((at_ns, place))| (*at_ns, What::Leaves, *place));
        let engines = self.nodes.iter().enumerate().filter_map(|(place, node)| node.next(place));
        engines.chain(arrives).chain(leaves).min()
    }

    /// The request that is to be given up next; nothing happens where its answer has ended.
    fn leave(&mut self) {
        let Some(Reverse((at_ns, place))) = self.leaving.pop() else { return };
        let fared = &mut self.fared[place];
        let Some(node) = fared.decision.engine.and_then(|engine| self.nodes.get_mut(engine)) else {
            return;
        };
        if node.engine.leave(place as u64) {
            node.moved = true;
            fared.gone_ns = Some(at_ns);
            fared.err = Some(GIVEN_UP.to_owned());
            self.ended_ns = self.ended_ns.max(at_ns);
        }
    }

    fn step(&mut self, place: usize) -> Result<(), ClusterError> {
        self.nodes[place]
            .step(&mut self.events)
            .map_err(|why| ClusterError::Step(self.pool.engines[place].name.clone(), why))?;
        let mut events = std::mem::take(&mut self.events);
        events.drain(..).for_each(|event| self.note(&event));
        self.events = events;
        Ok(())
    }

    fn note(&mut self, event: &Event) {
        let fared = &mut self.fared[event.id as usize];
        match event.what {
            Happening::Admitted if fared.admitted_ns.is_none() => {
                fared.admitted_ns = Some(event.at_ns);
            }
            Happening::Admitted | Happening::Token => {}
            Happening::FirstToken => fared.first_token_ns = Some(event.at_ns),
            Happening::Preempted => fared.n_preempted += 1,
            Happening::Finished => {
                fared.finished_ns = Some(event.at_ns);
                self.ended_ns = self.ended_ns.max(event.at_ns);
            }
        }
    }

    fn look(&mut self) {
        for (node, seen) in self.nodes.iter_mut().zip(&mut self.seen) {
            if std::mem::take(&mut node.moved) {
                *seen = node.look(&self.expected);
            }
        }
    }

    fn know(&mut self, arrival: &Arrival) {
        self.known.clear();
        match self.lengths {
            LengthsSeen::Constant(tokens) => self.known.resize(self.pool.methods.len(), tokens),
            LengthsSeen::Predicted => self.known.extend(&arrival.predicted_tokens),
            LengthsSeen::True => self.known.extend(arrival.output_tokens.iter().map(|n| *n as f64)),
        }
    }

    fn arrive(&mut self, place: usize) -> Result<(), ClusterError> {
        let arrival = &self.arrivals[place];
        self.ended_ns = self.ended_ns.max(arrival.at_ns);
        self.know(arrival);
        self.look();
        let fared = self.offer(place, arrival)?;
        self.fared.push(fared);
        Ok(())
    }

    /// Asks the policy until an engine takes the request or nobody is left.
    fn offer(&mut self, place: usize, arrival: &Arrival) -> Result<Fared, ClusterError> {
        let mut decision = self.ask(place, arrival);
        let (mut refused, mut n_asked) = (None, 0);
        let mut next = decision;
        let err = loop {
            let Some(engine) = next.engine else {
                let nobody = || format!("no engine may be asked ({})", next.reason.name());
                break Some(refused.unwrap_or_else(nobody));
            };
            if !self.seen.get(engine).is_some_and(|seen| seen.is_up) {
                return Err(ClusterError::Choice { arrival: place, engine });
            }
            (decision, n_asked) = (next, n_asked + 1);
            match self.push(place, arrival, engine) {
                Ok(()) => break None,
                Err(why) => refused = Some(why),
            }
            next = self.ask(place, arrival);
        };
        self.seen.iter_mut().for_each(|seen| seen.is_up = true);
        Ok(Fared { n_asked, err, ..Fared::blank(place, decision) })
    }

    fn ask(&mut self, place: usize, arrival: &Arrival) -> Decision {
        let ask = Ask {
            id: place as u64,
            now_ns: arrival.at_ns,
            prompt_tokens: arrival.prompt_tokens,
            output_tokens: &self.known,
            task: arrival.task.as_deref(),
            breaks: self.sees_breaks.then_some(&arrival.breaks),
        };
        (self.decide)(&ask, self.pool, &self.seen)
    }

    /// Inside, a request is called by its place. An engine that refuses it counts as down for this request.
    fn push(&mut self, place: usize, arrival: &Arrival, engine: usize) -> Result<(), String> {
        let node = &mut self.nodes[engine];
        let request = Request {
            id: place as u64,
            prompt_tokens: arrival.prompt_tokens,
            cached_tokens: 0,
            output_tokens: arrival.output_tokens[node.method],
        };
        if let Err(why) = node.engine.push(arrival.at_ns, request) {
            self.seen[engine].is_up = false;
            return Err(format!("engine {}: {why}", self.pool.engines[engine].name));
        }
        self.expected[place] = self.known[node.method];
        self.leaving
            .extend(arrival.leaves_ns.map(|at_ns| Reverse((at_ns.max(arrival.at_ns), place))));
        node.n_requests += 1;
        node.moved = true;
        Ok(())
    }

    fn finish(self) -> Ran {
        let engines = self.nodes.iter().map(Node::work).collect();
        Ran { fared: self.fared, engines, ended_ns: self.ended_ns }
    }
}

impl Fared {
    fn blank(arrival: usize, decision: Decision) -> Self {
        Self {
            arrival,
            decision,
            n_asked: 0,
            admitted_ns: None,
            first_token_ns: None,
            finished_ns: None,
            gone_ns: None,
            n_preempted: 0,
            err: None,
        }
    }
}
