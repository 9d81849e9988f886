//! Sends workloads to a running OpenAI-compatible server.
//!
//! `drive` decides when to send, `http` sends and keeps bytes with their arrival, `answer` reads them afterwards on the
//! thread that writes the rows, `health` says whether the client itself kept up.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use reqwest::Url;
use tokio::runtime::{Builder, Runtime};

use self::{
    drive::{Job, Outcome},
    follow::Said,
    health::{Probe, Tally},
    histogram::Histogram,
    http::Http,
    server::Servers,
    shards::Shards,
};
use super::{Backend, Context, Observer, StopFlag};
use crate::{
    plan::{self, Arrival, Cell, Task, draws},
    record::{EngineMetricRow, RequestRow, Row, Sink},
    scenario::{AnswerMode, EngineTarget, Sampling, Workload},
    workload::{self, Due, Request},
};

pub mod answer;
mod conn;
pub mod drive;
mod facts;
pub mod files;
mod follow;
mod gguf;
pub mod health;
mod histogram;
mod http;
mod http1;
mod key;
mod listener;
mod log;
mod logprobs;
pub mod metrics;
pub mod openai;
mod proof;
mod row;
mod search;
mod server;
mod session;
mod shards;
pub mod sse;
mod version;

pub use facts::EngineFacts;
pub use health::{ClientHealth, Verdict};
pub use key::{ApiKey, Keys};
pub use listener::Listener;
pub use openai::Extras;
pub use proof::Proof;
pub use server::CellProof;
pub use session::Starter;

/// Makes the requests of a cell; `crate::workload::build` in a run, something smaller in `doctor` and in tests.
pub type BuildWorkload =
    Box<dyn Fn(&Workload, &Arrival, u64) -> anyhow::Result<Vec<Request>> + Send>;

/// The backend for `Task::Serve`.
pub struct EngineBackend {
    /// For questions outside the measurement.
    runtime: Runtime,
    shards: Shards,
    /// Streams that can be open at a time, as far as the system tells.
    room: Option<usize>,
    keys: Keys,
    seed: u64,
    build: BuildWorkload,
    /// Fields that not every server accepts.
    pub extras: Extras,
    /// Blocks each receiving thread again and again for this long, to show what a starved client looks like.
    pub starve: Option<Duration>,
    health: Vec<ClientHealth>,
    servers: Servers,
    schedules: BTreeMap<String, String>,
}

/// What is needed to run one cell, once its server has been asked.
struct Prepared<'a> {
    cell: &'a Cell,
    target: &'a EngineTarget,
    arrival: Arrival,
    requests: Vec<Request>,
    model: String,
    /// Fields that every request of the cell carries.
    fields: serde_json::Map<String, serde_json::Value>,
    base: Url,
    in_flight_max: usize,
    http: Arc<Http>,
}

/// Whether the answers of a cell's workload are of one length.
fn is_fixed(cell: &Cell) -> bool {
    matches!(&cell.task, Task::Serve { workload, .. } if workload.mode() == AnswerMode::Fixed)
}

impl EngineBackend {
    /// A backend with its own receiving threads. `seed` is the server's sampling seed and, through
    /// [`plan::cell_seed`], that of the workload.
    pub fn new(seed: u64, keys: impl Into<Keys>, build: BuildWorkload) -> anyhow::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("kvbench-ask")
            .enable_all()
            .build()?;
        Ok(Self {
            runtime,
            shards: Shards::start(None)?,
            room: files::streams_max(),
            keys: keys.into(),
            seed,
            build,
            extras: Extras::default(),
            starve: None,
            health: Vec::new(),
            servers: Servers::new()?,
            schedules: BTreeMap::new(),
        })
    }

    /// Receives on `n` threads, all used alike, in place of as many as the load needs.
    ///
    /// # Errors
    /// The threads cannot be started.
    pub fn receiving_on(mut self, n: usize) -> anyhow::Result<Self> {
        self.shards = Shards::start(Some(n))?;
        Ok(self)
    }

    /// Lets it start engines; without this only running servers can be measured.
    pub fn starting(mut self, starter: Starter) -> Self {
        self.servers.starter = Some(starter);
        self
    }

    /// How the client fared, one entry a finished cell, in order. For the manifest.
    pub fn health(&self) -> &[ClientHealth] {
        &self.health
    }

    /// What the servers said about themselves, by URL for those that ran already and by target, method and repeat for
    /// those that were started. For the manifest.
    pub fn servers(&self) -> &BTreeMap<String, (EngineFacts, Proof)> {
        &self.servers.known
    }

    /// Asks the server and builds the requests, by the seed of `drawn`: the same cell, but for a search's later batches. The inner `Err` is a cell that cannot be measured, the outer a run that
    /// cannot go on.
    fn prepare<'a>(
        &mut self,
        cell: &'a Cell,
        drawn: &Cell,
        context: &Context<'_>,
    ) -> anyhow::Result<Result<Prepared<'a>, String>> {
        let Task::Serve { target, workload, arrival, .. } = &cell.task else {
            anyhow::bail!("{}: expected an engine cell, got a kernel cell", cell.id);
        };
        let client = http::client(self.keys.of(target))?;
        let asking =
            server::Asking { runtime: &self.runtime, client: &client, keys: &self.keys, context };
        let server = match self.servers.serve(cell, &asking)? {
            Ok(server) => server,
            Err(text) => return Ok(Err(self.keys.redact(&text))),
        };
        let in_flight_max = match files::in_flight_max(arrival, self.room) {
            Ok(most) => most,
            Err(text) => return Ok(Err(text)),
        };
        let url = facts::below(&server.base, openai::path(target.endpoint));
        let key = self.keys.of(target);
        let mut http = Http::new(&client, &url, key, self.shards.len(), context.clock)?;
        (http.idle, http.total) =
            (seconds(target.idle_timeout_s), seconds(target.request_timeout_s));
        // As for kernels: every method gets the same prompts at the same times, a repeat or another load other ones, so
        // that a prefix cache that one cell has warmed is no help to the next.
        let requests = match (self.build)(workload, arrival, plan::cell_seed(self.seed, drawn)) {
            Ok(requests) => requests,
            Err(error) => return Ok(Err(format!("workload: {error:#}"))),
        };
        if let Err(text) = self.same_schedule(drawn, &requests) {
            return Ok(Err(text));
        }
        let (http, model) = (Arc::new(http), server.model);
        let fields = server::fields(target, &server.salt);
        let (arrival, base) = (*arrival, server.base);
        Ok(Ok(Prepared {
            cell,
            target,
            arrival,
            requests,
            model,
            fields,
            base,
            in_flight_max,
            http,
        }))
    }

    /// Notes what is to be sent; an error if another method was sent something else (its file changed meanwhile).
    fn same_schedule(&mut self, cell: &Cell, requests: &[Request]) -> Result<(), String> {
        let key = format!("{}/{}/r{}", cell.workload, cell.load, cell.repeat);
        let hash = workload::schedule_hash(requests);
        let known = self.schedules.entry(key).or_insert_with(|| hash.clone());
        if *known == hash {
            return Ok(());
        }
        Err(format!("workload: expected the schedule {known} of the other methods, got {hash}"))
    }

    /// The method's sampling, with a seed that [`draws::of_request`] makes one for each request of.
    fn sampling(&self, prepared: &Prepared<'_>) -> Sampling {
        let own = prepared.target.sampling(&prepared.cell.method.name);
        Sampling { seed: draws::of_repeat(self.seed, prepared.cell.repeat, own.seed), ..own }
    }

    fn send(
        &self,
        prepared: &Prepared<'_>,
        requests: &[Request],
        stop: &StopFlag,
        take: &mut dyn FnMut(Outcome) -> anyhow::Result<()>,
    ) -> anyhow::Result<Histogram> {
        let sampling = self.sampling(prepared);
        let extras = Extras { fixed_length: is_fixed(prepared.cell), ..self.extras };
        let told = |request: &Request, before: &[Said<'_>]| {
            let model = &prepared.model;
            let sampling =
                Sampling { seed: draws::of_request(sampling.seed, request.id), ..sampling };
            let mut body = openai::body(prepared.target, model, sampling, extras, request, before);
            if let Some(body) = body.as_object_mut() {
                body.extend(prepared.fields.clone());
            }
            Bytes::from(body.to_string())
        };
        let body = |request: &Request| told(request, &[]);
        let follow = |request: &Request, before: &[Said<'_>]| {
            (told(request, before), openai::transcript(before, &request.prompt))
        };
        let concurrency = match prepared.arrival {
            Arrival::Closed { concurrency } => concurrency,
            // An open loop's requests carry their times; slots serve its warm-up only.
            _ => 1,
        };
        let drain = seconds(prepared.target.drain_s);
        let in_flight_max = prepared.in_flight_max;
        let job = Job { requests, concurrency, in_flight_max, drain, body: &body, follow: &follow };
        drive::run(&job, &prepared.http, &self.shards, stop, take)
    }

    /// Requests that are not measured. Each begins differently from every measured prompt, so that they leave nothing in
    /// the prefix cache that a measured one could use.
    fn warm_up(&self, prepared: &Prepared<'_>, context: &mut Context<'_>) -> anyhow::Result<()> {
        let n = prepared.target.warmup_requests;
        let warm = |(i, request): (usize, &Request)| Request {
            due: Due::WhenFree,
            prompt: format!("warm-up {i}. {}", request.prompt),
            counted: None,
            id: i as u64,
            ..request.clone()
        };
        let requests: Vec<Request> =
            prepared.requests.iter().cycle().take(n).enumerate().map(warm).collect();
        let engine = prepared.target.engine.as_ref();
        let title = engine.map_or(prepared.cell.target.as_str(), |engine| engine.title.as_str());
        let method = &prepared.cell.method.name;
        let text = format!("{title}, method {method}: awaiting {n} warm-up requests");
        context.observer.status(&text);
        let (mut failure, mut uncounted) = (None, Tally::default());
        let stop = context.stop.clone();
        self.send(prepared, &requests, &stop, &mut |outcome| {
            let request = &requests[outcome.index];
            let mut row = row::of(context.run_id, prepared.cell, request, outcome, &mut uncounted);
            row.warmup = true;
            row.err = row.err.map(|err| self.keys.redact(&err));
            failure = row.err.clone().or(failure.take());
            context.sink.row(Row::Request(row))
        })?;
        if let Some(failure) = failure {
            let text = format!("{}: a warm-up request failed: {failure}", prepared.cell.id);
            context.observer.notice(&text);
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
        let key = self.keys.of(target);
        let watch = metrics::Watch::start(target, &prepared.base, key, context.clock, ids)?;
        let starving = self.starve.map(|block| self.shards.starve(block));
        let probe = Probe::start(&self.shards)?;
        let (mut tally, mut n_done) = (Tally::default(), 0);
        let total = prepared.requests.len() as u64;
        self.record(prepared, Some(&watch), &mut tally, context, &mut |_, observer| {
            n_done += 1;
            observer.progress(n_done, total);
        })?;
        self.health.push(probe.finish(&prepared.cell.id, &self.shards, &tally));
        drop(starving);
        watch.stop(context.sink, context.observer)?;
        Ok(!context.stop.is_raised())
    }

    /// Sends the requests of a cell and writes their rows; `seen` is shown each of them.
    fn record(
        &self,
        prepared: &Prepared<'_>,
        watch: Option<&metrics::Watch>,
        tally: &mut Tally,
        context: &mut Context<'_>,
        seen: &mut dyn FnMut(&RequestRow, &dyn Observer),
    ) -> anyhow::Result<()> {
        let stop = context.stop.clone();
        let load = self.send(prepared, &prepared.requests, &stop, &mut |outcome| {
            let request = &prepared.requests[outcome.index];
            let mut row = row::of(context.run_id, prepared.cell, request, outcome, tally);
            row.err = row.err.map(|err| self.keys.redact(&err));
            seen(&row, context.observer);
            context.sink.row(Row::Request(row))?;
            watch.map_or(Ok(()), |watch| watch.drain(context.sink))
        })?;
        tally.load.merge(&load);
        Ok(())
    }

    fn run_cell(&mut self, cell: &Cell, context: &mut Context<'_>) -> anyhow::Result<()> {
        let keys = self.keys.clone();
        let mut sink = Noticing { inner: &mut *context.sink, keys, sent: false };
        let mut noticed = Context {
            run_id: context.run_id,
            sink: &mut sink,
            observer: context.observer,
            stop: context.stop.clone(),
            clock: context.clock,
        };
        let complete = self.serve_cell(cell, &mut noticed)?;
        // A cell that was interrupted, or of which nothing was ever sent, is run again by `--resume`.
        let measured = complete && sink.sent;
        if measured { context.sink.finished(&[&cell.id]) } else { Ok(()) }
    }

    /// Runs a cell; whether it came to its end.
    fn serve_cell(&mut self, cell: &Cell, context: &mut Context<'_>) -> anyhow::Result<bool> {
        if let Task::Serve { arrival: Arrival::Saturation { rule, slo }, .. } = &cell.task {
            return self.search(cell, (rule, *slo), context);
        }
        match self.prepare(cell, cell, context)? {
            Ok(prepared) => self.measure(&prepared, context),
            // An engine that was not waited for says nothing about the cell.
            Err(_) if context.stop.is_raised() => Ok(false),
            Err(text) => {
                let row = row::without_request(context.run_id, cell, context.clock.now_ns(), text);
                context.sink.row(Row::Request(row))?;
                Ok(true)
            }
        }
    }
}

/// Passes rows on, without keys that a failed reading of metrics may quote, and notices whether any of them was sent.
struct Noticing<'a> {
    inner: &'a mut dyn Sink,
    keys: Keys,
    sent: bool,
}

impl Sink for Noticing<'_> {
    fn row(&mut self, mut row: Row) -> anyhow::Result<()> {
        match &mut row {
            Row::Request(row) => self.sent |= row.was_sent() && !row.warmup,
            Row::EngineMetric(row) if row.source == EngineMetricRow::FAILED => {
                row.labels = self.keys.redact(&row.labels);
            }
            _ => {}
        }
        self.inner.row(row)
    }

    fn finished(&mut self, cell_ids: &[&str]) -> anyhow::Result<()> {
        self.inner.finished(cell_ids)
    }
}

impl Backend for EngineBackend {
    fn run(&mut self, block: &[&Cell], context: &mut Context<'_>) -> anyhow::Result<()> {
        block.iter().try_for_each(|cell| self.run_cell(cell, context))
    }

    fn learned(&self) -> Option<Learned<'_>> {
        Some(Learned {
            servers: &self.servers.known,
            proofs: &self.servers.cells,
            schedules: &self.schedules,
            health: &self.health,
            keys: &self.keys,
        })
    }
}

/// What a backend has learned of servers and client so far. For the manifest.
pub struct Learned<'a> {
    /// What the servers said about themselves, by URL for those that ran already and by start, `target_method_rN`, for
    /// those that were started.
    pub servers: &'a BTreeMap<String, (EngineFacts, Proof)>,
    /// Whether each measured cell's server was what the scenario says.
    pub proofs: &'a [CellProof],
    /// Hash of what was to be sent, by `workload/load/rN`.
    pub schedules: &'a BTreeMap<String, String>,
    /// How the client fared, one entry a finished cell, in order.
    pub health: &'a [ClientHealth],
    /// For whoever writes down what servers said: one may repeat a key.
    pub keys: &'a Keys,
}

/// Scenario seconds; what cannot be a duration (the scenario refuses it) waits a day.
fn seconds(s: f64) -> Duration {
    Duration::try_from_secs_f64(s).unwrap_or(DAY).min(DAY)
}

const DAY: Duration = Duration::from_secs(24 * 3600);

#[cfg(test)]
mod contract_tests;
#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Endpoint;

    pub(super) fn target(url: &str, endpoint: Endpoint) -> EngineTarget {
        EngineTarget {
            idle_timeout_s: 5.0,
            request_timeout_s: 10.0,
            warmup_requests: 0,
            drain_s: 5.0,
            ..EngineTarget::running(url, endpoint, "f16")
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
            counted: None,
            answer_tokens_est: None,
            max_tokens,
            forced: None,
        }
    }

    #[test]
    fn absurd_durations_do_not_panic() {
        assert_eq!(seconds(f64::NAN), DAY);
        assert_eq!(seconds(1e30), DAY);
        assert_eq!(seconds(0.5), Duration::from_millis(500));
    }
}
