//! One request over HTTP: read the clock, keep the bytes. Nothing is decoded here.

use std::{
    error::Error as _,
    future::Future,
    pin::Pin,
    sync::Once,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use reqwest::{
    Client, Response, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue},
};
use tokio::time::Sleep;

use super::{
    answer::{Capture, Read},
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
    pub(super) client: Client,
    pub(super) url: Url,
    pub(super) clock: Clock,
    /// Longest silence.
    pub(super) idle: Duration,
    /// Longest request.
    pub(super) total: Duration,
}

/// A client that takes no proxy from the environment, follows no redirect (a redirected POST becomes a GET) and speaks
/// HTTP/1.1: one connection a stream, so that one stream's stall is not another's.
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
        .pool_max_idle_per_host(usize::MAX)
        .pool_idle_timeout(POOL_IDLE)
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
    let mut cause = error.source();
    while let Some(inner) = cause {
        let said = inner.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = inner.source();
    }
    text
}

/// Sends and receives, filling `capture` as it goes, so that whoever drops this future keeps what came so far.
///
/// A second attempt is made once, and only if the first ended before an answer began: no connection, or one that the
/// server closed or reset before a complete response head (the keep-alive race).
pub(super) async fn exchange(http: &Http, body: Bytes, capture: &mut Capture) {
    let first = clock::now();
    capture.sent_ns = Some(http.clock.at_ns(first));
    let mut watch = Watch::new(http, first);
    let outcome = send_twice(http, body, capture, &mut watch).await;
    let outcome = match outcome {
        Ok(response) => receive(http, response, capture, &mut watch).await,
        Err(failure) => Err(failure),
    };
    capture.failure = outcome.err();
    capture.done_ns = Some(http.clock.now_ns());
}

async fn send_twice(
    http: &Http,
    body: Bytes,
    capture: &mut Capture,
    watch: &mut Watch,
) -> Result<Response, String> {
    loop {
        capture.attempt += 1;
        let request = http
            .client
            .post(http.url.clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(body.clone());
        match watch.wait(Box::pin(request.send())).await.0? {
            Ok(response) => return Ok(response),
            Err(error) if capture.attempt < 2 && may_retry(&error) => watch.last = clock::now(),
            Err(error) => return Err(describe(error)),
        }
    }
}

async fn receive(
    http: &Http,
    response: Response,
    capture: &mut Capture,
    watch: &mut Watch,
) -> Result<(), String> {
    capture.http_status = Some(i64::from(response.status().as_u16()));
    capture.content_type = response
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned);
    watch.last = clock::now();
    let mut stream = Box::pin(response.bytes_stream());
    loop {
        let (item, waited) = watch.wait(stream.next()).await;
        capture.wakeups += u64::from(waited);
        let Some(item) = item? else { return Ok(()) };
        let bytes = item.map_err(|error| {
            format!(
                "connection lost after {} bytes of body: {}",
                capture.bytes.len(),
                describe(error)
            )
        })?;
        watch.last = clock::now();
        capture.bytes.extend_from_slice(&bytes);
        capture.reads.push(Read { end: capture.bytes.len(), t_ns: http.clock.at_ns(watch.last) });
        if capture.bytes.len() > BODY_LIMIT_BYTES {
            return Err(format!("expected a body of at most {BODY_LIMIT_BYTES} bytes, got more"));
        }
    }
}

/// Whether a send failed before an answer began. hyper's own error type is not within reach, so its one text for a
/// connection closed too early is looked for; `tests/it/client.rs` fails if a new hyper words it otherwise.
fn may_retry(error: &reqwest::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    if error.is_connect() {
        return true;
    }
    let mut cause = error.source();
    while let Some(inner) = cause {
        let io = inner.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        if matches!(io, Some(BrokenPipe | ConnectionAborted | ConnectionReset))
            || inner.to_string().contains("connection closed before message completed")
        {
            return true;
        }
        cause = inner.source();
    }
    false
}

/// Both time-outs in one timer that is moved only when it fires: resetting a timer for each chunk would cost more than
/// reading the chunk.
struct Watch {
    sleep: Pin<Box<Sleep>>,
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
            last: start,
            idle: http.idle,
            total: http.total,
            end: start + http.total,
        }
    }

    /// Waits for `future` or a time-out; and whether it had to be waited for at all.
    async fn wait<F: Future + Unpin>(
        &mut self,
        mut future: F,
    ) -> (Result<F::Output, String>, bool) {
        let mut waited = false;
        let output = std::future::poll_fn(|cx| {
            if let Poll::Ready(output) = future.poll_unpin(cx) {
                return Poll::Ready(Ok(output));
            }
            waited = true;
            self.poll_expired(cx).map(Err)
        });
        let output = output.await;
        (output, waited)
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
        Poll::Pending
    }
}
