use rand::RngExt as _;

use super::*;
use crate::{
    predict::simulate::{LinearTimes, Mixing, Request, Tiles},
    record::{RequestRow, parquet::TableRow as _},
    stats,
};

const MS: i64 = 1_000_000;

fn truth() -> LinearTimes {
    LinearTimes {
        step_s: 0.0008,
        per_sequence_s: 0.0003,
        per_kv_token_s: 1e-6,
        per_prompt_s: 0.0002,
        per_prompt_token_s: 2e-5,
        per_pair_s: 0.0,
    }
}

fn config() -> EngineConfig {
    EngineConfig {
        max_batched_tokens: Some(2048),
        chunked_prefill: true,
        mixing: Mixing::Slots { ubatch_tokens: 512 },
        ..EngineConfig::unlimited(4)
    }
}

/// Rows of a cell as a real client would have written them, had it sat beside an engine of known times.
fn rows(
    id: &str,
    (times, config): (LinearTimes, EngineConfig),
    load: &Load,
    (n, seed): (usize, u64),
) -> Vec<RequestRow> {
    let mut rng = stats::seeded(seed);
    let requests: Vec<Request> = (0..n)
        .map(|id| Request {
            id: id as u64,
            prompt_tokens: rng.random_range(10..250),
            cached_tokens: 0,
            output_tokens: rng.random_range(5..120),
        })
        .collect();
    let engine = Engine::new(config, Arc::new(times)).unwrap().with_tokens();
    let client = Client { request_ns: MS / 2, turnaround_ns: MS / 5 };
    let done = replay(engine, &requests, load, client).unwrap();
    let part: Vec<&str> = id.split('/').collect();
    let row = |index: usize| {
        let outcome = done.outcomes[index].unwrap();
        RequestRow {
            cell_id: id.to_owned(),
            target: part[1].to_owned(),
            method: part[2].to_owned(),
            workload: part[3].to_owned(),
            load: part[4].to_owned(),
            repeat: part[5].parse().unwrap(),
            request_id: index as i64,
            due_ns: outcome.sent_ns,
            sent_ns: Some(outcome.sent_ns),
            first_token_ns: Some(outcome.first_token_ns),
            last_token_ns: Some(outcome.finished_ns),
            chunk_ns: done.token_ns[index].clone(),
            prompt_tokens: Some(requests[index].prompt_tokens as i64),
            output_tokens: Some(requests[index].output_tokens as i64),
            cached_tokens: Some(0),
            ..RequestRow::default()
        }
    };
    (0..n).map(row).collect()
}

fn poisson(rate: f64, n: usize, seed: u64) -> Load {
    let mut rng = stats::seeded(seed);
    let mut at_s = 0.0;
    let mut next = || {
        at_s -= (1.0 - rng.random::<f64>()).ln() / rate;
        s_to_ns(at_s)
    };
    Load::Open((0..n).map(|_| next()).collect())
}

/// Two calibration loads and two that are judged, two repeats each, of a method and its control.
fn run_of(times: LinearTimes) -> RunData {
    run_under(times, config())
}

/// The same of an engine with these rules.
fn run_under(times: LinearTimes, config: EngineConfig) -> RunData {
    let (mut ids, mut all) = (Vec::new(), Vec::new());
    for method in ["fp16", "fp16-aa"] {
        for repeat in 0..2_u64 {
            for (load, rate) in
                [("closed-1", 0.0), ("closed-4", 0.0), ("poisson-8", 8.0), ("poisson-16", 16.0)]
            {
                let id = format!("example/llama/{method}/chat/{load}/{repeat}");
                let seed = repeat + 10 * rate as u64;
                let kind = match load {
                    "closed-1" => Load::Closed { concurrency: 1, start_ns: 0 },
                    "closed-4" => Load::Closed { concurrency: 4, start_ns: 0 },
                    _ => poisson(rate, 60, seed),
                };
                all.extend(rows(&id, (times, config), &kind, (60, seed)));
                ids.push(id);
            }
        }
    }
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let mut data = super::super::tests::data(&ids, &[], &all);
    let proof = serde_json::json!({
        "target": "llama", "method": "fp16", "engine": "llamacpp",
        "process_arguments": ["llama-server", "-np", "4", "-kvu", "-c", "4096"]
    });
    data.manifest.engines.insert("llama".to_owned(), serde_json::json!({ "proof": proof }));
    data
}

#[test]
fn step_times_are_read_off_whole_requests() {
    let data = run_of(truth());
    let cells = observed_trace::cells(&data).unwrap();
    let chosen: Vec<&CellTrace> = cells
        .iter()
        .filter(|t| t.cell.load.starts_with("closed") && t.cell.method == "fp16")
        .collect();
    let found = calibrate(&chosen, &config()).unwrap();
    assert_eq!((found.n_answers, found.n_alone > 100), (240, true));
    let near = |a: f64, b: f64, by: f64| (a / b - 1.0).abs() < by;
    let LinearTimes { step_s, per_sequence_s, per_kv_token_s, per_prompt_token_s, .. } =
        found.times;
    assert!(near(step_s, 0.0008, 0.02), "{found:?}");
    assert!(near(per_sequence_s, 0.0003, 0.02) && near(per_kv_token_s, 1e-6, 0.05), "{found:?}");
    assert!(near(per_prompt_token_s, 2e-5, 0.05), "{found:?}");
    assert!(near(found.request_s, 0.0005, 0.1), "{found:?}");
    assert!(near(found.turnaround_s, 0.0002, 0.1), "{found:?}");
    assert!(found.fit_error_pct < 1.0, "{found:?}");
    let few = calibrate(&chosen[..0], &config()).unwrap_err();
    assert!(few.contains("expected 20 answers") && few.contains("got 0 and 0"), "{few}");
}

/// What failed was computed all the same: it held others up, and it held its place in the loop.
#[test]
fn who_met_a_row_that_failed_did_not_meet_an_idle_engine() {
    let data = run_of(truth());
    let mut all = RequestRow::rows(&data.requests).unwrap();
    for row in all.iter_mut().filter(|row| row.load == "closed-4" && row.request_id % 4 > 0) {
        row.err = Some("reset".to_owned());
    }
    let ids: Vec<&str> = data.manifest.cells.iter().map(|cell| cell.id.as_str()).collect();
    let cells = observed_trace::cells(&super::super::tests::data(&ids, &[], &all)).unwrap();
    let of = |closed: &str| -> Calibration {
        let own = cells.iter().filter(|t| t.cell.load.starts_with(closed));
        let own: Vec<_> = own.filter(|t| t.cell.method == "fp16").collect();
        calibrate(&own, &config()).unwrap()
    };
    let (alone, both) = (of("closed-1"), of("closed"));
    assert_eq!((alone.n_answers, alone.n_alone), (120, 120));
    assert_eq!((both.n_answers, both.n_alone), (120, 120), "{both:?}");
    assert!((both.request_s / alone.request_s - 1.0).abs() < 0.01, "{both:?} {alone:?}");
    assert!((both.turnaround_s / 0.0002 - 1.0).abs() < 0.1, "{both:?}");

    let failed: Vec<&CellTrace> = cells.iter().filter(|t| t.cell.load == "closed-4").collect();
    let error = calibrate(&failed, &config()).unwrap_err();
    assert!(error.contains("60 requests met rows that failed"), "{error}");
}

/// Without a limit of blocks, what lies in the simulated cache is compared with what llama-server's slots share.
#[test]
fn slots_that_share_too_little_are_told_of() {
    let mut data = run_of(truth());
    let whole = run(&data, &Options::default()).unwrap();
    let most = whole.points.iter().map(|point| point.kv_tokens_most).max().unwrap();
    assert!((300..1500).contains(&most), "{most}");
    for (size, n_notes) in [(most, 0), (most - 1, 1)] {
        let words = ["llama-server", "-np", "4", "-kvu", "-c", &size.to_string()];
        data.manifest.engines.get_mut("llama").unwrap()["proof"]["process_arguments"] =
            serde_json::json!(words);
        let notes = run(&data, &Options::default()).unwrap().notes;
        assert_eq!(notes.len(), n_notes, "{notes:?}");
        let said = format!("up to {most} tokens of prompts and answers");
        assert!(notes.iter().all(|note| note.contains(&said)), "{notes:?}");
    }
}

/// A machine that was busy for a moment holds up a few requests; what a step costs is not in them.
#[test]
fn a_few_requests_that_were_held_up_change_little() {
    let data = run_of(truth());
    let mut cells = observed_trace::cells(&data).unwrap();
    cells.retain(|t| t.cell.load.starts_with("closed") && t.cell.method == "fp16");
    for request in cells.iter_mut().flat_map(|trace| trace.requests.iter_mut().step_by(15)) {
        request.last_token_ns += 400 * MS;
    }
    let found = calibrate(&cells.iter().collect::<Vec<_>>(), &config()).unwrap();
    let step = |batch: f64| found.times.step_s + batch * found.times.per_sequence_s;
    for (batch, expected) in [(1.0, 0.0011), (4.0, 0.0020)] {
        assert!((step(batch) / expected - 1.0).abs() < 0.05, "{batch}: {found:?}");
    }
}

#[test]
fn an_engine_that_is_simulated_rightly_is_foretold() {
    let data = run_of(truth());
    let replays = run(&data, &Options::default()).unwrap();
    let loads: Vec<&str> = replays.points.iter().map(|p| p.point.load.as_str()).collect();
    assert_eq!(loads, ["poisson-8", "poisson-16"], "calibration cells and controls are not judged");
    assert_eq!((replays.calibrated_on.len(), replays.notes.len()), (4, 0));
    for point in &replays.points {
        assert_eq!((point.n, point.n_repeats, point.n_rejected), (120, 2, 0));
        assert_eq!(
            point.compared.len(),
            6,
            "mean and p50 of three metrics: 120 requests hold no p99"
        );
        for one in &point.compared {
            assert!(one.error_pct().abs() < 1.5, "{} {one:?}", point.point);
            assert!(one.aa_pct.is_some_and(|aa| aa < 1e-9), "the control is the same run: {one:?}");
        }
        let mean = &point.compared[0];
        assert!(
            mean.interval.is_some_and(|i| i.low < mean.measured_ms && mean.measured_ms < i.high)
        );
        assert!(mean.noise_pct.is_some_and(|noise| noise > 0.0));
        assert!((point.in_flight / point.in_flight_simulated - 1.0).abs() < 0.02);
    }
    let busy = &replays.points[1];
    let is_ttft = |one: &&Compared| (one.metric, one.stat) == (Metric::Ttft, Stat::Mean);
    let ttft = busy.compared.iter().find(is_ttft).unwrap();
    assert_eq!(ttft.last_ms.as_ref().unwrap().0, "poisson-8");
    assert!(busy.in_flight > 1.0, "{}", busy.in_flight);
    assert!(
        ttft.null_error_pct().unwrap() < -10.0,
        "who leaves out the queue is too early: {ttft:?}"
    );
}

/// Attention in tiles makes a prompt cost more beside others; who counts pairs instead is wrong where the batch is another.
#[test]
fn an_engine_with_tiles_is_foretold() {
    let tiled = EngineConfig { tiles: Some(Tiles::GGML_CPU), ..config() };
    let times = LinearTimes { per_pair_s: 1e-7, per_prompt_token_s: 5e-6, ..truth() };
    let replays = run(&run_under(times, tiled), &Options::default()).unwrap();
    let fitted = &replays.simulated[0];
    assert_eq!(fitted.config.tiles, Some(Tiles::GGML_CPU));
    let per_pair_s = fitted.fitted.calibration.as_ref().unwrap().times.per_pair_s;
    assert!((per_pair_s / 1e-7 - 1.0).abs() < 0.05, "{per_pair_s}");
    for one in replays.points.iter().flat_map(|point| &point.compared) {
        assert!(one.error_pct().abs() < 3.0, "{one:?}");
    }
    // The rules of an engine that computes no tiles fit its own cells better without.
    let plain = run(&run_of(truth()), &Options::default()).unwrap();
    assert_eq!(plain.simulated[0].config.tiles, None);
}

/// The step that draws a stop token delays the next request and yields nothing.
#[test]
fn a_stop_token_takes_a_step_that_no_client_sees() {
    let mut data = run_of(truth());
    let mut all = RequestRow::rows(&data.requests).unwrap();
    for row in &mut all {
        // What came last was the stop token: it has no chunk, and the stream ends with it.
        row.done_ns = row.last_token_ns;
        row.chunk_ns.pop();
        row.last_token_ns = row.chunk_ns.last().copied();
        row.finish_reason = Some("stop".to_owned());
    }
    let ids: Vec<&str> = data.manifest.cells.iter().map(|cell| cell.id.as_str()).collect();
    data.requests = super::super::tests::data(&ids, &[], &all).requests;
    let replays = run(&data, &Options::default()).unwrap();
    for one in replays.points.iter().flat_map(|point| &point.compared) {
        assert!(one.error_pct().abs() < 2.0, "{one:?}");
    }
}

/// What would be a wrong forecast is one: the engine became slower after it was calibrated.
/// A run whose closed loops met one engine and whose open loads another.
fn changed(closed: LinearTimes, open: LinearTimes) -> RunData {
    let (mut data, other) = (run_of(closed), run_of(open));
    let mask = |data: &RunData, poisson: bool| {
        let loads = data.requests.column("load").unwrap().str().unwrap().clone();
        loads.iter().map(|load| load.unwrap().starts_with("poisson") == poisson).collect()
    };
    let fast = data.requests.filter(&mask(&data, false)).unwrap();
    data.requests = fast.vstack(&other.requests.filter(&mask(&other, true)).unwrap()).unwrap();
    data
}

#[test]
fn an_engine_that_changed_is_not_foretold() {
    let data = changed(truth(), LinearTimes { step_s: 0.0012, ..truth() });
    let replays = run(&data, &Options::default()).unwrap();
    let error = replays.points[0].compared[0].error_pct();
    assert!(error < -10.0, "{error}");
}

#[test]
fn an_engine_that_is_slower_after_a_rest_is_told_of() {
    let said = |open: LinearTimes| {
        let notes = run(&changed(truth(), open), &Options::default()).unwrap().notes;
        notes.into_iter().find(|note| note.contains("met an idle engine"))
    };
    assert_eq!(said(truth()), None);
    let slower = LinearTimes { per_prompt_token_s: 3e-5, ..truth() };
    let words = said(slower).unwrap();
    assert!(words.contains("later than") && words.starts_with("llama: fp16:"), "{words}");
}

#[test]
fn cells_are_chosen_and_refused_by_name() {
    let data = run_of(truth());
    let (calibrate, judge) =
        (Regex::new("closed|poisson-8").unwrap(), Regex::new("poisson-16").unwrap());
    let options =
        Options { calibrate: Some(&calibrate), judge: Some(&judge), ..Options::default() };
    let replays = run(&data, &options).unwrap();
    assert_eq!((replays.calibrated_on.len(), replays.points.len()), (6, 1));
    let all = Regex::new("").unwrap();
    let nothing = Options { calibrate: Some(&all), ..Options::default() };
    let error = run(&data, &nothing).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("expected cells to judge"), "{error}");
    let stated = Stated { max_num_seqs: Some(1), ..Stated::default() };
    let one = run(&data, &Options { stated, ..Options::default() }).unwrap();
    assert_eq!(one.calibrated_on.len(), 2, "closed-4 is more than one engine of one slot computes");
    let empty = super::super::tests::data(&["example/llama/fp16/chat/closed-1/0"], &[], &[]);
    let error = run(&empty, &Options::default()).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("got none (no row)"), "{error}");
}

/// A cell that is SUSPECT is used, and its doubt is told: of those calibrated on and of those judged.
#[test]
fn cells_that_are_suspect_are_counted() {
    let mut data = run_of(truth());
    let health = |load: &str, verdict| crate::record::manifest::ClientFacts {
        cell_id: format!("example/llama/fp16/chat/{load}/1"),
        verdict,
        reasons: vec!["late by 3 ms".to_owned()],
        measured: serde_json::Value::Null,
    };
    use crate::record::manifest::Verdict::{Invalid, Suspect};
    data.manifest.client_health = vec![health("closed-4", Suspect), health("poisson-16", Suspect)];
    let replays = run(&data, &Options::default()).unwrap();
    assert_eq!((replays.n_suspect, replays.notes.len()), (2, 2), "{:?}", replays.notes);
    for (note, role) in replays.notes.iter().zip(["calibration", "judged"]) {
        let said = format!("1 of 4 {role} cells are SUSPECT");
        assert!(note.contains(&said) && note.contains("late by 3 ms"), "{note}");
    }
    data.manifest.client_health = vec![health("poisson-16", Invalid)];
    let kept = run(&data, &Options { keep_invalid: true, ..Options::default() }).unwrap();
    assert_eq!(kept.n_suspect, 0);
    assert!(kept.notes[0].contains("1 of 4 judged cells are INVALID"), "{:?}", kept.notes);
}
