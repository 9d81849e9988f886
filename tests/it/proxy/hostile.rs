//! Clients that mean no good, or know no better: each is refused with the right status, and others go on.

use kvbench::serve::known::{self, Mode, Timing};

use super::*;

const QUICK: Timing =
    Timing { ttft: Duration::ZERO, itl: Duration::from_millis(1), mode: Mode::Independent };

async fn place(limits: &str) -> Place {
    let engine = known::start(QUICK).await.unwrap();
    Place::start(&[engine], With { limits, ..With::default() }).await
}

/// A request with these fields and this body; its answer closes the connection.
fn request(fields: &str, body: &str) -> String {
    format!("POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{fields}\r\n{body}")
}

fn json(body: &str) -> String {
    request(&format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len()), body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_hostile_request_has_its_status() {
    let place = place("body_bytes = 1000\nheader_bytes = 2000\nheader_fields = 20").await;
    let prompt = "{\"prompt\":\"a\",\"max_tokens\":2}";
    let chunked = |body: &str| {
        request("content-type: application/json\r\ntransfer-encoding: chunked\r\n", body)
    };
    let whole = format!("{:x}\r\n{prompt}\r\n0\r\n\r\n", prompt.len());
    for (bytes, wanted) in [
        (json(prompt), 200),
        (chunked(&whole), 200),
        ("nonsense\r\n\r\n".to_owned(), 400),
        ("\u{16}\u{3}\u{1}\u{2}\u{0}".to_owned(), 400),
        ("GET /health HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET /health HTTP/1.1\nhost: x\n\n".to_owned(), 400),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), 505),
        ("REFUSED-BY-GATE /200 HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(), 400),
        ("GET /nothing HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_owned(), 404),
        ("PUT /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_owned(), 405),
        (request("content-length: 5\r\ntransfer-encoding: chunked\r\n", "0\r\n\r\n"), 400),
        (request("transfer-encoding: chunked\r\ncontent-length: 5\r\n", "0\r\n\r\n"), 400),
        (request("content-length: 5\r\ncontent-length: 5\r\n", "hello"), 400),
        (request("content-length: +5\r\n", "hello"), 400),
        (request("content-length : 5\r\n", "hello"), 400),
        (request("transfer-encoding: xchunked\r\n", "0\r\n\r\n"), 400),
        (request("transfer-encoding:\u{b}chunked\r\n", "0\r\n\r\n"), 400),
        (request("x: a\r\n folded: b\r\n", ""), 400),
        (request("x: a\nhost: b\r\n", ""), 400),
        (request("host: y\r\n", ""), 400),
        (request("expect: miracles\r\n", ""), 417),
        (chunked(&whole.replacen("\r\n", ";x=y\r\n", 1)), 400),
        (chunked(&whole.replacen("\r\n", "\n", 1)), 400),
        (chunked(&whole.replace("0\r\n\r\n", "0\r\nx: y\r\n\r\n")), 400),
        (chunked(&format!("{:x}\r\n{}\r\n0\r\n\r\n", 5000, "x".repeat(5000))), 413),
        (request("content-type: application/json\r\ncontent-length: 1001\r\n", ""), 413),
        (request(&format!("x: {}\r\n", "a".repeat(3000)), ""), 431),
        (request(&"x: a\r\n".repeat(30), ""), 431),
        (request("content-type: text/plain\r\ncontent-length: 2\r\n", "{}"), 415),
        (request("content-length: 2\r\n", "{}"), 415),
        (
            "POST /nothing HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nnever all of it"
                .to_owned(),
            404,
        ),
        (json("nonsense"), 400),
        (json("{}"), 400),
        (json("{\"prompt\":\"a\",\"prompt\":\"b\"}"), 400),
    ] {
        let answer = raw(place.address, bytes.as_bytes()).await;
        assert_eq!(status(&answer), wanted, "{bytes:?} was answered {answer:?}");
        if wanted >= 400 {
            let (_, body) = answer.split_once("\r\n\r\n").unwrap();
            let error: serde_json::Value = serde_json::from_str(body).unwrap();
            assert_eq!(error["error"]["code"], wanted, "{answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_follows_a_refused_request_is_not_taken_for_another() {
    let place = place("").await;
    let good = "GET /health HTTP/1.1\r\nhost: x\r\n\r\n";
    let smuggling = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    let answer = raw(place.address, format!("{good}{good}{smuggling}{good}").as_bytes()).await;
    let statuses: Vec<u16> =
        answer.split("HTTP/1.1 ").skip(1).map(|one| one[..3].parse().unwrap()).collect();
    assert_eq!(statuses, [200, 200, 400], "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_and_silent_clients_are_ended() {
    let place = place("header_s = 0.05\nbody_s = 0.05\nidle_s = 0.1").await;
    assert_eq!(raw(place.address, b"").await, "");
    assert_eq!(status(&raw(place.address, b"POST /v1/comp").await), 408);
    let body = request("content-type: application/json\r\ncontent-length: 100\r\n", "{");
    assert_eq!(status(&raw(place.address, body.as_bytes()).await), 408);
    assert_eq!(
        status(&raw(place.address, json("{\"prompt\":\"a\",\"max_tokens\":2}").as_bytes()).await),
        200
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_body_is_refused_early_or_passed_whole() {
    let large = format!("{{\"max_tokens\":2,\"prompt\":\"{}\"}}", "x".repeat(10 << 20));
    let small = place("").await;
    let answer = raw(small.address, json(&large).as_bytes()).await;
    assert_eq!(status(&answer), 413, "{answer}");
    let (engine, mut posts) = watched().await;
    let roomy =
        Place::start(&[engine], With { limits: "body_bytes = 16777216", ..With::default() }).await;
    let asking = tokio::spawn({
        let (address, bytes) = (roomy.address, json(&large));
        async move { raw(address, bytes.as_bytes()).await }
    });
    let (text, mut socket) = posts.recv().await.unwrap();
    assert_eq!(text.split_once("\r\n\r\n").unwrap().1, large);
    socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
    assert!(asking.await.unwrap().ends_with("\r\n\r\nok"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_token_nothing_but_health_is_told() {
    let engine = known::start(QUICK).await.unwrap();
    let with = With { head: "token_env = \"UNUSED\"", token: Some("t0ken"), ..With::default() };
    let place = Place::start(&[engine], with).await;
    let get = |path: &str, fields: &str| {
        let text = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{fields}\r\n");
        async move { raw(place.address, text.as_bytes()).await }
    };
    for (path, fields, wanted) in [
        ("/health", "", 200),
        ("/v1/models", "", 401),
        ("/metrics", "", 401),
        ("/nothing", "", 401),
        ("/v1/models", "authorization: Bearer t0ke\r\n", 401),
        ("/v1/models", "authorization: Bearer t0kenn\r\n", 401),
        ("/v1/models", "authorization: Basic t0ken\r\n", 401),
        ("/v1/models", "authorization: Bearer t0ken\r\nauthorization: Bearer x\r\n", 401),
        ("/v1/models", "authorization: Bearer t0ken\r\n", 200),
    ] {
        let answer = get(path, fields).await;
        assert_eq!(status(&answer), wanted, "{path} {fields:?}: {answer}");
        assert!(!answer.contains("t0ken"), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_connections_than_there_may_be_are_turned_away_and_others_go_on() {
    let place = place("connections = 2").await;
    let mut first = TcpStream::connect(place.address).await.unwrap();
    let health = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut bytes = [0; 12];
    first.write_all(health).await.unwrap();
    first.read_exact(&mut bytes).await.unwrap();
    let _idle = TcpStream::connect(place.address).await.unwrap();
    for sent in [&b""[..], health] {
        let answer = raw(place.address, sent).await;
        assert_eq!(status(&answer), 503, "{answer}");
    }
    first.write_all(health).await.unwrap();
    first.read_exact(&mut bytes).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_lines_without_end_are_refused_and_a_few_are_not() {
    let place = place("").await;
    let flood = raw(place.address, "\r\n".repeat(1 << 20).as_bytes()).await;
    assert_eq!(status(&flood), 400, "{flood}");
    let good = "GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    assert_eq!(status(&raw(place.address, format!("\r\n\r\n{good}").as_bytes()).await), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_byte_by_byte_and_requests_all_at_once_are_answered() {
    let place = place("").await;
    let mut socket = TcpStream::connect(place.address).await.unwrap();
    socket.set_nodelay(true).unwrap();
    for byte in json("{\"prompt\":\"a\",\"max_tokens\":1}").as_bytes() {
        socket.write_all(&[*byte]).await.unwrap();
    }
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert_eq!(status(&answer), 200, "{answer}");
    const PIPELINED: usize = 100;
    let one = json("{\"prompt\":\"a\",\"max_tokens\":1}").replace("connection: close\r\n", "");
    let last = "GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let answers = raw(place.address, format!("{}{last}", one.repeat(PIPELINED)).as_bytes()).await;
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), PIPELINED + 1);
    assert_eq!(answers.matches("data: [DONE]").count(), PIPELINED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_closes_its_half_takes_its_request_back() {
    let (engine, mut posts) = watched().await;
    let mut place = Place::start(&[engine], With::default()).await;
    let mut socket = TcpStream::connect(place.address).await.unwrap();
    socket.write_all(json("{\"prompt\":\"a\"}").as_bytes()).await.unwrap();
    let (_, mut upstream) = posts.recv().await.unwrap();
    socket.shutdown().await.unwrap();
    let end = tokio::time::timeout(GIVE_UP, upstream.read(&mut [0; 16])).await;
    assert!(matches!(end, Ok(Ok(0) | Err(_))), "{end:?}");
    assert_eq!(place.rows().await[0].err.as_deref(), Some("the client went away"));
}
