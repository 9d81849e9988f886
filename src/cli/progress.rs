//! Progress on stderr: bars on a terminal, a line a block elsewhere, nothing with `-q`.

use std::sync::Mutex;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::ui::Ui;
use crate::{execute::Observer, units::harmless};

/// Draws what a run tells.
pub struct Progress {
    ui: Ui,
    blocks: ProgressBar,
    inner: Mutex<Inner>,
}

struct Inner {
    label: String,
    n_blocks: u64,
    done: u64,
}

impl Progress {
    /// Progress over `n_blocks` blocks.
    pub fn new(ui: Ui, n_blocks: u64) -> Self {
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
    pub fn finish(&self) {
        self.blocks.finish_and_clear();
    }

    fn line(&self, text: &str) {
        self.blocks.suspend(|| self.ui.note(text));
    }

    fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        // A poisoned lock only means that a drawing thread died; the counters are still good.
        act(&mut self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

impl Observer for Progress {
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
