//! One row a request, and one an engine and stretch of time, written by a thread of its own: no request waits for a disk.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{self, TryRecvError},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::Context as _;
use tokio::time::Instant;

use super::{Say, counts::Counts};
use crate::record::{
    env,
    manifest::Status,
    route::{RouteEngineRow, RouteLog, RouteManifest, RouteRequestRow},
};

/// Rows that wait longer than this become a part of their own: what a kill can lose.
const FLUSH_EVERY: Duration = Duration::from_secs(5);
/// How long rows gather. A thread that waited in the channel would be woken by every request, on a core that the next one needs.
const GATHER: Duration = Duration::from_millis(50);
/// How far behind requests the thread stands in the scheduler's queue (`nice`, of -20 to 19).
const NICENESS: libc::c_int = 10;

/// Where rows go.
#[derive(Debug, Clone)]
pub(super) struct Log(mpsc::Sender<Row>);

/// A row of either table.
#[derive(Debug)]
enum Row {
    Request(Box<RouteRequestRow>),
    Engine(Box<RouteEngineRow>),
}

impl Log {
    /// Writes a row some time later.
    pub(super) fn request(&self, row: RouteRequestRow) {
        self.send(Row::Request(Box::new(row)));
    }

    /// The same, of an engine.
    pub(super) fn engine(&self, row: RouteEngineRow) {
        self.send(Row::Engine(Box::new(row)));
    }

    fn send(&self, row: Row) {
        // The thread ends after every sender, so somebody receives.
        let _ = self.0.send(row);
    }
}

/// The thread. It ends when the last [`Log`] is gone.
#[derive(Debug)]
pub(super) struct Writer {
    thread: JoinHandle<anyhow::Result<()>>,
    path: PathBuf,
}

impl Writer {
    /// Starts it.
    ///
    /// # Errors
    /// No thread.
    pub(super) fn start(
        folder: RouteLog,
        manifest: RouteManifest,
        counts: Arc<Counts>,
        say: Say,
    ) -> anyhow::Result<(Self, Log)> {
        let (sender, receiver) = mpsc::channel();
        let path = folder.path().to_owned();
        let thread = std::thread::Builder::new()
            .name("route-log".to_owned())
            .spawn(move || write(folder, manifest, &receiver, &counts, &say))
            .context("route log: cannot start a thread")?;
        Ok((Self { thread, path }, Log(sender)))
    }

    /// The run folder.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for the last row.
    ///
    /// # Errors
    /// What was received could not be written.
    pub(super) fn finish(self) -> anyhow::Result<()> {
        self.thread.join().map_err(|_| anyhow::anyhow!("route log: its thread panicked"))?
    }
}

/// Compressing thousands of rows takes milliseconds of every core: requests go first. Threads that this one starts inherit it.
fn step_back() {
    // SAFETY: setpriority takes three numbers and no pointer; on Linux 0 is the calling thread alone, and a higher niceness needs no
    // right. Where it fails the thread stays as it was.
    let _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) };
}

fn write(
    mut folder: RouteLog,
    mut manifest: RouteManifest,
    rows: &mpsc::Receiver<Row>,
    counts: &Counts,
    say: &Say,
) -> anyhow::Result<()> {
    step_back();
    let mut flush = Instant::now() + FLUSH_EVERY;
    loop {
        let mut written = match rows.try_recv() {
            Ok(Row::Request(row)) => folder.requests([*row]),
            Ok(Row::Engine(row)) => folder.engines([*row]),
            Err(TryRecvError::Empty) => {
                std::thread::sleep(GATHER);
                Ok(())
            }
            Err(TryRecvError::Disconnected) => break,
        };
        if Instant::now() >= flush {
            flush = Instant::now() + FLUSH_EVERY;
            written = written.and_then(|()| folder.flush());
        }
        if let Err(error) = written {
            // The rows stay in the folder's buffer, and are tried again with the next ones.
            counts.log_errors.fetch_add(1, Ordering::Relaxed);
            say(&format!("warning: rows could not be written: {error:#}"));
        }
    }
    let n_chunks = counts.n_counted("chunks");
    if n_chunks > 0 {
        manifest.notices.push(format!(
            "output_tokens of {n_chunks} answers are chunks that held text: their engines told no usage, which clients ask for by \
             stream_options.include_usage"
        ));
    }
    manifest.status = Status::Complete;
    manifest.ended = Some(env::rfc3339(env::wall_clock()?));
    folder.finish(&manifest).map(drop)
}
