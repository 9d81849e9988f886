//! An OpenAI-shaped server whose timing is known: each chunk's text is the moment at which the server made it.
//!
//! The text of chunk `i` is `" <ns of CLOCK_MONOTONIC>"`, so a client on the same machine that keeps texts and arrivals
//! holds the true times beside its own. `max_tokens` chunks of one token each, then usage and `[DONE]`.
//!
//! Asked for `logprobs`, it lists three tokens whose probabilities are known: `</s>` has ln p = -1 - (bytes of the prompt) / 1000.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::State,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::ListenerExt as _,
};
use futures_util::stream;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch, time::Instant};

/// When tokens come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Each stream has a timer of its own.
    Independent,
    /// One tick releases a token of every stream, as an engine with continuous batching does.
    Tick,
}

/// The timing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// From the request to the first token.
    pub ttft: Duration,
    /// Between tokens.
    pub itl: Duration,
    /// Who waits.
    pub mode: Mode,
}

/// Nanoseconds of CLOCK_MONOTONIC, the same for all processes of a machine.
pub fn monotonic_ns() -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a `timespec` that lives through the call; CLOCK_MONOTONIC always exists on Linux.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    assert_eq!(status, 0, "clock_gettime(CLOCK_MONOTONIC) has no way to fail");
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// Binds a free port of the loopback interface and serves on the current tokio runtime until that ends.
pub async fn start(timing: Timing) -> std::io::Result<SocketAddr> {
    start_at(timing, 0).await
}

/// The same on a given port; 0 is a free one.
pub async fn start_at(timing: Timing, port: u16) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let address = listener.local_addr()?;
    let (ticks, ticked) = watch::channel(0_u64);
    tokio::spawn(tick(timing.itl, ticks));
    let shared = Arc::new(Shared { timing, ticked });
    let app = Router::new()
        .route("/version", get(async || Json(json!({ "version": env!("CARGO_PKG_VERSION") }))))
        .route("/health", get(async || "ok"))
        .route(
            "/v1/models",
            get(async || Json(json!({ "data": [{ "id": "known", "owned_by": "kvbench" }] }))),
        )
        .route("/v1/completions", post(completions))
        .route("/v1/chat/completions", post(chat))
        .with_state(shared);
    // A chunk that waited for the acknowledgement of the one before (Nagle's algorithm, RFC 896, against the client's delayed one) would
    // come up to 40 ms after its stamp. Where this fails it does.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    // `serve` returns only with the runtime: accept errors are retried inside.
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(address)
}

async fn tick(every: Duration, ticks: watch::Sender<u64>) {
    let mut interval = tokio::time::interval(every.max(Duration::from_micros(1)));
    while !ticks.is_closed() {
        interval.tick().await;
        ticks.send_modify(|n| *n += 1);
    }
}

struct Shared {
    timing: Timing,
    ticked: watch::Receiver<u64>,
}

#[derive(Deserialize)]
struct Ask {
    max_tokens: u64,
    #[serde(default)]
    prompt: String,
    logprobs: Option<u32>,
    #[serde(default)]
    stream_options: StreamOptions,
}

#[derive(Deserialize, Default)]
struct StreamOptions {
    #[serde(default)]
    continuous_usage_stats: bool,
}

async fn completions(State(shared): State<Arc<Shared>>, Json(ask): Json<Ask>) -> Response {
    stream_of(&shared, &ask, "data: {\"choices\":[{\"index\":0,\"text\":\" ", "\"")
}

async fn chat(State(shared): State<Arc<Shared>>, Json(ask): Json<Ask>) -> Response {
    stream_of(&shared, &ask, "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\" ", "\"}")
}

/// What one stream still has to send. Everything but the stamp is formatted once.
struct Tokens {
    n: u64,
    sent: u64,
    due: Instant,
    timing: Timing,
    ticked: watch::Receiver<u64>,
    before: &'static str,
    after: &'static str,
    listed: String,
    continuous: bool,
}

fn stream_of(shared: &Shared, ask: &Ask, before: &'static str, after: &'static str) -> Response {
    let tokens = Tokens {
        n: ask.max_tokens,
        sent: 0,
        due: Instant::now() + shared.timing.ttft,
        timing: shared.timing,
        ticked: shared.ticked.clone(),
        before,
        after,
        listed: ask.logprobs.map_or_else(String::new, |_| listed(&ask.prompt)),
        continuous: ask.stream_options.continuous_usage_stats,
    };
    let chunks = stream::unfold(tokens, async |mut tokens| {
        let chunk = tokens.next().await?;
        Some((Ok::<_, std::convert::Infallible>(chunk), tokens))
    });
    ([(CONTENT_TYPE, "text/event-stream")], Body::from_stream(chunks)).into_response()
}

/// The field `logprobs` of a choice, after a comma.
fn listed(prompt: &str) -> String {
    let stop = -1.0 - prompt.len() as f64 / 1000.0;
    let top = json!({ " a": -0.1, "</s>": stop, " b": -9.0 });
    let listed = json!({ "tokens": [" a"], "token_logprobs": [-0.1], "top_logprobs": [top] });
    format!(",\"logprobs\":{listed}")
}

impl Tokens {
    async fn next(&mut self) -> Option<Bytes> {
        if self.sent > self.n {
            return None;
        }
        if self.sent == self.n {
            self.sent += 1;
            return Some(self.last());
        }
        self.wait().await;
        self.sent += 1;
        let usage =
            if self.continuous { format!(",\"usage\":{}", self.usage()) } else { String::new() };
        let (before, after, listed) = (self.before, self.after, &self.listed);
        Some(format!("{before}{}{after}{listed}}}]{usage}}}\n\n", monotonic_ns()).into())
    }

    async fn wait(&mut self) {
        if self.sent == 0 || self.timing.mode == Mode::Independent {
            tokio::time::sleep_until(self.due).await;
            self.due += self.timing.itl;
            self.ticked.mark_unchanged();
        } else {
            // The sender lives as long as a receiver does.
            drop(self.ticked.changed().await);
        }
    }

    fn usage(&self) -> Value {
        let n = self.sent.min(self.n);
        json!({ "prompt_tokens": 1, "completion_tokens": n, "total_tokens": n + 1 })
    }

    fn last(&self) -> Bytes {
        let finish = json!({ "choices": [{ "index": 0, "text": "", "delta": {}, "finish_reason": "length" }] });
        let usage = json!({ "choices": [], "usage": self.usage() });
        format!("data: {finish}\n\ndata: {usage}\n\ndata: [DONE]\n\n").into()
    }
}
