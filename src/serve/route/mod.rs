//! The live router: an OpenAI-compatible proxy in front of engines that compress their KV cache differently.
//!
//! ```text
//! client -> gate (heads and chunks held to the letter, time-outs) -> hyper -> app (token, paths) -> relay
//!                                                                                                    |
//!            row <- trip <- watch (first token, usage) <- answer's bytes, unchanged <- upstream <- desk (policy, breakers)
//! ```
//!
//! Requests are made anew for an engine, with a few fields of the client's; answers go back byte by byte. Until the first byte of an
//! engine's answer has come nothing has gone to the client, so a request whose engine fails is sent to another that the guard holds
//! safe. After it, an answer that breaks breaks for the client too. A client that closes its connection, or its sending half of it,
//! takes its request back, and the engine's connection is dropped with it.

mod app;
mod ask;
pub mod breaker;
mod care;
mod chunk;
mod counts;
mod desk;
mod gate;
mod gauges;
mod head;
mod knowledge;
mod listen;
mod log;
mod relay;
mod secret;
mod stretch;
mod trip;
mod upstream;
mod watch;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering},
    },
};

use anyhow::Context as _;
use tokio::{
    net::TcpListener,
    sync::{Notify, Semaphore, watch as signal},
    task::JoinHandle,
};

pub use secret::Secret;

use crate::{
    record::{RouteLog, RouteManifest},
    scenario::proxy::Proxy,
};

/// Takes sentences for the user.
pub type Say = Arc<dyn Fn(&str) + Send + Sync>;

/// Makes a run folder.
pub type MakeLog = Box<dyn FnOnce(&Proxy) -> anyhow::Result<(RouteLog, RouteManifest)> + Send>;

/// Nanoseconds since the proxy started.
#[derive(Debug, Clone, Copy)]
struct Clock(tokio::time::Instant);

impl Clock {
    fn now_ns(self) -> i64 {
        i64::try_from(self.0.elapsed().as_nanos()).unwrap_or(i64::MAX)
    }
}

/// What a proxy is started with.
pub struct Setup {
    /// Its configuration.
    pub proxy: Proxy,
    /// Keys of the engines, in their order.
    pub keys: Vec<Option<Secret>>,
    /// Token of clients.
    pub token: Option<Secret>,
    /// Makes the folder that rows go to, and the manifest that is written with them in the end: once everything else is in order.
    pub log: MakeLog,
    /// Who tells the user.
    pub say: Say,
}

/// A proxy at work.
pub struct Running {
    address: SocketAddr,
    draining: signal::Sender<bool>,
    reload: Arc<Notify>,
    serving: JoinHandle<usize>,
    caring: Vec<JoinHandle<()>>,
    /// Where the present stretch of `route_engines` began, on the proxy's clock.
    stretch_began: Arc<AtomicI64>,
    writer: log::Writer,
    app: Arc<app::App>,
}

/// The files of models and risks that a configuration names.
pub fn files(proxy: &Proxy) -> Vec<PathBuf> {
    knowledge::files(proxy)
}

/// How a proxy ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were still open when the time for draining was over.
    pub n_cut_off: usize,
    /// The run folder.
    pub folder: PathBuf,
}

/// Binds the address, reads the files and serves on the current tokio runtime.
///
/// # Errors
/// The address is taken, a file of models or risks is not what it should be, or the run folder cannot be made.
pub async fn start(setup: Setup) -> anyhow::Result<Running> {
    let Setup { proxy, keys, token, log, say } = setup;
    let knowledge = knowledge::Knowledge::read(&proxy)?;
    let desk = desk::Desk::new(&proxy, knowledge)?;
    let listener = TcpListener::bind(proxy.listen).await.with_context(|| {
        format!("{}: cannot listen\n  hint: is another proxy running?", proxy.listen)
    })?;
    let address = listener.local_addr()?;
    let client = upstream::client(&proxy.limits)?;
    let engines = proxy.engines.iter().enumerate().map(|(at, engine)| {
        let key = keys.get(at).and_then(Option::as_ref);
        upstream::Upstream::new(engine, key, client.clone())
    });
    let engines = engines.collect();
    let counts = Arc::<counts::Counts>::default();
    let (folder, manifest) = log(&proxy)?;
    let (writer, log) = log::Writer::start(folder, manifest, counts.clone(), say.clone())?;
    let clock = Clock(tokio::time::Instant::now());
    let (next_id, in_work) = (AtomicU64::new(0), AtomicUsize::new(0));
    let room = Arc::new(Semaphore::new(proxy.limits.buffer_bytes.min(Semaphore::MAX_PERMITS)));
    let app = app::App { proxy, engines, desk, counts, log, clock, token, next_id, in_work, room };
    let app = Arc::new(app);
    let (draining, told) = signal::channel(false);
    let reload = Arc::<Notify>::default();
    let mut caring: Vec<_> = (0..app.engines.len())
        .map(|at| tokio::spawn(care::watch(app.clone(), at, say.clone())))
        .collect();
    caring.push(tokio::spawn(care::reload(app.clone(), reload.clone(), say)));
    let stretch_began = Arc::<AtomicI64>::default();
    caring.push(tokio::spawn(care::record(app.clone(), stretch_began.clone())));
    let serving = tokio::spawn(listen::run(listener, app.clone(), told));
    Ok(Running { address, draining, reload, serving, caring, stretch_began, writer, app })
}

impl Running {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its run folder.
    pub fn folder(&self) -> &Path {
        self.writer.path()
    }

    /// Reads models and risks anew.
    pub fn reload(&self) {
        self.reload.notify_one();
    }

    /// Tells how many requests are being answered, while it drains too.
    pub fn in_work_reader(&self) -> impl Fn() -> usize + use<> {
        let app = Arc::downgrade(&self.app);
        move || app.upgrade().map_or(0, |app| app.in_work.load(Ordering::Relaxed))
    }

    /// Takes no more connections, lets streams end for as long as the configuration allows, and writes the last rows.
    ///
    /// # Errors
    /// Rows could not be written.
    pub async fn drain(self) -> anyhow::Result<Drained> {
        let Self { draining, serving, caring, stretch_began, writer, app, .. } = self;
        draining.send_replace(true);
        let n_cut_off = serving.await.context("the proxy's listener panicked")?;
        for task in caring {
            task.abort();
            // An aborted task ends with an error that says so.
            drop(task.await);
        }
        stretch::write(&app, stretch_began.load(Ordering::Relaxed));
        drop(app);
        let folder = writer.path().to_owned();
        tokio::task::spawn_blocking(move || writer.finish()).await??;
        Ok(Drained { n_cut_off, folder })
    }
}
