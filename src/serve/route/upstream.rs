//! An engine as a server: what is sent to it, and what comes back.

use std::time::Duration;

use bytes::Bytes;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, RequestBuilder, Response};

use super::secret::Secret;
use crate::scenario::proxy::{ProxyEngine, ProxyLimits};

/// Fields of a client's request that an engine sees. Never `authorization` or `cookie`: the proxy's token is no engine's business.
const UP: [HeaderName; 6] = [
    header::CONTENT_TYPE,
    header::ACCEPT,
    header::USER_AGENT,
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
];
/// Fields of an engine's answer that a client sees. Never `set-cookie` or `server`.
const DOWN: [HeaderName; 8] = [
    header::CONTENT_TYPE,
    header::CONTENT_LENGTH,
    header::CONTENT_ENCODING,
    header::CACHE_CONTROL,
    header::RETRY_AFTER,
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("x-accel-buffering"),
    HeaderName::from_static("openai-processing-ms"),
];

/// Longest page of metrics: vLLM's has some hundred thousand bytes.
const METRICS_BYTES_MAX: usize = 4 << 20;
/// Longest list of models.
const MODELS_BYTES_MAX: usize = 1 << 20;

/// One engine.
#[derive(Debug, Clone)]
pub(super) struct Upstream {
    /// Its name.
    pub(super) name: String,
    /// Name of the model there.
    pub(super) model: Option<String>,
    url: String,
    health: String,
    metrics: Option<String>,
    key: Option<HeaderValue>,
    client: Client,
}

/// The beginning of an answer, and the rest of it.
#[derive(Debug)]
pub(super) struct Answer {
    /// Status.
    pub(super) status: u16,
    /// Fields that a client may see.
    pub(super) headers: HeaderMap,
    /// Whether it is an event stream.
    pub(super) is_stream: bool,
    /// The first bytes of the body; `None` of an empty one.
    pub(super) first: Option<Bytes>,
    /// The rest.
    pub(super) rest: Response,
}

/// Why an engine did not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// No connection.
    Connect,
    /// It broke off before the first byte of the body.
    Broken,
    /// It took too long.
    TimedOut,
    /// It began, and took too long to end.
    Slow,
    /// It said so: 502, 503 or 504.
    Unavailable(u16),
    /// It answered with a status that is no answer to a POST: 1xx or 3xx.
    Odd(u16),
    /// Where its answer ends can be read in two ways.
    Framing,
    /// Its answer is longer than is read of such.
    TooLong(usize),
    /// Others found that it is down, while this request waited.
    Left,
}

impl Failure {
    /// As it stands in `/metrics`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Failure::Connect => "connect",
            Failure::Broken => "broken",
            Failure::TimedOut => "timed_out",
            Failure::Slow => "slow",
            Failure::Unavailable(_) => "unavailable",
            Failure::Odd(_) => "odd_status",
            Failure::Framing => "framing",
            Failure::TooLong(_) => "too_long",
            Failure::Left => "left",
        }
    }

    /// Status for a client whose last attempt failed so.
    pub(super) fn status(self) -> u16 {
        match self {
            Failure::TimedOut => 504,
            Failure::Unavailable(503) => 503,
            _ => 502,
        }
    }

    /// In a row.
    pub(super) fn words(self) -> String {
        match self {
            Failure::Connect => "the engine could not be connected to".to_owned(),
            Failure::Broken => "the engine broke off before the first byte".to_owned(),
            Failure::TimedOut => "the engine sent nothing in time".to_owned(),
            Failure::Slow => "the engine's answer did not end in time".to_owned(),
            Failure::Unavailable(status) => format!("the engine said {status}"),
            Failure::Odd(status) => {
                format!("the engine said {status}, which is no answer to such a request")
            }
            Failure::Framing => {
                "the engine's answer has an end that can be read in two ways".to_owned()
            }
            Failure::TooLong(bytes) => format!("the engine's answer is longer than {bytes} bytes"),
            Failure::Left => "the engine went down while the request waited".to_owned(),
        }
    }
}

/// The client for all engines: no proxies of the environment, no redirects, no compression, so bytes stay what they are.
///
/// # Errors
/// No TLS.
pub(super) fn client(limits: &ProxyLimits) -> anyhow::Result<Client> {
    // Somebody else may have installed a provider, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(limits.connect)
        // Servers close idle connections after 5 s (uvicorn, llama.cpp): a request should not meet a closing one.
        .pool_idle_timeout(Duration::from_secs(4))
        .tcp_nodelay(true)
        // A machine that is gone says nothing: its connections end after 10 + 3 * 5 seconds, not when their time-outs are over.
        .tcp_keepalive(Duration::from_secs(10))
        .tcp_keepalive_interval(Duration::from_secs(5))
        .tcp_keepalive_retries(3)
        .build()?)
}

impl Upstream {
    /// An engine of the configuration.
    pub(super) fn new(engine: &ProxyEngine, key: Option<&Secret>, client: Client) -> Self {
        let at = |path: &str| format!("{}{path}", engine.url);
        Self {
            name: engine.name.clone(),
            model: engine.model.clone(),
            url: engine.url.clone(),
            health: at(&engine.health),
            metrics: engine.metrics.as_deref().map(at),
            key: key.map(Secret::header),
            client,
        }
    }

    fn with_key(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.key {
            Some(key) => request.header(header::AUTHORIZATION, key.clone()),
            None => request,
        }
    }

    /// Sends a request and waits until its answer has begun: dropping what this returns takes the request back.
    ///
    /// # Errors
    /// There was no beginning.
    pub(super) async fn send(
        &self,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Answer, Failure> {
        let request = self.client.post(format!("{}{path}", self.url)).headers(headers).body(body);
        let mut response = self.with_key(request).send().await.map_err(failed)?;
        let status = response.status().as_u16();
        match status {
            502..=504 => return Err(Failure::Unavailable(status)),
            100..=199 | 300..=399 => return Err(Failure::Odd(status)),
            _ => framing(response.headers())?,
        }
        let headers = picked(response.headers(), &DOWN);
        let kind = headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
        let is_stream = kind.starts_with(b"text/event-stream");
        let first = response.chunk().await.map_err(failed)?;
        Ok(Answer { status, headers, is_stream, first, rest: response })
    }

    /// What it answers to a GET of its models: status, content type and body.
    pub(super) async fn models(&self) -> Result<(u16, Option<HeaderValue>, Bytes), Failure> {
        let request = self.with_key(self.client.get(format!("{}/v1/models", self.url)));
        let response = request.send().await.map_err(failed)?;
        let status = response.status().as_u16();
        if matches!(status, 100..=199 | 300..=399) {
            return Err(Failure::Odd(status));
        }
        framing(response.headers())?;
        let kind = response.headers().get(header::CONTENT_TYPE).cloned();
        Ok((status, kind, bounded(response, MODELS_BYTES_MAX).await?.into()))
    }

    /// Its health check.
    ///
    /// # Errors
    /// There was no answer, or no good one.
    pub(super) async fn health(&self) -> Result<(), Failure> {
        let response = self.with_key(self.client.get(&self.health)).send().await.map_err(failed)?;
        good(&response)
    }

    /// The text of its metrics; `None` where it has no such.
    ///
    /// # Errors
    /// There was no answer, no good one, or one that is too long.
    pub(super) async fn metrics(&self) -> Result<Option<String>, Failure> {
        let Some(url) = &self.metrics else { return Ok(None) };
        let response = self.with_key(self.client.get(url)).send().await.map_err(failed)?;
        good(&response)?;
        let bytes = bounded(response, METRICS_BYTES_MAX).await?;
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }
}

fn failed(error: reqwest::Error) -> Failure {
    match () {
        () if error.is_timeout() => Failure::TimedOut,
        () if error.is_connect() => Failure::Connect,
        () => Failure::Broken,
    }
}

fn good(response: &Response) -> Result<(), Failure> {
    let status = response.status();
    if status.is_success() { Ok(()) } else { Err(Failure::Unavailable(status.as_u16())) }
}

/// Refuses an answer whose end the client could read in another way than we do: it gets the engine's `content-length`.
fn framing(headers: &HeaderMap) -> Result<(), Failure> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else { return Ok(()) };
    let is_chunked = coding.as_bytes().eq_ignore_ascii_case(b"chunked") && codings.next().is_none();
    if is_chunked && !headers.contains_key(header::CONTENT_LENGTH) {
        return Ok(());
    }
    Err(Failure::Framing)
}

/// A whole body of at most so many bytes: an engine must not fill our memory.
async fn bounded(mut response: Response, most: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(failed)? {
        if bytes.len() + piece.len() > most {
            return Err(Failure::TooLong(most));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// Fields of a client's request that may go up.
pub(super) fn upward(headers: &HeaderMap) -> HeaderMap {
    picked(headers, &UP)
}

fn picked(headers: &HeaderMap, names: &[HeaderName]) -> HeaderMap {
    let mut picked = HeaderMap::new();
    for name in names {
        if let Some(value) = headers.get(name) {
            picked.insert(name, value.clone());
        }
    }
    picked
}
