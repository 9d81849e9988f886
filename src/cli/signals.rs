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
    let interrupts = signal(SignalKind::interrupt()).context("signals: cannot listen to SIGINT")?;
    let terminations =
        signal(SignalKind::terminate()).context("signals: cannot listen to SIGTERM")?;
    drop(guard);
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || runtime.block_on(forward(interrupts, terminations, stop)))
        .context("signals: cannot start a thread")?;
    Ok(())
}

#[expect(
    clippy::exit,
    reason = "a second Ctrl-C means now; what was flushed is on disk and --resume continues it"
)]
async fn forward(mut interrupts: Signal, mut terminations: Signal, stop: StopFlag) {
    either(&mut interrupts, &mut terminations).await;
    stop.raise();
    either(&mut interrupts, &mut terminations).await;
    std::process::exit(i32::from(INTERRUPTED));
}

async fn either(first: &mut Signal, second: &mut Signal) {
    tokio::select! {
        _ = first.recv() => {}
        _ = second.recv() => {}
    }
}
