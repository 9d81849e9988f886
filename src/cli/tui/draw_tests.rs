use std::collections::HashSet;

use ratatui::{Terminal, backend::TestBackend};

use super::{super::board::Told, *};
use crate::{plan::expand, scenario::Scenario};

const S: i64 = 1_000_000_000;
const SCENARIO: &str = r#"
name = "s"
baseline = "fp16"
[target.cpu.kernel]
model = "llama-2-7b"
device = "cpu"
[method.fp16.fp16]
[method.int8.int8]
[workload.grid.shapes]
ops = ["decode"]
batch = [1, 2]
kv_len = [128, 256]
"#;

fn board() -> Board {
    let scenario = Scenario::parse(SCENARIO, "s.toml").unwrap();
    let cells = expand(&scenario);
    Board::new(("s", "results/r"), &cells, &HashSet::new(), &scenario.timing, 0)
}

fn ids(board: &Board, n: usize) -> Vec<String> {
    board.lines[..n].iter().map(|line| line.id.clone()).collect()
}

/// What stands on a terminal of this size, a line each.
fn shown(board: &Board, (width, height): (u16, u16), now_ns: i64, color: bool) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, board, now_ns, color)).unwrap();
    let buffer = terminal.backend().buffer();
    buffer
        .content()
        .chunks(usize::from(width))
        .map(|cells| cells.iter().map(|cell| cell.symbol()).collect())
        .collect()
}

fn find<'a>(lines: &'a [String], text: &str) -> &'a str {
    lines
        .iter()
        .find(|line| line.contains(text))
        .unwrap_or_else(|| panic!("no `{text}` in\n{}", lines.join("\n")))
}

fn all(board: &Board, now_ns: i64) -> Vec<String> {
    shown(board, (120, 36), now_ns, true)
}

#[test]
fn a_run_of_kernels_shows_its_round_its_rate_and_its_cells() {
    let mut board = board();
    let running = ids(&board, 2);
    board.hear(Told::Block("cpu decode-b1 launch r0".to_owned()), 0);
    board.hear(Told::Cells { ids: running.clone(), kernels: true }, 0);
    board.hear(Told::Launches { cell: running[0].clone(), n: 30, failed: false }, S);
    board.hear(Told::Progress { done: 5, total: 25 }, S);
    let lines = all(&board, 3 * S);
    find(&lines, "kvbench run s");
    find(&lines, "results/r");
    find(&lines, "round 5 of at most 25");
    find(&lines, "10.0 timed launches/s");
    let cell = find(&lines, running[0].strip_prefix("s/").unwrap());
    assert!(cell.contains("running") && cell.contains("1 row ") && cell.contains("[##........]"));
    find(&lines, &format!("0 of {} cells", board.lines.len()));
    find(&lines, "q or Ctrl-C: stop");
}

#[test]
fn a_run_of_an_engine_shows_its_requests_and_its_cache() {
    let mut board = board();
    let running = ids(&board, 1);
    board.hear(Told::Block("srv".to_owned()), 0);
    board.hear(Told::Cells { ids: running.clone(), kernels: false }, 0);
    find(&all(&board, S), "KV cache: the engine does not tell");
    for (name, value) in
        [(MetricName::KvUsage, 0.43), (MetricName::Running, 8.0), (MetricName::Waiting, 3.0)]
    {
        board.hear(Told::Level { name, labels: String::new(), value, t_ns: S }, S);
    }
    let request = Told::Request { cell: running[0].clone(), tokens: Some(100), failed: false };
    board.hear(request, S);
    board.hear(Told::Progress { done: 1, total: 40 }, S);
    let lines = all(&board, 2 * S);
    find(&lines, "1 of 40 requests");
    find(&lines, "0.500 requests/s, 50.0 output tokens/s");
    let cache = find(&lines, "KV cache 43 %, 8 running, 3 waiting");
    assert!(!cache.contains("ago"));
    // A reading that is not new says so.
    find(&all(&board, 21 * S), "(20 s ago)");
}

#[test]
fn two_counts_of_tokens_stand_for_a_usage_that_is_not_told() {
    let mut board = board();
    for (name, value) in [(MetricName::KvUsedTokens, 512.0), (MetricName::KvCapacityTokens, 4096.0)]
    {
        board.hear(Told::Level { name, labels: String::new(), value, t_ns: 0 }, 0);
    }
    find(&all(&board, 0), "KV cache 512 of 4096 tokens");
}

#[test]
fn the_machine_is_shown_and_what_it_does_not_tell_is_not() {
    let mut board = board();
    find(&all(&board, 0), "not read yet");
    board.machine = vec![
        TelemetryRow {
            device: "0: GPU".to_owned(),
            power_w: Some(312.4),
            throttle: Some("sw_power_cap".to_owned()),
            ..TelemetryRow::default()
        },
        TelemetryRow {
            device: "host".to_owned(),
            host_cpu_pct: Some(97.2),
            ..TelemetryRow::default()
        },
    ];
    let lines = all(&board, 0);
    let gpu = find(&lines, "0: GPU");
    assert!(gpu.contains("312 W") && gpu.contains("throttled: sw_power_cap"), "{gpu}");
    let host = find(&lines, "host  power not told");
    assert!(host.contains("CPU 97 %") && !host.contains("MHz"), "{host}");
}

#[test]
fn failures_and_warnings_stand_out_without_colour_too() {
    let mut board = board();
    let (first, n) = (ids(&board, 1), board.lines.len());
    board.hear(Told::Launches { cell: first[0].clone(), n: 0, failed: true }, 0);
    board.hear(Told::Finished(first), 0);
    board.hear(Told::Notice("the older".to_owned()), 0);
    board.hear(Told::Notice("the newer".to_owned()), 0);
    let lines = shown(&board, (120, 36), S, false);
    find(&lines, "FAILED");
    find(&lines, "1 error");
    find(&lines, &format!("1 of {n} cells, 1 with errors"));
    find(&lines, "2 to note, newest first");
    let at = |text: &str| lines.iter().position(|line| line.contains(text)).unwrap();
    assert!(at("the newer") < at("the older"));
}

#[test]
fn a_run_that_stops_says_so() {
    let mut board = board();
    board.stopping = true;
    find(&all(&board, 0), "stopping: rows are kept");
}

#[test]
fn the_running_cells_are_in_view_however_many_there_are() {
    let mut board = board();
    let last = board.lines.last().unwrap().id.clone();
    board.hear(Told::Cells { ids: vec![last.clone()], kernels: true }, 0);
    find(&shown(&board, (80, 20), 0, true), last.strip_prefix("s/").unwrap());
}

#[test]
fn no_size_of_a_terminal_breaks_it() {
    let mut board = board();
    let running = ids(&board, 2);
    board.hear(Told::Cells { ids: running, kernels: true }, 0);
    board.hear(Told::Progress { done: 9, total: 4 }, 0);
    board.hear(Told::Notice("世界 ".repeat(200)), 0);
    for size in [(1, 1), (3, 40), (20, 5), (40, 10), (80, 24), (89, 24), (90, 12), (300, 100)] {
        assert_eq!(shown(&board, size, S, true).len(), usize::from(size.1));
    }
}

#[test]
fn durations_read_as_people_say_them() {
    assert_eq!(duration(12.4), "12 s");
    assert_eq!(duration(125.0), "2 min 05 s");
    assert_eq!(duration(3723.0), "1 h 02 min");
    assert_eq!(left(None), "time left not known yet");
    assert_eq!(left(Some(Left::ByPlan(60.0))), "about 1 min 00 s left by the plan");
}
