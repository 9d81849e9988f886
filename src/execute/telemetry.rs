//! Samples the machine on a thread of its own: NVML where there is an NVIDIA driver, else the host's CPU and memory.
//!
//! Rows wait in a shared buffer that the run loop drains into its sink ([`Telemetry::drain`]), so that the thread never
//! touches a file. What sampling costs is measured and returned by [`Telemetry::stop`] for the manifest.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use nvml_wrapper::{
    Nvml,
    bitmasks::device::ThrottleReasons,
    enum_wrappers::device::{Clock as NvmlClock, TemperatureSensor},
};

use crate::{
    execute::clock::{Clock, now},
    record::TelemetryRow,
};

/// Longest time between looks at the channel: a very low rate still stops at once through it, this only bounds rates
/// that are no number.
const LONGEST_PERIOD_S: f64 = 3600.0;

/// What sampling cost.
#[derive(Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize)]
pub struct Overhead {
    /// `nvml` or `sysinfo`.
    pub source: String,
    /// Why the source is not NVML; `None` where it is.
    pub nvml_error: Option<String>,
    /// Rate asked for.
    pub rate_hz: f64,
    /// Times the machine was read.
    pub samples: u64,
    /// Mean wall time of one reading; `None` before the first.
    pub sample_ns_mean: Option<f64>,
    /// Longest reading.
    pub sample_ns_max: Option<u64>,
    /// Wall time spent reading as a part of one core: an upper bound of its CPU share.
    pub core_share: Option<f64>,
    /// Due times that had passed before the previous reading ended, and were left out.
    pub missed: u64,
}

/// A running sampler.
#[derive(Debug)]
pub struct Telemetry {
    rows: Arc<Mutex<Vec<TelemetryRow>>>,
    stop: mpsc::Sender<()>,
    thread: JoinHandle<Overhead>,
}

/// A look at a running sampler for who shows how the machine is.
#[derive(Debug, Clone)]
pub struct Peek(Arc<Mutex<Vec<TelemetryRow>>>);

impl Peek {
    /// The rows of the newest reading, one a device; empty where all rows were drained since.
    pub fn newest(&self) -> Vec<TelemetryRow> {
        let rows = locked(&self.0);
        let newest = rows.last().map(|row| row.t_ns);
        let first = rows.partition_point(|row| Some(row.t_ns) < newest);
        rows[first..].to_vec()
    }
}

/// Something that can be read: one row a device.
trait Probe {
    fn name(&self) -> &'static str;
    fn read(&mut self) -> Vec<TelemetryRow>;
}

impl Telemetry {
    /// Starts the thread at `rate_hz` readings a second.
    ///
    /// # Errors
    /// The thread cannot be started, or `rate_hz` is not a positive number.
    pub fn start(run_id: &str, rate_hz: f64, clock: Clock) -> anyhow::Result<Self> {
        anyhow::ensure!(
            rate_hz.is_finite() && rate_hz > 0.0,
            "telemetry_hz: expected a positive number, got {rate_hz}"
        );
        let rows = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = mpsc::channel();
        let shared = Arc::clone(&rows);
        let run_id = run_id.to_owned();
        let body = move || {
            let (mut probe, nvml_error) = open();
            let mut overhead = sample(probe.as_mut(), &run_id, rate_hz, clock, &shared, &stopped);
            overhead.nvml_error = nvml_error;
            overhead
        };
        let thread = std::thread::Builder::new().name("telemetry".to_owned()).spawn(body)?;
        Ok(Self { rows, stop, thread })
    }

    /// Looks at the newest reading without taking it.
    pub fn peek(&self) -> Peek {
        Peek(Arc::clone(&self.rows))
    }

    /// Takes the rows since the last call.
    pub fn drain(&self) -> Vec<TelemetryRow> {
        std::mem::take(&mut *locked(&self.rows))
    }

    /// Ends the thread; returns the last rows and what sampling cost.
    ///
    /// # Errors
    /// The thread panicked.
    pub fn stop(self) -> anyhow::Result<(Vec<TelemetryRow>, Overhead)> {
        // A closed channel ends the thread as a message would, also when it has ended already.
        drop(self.stop);
        let overhead =
            self.thread.join().map_err(|_| anyhow::anyhow!("telemetry: its thread panicked"))?;
        let rows = std::mem::take(&mut *locked(&self.rows));
        Ok((rows, overhead))
    }
}

/// A panic while the lock was held cannot leave a half row behind.
/// What a GPU was doing right after a sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GpuState {
    /// SM clock.
    pub sm_clock_mhz: Option<f64>,
    /// Board power.
    pub power_w: Option<f64>,
    /// Whether heat, the power brake or the hardware slowed it down. The software power cap is not counted: under it a
    /// GPU runs as it always will at this load.
    pub throttled: bool,
}

/// Reads the first GPU between samples; the sampling thread has a handle of its own.
pub struct NvmlState(Nvml);

impl NvmlState {
    /// `None` where there is no NVML or no device.
    pub fn first() -> Option<Self> {
        let nvml = Nvml::init().ok()?;
        nvml.device_by_index(0).ok()?;
        Some(Self(nvml))
    }

    /// Clock, power and throttling now.
    pub fn read(&self) -> Option<GpuState> {
        let device = self.0.device_by_index(0).ok()?;
        let slowed = ThrottleReasons::HW_SLOWDOWN
            | ThrottleReasons::HW_THERMAL_SLOWDOWN
            | ThrottleReasons::SW_THERMAL_SLOWDOWN
            | ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN;
        let reasons = device.current_throttle_reasons().ok()?;
        Some(GpuState {
            sm_clock_mhz: device.clock_info(NvmlClock::SM).ok().map(f64::from),
            power_w: device.power_usage().ok().map(|mw| f64::from(mw) / 1000.0),
            throttled: reasons.intersects(slowed),
        })
    }
}

fn locked(rows: &Mutex<Vec<TelemetryRow>>) -> MutexGuard<'_, Vec<TelemetryRow>> {
    rows.lock().unwrap_or_else(PoisonError::into_inner)
}

/// NVML if it works and sees a device, else the host and the reason.
fn open() -> (Box<dyn Probe>, Option<String>) {
    let gpu = Nvml::init().and_then(|nvml| nvml.device_count().map(|count| (nvml, count)));
    match gpu {
        Ok((nvml, count)) if count > 0 => (Box::new(Gpus { nvml, count }), None),
        Ok(_) => (Box::new(Host::new()), Some("NVML sees no device".to_owned())),
        Err(error) => (Box::new(Host::new()), Some(error.to_string())),
    }
}

fn sample(
    probe: &mut dyn Probe,
    run_id: &str,
    rate_hz: f64,
    clock: Clock,
    rows: &Mutex<Vec<TelemetryRow>>,
    stopped: &mpsc::Receiver<()>,
) -> Overhead {
    let period = Duration::from_secs_f64((1.0 / rate_hz).clamp(1e-4, LONGEST_PERIOD_S));
    let mut overhead = Overhead { source: probe.name().to_owned(), rate_hz, ..Overhead::default() };
    let began = now();
    let mut reading = Duration::ZERO;
    let mut due = began + period;
    while stopped.recv_timeout(due.saturating_duration_since(now()))
        == Err(mpsc::RecvTimeoutError::Timeout)
    {
        let start = now();
        let mut read = probe.read();
        let took = start.elapsed();
        for row in &mut read {
            row.run_id = run_id.to_owned();
            row.t_ns = clock.at_ns(start);
            row.source = probe.name().to_owned();
        }
        locked(rows).append(&mut read);
        reading += took;
        overhead.samples += 1;
        overhead.sample_ns_max = overhead.sample_ns_max.max(u64::try_from(took.as_nanos()).ok());
        overhead.missed += skip_missed(&mut due, period, now());
    }
    if overhead.samples > 0 {
        overhead.sample_ns_mean = Some(reading.as_nanos() as f64 / overhead.samples as f64);
        overhead.core_share = Some(reading.as_secs_f64() / began.elapsed().as_secs_f64());
    }
    overhead
}

/// Moves `due` to the next multiple of the period after `at`; returns how many were passed over.
fn skip_missed(due: &mut Instant, period: Duration, at: Instant) -> u64 {
    *due += period;
    let late = at.saturating_duration_since(*due);
    let missed = u32::try_from(late.as_nanos().div_ceil(period.as_nanos())).unwrap_or(u32::MAX);
    *due += period * missed;
    u64::from(missed)
}

struct Gpus {
    nvml: Nvml,
    count: u32,
}

impl Probe for Gpus {
    fn name(&self) -> &'static str {
        "nvml"
    }

    fn read(&mut self) -> Vec<TelemetryRow> {
        (0..self.count).filter_map(|index| self.gpu(index)).collect()
    }
}

impl Gpus {
    /// A device that fell off the bus has no row; a field it does not know is `None`.
    fn gpu(&self, index: u32) -> Option<TelemetryRow> {
        let gpu = self.nvml.device_by_index(index).ok()?;
        let util = gpu.utilization_rates().ok();
        let name = gpu.name().unwrap_or_else(|_| "NVIDIA".to_owned());
        Some(TelemetryRow {
            device: format!("{index}: {name}"),
            power_w: gpu.power_usage().ok().map(|mw| f64::from(mw) / 1e3),
            energy_j: gpu.total_energy_consumption().ok().map(|mj| mj as f64 / 1e3),
            sm_util_pct: util.as_ref().map(|util| f64::from(util.gpu)),
            mem_util_pct: util.as_ref().map(|util| f64::from(util.memory)),
            mem_used_bytes: gpu.memory_info().ok().and_then(|info| i64::try_from(info.used).ok()),
            sm_clock_mhz: gpu.clock_info(NvmlClock::SM).ok().map(f64::from),
            temp_c: gpu.temperature(TemperatureSensor::Gpu).ok().map(f64::from),
            throttle: gpu.current_throttle_reasons().ok().map(throttle),
            ..TelemetryRow::default()
        })
    }
}

/// Names of the reasons, joined by `|`.
fn throttle(reasons: ThrottleReasons) -> String {
    let names: Vec<String> =
        reasons.iter_names().map(|(name, _)| name.to_ascii_lowercase()).collect();
    names.join("|")
}

struct Host {
    system: sysinfo::System,
}

impl Host {
    /// The first reading of the CPU only starts its interval.
    fn new() -> Self {
        let mut system = sysinfo::System::new();
        system.refresh_cpu_usage();
        Self { system }
    }
}

impl Probe for Host {
    fn name(&self) -> &'static str {
        "sysinfo"
    }

    fn read(&mut self) -> Vec<TelemetryRow> {
        self.system.refresh_cpu_usage();
        self.system.refresh_memory();
        let cpu = f64::from(self.system.global_cpu_usage());
        vec![TelemetryRow {
            device: "host".to_owned(),
            host_cpu_pct: cpu.is_finite().then_some(cpu),
            mem_used_bytes: i64::try_from(self.system.used_memory()).ok().filter(|&used| used > 0),
            ..TelemetryRow::default()
        }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ends the sampling itself after so many readings: no test waits for a clock.
    struct Counted {
        left: u32,
        stop: Option<mpsc::Sender<()>>,
    }

    impl Probe for Counted {
        fn name(&self) -> &'static str {
            "fake"
        }
        fn read(&mut self) -> Vec<TelemetryRow> {
            self.left -= 1;
            if self.left == 0 {
                drop(self.stop.take());
            }
            vec![TelemetryRow::default(), TelemetryRow::default()]
        }
    }

    #[test]
    fn each_reading_is_a_row_a_device_and_is_counted() {
        let (stop, stopped) = mpsc::channel();
        let mut probe = Counted { left: 3, stop: Some(stop) };
        let rows = Mutex::new(Vec::new());
        let overhead = sample(&mut probe, "r", 1000.0, Clock::start(), &rows, &stopped);
        let rows = rows.into_inner().unwrap();
        assert_eq!((rows.len(), overhead.samples), (6, 3));
        assert!(rows.iter().all(|row| row.source == "fake" && row.run_id == "r"));
        assert!(rows.windows(2).all(|pair| pair[0].t_ns <= pair[1].t_ns));
        assert!(overhead.sample_ns_mean.is_some() && overhead.core_share.is_some());
    }

    #[test]
    fn a_peek_takes_nothing_and_shows_each_device_once() {
        let row = |t_ns, device: &str| TelemetryRow {
            t_ns,
            device: device.to_owned(),
            ..TelemetryRow::default()
        };
        let rows = vec![row(1, "0"), row(1, "1"), row(2, "0"), row(2, "1")];
        let peek = Peek(Arc::new(Mutex::new(rows.clone())));
        assert_eq!(peek.newest(), rows[2..]);
        assert_eq!(peek.newest(), rows[2..]);
        locked(&peek.0).clear();
        assert_eq!(peek.newest(), []);
    }

    #[test]
    fn nothing_read_is_unknown_not_zero() {
        let (stop, stopped) = mpsc::channel::<()>();
        drop(stop);
        let mut probe = Counted { left: 1, stop: None };
        let rows = Mutex::new(Vec::new());
        let overhead = sample(&mut probe, "r", 1.0, Clock::start(), &rows, &stopped);
        assert_eq!(
            (overhead.samples, overhead.sample_ns_mean, overhead.core_share),
            (0, None, None)
        );
    }

    #[test]
    fn missed_due_times_are_left_out_not_made_up_for() {
        let began = now();
        let period = Duration::from_millis(10);
        let mut due = began;
        assert_eq!(skip_missed(&mut due, period, began), 0);
        assert_eq!(due, began + period);
        assert_eq!(skip_missed(&mut due, period, began + Duration::from_millis(45)), 3);
        assert_eq!(due, began + Duration::from_millis(50));
    }

    #[test]
    fn a_rate_that_is_no_rate_is_refused() {
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(Telemetry::start("r", rate, Clock::start()).is_err());
        }
    }

    #[test]
    fn the_real_thread_starts_and_stops() {
        let telemetry = Telemetry::start("r", 1e-3, Clock::start()).unwrap();
        let (rows, overhead) = telemetry.stop().unwrap();
        assert!(rows.is_empty());
        assert!(["nvml", "sysinfo"].contains(&overhead.source.as_str()));
    }

    #[test]
    fn throttle_reasons_have_names() {
        assert_eq!(throttle(ThrottleReasons::empty()), "");
        let both = ThrottleReasons::SW_POWER_CAP | ThrottleReasons::HW_SLOWDOWN;
        assert_eq!(throttle(both), "sw_power_cap|hw_slowdown");
    }
}
