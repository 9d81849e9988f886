//! The live router from the outside: in front of servers that behave, that misbehave, and that watch what they are sent.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use kvbench::{
    record::route::{
        RouteDir, RouteEngineRow, RouteKind, RouteLog, RouteManifest, RouteRequestRow,
    },
    scenario::proxy::Proxy,
    serve::route::{self, Running, Secret, Setup},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

mod config;
mod engines;
mod hostile;
mod outage;
mod passing;

/// When a test that waits for something gives up, however slow the machine is.
const GIVE_UP: Duration = Duration::from_secs(60);

/// A proxy of the test's own process, with its run folder.
struct Place {
    running: Option<Running>,
    address: SocketAddr,
    folder: TempDir,
    said: Arc<Mutex<Vec<String>>>,
}

/// What a test says beside the engines.
#[derive(Default)]
struct With<'a> {
    policy: &'a str,
    limits: &'a str,
    health: &'a str,
    head: &'a str,
    engine: &'a str,
    token: Option<&'a str>,
    keys: Vec<Option<&'a str>>,
}

/// Engines of methods `f16` and, after the first, `q4`.
fn config(engines: &[SocketAddr], with: &With<'_>, results: &Path) -> String {
    let mut text = format!(
        "name = \"test\"\nbaseline = \"f16\"\nlisten = \"127.0.0.1:0\"\nresults = {results:?}\n{}\n",
        with.head
    );
    for (at, address) in engines.iter().enumerate() {
        let method = if at == 0 { "f16" } else { "q4" };
        text += &format!(
            "[engine.e{at}]\nurl = \"http://{address}\"\nmethod = \"{method}\"\nmax_num_seqs = 8\n{}\n",
            with.engine
        );
    }
    let policy = if with.policy.is_empty() { "rule = \"round_robin\"" } else { with.policy };
    text + &format!(
        "[policy]\nlength.constant = 16\n{policy}\n[limits]\n{}\n[health]\ninterval_s = 0.05\nreload_s = 3600\n{}\n\
         [breaker]\nfailures = 3\nopen_s = 0.05\n",
        with.limits, with.health
    )
}

impl Place {
    async fn start(engines: &[SocketAddr], with: With<'_>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let text = config(engines, &with, folder.path());
        let proxy =
            Proxy::parse(&text, "test.toml").unwrap_or_else(|error| panic!("{error}\n{text}"));
        let mut manifest = RouteManifest::begun(RouteKind::Live, "test", &text, 0, String::new());
        let results = folder.path().to_owned();
        let log = move |_: &Proxy| {
            let log = RouteLog::create(&results, "20260101T000000Z", "abcdef", &mut manifest)?;
            Ok((log, manifest))
        };
        let said = Arc::<Mutex<Vec<String>>>::default();
        let heard = said.clone();
        let setup = Setup {
            proxy,
            keys: with.keys.iter().map(|key| key.map(|key| Secret::new(key).unwrap())).collect(),
            token: with.token.map(|token| Secret::new(token).unwrap()),
            log: Box::new(log),
            say: Arc::new(move |text| heard.lock().unwrap().push(text.to_owned())),
        };
        let running = route::start(setup).await.unwrap();
        Self { address: running.address(), running: Some(running), folder, said }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Drains, and reads the rows that were written.
    async fn rows(&mut self) -> Vec<RouteRequestRow> {
        let drained = self.running.take().unwrap().drain().await.unwrap();
        let mut rows = RouteDir::open(&drained.folder).unwrap().rows::<RouteRequestRow>().unwrap();
        rows.sort_by_key(|row| row.request_id);
        rows
    }

    /// Rows of engines, after [`Self::rows`].
    fn engine_rows(&self) -> Vec<RouteEngineRow> {
        let run = std::fs::read_dir(self.folder.path()).unwrap().next().unwrap().unwrap();
        RouteDir::open(&run.path()).unwrap().rows().unwrap()
    }

    /// Whether the user was told something that holds these words.
    fn was_told(&self, words: &str) -> bool {
        self.said.lock().unwrap().iter().any(|said| said.contains(words))
    }

    async fn wait_to_tell(&self, words: &str) {
        let begun = Instant::now();
        while !self.was_told(words) {
            assert!(begun.elapsed() < GIVE_UP, "never said `{words}`: {:?}", self.said);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The value of a line of `/metrics`; 0 where it is not there yet.
    async fn metric(&self, line: &str) -> f64 {
        let text = client().get(self.url("/metrics")).send().await.unwrap().text().await.unwrap();
        let value =
            text.lines().find_map(|own| own.strip_prefix(line)?.strip_prefix(' ')?.parse().ok());
        value.unwrap_or(0.0)
    }

    async fn wait_for(&self, line: &str, at_least: f64) {
        let begun = Instant::now();
        while self.metric(line).await < at_least {
            assert!(
                begun.elapsed() < GIVE_UP,
                "{line} never reached {at_least}: {:?}",
                self.said.lock().unwrap()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().unwrap()
}

/// A prompt with a stream as answer.
fn ask(n: usize) -> String {
    format!(r#"{{"model":"known","prompt":"say {n}","stream":true,"max_tokens":{n}}}"#)
}

async fn post(url: &str, body: String) -> reqwest::Result<reqwest::Response> {
    client().post(url).header("content-type", "application/json").body(body).send().await
}

/// Sends bytes, and reads until the server closes the connection.
async fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    // A server that refuses early may close before everything was sent.
    let _ = socket.write_all(bytes).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(GIVE_UP, socket.read_to_end(&mut answer)).await;
    let shown = String::from_utf8_lossy(&answer).into_owned();
    assert!(read.is_ok(), "the connection stays open after: {shown}");
    shown
}

/// Status of the first answer in a text.
fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

/// An engine that shows what it is sent and does what the test says: its health checks are good, a POST goes to the channel.
async fn watched() -> (SocketAddr, mpsc::UnboundedReceiver<(String, TcpStream)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(serve_watched(socket, sender.clone()));
        }
    });
    (address, receiver)
}

async fn serve_watched(mut socket: TcpStream, posts: mpsc::UnboundedSender<(String, TcpStream)>) {
    let mut bytes = Vec::new();
    while socket.read_buf(&mut bytes).await.is_ok_and(|n| n > 0) {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        if text.starts_with("GET") {
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            bytes.clear();
        } else if body.len() >= length.unwrap_or(0) {
            let _ = posts.send((text, socket));
            return;
        }
    }
}
