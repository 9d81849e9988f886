//! What goes on beside requests: health checks, engines' own metrics, files that change.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::SystemTime,
};

use tokio::sync::Notify;

use super::{
    Say,
    app::App,
    breaker::BreakerState,
    gauges::{self, Gauges},
    knowledge::{self, Knowledge},
    stretch,
    upstream::Failure,
};

/// Looks after one engine until the task is dropped.
pub(super) async fn watch(app: Arc<App>, engine: usize, say: Say) {
    let mut every = tokio::time::interval(app.proxy.health_every);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut known, mut mute) = (BreakerState::Closed, None);
    loop {
        every.tick().await;
        let name = &app.engines[engine].name;
        let health = look(&app, engine).await;
        let now = app.desk.shown()[engine].breaker;
        if now != known {
            // Where the check is good, it was requests that failed.
            let why = match &health {
                Err(failure) if now == BreakerState::Open => {
                    format!(": its health check failed, {}", failure.words())
                }
                _ => String::new(),
            };
            say(&format!("engine {name}: breaker {}{why}", now.name()));
            known = now;
        }
        if health.is_err() {
            continue;
        }
        let told = listen(&app, engine).await.err();
        if let Some(failure) = told.filter(|_| told != mute) {
            say(&format!("warning: engine {name}: its metrics are not read, {}", failure.words()));
            mute = told;
        }
    }
}

async fn look(app: &App, engine: usize) -> Result<(), Failure> {
    let (time, upstream) = (app.proxy.health_timeout, &app.engines[engine]);
    let health = tokio::time::timeout(time, upstream.health()).await;
    let health = health.unwrap_or(Err(Failure::TimedOut));
    app.desk.probed(engine, health.is_ok(), app.clock.now_ns());
    if health.is_err() {
        app.counts.failed(&upstream.name, "health");
    }
    health
}

/// What an engine says of its load; of one that should and does not, nothing is known.
async fn listen(app: &App, engine: usize) -> Result<(), Failure> {
    let asked = tokio::time::timeout(app.proxy.health_timeout, app.engines[engine].metrics()).await;
    match asked.unwrap_or(Err(Failure::Slow)) {
        Ok(None) => Ok(()),
        Ok(Some(text)) => {
            app.desk.told(engine, gauges::read(&text));
            Ok(())
        }
        Err(failure) => {
            app.counts.failed(&app.engines[engine].name, "metrics");
            app.desk.told(engine, Gauges::default());
            Err(failure)
        }
    }
}

/// Writes a row an engine for every stretch of time, until the task is dropped; `began` is where the present one began.
pub(super) async fn record(app: Arc<App>, began: Arc<AtomicI64>) {
    let mut every = tokio::time::interval(app.proxy.record_every);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    every.tick().await;
    loop {
        every.tick().await;
        began.store(stretch::write(&app, began.load(Ordering::Relaxed)), Ordering::Relaxed);
    }
}

/// When each file was last changed and how long it was; `None` of one that is not there.
type Seen = Vec<Option<(SystemTime, u64)>>;

fn seen(files: &[PathBuf]) -> Seen {
    let one = |path: &PathBuf| {
        let facts = std::fs::metadata(path).ok()?;
        Some((facts.modified().ok()?, facts.len()))
    };
    files.iter().map(one).collect()
}

/// Reads models and risks anew when their files change or when asked to, until the task is dropped.
pub(super) async fn reload(app: Arc<App>, asked: Arc<Notify>, say: Say) {
    let files = knowledge::files(&app.proxy);
    let mut last = seen(&files);
    loop {
        let is_asked = tokio::select! {
            () = asked.notified() => true,
            () = tokio::time::sleep(app.proxy.reload_every) => false,
        };
        let now = seen(&files);
        if !is_asked && now == last {
            continue;
        }
        last = now;
        learn(&app, &say).await;
    }
}

async fn learn(app: &Arc<App>, say: &Say) {
    let reading = app.clone();
    let read = tokio::task::spawn_blocking(move || {
        Knowledge::read(&reading.proxy).and_then(|knowledge| reading.desk.learn(knowledge))
    });
    let read = read.await.unwrap_or_else(|_| Err(anyhow::anyhow!("reading them panicked")));
    match read {
        Ok(()) => {
            app.counts.reloads.fetch_add(1, Ordering::Relaxed);
            say("models and risks were read anew");
        }
        Err(error) => {
            app.counts.reloads_failed.fetch_add(1, Ordering::Relaxed);
            say(&format!("warning: models and risks stay as they were: {error:#}"));
        }
    }
}
