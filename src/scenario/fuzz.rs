//! Whatever the bytes, parsing ends with a scenario or an error, never with a panic.

use proptest::{prelude::*, test_runner::Config};

use super::*;

/// Cases per property: `KVBENCH_FUZZ_CASES`, 256 unless told.
#[expect(
    clippy::disallowed_methods,
    reason = "the one knob of the fuzz tests, read in test code only"
)]
pub(crate) fn config() -> Config {
    let cases = match std::env::var("KVBENCH_FUZZ_CASES") {
        Ok(text) => text.parse().expect("KVBENCH_FUZZ_CASES is a number"),
        Err(_) => 256,
    };
    Config { cases, failure_persistence: None, ..Config::default() }
}

/// A valid text with a few places overwritten, cut out or doubled.
pub(crate) fn mutated(seed: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let edit = (
        any::<prop::sample::Index>(),
        0_usize..40,
        prop::collection::vec(any::<u8>(), 0..6),
        0_u8..4,
    );
    prop::collection::vec(edit, 1..6).prop_map(move |edits| {
        let mut bytes = seed.as_bytes().to_vec();
        for (index, n, patch, kind) in edits {
            let at = index.index(bytes.len() + 1);
            let end = (at + n).min(bytes.len());
            match kind {
                0 => drop(bytes.splice(at..end, patch)),
                1 => drop(bytes.drain(at..end)),
                2 => {
                    let copy = bytes[at..end].to_vec();
                    drop(bytes.splice(at..at, copy));
                }
                _ => {
                    drop(bytes.splice(at..end.min(at + 1), b"0 -9[]{}\"='\n.".get(n % 13).copied()))
                }
            }
        }
        bytes
    })
}

/// What holds for every text.
fn survives(text: &str) {
    match Scenario::parse(text, "f") {
        Ok(scenario) => assert!(!scenario.targets.is_empty() && !scenario.methods.is_empty()),
        Err(error) => {
            assert!(error.line >= 1 && error.line <= text.matches('\n').count() + 1);
            assert!(!error.message.is_empty() && !error.message.contains('\n'), "{error}");
        }
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn mutated_scenarios(bytes in mutated(super::tests::FULL)) {
        survives(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn random_text(text in "\\PC*") {
        survives(&text);
    }

    #[test]
    fn random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        survives(&String::from_utf8_lossy(&bytes));
    }
}
