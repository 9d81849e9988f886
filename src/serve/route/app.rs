//! What the proxy answers, path by path.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, Method, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use serde_json::json;
use tokio::sync::Semaphore;

use super::{
    Clock, counts::Counts, desk::Desk, gate, log::Log, relay, secret::Secret, upstream::Upstream,
};
use crate::scenario::proxy::Proxy;

/// Everything that handlers share.
pub(super) struct App {
    pub(super) proxy: Proxy,
    pub(super) engines: Vec<Upstream>,
    pub(super) desk: Desk,
    pub(super) counts: Arc<Counts>,
    pub(super) log: Log,
    pub(super) clock: Clock,
    pub(super) token: Option<Secret>,
    pub(super) next_id: AtomicU64,
    pub(super) in_work: AtomicUsize,
    /// Bytes of bodies that may still be held.
    pub(super) room: Arc<Semaphore>,
}

/// Paths, and what answers them.
pub(super) fn routes(app: Arc<App>) -> Router {
    Router::new()
        .route("/v1/completions", post(relay::completions))
        .route("/v1/chat/completions", post(relay::chat))
        .route("/v1/models", get(models))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .fallback(async || error(StatusCode::NOT_FOUND, "there is nothing at this path"))
        .method_not_allowed_fallback(async || {
            error(StatusCode::METHOD_NOT_ALLOWED, "this path does not take this method")
        })
        .with_state(app)
}

/// An error in the shape of OpenAI's API.
pub(super) fn error(status: StatusCode, message: &str) -> Response {
    let kind = match status.as_u16() {
        401 => "authentication_error",
        400..500 => "invalid_request_error",
        _ => "server_error",
    };
    let body = json!({ "error": { "message": message, "type": kind, "param": null, "code": status.as_u16() } });
    let mut response = (status, body.to_string()).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// What is answered without looking at the path: a request that the gate has refused, or one without the token.
pub(super) fn refused(app: &App, request: &Request) -> Option<Response> {
    if request.method().as_str() == gate::REFUSED {
        let status = request.uri().path().trim_start_matches('/').parse().unwrap_or(400);
        let why = request.headers().get(gate::WHY).and_then(|why| why.to_str().ok());
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
        return Some(error(status, why.unwrap_or("the request is malformed")));
    }
    let token = app.token.as_ref()?;
    // What runs the proxy asks for its health without knowing the token.
    if request.uri().path() == "/health" && request.method() == Method::GET {
        return None;
    }
    let mut borne = request.headers().get_all(header::AUTHORIZATION).iter();
    let (first, second) = (borne.next(), borne.next());
    let opens = first.is_some_and(|value| token.is_borne_by(value.as_bytes())) && second.is_none();
    (!opens).then(|| error(StatusCode::UNAUTHORIZED, "expected the proxy's token as bearer"))
}

/// Name of a path in `/metrics`: clients must not be able to make new ones.
pub(super) fn path_name(path: &str) -> &'static str {
    const KNOWN: [&str; 5] =
        ["/v1/completions", "/v1/chat/completions", "/v1/models", "/health", "/metrics"];
    KNOWN.into_iter().find(|known| *known == path).unwrap_or("other")
}

async fn health(State(app): State<Arc<App>>) -> Response {
    let n_up = app.desk.up().into_iter().filter(|up| *up).count();
    if n_up == 0 {
        return error(StatusCode::SERVICE_UNAVAILABLE, "no engine is up");
    }
    let body = json!({ "status": "ok", "engines_up": n_up, "engines": app.engines.len() });
    ([(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    let names = app.engines.iter().map(|engine| engine.name.as_str());
    let engines: Vec<_> = names.zip(app.desk.shown()).collect();
    let page = app.counts.page(&engines, app.in_work.load(Ordering::Relaxed));
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], page).into_response()
}

/// The models of the first engine that is up and tells: behind one proxy stand engines of one model.
async fn models(State(app): State<Arc<App>>) -> Response {
    let time = app.proxy.health_timeout;
    for (engine, up) in app.engines.iter().zip(app.desk.up()) {
        if !up {
            continue;
        }
        if let Ok(Ok((status, kind, body))) = tokio::time::timeout(time, engine.models()).await {
            let mut response = Response::new(Body::from(body));
            *response.status_mut() =
                StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
            if let Some(kind) = kind {
                response.headers_mut().insert(header::CONTENT_TYPE, kind);
            }
            return response;
        }
    }
    error(StatusCode::SERVICE_UNAVAILABLE, "no engine told its models")
}
