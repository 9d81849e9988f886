//! The receiving threads: each has a runtime of its own, and a connection stays on the thread that opened it.
//!
//! One thread is filled before the next is used. Measured on 2 cores at 1000 streams of 20 tokens per second: two threads
//! cost a fifth more CPU per event than one, because each sleeps and wakes by itself, and they took that CPU from the
//! server beside them. At 15 us per event a full thread is a third busy at that rate.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};

use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
};

/// Streams that a thread is given while another is unused.
const STREAMS_PER_SHARD: usize = 1024;

/// Most threads: more would take cores from a server on the same machine.
const SHARDS_MAX: usize = 4;

/// The threads; they end when dropped.
pub(super) struct Shards {
    shards: Vec<Shard>,
    /// Streams of a thread before the next one is used.
    fill: usize,
}

struct Shard {
    handle: Handle,
    streams: Arc<AtomicUsize>,
    cpu_clock: libc::clockid_t,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// A stream that counts for its thread until this is dropped.
pub(super) struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The receiving threads are being blocked while this lives.
pub(super) struct Starving {
    _on: Arc<()>,
}

impl Shards {
    /// A thread for each core, at most [`SHARDS_MAX`], or as many as asked for: then all are used alike.
    pub(super) fn start(asked: Option<usize>) -> anyhow::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let shards = (0..asked.unwrap_or(cores.min(SHARDS_MAX))).map(|_| Shard::start());
        let fill = if asked.is_some() { 0 } else { STREAMS_PER_SHARD };
        Ok(Self { shards: shards.collect::<Result<_, _>>()?, fill })
    }

    pub(super) fn len(&self) -> usize {
        self.shards.len()
    }

    /// The thread for another stream, and its place there.
    pub(super) fn place(&self) -> (usize, Place) {
        let count = |shard: &Shard| shard.streams.load(Ordering::Relaxed);
        let room = self.shards.iter().position(|shard| count(shard) < self.fill);
        let least = || (0..self.shards.len()).min_by_key(|i| count(&self.shards[*i]));
        let index = room.or_else(least).unwrap_or(0);
        let streams = self.shards[index].streams.clone();
        streams.fetch_add(1, Ordering::Relaxed);
        (index, Place(streams))
    }

    /// Runs a task on a thread.
    pub(super) fn spawn(&self, index: usize, task: impl Future<Output = ()> + Send + 'static) {
        self.shards[index].handle.spawn(task);
    }

    /// Blocks every thread for `block`, again and again, until the answer is dropped.
    pub(super) fn starve(&self, block: Duration) -> Starving {
        let on = Arc::new(());
        for index in 0..self.len() {
            let off = Arc::downgrade(&on);
            self.spawn(index, async move {
                while off.strong_count() > 0 {
                    std::thread::sleep(block);
                    tokio::task::yield_now().await;
                }
            });
        }
        Starving { _on: on }
    }

    /// CPU time of each thread so far, in seconds.
    pub(super) fn cpu_s(&self) -> Vec<f64> {
        self.shards.iter().map(|shard| clock_s(shard.cpu_clock)).collect()
    }
}

impl Shard {
    fn start() -> anyhow::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel();
        let (clock, clocks) = mpsc::channel();
        let thread = std::thread::Builder::new().name("kvbench-recv".to_owned());
        let thread = thread.spawn(move || {
            // Both ends are held until this thread has ended; should they go early, there is nothing to do but end.
            let _ = clock.send(own_cpu_clock());
            drop(runtime.block_on(ended));
            // Not waiting for a name that is being resolved.
            runtime.shutdown_background();
        })?;
        let cpu_clock = clocks.recv()?;
        Ok(Self {
            handle,
            streams: Arc::default(),
            cpu_clock,
            end: Some(end),
            thread: Some(thread),
        })
    }
}

impl Drop for Shard {
    fn drop(&mut self) {
        // Dropping the sender ends the wait on the other side.
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed by then, and its tasks' outcomes are missed where they are counted.
            drop(thread.join());
        }
    }
}

/// The clock of the calling thread's CPU time, to be read by others while the thread lives.
fn own_cpu_clock() -> libc::clockid_t {
    let mut clock = 0;
    // SAFETY: `pthread_self` names the calling thread, which is alive, and the pointer is to a `clockid_t`.
    let status = unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &raw mut clock) };
    assert_eq!(status, 0, "pthread_getcpuclockid(self) has no way to fail");
    clock
}

fn clock_s(clock: libc::clockid_t) -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a `timespec` that lives through the call.
    let status = unsafe { libc::clock_gettime(clock, &raw mut time) };
    assert_eq!(status, 0, "the thread of this clock is joined only when its shard is dropped");
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_filled_before_the_next_is_used() {
        let shards = (0..2).map(|_| Shard::start().unwrap()).collect();
        let shards = Shards { shards, fill: STREAMS_PER_SHARD };
        let places: Vec<_> = (0..2 * STREAMS_PER_SHARD).map(|_| shards.place()).collect();
        assert!(places[..STREAMS_PER_SHARD].iter().all(|(index, _)| *index == 0));
        assert!(places[STREAMS_PER_SHARD..].iter().all(|(index, _)| *index == 1));
        let more: Vec<_> = (0..4).map(|_| shards.place()).collect();
        assert_eq!(more.iter().filter(|(index, _)| *index == 0).count(), 2, "then evenly");
        drop((places, more));
        assert_eq!(shards.place().0, 0);
    }

    #[test]
    fn threads_that_were_asked_for_are_used_alike() {
        let shards = Shards::start(Some(3)).unwrap();
        let places: Vec<_> = (0..6).map(|_| shards.place()).collect();
        for index in 0..3 {
            assert_eq!(places.iter().filter(|(place, _)| *place == index).count(), 2);
        }
    }

    #[test]
    fn tasks_run_and_threads_end() {
        let shards = Shards::start(None).unwrap();
        let (tx, rx) = mpsc::channel();
        for index in 0..shards.len() {
            let tx = tx.clone();
            shards.spawn(index, async move { tx.send(index).unwrap() });
        }
        drop(tx);
        let mut ran: Vec<usize> = rx.iter().collect();
        ran.sort_unstable();
        assert_eq!(ran, (0..shards.len()).collect::<Vec<_>>());
        assert!(shards.cpu_s().iter().all(|s| *s >= 0.0));
    }
}
