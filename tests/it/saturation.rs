//! A saturation search from the outside: `kvbench run` against the server of known timing. Only searches whose end does
//! not depend on how fast this machine is.

use std::collections::BTreeSet;

use kvbench::{
    analyse::{Reason, RunData, Saturation, judge},
    record::{Manifest, RequestRow},
};

use super::serve::{Server, measured, run_scenario};

/// The rows, the judged search and the manifest of one run.
fn search(slo: &str, start_rate: u32) -> (Vec<RequestRow>, Saturation, Manifest) {
    let server = Server::start();
    let text = format!(
        r#"
name = "sat"
baseline = "fp16"
[slo]
{slo}
[target.a.engine]
url = "http://{}"
endpoint = "completions"
model = "known"
method = "fp16"
[method.fp16.fp16]
[workload.words.synthetic]
n_requests = 1
prompt_tokens = {{ fixed = 8 }}
output_tokens = {{ fixed = 2 }}
[load.top.saturation]
start_rate = {start_rate}
requests_per_probe = 10
probe_max_requests = 40
"#,
        server.address
    );
    let (_work, _, folder) = run_scenario(&text, &[]);
    let data = RunData::load(&folder).unwrap();
    let found = judge(&data).unwrap().searches.remove(0);
    (measured(&folder), found, data.manifest)
}

#[test]
fn an_objective_that_nothing_meets() {
    let (rows, found, manifest) = search("e2e_ms = 0.001", 2000);
    assert_eq!((found.rate_per_s, found.reason), (None, Some(Reason::NeverSustained)));
    let rates: Vec<f64> = found.probes.iter().map(|probe| probe.rate_per_s).collect();
    assert_eq!(rates, [2000.0, 1000.0, 500.0, 250.0, 125.0]);
    assert!(rows.iter().all(|row| row.cell_id == "sat/a/fp16/words/top-slo0.9/r0"));
    assert_eq!(rows.len(), 50, "0 of 10 is decided");
    let loads: BTreeSet<&str> = rows.iter().map(|row| row.load.as_str()).collect();
    assert!(loads.contains("top-poisson250"), "{loads:?}");
    let prompts: BTreeSet<_> = rows.iter().map(|row| &row.prompt_sha256).collect();
    assert_eq!(prompts.len(), rows.len(), "every probe has prompts of its own");
    assert_eq!(manifest.schedules.len(), 5);
    assert_eq!(manifest.schedules["words/top-poisson250/r0"].len(), 64);
}

#[test]
fn an_objective_that_everything_meets() {
    let (rows, found, _) = search("e2e_ms = 80000000", 30_000);
    assert_eq!(found.reason, Some(Reason::NeverOverloaded));
    assert_eq!((found.rate_per_s, found.overloaded_per_s), (Some(60_000.0), None));
    // 10 of 10 leaves 90 % in doubt; 40 of 40 does not.
    assert!(found.probes.iter().all(|probe| probe.n == 40 && probe.decided), "{found:?}");
    let ids: BTreeSet<_> = rows.iter().map(|row| (row.load.clone(), row.request_id)).collect();
    assert_eq!(ids.len(), rows.len(), "later requests of a probe have numbers of their own");
}
