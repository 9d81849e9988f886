//! An engine that kvbench starts: one for each configuration and repeat, ended before the next begins.

use std::{
    io::{BufRead as _, BufReader},
    net::TcpListener,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use reqwest::{Client, Url};

use super::{
    facts,
    listener::{self, Listener},
    log::{last_line, tail},
};
use crate::{
    execute::{Observer, StopFlag, clock, supervise},
    plan::Cell,
    scenario::{Command as Words, Engine, EngineTarget, Start, StopSignal, secret},
};

/// How often a starting engine is asked whether it is ready.
const POLL: Duration = Duration::from_millis(200);
/// Longest wait for one answer of a starting engine.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// Beyond the engine's own grace, for its supervisor to end what is left.
const REST: Duration = Duration::from_secs(15);
/// How often a listener must look foreign: a process may be moved to another parent while they are read.
const FOREIGN_LOOKS: u32 = 3;

/// What is needed to start engines.
#[derive(Debug, Clone)]
pub struct Starter {
    /// A kvbench, whose `supervise` command becomes the engine's parent.
    pub supervisor: PathBuf,
    /// Folder for logs and the engines' files.
    pub folder: PathBuf,
}

impl Starter {
    /// The supervisor, before the words that it is to run.
    pub(super) fn supervise(&self, signal: &str, grace: Duration) -> Command {
        let mut command = Command::new(&self.supervisor);
        // As it is called, wherever its file lies (or lay) now.
        command.arg0("kvbench").args(["supervise", "--signal", signal]);
        command.args(["--grace-ms", &grace.as_millis().to_string()]);
        command
    }
}

/// Which engine a cell needs. Cells of one key share a process.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    /// Target with its variant.
    pub(super) target: String,
    /// Method under its scenario name.
    pub(super) method: String,
    /// Repeat.
    pub(super) repeat: u32,
}

impl Key {
    pub(super) fn of(cell: &Cell) -> Self {
        let (target, method) = (cell.target.clone(), cell.method.name.clone());
        Self { target, method, repeat: cell.repeat }
    }

    /// What a start is called in the run folder: `_` is in no name, so that no two keys share a label.
    pub(super) fn label(&self) -> String {
        format!("{}_{}_r{}", self.target, self.method, self.repeat)
    }
}

/// A started engine. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) key: Key,
    /// Name of this start, which no other start of the run has.
    pub(super) label: String,
    pub(super) base: Url,
    /// Whether it is the one that listens on its port.
    pub(super) listener: Listener,
    /// What was started.
    pub(super) words: Words,
    /// Process id of the engine (or of its wrapper).
    pub(super) pid: u32,
    pub(super) log: PathBuf,
    /// Start to readiness.
    pub(super) ready_after: Duration,
    child: Child,
    grace: Duration,
    port: u16,
    /// Descendants of this process before the start.
    before: Vec<i32>,
}

/// Where and under what name a session is to run.
pub(super) struct Order<'a> {
    pub(super) key: Key,
    pub(super) target: &'a EngineTarget,
    pub(super) variant: &'a str,
    pub(super) start: &'a Start,
    pub(super) engine: &'a Engine,
}

/// What a start may use and has to heed.
pub(super) struct Around<'a> {
    pub(super) starter: &'a Starter,
    pub(super) client: &'a Client,
    pub(super) runtime: &'a tokio::runtime::Runtime,
    pub(super) observer: &'a dyn Observer,
    pub(super) stop: &'a StopFlag,
}

impl Session {
    /// Starts an engine and waits until it is ready.
    ///
    /// The inner error is a sentence for the rows of the cells that needed it; the outer one ends the run (disk full).
    pub(super) fn start(
        order: Order<'_>,
        around: &Around<'_>,
    ) -> anyhow::Result<Result<Self, String>> {
        let port = match port(order.start) {
            Ok(port) => port,
            Err(text) => return Ok(Err(text)),
        };
        let Some(setting) = order.target.settings.get(&order.key.method) else {
            return Ok(Err(format!(
                "expected to know how {} is selected, got nothing",
                order.key.method
            )));
        };
        let logbook = Logbook::open(&around.starter.folder, &order.key.label())?;
        let dir = std::path::absolute(around.starter.folder.join(&logbook.label))?;
        let dir_text = dir.display().to_string();
        let spot = crate::scenario::Spot { port, dir: &dir_text };
        let cache = order.target.prefix_cache;
        let words = order.start.command(order.engine, setting, order.variant, cache, spot);
        write_files(&dir, &words)?;
        let began = clock::now();
        let mut session = match spawn(&order, around.starter, words, logbook, port)? {
            Ok(session) => session,
            Err(text) => return Ok(Err(text)),
        };
        Ok(session.wait_ready(&order, around, began).map(|()| session))
    }

    /// Why it no longer runs, with the end of its log; `None` while it does.
    pub(super) fn died(&mut self) -> Option<String> {
        match self.child.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => Some(self.obituary(status)),
            Err(error) => Some(format!("its supervisor cannot be asked: {error}")),
        }
    }

    fn obituary(&self, status: std::process::ExitStatus) -> String {
        let how = match status.code() {
            Some(code) if code > 128 => format!("signal {}", code - 128),
            Some(code) => format!("exit code {code}"),
            None => "its supervisor was killed".to_owned(),
        };
        format!("ended with {how}; {}", tail(&self.log))
    }

    fn wait_ready(
        &mut self,
        order: &Order<'_>,
        around: &Around<'_>,
        began: Instant,
    ) -> Result<(), String> {
        let limit = Duration::try_from_secs_f64(order.start.timeout_s).unwrap_or(Duration::MAX);
        let health = facts::below(&self.base, order.engine.health_path.trim_start_matches('/'));
        let title = &order.engine.title;
        let mut foreign = 0;
        loop {
            if let Some(how) = self.died() {
                return Err(format!("{title} did not start: {how}"));
            }
            if around.stop.is_raised() {
                return Err(format!("{title} was not waited for: interrupted"));
            }
            if is_ready(around, &health) {
                match self.check_listener(order.start) {
                    Ok(()) => {
                        self.ready_after = clock::now() - began;
                        return Ok(());
                    }
                    Err(text) if foreign >= FOREIGN_LOOKS => {
                        return Err(format!("{title} is not measured: {text}"));
                    }
                    Err(_) => foreign += 1,
                }
            }
            let waited = clock::now() - began;
            if waited > limit {
                return Err(format!(
                    "{title} was not ready after {:.0} s; {}\n  hint: raise `start_timeout_s`, or mend what the log says",
                    limit.as_secs_f64(),
                    tail(&self.log)
                ));
            }
            around.observer.status(&format!(
                "{title}, method {}: started, awaiting {} ({:.0} of {:.0} s; {})",
                self.key.method,
                order.engine.health_path,
                waited.as_secs_f64(),
                limit.as_secs_f64(),
                last_line(&self.log)
            ));
            std::thread::sleep(POLL);
        }
    }

    /// Another server that took the port answers as well. What a wrapper starts may run elsewhere, where nobody can look.
    fn check_listener(&mut self, start: &Start) -> Result<(), String> {
        if !start.wrapper.is_empty() {
            self.listener = Listener::NotCheckedWrapper;
            return Ok(());
        }
        self.listener = Listener::Engine;
        listener::check(&start.host, self.port, self.child.id())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The end of this pipe is what the supervisor waits for.
        drop(self.child.stdin.take());
        let end = clock::now() + self.grace + REST;
        while matches!(self.child.try_wait(), Ok(None)) {
            if clock::now() > end {
                // An error means that it is gone already.
                let _ = self.child.kill();
                let _ = self.child.wait();
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        // One that was killed has ended nothing but the engine itself (PR_SET_PDEATHSIG): its workers are ours now.
        if !matches!(self.child.try_wait(), Ok(Some(status)) if status.code().is_some()) {
            supervise::end_orphans(&self.before);
        }
    }
}

/// The log of one start.
struct Logbook {
    label: String,
    path: PathBuf,
    file: std::fs::File,
}

impl Logbook {
    /// A log that no start of this run has written: the label, else the label with a number.
    fn open(folder: &Path, label: &str) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("{}: cannot be made", folder.display()))?;
        let mut n = 1_u32;
        loop {
            let label = if n == 1 { label.to_owned() } else { format!("{label}.{n}") };
            let path = folder.join(format!("{label}.log"));
            match std::fs::OpenOptions::new().append(true).create_new(true).open(&path) {
                Ok(file) => return Ok(Self { label, path, file }),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => n += 1,
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("{}: cannot be written", path.display()));
                }
            }
        }
    }
}

/// The port asked for, or a free one.
fn port(start: &Start) -> Result<u16, String> {
    let host = if start.host.is_empty() { "127.0.0.1" } else { &start.host };
    match (TcpListener::bind((host, start.port.unwrap_or(0))), start.port) {
        (Ok(listener), _) => listener
            .local_addr()
            .map(|address| address.port())
            .map_err(|error| format!("no free port on {host}: {error}")),
        // An address of another machine (a wrapper runs there) cannot be tried from here.
        (Err(error), Some(port)) if error.kind() == std::io::ErrorKind::AddrNotAvailable => {
            Ok(port)
        }
        (Err(_), None) => free_port_here(),
        (Err(error), Some(port)) => Err(format!(
            "port {port} of {host} cannot be used: {error}\n  hint: end what listens there, or leave `port` out to have a free one chosen"
        )),
    }
}

fn free_port_here() -> Result<u16, String> {
    let listener = TcpListener::bind(("0.0.0.0", 0)).and_then(|listener| listener.local_addr());
    listener.map(|address| address.port()).map_err(|error| format!("no free port: {error}"))
}

fn write_files(dir: &Path, words: &Words) -> anyhow::Result<()> {
    std::fs::create_dir_all(if words.files.is_empty() { dir.parent().unwrap_or(dir) } else { dir })
        .with_context(|| format!("{}: cannot be made", dir.display()))?;
    for (name, text) in &words.files {
        let path = dir.join(name);
        std::fs::write(&path, text)
            .with_context(|| format!("{}: cannot be written", path.display()))?;
    }
    Ok(())
}

fn spawn(
    order: &Order<'_>,
    starter: &Starter,
    words: Words,
    logbook: Logbook,
    port: u16,
) -> anyhow::Result<Result<Session, String>> {
    let Logbook { label, path: log, mut file } = logbook;
    let text = format!("$ {}\n", words.shown());
    std::io::Write::write_all(&mut file, text.as_bytes())
        .with_context(|| format!("{}: cannot be written", log.display()))?;
    let grace = Duration::try_from_secs_f64(order.engine.stop_grace_s).unwrap_or(REST);
    let signal = match order.engine.stop_signal {
        StopSignal::Term => "TERM",
        StopSignal::Int => "INT",
    };
    supervise::adopt_orphans();
    let before = supervise::descendants(std::process::id());
    let mut command = starter.supervise(signal, grace);
    command.arg("--").args(&words.words).envs(&words.env);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::from(file));
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            return Ok(Err(format!(
                "{} cannot be started: {} cannot be run as its supervisor: {error}\n  hint: put kvbench back where it was, and resume",
                order.engine.title,
                starter.supervisor.display()
            )));
        }
    };
    let mut first = String::new();
    if let Some(out) = child.stdout.take() {
        BufReader::new(out).read_line(&mut first).context("supervisor: cannot be read")?;
    }
    let Ok(pid) = first.trim().parse() else {
        let _ = child.wait();
        return Ok(Err(format!(
            "{} cannot be started: {}\n  hint: install it, or name it with `program`",
            order.engine.title,
            tail(&log)
        )));
    };
    let url = format!("http://{}:{port}", order.start.host);
    let base = Url::parse(&url).with_context(|| format!("{url}: no URL"))?;
    let (key, listener, ready_after) =
        (order.key.clone(), Listener::NotCheckedWrapper, Duration::ZERO);
    Ok(Ok(Session {
        key,
        label,
        base,
        listener,
        words,
        pid,
        log,
        ready_after,
        child,
        grace,
        port,
        before,
    }))
}

fn is_ready(around: &Around<'_>, health: &Url) -> bool {
    // Made inside the runtime: the request's time-out is one of its timers.
    let ask = async { around.client.get(health.clone()).timeout(ASK_TIMEOUT).send().await };
    // Refused connections and 503 are what a starting server answers: only its log can tell more.
    around.runtime.block_on(ask).is_ok_and(|answer| answer.status().is_success())
}

/// The words a process runs with, as the kernel has them, secrets aside; `None` where they cannot be read.
pub(super) fn arguments(pid: u32) -> Option<Vec<String>> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words = bytes.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    let words: Vec<String> = words.map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    Some(secret::hidden(&words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_starts_share_a_log() {
        let key = |target: &str, method: &str| Key {
            target: target.to_owned(),
            method: method.to_owned(),
            repeat: 0,
        };
        assert_ne!(key("a-b", "c").label(), key("a", "b-c").label());
        let folder = tempfile::tempdir().unwrap();
        let labels = [(); 3].map(|()| Logbook::open(folder.path(), "a_b_r0").unwrap().label);
        assert_eq!(labels, ["a_b_r0", "a_b_r0.2", "a_b_r0.3"]);
    }
}
