//! What goes on beside requests: health checks, engines' own metrics, files that change.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::SystemTime,
};

use tokio::sync::Notify;

use super::{
    Say,
    app::App,
    breaker::BreakerState,
    gauges,
    knowledge::{self, Knowledge},
};

/// Looks after one engine until the task is dropped.
pub(super) async fn watch(app: Arc<App>, engine: usize, say: Say) {
    let mut every = tokio::time::interval(app.proxy.health_every);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut known = BreakerState::Closed;
    loop {
        every.tick().await;
        look(&app, engine).await;
        let now = app.desk.shown()[engine].breaker;
        if now != known {
            say(&format!("engine {}: breaker {}", app.engines[engine].name, now.name()));
            known = now;
        }
    }
}

async fn look(app: &App, engine: usize) {
    let (time, upstream) = (app.proxy.health_timeout, &app.engines[engine]);
    let is_good = tokio::time::timeout(time, upstream.is_healthy()).await.unwrap_or(false);
    app.desk.probed(engine, is_good, app.clock.now_ns());
    if !is_good {
        app.counts.failed(&upstream.name, "health");
        return;
    }
    if let Ok(Some(text)) = tokio::time::timeout(time, upstream.metrics()).await {
        app.desk.told(engine, gauges::read(&text));
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
