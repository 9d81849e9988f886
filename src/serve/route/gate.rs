//! What stands between a socket and the HTTP parser.
//!
//! Every byte that a client sends goes through a [`Gate`]: heads are held back until [`head::inspect`] has taken them whole, bodies
//! until [`Chunks`] has, and a connection on which too little happens is ended. The parser behind (hyper) sees sound requests alone.
//! What is refused becomes a request of our own making, whose method no client can send (it has a hyphen, which `inspect` does not
//! take): so a refusal is answered in its turn by the same server as everything else, and the connection closes after it.

use std::{
    future::Future,
    io,
    mem::MaybeUninit,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

use super::{
    chunk::{Chunks, Scanned},
    head::{self, Framing, HeadLimits, Progress, Refusal},
};

/// Method of the request that stands for a refused one.
pub(super) const REFUSED: &str = "REFUSED-BY-GATE";
/// Field of such a request that says why.
pub(super) const WHY: &str = "x-why";

/// Empty lines that may come before a request: clients of old send one.
const EMPTY_LINES_MAX: usize = 4;
/// Bytes of one read of the socket.
const READ_BYTES: usize = 8 * 1024;
/// No chunk and no trailer, wherever it stands: the parser reports a broken body, and the handler that reads it answers 400.
const BROKEN_CHUNK: &[u8] = b"Z\r\n\r\n";

/// What a client may do at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GateLimits {
    /// Of heads.
    pub(super) head: HeadLimits,
    /// From the first byte of a head to its last.
    pub(super) head_time: Duration,
    /// Between requests.
    pub(super) idle_time: Duration,
    /// While it takes none of the bytes that wait for it.
    pub(super) write_time: Duration,
}

/// What a connection's gate and its handlers tell each other.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Requests that are being answered: meanwhile a client has every right to be silent.
    pub(super) in_work: AtomicUsize,
    /// Whether the client speaks HTTP/1.0, to which the end of the connection is the end of a good answer.
    pub(super) is_old: AtomicBool,
}

enum State {
    Head,
    Body(u64),
    Chunked(Chunks),
    /// Nothing that comes counts any more.
    Closed,
}

/// A socket whose requests are inspected.
pub(super) struct Gate<S> {
    inner: S,
    limits: GateLimits,
    shared: Arc<Shared>,
    state: State,
    /// Bytes that are not judged yet.
    raw: Vec<u8>,
    /// How many of them were found to be a part of a head.
    looked: usize,
    /// Empty lines since the last request.
    empty_lines: usize,
    /// Judged bytes for the parser, from `given` on.
    ready: Vec<u8>,
    given: usize,
    /// Where the present wait ends, and for what it is.
    read_wait: Option<(Wait, Pin<Box<Sleep>>)>,
    write_wait: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    Idle,
    Head,
}

impl<S> Gate<S> {
    pub(super) fn new(inner: S, limits: GateLimits, shared: Arc<Shared>) -> Self {
        let (raw, ready) = (Vec::new(), Vec::new());
        Self {
            inner,
            limits,
            shared,
            state: State::Head,
            raw,
            looked: 0,
            empty_lines: 0,
            ready,
            given: 0,
            read_wait: None,
            write_wait: None,
        }
    }

    pub(super) fn into_inner(self) -> S {
        self.inner
    }

    /// Judges what has been read, until there is something for the parser or more is needed.
    fn judge(&mut self) {
        while self.given == self.ready.len() {
            let n_raw = self.raw.len();
            match &mut self.state {
                State::Closed => return self.raw.clear(),
                _ if n_raw == 0 => return,
                State::Head => {
                    if !self.judge_head() {
                        return;
                    }
                }
                State::Body(left) => {
                    let n = usize::try_from(*left).unwrap_or(usize::MAX).min(n_raw);
                    *left -= n as u64;
                    if *left == 0 {
                        self.state = State::Head;
                    }
                    self.give(n);
                }
                State::Chunked(chunks) => match chunks.scan(&self.raw) {
                    Scanned::More => self.give(n_raw),
                    Scanned::End(n) => {
                        self.state = State::Head;
                        self.give(n);
                    }
                    Scanned::Bad(n) => {
                        self.state = State::Closed;
                        self.give(n);
                        self.ready.extend_from_slice(BROKEN_CHUNK);
                    }
                },
            }
        }
    }

    /// Whether there was enough of a head to decide.
    fn judge_head(&mut self) -> bool {
        if self.looked == 0 {
            // A client of old ends a body with an empty line that belongs to nothing (RFC 9112, section 2.2).
            let empty = self.raw.chunks_exact(2).take_while(|pair| *pair == b"\r\n").count();
            self.raw.drain(..2 * empty);
            self.empty_lines += empty;
            if self.empty_lines > EMPTY_LINES_MAX {
                self.refuse(Refusal { status: 400, why: "expected a request, got empty lines" });
                return true;
            }
            if self.raw.is_empty() || self.raw == b"\r" {
                return false;
            }
        }
        match head::inspect(&self.raw, self.looked, &self.limits.head) {
            Ok(Progress::Partial) => {
                self.looked = self.raw.len();
                false
            }
            Ok(Progress::Whole(n, framing)) => {
                self.state = match framing {
                    Framing::Length(0) => State::Head,
                    Framing::Length(length) => State::Body(length),
                    Framing::Chunked => State::Chunked(Chunks::new()),
                };
                self.give(n);
                true
            }
            Err(refusal) => {
                self.refuse(refusal);
                true
            }
        }
    }

    /// Moves judged bytes to the parser's side.
    fn give(&mut self, n: usize) {
        self.ready.clear();
        self.given = 0;
        self.ready.extend_from_slice(&self.raw[..n]);
        self.raw.drain(..n);
        (self.looked, self.empty_lines) = (0, 0);
        self.read_wait = None;
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.state = State::Closed;
        self.raw = Vec::new();
        let Refusal { status, why } = refusal;
        self.ready =
            format!("{REFUSED} /{status} HTTP/1.1\r\nhost: gate\r\n{WHY}: {why}\r\nconnection: close\r\n\r\n")
                .into_bytes();
        self.given = 0;
        self.read_wait = None;
    }

    /// Waits no longer than this moment of a connection allows. Ready when the connection is to end.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<Wait> {
        let wait = match (&self.state, self.raw.is_empty()) {
            (State::Head, true) => Wait::Idle,
            (State::Head, false) => Wait::Head,
            // How long a body may take is watched by the handler that reads it.
            _ => return Poll::Pending,
        };
        let time = match wait {
            Wait::Idle => self.limits.idle_time,
            Wait::Head => self.limits.head_time,
        };
        if self.read_wait.as_ref().is_none_or(|(known, _)| *known != wait) {
            self.read_wait = Some((wait, Box::pin(tokio::time::sleep(time))));
        }
        while let Some((_, sleep)) = &mut self.read_wait {
            ready!(sleep.as_mut().poll(cx));
            if wait == Wait::Head || self.shared.in_work.load(Ordering::Acquire) == 0 {
                break;
            }
            sleep.as_mut().reset(Instant::now() + time);
        }
        Poll::Ready(wait)
    }
}

impl<S: AsyncRead + Unpin> Gate<S> {
    /// Reads the socket once. Ready with whether it has ended.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        // Most reads find nothing, while an answer is on its way: they fill no buffer first.
        let mut bytes = [MaybeUninit::uninit(); READ_BYTES];
        let mut buffer = ReadBuf::uninit(&mut bytes);
        ready!(Pin::new(&mut self.inner).poll_read(cx, &mut buffer))?;
        self.raw.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(buffer.filled().is_empty()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gate<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let gate = &mut *self;
        loop {
            gate.judge();
            let waiting = &gate.ready[gate.given..];
            if !waiting.is_empty() {
                let n = waiting.len().min(buf.remaining());
                buf.put_slice(&waiting[..n]);
                gate.given += n;
                return Poll::Ready(Ok(()));
            }
            if matches!(gate.state, State::Closed) {
                // The answer to the last request closes the connection; an end told here would cancel it.
                return Poll::Pending;
            }
            match gate.poll_more(cx) {
                Poll::Ready(Ok(false)) => {}
                Poll::Ready(Ok(true)) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => match ready!(gate.poll_patience(cx)) {
                    Wait::Idle => return Poll::Ready(Ok(())),
                    Wait::Head => {
                        gate.refuse(Refusal {
                            status: 408,
                            why: "the header fields took too long",
                        });
                    }
                },
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> Gate<S> {
    /// Ends a write that waits for too long.
    fn watched<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.write_wait = None;
            return written;
        }
        let time = self.limits.write_time;
        let wait = self.write_wait.get_or_insert_with(|| Box::pin(tokio::time::sleep(time)));
        ready!(wait.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client reads too slowly")))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gate<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.watched(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.watched(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    use super::*;

    /// Times that no test reaches.
    const LIMITS: GateLimits = GateLimits {
        head: HeadLimits { bytes: 512, fields: 8, body_bytes: 1000 },
        head_time: Duration::from_secs(600),
        idle_time: Duration::from_secs(600),
        write_time: Duration::from_secs(600),
    };
    /// A time that is over at once.
    const SHORT: Duration = Duration::from_millis(1);
    /// How long nothing has to happen: a slow machine cannot make a test fail by it.
    const A_WHILE: Duration = Duration::from_millis(50);

    fn pair(limits: GateLimits) -> (DuplexStream, Gate<DuplexStream>) {
        let (client, server) = tokio::io::duplex(1 << 20);
        (client, Gate::new(server, limits, Arc::default()))
    }

    async fn read(gate: &mut Gate<DuplexStream>) -> String {
        let mut bytes = vec![0; 4096];
        let n = gate.read(&mut bytes).await.unwrap();
        String::from_utf8(bytes[..n].to_vec()).unwrap()
    }

    const POST: &str = "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n";

    #[tokio::test]
    async fn sound_requests_pass_byte_for_byte_and_a_bad_one_after_them_is_replaced() {
        let (mut client, mut gate) = pair(LIMITS);
        let chunked =
            "POST /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
        let sound = format!("{POST}a\nb{chunked}\r\n{POST}xyz");
        let bad = "POST /c HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n";
        client
            .write_all(format!("{sound}{bad}0\r\n\r\nGET /admin HTTP/1.1\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut seen = String::new();
        while !seen.contains(REFUSED) {
            seen += &read(&mut gate).await;
        }
        let (passed, refused) = seen.split_once(REFUSED).unwrap();
        assert_eq!(passed, sound.replace("\r\n\r\n\r\nPOST", "\r\n\r\nPOST"));
        assert!(refused.starts_with(" /400 HTTP/1.1\r\n"), "{refused}");
        let more = tokio::time::timeout(A_WHILE, read(&mut gate)).await;
        assert!(more.is_err(), "nothing comes after a refusal");
    }

    #[tokio::test]
    async fn empty_lines_without_end_are_refused_however_they_come() {
        let flood = "\r\n".repeat(EMPTY_LINES_MAX + 1);
        for size in [1, 2, 3, flood.len()] {
            let (mut client, mut gate) = pair(LIMITS);
            for piece in flood.as_bytes().chunks(size) {
                client.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            let seen = tokio::time::timeout(Duration::from_secs(60), read(&mut gate)).await;
            assert!(seen.unwrap().starts_with("REFUSED-BY-GATE /400"), "{size}");
        }
        let (mut client, mut gate) = pair(LIMITS);
        for _ in 0..3 {
            let few = "\r\n".repeat(EMPTY_LINES_MAX);
            client.write_all(format!("{few}{POST}abc").as_bytes()).await.unwrap();
            let mut seen = String::new();
            while seen.len() < POST.len() + 3 {
                seen += &read(&mut gate).await;
            }
            assert_eq!(seen, format!("{POST}abc"), "few before each request are fine");
        }
    }

    #[tokio::test]
    async fn a_slow_head_is_refused_and_an_idle_connection_ends() {
        let (mut client, mut gate) = pair(GateLimits { head_time: SHORT, ..LIMITS });
        client.write_all(b"POST /a HT").await.unwrap();
        assert!(read(&mut gate).await.starts_with("REFUSED-BY-GATE /408"));
        let (_client, mut gate) = pair(GateLimits { idle_time: SHORT, ..LIMITS });
        assert_eq!(read(&mut gate).await, "");
    }

    #[tokio::test]
    async fn a_client_that_waits_for_its_answer_is_not_idle() {
        let (mut client, mut gate) = pair(GateLimits { idle_time: SHORT, ..LIMITS });
        gate.shared.in_work.store(1, Ordering::Release);
        client.write_all(format!("{POST}abc").as_bytes()).await.unwrap();
        while !read(&mut gate).await.ends_with("abc") {}
        let waited = tokio::time::timeout(A_WHILE, read(&mut gate)).await;
        assert!(waited.is_err());
        gate.shared.in_work.store(0, Ordering::Release);
        assert_eq!(read(&mut gate).await, "");
    }

    #[tokio::test]
    async fn a_bad_chunk_breaks_the_body() {
        let (mut client, mut gate) = pair(LIMITS);
        let head = "POST /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
        client.write_all(format!("{head}2;x=y\r\nok\r\n0\r\n\r\n").as_bytes()).await.unwrap();
        assert_eq!(read(&mut gate).await, head);
        assert_eq!(read(&mut gate).await, "2Z\r\n\r\n");
    }

    #[tokio::test]
    async fn a_client_that_reads_nothing_is_given_up() {
        let (client, server) = tokio::io::duplex(16);
        let limits = GateLimits { write_time: SHORT, ..LIMITS };
        let mut gate = Gate::new(server, limits, Arc::default());
        let error = gate.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(client);
    }
}
