//! Engines that go down: breakers, retries where they are allowed, files that change.

use std::sync::atomic::{AtomicBool, Ordering};

use kvbench::{
    route::risk::{EDGES, Risks},
    serve::{
        faults::{self, Fault},
        known::{self, Mode, Timing},
    },
};

use super::*;

const QUICK: Timing =
    Timing { ttft: Duration::ZERO, itl: Duration::from_millis(1), mode: Mode::Independent };

/// An engine that can be killed: all its connections end with its runtime.
struct Mortal {
    runtime: tokio::runtime::Runtime,
    address: SocketAddr,
}

impl Mortal {
    fn start(timing: Timing, port: u16) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let address = runtime.block_on(known::start_at(timing, port)).unwrap();
        Self { runtime, address }
    }

    fn kill(self) {
        self.runtime.shutdown_background();
    }
}

/// Starting and ending a runtime blocks, which a thread of another one must not.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

async fn answered(place: &Place, n: usize) -> u16 {
    let response = post(&place.url("/v1/completions"), ask(n)).await.unwrap();
    let status = response.status().as_u16();
    assert!(response.bytes().await.is_ok());
    status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_whose_engine_fails_before_the_first_byte_goes_to_another() {
    for fault in [Fault::ResetEarly, Fault::Status(503)] {
        let engines = [faults::start(fault).await.unwrap(), known::start(QUICK).await.unwrap()];
        let mut place = Place::start(&engines, With::default()).await;
        for _ in 0..8 {
            assert_eq!(answered(&place, 3).await, 200, "{fault:?}");
        }
        place.wait_for("kvbench_route_breaker_opened_total{engine=\"e0\"}", 1.0).await;
        let rows = place.rows().await;
        assert_eq!(rows.len(), 8);
        assert!(rows.iter().all(|row| row.engine.as_deref() == Some("e1") && row.err.is_none()));
        assert!(rows.iter().any(|row| row.attempt == 2), "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_is_killed_opens_its_breaker_and_closes_it_when_it_is_back() {
    let mortal = apart(|| Mortal::start(QUICK, 0)).await;
    let port = mortal.address.port();
    let engines = [mortal.address, known::start(QUICK).await.unwrap()];
    let mut place = Place::start(&engines, With::default()).await;
    for _ in 0..4 {
        assert_eq!(answered(&place, 3).await, 200);
    }
    apart(move || mortal.kill()).await;
    for _ in 0..10 {
        assert_eq!(answered(&place, 3).await, 200, "nothing that had not started is lost");
    }
    place.wait_for("kvbench_route_breaker_opened_total{engine=\"e0\"}", 1.0).await;
    let back = apart(move || Mortal::start(QUICK, port)).await;
    let begun = Instant::now();
    while place.metric("kvbench_route_breaker_closed_total{engine=\"e0\"}").await < 1.0 {
        assert!(begun.elapsed() < GIVE_UP, "it never closes");
        assert_eq!(answered(&place, 1).await, 200);
    }
    let rows = place.rows().await;
    assert!(rows.iter().all(|row| row.err.is_none() && row.http_status == Some(200)));
    assert_eq!(rows.last().unwrap().attempt, 1);
    apart(move || back.kill()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_whose_engine_is_killed_breaks_and_a_waiting_request_moves() {
    let slow = Timing { ttft: Duration::from_secs(3600), ..QUICK };
    let mortal = apart(move || Mortal::start(slow, 0)).await;
    let engines = [mortal.address, known::start(QUICK).await.unwrap()];
    let mut place = Place::start(&engines, With::default()).await;
    let waiting = tokio::spawn({
        let url = place.url("/v1/completions");
        async move { post(&url, ask(3)).await.unwrap().text().await }
    });
    place.wait_for("kvbench_route_engine_in_flight{engine=\"e0\"}", 1.0).await;
    apart(move || mortal.kill()).await;
    assert!(waiting.await.unwrap().unwrap().ends_with("data: [DONE]\n\n"));
    let rows = place.rows().await;
    assert_eq!(
        (rows[0].engine.as_deref(), rows[0].attempt, rows[0].err.as_deref()),
        (Some("e1"), 2, None)
    );
}

/// An engine whose health is what a test says. It answers posts, or takes them and says nothing.
async fn moody(healthy: bool, answers: bool) -> (SocketAddr, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mood = Arc::new(AtomicBool::new(healthy));
    let shared = mood.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(serve_moody(socket, answers, shared.clone()));
        }
    });
    (address, mood)
}

async fn serve_moody(mut socket: TcpStream, answers: bool, healthy: Arc<AtomicBool>) {
    let mut bytes = Vec::new();
    while socket.read_buf(&mut bytes).await.is_ok_and(|n| n > 0) {
        let is_post = bytes.starts_with(b"POST");
        // Each body ends with a brace, and has no other before its end.
        if is_post && (!answers || !bytes.ends_with(b"}")) {
            continue;
        }
        let status = if is_post || healthy.load(Ordering::Relaxed) { 200 } else { 500 };
        let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 2\r\n\r\n{{}}");
        let _ = socket.write_all(answer.as_bytes()).await;
        bytes.clear();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_on_an_engine_that_fell_while_no_other_was_up_move_when_one_is() {
    const WAITING: usize = 12;
    let (dead, dead_health) = moody(true, false).await;
    let (other, other_health) = moody(false, true).await;
    let mut place = Place::start(&[dead, other], With::default()).await;
    place.wait_for("kvbench_route_breaker_state{engine=\"e1\"}", 2.0).await;
    let waiting: Vec<_> = (0..WAITING)
        .map(|_| {
            let url = place.url("/v1/completions");
            tokio::spawn(async move { post(&url, ask(1)).await.unwrap().status().as_u16() })
        })
        .collect();
    place.wait_for("kvbench_route_engine_in_flight{engine=\"e0\"}", WAITING as f64).await;
    dead_health.store(false, Ordering::Relaxed);
    place.wait_for("kvbench_route_breaker_state{engine=\"e0\"}", 2.0).await;
    assert!(waiting.iter().all(|one| !one.is_finished()), "nobody else is up: they wait");
    other_health.store(true, Ordering::Relaxed);
    for one in waiting {
        let status = tokio::time::timeout(GIVE_UP, one).await.expect("it waits for ever").unwrap();
        assert_eq!(status, 200);
    }
    let rows = place.rows().await;
    assert_eq!(rows.len(), WAITING);
    for row in rows {
        assert_eq!((row.engine.as_deref(), row.attempt, row.err), (Some("e1"), 2, None));
    }
}

/// A file of risks in which no method was ever judged.
fn no_risks(folder: &TempDir) -> String {
    let path = folder.path().join("risks.json");
    std::fs::write(&path, Risks::new("test", &EDGES, Vec::new()).unwrap().to_json().unwrap())
        .unwrap();
    path.to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guarded_request_never_spills_to_an_engine_that_may_harm_it() {
    let folder = tempfile::tempdir().unwrap();
    let policy = format!(
        "rule = \"round_robin\"\nguard = {{ risks = {:?}, epsilon = 0.05 }}",
        no_risks(&folder)
    );
    let engines =
        [faults::start(Fault::ResetEarly).await.unwrap(), known::start(QUICK).await.unwrap()];
    let mut place = Place::start(&engines, With { policy: &policy, ..With::default() }).await;
    let refused = answered(&place, 3).await;
    assert!(matches!(refused, 502 | 503), "{refused}");
    let rows = place.rows().await;
    assert_eq!(rows[0].engine.as_deref(), Some("e0"), "the baseline's, and no other");
    assert!(rows[0].err.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_engine_that_is_up_the_answer_is_503() {
    let mortal = apart(|| Mortal::start(QUICK, 0)).await;
    let mut place = Place::start(&[mortal.address], With::default()).await;
    apart(move || mortal.kill()).await;
    place.wait_for("kvbench_route_breaker_state{engine=\"e0\"}", 2.0).await;
    let response = post(&place.url("/v1/completions"), ask(3)).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), response.headers()["retry-after"].to_str().unwrap()),
        (503, "1")
    );
    assert_eq!(client().get(place.url("/health")).send().await.unwrap().status(), 503);
    let rows = place.rows().await;
    assert_eq!(
        (rows[0].engine.as_deref(), rows[0].attempt, rows[0].reason.as_str()),
        (None, 0, "none_safe")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_file_keeps_what_was_known_and_a_good_one_replaces_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = no_risks(&folder);
    let policy = format!("rule = \"round_robin\"\nguard = {{ risks = {path:?}, epsilon = 0.05 }}");
    let engine = known::start(QUICK).await.unwrap();
    let place = Place::start(&[engine], With { policy: &policy, ..With::default() }).await;
    let good = std::fs::read(&path).unwrap();
    std::fs::write(&path, "{}").unwrap();
    place.running.as_ref().unwrap().reload();
    place.wait_for("kvbench_route_reloads_failed_total", 1.0).await;
    assert!(
        place.said.lock().unwrap().iter().any(|said| said.contains("risks.json")),
        "{:?}",
        place.said.lock().unwrap()
    );
    assert_eq!(answered(&place, 3).await, 200);
    std::fs::write(&path, good).unwrap();
    place.running.as_ref().unwrap().reload();
    place.wait_for("kvbench_route_reloads_total", 1.0).await;
    assert_eq!(answered(&place, 3).await, 200);
}
