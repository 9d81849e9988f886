//! What is said of replays.

use super::*;
use crate::stats::Interval;

fn mean_e2e(simulated_ms: f64, interval: Option<(f64, f64)>) -> Compared {
    Compared {
        metric: Metric::E2e,
        stat: Stat::Mean,
        measured_ms: 100.0,
        interval: interval.map(|(low, high)| Interval { low, high }),
        simulated_ms,
        null_ms: Some(50.0),
        last_ms: None,
        noise_pct: Some(34.0),
        aa_pct: None,
    }
}

fn point(compared: Vec<Compared>, n: usize, n_rejected: usize) -> ReplayPoint {
    let name = |text: &str| text.to_owned();
    ReplayPoint {
        point: Place { target: name("t"), workload: name("w"), load: name("l"), method: name("m") },
        n,
        n_repeats: 2,
        n_rejected,
        n_preempted: 0,
        kv_tokens_most: 0,
        rate_per_s: 1.0,
        in_flight: 1.0,
        in_flight_simulated: 1.0,
        compared,
        e2e_ms: Vec::new(),
        e2e_simulated_ms: Vec::new(),
    }
}

fn replays(points: Vec<ReplayPoint>) -> Replays {
    Replays {
        simulated: Vec::new(),
        calibrated_on: Vec::new(),
        points,
        left_out: std::collections::BTreeMap::new(),
        n_suspect: 0,
        notes: Vec::new(),
    }
}

#[test]
fn what_the_interval_does_not_tell_is_not_decided() {
    for (simulated_ms, interval, expected) in [
        (105.0, Some((99.0, 102.0)), Holds::Yes),
        (105.0, Some((80.0, 120.0)), Holds::CannotTell),
        (63.0, Some((60.0, 140.0)), Holds::CannotTell),
        (63.0, Some((95.0, 105.0)), Holds::No),
        (150.0, Some((95.0, 105.0)), Holds::No),
        (105.0, None, Holds::Yes),
        (63.0, None, Holds::No),
    ] {
        let one = mean_e2e(simulated_ms, interval);
        assert_eq!(holds(&one), Some(expected), "{simulated_ms} {interval:?}");
    }
    let one = Compared { metric: Metric::Tpot, ..mean_e2e(105.0, None) };
    assert_eq!(holds(&one), None, "no bar");
    let noisy = mean_e2e(63.0, Some((60.0, 140.0)));
    let said = &finding(&replays(vec![point(vec![noisy], 9, 0)]))[0];
    let expected =
        "mean E2E -37 % off (repeats differ by 34 %), and cannot be told from its bar of 10 %";
    assert!(said.contains(expected), "{said}");
}

/// The load without a last one is far off: it must not stand against the last load's average.
#[test]
fn averages_are_over_the_same_loads() {
    let last = |simulated_ms, last: f64| Compared {
        last_ms: Some(("slower".to_owned(), last)),
        ..mean_e2e(simulated_ms, None)
    };
    let of = |all: Vec<Compared>| {
        let points = all.into_iter().map(|one| point(vec![one], 9, 0)).collect();
        finding(&replays(points)).split_off(3)
    };
    let said = of(vec![mean_e2e(190.0, None), last(110.0, 80.0), last(90.0, 80.0)]);
    assert!(said[0].contains("37 % off on average over 3 loads") && said[0].contains("50 %"));
    assert!(said[1].contains("2 loads") && said[1].contains("10 % off"), "{said:?}");
    assert!(said[1].ends_with("number 20 %."), "the simulation is better here: {said:?}");
    let said = of(vec![mean_e2e(100.0, None), last(110.0, 95.0), last(90.0, 95.0)]);
    assert!(said[1].ends_with("number 5.0 %. The last load's number is the better forecast."));
}

#[test]
fn what_was_refused_is_not_called_too_few() {
    let said = &finding(&replays(vec![point(Vec::new(), 0, 210)]))[0];
    assert!(said.contains("refused 210 of 210 requests"), "{said}");
    assert!(said.contains("no request was simulated") && !said.contains("too few"), "{said}");
}
