//! One request over HTTP: read the clock, keep the bytes. Nothing is decoded here.

use std::{
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::{Mutex, Once, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use reqwest::{
    Client, Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderValue},
};
use tokio::time::Sleep;

use super::{
    answer::{Capture, Read},
    conn::{Conn, Origin},
    http1::Reader,
    key::ApiKey,
};
use crate::execute::clock::{self, Clock};

/// Longest body that is kept of one answer.
const BODY_LIMIT_BYTES: usize = 64 * 1024 * 1024;

/// Idle connections are dropped before the servers drop them (uvicorn and llama.cpp close after 5 s), so that fewer
/// requests meet a closing one.
const POOL_IDLE: Duration = Duration::from_secs(4);

/// Where and how one cell's requests go.
pub(super) struct Http {
    origin: Origin,
    /// Request line and headers, but for the length of the body. Holds the key.
    head: Vec<u8>,
    pools: Vec<Pool>,
    pub(super) clock: Clock,
    /// Longest silence.
    pub(super) idle: Duration,
    /// Longest request.
    pub(super) total: Duration,
}

/// Free connections of one receiving thread, with when they came free: a connection stays on the thread that opened it.
type Pool = Mutex<Vec<(Instant, Conn)>>;

impl Http {
    /// Requests to `url` on `n_shards` receiving threads, with the client's idea of what user and password in a URL mean.
    pub(super) fn new(
        client: &Client,
        url: &Url,
        key: Option<&ApiKey>,
        n_shards: usize,
        clock: Clock,
    ) -> anyhow::Result<Self> {
        let request = client.post(url.clone()).build()?;
        let mut headers = request.headers().clone();
        headers.insert(HOST, HeaderValue::from_str(&host(url))?);
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(key) = key
            && !headers.contains_key(AUTHORIZATION)
        {
            headers.insert(AUTHORIZATION, key.header()?);
        }
        Ok(Self {
            origin: Origin::new(url)?,
            head: head(url, &headers),
            pools: (0..n_shards).map(|_| Pool::default()).collect(),
            clock,
            idle: Duration::MAX,
            total: Duration::MAX,
        })
    }

    /// Head and body in one piece, so that a short request is one packet.
    fn request(&self, body: &[u8]) -> Vec<u8> {
        let length = format!("content-length: {}\r\n\r\n", body.len());
        [&self.head, length.as_bytes(), body].concat()
    }

    /// A free connection of a shard, if it has one that is still good.
    fn take(&self, shard: usize) -> Option<Conn> {
        let now = clock::now();
        let mut pool = self.pools[shard].lock().unwrap_or_else(PoisonError::into_inner);
        pool.retain(|(since, _)| now.saturating_duration_since(*since) < POOL_IDLE);
        while let Some((_, mut conn)) = pool.pop() {
            if conn.is_quiet() {
                return Some(conn);
            }
        }
        None
    }

    fn put(&self, shard: usize, conn: Conn) {
        let mut pool = self.pools[shard].lock().unwrap_or_else(PoisonError::into_inner);
        pool.push((clock::now(), conn));
    }
}

/// Request line and headers. Header values are bytes; a URL's path and query are ASCII.
fn head(url: &Url, headers: &HeaderMap) -> Vec<u8> {
    let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut head = format!("POST {}{query} HTTP/1.1\r\n", url.path()).into_bytes();
    for (name, value) in headers {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head
}

/// The value of the `host` header: the port is named where it is not the scheme's own.
fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// A client for questions outside the measurement. It takes no proxy from the environment, follows no redirect (a redirected
/// POST becomes a GET) and speaks HTTP/1.1, as the measured requests do: one connection a stream, so that one stream's
/// stall is not another's.
pub(super) fn client(key: Option<&ApiKey>) -> anyhow::Result<Client> {
    install_tls();
    let mut headers = HeaderMap::new();
    if let Some(key) = key {
        headers.insert(AUTHORIZATION, key.header()?);
    }
    let builder = Client::builder()
        .no_proxy()
        .tcp_nodelay(true)
        .http1_only()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(10))
        .default_headers(headers);
    builder.build().map_err(|error| anyhow::anyhow!("http client: {}", describe(error)))
}

/// reqwest was built without a TLS provider; ours is chosen once a process, tests included.
fn install_tls() {
    static ONCE: Once = Once::new();
    // An error says that somebody chose a provider before us, which serves as well.
    ONCE.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
}

/// An error with its causes, without the URL (it may hold a password).
pub(super) fn describe(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        let said = inner.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = inner.source();
    }
    text
}

/// Sends and receives on the receiving thread `shard`, filling `capture` as it goes, so that whoever drops this future
/// keeps what came so far.
///
/// A second attempt is made once, on a new connection, and only if the server cannot have answered the first: it could not
/// be reached, or an idle connection turned out to be closed before any byte of an answer (the keep-alive race).
pub(super) async fn exchange(http: &Http, shard: usize, body: Bytes, capture: &mut Capture) {
    let first = clock::now();
    capture.sent_ns = Some(http.clock.at_ns(first));
    let mut watch = Watch::new(http, first);
    let outcome = match send_twice(http, shard, body, capture, &mut watch).await {
        Ok(answering) => receive(http, shard, answering, capture, &mut watch).await,
        Err(failure) => Err(failure),
    };
    capture.failure = outcome.err();
    capture.done_ns = Some(http.clock.now_ns());
}

/// A connection on which an answer has begun.
struct Answering {
    conn: Conn,
    reader: Reader,
}

/// Takes the body, so that nothing holds it once the answer has begun.
async fn send_twice(
    http: &Http,
    shard: usize,
    body: Bytes,
    capture: &mut Capture,
    watch: &mut Watch,
) -> Result<Answering, String> {
    loop {
        capture.attempt += 1;
        match send(http, shard, &body, capture, watch).await {
            Err(Refused::MayRetry(_)) if capture.attempt < 2 => watch.last = clock::now(),
            Err(Refused::MayRetry(text) | Refused::Final(text)) => return Err(text),
            Ok(answering) => return Ok(answering),
        }
    }
}

/// Why there is no answer.
enum Refused {
    MayRetry(String),
    Final(String),
}

/// Sends, and reads until the head of the answer is complete.
async fn send(
    http: &Http,
    shard: usize,
    body: &[u8],
    capture: &mut Capture,
    watch: &mut Watch,
) -> Result<Answering, Refused> {
    let free = if capture.attempt < 2 { http.take(shard) } else { None };
    let pooled = free.is_some();
    let mut conn = match free {
        Some(conn) => conn,
        None => open(http, capture, watch).await?,
    };
    let sent = {
        let request = http.request(body);
        let mut sending = pin!(conn.send(&request));
        watch.wait(|cx| sending.as_mut().poll(cx)).await.map_err(Refused::Final)?
    };
    let mut answering = Answering { conn, reader: Reader::default() };
    while answering.reader.head().is_none() {
        let read = read(http, &mut answering, capture, watch).await.map_err(Refused::Final)?;
        // A server may refuse a request and close before it has read it all: what it said counts, if it said anything.
        let text = match (read, &sent) {
            (Ok(true), _) => continue,
            (Err(Broken::Protocol(text)), _) => return Err(Refused::Final(text)),
            (Ok(false) | Err(Broken::Io(_)), Err(error)) => lost(error),
            (Err(Broken::Io(error)), Ok(())) => lost(&error),
            (Ok(false), Ok(())) => "connection closed before an answer began".to_owned(),
        };
        // Only of an idle connection is it sure enough that the server closed it before it saw the request: anywhere else a
        // second attempt may be a second answer (RFC 9112, section 9.3.1).
        let unseen = pooled && !answering.reader.has_begun();
        return Err(if unseen { Refused::MayRetry(text) } else { Refused::Final(text) });
    }
    Ok(answering)
}

fn lost(error: &io::Error) -> String {
    format!("connection lost before an answer began: {error}")
}

/// Opens a connection and notes how long that took.
async fn open(http: &Http, capture: &mut Capture, watch: &mut Watch) -> Result<Conn, Refused> {
    let start = clock::now();
    // On the heap: few requests open a connection, and all would carry the room for it.
    let mut opening = Box::pin(Conn::open(&http.origin));
    let opened = watch.wait(|cx| opening.as_mut().poll(cx)).await.map_err(Refused::Final)?;
    let conn = opened.map_err(Refused::MayRetry)?;
    capture.connect_ns = Some(http.clock.now_ns() - http.clock.at_ns(start));
    Ok(conn)
}

/// Why an answer cannot be read on.
enum Broken {
    Io(io::Error),
    Protocol(String),
}

/// Waits for bytes and stores what they hold; false at the end of the connection. The outer `Err` is a time-out.
async fn read(
    http: &Http,
    answering: &mut Answering,
    capture: &mut Capture,
    watch: &mut Watch,
) -> Result<Result<bool, Broken>, String> {
    let Answering { conn, reader } = answering;
    let (taken, at) = watch
        .wait(|cx| {
            conn.poll_read(cx, |bytes| {
                let at = clock::now();
                let fed = reader.feed(bytes, &mut capture.bytes);
                (fed.map(|()| !bytes.is_empty()), at)
            })
            .map(|read| match read {
                Ok((fed, at)) => (fed.map_err(Broken::Protocol), at),
                Err(error) => (Err(Broken::Io(error)), clock::now()),
            })
        })
        .await?;
    watch.last = at;
    if capture.bytes.len() > capture.reads.last().map_or(0, |read| read.end) {
        capture.reads.push(Read { end: capture.bytes.len(), t_ns: http.clock.at_ns(at) });
    }
    Ok(taken)
}

async fn receive(
    http: &Http,
    shard: usize,
    mut answering: Answering,
    capture: &mut Capture,
    watch: &mut Watch,
) -> Result<(), String> {
    if let Some(head) = answering.reader.head() {
        capture.http_status = Some(i64::from(head.status));
        capture.content_type.clone_from(&head.content_type);
    }
    while !answering.reader.is_done() {
        let lost =
            |text: &str, n: usize| format!("connection lost after {n} bytes of body: {text}");
        match read(http, &mut answering, capture, watch).await? {
            Ok(true) => {}
            Ok(false) => {
                answering.reader.close().map_err(|text| lost(&text, capture.bytes.len()))?;
            }
            Err(Broken::Io(error)) => return Err(lost(&error.to_string(), capture.bytes.len())),
            Err(Broken::Protocol(text)) => return Err(text),
        }
        if capture.bytes.len() > BODY_LIMIT_BYTES {
            return Err(format!("expected a body of at most {BODY_LIMIT_BYTES} bytes, got more"));
        }
    }
    if answering.reader.leaves_open() {
        http.put(shard, answering.conn);
    }
    Ok(())
}

/// Both time-outs in one timer that is moved only when it fires: resetting a timer for each chunk would cost more than
/// reading the chunk.
struct Watch {
    sleep: Pin<Box<Sleep>>,
    /// Whether the timer knows this task already, so that it need not be told at each chunk.
    armed: bool,
    last: Instant,
    idle: Duration,
    total: Duration,
    end: Instant,
}

impl Watch {
    fn new(http: &Http, start: Instant) -> Self {
        let first = start + http.idle.min(http.total);
        Self {
            sleep: Box::pin(tokio::time::sleep_until(first.into())),
            armed: false,
            last: start,
            idle: http.idle,
            total: http.total,
            end: start + http.total,
        }
    }

    /// Waits for `poll` or a time-out.
    async fn wait<T>(
        &mut self,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Result<T, String> {
        poll_fn(|cx| match poll(cx) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending if self.armed && !self.sleep.is_elapsed() => Poll::Pending,
            Poll::Pending => self.poll_expired(cx).map(Err),
        })
        .await
    }

    fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        while self.sleep.as_mut().poll(cx).is_ready() {
            let now = clock::now();
            if now >= self.end {
                return Poll::Ready(format!(
                    "timed out: not finished after {} s",
                    self.total.as_secs_f64()
                ));
            }
            if now >= self.last + self.idle {
                return Poll::Ready(format!(
                    "timed out: nothing came for {} s",
                    self.idle.as_secs_f64()
                ));
            }
            let next = self.end.min(self.last + self.idle);
            self.sleep.as_mut().reset(next.into());
        }
        // With its budget spent tokio answers before it looks at the timer, and calls this task again at once.
        self.armed = tokio::task::coop::has_budget_remaining();
        Poll::Pending
    }
}
