use super::*;
use crate::{
    plan::expand,
    record::{EngineMetricRow, KernelRow, RequestRow},
    scenario::Scenario,
};

const SCENARIO: &str = r#"
name = "s"
baseline = "fp16"
repeats = 2
[target.cpu.kernel]
model = "llama-2-7b"
device = "cpu"
[method.fp16.fp16]
[method.int8.int8]
[workload.grid.shapes]
ops = ["decode"]
batch = [1]
kv_len = [128]
"#;

const S: i64 = SECOND_NS;

fn scenario() -> Scenario {
    Scenario::parse(SCENARIO, "s.toml").unwrap()
}

fn board(finished: &[&str]) -> Board {
    let scenario = scenario();
    let finished = finished.iter().map(|id| (*id).to_owned()).collect();
    Board::new(("s", "results/r"), &expand(&scenario), &finished, &scenario.timing, 0)
}

fn request(tokens: Option<i64>, failed: bool) -> Told {
    Told::Request { cell: "c".to_owned(), tokens, failed }
}

#[test]
fn cells_wait_run_and_are_done() {
    let mut board = board(&[]);
    let ids: Vec<String> = board.lines.iter().map(|line| line.id.clone()).collect();
    assert!(board.lines.iter().all(|line| line.state == State::Waiting) && ids.len() > 2);
    board.hear(Told::Cells { ids: ids[..2].to_vec(), kernels: true }, 0);
    assert_eq!(board.lines[1].state, State::Running);
    let launches = |cell: &str, failed| Told::Launches { cell: cell.to_owned(), n: 3, failed };
    board.hear(launches(&ids[0], false), 1);
    board.hear(launches(&ids[1], true), 1);
    board.hear(launches("a probe of the bandwidth", false), 1);
    board.hear(Told::Finished(ids[..2].to_vec()), 2);
    assert_eq!(board.n_done_failed(), (2, 1));
    assert_eq!((board.lines[0].n_good, board.lines[1].n_failed), (1, 1));
}

#[test]
fn cells_of_an_earlier_sitting_are_done_already() {
    let all = board(&[]);
    let first = all.lines[0].id.as_str();
    assert_eq!(board(&[first]).n_done_failed(), (1, 0));
}

#[test]
fn rates_are_those_of_the_last_seconds() {
    let mut rates = Rates::new(0);
    assert_eq!(rates.now(S / 2), None);
    // Ten a second for five seconds, then nothing.
    for i in 0..50 {
        rates.request(i * S / 10, Some(7), false);
    }
    let rate = rates.now(5 * S).unwrap();
    assert!((rate.requests - 10.0).abs() < 1e-9);
    assert!((rate.tokens.unwrap() - 70.0).abs() < 1e-9);
    let quiet = rates.now(60 * S).unwrap();
    assert!(quiet.requests.abs() < 1e-9 && quiet.tokens.unwrap().abs() < 1e-9);
    // What is too old is left out of the sum and of the time alike.
    for i in 600..700 {
        rates.request(i * S / 10, Some(7), false);
    }
    assert!((rates.now(70 * S).unwrap().requests - 10.0).abs() < 1e-9);
    assert!(rates.buckets.len() <= WINDOW_S as usize);
}

#[test]
fn tokens_that_nobody_counted_are_unknown_and_failures_are_no_requests() {
    let mut board = board(&[]);
    board.hear(Told::Block("b".to_owned()), 0);
    board.hear(request(Some(5), false), S);
    board.hear(request(None, true), S);
    assert!((board.rates(2 * S).unwrap().requests - 0.5).abs() < 1e-9);
    assert!(board.rates(2 * S).unwrap().tokens.is_some());
    board.hear(request(None, false), S);
    assert_eq!(board.rates(2 * S).unwrap().tokens, None);
}

#[test]
fn a_level_of_several_parts_is_a_range_as_old_as_its_oldest() {
    let mut board = board(&[]);
    let usage = MetricName::KvUsage;
    let told = |labels: &str, value, t_ns| Told::Level {
        name: usage,
        labels: labels.to_owned(),
        value,
        t_ns,
    };
    assert_eq!(board.level(usage), None);
    board.hear(told("0", 0.9, 1), 1);
    board.hear(told("0", 0.4, 5), 5);
    board.hear(told("1", 0.6, 3), 5);
    assert_eq!(board.level(usage), Some(Level { low: 0.4, high: 0.6, t_ns: 3 }));
    // Another block is another engine.
    board.hear(Told::Block("next".to_owned()), 6);
    assert_eq!(board.level(usage), None);
}

#[test]
fn time_left_goes_by_the_plan_then_by_what_blocks_took() {
    let mut pace = Pace::new(vec![Some(1.0), Some(3.0), Some(2.0)], 0);
    assert_eq!(pace.left_s(S), Some(Left::ByPlan(5.0)));
    // Longer than all was planned to take: nothing is known.
    assert_eq!(pace.left_s(7 * S), None);
    // The first block took twice what was planned; so will the others.
    pace.block_ended(2 * S);
    assert_eq!(pace.left_s(2 * S), Some(Left::ByBlocks(10.0)));
    assert_eq!(pace.left_s(5 * S), Some(Left::ByBlocks(7.0)));
    pace.block_ended(8 * S);
    pace.block_ended(12 * S);
    assert_eq!(pace.left_s(12 * S), Some(Left::ByBlocks(0.0)));
}

#[test]
fn without_a_plan_blocks_are_like_those_before() {
    let mut pace = Pace::new(vec![None, None, None], 0);
    assert_eq!(pace.left_s(S), None);
    pace.block_ended(4 * S);
    assert_eq!(pace.left_s(5 * S), Some(Left::ByBlocks(7.0)));
    assert_eq!(pace.left_s(13 * S), None);
}

#[test]
fn what_a_terminal_would_obey_is_not_shown() {
    let mut board = board(&[]);
    board.hear(Told::Status("log: \u{1b}[2J".to_owned()), 0);
    board.hear(Told::Notice("\u{1b}]0;t\u{7}".to_owned()), 0);
    assert!(!board.status.as_deref().unwrap().contains('\u{1b}'));
    assert!(!board.notices[0].contains('\u{1b}'));
}

#[test]
fn rows_are_told_and_warm_up_is_not() {
    let warm = RequestRow { warmup: true, ..RequestRow::default() };
    assert_eq!(Told::of(&Row::Request(warm)), None);
    let row = RequestRow { output_tokens: Some(3), ..RequestRow::default() };
    let expected = Told::Request { cell: String::new(), tokens: Some(3), failed: false };
    assert_eq!(Told::of(&Row::Request(row)), Some(expected));
    let row = KernelRow { launches: Some(4), ..KernelRow::default() };
    let expected = Told::Launches { cell: String::new(), n: 4, failed: false };
    assert_eq!(Told::of(&Row::Kernel(row)), Some(expected));
    let level = |name: &str, value| {
        let row = EngineMetricRow { name: name.to_owned(), value, ..EngineMetricRow::default() };
        Told::of(&Row::EngineMetric(row))
    };
    assert!(level("kv_usage", Some(0.5)).is_some());
    // A metric that the server does not have is a row without a value, and a count since its start is no level.
    assert_eq!(level("kv_usage", None), None);
    assert_eq!(level("preemptions_total", Some(1.0)), None);
    assert_eq!(level(EngineMetricRow::SCRAPE, None), None);
}
