//! Ctrl-C and SIGTERM: the first asks the run to stop and drain, the second ends it at once.

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::execute::StopFlag;

/// Exit code of an interrupted run, as the shell counts it (128 + SIGINT).
pub const INTERRUPTED: u8 = 130;

/// Watches for signals on its own thread until the process ends.
pub fn watch(stop: StopFlag) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("signals: no runtime")?;
    let guard = runtime.enter();
    // A closed terminal (SIGHUP) is a request to stop like any other.
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let signals: Vec<Signal> = kinds
        .into_iter()
        .map(signal)
        .collect::<Result<_, _>>()
        .context("signals: cannot listen to SIGINT, SIGTERM and SIGHUP")?;
    drop(guard);
    // A write past `ulimit -f` is then an error with a sentence, as on a full disk, and not a silent death.
    // SAFETY: ignoring a signal installs no handler that could run.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || runtime.block_on(forward(signals, stop)))
        .context("signals: cannot start a thread")?;
    Ok(())
}

#[expect(
    clippy::exit,
    reason = "a second Ctrl-C means now; what was flushed is on disk and --resume continues it"
)]
async fn forward(mut signals: Vec<Signal>, stop: StopFlag) {
    any(&mut signals).await;
    stop.raise();
    any(&mut signals).await;
    super::tui::restore();
    std::process::exit(i32::from(INTERRUPTED));
}

async fn any(signals: &mut [Signal]) {
    let waiting = signals.iter_mut().map(|signal| Box::pin(signal.recv()));
    futures_util::future::select_all(waiting).await;
}
