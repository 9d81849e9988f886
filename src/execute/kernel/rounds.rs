//! The clock around the launches: warm-up, rounds, samples.

use rayon::ThreadPool;

use super::{order::order, stop::StopRule};
use crate::{
    execute::{Context, clock::now},
    kernel::Kernel,
    record::{KernelRow, Row},
    scenario::Timing,
};

/// A launch shorter than this is repeated inside the timed window, so that reading the clock (tens of nanoseconds)
/// and entering the pool stay below about a percent of what is timed.
const SHORTEST_WINDOW_NS: i64 = 20_000;
/// Most launches in one window.
const MOST_LAUNCHES: i64 = 64;

/// A verified kernel that takes part in the rounds.
pub(super) struct Entrant<'a> {
    pub(super) kernel: &'a mut dyn Kernel,
    /// Row without sample and times.
    pub(super) template: KernelRow,
    /// Samples that the cell has already, from earlier steps.
    pub(super) taken: i64,
    copy: usize,
    launches: i64,
}

impl<'a> Entrant<'a> {
    /// `taken` samples of this cell exist already.
    pub(super) fn new(kernel: &'a mut dyn Kernel, template: KernelRow, taken: i64) -> Self {
        Self { kernel, template, taken, copy: 0, launches: 1 }
    }
}

/// One timed window.
struct Sample {
    t_ns: i64,
    /// Per launch.
    duration_ns: i64,
    /// Per launch, all threads of the pool.
    thread_cpu_ns: Option<i64>,
}

/// Samples all entrants until the stop rule ends it. The last entrant may be the probe: it is sampled in every round
/// but has no say in when to stop. Returns whether it came to its end (`false`: the stop flag was raised).
pub(super) fn sample_all(
    entrants: &mut [Entrant<'_>],
    n_judged: usize,
    (timing, repeat): (Timing, u32),
    pool: &ThreadPool,
    context: &mut Context<'_>,
) -> anyhow::Result<bool> {
    let total = timing.max_samples as u64;
    let mut rule = StopRule::new(timing, n_judged);
    warm_up(entrants, timing, repeat, pool, context)?;
    let started = now();
    for round in 0.. {
        let mut rows = Vec::with_capacity(entrants.len());
        for index in order(entrants.len(), round, repeat) {
            if context.stop.is_raised() {
                push(rows, context)?;
                return Ok(false);
            }
            let sample = take(&mut entrants[index], pool, context)?;
            if index < n_judged {
                rule.add(index, sample.duration_ns);
            }
            rows.push(row(&mut entrants[index], sample));
        }
        push(rows, context)?;
        context.observer.progress(round as u64 + 1, total);
        if rule.verdict(started.elapsed().as_secs_f64()).is_some() {
            break;
        }
    }
    Ok(true)
}

/// Untimed rounds, at least one; they also show which kernels are so short that they need several launches a sample.
fn warm_up(
    entrants: &mut [Entrant<'_>],
    timing: Timing,
    repeat: u32,
    pool: &ThreadPool,
    context: &Context<'_>,
) -> anyhow::Result<()> {
    for round in 0..timing.warmup.max(1) {
        for index in order(entrants.len(), round, repeat) {
            if context.stop.is_raised() {
                return Ok(());
            }
            let entrant = &mut entrants[index];
            entrant.launches = 1;
            let sample = take(entrant, pool, context)?;
            let wanted = SHORTEST_WINDOW_NS / sample.duration_ns.max(1) + 1;
            entrant.launches = wanted.clamp(1, MOST_LAUNCHES);
        }
    }
    Ok(())
}

/// One sample. Nothing but the launches lies between the two looks at the clock; threads are asked for their CPU time
/// outside, which also wakes them.
fn take(
    entrant: &mut Entrant<'_>,
    pool: &ThreadPool,
    context: &Context<'_>,
) -> anyhow::Result<Sample> {
    let (first, launches) = (entrant.copy, entrant.launches);
    let kernel = &mut *entrant.kernel;
    let cpu_before = pool_cpu_ns(pool);
    let (start, end, device_ns) = pool.install(|| {
        let start = now();
        let device = kernel.timed(first, launches as usize);
        (start, now(), device)
    });
    let cpu_after = pool_cpu_ns(pool);
    entrant.copy = (first + launches as usize) % entrant.kernel.copies().max(1);
    let window_ns = i64::try_from((end - start).as_nanos()).unwrap_or(i64::MAX);
    Ok(Sample {
        t_ns: context.clock.at_ns(start),
        duration_ns: device_ns?.unwrap_or(window_ns) / launches,
        thread_cpu_ns: cpu_before.zip(cpu_after).map(|(before, after)| (after - before) / launches),
    })
}

/// CPU time of all threads of the pool since they began. Idle spinning of the pool counts as the kernel's: on two
/// cores the work is even and it is small.
fn pool_cpu_ns(pool: &ThreadPool) -> Option<i64> {
    pool.broadcast(|_| thread_cpu_ns()).into_iter().sum()
}

fn thread_cpu_ns() -> Option<i64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec that outlives the call, which writes to nothing else.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    (status == 0).then_some(time.tv_sec * 1_000_000_000 + time.tv_nsec)
}

fn row(entrant: &mut Entrant<'_>, sample: Sample) -> KernelRow {
    let number = entrant.taken;
    entrant.taken += 1;
    KernelRow {
        sample: Some(number),
        t_ns: Some(sample.t_ns),
        duration_ns: Some(sample.duration_ns),
        thread_cpu_ns: sample.thread_cpu_ns,
        ..entrant.template.clone()
    }
}

fn push(rows: Vec<KernelRow>, context: &mut Context<'_>) -> anyhow::Result<()> {
    rows.into_iter().try_for_each(|row| context.sink.row(Row::Kernel(row)))
}
