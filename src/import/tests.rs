use super::*;

pub(super) fn numbers(text: &str) -> (Imported, Vec<PeerRow>) {
    let file = parse(text).unwrap();
    let files = [file.clone()];
    let place = ("r-import", "2026-11-26T00:00:00Z");
    let manifest = manifest(&files, Vec::new(), place, Vec::new()).unwrap();
    let data = run_data(&files, manifest).unwrap();
    let rows = table(&files, &data).unwrap();
    (file, rows)
}

fn find<'a>(rows: &'a [PeerRow], method: &str, id: &str) -> &'a PeerRow {
    let wanted = |row: &&PeerRow| {
        row.cell_id.split('/').nth(2) == Some(method) && row.definition.as_deref() == Some(id)
    };
    rows.iter().find(wanted).unwrap_or_else(|| panic!("{method} {id} is not in {rows:#?}"))
}

fn lacks(rows: &[PeerRow], id: &str) -> bool {
    rows.iter().all(|row| row.definition.as_deref() != Some(id))
}

fn close(a: Option<f64>, b: f64) -> bool {
    a.is_some_and(|a| (a - b).abs() < 1e-6 * b.abs().max(1.0))
}

/// Two good requests (50 ms to the first message, gaps of 10 ms) and one that failed; the second waited 30 ms in the client.
pub(super) const VLLM: &str = r#"{"date": "20261126-010203", "endpoint_type": "openai-chat", "model_id": "org/m", "request_rate": "inf",
    "max_concurrency": 2, "duration": 0.2, "completed": 2, "failed": 1, "request_throughput": 10.0, "output_throughput": 35.0,
    "total_token_throughput": 60.0, "request_goodput": null, "max_concurrent_requests": 3, "mean_ttft_ms": 50.0,
    "median_ttft_ms": 50.0, "p99_ttft_ms": 50.0, "mean_tpot_ms": 10.0, "median_tpot_ms": 10.0, "mean_itl_ms": 10.0,
    "mean_e2el_ms": 70.0, "input_lens": [5, 5, 5], "output_lens": [3, 4, 0], "ttfts": [0.05, 0.05, 0.0],
    "itls": [[0.01, 0.01], [0.01, 0.01], []], "latencies": [0.07, 0.07, 0.0], "start_times": [100.0, 100.1, 100.2],
    "queue_times": [0.0, 0.03, 0.0], "generated_texts": ["a b c", "d e f", ""], "errors": ["", "", "Traceback:\nServerDisconnectedError"]}"#;

#[test]
fn vllm_lists_become_rows_under_their_own_ids() {
    let (file, rows) = numbers(VLLM);
    assert_eq!((file.tool, file.version), ("vllm-bench-serve", None));
    assert_eq!(find(&rows, "reported", "ttft.first_choices").n, Some(2));
    let ttft = find(&rows, "recomputed", "ttft.first_choices");
    assert_eq!(ttft.cell_id, "import/vllm-bench-serve/recomputed/org-m/closed-2/0");
    assert!(close(ttft.mean, 50.0) && ttft.n == Some(2), "the failed one is in no latency");
    assert!(close(find(&rows, "recomputed", "ttft.first_choices.from_due").mean, 65.0));
    // 20 ms over 2 and over 3 tokens after the first.
    let tpot = find(&rows, "recomputed", "tpot.request_mean.choices");
    assert!(close(tpot.mean, (10.0 + 20.0 / 3.0) / 2.0), "{tpot:?}");
    assert!(close(find(&rows, "recomputed", "requests.failed_share").mean, 1.0 / 3.0));
    assert_eq!(find(&rows, "recomputed", "itl.per_choices_chunk").n, Some(4));
    for id in ["ttft.first_content", "itl.per_token", "itl.per_chunk", "length.output.server_count"]
    {
        assert!(lacks(&rows, id), "{id}: these lists cannot tell");
    }
    assert!(lacks(&rows, "throughput.goodput_per_s.whole_run"), "null is not zero");
    assert!(rows.iter().filter(|row| row.is_recomputed()).all(|row| row.verdict.is_some()));
    assert_eq!(file.cells[0].rows[2].err.as_deref(), Some("ServerDisconnectedError"));
    assert_eq!(file.cells[0].rows[2].first_token_ns, None, "a zero of a failed request is no time");
    let notes = file.notes.join("\n");
    for part in [
        "no seed",
        "role first",
        "1 of 2 answers came in fewer messages",
        "1 of 3 requests failed",
        "exceeds the cap",
    ] {
        assert!(notes.contains(part), "{part}: {notes}");
    }
}

#[test]
fn what_a_file_does_not_say_is_unknown() {
    let without_queue = VLLM.replace(r#""queue_times": [0.0, 0.03, 0.0],"#, "");
    let (_, rows) = numbers(&without_queue);
    assert!(lacks(&rows, "ttft.first_choices.from_due") && lacks(&rows, "delay.sent_after_due"));
    let (start, _) = VLLM.split_once(r#""input_lens""#).unwrap();
    let (file, rows) = numbers(&format!("{}}}", start.trim_end().trim_end_matches(',')));
    assert!(file.cells[0].rows.is_empty() && rows.iter().all(|row| !row.is_recomputed()));
    let itl = find(&rows, "reported", "itl.per_choices_chunk");
    assert_eq!((itl.n, itl.p50, itl.p99), (None, None, None));
    assert!(file.notes.iter().any(|note| note.contains("--save-detailed")));
    let uneven = VLLM.replace(r#""ttfts": [0.05, 0.05, 0.0]"#, r#""ttfts": [0.05]"#);
    let error = format!("{:#}", parse(&uneven).unwrap_err());
    assert!(error.contains("ttfts: expected 3 entries"), "{error}");
}

/// One good request: first token after 50 ms, last after 140 ms, ended after 150 ms, ten tokens; sent 5 ms late.
pub(super) const GUIDELLM: &str = r#"{"metadata": {"guidellm_version": "0.8.1"}, "benchmarks": [{"config": {"strategy": {"type_": "poisson",
    "rate": 4.0, "worker_count": 10}, "backend": {"model": "m"}}, "metrics": {"time_to_first_token_ms": {"successful": {
    "mean": 50.0, "count": 1, "percentiles": {"p50": 50.0}}}, "request_latency": {"successful": {"mean": 0.15, "count": 1,
    "percentiles": {}}}, "inter_token_latency_ms": {"successful": {"mean": 10.0, "count": 9, "percentiles": {}}},
    "requests_per_second": {"successful": {"mean": 6.6, "count": 1, "percentiles": {"p50": 99.0}}}},
    "requests": {"successful": [{"prompt_tokens": 5, "output_tokens": 10, "output": "x", "inter_token_latency_ms": null,
    "info": {"timings": {"targeted_start": 1000.0, "request_start": 1000.005, "first_token_iteration": 1000.055,
    "last_token_iteration": 1000.145, "token_iterations": 10, "request_end": 1000.155}}}],
    "errored": [{"info": {"error": "boom", "timings": {"targeted_start": 1000.1}}}], "incomplete": []}, "warnings": []}]}"#;

#[test]
fn guidellm_requests_know_both_ends_of_an_answer() {
    let (file, rows) = numbers(GUIDELLM);
    assert_eq!((file.tool, file.version.as_deref()), ("guidellm", Some("0.8.1")));
    assert!(close(find(&rows, "reported", "e2e.done").mean, 150.0), "seconds to ms");
    assert_eq!(
        find(&rows, "reported", "throughput.requests_per_s.whole_run").p50,
        None,
        "a median of instants is no median of runs"
    );
    assert!(close(find(&rows, "recomputed", "ttft.first_content").mean, 50.0));
    assert!(close(find(&rows, "recomputed", "ttft.first_content.from_due").mean, 55.0));
    assert!(close(find(&rows, "recomputed", "tpot.request_mean").mean, 10.0));
    assert!(close(find(&rows, "recomputed", "e2e.last_content").mean, 140.0));
    assert!(close(find(&rows, "recomputed", "requests.failed_share").mean, 0.5));
    assert!(lacks(&rows, "itl.per_chunk") && lacks(&rows, "itl.per_token"));
    assert_eq!(file.cells[0].rows[1].err.as_deref(), Some("boom"));
    let notes = file.notes.join("\n");
    assert!(
        notes.contains("Poisson") && notes.contains("1 of 1 good requests have no ITL"),
        "{notes}"
    );
}

pub(super) const AIPERF_LINE: &str = r#"{"metadata": {"conversation_id": "s1", "turn_index": 0, "credit_issued_ns": 1795463015204998603,
    "request_start_ns": 1795463015206998603, "request_end_ns": 1795463015306998603, "was_cancelled": false,
    "benchmark_phase": "profiling"}, "metrics": {"time_to_first_token": {"value": 50.0, "unit": "ms"}, "request_latency":
    {"value": 90.0, "unit": "ms"}, "inter_chunk_latency": {"value": [15.0, 25.0], "unit": "ms"}, "output_sequence_length":
    {"value": 9}, "usage_completion_tokens": {"value": 5}, "input_sequence_length": {"value": 4}, "usage_prompt_tokens": {"value": 2}}}"#;

#[test]
fn aiperf_records_take_the_servers_count() {
    let line = AIPERF_LINE.replace('\n', " ");
    let warm_up = line.replace("profiling", "warmup");
    let (file, rows) = numbers(&format!("{line}\n{warm_up}\n{line}\n"));
    assert_eq!((file.tool, file.cells[0].rows.len()), ("aiperf", 2));
    assert!(close(find(&rows, "recomputed", "ttft.first_content.from_due").mean, 52.0));
    assert!(close(find(&rows, "recomputed", "tpot.request_mean").mean, 10.0), "40 ms over 5 - 1");
    assert!(close(find(&rows, "recomputed", "itl.per_chunk").mean, 20.0));
    assert!(
        file.notes
            .iter()
            .any(|note| note.contains("in 2 of 2 records its own tokenizer disagrees"))
    );
    let without = line.replace("usage_completion_tokens", "other");
    let (_, rows) = numbers(&format!("{without}\n"));
    assert!(close(find(&rows, "recomputed", "itl.request_mean").mean, 5.0), "40 ms over 9 - 1");
    assert!(lacks(&rows, "tpot.request_mean") && lacks(&rows, "length.output.server_count"));
}

#[test]
fn aiperf_statistics_say_whose_tokens_they_hold() {
    let text = |usage: f64| {
        format!(
            r#"{{"aiperf_version": "0.13.0", "input_config": {{"models": {{"items": [{{"name": "m"}}]}}, "phases": [{{"concurrency": 4}}]}},
            "inter_token_latency": {{"unit": "ms", "avg": 3.0, "p50": 2.9, "count": 32}}, "output_token_throughput": {{"avg": 3981.5}},
            "output_sequence_length": {{"avg": 352.0, "count": 32}}, "usage_completion_tokens": {{"avg": {usage}, "count": 32}}}}"#
        )
    };
    let (file, rows) = numbers(&text(100.0));
    assert_eq!(file.cells[0].load, "closed-4");
    let itl = find(&rows, "reported", "itl.request_mean");
    assert_eq!((itl.n, itl.p50, itl.p90, itl.unit.as_str()), (Some(32), Some(2.9), None, "ms"));
    find(&rows, "reported", "throughput.output_tokens_per_s.whole_run.peer_count");
    assert!(
        file.notes.iter().any(|note| note.contains("off by a factor of 3.52")),
        "{:?}",
        file.notes
    );
    let (_, rows) = numbers(&text(352.0));
    find(&rows, "reported", "throughput.output_tokens_per_s.whole_run");
}

#[test]
fn aiperf_records_learn_their_load_from_the_statistics() {
    let records = parse(&AIPERF_LINE.replace('\n', " ")).unwrap();
    let (_, alone) = numbers(&AIPERF_LINE.replace('\n', " "));
    assert!(lacks(&alone, "steady.share_of_run"), "of an unknown load nothing is steady");
    let statistics = r#"{"aiperf_version": "0.13.0", "input_config": {"models": {"items": [{"name": "m"}]},
        "phases": [{"concurrency": 4}]}, "request_throughput": {"avg": 1.0}}"#;
    let mut files = [records, parse(statistics).unwrap()];
    join(&mut files);
    let cell = &files[0].cells[0];
    assert_eq!(
        (cell.load.as_str(), cell.workload.as_str(), cell.concurrency),
        ("closed-4", "m", Some(4))
    );
}

#[test]
fn anything_else_is_refused_with_what_it_is() {
    let error = |text: &str| format!("{:#}", parse(text).unwrap_err());
    assert!(error(r#"{"a": 1, "b": 2}"#).contains("got an object with a, b"));
    assert!(error("[1, 2]").contains("got a list of 2") && error("[1, 2]").contains("hint:"));
    assert!(error("not json").contains("expected a JSON document"));
    let nan = error(&VLLM.replace("\"duration\": 0.2", "\"duration\": NaN"));
    assert!(nan.contains("expected a JSON document") && nan.contains("hint: Python writes `NaN`"));
    assert!(
        error(r#"{"metadata": {"guidellm_version": "1"}, "benchmarks": []}"#).contains("got none")
    );
}

#[test]
fn numbers_meet_by_definition_and_differences_are_explained() {
    let (_, theirs) = numbers(VLLM);
    let ours = |metric: &str, definition: &str, mean: f64| crate::analyse::SummaryRow {
        cell_id: "s/t/m/w/l/*".to_owned(),
        metric: metric.to_owned(),
        definition: Some(definition.to_owned()),
        unit: "ms".to_owned(),
        n: 2,
        mean,
        ci_low: None,
        ci_high: None,
        p50: Some(mean),
        p90: None,
        p95: None,
        p99: None,
        verdict: None,
    };
    let ours = [
        ours("ttft", "ttft.first_content", 40.0),
        ours("requests_per_s", "throughput.requests_per_s.whole_run", 20.0),
    ];
    let compared = against(&theirs, &ours);
    let ttft = compared.iter().find(|c| c.their_definition == "ttft.first_choices").unwrap();
    assert!(close(ttft.mean_ratio(), 1.25) && ttft.differs.unwrap().contains("role message"));
    let rate = compared.iter().find(|c| c.our_definition.starts_with("throughput")).unwrap();
    assert!(close(rate.mean_ratio(), 0.5) && rate.differs.is_none());
    assert!(
        compared.iter().all(|c| !c.their_definition.starts_with("e2e")),
        "no counterpart, no row"
    );
}

/// Numbers of real files: what we compute from the single requests is what the tool computed, where that is the same thing.
#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "a test is told by the environment where recordings lie"
)]
fn recorded_files_say_the_same_twice() {
    let Ok(shared) = std::env::var("KVBENCH_SHARED") else {
        let mut stderr = std::io::stderr();
        std::io::Write::write_all(&mut stderr, b"skipped: KVBENCH_SHARED is not set\n").unwrap();
        return;
    };
    let of = |file: &str| {
        let path = format!("{shared}/recorded/peers/{file}");
        numbers(&std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}")))
    };
    let same = |rows: &[PeerRow], id: &str| {
        let (theirs, ours) = (find(rows, "reported", id), find(rows, "recomputed", id));
        assert!(close(ours.mean, theirs.mean.unwrap()), "{id}: {theirs:?} {ours:?}");
    };
    for file in ["vllm-bench-serve_vllm.json", "vllm-bench-serve_llamacpp.json"] {
        let (read, rows) = of(file);
        for id in [
            "ttft.first_choices",
            "tpot.request_mean.choices",
            "itl.per_choices_chunk",
            "e2e.last_choices",
        ] {
            same(&rows, id);
        }
        assert_eq!(read.cells[0].rows.len(), 64);
    }
    let (llama, _) = of("vllm-bench-serve_llamacpp.json");
    let notes = llama.notes.join("\n");
    assert!(notes.contains("63 to 65") && notes.contains("waited up to 7.9 s"), "{notes}");
    let (vllm, _) = of("vllm-bench-serve_vllm.json");
    assert!(
        vllm.notes.iter().any(|n| n.contains("29 of 64 answers") && n.contains("fewest 27")),
        "{:?}",
        vllm.notes
    );
    let (rust, rows) = of("vllm-bench-rs.json");
    assert_eq!((rust.tool, rust.cells[0].load.as_str()), ("vllm-bench-rs", "closed-16"));
    assert!(close(
        find(&rows, "reported", "throughput.requests_per_s.steady_state").mean,
        14.460_624_156_215_415
    ));
    let (guidellm, rows) = of("guidellm_benchmarks.json");
    assert_eq!(guidellm.cells[0].rows.len(), 32);
    same(&rows, "ttft.first_content");
    let itl = find(&rows, "reported", "itl.request_mean.token_weighted");
    // All answers are of one length, so weighting changes nothing.
    assert!(close(find(&rows, "recomputed", "tpot.request_mean").mean, itl.mean.unwrap()));
    let (_, statistics) = of("aiperf_profile_export_aiperf.json");
    let (_, records) = of("aiperf_profile_export.jsonl");
    for id in ["ttft.first_content", "e2e.last_content", "itl.per_chunk"] {
        let (theirs, ours) = (find(&statistics, "reported", id), find(&records, "recomputed", id));
        assert!(close(ours.mean, theirs.mean.unwrap()), "{id}: {theirs:?} {ours:?}");
    }
    let tpot = find(&records, "recomputed", "tpot.request_mean").mean.unwrap();
    assert!(tpot > 3.5 * 3.04 * 0.9, "usage says 100 tokens and not 352: {tpot}");
}
