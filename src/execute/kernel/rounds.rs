//! The clock around the launches: warm-up, rounds, samples.

use rayon::ThreadPool;

use super::{ReadState, order::order, stop::StopRule};
use crate::{
    execute::{Context, clock::now, telemetry::GpuState},
    kernel::Kernel,
    record::{KernelRow, Row},
    scenario::Timing,
};

/// A launch shorter than this is repeated inside the timed window, so that reading the clock (tens of nanoseconds)
/// and entering the pool stay below about a percent of what is timed.
const SHORTEST_WINDOW_NS: i64 = 20_000;
/// The same for a device: its events tell half a microsecond, which must be well below a percent.
const EVENT_WINDOW_NS: i64 = 200_000;
/// Whose clock a sample is by.
const DEVICE: &str = "device";
/// Most launches in one window.
const MOST_LAUNCHES: i64 = 64;

/// Most throttled samples of a cell that are thrown away: beyond, the GPU is as slow as it will stay, and its samples are
/// kept. Every row says how many were discarded before it.
const MOST_DISCARDED: i64 = 100;

/// A verified kernel that takes part in the rounds.
pub(super) struct Entrant<'a> {
    pub(super) kernel: &'a mut dyn Kernel,
    /// Row without sample and times.
    pub(super) template: KernelRow,
    /// Samples that the cell has already, from earlier steps.
    pub(super) taken: i64,
    copy: usize,
    launches: i64,
    discarded: i64,
    /// A launch failed: it takes part no more.
    failed: bool,
}

impl<'a> Entrant<'a> {
    /// `taken` samples of this cell exist already.
    pub(super) fn new(kernel: &'a mut dyn Kernel, template: KernelRow, taken: i64) -> Self {
        Self { kernel, template, taken, copy: 0, launches: 1, discarded: 0, failed: false }
    }
}

/// One timed window.
struct Sample {
    t_ns: i64,
    /// Per launch.
    duration_ns: i64,
    /// Per launch, all threads of the pool.
    thread_cpu_ns: Option<i64>,
    timer: &'static str,
    state: Option<GpuState>,
}

/// Where launches run and what tells the state of the device.
type Place<'a> = (&'a ThreadPool, Option<&'a ReadState>);

/// Samples all entrants until the stop rule ends it. Those from `n_judged` on are probes: sampled in every round, without a
/// say in when to stop. An entrant whose launch fails becomes a row with `err`; the others go on. Returns whether it came
/// to its end (`false`: the stop flag was raised).
pub(super) fn sample_all(
    entrants: &mut [Entrant<'_>],
    n_judged: usize,
    (timing, repeat): (Timing, u32),
    place: Place<'_>,
    context: &mut Context<'_>,
) -> anyhow::Result<bool> {
    let total = timing.max_samples as u64;
    let mut rule = StopRule::new(timing, n_judged);
    warm_up(entrants, timing, repeat, place, context)?;
    let started = now();
    for round in 0.. {
        let mut rows = Vec::with_capacity(entrants.len());
        for index in order(entrants.len(), round, repeat) {
            if context.stop.is_raised() {
                push(rows, context)?;
                return Ok(false);
            }
            if entrants[index].failed {
                continue;
            }
            match kept_sample(&mut entrants[index], place, context) {
                Ok(sample) => {
                    if index < n_judged {
                        rule.add(index, sample.duration_ns);
                    }
                    rows.push(row(&mut entrants[index], sample));
                }
                Err(error) => rows.push(drop_out(&mut entrants[index], &error)),
            }
        }
        push(rows, context)?;
        context.observer.progress(round as u64 + 1, total);
        let judged = &entrants[..n_judged];
        if judged.iter().all(|entrant| entrant.failed) {
            break;
        }
        rule.leave_out(|index| judged[index].failed);
        if rule.verdict(started.elapsed().as_secs_f64()).is_some() {
            break;
        }
    }
    Ok(true)
}

/// A sample that was not throttled, or the first that may not be thrown away any more.
fn kept_sample(
    entrant: &mut Entrant<'_>,
    place: Place<'_>,
    context: &Context<'_>,
) -> anyhow::Result<Sample> {
    loop {
        let sample = take(entrant, place, context)?;
        let throttled = sample.state.is_some_and(|state| state.throttled);
        if !throttled || entrant.discarded >= MOST_DISCARDED || context.stop.is_raised() {
            return Ok(sample);
        }
        entrant.discarded += 1;
    }
}

/// The row of a kernel whose launch failed.
fn drop_out(entrant: &mut Entrant<'_>, error: &anyhow::Error) -> KernelRow {
    entrant.failed = true;
    let template = KernelRow { n_discarded: entrant.discarded, ..entrant.template.clone() };
    super::row::failure(template, format!("{error:#}"))
}

/// Untimed rounds, at least one; they also show which kernels are so short that they need several launches a sample. The
/// window is fixed here, so that a device's graph is made once.
fn warm_up(
    entrants: &mut [Entrant<'_>],
    timing: Timing,
    repeat: u32,
    place: Place<'_>,
    context: &mut Context<'_>,
) -> anyhow::Result<()> {
    for round in 0..timing.warmup.max(1) {
        for index in order(entrants.len(), round, repeat) {
            if context.stop.is_raised() {
                return Ok(());
            }
            let entrant = &mut entrants[index];
            if entrant.failed {
                continue;
            }
            entrant.launches = 1;
            match take(entrant, place, context) {
                Ok(sample) => {
                    let shortest =
                        if sample.timer == DEVICE { EVENT_WINDOW_NS } else { SHORTEST_WINDOW_NS };
                    let wanted = shortest / sample.duration_ns.max(1) + 1;
                    entrant.launches = wanted.clamp(1, MOST_LAUNCHES);
                }
                Err(error) => {
                    let row = drop_out(entrant, &error);
                    context.sink.row(Row::Kernel(row))?;
                }
            }
        }
    }
    Ok(())
}

/// One sample. Nothing but the launches lies between the two looks at the clock; threads are asked for their CPU time
/// outside, which also wakes them, and so is the device for its state.
fn take(
    entrant: &mut Entrant<'_>,
    (pool, state): Place<'_>,
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
    let (cpu_after, state) = (pool_cpu_ns(pool), state.and_then(|read| read()));
    entrant.copy = (first + launches as usize) % entrant.kernel.copies().max(1);
    let host_ns = i64::try_from((end - start).as_nanos()).unwrap_or(i64::MAX);
    let device_ns = device_ns?;
    Ok(Sample {
        t_ns: context.clock.at_ns(start),
        duration_ns: device_ns.unwrap_or(host_ns) / launches,
        thread_cpu_ns: cpu_before
            .zip(cpu_after)
            .filter(|_| device_ns.is_none())
            .map(|(before, after)| (after - before) / launches),
        timer: if device_ns.is_some() { DEVICE } else { "host" },
        state,
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
        launches: Some(entrant.launches),
        timer: sample.timer.to_owned(),
        sm_clock_mhz: sample.state.and_then(|state| state.sm_clock_mhz),
        power_w: sample.state.and_then(|state| state.power_w),
        n_discarded: entrant.discarded,
        ..entrant.template.clone()
    }
}

fn push(rows: Vec<KernelRow>, context: &mut Context<'_>) -> anyhow::Result<()> {
    rows.into_iter().try_for_each(|row| context.sink.row(Row::Kernel(row)))
}
