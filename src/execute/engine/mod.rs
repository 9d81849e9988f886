//! Sends workloads to a running OpenAI-compatible server.
//!
//! `drive` decides when to send, `http` sends and keeps bytes with their arrival, `answer` reads them afterwards on the
//! thread that writes the rows, `health` says whether the client itself kept up.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use reqwest::Url;
use tokio::runtime::{Builder, Runtime};

use self::{
    drive::{Job, Outcome},
    health::{Probe, Tally},
    http::Http,
};
use super::{Backend, Context, StopFlag};
use crate::{
    plan::{self, Arrival, Cell, Task},
    record::Row,
    scenario::{EngineTarget, Workload},
    workload::{Due, Request},
};

pub mod answer;
pub mod drive;
mod facts;
pub mod health;
mod http;
mod key;
pub mod metrics;
pub mod openai;
mod row;
pub mod sse;

pub use facts::EngineFacts;
pub use health::{ClientHealth, Verdict};
pub use key::{ApiKey, Keys};
pub use openai::Extras;

/// Makes the requests of a cell; `crate::workload::build` in a run, something smaller in `doctor` and in tests.
pub type BuildWorkload =
    Box<dyn Fn(&Workload, &Arrival, u64) -> anyhow::Result<Vec<Request>> + Send>;

/// Threads that receive. Two share a burst; more would take cores from a server on the same machine.
const WORKERS: usize = 2;

/// The backend for `Task::Serve`.
pub struct EngineBackend {
    runtime: Runtime,
    keys: Keys,
    seed: u64,
    build: BuildWorkload,
    /// Fields that not every server accepts.
    pub extras: Extras,
    health: Vec<ClientHealth>,
    facts: Vec<EngineFacts>,
}

/// What is needed to run one cell, once its server has been asked.
struct Prepared<'a> {
    cell: &'a Cell,
    target: &'a EngineTarget,
    arrival: Arrival,
    requests: Vec<Request>,
    model: String,
    http: Arc<Http>,
}

impl EngineBackend {
    /// A backend with its own receiving threads. `seed` is the server's sampling seed and, through
    /// [`plan::cell_seed`], that of the workload.
    pub fn new(seed: u64, keys: impl Into<Keys>, build: BuildWorkload) -> anyhow::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .thread_name("kvbench-recv")
            .enable_all()
            .build()?;
        let (health, facts) = (Vec::new(), Vec::new());
        Ok(Self {
            runtime,
            keys: keys.into(),
            seed,
            build,
            extras: Extras::default(),
            health,
            facts,
        })
    }

    /// How the client fared, one entry a finished cell, in order. For the manifest.
    pub fn health(&self) -> &[ClientHealth] {
        &self.health
    }

    /// What the servers said about themselves, one entry a URL, as last read. For the manifest.
    pub fn facts(&self) -> &[EngineFacts] {
        &self.facts
    }

    /// Asks the server and builds the requests. The inner `Err` is a cell that cannot be measured, the outer a run that
    /// cannot go on.
    fn prepare<'a>(
        &mut self,
        cell: &'a Cell,
        context: &Context<'_>,
    ) -> anyhow::Result<Result<Prepared<'a>, String>> {
        let Task::Serve { target, workload, arrival } = &cell.task else {
            anyhow::bail!("{}: expected an engine cell, got a kernel cell", cell.id);
        };
        let Ok(base) = Url::parse(&target.url) else {
            return Ok(Err("url: expected http://host:port, got something else".to_owned()));
        };
        let key = self.keys.of(target);
        let client = http::client(key)?;
        let facts = match self.runtime.block_on(facts::ask(&client, &base)) {
            Ok(facts) => facts,
            Err(text) => return Ok(Err(self.redact(target, text))),
        };
        if facts.version.is_none() {
            context
                .observer
                .notice(&format!("{}: the server does not tell its version", facts.url));
        }
        let model = facts.model(target.model.as_deref());
        self.facts.retain(|known| known.url != facts.url);
        self.facts.push(facts);
        let model = match model {
            Ok(model) => model,
            Err(text) => return Ok(Err(text)),
        };
        let http = Http {
            client,
            url: facts::below(&base, openai::path(target.endpoint)),
            clock: context.clock,
            idle: seconds(target.idle_timeout_s),
            total: seconds(target.request_timeout_s),
        };
        // As for kernels: every method gets the same prompts at the same times, a repeat or another load other ones, so
        // that a prefix cache that one cell has warmed is no help to the next.
        let requests = match (self.build)(workload, arrival, plan::cell_seed(self.seed, cell)) {
            Ok(requests) => requests,
            Err(error) => return Ok(Err(format!("workload: {error:#}"))),
        };
        Ok(Ok(Prepared { cell, target, arrival: *arrival, requests, model, http: Arc::new(http) }))
    }

    fn redact(&self, target: &EngineTarget, text: String) -> String {
        self.keys.of(target).map_or_else(|| text.clone(), |key| key.redact(&text))
    }

    fn send(
        &self,
        prepared: &Prepared<'_>,
        requests: &[Request],
        stop: &StopFlag,
        take: &mut dyn FnMut(Outcome) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let (seed, extras) = (self.seed, self.extras);
        let body = |request: &Request| {
            let body = openai::body(prepared.target, &prepared.model, seed, extras, request);
            Bytes::from(body.to_string())
        };
        let concurrency = match prepared.arrival {
            Arrival::Closed { concurrency } => concurrency,
            // An open loop's requests carry their times; slots serve its warm-up only.
            _ => 1,
        };
        let drain = seconds(prepared.target.drain_s);
        let job = Job { requests, concurrency, drain, body: &body };
        drive::run(&job, &prepared.http, self.runtime.handle(), stop, take)
    }

    /// Requests that are not recorded. Each begins differently from every measured prompt, so that they leave nothing in
    /// the prefix cache that a measured one could use.
    fn warm_up(&self, prepared: &Prepared<'_>, context: &Context<'_>) -> anyhow::Result<()> {
        let n = prepared.target.warmup_requests;
        let warm = |(i, request): (usize, &Request)| Request {
            due: Due::WhenFree,
            prompt: format!("warm-up {i}. {}", request.prompt),
            ..request.clone()
        };
        let requests: Vec<Request> =
            prepared.requests.iter().cycle().take(n).enumerate().map(warm).collect();
        let mut failure = None;
        self.send(prepared, &requests, &context.stop, &mut |outcome| {
            let err = outcome.result.map_or_else(Some, |capture| answer::read(&capture).err);
            failure = err.or(failure.take());
            Ok(())
        })?;
        if let Some(failure) = failure {
            let text = format!("{}: a warm-up request failed: {failure}", prepared.cell.id);
            context.observer.notice(&self.redact(prepared.target, text));
        }
        Ok(())
    }

    /// Runs a cell whose server answered; whether all of its requests had their chance.
    fn measure(
        &mut self,
        prepared: &Prepared<'_>,
        context: &mut Context<'_>,
    ) -> anyhow::Result<bool> {
        self.warm_up(prepared, context)?;
        let (target, ids) = (prepared.target, (context.run_id, prepared.cell.id.as_str()));
        let watch = metrics::Watch::start(target, self.keys.of(target), context.clock, ids)?;
        let probe = Probe::start(self.runtime.handle())?;
        let (mut tally, mut n_done) = (Tally::default(), 0);
        let total = prepared.requests.len() as u64;
        let stop = context.stop.clone();
        self.send(prepared, &prepared.requests, &stop, &mut |outcome| {
            let request = &prepared.requests[outcome.index];
            let mut row = row::of(context.run_id, prepared.cell, request, outcome, &mut tally);
            row.err = row.err.map(|err| self.redact(prepared.target, err));
            context.sink.row(Row::Request(row))?;
            watch.drain(context.sink)?;
            n_done += 1;
            context.observer.progress(n_done, total);
            Ok(())
        })?;
        self.health.push(probe.finish(&prepared.cell.id, &tally));
        watch.stop(context.sink, context.observer)?;
        Ok(!stop.is_raised())
    }

    fn run_cell(&mut self, cell: &Cell, context: &mut Context<'_>) -> anyhow::Result<()> {
        let complete = match self.prepare(cell, context)? {
            Ok(prepared) => self.measure(&prepared, context)?,
            Err(text) => {
                let row = row::without_request(context.run_id, cell, context.clock.now_ns(), text);
                context.sink.row(Row::Request(row))?;
                true
            }
        };
        // An interrupted cell is run again by `--resume`.
        if complete { context.sink.finished(&[&cell.id]) } else { Ok(()) }
    }
}

impl Backend for EngineBackend {
    fn run(&mut self, block: &[&Cell], context: &mut Context<'_>) -> anyhow::Result<()> {
        block.iter().try_for_each(|cell| self.run_cell(cell, context))
    }
}

/// Scenario seconds; what cannot be a duration (the scenario refuses it) waits a day.
fn seconds(s: f64) -> Duration {
    Duration::try_from_secs_f64(s).unwrap_or(DAY).min(DAY)
}

const DAY: Duration = Duration::from_secs(24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Endpoint;

    pub(super) fn target(url: &str, endpoint: Endpoint) -> EngineTarget {
        EngineTarget {
            url: url.to_owned(),
            endpoint,
            model: None,
            method: "f16".to_owned(),
            idle_timeout_s: 5.0,
            request_timeout_s: 10.0,
            warmup_requests: 0,
            api_key_file: None,
            temperature: 0.0,
            ignore_eos: false,
            drain_s: 5.0,
            continuous_usage: false,
            metrics: None,
            metrics_interval_s: 1.0,
        }
    }

    pub(super) fn request(id: u64, max_tokens: u32) -> Request {
        Request {
            id,
            sample_id: format!("s{id}"),
            turn: 0,
            due: Due::WhenFree,
            prompt: format!("prompt {id}"),
            prompt_tokens_est: 2,
            answer_tokens_est: None,
            max_tokens,
        }
    }

    #[test]
    fn absurd_durations_do_not_panic() {
        assert_eq!(seconds(f64::NAN), DAY);
        assert_eq!(seconds(1e30), DAY);
        assert_eq!(seconds(0.5), Duration::from_millis(500));
    }
}
