//! Requests that are passed on, and answers that are passed back byte by byte.

use std::{
    future::Future as _,
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream::BoxStream};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, Sleep},
};

use super::{
    app::{App, error},
    ask::Asked,
    desk::Place,
    trip::{End, Trip},
    upstream::{Answer, Failure, upward},
};
use crate::route::Decision;

/// Field of an answer that says where it comes from and why.
pub(super) const DECISION: HeaderName = HeaderName::from_static("x-kvbench-decision");
/// Field of a request by which a client names its task.
const TASK: HeaderName = HeaderName::from_static("x-kvbench-task");
/// Longest name of a task.
const TASK_BYTES_MAX: usize = 64;

pub(super) async fn completions(State(app): State<Arc<App>>, request: Request) -> Response {
    relay(&app, "/v1/completions", request).await
}

pub(super) async fn chat(State(app): State<Arc<App>>, request: Request) -> Response {
    relay(&app, "/v1/chat/completions", request).await
}

async fn relay(app: &Arc<App>, path: &'static str, request: Request) -> Response {
    if app.in_work.load(Ordering::Relaxed) > app.proxy.limits.requests {
        return error(StatusCode::SERVICE_UNAVAILABLE, "too many requests are being answered");
    }
    let (parts, body) = request.into_parts();
    if !is_json(&parts.headers) {
        return error(StatusCode::UNSUPPORTED_MEDIA_TYPE, "expected content-type application/json");
    }
    let body = match whole(app, body).await {
        Ok(body) => body,
        Err(response) => return response,
    };
    let arrived_ns = app.clock.now_ns();
    let asked = match Asked::read(&body.bytes, app.proxy.bytes_per_token) {
        Ok(asked) => asked,
        Err(why) => return error(StatusCode::BAD_REQUEST, &why),
    };
    let mut trip = match Trip::new(app, &asked, task_named(&parts.headers), arrived_ns) {
        Ok(trip) => trip,
        Err(why) => return error(StatusCode::INTERNAL_SERVER_ERROR, &format!("{why:#}")),
    };
    let sent = Sent { path, headers: upward(&parts.headers), body: &body.bytes, asked: &asked };
    match attempts(app, &mut trip, &sent, arrived_ns).await {
        Ok(answer) => passed_back(app, trip, answer),
        Err((status, why)) => {
            trip.status(status);
            let header = trip.header();
            trip.close(&End::Failed(why.clone()));
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
            with_decision(error(status, &why), &header)
        }
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let essence = kind.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    essence.eq_ignore_ascii_case(b"application/json")
}

/// The task that a client names, if it is a name.
fn task_named(headers: &HeaderMap) -> Option<&str> {
    let name = headers.get(TASK)?.to_str().ok()?.trim();
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (!name.is_empty() && name.len() <= TASK_BYTES_MAX && name.chars().all(good)).then_some(name)
}

/// A whole body, and the room that it takes.
struct Held {
    bytes: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

/// The whole body, or the answer that refuses it.
async fn whole(app: &App, body: Body) -> Result<Held, Response> {
    match tokio::time::timeout(app.proxy.limits.body, gathered(app, body)).await {
        Err(_) => Err(error(StatusCode::REQUEST_TIMEOUT, "the body took too long")),
        Ok(gathered) => gathered,
    }
}

/// Takes room for bytes as they come: what was announced and never sent takes none.
async fn gathered(app: &App, body: Body) -> Result<Held, Response> {
    let mut pieces = body.into_data_stream();
    let (mut bytes, mut room) = (Vec::new(), None::<OwnedSemaphorePermit>);
    while let Some(piece) = pieces.next().await {
        let broken = "the body is broken off or its chunks are malformed";
        let piece = piece.map_err(|_| error(StatusCode::BAD_REQUEST, broken))?;
        if bytes.len() + piece.len() > app.proxy.limits.body_bytes {
            return Err(error(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large"));
        }
        let n = u32::try_from(piece.len()).unwrap_or(u32::MAX);
        let more = app.room.clone().try_acquire_many_owned(n);
        let more = more.map_err(|_| {
            error(StatusCode::SERVICE_UNAVAILABLE, "too many bodies are being held")
        })?;
        match &mut room {
            Some(room) => room.merge(more),
            None => room = Some(more),
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(Held { bytes: bytes.into(), _room: room })
}

/// What every attempt sends.
struct Sent<'a> {
    path: &'static str,
    headers: HeaderMap,
    body: &'a Bytes,
    asked: &'a Asked,
}

/// What became of an attempt.
enum Attempt {
    /// It was answered, or failed.
    Ended(Result<Answer, Failure>),
    /// Its engine was given up meanwhile, and another takes the request.
    Moved((Decision, Place)),
}

/// Asks one engine after the other, until one begins to answer: nothing has gone to the client until then.
async fn attempts(
    app: &App,
    trip: &mut Trip,
    sent: &Sent<'_>,
    arrived_ns: i64,
) -> Result<Answer, (u16, String)> {
    let mut last: Option<Failure> = None;
    let mut next = trip.next();
    while let Some(engine) = next {
        let upstream = &app.engines[engine];
        let body = sent.asked.body_for(sent.body, upstream.model.as_deref());
        let asked = upstream.send(sent.path, sent.headers.clone(), body);
        if last.is_none() {
            app.counts.added(app.clock.now_ns() - arrived_ns);
        }
        let ended = tokio::select! {
            answered = tokio::time::timeout(app.proxy.limits.first_byte, asked) => {
                Attempt::Ended(answered.unwrap_or(Err(Failure::TimedOut)))
            }
            moved = trip.given_up() => Attempt::Moved(moved),
        };
        (last, next) = match ended {
            Attempt::Ended(Ok(answer)) => {
                trip.begun(&answer);
                return Ok(answer);
            }
            Attempt::Ended(Err(failure)) => {
                trip.failed(failure);
                (Some(failure), trip.next())
            }
            Attempt::Moved(moved) => (Some(Failure::Left), Some(trip.moved(moved))),
        };
    }
    Err(match last {
        Some(failure) => (failure.status(), failure.words()),
        None => (503, "no engine is up that this request may be sent to".to_owned()),
    })
}

/// The client's answer: the engine's status, the fields that may be seen, and its bytes as they come.
fn passed_back(app: &App, mut trip: Trip, answer: Answer) -> Response {
    let header = trip.header();
    let Answer { status, mut headers, first, rest, .. } = answer;
    // These have no body (RFC 9110, 15.3.5 and 15.4.5), so nobody will ask for its end, whatever length was told.
    let is_bare = [204, 304].contains(&status);
    if is_bare {
        headers.remove(header::CONTENT_LENGTH);
    }
    if let Some(first) = &first {
        trip.see(first);
    }
    let is_whole = first.is_none();
    let told = headers.get(header::CONTENT_LENGTH);
    let length =
        if is_bare { Some(0) } else { told.and_then(|told| told.to_str().ok()?.parse().ok()) };
    let stall = app.proxy.limits.stall;
    let rest: BoxStream<'static, reqwest::Result<Bytes>> = Box::pin(rest.bytes_stream());
    let mut passing = Passing { first, rest, trip, stall, silence: None, is_whole, left: length };
    passing.passed(0);
    let mut response = Response::new(Body::from_stream(passing));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    *response.headers_mut() = headers;
    with_decision(response, &header)
}

fn with_decision(mut response: Response, header: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(header) {
        response.headers_mut().insert(DECISION, value);
    }
    response
}

/// An answer on its way. It is read from the engine when the client has taken what came before, so a slow client slows the engine
/// and no memory fills.
struct Passing {
    first: Option<Bytes>,
    rest: BoxStream<'static, reqwest::Result<Bytes>>,
    trip: Trip,
    stall: Duration,
    /// Since when the engine has been silent.
    silence: Option<Pin<Box<Sleep>>>,
    is_whole: bool,
    /// Bytes that are still to come, where their number was told: after the last of them nobody asks for an end.
    left: Option<u64>,
}

impl Passing {
    /// So many bytes more have passed.
    fn passed(&mut self, n: usize) {
        self.left = self.left.map(|left| left.saturating_sub(n as u64));
        if self.left == Some(0) {
            self.trip.close(&End::Done);
        }
    }

    /// Ends the answer without an end: the client sees the connection break, never a proper end.
    fn break_off(&mut self, why: &'static str) -> Poll<Option<io::Result<Bytes>>> {
        self.trip.close(&End::BrokenOff(why));
        self.is_whole = true;
        Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::ConnectionAborted, why))))
    }

    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let stall = self.stall;
        let silence = self.silence.get_or_insert_with(|| Box::pin(tokio::time::sleep(stall)));
        silence.as_mut().poll(cx)
    }
}

impl Stream for Passing {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Some(first) = this.first.take() {
            this.passed(first.len());
            return Poll::Ready(Some(Ok(first)));
        }
        if this.is_whole {
            this.trip.close(&End::Done);
            return Poll::Ready(None);
        }
        let Poll::Ready(next) = this.rest.as_mut().poll_next(cx) else {
            ready!(this.poll_silence(cx));
            return this.break_off("the engine fell silent");
        };
        if let Some(silence) = &mut this.silence {
            silence.as_mut().reset(Instant::now() + this.stall);
        }
        match next {
            Some(Ok(bytes)) => {
                this.trip.see(&bytes);
                this.passed(bytes.len());
                Poll::Ready(Some(Ok(bytes)))
            }
            Some(Err(_)) => this.break_off("the engine broke its answer off"),
            None => {
                this.is_whole = true;
                this.trip.close(&End::Done);
                Poll::Ready(None)
            }
        }
    }
}
