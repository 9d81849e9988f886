//! Connections: how many there may be, what each is limited by, and how they end.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, body::Body, extract::Request, response::Response};
use hyper::{
    body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint},
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
};

use super::{
    app::{self, App},
    gate::{Gate, GateLimits, Shared},
    head::HeadLimits,
};

/// After an answer that closes a connection the client's remaining bytes are read for so long, so that they do not reset the
/// connection under the answer (RFC 9112, section 9.6).
const LINGER: Duration = Duration::from_secs(2);
/// And so many of them.
const LINGER_BYTES: usize = 64 << 20;
/// A pause after an accept that failed for want of files or memory.
const PAUSE: Duration = Duration::from_millis(20);

/// Connections beyond the limit that are told so at a time.
const TURNED_AWAY_MAX: usize = 64;
const TOO_MANY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
    content-length: 77\r\nconnection: close\r\n\r\n\
    {\"error\":{\"message\":\"too many connections\",\"type\":\"server_error\",\"code\":503}}";

/// Accepts until told to drain, then waits for open connections until `limit` is over. Returns how many were cut off.
pub(super) async fn run(
    listener: TcpListener,
    app: Arc<App>,
    mut draining: watch::Receiver<bool>,
) -> usize {
    let room = Arc::new(Semaphore::new(app.proxy.limits.connections));
    let spare = Arc::new(Semaphore::new(TURNED_AWAY_MAX));
    let (routes, limits) = (app::routes(app.clone()), limits(&app));
    let mut open = JoinSet::new();
    let mut told = draining.clone();
    let mut drain = pin!(async move { drop(told.wait_for(|draining| *draining).await) });
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut drain => break,
            Some(_) = open.join_next(), if !open.is_empty() => continue,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let Ok(permit) = room.clone().try_acquire_owned() else {
            app.counts.connections_refused.fetch_add(1, Ordering::Relaxed);
            // Beyond these, nobody waits for who comes too many.
            if let Ok(permit) = spare.clone().try_acquire_owned() {
                open.spawn(turn_away(stream, permit));
            }
            continue;
        };
        app.counts.connections.fetch_add(1, Ordering::Relaxed);
        let connection = connection(stream, app.clone(), routes.clone(), limits, draining.clone());
        open.spawn(async move {
            connection.await;
            drop(permit);
        });
    }
    drop(listener);
    draining.mark_unchanged();
    let ended = async { while open.join_next().await.is_some() {} };
    // Whatever is left is cut off when `open` is dropped.
    drop(tokio::time::timeout(app.proxy.limits.drain, ended).await);
    open.len()
}

fn limits(app: &App) -> GateLimits {
    let limits = &app.proxy.limits;
    let head = HeadLimits {
        bytes: limits.header_bytes,
        fields: limits.header_fields,
        body_bytes: limits.body_bytes as u64,
    };
    let (head_time, idle_time, write_time) = (limits.header, limits.idle, limits.write);
    GateLimits { head, head_time, idle_time, write_time }
}

/// Says why, and reads what the client sends meanwhile, so that it does not reset the connection under the answer.
async fn turn_away(mut stream: TcpStream, permit: OwnedSemaphorePermit) {
    if stream.write_all(TOO_MANY).await.is_ok() {
        linger(stream).await;
    }
    drop(permit);
}

async fn connection(
    stream: TcpStream,
    app: Arc<App>,
    routes: Router,
    limits: GateLimits,
    mut draining: watch::Receiver<bool>,
) {
    // Without it small pieces of a stream would wait for each other; where it fails they do.
    let _ = stream.set_nodelay(true);
    // A connection that says nothing costs no more than its socket: buffers and parser come with its first byte.
    tokio::select! {
        spoke = tokio::time::timeout(limits.idle_time, stream.readable()) => {
            if !matches!(spoke, Ok(Ok(()))) {
                return;
            }
        }
        _ = draining.wait_for(|draining| *draining) => return,
    }
    Box::pin(converse(stream, app, routes, limits, draining)).await;
}

/// A connection on which something was said.
async fn converse(
    stream: TcpStream,
    app: Arc<App>,
    routes: Router,
    limits: GateLimits,
    mut draining: watch::Receiver<bool>,
) {
    let shared = Arc::<Shared>::default();
    let gate = Gate::new(stream, limits, shared.clone());
    let (handlers, handler_shared) = (TowerToHyperService::new(routes), shared.clone());
    let service = service_fn(move |request| {
        Box::pin(answer(app.clone(), handlers.clone(), handler_shared.clone(), request))
    });
    let mut http = http1::Builder::new();
    // The gate has the time-outs and the limits; the parser's own only must not be lower.
    http.header_read_timeout(None)
        .max_headers(limits.head.fields + 8)
        .max_buf_size(limits.head.bytes.max(8192) + 8192);
    let mut connection = http.serve_connection(TokioIo::new(gate), service);
    let mut told = false;
    // One wait for the life of the connection: a new one at each of its polls would take a lock that all connections share.
    let mut drain = pin!(async move { drop(draining.wait_for(|draining| *draining).await) });
    let ended = loop {
        tokio::select! {
            biased;
            ended = poll_fn(|cx| connection.poll_without_shutdown(cx)) => break ended,
            () = &mut drain, if !told => {
                told = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
        }
    };
    let stream = connection.into_parts().io.into_inner().into_inner();
    match ended {
        Ok(()) => linger(stream).await,
        // To a client of HTTP/1.0 the end of the connection is the end of the answer, unless it is a reset.
        Err(_) if shared.is_old.load(Ordering::Relaxed) => drop(stream.set_zero_linger()),
        Err(_) => {}
    }
}

async fn linger(mut stream: TcpStream) {
    let ended = async {
        stream.shutdown().await?;
        let (mut bytes, mut n) = (vec![0; 16 << 10], 0);
        while n < LINGER_BYTES {
            match stream.read(&mut bytes).await? {
                0 => break,
                more => n += more,
            }
        }
        std::io::Result::Ok(())
    };
    // How it ends is of no interest: the answer was given.
    drop(tokio::time::timeout(LINGER, ended).await);
}

/// Answers one request.
async fn answer(
    app: Arc<App>,
    handlers: TowerToHyperService<Router>,
    shared: Arc<Shared>,
    request: hyper::Request<Incoming>,
) -> Result<Response, std::convert::Infallible> {
    let guard = InWork::new(app.clone(), shared);
    let path = app::path_name(request.uri().path());
    if request.version() == hyper::Version::HTTP_10 {
        guard.shared.is_old.store(true, Ordering::Relaxed);
    }
    let request: Request = request.map(Body::new);
    let response = match app::refused(&app, &request) {
        Some(mut refusal) => {
            refusal.headers_mut().insert(
                hyper::header::CONNECTION,
                hyper::header::HeaderValue::from_static("close"),
            );
            refusal
        }
        None => handlers.call(request).await?,
    };
    app.counts.answered(path, response.status().as_u16());
    Ok(response.map(|body| Body::new(Guarded { body, _guard: guard })))
}

/// Counts a request from its head to the last byte of its answer, however that ends.
struct InWork {
    app: Arc<App>,
    shared: Arc<Shared>,
}

impl InWork {
    fn new(app: Arc<App>, shared: Arc<Shared>) -> Self {
        app.in_work.fetch_add(1, Ordering::Relaxed);
        shared.in_work.fetch_add(1, Ordering::Release);
        Self { app, shared }
    }
}

impl Drop for InWork {
    fn drop(&mut self) {
        self.app.in_work.fetch_sub(1, Ordering::Relaxed);
        self.shared.in_work.fetch_sub(1, Ordering::Release);
    }
}

/// A body that holds a guard.
struct Guarded {
    body: Body,
    _guard: InWork,
}

impl HttpBody for Guarded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_too_many_gets_a_whole_answer() {
        let text = std::str::from_utf8(TOO_MANY).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{}", body.len());
        assert!(serde_json::from_str::<serde_json::Value>(body).is_ok());
    }
}
