//! Judging made-up runs whose answers are known.

use std::collections::BTreeSet;

use super::*;
use crate::record::{
    KernelRow, PROBE_METHOD, RequestRow, Table,
    manifest::{self, LinkFacts, SloFacts},
    parquet::TableRow as _,
};

const MS: i64 = 1_000_000;

pub(super) fn data(cells: &[&str], kernels: &[KernelRow], requests: &[RequestRow]) -> RunData {
    RunData {
        manifest: manifest::example("r", cells),
        requests: RequestRow::frame(requests).unwrap(),
        warm_up: Table::Requests.empty().unwrap(),
        kernels: KernelRow::frame(kernels).unwrap(),
        telemetry: Table::Telemetry.empty().unwrap(),
        engine_metrics: Table::EngineMetrics.empty().unwrap(),
        finished: cells.iter().map(|id| (*id).to_owned()).collect::<BTreeSet<_>>(),
        scores: vec![],
        matched: vec![],
        scores_unused: vec![],
    }
}

fn launch(method: &str, repeat: i64, sample: i64, duration_ns: i64, bytes: i64) -> KernelRow {
    KernelRow {
        cell_id: format!("example/cpu/{method}/decode-b4/launch/{repeat}"),
        target: "cpu".to_owned(),
        method: method.to_owned(),
        workload: "decode-b4".to_owned(),
        load: "launch".to_owned(),
        repeat,
        op: if method == PROBE_METHOD { "read" } else { "decode" }.to_owned(),
        batch: 4,
        q_len: 1,
        kv_len: 8192,
        kv_tokens: 4 * 8192,
        sample: Some(sample),
        duration_ns: Some(duration_ns),
        thread_cpu_ns: Some(duration_ns),
        bytes_moved: Some(bytes),
        flops: Some(bytes),
        max_rel_err: Some(1e-4),
        verified: true,
        ..KernelRow::default()
    }
}

/// fp16 takes 4 ms at 10 GB/s, int8 2.5 ms for half the bytes; the probe reads 20 GB/s. The whole machine is twice as
/// slow in odd rounds, which pairing must remove.
fn kernel_rows() -> Vec<KernelRow> {
    let mut rows = Vec::new();
    for repeat in 0..2 {
        for sample in 0..20 {
            let slow = 1 + sample % 2;
            rows.push(launch("fp16", repeat, sample, 4 * MS * slow, 40 * MS));
            rows.push(launch("fp16-aa", repeat, sample, 4 * MS * slow, 40 * MS));
            rows.push(launch("int8", repeat, sample, 5 * MS / 2 * slow, 20 * MS));
        }
        rows.push(launch(PROBE_METHOD, repeat, 0, MS, 20 * MS));
    }
    rows
}

fn kernel_cells() -> Vec<String> {
    let methods = ["fp16", "fp16-aa", "int8"];
    (0..2)
        .flat_map(|repeat| methods.map(|m| format!("example/cpu/{m}/decode-b4/launch/{repeat}")))
        .collect()
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-9 * b.abs().max(1.0)
}

fn of<'a>(judgement: &'a Judgement, method: &str) -> &'a KernelPoint {
    judgement.kernels.iter().find(|point| point.point.method == method).unwrap()
}

#[test]
fn kernels_by_hand() {
    let cells = kernel_cells();
    let cells: Vec<&str> = cells.iter().map(String::as_str).collect();
    let judgement = judge(&data(&cells, &kernel_rows(), &[])).unwrap();
    let (fp16, int8) = (of(&judgement, "fp16"), of(&judgement, "int8"));
    assert_eq!((fp16.n_samples, fp16.n_repeats, fp16.speedup), (40, 2, None));
    assert!(close(fp16.duration_ms.unwrap().value, 6.0), "median of 4 and 8 ms: {fp16:?}");
    let (p10, p90) = fp16.duration_p10_p90_ms.unwrap();
    assert!(close(p10, 4.0) && close(p90, 8.0), "{p10} {p90}");
    assert!(close(fp16.tokens_per_s.unwrap().value, 4.0 / 0.006));
    assert!(close(fp16.gb_per_s.unwrap(), 40.0 / 6.0) && close(fp16.read_gb_per_s.unwrap(), 20.0));
    assert!(close(fp16.bandwidth_fraction.unwrap(), 0.375), "half at 10, half at 5 of 20 GB/s");
    let speedup = int8.speedup.unwrap();
    assert!(close(speedup.value, 1.6) && speedup.n == 40, "{speedup:?}");
    assert!(close(int8.ideal_speedup.unwrap(), 2.0) && close(int8.captured_fraction.unwrap(), 0.6));
    assert!(close(int8.cpu_speedup.unwrap().value, 1.6));
    assert_eq!(
        (of(&judgement, "fp16-aa").noise_floor, int8.within_noise),
        (Some(0.0), Some(false))
    );
    assert_eq!(
        (judgement.verdict, judgement.warnings.len()),
        (Verdict::Valid, 0),
        "{:?}",
        judgement.warnings
    );
}

#[test]
fn summaries_cover_cells_and_points() {
    let cells = kernel_cells();
    let cells: Vec<&str> = cells.iter().map(String::as_str).collect();
    let judgement = judge(&data(&cells, &kernel_rows(), &[])).unwrap();
    let n = |id: &str| {
        judgement
            .summary
            .iter()
            .find(|row| row.cell_id == id && row.metric == "decode_duration")
            .unwrap()
            .n
    };
    assert_eq!(n("example/cpu/int8/decode-b4/launch/1"), 20);
    assert_eq!(n("example/cpu/int8/decode-b4/launch/*"), 40);
}

#[test]
fn what_speaks_against_kernels_is_said() {
    let cells = kernel_cells();
    let cells: Vec<&str> = cells.iter().map(String::as_str).collect();
    let mut rows = kernel_rows();
    for row in &mut rows {
        match row.method.as_str() {
            "int8" => (row.verified, row.duration_ns, row.sample) = (false, None, None),
            PROBE_METHOD if row.repeat == 1 => row.duration_ns = Some(2 * MS),
            "fp16-aa" => row.duration_ns = row.duration_ns.map(|ns| ns + ns / 10),
            _ => {}
        }
    }
    let mut data = data(&cells, &rows, &[]);
    data.finished.remove(cells[0]);
    let judgement = judge(&data).unwrap();
    assert_eq!(judgement.verdict, Verdict::Invalid);
    let has = |wanted: fn(&Warning) -> bool| judgement.warnings.iter().any(wanted);
    assert!(
        has(|w| matches!(w, Warning::Unverified { points } if points.len() == 1)),
        "{:?}",
        judgement.warnings
    );
    assert!(has(|w| matches!(w, Warning::Drift { ratio } if close(*ratio, 2.0))));
    assert!(has(|w| matches!(w, Warning::AaOutside { points: 1, of: 1, .. })));
    assert!(has(|w| matches!(w, Warning::Interrupted { unfinished: 1, planned: 6 })));
    assert_eq!(of(&judgement, "int8").duration_ms, None, "no time, and not a time of zero");
    rows.retain(|row| row.method != PROBE_METHOD);
    data.kernels = KernelRow::frame(&rows).unwrap();
    assert!(judge(&data).unwrap().warnings.contains(&Warning::NoProbe));
}

/// Due at 0, sent 1 ms later, first token at 11 ms, then one token every 10 ms.
fn answer(method: &str, repeat: i64, request_id: i64, tokens: i64) -> RequestRow {
    let chunk_ns: Vec<i64> = (0..tokens).map(|token| (11 + 10 * token) * MS).collect();
    RequestRow {
        cell_id: format!("example/{method}-server/{method}/chat/closed-2/{repeat}"),
        target: format!("{method}-server"),
        method: method.to_owned(),
        workload: "chat".to_owned(),
        load: "closed-2".to_owned(),
        repeat,
        request_id,
        due_ns: 0,
        sent_ns: Some(MS),
        first_token_ns: chunk_ns.first().copied(),
        last_token_ns: chunk_ns.last().copied(),
        done_ns: Some(1001 * MS),
        chunk_ns,
        prompt_tokens: Some(100),
        output_tokens: Some(tokens),
        token_source: Some("usage".to_owned()),
        max_tokens: 64,
        attempt: 1,
        finish_reason: Some("stop".to_owned()),
        ..RequestRow::default()
    }
}

#[test]
fn one_request_by_hand() {
    let facts = facts(&answer("fp16", 0, 0, 5), None);
    assert_eq!((facts.ttft_ms, facts.ttft_due_ms), (Some(10.0), Some(11.0)));
    assert_eq!(
        (facts.e2e_ms, facts.tpot_ms, facts.queue_delay_ms),
        (Some(50.0), Some(10.0), Some(1.0))
    );
    assert_eq!(facts.itl_ms, [10.0; 4]);
    assert_eq!(facts.within_slo, None);
}

#[test]
fn a_chunk_is_not_a_token() {
    let mut row = answer("fp16", 0, 0, 3);
    row.output_tokens = Some(5);
    assert_eq!(
        facts(&row, None).itl_ms,
        [0.0; 0],
        "five tokens in three chunks: nobody knows which came when"
    );
    assert_eq!(facts(&row, None).icl_ms, [10.0, 10.0]);
    row.chunk_tokens = vec![2, 0, 3];
    assert_eq!(facts(&row, None).itl_ms, [0.0, 20.0, 0.0, 0.0]);
    row.output_tokens = None;
    assert_eq!(facts(&row, None).tpot_ms, None);
    row.output_tokens = Some(1);
    assert_eq!(facts(&row, None).tpot_ms, None);
}

#[test]
fn failed_requests_are_counted_and_in_no_latency() {
    let mut rows: Vec<RequestRow> = (0..4).map(|id| answer("fp16", 0, id, 5)).collect();
    rows[1].err = Some("connect: refused by 10.0.0.1".to_owned());
    rows[2].finish_reason = Some("length".to_owned());
    rows[3].output_tokens = None;
    let cells = ["example/fp16-server/fp16/chat/closed-2/0"];
    let mut data = data(&cells, &[], &rows);
    data.manifest.scenario.slo =
        Some(SloFacts { ttft_ms: Some(11.0), tpot_ms: Some(10.0), e2e_ms: None });
    let judgement = judge(&data).unwrap();
    let point = &judgement.requests[0];
    assert_eq!(
        (point.n_requests, point.n_failed, point.n_truncated, point.failures["connect"]),
        (4, 1, 1, 1)
    );
    assert_eq!(point.metric("ttft").unwrap().n, 3);
    assert_eq!(point.metric("ttft").unwrap().p99, None);
    assert!(close(point.duration_s.unwrap(), 1.0));
    assert!(close(point.requests_per_s.unwrap().value, 3.0));
    assert_eq!(
        point.output_tokens_per_s, None,
        "one answer was not counted, so the rate is unknown"
    );
    assert!(
        close(point.goodput_per_s.unwrap().value, 2.0),
        "the uncounted answer has no TPOT, so it is not on time"
    );
    let has = |wanted: fn(&Warning) -> bool| judgement.warnings.iter().any(wanted);
    assert!(has(|w| matches!(w, Warning::FailedRequests { failed: 1, total: 4, .. })));
    assert!(has(|w| matches!(w, Warning::TokensUnknown { requests: 1, of: 3 })));
    assert!(has(|w| matches!(w, Warning::FewSamples { points: 1, smallest: 3 })));
    assert_eq!(judgement.verdict, Verdict::Suspect);
}

#[test]
fn prompts_are_paired_across_servers() {
    let mut rows = Vec::new();
    for id in 0..30 {
        rows.push(answer("fp16", 0, id, 5 + id));
        rows.push(answer("kivi", 0, id, 2 * (5 + id)));
    }
    rows.push(answer("kivi", 0, 99, 1000));
    let cells =
        ["example/fp16-server/fp16/chat/closed-2/0", "example/kivi-server/kivi/chat/closed-2/0"];
    let judgement = judge(&data(&cells, &[], &rows)).unwrap();
    let length =
        judgement.comparisons.iter().find(|ratio| ratio.metric == "output_tokens").unwrap();
    assert!(
        close(length.ratio.value, 2.0) && length.ratio.n == 30,
        "the unpaired prompt is left out: {length:?}"
    );
    assert_eq!((length.baseline.target.as_str(), length.within_noise), ("fp16-server", None));
    assert!(judgement.comparisons.iter().all(|ratio| ratio.point.method == "kivi"));
}

#[test]
fn a_late_generator_is_named() {
    let mut rows: Vec<RequestRow> = (0..4).map(|id| answer("fp16", 0, id, 5)).collect();
    rows.iter_mut().for_each(|row| row.due_ns = -50 * MS);
    let judgement =
        judge(&data(&["example/fp16-server/fp16/chat/closed-2/0"], &[], &rows)).unwrap();
    let late =
        judgement.warnings.iter().find(|w| matches!(w, Warning::LateGenerator { .. })).unwrap();
    assert!(late.to_string().contains("give the client more CPU"), "{late}");
}

fn client(cell_id: &str, verdict: Verdict) -> manifest::ClientFacts {
    let reasons = vec!["p99 lag".to_owned()];
    manifest::ClientFacts {
        cell_id: cell_id.to_owned(),
        verdict,
        reasons,
        measured: serde_json::Value::Null,
    }
}

#[test]
fn an_answer_in_one_chunk_has_no_tpot() {
    let mut row = answer("fp16", 0, 0, 10);
    let at = row.first_token_ns.unwrap();
    (row.chunk_ns, row.last_token_ns) = (vec![at], Some(at));
    assert_eq!(facts(&row, None).tpot_ms, None);
}

#[test]
fn an_answer_cut_by_a_full_context_has_no_length() {
    let mut row = answer("fp16", 0, 0, 10);
    (row.finish_reason, row.max_tokens) = (Some("length".to_owned()), 64);
    assert_eq!(
        (facts(&row, None).output_tokens, facts(&row, None).answer_tokens),
        (Some(10), None)
    );
    row.max_tokens = 10;
    assert_eq!(facts(&row, None).answer_tokens, Some(10));
}

#[test]
fn a_starved_client_makes_the_run_invalid() {
    let row = answer("fp16", 0, 0, 10);
    let cell = row.cell_id.clone();
    let mut data = data(&[&cell], &[], &[row]);
    data.manifest.client_health = vec![client(&cell, Verdict::Invalid)];
    let judgement = judge(&data).unwrap();
    assert_eq!(judgement.verdict, Verdict::Invalid);
    assert!(judgement.warnings.iter().any(|warning| warning.to_string().contains("p99 lag")));
    data.manifest.client_health = vec![client(&cell, Verdict::Valid)];
    data.manifest.proofs = vec![manifest::ProofFacts {
        cell_id: cell.clone(),
        verdict: Verdict::Valid,
        reasons: Vec::new(),
        salt: None,
    }];
    assert_eq!(judge(&data).unwrap().verdict, Verdict::Valid);
}

#[test]
fn a_client_that_nobody_watched_is_suspect() {
    let row = answer("fp16", 0, 0, 10);
    let cell = row.cell_id.clone();
    let judgement = judge(&data(&[&cell], &[], &[row])).unwrap();
    assert!(judgement.warnings.contains(&Warning::ClientUnknown { cells: 1 }));
    assert_eq!(judgement.verdict, Verdict::Suspect);
}

#[test]
fn a_run_without_rows_has_nothing_to_say_but_that() {
    let judgement = judge(&data(&["example/cpu/fp16/w/launch/0"], &[], &[])).unwrap();
    assert!(
        judgement.summary.is_empty()
            && judgement.kernels.is_empty()
            && judgement.requests.is_empty()
    );
}

#[test]
fn intervals_do_not_depend_on_what_else_is_in_the_run() {
    let cells = kernel_cells();
    let cells: Vec<&str> = cells.iter().map(String::as_str).collect();
    let mut rows = kernel_rows();
    let whole = judge(&data(&cells, &rows, &[])).unwrap();
    rows.retain(|row| row.method != "fp16-aa");
    let part = judge(&data(&cells, &rows, &[])).unwrap();
    assert_eq!(of(&whole, "int8").speedup, of(&part, "int8").speedup);
}

/// The same work on one and on two ranks, int8 twice as fast as fp16 on both; a rank of two takes half as long.
fn rank_rows() -> Vec<KernelRow> {
    let mut rows = Vec::new();
    for (ranks, workload, ns) in [(1, "decode-b4", 8 * MS), (2, "decode-b4-tp2", 4 * MS)] {
        for sample in 0..20 {
            for (method, ns) in [("fp16", ns), ("fp16-aa", ns), ("int8", ns / 2)] {
                rows.push(KernelRow {
                    cell_id: format!("example/cpu/{method}/{workload}/launch/0"),
                    workload: workload.to_owned(),
                    heads_q: 32 / ranks,
                    head_dim: 128,
                    tensor_parallel: ranks,
                    ..launch(method, 0, sample, ns, ns)
                });
            }
        }
    }
    rows
}

#[test]
fn ranks_are_measured_and_their_talk_is_modelled() {
    let rows = rank_rows();
    let mut cells: Vec<&str> = rows.iter().map(|row| row.cell_id.as_str()).collect();
    cells.dedup();
    let mut data = data(&cells, &rows, &[]);
    let bare = judge(&data).unwrap().parallel;
    assert_eq!(bare.len(), 4, "two methods on one and two ranks; the control is no method");
    let of = |points: &[ParallelPoint], method: &str, ranks: i64| {
        let wanted = |p: &&ParallelPoint| p.point.method == method && p.tensor_parallel == ranks;
        points.iter().find(wanted).cloned().unwrap()
    };
    let split = of(&bare, "int8", 2);
    assert!(
        close(split.measured_ms.unwrap().value, 2.0) && close(split.speedup.unwrap().value, 2.0)
    );
    assert_eq!(
        (split.communication_ms, split.total_ms, split.speedup_over_one),
        (None, None, None)
    );
    let alone = of(&bare, "int8", 1);
    assert_eq!((alone.communication_ms, alone.speedup_over_one), (Some(0.0), None));
    // 4 tokens, 4096 wide, in two bytes: 32768 bytes, all of them sent once at 0.032768 bytes a ns, and 2 times 500 us.
    let link = LinkFacts { bandwidth_gb_s: 0.032768, latency_us: 500.0 };
    data.manifest.scenario.links.insert("cpu".to_owned(), link);
    let linked = judge(&data).unwrap().parallel;
    let split = of(&linked, "int8", 2);
    assert!(close(split.communication_ms.unwrap(), 2.0), "{split:?}");
    assert!(close(split.total_ms.unwrap().value, 4.0));
    assert!(close(split.speedup_over_one.unwrap().value, 1.0), "4 ms alone, 2 + 2 ms on two");
    assert!(close(split.speedup.unwrap().value, 2.0), "against fp16 on two ranks");
    assert!(close(split.speedup_total.unwrap().value, 1.5), "(4 + 2) / (2 + 2)");
    assert!(close(of(&linked, "fp16", 2).speedup_over_one.unwrap().value, 8.0 / 6.0));
}

#[test]
fn methods_are_compared_at_the_same_degree_even_under_one_name() {
    let mut rows = rank_rows();
    rows.iter_mut().for_each(|row| row.workload = "decode-b4".to_owned());
    rows.retain(|row| row.tensor_parallel == 1 || row.method != "fp16");
    let cells = ["example/cpu/int8/decode-b4/launch/0"];
    let judgement = judge(&data(&cells, &rows, &[])).unwrap();
    let lonely = |k: &&KernelPoint| k.point.method == "int8" && k.tensor_parallel == 2;
    assert_eq!(judgement.kernels.iter().find(lonely).unwrap().speedup, None);
}

/// `results/README.md` explains every column of every table under that table's heading.
#[test]
fn every_column_is_documented() {
    let readme = include_str!("../../results/README.md");
    let tables: [(&str, &[&str]); 7] = [
        ("requests", RequestRow::COLUMNS),
        ("kernels", KernelRow::COLUMNS),
        ("telemetry", crate::record::TelemetryRow::COLUMNS),
        ("engine_metrics", crate::record::EngineMetricRow::COLUMNS),
        ("summary", SummaryRow::COLUMNS),
        ("scores", score_run::ScoreRow::COLUMNS),
        ("scores_matched", score_run::MatchedRow::COLUMNS),
    ];
    for (table, columns) in tables {
        let (_, section) = readme.split_once(&format!("### {table}.parquet")).unwrap();
        let section = section.split("\n#").next().unwrap();
        let documented: Vec<&str> =
            section.lines().filter_map(|l| l.strip_prefix("| `")?.split('`').next()).collect();
        assert_eq!(documented, columns, "columns of {table} in results/README.md, in order");
    }
}

/// A run of served cells: each with `n` answers of ten tokens under `edit`, two at a time, the client not judged.
pub(super) fn served_run(cells: &[&str], n: usize, edit: impl Fn(&mut RequestRow)) -> RunData {
    let mut data = data(cells, &[], &[]);
    let mut rows = Vec::new();
    for cell in &data.manifest.cells {
        for id in 0..n as i64 {
            let mut row = answer(&cell.method, i64::from(cell.repeat), id, 10);
            row.cell_id.clone_from(&cell.id);
            row.target.clone_from(&cell.target);
            row.load.clone_from(&cell.load);
            edit(&mut row);
            rows.push(row);
        }
    }
    data.requests = RequestRow::frame(&rows).unwrap();
    data
}
