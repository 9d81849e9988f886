//! Ceilings of the device that a run's kernels were measured on.

use super::RunData;
use crate::kernel::roofline::flop_per_clock;

/// Arithmetic that a device could do at most, in units of 1e9 operations a second: SMs x highest clock x operations a clock of
/// fp16 tensor cores, as the driver and the data sheets state them. `None` for a CPU and for an architecture without a published
/// figure here.
///
/// # Errors
/// A column that is missing or of another type.
pub fn peak_gflop_per_s(data: &RunData) -> anyhow::Result<Option<f64>> {
    let backends = data.kernels.column("backend")?.str()?;
    let sms = data.kernels.column("n_sm")?.i64()?;
    let clocks = data.kernels.column("sm_clock_max_mhz")?.f64()?;
    let rows = backends.iter().zip(sms.iter()).zip(clocks.iter());
    let mut peaks = rows.filter_map(|((backend, sm), mhz)| {
        // MHz x operations a clock = 1e6 operations a second.
        Some(flop_per_clock(backend?)? * sm? as f64 * mhz? * 1e6 / 1e9)
    });
    Ok(peaks.next())
}
