//! Made-up rows whose passes are known.

use serde_json::json;

use super::{engine::STEPS_MIN, *};
use crate::{
    analyse::tests::data,
    predict::{Phase, Source},
    record::{
        KernelRow, PROBE_METHOD, RequestRow,
        manifest::{ProofFacts, Verdict},
        parquet::TableRow as _,
    },
};

const MS: i64 = 1_000_000;

const SCENARIO: &str = r#"
name = "example"
baseline = "fp16"
[target.cpu.kernel]
model = "llama-2-7b"
device = "cpu"
[target.server.engine]
url = "http://127.0.0.1:8000/"
endpoint = "completions"
model = "toy"
method = "fp16"
[method.fp16.fp16]
[method.int8.int8]
[method.stream.streaming]
sink = 4
window = 508
[workload.grid.shapes]
ops = ["decode"]
batch = [4]
kv_len = [8192]
[workload.chat.synthetic]
n_requests = 4
prompt_tokens = { fixed = 100 }
output_tokens = { fixed = 10 }
[load.loop.closed]
concurrency = [2]
"#;

fn run(kernels: &[KernelRow], requests: &[RequestRow]) -> RunData {
    let mut data = data(&[], kernels, requests);
    data.manifest.scenario.text = SCENARIO.to_owned();
    data
}

fn launch(method: &str, op: &str, repeat: i64, duration_ns: i64) -> KernelRow {
    KernelRow {
        run_id: "r".to_owned(),
        target: "cpu".to_owned(),
        method: method.to_owned(),
        repeat,
        device: "CPU".to_owned(),
        backend: "cpu-avx2".to_owned(),
        op: op.to_owned(),
        model_shape: "llama-2-7b".to_owned(),
        batch: 4,
        q_len: if op == "decode" { 1 } else { 1024 },
        kv_len: 1024,
        kv_tokens: 4096,
        tensor_parallel: 1,
        duration_ns: Some(duration_ns),
        verified: true,
        ..KernelRow::default()
    }
}

/// A stream: sent, its first token `ttft_ms` later, then one token every `step_ms`.
fn answer(id: i64, sent_ms: i64, ttft_ms: i64, step_ms: i64, tokens: i64) -> RequestRow {
    let chunk_ns: Vec<i64> =
        (0..tokens).map(|token| (sent_ms + ttft_ms + step_ms * token) * MS).collect();
    RequestRow {
        run_id: "r".to_owned(),
        cell_id: "example/server/fp16/chat/closed-2/0".to_owned(),
        target: "server".to_owned(),
        method: "fp16".to_owned(),
        workload: "chat".to_owned(),
        load: "closed-2".to_owned(),
        request_id: id,
        sent_ns: Some(sent_ms * MS),
        first_token_ns: chunk_ns.first().copied(),
        last_token_ns: chunk_ns.last().copied(),
        done_ns: chunk_ns.last().copied(),
        chunk_ns,
        prompt_tokens: Some(100),
        output_tokens: Some(tokens),
        token_source: Some("usage".to_owned()),
        attempt: 1,
        ..RequestRow::default()
    }
}

fn rows(left_out: &[LeftOut]) -> usize {
    left_out.iter().map(|it| it.rows).sum()
}

fn of_phase(passes: &Passes, phase: Phase) -> Vec<&Observation> {
    passes.observations.iter().filter(|it| it.pass.work.phase == phase).collect()
}

#[test]
fn kernels_give_one_median_a_repeat_and_the_control_is_a_repeat() {
    let mut rows_in: Vec<KernelRow> =
        [3, 1, 2].map(|ms| launch("fp16", "decode", 0, ms * MS)).to_vec();
    rows_in.push(launch("fp16", "decode", 1, 5 * MS));
    rows_in.push(launch("fp16-aa", "decode", 0, 4 * MS));
    rows_in.push(launch("stream", "decode", 0, MS));
    rows_in.push(launch("fp16", "prefill", 0, 9 * MS));
    let passes = of(&[run(&rows_in, &[])]).unwrap();
    assert_eq!((passes.n_rows_used, passes.left_out.len()), (7, 0), "{:?}", passes.left_out);
    let rows: Vec<String> =
        passes.observations.iter().map(|it| it.rows[0].rows.to_string()).collect();
    assert_eq!(rows, ["6", "0-4", "5"], "places of the launches in the table");
    let decode = of_phase(&passes, Phase::Decode);
    let [fp16, stream] = decode[..] else { panic!("{decode:?}") };
    assert_eq!(fp16.pass.repeats_s, [0.002, 0.005, 0.004]);
    assert_eq!((fp16.method.as_str(), fp16.is_baseline, fp16.budget), ("fp16", true, None));
    assert_eq!(fp16.pass.work, Work::decode([1024.0; 4], None));
    assert_eq!((stream.is_baseline, stream.budget), (false, Some(512.0)));
    assert!((stream.pass.work.attended - 2048.0).abs() < 1e-9);
    assert_eq!(fp16.subject.source, Source::Kernel);
    let prefill = of_phase(&passes, Phase::Prefill);
    assert_eq!(prefill[0].pass.work, Work::prefill([(1024.0, 0.0); 4]));
}

#[test]
fn every_kernel_row_is_used_or_counted() {
    let failed = KernelRow {
        err: Some("no memory".to_owned()),
        duration_ns: None,
        ..launch("fp16", "decode", 0, 0)
    };
    let unverified = KernelRow { verified: false, ..launch("fp16", "decode", 0, MS) };
    let ragged = KernelRow { kv_tokens: 3000, ..launch("stream", "decode", 0, MS) };
    let ragged_fp16 = KernelRow { kv_tokens: 3000, ..launch("fp16", "decode", 0, MS) };
    let ragged_prefill = KernelRow { kv_tokens: 3000, ..launch("fp16", "prefill", 0, MS) };
    let rows_in = [
        launch(PROBE_METHOD, "read", 0, MS),
        launch("int8", "compress", 0, MS),
        failed,
        unverified,
        ragged,
        ragged_fp16,
        ragged_prefill,
        launch("peer:torch", "decode", 0, MS),
        launch("int8", "decode", 0, MS),
    ];
    let passes = of(&[run(&rows_in, &[])]).unwrap();
    assert_eq!(passes.n_rows_used, 2, "the ragged batch that keeps all, and int8: {passes:?}");
    assert_eq!((rows(&passes.left_out), passes.left_out.len()), (7, 7), "{:?}", passes.left_out);
    assert!((of_phase(&passes, Phase::Decode)[0].pass.work.attended - 3000.0).abs() < 1e-9);
}

#[test]
fn repeats_of_two_runs_add_up() {
    let one = |ms| run(&[launch("fp16", "decode", 0, ms * MS)], &[]);
    let passes = of(&[one(1), one(3)]).unwrap();
    assert_eq!(passes.observations.len(), 1);
    assert_eq!(passes.observations[0].pass.repeats_s, [0.001, 0.003]);
    let rows = &passes.observations[0].rows;
    assert_eq!((rows.len(), rows[0].rows.to_string()), (1, "0".to_owned()), "{rows:?}");
}

#[test]
fn a_known_step_is_recovered() {
    // Two streams decode together from 40 ms to 240 ms; the second prompt is read while the first one decodes.
    let first = answer(0, 0, 20, 20, 12);
    let second = answer(1, 20, 20, 20, 11);
    let passes = of(&[run(&[], &[first, second])]).unwrap();
    let decode = of_phase(&passes, Phase::Decode);
    let both: Vec<_> = decode.iter().filter(|it| it.pass.work.batch > 1.5).collect();
    assert!(!both.is_empty(), "{passes:?}");
    for it in both {
        assert_eq!(it.pass.repeats_s, [0.02]);
        assert!((it.pass.work.attended / 2.0 - 106.0).abs() < 7.0, "{:?}", it.pass.work);
    }
    let prefill = of_phase(&passes, Phase::Prefill);
    assert_eq!(prefill.len(), 1, "the second prompt did not meet an idle server");
    assert_eq!(prefill[0].pass.repeats_s, [0.02]);
    assert_eq!(prefill[0].pass.work, Work::prefill([(100.0, 0.0)]));
    assert_eq!((passes.n_rows_used, rows(&passes.left_out)), (2, 0));
    assert_eq!(prefill[0].subject.model, "toy");
}

/// One binary under two targets, or under two variants of one, is two servers.
#[test]
fn two_servers_of_one_binary_are_two_subjects() {
    let other = RequestRow {
        cell_id: "example/server-fast/fp16/chat/closed-2/0".to_owned(),
        target: "server-fast".to_owned(),
        ..answer(1, 0, 20, 10, 10)
    };
    let mut data = run(&[], &[answer(0, 0, 20, 30, 10), other]);
    for target in ["server", "server-fast"] {
        let proof = json!({"target": target, "method": "fp16", "engine": "e", "version": "1"});
        data.manifest.engines.insert(target.to_owned(), json!({ "proof": proof }));
    }
    let passes = of(&[data]).unwrap();
    let decode = of_phase(&passes, Phase::Decode);
    let [slow, fast] = decode[..] else { panic!("{decode:?}") };
    assert_eq!((&*slow.subject.engine, &*fast.subject.engine), ("e 1", "e 1"));
    assert_eq!(fast.subject.target.as_deref(), Some("server-fast"));
    assert!(fast.subject.words().contains("target server-fast"), "{}", fast.subject.words());
    let groups = crate::predict::points::groups(&passes.observations);
    let decode = groups.iter().filter(|group| group.phase == Phase::Decode);
    let times: Vec<f64> = decode.map(|group| group.points[0].time_s).collect();
    assert_eq!(times, [0.03, 0.01], "none is fitted with the other");
}

/// Two runs of one target, whose server had other slots in each, are no repeats of one another.
#[test]
fn other_flags_are_another_subject() {
    let started = |flags: &str, ms: i64| {
        let mut data = run(&[], &[answer(0, 0, 20, ms, 10)]);
        let start = format!(
            "engine = \"llamacpp\"\nmodel = \"toy.gguf\"\nendpoint = \"completions\"\nmethods = [\"fp16\"]\nflags = [{flags}]"
        );
        let running = "url = \"http://127.0.0.1:8000/\"\nendpoint = \"completions\"\nmodel = \"toy\"\nmethod = \"fp16\"";
        assert!(SCENARIO.contains(running));
        data.manifest.scenario.text = SCENARIO.replace(running, &start);
        data
    };
    let (four, eight) = (started("\"-np\", \"4\"", 30), started("\"-np\", \"8\"", 10));
    let passes = of(&[four.clone(), eight]).unwrap();
    let decode = of_phase(&passes, Phase::Decode);
    let [four_slots, eight_slots] = decode[..] else { panic!("{decode:?}") };
    assert_eq!(four_slots.pass.repeats_s, [0.03]);
    assert!(four_slots.subject.words().contains("-np 4"), "{}", four_slots.subject.words());
    assert!(eight_slots.subject.is_called("-NP 8"), "{}", eight_slots.subject.words());
    let again = of(&[four.clone(), four]).unwrap();
    assert_eq!(of_phase(&again, Phase::Decode)[0].pass.repeats_s, [0.03, 0.03]);
}

#[test]
fn a_step_with_a_prefill_in_flight_is_not_counted() {
    // A second prompt is on its way from 45 ms to 205 ms: steps of the first take 100 instead of 10 ms.
    let mut first = answer(0, 0, 20, 10, 3);
    first.chunk_ns.extend([140, 240, 250, 260, 270, 280, 290, 300].map(|ms| ms * MS));
    first.last_token_ns = first.chunk_ns.last().copied();
    first.output_tokens = Some(11);
    let second = answer(1, 45, 160, 10, 2);
    let passes = of(&[run(&[], &[first, second])]).unwrap();
    let decode = of_phase(&passes, Phase::Decode);
    assert_eq!(decode.len(), 1, "{decode:?}");
    assert_eq!(decode[0].pass.repeats_s, [0.01], "no gap of 100 ms is a step");
    let steps: usize = rows(&passes.steps_left_out);
    assert!(steps >= 3, "two long gaps, and one of the second stream: {:?}", passes.steps_left_out);
}

#[test]
fn chunks_of_several_tokens_are_divided_where_their_tokens_are_known() {
    let mut known = answer(0, 0, 20, 30, 8);
    (known.chunk_tokens, known.output_tokens) = (vec![3; 8], Some(24));
    known.prompt_tokens = Some(1000);
    let unknown = RequestRow { chunk_tokens: vec![], ..known.clone() };
    let passes = of(&[run(&[], &[known])]).unwrap();
    assert_eq!(of_phase(&passes, Phase::Decode)[0].pass.repeats_s, [0.01]);
    let passes = of(&[run(&[], &[unknown])]).unwrap();
    assert_eq!(of_phase(&passes, Phase::Decode).len(), 0);
    assert_eq!(passes.n_rows_used, 1, "its prompt met an idle server");
}

#[test]
fn a_stop_token_has_no_chunk() {
    let row = RequestRow {
        output_tokens: Some(11),
        finish_reason: Some("stop".to_owned()),
        ..answer(0, 0, 20, 10, 10)
    };
    let passes = of(&[run(&[], &[row])]).unwrap();
    assert_eq!(of_phase(&passes, Phase::Decode)[0].pass.repeats_s, [0.01]);
}

#[test]
fn every_request_is_used_or_counted() {
    let good = answer(0, 0, 20, 10, 10);
    let failed = RequestRow { err: Some("reset".to_owned()), ..answer(1, 1000, 20, 10, 10) };
    let uncounted = RequestRow {
        prompt_tokens: None,
        output_tokens: None,
        token_source: None,
        ..answer(2, 2000, 20, 10, 10)
    };
    let chunky = RequestRow { output_tokens: Some(99), ..answer(3, 3000, 20, 10, 10) };
    let busy = RequestRow { output_tokens: Some(2), ..answer(4, 3050, 20, 10, 2) };
    let never = RequestRow {
        first_token_ns: None,
        last_token_ns: None,
        sent_ns: None,
        ..answer(5, 4000, 1, 1, 0)
    };
    let passes = of(&[run(&[], &[good, failed, uncounted, chunky, busy, never])]).unwrap();
    assert_eq!(passes.n_rows_used + rows(&passes.left_out), 6, "{:?}", passes.left_out);
    let reasons: Vec<&str> = passes.left_out.iter().map(|it| it.reason.as_str()).collect();
    assert_eq!(reasons.len(), 4, "{reasons:?}");
}

#[test]
fn warm_up_and_invalid_cells_give_nothing() {
    let mut data = run(&[], &[answer(0, 0, 20, 10, 10)]);
    data.warm_up = RequestRow::frame(&[answer(9, 25, 200, 10, 10)]).unwrap();
    let passes = of(&[data.clone()]).unwrap();
    assert_eq!(passes.left_out.len(), 1);
    assert_eq!(of_phase(&passes, Phase::Decode).len(), 0, "the warm-up request stood in the way");
    data.manifest.proofs = vec![ProofFacts {
        cell_id: "example/server/fp16/chat/closed-2/0".to_owned(),
        verdict: Verdict::Invalid,
        reasons: Vec::new(),
        salt: None,
    }];
    let passes = of(&[data]).unwrap();
    assert_eq!((passes.observations.len(), rows(&passes.left_out)), (0, 2));
}

/// Two chunks of the first stream come in the very moment in which the second prompt is sent.
#[test]
fn two_chunks_at_once_on_a_border_are_one_gap() {
    let mut first = answer(0, 0, 20, 10, 8);
    first.chunk_ns[2] = first.chunk_ns[1];
    let n_gaps = first.chunk_ns.len() - 1;
    let second = answer(1, 30, 20, 10, 1);
    let streams = [&first, &second].map(|row| timeline::Stream {
        row,
        number: 0,
        is_measured: true,
        tokens: timeline::Tokens::of(row),
    });
    let seen = timeline::read(&streams, None);
    let left_out: usize = seen.left_out.iter().map(|(_, steps)| steps).sum();
    assert_eq!(seen.steps.len() + left_out, n_gaps, "{:?}", seen.left_out);
}

#[test]
fn an_answer_of_one_token_does_not_decode_for_ever() {
    let passes = of(&[run(&[], &[answer(0, 0, 20, 10, 1), answer(1, 100, 20, 10, 10)])]).unwrap();
    let decode = of_phase(&passes, Phase::Decode);
    assert_eq!(decode.len(), 1, "{decode:?}");
    assert!((decode[0].pass.work.batch - 1.0).abs() < 1e-9, "{decode:?}");
}

/// Eight streams show each step of the engine eight times.
#[test]
fn a_step_that_many_streams_show_is_one_step() {
    let of_steps = |n: i64| {
        // All prompts are read by 20 ms; arrivals of a step lie some microseconds apart.
        let rows: Vec<RequestRow> = (0..8)
            .map(|id| {
                let mut row = answer(id, 0, 20, 10, n + 1);
                row.chunk_ns.iter_mut().for_each(|at| *at += id * 1000);
                (row.first_token_ns, row.last_token_ns) =
                    (row.chunk_ns.first().copied(), row.chunk_ns.last().copied());
                (row.prompt_tokens, row.done_ns) = (Some(1000), row.last_token_ns);
                row
            })
            .collect();
        let passes = of(&[run(&[], &rows)]).unwrap();
        of_phase(&passes, Phase::Decode).len()
    };
    let n = i64::try_from(STEPS_MIN).unwrap();
    // The first and the last step reach into the moments in which streams come and go.
    assert_eq!((of_steps(n), of_steps(n + 2)), (0, 1));
}

#[test]
fn a_bin_of_few_steps_is_no_median() {
    let n = i64::try_from(STEPS_MIN).unwrap();
    let few = of(&[run(&[], &[answer(0, 0, 20, 10, n)])]).unwrap();
    assert_eq!(of_phase(&few, Phase::Decode).len(), 0, "{} gaps", n - 1);
    assert_eq!(rows(&few.steps_left_out), STEPS_MIN - 1);
}

#[test]
fn a_folder_that_is_no_run_is_refused() {
    let error = load(&[PathBuf::from("/nowhere")]).unwrap_err();
    assert!(format!("{error:#}").contains("/nowhere"), "{error:#}");
}
