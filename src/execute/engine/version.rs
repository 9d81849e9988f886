//! The version that an engine's command prints. It runs below a supervisor like an engine: bounded in time, ended by Ctrl-C and
//! with kvbench, whatever it has started.

use std::{
    io::Read,
    process::{Child, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::Duration,
};

use super::session::Starter;
use crate::{
    execute::{StopFlag, clock},
    scenario::Command as Words,
};

/// Longest version command: a Python engine imports for minutes on a busy machine.
pub(super) const TIMEOUT: Duration = Duration::from_secs(300);
/// How long it has to end once it is asked to.
const GRACE: Duration = Duration::from_secs(1);
/// Beyond that, for the supervisor to end what is left.
const REST: Duration = Duration::from_secs(10);
/// Kept of each of its outputs; all of it is read, or a talkative command would wait for ever.
const OUTPUT_BYTES: usize = 64 << 10;
const POLL: Duration = Duration::from_millis(50);

/// What came of asking: a version, or a sentence for a row. Kept for a run, since the next cell would get the same.
pub(super) type Answer = Result<String, String>;

/// The first line that the command prints. `None`: Ctrl-C came before its answer, which says nothing about the engine.
pub(super) fn ask(
    words: &Words,
    starter: &Starter,
    stop: &StopFlag,
    limit: Duration,
) -> Option<Answer> {
    let shown = words.shown();
    let failed = |text: String| Some(Err(format!("{shown}: {text}")));
    let mut command = starter.supervise("TERM", GRACE);
    command.args(["--keep-stdout", "--"]).args(&words.words).envs(&words.env);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return failed(format!("its supervisor cannot be started: {error}")),
    };
    let outputs = [child.stdout.take().map(Output::read), child.stderr.take().map(Output::read)];
    let ended = wait(&mut child, stop, limit);
    let status = match ended {
        Ok(Some(status)) => status,
        Ok(None) if stop.is_raised() => return None,
        Ok(None) => return failed(format!("not finished after {} s", limit.as_secs())),
        Err(error) => return failed(error.to_string()),
    };
    let texts = outputs.map(|output| output.map_or_else(String::new, Output::text));
    // llama.cpp prints it on standard error.
    let line =
        texts.iter().flat_map(|text| text.lines()).map(str::trim).find(|line| !line.is_empty());
    match (status.success(), line) {
        (true, Some(line)) => Some(Ok(line.chars().take(200).collect())),
        (true, None) => failed("printed nothing".to_owned()),
        (false, line) => failed(format!("{status}: {}", line.unwrap_or("no message"))),
    }
}

/// Its end; `None` where it was ended before, because of Ctrl-C or the limit.
fn wait(
    child: &mut Child,
    stop: &StopFlag,
    limit: Duration,
) -> std::io::Result<Option<ExitStatus>> {
    let end = clock::now() + limit;
    while !stop.is_raised() && clock::now() <= end {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        std::thread::sleep(POLL);
    }
    // The end of this pipe is what the supervisor waits for.
    drop(child.stdin.take());
    let end = clock::now() + GRACE + REST;
    while child.try_wait()?.is_none() {
        if clock::now() > end {
            child.kill()?;
            child.wait()?;
            break;
        }
        std::thread::sleep(POLL);
    }
    Ok(None)
}

/// One output of a command, read on a thread of its own.
struct Output {
    kept: Arc<Mutex<Vec<u8>>>,
    over: mpsc::Receiver<()>,
}

impl Output {
    fn read(mut pipe: impl Read + Send + 'static) -> Self {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let (tell, over) = mpsc::channel::<()>();
        let shared = Arc::clone(&kept);
        std::thread::spawn(move || {
            let mut chunk = vec![0; 16 << 10];
            // An error of the pipe means the same as its end.
            while let Ok(n @ 1..) = pipe.read(&mut chunk) {
                let mut kept = shared.lock().unwrap_or_else(PoisonError::into_inner);
                let room = OUTPUT_BYTES.saturating_sub(kept.len());
                kept.extend_from_slice(&chunk[..n.min(room)]);
            }
            drop(tell);
        });
        Self { kept, over }
    }

    /// What it printed. A process that outlived its supervisor may hold the pipe open: it is not waited for.
    fn text(self) -> String {
        // Closed or too late: either way what is there is all there will be.
        let _ = self.over.recv_timeout(REST);
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&kept).into_owned()
    }
}
