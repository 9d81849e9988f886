//! The watch against a server in this process.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    http::{HeaderMap, StatusCode},
    routing::get,
};

use super::*;
use crate::{
    execute::{Silent, engine::metrics::fixtures::spec},
    scenario::MetricsFormat,
};

/// Keeps rows.
#[derive(Default)]
struct Memory(Vec<EngineMetricRow>);

impl Sink for Memory {
    fn row(&mut self, row: Row) -> anyhow::Result<()> {
        let Row::EngineMetric(row) = row else { panic!("only metrics") };
        self.0.push(row);
        Ok(())
    }
    fn finished(&mut self, _: &[&str]) -> anyhow::Result<()> {
        panic!("the backend finishes cells")
    }
}

/// Keeps what was said.
#[derive(Default)]
struct Ear(Mutex<Vec<String>>);

impl Observer for Ear {
    fn notice(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
}

/// Answers the nth question with what `answer(n)` says, or never; every question is told to `asked`.
struct Server {
    url: Url,
    asked: mpsc::Receiver<Option<String>>,
    _runtime: Runtime,
}

impl Server {
    fn start(
        answer: impl Fn(usize) -> Option<(u16, String)> + Clone + Send + Sync + 'static,
    ) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (tell, asked) = mpsc::channel();
        let n = Arc::new(AtomicUsize::new(0));
        let respond = move |headers: HeaderMap| {
            let key = headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
            let _ = tell.send(key);
            let said = answer(n.fetch_add(1, Ordering::SeqCst));
            async move {
                match said {
                    Some((status, text)) => (StatusCode::from_u16(status).unwrap(), text),
                    None => std::future::pending().await,
                }
            }
        };
        let app = Router::new().route("/metrics", get(respond));
        let listener = runtime.block_on(tokio::net::TcpListener::bind(("127.0.0.1", 0))).unwrap();
        let url = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        runtime.spawn(async move { axum::serve(listener, app).await });
        Self { url, asked, _runtime: runtime }
    }

    fn job(&self, names: &[(MetricName, &[&str])]) -> Job {
        Job {
            spec: spec(names),
            url: facts::below(&self.url, "metrics"),
            key: None,
            every: Duration::from_millis(2),
            limits: Limits::default(),
            clock: Clock::start(),
            run_id: "run".to_owned(),
            cell_id: "cell".to_owned(),
        }
    }

    /// Returns once the server was asked `n` more times.
    fn await_questions(&self, n: usize) {
        (0..n).for_each(|_| drop(self.asked.recv().unwrap()));
    }
}

fn named<'r>(rows: &'r [EngineMetricRow], name: &str) -> Vec<&'r EngineMetricRow> {
    rows.iter().filter(|row| row.name == name).collect()
}

fn values(rows: &[&EngineMetricRow]) -> Vec<f64> {
    rows.iter().filter_map(|row| row.value).collect()
}

const NAMES: &[(MetricName, &[&str])] =
    &[(MetricName::PreemptionsTotal, &["n_total"]), (MetricName::KvUsage, &["gone"])];

#[test]
fn it_reads_before_during_and_after_and_says_what_is_absent() {
    let server = Server::start(|n| Some((200, format!("# TYPE n_total counter\nn_total {n}\n"))));
    let watch = Watch::run(server.job(NAMES)).unwrap();
    let (mut memory, ear) = (Memory::default(), Ear::default());
    watch.drain(&mut memory).unwrap();
    assert_eq!(memory.0[0].value, Some(0.0), "the first answer is there before the load begins");
    server.await_questions(4);
    watch.stop(&mut memory, &ear).unwrap();
    let counted = named(&memory.0, "preemptions_total");
    let read = values(&counted);
    assert!(read.len() >= 4, "{read:?}");
    assert!(read.windows(2).all(|pair| pair[1] - pair[0] > 0.5), "{read:?}");
    assert!(counted.windows(2).all(|pair| pair[0].t_ns <= pair[1].t_ns));
    assert!(counted.iter().all(|row| row.scrape_ns.is_some() && row.source == "n_total"));
    let absent = named(&memory.0, "kv_usage");
    assert_eq!(absent.len(), 1);
    assert_eq!((absent[0].source.as_str(), absent[0].value), (EngineMetricRow::ABSENT, None));
    // Each of the names that nobody mapped is absent too.
    assert_eq!(named(&memory.0, "waiting").len(), 1);
    assert!(
        memory.0.iter().all(|row| (row.run_id.as_str(), row.cell_id.as_str()) == ("run", "cell"))
    );
    assert!(ear.0.into_inner().unwrap().is_empty());
}

#[test]
fn failed_readings_are_counted_said_and_never_called_absent() {
    let server = Server::start(|_| Some((503, "not now, s3cret".to_owned())));
    let job = Job { key: ApiKey::new("s3cret"), ..server.job(NAMES) };
    let watch = Watch::run(job).unwrap();
    let (mut memory, ear) = (Memory::default(), Ear::default());
    server.await_questions(2);
    watch.stop(&mut memory, &ear).unwrap();
    let failed = named(&memory.0, EngineMetricRow::SCRAPE);
    assert!(failed.len() >= 2);
    assert!(failed.iter().all(|row| row.value.is_none() && row.source == EngineMetricRow::FAILED));
    assert!(failed[0].labels.contains("http 503") && !failed[0].labels.contains("s3cret"));
    assert_eq!(named(&memory.0, "kv_usage")[0].source, EngineMetricRow::UNREAD);
    let said = ear.0.into_inner().unwrap();
    assert!(said[0].contains(&format!("{} of {}", failed.len(), failed.len())), "{said:?}");
    assert!(!said[0].contains("s3cret"));
}

#[test]
fn other_text_is_a_failure_and_bad_lines_are_said() {
    let server = Server::start(|n| {
        Some((200, if n == 0 { "<html>no".to_owned() } else { "n_total 1\n{oops\n".to_owned() }))
    });
    let watch = Watch::run(server.job(NAMES)).unwrap();
    let (mut memory, ear) = (Memory::default(), Ear::default());
    watch.stop(&mut memory, &ear).unwrap();
    assert!(
        named(&memory.0, EngineMetricRow::SCRAPE)[0].labels.contains("expected Prometheus text")
    );
    let said = ear.0.into_inner().unwrap();
    assert!(said[0].contains("1 of") && said[1].contains("{oops"), "{said:?}");
}

#[test]
fn a_server_that_hangs_does_not_hold_up_the_end() {
    let server = Server::start(|n| (n == 0).then(|| (200, "n_total 1\n".to_owned())));
    let limits = Limits { reading: Duration::from_secs(3600), last: Duration::from_millis(5) };
    let watch = Watch::run(Job { limits, ..server.job(NAMES) }).unwrap();
    server.await_questions(2);
    let mut memory = Memory::default();
    // Would wait for an hour.
    watch.stop(&mut memory, &Silent).unwrap();
    assert_eq!(values(&named(&memory.0, "preemptions_total")), [1.0]);
    assert!(named(&memory.0, EngineMetricRow::SCRAPE)[0].labels.contains("no answer within 5 ms"));
}

#[test]
fn the_key_goes_to_the_targets_own_port_only() {
    let server = Server::start(|_| Some((200, "n_total 1\n".to_owned())));
    let mut target = crate::execute::engine::tests::target(
        server.url.as_str(),
        crate::scenario::Endpoint::Completions,
    );
    let key = ApiKey::new("s3cret").unwrap();
    let watch = |target: &EngineTarget, base: &str| {
        let (base, clock) = (Url::parse(base).unwrap(), Clock::start());
        let watch = Watch::start(target, &base, Some(&key), clock, ("run", "cell")).unwrap();
        watch.stop(&mut Memory::default(), &Silent).unwrap();
        let first = server.asked.try_recv();
        while server.asked.try_recv().is_ok() {}
        first
    };
    let own = server.url.as_str();
    assert!(watch(&target, own).is_err(), "without a spec nothing is asked");
    target.metrics = Some(spec(NAMES));
    assert_eq!(watch(&target, own), Ok(Some("Bearer s3cret".to_owned())));
    let port = server.url.port().unwrap();
    target.metrics = Some(MetricsSpec { path: format!(":{port}/metrics"), ..spec(NAMES) });
    assert_eq!(watch(&target, "http://127.0.0.1:1/prefix"), Ok(None));
}

/// TensorRT-LLM's queue: each question takes what is in it.
#[test]
fn a_queue_is_drained_in_order_without_what_was_before_the_cell() {
    let iterations = |of: std::ops::Range<usize>| {
        let one = |i| {
            format!(r#"{{"iter":{i},"kvCacheStats":{{"usedNumBlocks":{i},"maxNumBlocks":100}}}}"#)
        };
        Some((200, format!("[{}]", of.map(one).collect::<Vec<_>>().join(","))))
    };
    let server = Server::start(move |n| match n {
        0 => iterations(0..5),
        n => iterations(3 + 2 * n..5 + 2 * n),
    });
    let mut job = server
        .job(&[(MetricName::KvUsage, &["kvCacheStats.usedNumBlocks / kvCacheStats.maxNumBlocks"])]);
    job.spec.format = MetricsFormat::TrtllmJson;
    let watch = Watch::run(job).unwrap();
    server.await_questions(3);
    let mut memory = Memory::default();
    watch.stop(&mut memory, &Silent).unwrap();
    let usage = named(&memory.0, "kv_usage");
    let order: Vec<u64> = usage
        .iter()
        .map(|row| {
            let labels: BTreeMap<String, String> = serde_json::from_str(&row.labels).unwrap();
            labels["iter"].parse().unwrap()
        })
        .collect();
    let expected: Vec<u64> = (4..4 + order.len() as u64).collect();
    assert_eq!(order, expected, "one before the cell, then every one");
    assert!(order.len() >= 7);
    assert!((values(&usage)[0] - 0.04).abs() < 1e-12);
}
