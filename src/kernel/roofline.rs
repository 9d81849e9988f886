//! What a kernel could do at best, and how much of that it did. Pure.

use crate::units::NS_PER_S;

/// Shortest time for moving `bytes` at `bytes_per_s`, in ns; `None` for a bandwidth that is not positive.
pub fn floor_ns(bytes: u64, bytes_per_s: f64) -> Option<f64> {
    (bytes_per_s > 0.0).then(|| bytes as f64 / bytes_per_s * NS_PER_S)
}

/// Bytes per second of a launch; `None` when it took no time.
pub fn bandwidth(bytes: u64, duration_ns: i64) -> Option<f64> {
    (duration_ns > 0).then(|| bytes as f64 / duration_ns as f64 * NS_PER_S)
}

/// Part of a measured bandwidth that a launch reached. Above 1 where part of the data came from a cache.
pub fn fraction(bytes: u64, duration_ns: i64, bytes_per_s: f64) -> Option<f64> {
    let reached = bandwidth(bytes, duration_ns)?;
    (bytes_per_s > 0.0).then(|| reached / bytes_per_s)
}

/// Best possible speed-up over the baseline if only bytes count.
pub fn ideal_speedup(baseline_bytes: u64, bytes: u64) -> Option<f64> {
    (bytes > 0).then(|| baseline_bytes as f64 / bytes as f64)
}

/// Part of the ideal gain that was captured: `(measured - 1) / (ideal - 1)`. 0 is no gain, 1 is all of it, below 0 is a
/// slow-down. `None` where the ideal is no gain at all.
pub fn captured(measured_speedup: f64, ideal_speedup: f64) -> Option<f64> {
    (ideal_speedup > 1.0).then(|| (measured_speedup - 1.0) / (ideal_speedup - 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(got: Option<f64>, expected: f64) -> bool {
        got.is_some_and(|got| (got - expected).abs() < 1e-9 * expected.abs().max(1.0))
    }

    #[test]
    fn floors_and_fractions() {
        assert!(near(floor_ns(2_000, 1e9), 2_000.0));
        assert!(near(bandwidth(500, 1_000), 5e8));
        assert!(near(fraction(500, 1_000, 1e9), 0.5));
        assert_eq!(floor_ns(1, 0.0), None);
        assert_eq!(bandwidth(1, 0), None);
        assert_eq!(fraction(1, 1, 0.0), None);
    }

    #[test]
    fn captured_part_of_the_gain() {
        assert!(near(ideal_speedup(512, 160), 3.2));
        assert!(near(captured(2.1, 3.2), 0.5));
        assert!(near(captured(0.5, 2.0), -0.5));
        assert_eq!(captured(1.1, 1.0), None);
        assert_eq!(ideal_speedup(1, 0), None);
    }
}
