//! `kvbench run --tui`: the run as it is, on the whole terminal.
//!
//! What is shown is told by the run's [`Observer`] calls through a channel, so that whoever measures never waits for a lock, and is
//! drawn on a thread of its own twice a second. That thread gives way: it has the weakest claim on the processor that does not
//! starve it, and while launches are timed it draws only between two rounds, when nothing is timed ([`pen`]).

mod board;
mod draw;
mod pen;
mod screen;

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::Context as _;
use ratatui::{Terminal, backend::Backend};

use board::{Board, Told};
use pen::{Pen, Turn};

pub(super) use screen::{Aside, restore};

use super::ui::Ui;
use crate::{
    execute::{Observer, StopFlag, clock::Clock, telemetry::Peek},
    plan::Cell,
    record::Row,
    scenario::Timing,
};

/// Between two frames.
const PERIOD: Duration = Duration::from_millis(500);
/// Longest that measuring waits for a frame.
const LONGEST_FRAME: Duration = Duration::from_millis(100);
/// Added to the niceness of the drawing thread.
const NICENESS: libc::c_int = 10;

/// What the view is about.
pub(super) struct Subject<'a> {
    /// Name of the scenario.
    pub(super) title: &'a str,
    /// Folder of the run.
    pub(super) folder: &'a str,
    /// All cells of the run.
    pub(super) cells: &'a [Cell],
    /// Ids of cells that were finished in an earlier sitting.
    pub(super) finished: &'a HashSet<String>,
    /// How kernels are sampled: what the plan's times rest on.
    pub(super) timing: &'a Timing,
    /// The run's clock.
    pub(super) clock: Clock,
    /// Looks at the machine.
    pub(super) peek: Peek,
    /// Whether the run is to stop.
    pub(super) stop: StopFlag,
}

/// Why the view cannot be shown here, if it cannot.
pub(super) fn hindrance() -> Option<&'static str> {
    screen::hindrance()
}

/// The live view; dropping it gives the terminal back.
pub(super) struct Live {
    ui: Ui,
    tell: mpsc::Sender<(i64, Told)>,
    clock: Clock,
    pen: Arc<Pen>,
    /// When the last frame was done.
    drawn_ns: Arc<AtomicI64>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// What is printed when the view has gone, as the bars would have printed it meanwhile.
    lines: Mutex<Vec<String>>,
    label: Mutex<String>,
}

impl Live {
    /// Takes the terminal over and begins to draw.
    ///
    /// # Errors
    /// The terminal refuses, or there is no thread.
    pub(super) fn open(ui: Ui, subject: Subject<'_>) -> anyhow::Result<Self> {
        let (tell, told) = mpsc::channel();
        let pen = Arc::new(Pen::new(LONGEST_FRAME));
        let drawn_ns = Arc::new(AtomicI64::new(i64::MIN));
        let clock = subject.clock;
        let names = (subject.title, subject.folder);
        let began_ns = clock.now_ns();
        let artist = Artist {
            board: Board::new(names, subject.cells, subject.finished, subject.timing, began_ns),
            told,
            peek: subject.peek,
            stop: subject.stop,
            clock,
            color: ui.color,
            pen: Arc::clone(&pen),
            drawn_ns: Arc::clone(&drawn_ns),
        };
        let opened = screen::open();
        let (terminal, keys) = opened.context("--tui: the terminal cannot be taken over")?;
        let thread = std::thread::Builder::new()
            .name("tui".to_owned())
            .spawn(move || artist.work(terminal, keys))
            .inspect_err(|_| restore())
            .context("--tui: no thread to draw on")?;
        Ok(Self {
            ui,
            tell,
            clock,
            pen,
            drawn_ns,
            thread: Mutex::new(Some(thread)),
            lines: Mutex::default(),
            label: Mutex::default(),
        })
    }

    /// Gives the terminal back and prints what is to stay. Again: nothing.
    pub(super) fn finish(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return };
        self.pen.end();
        // It ends by itself where it panicked, and then the panic has been printed.
        drop(thread.join());
        restore();
        let lines = std::mem::take(&mut *self.lines.lock().unwrap_or_else(PoisonError::into_inner));
        lines.iter().for_each(|line| self.ui.note(line));
    }

    fn tell(&self, told: Told) {
        // Nobody listens after a panic of the drawing thread.
        drop(self.tell.send((self.clock.now_ns(), told)));
    }

    /// To be printed at the end, or now where the view was lost to a panic.
    fn line(&self, text: String) {
        if screen::is_active() {
            self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(text);
        } else {
            self.ui.note(&text);
        }
    }

    fn is_due(&self) -> bool {
        let since = self.clock.now_ns().saturating_sub(self.drawn_ns.load(Ordering::Relaxed));
        u128::try_from(since).is_ok_and(|ns| ns >= PERIOD.as_nanos())
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Observer for Live {
    fn block_started(&self, label: &str) {
        label.clone_into(&mut self.label.lock().unwrap_or_else(PoisonError::into_inner));
        self.tell(Told::Block(label.to_owned()));
    }

    fn cells_started(&self, cells: &[&Cell]) {
        let ids = cells.iter().map(|cell| cell.id.clone()).collect();
        self.tell(Told::Cells { ids, kernels: board::are_kernels(cells) });
    }

    fn progress(&self, done: u64, total: u64) {
        self.tell(Told::Progress { done, total });
        if self.is_due() {
            self.pen.between();
        }
    }

    fn status(&self, text: &str) {
        self.tell(Told::Status(text.to_owned()));
    }

    fn row(&self, row: &Row) {
        if let Some(told) = Told::of(row) {
            self.tell(told);
        }
    }

    fn cells_finished(&self, cell_ids: &[&str]) {
        self.tell(Told::Finished(cell_ids.iter().map(|id| (*id).to_owned()).collect()));
    }

    fn timing(&self, on: bool) {
        self.pen.timing(on);
    }

    fn block_finished(&self, n_cells: usize, failed: usize) {
        self.tell(Told::BlockEnded);
        if failed > 0 {
            let label = self.label.lock().unwrap_or_else(PoisonError::into_inner).clone();
            self.line(format!("{label}: {failed} of {n_cells} cells FAILED"));
        }
    }

    fn notice(&self, text: &str) {
        self.tell(Told::Notice(text.to_owned()));
        self.line(format!("note: {text}"));
    }
}

/// Hears, draws, and looks at the keys.
struct Artist {
    board: Board,
    told: mpsc::Receiver<(i64, Told)>,
    peek: Peek,
    stop: StopFlag,
    clock: Clock,
    color: bool,
    pen: Arc<Pen>,
    drawn_ns: Arc<AtomicI64>,
}

impl Artist {
    fn work(mut self, mut terminal: Terminal<screen::Screen>, mut keys: screen::Keys) {
        give_way();
        let mut turn = self.pen.take(Duration::ZERO);
        while turn != Turn::End {
            (0..keys.stops()).for_each(|_| ask_to_stop());
            if turn == Turn::Draw {
                let shown = self.show(&mut terminal);
                self.drawn_ns.store(self.clock.now_ns(), Ordering::Relaxed);
                self.pen.put();
                if !shown {
                    return;
                }
            }
            turn = self.pen.take(PERIOD);
        }
        self.show(&mut terminal);
    }

    /// Whether a frame was drawn: not on a terminal that is gone (SIGHUP stops the run) or was given back.
    fn show<B: Backend>(&mut self, terminal: &mut Terminal<B>) -> bool {
        screen::is_active() && self.frame(terminal).is_ok()
    }

    fn frame<B: Backend>(&mut self, terminal: &mut Terminal<B>) -> Result<(), B::Error> {
        for (t_ns, told) in self.told.try_iter() {
            self.board.hear(told, t_ns);
        }
        let machine = self.peek.newest();
        if !machine.is_empty() {
            self.board.machine = machine;
        }
        self.board.stopping = self.stop.is_raised();
        let now_ns = self.clock.now_ns();
        terminal.draw(|frame| draw::draw(frame, &self.board, now_ns, self.color))?;
        Ok(())
    }
}

/// However it ends, by a panic too, nobody waits for it afterwards.
impl Drop for Artist {
    fn drop(&mut self) {
        self.pen.end();
    }
}

/// On Linux niceness is a thread's. Where it cannot be set, the thread draws as it is.
fn give_way() {
    // SAFETY: changes a number of this thread in the kernel and touches no memory of ours.
    unsafe { libc::nice(NICENESS) };
}

/// What Ctrl-C does at a terminal that is not raw: the one way to stop a run, whoever asks.
fn ask_to_stop() {
    // SAFETY: sends a signal, whose handler `signals::watch` installed before anything was measured.
    unsafe { libc::kill(libc::getpid(), libc::SIGINT) };
}
