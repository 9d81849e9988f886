//! `KVBENCH_TEST_SLOWDOWN`: a regression of known size, for testing what judges runs. Never for measuring.

use anyhow::{Context as _, ensure};

use crate::execute::kernel::{Lab, Labs};

/// Name of the variable.
const VARIABLE: &str = "KVBENCH_TEST_SLOWDOWN";

/// The factor that the environment asks for; `None` where it does not.
///
/// # Errors
/// Not a factor from 1 to 10.
#[expect(clippy::disallowed_methods, reason = "cli is where the environment is read")]
pub(super) fn asked() -> anyhow::Result<Option<f64>> {
    std::env::var(VARIABLE).ok().map(|text| parsed(&text)).transpose()
}

fn parsed(text: &str) -> anyhow::Result<f64> {
    let expected = || {
        format!(
            "{VARIABLE}: expected a factor from 1 to 10, such as 1.10, got `{text}`\n  hint: it is for tests; unset it to measure"
        )
    };
    let factor: f64 = text.trim().parse().with_context(expected)?;
    ensure!((1.0..=10.0).contains(&factor), expected());
    Ok(factor)
}

/// This machine's devices, the CPU's kernels slowed down where that was asked for.
pub(super) fn labs(factor: Option<f64>) -> Labs {
    let labs = Labs::here();
    match factor {
        Some(factor) => Labs { cpu: Lab::cpu_slowed(factor), ..labs },
        None => labs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_factors_are_taken() {
        assert!((parsed("1.10").unwrap() - 1.1).abs() < 1e-12);
        for wrong in ["", "fast", "0.5", "11", "NaN", "-1"] {
            let error = parsed(wrong).unwrap_err().to_string();
            assert!(error.contains(VARIABLE) && error.contains("hint"), "{error}");
        }
    }
}
