//! What passes through: bytes, ends, cancellations, credentials.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::StreamExt as _;
use kvbench::serve::{
    faults::{self, Fault},
    known::{self, Mode, Timing},
};

use super::*;

const QUICK: Timing =
    Timing { ttft: Duration::ZERO, itl: Duration::from_millis(1), mode: Mode::Independent };

/// Status, kind and body of an answer; `None` for a body that broke.
async fn whole(url: &str, n: usize) -> (u16, Option<String>, Option<Vec<u8>>) {
    let response = post(url, ask(n)).await.unwrap();
    let kind = response.headers().get("content-type").map(|kind| kind.to_str().unwrap().to_owned());
    let status = response.status().as_u16();
    (status, kind, response.bytes().await.ok().map(|bytes| bytes.to_vec()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_those_of_a_direct_call_byte_for_byte() {
    for fault in [
        Fault::None,
        Fault::SlowLoris,
        Fault::LongLine,
        Fault::Crlf,
        Fault::OneRead,
        Fault::SplitUtf8,
        Fault::ErrorInside,
        Fault::EndsEarly,
        Fault::Garbage,
        Fault::Html,
        Fault::Status(400),
        Fault::Status(429),
        Fault::Status(500),
    ] {
        let engine = faults::start(fault).await.unwrap();
        let mut place = Place::start(&[engine], With::default()).await;
        for path in ["/v1/completions", "/v1/chat/completions"] {
            let direct = whole(&format!("http://{engine}{path}"), 3).await;
            assert_eq!(whole(&place.url(path), 3).await, direct, "{fault:?} {path}");
            assert!(direct.2.is_some(), "{fault:?}");
        }
        let rows = place.rows().await;
        assert_eq!(rows.len(), 2, "{fault:?}");
        assert!(
            rows.iter()
                .all(|row| row.err.is_none() && row.attempt == 1 && row.finished_ns.is_some()),
            "{fault:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_and_headers_tell_the_decision_and_the_outcome() {
    let engine = faults::start(Fault::None).await.unwrap();
    let mut place = Place::start(&[engine], With::default()).await;
    let response = client()
        .post(place.url("/v1/completions"))
        .header("content-type", "application/json; charset=utf-8")
        .header("x-kvbench-task", "qa")
        .body(ask(3))
        .send()
        .await
        .unwrap();
    let decision = response.headers()["x-kvbench-decision"].to_str().unwrap().to_owned();
    assert!(
        decision.starts_with("engine=e0; method=f16; reason=only_one; attempt=1"),
        "{decision}"
    );
    assert!(response.bytes().await.unwrap().ends_with(b"data: [DONE]\n\n"));
    let rows = place.rows().await;
    let [row] = &rows[..] else { panic!("one row, got {}", rows.len()) };
    assert_eq!((row.prompt_tokens, row.output_tokens), (Some(5), Some(4)), "the engine's usage");
    assert_eq!(
        (row.http_status, row.task.as_deref(), row.err.as_deref()),
        (Some(200), Some("qa"), None)
    );
    assert_eq!((row.engine.as_deref(), row.method.as_deref()), (Some("e0"), Some("f16")));
    assert_eq!(row.predicted_output_tokens, Some(3.0), "16, and no more than was asked for");
    let (first, last) = (row.first_token_ns.unwrap(), row.finished_ns.unwrap());
    assert!(row.arrived_ns <= first && first <= last);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_breaks_breaks_for_the_client_too() {
    for (fault, limits, why) in
        [(Fault::Half, "", "broke its answer off"), (Fault::Stall, "stall_s = 0.05", "fell silent")]
    {
        let engine = faults::start(fault).await.unwrap();
        let mut place = Place::start(&[engine], With { limits, ..With::default() }).await;
        let (status, _, body) = whole(&place.url("/v1/completions"), 3).await;
        assert_eq!((status, body), (200, None), "{fault:?}");
        // A client of HTTP/1.0 has no chunks that could lack their end: it must see a reset.
        let old = "POST /v1/completions HTTP/1.0\r\ncontent-type: application/json\r\ncontent-length: 15\r\n\r\n{\"prompt\":\"say\"}";
        let mut socket = TcpStream::connect(place.address).await.unwrap();
        socket.write_all(old.replace("length: 15", "length: 16").as_bytes()).await.unwrap();
        assert!(socket.read_to_end(&mut Vec::new()).await.is_err(), "{fault:?}");
        let rows = place.rows().await;
        assert!(rows[0].err.as_deref().unwrap().contains(why), "{:?}", rows[0].err);
        assert_eq!((rows[0].finished_ns, rows[0].http_status), (None, Some(200)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_does_not_begin_is_a_504() {
    let engine = faults::start(Fault::Hang).await.unwrap();
    let limits = "first_byte_s = 0.05\nattempts = 1";
    let mut place = Place::start(&[engine], With { limits, ..With::default() }).await;
    assert_eq!(whole(&place.url("/v1/completions"), 3).await.0, 504);
    let rows = place.rows().await;
    assert_eq!((rows[0].http_status, rows[0].engine.as_deref()), (Some(504), Some("e0")));
    assert_eq!(rows[0].err.as_deref(), Some("the engine sent nothing in time"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_takes_its_request_back() {
    for begins in [false, true] {
        let (engine, mut posts) = watched().await;
        let mut place = Place::start(&[engine], With::default()).await;
        let asking = tokio::spawn({
            let url = place.url("/v1/completions");
            async move {
                let response = post(&url, ask(3)).await.unwrap();
                response.bytes_stream().next().await.unwrap().unwrap();
            }
        });
        let (_, mut socket) = posts.recv().await.unwrap();
        if begins {
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n";
            socket.write_all(head.as_bytes()).await.unwrap();
            asking.await.unwrap();
        } else {
            asking.abort();
            assert!(asking.await.unwrap_err().is_cancelled());
        }
        let end = tokio::time::timeout(GIVE_UP, socket.read(&mut [0; 16])).await;
        assert!(matches!(end, Ok(Ok(0) | Err(_))), "the engine's connection stays open: {end:?}");
        let rows = place.rows().await;
        assert_eq!(rows[0].err.as_deref(), Some("the client went away"));
        assert_eq!(rows[0].http_status.is_some(), begins);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_stay_where_they_belong() {
    let (engine, mut posts) = watched().await;
    let with = With {
        head: "token_env = \"UNUSED\"",
        engine: "key_env = \"UNUSED\"\nmodel = \"theirs\"",
        token: Some("clients-t0ken"),
        keys: vec![Some("engines-k3y")],
        ..With::default()
    };
    let mut place = Place::start(&[engine], with).await;
    let asked = client()
        .post(place.url("/v1/completions"))
        .header("content-type", "application/json")
        .header("authorization", "Bearer clients-t0ken")
        .header("cookie", "c=1")
        .header("x-request-id", "r1")
        .header("x-forwarded-for", "1.2.3.4")
        .body(r#"{"model":"ours","prompt":"secret prompt"}"#)
        .send();
    let answers = async {
        let (text, mut socket) = posts.recv().await.unwrap();
        let answer = "HTTP/1.1 200 OK\r\nset-cookie: k=engines-k3y\r\nserver: x\r\nauthorization: Bearer engines-k3y\r\n\
                      content-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
        socket.write_all(answer.as_bytes()).await.unwrap();
        (text, socket)
    };
    let (response, (text, _socket)) = tokio::join!(asked, answers);
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(
        head.contains("authorization: Bearer engines-k3y") && head.contains("x-request-id: r1"),
        "{head}"
    );
    for never in ["clients-t0ken", "cookie", "x-forwarded-for"] {
        assert!(!head.contains(never), "{never} went up: {head}");
    }
    assert_eq!(body, r#"{"model":"theirs","prompt":"secret prompt"}"#);
    let response = response.unwrap();
    assert!(
        !format!("{:?}", response.headers()).contains("engines-k3y"),
        "{:?}",
        response.headers()
    );
    assert_eq!(response.bytes().await.unwrap(), "{}");
    let rows = format!("{:?} {:?}", place.rows().await, place.said.lock().unwrap());
    let files = std::fs::read_dir(place.folder.path())
        .unwrap()
        .flat_map(|dir| std::fs::read_dir(dir.unwrap().path()).unwrap());
    let stored: Vec<Vec<u8>> =
        files.map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect();
    for secret in ["clients-t0ken", "engines-k3y", "secret prompt"] {
        assert!(!rows.contains(secret), "{secret} is in {rows}");
        let holds =
            |bytes: &Vec<u8>| bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(!stored.iter().any(holds), "{secret} is in a file");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_streams_at_a_time_all_end_well() {
    const STREAMS: usize = 500;
    let engines = [known::start(QUICK).await.unwrap(), known::start(QUICK).await.unwrap()];
    let policy = "rule = \"join_shortest_queue\"";
    let mut place = Place::start(&engines, With { policy, ..With::default() }).await;
    let (client, url) = (client(), place.url("/v1/completions"));
    let streams = (0..STREAMS).map(|_| {
        let asked =
            client.post(&url).header("content-type", "application/json").body(ask(20)).send();
        async { asked.await.unwrap().text().await.unwrap() }
    });
    for text in futures_util::future::join_all(streams).await {
        assert_eq!(text.matches("data: ").count(), 23);
        assert!(text.ends_with("data: [DONE]\n\n"));
    }
    let rows = place.rows().await;
    assert_eq!(rows.len(), STREAMS);
    assert!(rows.iter().all(|row| row.output_tokens == Some(20) && row.err.is_none()));
    for engine in ["e0", "e1"] {
        let n = rows.iter().filter(|row| row.engine.as_deref() == Some(engine)).count();
        assert!(n > STREAMS / 10, "{engine} got {n}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_lets_streams_end_and_takes_no_more() {
    let (engine, mut posts) = watched().await;
    let mut place = Place::start(&[engine], With::default()).await;
    let asking = tokio::spawn({
        let url = place.url("/v1/completions");
        async move { post(&url, ask(3)).await.unwrap().text().await.unwrap() }
    });
    let (_, mut socket) = posts.recv().await.unwrap();
    let address = place.address;
    let drained = tokio::spawn(async move { place.rows().await });
    let begun = Instant::now();
    while TcpStream::connect(address).await.is_ok() {
        assert!(begun.elapsed() < GIVE_UP, "it still accepts");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlast").await.unwrap();
    assert_eq!(asking.await.unwrap(), "last");
    let rows = drained.await.unwrap();
    assert_eq!((rows.len(), rows[0].err.as_deref()), (1, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ends_after_the_drain_is_cut_off_and_told() {
    let (engine, mut posts) = watched().await;
    let mut place =
        Place::start(&[engine], With { limits: "drain_s = 0.01", ..With::default() }).await;
    let asking = tokio::spawn(post_to(place.url("/v1/completions")));
    let (_, _socket) = posts.recv().await.unwrap();
    let drained = place.running.take().unwrap().drain().await.unwrap();
    assert_eq!(drained.n_cut_off, 1);
    assert!(asking.await.unwrap().is_err());
    let rows = RouteDir::open(&drained.folder).unwrap().rows::<RouteRequestRow>().unwrap();
    assert!(rows[0].err.is_some());
}

async fn post_to(url: String) -> reqwest::Result<reqwest::Response> {
    post(&url, ask(3)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_paths_answer() {
    let engine = known::start(QUICK).await.unwrap();
    let place = Place::start(&[engine], With::default()).await;
    let get = async |path: &str| client().get(place.url(path)).send().await.unwrap();
    let direct = client().get(format!("http://{engine}/v1/models")).send().await.unwrap();
    assert_eq!(get("/v1/models").await.bytes().await.unwrap(), direct.bytes().await.unwrap());
    assert_eq!(get("/health").await.status(), 200);
    assert!(
        get("/metrics")
            .await
            .text()
            .await
            .unwrap()
            .contains("kvbench_route_breaker_state{engine=\"e0\"} 0")
    );
    let missing = get("/v1/nothing").await;
    assert_eq!(missing.status(), 404);
    let body: serde_json::Value = serde_json::from_str(&missing.text().await.unwrap()).unwrap();
    assert_eq!(body["error"]["type"], "invalid_request_error");
    assert_eq!(get("/v1/completions").await.status(), 405);
}

/// An engine that tells its load, and how often it was asked for that.
async fn telling(page: &'static str) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::<AtomicUsize>::default();
    let counted = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let counted = counted.clone();
            tokio::spawn(async move {
                let mut bytes = Vec::new();
                while socket.read_buf(&mut bytes).await.is_ok_and(|n| n > 0) {
                    if bytes.starts_with(b"POST") && !bytes.ends_with(b"}") {
                        continue;
                    }
                    counted.fetch_add(
                        usize::from(bytes.starts_with(b"GET /metrics")),
                        Ordering::Relaxed,
                    );
                    let n = page.len();
                    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {n}\r\n\r\n{page}");
                    let _ = socket.write_all(answer.as_bytes()).await;
                    bytes.clear();
                }
            });
        }
    });
    (address, asked)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_engines_cover_the_run_and_hold_what_is_known() {
    let page = "vllm:kv_cache_usage_perc{engine=\"0\"} 0.25\nvllm:num_preemptions_total 7\n";
    let (telling, asked) = telling(page).await;
    let engines = [telling, known::start(QUICK).await.unwrap()];
    let with = With {
        engine: "metrics = \"/metrics\"\nkv_tokens = 1024",
        health: "record_s = 0.01",
        ..With::default()
    };
    let mut place = Place::start(&engines, with).await;
    for _ in 0..6 {
        assert_eq!(whole(&place.url("/v1/completions"), 3).await.0, 200);
    }
    // The second question comes after the first answer.
    let begun = Instant::now();
    while asked.load(Ordering::Relaxed) < 2 {
        assert!(begun.elapsed() < GIVE_UP);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    place.wait_to_tell("engine e1: its metrics are not read, the engine said 404").await;
    let requests = place.rows().await;
    let rows = place.engine_rows();
    for (name, method) in [("e0", "f16"), ("e1", "q4")] {
        let own: Vec<_> = rows.iter().filter(|row| row.engine == name).collect();
        assert!(own.len() > 1, "{own:?}");
        assert!(own.iter().all(|row| row.method == method && row.policy == requests[0].policy));
        assert_eq!(own[0].began_ns, 0);
        assert!(own.windows(2).all(|pair| pair[0].ended_ns == pair[1].began_ns), "{own:?}");
        let last = requests.iter().filter_map(|row| row.finished_ns).max();
        assert!(own.last().map(|row| row.ended_ns) >= last, "the run is covered to its end");
        let n = requests.iter().filter(|row| row.engine.as_deref() == Some(name)).count();
        assert_eq!(own.iter().map(|row| row.n_requests).sum::<i64>(), n as i64);
        assert!(own.iter().all(|row| row.busy_ns.is_none() && row.n_steps.is_none()));
        let tells = name == "e0";
        let most = own.iter().filter_map(|row| row.kv_tokens_most).max();
        assert_eq!(most, tells.then_some(256), "a quarter of 1024");
        let preempted: Option<i64> =
            own.iter().filter_map(|row| row.n_preempted).reduce(|a, b| a + b);
        assert_eq!(preempted, tells.then_some(0), "7 were before the proxy");
    }
}
