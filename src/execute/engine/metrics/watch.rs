//! Asks for the metrics again and again, on a thread with a runtime and a client of its own: load threads never wait for
//! it, and a server that answers slowly costs readings, never load.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use reqwest::{Client, StatusCode, Url};
use tokio::{
    runtime::{Builder, Runtime},
    sync::oneshot,
    time,
};

use super::{Bad, parse, pick};
use crate::{
    execute::{
        Observer,
        clock::{self, Clock},
        engine::{facts, http, key::ApiKey, openai},
    },
    record::{EngineMetricRow, Row, Sink},
    scenario::{EngineTarget, MetricName, MetricsSpec},
};

/// Largest answer that is read.
const BODY_LIMIT_BYTES: usize = 32 << 20;

/// Longest waits for one answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Before and during the cell.
    reading: Duration,
    /// For the answer that is awaited when the cell ends, and again for the last one.
    last: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { reading: Duration::from_secs(5), last: Duration::from_millis(450) }
    }
}

/// What is watched.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) spec: MetricsSpec,
    pub(super) url: Url,
    pub(super) key: Option<ApiKey>,
    pub(super) every: Duration,
    pub(super) limits: Limits,
    pub(super) clock: Clock,
    pub(super) run_id: String,
    pub(super) cell_id: String,
}

/// A running watch, or one that has nothing to watch.
#[derive(Debug)]
pub struct Watch(Option<Running>);

#[derive(Debug)]
struct Running {
    rows: Arc<Mutex<Vec<EngineMetricRow>>>,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<Tally>,
    cell_id: String,
}

/// How reading went.
#[derive(Debug, Default)]
struct Tally {
    readings: u64,
    failed: u64,
    first_failure: Option<String>,
    bad: Bad,
    found: BTreeSet<MetricName>,
}

impl Watch {
    /// Starts watching a target that tells its metrics. Returns once the first answer is there or has failed: what the
    /// server counted before the cell's load is known then.
    ///
    /// # Errors
    /// No thread, no runtime or no HTTP client could be made.
    pub fn start(
        target: &EngineTarget,
        base: &Url,
        key: Option<&ApiKey>,
        clock: Clock,
        (run_id, cell_id): (&str, &str),
    ) -> anyhow::Result<Self> {
        let Some(spec) = &target.metrics else { return Ok(Self(None)) };
        let (url, own) = place(base, spec);
        Self::run(Job {
            spec: spec.clone(),
            url,
            key: key.filter(|_| own).cloned(),
            every: Duration::try_from_secs_f64(target.metrics_interval_s)?,
            limits: Limits::default(),
            clock,
            run_id: run_id.to_owned(),
            cell_id: cell_id.to_owned(),
        })
    }

    pub(super) fn run(job: Job) -> anyhow::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let client = http::client(job.key.as_ref())?;
        let rows = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = oneshot::channel();
        let (ready, first) = mpsc::channel();
        let cell_id = job.cell_id.clone();
        let watcher = Watcher { job, client, rows: Arc::clone(&rows), tally: Tally::default() };
        let body = move || watcher.go(&runtime, stopped, ready);
        let thread = std::thread::Builder::new().name("metrics".to_owned()).spawn(body)?;
        // A closed channel says the same: the first reading is over.
        let _ = first.recv();
        Ok(Self(Some(Running { rows, stop, thread, cell_id })))
    }

    /// Passes on the rows since the last call.
    ///
    /// # Errors
    /// The sink's.
    pub fn drain(&self, sink: &mut dyn Sink) -> anyhow::Result<()> {
        self.0.as_ref().map_or(Ok(()), |running| running.drain(sink))
    }

    /// Reads once more, ends the thread and passes on the last rows, within a second even where the server hangs. Readings
    /// that failed are said, and are no reason to fail.
    ///
    /// # Errors
    /// The sink's, or the thread panicked.
    pub fn stop(self, sink: &mut dyn Sink, observer: &dyn Observer) -> anyhow::Result<()> {
        let Some(Running { rows, stop, thread, cell_id }) = self.0 else { return Ok(()) };
        // A closed channel ends the thread as a message would.
        drop(stop);
        let tally = thread.join().map_err(|_| anyhow::anyhow!("metrics: their thread panicked"))?;
        pass(&rows, sink)?;
        tally.say(&cell_id, observer);
        Ok(())
    }
}

impl Running {
    fn drain(&self, sink: &mut dyn Sink) -> anyhow::Result<()> {
        pass(&self.rows, sink)
    }
}

fn pass(rows: &Mutex<Vec<EngineMetricRow>>, sink: &mut dyn Sink) -> anyhow::Result<()> {
    let rows = std::mem::take(&mut *rows.lock().unwrap_or_else(PoisonError::into_inner));
    rows.into_iter().try_for_each(|row| sink.row(Row::EngineMetric(row)))
}

/// Where the metrics are, and whether that is the target's own port, which may see its key.
pub(in super::super) fn place(base: &Url, spec: &MetricsSpec) -> (Url, bool) {
    let (port, path) = MetricsSpec::split(&spec.path);
    let mut root = base.clone();
    let other = port.filter(|port| base.port_or_known_default() != Some(*port));
    if other.is_some() {
        root.set_path("");
        // Fails only for URLs without a host, which the scenario refuses.
        let _ = root.set_port(other);
    }
    (facts::below(&root, path.trim_start_matches('/')), other.is_none())
}

impl Tally {
    fn say(&self, cell_id: &str, observer: &dyn Observer) {
        if let Some(first) = &self.first_failure {
            observer.notice(&format!(
                "{cell_id}: {} of {} readings of the server's metrics failed (first: {first})",
                self.failed, self.readings
            ));
        }
        if let Some(first) = &self.bad.first {
            observer.notice(&format!(
                "{cell_id}: {} parts of the server's metrics could not be read (first: {first})",
                self.bad.n
            ));
        }
    }
}

/// An answer and when it came.
struct Answer {
    sent: Instant,
    arrived: Instant,
    text: Result<String, String>,
}

/// Asks once; gives up after `limit`.
async fn ask(client: &Client, url: &Url, limit: Duration) -> Answer {
    let sent = clock::now();
    let text = match time::timeout(limit, body(client, url)).await {
        Ok(text) => text,
        Err(_) => Err(format!("no answer within {} ms", limit.as_millis())),
    };
    Answer { sent, arrived: clock::now(), text }
}

async fn body(client: &Client, url: &Url) -> Result<String, String> {
    let mut response = client.get(url.clone()).send().await.map_err(http::describe)?;
    let status = response.status();
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(http::describe)? {
        if bytes.len() + chunk.len() > BODY_LIMIT_BYTES {
            return Err(format!("expected at most {BODY_LIMIT_BYTES} bytes, got more"));
        }
        bytes.extend_from_slice(&chunk);
    }
    if status != StatusCode::OK {
        return Err(format!("http {}: {}", status.as_u16(), openai::refusal(&bytes)));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

struct Watcher {
    job: Job,
    client: Client,
    rows: Arc<Mutex<Vec<EngineMetricRow>>>,
    tally: Tally,
}

impl Watcher {
    fn go(
        mut self,
        runtime: &Runtime,
        stop: oneshot::Receiver<()>,
        ready: mpsc::Sender<()>,
    ) -> Tally {
        runtime.block_on(async {
            let first = ask(&self.client, &self.job.url, self.job.limits.reading).await;
            self.take(first, Keep::Newest);
            drop(ready);
            self.watch(stop).await;
            let last = ask(&self.client, &self.job.url, self.job.limits.last).await;
            self.take(last, Keep::All);
        });
        self.tell_missing();
        self.tally
    }

    /// Reads at every multiple of the interval until told to stop. An answer that is on its way then is waited for, since a
    /// server may empty its queue into it, but not for long.
    async fn watch(&mut self, mut stop: oneshot::Receiver<()>) {
        let mut ticks = time::interval(self.job.every);
        ticks.set_missed_tick_behavior(time::MissedTickBehavior::Skip);
        ticks.tick().await;
        loop {
            tokio::select! {
                biased;
                _ = &mut stop => return,
                _ = ticks.tick() => {}
            }
            let (client, url) = (self.client.clone(), self.job.url.clone());
            let asked = ask(&client, &url, self.job.limits.reading);
            tokio::pin!(asked);
            tokio::select! {
                answer = &mut asked => self.take(answer, Keep::All),
                _ = &mut stop => {
                    if let Ok(answer) = time::timeout(self.job.limits.last, asked).await {
                        self.take(answer, Keep::All);
                    }
                    return;
                }
            }
        }
    }

    fn take(&mut self, answer: Answer, keep: Keep) {
        self.tally.readings += 1;
        let read =
            answer.text.as_ref().map_err(Clone::clone).and_then(|text| self.read(text, keep));
        let readings = match read {
            Ok(readings) => readings,
            Err(error) => vec![self.failure(error)],
        };
        let t_ns = self.job.clock.at_ns(answer.arrived);
        let took = answer.arrived.saturating_duration_since(answer.sent);
        let scrape_ns = i64::try_from(took.as_nanos()).ok();
        self.push(readings.into_iter().map(|row| EngineMetricRow { t_ns, scrape_ns, ..row }));
    }

    /// Rows of an answer, without times.
    fn read(&mut self, text: &str, keep: Keep) -> Result<Vec<EngineMetricRow>, String> {
        let (moments, bad) = parse(&self.job.spec, text)?;
        self.tally.bad.add_all(bad);
        let skipped = if keep == Keep::Newest { moments.len().saturating_sub(1) } else { 0 };
        let mut rows = Vec::new();
        for samples in &moments[skipped..] {
            let (readings, found) = pick(&self.job.spec, samples);
            self.tally.found.extend(found);
            rows.extend(readings.into_iter().map(|reading| EngineMetricRow {
                name: reading.name.name().to_owned(),
                labels: reading.labels,
                source: reading.source,
                value: reading.value,
                ..EngineMetricRow::default()
            }));
        }
        Ok(rows)
    }

    fn failure(&mut self, error: String) -> EngineMetricRow {
        let error = self.job.key.as_ref().map_or(error.clone(), |key| key.redact(&error));
        self.tally.failed += 1;
        let labels = serde_json::json!({ "err": &error }).to_string();
        self.tally.first_failure.get_or_insert(error);
        EngineMetricRow {
            name: EngineMetricRow::SCRAPE.to_owned(),
            labels,
            source: EngineMetricRow::FAILED.to_owned(),
            ..EngineMetricRow::default()
        }
    }

    /// One row for each of our metrics that was never seen: absent is not 0, and not read is not absent.
    fn tell_missing(&mut self) {
        let answered = self.tally.failed < self.tally.readings;
        let source = if answered { EngineMetricRow::ABSENT } else { EngineMetricRow::UNREAD };
        let t_ns = self.job.clock.now_ns();
        let found = std::mem::take(&mut self.tally.found);
        let missing = MetricName::ALL.iter().filter(|name| !found.contains(name));
        self.push(missing.map(|name| EngineMetricRow {
            t_ns,
            name: name.name().to_owned(),
            labels: "{}".to_owned(),
            source: source.to_owned(),
            ..EngineMetricRow::default()
        }));
    }

    fn push(&self, rows: impl Iterator<Item = EngineMetricRow>) {
        let (run_id, cell_id) = (&self.job.run_id, &self.job.cell_id);
        let named = rows.map(|row| EngineMetricRow {
            run_id: run_id.clone(),
            cell_id: cell_id.clone(),
            ..row
        });
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).extend(named);
    }
}

/// Which moments of an answer become rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    /// All of them.
    All,
    /// The last: the others were before the cell.
    Newest,
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
