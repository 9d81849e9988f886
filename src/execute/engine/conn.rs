//! One connection to a server, read by the task whose answer it carries.
//!
//! An arrival wakes that one task, which reads the socket once into a buffer that all streams of the thread share, and
//! takes the time right after: a stream that is silent holds no buffer, and no answer waits for another's.
//!
//! TLS is what reqwest would use: rustls with the platform's roots.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use reqwest::Url;
use rustls::{ClientConfig, pki_types::ServerName};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::{
    io::{AsyncRead, AsyncWriteExt, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Name, TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Most bytes of one read.
const READ_BYTES: usize = 64 * 1024;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// Where connections go.
pub(super) struct Origin {
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Origin {
    /// The server of a URL; a process-wide TLS provider must have been installed.
    pub(super) fn new(url: &Url) -> anyhow::Result<Self> {
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            anyhow::bail!("url: expected http://host:port, got no host or no port");
        };
        // A literal IPv6 address stands in brackets in a URL and without them everywhere else.
        let host = host.trim_matches(['[', ']']).to_owned();
        let tls = (url.scheme() == "https").then(|| tls(&host)).transpose()?;
        Ok(Self { host, port, tls })
    }
}

fn tls(host: &str) -> anyhow::Result<(TlsConnector, ServerName<'static>)> {
    let mut config = ClientConfig::builder().with_platform_verifier()?.with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((TlsConnector::from(Arc::new(config)), ServerName::try_from(host.to_owned())?))
}

/// An open connection.
pub(super) enum Conn {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Conn {
    /// Opens one. `Err` says why it could not be.
    pub(super) async fn open(origin: &Origin) -> Result<Self, String> {
        match tokio::time::timeout(CONNECT_TIMEOUT, Self::open_io(origin)).await {
            Ok(opened) => opened.map_err(|error| format!("cannot connect: {error}")),
            Err(_) => Err(format!("cannot connect: no answer in {} s", CONNECT_TIMEOUT.as_secs())),
        }
    }

    async fn open_io(origin: &Origin) -> io::Result<Self> {
        let tcp = TcpStream::connect((origin.host.as_str(), origin.port)).await?;
        tcp.set_nodelay(true)?;
        Ok(match &origin.tls {
            None => Self::Plain(tcp),
            Some((tls, name)) => Self::Tls(Box::new(tls.connect(name.clone(), tcp).await?)),
        })
    }

    /// Sends all of it.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.write_all(bytes).await,
            Self::Tls(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await
            }
        }
    }

    /// Waits for bytes and shows them to `take`; none are the end of the connection.
    pub(super) fn poll_read<T>(
        &mut self,
        cx: &mut Context<'_>,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Poll<io::Result<T>> {
        BUFFER.with_borrow_mut(|buffer| {
            let mut buffer = ReadBuf::new(buffer);
            ready!(match self {
                Self::Plain(stream) => Pin::new(stream).poll_read(cx, &mut buffer),
                Self::Tls(stream) => Pin::new(stream).poll_read(cx, &mut buffer),
            })?;
            Poll::Ready(Ok(take(buffer.filled())))
        })
    }

    /// Whether an idle connection is still good: the server has neither closed it nor said anything.
    pub(super) fn is_quiet(&mut self) -> bool {
        if let Self::Plain(stream) = self {
            // Without tokio's budget for a task: a pool full of dead connections must not use that up.
            let read = stream.try_read(&mut [0]);
            return matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        }
        // Nothing waits on it; the next read brings its own waker.
        self.poll_read(&mut Context::from_waker(Waker::noop()), |_| ()).is_pending()
    }
}
