//! The load client against servers that misbehave, over real sockets. No time is asserted, only order and outcome.

use std::sync::Mutex;

use kvbench::{
    execute::{
        Backend, Context, Observer, StopFlag,
        clock::Clock,
        engine::{ApiKey, EngineBackend, EngineFacts, Extras},
    },
    method::Method,
    plan::{Arrival, Cell, Task},
    record::{RequestRow, Row, Sink},
    scenario::{Endpoint, EngineTarget, LengthDist, NamedMethod, Workload},
    serve::{
        faults::{self, Fault},
        known,
    },
    workload::{Due, Request},
};

#[derive(Default)]
pub(super) struct Rows {
    pub(super) rows: Vec<RequestRow>,
    pub(super) finished: Vec<String>,
    pub(super) fail_after: Option<usize>,
    pub(super) stop_after: Option<(usize, StopFlag)>,
}

impl Sink for Rows {
    fn row(&mut self, row: Row) -> anyhow::Result<()> {
        let Row::Request(row) = row else { panic!("expected requests only, got {row:?}") };
        self.rows.push(row);
        anyhow::ensure!(self.fail_after.is_none_or(|n| self.rows.len() < n), "disk full");
        if let Some((n, stop)) = &self.stop_after
            && self.rows.len() >= *n
        {
            stop.raise();
        }
        Ok(())
    }

    fn finished(&mut self, cell_ids: &[&str]) -> anyhow::Result<()> {
        self.finished.extend(cell_ids.iter().map(|id| (*id).to_owned()));
        Ok(())
    }
}

#[derive(Default)]
struct Notices(Mutex<Vec<String>>);

impl Observer for Notices {
    fn notice(&self, text: &str) {
        self.0.lock().expect("test set-up").push(text.to_owned());
    }
}

/// Servers on a runtime of their own; dropped last.
pub(super) struct Server {
    _runtime: tokio::runtime::Runtime,
    pub(super) url: String,
}

fn serve<F>(start: F) -> Server
where
    F: Future<Output = std::io::Result<std::net::SocketAddr>>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("test set-up");
    let address = runtime.block_on(start).expect("test set-up");
    Server { _runtime: runtime, url: format!("http://{address}") }
}

pub(super) fn fault(fault: Fault) -> Server {
    serve(faults::start(fault))
}

pub(super) fn known(mode: known::Mode) -> Server {
    let timing = known::Timing {
        ttft: std::time::Duration::from_millis(2),
        itl: std::time::Duration::from_millis(2),
        mode,
    };
    serve(known::start(timing))
}

pub(super) fn target(url: &str) -> EngineTarget {
    EngineTarget {
        idle_timeout_s: 20.0,
        request_timeout_s: 60.0,
        warmup_requests: 0,
        ..EngineTarget::running(url, Endpoint::Completions, "f16")
    }
}

pub(super) fn cell(target: EngineTarget, arrival: Arrival) -> Cell {
    Cell {
        id: "s/t/f16/w/l/0".to_owned(),
        block: 0,
        target: "t".to_owned(),
        method: NamedMethod::new("f16", Method::Fp16),
        workload: "w".to_owned(),
        load: "l".to_owned(),
        repeat: 0,
        task: Task::Serve {
            target: Box::new(target),
            variant: String::new(),
            workload: Workload::Synthetic {
                n_requests: 0,
                prompt_tokens: LengthDist::Fixed(1),
                output_tokens: LengthDist::Fixed(1),
                tokens: None,
            },
            arrival,
        },
    }
}

fn backend(n: u64, due: fn(u64) -> Due) -> EngineBackend {
    let request = move |id| Request {
        id,
        sample_id: format!("s{id}"),
        turn: 0,
        due: due(id),
        prompt: format!("prompt {id}"),
        prompt_tokens_est: 2,
        counted: None,
        answer_tokens_est: None,
        max_tokens: 3,
        forced: None,
    };
    let build = move |_: &Workload, _: &Arrival, _| Ok((0..n).map(request).collect());
    EngineBackend::new(7, ApiKey::new("s3cret"), Box::new(build)).expect("test set-up")
}

pub(super) fn run(
    backend: &mut EngineBackend,
    cell: &Cell,
    sink: &mut Rows,
    stop: StopFlag,
) -> (anyhow::Result<()>, Vec<String>) {
    let notices = Notices::default();
    let mut context =
        Context { run_id: "r", sink, observer: &notices, stop, clock: Clock::start() };
    let result = backend.run(&[cell], &mut context);
    (result, notices.0.into_inner().expect("test set-up"))
}

fn when_free(_: u64) -> Due {
    Due::WhenFree
}

const CLOSED_1: Arrival = Arrival::Closed { concurrency: 1 };

/// Rows of `n` requests, one after the other.
fn rows(target: EngineTarget, n: u64) -> Vec<RequestRow> {
    let mut sink = Rows::default();
    run(&mut backend(n, when_free), &cell(target, CLOSED_1), &mut sink, StopFlag::default())
        .0
        .expect("test set-up");
    // A cell of which nothing was sent is measured again by `--resume`.
    let sent = sink.rows.iter().any(RequestRow::was_sent);
    let finished: &[&str] = if sent { &["s/t/f16/w/l/0"] } else { &[] };
    assert_eq!(sink.finished, finished);
    sink.rows
}

fn one(kind: Fault) -> RequestRow {
    let server = fault(kind);
    let mut target = target(&server.url);
    if matches!(kind, Fault::Hang | Fault::Stall) {
        target.idle_timeout_s = 0.2;
    }
    rows(target, 1).remove(0)
}

fn failed(kind: Fault, expected: &str) -> RequestRow {
    let row = one(kind);
    let err = row.err.as_deref().unwrap_or("no error");
    assert!(err.contains(expected), "{kind:?}: expected {expected:?}, got {err:?}");
    row
}

#[test]
fn proper_streams_in_every_framing_give_the_same_row() {
    for kind in [Fault::None, Fault::SlowLoris, Fault::Crlf, Fault::OneRead, Fault::SplitUtf8] {
        let row = one(kind);
        assert_eq!(
            (row.err.as_deref(), row.output_text.as_str()),
            (None, faults::TEXT),
            "{kind:?}"
        );
        assert_eq!(
            (row.prompt_tokens, row.output_tokens, row.cached_tokens),
            (Some(5), Some(4), Some(2))
        );
        assert_eq!(row.token_source.as_deref(), Some("usage"));
        assert_eq!(
            (row.chunk_ns.len(), row.attempt, row.http_status),
            (3, 1, Some(200)),
            "{kind:?}"
        );
        assert_eq!(row.finish_reason.as_deref(), Some("stop"));
        let order =
            [Some(row.due_ns), row.sent_ns, row.first_token_ns, row.last_token_ns, row.done_ns];
        assert!(order.is_sorted() && row.sent_ns.is_some(), "{order:?}");
        assert_eq!(row.prompt_sha256.len(), 64);
    }
}

#[test]
fn refusals_are_quoted_and_not_tried_again() {
    for status in [500, 429, 404] {
        let row = failed(Fault::Status(status), &format!("http {status}: refused (code {status})"));
        assert_eq!((row.http_status, row.attempt), (Some(i64::from(status)), 1));
    }
}

#[test]
fn silence_is_timed_out() {
    let hang = failed(Fault::Hang, "timed out: nothing came for 0.2 s");
    assert_eq!((hang.http_status, hang.first_token_ns, hang.attempt), (None, None, 1));
    let stall = failed(Fault::Stall, "timed out: nothing came for 0.2 s");
    assert_eq!(
        (stall.http_status, stall.output_text.as_str(), stall.chunk_ns.len()),
        (Some(200), "one é漢", 2)
    );
}

#[test]
fn broken_streams_are_errors_and_keep_what_came() {
    let half = failed(Fault::Half, "connection lost after");
    assert_eq!((half.output_text.as_str(), half.output_tokens, half.attempt), ("one é漢", None, 1));
    let early = failed(Fault::EndsEarly, "stream ended early");
    assert_eq!(early.output_text, "one é漢");
    let reset = one(Fault::Reset);
    assert!(reset.err.is_some(), "{reset:?}");
    assert_eq!(reset.finish_reason, None);
}

#[test]
fn a_new_connection_that_is_reset_is_not_tried_again() {
    // The server may have begun to work on it: twice the load is no favour to one that fails.
    let row = one(Fault::ResetEarly);
    assert!(row.err.is_some());
    assert_eq!((row.attempt, row.http_status), (1, None));
}

#[test]
fn what_is_no_answer_is_an_error() {
    failed(Fault::Garbage, "expected a JSON chunk, got \"nonsense\"");
    failed(Fault::Html, "expected an event stream, got text/html: \"<html>sign in</html>\"");
    let inside = failed(Fault::ErrorInside, "error inside the stream: out of memory (code 500)");
    assert_eq!((inside.http_status, inside.output_text.as_str()), (Some(200), "one"));
}

#[test]
fn a_megabyte_in_one_line() {
    let row = one(Fault::LongLine);
    assert_eq!((row.err, row.output_text.len(), row.chunk_ns.len()), (None, 1 << 20, 1));
    assert_eq!((row.output_tokens, row.token_source), (None, None), "chunks are no tokens");
}

#[test]
fn the_keep_alive_race_costs_an_attempt_and_not_a_request() {
    let server = fault(Fault::CloseSecond);
    let rows = rows(target(&server.url), 3);
    assert!(rows.iter().all(|row| row.err.is_none()), "{rows:?}");
    assert_eq!(rows.iter().map(|row| row.attempt).collect::<Vec<_>>(), [1, 2, 2]);
}

#[test]
fn no_server_is_one_row_and_the_url_shows_no_password() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let rows = rows(target(&format!("http://me:hunter2@127.0.0.1:{port}")), 5);
    assert_eq!(rows.len(), 1);
    let err = rows[0].err.as_deref().unwrap();
    assert!(err.starts_with(&format!("cannot connect to http://127.0.0.1:{port}: ")), "{err}");
    assert!(err.contains("\n  hint: ") && !err.contains("hunter2"), "{err}");
    assert_eq!((rows[0].sent_ns, rows[0].attempt), (None, 0));
}

#[test]
fn both_endpoints_both_modes_and_facts() {
    for (mode, endpoint) in
        [(known::Mode::Independent, Endpoint::Completions), (known::Mode::Tick, Endpoint::Chat)]
    {
        let server = known(mode);
        let mut target = target(&server.url);
        (target.endpoint, target.continuous_usage, target.warmup_requests) = (endpoint, true, 2);
        let mut backend = backend(12, when_free);
        let mut sink = Rows::default();
        let closed = Arrival::Closed { concurrency: 4 };
        let (result, notices) =
            run(&mut backend, &cell(target, closed), &mut sink, StopFlag::default());
        result.unwrap();
        assert!(notices.is_empty(), "{notices:?}");
        assert_eq!(sink.rows.len(), 14, "warm-up requests are rows too");
        let (warm, measured) = sink.rows.split_at(2);
        assert!(warm.iter().all(|row| row.warmup) && !measured.iter().any(|row| row.warmup));
        for row in measured {
            assert_eq!((row.err.as_deref(), row.output_tokens), (None, Some(3)));
            assert_eq!(
                (row.chunk_tokens.as_slice(), row.finish_reason.as_deref()),
                (&[1, 1, 1][..], Some("length"))
            );
            let stamps: Vec<i64> =
                row.output_text.split_whitespace().map(|text| text.parse().unwrap()).collect();
            assert!(stamps.len() == 3 && stamps.is_sorted(), "{stamps:?}");
        }
        let (_, (EngineFacts { version, models, .. }, _)) =
            backend.servers().first_key_value().unwrap();
        assert_eq!(
            (version.as_deref(), models.as_slice()),
            (Some(env!("CARGO_PKG_VERSION")), &["known".to_owned()][..])
        );
        // Three texts, the finish, the usage and [DONE].
        assert_eq!((backend.health().len(), backend.health()[0].n_events), (1, 12 * 6));
    }
}

#[test]
fn an_open_loop_sends_at_its_times() {
    let server = known(known::Mode::Independent);
    let at = |id| Due::AtNs(id * 3_000_000);
    let mut sink = Rows::default();
    let poisson = cell(target(&server.url), Arrival::Poisson { rate: 333.0 });
    run(&mut backend(8, at), &poisson, &mut sink, StopFlag::default()).0.unwrap();
    sink.rows.sort_by_key(|row| row.request_id);
    let first = sink.rows[0].due_ns;
    for (i, row) in sink.rows.iter().enumerate() {
        assert_eq!(
            row.due_ns - first,
            i as i64 * 3_000_000,
            "due times are not moved by what happens"
        );
        assert!(row.sent_ns.unwrap() >= row.due_ns);
    }
}

#[test]
fn a_stop_leaves_no_hole_and_no_finished_cell() {
    // Each of these requests takes some milliseconds, so the stop comes long before the last.
    let server = known(known::Mode::Independent);
    let stop = StopFlag::default();
    let mut sink = Rows { stop_after: Some((2, stop.clone())), ..Rows::default() };
    run(&mut backend(200, when_free), &cell(target(&server.url), CLOSED_1), &mut sink, stop)
        .0
        .unwrap();
    assert_eq!(sink.rows.len(), 200);
    sink.rows.sort_by_key(|row| row.request_id);
    assert!(sink.finished.is_empty());
    assert!(sink.rows.iter().take(2).all(|row| row.err.is_none()));
    let last = sink.rows.last().unwrap();
    assert_eq!(
        (last.err.as_deref(), last.sent_ns, last.attempt),
        (Some("not sent: interrupted"), None, 0)
    );
}

#[test]
fn a_run_left_alone_is_not_cut_short_by_drain() {
    let server = fault(Fault::Stall);
    let mut target = target(&server.url);
    (target.drain_s, target.idle_timeout_s) = (0.01, 0.2);
    let row = rows(target, 1).remove(0);
    let err = row.err.as_deref().unwrap();
    assert!(
        !err.starts_with("unfinished") && err.contains("0.2 s"),
        "its own time-out ends it: {row:?}"
    );
    assert_eq!(row.output_text, "one é漢", "what came is kept");
}

#[test]
fn a_full_disk_ends_the_run() {
    let server = fault(Fault::Stall);
    let mut sink = Rows { fail_after: Some(1), ..Rows::default() };
    let mut target = target(&server.url);
    target.idle_timeout_s = 0.1;
    let (result, _) =
        run(&mut backend(20, when_free), &cell(target, CLOSED_1), &mut sink, StopFlag::default());
    assert!(format!("{:#}", result.unwrap_err()).contains("disk full"));
    assert!(sink.finished.is_empty());
}

#[test]
fn extras_reach_no_row_unasked() {
    assert_eq!(backend(0, when_free).extras, Extras::default());
}
