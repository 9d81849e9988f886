//! What a kernel could do at best, and what stands in its way. Pure.
//!
//! `t >= max(bytes / bandwidth measured, lane instructions / issue rate, FLOP / peak)`. A method's fraction of its own limit
//! comes before any ratio: a speed-up over a slow baseline says nothing about either.

use crate::units::NS_PER_S;

/// Schedulers of an SM times lanes of a warp: lane instructions issued a clock, on every architecture from Volta on (CUDA
/// Programming Guide, compute capabilities).
const LANES_PER_CLOCK: f64 = 4.0 * 32.0;

/// Below this a launch, and merging the blocks' parts, take longer than the work: on an H100-class GPU graph launches are
/// some two to three microseconds apart and the shortest published decode kernels take seven (TileOPs#2084).
const LAUNCH_BOUND_NS: f64 = 5_000.0;

/// What stands in a kernel's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// Moving its bytes.
    Memory,
    /// Issuing its instructions.
    Issue,
    /// Its tensor-core arithmetic.
    Compute,
    /// Being launched.
    Launch,
}

impl Bound {
    /// As in tables.
    pub fn name(self) -> &'static str {
        match self {
            Bound::Memory => "memory",
            Bound::Issue => "issue",
            Bound::Compute => "compute",
            Bound::Launch => "launch",
        }
    }
}

/// A GPU's rates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Streaming multiprocessors.
    pub n_sm: f64,
    /// SM clock.
    pub clock_hz: f64,
    /// Dense fp16 FLOP of one SM's tensor cores in a clock; `None` for an architecture without a published figure here.
    pub flop_per_clock: Option<f64>,
}

/// Dense fp16 FLOP of one SM in a clock, by backend (`cuda-sm_90a`): 312 TFLOP/s on 108 SM at 1.41 GHz (A100 datasheet) and
/// 989 TFLOP/s on 132 SM at 1.83 GHz (H100 SXM datasheet).
pub fn flop_per_clock(backend: &str) -> Option<f64> {
    match backend.strip_prefix("cuda-sm_")?.trim_end_matches('a') {
        "80" => Some(2048.0),
        "90" => Some(4096.0),
        _ => None,
    }
}

/// What one launch has to do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// Bytes it must move.
    pub bytes: f64,
    /// Bytes per nanosecond that the memory was measured to deliver.
    pub bytes_per_ns: f64,
    /// Lane instructions of its main loop; `None` where they were not counted.
    pub lane_instructions: Option<f64>,
    /// Multiplications and additions.
    pub flops: f64,
}

/// The shortest time that a launch can take, in ns, and why.
pub fn limit(load: Load, rates: Rates) -> (f64, Bound) {
    let memory = load.bytes / load.bytes_per_ns;
    let per_ns = |per_clock: f64| per_clock * rates.n_sm * rates.clock_hz / NS_PER_S;
    let issue = load.lane_instructions.map(|n| n / per_ns(LANES_PER_CLOCK));
    let compute = rates.flop_per_clock.map(|peak| load.flops / per_ns(peak));
    let others = [(issue, Bound::Issue), (compute, Bound::Compute)];
    let (ns, bound) = others
        .into_iter()
        .filter_map(|(ns, bound)| Some((ns?, bound)))
        .fold((memory, Bound::Memory), |most, other| if other.0 > most.0 { other } else { most });
    if ns < LAUNCH_BOUND_NS { (ns, Bound::Launch) } else { (ns, bound) }
}

/// Part of the ideal gain that was captured: `(measured - 1) / (ideal - 1)`. 0 is no gain, 1 is all of it, below 0 is a
/// slow-down. `None` where the ideal is hardly a gain: noise would be divided by almost nothing.
pub fn captured(measured_speedup: f64, ideal_speedup: f64) -> Option<f64> {
    const WORTH_DIVIDING: f64 = 1.05;
    (ideal_speedup > WORTH_DIVIDING).then(|| (measured_speedup - 1.0) / (ideal_speedup - 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// H200 as measured by others: 132 SM at 1.83 GHz, 4.3 bytes a picosecond.
    const H200: Rates = Rates { n_sm: 132.0, clock_hz: 1.83e9, flop_per_clock: Some(4096.0) };

    fn load(bytes: f64, lane_instructions: f64, flops: f64) -> Load {
        let lane_instructions = Some(lane_instructions);
        Load { bytes, bytes_per_ns: 4300.0, lane_instructions, flops }
    }

    #[test]
    fn the_largest_of_the_three_is_the_limit() {
        // 537 MB of fp16 K and V: 2^28 elements at 2.4 lane instructions each.
        let (ns, bound) = limit(load(537e6, 2.4 * 2.68e8, 4.3e9), H200);
        assert!((ns - 124_884.0).abs() < 1.0 && bound == Bound::Memory, "{ns} {bound:?}");
        // KIVI-2 at 3.5 instructions an element: 96 bytes for 256 elements are there sooner than they are used.
        let (ns, bound) = limit(load(537e6 * 96.0 / 512.0, 3.5 * 2.68e8, 4.3e9), H200);
        assert!(ns > 30_000.0 && bound == Bound::Issue, "{ns} {bound:?}");
        let (_, bound) = limit(load(1e6, 1e6, 1e12), H200);
        assert_eq!(bound, Bound::Compute);
        let (ns, bound) = limit(load(4.3e6, 1.0, 1.0), H200);
        assert!((ns - 1000.0).abs() < 1e-6 && bound == Bound::Launch);
    }

    #[test]
    fn what_is_unknown_is_left_out() {
        let rates = Rates { flop_per_clock: flop_per_clock("cuda-sm_75"), ..H200 };
        let unknown = Load { lane_instructions: None, ..load(43e6, 0.0, 1e15) };
        assert_eq!(limit(unknown, rates).1, Bound::Memory);
        assert_eq!(flop_per_clock("cpu-avx2"), None);
    }

    #[test]
    fn captured_part_of_the_gain() {
        let near =
            |got: Option<f64>, expected: f64| got.is_some_and(|got| (got - expected).abs() < 1e-9);
        assert!(near(captured(2.1, 3.2), 0.5));
        assert!(near(captured(0.5, 2.0), -0.5));
        assert_eq!(captured(1.1, 1.0), None);
    }
}
