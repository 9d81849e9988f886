//! When a frame may be drawn. A thread draws when it likes while no launch is timed; while launches are, it draws only when
//! the measuring thread lets it, between two rounds, and that thread waits until the frame is done.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Who may do what.
#[derive(Debug, Default)]
struct Right {
    timing: bool,
    /// The measuring thread waits for a frame.
    between: bool,
    drawing: bool,
    ended: bool,
}

/// What the drawing thread is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Draw, and call [`Pen::put`].
    Draw,
    /// Not now.
    Pass,
    /// The run is over.
    End,
}

/// The right to draw, between the thread that measures and the one that draws.
#[derive(Debug)]
pub(super) struct Pen {
    right: Mutex<Right>,
    changed: Condvar,
    longest: Duration,
}

impl Pen {
    /// A pen for frames that measuring awaits for at most `longest`: a terminal that takes no text must not stop a run.
    pub(super) fn new(longest: Duration) -> Self {
        Self { right: Mutex::default(), changed: Condvar::new(), longest }
    }

    /// For the drawing thread: sleeps for a period, less where it is let draw or told to end.
    pub(super) fn take(&self, period: Duration) -> Turn {
        let waited = self
            .changed
            .wait_timeout_while(self.right(), period, |right| !right.ended && !right.between);
        let mut right = waited.unwrap_or_else(PoisonError::into_inner).0;
        if right.ended {
            return Turn::End;
        }
        if right.timing && !right.between {
            return Turn::Pass;
        }
        (right.drawing, right.between) = (true, false);
        Turn::Draw
    }

    /// For the drawing thread: the frame is done.
    pub(super) fn put(&self) {
        self.right().drawing = false;
        self.changed.notify_all();
    }

    /// For the measuring thread: launches are timed from now on, or not any more. Waits for the frame that is being drawn.
    pub(super) fn timing(&self, on: bool) {
        let mut right = self.right();
        right.timing = on;
        if on {
            drop(self.settled(right));
        }
    }

    /// For the measuring thread, between two rounds: lets a frame be drawn and waits for it.
    pub(super) fn between(&self) {
        let mut right = self.right();
        if !right.timing || right.ended {
            return;
        }
        right.between = true;
        self.changed.notify_all();
        // A thread that did not come in time may not come in the middle of the next round.
        self.settled(right).between = false;
    }

    /// No more frames.
    pub(super) fn end(&self) {
        self.right().ended = true;
        self.changed.notify_all();
    }

    fn settled<'a>(&'a self, right: MutexGuard<'a, Right>) -> MutexGuard<'a, Right> {
        let busy = |right: &mut Right| !right.ended && (right.drawing || right.between);
        self.changed
            .wait_timeout_while(right, self.longest, busy)
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }

    fn right(&self) -> MutexGuard<'_, Right> {
        self.right.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

    use super::*;

    /// Longer than any machine lets a thread wait.
    const PATIENT: Duration = Duration::from_secs(600);

    /// A frame that is drawn while a launch is timed, whatever the threads' order.
    #[test]
    fn no_frame_is_drawn_while_a_launch_is_timed() {
        let (pen, timed) = (Pen::new(PATIENT), AtomicBool::new(false));
        let (frames, disturbed) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let draw = || {
            let before = timed.load(SeqCst);
            std::thread::yield_now();
            disturbed.fetch_add(usize::from(before || timed.load(SeqCst)), SeqCst);
            frames.fetch_add(1, SeqCst);
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                loop {
                    match pen.take(Duration::from_micros(50)) {
                        Turn::Draw => {
                            draw();
                            pen.put();
                        }
                        Turn::Pass => {}
                        Turn::End => break,
                    }
                }
            });
            for _ in 0..20 {
                pen.timing(true);
                for round in 0..20 {
                    timed.store(true, SeqCst);
                    std::thread::yield_now();
                    timed.store(false, SeqCst);
                    if round % 3 == 0 {
                        pen.between();
                    }
                }
                pen.timing(false);
            }
            pen.end();
        });
        assert!(frames.load(SeqCst) > 0);
        assert_eq!(disturbed.load(SeqCst), 0);
    }

    #[test]
    fn a_frame_between_rounds_is_done_when_measuring_goes_on() {
        let (pen, frames) = (Pen::new(PATIENT), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            pen.timing(true);
            scope.spawn(|| {
                while pen.take(Duration::from_secs(60)) != Turn::End {
                    frames.fetch_add(1, SeqCst);
                    pen.put();
                }
            });
            pen.between();
            assert_eq!(frames.load(SeqCst), 1);
            pen.end();
        });
    }

    #[test]
    fn nobody_who_draws_stops_nothing() {
        let pen = Pen::new(Duration::ZERO);
        pen.timing(true);
        pen.between();
        assert_eq!(pen.take(Duration::ZERO), Turn::Pass);
        pen.timing(false);
        assert_eq!(pen.take(Duration::ZERO), Turn::Draw);
        pen.put();
        pen.end();
        assert_eq!(pen.take(Duration::ZERO), Turn::End);
    }
}
