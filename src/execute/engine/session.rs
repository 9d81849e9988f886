//! An engine that kvbench starts: one for each configuration and repeat, ended before the next begins.

use std::{
    io::{BufRead as _, BufReader},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use reqwest::{Client, Url};

use super::facts;
use crate::{
    execute::{Observer, StopFlag, clock},
    plan::Cell,
    scenario::{Command as Words, Engine, EngineTarget, Start, StopSignal},
};

/// How often a starting engine is asked whether it is ready.
const POLL: Duration = Duration::from_millis(200);
/// Longest wait for one answer of a starting engine.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// Beyond the engine's own grace, for its supervisor to end what is left.
const REST: Duration = Duration::from_secs(15);
/// Longest version command: a Python engine imports for minutes on a busy machine.
const VERSION_TIMEOUT: Duration = Duration::from_secs(300);
/// Lines of the log that an error shows.
const LOG_LINES: usize = 12;

/// What is needed to start engines.
#[derive(Debug, Clone)]
pub struct Starter {
    /// A kvbench, whose `supervise` command becomes the engine's parent.
    pub supervisor: PathBuf,
    /// Folder for logs and the engines' files.
    pub folder: PathBuf,
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

    /// As log files are named.
    pub(super) fn label(&self) -> String {
        format!("{}-{}-r{}", self.target, self.method, self.repeat)
    }
}

/// A started engine. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) key: Key,
    pub(super) base: Url,
    /// What was started.
    pub(super) words: Words,
    /// Process id of the engine (or of its wrapper).
    pub(super) pid: u32,
    pub(super) log: PathBuf,
    /// Start to readiness.
    pub(super) ready_after: Duration,
    child: Child,
    grace: Duration,
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
        let label = order.key.label();
        let dir = std::path::absolute(around.starter.folder.join(&label))?;
        let log = around.starter.folder.join(format!("{label}.log"));
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
        let dir_text = dir.display().to_string();
        let spot = crate::scenario::Spot { port, dir: &dir_text };
        let cache = order.target.prefix_cache;
        let words = order.start.command(order.engine, setting, order.variant, cache, spot);
        write_files(&dir, &words)?;
        let began = clock::now();
        let mut session = match spawn(&order, around.starter, words, &log, port)? {
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
        loop {
            if let Some(how) = self.died() {
                return Err(format!("{title} did not start: {how}"));
            }
            if around.stop.is_raised() {
                return Err(format!("{title} was not waited for: interrupted"));
            }
            if is_ready(around, &health) {
                self.ready_after = clock::now() - began;
                return Ok(());
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
                "starting {title} for {} ({:.0} s, {})",
                self.key.method,
                waited.as_secs_f64(),
                last_line(&self.log)
            ));
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The end of this pipe is what the supervisor waits for.
        drop(self.child.stdin.take());
        let end = clock::now() + self.grace + REST;
        while matches!(self.child.try_wait(), Ok(None)) {
            if clock::now() > end {
                // Its engine then dies with it (PR_SET_PDEATHSIG); an error means that it is gone already.
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
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
    log: &Path,
    port: u16,
) -> anyhow::Result<Result<Session, String>> {
    let text = format!("$ {}\n", words.shown());
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("{}: cannot be written", log.display()))?;
    std::io::Write::write_all(&mut file, text.as_bytes())
        .with_context(|| format!("{}: cannot be written", log.display()))?;
    let grace = Duration::try_from_secs_f64(order.engine.stop_grace_s).unwrap_or(REST);
    let signal = match order.engine.stop_signal {
        StopSignal::Term => "TERM",
        StopSignal::Int => "INT",
    };
    let mut command = Command::new(&starter.supervisor);
    command.args([
        "supervise",
        "--signal",
        signal,
        "--grace-ms",
        &grace.as_millis().to_string(),
        "--",
    ]);
    command.args(&words.words).envs(&words.env);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::from(file));
    let mut child = command.spawn().with_context(|| {
        format!("{}: cannot be started as the engine's supervisor", starter.supervisor.display())
    })?;
    let mut first = String::new();
    if let Some(out) = child.stdout.take() {
        BufReader::new(out).read_line(&mut first).context("supervisor: cannot be read")?;
    }
    let Ok(pid) = first.trim().parse() else {
        let _ = child.wait();
        return Ok(Err(format!(
            "{} cannot be started: {}\n  hint: install it, or name it with `program`",
            order.engine.title,
            tail(log)
        )));
    };
    let url = format!("http://{}:{port}", order.start.host);
    let base = Url::parse(&url).with_context(|| format!("{url}: no URL"))?;
    let (key, log) = (order.key.clone(), log.to_owned());
    Ok(Ok(Session { key, base, words, pid, log, ready_after: Duration::ZERO, child, grace }))
}

fn is_ready(around: &Around<'_>, health: &Url) -> bool {
    // Made inside the runtime: the request's time-out is one of its timers.
    let ask = async { around.client.get(health.clone()).timeout(ASK_TIMEOUT).send().await };
    // Refused connections and 503 are what a starting server answers: only its log can tell more.
    around.runtime.block_on(ask).is_ok_and(|answer| answer.status().is_success())
}

/// The first line that the version command prints.
///
/// # Errors
/// It cannot be started, fails, or prints nothing: a sentence for a row.
pub(super) fn version(start: &Start, engine: &Engine) -> Result<Option<String>, String> {
    let Some(words) = start.version_command(engine) else { return Ok(None) };
    let shown = words.shown();
    let Some((program, arguments)) = words.words.split_first() else { return Ok(None) };
    let mut command = Command::new(program);
    command.args(arguments).envs(&words.env).stdin(Stdio::null());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.map_err(|error| format!("{shown}: {error}"))?;
    let output = within(child, VERSION_TIMEOUT).map_err(|error| format!("{shown}: {error}"))?;
    // llama.cpp prints it on standard error.
    let texts =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let line =
        texts.iter().flat_map(|text| text.lines()).map(str::trim).find(|line| !line.is_empty());
    match (output.status.success(), line) {
        (true, Some(line)) => Ok(Some(line.chars().take(200).collect())),
        (true, None) => Err(format!("{shown}: printed nothing")),
        (false, line) => {
            Err(format!("{shown}: {}: {}", output.status, line.unwrap_or("no message")))
        }
    }
}

fn within(mut child: Child, limit: Duration) -> std::io::Result<std::process::Output> {
    let end = clock::now() + limit;
    while child.try_wait()?.is_none() {
        if clock::now() > end {
            child.kill()?;
            child.wait()?;
            let text = format!("not finished after {} s", limit.as_secs());
            return Err(std::io::Error::new(std::io::ErrorKind::TimedOut, text));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    child.wait_with_output()
}

/// The words a process runs with, as the kernel has them; `None` where they cannot be read.
pub(super) fn arguments(pid: u32) -> Option<Vec<String>> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words = bytes.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    Some(words.map(|word| String::from_utf8_lossy(word).into_owned()).collect())
}

/// The end of a log, for an error.
fn tail(log: &Path) -> String {
    let lines = last_lines(log, LOG_LINES);
    if lines.is_empty() {
        return format!("its log {} is empty", log.display());
    }
    format!("last lines of {}:\n    {}", log.display(), lines.join("\n    "))
}

fn last_line(log: &Path) -> String {
    let line = last_lines(log, 1).pop().unwrap_or_default();
    line.chars().take(60).collect()
}

/// Reads at most the last 16 KiB: logs grow to gigabytes.
fn last_lines(log: &Path, n: usize) -> Vec<String> {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(log)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(16 << 10)))?;
        let mut bytes = Vec::new();
        file.take(16 << 10).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let text = String::from_utf8_lossy(&read().unwrap_or_default()).into_owned();
    let lines: Vec<String> = text
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty() && !line.starts_with("$ "))
        .map(|line| line.chars().take(300).collect())
        .collect();
    lines[lines.len().saturating_sub(n)..].to_vec()
}
