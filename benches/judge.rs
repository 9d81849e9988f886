//! How often `kvbench compare` is right about runs whose truth is known:
//! `cargo bench --bench judge`.
//!
//! Shares of 2000 pairs of simulated runs by the word that was said of them. Requests have a memory of 0.8 (AR(1)), repeats spread by
//! 2 %; one test at 5 % unless several cells are named.

use std::io::Write as _;

use kvbench::analyse::versus::simulate::{Experiment, shares};

const N_PAIRS: u64 = 2000;

fn main() -> std::io::Result<()> {
    let base = Experiment::default();
    let five = Experiment { repeats: 5, ..base };
    let cases = [
        ("A/A, 3 repeats", base),
        ("A/A, 5 repeats", five),
        ("A/A, 10 repeats", Experiment { repeats: 10, ..base }),
        (
            "A/A, 3 repeats, p99 of 500 requests",
            Experiment { percent: Some(99), requests: 500, ..base },
        ),
        ("A/A, 3 repeats, no spread between them", Experiment { between: 0.0, ..base }),
        ("A/A, 3 repeats, spread of one doubled", Experiment { wider: 2.0, ..base }),
        ("A/A, 3 repeats, 30 cells together", Experiment { cells: 30, requests: 60, ..base }),
        ("1.01x, 5 repeats", Experiment { slowdown: 1.01, ..five }),
        ("1.02x, 5 repeats", Experiment { slowdown: 1.02, ..five }),
        ("1.05x, 3 repeats", Experiment { slowdown: 1.05, ..base }),
        ("1.05x, 5 repeats", Experiment { slowdown: 1.05, ..five }),
        (
            "1.05x, 5 repeats, 30 cells together",
            Experiment { slowdown: 1.05, cells: 30, requests: 60, ..five },
        ),
        ("1.10x, 3 repeats", Experiment { slowdown: 1.10, ..base }),
        ("A/A, 5 repeats, 0.2 % between them", Experiment { between: 0.002, within: 0.02, ..five }),
        (
            "1.01x, 5 repeats, 0.2 % between them",
            Experiment { between: 0.002, within: 0.02, slowdown: 1.01, ..five },
        ),
        (
            "1.02x, 5 repeats, 0.2 % between them",
            Experiment { between: 0.002, within: 0.02, slowdown: 1.02, ..five },
        ),
    ];
    let mut out = std::io::stdout().lock();
    writeln!(out, "{:<42} {:>7} {:>7} {:>7} {:>8}", "truth", "worse", "better", "same", "unclear")?;
    for (seed, (name, case)) in (1..).zip(cases) {
        let found = shares(&case, N_PAIRS, seed);
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        writeln!(
            out,
            "{name:<42} {:>7} {:>7} {:>7} {:>8}",
            percent(found.worse),
            percent(found.better),
            percent(found.same),
            percent(found.unclear)
        )?;
    }
    Ok(())
}
