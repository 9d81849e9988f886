//! How long somebody thinks between an answer and the next turn of a conversation.

use super::{error::Fault, wire};

/// Distribution of a time, seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum TimeDist {
    /// Always this.
    Fixed(f64),
    /// Uniform on [min, max].
    Uniform {
        /// Shortest.
        min: f64,
        /// Longest.
        max: f64,
    },
    /// Log-normal with this median and sigma of the logarithm, cut at `max`.
    Lognormal {
        /// Median.
        median: f64,
        /// Standard deviation of the logarithm.
        sigma: f64,
        /// Longest.
        max: f64,
    },
}

pub(super) fn build(wire: &wire::Think) -> Result<TimeDist, Fault> {
    let ordered = |name: &str, at: usize, value: f64, max: f64| {
        if value <= max {
            return Ok(());
        }
        let message = format!("expected `{name}` to be at most `max` ({max}), got {value}");
        Err(Fault::new(at, message, "swap them, or raise `max`"))
    };
    match wire {
        wire::Think::Fixed(s) => Ok(TimeDist::Fixed(s.0)),
        wire::Think::Uniform(wire) => {
            let (min, max) = (wire.min.value.0, wire.max.0);
            ordered("min", wire.min.at, min, max)?;
            Ok(TimeDist::Uniform { min, max })
        }
        wire::Think::Lognormal(wire) => {
            let (median, max) = (wire.median.value.0, wire.max.0);
            ordered("median", wire.median.at, median, max)?;
            Ok(TimeDist::Lognormal { median, sigma: wire.sigma.0, max })
        }
    }
}
