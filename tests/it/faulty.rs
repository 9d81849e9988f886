//! Servers that fail some requests, and a client that is starved, from the outside. No time is asserted.

use std::process::{Command, Output};

use kvbench::{
    record::{RequestRow, parquet::read_rows},
    serve::faults::Fault,
};

use super::{client::fault, serve::run_scenario};

/// 40 requests, four at a time; what the program said, and the rows.
fn run(kind: Fault) -> (Output, Vec<RequestRow>) {
    let server = fault(kind);
    let text = format!(
        r#"
name = "faulty"
baseline = "fp16"
repeats = 1
[target.a.engine]
url = "{}"
endpoint = "completions"
model = "fault"
method = "fp16"
warmup_requests = 0
idle_timeout_s = 1.0
[method.fp16.fp16]
[workload.words.synthetic]
n_requests = 40
prompt_tokens = {{ fixed = 8 }}
output_tokens = {{ fixed = 4 }}
[load.four.closed]
concurrency = [4]
"#,
        server.url
    );
    let (_work, output, folder) = run_scenario(&text, &[]);
    (output, read_rows(&folder).unwrap())
}

fn holds(kind: Fault, n_failed: usize, cause: &str) {
    let (output, rows) = run(kind);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let (bad, good): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.err.is_some());
    assert_eq!((bad.len(), good.len()), (n_failed, 40 - n_failed), "{rows:?}");
    for row in bad {
        assert!(row.err.as_ref().unwrap().contains(cause), "{row:?}");
        assert!(row.sent_ns.is_some() && row.done_ns.is_some(), "{row:?}");
    }
    assert!(good.iter().all(|row| row.output_tokens == Some(4)), "{good:?}");
    let class = cause.split(':').next().unwrap();
    assert!(said.contains(&format!("{n_failed} of 40 requests failed")), "{said}");
    assert!(said.contains(class), "the cause is told: {said}");
}

#[test]
fn a_tenth_of_the_requests_is_reset() {
    holds(Fault::ResetTenth, 4, "connection lost");
}

#[test]
fn half_of_the_streams_stall() {
    holds(Fault::StallHalf, 20, "timed out: nothing came for 1 s");
}

/// The receiving threads are blocked for 200 ms again and again: whatever the load, half of all pings are late by tens of
/// milliseconds, so the outcome does not depend on the machine.
#[test]
fn a_starved_client_is_invalid() {
    let output = Command::new(env!("CARGO_BIN_EXE_kvbench"))
        .args(["doctor", "--client", "--streams", "8", "--seconds", "2", "--mode", "independent"])
        .args(["--starve-ms", "200", "--format", "json"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let table: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = table.to_string();
    assert!(text.contains("\"INVALID\""), "{text}");
    assert!(said.contains("p99 lag of the client in ms"), "{said}");
}

/// An open loop far beyond what a thread that is blocked can serve still sends on time: the load thread is another one. But
/// the answers are late, and that is said.
#[test]
fn a_starved_client_is_invalid_in_an_open_loop_too() {
    let output = Command::new(env!("CARGO_BIN_EXE_kvbench"))
        .args(["doctor", "--client", "--rate", "50", "--seconds", "2", "--starve-ms", "200"])
        .args(["--format", "json"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("INVALID"));
}
