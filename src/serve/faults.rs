//! A server that misbehaves in one way, written byte by byte on a raw socket. It answers the questions of the version
//! gate properly, so that the fault meets a measured request.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// The way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// None: a role-only chunk, three texts, usage, `[DONE]`.
    None,
    /// Refuses with this status and an OpenAI-shaped error.
    Status(u16),
    /// Takes the request and says nothing.
    Hang,
    /// Half of the stream, then nothing more.
    Stall,
    /// Half of the stream, then closes.
    Half,
    /// Half of the stream, then a TCP reset.
    Reset,
    /// Resets the connection before it answers.
    ResetEarly,
    /// An event stream of nonsense.
    Garbage,
    /// A web page with status 200.
    Html,
    /// The whole stream, one byte a chunk.
    SlowLoris,
    /// A text of one megabyte in one line.
    LongLine,
    /// The whole stream with CRLF line ends.
    Crlf,
    /// The whole stream in one chunk.
    OneRead,
    /// A chunk that ends within a character.
    SplitUtf8,
    /// An error inside the stream.
    ErrorInside,
    /// A proper end of the body without a reason.
    EndsEarly,
    /// Answers once on each connection and closes it when asked again.
    CloseSecond,
    /// [`Fault::Reset`] for the first and each tenth request after it, [`Fault::None`] for the others.
    ResetTenth,
    /// [`Fault::Stall`] for the first and each second request after it, [`Fault::None`] for the others.
    StallHalf,
}

/// Requests so far, for faults that meet only some of them. A request that is tried again meets the same fate.
#[derive(Default)]
struct Seen {
    n: usize,
    unlucky: HashSet<Vec<u8>>,
}

impl Seen {
    fn fate(&mut self, fault: Fault, body: Vec<u8>) -> Fault {
        let (every, meets) = match fault {
            Fault::ResetTenth => (10, Fault::Reset),
            Fault::StallHalf => (2, Fault::Stall),
            _ => return fault,
        };
        if self.unlucky.contains(&body) {
            return meets;
        }
        self.n += 1;
        if self.n % every != 1 {
            return Fault::None;
        }
        self.unlucky.insert(body);
        meets
    }
}

const EVENTS: [&str; 6] = [
    r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":null},"text":""}]}"#,
    r#"{"choices":[{"index":0,"text":"one"}]}"#,
    r#"{"choices":[{"index":0,"text":" é漢"}]}"#,
    r#"{"choices":[{"index":0,"text":" three","finish_reason":"stop"}]}"#,
    r#"{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":2}}}"#,
    "[DONE]",
];

/// The answer of the proper stream.
pub const TEXT: &str = "one é漢 three";

const HEAD: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

/// Binds a free port of the loopback interface and serves on the current tokio runtime until that ends.
pub async fn start(fault: Fault) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let seen = Arc::<Mutex<Seen>>::default();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            // Pieces are written one by one, and are to leave so. Where this fails they come together.
            let _ = socket.set_nodelay(true);
            let seen = seen.clone();
            // An error here is a client that went away, which is what some faults are about.
            tokio::spawn(async move { connection(socket, fault, &seen).await });
        }
    });
    Ok(address)
}

async fn connection(
    mut socket: TcpStream,
    fault: Fault,
    seen: &Mutex<Seen>,
) -> std::io::Result<()> {
    let mut n_posts = 0;
    while let Some((is_post, body)) = read_request(&mut socket).await? {
        if !is_post {
            let body = r#"{"version":"fault","data":[{"id":"fault"}]}"#;
            plain(&mut socket, 200, "application/json", body).await?;
            continue;
        }
        n_posts += 1;
        if fault == Fault::CloseSecond && n_posts == 2 {
            return Ok(());
        }
        let fate = seen.lock().unwrap_or_else(PoisonError::into_inner).fate(fault, body);
        if !misbehave(&mut socket, fate).await? {
            return Ok(());
        }
    }
    Ok(())
}

/// Reads one request; whether it was a POST, and its body. `None` at the end of the connection.
async fn read_request(socket: &mut TcpStream) -> std::io::Result<Option<(bool, Vec<u8>)>> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if socket.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    };
    let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
    let length =
        text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    let end = head + length.unwrap_or(0_usize);
    while bytes.len() < end {
        if socket.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    }
    Ok(Some((text.starts_with("post"), bytes.split_off(head))))
}

/// Answers a POST; whether the connection stays open.
async fn misbehave(socket: &mut TcpStream, fault: Fault) -> std::io::Result<bool> {
    match fault {
        Fault::Status(status) => {
            let body = format!(r#"{{"error":{{"message":"refused","code":{status}}}}}"#);
            plain(socket, status, "application/json", &body).await?;
            return Ok(true);
        }
        Fault::Html => {
            plain(socket, 200, "text/html", "<html>sign in</html>").await?;
            return Ok(true);
        }
        Fault::Hang => std::future::pending::<()>().await,
        Fault::ResetEarly => {
            socket.set_zero_linger()?;
            return Ok(false);
        }
        _ => socket.write_all(HEAD.as_bytes()).await?,
    }
    for piece in pieces(fault) {
        socket.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await?;
        socket.write_all(&piece).await?;
        socket.write_all(b"\r\n").await?;
    }
    match fault {
        Fault::Stall => std::future::pending::<()>().await,
        Fault::Half => return Ok(false),
        Fault::Reset => {
            // A reset throws away what the client has not read yet, so any part of the half may arrive, even none of
            // it: only the abrupt end is certain.
            socket.set_zero_linger()?;
            return Ok(false);
        }
        _ => socket.write_all(b"0\r\n\r\n").await?,
    }
    Ok(true)
}

/// The body in HTTP chunks, each of which the client sees as a read of its own.
fn pieces(fault: Fault) -> Vec<Vec<u8>> {
    let event = |data: &str| format!("data: {data}\n\n").into_bytes();
    let proper = || EVENTS.iter().map(|data| event(data)).collect::<Vec<_>>();
    match fault {
        Fault::Half | Fault::Stall | Fault::Reset | Fault::EndsEarly => proper()[..3].to_vec(),
        Fault::Garbage => vec![event("nonsense"), event("[DONE]")],
        Fault::SlowLoris => proper().concat().into_iter().map(|byte| vec![byte]).collect(),
        Fault::OneRead => vec![proper().concat()],
        Fault::Crlf => {
            let text = String::from_utf8(proper().concat()).expect("made of strings");
            vec![text.replace('\n', "\r\n").into_bytes()]
        }
        Fault::LongLine => {
            let text = format!(
                r#"{{"choices":[{{"text":"{}","finish_reason":"stop"}}]}}"#,
                "x".repeat(1 << 20)
            );
            vec![event(&text), event("[DONE]")]
        }
        Fault::SplitUtf8 => {
            let whole = proper().concat();
            let inside = whole
                .windows(3)
                .position(|window| window == "漢".as_bytes())
                .map_or(0, |at| at + 1);
            vec![whole[..inside].to_vec(), whole[inside..].to_vec()]
        }
        Fault::ErrorInside => {
            let mut events = proper()[..2].to_vec();
            events.extend([
                event(r#"{"error":{"message":"out of memory","code":500}}"#),
                event("[DONE]"),
            ]);
            events
        }
        _ => proper(),
    }
}

async fn plain(socket: &mut TcpStream, status: u16, kind: &str, body: &str) -> std::io::Result<()> {
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n");
    socket.write_all(format!("{head}{body}").as_bytes()).await
}
