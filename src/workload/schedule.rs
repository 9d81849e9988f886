//! What was to be sent and when, as one hash: two runs of one seed can be compared without their prompts.

use sha2::{Digest, Sha256};

use super::{Due, Request};
use crate::units::hex;

/// sha256 (hex) over ids, due times, `max_tokens` and prompts.
///
/// It is made of whole numbers only. Due times are rounded to ns after a computation that every machine carries out alike
/// (see `exact`), so there is nothing left for rounding more coarsely to hide.
pub fn schedule_hash(requests: &[Request]) -> String {
    let mut hasher = Sha256::new();
    hasher.update(b"kvbench schedule 1\n");
    for request in requests {
        let (kind, due_ns, before) = match request.due {
            Due::AtNs(ns) => (0_u8, ns, 0),
            Due::WhenFree => (1, 0, 0),
            Due::After { request, think_ns } => (2, think_ns, request),
        };
        hasher.update(request.id.to_le_bytes());
        hasher.update([kind]);
        hasher.update(due_ns.to_le_bytes());
        hasher.update(before.to_le_bytes());
        hasher.update(request.max_tokens.to_le_bytes());
        hasher.update(Sha256::digest(request.prompt.as_bytes()));
    }
    hex(&hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        plan::Arrival,
        scenario::{LengthDist, Workload},
        workload::build,
    };

    fn words(n_requests: usize) -> Workload {
        Workload::Synthetic {
            n_requests,
            prompt_tokens: LengthDist::Lognormal { median: 20.0, sigma: 1.0, max: 200 },
            output_tokens: LengthDist::Uniform { min: 5, max: 50 },
            tokens: None,
        }
    }

    const ARRIVALS: [(&str, Arrival); 6] = [
        ("closed", Arrival::Closed { concurrency: 8 }),
        ("constant", Arrival::Constant { rate: 3.0 }),
        ("poisson", Arrival::Poisson { rate: 3.0 }),
        ("gamma", Arrival::Gamma { rate: 3.0, burstiness: 0.3 }),
        ("ramp", Arrival::Ramp { from: 1.0, to: 9.0, over_s: 100.0, steps: None }),
        (
            "burst",
            Arrival::Burst { base_rate: 1.0, burst_rate: 20.0, period_s: 10.0, burst_s: 2.0 },
        ),
    ];

    /// Computed once, on x86-64 Linux. A machine on which this fails would measure another schedule than all others.
    const GOLDEN: [&str; 6] = [
        "63296b16f3311a604d2d819d5952ebd275ce7c2bd5e10d79f0c5c2f46849d248",
        "83e265c34f8d90a1e2f809f99471d6bfe2c77b3dd91096455cbfd7e6bfd0b9c0",
        "35532e3257864604d181fbe04f9e24268259b555216011932210cf2e8e53d18e",
        "72908d8e67d91d3b641b2c59bd75b0ebd96570da83c61e6822fb1f6ca953a239",
        "7c0d1c3f3c26ed9eeccd8d146c440df9e3ab638ba640980678d5cb18e78c5dd4",
        "3747a0243163373368c6817dd75b0834af5c510622045cf6c72ddc34c3eb043b",
    ];

    #[test]
    fn a_seed_is_one_schedule_on_every_machine() {
        let hash = |(_, arrival): &(_, Arrival)| {
            schedule_hash(&build(&words(2000), arrival, 42).expect("built"))
        };
        let found: Vec<String> = ARRIVALS.iter().map(hash).collect();
        assert_eq!(found, GOLDEN);
    }

    #[test]
    fn everything_counts() {
        let requests = build(&words(10), &ARRIVALS[2].1, 1).expect("built");
        let plain = schedule_hash(&requests);
        let changed = |change: fn(&mut Request)| {
            let mut requests = requests.clone();
            change(&mut requests[7]);
            schedule_hash(&requests)
        };
        assert_ne!(plain, changed(|request| request.due = Due::AtNs(5)));
        assert_ne!(plain, changed(|request| request.due = Due::WhenFree));
        assert_ne!(plain, changed(|request| request.prompt.push('.')));
        assert_ne!(plain, changed(|request| request.max_tokens += 1));
        assert_ne!(plain, changed(|request| request.id += 1));
        assert_eq!(plain, changed(|request| request.sample_id.clear()));
    }
}
