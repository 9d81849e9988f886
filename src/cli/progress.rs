//! Progress on stderr: bars on a terminal, the whole terminal with `--tui`, a line a block elsewhere, nothing with `-q`.

use std::sync::{Mutex, PoisonError};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{
    tui::{self, Live, Subject},
    ui::Ui,
};
use crate::{
    execute::{Observer, engine::Keys, run::n_blocks},
    plan::Cell,
    record::{Manifest, Row},
    units::harmless,
};

/// How a run is shown.
pub(super) enum View {
    /// Bars, or a line a block.
    Bars(Bars),
    /// The whole terminal.
    Live(Live),
}

impl View {
    /// The live view where it is wanted and can be, else bars; says so where it cannot.
    ///
    /// # Errors
    /// It is wanted together with `-q`, or the terminal refuses.
    pub(super) fn open(tui: bool, ui: Ui, subject: Subject<'_>) -> anyhow::Result<Self> {
        let n_blocks = n_blocks(subject.cells, subject.finished) as u64;
        if !tui {
            return Ok(View::Bars(Bars::new(ui, n_blocks)));
        }
        if let Some(why) = tui::hindrance() {
            ui.note(&format!(
                "note: --tui needs a terminal, and {why}: progress is told as without it"
            ));
            return Ok(View::Bars(Bars::new(ui, n_blocks)));
        }
        Ok(View::Live(Live::open(ui, subject)?))
    }

    fn observer(&self) -> &dyn Observer {
        match self {
            View::Bars(bars) => bars,
            View::Live(live) => live,
        }
    }
}

/// Draws progress and keeps notices for the manifest, without the keys that servers may repeat.
pub(super) struct Watcher {
    keys: Keys,
    view: View,
    notices: Mutex<Vec<String>>,
}

impl Watcher {
    /// Hands what it hears to `view`.
    pub(super) fn new(view: View, keys: Keys) -> Self {
        Self { keys, view, notices: Mutex::new(Vec::new()) }
    }

    /// Takes the view away.
    pub(super) fn finish(&self) {
        match &self.view {
            View::Bars(bars) => bars.finish(),
            View::Live(live) => live.finish(),
        }
    }

    /// Adds what was told to the manifest's notices.
    pub(super) fn note_in(&self, manifest: &mut Manifest) {
        for notice in self.notices.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if !manifest.notices.contains(notice) {
                manifest.notices.push(notice.clone());
            }
        }
    }
}

impl Observer for Watcher {
    fn block_started(&self, label: &str) {
        self.view.observer().block_started(label);
    }

    fn cells_started(&self, cells: &[&Cell]) {
        self.view.observer().cells_started(cells);
    }

    fn row(&self, row: &Row) {
        self.view.observer().row(row);
    }

    fn cells_finished(&self, cell_ids: &[&str]) {
        self.view.observer().cells_finished(cell_ids);
    }

    fn timing(&self, on: bool) {
        self.view.observer().timing(on);
    }

    fn progress(&self, done: u64, total: u64) {
        self.view.observer().progress(done, total);
    }

    fn status(&self, text: &str) {
        self.view.observer().status(text);
    }

    fn block_finished(&self, n_cells: usize, failed: usize) {
        self.view.observer().block_finished(n_cells, failed);
    }

    fn notice(&self, text: &str) {
        let text = &self.keys.redact(text);
        let mut notices = self.notices.lock().unwrap_or_else(PoisonError::into_inner);
        if !notices.contains(text) {
            notices.push(text.clone());
            self.view.observer().notice(text);
        }
    }
}

/// Bars, or a line a block.
pub(super) struct Bars {
    ui: Ui,
    blocks: ProgressBar,
    inner: Mutex<Inner>,
}

struct Inner {
    label: String,
    n_blocks: u64,
    done: u64,
}

impl Bars {
    /// Bars over `n_blocks` blocks.
    pub(super) fn new(ui: Ui, n_blocks: u64) -> Self {
        let target =
            if ui.progress { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let blocks = ProgressBar::with_draw_target(Some(n_blocks), target);
        let style = ProgressStyle::with_template(
            "{bar:30} {pos}/{len} blocks  {elapsed} elapsed, {eta} left  {wide_msg}",
        );
        if let Ok(style) = style {
            blocks.set_style(style);
        }
        Self { ui, blocks, inner: Mutex::new(Inner { label: String::new(), n_blocks, done: 0 }) }
    }

    /// Takes the bar away.
    pub(super) fn finish(&self) {
        self.blocks.finish_and_clear();
    }

    fn line(&self, text: &str) {
        self.blocks.suspend(|| self.ui.note(text));
    }

    fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        // A poisoned lock only means that a drawing thread died; the counters are still good.
        act(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Observer for Bars {
    fn block_started(&self, label: &str) {
        self.blocks.set_message(harmless(label));
        self.with(|inner| label.clone_into(&mut inner.label));
    }

    fn progress(&self, done: u64, total: u64) {
        let label = self.with(|inner| inner.label.clone());
        self.blocks.set_message(format!("{label} ({done}/{total})"));
    }

    fn status(&self, text: &str) {
        // It holds the last line of an engine's log.
        self.blocks.set_message(harmless(text));
    }

    fn block_finished(&self, n_cells: usize, failed: usize) {
        let (label, done, n_blocks) = self.with(|inner| {
            inner.done += 1;
            (inner.label.clone(), inner.done, inner.n_blocks)
        });
        self.blocks.inc(1);
        let outcome = if failed == 0 {
            format!("{n_cells} cells")
        } else {
            format!("{failed} of {n_cells} cells FAILED")
        };
        if failed > 0 || !self.ui.progress {
            self.line(&format!("[{done}/{n_blocks}] {label}: {outcome}"));
        }
    }

    fn notice(&self, text: &str) {
        self.line(&format!("note: {text}"));
    }
}
