//! Conversations of several turns against real sockets. No time is asserted, only order, equality and content.

use std::collections::BTreeSet;

use kvbench::{
    execute::{
        StopFlag,
        engine::{ApiKey, EngineBackend},
    },
    plan::Arrival,
    record::RequestRow,
    scenario::{Endpoint, EngineTarget, Workload},
    serve::{faults::Fault, known::Mode},
    workload::{Due, Request},
};
use sha2::{Digest as _, Sha256};

use super::client::{Rows, cell, fault, known, run, target};

const THINK_NS: u64 = 3_000_000;

/// `n` conversations of three turns; first turns at once in an open loop.
fn backend(n: u64, open: bool, think_ns: u64) -> EngineBackend {
    let request = move |id: u64| Request {
        id,
        sample_id: format!("c{}", id / 3),
        turn: (id % 3) as u32,
        due: match (id % 3, open) {
            (0, true) => Due::AtNs(id * 500_000),
            (0, false) => Due::WhenFree,
            _ => Due::After { request: id - 1, think_ns },
        },
        prompt: format!("prompt {id}"),
        prompt_tokens_est: 2,
        counted: None,
        answer_tokens_est: None,
        max_tokens: 3,
        forced: None,
    };
    let build = move |_: &Workload, _: &Arrival, _| Ok((0..3 * n).map(request).collect());
    EngineBackend::new(7, ApiKey::new("k"), Box::new(build)).unwrap()
}

fn rows(
    target: EngineTarget,
    arrival: Arrival,
    n: u64,
    stop_after: Option<usize>,
) -> Vec<RequestRow> {
    let stop = StopFlag::default();
    let mut sink = Rows { stop_after: stop_after.map(|n| (n, stop.clone())), ..Rows::default() };
    let open = !matches!(arrival, Arrival::Closed { .. });
    run(&mut backend(n, open, THINK_NS), &cell(target, arrival), &mut sink, stop).0.unwrap();
    let ids: BTreeSet<i64> = sink.rows.iter().map(|row| row.request_id).collect();
    assert_eq!((ids.len(), sink.rows.len()), (3 * n as usize, 3 * n as usize), "one row each");
    sink.rows.sort_by_key(|row| row.request_id);
    sink.rows
}

fn sha256(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Each turn was due after the answer before it and held the answers that were really received.
fn follows(rows: &[RequestRow]) {
    for turns in rows.chunks(3) {
        let mut text = turns[0].output_text.clone();
        text.insert_str(0, &format!("prompt {}", turns[0].request_id));
        for pair in turns.windows(2) {
            let (before, row) = (&pair[0], &pair[1]);
            assert_eq!(row.err, None);
            assert_eq!(Some(row.due_ns - THINK_NS as i64), before.done_ns);
            assert!(row.sent_ns >= Some(row.due_ns), "never early");
            text += &format!("\n\nUser: prompt {}\n\nAssistant:", row.request_id);
            assert_eq!(row.prompt_sha256, sha256(&text));
            text += &row.output_text;
        }
    }
}

#[test]
fn turns_follow_the_answers_really_received() {
    let server = known(Mode::Independent);
    let chat = EngineTarget { endpoint: Endpoint::Chat, ..target(&server.url) };
    follows(&rows(target(&server.url), Arrival::Constant { rate: 1.0 }, 8, None));
    follows(&rows(chat, Arrival::Closed { concurrency: 4 }, 6, None));
}

#[test]
fn a_conversation_keeps_its_place_in_a_closed_loop() {
    let server = known(Mode::Independent);
    let rows = rows(target(&server.url), Arrival::Closed { concurrency: 1 }, 3, None);
    follows(&rows);
    for pair in rows.windows(2) {
        assert!(pair[1].sent_ns >= pair[0].done_ns, "one user says one thing at a time");
    }
}

/// A user may think longer than any request may take: the turn after that is still waited for.
#[test]
fn long_thought_is_no_silence() {
    let server = known(Mode::Independent);
    let target = EngineTarget { request_timeout_s: 1.5, ..target(&server.url) };
    let mut sink = Rows::default();
    let cell = cell(target, Arrival::Constant { rate: 1.0 });
    run(&mut backend(1, true, 2_000_000_000), &cell, &mut sink, StopFlag::default()).0.unwrap();
    assert_eq!(sink.rows.len(), 3);
    assert!(sink.rows.iter().all(|row| row.err.is_none()), "{:?}", sink.rows);
}

#[test]
fn a_failed_turn_ends_its_conversation() {
    let server = fault(Fault::Half);
    for arrival in [Arrival::Closed { concurrency: 2 }, Arrival::Constant { rate: 1.0 }] {
        for turns in rows(target(&server.url), arrival, 2, None).chunks(3) {
            assert!(turns[0].err.is_some() && turns[0].sent_ns.is_some());
            for row in &turns[1..] {
                let why = "not sent: turn 1 of this conversation failed";
                assert_eq!((row.err.as_deref(), row.sent_ns, row.attempt), (Some(why), None, 0));
            }
        }
    }
}

#[test]
fn an_interrupted_run_has_a_row_for_every_turn() {
    let server = known(Mode::Independent);
    let rows = rows(target(&server.url), Arrival::Closed { concurrency: 2 }, 20, Some(5));
    let unsent = rows.iter().filter(|row| row.err.as_deref() == Some("not sent: interrupted"));
    assert!(unsent.clone().any(|row| row.turn == 0) && unsent.clone().any(|row| row.turn > 0));
}
