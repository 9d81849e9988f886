//! Engines that lie, ramble or speak another protocol: their clients get an honest answer, and no memory fills.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

/// An engine that answers every POST with these bytes, after which it closes the connection or stays silent on it.
async fn answering(bytes: &'static [u8], stays: bool) -> SocketAddr {
    let (address, mut posts) = watched().await;
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Some((_, mut socket)) = posts.recv().await {
            // The proxy may have had enough before the end.
            let _ = socket.write_all(bytes).await;
            if stays {
                open.push(socket);
            }
        }
    });
    address
}

/// Status, fields and body of the proxy's answer; no body where it broke.
async fn answer_of(place: &Place) -> (u16, String, Option<Vec<u8>>) {
    let response = post(&place.url("/v1/completions"), ask(1)).await.unwrap();
    let (status, fields) = (response.status().as_u16(), format!("{:?}", response.headers()));
    (status, fields, response.bytes().await.ok().map(|bytes| bytes.to_vec()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_none_is_a_502() {
    for (bytes, kind) in [
        (&b""[..], "broken"),
        (b"nonsense\r\n\r\n", "broken"),
        (b"HTTP/1.1 200 OK\r\nx: a\0b\r\n\r\n", "broken"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", "broken"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n{}", "broken"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", "broken"),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
            "framing",
        ),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n\x1f\x8b", "framing"),
        (b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n", "odd_status"),
        (b"HTTP/1.1 302 Found\r\nlocation: http://elsewhere/\r\ncontent-length: 0\r\n\r\n", "odd_status"),
        (b"HTTP/1.1 304 Not Modified\r\n\r\n", "odd_status"),
    ] {
        let shown = String::from_utf8_lossy(bytes);
        let engine = answering(bytes, false).await;
        let mut place =
            Place::start(&[engine], With { limits: "attempts = 1", ..With::default() }).await;
        let (status, fields, body) = answer_of(&place).await;
        assert_eq!(status, 502, "{shown}");
        assert!(!fields.contains("location") && !fields.contains("upgrade"), "{fields}");
        let error: serde_json::Value = serde_json::from_slice(&body.unwrap()).unwrap();
        assert_eq!(error["error"]["code"], 502);
        let line = format!("kvbench_route_upstream_errors_total{{engine=\"e0\",kind=\"{kind}\"}}");
        assert!((place.metric(&line).await - 1.0).abs() < 1e-9, "{shown}: not {kind}");
        let rows = place.rows().await;
        assert_eq!(rows[0].http_status, Some(502));
        assert!(rows[0].err.as_deref().unwrap().contains("the engine"), "{:?}", rows[0].err);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_odd_answer_that_has_one_meaning_passes() {
    let gzip =
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\n\x1f\x8b\x08\x00";
    for (bytes, stays, status, body) in [
        (
            &b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"[..],
            true,
            200,
            Some(&b"{}"[..]),
        ),
        (gzip, true, 200, Some(&b"\x1f\x8b\x08\x00"[..])),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x\r\n\r\n2\r\n{}\r\n0\r\nx: y\r\n\r\n",
            true,
            200,
            Some(b"{}"),
        ),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n2;a=b\r\n{}\r\n0\r\n\r\n",
            true,
            200,
            Some(b"{}"),
        ),
        (b"HTTP/1.0 200 OK\r\n\r\nto the end", false, 200, Some(b"to the end")),
        (b"HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n", true, 204, Some(b"")),
        // Lies about where the answer ends: too much is cut, too little breaks.
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\n\r\n", true, 200, Some(b"{}")),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{}", false, 200, None),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n", false, 200, None),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n-1\r\n", true, 200, None),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}x", true, 200, None),
    ] {
        let shown = String::from_utf8_lossy(bytes);
        let engine = answering(bytes, stays).await;
        let mut place = Place::start(&[engine], With::default()).await;
        // The second answer shows whether something of the first was left over.
        for _ in 0..2 {
            let (got, fields, whole) = answer_of(&place).await;
            assert_eq!((got, whole.as_deref()), (status, body), "{shown}: {fields}");
        }
        let rows = place.rows().await;
        assert_eq!(rows.len(), 2);
        assert!(rows.iter().all(|row| row.err.is_none() == body.is_some()), "{shown}: {rows:?}");
    }
}

/// What an engine that does not stop says, and where.
#[derive(Clone)]
struct Endless {
    /// Beginning of the request that is answered so; every other is answered well.
    to: &'static str,
    head: &'static str,
    again: String,
}

/// An engine that does not stop; the most bytes that it got rid of on one connection.
async fn endless(what: Endless) -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let most = Arc::<AtomicU64>::default();
    let counted = most.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(ramble(socket, what.clone(), counted.clone()));
        }
    });
    (address, most)
}

async fn ramble(mut socket: TcpStream, what: Endless, most: Arc<AtomicU64>) {
    let mut bytes = Vec::new();
    while socket.read_buf(&mut bytes).await.is_ok_and(|n| n > 0) {
        if !bytes.starts_with(what.to.as_bytes()) {
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            bytes.clear();
            continue;
        }
        let again = what.again.repeat(1 + 65_536 / what.again.len());
        let mut n = 0;
        let mut piece = what.head.as_bytes();
        while socket.write_all(piece).await.is_ok() {
            n += piece.len() as u64;
            most.fetch_max(n, Ordering::Relaxed);
            piece = again.as_bytes();
        }
        return;
    }
}

/// Far more than the proxy reads and both sockets hold, far less than an engine sends in the time that it has.
const ENDLESS_BYTES_MAX: u64 = 64 << 20;
const OK: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";

/// A chunk of a body.
fn piece() -> String {
    format!("400\r\n{}\r\n", "x".repeat(0x400))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_and_models_without_end_fill_no_memory() {
    let (engine, most) = endless(Endless { to: "GET /metrics", head: OK, again: piece() }).await;
    let with =
        With { engine: "metrics = \"/metrics\"", health: "timeout_s = 30", ..With::default() };
    let place = Place::start(&[engine], with).await;
    place
        .wait_to_tell("engine e0: its metrics are not read, the engine's answer is longer than")
        .await;
    assert!(most.load(Ordering::Relaxed) < ENDLESS_BYTES_MAX, "{most:?} bytes were taken");
    let breaker = place.metric("kvbench_route_breaker_state{engine=\"e0\"}").await;
    assert!(breaker.abs() < 1e-9, "its health is another matter");

    let (engine, most) = endless(Endless { to: "GET /v1/models", head: OK, again: piece() }).await;
    let health = "timeout_s = 30";
    let place = Place::start(&[engine], With { health, ..With::default() }).await;
    let answer = client().get(place.url("/v1/models")).send().await.unwrap();
    assert_eq!(answer.status(), 503);
    assert!(most.load(Ordering::Relaxed) < ENDLESS_BYTES_MAX, "{most:?} bytes were taken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_without_end_end() {
    for (head, again, status) in [
        ("HTTP/1.1 200 OK\r\n", "x: 0123456789abcdef\r\n", 502),
        ("HTTP/1.1 200 OK\r\nx: ", "0123456789abcdef", 502),
        ("", "HTTP/1.1 100 Continue\r\n\r\n", 504),
    ] {
        let (engine, most) = endless(Endless { to: "POST", head, again: again.to_owned() }).await;
        let limits = "attempts = 1\nfirst_byte_s = 2";
        let place = Place::start(&[engine], With { limits, ..With::default() }).await;
        assert_eq!(answer_of(&place).await.0, status, "{head}{again}");
        let taken = most.load(Ordering::Relaxed);
        assert!(status == 504 || taken < ENDLESS_BYTES_MAX, "{again}: {taken} bytes were taken");
        // The engine's connection is dropped, and nobody reads on behind the client's back.
        let mut before = taken;
        let begun = Instant::now();
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let now = most.load(Ordering::Relaxed);
            if now == before {
                break;
            }
            before = now;
            assert!(begun.elapsed() < GIVE_UP, "the proxy still reads");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_breaker_says_why_it_opens() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sick = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let _ = socket.read(&mut [0; 1024]).await;
            let _ = socket.write_all(b"HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n").await;
        }
    });
    let place = Place::start(&[sick], With::default()).await;
    place
        .wait_to_tell("engine e0: breaker open: its health check failed, the engine said 500")
        .await;
}
